#include "db/canonical.h"

#include <string.h>

static uint8_t *put_number(uint8_t *at, uint64_t number, size_t width)
{
    for (size_t i = 0; i < width; i++)
        at[i] = (uint8_t)(number >> (8 * (width - 1 - i)));
    return at + width;
}

uint8_t *canonical_label(uint8_t *at, const char *label)
{
    return mempcpy(at, label, strlen(label));
}

uint8_t *canonical_field(uint8_t *at, const void *bytes, size_t len)
{
    at = put_number(at, len, CANONICAL_LENGTH);
    return mempcpy(at, bytes, len);
}

uint8_t *canonical_text(uint8_t *at, const char *text)
{
    return canonical_field(at, text, strlen(text));
}

uint8_t *canonical_number(uint8_t *at, uint64_t number, size_t width)
{
    return put_number(put_number(at, width, CANONICAL_LENGTH), number, width);
}
