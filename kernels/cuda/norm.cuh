/* The norm of one row by a warp or a block: rows.cu, and others in passing. The order of a row's sum depends on its
 * length alone, not on who adds it up. */
#ifndef KERNELS_CUDA_NORM_CUH
#define KERNELS_CUDA_NORM_CUH

#include "kernels/cuda/portable.cuh"

#define NORM_WARP_DIM_MAX 512 /* longer rows are a block's */
#define NORM_LANES        256 /* of a longer row's sum */

KDEV float norm_scale(double sum, int32_t dim, float eps)
{
    return (float)(1.0 / sqrt(sum / (double)dim + (double)eps));
}

/* y = x * scale * w for one row; `at` counts the threads that share it. The second reading comes from the cache, eight
 * elements of a thread at a time: y may be x, so that nothing is read behind a write that could have gone before it. */
KDEV void norm_scale_row(float *y, const float *x, const float *w, float scale, int32_t dim, int at, int threads)
{
    const int TOGETHER = 8;
    for (int32_t first = at; first < dim; first += TOGETHER * threads) {
        float v[TOGETHER], by[TOGETHER];
        read_together<TOGETHER>(v, by, x, w, first, threads, dim);
#pragma unroll
        for (int k = 0; k < TOGETHER; k++)
            if (first + k * threads < dim)
                y[first + k * threads] = v[k] * scale * by[k];
    }
}

/* The sum in double, lane l adding elements l, l + 32, ... in order, then a butterfly. y may be x. */
KDEV void norm_row_by_warp(float *y, const float *x, const float *w, int32_t dim, float eps)
{
    double sum = 0.0;
    for (int32_t i = lane(); i < dim; i += WARP)
        sum += (double)x[i] * (double)x[i];
    norm_scale_row(y, x, w, norm_scale(warp_sum(sum), dim, eps), dim, lane(), WARP);
}

/* Shared memory of a block's norm. */
struct norm_room {
    double part[NORM_LANES / WARP];
    int32_t said;
};

/* The sum in double over a long row, the same in all THREADS threads: lane l of NORM_LANES adds elements l, l + 256 and
 * so on in order, 32 lanes meet in a butterfly, and these are added one after the other. */
template <int THREADS> static KMEMBER double norm_sum(const float *x, int32_t dim, struct norm_room *room)
{
    enum { EACH = NORM_LANES / THREADS }; /* lanes of a thread */
    double sum[EACH] = {};
#pragma unroll 16 / EACH /* so many are asked for at a time */
    for (int32_t first = thread_x(); first < dim; first += NORM_LANES)
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            const int32_t i = first + e * THREADS;
            if (i < dim)
                sum[e] += (double)x[i] * (double)x[i];
        }
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const double v = warp_sum(sum[e]);
        if (lane() == 0)
            room->part[(e * THREADS + thread_x()) / WARP] = v;
    }
    sync_block();
    double total = 0.0;
    for (int i = 0; i < NORM_LANES / WARP; i++)
        total += room->part[i];
    return total;
}

/* By all of the block's THREADS threads; room: free before. y may be x. */
template <int THREADS>
static KMEMBER void norm_row_by_block(float *y, const float *x, const float *w, int32_t dim, float eps,
                                      struct norm_room *room)
{
    if (dim > NORM_WARP_DIM_MAX)
        norm_scale_row(y, x, w, norm_scale(norm_sum<THREADS>(x, dim, room), dim, eps), dim, thread_x(), THREADS);
    else if (warp_of_block() == 0)
        norm_row_by_warp(y, x, w, dim, eps);
}

/* What follows a kernel: its last block norms rows that all have written. of.y NULL: nothing does. */
struct norm_after {
    struct k_norm of;
    uint32_t *arrived;
};

/* n_rows rows of x from row i on, one after the other, by the last of n blocks that call it so. */
template <int THREADS>
static KMEMBER void norm_by_last(const struct norm_after &a, int i, int n, const float *x, int32_t n_rows, int32_t dim,
                                 struct norm_room *room)
{
    if (!a.of.y || !last_of_blocks(a.arrived + i, n, &room->said))
        return;
    for (int32_t r = 0; r < n_rows; r++) {
        const int64_t at = (int64_t)(i + r) * dim;
        norm_row_by_block<THREADS>(a.of.y + at, x + at, a.of.w, dim, a.of.eps, room);
        sync_block(); /* the room is free again */
    }
}

#endif
