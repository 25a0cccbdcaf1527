#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Before cmocka, which makes a macro of fail. */
#include "common/fail.h"
#include "common/spki.h"
#include "wire/frame.h"
#include "wire/message.h"
#include "wire/transcript.h"

#include <cmocka.h>
#include <jansson.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/sha.h>
#include <openssl/x509.h>

enum { VECTOR_COUNT = 4, DER_SIZE = 2 * MESSAGE_MAX, TYPE_COUNT = MESSAGE_FAILURE + 1 };

struct der {
    size_t len;
    uint8_t bytes[DER_SIZE];
};

/* One download of the vectors file: its JSON, and its messages as they travel and decoded. */
struct vector {
    const json_t *json;
    struct der der[TYPE_COUNT];
    struct message message[TYPE_COUNT];
};

static json_t *file;
static struct vector vectors[VECTOR_COUNT];

/* ---- reading the vectors ---- */

static void from_hex(const char *hex, struct der *ret)
{
    long len = 0;
    ret->len = 0;
    if (hex[0] == '\0')
        return;
    uint8_t *bytes = OPENSSL_hexstr2buf(hex, &len);
    assert_non_null(bytes);
    assert_true(len <= DER_SIZE);
    ret->len = (size_t)len;
    memcpy(ret->bytes, bytes, ret->len);
    OPENSSL_free(bytes);
}

static const char *text_of(const struct vector *vector, const char *key)
{
    const char *text = json_string_value(json_object_get(vector->json, key));
    assert_non_null(text);
    return text;
}

static struct der bytes_of(const struct vector *vector, const char *key)
{
    struct der der;
    from_hex(text_of(vector, key), &der);
    return der;
}

static void assert_bytes(const uint8_t *bytes, size_t len, const struct vector *vector,
                         const char *key)
{
    struct der expected = bytes_of(vector, key);
    assert_int_equal(len, expected.len);
    assert_memory_equal(bytes, expected.bytes, len);
}

static void read_vector(const json_t *json, struct vector *ret)
{
    const json_t *messages = json_object_get(json, "messages_der");
    ret->json = json;
    for (enum message_type type = MESSAGE_HELLO; type <= MESSAGE_FAILURE; type++) {
        from_hex(json_string_value(json_object_get(messages, message_type_name(type))),
                 &ret->der[type]);
        assert_int_equal(
            message_decode(ret->der[type].bytes, ret->der[type].len, &ret->message[type]), 0);
    }
}

static int read_vectors(void **state)
{
    (void)state;
    file = json_load_file(getenv("TMKD_VECTORS"), 0, NULL);
    const json_t *list = json_object_get(file, "vectors");
    assert_int_equal(json_array_size(list), VECTOR_COUNT);
    for (size_t i = 0; i < VECTOR_COUNT; i++)
        read_vector(json_array_get(list, i), &vectors[i]);
    return 0;
}

static int drop_vectors(void **state)
{
    (void)state;
    json_decref(file);
    return 0;
}

static EVP_PKEY *private_key(const struct vector *vector, const char *key)
{
    BIO *pem = BIO_new_mem_buf(text_of(vector, key), -1);
    EVP_PKEY *pkey = PEM_read_bio_PrivateKey(pem, NULL, NULL, NULL);
    BIO_free(pem);
    assert_non_null(pkey);
    return pkey;
}

static X509 *certificate(const struct vector *vector)
{
    BIO *pem = BIO_new_mem_buf(text_of(vector, "kswcrt"), -1);
    X509 *cert = PEM_read_bio_X509(pem, NULL, NULL, NULL);
    BIO_free(pem);
    assert_non_null(cert);
    return cert;
}

static void tkp_pu(const struct vector *vector, struct spki *ret)
{
    EVP_PKEY *tkp = private_key(vector, "tkp");
    unsigned char *der = NULL;
    int len = i2d_PUBKEY(tkp, &der);
    assert_int_equal(spki_read(der, (size_t)len, ret), 0);
    OPENSSL_free(der);
    EVP_PKEY_free(tkp);
}

static void hash_of(const struct vector *vector, uint8_t ret_h[static DIGEST_LEN])
{
    assert_int_equal(transcript_hash(&vector->message[MESSAGE_HELLO].hello,
                                     &vector->message[MESSAGE_CHALLENGE].challenge.tbs, ret_h),
                     0);
}

/* ---- the vectors, both directions ---- */

static void assert_round_trip(const struct message *message, const struct der *der)
{
    uint8_t again[MESSAGE_MAX];
    size_t len = 0;
    assert_int_equal(message_encode(message, again, sizeof(again), &len), 0);
    assert_int_equal(len, der->len);
    assert_memory_equal(again, der->bytes, len);
}

static void test_every_message_encodes_to_the_bytes_it_came_from(void **state)
{
    (void)state;
    for (size_t i = 0; i < VECTOR_COUNT; i++) {
        for (size_t type = 0; type < TYPE_COUNT; type++) {
            assert_int_equal(vectors[i].message[type].type, type);
            assert_round_trip(&vectors[i].message[type], &vectors[i].der[type]);
        }
    }
}

static void test_hello_and_challenge_fields(void **state)
{
    (void)state;
    for (const struct vector *v = vectors; v < vectors + VECTOR_COUNT; v++) {
        const struct hello *hello = &v->message[MESSAGE_HELLO].hello;
        const struct challenge *challenge = &v->message[MESSAGE_CHALLENGE].challenge;
        X509 *cert = certificate(v);
        unsigned char *cert_der = NULL;
        size_t len;

        assert_string_equal(hello->sn, text_of(v, "sn"));
        assert_bytes(hello->rnd1, RND_LEN, v, "rnd1");
        assert_bytes(challenge->tbs.rnd2, RND_LEN, v, "rnd2");
        assert_bytes(challenge->tbs.delivery_digest, DIGEST_LEN, v, "delivery_digest");
        assert_bytes(challenge->c1, challenge->c1_len, v, "c1");
        assert_int_equal(challenge->tbs.kswcrt.count, 1);
        const uint8_t *carried = cert_chain_at(&challenge->tbs.kswcrt, 0, &len);
        assert_int_equal(len, i2d_X509(cert, &cert_der));
        assert_memory_equal(carried, cert_der, len);
        OPENSSL_free(cert_der);
        X509_free(cert);
    }
}

