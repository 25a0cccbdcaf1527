#ifndef TMKD_RECORD_H
#define TMKD_RECORD_H

#include "db/registry.h"
#include "tmkd/handshake.h"

/* Writes what became of a handshake, delivery state and audit record, inside the writer's
 * transaction. again: a confirmed TMK may be delivered again. *ret_refused: 1 when the terminal
 * changed between challenge and proof, so that the delivery was recorded as refused instead and
 * Ctmk must not go out (design 10.3). */
int record_write(const struct record *record, struct registry *registry, int64_t now, int again,
                 int *ret_refused);

#endif
