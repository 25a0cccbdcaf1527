#ifndef TMKCTL_LAB_ROOT_H
#define TMKCTL_LAB_ROOT_H

/*
 * A KSRCRT for laboratories and CI, made by tmkctl itself: its key is a file. A bank's root lives
 * elsewhere and signs the output of `cert request`.
 */

#include <stddef.h>
#include <stdint.h>

struct lab_root;

enum { LAB_PEM_MAX = 8192 }; /* bytes of any PEM text below, its zero byte included */

/* A new P-256 key and its self-signed certificate "tmkd lab root": CA, keyCertSign and cRLSign, ten
 * years from now (seconds since 1970). */
int lab_root_new(int64_t now, struct lab_root **ret_root);
void lab_root_free(struct lab_root *root); /* accepts NULL */

int lab_root_certificate(const struct lab_root *root, char ret_pem[static LAB_PEM_MAX]);
int lab_root_private_key(const struct lab_root *root, char ret_pem[static LAB_PEM_MAX]);

/* KSWCRT for the key and subject of a PKCS#10 request whose own signature fits: digitalSignature,
 * id-kp-cmKGA (RFC 9480), two years from now. FAIL_MALFORMED for a request that is none,
 * FAIL_REFUSED when its signature does not fit. */
int lab_root_issue(const struct lab_root *root, const char *csr_pem, int64_t now,
                   char ret_pem[static LAB_PEM_MAX]);

#endif
