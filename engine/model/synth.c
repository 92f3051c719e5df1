/* Plan the tensors of a shape, choose each one's type as the usual mixtures do, and stream random weights.
 *
 * A matrix with fan-in n has elements of standard deviation gain / sqrt(n), so that a unit input gives an output of
 * about `gain`; gains of what is added to the residual stream are below 1. Weights are drawn from a pool of 1024 tiles
 * of 256 elements, quantised for each matrix's own scale and picked at random: as fast as the disk, and no two rows
 * alike. */
#include "engine/model/synth.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/fnv.h"

#define TILE       256
#define POOL_TILES 1024

/* ---- shapes ---- */

#define FIELD(member, lo_, hi_, required_)                                                                             \
    {                                                                                                                  \
        .name = #member, .offset = offsetof(struct synth_shape, member), .lo = (lo_), .hi = (hi_),                     \
        .required = (required_)                                                                                        \
    }
const struct synth_field synth_fields[] = {
    FIELD(n_layer, 1, 1024, true),      FIELD(n_embd, 1, 1 << 16, true),    FIELD(n_head, 1, 1024, true),
    FIELD(n_kv_head, 1, 1024, false),   FIELD(n_ff, 1, 1 << 20, true),      FIELD(n_vocab, 280, 1 << 22, true),
    FIELD(n_ctx, 1, 1 << 26, true),     FIELD(tied, 0, 1, false),           FIELD(llama3_rope, 0, 1, false),
    FIELD(q_lora, 0, 16384, false),     FIELD(kv_lora, 0, 8192, false),     FIELD(d_nope, 0, 1022, false),
    FIELD(d_rope, 0, 1022, false),      FIELD(d_v, 0, 1024, false),         FIELD(n_dense_lead, 0, 1024, false),
    FIELD(n_expert, 0, 1024, false),    FIELD(n_used, 0, 64, false),        FIELD(n_shared, 0, 64, false),
    FIELD(n_ff_exp, 0, 1 << 18, false), FIELD(sigmoid, 0, 1, false),        FIELD(weights_norm, 0, 1, false),
    FIELD(n_group, 0, 256, false),      FIELD(n_group_used, 0, 256, false), FIELD(yarn_orig, 0, 1 << 26, false),
    FIELD(legacy_kv_b, 0, 1, false),
};
const int synth_n_fields = sizeof synth_fields / sizeof synth_fields[0];

/* Published configurations: Qwen2.5 as distilled from R1, Llama 3.1, DeepSeek-V2-Lite, DeepSeek-V3. */
static const struct synth_shape shapes[] = {
    {.name = "qwen2-1.5b",
     .arch = "qwen2",
     .n_layer = 28,
     .n_embd = 1536,
     .n_head = 12,
     .n_kv_head = 2,
     .n_ff = 8960,
     .n_vocab = 151936,
     .n_ctx = 131072,
     .rope_base = 10000,
     .eps = 1e-6},
    {.name = "qwen2-7b",
     .arch = "qwen2",
     .n_layer = 28,
     .n_embd = 3584,
     .n_head = 28,
     .n_kv_head = 4,
     .n_ff = 18944,
     .n_vocab = 152064,
     .n_ctx = 131072,
     .rope_base = 10000,
     .eps = 1e-6},
    {.name = "llama-8b",
     .arch = "llama",
     .n_layer = 32,
     .n_embd = 4096,
     .n_head = 32,
     .n_kv_head = 8,
     .n_ff = 14336,
     .n_vocab = 128256,
     .n_ctx = 131072,
     .rope_base = 500000,
     .eps = 1e-5,
     .llama3_rope = 1},
    {.name = "deepseek-v2-lite",
     .arch = "deepseek2",
     .n_layer = 27,
     .n_embd = 2048,
     .n_head = 16,
     .n_ff = 10944,
     .n_vocab = 102400,
     .n_ctx = 163840,
     .rope_base = 10000,
     .eps = 1e-6,
     .kv_lora = 512,
     .d_nope = 128,
     .d_rope = 64,
     .d_v = 128,
     .n_dense_lead = 1,
     .n_expert = 64,
     .n_used = 6,
     .n_shared = 2,
     .n_ff_exp = 1408,
     .weights_scale = 1,
     .yarn_orig = 4096,
     .yarn_factor = 40,
     .yarn_mscale = 0.707},
    {.name = "deepseek-v3",
     .arch = "deepseek2",
     .n_layer = 61,
     .n_embd = 7168,
     .n_head = 128,
     .n_ff = 18432,
     .n_vocab = 129280,
     .n_ctx = 163840,
     .rope_base = 10000,
     .eps = 1e-6,
     .q_lora = 1536,
     .kv_lora = 512,
     .d_nope = 128,
     .d_rope = 64,
     .d_v = 128,
     .n_dense_lead = 3,
     .n_expert = 256,
     .n_used = 8,
     .n_shared = 1,
     .n_ff_exp = 2048,
     .sigmoid = 1,
     .weights_norm = 1,
     .n_group = 8,
     .n_group_used = 4,
     .weights_scale = 2.5,
     .yarn_orig = 4096,
     .yarn_factor = 40,
     .yarn_mscale = 1},
};

