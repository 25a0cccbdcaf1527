#ifndef DB_AUDIT_H
#define DB_AUDIT_H

/*
 * The audit log, a table of the registry that only grows. Each record's hash covers the one
 * before; the last hash of each commit is sealed by the token's AUDIT key, and the record after
 * covers that seal (audit.c has the layout). So nothing can be changed, left out or put in between
 * without the key. What no log can tell by itself is that it was cut off at the end of an earlier
 * commit, seals and all: a copy of its last record kept elsewhere does.
 */

#include "db/registry.h"

enum { AUDIT_EVENT_MAX = 32, AUDIT_ACTOR_MAX = 96, AUDIT_DETAIL_MAX = 256, AUDIT_HASH_LEN = 32 };

struct audit_record {
    int64_t seq;                       /* from 1, without a gap; given by audit_append() */
    int64_t at;                        /* seconds since 1970 */
    char event[AUDIT_EVENT_MAX + 1];   /* "delivered", "confirmed", "refused", "added", ... */
    char sn[SN_MAX + 1];               /* empty: about no terminal */
    char actor[AUDIT_ACTOR_MAX + 1];   /* "10.0.0.7:5021", "uid 0 (root)" */
    char detail[AUDIT_DETAIL_MAX + 1]; /* why, or which version */
};

/* Gives the HMAC of the AUDIT key over a record hash. */
typedef int audit_sealer(void *context, const uint8_t hash[static AUDIT_HASH_LEN],
                         uint8_t ret_seal[static SEAL_LEN]);

/* Adds a record inside the open transaction; record->seq is set. FAIL_REGISTRY. */
int audit_append(struct registry *registry, struct audit_record *record);

/* Seals the last hash, once a transaction, just before registry_commit(), which refuses a
 * transaction whose records are not sealed. Does nothing when the transaction has no record left.
 * What seal() returns when it fails. */
int audit_seal(struct registry *registry, audit_sealer *seal, void *context);

/* Recomputes all hashes and the seals, one call of seal() a commit. FAIL_SEAL with a sentence that
 * names the first record that does not fit; else how many records there are. */
int audit_verify(struct registry *registry, audit_sealer *seal, void *context,
                 int64_t *ret_records);

/* Records in their order, those after seq. */
typedef int audit_each(void *context, const struct audit_record *record);
int audit_list(struct registry *registry, int64_t after, size_t limit, audit_each *each,
               void *context);

#endif
