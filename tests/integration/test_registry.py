"""Somebody edits the registry's file while tmkd serves: what he touched is refused, as any other
refusal looks, the audit log says why, and the rest is served."""

import contextlib
import sqlite3

import pytest

import crypto
import pos
import wire


@pytest.fixture(params=["token", "wrapped"])
def house(make_server, keys, request):
    server = make_server(tmk_store=request.param)
    server.import_keys({f"R-{i}": keys(i) for i in range(4)})
    return server


def edit(server, *statements):
    """What the sqlite3 shell does; foreign keys are off there unless one turns them on."""
    with contextlib.closing(sqlite3.connect(server.dir / "registry.db", timeout=20)) as registry:
        for statement, values in statements:
            assert registry.execute(statement, values).rowcount
        registry.commit()


def terminals(server, keys, *numbers):
    return [pos.Terminal(f"R-{i}", keys(i), server.root) for i in numbers]


def failure_of(server, terminal):
    """(name of the last message, the Failure): after the proof, or this fails."""
    with wire.Link.connect(server.address) as link:
        link.send(terminal.hello())
        terminal.take_challenge(link.receive())
        link.send(terminal.proof())
        der = link.receive()
    name, value = wire.decode(der)
    assert (name, value["code"].native) == ("failure", "rejected")
    return der


def assert_refused_for_its_seal(server, *terminals):
    unknown = pos.Terminal("R-NOBODY", terminals[0].tkp_pr, server.root)
    expected = failure_of(server, unknown)
    for terminal in terminals:
        assert failure_of(server, terminal) == expected
        why = server.audit(event="refused", sn=terminal.sn)
        assert why and "seal" in why[-1]["detail"]
        assert not server.audit(event="delivered", sn=terminal.sn)


def assert_served(server, *terminals):
    for terminal in terminals:
        assert server.download(terminal).tmk


def test_untouched(house, keys):
    assert_served(house, *terminals(house, keys, 0, 1, 2, 3))


def test_another_public_key(house, keys):
    """The thief's own key in place of the terminal's, hash and all."""
    thief = keys(7)
    spki = crypto.spki(thief.public_key())
    edit(
        house,
        (
            "UPDATE terminal SET spki = ?, spki_sha256 = ? WHERE sn = 'R-0'",
            (spki, crypto.sha256(spki)),
        ),
    )
    assert_refused_for_its_seal(house, pos.Terminal("R-0", thief, house.root))
    assert_refused_for_its_seal(house, *terminals(house, keys, 0))
    assert_served(house, *terminals(house, keys, 1, 2, 3))


def test_state_flipped(house, keys):
    house.ctl_ok("terminal", "disable", "R-0")
    edit(house, ("UPDATE terminal SET state = 1 - state WHERE sn = ?", ("R-0",)))
    assert_refused_for_its_seal(house, *terminals(house, keys, 0))
    assert_served(house, *terminals(house, keys, 1, 2, 3))


def test_keys_of_two_rows_swapped(house, keys):
    spki = [crypto.spki(keys(i).public_key()) for i in (0, 1)]
    put = "UPDATE terminal SET spki = ?, spki_sha256 = ? WHERE sn = ?"
    edit(
        house,
        (put, (b"x", bytes(32), "R-0")),  # a key may be there only once
        (put, (spki[0], crypto.sha256(spki[0]), "R-1")),
        (put, (spki[1], crypto.sha256(spki[1]), "R-0")),
    )
    swapped = [pos.Terminal("R-0", keys(1), house.root), pos.Terminal("R-1", keys(0), house.root)]
    assert_refused_for_its_seal(house, *swapped)
    assert_refused_for_its_seal(house, *terminals(house, keys, 0, 1))
    assert_served(house, *terminals(house, keys, 2, 3))


