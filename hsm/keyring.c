#include "hsm/keyring.h"

#include <string.h>

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "common/fail.h"
#include "hsm/c1.h"
#include "hsm/cryptoki.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum { CERTIFICATES_MAX = 16, ID_LEN = 8, SECRET_LEN = 32 };

static const struct {
    const char *name;
    struct prks_spec spec;
} prks_names[] = {
    {"rsa:2048", {PRKS_RSA, 2048}},
    {"rsa:3072", {PRKS_RSA, 3072}},
    {"rsa:4096", {PRKS_RSA, 4096}},
    {"ec:p256", {PRKS_P256, 256}},
};

/* A yes-or-no attribute of an object of design section 6. */
struct flag {
    CK_ATTRIBUTE_TYPE type;
    const char *name;
    CK_BBOOL value;
};

#define FLAG(name, value)                                                                          \
    {                                                                                              \
        CKA_##name, #name, (value)                                                                 \
    }
#define STAYS_IN_THE_TOKEN                                                                         \
    FLAG(TOKEN, CK_TRUE), FLAG(PRIVATE, CK_TRUE), FLAG(SENSITIVE, CK_TRUE),                        \
        FLAG(MODIFIABLE, CK_FALSE), FLAG(EXTRACTABLE, CK_FALSE)

static const struct flag prks_flags[] = {
    STAYS_IN_THE_TOKEN,     FLAG(SIGN, CK_TRUE),          FLAG(DECRYPT, CK_FALSE),
    FLAG(UNWRAP, CK_FALSE), FLAG(SIGN_RECOVER, CK_FALSE), FLAG(DERIVE, CK_FALSE),
};
static const struct flag mac_key_flags[] = {
    STAYS_IN_THE_TOKEN,      FLAG(SIGN, CK_TRUE),  FLAG(VERIFY, CK_TRUE),  FLAG(ENCRYPT, CK_FALSE),
    FLAG(DECRYPT, CK_FALSE), FLAG(WRAP, CK_FALSE), FLAG(UNWRAP, CK_FALSE), FLAG(DERIVE, CK_FALSE),
};
static const struct flag kek_flags[] = {
    STAYS_IN_THE_TOKEN,      FLAG(WRAP, CK_TRUE),  FLAG(UNWRAP, CK_TRUE),  FLAG(ENCRYPT, CK_FALSE),
    FLAG(DECRYPT, CK_FALSE), FLAG(SIGN, CK_FALSE), FLAG(VERIFY, CK_FALSE), FLAG(DERIVE, CK_FALSE),
};

/* What there is besides the certificates. */
struct key_kind {
    char label[16];
    CK_OBJECT_CLASS class;
    const struct flag *flags;
    size_t flag_count;
    CK_MECHANISM_TYPE generation; /* secret keys */
};

static const struct key_kind prks_key = {"PrKS", CKO_PRIVATE_KEY, prks_flags, COUNT(prks_flags), 0};
static const struct key_kind seal_key = {"SEAL", CKO_SECRET_KEY, mac_key_flags,
                                         COUNT(mac_key_flags), CKM_GENERIC_SECRET_KEY_GEN};
static const struct key_kind audit_key = {"AUDIT", CKO_SECRET_KEY, mac_key_flags,
                                          COUNT(mac_key_flags), CKM_GENERIC_SECRET_KEY_GEN};
static const struct key_kind kek_key = {"TMK-KEK", CKO_SECRET_KEY, kek_flags, COUNT(kek_flags),
                                        CKM_AES_KEY_GEN};

int prks_spec_read(const char *text, struct prks_spec *ret_spec)
{
    for (size_t i = 0; i < COUNT(prks_names); i++) {
        if (strcmp(prks_names[i].name, text) == 0) {
            *ret_spec = prks_names[i].spec;
            return 0;
        }
    }
    return fail(FAIL_CONFIG,
                "'%s' is no kind of PrKS; there are rsa:2048, rsa:3072, rsa:4096 and ec:p256",
                text);
}

const char *prks_spec_name(const struct prks_spec *spec)
{
    for (size_t i = 0; i < COUNT(prks_names); i++)
        if (prks_names[i].spec.kind == spec->kind && prks_names[i].spec.bits == spec->bits)
            return prks_names[i].name;
    return NULL;
}

