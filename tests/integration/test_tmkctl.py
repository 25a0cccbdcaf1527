"""tmkctl: what init makes, exit codes and errors, import, and the shapes of --json."""

import itertools
import json
import os
import resource
import stat
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

import certificates
import crypto
import harness

COMMANDS = [
    ["init"],
    ["cert", "request"],
    ["cert", "install"],
    ["cert", "show"],
    ["terminal", "import"],
    ["terminal", "add"],
    ["terminal", "list"],
    ["terminal", "show"],
    ["terminal", "disable"],
    ["terminal", "enable"],
    ["terminal", "reopen"],
    ["tmk", "show"],
    ["audit", "list"],
    ["audit", "verify"],
]


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def csv(keys, header="sn,public_key\n"):
    rows = [f"{sn},{harness.public_key_base64(key)}\n" for sn, key in keys.items()]
    return header + "".join(rows)


def public_pem(key):
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def contents(folder):
    """Every file below, with its mode and bytes."""
    return {
        path.relative_to(folder): (mode(path), path.is_file() and path.read_bytes())
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def idle(make_server):
    """A server that does not run: tmkctl uses a private keeper."""
    return make_server(start=False)


@pytest.fixture(params=["running", "idle"])
def either(request, make_server):
    return make_server(start=request.param == "running")


# --- init


def test_init_makes_everything(idle):
    for name in ("tmkd.conf", "softhsm2.conf", "tokens", "pin", "so-pin", "registry.db"):
        assert (idle.dir / name).exists(), name
    for name in ("pin", "so-pin", "registry.db", "tmkd.conf"):
        assert mode(idle.dir / name) == 0o600, name
    assert mode(idle.dir) == 0o700
    pins = [(idle.dir / name).read_text().strip() for name in ("pin", "so-pin")]
    assert pins[0] != pins[1] and min(map(len, pins)) >= 16
    kswcrt = x509.load_pem_x509_certificate((idle.dir / "kswcrt.pem").read_bytes())
    assert kswcrt.issuer == idle.root.subject
    for pin in pins:
        assert pin not in idle.init.stdout + idle.init.stderr


def test_two_inits_have_nothing_in_common(make_server):
    one, two = (make_server(start=False) for _ in range(2))
    for name in ("pin", "so-pin", "ksrcrt.pem", "kswcrt.pem"):
        assert (one.dir / name).read_bytes() != (two.dir / name).read_bytes(), name


def test_a_moved_server_says_what_to_correct(make_server):
    server = make_server(start=False)
    moved = server.dir.parent / "moved"
    server.dir.rename(moved)
    line = harness.assert_refused(server.run("tmkctl", "-c", moved / "tmkd.conf", "status"))
    assert "SOFTHSM2_CONF" in line and "directories.tokendir" in line


def test_second_init_is_refused(idle):
    before = contents(idle.dir)
    line = harness.assert_refused(idle.run("tmkctl", "init", "--embedded", idle.dir))
    assert str(idle.dir) in line
    assert contents(idle.dir) == before


def test_init_leaves_nothing_when_refused(programs, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("mine")
    harness.assert_refused(harness.run([programs / "tmkctl", "init", "--embedded", full]))
    assert [path.name for path in full.iterdir()] == ["mine"]
    long = tmp_path / ("x" * 120)
    harness.assert_refused(harness.run([programs / "tmkctl", "init", "--embedded", long]))
    assert not long.exists()


@pytest.mark.parametrize(
    "arguments",
    [["--prks", "rsa:1024"], ["--prks", "ed25519"], ["--tmk-store", "cloud"], ["--listen"]]
    + [["--listen", wrong] for wrong in ("foo", "localhost:7443", "127.0.0.1", "1.2.3.4:65536")],
)
def test_init_with_wrong_options(programs, tmp_path, arguments):
    result = harness.run([programs / "tmkctl", "init", "--embedded", tmp_path / "d", *arguments])
    harness.assert_refused(result, 2)
    assert not (tmp_path / "d").exists()


# --- usage


def test_version_and_help(programs):
    for option in ("--version", "--help", "-h"):
        result = harness.run([programs / "tmkctl", option])
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.strip()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_of_every_command(programs, command):
    for option in ("--help", "--version"):
        result = harness.run([programs / "tmkctl", *command, option])
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.strip()
    assert command[-1] in harness.run([programs / "tmkctl", *command, "--help"]).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-command"],
        ["terminal"],
        ["terminal", "no-such-command"],
        ["terminal", "show"],
        ["terminal", "show", "A", "B"],
        ["terminal", "list", "--no-such-option"],
        ["terminal", "import"],
        ["terminal", "add", "A"],
        ["tmk", "show"],
        ["terminal", "import", "f", "--tmk", "rot13"],
    ],
    ids=" ".join,
)
def test_usage_errors(idle, arguments):
    result = idle.ctl(*arguments)
    assert result.returncode == 2
    assert result.stderr.strip() and not result.stdout


