#include "common/file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fail.h"

/* Reads until the end or until size bytes are there. */
static int read_up_to(int fd, uint8_t *ret_bytes, size_t size, size_t *ret_len)
{
    size_t len = 0;
    while (len < size) {
        ssize_t got = read(fd, ret_bytes + len, size - len);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        len += (size_t)got;
    }
    *ret_len = len;
    return 0;
}

static int at_end(int fd)
{
    uint8_t byte;
    size_t more = 0;
    return read_up_to(fd, &byte, 1, &more) == 0 && more == 0;
}

int file_read(const char *path, uint8_t *ret_bytes, size_t size, size_t *ret_len)
{
    size_t len = 0;
    int rc = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return fail(FAIL_NOT_FOUND, "there is no file %s", path);
    if (fd < 0)
        return fail_system("cannot open %s", path);

    if (read_up_to(fd, ret_bytes, size, &len))
        rc = fail_system("cannot read %s", path);
    else if (len == size && !at_end(fd))
        rc = fail(FAIL_MALFORMED, "%s has more than %zu bytes", path, size);
    close(fd);
    if (rc == 0)
        *ret_len = len;
    return rc;
}

static int write_all(int fd, const uint8_t *bytes, size_t len)
{
    while (len > 0) {
        ssize_t put = write(fd, bytes, len);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return -1;
        bytes += put;
        len -= (size_t)put;
    }
    return 0;
}

/* A new name lasts only once its directory is on the disk too. */
static int sync_directory_of(const char *path)
{
    char copy[PATH_MAX];
    if (snprintf(copy, sizeof(copy), "%s", path) >= (int)sizeof(copy)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int rc = fsync(fd);
    close(fd);
    return rc;
}

int file_create(const char *path, mode_t mode, const uint8_t *bytes, size_t len)
{
    int rc = 0;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR);
    if (fd < 0 && errno == EEXIST)
        return fail(FAIL_EXISTS, "%s exists already", path);
    if (fd < 0)
        return fail_system("cannot make %s", path);

    /* fchmod, because open() takes the umask off. */
    if (fchmod(fd, mode) || write_all(fd, bytes, len) || fsync(fd) || sync_directory_of(path)) {
        rc = fail_system("cannot write %s", path);
        unlink(path);
    }
    close(fd);
    return rc;
}
