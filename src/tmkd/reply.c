#include "tmkd/reply.h"

#include <inttypes.h>

#include "common/fail.h"
#include "common/hex.h"

json_t *reply_ok(json_t *value)
{
    return json_pack("{s:o}", "ok", value);
}

json_t *reply_error(int code, const char *sentence)
{
    /* A sentence may quote what came in: bytes that are not UTF-8 would make no JSON. */
    json_t *text = json_string(sentence);
    return json_pack("{s:o, s:s}", "error", text ? text : json_string("a name that is not UTF-8"),
                     "code", fail_name(code));
}

static json_t *key_of(const struct terminal *terminal)
{
    char sha256[2 * DIGEST_LEN + 1];
    struct spki spki;
    unsigned bits = 0; /* a row that was tampered with can hold anything */
    if (spki_read(terminal->spki, terminal->spki_len, &spki) == 0)
        bits = spki.bits;
    return json_pack("{s:s, s:i, s:s}", "type", "rsa", "bits", (int)bits, "sha256",
                     hex_encode(terminal->spki_sha256, DIGEST_LEN, sha256));
}

static json_t *tmk_of(const struct terminal *terminal)
{
    char kcv[2 * KCV_MAX + 1];
    if (terminal->store == TMK_STORE_NONE)
        return json_pack("{s:s}", "status", delivery_status_name(DELIVERY_NONE));
    return json_pack("{s:s, s:I, s:s, s:s}", "type", tmk_type_name(terminal->tmk.type), "version",
                     (json_int_t)terminal->tmk.version, "kcv",
                     hex_encode(terminal->tmk.kcv, terminal->tmk.kcv_len, kcv), "status",
                     delivery_status_name(terminal->status));
}

json_t *reply_terminal(const struct terminal *terminal)
{
    if (terminal->state == TERMINAL_DAMAGED)
        return json_pack("{s:s, s:s}", "sn", terminal->sn, "state",
                         terminal_state_name(terminal->state));
    return json_pack("{s:s, s:s, s:s, s:I, s:I, s:o, s:o}", "sn", terminal->sn, "state",
                     terminal_state_name(terminal->state), "batch", terminal->batch, "created",
                     (json_int_t)terminal->created, "changed", (json_int_t)terminal->changed,
                     "public_key", key_of(terminal), "tmk", tmk_of(terminal));
}

json_t *reply_tmk(const struct terminal *terminal)
{
    json_t *tmk = tmk_of(terminal);
    json_t *more = json_pack("{s:s, s:s, s:I, s:I, s:I}", "sn", terminal->sn, "store",
                             terminal->store == TMK_STORE_TOKEN ? "token" : "wrapped", "delivered",
                             (json_int_t)terminal->delivered_at, "delivered_count",
                             (json_int_t)terminal->delivered_count, "confirmed",
                             (json_int_t)terminal->confirmed_at);
    if (!tmk || !more || json_object_update(tmk, more) < 0) {
        json_decref(tmk);
        tmk = NULL;
    }
    json_decref(more);
    return tmk;
}

json_t *reply_audit(const struct audit_record *record)
{
    return json_pack("{s:I, s:I, s:s, s:s, s:s, s:s}", "seq", (json_int_t)record->seq, "at",
                     (json_int_t)record->at, "event", record->event, "sn", record->sn, "actor",
                     record->actor, "detail", record->detail);
}

int request_text(const json_t *request, const char *name, const char **ret_text)
{
    const char *text = json_string_value(json_object_get(request, name));
    if (!text)
        return fail(FAIL_MALFORMED, "the request has no text \"%s\"", name);
    *ret_text = text;
    return 0;
}

int request_sn(const json_t *request, const char **ret_sn)
{
    const char *sn = NULL;
    int rc = request_text(request, "sn", &sn);
    if (rc < 0)
        return rc;
    if (!sn_is_valid(sn))
        return fail(FAIL_MALFORMED, "'%s' is no SN: 1 to %d characters without blanks", sn, SN_MAX);
    *ret_sn = sn;
    return 0;
}

int request_number(const json_t *request, const char *name, int64_t least, int64_t most,
                   int64_t *ret_number)
{
    const json_t *member = json_object_get(request, name);
    int64_t number = json_integer_value(member);
    if (!json_is_integer(member) || number < least || number > most)
        return fail(FAIL_MALFORMED, "the request has no number \"%s\" from %" PRId64 " to %" PRId64,
                    name, least, most);
    *ret_number = number;
    return 0;
}

int request_flag(const json_t *request, const char *name)
{
    return json_is_true(json_object_get(request, name));
}
