/* Products of quantised weights with many tokens, on the tensor cores in 8 bits. A block makes the outputs of BM rows
 * and 64 pairs: per slice of k it expands the rows' blocks once, in shared memory, and multiplies them with all pairs.
 * The slices' sums are the same as in gemv.cu, group by group.
 *
 * While a slice is multiplied the next one's blocks and activations are on their way. Bytes per call: weights once per
 * 64 pairs, activations once per BM rows, from L2; flops: 2 m n pairs. Bound by the float folding of the groups: per
 * m16n8k32 product, 4 cycles of a tensor core at its 8-bit rate, a warp folds 4 sums with 3 (a minimum: 4) instructions
 * each, 12 to 16 cycles of its scheduler: about a quarter of the 8-bit rate, half of the 16-bit one. */
#include "kernels/cuda/multiply.cuh"
#include "kernels/cuda/stage.cuh"

#define BN         GEMM_Q8_PAIRS
#define GEMM_BLOCK 256
#define WARPS_M    2
#define WARPS_N    4
#define NT         (BN / WARPS_N / 8) /* n tiles of a warp */

/* Activations of the tile's pairs and one slice. */
struct x_tile {
    int8_t *q; /* [BN][Q_STRIDE] */
    float *d;  /* [BN][SLICE / 32] */
    float *s;  /* [BN][GROUPS_MAX] */
};
#define X_BYTES (BN * (Q_STRIDE + SLICE / 32 * 4 + GROUPS_MAX * 4))

/* A block's shared memory: the rows' blocks, expanded rows, activations twice, and where the pairs' are. */
struct gemm_block {
    uint8_t *raw;
    struct expanded_tile t;
    uint8_t *x;
    struct tile_column *columns;
};

KHOST_DEV int gemm_shared_bytes(const struct mul_job *j, int bm)
{
    return bm * j->slot_bytes + EXPANDED_BYTES(bm) + 2 * X_BYTES + BN * (int)sizeof(struct tile_column);
}

KDEV struct gemm_block gemm_block_at(const struct mul_job *j, uint8_t *shared, int bm)
{
    struct gemm_block s;
    s.raw = shared;
    shared += bm * j->slot_bytes;
    s.t = expanded_tile_at(shared, bm);
    shared += EXPANDED_BYTES(bm);
    s.x = shared;
    s.columns = (struct tile_column *)(shared + 2 * X_BYTES);
    return s;
}

KDEV struct x_tile x_tile_of(const struct gemm_block *s, int slice)
{
    uint8_t *at = s->x + (slice & 1) * X_BYTES;
    struct x_tile x = {(int8_t *)at, (float *)(at + BN * Q_STRIDE), NULL};
    x.s = x.d + BN * (SLICE / 32);
    return x;
}

/* Begin to copy a slice: the rows' blocks, some threads to a row, and the pairs' activations, four threads to a pair. */
template <int BM>
KDEV void stage_slice(const struct mul_job *j, const struct gemm_block *s, int matrix, int row0, int slice)
{
    const int parts = GEMM_BLOCK / BM;
    int r = thread_x() / parts, i = thread_x() / 4, part = thread_x() & 3, n_s = SLICE / j->group;
    raw_stage(j, s->raw + r * j->slot_bytes, weight_row(j, matrix, row0 + r), j->w + j->w_bytes, slice,
              thread_x() % parts, parts);
    const uint8_t *x = column_x(j, &s->columns[i]);
    struct x_tile to = x_tile_of(s, slice);
    for (int p = part; p < SLICE / 16; p += 4)
        cp_async16(to.q + i * Q_STRIDE + 16 * p, x + slice * SLICE + 16 * p, true);
    if (part < SLICE / 32 / 4)
        cp_async16(to.d + i * (SLICE / 32) + 4 * part, act_d(j, x) + slice * (SLICE / 32) + 4 * part, true);
    if (j->has_min && part < n_s / 4)
        cp_async16(to.s + i * GROUPS_MAX + 4 * part, act_s(j, x) + slice * n_s + 4 * part, true);
    cp_async_commit();
}

