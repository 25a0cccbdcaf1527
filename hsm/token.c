#include "hsm/cryptoki.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

#include "common/fail.h"

enum { SLOTS_MAX = 64 };

/* clang-format off */
#define NAME(rv) {rv, #rv}
/* clang-format on */

static const struct {
    CK_RV rv;
    const char *name;
} names[] = {NAME(CKR_ACTION_PROHIBITED),
             NAME(CKR_ARGUMENTS_BAD),
             NAME(CKR_ATTRIBUTE_READ_ONLY),
             NAME(CKR_ATTRIBUTE_SENSITIVE),
             NAME(CKR_ATTRIBUTE_TYPE_INVALID),
             NAME(CKR_ATTRIBUTE_VALUE_INVALID),
             NAME(CKR_BUFFER_TOO_SMALL),
             NAME(CKR_CRYPTOKI_ALREADY_INITIALIZED),
             NAME(CKR_CRYPTOKI_NOT_INITIALIZED),
             NAME(CKR_DATA_LEN_RANGE),
             NAME(CKR_DEVICE_ERROR),
             NAME(CKR_DEVICE_MEMORY),
             NAME(CKR_DEVICE_REMOVED),
             NAME(CKR_ENCRYPTED_DATA_INVALID),
             NAME(CKR_FUNCTION_FAILED),
             NAME(CKR_GENERAL_ERROR),
             NAME(CKR_HOST_MEMORY),
             NAME(CKR_KEY_FUNCTION_NOT_PERMITTED),
             NAME(CKR_KEY_HANDLE_INVALID),
             NAME(CKR_KEY_NOT_WRAPPABLE),
             NAME(CKR_KEY_SIZE_RANGE),
             NAME(CKR_KEY_TYPE_INCONSISTENT),
             NAME(CKR_KEY_UNEXTRACTABLE),
             NAME(CKR_MECHANISM_INVALID),
             NAME(CKR_MECHANISM_PARAM_INVALID),
             NAME(CKR_OBJECT_HANDLE_INVALID),
             NAME(CKR_OPERATION_ACTIVE),
             NAME(CKR_PIN_INCORRECT),
             NAME(CKR_PIN_LEN_RANGE),
             NAME(CKR_PIN_LOCKED),
             NAME(CKR_SESSION_CLOSED),
             NAME(CKR_SESSION_COUNT),
             NAME(CKR_SESSION_HANDLE_INVALID),
             NAME(CKR_SLOT_ID_INVALID),
             NAME(CKR_TEMPLATE_INCOMPLETE),
             NAME(CKR_TEMPLATE_INCONSISTENT),
             NAME(CKR_TOKEN_NOT_PRESENT),
             NAME(CKR_TOKEN_NOT_RECOGNIZED),
             NAME(CKR_TOKEN_WRITE_PROTECTED),
             NAME(CKR_UNWRAPPING_KEY_HANDLE_INVALID),
             NAME(CKR_USER_ALREADY_LOGGED_IN),
             NAME(CKR_USER_NOT_LOGGED_IN),
             NAME(CKR_USER_PIN_NOT_INITIALIZED),
             NAME(CKR_WRAPPED_KEY_INVALID),
             NAME(CKR_WRAPPED_KEY_LEN_RANGE),
             NAME(CKR_WRAPPING_KEY_HANDLE_INVALID)};

static const char *result_name(CK_RV rv)
{
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (names[i].rv == rv)
            return names[i].name;
    return "a CKR_ value";
}

static enum fail result_code(CK_RV rv)
{
    switch (rv) {
    case CKR_PIN_INCORRECT:
    case CKR_PIN_LOCKED:
    case CKR_PIN_LEN_RANGE:
        return FAIL_REFUSED;
    case CKR_DEVICE_ERROR:
    case CKR_DEVICE_REMOVED:
    case CKR_TOKEN_NOT_PRESENT:
    case CKR_SESSION_HANDLE_INVALID:
    case CKR_SESSION_CLOSED:
    case CKR_USER_NOT_LOGGED_IN:
    case CKR_CRYPTOKI_NOT_INITIALIZED:
        return FAIL_TOKEN_LOST;
    default:
        return FAIL_TOKEN;
    }
}

