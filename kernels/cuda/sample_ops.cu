/* Sampling as an operation of the table: requests there, choices back. */
#include "kernels/cuda/backend.h"

#include "kernels/cuda/internal.h"
#include "kernels/cuda/sample.cuh"

enum k_status cuda_sample(struct k_ctx *c, struct k_sampled *out, const float *logits, int32_t n_vocab,
                          const struct k_sample *s, int32_t n)
{
    enum k_status st;
    if (n < 0 || (n > 0 && (!out || !logits || !s)))
        return K_BAD_SHAPE;
    if (n == 0)
        return K_OK;
    const size_t requests = (size_t)n * sizeof *s, results = (size_t)n * sizeof *out;
    uint8_t *memory =
        (uint8_t *)cuda_scratch(c, CUDA_SCRATCH_SAMPLE, requests + results, &st); /* both of 8-byte members */
    if (st == K_OK)
        st = cuda_put(c, memory, s, requests);
    if (st == K_OK)
        st = sample_rows(c->stream, (struct k_sampled *)(memory + requests), logits, n_vocab, (struct k_sample *)memory,
                         n);
    if (st == K_OK)
        st = cuda_get(c, out, memory + requests, results);
    return st;
}
