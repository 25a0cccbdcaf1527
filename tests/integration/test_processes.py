"""The house: three processes, what each of them may do, and what happens when one is gone."""

import contextlib
import os
import pathlib
import pwd
import resource
import shutil
import signal
import socket
import struct
import subprocess
import time

import pytest

import harness
import pos
import wire

NOBODY = pwd.getpwnam("nobody")


@pytest.fixture(scope="module")
def is_sanitized(programs):
    return harness.is_sanitized(programs)


needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root sees into a process that is not dumpable"
)


def proc(pid, name):
    return (pathlib.Path("/proc") / str(pid) / name).read_text()


def status_of(pid):
    return dict(line.split(":\t", 1) for line in proc(pid, "status").splitlines() if ":\t" in line)


def descriptors(pid):
    folder = pathlib.Path("/proc") / str(pid) / "fd"
    found = {}
    for entry in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[int(entry.name)] = os.readlink(entry)
    return found


def tcp_inodes(pid):
    lines = (proc(pid, "net/tcp") + proc(pid, "net/tcp6")).splitlines()
    return {line.split()[9] for line in lines if ":" in line.split()[0]}


def has_tcp(pid):
    sockets = tcp_inodes(pid)
    return any(
        link.startswith("socket:[") and link[8:-1] in sockets for link in descriptors(pid).values()
    )


# --- what each may do


@needs_root
def test_three_processes(server):
    children = server.children()
    assert set(children) == {"keeper", "listener"}
    assert has_tcp(children["listener"])
    assert not has_tcp(children["keeper"])
    assert "softhsm" in proc(children["keeper"], "maps")
    assert "softhsm" not in proc(children["listener"], "maps")
    assert "softhsm" not in proc(server.process.pid, "maps")


def test_listener_is_caged(server, is_sanitized):
    pid = server.children()["listener"]
    status = status_of(pid)
    assert status["NoNewPrivs"].strip() == "1"
    if not is_sanitized:
        assert status["Seccomp"].strip() == "2"
    if os.geteuid() == 0:
        assert set(status["Uid"].split()) == {str(NOBODY.pw_uid)}
        assert set(status["Gid"].split()) == {str(NOBODY.pw_gid)}
        assert int(status["CapEff"], 16) == 0
        assert is_sanitized or os.readlink(f"/proc/{pid}/root") != "/"
        assert proc(pid, "environ").strip("\0") == ""


@needs_root
def test_listener_has_only_sockets(server, keys):
    server.download(server.enrol("S-1", keys(0)))
    links = descriptors(server.children()["listener"])
    others = {fd: link for fd, link in links.items() if fd > 2}
    assert others
    for link in others.values():
        assert link.startswith(("socket:", "anon_inode:[event", "anon_inode:[timerfd", "pipe:"))
    assert links[0] == "/dev/null"


def test_no_core_files(server):
    for pid in server.children().values():
        limit = next(line for line in proc(pid, "limits").splitlines() if "core file" in line)
        assert limit.split()[4:6] == ["0", "0"]


def test_children_are_not_dumpable(make_server, is_sanitized):
    """The kernel gives /proc/PID of a process that is not dumpable to root (proc(5))."""
    if is_sanitized:
        pytest.skip("LeakSanitizer looks at its process as a debugger does")
    server = make_server(start=False)
    if os.geteuid() == 0:
        give_to_nobody(server)
        server.configure("users", keeper="nobody")
    server.start()
    for role, pid in server.children().items():
        assert os.stat(f"/proc/{pid}/environ").st_uid == 0, role
        if os.geteuid() == 0:
            assert status_of(pid)["Uid"].split()[0] == str(NOBODY.pw_uid), role


def give_to_nobody(server):
    for path in [server.dir.parent, *server.dir.parent.rglob("*")]:
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_keeper_as_another_user_serves(make_server, keys):
    server = make_server(start=False)
    give_to_nobody(server)
    server.configure("users", keeper="nobody")
    server.start()
    server.download(server.enrol("S-1", keys(0)))
    assert server.tmk_status("S-1") == "confirmed"