int token_result(CK_RV rv, const char *call, const char *what)
{
    if (rv == CKR_OK)
        return 0;
    return fail(result_code(rv), "%s: %s: %s (0x%lx)", what, call, result_name(rv), rv);
}

static int set_environment(char *const *environment, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char name[64];
        const char *equals = strchr(environment[i], '=');
        if (!equals || (size_t)(equals - environment[i]) >= sizeof(name))
            return fail(FAIL_CONFIG, "token.environment: '%s' is not NAME=value", environment[i]);
        size_t len = (size_t)(equals - environment[i]);
        memcpy(name, environment[i], len);
        name[len] = '\0';
        if (setenv(name, equals + 1, 1) < 0)
            return fail_system("token.environment: cannot set %s", name);
    }
    return 0;
}

static int load_module(struct token *token, const char *module)
{
    token->library = dlopen(module, RTLD_NOW | RTLD_LOCAL);
    if (!token->library)
        return fail(FAIL_CONFIG, "cannot load the PKCS#11 module: %s", dlerror());
    void *symbol = dlsym(token->library, "C_GetFunctionList");
    if (!symbol)
        return fail(FAIL_CONFIG, "%s is no PKCS#11 module: it has no C_GetFunctionList", module);
    CK_C_GetFunctionList get_list;
    memcpy(&get_list, &symbol, sizeof(symbol)); /* ISO C has no cast for this */
    return token_result(get_list(&token->cryptoki), "C_GetFunctionList", module);
}

/* The settings of a module in token.environment are the first thing that goes wrong with it. */
static int initialise(struct token *token, const char *module, int has_environment)
{
    CK_C_INITIALIZE_ARGS arguments = {.flags = CKF_OS_LOCKING_OK};
    CK_RV rv = TOKEN_CALL(token, C_Initialize, &arguments);

    if (rv == CKR_OK || !has_environment)
        return token_result(rv, "C_Initialize", module);
    return fail(result_code(rv),
                "%s: C_Initialize: %s (0x%lx); does token.environment name the module's settings "
                "as they are now (an embedded directory that was moved has two absolute paths: "
                "SOFTHSM2_CONF in tmkd.conf, directories.tokendir in softhsm2.conf)?",
                module, result_name(rv), rv);
}

int token_load(const char *module, char *const *environment, size_t environment_count,
               struct token **ret_token)
{
    int rc = set_environment(environment, environment_count);
    if (rc < 0)
        return rc;
    struct token *token = calloc(1, sizeof(*token));
    if (!token)
        return fail(FAIL_MEMORY, "no memory for the token");
    pthread_mutex_init(&token->creation, NULL);
    if ((rc = load_module(token, module)) == 0)
        rc = initialise(token, module, environment_count > 0);
    if (rc < 0) {
        if (token->library)
            dlclose(token->library);
        pthread_mutex_destroy(&token->creation);
        free(token);
        return rc;
    }
    *ret_token = token;
    return 0;
}

void token_unload(struct token *token)
{
    if (!token)
        return;
    if (token->keeper_session)
        TOKEN_CALL(token, C_CloseAllSessions, token->slot);
    TOKEN_CALL(token, C_Finalize, NULL);
    /* The library stays mapped: SoftHSM and its OpenSSL leave handlers behind that run at exit. */
    pthread_mutex_destroy(&token->creation);
    free(token);
}

/* PKCS#11 pads labels with blanks to 32 and has no terminating zero (v2.40 4.1). */
static void label_text(const CK_UTF8CHAR *padded, char ret_text[static TOKEN_LABEL_MAX + 1])
{
    size_t len = TOKEN_LABEL_MAX;
    while (len > 0 && padded[len - 1] == ' ')
        len--;
    memcpy(ret_text, padded, len);
    ret_text[len] = '\0';
}

static int list_slots(struct token *token, CK_SLOT_ID slots[static SLOTS_MAX], CK_ULONG *ret_count)
{
    *ret_count = SLOTS_MAX;
    return token_result(TOKEN_CALL(token, C_GetSlotList, CK_TRUE, slots, ret_count),
                        "C_GetSlotList", "the PKCS#11 module");
}

