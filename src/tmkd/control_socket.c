#include "tmkd/control_socket.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/fail.h"

static int remove_stale(const char *path)
{
    struct stat status;
    if (lstat(path, &status))
        return errno == ENOENT ? 0 : fail_system("control socket %s", path);
    if (!S_ISSOCK(status.st_mode))
        return fail(FAIL_CONFIG, "control names %s, which is there and no socket", path);
    return unlink(path) ? fail_system("removing the old control socket %s", path) : 0;
}

/* Made with its final mode, so that there is no moment at which others could connect. */
static int bind_privately(int fd, const struct sockaddr_un *address)
{
    mode_t before = umask(0177);
    int result = bind(fd, (const struct sockaddr *)address, sizeof(*address));
    umask(before);
    return result;
}

int control_socket_listen(const char *path, uid_t user, gid_t group, int *ret_fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path))
        return fail(FAIL_CONFIG, "control: %s is longer than %zu characters", path,
                    sizeof(address.sun_path) - 1);
    memcpy(address.sun_path, path, strlen(path));
    int rc = remove_stale(path);
    if (rc)
        return rc;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind_privately(fd, &address) || lchown(path, user, group) ||
        listen(fd, SOMAXCONN)) {
        rc = fail_system("cannot listen on the control socket %s", path);
        if (fd >= 0)
            close(fd);
        return rc;
    }
    *ret_fd = fd;
    return 0;
}
