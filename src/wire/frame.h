#ifndef WIRE_FRAME_H
#define WIRE_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "wire/message.h"

enum { FRAME_HEADER_LEN = 2, FRAME_MAX = FRAME_HEADER_LEN + MESSAGE_MAX };

/* The body's length from a frame's two bytes, big-endian. FAIL_MALFORMED unless 1...8192. */
int frame_read_length(const uint8_t header[static FRAME_HEADER_LEN], size_t *ret_len);

/* The two bytes for a body of len, which is 1...8192. */
void frame_write_length(size_t len, uint8_t ret_header[static FRAME_HEADER_LEN]);

/* A whole frame of one message; ret_frame holds FRAME_MAX bytes. Errors of message_encode(). */
int frame_encode(const struct message *message, uint8_t ret_frame[static FRAME_MAX],
                 size_t *ret_len);

#endif
