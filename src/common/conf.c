#include "common/conf.h"

#include <arpa/inet.h>
#include <confuse.h>
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/fail.h"

enum { LABEL_MAX = 32 /* PKCS#11 v2.40 3.2: CK_TOKEN_INFO.label */ };

static const struct range {
    const char *option;
    long least, most;
} ranges[] = {
    {"sessions", 1, 64},
    {"connections", 1, 1000000},
    {"connections_per_source", 1, 1000000},
    {"queue", 1, 1000000},
    {"handshake_seconds", 1, 3600},
    {"stop_seconds", 0, 3600},
    {"retry_after_seconds", 0, 3600}, /* Failure.retryAfter of the wire protocol */
};

/* Options whose value is one of some words; the value kept is the word's place. */
static const struct choice {
    const char *option;
    const char *words[4];
} choices[] = {
    {"log_level", {"error", "warning", "info", "debug"}}, /* as enum log_level */
    {"store", {"token", "wrapped"}},
    {"redelivery", {"until-confirmed", "always"}},
};

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* Whether the unknown option of a sentence cannot be a misspelt one. It may be the PIN then, when
 * its file is given in place of tmkd.conf, and must not be repeated. */
static int is_no_name(const char *what)
{
    static const char unknown[] = "no such option '";
    const char *word = what + sizeof(unknown) - 1;

    return strncmp(what, unknown, sizeof(unknown) - 1) == 0 &&
           word[strspn(word, "abcdefghijklmnopqrstuvwxyz_")] != '\'';
}

/* libconfuse's door for errors: "LINE: what", as a section does not know its file's name. It stops
 * at the first error, so the sentence kept is the first. */
__attribute__((format(printf, 2, 0))) static void keep_error(cfg_t *cfg, const char *format,
                                                             va_list arguments)
{
    char what[512];
    vsnprintf(what, sizeof(what), format, arguments);
    if (is_no_name(what))
        fail(FAIL_CONFIG, "%d: no setting; is this file a tmkd.conf?", cfg->line);
    else
        fail(FAIL_CONFIG, "%d: %s", cfg->line, what);
}

static int read_choice(cfg_t *cfg, cfg_opt_t *opt, const char *value, void *ret_place)
{
    const struct choice *choice = choices;
    char words[128] = "";
    while (strcmp(choice->option, opt->name) != 0)
        choice++;
    for (long i = 0; i < (long)COUNT_OF(choice->words) && choice->words[i]; i++) {
        if (strcmp(choice->words[i], value) == 0) {
            *(long *)ret_place = i;
            return 0;
        }
        snprintf(words + strlen(words), sizeof(words) - strlen(words), "%s%s", i ? ", " : "",
                 choice->words[i]);
    }
    cfg_error(cfg, "%s is \"%s\"; it can be: %s", opt->name, value, words);
    return -1;
}

static int check_range(cfg_t *cfg, cfg_opt_t *opt)
{
    const struct range *range = ranges;
    long value = cfg_opt_getnint(opt, 0);
    while (strcmp(range->option, opt->name) != 0)
        range++;
    if (value >= range->least && value <= range->most)
        return 0;
    cfg_error(cfg, "%s is %ld; it can be %ld to %ld", opt->name, value, range->least, range->most);
    return -1;
}

int conf_is_listen_address(const char *text)
{
    char host[INET6_ADDRSTRLEN + 2];
    unsigned char address[sizeof(struct in6_addr)];
    const char *colon = strrchr(text, ':');
    if (!colon || (size_t)(colon - text) >= sizeof(host))
        return 0;
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = '\0';

    size_t digits = strspn(colon + 1, "0123456789");
    if (digits < 1 || digits > 5 || colon[1 + digits] != '\0' ||
        strtol(colon + 1, NULL, 10) > 65535)
        return 0;
    size_t len = strlen(host);
    if (host[0] != '[')
        return inet_pton(AF_INET, host, address) == 1;
    if (host[len - 1] != ']')
        return 0;
    host[len - 1] = '\0';
    return inet_pton(AF_INET6, host + 1, address) == 1;
}

