"""The values of the protocol (design section 5), computed from the specification.

RFC 8017 for the OAEP block with a given seed and for the bare RSA operation; the rest is
`cryptography`. Keys are objects of that library.
"""

import hashlib
import hmac

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import cmac, hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

LABEL_C1 = b"TMKD-C1\x01"
LABEL_C2 = b"TMKD-C2\x01"
LABEL_C2_SEED = b"TMKD-C2-SEED\x01"
LABEL_CONFIRM = b"TMKD-CONFIRM\x01"

KEY_SIZES = {"des2": 16, "des3": 24, "aes128": 16, "aes192": 24, "aes256": 32}


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def spki(public_key):
    """DER SubjectPublicKeyInfo."""
    return public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def transcript(hello_der, tbs_der):
    """H, over the SEQUENCEs Hello and ChallengeTBS."""
    return sha256(hello_der, tbs_der)


def m1(rnd1, h):
    return LABEL_C1 + rnd1 + h


def raw_rsa(public_key, block):
    """RSAEP (RFC 8017 5.1.1), octets to octets."""
    numbers = public_key.public_numbers()
    size = (public_key.key_size + 7) // 8
    return pow(int.from_bytes(block, "big"), numbers.e, numbers.n).to_bytes(size, "big")


def raw_rsa_private(private_key, block):
    """RSADP (RFC 8017 5.1.2); for a false server that signs what it should not."""
    numbers = private_key.private_numbers()
    size = (private_key.key_size + 7) // 8
    n = numbers.public_numbers.n
    return pow(int.from_bytes(block, "big"), numbers.d, n).to_bytes(size, "big")


def make_c1(private_key, message):
    """The server's side of C1."""
    if isinstance(private_key, ec.EllipticCurvePrivateKey):
        r, s = utils.decode_dss_signature(private_key.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    size = private_key.key_size // 8
    block = b"\x00\x01" + b"\xff" * (size - 3 - len(message)) + b"\x00" + message
    return raw_rsa_private(private_key, block)


def c1_holds(public_key, c1, message):
    """The terminal's check of C1: RSA recovers M1 itself, P-256 verifies r || s."""
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        if len(c1) != 64:
            return False
        signature = utils.encode_dss_signature(
            int.from_bytes(c1[:32], "big"), int.from_bytes(c1[32:], "big")
        )
        try:
            public_key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True
    if len(c1) != public_key.key_size // 8:
        return False
    try:
        opened = public_key.recover_data_from_signature(c1, padding.PKCS1v15(), None)
    except InvalidSignature:
        return False
    return opened == message


def mgf1(seed, size, digest="sha256"):
    """RFC 8017 B.2.1."""
    mask = b""
    counter = 0
    while len(mask) < size:
        mask += hashlib.new(digest, seed + counter.to_bytes(4, "big")).digest()
        counter += 1
    return mask[:size]


def xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def oaep_block(message, label, seed, size):
    """EME-OAEP encoding (RFC 8017 7.1.1 step 2) with SHA-256, MGF1-SHA-256 and this seed."""
    data = sha256(label)
    data += b"\x00" * (size - len(message) - 2 * 32 - 2) + b"\x01" + message
    masked = xor(data, mgf1(seed, len(data)))
    return b"\x00" + xor(seed, mgf1(masked, 32)) + masked


def c2_seed(tkp_pu, h):
    return hmac.new(sha256(spki(tkp_pu)), LABEL_C2_SEED + h, hashlib.sha256).digest()


def c2_block(tkp_pu, rnd2, h):
    """EM, before it is raised to TKP_Pu."""
    return oaep_block(rnd2, LABEL_C2 + h, c2_seed(tkp_pu, h), tkp_pu.key_size // 8)


def c2(tkp_pu, rnd2, h):
    return raw_rsa(tkp_pu, c2_block(tkp_pu, rnd2, h))


def oaep(digest):
    algorithm = {"sha1": hashes.SHA1, "sha256": hashes.SHA256}[digest]()
    return padding.OAEP(padding.MGF1(algorithm), algorithm, None)


def wrap_tmk(tkp_pu: rsa.RSAPublicKey, tmk, digest):
    return tkp_pu.encrypt(tmk, oaep(digest))


def unwrap_tmk(tkp_pr: rsa.RSAPrivateKey, ctmk, digest):
    """ValueError when it is not a Ctmk for this key."""
    return tkp_pr.decrypt(ctmk, oaep(digest))


def _cmac(kind, tmk, data):
    algorithm = algorithms.AES if kind.startswith("aes") else algorithms.TripleDES
    mac = cmac.CMAC(algorithm(tmk))
    mac.update(data)
    return mac.finalize()


def kcv(kind, tmk):
    """ANSI X9.24-1: TDEA by encryption of zeros, AES by CMAC of zeros."""
    if kind.startswith("aes"):
        return _cmac(kind, tmk, bytes(16))[:5]
    encryptor = Cipher(algorithms.TripleDES(tmk), modes.ECB()).encryptor()
    return encryptor.update(bytes(8))[:3]


def confirm_mac(kind, tmk, h, digest):
    return _cmac(kind, tmk, LABEL_CONFIRM + h + digest)
