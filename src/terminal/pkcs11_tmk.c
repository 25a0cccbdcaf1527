#include "terminal/pkcs11_tmk.h"

#include <stdio.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/err.h>

#include "common/fail.h"
#include "common/hex.h"
#include "hsm/cryptoki.h"
#include "hsm/tmk.h"
#include "terminal/pkcs11_module.h"

enum {
    STORED_MAX = 16, /* TMKs in the token: two after an installation that was cut off, else one */
    ID_MAX = 63,     /* bytes of CKA_ID */
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static char tmk_label[] = "TMK";

/* --- what is stored --- */

static void write_id(const struct pkcs11_tmk *tmk, char ret_id[static ID_MAX + 1])
{
    char kcv[2 * KCV_MAX + 1];
    snprintf(ret_id, ID_MAX + 1, "%u/%s/%u/%s", tmk->generation, tmk_type_name(tmk->info.type),
             tmk->info.version, hex_encode(tmk->info.kcv, tmk->info.kcv_len, kcv));
}

static int read_id(const char *id, struct pkcs11_tmk *ret_tmk)
{
    struct pkcs11_tmk tmk = {0};
    char type[16];
    char kcv[2 * KCV_MAX + 1];

    if (sscanf(id, "%u/%15[^/]/%u/%10s", &tmk.generation, type, &tmk.info.version, kcv) != 4 ||
        tmk_type_from_name(type, &tmk.info.type) < 0 ||
        !OPENSSL_hexstr2buf_ex(tmk.info.kcv, KCV_MAX, &tmk.info.kcv_len, kcv, '\0')) {
        ERR_clear_error();
        return fail(FAIL_MALFORMED, "a TMK in the token has CKA_ID '%s', which is none of ours",
                    id);
    }
    tmk.key = ret_tmk->key;
    *ret_tmk = tmk;
    return 0;
}

static int list(struct token_session *session, struct pkcs11_tmk ret_tmks[static STORED_MAX],
                size_t *ret_count)
{
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_ATTRIBUTE attributes[] = {
        ATTRIBUTE(CKA_CLASS, class),
        ATTRIBUTE(CKA_TOKEN, token_true),
        ATTRIBUTE_BYTES(CKA_LABEL, tmk_label, strlen(tmk_label)),
    };
    token_handle found[STORED_MAX];
    size_t count = 0;
    int rc = token_search(session, attributes, COUNT(attributes), found, STORED_MAX, &count);

    for (size_t i = 0; rc == 0 && i < count; i++) {
        char id[ID_MAX + 1] = "";
        size_t len;
        ret_tmks[i].key = found[i];
        rc = token_attribute(session, found[i], CKA_ID, id, ID_MAX, &len);
        if (rc == 0)
            rc = read_id(id, &ret_tmks[i]);
    }
    if (rc == 0)
        *ret_count = count;
    return rc;
}

int pkcs11_tmk_find(struct token_session *session, struct pkcs11_tmk *ret_tmk)
{
    struct pkcs11_tmk tmks[STORED_MAX];
    size_t count = 0;
    int rc = list(session, tmks, &count);

    if (rc < 0)
        return rc;
    if (count == 0)
        return fail(FAIL_NOT_FOUND, "there is no TMK in the secure module yet");
    const struct pkcs11_tmk *newest = &tmks[0];
    for (size_t i = 1; i < count; i++)
        if (tmks[i].generation > newest->generation)
            newest = &tmks[i];
    *ret_tmk = *newest;
    return 0;
}

int pkcs11_module_tmk(struct token_session *session, struct tmk_info *ret_tmk)
{
    struct pkcs11_tmk tmk;
    int rc = pkcs11_tmk_find(session, &tmk);

    if (rc == 0)
        *ret_tmk = tmk.info;
    return rc;
}

int pkcs11_tmk_sweep(struct token_session *session, unsigned generation)
{
    struct pkcs11_tmk tmks[STORED_MAX];
    size_t count = 0;
    int rc = list(session, tmks, &count);

    for (size_t i = 0; rc == 0 && i < count; i++)
        if (tmks[i].generation < generation)
            rc = token_destroy(session, tmks[i].key);
    return rc;
}

/* --- taking one in --- */

/* TMK = D[TKP_Pr, Ctmk] (S311) as a session object, so that nothing is kept of a key that proves
 * wrong. A TDEA key may encrypt here, for its KCV; what is stored may not. */
static int unwrap(struct token_session *session, token_handle tkp_pr,
                  const struct delivery *delivery, token_handle *ret_tmk)
{
    int sha256 = delivery->transport == OAEP_SHA256;
    CK_RSA_PKCS_OAEP_PARAMS oaep = {
        .hashAlg = sha256 ? CKM_SHA256 : CKM_SHA_1,
        .mgf = sha256 ? CKG_MGF1_SHA256 : CKG_MGF1_SHA1,
        .source = CKZ_DATA_SPECIFIED,
    };
    CK_MECHANISM mechanism = {CKM_RSA_PKCS_OAEP, &oaep, sizeof(oaep)};
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = tmk_key_type(delivery->tmk.type);
    CK_BBOOL encrypt = !tmk_type_is_aes(delivery->tmk.type);
    CK_ATTRIBUTE attributes[] = {
        ATTRIBUTE(CKA_CLASS, class),          ATTRIBUTE(CKA_KEY_TYPE, type),
        ATTRIBUTE(CKA_TOKEN, token_false),    ATTRIBUTE(CKA_PRIVATE, token_true),
        ATTRIBUTE(CKA_SENSITIVE, token_true), ATTRIBUTE(CKA_EXTRACTABLE, token_false),
        ATTRIBUTE(CKA_SIGN, token_true),      ATTRIBUTE(CKA_VERIFY, token_false),
        ATTRIBUTE(CKA_ENCRYPT, encrypt),      ATTRIBUTE(CKA_DECRYPT, token_false),
        ATTRIBUTE(CKA_WRAP, token_false),     ATTRIBUTE(CKA_UNWRAP, token_false),
        ATTRIBUTE(CKA_DERIVE, token_false),
    };
    CK_RV rv = TOKEN_CALL(session->token, C_UnwrapKey, session->handle, &mechanism, tkp_pr,
                          (CK_BYTE *)(uintptr_t)delivery->ctmk, delivery->ctmk_len, attributes,
                          COUNT(attributes), ret_tmk);
    return token_result(rv, "C_UnwrapKey",
                        sha256 ? "Ctmk (OAEP with SHA-256, which this token may not know)"
                               : "Ctmk");
}

/* Where the token says how long an unwrapped key is: DES keys have no CKA_VALUE_LEN, and SoftHSM
 * has 0 there. Elsewhere the KCV must do. */
static int check_length(struct token_session *session, token_handle tmk, enum tmk_type type)
{
    CK_ULONG bytes = 0;
    size_t len;
    int rc = token_attribute(session, tmk, CKA_VALUE_LEN, &bytes, sizeof(bytes), &len);

    if (rc < 0 && rc != FAIL_NOT_FOUND)
        return rc;
    if (bytes != 0 && bytes != tmk_type_key_len(type))
        return fail(FAIL_REFUSED, "Ctmk holds a key of %lu bytes, which is no %s", bytes,
                    tmk_type_name(type));
    return 0;
}

/* ANSI X9.24-1: TDEA, a zero block encrypted, 3 bytes; AES, the CMAC of a zero block, 5 bytes.
 * CKA_CHECK_VALUE is of no use: unwrapped keys have none in SoftHSM, and for AES it is ECB. */
static int check_kcv(struct token_session *session, token_handle tmk, const struct tmk_info *info)
{
    static const uint8_t zeros[MAC_MAX];
    uint8_t block[MAC_MAX];
    size_t block_len = tmk_type_mac_len(info->type);
    int rc = tmk_type_is_aes(info->type)
                 ? tmk_mac(session, info->type, tmk, zeros, block_len, block, &block_len)
                 : token_encrypt(session, CKM_DES3_ECB, tmk, zeros, block_len, block, sizeof(block),
                                 &block_len);

    if (rc < 0)
        return fail_in(rc, "KCV");
    if (info->kcv_len != tmk_type_kcv_len(info->type) || block_len < info->kcv_len ||
        CRYPTO_memcmp(block, info->kcv, info->kcv_len) != 0)
        return fail(FAIL_REFUSED, "the KCV of the unwrapped TMK is not the one delivered with it; "
                                  "the key is destroyed, the one before stays");
    return 0;
}

static int next_generation(struct token_session *session, unsigned *ret_generation)
{
    struct pkcs11_tmk before = {0};
    int rc = pkcs11_tmk_find(session, &before);

    if (rc < 0 && rc != FAIL_NOT_FOUND)
        return rc;
    *ret_generation = before.generation + 1;
    return 0;
}

/* Stored before the older one goes: a kill in between leaves two, and the newest counts. */
static int store(struct token_session *session, token_handle unwrapped, struct pkcs11_tmk *tmk)
{
    char id[ID_MAX + 1];
    CK_ATTRIBUTE attributes[] = {
        ATTRIBUTE_BYTES(CKA_ID, id, 0), /* first: its length comes below */
        ATTRIBUTE_BYTES(CKA_LABEL, tmk_label, strlen(tmk_label)),
        ATTRIBUTE(CKA_TOKEN, token_true),
        ATTRIBUTE(CKA_ENCRYPT, token_false),
        ATTRIBUTE(CKA_MODIFIABLE, token_false), /* last: SoftHSM takes them in turn */
    };
    int rc = next_generation(session, &tmk->generation);

    if (rc < 0)
        return rc;
    write_id(tmk, id);
    attributes[0].ulValueLen = strlen(id);
    rc = token_result(TOKEN_CALL(session->token, C_CopyObject, session->handle, unwrapped,
                                 attributes, COUNT(attributes), &tmk->key),
                      "C_CopyObject", tmk_label);
    return rc == 0 ? pkcs11_tmk_sweep(session, tmk->generation) : rc;
}

int pkcs11_tmk_install(struct token_session *session, token_handle tkp_pr,
                       const struct delivery *delivery)
{
    struct pkcs11_tmk tmk = {.info = delivery->tmk};
    token_handle unwrapped;
    int rc = unwrap(session, tkp_pr, delivery, &unwrapped);

    if (rc < 0)
        return rc;
    rc = check_length(session, unwrapped, delivery->tmk.type);
    if (rc == 0)
        rc = check_kcv(session, unwrapped, &delivery->tmk);
    if (rc == 0)
        rc = store(session, unwrapped, &tmk);
    TOKEN_CALL(session->token, C_DestroyObject, session->handle, unwrapped);
    return rc;
}
