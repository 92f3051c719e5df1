/* Models of random weights in a given shape: for benchmarks at true sizes, for tests at tiny ones. The scales keep
 * activations finite through any depth; what such a model says is noise. The vocabulary is real (byte-level BPE whose
 * tokens are the 256 bytes, the family's control tokens, and numbered words), so that the server can serve it. */
#ifndef ENGINE_MODEL_SYNTH_H
#define ENGINE_MODEL_SYNTH_H

#include "engine/model/gguf_write.h"

/* Zero means "has none" where a model can lack it. */
struct synth_shape {
    const char *name, *arch; /* "llama", "qwen2" or "deepseek2" */
    int64_t n_layer, n_embd, n_head, n_kv_head, n_ff, n_vocab, n_ctx;
    int64_t tied;                /* no output matrix of its own */
    int64_t llama3_rope;         /* rope_freqs.weight */
    int64_t q_lora, kv_lora;     /* deepseek2 from here on */
    int64_t d_nope, d_rope, d_v; /* per head */
    int64_t n_dense_lead;        /* layers before the first with experts */
    int64_t n_expert, n_used, n_shared, n_ff_exp;
    int64_t sigmoid, weights_norm; /* V3's gate */
    int64_t n_group, n_group_used;
    int64_t yarn_orig;   /* original context; 0: no YaRN */
    int64_t legacy_kv_b; /* attn_kv_b in one piece, as old files have it */
    double rope_base, eps, weights_scale, yarn_factor, yarn_mscale;
};

/* A row per number of the shape: from it come reading of shape files and checking. */
struct synth_field {
    const char *name;
    size_t offset;
    int64_t lo, hi;
    bool required;
};
extern const struct synth_field synth_fields[];
extern const int synth_n_fields;

/* By name, or NULL; synth_shape_at(): row i or NULL past the end. */
const struct synth_shape *synth_shape_find(const char *name);
const struct synth_shape *synth_shape_at(int i);
/* RC_INVALID names the field. */
enum rc synth_shape_check(const struct synth_shape *s, struct error *e) SPW_MUST_USE;

enum synth_type { SYNTH_F32, SYNTH_F16, SYNTH_BF16, SYNTH_Q8_0, SYNTH_Q4_0, SYNTH_Q4_K_M };
enum rc synth_write(const struct synth_shape *s, enum synth_type type, uint64_t seed, const char *path,
                    struct error *e) SPW_MUST_USE;

/* The tokenizer keys of a model of `arch` (synth_vocab.c). n_vocab >= 280. */
void synth_put_vocab(struct gguf_writer *w, const char *arch, int64_t n_vocab);

#endif
