#include "hsm/ceremony.h"

#include <stdlib.h>
#include <string.h>

#include <libp11.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "common/fail.h"

/* The token open in libp11, logged in. */
struct ceremony {
    PKCS11_CTX *context;
    PKCS11_SLOT *slots;
    unsigned int slot_count;
    int loaded;
    PKCS11_SLOT *slot;
};

static const char *const chain_labels[CHAIN_MAX] = {"KSWCRT", "KSWCRT-1", "KSWCRT-2", "KSWCRT-3"};

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
    if (!ceremony->context)
        return;
    if (ceremony->slots)
        PKCS11_release_all_slots(ceremony->context, ceremony->slots, ceremony->slot_count);
    if (ceremony->loaded)
        PKCS11_CTX_unload(ceremony->context);
    PKCS11_CTX_free(ceremony->context);
}

/* On failure, too, the caller closes. */
static int ceremony_open(const struct ceremony_token *token, struct ceremony *ceremony)
{
    if (!(ceremony->context = PKCS11_CTX_new()))
        return fail(FAIL_MEMORY, "no memory for libp11");
    if (PKCS11_CTX_load(ceremony->context, token->module) < 0)
        return fail_crypto("libp11 cannot load %s", token->module);
    ceremony->loaded = 1;
    if (PKCS11_enumerate_slots(ceremony->context, &ceremony->slots, &ceremony->slot_count) < 0)
        return fail_crypto("libp11 cannot list the slots of %s", token->module);
    int rc = find_slot(ceremony, token->label);
    if (rc < 0)
        return rc;
    if (PKCS11_open_session(ceremony->slot, 1) < 0)
        return fail_crypto("libp11 cannot open a session of the token '%s'", token->label);
    if (PKCS11_login(ceremony->slot, 0, token->pin) < 0)
        return fail_crypto("the token '%s' refuses the login", token->label);
    return 0;
}

static PKCS11_KEY *find_key(PKCS11_KEY *keys, unsigned int count, const char *label)
{
    for (unsigned int i = 0; i < count; i++)
        if (keys[i].label && strcmp(keys[i].label, label) == 0)
            return &keys[i];
    return NULL;
}

static int find_prks(struct ceremony *ceremony, PKCS11_KEY **ret_prks)
{
    PKCS11_KEY *keys;
    unsigned int count;
    if (PKCS11_enumerate_keys(ceremony->slot->token, &keys, &count) < 0)
        return fail_crypto("libp11 cannot list the private keys");
    *ret_prks = find_key(keys, count, "PrKS");
    return *ret_prks
               ? 0
               : fail(FAIL_NOT_FOUND, "the token has no PrKS; run 'tmkctl -c CONF init' first");
}

static int get_puks(struct ceremony *ceremony, EVP_PKEY **ret_puks)
{
    PKCS11_KEY *keys;
    unsigned int count;
    if (PKCS11_enumerate_public_keys(ceremony->slot->token, &keys, &count) < 0)
        return fail_crypto("libp11 cannot list the public keys");
    PKCS11_KEY *puks = find_key(keys, count, "PuKS");
    *ret_puks = puks ? PKCS11_get_public_key(puks) : NULL;
    return *ret_puks ? 0 : fail(FAIL_NOT_FOUND, "the token has no PuKS beside PrKS");
}

/* "CN=tmkd,O=A Bank": attribute types as OpenSSL spells them, no escapes. */
static int read_subject(const char *text, X509_NAME *name)
{
    char copy[256];
    char *rest = copy;
    char *part;

    if (strlen(text) >= sizeof(copy))
        return fail(FAIL_CONFIG, "a subject has at most %zu characters", sizeof(copy) - 1);
    memcpy(copy, text, strlen(text) + 1);
    while ((part = strsep(&rest, ",")) != NULL) {
        char *value = strchr(part, '=');
        if (!value || value == part || value[1] == '\0')
            return fail(FAIL_CONFIG, "the subject '%s' is not of the form CN=name,O=name", text);
        *value++ = '\0';
        if (!X509_NAME_add_entry_by_txt(name, part, MBSTRING_UTF8, (const unsigned char *)value, -1,
                                        -1, 0)) {
            ERR_clear_error();
            return fail(FAIL_CONFIG, "the subject has no attribute '%s' (try CN, O, OU, C, L, ST)",
                        part);
        }
    }
    return 0;
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
    *ret_pem = pem;
    return pem ? 0 : fail(FAIL_MEMORY, "no memory for the certification request");
}

