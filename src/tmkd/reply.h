#ifndef TMKD_REPLY_H
#define TMKD_REPLY_H

#include <jansson.h>

#include "db/audit.h"
#include "db/registry.h"

/* The answers of the control protocol (CONTROL.md). All give a new reference, or NULL when there
 * is no memory. */

json_t *reply_ok(json_t *value); /* takes the reference */
json_t *reply_error(int code, const char *sentence);

/* A terminal, and its TMK, as `terminal show` and `tmk show` print them. */
json_t *reply_terminal(const struct terminal *terminal);
json_t *reply_tmk(const struct terminal *terminal);
json_t *reply_audit(const struct audit_record *record);

/* A member of a request. FAIL_MALFORMED when it is missing or of another type. */
int request_text(const json_t *request, const char *name, const char **ret_text);
int request_number(const json_t *request, const char *name, int64_t least, int64_t most,
                   int64_t *ret_number);
int request_flag(const json_t *request, const char *name); /* missing: 0 */

/* As request_text(), and sn_is_valid(). */
int request_sn(const json_t *request, const char **ret_sn);

#endif
