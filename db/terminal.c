#include "db/registry.h"

#include <string.h>

#include <openssl/sha.h>

#include "common/fail.h"
#include "db/statement.h"

/* A terminal, its newest TMK and what became of that; the columns as enum column names them. */
#define SELECT_TERMINAL                                                                            \
    "SELECT t.sn, t.spki, t.spki_sha256, t.state, t.batch, t.row_version, t.created, t.changed,"   \
    " t.seal, k.version, k.type, k.kcv, k.store, k.wrapped,"                                       \
    " d.delivered_at, d.delivered_count, d.confirmed_at"                                           \
    " FROM terminal t"                                                                             \
    " LEFT JOIN tmk k ON k.sn = t.sn AND k.version = (SELECT max(version) FROM tmk WHERE sn = "    \
    "t.sn)"                                                                                        \
    " LEFT JOIN delivery d ON d.sn = k.sn AND d.version = k.version"

enum column {
    SN,
    SPKI,
    SPKI_SHA256,
    STATE,
    BATCH,
    ROW_VERSION,
    CREATED,
    CHANGED,
    SEAL,
    TMK_VERSION,
    TMK_TYPE,
    TMK_KCV,
    TMK_STORE,
    TMK_WRAPPED,
    DELIVERED_AT,
    DELIVERED_COUNT,
    CONFIRMED_AT,
};

static int read_sn(sqlite3_stmt *row, int column, char ret_sn[static SN_MAX + 1])
{
    int rc = column_text(row, column, SN_MAX, ret_sn);
    if (rc == 0 && !sn_is_valid(ret_sn))
        rc = fail(FAIL_SEAL, "sn holds what tmkd never writes: the file was edited or is damaged");
    return rc;
}

static int read_key(sqlite3_stmt *row, struct terminal *ret)
{
    uint8_t digest[DIGEST_LEN];
    size_t len = 0;
    int rc = column_blob(row, SPKI, 1, SPKI_DER_MAX, ret->spki, &ret->spki_len);
    if (rc == 0)
        rc = column_blob(row, SPKI_SHA256, DIGEST_LEN, DIGEST_LEN, ret->spki_sha256, &len);
    if (rc)
        return rc;
    /* That a TKP_Pu belongs to one SN hangs on this column. */
    SHA256(ret->spki, ret->spki_len, digest);
    if (memcmp(digest, ret->spki_sha256, DIGEST_LEN) != 0)
        return fail(FAIL_SEAL,
                    "spki_sha256 is not that of spki: the file was edited or is damaged");
    return 0;
}

static int read_state(sqlite3_stmt *row, struct terminal *ret)
{
    int64_t state = 0;
    size_t len = 0;
    int rc = column_integer(row, STATE, TERMINAL_DISABLED, TERMINAL_ENABLED, &state);
    if (rc == 0)
        rc = column_text(row, BATCH, BATCH_MAX, ret->batch);
    if (rc == 0)
        rc = column_integer(row, ROW_VERSION, 1, INT64_MAX - 1, &ret->row_version);
    if (rc == 0)
        rc = column_integer(row, CREATED, 0, INT64_MAX, &ret->created);
    if (rc == 0)
        rc = column_integer(row, CHANGED, 0, INT64_MAX, &ret->changed);
    if (rc == 0)
        rc = column_blob(row, SEAL, SEAL_LEN, SEAL_LEN, ret->seal, &len);
    ret->state = (enum terminal_state)state;
    return rc;
}