/* A warp's MT x NT products of 16 rows and 8 pairs, one slice. */
template <int MT, int GROUP>
KDEV void multiply_slice(const struct mul_job *j, const struct expanded_tile *t, const struct x_tile *x, int row,
                         int col, int n, float acc[MT][NT][4])
{
    for (int g = 0; g < n / 32; g++) {
        uint32_t a[MT][4], b[4];
        ldmatrix_x4(b, x->q + (col + lane_row_b()) * Q_STRIDE + 32 * g + 16 * lane_piece_b());
        for (int m = 0; m < MT; m++)
            ldmatrix_x4(a[m], t->q + (row + 16 * m + lane_row_a()) * Q_STRIDE + 32 * g + 16 * lane_piece_a());
        for (int i = 0; i < NT; i++) {
            int c = col + 8 * i + 2 * (lane() & 3);
            const float *d = x->d + c * (SLICE / 32) + g, *s = x->s + c * GROUPS_MAX;
            struct group_scales sc = {{0, 0}, {0, 0}, {d[0], d[SLICE / 32]}, {0, 0}};
            for (int m = 0; m < MT; m++)
                multiply_group<GROUP>(j, t, row + 16 * m, g, a[m], b + 2 * i, &sc, s, s + GROUPS_MAX, acc[m][i]);
        }
    }
}

/* grid: rows / BM times tiles of 64 pairs, 1, matrices; block 256, 8 warps of BM / 2 rows and 16 pairs; shared
 * gemm_shared_bytes(): 118 (Q4_K) to 135 KiB (Q8_0) for BM 128, 68 to 71 for BM 32. */
template <int BM> KERNEL_BOUNDS(gemm_q8, GEMM_BLOCK, 1)(struct mul_job j)
{
    const int MT = BM / WARPS_M / 16;
    SHARED_DYN(uint8_t, shared);
    int row_block;
    struct mul_tile tile = tile_in_band(&j, BM, BN, &row_block);
    if (tile.count == 0)
        return;
    int row0 = row_block * BM;
    struct gemm_block s = gemm_block_at(&j, shared, BM);
    int n_slices = j.np / SLICE;
    int row = warp_of_block() / WARPS_N * (BM / WARPS_M), col = warp_of_block() % WARPS_N * (BN / WARPS_N);
    float total[MT][NT][4] = {};

    find_columns(&j, &tile, s.columns, BN);
    sync_block();
    stage_slice<BM>(&j, &s, tile.matrix, row0, 0);
    for (int slice = 0; slice < n_slices; slice++) {
        float acc[MT][NT][4] = {};
        int n = slice_elems(&j, slice), r = thread_x() / 2;
        cp_async_wait<0>();
        sync_block(); /* the slice is there, and the one before has been multiplied */
        if (r < BM)
            expand_row(&j, &s.t, r,
                       raw_in_slot(&j, s.raw + r * j.slot_bytes, weight_row(&j, tile.matrix, row0 + r), slice),
                       thread_x() & 1, n);
        sync_block();
        if (slice + 1 < n_slices)
            stage_slice<BM>(&j, &s, tile.matrix, row0, slice + 1);
        struct x_tile x = x_tile_of(&s, slice);
        if (j.group == 16)
            multiply_slice<MT, 16>(&j, &s.t, &x, row, col, n, acc);
        else
            multiply_slice<MT, 32>(&j, &s.t, &x, row, col, n, acc);
        add_slice<MT, NT>(total, acc);
    }
    gemm_write<MT, NT>(&j, s.columns + col, row0 + row, total);
}

enum k_status mul_gemm_q8(struct k_ctx *c, const struct mul_job *j, struct mul_shape shape, int64_t grid_tiles)
{
    int rows = (size_t)gemm_shared_bytes(j, shape.rows) > c->facts.shared_max ? 32 : shape.rows;
    struct grid3 grid = grid_in_bands(j, rows, grid_tiles);
    size_t shared = (size_t)gemm_shared_bytes(j, rows);
    return rows == 32 ? launch(c->stream, gemm_q8<32>, grid, GEMM_BLOCK, shared, *j)
                      : launch(c->stream, gemm_q8<128>, grid, GEMM_BLOCK, shared, *j);
}
