#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/fail.h"
#include "common/hex.h"
#include "tools/tmkctl/client.h"
#include "tools/tmkctl/command.h"
#include "tools/tmkctl/csv.h"
#include "tools/tmkctl/output.h"
#include "tools/tmkctl/progress.h"
#include "tools/tmkctl/rejects.h"
#include "tools/tmkctl/seen.h"

enum { CHUNK_ROWS = 256 };

/* A pass over the file: rows are checked here, and go to the keeper in chunks. */
struct import {
    struct client *client;
    FILE *file;       /* can be read twice */
    const char *name; /* of the file, for people */
    const char *tmk;
    int skip;    /* a bad row is reported and the others go on */
    int dry_run; /* nothing is changed */
    struct csv csv;
    struct seen *seen; /* in a dry run */
    struct rejects rejects;
    struct progress progress;
    json_t *chunk; /* the rows that wait to be sent, */
    size_t chunk_rows;
    struct csv_place chunk_place[CHUNK_ROWS]; /* and where they come from */
    uint64_t read, added, present, rejected;
};

/* Reports a row with the sentence of its failure. With --on-error stop that ends the import. */
static int reject_row(struct import *import, const struct csv_place *row)
{
    import->rejected++;
    fail_in(FAIL_REFUSED, "%s:%" PRIu64, import->name, row->line);
    if (!import->skip)
        return FAIL_REFUSED;
    progress_end(&import->progress);
    fprintf(stderr, "tmkctl: %s\n", fail_text());
    return import->dry_run ? 0 : rejects_add(&import->rejects, import->file, row);
}

static int take_result(struct import *import, const struct csv_place *row, const json_t *result)
{
    const char *word = json_string_value(result);
    const char *error = json_string_value(json_object_get(result, "error"));

    if (word && strcmp(word, "added") == 0)
        import->added++;
    else if (word && strcmp(word, "present") == 0)
        import->present++;
    else {
        fail(FAIL_REFUSED, "%s", error ? error : "the keeper said neither yes nor no");
        return reject_row(import, row);
    }
    return 0;
}

static int take_results(struct import *import, const json_t *results)
{
    if (json_array_size(results) != import->chunk_rows)
        return fail(FAIL_MALFORMED, "the keeper answered for %zu rows of %zu",
                    json_array_size(results), import->chunk_rows);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < import->chunk_rows; i++)
        rc = take_result(import, &import->chunk_place[i], json_array_get(results, i));
    return rc;
}

static int send_chunk(struct import *import)
{
    json_t *results;
    if (import->chunk_rows == 0)
        return 0;
    int rc = client_call(import->client,
                         json_pack("{s:s, s:O, s:s, s:s, s:b}", "op", "terminal.import", "rows",
                                   import->chunk, "tmk", import->tmk, "batch", "", "dry_run",
                                   import->dry_run),
                         &results);
    if (rc < 0)
        return rc;
    rc = take_results(import, results);
    json_decref(results);
    json_array_clear(import->chunk);
    import->chunk_rows = 0;
    progress_show(&import->progress, import->read, import->csv.at);
    return rc;
}

static int add_to_chunk(struct import *import, const struct csv_row *row)
{
    char text[4 * ((SPKI_DER_MAX + 2) / 3) + 1];
    base64_encode(row->tkp_pu.der, row->tkp_pu.der_len, text);
    if (json_array_append_new(import->chunk,
                              json_pack("{s:s, s:s}", "sn", row->sn, "public_key", text)) < 0)
        return fail(FAIL_MEMORY, "out of memory");
    import->chunk_place[import->chunk_rows++] = row->place;
    return import->chunk_rows == CHUNK_ROWS ? send_chunk(import) : 0;
}

/* A row that is bad by itself: the rows before it go first, so that people and FILE.rejected get
 * all bad rows in the order of the file. */
static int reject_own_row(struct import *import, const struct csv_place *row)
{
    char why[800];
    snprintf(why, sizeof(why), "%s", fail_text());
    int rc = send_chunk(import);
    if (rc < 0)
        return rc;
    fail(FAIL_REFUSED, "%s", why);
    return reject_row(import, row);
}

/* A dry run adds nothing, so the keeper cannot see that two rows of the file contradict. */
static int take_row(struct import *import, const struct csv_row *row)
{
    int again = 0;
    int rc = 0;
    if (import->seen)
        rc = seen_add(import->seen, row->sn, row->tkp_pu.sha256, row->place.line, &again);
    if (rc == FAIL_EXISTS)
        return reject_own_row(import, &row->place);
    if (rc < 0)
        return rc;
    import->present += (uint64_t)again;
    return again ? 0 : add_to_chunk(import, row);
}

/* The next row, whatever it is. FAIL_NOT_FOUND after the last. */
static int read_row(struct import *import)
{
    struct csv_row row;
    int rc = csv_next(&import->csv, &row);

    import->read += rc == 0 || rc == FAIL_MALFORMED;
    if (rc == 0)
        return take_row(import, &row);
    if (rc == FAIL_MALFORMED)
        return reject_own_row(import, &row.place);
    return rc == FAIL_NOT_FOUND ? rc : fail_in(rc, "%s", import->name);
}

/* One pass from the file's beginning; the counts are those of the last pass. */
static int pass(struct import *import, int dry_run)
{
    struct stat status;

    import->read = import->added = import->present = import->rejected = 0;
    import->dry_run = dry_run;
    rewind(import->file);
    off_t size = fstat(fileno(import->file), &status) == 0 ? status.st_size : 0;
    progress_start(&import->progress, dry_run ? "checking" : "importing", size);
    int rc = csv_start(import->file, &import->csv);
    if (rc < 0)
        return fail_in(rc, "%s:1", import->name);
    rc = dry_run ? seen_new(&import->seen) : 0;
    while (rc == 0)
        rc = read_row(import);
    if (rc == FAIL_NOT_FOUND)
        rc = send_chunk(import);
    progress_end(&import->progress);
    seen_free(import->seen);
    import->seen = NULL;
    return rc;
}

