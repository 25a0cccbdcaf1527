#include "common/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static const char *program = "tmkd";
static enum log_level level = LOG_INFO;

void log_open(const char *name, enum log_level most)
{
    program = name;
    level = most;
    tzset();
}

/* One write(2) a line, so that lines of three processes never mix. */
__attribute__((format(printf, 2, 0))) static void write_line(enum log_level of, const char *format,
                                                             va_list arguments)
{
    static const char *const words[] = {"error", "warning", "info", "debug"};
    char line[1400];
    char when[32];
    struct timespec now;
    struct tm utc;

    if (of > level)
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &utc);
    int used = snprintf(line, sizeof(line) - 1, "%s.%03ldZ %s: %s: ", when, now.tv_nsec / 1000000,
                        program, words[of]);
    int text = vsnprintf(line + used, sizeof(line) - 1 - (size_t)used, format, arguments);
    size_t end = (size_t)used + (size_t)(text < 0 ? 0 : text);
    if (end > sizeof(line) - 2)
        end = sizeof(line) - 2;
    line[end] = '\n';
    if (write(STDERR_FILENO, line, end + 1) < 0)
        return; /* nowhere left to complain */
}

#define LOG_FUNCTION(name, of)                                                                     \
    void name(const char *format, ...)                                                             \
    {                                                                                              \
        va_list arguments;                                                                         \
        va_start(arguments, format);                                                               \
        write_line(of, format, arguments);                                                         \
        va_end(arguments);                                                                         \
    }

LOG_FUNCTION(log_error, LOG_ERROR)
LOG_FUNCTION(log_warning, LOG_WARNING)
LOG_FUNCTION(log_info, LOG_INFO)
LOG_FUNCTION(log_debug, LOG_DEBUG)