def test_words_are_quoted(idle):
    for arguments in (["nonsense"], ["status", "more"], ["terminal", "show", "a b"]):
        assert f"'{arguments[-1]}'" in idle.ctl(*arguments).stderr


def test_no_such_configuration(programs, tmp_path):
    result = harness.run([programs / "tmkctl", "-c", tmp_path / "none", "terminal", "list"])
    assert "none" in harness.assert_refused(result)


# --- terminals


def test_shape_of_terminal(either, keys):
    either.import_keys({"S-1": keys(0), "S-2": keys(0, 3072)}, "des3")
    shown = either.show("S-2")
    assert shown["sn"] == "S-2"
    assert shown["state"] == "enabled"
    assert shown["public_key"] == {
        "type": "rsa",
        "bits": 3072,
        "sha256": crypto.sha256(crypto.spki(keys(0, 3072).public_key())).hex(),
    }
    assert {name: shown["tmk"][name] for name in ("type", "version", "status")} == {
        "type": "des3",
        "version": 1,
        "status": "ready",
    }
    assert len(shown["tmk"]["kcv"]) == 6 and shown["tmk"]["kcv"] == shown["tmk"]["kcv"].lower()
    assert either.ctl_json("terminal", "list") == [either.show("S-1"), shown]
    tmk = either.ctl_json("tmk", "show", "S-2")
    assert (tmk["sn"], tmk["kcv"], tmk["status"]) == ("S-2", shown["tmk"]["kcv"], "ready")
    for command in (["terminal", "list"], ["terminal", "show", "S-2"], ["tmk", "show", "S-2"]):
        assert shown["tmk"]["kcv"] in either.ctl_ok(*command)


def test_without_a_tmk(either, keys):
    either.import_keys({"S-1": keys(0)}, "none")
    assert either.show("S-1")["tmk"] == {"status": "none"}


def test_disable_and_enable(either, keys):
    either.import_keys({"S-1": keys(0)})
    for command, state in (("disable", "disabled"), ("enable", "enabled")):
        for _ in range(2):  # again is no error
            assert either.ctl_json("terminal", command, "S-1")["state"] == state
            assert either.show("S-1")["state"] == state


@pytest.mark.parametrize(
    "command",
    [
        ["terminal", "show"],
        ["terminal", "disable"],
        ["terminal", "enable"],
        ["terminal", "reopen"],
        ["tmk", "show"],
    ],
    ids=" ".join,
)
def test_unknown_sn(shared_server, command):
    assert "NOBODY" in harness.assert_refused(shared_server.ctl(*command, "NOBODY"))


def test_every_change_that_fails_is_answered(shared_server):
    """The writer can be done with a change before the loop has handed it over entirely."""
    for _ in range(40):
        line = harness.assert_refused(shared_server.ctl("terminal", "reopen", "NOBODY"))
        assert "NOBODY" in line


