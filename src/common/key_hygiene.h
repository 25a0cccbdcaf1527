#ifndef COMMON_KEY_HYGIENE_H
#define COMMON_KEY_HYGIENE_H

#include "common/spki.h"

/*
 * Whether a TKP_Pu that spki_read() took may be registered (PCI PIN 20-1): what its modulus alone
 * gives away of a damaged key or a bad generator. FAIL_REFUSED for one
 *   - with a prime factor under 65536,
 *   - of two primes that Fermat's factorisation finds in 100 steps, equal ones among them
 *     (CVE-2022-26320),
 *   - with the ROCA fingerprint (CVE-2017-15361), which one in 2^28 good keys has by chance.
 * A modulus that is one large prime is not noticed: to find out takes forty times as long as all
 * of this. Any thread may call it; the first call takes half a millisecond more.
 */
int key_hygiene_check(const struct spki *key);

#endif
