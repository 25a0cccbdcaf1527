/*
 * The rooms behind the handshakes - vault, prepare, crew, record, import, kswcrt, tmk_index - on a
 * real SoftHSM token and a real registry, a directory a test. What the keeper offers is opened by
 * a terminal of the test's own, which is OpenSSL and TKP_Pr of the vectors.
 */
#include "common/fail.h" /* before cmocka, whose macro has the same name */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>
#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/sha.h>
#include <openssl/x509v3.h>
#include <sqlite3.h>

#include "common/hex.h"
#include "common/log.h"
#include "db/audit.h"
#include "hsm/ceremony.h"
#include "hsm/cryptoki.h"
#include "hsm/keyring.h"
#include "hsm/tmk.h"
#include "tmkd/audit_key.h"
#include "tmkd/crew.h"
#include "tmkd/import.h"
#include "tmkd/kswcrt.h"
#include "tmkd/operation.h"
#include "tmkd/lifecycle.h"
#include "tmkd/prepare.h"
#include "tmkd/record.h"
#include "tmkd/tmk_index.h"
#include "tmkd/vault.h"
#include "wire/transcript.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define assert_ok(call)                                                                            \
    do {                                                                                           \
        if ((call) != 0)                                                                           \
            fail_msg("%s: %s", #call, fail_text());                                                \
    } while (0)

enum { KEYS = 4, SPARES = 5, DAY = 86400, WAIT_MS = 30000, QUEUE = 6 };

static const char module_path[] = "/usr/lib/softhsm/libsofthsm2.so";
static const char label[] = "keeper test";
static const char pin[] = "user-pin-1234";
static const struct prks_spec p256 = {PRKS_P256, 256};
static const struct prks_spec rsa2048 = {PRKS_RSA, 2048};

/* Made once: a CA, and the vectors' TKPs of 2048, 3072, 2048 and 4096 bits. */
static EVP_PKEY *authority;
static EVP_PKEY *tkp[KEYS];
static EVP_PKEY *spare[SPARES]; /* of 2048 bits */

/* A directory with a token, a registry, and the keeper's vault open on them. */
struct place {
    char dir[64];
    char environment[160];
    char pin_file[96];
    char registry_file[96];
    const struct prks_spec *prks;
    struct conf conf;
    struct vault vault;
    struct registry *registry;
};

/* --- keys and certificates --- */

static void load_keys(const char *path)
{
    json_error_t error;
    json_t *vectors = json_load_file(path, 0, &error);
    assert_non_null(vectors);
    for (size_t i = 0; i < KEYS; i++) {
        json_t *vector = json_array_get(json_object_get(vectors, "vectors"), i);
        BIO *bio = BIO_new_mem_buf(json_string_value(json_object_get(vector, "tkp")), -1);
        tkp[i] = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
        assert_non_null(tkp[i]);
        BIO_free(bio);
    }
    json_decref(vectors);
}

static int make_keys(void **state)
{
    (void)state;
    log_open("test_keeper", LOG_ERROR);
    load_keys(getenv("TMKD_VECTORS"));
    authority = EVP_EC_gen("P-256");
    assert_non_null(authority);
    for (size_t i = 0; i < SPARES; i++)
        assert_non_null(spare[i] = EVP_RSA_gen(2048));
    return 0;
}

/* What a certificate says; all but one field right in each test of a fault. */
struct wish {
    long from; /* seconds from now */
    long until;
    const char *key_usage; /* NULL: none */
    const char *extended;
};

static const struct wish good_wish = {-DAY, DAY, "critical,digitalSignature", "1.3.6.1.5.5.7.3.32"};

static void add_extension(X509 *certificate, int nid, const char *value)
{
    X509_EXTENSION *extension = value ? X509V3_EXT_conf_nid(NULL, NULL, nid, value) : NULL;
    if (value)
        assert_non_null(extension);
    if (extension)
        assert_int_equal(X509_add_ext(certificate, extension, -1), 1);
    X509_EXTENSION_free(extension);
}

static void set_name(X509_NAME *name, const char *text)
{
    assert_int_equal(X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8,
                                                (const unsigned char *)text, -1, -1, 0),
                     1);
}

static X509 *make_certificate(const struct wish *wish, EVP_PKEY *key, EVP_PKEY *issuer)
{
    X509 *certificate = X509_new();
    assert_non_null(certificate);
    X509_set_version(certificate, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 0x1234abcd);
    set_name(X509_get_subject_name(certificate), "keeper test KSWCRT");
    set_name(X509_get_issuer_name(certificate), "keeper test CA");
    X509_gmtime_adj(X509_getm_notBefore(certificate), wish->from);
    X509_gmtime_adj(X509_getm_notAfter(certificate), wish->until);
    X509_set_pubkey(certificate, key);
    add_extension(certificate, NID_key_usage, wish->key_usage);
    add_extension(certificate, NID_ext_key_usage, wish->extended);
    assert_true(X509_sign(certificate, issuer, EVP_sha256()) > 0);
    return certificate;
}

static void chain_add(struct cert_chain *chain, const struct wish *wish, EVP_PKEY *key,
                      EVP_PKEY *issuer)
{
    unsigned char *der = NULL;
    X509 *certificate = make_certificate(wish, key, issuer);
    int len = i2d_X509(certificate, &der);
    assert_true(len > 0);
    assert_ok(cert_chain_add(chain, der, (size_t)len));
    OPENSSL_free(der);
    X509_free(certificate);
}

/* --- the place --- */

static struct place *shared;

static void write_file(const char *path, const char *text, mode_t mode)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(path, mode), 0);
}

static void make_directory(struct place *place)
{
    char path[128];
    char text[256];
    strcpy(place->dir, "/tmp/tmkd-test-keeper-XXXXXX");
    assert_non_null(mkdtemp(place->dir));
    snprintf(path, sizeof(path), "%s/tokens", place->dir);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof(path), "%s/softhsm2.conf", place->dir);
    snprintf(text, sizeof(text),
             "directories.tokendir = %s/tokens\nobjectstore.backend = file\nlog.level = ERROR\n",
             place->dir);
    write_file(path, text, 0600);
    snprintf(place->environment, sizeof(place->environment), "SOFTHSM2_CONF=%s", path);
    snprintf(place->pin_file, sizeof(place->pin_file), "%s/pin", place->dir);
    write_file(place->pin_file, "user-pin-1234\n", 0600);
    snprintf(place->registry_file, sizeof(place->registry_file), "%s/registry.db", place->dir);
}

/* The strings are the place's own; nothing of it is freed. */
static void fill_conf(struct place *place, int wrapped)
{
    struct conf *conf = &place->conf;
    conf->registry = place->registry_file;
    conf->token.module = (char *)(uintptr_t)module_path;
    conf->token.label = (char *)(uintptr_t)label;
    conf->token.pin_file = place->pin_file;
    conf->token.environment[0] = place->environment;
    conf->token.environment_count = 1;
    conf->token.sessions = 2;
    conf->tmk.wrapped = wrapped;
    conf->limits.queue = QUEUE;
}

static void note_made(void *context, const char *name)
{
    (void)context, (void)name;
}

static void make_token(struct place *place, const struct prks_spec *prks)
{
    struct token *token;
    struct token_session *session;
    assert_ok(token_load(module_path, place->conf.token.environment, 1, &token));
    assert_ok(token_initialise(token, label, "so-pin-5678", pin));
    assert_ok(token_login(token, pin));
    assert_ok(token_session_open(token, &session));
    assert_ok(keyring_make(session, prks, note_made, NULL));
    token_session_close(session);
    token_unload(token);
}

static EVP_PKEY *read_puks(const char *pem)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    X509_REQ *request = PEM_read_bio_X509_REQ(bio, NULL, NULL, NULL);
    assert_non_null(request);
    EVP_PKEY *puks = X509_REQ_get_pubkey(request);
    X509_REQ_free(request);
    BIO_free(bio);
    return puks;
}

static void install_kswcrt(void)
{
    const struct ceremony_token token = {module_path, label, pin};
    struct cert_chain chain = {0};
    char *pem = NULL;
    assert_ok(ceremony_request(&token, "CN=keeper test", &pem));
    EVP_PKEY *puks = read_puks(pem);
    chain_add(&chain, &good_wish, puks, authority);
    assert_ok(ceremony_install(&token, &chain));
    EVP_PKEY_free(puks);
    free(pem);
}

static struct place *place_make(const struct prks_spec *prks, int wrapped)
{
    struct place *place = calloc(1, sizeof(*place));
    assert_non_null(place);
    make_directory(place);
    fill_conf(place, wrapped);
    make_token(place, prks);
    place->prks = prks;
    install_kswcrt();
    return place;
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *where)
{
    (void)status, (void)type, (void)where;
    return remove(path);
}

