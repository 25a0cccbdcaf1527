"""The wire protocol (schema/tmk-download.asn1) for the tests: strict DER and frames.

Written from the specification with asn1crypto; it shares nothing with src/wire, so that an error
of one is seen by the other.
"""

import socket
import time

from asn1crypto import core, x509

MESSAGE_MAX = 8192


class Malformed(ValueError):
    """Bytes that are not the DER of one Message."""


class Closed(ConnectionError):
    """The other side closed the connection."""


class Hello(core.Sequence):
    _fields = [("version", core.Integer), ("sn", core.UTF8String), ("rnd1", core.OctetString)]


class Certificates(core.SequenceOf):
    _child_spec = x509.Certificate


class ChallengeTBS(core.Sequence):
    _fields = [
        ("rnd2", core.OctetString),
        ("deliveryDigest", core.OctetString),
        ("kswcrt", Certificates),
    ]


class Challenge(core.Sequence):
    _fields = [("tbs", ChallengeTBS), ("c1", core.OctetString)]


class Proof(core.Sequence):
    _fields = [("c2", core.OctetString)]


class TMKType(core.Enumerated):
    _map = {0: "des2", 1: "des3", 2: "aes128", 3: "aes192", 4: "aes256"}


class TMKInfo(core.Sequence):
    _fields = [("type", TMKType), ("version", core.Integer), ("kcv", core.OctetString)]


class HashAlgorithm(core.Sequence):
    _fields = [("algorithm", core.ObjectIdentifier), ("parameters", core.Null)]


class MaskGenAlgorithm(core.Sequence):
    _fields = [("algorithm", core.ObjectIdentifier), ("parameters", HashAlgorithm)]


class OAEPParameters(core.Sequence):
    _fields = [
        ("hash", HashAlgorithm, {"explicit": 0, "optional": True}),
        ("maskGen", MaskGenAlgorithm, {"explicit": 1, "optional": True}),
    ]


class Transport(core.Sequence):
    """AlgorithmIdentifier; the only one there is here is RSAES-OAEP (RFC 4055 4.1)."""

    _fields = [("algorithm", core.ObjectIdentifier), ("parameters", OAEPParameters)]


class Delivery(core.Sequence):
    _fields = [
        ("ctmk", core.OctetString),
        ("transport", Transport),
        ("tmk", TMKInfo),
    ]


class Confirm(core.Sequence):
    _fields = [("mac", core.OctetString)]


class Done(core.Sequence):
    _fields = [("version", core.Integer)]


class FailureCode(core.Enumerated):
    _map = {1: "malformed", 2: "unsupportedVersion", 3: "rejected", 4: "busy", 5: "internal"}


class Failure(core.Sequence):
    _fields = [("code", FailureCode), ("retryAfter", core.Integer, {"optional": True})]


class Message(core.Choice):
    _alternatives = [
        ("hello", Hello, {"explicit": 0}),
        ("challenge", Challenge, {"explicit": 1}),
        ("proof", Proof, {"explicit": 2}),
        ("delivery", Delivery, {"explicit": 3}),
        ("confirm", Confirm, {"explicit": 4}),
        ("done", Done, {"explicit": 5}),
        ("failure", Failure, {"explicit": 6}),
    ]


# What Transport can be; SHA-1 is the default of each field, which DER leaves out.
TRANSPORT_DER = {
    "sha1": bytes.fromhex("300d06092a864886f70d0101073000"),
    "sha256": bytes.fromhex(
        "303c06092a864886f70d010107302f"
        "a00f300d06096086480165030402010500"
        "a11c301a06092a864886f70d010108300d06096086480165030402010500"
    ),
}
TRANSPORTS = {der: digest for digest, der in TRANSPORT_DER.items()}


def encode(name, **fields):
    """The DER of the Message `name`; a field that is a dict becomes the inner SEQUENCE."""
    return Message(name, fields).dump(force=True)


def encode_value(name, value):
    """The DER of a Message around a SEQUENCE that exists already."""
    return Message(name, value).dump(force=True)


def decode(der):
    """(name, SEQUENCE) of one Message, every size and range of the schema checked."""
    try:
        message = Message.load(der, strict=True)
        native = message.chosen.native  # asn1crypto parses late: make it look at all of it now
        again = message.dump(force=True)
    except (ValueError, TypeError, KeyError) as error:
        raise Malformed(str(error).replace("\n", " ")) from None
    if again != der:
        raise Malformed("not DER")
    _check_sizes(message.name, native)
    return message.name, message.chosen.untag()


def _check_sizes(name, native):
    checks = {
        "hello": lambda m: m["version"] == 1
        and 1 <= len(m["sn"]) <= 64
        and all("!" <= c <= "~" for c in m["sn"])
        and len(m["rnd1"]) == 32,
        "challenge": lambda m: len(m["tbs"]["rnd2"]) == 32
        and len(m["tbs"]["deliveryDigest"]) == 32
        and 1 <= len(m["tbs"]["kswcrt"]) <= 4,
        "proof": lambda m: True,
        "delivery": lambda m: 3 <= len(m["tmk"]["kcv"]) <= 5,
        "confirm": lambda m: 8 <= len(m["mac"]) <= 16,
        "done": lambda m: True,
        "failure": lambda m: m.get("retryAfter") is None or 0 <= m["retryAfter"] <= 3600,
    }
    if not checks[name](native):
        raise Malformed(f"{name}: a size or range of the schema does not hold")


def frame(body):
    return len(body).to_bytes(2, "big") + body


class Link:
    """One connection that carries frames, with a deadline for each wait."""

    def __init__(self, sock, timeout=20):
        self.sock = sock
        self.timeout = timeout
        sock.settimeout(timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @classmethod
    def connect(cls, address, timeout=20):
        return cls(socket.create_connection(address, timeout=timeout), timeout)

    def send(self, message):
        self.send_bytes(frame(message))

    def send_bytes(self, data):
        self.sock.sendall(data)

    def receive(self):
        """The body of the next frame; Closed when there is none."""
        return self._exactly(int.from_bytes(self._exactly(2), "big"))

    def _exactly(self, size):
        end = time.monotonic() + self.timeout
        data = b""
        while len(data) < size:
            self.sock.settimeout(max(0.001, end - time.monotonic()))
            try:
                part = self.sock.recv(size - len(data))
            except ConnectionResetError:
                part = b""
            if not part:
                raise Closed(f"closed after {len(data)} of {size} bytes")
            data += part
        return data

    def is_closed(self):
        """Whether the other side closes, and sends nothing before it does."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
