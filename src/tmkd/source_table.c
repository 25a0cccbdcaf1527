#include "tmkd/source_table.h"

#include <stdlib.h>
#include <string.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include "common/fail.h"

/* A source without its port; bytes only, so that it has no padding to be hashed. */
struct place {
    uint8_t family;
    uint8_t address[16];
};

struct entry {
    struct place place;
    uint32_t count;
    UT_hash_handle hh;
};

struct source_table {
    uint32_t most;
    struct entry *entries;
};

static struct place place_of(const struct source *source)
{
    struct place place = {.family = source->family};
    memcpy(place.address, source->address, sizeof(place.address));
    return place;
}

static struct entry *find(const struct source_table *table, const struct place *place)
{
    struct entry *entry;
    HASH_FIND(hh, table->entries, place, sizeof(*place), entry);
    return entry;
}

static struct entry *add(struct source_table *table, const struct place *place)
{
    struct entry *entry = calloc(1, sizeof(*entry));
    if (!entry)
        return NULL;
    entry->place = *place;
    HASH_ADD(hh, table->entries, place, sizeof(entry->place), entry);
    if (entry->hh.tbl)
        return entry;
    free(entry); /* uthash found no memory for its own part */
    return NULL;
}

int source_table_new(uint32_t most, struct source_table **ret_table)
{
    struct source_table *table = calloc(1, sizeof(*table));
    if (!table)
        return fail(FAIL_MEMORY, "no memory for the table of sources");
    table->most = most;
    *ret_table = table;
    return 0;
}

void source_table_free(struct source_table *table)
{
    struct entry *entry, *next;
    if (!table)
        return;
    HASH_ITER(hh, table->entries, entry, next)
    {
        HASH_DEL(table->entries, entry);
        free(entry);
    }
    free(table);
}

int source_table_enter(struct source_table *table, const struct source *source)
{
    struct place place = place_of(source);
    struct entry *entry = find(table, &place);
    if (entry && entry->count >= table->most)
        return fail(FAIL_BUSY, "its address has %u connections already", entry->count);
    if (!entry)
        entry = add(table, &place);
    if (!entry)
        return fail(FAIL_MEMORY, "no memory to count another source");
    entry->count++;
    return 0;
}

void source_table_leave(struct source_table *table, const struct source *source)
{
    struct place place = place_of(source);
    struct entry *entry = find(table, &place);
    if (!entry || --entry->count > 0)
        return;
    HASH_DEL(table->entries, entry);
    free(entry);
}
