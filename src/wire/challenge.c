/*
 * Challenge    ::= SEQUENCE { tbs ChallengeTBS, c1 OCTET STRING }
 * ChallengeTBS ::= SEQUENCE { rnd2 OCTET STRING (SIZE (32)),
 *                             deliveryDigest OCTET STRING (SIZE (32)),
 *                             kswcrt SEQUENCE SIZE (1..4) OF Certificate }  -- leaf first
 *
 * A certificate is carried as it came, byte for byte: its signature covers those bytes, and what
 * is inside is for the terminal's path validation to judge (S305).
 */
#include "wire/template.h"

#include <string.h>

#include <openssl/asn1t.h>
#include <openssl/err.h>

#include "common/fail.h"

struct challenge_tbs_template {
    ASN1_OCTET_STRING *rnd2;
    ASN1_OCTET_STRING *delivery_digest;
    STACK_OF(ASN1_TYPE) * kswcrt;
};

struct challenge_template {
    CHALLENGE_TBS *tbs;
    ASN1_OCTET_STRING *c1;
};

/* clang-format off */
ASN1_SEQUENCE(CHALLENGE_TBS) = {
    ASN1_SIMPLE(CHALLENGE_TBS, rnd2, ASN1_OCTET_STRING),
    ASN1_SIMPLE(CHALLENGE_TBS, delivery_digest, ASN1_OCTET_STRING),
    ASN1_SEQUENCE_OF(CHALLENGE_TBS, kswcrt, ASN1_ANY),
} ASN1_SEQUENCE_END(CHALLENGE_TBS)

ASN1_SEQUENCE(CHALLENGE) = {
    ASN1_SIMPLE(CHALLENGE, tbs, CHALLENGE_TBS),
    ASN1_SIMPLE(CHALLENGE, c1, ASN1_OCTET_STRING),
} ASN1_SEQUENCE_END(CHALLENGE)

static const struct size_rule rnd2_rule = {"ChallengeTBS.rnd2", RND_LEN, RND_LEN};
static const struct size_rule digest_rule = {"ChallengeTBS.deliveryDigest", DIGEST_LEN, DIGEST_LEN};
static const struct size_rule c1_rule = {"Challenge.c1", 1, RSA_BLOCK_MAX};
/* clang-format on */

/* Whether der is one SEQUENCE of definite, minimal length (X.690 10.1) and nothing else. ASN1_ANY
 * keeps an element with the header it came with, so encoding again would not show it. */
static int is_der_sequence(const uint8_t *der, size_t len)
{
    const unsigned char *content = der;
    long content_len;
    int tag;
    int class;
    ERR_set_mark();
    int kind = ASN1_get_object(&content, &content_len, &tag, &class, (long)len);
    ERR_pop_to_mark();
    return kind == V_ASN1_CONSTRUCTED && tag == V_ASN1_SEQUENCE && class == V_ASN1_UNIVERSAL &&
           content + content_len == der + len &&
           ASN1_object_size(1, (int)content_len, tag) == (int)len;
}

static size_t chain_der_len(const struct cert_chain *chain)
{
    size_t total = 0;
    for (size_t i = 0; i < chain->count; i++)
        total += chain->len[i];
    return total;
}

int cert_chain_add(struct cert_chain *chain, const uint8_t *der, size_t len)
{
    size_t used = chain_der_len(chain);
    if (chain->count >= CHAIN_MAX || len > CHAIN_DER_MAX - used)
        return fail(FAIL_MALFORMED, "a certificate chain has at most %d certificates, %d bytes",
                    CHAIN_MAX, CHAIN_DER_MAX);
    if (!is_der_sequence(der, len))
        return fail(FAIL_MALFORMED, "a certificate that is not one DER SEQUENCE");
    memcpy(chain->der + used, der, len);
    chain->len[chain->count++] = len;
    return 0;
}

const uint8_t *cert_chain_at(const struct cert_chain *chain, size_t i, size_t *ret_len)
{
    const uint8_t *der = chain->der;
    for (size_t before = 0; before < i; before++)
        der += chain->len[before];
    *ret_len = chain->len[i];
    return der;
}