static int place_remove(struct place *place)
{
    if (!place)
        return 0;
    registry_close(place->registry);
    vault_close(&place->vault);
    int rc = nftw(place->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(place);
    return rc;
}

/* A place of the test's own, its vault closed or open. */
static int set_up_closed(void **state)
{
    struct place *place;
    place_remove(shared); /* a process has the PKCS#11 module once */
    shared = NULL;
    *state = place = place_make(&p256, 0);
    assert_ok(registry_open(place->registry_file, REGISTRY_CREATE, &place->registry));
    return 0;
}

static int set_up_own(void **state)
{
    set_up_closed(state);
    struct place *place = *state;
    assert_ok(vault_open(&place->conf, &place->vault));
    return 0;
}

static int tear_down_own(void **state)
{
    return place_remove(*state);
}

/* The token of the test before, if it is of the right kind, with a new registry: opening a vault
 * makes an RSA key. */
static int set_up_shared(void **state, const struct prks_spec *prks, int wrapped)
{
    if (shared && (shared->prks != prks || shared->conf.tmk.wrapped != wrapped)) {
        place_remove(shared);
        shared = NULL;
    }
    if (!shared) {
        shared = place_make(prks, wrapped);
        assert_ok(vault_open(&shared->conf, &shared->vault));
    }
    fill_conf(shared, wrapped);
    assert_ok(registry_open(shared->registry_file, REGISTRY_CREATE, &shared->registry));
    *state = shared;
    return 0;
}

static int set_up_token(void **state)
{
    return set_up_shared(state, &p256, 0);
}

static int set_up_wrapped(void **state)
{
    return set_up_shared(state, &p256, 1);
}

static int set_up_rsa(void **state)
{
    return set_up_shared(state, &rsa2048, 1);
}

static int remove_tmk(void *context, const char *id, size_t id_len, token_handle tmk)
{
    struct vault *vault = context;
    tmk_index_remove(vault->index, id, id_len, tmk);
    return token_destroy(vault->session, tmk);
}

static int tear_down(void **state)
{
    struct place *place = *state;
    registry_close(place->registry);
    place->registry = NULL;
    assert_int_equal(unlink(place->registry_file), 0); /* the last to close has removed -wal */
    assert_ok(tmk_list(place->vault.session, remove_tmk, &place->vault));
    return 0;
}

static int free_keys(void **state)
{
    (void)state;
    place_remove(shared);
    EVP_PKEY_free(authority);
    for (size_t i = 0; i < KEYS; i++)
        EVP_PKEY_free(tkp[i]);
    for (size_t i = 0; i < SPARES; i++)
        EVP_PKEY_free(spare[i]);
    return 0;
}

static void reopen_vault(struct place *place)
{
    vault_close(&place->vault);
    assert_ok(vault_open(&place->conf, &place->vault));
}

static struct station station_of(struct place *place)
{
    return (struct station){&place->vault, place->vault.session, place->registry};
}

/* What somebody does with the sqlite3 shell. */
static void edit(const struct place *place, const char *sql)
{
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(place->registry_file, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    sqlite3_close(db);
}

static void seal_and_commit(struct place *place)
{
    struct audit_key key = {place->vault.session, place->vault.keyring.audit};
    assert_ok(audit_seal(place->registry, audit_key_seal, &key));
    assert_ok(registry_commit(place->registry));
}

static int keep_record(void *context, const struct audit_record *record)
{
    *(struct audit_record *)context = *record;
    return 0;
}

static struct audit_record last_record(const struct place *place)
{
    struct audit_record record = {0};
    assert_ok(audit_list(place->registry, 0, SIZE_MAX, keep_record, &record));
    return record;
}

/* --- imports --- */

static json_t *make_row(const char *sn, EVP_PKEY *key)
{
    unsigned char *der = NULL;
    char text[2 * SPKI_DER_MAX];
    int len = i2d_PUBKEY(key, &der);
    assert_true(len > 0);
    base64_encode(der, (size_t)len, text);
    OPENSSL_free(der);
    return json_pack("{s:s, s:s}", "sn", sn, "public_key", text);
}

/* Takes the rows. */
static json_t *make_request(const char *tmk, json_t *rows)
{
    json_t *request = json_pack("{s:s, s:o, s:s, s:s}", "op", "terminal.import", "rows", rows,
                                "tmk", tmk, "batch", "B1");
    assert_non_null(request);
    return request;
}

static struct import *start_import(struct place *place, json_t *request)
{
    struct station station = station_of(place);
    struct import *import = NULL;
    assert_ok(import_new(request, "uid 0 (test)", &import));
    assert_ok(import_prepare(import, &station));
    return import;
}

static void write_import(struct place *place, struct import *import)
{
    struct station station = station_of(place);
    assert_ok(registry_begin(place->registry));
    assert_ok(registry_part_begin(place->registry));
    assert_ok(import_write(import, &station));
    assert_ok(registry_part_keep(place->registry));
    seal_and_commit(place);
}

/* Imports the rows, which it takes, and gives the results. */
static json_t *import_rows(struct place *place, const char *tmk, json_t *rows)
{
    json_t *request = make_request(tmk, rows);
    struct import *import = start_import(place, request);
    write_import(place, import);
    json_t *results = json_incref(import_results(import));
    import_free(import);
    json_decref(request);
    return results;
}

static void import_one(struct place *place, const char *sn, EVP_PKEY *key, const char *tmk)
{
    json_t *results = import_rows(place, tmk, json_pack("[o]", make_row(sn, key)));
    assert_string_equal(json_string_value(json_array_get(results, 0)), "added");
    json_decref(results);
}

static void assert_result(const json_t *results, size_t i, const char *expected)
{
    const json_t *result = json_array_get(results, i);
    const char *text = json_is_string(result) ? json_string_value(result)
                                              : json_string_value(json_object_get(result, "code"));
    assert_non_null(text);
    assert_string_equal(text, expected);
}

static int count_one(void *context, const char *id, size_t id_len, token_handle tmk)
{
    (void)id, (void)id_len, (void)tmk;
    ++*(size_t *)context;
    return 0;
}

static size_t count_tmks(const struct place *place)
{
    size_t count = 0;
    assert_ok(tmk_list(place->vault.session, count_one, &count));
    return count;
}

static struct terminal find(const struct place *place, const char *sn)
{
    struct terminal terminal;
    assert_ok(registry_find(place->registry, sn, &terminal));
    return terminal;
}

/* --- the test's own terminal --- */

static struct hello make_hello(const char *sn)
{
    struct hello hello = {0};
    memcpy(hello.sn, sn, strlen(sn) + 1);
    for (size_t i = 0; i < RND_LEN; i++)
        hello.rnd1[i] = (uint8_t)(i * 7 + 1);
    return hello;
}

static struct offer prepare(struct place *place, const char *sn)
{
    struct offer offer;
    struct hello hello = make_hello(sn);
    assert_ok(prepare_offer(&place->vault, place->vault.session, place->registry, &hello, &offer));
    return offer;
}

static struct message decode(const uint8_t *der, size_t len, enum message_type type)
{
    struct message message;
    assert_ok(message_decode(der, len, &message));
    assert_int_equal(message.type, type);
    return message;
}

static EVP_PKEY *take_puks(const struct challenge *challenge)
{
    size_t len;
    assert_int_equal(challenge->tbs.kswcrt.count, 1);
    const uint8_t *der = cert_chain_at(&challenge->tbs.kswcrt, 0, &len);
    X509 *leaf = d2i_X509(NULL, &der, (long)len);
    assert_non_null(leaf);
    assert_int_equal(X509_verify(leaf, authority), 1);
    EVP_PKEY *puks = X509_get_pubkey(leaf);
    X509_free(leaf);
    return puks;
}

/* D[PuKS, C1] = M1 (patent S305). */
static void assert_rsa_opens(EVP_PKEY *puks, const struct challenge *challenge, const uint8_t *m1)
{
    uint8_t recovered[RSA_BLOCK_MAX];
    size_t len = sizeof(recovered);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(puks, NULL);
    assert_int_equal(EVP_PKEY_verify_recover_init(context), 1);
    assert_int_equal(EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PADDING), 1);
    assert_int_equal(
        EVP_PKEY_verify_recover(context, recovered, &len, challenge->c1, challenge->c1_len), 1);
    assert_int_equal(len, M1_LEN);
    assert_memory_equal(recovered, m1, M1_LEN);
    EVP_PKEY_CTX_free(context);
}

static void assert_p256_verifies(EVP_PKEY *puks, const struct challenge *challenge,
                                 const uint8_t *m1)
{
    uint8_t digest[DIGEST_LEN];
    unsigned char *der = NULL;
    ECDSA_SIG *signature = ECDSA_SIG_new();
    assert_int_equal(challenge->c1_len, 64);
    assert_int_equal(ECDSA_SIG_set0(signature, BN_bin2bn(challenge->c1, 32, NULL),
                                    BN_bin2bn(challenge->c1 + 32, 32, NULL)),
                     1);
    int len = i2d_ECDSA_SIG(signature, &der);
    SHA256(m1, M1_LEN, digest);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(puks, NULL);
    assert_int_equal(EVP_PKEY_verify_init(context), 1);
    assert_int_equal(EVP_PKEY_verify(context, der, (size_t)len, digest, sizeof(digest)), 1);
    EVP_PKEY_CTX_free(context);
    OPENSSL_free(der);
    ECDSA_SIG_free(signature);
}

static void assert_c1_opens(const struct challenge *challenge, const struct hello *hello,
                            const uint8_t h[static DIGEST_LEN])
{
    uint8_t m1[M1_LEN] = "TMKD-C1\x01";
    memcpy(m1 + 8, hello->rnd1, RND_LEN);
    memcpy(m1 + 8 + RND_LEN, h, DIGEST_LEN);
    EVP_PKEY *puks = take_puks(challenge);
    if (EVP_PKEY_is_a(puks, "RSA"))
        assert_rsa_opens(puks, challenge, m1);
    else
        assert_p256_verifies(puks, challenge, m1);
    EVP_PKEY_free(puks);
}

/* RSAES-OAEP with TKP_Pr. Returns how many bytes come out. */
static size_t decrypt(EVP_PKEY *key, const EVP_MD *hash, const uint8_t *label_bytes,
                      size_t label_len, const uint8_t *in, size_t in_len, uint8_t *ret_out)
{
    size_t len = RSA_BLOCK_MAX;
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(key, NULL);
    assert_int_equal(EVP_PKEY_decrypt_init(context), 1);
    assert_int_equal(EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_OAEP_PADDING), 1);
    assert_int_equal(EVP_PKEY_CTX_set_rsa_oaep_md(context, hash), 1);
    assert_int_equal(EVP_PKEY_CTX_set_rsa_mgf1_md(context, hash), 1);
    if (label_len)
        assert_int_equal(EVP_PKEY_CTX_set0_rsa_oaep_label(
                             context, OPENSSL_memdup(label_bytes, label_len), (int)label_len),
                         1);
    assert_int_equal(EVP_PKEY_decrypt(context, ret_out, &len, in, in_len), 1);
    EVP_PKEY_CTX_free(context);
    return len;
}

/* C2 decrypts to Rnd2 with TKP_Pr, and is what TKP_Pu makes of the block (patent S306). */
static void assert_c2_opens(EVP_PKEY *key, const struct offer *offer,
                            const struct challenge_tbs *tbs, const uint8_t h[static DIGEST_LEN])
{
    uint8_t oaep_label[8 + DIGEST_LEN] = "TMKD-C2\x01";
    uint8_t opened[RSA_BLOCK_MAX];
    memcpy(oaep_label + 8, h, DIGEST_LEN);
    assert_int_equal(offer->c2_len, (size_t)EVP_PKEY_get_size(key));
    assert_int_equal(decrypt(key, EVP_sha256(), oaep_label, sizeof(oaep_label), offer->c2,
                             offer->c2_len, opened),
                     RND_LEN);
    assert_memory_equal(opened, tbs->rnd2, RND_LEN);
}

/* CMAC with a TMK in clear; TDEA keys of two parts as K1 K2 K1. */
static size_t cmac(enum tmk_type type, const uint8_t *tmk, size_t tmk_len, const void *input,
                   size_t input_len, uint8_t ret_mac[static MAC_MAX])
{
    uint8_t key[32];
    size_t len;
    const char *cipher = type == TMK_AES128   ? "AES-128-CBC"
                         : type == TMK_AES192 ? "AES-192-CBC"
                         : type == TMK_AES256 ? "AES-256-CBC"
                                              : "DES-EDE3-CBC";
    memcpy(key, tmk, tmk_len);
    if (type == TMK_DES2)
        memcpy(key + 16, tmk, 8);
    assert_non_null(EVP_Q_mac(NULL, "CMAC", NULL, cipher, NULL, key,
                              type == TMK_DES2 ? 24 : tmk_len, input, input_len, ret_mac, MAC_MAX,
                              &len));
    return len;
}

static void tdea_kcv(enum tmk_type type, const uint8_t *tmk, uint8_t ret_block[static MAC_MAX])
{
    static const uint8_t zeros[8];
    int len = 0;
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    const EVP_CIPHER *cipher = type == TMK_DES2 ? EVP_des_ede_ecb() : EVP_des_ede3_ecb();
    assert_int_equal(EVP_EncryptInit_ex2(context, cipher, tmk, NULL, NULL), 1);
    assert_int_equal(EVP_EncryptUpdate(context, ret_block, &len, zeros, sizeof(zeros)), 1);
    assert_int_equal(len, 8);
    EVP_CIPHER_CTX_free(context);
}

/* ANSI X9.24-1 annex A. */
static void assert_kcv(const struct tmk_info *info, const uint8_t *tmk, size_t tmk_len)
{
    static const uint8_t zeros[16];
    uint8_t value[MAC_MAX];
    if (tmk_type_is_aes(info->type))
        cmac(info->type, tmk, tmk_len, zeros, sizeof(zeros), value);
    else
        tdea_kcv(info->type, tmk, value);
    assert_int_equal(info->kcv_len, tmk_type_is_aes(info->type) ? 5 : 3);
    assert_memory_equal(info->kcv, value, info->kcv_len);
}

static void assert_confirm_mac(const struct offer *offer, const struct challenge_tbs *tbs,
                               const uint8_t h[static DIGEST_LEN], const uint8_t *tmk,
                               size_t tmk_len)
{
    uint8_t input[CONFIRM_INPUT_LEN] = "TMKD-CONFIRM\x01";
    uint8_t mac[MAC_MAX];
    memcpy(input + 13, h, DIGEST_LEN);
    memcpy(input + 13 + DIGEST_LEN, tbs->delivery_digest, DIGEST_LEN);
    assert_int_equal(offer->mac_len,
                     cmac(offer->tmk.type, tmk, tmk_len, input, sizeof(input), mac));
    assert_memory_equal(offer->mac, mac, offer->mac_len);
}