def test_whole_rows_swapped(house, keys):
    """Seals move with their rows: they are for another SN then."""
    edit(
        house,
        ("UPDATE terminal SET sn = 'x' WHERE sn = ?", ("R-0",)),
        ("UPDATE terminal SET sn = 'R-0' WHERE sn = ?", ("R-1",)),
        ("UPDATE terminal SET sn = 'R-1' WHERE sn = ?", ("x",)),
    )
    swapped = [pos.Terminal("R-0", keys(1), house.root), pos.Terminal("R-1", keys(0), house.root)]
    assert_refused_for_its_seal(house, *swapped)
    assert_served(house, *terminals(house, keys, 2, 3))


def test_a_damaged_row_is_listed(house):
    edit(house, ("UPDATE terminal SET spki_sha256 = ? WHERE sn = 'R-1'", (bytes(32),)))
    listed = house.ctl_json("terminal", "list")
    assert [terminal["sn"] for terminal in listed] == ["R-0", "R-1", "R-2", "R-3"]
    assert [terminal["state"] for terminal in listed if terminal["sn"] != "R-1"] == ["enabled"] * 3
    assert listed[1] == {"sn": "R-1", "state": "damaged"}
    assert "damaged" in house.ctl_ok("terminal", "list")
    assert "R-1" in house.ctl("terminal", "show", "R-1").stderr


def test_tmk_rows_swapped(house, keys):
    edit(
        house,
        ("UPDATE tmk SET sn = 'x' WHERE sn = ?", ("R-0",)),
        ("UPDATE tmk SET sn = 'R-0' WHERE sn = ?", ("R-1",)),
        ("UPDATE tmk SET sn = 'R-1' WHERE sn = ?", ("x",)),
    )
    assert_refused_for_its_seal(house, *terminals(house, keys, 0, 1))
    assert_served(house, *terminals(house, keys, 2, 3))


def test_tmk_kcv_changed(house, keys):
    edit(house, ("UPDATE tmk SET kcv = ? WHERE sn = 'R-0'", (bytes(5),)))
    assert_refused_for_its_seal(house, *terminals(house, keys, 0))
    assert_served(house, *terminals(house, keys, 1, 2, 3))


def test_seal_of_an_older_row(house, keys):
    """The row as it was before `disable`, seal included, is a replay: row_version is in the seal
    but nothing outside the row knows it. What a replay cannot do is give another key."""
    with contextlib.closing(sqlite3.connect(house.dir / "registry.db", timeout=20)) as registry:
        old = registry.execute("SELECT seal FROM terminal WHERE sn = 'R-0'").fetchone()
    house.ctl_ok("terminal", "disable", "R-0")
    edit(house, ("UPDATE terminal SET state = 1, seal = ? WHERE sn = 'R-0'", old))
    assert_refused_for_its_seal(house, *terminals(house, keys, 0))


def test_changed_during_a_handshake(house, keys):
    """Disabled between challenge and proof: nothing is delivered."""
    (terminal,) = terminals(house, keys, 0)
    with wire.Link.connect(house.address) as link:
        link.send(terminal.hello())
        terminal.take_challenge(link.receive())
        house.ctl_ok("terminal", "disable", "R-0")
        link.send(terminal.proof())
        name, value = wire.decode(link.receive())
    assert (name, value["code"].native) == ("failure", "rejected")
    assert not house.audit(event="delivered", sn="R-0")


def test_the_audit_log_is_checked(house, keys):
    """Triggers stop a mistake, not intent; `audit verify` sees both."""
    assert_served(house, *terminals(house, keys, 0))
    house.ctl_ok("audit", "verify")
    with pytest.raises(sqlite3.DatabaseError):
        edit(house, ("UPDATE audit SET sn = 'R-9' WHERE sn = ?", ("R-0",)))
    house.ctl_ok("audit", "verify")
    with contextlib.closing(sqlite3.connect(house.dir / "registry.db", timeout=20)) as registry:
        registry.execute("DROP TRIGGER audit_is_not_changed")
        registry.execute("UPDATE audit SET sn = 'R-9' WHERE event = 'delivered'")
        registry.commit()
    result = house.ctl("audit", "verify")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
