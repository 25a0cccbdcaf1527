#include "tmkd/supervisor.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/conf.h"
#include "common/fail.h"
#include "common/log.h"
#include "tmkd/address.h"
#include "tmkd/cage.h"
#include "tmkd/child.h"
#include "tmkd/control_socket.h"
#include "tmkd/lock.h"

enum {
    MS = 1000,
    LISTENER_PATIENCE = 3000, /* ms beyond its own stop time */
    KEEPER_PATIENCE = 15000,  /* ms: a slow token may have to finish what it does */
};

struct supervisor {
    struct conf *conf;
    const char *conf_path;
    struct child keeper, listener;
    struct listener_settings settings;
    uid_t control_user; /* of the control socket; -1: nobody else */
    gid_t control_group;
    int listening[CONF_LISTEN_MAX];
    size_t listening_count;
    int control, lock, signals;
    int channel; /* the listener's end of a new channel, until the keeper is ready; or -1 */
    int announced;
    int stopping;
    int status;
};

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* --- set-up --- */

static int find_listener_user(struct supervisor *s)
{
    const char *name = s->conf->users.listener;
    if (!name[0]) {
        log_warning("users.listener is empty: the listener runs as root; name a user of its own");
        return 0;
    }
    s->settings.caged = 1;
    return cage_find_user(name, &s->settings.user, &s->settings.group);
}

static int find_keeper_user(struct supervisor *s)
{
    const char *name = s->conf->users.keeper;
    if (!name[0]) {
        log_warning("users.keeper is empty: the keeper runs as root; for a bank, name a user");
        return 0;
    }
    return cage_find_user(name, &s->control_user, &s->control_group);
}

static int find_users(struct supervisor *s)
{
    if (geteuid() != 0) {
        log_warning("not started as root: listener and keeper both run as this user, no chroot");
        return 0;
    }
    int rc = find_keeper_user(s);
    return rc ? rc : find_listener_user(s);
}

static int make_settings(struct supervisor *s)
{
    struct listener_settings *settings = &s->settings;
    const struct conf *conf = s->conf;
    if (strlen(conf->users.chroot) >= sizeof(settings->chroot))
        return fail(FAIL_CONFIG, "users.chroot has more than %zu characters",
                    sizeof(settings->chroot) - 1);
    strcpy(settings->chroot, conf->users.chroot);
    settings->connections = (uint32_t)conf->limits.connections;
    settings->connections_per_source = (uint32_t)conf->limits.connections_per_source;
    settings->handshake_ms = conf->limits.handshake_seconds * MS;
    settings->stop_ms = conf->limits.stop_seconds * MS;
    settings->retry_after = conf->limits.retry_after_seconds;
    settings->log_level = conf->log_level;
    return find_users(s);
}

static int open_listening(struct supervisor *s)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < s->conf->listen_count; i++) {
        rc = address_listen(s->conf->listen[i], &s->listening[i]);
        s->listening_count += rc == 0;
    }
    return rc;
}

/* The mask is the whole program's: children get an empty one. */
static int open_signals(struct supervisor *s)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    signal(SIGHUP, SIG_IGN);
    if (sigprocmask(SIG_BLOCK, &set, NULL))
        return fail_system("blocking signals");
    s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return s->signals < 0 ? fail_system("opening a descriptor of signals") : 0;
}

static int set_up(struct supervisor *s)
{
    int rc = conf_read(s->conf_path, &s->conf);
    if (rc)
        return rc;
    log_open("tmkd", s->conf->log_level);
    rc = lock_take(s->conf->registry, &s->lock);
    if (rc == 0)
        rc = make_settings(s);
    if (rc == 0)
        rc = open_listening(s);
    if (rc == 0)
        rc =
            control_socket_listen(s->conf->control, s->control_user, s->control_group, &s->control);
    return rc ? rc : open_signals(s);
}

static void close_listening(struct supervisor *s)
{
    for (size_t i = 0; i < s->listening_count; i++)
        close(s->listening[i]);
    s->listening_count = 0;
}

