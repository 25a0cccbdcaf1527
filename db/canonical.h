#ifndef DB_CANONICAL_H
#define DB_CANONICAL_H

/*
 * Unambiguous bytes for what is hashed or sealed: a label, then fields, each with two bytes of
 * length before it; numbers and lengths big-endian. Each function writes at `at` and returns the
 * place after what it wrote; the caller's buffer holds the sum of its fields' maxima. Only for db/.
 */

#include <stddef.h>
#include <stdint.h>

enum { CANONICAL_LENGTH = 2 /* bytes before each field; a field has at most 65535 */ };

uint8_t *canonical_label(uint8_t *at, const char *label);
uint8_t *canonical_field(uint8_t *at, const void *bytes, size_t len);
uint8_t *canonical_text(uint8_t *at, const char *text);
uint8_t *canonical_number(uint8_t *at, uint64_t number, size_t width);

#endif
