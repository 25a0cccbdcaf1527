#include "wire/frame.h"

#include "common/fail.h"

int frame_read_length(const uint8_t header[static FRAME_HEADER_LEN], size_t *ret_len)
{
    size_t len = (size_t)header[0] << 8 | header[1];
    if (len < 1 || len > MESSAGE_MAX)
        return fail(FAIL_MALFORMED, "a frame of %zu bytes; 1 to %d are allowed", len, MESSAGE_MAX);
    *ret_len = len;
    return 0;
}

void frame_write_length(size_t len, uint8_t ret_header[static FRAME_HEADER_LEN])
{
    ret_header[0] = (uint8_t)(len >> 8);
    ret_header[1] = (uint8_t)len;
}

int frame_encode(const struct message *message, uint8_t ret_frame[static FRAME_MAX],
                 size_t *ret_len)
{
    size_t len;
    int rc = message_encode(message, ret_frame + FRAME_HEADER_LEN, MESSAGE_MAX, &len);
    if (rc < 0)
        return rc;
    frame_write_length(len, ret_frame);
    *ret_len = FRAME_HEADER_LEN + len;
    return 0;
}
