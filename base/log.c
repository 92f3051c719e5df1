#include "base/log.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log_sink.h"

#define LOG_LINE_MAX   ((size_t)32768)
#define LOG_LINE_USUAL ((size_t)640)
#define LOG_LINE_TAIL  ((size_t)64) /* kept free for how a line ends */

static const char *const level_names[] = {
    [LOG_DEBUG] = "debug", [LOG_INFO] = "info", [LOG_WARN] = "warn", [LOG_ERROR] = "error"};

static enum rc append_value(struct strbuf *b, const struct log_field *f)
{
    switch (f->type) {
    case LOG_FIELD_STRING: return f->s ? json_append_string(b, f->s, strnlen(f->s, 2048)) : strbuf_append(b, "null", 4);
    case LOG_FIELD_INT: return strbuf_int(b, f->i);
    case LOG_FIELD_DOUBLE: return isfinite(f->d) ? strbuf_printf(b, "%.6g", f->d) : strbuf_append(b, "null", 4);
    case LOG_FIELD_BOOL: return f->i ? strbuf_append(b, "true", 4) : strbuf_append(b, "false", 5);
    }
    return RC_INTERNAL;
}

/* ,"key": -- keys are names in our own code. */
static enum rc append_key(struct strbuf *b, const char *key)
{
    size_t n = strlen(key);
    enum rc rc = strbuf_reserve(b, n + 4);
    if (rc != RC_OK)
        return rc;
    char *at = b->data + b->len;
    memcpy(at, ",\"", 2);
    memcpy(at + 2, key, n);
    memcpy(at + 2 + n, "\":", 3);
    b->len += n + 4;
    return RC_OK;
}

/* ,"key":value -- whole or not at all: a log may neither grow without a bound nor hold half a field. */
static bool append_field(struct strbuf *b, const struct log_field *f)
{
    size_t before = b->len;
    if (append_key(b, f->key) == RC_OK && append_value(b, f) == RC_OK && b->len <= LOG_LINE_MAX - LOG_LINE_TAIL)
        return true;
    b->len = before;
    return false;
}

static void put_line(const struct log *l, enum log_level level, const struct strbuf *line)
{
    if (l->sink) {
        log_sink_put(l->sink, line->data, line->len, level >= LOG_WARN ? LOG_SINK_NOW : LOG_SINK_GATHER);
        return;
    }
    ssize_t ignored = write(l->fd, line->data, line->len); /* a dead log reader must not stop the program */
    (void)ignored;
}

void log_write(const struct log *l, enum log_level level, const char *area, const char *message,
               const struct log_field *fields, int n_fields)
{
    if (!l || level < (enum log_level)__atomic_load_n(&l->level, __ATOMIC_RELAXED))
        return;
    char time[32];
    const char *const head[] = {
        "{\"time\":\"",      wall_format(clock_wall(l->clock), time, sizeof time),
        "\",\"level\":\"",   level_names[level],
        "\",\"program\":\"", l->program,
        "\",\"area\":\"",    area,
        "\",\"message\":",
    };
    struct strbuf b;
    strbuf_init(&b, LOG_LINE_MAX);
    strbuf_reserve(&b, LOG_LINE_USUAL);
    for (size_t i = 0; i < sizeof head / sizeof head[0]; i++)
        strbuf_puts(&b, head[i]);
    json_append_string(&b, message, strnlen(message, 2048));
    for (int i = 0; i < n_fields; i++) {
        if (!append_field(&b, &fields[i])) {
            strbuf_puts(&b, ",\"truncated\":true");
            break;
        }
    }
    strbuf_puts(&b, "}\n");
    put_line(l, level, &b);
    strbuf_fini(&b);
}

int log_level_parse(const char *text, enum log_level *level)
{
    for (int i = LOG_DEBUG; i <= LOG_ERROR; i++) {
        if (strcmp(text, level_names[i]) == 0) {
            *level = (enum log_level)i;
            return 0;
        }
    }
    return 1;
}
