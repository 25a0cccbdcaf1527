#ifndef TMKCTL_CLIENT_H
#define TMKCTL_CLIENT_H

/* The client's end of src/tmkd/CONTROL.md: a connection, and one call for a question and its
 * answer. */

#include <jansson.h>

enum { CLIENT_LINE_MAX = 1024 * 1024 }; /* bytes of a request or an answer, the line end included */

struct client;

/* A keeper to talk to: that of the running tmkd, else a private one that ends with the client.
 * FAIL_CONFIG, FAIL_REFUSED (no permission), FAIL_CLOSED (a private keeper did not start). */
int client_open(const char *conf_path, struct client **ret_client);

/* A private `tmkd --role ceremony`, also beside a running tmkd. */
int client_open_ceremony(const char *conf_path, struct client **ret_client);

/* That of the running tmkd only. FAIL_NOT_FOUND when none runs. */
int client_open_running(const char *conf_path, struct client **ret_client);

/* Whether a tmkd runs: the keeper is not a private one. */
int client_is_running(const struct client *client);

/* Asks; takes over the reference of request, NULL is FAIL_MEMORY. *ret_value: what the keeper
 * answered with "ok", the caller's. FAIL_REFUSED with the keeper's own sentence, FAIL_CLOSED,
 * FAIL_MALFORMED. */
int client_call(struct client *client, json_t *request, json_t **ret_value);

/* Ends it, and waits for a private keeper. rc: how the work went, given back with its sentence;
 * when that was well, or the keeper was lost, it is how the keeper ended (FAIL_CLOSED). Accepts
 * NULL. */
int client_close(struct client *client, int rc);

/* The three in one, for a command that asks once. */
int client_ask(const char *conf_path, json_t *request, json_t **ret_value);
int client_ask_ceremony(const char *conf_path, json_t *request, json_t **ret_value);

#endif
