#include "tmkd/keeper.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <event2/event.h>
#include <openssl/crypto.h>
#include <utlist.h>

#include "common/clock.h"
#include "common/conf.h"
#include "common/fail.h"
#include "common/log.h"
#include "tmkd/cage.h"
#include "tmkd/control.h"
#include "tmkd/crew.h"
#include "tmkd/handshake.h"
#include "tmkd/house.h"
#include "tmkd/issuance.h"
#include "tmkd/kswcrt.h"
#include "tmkd/lock.h"
#include "tmkd/prepare.h"
#include "tmkd/record.h"

enum {
    EXIT_STOPPED = 0,
    EXIT_FAILED = 1,
    EXIT_REFUSED = 2,
    REQUESTS_A_TURN = 64, /* before other events have theirs */
    TICK_MS = 500,
};

/* An answer that waits for room in the channel. */
struct waiting {
    struct waiting *next;
    struct keeper_answer answer;
};

struct keeper {
    struct conf *conf;
    struct vault vault;
    struct crew *crew;
    struct control *control;
    struct handshakes *handshakes;
    struct event_base *base;
    struct event *house;
    struct event *back; /* jobs that came back */
    struct event *tick;
    struct event *requests; /* on the channel; NULL without one */
    struct event *room;
    int channel;
    struct waiting *waiting; /* oldest first */
    int lock;
    int stopping;
    int status;
};

static void end(struct keeper *keeper, int status)
{
    keeper->status = status;
    event_base_loopbreak(keeper->base);
}

static void free_event(struct event *event)
{
    if (event)
        event_free(event);
}

/* --- the channel to the listener --- */

static void close_channel(struct keeper *keeper)
{
    struct waiting *waiting;
    struct waiting *next;
    if (keeper->channel < 0)
        return;
    free_event(keeper->requests);
    free_event(keeper->room);
    keeper->requests = keeper->room = NULL;
    close(keeper->channel);
    keeper->channel = -1;
    LL_FOREACH_SAFE(keeper->waiting, waiting, next)
    free(waiting);
    keeper->waiting = NULL;
    handshakes_forget(keeper->handshakes);
}

/* A listener that has ended is started again, and brings a new channel. One that lives, but on a
 * channel that cannot be used, would wait for ever: a new one comes with a new keeper only. */
static void lose_channel(struct keeper *keeper, int rc)
{
    if (rc != FAIL_CLOSED) {
        log_error("%s; this keeper ends, a new one takes over", fail_text());
        end(keeper, EXIT_FAILED);
    }
    close_channel(keeper);
}

static void wait_for_room(struct keeper *keeper, const struct keeper_answer *answer)
{
    struct waiting *waiting = calloc(1, sizeof(*waiting));
    if (!waiting) {
        lose_channel(keeper, fail(FAIL_MEMORY, "no memory for an answer"));
        return;
    }
    waiting->answer = *answer;
    LL_APPEND(keeper->waiting, waiting);
    event_add(keeper->room, NULL);
    event_del(keeper->requests); /* who does not take his answers asks for no more */
}

static void send_answer(void *context, const struct keeper_answer *answer)
{
    struct keeper *keeper = context;
    if (keeper->channel < 0)
        return;
    int rc = keeper->waiting ? FAIL_BUSY : channel_send_answer(keeper->channel, answer);
    if (rc == FAIL_BUSY)
        wait_for_room(keeper, answer);
    else if (rc < 0)
        lose_channel(keeper, rc);
}

static void on_room(evutil_socket_t fd, short what, void *context)
{
    struct keeper *keeper = context;
    (void)what;
    while (keeper->waiting) {
        struct waiting *first = keeper->waiting;
        int rc = channel_send_answer(fd, &first->answer);
        if (rc == FAIL_BUSY) {
            event_add(keeper->room, NULL);
            return;
        }
        if (rc < 0) {
            lose_channel(keeper, rc);
            return;
        }
        LL_DELETE(keeper->waiting, first);
        free(first);
    }
    event_add(keeper->requests, NULL);
}

