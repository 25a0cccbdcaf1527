"""What tmkd must refuse. After each, it still serves an honest terminal, and has said nothing that
tells one reason from another."""

import contextlib
import os
import time

import pytest

import harness
import pos
import wire

HANDSHAKE_SECONDS = 5


@pytest.fixture(scope="module")
def house(programs, keys):
    """One server with an honest terminal that may download any number of times."""
    server = harness.Server(programs)
    server.configure("tmk", redelivery="always")
    server.configure("limits", handshake_seconds=HANDSHAKE_SECONDS)
    try:
        server.start()
        server.honest = server.enrol("HONEST", keys(0))
        yield server
    finally:
        server.remove()


@pytest.fixture(autouse=True)
def still_serves(house):
    yield
    house.honest.tmk = None
    house.download(house.honest)
    assert house.honest.tmk


def terminal_like(house, sn=None, key=None):
    return pos.Terminal(sn or house.honest.sn, key or house.honest.tkp_pr, house.root)


def ends(link):
    """The Failure with which the server ends the connection."""
    der = link.receive()
    name, _ = wire.decode(der)
    assert name == "failure"
    assert link.is_closed()
    return der


def code(der):
    return wire.decode(der)[1]["code"].native


def after_challenge(link, terminal, rnd1=None):
    link.send(terminal.hello(rnd1))
    challenge = link.receive()
    terminal.take_challenge(challenge)
    return challenge


def answer_to(house, terminal, proof=None):
    """(challenge, failure) of a handshake whose proof is the honest one, or `proof`."""
    with wire.Link.connect(house.address) as link:
        challenge = after_challenge(link, terminal)
        link.send(proof or terminal.proof())
        return challenge, ends(link)


def flipped(data):
    return bytes([data[0], data[1] ^ 1]) + data[2:]


# --- C2'


def test_wrong_c2(house):
    terminal = terminal_like(house)
    with wire.Link.connect(house.address) as link:
        after_challenge(link, terminal)
        _, proof = wire.decode(terminal.proof())
        link.send(wire.encode("proof", c2=flipped(proof["c2"].native)))
        assert code(ends(link)) == "rejected"


def test_c2_of_another_terminal(house, keys):
    """Whoever does not know TKP_Pu of that SN gets nothing."""
    _, failure = answer_to(house, terminal_like(house, key=keys(1)))
    assert code(failure) == "rejected"


def test_c2_of_an_older_handshake(house):
    old = terminal_like(house)
    with wire.Link.connect(house.address) as link:
        after_challenge(link, old, bytes(32))
        proof = old.proof()
    with wire.Link.connect(house.address) as link:
        after_challenge(link, terminal_like(house), bytes(32))  # even with the same Rnd1
        link.send(proof)
        assert code(ends(link)) == "rejected"


def test_c2_of_a_parallel_handshake(house):
    """Two handshakes of one terminal at once are two handshakes."""
    one, two = terminal_like(house), terminal_like(house)
    with wire.Link.connect(house.address) as first, wire.Link.connect(house.address) as second:
        after_challenge(first, one)
        after_challenge(second, two)
        first.send(two.proof())
        assert code(ends(first)) == "rejected"
        second.send(two.proof())
        two.take_delivery(second.receive())
        assert two.tmk


# --- who it is


def test_rejections_look_alike(make_server, keys):
    """Unknown, disabled, confirmed, without a TMK, or a wrong C2': the same bytes at the same
    step, after challenges of the same form."""
    server = make_server()
    confirmed = server.enrol("LIKE-1", keys(0))
    disabled = server.enrol("LIKE-2", keys(1))
    wrong = server.enrol("LIKE-3", keys(2))
    without = server.enrol("LIKE-4", keys(3), "none")
    unknown = pos.Terminal("LIKE-5", keys(4), server.root)
    server.download(confirmed)
    server.ctl_ok("terminal", "disable", "LIKE-2")

    answers = [answer_to(server, who) for who in (confirmed, disabled, without, unknown)]
    answers.append(answer_to(server, wrong, wire.encode("proof", c2=os.urandom(256))))
    assert len({failure for _, failure in answers}) == 1
    assert code(answers[0][1]) == "rejected"
    assert len({form_of(challenge) for challenge, _ in answers}) == 1

    server.ctl_ok("terminal", "enable", "LIKE-2")
    assert server.download(disabled).tmk


