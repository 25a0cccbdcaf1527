#ifndef TERMINAL_PKCS11_MODULE_H
#define TERMINAL_PKCS11_MODULE_H

/*
 * The reference secure module: a PKCS#11 token of the terminal's own. In it are
 *
 *   TKP_Pr  private key, sensitive, not extractable; UNWRAP only
 *   TKP_Pu  public key; ENCRYPT only
 *   TMK     secret key, sensitive, not extractable; SIGN only (CMAC). CKA_ID is
 *           "GENERATION/TYPE/VERSION/KCV": the newest generation counts, an older one is what an
 *           installation that was cut off has left, and goes.
 *
 * All are token objects, private and not modifiable. session: read/write, logged in as user; one
 * thread at a time.
 */

#include <stddef.h>
#include <stdint.h>

#include "common/spki.h"
#include "hsm/token.h"
#include "terminal/secure_module.h"

/* The four functions of a terminal over this token, good as long as the session. An older TMK is
 * swept away. FAIL_NOT_FOUND: there is no TKP_Pr, never was or no longer (tamper). */
int pkcs11_module_open(struct token_session *session, struct secure_module *ret_module);

/* Factory: a TKP of 2048, 3072 or 4096 bits made in the token (C_GenerateKeyPair). */
int pkcs11_module_generate_tkp(struct token_session *session, unsigned bits);

/* Factory: a TKP from outside, an RSA private key in PEM without a passphrase. The caller wipes
 * pem, all copies made here are wiped here. FAIL_MALFORMED, FAIL_REFUSED (size, not consistent). */
int pkcs11_module_import_tkp(struct token_session *session, const uint8_t *pem, size_t len);

/* Factory: TKP_Pu, for the server's registry. [0067]: it goes no other way. */
int pkcs11_module_tkp_pu(struct token_session *session, struct spki *ret_tkp_pu);

/* What may be said of the installed TMK. FAIL_NOT_FOUND when there is none. */
int pkcs11_module_tmk(struct token_session *session, struct tmk_info *ret_tmk);

/* What an opened case does (patent [0039]): destroys every TKP_Pr, TMK and TKP_Pu, whatever its
 * other attributes are. A failure is that of an object that stays; all that could go is gone. */
int pkcs11_module_tamper(struct token_session *session);

#endif
