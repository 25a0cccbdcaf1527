#include "terminal/pkcs11_tkp.h"

#include <string.h>

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include "common/fail.h"
#include "hsm/cryptoki.h"
#include "terminal/pkcs11_module.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static char tkp_pr_label[] = "TKP_Pr";
static char tkp_pu_label[] = "TKP_Pu";

/* What the two halves of a TKP may do, however they come into the token. */
#define TKP_PR_ATTRIBUTES                                                                          \
    ATTRIBUTE(CKA_TOKEN, token_true), ATTRIBUTE(CKA_PRIVATE, token_true),                          \
        ATTRIBUTE(CKA_SENSITIVE, token_true), ATTRIBUTE(CKA_EXTRACTABLE, token_false),             \
        ATTRIBUTE(CKA_MODIFIABLE, token_false), ATTRIBUTE(CKA_UNWRAP, token_true),                 \
        ATTRIBUTE(CKA_DECRYPT, token_false), ATTRIBUTE(CKA_SIGN, token_false),                     \
        ATTRIBUTE(CKA_SIGN_RECOVER, token_false), ATTRIBUTE(CKA_DERIVE, token_false),              \
        ATTRIBUTE_BYTES(CKA_LABEL, tkp_pr_label, strlen(tkp_pr_label))
#define TKP_PU_ATTRIBUTES                                                                          \
    ATTRIBUTE(CKA_TOKEN, token_true), ATTRIBUTE(CKA_PRIVATE, token_true),                          \
        ATTRIBUTE(CKA_MODIFIABLE, token_false), ATTRIBUTE(CKA_ENCRYPT, token_true),                \
        ATTRIBUTE(CKA_WRAP, token_false), ATTRIBUTE(CKA_VERIFY, token_false),                      \
        ATTRIBUTE(CKA_VERIFY_RECOVER, token_false), ATTRIBUTE(CKA_DERIVE, token_false),            \
        ATTRIBUTE_BYTES(CKA_LABEL, tkp_pu_label, strlen(tkp_pu_label))

static int find(struct token_session *session, CK_OBJECT_CLASS class, char *label,
                token_handle *ret_key)
{
    CK_ATTRIBUTE attributes[] = {
        ATTRIBUTE(CKA_CLASS, class),
        ATTRIBUTE(CKA_TOKEN, token_true),
        ATTRIBUTE_BYTES(CKA_LABEL, label, strlen(label)),
    };
    return token_search_one(session, attributes, COUNT(attributes), label, ret_key);
}

int pkcs11_tkp_pr_find(struct token_session *session, token_handle *ret_tkp_pr)
{
    int rc = find(session, CKO_PRIVATE_KEY, tkp_pr_label, ret_tkp_pr);

    if (rc == FAIL_NOT_FOUND)
        return fail(FAIL_NOT_FOUND, "there is no TKP_Pr in the secure module: its case was opened, "
                                    "and only the factory can give it a new one");
    return rc;
}

int pkcs11_tkp_pu_find(struct token_session *session, token_handle *ret_tkp_pu)
{
    return find(session, CKO_PUBLIC_KEY, tkp_pu_label, ret_tkp_pu);
}

int pkcs11_module_tkp_pu(struct token_session *session, struct spki *ret_tkp_pu)
{
    uint8_t modulus[SPKI_MODULUS_MAX];
    uint8_t exponent[SPKI_EXPONENT_MAX];
    size_t modulus_len = 0;
    size_t exponent_len = 0;
    token_handle key;
    int rc = pkcs11_tkp_pu_find(session, &key);

    if (rc == 0)
        rc = token_attribute(session, key, CKA_MODULUS, modulus, sizeof(modulus), &modulus_len);
    if (rc == 0)
        rc = token_attribute(session, key, CKA_PUBLIC_EXPONENT, exponent, sizeof(exponent),
                             &exponent_len);
    if (rc < 0)
        return fail_in(rc, "TKP_Pu");
    return spki_from_numbers(modulus, modulus_len, exponent, exponent_len, ret_tkp_pu);
}

int pkcs11_module_generate_tkp(struct token_session *session, unsigned bits)
{
    CK_MECHANISM mechanism = {CKM_RSA_PKCS_KEY_PAIR_GEN, NULL, 0};
    CK_ULONG modulus_bits = bits;
    CK_BYTE exponent[] = {1, 0, 1};
    CK_ATTRIBUTE public_half[] = {
        TKP_PU_ATTRIBUTES,
        ATTRIBUTE(CKA_MODULUS_BITS, modulus_bits),
        ATTRIBUTE(CKA_PUBLIC_EXPONENT, exponent),
    };
    CK_ATTRIBUTE private_half[] = {TKP_PR_ATTRIBUTES};
    CK_OBJECT_HANDLE tkp_pu;
    CK_OBJECT_HANDLE tkp_pr;

    return token_result(TOKEN_CALL(session->token, C_GenerateKeyPair, session->handle, &mechanism,
                                   public_half, COUNT(public_half), private_half,
                                   COUNT(private_half), &tkp_pu, &tkp_pr),
                        "C_GenerateKeyPair", "TKP");
}

static int create(struct token_session *session, CK_ATTRIBUTE *attributes, CK_ULONG count,
                  const char *label)
{
    CK_OBJECT_HANDLE key;
    return token_result(
        TOKEN_CALL(session->token, C_CreateObject, session->handle, attributes, count, &key),
        "C_CreateObject", label);
}

