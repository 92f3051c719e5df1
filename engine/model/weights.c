/* Tensors -> their places in the layers. Each has the shape that the keys promise and a type that the kernels can
 * multiply, or the model is refused. Weights stay in the mapping, except what has to be another shape:
 *
 *   vectors that are not F32 (norms, biases)      converted, a few KB
 *   attn_kv_b of old DeepSeek files               per head [nope | v] rows: v rows copied as they are, nope rows
 *                                                 dequantised and transposed to F32, as newer files hold them */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "engine/model/model_internal.h"

/* The first error sticks, as in hparams.c. */
struct binder {
    struct model *m;
    int32_t layer; /* -1: tensors that belong to no layer */
    enum rc rc;
    struct error *e;
};

static void fail(struct binder *b, enum rc code, const char *name, const char *format, ...) SPW_PRINTF(4, 5);
static void fail(struct binder *b, enum rc code, const char *name, const char *format, ...)
{
    char text[256];
    va_list ap;
    if (b->rc)
        return;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    b->rc = error_set(b->e, code, "%s: tensor %s: %s", b->m->path, name, text);
}

static const char *full_name(const struct binder *b, char buf[96], const char *name)
{
    if (b->layer < 0)
        snprintf(buf, 96, "%s", name);
    else
        snprintf(buf, 96, "blk.%d.%s", b->layer, name);
    return buf;
}

static bool has(const struct binder *b, const char *name)
{
    char full[96];
    return gguf_find_tensor(b->m->gguf, full_name(b, full, name)) != NULL;
}

static void *own(struct model *m, size_t count, size_t bytes)
{
    m->owned = spw_realloc(m->owned, (m->n_owned + 1) * sizeof *m->owned);
    void *p = spw_calloc(count, bytes);
    m->owned[m->n_owned++] = p;
    return p;
}

/* The tensor `name` of shape [ne0, ne1, ne2]; a zeroed one after an error. */
static struct k_tensor get(struct binder *b, const char *name, int64_t ne0, int64_t ne1, int64_t ne2)
{
    char full[96];
    const struct k_tensor *t = gguf_find_tensor(b->m->gguf, full_name(b, full, name));
    if (!t) {
        fail(b, RC_INVALID, full, "is missing");
        return (struct k_tensor){0};
    }
    if (t->ne[0] != ne0 || t->ne[1] != ne1 || t->ne[2] != ne2 || t->ne[3] != 1) {
        fail(b, RC_INVALID, full,
             "is [%" PRId64 ", %" PRId64 ", %" PRId64 "], but the keys say [%" PRId64 ", %" PRId64 ", %" PRId64 "]",
             t->ne[0], t->ne[1], t->ne[2], ne0, ne1, ne2);
        return (struct k_tensor){0};
    }
    const struct k_type_info *info = k_type_info(t->type);
    if (!info->supported) {
        fail(b, RC_UNSUPPORTED, full, "type %s is not supported", info->name);
        return (struct k_tensor){0};
    }
    return *t;
}

/* A vector of n float32. */
static const float *get_vector(struct binder *b, const char *name, int32_t n)
{
    char full[96];
    struct k_tensor t = get(b, name, n, 1, 1);
    if (!t.data || t.type == K_F32)
        return t.data;
    float *v = own(b->m, (size_t)n, sizeof *v);
    if (k_dequantise(v, t.data, t.type, n) != K_OK)
        fail(b, RC_UNSUPPORTED, full_name(b, full, name), "type cannot be converted to F32");
    return v;
}

static const float *get_vector_if(struct binder *b, const char *name, int32_t n)
{
    return has(b, name) ? get_vector(b, name, n) : NULL;
}

static void bind_gqa(struct binder *b, struct layer *l, const struct hparams *hp)
{
    int32_t q = hp->n_head * hp->d_k, k = hp->n_kv_head * hp->d_k, v = hp->n_kv_head * hp->d_v;
    l->wq = get(b, "attn_q.weight", hp->n_embd, q, 1);
    l->wk = get(b, "attn_k.weight", hp->n_embd, k, 1);
    l->wv = get(b, "attn_v.weight", hp->n_embd, v, 1);
    l->wo = get(b, "attn_output.weight", hp->n_head * hp->d_v, hp->n_embd, 1);
    bool bias = hp->arch == ARCH_QWEN2;
    l->bq = bias ? get_vector(b, "attn_q.bias", q) : get_vector_if(b, "attn_q.bias", q);
    l->bk = bias ? get_vector(b, "attn_k.bias", k) : get_vector_if(b, "attn_k.bias", k);
    l->bv = bias ? get_vector(b, "attn_v.bias", v) : get_vector_if(b, "attn_v.bias", v);
    if (hp->qk_norm) {
        l->q_norm = get_vector(b, "attn_q_norm.weight", hp->d_k);
        l->k_norm = get_vector(b, "attn_k_norm.weight", hp->d_k);
    }
}

