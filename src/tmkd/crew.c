#include "tmkd/crew.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <utlist.h>

#include "common/fail.h"
#include "common/log.h"
#include "hsm/c1.h"
#include "hsm/seal.h"
#include "tmkd/audit_key.h"

enum { KEEPER_GIVES_UP = 3 };

/* Jobs on their way to threads, the oldest first. */
struct queue {
    pthread_mutex_t lock;
    pthread_cond_t filled;
    struct job *first;
    struct job *last;
    size_t count;
    size_t most;
    int closed;
};

struct member {
    pthread_t thread;
    struct crew *crew;
    struct station station;
};

struct crew {
    struct queue for_workers;
    struct queue for_writer;
    pthread_mutex_t back_lock;
    struct job *back; /* newest first */
    int wake;         /* eventfd */
    size_t pending;
    size_t member_count; /* the last one is the writer */
    struct member *members;
};

/* --- queues --- */

static void queue_open(struct queue *queue, size_t most)
{
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->filled, NULL);
    queue->most = most;
}

static int queue_put(struct queue *queue, struct job *job)
{
    int rc = FAIL_BUSY;
    pthread_mutex_lock(&queue->lock);
    if (queue->count < queue->most && !queue->closed) {
        job->next = NULL;
        if (queue->last)
            queue->last->next = job;
        else
            queue->first = job;
        queue->last = job;
        queue->count++;
        rc = 0;
        pthread_cond_signal(&queue->filled);
    }
    pthread_mutex_unlock(&queue->lock);
    return rc < 0 ? fail(FAIL_BUSY, "%zu requests wait already", queue->most) : 0;
}

/* Waits for work, then takes one job, or all of them in their order. NULL: the queue is closed. */
static struct job *queue_take(struct queue *queue, int all)
{
    pthread_mutex_lock(&queue->lock);
    while (!queue->first && !queue->closed)
        pthread_cond_wait(&queue->filled, &queue->lock);
    struct job *job = queue->closed ? NULL : queue->first;
    if (job) {
        struct job *rest = all ? NULL : job->next;
        queue->count = all ? 0 : queue->count - 1;
        queue->first = rest;
        if (!rest)
            queue->last = NULL;
        if (!all)
            job->next = NULL;
    }
    pthread_mutex_unlock(&queue->lock);
    return job;
}

/* What still waits is the caller's. */
static struct job *queue_close(struct queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    struct job *rest = queue->first;
    queue->first = queue->last = NULL;
    queue->closed = 1;
    pthread_cond_broadcast(&queue->filled);
    pthread_mutex_unlock(&queue->lock);
    return rest;
}

static void queue_destroy(struct queue *queue)
{
    pthread_cond_destroy(&queue->filled);
    pthread_mutex_destroy(&queue->lock);
}

/* --- the way back --- */

/* Wakes the loop only when nothing was waiting for it already. */
static void give_back(struct crew *crew, struct job *job)
{
    const uint64_t one = 1;
    pthread_mutex_lock(&crew->back_lock);
    int was_empty = crew->back == NULL;
    job->next = crew->back;
    crew->back = job;
    pthread_mutex_unlock(&crew->back_lock);
    if (was_empty && write(crew->wake, &one, sizeof(one)) < 0)
        log_error("cannot wake the keeper's loop: %s", strerror(errno));
}

static void set_result(struct job *job, int rc)
{
    job->rc = rc;
    if (rc < 0)
        snprintf(job->sentence, sizeof(job->sentence), "%s", fail_text());
}

/* Crash-only: what a new session does not cure, a new keeper does; the supervisor starts it. */
static void give_up(const char *sentence)
{
    log_error("%s; this keeper ends, a new one takes over", sentence);
    _exit(KEEPER_GIVES_UP);
}

/* A lost session is opened again, once. */
static void reopen(struct station *station)
{
    log_warning("%s; opening a new session", fail_text());
    token_session_close(station->session);
    station->session = NULL;
    if (token_session_open(station->vault->token, &station->session) < 0)
        give_up(fail_text());
}

/* Whether SEAL and PrKS still do their job. */
static int keys_work(const struct station *station)
{
    static const uint8_t m1[M1_LEN] = "TMKD-SELF-CHECK";
    const struct keyring *keyring = &station->vault->keyring;
    uint8_t mac[SEAL_MAC_LEN];
    uint8_t c1[RSA_BLOCK_MAX];
    size_t len;
    return seal_make(station->session, keyring->seal, m1, sizeof(m1), mac) == 0 &&
           c1_sign(station->session, keyring, m1, c1, &len) == 0;
}

/* One call may fail for a reason of its own; but once SoftHSM was out of descriptors its keys fail
 * for ever (design 12). */
static void give_up_if_keys_fail(const struct station *station, int rc)
{
    if (rc == FAIL_TOKEN && !keys_work(station))
        give_up(fail_text());
}

/* --- workers --- */

static void *run_worker(void *argument)
{
    struct member *member = argument;
    struct job *job;
    while ((job = queue_take(&member->crew->for_workers, 0)) != NULL) {
        int rc = job->work(job, &member->station);
        if (rc == FAIL_TOKEN_LOST) {
            reopen(&member->station);
            rc = job->work(job, &member->station);
        }
        if (rc == FAIL_TOKEN_LOST)
            give_up(fail_text());
        set_result(job, rc);
        give_up_if_keys_fail(&member->station, rc);
        give_back(member->crew, job);
    }
    return NULL;
}

/* --- the writer --- */

/* A lost session is opened again for the jobs to come. This one is not done twice: what it did in
 * the token is not undone with its part. */
