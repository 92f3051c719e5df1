/* The norm of one row by one warp: rows.cu, and positions.cu in passing. */
#ifndef KERNELS_CUDA_NORM_CUH
#define KERNELS_CUDA_NORM_CUH

#include "kernels/cuda/portable.cuh"

#define NORM_WARP_DIM_MAX 512 /* longer rows are a block's (rows.cu); which of the two depends on dim alone */

KDEV float norm_scale(double sum, int32_t dim, float eps)
{
    return (float)(1.0 / sqrt(sum / (double)dim + (double)eps));
}

/* y = x * scale * w for one row; `at` counts the threads that share it. The second reading comes from the cache. */
KDEV void norm_scale_row(float *y, const float *x, const float *w, float scale, int32_t dim, int at, int threads)
{
    for (int32_t i = at; i < dim; i += threads)
        y[i] = x[i] * scale * w[i];
}

/* The sum in double, lane l adding elements l, l + 32, ... in order, then a butterfly. y may be x. */
KDEV void norm_row_by_warp(float *y, const float *x, const float *w, int32_t dim, float eps)
{
    double sum = 0.0;
    for (int32_t i = lane(); i < dim; i += WARP)
        sum += (double)x[i] * (double)x[i];
    norm_scale_row(y, x, w, norm_scale(warp_sum(sum), dim, eps), dim, lane(), WARP);
}

#endif
