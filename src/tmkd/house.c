#include "tmkd/house.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/fail.h"

/* The error for errno after a send or a receive. */
static int socket_failure(const char *what)
{
    switch (errno) {
    case EAGAIN:
    case ENOBUFS:
        return fail(FAIL_BUSY, "%s would have to wait", what);
    case EPIPE:
    case ECONNRESET:
        return fail(FAIL_CLOSED, "%s: the other process is gone", what);
    default:
        return fail_system("%s", what);
    }
}

static int send_packet(int fd, const struct msghdr *header, const char *what)
{
    ssize_t sent;
    do {
        sent = sendmsg(fd, header, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent < 0 ? socket_failure(what) : 0; /* a packet goes whole or not at all */
}

static int receive_packet(int fd, struct msghdr *header, const char *what, size_t *ret_len)
{
    ssize_t got;
    int resets = 0;
    do {
        got = recvmsg(fd, header, MSG_CMSG_CLOEXEC);
        /* The other end closed with something unread: said once, before what it sent last. */
    } while (got < 0 && (errno == EINTR || (errno == ECONNRESET && resets++ == 0)));
    if (got < 0)
        return socket_failure(what);
    if (got == 0)
        return fail(FAIL_CLOSED, "%s: the other process is gone", what);
    *ret_len = (size_t)got;
    return 0;
}

/* --- supervision --- */

/* Room for one descriptor. The kernel would fill CMSG_SPACE's padding with a second one, which
 * nobody would close, so the length told to it is CMSG_LEN. */
union rights {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int))];
};

int house_send(int fd, const struct house_message *message, int passed_fd)
{
    struct house_message copy = *message;
    struct iovec part = {&copy, sizeof(copy)};
    union rights rights = {0};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    if (passed_fd >= 0) {
        header.msg_control = rights.bytes;
        header.msg_controllen = CMSG_LEN(sizeof(int));
        struct cmsghdr *control = CMSG_FIRSTHDR(&header);
        control->cmsg_level = SOL_SOCKET;
        control->cmsg_type = SCM_RIGHTS;
        control->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(control), &passed_fd, sizeof(int));
    }
    return send_packet(fd, &header, "sending to a process of the house");
}

int house_send_kind(int fd, enum house_kind kind, int passed_fd)
{
    struct house_message message = {.kind = kind};
    return house_send(fd, &message, passed_fd);
}

int house_refuse(int fd)
{
    struct house_message message = {.kind = HOUSE_REFUSED};
    snprintf(message.sentence, sizeof(message.sentence), "%s", fail_text());
    return house_send(fd, &message, -1);
}

static int passed_descriptor(struct msghdr *header)
{
    int fd = -1;
    struct cmsghdr *control = CMSG_FIRSTHDR(header);
    if (control && control->cmsg_level == SOL_SOCKET && control->cmsg_type == SCM_RIGHTS &&
        control->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(&fd, CMSG_DATA(control), sizeof(int));
    return fd;
}

static int house_message_is_whole(const struct house_message *message, size_t len, int flags)
{
    return len == sizeof(*message) && !(flags & (MSG_TRUNC | MSG_CTRUNC)) &&
           message->kind >= HOUSE_SETTINGS && message->kind <= HOUSE_REFUSED &&
           message->sentence[HOUSE_SENTENCE_MAX - 1] == 0;
}

int house_receive(int fd, struct house_message *ret_message, int *ret_fd)
{
    struct house_message message;
    struct iovec part = {&message, sizeof(message)};
    union rights rights = {0};
    struct msghdr header = {.msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = rights.bytes,
                            .msg_controllen = CMSG_LEN(sizeof(int))};
    size_t len = 0;

    int rc = receive_packet(fd, &header, "receiving from a process of the house", &len);
    if (rc)
        return rc;
    int passed = passed_descriptor(&header);
    if (!house_message_is_whole(&message, len, header.msg_flags)) {
        if (passed >= 0)
            close(passed);
        return fail(FAIL_MALFORMED, "a message of the house has a wrong size or kind");
    }
    *ret_message = message;
    *ret_fd = passed;
    return 0;
}

/* --- the request channel --- */

/* Without a control buffer: descriptors that a taken-over listener sends along are dropped. */
static int channel_receive(int fd, void *packet, size_t size, size_t *ret_len)
{
    struct iovec part = {packet, size};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    int rc = receive_packet(fd, &header, "receiving from the request channel", ret_len);
    if (rc == 0 && header.msg_flags & MSG_TRUNC)
        return fail(FAIL_MALFORMED, "a packet of the request channel is too long");
    return rc;
}

static int channel_send(int fd, const void *packet, size_t len)
{
    struct iovec part = {(void *)(uintptr_t)packet, len}; /* sendmsg() only reads it */
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    return send_packet(fd, &header, "sending on the request channel");
}

int channel_send_request(int fd, const struct keeper_request *request)
{
    return channel_send(fd, request, sizeof(*request));
}

/* The listener may be in an attacker's hands: no length or string of its may lead outside. */
static int request_is_bounded(const struct keeper_request *request)
{
    switch ((enum request_kind)request->kind) {
    case REQUEST_HELLO:
        return memchr(request->hello.sn, '\0', sizeof(request->hello.sn)) &&
               sn_is_valid(request->hello.sn);
    case REQUEST_PROOF:
        return request->proof.c2_len <= sizeof(request->proof.c2);
    case REQUEST_CONFIRM:
        return request->confirm.mac_len <= sizeof(request->confirm.mac);
    case REQUEST_ABANDON:
        return 1;
    }
    return 0;
}

int channel_receive_request(int fd, struct keeper_request *ret_request)
{
    struct keeper_request request;
    size_t len = 0;
    int rc = channel_receive(fd, &request, sizeof(request), &len);
    if (rc)
        return rc;
    if (len != sizeof(request) || !request_is_bounded(&request))
        return fail(FAIL_MALFORMED, "a request has a wrong size, kind or content");
    *ret_request = request;
    return 0;
}

enum { ANSWER_HEADER = offsetof(struct keeper_answer, message) };

int channel_send_answer(int fd, const struct keeper_answer *answer)
{
    if (answer->len == 0 || answer->len > MESSAGE_MAX)
        return fail(FAIL_MALFORMED, "an answer of %u bytes", answer->len);
    return channel_send(fd, answer, ANSWER_HEADER + answer->len);
}

int channel_receive_answer(int fd, struct keeper_answer *ret_answer)
{
    struct keeper_answer answer;
    size_t len = 0;
    int rc = channel_receive(fd, &answer, sizeof(answer), &len);
    if (rc)
        return rc;
    if (len <= ANSWER_HEADER || answer.len > MESSAGE_MAX || len != ANSWER_HEADER + answer.len)
        return fail(FAIL_MALFORMED, "an answer has a wrong size");
    memcpy(ret_answer, &answer, len);
    return 0;
}

int channel_make(int ret_pair[static 2], int nonblocking)
{
    int type = SOCK_SEQPACKET | SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0);
    if (socketpair(AF_UNIX, type, 0, ret_pair) < 0)
        return fail_system("making a socket pair");
    return 0;
}
