/* The arithmetic of the engine: one table of operations, implemented once as a scalar reference, once for the CPU
 * (AVX2 and wider, chosen at run time) and once for CUDA.
 *
 * What lives here: tensors, the table, and what each operation means. What does not: model graphs, files, threads'
 * policy. kernels/ depends on nothing else of ours, so errors come back as enum k_status.
 *
 * Conventions. Activations are f32, row-major, shape [n_tok, dim]. Weights are GGUF tensors: ne[0] is the innermost
 * (input) dimension, ne[1] the outputs, ne[2] the experts or heads. Positions are int32. `out` arguments come first and
 * never overlap inputs unless the operation says so. What an operation reads and writes is the backend's work memory
 * (buf_new(); any host memory for host backends), weights, ids and rope frequencies included; structs and token
 * references, and the page lists these point to, are the host's.
 *
 * The numerics law: what an operation writes for one token depends on that token's inputs alone, bit for bit: not on
 * n_tok, not on the number of threads, not on whether the keys it attends to were written one by one or in a chunk.
 * Every sum therefore has a fixed block size and a fixed order, defined by the implementation and named in its
 * `numerics` string. */
#ifndef KERNELS_OPS_H
#define KERNELS_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/sample.h"

#ifdef __cplusplus
extern "C" {
#endif

enum k_status { K_OK = 0, K_UNSUPPORTED, K_BAD_SHAPE, K_NO_MEMORY, K_DEVICE };

/* Numbers are those of the GGUF specification. */
enum k_type {
    K_F32 = 0,
    K_F16 = 1,
    K_Q4_0 = 2,
    K_Q4_1 = 3,
    K_Q5_0 = 6,
    K_Q5_1 = 7,
    K_Q8_0 = 8,
    K_Q2_K = 10,
    K_Q3_K = 11,
    K_Q4_K = 12,
    K_Q5_K = 13,
    K_Q6_K = 14,
    K_IQ4_NL = 20,
    K_IQ4_XS = 23,
    K_BF16 = 30,
    K_TYPE_COUNT = 40
};

/* Static facts of a type; name is NULL for a number that is no type. */
struct k_type_info {
    const char *name;
    uint16_t block_elems; /* elements per block */
    uint16_t block_bytes;
    bool supported; /* the reference can dequantise and multiply it */
};
const struct k_type_info *k_type_info(uint32_t type); /* NULL for unknown numbers */
size_t k_row_bytes(uint32_t type, uint64_t n);        /* bytes of n elements; n must be a multiple of block_elems */

/* A weight matrix (or a stack of ne[2] of them), borrowed from a mapped file or a device pool. */
struct k_tensor {
    const void *data;
    enum k_type type;
    int64_t ne[4]; /* unused dimensions are 1 */
};

/* How a matmul treats its activations: FAST rounds them to the partner type of the weights (Q8 blocks), which is what
 * integer dot products need; PRECISE keeps float32 throughout. FAST_BF16 is FAST, and where weights are BF16 it rounds
 * activations to BF16, too: what processors that multiply pairs of these do twice as fast (kernels/cpu/pairs.h). */
enum k_precision { K_FAST = 0, K_PRECISE = 1, K_FAST_BF16 = 2 };

/* One sequence's keys and values: a list of fixed-size pages out of a pool. Position p lives in page page_ids[p /
 * K_PAGE_TOKENS], row p % K_PAGE_TOKENS. A page holds K_PAGE_TOKENS rows of row_elems elements of `type`. In Q8_0 a row
 * is so many blocks of 32 as hold it, zeros after its end, and what is stored at once begins with a block and ends with
 * one or with the row; heads may begin inside of one. */
#define K_PAGE_TOKENS 64
#define K_PAGE_NONE   (-1) /* the only page of a token that is none: step_rows() */
struct k_kv_pool {
    void *data;
    enum k_type type;    /* K_F32, K_F16 or K_Q8_0 */
    int32_t row_elems;   /* GQA: n_kv_head * d_k keys, then n_kv_head * d_v values; MLA: kv_lora + d_rope */
    int64_t page_stride; /* bytes from one page to the next, >= K_PAGE_TOKENS * row bytes */
};

/* Bytes of a row of a pool: Q8_0's last block may be filled in part. */
static inline size_t k_kv_row_bytes(enum k_type type, int32_t row_elems)
{
    if (type == K_Q8_0)
        return ((size_t)row_elems + 31) / 32 * 34;
    return (size_t)row_elems * (type == K_F16 ? 2 : 4);
}

/* Which token of a batch belongs to which sequence. One per token. page_ids is borrowed for the call. */
struct k_token_ref {
    const int32_t *page_ids; /* the sequence's page list, host memory */
    int32_t pos;             /* this token's position; it attends to positions 0..pos inclusive */
};

/* Rotary embedding. inv_freq[d_rope/2] already holds base, YaRN interpolation or llama3 factors: the engine computes
 * it once at load (float64, rounded to float32); angle = pos * inv_freq[i]. */
enum k_rope_style { K_ROPE_INTERLEAVED = 0 /* pairs (2i, 2i+1) */, K_ROPE_NEOX = 1 /* pairs (i, i + d/2) */ };
struct k_rope {
    const float *inv_freq;
    float magnitude; /* multiplies cos and sin */
    int32_t d_rope;  /* rotated elements, even */
    int32_t offset;  /* first rotated element inside a head */
    enum k_rope_style style;
};

struct k_gqa {
    int32_t n_head, n_kv_head, d_k, d_v;
    float scale;
};
struct k_mla {
    int32_t n_head, kv_lora, d_rope; /* a query row is n_head * (kv_lora + d_rope), latent part first */
    float scale;                     /* on the ORIGINAL head size, not kv_lora + d_rope */
};

enum k_gating { K_GATE_SOFTMAX = 1, K_GATE_SIGMOID = 2 };
struct k_router {
    int32_t n_expert, n_used, n_group, n_group_used; /* n_group <= 1: no groups */
    enum k_gating gating;
    bool normalise; /* divide the chosen weights by their sum */
    float scale;
    const float *bias; /* n_expert selection biases or NULL; selects, never weighs */
    bool group_top2;   /* group score: sum of the two largest (V3) or the maximum (V2) */
};

/* Where memory stands: BUF_WORK is what operations work on (the device's memory); BUF_HOST is the host's, of the kind
 * that is copied to and from the former fastest (pinned). Host backends know one kind. */
enum k_buf { K_BUF_WORK = 0, K_BUF_HOST = 1 };
/* What the caller does after step_begin(): the operations (as usual, or while the backend writes them down), or none
 * because the backend repeats what it wrote down. */
enum k_step { K_STEP_RUN = 0, K_STEP_RECORD, K_STEP_REPEAT };
struct k_copy {
    void *to;
    const void *from;
    size_t bytes;
};
/* Something that the host computes inside of a step, beside the operations. */
#define K_HOST_COPIES 4
struct k_host_work {
    struct k_copy out[K_HOST_COPIES]; /* first: work memory to K_BUF_HOST memory */
    int32_t n_out;
    void (*run)(void *arg); /* then, on a thread of the backend's, one at a time; calls nothing of the backend's */
    void *arg;
    struct k_copy back; /* last: K_BUF_HOST memory to work memory */
};

/* A product of activations x: y = x . transpose(w) (+ bias), or with `up` gated: y = silu(x . transpose(w)) * (x .
 * transpose(up)). Each matrix has its own type; w and up have one shape, and ne[0] is that of all products of a
 * call. */
struct k_product {
    float *y; /* [n_tok, ne1] */
    const struct k_tensor *w;
    const float *bias;         /* [ne1], or NULL; NULL where it is gated */
    const struct k_tensor *up; /* NULL: not gated */
};
#define K_PRODUCTS_MAX 3

/* What follows an operation: y = rms_norm() with w of the rows it gave, which follow each other; y may be those rows. y
 * NULL: nothing does. */
struct k_norm {
    float *y;
    const float *w;
    float eps;
};
/* y[n_tok, ne1] += w . x[n_tok, ne0], whose rows are x_stride floats apart. */
struct k_added {
    float *y;
    const float *x;
    int64_t x_stride;
    const struct k_tensor *w;
    struct k_norm norm;
};

/* Queries, keys and values of n_tok tokens as they leave their products: [n_tok, n_head, d_k], [n_tok, n_kv_head,
 * d_k] and [n_tok, n_kv_head, d_v]. */
struct k_gqa_rows {
    float *q, *k;
    const float *v;
};
/* MLA's: queries [n_tok, n_head, d_q], whose last d_rope elements are to be rotated; what is common to all heads, k
 * [n_tok, kv_lora + d_rope], whose latent part is to be normed by `norm`; absorbed queries [n_tok, n_head, kv_lora +
 * d_rope], whose last d_rope elements are to be written. */
struct k_mla_rows {
    float *q;
    int32_t d_q;
    float *k;
    const float *norm; /* [kv_lora] */
    float eps;
    float *q_abs;
};
/* The router of a layer: x [n_tok, n_embd] gives logits [n_tok, n_expert], which are work memory, and these ids and
 * weights [n_tok, n_used]. */
struct k_choice {
    int32_t *ids;
    float *weights, *logits;
    const float *x;
    const struct k_tensor *w;
};
/* The experts of a layer, and those that all tokens share: x [n_tok, n_embd] are the inputs of both. */
struct k_moe {
    const float *x;
    const struct k_tensor *gate_exps, *up_exps, *down_exps;
    const int32_t *ids;   /* [n_tok, n_used] */
    const float *weights; /* [n_tok, n_used] */
    int32_t n_used;
    const struct k_tensor *gate, *up, *down; /* of the shared ones, as one; NULL: there are none */
    /* Work memory: [n_tok, n_used, n_ff_exp], [n_tok, n_used, n_embd]; [n_tok, n_ff of the shared], [n_tok, n_embd]. */
    float *hidden, *out, *shared_hidden, *shared_out;
    struct k_norm norm; /* of what they are added to */
};

#define K_SLOTS 2

struct k_ctx; /* a backend's run-time state: thread pool and scratch, or device and stream. One thread at a time. */

struct k_ops {
    const char *name; /* "reference", "cpu", "cuda" */

    /* New state with `threads` workers (CPU) on device `device` (CUDA). NULL: out of memory or no such device. */
    struct k_ctx *(*ctx_new)(int threads, int device);
    void (*ctx_free)(struct k_ctx *c);
    /* Names the order of sums and roundings, e.g. "cpu-1"; part of the engine's numerics class. The CPU backend's order
     * is the same on every instruction set. */
    const char *(*numerics)(const struct k_ctx *c);
    /* NULL in host backends. From here on the device maker's library makes the products that it is best at (F16 and
     * BF16 weights, many tokens). numerics() names that class: the library chooses the order of its sums, and the
     * numerics law does not hold there. file: NULL, or where the library is. text: which library it is; on failure,
     * when nothing has changed, why not. K_UNSUPPORTED: there is none. */
    enum k_status (*use_library)(struct k_ctx *c, const char *file, char *text, size_t size);
    /* May products be asked for with this precision? NULL: with FAST and PRECISE. Others answer K_UNSUPPORTED. */
    bool (*has_precision)(const struct k_ctx *c, enum k_precision p);

    /* ---- memory ---- */

    /* 256-byte aligned; work memory of the host backends is zeroed and takes no memory before it is touched, that of
     * others has undefined contents. K_NO_MEMORY, *p NULL: there is none left. buf_free takes what buf_new was
     * given. */
    enum k_status (*buf_new)(struct k_ctx *c, void **p, size_t bytes, enum k_buf where);
    void (*buf_free)(struct k_ctx *c, void *p, size_t bytes, enum k_buf where);
    /* Host to work memory, in order with the operations; `from` may be used again on return. */
    enum k_status (*put)(struct k_ctx *c, void *to, const void *from, size_t bytes);
    /* Work memory to the host, when all before it is done; waits for that, and so also tells whether it went well. */
    enum k_status (*get)(struct k_ctx *c, void *to, const void *from, size_t bytes);
    /* rows of n floats: y[i * y_stride] = x[i * x_stride]; both in work memory, not overlapping. */
    enum k_status (*copy_rows)(struct k_ctx *c, float *y, int64_t y_stride, const float *x, int64_t x_stride,
                               int64_t rows, int32_t n);

    /* The same between work memory and K_BUF_HOST memory without a wait: the host's side must stay, or is not there,
     * until the next get(). */
    enum k_status (*send)(struct k_ctx *c, void *to, const void *from, size_t bytes);
    enum k_status (*fetch)(struct k_ctx *c, void *to, const void *from, size_t bytes);

    /* The rest of this part is NULL in host backends, whose work memory is the host's: there weights are used where
     * they are mapped, and results read where they stand. */

    /* All the copies from any memory of the host's, mapped files too, to work memory, as fast as the machine can:
     * weights. Waits. While one thread waits here another may ask for operations that have nothing to do with them. */
    enum k_status (*put_many)(struct k_ctx *c, const struct k_copy *copies, size_t n);
    /* Bytes of work memory that are free, and that there are. */
    enum k_status (*memory)(struct k_ctx *c, size_t *free_bytes, size_t *total_bytes);
    /* What the device is, for people: "NVIDIA H200 (device 0)"; and in the driver's words why the last call failed. */
    const char *(*device_text)(const struct k_ctx *c);
    const char *(*error_text)(const struct k_ctx *c);

    /* ---- a step ---- */

    /* NULL: as many as there are tokens. Rows, n_tok or more, that a step of n_tok sequences with a token each is best
     * given: those after the tokens have position 0 on page K_PAGE_NONE. For them nothing is stored, attended to or
     * read of experts; what comes out of them has no meaning, and no other row sees it. */
    int32_t (*step_rows)(const struct k_ctx *c, int32_t n_tok);
    /* The operations that follow, until step_end(), are for these tokens: page lists and positions go where the backend
     * wants them. `tok` stays as it is until then. Steps of equal n_tok and shape run the same operations with the same
     * arguments, all but tok's contents and what put() brings: so the backend may say K_STEP_RECORD (run them, once
     * more) and from then on K_STEP_REPEAT (run none). step_end() gets what became of the operations and returns what
     * became of the step; nothing has to be finished by then. */
    enum k_status (*step_begin)(struct k_ctx *c, const struct k_token_ref *tok, int32_t n_tok, uint64_t shape,
                                enum k_step *how);
    enum k_status (*step_end)(struct k_ctx *c, enum k_status so_far);

    /* NULL in host backends. What `w` says, after the operations before and beside those that follow up to host_end(),
     * which must not touch what it copies, or only read what it reads. One at a time. A step that is repeated repeats
     * it: so w->arg and all memory stay where they are for as long as the context, and what differs between steps comes
     * by put(). */
    enum k_status (*host_begin)(struct k_ctx *c, const struct k_host_work *w);
    enum k_status (*host_end)(struct k_ctx *c);

    /* ---- operations ---- */

    /* y[n_tok, ne0] = rows ids[t] of w, dequantised. Ids are checked by the caller. */
    enum k_status (*get_rows)(struct k_ctx *c, float *y, const struct k_tensor *w, const int32_t *ids, int32_t n_tok);

    /* y = x / sqrt(mean(x^2) + eps) * w over each of `rows` rows of `dim`, rows `stride` floats apart in x and y
     * (stride >= dim; lets MLA norm the latent part of a wider row in place). y may equal x. Sum in float64. */
    enum k_status (*rms_norm)(struct k_ctx *c, float *y, const float *x, const float *w, int64_t rows, int32_t dim,
                              int32_t stride, float eps);

    /* All of 1 <= n <= K_PRODUCTS_MAX products of x[n_tok, ne0], whose rows are x_stride floats apart; no y overlaps x
     * or another y. Bit for bit what each product gives alone, and a gated one what silu_mul() makes of two; but what
     * is needed once is done once: rounding x to each form that the weights want, waking threads, launching kernels. */
    enum k_status (*matmul)(struct k_ctx *c, const struct k_product *products, int32_t n, const float *x,
                            int64_t x_stride, int32_t n_tok, enum k_precision p);

    /* Per-head products for MLA: for each head h: y[t, h, 0..ne1) = w[:, :, h] . x[t, h, 0..ne0).
     * x: [n_tok, n_head, x_head_stride], y: [n_tok, n_head, y_head_stride]; ne[2] = n_head. */
    enum k_status (*matmul_heads)(struct k_ctx *c, float *y, int32_t y_head_stride, const float *x,
                                  int32_t x_head_stride, const struct k_tensor *w, int32_t n_tok, enum k_precision p);

    /* Experts: one product without a bias, of stacks w and `up` of ne[2] matrices: y[t, j, ne1] is that of matrix
     * ids[t, j] with x[t, (x_per_expert ? j : 0), ne0], for j < n_used. Grouped by expert inside, so that an expert's
     * weights are read once per call. */
    enum k_status (*matmul_experts)(struct k_ctx *c, const struct k_product *product, const float *x, bool x_per_expert,
                                    const int32_t *ids, int32_t n_used, int32_t n_tok, enum k_precision p);

    /* Choose experts. logits[n_tok, n_expert] -> ids[n_tok, n_used], weights[n_tok, n_used]. Order: by selection
     * score, ties to the lower id. DeepSeek-V2 section 2.1.2 and DeepSeek-V3 section 2.1.2 (arXiv 2405.04434,
     * 2412.19437). All in float32. */
    enum k_status (*route)(struct k_ctx *c, int32_t *ids, float *weights, const float *logits, const struct k_router *r,
                           int32_t n_tok);

    /* y[t, :] += sum_j weights[t, j] * x[t, j, :], j ascending; x: [n_tok, n_used, dim]. */
    enum k_status (*combine_experts)(struct k_ctx *c, float *y, const float *x, const float *weights, int32_t n_used,
                                     int32_t dim, int32_t n_tok);

    /* Rotate in place. x: n_tok rows `row_stride` floats apart, each with n_head heads `head_stride` apart. */
    enum k_status (*rope)(struct k_ctx *c, float *x, int64_t row_stride, int32_t n_head, int32_t head_stride,
                          const struct k_token_ref *tok, int32_t n_tok, const struct k_rope *r);

    /* Write n floats from rows + t * stride into the row of tok[t].pos of its sequence, `offset` elements into it,
     * rounding to the pool's type: Q8_0 as k_quantise() does, to whole blocks. */
    enum k_status (*kv_store)(struct k_ctx *c, const struct k_kv_pool *kv, const float *rows, int64_t stride,
                              int32_t offset, int32_t n, const struct k_token_ref *tok, int32_t n_tok);

    /* Causal attention over pages. q: [n_tok, n_head, d_k]; y: [n_tok, n_head, d_v]. Softmax in float32 with a fixed
     * block of K_PAGE_TOKENS positions (online softmax, Milakov and Gimelshein, arXiv 1805.02867). */
    enum k_status (*attention_gqa)(struct k_ctx *c, float *y, const float *q, const struct k_kv_pool *kv,
                                   const struct k_gqa *a, const struct k_token_ref *tok, int32_t n_tok);
    /* MLA in absorbed form: y: [n_tok, n_head, kv_lora] latent outputs. */
    enum k_status (*attention_mla)(struct k_ctx *c, float *y, const float *q, const struct k_kv_pool *kv,
                                   const struct k_mla *a, const struct k_token_ref *tok, int32_t n_tok);

    /* y[i] = silu(gate[i]) * up[i], n values; y may equal gate. The plain form of what gated products do in passing. */
    enum k_status (*silu_mul)(struct k_ctx *c, float *y, const float *gate, const float *up, int64_t n);
    /* y[i] += x[i]. */
    enum k_status (*add)(struct k_ctx *c, float *y, const float *x, int64_t n);

    /* ---- several operations as one ---- */

    /* NULL where nothing is saved by it; the caller then asks for the operations named, one by one. Bit for bit what
     * these give: a backend whose launches cost as much as what they do makes fewer of them. */

    /* matmul() of one product, add() of what came of it, and the norm. y overlaps nothing else. */
    enum k_status (*matmul_add)(struct k_ctx *c, const struct k_added *m, int32_t n_tok, enum k_precision p);
    /* rope() of rows->q and rows->k, in place, kv_store() of keys and values. r->offset is 0. */
    enum k_status (*place_gqa)(struct k_ctx *c, const struct k_kv_pool *kv, const struct k_gqa_rows *rows,
                               const struct k_gqa *a, const struct k_rope *r, const struct k_token_ref *tok,
                               int32_t n_tok);
    /* rms_norm() of the latent part of rows->k, rope() of the rest of it, kv_store() of both; rope() of the queries,
     * and copy_rows() of what was rotated behind the absorbed queries. rows->q is as it was or rotated, afterwards.
     * r->offset is that inside of a query. */
    enum k_status (*place_mla)(struct k_ctx *c, const struct k_kv_pool *kv, const struct k_mla_rows *rows,
                               const struct k_mla *a, const struct k_rope *r, const struct k_token_ref *tok,
                               int32_t n_tok);
    /* matmul() with the router's matrix, K_PRECISE, and route(). */
    enum k_status (*choose)(struct k_ctx *c, const struct k_choice *m, const struct k_router *r, int32_t n_tok);
    /* matmul_experts() twice, combine_experts() into y[n_tok, n_embd]; of the shared ones matmul() twice and add(); and
     * the norm. */
    enum k_status (*moe)(struct k_ctx *c, float *y, const struct k_moe *m, int32_t n_tok, enum k_precision p);

    /* The following are NULL in host backends, where engine/text/sampler.h does it. Choices are kept in one of K_SLOTS
     * slots, so that a step can begin with what the one before it chose, and that be read while it runs. */

    /* Choose a token from each of n rows of logits (work memory) into the slot. s: the host's. Waits for nothing.
     * K_UNSUPPORTED: a vocabulary of more than half a million. */
    enum k_status (*sample_begin)(struct k_ctx *c, int slot, const float *logits, int32_t n_vocab,
                                  const struct k_sample *s, int32_t n);
    /* The slot's first n choices to the host: waits for them, and not for what was begun after them. */
    enum k_status (*sample_end)(struct k_ctx *c, int slot, struct k_sampled *out, int32_t n);
    /* ids[i] (work memory) = the id of choice from[i] (the host's) of the slot; it stays as it is where from[i] is
     * negative. A choice that could not be made here counts as id 0. */
    enum k_status (*take_chosen)(struct k_ctx *c, int32_t *ids, int slot, const int32_t *from, int32_t n);
};

/* One plain product. */
static inline enum k_status k_matmul(const struct k_ops *ops, struct k_ctx *c, float *y, const float *x,
                                     int64_t x_stride, const struct k_tensor *w, const float *bias, int32_t n_tok,
                                     enum k_precision p)
{
    const struct k_product product = {y, w, bias, NULL};
    return ops->matmul(c, &product, 1, x, x_stride, n_tok, p);
}

extern const struct k_ops k_reference_ops; /* scalar, defines what is right */
extern const struct k_ops k_cpu_ops;       /* fastest instruction set this CPU has */

/* Dequantise n elements (a multiple of the block) of one row: the definition of each type. K_UNSUPPORTED for types
 * without support. `blocks` needs no alignment. Host memory. */
enum k_status k_dequantise(float *y, const void *blocks, uint32_t type, int64_t n);
/* Quantise n floats (F32, F16, BF16, Q8_0, Q4_0; Q4_K, Q5_0, Q6_K by simple per-block fits): for `synth` and tests. */
enum k_status k_quantise(void *blocks, const float *x, uint32_t type, int64_t n);

/* IEEE half conversions, round to nearest even. */
float k_f16_to_f32(uint16_t h);
uint16_t k_f32_to_f16(float f);

#ifdef __cplusplus
}
#endif

#endif
