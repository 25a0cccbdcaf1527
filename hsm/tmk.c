#include "hsm/tmk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fail.h"
#include "hsm/cryptoki.h"

/* What a TMK may do, wherever it is: be wrapped, and make MACs (CMAC). CKA_MODIFIABLE is last
 * because SoftHSM's C_UnwrapKey takes no attribute more after it. */
#define TMK_ATTRIBUTES                                                                             \
    ATTRIBUTE(CKA_PRIVATE, token_true), ATTRIBUTE(CKA_SENSITIVE, token_true),                      \
        ATTRIBUTE(CKA_EXTRACTABLE, token_true), ATTRIBUTE(CKA_SIGN, token_true),                   \
        ATTRIBUTE(CKA_VERIFY, token_true), ATTRIBUTE(CKA_ENCRYPT, token_false),                    \
        ATTRIBUTE(CKA_DECRYPT, token_false), ATTRIBUTE(CKA_WRAP, token_false),                     \
        ATTRIBUTE(CKA_UNWRAP, token_false), ATTRIBUTE(CKA_DERIVE, token_false),                    \
        ATTRIBUTE(CKA_MODIFIABLE, token_false)

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const char label[] = "TMK";

static CK_MECHANISM_TYPE generation_of(enum tmk_type type)
{
    switch (type) {
    case TMK_DES2:
        return CKM_DES2_KEY_GEN;
    case TMK_DES3:
        return CKM_DES3_KEY_GEN;
    default:
        return CKM_AES_KEY_GEN;
    }
}

CK_KEY_TYPE tmk_key_type(enum tmk_type type)
{
    switch (type) {
    case TMK_DES2:
        return CKK_DES2;
    case TMK_DES3:
        return CKK_DES3;
    default:
        return CKK_AES;
    }
}

/* ANSI X9.24-1 annex A: TDEA, the first three bytes of a zero block encrypted, which is what
 * CKA_CHECK_VALUE holds (PKCS#11 v2.40 4.9.1); AES, the first five of the CMAC of a zero block,
 * which it does not. */
static int check_value(struct token_session *session, token_handle tmk, struct tmk_info *info)
{
    static const uint8_t zeros[16];
    uint8_t value[MAC_MAX];
    size_t len;
    int rc = tmk_type_is_aes(info->type)
                 ? tmk_mac(session, info->type, tmk, zeros, sizeof(zeros), value, &len)
                 : token_attribute(session, tmk, CKA_CHECK_VALUE, value, sizeof(value), &len);
    if (rc < 0)
        return fail_in(rc, "KCV of a new TMK");
    info->kcv_len = tmk_type_kcv_len(info->type);
    if (len < info->kcv_len)
        return fail(FAIL_TOKEN, "the token gave a check value of %zu bytes, too short", len);
    memcpy(info->kcv, value, info->kcv_len);
    return 0;
}

size_t tmk_id(const char *sn, uint32_t version, char ret_id[static TMK_ID_MAX + 1])
{
    return (size_t)snprintf(ret_id, TMK_ID_MAX + 1, "%s/%u", sn, version);
}

/* CKA_VALUE_LEN is last in a template and is left out for DES (PKCS#11 v2.40 2.9.2). */
static int generate(struct token_session *session, enum tmk_type type, CK_ATTRIBUTE *attributes,
                    CK_ULONG count, token_handle *ret_tmk)
{
    return token_generate(session, generation_of(type), attributes,
                          tmk_type_is_aes(type) ? count : count - 1, "TMK", ret_tmk);
}

int tmk_generate(struct token_session *session, const char *sn, struct tmk_info *info,
                 token_handle *ret_tmk)
{
    char id[TMK_ID_MAX + 1];
    size_t id_len = tmk_id(sn, info->version, id);
    CK_ULONG key_len = tmk_type_key_len(info->type);
    CK_ATTRIBUTE attributes[] = {
        TMK_ATTRIBUTES,
        ATTRIBUTE(CKA_TOKEN, token_true),
        ATTRIBUTE_BYTES(CKA_LABEL, label, strlen(label)),
        ATTRIBUTE_BYTES(CKA_ID, id, id_len),
        ATTRIBUTE(CKA_VALUE_LEN, key_len),
    };
    token_handle tmk;
    int rc = generate(session, info->type, attributes, COUNT(attributes), &tmk);
    if (rc < 0)
        return rc;
    if ((rc = check_value(session, tmk, info)) < 0) {
        TOKEN_CALL(session->token, C_DestroyObject, session->handle, tmk);
        return rc;
    }
    *ret_tmk = tmk;
    return 0;
}

int tmk_generate_decoy(struct token_session *session, enum tmk_type type, token_handle *ret_tmk)
{
    CK_ULONG key_len = tmk_type_key_len(type);
    CK_ATTRIBUTE attributes[] = {
        TMK_ATTRIBUTES,
        ATTRIBUTE(CKA_TOKEN, token_false),
        ATTRIBUTE(CKA_VALUE_LEN, key_len),
    };
    return generate(session, type, attributes, COUNT(attributes), ret_tmk);
}

static CK_MECHANISM_TYPE wrap_mechanism(enum tmk_wrap wrap)
{
    return wrap == TMK_WRAP_KWP ? CKM_AES_KEY_WRAP_PAD : CKM_AES_KEY_WRAP;
}

