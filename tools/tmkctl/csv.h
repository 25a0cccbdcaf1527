#ifndef TMKCTL_CSV_H
#define TMKCTL_CSV_H

/*
 * The factory's export, a row at a time: header `sn,public_key`, then SN and the base64 of the DER
 * SubjectPublicKeyInfo of TKP_Pu. A UTF-8 byte order mark and CRLF are accepted, and an SN in
 * quotes (RFC 4180): it may have a comma in it.
 */

#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "common/spki.h"
#include "wire/message.h"

enum { CSV_LINE_MAX = 2000 }; /* bytes, without the line end */

struct csv {
    FILE *file;
    uint64_t line; /* the last one read, from 1 */
    off_t at;      /* bytes read */
    char text[CSV_LINE_MAX + 1];
};

/* Where a row is in its file. */
struct csv_place {
    uint64_t line; /* the header is line 1 */
    off_t start;
    size_t length; /* bytes, the line end included */
};

struct csv_row {
    struct csv_place place;
    char sn[SN_MAX + 1];
    struct spki tkp_pu;
};

/* Reads the header. file stays the caller's. FAIL_MALFORMED, FAIL_SYSTEM. */
int csv_start(FILE *file, struct csv *ret_csv);

/* The next row. FAIL_NOT_FOUND after the last one. FAIL_MALFORMED: this row is bad, the sentence
 * says why; ret_row has its place, and the next row can be read. FAIL_SYSTEM. */
int csv_next(struct csv *csv, struct csv_row *ret_row);

#endif
