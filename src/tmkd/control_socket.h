#ifndef TMKD_CONTROL_SOCKET_H
#define TMKD_CONTROL_SOCKET_H

#include <sys/types.h>

/* A listening UNIX stream socket at path, mode 0600, non-blocking and close-on-exec, that belongs
 * to user and group (-1: nobody else). A socket left there by a server that is gone is replaced, so
 * the caller holds the lock. FAIL_CONFIG when something else is there or the path is too long. */
int control_socket_listen(const char *path, uid_t user, gid_t group, int *ret_fd);

#endif