const struct synth_shape *synth_shape_at(int i)
{
    return i >= 0 && i < (int)(sizeof shapes / sizeof shapes[0]) ? &shapes[i] : NULL;
}

const struct synth_shape *synth_shape_find(const char *name)
{
    for (int i = 0; synth_shape_at(i); i++)
        if (strcmp(shapes[i].name, name) == 0)
            return &shapes[i];
    return NULL;
}

static bool is_deepseek(const struct synth_shape *s)
{
    return strcmp(s->arch, "deepseek2") == 0;
}

enum rc synth_shape_check(const struct synth_shape *s, struct error *e)
{
    if (!s->arch || (strcmp(s->arch, "llama") != 0 && strcmp(s->arch, "qwen2") != 0 && !is_deepseek(s)))
        return error_set(e, RC_INVALID, "arch is \"%s\", not llama, qwen2 or deepseek2", s->arch ? s->arch : "");
    for (int i = 0; i < synth_n_fields; i++) {
        const struct synth_field *f = &synth_fields[i];
        int64_t v;
        memcpy(&v, (const char *)s + f->offset, sizeof v);
        if ((f->required || v != 0) && (v < f->lo || v > f->hi))
            return error_set(e, RC_INVALID, "%s is %" PRId64 ", not %" PRId64 " to %" PRId64, f->name, v, f->lo, f->hi);
    }
    if (!is_deepseek(s)) {
        if (s->n_kv_head < 1 || s->n_head % s->n_kv_head || s->n_embd % s->n_head || s->n_embd / s->n_head % 2)
            return error_set(e, RC_INVALID, "n_kv_head has to divide n_head, and n_head to cut n_embd into even heads");
        return RC_OK;
    }
    if (s->kv_lora < 1 || s->d_nope < 1 || s->d_rope < 2 || s->d_rope % 2 || s->d_v < 1)
        return error_set(e, RC_INVALID, "deepseek2 needs kv_lora, d_nope, d_v and an even d_rope");
    if (s->n_expert > 0 && (s->n_used < 1 || s->n_used > s->n_expert || s->n_ff_exp < 1))
        return error_set(e, RC_INVALID, "n_used is %" PRId64 ", not 1 to n_expert, or n_ff_exp is missing", s->n_used);
    return RC_OK;
}

/* ---- the plan ---- */

enum kind { MATRIX, NORM, VECTOR, ROPE_FACTORS };

struct planned {
    char name[64];
    struct k_tensor t;
    enum kind kind;
    float deviation;
};

struct plan {
    const struct synth_shape *s;
    enum synth_type type;
    struct planned *tensors; /* owned */
    size_t n, cap;
    int64_t layer; /* -1: outside the layers */
};

static struct planned *add(struct plan *p, const char *name, enum kind kind, int64_t ne0, int64_t ne1, int64_t ne2)
{
    if (p->n == p->cap) {
        p->cap = p->cap ? 2 * p->cap : 256;
        p->tensors = spw_realloc(p->tensors, p->cap * sizeof *p->tensors);
    }
    struct planned *t = &p->tensors[p->n++];
    *t = (struct planned){.kind = kind, .t = {.type = K_F32, .ne = {ne0, ne1, ne2, 1}}};
    if (p->layer < 0)
        snprintf(t->name, sizeof t->name, "%s", name);
    else
        snprintf(t->name, sizeof t->name, "blk.%d.%s", (int)p->layer, name);
    return t;
}