/* --- finding and checking --- */

static int find_key(struct token_session *session, const struct key_kind *kind,
                    token_handle *ret_key)
{
    struct key_kind wanted = *kind; /* a copy: Cryptoki's templates are not const */
    CK_ATTRIBUTE attributes[] = {
        ATTRIBUTE(CKA_CLASS, wanted.class),
        ATTRIBUTE(CKA_TOKEN, token_true),
        ATTRIBUTE_BYTES(CKA_LABEL, wanted.label, strlen(wanted.label)),
    };
    return token_search_one(session, attributes, COUNT(attributes), kind->label, ret_key);
}

static int check_flags(struct token_session *session, const struct key_kind *kind, token_handle key)
{
    for (size_t i = 0; i < kind->flag_count; i++) {
        const struct flag *flag = &kind->flags[i];
        CK_BBOOL value = CK_FALSE;
        size_t len;
        int rc = token_attribute(session, key, flag->type, &value, sizeof(value), &len);
        if (rc < 0)
            return fail_in(rc, "%s, CKA_%s", kind->label, flag->name);
        if (!value != !flag->value)
            return fail(FAIL_REFUSED,
                        "%s in the token has CKA_%s = %s, must be %s; such a key is not served "
                        "with: replace it, or correct the attribute with the HSM's own tool",
                        kind->label, flag->name, value ? "true" : "false",
                        flag->value ? "true" : "false");
    }
    return 0;
}

static int open_key(struct token_session *session, const struct key_kind *kind,
                    token_handle *ret_key)
{
    int rc = find_key(session, kind, ret_key);
    if (rc == FAIL_NOT_FOUND)
        return fail_in(rc, "run 'tmkctl -c CONF init' first");
    return rc < 0 ? rc : check_flags(session, kind, *ret_key);
}

static int check_secret(struct token_session *session, const struct key_kind *kind,
                        token_handle key, CK_KEY_TYPE type)
{
    CK_KEY_TYPE has_type = 0;
    CK_ULONG has_len = 0;
    size_t len;
    int rc = token_attribute(session, key, CKA_KEY_TYPE, &has_type, sizeof(has_type), &len);
    if (rc == 0)
        rc = token_attribute(session, key, CKA_VALUE_LEN, &has_len, sizeof(has_len), &len);
    if (rc < 0)
        return fail_in(rc, "%s", kind->label);
    if (has_type != type || has_len != SECRET_LEN)
        return fail(FAIL_REFUSED,
                    "%s in the token is not a key of the type and the %d bytes it "
                    "should be",
                    kind->label, SECRET_LEN);
    return 0;
}

static CK_MECHANISM_TYPE prks_mechanism(enum prks_kind kind)
{
    return kind == PRKS_RSA ? CKM_RSA_PKCS : CKM_ECDSA;
}

static int read_prks_spec(struct token_session *session, token_handle prks,
                          struct prks_spec *ret_spec)
{
    CK_KEY_TYPE type = 0;
    uint8_t modulus[RSA_BLOCK_MAX];
    size_t len;
    int rc = token_attribute(session, prks, CKA_KEY_TYPE, &type, sizeof(type), &len);
    if (rc < 0)
        return fail_in(rc, "PrKS");
    struct prks_spec spec = {PRKS_P256, 256};
    if (type == CKK_RSA) {
        if ((rc = token_attribute(session, prks, CKA_MODULUS, modulus, sizeof(modulus), &len)) < 0)
            return fail_in(rc, "PrKS");
        spec = (struct prks_spec){PRKS_RSA, (unsigned)len * 8};
    }
    if ((type != CKK_RSA && type != CKK_EC) || !prks_spec_name(&spec))
        return fail(FAIL_REFUSED, "PrKS in the token is of a kind or size that is not served with");
    *ret_spec = spec;
    return 0;
}

/* One job, one mechanism: without this list PrKS would also sign what a vendor calls RSA. */
static int check_mechanisms(struct token_session *session, token_handle prks, enum prks_kind kind)
{
    CK_MECHANISM_TYPE allowed[8];
    size_t len = 0;
    int rc = token_attribute(session, prks, CKA_ALLOWED_MECHANISMS, allowed, sizeof(allowed), &len);
    if (rc < 0)
        return fail_in(rc, "PrKS, CKA_ALLOWED_MECHANISMS");
    if (len != sizeof(allowed[0]) || allowed[0] != prks_mechanism(kind))
        return fail(FAIL_REFUSED,
                    "PrKS in the token has CKA_ALLOWED_MECHANISMS other than %s alone",
                    kind == PRKS_RSA ? "CKM_RSA_PKCS" : "CKM_ECDSA");
    return 0;
}

