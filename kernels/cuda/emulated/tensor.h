/* What the emulated tensor cores want to know of a block of fibers. */
#ifndef KERNELS_CUDA_EMULATED_TENSOR_H
#define KERNELS_CUDA_EMULATED_TENSOR_H

void tensor_begin(int threads); /* a block */
void tensor_end(int threads);
void tensor_copied(void); /* the running thread's cp.async has reached shared memory */
void tensor_sync_block(int threads);

bool tensor_core_is_hopper(void); /* emulated.cpp: the card's; else an A100's */

#endif
