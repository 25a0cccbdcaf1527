"""Fixtures: the programs of one build, servers and terminals that are gone after the test."""

import fcntl
import os
import pathlib
import sys

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import harness  # noqa: E402


@pytest.fixture(scope="session")
def programs():
    """The folder of the programs: TMKD_BUILD, or build in the source tree."""
    tree = pathlib.Path(__file__).resolve().parents[2]
    folder = pathlib.Path(os.environ.get("TMKD_BUILD", tree / "build"))
    for name in ("tmkd", "tmkctl", "tmkpos"):
        assert (folder / name).exists(), f"{folder} has no {name}: build it or set TMKD_BUILD"
    return folder


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """keys(i, bits): the i-th RSA key of that size; made once for all workers of a run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "keys"
    folder.mkdir(exist_ok=True)

    def key(i=0, bits=2048):
        path = folder / f"{bits}-{i}.pem"
        with (folder / f"{bits}-{i}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                path.write_bytes(
                    rsa.generate_private_key(65537, bits).private_bytes(
                        serialization.Encoding.PEM,
                        serialization.PrivateFormat.PKCS8,
                        serialization.NoEncryption(),
                    )
                )
            return serialization.load_pem_private_key(path.read_bytes(), None)

    return key


def _make_servers(programs):
    made = []

    def make(start=True, **options):
        server = harness.Server(programs, **options)
        made.append(server)
        return server.start() if start else server

    return made, make


def _remove_all(made):
    errors = []
    for one in made:
        try:
            one.remove()
        except AssertionError as error:
            errors.append(error)
    if errors:
        raise errors[0]


@pytest.fixture
def make_server(programs):
    """make_server(start=True, prks=, tmk_store=): a server of this test alone."""
    made, make = _make_servers(programs)
    yield make
    _remove_all(made)


@pytest.fixture
def server(make_server):
    return make_server()


@pytest.fixture(scope="module")
def shared_server(programs):
    """One server for the tests of a module that leave it as it was."""
    made, make = _make_servers(programs)
    yield make()
    _remove_all(made)


@pytest.fixture
def make_terminal(programs):
    """make_terminal(): a tmkpos folder, not yet initialised."""
    made = []

    def make():
        made.append(harness.TmkPos(programs))
        return made[-1]

    yield make
    _remove_all(made)
