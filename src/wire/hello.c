/*
 * Hello ::= SEQUENCE { version INTEGER (1), sn UTF8String (SIZE (1..64)),
 *                      rnd1 OCTET STRING (SIZE (32)) }
 */
#include "wire/template.h"

#include <string.h>

#include <openssl/asn1t.h>

#include "common/fail.h"

struct hello_template {
    ASN1_INTEGER *version;
    ASN1_UTF8STRING *sn;
    ASN1_OCTET_STRING *rnd1;
};

/* clang-format off */
ASN1_SEQUENCE(HELLO) = {
    ASN1_SIMPLE(HELLO, version, ASN1_INTEGER),
    ASN1_SIMPLE(HELLO, sn, ASN1_UTF8STRING),
    ASN1_SIMPLE(HELLO, rnd1, ASN1_OCTET_STRING),
} ASN1_SEQUENCE_END(HELLO)

/* Other versions are well-formed too: they get an answer of their own, FAIL_VERSION. */
static const struct range_rule version_rule = {"Hello.version", 0, INT32_MAX};
static const struct size_rule sn_rule = {"Hello.sn", 1, SN_MAX};
static const struct size_rule rnd1_rule = {"Hello.rnd1", RND_LEN, RND_LEN};
/* clang-format on */

/* "-- each character 0x21..0x7E": printable, no space, and no zero byte that would end it early. */
static int sn_has_only_graphic(const char *sn, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (sn[i] < 0x21 || sn[i] > 0x7e)
            return 0;
    return 1;
}

int sn_is_valid(const char *sn)
{
    size_t len = strnlen(sn, SN_MAX + 1);
    return len >= 1 && len <= SN_MAX && sn_has_only_graphic(sn, len);
}

static int read_version(const ASN1_INTEGER *from)
{
    int64_t version;
    int rc = template_read_integer(from, &version_rule, &version);
    if (rc < 0)
        return rc;
    if (version != PROTOCOL_VERSION)
        return fail(FAIL_VERSION, "protocol version %d; this build speaks %d", (int)version,
                    PROTOCOL_VERSION);
    return 0;
}

static int read_sn(const ASN1_UTF8STRING *from, char ret_sn[static SN_MAX + 1])
{
    char sn[SN_MAX + 1] = "";
    size_t len;
    int rc = template_read_bytes(from, &sn_rule, (uint8_t *)sn, &len);
    if (rc < 0)
        return rc;
    if (!sn_has_only_graphic(sn, len))
        return fail(FAIL_MALFORMED, "Hello.sn has a character outside 0x21 to 0x7E");
    memcpy(ret_sn, sn, sizeof(sn));
    return 0;
}

int hello_read(const HELLO *from, struct hello *ret)
{
    size_t len;
    int rc;
    if ((rc = read_version(from->version)) < 0 || (rc = read_sn(from->sn, ret->sn)) < 0)
        return rc;
    return template_read_bytes(from->rnd1, &rnd1_rule, ret->rnd1, &len);
}

int hello_write(const struct hello *from, HELLO *ret)
{
    int rc;
    if (!sn_is_valid(from->sn))
        return fail(FAIL_MALFORMED, "an SN is 1 to %d characters, each 0x21 to 0x7E", SN_MAX);
    if ((rc = template_write_integer(PROTOCOL_VERSION, &version_rule, ret->version)) < 0 ||
        (rc = template_write_bytes((const uint8_t *)from->sn, strlen(from->sn), &sn_rule,
                                   ret->sn)) < 0)
        return rc;
    return template_write_bytes(from->rnd1, RND_LEN, &rnd1_rule, ret->rnd1);
}
