#include "wire/template.h"

#include <inttypes.h>
#include <string.h>

#include "common/fail.h"

static int check_size(size_t len, const struct size_rule *rule)
{
    if (len < rule->min || len > rule->max)
        return fail(FAIL_MALFORMED, "%s has %zu bytes; %zu to %zu are allowed", rule->field, len,
                    rule->min, rule->max);
    return 0;
}

static int check_range(int64_t value, const struct range_rule *rule)
{
    if (value < rule->min || value > rule->max)
        return fail(FAIL_MALFORMED, "%s is %" PRId64 "; %" PRId64 " to %" PRId64 " are allowed",
                    rule->field, value, rule->min, rule->max);
    return 0;
}

int template_read_bytes(const ASN1_STRING *from, const struct size_rule *rule, uint8_t *ret,
                        size_t *ret_len)
{
    size_t len = (size_t)ASN1_STRING_length(from);
    int rc = check_size(len, rule);
    if (rc < 0)
        return rc;
    memcpy(ret, ASN1_STRING_get0_data(from), len);
    *ret_len = len;
    return 0;
}

int template_write_bytes(const uint8_t *bytes, size_t len, const struct size_rule *rule,
                         ASN1_STRING *ret)
{
    int rc = check_size(len, rule);
    if (rc < 0)
        return rc;
    if (!ASN1_STRING_set(ret, bytes, (int)len))
        return fail(FAIL_MEMORY, "no memory for %s", rule->field);
    return 0;
}

int template_read_integer(const ASN1_INTEGER *from, const struct range_rule *rule, int64_t *ret)
{
    int64_t value;
    if (!ASN1_INTEGER_get_int64(&value, from))
        return fail(FAIL_MALFORMED, "%s is out of 64 bits", rule->field);
    int rc = check_range(value, rule);
    if (rc == 0)
        *ret = value;
    return rc;
}

int template_write_integer(int64_t value, const struct range_rule *rule, ASN1_INTEGER *ret)
{
    int rc = check_range(value, rule);
    if (rc < 0)
        return rc;
    if (!ASN1_INTEGER_set_int64(ret, value))
        return fail(FAIL_MEMORY, "no memory for %s", rule->field);
    return 0;
}

int template_read_enumerated(const ASN1_ENUMERATED *from, const struct range_rule *rule,
                             int64_t *ret)
{
    int64_t value;
    if (!ASN1_ENUMERATED_get_int64(&value, from))
        return fail(FAIL_MALFORMED, "%s is out of 64 bits", rule->field);
    int rc = check_range(value, rule);
    if (rc == 0)
        *ret = value;
    return rc;
}

int template_write_enumerated(int64_t value, const struct range_rule *rule, ASN1_ENUMERATED *ret)
{
    int rc = check_range(value, rule);
    if (rc < 0)
        return rc;
    if (!ASN1_ENUMERATED_set_int64(ret, value))
        return fail(FAIL_MEMORY, "no memory for %s", rule->field);
    return 0;
}
