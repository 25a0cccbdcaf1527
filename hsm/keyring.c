#include "hsm/keyring.h"

#include <string.h>

#include <openssl/x509.h>

#include "common/fail.h"
#include "hsm/c1.h"
#include "hsm/chain.h"
#include "hsm/cryptoki.h"
#include "wire/c1_open.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum { ID_LEN = 8, SECRET_LEN = 32 };

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
static const struct flag puks_flags[] = {
    FLAG(TOKEN, CK_TRUE),
    FLAG(VERIFY, CK_TRUE),
    FLAG(ENCRYPT, CK_FALSE),
    FLAG(WRAP, CK_FALSE),
};
static const struct flag mac_key_flags[] = {
    STAYS_IN_THE_TOKEN,      FLAG(SIGN, CK_TRUE),  FLAG(VERIFY, CK_TRUE),  FLAG(ENCRYPT, CK_FALSE),
    FLAG(DECRYPT, CK_FALSE), FLAG(WRAP, CK_FALSE), FLAG(UNWRAP, CK_FALSE), FLAG(DERIVE, CK_FALSE),
};
static const struct flag kek_flags[] = {
    STAYS_IN_THE_TOKEN,      FLAG(WRAP, CK_TRUE),  FLAG(UNWRAP, CK_TRUE),  FLAG(ENCRYPT, CK_FALSE),
    FLAG(DECRYPT, CK_FALSE), FLAG(SIGN, CK_FALSE), FLAG(VERIFY, CK_FALSE), FLAG(DERIVE, CK_FALSE),
};

/* What there is besides the certificates; the last two for secret keys. */
struct key_kind {
    const char *label;
    CK_OBJECT_CLASS class;
    const struct flag *flags;
    size_t flag_count;
    CK_MECHANISM_TYPE generation;
    CK_KEY_TYPE type;
};

#define FLAGS(array) (array), COUNT(array)
static const struct key_kind prks_key = {"PrKS", CKO_PRIVATE_KEY, FLAGS(prks_flags), 0, 0};
static const struct key_kind puks_key = {"PuKS", CKO_PUBLIC_KEY, FLAGS(puks_flags), 0, 0};
static const struct key_kind seal_key = {"SEAL", CKO_SECRET_KEY, FLAGS(mac_key_flags),
                                         CKM_GENERIC_SECRET_KEY_GEN, CKK_GENERIC_SECRET};
static const struct key_kind audit_key = {"AUDIT", CKO_SECRET_KEY, FLAGS(mac_key_flags),
                                          CKM_GENERIC_SECRET_KEY_GEN, CKK_GENERIC_SECRET};
static const struct key_kind kek_key = {"TMK-KEK", CKO_SECRET_KEY, FLAGS(kek_flags),
                                        CKM_AES_KEY_GEN, CKK_AES};

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
    CK_ATTRIBUTE attributes[] = {
        ATTRIBUTE_BYTES(CKA_CLASS, &kind->class, sizeof(kind->class)),
        ATTRIBUTE(CKA_TOKEN, token_true),
        ATTRIBUTE_BYTES(CKA_LABEL, kind->label, strlen(kind->label)),
    };
    return token_search_one(session, attributes, COUNT(attributes), kind->label, ret_key);
}

static int refuse(const struct key_kind *kind, const char *attribute, const char *must)
{
    return fail(FAIL_REFUSED,
                "%s in the token: CKA_%s must be %s; such a key is not served with: replace it, "
                "or correct the attribute with the HSM's own tool",
                kind->label, attribute, must);
}

/* An attribute of exactly size bytes; must says what it should be. */
static int read_exactly(struct token_session *session, const struct key_kind *kind,
                        token_handle key, CK_ATTRIBUTE_TYPE type, const char *name,
                        const char *must, void *ret_value, size_t size)
{
    size_t len = 0;
    int rc = token_attribute(session, key, type, ret_value, size, &len);
    if (rc == FAIL_NOT_FOUND || rc == FAIL_MALFORMED || (rc == 0 && len != size))
        return refuse(kind, name, must);
    return rc < 0 ? fail_in(rc, "%s, CKA_%s", kind->label, name) : 0;
}

static int check_flags(struct token_session *session, const struct key_kind *kind, token_handle key)
{
    for (size_t i = 0; i < kind->flag_count; i++) {
        const struct flag *flag = &kind->flags[i];
        const char *must = flag->value ? "true" : "false";
        CK_BBOOL value = CK_FALSE;
        int rc =
            read_exactly(session, kind, key, flag->type, flag->name, must, &value, sizeof(value));
        if (rc < 0)
            return rc;
        if (!value != !flag->value)
            return refuse(kind, flag->name, must);
    }
    return 0;
}

