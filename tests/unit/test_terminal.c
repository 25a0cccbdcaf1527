/*
 * The terminal against the vectors, over its reference secure module on a real token: only the
 * random numbers are replaced, by those of the vectors. Where a vector cannot say it, a small
 * server of the test's own, with a root of its own, does.
 */
#include "common/fail.h" /* before cmocka.h, whose fail() is a macro */
#include "hsm/cryptoki.h"
#include "terminal/download.h"
#include "terminal/pkcs11_module.h"
#include "wire/transcript.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ftw.h>
#include <limits.h>
#include <unistd.h>
#include <sys/stat.h>

#include <cmocka.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>

#define SOFTHSM "/usr/lib/softhsm/libsofthsm2.so"
#define EKU     "1.3.6.1.5.5.7.3.32"

enum {
    VECTOR_COUNT = 4,
    NOW = 1798761600, /* 2027-01-01: the vectors' certificates hold from 2026 to 2056 */
    LATE = INT32_MAX, /* 2038: the test's own have ended */
    DER_MAX = 8192,
};

static json_t *file;

struct bytes {
    size_t len;
    uint8_t at[DER_MAX];
};

/* A terminal on a token of its own, with the TKP and the Rnd1 of a vector. */
struct lab {
    const json_t *vector;
    char dir[PATH_MAX];
    struct token *token;
    struct token_session *session;
    struct secure_module pkcs11;
    struct secure_module module; /* pkcs11 with the vector's Rnd1 */
    EVP_PKEY *tkp;
    struct bytes rnd1;
    struct bytes root; /* KSRCRT */
    struct download *download;
    struct download_output out;
    char steps[256]; /* what the watcher was told, "S301 S303 ..." */
};

static void assert_done(int rc)
{
    if (rc != 0)
        fail_msg("%d: %s", rc, fail_text());
}

/* --- vectors --- */

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    assert_non_null(text);
    return text;
}

static struct bytes from_hex(const char *hex)
{
    struct bytes bytes;
    assert_int_equal(OPENSSL_hexstr2buf_ex(bytes.at, sizeof(bytes.at), &bytes.len, hex, '\0'), 1);
    return bytes;
}

static struct bytes message_of(const struct lab *lab, const char *name)
{
    return from_hex(text_of(json_object_get(lab->vector, "messages_der"), name));
}

static struct message decoded(const struct lab *lab, const char *name)
{
    struct bytes der = message_of(lab, name);
    struct message message;
    assert_done(message_decode(der.at, der.len, &message));
    return message;
}

static struct bytes encoded(const struct message *message)
{
    struct bytes der;
    assert_done(message_encode(message, der.at, sizeof(der.at), &der.len));
    return der;
}

static EVP_PKEY *read_key(const char *pem)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
    BIO_free(bio);
    assert_non_null(key);
    return key;
}

/* Ready-made keys, because making RSA keys takes long. */
static EVP_PKEY *key_of(size_t vector, const char *name)
{
    return read_key(text_of(json_array_get(json_object_get(file, "vectors"), vector), name));
}

static struct bytes der_of(X509 *certificate)
{
    struct bytes der;
    unsigned char *to = der.at;
    int len = i2d_X509(certificate, &to);
    assert_in_range(len, 1, DER_MAX);
    der.len = (size_t)len;
    return der;
}

static struct bytes vector_root(void)
{
    BIO *bio = BIO_new_mem_buf(text_of(file, "ksrcrt"), -1);
    X509 *root = PEM_read_bio_X509(bio, NULL, NULL, NULL);
    struct bytes der = der_of(root);
    X509_free(root);
    BIO_free(bio);
    return der;
}

/* --- the lab --- */

static int fixed_random(void *context, uint8_t *ret_bytes, size_t len)
{
    const struct lab *lab = context;
    assert_int_equal(len, RND_LEN);
    memcpy(ret_bytes, lab->rnd1.at, len);
    return 0;
}

static int real_c2(void *context, const uint8_t rnd2[static RND_LEN],
                   const uint8_t h[static DIGEST_LEN], uint8_t *ret_c2, size_t *ret_len)
{
    const struct lab *lab = context;
    return lab->pkcs11.c2(lab->pkcs11.context, rnd2, h, ret_c2, ret_len);
}

static int real_install(void *context, const struct delivery *delivery)
{
    const struct lab *lab = context;
    return lab->pkcs11.install(lab->pkcs11.context, delivery);
}

static int real_confirm(void *context, const uint8_t *input, size_t input_len, uint8_t *ret_mac,
                        size_t *ret_len)
{
    const struct lab *lab = context;
    return lab->pkcs11.confirm(lab->pkcs11.context, input, input_len, ret_mac, ret_len);
}

