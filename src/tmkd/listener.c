#include "tmkd/listener.h"

#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include <event2/event.h>
#include <openssl/crypto.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include "common/fail.h"
#include "common/log.h"
#include "tmkd/acceptor.h"
#include "tmkd/cage.h"
#include "tmkd/connection.h"
#include "tmkd/house.h"
#include "tmkd/keeper_line.h"
#include "tmkd/source_table.h"

enum { EXIT_FAILED = 1, EXIT_REFUSED = 2, OWN_DESCRIPTORS = 64 };

/* A connection that is inside, found by its number when the keeper answers. */
struct guest {
    uint64_t handshake;
    struct source source;
    struct connection *connection;
    UT_hash_handle hh;
};

struct listener {
    struct listener_settings settings;
    struct event_base *base;
    struct event *house;
    struct event *stop_time;
    struct connection_rules rules;
    struct keeper_line *line;
    struct source_table *sources;
    struct guest *guests;
    uint64_t last_handshake;
    struct acceptor *acceptors[HOUSE_LISTEN_MAX];
    size_t acceptor_count;
    int stopping;
    int status;
};

static struct timeval milliseconds(uint32_t ms)
{
    return (struct timeval){.tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000) * 1000};
}

/* --- guests --- */

static void leave_if_empty(struct listener *l)
{
    if (l->stopping && !l->guests)
        event_base_loopbreak(l->base);
}

static void remove_guest(struct listener *l, struct guest *guest)
{
    HASH_DEL(l->guests, guest);
    source_table_leave(l->sources, &guest->source);
    connection_free(guest->connection);
    free(guest);
}

static struct guest *find_guest(const struct listener *l, uint64_t handshake)
{
    struct guest *guest;
    HASH_FIND(hh, l->guests, &handshake, sizeof(handshake), guest);
    return guest;
}

static int ask(void *context, const struct keeper_request *request)
{
    const struct listener *l = context;
    if (l->stopping && request->kind == REQUEST_HELLO)
        return fail(FAIL_BUSY, "the server stops");
    return keeper_line_ask(l->line, request);
}

static void abandon(void *context, uint64_t handshake)
{
    const struct listener *l = context;
    keeper_line_abandon(l->line, handshake);
}

static void ended(void *context, uint64_t handshake)
{
    struct listener *l = context;
    struct guest *guest = find_guest(l, handshake);
    if (guest)
        remove_guest(l, guest);
    leave_if_empty(l);
}

/* Counts it in and gives it its place; on failure nothing of it is left but fd. */
static int add_guest(struct listener *l, const struct source *source, struct guest **ret_guest)
{
    if (HASH_COUNT(l->guests) >= l->settings.connections)
        return fail(FAIL_BUSY, "there are %u connections already", HASH_COUNT(l->guests));
    struct guest *guest = calloc(1, sizeof(*guest));
    if (!guest)
        return fail(FAIL_MEMORY, "no memory for a connection");
    guest->handshake = ++l->last_handshake;
    guest->source = *source;
    int rc = source_table_enter(l->sources, source);
    if (rc) {
        free(guest);
        return rc;
    }
    HASH_ADD(hh, l->guests, handshake, sizeof(guest->handshake), guest);
    if (!guest->hh.tbl) { /* uthash found no memory for its own part */
        source_table_leave(l->sources, source);
        free(guest);
        return fail(FAIL_MEMORY, "no memory for a connection");
    }
    *ret_guest = guest;
    return 0;
}

static void turn_away(void *context, int fd)
{
    const struct listener *l = context;
    connection_turn_away(fd, l->settings.retry_after);
}

static void take(void *context, int fd, const struct source *source)
{
    struct listener *l = context;
    struct guest *guest = NULL;
    if (add_guest(l, source, &guest)) {
        log_debug("a connection is turned away: %s", fail_text());
        turn_away(l, fd);
    } else if (connection_new(&l->rules, fd, source, guest->handshake, &guest->connection)) {
        log_debug("a connection is closed: %s", fail_text());
        remove_guest(l, guest);
    }
}

/* --- the keeper --- */

static void on_answer(void *context, const struct keeper_answer *answer)
{
    struct listener *l = context;
    struct guest *guest = find_guest(l, answer->handshake);
    if (guest)
        connection_answer(guest->connection, answer);
}

/* The supervisor then starts another listener. */
static void give_up(struct listener *l)
{
    log_error("%s; this listener ends, a new one takes over", fail_text());
    l->status = EXIT_FAILED;
    event_base_loopbreak(l->base);
}

static void on_keeper_lost(void *context, int why)
{
    struct listener *l = context;
    struct guest *guest, *next;
    if (why != FAIL_CLOSED)
        give_up(l);
    HASH_ITER(hh, l->guests, guest, next)
    connection_lose_keeper(guest->connection);
}

/* --- the supervisor --- */

static void add_acceptor(struct listener *l, int fd)
{
    int rc = FAIL_REFUSED;
    if (l->acceptor_count < HOUSE_LISTEN_MAX && !l->stopping)
        rc = acceptor_new(l->base, fd, take, turn_away, l, &l->acceptors[l->acceptor_count]);
    else
        close(fd);
    if (rc == 0)
        l->acceptor_count++;
    else
        log_error("a listening socket is not served: %s", fail_text());
}

static void remove_acceptors(struct listener *l)
{
    while (l->acceptor_count > 0)
        acceptor_free(l->acceptors[--l->acceptor_count]);
}

static void refuse_guests(struct listener *l, int in_flight_too)
{
    struct guest *guest, *next;
    HASH_ITER(hh, l->guests, guest, next)
    if (in_flight_too || !connection_is_in_flight(guest->connection))
        connection_refuse(guest->connection);
}

