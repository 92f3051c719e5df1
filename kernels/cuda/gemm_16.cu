/* Products of F16 and BF16 weights with many tokens, on the tensor cores, float sums. A block makes the outputs of BM
 * rows and BN pairs; pieces of 64 elements of k of both sides come through a ring of cp.async stages. Slices' sums are
 * the same as in gemv.cu, 16 products of 16 elements one after the other, and then added in order: which costs a second
 * set of registers, and one addition per sum and slice, a sixteenth of the products' number.
 *
 * Bytes per call: weights once per BN pairs, activations once per BM rows, from L2; flops: 2 m n pairs. 128 x 128: per
 * 16 elements of k a block's warps read 24 KiB of shared memory, 192 cycles, for 128 products of 2048 multiplications:
 * at the rate of mma.sync (A100: 1024 a cycle, H100: about 1300) 200 to 256 cycles. Bound by the tensor cores, shared
 * memory close behind. The smaller tiles are for fewer pairs, when blocks would be too few to fill the device: there it
 * is memory that bounds, and a ring is as long as it takes to have 28 KiB of the weights under way with one block to a
 * multiprocessor, which is latency times bandwidth. hopper/gemm.cu is faster where there is such a device and more to
 * do. */
#include "kernels/cuda/gemm_16.cuh"

#define GEMM_BLOCK 256
#define WARPS_M    2
#define WARPS_N    4

/* A warp's MT x NT products of 16 rows and 8 pairs with one stage. */
template <int MT, int NT>
KDEV void multiply_piece(enum act_form form, uint8_t *w, uint8_t *x, int row, int col, float acc[MT][NT][4])
{
    for (int k = 0; k < PIECE_K / 16; k++) {
        uint32_t a[MT][4], b[NT / 2][4];
        for (int m = 0; m < MT; m++)
            ldmatrix_x4(a[m], piece_16(w, PIECES_LOG2, row + 16 * m + lane_row_a(), 2 * k + lane_piece_a()));
        for (int i = 0; i < NT / 2; i++)
            ldmatrix_x4(b[i], piece_16(x, PIECES_LOG2, col + 16 * i + lane_row_b(), 2 * k + lane_piece_b()));
        for (int m = 0; m < MT; m++)
            for (int i = 0; i < NT; i++)
                mma_16(form, acc[m][i], a[m], b[i / 2] + 2 * (i & 1));
    }
}

/* grid: rows / BM times tiles of BN pairs, 1, matrices; block 256, 8 warps of BM / 2 rows and BN / 4 pairs; shared: 97
 * to 98 KiB, whose two blocks fit a multiprocessor from 9.0 on. */
template <int BM, int BN, int STAGES> KERNEL_BOUNDS(gemm_16, GEMM_BLOCK, 1)(struct mul_job j)
{
    const int MT = BM / WARPS_M / 16, NT = BN / WARPS_N / 8;
    typedef struct gemm_16_shared<BM, BN, STAGES> shared_t;
    SHARED_DYN(shared_t, s);
    int row_block;
    struct mul_tile tile = tile_in_band(&j, BM, BN, &row_block);
    if (tile.count == 0)
        return;
    int n_pieces = j.np / PIECE_K, row0 = row_block * BM;
    int row = warp_of_block() / WARPS_N * (BM / WARPS_M), col = warp_of_block() % WARPS_N * (BN / WARPS_N);
    bool aligned = j.row_bytes % 16 == 0;
    struct gemm_16_part part = gemm_16_part_of<GEMM_BLOCK, BM>(&j, tile.matrix, row0);
    float total[MT][NT][4] = {};

    find_columns(&j, &tile, s->columns, BN);
    sync_block();
    for (int at = 0; at < STAGES - 1; at++)
        stage_piece<GEMM_BLOCK>(&j, s, part, at, at, aligned);
    int slot = 0, next = STAGES - 1;
    for (int first = 0; first < n_pieces; first += PER_SLICE) {
        float acc[MT][NT][4] = {};
        for (int i = 0; i < PER_SLICE; i++) {
            cp_async_wait<STAGES - 2>();
            sync_block(); /* the piece is there, and the one before has been multiplied */
            stage_piece<GEMM_BLOCK>(&j, s, part, first + i + STAGES - 1, next, aligned);
            multiply_piece<MT, NT>(j.form, s->w[slot], s->x[slot], row, col, acc);
            slot = slot + 1 < STAGES ? slot + 1 : 0;
            next = next + 1 < STAGES ? next + 1 : 0;
        }
        add_slice<MT, NT>(total, acc);
    }
    gemm_write<MT, NT>(&j, s->columns + col, row0 + row, total);
}

template <int BM, int BN, int STAGES>
static enum k_status launch_gemm(struct k_ctx *c, const struct mul_job *j, int64_t grid_tiles)
{
    struct grid3 grid = grid_in_bands(j, BM, grid_tiles);
    return launch(c->stream, gemm_16<BM, BN, STAGES>, grid, GEMM_BLOCK, sizeof(struct gemm_16_shared<BM, BN, STAGES>),
                  *j);
}

enum k_status mul_gemm_16(struct k_ctx *c, const struct mul_job *j, struct mul_shape shape, int64_t grid_tiles)
{
    return shape.rows == 32   ? launch_gemm<32, 64, 8>(c, j, grid_tiles)
           : shape.rows == 64 ? launch_gemm<64, 64, 6>(c, j, grid_tiles)
                              : launch_gemm<128, 128, 3>(c, j, grid_tiles);
}
