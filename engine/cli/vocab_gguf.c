#include "engine/cli/vocab_gguf.h"

#include <stdlib.h>

#include "base/alloc.h"

/* The first error sticks. */
struct loader {
    const struct gguf *g;
    enum rc rc;
    struct error *e;
};

static bool found(struct loader *l, enum rc rc)
{
    if (rc && rc != RC_NOT_FOUND && !l->rc)
        l->rc = rc;
    return rc == RC_OK;
}

/* Look-ups write their text only while no earlier one stands. */
static struct error *text(struct loader *l)
{
    return l->rc ? NULL : l->e;
}

static struct text_span get_span(struct loader *l, const char *key)
{
    struct gguf_str s;
    if (!found(l, gguf_get_str(l->g, key, &s, text(l))))
        return (struct text_span){0};
    return (struct text_span){.ptr = s.s, .len = s.n};
}

static int64_t get_id(struct loader *l, const char *key)
{
    uint64_t v;
    if (!found(l, gguf_get_u64(l->g, key, &v, text(l))))
        return -1;
    return v > INT64_MAX ? INT64_MAX : (int64_t)v; /* vocab_new() refuses what is out of range */
}

static int get_switch(struct loader *l, const char *key)
{
    bool v;
    return found(l, gguf_get_bool(l->g, key, &v, text(l))) ? v : -1;
}

/* An array of strings as spans; NULL when the key is missing. Caller frees. */
static struct text_span *get_spans(struct loader *l, const char *key, size_t *n)
{
    struct gguf_array a;
    if (!found(l, gguf_get_array(l->g, key, &a, text(l))))
        return NULL;
    if (a.type != GGUF_STRING) {
        found(l, error_set(text(l), RC_INVALID, "key %s: is not an array of strings", key));
        return NULL;
    }
    struct text_span *spans = spw_calloc(a.n ? (size_t)a.n : 1, sizeof *spans);
    for (uint64_t i = 0; i < a.n; i++)
        spans[i] = (struct text_span){.ptr = a.strs[i].s, .len = a.strs[i].n};
    *n = (size_t)a.n;
    return spans;
}

static float *get_floats(struct loader *l, const char *key, size_t *n)
{
    struct gguf_array a;
    if (!found(l, gguf_get_array(l->g, key, &a, text(l))))
        return NULL;
    if (a.type != GGUF_F32 && a.type != GGUF_F64) {
        found(l, error_set(text(l), RC_INVALID, "key %s: is not an array of floats", key));
        return NULL;
    }
    float *v = spw_calloc(a.n ? (size_t)a.n : 1, sizeof *v);
    for (uint64_t i = 0; i < a.n; i++)
        v[i] = (float)gguf_array_f64(&a, i);
    *n = (size_t)a.n;
    return v;
}

static int32_t *get_types(struct loader *l, const char *key, size_t *n)
{
    struct gguf_array a;
    if (!found(l, gguf_get_array(l->g, key, &a, text(l))))
        return NULL;
    if (a.type == GGUF_F32 || a.type == GGUF_F64 || a.type == GGUF_STRING) {
        found(l, error_set(text(l), RC_INVALID, "key %s: is not an array of integers", key));
        return NULL;
    }
    int32_t *v = spw_calloc(a.n ? (size_t)a.n : 1, sizeof *v);
    for (uint64_t i = 0; i < a.n; i++)
        v[i] = (int32_t)gguf_array_i64(&a, i);
    *n = (size_t)a.n;
    return v;
}

enum rc vocab_from_gguf(struct vocab **v, const struct gguf *g, struct error *e)
{
    struct loader l = {.g = g, .e = e};
    struct vocab_source src;
    vocab_source_init(&src);
    src.model = get_span(&l, "tokenizer.ggml.model");
    src.pre = get_span(&l, "tokenizer.ggml.pre");
    struct text_span *tokens = get_spans(&l, "tokenizer.ggml.tokens", &src.n_tokens);
    struct text_span *merges = get_spans(&l, "tokenizer.ggml.merges", &src.n_merges);
    float *scores = get_floats(&l, "tokenizer.ggml.scores", &src.n_scores);
    int32_t *types = get_types(&l, "tokenizer.ggml.token_type", &src.n_types);
    src.tokens = tokens;
    src.merges = merges;
    src.scores = scores;
    src.types = types;
    src.bos = get_id(&l, "tokenizer.ggml.bos_token_id");
    src.eos = get_id(&l, "tokenizer.ggml.eos_token_id");
    src.eot = get_id(&l, "tokenizer.ggml.eot_token_id");
    src.unk = get_id(&l, "tokenizer.ggml.unknown_token_id");
    src.pad = get_id(&l, "tokenizer.ggml.padding_token_id");
    src.add_bos = get_switch(&l, "tokenizer.ggml.add_bos_token");
    src.add_eos = get_switch(&l, "tokenizer.ggml.add_eos_token");
    src.add_space_prefix = get_switch(&l, "tokenizer.ggml.add_space_prefix");
    enum rc rc = l.rc;
    if (!rc && !tokens)
        rc = error_set(e, RC_INVALID, "the file brings no vocabulary: key tokenizer.ggml.tokens is missing");
    if (!rc)
        rc = vocab_new(&src, v, e);
    free(tokens);
    free(merges);
    free(scores);
    free(types);
    return rc;
}

enum rc chat_template_from_gguf(const struct chat_template **t, const struct gguf *g, const char *name, struct error *e)
{
    struct gguf_str s = {.s = "", .n = 0};
    if (name)
        return chat_template_get(name, t, e);
    enum rc rc = gguf_get_str(g, "tokenizer.chat_template", &s, e);
    if (rc && rc != RC_NOT_FOUND)
        return rc;
    return chat_template_detect(s.s, s.n, t, e);
}
