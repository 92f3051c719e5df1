/* The keys of a model file -> struct hparams, every number within bounds that make later arithmetic safe.
 *
 * Key names: GGUF specification. What the DeepSeek family adds, and where files in the wild differ:
 *   - old files hold attention.key_length = nope + rope; new ones hold the compressed sizes there and the real ones in
 *     key_length_mla / value_length_mla;
 *   - rope.scaling.yarn_log_multiplier is 0.1 * mscale_all_dim, and enters the softmax scale, not the cosines;
 *   - files from before expert groups were written down need the groups of the published models. */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "engine/model/model_internal.h"

#define REQUIRED INT64_MIN

/* Keys are read one after the other; the first error sticks and the rest become harmless. */
struct reader {
    const struct gguf *g;
    const char *path, *arch;
    enum rc rc;
    struct error *e;
};

static void fail(struct reader *r, enum rc code, const char *format, ...) SPW_PRINTF(3, 4);
static void fail(struct reader *r, enum rc code, const char *format, ...)
{
    char text[384];
    va_list ap;
    if (r->rc)
        return;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    r->rc = error_set(r->e, code, "%s: %s", r->path, text);
}

static const char *key_name(const struct reader *r, char buf[128], const char *key)
{
    snprintf(buf, 128, "%s.%s", r->arch, key);
    return buf;
}

/* Some writers store per-layer arrays: fine while all elements agree. */
static enum rc uniform_array(const char *key, const struct gguf_array *a, int64_t *v, struct error *e)
{
    if (a->n == 0 || a->type == GGUF_F32 || a->type == GGUF_F64 || a->type == GGUF_STRING)
        return error_set(e, RC_INVALID, "key %s: is an array that does not hold integers", key);
    *v = gguf_array_i64(a, 0);
    for (uint64_t i = 1; i < a->n; i++)
        if (gguf_array_i64(a, i) != *v)
            return error_set(e, RC_UNSUPPORTED, "key %s: differs between layers, which is not supported", key);
    return RC_OK;
}

/* An integer key within lo..hi; `missing` (REQUIRED: an error) when it is not there. */
static int32_t get_int(struct reader *r, const char *key, int64_t missing, int64_t lo, int64_t hi)
{
    char name[128];
    uint64_t u = 0;
    int64_t v = 0;
    struct gguf_array a;
    struct error e = {0};
    enum rc rc = gguf_get_u64(r->g, key_name(r, name, key), &u, &e);
    v = u > INT64_MAX ? INT64_MAX : (int64_t)u;
    if (rc == RC_INVALID && gguf_get_array(r->g, name, &a, NULL) == RC_OK)
        rc = uniform_array(name, &a, &v, &e);
    if (rc == RC_NOT_FOUND) {
        if (missing == REQUIRED)
            fail(r, RC_INVALID, "key %s: is missing", name);
        return missing == REQUIRED ? (int32_t)lo : (int32_t)missing;
    }
    if (rc)
        fail(r, rc, "%s", e.message);
    else if (v < lo || v > hi)
        fail(r, RC_INVALID, "key %s: is %" PRId64 ", not %" PRId64 " to %" PRId64, name, v, lo, hi);
    return r->rc ? (int32_t)lo : (int32_t)v;
}

static double get_real(struct reader *r, const char *key, double missing, double lo, double hi)
{
    char name[128];
    double v = missing;
    struct error e = {0};
    enum rc rc = gguf_get_f64(r->g, key_name(r, name, key), &v, &e);
    if (rc && rc != RC_NOT_FOUND)
        fail(r, rc, "%s", e.message);
    else if (rc == RC_NOT_FOUND && isnan(missing))
        fail(r, RC_INVALID, "key %s: is missing", name);
    else if (!(v >= lo && v <= hi))
        fail(r, RC_INVALID, "key %s: is %g, not %g to %g", name, v, lo, hi);
    return r->rc ? lo : v;
}

static bool get_bool(struct reader *r, const char *key, bool missing)
{
    char name[128];
    bool v = missing;
    struct error e = {0};
    enum rc rc = gguf_get_bool(r->g, key_name(r, name, key), &v, &e);
    if (rc && rc != RC_NOT_FOUND)
        fail(r, rc, "%s", e.message);
    return v;
}

static bool has(const struct reader *r, const char *key)
{
    char name[128];
    key_name(r, name, key);
    for (uint64_t i = 0; i < gguf_n_keys(r->g); i++) {
        struct gguf_str k = gguf_key(r->g, i, NULL);
        if (k.n == strlen(name) && memcmp(k.s, name, k.n) == 0)
            return true;
    }
    return false;
}

static bool str_is(struct gguf_str s, const char *text)
{
    return s.n == strlen(text) && memcmp(s.s, text, s.n) == 0;
}

