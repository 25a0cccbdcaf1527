#ifndef TMKD_CREW_H
#define TMKD_CREW_H

/*
 * The keeper's threads. Workers do token and database work, each with a token session and a
 * database connection of its own. One writer makes all changes: whatever waits for it goes into
 * one transaction, with one seal of the audit log and one commit (group commit), and no job is
 * done before that commit is durable.
 *
 * A job goes from the loop to a thread and comes back to the loop; nothing else is shared.
 */

#include "common/conf.h"
#include "tmkd/vault.h"

/* What a thread works with. */
struct station {
    struct vault *vault;
    struct token_session *session;
    struct registry *registry; /* a worker's reads only; the writer's is in a transaction */
};

enum { JOB_SENTENCE_MAX = 512 };

struct job {
    struct job *next;
    /* In the thread. 0 or an error, whose sentence comes along. In the writer an error undoes
     * what this job changed and nothing else. */
    int (*work)(struct job *job, struct station *station);
    /* Back in the loop, with rc and sentence; frees the job. */
    void (*done)(struct job *job);
    int rc;
    char sentence[JOB_SENTENCE_MAX];
};

struct crew;

/* Threads run when it returns 0. vault must outlive the crew. */
int crew_start(const struct conf *conf, struct vault *vault, struct crew **ret_crew);

/* Ends the threads; jobs that still wait come back with FAIL_BUSY through their done(). */
void crew_stop(struct crew *crew);

/* Gives a job to the workers, or to the writer. FAIL_BUSY when conf->limits.queue jobs wait there
 * already; the job stays the caller's then. */
int crew_submit(struct crew *crew, struct job *job);
int crew_write(struct crew *crew, struct job *job);

/* Readable when jobs are back; crew_collect() then runs their done(). */
int crew_fd(const struct crew *crew);
void crew_collect(struct crew *crew);

/* Jobs that are not back yet. For the loop's thread only, as are the calls above. */
size_t crew_pending(const struct crew *crew);

#endif
