"""The independent terminal agrees with the vectors, in both directions and at every step."""

import json
import pathlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

import crypto
import pos
import wire

FILE = pathlib.Path(__file__).parent.parent / "vectors" / "protocol-v1.json"
DATA = json.loads(FILE.read_text())


@pytest.fixture(params=DATA["vectors"], ids=lambda v: v["name"])
def vector(request):
    return request.param


def private_key(pem):
    return serialization.load_pem_private_key(pem.encode(), None)


def certificate(pem):
    return x509.load_pem_x509_certificate(pem.encode())


def bytes_of(vector, name):
    return bytes.fromhex(vector[name])


def message(vector, name):
    return bytes.fromhex(vector["messages_der"][name])


def test_messages_survive_decoding_and_encoding(vector):
    for name in vector["messages_der"]:
        got, value = wire.decode(message(vector, name))
        assert got == name
        fields = {field: value[field] for field in value}
        assert wire.encode(name, **fields) == message(vector, name)


def test_server_values(vector):
    tkp_pu = private_key(vector["tkp"]).public_key()
    h = bytes_of(vector, "transcript_h")
    m1 = crypto.m1(bytes_of(vector, "rnd1"), h)
    assert m1 == bytes_of(vector, "m1")
    puks = certificate(vector["kswcrt"]).public_key()
    assert crypto.c1_holds(puks, bytes_of(vector, "c1"), m1)
    assert crypto.c1_holds(puks, crypto.make_c1(private_key(vector["prks"]), m1), m1)
    assert crypto.sha256(crypto.spki(tkp_pu)) == bytes_of(vector, "tkp_spki_sha256")
    assert crypto.c2_seed(tkp_pu, h) == bytes_of(vector, "c2_seed")
    assert crypto.c2_block(tkp_pu, bytes_of(vector, "rnd2"), h) == bytes_of(vector, "c2_em")
    assert crypto.c2(tkp_pu, bytes_of(vector, "rnd2"), h) == bytes_of(vector, "c2")


def test_rsa_c1_is_exactly_the_vector(vector):
    if vector["name"].startswith("rsa"):  # ECDSA is different each time
        c1 = crypto.make_c1(private_key(vector["prks"]), bytes_of(vector, "m1"))
        assert c1 == bytes_of(vector, "c1")


def test_terminal_goes_through_all_steps(vector):
    root = certificate(DATA["ksrcrt"])
    terminal = pos.Terminal(vector["sn"], private_key(vector["tkp"]), root)
    assert terminal.hello(bytes_of(vector, "rnd1")) == message(vector, "hello")
    terminal.take_challenge(message(vector, "challenge"))
    assert terminal.h == bytes_of(vector, "transcript_h")
    assert terminal.digest == bytes_of(vector, "delivery_digest")
    assert terminal.proof() == message(vector, "proof")
    terminal.take_delivery(message(vector, "delivery"))
    assert terminal.tmk == bytes_of(vector, "tmk")
    assert terminal.kind == vector["tmk_type"]
    assert terminal.kcv == vector["kcv"]
    assert terminal.confirm() == message(vector, "confirm")
    terminal.take_done(message(vector, "done"))


def test_failure_is_told(vector):
    terminal = pos.Terminal(vector["sn"], private_key(vector["tkp"]), certificate(DATA["ksrcrt"]))
    terminal.hello()
    with pytest.raises(pos.Failed) as failed:
        terminal.take_challenge(message(vector, "failure"))
    assert (failed.value.code, failed.value.retry_after) == ("busy", 5)


def test_any_changed_byte_is_refused(vector):
    """The terminal has to be strict itself, or what it completes would prove little."""
    root = certificate(DATA["ksrcrt"])
    terminal = pos.Terminal(vector["sn"], private_key(vector["tkp"]), root)
    terminal.hello(bytes_of(vector, "rnd1"))
    terminal.take_challenge(message(vector, "challenge"))
    honest = message(vector, "delivery")
    for place in range(len(honest)):
        changed = bytearray(honest)
        changed[place] ^= 1
        with pytest.raises((pos.Refused, wire.Malformed)):
            terminal.take_delivery(bytes(changed))
    assert terminal.tmk is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda der: bytes.fromhex("a506300402020001"),
        lambda der: der + b"\x00",
        lambda der: der[:-1],
        lambda der: b"\xa5\x81\x05" + der[2:],
        lambda der: b"\xa5\x80" + der[2:] + b"\x00\x00",
    ],
    ids=["long integer", "trailing", "short", "long length", "indefinite"],
)
def test_decoder_is_strict(spoil):
    done = message(DATA["vectors"][0], "done")
    with pytest.raises(wire.Malformed):
        wire.decode(spoil(done))