/* The layers in which a "medium" mixture gives the sensitive matrices more bits: first and last eighth, every third. */
static bool more_bits(const struct plan *p)
{
    int64_t n = p->s->n_layer, i = p->layer;
    return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
}

/* A row that the type's blocks do not divide gets the type that files of this mixture have in its place. */
static enum k_type matrix_type(const struct plan *p, int64_t ne0, bool sensitive, bool output)
{
    static const enum k_type plain[] = {[SYNTH_F32] = K_F32,   [SYNTH_F16] = K_F16,   [SYNTH_BF16] = K_BF16,
                                        [SYNTH_Q8_0] = K_Q8_0, [SYNTH_Q4_0] = K_Q4_0, [SYNTH_Q4_K_M] = K_Q4_K};
    enum k_type t = plain[p->type];
    if (p->type == SYNTH_Q4_K_M && (output || (sensitive && more_bits(p))))
        t = K_Q6_K;
    if (p->type == SYNTH_Q4_0 && output)
        t = K_Q6_K;
    if (ne0 % 256 && t == K_Q4_K)
        t = K_Q5_0;
    if (ne0 % 256 && t == K_Q6_K)
        t = K_Q8_0;
    return ne0 % 32 && t != K_F32 && t != K_BF16 ? K_F16 : t;
}

static void add_matrix(struct plan *p, const char *name, int64_t ne0, int64_t ne1, int64_t ne2, double gain)
{
    bool sensitive = strstr(name, "attn_v") || strstr(name, "ffn_down");
    struct planned *t = add(p, name, MATRIX, ne0, ne1, ne2);
    t->t.type = matrix_type(p, ne0, sensitive, strncmp(name, "output", 6) == 0);
    t->deviation = (float)(gain / sqrt((double)ne0));
}

static void add_vector(struct plan *p, const char *name, int64_t n, double deviation)
{
    add(p, name, VECTOR, n, 1, 1)->deviation = (float)deviation;
}

static void plan_gqa(struct plan *p)
{
    const struct synth_shape *s = p->s;
    int64_t kv = s->n_embd / s->n_head * s->n_kv_head;
    add_matrix(p, "attn_q.weight", s->n_embd, s->n_embd, 1, 1.3);
    add_matrix(p, "attn_k.weight", s->n_embd, kv, 1, 1.3);
    add_matrix(p, "attn_v.weight", s->n_embd, kv, 1, 1.2);
    if (strcmp(s->arch, "qwen2") == 0) {
        add_vector(p, "attn_q.bias", s->n_embd, 0.5);
        add_vector(p, "attn_k.bias", kv, 0.5);
        add_vector(p, "attn_v.bias", kv, 0.3);
    }
    add_matrix(p, "attn_output.weight", s->n_embd, s->n_embd, 1, 0.8);
}

static void plan_mla(struct plan *p)
{
    const struct synth_shape *s = p->s;
    int64_t q = s->n_head * (s->d_nope + s->d_rope);
    if (s->q_lora > 0) {
        add_matrix(p, "attn_q_a.weight", s->n_embd, s->q_lora, 1, 1.0);
        add(p, "attn_q_a_norm.weight", NORM, s->q_lora, 1, 1);
        add_matrix(p, "attn_q_b.weight", s->q_lora, q, 1, 1.3);
    } else {
        add_matrix(p, "attn_q.weight", s->n_embd, q, 1, 1.3);
    }
    add_matrix(p, "attn_kv_a_mqa.weight", s->n_embd, s->kv_lora + s->d_rope, 1, 1.3);
    add(p, "attn_kv_a_norm.weight", NORM, s->kv_lora, 1, 1);
    if (s->legacy_kv_b) {
        add_matrix(p, "attn_kv_b.weight", s->kv_lora, s->n_head * (s->d_nope + s->d_v), 1, 1.3);
    } else {
        add_matrix(p, "attn_k_b.weight", s->d_nope, s->kv_lora, s->n_head, 1.3);
        add_matrix(p, "attn_v_b.weight", s->kv_lora, s->d_v, s->n_head, 1.3);
    }
    add_matrix(p, "attn_output.weight", s->n_head * s->d_v, s->n_embd, 1, 0.8);
}

