/* Products of quantised weights with one or two tokens, by dot products of four bytes: what a decode step of one sequence
 * mostly is. The same sums as gemv.cu's, bit for bit.
 *
 * Tensor cores would multiply with eight columns, seven of them for nothing, and each lane would fold groups of eight columns:
 * about 1,000 instructions to a slice of 16 rows, twice what the issue slots have at full bandwidth with 4.5 bits to a weight.
 * Here a lane has half of a row's slice, in registers: lane l row l % 16, half l / 16. It makes the integers of its groups; the
 * first half's are folded, then the second half's on top of that, so that groups come in order. About 200 instructions a slice
 * and token (Q4_K, Q8_0).
 *
 * There are as many blocks as multiprocessors hold at a time, and each goes through its share of the tiles of 16 rows: so
 * activations are rounded once per block, and weights come without a pause. Each warp has a ring of DOT_STAGES slices on their
 * way, of every fourth slice of each of its block's tiles. Sums of slices are kept twice: while one warp adds a tile's, and
 * writes, the others go on.
 *
 * Bytes per call: the weights once, from L2 a token's activations once per block; flops: 2 m n tokens. Bound by memory, issue
 * slots behind: 9.2 KiB of Q4_K on their way for each warp but for one slice, 70 KiB a multiprocessor with two blocks. */
#include "kernels/cuda/gemv.cuh"

#define DOT_STAGES 4
#define DOT_BLOCKS 3 /* on a multiprocessor, at most */

/* ---- shared memory: the warps' rings; activations of each token, q[np], d[np / 32], s[np / group]; sums, twice
 * [slice][row][token] ---- */

KHOST_DEV int dot_stage_bytes(const struct mul_job *j)
{
    return GEMV_ROWS * j->slot_bytes;
}
KHOST_DEV int dot_x_bytes(const struct mul_job *j)
{
    return j->np + j->np / 8 + 4 * (j->np / j->group);
}
KHOST_DEV int dot_sums(const struct mul_job *j)
{
    return j->np / SLICE * GEMV_ROWS * DIRECT_PAIRS;
}
KHOST_DEV int64_t dot_shared_bytes(const struct mul_job *j, int n_tok)
{
    return (int64_t)GEMV_WARPS * DOT_STAGES * dot_stage_bytes(j) + (int64_t)n_tok * dot_x_bytes(j) +
           2 * (int64_t)dot_sums(j) * (int64_t)sizeof(float);
}

struct dot_token {
    int8_t *q;
    float *d, *s;
};
KDEV struct dot_token dot_token_at(const struct mul_job *j, uint8_t *x, int i)
{
    struct dot_token t = {(int8_t *)x + i * dot_x_bytes(j), NULL, NULL};
    t.d = (float *)(t.q + j->np);
    t.s = t.d + j->np / 32;
    return t;
}

/* A warp rounds the slices that it multiplies with; four of them are asked for at a time. */
KDEV void dot_round(const struct mul_job *j, const float *x, struct dot_token to)
{
    const int TOGETHER = 4;
    int n_slices = j->np / SLICE;
    for (int first = warp_of_block(); first < n_slices; first += TOGETHER * GEMV_WARPS) {
        float v[TOGETHER][8];
#pragma unroll
        for (int i = 0; i < TOGETHER; i++)
            if (first + i * GEMV_WARPS < n_slices)
                act_load(j, x, first + i * GEMV_WARPS, v[i]);
#pragma unroll
        for (int i = 0; i < TOGETHER; i++) {
            int slice = first + i * GEMV_WARPS;
            if (slice < n_slices)
                act_quantise(j, v[i], to.q + slice * SLICE, to.d + slice * (SLICE / 32),
                             to.s + slice * (SLICE / j->group));
        }
    }
}

/* What a block does of a job of this type: every `every`-th tile of n_tiles from the first on. */
struct dot_share {
    int first, every, n_tiles;
    uint8_t *ring, *x; /* the warp's; activations of all tokens */
    float *sums;       /* both */
};

/* ---- weights on their way ---- */

/* What a type's blocks are, known when a kernel is compiled: bytes of a slice, elements of a group, whether these have minima. */
template <enum k_type TYPE> struct dot_type {
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
    static const bool MIN = TYPE == K_Q4_1 || TYPE == K_Q5_1 || TYPE == K_Q2_K || TYPE == K_Q4_K || TYPE == K_Q5_K;
};

