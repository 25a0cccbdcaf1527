/* A terminal's connection and the line to the keeper, each through its door, over socket pairs:
 * this program is the terminal, the keeper and the loop between them. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <event2/event.h>

/* Before cmocka.h, which makes fail() a macro. */
#include "common/fail.h"
#include "tmkd/connection.h"
#include "tmkd/keeper_line.h"
#include "wire/frame.h"

#include <cmocka.h>

enum { NUMBER = 7, RETRY_AFTER = 5, LONG_MS = 10000, SHORT_MS = 400, MOMENT_MS = 100 };

struct room {
    struct event_base *base;
    struct timeval deadline, linger;
    struct connection_rules rules;
    struct connection *connection;
    int terminal; /* the other end of the connection */
    int ask_result;
    int asked, abandoned, ended;
    struct keeper_request request; /* the last */
};

static int ask(void *context, const struct keeper_request *request)
{
    struct room *room = context;
    room->asked++;
    room->request = *request;
    return room->ask_result;
}

static void abandon(void *context, uint64_t handshake)
{
    struct room *room = context;
    assert_int_equal(handshake, NUMBER);
    room->abandoned++;
}

static void ended(void *context, uint64_t handshake)
{
    struct room *room = context;
    assert_int_equal(handshake, NUMBER);
    room->ended++;
    connection_free(room->connection);
    room->connection = NULL;
}

