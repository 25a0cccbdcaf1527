"""Certificates a test issues itself: good ones and those a terminal must not believe."""

from datetime import datetime, timedelta

from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import pos

KEY_PURPOSE_SERVER_AUTH = "1.3.6.1.5.5.7.3.1"


def _name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _key_usage(**on):
    names = [
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ]
    return x509.KeyUsage(**{name: on.get(name, False) for name in names})


def _builder(subject, issuer, public_key, days):
    now = datetime.utcnow()
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
    )


class Authority:
    """A root (KSRCRT) with its key, or one below another."""

    def __init__(self, name="Test KSR", issuer=None, days=(-2, 365)):
        self.key = ec.generate_private_key(ec.SECP256R1())
        signer, signer_name = self.key, _name(name)
        if issuer:
            signer, signer_name = issuer.key, issuer.certificate.subject
        builder = _builder(name, signer_name, self.key.public_key(), days)
        builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
        builder = builder.add_extension(_key_usage(key_cert_sign=True), critical=True)
        self.certificate = builder.sign(signer, hashes.SHA256())

    @property
    def pem(self):
        return pem(self.certificate)

    def issue(
        self, public_key, days=(-1, 30), purpose=pos.KEY_PURPOSE_CMKGA, usage="digital_signature"
    ):
        """A KSWCRT; purpose or usage None leaves the extension out."""
        builder = _builder("Test KSW", self.certificate.subject, public_key, days)
        builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
        if usage:
            builder = builder.add_extension(_key_usage(**{usage: True}), critical=True)
        if purpose:
            purposes = x509.ExtendedKeyUsage([x509.ObjectIdentifier(purpose)])
            builder = builder.add_extension(purposes, critical=False)
        return builder.sign(self.key, hashes.SHA256())


def pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


def for_wire(certificate):
    """The same certificate as asn1crypto has it."""
    return asn1_x509.Certificate.load(certificate.public_bytes(serialization.Encoding.DER))