static void test_the_other_fields(void **state)
{
    (void)state;
    for (const struct vector *v = vectors; v < vectors + VECTOR_COUNT; v++) {
        const struct proof *proof = &v->message[MESSAGE_PROOF].proof;
        const struct delivery *delivery = &v->message[MESSAGE_DELIVERY].delivery;
        const struct confirm *confirm = &v->message[MESSAGE_CONFIRM].confirm;
        const struct failure *failure = &v->message[MESSAGE_FAILURE].failure;

        assert_bytes(proof->c2, proof->c2_len, v, "c2");
        assert_bytes(delivery->ctmk, delivery->ctmk_len, v, "ctmk");
        assert_int_equal(delivery->transport, OAEP_SHA1);
        assert_string_equal(tmk_type_name(delivery->tmk.type), text_of(v, "tmk_type"));
        assert_int_equal(delivery->tmk.version, 1);
        assert_bytes(delivery->tmk.kcv, delivery->tmk.kcv_len, v, "kcv");
        assert_bytes(confirm->mac, confirm->mac_len, v, "confirm_mac");
        assert_int_equal(confirm->mac_len, tmk_type_mac_len(delivery->tmk.type));
        assert_int_equal(v->message[MESSAGE_DONE].done.version, 1);
        assert_int_equal(failure->code, FAILURE_BUSY);
        assert_int_equal(failure->retry_after, 5);
    }
}

/* ---- the transcript ---- */

static void test_digest_hash_and_m1(void **state)
{
    (void)state;
    for (const struct vector *v = vectors; v < vectors + VECTOR_COUNT; v++) {
        uint8_t digest[DIGEST_LEN];
        uint8_t h[DIGEST_LEN];
        uint8_t m1[M1_LEN];
        assert_int_equal(transcript_delivery_digest(&v->message[MESSAGE_DELIVERY].delivery, digest),
                         0);
        assert_bytes(digest, DIGEST_LEN, v, "delivery_digest");
        hash_of(v, h);
        assert_bytes(h, DIGEST_LEN, v, "transcript_h");
        transcript_m1(v->message[MESSAGE_HELLO].hello.rnd1, h, m1);
        assert_bytes(m1, M1_LEN, v, "m1");
    }
}

static void test_transcript_refuses_what_could_not_be_sent(void **state)
{
    (void)state;
    struct hello hello = vectors[0].message[MESSAGE_HELLO].hello;
    struct challenge_tbs tbs = vectors[0].message[MESSAGE_CHALLENGE].challenge.tbs;
    struct delivery delivery = vectors[0].message[MESSAGE_DELIVERY].delivery;
    uint8_t digest[DIGEST_LEN];

    delivery.ctmk_len = 0;
    assert_int_equal(transcript_delivery_digest(&delivery, digest), FAIL_MALFORMED);
    hello.sn[0] = ' ';
    assert_int_equal(transcript_hash(&hello, &tbs, digest), FAIL_MALFORMED);
    hello.sn[0] = 'V';
    tbs.kswcrt.count = 0;
    assert_int_equal(transcript_hash(&hello, &tbs, digest), FAIL_MALFORMED);
}

/* D[PuKS, C1]: with RSA the terminal recovers M1 itself. */
static void assert_c1_rsa(EVP_PKEY *puks, const struct challenge *challenge,
                          const uint8_t m1[static M1_LEN])
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

/* r || s over SHA-256(M1). */
static void assert_c1_ec(EVP_PKEY *puks, const struct challenge *challenge,
                         const uint8_t m1[static M1_LEN])
{
    uint8_t digest[DIGEST_LEN];
    unsigned char *der = NULL;
    ECDSA_SIG *signature = ECDSA_SIG_new();
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(puks, NULL);

    assert_int_equal(challenge->c1_len, 64);
    ECDSA_SIG_set0(signature, BN_bin2bn(challenge->c1, 32, NULL),
                   BN_bin2bn(challenge->c1 + 32, 32, NULL));
    int len = i2d_ECDSA_SIG(signature, &der);
    SHA256(m1, M1_LEN, digest);
    assert_int_equal(EVP_PKEY_verify_init(context), 1);
    assert_int_equal(EVP_PKEY_verify(context, der, (size_t)len, digest, sizeof(digest)), 1);
    EVP_PKEY_CTX_free(context);
    ECDSA_SIG_free(signature);
    OPENSSL_free(der);
}

static void test_c1_opens_with_the_key_of_kswcrt(void **state)
{
    (void)state;
    for (const struct vector *v = vectors; v < vectors + VECTOR_COUNT; v++) {
        const struct challenge *challenge = &v->message[MESSAGE_CHALLENGE].challenge;
        uint8_t h[DIGEST_LEN];
        uint8_t m1[M1_LEN];
        X509 *cert = certificate(v);
        EVP_PKEY *puks = X509_get0_pubkey(cert);

        hash_of(v, h);
        transcript_m1(v->message[MESSAGE_HELLO].hello.rnd1, h, m1);
        if (EVP_PKEY_is_a(puks, "RSA"))
            assert_c1_rsa(puks, challenge, m1);
        else
            assert_c1_ec(puks, challenge, m1);
        X509_free(cert);
    }
}

static void raise_to(const struct spki *key, const uint8_t *block, uint8_t *ret)
{
    BN_CTX *context = BN_CTX_new();
    BIGNUM *n = BN_bin2bn(key->modulus, (int)key->modulus_len, NULL);
    BIGNUM *e = BN_bin2bn(key->exponent, (int)key->exponent_len, NULL);
    BIGNUM *m = BN_bin2bn(block, (int)key->modulus_len, NULL);
    assert_int_equal(BN_mod_exp(m, m, e, n, context), 1);
    assert_int_equal(BN_bn2binpad(m, ret, (int)key->modulus_len), key->modulus_len);
    BN_free(n);
    BN_free(e);
    BN_free(m);
    BN_CTX_free(context);
}

static void test_c2_block_raised_to_tkp_pu_is_c2(void **state)
{
    (void)state;
    for (const struct vector *v = vectors; v < vectors + VECTOR_COUNT; v++) {
        struct spki key;
        uint8_t h[DIGEST_LEN];
        uint8_t em[RSA_BLOCK_MAX];
        uint8_t c2[RSA_BLOCK_MAX];

        tkp_pu(v, &key);
        assert_bytes(key.sha256, sizeof(key.sha256), v, "tkp_spki_sha256");
        hash_of(v, h);
        assert_int_equal(
            transcript_c2_block(&key, v->message[MESSAGE_CHALLENGE].challenge.tbs.rnd2, h, em), 0);
        assert_bytes(em, key.modulus_len, v, "c2_em");
        raise_to(&key, em, c2);
        assert_bytes(c2, key.modulus_len, v, "c2");
    }
}

