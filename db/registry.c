#include "db/registry.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fail.h"
#include "common/file.h"
#include "db/migrate.h"
#include "db/statement.h"

enum { BUSY_MS = 2000 }; /* how long a writer waits for another one */

static int not_there(const char *path)
{
    return fail(FAIL_CONFIG, "there is no registry at %s: `tmkctl init` makes one", path);
}

static int not_writable(const char *path)
{
    return fail(FAIL_CONFIG,
                "registry %s cannot be written by uid %u: it must own the file, those beside it "
                "(-wal, -shm) and their directory",
                path, geteuid());
}

/* Made empty here, because SQLite would make it readable for all; -wal and -shm get its mode. */
static int make_file(const char *path)
{
    int rc = file_create(path, 0600, NULL, 0);
    return rc == FAIL_EXISTS ? 0 : rc;
}

static int open_file(struct registry *registry)
{
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    if (sqlite3_open_v2(registry->path, &registry->db, flags, NULL) == SQLITE_OK)
        return 0;
    if (!registry->db)
        return fail(FAIL_MEMORY, "no memory for registry %s", registry->path);
    if (sqlite3_system_errno(registry->db) == ENOENT)
        return not_there(registry->path);
    return sqlite_fail(registry->db, registry->path, "open");
}

/* What holds for this connection; SQLite keeps none of it in the file. */
static int configure(const struct registry *registry, enum registry_mode mode)
{
    if (sqlite3_busy_timeout(registry->db, BUSY_MS) ||
        sqlite3_db_config(registry->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL))
        return sqlite_fail(registry->db, registry->path, "configure");
    int rc = sqlite_run(registry->db, registry->path,
                        "PRAGMA synchronous = FULL;"
                        "PRAGMA foreign_keys = ON;"
                        "PRAGMA trusted_schema = OFF;"
                        "PRAGMA cell_size_check = ON");
    if (rc == 0 && mode == REGISTRY_READ)
        rc = sqlite_run(registry->db, registry->path, "PRAGMA query_only = ON");
    return rc;
}

static int is_wal(sqlite3 *db)
{
    sqlite3_stmt *statement = NULL;
    int wal = sqlite3_prepare_v2(db, "PRAGMA journal_mode = WAL", -1, &statement, NULL) == 0 &&
              sqlite3_step(statement) == SQLITE_ROW &&
              strcmp((const char *)sqlite3_column_text(statement, 0), "wal") == 0;
    sqlite3_finalize(statement);
    return wal;
}

static int bring_up_to_date(const struct registry *registry, enum registry_mode mode)
{
    int version = 0;
    int rc = schema_version(registry->db, registry->path, &version);
    if (rc)
        return rc;
    if (version == 0 && mode != REGISTRY_CREATE)
        return not_there(registry->path);
    if (mode == REGISTRY_READ && version < migrations_count)
        return fail(FAIL_CONFIG, "registry %s has schema %d of %d: start tmkd to bring it up",
                    registry->path, version, migrations_count);
    if (mode == REGISTRY_READ)
        return 0;
    if (!is_wal(registry->db))
        return sqlite_fail(registry->db, registry->path, "write-ahead log");
    return version < migrations_count ? schema_migrate(registry->db, registry->path) : 0;
}

static int look_at_schema(struct registry *registry)
{
    int rc = schema_look(registry);
    statement_end(registry, NULL);
    return rc;
}

/* Begins a transaction to see whether -wal and -shm can be written too. While another process has
 * one, that is not known; the file is then no worse than busy. */
static int try_to_write(struct registry *registry)
{
    int rc = registry_begin(registry);
    registry_rollback(registry);
    return rc == FAIL_BUSY ? 0 : rc;
}

static struct registry *make_registry(const char *path)
{
    struct registry *registry = calloc(1, sizeof(*registry));
    if (registry && (registry->path = strdup(path)))
        return registry;
    free(registry);
    return NULL;
}

static int open_to_read(struct registry *registry, enum registry_mode mode)
{
    int rc = configure(registry, mode);
    if (rc == 0)
        rc = bring_up_to_date(registry, mode);
    return rc == 0 ? look_at_schema(registry) : rc;
}

/* SQLite opens a file that it may not write as one to be read, and does not say so. */
static int open_to_write(struct registry *registry, enum registry_mode mode)
{
    if (sqlite3_db_readonly(registry->db, "main"))
        return not_writable(registry->path);
    int rc = open_to_read(registry, mode);
    if (rc == 0)
        rc = try_to_write(registry);
    int code = sqlite3_errcode(registry->db) & 0xff; /* the primary of an extended code */
    if (rc == FAIL_REGISTRY && (code == SQLITE_READONLY || code == SQLITE_CANTOPEN))
        rc = not_writable(registry->path);
    return rc;
}

int registry_open(const char *path, enum registry_mode mode, struct registry **ret_registry)
{
    struct registry *registry = make_registry(path);
    if (!registry)
        return fail(FAIL_MEMORY, "no memory for registry %s", path);

    int rc = mode == REGISTRY_CREATE ? make_file(path) : 0;
    if (rc == 0)
        rc = open_file(registry);
    if (rc == 0)
        rc = mode == REGISTRY_READ ? open_to_read(registry, mode) : open_to_write(registry, mode);
    if (rc == 0) {
        *ret_registry = registry;
        registry = NULL;
    }
    registry_close(registry);
    return rc;
}

void registry_close(struct registry *registry)
{
    if (!registry)
        return;
    for (size_t i = 0; i < QUERIES; i++)
        sqlite3_finalize(registry->prepared[i]);
    sqlite3_close(registry->db); /* rolls back what is open */
    free(registry->path);
    free(registry);
}

int registry_begin(struct registry *registry)
{
    registry->appended.seq = 0;
    int rc = sqlite_run(registry->db, registry->path, "BEGIN IMMEDIATE");
    if (rc)
        return rc;
    rc = look_at_schema(registry);
    if (rc)
        registry_rollback(registry);
    return rc;
}

int registry_commit(struct registry *registry)
{
    int rc = 0;
    if (registry->appended.seq)
        rc = fail(FAIL_REGISTRY, "registry %s: the audit log is not sealed; nothing was changed",
                  registry->path);
    if (rc == 0)
        rc = sqlite_run(registry->db, registry->path, "COMMIT");
    if (rc)
        registry_rollback(registry);
    return rc;
}

void registry_rollback(struct registry *registry)
{
    registry->appended.seq = 0;
    sqlite_undo(registry->db);
}

int registry_part_begin(struct registry *registry)
{
    if (sqlite3_get_autocommit(registry->db)) /* there, SAVEPOINT would begin a transaction */
        return fail(FAIL_REGISTRY, "registry %s: no transaction is open", registry->path);
    registry->appended_before_part = registry->appended;
    return sqlite_run(registry->db, registry->path, "SAVEPOINT part");
}

int registry_part_keep(struct registry *registry)
{
    return sqlite_run(registry->db, registry->path, "RELEASE part");
}

/* When the part cannot be undone alone, the whole transaction is: its commit then fails. */
void registry_part_undo(struct registry *registry)
{
    if (sqlite_run(registry->db, registry->path, "ROLLBACK TO part; RELEASE part"))
        registry_rollback(registry);
    else
        registry->appended = registry->appended_before_part;
}
