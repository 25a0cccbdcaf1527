#ifndef TERMINAL_SERVER_CERTIFICATE_H
#define TERMINAL_SERVER_CERTIFICATE_H

/* KSWCRT, as the terminal judges it (patent S305). */

#include <stddef.h>
#include <stdint.h>

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "wire/message.h"

/* One strict DER certificate, nothing after it. FAIL_MALFORMED. Free with X509_free(). */
int server_certificate_read(const uint8_t *der, size_t len, X509 **ret_certificate);

/*
 * Takes PuKS from KSWCRT if all of this holds (RFC 5280 6.1, 4.2.1.3, 4.2.1.12; RFC 9480):
 * the chain ends in root, the only trust anchor; every certificate of it is valid at now (seconds
 * since 1970) and has at least 112 bits of security, so neither SHA-1 nor MD5; KSWCRT has keyUsage
 * digitalSignature and extendedKeyUsage id-kp-cmKGA; its key is RSA of 2048, 3072 or 4096 bits or
 * EC P-256. FAIL_REFUSED, FAIL_MALFORMED. Free *ret_puks with EVP_PKEY_free().
 */
int server_certificate_check(const struct cert_chain *kswcrt, X509 *root, int64_t now,
                             EVP_PKEY **ret_puks);

/* The subject of KSWCRT as RFC 2253 has it, escaped to printable ASCII and cut to size; "?" when it
 * cannot be read. For people only: nothing is checked. Returns ret_text. */
char *server_certificate_name(const struct cert_chain *kswcrt, char *ret_text, size_t size);

#endif
