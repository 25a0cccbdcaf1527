#include "tmkd/import.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/fail.h"
#include "common/hex.h"
#include "common/key_hygiene.h"
#include "db/audit.h"
#include "tmkd/issuance.h"
#include "tmkd/reply.h"

/* A row that is new. */
struct candidate {
    size_t row;
    struct issuance issuance;
};

struct import {
    json_t *rows; /* the request's; borrowed for as long as the request lives */
    json_t *results;
    int with_tmk;
    enum tmk_type type;
    int dry_run;
    char batch[BATCH_MAX + 1];
    char actor[AUDIT_ACTOR_MAX + 1];
    size_t candidate_count;
    struct candidate candidates[];
};

static int read_options(const json_t *request, struct import *import)
{
    const char *tmk = NULL;
    const char *batch = NULL;
    int rc = request_text(request, "tmk", &tmk);
    if (rc == 0)
        rc = request_text(request, "batch", &batch);
    if (rc < 0)
        return rc;
    if (strlen(batch) > BATCH_MAX)
        return fail(FAIL_MALFORMED, "a batch's name has at most %d characters", BATCH_MAX);
    memcpy(import->batch, batch, strlen(batch) + 1);
    import->dry_run = request_flag(request, "dry_run");
    import->with_tmk = strcmp(tmk, "none") != 0;
    return import->with_tmk ? tmk_type_from_name(tmk, &import->type) : 0;
}

int import_new(json_t *request, const char *actor, struct import **ret_import)
{
    json_t *rows = json_object_get(request, "rows");
    size_t count = json_array_size(rows);
    if (count == 0 || count > IMPORT_ROWS_MAX)
        return fail(FAIL_MALFORMED, "an import has 1 to %d rows", IMPORT_ROWS_MAX);
    struct import *import = calloc(1, sizeof(*import) + count * sizeof(import->candidates[0]));
    if (!import || !(import->results = json_array())) {
        free(import);
        return fail(FAIL_MEMORY, "no memory for %zu rows", count);
    }
    import->rows = rows;
    snprintf(import->actor, sizeof(import->actor), "%s", actor);
    int rc = read_options(request, import);
    if (rc < 0) {
        import_free(import);
        return rc;
    }
    *ret_import = import;
    return 0;
}

void import_free(struct import *import)
{
    if (!import)
        return;
    json_decref(import->results);
    free(import);
}

json_t *import_results(struct import *import)
{
    return import->results;
}

/* --- one row --- */

static int read_row(const json_t *row, struct terminal *terminal)
{
    const char *sn = NULL;
    const char *key = NULL;
    uint8_t der[SPKI_DER_MAX];
    size_t len = 0;
    struct spki spki;
    int rc = request_sn(row, &sn);
    if (rc == 0)
        rc = request_text(row, "public_key", &key);
    if (rc == 0)
        rc = base64_decode(key, der, sizeof(der), &len);
    if (rc == 0)
        rc = spki_read(der, len, &spki);
    if (rc == 0)
        rc = key_hygiene_check(&spki);
    if (rc < 0)
        return rc;
    memcpy(terminal->sn, sn, strlen(sn) + 1);
    terminal->spki_len = spki.der_len;
    memcpy(terminal->spki, spki.der, spki.der_len);
    memcpy(terminal->spki_sha256, spki.sha256, sizeof(terminal->spki_sha256));
    return 0;
}

/* 0 for a new one; FAIL_EXISTS and *ret_same 1 when the very same is there already. */
static int check_new(struct registry *registry, const struct terminal *terminal, int *ret_same)
{
    struct terminal there;
    char owner[SN_MAX + 1];
    *ret_same = 0;
    int rc = registry_find(registry, terminal->sn, &there);
    if (rc == 0) {
        *ret_same = memcmp(there.spki_sha256, terminal->spki_sha256, DIGEST_LEN) == 0;
        return fail(FAIL_EXISTS, "terminal %s is registered already, with another TKP_Pu",
                    terminal->sn);
    }
    if (rc != FAIL_NOT_FOUND)
        return rc;
    rc = registry_find_key(registry, terminal->spki_sha256, owner);
    if (rc == 0)
        return fail(FAIL_EXISTS, "the TKP_Pu of %s is that of terminal %s already", terminal->sn,
                    owner);
    return rc == FAIL_NOT_FOUND ? 0 : rc;
}

