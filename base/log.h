/* One JSON line per fact on stderr (or any fd): time, level, area, message, then fields. Hot paths count instead of
 * logging. No prompts, answers or credentials.
 *
 *     log_info(l, "node", "node is healthy", LOG_S("node", name), LOG_I("took_ms", ms));
 *
 * Thread-safe: a line is one write(2), or goes to a sink, which gathers lines off the thread that says them. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/clock.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

struct log_sink; /* base/log_sink.h */

struct log {
    int fd;
    struct log_sink *sink; /* borrowed; NULL: the line is written to fd at once */
    enum log_level level;  /* lines below it are dropped */
    const struct clock *clock;
    const char *program; /* "spillway", "spillway-engine" */
};

struct log_field {
    const char *key;
    size_t key_n; /* its length, which the compiler knows */
    enum { LOG_FIELD_STRING, LOG_FIELD_INT, LOG_FIELD_DOUBLE, LOG_FIELD_BOOL } type;
    const char *s; /* NULL is written as null */
    int64_t i;
    double d;
};
#define LOG_S(k, v) ((struct log_field){.key = (k), .key_n = strlen(k), .type = LOG_FIELD_STRING, .s = (v)})
#define LOG_I(k, v) ((struct log_field){.key = (k), .key_n = strlen(k), .type = LOG_FIELD_INT, .i = (int64_t)(v)})
#define LOG_D(k, v) ((struct log_field){.key = (k), .key_n = strlen(k), .type = LOG_FIELD_DOUBLE, .d = (v)})
#define LOG_B(k, v) ((struct log_field){.key = (k), .key_n = strlen(k), .type = LOG_FIELD_BOOL, .i = (v) ? 1 : 0})

void log_write(const struct log *l, enum log_level level, const char *area, const char *message,
               const struct log_field *fields, int n_fields);
#define LOG_FIELDS_(...)                                                                                               \
    (const struct log_field[]){__VA_ARGS__},                                                                           \
        (int)(sizeof((const struct log_field[]){__VA_ARGS__}) / sizeof(struct log_field))
#define log_debug(l, area, msg, ...) log_write(l, LOG_DEBUG, area, msg, LOG_FIELDS_(__VA_ARGS__))
#define log_info(l, area, msg, ...)  log_write(l, LOG_INFO, area, msg, LOG_FIELDS_(__VA_ARGS__))
#define log_warn(l, area, msg, ...)  log_write(l, LOG_WARN, area, msg, LOG_FIELDS_(__VA_ARGS__))
#define log_error(l, area, msg, ...) log_write(l, LOG_ERROR, area, msg, LOG_FIELDS_(__VA_ARGS__))

/* "debug" .. "error". RC_INVALID (1) otherwise. */
int log_level_parse(const char *text, enum log_level *level);

#endif