def form_of(challenge):
    """All of a challenge that is not fresh each time."""
    _, value = wire.decode(challenge)
    return len(challenge), len(value["c1"].native), value["tbs"]["kswcrt"].dump()


@pytest.mark.parametrize("size", [0, 1, 32, 255, 256, 257, 384, 512, 513, 4000])
def test_any_length_of_c2_looks_alike(house, size):
    """Not even the length of TKP_Pu tells which SNs exist."""
    proof = wire.encode("proof", c2=b"\x5a" * size)
    _, known = answer_to(house, terminal_like(house), proof)
    _, unknown = answer_to(house, terminal_like(house, sn="NOBODY"), proof)
    assert known == unknown


def test_a_decoy_looks_the_same_each_time_and_is_not(house, keys):
    """Asking twice about an unknown SN shows nothing that a known one does not show."""
    seen = [answer_to(house, terminal_like(house, sn="NOBODY", key=keys(1)))[0] for _ in range(2)]
    values = [wire.decode(challenge)[1]["tbs"] for challenge in seen]
    assert values[0]["rnd2"].native != values[1]["rnd2"].native
    assert values[0]["deliveryDigest"].native != values[1]["deliveryDigest"].native
    assert form_of(seen[0]) == form_of(seen[1])


# --- the order of messages


def done_downloading(link, terminal):
    after_challenge(link, terminal)
    link.send(terminal.proof())
    terminal.take_delivery(link.receive())


def send_proof_first(link, terminal):
    link.send(wire.encode("proof", c2=bytes(256)))


def send_confirm_first(link, terminal):
    link.send(wire.encode("confirm", mac=bytes(16)))


def send_confirm_after_hello(link, terminal):
    after_challenge(link, terminal)
    link.send(wire.encode("confirm", mac=bytes(16)))


def send_second_hello(link, terminal):
    after_challenge(link, terminal)
    link.send(terminal.hello())


def send_hello_after_delivery(link, terminal):
    done_downloading(link, terminal)
    link.send(terminal.hello())


def send_second_proof(link, terminal):
    done_downloading(link, terminal)
    link.send(terminal.proof())


def send_what_servers_send(link, terminal):
    link.send(wire.encode("done", version=1))


@pytest.mark.parametrize(
    "send",
    [
        send_proof_first,
        send_confirm_first,
        send_confirm_after_hello,
        send_second_hello,
        send_hello_after_delivery,
        send_second_proof,
        send_what_servers_send,
    ],
)
def test_out_of_order(house, send):
    with wire.Link.connect(house.address) as link:
        send(link, terminal_like(house))
        assert code(ends(link)) == "malformed"


def test_two_hellos_in_one_packet(house):
    """Nothing is answered for the second, whichever way the bytes arrive."""
    terminal = terminal_like(house)
    with wire.Link.connect(house.address) as link:
        hello = wire.frame(terminal.hello())
        link.send_bytes(hello + hello)
        names = []
        while not names or names[-1] == "challenge":
            names.append(wire.decode(link.receive())[0])
        assert names.count("challenge") <= 1
        assert names[-1] == "failure"
        assert link.is_closed()


def test_terminal_that_fails_itself(house):
    """A Failure from the terminal ends the connection, at any step."""
    with wire.Link.connect(house.address) as link:
        after_challenge(link, terminal_like(house))
        link.send(wire.encode("failure", code="internal"))
        with contextlib.suppress(wire.Closed):
            assert wire.decode(link.receive())[0] == "failure"
        assert link.is_closed()