static int open_key(struct token_session *session, const struct key_kind *kind,
                    token_handle *ret_key)
{
    int rc = find_key(session, kind, ret_key);
    if (rc == FAIL_NOT_FOUND)
        return fail(FAIL_NOT_FOUND, "the token has no %s; run 'tmkctl -c CONF init' first",
                    kind->label);
    return rc < 0 ? rc : check_flags(session, kind, *ret_key);
}

static int open_secret(struct token_session *session, const struct key_kind *kind,
                       token_handle *ret_key)
{
    static const char right_len[] = "32 bytes";
    const char *right_type = kind->type == CKK_AES ? "AES" : "generic secret";
    CK_KEY_TYPE type = 0;
    CK_ULONG len = 0;
    int rc = open_key(session, kind, ret_key);
    if (rc == 0)
        rc = read_exactly(session, kind, *ret_key, CKA_KEY_TYPE, "KEY_TYPE", right_type, &type,
                          sizeof(type));
    if (rc == 0 && type != kind->type)
        rc = refuse(kind, "KEY_TYPE", right_type);
    if (rc == 0)
        rc = read_exactly(session, kind, *ret_key, CKA_VALUE_LEN, "VALUE_LEN", right_len, &len,
                          sizeof(len));
    if (rc == 0 && len != SECRET_LEN)
        rc = refuse(kind, "VALUE_LEN", right_len);
    return rc;
}

static CK_MECHANISM_TYPE prks_mechanism(enum prks_kind kind)
{
    return kind == PRKS_RSA ? CKM_RSA_PKCS : CKM_ECDSA;
}

static int read_prks_spec(struct token_session *session, token_handle prks,
                          struct prks_spec *ret_spec)
{
    struct prks_spec spec = {PRKS_P256, 256};
    CK_KEY_TYPE type = 0;
    uint8_t modulus[RSA_BLOCK_MAX];
    size_t len = 0;
    int rc = read_exactly(session, &prks_key, prks, CKA_KEY_TYPE, "KEY_TYPE", "RSA or EC", &type,
                          sizeof(type));
    if (rc == 0 && type == CKK_RSA) {
        rc = token_attribute(session, prks, CKA_MODULUS, modulus, sizeof(modulus), &len);
        spec = (struct prks_spec){PRKS_RSA, (unsigned)len * 8};
    }
    if (rc < 0 && rc != FAIL_NOT_FOUND && rc != FAIL_MALFORMED)
        return rc;
    if (rc < 0 || (type != CKK_RSA && type != CKK_EC) || !prks_spec_name(&spec))
        return fail(FAIL_REFUSED, "PrKS in the token is of a kind or size that is not served with");
    *ret_spec = spec;
    return 0;
}

/* One job, one mechanism: without this list PrKS would also sign what a vendor calls RSA. */
static int check_mechanisms(struct token_session *session, token_handle prks, enum prks_kind kind)
{
    const char *must = kind == PRKS_RSA ? "CKM_RSA_PKCS alone" : "CKM_ECDSA alone";
    CK_MECHANISM_TYPE allowed = 0;
    int rc = read_exactly(session, &prks_key, prks, CKA_ALLOWED_MECHANISMS, "ALLOWED_MECHANISMS",
                          must, &allowed, sizeof(allowed));
    if (rc == 0 && allowed != prks_mechanism(kind))
        rc = refuse(&prks_key, "ALLOWED_MECHANISMS", must);
    return rc;
}

static enum tmk_wrap best_wrap(struct token_session *session)
{
    CK_MECHANISM_INFO info;
    CK_RV rv = TOKEN_CALL(session->token, C_GetMechanismInfo, session->token->slot,
                          CKM_AES_KEY_WRAP_PAD, &info);
    return rv == CKR_OK && (info.flags & CKF_WRAP) ? TMK_WRAP_KWP : TMK_WRAP_KW;
}

/* Whether the leaf of the chain opens c1 to m1. */
static int check_certificate(const struct cert_chain *chain, const uint8_t m1[static M1_LEN],
                             const uint8_t *c1, size_t c1_len)
{
    size_t len;
    const uint8_t *der = cert_chain_at(chain, 0, &len);
    X509 *leaf = d2i_X509(NULL, &der, (long)len);
    EVP_PKEY *puks = leaf ? X509_get0_pubkey(leaf) : NULL;
    int rc = puks ? c1_open(puks, c1, c1_len, m1) : FAIL_REFUSED;
    X509_free(leaf);
    return rc == 0 ? 0
                   : fail(FAIL_REFUSED, "KSWCRT in the token is not a certificate of PrKS; install "
                                        "the right one with 'tmkctl cert install'");
}

