/* What the files of kernels/ share: the common form of all quantised types, the checks at an operation's entry, and
 * the router, which every host backend runs as one piece of scalar code. */
#ifndef KERNELS_INTERNAL_H
#define KERNELS_INTERNAL_H

#include <string.h>

#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Every quantised type is a way to store the same thing: unsigned 8-bit numbers q in groups of 16 or 32, with
 *     value = d * (q - offset) - m
 * where d and m belong to the group. kernels/expand.h brings each type into this form. */
struct quant_form {
    uint8_t group;  /* elements that share d and m: 16 or 32 */
    uint8_t offset; /* zero or a power of two */
    uint8_t bits;   /* every q is below 2^bits */
    bool has_min;   /* m may be other than zero; offset is zero then */
};
const struct quant_form *k_quant_form(uint32_t type); /* NULL for float types and unknown numbers */

/* Checks at the entry of an operation. K_OK, K_BAD_SHAPE, or K_UNSUPPORTED for a type without support. */
enum k_status k_check_get_rows(const void *y, const struct k_tensor *w, const int32_t *ids, int32_t n_tok);
enum k_status k_check_norm(const void *y, const void *x, const void *w, int64_t rows, int32_t dim, int32_t stride);
enum k_status k_check_matmul(const struct k_product *products, int32_t n, const void *x, int64_t x_stride,
                             int32_t n_tok);
enum k_status k_check_heads(const void *y, int32_t y_head_stride, const void *x, int32_t x_head_stride,
                            const struct k_tensor *w, int32_t n_tok);
enum k_status k_check_experts(const struct k_product *product, const void *x, const int32_t *ids, int32_t n_used,
                              int32_t n_tok);
enum k_status k_check_route(const void *ids, const void *weights, const void *logits, const struct k_router *r,
                            int32_t n_tok);
enum k_status k_check_combine(const void *y, const void *x, const void *weights, int32_t n_used, int32_t dim,
                              int32_t n_tok);
enum k_status k_check_rope(const void *x, int64_t row_stride, int32_t n_head, int32_t head_stride,
                           const struct k_token_ref *tok, int32_t n_tok, const struct k_rope *r);
enum k_status k_check_store(const struct k_kv_pool *kv, const void *rows, int64_t stride, int32_t offset, int32_t n,
                            const struct k_token_ref *tok, int32_t n_tok);
enum k_status k_check_gqa(const void *y, const void *q, const struct k_kv_pool *kv, const struct k_gqa *a,
                          const struct k_token_ref *tok, int32_t n_tok);
enum k_status k_check_mla(const void *y, const void *q, const struct k_kv_pool *kv, const struct k_mla *a,
                          const struct k_token_ref *tok, int32_t n_tok);
enum k_status k_check_place_gqa(const struct k_kv_pool *kv, const struct k_gqa_rows *rows, const struct k_gqa *a,
                                const struct k_rope *r, const struct k_token_ref *tok, int32_t n_tok);
enum k_status k_check_place_mla(const struct k_kv_pool *kv, const struct k_mla_rows *rows, const struct k_mla *a,
                                const struct k_rope *r, const struct k_token_ref *tok, int32_t n_tok);
enum k_status k_check_copy(const void *y, int64_t y_stride, const void *x, int64_t x_stride, int64_t rows, int32_t n);
enum k_status k_check_values(const void *y, const void *a, const void *b, int64_t n);

/* Memory, copies and steps of the host backends. */
enum k_status k_host_buf_new(struct k_ctx *c, void **p, size_t bytes, enum k_buf where);
void k_host_buf_free(struct k_ctx *c, void *p, size_t bytes, enum k_buf where);
enum k_status k_host_put(struct k_ctx *c, void *to, const void *from, size_t bytes);
enum k_status k_host_copy_rows(struct k_ctx *c, float *y, int64_t y_stride, const float *x, int64_t x_stride,
                               int64_t rows, int32_t n);
enum k_status k_host_step_begin(struct k_ctx *c, const struct k_token_ref *tok, int32_t n_tok, uint64_t shape,
                                enum k_step *how);
enum k_status k_host_step_end(struct k_ctx *c, enum k_status so_far);

/* The router of one token; arguments are checked. ids and weights: n_used; scores: scratch of 2 * n_expert floats. */
void k_route_token(int32_t *ids, float *weights, const float *logits, const struct k_router *r, float *scores);

/* Q8_0, for the pools of keys and values: a half, the scale, then the numbers. */
#define K_Q8_0_ELEMS 32
#define K_Q8_0_BYTES 34

/* Bytes of a row of this pool before element `at`; of Q8_0, before its block. */
static inline int64_t k_kv_offset(const struct k_kv_pool *kv, int64_t at)
{
    if (kv->type == K_Q8_0)
        return at / K_Q8_0_ELEMS * K_Q8_0_BYTES;
    return at * (kv->type == K_F16 ? 2 : 4);
}

/* Quantise the n elements that begin with a block; a last block that they do not fill is filled with zeros. */
void k_kv_quantise(uint8_t *blocks, const float *x, int64_t n);

/* To BF16, nearest even; NaN stays one. */
static inline uint16_t k_f32_to_bf16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    uint32_t nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, quiet = bits >> 16 | 0x40;
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? quiet : nearest);
}

/* Address of a row in the pool. */
static inline void *k_kv_row(const struct k_kv_pool *kv, const int32_t *page_ids, int32_t pos)
{
    return (uint8_t *)kv->data + (int64_t)page_ids[pos / K_PAGE_TOKENS] * kv->page_stride +
           (int64_t)(pos % K_PAGE_TOKENS) * (int64_t)k_kv_row_bytes(kv->type, kv->row_elems);
}

#ifdef __cplusplus
}
#endif

#endif
