#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Before cmocka, which makes a macro of fail. */
#include "common/fail.h"
#include "common/hex.h"
#include "common/spki.h"

#include <cmocka.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/sha.h>
#include <openssl/x509.h>

/* ---- hex and base64 ---- */

static void test_hex(void **state)
{
    (void)state;
    char text[9];
    const uint8_t bytes[] = {0x00, 0x1f, 0xa0, 0xff};
    assert_ptr_equal(hex_encode(bytes, sizeof(bytes), text), text);
    assert_string_equal(text, "001fa0ff");
    assert_string_equal(hex_encode(bytes, 0, text), "");
}

/* RFC 4648, section 10. */
static const struct {
    const char *plain;
    const char *text;
} base64_vectors[] = {{"f", "Zg=="},        {"fo", "Zm8="},        {"foo", "Zm9v"},
                      {"foob", "Zm9vYg=="}, {"fooba", "Zm9vYmE="}, {"foobar", "Zm9vYmFy"}};

static void test_base64_vectors(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(base64_vectors) / sizeof(base64_vectors[0]); i++) {
        const char *plain = base64_vectors[i].plain;
        char text[16];
        uint8_t bytes[8];
        size_t len = 0;
        base64_encode((const uint8_t *)plain, strlen(plain), text);
        assert_string_equal(text, base64_vectors[i].text);
        assert_int_equal(base64_decode(text, bytes, sizeof(bytes), &len), 0);
        assert_int_equal(len, strlen(plain));
        assert_memory_equal(bytes, plain, len);
    }
}

static void test_base64_is_strict(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",     "Z",     "Zg",     "Zg=",      "Zg===",    "=Zg=",         "Z===", "====", "Zh==",
        "Zm9=", " Zm9v", "Zm9v\n", "Zm9v    ", "Zm 9v===", "Zm9vYg==Zm9v", "Zm9-", "Zm9_"};
    uint8_t bytes[16];
    size_t len = 7;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(base64_decode(bad[i], bytes, sizeof(bytes), &len), FAIL_MALFORMED);
    assert_int_equal(len, 7);
}

static void test_base64_keeps_to_the_size_it_is_given(void **state)
{
    (void)state;
    uint8_t bytes[] = {0xa5, 0xa5, 0xa5, 0xa5};
    char text[5601];
    size_t len;
    assert_int_equal(base64_decode("Zm9v", bytes, 2, &len), FAIL_MALFORMED);
    assert_int_equal(bytes[0], 0xa5);
    assert_int_equal(base64_decode("Zm9v", bytes, 3, &len), 0);
    assert_int_equal(bytes[3], 0xa5);
    memset(text, 'A', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    assert_int_equal(base64_decode(text, bytes, sizeof(bytes), &len), FAIL_MALFORMED);
}

/* ---- SubjectPublicKeyInfo ---- */

struct key_der {
    size_t len;
    uint8_t bytes[2048];
};

static void take_public(EVP_PKEY *key, struct key_der *ret)
{
    unsigned char *at = ret->bytes;
    assert_non_null(key);
    assert_true(i2d_PUBKEY(key, NULL) <= (int)sizeof(ret->bytes));
    ret->len = (size_t)i2d_PUBKEY(key, &at);
    EVP_PKEY_free(key);
}

/* A public key of any random odd modulus: what is read is its form, not its primes. */
static void rsa_key(int bits, unsigned long exponent, struct key_der *ret)
{
    EVP_PKEY *key = NULL;
    BIGNUM *n = BN_new();
    BIGNUM *e = BN_new();
    OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);

    assert_true(BN_rand(n, bits, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ODD));
    assert_true(BN_set_word(e, exponent));
    OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_N, n);
    OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_E, e);
    OSSL_PARAM *parameters = OSSL_PARAM_BLD_to_param(build);
    EVP_PKEY_fromdata_init(context);
    EVP_PKEY_fromdata(context, &key, EVP_PKEY_PUBLIC_KEY, parameters);
    take_public(key, ret);
    OSSL_PARAM_free(parameters);
    OSSL_PARAM_BLD_free(build);
    EVP_PKEY_CTX_free(context);
    BN_free(n);
    BN_free(e);
}

static int read_key(const struct key_der *key)
{
    struct spki spki;
    struct spki before;
    memset(&spki, 0xa5, sizeof(spki));
    before = spki;
    int rc = spki_read(key->bytes, key->len, &spki);
    if (rc < 0)
        assert_memory_equal(&spki, &before, sizeof(spki));
    return rc;
}

static int read_rsa(int bits, unsigned long exponent)
{
    struct key_der key;
    rsa_key(bits, exponent, &key);
    return read_key(&key);
}

