#include "common/fail.h"
#include "tools/tmkctl/client.h"
#include "tools/tmkctl/command.h"
#include "tools/tmkctl/output.h"

static const struct column fields[] = {
    {"tmkd runs", "running", OUTPUT_TEXT},   {"Handshakes", "handshakes", OUTPUT_TEXT},
    {"Terminals", "terminals", OUTPUT_TEXT}, {"Token", "token", OUTPUT_TEXT},
    {"PrKS", "prks", OUTPUT_TEXT},           {"TMK store", "tmk_store", OUTPUT_TEXT},
    {"Hash of OAEP", "oaep", OUTPUT_TEXT},
};

static int print(struct client *client, const struct options *options)
{
    json_t *status;
    int rc = client_call(client, json_pack("{s:s}", "op", "status"), &status);
    if (rc < 0)
        return rc;
    json_object_set_new(status, "running", json_boolean(client_is_running(client)));
    if (options->value[OPTION_JSON])
        json_print(status);
    else
        fields_print(COLUMNS(fields), status);
    json_decref(status);
    return 0;
}

int command_status(const struct options *options, const char *argument)
{
    (void)argument;
    struct client *client;
    int rc = client_open(options->value[OPTION_CONF], &client);
    return rc < 0 ? rc : client_close(client, print(client, options));
}