static struct timeval milliseconds(int ms)
{
    return (struct timeval){.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
}

static int set_up_for(void **state, int ms)
{
    const struct source source = {.family = 4, .address = {127, 0, 0, 1}, .port = 4000};
    struct room *room = calloc(1, sizeof(*room));
    int pair[2];
    assert_non_null(room);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    room->base = event_base_new();
    room->deadline = milliseconds(ms);
    room->linger = milliseconds(ms);
    room->rules = (struct connection_rules){.base = room->base,
                                            .deadline = &room->deadline,
                                            .linger = &room->linger,
                                            .retry_after = RETRY_AFTER,
                                            .context = room,
                                            .ask = ask,
                                            .abandon = abandon,
                                            .ended = ended};
    room->terminal = pair[0];
    assert_int_equal(connection_new(&room->rules, pair[1], &source, NUMBER, &room->connection), 0);
    *state = room;
    return 0;
}

static int set_up(void **state)
{
    return set_up_for(state, LONG_MS);
}

static int set_up_short(void **state)
{
    return set_up_for(state, SHORT_MS);
}

static int tear_down(void **state)
{
    struct room *room = *state;
    connection_free(room->connection);
    if (room->terminal >= 0)
        close(room->terminal);
    event_base_free(room->base);
    free(room);
    return 0;
}

/* Lets the loop do what there is to do now. Does not return while a connection keeps it busy. */
static void turn(struct room *room)
{
    for (int i = 0; i < 10; i++)
        event_base_loop(room->base, EVLOOP_NONBLOCK);
}

static void turn_for(struct room *room, int ms)
{
    struct timeval time = milliseconds(ms);
    event_base_loopexit(room->base, &time);
    event_base_dispatch(room->base);
    turn(room);
}

static void send_bytes(struct room *room, const void *bytes, size_t len)
{
    assert_int_equal(send(room->terminal, bytes, len, 0), len);
    turn(room);
}

static size_t frame_of(enum message_type type, uint8_t ret_frame[static FRAME_MAX])
{
    struct message message = {.type = type};
    size_t len = 0;
    strcpy(message.hello.sn, "SN-0001");
    if (type == MESSAGE_PROOF) {
        message.proof = (struct proof){.c2_len = 256};
    } else if (type == MESSAGE_CONFIRM) {
        message.confirm = (struct confirm){.mac_len = 16};
    } else if (type == MESSAGE_DONE) {
        message.done = (struct done){.version = 1};
    }
    assert_int_equal(frame_encode(&message, ret_frame, &len), 0);
    return len;
}

static void send_message(struct room *room, enum message_type type)
{
    uint8_t frame[FRAME_MAX];
    send_bytes(room, frame, frame_of(type, frame));
}

static void answer(struct room *room, uint32_t len, uint32_t last)
{
    struct keeper_answer sent = {.handshake = NUMBER, .last = last, .len = len};
    memset(sent.message, 0x55, len);
    connection_answer(room->connection, &sent);
    turn(room);
}

static void expect_frame(struct room *room, size_t len)
{
    uint8_t frame[FRAME_MAX];
    assert_int_equal(recv(room->terminal, frame, FRAME_HEADER_LEN + len, 0),
                     FRAME_HEADER_LEN + len);
    assert_int_equal(frame[0] << 8 | frame[1], len);
    assert_int_equal(frame[FRAME_HEADER_LEN], 0x55);
}

static void expect_end(struct room *room)
{
    char byte;
    assert_int_equal(recv(room->terminal, &byte, 1, 0), 0);
}

static void expect_nothing(struct room *room)
{
    char byte;
    assert_int_equal(recv(room->terminal, &byte, 1, 0), -1);
}

/* That Failure as a frame, then the end of the stream. */
static void expect_failure(struct room *room, enum failure_code code)
{
    uint8_t frame[FRAME_MAX];
    struct message message;
    ssize_t got = recv(room->terminal, frame, sizeof(frame), 0);
    assert_true(got > FRAME_HEADER_LEN);
    size_t len = (size_t)got - FRAME_HEADER_LEN;
    assert_int_equal(frame[0] << 8 | frame[1], len);
    assert_int_equal(message_decode(frame + FRAME_HEADER_LEN, len, &message), 0);
    assert_int_equal(message.type, MESSAGE_FAILURE);
    assert_int_equal(message.failure.code, code);
    assert_int_equal(message.failure.retry_after,
                     code == FAILURE_BUSY ? RETRY_AFTER : RETRY_AFTER_NONE);
    expect_end(room);
}

/* --- a handshake --- */

static void carries_a_handshake(void **state)
{
    struct room *room = *state;
    send_message(room, MESSAGE_HELLO);
    assert_int_equal(room->request.kind, REQUEST_HELLO);
    assert_int_equal(room->request.handshake, NUMBER);
    assert_string_equal(room->request.hello.sn, "SN-0001");
    assert_int_equal(room->request.source.port, 4000);
    assert_true(connection_is_in_flight(room->connection));
    answer(room, MESSAGE_MAX, 0);
    expect_frame(room, MESSAGE_MAX);

    send_message(room, MESSAGE_PROOF);
    assert_int_equal(room->request.kind, REQUEST_PROOF);
    assert_int_equal(room->request.proof.c2_len, 256);
    answer(room, 300, 0);
    expect_frame(room, 300);

    send_message(room, MESSAGE_CONFIRM);
    assert_int_equal(room->request.kind, REQUEST_CONFIRM);
    assert_int_equal(room->request.confirm.mac_len, 16);
    answer(room, 1, 1);
    expect_frame(room, 1);
    expect_end(room);
    assert_false(connection_is_in_flight(room->connection));
    close(room->terminal);
    room->terminal = -1;
    turn(room);
    assert_int_equal(room->ended, 1);
    assert_int_equal(room->abandoned, 0);
}

static void takes_a_frame_byte_by_byte(void **state)
{
    struct room *room = *state;
    uint8_t frame[FRAME_MAX];
    size_t len = frame_of(MESSAGE_HELLO, frame);
    for (size_t i = 0; i < len; i++) {
        assert_int_equal(room->asked, 0);
        send_bytes(room, frame + i, 1);
    }
    assert_int_equal(room->asked, 1);
}

static void reads_what_was_sent_ahead_after_the_answer(void **state)
{
    struct room *room = *state;
    uint8_t frames[2 * FRAME_MAX];
    size_t len = frame_of(MESSAGE_HELLO, frames);
    len += frame_of(MESSAGE_PROOF, frames + len);
    send_bytes(room, frames, len);
    assert_int_equal(room->asked, 1);
    answer(room, 10, 0);
    expect_frame(room, 10);
    assert_int_equal(room->asked, 2);
    assert_int_equal(room->request.kind, REQUEST_PROOF);
}

static void closes_after_a_last_answer(void **state)
{
    struct room *room = *state;
    send_message(room, MESSAGE_HELLO);
    answer(room, 10, 1);
    expect_frame(room, 10);
    expect_end(room);
    answer(room, 10, 0); /* nobody asked */
    expect_end(room);
    turn_for(room, SHORT_MS + MOMENT_MS);
    assert_int_equal(room->ended, 1);
    assert_int_equal(room->abandoned, 0);
}

static void drops_an_answer_nobody_asked_for(void **state)
{
    struct room *room = *state;
    answer(room, 10, 0);
    expect_nothing(room);
    send_message(room, MESSAGE_HELLO);
    assert_int_equal(room->request.kind, REQUEST_HELLO);
}

/* --- what is refused --- */

static void refuses_other_frame_lengths(void **state)
{
    send_bytes(*state, "\x00\x00", 2);
    expect_failure(*state, FAILURE_MALFORMED);
}

static void refuses_a_frame_too_long(void **state)
{
    send_bytes(*state, "\x20\x01", 2);
    expect_failure(*state, FAILURE_MALFORMED);
}

static void refuses_what_is_not_der(void **state)
{
    struct room *room = *state;
    send_bytes(room, "\x00\x04\xa0\x80\x00\x00", 6);
    expect_failure(room, FAILURE_MALFORMED);
    assert_int_equal(room->asked, 0);
}

static void refuses_trailing_bytes(void **state)
{
    uint8_t frame[FRAME_MAX];
    size_t len = frame_of(MESSAGE_HELLO, frame);
    frame[len] = 0;
    frame_write_length(len + 1 - FRAME_HEADER_LEN, frame);
    send_bytes(*state, frame, len + 1);
    expect_failure(*state, FAILURE_MALFORMED);
}

static void refuses_another_version(void **state)
{
    uint8_t frame[FRAME_MAX];
    size_t len = frame_of(MESSAGE_HELLO, frame);
    frame[8] = 2; /* header, [0], length, SEQUENCE, length, INTEGER, length, version */
    send_bytes(*state, frame, len);
    expect_failure(*state, FAILURE_UNSUPPORTED_VERSION);
}

static void refuses_a_first_message_that_is_no_hello(void **state)
{
    static const enum message_type others[] = {MESSAGE_PROOF, MESSAGE_CONFIRM, MESSAGE_DONE};
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        send_message(*state, others[i]);
        expect_failure(*state, FAILURE_MALFORMED);
        assert_int_equal(((struct room *)*state)->asked, 0);
        tear_down(state);
        set_up(state);
    }
}

