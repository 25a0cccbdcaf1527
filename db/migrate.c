#include "db/migrate.h"

#include <stdint.h>

#include "common/fail.h"
#include "db/statement.h"

/* In the file's header, bytes 68 to 71: "TMKD". */
enum { APPLICATION_ID = 0x544d4b44 };

static int read_number(sqlite3 *db, const char *path, const char *sql, int *ret_number)
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(db, sql, -1, &statement, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_step(statement);
    if (code == SQLITE_ROW)
        *ret_number = sqlite3_column_int(statement, 0);
    int rc = code == SQLITE_ROW ? 0 : sqlite_fail(db, path, "its header");
    sqlite3_finalize(statement);
    return rc;
}

static int set_number(sqlite3 *db, const char *path, const char *pragma, int number)
{
    char sql[64];
    sqlite3_snprintf(sizeof(sql), sql, "PRAGMA %s = %d", pragma, number);
    return sqlite_run(db, path, sql);
}

int schema_version(sqlite3 *db, const char *path, int *ret_version)
{
    int application = 0, version = 0, objects = 0;
    int rc = read_number(db, path, "PRAGMA application_id", &application);
    if (rc == 0)
        rc = read_number(db, path, "PRAGMA user_version", &version);
    if (rc == 0)
        rc = read_number(db, path, "SELECT count(*) FROM sqlite_schema", &objects);
    if (rc)
        return rc;
    int is_empty = application == 0 && version == 0 && objects == 0;
    if (!is_empty && (application != APPLICATION_ID || version < 1))
        return fail(FAIL_CONFIG, "%s is a database, but not a registry of tmkd", path);
    if (version > migrations_count)
        return fail(FAIL_CONFIG,
                    "registry %s has schema %d, this program knows up to %d: install a newer tmkd",
                    path, version, migrations_count);
    *ret_version = version;
    return 0;
}

static int run_missing(sqlite3 *db, const char *path)
{
    int version = 0;
    /* Read again: another process may have done it between the look and the lock. */
    int rc = schema_version(db, path, &version);
    for (int i = version; rc == 0 && i < migrations_count; i++)
        rc = sqlite_run(db, path, migrations[i]);
    if (rc == 0)
        rc = set_number(db, path, "user_version", migrations_count);
    if (rc == 0)
        rc = set_number(db, path, "application_id", APPLICATION_ID);
    return rc;
}

int schema_migrate(sqlite3 *db, const char *path)
{
    int rc = sqlite_run(db, path, "BEGIN IMMEDIATE");
    if (rc)
        return rc;
    rc = run_missing(db, path);
    if (rc == 0)
        rc = sqlite_run(db, path, "COMMIT");
    if (rc)
        sqlite_undo(db);
    return rc;
}
