#include "common/key_hygiene.h"

#include <pthread.h>

#include <gmp.h>

#include "common/fail.h"

enum {
    SMALL_PRIMES_END = 65536,
    FERMAT_STEPS = 100,
};

/* --- small factors --- */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static mpz_t small_primes; /* their product, 94,027 bits; written once, under once */

static void multiply_small_primes(void)
{
    mpz_init(small_primes);
    mpz_primorial_ui(small_primes, SMALL_PRIMES_END - 1);
}

static unsigned long smallest_factor(const mpz_t n)
{
    unsigned long factor = 2;
    while (!mpz_divisible_ui_p(n, factor))
        factor++;
    return factor;
}

/* By one greatest common divisor: a fifth of the time that a division by each prime takes. */
static int check_small_factors(const mpz_t modulus)
{
    mpz_t common;
    int rc = 0;
    pthread_once(&once, multiply_small_primes);
    mpz_init(common);
    mpz_mod(common, small_primes, modulus);
    mpz_gcd(common, common, modulus);
    if (mpz_cmp_ui(common, 1) != 0)
        rc = fail(FAIL_REFUSED,
                  "an RSA modulus that %lu divides, so not the product of two large primes: the "
                  "key was damaged on its way, or its generator or its random numbers are bad; "
                  "look at both, then make the terminal a new key",
                  smallest_factor(common));
    mpz_clear(common);
    return rc;
}

/* --- close primes --- */

/* Fermat: n = p * q is a^2 - b^2 with a = (p + q) / 2 and b = (p - q) / 2. Close primes have their
 * a just above the root of n, where a^2 - n is a square; p = q have it at the root. */
static int has_close_factors(const mpz_t n)
{
    mpz_t a;
    mpz_t square; /* a^2 - n */
    int found = 0;
    mpz_inits(a, square, NULL);
    mpz_sqrtrem(a, square, n);
    mpz_neg(square, square);
    for (int i = 0; i <= FERMAT_STEPS && !found; i++) {
        found = mpz_perfect_square_p(square);
        mpz_addmul_ui(square, a, 2);
        mpz_add_ui(square, square, 1);
        mpz_add_ui(a, a, 1);
    }
    mpz_clears(a, square, NULL);
    return found;
}

static int check_close_primes(const mpz_t modulus)
{
    if (!has_close_factors(modulus))
        return 0;
    return fail(FAIL_REFUSED,
                "an RSA key whose two primes are the same or nearly so, so that anyone can compute "
                "the private key (CVE-2022-26320): its generator does not draw the second prime "
                "from fresh random numbers; mend that, then make the terminal a new key");
}

/* --- ROCA --- */

static int is_power_of_65537(unsigned long residue, unsigned long prime)
{
    unsigned long power = 1;
    do {
        if (power == residue)
            return 1;
        power = power * 65537 % prime;
    } while (power != 1);
    return 0;
}

/*
 * Nemec and others, "The Return of Coppersmith's Attack" (2017): the generator's primes are
 * k * M + 65537^a mod M, M the product of the first primes, so that modulo each prime of M they
 * are powers of 65537, and so is their product. These are the odd primes of the M for its smallest
 * keys; the M of larger keys have them too.
 */
static int has_roca_fingerprint(const mpz_t modulus)
{
    static const uint8_t primes[] = {
        3,  5,  7,  11, 13, 17,  19,  23,  29,  31,  37,  41,  43,  47,  53,  59,  61,  67,  71,
        73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167};
    for (size_t i = 0; i < sizeof(primes); i++)
        if (!is_power_of_65537(mpz_fdiv_ui(modulus, primes[i]), primes[i]))
            return 0;
    return 1;
}

static int check_roca(const mpz_t modulus)
{
    if (!has_roca_fingerprint(modulus))
        return 0;
    return fail(FAIL_REFUSED,
                "an RSA key with the ROCA fingerprint (CVE-2017-15361): the generator in the "
                "terminal's chip chooses primes that can be computed from the public key; none of "
                "its keys is safe: update or replace it, then make the terminal a new key");
}

int key_hygiene_check(const struct spki *key)
{
    mpz_t modulus;
    mpz_init(modulus);
    mpz_import(modulus, key->modulus_len, 1, 1, 1, 0, key->modulus);
    int rc = check_small_factors(modulus);
    if (rc == 0)
        rc = check_close_primes(modulus);
    if (rc == 0)
        rc = check_roca(modulus);
    mpz_clear(modulus);
    return rc;
}