static void plan_ffn(struct plan *p)
{
    const struct synth_shape *s = p->s;
    int64_t h = s->n_embd, shared = s->n_shared * s->n_ff_exp;
    if (s->n_expert == 0 || p->layer < s->n_dense_lead) {
        add_matrix(p, "ffn_gate.weight", h, s->n_ff, 1, 1.3);
        add_matrix(p, "ffn_up.weight", h, s->n_ff, 1, 1.3);
        add_matrix(p, "ffn_down.weight", s->n_ff, h, 1, 0.8);
        return;
    }
    struct planned *router = add(p, "ffn_gate_inp.weight", MATRIX, h, s->n_expert, 1);
    router->deviation = (float)(2.0 / sqrt((double)h)); /* F32 in every mixture */
    if (s->sigmoid)
        add_vector(p, "exp_probs_b.bias", s->n_expert, 0.05);
    add_matrix(p, "ffn_gate_exps.weight", h, s->n_ff_exp, s->n_expert, 1.3);
    add_matrix(p, "ffn_up_exps.weight", h, s->n_ff_exp, s->n_expert, 1.3);
    add_matrix(p, "ffn_down_exps.weight", s->n_ff_exp, h, s->n_expert, 0.8);
    if (shared > 0) {
        add_matrix(p, "ffn_gate_shexp.weight", h, shared, 1, 1.3);
        add_matrix(p, "ffn_up_shexp.weight", h, shared, 1, 1.3);
        add_matrix(p, "ffn_down_shexp.weight", shared, h, 1, 0.8);
    }
}

static void plan_all(struct plan *p)
{
    const struct synth_shape *s = p->s;
    p->layer = -1;
    /* Embeddings of unit size; tied ones also have to give logits of a few units. */
    add_matrix(p, "token_embd.weight", s->n_embd, s->n_vocab, 1, s->tied ? 3.0 : sqrt((double)s->n_embd));
    add(p, "output_norm.weight", NORM, s->n_embd, 1, 1);
    if (!s->tied)
        add_matrix(p, "output.weight", s->n_embd, s->n_vocab, 1, 3.0);
    if (s->llama3_rope)
        add(p, "rope_freqs.weight", ROPE_FACTORS, s->n_embd / s->n_head / 2, 1, 1);
    for (p->layer = 0; p->layer < s->n_layer; p->layer++) {
        add(p, "attn_norm.weight", NORM, s->n_embd, 1, 1);
        if (is_deepseek(s))
            plan_mla(p);
        else
            plan_gqa(p);
        add(p, "ffn_norm.weight", NORM, s->n_embd, 1, 1);
        plan_ffn(p);
    }
}

/* ---- keys ---- */

static void put_u32(struct gguf_writer *w, const struct synth_shape *s, const char *key, int64_t v)
{
    char full[96];
    snprintf(full, sizeof full, "%s.%s", s->arch, key);
    gguf_put_u32(w, full, (uint32_t)v);
}
static void put_f32(struct gguf_writer *w, const struct synth_shape *s, const char *key, double v)
{
    char full[96];
    snprintf(full, sizeof full, "%s.%s", s->arch, key);
    gguf_put_f32(w, full, (float)v);
}

