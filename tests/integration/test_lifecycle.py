"""Rotating a terminal's TMK and removing a terminal, with both TMK stores, by a tmkctl beside the
tmkd that serves and by one with a private keeper."""

import contextlib
import os
import sqlite3

import pytest

import harness
import pos
import wire

SN = "L-1"
PLACES = ["beside", "stopped"]


class House:
    """A server and its operator, who may stop tmkd for what he does."""

    def __init__(self, server, place):
        self.server = server
        self.is_stopped_for_changes = place == "stopped"

    def ctl(self, *arguments):
        if not self.is_stopped_for_changes:
            return self.server.ctl(*arguments)
        self.server.stop()
        try:
            return self.server.ctl(*arguments)
        finally:
            self.server.start()

    def ok(self, *arguments):
        result = self.ctl(*arguments)
        assert result.returncode == 0, (arguments, result.stdout, result.stderr)
        return result.stdout

    def rotate(self, *options, sn=SN):
        """What the terminal's TMK is said to be afterwards, and is."""
        before = self.server.show(sn)
        self.ok("tmk", "rotate", sn, *options)
        after = self.server.show(sn)
        assert (after["sn"], after["state"], after["public_key"]) == (
            before["sn"],
            before["state"],
            before["public_key"],
        )
        assert after["tmk"]["status"] == "ready"
        return after["tmk"]

    def remove(self, sn=SN):
        self.ok("terminal", "remove", sn)


def edit(server, statement, *values):
    """What the sqlite3 shell does."""
    with contextlib.closing(sqlite3.connect(server.dir / "registry.db", timeout=20)) as registry:
        assert registry.execute(statement, values).rowcount
        registry.commit()


def kept(server, sn=SN):
    """The versions of the TMK that the registry has."""
    with contextlib.closing(sqlite3.connect(server.dir / "registry.db", timeout=20)) as registry:
        found = registry.execute("SELECT version FROM tmk WHERE sn = ? ORDER BY version", (sn,))
        return [version for (version,) in found]


def objects(server):
    """How many objects the token has."""
    return len(list((server.dir / "tokens").rglob("*.object")))


def until_delivery(link, terminal):
    link.send(terminal.hello())
    terminal.take_challenge(link.receive())
    link.send(terminal.proof())
    terminal.take_delivery(link.receive())


def rejection(server, terminal):
    """The bytes with which a download is rejected, after the proof."""
    with wire.Link.connect(server.address) as link:
        link.send(terminal.hello())
        terminal.take_challenge(link.receive())
        link.send(terminal.proof())
        return rejected(link)


def rejected(link):
    der = link.receive()
    name, value = wire.decode(der)
    assert name == "failure" and value["code"].native == "rejected", name
    return der


def rejection_of_unknown(server, key):
    return rejection(server, pos.Terminal("L-NOBODY", key, server.root))


@contextlib.contextmanager
def begun(server, terminal):
    """A handshake that has its challenge; afterwards its proof must be rejected."""
    with wire.Link.connect(server.address) as link:
        link.send(terminal.hello())
        terminal.take_challenge(link.receive())
        yield
        link.send(terminal.proof())
        rejected(link)


@pytest.fixture(params=["token", "wrapped"])
def server(make_server, request):
    """One whose audit log is whole to the end."""
    server = make_server(tmk_store=request.param)
    yield server
    server.ctl_ok("audit", "verify")


@pytest.fixture(params=PLACES)
def house(server, request):
    return House(server, request.param)


# --- rotate


def test_rotated_once_confirmed(house, make_terminal, keys):
    """tmkpos gets the next version; the older one lives until that is confirmed."""
    server = house.server
    terminal = make_terminal().init(SN, keys(0))
    server.import_keys({SN: keys(0)})
    number = objects(server)
    assert terminal.download(server.address, server.root_path).returncode == 0
    first = server.show(SN)["tmk"]
    harness.assert_refused(terminal.download(server.address, server.root_path))
    second = house.rotate()
    assert (second["version"], second["type"]) == (2, "aes128")
    assert second["kcv"] != first["kcv"]
    assert kept(server) == [1, 2]
    result = terminal.download(server.address, server.root_path)
    assert result.returncode == 0, result.stderr
    assert server.show(SN)["tmk"] == {**second, "status": "confirmed"}
    installed = terminal.show()["tmk"]
    assert (installed["version"], installed["kcv"]) == (2, second["kcv"])
    server.wait_for(lambda: kept(server) == [2] and objects(server) == number)
    harness.assert_refused(terminal.download(server.address, server.root_path))


def test_rotated_before_any_download(house, keys):
    server = house.server
    terminal = server.enrol(SN, keys(0))
    kcvs = [server.show(SN)["tmk"]["kcv"], house.rotate()["kcv"], house.rotate()["kcv"]]
    assert len(set(kcvs)) == 3
    server.download(terminal)
    assert (terminal.version, terminal.kcv) == (3, kcvs[2])
    assert server.tmk_status(SN) == "confirmed"
    server.wait_for(lambda: kept(server) == [3])