static void tear_down(struct supervisor *s)
{
    close_listening(s);
    close_fd(&s->channel);
    close_fd(&s->signals);
    if (s->control >= 0)
        unlink(s->conf->control);
    close_fd(&s->control);
    close_fd(&s->lock);
    conf_free(s->conf);
}

/* --- starting --- */

/* A child that cannot be told something is ending, or else not worth keeping. */
static void tell(struct child *child, const struct house_message *message, int passed_fd)
{
    if (child->house >= 0 && house_send(child->house, message, passed_fd))
        child_release(child, clock_ms(), 0);
}

static void tell_kind(struct child *child, enum house_kind kind, int passed_fd)
{
    struct house_message message = {.kind = kind};
    tell(child, &message, passed_fd);
}

/* A new channel: one end to the keeper now, the other for the listener. */
static void make_channel(struct supervisor *s)
{
    int pair[2];
    if (channel_make(pair, 1)) {
        log_error("%s", fail_text());
        return;
    }
    tell_kind(&s->keeper, HOUSE_CHANNEL, pair[0]);
    close(pair[0]);
    close_fd(&s->channel);
    s->channel = pair[1];
}

/* Until the keeper is ready the listener has no channel, and tells terminals that it is busy. */
static void hand_over_channel(struct supervisor *s)
{
    if (s->channel < 0 || !s->keeper.ready || s->listener.house < 0)
        return;
    tell_kind(&s->listener, HOUSE_CHANNEL, s->channel);
    close_fd(&s->channel);
}

static void start_keeper(struct supervisor *s)
{
    if (child_start(&s->keeper, clock_ms())) {
        log_error("%s", fail_text());
        return;
    }
    tell_kind(&s->keeper, HOUSE_CONTROL, s->control);
    make_channel(s);
}

static void start_listener(struct supervisor *s)
{
    struct house_message settings = {.kind = HOUSE_SETTINGS, .settings = s->settings};
    if (child_start(&s->listener, clock_ms())) {
        log_error("%s", fail_text());
        return;
    }
    tell(&s->listener, &settings, -1);
    for (size_t i = 0; i < s->listening_count; i++)
        tell_kind(&s->listener, HOUSE_LISTEN, s->listening[i]);
    if (s->channel < 0 && child_is_running(&s->keeper))
        make_channel(s);
    hand_over_channel(s);
}

static int is_due(const struct child *child, int64_t now)
{
    return !child_is_running(child) && now >= child->start_at;
}

static void start_due(struct supervisor *s)
{
    if (!s->stopping && is_due(&s->keeper, clock_ms()))
        start_keeper(s);
    if (!s->stopping && is_due(&s->listener, clock_ms()))
        start_listener(s);
}

/* --- stopping: first the listener, so that it can still ask the keeper --- */

static void stop_keeper(struct supervisor *s)
{
    child_stop(&s->keeper, clock_ms(), KEEPER_PATIENCE);
}

static void stop(struct supervisor *s)
{
    if (s->stopping)
        return;
    s->stopping = 1;
    close_listening(s);
    close_fd(&s->channel);
    if (child_is_running(&s->listener))
        child_stop(&s->listener, clock_ms(), (int64_t)s->settings.stop_ms + LISTENER_PATIENCE);
    else
        stop_keeper(s);
}

static int is_over(const struct supervisor *s)
{
    return s->stopping && !child_is_running(&s->keeper) && !child_is_running(&s->listener);
}

/* --- what happens --- */

static void announce(struct supervisor *s)
{
    char address[ADDRESS_TEXT_MAX];
    s->announced = 1;
    for (size_t i = 0; i < s->listening_count; i++)
        if (address_of_socket(s->listening[i], address) == 0)
            printf("tmkd: ready on %s\n", address);
    fflush(stdout);
}