/* What this lane copies next, one half of a row's pieces: the row of its tile, and where the row's tensor ends. */
struct dot_cursor {
    const uint8_t *row, *stop;
    int tile, slice, slot;
};

KDEV void dot_find_row(const struct mul_job *j, int matrix, int n_tiles, struct dot_cursor *c)
{
    if (c->tile < n_tiles) {
        c->row = gemv_row(j, matrix, c->tile * gemv_outputs(j), lane() / 2);
        c->stop = gemv_stop(j, lane() / 2);
    }
}

/* Begin to copy the next slice, and on to the one after it; a commit in any case. every: tiles from one of this block to its
 * next. */
template <enum k_type TYPE>
KDEV void dot_stage_next(const struct mul_job *j, int matrix, const struct dot_share *b, struct dot_cursor *c)
{
    const int BYTES = dot_type<TYPE>::BYTES, MOST = (BYTES + 15 + 15) / 16 * 16; /* wherever it begins */
    if (c->tile < b->n_tiles && c->slice * SLICE < j->np) {
        uint8_t *slot = b->ring + c->slot * dot_stage_bytes(j) + lane() / 2 * j->slot_bytes;
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
        c->slot = c->slot + 1 < DOT_STAGES ? c->slot + 1 : 0;
        c->slice += GEMV_WARPS;
        if (c->slice * SLICE >= j->np) {
            c->slice = warp_of_block();
            c->tile += b->every;
            dot_find_row(j, matrix, b->n_tiles, c);
        }
    }
    cp_async_commit();
}

template <enum k_type TYPE>
KDEV void dot_begin(const struct mul_job *j, int matrix, const struct dot_share *b, struct dot_cursor *c)
{
    dot_find_row(j, matrix, b->n_tiles, c);
    for (int i = 0; i < DOT_STAGES - 1; i++)
        dot_stage_next<TYPE>(j, matrix, b, c);
}

/* ---- one slice ---- */

/* A lane's half of a row's slice: 128 numbers, four to a word, and scales of its groups. */
template <int GROUP> struct dot_half {
    alignas(16) uint32_t q[32];
    float d[128 / GROUP], m[128 / GROUP];
};

/* The groups' integer sums with a token's activations, folded on top of acc: q, d and s are the half's. left: elements of the
 * row from the half's first on. */
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
KDEV float dot_token_sum(const struct mul_job *j, const struct dot_half<GROUP> *w, const struct dot_token *x, int slice)
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

/* By one warp: the sums of a tile's slices, in order, to their place. Lane l has row l / 2 and token l % 2. */
KDEV void dot_finish(const struct mul_job *j, const struct mul_tile *t, int tile, const float *kept)
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
KDEV void dot_tiles(const struct mul_job *j, const struct mul_tile *t, const struct dot_share *b,
                    struct dot_cursor next)
{
    const int GROUP = dot_type<TYPE>::GROUP;
    const bool MIN = dot_type<TYPE>::MIN;
    int n_slices = j->np / SLICE, slot = 0, turn = 0;
    for (int tile = b->first; tile < b->n_tiles; tile += b->every, turn++) {
        const uint8_t *row = gemv_row(j, t->matrix, tile * gemv_outputs(j), lane() & 15);
        float *kept = b->sums + (turn & 1) * dot_sums(j);
        for (int slice = warp_of_block(); slice < n_slices; slice += GEMV_WARPS) {
            struct dot_half<GROUP> w;
            struct expanded e = {(int8_t *)w.q, w.d, w.m, 1};
            const uint8_t *from = b->ring + slot * dot_stage_bytes(j) + (lane() & 15) * j->slot_bytes;
            cp_async_wait<DOT_STAGES - 2>();
            sync_warp(); /* the slice is there for all lanes, and all are done with the one before */
            dot_stage_next<TYPE>(j, t->matrix, b, &next);
            blocks_expand(TYPE, from + ((uintptr_t)(row + slice * dot_type<TYPE>::BYTES) & 15), lane() / 16,
                          slice_elems(j, slice), &e);
            for (int i = 0; i < t->count; i++) {
                const struct dot_token token = dot_token_at(j, b->x, i);
                float sum = dot_token_sum<GROUP, MIN>(j, &w, &token, slice);
                if (lane() >= 16)
                    kept[(slice * GEMV_ROWS + lane() - 16) * DIRECT_PAIRS + i] = sum;
            }
            slot = slot + 1 < DOT_STAGES ? slot + 1 : 0;
        }
        sync_block();
        if (turn % GEMV_WARPS == warp_of_block())
            dot_finish(j, t, tile, kept);
    }
}

