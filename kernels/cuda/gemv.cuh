/* What gemv.cu and gemv_direct.cu share: blocks of 16 rows, and where they find theirs. */
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

/* ---- 16-bit weights ---- */

#define GEMV_PIECES_LOG2 5 /* 32 pieces of 16 bytes in a row's slice */

/* Where a block's rows begin, eight one after the other from each of two places, and how many of these there are. */
struct gemv_halves {
    const uint8_t *row[2];
    int left[2];
};
KDEV struct gemv_halves gemv_halves_of(const struct mul_job *j, int matrix, int out0)
{
    const int half = GEMV_ROWS / 2;
    const uint8_t *row = weight_row(j, matrix, out0);
    struct gemv_halves h = {{row, j->w_up ? j->w_up + (row - j->w) : row + half * j->row_bytes},
                            {j->m - out0, j->m - out0 - (j->w_up ? 0 : half)}};
    return h;
}

/* Begin to copy a slice of the rows, a lane eight elements of each; zeros past the last row. */
KDEV void gemv_stage_16(const struct mul_job *j, const struct gemv_halves *rows, uint8_t *stage, int slice)
{
    int k = slice * SLICE + 8 * lane();
    bool aligned = j->row_bytes % 16 == 0;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const uint8_t *from = rows->row[h] + 2 * k;
        if (aligned) {
#pragma unroll
            for (int r = 0; r < GEMV_ROWS / 2; r++, from += j->row_bytes)
                cp_async16(piece_16(stage, GEMV_PIECES_LOG2, GEMV_ROWS / 2 * h + r, lane()), from,
                           k < j->n && r < rows->left[h]);
        } else {
#pragma unroll 1
            for (int r = 0; r < GEMV_ROWS / 2; r++, from += j->row_bytes)
                piece_16_stage(piece_16(stage, GEMV_PIECES_LOG2, GEMV_ROWS / 2 * h + r, lane()), from,
                               r < rows->left[h] ? j->n - k : 0, false);
        }
    }
}

/* Products of 16 elements one after the other; fragments are loaded four ahead. */
KDEV void gemv_multiply_16(enum act_form form, uint8_t *stage, const uint32_t b[SLICE / 16][2], float acc[4])
{
#pragma unroll
    for (int k = 0; k < SLICE / 16; k += 4) {
        uint32_t a[4][4];
        for (int i = 0; i < 4; i++)
            ldmatrix_x4(a[i], piece_16(stage, GEMV_PIECES_LOG2, lane_row_a(), 2 * (k + i) + lane_piece_a()));
        for (int i = 0; i < 4; i++)
            mma_16(form, acc, a[i], b[k + i]);
    }
}

#endif
