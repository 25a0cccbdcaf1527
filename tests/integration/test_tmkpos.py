"""tmkpos: what its folder holds, what it shows and exports, and what tampering does."""

import base64
import socket
import threading

import pytest
from cryptography.hazmat.primitives import serialization

import crypto
import harness

COMMANDS = ["init", "export", "download", "show", "tamper"]


def exported(terminal):
    """(SN, public key) of the export, which is a header and one row."""
    header, line = terminal.ok("export").splitlines()
    assert header == "sn,public_key"
    sn, text = line.split(",")
    return sn, serialization.load_der_public_key(base64.b64decode(text, validate=True))


def enrol(server, terminal):
    path = terminal.dir.parent / "export.csv"
    path.write_text(terminal.ok("export"))
    server.ctl_ok("terminal", "import", path)


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_init_makes_a_key(make_terminal, bits):
    terminal = make_terminal()
    terminal.ok("init", "--sn", "P-1", "--key", f"rsa:{bits}")
    sn, key = exported(terminal)
    assert (sn, key.key_size) == ("P-1", bits)
    shown = terminal.show()
    assert shown["sn"] == "P-1"
    assert shown["public_key"]["bits"] == bits
    assert shown["public_key"]["sha256"] == crypto.sha256(crypto.spki(key)).hex()


def test_init_takes_a_key_in(make_terminal, keys):
    terminal = make_terminal().init("P-1", keys(0))
    assert crypto.spki(exported(terminal)[1]) == crypto.spki(keys(0).public_key())


def test_two_inits_are_two_keys(make_terminal):
    one, two = (make_terminal().init("P-1") for _ in range(2))
    assert crypto.spki(exported(one)[1]) != crypto.spki(exported(two)[1])


def test_second_init_is_refused(make_terminal, keys):
    terminal = make_terminal().init("P-1", keys(0))
    before = terminal.ok("export")
    harness.assert_refused(terminal.run("init", "--sn", "P-2"))
    assert terminal.ok("export") == before


@pytest.mark.parametrize("sn", ["", "A B", "x" * 65, "A\x7f"])
def test_init_with_a_wrong_sn(make_terminal, sn):
    terminal = make_terminal()
    result = terminal.run("init", "--sn", sn)
    assert result.returncode in (1, 2) and result.stderr.strip()
    assert not terminal.dir.exists()


def test_init_with_a_bad_key_file(make_terminal, tmp_path):
    terminal = make_terminal()
    bad = tmp_path / "bad.pem"
    bad.write_text("no key")
    harness.assert_refused(terminal.run("init", "--sn", "P-1", "--import", bad))
    harness.assert_refused(terminal.run("init", "--sn", "P-1", "--import", tmp_path / "none.pem"))


def test_usage(make_terminal, programs):
    for arguments in ([], ["no-such-command"], ["show"], ["init", "d"], ["show", "d", "--nothing"]):
        result = harness.run([programs / "tmkpos", *arguments])
        assert result.returncode == 2, arguments
        assert result.stderr.strip() and not result.stdout
    for option in ("--help", "-h", "--version"):
        result = harness.run([programs / "tmkpos", option])
        assert (result.returncode, result.stderr) == (0, "") and result.stdout
    for command in COMMANDS:
        result = harness.run([programs / "tmkpos", command, "--help"])
        assert (result.returncode, result.stderr) == (0, "") and result.stdout


def test_without_init(make_terminal, programs, tmp_path):
    terminal = make_terminal()
    for command in ("show", "export", "tamper"):
        harness.assert_refused(terminal.run(command))


def test_show_for_people(server, make_terminal, keys):
    terminal = make_terminal().init("P-1", keys(0))
    enrol(server, terminal)
    assert terminal.download(server.address, server.root_path).returncode == 0
    text = terminal.ok("show")
    assert "P-1" in text and terminal.show()["tmk"]["kcv"] in text


def test_a_second_download_replaces_nothing_when_rejected(server, make_terminal, keys):
    terminal = make_terminal().init("P-1", keys(0))
    enrol(server, terminal)
    assert terminal.download(server.address, server.root_path).returncode == 0
    before = terminal.show()
    harness.assert_refused(terminal.download(server.address, server.root_path))
    assert terminal.show() == before
    server.ctl_ok("terminal", "reopen", "P-1")
    assert terminal.download(server.address, server.root_path).returncode == 0
    assert terminal.show() == before


def test_tampered(server, make_terminal, keys):
    """An opened case leaves neither TKP_Pr nor TMK, and nothing to download with."""
    terminal = make_terminal().init("P-1", keys(0))
    enrol(server, terminal)
    assert terminal.download(server.address, server.root_path).returncode == 0
    terminal.ok("tamper")
    server.ctl_ok("terminal", "reopen", "P-1")
    harness.assert_refused(terminal.download(server.address, server.root_path))
    assert server.tmk_status("P-1") != "confirmed"
    shown = terminal.show()
    assert (shown["state"], shown["public_key"], shown["tmk"]) == ("tampered", None, None)
    assert "destroyed" in terminal.ok("show")


def test_a_server_that_is_no_tmkd(server, make_terminal, keys):
    terminal = make_terminal().init("P-1", keys(0))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        answer = threading.Thread(target=answer_as_http, args=(listener,))
        answer.start()
        line = harness.assert_refused(terminal.download(listener.getsockname(), server.root_path))
        answer.join()
    assert line.endswith("is that a tmkd?")


def answer_as_http(listener):
    with listener.accept()[0] as peer:
        peer.recv(1)
        peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_no_clear_key_in_its_files(server, make_terminal, keys):
    """Neither the TKP it took in nor the PIN's token file in clear; files are its owner's alone."""
    terminal = make_terminal().init("P-1", keys(0))
    numbers = keys(0).private_numbers()
    secrets = [n.to_bytes(128, "big") for n in (numbers.p, numbers.q)]
    for path in terminal.dir.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
        if path.is_file():
            content = path.read_bytes()
            assert not any(secret in content for secret in secrets), path