static enum tmk_wrap best_wrap(struct token_session *session)
{
    CK_MECHANISM_INFO info;
    CK_RV rv = TOKEN_CALL(session->token, C_GetMechanismInfo, session->token->slot,
                          CKM_AES_KEY_WRAP_PAD, &info);
    return rv == CKR_OK && (info.flags & CKF_WRAP) ? TMK_WRAP_KWP : TMK_WRAP_KW;
}

/* --- KSWCRT --- */

struct certificate {
    size_t len;
    uint8_t der[CHAIN_DER_MAX];
};

static X509 *parse_certificate(const uint8_t *der, size_t len)
{
    return d2i_X509(NULL, &der, (long)len);
}

static int starts_later(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len)
{
    X509 *first = parse_certificate(a, a_len);
    X509 *second = parse_certificate(b, b_len);
    int later = first && (!second || ASN1_TIME_compare(X509_get0_notBefore(first),
                                                       X509_get0_notBefore(second)) > 0);
    X509_free(first);
    X509_free(second);
    return later;
}

/* The newest certificate object with that label, into *ret; FAIL_NOT_FOUND when none. */
static int read_certificate(struct token_session *session, const char *label,
                            struct certificate *ret)
{
    CK_OBJECT_CLASS class = CKO_CERTIFICATE;
    char text[16];
    token_handle found[CERTIFICATES_MAX];
    size_t count;
    CK_ATTRIBUTE attributes[] = {
        ATTRIBUTE(CKA_CLASS, class),
        ATTRIBUTE(CKA_TOKEN, token_true),
        ATTRIBUTE_BYTES(CKA_LABEL, text, strlen(label)),
    };
    memcpy(text, label, strlen(label));
    int rc = token_search(session, attributes, COUNT(attributes), found, COUNT(found), &count);
    if (rc < 0)
        return rc;
    ret->len = 0;
    for (size_t i = 0; i < count; i++) {
        struct certificate one;
        rc = token_attribute(session, found[i], CKA_VALUE, one.der, sizeof(one.der), &one.len);
        if (rc < 0)
            return fail_in(rc, "certificate %s", label);
        if (ret->len == 0 || starts_later(one.der, one.len, ret->der, ret->len))
            *ret = one;
    }
    return ret->len ? 0 : fail(FAIL_NOT_FOUND, "the token has no certificate %s", label);
}

int keyring_read_chain(struct token_session *session, struct cert_chain *ret_chain)
{
    static const char *const labels[CHAIN_MAX] = {"KSWCRT", "KSWCRT-1", "KSWCRT-2", "KSWCRT-3"};
    struct cert_chain chain = {0};
    int rc = 0;

    for (size_t i = 0; i < CHAIN_MAX && rc == 0; i++) {
        struct certificate one;
        rc = read_certificate(session, labels[i], &one);
        if (rc == 0)
            rc = cert_chain_add(&chain, one.der, one.len);
    }
    if (rc < 0 && rc != FAIL_NOT_FOUND)
        return rc;
    *ret_chain = chain;
    return 0;
}

static int verify_rsa(EVP_PKEY *key, const uint8_t m1[static M1_LEN], const uint8_t *c1, size_t len)
{
    uint8_t recovered[RSA_BLOCK_MAX];
    size_t recovered_len = sizeof(recovered);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(key, NULL);
    int right = context && EVP_PKEY_verify_recover_init(context) == 1 &&
                EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PADDING) == 1 &&
                EVP_PKEY_verify_recover(context, recovered, &recovered_len, c1, len) == 1 &&
                recovered_len == M1_LEN && memcmp(recovered, m1, M1_LEN) == 0;
    EVP_PKEY_CTX_free(context);
    return right;
}

