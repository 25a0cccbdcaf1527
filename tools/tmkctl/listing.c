#include "tools/tmkctl/listing.h"

#include <stdio.h>

#include "common/fail.h"
#include "tools/tmkctl/client.h"

enum { PAGE_ROWS = 256 };

/* Rows of a JSON array, one a line; before is what goes before the first of them. */
static void print_json_rows(const json_t *page, const char *before)
{
    size_t i;
    json_t *row;

    json_array_foreach(page, i, row)
    {
        fputs(i == 0 ? before : ",\n", stdout);
        json_dumpf(row, stdout, JSON_COMPACT);
    }
}

static int next_page(struct client *client, const struct listing *listing, json_t **after,
                     json_t **ret_page)
{
    json_t *page = NULL;
    int rc = client_call(
        client,
        json_pack("{s:s, s:O, s:i}", "op", listing->op, "after", *after, "limit", (int)PAGE_ROWS),
        &page);
    if (rc < 0)
        return rc;
    size_t rows = json_array_size(page);
    json_t *last = rows ? json_object_get(json_array_get(page, rows - 1), listing->key) : NULL;
    if (!json_is_array(page) || (rows && (!last || json_equal(last, *after)))) {
        json_decref(page);
        return fail(FAIL_MALFORMED, "the keeper's answer to %s is not a list", listing->op);
    }
    if (last) {
        json_decref(*after);
        *after = json_incref(last);
    }
    *ret_page = page;
    return 0;
}

static int print_pages(struct client *client, const struct options *options,
                       const struct listing *listing, json_t **after)
{
    struct table table = {.columns = listing->columns, .count = listing->count};
    const char *before = "[";
    size_t rows;

    do {
        json_t *page;
        int rc = next_page(client, listing, after, &page);
        if (rc < 0)
            return rc;
        rows = json_array_size(page);
        if (options->value[OPTION_JSON])
            print_json_rows(page, before);
        else
            table_print(&table, page);
        before = rows ? ",\n" : before;
        json_decref(page);
    } while (rows > 0);
    if (options->value[OPTION_JSON])
        puts(before[0] == '[' ? "[]" : "]");
    return 0;
}

int listing_print(const struct options *options, const struct listing *listing, json_t *first)
{
    struct client *client;
    json_t *after = first;
    int rc = client_open(options->value[OPTION_CONF], &client);

    if (rc == 0)
        rc = client_close(client, print_pages(client, options, listing, &after));
    json_decref(after);
    return rc;
}
