"""Downloads that succeed: both terminals, every kind of PrKS, TKP, TMK and TMK store."""

import pytest

import crypto
import pos
import wire

PRKS_KINDS = ["rsa:2048", "rsa:3072", "rsa:4096", "ec:p256"]
STORES = ["token", "wrapped"]


def assert_same_tmk(server, sn, kind, version, kcv):
    """The server records as confirmed exactly what the terminal holds."""
    tmk = server.show(sn)["tmk"]
    assert (tmk["type"], tmk["version"], tmk["kcv"]) == (kind, version, kcv)
    assert tmk["status"] == "confirmed"


def enrol_tmkpos(server, terminal, sn, tmk="aes128", key=None):
    """From the factory to the server: tmkpos init, export, tmkctl import."""
    terminal.init(sn, key)
    exported = terminal.dir.parent / "export.csv"
    exported.write_text(terminal.ok("export"))
    server.ctl_ok("terminal", "import", exported, "--tmk", tmk)


def assert_tmkpos_downloads(server, terminal, sn, kind):
    result = terminal.download(server.address, server.root_path)
    assert result.returncode == 0, result.stderr
    tmk = terminal.show()["tmk"]
    assert tmk["type"] == kind
    assert_same_tmk(server, sn, kind, tmk["version"], tmk["kcv"])


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("prks", PRKS_KINDS)
def test_tmkpos_with_every_prks(make_server, make_terminal, prks, store):
    server = make_server(prks=prks, tmk_store=store)
    terminal = make_terminal()
    enrol_tmkpos(server, terminal, "POS-1")
    assert_tmkpos_downloads(server, terminal, "POS-1", "aes128")


@pytest.mark.parametrize("store", STORES)
def test_tmkpos_with_every_tmk_type(make_server, make_terminal, keys, store):
    server = make_server(tmk_store=store)
    for i, kind in enumerate(crypto.KEY_SIZES):
        terminal = make_terminal()
        enrol_tmkpos(server, terminal, f"POS-{kind}", kind, keys(i))
        assert_tmkpos_downloads(server, terminal, f"POS-{kind}", kind)


@pytest.mark.parametrize("bits", [3072, 4096])
def test_tmkpos_with_larger_tkp(shared_server, make_terminal, keys, bits):
    terminal = make_terminal()
    enrol_tmkpos(shared_server, terminal, f"POS-{bits}", "aes256", keys(0, bits))
    assert_tmkpos_downloads(shared_server, terminal, f"POS-{bits}", "aes256")
    assert terminal.show()["public_key"]["bits"] == bits


@pytest.mark.parametrize(
    "prks, store",
    [("rsa:2048", "wrapped"), ("rsa:3072", "token"), ("rsa:4096", "wrapped"), ("ec:p256", "token")],
)
def test_independent_terminal(make_server, keys, prks, store):
    """Every TMK type with TKP 2048, and both larger TKPs, from a server of each PrKS kind."""
    server = make_server(prks=prks, tmk_store=store)
    cases = [(2048, kind) for kind in crypto.KEY_SIZES] + [(3072, "aes256"), (4096, "des2")]
    for i, (bits, kind) in enumerate(cases):
        sn = f"PY-{bits}-{kind}"
        terminal = server.enrol(sn, keys(i if bits == 2048 else 0, bits), kind)
        server.download(terminal)
        assert terminal.kind == kind
        assert_same_tmk(server, sn, kind, terminal.version, terminal.kcv)


def test_status_follows_the_download(server, keys):
    terminal = server.enrol("S-1", keys(0))
    assert server.tmk_status("S-1") == "ready"
    with wire.Link.connect(server.address) as link:
        link.send(terminal.hello())
        terminal.take_challenge(link.receive())
        assert server.tmk_status("S-1") == "ready"
        link.send(terminal.proof())
        terminal.take_delivery(link.receive())
        assert server.tmk_status("S-1") == "delivered"
        link.send(terminal.confirm())
        terminal.take_done(link.receive())
        assert server.tmk_status("S-1") == "confirmed"


def test_once_confirmed_only_after_reopen(server, keys):
    terminal = server.enrol("S-1", keys(0))
    first = server.download(terminal).tmk
    with pytest.raises(pos.Failed) as failed:
        server.download(terminal)
    assert failed.value.code == "rejected"
    assert server.tmk_status("S-1") == "confirmed"
    server.ctl_ok("terminal", "reopen", "S-1")
    assert server.tmk_status("S-1") != "confirmed"
    assert server.download(terminal).tmk == first
    assert server.tmk_status("S-1") == "confirmed"


def test_until_confirmed_the_same_again(server, keys):
    terminal = server.enrol("S-1", keys(0))
    seen = set()
    for _ in range(3):
        with wire.Link.connect(server.address) as link:
            link.send(terminal.hello())
            terminal.take_challenge(link.receive())
            link.send(terminal.proof())
            terminal.take_delivery(link.receive())
            seen.add((terminal.tmk, terminal.version))
    assert len(seen) == 1
    assert server.tmk_status("S-1") == "delivered"
    server.download(terminal)
    assert (terminal.tmk, terminal.version) in seen
    assert server.tmk_status("S-1") == "confirmed"


def test_redelivery_always(make_server, keys):
    server = make_server(start=False)
    server.configure("tmk", redelivery="always")
    server.start()
    terminal = server.enrol("S-1", keys(0))
    assert server.download(terminal).tmk == server.download(terminal).tmk


def test_a_restart_changes_nothing(make_server, keys):
    for store in STORES:
        server = make_server(tmk_store=store)
        confirmed = server.enrol("S-1", keys(0))
        waiting = server.enrol("S-2", keys(1))
        server.download(confirmed)
        kcv = server.show("S-2")["tmk"]["kcv"]
        server.stop()
        server.start()
        with pytest.raises(pos.Failed):
            server.download(confirmed)
        assert server.download(waiting).kcv == kcv


def test_each_terminal_has_its_own_tmk(server, keys):
    terminals = [server.enrol(f"S-{i}", keys(i)) for i in range(4)]
    assert len({server.download(terminal).tmk for terminal in terminals}) == 4
