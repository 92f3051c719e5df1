/* Attention on the device as operations of the table (kernels/ops.h holds the contracts). */
#ifndef KERNELS_CUDA_ATTENTION_H
#define KERNELS_CUDA_ATTENTION_H

#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

enum k_status cuda_attention_gqa(struct k_ctx *c, float *y, const float *q, const struct k_kv_pool *kv,
                                 const struct k_gqa *a, const struct k_token_ref *tok, int32_t n_tok);
enum k_status cuda_attention_mla(struct k_ctx *c, float *y, const float *q, const struct k_kv_pool *kv,
                                 const struct k_mla *a, const struct k_token_ref *tok, int32_t n_tok);

#ifdef __cplusplus
}
#endif

#endif
