/*
 * The HSM room on real SoftHSM tokens, one directory a test. What a token gave is checked by
 * OpenSSL or against the vectors, never by the room itself.
 */
#include "common/fail.h" /* before cmocka, whose macro has the same name */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>

#include "common/spki.h"
#include "hsm/c1.h"
#include "hsm/c2.h"
#include "hsm/ceremony.h"
#include "hsm/chain.h"
#include "hsm/cryptoki.h"
#include "hsm/keyring.h"
#include "hsm/seal.h"
#include "hsm/tmk.h"
#include "hsm/token.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define assert_ok(call)                                                                            \
    do {                                                                                           \
        if ((call) != 0)                                                                           \
            fail_msg("%s: %s", #call, fail_text());                                                \
    } while (0)

static const char module_path[] = "/usr/lib/softhsm/libsofthsm2.so";
static const char label[] = "test token";
static const char pin[] = "user-pin-1234";
static const struct prks_spec p256 = {PRKS_P256, 256};

/* A directory with a SoftHSM of its own, and what is open in it. */
struct place {
    char dir[64];
    char environment[128];
    struct token *token;
    struct token_session *session;
};

/* --- the place --- */

static void write_softhsm_conf(const struct place *place)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/tokens", place->dir);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof(path), "%s/softhsm2.conf", place->dir);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "directories.tokendir = %s/tokens\nobjectstore.backend = file\n", place->dir);
    fprintf(file, "log.level = ERROR\nslots.removable = false\n");
    assert_int_equal(fclose(file), 0);
}

static void place_load(struct place *place)
{
    char *environment[] = {place->environment};
    assert_ok(token_load(module_path, environment, 1, &place->token));
}

static void place_login(struct place *place)
{
    assert_ok(token_find(place->token, label));
    assert_ok(token_login(place->token, pin));
    assert_ok(token_session_open(place->token, &place->session));
}

static void place_close(struct place *place)
{
    token_session_close(place->session);
    token_unload(place->token);
    place->session = NULL;
    place->token = NULL;
}

static void place_open(struct place *place)
{
    place_load(place);
    place_login(place);
}

/* A directory without a token yet. */
static int set_up_bare(void **state)
{
    struct place *place = calloc(1, sizeof(*place));
    assert_non_null(place);
    strcpy(place->dir, "/tmp/tmkd-test-hsm-XXXXXX");
    assert_non_null(mkdtemp(place->dir));
    snprintf(place->environment, sizeof(place->environment), "SOFTHSM2_CONF=%s/softhsm2.conf",
             place->dir);
    write_softhsm_conf(place);
    *state = place;
    return 0;
}

/* A fresh token, logged in, a session open. */
static int set_up(void **state)
{
    set_up_bare(state);
    struct place *place = *state;
    place_load(place);
    assert_ok(token_initialise(place->token, label, "so-pin-5678", pin));
    place_login(place);
    return 0;
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *where)
{
    (void)status, (void)type, (void)where;
    return remove(path);
}

static int tear_down(void **state)
{
    struct place *place = *state;
    place_close(place);
    int rc = nftw(place->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(place);
    return rc;
}

/* --- objects, by Cryptoki itself --- */

/* At most two are told apart from one: enough to see that there is exactly one. */
static size_t find_labelled(struct place *place, CK_OBJECT_CLASS class, const char *name,
                            token_handle *ret_first)
{
    struct token *token = place->token;
    CK_OBJECT_HANDLE found[8];
    CK_ULONG count = 0;
    char text[32];
    strcpy(text, name);
    CK_ATTRIBUTE wanted[] = {{CKA_CLASS, &class, sizeof(class)}, {CKA_LABEL, text, strlen(text)}};
    assert_int_equal(TOKEN_CALL(token, C_FindObjectsInit, place->session->handle, wanted, 2), 0);
    assert_int_equal(TOKEN_CALL(token, C_FindObjects, place->session->handle, found, 8, &count), 0);
    assert_int_equal(TOKEN_CALL(token, C_FindObjectsFinal, place->session->handle), 0);
    if (count > 0 && ret_first)
        *ret_first = found[0];
    return count;
}

static size_t count_objects(struct place *place)
{
    CK_OBJECT_HANDLE found[64];
    CK_ULONG count = 0;
    struct token *token = place->token;
    assert_int_equal(TOKEN_CALL(token, C_FindObjectsInit, place->session->handle, NULL, 0), 0);
    assert_int_equal(TOKEN_CALL(token, C_FindObjects, place->session->handle, found, 64, &count),
                     0);
    assert_int_equal(TOKEN_CALL(token, C_FindObjectsFinal, place->session->handle), 0);
    return count;
}

static size_t get_attribute(struct place *place, token_handle object, CK_ATTRIBUTE_TYPE type,
                            void *value, size_t size)
{
    CK_ATTRIBUTE attribute = {type, value, size};
    CK_RV rv = TOKEN_CALL(place->token, C_GetAttributeValue, place->session->handle, object,
                          &attribute, 1);
    if (rv != CKR_OK)
        fail_msg("attribute 0x%lx: 0x%lx", type, rv);
    return attribute.ulValueLen;
}

struct expected {
    CK_ATTRIBUTE_TYPE type;
    const char *name;
    CK_BBOOL value;
};

static void assert_flags(struct place *place, token_handle object, const struct expected *expected,
                         size_t count)
{
    for (size_t i = 0; i < count; i++) {
        CK_BBOOL value = 2;
        get_attribute(place, object, expected[i].type, &value, sizeof(value));
        if (value != expected[i].value)
            fail_msg("%s is %d", expected[i].name, value);
    }
}

static const struct expected never_out[] = {
    {CKA_TOKEN, "TOKEN", 1},
    {CKA_PRIVATE, "PRIVATE", 1},
    {CKA_SENSITIVE, "SENSITIVE", 1},
    {CKA_MODIFIABLE, "MODIFIABLE", 0},
    {CKA_EXTRACTABLE, "EXTRACTABLE", 0},
    {CKA_ALWAYS_SENSITIVE, "ALWAYS_SENSITIVE", 1},
    {CKA_NEVER_EXTRACTABLE, "NEVER_EXTRACTABLE", 1},
    {CKA_LOCAL, "LOCAL", 1},
};
static const struct expected prks_flags[] = {
    {CKA_SIGN, "SIGN", 1},     {CKA_DECRYPT, "DECRYPT", 0},
    {CKA_UNWRAP, "UNWRAP", 0}, {CKA_SIGN_RECOVER, "SIGN_RECOVER", 0},
    {CKA_DERIVE, "DERIVE", 0},
};
static const struct expected mac_flags[] = {
    {CKA_SIGN, "SIGN", 1},       {CKA_VERIFY, "VERIFY", 1}, {CKA_ENCRYPT, "ENCRYPT", 0},
    {CKA_DECRYPT, "DECRYPT", 0}, {CKA_WRAP, "WRAP", 0},     {CKA_UNWRAP, "UNWRAP", 0},
    {CKA_DERIVE, "DERIVE", 0},
};
static const struct expected kek_flags[] = {
    {CKA_WRAP, "WRAP", 1},       {CKA_UNWRAP, "UNWRAP", 1}, {CKA_ENCRYPT, "ENCRYPT", 0},
    {CKA_DECRYPT, "DECRYPT", 0}, {CKA_SIGN, "SIGN", 0},     {CKA_VERIFY, "VERIFY", 0},
    {CKA_DERIVE, "DERIVE", 0},
};
static const struct expected tmk_flags[] = {
    {CKA_PRIVATE, "PRIVATE", 1},
    {CKA_SENSITIVE, "SENSITIVE", 1},
    {CKA_MODIFIABLE, "MODIFIABLE", 0},
    {CKA_EXTRACTABLE, "EXTRACTABLE", 1},
    {CKA_SIGN, "SIGN", 1},
    {CKA_VERIFY, "VERIFY", 1},
    {CKA_ENCRYPT, "ENCRYPT", 0},
    {CKA_DECRYPT, "DECRYPT", 0},
    {CKA_WRAP, "WRAP", 0},
    {CKA_UNWRAP, "UNWRAP", 0},
    {CKA_DERIVE, "DERIVE", 0},
};

/* A template that grows, and of which one attribute may be changed or left out. */
struct template
{
    CK_ATTRIBUTE attributes[32];
    CK_ULONG count;
    CK_BBOOL flags[32]; /* room for the values of put_flag() */
};

static void put(struct template *t, CK_ATTRIBUTE_TYPE type, void *value, size_t len)
{
    t->attributes[t->count++] = (CK_ATTRIBUTE){type, value, len};
}

static void put_flag(struct template *t, CK_ATTRIBUTE_TYPE type, CK_BBOOL value)
{
    t->flags[t->count] = value;
    put(t, type, &t->flags[t->count], sizeof(CK_BBOOL));
}

static CK_ATTRIBUTE *find_attribute(struct template *t, CK_ATTRIBUTE_TYPE type)
{
    for (CK_ULONG i = 0; i < t->count; i++)
        if (t->attributes[i].type == type)
            return &t->attributes[i];
    fail_msg("no attribute 0x%lx", type);
    return NULL;
}

static void flip_flag(struct template *t, CK_ATTRIBUTE_TYPE type)
{
    CK_BBOOL *value = find_attribute(t, type)->pValue;
    *value = !*value;
}

static void leave_out(struct template *t, CK_ATTRIBUTE_TYPE type)
{
    *find_attribute(t, type) = t->attributes[--t->count];
}

/* What of never_out a template may set. */
static void put_settable(struct template *t)
{
    for (size_t i = 0; never_out[i].type != CKA_ALWAYS_SENSITIVE; i++)
        put_flag(t, never_out[i].type, never_out[i].value);
}

static void put_expected(struct template *t, const struct expected *expected, size_t count)
{
    for (size_t i = 0; i < count; i++)
        put_flag(t, expected[i].type, expected[i].value);
}

static token_handle create(struct place *place, struct template *t)
{
    token_handle object;
    CK_RV rv = TOKEN_CALL(place->token, C_CreateObject, place->session->handle, t->attributes,
                          t->count, &object);
    if (rv != CKR_OK)
        fail_msg("C_CreateObject: 0x%lx", rv);
    return object;
}

static void destroy_labelled(struct place *place, CK_OBJECT_CLASS class, const char *name)
{
    token_handle object;
    while (find_labelled(place, class, name, &object) > 0)
        assert_ok(token_destroy(place->session, object));
}

/* --- PrKS of a test --- */

static EVP_PKEY *generate_p256(void)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    assert_non_null(key);
    return key;
}

