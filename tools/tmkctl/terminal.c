#include <stdio.h>
#include <string.h>

#include "common/fail.h"
#include "common/hex.h"
#include "common/spki.h"
#include "tools/tmkctl/client.h"
#include "tools/tmkctl/command.h"
#include "tools/tmkctl/listing.h"
#include "tools/tmkctl/public_key.h"
#include "wire/message.h"

static const struct column list_columns[] = {
    {"SN", "sn", OUTPUT_TEXT},
    {"STATE", "state", OUTPUT_TEXT},
    {"KEY", "public_key", OUTPUT_KEY},
    {"TMK", "tmk.type", OUTPUT_TEXT},
    {"VERSION", "tmk.version", OUTPUT_TEXT},
    {"KCV", "tmk.kcv", OUTPUT_TEXT},
    {"STATUS", "tmk.status", OUTPUT_TEXT},
};

static const struct column show_fields[] = {
    {"SN", "sn", OUTPUT_TEXT},
    {"State", "state", OUTPUT_TEXT},
    {"Batch", "batch", OUTPUT_TEXT},
    {"Created", "created", OUTPUT_TIME},
    {"Changed", "changed", OUTPUT_TIME},
    {"TKP_Pu", "public_key", OUTPUT_KEY},
    {"TKP_Pu SHA-256", "public_key.sha256", OUTPUT_TEXT},
    {"TMK type", "tmk.type", OUTPUT_TEXT},
    {"TMK version", "tmk.version", OUTPUT_TEXT},
    {"TMK KCV", "tmk.kcv", OUTPUT_TEXT},
    {"TMK status", "tmk.status", OUTPUT_TEXT},
};

static const struct column tmk_fields[] = {
    {"SN", "sn", OUTPUT_TEXT},
    {"Type", "type", OUTPUT_TEXT},
    {"Version", "version", OUTPUT_TEXT},
    {"KCV", "kcv", OUTPUT_TEXT},
    {"Status", "status", OUTPUT_TEXT},
    {"Store", "store", OUTPUT_TEXT},
    {"Delivered", "delivered", OUTPUT_TIME},
    {"Deliveries", "delivered_count", OUTPUT_TEXT},
    {"Confirmed", "confirmed", OUTPUT_TIME},
};

static const struct column rotated_fields[] = {
    {"SN", "sn", OUTPUT_TEXT},
    {"TMK type", "tmk.type", OUTPUT_TEXT},
    {"TMK version", "tmk.version", OUTPUT_TEXT},
    {"TMK KCV", "tmk.kcv", OUTPUT_TEXT},
    {"TMK status", "tmk.status", OUTPUT_TEXT},
};

static int check_sn(const char *sn)
{
    if (sn_is_valid(sn))
        return 0;
    return fail(FAIL_MALFORMED, "'%s': an SN is 1 to %d characters, without blanks", sn, SN_MAX);
}

/* Asks op about one SN. */
static int ask_about(const struct options *options, const char *op, const char *sn,
                     json_t **ret_value)
{
    int rc = check_sn(sn);
    if (rc < 0)
        return rc;
    return client_ask(options->value[OPTION_CONF], json_pack("{s:s, s:s}", "op", op, "sn", sn),
                      ret_value);
}

/* Prints value and drops its reference. */
static void print(const struct options *options, const struct column *columns, size_t count,
                  json_t *value)
{
    if (options->value[OPTION_JSON])
        json_print(value);
    else
        fields_print(columns, count, value);
    json_decref(value);
}

static int show(const struct options *options, const char *op, const char *sn,
                const struct column *columns, size_t count)
{
    json_t *value;
    int rc = ask_about(options, op, sn, &value);
    if (rc == 0)
        print(options, columns, count, value);
    return rc;
}

/* A change, and in a word what became of the terminal. */
static int change(const struct options *options, const char *op, const char *sn, const char *done)
{
    json_t *terminal;
    int rc = ask_about(options, op, sn, &terminal);
    if (rc < 0)
        return rc;
    if (options->value[OPTION_JSON])
        json_print(terminal);
    else
        printf("%s: %s\n", sn, done);
    json_decref(terminal);
    return 0;
}

