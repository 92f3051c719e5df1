#include "scheduler/observe/span.h"

#include <math.h>
#include <string.h>

#include "base/json.h"

/* Copy into the span's own text. Cut at SPAN_VALUE_MAX between characters; 0 (the empty text) when there is no room. */
static uint16_t keep(struct trace_span *s, const char *text)
{
    size_t n = strnlen(text, SPAN_VALUE_MAX + 1);
    if (n > SPAN_VALUE_MAX) {
        bool cut_inside;
        size_t whole = utf8_valid_prefix(text, SPAN_VALUE_MAX, &cut_inside);
        n = cut_inside ? whole : SPAN_VALUE_MAX;
    }
    if (n == 0 || s->text_len + n + 1 > sizeof s->text)
        return 0;
    uint16_t at = s->text_len;
    memcpy(s->text + at, text, n);
    s->text[at + n] = '\0';
    s->text_len = (uint16_t)(at + n + 1);
    return at;
}

static void init(struct trace_span *s, const struct trace *t, enum span_kind kind, const char *name)
{
    *s = (struct trace_span){.trace = t->id, .flags = t->flags, .kind = kind};
    s->text_len = 1;
    s->name = keep(s, name);
}

void span_init_server(struct trace_span *s, const struct trace *t, const char *name)
{
    init(s, t, SPAN_SERVER, name);
    s->id = t->span;
    s->parent = t->parent;
    s->has_parent = s->parent_is_remote = trace_has_parent(t);
}

void span_init_child(struct trace_span *s, const struct trace *t, struct span_id id, enum span_kind kind,
                     const char *name)
{
    init(s, t, kind, name);
    s->id = id;
    s->parent = t->span;
    s->has_parent = true;
}

/* A free attribute, or NULL and counted. */
static struct span_attr *add(struct trace_span *s, const char *key, enum span_type type)
{
    if (s->n_attrs == SPAN_ATTRS_MAX) {
        s->attrs_dropped++;
        return NULL;
    }
    struct span_attr *a = &s->attrs[s->n_attrs++];
    *a = (struct span_attr){.key = key, .type = type};
    return a;
}

static void add_text(struct trace_span *s, const char *key, enum span_type type, const char *value)
{
    if (!value)
        return;
    uint16_t at = keep(s, value);
    if (at == 0 && *value) {
        s->attrs_dropped++; /* an empty value would be a false one */
        return;
    }
    struct span_attr *a = add(s, key, type);
    if (a)
        a->text = at;
}

void span_set_string(struct trace_span *s, const char *key, const char *value)
{
    add_text(s, key, SPAN_STRING, value);
}

void span_set_list(struct trace_span *s, const char *key, const char *value)
{
    add_text(s, key, SPAN_LIST, value);
}

void span_set_int(struct trace_span *s, const char *key, int64_t value)
{
    struct span_attr *a = add(s, key, SPAN_INT);
    if (a)
        a->i = value;
}

void span_set_double(struct trace_span *s, const char *key, double value)
{
    struct span_attr *a = isfinite(value) ? add(s, key, SPAN_DOUBLE) : NULL;
    if (a)
        a->d = value;
}

void span_set_bool(struct trace_span *s, const char *key, bool value)
{
    struct span_attr *a = add(s, key, SPAN_BOOL);
    if (a)
        a->i = value;
}

void span_fail(struct trace_span *s, const char *type, const char *message)
{
    s->status = SPAN_ERROR;
    span_set_string(s, SPAN_ERROR_TYPE, type);
    s->message = message ? keep(s, message) : 0;
}

static void set_known(struct trace_span *s, const char *key, int64_t value)
{
    if (value >= 0)
        span_set_int(s, key, value);
}

void span_genai(struct trace_span *s, const struct span_genai *g)
{
    span_set_string(s, SPAN_GENAI_OPERATION, g->operation);
    span_set_string(s, SPAN_GENAI_PROVIDER, g->provider);
    span_set_string(s, SPAN_GENAI_MODEL, g->request_model);
    span_set_string(s, SPAN_GENAI_SERVED, g->response_model);
    span_set_string(s, SPAN_GENAI_ID, g->response_id);
    span_set_list(s, SPAN_GENAI_FINISH, g->finish_reason);
    span_set_string(s, SPAN_SERVER_ADDRESS, g->server_address);
    if (g->server_address && g->server_port > 0)
        span_set_int(s, SPAN_SERVER_PORT, g->server_port);
    if (g->stream) /* the conventions: only when true */
        span_set_bool(s, SPAN_GENAI_STREAM, true);
    set_known(s, SPAN_GENAI_MAX_TOKENS, g->max_tokens);
    set_known(s, SPAN_GENAI_INPUT, g->input_tokens);
    set_known(s, SPAN_GENAI_CACHED, g->cached_tokens);
    set_known(s, SPAN_GENAI_OUTPUT, g->output_tokens);
    if (g->stream && g->first_chunk_ns >= 0)
        span_set_double(s, SPAN_GENAI_FIRST, (double)g->first_chunk_ns / NS_PER_S);
}
