/* Products in float32 throughout: of F32 weights, and of any under PRECISE. One plain kernel for any number of tokens; also
 * the ancestor that the tests hold the fast ones to. */
#include "kernels/cuda/matmul.cuh"

#define PRECISE_WARPS 4

/* grid: rows / 4, tiles of 8 pairs, matrices; block: 4 warps, one row each; no shared memory. Lane l adds products l, l +
 * 32, .. in order, then the lanes are added by warp_sum(). Weights are read once per 8 pairs. Bound by memory for F32 (the
 * routers), else by dequantising one element at a time: about 40 instructions per 32 elements and a quarter more per
 * token. */
KERNEL(mul_f32)(struct mul_job j)
{
    int row = block_x() * PRECISE_WARPS + warp_of_block();
    struct mul_tile tile = tile_at(&j, block_y(), PRECISE_PAIRS);
    if (row >= j.m || tile.count == 0)
        return;
    const uint8_t *w = weight_row(&j, tile.matrix, row);
    const float *x[PRECISE_PAIRS];
    float sum[PRECISE_PAIRS];
    for (int i = 0; i < PRECISE_PAIRS; i++) {
        x[i] = (const float *)(j.x + x_row_of(&j, &tile, i < tile.count ? i : 0) * j.x_bytes);
        sum[i] = 0.0f;
    }
    for (int k = lane(); k < j.n; k += WARP) {
        float v = weight_at(j.type, w, k);
        for (int i = 0; i < PRECISE_PAIRS; i++)
            if (i < tile.count)
                sum[i] = fma_rn(v, x[i][k], sum[i]);
    }
    for (int i = 0; i < PRECISE_PAIRS; i++) {
        float total = warp_sum(sum[i]);
        if (lane() == 0 && i < tile.count)
            y_row_of(&j, &tile, i)[row] = j.bias ? total + j.bias[row] : total;
    }
}

enum k_status mul_precise(struct k_ctx *c, const struct mul_job *j, int64_t grid_tiles)
{
    int64_t rows = (j->m + PRECISE_WARPS - 1) / PRECISE_WARPS, matrices = j->ids || j->tiles ? 1 : j->n_matrix;
    if (grid_tiles > 65535)
        return K_BAD_SHAPE;
    return launch(c->stream, mul_f32, grid_of(rows, grid_tiles, matrices), PRECISE_WARPS * WARP, 0, *j);
}