static void refuses_a_second_hello(void **state)
{
    struct room *room = *state;
    send_message(room, MESSAGE_HELLO);
    answer(room, 10, 0);
    expect_frame(room, 10);
    send_message(room, MESSAGE_HELLO);
    expect_failure(room, FAILURE_MALFORMED);
    assert_int_equal(room->asked, 1);
    assert_int_equal(room->abandoned, 1);
}

static void is_busy_when_the_keeper_cannot_be_asked(void **state)
{
    struct room *room = *state;
    room->ask_result = FAIL_BUSY;
    send_message(room, MESSAGE_HELLO);
    expect_failure(room, FAILURE_BUSY);
    assert_int_equal(room->abandoned, 0);
}

static void is_busy_when_the_keeper_is_gone(void **state)
{
    struct room *room = *state;
    connection_lose_keeper(room->connection); /* has nothing to do with it yet */
    expect_nothing(room);
    send_message(room, MESSAGE_HELLO);
    connection_lose_keeper(room->connection);
    turn(room);
    expect_failure(room, FAILURE_BUSY);
    assert_int_equal(room->abandoned, 0);
}

static void is_busy_when_refused(void **state)
{
    struct room *room = *state;
    send_message(room, MESSAGE_HELLO);
    connection_refuse(room->connection);
    connection_refuse(room->connection);
    turn(room);
    expect_failure(room, FAILURE_BUSY);
    assert_int_equal(room->abandoned, 1);
}

/* --- ends and deadlines --- */

