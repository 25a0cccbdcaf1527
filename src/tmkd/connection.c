#include "tmkd/connection.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/bufferevent.h>

#include "common/fail.h"
#include "common/log.h"
#include "wire/frame.h"

enum { DRAIN_MAX = 64 * 1024 /* bytes taken from a peer that was told to go */ };

/* The messages a terminal sends, in their order. */
enum step { STEP_HELLO, STEP_PROOF, STEP_CONFIRM };

static const struct {
    enum message_type message;
    enum request_kind request;
} steps[] = {
    [STEP_HELLO] = {MESSAGE_HELLO, REQUEST_HELLO},
    [STEP_PROOF] = {MESSAGE_PROOF, REQUEST_PROOF},
    [STEP_CONFIRM] = {MESSAGE_CONFIRM, REQUEST_CONFIRM},
};

struct connection {
    const struct connection_rules *rules;
    struct bufferevent *stream;
    struct event *timer; /* the deadline, then the end of lingering */
    struct source source;
    uint64_t handshake;
    enum step step;
    size_t body_len; /* of the frame that is coming; 0: its header is */
    size_t drained;
    unsigned in_flight : 1; /* the keeper holds the handshake */
    unsigned waiting : 1;   /* for the keeper's answer */
    unsigned leaving : 1;   /* the last message is on its way */
    unsigned deaf : 1;      /* the peer sends no more */
};

static void end(struct connection *c)
{
    c->rules->ended(c->rules->context, c->handshake);
}

/* --- out --- */

/* From the last message on: the peer gets it and then our FIN, and what it still sends is thrown
 * away for a while, because close(2) with unread bytes sends RST, which can overtake it. */
static void leave(struct connection *c)
{
    c->leaving = 1;
    c->waiting = 0;
    bufferevent_setwatermark(c->stream, EV_READ, 0, FRAME_MAX);
    bufferevent_enable(c->stream, EV_READ);
    event_del(c->timer);
    event_add(c->timer, c->rules->linger);
}

static void abandon(struct connection *c)
{
    if (c->in_flight)
        c->rules->abandon(c->rules->context, c->handshake);
    c->in_flight = 0;
}

static int encode_failure(enum failure_code code, unsigned retry_after,
                          uint8_t ret_frame[static FRAME_MAX], size_t *ret_len)
{
    struct message message = {.type = MESSAGE_FAILURE};
    message.failure.code = code;
    message.failure.retry_after = code == FAILURE_BUSY ? (int)retry_after : RETRY_AFTER_NONE;
    return frame_encode(&message, ret_frame, ret_len);
}

static void fail_peer(struct connection *c, enum failure_code code)
{
    uint8_t frame[FRAME_MAX];
    size_t len = 0;
    if (c->leaving)
        return;
    log_debug("connection %llu: %s", (unsigned long long)c->handshake, failure_code_name(code));
    abandon(c);
    if (encode_failure(code, c->rules->retry_after, frame, &len) ||
        bufferevent_write(c->stream, frame, len))
        log_error("cannot send a failure: %s", fail_text());
    leave(c);
}

static void on_written(struct bufferevent *stream, void *context)
{
    struct connection *c = context;
    if (!c->leaving)
        return;
    if (c->deaf)
        end(c);
    else
        shutdown(bufferevent_getfd(stream), SHUT_WR);
}

/* --- in --- */

/* What the buffer may hold is one frame's header, then that one frame: the rest waits in the
 * kernel, so a connection that says nothing costs no buffer. */
static void expect(struct connection *c, size_t body_len)
{
    size_t bytes = FRAME_HEADER_LEN + body_len;
    c->body_len = body_len;
    bufferevent_setwatermark(c->stream, EV_READ, bytes, bytes);
}

static int read_header(struct connection *c, struct evbuffer *input)
{
    uint8_t header[FRAME_HEADER_LEN];
    size_t body_len = 0;
    if (evbuffer_copyout(input, header, sizeof(header)) != (ev_ssize_t)sizeof(header))
        return fail(FAIL_BUSY, "the header is not there yet");
    int rc = frame_read_length(header, &body_len);
    if (rc == 0)
        expect(c, body_len);
    return rc;
}

/* Message is a CHOICE of explicit tags [0]...[6] (schema/tmk-download.asn1), so its first byte
 * tells which it is. One that a terminal does not send, or not now, is not even parsed. */
static int decode(const struct connection *c, const uint8_t *der, struct message *ret)
{
    enum message_type expected = steps[c->step].message;
    if (der[0] != (0xA0 | expected))
        return fail(FAIL_MALFORMED, "the message is not a %s", message_type_name(expected));
    return message_decode(der, c->body_len, ret);
}

static void ask(struct connection *c, const struct message *message)
{
    struct keeper_request request = {.handshake = c->handshake, .kind = steps[c->step].request};
    switch (c->step) {
    case STEP_HELLO:
        request.source = c->source;
        request.hello = message->hello;
        break;
    case STEP_PROOF:
        request.proof = message->proof;
        break;
    case STEP_CONFIRM:
        request.confirm = message->confirm;
        break;
    }
    if (c->rules->ask(c->rules->context, &request)) {
        fail_peer(c, FAILURE_BUSY);
        return;
    }
    c->in_flight = 1;
    c->waiting = 1;
}

