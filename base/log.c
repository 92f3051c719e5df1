#include "base/log.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"

#define LOG_LINE_MAX  ((size_t)32768)
#define LOG_LINE_TAIL ((size_t)64) /* kept free for how a line ends */

static const char *const level_names[] = {
    [LOG_DEBUG] = "debug", [LOG_INFO] = "info", [LOG_WARN] = "warn", [LOG_ERROR] = "error"};

static enum rc append_value(struct strbuf *b, const struct log_field *f)
{
    switch (f->type) {
    case LOG_FIELD_STRING: return f->s ? json_append_string(b, f->s, strnlen(f->s, 2048)) : strbuf_puts(b, "null");
    case LOG_FIELD_INT: return strbuf_printf(b, "%" PRId64, f->i);
    case LOG_FIELD_DOUBLE: return isfinite(f->d) ? strbuf_printf(b, "%.6g", f->d) : strbuf_puts(b, "null");
    case LOG_FIELD_BOOL: return strbuf_puts(b, f->i ? "true" : "false");
    }
    return RC_INTERNAL;
}

/* ,"key":value -- whole or not at all: a log may neither grow without a bound nor hold half a field. */
static bool append_field(struct strbuf *b, const struct log_field *f)
{
    size_t before = b->len;
    if (strbuf_puts(b, ",") == RC_OK && json_append_string(b, f->key, strlen(f->key)) == RC_OK &&
        strbuf_puts(b, ":") == RC_OK && append_value(b, f) == RC_OK && b->len <= LOG_LINE_MAX - LOG_LINE_TAIL)
        return true;
    b->len = before;
    return false;
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
    json_append_string(&b, message, strnlen(message, 2048));
    for (int i = 0; i < n_fields; i++) {
        if (!append_field(&b, &fields[i])) {
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