static void closes_half_a_frame_without_a_word(void **state)
{
    struct room *room = *state;
    send_bytes(room, "\x00", 1);
    turn_for(room, SHORT_MS / 2);
    send_bytes(room, "\x20", 1); /* does not move the deadline */
    assert_int_equal(room->ended, 0);
    turn_for(room, SHORT_MS / 2 + MOMENT_MS);
    assert_int_equal(room->ended, 1);
    expect_end(room);
}

static void is_busy_at_the_deadline_while_the_keeper_works(void **state)
{
    struct room *room = *state;
    send_message(room, MESSAGE_HELLO);
    turn_for(room, SHORT_MS + MOMENT_MS);
    expect_failure(room, FAILURE_BUSY);
    assert_int_equal(room->abandoned, 1);
}

static void abandons_when_the_terminal_goes(void **state)
{
    struct room *room = *state;
    send_message(room, MESSAGE_HELLO);
    close(room->terminal);
    room->terminal = -1;
    turn(room);
    assert_int_equal(room->abandoned, 1);
    assert_int_equal(room->ended, 1);
}

static void answers_a_confirm_that_ends_the_stream(void **state)
{
    struct room *room = *state;
    send_message(room, MESSAGE_HELLO);
    answer(room, 1, 0);
    expect_frame(room, 1);
    send_message(room, MESSAGE_PROOF);
    answer(room, 1, 0);
    expect_frame(room, 1);
    send_message(room, MESSAGE_CONFIRM);
    shutdown(room->terminal, SHUT_WR);
    turn(room);
    assert_int_equal(room->abandoned, 0);
    answer(room, 1, 1);
    expect_frame(room, 1);
    expect_end(room);
    assert_int_equal(room->ended, 1);
}

static void cuts_off_a_flood(void **state)
{
    static const char flood[8192];
    struct room *room = *state;
    size_t sent = 0;
    ssize_t now;
    send_bytes(room, "\x00\x00", 2);
    while (room->ended == 0 && (now = send(room->terminal, flood, sizeof(flood), 0)) > 0) {
        sent += (size_t)now;
        turn(room);
        assert_true(sent <= 256 * 1024);
    }
    assert_int_equal(room->ended, 1);
    assert_true(sent >= 64 * 1024);
}

static void turns_away_with_busy(void **state)
{
    struct room *room = *state;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    close(room->terminal);
    room->terminal = pair[0];
    assert_int_equal(send(pair[0], "hello", 5, 0), 5);
    connection_turn_away(pair[1], RETRY_AFTER);
    expect_failure(room, FAILURE_BUSY);
}

/* --- the line to the keeper --- */

struct line_room {
    struct event_base *base;
    struct keeper_line *line;
    int why;    /* of the last loss */
    int keeper; /* the other end */
    int answers, lost;
};

static void count_answer(void *context, const struct keeper_answer *got)
{
    struct line_room *room = context;
    assert_int_equal(got->handshake, room->answers);
    room->answers++;
}

static void count_lost(void *context, int why)
{
    struct line_room *room = context;
    room->lost++;
    room->why = why;
}

static void attach(struct line_room *room)
{
    int pair[2];
    assert_int_equal(channel_make(pair, 1), 0);
    assert_int_equal(keeper_line_attach(room->line, pair[0]), 0);
    room->keeper = pair[1];
}

static void line_turn(const struct line_room *room)
{
    for (int i = 0; i < 10; i++)
        event_base_loop(room->base, EVLOOP_NONBLOCK);
}

static int line_set_up(void **state)
{
    struct line_room *room = calloc(1, sizeof(*room));
    assert_non_null(room);
    room->base = event_base_new();
    assert_int_equal(keeper_line_new(room->base, count_answer, count_lost, room, &room->line), 0);
    *state = room;
    return 0;
}

static int line_tear_down(void **state)
{
    struct line_room *room = *state;
    keeper_line_free(room->line);
    event_base_free(room->base);
    close(room->keeper);
    free(room);
    return 0;
}

