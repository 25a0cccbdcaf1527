#ifndef HSM_CHAIN_H
#define HSM_CHAIN_H

/* KSWCRT and the certificates above it as objects of the token. */

#include "hsm/token.h"
#include "wire/message.h"

/* CKA_LABEL of the i-th certificate, 0 the leaf: KSWCRT, KSWCRT-1, ... */
const char *chain_label(size_t i);

/* Of several leaves (an installation that was cut off) the one with the latest notBefore, then
 * what issued it, and so on. count 0 when there is none. FAIL_MALFORMED for an object that holds
 * no certificate. */
int chain_read(struct token_session *session, struct cert_chain *ret_chain);

#endif
