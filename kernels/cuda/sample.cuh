/* Choosing tokens on the device. */
#ifndef KERNELS_CUDA_SAMPLE_CUH
#define KERNELS_CUDA_SAMPLE_CUH

#include "kernels/cuda/portable.cuh"
#include "kernels/sample.h"

/* out[n], logits[rows, n_vocab] and s[n] on the device; K_UNSUPPORTED: n_vocab is beyond what the kernel holds. */
enum k_status sample_rows(stream_t st, struct k_sampled *out, const float *logits, int32_t n_vocab,
                          const struct k_sample *s, int32_t n);

#endif
