/* Products with few tokens, up to GEMV_PAIRS of a matrix at once: bound by the memory that the weights come from.
 *
 * A block takes 16 rows of the weights, its 4 warps every fourth slice of them. Each warp has a ring of GEMV_STAGES
 * slices on their way from memory, so that a multiprocessor with two blocks has about 100 KiB in flight, four times
 * what latency times bandwidth asks for. A slice is multiplied with all tokens by m16n8 tensor core products, weights
 * as A: up to eight tokens cost what one does. Slices' sums meet in shared memory and are added in order (matmul.cuh),
 * one thread per row and token.
 *
 * Bytes per call: the weights once per tile of tokens, and from L2 the activations once per block: 16 rows of weights
 * are 9 (4.5 bits) to 32 bytes per element of k, a token's activations 1.4 or 2. Flops: 2 m n tokens. One or two
 * tokens' are gemv_direct.cu's where it has room.
 *
 * The first slices of a block's weights are asked for before the kernels before this one are done (launch_early()), so
 * that memory is at work while those end and this one begins.
 *
 * The norm of the rows that one or two tokens' product is added to is the last block's (norm.cuh): that saves a launch.
 * As the beginning of the products behind it, it would have each of their blocks read the norm's weights, too.
 *
 * Products of the same activations share a launch, a block's job found by its number (mul_list). Of a gated product a
 * block takes eight rows of one matrix and the same eight of the other, so that both sums of an output meet where they
 * end. */
#include "kernels/cuda/gemv.cuh"
#include "kernels/cuda/multiply.cuh"

#define GEMV_STAGES 3
#define GEMV_FOLD   16 /* mul_job.fold at most */

/* This block's job; *out0: its first output. */
KDEV struct mul_job gemv_job(const struct mul_list *list, int *out0)
{
    int i = gemv_job_of(list);
    *out0 = (block_x() - list->first[i]) * gemv_outputs(&list->job[i]);
    return list->job[i];
}

/* Shared memory: each warp's ring, then (quantised) its expanded slice; the sums [slice][row][token]. */
KHOST_DEV int gemv_stage_bytes(const struct mul_job *j)
{
    return GEMV_ROWS * j->slot_bytes;
}
KHOST_DEV int gemv_warp_bytes(const struct mul_job *j)
{
    return GEMV_STAGES * gemv_stage_bytes(j) + (j->group ? EXPANDED_BYTES(GEMV_ROWS) : 0);
}
KHOST_DEV int gemv_shared_bytes(const struct mul_job *j)
{
    return GEMV_WARPS * gemv_warp_bytes(j) + j->fold * GEMV_BLOCK * (int)sizeof(float);
}

KDEV uint8_t *gemv_stage(const struct mul_job *j, uint8_t *ring, int slice)
{
    return ring + slice / GEMV_WARPS % GEMV_STAGES * gemv_stage_bytes(j);
}

/* Four sums of a warp's slice to their place: rows lane / 4 and + 8, columns 2 (lane % 4) and + 1. */
KDEV void gemv_keep(float *sums, const float acc[4])
{
    float *at = sums + lane() / 4 * GEMV_PAIRS + 2 * (lane() & 3);
    at[0] = acc[0];
    at[1] = acc[1];
    at[8 * GEMV_PAIRS] = acc[2];
    at[8 * GEMV_PAIRS + 1] = acc[3];
}

/* sums: free by now. */
KDEV void gemv_finish(const struct mul_job *j, const struct mul_tile *t, float total, int out0, float *sums)
{
    int row = thread_x() / GEMV_PAIRS, i = thread_x() % GEMV_PAIRS;
    total = scaled(j, gemv_x(j, t, i), total);
    if (j->w_up) {
        sums[thread_x()] = total;
        sync_block();
        total = silu_times(total, sums[(thread_x() + GEMV_BLOCK / 2) % GEMV_BLOCK]);
    }
    if (row < gemv_outputs(j) && out0 + row < j->m && i < t->count)
        put_out(j, y_row_of(j, t, i), total, out0 + row);
    norm_by_last<GEMV_BLOCK>(j->norm, 0, grid_x(), j->y, j->n_pairs, j->m, (struct norm_room *)sums);
}

/* ---- quantised ---- */

/* A slice's activations: numbers of column lane / 4, scales of the two columns of this lane's sums. */
struct gemv_columns {
    const uint8_t *q;
    const float *d[2], *s[2];
};

/* As they are in global memory. */
KDEV struct gemv_columns columns_of_rows(const struct mul_job *j, const uint8_t *const rows[3], int slice)
{
    struct gemv_columns x = {rows[0] + slice * SLICE, {NULL, NULL}, {NULL, NULL}};
    for (int i = 0; i < 2; i++) {
        x.d[i] = act_d(j, rows[1 + i]) + slice * (SLICE / 32);
        x.s[i] = act_s(j, rows[1 + i]) + slice * (SLICE / j->group);
    }
    return x;
}

