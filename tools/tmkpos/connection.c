#include "connection.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fail.h"
#include "wire/frame.h"

struct connection {
    int fd;
    int seconds;      /* given at first, for the sentence */
    int64_t deadline; /* milliseconds of CLOCK_MONOTONIC */
};

static int wait_for(const struct connection *connection, short events)
{
    struct pollfd ready = {.fd = connection->fd, .events = events};

    for (;;) {
        int64_t left = connection->deadline - clock_ms();
        int count = poll(&ready, 1, left > 0 ? (int)left : 0);
        if (count > 0)
            return 0;
        if (count == 0)
            return fail(FAIL_BUSY,
                        "the server did not do its part within %d seconds; see that it serves, and "
                        "try again",
                        connection->seconds);
        if (errno != EINTR)
            return fail_system("cannot wait for the server");
    }
}

static int finish_connect(const struct connection *connection)
{
    int error = 0;
    socklen_t len = sizeof(error);
    int rc = wait_for(connection, POLLOUT);

    if (rc < 0)
        return rc;
    if (getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 || error != 0) {
        errno = error ? error : errno;
        return fail_system("cannot connect");
    }
    return 0;
}

static int connect_to(struct connection *connection, const struct addrinfo *address)
{
    int type = address->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC;

    connection->fd = socket(address->ai_family, type, address->ai_protocol);
    if (connection->fd < 0)
        return fail_system("no socket");
    int rc = connect(connection->fd, address->ai_addr, address->ai_addrlen);
    if (rc < 0)
        rc = errno == EINPROGRESS ? finish_connect(connection) : fail_system("cannot connect");
    if (rc < 0) {
        close(connection->fd);
        connection->fd = -1;
    }
    return rc;
}

static int connect_to_any(struct connection *connection, const char *host, const char *port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    struct addrinfo *addresses = NULL;
    int error = getaddrinfo(host, port, &hints, &addresses);

    if (error != 0)
        return fail(FAIL_NOT_FOUND, "%s", gai_strerror(error));
    int rc = FAIL_NOT_FOUND;
    for (const struct addrinfo *at = addresses; at && rc < 0; at = at->ai_next)
        rc = connect_to(connection, at);
    freeaddrinfo(addresses);
    return rc;
}

int connection_open(const char *host, const char *port, int seconds,
                    struct connection **ret_connection)
{
    struct connection *connection = malloc(sizeof(*connection));

    if (!connection)
        return fail(FAIL_MEMORY, "no memory for a connection");
    *connection = (struct connection){.fd = -1, .seconds = seconds};
    connection->deadline = clock_ms() + (int64_t)seconds * 1000;
    int rc = connect_to_any(connection, host, port);
    if (rc < 0) {
        connection_close(connection);
        return fail_in(rc, "no tmkd answers at %s port %s", host, port);
    }
    *ret_connection = connection;
    return 0;
}

void connection_close(struct connection *connection)
{
    if (connection && connection->fd >= 0)
        close(connection->fd);
    free(connection);
}

/* A server that has no place answers and closes before it reads: that answer is what counts, so a
 * closed connection is no failure here; connection_receive() tells. */
static int send_all(const struct connection *connection, const uint8_t *bytes, size_t len)
{
    while (len > 0) {
        int rc = wait_for(connection, POLLOUT);
        if (rc < 0)
            return rc;
        ssize_t sent = send(connection->fd, bytes, len, MSG_NOSIGNAL);
        if (sent < 0 && (errno == EPIPE || errno == ECONNRESET))
            return 0;
        if (sent < 0 && errno != EAGAIN && errno != EINTR)
            return fail_system("cannot send to the server");
        bytes += sent > 0 ? sent : 0;
        len -= sent > 0 ? (size_t)sent : 0;
    }
    return 0;
}

int connection_send(struct connection *connection, const uint8_t *message, size_t len)
{
    uint8_t frame[FRAME_MAX];

    frame_write_length(len, frame);
    memcpy(frame + FRAME_HEADER_LEN, message, len);
    return send_all(connection, frame, FRAME_HEADER_LEN + len);
}

static int receive_all(const struct connection *connection, uint8_t *ret_bytes, size_t len)
{
    while (len > 0) {
        int rc = wait_for(connection, POLLIN);
        if (rc < 0)
            return rc;
        ssize_t got = recv(connection->fd, ret_bytes, len, 0);
        if (got == 0 || (got < 0 && errno == ECONNRESET))
            return fail(FAIL_CLOSED, "the server closed the connection before it was done; try "
                                     "again, and if it stays so ask its operator");
        if (got < 0 && errno != EAGAIN && errno != EINTR)
            return fail_system("cannot receive from the server");
        ret_bytes += got > 0 ? got : 0;
        len -= got > 0 ? (size_t)got : 0;
    }
    return 0;
}

static int read_length(const uint8_t header[static FRAME_HEADER_LEN], size_t *ret_len)
{
    char why[200];
    int rc = frame_read_length(header, ret_len);

    if (rc == 0)
        return 0;
    snprintf(why, sizeof(why), "%s", fail_text());
    return fail(rc, "%s; is that a tmkd?", why);
}

int connection_receive(struct connection *connection, uint8_t *ret_message, size_t *ret_len)
{
    uint8_t header[FRAME_HEADER_LEN];
    size_t len = 0;
    int rc = receive_all(connection, header, sizeof(header));

    if (rc == 0)
        rc = read_length(header, &len);
    if (rc == 0)
        rc = receive_all(connection, ret_message, len);
    if (rc == 0)
        *ret_len = len;
    return rc;
}
