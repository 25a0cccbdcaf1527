#ifndef HSM_TOKEN_H
#define HSM_TOKEN_H

/*
 * One PKCS#11 module, one token of it found by label, one login, and sessions. The rest of hsm/
 * works on a struct token_session; a session belongs to one thread. CK_* types are in
 * hsm/cryptoki.h, for hsm/ and the terminal's PKCS#11 secure module only.
 */

#include <stddef.h>
#include <stdint.h>

typedef unsigned long token_handle; /* CK_OBJECT_HANDLE; 0 is none (CK_INVALID_HANDLE) */

enum { TOKEN_PIN_MAX = 255, TOKEN_LABEL_MAX = 32 };

struct token;
struct token_session;

/* Loads the module, C_Initialize with CKF_OS_LOCKING_OK (PKCS#11 v2.40 5.4). environment holds
 * "NAME=value" strings set before the module is loaded; may be NULL with count 0. */
int token_load(const char *module, char *const *environment, size_t environment_count,
               struct token **ret_token);

/* C_CloseAllSessions, C_Finalize, unload. NULL is accepted. */
void token_unload(struct token *token);

/* Finds the slot whose token has that label. FAIL_NOT_FOUND, with the labels there are. */
int token_find(struct token *token, const char *label);

/* C_InitToken on the first slot without an initialised token, then the user PIN; token_find() has
 * found it afterwards. For embedded (SoftHSM) set-up. FAIL_EXISTS when the label is taken. */
int token_initialise(struct token *token, const char *label, const char *so_pin, const char *pin);

/* Opens the session that stays open, and C_Login as CKU_USER, once. A wrong PIN is FAIL_REFUSED
 * and must not be tried again: many tokens lock after a few. */
int token_login(struct token *token, const char *pin);

/* A read/write session of the token. Close with token_session_close(), which accepts NULL. */
int token_session_open(struct token *token, struct token_session **ret_session);
void token_session_close(struct token_session *session);

/* len bytes of the token's RNG (C_GenerateRandom), at most 1024: fetched in blocks of that many
 * and wiped once used. */
int token_random(struct token_session *session, uint8_t *ret_bytes, size_t len);

/* Calls the module made since token_load(), all sessions together: for the benchmark. */
uint64_t token_calls(const struct token *token);

/* C_DestroyObject. */
int token_destroy(struct token_session *session, token_handle object);

#endif
