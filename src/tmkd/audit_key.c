#include "tmkd/audit_key.h"

#include "hsm/seal.h"

_Static_assert((int)SEAL_LEN == (int)SEAL_MAC_LEN, "the registry keeps whole seals");

int audit_key_seal(void *context, const uint8_t hash[static AUDIT_HASH_LEN],
                   uint8_t ret_seal[static SEAL_LEN])
{
    const struct audit_key *audit = context;
    return seal_make(audit->session, audit->key, hash, AUDIT_HASH_LEN, ret_seal);
}
