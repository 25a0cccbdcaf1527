#ifndef TMKCTL_COMMAND_H
#define TMKCTL_COMMAND_H

/* What tmkctl can do. Each runs with options that were checked, prints its data on standard output,
 * and returns 0, a negative error with its sentence, or COMMAND_MISUSED. */

#include "tools/tmkctl/options.h"

/* What command_misused() returns, for a command that was called in a wrong way. */
enum { COMMAND_MISUSED = 1 };
int command_misused(const char *sentence);

struct command {
    const char *name;     /* "terminal import" */
    const char *argument; /* "FILE"; NULL: it takes none */
    unsigned options;     /* beside those of every command */
    const char *summary;  /* for the list of commands */
    const char *help;     /* whole lines */
    const char *example;  /* a command line, and what it prints if that helps */
    int (*run)(const struct options *options, const char *argument);
};

int command_init(const struct options *options, const char *argument);
int command_cert_request(const struct options *options, const char *argument);
int command_cert_install(const struct options *options, const char *file);
int command_cert_show(const struct options *options, const char *argument);
int command_terminal_import(const struct options *options, const char *file);
int command_terminal_add(const struct options *options, const char *sn);
int command_terminal_list(const struct options *options, const char *argument);
int command_terminal_show(const struct options *options, const char *sn);
int command_terminal_disable(const struct options *options, const char *sn);
int command_terminal_enable(const struct options *options, const char *sn);
int command_terminal_reopen(const struct options *options, const char *sn);
int command_terminal_remove(const struct options *options, const char *sn);
int command_tmk_show(const struct options *options, const char *sn);
int command_tmk_rotate(const struct options *options, const char *sn);
int command_audit_list(const struct options *options, const char *argument);
int command_audit_verify(const struct options *options, const char *argument);
int command_status(const struct options *options, const char *argument);

#endif
