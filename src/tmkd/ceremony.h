#ifndef TMKD_CEREMONY_H
#define TMKD_CEREMONY_H

/* The process that makes the token's objects and handles certificates; tmkctl is at HOUSE_FD.
 * Returns the exit status: 0 stopped, 1 failed, 2 configuration or token refused. */
int ceremony_run(const char *conf_path);

#endif
