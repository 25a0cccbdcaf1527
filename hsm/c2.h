#ifndef HSM_C2_H
#define HSM_C2_H

#include "common/spki.h"
#include "hsm/token.h"
#include "wire/message.h"

/* Brings TKP_Pu into the token as a session object that may encrypt (C2) and wrap (Ctmk), and
 * nothing else. Destroy it with token_destroy(). */
int c2_take_key(struct token_session *session, const struct spki *tkp_pu, token_handle *ret_key);

/* C2 = E[TKP_Pu, Rnd2...] (patent S308): the block em raised to TKP_Pu, C_Encrypt(CKM_RSA_X_509).
 * em and ret_c2 have len bytes, the size of TKP_Pu. */
int c2_encrypt(struct token_session *session, token_handle tkp_pu, const uint8_t *em, size_t len,
               uint8_t ret_c2[static RSA_BLOCK_MAX], size_t *ret_len);

#endif
