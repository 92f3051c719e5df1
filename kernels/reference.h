/* What the two files of the reference backend share. */
#ifndef KERNELS_REFERENCE_H
#define KERNELS_REFERENCE_H

#include "kernels/internal.h"

struct k_ctx {
    void *scratch; /* owned; grows */
    size_t scratch_bytes;
};

void *reference_scratch(struct k_ctx *c, size_t bytes); /* NULL: out of memory; contents undefined */

enum k_status reference_attention_gqa(struct k_ctx *c, float *y, const float *q, const struct k_kv_pool *kv,
                                      const struct k_gqa *a, const struct k_token_ref *tok, int32_t n_tok);
enum k_status reference_attention_mla(struct k_ctx *c, float *y, const float *q, const struct k_kv_pool *kv,
                                      const struct k_mla *a, const struct k_token_ref *tok, int32_t n_tok);

#endif
