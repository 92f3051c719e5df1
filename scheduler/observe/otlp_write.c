/* Spans as OTLP/JSON: protobuf's JSON mapping with the specification's exceptions. Ids are hex, enums are numbers,
 * 64-bit integers are decimal strings, names are lowerCamelCase, what is not set is left out. */
#include "scheduler/observe/otlp_internal.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/json_write.h"

enum { FLAG_KNOWS_REMOTE = 0x100, FLAG_IS_REMOTE = 0x200 }; /* beside the W3C flags: was the parent another process? */

static void put_int64(struct json_writer *w, const char *key, int64_t v)
{
    char text[32];
    snprintf(text, sizeof text, "%" PRId64, v);
    json_string(w, key, text);
}

static void put_double(struct json_writer *w, const char *key, double v)
{
    char text[64];
    snprintf(text, sizeof text, "%.17g", v);
    json_raw(w, key, text);
}

static void put_text_attr(struct json_writer *w, const char *key, const char *value)
{
    if (!value)
        return;
    json_open(w, NULL, '{');
    json_string(w, "key", key);
    json_open(w, "value", '{');
    json_string(w, "stringValue", value);
    json_close(w, '}');
    json_close(w, '}');
}

static void put_list(struct json_writer *w, const char *value)
{
    json_open(w, "arrayValue", '{');
    json_open(w, "values", '[');
    json_open(w, NULL, '{');
    json_string(w, "stringValue", value);
    json_close(w, '}');
    json_close(w, ']');
    json_close(w, '}');
}

static void put_attr(struct json_writer *w, const struct trace_span *s, const struct span_attr *a)
{
    json_open(w, NULL, '{');
    json_string(w, "key", a->key);
    json_open(w, "value", '{');
    switch (a->type) {
    case SPAN_STRING: json_string(w, "stringValue", s->text + a->text); break;
    case SPAN_LIST: put_list(w, s->text + a->text); break;
    case SPAN_INT: put_int64(w, "intValue", a->i); break;
    case SPAN_DOUBLE: put_double(w, "doubleValue", a->d); break;
    case SPAN_BOOL: json_bool(w, "boolValue", a->i != 0); break;
    }
    json_close(w, '}');
    json_close(w, '}');
}

static void put_status(struct json_writer *w, const struct trace_span *s)
{
    if (s->status == SPAN_UNSET)
        return;
    json_open(w, "status", '{');
    json_int(w, "code", s->status);
    if (s->message)
        json_string(w, "message", s->text + s->message);
    json_close(w, '}');
}

enum rc otlp_write_span(struct strbuf *out, const struct trace_span *s)
{
    char trace[33], id[17];
    struct json_writer w = json_write_begin(out);
    json_open(&w, NULL, '{');
    json_string(&w, "traceId", trace_id_text(s->trace, trace));
    json_string(&w, "spanId", span_id_text(s->id, id));
    if (s->has_parent)
        json_string(&w, "parentSpanId", span_id_text(s->parent, id));
    json_int(&w, "flags", s->flags | FLAG_KNOWS_REMOTE | (s->parent_is_remote ? FLAG_IS_REMOTE : 0));
    json_string(&w, "name", s->text + s->name);
    json_int(&w, "kind", s->kind);
    put_int64(&w, "startTimeUnixNano", s->start.ns);
    put_int64(&w, "endTimeUnixNano", s->end.ns);
    json_open(&w, "attributes", '[');
    for (int i = 0; i < s->n_attrs; i++)
        put_attr(&w, s, &s->attrs[i]);
    json_close(&w, ']');
    if (s->attrs_dropped)
        json_int(&w, "droppedAttributesCount", s->attrs_dropped);
    put_status(&w, s);
    json_close(&w, '}');
    return json_write_end(&w);
}

enum rc otlp_write_head(struct strbuf *out, const struct otlp_options *o)
{
    struct json_writer w = json_write_begin(out);
    json_open(&w, NULL, '{');
    json_open(&w, "resourceSpans", '[');
    json_open(&w, NULL, '{');
    json_open(&w, "resource", '{');
    json_open(&w, "attributes", '[');
    put_text_attr(&w, "service.name", o->service_name ? o->service_name : "spillway");
    put_text_attr(&w, "service.version", SPILLWAY_VERSION);
    put_text_attr(&w, "service.instance.id", o->instance_id);
    put_text_attr(&w, "deployment.environment.name", o->environment);
    json_close(&w, ']');
    json_close(&w, '}');
    json_open(&w, "scopeSpans", '[');
    json_open(&w, NULL, '{');
    json_open(&w, "scope", '{');
    json_string(&w, "name", "spillway");
    json_string(&w, "version", SPILLWAY_VERSION);
    json_close(&w, '}');
    json_open(&w, "spans", '[');
    return json_write_end(&w);
}
