/* tmkpos: a complete reference terminal, its secure module being a PKCS#11 token of its own. */

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "commands.h"
#include "common/fail.h"
#include "wire/message.h"

#define SOFTHSM_MODULE "/usr/lib/softhsm/libsofthsm2.so"

enum { EXIT_DONE = 0, EXIT_REFUSED = 1, EXIT_USAGE = 2, TIMEOUT_MAX = 3600, PORT_MAX = 65535 };

static const struct command {
    const char *name;
    const char *synopsis;
    const char *summary;
    const char *example;
    const char *takes; /* the letters of the options below that it takes */
    const char *needs; /* and of those that must be there */
    int (*run)(const struct options *options);
} commands[] = {
    {"init", "DIR --sn SN [OPTION...]",
     "make a terminal in DIR, with a TKP of its own or one from a PEM file",
     "tmkpos init pos --sn POS-0001 --key rsa:3072", "nkim", "n", command_init},
    {"export", "DIR [--json]", "print the CSV that tmkctl terminal import takes",
     "tmkpos export pos > pos.csv", "j", "", command_export},
    {"download", "DIR --server HOST:PORT --root FILE [OPTION...]", "fetch the TMK from tmkd",
     "tmkpos download pos --server 127.0.0.1:7443 --root lab/ksrcrt.pem --verbose", "srtjv", "sr",
     command_download},
    {"show", "DIR [--json]", "print SN, key, and TMK type, version and KCV", "tmkpos show pos", "j",
     "", command_show},
    {"tamper", "DIR [--json]", "do what an opened case does: destroy TKP and the TMK",
     "tmkpos tamper pos", "j", "", command_tamper},
};

enum { COMMAND_COUNT = sizeof(commands) / sizeof(commands[0]) };

static const struct option long_options[] = {
    {"sn", required_argument, NULL, 'n'},      {"key", required_argument, NULL, 'k'},
    {"import", required_argument, NULL, 'i'},  {"module", required_argument, NULL, 'm'},
    {"server", required_argument, NULL, 's'},  {"root", required_argument, NULL, 'r'},
    {"timeout", required_argument, NULL, 't'}, {"json", no_argument, NULL, 'j'},
    {"verbose", no_argument, NULL, 'v'},       {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},       {NULL, 0, NULL, 0},
};

/* What may be said of an option: what to call its value, if it takes one, and what it is for. */
static const struct option_text {
    int letter;
    const char *value;
    const char *help;
} option_texts[] = {
    {'n', "SN", "serial number: 1 to 64 characters, without blanks"},
    {'k', "KEY", "TKP to make: rsa:2048 (default), rsa:3072 or rsa:4096"},
    {'i', "FILE", "a TKP to take in: private key, PEM, no passphrase"},
    {'m', "FILE", "PKCS#11 module of the token (default SoftHSM's)"},
    {'s', "HOST:PORT", "where tmkd is: name or address, port 1 to 65535"},
    {'r', "FILE", "KSRCRT in PEM: the root that KSWCRT must chain to"},
    {'t', "SECONDS", "for the whole download: 1 to 3600 (default 30)"},
    {'j', "", "print JSON, for scripts"},
    {'v', "", "show each step, in the patent's terms"},
};

enum { OPTION_COUNT = sizeof(option_texts) / sizeof(option_texts[0]) };

static const char *option_help(int letter)
{
    for (size_t i = 0; i < OPTION_COUNT; i++)
        if (option_texts[i].letter == letter)
            return option_texts[i].help;
    return "?";
}

static const char *option_name(int letter)
{
    for (const struct option *option = long_options; option->name; option++)
        if (option->val == letter)
            return option->name;
    return "?";
}

/* --- what it says of itself --- */

static int print_command(const struct command *command)
{
    char left[40];

    printf("usage: tmkpos %s %s\n\n%s\n\nOptions:\n", command->name, command->synopsis,
           command->summary);
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        const struct option_text *text = &option_texts[i];
        if (!strchr(command->takes, text->letter))
            continue;
        snprintf(left, sizeof(left), "--%s %s", option_name(text->letter), text->value);
        printf("  %-20s  %s\n", left, text->help);
    }
    printf("\nExample:\n  %s\n", command->example);
    return EXIT_DONE;
}