struct number {
    uint8_t bytes[RSA_BLOCK_MAX];
    size_t len;
};

static void put_number(struct template *t, CK_ATTRIBUTE_TYPE type, const EVP_PKEY *key,
                       const char *name, struct number *room)
{
    BIGNUM *number = NULL;
    assert_int_equal(EVP_PKEY_get_bn_param(key, name, &number), 1);
    room->len = (size_t)BN_bn2bin(number, room->bytes);
    BN_free(number);
    put(t, type, room->bytes, room->len);
}

static CK_BYTE p256_oid[] = {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07};

static void put_key_numbers(struct template *t, const EVP_PKEY *key, struct number room[static 8])
{
    static const struct {
        CK_ATTRIBUTE_TYPE type;
        const char *name;
    } rsa[] = {
        {CKA_MODULUS, OSSL_PKEY_PARAM_RSA_N},
        {CKA_PUBLIC_EXPONENT, OSSL_PKEY_PARAM_RSA_E},
        {CKA_PRIVATE_EXPONENT, OSSL_PKEY_PARAM_RSA_D},
        {CKA_PRIME_1, OSSL_PKEY_PARAM_RSA_FACTOR1},
        {CKA_PRIME_2, OSSL_PKEY_PARAM_RSA_FACTOR2},
        {CKA_EXPONENT_1, OSSL_PKEY_PARAM_RSA_EXPONENT1},
        {CKA_EXPONENT_2, OSSL_PKEY_PARAM_RSA_EXPONENT2},
        {CKA_COEFFICIENT, OSSL_PKEY_PARAM_RSA_COEFFICIENT1},
    };
    if (EVP_PKEY_is_a(key, "RSA")) {
        for (size_t i = 0; i < COUNT(rsa); i++)
            put_number(t, rsa[i].type, key, rsa[i].name, &room[i]);
    } else {
        put(t, CKA_EC_PARAMS, p256_oid, sizeof(p256_oid));
        put_number(t, CKA_VALUE, key, OSSL_PKEY_PARAM_PRIV_KEY, &room[0]);
    }
}

/* What a factory's PrKS would be: from outside, one attribute changed as the test wants. */
struct foreign_prks {
    struct template t;
    CK_OBJECT_CLASS class;
    CK_KEY_TYPE type;
    CK_MECHANISM_TYPE mechanism;
    struct number room[8];
};

static void describe_prks(struct foreign_prks *prks, const EVP_PKEY *key)
{
    static char name[] = "PrKS";
    static CK_BYTE id[] = {1, 2, 3, 4};
    int is_rsa = EVP_PKEY_is_a(key, "RSA");
    memset(prks, 0, sizeof(*prks));
    prks->class = CKO_PRIVATE_KEY;
    prks->type = is_rsa ? CKK_RSA : CKK_EC;
    prks->mechanism = is_rsa ? CKM_RSA_PKCS : CKM_ECDSA;
    put(&prks->t, CKA_CLASS, &prks->class, sizeof(prks->class));
    put(&prks->t, CKA_KEY_TYPE, &prks->type, sizeof(prks->type));
    put(&prks->t, CKA_LABEL, name, strlen(name));
    put(&prks->t, CKA_ID, id, sizeof(id));
    put(&prks->t, CKA_ALLOWED_MECHANISMS, &prks->mechanism, sizeof(prks->mechanism));
    put_settable(&prks->t);
    put_expected(&prks->t, prks_flags, COUNT(prks_flags));
    put_key_numbers(&prks->t, key, prks->room);
}

static void import_prks(struct place *place, const EVP_PKEY *key)
{
    struct foreign_prks prks;
    describe_prks(&prks, key);
    create(place, &prks.t);
}

/* --- certificates of a test --- */

static void set_name(X509_NAME *name, const char *common)
{
    assert_int_equal(X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8,
                                                (const unsigned char *)common, -1, -1, 0),
                     1);
}

/* subject's certificate over key, by issuer_key; it has been valid for that many days. */
static X509 *issue(const char *subject, EVP_PKEY *key, const char *issuer, EVP_PKEY *issuer_key,
                   int days_old)
{
    static long serial = 1;
    X509 *certificate = X509_new();
    assert_non_null(certificate);
    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), serial++);
    set_name(X509_get_subject_name(certificate), subject);
    set_name(X509_get_issuer_name(certificate), issuer);
    X509_time_adj_ex(X509_getm_notBefore(certificate), -days_old, 0, NULL);
    X509_time_adj_ex(X509_getm_notAfter(certificate), 365, 0, NULL);
    X509_set_pubkey(certificate, key);
    assert_true(X509_sign(certificate, issuer_key, EVP_sha256()) > 0);
    return certificate;
}

static void chain_add(struct cert_chain *chain, X509 *certificate)
{
    unsigned char *der = NULL;
    int len = i2d_X509(certificate, &der);
    assert_true(len > 0);
    assert_ok(cert_chain_add(chain, der, (size_t)len));
    OPENSSL_free(der);
}

static void assert_chain_equal(const struct cert_chain *a, const struct cert_chain *b)
{
    assert_int_equal(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        size_t a_len;
        size_t b_len;
        const uint8_t *a_der = cert_chain_at(a, i, &a_len);
        const uint8_t *b_der = cert_chain_at(b, i, &b_len);
        assert_int_equal(a_len, b_len);
        assert_memory_equal(a_der, b_der, a_len);
    }
}

/* A certificate object straight into the token, as an installation that was cut off leaves it. */
static void create_certificate(struct place *place, const char *name, const uint8_t *der,
                               size_t len)
{
    CK_OBJECT_CLASS class = CKO_CERTIFICATE;
    CK_CERTIFICATE_TYPE type = CKC_X_509;
    uint8_t value[CHAIN_DER_MAX];
    char text[16];
    strcpy(text, name);
    memcpy(value, der, len);
    struct template t = {0};
    put(&t, CKA_CLASS, &class, sizeof(class));
    put(&t, CKA_CERTIFICATE_TYPE, &type, sizeof(type));
    put_flag(&t, CKA_TOKEN, CK_TRUE);
    put_flag(&t, CKA_PRIVATE, CK_FALSE);
    put(&t, CKA_LABEL, text, strlen(text));
    put(&t, CKA_SUBJECT, text, strlen(text)); /* must be there; nobody reads it */
    put(&t, CKA_VALUE, value, len);
    create(place, &t);
}

static void create_chain(struct place *place, const struct cert_chain *chain)
{
    static const char *const names[] = {"KSWCRT", "KSWCRT-1", "KSWCRT-2", "KSWCRT-3"};
    for (size_t i = 0; i < chain->count; i++) {
        size_t len;
        const uint8_t *der = cert_chain_at(chain, i, &len);
        create_certificate(place, names[i], der, len);
    }
}

/* --- vectors --- */

static json_t *vectors;

static int load_vectors(void **state)
{
    (void)state;
    json_error_t error;
    json_t *file = json_load_file(getenv("TMKD_VECTORS"), 0, &error);
    assert_non_null(file);
    vectors = json_incref(json_object_get(file, "vectors"));
    json_decref(file);
    return vectors ? 0 : -1;
}

static int free_vectors(void **state)
{
    (void)state;
    json_decref(vectors);
    return 0;
}

static const char *text_of(const json_t *vector, const char *name)
{
    const char *text = json_string_value(json_object_get(vector, name));
    assert_non_null(text);
    return text;
}

static struct number bytes_of(const json_t *vector, const char *name)
{
    struct number bytes;
    assert_int_equal(OPENSSL_hexstr2buf_ex(bytes.bytes, sizeof(bytes.bytes), &bytes.len,
                                           text_of(vector, name), '\0'),
                     1);
    return bytes;
}

static EVP_PKEY *key_of(const json_t *vector, const char *name)
{
    BIO *bio = BIO_new_mem_buf(text_of(vector, name), -1);
    EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
    BIO_free(bio);
    assert_non_null(key);
    return key;
}

static X509 *certificate_of(const json_t *vector, const char *name)
{
    BIO *bio = BIO_new_mem_buf(text_of(vector, name), -1);
    X509 *certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL);
    BIO_free(bio);
    assert_non_null(certificate);
    return certificate;
}

static struct spki spki_of(EVP_PKEY *key)
{
    struct spki spki;
    unsigned char *der = NULL;
    int len = i2d_PUBKEY(key, &der);
    assert_true(len > 0);
    assert_ok(spki_read(der, (size_t)len, &spki));
    OPENSSL_free(der);
    return spki;
}

/* --- the token --- */

static void test_login(void **state)
{
    struct place *place = *state;
    place_load(place);
    assert_int_equal(token_find(place->token, label), FAIL_NOT_FOUND);
    assert_non_null(strstr(fail_text(), "'test token'"));
    assert_non_null(strstr(fail_text(), "none"));
    assert_ok(token_initialise(place->token, label, "so-pin-5678", pin));
    assert_int_equal(token_initialise(place->token, label, "so-pin-5678", pin), FAIL_EXISTS);
    assert_int_equal(token_find(place->token, "another"), FAIL_NOT_FOUND);
    assert_non_null(strstr(fail_text(), "it has: 'test token'"));
    assert_ok(token_find(place->token, label));
    assert_int_equal(token_login(place->token, ""), FAIL_CONFIG);
    assert_int_equal(token_login(place->token, "wrong-pin"), FAIL_REFUSED);
    assert_non_null(strstr(fail_text(), "PIN"));
    assert_null(strstr(fail_text(), "wrong-pin"));
    assert_ok(token_login(place->token, pin));
    assert_true(token_calls(place->token) > 0);
}