static void on_request(evutil_socket_t fd, short what, void *context)
{
    struct keeper *keeper = context;
    struct keeper_request request;
    (void)what;
    for (int i = 0; i < REQUESTS_A_TURN && keeper->channel == fd && !keeper->waiting; i++) {
        int rc = channel_receive_request(fd, &request);
        if (rc == FAIL_BUSY)
            return;
        if (rc < 0) {
            lose_channel(keeper, rc);
            return;
        }
        handshakes_request(keeper->handshakes, &request, clock_ms());
    }
}

/* A certificate that is out of its time is served all the same: the terminals judge it, by their
 * own clocks, and the operator is told. */
static int check_chain(struct keeper *keeper)
{
    struct cert_chain chain;
    vault_chain(&keeper->vault, &chain);
    if (chain.count == 0)
        return fail(FAIL_CONFIG,
                    "the token has no KSWCRT: take the output of 'tmkctl cert request' "
                    "to your CA, and 'tmkctl cert install' what it gives");
    if (kswcrt_check(&chain, time(NULL)) < 0)
        log_warning("terminals will refuse this server: %s", fail_text());
    return 0;
}

static int open_channel(struct keeper *keeper, int fd)
{
    int rc = check_chain(keeper);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    close_channel(keeper);
    evutil_make_socket_nonblocking(fd);
    keeper->channel = fd;
    keeper->requests = event_new(keeper->base, fd, EV_READ | EV_PERSIST, on_request, keeper);
    keeper->room = event_new(keeper->base, fd, EV_WRITE, on_room, keeper);
    if (!keeper->requests || !keeper->room || event_add(keeper->requests, NULL) < 0)
        return fail(FAIL_MEMORY, "no memory for the channel");
    return 0;
}

/* --- work for handshakes --- */

struct prepare_job {
    struct job job;
    struct keeper *keeper;
    struct ticket ticket;
    struct hello hello;
    struct offer offer;
};

static int work_prepare(struct job *job, struct station *station)
{
    struct prepare_job *prepare = (struct prepare_job *)job;
    return prepare_offer(station->vault, station->session, station->registry, &prepare->hello,
                         &prepare->offer);
}

static void prepared(struct job *job)
{
    struct prepare_job *prepare = (struct prepare_job *)job;
    if (job->rc < 0 && job->rc != FAIL_BUSY)
        log_error("download for SN %s: %s", prepare->hello.sn, job->sentence);
    handshakes_prepared(prepare->keeper->handshakes, prepare->ticket, job->rc, &prepare->offer);
    OPENSSL_clear_free(prepare, sizeof(*prepare));
}

static int start_prepare(void *context, struct ticket ticket, const struct hello *hello)
{
    struct keeper *keeper = context;
    struct prepare_job *prepare = OPENSSL_zalloc(sizeof(*prepare));
    if (!prepare)
        return fail(FAIL_MEMORY, "no memory for a handshake");
    prepare->job.work = work_prepare;
    prepare->job.done = prepared;
    prepare->keeper = keeper;
    prepare->ticket = ticket;
    prepare->hello = *hello;
    int rc = crew_submit(keeper->crew, &prepare->job);
    if (rc < 0)
        OPENSSL_free(prepare);
    return rc;
}

struct record_job {
    struct job job;
    struct keeper *keeper;
    struct ticket ticket;
    struct record record;
    int refused;
    struct retired retired; /* by a confirmation: the versions before it */
};

static int work_record(struct job *job, struct station *station)
{
    struct record_job *job_record = (struct record_job *)job;
    const struct record *record = &job_record->record;
    int rc = record_write(record, station->registry, time(NULL), station->vault->redeliver_always,
                          &job_record->refused);
    if (rc == 0 && record->kind == RECORD_CONFIRMED)
        rc = retired_collect(station, record->sn, record->tmk.version, &job_record->retired);
    return rc;
}

