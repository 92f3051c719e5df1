#include "base/json_write.h"

#include <inttypes.h>
#include <string.h>

#include "base/json.h"

struct json_writer json_write_begin(struct strbuf *out)
{
    return (struct json_writer){.out = out};
}

enum rc json_write_end(const struct json_writer *w)
{
    return w->rc;
}

static void put(struct json_writer *w, const char *text)
{
    if (w->rc == RC_OK)
        w->rc = strbuf_puts(w->out, text);
}

/* The comma a value needs shows in the last byte written: none after an opening bracket, a colon, or nothing. */
static void begin_value(struct json_writer *w, const char *key)
{
    char last = w->out->len ? w->out->data[w->out->len - 1] : '{';

    if (last != '{' && last != '[' && last != ':' && last != ',')
        put(w, ",");
    if (!key)
        return;
    if (w->rc == RC_OK)
        w->rc = json_append_string(w->out, key, strlen(key));
    put(w, ":");
}

void json_open(struct json_writer *w, const char *key, char bracket)
{
    begin_value(w, key);
    put(w, bracket == '{' ? "{" : "[");
}

void json_close(struct json_writer *w, char bracket)
{
    put(w, bracket == '}' ? "}" : "]");
}

void json_string(struct json_writer *w, const char *key, const char *s)
{
    if (!s) {
        json_null(w, key);
        return;
    }
    begin_value(w, key);
    if (w->rc == RC_OK)
        w->rc = json_append_string(w->out, s, strlen(s));
}

void json_int(struct json_writer *w, const char *key, int64_t v)
{
    begin_value(w, key);
    if (w->rc == RC_OK)
        w->rc = strbuf_int(w->out, v);
}

void json_uint(struct json_writer *w, const char *key, uint64_t v)
{
    begin_value(w, key);
    if (w->rc == RC_OK)
        w->rc = strbuf_printf(w->out, "%" PRIu64, v);
}

void json_bool(struct json_writer *w, const char *key, bool v)
{
    json_raw(w, key, v ? "true" : "false");
}

void json_null(struct json_writer *w, const char *key)
{
    json_raw(w, key, "null");
}

void json_raw(struct json_writer *w, const char *key, const char *json)
{
    begin_value(w, key);
    put(w, json);
}
