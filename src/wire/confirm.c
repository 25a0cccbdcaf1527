/*
 * Confirm ::= SEQUENCE { mac OCTET STRING (SIZE (8..16)) }  -- one CMAC block of the TMK
 */
#include "wire/template.h"

#include <openssl/asn1t.h>

struct confirm_template {
    ASN1_OCTET_STRING *mac;
};

/* clang-format off */
ASN1_SEQUENCE(CONFIRM) = {
    ASN1_SIMPLE(CONFIRM, mac, ASN1_OCTET_STRING),
} ASN1_SEQUENCE_END(CONFIRM)

static const struct size_rule mac_rule = {"Confirm.mac", MAC_MIN, MAC_MAX};
/* clang-format on */

int confirm_read(const CONFIRM *from, struct confirm *ret)
{
    return template_read_bytes(from->mac, &mac_rule, ret->mac, &ret->mac_len);
}

int confirm_write(const struct confirm *from, CONFIRM *ret)
{
    return template_write_bytes(from->mac, from->mac_len, &mac_rule, ret->mac);
}
