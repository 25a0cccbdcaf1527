#include "hsm/c1.h"

#include <string.h>

#include <openssl/err.h>
#include <openssl/rsa.h>
#include <openssl/sha.h>
#include <openssl/x509.h>

#include "common/fail.h"
#include "hsm/cryptoki.h"

enum { P256_LEN = 32 }; /* bytes of r and of s */

int c1_sign(struct token_session *session, const struct keyring *keyring,
            const uint8_t m1[static M1_LEN], uint8_t ret_c1[static RSA_BLOCK_MAX], size_t *ret_len)
{
    uint8_t digest[SHA256_DIGEST_LENGTH];

    if (keyring->prks_spec.kind == PRKS_RSA)
        return token_sign(session, CKM_RSA_PKCS, keyring->prks, m1, M1_LEN, ret_c1, RSA_BLOCK_MAX,
                          ret_len);
    SHA256(m1, M1_LEN, digest);
    return token_sign(session, CKM_ECDSA, keyring->prks, digest, sizeof(digest), ret_c1,
                      RSA_BLOCK_MAX, ret_len);
}

static int opens_rsa(EVP_PKEY *key, const uint8_t m1[static M1_LEN], const uint8_t *c1, size_t len)
{
    uint8_t recovered[RSA_BLOCK_MAX];
    size_t recovered_len = sizeof(recovered);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(key, NULL);
    int opens = context && (size_t)EVP_PKEY_get_size(key) == len &&
                EVP_PKEY_verify_recover_init(context) == 1 &&
                EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PADDING) == 1 &&
                EVP_PKEY_verify_recover(context, recovered, &recovered_len, c1, len) == 1 &&
                recovered_len == M1_LEN && memcmp(recovered, m1, M1_LEN) == 0;
    EVP_PKEY_CTX_free(context);
    return opens;
}

/* OpenSSL wants the DER of r and s. Returns its length, or a negative number. */
static int encode_signature(const uint8_t rs[static 2 * P256_LEN], unsigned char **ret_der)
{
    int len = -1;
    ECDSA_SIG *signature = ECDSA_SIG_new();
    BIGNUM *r = BN_bin2bn(rs, P256_LEN, NULL);
    BIGNUM *s = BN_bin2bn(rs + P256_LEN, P256_LEN, NULL);
    if (signature && r && s && ECDSA_SIG_set0(signature, r, s)) {
        r = s = NULL; /* now the signature's */
        len = i2d_ECDSA_SIG(signature, ret_der);
    }
    BN_free(r);
    BN_free(s);
    ECDSA_SIG_free(signature);
    return len;
}

static int fits_p256(EVP_PKEY *key, const uint8_t m1[static M1_LEN], const uint8_t *c1, size_t len)
{
    uint8_t digest[SHA256_DIGEST_LENGTH];
    unsigned char *der = NULL;
    int der_len = len == 2 * P256_LEN ? encode_signature(c1, &der) : -1;
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(key, NULL);
    SHA256(m1, M1_LEN, digest);
    int fits = context && der_len > 0 && EVP_PKEY_verify_init(context) == 1 &&
               EVP_PKEY_verify(context, der, (size_t)der_len, digest, sizeof(digest)) == 1;
    EVP_PKEY_CTX_free(context);
    OPENSSL_free(der);
    return fits;
}

int c1_verify(const struct keyring *keyring, const uint8_t m1[static M1_LEN], const uint8_t *c1,
              size_t len)
{
    size_t der_len;
    const uint8_t *der = cert_chain_at(&keyring->kswcrt, 0, &der_len);
    X509 *leaf = d2i_X509(NULL, &der, (long)der_len);
    EVP_PKEY *key = leaf ? X509_get0_pubkey(leaf) : NULL;
    int right = 0;
    if (key && keyring->prks_spec.kind == PRKS_RSA && EVP_PKEY_is_a(key, "RSA"))
        right = opens_rsa(key, m1, c1, len);
    else if (key && keyring->prks_spec.kind == PRKS_P256 && EVP_PKEY_is_a(key, "EC"))
        right = fits_p256(key, m1, c1, len);
    X509_free(leaf);
    ERR_clear_error();
    return right ? 0
                 : fail(FAIL_REFUSED, "KSWCRT in the token is not a certificate of PrKS; install "
                                      "the right one with 'tmkctl cert install'");
}
