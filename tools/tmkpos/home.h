#ifndef TMKPOS_HOME_H
#define TMKPOS_HOME_H

/*
 * DIR, the home of one reference terminal (0700):
 *
 *   sn             its serial number
 *   module         path of the PKCS#11 module that is its secure module
 *   softhsm2.conf  where SoftHSM has the token
 *   tokens/        the token
 *   pin            the token's user PIN, random, 0600: stands in, in a laboratory, for the
 *                  protected memory of a real secure module
 */

#include "hsm/token.h"
#include "wire/message.h"

struct home {
    char sn[SN_MAX + 1];
    int lock; /* descriptor: one tmkpos at a time works in a DIR */
    struct token *token;
    struct token_session *session; /* logged in */
};

/* What makes or takes in the TKP of a new home. */
typedef int home_fill(struct token_session *session, const void *context);

/* Makes DIR, or nothing: it is built beside its place and put there by one rename. FAIL_EXISTS
 * when DIR is there and not empty. */
int home_create(const char *dir, const char *sn, const char *module, home_fill *fill,
                const void *context);

/* FAIL_NOT_FOUND: no home of a terminal. FAIL_BUSY: another tmkpos works in it. */
int home_open(const char *dir, struct home **ret_home);
void home_close(struct home *home); /* accepts NULL */

#endif
