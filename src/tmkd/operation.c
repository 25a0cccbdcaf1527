#include "tmkd/operation.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/fail.h"
#include "common/log.h"
#include "tmkd/audit_key.h"
#include "tmkd/import.h"
#include "tmkd/lifecycle.h"
#include "tmkd/reply.h"

enum { LIST_MOST = 1024 };

struct operation {
    struct job job;
    struct crew *crew;
    const struct conf *conf;
    const struct operation_kind *kind;
    json_t *request;
    json_t *value; /* of the ok answer */
    struct import *import;
    struct issuance rotation;
    struct retired retired;
    char actor[AUDIT_ACTOR_MAX + 1];
    operation_answer *answer;
    void *context;
};

struct operation_kind {
    const char *name;
    int (*read)(struct operation *operation, struct station *station);
    int (*write)(struct operation *operation, struct station *station); /* NULL: no change */
    int (*undo)(struct operation *operation, struct station *station);  /* it was not written */
    int (*clear)(struct operation *operation, struct station *station); /* it was written */
};

static int set_value(struct operation *operation, json_t *value)
{
    json_decref(operation->value);
    operation->value = value;
    return value ? 0 : fail(FAIL_MEMORY, "no memory for the answer");
}

/* --- looking --- */

static int show_terminal(struct operation *operation, struct station *station)
{
    const char *sn;
    struct terminal terminal;
    int rc = request_sn(operation->request, &sn);
    if (rc == 0)
        rc = registry_find(station->registry, sn, &terminal);
    return rc < 0 ? rc : set_value(operation, reply_terminal(&terminal));
}

static int show_tmk(struct operation *operation, struct station *station)
{
    const char *sn;
    struct terminal terminal;
    int rc = request_sn(operation->request, &sn);
    if (rc == 0)
        rc = registry_find(station->registry, sn, &terminal);
    if (rc == 0 && terminal.store == TMK_STORE_NONE)
        rc = fail(FAIL_NOT_FOUND, "terminal %s has no TMK", sn);
    return rc < 0 ? rc : set_value(operation, reply_tmk(&terminal));
}

static int add_to_array(json_t *array, json_t *item)
{
    return json_array_append_new(array, item) < 0 ? fail(FAIL_MEMORY, "no memory for the answer")
                                                  : 0;
}

static int list_one_terminal(void *context, const struct terminal *terminal)
{
    return add_to_array(context, reply_terminal(terminal));
}

static int list_terminals(struct operation *operation, struct station *station)
{
    const char *after;
    int64_t limit;
    int rc = request_text(operation->request, "after", &after);
    if (rc == 0)
        rc = request_number(operation->request, "limit", 1, LIST_MOST, &limit);
    if (rc == 0)
        rc = set_value(operation, json_array());
    return rc < 0 ? rc
                  : registry_list(station->registry, after, (size_t)limit, list_one_terminal,
                                  operation->value);
}

static int list_one_record(void *context, const struct audit_record *record)
{
    return add_to_array(context, reply_audit(record));
}

static int list_audit(struct operation *operation, struct station *station)
{
    int64_t after;
    int64_t limit;
    int rc = request_number(operation->request, "after", 0, INT64_MAX, &after);
    if (rc == 0)
        rc = request_number(operation->request, "limit", 1, LIST_MOST, &limit);
    if (rc == 0)
        rc = set_value(operation, json_array());
    return rc < 0 ? rc
                  : audit_list(station->registry, after, (size_t)limit, list_one_record,
                               operation->value);
}

static int verify_audit(struct operation *operation, struct station *station)
{
    struct audit_key key = {station->session, station->vault->keyring.audit};
    int64_t records;
    int rc = audit_verify(station->registry, audit_key_seal, &key, &records);
    return rc < 0 ? rc : set_value(operation, json_pack("{s:I}", "records", (json_int_t)records));
}

static int reload_chain(struct operation *operation, struct station *station)
{
    int rc = vault_reload_chain(station->vault, station->session);
    return rc < 0 ? rc : set_value(operation, json_true());
}

static int show_status(struct operation *operation, struct station *station)
{
    const struct vault *vault = station->vault;
    int64_t terminals;
    int rc = registry_count(station->registry, &terminals);
    if (rc < 0)
        return rc;
    return set_value(operation,
                     json_pack("{s:I, s:s, s:s, s:s, s:s}", "terminals", (json_int_t)terminals,
                               "prks", prks_spec_name(&vault->keyring.prks_spec), "tmk_store",
                               vault->wrapped ? "wrapped" : "token", "oaep",
                               vault->oaep == OAEP_SHA256 ? "sha256" : "sha1", "token",
                               operation->conf->token.label));
}

/* --- changing one terminal --- */

static int check_sn(struct operation *operation, struct station *station)
{
    const char *sn;
    (void)station;
    return request_sn(operation->request, &sn);
}

