#include "tools/tmkctl/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static const double every = 0.25; /* seconds */

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

void progress_start(struct progress *ret_progress, const char *doing, off_t total)
{
    *ret_progress = (struct progress){
        .doing = doing, .total = total, .started = now(), .terminal = isatty(STDERR_FILENO)};
}

void progress_show(struct progress *progress, uint64_t rows, off_t done)
{
    double at = now();
    double spent = at - progress->started;

    if (!progress->terminal || spent < 1 || at - progress->shown < every || done <= 0)
        return;
    progress->shown = at;
    double left = spent * (double)(progress->total - done) / (double)done;
    fprintf(stderr, "\r%s: %" PRIu64 " rows, %.0f a second, %.0f s left \033[K", progress->doing,
            rows, (double)rows / spent, left);
}

void progress_end(struct progress *progress)
{
    if (progress->shown > 0)
        fputs("\r\033[K", stderr);
    progress->shown = 0;
}