static void open_token(struct lab *lab)
{
    char text[PATH_MAX];
    char path[PATH_MAX];
    char setting[PATH_MAX];
    char *environment[] = {setting};

    strcpy(lab->dir, "/tmp/test_terminal-XXXXXX");
    assert_non_null(mkdtemp(lab->dir));
    assert_true(snprintf(path, sizeof(path), "%.64s/tokens", lab->dir) > 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_true(snprintf(path, sizeof(path), "%.64s/softhsm2.conf", lab->dir) > 0);
    assert_true(snprintf(text, sizeof(text), "directories.tokendir = %.64s/tokens\n", lab->dir) >
                0);
    FILE *conf = fopen(path, "w");
    assert_non_null(conf);
    fputs(text, conf);
    fclose(conf);
    assert_true(snprintf(setting, sizeof(setting), "SOFTHSM2_CONF=%.128s", path) > 0);
    assert_done(token_load(SOFTHSM, environment, 1, &lab->token));
    assert_done(token_initialise(lab->token, "terminal", "so-pin-1", "user-pin-1"));
    assert_done(token_login(lab->token, "user-pin-1"));
    assert_done(token_session_open(lab->token, &lab->session));
}

static struct lab *blank_lab(size_t vector)
{
    struct lab *lab = calloc(1, sizeof(*lab));
    assert_non_null(lab);
    lab->vector = json_array_get(json_object_get(file, "vectors"), vector);
    lab->tkp = read_key(text_of(lab->vector, "tkp"));
    lab->rnd1 = from_hex(text_of(lab->vector, "rnd1"));
    lab->root = vector_root();
    open_token(lab);
    return lab;
}

static struct lab *make_lab(size_t vector)
{
    struct lab *lab = blank_lab(vector);
    const char *pem = text_of(lab->vector, "tkp");
    assert_done(pkcs11_module_import_tkp(lab->session, (const uint8_t *)pem, strlen(pem)));
    assert_done(pkcs11_module_open(lab->session, &lab->pkcs11));
    lab->module = (struct secure_module){lab, fixed_random, real_c2, real_install, real_confirm};
    return lab;
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *where)
{
    (void)status, (void)type, (void)where;
    return remove(path);
}

static void free_lab(struct lab *lab)
{
    download_free(lab->download);
    EVP_PKEY_free(lab->tkp);
    token_session_close(lab->session);
    token_unload(lab->token);
    nftw(lab->dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    free(lab);
}

static int setup(void **state)
{
    *state = make_lab(0);
    return 0;
}

/* The vector whose PrKS is P-256. */
static int setup_p256(void **state)
{
    *state = make_lab(2);
    return 0;
}

static int setup_blank(void **state)
{
    *state = blank_lab(0);
    return 0;
}

static int teardown(void **state)
{
    free_lab(*state);
    return 0;
}

static size_t count_objects(struct lab *lab, CK_OBJECT_CLASS class)
{
    CK_ATTRIBUTE attributes[] = {ATTRIBUTE(CKA_CLASS, class)};
    token_handle found[16];
    size_t count = 99;
    assert_done(token_search(lab->session, attributes, 1, found, 16, &count));
    return count;
}

static token_handle only_object(struct lab *lab, CK_OBJECT_CLASS class)
{
    CK_ATTRIBUTE attributes[] = {ATTRIBUTE(CKA_CLASS, class)};
    token_handle found = CK_INVALID_HANDLE;
    assert_done(token_search_one(lab->session, attributes, 1, "object", &found));
    return found;
}

/* --- driving a download --- */

static void watch(void *context, const char *step, const char *text)
{
    struct lab *lab = context;
    assert_true(strlen(text) > 10);
    strncat(lab->steps, step, sizeof(lab->steps) - strlen(lab->steps) - 1);
    strncat(lab->steps, " ", sizeof(lab->steps) - strlen(lab->steps) - 1);
}

/* A new download that has sent hello. */
static void start(struct lab *lab)
{
    download_free(lab->download);
    lab->download = NULL;
    lab->steps[0] = '\0';
    assert_done(download_new(&lab->module, text_of(lab->vector, "sn"), lab->root.at, lab->root.len,
                             &lab->download));
    download_watch(lab->download, watch, lab);
    assert_done(download_start(lab->download, &lab->out));
}

static int give_at(struct lab *lab, const struct bytes *message, int64_t now)
{
    return download_receive(lab->download, message->at, message->len, now, &lab->out);
}

static int give(struct lab *lab, struct bytes message)
{
    return give_at(lab, &message, NOW);
}

static void assert_output(const struct lab *lab, const char *name)
{
    struct bytes expected = message_of(lab, name);
    assert_int_equal(lab->out.len, expected.len);
    assert_memory_equal(lab->out.message, expected.at, expected.len);
}

/* Refused for good, with a sentence that has these words in it, and nothing more is taken. */
static void assert_over(struct lab *lab, const char *words)
{
    if (!strstr(fail_text(), words))
        fail_msg("'%s' is not in '%s'", words, fail_text());
    assert_int_equal(download_state(lab->download), DOWNLOAD_FAILED);
    assert_true(give(lab, message_of(lab, "challenge")) < 0);
    assert_true(give(lab, message_of(lab, "delivery")) < 0);
    assert_true(give(lab, message_of(lab, "done")) < 0);
    assert_int_equal(download_state(lab->download), DOWNLOAD_FAILED);
}

static void refuses(struct lab *lab, struct bytes message, int rc, const char *words)
{
    assert_int_equal(give(lab, message), rc);
    assert_over(lab, words);
}

static void start_to_delivery(struct lab *lab)
{
    start(lab);
    assert_done(give(lab, message_of(lab, "challenge")));
}

static void start_to_done(struct lab *lab)
{
    start_to_delivery(lab);
    assert_done(give(lab, message_of(lab, "delivery")));
}

/* --- the vectors, message by message --- */

static void whole_download(size_t vector)
{
    struct lab *lab = make_lab(vector);
    struct message delivery = decoded(lab, "delivery");
    struct tmk_info stored;

    start(lab);
    assert_output(lab, "hello");
    assert_done(give(lab, message_of(lab, "challenge")));
    assert_output(lab, "proof");
    assert_int_equal(download_state(lab->download), DOWNLOAD_DELIVERY);
    assert_done(give(lab, message_of(lab, "delivery")));
    assert_output(lab, "confirm");
    assert_int_equal(download_state(lab->download), DOWNLOAD_DONE);
    assert_done(give(lab, message_of(lab, "done")));
    assert_int_equal(lab->out.len, 0);
    assert_int_equal(download_state(lab->download), DOWNLOAD_FINISHED);
    assert_string_equal(lab->steps, "S301 S303 S305 S306 S306 S309 S310 S311 confirm done ");
    assert_null(download_failure(lab->download));
    assert_memory_equal(download_tmk(lab->download), &delivery.delivery.tmk,
                        sizeof(struct tmk_info));
    assert_done(pkcs11_module_tmk(lab->session, &stored));
    assert_memory_equal(&stored, &delivery.delivery.tmk, sizeof(stored));
    assert_true(give(lab, message_of(lab, "done")) < 0);
    assert_int_equal(download_state(lab->download), DOWNLOAD_FINISHED);
    free_lab(lab);
}

static void test_vectors(void **state)
{
    (void)state;
    for (size_t i = 0; i < VECTOR_COUNT; i++)
        whole_download(i);
}

/* --- order --- */

static void test_order(void **state)
{
    struct lab *lab = *state;

    start(lab);
    refuses(lab, message_of(lab, "delivery"), FAIL_MALFORMED, "delivery where challenge is due");
    start(lab);
    refuses(lab, message_of(lab, "done"), FAIL_MALFORMED, "done where challenge is due");
    start(lab);
    refuses(lab, message_of(lab, "hello"), FAIL_MALFORMED, "hello where challenge is due");
    start_to_delivery(lab);
    refuses(lab, message_of(lab, "challenge"), FAIL_MALFORMED, "challenge where delivery is due");
    start_to_delivery(lab);
    refuses(lab, message_of(lab, "done"), FAIL_MALFORMED, "done where delivery is due");
    assert_int_equal(count_objects(lab, CKO_SECRET_KEY), 0);
    start_to_done(lab);
    refuses(lab, message_of(lab, "delivery"), FAIL_MALFORMED, "delivery where done is due");
}

static void test_start_once(void **state)
{
    struct lab *lab = *state;
    struct bytes challenge = message_of(lab, "challenge");

    assert_done(download_new(&lab->module, "SN", lab->root.at, lab->root.len, &lab->download));
    assert_true(give_at(lab, &challenge, NOW) < 0);
    assert_int_equal(download_state(lab->download), DOWNLOAD_NEW);
    start(lab);
    assert_int_equal(download_start(lab->download, &lab->out), FAIL_REFUSED);
}

static void test_new_refuses(void **state)
{
    struct lab *lab = *state;
    const struct bytes *root = &lab->root;

    assert_int_equal(download_new(&lab->module, "", root->at, root->len, &lab->download),
                     FAIL_MALFORMED);
    assert_int_equal(download_new(&lab->module, "a b", root->at, root->len, &lab->download),
                     FAIL_MALFORMED);
    assert_int_equal(download_new(&lab->module, "SN", root->at, root->len - 1, &lab->download),
                     FAIL_MALFORMED);
    assert_int_equal(download_new(&lab->module, "SN", root->at, root->len + 1, &lab->download),
                     FAIL_MALFORMED);
    assert_null(lab->download);
}

/* --- changed bytes --- */

/* Every byte but for the certificates in the middle, which are under one signature each: there
 * every ninth. */
static size_t next_place(size_t place, size_t len)
{
    return place + (place < 90 || place + 300 > len ? 1 : 9);
}

static void test_challenge_any_byte(void **state)
{
    struct lab *lab = *state;
    struct bytes challenge = message_of(lab, "challenge");

    for (size_t i = 0; i < challenge.len; i = next_place(i, challenge.len)) {
        start(lab);
        challenge.at[i] ^= 1;
        if (give(lab, challenge) == 0)
            fail_msg("byte %zu of the challenge can be changed", i);
        assert_int_equal(download_state(lab->download), DOWNLOAD_FAILED);
        challenge.at[i] ^= 1;
    }
}

static void test_delivery_any_byte(void **state)
{
    struct lab *lab = *state;
    struct bytes delivery = message_of(lab, "delivery");

    for (size_t i = 0; i < delivery.len; i++) {
        start_to_delivery(lab);
        delivery.at[i] ^= 1;
        if (give(lab, delivery) == 0)
            fail_msg("byte %zu of the delivery can be changed", i);
        assert_int_equal(download_state(lab->download), DOWNLOAD_FAILED);
        delivery.at[i] ^= 1;
    }
    assert_int_equal(count_objects(lab, CKO_SECRET_KEY), 0);
}

static void test_delivery_of_another(void **state)
{
    struct lab *lab = *state;
    struct message delivery = decoded(lab, "delivery");

    delivery.delivery.tmk.version++;
    start_to_delivery(lab);
    refuses(lab, encoded(&delivery), FAIL_REFUSED, "S310");
}

static void test_trailing_bytes(void **state)
{
    struct lab *lab = *state;
    struct bytes challenge = message_of(lab, "challenge");

    challenge.at[challenge.len++] = 0;
    start(lab);
    refuses(lab, challenge, FAIL_MALFORMED, "not a message");
    challenge.len = 0;
    start(lab);
    refuses(lab, challenge, FAIL_MALFORMED, "not a message");
}

static void test_done_of_another_version(void **state)
{
    struct lab *lab = *state;
    struct message done = decoded(lab, "done");

    done.done.version++;
    start_to_done(lab);
    refuses(lab, encoded(&done), FAIL_REFUSED, "recorded version 2, but 1");
}

static void test_other_rnd1(void **state)
{
    struct lab *lab = *state;

    lab->rnd1.at[0] ^= 1;
    start(lab);
    refuses(lab, message_of(lab, "challenge"), FAIL_REFUSED, "S306");
}

/* --- what the server refuses --- */

static void test_failures(void **state)
{
    struct lab *lab = *state;
    struct message failure = {.type = MESSAGE_FAILURE,
                              .failure = {FAILURE_REJECTED, RETRY_AFTER_NONE}};

    start_to_delivery(lab);
    refuses(lab, encoded(&failure), FAIL_REFUSED, "rejected SN VEC-0001");
    assert_int_equal(download_failure(lab->download)->code, FAILURE_REJECTED);
    start(lab);
    refuses(lab, message_of(lab, "failure"), FAIL_REFUSED, "try again after 5 seconds");
    assert_int_equal(download_failure(lab->download)->code, FAILURE_BUSY);
    assert_int_equal(download_failure(lab->download)->retry_after, 5);
    failure.failure.code = FAILURE_INTERNAL;
    start_to_done(lab);
    refuses(lab, encoded(&failure), FAIL_REFUSED, "internal");
}

/* --- KSWCRT: a server of the test's own --- */

struct plan {
    const char *usage;
    const char *extended; /* NULL: no such extension */
    int ca;
    const char *digest;
};

static const struct plan kswcrt_plan = {"digitalSignature", EKU, 0, "SHA256"};
static const struct plan ca_plan = {"keyCertSign", NULL, 1, "SHA256"};

static void extend(X509 *certificate, int nid, const char *value)
{
    X509_EXTENSION *extension = value ? X509V3_EXT_conf_nid(NULL, NULL, nid, value) : NULL;
    if (extension)
        assert_int_equal(X509_add_ext(certificate, extension, -1), 1);
    X509_EXTENSION_free(extension);
}

/* Signed by issuer, or by itself when issuer is NULL. From 2026 to 2036. */
static X509 *make_certificate(const char *name, EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key,
                              const struct plan *plan)
{
    static long serial;
    X509 *certificate = X509_new();
    X509_NAME *subject = X509_get_subject_name(certificate);

    X509_set_version(certificate, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), ++serial);
    ASN1_TIME_set_string(X509_getm_notBefore(certificate), "20260101000000Z");
    ASN1_TIME_set_string(X509_getm_notAfter(certificate), "20360101000000Z");
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(certificate, issuer ? X509_get_subject_name(issuer) : subject);
    X509_set_pubkey(certificate, key);
    extend(certificate, NID_basic_constraints, plan->ca ? "critical,CA:TRUE" : "CA:FALSE");
    extend(certificate, NID_key_usage, plan->usage);
    extend(certificate, NID_ext_key_usage, plan->extended);
    assert_true(X509_sign(certificate, issuer_key, EVP_get_digestbyname(plan->digest)) > 0);
    return certificate;
}

/* A challenge as a server with that chain and that PrKS answers our hello. */
static struct bytes challenge_by(struct lab *lab, EVP_PKEY *prks, X509 *const *chain, size_t count)
{
    struct message hello = decoded(lab, "hello");
    struct message message = decoded(lab, "challenge");
    struct challenge *challenge = &message.challenge;
    uint8_t h[DIGEST_LEN];
    uint8_t m1[M1_LEN];
    size_t len = RSA_BLOCK_MAX;

    memset(&challenge->tbs.kswcrt, 0, sizeof(challenge->tbs.kswcrt));
    for (size_t i = 0; i < count; i++) {
        struct bytes der = der_of(chain[i]);
        assert_done(cert_chain_add(&challenge->tbs.kswcrt, der.at, der.len));
    }
    assert_done(transcript_hash(&hello.hello, &challenge->tbs, h));
    transcript_m1(hello.hello.rnd1, h, m1);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(prks, NULL);
    assert_int_equal(EVP_PKEY_sign_init(context), 1);
    assert_int_equal(EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PADDING), 1);
    assert_int_equal(EVP_PKEY_sign(context, challenge->c1, &len, m1, M1_LEN), 1);
    EVP_PKEY_CTX_free(context);
    challenge->c1_len = len;
    return encoded(&message);
}