/* All that a terminal with this TKP_Pr checks of an offer (S305 to S311). */
static void assert_offer_opens(const struct place *place, const char *sn, EVP_PKEY *key,
                               const struct offer *offer)
{
    uint8_t h[DIGEST_LEN];
    uint8_t digest[DIGEST_LEN];
    uint8_t tmk[RSA_BLOCK_MAX];
    struct hello hello = make_hello(sn);
    struct terminal row = find(place, sn);
    struct message challenge = decode(offer->challenge, offer->challenge_len, MESSAGE_CHALLENGE);
    struct message delivery = decode(offer->delivery, offer->delivery_len, MESSAGE_DELIVERY);
    const struct challenge_tbs *tbs = &challenge.challenge.tbs;

    assert_string_equal(offer->reason, "");
    assert_int_equal(offer->row_version, row.row_version);
    assert_ok(transcript_hash(&hello, tbs, h));
    assert_c1_opens(&challenge.challenge, &hello, h);
    assert_c2_opens(key, offer, tbs, h);
    assert_ok(transcript_delivery_digest(&delivery.delivery, digest));
    assert_memory_equal(digest, tbs->delivery_digest, DIGEST_LEN);
    size_t len = decrypt(key, delivery.delivery.transport == OAEP_SHA1 ? EVP_sha1() : EVP_sha256(),
                         NULL, 0, delivery.delivery.ctmk, delivery.delivery.ctmk_len, tmk);
    assert_int_equal(len, tmk_type_key_len(row.tmk.type));
    assert_int_equal(delivery.delivery.tmk.version, row.tmk.version);
    assert_int_equal(delivery.delivery.tmk.kcv_len, row.tmk.kcv_len);
    assert_memory_equal(delivery.delivery.tmk.kcv, row.tmk.kcv, row.tmk.kcv_len);
    assert_kcv(&row.tmk, tmk, len);
    assert_confirm_mac(offer, tbs, h, tmk, len);
}

/* --- prepare --- */

/* Every type of TMK, each under another size of TKP. */
static void test_offer_opens(void **state)
{
    static const char *const types[] = {"des2", "aes128", "aes256", "des3"};
    struct place *place = *state;
    for (size_t i = 0; i < COUNT(types); i++) {
        char sn[16];
        snprintf(sn, sizeof(sn), "SN-%zu", i);
        import_one(place, sn, tkp[i], types[i]);
        struct offer offer = prepare(place, sn);
        assert_offer_opens(place, sn, tkp[i], &offer);
    }
}

/* Found at start, too, and not only after the import. */
static void test_offer_opens_after_a_restart(void **state)
{
    struct place *place = *state;
    import_one(place, "SN-1", tkp[0], "aes128");
    import_one(place, "SN-11", tkp[1], "aes256");
    reopen_vault(place);
    struct offer offer = prepare(place, "SN-1");
    assert_offer_opens(place, "SN-1", tkp[0], &offer);
    offer = prepare(place, "SN-11");
    assert_offer_opens(place, "SN-11", tkp[1], &offer);
}

/* Rnd2 is new in each handshake, and so is all that hangs on it. */
static void test_offers_differ(void **state)
{
    struct place *place = *state;
    import_one(place, "SN-1", tkp[0], "aes128");
    struct offer one = prepare(place, "SN-1");
    struct offer two = prepare(place, "SN-1");
    assert_memory_not_equal(one.c2, two.c2, one.c2_len);
    assert_memory_not_equal(one.mac, two.mac, one.mac_len);
    assert_memory_not_equal(one.delivery, two.delivery, one.delivery_len);
    struct message first = decode(one.challenge, one.challenge_len, MESSAGE_CHALLENGE);
    struct message second = decode(two.challenge, two.challenge_len, MESSAGE_CHALLENGE);
    assert_memory_not_equal(first.challenge.tbs.rnd2, second.challenge.tbs.rnd2, RND_LEN);
}

static void set_state(struct place *place, const char *sn, enum terminal_state what)
{
    struct terminal terminal = find(place, sn);
    terminal.state = what;
    terminal.row_version++;
    assert_ok(vault_seal(&place->vault, place->vault.session, &terminal));
    assert_ok(registry_begin(place->registry));
    assert_ok(registry_update(place->registry, &terminal));
    assert_ok(registry_commit(place->registry));
}

static void set_confirmed(struct place *place, const char *sn)
{
    assert_ok(registry_begin(place->registry));
    struct terminal terminal = find(place, sn);
    assert_ok(
        registry_delivered(place->registry, sn, terminal.row_version, &terminal.tmk, 1000, 0));
    assert_ok(registry_confirmed(place->registry, sn, &terminal.tmk, 1001));
    assert_ok(registry_commit(place->registry));
}

static void put_key_into_row(struct place *place, const char *sn, EVP_PKEY *key, int digest_too)
{
    unsigned char *der = NULL;
    uint8_t digest[DIGEST_LEN];
    char sql[4096];
    char hex[2 * SPKI_DER_MAX + 1];
    char digest_hex[2 * DIGEST_LEN + 1];
    int len = i2d_PUBKEY(key, &der);
    SHA256(der, (size_t)len, digest);
    hex_encode(der, (size_t)len, hex);
    hex_encode(digest, sizeof(digest), digest_hex);
    snprintf(sql, sizeof(sql), "UPDATE terminal SET spki = x'%s' WHERE sn = '%s'", hex, sn);
    edit(place, sql);
    snprintf(sql, sizeof(sql), "UPDATE terminal SET spki_sha256 = x'%s' WHERE sn = '%s'",
             digest_hex, sn);
    if (digest_too)
        edit(place, sql);
    OPENSSL_free(der);
}

/* Terminals of one size of TKP, so that nothing but the reason differs. */
static void make_refused(struct place *place)
{
    import_one(place, "GOOD", tkp[0], "aes128");
    import_one(place, "DISABLED", tkp[2], "aes128");
    set_state(place, "DISABLED", TERMINAL_DISABLED);
    import_one(place, "EDITED", spare[0], "aes128");
    put_key_into_row(place, "EDITED", spare[1], 1);
    import_one(place, "DAMAGED", spare[2], "aes128");
    put_key_into_row(place, "DAMAGED", spare[1], 0);
    import_one(place, "NO-TMK", spare[3], "none");
    import_one(place, "CONFIRMED", spare[4], "aes128");
    set_confirmed(place, "CONFIRMED");
}

static const struct {
    const char *sn;
    const char *reason;
} refused[] = {
    {"UNKNOWN", "the SN is unknown"},
    {"DISABLED", "the terminal is disabled"},
    {"EDITED", "the seal does not fit the registry's row"},
    {"DAMAGED", "the seal does not fit the registry's row"},
    {"NO-TMK", "the terminal has no TMK"},
    {"CONFIRMED", "the TMK is confirmed already: reopen it, or rotate"},
};

static uint64_t calls_of(struct place *place, const char *sn, struct offer *ret_offer)
{
    uint64_t before = token_calls(place->vault.token);
    *ret_offer = prepare(place, sn);
    return token_calls(place->vault.token) - before;
}

/* The same work, the same sizes: what is refused later cannot be seen now (design 5, 10.4). */
static void test_decoy_does_the_same_work(void **state)
{
    struct place *place = *state;
    struct offer good;
    make_refused(place);
    reopen_vault(place);
    prepare(place, "GOOD"); /* the session's block of random bytes is fetched here */
    uint64_t calls = calls_of(place, "GOOD", &good);
    assert_true(calls > 8);
    assert_offer_opens(place, "GOOD", tkp[0], &good);
    for (size_t i = 0; i < COUNT(refused); i++) {
        struct offer offer;
        uint64_t same = calls_of(place, refused[i].sn, &offer);
        if (same != calls)
            fail_msg("%s: %llu calls, not %llu", refused[i].sn, (unsigned long long)same,
                     (unsigned long long)calls);
        assert_string_equal(offer.reason, refused[i].reason);
        assert_int_equal(offer.challenge_len, good.challenge_len);
        assert_int_equal(offer.delivery_len, good.delivery_len);
        assert_int_equal(offer.c2_len, good.c2_len);
        assert_int_equal(offer.mac_len, good.mac_len);
    }
}

static int opens_with(EVP_PKEY *key, const struct offer *offer)
{
    uint8_t out[RSA_BLOCK_MAX];
    size_t len = sizeof(out);
    struct message delivery = decode(offer->delivery, offer->delivery_len, MESSAGE_DELIVERY);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(key, NULL);
    assert_int_equal(EVP_PKEY_decrypt_init(context), 1);
    assert_int_equal(EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_OAEP_PADDING), 1);
    int opens = EVP_PKEY_decrypt(context, out, &len, delivery.delivery.ctmk,
                                 delivery.delivery.ctmk_len) == 1;
    EVP_PKEY_CTX_free(context);
    return opens;
}

/* Even what is kept back is nobody's: Ctmk of a refused one is under the decoy's key. */
static void test_decoy_holds_nothing_of_the_terminal(void **state)
{
    struct place *place = *state;
    import_one(place, "SN-1", tkp[0], "aes128");
    struct offer good = prepare(place, "SN-1");
    assert_true(opens_with(tkp[0], &good));
    set_state(place, "SN-1", TERMINAL_DISABLED);
    struct offer offer = prepare(place, "SN-1");
    assert_string_equal(offer.reason, "the terminal is disabled");
    assert_false(opens_with(tkp[0], &offer));
    set_state(place, "SN-1", TERMINAL_ENABLED);
    good = prepare(place, "SN-1");
    assert_offer_opens(place, "SN-1", tkp[0], &good);
}

/* Not `internal`, which would show a stranger that the SN exists (design 10.4). */
static void test_token_tmk_that_is_gone(void **state)
{
    struct place *place = *state;
    token_handle tmk = 0;
    import_one(place, "SN-1", tkp[0], "aes128");
    assert_int_equal(vault_find_tmk(&place->vault, "SN-1", 1, &tmk), 0);
    assert_int_equal(token_destroy(place->vault.session, tmk), 0);
    reopen_vault(place);
    struct offer offer = prepare(place, "SN-1");
    assert_string_equal(offer.reason, "the token has no TMK of this SN and version");
    assert_false(opens_with(tkp[0], &offer));
}

static void test_edits_of_the_registry(void **state)
{
    static const char *const edits[] = {
        "UPDATE terminal SET state = 1 WHERE sn = 'SN-1'", /* it was disabled */
        "UPDATE terminal SET state = 1, row_version = 1 WHERE sn = 'SN-1'",
        "UPDATE terminal SET batch = 'B2', state = 1 WHERE sn = 'SN-1'",
        ("UPDATE terminal SET seal = (SELECT seal FROM terminal WHERE sn = 'SN-2')"
         " WHERE sn = 'SN-1'"),
        "UPDATE tmk SET kcv = x'0102030405' WHERE sn = 'SN-1'",
        "UPDATE tmk SET version = 2 WHERE sn = 'SN-1'",
        "DELETE FROM tmk WHERE sn = 'SN-1'",
    };
    struct place *place = *state;
    import_one(place, "SN-1", tkp[0], "aes128");
    import_one(place, "SN-2", tkp[1], "aes128");
    set_state(place, "SN-1", TERMINAL_DISABLED);
    for (size_t i = 0; i < COUNT(edits); i++) {
        edit(place, edits[i]);
        struct offer offer = prepare(place, "SN-1");
        assert_string_equal(offer.reason, "the seal does not fit the registry's row");
    }
    struct offer offer = prepare(place, "SN-2");
    assert_string_equal(offer.reason, "");
}

/* Two rows' TKP_Pu swapped: each terminal would get the other's TMK. */
static void test_swapped_rows(void **state)
{
    struct place *place = *state;
    import_one(place, "SN-1", tkp[0], "aes128");
    import_one(place, "SN-2", tkp[2], "aes128");
    edit(place, "UPDATE terminal SET sn = 'SN-3' WHERE sn = 'SN-1';"
                "UPDATE terminal SET sn = 'SN-1' WHERE sn = 'SN-2';"
                "UPDATE terminal SET sn = 'SN-2' WHERE sn = 'SN-3'");
    assert_string_equal(prepare(place, "SN-1").reason, refused[2].reason);
    assert_string_equal(prepare(place, "SN-2").reason, refused[2].reason);
}

