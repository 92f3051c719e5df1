/* Products in float32 throughout: of F32 weights, and of any under PRECISE. One plain kernel for any number of tokens;
 * also the ancestor that the tests hold the fast ones to. */
#include "kernels/cuda/precise.cuh"

/* grid: rows, tiles of 8 pairs, matrices; block: 128, one row. Weights are read once per 8 pairs. F32 (the routers): a
 * few loads per thread, latency; other types: bound by dequantising one element at a time, about 40 instructions per 32
 * elements and a quarter more per token. */
KERNEL(mul_f32)(struct mul_job j)
{
    let_next_begin();
    wait_for_before();
    struct mul_tile tile = tile_at(&j, block_y(), PRECISE_PAIRS);
    if (tile.count > 0)
        precise_row(&j, &tile, block_x());
}

enum k_status mul_precise(struct k_ctx *c, const struct mul_job *j, int64_t grid_tiles)
{
    int64_t matrices = j->ids || j->tiles ? 1 : j->n_matrix;
    if (grid_tiles > 65535)
        return K_BAD_SHAPE;
    return launch_early(c->stream, c->early, mul_f32, grid_of(j->m, grid_tiles, matrices), PRECISE_BLOCK, 0, *j);
}