/* A root of the test's own, and the vector's PrKS to certify under it. */
struct pki {
    EVP_PKEY *root_key;
    X509 *root;
    EVP_PKEY *prks;
};

static struct pki make_pki(struct lab *lab)
{
    struct pki pki = {.root_key = key_of(3, "prks")};
    pki.root = make_certificate("test KSR", pki.root_key, NULL, pki.root_key, &ca_plan);
    pki.prks = read_key(text_of(lab->vector, "prks"));
    lab->root = der_of(pki.root);
    return pki;
}

static void free_pki(struct pki *pki)
{
    EVP_PKEY_free(pki->root_key);
    X509_free(pki->root);
    EVP_PKEY_free(pki->prks);
}

/* What the terminal says to a KSWCRT made to that plan for that key, signed for with signer. */
static int judge(struct lab *lab, const struct pki *pki, EVP_PKEY *key, EVP_PKEY *signer,
                 const struct plan *plan)
{
    X509 *kswcrt = make_certificate("tmkd", key, pki->root, pki->root_key, plan);
    start(lab);
    int rc = give(lab, challenge_by(lab, signer, &kswcrt, 1));
    X509_free(kswcrt);
    return rc;
}

static void test_own_root_accepted(void **state)
{
    struct lab *lab = *state;
    struct pki pki = make_pki(lab);
    EVP_PKEY *bits3072 = key_of(1, "prks");

    assert_done(judge(lab, &pki, pki.prks, pki.prks, &kswcrt_plan));
    assert_done(judge(lab, &pki, bits3072, bits3072, &kswcrt_plan));
    EVP_PKEY_free(bits3072);
    free_pki(&pki);
}