/* A C1 over a fixed M1, opened with KSWCRT's key: PrKS works and the certificate is its own. */
static int check_prks_signs(struct token_session *session, const struct keyring *keyring)
{
    static const uint8_t m1[M1_LEN] = "TMKD-SELF-CHECK";
    uint8_t c1[RSA_BLOCK_MAX];
    size_t len;
    int rc = c1_sign(session, keyring, m1, c1, &len);
    return rc < 0 || keyring->kswcrt.count == 0 ? rc
                                                : check_certificate(&keyring->kswcrt, m1, c1, len);
}

int keyring_open(struct token_session *session, struct keyring *ret_keyring)
{
    struct keyring keyring = {0};
    int rc = FAIL_TOKEN;

    if ((rc = open_key(session, &prks_key, &keyring.prks)) < 0 ||
        (rc = read_prks_spec(session, keyring.prks, &keyring.prks_spec)) < 0 ||
        (rc = check_mechanisms(session, keyring.prks, keyring.prks_spec.kind)) < 0 ||
        (rc = open_secret(session, &seal_key, &keyring.seal)) < 0 ||
        (rc = open_secret(session, &audit_key, &keyring.audit)) < 0 ||
        (rc = open_secret(session, &kek_key, &keyring.kek)) < 0 ||
        (rc = chain_read(session, &keyring.kswcrt)) < 0 ||
        (rc = check_prks_signs(session, &keyring)) < 0)
        return rc;
    keyring.wrap = best_wrap(session);
    *ret_keyring = keyring;
    return 0;
}

/* --- making --- */

enum { TEMPLATE_MAX = 20 };

/* A C_GenerateKey template in the making; what is put in must outlive it. */
struct template
{
    CK_ATTRIBUTE attributes[TEMPLATE_MAX];
    CK_ULONG count;
};

static void put(struct template *template, CK_ATTRIBUTE_TYPE type, const void *value, size_t len)
{
    template->attributes[template->count++] = (CK_ATTRIBUTE)ATTRIBUTE_BYTES(type, value, len);
}

static void put_kind(struct template *template, const struct key_kind *kind)
{
    put(template, CKA_LABEL, kind->label, strlen(kind->label));
    for (size_t i = 0; i < kind->flag_count; i++)
        put(template, kind->flags[i].type, &kind->flags[i].value, sizeof(kind->flags[i].value));
}

static int make_secret(struct token_session *session, const struct key_kind *kind)
{
    struct template template = {0};
    CK_ULONG key_len = SECRET_LEN;
    token_handle key;
    put_kind(&template, kind);
    put(&template, CKA_VALUE_LEN, &key_len, sizeof(key_len));
    return token_generate(session, kind->generation, template.attributes, template.count,
                          kind->label, &key);
}

/* PuKS stays in the token beside PrKS, with the same CKA_ID: libp11 takes a P-256 point from it. */
static int make_prks(struct token_session *session, const struct prks_spec *spec)
{
    static const CK_BYTE p256[] = {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07};
    static const CK_BYTE f4[] = {0x01, 0x00, 0x01};
    const CK_ULONG bits = spec->bits;
    const CK_MECHANISM_TYPE allowed = prks_mechanism(spec->kind);
    CK_MECHANISM mechanism = {
        spec->kind == PRKS_RSA ? CKM_RSA_PKCS_KEY_PAIR_GEN : CKM_EC_KEY_PAIR_GEN, NULL, 0};
    struct template public = {0};
    struct template private = {0};
    CK_BYTE id[ID_LEN];
    token_handle puks;
    token_handle prks;

    int rc = token_random(session, id, sizeof(id));
    if (rc < 0)
        return rc;
    put_kind(&public, &puks_key);
    put(&public, CKA_ID, id, sizeof(id));
    if (spec->kind == PRKS_RSA) {
        put(&public, CKA_MODULUS_BITS, &bits, sizeof(bits));
        put(&public, CKA_PUBLIC_EXPONENT, f4, sizeof(f4));
    } else {
        put(&public, CKA_EC_PARAMS, p256, sizeof(p256));
    }
    put_kind(&private, &prks_key);
    put(&private, CKA_ID, id, sizeof(id));
    put(&private, CKA_ALLOWED_MECHANISMS, &allowed, sizeof(allowed));
    return token_result(TOKEN_CALL(session->token, C_GenerateKeyPair, session->handle, &mechanism,
                                   public.attributes, public.count, private.attributes,
                                   private.count, &puks, &prks),
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
