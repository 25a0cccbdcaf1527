"""The false server, when honest, satisfies the independent terminal: what it refuses later is
then refused for the one thing a test has spoiled."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import certificates
import crypto
import false_server
import pos


@pytest.fixture(params=["rsa:2048", "ec:p256"])
def prks(request, keys):
    return keys(9) if request.param == "rsa:2048" else ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize("digest", ["sha1", "sha256"])
@pytest.mark.parametrize("kind", crypto.KEY_SIZES)
def test_honest(prks, keys, kind, digest):
    authority = certificates.Authority()
    chain = [authority.issue(prks.public_key())]
    steps = false_server.Steps(prks, chain, keys(0).public_key(), kind, digest=digest)
    terminal = pos.Terminal("T-1", keys(0), authority.certificate)
    with false_server.Listener(steps.serve) as listener:
        pos.download(terminal, listener.address)
    assert listener.results == [True]
    assert (terminal.kind, terminal.tmk) == (kind, steps.tmk)


@pytest.mark.parametrize(
    "issued",
    [dict(days=(-9, -1)), dict(days=(1, 9)), dict(purpose=None), dict(usage=None)],
    ids=["expired", "not yet", "purpose", "usage"],
)
def test_the_terminal_judges_certificates(prks, keys, issued):
    authority = certificates.Authority()
    with pytest.raises(pos.Refused):
        pos.check_chain([authority.issue(prks.public_key(), **issued)], authority.certificate)


def test_another_root(prks):
    one, other = certificates.Authority(), certificates.Authority()
    with pytest.raises(pos.Refused):
        pos.check_chain([one.issue(prks.public_key())], other.certificate)
