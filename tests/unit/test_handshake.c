/*
 * The handshakes of the keeper through their doors: requests, results and times go in; what was
 * asked of the doors and what was answered is looked at. No token, no database, no threads.
 */
#include "common/fail.h" /* before cmocka, whose macro has the same name */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tmkd/handshake.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum { RETRY_AFTER = 7, LIFETIME_MS = 30000, NOW_MS = 1000000, HISTORY = 16 };

static const char sn[] = "TEST-0001";
static const char delivery_bytes[] = "the delivery, Ctmk in it";
static const char challenge_bytes[] = "the challenge";

/* What the handshakes asked for and said, in order. */
struct bench {
    struct handshakes *handshakes;
    int prepare_rc; /* what the doors answer */
    int record_rc;
    int listener_is_gone; /* an answer closes the channel, and all is forgotten */
    size_t prepares;
    size_t records;
    size_t answers;
    struct ticket prepare[HISTORY];
    struct hello hello[HISTORY];
    struct ticket record_ticket[HISTORY];
    struct record record[HISTORY];
    struct keeper_answer answer[HISTORY];
};

/* --- the doors --- */

static int door_prepare(void *context, struct ticket ticket, const struct hello *hello)
{
    struct bench *bench = context;
    assert_true(bench->prepares < HISTORY);
    bench->prepare[bench->prepares] = ticket;
    bench->hello[bench->prepares++] = *hello;
    return bench->prepare_rc;
}

static int door_record(void *context, struct ticket ticket, const struct record *record)
{
    struct bench *bench = context;
    assert_true(bench->records < HISTORY);
    bench->record_ticket[bench->records] = ticket;
    bench->record[bench->records++] = *record;
    return bench->record_rc;
}

static void door_answer(void *context, const struct keeper_answer *answer)
{
    struct bench *bench = context;
    assert_true(bench->answers < HISTORY);
    bench->answer[bench->answers++] = *answer;
    if (bench->listener_is_gone)
        handshakes_forget(bench->handshakes);
}

static int set_up(void **state)
{
    struct bench *bench = calloc(1, sizeof(*bench));
    assert_non_null(bench);
    const struct handshake_doors doors = {bench, door_prepare, door_record, door_answer};
    assert_int_equal(handshakes_new(&doors, RETRY_AFTER, LIFETIME_MS, &bench->handshakes), 0);
    *state = bench;
    return 0;
}

static int tear_down(void **state)
{
    struct bench *bench = *state;
    handshakes_free(bench->handshakes);
    free(bench);
    return 0;
}

/* --- what goes in --- */

static struct offer make_offer(const char *reason)
{
    struct offer offer = {
        .row_version = 5,
        .tmk = {.type = TMK_AES128, .version = 3, .kcv_len = 5},
        .c2_len = 256,
        .mac_len = 16,
        .delivery_len = sizeof(delivery_bytes),
        .challenge_len = sizeof(challenge_bytes),
    };
    snprintf(offer.reason, sizeof(offer.reason), "%s", reason);
    memset(offer.c2, 0xc2, offer.c2_len);
    memset(offer.mac, 0xac, offer.mac_len);
    memcpy(offer.delivery, delivery_bytes, sizeof(delivery_bytes));
    memcpy(offer.challenge, challenge_bytes, sizeof(challenge_bytes));
    return offer;
}

static struct keeper_request make_request(uint64_t number, enum request_kind kind)
{
    struct keeper_request request = {.handshake = number, .kind = kind};
    switch (kind) {
    case REQUEST_HELLO:
        request.source =
            (struct source){.family = 4, .address = {192, 0, 2, (uint8_t)number}, .port = 4711};
        memcpy(request.hello.sn, sn, sizeof(sn));
        memset(request.hello.rnd1, 0x11, sizeof(request.hello.rnd1));
        break;
    case REQUEST_PROOF:
        request.proof.c2_len = 256;
        memset(request.proof.c2, 0xc2, request.proof.c2_len);
        break;
    case REQUEST_CONFIRM:
        request.confirm.mac_len = 16;
        memset(request.confirm.mac, 0xac, request.confirm.mac_len);
        break;
    case REQUEST_ABANDON:
        break;
    }
    return request;
}

