/* Outputs -> JSON. Written by hand rather than through a tree: a chunk per token and sequence is the hot path. */
#include "engine/serve/api.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Where objects go. Once full it stays full: half an object is never taken for a whole one. */
struct writer {
    struct strbuf *b;
    bool full;
};

static void put(struct writer *w, const char *s)
{
    w->full = w->full || strbuf_puts(w->b, s);
}

static void put_string(struct writer *w, const char *s, size_t n)
{
    w->full = w->full || json_append_string(w->b, s, n);
}

static void put_format(struct writer *w, const char *format, ...) SPW_PRINTF(2, 3);
static void put_format(struct writer *w, const char *format, ...)
{
    char text[512]; /* numbers and fixed words only */
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    SPW_ASSERT(n >= 0 && (size_t)n < sizeof text);
    put(w, text);
}

static void put_cstring(struct writer *w, const char *s)
{
    put_string(w, s, strlen(s));
}

static void put_cstring_or_null(struct writer *w, const char *s)
{
    if (*s)
        put_cstring(w, s);
    else
        put(w, "null");
}

enum rc api_write_error(struct strbuf *b, const struct api_error *e)
{
    struct writer writer = {.b = b}, *w = &writer;
    put(w, "{\"error\":{\"message\":");
    put_cstring(w, e->message);
    put(w, ",\"type\":");
    put_cstring(w, e->type);
    put(w, ",\"param\":");
    put_cstring_or_null(w, e->param);
    put(w, ",\"code\":");
    put_cstring_or_null(w, e->code);
    put(w, "}}");
    return writer.full ? RC_FULL : RC_OK;
}

static void put_usage(struct writer *w, const struct batch_usage *u)
{
    put_format(w,
               "{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d,"
               "\"prompt_tokens_details\":{\"cached_tokens\":%d},"
               "\"completion_tokens_details\":{\"reasoning_tokens\":%d}}",
               (int)u->prompt, (int)u->completion, (int)(u->prompt + u->completion), (int)u->cached, (int)u->reasoning);
}

/* docs/NODE_API.md, Usage. */
void api_write_use(char text[API_USE_BYTES], const struct batch_usage *u)
{
    size_t n = (size_t)snprintf(text, API_USE_BYTES, "[");
    for (int i = 0; i < u->n_uses; i++)
        n += (size_t)snprintf(text + n, API_USE_BYTES - n, "%s[%lld,%lld,%lld]", i ? "," : "",
                              (long long)u->uses[i].hour_s, (long long)u->uses[i].busy_us,
                              (long long)u->uses[i].millijoules);
    snprintf(text + n, API_USE_BYTES - n, "]"); /* a figure has 20 characters at most: it fits */
}

static void put_uses(struct writer *w, const struct batch_usage *u)
{
    char text[API_USE_BYTES];
    api_write_use(text, u);
    put(w, ",\"spillway_use\":");
    put(w, text);
}

static const char *finish_name(enum batch_finish f)
{
    switch (f) {
    case BATCH_STOP: return "\"stop\"";
    case BATCH_LENGTH: return "\"length\"";
    default: return "null";
    }
}

/* Logprobs. */

static struct text_span token_bytes(const struct vocab *v, int32_t id)
{
    if (!vocab_has(v, id))
        return (struct text_span){.ptr = "", .len = 0};
    struct text_span s = vocab_token_bytes(v, id);
    return s.len ? s : vocab_token_text(v, id); /* control tokens add nothing to a text: show their name */
}

static void put_logprob(struct writer *w, float lp)
{
    /* JSON has no infinities; -9999 is what the OpenAI API says for "never". */
    put_format(w, "%.7g", isfinite(lp) && lp > -9999.0f ? (double)lp : -9999.0);
}

static void put_chat_token(struct writer *w, const struct vocab *v, int32_t id, float lp)
{
    struct text_span t = token_bytes(v, id);
    put(w, "\"token\":");
    put_string(w, t.ptr, t.len);
    put(w, ",\"logprob\":");
    put_logprob(w, lp);
    put(w, ",\"bytes\":[");
    for (size_t i = 0; i < t.len; i++)
        put_format(w, i ? ",%u" : "%u", (unsigned char)t.ptr[i]);
    put(w, "]");
}