static void on_stop_time(evutil_socket_t fd, short what, void *context)
{
    (void)fd;
    (void)what;
    refuse_guests(context, 1);
}

/* Handshakes in flight have stop_ms to finish; the others hear `busy` now. */
static void stop(struct listener *l)
{
    struct timeval time = milliseconds(l->settings.stop_ms);
    if (l->stopping)
        return;
    l->stopping = 1;
    remove_acceptors(l);
    refuse_guests(l, 0);
    event_add(l->stop_time, &time);
    leave_if_empty(l);
}

static void take_order(struct listener *l, enum house_kind kind, int fd)
{
    if (kind == HOUSE_LISTEN && fd >= 0)
        add_acceptor(l, fd);
    else if (kind == HOUSE_CHANNEL && fd >= 0 && keeper_line_attach(l->line, fd))
        give_up(l);
    else if (kind == HOUSE_STOP)
        stop(l);
}

static void on_house(evutil_socket_t fd, short what, void *context)
{
    struct listener *l = context;
    struct house_message message;
    int passed = -1;
    (void)what;
    if (house_receive(fd, &message, &passed) == 0) {
        take_order(l, message.kind, passed);
        return;
    }
    log_error("the supervisor is gone: %s", fail_text());
    l->status = EXIT_FAILED;
    event_base_loopbreak(l->base);
}

/* --- set-up --- */

static int receive_settings(struct listener *l)
{
    struct house_message message;
    int passed = -1;
    int rc = house_receive(HOUSE_FD, &message, &passed);
    if (rc)
        return rc;
    if (passed >= 0)
        close(passed);
    if (message.kind != HOUSE_SETTINGS)
        return fail(FAIL_MALFORMED, "the supervisor's first word is not the settings");
    l->settings = message.settings;
    log_open("tmkd listener", l->settings.log_level);
    return 0;
}

/* A descriptor for each connection, as far as the system allows; the acceptor copes with less. */
static void raise_descriptors(const struct listener *l)
{
    struct rlimit limit;
    rlim_t wanted = (rlim_t)l->settings.connections + OWN_DESCRIPTORS;
    if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur >= wanted)
        return;
    limit.rlim_cur = wanted;
    if (limit.rlim_max < wanted)
        limit.rlim_max = wanted;
    if (setrlimit(RLIMIT_NOFILE, &limit) == 0)
        return;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    log_warning("limits.connections is %u, but the system allows %llu open descriptors",
                l->settings.connections, (unsigned long long)limit.rlim_max);
}

static void make_rules(struct listener *l)
{
    struct timeval deadline = milliseconds(l->settings.handshake_ms);
    struct timeval linger = milliseconds(LINGER_MS);
    l->rules = (struct connection_rules){
        .base = l->base,
        /* Timers of equal length in one queue each, not in the heap. */
        .deadline = event_base_init_common_timeout(l->base, &deadline),
        .linger = event_base_init_common_timeout(l->base, &linger),
        .retry_after = l->settings.retry_after,
        .context = l,
        .ask = ask,
        .abandon = abandon,
        .ended = ended,
    };
}

static int make_loop(struct listener *l)
{
    l->base = event_base_new();
    if (!l->base)
        return fail(FAIL_SYSTEM, "cannot make the event loop");
    make_rules(l);
    l->house = event_new(l->base, HOUSE_FD, EV_READ | EV_PERSIST, on_house, l);
    l->stop_time = evtimer_new(l->base, on_stop_time, l);
    if (!l->house || !l->stop_time || !l->rules.deadline || !l->rules.linger ||
        event_add(l->house, NULL))
        return fail(FAIL_MEMORY, "no memory for the event loop");
    int rc = source_table_new(l->settings.connections_per_source, &l->sources);
    return rc ? rc : keeper_line_new(l->base, on_answer, on_keeper_lost, l, &l->line);
}

/* OpenSSL would read its configuration at first use, and files are out of reach then. */
static int warm_up(void)
{
    return OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL) ? 0
                                                                  : fail_crypto("starting OpenSSL");
}

static int enter_cage(const struct listener *l)
{
    int rc = 0;
    if (l->settings.caged && l->settings.chroot[0])
        rc = cage_chroot(l->settings.chroot);
    if (rc == 0 && l->settings.caged)
        rc = cage_become_numbers(l->settings.user, l->settings.group);
    if (rc == 0)
        rc = cage_harden();
    if (rc)
        return rc;
    if (cage_can_filter())
        return cage_filter();
    log_warning("built with a sanitizer: system calls are not filtered");
    return 0;
}

static int set_up(struct listener *l)
{
    int rc = receive_settings(l);
    if (rc)
        return rc;
    raise_descriptors(l);
    rc = make_loop(l);
    if (rc == 0)
        rc = warm_up();
    if (rc == 0)
        rc = enter_cage(l);
    return rc ? rc : house_send_kind(HOUSE_FD, HOUSE_READY, -1);
}

static void tear_down(struct listener *l)
{
    struct guest *guest, *next;
    remove_acceptors(l);
    HASH_ITER(hh, l->guests, guest, next)
    remove_guest(l, guest);
    keeper_line_free(l->line);
    source_table_free(l->sources);
    if (l->stop_time)
        event_free(l->stop_time);
    if (l->house)
        event_free(l->house);
    if (l->base)
        event_base_free(l->base);
}

int listener_run(void)
{
    struct listener listener = {0};
    log_open("tmkd listener", LOG_INFO);
    if (set_up(&listener)) {
        log_error("%s", fail_text());
        listener.status = EXIT_REFUSED;
    } else if (event_base_dispatch(listener.base) < 0) {
        log_error("the event loop failed");
        listener.status = EXIT_FAILED;
    }
    tear_down(&listener);
    return listener.status;
}