int tmk_generate_wrapped(struct token_session *session, const struct keyring *keyring,
                         struct tmk_info *info, uint8_t ret_blob[static TMK_BLOB_MAX],
                         size_t *ret_len)
{
    CK_MECHANISM mechanism = {wrap_mechanism(keyring->wrap), NULL, 0};
    CK_ULONG len = TMK_BLOB_MAX;
    token_handle tmk;
    int rc = tmk_generate_decoy(session, info->type, &tmk);
    if (rc < 0)
        return rc;
    if ((rc = check_value(session, tmk, info)) == 0)
        rc = token_result(TOKEN_CALL(session->token, C_WrapKey, session->handle, &mechanism,
                                     keyring->kek, tmk, ret_blob, &len),
                          "C_WrapKey", "TMK under TMK-KEK");
    TOKEN_CALL(session->token, C_DestroyObject, session->handle, tmk);
    if (rc == 0)
        *ret_len = len;
    return rc;
}

int tmk_unwrap(struct token_session *session, const struct keyring *keyring, enum tmk_wrap wrap,
               enum tmk_type type, const uint8_t *blob, size_t len, token_handle *ret_tmk)
{
    CK_MECHANISM mechanism = {wrap_mechanism(wrap), NULL, 0};
    CK_ATTRIBUTE attributes[] = {
        ATTRIBUTE(CKA_CLASS, (CK_OBJECT_CLASS){CKO_SECRET_KEY}),
        ATTRIBUTE(CKA_KEY_TYPE, (CK_KEY_TYPE){tmk_key_type(type)}),
        ATTRIBUTE(CKA_TOKEN, token_false),
        TMK_ATTRIBUTES,
    };
    return token_result(TOKEN_CALL(session->token, C_UnwrapKey, session->handle, &mechanism,
                                   keyring->kek, (CK_BYTE *)(uintptr_t)blob, len, attributes,
                                   COUNT(attributes), ret_tmk),
                        "C_UnwrapKey", "TMK under TMK-KEK");
}

int tmk_wrap_for_terminal(struct token_session *session, token_handle tkp_pu, token_handle tmk,
                          enum oaep_hash hash, uint8_t ret_ctmk[static RSA_BLOCK_MAX],
                          size_t *ret_len)
{
    CK_RSA_PKCS_OAEP_PARAMS oaep = {
        .hashAlg = hash == OAEP_SHA256 ? CKM_SHA256 : CKM_SHA_1,
        .mgf = hash == OAEP_SHA256 ? CKG_MGF1_SHA256 : CKG_MGF1_SHA1,
        .source = CKZ_DATA_SPECIFIED,
    };
    CK_MECHANISM mechanism = {CKM_RSA_PKCS_OAEP, &oaep, sizeof(oaep)};
    CK_ULONG len = RSA_BLOCK_MAX;
    int rc = token_result(TOKEN_CALL(session->token, C_WrapKey, session->handle, &mechanism, tkp_pu,
                                     tmk, ret_ctmk, &len),
                          "C_WrapKey", "TMK under TKP_Pu");
    if (rc == 0)
        *ret_len = len;
    return rc;
}

int tmk_mac(struct token_session *session, enum tmk_type type, token_handle tmk,
            const uint8_t *input, size_t input_len, uint8_t ret_mac[static MAC_MAX],
            size_t *ret_len)
{
    return token_sign(session, tmk_type_is_aes(type) ? CKM_AES_CMAC : CKM_DES3_CMAC, tmk, input,
                      input_len, ret_mac, MAC_MAX, ret_len);
}

enum { LIST_FIRST = 1024, LIST_MOST = 1 << 22 };

/* All TMK handles: C_FindObjects needs room for them before their number is known. */
static int find_all(struct token_session *session, token_handle **ret_handles, size_t *ret_count)
{
    CK_ATTRIBUTE attributes[] = {
        ATTRIBUTE(CKA_CLASS, (CK_OBJECT_CLASS){CKO_SECRET_KEY}),
        ATTRIBUTE(CKA_TOKEN, token_true),
        ATTRIBUTE_BYTES(CKA_LABEL, label, strlen(label)),
    };
    for (size_t size = LIST_FIRST; size <= LIST_MOST; size *= 8) {
        size_t count;
        token_handle *handles = calloc(size, sizeof(*handles));
        if (!handles)
            return fail(FAIL_MEMORY, "no memory for %zu TMK handles", size);
        int rc = token_search(session, attributes, COUNT(attributes), handles, size, &count);
        if (rc == 0 && count < size) {
            *ret_handles = handles;
            *ret_count = count;
            return 0;
        }
        free(handles);
        if (rc < 0)
            return rc;
    }
    return fail(FAIL_TOKEN, "the token holds more than %d TMKs; use tmk.store = wrapped",
                LIST_MOST);
}

int tmk_list(struct token_session *session, tmk_each *each, void *context)
{
    token_handle *handles = NULL;
    size_t count = 0;
    int rc = find_all(session, &handles, &count);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < count && rc == 0; i++) {
        char id[TMK_ID_MAX];
        size_t id_len;
        rc = token_attribute(session, handles[i], CKA_ID, id, sizeof(id), &id_len);
        if (rc == 0)
            rc = each(context, id, id_len, handles[i]);
        else if (rc == FAIL_NOT_FOUND || rc == FAIL_MALFORMED)
            rc = 0; /* another program's, or what a C_GenerateKey that failed has left */
    }
    free(handles);
    return rc;
}
