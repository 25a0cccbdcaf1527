#include "db/audit.h"

#include <string.h>

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include "common/fail.h"
#include "db/canonical.h"
#include "db/statement.h"

/*
 * hash = SHA-256 of "TMKD-AUDIT\x01" and, as db/canonical.h has it,
 *   hash of the record before, seal of the record before,
 *   seq (8), at (8), event, sn, actor, detail.
 * Before the first record both are empty; a record that is not the last of its transaction has an
 * empty seal. So a record vouches for each seal before it, and the last record has to have one.
 */
#define LABEL "TMKD-AUDIT\x01"

enum {
    INPUT_MAX = sizeof(LABEL) - 1 + 8UL * CANONICAL_LENGTH + AUDIT_HASH_LEN + SEAL_LEN + 8 + 8 +
                AUDIT_EVENT_MAX + SN_MAX + AUDIT_ACTOR_MAX + AUDIT_DETAIL_MAX, /* bytes */
};

/* A row: a record, its hash, and the seal when it is the last of a transaction. */
struct link {
    struct audit_record record;
    size_t hash_len; /* 0: before the first record */
    uint8_t hash[AUDIT_HASH_LEN];
    size_t seal_len; /* 0: not sealed */
    uint8_t seal[SEAL_LEN];
};

#define SELECT_LINK                                                                                \
    "SELECT a.seq, a.at, a.event, a.sn, a.actor, a.detail, a.hash, s.seal"                         \
    " FROM audit a LEFT JOIN audit_seal s ON s.seq = a.seq"

enum column { SEQ, AT, EVENT, SN, ACTOR, DETAIL, HASH, SEAL };

static void hash_record(const struct link *before, const struct audit_record *record,
                        uint8_t ret_hash[static AUDIT_HASH_LEN])
{
    uint8_t input[INPUT_MAX];
    uint8_t *at = canonical_label(input, LABEL);
    at = canonical_field(at, before->hash, before->hash_len);
    at = canonical_field(at, before->seal, before->seal_len);
    at = canonical_number(at, (uint64_t)record->seq, 8);
    at = canonical_number(at, (uint64_t)record->at, 8);
    at = canonical_text(at, record->event);
    at = canonical_text(at, record->sn);
    at = canonical_text(at, record->actor);
    at = canonical_text(at, record->detail);
    SHA256(input, (size_t)(at - input), ret_hash);
}

static int read_texts(sqlite3_stmt *row, struct audit_record *ret)
{
    int rc = column_text(row, EVENT, AUDIT_EVENT_MAX, ret->event);
    if (rc == 0)
        rc = column_text(row, SN, SN_MAX, ret->sn);
    if (rc == 0)
        rc = column_text(row, ACTOR, AUDIT_ACTOR_MAX, ret->actor);
    if (rc == 0)
        rc = column_text(row, DETAIL, AUDIT_DETAIL_MAX, ret->detail);
    return rc;
}

static int read_link(sqlite3_stmt *row, struct link *ret)
{
    struct link link = {0};
    int rc = column_integer(row, SEQ, 1, INT64_MAX - 1, &link.record.seq);
    if (rc == 0)
        rc = column_integer(row, AT, 0, INT64_MAX, &link.record.at);
    if (rc == 0)
        rc = read_texts(row, &link.record);
    if (rc == 0)
        rc = column_blob(row, HASH, AUDIT_HASH_LEN, AUDIT_HASH_LEN, link.hash, &link.hash_len);
    if (rc == 0 && sqlite3_column_type(row, SEAL) != SQLITE_NULL)
        rc = column_blob(row, SEAL, SEAL_LEN, SEAL_LEN, link.seal, &link.seal_len);
    if (rc)
        return fail_in(rc, "audit record %lld", (long long)sqlite3_column_int64(row, SEQ));
    *ret = link;
    return 0;
}

/* The newest record; one of seq 0, all empty, when there is none. */
static int read_last(struct registry *registry, struct link *ret_last)
{
    sqlite3_stmt *row = NULL;
    int rc = statement_begin(registry, QUERY_AUDIT_LAST, SELECT_LINK " ORDER BY a.seq DESC LIMIT 1",
                             &row);
    if (rc == 0)
        rc = statement_row(registry, row);
    if (rc == 0)
        rc = read_link(row, ret_last);
    statement_end(registry, row);
    if (rc != FAIL_NOT_FOUND)
        return rc;
    *ret_last = (struct link){0};
    return 0;
}