int token_find(struct token *token, const char *label)
{
    CK_SLOT_ID slots[SLOTS_MAX];
    CK_ULONG count;
    char others[512] = "";
    int rc = list_slots(token, slots, &count);
    if (rc < 0)
        return rc;
    for (CK_ULONG i = 0; i < count; i++) {
        CK_TOKEN_INFO info;
        char text[TOKEN_LABEL_MAX + 1];
        if (TOKEN_CALL(token, C_GetTokenInfo, slots[i], &info) != CKR_OK ||
            !(info.flags & CKF_TOKEN_INITIALIZED))
            continue;
        label_text(info.label, text);
        if (strcmp(text, label) == 0) {
            token->slot = slots[i];
            return 0;
        }
        size_t used = strlen(others);
        snprintf(others + used, sizeof(others) - used, " '%s'", text);
    }
    return fail(FAIL_NOT_FOUND, "the PKCS#11 module has no token with label '%s'; it has:%s", label,
                others[0] ? others : " none");
}

static int find_blank_slot(struct token *token, CK_SLOT_ID *ret_slot)
{
    CK_SLOT_ID slots[SLOTS_MAX];
    CK_ULONG count;
    int rc = list_slots(token, slots, &count);
    if (rc < 0)
        return rc;
    for (CK_ULONG i = 0; i < count; i++) {
        CK_TOKEN_INFO info;
        if (TOKEN_CALL(token, C_GetTokenInfo, slots[i], &info) == CKR_OK &&
            !(info.flags & CKF_TOKEN_INITIALIZED)) {
            *ret_slot = slots[i];
            return 0;
        }
    }
    return fail(FAIL_NOT_FOUND, "the PKCS#11 module has no free slot for a new token");
}

static int set_user_pin(struct token *token, const char *so_pin, const char *pin)
{
    CK_SESSION_HANDLE session;
    CK_UTF8CHAR bytes[TOKEN_PIN_MAX];
    int rc = token_result(TOKEN_CALL(token, C_OpenSession, token->slot,
                                     CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session),
                          "C_OpenSession", "new token");
    if (rc < 0)
        return rc;
    memcpy(bytes, so_pin, strlen(so_pin));
    rc = token_result(TOKEN_CALL(token, C_Login, session, CKU_SO, bytes, strlen(so_pin)), "C_Login",
                      "new token, as SO");
    if (rc == 0) {
        memcpy(bytes, pin, strlen(pin));
        rc = token_result(TOKEN_CALL(token, C_InitPIN, session, bytes, strlen(pin)), "C_InitPIN",
                          "new token");
        TOKEN_CALL(token, C_Logout, session);
    }
    OPENSSL_cleanse(bytes, sizeof(bytes));
    TOKEN_CALL(token, C_CloseSession, session);
    return rc;
}

int token_initialise(struct token *token, const char *label, const char *so_pin, const char *pin)
{
    CK_UTF8CHAR padded[TOKEN_LABEL_MAX];
    CK_UTF8CHAR bytes[TOKEN_PIN_MAX];
    CK_SLOT_ID slot = 0;
    int rc = token_find(token, label);

    if (rc == 0)
        return fail(FAIL_EXISTS, "there is a token with label '%s' already", label);
    if (rc != FAIL_NOT_FOUND)
        return rc;
    if (strlen(label) > TOKEN_LABEL_MAX || strlen(so_pin) > TOKEN_PIN_MAX ||
        strlen(pin) > TOKEN_PIN_MAX)
        return fail(FAIL_CONFIG, "a token label has at most %d bytes, a PIN %d", TOKEN_LABEL_MAX,
                    TOKEN_PIN_MAX);
    if ((rc = find_blank_slot(token, &slot)) < 0)
        return rc;
    memset(padded, ' ', sizeof(padded));
    memcpy(padded, label, strlen(label));
    memcpy(bytes, so_pin, strlen(so_pin));
    rc = token_result(TOKEN_CALL(token, C_InitToken, slot, bytes, strlen(so_pin), padded),
                      "C_InitToken", label);
    OPENSSL_cleanse(bytes, sizeof(bytes));
    /* SoftHSM gives a token another slot number once it is initialised: find it by label. */
    if (rc < 0 || (rc = token_find(token, label)) < 0)
        return rc;
    return set_user_pin(token, so_pin, pin);
}

