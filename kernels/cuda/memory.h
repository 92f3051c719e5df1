/* Sizes of the pinned memory that copies go through. */
#ifndef KERNELS_CUDA_MEMORY_H
#define KERNELS_CUDA_MEMORY_H

#define CUDA_STAGING ((size_t)1 << 20) /* put(): ids and rows of a step are far less */
#define CUDA_CHUNK   ((size_t)4 << 20) /* put_many(): one copy, and two of these per thread */

#endif
