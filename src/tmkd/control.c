#include "tmkd/control.h"

#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <jansson.h>
#include <utlist.h>

#include "common/fail.h"
#include "common/log.h"
#include "tmkd/operation.h"
#include "tmkd/reply.h"

enum { PEERS_MAX = 32, PAUSE_SECONDS = 1 };

struct peer {
    struct peer *prev, *next;
    struct control *control;
    int fd;
    int busy;   /* an operation is under way; what else comes waits in the socket */
    int closed; /* gone, but its operation is not back yet */
    char actor[AUDIT_ACTOR_MAX + 1];
    struct event *readable;
    struct event *writable;
    struct evbuffer *in;
    struct evbuffer *out;
    control_gone *gone;
    void *context;
};

struct control {
    struct event_base *base;
    const struct conf *conf;
    struct crew *crew;
    struct event *listener;
    struct event *pause_over;
    struct peer *peers;
    size_t peer_count;
};

static void peer_free(struct peer *peer)
{
    if (peer->readable)
        event_free(peer->readable);
    if (peer->writable)
        event_free(peer->writable);
    if (peer->in)
        evbuffer_free(peer->in);
    if (peer->out)
        evbuffer_free(peer->out);
    if (peer->fd >= 0)
        close(peer->fd);
    free(peer);
}

/* An operation that is under way still answers to its peer, so that one is freed then. */
static void peer_close(struct peer *peer)
{
    control_gone *gone = peer->gone;
    void *context = peer->context;
    if (peer->busy) {
        peer->closed = 1;
        event_del(peer->readable);
        event_del(peer->writable);
    } else {
        DL_DELETE(peer->control->peers, peer);
        peer->control->peer_count--;
        peer_free(peer);
    }
    if (gone)
        gone(context);
}

/* FAIL_CLOSED: the peer is gone and must not be used. */
static int peer_flush(struct peer *peer)
{
    while (evbuffer_get_length(peer->out) > 0) {
        if (evbuffer_write(peer->out, peer->fd) >= 0)
            continue;
        if (errno == EAGAIN) {
            event_add(peer->writable, NULL);
            return 0;
        }
        peer_close(peer);
        return FAIL_CLOSED;
    }
    return 0;
}

static int peer_send(struct peer *peer, json_t *answer)
{
    char *line = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
    json_decref(answer);
    int added = line ? evbuffer_add_printf(peer->out, "%s\n", line) : -1;
    free(line);
    if (added < 0) {
        peer_close(peer);
        return FAIL_CLOSED;
    }
    return peer_flush(peer);
}

static void operation_answered(void *context, json_t *answer);

static int peer_start(struct peer *peer, const char *line, size_t len)
{
    json_error_t error;
    json_t *request = json_loadb(line, len, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(request)) {
        json_decref(request);
        return fail(FAIL_MALFORMED, "the request is no JSON object");
    }
    int rc = operation_start(peer->control->crew, peer->control->conf, request, peer->actor,
                             operation_answered, peer);
    json_decref(request);
    return rc;
}

/* One operation at a time, and none for a peer that does not take his answers. */
static int may_work(const struct peer *peer)
{
    return !peer->busy && evbuffer_get_length(peer->out) == 0;
}

/* Takes the lines that are there, up to one whose operation is under way. */
static void peer_work(struct peer *peer)
{
    size_t len;
    char *line;
    while (may_work(peer) && (line = evbuffer_readln(peer->in, &len, EVBUFFER_EOL_LF)) != NULL) {
        int rc = peer_start(peer, line, len);
        free(line);
        peer->busy = rc == 0;
        if (rc < 0 && peer_send(peer, reply_error(rc, fail_text())) < 0)
            return;
    }
    if (!may_work(peer))
        event_del(peer->readable);
    else if (evbuffer_get_length(peer->in) > CONTROL_LINE_MAX)
        peer_close(peer);
    else
        event_add(peer->readable, NULL);
}

static void operation_answered(void *context, json_t *answer)
{
    struct peer *peer = context;
    peer->busy = 0;
    if (peer->closed) {
        json_decref(answer);
        peer->gone = NULL; /* told already */
        peer_close(peer);
        return;
    }
    if (peer_send(peer, answer) == 0)
        peer_work(peer);
}

static void on_readable(evutil_socket_t fd, short what, void *context)
{
    struct peer *peer = context;
    (void)what;
    int got = evbuffer_read(peer->in, fd, CONTROL_LINE_MAX);
    if (got == 0 || (got < 0 && errno != EAGAIN)) {
        peer_close(peer);
        return;
    }
    peer_work(peer);
}