static int read_tmk(sqlite3_stmt *row, struct terminal *ret)
{
    int64_t store = 0, type = 0, version = 0;
    if (sqlite3_column_type(row, TMK_STORE) == SQLITE_NULL &&
        sqlite3_column_type(row, TMK_VERSION) == SQLITE_NULL) {
        ret->store = TMK_STORE_NONE;
        return 0;
    }
    int rc = column_integer(row, TMK_STORE, TMK_STORE_TOKEN, TMK_STORE_KWP, &store);
    if (rc == 0)
        rc = column_integer(row, TMK_VERSION, 1, UINT32_MAX, &version);
    if (rc == 0)
        rc = column_integer(row, TMK_TYPE, TMK_DES2, TMK_AES256, &type);
    if (rc)
        return rc;
    ret->store = (enum tmk_store)store;
    ret->tmk.version = (uint32_t)version;
    ret->tmk.type = (enum tmk_type)type;

    size_t kcv_len = tmk_type_kcv_len(ret->tmk.type);
    size_t least = ret->store == TMK_STORE_TOKEN ? 0 : 1;
    size_t most = ret->store == TMK_STORE_TOKEN ? 0 : TMK_WRAPPED_MAX;
    rc = column_blob(row, TMK_KCV, kcv_len, kcv_len, ret->tmk.kcv, &ret->tmk.kcv_len);
    if (rc == 0)
        rc = column_blob(row, TMK_WRAPPED, least, most, ret->wrapped, &ret->wrapped_len);
    return rc;
}

static enum delivery_status status_of(const struct terminal *terminal)
{
    if (terminal->store == TMK_STORE_NONE)
        return DELIVERY_NONE;
    if (terminal->delivered_count == 0)
        return DELIVERY_READY;
    return terminal->confirmed_at ? DELIVERY_CONFIRMED : DELIVERY_DELIVERED;
}

static int read_delivery(sqlite3_stmt *row, struct terminal *ret)
{
    if (sqlite3_column_type(row, DELIVERED_AT) == SQLITE_NULL)
        return 0;
    int rc = column_integer(row, DELIVERED_AT, 1, INT64_MAX, &ret->delivered_at);
    if (rc == 0)
        rc = column_integer(row, DELIVERED_COUNT, 1, INT64_MAX, &ret->delivered_count);
    if (rc == 0)
        rc = column_integer(row, CONFIRMED_AT, 0, INT64_MAX, &ret->confirmed_at);
    return rc;
}

static int read_terminal(struct registry *registry, sqlite3_stmt *row, struct terminal *ret)
{
    struct terminal terminal = {0};
    int rc = read_sn(row, SN, terminal.sn);
    if (rc)
        return fail_in(rc, "registry %s", registry->path);
    rc = read_key(row, &terminal);
    if (rc == 0)
        rc = read_state(row, &terminal);
    if (rc == 0)
        rc = read_tmk(row, &terminal);
    if (rc == 0)
        rc = read_delivery(row, &terminal);
    if (rc)
        return fail_in(rc, "registry %s: terminal %s", registry->path, terminal.sn);
    terminal.status = status_of(&terminal);
    *ret = terminal;
    return 0;
}

int registry_find(struct registry *registry, const char *sn, struct terminal *ret_terminal)
{
    sqlite3_stmt *row = NULL;
    struct terminal found;
    int rc = statement_begin(registry, QUERY_FIND, SELECT_TERMINAL " WHERE t.sn = ?1", &row);
    if (rc == 0 && bind_text(row, 1, sn))
        rc = sqlite_fail(registry->db, registry->path, "find a terminal");
    if (rc == 0)
        rc = statement_row(registry, row);
    if (rc == FAIL_NOT_FOUND)
        fail(rc, "terminal %s is not registered", sn);
    if (rc == 0)
        rc = read_terminal(registry, row, &found);
    statement_end(registry, row);
    if (rc == 0 && strcmp(found.sn, sn) != 0)
        rc = fail(FAIL_SEAL, "registry %s: asked for terminal %s it gives %s: the file was edited",
                  registry->path, sn, found.sn);
    if (rc == 0)
        *ret_terminal = found;
    return rc;
}