static void put_deepseek_keys(struct gguf_writer *w, const struct synth_shape *s)
{
    put_u32(w, s, "leading_dense_block_count", s->n_expert ? s->n_dense_lead : s->n_layer);
    put_u32(w, s, "attention.q_lora_rank", s->q_lora); /* 0, too: llama.cpp wants it of all but 27 layers */
    put_u32(w, s, "attention.kv_lora_rank", s->kv_lora);
    if (s->legacy_kv_b) {
        put_u32(w, s, "attention.key_length", s->d_nope + s->d_rope);
        put_u32(w, s, "attention.value_length", s->d_v);
    } else {
        put_u32(w, s, "attention.key_length", s->kv_lora + s->d_rope);
        put_u32(w, s, "attention.value_length", s->kv_lora);
        put_u32(w, s, "attention.key_length_mla", s->d_nope + s->d_rope);
        put_u32(w, s, "attention.value_length_mla", s->d_v);
    }
    put_u32(w, s, "rope.dimension_count", s->d_rope);
    if (s->n_expert) {
        put_u32(w, s, "expert_count", s->n_expert);
        put_u32(w, s, "expert_used_count", s->n_used);
        put_u32(w, s, "expert_shared_count", s->n_shared);
        put_u32(w, s, "expert_feed_forward_length", s->n_ff_exp);
        put_u32(w, s, "expert_gating_func", s->sigmoid ? K_GATE_SIGMOID : K_GATE_SOFTMAX);
        put_f32(w, s, "expert_weights_scale", s->weights_scale > 0 ? s->weights_scale : 1.0);
        if (s->weights_norm)
            gguf_put_bool(w, "deepseek2.expert_weights_norm", true);
        if (s->n_group > 1) {
            put_u32(w, s, "expert_group_count", s->n_group);
            put_u32(w, s, "expert_group_used_count", s->n_group_used);
        }
    }
    if (s->yarn_orig) {
        gguf_put_str(w, "deepseek2.rope.scaling.type", "yarn");
        put_f32(w, s, "rope.scaling.factor", s->yarn_factor);
        put_u32(w, s, "rope.scaling.original_context_length", s->yarn_orig);
        put_f32(w, s, "rope.scaling.yarn_log_multiplier", 0.1 * s->yarn_mscale);
    }
}

static void put_keys(struct gguf_writer *w, const struct synth_shape *s, enum synth_type type)
{
    static const struct {
        const char *name;
        uint32_t file_type;
    } types[] = {[SYNTH_F32] = {"F32", 0},   [SYNTH_F16] = {"F16", 1},   [SYNTH_BF16] = {"BF16", 32},
                 [SYNTH_Q8_0] = {"Q8_0", 7}, [SYNTH_Q4_0] = {"Q4_0", 2}, [SYNTH_Q4_K_M] = {"Q4_K_M", 15}};
    char name[128];
    snprintf(name, sizeof name, "synth-%s-%s", s->name ? s->name : s->arch, types[type].name);
    gguf_put_str(w, "general.architecture", s->arch);
    gguf_put_str(w, "general.name", name);
    gguf_put_u32(w, "general.file_type", types[type].file_type);
    gguf_put_u32(w, "general.quantization_version", 2);
    put_u32(w, s, "block_count", s->n_layer);
    put_u32(w, s, "context_length", s->n_ctx);
    put_u32(w, s, "embedding_length", s->n_embd);
    put_u32(w, s, "feed_forward_length", s->n_ff);
    put_u32(w, s, "attention.head_count", s->n_head);
    put_u32(w, s, "attention.head_count_kv", is_deepseek(s) ? 1 : s->n_kv_head);
    put_u32(w, s, "vocab_size", s->n_vocab);
    put_f32(w, s, "attention.layer_norm_rms_epsilon", s->eps > 0 ? s->eps : 1e-6);
    put_f32(w, s, "rope.freq_base", s->rope_base > 0 ? s->rope_base : 10000.0);
    if (is_deepseek(s))
        put_deepseek_keys(w, s);
    synth_put_vocab(w, s->arch, s->n_vocab);
}

/* ---- weights ---- */