def test_delivered_but_not_confirmed(house, keys):
    """The new version again, as often as it takes; the older one is kept all the while."""
    server = house.server
    terminal = server.download(server.enrol(SN, keys(0)))
    second = house.rotate()
    with wire.Link.connect(server.address) as link:
        until_delivery(link, terminal)
    assert (terminal.version, terminal.kcv) == (2, second["kcv"])
    tmk = terminal.tmk
    assert server.tmk_status(SN) == "delivered"
    assert kept(server) == [1, 2]
    terminal.tmk = None
    server.download(terminal)
    assert (terminal.version, terminal.tmk) == (2, tmk)
    assert server.tmk_status(SN) == "confirmed"


def test_the_first_tmk(house, keys):
    """Of a terminal that was imported without: somebody has to say of which type."""
    server = house.server
    terminal = server.enrol(SN, keys(0), "none")
    assert "type" in harness.assert_refused(house.ctl("tmk", "rotate", SN))
    assert server.show(SN)["tmk"] == {"status": "none"}
    tmk = house.rotate("--tmk", "aes192")
    assert (tmk["version"], tmk["type"]) == (1, "aes192")
    server.download(terminal)
    assert (terminal.version, terminal.kind, terminal.kcv) == (1, "aes192", tmk["kcv"])


def test_another_type(house, keys):
    server = house.server
    terminal = server.download(server.enrol(SN, keys(0), "des3"))
    assert (terminal.version, terminal.kind) == (1, "des3")
    tmk = house.rotate("--tmk", "aes256")
    assert (tmk["version"], tmk["type"]) == (2, "aes256")
    server.download(terminal)
    assert (terminal.version, terminal.kind, terminal.kcv) == (2, "aes256", tmk["kcv"])
    assert house.rotate()["type"] == "aes256"


def test_a_disabled_terminal(house, keys):
    """Its TMK is rotated, and it stays disabled."""
    server = house.server
    terminal = server.enrol(SN, keys(0))
    server.ctl_ok("terminal", "disable", SN)
    tmk = house.rotate()
    assert rejection(server, terminal) == rejection_of_unknown(server, keys(0))
    server.ctl_ok("terminal", "enable", SN)
    server.download(terminal)
    assert (terminal.version, terminal.kcv) == (2, tmk["kcv"])


def test_rotated_during_a_handshake(server, keys):
    """What was prepared before is not delivered after."""
    terminal = server.enrol(SN, keys(0))
    with begun(server, terminal):
        server.ctl_ok("tmk", "rotate", SN)
    assert "changed meanwhile" in server.audit(event="refused", sn=SN)[-1]["detail"]
    assert not server.audit(event="delivered", sn=SN)
    assert server.tmk_status(SN) == "ready"
    assert server.download(terminal).version == 2


def test_rotated_between_delivery_and_confirmation(server, keys):
    """The older version is confirmed, and the newer is still to be delivered."""
    terminal = server.enrol(SN, keys(0))
    with wire.Link.connect(server.address) as link:
        until_delivery(link, terminal)
        server.ctl_ok("tmk", "rotate", SN)
        link.send(terminal.confirm())
        terminal.take_done(link.receive())
    assert terminal.version == 1
    assert server.show(SN)["tmk"]["version"] == 2
    assert server.tmk_status(SN) == "ready"
    assert server.download(terminal).version == 2
    assert server.tmk_status(SN) == "confirmed"


# --- remove


def test_removed(house, keys):
    """Nothing of it is left but its records."""
    server = house.server
    server.enrol("L-0", keys(1))
    terminal = server.download(server.enrol(SN, keys(0)))
    house.rotate()
    house.remove()
    assert SN in harness.assert_refused(server.ctl("terminal", "show", SN))
    assert [one["sn"] for one in server.ctl_json("terminal", "list")] == ["L-0"]
    assert kept(server) == []
    assert rejection(server, terminal) == rejection_of_unknown(server, keys(0))
    assert [one["event"] for one in server.audit(sn=SN)][-1] == "refused"
    assert server.download(pos.Terminal("L-0", keys(1), server.root)).tmk


def test_removed_means_destroyed(house, keys):
    """When tmkctl says so there is no version of the TMK in the token."""
    server = house.server
    number = objects(server)
    server.download(server.enrol(SN, keys(0)))
    house.rotate()
    house.remove()
    assert objects(server) == number


def test_removed_and_imported_again(house, keys):
    """The SN and the key are free again, for each other or not; the TMK is another."""
    server = house.server
    before = server.download(server.enrol(SN, keys(0))).tmk
    house.rotate()
    house.remove()
    again = server.download(server.enrol(SN, keys(0)))
    assert again.version == 1 and again.tmk != before
    house.remove()
    moved = server.download(server.enrol("L-2", keys(0)))
    other = server.download(server.enrol(SN, keys(1)))
    assert (moved.version, other.version) == (1, 1)
    assert len({before, again.tmk, moved.tmk, other.tmk}) == 4


