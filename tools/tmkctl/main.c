/* tmkctl: set-up, certificates, terminals, keys and audit of a tmkd, through its keeper. */

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/fail.h"
#include "tools/tmkctl/command.h"
#include "tools/tmkctl/output.h"

enum { EXIT_DONE = 0, EXIT_REFUSED = 1, EXIT_USAGE = 2 };

static const struct command commands[] = {
    {"init", NULL,
     OPTION_BIT(OPTION_EMBEDDED) | OPTION_BIT(OPTION_PRKS) | OPTION_BIT(OPTION_TMK_STORE) |
         OPTION_BIT(OPTION_LISTEN),
     "make a server's keys; --embedded DIR: a whole server",
     "Makes PrKS and the other objects of the server in the token that CONF names;\n"
     "what is there already is kept.\n"
     "\n"
     "With --embedded DIR instead of -c CONF it makes everything for a machine with\n"
     "no HSM in a new directory: tmkd.conf, a SoftHSM token with random PINs, the\n"
     "registry, a lab root (ksrcrt.pem; its key is the file ksrcrt.key, so it is for\n"
     "laboratories, not for a bank) and a KSWCRT under it. When a step fails nothing\n"
     "is left behind.\n",
     "tmkctl init --embedded ./server --prks ec:p256", command_init},
    {"cert request", NULL, OPTION_BIT(OPTION_SUBJECT),
     "print a certificate request (PKCS#10) for PrKS",
     "Prints the request in PEM. The certificate that comes back needs keyUsage\n"
     "digitalSignature and extendedKeyUsage id-kp-cmKGA (1.3.6.1.5.5.7.3.32), or\n"
     "terminals refuse it.\n",
     "tmkctl -c tmkd.conf cert request --subject \"CN=tmkd,O=Bank\" > tmkd.csr",
     command_cert_request},
    {"cert install", "FILE", 0, "put KSWCRT and its chain into the token",
     "FILE is PEM: KSWCRT first, then what is between it and KSRCRT; the root itself\n"
     "is not sent to terminals. It replaces the chain before. A tmkd that runs\n"
     "serves with it from now on.\n",
     "tmkctl -c tmkd.conf cert install kswcrt.pem", command_cert_install},
    {"cert show", NULL, 0, "show the KSWCRT in use",
     "Shows KSWCRT as it is in the token, and its PEM.\n", "tmkctl -c tmkd.conf cert show",
     command_cert_show},
    {"terminal import", "FILE",
     OPTION_BIT(OPTION_FORMAT) | OPTION_BIT(OPTION_TMK) | OPTION_BIT(OPTION_ON_ERROR) |
         OPTION_BIT(OPTION_DRY_RUN),
     "add the terminals of a factory export",
     "FILE, or - for standard input, is CSV with the header sn,public_key;\n"
     "public_key is the base64 of the DER SubjectPublicKeyInfo of TKP_Pu. Each new\n"
     "terminal gets a TMK, an aes128 unless --tmk says another type, or with --tmk\n"
     "none no TMK yet. A terminal that is there with the same key is left as it is.\n"
     "\n"
     "A bad row is reported as FILE:LINE: reason; --dry-run reports all of them. With\n"
     "--on-error skip the bad rows are written to FILE.rejected, and the exit status\n"
     "is 1 if there were any.\n",
     "tmkctl -c tmkd.conf terminal import factory.csv --tmk aes256 --dry-run",
     command_terminal_import},
    {"terminal add", "SN", OPTION_BIT(OPTION_KEY) | OPTION_BIT(OPTION_TMK), "add one terminal",
     "The key is an RSA public key of 2048, 3072 or 4096 bits. The terminal gets a\n"
     "TMK, an aes128 unless --tmk says another type, or with --tmk none no TMK yet.\n",
     "tmkctl -c tmkd.conf terminal add POS-0001 --key pos-0001.pem", command_terminal_add},
    {"terminal list", NULL, 0, "list all terminals",
     "In the order of their SN. One whose row in the registry was edited or is damaged,\n"
     "so that it cannot be read, has the state damaged; terminal show says more.\n",
     "tmkctl -c tmkd.conf terminal list --json", command_terminal_list},
    {"terminal show", "SN", 0, "show one terminal",
     "The status of its TMK is none, ready (never delivered), delivered (sent, not\n"
     "confirmed) or confirmed (the terminal has it). Why a download was rejected,\n"
     "the audit log says: audit list.\n",
     "tmkctl -c tmkd.conf terminal show POS-0001", command_terminal_show},
    {"terminal disable", "SN", 0, "reject the downloads of a terminal",
     "Takes effect at its next download. See terminal enable.\n",
     "tmkctl -c tmkd.conf terminal disable POS-0001", command_terminal_disable},
    {"terminal enable", "SN", 0, "allow them again", "Takes back terminal disable.\n",
     "tmkctl -c tmkd.conf terminal enable POS-0001", command_terminal_enable},
    {"terminal reopen", "SN", 0, "allow the same TMK once more",
     "A terminal that has confirmed its TMK is rejected until this is run: for one\n"
     "that lost it.\n",
     "tmkctl -c tmkd.conf terminal reopen POS-0001", command_terminal_reopen},
    {"terminal remove", "SN", 0, "forget a terminal and destroy its TMK",
     "This cannot be taken back: its TMK is destroyed in the token, older versions\n"
     "too. Its records stay in the audit log. Its SN and its key may be added anew,\n"
     "and get another TMK. One whose row in the registry was edited or is damaged\n"
     "is removed like any other. To reject downloads for a while: terminal disable.\n",
     "tmkctl -c tmkd.conf terminal remove POS-0001", command_terminal_remove},
    {"tmk show", "SN", 0, "show what may be said of a terminal's TMK",
     "Type, version, KCV, store, and when it was delivered and confirmed.\n",
     "tmkctl -c tmkd.conf tmk show POS-0001", command_tmk_show},
    {"tmk rotate", "SN", OPTION_BIT(OPTION_TMK), "give a terminal another TMK",
     "Makes the next version of its TMK, of the same type unless --tmk says another,\n"
     "which the terminal gets at its next download. The older version is kept until\n"
     "the terminal has confirmed the new one. One that was imported with --tmk none\n"
     "gets its first TMK when --tmk says of which type.\n",
     "tmkctl -c tmkd.conf tmk rotate POS-0001\n"
     "  tmkctl -c tmkd.conf tmk rotate POS-0001 --tmk aes256",
     command_tmk_rotate},
    {"audit list", NULL, 0, "list the audit log",
     "All records, the oldest first. A download that was refused is there, with the\n"
     "reason, which the terminal is not told.\n",
     "tmkctl -c tmkd.conf audit list", command_audit_list},
    {"audit verify", NULL, 0, "check that the audit log is whole",
     "Computes the hash chain again and checks its seals with the token.\n",
     "tmkctl -c tmkd.conf audit verify", command_audit_verify},
    {"status", NULL, 0, "show what the server is",
     "The token, the kind of PrKS, the TMK store, how many terminals there are.\n",
     "tmkctl -c tmkd.conf status", command_status},
};