static void assert_holds(const struct spki *spki, const struct key_der *key, unsigned bits)
{
    uint8_t sha256[32];
    SHA256(key->bytes, key->len, sha256);
    assert_int_equal(spki->der_len, key->len);
    assert_memory_equal(spki->der, key->bytes, key->len);
    assert_memory_equal(spki->sha256, sha256, sizeof(sha256));
    assert_int_equal(spki->bits, bits);
    assert_int_equal(spki->modulus_len, bits / 8);
    assert_int_equal(spki->exponent_len, 3);
    assert_memory_equal(spki->exponent, "\x01\x00\x01", 3);
    /* SEQUENCE { modulus, exponent } ends with the modulus and the five bytes of 65537. */
    assert_memory_equal(spki->modulus, key->bytes + key->len - 5 - bits / 8, bits / 8);
}

static void test_spki_of_the_accepted_sizes(void **state)
{
    (void)state;
    for (unsigned bits = 2048; bits <= 4096; bits += 1024) {
        struct key_der key;
        struct spki spki;
        struct spki again;
        rsa_key((int)bits, 65537, &key);
        assert_int_equal(spki_read(key.bytes, key.len, &spki), 0);
        assert_holds(&spki, &key, bits);
        assert_int_equal(spki_from_numbers(spki.modulus, spki.modulus_len, spki.exponent,
                                           spki.exponent_len, &again),
                         0);
        assert_holds(&again, &key, bits);
    }
}

static void test_spki_refuses_other_sizes_and_exponents(void **state)
{
    (void)state;
    assert_int_equal(read_rsa(1024, 65537), FAIL_REFUSED);
    assert_int_equal(read_rsa(2047, 65537), FAIL_REFUSED);
    assert_int_equal(read_rsa(2056, 65537), FAIL_REFUSED);
    assert_int_equal(read_rsa(8192, 65537), FAIL_MALFORMED); /* over SPKI_DER_MAX */
    assert_int_equal(read_rsa(2048, 3), FAIL_REFUSED);
    assert_int_equal(read_rsa(2048, 65535), FAIL_REFUSED);
    assert_int_equal(read_rsa(2048, 65538), FAIL_REFUSED);
    assert_int_equal(read_rsa(2048, 0x200000001), 0);
}

static void test_spki_from_numbers_refuses_the_same(void **state)
{
    (void)state;
    struct key_der key;
    struct spki spki;
    struct spki ret;
    const uint8_t three = 3;
    rsa_key(2048, 65537, &key);
    assert_int_equal(spki_read(key.bytes, key.len, &spki), 0);
    assert_int_equal(spki_from_numbers(spki.modulus, 256, &three, 1, &ret), FAIL_REFUSED);
    assert_int_equal(spki_from_numbers(spki.modulus, 128, spki.exponent, 3, &ret), FAIL_REFUSED);
    spki.modulus[255] &= 0xfe;
    assert_int_equal(spki_from_numbers(spki.modulus, 256, spki.exponent, 3, &ret), FAIL_REFUSED);
}

static void test_spki_refuses_other_kinds_of_key(void **state)
{
    (void)state;
    struct key_der key;
    take_public(EVP_EC_gen("P-256"), &key);
    assert_int_equal(read_key(&key), FAIL_REFUSED);
    assert_non_null(strstr(fail_text(), "EC"));
}

static void test_spki_refuses_what_is_not_whole(void **state)
{
    (void)state;
    struct key_der key;
    rsa_key(2048, 65537, &key);
    key.bytes[key.len++] = 0;
    assert_int_equal(read_key(&key), FAIL_MALFORMED);
    key.len -= 2;
    assert_int_equal(read_key(&key), FAIL_MALFORMED);
    key.len = 0;
    assert_int_equal(read_key(&key), FAIL_MALFORMED);
}

/* Whatever one wrong byte makes of a key, it is refused or kept exactly as it came. */
static void test_spki_flips(void **state)
{
    (void)state;
    static const uint8_t masks[] = {0x01, 0x80};
    struct key_der key;
    struct spki spki;
    rsa_key(2048, 65537, &key);
    for (size_t i = 0; i < key.len * sizeof(masks); i++) {
        uint8_t *at = &key.bytes[i / sizeof(masks)];
        *at ^= masks[i % sizeof(masks)];
        if (spki_read(key.bytes, key.len, &spki) == 0) {
            assert_int_equal(spki.der_len, key.len);
            assert_memory_equal(spki.der, key.bytes, key.len);
        }
        *at ^= masks[i % sizeof(masks)];
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hex),
        cmocka_unit_test(test_base64_vectors),
        cmocka_unit_test(test_base64_is_strict),
        cmocka_unit_test(test_base64_keeps_to_the_size_it_is_given),
        cmocka_unit_test(test_spki_of_the_accepted_sizes),
        cmocka_unit_test(test_spki_refuses_other_sizes_and_exponents),
        cmocka_unit_test(test_spki_from_numbers_refuses_the_same),
        cmocka_unit_test(test_spki_refuses_other_kinds_of_key),
        cmocka_unit_test(test_spki_refuses_what_is_not_whole),
        cmocka_unit_test(test_spki_flips),
    };
    return cmocka_run_group_tests_name("common", tests, NULL, NULL);
}