/* OAEP with that hash and label, opened with TKP_Pr by OpenSSL. */
static size_t oaep_open(const struct vector *vector, const EVP_MD *hash, const struct der *label,
                        const uint8_t *block, size_t len, uint8_t *ret)
{
    EVP_PKEY *tkp = private_key(vector, "tkp");
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(tkp, NULL);
    size_t ret_len = RSA_BLOCK_MAX;
    assert_int_equal(EVP_PKEY_decrypt_init(context), 1);
    assert_int_equal(EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_OAEP_PADDING), 1);
    assert_int_equal(EVP_PKEY_CTX_set_rsa_oaep_md(context, hash), 1);
    assert_int_equal(EVP_PKEY_CTX_set_rsa_mgf1_md(context, hash), 1);
    if (label->len > 0)
        assert_int_equal(EVP_PKEY_CTX_set0_rsa_oaep_label(
                             context, OPENSSL_memdup(label->bytes, label->len), (int)label->len),
                         1);
    assert_int_equal(EVP_PKEY_decrypt(context, ret, &ret_len, block, len), 1);
    EVP_PKEY_CTX_free(context);
    EVP_PKEY_free(tkp);
    return ret_len;
}

static void test_c2_decrypts_as_plain_oaep(void **state)
{
    (void)state;
    for (const struct vector *v = vectors; v < vectors + VECTOR_COUNT; v++) {
        const struct proof *proof = &v->message[MESSAGE_PROOF].proof;
        struct der label = {8, "TMKD-C2\x01"};
        uint8_t opened[RSA_BLOCK_MAX];
        hash_of(v, label.bytes + label.len);
        label.len += DIGEST_LEN;
        size_t len = oaep_open(v, EVP_sha256(), &label, proof->c2, proof->c2_len, opened);
        assert_bytes(opened, len, v, "rnd2");
    }
}

static void test_ctmk_opens_as_transport_says(void **state)
{
    (void)state;
    for (const struct vector *v = vectors; v < vectors + VECTOR_COUNT; v++) {
        const struct delivery *delivery = &v->message[MESSAGE_DELIVERY].delivery;
        const struct der no_label = {0};
        uint8_t opened[RSA_BLOCK_MAX];
        size_t len =
            oaep_open(v, EVP_sha1(), &no_label, delivery->ctmk, delivery->ctmk_len, opened);
        assert_bytes(opened, len, v, "tmk");
        assert_int_equal(len, tmk_type_key_len(delivery->tmk.type));
    }
}

static void test_c2_block_refuses_a_modulus_it_does_not_fit(void **state)
{
    (void)state;
    struct spki key;
    uint8_t em[RSA_BLOCK_MAX];
    const uint8_t zero[DIGEST_LEN] = {0};
    tkp_pu(&vectors[0], &key);
    key.modulus_len = 97;
    assert_int_equal(transcript_c2_block(&key, zero, zero, em), FAIL_REFUSED);
    key.modulus_len = RSA_BLOCK_MAX + 1;
    assert_int_equal(transcript_c2_block(&key, zero, zero, em), FAIL_REFUSED);
}

/* CMAC with OpenSSL; two-key TDEA as K1 K2 K1. */
static size_t cmac(enum tmk_type type, struct der key, const uint8_t *input, size_t len,
                   uint8_t ret[static MAC_MAX])
{
    static const char *const ciphers[] = {"DES-EDE3-CBC", "DES-EDE3-CBC", "AES-128-CBC",
                                          "AES-192-CBC", "AES-256-CBC"};
    char cipher[16];
    size_t ret_len = 0;
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "CMAC", NULL);
    EVP_MAC_CTX *context = EVP_MAC_CTX_new(mac);

    strcpy(cipher, ciphers[type]);
    OSSL_PARAM params[] = {OSSL_PARAM_utf8_string(OSSL_MAC_PARAM_CIPHER, cipher, 0),
                           OSSL_PARAM_END};
    if (type == TMK_DES2) {
        memcpy(key.bytes + 16, key.bytes, 8);
        key.len = 24;
    }
    assert_int_equal(EVP_MAC_init(context, key.bytes, key.len, params), 1);
    assert_int_equal(EVP_MAC_update(context, input, len), 1);
    assert_int_equal(EVP_MAC_final(context, ret, &ret_len, MAC_MAX), 1);
    EVP_MAC_CTX_free(context);
    EVP_MAC_free(mac);
    return ret_len;
}

static void test_confirm_input_gives_the_mac(void **state)
{
    (void)state;
    for (const struct vector *v = vectors; v < vectors + VECTOR_COUNT; v++) {
        const struct challenge_tbs *tbs = &v->message[MESSAGE_CHALLENGE].challenge.tbs;
        uint8_t h[DIGEST_LEN];
        uint8_t input[CONFIRM_INPUT_LEN];
        uint8_t mac[MAC_MAX];
        hash_of(v, h);
        transcript_confirm_input(h, tbs->delivery_digest, input);
        size_t len = cmac(v->message[MESSAGE_DELIVERY].delivery.tmk.type, bytes_of(v, "tmk"), input,
                          sizeof(input), mac);
        assert_bytes(mac, len, v, "confirm_mac");
    }
}

/* ---- strictness, over whole messages ---- */

static void assert_refused(const struct der *der)
{
    struct message message;
    struct message before;
    memset(&message, 0xa5, sizeof(message));
    before = message;
    assert_int_equal(message_decode(der->bytes, der->len, &message), FAIL_MALFORMED);
    assert_memory_equal(&message, &before, sizeof(message));
}

static void test_every_truncation_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < VECTOR_COUNT; i++) {
        for (size_t type = 0; type < TYPE_COUNT; type++) {
            struct der der = vectors[i].der[type];
            while (der.len-- > 0)
                assert_refused(&der);
        }
    }
}

static void test_every_trailing_byte_is_refused(void **state)
{
    (void)state;
    for (size_t type = 0; type < TYPE_COUNT; type++) {
        struct der der = vectors[0].der[type];
        der.len++;
        for (unsigned byte = 0; byte <= 0xff; byte++) {
            der.bytes[der.len - 1] = (uint8_t)byte;
            assert_refused(&der);
        }
    }
}

static void test_nothing_and_too_much_are_refused(void **state)
{
    (void)state;
    struct der der = {0};
    assert_refused(&der);
    der.len = MESSAGE_MAX + 1;
    assert_refused(&der);
}

