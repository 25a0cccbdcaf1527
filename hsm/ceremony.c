#include "hsm/ceremony.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libp11.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "common/fail.h"
#include "hsm/chain.h"

/* The token open in libp11, logged in, and its PrKS. */
struct ceremony {
    PKCS11_CTX *context;
    PKCS11_SLOT *slots;
    unsigned int slot_count;
    int loaded;
    PKCS11_SLOT *slot;
    PKCS11_KEY *prks; /* the context's */
    EVP_PKEY *key;    /* the same for OpenSSL */
};

static int find_slot(struct ceremony *ceremony, const char *label)
{
    for (unsigned int i = 0; i < ceremony->slot_count; i++) {
        PKCS11_TOKEN *token = ceremony->slots[i].token;
        if (token && token->label && strcmp(token->label, label) == 0) {
            ceremony->slot = &ceremony->slots[i];
            return 0;
        }
    }
    return fail(FAIL_NOT_FOUND, "the PKCS#11 module has no token with label '%s'", label);
}

static void ceremony_close(struct ceremony *ceremony)
{
    EVP_PKEY_free(ceremony->key);
    if (!ceremony->context)
        return;
    if (ceremony->slots)
        PKCS11_release_all_slots(ceremony->context, ceremony->slots, ceremony->slot_count);
    if (ceremony->loaded)
        PKCS11_CTX_unload(ceremony->context);
    PKCS11_CTX_free(ceremony->context);
}

static int log_in(struct ceremony *ceremony, const struct ceremony_token *token)
{
    if (PKCS11_open_session(ceremony->slot, 1) < 0)
        return fail_crypto("libp11 cannot open a session of the token '%s'", token->label);
    if (PKCS11_login(ceremony->slot, 0, token->pin) < 0) {
        fail_crypto("the token '%s' refuses the login", token->label);
        return FAIL_REFUSED;
    }
    return 0;
}

static int find_prks(struct ceremony *ceremony)
{
    PKCS11_KEY *keys;
    unsigned int count;
    if (PKCS11_enumerate_keys(ceremony->slot->token, &keys, &count) < 0)
        return fail_crypto("libp11 cannot list the private keys");
    for (unsigned int i = 0; i < count; i++)
        if (keys[i].label && strcmp(keys[i].label, "PrKS") == 0)
            ceremony->prks = &keys[i];
    if (!ceremony->prks)
        return fail(FAIL_NOT_FOUND, "the token has no PrKS; run 'tmkctl -c CONF init' first");
    ceremony->key = PKCS11_get_private_key(ceremony->prks);
    return ceremony->key ? 0 : fail_crypto("libp11 cannot use PrKS, or there is no PuKS beside it");
}

/* PuKS as OpenSSL's own key, which can be compared. From PrKS and not by PKCS11_get_public_key():
 * that leaks, and with it libp11's copy of the PIN is never wiped (0.4.12). */
static int get_puks(const struct ceremony *ceremony, EVP_PKEY **ret_puks)
{
    unsigned char *der = NULL;
    int len = i2d_PUBKEY(ceremony->key, &der);
    const unsigned char *at = der;
    EVP_PKEY *puks = len > 0 ? d2i_PUBKEY(NULL, &at, len) : NULL;
    OPENSSL_free(der);
    if (!puks)
        return fail_crypto("PuKS cannot be read");
    *ret_puks = puks;
    return 0;
}

/* On failure, too, the caller closes. */
static int ceremony_open(const struct ceremony_token *token, struct ceremony *ceremony)
{
    int rc;
    if (!(ceremony->context = PKCS11_CTX_new()))
        return fail(FAIL_MEMORY, "no memory for libp11");
    if (PKCS11_CTX_load(ceremony->context, token->module) < 0)
        return fail_crypto("libp11 cannot load %s", token->module);
    ceremony->loaded = 1;
    if (PKCS11_enumerate_slots(ceremony->context, &ceremony->slots, &ceremony->slot_count) < 0)
        return fail_crypto("libp11 cannot list the slots of %s", token->module);
    if ((rc = find_slot(ceremony, token->label)) < 0 || (rc = log_in(ceremony, token)) < 0)
        return rc;
    return find_prks(ceremony);
}

