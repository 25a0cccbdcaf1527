#ifndef DB_REGISTRY_H
#define DB_REGISTRY_H

/*
 * The registry: which terminals there are, which TMK each has, what was delivered. One SQLite
 * file (WAL, synchronous=FULL, foreign keys on). Public keys, states and wrapped keys; no PIN and
 * no clear key, ever. A struct registry is one database connection, for one thread.
 *
 * Seals are made by the token, so not here: registry.h gives the canonical bytes, the keeper puts
 * the HMAC into terminal.seal before it writes and checks it after it reads. A value that tmkd
 * never writes (too long, of another type, out of its range) is FAIL_SEAL already when it is read.
 *
 * Every function may also fail with FAIL_REGISTRY: SQLite's words and the path.
 */

#include <stddef.h>
#include <stdint.h>

#include "common/spki.h"
#include "wire/message.h"

enum {
    BATCH_MAX = 64,        /* characters of a batch's name */
    SEAL_LEN = 32,         /* HMAC-SHA-256 */
    TMK_WRAPPED_MAX = 48,  /* bytes: AES-256 under AES-KWP is 40 */
    SEAL_INPUT_MAX = 1024, /* bytes of the canonical form; its parts' maxima add up to less */
};

enum terminal_state {
    TERMINAL_DISABLED,
    TERMINAL_ENABLED,
    TERMINAL_DAMAGED, /* in a list only: of its row nothing but the SN could be read */
};

/* Where the key of a tmk row is. The numbers are stored. */
enum tmk_store {
    TMK_STORE_NONE = 0,  /* the terminal has no TMK yet */
    TMK_STORE_TOKEN = 1, /* a token object, CKA_ID = SN "/" version */
    TMK_STORE_KW = 2,    /* wrapped under TMK-KEK with CKM_AES_KEY_WRAP (RFC 3394) */
    TMK_STORE_KWP = 3,   /* wrapped under TMK-KEK with CKM_AES_KEY_WRAP_PAD (RFC 5649) */
};

enum delivery_status { DELIVERY_NONE, DELIVERY_READY, DELIVERY_DELIVERED, DELIVERY_CONFIRMED };

/* A terminal with its newest TMK and what became of that. */
struct terminal {
    char sn[SN_MAX + 1];
    size_t spki_len;
    uint8_t spki[SPKI_DER_MAX]; /* TKP_Pu */
    uint8_t spki_sha256[DIGEST_LEN];
    enum terminal_state state;
    char batch[BATCH_MAX + 1]; /* empty: none */
    int64_t row_version;       /* from 1, one more at each change */
    int64_t created;           /* seconds since 1970, as all times here */
    int64_t changed;
    enum tmk_store store;
    struct tmk_info tmk; /* valid unless store is TMK_STORE_NONE */
    size_t wrapped_len;
    uint8_t wrapped[TMK_WRAPPED_MAX];
    uint8_t seal[SEAL_LEN];
    /* Not sealed: what happened, which gives nobody another key. */
    enum delivery_status status;
    int64_t delivered_at; /* last; 0: never */
    int64_t delivered_count;
    int64_t confirmed_at; /* last; 0: never, or reopened since */
};

struct registry;

enum registry_mode {
    REGISTRY_READ,   /* look-ups only */
    REGISTRY_WRITE,  /* and changes */
    REGISTRY_CREATE, /* and made, with mode 0600, when there is none */
};

/* Opens the file; REGISTRY_WRITE and _CREATE bring its schema up to date (schema/NNN_name.sql, all
 * in one transaction). FAIL_CONFIG when it is not there, is of a newer schema, or is to be written
 * and this user may not write it or beside it; FAIL_REGISTRY when its schema holds anything but
 * what tmkd makes (a trigger, a view: the sentence names it). Each look-up and each
 * registry_begin() refuses the same later, when the schema is edited meanwhile. */
int registry_open(const char *path, enum registry_mode mode, struct registry **ret_registry);
void registry_close(struct registry *registry);

/* The terminal, its newest TMK and status. FAIL_NOT_FOUND. The one query of the serving path:
 * by primary keys, one prepared statement. FAIL_SEAL when the row found is of another SN. */
int registry_find(struct registry *registry, const char *sn, struct terminal *ret_terminal);

