/* The CUDA backend. Compute capability 8.0 and up. The runtime is linked in, the driver (libcuda.so.1) found when first
 * asked: a program that has this starts on machines without one. */
#ifndef KERNELS_CUDA_CUDA_H
#define KERNELS_CUDA_CUDA_H

#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const struct k_ops k_cuda_ops;

/* Devices that the driver shows, of any capability; 0 without a driver. */
int k_cuda_device_count(void);
/* Whether the backend can use this one. text (may be NULL): its name and memory, or why not. */
bool k_cuda_device_usable(int device, char *text, size_t size);

#ifdef __cplusplus
}
#endif

#endif
