/* What the modulus of a TKP_Pu gives away (common/key_hygiene.h): bad keys made here, good ones by
 * OpenSSL, and the numbers of a whole window, each judged by a sieve too. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>

#include "common/fail.h"
#include "common/key_hygiene.h"

#include <cmocka.h> /* last: it has a macro named fail */

enum {
    SMALL_END = 65536,
    WINDOWS = 10,
    WINDOW = 2400, /* odd numbers; nearly a tenth of them have no small factor */
};

static BN_CTX *scratch;

static int set_up(void **state)
{
    (void)state;
    scratch = BN_CTX_new();
    return scratch ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    BN_CTX_free(scratch);
    return 0;
}

/* The key of this modulus and 65537. */
static void key_of(const BIGNUM *modulus, struct spki *ret)
{
    static const uint8_t exponent[] = {1, 0, 1};
    uint8_t bytes[SPKI_MODULUS_MAX];
    int len = BN_bn2bin(modulus, bytes);
    assert_int_equal(spki_from_numbers(bytes, (size_t)len, exponent, sizeof(exponent), ret), 0);
}

static int check(const BIGNUM *modulus)
{
    struct spki key;
    key_of(modulus, &key);
    return key_hygiene_check(&key);
}

static void assert_refused(const BIGNUM *modulus, const char *because)
{
    assert_int_equal(check(modulus), FAIL_REFUSED);
    if (!strstr(fail_text(), because))
        fail_msg("\"%s\" does not say \"%s\"", fail_text(), because);
}

static BIGNUM *multiply(const BIGNUM *a, const BIGNUM *b)
{
    BIGNUM *product = BN_new();
    assert_non_null(product);
    assert_true(BN_mul(product, a, b, scratch));
    return product;
}

static void test_openssl_keys_pass(void **state)
{
    (void)state;
    for (unsigned bits = 2048; bits <= 4096; bits += 1024) {
        EVP_PKEY *key = EVP_RSA_gen(bits);
        BIGNUM *modulus = NULL;
        assert_non_null(key);
        assert_true(EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_N, &modulus));
        assert_int_equal(check(modulus), 0);
        BN_free(modulus);
        EVP_PKEY_free(key);
    }
}

/* --- small factors --- */

/* A random multiple of factor, odd and of 2048 bits. */
static BIGNUM *multiple_of(BN_ULONG factor)
{
    BIGNUM *number = BN_new();
    assert_true(BN_rand(number, 2048, BN_RAND_TOP_TWO, BN_RAND_BOTTOM_ODD));
    BN_ULONG rest = BN_mod_word(number, factor);
    assert_true(BN_sub_word(number, rest));
    if (!BN_is_odd(number))
        assert_true(BN_add_word(number, factor));
    return number;
}

static void test_small_factors_are_refused(void **state)
{
    static const BN_ULONG factors[] = {3, 5, 167, 257, 65521};
    (void)state;
    for (size_t i = 0; i < sizeof(factors) / sizeof(factors[0]); i++) {
        BIGNUM *modulus = multiple_of(factors[i]);
        assert_refused(modulus, "divides");
        BN_free(modulus);
    }
}

static BIGNUM *random_prime(int bits)
{
    BIGNUM *prime = BN_new();
    assert_true(BN_generate_prime_ex(prime, bits, 0, NULL, NULL, NULL));
    return prime;
}

/* A large prime, another of so many bits, and a small factor. */
static BIGNUM *with_factor(int bits, BN_ULONG factor)
{
    BIGNUM *p = BN_get_rfc2409_prime_1024(NULL);
    BIGNUM *q = random_prime(bits);
    BIGNUM *modulus = multiply(p, q);
    assert_true(BN_mul_word(modulus, factor));
    BN_free(p);
    BN_free(q);
    return modulus;
}

/* 65521 is the last prime there is to find, 65537 the first that is left alone; of several the
 * smallest is named. */
static void test_small_factor_is_named(void **state)
{
    BIGNUM *last = with_factor(1008, 65521);
    BIGNUM *beyond = with_factor(1008, 65537);
    BIGNUM *both = with_factor(1006, 3 * 65521);
    (void)state;
    assert_refused(last, "modulus that 65521 divides");
    assert_int_equal(check(beyond), 0);
    assert_refused(both, "modulus that 3 divides");
    BN_free(last);
    BN_free(beyond);
    BN_free(both);
}

/* Marks the multiples of prime among start, start + 2, ... */
static void strike_out(const BIGNUM *start, BN_ULONG prime, uint8_t struck[static WINDOW])
{
    BN_ULONG rest = BN_mod_word(start, prime);
    BN_ULONG gap = (prime - rest) % prime;
    for (BN_ULONG i = (gap % 2 ? gap + prime : gap) / 2; i < WINDOW; i += prime)
        struck[i] = 1;
}

static void sieve(const BIGNUM *start, uint8_t struck[static WINDOW])
{
    static uint8_t composite[SMALL_END];
    for (unsigned prime = 3; prime < SMALL_END; prime += 2) {
        if (composite[prime])
            continue;
        strike_out(start, prime, struck);
        for (unsigned multiple = 3 * prime; multiple < SMALL_END; multiple += 2 * prime)
            composite[multiple] = 1;
    }
}

/* How many of a window pass; each that passes and no other has no small factor. */
static unsigned check_window(void)
{
    uint8_t struck[WINDOW] = {0};
    unsigned passed = 0;
    BIGNUM *number = BN_new();
    assert_true(BN_rand(number, 2048, BN_RAND_TOP_TWO, BN_RAND_BOTTOM_ODD));
    sieve(number, struck);
    for (size_t i = 0; i < WINDOW; i++) {
        assert_int_equal(check(number), struck[i] ? FAIL_REFUSED : 0);
        passed += !struck[i];
        assert_true(BN_add_word(number, 2));
    }
    BN_free(number);
    return passed;
}