/* SplitMix64 (Steele, Lea and Flood 2014). */
static uint64_t next(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Standard normal (Box and Muller 1958). */
static float normal(uint64_t *state)
{
    double u = ((double)(next(state) >> 11) + 1.0) * 0x1p-53, v = (double)(next(state) >> 11) * 0x1p-53;
    return (float)(sqrt(-2.0 * log(u)) * cos(2.0 * M_PI * v));
}

/* Each tensor has its own stream, named by the seed and the tensor: the order of writing does not matter. */
static uint64_t stream_of(uint64_t seed, const char *name)
{
    return fnv_text(FNV_START ^ seed, name);
}

struct weights {
    struct gguf_writer *w;
    uint64_t seed;
    float *base;   /* [POOL_TILES * TILE] standard normal */
    float *scaled; /* the same, for one matrix */
    uint8_t *pool; /* quantised */
    uint8_t *line; /* what is written at once: POOL_TILES tiles */
};

static enum rc write_matrix(struct weights *ws, const struct planned *t, struct error *e)
{
    uint64_t state = stream_of(ws->seed, t->name);
    size_t tile = k_row_bytes(t->t.type, TILE);
    for (size_t i = 0; i < (size_t)POOL_TILES * TILE; i++)
        ws->scaled[i] = ws->base[i] * t->deviation;
    enum k_status st = k_quantise(ws->pool, ws->scaled, t->t.type, (int64_t)POOL_TILES * TILE);
    if (st != K_OK)
        return error_set(e, RC_UNSUPPORTED, "type %s cannot be written", k_type_info(t->t.type)->name);
    for (uint64_t left = gguf_tensor_bytes(&t->t); left > 0;) {
        size_t n = 0;
        for (; n < POOL_TILES && n * tile < left; n++)
            memcpy(ws->line + n * tile, ws->pool + next(&state) % POOL_TILES * tile, tile);
        size_t bytes = n * tile < left ? n * tile : (size_t)left;
        enum rc rc = gguf_write_data(ws->w, ws->line, bytes, e);
        if (rc)
            return rc;
        left -= bytes;
    }
    return RC_OK;
}

/* Llama 3.1's divisors: 1 for fast pairs, 8 for slow ones, a smooth passage between. */
static float llama3_divisor(const struct synth_shape *s, int64_t i)
{
    int64_t d_head = s->n_embd / s->n_head;
    double d = (double)d_head, orig = 8192, low = 1, high = 4, factor = 8;
    double base = s->rope_base > 0 ? s->rope_base : 10000.0;
    double turns = orig * pow(base, -2.0 * (double)i / d) / (2.0 * M_PI);
    if (turns > high)
        return 1.0F;
    if (turns < low)
        return (float)factor;
    double smooth = (turns - low) / (high - low);
    return (float)(1.0 / ((1.0 - smooth) / factor + smooth));
}

static enum rc write_vector(struct weights *ws, const struct synth_shape *s, const struct planned *t, struct error *e)
{
    uint64_t state = stream_of(ws->seed, t->name);
    float *v = spw_calloc((size_t)t->t.ne[0], sizeof *v);
    for (int64_t i = 0; i < t->t.ne[0]; i++) {
        if (t->kind == NORM)
            v[i] = 1.0F + 0.1F * normal(&state);
        else if (t->kind == VECTOR)
            v[i] = t->deviation * normal(&state);
        else
            v[i] = llama3_divisor(s, i);
    }
    enum rc rc = gguf_write_data(ws->w, v, (size_t)t->t.ne[0] * sizeof *v, e);
    free(v);
    return rc;
}

static enum rc write_weights(struct gguf_writer *w, const struct plan *p, uint64_t seed, struct error *e)
{
    struct weights ws = {.w = w, .seed = seed};
    size_t elems = (size_t)POOL_TILES * TILE;
    uint64_t state = seed;
    enum rc rc = RC_OK;
    ws.base = spw_calloc(elems, sizeof *ws.base);
    ws.scaled = spw_calloc(elems, sizeof *ws.scaled);
    ws.pool = spw_calloc(elems, sizeof(float));
    ws.line = spw_calloc(elems, sizeof(float));
    for (size_t i = 0; i < elems; i++)
        ws.base[i] = normal(&state);
    for (size_t i = 0; i < p->n && !rc; i++)
        rc = p->tensors[i].kind == MATRIX ? write_matrix(&ws, &p->tensors[i], e)
                                          : write_vector(&ws, p->s, &p->tensors[i], e);
    free(ws.line);
    free(ws.pool);
    free(ws.scaled);
    free(ws.base);
    return rc;
}

enum rc synth_write(const struct synth_shape *s, enum synth_type type, uint64_t seed, const char *path, struct error *e)
{
    enum rc rc = synth_shape_check(s, e);
    if (rc)
        return rc;
    struct plan p = {.s = s, .type = type};
    struct gguf_writer *w = gguf_writer_new();
    plan_all(&p);
    put_keys(w, s, type);
    for (size_t i = 0; i < p.n; i++)
        gguf_put_tensor(w, p.tensors[i].name, &p.tensors[i].t);
    rc = gguf_write_open(w, path, e);
    if (!rc)
        rc = write_weights(w, &p, seed, e);
    if (!rc)
        rc = gguf_write_finish(w, e);
    gguf_writer_free(w);
    free(p.tensors);
    return rc;
}