/* --- the certification request --- */

static int add_attribute(X509_NAME *name, char *text)
{
    char *value = strchr(text, '=');
    if (!value || value == text || value[1] == '\0')
        return fail(FAIL_CONFIG, "in the subject, '%s' is not of the form CN=name", text);
    *value++ = '\0';
    text += strspn(text, " ");
    if (X509_NAME_add_entry_by_txt(name, text, MBSTRING_UTF8, (const unsigned char *)value, -1, -1,
                                   0) != 1) {
        fail_crypto("the subject's '%s' is no attribute (there are CN, O, OU, C, L, ST) or cannot "
                    "have that value",
                    text);
        return FAIL_CONFIG;
    }
    return 0;
}

/* "CN=tmkd,O=A Bank": attribute types as OpenSSL spells them, no escapes. */
static int read_subject(const char *text, X509_NAME *name)
{
    char copy[256];
    char *rest = copy;
    char *part;
    int rc = 0;

    if (strlen(text) >= sizeof(copy))
        return fail(FAIL_CONFIG, "a subject has at most %zu characters", sizeof(copy) - 1);
    memcpy(copy, text, strlen(text) + 1);
    while (rc == 0 && (part = strsep(&rest, ",")) != NULL)
        rc = add_attribute(name, part);
    return rc;
}

static int write_pem(X509_REQ *request, char **ret_pem)
{
    char *text;
    BIO *bio = BIO_new(BIO_s_mem());
    char *pem = NULL;
    if (bio && PEM_write_bio_X509_REQ(bio, request)) {
        long len = BIO_get_mem_data(bio, &text);
        pem = strndup(text, (size_t)len);
    }
    BIO_free(bio);
    if (!pem)
        return fail(FAIL_MEMORY, "no memory for the certification request");
    *ret_pem = pem;
    return 0;
}

static int sign_request(const struct ceremony *ceremony, X509_REQ *request)
{
    EVP_PKEY *puks = NULL;
    int rc = get_puks(ceremony, &puks);
    if (rc == 0 && (!X509_REQ_set_version(request, X509_REQ_VERSION_1) ||
                    !X509_REQ_set_pubkey(request, puks) ||
                    X509_REQ_sign(request, ceremony->key, EVP_sha256()) <= 0))
        rc = fail_crypto("PrKS cannot sign the certification request");
    EVP_PKEY_free(puks);
    return rc;
}

int ceremony_request(const struct ceremony_token *token, const char *subject, char **ret_pem)
{
    struct ceremony ceremony = {0};
    X509_REQ *request = X509_REQ_new();
    int rc = request ? 0 : fail(FAIL_MEMORY, "no memory for the certification request");

    if (rc == 0)
        rc = read_subject(subject, X509_REQ_get_subject_name(request));
    if (rc == 0)
        rc = ceremony_open(token, &ceremony);
    if (rc == 0)
        rc = sign_request(&ceremony, request);
    if (rc == 0)
        rc = write_pem(request, ret_pem);
    X509_REQ_free(request);
    ceremony_close(&ceremony);
    return rc;
}

/* --- installation --- */

/* A chain as OpenSSL reads it, the leaf first. */
struct certificates {
    X509 *x509[CHAIN_MAX];
    size_t count;
};

static void free_certificates(struct certificates *certificates)
{
    for (size_t i = 0; i < certificates->count; i++)
        X509_free(certificates->x509[i]);
}

/* On failure, too, the caller frees. */
static int read_certificates(const struct cert_chain *chain, struct certificates *ret)
{
    for (size_t i = 0; i < chain->count; i++) {
        size_t len;
        const uint8_t *der = cert_chain_at(chain, i, &len);
        if (!(ret->x509[i] = d2i_X509(NULL, &der, (long)len))) {
            ERR_clear_error();
            return fail(FAIL_MALFORMED, "certificate %zu of the chain cannot be read", i + 1);
        }
        ret->count++;
    }
    return 0;
}

