#include "common/spki.h"

#include <string.h>

#include <openssl/asn1t.h>
#include <openssl/err.h>
#include <openssl/sha.h>
#include <openssl/x509.h>

#include "common/fail.h"

/*
 * By templates and not by d2i_PUBKEY(): that one asks each of OpenSSL 3's decoders in turn and
 * takes a tenth of a millisecond, a good part of what a whole download may cost.
 */

/* RFC 5280 4.1.2.7 */
typedef struct {
    X509_ALGOR *algorithm;
    ASN1_BIT_STRING *key;
} PUBLIC_KEY_INFO;

/* RFC 8017 A.1.1 */
typedef struct {
    ASN1_INTEGER *modulus;
    ASN1_INTEGER *exponent;
} RSA_NUMBERS;

/* clang-format off */
ASN1_SEQUENCE(PUBLIC_KEY_INFO) = {
    ASN1_SIMPLE(PUBLIC_KEY_INFO, algorithm, X509_ALGOR),
    ASN1_SIMPLE(PUBLIC_KEY_INFO, key, ASN1_BIT_STRING),
} static_ASN1_SEQUENCE_END(PUBLIC_KEY_INFO)

ASN1_SEQUENCE(RSA_NUMBERS) = {
    ASN1_SIMPLE(RSA_NUMBERS, modulus, ASN1_INTEGER),
    ASN1_SIMPLE(RSA_NUMBERS, exponent, ASN1_INTEGER),
} static_ASN1_SEQUENCE_END(RSA_NUMBERS)
            /* clang-format on */

            /* The value of strict DER: all of it is consumed, and encoding again gives the same
               bytes. */
            static void *
            read_strictly(const ASN1_ITEM *type, const uint8_t *der, size_t len)
{
    const unsigned char *at = der;
    unsigned char *again = NULL;
    void *value = ASN1_item_d2i(NULL, &at, (long)len, type);
    int again_len = value ? ASN1_item_i2d(value, &again, type) : -1;
    int strict = again_len >= 0 && (size_t)again_len == len && memcmp(again, der, len) == 0;
    OPENSSL_free(again);
    ERR_clear_error();
    if (strict)
        return value;
    ASN1_item_free(value, type);
    return NULL;
}

/* --- the numbers --- */

static int check_numbers(const struct spki *spki)
{
    if (spki->bits != 2048 && spki->bits != 3072 && spki->bits != 4096)
        return fail(FAIL_REFUSED, "an RSA key of %u bits; 2048, 3072 and 4096 are accepted",
                    spki->bits);
    if (!(spki->modulus[spki->modulus_len - 1] & 1))
        return fail(FAIL_REFUSED, "an RSA modulus that is even");
    if (spki->exponent_len < 3 || !(spki->exponent[spki->exponent_len - 1] & 1))
        return fail(FAIL_REFUSED,
                    "an RSA public exponent that is not odd, under 65537 or over 64 bits");
    return 0;
}

static unsigned bits_of(const uint8_t *number, size_t len)
{
    unsigned bits = (unsigned)len * 8;
    for (unsigned top = number[0]; top < 0x80; top = top << 1 | 1)
        bits--;
    return bits;
}

/* Big-endian numbers without leading zeros into *spki. */
static int take_numbers(const uint8_t *modulus, size_t modulus_len, const uint8_t *exponent,
                        size_t exponent_len, struct spki *spki)
{
    if (modulus_len == 0 || modulus_len > SPKI_MODULUS_MAX)
        return fail(FAIL_REFUSED, "an RSA modulus of %zu bytes; 2048 to 4096 bits are accepted",
                    modulus_len);
    if (exponent_len == 0 || exponent_len > SPKI_EXPONENT_MAX)
        return fail(FAIL_REFUSED,
                    "an RSA public exponent that is not odd, under 65537 or over 64 bits");
    spki->bits = bits_of(modulus, modulus_len);
    spki->modulus_len = modulus_len;
    memcpy(spki->modulus, modulus, modulus_len);
    spki->exponent_len = exponent_len;
    memcpy(spki->exponent, exponent, exponent_len);
    return check_numbers(spki);
}

static int is_positive(const ASN1_INTEGER *number)
{
    return ASN1_STRING_type(number) == V_ASN1_INTEGER && ASN1_STRING_length(number) > 0 &&
           ASN1_STRING_get0_data(number)[0] != 0;
}

static int read_numbers(const ASN1_BIT_STRING *key, struct spki *spki)
{
    RSA_NUMBERS *numbers = read_strictly(ASN1_ITEM_rptr(RSA_NUMBERS), ASN1_STRING_get0_data(key),
                                         (size_t)ASN1_STRING_length(key));
    int rc = FAIL_MALFORMED;
    if (!numbers || !is_positive(numbers->modulus) || !is_positive(numbers->exponent))
        rc = fail(FAIL_MALFORMED, "an RSA public key that is not strict DER of two numbers");
    else
        rc = take_numbers(ASN1_STRING_get0_data(numbers->modulus),
                          (size_t)ASN1_STRING_length(numbers->modulus),
                          ASN1_STRING_get0_data(numbers->exponent),
                          (size_t)ASN1_STRING_length(numbers->exponent), spki);
    ASN1_item_free((ASN1_VALUE *)numbers, ASN1_ITEM_rptr(RSA_NUMBERS));
    return rc;
}

