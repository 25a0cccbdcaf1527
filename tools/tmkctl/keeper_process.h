#ifndef TMKCTL_KEEPER_PROCESS_H
#define TMKCTL_KEEPER_PROCESS_H

/*
 * A keeper of tmkctl's own: the tmkd program as a child that serves one control stream, as
 * tmkd's supervisor would start it (src/tmkd/house.h).
 */

#include <sys/types.h>

struct keeper_process {
    pid_t pid;
    int house; /* our end of its HOUSE_FD */
};

/* Starts the tmkd beside this program, else that of PATH, as `tmkd --role ROLE -c CONF` with a
 * clean environment; returns when it is ready. *ret_stream: the control stream, the caller's.
 * FAIL_NOT_FOUND when there is no tmkd, FAIL_CLOSED when it ended instead: it has said why on
 * standard error. */
int keeper_process_start(const char *role, const char *conf_path, struct keeper_process *ret_keeper,
                         int *ret_stream);

/* Waits for the end of one whose stream is closed. FAIL_CLOSED unless it ended in order. */
int keeper_process_wait(struct keeper_process *keeper);

#endif
