/*
 * Failure ::= SEQUENCE { code ENUMERATED { malformed(1), unsupportedVersion(2), rejected(3),
 *                                          busy(4), internal(5) },
 *                        retryAfter INTEGER (0..3600) OPTIONAL }  -- seconds
 */
#include "wire/template.h"

#include <openssl/asn1t.h>

#include "common/fail.h"

struct failure_template {
    ASN1_ENUMERATED *code;
    ASN1_INTEGER *retry_after;
};

/* clang-format off */
ASN1_SEQUENCE(FAILURE) = {
    ASN1_SIMPLE(FAILURE, code, ASN1_ENUMERATED),
    ASN1_OPT(FAILURE, retry_after, ASN1_INTEGER),
} ASN1_SEQUENCE_END(FAILURE)

static const
    struct range_rule code_rule = {"Failure.code", FAILURE_MALFORMED, FAILURE_INTERNAL};
static const struct range_rule retry_rule = {"Failure.retryAfter", 0, RETRY_AFTER_MAX};
/* clang-format on */

const char *failure_code_name(enum failure_code code)
{
    switch (code) {
    case FAILURE_MALFORMED:
        return "malformed";
    case FAILURE_UNSUPPORTED_VERSION:
        return "unsupportedVersion";
    case FAILURE_REJECTED:
        return "rejected";
    case FAILURE_BUSY:
        return "busy";
    case FAILURE_INTERNAL:
        return "internal";
    }
    return NULL;
}

int failure_read(const FAILURE *from, struct failure *ret)
{
    int64_t code;
    int64_t retry_after = RETRY_AFTER_NONE;
    int rc = template_read_enumerated(from->code, &code_rule, &code);
    if (rc == 0 && from->retry_after)
        rc = template_read_integer(from->retry_after, &retry_rule, &retry_after);
    if (rc < 0)
        return rc;
    ret->code = (enum failure_code)code;
    ret->retry_after = (int)retry_after;
    return 0;
}

int failure_write(const struct failure *from, FAILURE *ret)
{
    int rc = template_write_enumerated(from->code, &code_rule, ret->code);
    if (rc < 0 || from->retry_after == RETRY_AFTER_NONE)
        return rc;
    ret->retry_after = ASN1_INTEGER_new();
    if (!ret->retry_after)
        return fail(FAIL_MEMORY, "no memory for Failure.retryAfter");
    return template_write_integer(from->retry_after, &retry_rule, ret->retry_after);
}