def test_removed_during_a_handshake(server, keys):
    terminal = server.enrol(SN, keys(0))
    with begun(server, terminal):
        server.ctl_ok("terminal", "remove", SN)
    assert not server.audit(event="delivered", sn=SN)


def test_replaced_during_a_handshake(server, keys):
    """The terminal that was there under the SN gets nothing in the name of the one that is."""
    old = server.enrol(SN, keys(0))
    with begun(server, old):
        server.ctl_ok("terminal", "remove", SN)
        new = server.enrol(SN, keys(1))
    assert server.tmk_status(SN) == "ready"
    server.download(new)
    assert new.kcv == server.show(SN)["tmk"]["kcv"]


def test_replaced_between_delivery_and_confirmation(server, keys):
    """A confirmation by the TMK that is gone is not one of the TMK that is there."""
    old = server.enrol(SN, keys(0))
    with wire.Link.connect(server.address) as link:
        until_delivery(link, old)
        server.ctl_ok("terminal", "remove", SN)
        new = server.enrol(SN, keys(1))
        with wire.Link.connect(server.address) as another:
            until_delivery(another, new)
        link.send(old.confirm())
        assert wire.decode(link.receive())[0] == "failure"
    assert server.tmk_status(SN) == "delivered"
    assert server.download(new).kcv == server.show(SN)["tmk"]["kcv"]


# --- refused, recorded, said


@pytest.mark.parametrize("command", [("tmk", "rotate"), ("terminal", "remove")], ids=" ".join)
def test_unknown_sn(house, command):
    assert "NOBODY" in harness.assert_refused(house.ctl(*command, "NOBODY"))


EDITS = {
    "state": ("UPDATE terminal SET state = 0 WHERE sn = ?",),
    "kcv": ("UPDATE tmk SET kcv = ? WHERE sn = ?", bytes(5)),
    "damaged": ("UPDATE terminal SET spki_sha256 = ? WHERE sn = ?", bytes(32)),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_row(house, keys, name):
    """It is never sealed anew, so not rotated; getting rid of it is what an operator wants."""
    server = house.server
    terminal = server.enrol(SN, keys(0))
    number = objects(server)
    edit(server, *EDITS[name], SN)
    line = harness.assert_refused(house.ctl("tmk", "rotate", SN))
    assert SN in line and (name == "damaged" or "seal" in line)
    assert kept(server) == [1]
    assert objects(server) == number
    house.remove()
    harness.assert_refused(server.ctl("terminal", "show", SN))
    assert rejection(server, terminal) == rejection_of_unknown(server, keys(0))
    assert server.download(server.enrol(SN, keys(0))).version == 1


def test_on_record(house, keys):
    server = house.server
    server.enrol(SN, keys(0))
    house.rotate()
    house.remove()
    records = server.audit(sn=SN)
    assert [record["event"] for record in records] == ["added", "rotated", "removed"]
    for record in records:
        assert f"uid {os.getuid()}" in record["actor"]
    house.ctl("tmk", "rotate", "NOBODY")
    assert not server.audit(event="rotated", sn="NOBODY")


def test_what_is_printed(server, keys):
    server.enrol(SN, keys(0))
    assert server.ctl_json("tmk", "rotate", SN) == server.show(SN)
    text = server.ctl_ok("tmk", "rotate", SN)
    tmk = server.show(SN)["tmk"]
    lines = [line.split() for line in text.splitlines()]
    assert ["TMK", "version", "3"] in lines and ["TMK", "KCV", tmk["kcv"]] in lines
    assert server.ctl_json("terminal", "remove", SN) == {"sn": SN}
    server.enrol(SN, keys(0))
    (line,) = server.ctl_ok("terminal", "remove", SN).splitlines()
    assert line.startswith(f"{SN}: removed")


@pytest.mark.parametrize("command", [("tmk", "rotate"), ("terminal", "remove")], ids=" ".join)
def test_help(programs, command):
    text = harness.run([programs / "tmkctl", *command, "--help"]).stdout
    assert f"  tmkctl -c tmkd.conf {' '.join(command)} POS-0001\n" in text
    assert " ".join(command) in harness.run([programs / "tmkctl", "--help"]).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["tmk", "rotate"],
        ["tmk", "rotate", SN, "--tmk", "rot13"],
        ["tmk", "rotate", SN, "--tmk", "none"],
        ["tmk", "rotate", SN, "--tmk"],
        ["tmk", "rotate", SN, "L-2"],
        ["terminal", "remove"],
        ["terminal", "remove", SN, "L-2"],
        ["terminal", "remove", SN, "--tmk", "aes128"],
    ],
    ids=" ".join,
)
def test_usage_errors(programs, arguments):
    """Before any configuration is looked at."""
    result = harness.run([programs / "tmkctl", "-c", "no-such.conf", *arguments])
    assert "tmkctl" in harness.assert_refused(result, 2)
    assert not result.stdout