# --- bytes


def tlv(tag, content, length=None):
    """DER, or not quite, when a length encoding is given."""
    if length is None:
        size = len(content)
        length = bytes([size]) if size < 128 else bytes([0x82, size >> 8, size & 255])
    return bytes([tag]) + length + content


def hello_with(version=b"\x02\x01\x01", sn=b"\x0c\x06HONEST", rnd1=b"\x04\x20" + bytes(32)):
    return tlv(0xA0, tlv(0x30, version + sn + rnd1))


HELLO = hello_with()
NOT_DER = {
    "trailing byte": HELLO + b"\x00",
    "trailing byte inside": tlv(0xA0, HELLO[2:] + b"\x00"),
    "trailing element": tlv(0xA0, tlv(0x30, HELLO[4:] + b"\x05\x00")),
    "last byte missing": HELLO[:-1],
    "outer length too long": tlv(0xA0, HELLO[2:], b"\x81" + bytes([len(HELLO) - 2])),
    "inner length too long": tlv(0xA0, tlv(0x30, HELLO[4:], b"\x81" + bytes([len(HELLO) - 4]))),
    "octets length too long": hello_with(rnd1=b"\x04\x81\x20" + bytes(32)),
    "length of four octets": hello_with(rnd1=b"\x04\x84\x00\x00\x00\x20" + bytes(32)),
    "indefinite outside": b"\xa0\x80" + HELLO[2:] + b"\x00\x00",
    "indefinite inside": tlv(0xA0, b"\x30\x80" + HELLO[4:] + b"\x00\x00"),
    "octets in parts": hello_with(rnd1=b"\x24\x24\x04\x10" + bytes(16) + b"\x04\x10" + bytes(16)),
    "version not minimal": hello_with(version=b"\x02\x02\x00\x01"),
    "version empty": hello_with(version=b"\x02\x00"),
    "version missing": hello_with(version=b""),
    "rnd1 of 31": hello_with(rnd1=b"\x04\x1f" + bytes(31)),
    "rnd1 of 33": hello_with(rnd1=b"\x04\x21" + bytes(33)),
    "sn empty": hello_with(sn=b"\x0c\x00"),
    "sn of 65": hello_with(sn=b"\x0c\x41" + b"A" * 65),
    "sn with a blank": hello_with(sn=b"\x0c\x03A B"),
    "sn with a zero": hello_with(sn=b"\x0c\x07HONEST\x00"),
    "sn with DEL": hello_with(sn=b"\x0c\x02A\x7f"),
    "sn not UTF-8": hello_with(sn=b"\x0c\x02A\xff"),
    "sn with a two-byte letter": hello_with(sn=b"\x0c\x03A\xc3\xa9"),
    "sn as PrintableString": hello_with(sn=b"\x13\x06HONEST"),
    "implicit tag": tlv(0xA0, HELLO[4:]),
    "unknown tag": b"\xa7" + HELLO[1:],
    "no tag": HELLO[2:],
    "only a tag": b"\xa0",
    "zeros": bytes(64),
    "ones": b"\xff" * 64,
    "largest frame": b"\xa0" * 8192,
}


@pytest.mark.parametrize("name", NOT_DER)
def test_hello_that_is_not_der(house, name):
    with wire.Link.connect(house.address) as link:
        link.send(NOT_DER[name])
        assert code(ends(link)) == "malformed"


def test_that_hello_is_good(house):
    """Else the test above would pass for the wrong reason."""
    with wire.Link.connect(house.address) as link:
        link.send(HELLO)
        assert wire.decode(link.receive())[0] == "challenge"


