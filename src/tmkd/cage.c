#include "tmkd/cage.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <seccomp.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/fail.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif
#else
enum { SANITIZED = 0 };
#endif

/* --- whose process it is --- */

int cage_find_user(const char *name, uid_t *ret_user, gid_t *ret_group)
{
    const struct passwd *entry = getpwnam(name);
    if (!entry)
        return fail(FAIL_CONFIG, "there is no user \"%s\"; make it, or name another in users",
                    name);
    *ret_user = entry->pw_uid;
    *ret_group = entry->pw_gid;
    return 0;
}

int cage_chroot(const char *path)
{
    if (chdir(path) || chroot(path) || chdir("/"))
        return fail_system("cannot make %s the root directory", path);
    return 0;
}

static int give_up_root(uid_t user, gid_t group)
{
    if (setresgid(group, group, group) || setresuid(user, user, user))
        return fail_system("cannot become user %u, group %u", user, group);
    if (user != 0 && (setuid(0) == 0 || seteuid(0) == 0))
        return fail(FAIL_SYSTEM, "root could be had back after it was given up");
    return 0;
}

int cage_become(const char *name)
{
    uid_t user;
    gid_t group;
    int rc = cage_find_user(name, &user, &group);
    if (rc)
        return rc;
    /* Its other groups stay: a token's files or device often belong to one. */
    if (initgroups(name, group))
        return fail_system("cannot take the groups of user %s", name);
    return give_up_root(user, group);
}

int cage_become_numbers(uid_t user, gid_t group)
{
    if (setgroups(0, NULL))
        return fail_system("cannot leave root's groups");
    return give_up_root(user, group);
}

int cage_harden(void)
{
    const struct rlimit none = {0, 0};
    if (setrlimit(RLIMIT_CORE, &none))
        return fail_system("cannot forbid core files");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return fail_system("cannot forbid new privileges");
    /* LeakSanitizer looks at its process as a debugger does. */
    if (prctl(PR_SET_DUMPABLE, SANITIZED, 0, 0, 0))
        return fail_system("cannot forbid debuggers");
    return 0;
}

/* --- what it may ask of the kernel --- */

static const int plain_calls[] = {
    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(accept4),
    SCMP_SYS(read),
    SCMP_SYS(readv),
    SCMP_SYS(recvmsg),
    SCMP_SYS(recvfrom),
    SCMP_SYS(write),
    SCMP_SYS(writev),
    SCMP_SYS(sendmsg),
    SCMP_SYS(sendto),
    SCMP_SYS(shutdown),
    SCMP_SYS(close),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(brk),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(futex),
    SCMP_SYS(getrandom),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
};

static int allow_plain_calls(scmp_filter_ctx filter)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof(plain_calls) / sizeof(plain_calls[0]); i++)
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, plain_calls[i], 0);
    return rc;
}

/* Calls of which only one use is needed: memory that is nobody's file and never code, the spare
 * descriptor of accept, and how many bytes a socket has. */
static int allow_narrow_calls(scmp_filter_ctx filter)
{
    int rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 2,
                              SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0),
                              SCMP_A3(SCMP_CMP_MASKED_EQ, MAP_ANONYMOUS, MAP_ANONYMOUS));
    if (rc == 0)
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1,
                              SCMP_A1(SCMP_CMP_EQ, F_DUPFD_CLOEXEC, 0));
    if (rc == 0)
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                              SCMP_A1(SCMP_CMP_EQ, FIONREAD, 0));
    return rc;
}

int cage_can_filter(void)
{
    return !SANITIZED;
}

int cage_filter(void)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (!filter)
        return fail(FAIL_MEMORY, "no memory for the system call filter");
    int rc = allow_plain_calls(filter);
    if (rc == 0)
        rc = allow_narrow_calls(filter);
    if (rc == 0)
        rc = seccomp_load(filter);
    seccomp_release(filter);
    errno = -rc; /* libseccomp's errors are negative numbers of errno */
    return rc ? fail_system("cannot load the system call filter") : 0;
}

int cage_settle(const char *user)
{
    int rc = geteuid() == 0 && user[0] ? cage_become(user) : 0;
    return rc < 0 ? rc : cage_harden();
}