static void test_usage(void **state)
{
    struct lab *lab = *state;
    struct pki pki = make_pki(lab);
    struct plan plans[] = {
        {"digitalSignature", NULL, 0, "SHA256"},
        {"digitalSignature", "serverAuth", 0, "SHA256"},
        {"digitalSignature", "anyExtendedKeyUsage", 0, "SHA256"},
        {"keyEncipherment", EKU, 0, "SHA256"},
        {NULL, EKU, 0, "SHA256"},
        {"digitalSignature", EKU, 0, "SHA1"},
        {"digitalSignature", EKU, 0, "MD5"},
    };
    const char *words[] = {"id-kp-cmKGA",      "id-kp-cmKGA", "id-kp-cmKGA", "digitalSignature",
                           "digitalSignature", "digest",      "digest"};

    for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i++) {
        assert_int_equal(judge(lab, &pki, pki.prks, pki.prks, &plans[i]), FAIL_REFUSED);
        assert_non_null(strstr(fail_text(), "S305: KSWCRT CN=tmkd"));
        assert_over(lab, words[i]);
    }
    free_pki(&pki);
}

static void test_weak_or_odd_keys(void **state)
{
    struct lab *lab = *state;
    struct pki pki = make_pki(lab);
    EVP_PKEY *keys[] = {EVP_RSA_gen(1024), EVP_RSA_gen(2056), EVP_EC_gen("P-384"),
                        EVP_PKEY_Q_keygen(NULL, NULL, "ED25519")};

    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        assert_non_null(keys[i]);
        assert_int_equal(judge(lab, &pki, keys[i], pki.prks, &kswcrt_plan), FAIL_REFUSED);
        assert_over(lab, "S305");
        EVP_PKEY_free(keys[i]);
    }
    free_pki(&pki);
}