static void is_busy_without_a_keeper(void **state)
{
    struct line_room *room = *state;
    struct keeper_request request = {.kind = REQUEST_ABANDON};
    assert_int_equal(keeper_line_ask(room->line, &request), FAIL_BUSY);
    keeper_line_abandon(room->line, 1);
    attach(room);
    assert_int_equal(keeper_line_ask(room->line, &request), 0);
    close(room->keeper);
    line_turn(room);
    assert_int_equal(room->lost, 1);
    assert_int_equal(room->why, FAIL_CLOSED);
    assert_int_equal(keeper_line_ask(room->line, &request), FAIL_BUSY);
    room->keeper = -1;
}

static void hands_on_a_keepers_last_answers(void **state)
{
    struct line_room *room = *state;
    struct keeper_answer sent = {.len = 1};
    attach(room);
    for (; sent.handshake < 100; sent.handshake++)
        assert_int_equal(channel_send_answer(room->keeper, &sent), 0);
    close(room->keeper);
    attach(room); /* the next one, before the loop has seen the end of the first */
    assert_int_equal(room->answers, 100);
    assert_int_equal(room->lost, 1);
    line_turn(room);
    assert_int_equal(room->lost, 1);
}

static void gives_up_a_keeper_that_talks_nonsense(void **state)
{
    struct line_room *room = *state;
    attach(room);
    assert_int_equal(send(room->keeper, "nonsense", 8, 0), 8);
    line_turn(room);
    assert_int_equal(room->answers, 0);
    assert_int_equal(room->lost, 1);
    assert_int_equal(room->why, FAIL_MALFORMED);
}

static void abandons_later_when_the_keeper_is_slow(void **state)
{
    struct line_room *room = *state;
    struct keeper_request request = {.kind = REQUEST_ABANDON}, got;
    size_t count = 0;
    attach(room);
    while (keeper_line_ask(room->line, &request) == 0)
        continue;
    for (uint64_t handshake = 1; handshake <= 3; handshake++)
        keeper_line_abandon(room->line, handshake);
    line_turn(room);
    for (int i = 0; i < 5; i++) {
        while (channel_receive_request(room->keeper, &got) == 0)
            count += got.handshake != 0;
        line_turn(room);
    }
    assert_int_equal(count, 3);
}

#define CONNECTION_TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
#define SHORT_TEST(test)      cmocka_unit_test_setup_teardown(test, set_up_short, tear_down)
#define LINE_TEST(test)       cmocka_unit_test_setup_teardown(test, line_set_up, line_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CONNECTION_TEST(carries_a_handshake),
        CONNECTION_TEST(takes_a_frame_byte_by_byte),
        CONNECTION_TEST(reads_what_was_sent_ahead_after_the_answer),
        SHORT_TEST(closes_after_a_last_answer),
        CONNECTION_TEST(drops_an_answer_nobody_asked_for),
        CONNECTION_TEST(refuses_other_frame_lengths),
        CONNECTION_TEST(refuses_a_frame_too_long),
        CONNECTION_TEST(refuses_what_is_not_der),
        CONNECTION_TEST(refuses_trailing_bytes),
        CONNECTION_TEST(refuses_another_version),
        CONNECTION_TEST(refuses_a_first_message_that_is_no_hello),
        CONNECTION_TEST(refuses_a_second_hello),
        CONNECTION_TEST(is_busy_when_the_keeper_cannot_be_asked),
        CONNECTION_TEST(is_busy_when_the_keeper_is_gone),
        CONNECTION_TEST(is_busy_when_refused),
        SHORT_TEST(closes_half_a_frame_without_a_word),
        SHORT_TEST(is_busy_at_the_deadline_while_the_keeper_works),
        CONNECTION_TEST(abandons_when_the_terminal_goes),
        CONNECTION_TEST(answers_a_confirm_that_ends_the_stream),
        CONNECTION_TEST(cuts_off_a_flood),
        CONNECTION_TEST(turns_away_with_busy),
        LINE_TEST(is_busy_without_a_keeper),
        LINE_TEST(hands_on_a_keepers_last_answers),
        LINE_TEST(gives_up_a_keeper_that_talks_nonsense),
        LINE_TEST(abandons_later_when_the_keeper_is_slow),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
