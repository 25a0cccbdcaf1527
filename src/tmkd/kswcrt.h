#ifndef TMKD_KSWCRT_H
#define TMKD_KSWCRT_H

#include <stdint.h>

#include "wire/message.h"

enum { KSWCRT_NAME_MAX = 256, KSWCRT_TIME_MAX = 32 };

/* What a person wants to know of the server's work certificate. */
struct kswcrt_info {
    char subject[KSWCRT_NAME_MAX];
    char issuer[KSWCRT_NAME_MAX];
    char serial[64];                  /* hex */
    char not_before[KSWCRT_TIME_MAX]; /* "2026-11-23T00:00:00Z" */
    char not_after[KSWCRT_TIME_MAX];
};

int kswcrt_describe(const struct cert_chain *chain, struct kswcrt_info *ret_info);

/* What a terminal will ask of it, but for the root, which is the terminal's to know (patent S305):
 * each certificate signed by the next, in its time at now (seconds since 1970), keyUsage
 * digitalSignature, extendedKeyUsage id-kp-cmKGA (RFC 9480). FAIL_REFUSED with the first fault. */
int kswcrt_check(const struct cert_chain *chain, int64_t now);

/* PEM certificates, leaf first, to a chain and back. FAIL_MALFORMED. Free *ret_pem with free(). */
int kswcrt_from_pem(const char *pem, struct cert_chain *ret_chain);
int kswcrt_to_pem(const struct cert_chain *chain, char **ret_pem);

#endif
