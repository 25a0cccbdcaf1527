#ifndef TMKD_SUPERVISOR_H
#define TMKD_SUPERVISOR_H

/* The server: reads the configuration, makes the sockets, keeps a keeper and a listener running
 * until SIGTERM or SIGINT. Prints "tmkd: ready on ADDR:PORT" for each address when both serve.
 * Returns the exit status: 0 after a stop in which both ended in order, 1 otherwise. */
int supervisor_run(const char *conf_path);

#endif