static void test_load_refusals(void **state)
{
    struct token *token = NULL;
    char *no_name[] = {(char[]){"SOFTHSM2_CONF"}};
    (void)state;
    assert_int_equal(token_load(module_path, no_name, 1, &token), FAIL_CONFIG);
    assert_int_equal(token_load("/nonexistent/module.so", NULL, 0, &token), FAIL_CONFIG);
    assert_int_equal(token_load("libcmocka.so.0", NULL, 0, &token), FAIL_CONFIG);
    assert_non_null(strstr(fail_text(), "C_GetFunctionList"));
    assert_null(token);
    token_unload(NULL);
    token_session_close(NULL);
}

static void test_initialise_limits(void **state)
{
    struct place *place = *state;
    char long_label[TOKEN_LABEL_MAX + 2];
    char long_pin[TOKEN_PIN_MAX + 2];
    memset(long_label, 'l', sizeof(long_label) - 1);
    memset(long_pin, '1', sizeof(long_pin) - 1);
    long_label[sizeof(long_label) - 1] = long_pin[sizeof(long_pin) - 1] = '\0';
    place_load(place);
    assert_int_equal(token_initialise(place->token, long_label, pin, pin), FAIL_CONFIG);
    assert_int_equal(token_initialise(place->token, label, long_pin, pin), FAIL_CONFIG);
    assert_int_equal(token_initialise(place->token, label, pin, long_pin), FAIL_CONFIG);
    assert_int_equal(token_find(place->token, label), FAIL_NOT_FOUND);
    long_label[TOKEN_LABEL_MAX] = '\0';
    long_pin[TOKEN_PIN_MAX] = '\0';
    assert_ok(token_initialise(place->token, long_label, long_pin, long_pin));
    assert_ok(token_find(place->token, long_label));
    assert_ok(token_login(place->token, long_pin));
}

/* One process, the module loaded twice one after the other, and objects outlive it. */
static void test_load_again(void **state)
{
    struct place *place = *state;
    struct keyring keyring;
    struct token *second = NULL;
    assert_int_equal(token_load(module_path, NULL, 0, &second), FAIL_TOKEN);
    assert_non_null(strstr(fail_text(), "ALREADY_INITIALIZED"));
    assert_int_equal(keyring_open(place->session, &keyring), FAIL_NOT_FOUND);
    struct tmk_info info = {.type = TMK_AES128, .version = 1};
    token_handle tmk;
    assert_ok(tmk_generate(place->session, "SN-1", &info, &tmk));
    for (int i = 0; i < 3; i++) {
        place_close(place);
        place_open(place);
        assert_int_equal(find_labelled(place, CKO_SECRET_KEY, "TMK", NULL), 1);
    }
}

static void test_random(void **state)
{
    struct place *place = *state;
    static uint8_t values[80][32]; /* over two blocks */
    uint8_t most[RANDOM_BLOCK + 1];
    for (size_t i = 0; i < COUNT(values); i++) {
        assert_ok(token_random(place->session, values[i], sizeof(values[i])));
        for (size_t j = 0; j < i; j++)
            assert_memory_not_equal(values[i], values[j], sizeof(values[i]));
    }
    assert_ok(token_random(place->session, most, 1000)); /* what is left of a block is too little */
    for (size_t j = 0; j < COUNT(values); j++)
        assert_null(memmem(most, 1000, values[j], sizeof(values[j])));
    assert_ok(token_random(place->session, most, RANDOM_BLOCK));
    assert_int_equal(token_random(place->session, most, RANDOM_BLOCK + 1), FAIL_TOKEN);
}

/* --- the keyring --- */

struct made {
    size_t count;
    char labels[8][16];
};

static void note_made(void *context, const char *name)
{
    struct made *made = context;
    strcpy(made->labels[made->count++], name);
}

static void make_keyring(struct place *place, const struct prks_spec *spec, struct keyring *keyring)
{
    struct made made = {0};
    assert_ok(keyring_make(place->session, spec, note_made, &made));
    assert_ok(keyring_open(place->session, keyring));
}

static void assert_prks(struct place *place, const struct keyring *keyring)
{
    CK_MECHANISM_TYPE allowed[4];
    uint8_t private_id[64];
    uint8_t public_id[64];
    token_handle puks;
    assert_flags(place, keyring->prks, never_out, COUNT(never_out));
    assert_flags(place, keyring->prks, prks_flags, COUNT(prks_flags));
    assert_int_equal(
        get_attribute(place, keyring->prks, CKA_ALLOWED_MECHANISMS, allowed, sizeof(allowed)),
        sizeof(allowed[0]));
    assert_int_equal(allowed[0], keyring->prks_spec.kind == PRKS_RSA ? CKM_RSA_PKCS : CKM_ECDSA);
    assert_int_equal(find_labelled(place, CKO_PUBLIC_KEY, "PuKS", &puks), 1);
    size_t len = get_attribute(place, keyring->prks, CKA_ID, private_id, sizeof(private_id));
    assert_int_equal(get_attribute(place, puks, CKA_ID, public_id, sizeof(public_id)), len);
    assert_memory_equal(private_id, public_id, len);
}

static void assert_secret(struct place *place, token_handle key, const char *name, CK_KEY_TYPE type,
                          const struct expected *flags, size_t count)
{
    token_handle found;
    CK_KEY_TYPE has_type;
    CK_ULONG bytes;
    assert_int_equal(find_labelled(place, CKO_SECRET_KEY, name, &found), 1);
    assert_int_equal(found, key);
    assert_flags(place, key, never_out, COUNT(never_out));
    assert_flags(place, key, flags, count);
    get_attribute(place, key, CKA_KEY_TYPE, &has_type, sizeof(has_type));
    get_attribute(place, key, CKA_VALUE_LEN, &bytes, sizeof(bytes));
    assert_int_equal(has_type, type);
    assert_int_equal(bytes, 32);
}

static void assert_nothing_made(void *context, const char *name)
{
    (void)context;
    fail_msg("made %s again", name);
}

static const struct ceremony_token ceremony_token = {module_path, label, pin};

/* libp11 wants the module for itself. */
static X509_REQ *request(struct place *place, const char *subject)
{
    char *pem = NULL;
    place_close(place);
    assert_ok(ceremony_request(&ceremony_token, subject, &pem));
    BIO *bio = BIO_new_mem_buf(pem, -1);
    X509_REQ *csr = PEM_read_bio_X509_REQ(bio, NULL, NULL, NULL);
    assert_non_null(csr);
    BIO_free(bio);
    free(pem);
    place_open(place);
    return csr;
}

static void assert_request(struct place *place, const struct prks_spec *spec)
{
    char name[128];
    X509_REQ *csr = request(place, "CN=tmkd,O=A Bank,C=GB");
    EVP_PKEY *key = X509_REQ_get0_pubkey(csr);
    assert_non_null(key);
    assert_int_equal(X509_REQ_verify(csr, key), 1);
    assert_int_equal(EVP_PKEY_get_bits(key), spec->bits);
    assert_int_equal(EVP_PKEY_is_a(key, "RSA"), spec->kind == PRKS_RSA);
    X509_NAME_oneline(X509_REQ_get_subject_name(csr), name, sizeof(name));
    assert_string_equal(name, "/CN=tmkd/O=A Bank/C=GB");
    X509_REQ_free(csr);
}

static void make_and_check(struct place *place, const char *kind)
{
    static const char *const names[] = {"PrKS", "SEAL", "AUDIT", "TMK-KEK"};
    struct prks_spec spec;
    struct keyring keyring;
    struct made made = {0};
    assert_ok(prks_spec_read(kind, &spec));
    assert_ok(keyring_make(place->session, &spec, note_made, &made));
    assert_int_equal(made.count, COUNT(names));
    for (size_t i = 0; i < COUNT(names); i++)
        assert_string_equal(made.labels[i], names[i]);
    assert_ok(keyring_open(place->session, &keyring));
    assert_string_equal(prks_spec_name(&keyring.prks_spec), kind);
    assert_int_equal(keyring.kswcrt.count, 0);
    assert_prks(place, &keyring);
    assert_secret(place, keyring.seal, "SEAL", CKK_GENERIC_SECRET, mac_flags, COUNT(mac_flags));
    assert_secret(place, keyring.audit, "AUDIT", CKK_GENERIC_SECRET, mac_flags, COUNT(mac_flags));
    assert_secret(place, keyring.kek, "TMK-KEK", CKK_AES, kek_flags, COUNT(kek_flags));
    size_t before = count_objects(place);
    assert_ok(keyring_make(place->session, &spec, assert_nothing_made, NULL));
    assert_int_equal(count_objects(place), before);
    assert_request(place, &spec);
}

static void test_keyring_rsa_2048(void **state)
{
    make_and_check(*state, "rsa:2048");
}

static void test_keyring_rsa_3072(void **state)
{
    make_and_check(*state, "rsa:3072");
}

static void test_keyring_rsa_4096(void **state)
{
    make_and_check(*state, "rsa:4096");
}

static void test_keyring_p256(void **state)
{
    make_and_check(*state, "ec:p256");
}