int registry_find_key(struct registry *registry, const uint8_t spki_sha256[static DIGEST_LEN],
                      char ret_sn[static SN_MAX + 1])
{
    sqlite3_stmt *row = NULL;
    int rc = statement_begin(registry, QUERY_FIND_KEY,
                             "SELECT sn FROM terminal WHERE spki_sha256 = ?1", &row);
    if (rc == 0 && bind_blob(row, 1, spki_sha256, DIGEST_LEN))
        rc = sqlite_fail(registry->db, registry->path, "find a public key");
    if (rc == 0)
        rc = statement_row(registry, row);
    if (rc == FAIL_NOT_FOUND)
        fail(rc, "no terminal has this public key");
    if (rc == 0)
        rc = read_sn(row, 0, ret_sn);
    statement_end(registry, row);
    return rc;
}

/* What a list says of a row that read_terminal() refuses. */
static int read_damaged(struct registry *registry, sqlite3_stmt *row, struct terminal *ret)
{
    struct terminal terminal = {.state = TERMINAL_DAMAGED};
    int rc = read_sn(row, SN, terminal.sn);
    if (rc)
        return fail_in(rc, "registry %s", registry->path);
    *ret = terminal;
    return 0;
}

static int walk(struct registry *registry, sqlite3_stmt *row, registry_each *each, void *context)
{
    for (;;) {
        struct terminal terminal;
        int rc = statement_row(registry, row);
        if (rc == FAIL_NOT_FOUND)
            return 0;
        if (rc == 0)
            rc = read_terminal(registry, row, &terminal);
        if (rc == FAIL_SEAL)
            rc = read_damaged(registry, row, &terminal);
        if (rc == 0)
            rc = each(context, &terminal);
        if (rc)
            return rc;
    }
}

int registry_list(struct registry *registry, const char *after, size_t limit, registry_each *each,
                  void *context)
{
    sqlite3_stmt *row = NULL;
    int64_t most = limit > INT64_MAX ? INT64_MAX : (int64_t)limit;
    int rc = statement_begin(registry, QUERY_LIST,
                             SELECT_TERMINAL " WHERE t.sn > ?1 ORDER BY t.sn LIMIT ?2", &row);
    if (rc == 0 && (bind_text(row, 1, after) || sqlite3_bind_int64(row, 2, most)))
        rc = sqlite_fail(registry->db, registry->path, "list the terminals");
    if (rc == 0)
        rc = walk(registry, row, each, context);
    statement_end(registry, row);
    return rc;
}

int registry_count(struct registry *registry, int64_t *ret_count)
{
    sqlite3_stmt *row = NULL;
    int rc = statement_begin(registry, QUERY_COUNT, "SELECT count(*) FROM terminal", &row);
    if (rc == 0)
        rc = statement_row(registry, row);
    if (rc == 0)
        *ret_count = sqlite3_column_int64(row, 0);
    statement_end(registry, row);
    return rc;
}

/* Says which of the two is taken, after a UNIQUE constraint has failed. */
static int explain_conflict(struct registry *registry, const struct terminal *terminal)
{
    char sn[SN_MAX + 1];
    int rc = registry_find_key(registry, terminal->spki_sha256, sn);
    if (rc == 0 && strcmp(sn, terminal->sn) != 0)
        return fail(FAIL_EXISTS, "the public key of %s is that of terminal %s already",
                    terminal->sn, sn);
    if (rc == 0 || rc == FAIL_NOT_FOUND)
        return fail(FAIL_EXISTS, "terminal %s is registered already", terminal->sn);
    return rc;
}

