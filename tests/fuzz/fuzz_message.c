#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "wire/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Whatever is accepted has exactly one encoding: the bytes it came from. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct message message;
    uint8_t again[MESSAGE_MAX];
    size_t len;

    if (message_decode(data, size, &message) < 0)
        return 0;
    if (message_encode(&message, again, sizeof(again), &len) < 0)
        abort();
    if (len != size || memcmp(again, data, len) != 0)
        abort();
    return 0;
}
