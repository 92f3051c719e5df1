/* Matrix products on the device: the operations of kernels/ops.h with the same arguments, for ops.cu. All pointers are
 * device memory; weights begin on a multiple of 16 bytes (K_BAD_SHAPE otherwise). Nothing is waited for: the products
 * are in the order of the context's stream, and so can be captured in a graph. */
#ifndef KERNELS_CUDA_MATMUL_H
#define KERNELS_CUDA_MATMUL_H

#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The order of sums and roundings below; part of the backend's numerics string. */
#define CUDA_MATMUL_NUMERICS "slice256"

enum k_status cuda_matmul(struct k_ctx *c, const struct k_product *products, int32_t n, const float *x,
                          int64_t x_stride, int32_t n_tok, enum k_precision p);
enum k_status cuda_matmul_add(struct k_ctx *c, const struct k_added *m, int32_t n_tok, enum k_precision p);
enum k_status cuda_matmul_heads(struct k_ctx *c, float *y, int32_t y_head_stride, const float *x, int32_t x_head_stride,
                                const struct k_tensor *w, int32_t n_tok, enum k_precision p);
/* ids are on the device too, and no host round trip is made for them. An id outside of 0 <= id < ne[2] gives no result. */
enum k_status cuda_matmul_experts(struct k_ctx *c, const struct k_product *product, const float *x, bool x_per_expert,
                                  const int32_t *ids, int32_t n_used, int32_t n_tok, enum k_precision p);

#ifdef __cplusplus
}
#endif
#endif