def test_add(either, keys):
    pem = either.dir.parent / "key.pem"
    pem.write_bytes(public_pem(keys(0)))
    either.ctl_ok("terminal", "add", "S-1", "--key", pem, "--tmk", "aes256")
    assert either.show("S-1")["tmk"]["type"] == "aes256"
    pem.write_bytes(public_pem(keys(1)))
    harness.assert_refused(either.ctl("terminal", "add", "S-1", "--key", pem))
    pem.write_bytes(public_pem(keys(0)))
    harness.assert_refused(either.ctl("terminal", "add", "S-2", "--key", pem))
    assert len(either.ctl_json("terminal", "list")) == 1


def test_list_is_whole_and_in_order(idle, keys):
    """More than a page of them."""
    some = {f"L-{i:04}": key for i, key in enumerate(many_public_keys(keys))}
    path = idle.dir.parent / "many.csv"
    rows = [f"{sn},{base64_of(key)}\n" for sn, key in reversed(some.items())]
    path.write_text("sn,public_key\n" + "".join(rows))
    idle.ctl_ok("terminal", "import", path, "--tmk", "none")
    assert [terminal["sn"] for terminal in idle.ctl_json("terminal", "list")] == sorted(some)


def many_public_keys(keys):
    """324 of them from 18 keys: each one's p with each one's q."""
    numbers = [keys(i).private_numbers() for i in range(18)]
    for p, q in itertools.product([n.p for n in numbers], [n.q for n in numbers]):
        yield rsa.RSAPublicNumbers(65537, p * q).public_key()


def base64_of(public_key):
    return harness.public_key_base64(SimpleNamespace(public_key=lambda: public_key))


# --- import


def test_import_again_is_no_error(either, keys):
    path = either.dir.parent / "a.csv"
    path.write_text(csv({"S-1": keys(0), "S-2": keys(1)}))
    first = either.ctl_json("terminal", "import", path)
    assert (first["read"], first["added"], first["present"]) == (2, 2, 0)
    before = either.ctl_json("terminal", "list")
    again = either.ctl_json("terminal", "import", path)
    assert (again["read"], again["added"], again["present"]) == (2, 0, 2)
    assert either.ctl_json("terminal", "list") == before


def test_dry_run_changes_nothing(either, keys):
    path = either.dir.parent / "a.csv"
    path.write_text(csv({"S-1": keys(0)}))
    shown = either.ctl_json("terminal", "import", path, "--dry-run")
    assert (shown["added"], shown["dry_run"]) == (1, True)
    assert either.ctl_json("terminal", "list") == []


def weak_key():
    return rsa.generate_private_key(65537, 1024)


def damaged_key():
    """3 divides its modulus."""
    return rsa.RSAPublicNumbers(65537, (1 << 2047) + 1).public_key()


BAD_ROWS = {
    "one field": "S-9\n",
    "three fields": "S-9,AAAA,x\n",
    "no sn": ",AAAA\n",
    "sn with a blank": "S 9,AAAA\n",
    "sn too long": "S" * 65 + ",AAAA\n",
    "not base64": "S-9,????\n",
    "not a key": "S-9,AAAA\n",
    "key too small": lambda: f"S-9,{harness.public_key_base64(weak_key())}\n",
    "key with a small factor": lambda: f"S-9,{base64_of(damaged_key())}\n",
    "not RSA": lambda: f"S-9,{harness.public_key_base64(ec.generate_private_key(ec.SECP256R1()))}\n",
    "an empty line": "\n",
    "too long a line": "S-9," + "A" * 5000 + "\n",
}


def row(name):
    made = BAD_ROWS[name]
    return made if isinstance(made, str) else made()


@pytest.fixture(scope="module")
def empty_server(programs):
    server = harness.Server(programs)
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_stops_the_import(empty_server, keys, tmp_path, name):
    """Nothing of the file is imported; the line says which row."""
    path = tmp_path / "a.csv"
    path.write_text(csv({"S-1": keys(0)}) + row(name) + csv({"S-2": keys(1)}, header=""))
    line = harness.assert_refused(empty_server.ctl("terminal", "import", path))
    assert "a.csv:3" in line
    assert empty_server.ctl_json("terminal", "list") == []
    assert not (tmp_path / "a.csv.rejected").exists()


