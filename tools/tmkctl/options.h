#ifndef TMKCTL_OPTIONS_H
#define TMKCTL_OPTIONS_H

/* The command line: words, and the options of all commands. Options and words may be mixed. */

#include <stddef.h>

enum option_name {
    OPTION_CONF,
    OPTION_HELP,
    OPTION_VERSION,
    OPTION_JSON,
    OPTION_EMBEDDED,
    OPTION_PRKS,
    OPTION_TMK_STORE,
    OPTION_LISTEN,
    OPTION_SUBJECT,
    OPTION_KEY,
    OPTION_TMK,
    OPTION_FORMAT,
    OPTION_ON_ERROR,
    OPTION_DRY_RUN,
    OPTION_COUNT,
};

#define OPTION_BIT(name) (1u << (name))

enum { WORDS_MAX = 4 };

struct options {
    const char *value[OPTION_COUNT]; /* NULL: not given; "" for one that takes no value */
    const char *words[WORDS_MAX];    /* the command's name and argument */
    size_t word_count;
};

/* Reads argv. FAIL_MALFORMED for an unknown option, a missing value or one that is no choice. */
int options_read(int argc, char *argv[], struct options *ret_options);

/* Whether only those of the mask are given, beside those of every command. FAIL_MALFORMED. */
int options_allow(const struct options *options, unsigned mask);

/* The value, or what stands for it when it is not given. */
const char *option_or(const struct options *options, enum option_name name, const char *otherwise);

/* A line of help for each option of the mask. */
void options_print(unsigned mask);

/* The options every command takes. */
extern const unsigned options_of_all;

#endif
