#ifndef HSM_CEREMONY_H
#define HSM_CEREMONY_H

/*
 * The certificate ceremony by libp11: PrKS as an EVP_PKEY for the CSR, certificates into the
 * token. In a process that does nothing else: libp11 is not thread safe and C_Finalizes the
 * module when it is done, so no struct token may be open beside it.
 */

#include <stddef.h>

#include "wire/message.h"

struct ceremony_token {
    const char *module;
    const char *label;
    const char *pin;
};

/* The certification request of PrKS as PEM (RFC 2986), SHA-256, with that subject, written as
 * "CN=tmkd,O=A Bank". FAIL_CONFIG for a subject that is none, FAIL_REFUSED for a PIN the token
 * refuses. Free with free(). */
int ceremony_request(const struct ceremony_token *token, const char *subject, char **ret_pem);

/* Puts the chain into the token, the leaf as KSWCRT with the CKA_ID of PrKS, and then removes the
 * one before. FAIL_REFUSED, and nothing is changed, when the leaf is not of PrKS or a certificate
 * did not issue the one before it; FAIL_MALFORMED likewise for bytes that are no certificate. */
int ceremony_install(const struct ceremony_token *token, const struct cert_chain *chain);

#endif
