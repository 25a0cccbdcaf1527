#include "tools/tmkctl/output.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/fail.h"

enum { CELL_MAX = 300 };

static const json_t *value_at(const json_t *object, const char *path)
{
    char name[32];

    for (const char *dot; object && (dot = strchr(path, '.')); path = dot + 1) {
        snprintf(name, sizeof(name), "%.*s", (int)(dot - path), path);
        object = json_object_get(object, name);
    }
    return json_object_get(object, path);
}

static void write_time(json_int_t seconds, char ret_text[static CELL_MAX])
{
    time_t at = (time_t)seconds;
    struct tm utc;
    if (seconds <= 0 || !gmtime_r(&at, &utc))
        snprintf(ret_text, CELL_MAX, "never");
    else
        strftime(ret_text, CELL_MAX, "%Y-%m-%dT%H:%M:%SZ", &utc);
}

static void write_list(const json_t *array, char ret_text[static CELL_MAX])
{
    size_t i;
    json_t *item;
    size_t used = 0;

    ret_text[0] = '\0';
    json_array_foreach(array, i, item)
    {
        const char *text = json_string_value(item);
        int more =
            snprintf(ret_text + used, CELL_MAX - used, "%s%s", i ? ", " : "", text ? text : "");
        if (more > 0 && (used += (size_t)more) >= CELL_MAX)
            return;
    }
}

static void write_plain(const json_t *value, char ret_text[static CELL_MAX])
{
    if (json_is_string(value) && json_string_length(value) > 0)
        snprintf(ret_text, CELL_MAX, "%s", json_string_value(value));
    else if (json_is_integer(value))
        snprintf(ret_text, CELL_MAX, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_boolean(value))
        snprintf(ret_text, CELL_MAX, "%s", json_is_true(value) ? "yes" : "no");
    else
        snprintf(ret_text, CELL_MAX, "-");
}

/* Text of the registry must not steer the person's terminal. */
static void replace_controls(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7F)
            *text = '?';
}

static void write_cell(const json_t *object, const struct column *column,
                       char ret_text[static CELL_MAX])
{
    const json_t *value = value_at(object, column->path);
    const char *type = json_string_value(json_object_get(value, "type"));

    if (column->kind == OUTPUT_TIME && json_is_integer(value))
        write_time(json_integer_value(value), ret_text);
    else if (column->kind == OUTPUT_KEY && type)
        snprintf(ret_text, CELL_MAX, "%s:%" JSON_INTEGER_FORMAT, type,
                 json_integer_value(json_object_get(value, "bits")));
    else if (column->kind == OUTPUT_LIST)
        write_list(value, ret_text);
    else
        write_plain(value, ret_text);
    replace_controls(ret_text);
}

static void grow_widths(struct table *table, const json_t *page)
{
    char cell[CELL_MAX];
    size_t i;
    json_t *row;

    json_array_foreach(page, i, row)
    {
        for (size_t c = 0; c < table->count; c++) {
            write_cell(row, &table->columns[c], cell);
            if (strlen(cell) > table->width[c])
                table->width[c] = strlen(cell);
        }
    }
}

/* The last column is not padded: no line ends in blanks. */
static void print_cell(const struct table *table, size_t c, const char *text)
{
    if (c + 1 == table->count)
        printf("%s\n", text);
    else
        printf("%-*s  ", (int)table->width[c], text);
}

static void print_row(const struct table *table, const json_t *row)
{
    char cell[CELL_MAX];
    for (size_t c = 0; c < table->count; c++) {
        write_cell(row, &table->columns[c], cell);
        print_cell(table, c, cell);
    }
}

void table_print(struct table *table, const json_t *page)
{
    size_t i;
    json_t *row;
    int first = table->width[0] == 0;

    for (size_t c = 0; first && c < table->count; c++)
        table->width[c] = strlen(table->columns[c].title);
    grow_widths(table, page);
    for (size_t c = 0; first && c < table->count; c++)
        print_cell(table, c, table->columns[c].title);
    json_array_foreach(page, i, row)
    {
        print_row(table, row);
    }
}

void fields_print(const struct column *columns, size_t count, const json_t *object)
{
    char cell[CELL_MAX];
    size_t width = 0;

    for (size_t c = 0; c < count; c++)
        if (strlen(columns[c].title) > width)
            width = strlen(columns[c].title);
    for (size_t c = 0; c < count; c++) {
        if (!value_at(object, columns[c].path))
            continue;
        write_cell(object, &columns[c], cell);
        printf("%-*s  %s\n", (int)width, columns[c].title, cell);
    }
}

void json_print(const json_t *value)
{
    json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
    putchar('\n');
}

int output_flush(void)
{
    if (fflush(stdout) != 0 || ferror(stdout))
        return fail_system("cannot write standard output");
    return 0;
}