static int work_retire(struct job *job, struct station *station)
{
    return retired_destroy(&((struct record_job *)job)->retired, station);
}

static void retired(struct job *job)
{
    if (job->rc < 0)
        log_warning("an older TMK of SN %s stays in the token: %s",
                    ((struct record_job *)job)->record.sn, job->sentence);
    free(job);
}

static void recorded(struct job *job)
{
    struct record_job *record = (struct record_job *)job;
    if (job->rc < 0 && job->rc != FAIL_BUSY)
        log_error("record for SN %s: %s", record->record.sn, job->sentence);
    int rc = job->rc == 0 && record->refused ? FAIL_REFUSED : job->rc;
    handshakes_recorded(record->keeper->handshakes, record->ticket, rc);
    job->work = work_retire;
    job->done = retired;
    if (rc < 0 || record->retired.count == 0 || crew_submit(record->keeper->crew, job) < 0)
        free(record);
}

static int start_record(void *context, struct ticket ticket, const struct record *what)
{
    struct keeper *keeper = context;
    struct record_job *record = calloc(1, sizeof(*record));
    if (!record)
        return fail(FAIL_MEMORY, "no memory for a record");
    record->job.work = work_record;
    record->job.done = recorded;
    record->keeper = keeper;
    record->ticket = ticket;
    record->record = *what;
    int rc = crew_write(keeper->crew, &record->job);
    if (rc < 0)
        free(record);
    return rc;
}

/* --- the supervisor --- */

static void peer_gone(void *context)
{
    end(context, EXIT_STOPPED);
}

static void stop(struct keeper *keeper)
{
    keeper->stopping = 1;
    handshakes_stop(keeper->handshakes);
}

static int say_ready(void)
{
    return house_send_kind(HOUSE_FD, HOUSE_READY, -1);
}

static int obey(struct keeper *keeper, const struct house_message *message, int fd)
{
    int rc = FAIL_MALFORMED;
    switch (message->kind) {
    case HOUSE_CONTROL:
        return control_add_listener(keeper->control, fd);
    case HOUSE_CONTROL_PEER:
        rc = control_add_peer(keeper->control, fd, peer_gone, keeper);
        return rc < 0 ? rc : say_ready();
    case HOUSE_CHANNEL:
        rc = open_channel(keeper, fd);
        return rc < 0 ? rc : say_ready();
    case HOUSE_STOP:
        stop(keeper);
        return 0;
    default:
        return fail(FAIL_MALFORMED, "the supervisor sent a message that is not for a keeper");
    }
}

static void on_house(evutil_socket_t fd, short what, void *context)
{
    struct keeper *keeper = context;
    struct house_message message;
    int passed = -1;
    (void)what;
    int rc = house_receive(fd, &message, &passed);
    if (rc == FAIL_BUSY)
        return;
    if (rc == 0)
        rc = obey(keeper, &message, passed);
    else if (rc == FAIL_CLOSED)
        end(keeper, EXIT_STOPPED); /* the supervisor is gone, and so are we */
    if (rc < 0 && rc != FAIL_CLOSED) {
        if (house_refuse(fd) < 0)
            log_error("%s", fail_text());
        end(keeper, EXIT_REFUSED);
    }
}

/* --- time, and the way back of jobs --- */

static void end_when_idle(struct keeper *keeper)
{
    if (keeper->stopping && handshakes_count(keeper->handshakes) == 0 &&
        crew_pending(keeper->crew) == 0 && !keeper->waiting)
        end(keeper, EXIT_STOPPED);
}

static void on_tick(evutil_socket_t fd, short what, void *context)
{
    struct keeper *keeper = context;
    (void)fd;
    (void)what;
    handshakes_expire(keeper->handshakes, clock_ms());
    end_when_idle(keeper);
}

static void on_back(evutil_socket_t fd, short what, void *context)
{
    struct keeper *keeper = context;
    (void)fd;
    (void)what;
    crew_collect(keeper->crew);
    end_when_idle(keeper);
}