static void ask(struct bench *bench, uint64_t number, enum request_kind kind)
{
    struct keeper_request request = make_request(number, kind);
    handshakes_request(bench->handshakes, &request, NOW_MS);
}

/* The result of the newest preparation, and of the newest record. */
static void give_offer(struct bench *bench, const char *reason)
{
    struct offer offer = make_offer(reason);
    assert_true(bench->prepares > 0);
    handshakes_prepared(bench->handshakes, bench->prepare[bench->prepares - 1], 0, &offer);
}

static void give_recorded(struct bench *bench, int rc)
{
    assert_true(bench->records > 0);
    handshakes_recorded(bench->handshakes, bench->record_ticket[bench->records - 1], rc);
}

/* --- what comes out --- */

static const struct keeper_answer *last_answer(const struct bench *bench, uint64_t number)
{
    assert_true(bench->answers > 0);
    const struct keeper_answer *answer = &bench->answer[bench->answers - 1];
    assert_int_equal(answer->handshake, number);
    return answer;
}

static void assert_answer_bytes(const struct bench *bench, uint64_t number, const char *bytes,
                                size_t len)
{
    const struct keeper_answer *answer = last_answer(bench, number);
    assert_int_equal(answer->last, 0);
    assert_int_equal(answer->len, len);
    assert_memory_equal(answer->message, bytes, len);
}

static struct message last_message(const struct bench *bench, uint64_t number)
{
    struct message message;
    const struct keeper_answer *answer = last_answer(bench, number);
    assert_int_equal(answer->last, 1);
    if (message_decode(answer->message, answer->len, &message) < 0)
        fail_msg("%s", fail_text());
    return message;
}

/* The last answer is this failure, and the handshake is no more. */
static void assert_failed(const struct bench *bench, uint64_t number, enum failure_code code)
{
    struct message message = last_message(bench, number);
    assert_int_equal(message.type, MESSAGE_FAILURE);
    if (message.failure.code != code)
        fail_msg("%s instead of %s", failure_code_name(message.failure.code),
                 failure_code_name(code));
    assert_int_equal(message.failure.retry_after,
                     code == FAILURE_BUSY ? (int)RETRY_AFTER : (int)RETRY_AFTER_NONE);
    assert_int_equal(handshakes_count(bench->handshakes), 0);
}

/* No answer of the bench's life holds a byte string of the delivery. */
static void assert_never_delivered(const struct bench *bench)
{
    for (size_t i = 0; i < bench->answers; i++)
        assert_null(memmem(bench->answer[i].message, bench->answer[i].len, delivery_bytes,
                           sizeof(delivery_bytes) - 1));
}

/* --- the steps, and a way to each --- */

enum place { NOWHERE, PREPARING, CHALLENGED, PROVED, DELIVERED, CONFIRMED, REFUSED, PLACES };

static void refuse_proof(struct bench *bench, uint64_t number)
{
    struct keeper_request request = make_request(number, REQUEST_PROOF);
    request.proof.c2[255] ^= 1;
    handshakes_request(bench->handshakes, &request, NOW_MS);
}

static void go_to(struct bench *bench, uint64_t number, enum place place)
{
    if (place >= PREPARING)
        ask(bench, number, REQUEST_HELLO);
    if (place >= CHALLENGED)
        give_offer(bench, "");
    if (place == REFUSED) {
        refuse_proof(bench, number);
        return;
    }
    if (place >= PROVED)
        ask(bench, number, REQUEST_PROOF);
    if (place >= DELIVERED)
        give_recorded(bench, 0);
    if (place >= CONFIRMED)
        ask(bench, number, REQUEST_CONFIRM);
}

/* --- the good way --- */