static void print_summary(const struct import *import, int json)
{
    if (json)
        printf("{\"read\": %" PRIu64 ", \"added\": %" PRIu64 ", \"present\": %" PRIu64
               ", \"rejected\": %" PRIu64 ", \"dry_run\": %s}\n",
               import->read, import->added, import->present, import->rejected,
               import->dry_run ? "true" : "false");
    else
        printf("%" PRIu64 " read, %" PRIu64 " %s, %" PRIu64 " already there, %" PRIu64
               " rejected\n",
               import->read, import->added, import->dry_run ? "would be added" : "added",
               import->present, import->rejected);
}

/* Puts words after the sentence of the last failure. */
static int fail_and(int rc, const char *advice)
{
    char before[800];
    snprintf(before, sizeof(before), "%s", fail_text());
    return fail(rc, "%s; %s", before, advice);
}

/* With stop, a pass without changes goes first, so that a bad row anywhere changes nothing. */
static int run_passes(struct import *import, int dry_run)
{
    int rc = 0;
    if (dry_run || !import->skip) {
        rc = pass(import, 1);
        if (rc < 0)
            return fail_and(rc, "nothing was imported");
    }
    if (dry_run)
        return 0;
    rc = pass(import, 0);
    return rc < 0 ? fail_and(rc, "part of the file was imported, import it again") : 0;
}

static int report(const struct import *import, int json)
{
    print_summary(import, json);
    if (import->rejected == 0)
        return 0;
    if (import->dry_run)
        return fail(FAIL_REFUSED, "%s: %" PRIu64 " rejected; correct them", import->name,
                    import->rejected);
    return fail(FAIL_REFUSED, "%s: %" PRIu64 " rejected; they are in %s, correct and import that",
                import->name, import->rejected, import->rejects.path);
}

static int run(struct import *import, const struct options *options)
{
    struct client *client;
    int rc = client_open(options->value[OPTION_CONF], &client);
    if (rc < 0)
        return rc;
    import->client = client;
    rc = client_close(client, run_passes(import, options->value[OPTION_DRY_RUN] != NULL));
    int closed = rejects_close(&import->rejects);
    if (rc == 0)
        rc = closed;
    return rc < 0 ? rc : report(import, options->value[OPTION_JSON] != NULL);
}

/* FAIL_NOT_FOUND at the end of the file. */
static int copy_line(FILE *from, FILE *copy)
{
    size_t len = 0;
    int c;
    while ((c = getc_unlocked(from)) != EOF && putc_unlocked(c, copy) != EOF && c != '\n')
        if (++len > CSV_LINE_MAX)
            return fail(FAIL_MALFORMED, "a line of over %d bytes; is this a CSV file?",
                        CSV_LINE_MAX);
    if (ferror(from) || ferror(copy))
        return fail_system("cannot copy it to a temporary file");
    return c == EOF ? fail(FAIL_NOT_FOUND, "no more lines") : 0;
}

/* What is no CSV may have no end: it is given up at the header, or at a line that can be no row. */
static int copy_lines(FILE *from, FILE *copy, const char *name)
{
    struct csv csv;
    uint64_t line = 1;
    int rc = copy_line(from, copy);
    rewind(copy);
    if (rc == 0)
        rc = csv_start(copy, &csv);
    fseeko(copy, 0, SEEK_END);
    while (rc == 0) {
        line++;
        rc = copy_line(from, copy);
    }
    if (rc == FAIL_NOT_FOUND)
        rc = fflush(copy) == 0 ? 0 : fail_system("cannot write a temporary file");
    return rc < 0 ? fail_in(rc, "%s:%" PRIu64, name, line) : 0;
}

/* A copy that can be read twice and is gone when it is closed. */
static int spool(FILE *from, const char *name, FILE **ret_file)
{
    FILE *copy = tmpfile();
    if (!copy)
        return fail_system("%s: cannot make a temporary file", name);
    int rc = copy_lines(from, copy, name);
    if (rc < 0)
        fclose(copy);
    else
        *ret_file = copy;
    return rc;
}

/* The file, or a copy of what is no regular file. */
static int open_file(const char *path, const char *name, FILE **ret_file)
{
    struct stat status;
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    if (!file)
        return fail_system("%s", path);
    if (fstat(fileno(file), &status) == 0 && S_ISREG(status.st_mode) && file != stdin) {
        *ret_file = file;
        return 0;
    }
    int rc = spool(file, name, ret_file);
    if (file != stdin)
        fclose(file);
    return rc;
}

int command_terminal_import(const struct options *options, const char *file)
{
    struct import import = {
        .name = strcmp(file, "-") == 0 ? "stdin" : file,
        .tmk = option_or(options, OPTION_TMK, "aes128"),
        .skip = strcmp(option_or(options, OPTION_ON_ERROR, "stop"), "skip") == 0 ||
                options->value[OPTION_DRY_RUN], /* it is run to learn of every bad row */
        .chunk = json_array(),
    };
    int rc = open_file(file, import.name, &import.file);
    if (rc == 0 &&
        (!import.chunk || asprintf(&import.rejects.path, "%s.rejected", import.name) < 0))
        rc = fail(FAIL_MEMORY, "out of memory");
    if (rc == 0)
        rc = run(&import, options);
    free(import.rejects.path);
    if (import.file)
        fclose(import.file);
    json_decref(import.chunk);
    return rc;
}
