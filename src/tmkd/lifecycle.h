#ifndef TMKD_LIFECYCLE_H
#define TMKD_LIFECYCLE_H

#include "tmkd/issuance.h"

/* What an operator does to one terminal that is there: each step is for a thread of the crew. */

/* The terminal with a seal that fits. A row whose seal does not fit is never sealed anew: that
 * would make an intruder's change good. FAIL_NOT_FOUND, FAIL_SEAL. */
int lifecycle_find(struct station *station, const char *sn, struct terminal *ret_terminal);

/* In the writer: enables or disables; *terminal is as it is afterwards. */
int lifecycle_set_state(struct station *station, enum terminal_state state,
                        struct terminal *terminal);

/* In a worker: makes the next version of the TMK, of the type named, or with "" of the type there
 * is; for a terminal without a TMK its first. */
int lifecycle_prepare_rotation(struct station *station, const char *sn, const char *type,
                               struct issuance *ret_issuance);

/* In the writer: puts it into the registry, beside the older one. */
int lifecycle_rotate(struct station *station, struct issuance *issuance);

/* In the writer: forgets the terminal; its token TMKs are to be destroyed after the commit. */
int lifecycle_remove(struct station *station, const char *sn, struct retired *ret_retired);

#endif