static void write_part(struct job *job, struct station *station)
{
    int rc = registry_part_begin(station->registry);
    if (rc == 0 && (rc = job->work(job, station)) == 0)
        rc = registry_part_keep(station->registry);
    set_result(job, rc);
    if (rc < 0)
        registry_part_undo(station->registry);
    if (rc == FAIL_TOKEN_LOST)
        reopen(station);
    give_up_if_keys_fail(station, rc);
}

static int seal(struct station *station)
{
    struct audit_key key = {station->session, station->vault->keyring.audit};
    return audit_seal(station->registry, audit_key_seal, &key);
}

static int seal_and_commit(struct station *station)
{
    int rc = seal(station);
    if (rc == FAIL_TOKEN_LOST) {
        reopen(station);
        rc = seal(station);
    }
    if (rc == FAIL_TOKEN_LOST || rc == FAIL_TOKEN) /* without AUDIT nothing can be recorded */
        give_up(fail_text());
    return rc < 0 ? rc : registry_commit(station->registry);
}

static void write_all(struct job *jobs, struct station *station)
{
    int rc = registry_begin(station->registry);
    for (struct job *job = jobs; job && rc == 0; job = job->next)
        write_part(job, station);
    if (rc == 0 && (rc = seal_and_commit(station)) < 0)
        registry_rollback(station->registry);
    if (rc == 0)
        return;
    log_error("nothing was written: %s", fail_text());
    for (struct job *job = jobs; job; job = job->next)
        set_result(job, rc);
}

static void *run_writer(void *argument)
{
    struct member *member = argument;
    struct job *jobs;
    while ((jobs = queue_take(&member->crew->for_writer, 1)) != NULL) {
        struct job *job;
        struct job *next;
        write_all(jobs, &member->station);
        LL_FOREACH_SAFE(jobs, job, next)
        give_back(member->crew, job);
    }
    return NULL;
}

/* --- the crew --- */

static int open_station(const struct conf *conf, struct vault *vault, enum registry_mode mode,
                        struct station *station)
{
    station->vault = vault;
    int rc = token_session_open(vault->token, &station->session);
    return rc < 0 ? rc : registry_open(conf->registry, mode, &station->registry);
}

static int start_member(struct crew *crew, const struct conf *conf, struct vault *vault,
                        int is_writer)
{
    struct member *member = &crew->members[crew->member_count++];
    member->crew = crew;
    int rc =
        open_station(conf, vault, is_writer ? REGISTRY_WRITE : REGISTRY_READ, &member->station);
    if (rc == 0 && (errno = pthread_create(&member->thread, NULL,
                                           is_writer ? run_writer : run_worker, member)) != 0)
        rc = fail_system("cannot start a thread");
    if (rc < 0) {
        token_session_close(member->station.session);
        registry_close(member->station.registry);
        crew->member_count--;
    }
    return rc;
}

int crew_start(const struct conf *conf, struct vault *vault, struct crew **ret_crew)
{
    int rc = FAIL_MEMORY;
    struct crew *crew = calloc(1, sizeof(*crew));
    if (!crew || !(crew->members = calloc(conf->token.sessions + 1, sizeof(*crew->members)))) {
        free(crew);
        return fail(FAIL_MEMORY, "no memory for the keeper's threads");
    }
    pthread_mutex_init(&crew->back_lock, NULL);
    queue_open(&crew->for_workers, conf->limits.queue);
    queue_open(&crew->for_writer, conf->limits.queue);
    if ((crew->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
        rc = fail_system("cannot make an eventfd");
    else
        rc = start_member(crew, conf, vault, 1); /* first: it brings the schema up to date */
    for (size_t i = 0; i < conf->token.sessions && rc == 0; i++)
        rc = start_member(crew, conf, vault, 0);
    if (rc < 0) {
        crew_stop(crew);
        return rc;
    }
    *ret_crew = crew;
    return 0;
}

static void return_unworked(struct crew *crew, struct job *jobs)
{
    struct job *job;
    struct job *next;
    LL_FOREACH_SAFE(jobs, job, next)
    {
        set_result(job, fail(FAIL_BUSY, "the keeper stops"));
        give_back(crew, job);
    }
}

void crew_stop(struct crew *crew)
{
    if (!crew)
        return;
    return_unworked(crew, queue_close(&crew->for_workers));
    return_unworked(crew, queue_close(&crew->for_writer));
    for (size_t i = 0; i < crew->member_count; i++) {
        pthread_join(crew->members[i].thread, NULL);
        token_session_close(crew->members[i].station.session);
        registry_close(crew->members[i].station.registry);
    }
    crew_collect(crew);
    queue_destroy(&crew->for_workers);
    queue_destroy(&crew->for_writer);
    pthread_mutex_destroy(&crew->back_lock);
    if (crew->wake >= 0)
        close(crew->wake);
    free(crew->members);
    free(crew);
}

int crew_submit(struct crew *crew, struct job *job)
{
    int rc = queue_put(&crew->for_workers, job);
    crew->pending += rc == 0;
    return rc;
}

int crew_write(struct crew *crew, struct job *job)
{
    int rc = queue_put(&crew->for_writer, job);
    crew->pending += rc == 0;
    return rc;
}

int crew_fd(const struct crew *crew)
{
    return crew->wake;
}

size_t crew_pending(const struct crew *crew)
{
    return crew->pending;
}

void crew_collect(struct crew *crew)
{
    uint64_t count;
    struct job *job;
    struct job *next;
    if (read(crew->wake, &count, sizeof(count)) < 0 && errno != EAGAIN)
        log_error("cannot read the keeper's eventfd: %s", strerror(errno));
    pthread_mutex_lock(&crew->back_lock);
    struct job *back = crew->back;
    crew->back = NULL;
    pthread_mutex_unlock(&crew->back_lock);
    LL_FOREACH_SAFE(back, job, next)
    {
        crew->pending--;
        job->done(job);
    }
}