static void test_good_way(void **state)
{
    struct bench *bench = *state;
    ask(bench, 9, REQUEST_HELLO);
    assert_int_equal(bench->prepares, 1);
    assert_int_equal(bench->prepare[0].handshake, 9);
    assert_string_equal(bench->hello[0].sn, sn);
    assert_int_equal(bench->hello[0].rnd1[31], 0x11);
    assert_int_equal(bench->answers, 0);

    give_offer(bench, "");
    assert_int_equal(bench->answers, 1);
    assert_answer_bytes(bench, 9, challenge_bytes, sizeof(challenge_bytes));

    ask(bench, 9, REQUEST_PROOF);
    assert_int_equal(bench->answers, 1);
    assert_int_equal(bench->records, 1);
    assert_int_equal(bench->record[0].kind, RECORD_DELIVERED);
    give_recorded(bench, 0);
    assert_int_equal(bench->answers, 2);
    assert_answer_bytes(bench, 9, delivery_bytes, sizeof(delivery_bytes));

    ask(bench, 9, REQUEST_CONFIRM);
    assert_int_equal(bench->answers, 2);
    assert_int_equal(bench->records, 2);
    assert_int_equal(bench->record[1].kind, RECORD_CONFIRMED);
    give_recorded(bench, 0);
    assert_int_equal(bench->answers, 3);
    struct message done = last_message(bench, 9);
    assert_int_equal(done.type, MESSAGE_DONE);
    assert_int_equal(done.done.version, 3);
    assert_int_equal(handshakes_count(bench->handshakes), 0);
}

/* What is recorded is of the terminal that said hello, as it was looked up. */
static void test_record_tells_whom(void **state)
{
    struct bench *bench = *state;
    const struct source source = {.family = 4, .address = {192, 0, 2, 9}, .port = 4711};
    go_to(bench, 9, CONFIRMED);
    for (size_t i = 0; i < 2; i++) {
        assert_string_equal(bench->record[i].sn, sn);
        assert_int_equal(bench->record[i].row_version, 5);
        assert_int_equal(bench->record[i].tmk.version, 3);
        assert_string_equal(bench->record[i].reason, "");
        assert_int_equal(bench->record[i].source.family, source.family);
        assert_memory_equal(bench->record[i].source.address, source.address, 16);
        assert_int_equal(bench->record[i].source.port, source.port);
    }
}

/* --- what may come when --- */

static int is_move(enum place place, uint32_t kind)
{
    return (place == NOWHERE && kind == REQUEST_HELLO) ||
           (place == CHALLENGED && kind == REQUEST_PROOF) ||
           (place == DELIVERED && kind == REQUEST_CONFIRM);
}

static void assert_move(enum place place, uint32_t kind)
{
    struct bench *bench = NULL;
    set_up((void **)&bench);
    go_to(bench, 4, place);
    size_t answers = bench->answers;
    size_t works = bench->prepares + bench->records;
    struct keeper_request request = make_request(4, kind);
    handshakes_request(bench->handshakes, &request, NOW_MS);
    if (kind == REQUEST_ABANDON) {
        assert_int_equal(bench->answers, answers);
        assert_int_equal(handshakes_count(bench->handshakes), 0);
    } else if (is_move(place, kind)) {
        assert_int_equal(bench->answers, answers);
        assert_int_equal(bench->prepares + bench->records, works + 1);
        assert_int_equal(handshakes_count(bench->handshakes), 1);
    } else {
        assert_int_equal(bench->answers, answers + 1);
        assert_int_equal(bench->prepares + bench->records, works);
        assert_failed(bench, 4, FAILURE_MALFORMED);
    }
    if (place != DELIVERED && place != CONFIRMED)
        assert_never_delivered(bench);
    tear_down((void **)&bench);
}

static void test_every_request_in_every_step(void **state)
{
    (void)state;
    for (enum place place = NOWHERE; place < PLACES; place++)
        for (uint32_t kind = 0; kind <= REQUEST_ABANDON + 1; kind++)
            assert_move(place, kind);
}