/* As read_last(), and it is the one that this transaction has added last, if it has added any. */
static int read_own_last(struct registry *registry, struct link *ret_last)
{
    const struct log_end *own = &registry->appended;
    int rc = read_last(registry, ret_last);
    if (rc || own->seq == 0)
        return rc;
    if (ret_last->record.seq != own->seq ||
        memcmp(ret_last->hash, own->hash, AUDIT_HASH_LEN) != 0 || ret_last->seal_len > 0)
        return fail(FAIL_REGISTRY, "registry %s: audit record %lld did not stay as it was added",
                    registry->path, (long long)own->seq);
    return 0;
}

static int insert_record(struct registry *registry, const struct audit_record *record,
                         const uint8_t hash[static AUDIT_HASH_LEN])
{
    sqlite3_stmt *row = NULL;
    int rc = change_begin(registry, QUERY_AUDIT_APPEND,
                          "INSERT INTO audit (seq, at, event, sn, actor, detail, hash)"
                          " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                          &row);
    if (rc == 0 && (sqlite3_bind_int64(row, 1, record->seq) ||
                    sqlite3_bind_int64(row, 2, record->at) || bind_text(row, 3, record->event) ||
                    bind_text(row, 4, record->sn) || bind_text(row, 5, record->actor) ||
                    bind_text(row, 6, record->detail) || bind_blob(row, 7, hash, AUDIT_HASH_LEN)))
        rc = sqlite_fail(registry->db, registry->path, "add an audit record");
    if (rc == 0)
        rc = change_row(registry, row);
    statement_end(registry, row);
    return rc;
}

int audit_append(struct registry *registry, struct audit_record *record)
{
    struct link last = {0};
    uint8_t hash[AUDIT_HASH_LEN];
    /* Read each time, within the transaction: other processes append too. */
    int rc = read_own_last(registry, &last);
    if (rc)
        return rc;
    struct audit_record next = *record;
    next.seq = last.record.seq + 1;
    hash_record(&last, &next, hash);
    rc = insert_record(registry, &next, hash);
    if (rc)
        return rc;
    registry->appended.seq = record->seq = next.seq;
    memcpy(registry->appended.hash, hash, AUDIT_HASH_LEN);
    return 0;
}

static int insert_seal(struct registry *registry, int64_t seq, const uint8_t seal[static SEAL_LEN])
{
    sqlite3_stmt *row = NULL;
    int rc = change_begin(registry, QUERY_AUDIT_SEAL,
                          "INSERT INTO audit_seal (seq, seal) VALUES (?1, ?2)", &row);
    if (rc == 0 && (sqlite3_bind_int64(row, 1, seq) || bind_blob(row, 2, seal, SEAL_LEN)))
        rc = sqlite_fail(registry->db, registry->path, "seal the audit log");
    if (rc == 0)
        rc = change_row(registry, row);
    statement_end(registry, row);
    return rc;
}

int audit_seal(struct registry *registry, audit_sealer *seal, void *context)
{
    struct link last = {0};
    uint8_t bytes[SEAL_LEN];
    if (registry->appended.seq == 0) /* or all records were undone with their parts */
        return 0;
    int rc = read_own_last(registry, &last);
    if (rc == 0)
        rc = seal(context, last.hash, bytes);
    if (rc == 0)
        rc = insert_seal(registry, last.record.seq, bytes);
    if (rc == 0)
        registry->appended.seq = 0;
    return rc;
}

static int check_seal(const struct link *link, audit_sealer *seal, void *context)
{
    uint8_t bytes[SEAL_LEN];
    if (link->seal_len == 0)
        return 0;
    int rc = seal(context, link->hash, bytes);
    if (rc == 0 && CRYPTO_memcmp(bytes, link->seal, SEAL_LEN) != 0)
        rc = fail(FAIL_SEAL, "audit record %lld: its seal does not fit: the log was edited",
                  (long long)link->record.seq);
    return rc;
}

/* Whether a record follows the one before it. */
static int check_link(const struct link *before, const struct link *link)
{
    uint8_t hash[AUDIT_HASH_LEN];
    if (link->record.seq != before->record.seq + 1)
        return fail(FAIL_SEAL, "audit record %lld is missing: the log was edited",
                    (long long)before->record.seq + 1);
    hash_record(before, &link->record, hash);
    if (memcmp(hash, link->hash, AUDIT_HASH_LEN) != 0)
        return fail(FAIL_SEAL,
                    "audit record %lld: its hash does not fit it and the record before: the log "
                    "was edited",
                    (long long)link->record.seq);
    return 0;
}

static int check_chain(struct registry *registry, sqlite3_stmt *row, audit_sealer *seal,
                       void *context, struct link *ret_last)
{
    struct link before = {0};
    for (;;) {
        struct link link = {0};
        int rc = statement_row(registry, row);
        if (rc == FAIL_NOT_FOUND)
            break;
        if (rc == 0)
            rc = read_link(row, &link);
        if (rc == 0)
            rc = check_link(&before, &link);
        if (rc == 0)
            rc = check_seal(&link, seal, context);
        if (rc)
            return rc;
        before = link;
    }
    *ret_last = before;
    return 0;
}

/* A seal without its record: what is left when records were cut off at the end. */
static int check_no_stray_seal(struct registry *registry)
{
    sqlite3_stmt *row = NULL;
    int rc = statement_begin(registry, QUERY_AUDIT_STRAY_SEAL,
                             "SELECT min(seq) FROM audit_seal WHERE seq NOT IN"
                             " (SELECT seq FROM audit) HAVING min(seq) IS NOT NULL",
                             &row);
    if (rc == 0)
        rc = statement_row(registry, row);
    if (rc == 0)
        rc = fail(FAIL_SEAL, "audit record %lld is missing, its seal is there: the log was edited",
                  (long long)sqlite3_column_int64(row, 0));
    statement_end(registry, row);
    return rc == FAIL_NOT_FOUND ? 0 : rc;
}

static int walk_begin(struct registry *registry, int64_t after, size_t limit,
                      sqlite3_stmt **ret_row)
{
    int64_t most = limit > INT64_MAX ? INT64_MAX : (int64_t)limit;
    int rc = statement_begin(registry, QUERY_AUDIT_WALK,
                             SELECT_LINK " WHERE a.seq > ?1 ORDER BY a.seq LIMIT ?2", ret_row);
    if (rc == 0 &&
        (sqlite3_bind_int64(*ret_row, 1, after) || sqlite3_bind_int64(*ret_row, 2, most)))
        rc = sqlite_fail(registry->db, registry->path, "read the audit log");
    return rc;
}

int audit_verify(struct registry *registry, audit_sealer *seal, void *context, int64_t *ret_records)
{
    sqlite3_stmt *row = NULL;
    struct link last = {0};
    int rc = walk_begin(registry, INT64_MIN, SIZE_MAX, &row);
    if (rc == 0)
        rc = check_chain(registry, row, seal, context, &last);
    statement_end(registry, row);
    if (rc == 0 && last.record.seq > 0 && last.seal_len == 0)
        rc = fail(FAIL_SEAL, "audit record %lld, the last one, is not sealed: the log was edited",
                  (long long)last.record.seq);
    if (rc == 0)
        rc = check_no_stray_seal(registry);
    if (rc == 0)
        *ret_records = last.record.seq;
    return rc;
}

static int walk(struct registry *registry, sqlite3_stmt *row, audit_each *each, void *context)
{
    for (;;) {
        struct link link;
        int rc = statement_row(registry, row);
        if (rc == FAIL_NOT_FOUND)
            return 0;
        if (rc == 0)
            rc = read_link(row, &link);
        if (rc == 0)
            rc = each(context, &link.record);
        if (rc)
            return rc;
    }
}

int audit_list(struct registry *registry, int64_t after, size_t limit, audit_each *each,
               void *context)
{
    sqlite3_stmt *row = NULL;
    int rc = walk_begin(registry, after, limit, &row);
    if (rc == 0)
        rc = walk(registry, row, each, context);
    statement_end(registry, row);
    return rc;
}