static void hear(struct supervisor *s, struct child *child)
{
    struct house_message message;
    int passed = -1;
    if (house_receive(child->house, &message, &passed)) {
        child_release(child, clock_ms(), KEEPER_PATIENCE);
        return;
    }
    if (passed >= 0)
        close(passed);
    if (message.kind == HOUSE_READY)
        child->ready = 1;
    if (message.kind == HOUSE_REFUSED)
        log_error("the %s cannot go on: %s", child->role, message.sentence);
    hand_over_channel(s);
    if (s->keeper.ready && s->listener.ready && !s->announced && !s->stopping)
        announce(s);
}

static void describe(int status, char *ret_text, size_t size)
{
    if (WIFSIGNALED(status))
        snprintf(ret_text, size, "by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else
        snprintf(ret_text, size, "with status %d", WEXITSTATUS(status));
}

static int has_refused(const struct child *child, int status)
{
    return !child->ready && WIFEXITED(status) && WEXITSTATUS(status) == CHILD_REFUSED;
}

static void child_has_ended(struct supervisor *s, struct child *child, int status)
{
    char how[64];
    describe(status, how, sizeof(how));
    if (s->stopping) {
        if (status != 0) {
            log_error("the %s ended %s", child->role, how);
            s->status = 1;
        }
    } else if (!s->announced && has_refused(child, status)) {
        s->status = 1;
        stop(s);
    } else {
        log_warning("the %s ended %s; starting it again in %lld ms", child->role, how,
                    (long long)(child->start_at - clock_ms()));
    }
    if (s->stopping && child == &s->listener)
        stop_keeper(s);
}

static void reap(struct supervisor *s, struct child *child)
{
    int status = 0;
    if (!child_reap(child, clock_ms(), &status))
        return;
    if (child == &s->keeper)
        close_fd(&s->channel);
    child_has_ended(s, child, status);
    child->ready = 0;
}

static void hear_signals(struct supervisor *s)
{
    struct signalfd_siginfo signal;
    while (read(s->signals, &signal, sizeof(signal)) == sizeof(signal))
        if (signal.ssi_signo != SIGCHLD) {
            log_info("stopping");
            stop(s);
        }
    reap(s, &s->listener);
    reap(s, &s->keeper);
}

/* --- the loop --- */

static int64_t next_time(const struct supervisor *s, const struct child *child)
{
    if (child_is_running(child))
        return child->kill_at ? child->kill_at : INT64_MAX;
    return s->stopping ? INT64_MAX : child->start_at;
}

/* Milliseconds for poll(2): -1 waits for events only. */
static int waiting_time(const struct supervisor *s)
{
    int64_t keeper = next_time(s, &s->keeper);
    int64_t listener = next_time(s, &s->listener);
    int64_t next = keeper < listener ? keeper : listener;
    if (next == INT64_MAX)
        return -1;
    int64_t wait = next - clock_ms();
    return wait > 0 ? (int)wait : 0;
}

static void wait_and_handle(struct supervisor *s)
{
    struct pollfd fds[] = {{.fd = s->signals, .events = POLLIN},
                           {.fd = s->keeper.house, .events = POLLIN},
                           {.fd = s->listener.house, .events = POLLIN}};
    if (poll(fds, 3, waiting_time(s)) < 0)
        return;
    if (fds[1].revents)
        hear(s, &s->keeper);
    if (fds[2].revents)
        hear(s, &s->listener);
    if (fds[0].revents)
        hear_signals(s);
    child_kill_if_late(&s->keeper, clock_ms());
    child_kill_if_late(&s->listener, clock_ms());
}

int supervisor_run(const char *conf_path)
{
    struct supervisor s = {.conf_path = conf_path,
                           .keeper = child_make("keeper", conf_path, 0),
                           .listener = child_make("listener", NULL, 1),
                           .control_user = (uid_t)-1,
                           .control_group = (gid_t)-1,
                           .control = -1,
                           .lock = -1,
                           .signals = -1,
                           .channel = -1};
    if (set_up(&s)) {
        fprintf(stderr, "tmkd: %s\n", fail_text());
        s.status = 1;
    } else {
        while (!is_over(&s)) {
            start_due(&s);
            wait_and_handle(&s);
        }
    }
    tear_down(&s);
    return s.status;
}
