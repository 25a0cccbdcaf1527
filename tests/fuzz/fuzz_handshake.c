/*
 * Requests, results and times in any order, told by the input's bytes. Beside the handshakes runs
 * a model that knows of each number only what decides who may have what; the two must agree.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/fail.h"
#include "tmkd/handshake.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
    NUMBERS = 6, /* of the listener, so few that they are used again and again */
    WORKS = 64,  /* tickets that are remembered, results of which may come at any time */
    LIFETIME_MS = 100,
    CHALLENGE_MARK = 0xc0,
    DELIVERY_MARK = 0xd0,
    DONE_TAG = 0xa5,
    PREPARATION = -1,
};

/* What is true of a number from one hello to the end of it. */
struct life {
    unsigned generation;
    int alive;
    int64_t since_ms;
    int entitled;  /* its offer has no reason against it */
    int proved;    /* C2' matched */
    int recorded;  /* and the delivery was recorded on this life's ticket */
    int delivered; /* the delivery went out */
    int confirmed; /* the MAC matched */
    int finished;  /* and that was recorded on this life's ticket */
    int ended;     /* an answer with last = 1 went out */
};

struct work {
    struct ticket ticket;
    unsigned generation;
    int kind; /* enum record_kind, or PREPARATION */
    int used;
};

struct world {
    const uint8_t *data;
    size_t left;
    struct handshakes *handshakes;
    int64_t now_ms;
    int stopped;
    struct life lives[NUMBERS];
    size_t works;
    struct work work[WORKS];
};

static void must(int holds)
{
    if (!holds)
        abort();
}

static uint8_t next(struct world *world)
{
    if (world->left == 0)
        return 0;
    world->left--;
    return *world->data++;
}

static int outcome(struct world *world)
{
    static const int outcomes[] = {0, 0, 0, FAIL_BUSY, FAIL_REFUSED, FAIL_REGISTRY, 0, 0};
    return outcomes[next(world) % 8];
}

/* C2 and the MAC of each life differ, so that nothing of one is good in another. */
static uint8_t secret_of(const struct world *world, size_t number)
{
    return (uint8_t)(world->lives[number].generation * NUMBERS + number);
}

/* --- the doors --- */

static int remember(struct world *world, struct ticket ticket, int kind)
{
    int rc = world->works < WORKS ? outcome(world) : FAIL_BUSY;
    if (rc == 0)
        world->work[world->works++] =
            (struct work){ticket, world->lives[ticket.handshake].generation, kind, 0};
    return rc;
}

static int prepare(void *context, struct ticket ticket, const struct hello *hello)
{
    struct world *world = context;
    must(!world->stopped && hello->rnd1[0] == ticket.handshake);
    return remember(world, ticket, PREPARATION);
}

static int record(void *context, struct ticket ticket, const struct record *what)
{
    struct world *world = context;
    const struct life *life = &world->lives[ticket.handshake];
    must(life->alive);
    must(what->source.port == (uint16_t)life->generation);
    if (what->kind == RECORD_DELIVERED)
        must(life->entitled && life->proved && !life->recorded);
    if (what->kind == RECORD_CONFIRMED)
        must(life->delivered && life->confirmed);
    if (what->kind == RECORD_REFUSED)
        must(what->reason[0] != '\0' && (!life->proved || life->delivered || !life->entitled));
    return remember(world, ticket, (int)what->kind);
}

static void answer(void *context, const struct keeper_answer *answer)
{
    struct world *world = context;
    struct life *life = &world->lives[answer->handshake];
    must(answer->len > 0 && answer->len <= MESSAGE_MAX);
    must(life->alive && !life->ended);
    life->ended = answer->last == 1;
    if (answer->message[0] == DELIVERY_MARK) {
        must(life->entitled && life->proved && life->recorded && !life->delivered);
        must(answer->message[1] == secret_of(world, answer->handshake) && !life->ended);
        life->delivered = 1;
    }
    if (answer->message[0] == DONE_TAG)
        must(life->delivered && life->confirmed && life->finished && life->ended);
    if (life->ended)
        life->alive = 0;
}

/* --- moves --- */

/* A request other than hello begins a life that its answer ends at once. */
static void begin(struct world *world, struct life *life)
{
    if (!life->alive)
        *life = (struct life){
            .generation = life->generation + 1, .alive = 1, .since_ms = world->now_ms};
}

