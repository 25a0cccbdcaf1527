#ifndef COMMON_CERTIFICATE_USAGE_H
#define COMMON_CERTIFICATE_USAGE_H

#include <openssl/x509.h>

/* What KSWCRT must be for, said in the certificate itself: keyUsage digitalSignature and
 * extendedKeyUsage id-kp-cmKGA (1.3.6.1.5.5.7.3.32, RFC 9480 2.2). FAIL_REFUSED. */
int certificate_usage_check(X509 *leaf);

#endif
