#ifndef TERMINAL_PKCS11_TKP_H
#define TERMINAL_PKCS11_TKP_H

/* TKP in the token of the reference secure module; private to it, see pkcs11_module.h. */

#include "hsm/token.h"

/* FAIL_NOT_FOUND when there is none (never was, or destroyed by tamper). */
int pkcs11_tkp_pr_find(struct token_session *session, token_handle *ret_tkp_pr);
int pkcs11_tkp_pu_find(struct token_session *session, token_handle *ret_tkp_pu);

#endif
