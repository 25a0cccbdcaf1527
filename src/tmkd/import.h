#ifndef TMKD_IMPORT_H
#define TMKD_IMPORT_H

#include <jansson.h>

#include "tmkd/crew.h"

/*
 * One request's terminals on their way into the registry, at most IMPORT_ROWS_MAX. Each row
 * stands or falls alone. Results: an array, in the order of the rows, of "added", "present", or
 * {"error", "code"}.
 */

enum { IMPORT_ROWS_MAX = 256 };

struct import;

/* Reads the request. FAIL_MALFORMED, FAIL_NOT_FOUND (no such TMK type). */
int import_new(json_t *request, const char *actor, struct import **ret_import);
void import_free(struct import *import); /* accepts NULL */

/* In a worker: checks each row and makes the TMKs and seals of the new ones, unless the request
 * is a dry run. */
int import_prepare(struct import *import, struct station *station);

/* In the writer: adds the rows that are still new, with an audit record each. */
int import_write(struct import *import, struct station *station);

/* In a worker: destroys the token TMKs that were made for nothing. */
int import_undo(struct import *import, struct station *station);

/* Borrowed. */
json_t *import_results(struct import *import);

#endif