static int check_leaf(const struct ceremony *ceremony, const struct certificates *chain)
{
    EVP_PKEY *puks = NULL;
    int rc = get_puks(ceremony, &puks);
    if (rc == 0 && (chain->count == 0 || EVP_PKEY_eq(X509_get0_pubkey(chain->x509[0]), puks) != 1))
        rc = fail(FAIL_REFUSED, "the first certificate is not of PrKS: ask the CA for one from the "
                                "request that 'tmkctl cert request' prints");
    EVP_PKEY_free(puks);
    return rc;
}

static int check_links(const struct certificates *chain)
{
    for (size_t i = 1; i < chain->count; i++)
        if (X509_check_issued(chain->x509[i], chain->x509[i - 1]) != X509_V_OK)
            return fail(FAIL_REFUSED,
                        "certificate %zu of the chain did not issue the one before it: put them "
                        "in order, that of PrKS first",
                        i + 1);
    return 0;
}

static int has_label(const PKCS11_CERT *stored, const char *label)
{
    return stored->label && strcmp(stored->label, label) == 0;
}

static int is_same(const PKCS11_CERT *stored, const X509 *certificate)
{
    return stored->x509 && X509_cmp(stored->x509, certificate) == 0;
}

static int list_stored(const struct ceremony *ceremony, PKCS11_CERT **ret_stored,
                       unsigned int *ret_count)
{
    if (PKCS11_enumerate_certs(ceremony->slot->token, ret_stored, ret_count) < 0)
        return fail_crypto("libp11 cannot list the certificates");
    return 0;
}

static int store_one(const struct ceremony *ceremony, X509 *certificate, size_t i)
{
    PKCS11_CERT *stored;
    unsigned int count;
    int rc = list_stored(ceremony, &stored, &count);
    if (rc < 0)
        return rc;
    for (unsigned int j = 0; j < count; j++)
        if (has_label(&stored[j], chain_label(i)) && is_same(&stored[j], certificate))
            return 0;
    char label[16];
    snprintf(label, sizeof(label), "%s", chain_label(i));
    if (PKCS11_store_certificate(ceremony->slot->token, certificate, label,
                                 i == 0 ? ceremony->prks->id : NULL,
                                 i == 0 ? ceremony->prks->id_len : 0, &stored) < 0)
        return fail_crypto("the token does not take the certificate %s", label);
    return 0;
}

/* The leaf last: until it is there, the chain before is in use and whole. */
static int store_chain(const struct ceremony *ceremony, const struct certificates *chain)
{
    int rc = 0;
    for (size_t i = chain->count; i > 0 && rc == 0; i--)
        rc = store_one(ceremony, chain->x509[i - 1], i - 1);
    return rc;
}

/* Whether it is of a chain, but not of this one. */
static int is_other(const PKCS11_CERT *stored, const struct certificates *chain)
{
    for (size_t i = 0; i < CHAIN_MAX; i++)
        if (has_label(stored, chain_label(i)))
            return i >= chain->count || !is_same(stored, chain->x509[i]);
    return 0;
}

/* libp11's list keeps what was removed, so it is gone through once. */
static int remove_others(const struct ceremony *ceremony, const struct certificates *chain)
{
    PKCS11_CERT *stored;
    unsigned int count;
    int rc = list_stored(ceremony, &stored, &count);
    if (rc < 0)
        return rc;
    for (unsigned int i = 0; i < count; i++)
        if (is_other(&stored[i], chain) && PKCS11_remove_certificate(&stored[i]) < 0)
            return fail_crypto("the token does not remove the certificate before");
    return 0;
}

int ceremony_install(const struct ceremony_token *token, const struct cert_chain *chain)
{
    struct ceremony ceremony = {0};
    struct certificates certificates = {0};
    int rc = read_certificates(chain, &certificates);

    if (rc == 0)
        rc = ceremony_open(token, &ceremony);
    if (rc == 0)
        rc = check_leaf(&ceremony, &certificates);
    if (rc == 0)
        rc = check_links(&certificates);
    if (rc == 0)
        rc = store_chain(&ceremony, &certificates);
    if (rc == 0)
        rc = remove_others(&ceremony, &certificates);
    free_certificates(&certificates);
    ceremony_close(&ceremony);
    return rc;
}
