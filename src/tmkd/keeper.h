#ifndef TMKD_KEEPER_H
#define TMKD_KEEPER_H

/* The process with the token and the registry; its supervisor is at HOUSE_FD. Returns the exit
 * status: 0 stopped, 1 failed, 2 configuration or token refused, the reason logged. */
int keeper_run(const char *conf_path);

#endif
