#include "tmkd/keeper_line.h"

#include <stdlib.h>
#include <unistd.h>

#include <utlist.h>

#include "common/fail.h"
#include "common/log.h"

enum { ANSWERS_AT_ONCE = 64 /* then the sockets have their turn */ };

/* A handshake the keeper is still to be told to abandon. At most one for each it holds. */
struct abandoned {
    uint64_t handshake;
    struct abandoned *next;
};

struct keeper_line {
    struct event_base *base;
    keeper_line_answer *answer;
    keeper_line_lost *lost;
    void *context;
    int fd; /* -1: no keeper */
    struct event *readable, *writable;
    struct abandoned *abandoned;
};

static void forget_abandoned(struct keeper_line *line)
{
    struct abandoned *entry, *next;
    LL_FOREACH_SAFE(line->abandoned, entry, next)
    free(entry);
    line->abandoned = NULL;
}

static void detach(struct keeper_line *line)
{
    if (line->readable)
        event_free(line->readable);
    if (line->writable)
        event_free(line->writable);
    if (line->fd >= 0)
        close(line->fd);
    line->readable = NULL;
    line->writable = NULL;
    line->fd = -1;
    forget_abandoned(line);
}

static void lose(struct keeper_line *line, int why)
{
    detach(line);
    line->lost(line->context, why);
}

/* Hands on what has come. FAIL_BUSY when that was all, FAIL_CLOSED and others when there will be
 * no more. */
static int receive(struct keeper_line *line)
{
    struct keeper_answer answer;
    int rc = 0;
    for (int i = 0; rc == 0 && i < ANSWERS_AT_ONCE; i++) {
        rc = channel_receive_answer(line->fd, &answer);
        if (rc == 0)
            line->answer(line->context, &answer);
    }
    return rc;
}

static void on_readable(evutil_socket_t fd, short what, void *context)
{
    struct keeper_line *line = context;
    (void)fd;
    (void)what;
    int rc = receive(line);
    if (rc == 0 || rc == FAIL_BUSY)
        return;
    lose(line, rc);
}

static int send_abandon(const struct keeper_line *line, uint64_t handshake)
{
    struct keeper_request request = {.handshake = handshake, .kind = REQUEST_ABANDON};
    return channel_send_request(line->fd, &request);
}

static void on_writable(evutil_socket_t fd, short what, void *context)
{
    struct keeper_line *line = context;
    struct abandoned *entry;
    (void)fd;
    (void)what;
    while ((entry = line->abandoned) != NULL) {
        if (send_abandon(line, entry->handshake) == FAIL_BUSY)
            return;
        LL_DELETE(line->abandoned, entry);
        free(entry);
    }
    event_del(line->writable);
}

static void abandon_later(struct keeper_line *line, uint64_t handshake)
{
    struct abandoned *entry = calloc(1, sizeof(*entry));
    if (!entry)
        return; /* the keeper's own deadline ends the handshake */
    entry->handshake = handshake;
    LL_PREPEND(line->abandoned, entry);
    event_add(line->writable, NULL);
}

int keeper_line_new(struct event_base *base, keeper_line_answer *answer, keeper_line_lost *lost,
                    void *context, struct keeper_line **ret_line)
{
    struct keeper_line *line = calloc(1, sizeof(*line));
    if (!line)
        return fail(FAIL_MEMORY, "no memory for the line to the keeper");
    line->base = base;
    line->answer = answer;
    line->lost = lost;
    line->context = context;
    line->fd = -1;
    *ret_line = line;
    return 0;
}

void keeper_line_free(struct keeper_line *line)
{
    if (!line)
        return;
    detach(line);
    free(line);
}

int keeper_line_attach(struct keeper_line *line, int fd)
{
    if (line->fd >= 0) {
        while (receive(line) == 0) /* a keeper's last answers are still good */
            continue;
        lose(line, FAIL_CLOSED);
    }
    line->fd = fd;
    line->readable = event_new(line->base, fd, EV_READ | EV_PERSIST, on_readable, line);
    line->writable = event_new(line->base, fd, EV_WRITE | EV_PERSIST, on_writable, line);
    if (line->readable && line->writable && event_add(line->readable, NULL) == 0)
        return 0;
    detach(line);
    return fail(FAIL_MEMORY, "no memory to watch the keeper");
}

int keeper_line_ask(struct keeper_line *line, const struct keeper_request *request)
{
    if (line->fd < 0)
        return fail(FAIL_BUSY, "there is no keeper now");
    return channel_send_request(line->fd, request);
}

void keeper_line_abandon(struct keeper_line *line, uint64_t handshake)
{
    if (line->fd >= 0 && send_abandon(line, handshake) == FAIL_BUSY)
        abandon_later(line, handshake);
}
