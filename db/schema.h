#ifndef DB_SCHEMA_H
#define DB_SCHEMA_H

/* Whether a file's schema is the one that the migrations make. Only for db/. */

#include <sqlite3.h>

/* Reads the schema from the file anew and compares each object (type, name, table, SQL) with those
 * of an empty registry. A trigger, a view or a collation more could drop audit records or lead to
 * other rows, so FAIL_REGISTRY with a sentence that names the first object that differs. Only
 * inside a transaction does the answer last. */
int schema_check(sqlite3 *db, const char *path);

#endif
