#include "tmkd/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fail.h"

enum { PID_TEXT_MAX = 32 };

/* Its content is overwritten and its owner set: it must be nothing but the lock. */
static int check_file(int fd, const char *path)
{
    struct stat status;
    if (fstat(fd, &status) < 0)
        return fail_system("looking at %s", path);
    if (!S_ISREG(status.st_mode) || status.st_nlink != 1)
        return fail(FAIL_CONFIG,
                    "the lock file %s is not a file of its own (a device, a pipe or a hard link); "
                    "remove it",
                    path);
    return 0;
}

static int write_pid(int fd, const char *path)
{
    char text[PID_TEXT_MAX];
    int len = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) || pwrite(fd, text, (size_t)len, 0) != len)
        return fail_system("writing %s", path);
    return 0;
}

static int taken_by_other(int fd)
{
    char text[PID_TEXT_MAX] = "";
    ssize_t len = pread(fd, text, sizeof(text) - 1, 0);
    return fail(FAIL_BUSY, "tmkd (pid %ld) already runs on this registry",
                len > 0 ? strtol(text, NULL, 10) : 0);
}

static int lock(int fd, const char *path)
{
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return write_pid(fd, path);
    return errno == EWOULDBLOCK ? taken_by_other(fd) : fail_system("locking %s", path);
}

/* The keeper's user, whose directory it is, takes the lock too, when tmkctl works without tmkd. */
static int give_to_owner_of_directory(int fd, const char *path)
{
    char copy[PATH_MAX];
    struct stat status;
    snprintf(copy, sizeof(copy), "%s", path);
    if (geteuid() != 0 || stat(dirname(copy), &status) < 0)
        return 0;
    return fchown(fd, status.st_uid, status.st_gid) < 0 ? fail_system("giving away %s", path) : 0;
}

int lock_take(const char *registry_path, int *ret_fd)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof(path), "%s.lock", registry_path) >= (int)sizeof(path))
        return fail(FAIL_CONFIG, "the path of the registry is too long");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return fail_system("opening the lock file %s", path);
    int rc = check_file(fd, path);
    if (rc == 0)
        rc = lock(fd, path);
    if (rc == 0)
        rc = give_to_owner_of_directory(fd, path);
    if (rc)
        close(fd);
    else
        *ret_fd = fd;
    return rc;
}
