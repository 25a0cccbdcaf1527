#ifndef TMKD_OPERATION_H
#define TMKD_OPERATION_H

/*
 * What an operator can ask of a running keeper: one request of CONTROL.md, worked by the crew.
 * First a worker reads (token and look-ups), then, for a change, the writer writes; the answer
 * goes out when the change is durable.
 */

#include <jansson.h>

#include "common/conf.h"
#include "db/audit.h"
#include "tmkd/crew.h"

struct operation;
struct operation_kind;

/* Called in the loop with the answer; takes the reference. answer is NULL only without memory. */
typedef void operation_answer(void *context, json_t *answer);

/* request stays the caller's. actor: who asks, for the audit log. Errors, too, arrive through
 * answer, and always later than this call returns. FAIL_MEMORY. */
int operation_start(struct crew *crew, const struct conf *conf, json_t *request, const char *actor,
                    operation_answer *answer, void *context);

#endif