static void read_arch(struct reader *r, struct hparams *hp)
{
    static const char *const names[] = {[ARCH_LLAMA] = "llama",
                                        [ARCH_QWEN2] = "qwen2",
                                        [ARCH_QWEN3] = "qwen3",
                                        [ARCH_QWEN3MOE] = "qwen3moe",
                                        [ARCH_DEEPSEEK2] = "deepseek2"};
    struct gguf_str s;
    struct error e = {0};
    enum rc rc = gguf_get_str(r->g, "general.architecture", &s, &e);
    if (rc) {
        fail(r, RC_INVALID, "%s", rc == RC_NOT_FOUND ? "key general.architecture: is missing" : e.message);
        return;
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (str_is(s, names[i])) {
            hp->arch = (enum arch)i;
            snprintf(hp->arch_name, sizeof hp->arch_name, "%s", names[i]);
            r->arch = hp->arch_name;
            return;
        }
    }
    fail(r, RC_UNSUPPORTED,
         "key general.architecture: \"%.*s\" is not supported; llama, qwen2, qwen3, qwen3moe and deepseek2 are",
         s.n > 64 ? 64 : (int)s.n, s.s);
}

static void read_heads(struct reader *r, struct hparams *hp)
{
    if (hp->mla) {
        bool split = has(r, "attention.key_length_mla");
        hp->kv_lora = get_int(r, "attention.kv_lora_rank", REQUIRED, 1, 8192);
        hp->q_lora = get_int(r, "attention.q_lora_rank", 0, 0, 16384);
        hp->d_k = get_int(r, split ? "attention.key_length_mla" : "attention.key_length", REQUIRED, 4, 1024);
        hp->d_v = get_int(r, split ? "attention.value_length_mla" : "attention.value_length", REQUIRED, 1, 1024);
        hp->n_kv_head = 1; /* the compressed cache has one, whatever old files say */
        return;
    }
    hp->n_kv_head = get_int(r, "attention.head_count_kv", hp->n_head, 1, 1024);
    SPW_ASSERT(hp->n_head > 0 && hp->n_kv_head > 0); /* get_int() keeps its bounds even after an error */
    if (!r->rc && hp->n_head % hp->n_kv_head)
        fail(r, RC_INVALID, "key %s.attention.head_count_kv: %d heads cannot share %d heads of keys", r->arch,
             hp->n_head, hp->n_kv_head);
    int32_t d = hp->n_embd / hp->n_head;
    if (!has(r, "attention.key_length") && hp->n_embd % hp->n_head)
        fail(r, RC_INVALID, "key %s.attention.head_count: %d does not divide the embedding length %d", r->arch,
             hp->n_head, hp->n_embd);
    hp->d_k = get_int(r, "attention.key_length", d, 2, 1024);
    hp->d_v = get_int(r, "attention.value_length", d, 1, 1024);
    hp->qk_norm = hp->arch == ARCH_QWEN3 || hp->arch == ARCH_QWEN3MOE;
}

/* How DeepSeek-V2 and V3 choose experts, with the published models' groups where an old file is silent. */
static void read_router(struct reader *r, struct hparams *hp)
{
    struct k_router *rt = &hp->router;
    int32_t gating = get_int(r, "expert_gating_func", K_GATE_SOFTMAX, 0, 255);
    if (gating == 0) /* written by some converters for "not set" */
        gating = K_GATE_SOFTMAX;
    if (gating != K_GATE_SOFTMAX && gating != K_GATE_SIGMOID)
        fail(r, RC_UNSUPPORTED, "key %s.expert_gating_func: %d is not supported; 1 (softmax) and 2 (sigmoid) are",
             r->arch, gating);
    rt->gating = (enum k_gating)gating;
    rt->n_expert = hp->n_expert;
    rt->n_used = hp->n_used;
    rt->normalise = get_bool(r, "expert_weights_norm", hp->arch == ARCH_QWEN3MOE);
    rt->scale = (float)get_real(r, "expert_weights_scale", 1.0, 0.0, 1e6);
    if (rt->scale == 0.0F)
        rt->scale = 1.0F;
    int32_t groups = 1, groups_used = 1;
    if (hp->arch == ARCH_DEEPSEEK2 && gating == K_GATE_SIGMOID && hp->n_expert == 256) {
        groups = 8;
        groups_used = 4;
    } else if (hp->arch == ARCH_DEEPSEEK2 && gating == K_GATE_SOFTMAX && hp->n_expert == 160) {
        groups = 8;
        groups_used = 3;
    }
    rt->n_group = get_int(r, "expert_group_count", groups, 0, 256);
    rt->n_group_used = get_int(r, "expert_group_used_count", groups_used, 0, 256);
    rt->group_top2 = gating == K_GATE_SIGMOID;
    if (rt->n_group <= 1) {
        rt->n_group = rt->n_group_used = 1;
        return;
    }
    if (hp->n_expert % rt->n_group)
        fail(r, RC_INVALID, "key %s.expert_group_count: %d groups do not divide %d experts", r->arch, rt->n_group,
             hp->n_expert);
    else if (rt->n_group_used < 1 || rt->n_group_used > rt->n_group ||
             rt->n_group_used * (hp->n_expert / rt->n_group) < hp->n_used)
        fail(r, RC_INVALID, "key %s.expert_group_used_count: %d of %d groups do not hold %d experts to choose", r->arch,
             rt->n_group_used, rt->n_group, hp->n_used);
    else if (rt->group_top2 && hp->n_expert / rt->n_group < 2)
        fail(r, RC_INVALID, "key %s.expert_group_count: groups of one expert have no two best", r->arch);
}