static int create_tkp_pu(struct token_session *session, struct spki *tkp_pu)
{
    CK_OBJECT_CLASS class = CKO_PUBLIC_KEY;
    CK_KEY_TYPE type = CKK_RSA;
    CK_ATTRIBUTE attributes[] = {
        ATTRIBUTE(CKA_CLASS, class),
        ATTRIBUTE(CKA_KEY_TYPE, type),
        TKP_PU_ATTRIBUTES,
        ATTRIBUTE_BYTES(CKA_MODULUS, tkp_pu->modulus, tkp_pu->modulus_len),
        ATTRIBUTE_BYTES(CKA_PUBLIC_EXPONENT, tkp_pu->exponent, tkp_pu->exponent_len),
    };
    return create(session, attributes, COUNT(attributes), tkp_pu_label);
}

/* --- a private key from outside --- */

static const struct {
    CK_ATTRIBUTE_TYPE type;
    const char *name;
} number_kinds[] = {
    {CKA_MODULUS, OSSL_PKEY_PARAM_RSA_N},
    {CKA_PUBLIC_EXPONENT, OSSL_PKEY_PARAM_RSA_E},
    {CKA_PRIVATE_EXPONENT, OSSL_PKEY_PARAM_RSA_D},
    {CKA_PRIME_1, OSSL_PKEY_PARAM_RSA_FACTOR1},
    {CKA_PRIME_2, OSSL_PKEY_PARAM_RSA_FACTOR2},
    {CKA_EXPONENT_1, OSSL_PKEY_PARAM_RSA_EXPONENT1},
    {CKA_EXPONENT_2, OSSL_PKEY_PARAM_RSA_EXPONENT2},
    {CKA_COEFFICIENT, OSSL_PKEY_PARAM_RSA_COEFFICIENT1},
};

enum { NUMBER_COUNT = sizeof(number_kinds) / sizeof(number_kinds[0]) };

/* An RSA private key in clear; wiped by its owner. */
struct numbers {
    size_t len[NUMBER_COUNT];
    uint8_t bytes[NUMBER_COUNT][SPKI_MODULUS_MAX];
};

static int read_numbers(const EVP_PKEY *key, struct numbers *ret_numbers)
{
    for (size_t i = 0; i < NUMBER_COUNT; i++) {
        BIGNUM *number = NULL;
        if (!EVP_PKEY_get_bn_param(key, number_kinds[i].name, &number) ||
            BN_num_bytes(number) > SPKI_MODULUS_MAX) {
            BN_clear_free(number);
            return fail_crypto("the private key has no number '%s' that can be used",
                               number_kinds[i].name);
        }
        ret_numbers->len[i] = (size_t)BN_bn2bin(number, ret_numbers->bytes[i]);
        BN_clear_free(number);
    }
    return 0;
}

static int create_tkp_pr(struct token_session *session, struct numbers *numbers)
{
    CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
    CK_KEY_TYPE type = CKK_RSA;
    CK_ATTRIBUTE fixed[] = {
        ATTRIBUTE(CKA_CLASS, class),
        ATTRIBUTE(CKA_KEY_TYPE, type),
        TKP_PR_ATTRIBUTES,
    };
    CK_ATTRIBUTE attributes[COUNT(fixed) + NUMBER_COUNT];

    memcpy(attributes, fixed, sizeof(fixed));
    for (size_t i = 0; i < NUMBER_COUNT; i++)
        attributes[COUNT(fixed) + i] =
            (CK_ATTRIBUTE)ATTRIBUTE_BYTES(number_kinds[i].type, numbers->bytes[i], numbers->len[i]);
    return create(session, attributes, COUNT(attributes), tkp_pr_label);
}

/* So that nothing asks for a passphrase on a terminal: there is none. */
static int no_passphrase(char *ret_text, int size, int writing, void *context)
{
    (void)ret_text, (void)size, (void)writing, (void)context;
    return -1;
}

static int read_pem(const uint8_t *pem, size_t len, EVP_PKEY **ret_key)
{
    BIO *bio = BIO_new_mem_buf(pem, (int)len);
    EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL) : NULL;

    BIO_free(bio);
    if (!key) {
        ERR_clear_error();
        return fail(FAIL_MALFORMED, "not a private key in PEM without a passphrase");
    }
    *ret_key = key;
    return 0;
}

/* Size and kind as for every TKP_Pu, and the private half must belong to it (SP 800-56B 6.4.1). */
static int check_pair(EVP_PKEY *key, struct spki *ret_tkp_pu)
{
    unsigned char *der = NULL;
    int len = i2d_PUBKEY(key, &der);
    int rc = len > 0 ? spki_read(der, (size_t)len, ret_tkp_pu)
                     : fail_crypto("cannot encode the public key");

    OPENSSL_free(der);
    if (rc < 0)
        return rc;
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(key, NULL);
    int sound = context && EVP_PKEY_check(context) == 1;
    EVP_PKEY_CTX_free(context);
    ERR_clear_error();
    return sound ? 0 : fail(FAIL_REFUSED, "the numbers of the private key do not fit together");
}

static int import(struct token_session *session, EVP_PKEY *key)
{
    struct numbers numbers = {0};
    struct spki tkp_pu;
    int rc = check_pair(key, &tkp_pu);

    if (rc == 0)
        rc = read_numbers(key, &numbers);
    if (rc == 0)
        rc = create_tkp_pu(session, &tkp_pu);
    if (rc == 0)
        rc = create_tkp_pr(session, &numbers);
    OPENSSL_cleanse(&numbers, sizeof(numbers));
    return rc;
}

int pkcs11_module_import_tkp(struct token_session *session, const uint8_t *pem, size_t len)
{
    EVP_PKEY *key = NULL;
    int rc = read_pem(pem, len, &key);

    if (rc == 0)
        rc = import(session, key);
    EVP_PKEY_free(key);
    return rc;
}
