#ifndef TMKD_HANDSHAKE_H
#define TMKD_HANDSHAKE_H

/*
 * The handshakes of the keeper (patent S302 to S309 and the confirmation): which step each is at
 * and what may come next. No sockets, no clock, no threads: requests, results and times come in,
 * work and answers go out through struct handshake_doors.
 *
 *     hello ----> doors.prepare ----> handshakes_prepared ----> challenge
 *     proof ----> doors.record  ----> handshakes_recorded ----> delivery, or failure rejected
 *     confirm --> doors.record  ----> handshakes_recorded ----> done
 *
 * Ctmk stays here until C2' has matched and its delivery is on record. One who may not download
 * goes the same way, with a decoy, and is refused after proof like one whose C2' is wrong.
 */

#include <stddef.h>
#include <stdint.h>

#include "tmkd/house.h"

enum { REASON_MAX = 96, DELIVERY_DER_MAX = 768 };

/* What S303 prepared for one hello. */
struct offer {
    char reason[REASON_MAX]; /* why this SN may not download; empty when it may */
    int64_t row_version;     /* of the terminal as it was looked up */
    struct tmk_info tmk;
    size_t c2_len;
    uint8_t c2[RSA_BLOCK_MAX];
    size_t mac_len;
    uint8_t mac[MAC_MAX]; /* confirm.mac as the token computed it with the TMK */
    size_t delivery_len;
    uint8_t delivery[DELIVERY_DER_MAX]; /* the Message to send once C2' has matched */
    size_t challenge_len;
    uint8_t challenge[MESSAGE_MAX]; /* the Message to send now */
};

enum record_kind { RECORD_DELIVERED, RECORD_CONFIRMED, RECORD_REFUSED };

/* What must be durable before the answer goes out. */
struct record {
    enum record_kind kind;
    char sn[SN_MAX + 1];
    struct source source;
    int64_t row_version;
    struct tmk_info tmk;
    char reason[REASON_MAX]; /* RECORD_REFUSED */
};

/* Names one piece of work, so that its result finds the handshake that asked for it and no other,
 * whatever numbers the listener uses again. */
struct ticket {
    uint64_t handshake;
    uint64_t serial; /* never used twice */
};

struct handshake_doors {
    void *context;
    /* Starts S303 for a hello; handshakes_prepared() follows. FAIL_BUSY: no room for the work. */
    int (*prepare)(void *context, struct ticket ticket, const struct hello *hello);
    /* Starts writing a record; handshakes_recorded() follows. FAIL_BUSY as above. */
    int (*record)(void *context, struct ticket ticket, const struct record *record);
    /* Sends to the listener. */
    void (*answer)(void *context, const struct keeper_answer *answer);
};

struct handshakes;

/* retry_after: seconds told with busy. lifetime_ms: a handshake older than that is forgotten. */
int handshakes_new(const struct handshake_doors *doors, unsigned retry_after, int64_t lifetime_ms,
                   struct handshakes **ret_handshakes);
void handshakes_free(struct handshakes *handshakes); /* accepts NULL, wipes */

/* One request of the listener. now_ms: monotonic. A request that does not fit the handshake's
 * step ends it with failure malformed. */
void handshakes_request(struct handshakes *handshakes, const struct keeper_request *request,
                        int64_t now_ms);

/* S303 is done (rc 0) or failed. A handshake that is gone by now is ignored. */
void handshakes_prepared(struct handshakes *handshakes, struct ticket ticket, int rc,
                         const struct offer *offer);

/* The record is durable (rc 0), or was refused because the terminal changed meanwhile
 * (FAIL_REFUSED), or failed. */
void handshakes_recorded(struct handshakes *handshakes, struct ticket ticket, int rc);

/* Forgets those that are over their lifetime. */
void handshakes_expire(struct handshakes *handshakes, int64_t now_ms);

/* From now on each hello is answered busy. */
void handshakes_stop(struct handshakes *handshakes);

/* Forgets all: their listener is gone. */
void handshakes_forget(struct handshakes *handshakes);

size_t handshakes_count(const struct handshakes *handshakes);

#endif
