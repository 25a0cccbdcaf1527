#include "tmkd/address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/fail.h"

static int not_an_address(const char *text)
{
    return fail(FAIL_CONFIG, "\"%s\" is no address to listen on; write ADDR:PORT or [V6]:PORT",
                text);
}

/* Cuts "ADDR:PORT" in two, without the brackets. */
static int split(const char *text, char ret_host[static ADDRESS_TEXT_MAX], const char **ret_port)
{
    const char *colon = strrchr(text, ':');
    if (!colon || colon == text || !colon[1] || colon - text >= ADDRESS_TEXT_MAX)
        return not_an_address(text);
    int bracketed = text[0] == '[' && colon[-1] == ']';
    size_t len = (size_t)(colon - text) - (bracketed ? 2 : 0);
    memcpy(ret_host, text + bracketed, len);
    ret_host[len] = '\0';
    *ret_port = colon + 1;
    return 0;
}

static int parse(const char *text, struct addrinfo **ret_info)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
                             .ai_socktype = SOCK_STREAM};
    char host[ADDRESS_TEXT_MAX];
    const char *port = NULL;
    int rc = split(text, host, &port);
    if (rc)
        return rc;
    return getaddrinfo(host, port, &hints, ret_info) ? not_an_address(text) : 0;
}

/* Accepted sockets inherit TCP_NODELAY (tcp(7)): the caged listener need not set it. */
static int set_up(int fd, const struct addrinfo *info)
{
    const int on = 1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)))
        return -1;
    if (info->ai_family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)))
        return -1;
    return bind(fd, info->ai_addr, info->ai_addrlen) || listen(fd, SOMAXCONN) ? -1 : 0;
}

int address_listen(const char *text, int *ret_fd)
{
    struct addrinfo *info = NULL;
    int rc = parse(text, &info);
    if (rc)
        return rc;
    int fd = socket(info->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || set_up(fd, info))
        rc = fail_system("cannot listen on %s", text);
    if (rc == 0)
        *ret_fd = fd;
    else if (fd >= 0)
        close(fd);
    freeaddrinfo(info);
    return rc;
}

int address_of_socket(int fd, char ret_text[static ADDRESS_TEXT_MAX])
{
    struct sockaddr_storage address;
    socklen_t len = sizeof(address);
    char host[INET6_ADDRSTRLEN];
    if (getsockname(fd, (struct sockaddr *)&address, &len))
        return fail_system("reading a socket's address");
    struct source local = address_source(&address);
    if (!inet_ntop(address.ss_family, local.address, host, sizeof(host)))
        return fail_system("writing a socket's address");
    snprintf(ret_text, ADDRESS_TEXT_MAX, local.family == 6 ? "[%s]:%u" : "%s:%u", host,
             (unsigned)local.port);
    return 0;
}

struct source address_source(const struct sockaddr_storage *address)
{
    struct source source = {0};
    if (address->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
        source.family = 4;
        source.port = ntohs(v4->sin_port);
        memcpy(source.address, &v4->sin_addr, sizeof(v4->sin_addr));
    } else if (address->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
        source.family = 6;
        source.port = ntohs(v6->sin6_port);
        memcpy(source.address, &v6->sin6_addr, sizeof(v6->sin6_addr));
    }
    return source;
}
