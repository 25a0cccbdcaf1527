#include "tools/tmkctl/options.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "common/conf.h"
#include "common/fail.h"

enum { LONG_BASE = 256 }; /* above every short option's character */

struct option_text {
    const char *name;
    const char *value;   /* what to call it; NULL: takes none */
    const char *choices; /* joined by '|'; NULL: any value */
    const char *help;
};

static const struct option_text texts[OPTION_COUNT] = {
    [OPTION_CONF] = {"conf", "CONF", NULL, "the server's tmkd.conf; -c for short"},
    [OPTION_HELP] = {"help", NULL, NULL, "this text; -h for short"},
    [OPTION_VERSION] = {"version", NULL, NULL, "which version this is"},
    [OPTION_JSON] = {"json", NULL, NULL, "print JSON, for scripts"},
    [OPTION_EMBEDDED] = {"embedded", "DIR", NULL,
                         "make everything in DIR, for a machine with no HSM"},
    [OPTION_PRKS] = {"prks", "KEY", "rsa:2048|rsa:3072|rsa:4096|ec:p256",
                     "rsa:2048 (default), rsa:3072, rsa:4096 or ec:p256"},
    [OPTION_TMK_STORE] = {"tmk-store", "STORE", "token|wrapped",
                          "token (default) or wrapped: in the registry"},
    [OPTION_LISTEN] = {"listen", "ADDR:PORT", NULL,
                       "where tmkd will serve (default 127.0.0.1:7443)"},
    [OPTION_SUBJECT] = {"subject", "NAME", NULL, "who the certificate is for (default CN=tmkd)"},
    [OPTION_KEY] = {"key", "FILE", NULL, "PEM public key or certificate of the terminal"},
    [OPTION_TMK] = {"tmk", "TYPE", "des2|des3|aes128|aes192|aes256|none",
                    "type of the TMK: aes128, aes192, aes256, des2 or des3"},
    [OPTION_FORMAT] = {"format", "FORMAT", "csv", "csv, the default and the only one"},
    [OPTION_ON_ERROR] = {"on-error", "WHAT", "stop|skip",
                         "at a bad row stop (default) and import nothing, or skip it"},
    [OPTION_DRY_RUN] = {"dry-run", NULL, NULL, "only check; change nothing"},
};

const unsigned options_of_all = OPTION_BIT(OPTION_CONF) | OPTION_BIT(OPTION_HELP) |
                                OPTION_BIT(OPTION_VERSION) | OPTION_BIT(OPTION_JSON);

static int is_choice(const char *choices, const char *value)
{
    size_t len = strlen(value);
    for (const char *at = choices; at; at = strchr(at, '|')) {
        at += *at == '|';
        if (len > 0 && strncmp(at, value, len) == 0 && (at[len] == '|' || at[len] == '\0'))
            return 1;
    }
    return 0;
}

static int take_option(struct options *options, size_t name, const char *value)
{
    const struct option_text *text = &texts[name];
    if (text->choices && value && !is_choice(text->choices, value))
        return fail(FAIL_MALFORMED, "--%s %s: not one of %s", text->name, value, text->choices);
    if (name == OPTION_LISTEN && !conf_is_listen_address(value))
        return fail(FAIL_MALFORMED,
                    "--listen %s: not a numeric ADDR:PORT, such as 0.0.0.0:7443 or [::]:7443",
                    value);
    options->value[name] = value ? value : "";
    return 0;
}

static int take_word(struct options *options, const char *word)
{
    if (options->word_count == WORDS_MAX)
        return fail(FAIL_MALFORMED, "%s: one word too many", word);
    options->words[options->word_count++] = word;
    return 0;
}

static int take(struct options *options, int found, const char *given)
{
    if (found >= LONG_BASE)
        return take_option(options, (size_t)(found - LONG_BASE), optarg);
    switch (found) {
    case 1:
        return take_word(options, optarg);
    case 'c':
        return take_option(options, OPTION_CONF, optarg);
    case 'h':
        return take_option(options, OPTION_HELP, NULL);
    case ':':
        return fail(FAIL_MALFORMED, "%s: its value is missing", given);
    default:
        if (optopt > 0 && optopt < LONG_BASE)
            return fail(FAIL_MALFORMED, "-%c: no such option", optopt);
        return fail(FAIL_MALFORMED, "%s: no such option, or not with a value", given);
    }
}

int options_read(int argc, char *argv[], struct options *ret_options)
{
    struct option longs[OPTION_COUNT + 1] = {0};
    int found;
    int rc = 0;

    for (int i = 0; i < OPTION_COUNT; i++)
        longs[i] = (struct option){texts[i].name, texts[i].value ? required_argument : no_argument,
                                   NULL, LONG_BASE + i};
    *ret_options = (struct options){0};
    opterr = 0;
    while (rc == 0 && (found = getopt_long(argc, argv, "-:c:h", longs, NULL)) != -1)
        rc = take(ret_options, found, argv[optind - 1]);
    for (; rc == 0 && optind < argc; optind++) /* after "--" */
        rc = take_word(ret_options, argv[optind]);
    return rc;
}

int options_allow(const struct options *options, unsigned mask)
{
    for (size_t i = 0; i < OPTION_COUNT; i++)
        if (options->value[i] && !((mask | options_of_all) & OPTION_BIT(i)))
            return fail(FAIL_MALFORMED, "--%s: not an option of this command", texts[i].name);
    return 0;
}

const char *option_or(const struct options *options, enum option_name name, const char *otherwise)
{
    return options->value[name] ? options->value[name] : otherwise;
}

void options_print(unsigned mask)
{
    char left[40];
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        if (!(mask & OPTION_BIT(i)))
            continue;
        snprintf(left, sizeof(left), "--%s %s", texts[i].name,
                 texts[i].value ? texts[i].value : "");
        printf("  %-22s  %s\n", left, texts[i].help);
    }
}
