#include "tmkd/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fail.h"

enum {
    BACKOFF_LEAST = 100,  /* ms */
    BACKOFF_MOST = 30000, /* ms */
    SERVED_WELL = 60000,  /* ms */
};

struct child child_make(const char *role, const char *conf_path, int bare)
{
    return (struct child){.role = role,
                          .conf_path = conf_path,
                          .bare = bare,
                          .house = -1,
                          .wait_next = BACKOFF_LEAST};
}

int child_is_running(const struct child *child)
{
    return child->pid != 0;
}

/* Standard output is for the supervisor's "ready": what a child or a vendor's library prints goes
 * to standard error. */
static int set_descriptors(posix_spawn_file_actions_t *actions, int house)
{
    int error = posix_spawn_file_actions_adddup2(actions, house, HOUSE_FD);
    if (!error)
        error = posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (!error)
        error = posix_spawn_file_actions_adddup2(actions, STDERR_FILENO, STDOUT_FILENO);
    if (!error)
        error = posix_spawn_file_actions_addclosefrom_np(actions, HOUSE_FD + 1);
    return error;
}

/* A process group of its own: Ctrl-C is for the supervisor, which stops its children in order. */
static int set_attributes(posix_spawnattr_t *attributes)
{
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    int error = posix_spawnattr_setsigdefault(attributes, &all);
    if (!error)
        error = posix_spawnattr_setsigmask(attributes, &none);
    if (!error)
        error = posix_spawnattr_setflags(
            attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
    return error;
}

/* posix_spawn() does not change the strings, but its type does not say so. */
static char *argument(const char *text)
{
    return (char *)(uintptr_t)text;
}

static int execute(struct child *child, int house)
{
    char *const arguments[] = {argument("tmkd"),           argument("--role"),
                               argument(child->role),      argument(child->conf_path ? "-c" : NULL),
                               argument(child->conf_path), NULL};
    char *const nothing[] = {NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;

    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    int error = set_descriptors(&actions, house);
    if (!error)
        error = set_attributes(&attributes);
    if (!error)
        error = posix_spawn(&child->pid, "/proc/self/exe", &actions, &attributes, arguments,
                            child->bare ? nothing : environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    errno = error;
    return error ? fail_system("cannot start the %s", child->role) : 0;
}

static void schedule_start(struct child *child, int64_t now)
{
    if (child->ready && now - child->started >= SERVED_WELL)
        child->wait_next = BACKOFF_LEAST;
    child->start_at = now + child->wait_next;
    child->wait_next *= 2;
    if (child->wait_next > BACKOFF_MOST)
        child->wait_next = BACKOFF_MOST;
}

int child_start(struct child *child, int64_t now)
{
    int pair[2];
    int rc = channel_make(pair, 0);
    if (rc)
        return rc;
    child->ready = 0;
    child->started = now;
    child->kill_at = 0;
    rc = execute(child, pair[1]);
    close(pair[1]);
    if (rc == 0) {
        child->house = pair[0];
        return 0;
    }
    close(pair[0]);
    child->pid = 0;
    schedule_start(child, now);
    return rc;
}

static void close_house(struct child *child)
{
    if (child->house >= 0)
        close(child->house);
    child->house = -1;
}

void child_release(struct child *child, int64_t now, int64_t patience)
{
    close_house(child);
    if (child->kill_at == 0)
        child->kill_at = now + patience;
}

void child_stop(struct child *child, int64_t now, int64_t patience)
{
    child->kill_at = now + patience;
    if (child->house >= 0 && house_send_kind(child->house, HOUSE_STOP, -1))
        close_house(child);
}

void child_kill_if_late(struct child *child, int64_t now)
{
    if (child->pid != 0 && child->kill_at != 0 && now >= child->kill_at) {
        kill(child->pid, SIGKILL);
        child->kill_at = 0;
    }
}

int child_reap(struct child *child, int64_t now, int *ret_status)
{
    if (child->pid == 0 || waitpid(child->pid, ret_status, WNOHANG) != child->pid)
        return 0;
    child->pid = 0;
    close_house(child);
    schedule_start(child, now);
    return 1;
}