static void test_prks_names(void **state)
{
    static const char *const wrong[] = {"", "rsa", "rsa:1024", "rsa:2048 ", "ec:p384", "RSA:2048"};
    struct prks_spec spec = {PRKS_RSA, 77};
    (void)state;
    for (size_t i = 0; i < COUNT(wrong); i++)
        assert_int_equal(prks_spec_read(wrong[i], &spec), FAIL_CONFIG);
    assert_int_equal(spec.bits, 77);
    assert_null(prks_spec_name(&spec));
}

static void assert_open_refused(struct place *place, int code, const char *object,
                                const char *attribute)
{
    struct keyring keyring;
    assert_int_equal(keyring_open(place->session, &keyring), code);
    if (!strstr(fail_text(), object) || !strstr(fail_text(), attribute))
        fail_msg("'%s' names not both %s and %s", fail_text(), object, attribute);
}

static void try_prks_without(struct place *place, const EVP_PKEY *key,
                             const struct expected *expected)
{
    struct foreign_prks prks;
    describe_prks(&prks, key);
    flip_flag(&prks.t, expected->type);
    token_handle object = create(place, &prks.t);
    assert_open_refused(place, FAIL_REFUSED, "PrKS", expected->name);
    assert_ok(token_destroy(place->session, object));
}

static void test_refuses_prks(void **state)
{
    struct place *place = *state;
    struct keyring keyring;
    EVP_PKEY *key = generate_p256();
    make_keyring(place, &p256, &keyring);
    destroy_labelled(place, CKO_PRIVATE_KEY, "PrKS");
    assert_open_refused(place, FAIL_NOT_FOUND, "PrKS", "tmkctl -c CONF init");
    for (size_t i = 1; never_out[i].type != CKA_ALWAYS_SENSITIVE; i++)
        try_prks_without(place, key, &never_out[i]);
    for (size_t i = 0; i < COUNT(prks_flags); i++)
        try_prks_without(place, key, &prks_flags[i]);
    import_prks(place, key); /* unchanged it is taken: the refusals are for what was changed */
    assert_ok(keyring_open(place->session, &keyring));
    import_prks(place, key);
    assert_open_refused(place, FAIL_REFUSED, "PrKS", "more than one");
    EVP_PKEY_free(key);
}

static void try_prks_mechanisms(struct place *place, const EVP_PKEY *key,
                                CK_MECHANISM_TYPE *mechanisms, size_t count)
{
    struct foreign_prks prks;
    describe_prks(&prks, key);
    leave_out(&prks.t, CKA_ALLOWED_MECHANISMS);
    if (count > 0)
        put(&prks.t, CKA_ALLOWED_MECHANISMS, mechanisms, count * sizeof(*mechanisms));
    token_handle object = create(place, &prks.t);
    assert_open_refused(place, FAIL_REFUSED, "PrKS", "ALLOWED_MECHANISMS");
    assert_ok(token_destroy(place->session, object));
}

static void test_refuses_prks_mechanisms(void **state)
{
    struct place *place = *state;
    struct keyring keyring;
    CK_MECHANISM_TYPE other[] = {CKM_ECDH1_DERIVE};
    CK_MECHANISM_TYPE both[] = {CKM_ECDSA, CKM_ECDH1_DERIVE};
    CK_MECHANISM_TYPE many[] = {CKM_ECDSA, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    EVP_PKEY *key = generate_p256();
    make_keyring(place, &p256, &keyring);
    destroy_labelled(place, CKO_PRIVATE_KEY, "PrKS");
    try_prks_mechanisms(place, key, NULL, 0);
    try_prks_mechanisms(place, key, other, COUNT(other));
    try_prks_mechanisms(place, key, both, COUNT(both));
    try_prks_mechanisms(place, key, many, COUNT(many));
    EVP_PKEY_free(key);
}

static void test_refuses_prks_of_other_size(void **state)
{
    struct place *place = *state;
    struct keyring keyring;
    EVP_PKEY *key = EVP_RSA_gen(1024);
    make_keyring(place, &p256, &keyring);
    destroy_labelled(place, CKO_PRIVATE_KEY, "PrKS");
    import_prks(place, key);
    assert_open_refused(place, FAIL_REFUSED, "PrKS", "kind or size");
    EVP_PKEY_free(key);
}

/* A secret key of that label made in the token, one attribute changed. */
struct own_secret {
    struct template t;
    CK_ULONG bytes;
    char label[16];
    CK_MECHANISM_TYPE generation;
    const struct expected *flags;
    size_t flag_count;
};

static void describe_secret(struct own_secret *secret, const char *name,
                            CK_MECHANISM_TYPE generation, const struct expected *flags,
                            size_t count)
{
    memset(secret, 0, sizeof(*secret));
    strcpy(secret->label, name);
    secret->bytes = 32;
    secret->flags = flags;
    secret->flag_count = count;
    secret->generation = generation;
    put(&secret->t, CKA_LABEL, secret->label, strlen(secret->label));
    put(&secret->t, CKA_VALUE_LEN, &secret->bytes, sizeof(secret->bytes));
    put_settable(&secret->t);
    put_expected(&secret->t, flags, count);
}

static void replace_secret(struct place *place, struct own_secret *secret)
{
    token_handle key;
    CK_MECHANISM mechanism = {secret->generation, NULL, 0};
    destroy_labelled(place, CKO_SECRET_KEY, secret->label);
    CK_RV rv = TOKEN_CALL(place->token, C_GenerateKey, place->session->handle, &mechanism,
                          secret->t.attributes, secret->t.count, &key);
    if (rv != CKR_OK)
        fail_msg("C_GenerateKey: 0x%lx", rv);
}

static void try_secret_without(struct place *place, const struct own_secret *right,
                               const struct expected *expected)
{
    struct own_secret secret;
    describe_secret(&secret, right->label, right->generation, NULL, 0);
    for (size_t i = 0; i < right->flag_count; i++)
        put_flag(&secret.t, right->flags[i].type, right->flags[i].value);
    flip_flag(&secret.t, expected->type);
    replace_secret(place, &secret);
    assert_open_refused(place, FAIL_REFUSED, right->label, expected->name);
}

static void refuses_secret(struct place *place, const struct own_secret *right)
{
    struct keyring keyring;
    struct own_secret wrong;
    make_keyring(place, &p256, &keyring);
    for (size_t i = 1; never_out[i].type != CKA_ALWAYS_SENSITIVE; i++)
        try_secret_without(place, right, &never_out[i]);
    for (size_t i = 0; i < right->flag_count; i++)
        try_secret_without(place, right, &right->flags[i]);
    describe_secret(&wrong, right->label, right->generation, right->flags, right->flag_count);
    wrong.bytes = 16;
    replace_secret(place, &wrong);
    assert_open_refused(place, FAIL_REFUSED, right->label, "32 bytes");
    destroy_labelled(place, CKO_SECRET_KEY, right->label);
    assert_open_refused(place, FAIL_NOT_FOUND, right->label, "tmkctl -c CONF init");
    describe_secret(&wrong, right->label, right->generation, right->flags, right->flag_count);
    replace_secret(place, &wrong);
    assert_ok(keyring_open(place->session, &keyring));
}

static void test_refuses_seal(void **state)
{
    struct own_secret right;
    describe_secret(&right, "SEAL", CKM_GENERIC_SECRET_KEY_GEN, mac_flags, COUNT(mac_flags));
    refuses_secret(*state, &right);
}

static void test_refuses_audit(void **state)
{
    struct own_secret right;
    describe_secret(&right, "AUDIT", CKM_GENERIC_SECRET_KEY_GEN, mac_flags, COUNT(mac_flags));
    refuses_secret(*state, &right);
}

static void test_refuses_kek(void **state)
{
    struct own_secret right;
    describe_secret(&right, "TMK-KEK", CKM_AES_KEY_GEN, kek_flags, COUNT(kek_flags));
    refuses_secret(*state, &right);
}

static void test_refuses_kek_of_other_type(void **state)
{
    struct place *place = *state;
    struct own_secret wrong;
    struct keyring keyring;
    make_keyring(place, &p256, &keyring);
    describe_secret(&wrong, "TMK-KEK", CKM_GENERIC_SECRET_KEY_GEN, kek_flags, COUNT(kek_flags));
    replace_secret(place, &wrong);
    assert_open_refused(place, FAIL_REFUSED, "TMK-KEK", "KEY_TYPE");
}

static void test_refuses_two_seals(void **state)
{
    struct place *place = *state;
    struct own_secret second;
    struct keyring keyring;
    make_keyring(place, &p256, &keyring);
    describe_secret(&second, "SEAL", CKM_GENERIC_SECRET_KEY_GEN, mac_flags, COUNT(mac_flags));
    token_handle key;
    CK_MECHANISM mechanism = {CKM_GENERIC_SECRET_KEY_GEN, NULL, 0};
    assert_int_equal(TOKEN_CALL(place->token, C_GenerateKey, place->session->handle, &mechanism,
                                second.t.attributes, second.t.count, &key),
                     CKR_OK);
    assert_open_refused(place, FAIL_REFUSED, "SEAL", "more than one");
}

/* --- C1 and C2 --- */

/* PrKS and KSWCRT of a vector brought in, the rest of the keyring made beside them. */
static struct keyring keyring_of_vector(struct place *place, const json_t *vector)
{
    struct keyring keyring;
    struct cert_chain chain = {0};
    EVP_PKEY *key = key_of(vector, "prks");
    X509 *certificate = certificate_of(vector, "kswcrt");
    chain_add(&chain, certificate);
    import_prks(place, key);
    create_chain(place, &chain);
    make_keyring(place, &p256, &keyring); /* keeps the PrKS that is there */
    assert_chain_equal(&keyring.kswcrt, &chain);
    X509_free(certificate);
    EVP_PKEY_free(key);
    return keyring;
}

static int ecdsa_fits(EVP_PKEY *key, const uint8_t *m1, size_t m1_len, const uint8_t rs[static 64])
{
    unsigned char *der = NULL;
    ECDSA_SIG *signature = ECDSA_SIG_new();
    ECDSA_SIG_set0(signature, BN_bin2bn(rs, 32, NULL), BN_bin2bn(rs + 32, 32, NULL));
    int der_len = i2d_ECDSA_SIG(signature, &der);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    int fits = EVP_DigestVerifyInit(context, NULL, EVP_sha256(), NULL, key) == 1 &&
               EVP_DigestVerify(context, der, (size_t)der_len, m1, m1_len) == 1;
    EVP_MD_CTX_free(context);
    ECDSA_SIG_free(signature);
    OPENSSL_free(der);
    return fits;
}

static void check_c1_vector(struct place *place, const json_t *vector)
{
    struct keyring keyring = keyring_of_vector(place, vector);
    struct number m1 = bytes_of(vector, "m1");
    struct number right = bytes_of(vector, "c1");
    uint8_t c1[RSA_BLOCK_MAX];
    size_t len;
    assert_int_equal(m1.len, M1_LEN);
    assert_ok(c1_sign(place->session, &keyring, m1.bytes, c1, &len));
    assert_int_equal(len, right.len);
    if (keyring.prks_spec.kind == PRKS_RSA) {
        assert_memory_equal(c1, right.bytes, len);
    } else {
        EVP_PKEY *key = key_of(vector, "prks");
        assert_true(ecdsa_fits(key, m1.bytes, m1.len, c1));
        c1[63] ^= 1;
        assert_false(ecdsa_fits(key, m1.bytes, m1.len, c1));
        EVP_PKEY_free(key);
    }
}

static void test_c1_vectors(void **state)
{
    struct place *place = *state;
    size_t i;
    json_t *vector;
    json_array_foreach(vectors, i, vector)
    {
        check_c1_vector(place, vector);
        destroy_labelled(place, CKO_PRIVATE_KEY, "PrKS");
        destroy_labelled(place, CKO_CERTIFICATE, "KSWCRT");
    }
    assert_int_equal(i, 4);
}

/* No vector has a PrKS of 4096 bits; OpenSSL's block type 1 signature stands in. */
static void test_c1_rsa_4096(void **state)
{
    struct place *place = *state;
    const json_t *vector = json_array_get(vectors, 3);
    struct number m1 = bytes_of(vector, "m1");
    uint8_t right[RSA_BLOCK_MAX];
    uint8_t c1[RSA_BLOCK_MAX];
    size_t right_len = sizeof(right);
    size_t len;
    struct keyring keyring;
    EVP_PKEY *key = key_of(vector, "tkp");
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(key, NULL);
    assert_int_equal(EVP_PKEY_sign_init(context), 1);
    assert_int_equal(EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PADDING), 1);
    assert_int_equal(EVP_PKEY_sign(context, right, &right_len, m1.bytes, m1.len), 1);
    import_prks(place, key);
    make_keyring(place, &p256, &keyring);
    assert_string_equal(prks_spec_name(&keyring.prks_spec), "rsa:4096");
    assert_ok(c1_sign(place->session, &keyring, m1.bytes, c1, &len));
    assert_int_equal(len, right_len);
    assert_int_equal(len, 512);
    assert_memory_equal(c1, right, len);
    EVP_PKEY_CTX_free(context);
    EVP_PKEY_free(key);
}

