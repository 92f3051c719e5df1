/* Products with one or two tokens, whose activations each block rounds for itself: what a decode step of one sequence
 * mostly is. Quantised weights and BF16; the same sums as gemv.cu's, bit for bit.
 *
 * There are as many blocks as multiprocessors hold at a time, and each goes through its share of the tiles of 16 rows:
 * so activations are rounded once per block, and weights come without a pause. Each warp has a ring of slices on their
 * way, of every fourth slice of each of its block's tiles. Sums of slices are kept twice: while one warp adds a tile's,
 * and writes, the others go on.
 *
 * Quantised weights are multiplied by dot products of four bytes. Tensor cores would multiply with eight columns, seven
 * of them for nothing, and each lane would fold groups of eight columns: about 1,000 instructions to a slice of 16
 * rows, twice what the issue slots have at full bandwidth with 4.5 bits to a weight. Here a lane has half of a row's
 * slice, in registers: lane l row l % 16, half l / 16. It makes the integers of its groups; the first half's are
 * folded, then the second half's on top of that, so that groups come in order. Disassembled: 270 instructions a slice
 * of Q4_K, 300 of Q8_0, with one token.
 *
 * BF16 takes tensor cores, whose sums are theirs alone; a slice is 250 instructions, an eighth of the issue slots.
 *
 * Bytes per call: the weights once, from L2 a token's activations once per block; flops: 2 m n tokens. Bound by memory:
 * of Q4_K 83 KiB are on their way to a multiprocessor with three blocks, of BF16 128 KiB with two, of Q8_0 102 KiB with
 * two; latency times bandwidth is 26 KiB. */
#include "kernels/cuda/gemv.cuh"

#define DIRECT_BLOCKS 3 /* on a multiprocessor, at most */

/* Slices of a warp's ring. */
#define STAGES_QUANTISED 4
#define STAGES_16        3
KHOST_DEV int direct_stages(const struct mul_job *j)
{
    return j->group ? STAGES_QUANTISED : STAGES_16;
}

/* ---- shared memory: the warps' rings; activations of each token, q[np], d[np / 32], s[np / group] or BF16 [np] and pad to 16
 * bytes (ldmatrix is free of bank conflicts then); sums, twice [slice][row][token] ---- */

KHOST_DEV int direct_stage_bytes(const struct mul_job *j)
{
    return GEMV_ROWS * j->slot_bytes;
}
KHOST_DEV int direct_x_bytes(const struct mul_job *j)
{
    return j->group ? j->np + j->np / 8 + 4 * (j->np / j->group) : 2 * j->np + 16;
}
KHOST_DEV int direct_sums(const struct mul_job *j)
{
    return j->np / SLICE * GEMV_ROWS * DIRECT_PAIRS;
}
KHOST_DEV int64_t direct_shared_bytes(const struct mul_job *j, int n_tok)
{
    return (int64_t)GEMV_WARPS * direct_stages(j) * direct_stage_bytes(j) + (int64_t)n_tok * direct_x_bytes(j) +
           2 * (int64_t)direct_sums(j) * (int64_t)sizeof(float);
}

struct direct_token {
    int8_t *q;
    float *d, *s;
};
KDEV struct direct_token direct_token_at(const struct mul_job *j, uint8_t *x, int i)
{
    struct direct_token t = {(int8_t *)x + i * direct_x_bytes(j), NULL, NULL};
    t.d = (float *)(t.q + j->np);
    t.s = t.d + j->np / 32;
    return t;
}

KDEV uint8_t *direct_16_at(const struct mul_job *j, uint8_t *x, int i)
{
    return x + i * direct_x_bytes(j);
}

/* A slice's eight values of this lane, rounded to where they belong. */
KDEV void direct_store(const struct mul_job *j, uint8_t *x, int i, int slice, const float v[8])
{
    if (j->group) {
        const struct direct_token to = direct_token_at(j, x, i);
        act_quantise(j, v, to.q + slice * SLICE, to.d + slice * (SLICE / 32), to.s + slice * (SLICE / j->group));
    } else {
        const struct u32x4 packed = {pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]),
                                     pack_bf16(v[6], v[7])};
        store16(direct_16_at(j, x, i) + 2 * (slice * SLICE + 8 * lane()), packed);
    }
}

