#ifndef TMKCTL_PROGRESS_H
#define TMKCTL_PROGRESS_H

/* One line on standard error that says how long work goes on; silent unless that is a terminal and
 * the work takes over a second. */

#include <stdint.h>
#include <sys/types.h>

struct progress {
    const char *doing; /* "checking", "importing" */
    off_t total;       /* bytes */
    double started;    /* seconds */
    double shown;      /* when the line was last written; 0: never */
    int terminal;
};

void progress_start(struct progress *ret_progress, const char *doing, off_t total);
void progress_show(struct progress *progress, uint64_t rows, off_t done);
void progress_end(struct progress *progress); /* takes the line away */

#endif
