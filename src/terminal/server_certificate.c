#include "terminal/server_certificate.h"

#include <string.h>

#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/objects.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

#include "common/certificate_usage.h"
#include "common/fail.h"

enum {
    SECURITY_LEVEL = 2, /* 112 bits: SSL_CTX_set_security_level(3) */
    NAME_LEN = 128,
};

int server_certificate_read(const uint8_t *der, size_t len, X509 **ret_certificate)
{
    const unsigned char *at = der;
    X509 *certificate = d2i_X509(NULL, &at, (long)len);

    if (!certificate || at != der + len) {
        X509_free(certificate);
        ERR_clear_error();
        return fail(FAIL_MALFORMED, "not one DER certificate");
    }
    *ret_certificate = certificate;
    return 0;
}

static int read_leaf(const struct cert_chain *kswcrt, X509 **ret_leaf)
{
    size_t len = 0;
    const uint8_t *der = cert_chain_at(kswcrt, 0, &len);
    return server_certificate_read(der, len, ret_leaf);
}

char *server_certificate_name(const struct cert_chain *kswcrt, char *ret_text, size_t size)
{
    X509 *leaf = NULL;
    BIO *bio = BIO_new(BIO_s_mem());

    if (!bio || read_leaf(kswcrt, &leaf) < 0 ||
        X509_NAME_print_ex(bio, X509_get_subject_name(leaf), 0, XN_FLAG_RFC2253) <= 0 ||
        BIO_gets(bio, ret_text, (int)size) <= 0)
        strcpy(ret_text, "?");
    BIO_free(bio);
    X509_free(leaf);
    return ret_text;
}

static int read_chain(const struct cert_chain *kswcrt, STACK_OF(X509) * *ret_chain)
{
    STACK_OF(X509) *chain = sk_X509_new_null();
    int rc = chain ? 0 : fail(FAIL_MEMORY, "no memory for the chain of KSWCRT");

    for (size_t i = 0; rc == 0 && i < kswcrt->count; i++) {
        X509 *certificate = NULL;
        size_t len = 0;
        const uint8_t *der = cert_chain_at(kswcrt, i, &len);
        rc = server_certificate_read(der, len, &certificate);
        if (rc == 0 && !sk_X509_push(chain, certificate)) {
            X509_free(certificate);
            rc = fail(FAIL_MEMORY, "no memory for the chain of KSWCRT");
        }
    }
    if (rc == 0)
        *ret_chain = chain;
    else
        sk_X509_pop_free(chain, X509_free);
    return rc;
}

static int refuse_chain(X509_STORE_CTX *context)
{
    int error = X509_STORE_CTX_get_error(context);
    const char *reason = X509_verify_cert_error_string(error);

    ERR_clear_error();
    if (error == X509_V_ERR_CERT_HAS_EXPIRED || error == X509_V_ERR_CERT_NOT_YET_VALID)
        return fail(FAIL_REFUSED, "%s; set this terminal's clock, or have the server renew KSWCRT",
                    reason);
    return fail(FAIL_REFUSED, "%s; this is no server under this terminal's KSRCRT", reason);
}

/* RFC 5280 section 6.1. The chain the server sent helps to find the way, only root is trusted. */
static int check_chain(X509 *leaf, STACK_OF(X509) * chain, X509 *root, int64_t now)
{
    int rc = FAIL_CRYPTO;
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *context = X509_STORE_CTX_new();

    if (!store || !context || !X509_STORE_add_cert(store, root) ||
        !X509_STORE_CTX_init(context, store, leaf, chain)) {
        rc = fail_crypto("cannot set up the check of KSWCRT");
        goto out;
    }
    X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(context);
    X509_VERIFY_PARAM_set_time(param, (time_t)now);
    X509_VERIFY_PARAM_set_auth_level(param, SECURITY_LEVEL);
    rc = X509_verify_cert(context) == 1 ? 0 : refuse_chain(context);
out:
    X509_STORE_CTX_free(context);
    X509_STORE_free(store);
    return rc;
}

static int check_key(const EVP_PKEY *puks)
{
    int bits = EVP_PKEY_get_bits(puks);
    char group[32] = "";

    if (EVP_PKEY_is_a(puks, "RSA") && (bits == 2048 || bits == 3072 || bits == 4096))
        return 0;
    EVP_PKEY_get_utf8_string_param(puks, OSSL_PKEY_PARAM_GROUP_NAME, group, sizeof(group), NULL);
    if (EVP_PKEY_is_a(puks, "EC") && OBJ_txt2nid(group) == NID_X9_62_prime256v1)
        return 0;
    return fail(FAIL_REFUSED, "its key is neither RSA of 2048, 3072 or 4096 bits nor EC P-256");
}

static int check_all(X509 *leaf, STACK_OF(X509) * chain, X509 *root, int64_t now)
{
    EVP_PKEY *puks = X509_get0_pubkey(leaf);
    int rc = puks ? check_chain(leaf, chain, root, now)
                  : fail(FAIL_REFUSED, "its public key cannot be read");

    if (rc == 0)
        rc = certificate_usage_check(leaf);
    return rc == 0 ? check_key(puks) : rc;
}

int server_certificate_check(const struct cert_chain *kswcrt, X509 *root, int64_t now,
                             EVP_PKEY **ret_puks)
{
    STACK_OF(X509) *chain = NULL;
    char name[NAME_LEN];
    int rc = read_chain(kswcrt, &chain);

    if (rc < 0)
        return fail_in(rc, "KSWCRT");
    X509 *leaf = sk_X509_value(chain, 0);
    rc = check_all(leaf, chain, root, now);
    if (rc == 0)
        *ret_puks = X509_get_pubkey(leaf);
    else
        fail_in(rc, "KSWCRT %s", server_certificate_name(kswcrt, name, sizeof(name)));
    sk_X509_pop_free(chain, X509_free);
    return rc;
}