/* Whatever one wrong byte makes of a message, it is refused or has exactly this encoding. */
static void flip(struct der *der, size_t at, uint8_t mask)
{
    struct message message;
    der->bytes[at] ^= mask;
    int rc = message_decode(der->bytes, der->len, &message);
    if (rc == 0)
        assert_round_trip(&message, der);
    else
        assert_true(rc == FAIL_MALFORMED || rc == FAIL_VERSION);
    der->bytes[at] ^= mask;
}

static void test_every_flip_is_refused_or_encodes_to_itself(void **state)
{
    (void)state;
    static const uint8_t masks[] = {0x01, 0x02, 0x04, 0x10, 0x20, 0x40, 0x80, 0xff};
    for (size_t i = 0; i < VECTOR_COUNT; i++) {
        for (size_t type = 0; type < TYPE_COUNT; type++) {
            struct der der = vectors[i].der[type];
            for (size_t at = 0; at < der.len; at++)
                for (size_t m = 0; m < sizeof(masks); m++)
                    flip(&der, at, masks[m]);
        }
    }
}

/* ---- strictness, element by element ---- */

enum defect { NO_DEFECT, LONG_LENGTH, LONGER_LENGTH, INDEFINITE, OTHER_TAG, EXTRA, DEFECT_COUNT };

static void append(struct der *der, const uint8_t *bytes, size_t len)
{
    assert_true(der->len + len <= DER_SIZE);
    memcpy(der->bytes + der->len, bytes, len);
    der->len += len;
}

static void append_byte(struct der *der, size_t byte)
{
    const uint8_t one = (uint8_t)byte;
    append(der, &one, 1);
}

/* A length as DER has it, with surplus zero bytes before it when padded asks for them. */
static void append_length(struct der *der, size_t len, size_t padding)
{
    size_t count = len > 0xff ? 2 : len > 0x7f || padding > 0 ? 1 : 0;
    if (count == 0) {
        append_byte(der, len);
        return;
    }
    /* Of a length under 0x80, the long form alone is one byte too many. */
    size_t zeros = len > 0x7f ? padding : padding > 0 ? padding - 1 : 0;
    append_byte(der, 0x80 | (count + zeros));
    while (zeros-- > 0)
        append_byte(der, 0);
    if (count == 2)
        append_byte(der, len >> 8);
    append_byte(der, len & 0xff);
}

static void append_element(struct der *der, size_t tag, const struct der *content)
{
    append_byte(der, tag);
    append_length(der, content->len, 0);
    append(der, content->bytes, content->len);
}

/* X.690 8.1.3.6; of a primitive string, the constructed form (8.7.3). */
static void append_indefinite(struct der *der, size_t tag, const struct der *content)
{
    append_byte(der, tag | 0x20);
    append_byte(der, 0x80);
    if (tag & 0x20)
        append(der, content->bytes, content->len);
    else
        append_element(der, tag, content);
    append(der, (const uint8_t *)"\0\0", 2);
}

static void append_defective(struct der *der, size_t tag, struct der *content, enum defect defect)
{
    if (defect == INDEFINITE) {
        append_indefinite(der, tag, content);
        return;
    }
    if (defect == EXTRA)
        append(content, (const uint8_t *)"\x05", 2);
    append_byte(der, defect == OTHER_TAG ? tag ^ 1 : tag);
    append_length(der, content->len, defect == LONG_LENGTH ? 1 : defect == LONGER_LENGTH ? 2 : 0);
    append(der, content->bytes, content->len);
}

/* Which element, counted in the order of their tags, gets which defect. */
struct plan {
    size_t target;
    enum defect defect;
    size_t seen;
    int done; /* to an opaque element, EXTRA cannot be done */
};

/* A certificate is opaque, and the deepest element of the schema. */
enum { DEPTH_MAX = 4 };

static size_t header_at(const uint8_t *at, size_t *ret_content_len)
{
    if (at[1] < 0x80) {
        *ret_content_len = at[1];
        return 2;
    }
    *ret_content_len = at[1] == 0x81 ? at[2] : (size_t)at[2] << 8 | at[3];
    return 2 + (at[1] & 0x7fu);
}

/* Copies the elements of from, and gives one of them the defect of the plan. */
static void copy_elements(const uint8_t *from, size_t len, size_t depth, struct plan *plan,
                          struct der *to)
{
    for (const uint8_t *at = from; at < from + len;) {
        size_t content_len;
        const uint8_t *content = at + header_at(at, &content_len);
        struct der *inner = calloc(1, sizeof(*inner));
        enum defect defect = plan->seen++ == plan->target ? plan->defect : NO_DEFECT;
        int opaque = !(at[0] & 0x20) || depth == DEPTH_MAX;

        if (defect == EXTRA && opaque)
            defect = NO_DEFECT;
        plan->done |= defect != NO_DEFECT;
        if (!opaque)
            copy_elements(content, content_len, depth + 1, plan, inner);
        else
            append(inner, content, content_len);
        append_defective(to, at[0], inner, defect);
        free(inner);
        at = content + content_len;
    }
}

static void test_every_defect_of_every_element_is_refused(void **state)
{
    (void)state;
    for (size_t type = 0; type < TYPE_COUNT; type++) {
        const struct der *der = &vectors[0].der[type];
        struct plan plan = {.target = SIZE_MAX};
        struct der copy = {0};
        copy_elements(der->bytes, der->len, 0, &plan, &copy);
        assert_int_equal(copy.len, der->len);
        assert_memory_equal(copy.bytes, der->bytes, copy.len);
        size_t elements = plan.seen;
        assert_true(elements >= 3);
        for (size_t i = 0; i < elements * DEFECT_COUNT; i++) {
            plan = (struct plan){i / DEFECT_COUNT, (enum defect)(i % DEFECT_COUNT), 0, 0};
            copy.len = 0;
            copy_elements(der->bytes, der->len, 0, &plan, &copy);
            if (plan.done)
                assert_refused(&copy);
        }
    }
}

/* ---- sizes and ranges, field by field ---- */

static void message_of(struct der *der, enum message_type type, const struct der *fields)
{
    struct der sequence = {0};
    append_element(&sequence, 0x30, fields);
    der->len = 0;
    append_element(der, 0xa0 + (size_t)type, &sequence);
}

static void append_string(struct der *der, size_t tag, size_t len)
{
    struct der content = {0};
    content.len = len;
    memset(content.bytes, 'x', len);
    append_element(der, tag, &content);
}

static void append_hex(struct der *der, const char *hex)
{
    struct der bytes;
    from_hex(hex, &bytes);
    append(der, bytes.bytes, bytes.len);
}

static int decode(const struct der *der)
{
    struct message message;
    int rc = message_decode(der->bytes, der->len, &message);
    if (rc == 0)
        assert_round_trip(&message, der);
    return rc;
}

