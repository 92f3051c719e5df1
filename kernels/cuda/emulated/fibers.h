/* Runs the blocks of one launch on fibers. */
#ifndef KERNELS_CUDA_EMULATED_FIBERS_H
#define KERNELS_CUDA_EMULATED_FIBERS_H

#include <functional>

#include "kernels/cuda/portable.cuh"

/* Under AddressSanitizer fibers and the device's memory are told to it. */
#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#endif

#define MAX_THREADS 1024

/* One launch at a time: the caller holds the device's lock. `shared`: dynamic bytes; with the static ones at most
 * shared_max. */
void fibers_run(bool early, const std::function<void()> &body, struct grid3 grid, int block, size_t shared,
                size_t shared_max);

#endif
