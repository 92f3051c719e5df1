/* Products of F16 and BF16 weights with many tokens by Hopper's warpgroup products, compiled for sm_90a alone. The same
 * sums as in gemm_16.cu: 16 products of 16 elements one after the other to a slice, then the slices in order, as the
 * two kinds of products of this device round alike (works.cu).
 *
 * A block's G warpgroups have 64 rows each and all its 8 NT pairs; of a gated product one has rows of w, the other
 * those of w_up, and their sums meet. While a piece is multiplied the pieces behind it are on their way, and the next
 * product is asked for before this one is done, but where a slice ends: there its sums are added, in a sixteenth of the
 * time that a slice takes, and the tensor cores wait.
 *
 * Bytes per call: weights once per 8 NT pairs, activations once per 64 G rows, from L2; flops: 2 m n pairs. 128 x 192:
 * per piece 768 cycles of the tensor cores, 40 KiB from L2, 53 bytes a cycle of the multiprocessor's 64 or, when all
 * ask at once, some 30: bound by L2, tensor cores close behind. */
#include "kernels/cuda/hopper/hopper.h"

#include "kernels/cuda/gemm_16.cuh"

#define GROUP_ROWS 64
#define GROUP      (4 * WARP)

/* The second group's sums, of w_up, go to the first, which ends both; false: this is the second. room: the rings, which
 * nobody reads any more. */
template <int NT> KDEV bool hopper_gate(float *room, float total[NT][4])
{
    float *at = room + thread_x() % GROUP;
    sync_block();
    if (thread_x() >= GROUP)
#pragma unroll
        for (int i = 0; i < 4 * NT; i++)
            at[i * GROUP] = total[i / 4][i % 4];
    sync_block();
    if (thread_x() >= GROUP)
        return false;
#pragma unroll
    for (int i = 0; i < 4 * NT; i++)
        total[i / 4][i % 4] = silu_times(total[i / 4][i % 4], at[i * GROUP]);
    return true;
}

/* grid: rows / 64 G times tiles of 8 NT pairs, 1, matrices; block 128 G; shared: gemm_16_shared and what aligns it, 204
 * KiB for 128 x 192, 195 for 128 x 128, 98 for the smaller ones, of which two stand on a multiprocessor. */
template <int G, int NT, int STAGES, bool BF16> KERNEL_BOUNDS(gemm_hopper, G *GROUP, NT > 8 ? 1 : 2)(struct mul_job j)
{
    typedef struct gemm_16_shared<G * GROUP_ROWS, 8 * NT, STAGES> shared_t;
    SHARED_DYN(uint8_t, shared);
    shared_t *s = (shared_t *)(shared + (WGMMA_ALIGN - ((uintptr_t)shared & (WGMMA_ALIGN - 1))) % WGMMA_ALIGN);
    const bool gated = G == 2 && j.w_up;
    int row_block, group = thread_x() / GROUP, outputs = gated ? GROUP_ROWS : G * GROUP_ROWS;
    struct mul_tile tile = tile_in_band(&j, outputs, 8 * NT, &row_block);
    if (tile.count == 0)
        return;
    int n_pieces = j.np / PIECE_K, row0 = row_block * outputs;
    float total[1][NT][4] = {}, acc[1][NT][4];

    struct gemm_16_part part = gemm_16_part_of<G * GROUP, G * GROUP_ROWS>(&j, tile.matrix, row0);
    find_columns(&j, &tile, s->columns, 8 * NT);
    sync_block();
    for (int at = 0; at < STAGES - 2; at++)
        stage_piece<G * GROUP>(&j, s, part, at, at, true);
    int slot = 0, next = STAGES - 2;
    for (int first = 0; first < n_pieces; first += PER_SLICE) {
#pragma unroll
        for (int i = 0; i < PER_SLICE; i++) {
            cp_async_wait<STAGES - 3>();
            shared_to_wgmma();
            sync_block(); /* the piece is there, and the one before the last has been multiplied */
            struct wgmma_rows w = wgmma_rows_at(s->w[slot] + group * GROUP_ROWS * 2 * PIECE_K);
            struct wgmma_rows x = wgmma_rows_at(s->x[slot]);
            wgmma_begin();
#pragma unroll
            for (int k = 0; k < PIECE_K / 16; k++)
                wgmma<BF16>(acc[0], wgmma_rows_from(w, k), wgmma_rows_from(x, k), i + k > 0);
            wgmma_end();
            stage_piece<G * GROUP>(&j, s, part, first + i + STAGES - 2, next, true);
            slot = slot + 1 < STAGES ? slot + 1 : 0;
            next = next + 1 < STAGES ? next + 1 : 0;
            wgmma_wait<1>();
        }
        wgmma_wait<0>();
        add_slice<1, NT>(total, acc);
    }
    if (gated && !hopper_gate<NT>((float *)s, total[0]))
        return;
    gemm_write<1, NT>(&j, s->columns, row0 + warp_of_block() * 16, total);
}

template <int G, int NT, int STAGES>
static enum k_status launch_gemm(struct k_ctx *c, const struct mul_job *j, int64_t grid_tiles)
{
    struct grid3 grid = grid_in_bands(j, j->w_up ? GROUP_ROWS : G * GROUP_ROWS, grid_tiles);
    size_t shared = sizeof(struct gemm_16_shared<G * GROUP_ROWS, 8 * NT, STAGES>) + WGMMA_ALIGN - 16;
    return j->form == ACT_BF16 ? launch(c->stream, gemm_hopper<G, NT, STAGES, true>, grid, G * GROUP, shared, *j)
                               : launch(c->stream, gemm_hopper<G, NT, STAGES, false>, grid, G * GROUP, shared, *j);
}

enum k_status mul_gemm_hopper(struct k_ctx *c, const struct mul_job *j, struct mul_shape shape, int64_t grid_tiles)
{
    return shape.rows == 64     ? launch_gemm<1, 8, 6>(c, j, grid_tiles)
           : shape.pairs == 64  ? launch_gemm<2, 8, 4>(c, j, grid_tiles)
           : shape.pairs == 128 ? launch_gemm<2, 16, 6>(c, j, grid_tiles)
                                : launch_gemm<2, 24, 5>(c, j, grid_tiles);
}