static int decode_fields(enum message_type type, const struct der *fields)
{
    struct der der;
    message_of(&der, type, fields);
    return decode(&der);
}

static int decode_hello(const char *version, size_t sn_len, size_t rnd1_len)
{
    struct der fields = {0};
    append_hex(&fields, version);
    append_string(&fields, 0x0c, sn_len);
    append_string(&fields, 0x04, rnd1_len);
    return decode_fields(MESSAGE_HELLO, &fields);
}

static void test_hello_sizes(void **state)
{
    (void)state;
    assert_int_equal(decode_hello("020101", 1, 32), 0);
    assert_int_equal(decode_hello("020101", 64, 32), 0);
    assert_int_equal(decode_hello("020101", 0, 32), FAIL_MALFORMED);
    assert_int_equal(decode_hello("020101", 65, 32), FAIL_MALFORMED);
    assert_int_equal(decode_hello("020101", 4000, 32), FAIL_MALFORMED);
    assert_int_equal(decode_hello("020101", 8, 31), FAIL_MALFORMED);
    assert_int_equal(decode_hello("020101", 8, 33), FAIL_MALFORMED);
    assert_int_equal(decode_hello("020101", 8, 0), FAIL_MALFORMED);
}

static void test_hello_of_another_version(void **state)
{
    (void)state;
    assert_int_equal(decode_hello("020102", 8, 32), FAIL_VERSION);
    assert_int_equal(decode_hello("02047fffffff", 8, 32), FAIL_VERSION);
    assert_int_equal(decode_hello("020100", 8, 32), FAIL_VERSION);
    assert_int_equal(decode_hello("0201ff", 8, 32), FAIL_MALFORMED);
    assert_int_equal(decode_hello("02050080000000", 8, 32), FAIL_MALFORMED);
    assert_int_equal(decode_hello("0209010000000000000001", 8, 32), FAIL_MALFORMED);
    assert_int_equal(decode_hello("02020001", 8, 32), FAIL_MALFORMED);
    assert_int_equal(decode_hello("0200", 8, 32), FAIL_MALFORMED);
}

static void test_sn_characters(void **state)
{
    (void)state;
    for (unsigned c = 0; c <= 0xff; c++) {
        struct der der = vectors[0].der[MESSAGE_HELLO];
        int graphic = c >= 0x21 && c <= 0x7e;
        der.bytes[9 + 3] = (uint8_t)c; /* the fourth of eight characters */
        assert_int_equal(decode(&der), graphic ? 0 : FAIL_MALFORMED);
        char sn[] = {'a', (char)c, '\0'};
        assert_int_equal(sn_is_valid(sn), graphic || c == 0);
    }
}

static void test_sn_lengths(void **state)
{
    (void)state;
    char sn[SN_MAX + 2];
    memset(sn, 'x', sizeof(sn));
    sn[SN_MAX + 1] = '\0';
    assert_false(sn_is_valid(sn));
    sn[SN_MAX] = '\0';
    assert_true(sn_is_valid(sn));
    assert_false(sn_is_valid(""));
}

static int decode_challenge(size_t rnd2_len, size_t digest_len, size_t certs, size_t c1_len)
{
    struct der tbs = {0};
    struct der chain = {0};
    struct der fields = {0};
    append_string(&tbs, 0x04, rnd2_len);
    append_string(&tbs, 0x04, digest_len);
    while (certs-- > 0)
        append_string(&chain, 0x30, 300);
    append_element(&tbs, 0x30, &chain);
    append_element(&fields, 0x30, &tbs);
    append_string(&fields, 0x04, c1_len);
    return decode_fields(MESSAGE_CHALLENGE, &fields);
}

static void test_challenge_sizes(void **state)
{
    (void)state;
    assert_int_equal(decode_challenge(32, 32, 1, 1), 0);
    assert_int_equal(decode_challenge(32, 32, 4, 512), 0);
    assert_int_equal(decode_challenge(31, 32, 1, 64), FAIL_MALFORMED);
    assert_int_equal(decode_challenge(33, 32, 1, 64), FAIL_MALFORMED);
    assert_int_equal(decode_challenge(32, 31, 1, 64), FAIL_MALFORMED);
    assert_int_equal(decode_challenge(32, 33, 1, 64), FAIL_MALFORMED);
    assert_int_equal(decode_challenge(32, 32, 0, 64), FAIL_MALFORMED);
    assert_int_equal(decode_challenge(32, 32, 5, 64), FAIL_MALFORMED);
    assert_int_equal(decode_challenge(32, 32, 1, 0), FAIL_MALFORMED);
    assert_int_equal(decode_challenge(32, 32, 1, 513), FAIL_MALFORMED);
}

static int decode_proof(size_t len)
{
    struct der fields = {0};
    append_string(&fields, 0x04, len);
    return decode_fields(MESSAGE_PROOF, &fields);
}

static int decode_confirm(size_t len)
{
    struct der fields = {0};
    append_string(&fields, 0x04, len);
    return decode_fields(MESSAGE_CONFIRM, &fields);
}

static void test_proof_and_confirm_sizes(void **state)
{
    (void)state;
    assert_int_equal(decode_proof(0), FAIL_MALFORMED);
    assert_int_equal(decode_proof(1), 0);
    assert_int_equal(decode_proof(512), 0);
    assert_int_equal(decode_proof(513), FAIL_MALFORMED);
    assert_int_equal(decode_proof(8000), FAIL_MALFORMED);
    assert_int_equal(decode_confirm(7), FAIL_MALFORMED);
    assert_int_equal(decode_confirm(8), 0);
    assert_int_equal(decode_confirm(16), 0);
    assert_int_equal(decode_confirm(17), FAIL_MALFORMED);
}

#define SHA1_TRANSPORT "300d06092a864886f70d0101073000"
/* rSAES-OAEP-SHA256-Identifier, RFC 4055 4.1 */
#define SHA256_TRANSPORT                                                                           \
    "303c06092a864886f70d010107302f"                                                               \
    "a00f300d06096086480165030402010500"                                                           \
    "a11c301a06092a864886f70d010108300d06096086480165030402010500"

static int decode_delivery(size_t ctmk_len, const char *transport, const char *type,
                           const char *version, size_t kcv_len)
{
    struct der fields = {0};
    struct der info = {0};
    append_hex(&info, type);
    append_hex(&info, version);
    append_string(&info, 0x04, kcv_len);
    append_string(&fields, 0x04, ctmk_len);
    append_hex(&fields, transport);
    append_element(&fields, 0x30, &info);
    return decode_fields(MESSAGE_DELIVERY, &fields);
}

