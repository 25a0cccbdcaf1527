#include "wire/transcript.h"

#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>

#include "common/fail.h"
#include "wire/template.h"

/* Each ends with the byte 0x01; the zero byte of C is no part of it. */
static const char c1_label[] = "TMKD-C1\x01";
static const char c2_label[] = "TMKD-C2\x01";
static const char c2_seed_label[] = "TMKD-C2-SEED\x01";
static const char confirm_label[] = "TMKD-CONFIRM\x01";

enum {
    C2_LABEL_LEN = sizeof(c2_label) - 1,
    C2_SEED_LABEL_LEN = sizeof(c2_seed_label) - 1,
    OAEP_OVERHEAD = 2 + 2 * DIGEST_LEN, /* RFC 8017 7.1.1: 0x00, seed, lHash, 0x01 */
};

/* Adds the DER of a template, the bare SEQUENCE, to a digest. */
static int digest_template(EVP_MD_CTX *sha, const ASN1_VALUE *template, const ASN1_ITEM *item)
{
    unsigned char *der = NULL;
    int len = ASN1_item_i2d(template, &der, item);
    int rc = len > 0 && EVP_DigestUpdate(sha, der, (size_t)len) ? 0 : FAIL_CRYPTO;
    OPENSSL_free(der);
    return rc < 0 ? fail_crypto("cannot hash a message") : 0;
}

static int digest_hello(EVP_MD_CTX *sha, const struct hello *hello)
{
    ASN1_VALUE *template = ASN1_item_new(ASN1_ITEM_rptr(HELLO));
    int rc = template ? hello_write(hello, (HELLO *)template) : fail(FAIL_MEMORY, "no memory");
    if (rc == 0)
        rc = digest_template(sha, template, ASN1_ITEM_rptr(HELLO));
    ASN1_item_free(template, ASN1_ITEM_rptr(HELLO));
    return rc;
}

static int digest_challenge_tbs(EVP_MD_CTX *sha, const struct challenge_tbs *tbs)
{
    ASN1_VALUE *template = ASN1_item_new(ASN1_ITEM_rptr(CHALLENGE_TBS));
    int rc = template ? challenge_tbs_write(tbs, (CHALLENGE_TBS *)template)
                      : fail(FAIL_MEMORY, "no memory");
    if (rc == 0)
        rc = digest_template(sha, template, ASN1_ITEM_rptr(CHALLENGE_TBS));
    ASN1_item_free(template, ASN1_ITEM_rptr(CHALLENGE_TBS));
    return rc;
}

static int digest_delivery(EVP_MD_CTX *sha, const struct delivery *delivery)
{
    ASN1_VALUE *template = ASN1_item_new(ASN1_ITEM_rptr(DELIVERY));
    int rc =
        template ? delivery_write(delivery, (DELIVERY *)template) : fail(FAIL_MEMORY, "no memory");
    if (rc == 0)
        rc = digest_template(sha, template, ASN1_ITEM_rptr(DELIVERY));
    ASN1_item_free(template, ASN1_ITEM_rptr(DELIVERY));
    return rc;
}

static EVP_MD_CTX *sha256_new(void)
{
    EVP_MD_CTX *sha = EVP_MD_CTX_new();
    if (sha && EVP_DigestInit_ex(sha, EVP_sha256(), NULL))
        return sha;
    EVP_MD_CTX_free(sha);
    return NULL;
}

static int sha256_finish(EVP_MD_CTX *sha, uint8_t ret_digest[static DIGEST_LEN])
{
    return EVP_DigestFinal_ex(sha, ret_digest, NULL) ? 0 : fail_crypto("SHA-256 failed");
}

int transcript_delivery_digest(const struct delivery *delivery,
                               uint8_t ret_digest[static DIGEST_LEN])
{
    EVP_MD_CTX *sha = sha256_new();
    int rc = sha ? digest_delivery(sha, delivery) : fail_crypto("no SHA-256");
    if (rc == 0)
        rc = sha256_finish(sha, ret_digest);
    EVP_MD_CTX_free(sha);
    return rc;
}

int transcript_hash(const struct hello *hello, const struct challenge_tbs *tbs,
                    uint8_t ret_h[static DIGEST_LEN])
{
    EVP_MD_CTX *sha = sha256_new();
    int rc = sha ? digest_hello(sha, hello) : fail_crypto("no SHA-256");
    if (rc == 0)
        rc = digest_challenge_tbs(sha, tbs);
    if (rc == 0)
        rc = sha256_finish(sha, ret_h);
    EVP_MD_CTX_free(sha);
    return rc;
}