int command_terminal_list(const struct options *options, const char *argument)
{
    (void)argument;
    static const struct listing listing = {"terminal.list", "sn", COLUMNS(list_columns)};
    return listing_print(options, &listing, json_string(""));
}

int command_terminal_show(const struct options *options, const char *sn)
{
    return show(options, "terminal.show", sn, COLUMNS(show_fields));
}

int command_terminal_disable(const struct options *options, const char *sn)
{
    return change(options, "terminal.disable", sn, "disabled; downloads are rejected");
}

int command_terminal_enable(const struct options *options, const char *sn)
{
    return change(options, "terminal.enable", sn, "enabled");
}

int command_terminal_reopen(const struct options *options, const char *sn)
{
    return change(options, "terminal.reopen", sn, "the same TMK may be downloaded once more");
}

int command_terminal_remove(const struct options *options, const char *sn)
{
    return change(options, "terminal.remove", sn, "removed; its TMK is destroyed");
}

int command_tmk_show(const struct options *options, const char *sn)
{
    return show(options, "tmk.show", sn, COLUMNS(tmk_fields));
}

int command_tmk_rotate(const struct options *options, const char *sn)
{
    const char *type = option_or(options, OPTION_TMK, "");
    json_t *terminal;

    if (strcmp(type, "none") == 0)
        return command_misused("tmk rotate: --tmk none: a new TMK is of some type");
    int rc = check_sn(sn);
    if (rc == 0)
        rc = client_ask(options->value[OPTION_CONF],
                        json_pack("{s:s, s:s, s:s}", "op", "tmk.rotate", "sn", sn, "tmk", type),
                        &terminal);
    if (rc == 0)
        print(options, COLUMNS(rotated_fields), terminal);
    return rc;
}

static json_t *import_request(const struct options *options, const char *sn,
                              const struct spki *tkp_pu)
{
    char text[4 * ((SPKI_DER_MAX + 2) / 3) + 1];
    base64_encode(tkp_pu->der, tkp_pu->der_len, text);
    return json_pack("{s:s, s:[{s:s, s:s}], s:s, s:s, s:b}", "op", "terminal.import", "rows", "sn",
                     sn, "public_key", text, "tmk", option_or(options, OPTION_TMK, "aes128"),
                     "batch", "", "dry_run", 0);
}

/* What the keeper said of the one row: *ret_added is 0 when it was there already. */
static int read_result(const json_t *results, int *ret_added)
{
    const json_t *result = json_array_get(results, 0);
    const char *word = json_string_value(result);
    const char *error = json_string_value(json_object_get(result, "error"));

    if (error)
        return fail(FAIL_REFUSED, "%s", error);
    if (!word)
        return fail(FAIL_MALFORMED, "the keeper's answer to terminal.import says nothing of it");
    *ret_added = word[0] == 'a';
    return 0;
}

static int add(struct client *client, const struct options *options, const char *sn,
               const struct spki *tkp_pu)
{
    int added = 0;
    json_t *value;
    int rc = client_call(client, import_request(options, sn, tkp_pu), &value);
    if (rc < 0)
        return rc;
    rc = read_result(value, &added);
    json_decref(value);
    if (rc < 0)
        return rc;
    if (!options->value[OPTION_JSON]) {
        printf("%s: %s\n", sn, added ? "added" : "was there already, with this key");
        return 0;
    }
    rc = client_call(client, json_pack("{s:s, s:s}", "op", "terminal.show", "sn", sn), &value);
    if (rc < 0)
        return rc;
    json_print(value);
    json_decref(value);
    return 0;
}

int command_terminal_add(const struct options *options, const char *sn)
{
    struct spki tkp_pu;
    struct client *client;

    if (!options->value[OPTION_KEY])
        return command_misused("terminal add: --key FILE is missing");
    int rc = check_sn(sn);
    if (rc == 0)
        rc = public_key_read(options->value[OPTION_KEY], &tkp_pu);
    if (rc == 0)
        rc = client_open(options->value[OPTION_CONF], &client);
    return rc < 0 ? rc : client_close(client, add(client, options, sn, &tkp_pu));
}
