#include "db/registry.h"

#include "db/canonical.h"

/*
 * "TMKD-SEAL\x01", then as db/canonical.h has it
 *   sn, spki, state (1), batch, row_version (8), store (1),
 * and, unless store is TMK_STORE_NONE,
 *   type (1), version (4), kcv, wrapped.
 * No two terminals have the same bytes unless all of these are equal.
 */
#define LABEL "TMKD-SEAL\x01"

_Static_assert(sizeof(LABEL) - 1 + 10UL * CANONICAL_LENGTH + SN_MAX + SPKI_DER_MAX + 1 + BATCH_MAX +
                       8 + 1 + 1 + 4 + KCV_MAX + TMK_WRAPPED_MAX <=
                   SEAL_INPUT_MAX,
               "the canonical form fits its buffer");

size_t registry_seal_input(const struct terminal *terminal,
                           uint8_t ret_bytes[static SEAL_INPUT_MAX])
{
    uint8_t *at = canonical_label(ret_bytes, LABEL);
    at = canonical_text(at, terminal->sn);
    at = canonical_field(at, terminal->spki, terminal->spki_len);
    at = canonical_number(at, terminal->state, 1);
    at = canonical_text(at, terminal->batch);
    at = canonical_number(at, (uint64_t)terminal->row_version, 8);
    at = canonical_number(at, terminal->store, 1);
    if (terminal->store != TMK_STORE_NONE) {
        at = canonical_number(at, terminal->tmk.type, 1);
        at = canonical_number(at, terminal->tmk.version, 4);
        at = canonical_field(at, terminal->tmk.kcv, terminal->tmk.kcv_len);
        at = canonical_field(at, terminal->wrapped, terminal->wrapped_len);
    }
    return (size_t)(at - ret_bytes);
}