static int add_row(struct registry *registry, const struct terminal *t)
{
    sqlite3_stmt *row = NULL;
    int rc = change_begin(registry, QUERY_ADD_TERMINAL,
                          "INSERT INTO terminal (sn, spki, spki_sha256, state, batch, row_version,"
                          " created, changed, seal) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                          &row);
    if (rc == 0 &&
        (bind_text(row, 1, t->sn) || bind_blob(row, 2, t->spki, t->spki_len) ||
         bind_blob(row, 3, t->spki_sha256, DIGEST_LEN) || sqlite3_bind_int(row, 4, (int)t->state) ||
         bind_text(row, 5, t->batch) || sqlite3_bind_int64(row, 6, t->row_version) ||
         sqlite3_bind_int64(row, 7, t->created) || sqlite3_bind_int64(row, 8, t->changed) ||
         bind_blob(row, 9, t->seal, SEAL_LEN)))
        rc = sqlite_fail(registry->db, registry->path, "add a terminal");
    if (rc == 0)
        rc = change_row(registry, row);
    int code = sqlite3_extended_errcode(registry->db);
    statement_end(registry, row);
    if (rc && (code == SQLITE_CONSTRAINT_PRIMARYKEY || code == SQLITE_CONSTRAINT_UNIQUE))
        return explain_conflict(registry, t);
    return rc;
}

/* *ret_added is 0 when there is a TMK of that version. */
static int add_tmk(struct registry *registry, const struct terminal *t, int *ret_added)
{
    sqlite3_stmt *row = NULL;
    int rc = change_begin(registry, QUERY_ADD_TMK,
                          "INSERT INTO tmk (sn, version, type, kcv, store, wrapped)"
                          " VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
                          " ON CONFLICT (sn, version) DO NOTHING",
                          &row);
    if (rc == 0 &&
        (bind_text(row, 1, t->sn) || sqlite3_bind_int64(row, 2, t->tmk.version) ||
         sqlite3_bind_int(row, 3, (int)t->tmk.type) ||
         bind_blob(row, 4, t->tmk.kcv, t->tmk.kcv_len) || sqlite3_bind_int(row, 5, (int)t->store) ||
         bind_blob(row, 6, t->wrapped, t->wrapped_len)))
        rc = sqlite_fail(registry->db, registry->path, "add a TMK");
    if (rc == 0)
        rc = change_finish(registry, row, ret_added);
    statement_end(registry, row);
    return rc;
}

int registry_add(struct registry *registry, const struct terminal *terminal)
{
    int added = 1;
    int rc = add_row(registry, terminal);
    if (rc == 0 && terminal->store != TMK_STORE_NONE)
        rc = add_tmk(registry, terminal, &added);
    if (rc == 0 && !added)
        rc = fail(FAIL_REGISTRY, "registry %s: the TMK of terminal %s was not written",
                  registry->path, terminal->sn);
    return rc;
}

int registry_update(struct registry *registry, const struct terminal *t)
{
    sqlite3_stmt *row = NULL;
    int changed = 0;
    int rc = change_begin(registry, QUERY_UPDATE,
                          "UPDATE terminal SET state = ?1, batch = ?2, row_version = ?3,"
                          " changed = ?4, seal = ?5 WHERE sn = ?6 AND row_version = ?3 - 1",
                          &row);
    if (rc == 0 &&
        (sqlite3_bind_int(row, 1, (int)t->state) || bind_text(row, 2, t->batch) ||
         sqlite3_bind_int64(row, 3, t->row_version) || sqlite3_bind_int64(row, 4, t->changed) ||
         bind_blob(row, 5, t->seal, SEAL_LEN) || bind_text(row, 6, t->sn)))
        rc = sqlite_fail(registry->db, registry->path, "change a terminal");
    if (rc == 0)
        rc = change_finish(registry, row, &changed);
    statement_end(registry, row);
    if (rc == 0 && !changed)
        rc =
            fail(FAIL_BUSY, "terminal %s was changed by somebody else meanwhile; try again", t->sn);
    return rc;
}

/* The row first: of two who make the same version, the second is to try again. */
int registry_rotate(struct registry *registry, const struct terminal *terminal)
{
    int added = 0;
    int rc = registry_update(registry, terminal);
    if (rc == 0)
        rc = add_tmk(registry, terminal, &added);
    if (rc == 0 && !added)
        rc = fail(FAIL_EXISTS, "terminal %s has a TMK of version %u already", terminal->sn,
                  terminal->tmk.version);
    return rc;
}

const char *terminal_state_name(enum terminal_state state)
{
    static const char *const names[] = {
        [TERMINAL_DISABLED] = "disabled",
        [TERMINAL_ENABLED] = "enabled",
        [TERMINAL_DAMAGED] = "damaged",
    };
    return names[state];
}