@pytest.mark.parametrize("version", [0, 2, 127, 128, 2**31 - 1])
def test_another_version(house, version):
    number = version.to_bytes(version.bit_length() // 8 + 1, "big")
    with wire.Link.connect(house.address) as link:
        link.send(hello_with(version=tlv(2, number)))
        assert code(ends(link)) == "unsupportedVersion"


@pytest.mark.parametrize("name", ["proof", "confirm"])
def test_later_messages_that_are_not_der(house, name):
    terminal = terminal_like(house)
    with wire.Link.connect(house.address) as link:
        if name == "proof":
            after_challenge(link, terminal)
            link.send(terminal.proof() + b"\x00")
        else:
            done_downloading(link, terminal)
            link.send(terminal.confirm() + b"\x00")
        assert code(ends(link)) == "malformed"


@pytest.mark.parametrize("size", [0, 8193, 65535])
def test_frame_size(house, size):
    with wire.Link.connect(house.address) as link:
        link.send_bytes(size.to_bytes(2, "big"))
        assert code(ends(link)) == "malformed"


def test_bytes_one_by_one(house):
    """An honest terminal on a slow line is served all the same."""
    terminal = terminal_like(house)
    with wire.Link.connect(house.address) as link:
        for byte in wire.frame(terminal.hello()):
            link.send_bytes(bytes([byte]))
        terminal.take_challenge(link.receive())


def seconds_until_closed(link, send):
    start = time.monotonic()
    while time.monotonic() - start < 4 * HANDSHAKE_SECONDS:
        try:
            send()
            link.sock.settimeout(0.25)
            if link.sock.recv(64) == b"":
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - start


SILENCES = {
    "nothing": b"",
    "half a header": b"\x00",
    "half a frame": wire.frame(HELLO)[:20],
}


@pytest.mark.parametrize("name", SILENCES)
def test_silence(house, name):
    with wire.Link.connect(house.address) as link:
        link.send_bytes(SILENCES[name])
        seconds = seconds_until_closed(link, lambda: None)
    assert HANDSHAKE_SECONDS - 1 < seconds < 2 * HANDSHAKE_SECONDS


def test_deadline_is_absolute(house):
    """A byte now and then does not keep a connection."""
    frame = iter(wire.frame(wire.encode("proof", c2=bytes(4000))))
    with wire.Link.connect(house.address) as link:
        seconds = seconds_until_closed(link, lambda: link.send_bytes(bytes([next(frame)])))
    assert HANDSHAKE_SECONDS - 1 < seconds < 2 * HANDSHAKE_SECONDS


def test_silence_after_the_challenge(house):
    with wire.Link.connect(house.address) as link:
        after_challenge(link, terminal_like(house))
        seconds = seconds_until_closed(link, lambda: None)
    assert seconds < 2 * HANDSHAKE_SECONDS


# --- confirm


def test_wrong_mac(server, keys):
    terminal = server.enrol("MAC-1", keys(0))
    for mac in (bytes(16), bytes(8), None):
        with wire.Link.connect(server.address) as link:
            done_downloading(link, terminal)
            _, confirm = wire.decode(terminal.confirm())
            link.send(wire.encode("confirm", mac=mac or flipped(confirm["mac"].native)))
            assert code(ends(link)) == "rejected"
        assert server.tmk_status("MAC-1") == "delivered"
    assert not server.audit(event="confirmed")
    server.download(terminal)
    assert server.tmk_status("MAC-1") == "confirmed"


def test_mac_of_an_older_handshake(server, keys):
    terminal = server.enrol("MAC-1", keys(0))
    with wire.Link.connect(server.address) as link:
        done_downloading(link, terminal)
        old = terminal.confirm()
    with wire.Link.connect(server.address) as link:
        done_downloading(link, terminal)
        link.send(old)
        assert code(ends(link)) == "rejected"
    assert server.tmk_status("MAC-1") == "delivered"


@pytest.mark.parametrize("size", [7, 17])
def test_mac_of_another_length(house, size):
    with wire.Link.connect(house.address) as link:
        done_downloading(link, terminal_like(house))
        link.send(wire.encode("confirm", mac=bytes(size)))
        assert code(ends(link)) == "malformed"