/* Whatever was awaited when a request ended the handshake comes too late. */
static void test_nothing_comes_after_malformed(void **state)
{
    static const enum place waiting[] = {PREPARING, PROVED, CONFIRMED, REFUSED};
    (void)state;
    for (size_t i = 0; i < COUNT(waiting); i++) {
        struct bench *bench = NULL;
        set_up((void **)&bench);
        go_to(bench, 4, waiting[i]);
        ask(bench, 4, REQUEST_PROOF);
        assert_failed(bench, 4, FAILURE_MALFORMED);
        size_t answers = bench->answers;
        if (waiting[i] == PREPARING)
            give_offer(bench, "");
        else
            give_recorded(bench, 0);
        assert_int_equal(bench->answers, answers);
        if (waiting[i] != CONFIRMED)
            assert_never_delivered(bench);
        tear_down((void **)&bench);
    }
}

/* --- proof --- */

static void assert_proof_refused(struct bench *bench, const struct keeper_request *proof,
                                 const char *reason)
{
    handshakes_request(bench->handshakes, proof, NOW_MS);
    assert_int_equal(bench->answers, 1); /* nothing before the refusal is on record */
    assert_int_equal(bench->records, 1);
    assert_int_equal(bench->record[0].kind, RECORD_REFUSED);
    assert_string_equal(bench->record[0].reason, reason);
    give_recorded(bench, 0);
    assert_int_equal(bench->answers, 2);
    assert_failed(bench, proof->handshake, FAILURE_REJECTED);
    assert_never_delivered(bench);
}

static void test_decoy_is_refused_although_c2_matches(void **state)
{
    struct bench *bench = *state;
    struct keeper_request proof = make_request(4, REQUEST_PROOF);
    ask(bench, 4, REQUEST_HELLO);
    give_offer(bench, "the SN is unknown");
    assert_answer_bytes(bench, 4, challenge_bytes, sizeof(challenge_bytes));
    assert_proof_refused(bench, &proof, "the SN is unknown");
}

/* The reason a decoy has is not overwritten by the C2' that of course differs. */
static void test_decoy_keeps_its_reason(void **state)
{
    struct bench *bench = *state;
    struct keeper_request proof = make_request(4, REQUEST_PROOF);
    proof.proof.c2[0] ^= 1;
    ask(bench, 4, REQUEST_HELLO);
    give_offer(bench, "the terminal is disabled");
    assert_proof_refused(bench, &proof, "the terminal is disabled");
}

static void assert_wrong_c2(size_t len, size_t flipped)
{
    struct bench *bench = NULL;
    struct keeper_request proof = make_request(4, REQUEST_PROOF);
    set_up((void **)&bench);
    go_to(bench, 4, CHALLENGED);
    memset(proof.proof.c2, 0xc2, sizeof(proof.proof.c2));
    proof.proof.c2_len = len;
    if (flipped < len)
        proof.proof.c2[flipped] ^= 0x80;
    assert_proof_refused(bench, &proof, "C2' differs from C2");
    tear_down((void **)&bench);
}

static void test_wrong_c2(void **state)
{
    (void)state;
    for (size_t i = 0; i < 256; i += 51)
        assert_wrong_c2(256, i); /* 0 and 255 among them */
    assert_wrong_c2(255, SIZE_MAX);
    assert_wrong_c2(257, SIZE_MAX);
    assert_wrong_c2(512, SIZE_MAX);
    assert_wrong_c2(1, SIZE_MAX);
    assert_wrong_c2(0, SIZE_MAX);
}

/* Why a proof is refused cannot be seen from outside: the bytes are the same, and the step. */
static void test_refusals_look_the_same(void **state)
{
    static const char *const reasons[] = {"the SN is unknown", "the terminal is disabled", "",
                                          "the seal does not fit the registry's row"};
    struct bench *benches[COUNT(reasons)];
    (void)state;
    for (size_t i = 0; i < COUNT(reasons); i++) {
        set_up((void **)&benches[i]);
        ask(benches[i], 4, REQUEST_HELLO);
        give_offer(benches[i], reasons[i]);
        refuse_proof(benches[i], 4);
        give_recorded(benches[i], 0);
        assert_failed(benches[i], 4, FAILURE_REJECTED);
    }
    for (size_t i = 1; i < COUNT(reasons); i++) {
        assert_int_equal(benches[i]->answers, benches[0]->answers);
        assert_memory_equal(benches[i]->answer, benches[0]->answer, sizeof(benches[0]->answer));
    }
    for (size_t i = 0; i < COUNT(reasons); i++)
        tear_down((void **)&benches[i]);
}