static int read_chain(const STACK_OF(ASN1_TYPE) * from, struct cert_chain *ret)
{
    if (sk_ASN1_TYPE_num(from) < 1)
        return fail(FAIL_MALFORMED, "ChallengeTBS.kswcrt is empty");
    for (int i = 0; i < sk_ASN1_TYPE_num(from); i++) {
        const ASN1_TYPE *cert = sk_ASN1_TYPE_value(from, i);
        if (cert->type != V_ASN1_SEQUENCE)
            return fail(FAIL_MALFORMED, "ChallengeTBS.kswcrt holds what is no certificate");
        int rc =
            cert_chain_add(ret, cert->value.sequence->data, (size_t)cert->value.sequence->length);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* Through cert_chain_add(), so that what is written is what would be read. */
static int check_chain(const struct cert_chain *chain)
{
    struct cert_chain again = {0};
    if (chain->count < 1 || chain->count > CHAIN_MAX)
        return fail(FAIL_MALFORMED, "a certificate chain has 1 to %d certificates", CHAIN_MAX);
    for (size_t i = 0; i < chain->count; i++) {
        size_t len;
        const uint8_t *der = cert_chain_at(chain, i, &len);
        int rc = cert_chain_add(&again, der, len);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int write_certificate(const uint8_t *der, size_t len, STACK_OF(ASN1_TYPE) * ret)
{
    ASN1_TYPE *cert = ASN1_TYPE_new();
    ASN1_STRING *bytes = ASN1_STRING_type_new(V_ASN1_SEQUENCE);

    if (!cert || !bytes || !ASN1_STRING_set(bytes, der, (int)len) ||
        !sk_ASN1_TYPE_push(ret, cert)) {
        ASN1_TYPE_free(cert);
        ASN1_STRING_free(bytes);
        return fail(FAIL_MEMORY, "no memory for a certificate");
    }
    ASN1_TYPE_set(cert, V_ASN1_SEQUENCE, bytes);
    return 0;
}

static int write_chain(const struct cert_chain *from, STACK_OF(ASN1_TYPE) * ret)
{
    int rc = check_chain(from);
    for (size_t i = 0; rc == 0 && i < from->count; i++) {
        size_t len;
        const uint8_t *der = cert_chain_at(from, i, &len);
        rc = write_certificate(der, len, ret);
    }
    return rc;
}

static int challenge_tbs_read(const CHALLENGE_TBS *from, struct challenge_tbs *ret)
{
    size_t len;
    int rc;
    if ((rc = template_read_bytes(from->rnd2, &rnd2_rule, ret->rnd2, &len)) < 0 ||
        (rc = template_read_bytes(from->delivery_digest, &digest_rule, ret->delivery_digest,
                                  &len)) < 0)
        return rc;
    return read_chain(from->kswcrt, &ret->kswcrt);
}

int challenge_tbs_write(const struct challenge_tbs *from, CHALLENGE_TBS *ret)
{
    int rc;
    if ((rc = template_write_bytes(from->rnd2, RND_LEN, &rnd2_rule, ret->rnd2)) < 0 ||
        (rc = template_write_bytes(from->delivery_digest, DIGEST_LEN, &digest_rule,
                                   ret->delivery_digest)) < 0)
        return rc;
    return write_chain(&from->kswcrt, ret->kswcrt);
}

int challenge_read(const CHALLENGE *from, struct challenge *ret)
{
    int rc = challenge_tbs_read(from->tbs, &ret->tbs);
    return rc < 0 ? rc : template_read_bytes(from->c1, &c1_rule, ret->c1, &ret->c1_len);
}

int challenge_write(const struct challenge *from, CHALLENGE *ret)
{
    int rc = challenge_tbs_write(&from->tbs, ret->tbs);
    return rc < 0 ? rc : template_write_bytes(from->c1, from->c1_len, &c1_rule, ret->c1);
}
