#ifndef TERMINAL_DOWNLOAD_H
#define TERMINAL_DOWNLOAD_H

/*
 * The terminal's side of one TMK download (patent figure 6, S301 to S311) as a state machine
 * without sockets or clock: frames' bodies come in, Messages to send come out.
 *
 *     struct download *d;
 *     struct download_output out;
 *     uint8_t in[MESSAGE_MAX];
 *     size_t len;
 *     int rc = download_new(&my_secure_module, sn, ksrcrt, ksrcrt_len, &d);
 *     if (rc == 0) {
 *         rc = download_start(d, &out);                               // hello
 *         while (rc == 0 && out.len > 0) {
 *             my_send_frame(out.message, out.len);                    // hello, proof, confirm
 *             my_receive_frame(in, &len);                             // challenge, delivery, done
 *             rc = download_receive(d, in, len, my_clock(), &out);
 *         }
 *         download_free(d);
 *     }
 *     if (rc < 0)
 *         my_display(fail_text());
 *
 * A frame is two bytes, the length of the body big-endian, and the body (wire/frame.h). The TMK is
 * in the secure module from DOWNLOAD_DONE on; without the server's done, download again.
 */

#include <stddef.h>
#include <stdint.h>

#include "terminal/secure_module.h"
#include "wire/message.h"

struct download;

enum download_state {
    DOWNLOAD_NEW,
    DOWNLOAD_CHALLENGE, /* waits for the server's challenge */
    DOWNLOAD_DELIVERY,  /* waits for Ctmk */
    DOWNLOAD_DONE,      /* the TMK is installed; waits for done */
    DOWNLOAD_FINISHED,  /* done came: the server has recorded it */
    DOWNLOAD_FAILED,    /* refused by one side; nothing more is sent or taken */
};

/* A Message to send, or len 0 for none. */
struct download_output {
    size_t len;
    uint8_t message[MESSAGE_MAX];
};

/* Told at each step, in the patent's terms, for a person who watches; may be NULL. */
typedef void download_step(void *context, const char *step, const char *text);

/* root_der: KSRCRT, one DER certificate. The module must outlive the download. */
int download_new(const struct secure_module *module, const char *sn, const uint8_t *root_der,
                 size_t root_len, struct download **ret_download);
void download_free(struct download *download); /* accepts NULL, wipes */

void download_watch(struct download *download, download_step *step, void *context);

int download_start(struct download *download, struct download_output *ret_output);

/* message: the body of one frame. now: seconds since 1970, to judge the certificate by.
 * FAIL_MALFORMED: not the message expected here. FAIL_REFUSED: a check of S305 to S311 failed, or
 * the server sent a Failure; the sentence says which. After any failure the download is over. */
int download_receive(struct download *download, const uint8_t *message, size_t len, int64_t now,
                     struct download_output *ret_output);

enum download_state download_state(const struct download *download);

/* The Failure the server sent, if that is why it failed; NULL otherwise. */
const struct failure *download_failure(const struct download *download);

/* What was installed; valid from DOWNLOAD_DONE on. */
const struct tmk_info *download_tmk(const struct download *download);

#endif