static void test_c2_vectors(void **state)
{
    struct place *place = *state;
    size_t i;
    json_t *vector;
    json_array_foreach(vectors, i, vector)
    {
        struct number em = bytes_of(vector, "c2_em");
        struct number right = bytes_of(vector, "c2");
        uint8_t c2[RSA_BLOCK_MAX];
        size_t len;
        token_handle tkp_pu;
        EVP_PKEY *key = key_of(vector, "tkp");
        struct spki spki = spki_of(key);
        size_t before = count_objects(place);
        assert_ok(c2_take_key(place->session, &spki, &tkp_pu));
        assert_ok(c2_encrypt(place->session, tkp_pu, em.bytes, em.len, c2, &len));
        assert_int_equal(len, right.len);
        assert_memory_equal(c2, right.bytes, len);
        assert_ok(token_destroy(place->session, tkp_pu));
        assert_int_equal(count_objects(place), before);
        assert_int_equal(c2_encrypt(place->session, tkp_pu, em.bytes, em.len, c2, &len),
                         FAIL_TOKEN);
        EVP_PKEY_free(key);
    }
}

/* TKP_Pu in the token encrypts and wraps; it is no token object and verifies nothing. */
static void test_c2_key_attributes(void **state)
{
    static const struct expected flags[] = {
        {CKA_TOKEN, "TOKEN", 0},
        {CKA_ENCRYPT, "ENCRYPT", 1},
        {CKA_WRAP, "WRAP", 1},
        {CKA_VERIFY, "VERIFY", 0},
    };
    struct place *place = *state;
    token_handle tkp_pu;
    EVP_PKEY *key = key_of(json_array_get(vectors, 0), "tkp");
    struct spki spki = spki_of(key);
    assert_ok(c2_take_key(place->session, &spki, &tkp_pu));
    assert_flags(place, tkp_pu, flags, COUNT(flags));
    EVP_PKEY_free(key);
}

/* --- the TMK --- */

/* CMAC by OpenSSL; des2 is K1 K2 K1 (SP 800-67 3.2). */
static size_t cmac(enum tmk_type type, const uint8_t *key, const uint8_t *input, size_t input_len,
                   uint8_t ret_mac[static MAC_MAX])
{
    static const char *const ciphers[] = {"DES-EDE3-CBC", "DES-EDE3-CBC", "AES-128-CBC",
                                          "AES-192-CBC", "AES-256-CBC"};
    uint8_t whole[32];
    size_t key_len = tmk_type_key_len(type);
    size_t len = 0;
    char name[16];
    memcpy(whole, key, key_len);
    if (type == TMK_DES2) {
        memcpy(whole + 16, key, 8);
        key_len = 24;
    }
    strcpy(name, ciphers[type]);
    OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_CIPHER, name, 0),
        OSSL_PARAM_construct_end(),
    };
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "CMAC", NULL);
    EVP_MAC_CTX *context = EVP_MAC_CTX_new(mac);
    assert_int_equal(EVP_MAC_init(context, whole, key_len, parameters), 1);
    assert_int_equal(EVP_MAC_update(context, input, input_len), 1);
    assert_int_equal(EVP_MAC_final(context, ret_mac, &len, MAC_MAX), 1);
    EVP_MAC_CTX_free(context);
    EVP_MAC_free(mac);
    return len;
}

/* ANSI X9.24-1: TDEA, three bytes of a zero block; AES, five of the CMAC of a zero block. */
static void assert_kcv(const struct tmk_info *info, const uint8_t *key)
{
    static const uint8_t zeros[16];
    uint8_t value[EVP_MAX_BLOCK_LENGTH];
    int len;
    if (tmk_type_is_aes(info->type)) {
        assert_int_equal(cmac(info->type, key, zeros, 16, value), 16);
        assert_int_equal(info->kcv_len, 5);
    } else {
        EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
        const EVP_CIPHER *cipher = info->type == TMK_DES2 ? EVP_des_ede() : EVP_des_ede3();
        assert_int_equal(EVP_EncryptInit_ex(context, cipher, NULL, key, NULL), 1);
        assert_int_equal(EVP_EncryptUpdate(context, value, &len, zeros, 8), 1);
        EVP_CIPHER_CTX_free(context);
        assert_int_equal(info->kcv_len, 3);
    }
    assert_memory_equal(info->kcv, value, info->kcv_len);
}

/* What the terminal does with Ctmk: opened with TKP_Pr, KCV and confirm.mac as they must be. */
static void assert_delivers(struct place *place, EVP_PKEY *tkp, const struct tmk_info *info,
                            token_handle tmk)
{
    struct spki spki = spki_of(tkp);
    uint8_t ctmk[RSA_BLOCK_MAX];
    uint8_t key[RSA_BLOCK_MAX];
    uint8_t input[CONFIRM_INPUT_LEN];
    uint8_t mac[MAC_MAX];
    uint8_t right[MAC_MAX];
    size_t ctmk_len;
    size_t mac_len;
    size_t key_len = sizeof(key);
    token_handle tkp_pu;
    assert_ok(c2_take_key(place->session, &spki, &tkp_pu));
    assert_ok(tmk_wrap_for_terminal(place->session, tkp_pu, tmk, OAEP_SHA1, ctmk, &ctmk_len));
    assert_int_equal(ctmk_len, spki.modulus_len);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(tkp, NULL);
    assert_int_equal(EVP_PKEY_decrypt_init(context), 1);
    assert_int_equal(EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_OAEP_PADDING), 1);
    assert_int_equal(EVP_PKEY_decrypt(context, key, &key_len, ctmk, ctmk_len), 1);
    EVP_PKEY_CTX_free(context);
    assert_int_equal(key_len, tmk_type_key_len(info->type));
    assert_kcv(info, key);
    memset(input, 0x5a, sizeof(input));
    assert_ok(tmk_mac(place->session, info->type, tmk, input, sizeof(input), mac, &mac_len));
    assert_int_equal(mac_len, tmk_type_mac_len(info->type));
    assert_int_equal(cmac(info->type, key, input, sizeof(input), right), mac_len);
    assert_memory_equal(mac, right, mac_len);
    assert_ok(token_destroy(place->session, tkp_pu));
}

