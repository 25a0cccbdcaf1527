#ifndef COMMON_CLOCK_H
#define COMMON_CLOCK_H

#include <stdint.h>

/* Milliseconds of the monotonic clock: what deadlines are counted in. Setting the time of day does
 * not move it. */
int64_t clock_ms(void);

#endif