static int verify_p256(EVP_PKEY *key, const uint8_t m1[static M1_LEN], const uint8_t *c1,
                       size_t len)
{
    uint8_t digest[SHA256_DIGEST_LENGTH];
    unsigned char *der = NULL;
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(key, NULL);
    ECDSA_SIG *signature = ECDSA_SIG_new();
    BIGNUM *r = len == 64 ? BN_bin2bn(c1, 32, NULL) : NULL;
    BIGNUM *s = len == 64 ? BN_bin2bn(c1 + 32, 32, NULL) : NULL;
    int right = 0;

    SHA256(m1, M1_LEN, digest);
    if (context && signature && r && s && ECDSA_SIG_set0(signature, r, s)) {
        r = s = NULL; /* now the signature's */
        int der_len = i2d_ECDSA_SIG(signature, &der);
        right = der_len > 0 && EVP_PKEY_verify_init(context) == 1 &&
                EVP_PKEY_verify(context, der, (size_t)der_len, digest, sizeof(digest)) == 1;
    }
    BN_free(r);
    BN_free(s);
    OPENSSL_free(der);
    ECDSA_SIG_free(signature);
    EVP_PKEY_CTX_free(context);
    return right;
}

/* A C1 over a fixed M1, opened with KSWCRT's key: PrKS works and the certificate is its own. */
static int check_prks_fits(struct token_session *session, const struct keyring *keyring)
{
    static const uint8_t m1[M1_LEN] = "TMKD-SELF-CHECK";
    uint8_t c1[RSA_BLOCK_MAX];
    size_t c1_len;
    int rc = c1_sign(session, keyring, m1, c1, &c1_len);
    if (rc < 0 || keyring->kswcrt.count == 0)
        return rc;
    size_t len;
    const uint8_t *der = cert_chain_at(&keyring->kswcrt, 0, &len);
    X509 *leaf = parse_certificate(der, len);
    EVP_PKEY *key = leaf ? X509_get0_pubkey(leaf) : NULL;
    int right = 0;
    if (key && keyring->prks_spec.kind == PRKS_RSA && EVP_PKEY_is_a(key, "RSA"))
        right = verify_rsa(key, m1, c1, c1_len);
    else if (key && keyring->prks_spec.kind == PRKS_P256 && EVP_PKEY_is_a(key, "EC"))
        right = verify_p256(key, m1, c1, c1_len);
    X509_free(leaf);
    return right ? 0
                 : fail(FAIL_REFUSED, "KSWCRT in the token is not a certificate of PrKS; install "
                                      "the right one with 'tmkctl cert install'");
}

int keyring_open(struct token_session *session, struct keyring *ret_keyring)
{
    struct keyring keyring = {0};
    int rc = FAIL_TOKEN;

    if ((rc = open_key(session, &prks_key, &keyring.prks)) < 0 ||
        (rc = read_prks_spec(session, keyring.prks, &keyring.prks_spec)) < 0 ||
        (rc = check_mechanisms(session, keyring.prks, keyring.prks_spec.kind)) < 0 ||
        (rc = open_key(session, &seal_key, &keyring.seal)) < 0 ||
        (rc = check_secret(session, &seal_key, keyring.seal, CKK_GENERIC_SECRET)) < 0 ||
        (rc = open_key(session, &audit_key, &keyring.audit)) < 0 ||
        (rc = check_secret(session, &audit_key, keyring.audit, CKK_GENERIC_SECRET)) < 0 ||
        (rc = open_key(session, &kek_key, &keyring.kek)) < 0 ||
        (rc = check_secret(session, &kek_key, keyring.kek, CKK_AES)) < 0 ||
        (rc = keyring_read_chain(session, &keyring.kswcrt)) < 0 ||
        (rc = check_prks_fits(session, &keyring)) < 0)
        return rc;
    keyring.wrap = best_wrap(session);
    *ret_keyring = keyring;
    return 0;
}

/* --- making --- */

static size_t put_flags(const struct key_kind *kind, CK_ATTRIBUTE *attributes)
{
    for (size_t i = 0; i < kind->flag_count; i++)
        attributes[i] = (CK_ATTRIBUTE)ATTRIBUTE_BYTES(
            kind->flags[i].type, kind->flags[i].value ? &token_true : &token_false,
            sizeof(CK_BBOOL));
    return kind->flag_count;
}

