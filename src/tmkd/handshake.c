#include "tmkd/handshake.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <uthash.h>

#include "common/fail.h"

enum step {
    STEP_PREPARING,  /* S303 is at work; nothing may come */
    STEP_CHALLENGED, /* waits for proof */
    STEP_PROVED,     /* C2' matched; the delivery is being recorded */
    STEP_DELIVERED,  /* waits for confirm */
    STEP_CONFIRMED,  /* the MAC matched; being recorded */
    STEP_REFUSED,    /* the refusal is being recorded */
};

struct handshake {
    UT_hash_handle hh;
    uint64_t number;
    uint64_t awaited; /* the ticket whose result comes next; 0: none */
    enum step step;
    int64_t since_ms;
    char sn[SN_MAX + 1];
    struct source source;
    char reason[REASON_MAX];
    int64_t row_version;
    struct tmk_info tmk;
    size_t c2_len;
    uint8_t c2[RSA_BLOCK_MAX];
    size_t mac_len;
    uint8_t mac[MAC_MAX];
    size_t delivery_len;
    uint8_t delivery[DELIVERY_DER_MAX];
};

struct handshakes {
    struct handshake_doors doors;
    unsigned retry_after;
    int64_t lifetime_ms;
    int stopping;
    uint64_t tickets; /* given out so far */
    struct handshake *table;
};

int handshakes_new(const struct handshake_doors *doors, unsigned retry_after, int64_t lifetime_ms,
                   struct handshakes **ret_handshakes)
{
    struct handshakes *handshakes = calloc(1, sizeof(*handshakes));
    if (!handshakes)
        return fail(FAIL_MEMORY, "no memory for the handshakes");
    handshakes->doors = *doors;
    handshakes->retry_after = retry_after;
    handshakes->lifetime_ms = lifetime_ms;
    *ret_handshakes = handshakes;
    return 0;
}

static void forget(struct handshakes *handshakes, struct handshake *handshake)
{
    HASH_DEL(handshakes->table, handshake);
    OPENSSL_clear_free(handshake, sizeof(*handshake));
}

void handshakes_forget(struct handshakes *handshakes)
{
    struct handshake *handshake;
    struct handshake *next;
    HASH_ITER(hh, handshakes->table, handshake, next)
    forget(handshakes, handshake);
}

void handshakes_free(struct handshakes *handshakes)
{
    if (!handshakes)
        return;
    handshakes_forget(handshakes);
    free(handshakes);
}

size_t handshakes_count(const struct handshakes *handshakes)
{
    return HASH_COUNT(handshakes->table);
}

void handshakes_stop(struct handshakes *handshakes)
{
    handshakes->stopping = 1;
}

static struct handshake *find(const struct handshakes *handshakes, uint64_t number)
{
    struct handshake *handshake;
    HASH_FIND(hh, handshakes->table, &number, sizeof(number), handshake);
    return handshake;
}

/* --- answers --- */

static void answer_bytes(struct handshakes *handshakes, uint64_t number, int last,
                         const uint8_t *message, size_t len)
{
    struct keeper_answer answer = {
        .handshake = number, .last = (uint32_t)last, .len = (uint32_t)len};
    memcpy(answer.message, message, len);
    handshakes->doors.answer(handshakes->doors.context, &answer);
}

static void answer_message(struct handshakes *handshakes, uint64_t number,
                           const struct message *message)
{
    uint8_t der[64]; /* Failure and Done are the short ones */
    size_t len;
    if (message_encode(message, der, sizeof(der), &len) == 0)
        answer_bytes(handshakes, number, 1, der, len);
}

static void answer_failure(struct handshakes *handshakes, uint64_t number, enum failure_code code)
{
    struct message message = {
        .type = MESSAGE_FAILURE,
        .failure = {.code = code,
                    .retry_after =
                        code == FAILURE_BUSY ? (int)handshakes->retry_after : RETRY_AFTER_NONE},
    };
    answer_message(handshakes, number, &message);
}

