/*
 * Delivery ::= SEQUENCE { ctmk OCTET STRING, transport AlgorithmIdentifier, tmk TMKInfo }
 * TMKInfo  ::= SEQUENCE { type ENUMERATED { des2(0), des3(1), aes128(2), aes192(3), aes256(4) },
 *                         version INTEGER, kcv OCTET STRING (SIZE (3..5)) }
 */
#include "wire/template.h"

#include <openssl/asn1t.h>

#include "common/fail.h"

typedef struct {
    ASN1_ENUMERATED *type;
    ASN1_INTEGER *version;
    ASN1_OCTET_STRING *kcv;
} TMK_INFO;

struct delivery_template {
    ASN1_OCTET_STRING *ctmk;
    X509_ALGOR *transport;
    TMK_INFO *tmk;
};

/* clang-format off */
ASN1_SEQUENCE(TMK_INFO) = {
    ASN1_SIMPLE(TMK_INFO, type, ASN1_ENUMERATED),
    ASN1_SIMPLE(TMK_INFO, version, ASN1_INTEGER),
    ASN1_SIMPLE(TMK_INFO, kcv, ASN1_OCTET_STRING),
} static_ASN1_SEQUENCE_END(TMK_INFO)

ASN1_SEQUENCE(DELIVERY) = {
    ASN1_SIMPLE(DELIVERY, ctmk, ASN1_OCTET_STRING),
    ASN1_SIMPLE(DELIVERY, transport, X509_ALGOR),
    ASN1_SIMPLE(DELIVERY, tmk, TMK_INFO),
} ASN1_SEQUENCE_END(DELIVERY)

static const struct size_rule ctmk_rule = {"Delivery.ctmk", 1, RSA_BLOCK_MAX};
static const struct range_rule type_rule = {"TMKInfo.type", TMK_DES2, TMK_AES256};
static const struct range_rule version_rule = {"TMKInfo.version", 1, INT32_MAX};
/* clang-format on */

/* "-- TDEA 3, AES 5 (ANSI X9.24-1)": the type decides within SIZE (3..5). */
static struct size_rule kcv_rule(enum tmk_type type)
{
    size_t len = tmk_type_kcv_len(type);
    return (struct size_rule){"TMKInfo.kcv", len, len};
}

static int read_tmk_info(const TMK_INFO *from, struct tmk_info *ret)
{
    int64_t type;
    int64_t version;
    int rc;
    if ((rc = template_read_enumerated(from->type, &type_rule, &type)) < 0 ||
        (rc = template_read_integer(from->version, &version_rule, &version)) < 0)
        return rc;
    ret->type = (enum tmk_type)type;
    ret->version = (uint32_t)version;
    struct size_rule rule = kcv_rule(ret->type);
    return template_read_bytes(from->kcv, &rule, ret->kcv, &ret->kcv_len);
}

static int write_tmk_info(const struct tmk_info *from, TMK_INFO *ret)
{
    struct size_rule rule = kcv_rule(from->type);
    int rc;
    if ((rc = template_write_enumerated(from->type, &type_rule, ret->type)) < 0 ||
        (rc = template_write_integer(from->version, &version_rule, ret->version)) < 0)
        return rc;
    return template_write_bytes(from->kcv, from->kcv_len, &rule, ret->kcv);
}

int delivery_read(const DELIVERY *from, struct delivery *ret)
{
    int rc;
    if ((rc = template_read_bytes(from->ctmk, &ctmk_rule, ret->ctmk, &ret->ctmk_len)) < 0 ||
        (rc = transport_read(from->transport, &ret->transport)) < 0)
        return rc;
    return read_tmk_info(from->tmk, &ret->tmk);
}

int delivery_write(const struct delivery *from, DELIVERY *ret)
{
    int rc;
    if ((rc = template_write_bytes(from->ctmk, from->ctmk_len, &ctmk_rule, ret->ctmk)) < 0 ||
        (rc = transport_write(from->transport, ret->transport)) < 0)
        return rc;
    return write_tmk_info(&from->tmk, ret->tmk);
}