/* --- start and end --- */

static int make_events(struct keeper *keeper)
{
    const struct timeval tick = {.tv_usec = TICK_MS * 1000};
    keeper->house = event_new(keeper->base, HOUSE_FD, EV_READ | EV_PERSIST, on_house, keeper);
    keeper->back =
        event_new(keeper->base, crew_fd(keeper->crew), EV_READ | EV_PERSIST, on_back, keeper);
    keeper->tick = event_new(keeper->base, -1, EV_PERSIST, on_tick, keeper);
    if (!keeper->house || !keeper->back || !keeper->tick || event_add(keeper->house, NULL) < 0 ||
        event_add(keeper->back, NULL) < 0 || event_add(keeper->tick, &tick) < 0)
        return fail(FAIL_MEMORY, "no memory for the keeper's events");
    return 0;
}

static int open_rooms(struct keeper *keeper)
{
    const struct handshake_doors doors = {
        .context = keeper,
        .prepare = start_prepare,
        .record = start_record,
        .answer = send_answer,
    };
    const struct conf *conf = keeper->conf;
    int rc = FAIL_MEMORY;
    if ((rc = vault_open(conf, &keeper->vault)) < 0 ||
        (rc = crew_start(conf, &keeper->vault, &keeper->crew)) < 0 ||
        (rc = handshakes_new(&doors, conf->limits.retry_after_seconds,
                             1000L * conf->limits.handshake_seconds, &keeper->handshakes)) < 0)
        return rc;
    if (!(keeper->base = event_base_new()))
        return fail(FAIL_MEMORY, "no memory for the keeper's loop");
    if ((rc = control_new(keeper->base, conf, keeper->crew, &keeper->control)) < 0)
        return rc;
    return make_events(keeper);
}

/* The first message tells whether this keeper is tmkctl's own: then no tmkd may be running, whose
 * supervisor would hold the lock. */
static int open_keeper(struct keeper *keeper)
{
    struct house_message first;
    int passed = -1;
    int rc = house_receive(HOUSE_FD, &first, &passed);
    if (rc == 0 && first.kind == HOUSE_CONTROL_PEER)
        rc = lock_take(keeper->conf->registry, &keeper->lock);
    if (rc == 0)
        rc = open_rooms(keeper);
    if (rc == 0)
        rc = obey(keeper, &first, passed);
    if (rc == 0)
        evutil_make_socket_nonblocking(HOUSE_FD);
    return rc;
}

static void close_keeper(struct keeper *keeper)
{
    crew_stop(keeper->crew);
    keeper->crew = NULL;
    if (keeper->handshakes)
        close_channel(keeper);
    control_free(keeper->control);
    free_event(keeper->house);
    free_event(keeper->back);
    free_event(keeper->tick);
    if (keeper->base)
        event_base_free(keeper->base);
    handshakes_free(keeper->handshakes);
    vault_close(&keeper->vault);
    if (keeper->lock >= 0)
        close(keeper->lock);
    conf_free(keeper->conf);
}

int keeper_run(const char *conf_path)
{
    struct keeper keeper = {.channel = -1, .lock = -1};
    signal(SIGINT, SIG_IGN); /* Ctrl-C goes to the whole group; the supervisor decides */
    signal(SIGTERM, SIG_IGN);
    log_open("tmkd keeper", LOG_INFO);
    int rc = conf_read(conf_path, &keeper.conf);
    if (rc == 0) {
        log_open("tmkd keeper", keeper.conf->log_level);
        rc = cage_settle(keeper.conf->users.keeper); /* before the module comes */
    }
    if (rc == 0)
        rc = open_keeper(&keeper);
    if (rc < 0) {
        if (house_refuse(HOUSE_FD) < 0)
            log_error("%s", fail_text());
        keeper.status = EXIT_REFUSED;
    } else if (event_base_dispatch(keeper.base) < 0) {
        keeper.status = EXIT_FAILED;
    }
    close_keeper(&keeper);
    return keeper.status;
}
