#include <stdio.h>

#include "tools/tmkctl/client.h"
#include "tools/tmkctl/command.h"
#include "tools/tmkctl/listing.h"

static const struct column columns[] = {
    {"SEQ", "seq", OUTPUT_TEXT}, {"TIME", "at", OUTPUT_TIME},     {"EVENT", "event", OUTPUT_TEXT},
    {"SN", "sn", OUTPUT_TEXT},   {"ACTOR", "actor", OUTPUT_TEXT}, {"DETAIL", "detail", OUTPUT_TEXT},
};

int command_audit_list(const struct options *options, const char *argument)
{
    (void)argument;
    static const struct listing listing = {"audit.list", "seq", COLUMNS(columns)};
    return listing_print(options, &listing, json_integer(0));
}

int command_audit_verify(const struct options *options, const char *argument)
{
    (void)argument;
    json_t *value;
    int rc =
        client_ask(options->value[OPTION_CONF], json_pack("{s:s}", "op", "audit.verify"), &value);
    if (rc < 0)
        return rc;
    if (options->value[OPTION_JSON])
        json_print(value);
    else
        printf("audit log intact: %" JSON_INTEGER_FORMAT " records\n",
               json_integer_value(json_object_get(value, "records")));
    json_decref(value);
    return 0;
}
