/* What the files of kernels/cuda share: the backend's state and what it keeps on the device for a step. */
#ifndef KERNELS_CUDA_INTERNAL_H
#define KERNELS_CUDA_INTERNAL_H

#include "kernels/cuda/portable.cuh"
#include "kernels/internal.h"

/* A step's tokens on the device, made from the host's k_token_ref by cuda_tokens(). A run is a stretch of tokens of one
 * sequence at consecutive positions: a decode token is a run of one, a prefill slice a longer one. */
struct cuda_tokens {
    const int32_t *pos;    /* [n_tok] */
    const int32_t *run_of; /* [n_tok] the token's run */
    const int32_t *first;  /* [n_tok] where in pages[] the list of its sequence begins: position p is in page
                              pages[first[t] + p / K_PAGE_TOKENS] */
    const int32_t *pages;
    const int32_t *run_start; /* [n_runs + 1] its first token; the last entry is n_tok */
    int32_t n_tok, n_runs;
    int32_t run_max; /* tokens of the longest run; 1: decode alone */
    int32_t
        pos_max; /* no token's position is higher. In a captured graph this is the bucket's bound, so that a grid that
                        covers it serves every step of the bucket; the positions themselves are on the device. */
};

/* Scratch areas: one per user, so that none is overwritten while another still needs it. They grow and are kept. */
enum cuda_scratch {
    CUDA_SCRATCH_TOKENS,
    CUDA_SCRATCH_MATMUL,
    CUDA_SCRATCH_EXPERTS,
    CUDA_SCRATCH_ATTENTION,
    CUDA_SCRATCH_COUNT
};

struct k_ctx {
    int device;
    struct device_facts facts;
    stream_t stream;
    struct {
        void *data;
        size_t bytes;
    } scratch[CUDA_SCRATCH_COUNT];
};

/* At least `bytes` of device memory, 256-byte aligned, contents undefined; valid until the same area is asked for more.
 * *status: K_OK or K_NO_MEMORY, and NULL then. Must not grow while a graph is captured (K_DEVICE): the engine runs a step of
 * each bucket before it captures one. */
void *cuda_scratch(struct k_ctx *c, enum cuda_scratch which, size_t bytes, enum k_status *status);

/* The tokens on the device; uploads them unless the step has begun with the same ones. Stream order. */
enum k_status cuda_tokens(struct k_ctx *c, struct cuda_tokens *out, const struct k_token_ref *tok, int32_t n_tok);

#endif
