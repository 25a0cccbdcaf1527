#include "tmkd/acceptor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/fail.h"
#include "tmkd/address.h"

enum { ACCEPTS_AT_ONCE = 64 /* then those inside have their turn */ };

struct acceptor {
    int fd;
    int reserve; /* a spare descriptor, given up to accept and turn away when there is no other */
    struct event *readable;
    struct event *pause_over;
    acceptor_take *take;
    acceptor_turn_away *away;
    void *context;
};

/* The next connection, or a negative number of errno. */
static int next_connection(const struct acceptor *a, struct source *ret_source)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof(address);
    int fd = accept4(a->fd, (struct sockaddr *)&address, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return -errno;
    *ret_source = address_source(&address);
    return fd;
}

static void make_reserve(struct acceptor *a)
{
    if (a->reserve < 0)
        a->reserve = fcntl(a->fd, F_DUPFD_CLOEXEC, 0);
}

/* Without a free descriptor the connection would stay in the queue and wake the loop for ever. */
static int turn_one_away(struct acceptor *a)
{
    struct source source;
    if (a->reserve >= 0)
        close(a->reserve);
    a->reserve = -1;
    int fd = next_connection(a, &source);
    if (fd >= 0)
        a->away(a->context, fd);
    make_reserve(a);
    return fd;
}

/* The system itself is out of something: look again in a moment. */
static void pause_accepting(struct acceptor *a)
{
    const struct timeval moment = {.tv_usec = 100000};
    event_del(a->readable);
    event_add(a->pause_over, &moment);
}

static void on_pause_over(evutil_socket_t fd, short what, void *context)
{
    struct acceptor *a = context;
    (void)fd;
    (void)what;
    make_reserve(a);
    event_add(a->readable, NULL);
}

/* Whether there may be another. */
static int accept_one(struct acceptor *a)
{
    struct source source;
    int fd = next_connection(a, &source);
    if (fd >= 0) {
        a->take(a->context, fd, &source);
        return 1;
    }
    if (fd == -EMFILE)
        fd = turn_one_away(a);
    if (fd >= 0 || fd == -ECONNABORTED || fd == -EINTR)
        return 1;
    if (fd != -EAGAIN)
        pause_accepting(a);
    return 0;
}

static void on_readable(evutil_socket_t fd, short what, void *context)
{
    struct acceptor *a = context;
    (void)fd;
    (void)what;
    for (int i = 0; i < ACCEPTS_AT_ONCE && accept_one(a); i++)
        continue;
}

static int watch(struct acceptor *a, struct event_base *base)
{
    make_reserve(a);
    if (a->reserve < 0)
        return fail_system("keeping a spare descriptor");
    a->readable = event_new(base, a->fd, EV_READ | EV_PERSIST, on_readable, a);
    a->pause_over = evtimer_new(base, on_pause_over, a);
    if (!a->readable || !a->pause_over || event_add(a->readable, NULL))
        return fail(FAIL_MEMORY, "no memory to watch a listening socket");
    return 0;
}

int acceptor_new(struct event_base *base, int fd, acceptor_take *take, acceptor_turn_away *away,
                 void *context, struct acceptor **ret_acceptor)
{
    struct acceptor *a = calloc(1, sizeof(*a));
    if (!a) {
        close(fd);
        return fail(FAIL_MEMORY, "no memory for a listening socket");
    }
    *a = (struct acceptor){.fd = fd, .reserve = -1, .take = take, .away = away, .context = context};
    int rc = watch(a, base);
    if (rc)
        acceptor_free(a);
    else
        *ret_acceptor = a;
    return rc;
}

void acceptor_free(struct acceptor *a)
{
    struct source source;
    int fd = 0;
    if (!a)
        return;
    for (int i = 0; i < SOMAXCONN && (fd = next_connection(a, &source)) >= 0; i++)
        a->away(a->context, fd);
    if (a->readable)
        event_free(a->readable);
    if (a->pause_over)
        event_free(a->pause_over);
    if (a->reserve >= 0)
        close(a->reserve);
    close(a->fd);
    free(a);
}
