#include "tools/tmkctl/keeper_process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fail.h"
#include "tmkd/house.h"

static const char program[] = "tmkd";

/* The tmkd beside this program, or its bare name for a search in PATH. */
static void find_program(char ret_path[static PATH_MAX])
{
    char self[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[len < 0 ? 0 : len] = '\0';
    char *slash = strrchr(self, '/');

    if (slash) {
        *slash = '\0';
        int need = snprintf(ret_path, PATH_MAX, "%s/%s", self, program);
        if (need < PATH_MAX && access(ret_path, X_OK) == 0)
            return;
    }
    memcpy(ret_path, program, sizeof(program));
}

/* What the child may inherit of the environment: the sanitizers' options are for our own tests. */
enum { INHERITED_MAX = 7 };
static const char *const inherited[INHERITED_MAX] = {
    "PATH=", "LANG=", "TZ=", "ASAN_OPTIONS=", "UBSAN_OPTIONS=", "TSAN_OPTIONS=", "LSAN_OPTIONS=",
};

static void clean_environment(char *ret_environment[static INHERITED_MAX + 1])
{
    size_t count = 0;
    for (size_t i = 0; i < INHERITED_MAX; i++)
        for (char **e = environ; *e; e++)
            if (strncmp(*e, inherited[i], strlen(inherited[i])) == 0) {
                ret_environment[count++] = *e;
                break;
            }
    ret_environment[count] = NULL;
}

/* Standard output may carry our JSON, so what a vendor's library prints goes to standard error. */
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

/* A process group of its own: Ctrl-C ends tmkctl, and the keeper finishes the write it is in before
 * it sees its stream end. */
static int set_attributes(posix_spawnattr_t *attributes)
{
    sigset_t all;
    sigset_t none;
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

static int spawn(char *const arguments[], int house, pid_t *ret_pid)
{
    char path[PATH_MAX];
    char *environment[INHERITED_MAX + 1];
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;

    find_program(path);
    clean_environment(environment);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    int error = set_descriptors(&actions, house);
    if (!error)
        error = set_attributes(&attributes);
    if (!error)
        error = posix_spawnp(ret_pid, path, &actions, &attributes, arguments, environment);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    errno = error;
    if (error == ENOENT)
        return fail(FAIL_NOT_FOUND, "no %s program beside tmkctl or in PATH; install it", program);
    return error ? fail_system("cannot start %s", path) : 0;
}

static int run(const char *role, const char *conf_path, int house, pid_t *ret_pid)
{
    char name[] = "tmkd";
    char *role_copy = strdup(role);
    char *conf_copy = strdup(conf_path);
    char role_option[] = "--role";
    char conf_option[] = "-c";
    char *arguments[] = {name, role_option, role_copy, conf_option, conf_copy, NULL};
    int rc = role_copy && conf_copy ? spawn(arguments, house, ret_pid)
                                    : fail(FAIL_MEMORY, "out of memory");
    free(role_copy);
    free(conf_copy);
    return rc;
}

/* Waits for HOUSE_READY. */
static int wait_ready(int house)
{
    struct house_message message;
    int fd = -1;
    int rc = house_receive(house, &message, &fd);

    if (fd >= 0)
        close(fd);
    if (rc < 0)
        return rc;
    if (message.kind == HOUSE_REFUSED)
        return fail(FAIL_CONFIG, "%s", message.sentence);
    return message.kind == HOUSE_READY ? 0
                                       : fail(FAIL_MALFORMED,
                                              "it said %u before it was ready; are "
                                              "tmkctl and tmkd of one version?",
                                              message.kind);
}

static int hand_over_stream(int house, int *ret_stream)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return fail_system("cannot make a socket pair");
    int rc = house_send_kind(house, HOUSE_CONTROL_PEER, pair[1]);
    close(pair[1]);
    if (rc < 0)
        close(pair[0]);
    else
        *ret_stream = pair[0];
    return rc;
}

static int introduce(const char *role, struct keeper_process *keeper, int *ret_stream)
{
    char why[HOUSE_SENTENCE_MAX];
    int stream = -1;
    int rc = hand_over_stream(keeper->house, &stream);
    if (rc == 0)
        rc = wait_ready(keeper->house);
    if (rc == 0) {
        *ret_stream = stream;
        return 0;
    }
    if (stream >= 0)
        close(stream);
    shutdown(keeper->house, SHUT_RDWR);
    snprintf(why, sizeof(why), "%s", fail_text());
    int ended = keeper_process_wait(keeper);
    if (rc != FAIL_CLOSED)
        return fail(rc, "%s", why);
    if (ended == 0)
        fail(rc, "it ended before it was ready");
    return fail_in(rc, "cannot start tmkd's %s", role);
}

int keeper_process_start(const char *role, const char *conf_path, struct keeper_process *ret_keeper,
                         int *ret_stream)
{
    struct keeper_process keeper;
    int pair[2];

    int rc = channel_make(pair, 0);
    if (rc < 0)
        return rc;
    keeper.house = pair[0];
    rc = run(role, conf_path, pair[1], &keeper.pid);
    close(pair[1]);
    if (rc < 0) {
        close(pair[0]);
        return rc;
    }
    rc = introduce(role, &keeper, ret_stream);
    if (rc == 0)
        *ret_keeper = keeper;
    return rc;
}

int keeper_process_wait(struct keeper_process *keeper)
{
    int status = 0;
    pid_t ended;
    do
        ended = waitpid(keeper->pid, &status, 0);
    while (ended < 0 && errno == EINTR);
    close(keeper->house);
    if (ended < 0)
        return fail_system("cannot wait for tmkd");
    if (WIFSIGNALED(status))
        return fail(FAIL_CLOSED, "tmkd was ended by signal %d (%s)", WTERMSIG(status),
                    strsignal(WTERMSIG(status)));
    if (WEXITSTATUS(status) != 0)
        return fail(FAIL_CLOSED, "tmkd ended with status %d; see the lines above",
                    WEXITSTATUS(status));
    return 0;
}