static void test_c1_of_another_key(void **state)
{
    struct lab *lab = *state;
    struct pki pki = make_pki(lab);
    EVP_PKEY *other = key_of(3, "prks");
    EVP_PKEY *longer = key_of(1, "prks");
    EVP_PKEY *p256 = EVP_EC_gen("P-256");

    assert_int_equal(judge(lab, &pki, pki.prks, other, &kswcrt_plan), FAIL_REFUSED);
    assert_over(lab, "does not hold PrKS");
    assert_int_equal(judge(lab, &pki, pki.prks, longer, &kswcrt_plan), FAIL_REFUSED);
    assert_over(lab, "length");
    assert_int_equal(judge(lab, &pki, p256, pki.prks, &kswcrt_plan), FAIL_REFUSED);
    assert_over(lab, "64 bytes");
    EVP_PKEY_free(other);
    EVP_PKEY_free(longer);
    EVP_PKEY_free(p256);
    free_pki(&pki);
}

static void test_other_root(void **state)
{
    struct lab *lab = *state;
    struct pki pki = make_pki(lab);

    start(lab);
    refuses(lab, message_of(lab, "challenge"), FAIL_REFUSED, "S305: KSWCRT CN=Vector KSW");
    lab->root = vector_root();
    assert_int_equal(judge(lab, &pki, pki.prks, pki.prks, &kswcrt_plan), FAIL_REFUSED);
    assert_over(lab, "S305: KSWCRT CN=tmkd");
    free_pki(&pki);
}

static void test_validity(void **state)
{
    struct lab *lab = *state;
    struct bytes challenge = message_of(lab, "challenge");
    struct pki pki = make_pki(lab);
    X509 *kswcrt = make_certificate("tmkd", pki.prks, pki.root, pki.root_key, &kswcrt_plan);
    struct bytes own = challenge_by(lab, pki.prks, &kswcrt, 1);

    start(lab);
    assert_int_equal(give_at(lab, &own, LATE), FAIL_REFUSED);
    assert_over(lab, "expired");
    lab->root = vector_root();
    start(lab);
    assert_int_equal(give_at(lab, &challenge, 0), FAIL_REFUSED);
    assert_over(lab, "not yet valid");
    X509_free(kswcrt);
    free_pki(&pki);
}

/* root - issuing CA - KSWCRT; the CA comes with the chain and is trusted only as far as it goes. */
static int judge_chain(struct lab *lab, const struct pki *pki, const struct plan *plan)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *chain[2];
    chain[1] = make_certificate("issuing CA", key, pki->root, pki->root_key, plan);
    chain[0] = make_certificate("tmkd", pki->prks, chain[1], key, &kswcrt_plan);
    start(lab);
    int rc = give(lab, challenge_by(lab, pki->prks, chain, 2));
    X509_free(chain[0]);
    X509_free(chain[1]);
    EVP_PKEY_free(key);
    return rc;
}

static void test_chain(void **state)
{
    struct lab *lab = *state;
    struct pki pki = make_pki(lab);
    struct plan no_ca = {"digitalSignature,keyCertSign", EKU, 0, "SHA256"};

    assert_done(judge_chain(lab, &pki, &ca_plan));
    assert_int_equal(judge_chain(lab, &pki, &no_ca), FAIL_REFUSED);
    assert_over(lab, "invalid CA");
    lab->root = vector_root();
    assert_int_equal(judge_chain(lab, &pki, &ca_plan), FAIL_REFUSED);
    assert_over(lab, "S305");
    free_pki(&pki);
}

/* --- the reference secure module --- */

static int flag(struct lab *lab, token_handle object, CK_ATTRIBUTE_TYPE type)
{
    CK_BBOOL value = 2;
    size_t len;
    assert_done(token_attribute(lab->session, object, type, &value, sizeof(value), &len));
    return value;
}

/* Exactly these of the flags are set. */
static void assert_flags(struct lab *lab, token_handle object, const CK_ATTRIBUTE_TYPE *all,
                         size_t count, const CK_ATTRIBUTE_TYPE *set, size_t set_count)
{
    for (size_t i = 0; i < count; i++) {
        int expected = 0;
        for (size_t j = 0; j < set_count; j++)
            expected |= set[j] == all[i];
        if (flag(lab, object, all[i]) != expected)
            fail_msg("attribute 0x%lx should be %d", all[i], expected);
    }
}

