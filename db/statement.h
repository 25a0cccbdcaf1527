#ifndef DB_STATEMENT_H
#define DB_STATEMENT_H

/*
 * SQLite as the files of db/ use it: statements prepared once a connection, rows read without
 * trust. Only for db/.
 *
 * The file can be edited with other tools than tmkd, so a column may hold anything. What tmkd
 * never writes is FAIL_SEAL, before a byte of it is used.
 */

#include <stddef.h>
#include <stdint.h>

#include <sqlite3.h>

#include "db/registry.h"

/* The statements of the serving path and of the changes, each prepared at its first use. */
enum query {
    QUERY_SCHEMA,
    QUERY_FIND,
    QUERY_FIND_KEY,
    QUERY_LIST,
    QUERY_COUNT,
    QUERY_ADD_TERMINAL,
    QUERY_ADD_TMK,
    QUERY_UPDATE,
    QUERY_VERSIONS,
    QUERY_RETIRE_DELIVERY,
    QUERY_RETIRE_TMK,
    QUERY_REMOVE_DELIVERY,
    QUERY_REMOVE_TMK,
    QUERY_REMOVE_TERMINAL,
    QUERY_DELIVERED,
    QUERY_CONFIRMED,
    QUERY_REOPEN,
    QUERY_AUDIT_LAST,
    QUERY_AUDIT_APPEND,
    QUERY_AUDIT_SEAL,
    QUERY_AUDIT_WALK,
    QUERY_AUDIT_STRAY_SEAL,
    QUERIES /* how many there are */
};

/* An audit record, as far as the next one hangs on it. */
struct log_end {
    int64_t seq; /* 0: none */
    uint8_t hash[DIGEST_LEN];
};

struct registry {
    sqlite3 *db;
    char *path;
    sqlite3_stmt *prepared[QUERIES];
    int schema_fits;         /* the schema of this number is what the migrations make */
    int schema;              /* SQLite's count of the changes of a schema */
    struct log_end appended; /* the last record this transaction has added and not yet sealed */
    struct log_end appended_before_part;
};

/* Keeps "registry PATH: WHAT: SQLite's words". FAIL_BUSY when another has the lock, else
 * FAIL_REGISTRY. */
int sqlite_fail(sqlite3 *db, const char *path, const char *what);

/* Runs SQL that gives no rows and takes no values. */
int sqlite_run(sqlite3 *db, const char *path, const char *sql);

/* Rolls back if there is a transaction, which SQLite may have ended itself (a full disk). */
void sqlite_undo(sqlite3 *db);

/* Begins a read transaction, unless one is open already, and looks whether the schema in it is what
 * the migrations make (db/schema.h). Mostly that is one number compared, some microseconds. The
 * transaction lasts until statement_end(). */
int schema_look(struct registry *registry);

/* The prepared statement, unbound, in a transaction whose schema was looked at; give it back with
 * statement_end(). */
int statement_begin(struct registry *registry, enum query query, const char *sql,
                    sqlite3_stmt **ret_statement);

/* As statement_begin(), for a change: FAIL_REGISTRY when no transaction is open, because then the
 * change would be a transaction of its own. */
int change_begin(struct registry *registry, enum query query, const char *sql,
                 sqlite3_stmt **ret_statement);

/* Steps to the next row. FAIL_NOT_FOUND (with no sentence of its own) when there is none. */
int statement_row(struct registry *registry, sqlite3_stmt *statement);

/* Steps a change to its end; how many rows it changed into *ret_rows. */
int change_rows(struct registry *registry, sqlite3_stmt *statement, int *ret_rows);

/* Steps a change to its end; whether it changed its row into *ret_changed. FAIL_REGISTRY when it
 * changed more than one. */
int change_finish(struct registry *registry, sqlite3_stmt *statement, int *ret_changed);

/* As change_finish(); FAIL_REGISTRY when no row was changed: a trigger can have that effect. */
int change_row(struct registry *registry, sqlite3_stmt *statement);

/* Ends the read transaction that statement_begin() or schema_look() has begun. A statement of NULL
 * is accepted. */
void statement_end(struct registry *registry, sqlite3_stmt *statement);

/* Bind values that stay until statement_end(). Each returns an SQLite code, 0 for done, so that
 * a caller can "or" them. */
int bind_text(sqlite3_stmt *statement, int parameter, const char *text);
int bind_blob(sqlite3_stmt *statement, int parameter, const uint8_t *bytes, size_t len);

/* Read a column that holds what tmkd writes, else FAIL_SEAL: an integer of least to most; a blob
 * of least to most bytes; text of at most `most` bytes, ret_text having one more. */
int column_integer(sqlite3_stmt *statement, int column, int64_t least, int64_t most,
                   int64_t *ret_value);
int column_blob(sqlite3_stmt *statement, int column, size_t least, size_t most, uint8_t *ret_bytes,
                size_t *ret_len);
int column_text(sqlite3_stmt *statement, int column, size_t most, char *ret_text);

#endif