def test_skip_imports_the_others(either, keys):
    path = either.dir.parent / "a.csv"
    bad = "".join(row(name) for name in BAD_ROWS)
    path.write_text(csv({"S-1": keys(0)}) + bad + csv({"S-2": keys(1)}, header=""))
    result = either.ctl("terminal", "import", path, "--on-error", "skip", "--json")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == len(BAD_ROWS) + 1
    summary = json.loads(result.stdout)
    assert (summary["added"], summary["rejected"]) == (2, len(BAD_ROWS))
    assert (path.parent / "a.csv.rejected").read_text() == "sn,public_key\n" + bad
    assert [t["sn"] for t in either.ctl_json("terminal", "list")] == ["S-1", "S-2"]


CONFLICTS = {
    "one key for two SNs": lambda keys: csv({"S-1": keys(0), "S-2": keys(0)}),
    "two keys for one SN": lambda keys: csv({"S-1": keys(0)}) + csv({"S-1": keys(1)}, header=""),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_rows_that_contradict(empty_server, keys, tmp_path, name):
    path = tmp_path / "a.csv"
    path.write_text(CONFLICTS[name](keys))
    assert "a.csv:3" in harness.assert_refused(empty_server.ctl("terminal", "import", path))
    result = empty_server.ctl("terminal", "import", path, "--dry-run")
    assert result.returncode == 1 and "a.csv:3" in result.stderr.splitlines()[0]
    assert empty_server.ctl_json("terminal", "list") == []


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_dry_run_reports_every_bad_row(empty_server, keys, tmp_path, on_error):
    path = tmp_path / "a.csv"
    path.write_text(csv({"S-1": keys(0)}) + "S-2\n" + csv({"S-3": keys(0)}, header="") + "\n")
    result = empty_server.ctl(
        "terminal", "import", path, "--dry-run", "--on-error", on_error, "--json"
    )
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 4 and all(f"a.csv:{i + 3}: " in lines[i] for i in range(3)), lines
    assert json.loads(result.stdout)["rejected"] == 3
    assert empty_server.ctl_json("terminal", "list") == []
    assert not (tmp_path / "a.csv.rejected").exists()


@pytest.mark.parametrize("header", ["", "serial,key\n", "sn;public_key\n"])
def test_wrong_header(empty_server, keys, tmp_path, header):
    path = tmp_path / "a.csv"
    path.write_text(csv({"S-1": keys(0)}, header))
    harness.assert_refused(empty_server.ctl("terminal", "import", path))
    assert empty_server.ctl_json("terminal", "list") == []


def test_no_such_file(empty_server, tmp_path):
    line = harness.assert_refused(empty_server.ctl("terminal", "import", tmp_path / "none.csv"))
    assert "none.csv" in line


def little_disk():
    """No file of this process becomes larger than what a reasonable error needs."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_a_file_without_an_end(idle):
    """It is given up early, not copied until the disk is full."""
    command = [idle.programs / "tmkctl", "-c", idle.conf, "terminal", "import", "/dev/zero"]
    line = harness.assert_refused(harness.run(command, preexec_fn=little_disk))
    assert "/dev/zero:1: a line of over 2000 bytes" in line


@pytest.mark.parametrize(
    "program, where",
    [("yes", "stdin:1: "), ("echo sn,public_key; tr '\\0' A < /dev/zero", "stdin:2: ")],
)
def test_a_pipe_without_an_end(idle, program, where):
    script = f'({program}) | "$0" -c "$1" terminal import -'
    command = ["sh", "-c", script, idle.programs / "tmkctl", idle.conf]
    assert where in harness.assert_refused(harness.run(command, preexec_fn=little_disk))


def test_import_from_a_pipe(idle, keys, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(csv({"S-1": keys(0), "S-2": keys(1)}).rstrip("\n"))
    script = 'cat "$2" | "$0" -c "$1" terminal import -'
    result = harness.run(["sh", "-c", script, idle.programs / "tmkctl", idle.conf, path])
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert [t["sn"] for t in idle.ctl_json("terminal", "list")] == ["S-1", "S-2"]


def test_files_from_windows(idle, keys, tmp_path):
    """A byte order mark and CRLF."""
    path = tmp_path / "a.csv"
    text = "\ufeff" + csv({"S-1": keys(0)}).replace("\n", "\r\n")
    path.write_bytes(text.encode())
    idle.ctl_ok("terminal", "import", path)
    assert idle.show("S-1")["tmk"]["status"] == "ready"


# --- certificates


def test_cert_request_and_show(either):
    csr = x509.load_pem_x509_csr(either.ctl_json("cert", "request")["csr"].encode())
    assert csr.is_signature_valid
    shown = either.ctl_json("cert", "show")
    kswcrt = x509.load_pem_x509_certificate((either.dir / "kswcrt.pem").read_bytes())
    assert shown["pem"].encode() == (either.dir / "kswcrt.pem").read_bytes()
    assert crypto.spki(csr.public_key()) == crypto.spki(kswcrt.public_key())
    assert shown["prks"] == "rsa:2048"


@pytest.mark.parametrize("prks", ["rsa:2048", "ec:p256"])
def test_cert_install(make_server, keys, prks):
    """A KSWCRT of the bank's own root, with one in between; tmkd serves with it at once."""
    server = make_server(prks=prks)
    csr = x509.load_pem_x509_csr(server.ctl_json("cert", "request")["csr"].encode())
    root = certificates.Authority()
    between = certificates.Authority("Test KSR 2", root)
    kswcrt = between.issue(csr.public_key())
    chain = server.dir.parent / "chain.pem"
    chain.write_bytes(certificates.pem(kswcrt) + between.pem)
    assert server.ctl_json("cert", "install", chain)["certificates"] == 2
    terminal = server.enrol("S-1", keys(0))
    terminal.root = root.certificate
    server.download(terminal)
    server.stop()
    server.start()
    server.ctl_ok("terminal", "reopen", "S-1")
    server.download(terminal)


@pytest.mark.parametrize("prks_of_another", [True, False])
def test_cert_install_refuses(either, prks_of_another):
    """A certificate for another key, and what is no certificate."""
    before = either.ctl_json("cert", "show")
    path = either.dir.parent / "bad.pem"
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    path.write_bytes(
        certificates.Authority().issue(stranger).public_bytes(serialization.Encoding.PEM)
        if prks_of_another
        else b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    )
    harness.assert_refused(either.ctl("cert", "install", path))
    assert either.ctl_json("cert", "show") == before


# --- audit and secrets


def test_audit_of_changes(either, keys):
    either.import_keys({"S-1": keys(0)})
    either.ctl_ok("terminal", "disable", "S-1")
    records = either.audit(sn="S-1")
    assert [record["event"] for record in records][:2] == ["added", "disabled"]
    for record in records:
        assert set(record) == {"seq", "at", "event", "sn", "actor", "detail"}
        assert f"uid {os.getuid()}" in record["actor"]
    records = either.audit()
    assert [record["seq"] for record in records] == list(range(1, len(records) + 1))
    assert either.ctl_json("audit", "verify")["records"] == len(records)


def test_status(either):
    status = either.ctl_json("status")
    assert (status["prks"], status["tmk_store"]) == ("rsa:2048", "token")
    assert status["running"] == bool(either.process)


def test_private_keeper_leaves_nothing(idle, keys):
    idle.import_keys({"S-1": keys(0)})
    assert not (idle.dir / "control.sock").exists()


def test_no_pin_in_what_is_written(either, keys):
    either.import_keys({"S-1": keys(0)})
    pins = [(either.dir / name).read_bytes().strip() for name in ("pin", "so-pin")]
    for path in either.dir.parent.rglob("*"):
        if path.is_file() and path.name not in ("pin", "so-pin"):
            content = path.read_bytes()
            assert not any(pin in content for pin in pins), path
