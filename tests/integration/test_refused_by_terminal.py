"""What tmkpos must refuse. Each time: exit 1, one line that says why, no TMK (or the one before,
untouched), and no confirmation at the server."""

import os
import random

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import certificates
import crypto
import false_server
import harness
import wire

SN = "POS-1"
SEED = int(os.environ.get("TMKD_SEED", random.SystemRandom().randrange(2**32)))


@pytest.fixture
def authority():
    return certificates.Authority()


@pytest.fixture
def root_path(authority, tmp_path):
    path = tmp_path / "root.pem"
    path.write_bytes(authority.pem)
    return path


@pytest.fixture
def terminal(make_terminal, keys):
    return make_terminal().init(SN, keys(0))


@pytest.fixture
def steps(authority, keys):
    """An honest server for `terminal`, known to `root_path`."""
    prks = keys(9)
    return false_server.Steps(prks, [authority.issue(prks.public_key())], keys(0).public_key())


def tmk_of(terminal):
    return terminal.show().get("tmk")


def run_against(steps, terminal, root):
    with false_server.Listener(steps.serve) as listener:
        result = terminal.download(listener.address, root)
    return result, listener.results


def assert_refuses(steps, terminal, root):
    before = tmk_of(terminal)
    result, results = run_against(steps, terminal, root)
    line = harness.assert_refused(result)
    assert True not in results
    assert tmk_of(terminal) == before
    return line


def test_honest_is_not_refused(steps, terminal, root_path):
    """Without this, every refusal below could be for another reason."""
    result, results = run_against(steps, terminal, root_path)
    assert result.returncode == 0, result.stderr
    assert results == [True]
    tmk = tmk_of(terminal)
    assert (tmk["type"], tmk["version"], tmk["kcv"]) == ("aes128", 1, steps.kcv.hex())


def test_chain_of_two_is_not_refused(steps, authority, terminal, root_path):
    below = certificates.Authority("Test KSR 2", authority)
    steps.chain = [below.issue(steps.prks.public_key()), below.certificate]
    result, _ = run_against(steps, terminal, root_path)
    assert result.returncode == 0, result.stderr


# --- KSWCRT


@pytest.mark.parametrize(
    "issued",
    [
        dict(days=(-9, -1)),
        dict(days=(1, 9)),
        dict(purpose=None),
        dict(purpose=certificates.KEY_PURPOSE_SERVER_AUTH),
        dict(usage=None),
        dict(usage="key_encipherment"),
    ],
    ids=["expired", "not yet valid", "no purpose", "other purpose", "no usage", "other usage"],
)
def test_kswcrt_not_fit(steps, authority, terminal, root_path, issued):
    steps.chain = [authority.issue(steps.prks.public_key(), **issued)]
    assert_refuses(steps, terminal, root_path)


def test_kswcrt_from_another_root(steps, terminal, root_path):
    other = certificates.Authority()
    steps.chain = [other.issue(steps.prks.public_key())]
    assert_refuses(steps, terminal, root_path)
    steps.chain.append(other.certificate)
    assert_refuses(steps, terminal, root_path)


def test_kswcrt_from_another_root_with_tmkd(server, terminal, keys, root_path):
    server.import_keys({SN: keys(0)})
    before = tmk_of(terminal)
    harness.assert_refused(terminal.download(server.address, root_path))
    assert tmk_of(terminal) == before
    assert server.tmk_status(SN) == "ready"


def test_kswcrt_issued_by_a_kswcrt(steps, authority, terminal, root_path, keys):
    """Somebody with a good KSWCRT is no authority."""
    holder = certificates.Authority()
    holder.certificate = authority.issue(holder.key.public_key())
    steps.chain = [holder.issue(steps.prks.public_key()), holder.certificate]
    assert_refuses(steps, terminal, root_path)


def test_expired_intermediate(steps, authority, terminal, root_path):
    below = certificates.Authority("Test KSR 2", authority, days=(-9, -1))
    steps.chain = [below.issue(steps.prks.public_key()), below.certificate]
    assert_refuses(steps, terminal, root_path)


# --- C1


def test_c1_by_another_key(steps, terminal, root_path, keys):
    steps.signer = keys(8)
    assert_refuses(steps, terminal, root_path)


def test_c1_of_an_older_handshake(server, terminal, keys):
    server.import_keys({SN: keys(0)})
    before = tmk_of(terminal)
    old = []

    def record(name, message):
        if name == "challenge":
            old.append(message)
        return message if name != "delivery" else wire.encode("failure", code="rejected")

    def replay_c1(name, message):
        if name != "challenge":
            return message
        tbs, c1 = (wire.decode(m)[1][part] for m, part in ((message, "tbs"), (old[0], "c1")))
        return wire.encode("challenge", tbs=tbs, c1=c1)

    def replay_challenge(name, message):
        return old[0] if name == "challenge" else message

    for rewrite in (record, replay_c1, replay_challenge):
        with false_server.Middle(server.address, rewrite) as middle:
            harness.assert_refused(terminal.download(middle.address, server.root_path))
        assert ("proof" in middle.results[0]) == (rewrite is record)
        assert tmk_of(terminal) == before
    assert server.tmk_status(SN) == "delivered"


def test_c1_over_another_hello(server, terminal, keys):
    """A challenge made for one Rnd1 is no proof to a terminal that sent another."""
    server.import_keys({SN: keys(0)})

    def other_rnd1(name, message):
        if name == "hello":
            return wire.encode("hello", version=1, sn=SN, rnd1=os.urandom(32))
        return message

    with false_server.Middle(server.address, other_rnd1) as middle:
        harness.assert_refused(terminal.download(middle.address, server.root_path))
    assert server.tmk_status(SN) == "ready"