static int fill_in(struct import *import, struct station *station, struct issuance *issuance)
{
    struct terminal *terminal = &issuance->terminal;
    terminal->state = TERMINAL_ENABLED;
    terminal->row_version = 1;
    terminal->created = terminal->changed = time(NULL);
    memcpy(terminal->batch, import->batch, sizeof(terminal->batch));
    return import->with_tmk ? issuance_make(issuance, station, import->type, 1)
                            : vault_seal(station->vault, station->session, terminal);
}

static json_t *result_of(int rc, int same)
{
    if (rc == 0)
        return json_string("added");
    if (same)
        return json_string("present");
    return reply_error(rc, fail_text());
}

/* A row's own fault ends that row; a fault of token or registry ends the request. */
static int is_the_rows_fault(int rc)
{
    return rc == FAIL_MALFORMED || rc == FAIL_REFUSED || rc == FAIL_EXISTS;
}

static int prepare_row(struct import *import, struct station *station, size_t row)
{
    struct candidate *candidate = &import->candidates[import->candidate_count];
    int same = 0;
    candidate->row = row;
    int rc = read_row(json_array_get(import->rows, row), &candidate->issuance.terminal);
    if (rc == 0)
        rc = check_new(station->registry, &candidate->issuance.terminal, &same);
    /* FAIL_SEAL here is of the row that is there already, damaged. */
    if (rc < 0 && !is_the_rows_fault(rc) && rc != FAIL_SEAL)
        return rc;
    if (json_array_append_new(import->results, result_of(rc, same)) < 0)
        return fail(FAIL_MEMORY, "no memory for the results");
    if (rc < 0 || import->dry_run) {
        memset(candidate, 0, sizeof(*candidate));
        return 0;
    }
    import->candidate_count++; /* before the TMK is made, so that it can be taken back */
    return fill_in(import, station, &candidate->issuance);
}

/* Starts afresh each time: a lost token session has it called again. */
int import_prepare(struct import *import, struct station *station)
{
    int rc = import_undo(import, station);
    json_array_clear(import->results);
    for (size_t i = 0; i < json_array_size(import->rows) && rc == 0; i++)
        rc = prepare_row(import, station, i);
    if (rc < 0)
        import_undo(import, station);
    return rc;
}

/* --- writing and taking back --- */

int import_undo(struct import *import, struct station *station)
{
    for (size_t i = 0; i < import->candidate_count; i++)
        issuance_drop(&import->candidates[i].issuance, station);
    import->candidate_count = 0;
    return 0;
}

static int add(const struct import *import, struct station *station, struct issuance *issuance)
{
    const struct terminal *terminal = &issuance->terminal;
    struct audit_record record = {.at = terminal->created, .event = "added"};
    int rc = registry_add(station->registry, terminal);
    if (rc == 0)
        rc = issuance_index(issuance, station);
    if (rc < 0)
        return rc;
    memcpy(record.sn, terminal->sn, sizeof(record.sn));
    memcpy(record.actor, import->actor, sizeof(record.actor));
    snprintf(record.detail, sizeof(record.detail), "TMK %s",
             import->with_tmk ? tmk_type_name(terminal->tmk.type) : "none");
    return audit_append(station->registry, &record);
}

static int write_candidate(struct import *import, struct station *station,
                           struct candidate *candidate)
{
    int same = 0;
    int rc = check_new(station->registry, &candidate->issuance.terminal, &same);
    if (rc == 0)
        rc = add(import, station, &candidate->issuance);
    if (rc < 0 && !is_the_rows_fault(rc))
        return rc;
    if (rc < 0 && json_array_set_new(import->results, candidate->row, result_of(rc, same)) < 0)
        return fail(FAIL_MEMORY, "no memory for the results");
    if (rc < 0)
        issuance_drop(&candidate->issuance, station);
    return 0;
}

int import_write(struct import *import, struct station *station)
{
    int rc = 0;
    for (size_t i = 0; i < import->candidate_count && rc == 0; i++)
        rc = write_candidate(import, station, &import->candidates[i]);
    return rc;
}
