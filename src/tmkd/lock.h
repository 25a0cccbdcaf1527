#ifndef TMKD_LOCK_H
#define TMKD_LOCK_H

/* Takes the lock file beside the registry ("REGISTRY.lock", made when there is none), so that one
 * server or private keeper works on it at a time. *ret_fd holds the lock until it is closed, also
 * by a kill. FAIL_BUSY, with the holder's pid, when it is taken; FAIL_SYSTEM. */
int lock_take(const char *registry_path, int *ret_fd);

#endif