/* A warp rounds the slices that it multiplies with, of token i; four of them are asked for at a time. */
KDEV void direct_round(const struct mul_job *j, const float *from, uint8_t *x, int i)
{
    const int TOGETHER = 4;
    int n_slices = j->np / SLICE;
    for (int first = warp_of_block(); first < n_slices; first += TOGETHER * GEMV_WARPS) {
        float v[TOGETHER][8];
#pragma unroll
        for (int k = 0; k < TOGETHER; k++)
            if (first + k * GEMV_WARPS < n_slices)
                act_load(j, from, first + k * GEMV_WARPS, v[k]);
#pragma unroll
        for (int k = 0; k < TOGETHER; k++)
            if (first + k * GEMV_WARPS < n_slices)
                direct_store(j, x, i, first + k * GEMV_WARPS, v[k]);
    }
}

/* What a block does of a job of this type: every `every`-th tile of n_tiles from the first on. */
struct direct_share {
    int first, every, n_tiles;
    uint8_t *ring, *x; /* the warp's; activations of all tokens */
    float *sums;       /* both */
};

/* ---- weights on their way ---- */

/* What a type's blocks are, known when a kernel is compiled: bytes of a slice, elements of a group, whether these have
 * minima. Of BF16 the ring's length alone is asked for. */
template <enum k_type TYPE> struct direct_type {
    static const int BYTES = TYPE == K_Q8_0                                         ? 272
                             : TYPE == K_Q5_1                                       ? 192
                             : TYPE == K_Q5_0 || TYPE == K_Q5_K                     ? 176
                             : TYPE == K_Q4_1                                       ? 160
                             : TYPE == K_Q4_0 || TYPE == K_IQ4_NL || TYPE == K_Q4_K ? 144
                             : TYPE == K_IQ4_XS                                     ? 136
                             : TYPE == K_Q2_K                                       ? 84
                             : TYPE == K_Q3_K                                       ? 110
                                                                                    : 210 /* K_Q6_K */;
    static const int GROUP = TYPE == K_Q2_K || TYPE == K_Q3_K || TYPE == K_Q6_K ? 16 : 32;
    static const int STAGES = TYPE == K_BF16 ? STAGES_16 : STAGES_QUANTISED;
    static const bool MIN = TYPE == K_Q4_1 || TYPE == K_Q5_1 || TYPE == K_Q2_K || TYPE == K_Q4_K || TYPE == K_Q5_K;
};

/* What this lane copies next. Quantised: half of a row's pieces; the row, and where its tensor ends. BF16: eight
 * elements of each row. */
struct direct_cursor {
    const uint8_t *row, *stop;
    struct gemv_halves halves;
    int tile, slice, slot;
};

template <enum k_type TYPE>
KDEV void direct_find_rows(const struct mul_job *j, int matrix, int n_tiles, struct direct_cursor *c)
{
    int out0 = c->tile * gemv_outputs(j);
    if (c->tile >= n_tiles)
        return;
    if (TYPE == K_BF16) {
        c->halves = gemv_halves_of(j, matrix, out0);
    } else {
        c->row = gemv_row(j, matrix, out0, lane() / 2);
        c->stop = gemv_stop(j, lane() / 2);
    }
}

/* Begin to copy BYTES from the cursor's slice on, and what is before them to a multiple of 16. */
template <int BYTES>
KDEV void direct_copy_blocks(const struct mul_job *j, const struct direct_cursor *c, uint8_t *stage)
{
    const int MOST = (BYTES + 15 + 15) / 16 * 16; /* wherever it begins */
    uint8_t *slot = stage + lane() / 2 * j->slot_bytes;
    const uint8_t *from = c->row + c->slice * BYTES;
    int off = (int)((uintptr_t)from & 15), part = 16 * (lane() & 1), partial = -1;
    from += part - off;
    int64_t left = c->stop - from; /* nothing is read behind the tensor */
    int there = left < MOST ? (int)left : MOST, wanted = off + BYTES - part;
#pragma unroll
    for (int i = 0; i < MOST; i += 32)
        if (i < wanted && i + 16 <= there)
            cp_async16(slot + part + i, from + i, true);
        else if (i < wanted && i < there)
            partial = i;
    for (int i = partial; i >= 0 && i < there; i += 2)
        *(uint16_t *)(slot + part + i) = *(const uint16_t *)(from + i);
}