# --- Delivery


def places_to_change(size):
    """The boundaries of each field and 40 places in between."""
    ends = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 263, 264]
    ends += [size - i for i in range(1, 32)]
    return sorted({*ends, *random.Random(SEED).sample(range(size), 40)})


def test_a_changed_byte_of_delivery(server, terminal, keys):
    server.import_keys({SN: keys(0)})
    before = tmk_of(terminal)
    print(f"TMKD_SEED={SEED}")
    place = None

    def change(name, message):
        if name != "delivery":
            return message
        changed = bytearray(message)
        changed[place] ^= 1 << random.Random(SEED + place).randrange(8)
        return bytes(changed)

    size = 4 + 4 + 4 + 256 + 15 + 15  # RSA-2048, SHA-1, AES: as the vectors have it
    for place in places_to_change(size):
        with false_server.Middle(server.address, change) as middle:
            result = terminal.download(middle.address, server.root_path)
        assert "confirm" not in middle.results[0], place
        harness.assert_refused(result)
    assert tmk_of(terminal) == before
    assert server.tmk_status(SN) == "delivered"
    assert terminal.download(server.address, server.root_path).returncode == 0


def test_a_tmk_of_somebody_else(server, terminal, keys):
    """The key swapper knows TKP_Pu, which is public, and wraps a TMK of his own under it."""
    server.import_keys({SN: keys(0)})
    before = tmk_of(terminal)
    swapped = false_server.Steps(None, [], keys(0).public_key())

    def swap(name, message):
        return swapped.make_delivery() if name == "delivery" else message

    def swap_and_sign_for_it(name, message):
        """The digest as well; C1 is then not over it."""
        if name == "delivery":
            return wire.encode_value("delivery", swapped.delivery)
        if name != "challenge":
            return message
        swapped.make_delivery()
        challenge = wire.decode(message)[1]
        challenge["tbs"]["deliveryDigest"] = crypto.sha256(swapped.delivery.dump())
        return wire.encode_value("challenge", challenge)

    for rewrite in (swap, swap_and_sign_for_it):
        with false_server.Middle(server.address, rewrite) as middle:
            harness.assert_refused(terminal.download(middle.address, server.root_path))
        assert "confirm" not in middle.results[0]
        assert tmk_of(terminal) == before
    assert server.tmk_status(SN) == "delivered"


def test_a_kcv_that_differs(steps, terminal, root_path):
    steps.kcv = bytes([steps.kcv[0] ^ 1]) + steps.kcv[1:]
    assert_refuses(steps, terminal, root_path)


def test_a_kcv_by_encryption_of_zeros(steps, terminal, root_path):
    """What a token's CKA_CHECK_VALUE has for AES is not ANSI X9.24-1."""
    encryptor = Cipher(algorithms.AES(steps.tmk), modes.ECB()).encryptor()
    steps.kcv = encryptor.update(bytes(16))[:5]
    assert_refuses(steps, terminal, root_path)


@pytest.mark.parametrize("size", [3, 4])
def test_a_short_kcv(steps, terminal, root_path, size):
    steps.kcv = steps.kcv[:size]
    assert_refuses(steps, terminal, root_path)


def test_a_tmk_of_another_type(steps, terminal, root_path):
    steps.kind = "des2"  # 16 bytes, as aes128, and its KCV
    assert_refuses(steps, terminal, root_path)


def test_a_transport_the_token_cannot_open(steps, terminal, root_path):
    """SoftHSM 2.6.1 knows OAEP with SHA-1 only."""
    steps.digest = "sha256"
    assert_refuses(steps, terminal, root_path)


def test_a_ctmk_for_another_terminal(steps, terminal, root_path, keys):
    steps.tkp_pu = keys(1).public_key()
    steps.proof_holds = lambda message: True
    assert_refuses(steps, terminal, root_path)


def test_the_tmk_before_stays(steps, terminal, root_path):
    result, _ = run_against(steps, terminal, root_path)
    assert result.returncode == 0, result.stderr
    kept = tmk_of(terminal)
    assert kept["kcv"] == steps.kcv.hex()
    steps.version, steps.tmk = 2, os.urandom(16)
    assert_refuses(steps, terminal, root_path)  # the KCV is still that of the first
    assert tmk_of(terminal) == kept


# --- the order of messages, and failures


def test_a_failure_is_told(steps, terminal, root_path):
    steps.proof_holds = lambda message: False
    assert "rejected" in assert_refuses(steps, terminal, root_path)


@pytest.mark.parametrize("name", ["hello", "proof", "delivery", "confirm", "done"])
def test_another_message_for_challenge(steps, terminal, root_path, name):
    steps.make_delivery()
    messages = {
        "hello": lambda: wire.encode("hello", version=1, sn=SN, rnd1=bytes(32)),
        "proof": lambda: wire.encode("proof", c2=bytes(256)),
        "delivery": steps.make_delivery,
        "confirm": lambda: wire.encode("confirm", mac=bytes(16)),
        "done": lambda: wire.encode("done", version=1),
    }
    steps.challenge = messages[name]
    steps.proof_holds = lambda message: False
    assert_refuses(steps, terminal, root_path)


def test_server_that_closes(steps, terminal, root_path):
    def leave(link):
        link.receive()

    steps.serve = leave
    assert_refuses(steps, terminal, root_path)


def test_no_server(terminal, root_path):
    with false_server.Listener(lambda link: None) as listener:
        address = listener.address
    harness.assert_refused(terminal.download(address, root_path))