static void test_tmk_in_token(void **state)
{
    struct place *place = *state;
    EVP_PKEY *tkp = key_of(json_array_get(vectors, 0), "tkp");
    for (enum tmk_type type = TMK_DES2; type <= TMK_AES256; type++) {
        struct tmk_info info = {.type = type, .version = 7};
        token_handle tmk;
        CK_BBOOL in_token = CK_FALSE;
        char id[TMK_ID_MAX];
        assert_ok(tmk_generate(place->session, "SN-1", &info, &tmk));
        assert_flags(place, tmk, tmk_flags, COUNT(tmk_flags));
        get_attribute(place, tmk, CKA_TOKEN, &in_token, sizeof(in_token));
        assert_true(in_token);
        assert_int_equal(get_attribute(place, tmk, CKA_ID, id, sizeof(id)), 6);
        assert_memory_equal(id, "SN-1/7", 6);
        assert_delivers(place, tkp, &info, tmk);
    }
    EVP_PKEY_free(tkp);
}

static void check_wrapped(struct place *place, const struct keyring *keyring, EVP_PKEY *tkp,
                          enum tmk_type type)
{
    struct tmk_info info = {.type = type, .version = 1};
    uint8_t blob[TMK_BLOB_MAX];
    size_t len;
    token_handle tmk = 0;
    CK_BBOOL in_token = CK_TRUE;
    size_t before = count_objects(place);
    enum tmk_wrap other = keyring->wrap == TMK_WRAP_KW ? TMK_WRAP_KWP : TMK_WRAP_KW;
    assert_ok(tmk_generate_wrapped(place->session, keyring, &info, blob, &len));
    assert_int_equal(count_objects(place), before);
    assert_int_equal(len, tmk_type_key_len(type) + 8); /* RFC 3394 2.2.1, RFC 5649 4.1 */
    assert_ok(tmk_unwrap(place->session, keyring, keyring->wrap, type, blob, len, &tmk));
    assert_flags(place, tmk, tmk_flags, COUNT(tmk_flags));
    get_attribute(place, tmk, CKA_TOKEN, &in_token, sizeof(in_token));
    assert_false(in_token);
    assert_delivers(place, tkp, &info, tmk);
    assert_ok(token_destroy(place->session, tmk));
    assert_int_equal(tmk_unwrap(place->session, keyring, other, type, blob, len, &tmk), FAIL_TOKEN);
    blob[len / 2] ^= 1;
    assert_int_equal(tmk_unwrap(place->session, keyring, keyring->wrap, type, blob, len, &tmk),
                     FAIL_TOKEN);
    assert_int_equal(count_objects(place), before);
}

static void check_wrapped_types(struct place *place, enum tmk_wrap wrap)
{
    struct keyring keyring;
    EVP_PKEY *tkp = key_of(json_array_get(vectors, 0), "tkp");
    make_keyring(place, &p256, &keyring);
    assert_int_equal(keyring.wrap, TMK_WRAP_KWP); /* SoftHSM 2.6.1 has both */
    keyring.wrap = wrap;
    for (enum tmk_type type = TMK_DES2; type <= TMK_AES256; type++)
        check_wrapped(place, &keyring, tkp, type);
    EVP_PKEY_free(tkp);
}

static void test_tmk_wrapped_kw(void **state)
{
    check_wrapped_types(*state, TMK_WRAP_KW);
}

static void test_tmk_wrapped_kwp(void **state)
{
    check_wrapped_types(*state, TMK_WRAP_KWP);
}

static void test_tmk_decoy(void **state)
{
    struct place *place = *state;
    EVP_PKEY *tkp = key_of(json_array_get(vectors, 3), "tkp");
    struct spki spki = spki_of(tkp);
    uint8_t ctmk[RSA_BLOCK_MAX];
    size_t len;
    token_handle tkp_pu;
    token_handle tmk;
    CK_BBOOL in_token = CK_TRUE;
    assert_ok(tmk_generate_decoy(place->session, TMK_AES256, &tmk));
    get_attribute(place, tmk, CKA_TOKEN, &in_token, sizeof(in_token));
    assert_false(in_token);
    assert_ok(c2_take_key(place->session, &spki, &tkp_pu));
    assert_ok(tmk_wrap_for_terminal(place->session, tkp_pu, tmk, OAEP_SHA1, ctmk, &len));
    assert_int_equal(len, 512);
    EVP_PKEY_free(tkp);
}

/* What the choice of the OAEP hash rests on: SoftHSM 2.6.1 has SHA-1 only, and says so. */
static void test_oaep_sha256_fails(void **state)
{
    struct place *place = *state;
    EVP_PKEY *tkp = key_of(json_array_get(vectors, 0), "tkp");
    struct spki spki = spki_of(tkp);
    uint8_t ctmk[RSA_BLOCK_MAX];
    size_t len = 77;
    token_handle tkp_pu;
    token_handle tmk;
    assert_ok(tmk_generate_decoy(place->session, TMK_AES128, &tmk));
    assert_ok(c2_take_key(place->session, &spki, &tkp_pu));
    assert_int_equal(tmk_wrap_for_terminal(place->session, tkp_pu, tmk, OAEP_SHA256, ctmk, &len),
                     FAIL_TOKEN);
    assert_int_equal(len, 77);
    assert_ok(tmk_wrap_for_terminal(place->session, tkp_pu, tmk, OAEP_SHA1, ctmk, &len));
    EVP_PKEY_free(tkp);
}

/* The server's own keys: no public key can wrap them out, and none shows its value. */
static void test_keys_stay_inside(void **state)
{
    struct place *place = *state;
    struct keyring keyring;
    EVP_PKEY *tkp = key_of(json_array_get(vectors, 0), "tkp");
    struct spki spki = spki_of(tkp);
    uint8_t bytes[RSA_BLOCK_MAX];
    size_t len;
    token_handle tkp_pu;
    make_keyring(place, &p256, &keyring);
    const token_handle inside[] = {keyring.prks, keyring.seal, keyring.audit, keyring.kek};
    assert_ok(c2_take_key(place->session, &spki, &tkp_pu));
    for (size_t i = 0; i < COUNT(inside); i++) {
        assert_int_equal(
            tmk_wrap_for_terminal(place->session, tkp_pu, inside[i], OAEP_SHA1, bytes, &len),
            FAIL_TOKEN);
        assert_int_equal(
            token_attribute(place->session, inside[i], CKA_VALUE, bytes, sizeof(bytes), &len),
            FAIL_TOKEN);
    }
    EVP_PKEY_free(tkp);
}

struct listed {
    size_t count;
    struct {
        char id[TMK_ID_MAX + 1];
        token_handle tmk;
    } tmks[16];
    int answer;
};

static int note_listed(void *context, const char *id, size_t id_len, token_handle tmk)
{
    struct listed *listed = context;
    memcpy(listed->tmks[listed->count].id, id, id_len);
    listed->tmks[listed->count++].tmk = tmk;
    return listed->answer;
}

static token_handle tmk_listed(const struct listed *listed, const char *id)
{
    for (size_t i = 0; i < listed->count; i++)
        if (strcmp(listed->tmks[i].id, id) == 0)
            return listed->tmks[i].tmk;
    fail_msg("no %s", id);
    return 0;
}

/* A TMK object of another program, or what a C_GenerateKey that failed has left. */
static void generate_stray_tmk(struct place *place, void *id, size_t id_len)
{
    struct own_secret stray;
    token_handle key;
    CK_MECHANISM mechanism = {CKM_AES_KEY_GEN, NULL, 0};
    describe_secret(&stray, "TMK", CKM_AES_KEY_GEN, NULL, 0);
    if (id)
        put(&stray.t, CKA_ID, id, id_len);
    assert_int_equal(TOKEN_CALL(place->token, C_GenerateKey, place->session->handle, &mechanism,
                                stray.t.attributes, stray.t.count, &key),
                     CKR_OK);
}

static void test_tmk_list(void **state)
{
    struct place *place = *state;
    struct listed listed = {0};
    struct keyring keyring;
    struct tmk_info info = {.type = TMK_DES3, .version = UINT32_MAX};
    token_handle tmks[3];
    token_handle decoy;
    char sn[SN_MAX + 1];
    char id[TMK_ID_MAX + 1];
    make_keyring(place, &p256, &keyring);
    assert_ok(tmk_list(place->session, note_listed, &listed));
    assert_int_equal(listed.count, 0);
    memset(sn, '~', SN_MAX);
    sn[SN_MAX] = '\0';
    assert_ok(tmk_generate(place->session, sn, &info, &tmks[0]));
    info = (struct tmk_info){.type = TMK_AES128, .version = 1};
    assert_ok(tmk_generate(place->session, "SN/1", &info, &tmks[1]));
    info.version = 2;
    assert_ok(tmk_generate(place->session, "SN/1", &info, &tmks[2]));
    assert_ok(tmk_generate_decoy(place->session, TMK_AES128, &decoy));
    assert_ok(tmk_list(place->session, note_listed, &listed));
    assert_int_equal(listed.count, 3);
    assert_int_equal(tmk_id(sn, UINT32_MAX, id), TMK_ID_MAX);
    assert_int_equal(tmk_listed(&listed, id), tmks[0]);
    assert_int_equal(tmk_listed(&listed, "SN/1/1"), tmks[1]);
    assert_int_equal(tmk_listed(&listed, "SN/1/2"), tmks[2]);
}

static void test_tmk_list_with_strays(void **state)
{
    struct place *place = *state;
    struct listed listed = {0};
    struct tmk_info info = {.type = TMK_AES128, .version = 1};
    token_handle tmk;
    char long_id[TMK_ID_MAX + 1];
    memset(long_id, 'x', sizeof(long_id));
    generate_stray_tmk(place, NULL, 0);
    generate_stray_tmk(place, long_id, sizeof(long_id));
    assert_ok(tmk_generate(place->session, "SN", &info, &tmk));
    assert_ok(tmk_list(place->session, note_listed, &listed));
    assert_int_equal(listed.count, 1);
    assert_int_equal(tmk_listed(&listed, "SN/1"), tmk);
}