static int audit_change(const struct operation *operation, struct registry *registry,
                        const char *event, const char *sn, const char *detail)
{
    struct audit_record record = {.at = time(NULL)};
    snprintf(record.event, sizeof(record.event), "%s", event);
    snprintf(record.sn, sizeof(record.sn), "%s", sn);
    snprintf(record.detail, sizeof(record.detail), "%s", detail);
    snprintf(record.actor, sizeof(record.actor), "%s", operation->actor);
    return audit_append(registry, &record);
}

static int find_sealed(struct operation *operation, struct station *station,
                       struct terminal *ret_terminal)
{
    const char *sn;
    int rc = request_sn(operation->request, &sn);
    return rc < 0 ? rc : lifecycle_find(station, sn, ret_terminal);
}

static int set_state(struct operation *operation, struct station *station,
                     enum terminal_state state, const char *event)
{
    struct terminal terminal;
    int rc = find_sealed(operation, station, &terminal);
    if (rc < 0)
        return rc;
    if (terminal.state != state &&
        ((rc = lifecycle_set_state(station, state, &terminal)) < 0 ||
         (rc = audit_change(operation, station->registry, event, terminal.sn, "")) < 0))
        return rc;
    return set_value(operation, reply_terminal(&terminal));
}

static int disable_terminal(struct operation *operation, struct station *station)
{
    return set_state(operation, station, TERMINAL_DISABLED, "disabled");
}

static int enable_terminal(struct operation *operation, struct station *station)
{
    return set_state(operation, station, TERMINAL_ENABLED, "enabled");
}

/* The terminal as it is after a change of more than its own row. */
static int set_value_found(struct operation *operation, struct station *station, const char *sn)
{
    struct terminal terminal;
    int rc = registry_find(station->registry, sn, &terminal);
    return rc < 0 ? rc : set_value(operation, reply_terminal(&terminal));
}

static int reopen_terminal(struct operation *operation, struct station *station)
{
    struct terminal terminal;
    int rc = find_sealed(operation, station, &terminal);
    if (rc == 0 && terminal.store == TMK_STORE_NONE)
        rc = fail(FAIL_NOT_FOUND, "terminal %s has no TMK to deliver", terminal.sn);
    if (rc < 0 || (rc = registry_reopen(station->registry, terminal.sn)) < 0 ||
        (rc = audit_change(operation, station->registry, "reopened", terminal.sn, "")) < 0)
        return rc;
    return set_value_found(operation, station, terminal.sn);
}

static int remove_terminal(struct operation *operation, struct station *station)
{
    const char *sn;
    int rc = request_sn(operation->request, &sn);
    if (rc < 0 || (rc = lifecycle_remove(station, sn, &operation->retired)) < 0 ||
        (rc = audit_change(operation, station->registry, "removed", sn, "")) < 0)
        return rc;
    return set_value(operation, json_pack("{s:s}", "sn", sn));
}

static int destroy_retired(struct operation *operation, struct station *station)
{
    int rc = retired_destroy(&operation->retired, station);
    return rc < 0 ? fail_in(rc, "terminal %s is removed, but not all its TMKs are destroyed",
                            operation->retired.sn)
                  : 0;
}

static int prepare_rotation(struct operation *operation, struct station *station)
{
    const char *sn;
    const char *type;
    int rc = request_sn(operation->request, &sn);
    if (rc == 0)
        rc = request_text(operation->request, "tmk", &type);
    return rc < 0 ? rc : lifecycle_prepare_rotation(station, sn, type, &operation->rotation);
}

static int write_rotation(struct operation *operation, struct station *station)
{
    const struct terminal *terminal = &operation->rotation.terminal;
    char detail[64];
    snprintf(detail, sizeof(detail), "TMK %s version %u", tmk_type_name(terminal->tmk.type),
             terminal->tmk.version);
    int rc = lifecycle_rotate(station, &operation->rotation);
    if (rc == 0)
        rc = audit_change(operation, station->registry, "rotated", terminal->sn, detail);
    return rc < 0 ? rc : set_value_found(operation, station, terminal->sn);
}

static int undo_rotation(struct operation *operation, struct station *station)
{
    issuance_drop(&operation->rotation, station);
    return 0;
}

/* --- import --- */

static int import_read_rows(struct operation *operation, struct station *station)
{
    int rc = 0;
    if (!operation->import) /* it is there when a lost session has this called again */
        rc = import_new(operation->request, operation->actor, &operation->import);
    if (rc == 0)
        rc = import_prepare(operation->import, station);
    return rc < 0 ? rc : set_value(operation, json_incref(import_results(operation->import)));
}

static int import_write_rows(struct operation *operation, struct station *station)
{
    return import_write(operation->import, station);
}

static int import_undo_rows(struct operation *operation, struct station *station)
{
    return import_undo(operation->import, station);
}

/* --- the life of an operation --- */

