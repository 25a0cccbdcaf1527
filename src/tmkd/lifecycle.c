#include "tmkd/lifecycle.h"

#include <string.h>
#include <time.h>

#include "common/fail.h"

int lifecycle_find(struct station *station, const char *sn, struct terminal *ret_terminal)
{
    int rc = registry_find(station->registry, sn, ret_terminal);
    return rc < 0 ? rc : vault_check_seal(station->vault, station->session, ret_terminal);
}

static void touch(struct terminal *terminal)
{
    terminal->row_version++;
    terminal->changed = time(NULL);
}

int lifecycle_set_state(struct station *station, enum terminal_state state,
                        struct terminal *terminal)
{
    terminal->state = state;
    touch(terminal);
    int rc = vault_seal(station->vault, station->session, terminal);
    return rc < 0 ? rc : registry_update(station->registry, terminal);
}

int lifecycle_prepare_rotation(struct station *station, const char *sn, const char *type,
                               struct issuance *ret_issuance)
{
    struct terminal *terminal = &ret_issuance->terminal;
    issuance_drop(ret_issuance, station); /* a lost session has this called again */
    int rc = lifecycle_find(station, sn, terminal);
    if (rc < 0)
        return rc;
    int has_tmk = terminal->store != TMK_STORE_NONE;
    enum tmk_type next = terminal->tmk.type;
    uint32_t version = has_tmk ? terminal->tmk.version + 1 : 1;
    if (type[0])
        rc = tmk_type_from_name(type, &next);
    else if (!has_tmk)
        rc = fail(FAIL_REFUSED, "terminal %s has no TMK yet: name the type of its first", sn);
    if (rc < 0)
        return rc;
    touch(terminal);
    terminal->wrapped_len = 0;
    if ((rc = issuance_make(ret_issuance, station, next, version)) < 0)
        issuance_drop(ret_issuance, station);
    return rc;
}

/* What is kept until a newer one is confirmed must not grow for ever. */
static int check_older_versions(struct station *station, const struct terminal *terminal)
{
    uint32_t versions[RETIRED_MAX];
    size_t count = 0;
    int rc = registry_versions(station->registry, terminal->sn, terminal->tmk.version, versions,
                               RETIRED_MAX, &count);
    if (rc == 0 && count == RETIRED_MAX)
        rc = fail(FAIL_REFUSED,
                  "terminal %s has %d TMKs of which none was confirmed since: let it download, or "
                  "remove it and add it again",
                  terminal->sn, RETIRED_MAX);
    return rc;
}

int lifecycle_rotate(struct station *station, struct issuance *issuance)
{
    int rc = check_older_versions(station, &issuance->terminal);
    if (rc == 0)
        rc = registry_rotate(station->registry, &issuance->terminal);
    return rc < 0 ? rc : issuance_index(issuance, station);
}

int lifecycle_remove(struct station *station, const char *sn, struct retired *ret_retired)
{
    int rc = retired_collect(station, sn, UINT32_MAX, ret_retired);
    if (rc < 0 && rc != FAIL_SEAL) /* a damaged row is removed with the rest */
        return rc;
    return registry_remove(station->registry, sn);
}
