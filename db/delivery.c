#include "db/registry.h"

#include "common/fail.h"
#include "db/statement.h"

/* One statement looks whether it may be delivered and counts, so that no change can come between.
 */
static const char count_delivery[] =
    "INSERT INTO delivery (sn, version, delivered_at, delivered_count, confirmed_at)"
    " SELECT t.sn, k.version, ?4, 1, 0 FROM terminal t JOIN tmk k ON k.sn = t.sn"
    " WHERE t.sn = ?1 AND t.row_version = ?2 AND t.state = 1 AND k.version = ?3"
    " AND k.kcv = ?6"
    " ON CONFLICT (sn, version) DO UPDATE"
    " SET delivered_at = excluded.delivered_at, delivered_count = delivered_count + 1"
    " WHERE confirmed_at = 0 OR ?5";

int registry_delivered(struct registry *registry, const char *sn, int64_t row_version,
                       const struct tmk_info *tmk, int64_t now, int again)
{
    sqlite3_stmt *row = NULL;
    int changed = 0;
    int rc = change_begin(registry, QUERY_DELIVERED, count_delivery, &row);
    if (rc == 0 &&
        (bind_text(row, 1, sn) || sqlite3_bind_int64(row, 2, row_version) ||
         sqlite3_bind_int64(row, 3, tmk->version) || sqlite3_bind_int64(row, 4, now) ||
         sqlite3_bind_int(row, 5, again != 0) || bind_blob(row, 6, tmk->kcv, tmk->kcv_len)))
        rc = sqlite_fail(registry->db, registry->path, "count a delivery");
    if (rc == 0)
        rc = change_finish(registry, row, &changed);
    statement_end(registry, row);
    if (rc == 0 && !changed)
        rc = fail(FAIL_REFUSED,
                  "TMK %u of terminal %s is confirmed already, or the terminal was changed "
                  "meanwhile",
                  tmk->version, sn);
    return rc;
}

int registry_confirmed(struct registry *registry, const char *sn, const struct tmk_info *tmk,
                       int64_t now)
{
    sqlite3_stmt *row = NULL;
    int changed = 0;
    int rc =
        change_begin(registry, QUERY_CONFIRMED,
                     "UPDATE delivery SET confirmed_at = ?3 WHERE sn = ?1 AND version = ?2"
                     " AND EXISTS (SELECT 1 FROM tmk WHERE sn = ?1 AND version = ?2 AND kcv = ?4)",
                     &row);
    if (rc == 0 && (bind_text(row, 1, sn) || sqlite3_bind_int64(row, 2, tmk->version) ||
                    sqlite3_bind_int64(row, 3, now) || bind_blob(row, 4, tmk->kcv, tmk->kcv_len)))
        rc = sqlite_fail(registry->db, registry->path, "record a confirmation");
    if (rc == 0)
        rc = change_finish(registry, row, &changed);
    statement_end(registry, row);
    if (rc == 0 && !changed)
        rc = fail(FAIL_NOT_FOUND, "TMK %u of terminal %s was never delivered", tmk->version, sn);
    return rc;
}

/* Confirmed no more; a TMK that was not yet delivered, or not yet confirmed, is open anyway. */
static int unconfirm(struct registry *registry, const struct terminal *terminal)
{
    int changed = 0;
    sqlite3_stmt *row = NULL;
    int rc =
        change_begin(registry, QUERY_REOPEN,
                     "UPDATE delivery SET confirmed_at = 0 WHERE sn = ?1 AND version = ?2", &row);
    if (rc == 0 &&
        (bind_text(row, 1, terminal->sn) || sqlite3_bind_int64(row, 2, terminal->tmk.version)))
        rc = sqlite_fail(registry->db, registry->path, "reopen a delivery");
    if (rc == 0)
        rc = change_finish(registry, row, &changed);
    statement_end(registry, row);
    if (rc == 0 && !changed && terminal->delivered_count > 0)
        rc = fail(FAIL_REGISTRY, "registry %s: terminal %s was not reopened", registry->path,
                  terminal->sn);
    return rc;
}

int registry_reopen(struct registry *registry, const char *sn)
{
    struct terminal terminal;
    int rc = registry_find(registry, sn, &terminal);
    if (rc == 0 && terminal.store == TMK_STORE_NONE)
        rc = fail(FAIL_NOT_FOUND, "terminal %s has no TMK", sn);
    return rc == 0 ? unconfirm(registry, &terminal) : rc;
}

const char *delivery_status_name(enum delivery_status status)
{
    static const char *const names[] = {"none", "ready", "delivered", "confirmed"};
    return names[status];
}
