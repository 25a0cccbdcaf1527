#include "tmkd/tmk_index.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <uthash.h>

#include "common/fail.h"

struct entry {
    UT_hash_handle hh;
    token_handle tmk;
    char id[]; /* not zero-terminated */
};

struct tmk_index {
    pthread_rwlock_t lock;
    struct entry *table;
};

int tmk_index_new(struct tmk_index **ret_index)
{
    struct tmk_index *index = calloc(1, sizeof(*index));
    if (!index)
        return fail(FAIL_MEMORY, "no memory for the index of TMKs");
    pthread_rwlock_init(&index->lock, NULL);
    *ret_index = index;
    return 0;
}

void tmk_index_free(struct tmk_index *index)
{
    struct entry *entry;
    struct entry *next;
    if (!index)
        return;
    HASH_ITER(hh, index->table, entry, next)
    {
        HASH_DEL(index->table, entry);
        free(entry);
    }
    pthread_rwlock_destroy(&index->lock);
    free(index);
}

int tmk_index_add(struct tmk_index *index, const char *id, size_t id_len, token_handle tmk)
{
    struct entry *before;
    struct entry *entry = calloc(1, sizeof(*entry) + id_len);
    if (!entry)
        return fail(FAIL_MEMORY, "no memory for the index of TMKs");
    memcpy(entry->id, id, id_len);
    entry->tmk = tmk;
    pthread_rwlock_wrlock(&index->lock);
    HASH_REPLACE(hh, index->table, id[0], id_len, entry, before);
    pthread_rwlock_unlock(&index->lock);
    free(before);
    return 0;
}

static struct entry *find(struct tmk_index *index, const char *id, size_t id_len)
{
    struct entry *entry;
    HASH_FIND(hh, index->table, id, id_len, entry);
    return entry;
}

void tmk_index_remove(struct tmk_index *index, const char *id, size_t id_len, token_handle tmk)
{
    pthread_rwlock_wrlock(&index->lock);
    struct entry *entry = find(index, id, id_len);
    if (entry && entry->tmk != tmk)
        entry = NULL;
    if (entry)
        HASH_DEL(index->table, entry);
    pthread_rwlock_unlock(&index->lock);
    free(entry);
}

int tmk_index_find(struct tmk_index *index, const char *id, size_t id_len, token_handle *ret_tmk)
{
    pthread_rwlock_rdlock(&index->lock);
    struct entry *entry = find(index, id, id_len);
    if (entry)
        *ret_tmk = entry->tmk;
    pthread_rwlock_unlock(&index->lock);
    return entry ? 0 : fail(FAIL_NOT_FOUND, "the token has no TMK '%.*s'", (int)id_len, id);
}