static void test_all_others_pass(void **state)
{
    unsigned passed = 0;
    (void)state;
    for (int i = 0; i < WINDOWS; i++)
        passed += check_window();
    assert_in_range(passed, 2000, 2900);
}

/* --- close primes --- */

static BIGNUM *next_prime(const BIGNUM *after)
{
    BIGNUM *prime = BN_dup(after);
    assert_non_null(prime);
    do
        assert_true(BN_add_word(prime, 2));
    while (BN_check_prime(prime, scratch, NULL) != 1);
    return prime;
}

static void assert_pair_refused(const BIGNUM *p, const BIGNUM *q)
{
    BIGNUM *modulus = multiply(p, q);
    assert_refused(modulus, "CVE-2022-26320");
    BN_free(modulus);
}

static void test_close_primes_are_refused(void **state)
{
    BIGNUM *p = random_prime(1024);
    BIGNUM *q = next_prime(p);
    (void)state;
    assert_pair_refused(p, p);
    assert_pair_refused(p, q);
    BN_free(p);
    BN_free(q);
}

/* The product of two primes 2^distance apart, the larger nearly 2^1024. Fermat needs
 * (p - q)^2 / 8 / root of n steps. */
static int check_distance(int distance)
{
    BIGNUM *p = BN_get_rfc2409_prime_1024(NULL);
    BIGNUM *q = BN_dup(p);
    BIGNUM *gap = BN_new();
    assert_true(BN_set_bit(gap, distance));
    assert_true(BN_sub(q, q, gap));
    while (BN_check_prime(q, scratch, NULL) != 1)
        assert_true(BN_sub_word(q, 2));
    BIGNUM *modulus = multiply(p, q);
    int rc = check(modulus);
    BN_free(p);
    BN_free(q);
    BN_free(gap);
    BN_free(modulus);
    return rc;
}

/* 2^516 apart is 32 steps, 2^518 is 512. */
static void test_closeness_has_an_end(void **state)
{
    (void)state;
    assert_int_equal(check_distance(400), FAIL_REFUSED);
    assert_int_equal(check_distance(516), FAIL_REFUSED);
    assert_int_equal(check_distance(518), 0);
    assert_int_equal(check_distance(900), 0);
}

/* --- ROCA --- */

/* The product of the first 126 primes, 2 to 701: M for keys of 2048 bits. */
static BIGNUM *roca_m(void)
{
    BIGNUM *m = BN_new();
    int count = 0;
    assert_true(BN_one(m));
    for (BN_ULONG n = 2; count < 126; n++) {
        BN_ULONG divisor = 2;
        while (n % divisor)
            divisor++;
        if (divisor < n)
            continue;
        assert_true(BN_mul_word(m, n));
        count++;
    }
    assert_int_equal(BN_num_bits(m), 971);
    return m;
}

/* 65537^a mod M */
static BIGNUM *roca_power(const BIGNUM *m)
{
    BIGNUM *power = BN_new();
    BIGNUM *a = BN_new();
    assert_true(BN_rand(a, 62, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY));
    assert_true(BN_set_word(power, 65537));
    assert_true(BN_mod_exp(power, power, a, m, scratch));
    BN_free(a);
    return power;
}

/* A prime of 1024 bits: k * M + (65537^a mod M). */
static BIGNUM *roca_prime(const BIGNUM *m)
{
    BIGNUM *power = roca_power(m);
    BIGNUM *prime = BN_new();
    BIGNUM *rest = BN_new();
    do {
        assert_true(BN_rand(prime, 1024, BN_RAND_TOP_TWO, BN_RAND_BOTTOM_ANY));
        assert_true(BN_mod(rest, prime, m, scratch));
        assert_true(BN_sub(prime, prime, rest));
        assert_true(BN_add(prime, prime, power));
    } while (BN_check_prime(prime, scratch, NULL) != 1);
    BN_free(power);
    BN_free(rest);
    return prime;
}

static BIGNUM *roca_modulus(const BIGNUM *m)
{
    BIGNUM *p = roca_prime(m);
    BIGNUM *q = roca_prime(m);
    BIGNUM *modulus = multiply(p, q);
    BN_free(p);
    BN_free(q);
    return modulus;
}

static void test_roca_is_refused(void **state)
{
    BIGNUM *m = roca_m();
    (void)state;
    for (int i = 0; i < 3; i++) {
        BIGNUM *modulus = roca_modulus(m);
        assert_refused(modulus, "CVE-2017-15361");
        BN_free(modulus);
    }
    BN_free(m);
}

/* One prime of the bad form and a good one do not have the fingerprint. */
static void test_half_of_roca_passes(void **state)
{
    BIGNUM *m = roca_m();
    BIGNUM *p = roca_prime(m);
    BIGNUM *q = random_prime(1024);
    BIGNUM *modulus = multiply(p, q);
    (void)state;
    assert_int_equal(check(modulus), 0);
    BN_free(m);
    BN_free(p);
    BN_free(q);
    BN_free(modulus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_openssl_keys_pass),
        cmocka_unit_test(test_small_factors_are_refused),
        cmocka_unit_test(test_small_factor_is_named),
        cmocka_unit_test(test_all_others_pass),
        cmocka_unit_test(test_close_primes_are_refused),
        cmocka_unit_test(test_closeness_has_an_end),
        cmocka_unit_test(test_roca_is_refused),
        cmocka_unit_test(test_half_of_roca_passes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
