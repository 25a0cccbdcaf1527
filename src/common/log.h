#ifndef COMMON_LOG_H
#define COMMON_LOG_H

/*
 * One line a message on standard error: time (UTC), program, level, text. Only the program layer
 * logs; lower layers return errors. Nothing secret is ever passed to these functions.
 */
enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };

/* name: shown on every line, such as "tmkd listener"; must outlive the process. Also reads the
 * time zone data now, because a caged process cannot open files later. */
void log_open(const char *name, enum log_level most);

void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_warning(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_debug(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
