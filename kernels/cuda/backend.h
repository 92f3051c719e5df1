/* The operations of the CUDA backend besides products (matmul.h) and attention (attention.h), for the table in ops.c;
 * the contracts are those of kernels/ops.h. */
#ifndef KERNELS_CUDA_BACKEND_H
#define KERNELS_CUDA_BACKEND_H

#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* context.cu */
struct k_ctx *cuda_ctx_new(int threads, int device);
void cuda_ctx_free(struct k_ctx *c);
const char *cuda_numerics(const struct k_ctx *c);
const char *cuda_device_text(const struct k_ctx *c);
const char *cuda_error_text(const struct k_ctx *c);
/* gemm_lt.cu */
enum k_status cuda_use_library(struct k_ctx *c, const char *file, char *text, size_t size);
/* memory.cu */
enum k_status cuda_buf_new(struct k_ctx *c, void **p, size_t bytes, enum k_buf where);
void cuda_buf_free(struct k_ctx *c, void *p, size_t bytes, enum k_buf where);
enum k_status cuda_put(struct k_ctx *c, void *to, const void *from, size_t bytes);
enum k_status cuda_get(struct k_ctx *c, void *to, const void *from, size_t bytes);
enum k_status cuda_send(struct k_ctx *c, void *to, const void *from, size_t bytes);
enum k_status cuda_fetch(struct k_ctx *c, void *to, const void *from, size_t bytes);
enum k_status cuda_memory(struct k_ctx *c, size_t *free_bytes, size_t *total_bytes);
/* upload.cu */
enum k_status cuda_put_many(struct k_ctx *c, const struct k_copy *copies, size_t n);
/* beside.cu */
enum k_status cuda_host_begin(struct k_ctx *c, const struct k_host_work *w);
enum k_status cuda_host_end(struct k_ctx *c);
/* step.cu */
int32_t cuda_step_rows(const struct k_ctx *c, int32_t n_tok);
enum k_status cuda_step_begin(struct k_ctx *c, const struct k_token_ref *tok, int32_t n_tok, uint64_t shape,
                              enum k_step *how);
enum k_status cuda_step_end(struct k_ctx *c, enum k_status so_far);
/* rows.cu */
enum k_status cuda_get_rows(struct k_ctx *c, float *y, const struct k_tensor *w, const int32_t *ids, int32_t n_tok);
enum k_status cuda_copy_rows(struct k_ctx *c, float *y, int64_t y_stride, const float *x, int64_t x_stride,
                             int64_t rows, int32_t n);
enum k_status cuda_rms_norm(struct k_ctx *c, float *y, const float *x, const float *w, int64_t rows, int32_t dim,
                            int32_t stride, float eps);
enum k_status cuda_silu_mul(struct k_ctx *c, float *y, const float *gate, const float *up, int64_t n);
enum k_status cuda_add(struct k_ctx *c, float *y, const float *x, int64_t n);
/* positions.cu */
enum k_status cuda_rope(struct k_ctx *c, float *x, int64_t row_stride, int32_t n_head, int32_t head_stride,
                        const struct k_token_ref *tok, int32_t n_tok, const struct k_rope *r);
enum k_status cuda_kv_store(struct k_ctx *c, const struct k_kv_pool *kv, const float *rows, int64_t stride,
                            int32_t offset, int32_t n, const struct k_token_ref *tok, int32_t n_tok);
enum k_status cuda_place_gqa(struct k_ctx *c, const struct k_kv_pool *kv, const struct k_gqa_rows *rows,
                             const struct k_gqa *a, const struct k_rope *r, const struct k_token_ref *tok,
                             int32_t n_tok);
enum k_status cuda_place_mla(struct k_ctx *c, const struct k_kv_pool *kv, const struct k_mla_rows *rows,
                             const struct k_mla *a, const struct k_rope *r, const struct k_token_ref *tok,
                             int32_t n_tok);
/* route.cu */
enum k_status cuda_route(struct k_ctx *c, int32_t *ids, float *weights, const float *logits, const struct k_router *r,
                         int32_t n_tok);
enum k_status cuda_choose(struct k_ctx *c, const struct k_choice *m, const struct k_router *r, int32_t n_tok);
/* moe.cu */
enum k_status cuda_combine_experts(struct k_ctx *c, float *y, const float *x, const float *weights, int32_t n_used,
                                   int32_t dim, int32_t n_tok);
enum k_status cuda_moe(struct k_ctx *c, float *y, const struct k_moe *m, int32_t n_tok, enum k_precision p);
/* sample_ops.cu */
enum k_status cuda_sample_begin(struct k_ctx *c, int slot, const float *logits, int32_t n_vocab,
                                const struct k_sample *s, int32_t n);
enum k_status cuda_sample_end(struct k_ctx *c, int slot, struct k_sampled *out, int32_t n);
enum k_status cuda_take_chosen(struct k_ctx *c, int32_t *ids, int slot, const int32_t *from, int32_t n);

#ifdef __cplusplus
}
#endif

#endif
