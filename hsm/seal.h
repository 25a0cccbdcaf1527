#ifndef HSM_SEAL_H
#define HSM_SEAL_H

#include "hsm/token.h"

enum { SEAL_MAC_LEN = 32 };

/* HMAC-SHA-256 of a token's secret key (SEAL or AUDIT) over bytes: C_Sign(CKM_SHA256_HMAC). */
int seal_make(struct token_session *session, token_handle key, const uint8_t *bytes, size_t len,
              uint8_t ret_mac[static SEAL_MAC_LEN]);

/* 0 when mac is that HMAC, compared in constant time; else FAIL_SEAL. */
int seal_check(struct token_session *session, token_handle key, const uint8_t *bytes, size_t len,
               const uint8_t mac[static SEAL_MAC_LEN]);

#endif