/* Begin to copy the next slice, and on to the one after it; a commit in any case. */
template <enum k_type TYPE>
KDEV void direct_stage_next(const struct mul_job *j, int matrix, const struct direct_share *b, struct direct_cursor *c)
{
    if (c->tile < b->n_tiles && c->slice * SLICE < j->np) {
        uint8_t *stage = b->ring + c->slot * direct_stage_bytes(j);
        if (TYPE == K_BF16)
            gemv_stage_16(j, &c->halves, stage, c->slice);
        else
            direct_copy_blocks<direct_type<TYPE>::BYTES>(j, c, stage);
        c->slot = c->slot + 1 < direct_type<TYPE>::STAGES ? c->slot + 1 : 0;
        c->slice += GEMV_WARPS;
        if (c->slice * SLICE >= j->np) {
            c->slice = warp_of_block();
            c->tile += b->every;
            direct_find_rows<TYPE>(j, matrix, b->n_tiles, c);
        }
    }
    cp_async_commit();
}

template <enum k_type TYPE>
KDEV void direct_begin(const struct mul_job *j, int matrix, const struct direct_share *b, struct direct_cursor *c)
{
    direct_find_rows<TYPE>(j, matrix, b->n_tiles, c);
    for (int i = 0; i < direct_type<TYPE>::STAGES - 1; i++)
        direct_stage_next<TYPE>(j, matrix, b, c);
}

/* ---- one slice ---- */

/* A lane's half of a row's slice: 128 numbers, four to a word, and scales of its groups. */
template <int GROUP> struct dot_half {
    alignas(16) uint32_t q[32];
    float d[128 / GROUP], m[128 / GROUP];
};

/* The groups' integer sums with a token's activations, folded on top of acc: q, d and s are the half's. left: elements
 * of the row from the half's first on. */
template <int GROUP, bool MIN>
KDEV float dot_fold(const struct dot_half<GROUP> *w, const int *sum, const float *d, const float *s, int left,
                    float acc)
{
#pragma unroll
    for (int g = 0; g < 128 / GROUP; g++)
        if (g * GROUP < left) {
            acc = fma_rn(w->d[g] * d[g * GROUP / 32], sum_to_f32(sum[g]), acc);
            if (MIN)
                acc = fma_rn(w->m[g], s[g], acc);
        }
    return acc;
}

/* The slice's sum of a row and a token, in lanes 16 and up. */
template <int GROUP, bool MIN>
KDEV float dot_token_sum(const struct mul_job *j, const struct dot_half<GROUP> *w, const struct direct_token *x,
                         int slice)
{
    int half = lane() / 16, left = j->n - slice * SLICE - 128 * half, sum[128 / GROUP];
    const int8_t *q = x->q + slice * SLICE + 128 * half;
    const float *d = x->d + (slice * SLICE + 128 * half) / 32, *s = x->s + (slice * SLICE + 128 * half) / GROUP;
#pragma unroll
    for (int g = 0; g < 128 / GROUP; g++) {
        sum[g] = SUM_BITS;
#pragma unroll
        for (int i = 0; i < GROUP / 16; i++) {
            const struct u32x4 v = load16(q + g * GROUP + 16 * i);
            const uint32_t *a = w->q + (g * GROUP + 16 * i) / 4;
            sum[g] = dot4_s8((int)a[0], (int)v.x, sum[g]);
            sum[g] = dot4_s8((int)a[1], (int)v.y, sum[g]);
            sum[g] = dot4_s8((int)a[2], (int)v.z, sum[g]);
            sum[g] = dot4_s8((int)a[3], (int)v.w, sum[g]);
        }
    }
    float first = shfl(dot_fold<GROUP, MIN>(w, sum, d, s, left, 0.0f), lane() & 15);
    return dot_fold<GROUP, MIN>(w, sum, d, s, left, first);
}

/* Where the sum of a slice, a row and a token is kept until the tile's are added. */
KDEV float *direct_kept(float *kept, int slice, int row, int token)
{
    return kept + (slice * GEMV_ROWS + row) * DIRECT_PAIRS + token;
}