/* --- records that fail --- */

static const struct {
    int rc;
    enum failure_code code;
} record_failures[] = {
    {FAIL_REFUSED, FAILURE_REJECTED},   {FAIL_BUSY, FAILURE_BUSY},
    {FAIL_REGISTRY, FAILURE_INTERNAL},  {FAIL_TOKEN, FAILURE_INTERNAL},
    {FAIL_NOT_FOUND, FAILURE_INTERNAL}, {FAIL_SYSTEM, FAILURE_INTERNAL},
    {FAIL_MEMORY, FAILURE_INTERNAL},    {FAIL_TOKEN_LOST, FAILURE_INTERNAL},
};

static void test_no_answer_without_record(void **state)
{
    static const enum place waiting[] = {PROVED, CONFIRMED, REFUSED};
    (void)state;
    for (size_t i = 0; i < COUNT(waiting); i++) {
        for (size_t j = 0; j < COUNT(record_failures); j++) {
            struct bench *bench = NULL;
            set_up((void **)&bench);
            go_to(bench, 4, waiting[i]);
            give_recorded(bench, record_failures[j].rc);
            assert_failed(bench, 4, record_failures[j].code);
            if (waiting[i] != CONFIRMED)
                assert_never_delivered(bench);
            tear_down((void **)&bench);
        }
    }
}

static void test_record_door_is_busy(void **state)
{
    (void)state;
    for (enum place place = CHALLENGED; place <= DELIVERED; place += DELIVERED - CHALLENGED) {
        struct bench *bench = NULL;
        set_up((void **)&bench);
        go_to(bench, 4, place);
        bench->record_rc = FAIL_BUSY;
        ask(bench, 4, place == CHALLENGED ? REQUEST_PROOF : REQUEST_CONFIRM);
        assert_failed(bench, 4, FAILURE_BUSY);
        if (place == CHALLENGED)
            assert_never_delivered(bench);
        tear_down((void **)&bench);
    }
}

/* When the writer has no room, a wrong C2' is told from a right one as little as ever. */
static void test_busy_hides_a_wrong_c2(void **state)
{
    struct bench *bench = *state;
    go_to(bench, 4, CHALLENGED);
    bench->record_rc = FAIL_BUSY;
    refuse_proof(bench, 4);
    assert_failed(bench, 4, FAILURE_BUSY);
}

/* --- preparations that fail --- */

static void test_prepare_door_is_busy(void **state)
{
    struct bench *bench = *state;
    bench->prepare_rc = FAIL_BUSY;
    ask(bench, 4, REQUEST_HELLO);
    assert_int_equal(bench->answers, 1);
    assert_failed(bench, 4, FAILURE_BUSY);
}

static void test_prepare_door_has_no_memory(void **state)
{
    struct bench *bench = *state;
    bench->prepare_rc = FAIL_MEMORY;
    ask(bench, 4, REQUEST_HELLO);
    assert_int_equal(bench->answers, 1);
    assert_failed(bench, 4, FAILURE_INTERNAL);
}

static void test_preparation_fails(void **state)
{
    static const struct {
        int rc;
        enum failure_code code;
    } failures[] = {
        {FAIL_BUSY, FAILURE_BUSY},         {FAIL_TOKEN, FAILURE_INTERNAL},
        {FAIL_REGISTRY, FAILURE_INTERNAL}, {FAIL_NOT_FOUND, FAILURE_INTERNAL},
        {FAIL_REFUSED, FAILURE_INTERNAL}, /* at this step nobody is rejected */
    };
    struct offer offer = make_offer("");
    (void)state;
    for (size_t i = 0; i < COUNT(failures); i++) {
        struct bench *bench = NULL;
        set_up((void **)&bench);
        go_to(bench, 4, PREPARING);
        handshakes_prepared(bench->handshakes, bench->prepare[0], failures[i].rc, &offer);
        assert_int_equal(bench->answers, 1);
        assert_failed(bench, 4, failures[i].code);
        tear_down((void **)&bench);
    }
}

