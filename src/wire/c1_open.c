#include "wire/c1_open.h"

#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/rsa.h>
#include <openssl/sha.h>

#include "common/fail.h"

enum { P256_NUMBER_LEN = 32 };

static int refuse(const char *why)
{
    ERR_clear_error();
    return fail(FAIL_REFUSED, "%s", why);
}

/* The patent's D[PuKS, C1]; ret_block has RSA_BLOCK_MAX bytes. */
static int recover(EVP_PKEY *puks, const uint8_t *c1, size_t len, uint8_t *ret_block,
                   size_t *ret_len)
{
    size_t block_len = RSA_BLOCK_MAX;
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(puks, NULL);
    int ok = context && EVP_PKEY_verify_recover_init(context) == 1 &&
             EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PADDING) == 1 &&
             EVP_PKEY_verify_recover(context, ret_block, &block_len, c1, len) == 1;

    EVP_PKEY_CTX_free(context);
    if (!ok)
        return refuse("C1 does not open with PuKS: the server does not hold PrKS of its KSWCRT");
    *ret_len = block_len;
    return 0;
}

static int check_rsa(EVP_PKEY *puks, const uint8_t *c1, size_t len, const uint8_t *m1)
{
    uint8_t block[RSA_BLOCK_MAX];
    size_t block_len = 0;

    if (len != (size_t)EVP_PKEY_get_size(puks))
        return refuse("C1 has not the length of PuKS");
    int rc = recover(puks, c1, len, block, &block_len);
    if (rc < 0)
        return rc;
    if (block_len != M1_LEN || CRYPTO_memcmp(block, m1, M1_LEN) != 0)
        return refuse("C1 opens to another Rnd1 or other messages than those of this download: it "
                      "is of another handshake, or something was changed on the way");
    return 0;
}

/* r || s as the DER that OpenSSL verifies (SEC 1 C.8); *ret_der by OPENSSL_free(). */
static int signature_der(const uint8_t *c1, unsigned char **ret_der)
{
    BIGNUM *r = BN_bin2bn(c1, P256_NUMBER_LEN, NULL);
    BIGNUM *s = BN_bin2bn(c1 + P256_NUMBER_LEN, P256_NUMBER_LEN, NULL);
    ECDSA_SIG *signature = ECDSA_SIG_new();
    int len = -1;

    if (r && s && signature && ECDSA_SIG_set0(signature, r, s)) {
        r = s = NULL;
        len = i2d_ECDSA_SIG(signature, ret_der);
    }
    BN_free(r);
    BN_free(s);
    ECDSA_SIG_free(signature);
    return len > 0 ? len : fail_crypto("cannot encode C1 as an ECDSA signature");
}

static int check_p256(EVP_PKEY *puks, const uint8_t *c1, size_t len, const uint8_t *m1)
{
    uint8_t digest[SHA256_DIGEST_LENGTH];
    unsigned char *der = NULL;

    if (len != 2 * P256_NUMBER_LEN)
        return refuse("C1 is not r || s of 64 bytes");
    int der_len = signature_der(c1, &der);
    if (der_len < 0)
        return der_len;
    SHA256(m1, M1_LEN, digest);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(puks, NULL);
    int ok = context && EVP_PKEY_verify_init(context) == 1 &&
             EVP_PKEY_verify(context, der, (size_t)der_len, digest, sizeof(digest)) == 1;
    EVP_PKEY_CTX_free(context);
    OPENSSL_free(der);
    return ok ? 0
              : refuse("C1 is not PrKS's over this Rnd1 and these messages: the server does not "
                       "hold PrKS of its KSWCRT, or C1 is of another handshake, or something was "
                       "changed on the way");
}

int c1_open(EVP_PKEY *puks, const uint8_t *c1, size_t len, const uint8_t m1[static M1_LEN])
{
    return EVP_PKEY_is_a(puks, "RSA") ? check_rsa(puks, c1, len, m1)
                                      : check_p256(puks, c1, len, m1);
}