static void put_chat_logprobs(struct writer *w, const struct api_answer *a, const struct batch_output *out)
{
    put(w, "{\"content\":[");
    for (int32_t i = 0; i < out->n_ids; i++) {
        const struct sample *s = &out->samples[i];
        put(w, i ? ",{" : "{");
        put_chat_token(w, a->vocab, s->id, s->logprob);
        put(w, ",\"top_logprobs\":[");
        for (int k = 0; k < s->n_top; k++) {
            put(w, k ? ",{" : "{");
            put_chat_token(w, a->vocab, s->top[k].id, s->top[k].logprob);
            put(w, "}");
        }
        put(w, "]}");
    }
    put(w, "],\"refusal\":null}");
}

/* Text of a token where it serves as a key: bytes that are no text are spelled out, so that keys stay different. */
static void put_legacy_token(struct writer *w, const struct vocab *v, int32_t id)
{
    struct text_span t = token_bytes(v, id);
    if (utf8_valid_prefix(t.ptr, t.len, NULL) == t.len) {
        put_string(w, t.ptr, t.len);
        return;
    }
    put(w, "\"bytes:");
    for (size_t i = 0; i < t.len; i++)
        put_format(w, "\\\\x%02x", (unsigned char)t.ptr[i]);
    put(w, "\"");
}

static bool same_bytes(const struct vocab *v, int32_t x, int32_t y)
{
    struct text_span a = token_bytes(v, x), b = token_bytes(v, y);
    return a.len == b.len && memcmp(a.ptr, b.ptr, a.len) == 0;
}

/* {"text": logprob, ...} of the alternatives and the token itself; of tokens that look alike only the likeliest. */
static void put_legacy_top(struct writer *w, const struct vocab *v, const struct sample *s)
{
    put(w, "{");
    bool chosen_shown = false;
    int shown = 0;
    for (int k = 0; k < s->n_top; k++) {
        bool repeated = false;
        for (int j = 0; j < k; j++)
            repeated |= same_bytes(v, s->top[j].id, s->top[k].id);
        chosen_shown |= same_bytes(v, s->id, s->top[k].id);
        if (repeated)
            continue;
        put(w, shown++ ? "," : "");
        put_legacy_token(w, v, s->top[k].id);
        put(w, ":");
        put_logprob(w, s->top[k].logprob);
    }
    if (!chosen_shown) {
        put(w, shown ? "," : "");
        put_legacy_token(w, v, s->id);
        put(w, ":");
        put_logprob(w, s->logprob);
    }
    put(w, "}");
}

size_t api_characters(const char *text, size_t n)
{
    size_t found = 0;
    for (size_t i = 0; i < n; i++)
        found += ((unsigned char)text[i] & 0xc0) != 0x80;
    return found;
}

static size_t characters(struct text_span t)
{
    return api_characters(t.ptr, t.len);
}

size_t api_text_offset(const struct vocab *v, const int32_t *ids, int32_t n)
{
    size_t offset = 0;
    for (int32_t i = 0; i < n; i++)
        offset += characters(vocab_token_bytes(v, ids[i]));
    return offset;
}

/* The prompt's text is the client's, and a vocabulary may have put a space before it: its tokens are so many characters
 * longer than it. The answer begins where the text ends, at *text_offset. */
static void put_offsets(struct writer *w, const struct vocab *v, const struct batch_output *out, size_t *text_offset)
{
    size_t prompt = api_text_offset(v, out->ids, out->n_echo),
           before = prompt > *text_offset ? prompt - *text_offset : 0;
    size_t at = out->n_echo ? 0 : *text_offset;
    for (int32_t i = 0; i < out->n_ids; i++) {
        if (out->n_echo && i == out->n_echo)
            at = *text_offset + before;
        put_format(w, i ? ",%zu" : "%zu", at < before ? 0 : at - before);
        at += characters(vocab_token_bytes(v, out->ids[i]));
    }
    if (out->n_ids > out->n_echo)
        *text_offset = at - before;
}

