/*
 * Proof ::= SEQUENCE { c2 OCTET STRING }  -- the size of TKP_Pu
 */
#include "wire/template.h"

#include <openssl/asn1t.h>

struct proof_template {
    ASN1_OCTET_STRING *c2;
};

/* clang-format off */
ASN1_SEQUENCE(PROOF) = {
    ASN1_SIMPLE(PROOF, c2, ASN1_OCTET_STRING),
} ASN1_SEQUENCE_END(PROOF)

static const struct size_rule c2_rule = {"Proof.c2", 1, RSA_BLOCK_MAX};
/* clang-format on */

int proof_read(const PROOF *from, struct proof *ret)
{
    return template_read_bytes(from->c2, &c2_rule, ret->c2, &ret->c2_len);
}

int proof_write(const struct proof *from, PROOF *ret)
{
    return template_write_bytes(from->c2, from->c2_len, &c2_rule, ret->c2);
}
