#ifndef TMKD_AUDIT_KEY_H
#define TMKD_AUDIT_KEY_H

#include "db/audit.h"
#include "hsm/token.h"

/* The token's AUDIT key at the audit log's door: audit_key_seal() is an audit_sealer whose context
 * is a struct audit_key. */
struct audit_key {
    struct token_session *session;
    token_handle key;
};

int audit_key_seal(void *context, const uint8_t hash[static AUDIT_HASH_LEN],
                   uint8_t ret_seal[static SEAL_LEN]);

#endif
