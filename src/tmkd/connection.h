#ifndef TMKD_CONNECTION_H
#define TMKD_CONNECTION_H

/*
 * One terminal's connection: frames in and out, one handshake, its messages in order, an absolute
 * deadline. What a message says is the keeper's business.
 */

#include <event2/event.h>

#include "tmkd/house.h"

enum { LINGER_MS = 1000 /* from the last message to close, at most */ };

struct connection;

/* What all connections of a listener share; it outlives them. */
struct connection_rules {
    struct event_base *base;
    const struct timeval *deadline; /* from accept to the last message */
    const struct timeval *linger;   /* LINGER_MS */
    unsigned retry_after;           /* seconds, told with busy */
    void *context;                  /* for the functions below */
    /* Asks the keeper; any failure is answered `busy`. */
    int (*ask)(void *context, const struct keeper_request *request);
    /* The keeper need not go on with this handshake. */
    void (*abandon)(void *context, uint64_t handshake);
    /* It is over: the owner calls connection_free(). */
    void (*ended)(void *context, uint64_t handshake);
};

/* Takes fd, which is connected and non-blocking, also on failure. handshake: its number, never
 * used before. FAIL_MEMORY. */
int connection_new(const struct connection_rules *rules, int fd, const struct source *source,
                   uint64_t handshake, struct connection **ret_connection);

/* Closes; abandons a handshake that the keeper is in. Accepts NULL. */
void connection_free(struct connection *connection);

/* Whether the keeper holds its handshake. */
int connection_is_in_flight(const struct connection *connection);

/* Sends the keeper's answer; one that was not asked for is dropped. */
void connection_answer(struct connection *connection, const struct keeper_answer *answer);

/* The keeper that held its handshake is gone: `busy`, if there was one. */
void connection_lose_keeper(struct connection *connection);

/* Says `busy` and closes, wherever it is. */
void connection_refuse(struct connection *connection);

/* For a connection that is not taken: says `busy` as far as the socket takes it, closes fd. */
void connection_turn_away(int fd, unsigned retry_after);

#endif