static void test_redelivery(void **state)
{
    struct place *place = *state;
    import_one(place, "SN-1", tkp[0], "aes128");
    set_confirmed(place, "SN-1");
    assert_string_equal(prepare(place, "SN-1").reason, refused[5].reason);
    place->vault.redeliver_always = 1;
    struct offer offer = prepare(place, "SN-1");
    assert_offer_opens(place, "SN-1", tkp[0], &offer);
    place->vault.redeliver_always = 0;
    assert_ok(registry_begin(place->registry));
    assert_ok(registry_reopen(place->registry, "SN-1"));
    assert_ok(registry_commit(place->registry));
    assert_string_equal(prepare(place, "SN-1").reason, "");
}

static int count_object(struct place *place)
{
    CK_OBJECT_HANDLE found[64];
    CK_ULONG count = 0;
    struct token *token = place->vault.token;
    CK_SESSION_HANDLE handle = place->vault.session->handle;
    assert_int_equal(TOKEN_CALL(token, C_FindObjectsInit, handle, NULL, 0), 0);
    assert_int_equal(TOKEN_CALL(token, C_FindObjects, handle, found, 64, &count), 0);
    assert_int_equal(TOKEN_CALL(token, C_FindObjectsFinal, handle), 0);
    return (int)count;
}

/* --- the life of a TMK --- */

static void rotate(struct place *place, const char *sn, const char *type)
{
    struct station station = station_of(place);
    struct issuance issuance = {0};
    assert_ok(lifecycle_prepare_rotation(&station, sn, type, &issuance));
    assert_ok(registry_begin(place->registry));
    assert_ok(lifecycle_rotate(&station, &issuance));
    assert_ok(registry_commit(place->registry));
}

static void test_rotation_keeps_the_old_until_confirmed(void **state)
{
    struct place *place = *state;
    struct station station = station_of(place);
    struct retired retired = {0};
    int in_token = !place->conf.tmk.wrapped;
    import_one(place, "SN-1", tkp[0], "aes128");
    set_confirmed(place, "SN-1");
    struct terminal first = find(place, "SN-1");
    int before = count_object(place);

    rotate(place, "SN-1", "");
    struct terminal second = find(place, "SN-1");
    assert_int_equal(second.tmk.version, 2);
    assert_int_equal(second.tmk.type, TMK_AES128);
    assert_int_equal(second.status, DELIVERY_READY);
    assert_int_equal(second.row_version, first.row_version + 1);
    assert_memory_not_equal(second.tmk.kcv, first.tmk.kcv, second.tmk.kcv_len);
    assert_int_equal(count_object(place), before + in_token);
    struct offer offer = prepare(place, "SN-1");
    assert_offer_opens(place, "SN-1", tkp[0], &offer);

    assert_ok(registry_begin(place->registry));
    assert_ok(retired_collect(&station, "SN-1", 2, &retired));
    assert_ok(registry_commit(place->registry));
    assert_int_equal(retired.count, in_token);
    assert_ok(retired_destroy(&retired, &station));
    assert_int_equal(count_object(place), before);
    offer = prepare(place, "SN-1"); /* the new one was left alone */
    assert_offer_opens(place, "SN-1", tkp[0], &offer);
}

static void test_rotation_to_another_type(void **state)
{
    struct place *place = *state;
    struct station station = station_of(place);
    struct issuance issuance = {0};
    import_one(place, "SN-1", tkp[0], "none");
    assert_int_equal(lifecycle_prepare_rotation(&station, "SN-1", "", &issuance), FAIL_REFUSED);
    rotate(place, "SN-1", "des3");
    assert_int_equal(find(place, "SN-1").tmk.version, 1);
    rotate(place, "SN-1", "aes256");
    assert_int_equal(find(place, "SN-1").tmk.type, TMK_AES256);
    assert_int_equal(lifecycle_prepare_rotation(&station, "SN-1", "rot13", &issuance),
                     FAIL_NOT_FOUND);
    assert_int_equal(lifecycle_prepare_rotation(&station, "NOBODY", "", &issuance), FAIL_NOT_FOUND);
    struct offer offer = prepare(place, "SN-1");
    assert_offer_opens(place, "SN-1", tkp[0], &offer);
}

static void test_rotation_that_is_not_written(void **state)
{
    struct place *place = *state;
    struct station station = station_of(place);
    struct issuance issuance = {0};
    import_one(place, "SN-1", tkp[0], "aes128");
    int before = count_object(place);
    assert_ok(lifecycle_prepare_rotation(&station, "SN-1", "", &issuance));
    assert_ok(registry_begin(place->registry));
    assert_ok(lifecycle_rotate(&station, &issuance));
    registry_rollback(place->registry);
    issuance_drop(&issuance, &station);
    assert_int_equal(count_object(place), before);
    struct offer offer = prepare(place, "SN-1");
    assert_offer_opens(place, "SN-1", tkp[0], &offer);
}

/* Somebody changed the terminal between the making of its TMK and the writing. */
static void test_rotation_that_comes_late(void **state)
{
    struct place *place = *state;
    struct station station = station_of(place);
    struct issuance issuance = {0};
    import_one(place, "SN-1", tkp[0], "aes128");
    assert_ok(lifecycle_prepare_rotation(&station, "SN-1", "", &issuance));
    set_state(place, "SN-1", TERMINAL_DISABLED);
    assert_ok(registry_begin(place->registry));
    assert_ok(registry_part_begin(place->registry));
    assert_int_equal(lifecycle_rotate(&station, &issuance), FAIL_BUSY);
    registry_part_undo(place->registry);
    assert_ok(registry_commit(place->registry));
    issuance_drop(&issuance, &station);
    assert_int_equal(find(place, "SN-1").tmk.version, 1);
}

static void test_rotations_without_end(void **state)
{
    struct place *place = *state;
    struct station station = station_of(place);
    struct issuance issuance = {0};
    import_one(place, "SN-1", tkp[0], "aes128");
    for (int i = 1; i < RETIRED_MAX; i++)
        rotate(place, "SN-1", "");
    assert_ok(lifecycle_prepare_rotation(&station, "SN-1", "", &issuance));
    assert_ok(registry_begin(place->registry));
    assert_int_equal(lifecycle_rotate(&station, &issuance), FAIL_REFUSED);
    registry_rollback(place->registry);
    issuance_drop(&issuance, &station);
}

static void test_rotation_does_not_seal_an_edited_row(void **state)
{
    struct place *place = *state;
    struct station station = station_of(place);
    struct issuance issuance = {0};
    import_one(place, "SN-1", tkp[0], "aes128");
    edit(place, "UPDATE terminal SET batch = 'X' WHERE sn = 'SN-1'");
    assert_int_equal(lifecycle_prepare_rotation(&station, "SN-1", "", &issuance), FAIL_SEAL);
}

static void test_removal_destroys_every_version(void **state)
{
    struct place *place = *state;
    struct station station = station_of(place);
    struct retired retired = {0};
    struct terminal gone;
    int before = count_object(place);
    import_one(place, "SN-1", tkp[0], "aes128");
    set_confirmed(place, "SN-1");
    rotate(place, "SN-1", "");
    assert_ok(registry_begin(place->registry));
    assert_ok(lifecycle_remove(&station, "SN-1", &retired));
    assert_ok(registry_commit(place->registry));
    assert_ok(retired_destroy(&retired, &station));
    assert_int_equal(count_object(place), before);
    assert_int_equal(registry_find(place->registry, "SN-1", &gone), FAIL_NOT_FOUND);
    assert_ok(registry_begin(place->registry));
    assert_int_equal(lifecycle_remove(&station, "SN-1", &retired), FAIL_NOT_FOUND);
    registry_rollback(place->registry);
    import_one(place, "SN-2", tkp[0], "aes128"); /* its TKP_Pu is free again */
}

static void test_prepare_leaves_no_objects(void **state)
{
    struct place *place = *state;
    import_one(place, "SN-1", tkp[0], "aes128");
    int before = count_object(place);
    prepare(place, "SN-1");
    prepare(place, "UNKNOWN");
    assert_int_equal(count_object(place), before);
}

/* --- crew --- */

/* What jobs share; the loop's thread reads the counts, a job its own members. */
struct desk {
    struct crew *crew;
    pthread_t loop;
    sem_t begun; /* posted by a job that waits */
    sem_t go;    /* what it waits for */
    size_t done;
    size_t failed;
};

struct errand {
    struct job job;
    struct desk *desk;
    size_t number;
    int wrong_rc; /* what it fails with once its work is done; 0: nothing */
    int runs;
    int in_loop; /* 1: work ran in the loop's thread, which must not be */
    int came_back;
    int always_lost;
};

static void errand_done(struct job *job)
{
    struct errand *errand = (struct errand *)job;
    assert_true(pthread_equal(pthread_self(), errand->desk->loop));
    errand->came_back++;
    errand->desk->done++;
    errand->desk->failed += job->rc < 0;
}

static int work_nothing(struct job *job, struct station *station)
{
    struct errand *errand = (struct errand *)job;
    (void)station;
    errand->in_loop = pthread_equal(pthread_self(), errand->desk->loop) != 0;
    errand->runs++;
    return errand->wrong_rc ? (fail)(errand->wrong_rc, "errand %zu went wrong", errand->number) : 0;
}

static int work_wait(struct job *job, struct station *station)
{
    struct errand *errand = (struct errand *)job;
    (void)station;
    sem_post(&errand->desk->begun);
    sem_wait(&errand->desk->go);
    return 0;
}

static struct errand make_errand(struct desk *desk, size_t number,
                                 int (*work)(struct job *, struct station *))
{
    return (struct errand){
        .job = {.work = work, .done = errand_done}, .desk = desk, .number = number};
}

static void desk_open(struct desk *desk, struct place *place)
{
    memset(desk, 0, sizeof(*desk));
    desk->loop = pthread_self();
    sem_init(&desk->begun, 0, 0);
    sem_init(&desk->go, 0, 0);
    assert_ok(crew_start(&place->conf, &place->vault, &desk->crew));
}

static void desk_close(struct desk *desk)
{
    crew_stop(desk->crew);
    sem_destroy(&desk->begun);
    sem_destroy(&desk->go);
}

static void wait_done(struct desk *desk, size_t count)
{
    struct pollfd wake = {.fd = crew_fd(desk->crew), .events = POLLIN};
    while (desk->done < count) {
        if (poll(&wake, 1, WAIT_MS) != 1)
            fail_msg("%zu of %zu jobs came back", desk->done, count);
        crew_collect(desk->crew);
    }
}

static void test_jobs_come_back(void **state)
{
    enum { JOBS = 200 };
    struct desk desk;
    struct errand errands[JOBS];
    desk_open(&desk, *state);
    for (size_t i = 0; i < JOBS; i++) {
        errands[i] = make_errand(&desk, i, work_nothing);
        while (crew_submit(desk.crew, &errands[i].job) == FAIL_BUSY)
            wait_done(&desk, desk.done + 1);
    }
    wait_done(&desk, JOBS);
    for (size_t i = 0; i < JOBS; i++) {
        assert_int_equal(errands[i].runs, 1);
        assert_int_equal(errands[i].came_back, 1);
        assert_int_equal(errands[i].in_loop, 0);
        assert_int_equal(errands[i].job.rc, 0);
    }
    assert_int_equal(crew_pending(desk.crew), 0);
    desk_close(&desk);
}

/* Each error with the sentence of its own thread and job. */
static void test_errors_keep_their_sentence(void **state)
{
    struct desk desk;
    struct errand errands[QUEUE];
    char expected[64];
    desk_open(&desk, *state);
    for (size_t i = 0; i < QUEUE; i++) {
        errands[i] = make_errand(&desk, i, work_nothing);
        errands[i].wrong_rc = i % 2 ? FAIL_REFUSED : FAIL_NOT_FOUND;
        assert_ok(i < QUEUE / 2 ? crew_submit(desk.crew, &errands[i].job)
                                : crew_write(desk.crew, &errands[i].job));
    }
    wait_done(&desk, QUEUE);
    for (size_t i = 0; i < QUEUE; i++) {
        snprintf(expected, sizeof(expected), "errand %zu went wrong", i);
        assert_int_equal(errands[i].job.rc, i % 2 ? FAIL_REFUSED : FAIL_NOT_FOUND);
        assert_string_equal(errands[i].job.sentence, expected);
    }
    desk_close(&desk);
}