void transcript_m1(const uint8_t rnd1[static RND_LEN], const uint8_t h[static DIGEST_LEN],
                   uint8_t ret_m1[static M1_LEN])
{
    uint8_t *at = mempcpy(ret_m1, c1_label, sizeof(c1_label) - 1);
    at = mempcpy(at, rnd1, RND_LEN);
    memcpy(at, h, DIGEST_LEN);
}

/* HMAC-SHA-256(key SHA-256(SPKI), "TMKD-C2-SEED\x01" || H): who has seen TKP_Pu can make it again,
 * who has only seen the messages cannot. */
static int c2_seed(const struct spki *tkp_pu, const uint8_t h[static DIGEST_LEN],
                   uint8_t ret_seed[static DIGEST_LEN])
{
    uint8_t input[C2_SEED_LABEL_LEN + DIGEST_LEN];
    memcpy(mempcpy(input, c2_seed_label, C2_SEED_LABEL_LEN), h, DIGEST_LEN);
    if (!HMAC(EVP_sha256(), tkp_pu->sha256, sizeof(tkp_pu->sha256), input, sizeof(input), ret_seed,
              NULL))
        return fail_crypto("HMAC-SHA-256 failed");
    return 0;
}

/* DB = lHash || PS || 0x01 || M, with L = "TMKD-C2\x01" || H (RFC 8017 7.1.1, step 2a to 2c). */
static void c2_data_block(const uint8_t rnd2[static RND_LEN], const uint8_t h[static DIGEST_LEN],
                          uint8_t *ret_db, size_t len)
{
    uint8_t label[C2_LABEL_LEN + DIGEST_LEN];
    memcpy(mempcpy(label, c2_label, C2_LABEL_LEN), h, DIGEST_LEN);
    memset(ret_db, 0, len);
    SHA256(label, sizeof(label), ret_db);
    ret_db[len - RND_LEN - 1] = 1;
    memcpy(ret_db + len - RND_LEN, rnd2, RND_LEN);
}

/* XORs MGF1-SHA-256(from) over bytes (RFC 8017 B.2.1). OpenSSL 3 deprecates its own. */
static void mgf1_mask(const uint8_t *from, size_t from_len, uint8_t *bytes, size_t len)
{
    uint8_t input[RSA_BLOCK_MAX + 4];
    uint8_t mask[DIGEST_LEN];

    memcpy(input, from, from_len);
    memset(input + from_len, 0, 4);
    for (size_t i = 0; i < len; i++) {
        if (i % DIGEST_LEN == 0) {
            /* The counter has four bytes; RSA_BLOCK_MAX / DIGEST_LEN fits the last. */
            input[from_len + 3] = (uint8_t)(i / DIGEST_LEN);
            SHA256(input, from_len + 4, mask);
        }
        bytes[i] ^= mask[i % DIGEST_LEN];
    }
    OPENSSL_cleanse(input, sizeof(input));
    OPENSSL_cleanse(mask, sizeof(mask));
}

int transcript_c2_block(const struct spki *tkp_pu, const uint8_t rnd2[static RND_LEN],
                        const uint8_t h[static DIGEST_LEN], uint8_t ret_em[static RSA_BLOCK_MAX])
{
    uint8_t em[RSA_BLOCK_MAX];
    uint8_t *seed = em + 1;
    uint8_t *db = seed + DIGEST_LEN;
    size_t k = tkp_pu->modulus_len;

    if (k < OAEP_OVERHEAD + RND_LEN || k > RSA_BLOCK_MAX)
        return fail(FAIL_REFUSED, "C2 does not fit a modulus of %zu bytes", k);
    size_t db_len = k - 1 - DIGEST_LEN;
    em[0] = 0;
    int rc = c2_seed(tkp_pu, h, seed);
    if (rc == 0) {
        c2_data_block(rnd2, h, db, db_len);
        mgf1_mask(seed, DIGEST_LEN, db, db_len);
        mgf1_mask(db, db_len, seed, DIGEST_LEN);
        memcpy(ret_em, em, k);
    }
    OPENSSL_cleanse(em, sizeof(em));
    return rc;
}

void transcript_confirm_input(const uint8_t h[static DIGEST_LEN],
                              const uint8_t delivery_digest[static DIGEST_LEN],
                              uint8_t ret_input[static CONFIRM_INPUT_LEN])
{
    uint8_t *at = mempcpy(ret_input, confirm_label, sizeof(confirm_label) - 1);
    at = mempcpy(at, h, DIGEST_LEN);
    memcpy(at, delivery_digest, DIGEST_LEN);
}
