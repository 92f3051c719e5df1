/* Products of F16 and BF16 weights with many tokens, on the tensor cores, float sums. A block makes the outputs of BM rows
 * and BN pairs; pieces of 64 elements of k of both sides come through a ring of cp.async stages. Slices' sums are the same
 * as in gemv.cu, 16 products of 16 elements one after the other, and then added in order: which costs a second set of
 * registers, and one addition per sum and slice, a sixteenth of the products' number.
 *
 * Bytes per call: weights once per BN pairs, activations once per BM rows, from L2; flops: 2 m n pairs. 128 x 128: per 16
 * elements of k a block's warps read 24 KiB of shared memory, 192 cycles, for 128 products of 2048 multiplications: at the
 * rate of mma.sync (A100: 1024 a cycle, H100: about 1300) 200 to 256 cycles. Bound by the tensor cores, shared memory close
 * behind. The smaller tiles are for fewer pairs, when blocks would be too few to fill the device. */
#include "kernels/cuda/stage.cuh"

#define GEMM_BLOCK  256
#define WARPS_M     2
#define WARPS_N     4
#define PIECE_K     64 /* elements of k in a stage */
#define PIECES_LOG2 3  /* 8 pieces of 16 bytes to a row */
#define STAGES      3
#define PER_SLICE   (SLICE / PIECE_K)

template <int BM, int BN> struct gemm_16_shared {
    uint8_t w[STAGES][BM * 2 * PIECE_K], x[STAGES][BN * 2 * PIECE_K];
    int32_t x_row[BN];
};

/* Begin to copy piece `at` of k, eight threads to a row. */
template <int BM, int BN>
KDEV void stage_piece(const struct mul_job *j, struct gemm_16_shared<BM, BN> *s, int matrix, int row0, int at)
{
    int r = thread_x() / 8, p = thread_x() & 7, k = at * PIECE_K + 8 * p;
    if (k < j->np) {
        for (int i = r; i < BM; i += GEMM_BLOCK / 8)
            piece_16_stage(piece_16(s->w[at % STAGES], PIECES_LOG2, i, p), weight_row(j, matrix, row0 + i), k, j->n,
                           j->row_bytes % 16 == 0);
        for (int i = r; i < BN; i += GEMM_BLOCK / 8)
            cp_async16(piece_16(s->x[at % STAGES], PIECES_LOG2, i, p), j->x + s->x_row[i] * j->x_bytes + 2 * k, true);
    }
    cp_async_commit();
}

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

/* grid: rows / BM times tiles of BN pairs, 1, matrices; block 256, 8 warps of BM / 2 rows and BN / 4 pairs; shared: 96 KiB for 128 x
 * 128, 48 and 36 for the others. */
template <int BM, int BN> KERNEL_BOUNDS(gemm_16, GEMM_BLOCK, 1)(struct mul_job j)
{
    const int MT = BM / WARPS_M / 16, NT = BN / WARPS_N / 8;
    typedef struct gemm_16_shared<BM, BN> shared_t;
    SHARED_DYN(shared_t, s);
    int row_block;
    struct mul_tile tile = tile_in_band(&j, BM, BN, &row_block);
    if (tile.count == 0)
        return;
    int n_pieces = j.np / PIECE_K, row0 = row_block * BM;
    int row = warp_of_block() / WARPS_N * (BM / WARPS_M), col = warp_of_block() % WARPS_N * (BN / WARPS_N);
    float total[MT][NT][4] = {};

    for (int i = thread_x(); i < BN; i += GEMM_BLOCK)
        s->x_row[i] = (int32_t)x_row_of(&j, &tile, i < tile.count ? i : tile.count - 1);
    sync_block();
    for (int at = 0; at < STAGES - 1; at++)
        stage_piece<BM, BN>(&j, s, tile.matrix, row0, at);
    for (int at = 0; at < n_pieces; at += PER_SLICE) {
        float acc[MT][NT][4] = {};
        for (int i = at; i < at + PER_SLICE; i++) {
            cp_async_wait<STAGES - 2>();
            sync_block(); /* the piece is there, and the one before has been multiplied */
            stage_piece<BM, BN>(&j, s, tile.matrix, row0, i + STAGES - 1);
            multiply_piece<MT, NT>(j.form, s->w[i % STAGES], s->x[i % STAGES], row, col, acc);
        }
        add_slice<MT, NT>(total, acc);
    }
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int i = 0; i < NT; i++)
            gemm_write(&j, &tile, row0 + row + 16 * m, col + 8 * i, total[m][i]);
}

template <int BM, int BN> static enum k_status launch_gemm(struct k_ctx *c, const struct mul_job *j, int64_t grid_tiles)
{
    struct grid3 grid = grid_in_bands(j, BM, grid_tiles);
    return launch(c->stream, gemm_16<BM, BN>, grid, GEMM_BLOCK, sizeof(struct gemm_16_shared<BM, BN>), *j);
}

enum k_status mul_gemm_16(struct k_ctx *c, const struct mul_job *j, int rows, int64_t grid_tiles)
{
    return rows == 32   ? launch_gemm<32, 64>(c, j, grid_tiles)
           : rows == 64 ? launch_gemm<64, 64>(c, j, grid_tiles)
                        : launch_gemm<128, 128>(c, j, grid_tiles);
}