static int check_listen(cfg_t *cfg, cfg_opt_t *opt)
{
    unsigned count = cfg_opt_size(opt);
    if (count > CONF_LISTEN_MAX) {
        cfg_error(cfg, "listen has more than %d addresses", CONF_LISTEN_MAX);
        return -1;
    }
    const char *last = count > 0 ? cfg_opt_getnstr(opt, count - 1) : NULL;
    if (last && conf_is_listen_address(last))
        return 0;
    cfg_error(cfg, "listen is \"%s\"; it can be \"127.0.0.1:7443\" or \"[::]:7443\"",
              last ? last : "");
    return -1;
}

static int check_environment(cfg_t *cfg, cfg_opt_t *opt)
{
    unsigned count = cfg_opt_size(opt);
    if (count > CONF_ENVIRONMENT_MAX) {
        cfg_error(cfg, "environment has more than %d entries", CONF_ENVIRONMENT_MAX);
        return -1;
    }
    const char *last = count > 0 ? cfg_opt_getnstr(opt, count - 1) : "NAME=";
    if (strchr(last, '=') && last[0] != '=')
        return 0;
    cfg_error(cfg, "environment holds \"%s\"; it can be \"NAME=value\"", last);
    return -1;
}

static int check_not_empty(cfg_t *cfg, cfg_opt_t *opt)
{
    const char *value = cfg_opt_getnstr(opt, 0);
    if (value && value[0])
        return 0;
    cfg_error(cfg, "%s is empty", opt->name);
    return -1;
}

static int check_label(cfg_t *cfg, cfg_opt_t *opt)
{
    const char *value = cfg_opt_getnstr(opt, 0);
    if (value && value[0] && strlen(value) <= LABEL_MAX)
        return 0;
    cfg_error(cfg, "%s has 1 to %d characters", opt->name, LABEL_MAX);
    return -1;
}

static void set_checks(cfg_t *cfg)
{
    static const char *const not_empty[] = {"registry", "control", "token|module",
                                            "token|pin_file"};
    static const char *const numbers[] = {
        "token|sessions",
        "limits|connections",
        "limits|connections_per_source",
        "limits|queue",
        "limits|stop_seconds",
        "limits|handshake_seconds",
        "limits|retry_after_seconds",
    };
    for (size_t i = 0; i < COUNT_OF(not_empty); i++)
        cfg_set_validate_func(cfg, not_empty[i], check_not_empty);
    for (size_t i = 0; i < COUNT_OF(numbers); i++)
        cfg_set_validate_func(cfg, numbers[i], check_range);
    cfg_set_validate_func(cfg, "listen", check_listen);
    cfg_set_validate_func(cfg, "token|label", check_label);
    cfg_set_validate_func(cfg, "token|environment", check_environment);
}

