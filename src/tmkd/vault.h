#ifndef TMKD_VAULT_H
#define TMKD_VAULT_H

/*
 * All that the keeper's threads share of the token: the login, the keyring, what the token can
 * do, the index of token TMKs, and the decoy. Read-only after vault_open() but for the index and
 * KSWCRT, which have their own locks.
 */

#include <pthread.h>

#include "common/conf.h"
#include "common/spki.h"
#include "db/registry.h"
#include "hsm/keyring.h"
#include "hsm/tmk.h"

struct tmk_index;

struct vault {
    struct token *token;
    struct token_session *session; /* the loop's own; keeps the decoy alive */
    struct keyring keyring;        /* kswcrt: only through vault_chain() */
    pthread_rwlock_t chain_lock;
    enum oaep_hash oaep; /* SHA-256 where the token can, else SHA-1 (SoftHSM 2.6.1) */
    int wrapped;         /* where new TMKs go: 1 the registry, under TMK-KEK; 0 the token */
    int redeliver_always;
    struct tmk_index *index;
    struct terminal decoy;  /* belongs to nobody, and does all the work of one that is refused */
    token_handle decoy_tmk; /* wrapped == 0 */
};

/* Loads the module, logs in once with the PIN of conf->token.pin_file, checks the keyring. */
int vault_open(const struct conf *conf, struct vault *ret_vault);
void vault_close(struct vault *vault);

/* Reads a PIN file: one line, for its owner alone. ret_pin is wiped by the caller. */
int vault_read_pin(const char *path, char ret_pin[static TOKEN_PIN_MAX + 1]);

/* KSWCRT and its chain, a copy. count 0: none is installed. */
void vault_chain(struct vault *vault, struct cert_chain *ret_chain);

/* KSWCRT from the token again, after a new one was installed; checked before it is taken. */
int vault_reload_chain(struct vault *vault, struct token_session *session);

/* The token TMK of that SN and version. FAIL_NOT_FOUND. */
int vault_find_tmk(struct vault *vault, const char *sn, uint32_t version, token_handle *ret_tmk);
/* For the writer, in the transaction that adds the row: a TMK that has the name already has no
 * row, because an import was cut off before it was written, and is destroyed. */
int vault_add_tmk(struct vault *vault, struct token_session *session, const char *sn,
                  uint32_t version, token_handle tmk);
void vault_drop_tmk(struct vault *vault, const char *sn, uint32_t version, token_handle tmk);

/* The SEAL of a terminal's row: make it before writing, check it after reading (FAIL_SEAL). */
int vault_seal(const struct vault *vault, struct token_session *session, struct terminal *terminal);
int vault_check_seal(const struct vault *vault, struct token_session *session,
                     const struct terminal *terminal);

/* A new TMK of that type and version for terminal->sn, in the store of the configuration; fills
 * in terminal's store, tmk and wrapped. *ret_made: the token object that was made, for
 * vault_add_tmk() once its row is written; 0 in the wrapped store. */
int vault_make_tmk(struct vault *vault, struct token_session *session, enum tmk_type type,
                   uint32_t version, struct terminal *terminal, token_handle *ret_made);

/* The clear TMK's handle in the token for one use, and its end. */
int vault_take_tmk(struct vault *vault, struct token_session *session,
                   const struct terminal *terminal, token_handle *ret_tmk);
void vault_leave_tmk(struct token_session *session, const struct terminal *terminal,
                     token_handle tmk);

#endif
