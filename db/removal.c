#include "db/registry.h"

#include "common/fail.h"
#include "db/statement.h"

static int read_versions(struct registry *registry, sqlite3_stmt *row, uint32_t *ret_versions,
                         size_t size, size_t *ret_count)
{
    size_t count = 0;
    while (count < size) {
        int64_t version = 0;
        int rc = statement_row(registry, row);
        if (rc == FAIL_NOT_FOUND)
            break;
        if (rc == 0)
            rc = column_integer(row, 0, 1, UINT32_MAX, &version);
        if (rc)
            return rc;
        ret_versions[count++] = (uint32_t)version;
    }
    *ret_count = count;
    return 0;
}

int registry_versions(struct registry *registry, const char *sn, uint32_t below,
                      uint32_t *ret_versions, size_t size, size_t *ret_count)
{
    sqlite3_stmt *row = NULL;
    int rc = statement_begin(registry, QUERY_VERSIONS,
                             "SELECT version FROM tmk WHERE sn = ?1 AND version < ?2"
                             " ORDER BY version",
                             &row);
    if (rc == 0 && (bind_text(row, 1, sn) || sqlite3_bind_int64(row, 2, below)))
        rc = sqlite_fail(registry->db, registry->path, "list the TMKs of a terminal");
    if (rc == 0)
        rc = read_versions(registry, row, ret_versions, size, ret_count);
    statement_end(registry, row);
    return rc == FAIL_SEAL ? fail_in(rc, "registry %s: terminal %s", registry->path, sn) : rc;
}

/* Runs a DELETE of which ?1 is the SN and, unless below is NULL, ?2 a version. */
static int delete_rows(struct registry *registry, enum query query, const char *sql, const char *sn,
                       const uint32_t *below, int *ret_rows)
{
    sqlite3_stmt *row = NULL;
    int rc = change_begin(registry, query, sql, &row);
    if (rc == 0 && (bind_text(row, 1, sn) || (below && sqlite3_bind_int64(row, 2, *below))))
        rc = sqlite_fail(registry->db, registry->path, "delete");
    if (rc == 0)
        rc = change_rows(registry, row, ret_rows);
    statement_end(registry, row);
    return rc;
}

/* A trigger can have the effect that a row stays. */
static int check_retired(struct registry *registry, const char *sn, uint32_t below)
{
    uint32_t version = 0;
    size_t count = 0;
    int rc = registry_versions(registry, sn, below, &version, 1, &count);
    if (rc == 0 && count > 0)
        rc = fail(FAIL_REGISTRY, "registry %s: TMK %u of terminal %s was not deleted",
                  registry->path, version, sn);
    return rc;
}

int registry_retire(struct registry *registry, const char *sn, uint32_t below)
{
    int rows = 0;
    int rc = delete_rows(registry, QUERY_RETIRE_DELIVERY,
                         "DELETE FROM delivery WHERE sn = ?1 AND version < ?2", sn, &below, &rows);
    if (rc == 0)
        rc = delete_rows(registry, QUERY_RETIRE_TMK,
                         "DELETE FROM tmk WHERE sn = ?1 AND version < ?2", sn, &below, &rows);
    return rc == 0 ? check_retired(registry, sn, below) : rc;
}

/* Reads nothing of the rows, so that damaged ones go too. Where one stays, its foreign key keeps
 * the row that it hangs on. */
int registry_remove(struct registry *registry, const char *sn)
{
    int rows = 0;
    int rc = delete_rows(registry, QUERY_REMOVE_DELIVERY, "DELETE FROM delivery WHERE sn = ?1", sn,
                         NULL, &rows);
    if (rc == 0)
        rc = delete_rows(registry, QUERY_REMOVE_TMK, "DELETE FROM tmk WHERE sn = ?1", sn, NULL,
                         &rows);
    if (rc == 0)
        rc = delete_rows(registry, QUERY_REMOVE_TERMINAL, "DELETE FROM terminal WHERE sn = ?1", sn,
                         NULL, &rows);
    if (rc == 0 && rows == 0)
        rc = fail(FAIL_NOT_FOUND, "terminal %s is not registered", sn);
    return rc;
}