typedef int submit(struct crew *crew, struct job *job);

static void assert_limit(struct desk *desk, submit *give, size_t threads)
{
    struct errand waiting[2];
    struct errand errands[QUEUE];
    struct errand late = make_errand(desk, 99, work_nothing);
    for (size_t i = 0; i < threads; i++) {
        waiting[i] = make_errand(desk, i, work_wait);
        assert_ok(give(desk->crew, &waiting[i].job));
        sem_wait(&desk->begun);
    }
    for (size_t i = 0; i < QUEUE; i++) {
        errands[i] = make_errand(desk, i, work_nothing);
        assert_ok(give(desk->crew, &errands[i].job));
    }
    assert_int_equal(give(desk->crew, &late.job), FAIL_BUSY);
    assert_int_equal(crew_pending(desk->crew), QUEUE + threads);
    for (size_t i = 0; i < threads; i++)
        sem_post(&desk->go);
    wait_done(desk, QUEUE + threads);
    assert_int_equal(late.runs + late.came_back, 0); /* it stayed ours */
    assert_ok(give(desk->crew, &late.job));
    wait_done(desk, QUEUE + threads + 1);
    desk->done = 0;
}

static void test_queue_limit(void **state)
{
    struct desk desk;
    desk_open(&desk, *state);
    assert_limit(&desk, crew_submit, 2);
    assert_limit(&desk, crew_write, 1);
    desk_close(&desk);
}

/* --- group commit --- */

struct terminal_errand {
    struct errand errand;
    struct terminal terminal;
};

static int work_add(struct job *job, struct station *station)
{
    struct terminal_errand *errand = (struct terminal_errand *)job;
    struct audit_record record = {.at = 1, .event = "added"};
    memcpy(record.sn, errand->terminal.sn, sizeof(record.sn));
    int rc = registry_add(station->registry, &errand->terminal);
    if (rc == 0)
        rc = audit_append(station->registry, &record);
    return rc == 0 && errand->errand.wrong_rc ? (fail)(errand->errand.wrong_rc, "in vain") : rc;
}

/* Which TKP_Pu it is does not matter here, but that no two are the same. */
static struct terminal_errand make_terminal(struct desk *desk, size_t number)
{
    struct terminal_errand errand = {.errand = make_errand(desk, number, work_add)};
    struct terminal *terminal = &errand.terminal;
    snprintf(terminal->sn, sizeof(terminal->sn), "SN-%zu", number);
    terminal->state = TERMINAL_ENABLED;
    terminal->row_version = 1;
    terminal->spki_len = 8;
    memcpy(terminal->spki, &number, sizeof(number));
    SHA256(terminal->spki, terminal->spki_len, terminal->spki_sha256);
    return errand;
}

struct counting_sealer {
    struct audit_key key;
    size_t seals;
};

static int count_seal(void *context, const uint8_t hash[static AUDIT_HASH_LEN],
                      uint8_t ret_seal[static SEAL_LEN])
{
    struct counting_sealer *sealer = context;
    sealer->seals++;
    return audit_key_seal(&sealer->key, hash, ret_seal);
}

/* audit_verify() asks for one seal a commit. */
static size_t count_commits(struct place *place, int64_t records)
{
    struct counting_sealer sealer = {.key = {place->vault.session, place->vault.keyring.audit}};
    int64_t found;
    assert_ok(audit_verify(place->registry, count_seal, &sealer, &found));
    assert_int_equal(found, records);
    return sealer.seals;
}

/* What waits while the writer is at work goes into one commit; a job that fails undoes only what
 * it did itself. */
static void test_group_commit(void **state)
{
    struct place *place = *state;
    struct desk desk;
    struct terminal_errand errands[QUEUE];
    struct terminal terminal;
    desk_open(&desk, place);
    struct errand waiting = make_errand(&desk, 0, work_wait);
    assert_ok(crew_write(desk.crew, &waiting.job));
    sem_wait(&desk.begun);
    for (size_t i = 0; i < QUEUE; i++) {
        errands[i] = make_terminal(&desk, i);
        errands[i].errand.wrong_rc = i == 2 ? FAIL_REFUSED : 0;
        assert_ok(crew_write(desk.crew, &errands[i].errand.job));
    }
    sem_post(&desk.go);
    wait_done(&desk, QUEUE + 1);
    for (size_t i = 0; i < QUEUE; i++) {
        assert_int_equal(errands[i].errand.job.rc, i == 2 ? FAIL_REFUSED : 0);
        assert_int_equal(registry_find(place->registry, errands[i].terminal.sn, &terminal),
                         i == 2 ? FAIL_NOT_FOUND : 0);
    }
    assert_string_equal(errands[2].errand.job.sentence, "in vain");
    assert_int_equal(count_commits(place, QUEUE - 1), 1);
    desk_close(&desk);
}

/* No job is told that it is done when the commit of all fails: here the transaction is gone. */
static int work_end_transaction(struct job *job, struct station *station)
{
    (void)job;
    registry_rollback(station->registry);
    return 0;
}

static void test_failed_commit_fails_all(void **state)
{
    struct place *place = *state;
    struct desk desk;
    struct terminal terminal;
    desk_open(&desk, place);
    struct errand waiting = make_errand(&desk, 0, work_wait);
    assert_ok(crew_write(desk.crew, &waiting.job));
    sem_wait(&desk.begun);
    struct terminal_errand one = make_terminal(&desk, 1);
    struct errand breaking = make_errand(&desk, 2, work_end_transaction);
    struct terminal_errand three = make_terminal(&desk, 3);
    assert_ok(crew_write(desk.crew, &one.errand.job));
    assert_ok(crew_write(desk.crew, &breaking.job));
    assert_ok(crew_write(desk.crew, &three.errand.job));
    sem_post(&desk.go);
    wait_done(&desk, 4);
    assert_true(one.errand.job.rc < 0 && breaking.job.rc < 0 && three.errand.job.rc < 0);
    assert_int_equal(registry_find(place->registry, "SN-1", &terminal), FAIL_NOT_FOUND);
    assert_int_equal(registry_find(place->registry, "SN-3", &terminal), FAIL_NOT_FOUND);
    struct terminal_errand after = make_terminal(&desk, 4);
    assert_ok(crew_write(desk.crew, &after.errand.job));
    wait_done(&desk, 5);
    assert_int_equal(after.errand.job.rc, 0);
    assert_int_equal(count_commits(place, 1), 1);
    desk_close(&desk);
}

/* Another process holds the registry's lock: busy, and nothing else. */
static void test_writer_waits_for_the_lock(void **state)
{
    struct place *place = *state;
    struct desk desk;
    desk_open(&desk, place);
    assert_ok(registry_begin(place->registry));
    struct terminal_errand errand = make_terminal(&desk, 1);
    assert_ok(crew_write(desk.crew, &errand.errand.job));
    wait_done(&desk, 1);
    assert_int_equal(errand.errand.job.rc, FAIL_BUSY);
    registry_rollback(place->registry);
    errand.errand.job.rc = 1;
    assert_ok(crew_write(desk.crew, &errand.errand.job));
    wait_done(&desk, 2);
    assert_int_equal(errand.errand.job.rc, 0);
    desk_close(&desk);
}

/* A worker looks up only. */
static void test_worker_cannot_write(void **state)
{
    struct desk desk;
    desk_open(&desk, *state);
    struct terminal_errand errand = make_terminal(&desk, 1);
    assert_ok(crew_submit(desk.crew, &errand.errand.job));
    wait_done(&desk, 1);
    assert_int_equal(errand.errand.job.rc, FAIL_REGISTRY);
    desk_close(&desk);
}

/* --- the end of a crew --- */

static int work_slowly(struct job *job, struct station *station)
{
    struct errand *errand = (struct errand *)job;
    const struct timespec pause = {.tv_nsec = 200 * 1000 * 1000};
    (void)station;
    errand->runs++;
    sem_post(&errand->desk->begun);
    nanosleep(&pause, NULL); /* crew_stop() has closed the queues before this ends */
    return 0;
}

static void test_stop_returns_all(void **state)
{
    struct desk desk;
    struct errand slow[3];
    struct errand errands[2 * QUEUE];
    desk_open(&desk, *state);
    for (size_t i = 0; i < COUNT(slow); i++) {
        slow[i] = make_errand(&desk, i, work_slowly);
        assert_ok(i < 2 ? crew_submit(desk.crew, &slow[i].job)
                        : crew_write(desk.crew, &slow[i].job));
        sem_wait(&desk.begun);
    }
    for (size_t i = 0; i < COUNT(errands); i++) {
        errands[i] = make_errand(&desk, i, work_nothing);
        assert_ok(i < QUEUE ? crew_submit(desk.crew, &errands[i].job)
                            : crew_write(desk.crew, &errands[i].job));
    }
    desk_close(&desk);
    assert_int_equal(desk.done, COUNT(slow) + COUNT(errands));
    for (size_t i = 0; i < COUNT(slow); i++) {
        assert_int_equal(slow[i].came_back, 1);
        assert_int_equal(slow[i].job.rc, 0);
    }
    for (size_t i = 0; i < COUNT(errands); i++) {
        assert_int_equal(errands[i].came_back, 1);
        assert_int_equal(errands[i].runs, 0);
        assert_int_equal(errands[i].job.rc, FAIL_BUSY);
    }
}

static void test_stop_without_jobs(void **state)
{
    struct desk desk;
    desk_open(&desk, *state);
    desk_close(&desk);
    crew_stop(NULL);
}

static void test_crew_needs_a_registry(void **state)
{
    struct place *place = *state;
    struct crew *crew = NULL;
    char elsewhere[128];
    snprintf(elsewhere, sizeof(elsewhere), "%s/none.db", place->dir);
    place->conf.registry = elsewhere;
    assert_int_equal(crew_start(&place->conf, &place->vault, &crew), FAIL_CONFIG);
    assert_null(crew);
}

/* --- a session that is lost --- */

/* The first run loses the session, as a token that was unplugged does. */
static int work_lose_session(struct job *job, struct station *station)
{
    struct errand *errand = (struct errand *)job;
    uint8_t mac[SEAL_LEN];
    if (errand->runs++ == 0 || errand->always_lost)
        TOKEN_CALL(station->vault->token, C_CloseSession, station->session->handle);
    struct audit_key key = {station->session, station->vault->keyring.audit};
    return audit_key_seal(&key, mac, mac);
}

static int work_seal(struct job *job, struct station *station)
{
    uint8_t mac[SEAL_LEN] = {0};
    struct audit_key key = {station->session, station->vault->keyring.audit};
    (void)job;
    return audit_key_seal(&key, mac, mac);
}

/* Leaves a lost session to the job after it. */
static int work_close_session(struct job *job, struct station *station)
{
    (void)job;
    TOKEN_CALL(station->vault->token, C_CloseSession, station->session->handle);
    return 0;
}

static void test_lost_session_is_opened_again(void **state)
{
    struct place *place = *state;
    struct desk desk;
    desk_open(&desk, place);
    struct errand errand = make_errand(&desk, 1, work_lose_session);
    assert_ok(crew_submit(desk.crew, &errand.job));
    wait_done(&desk, 1);
    assert_int_equal(errand.job.rc, 0);
    assert_int_equal(errand.runs, 2);
    desk_close(&desk);
}