static int print_overview(void)
{
    puts("tmkpos is a terminal in a directory: its secure module is a PKCS#11 token there.\n"
         "\n"
         "usage: tmkpos COMMAND DIR [OPTION...]\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        printf("  %-8s  %s\n", commands[i].name, commands[i].summary);
    puts("\ntmkpos COMMAND --help says more of a command, with an example.\n"
         "A terminal's life: init, export, download; show whenever; tamper is its end.\n"
         "Exit status: 0 done, 1 refused or failed, 2 wrong usage.");
    return EXIT_DONE;
}

static int print_version(void)
{
    puts("tmkpos " TMKD_VERSION);
    return EXIT_DONE;
}

__attribute__((format(printf, 2, 3))) static int usage_error(const struct command *command,
                                                             const char *format, ...)
{
    va_list arguments;

    fputs("tmkpos: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "; see tmkpos %s%s--help\n", command ? command->name : "", command ? " " : "");
    return EXIT_USAGE;
}

/* --- values of options: 0, or -1 when they are none --- */

static int parse_key(const char *text, unsigned *ret_bits)
{
    static const struct {
        const char *name;
        unsigned bits;
    } keys[] = {{"rsa:2048", 2048}, {"rsa:3072", 3072}, {"rsa:4096", 4096}};

    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        if (strcmp(keys[i].name, text) == 0) {
            *ret_bits = keys[i].bits;
            return 0;
        }
    return -1;
}

/* A decimal number of 1 to most. */
static int parse_number(const char *text, long most, int *ret_number)
{
    char *end;
    errno = 0;
    long number = strtol(text, &end, 10);

    if (errno || end == text || *end || number < 1 || number > most)
        return -1;
    *ret_number = (int)number;
    return 0;
}

/* "HOST:PORT" or "[V6]:PORT" */
static int parse_server(const char *text, struct options *options)
{
    const char *colon = strrchr(text, ':');
    int port;

    if (!colon || colon == text || parse_number(colon + 1, PORT_MAX, &port) < 0 ||
        strlen(text) >= ADDRESS_MAX)
        return -1;
    const char *host = text;
    const char *end = colon;
    if (*host == '[' && end[-1] == ']') {
        host++;
        end--;
    }
    memcpy(options->host, host, (size_t)(end - host));
    options->host[end - host] = '\0';
    strcpy(options->port, colon + 1);
    return 0;
}

static int take(struct options *options, int letter, const char *value)
{
    switch (letter) {
    case 'n':
        options->sn = value;
        return sn_is_valid(value) ? 0 : -1;
    case 'k':
        return parse_key(value, &options->bits);
    case 'i':
        options->import_file = value;
        return 0;
    case 'm':
        options->module = value;
        return 0;
    case 's':
        return parse_server(value, options);
    case 'r':
        options->root_file = value;
        return 0;
    case 't':
        return parse_number(value, TIMEOUT_MAX, &options->timeout);
    case 'j':
        options->json = 1;
        return 0;
    default:
        options->verbose = 1;
        return 0;
    }
}

/* --- the command line --- */

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

/* seen: the letters of the options that were there. */
static int check_complete(const struct command *command, const struct options *options,
                          const char *seen)
{
    if (!options->dir)
        return usage_error(command, "%s: DIR is missing", command->name);
    for (const char *need = command->needs; *need; need++)
        if (!strchr(seen, *need))
            return usage_error(command, "%s: --%s is missing", command->name, option_name(*need));
    if (strchr(seen, 'i') && strchr(seen, 'k'))
        return usage_error(command, "%s: --key and --import exclude each other", command->name);
    return EXIT_DONE;
}

static int run(const struct command *command, const struct options *options)
{
    int rc = command->run(options);

    if (rc == 0 && fflush(stdout) != 0)
        rc = fail_system("cannot write to standard output");
    if (rc == 0)
        return EXIT_DONE;
    fprintf(stderr, "tmkpos: %s: %s\n", command->name, fail_text());
    return EXIT_REFUSED;
}

static int parse_and_run(const struct command *command, int count, char **arguments)
{
    struct options options = {.bits = 2048, .timeout = 30, .module = SOFTHSM_MODULE};
    char seen[sizeof(long_options) / sizeof(long_options[0]) + 1] = "";
    int letter;

    opterr = 0;
    while ((letter = getopt_long(count, arguments, ":hv", long_options, NULL)) != -1) {
        const char *argument = arguments[optind - 1];
        if (letter == 'h')
            return print_command(command);
        if (letter == 'V')
            return print_version();
        if (letter == ':')
            return usage_error(command, "%s: %s wants a value", command->name, argument);
        if (letter == '?')
            return usage_error(command, "%s: it takes no %s", command->name, argument);
        if (!strchr(command->takes, letter))
            return usage_error(command, "%s: it takes no --%s", command->name, option_name(letter));
        if (take(&options, letter, optarg) < 0)
            return usage_error(command, "%s: --%s cannot be '%s': %s", command->name,
                               option_name(letter), optarg, option_help(letter));
        if (!strchr(seen, letter))
            seen[strlen(seen)] = (char)letter;
    }
    if (optind < count)
        options.dir = arguments[optind++];
    if (optind < count)
        return usage_error(command, "%s: '%s' is one argument too many", command->name,
                           arguments[optind]);
    int status = check_complete(command, &options, seen);
    return status == EXIT_DONE ? run(command, &options) : status;
}

/* A TKP on its way in and the PIN pass through this process: no core file, no debugger. */
static void close_doors(void)
{
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    prctl(PR_SET_DUMPABLE, 0);
    umask(S_IRWXG | S_IRWXO);
}

int main(int count, char **arguments)
{
    const char *name = count > 1 ? arguments[1] : "";
    const struct command *command = find_command(name);

    close_doors();
    if (strcmp(name, "-h") == 0 || strcmp(name, "--help") == 0)
        return print_overview();
    if (strcmp(name, "--version") == 0)
        return print_version();
    if (!command)
        return *name ? usage_error(NULL, "there is no command '%s'", name)
                     : usage_error(NULL, "a command is missing");
    return parse_and_run(command, count - 1, arguments + 1);
}
