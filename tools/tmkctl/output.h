#ifndef TMKCTL_OUTPUT_H
#define TMKCTL_OUTPUT_H

/* What a person or a script reads on standard output, from the keeper's JSON. */

#include <jansson.h>

enum output_kind {
    OUTPUT_TEXT, /* a string or a number */
    OUTPUT_TIME, /* seconds since 1970, shown as UTC; 0 is never */
    OUTPUT_KEY,  /* an object with type and bits, shown as "rsa:2048" */
    OUTPUT_LIST, /* an array of strings */
};

/* A column of a table, or a line of a list of fields. */
struct column {
    const char *title;
    const char *path; /* names joined by dots: "tmk.kcv" */
    enum output_kind kind;
};

enum { COLUMNS_MAX = 12 };

/* A table printed page by page; its columns only grow wider. Start with {columns, count}. */
struct table {
    const struct column *columns;
    size_t count;
    size_t width[COLUMNS_MAX]; /* 0 until the first page */
};

/* Prints the rows of an array of objects, and on the first call the titles. */
void table_print(struct table *table, const json_t *page);

/* Prints one object, a line a field; those that it has not are left out. */
void fields_print(const struct column *columns, size_t count, const json_t *object);

/* Prints one value as indented JSON. */
void json_print(const json_t *value);

/* Whether all that was printed has been written. FAIL_SYSTEM. */
int output_flush(void);

#define COLUMNS(array) (array), sizeof(array) / sizeof((array)[0])

#endif