/* --- confirm --- */

static void assert_wrong_mac(size_t len, size_t flipped)
{
    struct bench *bench = NULL;
    struct keeper_request confirm = make_request(4, REQUEST_CONFIRM);
    set_up((void **)&bench);
    go_to(bench, 4, DELIVERED);
    confirm.confirm.mac_len = len;
    if (flipped < len)
        confirm.confirm.mac[flipped] ^= 1;
    handshakes_request(bench->handshakes, &confirm, NOW_MS);
    assert_int_equal(bench->records, 2);
    assert_int_equal(bench->record[1].kind, RECORD_REFUSED);
    assert_true(strlen(bench->record[1].reason) > 0);
    assert_int_equal(bench->answers, 2);
    give_recorded(bench, 0);
    assert_failed(bench, 4, FAILURE_REJECTED);
    tear_down((void **)&bench);
}

static void test_wrong_mac(void **state)
{
    (void)state;
    assert_wrong_mac(16, 0);
    assert_wrong_mac(16, 15);
    assert_wrong_mac(15, SIZE_MAX); /* a MAC cut short is none (design 5: whole block) */
    assert_wrong_mac(8, SIZE_MAX);
    assert_wrong_mac(0, SIZE_MAX);
}

/* --- results that come late or twice --- */

/* The listener may use a number again once its connection is gone. */
static void test_late_result_does_not_reach_the_next(void **state)
{
    struct bench *bench = *state;
    struct offer old = make_offer("");
    struct offer other = make_offer("");
    old.c2[0] = 0x00;
    go_to(bench, 4, PREPARING);
    ask(bench, 4, REQUEST_ABANDON);
    go_to(bench, 4, PREPARING);
    assert_true(bench->prepare[0].serial != bench->prepare[1].serial);
    handshakes_prepared(bench->handshakes, bench->prepare[0], 0, &old);
    handshakes_prepared(bench->handshakes, bench->prepare[0], FAIL_TOKEN, &old);
    assert_int_equal(bench->answers, 0);
    handshakes_prepared(bench->handshakes, bench->prepare[1], 0, &other);
    ask(bench, 4, REQUEST_PROOF);
    assert_int_equal(bench->record[0].kind, RECORD_DELIVERED);
}

static void test_late_record_does_not_deliver_to_the_next(void **state)
{
    struct bench *bench = *state;
    go_to(bench, 4, PROVED);
    struct ticket old = bench->record_ticket[0];
    ask(bench, 4, REQUEST_ABANDON);
    go_to(bench, 4, PREPARING);
    handshakes_recorded(bench->handshakes, old, 0);
    give_offer(bench, "");
    handshakes_recorded(bench->handshakes, old, 0);
    ask(bench, 4, REQUEST_PROOF);
    handshakes_recorded(bench->handshakes, old, 0);
    handshakes_recorded(bench->handshakes, old, FAIL_REGISTRY);
    assert_never_delivered(bench);
    assert_int_equal(handshakes_count(bench->handshakes), 1);
    give_recorded(bench, 0);
    assert_answer_bytes(bench, 4, delivery_bytes, sizeof(delivery_bytes));
}