static void read_experts(struct reader *r, struct hparams *hp)
{
    hp->n_expert = get_int(r, "expert_count", 0, 0, 1024);
    if (hp->n_expert == 0) {
        hp->n_dense_lead = hp->n_layer;
        return;
    }
    if (hp->arch != ARCH_DEEPSEEK2 && hp->arch != ARCH_QWEN3MOE) {
        fail(r, RC_UNSUPPORTED,
             "key %s.expert_count: mixtures of experts are supported for deepseek2 and qwen3moe only", r->arch);
        return;
    }
    hp->n_used = get_int(r, "expert_used_count", REQUIRED, 1, hp->n_expert < 64 ? hp->n_expert : 64);
    hp->n_shared = get_int(r, "expert_shared_count", 0, 0, 64);
    hp->n_ff_exp = get_int(r, "expert_feed_forward_length", REQUIRED, 1, 1 << 18);
    hp->n_dense_lead = get_int(r, "leading_dense_block_count", 0, 0, hp->n_layer);
    read_router(r, hp);
}

/* rope_freqs.weight as float32, or NULL when the file has none. */
static const float *rope_divisors(struct reader *r, int32_t d_rope)
{
    const struct k_tensor *t = gguf_find_tensor(r->g, "rope_freqs.weight");
    if (!t)
        return NULL;
    if (t->type != K_F32 || t->ne[0] != d_rope / 2 || t->ne[1] * t->ne[2] * t->ne[3] != 1) {
        fail(r, RC_INVALID, "tensor rope_freqs.weight: is not %d F32 numbers", d_rope / 2);
        return NULL;
    }
    const float *v = t->data;
    for (int32_t i = 0; i < d_rope / 2; i++) {
        if (!(v[i] >= 1e-6F && v[i] <= 1e6F)) {
            fail(r, RC_INVALID, "tensor rope_freqs.weight: element %d is %g, not 1e-6 to 1e6", i, (double)v[i]);
            return NULL;
        }
    }
    return v;
}

static void read_rope_scaling(struct reader *r, struct rope_params *p)
{
    char name[128];
    struct gguf_str s = {.s = "none", .n = 4};
    struct error e = {0};
    enum rc rc = gguf_get_str(r->g, key_name(r, name, "rope.scaling.type"), &s, &e);
    if (rc && rc != RC_NOT_FOUND)
        fail(r, rc, "%s", e.message);
    if (str_is(s, "none") && has(r, "rope.scale_linear")) { /* what the oldest files call it */
        p->factor = get_real(r, "rope.scale_linear", 1.0, 1e-3, 1e6);
        p->scaling = ROPE_SCALING_LINEAR;
        return;
    }
    if (str_is(s, "none"))
        return;
    if (str_is(s, "linear"))
        p->scaling = ROPE_SCALING_LINEAR;
    else if (str_is(s, "yarn"))
        p->scaling = ROPE_SCALING_YARN;
    else
        fail(r, RC_UNSUPPORTED, "key %s: \"%.*s\" is not supported; none, linear and yarn are", name,
             s.n > 32 ? 32 : (int)s.n, s.s);
    p->factor = get_real(r, "rope.scaling.factor", 1.0, 1e-3, 1e6);
}

