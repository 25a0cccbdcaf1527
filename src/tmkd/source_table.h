#ifndef TMKD_SOURCE_TABLE_H
#define TMKD_SOURCE_TABLE_H

#include "tmkd/house.h"

/* How many connections each address has now; ports do not count. */
struct source_table;

/* most: connections one address may have. */
int source_table_new(uint32_t most, struct source_table **ret_table);
void source_table_free(struct source_table *table); /* accepts NULL */

/* One more from there. FAIL_BUSY when it has its most already, FAIL_MEMORY. */
int source_table_enter(struct source_table *table, const struct source *source);

/* One that entered has gone. */
void source_table_leave(struct source_table *table, const struct source *source);

#endif
