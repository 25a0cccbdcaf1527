#include "tools/tmkctl/client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/conf.h"
#include "common/fail.h"
#include "tools/tmkctl/interrupt.h"
#include "tools/tmkctl/keeper_process.h"

struct client {
    int stream;
    int is_private;
    struct keeper_process keeper; /* when it is private */
    size_t used;                  /* bytes in line */
    char line[CLIENT_LINE_MAX];
};

static const char permission[] = "permission denied; run tmkctl as root or as the keeper's user";

static int read_conf(const char *path, struct conf **ret_conf)
{
    if (access(path, R_OK) < 0 && errno == EACCES)
        return fail(FAIL_REFUSED, "%s: %s", path, permission);
    return conf_read(path, ret_conf);
}

/* FAIL_NOT_FOUND when nobody listens there. */
static int connect_control(const char *path, int *ret_stream)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t len = strlen(path);

    if (len >= sizeof(address.sun_path))
        return fail(FAIL_CONFIG,
                    "%s: a control socket's path has at most %zu bytes; choose a "
                    "shorter one",
                    path, sizeof(address.sun_path) - 1);
    memcpy(address.sun_path, path, len);
    int stream = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (stream < 0)
        return fail_system("cannot make a socket");
    if (connect(stream, (const struct sockaddr *)&address, sizeof(address)) == 0) {
        *ret_stream = stream;
        return 0;
    }
    int reason = errno;
    close(stream);
    errno = reason;
    if (reason == ENOENT || reason == ECONNREFUSED)
        return fail(FAIL_NOT_FOUND, "%s: no tmkd runs", path);
    if (reason == EACCES)
        return fail(FAIL_REFUSED, "%s: %s", path, permission);
    return fail_system("%s: cannot connect", path);
}

/* role: of the private keeper to start when no tmkd runs; NULL for none. */
static int reach(struct client *client, const char *conf_path, const char *role, int running)
{
    struct conf *conf;
    int rc = read_conf(conf_path, &conf);
    if (rc < 0)
        return rc;
    rc = running ? connect_control(conf->control, &client->stream) : FAIL_NOT_FOUND;
    conf_free(conf);
    if (rc == FAIL_NOT_FOUND && role) {
        rc = keeper_process_start(role, conf_path, &client->keeper, &client->stream);
        client->is_private = 1;
    }
    return rc;
}

static int open_client(const char *conf_path, const char *role, int running,
                       struct client **ret_client)
{
    struct client *client = calloc(1, sizeof(*client));
    if (!client)
        return fail(FAIL_MEMORY, "out of memory");
    int rc = reach(client, conf_path, role, running);
    if (rc < 0)
        free(client);
    else
        *ret_client = client;
    return rc;
}

int client_open(const char *conf_path, struct client **ret_client)
{
    return open_client(conf_path, "keeper", 1, ret_client);
}

int client_open_ceremony(const char *conf_path, struct client **ret_client)
{
    return open_client(conf_path, "ceremony", 0, ret_client);
}

int client_open_running(const char *conf_path, struct client **ret_client)
{
    return open_client(conf_path, NULL, 1, ret_client);
}

int client_is_running(const struct client *client)
{
    return !client->is_private;
}

static int lost(void)
{
    if (interrupt_check() < 0)
        return FAIL_REFUSED;
    return fail(FAIL_CLOSED, "the keeper ended before it answered; its log says why, try again");
}

static int write_all(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t sent = send(fd, bytes, len, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR && interrupt_check() == 0)
            continue;
        if (sent < 0 && errno == EPIPE)
            return 0; /* it may have said why before it closed; else the answer is missed */
        if (sent < 0)
            return lost();
        bytes += sent;
        len -= (size_t)sent;
    }
    return 0;
}

static int send_request(struct client *client, const json_t *request)
{
    int rc = interrupt_check();
    if (rc < 0)
        return rc;
    size_t len = json_dumpb(request, client->line, sizeof(client->line) - 1, JSON_COMPACT);
    if (len == 0 || len > sizeof(client->line) - 1)
        return fail(FAIL_MALFORMED, "a request of over %d bytes", CLIENT_LINE_MAX);
    client->line[len] = '\n';
    return write_all(client->stream, client->line, len + 1);
}

/* One line into client->line; *ret_len is its length without the line end. */
static int receive_line(struct client *client, size_t *ret_len)
{
    char *end = NULL;
    size_t used = 0;
    while (!end) {
        if (used == sizeof(client->line))
            return fail(FAIL_MALFORMED, "the keeper's answer has over %d bytes", CLIENT_LINE_MAX);
        ssize_t got = read(client->stream, client->line + used, sizeof(client->line) - used);
        if (got < 0 && errno == EINTR && interrupt_check() == 0)
            continue;
        if (got <= 0)
            return lost();
        end = memchr(client->line + used, '\n', (size_t)got);
        used += (size_t)got;
    }
    *ret_len = (size_t)(end - client->line);
    return 0;
}

static int receive_answer(struct client *client, json_t **ret_answer)
{
    size_t len;
    int rc = receive_line(client, &len);
    if (rc < 0)
        return rc;
    *ret_answer = json_loadb(client->line, len, JSON_REJECT_DUPLICATES, NULL);
    return *ret_answer ? 0
                       : fail(FAIL_MALFORMED, "the keeper's answer is not JSON; are tmkctl and "
                                              "tmkd of one version?");
}

static int take_value(json_t *answer, json_t **ret_value)
{
    json_t *value = json_object_get(answer, "ok");
    const char *error = json_string_value(json_object_get(answer, "error"));

    int rc = 0;

    if (value)
        *ret_value = json_incref(value);
    else if (error)
        rc = fail(FAIL_REFUSED, "%s", error);
    else
        rc = fail(FAIL_MALFORMED, "the keeper's answer says neither ok nor error");
    json_decref(answer);
    return rc;
}

int client_call(struct client *client, json_t *request, json_t **ret_value)
{
    json_t *answer;
    int rc = request ? send_request(client, request) : fail(FAIL_MEMORY, "out of memory");
    json_decref(request);
    if (rc == 0)
        rc = receive_answer(client, &answer);
    return rc < 0 ? rc : take_value(answer, ret_value);
}

int client_close(struct client *client, int rc)
{
    char before[1024];

    if (!client)
        return rc;
    snprintf(before, sizeof(before), "%s", fail_text());
    close(client->stream);
    int ended = client->is_private ? keeper_process_wait(&client->keeper) : 0;
    free(client);
    if (rc == 0 || (rc == FAIL_CLOSED && ended < 0))
        return ended;
    return fail(rc, "%s", before);
}

static int ask(int (*open)(const char *, struct client **), const char *conf_path, json_t *request,
               json_t **ret_value)
{
    struct client *client;
    int rc = open(conf_path, &client);
    if (rc < 0) {
        json_decref(request);
        return rc;
    }
    json_t *value = NULL;
    rc = client_close(client, client_call(client, request, &value));
    if (rc < 0)
        json_decref(value);
    else
        *ret_value = value;
    return rc;
}

int client_ask(const char *conf_path, json_t *request, json_t **ret_value)
{
    return ask(client_open, conf_path, request, ret_value);
}

int client_ask_ceremony(const char *conf_path, json_t *request, json_t **ret_value)
{
    return ask(client_open_ceremony, conf_path, request, ret_value);
}