/* The handshake ends here. */
static void refuse(struct handshakes *handshakes, struct handshake *handshake,
                   enum failure_code code)
{
    uint64_t number = handshake->number;
    forget(handshakes, handshake);
    answer_failure(handshakes, number, code);
}

static enum failure_code failure_of(int rc)
{
    switch (rc) {
    case FAIL_REFUSED:
        return FAILURE_REJECTED;
    case FAIL_BUSY:
        return FAILURE_BUSY;
    default:
        return FAILURE_INTERNAL;
    }
}

/* --- requests --- */

static struct ticket new_ticket(struct handshakes *handshakes, struct handshake *handshake)
{
    handshake->awaited = ++handshakes->tickets;
    return (struct ticket){handshake->number, handshake->awaited};
}

static struct handshake *begin(struct handshakes *handshakes, const struct keeper_request *request,
                               int64_t now_ms)
{
    struct handshake *handshake = calloc(1, sizeof(*handshake));
    if (!handshake)
        return NULL;
    handshake->number = request->handshake;
    handshake->step = STEP_PREPARING;
    handshake->since_ms = now_ms;
    handshake->source = request->source;
    memcpy(handshake->sn, request->hello.sn, sizeof(handshake->sn));
    HASH_ADD(hh, handshakes->table, number, sizeof(handshake->number), handshake);
    return handshake;
}

/* S302 */
static void take_hello(struct handshakes *handshakes, const struct keeper_request *request,
                       int64_t now_ms)
{
    struct handshake *handshake = handshakes->stopping ? NULL : begin(handshakes, request, now_ms);
    if (!handshake) {
        answer_failure(handshakes, request->handshake, FAILURE_BUSY);
        return;
    }
    int rc = handshakes->doors.prepare(handshakes->doors.context, new_ticket(handshakes, handshake),
                                       &request->hello);
    if (rc < 0)
        refuse(handshakes, handshake, failure_of(rc));
}

static void start_record(struct handshakes *handshakes, struct handshake *handshake,
                         enum record_kind kind)
{
    struct record record = {
        .kind = kind,
        .source = handshake->source,
        .row_version = handshake->row_version,
        .tmk = handshake->tmk,
    };
    memcpy(record.sn, handshake->sn, sizeof(record.sn));
    memcpy(record.reason, handshake->reason, sizeof(record.reason));
    int rc = handshakes->doors.record(handshakes->doors.context, new_ticket(handshakes, handshake),
                                      &record);
    if (rc < 0)
        refuse(handshakes, handshake, failure_of(rc));
}

static void set_reason(struct handshake *handshake, const char *reason)
{
    snprintf(handshake->reason, sizeof(handshake->reason), "%s", reason);
}

static int equal(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len)
{
    return a_len == b_len && CRYPTO_memcmp(a, b, a_len) == 0;
}

/* S307 to S309. Nothing is sent before the outcome, either one, is on record. */
static void take_proof(struct handshakes *handshakes, struct handshake *handshake,
                       const struct keeper_request *request)
{
    int matches = equal(request->proof.c2, request->proof.c2_len, handshake->c2, handshake->c2_len);
    if (!matches && handshake->reason[0] == '\0')
        set_reason(handshake, "C2' differs from C2");
    int released = matches && handshake->reason[0] == '\0';
    handshake->step = released ? STEP_PROVED : STEP_REFUSED;
    start_record(handshakes, handshake, released ? RECORD_DELIVERED : RECORD_REFUSED);
}

static void take_confirm(struct handshakes *handshakes, struct handshake *handshake,
                         const struct keeper_request *request)
{
    int matches =
        equal(request->confirm.mac, request->confirm.mac_len, handshake->mac, handshake->mac_len);
    if (!matches)
        set_reason(handshake, "the MAC of confirm differs: TKP_Pr is not proved");
    handshake->step = matches ? STEP_CONFIRMED : STEP_REFUSED;
    start_record(handshakes, handshake, matches ? RECORD_CONFIRMED : RECORD_REFUSED);
}