def secrets_of(server, terminal):
    pins = [(server.dir / name).read_bytes().strip() for name in ("pin", "so-pin")]
    return [*pins, terminal.tmk, terminal.tmk.hex().encode()]


def memory_of(pid):
    """What can be read of a process; nothing when the kernel does not let us."""
    with contextlib.suppress(PermissionError), open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in proc(pid, "maps").splitlines():
            area, rights = line.split()[:2]
            start, end = (int(part, 16) for part in area.split("-"))
            if rights.startswith("rw") and end - start < 2**30:
                with contextlib.suppress(OSError, ValueError):
                    memory.seek(start)
                    yield memory.read(end - start)


def test_no_secret_outside_the_keeper(make_server, keys, is_sanitized):
    """No PIN and no TMK in the log, the registry, argv, environments, or the listener's memory."""
    server = make_server(tmk_store="wrapped")
    terminal = server.download(server.enrol("S-1", keys(0)))
    secrets = secrets_of(server, terminal)
    pids = [server.process.pid, *server.children().values()]
    places = [pathlib.Path(f"/proc/{pid}/{name}") for pid in pids for name in ("cmdline", "environ")]
    places += [path for path in server.dir.glob("registry.db*")]
    places += [server.log_path]
    for place in places:
        with contextlib.suppress(PermissionError):
            content = place.read_bytes()
            assert not any(secret in content for secret in secrets), place
    if not is_sanitized:  # shadow memory is beyond reading
        for pid in (server.process.pid, server.children()["listener"]):
            for block in memory_of(pid):
                assert not any(secret in block for secret in secrets), pid


# --- stopping


def start_with(make_server, **limits):
    server = make_server(start=False)
    server.configure("limits", **limits)
    return server.start()


def test_sigterm_lets_a_handshake_finish(make_server, keys):
    server = start_with(make_server, stop_seconds=20)
    terminal = server.enrol("S-1", keys(0))
    with wire.Link.connect(server.address) as link:
        link.send(terminal.hello())
        terminal.take_challenge(link.receive())
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        link.send(terminal.proof())
        terminal.take_delivery(link.receive())
        link.send(terminal.confirm())
        terminal.take_done(link.receive())
    start = time.monotonic()
    assert server.process.wait(30) == 0
    assert time.monotonic() - start < 10  # it does not wait when nothing is left
    assert server.tmk_status("S-1") == "confirmed"  # by a private keeper


def test_sigterm_with_idle_connections(make_server, keys):
    """They get busy or are closed, within stop_seconds."""
    server = start_with(make_server, stop_seconds=1, handshake_seconds=60)
    terminal = server.enrol("S-1", keys(0))
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(wire.Link.connect(server.address)) for _ in range(3)]
        links[0].send(terminal.hello())
        terminal.take_challenge(links[0].receive())
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert time.monotonic() - start < 15
        for link in links:
            with contextlib.suppress(wire.Closed):
                assert code_and_retry(link.receive())[0] == "busy"


def test_sigint_stops_too(server):
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) == 0


def test_no_new_connections_while_stopping(make_server, keys):
    server = start_with(make_server, stop_seconds=3)
    terminal = server.enrol("S-1", keys(0))
    with wire.Link.connect(server.address) as link:
        link.send(terminal.hello())
        terminal.take_challenge(link.receive())
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with contextlib.suppress(OSError), wire.Link.connect(server.address, 2) as late:
            late.send(terminal.hello())
            with contextlib.suppress(wire.Closed):
                assert code_and_retry(late.receive())[0] == "busy"
    assert server.process.wait(30) == 0


# --- somebody is killed


def serves_again(server, terminal):
    def attempt():
        try:
            server.download(terminal)
        except (pos.Failed, wire.Closed, OSError):
            return False
        return True

    server.wait_for(attempt)


