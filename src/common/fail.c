#include "common/fail.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <openssl/err.h>

enum { SENTENCE_MAX = 1024 };

static _Thread_local char sentence[SENTENCE_MAX];

__attribute__((format(printf, 1, 0))) static void keep_sentence(const char *format,
                                                                va_list arguments)
{
    vsnprintf(sentence, sizeof(sentence), format, arguments);
}

static void append_reason(const char *reason)
{
    size_t used = strlen(sentence);
    snprintf(sentence + used, sizeof(sentence) - used, ": %s", reason);
}

int fail(enum fail code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    keep_sentence(format, arguments);
    va_end(arguments);
    return code;
}

int fail_system(const char *format, ...)
{
    int number = errno;
    char reason[128];
    va_list arguments;
    va_start(arguments, format);
    keep_sentence(format, arguments);
    va_end(arguments);
    append_reason(strerror_r(number, reason, sizeof(reason)));
    return FAIL_SYSTEM;
}

int fail_crypto(const char *format, ...)
{
    unsigned long number = ERR_peek_error();
    const char *reason = ERR_reason_error_string(number);
    va_list arguments;
    va_start(arguments, format);
    keep_sentence(format, arguments);
    va_end(arguments);
    append_reason(reason ? reason : "OpenSSL gave no reason");
    ERR_clear_error();
    return FAIL_CRYPTO;
}

int fail_in(int code, const char *format, ...)
{
    char before[SENTENCE_MAX];
    memcpy(before, sentence, sizeof(before));
    va_list arguments;
    va_start(arguments, format);
    keep_sentence(format, arguments);
    va_end(arguments);
    append_reason(before);
    return code;
}

const char *fail_name(int code)
{
    static const char *const names[] = {
        [-FAIL_SYSTEM] = "system",       [-FAIL_MEMORY] = "memory",
        [-FAIL_MALFORMED] = "malformed", [-FAIL_VERSION] = "version",
        [-FAIL_NOT_FOUND] = "not_found", [-FAIL_EXISTS] = "exists",
        [-FAIL_REFUSED] = "refused",     [-FAIL_BUSY] = "busy",
        [-FAIL_TOKEN] = "token",         [-FAIL_TOKEN_LOST] = "token_lost",
        [-FAIL_REGISTRY] = "registry",   [-FAIL_CRYPTO] = "crypto",
        [-FAIL_CONFIG] = "config",       [-FAIL_SEAL] = "seal",
        [-FAIL_CLOSED] = "closed",
    };
    if (code >= 0 || (size_t)-code >= sizeof(names) / sizeof(names[0]))
        return "failed";
    return names[-code];
}

const char *fail_text(void)
{
    return sentence[0] ? sentence : "no failure was recorded";
}