/* What may come when, and what then happens. */
static const struct {
    enum step step;
    enum request_kind kind;
    void (*take)(struct handshakes *, struct handshake *, const struct keeper_request *);
} moves[] = {
    {STEP_CHALLENGED, REQUEST_PROOF, take_proof},
    {STEP_DELIVERED, REQUEST_CONFIRM, take_confirm},
};

static void take_next(struct handshakes *handshakes, struct handshake *handshake,
                      const struct keeper_request *request)
{
    for (size_t i = 0; i < sizeof(moves) / sizeof(moves[0]); i++) {
        if (moves[i].step == handshake->step && moves[i].kind == request->kind) {
            moves[i].take(handshakes, handshake, request);
            return;
        }
    }
    refuse(handshakes, handshake, FAILURE_MALFORMED);
}

void handshakes_request(struct handshakes *handshakes, const struct keeper_request *request,
                        int64_t now_ms)
{
    struct handshake *handshake = find(handshakes, request->handshake);
    if (request->kind == REQUEST_ABANDON) {
        if (handshake)
            forget(handshakes, handshake);
    } else if (handshake)
        take_next(handshakes, handshake, request);
    else if (request->kind == REQUEST_HELLO)
        take_hello(handshakes, request, now_ms);
    else
        answer_failure(handshakes, request->handshake, FAILURE_MALFORMED);
}

/* --- results --- */

/* The handshake that waits for just this result; it waits for it once. */
static struct handshake *redeem(const struct handshakes *handshakes, struct ticket ticket)
{
    struct handshake *handshake = find(handshakes, ticket.handshake);
    if (!handshake || handshake->awaited != ticket.serial)
        return NULL;
    handshake->awaited = 0;
    return handshake;
}

void handshakes_prepared(struct handshakes *handshakes, struct ticket ticket, int rc,
                         const struct offer *offer)
{
    struct handshake *handshake = redeem(handshakes, ticket);
    if (!handshake)
        return;
    if (rc < 0) {
        refuse(handshakes, handshake, rc == FAIL_BUSY ? FAILURE_BUSY : FAILURE_INTERNAL);
        return;
    }
    memcpy(handshake->reason, offer->reason, sizeof(handshake->reason));
    handshake->row_version = offer->row_version;
    handshake->tmk = offer->tmk;
    handshake->c2_len = offer->c2_len;
    memcpy(handshake->c2, offer->c2, sizeof(handshake->c2));
    handshake->mac_len = offer->mac_len;
    memcpy(handshake->mac, offer->mac, sizeof(handshake->mac));
    handshake->delivery_len = offer->delivery_len;
    memcpy(handshake->delivery, offer->delivery, sizeof(handshake->delivery));
    handshake->step = STEP_CHALLENGED;
    answer_bytes(handshakes, handshake->number, 0, offer->challenge, offer->challenge_len);
}

static void finish(struct handshakes *handshakes, struct handshake *handshake)
{
    struct message message = {.type = MESSAGE_DONE, .done = {.version = handshake->tmk.version}};
    uint64_t number = handshake->number;
    forget(handshakes, handshake);
    answer_message(handshakes, number, &message);
}

void handshakes_recorded(struct handshakes *handshakes, struct ticket ticket, int rc)
{
    struct handshake *handshake = redeem(handshakes, ticket);
    if (!handshake)
        return;
    if (rc < 0) {
        refuse(handshakes, handshake, failure_of(rc));
        return;
    }
    switch (handshake->step) {
    case STEP_PROVED:
        handshake->step = STEP_DELIVERED;
        answer_bytes(handshakes, handshake->number, 0, handshake->delivery,
                     handshake->delivery_len);
        break;
    case STEP_CONFIRMED:
        finish(handshakes, handshake);
        break;
    case STEP_REFUSED:
        refuse(handshakes, handshake, FAILURE_REJECTED);
        break;
    default: /* the other steps record nothing */
        break;
    }
}

void handshakes_expire(struct handshakes *handshakes, int64_t now_ms)
{
    struct handshake *handshake;
    struct handshake *next;
    HASH_ITER(hh, handshakes->table, handshake, next)
    if (now_ms - handshake->since_ms > handshakes->lifetime_ms)
        forget(handshakes, handshake);
}