def test_keeper_killed(make_server, keys):
    server = start_with(make_server, retry_after_seconds=7)
    terminal = server.enrol("S-1", keys(0))
    keeper = server.children()["keeper"]
    with wire.Link.connect(server.address) as link:
        link.send(terminal.hello())
        terminal.take_challenge(link.receive())
        os.kill(keeper, signal.SIGKILL)
        assert code_and_retry(link.receive()) == ("busy", 7)
        assert link.is_closed()
    serves_again(server, terminal)
    assert server.tmk_status("S-1") == "confirmed"
    assert server.children()["keeper"] != keeper
    assert server.ctl("audit", "verify").returncode == 0


def test_busy_while_there_is_no_keeper(make_server, keys):
    """Terminals get an answer at once, not silence."""
    server = start_with(make_server, retry_after_seconds=3)
    terminal = server.enrol("S-1", keys(0))
    os.kill(server.children()["keeper"], signal.SIGKILL)
    with wire.Link.connect(server.address, 5) as link:
        link.send(terminal.hello())
        answer = link.receive()
    name, _ = wire.decode(answer)
    assert name == "challenge" or code_and_retry(answer) == ("busy", 3)
    # Stopped sooner, tmkd would find a keeper that did not end in order, and say so by its status.
    server.wait_for(lambda: "the keeper ended by signal 9" in server.log())


def test_keeper_killed_again_and_again(make_server, keys):
    """Terminals that try again get their TMK, one and the same, and the record is whole."""
    server = make_server()
    terminals = [server.enrol(f"S-{i}", keys(i)) for i in range(6)]
    for terminal in terminals:
        keeper = server.children().get("keeper")
        if keeper:
            os.kill(keeper, signal.SIGKILL)
        serves_again(server, terminal)
        assert server.show(terminal.sn)["tmk"]["kcv"] == terminal.kcv
    assert server.ctl("audit", "verify").returncode == 0
    assert len(server.audit(event="confirmed")) == len(terminals)


def test_keeper_out_of_descriptors(server, keys):
    """SoftHSM's keys then fail for ever (design 12): another keeper takes over."""
    terminal = server.enrol("S-1", keys(0))
    keeper = server.children()["keeper"]
    _, most = resource.prlimit(keeper, resource.RLIMIT_NOFILE)
    resource.prlimit(keeper, resource.RLIMIT_NOFILE, (4, most))
    with pytest.raises((pos.Failed, wire.Closed)):
        server.download(terminal)
    serves_again(server, terminal)
    assert server.children()["keeper"] != keeper
    assert server.tmk_status("S-1") == "confirmed"


HOUSE_CHANNEL = struct.pack("=10I256s512s", 3, *[0] * 9, b"", b"")  # struct house_message


def test_keeper_ends_with_a_channel_it_cannot_use(make_server):
    """Else a listener that lives would wait for an answer for ever."""
    server = make_server(start=False)
    house, channel = (socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2))
    with subprocess.Popen(
        [server.programs / "tmkd", "--role", "keeper", "-c", server.conf],
        preexec_fn=lambda: os.dup2(house[1].fileno(), 3),
        pass_fds=[3],
    ) as keeper, house[0]:  # closed first: then it ends whatever happens
        house[1].close()
        socket.send_fds(house[0], [HOUSE_CHANNEL], [channel[1].fileno()])
        assert house[0].recv(4096)  # ready
        channel[0].send(b"not a request")
        assert keeper.wait(30) == 1


def test_listener_killed(server, keys):
    terminal = server.enrol("S-1", keys(0))
    listener = server.children()["listener"]
    with wire.Link.connect(server.address) as link:
        link.send(terminal.hello())
        terminal.take_challenge(link.receive())
        os.kill(listener, signal.SIGKILL)
        assert link.is_closed()
    serves_again(server, terminal)
    assert server.tmk_status("S-1") == "confirmed"


def test_supervisor_killed(server, keys):
    """Its children end by themselves, and the next start is as any other."""
    terminal = server.enrol("S-1", keys(0))
    children = server.children().values()
    server.process.kill()
    server.process.wait()
    server.wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in children))
    server.start()
    server.download(terminal)