int ceremony_request(const struct ceremony_token *token, const char *subject, char **ret_pem)
{
    int rc = FAIL_CRYPTO;
    struct ceremony ceremony = {0};
    PKCS11_KEY *prks = NULL;
    EVP_PKEY *private_key = NULL;
    EVP_PKEY *puks = NULL;
    X509_REQ *request = X509_REQ_new();

    if (!request) {
        rc = fail(FAIL_MEMORY, "no memory for the certification request");
        goto out;
    }
    if ((rc = read_subject(subject, X509_REQ_get_subject_name(request))) < 0 ||
        (rc = ceremony_open(token, &ceremony)) < 0 || (rc = find_prks(&ceremony, &prks)) < 0 ||
        (rc = get_puks(&ceremony, &puks)) < 0)
        goto out;
    if (!(private_key = PKCS11_get_private_key(prks)) || !X509_REQ_set_version(request, 0) ||
        !X509_REQ_set_pubkey(request, puks) ||
        X509_REQ_sign(request, private_key, EVP_sha256()) <= 0) {
        rc = fail_crypto("PrKS cannot sign the certification request");
        goto out;
    }
    rc = write_pem(request, ret_pem);
out:
    X509_REQ_free(request);
    EVP_PKEY_free(private_key);
    EVP_PKEY_free(puks);
    ceremony_close(&ceremony);
    return rc;
}

/* --- installation --- */

static X509 *chain_certificate(const struct cert_chain *chain, size_t i)
{
    size_t len;
    const uint8_t *der = cert_chain_at(chain, i, &len);
    return d2i_X509(NULL, &der, (long)len);
}

static int is_of_chain(const PKCS11_CERT *certificate, const struct cert_chain *chain)
{
    for (size_t i = 0; i < chain->count; i++) {
        X509 *one = chain_certificate(chain, i);
        int same = one && strcmp(certificate->label, chain_labels[i]) == 0 &&
                   X509_cmp(certificate->x509, one) == 0;
        X509_free(one);
        if (same)
            return 1;
    }
    return 0;
}

static int is_kswcrt(const PKCS11_CERT *certificate)
{
    for (size_t i = 0; certificate->label && i < CHAIN_MAX; i++)
        if (strcmp(certificate->label, chain_labels[i]) == 0)
            return 1;
    return 0;
}

static int store_one(struct ceremony *ceremony, X509 *certificate, const char *label,
                     PKCS11_KEY *prks)
{
    char text[16];
    PKCS11_CERT *stored;
    memcpy(text, label, strlen(label) + 1);
    if (PKCS11_store_certificate(ceremony->slot->token, certificate, text, prks ? prks->id : NULL,
                                 prks ? prks->id_len : 0, &stored) < 0)
        return fail_crypto("the token does not take the certificate %s", label);
    return 0;
}

static int is_stored(struct ceremony *ceremony, X509 *certificate, const char *label)
{
    PKCS11_CERT *stored;
    unsigned int count;
    if (PKCS11_enumerate_certs(ceremony->slot->token, &stored, &count) < 0)
        return 0;
    for (unsigned int i = 0; i < count; i++)
        if (stored[i].label && strcmp(stored[i].label, label) == 0 &&
            X509_cmp(stored[i].x509, certificate) == 0)
            return 1;
    return 0;
}

static int store_chain(struct ceremony *ceremony, const struct cert_chain *chain, PKCS11_KEY *prks)
{
    int rc = 0;
    for (size_t i = 0; i < chain->count && rc == 0; i++) {
        X509 *certificate = chain_certificate(chain, i);
        if (!certificate)
            return fail_crypto("certificate %zu of the chain cannot be read", i + 1);
        if (!is_stored(ceremony, certificate, chain_labels[i]))
            rc = store_one(ceremony, certificate, chain_labels[i], i == 0 ? prks : NULL);
        X509_free(certificate);
    }
    return rc;
}

/* Removing one moves the list, so it is read again after each. */
static int remove_others(struct ceremony *ceremony, const struct cert_chain *chain)
{
    PKCS11_CERT *stored;
    unsigned int count;
    unsigned int i;
    do {
        if (PKCS11_enumerate_certs(ceremony->slot->token, &stored, &count) < 0)
            return fail_crypto("libp11 cannot list the certificates");
        for (i = 0; i < count; i++)
            if (is_kswcrt(&stored[i]) && !is_of_chain(&stored[i], chain))
                break;
        if (i < count && PKCS11_remove_certificate(&stored[i]) < 0)
            return fail_crypto("the token does not remove the certificate before");
    } while (i < count);
    return 0;
}

static int check_leaf(struct ceremony *ceremony, const struct cert_chain *chain)
{
    EVP_PKEY *puks = NULL;
    X509 *leaf = chain->count ? chain_certificate(chain, 0) : NULL;
    int rc = get_puks(ceremony, &puks);
    if (rc == 0 && (!leaf || EVP_PKEY_eq(X509_get0_pubkey(leaf), puks) != 1))
        rc = fail(FAIL_REFUSED, "the first certificate is not of PrKS: ask the CA for one from the "
                                "request that 'tmkctl cert request' prints");
    X509_free(leaf);
    EVP_PKEY_free(puks);
    return rc;
}

int ceremony_install(const struct ceremony_token *token, const struct cert_chain *chain)
{
    int rc = FAIL_CRYPTO;
    struct ceremony ceremony = {0};
    PKCS11_KEY *prks = NULL;

    if ((rc = ceremony_open(token, &ceremony)) == 0 && (rc = check_leaf(&ceremony, chain)) == 0 &&
        (rc = find_prks(&ceremony, &prks)) == 0 && (rc = store_chain(&ceremony, chain, prks)) == 0)
        rc = remove_others(&ceremony, chain);
    ceremony_close(&ceremony);
    return rc;
}
