/*
 * Done ::= SEQUENCE { version INTEGER }  -- of the TMK
 */
#include "wire/template.h"

#include <openssl/asn1t.h>

struct done_template {
    ASN1_INTEGER *version;
};

/* clang-format off */
ASN1_SEQUENCE(DONE) = {
    ASN1_SIMPLE(DONE, version, ASN1_INTEGER),
} ASN1_SEQUENCE_END(DONE)

static const struct range_rule version_rule = {"Done.version", 1, INT32_MAX};
/* clang-format on */

int done_read(const DONE *from, struct done *ret)
{
    int64_t version;
    int rc = template_read_integer(from->version, &version_rule, &version);
    if (rc == 0)
        ret->version = (uint32_t)version;
    return rc;
}

int done_write(const struct done *from, DONE *ret)
{
    return template_write_integer(from->version, &version_rule, ret->version);
}