static void test_delivery_sizes(void **state)
{
    (void)state;
    assert_int_equal(decode_delivery(1, SHA1_TRANSPORT, "0a0102", "020101", 5), 0);
    assert_int_equal(decode_delivery(512, SHA1_TRANSPORT, "0a0102", "020101", 5), 0);
    assert_int_equal(decode_delivery(0, SHA1_TRANSPORT, "0a0102", "020101", 5), FAIL_MALFORMED);
    assert_int_equal(decode_delivery(513, SHA1_TRANSPORT, "0a0102", "020101", 5), FAIL_MALFORMED);
}

static void test_kcv_has_the_size_of_its_type(void **state)
{
    (void)state;
    static const char *const types[] = {"0a0100", "0a0101", "0a0102", "0a0103", "0a0104"};
    for (enum tmk_type type = TMK_DES2; type <= TMK_AES256; type++)
        for (size_t len = 0; len <= 6; len++)
            assert_int_equal(decode_delivery(256, SHA1_TRANSPORT, types[type], "020101", len),
                             len == tmk_type_kcv_len(type) ? 0 : FAIL_MALFORMED);
}

static void test_tmk_type_and_version_ranges(void **state)
{
    (void)state;
    static const char *const bad_types[] = {"0a0105",   "0a01ff", "0a020100",
                                            "0a0200ff", "0a00",   "0a09010000000000000002"};
    static const char *const bad_versions[] = {"020100",
                                               "0201ff",
                                               "02050080000000",
                                               "020480000000",
                                               "0208ffffffffffffffff",
                                               "0209008000000000000000",
                                               "021101000000000000000000000000000000ff"};
    for (size_t i = 0; i < sizeof(bad_types) / sizeof(bad_types[0]); i++)
        assert_int_equal(decode_delivery(9, SHA1_TRANSPORT, bad_types[i], "020101", 5),
                         FAIL_MALFORMED);
    for (size_t i = 0; i < sizeof(bad_versions) / sizeof(bad_versions[0]); i++) {
        struct der fields = {0};
        append_hex(&fields, bad_versions[i]);
        assert_int_equal(decode_fields(MESSAGE_DONE, &fields), FAIL_MALFORMED);
        assert_int_equal(decode_delivery(9, SHA1_TRANSPORT, "0a0102", bad_versions[i], 5),
                         FAIL_MALFORMED);
    }
    assert_int_equal(decode_delivery(9, SHA1_TRANSPORT, "0a0102", "02047fffffff", 5), 0);
}

static void test_done_carries_the_largest_version(void **state)
{
    (void)state;
    struct message message;
    struct der der;
    from_hex("a508300602047fffffff", &der);
    assert_int_equal(message_decode(der.bytes, der.len, &message), 0);
    assert_int_equal(message.done.version, INT32_MAX);
    assert_round_trip(&message, &der);
}

static void test_transports(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "300b06092a864886f70d010107",     /* no parameters */
        "300d06092a864886f70d0101070500", /* NULL parameters */
        "300d06092a864886f70d0101013000", /* rsaEncryption */
        /* label "x" */
        "301f06092a864886f70d0101073012a210300e06092a864886f70d010109040178",
        /* SHA-256, MGF1 left at its default SHA-1 */
        "301e06092a864886f70d0101073011a00f300d06096086480165030402010500",
        /* SHA-256 with absent hash parameters */
        ("303806092a864886f70d010107302ba00d300b0609608648016503040201"
         "a11a301806092a864886f70d010108300b0609608648016503040201"),
        /* the default, SHA-1, written out */
        "301a06092a864886f70d010107300da00b300906052b0e03021a0500",
    };
    struct message message;
    assert_int_equal(decode_delivery(9, SHA1_TRANSPORT, "0a0102", "020101", 5), 0);
    assert_int_equal(decode_delivery(9, SHA256_TRANSPORT, "0a0102", "020101", 5), 0);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(decode_delivery(9, bad[i], "0a0102", "020101", 5), FAIL_MALFORMED);
        assert_non_null(strstr(fail_text(), "transport"));
    }

    struct der der;
    message = vectors[1].message[MESSAGE_DELIVERY];
    message.delivery.transport = OAEP_SHA256;
    assert_int_equal(message_encode(&message, der.bytes, sizeof(der.bytes), &der.len), 0);
    memset(&message, 0, sizeof(message));
    assert_int_equal(message_decode(der.bytes, der.len, &message), 0);
    assert_int_equal(message.delivery.transport, OAEP_SHA256);
}

static int decode_failure(const char *fields_hex, struct failure *ret)
{
    struct der fields = {0};
    struct der der;
    struct message message;
    append_hex(&fields, fields_hex);
    message_of(&der, MESSAGE_FAILURE, &fields);
    int rc = message_decode(der.bytes, der.len, &message);
    if (rc == 0) {
        assert_round_trip(&message, &der);
        *ret = message.failure;
    }
    return rc;
}

static void test_failure_ranges(void **state)
{
    (void)state;
    static const char *const bad[] = {"0a0100",
                                      "0a0106",
                                      "0a01ff",
                                      "0a0104"
                                      "0201ff",
                                      "0a0104"
                                      "02020e11",
                                      "0a0104"
                                      "020900ffffffffffffffff",
                                      "0a0104"
                                      "020101"
                                      "020101",
                                      "020105",
                                      ""};
    struct failure failure;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(decode_failure(bad[i], &failure), FAIL_MALFORMED);
    assert_int_equal(decode_failure("0a0103", &failure), 0);
    assert_int_equal(failure.code, FAILURE_REJECTED);
    assert_int_equal(failure.retry_after, RETRY_AFTER_NONE);
    assert_int_equal(decode_failure("0a0104020100", &failure), 0);
    assert_int_equal(failure.retry_after, 0);
    assert_int_equal(decode_failure("0a010402020e10", &failure), 0);
    assert_int_equal(failure.retry_after, RETRY_AFTER_MAX);
}

/* ---- certificates ---- */

static void test_chain_refuses_what_is_no_der_sequence(void **state)
{
    (void)state;
    static const char *const bad[] = {"",         "30",   "3001", "300000", "308100", "3080",
                                      "30800000", "3100", "1000", "3f1000", "a000",   "30820001ff"};
    struct cert_chain chain = {0};
    struct der der;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        from_hex(bad[i], &der);
        assert_int_equal(cert_chain_add(&chain, der.bytes, der.len), FAIL_MALFORMED);
    }
    assert_int_equal(chain.count, 0);
}

