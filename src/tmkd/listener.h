#ifndef TMKD_LISTENER_H
#define TMKD_LISTENER_H

/* The process with the network and nothing else; the supervisor is at HOUSE_FD and tells it all.
 * Returns the exit status: 0 stopped, 1 failed, 2 the cage could not be built. */
int listener_run(void);

#endif
