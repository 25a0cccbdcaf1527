#ifndef COMMON_CONF_H
#define COMMON_CONF_H

#include <stddef.h>

#include "common/log.h"

enum { CONF_ENVIRONMENT_MAX = 8, CONF_LISTEN_MAX = 8 };

/* tmkd.conf, read and checked. Strings are never NULL; sizes and times in the unit they name. */
struct conf {
    char *listen[CONF_LISTEN_MAX]; /* "ADDR:PORT", "[V6]:PORT"; port 0: any free one */
    size_t listen_count;
    char *registry; /* path of the SQLite file */
    char *control;  /* path of the control socket */
    enum log_level log_level;

    struct {
        char *module;      /* path of the PKCS#11 module */
        char *label;       /* CKA label of the token */
        char *pin_file;    /* user PIN, one line, mode 0600 */
        char *so_pin_file; /* SO PIN, for init of an embedded token only; may be "" */
        char *environment[CONF_ENVIRONMENT_MAX]; /* "NAME=value" for the module's own settings */
        size_t environment_count;
        size_t sessions; /* worker threads, each with a session */
    } token;

    struct {
        int wrapped;          /* store: 1 wrapped, 0 token */
        int redeliver_always; /* redelivery: 1 always, 0 until-confirmed */
    } tmk;

    struct {
        size_t connections;            /* in all */
        size_t connections_per_source; /* per address */
        size_t queue;                  /* requests that wait for a worker; more get busy */
        unsigned handshake_seconds;    /* from accept to done, absolute */
        unsigned stop_seconds;         /* for handshakes in flight at SIGTERM */
        unsigned retry_after_seconds;  /* told with busy */
    } limits;

    struct {
        char *keeper;   /* user of the keeper when started as root; "" stays as it is */
        char *listener; /* user of the listener when started as root; "" stays as it is */
        char *chroot;   /* the listener's root directory when started as root; "" none */
    } users;
};

/* Reads the file. FAIL_CONFIG with "FILE:LINE: what" for an unknown key, a wrong type or a value
 * out of its range. Free with conf_free() (which accepts NULL). */
int conf_read(const char *path, struct conf **ret_conf);
void conf_free(struct conf *conf);

/* Whether it may stand in listen: "ADDR:PORT" or "[V6]:PORT" with numbers: names would need a
 * resolver at start. */
int conf_is_listen_address(const char *text);

#endif