/* The SN that has this TKP_Pu. FAIL_NOT_FOUND. */
int registry_find_key(struct registry *registry, const uint8_t spki_sha256[static DIGEST_LEN],
                      char ret_sn[static SN_MAX + 1]);

/* Terminals in the order of their SN, those after `after` ("" for all), at most limit of them.
 * each() returns 0 to go on; another value ends the walk and is returned. A row that cannot be read
 * is TERMINAL_DAMAGED, with an SN and no more; when that cannot be read either: FAIL_SEAL. */
typedef int registry_each(void *context, const struct terminal *terminal);
int registry_list(struct registry *registry, const char *after, size_t limit, registry_each *each,
                  void *context);

/* How many terminals there are. */
int registry_count(struct registry *registry, int64_t *ret_count);

/* --- changes: between registry_begin() and registry_commit() --- */

int registry_begin(struct registry *registry);  /* BEGIN IMMEDIATE; FAIL_BUSY after its time-out */
int registry_commit(struct registry *registry); /* durable when it returns 0, else rolled back */
void registry_rollback(struct registry *registry);

/* One part of a transaction that can fail alone: undone by _undo, kept by _keep. */
int registry_part_begin(struct registry *registry);
int registry_part_keep(struct registry *registry);
void registry_part_undo(struct registry *registry);

/* A new terminal and its TMK row, as they are in *terminal, seal included. FAIL_EXISTS, with a
 * sentence, when the SN or the TKP_Pu is registered already. After any other failure its part or
 * its transaction is to be undone. */
int registry_add(struct registry *registry, const struct terminal *terminal);

/* Writes state, batch, row_version, changed and seal of an existing terminal, if its stored
 * row_version is still terminal->row_version - 1; FAIL_BUSY when somebody changed it meanwhile. */
int registry_update(struct registry *registry, const struct terminal *terminal);

/* A new version of the TMK: does what registry_update() does and adds terminal's TMK row (store,
 * tmk, wrapped) beside the older ones. FAIL_EXISTS when there is a TMK of that version; after that,
 * or any other failure but FAIL_BUSY, its part or its transaction is to be undone. */
int registry_rotate(struct registry *registry, const struct terminal *terminal);

/* The versions of a terminal's TMKs below `below`, the lowest first, at most size of them.
 * FAIL_SEAL when one is none that tmkd writes. */
int registry_versions(struct registry *registry, const char *sn, uint32_t below,
                      uint32_t *ret_versions, size_t size, size_t *ret_count);

/* Forgets the TMKs of versions below `below`, their deliveries too. */
int registry_retire(struct registry *registry, const char *sn, uint32_t below);

/* Forgets a terminal, its TMKs and its deliveries; its audit records stay. Also one whose row is
 * damaged. FAIL_NOT_FOUND. After a failure its part or its transaction is to be undone, as with
 * registry_retire(). */
int registry_remove(struct registry *registry, const char *sn);

/* The TMK was delivered (patent S309): counts it, if the terminal row is still of row_version and
 * enabled, and the TMK is there and not confirmed, or `again` allows that; FAIL_REFUSED otherwise.
 * Versions begin anew when an SN is removed and added again, so here and below a TMK is one of that
 * version with that KCV. */
int registry_delivered(struct registry *registry, const char *sn, int64_t row_version,
                       const struct tmk_info *tmk, int64_t now, int again);

/* The terminal proved that it holds the TMK. FAIL_NOT_FOUND when it was never delivered. */
int registry_confirmed(struct registry *registry, const char *sn, const struct tmk_info *tmk,
                       int64_t now);

/* The newest TMK may be delivered again until it is confirmed again. FAIL_NOT_FOUND when there is
 * no such terminal or it has no TMK. */
int registry_reopen(struct registry *registry, const char *sn);

/* The bytes a seal covers: label, SN, TKP_Pu, state, batch, row version and the TMK's row, each
 * with its length (seal_input.c has the layout); returns how many. The terminal's lengths are
 * within their maxima. */
size_t registry_seal_input(const struct terminal *terminal,
                           uint8_t ret_bytes[static SEAL_INPUT_MAX]);

const char *terminal_state_name(enum terminal_state state);    /* "enabled", "disabled", ... */
const char *delivery_status_name(enum delivery_status status); /* "none", "ready", ... */

#endif