/* A slice of quantised weights; stage: as it was copied; tile: of which rows. */
template <enum k_type TYPE>
KDEV void direct_dot(const struct mul_job *j, const struct mul_tile *t, uint8_t *x, const uint8_t *stage, int tile,
                     int slice, float *kept)
{
    const int GROUP = direct_type<TYPE>::GROUP, row = lane() & 15;
    struct dot_half<GROUP> w;
    struct expanded e = {(int8_t *)w.q, w.d, w.m, 1};
    const uint8_t *there = gemv_row(j, t->matrix, tile * gemv_outputs(j), row) + slice * direct_type<TYPE>::BYTES;
    blocks_expand(TYPE, stage + row * j->slot_bytes + ((uintptr_t)there & 15), lane() / 16, slice_elems(j, slice), &e);
    for (int i = 0; i < t->count; i++) {
        const struct direct_token token = direct_token_at(j, x, i);
        float sum = dot_token_sum<GROUP, direct_type<TYPE>::MIN>(j, &w, &token, slice);
        if (lane() >= 16)
            *direct_kept(kept, slice, row, i) = sum;
    }
}

/* A slice of BF16: columns past the last token repeat it, and are not kept. */
KDEV void direct_16(const struct mul_job *j, const struct mul_tile *t, uint8_t *x, uint8_t *stage, int slice,
                    float *kept)
{
    int column = (lane() & 7) < t->count - 1 ? lane() & 7 : t->count - 1;
    const uint8_t *from = direct_16_at(j, x, column) + 2 * SLICE * slice + 16 * (lane() >> 3);
    uint32_t b[SLICE / 16][2];
    float acc[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int k = 0; k < SLICE / 16; k += 2) {
        uint32_t r[4];
        ldmatrix_x4(r, from + 32 * k);
        b[k][0] = r[0], b[k][1] = r[1];
        b[k + 1][0] = r[2], b[k + 1][1] = r[3];
    }
    gemv_multiply_16(ACT_BF16, stage, b, acc);
    for (int i = 0; i < 4; i++)
        if ((lane() & 3) == 0 && (i & 1) < t->count) /* row lane / 4 and + 8, columns 0 and 1 */
            *direct_kept(kept, slice, lane() / 4 + 8 * (i / 2), i & 1) = acc[i];
}

/* By one warp: the sums of a tile's slices, in order, to their place. Lane l has row l / 2 and token l % 2. */
KDEV void direct_finish(const struct mul_job *j, const struct mul_tile *t, int tile, const float *kept)
{
    int row = tile * gemv_outputs(j) + lane() / DIRECT_PAIRS, i = lane() % DIRECT_PAIRS;
    float total = 0.0f;
#pragma unroll 8
    for (int slice = 0; slice < j->np / SLICE; slice++)
        total += kept[slice * WARP + lane()];
    if (j->w_up)
        total = silu_times(total, shfl_xor(total, WARP / 2));
    if (lane() / DIRECT_PAIRS < gemv_outputs(j) && row < j->m && i < t->count)
        put_out(j, y_row_of(j, t, i), total, row);
}

template <enum k_type TYPE>
KDEV void direct_tiles(const struct mul_job *j, const struct mul_tile *t, const struct direct_share *b,
                       struct direct_cursor next)
{
    const int STAGES = direct_type<TYPE>::STAGES;
    int n_slices = j->np / SLICE, slot = 0, turn = 0;
    for (int tile = b->first; tile < b->n_tiles; tile += b->every, turn++) {
        float *kept = b->sums + (turn & 1) * direct_sums(j);
        for (int slice = warp_of_block(); slice < n_slices; slice += GEMV_WARPS) {
            uint8_t *stage = b->ring + slot * direct_stage_bytes(j);
            cp_async_wait<STAGES - 2>();
            sync_warp(); /* the slice is there for all lanes, and all are done with the one before */
            direct_stage_next<TYPE>(j, t->matrix, b, &next);
            if constexpr (TYPE == K_BF16)
                direct_16(j, t, b->x, stage, slice, kept);
            else
                direct_dot<TYPE>(j, t, b->x, stage, tile, slice, kept);
            slot = slot + 1 < STAGES ? slot + 1 : 0;
        }
        sync_block();
        if (turn % GEMV_WARPS == warp_of_block())
            direct_finish(j, t, tile, kept);
    }
}

/* What is done by the type of the job's weights: branches that all threads take alike. */
#define DIRECT_TYPES(DO)                                                                                               \
    DO(K_BF16)                                                                                                         \
    DO(K_Q4_0)                                                                                                         \
    DO(K_Q4_1)                                                                                                         \
    DO(K_Q5_0)                                                                                                         \
    DO(K_Q5_1)                                                                                                         \
    DO(K_Q8_0)                                                                                                         \
    DO(K_Q2_K)                                                                                                         \
    DO(K_Q3_K)                                                                                                         \
    DO(K_Q4_K)                                                                                                         \
    DO(K_Q5_K)                                                                                                         \
    DO(K_Q6_K)                                                                                                         \
    DO(K_IQ4_NL)                                                                                                       \
    DO(K_IQ4_XS)