int token_login(struct token *token, const char *pin)
{
    CK_UTF8CHAR bytes[TOKEN_PIN_MAX];
    size_t len = strlen(pin);
    if (len == 0 || len > TOKEN_PIN_MAX)
        return fail(FAIL_CONFIG, "the PIN has %zu bytes; 1 to %d are possible", len, TOKEN_PIN_MAX);
    int rc = token_result(TOKEN_CALL(token, C_OpenSession, token->slot,
                                     CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL,
                                     &token->keeper_session),
                          "C_OpenSession", "token");
    if (rc < 0)
        return rc;
    memcpy(bytes, pin, len);
    rc = token_result(TOKEN_CALL(token, C_Login, token->keeper_session, CKU_USER, bytes, len),
                      "C_Login", "token");
    OPENSSL_cleanse(bytes, sizeof(bytes));
    if (rc < 0) {
        TOKEN_CALL(token, C_CloseSession, token->keeper_session);
        token->keeper_session = CK_INVALID_HANDLE;
    }
    return rc;
}

int token_session_open(struct token *token, struct token_session **ret_session)
{
    struct token_session *session = calloc(1, sizeof(*session));
    if (!session)
        return fail(FAIL_MEMORY, "no memory for a token session");
    session->token = token;
    int rc =
        token_result(TOKEN_CALL(token, C_OpenSession, token->slot,
                                CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session->handle),
                     "C_OpenSession", "token");
    if (rc < 0) {
        free(session);
        return rc;
    }
    *ret_session = session;
    return 0;
}

void token_session_close(struct token_session *session)
{
    if (!session)
        return;
    TOKEN_CALL(session->token, C_CloseSession, session->handle);
    OPENSSL_cleanse(session->random, sizeof(session->random));
    free(session);
}

int token_random(struct token_session *session, uint8_t *ret_bytes, size_t len)
{
    if (len > sizeof(session->random))
        return fail(FAIL_TOKEN, "%zu random bytes asked for at once; at most %zu", len,
                    sizeof(session->random));
    if (session->random_left < len) {
        session->random_left = 0; /* a call that fails may have overwritten some */
        int rc = token_result(TOKEN_CALL(session->token, C_GenerateRandom, session->handle,
                                         session->random, sizeof(session->random)),
                              "C_GenerateRandom", "token");
        if (rc < 0)
            return rc;
        session->random_left = sizeof(session->random);
    }
    session->random_left -= len;
    memcpy(ret_bytes, session->random + session->random_left, len);
    OPENSSL_cleanse(session->random + session->random_left, len);
    return 0;
}

uint64_t token_calls(const struct token *token)
{
    return atomic_load_explicit(&token->calls, memory_order_relaxed);
}

int token_destroy(struct token_session *session, token_handle object)
{
    return token_result(TOKEN_CALL(session->token, C_DestroyObject, session->handle, object),
                        "C_DestroyObject", "token object");
}

int token_generate(struct token_session *session, CK_MECHANISM_TYPE generation,
                   CK_ATTRIBUTE *attributes, CK_ULONG count, const char *what,
                   token_handle *ret_key)
{
    CK_MECHANISM mechanism = {generation, NULL, 0};
    pthread_mutex_lock(&session->token->creation);
    CK_RV rv = TOKEN_CALL(session->token, C_GenerateKey, session->handle, &mechanism, attributes,
                          count, ret_key);
    pthread_mutex_unlock(&session->token->creation);
    return token_result(rv, "C_GenerateKey", what);
}