/* The writer's job fails, its seal is made with a new session, and the others stand. */
static void test_writer_opens_its_session_again(void **state)
{
    struct place *place = *state;
    struct desk desk;
    desk_open(&desk, place);
    struct errand waiting = make_errand(&desk, 0, work_wait);
    struct errand losing = make_errand(&desk, 1, work_lose_session);
    struct terminal_errand adding = make_terminal(&desk, 2);
    assert_ok(crew_write(desk.crew, &waiting.job));
    sem_wait(&desk.begun);
    assert_ok(crew_write(desk.crew, &losing.job));
    assert_ok(crew_write(desk.crew, &adding.errand.job));
    sem_post(&desk.go);
    wait_done(&desk, 3);
    assert_int_equal(losing.job.rc, FAIL_TOKEN_LOST);
    assert_int_equal(adding.errand.job.rc, 0);
    assert_int_equal(count_commits(place, 1), 1);
    desk_close(&desk);
}

/* An operator's change needs the token before there is any record to seal. */
static void test_writer_opens_its_session_again_without_a_record(void **state)
{
    struct place *place = *state;
    struct desk desk;
    desk_open(&desk, place);
    struct errand closing = make_errand(&desk, 0, work_close_session);
    struct errand losing = make_errand(&desk, 1, work_seal);
    struct errand sealing = make_errand(&desk, 2, work_seal);
    struct errand *const errands[] = {&closing, &losing, &sealing};
    for (size_t i = 0; i < 3; i++) {
        assert_ok(crew_write(desk.crew, &errands[i]->job));
        wait_done(&desk, i + 1);
    }
    assert_int_equal(losing.job.rc, FAIL_TOKEN_LOST);
    assert_int_equal(sealing.job.rc, 0);
    desk_close(&desk);
}

static void lose_for_ever(struct place *place)
{
    struct desk desk;
    int silent = open("/dev/null", O_WRONLY);
    dup2(silent, STDERR_FILENO);
    assert_ok(vault_open(&place->conf, &place->vault));
    desk_open(&desk, place);
    struct errand errand = make_errand(&desk, 1, work_lose_session);
    errand.always_lost = 1;
    assert_ok(crew_submit(desk.crew, &errand.job));
    wait_done(&desk, 1);
}

/* Crash-only: what a new session does not cure ends the keeper, with 3. */
static void test_token_that_stays_lost_ends_the_keeper(void **state)
{
    int status;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        lose_for_ever(*state);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 3);
}

/* --- records --- */

static const struct source v4 = {.family = 4, .address = {192, 0, 2, 7}, .port = 5021};

static struct record make_record(enum record_kind kind)
{
    struct record record = {.kind = kind, .source = v4, .row_version = 1, .tmk.version = 1};
    strcpy(record.sn, "SN-1");
    return record;
}

/* Of the TMK that there is now. */
static struct record make_record_of(struct place *place, enum record_kind kind)
{
    struct record record = make_record(kind);
    record.tmk = find(place, "SN-1").tmk;
    return record;
}

/* Writes one record in a transaction of its own; nothing stays when it fails. */
static int write_record(struct place *place, const struct record *record, int again,
                        int *ret_refused)
{
    *ret_refused = -1;
    assert_ok(registry_begin(place->registry));
    int rc = record_write(record, place->registry, 5000, again, ret_refused);
    if (rc < 0)
        registry_rollback(place->registry);
    else
        seal_and_commit(place);
    return rc;
}

static void assert_record(struct place *place, const struct record *record, int again,
                          int refused_expected, const char *event)
{
    int got_refused;
    assert_ok(write_record(place, record, again, &got_refused));
    assert_int_equal(got_refused, refused_expected);
    struct audit_record audit = last_record(place);
    assert_string_equal(audit.event, event);
    assert_string_equal(audit.sn, "SN-1");
    assert_string_equal(audit.actor, "192.0.2.7:5021");
    assert_int_equal(audit.at, 5000);
}

static void test_records_of_a_download(void **state)
{
    struct place *place = *state;
    import_one(place, "SN-1", tkp[0], "aes128");
    struct record delivered = make_record_of(place, RECORD_DELIVERED);
    struct record confirmed = make_record_of(place, RECORD_CONFIRMED);
    assert_record(place, &delivered, 0, 0, "delivered");
    assert_int_equal(find(place, "SN-1").status, DELIVERY_DELIVERED);
    assert_record(place, &delivered, 0, 0, "delivered");
    assert_int_equal(find(place, "SN-1").delivered_count, 2);
    assert_record(place, &confirmed, 0, 0, "confirmed");
    assert_int_equal(find(place, "SN-1").status, DELIVERY_CONFIRMED);
    /* Another one, whose challenge is older than the confirmation. */
    assert_record(place, &delivered, 0, 1, "refused");
    assert_int_equal(find(place, "SN-1").delivered_count, 2);
    assert_record(place, &delivered, 1, 0, "delivered");
    assert_int_equal(find(place, "SN-1").delivered_count, 3);
}

/* The terminal changed between challenge and proof (design 10.3). */
static void test_record_after_a_change(void **state)
{
    struct place *place = *state;
    import_one(place, "SN-1", tkp[0], "aes128");
    struct record delivered = make_record_of(place, RECORD_DELIVERED);
    set_state(place, "SN-1", TERMINAL_DISABLED);
    assert_record(place, &delivered, 0, 1, "refused");
    set_state(place, "SN-1", TERMINAL_ENABLED);
    assert_record(place, &delivered, 1, 1, "refused"); /* enabled, but another row version */
    delivered.row_version = 3;
    delivered.tmk.version = 2;
    assert_record(place, &delivered, 0, 1, "refused");
    delivered.tmk.version = 1;
    assert_record(place, &delivered, 0, 0, "delivered");
    assert_int_equal(find(place, "SN-1").delivered_count, 1);
}

static void test_record_of_a_refusal(void **state)
{
    struct place *place = *state;
    struct record record = make_record(RECORD_REFUSED);
    strcpy(record.reason, "C2' differs from C2");
    assert_record(place, &record, 0, 1, "refused");
    assert_string_equal(last_record(place).detail, "C2' differs from C2");
}

static void test_confirm_without_delivery(void **state)
{
    struct place *place = *state;
    int got_refused;
    import_one(place, "SN-1", tkp[0], "aes128");
    struct record confirmed = make_record_of(place, RECORD_CONFIRMED);
    assert_int_equal(write_record(place, &confirmed, 0, &got_refused), FAIL_NOT_FOUND);
    assert_int_equal(find(place, "SN-1").status, DELIVERY_READY);
}

static void test_sources(void **state)
{
    static const struct {
        struct source source;
        const char *text;
    } sources[] = {
        {{.family = 4, .address = {10, 0, 0, 7}, .port = 65535}, "10.0.0.7:65535"},
        {{.family = 6, .address = {0x20, 1, 0x0d, 0xb8, [15] = 1}, .port = 1}, "[2001:db8::1]:1"},
        {{.family = 0}, "unknown:0"},
    };
    struct place *place = *state;
    int got_refused;
    for (size_t i = 0; i < COUNT(sources); i++) {
        struct record record = make_record(RECORD_REFUSED);
        record.source = sources[i].source;
        assert_ok(write_record(place, &record, 0, &got_refused));
        assert_string_equal(last_record(place).actor, sources[i].text);
    }
}

/* --- import --- */

static void test_duplicates_inside_one_request(void **state)
{
    struct place *place = *state;
    json_t *rows =
        json_pack("[o, o, o, o, o]", make_row("SN-1", tkp[0]), make_row("SN-1", tkp[0]),
                  make_row("SN-1", tkp[1]), make_row("SN-2", tkp[0]), make_row("SN-3", tkp[2]));
    json_t *results = import_rows(place, "aes128", rows);
    assert_result(results, 0, "added");
    assert_result(results, 1, "present");
    assert_result(results, 2, "exists");
    assert_result(results, 3, "exists");
    assert_result(results, 4, "added");
    json_decref(results);
    assert_int_equal(count_tmks(place), 2);
    struct offer offer = prepare(place, "SN-1");
    assert_offer_opens(place, "SN-1", tkp[0], &offer);
    offer = prepare(place, "SN-3");
    assert_offer_opens(place, "SN-3", tkp[2], &offer);
    reopen_vault(place);
    offer = prepare(place, "SN-1");
    assert_offer_opens(place, "SN-1", tkp[0], &offer);
    assert_int_equal(count_commits(place, 2), 1);
}

static void test_import_again(void **state)
{
    struct place *place = *state;
    import_one(place, "SN-1", tkp[0], "aes128");
    json_t *results = import_rows(place, "aes128",
                                  json_pack("[o, o, o]", make_row("SN-1", tkp[0]),
                                            make_row("SN-1", tkp[1]), make_row("SN-2", tkp[0])));
    assert_result(results, 0, "present");
    assert_result(results, 1, "exists");
    assert_result(results, 2, "exists");
    json_decref(results);
    assert_int_equal(count_tmks(place), 1);
}

/* A row's fault is that row's alone. */
static void test_bad_rows_stand_alone(void **state)
{
    struct place *place = *state;
    EVP_PKEY *short_key = EVP_RSA_gen(1024);
    json_t *rows = json_pack("[o, o, {s:s, s:s}, {s:s}, i, o]", make_row("S N", tkp[0]),
                             make_row("SN-2", short_key), "sn", "SN-3", "public_key", "AAAA", "sn",
                             "SN-4", 7, make_row("SN-5", tkp[1]));
    assert_non_null(rows);
    json_t *results = import_rows(place, "aes128", rows);
    assert_int_equal(json_array_size(results), 6);
    assert_result(results, 0, "malformed");
    assert_result(results, 1, "refused");
    assert_result(results, 2, "malformed");
    assert_result(results, 3, "malformed");
    assert_result(results, 4, "malformed");
    assert_result(results, 5, "added");
    json_decref(results);
    EVP_PKEY_free(short_key);
    assert_int_equal(count_tmks(place), 1);
}

/* A row that was damaged in the registry does not keep the others out. */
static void test_damaged_row_stands_alone(void **state)
{
    struct place *place = *state;
    import_one(place, "SN-1", tkp[0], "aes128");
    edit(place, "UPDATE terminal SET spki = x'00' WHERE sn = 'SN-1'");
    json_t *rows = json_pack("[o, o]", make_row("SN-1", tkp[0]), make_row("SN-2", tkp[1]));
    json_t *results = import_rows(place, "aes128", rows);
    assert_result(results, 0, "seal");
    assert_result(results, 1, "added");
    json_decref(results);
}

static void test_undo_leaves_nothing(void **state)
{
    struct place *place = *state;
    struct station station = station_of(place);
    json_t *request = make_request(
        "aes128", json_pack("[o, o]", make_row("SN-1", tkp[0]), make_row("SN-2", tkp[1])));
    struct import *import = start_import(place, request);
    assert_int_equal(count_tmks(place), 2);
    assert_ok(import_undo(import, &station));
    assert_int_equal(count_tmks(place), 0);
    assert_ok(import_undo(import, &station)); /* nothing is left to undo */
    import_free(import);
    json_decref(request);
}

/* Written, but the commit failed: the objects go, and their names out of the index. */
static void test_undo_after_writing(void **state)
{
    struct place *place = *state;
    struct station station = station_of(place);
    token_handle tmk;
    json_t *request = make_request("aes128", json_pack("[o]", make_row("SN-1", tkp[0])));
    struct import *import = start_import(place, request);
    assert_ok(registry_begin(place->registry));
    assert_ok(import_write(import, &station));
    registry_rollback(place->registry);
    assert_ok(import_undo(import, &station));
    assert_int_equal(count_tmks(place), 0);
    assert_int_equal(vault_find_tmk(&place->vault, "SN-1", 1, &tmk), FAIL_NOT_FOUND);
    import_free(import);
    json_decref(request);
    import_one(place, "SN-1", tkp[0], "aes128");
    struct offer offer = prepare(place, "SN-1");
    assert_offer_opens(place, "SN-1", tkp[0], &offer);
}