static const struct operation_kind kinds[] = {
    {.name = "status", .read = show_status},
    {.name = "cert.reload", .read = reload_chain},
    {.name = "terminal.import",
     .read = import_read_rows,
     .write = import_write_rows,
     .undo = import_undo_rows},
    {.name = "terminal.list", .read = list_terminals},
    {.name = "terminal.show", .read = show_terminal},
    {.name = "terminal.disable", .read = check_sn, .write = disable_terminal},
    {.name = "terminal.enable", .read = check_sn, .write = enable_terminal},
    {.name = "terminal.reopen", .read = check_sn, .write = reopen_terminal},
    {.name = "terminal.remove",
     .read = check_sn,
     .write = remove_terminal,
     .clear = destroy_retired},
    {.name = "tmk.rotate",
     .read = prepare_rotation,
     .write = write_rotation,
     .undo = undo_rotation},
    {.name = "tmk.show", .read = show_tmk},
    {.name = "audit.list", .read = list_audit},
    {.name = "audit.verify", .read = verify_audit},
};

static int find_kind(const json_t *request, const struct operation_kind **ret_kind)
{
    const char *name = NULL;
    int rc = request_text(request, "op", &name);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strcmp(kinds[i].name, name) == 0) {
            *ret_kind = &kinds[i];
            return 0;
        }
    }
    return fail(FAIL_NOT_FOUND, "the keeper has no operation '%s'", name);
}

static void operation_free(struct operation *operation)
{
    json_decref(operation->request);
    json_decref(operation->value);
    import_free(operation->import);
    free(operation);
}

static void finish(struct job *job)
{
    struct operation *operation = (struct operation *)job;
    operation_free(operation);
}

static void give_answer(struct operation *operation)
{
    json_t *answer = operation->job.rc < 0 ? reply_error(operation->job.rc, operation->job.sentence)
                                           : reply_ok(json_incref(operation->value));
    operation->answer(operation->context, answer);
}

static int work_undo(struct job *job, struct station *station)
{
    struct operation *operation = (struct operation *)job;
    return operation->kind->undo(operation, station);
}

static int work_clear(struct job *job, struct station *station)
{
    struct operation *operation = (struct operation *)job;
    return operation->kind->clear(operation, station);
}

static void warn(const struct operation *operation)
{
    if (operation->job.rc < 0)
        log_warning("'%s' leaves TMKs of no use in the token: %s", operation->kind->name,
                    operation->job.sentence);
}

static void undone(struct job *job)
{
    warn((struct operation *)job);
    finish(job);
}

static void cleared(struct job *job)
{
    struct operation *operation = (struct operation *)job;
    warn(operation);
    give_answer(operation);
    finish(job);
}

static void go_on(struct operation *operation, int (*work)(struct job *, struct station *),
                  void (*done)(struct job *))
{
    struct job *job = &operation->job;
    job->work = work;
    job->done = done;
    int rc = crew_submit(operation->crew, job);
    if (rc == 0)
        return;
    job->rc = rc;
    snprintf(job->sentence, sizeof(job->sentence), "%s", fail_text());
    done(job);
}

/* It is known whether the change is durable. What was made for nothing goes, and the one who asked
 * does not wait for that; what is no longer wanted is destroyed before he is told so. */
static void written(struct job *job)
{
    struct operation *operation = (struct operation *)job;
    const struct operation_kind *kind = operation->kind;
    int rc = job->rc;
    if (rc == 0 && kind->clear) {
        go_on(operation, work_clear, cleared);
        return;
    }
    give_answer(operation);
    if (rc < 0 && kind->undo)
        go_on(operation, work_undo, undone);
    else
        finish(job);
}

static int work_write(struct job *job, struct station *station)
{
    struct operation *operation = (struct operation *)job;
    return operation->kind->write(operation, station);
}

static int is_dry_run(const struct operation *operation)
{
    return operation->import && request_flag(operation->request, "dry_run");
}

static void was_read(struct job *job)
{
    struct operation *operation = (struct operation *)job;
    if (job->rc == 0 && operation->kind->write && !is_dry_run(operation)) {
        job->work = work_write;
        job->done = written;
        int rc = crew_write(operation->crew, job);
        if (rc == 0)
            return; /* the job is the writer's now */
        job->rc = rc;
        snprintf(job->sentence, sizeof(job->sentence), "%s", fail_text());
        written(job);
        return;
    }
    give_answer(operation);
    finish(job);
}

/* An unknown operation, too, takes the way through a worker, so that there is one way. */
static int work_read(struct job *job, struct station *station)
{
    struct operation *operation = (struct operation *)job;
    int rc = find_kind(operation->request, &operation->kind);
    return rc < 0 ? rc : operation->kind->read(operation, station);
}

int operation_start(struct crew *crew, const struct conf *conf, json_t *request, const char *actor,
                    operation_answer *answer, void *context)
{
    struct operation *operation = calloc(1, sizeof(*operation));
    if (!operation)
        return fail(FAIL_MEMORY, "no memory for the operation");
    operation->job.work = work_read;
    operation->job.done = was_read;
    operation->crew = crew;
    operation->conf = conf;
    operation->request = json_incref(request);
    operation->answer = answer;
    operation->context = context;
    snprintf(operation->actor, sizeof(operation->actor), "%s", actor);
    int rc = crew_submit(crew, &operation->job);
    if (rc < 0)
        operation_free(operation);
    return rc;
}
