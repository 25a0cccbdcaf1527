"""The real programs, as the tests drive them."""

import base64
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from cryptography import x509
from cryptography.hazmat.primitives import serialization

import crypto
import pos

SANITIZER = re.compile(
    r"ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer|runtime error:|Sanitizer:DEADLYSIGNAL"
)
READY = re.compile(r"^tmkd: ready on (?P<host>\S+):(?P<port>\d+)$")
START_SECONDS = 60  # much: a sanitized build on a loaded machine
RUN_SECONDS = 180


def short_dir():
    """A new folder with a short name: a UNIX socket's path has at most 107 bytes."""
    return pathlib.Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))


def remove_dir(path):
    shutil.rmtree(path, ignore_errors=True)


def check_clean(text):
    """No sanitizer has reported anything."""
    found = SANITIZER.search(text)
    assert not found, text[max(0, found.start() - 500) : found.start() + 6000]


def is_sanitized(programs):
    """Built with a sanitizer: that wants /proc and system calls the cage would not allow."""
    text = (programs / "tmkd").read_bytes()
    return b"__asan_init" in text or b"__tsan_init" in text


def run(command, **options):
    """Runs one program to its end; its sanitizers must be silent whatever it returns."""
    result = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        stdin=subprocess.DEVNULL,
        **options,
    )
    check_clean(result.stderr)
    return result


def assert_refused(result, code=1):
    """Failed as section 8 wants it: exit code and one line on standard error."""
    assert result.returncode == code, (result.returncode, result.stdout, result.stderr)
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].strip(), result.stderr
    return lines[0]


def public_key_base64(key):
    return base64.b64encode(crypto.spki(key.public_key())).decode()


class Server:
    """tmkd in a folder of its own, made by `tmkctl init --embedded`."""

    def __init__(self, programs, prks="rsa:2048", tmk_store="token"):
        self.programs = programs
        self.dir = short_dir() / "d"
        self.conf = self.dir / "tmkd.conf"
        self.process = None
        self.log_path = self.dir.parent / "log"
        self.init = self.run(
            "tmkctl", "init", "--embedded", self.dir, "--listen", "127.0.0.1:0",
            "--prks", prks, "--tmk-store", tmk_store,
        )  # fmt: skip
        assert self.init.returncode == 0, self.init.stderr
        if is_sanitized(programs):
            self.configure("users", chroot="")

    def run(self, program, *arguments):
        return run([self.programs / program, *arguments])

    def configure(self, section, **settings):
        """Adds settings to the configuration; before start()."""
        lines = [f"    {name} = {json.dumps(value)}\n" for name, value in settings.items()]
        with self.conf.open("a") as conf:
            conf.write(f"{section} {{\n{''.join(lines)}}}\n")

    @property
    def root(self):
        """KSRCRT; a new object each time, because one is not to be used by two threads."""
        return x509.load_pem_x509_certificate(self.root_path.read_bytes())

    @property
    def root_path(self):
        return self.dir / "ksrcrt.pem"

    # --- the process

    def start(self):
        self.process = subprocess.Popen(
            [self.programs / "tmkd", "-c", self.conf],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.log_path.open("a"),
            text=True,
        )
        self.address = self._wait_until_ready()
        return self

    def _wait_until_ready(self):
        timer = threading.Timer(START_SECONDS, self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        match = READY.match(line.rstrip("\n"))
        assert match, f"no readiness: {line!r}\n{self.log()}"
        return match["host"], int(match["port"])

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def stop(self):
        """SIGTERM; it ends with 0, with nothing left behind and nothing to report."""
        if not self.process:
            return
        children = self.children()
        process, self.process = self.process, None
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(RUN_SECONDS)
        finally:
            process.kill()  # its children end when it is gone
            process.wait()
        process.stdout.close()
        check_clean(self.log())
        assert code == 0, (code, self.log()[-3000:])
        left = [role for role, pid in children.items() if os.path.exists(f"/proc/{pid}")]
        assert not left, f"{left} outlived tmkd"

    def remove(self):
        try:
            self.stop()
        finally:
            print(self.log()[-6000:])
            remove_dir(self.dir.parent)

    def children(self):
        """{"keeper": pid, "listener": pid} by what the processes call themselves."""
        found = {}
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            role = self._role_of(pid)
            if role:
                found[role] = pid
        return found

    def _role_of(self, pid):
        """keeper or listener, when that process is a child of tmkd; else None."""
        try:
            parent = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
            arguments = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            return None  # it has ended meanwhile
        if int(parent) != self.process.pid:
            return None
        return next((r for r in ("keeper", "listener") if r.encode() in arguments), None)

    # --- tmkctl

    def ctl(self, *arguments):
        return self.run("tmkctl", "-c", self.conf, *arguments)

    def ctl_ok(self, *arguments):
        result = self.ctl(*arguments)
        assert result.returncode == 0, (arguments, result.stdout, result.stderr)
        return result.stdout

    def ctl_json(self, *arguments):
        return json.loads(self.ctl_ok(*arguments, "--json"))

    def import_keys(self, keys, tmk="aes128"):
        """keys: {SN: private or public key}."""
        path = self.dir.parent / "import.csv"
        rows = [f"{sn},{public_key_base64(key)}\n" for sn, key in keys.items()]
        path.write_text("sn,public_key\n" + "".join(rows))
        self.ctl_ok("terminal", "import", path, "--tmk", tmk)

    def enrol(self, sn, key, tmk="aes128"):
        """A terminal in Python whose key the server knows."""
        self.import_keys({sn: key}, tmk)
        return pos.Terminal(sn, key, self.root)

    def download(self, terminal, timeout=20):
        return pos.download(terminal, self.address, timeout)

    def show(self, sn):
        return self.ctl_json("terminal", "show", sn)

    def tmk_status(self, sn):
        return self.show(sn)["tmk"]["status"]

    def audit(self, **wanted):
        """Audit records whose fields have these values."""
        records = self.ctl_json("audit", "list")
        return [r for r in records if all(r[name] == value for name, value in wanted.items())]

    def wait_for(self, condition, seconds=30):
        """Polls condition() until it is true."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds} s\n{self.log()[-3000:]}"
            time.sleep(0.1)


class TmkPos:
    """The reference terminal, in a folder of its own."""

    def __init__(self, programs):
        self.program = programs / "tmkpos"
        self.dir = short_dir() / "p"

    def run(self, command, *arguments):
        return run([self.program, command, self.dir, *arguments])

    def ok(self, command, *arguments):
        result = self.run(command, *arguments)
        assert result.returncode == 0, (command, result.stdout, result.stderr)
        return result.stdout

    def init(self, sn, key=None):
        """Makes a TKP of its own, or takes in `key`."""
        arguments = ["--sn", sn]
        if key:
            path = self.dir.parent / "tkp.pem"
            path.write_bytes(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
            path.chmod(0o600)
            arguments += ["--import", path]
        self.ok("init", *arguments)
        return self

    def download(self, address, root):
        """root: the path of KSRCRT."""
        host, port = address
        return self.run("download", "--server", f"{host}:{port}", "--root", root)

    def show(self):
        return json.loads(self.ok("show", "--json"))

    def remove(self):
        remove_dir(self.dir.parent)
