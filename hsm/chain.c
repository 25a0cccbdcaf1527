#include "hsm/chain.h"

#include <string.h>

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "common/fail.h"
#include "hsm/cryptoki.h"

enum { SAME_LABEL_MAX = 16 };

const char *chain_label(size_t i)
{
    static const char *const labels[CHAIN_MAX] = {"KSWCRT", "KSWCRT-1", "KSWCRT-2", "KSWCRT-3"};
    return labels[i];
}

static int read_certificate(struct token_session *session, token_handle object, const char *label,
                            X509 **ret_certificate)
{
    uint8_t der[CHAIN_DER_MAX];
    const uint8_t *at = der;
    size_t len = 0;
    X509 *certificate = NULL;
    int rc = token_attribute(session, object, CKA_VALUE, der, sizeof(der), &len);
    if (rc < 0 && rc != FAIL_NOT_FOUND && rc != FAIL_MALFORMED)
        return fail_in(rc, "certificate %s", label);
    if (rc < 0 || !(certificate = d2i_X509(NULL, &at, (long)len))) {
        ERR_clear_error();
        return fail(FAIL_MALFORMED,
                    "the object %s in the token is no certificate; install the right one with "
                    "'tmkctl cert install'",
                    label);
    }
    *ret_certificate = certificate;
    return 0;
}

static int is_newer(X509 *certificate, X509 *than)
{
    return !than ||
           ASN1_TIME_compare(X509_get0_notBefore(certificate), X509_get0_notBefore(than)) > 0;
}

static int has_issued(X509 *certificate, X509 *below)
{
    return !below || X509_check_issued(certificate, below) == X509_V_OK;
}

/* The newest certificate with that label that has issued the one below, which is NULL for the
 * leaf. FAIL_NOT_FOUND when there is none. */
static int find_certificate(struct token_session *session, const char *label, X509 *below,
                            X509 **ret_certificate)
{
    CK_ATTRIBUTE attributes[] = {
        ATTRIBUTE(CKA_CLASS, (CK_OBJECT_CLASS){CKO_CERTIFICATE}),
        ATTRIBUTE(CKA_TOKEN, token_true),
        ATTRIBUTE_BYTES(CKA_LABEL, label, strlen(label)),
    };
    token_handle found[SAME_LABEL_MAX];
    size_t count = 0;
    X509 *newest = NULL;
    int rc = token_search(session, attributes, sizeof(attributes) / sizeof(attributes[0]), found,
                          SAME_LABEL_MAX, &count);

    for (size_t i = 0; i < count && rc == 0; i++) {
        X509 *one = NULL;
        rc = read_certificate(session, found[i], label, &one);
        if (rc == 0 && has_issued(one, below) && is_newer(one, newest)) {
            X509 *other = newest;
            newest = one;
            one = other;
        }
        X509_free(one);
    }
    if (rc == 0 && !newest)
        rc = fail(FAIL_NOT_FOUND, "the token has no certificate %s", label);
    if (rc == 0)
        *ret_certificate = newest;
    else
        X509_free(newest);
    return rc;
}

static int add_certificate(struct cert_chain *chain, X509 *certificate)
{
    unsigned char *der = NULL;
    int len = i2d_X509(certificate, &der);
    if (len < 0)
        return fail_crypto("a certificate of the token cannot be encoded");
    int rc = cert_chain_add(chain, der, (size_t)len);
    OPENSSL_free(der);
    return rc;
}

int chain_read(struct token_session *session, struct cert_chain *ret_chain)
{
    struct cert_chain chain = {0};
    X509 *below = NULL;
    int rc = 0;

    for (size_t i = 0; i < CHAIN_MAX && rc == 0; i++) {
        X509 *next = NULL;
        rc = find_certificate(session, chain_label(i), below, &next);
        if (rc == 0)
            rc = add_certificate(&chain, next);
        X509_free(below);
        below = next;
    }
    X509_free(below);
    if (rc < 0 && rc != FAIL_NOT_FOUND)
        return rc;
    *ret_chain = chain;
    return 0;
}
