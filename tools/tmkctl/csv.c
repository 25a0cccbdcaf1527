#include "tools/tmkctl/csv.h"

#include <string.h>

#include "common/fail.h"
#include "common/hex.h"

static const char header[] = "sn,public_key";

/* One line into csv->text as far as it fits; returns its length without the '\n'. */
static size_t take_line(struct csv *csv, struct csv_place *place)
{
    size_t len = 0;
    int c;

    *place = (struct csv_place){.line = ++csv->line, .start = csv->at};
    while ((c = getc_unlocked(csv->file)) != EOF) {
        place->length++;
        if (c == '\n')
            break;
        if (len < CSV_LINE_MAX)
            csv->text[len] = (char)c;
        len++;
    }
    csv->at += (off_t)place->length;
    return len;
}

static int read_line(struct csv *csv, struct csv_place *place)
{
    size_t len = take_line(csv, place);

    if (ferror(csv->file))
        return fail_system("cannot read it");
    if (place->length == 0)
        return fail(FAIL_NOT_FOUND, "no more lines");
    if (len > CSV_LINE_MAX)
        return fail(FAIL_MALFORMED, "a line of %zu bytes; at most %d are accepted", len,
                    CSV_LINE_MAX);
    if (memchr(csv->text, '\0', len))
        return fail(FAIL_MALFORMED, "a NUL byte; save the file as plain UTF-8 text");
    if (len > 0 && csv->text[len - 1] == '\r')
        len--;
    csv->text[len] = '\0';
    return 0;
}

int csv_start(FILE *file, struct csv *ret_csv)
{
    struct csv_place place;
    *ret_csv = (struct csv){.file = file};

    int rc = read_line(ret_csv, &place);
    if (rc == FAIL_NOT_FOUND)
        return fail(FAIL_MALFORMED, "the file is empty; its first line must be %s", header);
    if (rc < 0)
        return rc;
    const char *text = ret_csv->text;
    if (strncmp(text, "\xEF\xBB\xBF", 3) == 0)
        text += 3;
    if (strcmp(text, header) != 0)
        return fail(FAIL_MALFORMED, "the first line must be %s", header);
    return 0;
}

/* Copies the first field as far as it fits, and returns what follows it. In quotes it may hold a
 * comma, and a quotation mark written as two (RFC 4180, 2.5 to 2.7). */
static const char *take_field(const char *text, char *ret_field, size_t size)
{
    size_t len = 0;
    int quoted = *text == '"';

    for (text += quoted; *text && (quoted || *text != ','); text++) {
        if (quoted && *text == '"' && *++text != '"')
            break;
        if (len < size - 1)
            ret_field[len++] = *text;
    }
    ret_field[len] = '\0';
    return text;
}

static int read_sn(const char *text, struct csv_row *row, const char **ret_rest)
{
    char sn[SN_MAX + 2]; /* one more, so that a longer one shows */

    *ret_rest = take_field(text, sn, sizeof(sn));
    if (text[0] != '"' && strchr(sn, '"'))
        return fail(FAIL_MALFORMED, "a quotation mark in an SN without quotes around it");
    if (!sn_is_valid(sn))
        return fail(FAIL_MALFORMED, "an SN is 1 to %d characters, without blanks", SN_MAX);
    strcpy(row->sn, sn);
    return 0;
}

static int read_key(const char *text, struct csv_row *row)
{
    uint8_t der[SPKI_DER_MAX];
    size_t len;

    if (base64_decode(text, der, sizeof(der), &len) < 0 || spki_read(der, len, &row->tkp_pu) < 0)
        return fail_in(FAIL_MALFORMED, "public_key of %s", row->sn);
    return 0;
}

static int split_line(const char *text, struct csv_row *row)
{
    const char *rest = NULL;

    if (text[0] == '\0')
        return fail(FAIL_MALFORMED, "an empty line");
    int rc = read_sn(text, row, &rest);
    if (rc < 0)
        return rc;
    if (rest[0] != ',' || strchr(rest + 1, ','))
        return fail(FAIL_MALFORMED, "not two fields; a row is %s", header);
    return read_key(rest + 1, row);
}

int csv_next(struct csv *csv, struct csv_row *ret_row)
{
    int rc = read_line(csv, &ret_row->place);
    return rc < 0 ? rc : split_line(csv->text, ret_row);
}
