#ifndef TMKD_ADDRESS_H
#define TMKD_ADDRESS_H

#include <sys/socket.h>

#include "tmkd/house.h"

enum { ADDRESS_TEXT_MAX = 64 }; /* "[V6%scope]:PORT" and a zero byte */

/* A listening TCP socket, non-blocking and close-on-exec, on "ADDR:PORT" or "[V6]:PORT", numbers
 * only. An IPv6 address takes IPv6 only. FAIL_CONFIG for another text, FAIL_SYSTEM. */
int address_listen(const char *text, int *ret_fd);

/* "ADDR:PORT" of a bound socket, with the port the system chose if 0 was asked for. */
int address_of_socket(int fd, char ret_text[static ADDRESS_TEXT_MAX]);

/* A peer's address as the house passes it on. */
struct source address_source(const struct sockaddr_storage *address);

#endif
