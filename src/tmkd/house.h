#ifndef TMKD_HOUSE_H
#define TMKD_HOUSE_H

/*
 * What the processes of the house say to each other over SOCK_SEQPACKET socketpairs: fixed
 * structs, their size checked. All are one build, so there is no versioning.
 *
 * Supervision: a child finds its end at descriptor HOUSE_FD. Descriptors come with the message
 * (SCM_RIGHTS). When the supervisor is gone the descriptor reads as closed and the child ends.
 *
 * Requests: listener and keeper, over the channel the supervisor gave each with HOUSE_CHANNEL.
 * A new keeper means a new channel; whatever waited on the old one is answered `busy`.
 */

#include <stddef.h>
#include <stdint.h>

#include "wire/message.h"

enum { HOUSE_FD = 3, HOUSE_LISTEN_MAX = 8, HOUSE_SENTENCE_MAX = 512 };

enum house_kind {
    HOUSE_SETTINGS = 1, /* to the listener, first: struct listener_settings */
    HOUSE_LISTEN,       /* to the listener, with a listening TCP socket */
    HOUSE_CHANNEL,      /* to both, with an end of the request channel; replaces the one before */
    HOUSE_CONTROL,      /* to the keeper, with the listening control socket (UNIX, stream) */
    HOUSE_CONTROL_PEER, /* to a private keeper, with a connected control stream; ends with it */
    HOUSE_STOP,         /* to both: finish what is in flight, then exit 0 */
    HOUSE_READY,        /* from both: serving */
    HOUSE_REFUSED,      /* from a keeper or ceremony: it cannot start, and sentence says why */
};

struct listener_settings {
    uint32_t connections;            /* in all */
    uint32_t connections_per_source; /* per address */
    uint32_t handshake_ms;           /* from accept, absolute */
    uint32_t stop_ms;                /* after HOUSE_STOP */
    uint32_t retry_after;            /* seconds, told with busy */
    uint32_t log_level;              /* enum log_level */
    uint32_t user, group;            /* to become after set-up, when caged */
    uint32_t caged;                  /* 1: chroot (unless empty) and drop to user:group */
    char chroot[256];
};

struct house_message {
    uint32_t kind;
    struct listener_settings settings; /* HOUSE_SETTINGS only, else zero */
    char sentence[HOUSE_SENTENCE_MAX]; /* HOUSE_REFUSED only, else zero */
};

/* passed_fd: a descriptor that goes along, or -1; it stays open here. FAIL_CLOSED, FAIL_SYSTEM. */
int house_send(int fd, const struct house_message *message, int passed_fd);
int house_send_kind(int fd, enum house_kind kind, int passed_fd);

/* HOUSE_REFUSED with this thread's fail_text(): whoever started the process tells it on, once. */
int house_refuse(int fd);

/* *ret_fd: the descriptor that came along (close-on-exec), or -1. FAIL_CLOSED at the end,
 * FAIL_BUSY when a non-blocking fd has nothing, FAIL_MALFORMED for another size or kind. */
int house_receive(int fd, struct house_message *ret_message, int *ret_fd);

/* --- the request channel --- */

enum request_kind {
    REQUEST_HELLO = 1, /* answered by a Challenge or a Failure */
    REQUEST_PROOF,     /* answered by a Delivery or a Failure */
    REQUEST_CONFIRM,   /* answered by a Done or a Failure */
    REQUEST_ABANDON,   /* the connection is gone; not answered */
};

/* A terminal's address, for the audit log. */
struct source {
    uint8_t family; /* 4, 6, or 0 for none */
    uint8_t address[16];
    uint16_t port; /* host byte order */
};

struct keeper_request {
    uint64_t handshake; /* the listener's number for the connection, never used twice */
    uint32_t kind;
    struct source source; /* REQUEST_HELLO */
    union {
        struct hello hello;
        struct proof proof;
        struct confirm confirm;
    };
};

/* The Message to send to the terminal as the keeper encoded it; the listener puts it in a frame. */
struct keeper_answer {
    uint64_t handshake;
    uint32_t last; /* 1: the handshake is over, close after sending */
    uint32_t len;
    uint8_t message[MESSAGE_MAX];
};

/* Whole structs; an answer is sent without the unused end of message. Non-blocking descriptors:
 * FAIL_BUSY when it would wait. FAIL_CLOSED at the end, FAIL_MALFORMED for a wrong size. A
 * request received has a kind of the list, a valid SN and lengths within their arrays. */
int channel_send_request(int fd, const struct keeper_request *request);
int channel_receive_request(int fd, struct keeper_request *ret_request);
int channel_send_answer(int fd, const struct keeper_answer *answer);
int channel_receive_answer(int fd, struct keeper_answer *ret_answer);

/* A connected pair of SOCK_SEQPACKET sockets, close-on-exec, non-blocking when asked. */
int channel_make(int ret_pair[static 2], int nonblocking);

#endif