static void assert_tkp_flags(struct lab *lab)
{
    static const CK_ATTRIBUTE_TYPE private_all[] = {
        CKA_TOKEN,   CKA_PRIVATE, CKA_SENSITIVE, CKA_EXTRACTABLE,  CKA_MODIFIABLE,
        CKA_DECRYPT, CKA_UNWRAP,  CKA_SIGN,      CKA_SIGN_RECOVER, CKA_DERIVE};
    static const CK_ATTRIBUTE_TYPE private_set[] = {CKA_TOKEN, CKA_PRIVATE, CKA_SENSITIVE,
                                                    CKA_UNWRAP};
    static const CK_ATTRIBUTE_TYPE public_all[] = {CKA_TOKEN,          CKA_PRIVATE, CKA_MODIFIABLE,
                                                   CKA_ENCRYPT,        CKA_WRAP,    CKA_VERIFY,
                                                   CKA_VERIFY_RECOVER, CKA_DERIVE};
    static const CK_ATTRIBUTE_TYPE public_set[] = {CKA_TOKEN, CKA_PRIVATE, CKA_ENCRYPT};

    assert_flags(lab, only_object(lab, CKO_PRIVATE_KEY), private_all, 10, private_set, 4);
    assert_flags(lab, only_object(lab, CKO_PUBLIC_KEY), public_all, 8, public_set, 3);
}

static void assert_tmk_flags(struct lab *lab)
{
    static const CK_ATTRIBUTE_TYPE all[] = {
        CKA_TOKEN,  CKA_PRIVATE, CKA_SENSITIVE, CKA_EXTRACTABLE, CKA_MODIFIABLE, CKA_ENCRYPT,
        CKA_VERIFY, CKA_SIGN,    CKA_DECRYPT,   CKA_WRAP,        CKA_UNWRAP,     CKA_DERIVE};
    static const CK_ATTRIBUTE_TYPE set[] = {CKA_TOKEN, CKA_PRIVATE, CKA_SENSITIVE, CKA_SIGN};

    assert_flags(lab, only_object(lab, CKO_SECRET_KEY), all, 12, set, 4);
}

static void test_generated_tkp(void **state)
{
    struct lab *lab = *state;
    struct spki tkp_pu;

    assert_int_equal(pkcs11_module_open(lab->session, &lab->pkcs11), FAIL_NOT_FOUND);
    assert_done(pkcs11_module_generate_tkp(lab->session, 2048));
    assert_done(pkcs11_module_open(lab->session, &lab->pkcs11));
    assert_done(pkcs11_module_tkp_pu(lab->session, &tkp_pu));
    assert_int_equal(tkp_pu.bits, 2048);
    assert_tkp_flags(lab);
}

static void test_imported_tkp(void **state)
{
    struct lab *lab = *state;
    struct spki tkp_pu;
    struct bytes sha256 = from_hex(text_of(lab->vector, "tkp_spki_sha256"));

    assert_done(pkcs11_module_tkp_pu(lab->session, &tkp_pu));
    assert_memory_equal(tkp_pu.sha256, sha256.at, DIGEST_LEN);
    assert_tkp_flags(lab);
}

static int import_key(struct lab *lab, EVP_PKEY *key, const char *passphrase)
{
    BIO *bio = BIO_new(BIO_s_mem());
    char *pem;
    assert_int_equal(PEM_write_bio_PrivateKey(bio, key, passphrase ? EVP_aes_128_cbc() : NULL,
                                              (const unsigned char *)passphrase,
                                              passphrase ? (int)strlen(passphrase) : 0, NULL, NULL),
                     1);
    long len = BIO_get_mem_data(bio, &pem);
    int rc = pkcs11_module_import_tkp(lab->session, (uint8_t *)pem, (size_t)len);
    BIO_free(bio);
    EVP_PKEY_free(key);
    return rc;
}

/* An RSA private key with a bit changed in its private exponent. */
static EVP_PKEY *unfit_key(void)
{
    EVP_PKEY *key = key_of(0, "tkp");
    unsigned char *der = NULL;
    int len =
        i2d_PrivateKey(key, &der); /* RSAPrivateKey: n ends at 270, d at 535 (RFC 8017 A.1.2) */
    assert_true(len > 535);
    der[400] ^= 1;
    EVP_PKEY_free(key);
    const unsigned char *at = der;
    key = d2i_PrivateKey(EVP_PKEY_RSA, NULL, &at, len);
    OPENSSL_free(der);
    assert_non_null(key);
    return key;
}

static void test_import_refuses(void **state)
{
    struct lab *lab = *state;

    assert_int_equal(pkcs11_module_import_tkp(lab->session, (const uint8_t *)"no", 2),
                     FAIL_MALFORMED);
    assert_int_equal(import_key(lab, key_of(0, "tkp"), "a passphrase"), FAIL_MALFORMED);
    assert_int_equal(import_key(lab, EVP_RSA_gen(1024), NULL), FAIL_REFUSED);
    assert_int_equal(import_key(lab, EVP_EC_gen("P-256"), NULL), FAIL_REFUSED);
    assert_int_equal(import_key(lab, unfit_key(), NULL), FAIL_REFUSED);
    assert_int_equal(count_objects(lab, CKO_PRIVATE_KEY), 0);
    assert_int_equal(count_objects(lab, CKO_PUBLIC_KEY), 0);
}

static void test_installed_tmk(void **state)
{
    struct lab *lab = *state;

    start_to_done(lab);
    assert_tmk_flags(lab);
    start_to_done(lab);
    assert_int_equal(count_objects(lab, CKO_SECRET_KEY), 1);
}

static void test_keys_do_nothing_else(void **state)
{
    struct lab *lab = *state;
    CK_MECHANISM pkcs = {CKM_RSA_PKCS, NULL, 0};
    CK_MECHANISM ecb = {CKM_DES3_ECB, NULL, 0};
    uint8_t value[32];
    size_t len;

    start_to_done(lab);
    token_handle tkp_pr = only_object(lab, CKO_PRIVATE_KEY);
    token_handle tmk = only_object(lab, CKO_SECRET_KEY);
    assert_true(token_attribute(lab->session, tmk, CKA_VALUE, value, sizeof(value), &len) < 0);
    assert_int_not_equal(TOKEN_CALL(lab->token, C_DecryptInit, lab->session->handle, &pkcs, tkp_pr),
                         CKR_OK);
    assert_int_not_equal(TOKEN_CALL(lab->token, C_SignInit, lab->session->handle, &pkcs, tkp_pr),
                         CKR_OK);
    assert_int_not_equal(TOKEN_CALL(lab->token, C_EncryptInit, lab->session->handle, &ecb, tmk),
                         CKR_OK);
    assert_int_not_equal(TOKEN_CALL(lab->token, C_DecryptInit, lab->session->handle, &ecb, tmk),
                         CKR_OK);
    assert_int_equal(lab->pkcs11.confirm(lab->session, value, 16, value, &len), FAIL_REFUSED);
}

