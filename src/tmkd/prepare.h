#ifndef TMKD_PREPARE_H
#define TMKD_PREPARE_H

#include "db/registry.h"
#include "tmkd/handshake.h"
#include "tmkd/vault.h"

/* S303, all the work of one hello: looks TKP_Pu and the TMK up by SN, checks the seal, takes Rnd2
 * from the token, and computes Ctmk, deliveryDigest, H, C2, confirm.mac and C1. For an SN that may
 * not download the same token operations are done with the decoy, and offer->reason says why.
 * Fails only where the token or the registry does. */
int prepare_offer(struct vault *vault, struct token_session *session, struct registry *registry,
                  const struct hello *hello, struct offer *ret_offer);

#endif
