#ifndef TMKD_CONTROL_H
#define TMKD_CONTROL_H

/*
 * The operator's door of the keeper: UNIX stream connections that speak CONTROL.md. Each has one
 * request under way at a time.
 */

#include <event2/event.h>

#include "common/conf.h"
#include "tmkd/crew.h"

enum { CONTROL_LINE_MAX = 1 << 20 /* bytes of one request */ };

struct control;

/* Called in the loop when the peer of control_add_peer() is gone. */
typedef void control_gone(void *context);

int control_new(struct event_base *base, const struct conf *conf, struct crew *crew,
                struct control **ret_control);
void control_free(struct control *control); /* accepts NULL; closes what it was given */

/* Takes over a listening socket, or one connected peer whose end is told. */
int control_add_listener(struct control *control, int fd);
int control_add_peer(struct control *control, int fd, control_gone *gone, void *context);

/* "uid 0 (root)": who is at the other end, as the kernel knows it (SO_PEERCRED). */
int control_actor(int fd, char *ret_actor, size_t size);

#endif