/* --- reading --- */

/* rsaEncryption with NULL, as RFC 4055 1.2 wants it. */
static int check_algorithm(const X509_ALGOR *algorithm)
{
    const ASN1_OBJECT *type;
    int parameters;
    char name[80];
    X509_ALGOR_get0(&type, &parameters, NULL, algorithm);
    int kind = OBJ_obj2nid(type);
    if (kind == NID_X9_62_id_ecPublicKey)
        return fail(FAIL_REFUSED, "its type is EC; TKP_Pu must be RSA");
    if (kind != NID_rsaEncryption) {
        OBJ_obj2txt(name, sizeof(name), type, 0);
        return fail(FAIL_REFUSED, "its type is %s; TKP_Pu must be RSA", name);
    }
    return parameters == V_ASN1_NULL
               ? 0
               : fail(FAIL_MALFORMED, "an RSA public key with parameters other than NULL");
}

static void identify(const uint8_t *der, size_t len, struct spki *spki)
{
    spki->der_len = len;
    memcpy(spki->der, der, len);
    SHA256(der, len, spki->sha256);
}

int spki_read(const uint8_t *der, size_t len, struct spki *ret)
{
    struct spki spki = {0};
    PUBLIC_KEY_INFO *info =
        len <= SPKI_DER_MAX ? read_strictly(ASN1_ITEM_rptr(PUBLIC_KEY_INFO), der, len) : NULL;
    if (!info)
        return fail(FAIL_MALFORMED,
                    "not the strict DER of a SubjectPublicKeyInfo of at most %d "
                    "bytes",
                    SPKI_DER_MAX);
    int rc = check_algorithm(info->algorithm);
    if (rc == 0)
        rc = read_numbers(info->key, &spki);
    ASN1_item_free((ASN1_VALUE *)info, ASN1_ITEM_rptr(PUBLIC_KEY_INFO));
    if (rc < 0)
        return rc;
    identify(der, len, &spki);
    *ret = spki;
    return 0;
}

/* --- writing --- */

static int encode_numbers(const struct spki *spki, unsigned char **ret_der)
{
    RSA_NUMBERS *numbers = (RSA_NUMBERS *)ASN1_item_new(ASN1_ITEM_rptr(RSA_NUMBERS));
    int len = -1;
    if (numbers && ASN1_STRING_set(numbers->modulus, spki->modulus, (int)spki->modulus_len) &&
        ASN1_STRING_set(numbers->exponent, spki->exponent, (int)spki->exponent_len))
        len = ASN1_item_i2d((ASN1_VALUE *)numbers, ret_der, ASN1_ITEM_rptr(RSA_NUMBERS));
    ASN1_item_free((ASN1_VALUE *)numbers, ASN1_ITEM_rptr(RSA_NUMBERS));
    return len;
}

/* Takes key. */
static int encode_info(unsigned char *key, int key_len, unsigned char **ret_der)
{
    PUBLIC_KEY_INFO *info = (PUBLIC_KEY_INFO *)ASN1_item_new(ASN1_ITEM_rptr(PUBLIC_KEY_INFO));
    int len = -1;
    if (info &&
        X509_ALGOR_set0(info->algorithm, OBJ_nid2obj(NID_rsaEncryption), V_ASN1_NULL, NULL)) {
        ASN1_STRING_set0(info->key, key, key_len);
        info->key->flags = ASN1_STRING_FLAG_BITS_LEFT; /* all bits are used, zeros at the end too */
        key = NULL;
        len = ASN1_item_i2d((ASN1_VALUE *)info, ret_der, ASN1_ITEM_rptr(PUBLIC_KEY_INFO));
    }
    OPENSSL_free(key);
    ASN1_item_free((ASN1_VALUE *)info, ASN1_ITEM_rptr(PUBLIC_KEY_INFO));
    return len;
}

static void strip_zeros(const uint8_t **number, size_t *len)
{
    while (*len > 0 && **number == 0) {
        (*number)++;
        (*len)--;
    }
}

int spki_from_numbers(const uint8_t *modulus, size_t modulus_len, const uint8_t *exponent,
                      size_t exponent_len, struct spki *ret)
{
    struct spki spki = {0};
    unsigned char *key = NULL;
    unsigned char *der = NULL;
    strip_zeros(&modulus, &modulus_len);
    strip_zeros(&exponent, &exponent_len);
    int rc = take_numbers(modulus, modulus_len, exponent, exponent_len, &spki);
    if (rc < 0)
        return rc;
    int key_len = encode_numbers(&spki, &key);
    int len = key_len > 0 ? encode_info(key, key_len, &der) : -1;
    if (len <= 0 || len > SPKI_DER_MAX) {
        OPENSSL_free(der);
        return fail_crypto("cannot encode an RSA public key");
    }
    identify(der, (size_t)len, &spki);
    OPENSSL_free(der);
    *ret = spki;
    return 0;
}