static void test_result_twice(void **state)
{
    struct bench *bench = *state;
    struct offer offer = make_offer("");
    go_to(bench, 4, CHALLENGED);
    handshakes_prepared(bench->handshakes, bench->prepare[0], 0, &offer);
    handshakes_prepared(bench->handshakes, bench->prepare[0], FAIL_TOKEN, &offer);
    assert_int_equal(bench->answers, 1);
    ask(bench, 4, REQUEST_PROOF);
    give_recorded(bench, 0);
    give_recorded(bench, 0);
    give_recorded(bench, FAIL_REGISTRY);
    assert_int_equal(bench->answers, 2);
    ask(bench, 4, REQUEST_CONFIRM);
    give_recorded(bench, 0);
    give_recorded(bench, 0);
    assert_int_equal(bench->answers, 3);
    assert_int_equal(last_message(bench, 4).type, MESSAGE_DONE);
}

/* Tickets of one number are of no use to another. */
static void test_ticket_of_another_number(void **state)
{
    struct bench *bench = *state;
    struct offer offer = make_offer("");
    ask(bench, 1, REQUEST_HELLO);
    ask(bench, 2, REQUEST_HELLO);
    struct ticket mixed = {bench->prepare[0].handshake, bench->prepare[1].serial};
    handshakes_prepared(bench->handshakes, mixed, 0, &offer);
    mixed.handshake = 3;
    handshakes_prepared(bench->handshakes, mixed, 0, &offer);
    assert_int_equal(bench->answers, 0);
    assert_int_equal(handshakes_count(bench->handshakes), 2);
}

static void test_two_at_once(void **state)
{
    struct bench *bench = *state;
    struct offer good = make_offer("");
    struct offer bad = make_offer("the SN is unknown");
    ask(bench, 1, REQUEST_HELLO);
    ask(bench, 2, REQUEST_HELLO);
    handshakes_prepared(bench->handshakes, bench->prepare[1], 0, &bad);
    handshakes_prepared(bench->handshakes, bench->prepare[0], 0, &good);
    ask(bench, 2, REQUEST_PROOF);
    ask(bench, 1, REQUEST_PROOF);
    assert_int_equal(bench->record[0].kind, RECORD_REFUSED);
    assert_int_equal(bench->record[0].source.address[3], 2);
    assert_int_equal(bench->record[1].kind, RECORD_DELIVERED);
    assert_int_equal(bench->record[1].source.address[3], 1);
    handshakes_recorded(bench->handshakes, bench->record_ticket[1], 0);
    assert_answer_bytes(bench, 1, delivery_bytes, sizeof(delivery_bytes));
    handshakes_recorded(bench->handshakes, bench->record_ticket[0], 0);
    assert_int_equal(last_message(bench, 2).failure.code, FAILURE_REJECTED);
    assert_int_equal(handshakes_count(bench->handshakes), 1);
}

/* --- ends --- */

static void test_expiry(void **state)
{
    (void)state;
    for (enum place place = PREPARING; place < PLACES; place++) {
        struct bench *bench = NULL;
        set_up((void **)&bench);
        go_to(bench, 4, place);
        size_t answers = bench->answers;
        handshakes_expire(bench->handshakes, NOW_MS + LIFETIME_MS);
        assert_int_equal(handshakes_count(bench->handshakes), 1);
        handshakes_expire(bench->handshakes, NOW_MS + LIFETIME_MS + 1);
        assert_int_equal(handshakes_count(bench->handshakes), 0);
        if (place == PREPARING)
            give_offer(bench, "");
        else if (place != CHALLENGED && place != DELIVERED)
            give_recorded(bench, 0);
        assert_int_equal(bench->answers, answers);
        tear_down((void **)&bench);
    }
}

/* Age counts from hello, however much has been said since; the young stay. */
static void test_expiry_is_absolute(void **state)
{
    struct bench *bench = *state;
    struct keeper_request request = make_request(1, REQUEST_HELLO);
    handshakes_request(bench->handshakes, &request, NOW_MS);
    give_offer(bench, "");
    request = make_request(2, REQUEST_HELLO);
    handshakes_request(bench->handshakes, &request, NOW_MS + 20000);
    request = make_request(1, REQUEST_PROOF);
    handshakes_request(bench->handshakes, &request, NOW_MS + 29000);
    handshakes_expire(bench->handshakes, NOW_MS + 31000);
    assert_int_equal(handshakes_count(bench->handshakes), 1);
    give_offer(bench, "");
    assert_answer_bytes(bench, 2, challenge_bytes, sizeof(challenge_bytes));
}

