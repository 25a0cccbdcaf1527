#ifndef TMKPOS_CONNECTION_H
#define TMKPOS_CONNECTION_H

/* A TCP connection to the key server that carries frames. Whatever it does is over at the
 * deadline, which is absolute. The name is looked up before, in the resolver's own time. */

#include <stddef.h>
#include <stdint.h>

#include "wire/message.h"

struct connection;

/* seconds: from now to the deadline, for everything. FAIL_NOT_FOUND for a name without an
 * address; FAIL_SYSTEM with the last address's reason; FAIL_BUSY at the deadline. */
int connection_open(const char *host, const char *port, int seconds,
                    struct connection **ret_connection);
void connection_close(struct connection *connection); /* accepts NULL */

/* One frame with that body. */
int connection_send(struct connection *connection, const uint8_t *message, size_t len);

/* The body of the next frame; ret_message holds MESSAGE_MAX. FAIL_CLOSED when the server ended. */
int connection_receive(struct connection *connection, uint8_t *ret_message, size_t *ret_len);

#endif