/* The options there are and what each is when the file does not say. */
static cfg_t *make_options(void)
{
    char any_address[] = "{\"0.0.0.0:7443\"}", empty[] = "{}"; /* cfg_init() copies them */
    cfg_opt_t token[] = {
        CFG_STR("module", "/usr/lib/softhsm/libsofthsm2.so", CFGF_NONE),
        CFG_STR("label", "tmkd", CFGF_NONE),
        CFG_STR("pin_file", "/etc/tmkd/pin", CFGF_NONE),
        CFG_STR("so_pin_file", "", CFGF_NONE),
        CFG_STR_LIST("environment", empty, CFGF_NONE),
        CFG_INT("sessions", 4, CFGF_NONE),
        CFG_END(),
    };
    cfg_opt_t tmk[] = {
        CFG_INT_CB("store", 0, CFGF_NONE, read_choice),
        CFG_INT_CB("redelivery", 0, CFGF_NONE, read_choice),
        CFG_END(),
    };
    cfg_opt_t limits[] = {
        CFG_INT("connections", 4096, CFGF_NONE),
        CFG_INT("connections_per_source", 256, CFGF_NONE),
        CFG_INT("queue", 1024, CFGF_NONE),
        CFG_INT("handshake_seconds", 15, CFGF_NONE),
        CFG_INT("stop_seconds", 10, CFGF_NONE),
        CFG_INT("retry_after_seconds", 5, CFGF_NONE),
        CFG_END(),
    };
    cfg_opt_t users[] = {
        CFG_STR("keeper", "tmkd", CFGF_NONE),
        CFG_STR("listener", "tmkd-net", CFGF_NONE),
        CFG_STR("chroot", "/var/empty", CFGF_NONE),
        CFG_END(),
    };
    cfg_opt_t options[] = {
        CFG_STR_LIST("listen", any_address, CFGF_NONE),
        CFG_STR("registry", "/var/lib/tmkd/registry.db", CFGF_NONE),
        CFG_STR("control", "/run/tmkd/control", CFGF_NONE),
        CFG_INT_CB("log_level", LOG_INFO, CFGF_NONE, read_choice),
        CFG_SEC("token", token, CFGF_NONE),
        CFG_SEC("tmk", tmk, CFGF_NONE),
        CFG_SEC("limits", limits, CFGF_NONE),
        CFG_SEC("users", users, CFGF_NONE),
        CFG_END(),
    };
    return cfg_init(options, CFGF_NONE);
}

/* Puts the file's name before the sentence that keep_error() has left. */
static int fail_at_line(const char *path)
{
    char line[600];
    snprintf(line, sizeof(line), "%s", fail_text());
    return fail(FAIL_CONFIG, "%s:%s", path, line);
}

static int parse(cfg_t *cfg, const char *path)
{
    struct stat status;
    if (stat(path, &status))
        return fail(FAIL_CONFIG, "configuration %s: %s", path, strerror(errno));
    /* flex, inside libconfuse, ends the process when a read fails, as that of a directory does. */
    if (!S_ISREG(status.st_mode))
        return fail(FAIL_CONFIG, "configuration %s is not a file", path);

    cfg_set_error_function(cfg, keep_error);
    set_checks(cfg);
    int result = cfg_parse(cfg, path);
    if (result == CFG_FILE_ERROR)
        return fail(FAIL_CONFIG, "configuration %s: %s", path, strerror(errno));
    if (result != CFG_SUCCESS)
        return fail_at_line(path);
    if (cfg_size(cfg, "listen") == 0)
        return fail(FAIL_CONFIG, "%s: listen names no address", path);
    return 0;
}

static int copy_string(const char *from, char **ret)
{
    *ret = strdup(from);
    return *ret ? 0 : fail(FAIL_MEMORY, "no memory for the configuration");
}

/* A path that is not absolute starts at the directory of the configuration file. */
static int copy_path(const char *from, const char *directory, char **ret)
{
    if (from[0] == '/' || from[0] == '\0')
        return copy_string(from, ret);
    if (asprintf(ret, "%s/%s", directory, from) >= 0)
        return 0;
    *ret = NULL;
    return fail(FAIL_MEMORY, "no memory for the configuration");
}

/* A bare name is for the loader's search path, as dlopen(3) has it. */
static int copy_module(const char *from, const char *directory, char **ret)
{
    return strchr(from, '/') ? copy_path(from, directory, ret) : copy_string(from, ret);
}

static int copy_list(cfg_t *cfg, const char *option, char **ret_strings, size_t *ret_count)
{
    unsigned count = cfg_size(cfg, option);
    for (unsigned i = 0; i < count; i++) {
        int rc = copy_string(cfg_getnstr(cfg, option, i), &ret_strings[i]);
        if (rc)
            return rc;
        *ret_count = i + 1;
    }
    return 0;
}

