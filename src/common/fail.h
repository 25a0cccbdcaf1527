#ifndef COMMON_FAIL_H
#define COMMON_FAIL_H

/*
 * The one list of errors. Every function that can fail returns 0 or one of these, and leaves a
 * sentence for the person who will read it: what happened, to what, what to do. The sentence
 * belongs to the calling thread and stays until its next failure.
 */
enum fail {
    FAIL_SYSTEM = -1,      /* the operating system said no; the sentence carries errno's text */
    FAIL_MEMORY = -2,      /* an allocation failed */
    FAIL_MALFORMED = -3,   /* bytes from outside that are not what they should be */
    FAIL_VERSION = -4,     /* well-formed, but of a version this build does not speak */
    FAIL_NOT_FOUND = -5,   /* the thing named does not exist */
    FAIL_EXISTS = -6,      /* the thing named exists already */
    FAIL_REFUSED = -7,     /* understood, and not allowed */
    FAIL_BUSY = -8,        /* not now; again later */
    FAIL_TOKEN = -9,       /* a Cryptoki call failed; the sentence names call and CKR_ value */
    FAIL_TOKEN_LOST = -10, /* as FAIL_TOKEN, and the session or the token is gone */
    FAIL_REGISTRY = -11,   /* SQLite failed */
    FAIL_CRYPTO = -12,     /* OpenSSL failed */
    FAIL_CONFIG = -13,     /* the configuration file, or something it names, is wrong */
    FAIL_SEAL = -14,       /* a seal does not fit what it seals */
    FAIL_CLOSED = -15,     /* the other end of a socket is gone */
};

/* Keeps the sentence for this thread and returns code, so that "return fail(...)" reads well. */
int fail(enum fail code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* As fail(), with the reason for errno (FAIL_SYSTEM) or OpenSSL's first queued error (FAIL_CRYPTO)
 * appended after a colon. */
int fail_system(const char *format, ...) __attribute__((format(printf, 1, 2)));
int fail_crypto(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Puts words before the sentence of the last failure ("words: sentence"); returns code. */
int fail_in(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* "not_found", "busy"...: the name of a code as programs pass it on; "failed" for none of them. */
const char *fail_name(int code);

/* The sentence of this thread's last failure; never NULL, no line break. */
const char *fail_text(void);

#endif
