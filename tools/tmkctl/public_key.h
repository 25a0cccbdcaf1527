#ifndef TMKCTL_PUBLIC_KEY_H
#define TMKCTL_PUBLIC_KEY_H

#include "common/spki.h"

/* TKP_Pu from a PEM file: a SubjectPublicKeyInfo ("PUBLIC KEY") or a certificate. Errors name the
 * file: FAIL_NOT_FOUND, FAIL_SYSTEM, FAIL_MALFORMED, FAIL_REFUSED (also for a private key). */
int public_key_read(const char *path, struct spki *ret_tkp_pu);

#endif
