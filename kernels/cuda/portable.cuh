/* Everything a kernel of ours may use: launches, warps, tensor cores, memory, streams. The only file that includes
 * CUDA's headers. Compiled by nvcc these are thin wrappers; compiled as plain C++17 with SPW_CUDA_EMULATED the same
 * names come from emulated/emulated.h, which runs each block on the host, so that every kernel is tested without a
 * device.
 *
 * Rules for kernel files.
 * - C style; templates only over types and sizes; no standard library.
 * - Nothing is contracted: nvcc runs with -fmad=false, so a fused multiply-add stands where fma_rn() is written, as on
 *   the CPU.
 * - All 32 lanes of a warp take part in a warp operation; a thread that left the kernel must not be waited for by one.
 * - What a thread reads of memory in a loop it asks for in one go, into an array of its own, before it writes: a compiler
 *   lets no read pass a write that may be to the same place, and one load after the other is what takes the time.
 * - A kernel that is launched by launch_early(.., true, ..) may begin before the one before it in its stream is done,
 *   when each of that one's blocks has called let_next_begin() or ended. So up to wait_for_before(), which all its
 *   threads call, it touches no device memory that a kernel writes: it reads weights, which come to shared memory while
 *   the others are at their end. Behind it all is as it always is. Others may be launched before and after as usual
 *   (CUDA C++ Programming Guide, "Programmatic Dependent Launch"; from compute capability 9.0 on).
 * - Blocks of a launch run in any order and wait for no other. What they make together the last of them ends
 *   (last_of_blocks()): each, when it has written its part and met at a barrier, has one thread say arrive_last(counter,
 *   n), and the one that is told yes may, behind a barrier, read what the others wrote. The counter, zero before the
 *   first, is zero again behind the last, so that a captured launch can be replayed.
 *
 * Sources: CUDA C++ Programming Guide ("Memory Fence Functions" for the last block); PTX ISA 8.7, sections "mma",
 * "wgmma",
 * "ldmatrix" and "cp.async" (fragment layouts), "atom" (inc). */
#ifndef KERNELS_CUDA_PORTABLE_CUH
#define KERNELS_CUDA_PORTABLE_CUH

#include <stddef.h>
#include <stdint.h>

#include "kernels/ops.h"

#define WARP 32

struct grid3 {
    unsigned x, y, z;
};

/* 16 bytes that move as one. */
struct alignas(16) u32x4 {
    uint32_t x, y, z, w;
};

#ifdef SPW_CUDA_EMULATED
#include "kernels/cuda/emulated/emulated.h"
#else
#include "kernels/cuda/device.cuh"
#endif

/* ---- the same in both ---- */

KDEV int lane(void)
{
    return thread_x() & (WARP - 1);
}

KDEV int warp_of_block(void)
{
    return thread_x() / WARP;
}

/* Sum and maximum over a warp, the same in every lane; a butterfly: partners 16, 8, 4, 2, 1 apart. */
KDEV float warp_sum(float v)
{
    for (int m = WARP / 2; m > 0; m /= 2)
        v += shfl_xor(v, m);
    return v;
}

KDEV float warp_max(float v)
{
    for (int m = WARP / 2; m > 0; m /= 2) {
        float o = shfl_xor(v, m);
        v = o > v ? o : v;
    }
    return v;
}

KDEV double warp_sum(double v)
{
    for (int m = WARP / 2; m > 0; m /= 2)
        v += shfl_xor(v, m);
    return v;
}

KDEV int warp_sum_int(int v)
{
    for (int m = WARP / 2; m > 0; m /= 2)
        v += shfl_xor(v, m);
    return v;
}

/* Whether this block is the last of the n that call it with `counter`, so that what the others wrote before is there
 * behind it. All its threads call it; said: the block's, in shared memory. */
KDEV bool last_of_blocks(uint32_t *counter, int n, int32_t *said)
{
    sync_block();
    if (thread_x() == 0)
        *said = arrive_last(counter, n);
    sync_block();
    return *said != 0;
}

/* Elements first, first + step and so on of x and of y, N of them as far as they are below n, asked for in one go. */
template <int N>
KDEV void read_together(float a[N], float b[N], const float *x, const float *y, int64_t first, int step, int64_t n)
{
#pragma unroll
    for (int k = 0; k < N; k++)
        if (first + k * step < n)
            a[k] = x[first + k * step], b[k] = y[first + k * step];
}

KDEV float bf16_to_f32(uint16_t h)
{
    return bits_to_f32((uint32_t)h << 16);
}

/* silu(gate) * up */
KDEV float silu_times(float gate, float up)
{
    return gate / (1.0f + exp_exact(-gate)) * up;
}

static inline struct grid3 grid_of(int64_t x, int64_t y = 1, int64_t z = 1)
{
    struct grid3 g = {(unsigned)x, (unsigned)y, (unsigned)z};
    return g;
}

#endif