static int search(struct token_session *session, CK_ATTRIBUTE *attributes, CK_ULONG count,
                  token_handle *ret_handles, size_t size, size_t *ret_count)
{
    struct token *token = session->token;
    CK_ULONG found = 0;
    size_t total = 0;
    int rc = token_result(TOKEN_CALL(token, C_FindObjectsInit, session->handle, attributes, count),
                          "C_FindObjectsInit", "token");
    if (rc < 0)
        return rc;
    do {
        rc = token_result(TOKEN_CALL(token, C_FindObjects, session->handle, ret_handles + total,
                                     size - total, &found),
                          "C_FindObjects", "token");
        total += rc == 0 ? found : 0;
    } while (rc == 0 && found > 0 && total < size);
    TOKEN_CALL(token, C_FindObjectsFinal, session->handle);
    if (rc == 0)
        *ret_count = total;
    return rc;
}

int token_search(struct token_session *session, CK_ATTRIBUTE *attributes, CK_ULONG count,
                 token_handle *ret_handles, size_t size, size_t *ret_count)
{
    pthread_mutex_lock(&session->token->creation);
    int rc = search(session, attributes, count, ret_handles, size, ret_count);
    pthread_mutex_unlock(&session->token->creation);
    return rc;
}

int token_search_one(struct token_session *session, CK_ATTRIBUTE *attributes, CK_ULONG count,
                     const char *what, token_handle *ret_handle)
{
    token_handle found[2];
    size_t found_count;
    int rc = token_search(session, attributes, count, found, 2, &found_count);
    if (rc < 0)
        return rc;
    if (found_count == 0)
        return fail(FAIL_NOT_FOUND, "the token has no %s", what);
    if (found_count > 1)
        return fail(FAIL_REFUSED, "the token has more than one %s; which one is meant?", what);
    *ret_handle = found[0];
    return 0;
}

int token_attribute(struct token_session *session, token_handle object, CK_ATTRIBUTE_TYPE type,
                    void *ret_value, size_t size, size_t *ret_len)
{
    CK_ATTRIBUTE attribute = {type, ret_value, size};
    CK_RV rv =
        TOKEN_CALL(session->token, C_GetAttributeValue, session->handle, object, &attribute, 1);
    if (rv == CKR_ATTRIBUTE_TYPE_INVALID ||
        (rv == CKR_OK &&
         (attribute.ulValueLen == 0 || attribute.ulValueLen == CK_UNAVAILABLE_INFORMATION)))
        return fail(FAIL_NOT_FOUND, "a token object without attribute 0x%lx", type);
    if (rv == CKR_BUFFER_TOO_SMALL)
        return fail(FAIL_MALFORMED, "a token object whose attribute 0x%lx has over %zu bytes", type,
                    size);
    if (rv == CKR_OK)
        *ret_len = attribute.ulValueLen;
    return token_result(rv, "C_GetAttributeValue", "token object");
}

int token_sign(struct token_session *session, CK_MECHANISM_TYPE mechanism, token_handle key,
               const uint8_t *data, size_t data_len, uint8_t *ret_signature, size_t size,
               size_t *ret_len)
{
    CK_MECHANISM how = {mechanism, NULL, 0};
    CK_ULONG len = size;
    int rc = token_result(TOKEN_CALL(session->token, C_SignInit, session->handle, &how, key),
                          "C_SignInit", "token key");
    if (rc == 0)
        rc = token_result(TOKEN_CALL(session->token, C_Sign, session->handle,
                                     (CK_BYTE *)(uintptr_t)data, data_len, ret_signature, &len),
                          "C_Sign", "token key");
    if (rc == 0)
        *ret_len = len;
    return rc;
}

int token_encrypt(struct token_session *session, CK_MECHANISM_TYPE mechanism, token_handle key,
                  const uint8_t *data, size_t data_len, uint8_t *ret_bytes, size_t size,
                  size_t *ret_len)
{
    CK_MECHANISM how = {mechanism, NULL, 0};
    CK_ULONG len = size;
    int rc = token_result(TOKEN_CALL(session->token, C_EncryptInit, session->handle, &how, key),
                          "C_EncryptInit", "token key");
    if (rc == 0)
        rc = token_result(TOKEN_CALL(session->token, C_Encrypt, session->handle,
                                     (CK_BYTE *)(uintptr_t)data, data_len, ret_bytes, &len),
                          "C_Encrypt", "token key");
    if (rc == 0)
        *ret_len = len;
    return rc;
}
