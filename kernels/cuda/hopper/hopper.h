/* What only a device of compute capability 9.0 does. Files of this folder are compiled for sm_90a and for nothing else:
 * what others call of them is host code. */
#ifndef KERNELS_CUDA_HOPPER_HOPPER_H
#define KERNELS_CUDA_HOPPER_HOPPER_H

#include "kernels/cuda/matmul.cuh"

/* Whether this device has warpgroup products and they round as those of a warp do: then sums are the same, bit for bit,
 * whichever made them. Tried, on numbers of all sizes, when a device is opened; waits. A device that does otherwise is
 * done without, which costs speed and no result. */
bool hopper_works(struct k_ctx *c);
/* Of weights whose rows begin on multiples of 16 bytes. 64 rows and 64 pairs, or 128 rows and 64, 128 or 192; gated
 * (w_up): 128 rows, half of each matrix. */
enum k_status mul_gemm_hopper(struct k_ctx *c, const struct mul_job *j, struct mul_shape shape, int64_t grid_tiles);

#endif
