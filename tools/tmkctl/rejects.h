#ifndef TMKCTL_REJECTS_H
#define TMKCTL_REJECTS_H

#include <stdio.h>

#include "tools/tmkctl/csv.h"

/* FILE.rejected: the header and the rows that were not imported, byte for byte, to be corrected and
 * imported. It is made with the first of them. */
struct rejects {
    char *path;
    FILE *file; /* NULL until the first */
};

/* Copies the row's bytes from the CSV file, whose position stays. FAIL_SYSTEM. */
int rejects_add(struct rejects *rejects, FILE *from, const struct csv_place *row);

/* Closes it. FAIL_SYSTEM when something of it could not be written. */
int rejects_close(struct rejects *rejects);

#endif
