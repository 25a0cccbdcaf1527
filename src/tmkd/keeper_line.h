#ifndef TMKD_KEEPER_LINE_H
#define TMKD_KEEPER_LINE_H

/*
 * The listener's end of the request channel: questions out, answers in. It outlives keepers; while
 * there is none, asking is FAIL_BUSY.
 */

#include <event2/event.h>

#include "tmkd/house.h"

struct keeper_line;

typedef void keeper_line_answer(void *context, const struct keeper_answer *answer);
/* What was asked will not be answered. why: FAIL_CLOSED when the keeper is gone or another has
 * come; else the line could not be used, and no other will come while this listener lives. */
typedef void keeper_line_lost(void *context, int why);

int keeper_line_new(struct event_base *base, keeper_line_answer *answer, keeper_line_lost *lost,
                    void *context, struct keeper_line **ret_line);
void keeper_line_free(struct keeper_line *line); /* accepts NULL */

/* Takes fd, a new keeper's channel, in place of the one before. FAIL_MEMORY. */
int keeper_line_attach(struct keeper_line *line, int fd);

/* FAIL_BUSY when there is no keeper or it does not keep up. */
int keeper_line_ask(struct keeper_line *line, const struct keeper_request *request);

/* Sends REQUEST_ABANDON, later if the keeper does not keep up now. */
void keeper_line_abandon(struct keeper_line *line, uint64_t handshake);

#endif