/* A request that is given up must not take back the TMK of the one that came through. */
static void test_undo_leaves_the_tmk_of_another(void **state)
{
    struct place *place = *state;
    struct station station = station_of(place);
    json_t *request = make_request("aes128", json_pack("[o]", make_row("SN-1", tkp[0])));
    struct import *failed = start_import(place, request);
    assert_ok(registry_begin(place->registry));
    assert_ok(import_write(failed, &station));
    registry_rollback(place->registry);
    import_one(place, "SN-1", tkp[0], "aes128"); /* the operator tries again at once */
    assert_ok(import_undo(failed, &station));
    assert_int_equal(count_tmks(place), 1);
    struct offer offer = prepare(place, "SN-1");
    assert_offer_opens(place, "SN-1", tkp[0], &offer);
    import_free(failed);
    json_decref(request);
}

/* A worker's session was lost in the middle: prepared afresh, each TMK is there once. */
static void test_prepare_twice(void **state)
{
    struct place *place = *state;
    struct station station = station_of(place);
    json_t *request = make_request(
        "aes128", json_pack("[o, o]", make_row("SN-1", tkp[0]), make_row("SN-2", tkp[1])));
    struct import *import = start_import(place, request);
    assert_ok(import_prepare(import, &station));
    assert_int_equal(json_array_size(import_results(import)), 2);
    assert_int_equal(count_tmks(place), 2);
    write_import(place, import);
    import_free(import);
    json_decref(request);
    struct offer offer = prepare(place, "SN-2");
    assert_offer_opens(place, "SN-2", tkp[1], &offer);
}

static void test_dry_run(void **state)
{
    struct place *place = *state;
    struct terminal terminal;
    json_t *request = make_request(
        "aes128", json_pack("[o, o]", make_row("SN-1", tkp[0]), make_row("S N", tkp[1])));
    json_object_set_new(request, "dry_run", json_true());
    struct import *import = start_import(place, request);
    assert_result(import_results(import), 0, "added");
    assert_result(import_results(import), 1, "malformed");
    assert_int_equal(count_tmks(place), 0);
    assert_int_equal(registry_find(place->registry, "SN-1", &terminal), FAIL_NOT_FOUND);
    import_free(import);
    json_decref(request);
}

/* The keeper was killed after the TMKs were made and before their rows were: what is left in the
 * token must not be taken for the TMK that is made later (design 10.6). */
static void test_import_after_one_that_was_cut_off(void **state)
{
    struct place *place = *state;
    for (size_t i = 0; i < KEYS; i++) {
        char sn[16];
        token_handle orphan;
        struct tmk_info info = {.type = TMK_AES128, .version = 1};
        snprintf(sn, sizeof(sn), "SN-%zu", i);
        assert_ok(tmk_generate(place->vault.session, sn, &info, &orphan));
    }
    reopen_vault(place);
    for (size_t i = 0; i < KEYS; i++) {
        char sn[16];
        snprintf(sn, sizeof(sn), "SN-%zu", i);
        import_one(place, sn, tkp[i], "aes128");
    }
    reopen_vault(place);
    for (size_t i = 0; i < KEYS; i++) {
        char sn[16];
        snprintf(sn, sizeof(sn), "SN-%zu", i);
        struct offer offer = prepare(place, sn);
        assert_offer_opens(place, sn, tkp[i], &offer);
    }
    assert_int_equal(count_tmks(place), KEYS);
}

static void assert_no_import(json_t *request, int code)
{
    struct import *import = NULL;
    assert_int_equal(import_new(request, "uid 0 (test)", &import), code);
    assert_null(import);
    json_decref(request);
}

static void test_requests_that_are_none(void **state)
{
    char batch[BATCH_MAX + 2];
    json_t *rows = json_array();
    (void)state;
    for (size_t i = 0; i <= IMPORT_ROWS_MAX; i++)
        json_array_append_new(rows, json_object());
    assert_no_import(make_request("aes128", rows), FAIL_MALFORMED);
    assert_no_import(make_request("aes128", json_array()), FAIL_MALFORMED);
    assert_no_import(make_request("aes128", json_string("rows")), FAIL_MALFORMED);
    assert_no_import(make_request("aes512", json_pack("[{}]")), FAIL_NOT_FOUND);
    json_t *request = make_request("aes128", json_pack("[{}]"));
    memset(batch, 'b', sizeof(batch));
    json_object_set_new(request, "batch", json_stringn(batch, sizeof(batch) - 1));
    assert_no_import(request, FAIL_MALFORMED);
    request = make_request("aes128", json_pack("[{}]"));
    json_object_del(request, "tmk");
    assert_no_import(request, FAIL_MALFORMED);
}

/* --- an import as an operation of the crew --- */

struct waiting_answer {
    struct desk *desk;
    json_t *answer;
};

static void take_answer(void *context, json_t *answer)
{
    struct waiting_answer *waiting = context;
    waiting->answer = answer;
    waiting->desk->done++;
}

static json_t *operate(struct place *place, struct desk *desk, json_t *request)
{
    struct waiting_answer waiting = {desk, NULL};
    size_t before = desk->done;
    assert_ok(operation_start(desk->crew, &place->conf, request, "uid 0", take_answer, &waiting));
    wait_done(desk, before + 1);
    json_decref(request);
    return waiting.answer;
}

static void test_import_through_the_crew(void **state)
{
    struct place *place = *state;
    struct desk desk;
    desk_open(&desk, place);
    json_t *answer =
        operate(place, &desk, make_request("aes128", json_pack("[o]", make_row("SN-1", tkp[0]))));
    assert_result(json_object_get(answer, "ok"), 0, "added");
    json_decref(answer);
    struct offer offer = prepare(place, "SN-1");
    assert_offer_opens(place, "SN-1", tkp[0], &offer);
    desk_close(&desk);
}

/* The first of the two runs of the job is with the lost session. */
static void test_import_over_a_lost_session(void **state)
{
    struct place *place = *state;
    struct desk desk;
    place->conf.token.sessions = 1;
    desk_open(&desk, place);
    struct errand losing = make_errand(&desk, 1, work_close_session);
    assert_ok(crew_submit(desk.crew, &losing.job));
    wait_done(&desk, 1);
    json_t *answer =
        operate(place, &desk, make_request("aes128", json_pack("[o]", make_row("SN-1", tkp[0]))));
    assert_result(json_object_get(answer, "ok"), 0, "added");
    json_decref(answer);
    assert_int_equal(count_tmks(place), 1);
    desk_close(&desk);
}

/* --- kswcrt --- */

static void assert_kswcrt(const struct wish *wish, const char *fault)
{
    struct cert_chain chain = {0};
    chain_add(&chain, wish, tkp[0], authority);
    int rc = kswcrt_check(&chain, time(NULL));
    if (!fault) {
        assert_int_equal(rc, 0);
        return;
    }
    assert_int_equal(rc, FAIL_REFUSED);
    if (!strstr(fail_text(), fault))
        fail_msg("'%s' says nothing of '%s'", fail_text(), fault);
}

