#include "common/spki.h"

#include <string.h>

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/sha.h>
#include <openssl/x509.h>

#include "common/fail.h"

static int check_numbers(const BIGNUM *n, const BIGNUM *e)
{
    int bits = BN_num_bits(n);
    if (bits != 2048 && bits != 3072 && bits != 4096)
        return fail(FAIL_REFUSED, "an RSA key of %d bits; 2048, 3072 and 4096 are accepted", bits);
    if (!BN_is_odd(n))
        return fail(FAIL_REFUSED, "an RSA modulus that is even");
    if (!BN_is_odd(e) || BN_num_bits(e) < 17 || BN_num_bytes(e) > SPKI_EXPONENT_MAX)
        return fail(FAIL_REFUSED,
                    "an RSA public exponent that is not odd, under 65537 or over 64 bits");
    return 0;
}

static int take_numbers(const BIGNUM *n, const BIGNUM *e, struct spki *spki)
{
    int rc = check_numbers(n, e);
    if (rc < 0)
        return rc;
    spki->bits = (unsigned)BN_num_bits(n);
    spki->modulus_len = (size_t)BN_bn2bin(n, spki->modulus);
    spki->exponent_len = (size_t)BN_bn2bin(e, spki->exponent);
    return 0;
}

/* Fills ret from key; der, when given, must be exactly the encoding of key. */
static int spki_from_key(EVP_PKEY *key, const uint8_t *der, size_t len, struct spki *ret)
{
    int rc = FAIL_MALFORMED;
    struct spki spki = {0};
    unsigned char *again = NULL;
    BIGNUM *n = NULL;
    BIGNUM *e = NULL;

    int again_len = i2d_PUBKEY(key, &again);
    if (again_len <= 0 || again_len > SPKI_DER_MAX) {
        rc = fail(FAIL_REFUSED, "a public key of more than %d bytes", SPKI_DER_MAX);
        goto out;
    }
    if (der && ((size_t)again_len != len || memcmp(again, der, len) != 0)) {
        rc = fail(FAIL_MALFORMED, "a SubjectPublicKeyInfo that is not strict DER");
        goto out;
    }
    if (!EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_N, &n) ||
        !EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_E, &e)) {
        rc = fail_crypto("cannot read the RSA public key");
        goto out;
    }
    if ((rc = take_numbers(n, e, &spki)) < 0)
        goto out;
    spki.der_len = (size_t)again_len;
    memcpy(spki.der, again, spki.der_len);
    SHA256(spki.der, spki.der_len, spki.sha256);
    *ret = spki;
    rc = 0;
out:
    BN_free(n);
    BN_free(e);
    OPENSSL_free(again);
    return rc;
}

int spki_read(const uint8_t *der, size_t len, struct spki *ret)
{
    const unsigned char *at = der;
    EVP_PKEY *key = len <= SPKI_DER_MAX ? d2i_PUBKEY(NULL, &at, (long)len) : NULL;
    int rc = FAIL_MALFORMED;

    if (!key || at != der + len)
        rc = fail(FAIL_MALFORMED, "not a DER SubjectPublicKeyInfo of a known key type");
    else if (!EVP_PKEY_is_a(key, "RSA"))
        rc = fail(FAIL_REFUSED, "its type is %s; TKP_Pu must be RSA", EVP_PKEY_get0_type_name(key));
    else
        rc = spki_from_key(key, der, len, ret);
    EVP_PKEY_free(key);
    return rc;
}

static EVP_PKEY *key_from_numbers(BIGNUM *n, BIGNUM *e)
{
    EVP_PKEY *key = NULL;
    OSSL_PARAM *parameters = NULL;
    OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);

    if (n && e && build && context && OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_N, n) &&
        OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_E, e) &&
        (parameters = OSSL_PARAM_BLD_to_param(build)) && EVP_PKEY_fromdata_init(context) == 1 &&
        EVP_PKEY_fromdata(context, &key, EVP_PKEY_PUBLIC_KEY, parameters) != 1)
        key = NULL;
    OSSL_PARAM_free(parameters);
    OSSL_PARAM_BLD_free(build);
    EVP_PKEY_CTX_free(context);
    return key;
}

int spki_from_numbers(const uint8_t *modulus, size_t modulus_len, const uint8_t *exponent,
                      size_t exponent_len, struct spki *ret)
{
    BIGNUM *n = BN_bin2bn(modulus, (int)modulus_len, NULL);
    BIGNUM *e = BN_bin2bn(exponent, (int)exponent_len, NULL);
    EVP_PKEY *key = key_from_numbers(n, e);
    int rc = key ? spki_from_key(key, NULL, 0, ret) : fail_crypto("cannot make an RSA public key");

    EVP_PKEY_free(key);
    BN_free(n);
    BN_free(e);
    return rc;
}
