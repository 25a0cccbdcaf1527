"""A second terminal, written from design section 5 and not from our C.

Terminal holds the keys and does the steps, bytes in and bytes out, so that a test can leave
one out, do it twice or change what it gives. download() is the honest sequence over a Link.
"""

import os
from datetime import datetime, timezone

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtensionOID

import crypto
import wire

KEY_PURPOSE_CMKGA = "1.3.6.1.5.5.7.3.32"  # id-kp-cmKGA, RFC 9480


class Refused(Exception):
    """The terminal stops: a check of S305 to S311 failed."""


class Failed(Exception):
    """The server answered with a Failure."""

    def __init__(self, der):
        self.der = der
        _, value = wire.decode(der)
        self.code = value["code"].native
        self.retry_after = value["retryAfter"].native
        super().__init__(self.code)


def _issued_by(certificate, issuer):
    if certificate.issuer != issuer.subject:
        return False
    key = issuer.public_key()
    arguments = [certificate.signature, certificate.tbs_certificate_bytes]
    if isinstance(key, rsa.RSAPublicKey):
        arguments += [padding.PKCS1v15(), certificate.signature_hash_algorithm]
    elif isinstance(key, ec.EllipticCurvePublicKey):
        arguments.append(ec.ECDSA(certificate.signature_hash_algorithm))
    else:
        return False
    try:
        key.verify(*arguments)
    except InvalidSignature:
        return False
    return True


def _extension(certificate, oid):
    try:
        return certificate.extensions.get_extension_for_oid(oid).value
    except x509.ExtensionNotFound:
        return None


def _is_authority(certificate):
    constraints = _extension(certificate, ExtensionOID.BASIC_CONSTRAINTS)
    usage = _extension(certificate, ExtensionOID.KEY_USAGE)
    return bool(constraints and constraints.ca) and (usage is None or usage.key_cert_sign)


def check_chain(chain, root, now=None):
    """S305: the public key of chain[0], when the chain ends in root; Refused otherwise."""
    now = now or datetime.now(timezone.utc).replace(tzinfo=None)
    for certificate in [*chain, root]:
        if not certificate.not_valid_before <= now <= certificate.not_valid_after:
            raise Refused("a certificate is not valid now")
    for certificate, issuer in zip(chain, [*chain[1:], root], strict=True):
        if not _issued_by(certificate, issuer) or not _is_authority(issuer):
            raise Refused("the chain does not end in KSRCRT")
    usage = _extension(chain[0], ExtensionOID.KEY_USAGE)
    if usage is None or not usage.digital_signature:
        raise Refused("keyUsage is not digitalSignature")
    purposes = _extension(chain[0], ExtensionOID.EXTENDED_KEY_USAGE)
    if purposes is None or KEY_PURPOSE_CMKGA not in [p.dotted_string for p in purposes]:
        raise Refused("extendedKeyUsage is not id-kp-cmKGA")
    return chain[0].public_key()


class Terminal:
    def __init__(self, sn, tkp_pr, root):
        """tkp_pr: an RSA private key. root: KSRCRT as a cryptography certificate."""
        self.sn = sn
        self.tkp_pr = tkp_pr
        self.tkp_pu = tkp_pr.public_key()
        self.root = root
        self.tmk = self.kind = self.version = self.kcv = None

    def hello(self, rnd1=None):
        """S301."""
        self.rnd1 = rnd1 or os.urandom(32)
        message = wire.Hello({"version": 1, "sn": self.sn, "rnd1": self.rnd1})
        self.hello_der = message.dump()
        return wire.encode_value("hello", message)

    def take_challenge(self, der):
        """S305, S306."""
        value = self._expect("challenge", der)
        tbs = value["tbs"]
        chain = [x509.load_der_x509_certificate(c.dump()) for c in tbs["kswcrt"]]
        puks = check_chain(chain, self.root)
        self.rnd2 = tbs["rnd2"].native
        self.digest = tbs["deliveryDigest"].native
        self.h = crypto.transcript(self.hello_der, tbs.dump())
        if not crypto.c1_holds(puks, value["c1"].native, crypto.m1(self.rnd1, self.h)):
            raise Refused("C1 is not of this handshake or not by PrKS")

    def proof(self):
        """S306."""
        return wire.encode("proof", c2=crypto.c2(self.tkp_pu, self.rnd2, self.h))

    def take_delivery(self, der):
        """S310, S311. What was installed before stays when it is refused."""
        value = self._expect("delivery", der)
        if crypto.sha256(value.dump()) != self.digest:
            raise Refused("this is not the Delivery the server signed for")
        info = value["tmk"].native
        tmk = self._unwrap(value)
        if len(tmk) != crypto.KEY_SIZES[info["type"]]:
            raise Refused("the TMK is not of its type's length")
        if crypto.kcv(info["type"], tmk) != info["kcv"]:
            raise Refused("the KCV differs")
        self.tmk, self.kind, self.version = tmk, info["type"], info["version"]
        self.kcv = info["kcv"].hex()

    def _unwrap(self, value):
        digest = wire.TRANSPORTS.get(value["transport"].dump())
        if digest is None:
            raise Refused("unknown transport")
        try:
            return crypto.unwrap_tmk(self.tkp_pr, value["ctmk"].native, digest)
        except ValueError:
            raise Refused("Ctmk does not open with TKP_Pr") from None

    def confirm(self):
        mac = crypto.confirm_mac(self.kind, self.tmk, self.h, self.digest)
        return wire.encode("confirm", mac=mac)

    def take_done(self, der):
        if self._expect("done", der)["version"].native != self.version:
            raise Refused("done is about another version")

    @staticmethod
    def _expect(name, der):
        got, value = wire.decode(der)
        if got == "failure":
            raise Failed(der)
        if got != name:
            raise Refused(f"{got} came for {name}")
        return value


def download(terminal, address, timeout=20):
    """One whole, honest download."""
    with wire.Link.connect(address, timeout) as link:
        link.send(terminal.hello())
        terminal.take_challenge(link.receive())
        link.send(terminal.proof())
        terminal.take_delivery(link.receive())
        link.send(terminal.confirm())
        terminal.take_done(link.receive())
    return terminal
