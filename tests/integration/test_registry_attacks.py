"""Somebody with the registry's file works against the audit log, or the file cannot be written:
tmkd delivers nothing that is not recorded, and says what is wrong."""

import contextlib
import os
import re
import shutil
import sqlite3

import pytest

import harness
import pos

NOBODY = 65534

NO_RECORD = (
    "CREATE TRIGGER aa BEFORE INSERT ON audit WHEN NEW.event IN ('delivered', 'confirmed')"
    " BEGIN SELECT RAISE(IGNORE); END"
)
LOST_RECORD = (
    "DROP TRIGGER audit_is_not_deleted;"
    "CREATE TRIGGER aa AFTER INSERT ON audit WHEN NEW.event = 'delivered'"
    " BEGIN DELETE FROM audit WHERE seq = NEW.seq; END"
)


def shell(server, script):
    """What the sqlite3 shell does."""
    with contextlib.closing(sqlite3.connect(server.dir / "registry.db", timeout=20)) as registry:
        registry.executescript(script)


def rows(server, table):
    with contextlib.closing(sqlite3.connect(server.dir / "registry.db", timeout=20)) as registry:
        return registry.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def assert_nothing_delivered(server, terminal):
    with pytest.raises(pos.Failed):
        server.download(terminal)
    assert not terminal.tmk
    assert rows(server, "delivery") == 0


@pytest.mark.parametrize("script", [NO_RECORD, LOST_RECORD])
def test_no_delivery_without_its_record(server, keys, script):
    terminal = server.enrol("A-1", keys(0))
    before = rows(server, "audit")
    shell(server, script)
    assert_nothing_delivered(server, terminal)
    assert rows(server, "audit") == before
    assert "trigger aa" in harness.assert_refused(server.ctl("audit", "verify"))
    assert "trigger aa" in harness.assert_refused(server.ctl("terminal", "disable", "A-1"))
    assert "trigger aa" in server.log()


def test_served_again_once_it_is_dropped(server, keys):
    terminal = server.enrol("A-1", keys(0))
    shell(server, NO_RECORD)
    assert_nothing_delivered(server, terminal)
    shell(server, "DROP TRIGGER aa")
    server.download(terminal)
    assert terminal.tmk
    assert server.audit(event="delivered", sn="A-1")
    server.ctl_ok("audit", "verify")


def test_another_sn_by_a_collation(server, keys):
    """The column's collation is one that takes a-1 for A-1."""
    server.enrol("A-1", keys(0))
    shell(
        server,
        """
        PRAGMA writable_schema = ON;
        UPDATE sqlite_schema SET sql = replace(sql, 'TEXT    NOT NULL PRIMARY KEY',
            'TEXT    COLLATE NOCASE NOT NULL PRIMARY KEY') WHERE name = 'terminal';
        PRAGMA writable_schema = RESET;
        CREATE TABLE x (y);
        DROP TABLE x;
        """,
    )
    assert_nothing_delivered(server, pos.Terminal("a-1", keys(0), server.root))


def run_as(user, *command):
    """To its end; a tmkd that serves after all is ended, and then returns 0."""
    return harness.run([*user, "timeout", harness.START_SECONDS, *command])


def test_not_started_with_a_trigger(make_server):
    server = make_server(start=False)
    shell(server, NO_RECORD)
    result = run_as([], server.programs / "tmkd", "-c", server.conf)
    assert result.returncode == 1
    assert "trigger aa" in result.stderr
    assert "ready" not in result.stdout


# --- a file that cannot be written


@pytest.fixture
def nobodys(make_server):
    """A server that is not yet started, whose files are nobody's: root may write everything."""
    server = make_server(start=False)
    programs = server.dir.parent / "bin"  # the build may be where nobody cannot go
    programs.mkdir()
    for name in ("tmkd", "tmkctl"):
        shutil.copy2(server.programs / name, programs)
    if os.geteuid() == 0:
        for path in (server.dir.parent, *server.dir.parent.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    return server


def run_as_nobody(server, program, *arguments):
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    path = server.dir.parent / "bin" / program
    return run_as(user if os.geteuid() == 0 else [], path, *arguments)


def assert_cannot_be_written(server):
    """Neither tmkd starts, nor does tmkctl's own keeper change anything."""
    started = run_as_nobody(server, "tmkd", "-c", server.conf)
    assert started.returncode == 1
    assert re.search(r"registry \S+registry\.db cannot be written", started.stderr)
    assert "ready" not in started.stdout
    refused = run_as_nobody(server, "tmkctl", "-c", server.conf, "terminal", "disable", "A-1")
    assert "cannot be written" in harness.assert_refused(refused)


def test_a_file_that_may_only_be_read(nobodys):
    (nobodys.dir / "registry.db").chmod(0o400)
    assert_cannot_be_written(nobodys)


def test_a_directory_that_may_only_be_read(nobodys):
    """SQLite writes -wal and -shm beside the file."""
    folder = nobodys.dir / "registry"
    folder.mkdir()
    for path in nobodys.dir.glob("registry.db*"):
        path.rename(folder / path.name)
    text = nobodys.conf.read_text()
    nobodys.conf.write_text(text.replace("registry.db", "registry/registry.db"))
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    folder.chmod(0o500)
    try:
        assert_cannot_be_written(nobodys)
    finally:
        folder.chmod(0o700)