enum { COMMAND_COUNT = sizeof(commands) / sizeof(commands[0]) };

static void print_overview(void)
{
    puts("tmkctl sets up and looks after tmkd, the server of terminal master keys.\n"
         "\n"
         "usage: tmkctl -c CONF COMMAND [ARGUMENT] [OPTION...]\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        const struct command *c = &commands[i];
        char left[40];
        snprintf(left, sizeof(left), "%s %s", c->name, c->argument ? c->argument : "");
        printf("  %-22s  %s\n", left, c->summary);
    }
    puts("\nOptions of every command:");
    options_print(options_of_all);
    puts("\ntmkctl COMMAND --help says more of a command, with an example.\n"
         "Example: tmkctl init --embedded ./server\n"
         "Exit status: 0 done, 1 refused or failed, 2 wrong usage.");
}

static void print_command(const struct command *command)
{
    printf("usage: tmkctl %s%s%s%s [OPTION...]\n\n%s\n",
           command->options & OPTION_BIT(OPTION_EMBEDDED) ? "" : "-c CONF ", command->name,
           command->argument ? " " : "", command->argument ? command->argument : "", command->help);
    puts("Options:");
    options_print(command->options | options_of_all);
    printf("\nExample:\n  %s\n", command->example);
}

/* How many words of the command line are the command's name; 0: it is another. */
static size_t match_name(const struct command *command, const struct options *options)
{
    const char *at = command->name;
    for (size_t i = 0; i < options->word_count; i++) {
        size_t len = strlen(options->words[i]);
        if (strncmp(at, options->words[i], len) != 0 || (at[len] != ' ' && at[len] != '\0'))
            return 0;
        if (at[len] == '\0')
            return i + 1;
        at += len + 1;
    }
    return 0;
}

