#ifndef COMMON_FILE_H
#define COMMON_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Reads a whole file of at most size bytes. FAIL_NOT_FOUND, FAIL_SYSTEM, FAIL_MALFORMED (larger).
 */
int file_read(const char *path, uint8_t *ret_bytes, size_t size, size_t *ret_len);

/* Makes a file that must not exist yet, with that mode, its bytes durable (fsync of file and
 * directory). FAIL_EXISTS. Nothing is left behind on failure. */
int file_create(const char *path, mode_t mode, const uint8_t *bytes, size_t len);

#endif