static void test_kswcrt_faults(void **state)
{
    static const char cmkga[] = "1.3.6.1.5.5.7.3.32";
    static const struct {
        struct wish wish;
        const char *fault;
    } cases[] = {
        {{-DAY, DAY, "critical,digitalSignature", cmkga}, NULL},
        {{-DAY, DAY, "digitalSignature,keyEncipherment", "clientAuth,1.3.6.1.5.5.7.3.32"}, NULL},
        {{DAY, 2 * DAY, "critical,digitalSignature", cmkga}, "valid only from"},
        {{-2 * DAY, -DAY, "critical,digitalSignature", cmkga}, "expired"},
        {{-DAY, DAY, NULL, cmkga}, "digitalSignature"},
        {{-DAY, DAY, "critical,keyEncipherment", cmkga}, "digitalSignature"},
        {{-DAY, DAY, "critical,digitalSignature", NULL}, "id-kp-cmKGA"},
        {{-DAY, DAY, "critical,digitalSignature", "serverAuth"}, "id-kp-cmKGA"},
        {{-DAY, DAY, "critical,digitalSignature", "1.3.6.1.5.5.7.3.3"}, "id-kp-cmKGA"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_kswcrt(&cases[i].wish, cases[i].fault);
}

/* The certificates above the leaf: signed one by the next, and in their time. */
static void test_kswcrt_chain(void **state)
{
    static const struct wish ca = {-DAY, DAY, "critical,keyCertSign", NULL};
    static const struct wish old_ca = {-2 * DAY, -DAY, "critical,keyCertSign", NULL};
    struct cert_chain chain = {0};
    (void)state;
    chain_add(&chain, &good_wish, tkp[0], tkp[1]);
    chain_add(&chain, &ca, tkp[1], authority);
    assert_ok(kswcrt_check(&chain, time(NULL)));

    chain = (struct cert_chain){0};
    chain_add(&chain, &good_wish, tkp[0], authority);
    chain_add(&chain, &ca, tkp[1], authority);
    assert_int_equal(kswcrt_check(&chain, time(NULL)), FAIL_REFUSED);
    assert_non_null(strstr(fail_text(), "certificate 1 is not signed by certificate 2"));

    chain = (struct cert_chain){0};
    chain_add(&chain, &good_wish, tkp[0], tkp[1]);
    chain_add(&chain, &old_ca, tkp[1], authority);
    assert_int_equal(kswcrt_check(&chain, time(NULL)), FAIL_REFUSED);
    assert_non_null(strstr(fail_text(), "certificate 2 expired"));

    chain = (struct cert_chain){0};
    assert_int_equal(kswcrt_check(&chain, time(NULL)), FAIL_NOT_FOUND);
    assert_ok(cert_chain_add(&chain, (const uint8_t *)"\x30\x03\x02\x01\x05", 5));
    assert_int_equal(kswcrt_check(&chain, time(NULL)), FAIL_MALFORMED);
}

static void test_kswcrt_time_is_the_callers(void **state)
{
    struct cert_chain chain = {0};
    (void)state;
    chain_add(&chain, &good_wish, tkp[0], authority);
    assert_ok(kswcrt_check(&chain, time(NULL) + DAY - 600));
    assert_int_equal(kswcrt_check(&chain, time(NULL) + DAY + 600), FAIL_REFUSED);
    assert_int_equal(kswcrt_check(&chain, time(NULL) - DAY - 600), FAIL_REFUSED);
}

static void test_kswcrt_pem(void **state)
{
    struct cert_chain chain = {0};
    struct cert_chain again = {0};
    char *pem = NULL;
    (void)state;
    chain_add(&chain, &good_wish, tkp[0], tkp[1]);
    chain_add(&chain, &good_wish, tkp[1], authority);
    assert_ok(kswcrt_to_pem(&chain, &pem));
    assert_ok(kswcrt_from_pem(pem, &again));
    assert_int_equal(again.count, 2);
    assert_memory_equal(again.len, chain.len, sizeof(chain.len));
    assert_memory_equal(again.der, chain.der, chain.len[0] + chain.len[1]);

    struct cert_chain none = {0};
    assert_int_equal(kswcrt_from_pem("", &none), FAIL_MALFORMED);
    assert_int_equal(kswcrt_from_pem("no PEM at all", &none), FAIL_MALFORMED);
    char *second = strstr(pem + 1, "-----BEGIN");
    second[200] = '!';
    assert_int_equal(kswcrt_from_pem(pem, &none), FAIL_MALFORMED);
    pem[strlen(pem) - 20] = '\0'; /* cut off */
    assert_int_equal(kswcrt_from_pem(pem, &none), FAIL_MALFORMED);
    assert_int_equal(none.count, 0);
    free(pem);
}

static void test_kswcrt_pem_too_many(void **state)
{
    struct cert_chain chain = {0};
    struct cert_chain none = {0};
    char *pem = NULL;
    char *many;
    (void)state;
    chain_add(&chain, &good_wish, authority, authority);
    assert_ok(kswcrt_to_pem(&chain, &pem));
    assert_true(asprintf(&many, "%s%s%s%s%s", pem, pem, pem, pem, pem) > 0);
    assert_int_equal(kswcrt_from_pem(many, &none), FAIL_MALFORMED);
    assert_int_equal(none.count, 0);
    free(many);
    free(pem);
}

static void test_kswcrt_describe(void **state)
{
    struct cert_chain chain = {0};
    struct kswcrt_info info;
    char expected[KSWCRT_TIME_MAX];
    time_t until = time(NULL) + DAY;
    (void)state;
    assert_int_equal(kswcrt_describe(&chain, &info), FAIL_NOT_FOUND);
    chain_add(&chain, &good_wish, tkp[0], authority);
    assert_ok(kswcrt_describe(&chain, &info));
    assert_string_equal(info.subject, "CN=keeper test KSWCRT");
    assert_string_equal(info.issuer, "CN=keeper test CA");
    assert_string_equal(info.serial, "1234ABCD");
    strftime(expected, sizeof(expected), "%Y-%m-%dT%H:", gmtime(&until));
    assert_memory_equal(info.not_after, expected, 11); /* the day; the hour may just turn */
    assert_int_equal(strlen(info.not_after), strlen("2026-11-23T00:00:00Z"));
}

/* --- vault --- */

static void assert_pin_refused(struct place *place, const char *text, mode_t mode)
{
    char read[TOKEN_PIN_MAX + 1] = "untouched";
    write_file(place->pin_file, text, mode);
    assert_int_equal(vault_read_pin(place->pin_file, read), FAIL_CONFIG);
    assert_string_equal(read, "untouched");
    if (strlen(text) > 4)
        assert_null(strstr(fail_text(), text));
}

static void test_pin_file(void **state)
{
    struct place *place = *state;
    char read[TOKEN_PIN_MAX + 1];
    char longest[TOKEN_PIN_MAX + 3];
    assert_ok(vault_read_pin(place->pin_file, read));
    assert_string_equal(read, pin);
    write_file(place->pin_file, "no-newline", 0400);
    assert_ok(vault_read_pin(place->pin_file, read));
    assert_string_equal(read, "no-newline");
    memset(longest, 'p', sizeof(longest));
    strcpy(longest + TOKEN_PIN_MAX, "\n");
    write_file(place->pin_file, longest, 0600);
    assert_ok(vault_read_pin(place->pin_file, read));
    assert_int_equal(strlen(read), TOKEN_PIN_MAX);

    assert_pin_refused(place, "secret-pin", 0644);
    assert_pin_refused(place, "secret-pin", 0640);
    assert_pin_refused(place, "secret-pin", 0602);
    assert_pin_refused(place, "two\nlines\n", 0600);
    assert_pin_refused(place, "blank-line\n\n", 0600);
    assert_pin_refused(place, "", 0600);
    assert_pin_refused(place, "\n", 0600);
}

static void test_pin_file_too_long_or_absent(void **state)
{
    struct place *place = *state;
    char read[TOKEN_PIN_MAX + 1];
    char text[TOKEN_PIN_MAX + 3];
    memset(text, 'p', sizeof(text));
    text[TOKEN_PIN_MAX + 1] = '\0';
    write_file(place->pin_file, text, 0600);
    assert_int_equal(vault_read_pin(place->pin_file, read), FAIL_CONFIG);
    text[TOKEN_PIN_MAX + 1] = 'p';
    text[TOKEN_PIN_MAX + 2] = '\0';
    write_file(place->pin_file, text, 0600);
    assert_true(vault_read_pin(place->pin_file, read) < 0);
    assert_int_equal(unlink(place->pin_file), 0);
    assert_true(vault_read_pin(place->pin_file, read) < 0);
    assert_non_null(strstr(fail_text(), place->pin_file));
}

static void test_vault_with_a_wrong_pin(void **state)
{
    struct place *place = *state;
    write_file(place->pin_file, "another-pin\n", 0600);
    assert_int_equal(vault_open(&place->conf, &place->vault), FAIL_REFUSED);
    assert_non_null(strstr(fail_text(), place->pin_file));
    assert_null(strstr(fail_text(), "another-pin"));
    assert_null(place->vault.token);
}

/* The decoy is of this run of the keeper alone. */
static void test_decoy_is_new_each_time(void **state)
{
    struct place *place = *state;
    uint8_t before[DIGEST_LEN];
    memcpy(before, place->vault.decoy.spki_sha256, DIGEST_LEN);
    size_t objects = count_tmks(place);
    reopen_vault(place);
    assert_memory_not_equal(place->vault.decoy.spki_sha256, before, DIGEST_LEN);
    assert_int_equal(count_tmks(place), objects);
}

static void test_reload_of_kswcrt(void **state)
{
    struct place *place = *state;
    struct cert_chain before;
    struct cert_chain after;
    vault_chain(&place->vault, &before);
    assert_int_equal(before.count, 1);
    assert_ok(vault_reload_chain(&place->vault, place->vault.session));
    vault_chain(&place->vault, &after);
    assert_int_equal(after.count, 1);
    assert_memory_equal(after.der, before.der, before.len[0]);
}

/* A reload that finds none keeps the one that is served. */
static void test_reload_without_kswcrt(void **state)
{
    struct place *place = *state;
    struct token *token = place->vault.token;
    CK_OBJECT_CLASS class = CKO_CERTIFICATE;
    CK_ATTRIBUTE wanted = {CKA_CLASS, &class, sizeof(class)};
    struct cert_chain chain;
    token_handle certificate;
    assert_ok(token_search_one(place->vault.session, &wanted, 1, "certificate", &certificate));
    assert_int_equal(TOKEN_CALL(token, C_DestroyObject, place->vault.session->handle, certificate),
                     CKR_OK);
    assert_int_equal(vault_reload_chain(&place->vault, place->vault.session), FAIL_NOT_FOUND);
    vault_chain(&place->vault, &chain);
    assert_int_equal(chain.count, 1);
}

/* --- tmk_index --- */

static void test_tmk_index(void **state)
{
    struct tmk_index *index;
    token_handle tmk = 0;
    (void)state;
    assert_ok(tmk_index_new(&index));
    assert_int_equal(tmk_index_find(index, "SN/1", 4, &tmk), FAIL_NOT_FOUND);
    assert_ok(tmk_index_add(index, "SN/1", 4, 11));
    assert_ok(tmk_index_add(index, "SN/11", 5, 12));
    assert_ok(tmk_index_find(index, "SN/1", 4, &tmk));
    assert_int_equal(tmk, 11);
    assert_ok(tmk_index_find(index, "SN/11", 5, &tmk));
    assert_int_equal(tmk, 12);
    assert_int_equal(tmk_index_find(index, "SN/", 3, &tmk), FAIL_NOT_FOUND);
    assert_int_equal(tmk, 12); /* untouched */
    assert_ok(tmk_index_add(index, "SN/1", 4, 13));
    assert_ok(tmk_index_find(index, "SN/1", 4, &tmk));
    assert_int_equal(tmk, 13);
    tmk_index_remove(index, "SN/1", 4, 11); /* another's */
    assert_ok(tmk_index_find(index, "SN/1", 4, &tmk));
    tmk_index_remove(index, "SN/1", 4, 13);
    assert_int_equal(tmk_index_find(index, "SN/1", 4, &tmk), FAIL_NOT_FOUND);
    assert_ok(tmk_index_find(index, "SN/11", 5, &tmk));
    tmk_index_remove(index, "SN/2", 4, 14);
    tmk_index_free(index);
    tmk_index_free(NULL);
}

#define PLAIN(test)  cmocka_unit_test(test)
#define CLOSED(test) cmocka_unit_test_setup_teardown(test, set_up_closed, tear_down_own)
#define OWN(test)    cmocka_unit_test_setup_teardown(test, set_up_own, tear_down_own)
#define TOKEN(test)  cmocka_unit_test_setup_teardown(test, set_up_token, tear_down)
#define WRAPPED(test)                                                                              \
    {                                                                                              \
#test "_wrapped", test, set_up_wrapped, tear_down, NULL                                    \
    }

int main(void)
{
    /* By their place, so that few are made. */
    const struct CMUnitTest tests[] = {
        PLAIN(test_requests_that_are_none),
        PLAIN(test_kswcrt_faults),
        PLAIN(test_kswcrt_chain),
        PLAIN(test_kswcrt_time_is_the_callers),
        PLAIN(test_kswcrt_pem),
        PLAIN(test_kswcrt_pem_too_many),
        PLAIN(test_kswcrt_describe),
        PLAIN(test_tmk_index),
        CLOSED(test_token_that_stays_lost_ends_the_keeper),
        CLOSED(test_pin_file),
        CLOSED(test_pin_file_too_long_or_absent),
        CLOSED(test_vault_with_a_wrong_pin),
        OWN(test_reload_without_kswcrt),
        TOKEN(test_offer_opens),
        TOKEN(test_offer_opens_after_a_restart),
        TOKEN(test_offers_differ),
        TOKEN(test_decoy_does_the_same_work),
        TOKEN(test_decoy_holds_nothing_of_the_terminal),
        TOKEN(test_token_tmk_that_is_gone),
        TOKEN(test_rotation_keeps_the_old_until_confirmed),
        TOKEN(test_rotation_to_another_type),
        TOKEN(test_rotation_that_is_not_written),
        TOKEN(test_rotation_that_comes_late),
        TOKEN(test_rotations_without_end),
        TOKEN(test_rotation_does_not_seal_an_edited_row),
        TOKEN(test_removal_destroys_every_version),
        TOKEN(test_edits_of_the_registry),
        TOKEN(test_swapped_rows),
        TOKEN(test_redelivery),
        TOKEN(test_prepare_leaves_no_objects),
        TOKEN(test_jobs_come_back),
        TOKEN(test_errors_keep_their_sentence),
        TOKEN(test_queue_limit),
        TOKEN(test_group_commit),
        TOKEN(test_failed_commit_fails_all),
        TOKEN(test_writer_waits_for_the_lock),
        TOKEN(test_worker_cannot_write),
        TOKEN(test_stop_returns_all),
        TOKEN(test_stop_without_jobs),
        TOKEN(test_crew_needs_a_registry),
        TOKEN(test_lost_session_is_opened_again),
        TOKEN(test_writer_opens_its_session_again),
        TOKEN(test_writer_opens_its_session_again_without_a_record),
        TOKEN(test_records_of_a_download),
        TOKEN(test_record_after_a_change),
        TOKEN(test_record_of_a_refusal),
        TOKEN(test_confirm_without_delivery),
        TOKEN(test_sources),
        TOKEN(test_duplicates_inside_one_request),
        TOKEN(test_import_again),
        TOKEN(test_bad_rows_stand_alone),
        TOKEN(test_damaged_row_stands_alone),
        TOKEN(test_undo_leaves_nothing),
        TOKEN(test_undo_after_writing),
        TOKEN(test_undo_leaves_the_tmk_of_another),
        TOKEN(test_prepare_twice),
        TOKEN(test_dry_run),
        TOKEN(test_import_after_one_that_was_cut_off),
        TOKEN(test_import_through_the_crew),
        TOKEN(test_import_over_a_lost_session),
        TOKEN(test_decoy_is_new_each_time),
        TOKEN(test_reload_of_kswcrt),
        WRAPPED(test_offer_opens),
        WRAPPED(test_offer_opens_after_a_restart),
        WRAPPED(test_offers_differ),
        WRAPPED(test_decoy_does_the_same_work),
        WRAPPED(test_decoy_holds_nothing_of_the_terminal),
        WRAPPED(test_rotation_keeps_the_old_until_confirmed),
        WRAPPED(test_rotation_to_another_type),
        WRAPPED(test_rotation_that_is_not_written),
        WRAPPED(test_removal_destroys_every_version),
        WRAPPED(test_edits_of_the_registry),
        WRAPPED(test_swapped_rows),
        WRAPPED(test_prepare_leaves_no_objects),
        {"test_offer_opens_rsa", test_offer_opens, set_up_rsa, tear_down, NULL},
    };
    return cmocka_run_group_tests(tests, make_keys, free_keys);
}