template <int GROUP>
KDEV void gemv_multiply_q8(const struct mul_job *j, const struct expanded_tile *t, const struct gemv_columns *x,
                           int slice, float acc[4])
{
    int n_groups = slice_elems(j, slice) / 32;
    const uint8_t *q = x->q + 4 * (lane() & 3);
    uint32_t b[SLICE / 32][2];
    float dx[SLICE / 32][2];
#pragma unroll
    for (int g = 0; g < SLICE / 32; g++) {
        b[g][0] = *(const uint32_t *)(q + 32 * g);
        b[g][1] = *(const uint32_t *)(q + 32 * g + 16);
        dx[g][0] = x->d[0][g];
        dx[g][1] = x->d[1][g];
    }
#pragma unroll
    for (int g = 0; g < SLICE / 32; g++) {
        uint32_t a[4];
        struct group_scales sc = {{0, 0}, {0, 0}, {dx[g][0], dx[g][1]}, {0, 0}};
        if (g >= n_groups)
            break;
        ldmatrix_x4(a, t->q + lane_row_a() * Q_STRIDE + 32 * g + 16 * lane_piece_a());
        multiply_group<GROUP>(j, t, 0, g, a, b[g], &sc, x->s[0], x->s[1], acc);
    }
}

/* grid: rows / 16 of all jobs, tiles of pairs, matrices; block 128; shared gemv_shared_bytes(), 60 KiB for Q4_K,
 * 85 KiB for Q8_0. Per 16 x 256 weights and warp some 700 instructions (disassembled): at 8 bits two thirds of what the
 * issue slots have at full bandwidth, at 4.5 bits a quarter more than they have. */
