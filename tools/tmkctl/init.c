#include <stdio.h>

#include "tools/tmkctl/client.h"
#include "tools/tmkctl/command.h"
#include "tools/tmkctl/embedded.h"
#include "tools/tmkctl/output.h"

static void print(const struct options *options, const json_t *made)
{
    size_t i;
    json_t *name;

    if (options->value[OPTION_JSON]) {
        json_print(made);
        return;
    }
    json_array_foreach(made, i, name)
    {
        printf("made %s\n", json_string_value(name));
    }
    if (json_array_size(made) == 0)
        puts("nothing to do: every object is in the token already");
    else
        puts("next: tmkctl cert request, have it signed, tmkctl cert install FILE");
}

static int init_token(const struct options *options)
{
    json_t *made;
    int rc =
        client_ask_ceremony(options->value[OPTION_CONF],
                            json_pack("{s:s, s:s, s:b}", "op", "init", "prks",
                                      option_or(options, OPTION_PRKS, "rsa:2048"), "embedded", 0),
                            &made);
    if (rc < 0)
        return rc;
    print(options, made);
    json_decref(made);
    return 0;
}

int command_init(const struct options *options, const char *argument)
{
    (void)argument;
    if (options->value[OPTION_EMBEDDED])
        return embedded_init(options);
    if (options->value[OPTION_TMK_STORE] || options->value[OPTION_LISTEN])
        return command_misused("init: --tmk-store and --listen go with --embedded only");
    return init_token(options);
}