static void put_legacy_logprobs(struct writer *w, const struct api_answer *a, const struct batch_output *out,
                                size_t *text_offset)
{
    put(w, "{\"tokens\":[");
    for (int32_t i = 0; i < out->n_ids; i++) {
        put(w, i ? "," : "");
        put_legacy_token(w, a->vocab, out->ids[i]);
    }
    put(w, "],\"token_logprobs\":[");
    for (int32_t i = 0; i < out->n_ids; i++) {
        put(w, i ? "," : "");
        if (i == 0 && out->n_echo) /* nothing stands before it that could foretell it */
            put(w, "null");
        else
            put_logprob(w, out->samples[i].logprob);
    }
    put(w, "],\"top_logprobs\":[");
    for (int32_t i = 0; i < out->n_ids; i++) {
        put(w, i ? "," : "");
        if (i == 0 && out->n_echo)
            put(w, "null");
        else
            put_legacy_top(w, a->vocab, &out->samples[i]);
    }
    put(w, "],\"text_offset\":[");
    put_offsets(w, a->vocab, out, text_offset);
    put(w, "]}");
}

static void put_logprobs(struct writer *w, const struct api_answer *a, const struct batch_output *out,
                         size_t *text_offset)
{
    if (!a->logprobs || !out->samples || out->n_ids == 0)
        put(w, "null");
    else if (a->kind == API_CHAT)
        put_chat_logprobs(w, a, out);
    else
        put_legacy_logprobs(w, a, out, text_offset);
}

/* Frames. */

static void put_head(struct writer *w, const struct api_answer *a, const char *object)
{
    put(w, "{\"id\":");
    put_cstring(w, a->id);
    put_format(w, ",\"object\":\"%s\",\"created\":%lld,\"model\":", object, (long long)a->created);
    put_cstring(w, a->model);
    put(w, ",\"system_fingerprint\":");
    put_cstring_or_null(w, a->fingerprint);
}

static void frame_open(struct writer *w, const struct api_answer *a)
{
    put(w, "data: ");
    put_head(w, a, a->kind == API_CHAT ? "chat.completion.chunk" : "text_completion");
    put(w, ",\"choices\":[");
}

/* The ids a frame stands for, those of the answer; out is NULL: none. Every frame but the usage chunk says usage: null
 * when usage was asked for. */
static void frame_close(struct writer *w, const struct api_answer *a, const struct batch_output *out)
{
    put(w, "}]");
    if (out && a->caller == API_CALLER_SCHEDULER && out->n_ids > out->n_echo) {
        put(w, ",\"spillway_ids\":[");
        for (int32_t i = out->n_echo; i < out->n_ids; i++)
            put_format(w, i > out->n_echo ? ",%d" : "%d", (int)out->ids[i]);
        put(w, "]");
    }
    put(w, a->include_usage ? ",\"usage\":null}\n\n" : "}\n\n");
}

static void put_delta(struct writer *w, const struct api_answer *a, const struct batch_output *out)
{
    put_format(w, "{\"index\":%d,\"delta\":{", a->index);
    if (out->reasoning.len) {
        put(w, "\"reasoning_content\":");
        put_string(w, out->reasoning.data, out->reasoning.len);
    }
    if (out->content.len || !out->reasoning.len) {
        put(w, out->reasoning.len ? ",\"content\":" : "\"content\":");
        put_string(w, out->content.len ? out->content.data : "", out->content.len);
    }
    put(w, "}");
}

static void write_text_frame(struct writer *w, const struct api_answer *a, const struct batch_output *out,
                             size_t *text_offset)
{
    frame_open(w, a);
    if (a->kind == API_CHAT) {
        put_delta(w, a, out);
    } else {
        put_format(w, "{\"index\":%d,\"text\":", a->index);
        put_string(w, out->content.len ? out->content.data : "", out->content.len);
    }
    put(w, ",\"logprobs\":");
    put_logprobs(w, a, out, text_offset);
    put(w, ",\"finish_reason\":null");
    frame_close(w, a, out);
}

enum rc api_write_chunk(struct strbuf *b, const struct api_answer *a, const struct batch_output *out,
                        enum api_chunk_place place, size_t *text_offset)
{
    struct writer writer = {.b = b}, *w = &writer;
    if (place == API_CHUNK_FIRST && a->kind == API_CHAT) {
        frame_open(w, a);
        put_format(w,
                   "{\"index\":%d,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
                   "\"finish_reason\":null",
                   a->index);
        frame_close(w, a, NULL);
    }
    bool last = out->finish == BATCH_STOP || out->finish == BATCH_LENGTH;
    bool text = out->content.len || out->reasoning.len || (a->logprobs && out->n_ids);
    if (text || (!last && out->n_ids && a->caller == API_CALLER_SCHEDULER))
        write_text_frame(w, a, out, text_offset);
    if (last) {
        frame_open(w, a);
        put_format(w, a->kind == API_CHAT ? "{\"index\":%d,\"delta\":{}" : "{\"index\":%d,\"text\":\"\"", a->index);
        put(w, ",\"logprobs\":null,\"finish_reason\":");
        put(w, finish_name(out->finish));
        frame_close(w, a, text ? NULL : out);
    }
    return writer.full ? RC_FULL : RC_OK;
}

