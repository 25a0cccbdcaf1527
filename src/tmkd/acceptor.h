#ifndef TMKD_ACCEPTOR_H
#define TMKD_ACCEPTOR_H

/* One listening socket in the event loop, which also survives the want of descriptors. */

#include <event2/event.h>

#include "tmkd/house.h"

struct acceptor;

/* Given a connected, non-blocking, close-on-exec socket to keep or close. */
typedef void acceptor_take(void *context, int fd, const struct source *source);

/* What to do with a connection there is no descriptor for: say so and close it. */
typedef void acceptor_turn_away(void *context, int fd);

/* Takes fd, which listens and is non-blocking, also on failure. FAIL_MEMORY, FAIL_SYSTEM. */
int acceptor_new(struct event_base *base, int fd, acceptor_take *take, acceptor_turn_away *away,
                 void *context, struct acceptor **ret_acceptor);

/* Turns away whoever has connected and was not accepted yet, and closes. Accepts NULL. */
void acceptor_free(struct acceptor *acceptor);

#endif