static void take_message(struct connection *c, struct evbuffer *input)
{
    struct message message;
    size_t frame_len = FRAME_HEADER_LEN + c->body_len;
    const uint8_t *frame = evbuffer_pullup(input, (ev_ssize_t)frame_len);
    int rc = frame ? decode(c, frame + FRAME_HEADER_LEN, &message)
                   : fail(FAIL_MEMORY, "no memory for a message");
    evbuffer_drain(input, frame_len);
    expect(c, 0);
    if (rc == 0)
        ask(c, &message);
    else if (rc == FAIL_VERSION)
        fail_peer(c, FAILURE_UNSUPPORTED_VERSION);
    else
        fail_peer(c, rc == FAIL_MALFORMED ? FAILURE_MALFORMED : FAILURE_BUSY);
}

static void throw_away(struct connection *c, struct evbuffer *input)
{
    size_t len = evbuffer_get_length(input);
    evbuffer_drain(input, len);
    c->drained += len;
    if (c->drained > DRAIN_MAX)
        end(c);
}

static void on_readable(struct bufferevent *stream, void *context)
{
    struct connection *c = context;
    struct evbuffer *input = bufferevent_get_input(stream);
    if (c->leaving) {
        throw_away(c, input);
        return;
    }
    if (c->waiting) { /* sent ahead: its turn comes after the answer */
        bufferevent_disable(stream, EV_READ);
        return;
    }
    if (c->body_len == 0 && read_header(c, input)) {
        fail_peer(c, FAILURE_MALFORMED);
        return;
    }
    if (evbuffer_get_length(input) >= FRAME_HEADER_LEN + c->body_len)
        take_message(c, input);
}

/* --- ends --- */

/* The peer sends no more, or is gone. It may still want what is on its way to it: the last message,
 * or the Done to its Confirm. */
static void on_event(struct bufferevent *stream, short what, void *context)
{
    struct connection *c = context;
    int awaited = c->leaving || (c->waiting && c->step == STEP_CONFIRM);
    c->deaf = 1;
    if (!(what & BEV_EVENT_EOF) || !awaited ||
        (c->leaving && evbuffer_get_length(bufferevent_get_output(stream)) == 0))
        end(c);
}

/* Half a frame and silence get no answer; a keeper that is too slow is `busy`. */
static void on_time(evutil_socket_t fd, short what, void *context)
{
    struct connection *c = context;
    (void)fd;
    (void)what;
    if (c->waiting)
        fail_peer(c, FAILURE_BUSY);
    else
        end(c);
}

/* --- the door --- */

static int open_stream(struct connection *c, int fd)
{
    c->stream = bufferevent_socket_new(c->rules->base, fd, BEV_OPT_CLOSE_ON_FREE);
    if (!c->stream) {
        close(fd);
        return fail(FAIL_MEMORY, "no memory for a connection");
    }
    c->timer = evtimer_new(c->rules->base, on_time, c);
    if (!c->timer || event_add(c->timer, c->rules->deadline))
        return fail(FAIL_MEMORY, "no memory for a connection's deadline");
    bufferevent_setcb(c->stream, on_readable, on_written, on_event, c);
    expect(c, 0);
    if (bufferevent_enable(c->stream, EV_READ | EV_WRITE))
        return fail(FAIL_MEMORY, "no memory to watch a connection");
    return 0;
}

int connection_new(const struct connection_rules *rules, int fd, const struct source *source,
                   uint64_t handshake, struct connection **ret_connection)
{
    struct connection *c = calloc(1, sizeof(*c));
    if (!c) {
        close(fd);
        return fail(FAIL_MEMORY, "no memory for a connection");
    }
    c->rules = rules;
    c->source = *source;
    c->handshake = handshake;
    int rc = open_stream(c, fd);
    if (rc)
        connection_free(c);
    else
        *ret_connection = c;
    return rc;
}

void connection_free(struct connection *c)
{
    if (!c)
        return;
    abandon(c);
    if (c->timer)
        event_free(c->timer);
    if (c->stream)
        bufferevent_free(c->stream);
    free(c);
}

int connection_is_in_flight(const struct connection *c)
{
    return c->in_flight;
}

void connection_answer(struct connection *c, const struct keeper_answer *answer)
{
    uint8_t header[FRAME_HEADER_LEN];
    if (!c->waiting)
        return;
    frame_write_length(answer->len, header);
    if (bufferevent_write(c->stream, header, sizeof(header)) ||
        bufferevent_write(c->stream, answer->message, answer->len)) {
        end(c); /* no memory; half a frame must not be followed by another */
        return;
    }
    c->waiting = 0;
    if (answer->last || c->step == STEP_CONFIRM) {
        c->in_flight = 0;
        leave(c);
        return;
    }
    c->step++;
    bufferevent_enable(c->stream, EV_READ);
    bufferevent_trigger(c->stream, EV_READ, 0); /* what was sent ahead is read now */
}

void connection_lose_keeper(struct connection *c)
{
    if (!c->in_flight)
        return;
    c->in_flight = 0; /* nobody is left to be told */
    fail_peer(c, FAILURE_BUSY);
}

void connection_refuse(struct connection *c)
{
    fail_peer(c, FAILURE_BUSY);
}

void connection_turn_away(int fd, unsigned retry_after)
{
    uint8_t frame[FRAME_MAX];
    size_t len = 0;
    if (encode_failure(FAILURE_BUSY, retry_after, frame, &len) == 0 &&
        send(fd, frame, len, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)len)
        shutdown(fd, SHUT_WR);
    /* What has come already would make close(2) send RST. */
    recv(fd, frame, sizeof(frame), MSG_DONTWAIT);
    close(fd);
}