enum rc api_write_usage_chunk(struct strbuf *b, const struct api_answer *a, const struct batch_usage *u)
{
    struct writer writer = {.b = b}, *w = &writer;
    frame_open(w, a);
    put(w, "]");
    if (a->caller == API_CALLER_SCHEDULER)
        put_uses(w, u);
    put(w, ",\"usage\":");
    put_usage(w, u);
    put(w, "}\n\n");
    return writer.full ? RC_FULL : RC_OK;
}

enum rc api_write_leaving(struct strbuf *b, int64_t ms)
{
    return strbuf_printf(b, "data: {\"spillway_leaving_ms\":%lld}\n\n", (long long)ms);
}

enum rc api_write_done(struct strbuf *b)
{
    struct writer writer = {.b = b}, *w = &writer;
    put(w, "data: [DONE]\n\n");
    return writer.full ? RC_FULL : RC_OK;
}

enum rc api_write_body_begin(struct strbuf *b, const struct api_answer *a)
{
    struct writer writer = {.b = b}, *w = &writer;
    put_head(w, a, a->kind == API_CHAT ? "chat.completion" : "text_completion");
    put(w, ",\"choices\":[");
    return writer.full ? RC_FULL : RC_OK;
}

enum rc api_write_body_choice(struct strbuf *b, const struct api_answer *a, const struct batch_output *out)
{
    struct writer writer = {.b = b}, *w = &writer;
    size_t text_offset = out->echo_characters;
    put_format(w, a->index ? ",{\"index\":%d," : "{\"index\":%d,", a->index);
    if (a->kind == API_CHAT) {
        put(w, "\"message\":{\"role\":\"assistant\",");
        if (out->reasoning.len) {
            put(w, "\"reasoning_content\":");
            put_string(w, out->reasoning.data, out->reasoning.len);
            put(w, ",");
        }
        put(w, "\"content\":");
        put_string(w, out->content.len ? out->content.data : "", out->content.len);
        put(w, ",\"refusal\":null}");
    } else {
        put(w, "\"text\":");
        put_string(w, out->content.len ? out->content.data : "", out->content.len);
    }
    put(w, ",\"logprobs\":");
    put_logprobs(w, a, out, &text_offset);
    put(w, ",\"finish_reason\":");
    put(w, finish_name(out->finish));
    put(w, "}");
    return writer.full ? RC_FULL : RC_OK;
}

enum rc api_write_body_end(struct strbuf *b, const struct batch_usage *u)
{
    struct writer writer = {.b = b}, *w = &writer;
    put(w, "],\"usage\":");
    put_usage(w, u);
    put(w, "}");
    return writer.full ? RC_FULL : RC_OK;
}

static void put_model(struct writer *w, const struct api_model_card *m)
{
    put(w, "{\"id\":");
    put_cstring(w, m->id);
    put_format(w, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"spillway\",\"max_model_len\":%d",
               (long long)m->created, (int)m->n_ctx);
    if (m->caller == API_CALLER_SCHEDULER)
        put_format(w,
                   ",\"spillway_numerics\":\"%s\",\"spillway_resume\":true,\"spillway_context\":%d,"
                   "\"spillway_slots\":%d,\"spillway_kv_tokens\":%lld",
                   m->numerics, (int)m->n_ctx, (int)m->n_slots, (long long)m->kv_tokens);
    put(w, "}");
}

enum rc api_write_model(struct strbuf *b, const struct api_model_card *m)
{
    struct writer writer = {.b = b}, *w = &writer;
    put_model(w, m);
    return writer.full ? RC_FULL : RC_OK;
}

enum rc api_write_models(struct strbuf *b, const struct api_model_card *m)
{
    struct writer writer = {.b = b}, *w = &writer;
    put(w, "{\"object\":\"list\",\"data\":[");
    put_model(w, m);
    put(w, "]}");
    return writer.full ? RC_FULL : RC_OK;
}