/* Handshakes in flight finish; new ones are told when to come again. */
static void test_stop(void **state)
{
    struct bench *bench = *state;
    go_to(bench, 4, CHALLENGED);
    handshakes_stop(bench->handshakes);
    ask(bench, 5, REQUEST_HELLO);
    struct message message = last_message(bench, 5);
    assert_int_equal(message.failure.code, FAILURE_BUSY);
    assert_int_equal(message.failure.retry_after, RETRY_AFTER);
    assert_int_equal(bench->prepares, 1);
    assert_int_equal(handshakes_count(bench->handshakes), 1);
    ask(bench, 4, REQUEST_PROOF);
    give_recorded(bench, 0);
    ask(bench, 4, REQUEST_CONFIRM);
    give_recorded(bench, 0);
    assert_int_equal(last_message(bench, 4).type, MESSAGE_DONE);
    assert_int_equal(handshakes_count(bench->handshakes), 0);
}

static void test_forget(void **state)
{
    struct bench *bench = *state;
    ask(bench, 1, REQUEST_HELLO);
    ask(bench, 2, REQUEST_HELLO);
    go_to(bench, 3, PROVED);
    size_t answers = bench->answers;
    handshakes_forget(bench->handshakes);
    assert_int_equal(handshakes_count(bench->handshakes), 0);
    give_recorded(bench, 0);
    give_offer(bench, "");
    assert_int_equal(bench->answers, answers);
    ask(bench, 1, REQUEST_HELLO); /* of the next listener */
    assert_int_equal(handshakes_count(bench->handshakes), 1);
}

static void test_free_accepts_null(void **state)
{
    (void)state;
    handshakes_free(NULL);
}

/* When the listener is gone its channel closes inside an answer: the handshakes are forgotten
 * while one of them is being answered. */
static void test_forget_inside_an_answer(void **state)
{
    static const enum place waiting[] = {PREPARING, PROVED, CONFIRMED, REFUSED};
    (void)state;
    for (size_t i = 0; i < COUNT(waiting); i++) {
        struct bench *bench = NULL;
        set_up((void **)&bench);
        go_to(bench, 4, waiting[i]);
        size_t answers = bench->answers;
        bench->listener_is_gone = 1;
        if (waiting[i] == PREPARING)
            give_offer(bench, "");
        else
            give_recorded(bench, 0);
        assert_int_equal(bench->answers, answers + 1);
        assert_int_equal(handshakes_count(bench->handshakes), 0);
        tear_down((void **)&bench);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_good_way, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_record_tells_whom, set_up, tear_down),
        cmocka_unit_test(test_every_request_in_every_step),
        cmocka_unit_test(test_nothing_comes_after_malformed),
        cmocka_unit_test_setup_teardown(test_decoy_is_refused_although_c2_matches, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_decoy_keeps_its_reason, set_up, tear_down),
        cmocka_unit_test(test_wrong_c2),
        cmocka_unit_test(test_refusals_look_the_same),
        cmocka_unit_test(test_no_answer_without_record),
        cmocka_unit_test(test_record_door_is_busy),
        cmocka_unit_test_setup_teardown(test_busy_hides_a_wrong_c2, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_prepare_door_is_busy, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_prepare_door_has_no_memory, set_up, tear_down),
        cmocka_unit_test(test_preparation_fails),
        cmocka_unit_test(test_wrong_mac),
        cmocka_unit_test_setup_teardown(test_late_result_does_not_reach_the_next, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_late_record_does_not_deliver_to_the_next, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_result_twice, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_ticket_of_another_number, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_two_at_once, set_up, tear_down),
        cmocka_unit_test(test_expiry),
        cmocka_unit_test_setup_teardown(test_expiry_is_absolute, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_stop, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_forget, set_up, tear_down),
        cmocka_unit_test(test_forget_inside_an_answer),
        cmocka_unit_test(test_free_accepts_null),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
