#include "tools/tmkctl/seen.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include "common/fail.h"

struct entry {
    UT_hash_handle by_sn;
    UT_hash_handle by_key;
    uint64_t line;
    uint8_t key[DIGEST_LEN];
    char sn[]; /* zero-terminated */
};

struct seen {
    struct entry *by_sn;
    struct entry *by_key;
};

int seen_new(struct seen **ret_seen)
{
    *ret_seen = calloc(1, sizeof(**ret_seen));
    return *ret_seen ? 0 : fail(FAIL_MEMORY, "out of memory");
}

void seen_free(struct seen *seen)
{
    if (!seen)
        return;
    HASH_CLEAR(by_key, seen->by_key);
    struct entry *entry = seen->by_sn;
    HASH_CLEAR(by_sn, seen->by_sn);
    while (entry) { /* the table is gone, the list of its entries is not */
        struct entry *next = entry->by_sn.next;
        free(entry);
        entry = next;
    }
    free(seen);
}

static int keep(struct seen *seen, const char *sn, const uint8_t key[static DIGEST_LEN],
                uint64_t line)
{
    size_t len = strlen(sn);
    struct entry *entry = calloc(1, sizeof(*entry) + len + 1);

    if (!entry)
        return fail(FAIL_MEMORY, "out of memory at line %" PRIu64, line);
    entry->line = line;
    memcpy(entry->key, key, DIGEST_LEN);
    memcpy(entry->sn, sn, len);
    HASH_ADD(by_sn, seen->by_sn, sn[0], len, entry);
    if (!entry->by_sn.tbl) {
        free(entry);
        return fail(FAIL_MEMORY, "out of memory at line %" PRIu64, line);
    }
    HASH_ADD(by_key, seen->by_key, key, DIGEST_LEN, entry);
    return entry->by_key.tbl ? 0 : fail(FAIL_MEMORY, "out of memory at line %" PRIu64, line);
}

int seen_add(struct seen *seen, const char *sn, const uint8_t key[static DIGEST_LEN], uint64_t line,
             int *ret_again)
{
    struct entry *entry;

    HASH_FIND(by_sn, seen->by_sn, sn, strlen(sn), entry);
    if (entry && memcmp(entry->key, key, DIGEST_LEN) != 0)
        return fail(FAIL_EXISTS, "%s is on line %" PRIu64 " too, with another key", sn,
                    entry->line);
    *ret_again = entry != NULL;
    if (entry)
        return 0;
    HASH_FIND(by_key, seen->by_key, key, DIGEST_LEN, entry);
    if (entry)
        return fail(FAIL_EXISTS, "the key of %s is that of %s on line %" PRIu64, sn, entry->sn,
                    entry->line);
    return keep(seen, sn, key, line);
}
