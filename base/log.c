#include "base/log.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"

#define LOG_LINE_MAX ((size_t)16384)

static const char *const level_names[] = {
    [LOG_DEBUG] = "debug", [LOG_INFO] = "info", [LOG_WARN] = "warn", [LOG_ERROR] = "error"};

/* What does not fit the line is cut: a log may never grow without a bound or fail. */
static void append_pair(struct strbuf *b, const char *key, const struct log_field *f)
{
    strbuf_puts(b, ",");
    json_append_string(b, key, strlen(key));
    strbuf_puts(b, ":");
    switch (f->type) {
    case LOG_FIELD_STRING:
        if (f->s)
            json_append_string(b, f->s, strnlen(f->s, 2048));
        else
            strbuf_puts(b, "null");
        break;
    case LOG_FIELD_INT: strbuf_printf(b, "%" PRId64, f->i); break;
    case LOG_FIELD_DOUBLE:
        if (isfinite(f->d))
            strbuf_printf(b, "%.6g", f->d);
        else
            strbuf_puts(b, "null");
        break;
    case LOG_FIELD_BOOL: strbuf_puts(b, f->i ? "true" : "false"); break;
    }
}

void log_write(const struct log *l, enum log_level level, const char *area, const char *message,
               const struct log_field *fields, int n_fields)
{
    if (!l || level < l->level)
        return;
    char time[32];
    struct strbuf b;
    strbuf_init(&b, LOG_LINE_MAX);
    strbuf_printf(&b, "{\"time\":\"%s\",\"level\":\"%s\",\"program\":\"%s\",\"area\":\"%s\",\"message\":",
                  wall_format(clock_wall(l->clock), time, sizeof time), level_names[level], l->program, area);
    json_append_string(&b, message, strlen(message));
    for (int i = 0; i < n_fields; i++) {
        size_t before = b.len;
        append_pair(&b, fields[i].key, &fields[i]);
        if (b.len > LOG_LINE_MAX - 64) { /* this field did not fit: leave it out and say so */
            b.len = before;
            strbuf_puts(&b, ",\"truncated\":true");
            break;
        }
    }
    strbuf_puts(&b, "}\n");
    ssize_t ignored = write(l->fd, b.data, b.len); /* a dead log reader must not stop the program */
    (void)ignored;
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
