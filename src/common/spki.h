#ifndef COMMON_SPKI_H
#define COMMON_SPKI_H

#include <stddef.h>
#include <stdint.h>

enum {
    SPKI_DER_MAX = 640,     /* bytes: an RSA-4096 SubjectPublicKeyInfo has 550 */
    SPKI_MODULUS_MAX = 512, /* bytes: RSA-4096 */
    SPKI_EXPONENT_MAX = 8,
};

/* An RSA public key (TKP_Pu) as its DER SubjectPublicKeyInfo (RFC 5280 4.1.2.7) and its numbers. */
struct spki {
    size_t der_len;
    uint8_t der[SPKI_DER_MAX];
    uint8_t sha256[32]; /* of der: the key's identity */
    unsigned bits;
    size_t modulus_len;
    uint8_t modulus[SPKI_MODULUS_MAX]; /* big-endian, no leading zero */
    size_t exponent_len;
    uint8_t exponent[SPKI_EXPONENT_MAX]; /* big-endian, no leading zero */
};

/* Reads strict DER of an RSA public key of 2048, 3072 or 4096 bits with an odd exponent of at
 * least 65537 (FIPS 186-5 5.1). FAIL_MALFORMED for other bytes, FAIL_REFUSED for other keys. */
int spki_read(const uint8_t *der, size_t len, struct spki *ret);

/* The same from the numbers, as a token gives them. */
int spki_from_numbers(const uint8_t *modulus, size_t modulus_len, const uint8_t *exponent,
                      size_t exponent_len, struct spki *ret);

#endif