/* Rows of head h in attn_kv_b: d_nope rows of the key part, then d_v rows of the value part, each kv_lora long. */
static void split_kv_b(struct binder *b, struct layer *l, const struct hparams *hp)
{
    int32_t nope = hp->d_k - hp->rope.d_rope, kl = hp->kv_lora;
    struct k_tensor t = get(b, "attn_kv_b.weight", kl, (int64_t)hp->n_head * (nope + hp->d_v), 1);
    if (!t.data)
        return;
    size_t row = k_row_bytes(t.type, (uint64_t)kl);
    uint8_t *v = own(b->m, (size_t)hp->n_head * (size_t)hp->d_v, row);
    float *k = own(b->m, (size_t)hp->n_head * (size_t)nope * (size_t)kl, sizeof *k);
    float *line = spw_calloc((size_t)kl, sizeof *line);
    const uint8_t *src = t.data;
    for (int32_t h = 0; h < hp->n_head && !b->rc; h++) {
        float *kh = k + (size_t)h * (size_t)nope * (size_t)kl; /* [kl][nope] */
        for (int32_t i = 0; i < nope; i++, src += row) {
            if (k_dequantise(line, src, t.type, kl) != K_OK)
                fail(b, RC_UNSUPPORTED, "attn_kv_b.weight", "type cannot be converted to F32");
            for (int32_t j = 0; j < kl; j++)
                kh[(size_t)j * (size_t)nope + (size_t)i] = line[j];
        }
        memcpy(v + (size_t)h * (size_t)hp->d_v * row, src, (size_t)hp->d_v * row);
        src += (size_t)hp->d_v * row;
    }
    free(line);
    l->wk_b = (struct k_tensor){.data = k, .type = K_F32, .ne = {nope, kl, hp->n_head, 1}};
    l->wv_b = (struct k_tensor){.data = v, .type = t.type, .ne = {kl, hp->d_v, hp->n_head, 1}};
}

static void bind_mla(struct binder *b, struct layer *l, const struct hparams *hp)
{
    int32_t rope = hp->rope.d_rope, nope = hp->d_k - rope, q = hp->n_head * hp->d_k;
    if (hp->q_lora > 0) {
        l->wq_a = get(b, "attn_q_a.weight", hp->n_embd, hp->q_lora, 1);
        l->q_a_norm = get_vector(b, "attn_q_a_norm.weight", hp->q_lora);
        l->wq_b = get(b, "attn_q_b.weight", hp->q_lora, q, 1);
    } else {
        l->wq = get(b, "attn_q.weight", hp->n_embd, q, 1);
    }
    l->wkv_a = get(b, "attn_kv_a_mqa.weight", hp->n_embd, hp->kv_lora + rope, 1);
    l->kv_a_norm = get_vector(b, "attn_kv_a_norm.weight", hp->kv_lora);
    if (has(b, "attn_kv_b.weight") && !has(b, "attn_k_b.weight")) {
        split_kv_b(b, l, hp);
    } else {
        l->wk_b = get(b, "attn_k_b.weight", nope, hp->kv_lora, hp->n_head);
        l->wv_b = get(b, "attn_v_b.weight", hp->kv_lora, hp->d_v, hp->n_head);
    }
    l->wo = get(b, "attn_output.weight", hp->n_head * hp->d_v, hp->n_embd, 1);
}

static void bind_ffn(struct binder *b, struct layer *l, const struct hparams *hp)
{
    l->gate = get(b, "ffn_gate.weight", hp->n_embd, hp->n_ff, 1);
    l->up = get(b, "ffn_up.weight", hp->n_embd, hp->n_ff, 1);
    l->down = get(b, "ffn_down.weight", hp->n_ff, hp->n_embd, 1);
}

static void bind_moe(struct binder *b, struct layer *l, const struct hparams *hp)
{
    int32_t shared = hp->n_shared * hp->n_ff_exp;
    l->router = get(b, "ffn_gate_inp.weight", hp->n_embd, hp->n_expert, 1);
    l->router_bias = get_vector_if(b, "exp_probs_b.bias", hp->n_expert);
    /* A sigmoid gate without its selection bias chooses other experts: fluent nonsense, worse than a refusal. */
    if (hp->router.gating == K_GATE_SIGMOID && !l->router_bias)
        fail(b, RC_INVALID, "exp_probs_b.bias", "is missing in layer %d: convert the model again", b->layer);
    l->gate_exps = get(b, "ffn_gate_exps.weight", hp->n_embd, hp->n_ff_exp, hp->n_expert);
    l->up_exps = get(b, "ffn_up_exps.weight", hp->n_embd, hp->n_ff_exp, hp->n_expert);
    l->down_exps = get(b, "ffn_down_exps.weight", hp->n_ff_exp, hp->n_embd, hp->n_expert);
    if (shared > 0) {
        l->gate = get(b, "ffn_gate_shexp.weight", hp->n_embd, shared, 1);
        l->up = get(b, "ffn_up_shexp.weight", hp->n_embd, shared, 1);
        l->down = get(b, "ffn_down_shexp.weight", shared, hp->n_embd, 1);
    }
}

enum rc weights_bind(struct model *m, struct error *e)
{
    const struct hparams *hp = &m->hp;
    struct binder b = {.m = m, .layer = -1, .e = e};
    m->embd = get(&b, "token_embd.weight", hp->n_embd, hp->n_vocab, 1);
    m->output_norm = get_vector(&b, "output_norm.weight", hp->n_embd);
    m->output = has(&b, "output.weight") ? get(&b, "output.weight", hp->n_embd, hp->n_vocab, 1) : m->embd;
    m->layers = spw_calloc((size_t)hp->n_layer, sizeof *m->layers);
    for (int32_t i = 0; i < hp->n_layer && !b.rc; i++) {
        struct layer *l = &m->layers[i];
        b.layer = i;
        l->attn_norm = get_vector(&b, "attn_norm.weight", hp->n_embd);
        l->ffn_norm = get_vector(&b, "ffn_norm.weight", hp->n_embd);
        if (hp->mla)
            bind_mla(&b, l, hp);
        else
            bind_gqa(&b, l, hp);
        if (i < hp->n_dense_lead)
            bind_ffn(&b, l, hp);
        else
            bind_moe(&b, l, hp);
    }
    return b.rc;
}
