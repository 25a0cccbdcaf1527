#include "tmkd/record.h"

#include <arpa/inet.h>
#include <stdio.h>

#include "common/fail.h"
#include "db/audit.h"

static void source_text(const struct source *source, char *ret_text, size_t size)
{
    char address[INET6_ADDRSTRLEN] = "unknown";
    if (source->family == 4)
        inet_ntop(AF_INET, source->address, address, sizeof(address));
    else if (source->family == 6)
        inet_ntop(AF_INET6, source->address, address, sizeof(address));
    snprintf(ret_text, size, source->family == 6 ? "[%s]:%u" : "%s:%u", address, source->port);
}

static int append(const struct record *record, struct registry *registry, int64_t now,
                  const char *event, const char *detail)
{
    struct audit_record audit = {.at = now};
    snprintf(audit.event, sizeof(audit.event), "%s", event);
    snprintf(audit.sn, sizeof(audit.sn), "%s", record->sn);
    snprintf(audit.detail, sizeof(audit.detail), "%s", detail);
    source_text(&record->source, audit.actor, sizeof(audit.actor));
    return audit_append(registry, &audit);
}

static int write_delivered(const struct record *record, struct registry *registry, int64_t now,
                           int again, const char *version, int *ret_refused)
{
    int rc =
        registry_delivered(registry, record->sn, record->row_version, &record->tmk, now, again);
    if (rc == FAIL_REFUSED) {
        *ret_refused = 1;
        return append(record, registry, now, "refused", fail_text());
    }
    return rc < 0 ? rc : append(record, registry, now, "delivered", version);
}

int record_write(const struct record *record, struct registry *registry, int64_t now, int again,
                 int *ret_refused)
{
    char version[32];
    *ret_refused = record->kind == RECORD_REFUSED;
    snprintf(version, sizeof(version), "TMK version %u", record->tmk.version);
    if (record->kind == RECORD_REFUSED)
        return append(record, registry, now, "refused", record->reason);
    if (record->kind == RECORD_DELIVERED)
        return write_delivered(record, registry, now, again, version, ret_refused);
    int rc = registry_confirmed(registry, record->sn, &record->tmk, now);
    return rc < 0 ? rc : append(record, registry, now, "confirmed", version);
}