static int make_secret(struct token_session *session, const struct key_kind *kind)
{
    struct key_kind wanted = *kind;
    CK_ULONG key_len = SECRET_LEN;
    CK_MECHANISM mechanism = {kind->generation, NULL, 0};
    CK_ATTRIBUTE attributes[COUNT(mac_key_flags) + 2];
    token_handle key;
    size_t count = put_flags(kind, attributes);
    attributes[count++] =
        (CK_ATTRIBUTE)ATTRIBUTE_BYTES(CKA_LABEL, wanted.label, strlen(wanted.label));
    attributes[count++] = (CK_ATTRIBUTE)ATTRIBUTE(CKA_VALUE_LEN, key_len);
    return token_result(TOKEN_CALL(session->token, C_GenerateKey, session->handle, &mechanism,
                                   attributes, count, &key),
                        "C_GenerateKey", kind->label);
}

/* PuKS stays in the token beside PrKS: libp11 needs it for the CSR of a P-256 key. */
static int make_prks(struct token_session *session, const struct prks_spec *spec)
{
    static CK_BYTE p256[] = {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07};
    CK_BYTE f4[] = {0x01, 0x00, 0x01};
    CK_ULONG bits = spec->bits;
    char private_label[] = "PrKS";
    char public_label[] = "PuKS";
    CK_BYTE id[ID_LEN];
    CK_MECHANISM_TYPE allowed = prks_mechanism(spec->kind);
    CK_MECHANISM mechanism = {
        spec->kind == PRKS_RSA ? CKM_RSA_PKCS_KEY_PAIR_GEN : CKM_EC_KEY_PAIR_GEN, NULL, 0};
    CK_ATTRIBUTE public_attributes[] = {
        ATTRIBUTE(CKA_TOKEN, token_true),
        ATTRIBUTE(CKA_VERIFY, token_true),
        ATTRIBUTE(CKA_ENCRYPT, token_false),
        ATTRIBUTE(CKA_WRAP, token_false),
        ATTRIBUTE_BYTES(CKA_LABEL, public_label, strlen(public_label)),
        ATTRIBUTE_BYTES(CKA_ID, id, sizeof(id)),
        ATTRIBUTE_BYTES(CKA_EC_PARAMS, p256, sizeof(p256)),
        ATTRIBUTE_BYTES(CKA_PUBLIC_EXPONENT, f4, sizeof(f4)),
    };
    CK_ULONG public_count = COUNT(public_attributes) - 1;
    CK_ATTRIBUTE private_attributes[COUNT(prks_flags) + 3];
    token_handle public_key;
    token_handle private_key;

    int rc = token_random(session, id, sizeof(id));
    if (rc < 0)
        return rc;
    if (spec->kind == PRKS_RSA) {
        public_attributes[public_count - 1] = (CK_ATTRIBUTE)ATTRIBUTE(CKA_MODULUS_BITS, bits);
        public_count++;
    }
    size_t count = put_flags(&prks_key, private_attributes);
    private_attributes[count++] =
        (CK_ATTRIBUTE)ATTRIBUTE_BYTES(CKA_LABEL, private_label, strlen(private_label));
    private_attributes[count++] = (CK_ATTRIBUTE)ATTRIBUTE_BYTES(CKA_ID, id, sizeof(id));
    private_attributes[count++] = (CK_ATTRIBUTE)ATTRIBUTE(CKA_ALLOWED_MECHANISMS, allowed);
    return token_result(TOKEN_CALL(session->token, C_GenerateKeyPair, session->handle, &mechanism,
                                   public_attributes, public_count, private_attributes, count,
                                   &public_key, &private_key),
                        "C_GenerateKeyPair", "PrKS");
}

int keyring_make(struct token_session *session, const struct prks_spec *prks, keyring_made *made,
                 void *context)
{
    static const struct key_kind *const kinds[] = {&prks_key, &seal_key, &audit_key, &kek_key};
    for (size_t i = 0; i < COUNT(kinds); i++) {
        token_handle key;
        int rc = find_key(session, kinds[i], &key);
        if (rc == 0)
            continue;
        if (rc == FAIL_NOT_FOUND)
            rc = kinds[i] == &prks_key ? make_prks(session, prks) : make_secret(session, kinds[i]);
        if (rc < 0)
            return rc;
        made(context, kinds[i]->label);
    }
    return 0;
}
