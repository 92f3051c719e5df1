#include "base/log.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log_sink.h"
#include "base/text.h"

#define LOG_LINE_MAX   ((size_t)32768)
#define LOG_LINE_USUAL ((size_t)640)
#define LOG_LINE_TAIL  ((size_t)64) /* kept free for how a line ends */

static const char *const level_names[] = {
    [LOG_DEBUG] = "debug", [LOG_INFO] = "info", [LOG_WARN] = "warn", [LOG_ERROR] = "error"};

#define FIGURE_MAX ((size_t)32) /* of what is no string */

/* What fits into FIGURE_MAX bytes. Returns behind it. */
static char *put_figure(char *at, const struct log_field *f)
{
#define WORD(s) ((char *)memcpy(at, s, sizeof(s) - 1) + sizeof(s) - 1)
    switch (f->type) {
    case LOG_FIELD_INT: return text_put_int(at, f->i);
    case LOG_FIELD_BOOL: return f->i ? WORD("true") : WORD("false");
    case LOG_FIELD_DOUBLE:
        if (isfinite(f->d))
            return at + snprintf(at, FIGURE_MAX, "%.6g", f->d);
        break;
    case LOG_FIELD_STRING: break;
    }
    return WORD("null");
#undef WORD
}

/* ,"key":value -- keys are names in our own code. */
static enum rc append_parts(struct strbuf *b, const struct log_field *f)
{
    enum rc rc = strbuf_reserve(b, f->key_n + 4 + FIGURE_MAX);
    if (rc != RC_OK)
        return rc;
    char *at = b->data + b->len;
    memcpy(at, ",\"", 2);
    memcpy(at + 2, f->key, f->key_n);
    memcpy(at + 2 + f->key_n, "\":", 2);
    at += f->key_n + 4;
    if (f->type == LOG_FIELD_STRING && f->s) {
        b->len = (size_t)(at - b->data);
        return json_append_string(b, f->s, strnlen(f->s, 2048));
    }
    at = put_figure(at, f);
    *at = '\0';
    b->len = (size_t)(at - b->data);
    return RC_OK;
}

/* ,"key":value -- whole or not at all: a log may neither grow without a bound nor hold half a field. */
static bool append_field(struct strbuf *b, const struct log_field *f)
{
    size_t before = b->len;
    if (append_parts(b, f) == RC_OK && b->len <= LOG_LINE_MAX - LOG_LINE_TAIL)
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
