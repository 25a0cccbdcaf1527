#ifndef TMKD_CAGE_H
#define TMKD_CAGE_H

/*
 * What a process of the house gives up, each for good. Order: cage_chroot(), cage_become*(),
 * cage_harden(), and for the listener cage_filter() last.
 */

#include <sys/types.h>

/* The numbers of a user of this system. FAIL_CONFIG when there is none of that name. */
int cage_find_user(const char *name, uid_t *ret_user, gid_t *ret_group);

/* Makes path the root directory. */
int cage_chroot(const char *path);

/* Becomes that user with its groups, checked to be irrevocable; needs root. FAIL_CONFIG,
 * FAIL_SYSTEM. */
int cage_become(const char *name);

/* The same by numbers, with no other groups. */
int cage_become_numbers(uid_t user, gid_t group);

/* No core files, no debugger, no more privileges by exec. The kernel allows a debugger again when
 * the user changes, so this comes after cage_become(). */
int cage_harden(void);

/* What a process with a token does: cage_become(user) when started as root and user is not empty,
 * then cage_harden(). */
int cage_settle(const char *user);

/* Whether this build can filter; a sanitizer's own calls would not pass. */
int cage_can_filter(void);

/* From here on only what an event loop over open sockets needs: any other system call, such as
 * openat, socket, connect or execve, ends the process with SIGSYS. */
int cage_filter(void);

#endif
