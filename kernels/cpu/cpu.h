/* What the files of the CPU backend share: its context, and the operations that have files of their own. */
#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H

#include "kernels/cpu/isa.h"
#include "kernels/cpu/pairs.h"
#include "kernels/cpu/pool.h"

/* A block of memory that grows to the largest size asked for, aligned to 64 bytes. */
struct scratch {
    void *data; /* owned */
    size_t bytes;
};

/* One rotary table: cos and sin of n_tok positions, kept for the next call with the same positions (a layer rotates
 * queries and keys alike, and all layers do the same). */
struct rope_table {
    struct scratch values;    /* float [n_tok][2][d_rope / 2] */
    struct scratch positions; /* int32 [n_tok] */
    struct scratch inv_freq;  /* float [d_rope / 2] */
    int32_t n_tok, half;
    float magnitude;
};

struct k_ctx {
    const struct isa *isa;
    const struct pairs *pairs; /* NULL: this CPU has none */
    struct pool *pool;         /* owned */
    struct scratch shared;     /* activations and lists of one call */
    struct scratch per_thread; /* threads * bytes of the call */
    struct rope_table rope;
};

/* With a given instruction set (isa_find's names), for tests and benchmarks; NULL for the fastest. */
struct k_ctx *cpu_ctx_new_isa(int threads, const char *isa);

/* At least `bytes`, contents undefined; NULL: out of memory. */
void *cpu_scratch(struct scratch *s, size_t bytes);
/* Sizes added up field by field, each rounded to 64 bytes: returns the old offset and moves *total on. */
size_t cpu_place(size_t *total, size_t bytes);

/* Whether this CPU multiplies with this precision. */
bool cpu_has_precision(const struct k_ctx *c, enum k_precision p);

enum k_status cpu_matmul(struct k_ctx *c, const struct k_product *products, int32_t n, const float *x, int64_t x_stride,
                         int32_t n_tok, enum k_precision p);
enum k_status cpu_matmul_heads(struct k_ctx *c, float *y, int32_t y_head_stride, const float *x, int32_t x_head_stride,
                               const struct k_tensor *w, int32_t n_tok, enum k_precision p);
enum k_status cpu_matmul_experts(struct k_ctx *c, const struct k_product *product, const float *x, bool x_per_expert,
                                 const int32_t *ids, int32_t n_used, int32_t n_tok, enum k_precision p);
enum k_status cpu_rope(struct k_ctx *c, float *x, int64_t row_stride, int32_t n_head, int32_t head_stride,
                       const struct k_token_ref *tok, int32_t n_tok, const struct k_rope *r);
enum k_status cpu_attention_gqa(struct k_ctx *c, float *y, const float *q, const struct k_kv_pool *kv,
                                const struct k_gqa *a, const struct k_token_ref *tok, int32_t n_tok);
enum k_status cpu_attention_mla(struct k_ctx *c, float *y, const float *q, const struct k_kv_pool *kv,
                                const struct k_mla *a, const struct k_token_ref *tok, int32_t n_tok);

#endif
