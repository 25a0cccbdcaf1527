#ifndef WIRE_C1_OPEN_H
#define WIRE_C1_OPEN_H

/* C1, the server's proof, as the terminal opens it (patent S305 and S306), and the server for
 * itself, to see that KSWCRT is the certificate of PrKS. */

#include <stddef.h>
#include <stdint.h>

#include <openssl/evp.h>

#include "wire/transcript.h"

/*
 * Whether c1 opens with PuKS to exactly m1. RSA: D[PuKS, C1] is recovered as a PKCS#1 v1.5 block
 * of type 1 (RFC 8017 9.2, without DigestInfo) and compared in constant time; len is that of the
 * key. EC P-256: r || s, 64 bytes, over SHA-256(m1). FAIL_REFUSED.
 */
int c1_open(EVP_PKEY *puks, const uint8_t *c1, size_t len, const uint8_t m1[static M1_LEN]);

#endif