static void test_chain_limits(void **state)
{
    (void)state;
    struct cert_chain chain = {0};
    struct der small = {0};
    struct der rest = {0};
    size_t len;

    append_string(&small, 0x30, 10);
    append_string(&rest, 0x30, CHAIN_DER_MAX - 12 - 4);
    assert_int_equal(cert_chain_add(&chain, small.bytes, small.len), 0);
    assert_int_equal(cert_chain_add(&chain, rest.bytes, rest.len), 0);
    assert_int_equal(cert_chain_add(&chain, (const uint8_t *)"\x30", 2), FAIL_MALFORMED);
    const uint8_t *second = cert_chain_at(&chain, 1, &len);
    assert_int_equal(len, rest.len);
    assert_memory_equal(second, rest.bytes, len);

    memset(&chain, 0, sizeof(chain));
    for (size_t i = 0; i < CHAIN_MAX; i++)
        assert_int_equal(cert_chain_add(&chain, small.bytes, small.len), 0);
    assert_int_equal(cert_chain_add(&chain, small.bytes, small.len), FAIL_MALFORMED);
    assert_int_equal(chain.count, CHAIN_MAX);
}

static void test_the_largest_challenge_fits_a_message(void **state)
{
    (void)state;
    struct message message = vectors[0].message[MESSAGE_CHALLENGE];
    struct der der = {0};
    struct der cert = {0};

    append_string(&cert, 0x30, CHAIN_DER_MAX / CHAIN_MAX - 4);
    message.challenge.c1_len = RSA_BLOCK_MAX;
    memset(&message.challenge.tbs.kswcrt, 0, sizeof(message.challenge.tbs.kswcrt));
    for (size_t i = 0; i < CHAIN_MAX; i++)
        assert_int_equal(cert_chain_add(&message.challenge.tbs.kswcrt, cert.bytes, cert.len), 0);
    assert_int_equal(message_encode(&message, der.bytes, MESSAGE_MAX, &der.len), 0);
    assert_int_equal(decode(&der), 0);
}

/* ---- encoding ---- */

static int encode(const struct message *message)
{
    uint8_t der[MESSAGE_MAX];
    size_t len;
    return message_encode(message, der, sizeof(der), &len);
}

#define ASSERT_ENCODE_REFUSED(message_type, change)                                                \
    do {                                                                                           \
        struct message m = vectors[0].message[message_type];                                       \
        assert_int_equal(encode(&m), 0);                                                           \
        change;                                                                                    \
        assert_int_equal(encode(&m), FAIL_MALFORMED);                                              \
    } while (0)

static void test_encode_refuses_what_the_schema_does_not_allow(void **state)
{
    (void)state;
    ASSERT_ENCODE_REFUSED(MESSAGE_HELLO, m.type = (enum message_type)7);
    ASSERT_ENCODE_REFUSED(MESSAGE_HELLO, m.hello.sn[0] = '\0');
    ASSERT_ENCODE_REFUSED(MESSAGE_HELLO, m.hello.sn[2] = ' ');
    ASSERT_ENCODE_REFUSED(MESSAGE_HELLO, memset(m.hello.sn, 'x', sizeof(m.hello.sn)));
    ASSERT_ENCODE_REFUSED(MESSAGE_CHALLENGE, m.challenge.c1_len = 0);
    ASSERT_ENCODE_REFUSED(MESSAGE_CHALLENGE, m.challenge.c1_len = RSA_BLOCK_MAX + 1);
    ASSERT_ENCODE_REFUSED(MESSAGE_CHALLENGE, m.challenge.tbs.kswcrt.count = 0);
    ASSERT_ENCODE_REFUSED(MESSAGE_CHALLENGE, m.challenge.tbs.kswcrt.count = CHAIN_MAX + 1);
    ASSERT_ENCODE_REFUSED(MESSAGE_CHALLENGE, m.challenge.tbs.kswcrt.len[0]--);
    ASSERT_ENCODE_REFUSED(MESSAGE_CHALLENGE, m.challenge.tbs.kswcrt.len[0] = SIZE_MAX);
    ASSERT_ENCODE_REFUSED(MESSAGE_PROOF, m.proof.c2_len = 0);
    ASSERT_ENCODE_REFUSED(MESSAGE_PROOF, m.proof.c2_len = RSA_BLOCK_MAX + 1);
    ASSERT_ENCODE_REFUSED(MESSAGE_DELIVERY, m.delivery.ctmk_len = 0);
    ASSERT_ENCODE_REFUSED(MESSAGE_DELIVERY, m.delivery.ctmk_len = RSA_BLOCK_MAX + 1);
    ASSERT_ENCODE_REFUSED(MESSAGE_DELIVERY, m.delivery.transport = (enum oaep_hash)2);
    ASSERT_ENCODE_REFUSED(MESSAGE_DELIVERY, m.delivery.tmk.type = (enum tmk_type)5);
    ASSERT_ENCODE_REFUSED(MESSAGE_DELIVERY, m.delivery.tmk.version = 0);
    ASSERT_ENCODE_REFUSED(MESSAGE_DELIVERY, m.delivery.tmk.version = 0x80000000u);
    ASSERT_ENCODE_REFUSED(MESSAGE_DELIVERY, m.delivery.tmk.kcv_len = 5);
    ASSERT_ENCODE_REFUSED(MESSAGE_CONFIRM, m.confirm.mac_len = MAC_MIN - 1);
    ASSERT_ENCODE_REFUSED(MESSAGE_CONFIRM, m.confirm.mac_len = MAC_MAX + 1);
    ASSERT_ENCODE_REFUSED(MESSAGE_DONE, m.done.version = 0);
    ASSERT_ENCODE_REFUSED(MESSAGE_DONE, m.done.version = 0x80000000u);
    ASSERT_ENCODE_REFUSED(MESSAGE_FAILURE, m.failure.code = (enum failure_code)0);
    ASSERT_ENCODE_REFUSED(MESSAGE_FAILURE, m.failure.code = (enum failure_code)6);
    ASSERT_ENCODE_REFUSED(MESSAGE_FAILURE, m.failure.retry_after = -2);
    ASSERT_ENCODE_REFUSED(MESSAGE_FAILURE, m.failure.retry_after = RETRY_AFTER_MAX + 1);
}