/* ANSI X9.24-1 for AES. */
static void aes_kcv(const uint8_t *key, size_t key_len, uint8_t ret_kcv[static KCV_MAX])
{
    const char *cipher = key_len == 16 ? "AES-128-CBC" : "AES-256-CBC";
    uint8_t zeros[16] = {0};
    uint8_t mac[MAC_MAX];
    size_t len;
    assert_non_null(EVP_Q_mac(NULL, "CMAC", NULL, cipher, NULL, key, key_len, zeros, sizeof(zeros),
                              mac, sizeof(mac), &len));
    memcpy(ret_kcv, mac, KCV_MAX);
}

/* A Ctmk of key for this terminal, as a key of type, with the KCV of the AES key if it is one. */
static struct delivery deliver(struct lab *lab, const uint8_t *key, size_t key_len,
                               enum tmk_type type)
{
    struct delivery delivery = {.ctmk_len = RSA_BLOCK_MAX,
                                .transport = OAEP_SHA1,
                                .tmk = {type, 2, tmk_type_kcv_len(type), {0}}};
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(lab->tkp, NULL);

    assert_int_equal(EVP_PKEY_encrypt_init(context), 1);
    assert_int_equal(EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_OAEP_PADDING), 1);
    assert_int_equal(EVP_PKEY_encrypt(context, delivery.ctmk, &delivery.ctmk_len, key, key_len), 1);
    EVP_PKEY_CTX_free(context);
    if (key_len == 16 || key_len == 32)
        aes_kcv(key, key_len, delivery.tmk.kcv);
    return delivery;
}

/* As it was: the TMK of the vector and nothing beside it. */
static void assert_unchanged(struct lab *lab)
{
    struct message delivery = decoded(lab, "delivery");
    struct tmk_info stored;

    assert_int_equal(count_objects(lab, CKO_SECRET_KEY), 1);
    assert_done(pkcs11_module_tmk(lab->session, &stored));
    assert_memory_equal(&stored, &delivery.delivery.tmk, sizeof(stored));
}

static void test_wrong_kcv(void **state)
{
    struct lab *lab = *state;
    struct message delivery = decoded(lab, "delivery");

    delivery.delivery.tmk.kcv[2] ^= 1;
    assert_int_equal(lab->pkcs11.install(lab->session, &delivery.delivery), FAIL_REFUSED);
    assert_non_null(strstr(fail_text(), "KCV"));
    assert_int_equal(count_objects(lab, CKO_SECRET_KEY), 0);
    start_to_done(lab);
    assert_int_equal(lab->pkcs11.install(lab->session, &delivery.delivery), FAIL_REFUSED);
    assert_unchanged(lab);
}

static void test_other_type(void **state)
{
    struct lab *lab = *state;
    uint8_t key[32] = "0123456789abcdefghijklmnopqrstuv";
    struct delivery odd = deliver(lab, key, 20, TMK_AES128);
    struct delivery empty = deliver(lab, key, 0, TMK_AES128);
    struct delivery tdea = deliver(lab, key, 16, TMK_DES2);
    struct delivery right = deliver(lab, key, 32, TMK_AES256);

    start_to_done(lab);
    assert_true(lab->pkcs11.install(lab->session, &odd) < 0);
    assert_true(lab->pkcs11.install(lab->session, &empty) < 0);
    assert_int_equal(lab->pkcs11.install(lab->session, &tdea), FAIL_REFUSED);
    assert_unchanged(lab);
    assert_done(lab->pkcs11.install(lab->session, &right));
    assert_tmk_flags(lab);
}

static void test_not_for_this_terminal(void **state)
{
    struct lab *lab = *state;
    struct message delivery = decoded(lab, "delivery");

    delivery.delivery.ctmk[7] ^= 1;
    assert_true(lab->pkcs11.install(lab->session, &delivery.delivery) < 0);
    assert_non_null(strstr(fail_text(), "Ctmk"));
    assert_int_equal(count_objects(lab, CKO_SECRET_KEY), 0);
}

static void test_sha256_transport(void **state)
{
    struct lab *lab = *state;
    struct message delivery = decoded(lab, "delivery");

    delivery.delivery.transport = OAEP_SHA256;
    assert_true(lab->pkcs11.install(lab->session, &delivery.delivery) < 0);
    assert_non_null(strstr(fail_text(), "SHA-256"));
    assert_int_equal(count_objects(lab, CKO_SECRET_KEY), 0);
}

/* A newer TMK beside the one there is: as a kill between storing and sweeping leaves it. */
static token_handle store_another(struct lab *lab)
{
    char id[] = "9/des2/7/0a0b0c";
    char label[] = "TMK";
    uint8_t value[16] = {1};
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_DES2;
    CK_ATTRIBUTE attributes[] = {
        ATTRIBUTE(CKA_CLASS, class),
        ATTRIBUTE(CKA_KEY_TYPE, type),
        ATTRIBUTE(CKA_TOKEN, token_true),
        ATTRIBUTE(CKA_SIGN, token_true),
        ATTRIBUTE(CKA_VALUE, value),
        ATTRIBUTE_BYTES(CKA_LABEL, label, strlen(label)),
        ATTRIBUTE_BYTES(CKA_ID, id, strlen(id)),
    };
    CK_OBJECT_HANDLE key;
    assert_int_equal(TOKEN_CALL(lab->token, C_CreateObject, lab->session->handle, attributes,
                                sizeof(attributes) / sizeof(attributes[0]), &key),
                     CKR_OK);
    return key;
}