static void on_writable(evutil_socket_t fd, short what, void *context)
{
    struct peer *peer = context;
    (void)fd;
    (void)what;
    if (peer_flush(peer) == 0)
        peer_work(peer);
}

int control_actor(int fd, char *ret_actor, size_t size)
{
    struct ucred who;
    socklen_t len = sizeof(who);
    struct passwd entry;
    struct passwd *found = NULL;
    char names[1024];
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0)
        return fail_system("cannot tell who is at the control socket");
    if (getpwuid_r(who.uid, &entry, names, sizeof(names), &found) == 0 && found)
        snprintf(ret_actor, size, "uid %u (%s)", who.uid, found->pw_name);
    else
        snprintf(ret_actor, size, "uid %u", who.uid);
    return 0;
}

int control_add_peer(struct control *control, int fd, control_gone *gone, void *context)
{
    struct peer *peer = calloc(1, sizeof(*peer));
    if (!peer) {
        close(fd);
        return fail(FAIL_MEMORY, "no memory for a control connection");
    }
    peer->control = control;
    peer->fd = fd;
    peer->gone = gone;
    peer->context = context;
    peer->in = evbuffer_new();
    peer->out = evbuffer_new();
    peer->readable = event_new(control->base, fd, EV_READ | EV_PERSIST, on_readable, peer);
    peer->writable = event_new(control->base, fd, EV_WRITE, on_writable, peer);
    int rc = control_actor(fd, peer->actor, sizeof(peer->actor));
    if (rc == 0 && (!peer->in || !peer->out || !peer->readable || !peer->writable))
        rc = fail(FAIL_MEMORY, "no memory for a control connection");
    if (rc < 0) {
        peer_free(peer);
        return rc;
    }
    evutil_make_socket_nonblocking(fd);
    DL_APPEND(control->peers, peer);
    control->peer_count++;
    event_add(peer->readable, NULL);
    return 0;
}

/* The descriptors are the token's before they are an operator's: without a limit, forgotten
 * connections would starve SoftHSM, whose keys then fail for ever (design 12). */
static void turn_away(int fd)
{
    static const char answer[] =
        "{\"error\":\"the keeper has as many control connections as it takes; "
        "close some\",\"code\":\"busy\"}\n";
    send(fd, answer, sizeof(answer) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    close(fd);
}

/* Without a free descriptor the connection stays in the queue: look again later, not at once. */
static void pause_accepting(struct control *control)
{
    const struct timeval pause = {.tv_sec = PAUSE_SECONDS};
    log_warning("control socket: %s", strerror(errno));
    event_del(control->listener);
    event_add(control->pause_over, &pause);
}

static void on_pause_over(evutil_socket_t fd, short what, void *context)
{
    struct control *control = context;
    (void)fd;
    (void)what;
    event_add(control->listener, NULL);
}

static void on_connection(evutil_socket_t fd, short what, void *context)
{
    struct control *control = context;
    (void)what;
    int peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (peer < 0) {
        if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR)
            pause_accepting(control);
    } else if (control->peer_count >= PEERS_MAX) {
        turn_away(peer);
    } else if (control_add_peer(control, peer, NULL, NULL) < 0) {
        log_warning("control socket: %s", fail_text());
    }
}

int control_new(struct event_base *base, const struct conf *conf, struct crew *crew,
                struct control **ret_control)
{
    struct control *control = calloc(1, sizeof(*control));
    if (!control)
        return fail(FAIL_MEMORY, "no memory for the control socket");
    control->base = base;
    control->conf = conf;
    control->crew = crew;
    *ret_control = control;
    return 0;
}

int control_add_listener(struct control *control, int fd)
{
    evutil_make_socket_nonblocking(fd);
    control->listener = event_new(control->base, fd, EV_READ | EV_PERSIST, on_connection, control);
    control->pause_over = evtimer_new(control->base, on_pause_over, control);
    if (!control->listener || !control->pause_over || event_add(control->listener, NULL) < 0) {
        close(fd);
        return fail(FAIL_MEMORY, "no memory for the control socket");
    }
    return 0;
}

void control_free(struct control *control)
{
    struct peer *peer;
    struct peer *next;
    if (!control)
        return;
    DL_FOREACH_SAFE(control->peers, peer, next)
    {
        DL_DELETE(control->peers, peer);
        peer_free(peer);
    }
    if (control->listener) {
        close(event_get_fd(control->listener));
        event_free(control->listener);
    }
    if (control->pause_over)
        event_free(control->pause_over);
    free(control);
}