static void test_encode_keeps_to_the_size_it_is_given(void **state)
{
    (void)state;
    for (size_t type = 0; type < TYPE_COUNT; type++) {
        const struct der *der = &vectors[0].der[type];
        uint8_t bytes[MESSAGE_MAX];
        size_t len = 7;
        memset(bytes, 0xa5, sizeof(bytes));
        assert_int_equal(message_encode(&vectors[0].message[type], bytes, der->len - 1, &len),
                         FAIL_MALFORMED);
        assert_int_equal(bytes[0], 0xa5);
        assert_int_equal(len, 7);
        assert_int_equal(message_encode(&vectors[0].message[type], bytes, der->len, &len), 0);
        assert_int_equal(len, der->len);
        assert_int_equal(bytes[len], 0xa5);
    }
}

/* ---- frames and names ---- */

static void test_frame_lengths(void **state)
{
    (void)state;
    static const struct {
        size_t len;
        int rc;
    } cases[] = {
        {0, FAIL_MALFORMED},    {1, 0}, {255, 0}, {256, 0}, {8192, 0}, {8193, FAIL_MALFORMED},
        {65535, FAIL_MALFORMED}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t header[FRAME_HEADER_LEN];
        size_t len = 7;
        frame_write_length(cases[i].len, header);
        assert_int_equal(header[0], cases[i].len >> 8);
        assert_int_equal(header[1], cases[i].len & 0xff);
        assert_int_equal(frame_read_length(header, &len), cases[i].rc);
        assert_int_equal(len, cases[i].rc == 0 ? cases[i].len : 7);
    }
}

static void test_frame_is_length_and_message(void **state)
{
    (void)state;
    for (size_t type = 0; type < TYPE_COUNT; type++) {
        const struct der *der = &vectors[0].der[type];
        uint8_t frame[FRAME_MAX];
        size_t len;
        size_t body_len;
        assert_int_equal(frame_encode(&vectors[0].message[type], frame, &len), 0);
        assert_int_equal(len, FRAME_HEADER_LEN + der->len);
        assert_int_equal(frame_read_length(frame, &body_len), 0);
        assert_int_equal(body_len, der->len);
        assert_memory_equal(frame + FRAME_HEADER_LEN, der->bytes, der->len);
    }
    struct message message = vectors[0].message[MESSAGE_DONE];
    uint8_t frame[FRAME_MAX];
    size_t len;
    message.done.version = 0;
    assert_int_equal(frame_encode(&message, frame, &len), FAIL_MALFORMED);
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(message_type_name(MESSAGE_HELLO), "hello");
    assert_string_equal(message_type_name(MESSAGE_FAILURE), "failure");
    assert_null(message_type_name((enum message_type)7));
    assert_string_equal(failure_code_name(FAILURE_MALFORMED), "malformed");
    assert_string_equal(failure_code_name(FAILURE_UNSUPPORTED_VERSION), "unsupportedVersion");
    assert_string_equal(failure_code_name(FAILURE_REJECTED), "rejected");
    assert_string_equal(failure_code_name(FAILURE_BUSY), "busy");
    assert_string_equal(failure_code_name(FAILURE_INTERNAL), "internal");
    assert_null(failure_code_name((enum failure_code)0));
    assert_null(failure_code_name((enum failure_code)6));
}

static void test_tmk_types(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t key_len, kcv_len, mac_len;
    } types[] = {{"des2", 16, 3, 8},
                 {"des3", 24, 3, 8},
                 {"aes128", 16, 5, 16},
                 {"aes192", 24, 5, 16},
                 {"aes256", 32, 5, 16}};
    enum tmk_type found = TMK_AES192;
    for (enum tmk_type type = TMK_DES2; type <= TMK_AES256; type++) {
        assert_string_equal(tmk_type_name(type), types[type].name);
        assert_int_equal(tmk_type_from_name(types[type].name, &found), 0);
        assert_int_equal(found, type);
        assert_int_equal(tmk_type_key_len(type), types[type].key_len);
        assert_int_equal(tmk_type_kcv_len(type), types[type].kcv_len);
        assert_int_equal(tmk_type_mac_len(type), types[type].mac_len);
        assert_int_equal(tmk_type_is_aes(type), type >= TMK_AES128);
    }
    assert_null(tmk_type_name((enum tmk_type)5));
    assert_int_equal(tmk_type_from_name("des", &found), FAIL_NOT_FOUND);
    assert_non_null(strstr(fail_text(), "aes192"));
    assert_int_equal(found, TMK_AES256);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_message_encodes_to_the_bytes_it_came_from),
        cmocka_unit_test(test_hello_and_challenge_fields),
        cmocka_unit_test(test_the_other_fields),
        cmocka_unit_test(test_digest_hash_and_m1),
        cmocka_unit_test(test_transcript_refuses_what_could_not_be_sent),
        cmocka_unit_test(test_c1_opens_with_the_key_of_kswcrt),
        cmocka_unit_test(test_c2_block_raised_to_tkp_pu_is_c2),
        cmocka_unit_test(test_c2_decrypts_as_plain_oaep),
        cmocka_unit_test(test_c2_block_refuses_a_modulus_it_does_not_fit),
        cmocka_unit_test(test_ctmk_opens_as_transport_says),
        cmocka_unit_test(test_confirm_input_gives_the_mac),
        cmocka_unit_test(test_every_truncation_is_refused),
        cmocka_unit_test(test_every_trailing_byte_is_refused),
        cmocka_unit_test(test_nothing_and_too_much_are_refused),
        cmocka_unit_test(test_every_flip_is_refused_or_encodes_to_itself),
        cmocka_unit_test(test_every_defect_of_every_element_is_refused),
        cmocka_unit_test(test_hello_sizes),
        cmocka_unit_test(test_hello_of_another_version),
        cmocka_unit_test(test_sn_characters),
        cmocka_unit_test(test_sn_lengths),
        cmocka_unit_test(test_challenge_sizes),
        cmocka_unit_test(test_proof_and_confirm_sizes),
        cmocka_unit_test(test_delivery_sizes),
        cmocka_unit_test(test_kcv_has_the_size_of_its_type),
        cmocka_unit_test(test_tmk_type_and_version_ranges),
        cmocka_unit_test(test_done_carries_the_largest_version),
        cmocka_unit_test(test_transports),
        cmocka_unit_test(test_failure_ranges),
        cmocka_unit_test(test_chain_refuses_what_is_no_der_sequence),
        cmocka_unit_test(test_chain_limits),
        cmocka_unit_test(test_the_largest_challenge_fits_a_message),
        cmocka_unit_test(test_encode_refuses_what_the_schema_does_not_allow),
        cmocka_unit_test(test_encode_keeps_to_the_size_it_is_given),
        cmocka_unit_test(test_frame_lengths),
        cmocka_unit_test(test_frame_is_length_and_message),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_tmk_types),
    };
    return cmocka_run_group_tests_name("wire", tests, read_vectors, drop_vectors);
}
