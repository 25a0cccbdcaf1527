#ifndef DB_MIGRATE_H
#define DB_MIGRATE_H

/* The registry's schema and how a file comes to have it. Only for db/. */

#include <sqlite3.h>

/* SQL of the numbered migrations; number n is migrations[n - 1]. Made from schema/NNN_name.sql. */
extern const char *const migrations[];
extern const int migrations_count;

/* What the file is: its number of migrations, 0 for an empty one, into *ret_version. FAIL_CONFIG
 * when it is somebody else's database or of a schema newer than this program. */
int schema_version(sqlite3 *db, const char *path, int *ret_version);

/* Runs the migrations that are missing, all in one transaction. FAIL_BUSY, FAIL_REGISTRY. */
int schema_migrate(sqlite3 *db, const char *path);

#endif
