/* Products by NVIDIA's library (cublaslt.h) in place of gemm_16.cu, where that was asked for: F16 and BF16 matrices,
 * many tokens. A numerics class of its own: the order of a sum is the library's choice and may depend on how many
 * tokens there are, so that a token's result depends on its company. */
#ifndef KERNELS_CUDA_GEMM_LT_CUH
#define KERNELS_CUDA_GEMM_LT_CUH

#include "kernels/cuda/matmul.cuh"

/* Fewer tokens leave the device waiting for memory, where gemv.cu and gemm_16.cu do as well. */
#define GEMM_LT_PAIRS 128

/* Whether the library is in use and can take the job with so many pairs (one matrix, rows on multiples of 16 bytes). */
bool gemm_lt_takes(const struct k_ctx *c, const struct mul_job *j, int32_t n_pairs);
/* K_UNSUPPORTED: it has no algorithm for this shape, and nothing was done. */
enum k_status gemm_lt(struct k_ctx *c, const struct mul_job *j, int32_t n_pairs);

#endif