#define DIRECT_BEGIN(TYPE)                                                                                             \
    case TYPE:                                                                                                         \
        direct_begin<TYPE>(&j, t.matrix, &share, &next);                                                               \
        break;
#define DIRECT_TILES(TYPE)                                                                                             \
    case TYPE: direct_tiles<TYPE>(&j, &t, &share, next); break;

/* grid: blocks of all jobs, tiles of pairs, matrices; block 128; shared direct_shared_bytes(): with one token and 4,096
 * inputs 46 KiB for Q4_K, 78 for Q8_0. */
KERNEL_BOUNDS(gemv_direct, GEMV_BLOCK, DIRECT_BLOCKS)(struct mul_list list)
{
    SHARED_DYN(uint8_t, shared);
    int which = gemv_job_of(&list), first = block_x() - list.first[which];
    int every = (which + 1 < list.n ? list.first[which + 1] : grid_x()) - list.first[which];
    const struct mul_job j = list.job[which];
    struct mul_tile t = gemv_tile(&j);
    if (t.count < 1)
        return;
    int n_tiles = (j.m + gemv_outputs(&j) - 1) / gemv_outputs(&j);
    uint8_t *ring = shared + warp_of_block() * direct_stages(&j) * direct_stage_bytes(&j),
            *x = shared + GEMV_WARPS * direct_stages(&j) * direct_stage_bytes(&j);
    const struct direct_share share = {first, every, n_tiles, ring, x, (float *)(x + t.count * direct_x_bytes(&j))};
    struct direct_cursor next = {NULL, NULL, {}, first, warp_of_block(), 0};

    switch (j.type) {
        DIRECT_TYPES(DIRECT_BEGIN)
    default: break;
    }
    wait_for_before(); /* whoever waited for its tile does not wait again */
    for (int i = 0; i < t.count; i++)
        direct_round(&j, (const float *)gemv_x(&j, &t, i), x, i);
    switch (j.type) {
        DIRECT_TYPES(DIRECT_TILES)
    default: break;
    }
    norm_by_last<GEMV_BLOCK>(j.norm, 0, grid_x(), j.y, j.n_pairs, j.m, (struct norm_room *)share.sums);
}

bool mul_direct_fits(const struct k_ctx *c, const struct mul_job *j, int n_tok)
{
    return direct_shared_bytes(j, n_tok) <= (int64_t)c->facts.shared_max;
}

enum k_status mul_gemv_direct(struct k_ctx *c, const struct mul_job *jobs, int n, int64_t grid_tiles)
{
    struct mul_list list = {};
    int64_t shared = 0, tiles[K_PRODUCTS_MAX], all = 0, blocks = 0;
    for (int i = 0; i < n; i++) {
        const struct mul_job *j = &jobs[i];
        const int64_t bytes = direct_shared_bytes(j, j->ids ? 1 : j->n_pairs);
        shared = bytes > shared ? bytes : shared;
        tiles[i] = (j->m + gemv_outputs(j) - 1) / gemv_outputs(j);
        /* One without experts has blocks beside each tile of pairs, too, which leave at once. */
        all += tiles[i] * (j->ids ? grid_tiles : j->n_matrix);
    }
    /* As many as there is room for at a time; a multiprocessor has little more than its largest block may have. */
    int64_t room = (int64_t)c->facts.shared_max / (shared + 1024), most;
    most = (room < 1 ? 1 : room > DIRECT_BLOCKS ? DIRECT_BLOCKS : room) * c->facts.n_sm;
    for (int i = 0; i < n; i++) {
        int64_t share = all > most ? tiles[i] * most / all : tiles[i];
        list.job[i] = jobs[i];
        list.first[i] = (int32_t)blocks;
        blocks += share > 0 ? share : 1;
    }
    list.n = n;
    return launch_early(c->stream, c->early, gemv_direct, grid_of(blocks, grid_tiles, jobs->ids ? 1 : jobs->n_matrix),
                        GEMV_BLOCK, (size_t)shared, list);
}
