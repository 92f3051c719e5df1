/* What gemv.cu and gemv_dot.cu share: blocks of 16 rows, and where they find theirs. */
#ifndef KERNELS_CUDA_GEMV_CUH
#define KERNELS_CUDA_GEMV_CUH

#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/stage.cuh"

#define GEMV_ROWS  16
#define GEMV_WARPS 4
#define GEMV_BLOCK (GEMV_WARPS * WARP) /* = GEMV_ROWS * GEMV_PAIRS: a thread per sum at the end */

/* Outputs of a block, and the row of the weights (of w, then of w_up) that is row r of its tile; where their tensor ends. */
KHOST_DEV int gemv_outputs(const struct mul_job *j)
{
    return j->w_up ? GEMV_ROWS / 2 : GEMV_ROWS;
}
KDEV const uint8_t *gemv_row(const struct mul_job *j, int matrix, int out0, int r)
{
    const uint8_t *row = weight_row(j, matrix, out0 + r % gemv_outputs(j));
    return r < gemv_outputs(j) ? row : j->w_up + (row - j->w);
}
KDEV const uint8_t *gemv_stop(const struct mul_job *j, int r)
{
    return (r < gemv_outputs(j) ? j->w : j->w_up) + j->w_bytes;
}

/* This block's tile. Which expert's it is, kernels before this one say; else its weights are known at once, and come
 * while those are still at their end. */
KDEV struct mul_tile gemv_tile(const struct mul_job *j)
{
    let_next_begin();
    if (j->ids || j->tiles)
        wait_for_before();
    return tile_at(j, block_y(), GEMV_PAIRS);
}

/* The activations of column i of the tile; columns past the last repeat it, and are not written. */
KDEV const uint8_t *gemv_x(const struct mul_job *j, const struct mul_tile *t, int i)
{
    return j->x + x_row_of(j, t, i < t->count ? i : t->count - 1) * j->x_bytes;
}

/* Which of the jobs is this block's. */
KDEV int gemv_job_of(const struct mul_list *list)
{
    int i = 0;
    while (i + 1 < list->n && block_x() >= list->first[i + 1])
        i++;
    return i;
}

#endif
