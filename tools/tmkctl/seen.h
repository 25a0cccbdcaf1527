#ifndef TMKCTL_SEEN_H
#define TMKCTL_SEEN_H

/* Which SN and keys a file had so far: a dry run writes nothing the keeper could compare with. */

#include <stdint.h>

#include "wire/message.h"

struct seen;

int seen_new(struct seen **ret_seen);
void seen_free(struct seen *seen); /* accepts NULL */

/* Keeps an SN and the SHA-256 of its key. *ret_again: 1 when it was there with that key.
 * FAIL_EXISTS when the SN has another key or the key another SN; the sentence names the earlier
 * line. */
int seen_add(struct seen *seen, const char *sn, const uint8_t key[static DIGEST_LEN], uint64_t line,
             int *ret_again);

#endif
