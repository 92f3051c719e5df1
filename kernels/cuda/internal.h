/* What the files of kernels/cuda share: the backend's state and what it keeps on the device for a step. */
#ifndef KERNELS_CUDA_INTERNAL_H
#define KERNELS_CUDA_INTERNAL_H

#include <pthread.h>

#include "kernels/cuda/backend.h"
#include "kernels/cuda/portable.cuh"
#include "kernels/internal.h"

/* A step's tokens on the device, made from the host's k_token_ref by cuda_tokens(). A run is a stretch of tokens of one
 * sequence at consecutive positions: a decode token is a run of one, a prefill slice a longer one. */
struct cuda_tokens {
    const int32_t *pos;       /* [n_tok] */
    const int32_t *run_of;    /* [n_tok] the token's run */
    const int32_t *first;     /* [n_tok] where in pages[] the list of its sequence begins: position p is in page
                              pages[first[t] + p / K_PAGE_TOKENS] */
    const int32_t *run_start; /* [n_runs + 1] its first token; the last entry is n_tok */
    const int32_t *pages;
    int32_t n_tok, n_runs;
    int32_t run_max; /* tokens of the longest run; 1: decode alone */
    int32_t pos_max; /* no token's position is higher: a power of two less one, so that a grid that covers it serves a
                        captured graph for a while; the positions themselves are on the device. */
};

/* Whether token t is a row of padding (K_PAGE_NONE). */
KDEV bool token_is_padding(const struct cuda_tokens &t, int32_t token)
{
    return t.pages[t.first[token]] == K_PAGE_NONE;
}

/* Scratch areas: one per user, so that none is overwritten while another still needs it. They grow and are kept. */
enum cuda_scratch {
    CUDA_SCRATCH_TOKENS,
    CUDA_SCRATCH_MATMUL,
    CUDA_SCRATCH_GATED,
    CUDA_SCRATCH_EXPERTS,
    CUDA_SCRATCH_ATTENTION,
    CUDA_SCRATCH_SAMPLE,
    CUDA_SCRATCH_IDS,
    CUDA_SCRATCH_ARRIVED,
    CUDA_SCRATCH_COUNT
};

/* The steps that were captured: found by what makes their launches equal. */
#define CUDA_GRAPHS 256
struct cuda_graph {
    int32_t n_tok, pos_max;
    uint64_t shape;
    uint32_t generation; /* of the scratch areas whose addresses it holds */
    uint32_t used_at;    /* 0: the entry is free */
    graph_t graph;       /* valid if recorded */
    bool recorded;
};

/* Choices of tokens: on the device, and on their way to the host. */
struct cuda_choices {
    struct k_sampled *device, *host; /* room for `room`, the latter pinned */
    int32_t room;
    event_t done;
};

struct k_ctx {
    int device;
    struct device_facts facts;
    char numerics[96], text[288], error[192];
    pthread_mutex_t error_lock; /* several threads may fail at once; who reads it has waited for them */
    stream_t stream;
    stream_t beside;                /* the host's work and its copies (beside.cu) */
    event_t beside_from, beside_to; /* in `stream`: it may begin; in `beside`: it is done */
    struct {
        void *data;
        size_t bytes;
    } scratch[CUDA_SCRATCH_COUNT];
    uint32_t generation; /* counts growths */
    bool early;          /* kernels may begin before what is before them has run (early.cu) */
    bool wgmma;          /* Hopper's products of a warpgroup are to be had (hopper/hopper.h) */

    struct upload_lane *lanes;  /* upload.cu */
    pthread_mutex_t lanes_lock; /* whose copies go through them */

    uint8_t *staging; /* pinned; what put() brought since the last wait */
    size_t staged;

    /* A step's tokens, pinned, as they stand on the device: one is filled while the other may still be on its way. */
    struct {
        void *data;
        size_t bytes;
        event_t sent;
        bool in_flight;
    } plans[2];
    int plan; /* the one used last */
    struct cuda_choices choices[K_SLOTS];

    struct cuda_tokens tokens;
    const struct k_token_ref *tokens_of; /* NULL: tokens are nobody's */
    int32_t tokens_n;

    struct gemm_lt *lt; /* gemm_lt.cu; NULL: our own kernels make all products */

    struct cuda_graph graphs[CUDA_GRAPHS];
    struct cuda_graph *recording;
    uint32_t clock;
};

/* At least `bytes` of device memory, 256-byte aligned, contents undefined; valid until the same area is asked for more.
 * *status: K_OK or K_NO_MEMORY, and NULL then. It does not grow while a graph is captured (K_DEVICE): a step of each kind
 * runs once before one is captured. */
void *cuda_scratch(struct k_ctx *c, enum cuda_scratch which, size_t bytes, enum k_status *status);

/* CUDA_ARRIVED zeros on the device, for arrive_last() (portable.cuh); one area for all, as a launch leaves zeros behind
 * and none counts before the one before it is done. *status as above. */
uint32_t *cuda_arrived(struct k_ctx *c, enum k_status *status);
#define CUDA_ARRIVED 65536

/* The tokens on the device; uploads them unless the step has begun with the same ones. Stream order. */
enum k_status cuda_tokens(struct k_ctx *c, struct cuda_tokens *out, const struct k_token_ref *tok, int32_t n_tok);

/* Remembers the driver's words for error_text() when s says that the device failed; returns s. On the thread whose call
 * failed: no other's errors are seen. */
enum k_status cuda_note(struct k_ctx *c, enum k_status s);
bool cuda_early_works(struct k_ctx *c); /* early.cu; waits */
void cuda_graphs_free(struct k_ctx *c);
void cuda_library_free(struct k_ctx *c);
void cuda_plans_free(struct k_ctx *c);
void cuda_upload_free(struct k_ctx *c);
void cuda_choices_free(struct k_ctx *c);

#endif