static const struct command *find_command(const struct options *options, size_t *ret_words)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        *ret_words = match_name(&commands[i], options);
        if (*ret_words > 0)
            return &commands[i];
    }
    return NULL;
}

static int check_usage(const struct command *command, const struct options *options, size_t words)
{
    size_t wanted = words + (command->argument ? 1 : 0);

    if (options->word_count < wanted)
        return fail(FAIL_MALFORMED, "%s: %s is missing", command->name, command->argument);
    if (options->word_count > wanted)
        return fail(FAIL_MALFORMED, "%s: '%s' is one word too many", command->name,
                    options->words[wanted]);
    if (options_allow(options, command->options) < 0)
        return fail_in(FAIL_MALFORMED, "%s", command->name);
    if (options->value[OPTION_CONF] && options->value[OPTION_EMBEDDED])
        return fail(FAIL_MALFORMED, "%s: -c and --embedded exclude each other", command->name);
    if (!options->value[OPTION_CONF] && !options->value[OPTION_EMBEDDED])
        return fail(FAIL_MALFORMED, "%s: say which server with -c CONF%s", command->name,
                    command->options & OPTION_BIT(OPTION_EMBEDDED)
                        ? ", or make one with --embedded DIR"
                        : "");
    return 0;
}

/* command may be NULL: none was recognized. */
static int say_usage(const struct command *command)
{
    fprintf(stderr, "tmkctl: %s; see tmkctl %s%s--help\n", fail_text(),
            command ? command->name : "", command ? " " : "");
    return EXIT_USAGE;
}

static int run_command(const struct command *command, const struct options *options, size_t words)
{
    if (check_usage(command, options, words) < 0)
        return say_usage(command);
    int rc = command->run(options, command->argument ? options->words[words] : NULL);
    if (rc == COMMAND_MISUSED)
        return say_usage(command);
    if (rc == 0)
        rc = output_flush();
    fflush(stdout); /* what was printed comes before the error that ended it */
    if (rc < 0)
        fprintf(stderr, "tmkctl: %s\n", fail_text());
    return rc < 0 ? EXIT_REFUSED : EXIT_DONE;
}

/* "import, add, list": what may follow the first word of a command; "" when nothing may. */
static void list_second_words(const char *first, char *ret_words, size_t size)
{
    size_t len = strlen(first);
    size_t at = 0;

    ret_words[0] = '\0';
    for (size_t i = 0; i < COMMAND_COUNT && at < size; i++)
        if (strncmp(commands[i].name, first, len) == 0 && commands[i].name[len] == ' ')
            at += (size_t)snprintf(ret_words + at, size - at, "%s%s", at ? ", " : "",
                                   commands[i].name + len + 1);
}

static int say_wrong_word(const struct options *options)
{
    char words[100] = "";

    if (options->word_count > 0)
        list_second_words(options->words[0], words, sizeof(words));
    if (options->word_count == 0)
        fail(FAIL_MALFORMED, "a command is missing");
    else if (words[0])
        fail(FAIL_MALFORMED, "%s takes one of: %s", options->words[0], words);
    else
        fail(FAIL_MALFORMED, "there is no command '%s%s%s'", options->words[0],
             options->word_count > 1 ? " " : "", options->word_count > 1 ? options->words[1] : "");
    return say_usage(NULL);
}

int main(int argc, char *argv[])
{
    struct options options;
    size_t words = 0;

    signal(SIGPIPE, SIG_IGN);
    if (options_read(argc, argv, &options) < 0)
        return say_usage(NULL);
    const struct command *command = find_command(&options, &words);
    if (options.value[OPTION_VERSION])
        puts("tmkctl " TMKD_VERSION);
    else if (options.value[OPTION_HELP] && command)
        print_command(command);
    else if (options.value[OPTION_HELP])
        print_overview();
    else if (command)
        return run_command(command, &options, words);
    else
        return say_wrong_word(&options);
    return output_flush() < 0 ? EXIT_REFUSED : EXIT_DONE;
}
