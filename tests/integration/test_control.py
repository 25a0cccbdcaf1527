"""The doors of the keeper, held open by one who means no good: control socket and channel."""

import contextlib
import ctypes
import json
import os
import signal
import socket

import pytest

from harness import assert_refused

PEERS_MAX = 32  # src/tmkd/control.c


@pytest.fixture
def server(make_server):
    return make_server()


def resident(pid):
    """Resident memory of a process, in MB."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def connect(server):
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(20)
    link.connect(str(server.dir / "control.sock"))
    return link


def ask(link, **request):
    link.sendall(json.dumps(request).encode() + b"\n")
    return json.loads(link.makefile().readline())


def test_forgotten_control_connections(server, keys):
    """They are limited, a tmkctl is told so, and downloads go on."""
    with contextlib.ExitStack() as links:
        for _ in range(PEERS_MAX):
            links.enter_context(connect(server))
        with connect(server) as one_more:
            assert json.loads(one_more.makefile().readline())["code"] == "busy"
        line = assert_refused(server.ctl("terminal", "list"))
        assert "control connections" in line
    server.wait_for(lambda: server.ctl("terminal", "list").returncode == 0)
    terminal = server.enrol("AFTER", keys(2048))
    assert server.download(terminal).version == 1


def test_peer_that_takes_no_answers(server):
    """Its requests wait with it, and the keeper's memory stays what it is."""
    keeper = server.children()["keeper"]
    with connect(server) as link:
        link.settimeout(2)
        before = resident(keeper)
        request = b'{"op":"audit.list","after":0,"limit":1024}\n'
        with contextlib.suppress(TimeoutError):
            for _ in range(20000):
                link.sendall(request)
        assert resident(keeper) - before < 20
        server.ctl_ok("status")


def test_dry_run_is_for_imports(server, keys):
    server.enrol("POS", keys(2048))
    with connect(server) as link:
        answer = ask(link, op="terminal.disable", sn="POS", dry_run=True)
    assert answer["ok"]["state"] == "disabled"


@pytest.mark.parametrize("role", ["keeper", "ceremony"])
def test_keeper_that_cannot_start_says_so_once(make_server, role):
    server = make_server(start=False)
    (server.dir / "pin").unlink()
    command = ("terminal", "list") if role == "keeper" else ("cert", "show")
    assert "pin" in assert_refused(server.ctl(*command))


# --- a listener that was taken over


class Source(ctypes.Structure):
    _fields_ = [
        ("family", ctypes.c_uint8),
        ("address", ctypes.c_uint8 * 16),
        ("port", ctypes.c_uint16),
    ]


class Body(ctypes.Structure):
    """struct proof, the largest of the union: a length and an RSA block."""

    _fields_ = [("length", ctypes.c_size_t), ("block", ctypes.c_uint8 * 512)]


class Request(ctypes.Structure):
    """struct keeper_request of src/tmkd/house.h."""

    _fields_ = [
        ("handshake", ctypes.c_uint64),
        ("kind", ctypes.c_uint32),
        ("source", Source),
        ("body", Body),
    ]


REQUEST_PROOF = 2


def channel_of(pid):
    """A copy of a listener's end of the request channel: its UNIX socket that is not HOUSE_FD. None
    while it has none: the supervisor is ready as soon as it has sent it."""
    pidfd = os.pidfd_open(pid)
    try:
        for name in sorted(map(int, os.listdir(f"/proc/{pid}/fd"))):
            copy = ctypes.CDLL(None, use_errno=True).syscall(438, pidfd, name, 0)  # pidfd_getfd
            if copy < 0:
                continue
            link = socket.socket(fileno=copy) if _is_socket(copy) else None
            if link and link.family == socket.AF_UNIX and name > 3:
                return link
            if link:
                link.close()
            else:
                os.close(copy)
    finally:
        os.close(pidfd)
    return None


def _is_socket(descriptor):
    return os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")


@pytest.mark.skipif(os.geteuid() != 0, reason="takes descriptors of another process")
def test_listener_that_takes_no_answers(server, keys):
    children = server.children()
    found = []
    server.wait_for(lambda: found.append(channel_of(children["listener"])) or found[-1])
    channel = found[-1]
    os.kill(children["listener"], signal.SIGSTOP)
    try:
        before = resident(children["keeper"])
        channel.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for number in range(1, 1000000):
                channel.send(bytes(Request(handshake=1 << 40 | number, kind=REQUEST_PROOF)))
        assert number > 100
        assert resident(children["keeper"]) - before < 20
    finally:
        os.kill(children["listener"], signal.SIGCONT)
        channel.close()
    terminal = server.enrol("AFTER", keys(2048))
    assert server.download(terminal).version == 1
    assert server.children() == children
