#include "db/statement.h"

#include <string.h>

#include "common/fail.h"
#include "db/schema.h"

int sqlite_fail(sqlite3 *db, const char *path, const char *what)
{
    int code = sqlite3_errcode(db) & 0xff; /* the primary of an extended code */
    if (code == SQLITE_BUSY || code == SQLITE_LOCKED)
        return fail(FAIL_BUSY, "registry %s: %s: another process is writing; try again", path,
                    what);
    return fail(FAIL_REGISTRY, "registry %s: %s: %s", path, what, sqlite3_errmsg(db));
}

int sqlite_run(sqlite3 *db, const char *path, const char *sql)
{
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK)
        return 0;
    return sqlite_fail(db, path, strlen(sql) < 64 ? sql : "schema");
}

void sqlite_undo(sqlite3 *db)
{
    if (!sqlite3_get_autocommit(db))
        sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
}

static int prepare(struct registry *registry, enum query query, const char *sql,
                   sqlite3_stmt **ret_statement)
{
    sqlite3_stmt **prepared = &registry->prepared[query];
    if (!*prepared && sqlite3_prepare_v3(registry->db, sql, -1, SQLITE_PREPARE_PERSISTENT, prepared,
                                         NULL) != SQLITE_OK)
        return sqlite_fail(registry->db, registry->path, "prepare");
    *ret_statement = *prepared;
    return 0;
}

/* Every schema that SQLite has read for this connection was looked at in the transaction in which
 * it was read: so a number that is known stands for a schema that is known, whoever set it. */
int schema_look(struct registry *registry)
{
    sqlite3_stmt *row = NULL;
    int rc = prepare(registry, QUERY_SCHEMA, "PRAGMA main.schema_version", &row);
    sqlite3_reset(row);
    if (rc == 0)
        rc = statement_row(registry, row);
    if (rc)
        return rc;
    int schema = sqlite3_column_int(row, 0);
    if (registry->schema_fits && registry->schema == schema)
        return 0;
    registry->schema = schema;
    rc = schema_check(registry->db, registry->path);
    registry->schema_fits = rc == 0;
    return rc;
}

int statement_begin(struct registry *registry, enum query query, const char *sql,
                    sqlite3_stmt **ret_statement)
{
    /* Within registry_begin() and _commit() nobody else changes the schema. */
    int rc = sqlite3_get_autocommit(registry->db) ? schema_look(registry) : 0;
    return rc == 0 ? prepare(registry, query, sql, ret_statement) : rc;
}

int change_begin(struct registry *registry, enum query query, const char *sql,
                 sqlite3_stmt **ret_statement)
{
    if (sqlite3_get_autocommit(registry->db))
        return fail(FAIL_REGISTRY, "registry %s: no transaction is open; nothing was changed",
                    registry->path);
    return statement_begin(registry, query, sql, ret_statement);
}

int statement_row(struct registry *registry, sqlite3_stmt *statement)
{
    switch (sqlite3_step(statement)) {
    case SQLITE_ROW:
        return 0;
    case SQLITE_DONE:
        return FAIL_NOT_FOUND;
    default:
        return sqlite_fail(registry->db, registry->path, "read");
    }
}

int change_rows(struct registry *registry, sqlite3_stmt *statement, int *ret_rows)
{
    if (sqlite3_step(statement) != SQLITE_DONE)
        return sqlite_fail(registry->db, registry->path, "write");
    *ret_rows = sqlite3_changes(registry->db);
    return 0;
}

int change_finish(struct registry *registry, sqlite3_stmt *statement, int *ret_changed)
{
    int rows = 0;
    int rc = change_rows(registry, statement, &rows);
    if (rc)
        return rc;
    if (rows > 1)
        return fail(FAIL_REGISTRY, "registry %s: %d rows were changed instead of one",
                    registry->path, rows);
    *ret_changed = rows == 1;
    return 0;
}

int change_row(struct registry *registry, sqlite3_stmt *statement)
{
    int changed = 0;
    int rc = change_finish(registry, statement, &changed);
    if (rc == 0 && !changed)
        rc = fail(FAIL_REGISTRY, "registry %s: a row was not written", registry->path);
    return rc;
}

void statement_end(struct registry *registry, sqlite3_stmt *statement)
{
    if (statement) {
        sqlite3_reset(statement);
        sqlite3_clear_bindings(statement);
    }
    sqlite3_reset(registry->prepared[QUERY_SCHEMA]);
}

int bind_text(sqlite3_stmt *statement, int parameter, const char *text)
{
    return sqlite3_bind_text(statement, parameter, text, -1, SQLITE_STATIC);
}

int bind_blob(sqlite3_stmt *statement, int parameter, const uint8_t *bytes, size_t len)
{
    return sqlite3_bind_blob64(statement, parameter, bytes, len, SQLITE_STATIC);
}

static int never_written(sqlite3_stmt *statement, int column)
{
    return fail(FAIL_SEAL, "%s holds what tmkd never writes: the file was edited or is damaged",
                sqlite3_column_name(statement, column));
}

int column_integer(sqlite3_stmt *statement, int column, int64_t least, int64_t most,
                   int64_t *ret_value)
{
    int64_t value = sqlite3_column_int64(statement, column);
    if (sqlite3_column_type(statement, column) != SQLITE_INTEGER || value < least || value > most)
        return never_written(statement, column);
    *ret_value = value;
    return 0;
}

int column_blob(sqlite3_stmt *statement, int column, size_t least, size_t most, uint8_t *ret_bytes,
                size_t *ret_len)
{
    if (sqlite3_column_type(statement, column) != SQLITE_BLOB)
        return never_written(statement, column);
    const void *bytes = sqlite3_column_blob(statement, column);
    size_t len = (size_t)sqlite3_column_bytes(statement, column);
    if (len < least || len > most || (len > 0 && !bytes))
        return never_written(statement, column);
    if (len > 0)
        memcpy(ret_bytes, bytes, len);
    *ret_len = len;
    return 0;
}

int column_text(sqlite3_stmt *statement, int column, size_t most, char *ret_text)
{
    if (sqlite3_column_type(statement, column) != SQLITE_TEXT)
        return never_written(statement, column);
    const unsigned char *text = sqlite3_column_text(statement, column);
    size_t len = (size_t)sqlite3_column_bytes(statement, column);
    if (!text || len > most || memchr(text, '\0', len))
        return never_written(statement, column);
    memcpy(ret_text, text, len);
    ret_text[len] = '\0';
    return 0;
}