KERNEL_BOUNDS(gemv_q8, GEMV_BLOCK, 2)(struct mul_list list)
{
    SHARED_DYN(uint8_t, shared);
    int out0;
    const struct mul_job j = gemv_job(&list, &out0);
    struct mul_tile tile = gemv_tile(&j);
    if (tile.count < 1)
        return;
    uint8_t *ring = shared + warp_of_block() * gemv_warp_bytes(&j);
    float *sums = (float *)(shared + GEMV_WARPS * gemv_warp_bytes(&j)), total = 0.0f;
    struct expanded_tile t = expanded_tile_at(ring + GEMV_STAGES * gemv_stage_bytes(&j), GEMV_ROWS);
    int n_slices = j.np / SLICE, slot_at = lane() / 2 * j.slot_bytes, fold = j.fold;
    const uint8_t *row = gemv_row(&j, tile.matrix, out0, lane() / 2),
                  *stop = gemv_stop(&j, lane() / 2); /* of two lanes */
    const uint8_t *x_rows[3] = {gemv_x(&j, &tile, lane() / 4), gemv_x(&j, &tile, 2 * (lane() & 3)),
                                gemv_x(&j, &tile, 2 * (lane() & 3) + 1)};

    for (int i = 0; i < GEMV_STAGES - 1; i++) {
        int slice = warp_of_block() + i * GEMV_WARPS;
        if (slice < n_slices)
            raw_stage(&j, gemv_stage(&j, ring, slice) + slot_at, row, stop, slice, lane() & 1, 2);
        cp_async_commit();
    }
    wait_for_before(); /* whoever waited for its tile does not wait again */
    for (int base = 0; base < n_slices; base += fold) {
        int end = base + fold < n_slices ? base + fold : n_slices;
        for (int slice = base + warp_of_block(); slice < end; slice += GEMV_WARPS) {
            int next = slice + (GEMV_STAGES - 1) * GEMV_WARPS;
            float acc[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            cp_async_wait<GEMV_STAGES - 2>();
            sync_warp(); /* the slice is there for all lanes, and all are done with the one before */
            if (next < n_slices)
                raw_stage(&j, gemv_stage(&j, ring, next) + slot_at, row, stop, next, lane() & 1, 2);
            cp_async_commit();
            expand_row(&j, &t, lane() / 2, raw_in_slot(&j, gemv_stage(&j, ring, slice) + slot_at, row, slice),
                       lane() & 1, slice_elems(&j, slice));
            struct gemv_columns x = columns_of_rows(&j, x_rows, slice);
            sync_warp();
            if (j.group == 16)
                gemv_multiply_q8<16>(&j, &t, &x, slice, acc);
            else
                gemv_multiply_q8<32>(&j, &t, &x, slice, acc);
            gemv_keep(sums + (slice - base) * GEMV_BLOCK, acc);
        }
        sync_block();
        for (int slice = base; slice < end; slice++)
            total += sums[(slice - base) * GEMV_BLOCK + thread_x()];
        sync_block();
    }
    gemv_finish(&j, &tile, total, out0, sums);
}

/* ---- F16 and BF16 ---- */

/* A slice's fragments of B: elements 2 (lane % 4) and + 1, + 8 and + 9 of each 16 of column lane / 4, whose row is x. */
KDEV void gemv_columns_16(const uint8_t *x, int slice, uint32_t b[SLICE / 16][2])
{
#pragma unroll
    for (int i = 0; i < 2 * (SLICE / 16); i++)
        b[i / 2][i & 1] = *(const uint32_t *)(x + 2 * (slice * SLICE + 2 * (lane() & 3) + 8 * i));
}

/* grid, block as above; shared: 96 KiB and up to 8 KiB of sums, so that two blocks fit (sm_90). Per 16 x 256 weights
 * and warp about 350 instructions (disassembled), a fifth of what the issue slots have at full bandwidth. */
KERNEL_BOUNDS(gemv_16, GEMV_BLOCK, 2)(struct mul_list list)
{
    SHARED_DYN(uint8_t, shared);
    int out0;
    const struct mul_job j = gemv_job(&list, &out0);
    struct mul_tile tile = gemv_tile(&j);
    if (tile.count < 1)
        return;
    uint8_t *ring = shared + warp_of_block() * gemv_warp_bytes(&j);
    float *sums = (float *)(shared + GEMV_WARPS * gemv_warp_bytes(&j)), total = 0.0f;
    int n_slices = j.np / SLICE, fold = j.fold;
    const uint8_t *xb = gemv_x(&j, &tile, lane() / 4);
    const struct gemv_halves rows = gemv_halves_of(&j, tile.matrix, out0);

    for (int i = 0; i < GEMV_STAGES - 1; i++) {
        int slice = warp_of_block() + i * GEMV_WARPS;
        if (slice < n_slices)
            gemv_stage_16(&j, &rows, gemv_stage(&j, ring, slice), slice);
        cp_async_commit();
    }
    wait_for_before(); /* whoever waited for its tile does not wait again */
    for (int base = 0; base < n_slices; base += fold) {
        int end = base + fold < n_slices ? base + fold : n_slices;
        for (int slice = base + warp_of_block(); slice < end; slice += GEMV_WARPS) {
            int next = slice + (GEMV_STAGES - 1) * GEMV_WARPS;
            float acc[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            uint32_t b[SLICE / 16][2];
            gemv_columns_16(xb, slice, b);
            cp_async_wait<GEMV_STAGES - 2>();
            sync_warp(); /* the slice is there for all lanes, and all are done with the one before */
            if (next < n_slices)
                gemv_stage_16(&j, &rows, gemv_stage(&j, ring, next), next);
            cp_async_commit();
            gemv_multiply_16(j.form, gemv_stage(&j, ring, slice), b, acc);
            gemv_keep(sums + (slice - base) * GEMV_BLOCK, acc);
        }
        sync_block();
        for (int slice = base; slice < end; slice++)
            total += sums[(slice - base) * GEMV_BLOCK + thread_x()];
        sync_block();
    }
    gemv_finish(&j, &tile, total, out0, sums);
}

/* All slices, or as many rounds of the warps as there is shared memory for: a warp's slices are GEMV_WARPS apart. */
static int fold_of(const struct k_ctx *c, const struct mul_job *j)
{
    int n = j->np / SLICE, fold = GEMV_FOLD;
    while (fold > GEMV_WARPS &&
           (size_t)(GEMV_WARPS * gemv_warp_bytes(j) + fold * GEMV_BLOCK * (int)sizeof(float)) > c->facts.shared_max)
        fold -= GEMV_WARPS;
    return n < fold ? n : fold;
}

enum k_status mul_gemv(struct k_ctx *c, const struct mul_job *jobs, int n, int64_t grid_tiles)
{
    struct mul_list list = {};
    int blocks = 0, shared = 0;
    for (int i = 0; i < n; i++) {
        struct mul_job *j = &list.job[list.n];
        *j = jobs[i];
        j->fold = fold_of(c, j);
        list.first[list.n++] = blocks;
        blocks += (j->m + gemv_outputs(j) - 1) / gemv_outputs(j);
        shared = gemv_shared_bytes(j) > shared ? gemv_shared_bytes(j) : shared;
    }
    struct grid3 grid = grid_of(blocks, grid_tiles, jobs->ids || jobs->tiles ? 1 : jobs->n_matrix);
    return jobs->group ? launch_early(c->stream, c->early, gemv_q8, grid, GEMV_BLOCK, (size_t)shared, list)
                       : launch_early(c->stream, c->early, gemv_16, grid, GEMV_BLOCK, (size_t)shared, list);
}
