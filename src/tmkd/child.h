#ifndef TMKD_CHILD_H
#define TMKD_CHILD_H

/*
 * One of the supervisor's processes: started as this same program with --role, started again with
 * back-off when it ends, stopped. Times are milliseconds of any clock that only goes forward.
 */

#include <stdint.h>
#include <sys/types.h>

#include "tmkd/house.h"

enum { CHILD_REFUSED = 2 /* exit status: its configuration is wrong, and it has said why */ };

struct child {
    const char *role;
    const char *conf_path; /* NULL: it is told no path */
    int bare;              /* 1: it gets an empty environment */
    pid_t pid;             /* 0: it does not run */
    int house;             /* the other end of its HOUSE_FD, or -1 */
    int ready;             /* said HOUSE_READY */
    int64_t started;
    int64_t start_at;  /* not before this time */
    int64_t kill_at;   /* when it has not ended by then; 0: it may run */
    int64_t wait_next; /* the next back-off */
};

struct child child_make(const char *role, const char *conf_path, int bare);

int child_is_running(const struct child *child);

/* Forks and executes. On failure the next try is scheduled as after an end. FAIL_SYSTEM. */
int child_start(struct child *child, int64_t now);

/* Closes its HOUSE_FD: it ends by itself, and is killed when it has not after patience. */
void child_release(struct child *child, int64_t now, int64_t patience);

/* Sends HOUSE_STOP; killed when it has not ended after patience. */
void child_stop(struct child *child, int64_t now, int64_t patience);

/* Kills it if its time is over. */
void child_kill_if_late(struct child *child, int64_t now);

/* Whether it has ended; then *ret_status is that of waitpid(2) and the next start is scheduled:
 * after 100 ms, twice as long each time up to 30 s, anew after it has served for 60 s. */
int child_reap(struct child *child, int64_t now, int *ret_status);

#endif
