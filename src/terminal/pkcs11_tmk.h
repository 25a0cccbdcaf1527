#ifndef TERMINAL_PKCS11_TMK_H
#define TERMINAL_PKCS11_TMK_H

/* The TMK in the token of the reference secure module; private to it, see pkcs11_module.h. */

#include "hsm/token.h"
#include "wire/message.h"

struct pkcs11_tmk {
    token_handle key;
    unsigned generation; /* counts installations in this token */
    struct tmk_info info;
};

/* The TMK of the newest generation. FAIL_NOT_FOUND when there is none. */
int pkcs11_tmk_find(struct token_session *session, struct pkcs11_tmk *ret_tmk);

/* Unwraps Ctmk with TKP_Pr, checks length and KCV, stores the TMK and destroys the one before.
 * FAIL_REFUSED: it is not the key that delivery->tmk describes; the one before stays. */
int pkcs11_tmk_install(struct token_session *session, token_handle tkp_pr,
                       const struct delivery *delivery);

/* Destroys the TMKs of generations before that one. */
int pkcs11_tmk_sweep(struct token_session *session, unsigned generation);

#endif