def test_second_tmkd_is_refused(server, keys):
    result = server.run("tmkd", "-c", server.conf)
    assert result.returncode == 1
    assert result.stderr.strip()
    server.download(server.enrol("S-1", keys(0)))


# --- limits


def code_and_retry(der):
    name, value = wire.decode(der)
    assert name == "failure"
    return value["code"].native, value["retryAfter"].native


def assert_third_is_busy(server):
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(wire.Link.connect(server.address))
        third = stack.enter_context(wire.Link.connect(server.address))
        assert code_and_retry(third.receive()) == ("busy", 9)
        assert third.is_closed()


def test_connection_cap(make_server, keys):
    server = start_with(make_server, connections=2, retry_after_seconds=9)
    terminal = server.enrol("S-1", keys(0))
    assert_third_is_busy(server)
    serves_again(server, terminal)  # as soon as the two are gone


def test_cap_per_source(make_server, keys):
    server = start_with(make_server, connections_per_source=2, retry_after_seconds=9)
    terminal = server.enrol("S-1", keys(0))
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(wire.Link.connect(server.address))
        other = socket.create_connection(server.address, 20, ("127.0.0.2", 0))
        with wire.Link(other) as link:
            link.send(terminal.hello())
            terminal.take_challenge(link.receive())
    assert_third_is_busy(server)
    serves_again(server, terminal)


def test_full_queue(make_server, keys):
    """Of many hellos at once some are served and the others are told when to come back."""
    server = make_server(start=False, prks="rsa:4096")  # slow on purpose
    server.configure("limits", queue=1, retry_after_seconds=11)
    server.configure("token", sessions=1)
    server.start()
    terminal = server.enrol("S-1", keys(0))
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(wire.Link.connect(server.address)) for _ in range(40)]
        for link in links:
            link.send(terminal.hello())
        answers = [link.receive() for link in links]
    names = [wire.decode(answer)[0] for answer in answers]
    assert names.count("challenge") >= 1
    assert names.count("failure") >= 1
    for name, answer in zip(names, answers, strict=True):
        assert name == "challenge" or code_and_retry(answer) == ("busy", 11)
    serves_again(server, terminal)


# --- starting


def test_start_is_refused_in_one_line(make_server, tmp_path):
    """A configuration that is wrong: exit 1, and a line that names file and line."""
    server = make_server(start=False)
    bad = server.dir / "bad.conf"
    bad.write_text(server.conf.read_text() + "\nno_such_setting = 1\n")
    line = harness.assert_refused(server.run("tmkd", "-c", bad))
    assert "bad.conf" in line
    assert harness.assert_refused(server.run("tmkd", "-c", tmp_path / "none.conf"))


def test_usage(programs):
    for arguments in ([], ["--no-such-option"], ["-c"]):
        assert harness.run([programs / "tmkd", *arguments]).returncode == 2
    for option in ("--help", "--version"):
        result = harness.run([programs / "tmkd", option])
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout


def test_start_with_wrong_pin(make_server):
    server = make_server(start=False)
    (server.dir / "pin").write_text("no-such-pin\n")
    result = server.run("tmkd", "-c", server.conf)
    assert result.returncode == 1
    assert "ready" not in result.stdout
    assert "no-such-pin" not in result.stderr


def test_start_without_token(make_server):
    server = make_server(start=False)
    shutil.rmtree(server.dir / "tokens")
    (server.dir / "tokens").mkdir()
    result = server.run("tmkd", "-c", server.conf)
    assert result.returncode == 1
    assert "ready" not in result.stdout


def test_an_addr_in_use(server, make_server):
    host, port = server.address
    other = make_server(start=False)
    conf = other.conf.read_text().replace("127.0.0.1:0", f"{host}:{port}")
    other.conf.write_text(conf)
    result = other.run("tmkd", "-c", other.conf)
    assert result.returncode == 1
    assert str(port) in result.stderr.splitlines()[-1]


def test_ready_is_all_of_stdout(server):
    """Whatever a vendor's library prints goes elsewhere."""
    server.process.send_signal(signal.SIGTERM)
    assert server.process.stdout.read() == ""
    assert server.process.wait(30) == 0