/* grid: blocks of all jobs, tiles of pairs, matrices; block 128; shared dot_shared_bytes(): with one token and 4,096 inputs 46
 * KiB for Q4_K, 78 for Q8_0. */
KERNEL_BOUNDS(gemv_dot, GEMV_BLOCK, DOT_BLOCKS)(struct mul_list list)
{
    SHARED_DYN(uint8_t, shared);
    int which = gemv_job_of(&list), first = block_x() - list.first[which];
    int every = (which + 1 < list.n ? list.first[which + 1] : grid_x()) - list.first[which];
    const struct mul_job j = list.job[which];
    struct mul_tile t = gemv_tile(&j);
    if (t.count < 1)
        return;
    int n_tiles = (j.m + gemv_outputs(&j) - 1) / gemv_outputs(&j);
    uint8_t *ring = shared + warp_of_block() * DOT_STAGES * dot_stage_bytes(&j),
            *x = shared + GEMV_WARPS * DOT_STAGES * dot_stage_bytes(&j);
    const struct dot_share share = {first, every, n_tiles, ring, x, (float *)(x + t.count * dot_x_bytes(&j))};
    struct dot_cursor next = {NULL, NULL, first, warp_of_block(), 0};

#define DOT_TYPES(DO)                                                                                                  \
    DO(K_Q4_0)                                                                                                         \
    DO(K_Q4_1)                                                                                                         \
    DO(K_Q5_0) DO(K_Q5_1) DO(K_Q8_0) DO(K_Q2_K) DO(K_Q3_K) DO(K_Q4_K) DO(K_Q5_K) DO(K_Q6_K) DO(K_IQ4_NL) DO(K_IQ4_XS)
#define DOT_BEGIN(TYPE)                                                                                                \
    case TYPE:                                                                                                         \
        dot_begin<TYPE>(&j, t.matrix, &share, &next);                                                                  \
        break;
#define DOT_TILES(TYPE)                                                                                                \
    case TYPE: dot_tiles<TYPE>(&j, &t, &share, next); break;
    switch (j.type) {
        DOT_TYPES(DOT_BEGIN)
    default: break;
    }
    wait_for_before(); /* whoever waited for its tile does not wait again */
    for (int i = 0; i < t.count; i++)
        dot_round(&j, (const float *)gemv_x(&j, &t, i), dot_token_at(&j, x, i));
    switch (j.type) {
        DOT_TYPES(DOT_TILES)
    default: break;
    }
    norm_by_last<GEMV_BLOCK>(j.norm, 0, grid_x(), j.y, j.n_pairs, j.m, (struct norm_room *)share.sums);
}

bool mul_dot_fits(const struct k_ctx *c, const struct mul_job *j, int n_tok)
{
    return dot_shared_bytes(j, n_tok) <= (int64_t)c->facts.shared_max;
}

enum k_status mul_gemv_dot(struct k_ctx *c, const struct mul_job *jobs, int n, int64_t grid_tiles)
{
    struct mul_list list = {};
    const int64_t depth = grid_tiles * (jobs->ids ? 1 : jobs->n_matrix);
    int64_t shared = 0, tiles[K_PRODUCTS_MAX], all = 0, blocks = 0;
    for (int i = 0; i < n; i++) {
        const int64_t bytes = dot_shared_bytes(&jobs[i], jobs[i].ids ? 1 : jobs[i].n_pairs);
        shared = bytes > shared ? bytes : shared;
        tiles[i] = (jobs[i].m + gemv_outputs(&jobs[i]) - 1) / gemv_outputs(&jobs[i]);
        all += tiles[i] * depth;
    }
    /* As many as there is room for at a time; a multiprocessor has little more than its largest block may have. */
    int64_t room = (int64_t)c->facts.shared_max / (shared + 1024), most;
    most = (room < 1 ? 1 : room > DOT_BLOCKS ? DOT_BLOCKS : room) * c->facts.n_sm;
    for (int i = 0; i < n; i++) {
        int64_t share = all > most ? tiles[i] * most / all : tiles[i];
        list.job[i] = jobs[i];
        list.first[i] = (int32_t)blocks;
        blocks += share > 0 ? share : 1;
    }
    list.n = n;
    return launch_early(c->stream, c->early, gemv_dot, grid_of(blocks, grid_tiles, jobs->ids ? 1 : jobs->n_matrix),
                        GEMV_BLOCK, (size_t)shared, list);
}
