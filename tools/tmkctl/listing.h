#ifndef TMKCTL_LISTING_H
#define TMKCTL_LISTING_H

#include "tools/tmkctl/options.h"
#include "tools/tmkctl/output.h"

/* A list the keeper gives page by page, each after the last row of the one before. */
struct listing {
    const char *op;  /* "terminal.list" */
    const char *key; /* the field of a row that the next page comes after */
    const struct column *columns;
    size_t count;
};

/* Prints it, as a table or a JSON array. first: what the first page comes after; taken over. */
int listing_print(const struct options *options, const struct listing *listing, json_t *first);

#endif
