#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

#include "tmkd/ceremony.h"
#include "tmkd/keeper.h"
#include "tmkd/listener.h"
#include "tmkd/supervisor.h"

enum { EXIT_USAGE = 2 };

struct arguments {
    const char *conf;
    const char *role; /* hidden: how the supervisor and tmkctl start the processes of the house */
    int help, version;
};

static const char help[] =
    "tmkd - the server of terminal master keys (TMK) for payment terminals\n"
    "\n"
    "usage: tmkd -c FILE\n"
    "\n"
    "  -c, --conf FILE   the configuration; `tmkctl init` makes one\n"
    "  -h, --help        show this\n"
    "      --version     show the version\n"
    "\n"
    "It stays in the foreground, logs to standard error, and prints\n"
    "\"tmkd: ready on ADDR:PORT\" when terminals can connect. SIGTERM or Ctrl-C:\n"
    "downloads in flight are finished, then it ends.\n"
    "\n"
    "Example:\n"
    "  tmkd -c lab/tmkd.conf\n"
    "\n"
    "Exit status: 0 stopped, 1 refused or failed, 2 usage.\n";

static int misused(const char *what)
{
    fprintf(stderr, "tmkd: %s; see tmkd --help\n", what);
    return -1;
}

static int read_arguments(int argc, char **argv, struct arguments *ret)
{
    static const struct option options[] = {
        {"conf", required_argument, NULL, 'c'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'v'},
        {"role", required_argument, NULL, 'r'},
        {NULL, 0, NULL, 0},
    };
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":c:h", options, NULL)) != -1)
        switch (option) {
        case 'c':
            ret->conf = optarg;
            break;
        case 'r':
            ret->role = optarg;
            break;
        case 'h':
            ret->help = 1;
            break;
        case 'v':
            ret->version = 1;
            break;
        case ':':
            return misused("an option lacks its value");
        default:
            return misused("there is no such option");
        }
    return optind < argc ? misused("it takes options only") : 0;
}

/* What ps and top show: a child is executed as /proc/self/exe and would be "exe". */
static void show_role(const char *role)
{
    char name[16]; /* PR_SET_NAME's limit */
    snprintf(name, sizeof(name), "tmkd-%s", role);
    prctl(PR_SET_NAME, name, 0, 0, 0);
}

static int run(const struct arguments *arguments)
{
    const char *role = arguments->role ? arguments->role : "supervisor";
    if (arguments->role)
        show_role(role);
    if (strcmp(role, "listener") == 0)
        return listener_run();
    if (!arguments->conf) {
        misused("no configuration given, say -c FILE");
        return EXIT_USAGE;
    }
    if (strcmp(role, "supervisor") == 0)
        return supervisor_run(arguments->conf);
    if (strcmp(role, "keeper") == 0)
        return keeper_run(arguments->conf);
    if (strcmp(role, "ceremony") == 0)
        return ceremony_run(arguments->conf);
    misused("there is no such role");
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    struct arguments arguments = {0};
    signal(SIGPIPE, SIG_IGN); /* a peer that is gone is an error of write(2) */
    if (read_arguments(argc, argv, &arguments))
        return EXIT_USAGE;
    if (arguments.help)
        return fputs(help, stdout) < 0;
    if (arguments.version)
        return printf("tmkd %s\n", TMKD_VERSION) < 0;
    return run(&arguments);
}
