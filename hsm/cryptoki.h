#ifndef HSM_CRYPTOKI_H
#define HSM_CRYPTOKI_H

/* The CK_* side of hsm/token.h: for the files of hsm/ and the terminal's PKCS#11 module. */

#include <pthread.h>
#include <stdatomic.h>

#include <p11-kit/pkcs11.h>

#include "hsm/token.h"
#include "wire/message.h"

enum { RANDOM_BLOCK = 1024 };

struct token {
    void *library;
    CK_FUNCTION_LIST *cryptoki;
    CK_SLOT_ID slot;
    CK_SESSION_HANDLE keeper_session; /* stays open: closing the last session logs out */
    pthread_mutex_t creation;         /* SoftHSM: C_GenerateKey beside C_FindObjects fails (#573) */
    _Atomic uint64_t calls;
};

struct token_session {
    struct token *token;
    CK_SESSION_HANDLE handle;
    size_t random_left;
    uint8_t random[RANDOM_BLOCK];
};

/* Calls session->token->cryptoki->C_x(...), counts it and yields the CK_RV. */
#define TOKEN_CALL(t, function, ...)                                                               \
    (atomic_fetch_add_explicit(&(t)->calls, 1, memory_order_relaxed),                              \
     (t)->cryptoki->function(__VA_ARGS__))

/* 0 for CKR_OK; else FAIL_TOKEN, FAIL_TOKEN_LOST or FAIL_REFUSED (PIN) and the sentence
 * "CALL: CKR_NAME (0x...)", with what before it. */
int token_result(CK_RV rv, const char *call, const char *what);

/* Attributes of a template: {type, address, size}. A value may be a compound literal, as in
 * ATTRIBUTE(CKA_TOKEN, token_true); it lives as long as the block it is in. Cryptoki's templates
 * are not const though C_ calls only read them, hence the cast. */
#define ATTRIBUTE(type, variable)                                                                  \
    {                                                                                              \
        (type), &(variable), sizeof(variable)                                                      \
    }
#define ATTRIBUTE_BYTES(type, address, length)                                                     \
    {                                                                                              \
        (type), (void *)(uintptr_t)(address), (length)                                             \
    }
#define token_true  ((CK_BBOOL){CK_TRUE})
#define token_false ((CK_BBOOL){CK_FALSE})

/* C_GenerateKey; what names the key in a sentence. One at a time in this process, and none beside
 * a search: see struct token. */
int token_generate(struct token_session *session, CK_MECHANISM_TYPE generation,
                   CK_ATTRIBUTE *attributes, CK_ULONG count, const char *what,
                   token_handle *ret_key);

/* Objects that match the template: at most size handles, *ret_count the number found. */
int token_search(struct token_session *session, CK_ATTRIBUTE *attributes, CK_ULONG count,
                 token_handle *ret_handles, size_t size, size_t *ret_count);

/* The one object that matches: FAIL_NOT_FOUND when none, FAIL_REFUSED when several. what names
 * it in the sentence. */
int token_search_one(struct token_session *session, CK_ATTRIBUTE *attributes, CK_ULONG count,
                     const char *what, token_handle *ret_handle);

/* One attribute's bytes. FAIL_NOT_FOUND when the object has none of it or it is empty,
 * FAIL_MALFORMED when it has more than size. */
int token_attribute(struct token_session *session, token_handle object, CK_ATTRIBUTE_TYPE type,
                    void *ret_value, size_t size, size_t *ret_len);

/* C_SignInit + C_Sign in one; ret_signature holds size bytes. */
int token_sign(struct token_session *session, CK_MECHANISM_TYPE mechanism, token_handle key,
               const uint8_t *data, size_t data_len, uint8_t *ret_signature, size_t size,
               size_t *ret_len);

/* C_EncryptInit + C_Encrypt in one; ret_bytes holds size bytes. */
int token_encrypt(struct token_session *session, CK_MECHANISM_TYPE mechanism, token_handle key,
                  const uint8_t *data, size_t data_len, uint8_t *ret_bytes, size_t size,
                  size_t *ret_len);

/* CKK_DES2, CKK_DES3 or CKK_AES. */
CK_KEY_TYPE tmk_key_type(enum tmk_type type);

#endif