static void test_tmk_list_stops(void **state)
{
    struct place *place = *state;
    struct listed listed = {.answer = FAIL_EXISTS};
    struct tmk_info info = {.type = TMK_AES128, .version = 1};
    token_handle tmk;
    assert_ok(tmk_generate(place->session, "SN-1", &info, &tmk));
    assert_ok(tmk_generate(place->session, "SN-2", &info, &tmk));
    assert_int_equal(tmk_list(place->session, note_listed, &listed), FAIL_EXISTS);
    assert_int_equal(listed.count, 1);
}

/* --- seals --- */

static void test_seal(void **state)
{
    struct place *place = *state;
    struct keyring keyring;
    uint8_t bytes[700];
    uint8_t mac[SEAL_MAC_LEN];
    uint8_t other[SEAL_MAC_LEN];
    make_keyring(place, &p256, &keyring);
    memset(bytes, 0x33, sizeof(bytes));
    assert_ok(seal_make(place->session, keyring.seal, bytes, sizeof(bytes), mac));
    assert_ok(seal_check(place->session, keyring.seal, bytes, sizeof(bytes), mac));
    assert_ok(seal_make(place->session, keyring.audit, bytes, sizeof(bytes), other));
    assert_memory_not_equal(mac, other, sizeof(mac));
    for (size_t bit = 0; bit < 8 * sizeof(mac); bit++) {
        memcpy(other, mac, sizeof(mac));
        other[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(seal_check(place->session, keyring.seal, bytes, sizeof(bytes), other),
                         FAIL_SEAL);
    }
    assert_int_equal(seal_check(place->session, keyring.seal, bytes, sizeof(bytes) - 1, mac),
                     FAIL_SEAL);
    bytes[699] ^= 0x80;
    assert_int_equal(seal_check(place->session, keyring.seal, bytes, sizeof(bytes), mac),
                     FAIL_SEAL);
    assert_int_equal(seal_check(place->session, 0x7fffffff, bytes, sizeof(bytes), mac), FAIL_TOKEN);
}

/* HMAC-SHA-256 of a key that the test knows. */
static void test_seal_is_hmac(void **state)
{
    struct place *place = *state;
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_GENERIC_SECRET;
    uint8_t key[32] = "a seal key that everyone knows!";
    uint8_t mac[SEAL_MAC_LEN];
    uint8_t right[EVP_MAX_MD_SIZE];
    struct template t = {0};
    put(&t, CKA_CLASS, &class, sizeof(class));
    put(&t, CKA_KEY_TYPE, &type, sizeof(type));
    put(&t, CKA_VALUE, key, sizeof(key));
    put_flag(&t, CKA_SIGN, CK_TRUE);
    assert_ok(seal_make(place->session, create(place, &t), (const uint8_t *)"bytes", 5, mac));
    assert_non_null(HMAC(EVP_sha256(), key, 32, (const uint8_t *)"bytes", 5, right, NULL));
    assert_memory_equal(mac, right, sizeof(mac));
}

/* --- the ceremony --- */

static void test_bad_subjects(void **state)
{
    static const char *const bad[] = {"",     "CN",      "CN=",     "=tmkd",       "CN=a,,O=b",
                                      "XX=1", "CN=a,O",  "C=GBR",   "CN=tmkd,",    ",CN=tmkd",
                                      " ",    "CN=\xff", "O=,CN=a", "subject=CN=x"};
    struct place *place = *state;
    struct keyring keyring;
    char long_subject[400];
    char *pem = NULL;
    make_keyring(place, &p256, &keyring);
    place_close(place);
    for (size_t i = 0; i < COUNT(bad); i++)
        if (ceremony_request(&ceremony_token, bad[i], &pem) != FAIL_CONFIG)
            fail_msg("'%s' is taken: %s", bad[i], fail_text());
    snprintf(long_subject, sizeof(long_subject), "CN=%0300d", 0);
    assert_int_equal(ceremony_request(&ceremony_token, long_subject, &pem), FAIL_CONFIG);
    snprintf(long_subject, sizeof(long_subject), "CN=%065d", 0); /* RFC 5280 A.1: 64 at most */
    assert_int_equal(ceremony_request(&ceremony_token, long_subject, &pem), FAIL_CONFIG);
    assert_null(pem);
}

static void test_ceremony_refusals(void **state)
{
    struct place *place = *state;
    struct ceremony_token wrong = ceremony_token;
    char *pem = NULL;
    place_close(place);
    assert_int_equal(ceremony_request(&ceremony_token, "CN=tmkd", &pem), FAIL_NOT_FOUND);
    assert_non_null(strstr(fail_text(), "tmkctl -c CONF init"));
    wrong.label = "another";
    assert_int_equal(ceremony_request(&wrong, "CN=tmkd", &pem), FAIL_NOT_FOUND);
    wrong = ceremony_token;
    wrong.pin = "wrong-pin";
    assert_int_equal(ceremony_request(&wrong, "CN=tmkd", &pem), FAIL_REFUSED);
    assert_null(strstr(fail_text(), "wrong-pin"));
    wrong = ceremony_token;
    wrong.module = "/nonexistent/module.so";
    assert_int_equal(ceremony_request(&wrong, "CN=tmkd", &pem), FAIL_CRYPTO);
    assert_null(pem);
}

/* A CA of two levels, and PuKS as the CSR shows it. */
struct authority {
    EVP_PKEY *root;
    EVP_PKEY *middle;
    X509_REQ *csr;
    EVP_PKEY *puks;
};

static void authority_make(struct place *place, struct authority *authority)
{
    struct keyring keyring;
    make_keyring(place, &p256, &keyring);
    authority->root = generate_p256();
    authority->middle = generate_p256();
    authority->csr = request(place, "CN=tmkd");
    authority->puks = X509_REQ_get0_pubkey(authority->csr);
}

static void authority_free(struct authority *authority)
{
    EVP_PKEY_free(authority->root);
    EVP_PKEY_free(authority->middle);
    X509_REQ_free(authority->csr);
}

/* Leaf and intermediate, the intermediate named, both that many days old. */
static struct cert_chain issue_chain(const struct authority *authority, const char *middle,
                                     int leaf_days, int middle_days)
{
    struct cert_chain chain = {0};
    X509 *leaf = issue("tmkd", authority->puks, middle, authority->middle, leaf_days);
    X509 *issuer = issue(middle, authority->middle, "root", authority->root, middle_days);
    chain_add(&chain, leaf);
    chain_add(&chain, issuer);
    X509_free(leaf);
    X509_free(issuer);
    return chain;
}

static int install(struct place *place, const struct cert_chain *chain)
{
    place_close(place);
    int rc = ceremony_install(&ceremony_token, chain);
    place_open(place);
    return rc;
}

static void assert_installed(struct place *place, const struct cert_chain *expected)
{
    struct cert_chain chain;
    struct keyring keyring;
    assert_ok(chain_read(place->session, &chain));
    assert_chain_equal(&chain, expected);
    assert_ok(keyring_open(place->session, &keyring));
    assert_chain_equal(&keyring.kswcrt, expected);
}

static void test_install(void **state)
{
    struct place *place = *state;
    struct authority authority;
    struct cert_chain none = {0};
    uint8_t prks_id[64];
    uint8_t leaf_id[64];
    token_handle prks;
    token_handle leaf;
    authority_make(place, &authority);
    assert_installed(place, &none);
    struct cert_chain chain = issue_chain(&authority, "middle", 10, 20);
    size_t before = count_objects(place);
    assert_ok(install(place, &chain));
    assert_installed(place, &chain);
    assert_int_equal(find_labelled(place, CKO_CERTIFICATE, "KSWCRT", &leaf), 1);
    assert_int_equal(find_labelled(place, CKO_PRIVATE_KEY, "PrKS", &prks), 1);
    size_t len = get_attribute(place, prks, CKA_ID, prks_id, sizeof(prks_id));
    assert_int_equal(get_attribute(place, leaf, CKA_ID, leaf_id, sizeof(leaf_id)), len);
    assert_memory_equal(leaf_id, prks_id, len);
    assert_ok(install(place, &chain)); /* again: nothing more in the token */
    assert_installed(place, &chain);
    assert_int_equal(count_objects(place), before + 2);
    authority_free(&authority);
}

static void test_install_replaces(void **state)
{
    struct place *place = *state;
    struct authority authority;
    authority_make(place, &authority);
    size_t before = count_objects(place);
    struct cert_chain first = issue_chain(&authority, "middle", 10, 20);
    struct cert_chain second = issue_chain(&authority, "middle two", 5, 30);
    struct cert_chain older = issue_chain(&authority, "middle three", 50, 60);
    struct cert_chain leaf = {0};
    X509 *alone = issue("tmkd", authority.puks, "root", authority.root, 1);
    chain_add(&leaf, alone);
    X509_free(alone);
    assert_ok(install(place, &first));
    assert_ok(install(place, &second));
    assert_installed(place, &second);
    assert_ok(install(place, &older)); /* the operator's word counts, not the date */
    assert_installed(place, &older);
    assert_int_equal(count_objects(place), before + 2);
    assert_ok(install(place, &leaf));
    assert_installed(place, &leaf);
    create_certificate(place, "KSWCRT", (const uint8_t *)"no certificate", 14);
    assert_ok(install(place, &leaf));
    assert_installed(place, &leaf);
    assert_int_equal(count_objects(place), before + 1);
    authority_free(&authority);
}

static void test_install_refuses(void **state)
{
    struct place *place = *state;
    struct authority authority;
    struct cert_chain none = {0};
    struct cert_chain foreign = {0};
    struct cert_chain torn = {0};
    struct cert_chain garbage = {0};
    authority_make(place, &authority);
    struct cert_chain right = issue_chain(&authority, "middle", 10, 20);
    assert_ok(install(place, &right));
    size_t before = count_objects(place);
    X509 *other = issue("tmkd", authority.middle, "root", authority.root, 1);
    chain_add(&foreign, other);
    assert_int_equal(install(place, &foreign), FAIL_REFUSED);
    X509 *leaf = issue("tmkd", authority.puks, "root", authority.root, 1);
    chain_add(&torn, leaf);
    chain_add(&torn, other); /* did not issue the leaf */
    assert_int_equal(install(place, &torn), FAIL_REFUSED);
    assert_ok(cert_chain_add(&garbage, (const uint8_t *)"\x30\x03\x02\x01\x05", 5));
    assert_int_equal(install(place, &garbage), FAIL_MALFORMED);
    assert_int_equal(install(place, &none), FAIL_REFUSED);
    assert_installed(place, &right);
    assert_int_equal(count_objects(place), before);
    X509_free(other);
    X509_free(leaf);
    authority_free(&authority);
}

/* Cut off between storing the new and removing the old: the newest leaf counts, with the
 * certificates that issued it, whichever of the others is newer. */
static void test_interrupted_install(void **state)
{
    struct place *place = *state;
    struct authority authority;
    authority_make(place, &authority);
    struct cert_chain old = issue_chain(&authority, "old middle", 10, 15);
    struct cert_chain new = issue_chain(&authority, "new middle", 5, 30);
    create_chain(place, &old);
    create_chain(place, &new);
    assert_installed(place, &new);
    assert_ok(install(place, &new)); /* doing it again ends it */
    assert_installed(place, &new);
    assert_int_equal(find_labelled(place, CKO_CERTIFICATE, "KSWCRT", NULL), 1);
    assert_int_equal(find_labelled(place, CKO_CERTIFICATE, "KSWCRT-1", NULL), 1);
    authority_free(&authority);
}

static void test_refuses_kswcrt_of_another_key(void **state)
{
    struct place *place = *state;
    struct keyring keyring;
    struct cert_chain chain = {0};
    EVP_PKEY *rsa = key_of(json_array_get(vectors, 0), "prks");
    EVP_PKEY *ec = generate_p256();
    EVP_PKEY *keys[] = {rsa, ec};
    make_keyring(place, &p256, &keyring);
    for (size_t i = 0; i < COUNT(keys); i++) {
        X509 *leaf = issue("tmkd", keys[i], "root", ec, 1);
        chain.count = 0;
        chain_add(&chain, leaf);
        X509_free(leaf);
        create_chain(place, &chain);
        assert_open_refused(place, FAIL_REFUSED, "KSWCRT", "tmkctl cert install");
        destroy_labelled(place, CKO_CERTIFICATE, "KSWCRT");
    }
    create_certificate(place, "KSWCRT", (const uint8_t *)"no certificate", 14);
    assert_open_refused(place, FAIL_MALFORMED, "KSWCRT", "tmkctl cert install");
    EVP_PKEY_free(rsa);
    EVP_PKEY_free(ec);
}

/* An init that was cut off may leave a PuKS without its PrKS: the CSR is for PrKS still. */
static void test_request_beside_orphan_puks(void **state)
{
    struct place *place = *state;
    struct keyring keyring;
    make_keyring(place, &p256, &keyring);
    destroy_labelled(place, CKO_PRIVATE_KEY, "PrKS");
    make_keyring(place, &p256, &keyring);
    assert_int_equal(find_labelled(place, CKO_PUBLIC_KEY, "PuKS", NULL), 2);
    assert_request(place, &p256);
}

/* --- threads --- */

struct thread {
    pthread_t id;
    struct place *place;
    const struct keyring *keyring;
    const struct spki *tkp_pu;
    time_t end;
    size_t done;
    char failure[256];
};

static int one_download(struct token_session *session, const struct thread *thread)
{
    struct tmk_info info = {.type = TMK_AES128, .version = 1};
    uint8_t blob[TMK_BLOB_MAX];
    uint8_t bytes[RSA_BLOCK_MAX];
    uint8_t m1[M1_LEN];
    size_t blob_len;
    size_t len;
    token_handle tmk = 0;
    token_handle tkp_pu = 0;
    int rc = token_random(session, m1, sizeof(m1));
    if (rc < 0 ||
        (rc = tmk_generate_wrapped(session, thread->keyring, &info, blob, &blob_len)) < 0 ||
        (rc = tmk_unwrap(session, thread->keyring, thread->keyring->wrap, info.type, blob, blob_len,
                         &tmk)) < 0 ||
        (rc = c2_take_key(session, thread->tkp_pu, &tkp_pu)) < 0 ||
        (rc = tmk_wrap_for_terminal(session, tkp_pu, tmk, OAEP_SHA1, bytes, &len)) < 0 ||
        (rc = c1_sign(session, thread->keyring, m1, bytes, &len)) < 0 ||
        (rc = tmk_mac(session, info.type, tmk, m1, sizeof(m1), bytes, &len)) < 0 ||
        (rc = token_destroy(session, tkp_pu)) < 0)
        return rc;
    return token_destroy(session, tmk);
}

static void *run_downloads(void *context)
{
    struct thread *thread = context;
    struct token_session *session = NULL;
    int rc = token_session_open(thread->place->token, &session);
    while (rc == 0 && time(NULL) < thread->end) {
        rc = one_download(session, thread);
        thread->done++;
    }
    if (rc < 0)
        snprintf(thread->failure, sizeof(thread->failure), "%s", fail_text());
    token_session_close(session);
    return NULL;
}

/* Token objects made and looked for beside each other: what SoftHSM itself fails at. */
static void *run_objects(void *context)
{
    struct thread *thread = context;
    struct token_session *session = NULL;
    int rc = token_session_open(thread->place->token, &session);
    while (rc == 0 && time(NULL) < thread->end) {
        struct tmk_info info = {.type = TMK_DES2, .version = 1};
        struct cert_chain chain;
        token_handle tmk;
        if ((rc = tmk_generate(session, "SN", &info, &tmk)) == 0 &&
            (rc = chain_read(session, &chain)) == 0)
            rc = token_destroy(session, tmk);
        thread->done++;
    }
    if (rc < 0)
        snprintf(thread->failure, sizeof(thread->failure), "%s", fail_text());
    token_session_close(session);
    return NULL;
}

static void run_threads(struct place *place, void *(*const jobs[4])(void *))
{
    struct thread threads[4];
    struct keyring keyring;
    EVP_PKEY *tkp = key_of(json_array_get(vectors, 0), "tkp");
    struct spki spki = spki_of(tkp);
    make_keyring(place, &p256, &keyring);
    size_t before = count_objects(place);
    for (size_t i = 0; i < COUNT(threads); i++) {
        threads[i] = (struct thread){
            .place = place, .keyring = &keyring, .tkp_pu = &spki, .end = time(NULL) + 2};
        assert_int_equal(pthread_create(&threads[i].id, NULL, jobs[i], &threads[i]), 0);
    }
    for (size_t i = 0; i < COUNT(threads); i++)
        assert_int_equal(pthread_join(threads[i].id, NULL), 0);
    for (size_t i = 0; i < COUNT(threads); i++) {
        assert_string_equal(threads[i].failure, "");
        assert_true(threads[i].done > 0);
    }
    assert_int_equal(count_objects(place), before);
    EVP_PKEY_free(tkp);
}

static void test_threads_download(void **state)
{
    run_threads(*state, (void *(*const[])(void *)){run_downloads, run_downloads, run_downloads,
                                                   run_downloads});
}

static void test_threads_create_and_search(void **state)
{
    run_threads(*state,
                (void *(*const[])(void *)){run_downloads, run_downloads, run_objects, run_objects});
}

#define ON_TOKEN(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_login, set_up_bare, tear_down),
        cmocka_unit_test(test_load_refusals),
        cmocka_unit_test_setup_teardown(test_initialise_limits, set_up_bare, tear_down),
        ON_TOKEN(test_load_again),
        ON_TOKEN(test_random),
        cmocka_unit_test(test_prks_names),
        ON_TOKEN(test_keyring_rsa_2048),
        ON_TOKEN(test_keyring_rsa_3072),
        ON_TOKEN(test_keyring_rsa_4096),
        ON_TOKEN(test_keyring_p256),
        ON_TOKEN(test_refuses_prks),
        ON_TOKEN(test_refuses_prks_mechanisms),
        ON_TOKEN(test_refuses_prks_of_other_size),
        ON_TOKEN(test_refuses_seal),
        ON_TOKEN(test_refuses_audit),
        ON_TOKEN(test_refuses_kek),
        ON_TOKEN(test_refuses_kek_of_other_type),
        ON_TOKEN(test_refuses_two_seals),
        ON_TOKEN(test_c1_vectors),
        ON_TOKEN(test_c1_rsa_4096),
        ON_TOKEN(test_c2_vectors),
        ON_TOKEN(test_c2_key_attributes),
        ON_TOKEN(test_tmk_in_token),
        ON_TOKEN(test_tmk_wrapped_kw),
        ON_TOKEN(test_tmk_wrapped_kwp),
        ON_TOKEN(test_tmk_decoy),
        ON_TOKEN(test_oaep_sha256_fails),
        ON_TOKEN(test_keys_stay_inside),
        ON_TOKEN(test_tmk_list),
        ON_TOKEN(test_tmk_list_with_strays),
        ON_TOKEN(test_tmk_list_stops),
        ON_TOKEN(test_seal),
        ON_TOKEN(test_seal_is_hmac),
        ON_TOKEN(test_bad_subjects),
        ON_TOKEN(test_ceremony_refusals),
        ON_TOKEN(test_install),
        ON_TOKEN(test_install_replaces),
        ON_TOKEN(test_install_refuses),
        ON_TOKEN(test_interrupted_install),
        ON_TOKEN(test_refuses_kswcrt_of_another_key),
        ON_TOKEN(test_request_beside_orphan_puks),
        ON_TOKEN(test_threads_download),
        ON_TOKEN(test_threads_create_and_search),
    };
    return cmocka_run_group_tests(tests, load_vectors, free_vectors);
}
