#include "tmkd/issuance.h"

#include <string.h>

#include "common/fail.h"

int issuance_make(struct issuance *issuance, struct station *station, enum tmk_type type,
                  uint32_t version)
{
    int rc = vault_make_tmk(station->vault, station->session, type, version, &issuance->terminal,
                            &issuance->made);
    return rc < 0 ? rc : vault_seal(station->vault, station->session, &issuance->terminal);
}

int issuance_index(struct issuance *issuance, struct station *station)
{
    const struct terminal *terminal = &issuance->terminal;
    if (!issuance->made)
        return 0;
    int rc = vault_add_tmk(station->vault, station->session, terminal->sn, terminal->tmk.version,
                           issuance->made);
    issuance->indexed = rc == 0;
    return rc;
}

void issuance_drop(struct issuance *issuance, struct station *station)
{
    const struct terminal *terminal = &issuance->terminal;
    if (issuance->indexed)
        vault_drop_tmk(station->vault, terminal->sn, terminal->tmk.version, issuance->made);
    if (issuance->made)
        token_destroy(station->session, issuance->made);
    memset(issuance, 0, sizeof(*issuance));
}

/* A version without an object in the token, in the wrapped store say, needs no destroying. */
static void collect_one(struct station *station, uint32_t version, struct retired *retired)
{
    token_handle tmk;
    if (vault_find_tmk(station->vault, retired->sn, version, &tmk) < 0)
        return;
    retired->tmks[retired->count].version = version;
    retired->tmks[retired->count].tmk = tmk;
    retired->count++;
}

int retired_collect(struct station *station, const char *sn, uint32_t below,
                    struct retired *ret_retired)
{
    uint32_t versions[RETIRED_MAX];
    size_t count = 0;
    int rc = registry_versions(station->registry, sn, below, versions, RETIRED_MAX, &count);
    if (rc < 0 || count == 0)
        return rc;
    memcpy(ret_retired->sn, sn, strlen(sn) + 1);
    for (size_t i = 0; i < count; i++)
        collect_one(station, versions[i], ret_retired);
    return registry_retire(station->registry, sn, below);
}

int retired_destroy(struct retired *retired, struct station *station)
{
    int rc = 0;
    for (size_t i = 0; i < retired->count; i++) {
        vault_drop_tmk(station->vault, retired->sn, retired->tmks[i].version, retired->tmks[i].tmk);
        int destroyed = token_destroy(station->session, retired->tmks[i].tmk);
        rc = rc < 0 ? rc : destroyed;
    }
    return rc;
}