static void move_request(struct world *world)
{
    size_t number = next(world) % NUMBERS;
    struct keeper_request request = {.handshake = number, .kind = 1 + next(world) % 5};
    struct life *life = &world->lives[number];
    uint8_t error = next(world) % 4 == 3; /* most are right: the way is long */
    uint8_t secret = secret_of(world, number) ^ error;
    if (request.kind == REQUEST_ABANDON)
        life->alive = 0;
    else
        begin(world, life);
    if (request.kind == REQUEST_HELLO) {
        strcpy(request.hello.sn, "SN");
        request.hello.rnd1[0] = (uint8_t)number;
        request.source.port = (uint16_t)life->generation;
    } else if (request.kind == REQUEST_PROOF) {
        request.proof.c2_len = 1;
        request.proof.c2[0] = secret;
        life->proved |= !error;
    } else if (request.kind == REQUEST_CONFIRM) {
        request.confirm.mac_len = 1;
        request.confirm.mac[0] = secret;
        life->confirmed |= !error;
    }
    handshakes_request(world->handshakes, &request, world->now_ms);
}

/* The newest as often as any other, which is most likely late, or comes the second time. */
static struct work *choose_work(struct world *world)
{
    uint8_t choice = next(world);
    return &world->work[choice < 128 ? world->works - 1 : choice % world->works];
}

static void move_result(struct world *world)
{
    if (world->works == 0)
        return;
    struct work *work = choose_work(world);
    struct life *life = &world->lives[work->ticket.handshake];
    uint8_t secret = secret_of(world, work->ticket.handshake);
    int rc = outcome(world);
    int counts = !work->used && life->alive && life->generation == work->generation;
    work->used = 1;
    if (work->kind == PREPARATION) {
        struct offer offer = {
            .tmk.version = 1, .c2_len = 1, .c2 = {secret}, .mac_len = 1, .mac = {secret}};
        offer.reason[0] = next(world) % 4 == 3 ? 'r' : '\0';
        offer.challenge_len = offer.delivery_len = 2;
        memcpy(offer.challenge, (const uint8_t[]){CHALLENGE_MARK, secret}, 2);
        memcpy(offer.delivery, (const uint8_t[]){DELIVERY_MARK, secret}, 2);
        if (counts && rc == 0) {
            life->entitled = offer.reason[0] == '\0';
            life->proved = 0;
        }
        handshakes_prepared(world->handshakes, work->ticket, rc, &offer);
    } else {
        life->recorded |= counts && rc == 0 && work->kind == RECORD_DELIVERED;
        life->finished |= counts && rc == 0 && work->kind == RECORD_CONFIRMED;
        handshakes_recorded(world->handshakes, work->ticket, rc);
    }
}

static void move_time(struct world *world)
{
    world->now_ms += next(world);
    handshakes_expire(world->handshakes, world->now_ms);
    for (size_t i = 0; i < NUMBERS; i++)
        if (world->now_ms - world->lives[i].since_ms > LIFETIME_MS)
            world->lives[i].alive = 0;
}

static void move_rarely(struct world *world)
{
    switch (next(world) % 64) {
    case 0:
        handshakes_stop(world->handshakes);
        world->stopped = 1;
        break;
    case 1:
        handshakes_forget(world->handshakes);
        for (size_t i = 0; i < NUMBERS; i++)
            world->lives[i].alive = 0;
        break;
    default:
        move_time(world);
        break;
    }
}

static void move(struct world *world)
{
    uint8_t what = next(world) % 8;
    if (what < 4)
        move_request(world);
    else if (what < 7)
        move_result(world);
    else
        move_rarely(world);
}

static size_t count_alive(const struct world *world)
{
    size_t count = 0;
    for (size_t i = 0; i < NUMBERS; i++)
        count += world->lives[i].alive != 0;
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world world = {.data = data, .left = size};
    const struct handshake_doors doors = {&world, prepare, record, answer};
    must(handshakes_new(&doors, 1, LIFETIME_MS, &world.handshakes) == 0);
    while (world.left > 0) {
        move(&world);
        must(handshakes_count(world.handshakes) == count_alive(&world));
    }
    handshakes_free(world.handshakes);
    return 0;
}
