#ifndef COMMON_HEX_H
#define COMMON_HEX_H

#include <stddef.h>
#include <stdint.h>

/* Writes 2 * len lower-case digits and a zero byte; ret_text holds 2 * len + 1. Returns ret_text.
 */
char *hex_encode(const uint8_t *bytes, size_t len, char *ret_text);

/* base64 (RFC 4648, section 4) of len bytes, zero-terminated; ret_text holds 4 * ((len + 2) / 3)
 * + 1. */
char *base64_encode(const uint8_t *bytes, size_t len, char *ret_text);

/* Strict: canonical padding, no white space. FAIL_MALFORMED otherwise, or when more than size. */
int base64_decode(const char *text, uint8_t *ret_bytes, size_t size, size_t *ret_len);

#endif