static int copy_strings(cfg_t *cfg, const char *directory, struct conf *conf)
{
    int rc = copy_list(cfg, "listen", conf->listen, &conf->listen_count);
    if (rc == 0)
        rc = copy_list(cfg, "token|environment", conf->token.environment,
                       &conf->token.environment_count);
    if (rc == 0)
        rc = copy_path(cfg_getstr(cfg, "registry"), directory, &conf->registry);
    if (rc == 0)
        rc = copy_path(cfg_getstr(cfg, "control"), directory, &conf->control);
    if (rc == 0)
        rc = copy_module(cfg_getstr(cfg, "token|module"), directory, &conf->token.module);
    if (rc == 0)
        rc = copy_string(cfg_getstr(cfg, "token|label"), &conf->token.label);
    if (rc == 0)
        rc = copy_path(cfg_getstr(cfg, "token|pin_file"), directory, &conf->token.pin_file);
    if (rc == 0)
        rc = copy_path(cfg_getstr(cfg, "token|so_pin_file"), directory, &conf->token.so_pin_file);
    if (rc == 0)
        rc = copy_string(cfg_getstr(cfg, "users|keeper"), &conf->users.keeper);
    if (rc == 0)
        rc = copy_string(cfg_getstr(cfg, "users|listener"), &conf->users.listener);
    if (rc == 0)
        rc = copy_path(cfg_getstr(cfg, "users|chroot"), directory, &conf->users.chroot);
    return rc;
}

static void copy_numbers(cfg_t *cfg, struct conf *conf)
{
    conf->log_level = (enum log_level)cfg_getint(cfg, "log_level");
    conf->token.sessions = (size_t)cfg_getint(cfg, "token|sessions");
    conf->tmk.wrapped = (int)cfg_getint(cfg, "tmk|store");
    conf->tmk.redeliver_always = (int)cfg_getint(cfg, "tmk|redelivery");
    conf->limits.connections = (size_t)cfg_getint(cfg, "limits|connections");
    conf->limits.connections_per_source = (size_t)cfg_getint(cfg, "limits|connections_per_source");
    conf->limits.queue = (size_t)cfg_getint(cfg, "limits|queue");
    conf->limits.handshake_seconds = (unsigned)cfg_getint(cfg, "limits|handshake_seconds");
    conf->limits.stop_seconds = (unsigned)cfg_getint(cfg, "limits|stop_seconds");
    conf->limits.retry_after_seconds = (unsigned)cfg_getint(cfg, "limits|retry_after_seconds");
}

/* The absolute directory of the file, so that a later chdir() changes nothing. */
static int directory_of(const char *path, char ret_directory[static PATH_MAX])
{
    char copy[PATH_MAX];
    if (snprintf(copy, sizeof(copy), "%s", path) >= (int)sizeof(copy))
        return fail(FAIL_CONFIG, "the path of the configuration is too long");
    if (!realpath(dirname(copy), ret_directory))
        return fail(FAIL_CONFIG, "directory of configuration %s: %s", path, strerror(errno));
    return 0;
}

int conf_read(const char *path, struct conf **ret_conf)
{
    char directory[PATH_MAX];
    struct conf *conf = calloc(1, sizeof(*conf));
    cfg_t *cfg = make_options();
    int rc = FAIL_MEMORY;

    if (!conf || !cfg)
        fail(FAIL_MEMORY, "no memory for the configuration");
    else
        rc = parse(cfg, path);
    if (rc == 0)
        rc = directory_of(path, directory);
    if (rc == 0)
        rc = copy_strings(cfg, directory, conf);
    if (rc == 0) {
        copy_numbers(cfg, conf);
        *ret_conf = conf;
        conf = NULL;
    }
    conf_free(conf);
    cfg_free(cfg);
    return rc;
}

void conf_free(struct conf *conf)
{
    if (!conf)
        return;
    for (size_t i = 0; i < conf->listen_count; i++)
        free(conf->listen[i]);
    for (size_t i = 0; i < conf->token.environment_count; i++)
        free(conf->token.environment[i]);
    free(conf->registry);
    free(conf->control);
    free(conf->token.module);
    free(conf->token.label);
    free(conf->token.pin_file);
    free(conf->token.so_pin_file);
    free(conf->users.keeper);
    free(conf->users.listener);
    free(conf->users.chroot);
    free(conf);
}