static void test_interrupted_installation(void **state)
{
    struct lab *lab = *state;
    struct tmk_info stored;

    start_to_done(lab);
    token_handle newer = store_another(lab);
    assert_int_equal(count_objects(lab, CKO_SECRET_KEY), 2);
    assert_done(pkcs11_module_tmk(lab->session, &stored));
    assert_int_equal(stored.version, 7);
    assert_done(pkcs11_module_open(lab->session, &lab->pkcs11));
    assert_int_equal(only_object(lab, CKO_SECRET_KEY), newer);
    start_to_done(lab);
    assert_unchanged(lab);
}

static void test_tamper(void **state)
{
    struct lab *lab = *state;
    struct tmk_info tmk;

    start_to_done(lab);
    assert_done(pkcs11_module_tamper(lab->session));
    assert_int_equal(count_objects(lab, CKO_PRIVATE_KEY), 0);
    assert_int_equal(count_objects(lab, CKO_SECRET_KEY), 0);
    assert_int_equal(pkcs11_module_tmk(lab->session, &tmk), FAIL_NOT_FOUND);
    start(lab);
    refuses(lab, message_of(lab, "challenge"), FAIL_NOT_FOUND, "no TKP_Pr");
    assert_int_equal(pkcs11_module_open(lab->session, &lab->pkcs11), FAIL_NOT_FOUND);
    assert_done(pkcs11_module_tamper(lab->session));
}

/* Labelled as ours, but nothing we would have made. */
static void store_strange(struct lab *lab, char *label, CK_BBOOL destroyable)
{
    char id[] = "strange";
    uint8_t value[16] = {1};
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_GENERIC_SECRET;
    CK_ATTRIBUTE attributes[] = {
        ATTRIBUTE(CKA_CLASS, class),
        ATTRIBUTE(CKA_KEY_TYPE, type),
        ATTRIBUTE(CKA_TOKEN, token_true),
        ATTRIBUTE(CKA_DESTROYABLE, destroyable),
        ATTRIBUTE(CKA_VALUE, value),
        ATTRIBUTE_BYTES(CKA_LABEL, label, strlen(label)),
        ATTRIBUTE_BYTES(CKA_ID, id, strlen(id)),
    };
    CK_OBJECT_HANDLE key;
    assert_int_equal(TOKEN_CALL(lab->token, C_CreateObject, lab->session->handle, attributes,
                                sizeof(attributes) / sizeof(attributes[0]), &key),
                     CKR_OK);
}

static void assert_left(struct lab *lab, size_t secret_keys)
{
    assert_int_equal(count_objects(lab, CKO_PRIVATE_KEY), 0);
    assert_int_equal(count_objects(lab, CKO_PUBLIC_KEY), 0);
    assert_int_equal(count_objects(lab, CKO_SECRET_KEY), secret_keys);
}

static void test_tamper_of_what_is_strange(void **state)
{
    struct lab *lab = *state;
    char tmk[] = "TMK";

    start_to_done(lab);
    assert_done(pkcs11_module_generate_tkp(lab->session, 2048)); /* a second one */
    for (size_t i = 0; i < 20; i++)
        store_strange(lab, tmk, token_true);
    assert_done(pkcs11_module_tamper(lab->session));
    assert_left(lab, 0);
}

static void test_tamper_of_what_stays(void **state)
{
    struct lab *lab = *state;
    char tkp_pr[] = "TKP_Pr";

    start_to_done(lab);
    store_strange(lab, tkp_pr, token_false);
    assert_true(pkcs11_module_tamper(lab->session) < 0);
    assert_non_null(strstr(fail_text(), "TKP_Pr"));
    assert_left(lab, 1);
}

static int read_vectors(void **state)
{
    (void)state;
    file = json_load_file(getenv("TMKD_VECTORS"), 0, NULL);
    return file ? 0 : -1;
}

static int drop_vectors(void **state)
{
    (void)state;
    json_decref(file);
    return 0;
}

#define IN_P256(test)  cmocka_unit_test_setup_teardown(test, setup_p256, teardown)
#define IN_LAB(test)   cmocka_unit_test_setup_teardown(test, setup, teardown)
#define IN_BLANK(test) cmocka_unit_test_setup_teardown(test, setup_blank, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        IN_LAB(test_order),
        IN_LAB(test_start_once),
        IN_LAB(test_new_refuses),
        IN_LAB(test_challenge_any_byte),
        IN_P256(test_challenge_any_byte),
        IN_LAB(test_delivery_any_byte),
        IN_LAB(test_delivery_of_another),
        IN_LAB(test_trailing_bytes),
        IN_LAB(test_done_of_another_version),
        IN_LAB(test_other_rnd1),
        IN_P256(test_other_rnd1),
        IN_LAB(test_failures),
        IN_LAB(test_own_root_accepted),
        IN_LAB(test_usage),
        IN_LAB(test_weak_or_odd_keys),
        IN_LAB(test_c1_of_another_key),
        IN_LAB(test_other_root),
        IN_LAB(test_validity),
        IN_LAB(test_chain),
        IN_BLANK(test_generated_tkp),
        IN_LAB(test_imported_tkp),
        IN_BLANK(test_import_refuses),
        IN_LAB(test_installed_tmk),
        IN_LAB(test_keys_do_nothing_else),
        IN_LAB(test_wrong_kcv),
        IN_LAB(test_other_type),
        IN_LAB(test_not_for_this_terminal),
        IN_LAB(test_sha256_transport),
        IN_LAB(test_interrupted_installation),
        IN_LAB(test_tamper),
        IN_LAB(test_tamper_of_what_is_strange),
        IN_LAB(test_tamper_of_what_stays),
    };
    return cmocka_run_group_tests(tests, read_vectors, drop_vectors);
}
