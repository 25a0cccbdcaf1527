#include "tools/tmkctl/lab_root.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "common/fail.h"

enum { SERIAL_BITS = 128, ROOT_DAYS = 3652, KSWCRT_DAYS = 730, BACKDATE_SECONDS = 3600 };

struct lab_root {
    EVP_PKEY *key;
    X509 *certificate;
};

struct extension {
    int nid;
    const char *value; /* as X509V3_EXT_conf_nid() reads it */
};

static const struct extension root_extensions[] = {
    {NID_basic_constraints, "critical,CA:TRUE"},
    {NID_key_usage, "critical,keyCertSign,cRLSign"},
    {NID_subject_key_identifier, "hash"},
    {NID_undef, NULL},
};

static const struct extension kswcrt_extensions[] = {
    {NID_basic_constraints, "critical,CA:FALSE"},
    {NID_key_usage, "critical,digitalSignature"},
    {NID_ext_key_usage, "critical,1.3.6.1.5.5.7.3.32"}, /* id-kp-cmKGA, RFC 9480 */
    {NID_subject_key_identifier, "hash"},
    {NID_authority_key_identifier, "keyid:always"},
    {NID_undef, NULL},
};

static int add_extensions(X509 *certificate, X509 *issuer, const struct extension *extensions)
{
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
    for (const struct extension *e = extensions; e->value; e++) {
        X509_EXTENSION *made = X509V3_EXT_conf_nid(NULL, &context, e->nid, e->value);
        int added = made && X509_add_ext(certificate, made, -1);
        X509_EXTENSION_free(made);
        if (!added)
            return 0;
    }
    return 1;
}

static int set_serial(X509 *certificate)
{
    BIGNUM *number = BN_new();
    int set = number && BN_rand(number, SERIAL_BITS, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) &&
              BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate));
    BN_free(number);
    return set;
}

/* From an hour before now, because a terminal's clock may be slow. */
static int set_validity(X509 *certificate, int64_t now, int days)
{
    time_t from = (time_t)now - BACKDATE_SECONDS;
    return ASN1_TIME_adj(X509_getm_notBefore(certificate), from, 0, 0) &&
           ASN1_TIME_adj(X509_getm_notAfter(certificate), (time_t)now, days, 0);
}

/* A version 3 certificate of all but its extensions and signature; NULL when OpenSSL fails. */
static X509 *start_certificate(const X509_NAME *subject, const X509_NAME *issuer, EVP_PKEY *key,
                               int64_t now, int days)
{
    X509 *certificate = X509_new();

    if (certificate && X509_set_version(certificate, X509_VERSION_3) && set_serial(certificate) &&
        set_validity(certificate, now, days) && X509_set_subject_name(certificate, subject) &&
        X509_set_issuer_name(certificate, issuer) && X509_set_pubkey(certificate, key))
        return certificate;
    X509_free(certificate);
    return NULL;
}

static X509 *make_root(EVP_PKEY *key, int64_t now)
{
    static const unsigned char name[] = "tmkd lab root";
    X509_NAME *subject = X509_NAME_new();
    X509 *certificate = NULL;

    if (subject &&
        X509_NAME_add_entry_by_NID(subject, NID_commonName, MBSTRING_UTF8, name, -1, -1, 0))
        certificate = start_certificate(subject, subject, key, now, ROOT_DAYS);
    if (certificate && (!add_extensions(certificate, certificate, root_extensions) ||
                        !X509_sign(certificate, key, EVP_sha256()))) {
        X509_free(certificate);
        certificate = NULL;
    }
    X509_NAME_free(subject);
    return certificate;
}

int lab_root_new(int64_t now, struct lab_root **ret_root)
{
    struct lab_root *root = calloc(1, sizeof(*root));
    if (!root)
        return fail(FAIL_MEMORY, "out of memory");
    root->key = EVP_EC_gen("P-256");
    root->certificate = root->key ? make_root(root->key, now) : NULL;
    if (!root->certificate) {
        lab_root_free(root);
        return fail_crypto("cannot make the lab root");
    }
    *ret_root = root;
    return 0;
}

void lab_root_free(struct lab_root *root)
{
    if (!root)
        return;
    EVP_PKEY_free(root->key);
    X509_free(root->certificate);
    free(root);
}

static int take_pem(BIO *bio, int written, char ret_pem[static LAB_PEM_MAX])
{
    int rc = fail(FAIL_CRYPTO, "a PEM text of more than %d bytes", LAB_PEM_MAX - 1);
    char *text;
    long len = bio ? BIO_get_mem_data(bio, &text) : 0;

    if (!written)
        rc = fail_crypto("cannot write PEM");
    else if (len < LAB_PEM_MAX) {
        memcpy(ret_pem, text, (size_t)len);
        ret_pem[len] = '\0';
        rc = 0;
    }
    BIO_free(bio);
    return rc;
}

static int certificate_pem(X509 *certificate, char ret_pem[static LAB_PEM_MAX])
{
    BIO *bio = BIO_new(BIO_s_mem());
    return take_pem(bio, bio && PEM_write_bio_X509(bio, certificate), ret_pem);
}

int lab_root_certificate(const struct lab_root *root, char ret_pem[static LAB_PEM_MAX])
{
    return certificate_pem(root->certificate, ret_pem);
}

int lab_root_private_key(const struct lab_root *root, char ret_pem[static LAB_PEM_MAX])
{
    BIO *bio = BIO_new(BIO_s_secmem());
    int written = bio && PEM_write_bio_PKCS8PrivateKey(bio, root->key, NULL, NULL, 0, NULL, NULL);
    return take_pem(bio, written, ret_pem);
}

static int read_request(const char *pem, X509_REQ **ret_request)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    X509_REQ *request = bio ? PEM_read_bio_X509_REQ(bio, NULL, NULL, NULL) : NULL;

    BIO_free(bio);
    if (!request) {
        fail_crypto("not a PKCS#10 certificate request");
        return FAIL_MALFORMED;
    }
    if (X509_REQ_verify(request, X509_REQ_get0_pubkey(request)) != 1) {
        X509_REQ_free(request);
        return fail(FAIL_REFUSED, "a certificate request whose own signature does not fit");
    }
    *ret_request = request;
    return 0;
}

int lab_root_issue(const struct lab_root *root, const char *csr_pem, int64_t now,
                   char ret_pem[static LAB_PEM_MAX])
{
    X509_REQ *request;
    int rc = read_request(csr_pem, &request);
    if (rc < 0)
        return rc;

    X509 *kswcrt = start_certificate(X509_REQ_get_subject_name(request),
                                     X509_get_subject_name(root->certificate),
                                     X509_REQ_get0_pubkey(request), now, KSWCRT_DAYS);
    if (!kswcrt || !add_extensions(kswcrt, root->certificate, kswcrt_extensions) ||
        !X509_sign(kswcrt, root->key, EVP_sha256()))
        rc = fail_crypto("cannot issue KSWCRT");
    else
        rc = certificate_pem(kswcrt, ret_pem);
    X509_free(kswcrt);
    X509_REQ_free(request);
    return rc;
}
