/* What the attention kernels are told, and the two operations for ops.cu.
 *
 * How a (token, head) is computed, whoever computes it and beside whom: the pages of a split (a fixed number of pages,
 * counted from position 0) one after the other by online softmax (Milakov and Gimelshein, arXiv 1805.02867; Dao, arXiv
 * 2307.08691), then the splits folded in order of position. Splits may be computed by different blocks (Flash-Decoding);
 * the fold is the same. So neither the batch nor the chunk nor the number of blocks changes a bit. What blocks computed
 * apart the last of them folds, or, where that is more than a block should read, a launch of its own. */
#ifndef KERNELS_CUDA_ATTENTION_CUH
#define KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/internal.h"

/* A step's tokens and what the device lends. */
struct attn_env {
    stream_t stream;
    int n_sm;
    size_t shared_max;
    struct cuda_tokens tokens;
    float *part;       /* device memory for partial results of splits; what does not fit is computed by fewer blocks */
    size_t part_bytes; /* ATTN_PART_BYTES serve every case well */
    size_t fold_bytes; /* of partial results are folded by the last block that made some, if no more than that */
    uint32_t *arrived; /* [CUDA_ARRIVED] */
    bool early;        /* launches may be (launch_early()) */
};
#define ATTN_PART_BYTES ((size_t)64 << 20)
/* A block reads some 100 GB/s from L2, so much in what a launch costs: 128 splits of four heads of 128, or eight of 16
 * heads of 512. */
#define ATTN_FOLD_BYTES ((size_t)272 << 10)

/* Arguments as in ops.h, checked by the caller (k_check_gqa, k_check_mla); q, y and the pool on the device. */
enum k_status attention_gqa(const struct attn_env *env, float *y, const float *q, const struct k_kv_pool *kv,
                            const struct k_gqa *a);
enum k_status attention_mla(const struct attn_env *env, float *y, const float *q, const struct k_kv_pool *kv,
                            const struct k_mla *a);
/* ---- between the files of attention ---- */

/* Heads that share keys (a group) of neighbouring tokens of one sequence make rows: row r of a run is its token
 * first + r / group, head kv_head * group + r % group. */
struct attn_args {
    const float *q; /* [n_tok, n_head, d_k] */
    float *y;       /* [n_tok, n_head, d_v] */
    const uint8_t *kv;
    int64_t page_stride;
    enum k_type kv_type;
    int32_t row_bytes;                              /* of the pool */
    int32_t key_at, value_at, key_step, value_step; /* elements: of key head 0, from one to the next */
    int32_t n_head, n_kv_head, group, d_k, d_v;
    float scale;
    bool latent; /* MLA: values are the first d_v elements of the keys */

    struct cuda_tokens tokens;

    int32_t count_min, count_max; /* runs of so many tokens are this launch's */
    int32_t n_row_block;          /* per run */
    int32_t split_pages;          /* pages of a split */
    int32_t n_z;                  /* blocks that share the splits of a row block; 1: one block folds them all into y */
    int32_t n_split;              /* room for so many per row in `part` */
    float *part;                  /* [n_tok, n_head, n_split, d_v + 4]: weighed values, maximum, sum of weights, - */
    uint32_t *arrived;            /* [n_tok, n_head] blocks that have stored their splits of the rows from this one on;
                                     NULL: a launch of its own folds them */
    int32_t n_stage;              /* 2: the next page comes while this one is worked on */
};

/* Two partial softmaxes become one: the factors that bring both to the common maximum. */
struct attn_fold {
    float max, keep, take;
};
KDEV struct attn_fold attn_fold_of(float old_max, float new_max)
{
    struct attn_fold f;
    f.max = new_max > old_max ? new_max : old_max;
    f.keep = exp_fast(old_max - f.max);
    f.take = exp_fast(new_max - f.max);
    return f;
}
#define ATTN_NONE (-__builtin_huge_valf()) /* the maximum over no position; such a part is not folded */

KDEV const uint8_t *attn_page(const struct attn_args &a, int32_t token, int32_t page)
{
    return a.kv + (int64_t)a.tokens.pages[a.tokens.first[token] + page] * a.page_stride;
}

/* row: token * n_head + head. 16-byte aligned, as a part is a multiple of that. */
KHOST_DEV int32_t attn_part_floats(const struct attn_args &a)
{
    return a.d_v + 4;
}
KDEV float *attn_part(const struct attn_args &a, int64_t row, int32_t split)
{
    return a.part + (row * a.n_split + split) * attn_part_floats(a);
}

bool attention_tile_can(const struct attn_args *a);
/* K_UNSUPPORTED: a block may not have the shared memory that heads of this size take; nothing was done. */
enum k_status attention_tile(const struct attn_env *env, struct attn_args *a);
enum k_status attention_plain(const struct attn_env *env, const struct attn_args *a);

#endif
