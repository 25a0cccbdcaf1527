#include "db/schema.h"

#include "common/fail.h"
#include "db/migrate.h"
#include "db/statement.h"

/* Its words may be an attacker's: LABEL is fit to be printed. */
#define SELECT_OBJECTS                                                                             \
    "SELECT type, name, tbl_name, sql, CASE WHEN type || name NOT GLOB '*[^!-~]*'"                 \
    " THEN substr(type || ' ' || name, 1, 64) ELSE 'an object of an odd name' END"                 \
    " FROM main.sqlite_schema"
#define SELECT_SAME                                                                                \
    "SELECT 1 FROM main.sqlite_schema"                                                             \
    " WHERE type IS ?1 AND name IS ?2 AND tbl_name IS ?3 AND sql IS ?4"

enum object { TYPE, NAME, TABLE, SQL, LABEL };

static int make_pattern(sqlite3 **ret_pattern)
{
    static const char nowhere[] = ":memory:";
    sqlite3 *pattern = NULL;
    int rc = 0;
    if (sqlite3_open(nowhere, &pattern) != SQLITE_OK)
        rc = fail(FAIL_MEMORY, "no memory to compare the registry's schema");
    for (int i = 0; rc == 0 && i < migrations_count; i++)
        rc = sqlite_run(pattern, nowhere, migrations[i]);
    *ret_pattern = pattern;
    return rc;
}

/* SQLITE_ROW: the other schema has that object, in the same words; SQLITE_DONE: it has not. */
static int look_for(sqlite3_stmt *same, sqlite3_stmt *object)
{
    int code = SQLITE_OK;
    for (int i = 0; i < LABEL && code == SQLITE_OK; i++)
        code = sqlite3_bind_value(same, i + 1, sqlite3_column_value(object, i));
    if (code == SQLITE_OK)
        code = sqlite3_step(same);
    sqlite3_reset(same);
    return code;
}

/* SQLITE_ROW: objects stands at the first that the other schema has not; SQLITE_DONE: none. */
static int find_stranger(sqlite3_stmt *objects, sqlite3_stmt *same)
{
    int code = sqlite3_step(objects);
    while (code == SQLITE_ROW) {
        code = look_for(same, objects);
        if (code == SQLITE_DONE)
            return SQLITE_ROW;
        if (code == SQLITE_ROW)
            code = sqlite3_step(objects);
    }
    return code;
}

/* That `one` has no object that `other` has not; what it means when it has. */
static int check_objects(sqlite3 *one, sqlite3 *other, const char *path, const char *meaning)
{
    sqlite3_stmt *objects = NULL, *same = NULL;
    int rc = 0;
    int code = sqlite3_prepare_v2(one, SELECT_OBJECTS, -1, &objects, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_prepare_v2(other, SELECT_SAME, -1, &same, NULL);
    if (code == SQLITE_OK)
        code = find_stranger(objects, same);
    if (code == SQLITE_ROW)
        rc = fail(FAIL_REGISTRY, "registry %s: %s %s", path,
                  (const char *)sqlite3_column_text(objects, LABEL), meaning);
    else if (code != SQLITE_DONE)
        rc = fail(FAIL_REGISTRY, "registry %s: its schema: %s", path, sqlite3_errstr(code));
    sqlite3_finalize(objects);
    sqlite3_finalize(same);
    return rc;
}

int schema_check(sqlite3 *db, const char *path)
{
    sqlite3 *pattern = NULL;
    int rc = make_pattern(&pattern);
    if (rc == 0) /* what SQLite has read before may have been something else */
        rc = sqlite_run(db, path, "PRAGMA writable_schema = RESET");
    if (rc == 0)
        rc = check_objects(db, pattern, path,
                           "is not as tmkd makes it: the file was edited; drop what was added, or "
                           "go back to a copy");
    if (rc == 0)
        rc = check_objects(pattern, db, path, "is missing: the file was edited; go back to a copy");
    sqlite3_close(pattern);
    return rc;
}
