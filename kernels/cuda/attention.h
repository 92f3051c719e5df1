/* Attention on the device: which tokens of a step are worked on together. Host code; the kernels are in
 * attention_tile.cu (tensor cores, F16 and Q8_0 pools) and attention_plain.cu (any pool and shape). */
#ifndef KERNELS_CUDA_ATTENTION_H
#define KERNELS_CUDA_ATTENTION_H

#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

#define ATTN_RUN_TOKENS 64

/* Neighbouring tokens of one sequence at neighbouring positions. */
struct attn_run {
    int32_t first, count;
};

/* Cut a step's tokens: first those that stand alone (decode; a run of 1 each), then runs of up to ATTN_RUN_TOKENS.
 * runs: n_tok entries. Returns their number, *n_alone of which stand alone. Which way a token comes changes no bit of
 * its result. */
int32_t attention_plan(struct attn_run *runs, int32_t *n_alone, const struct k_token_ref *tok, int32_t n_tok);

#ifdef __cplusplus
}
#endif
#endif