static void read_rope(struct reader *r, struct hparams *hp)
{
    struct rope_params p = {.factor = 1.0};
    p.d_rope = get_int(r, "rope.dimension_count", hp->mla ? REQUIRED : hp->d_k, 2, hp->d_k);
    if (p.d_rope % 2 || (hp->mla && p.d_rope >= hp->d_k))
        fail(r, RC_INVALID, "key %s.rope.dimension_count: %d is odd, or leaves nothing of the %d elements of a head",
             r->arch, p.d_rope, hp->d_k);
    p.base = get_real(r, "rope.freq_base", 10000.0, 1.5, 1e12);
    read_rope_scaling(r, &p);
    double mscale = 1.0, magnitude = 1.0;
    if (p.scaling == ROPE_SCALING_YARN) {
        p.n_ctx_orig = get_int(r, "rope.scaling.original_context_length", hp->n_ctx_train, 1, 1 << 30);
        p.beta_fast = get_real(r, "rope.scaling.yarn_beta_fast", 32.0, 1e-3, 1e6);
        p.beta_slow = get_real(r, "rope.scaling.yarn_beta_slow", 1.0, 1e-3, 1e6);
        if (hp->mla) {
            /* DeepSeek sets the cosines' factor to mscale / mscale_all_dim = 1 and scales the softmax instead. The key
             * holds 0.1 * mscale_all_dim already. */
            double lm = get_real(r, "rope.scaling.yarn_log_multiplier", 0.0, 0.0, 10.0);
            mscale = 1.0 + lm * log(p.factor);
            mscale *= mscale;
        } else {
            magnitude = get_real(r, "rope.scaling.attn_factor", 1.0, 1e-3, 1e3) * (1.0 + 0.1 * log(p.factor));
        }
    }
    p.divisors = rope_divisors(r, p.d_rope);
    if (r->rc)
        return;
    hp->inv_freq_owned = spw_calloc((size_t)p.d_rope / 2, sizeof *hp->inv_freq_owned);
    rope_frequencies(hp->inv_freq_owned, &p);
    hp->rope = (struct k_rope){.inv_freq = hp->inv_freq_owned,
                               .magnitude = (float)magnitude,
                               .d_rope = p.d_rope,
                               .offset = hp->mla ? hp->d_k - p.d_rope : 0,
                               .style = hp->arch == ARCH_LLAMA || hp->mla ? K_ROPE_INTERLEAVED : K_ROPE_NEOX};
    hp->attn_scale = (float)(mscale / sqrt((double)hp->d_k));
}

/* The rows of the embedding are the vocabulary; a tokenizer in the file has to agree, or ids would miss their rows. */
static void read_vocab(struct reader *r, struct hparams *hp)
{
    const struct k_tensor *t = gguf_find_tensor(r->g, "token_embd.weight");
    struct gguf_array a;
    if (!t) {
        fail(r, RC_INVALID, "tensor token_embd.weight: is missing");
        return;
    }
    if (t->ne[1] < 1 || t->ne[1] > 1 << 22) {
        fail(r, RC_INVALID, "tensor token_embd.weight: has %" PRId64 " rows, not 1 to %d", t->ne[1], 1 << 22);
        return;
    }
    hp->n_vocab = (int32_t)t->ne[1];
    if (gguf_get_array(r->g, "tokenizer.ggml.tokens", &a, NULL) == RC_OK && a.n != (uint64_t)hp->n_vocab)
        fail(r, RC_INVALID,
             "key tokenizer.ggml.tokens: %" PRIu64 " tokens, but token_embd.weight has %d rows: they have to agree",
             a.n, hp->n_vocab);
}

enum rc hparams_read(struct hparams *hp, const struct gguf *g, const char *path, struct error *e)
{
    struct reader r = {.g = g, .path = path, .arch = "", .e = e};
    read_arch(&r, hp);
    if (r.rc)
        return r.rc;
    hp->mla = hp->arch == ARCH_DEEPSEEK2;
    hp->n_layer = get_int(&r, "block_count", REQUIRED, 1, 1024);
    hp->n_embd = get_int(&r, "embedding_length", REQUIRED, 1, 1 << 16);
    hp->n_head = get_int(&r, "attention.head_count", REQUIRED, 1, 1024);
    hp->n_ctx_train = get_int(&r, "context_length", REQUIRED, 1, 1 << 26);
    hp->eps = (float)get_real(&r, "attention.layer_norm_rms_epsilon", NAN, 1e-12, 0.1);
    if (hp->mla && !r.rc) /* an extra block for multi-token prediction comes last and is not part of the model */
        hp->n_layer -= get_int(&r, "nextn_predict_layers", 0, 0, hp->n_layer - 1);
    read_heads(&r, hp);
    if (!r.rc)
        read_experts(&r, hp);
    if (!r.rc && hp->n_dense_lead > 0)
        hp->n_ff = get_int(&r, "feed_forward_length", REQUIRED, 1, 1 << 20);
    if (!r.rc)
        read_rope(&r, hp);
    if (!r.rc)
        read_vocab(&r, hp);
    return r.rc;
}

int64_t hparams_hidden(const struct hparams *hp)
{
    const int32_t at_once = hp->n_used > hp->n_shared ? hp->n_used : hp->n_shared;
    const int64_t experts = (int64_t)hp->n_ff_exp * at_once;
    return hp->n_ff > experts ? hp->n_ff : experts;
}

void hparams_fini(struct hparams *hp)
{
    free(hp->inv_freq_owned);
    hp->inv_freq_owned = NULL;
}
