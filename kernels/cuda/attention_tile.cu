/* Attention on tensor cores for F16 and Q8_0 pools, one kernel for all: GQA and MLA (absorbed), decode and prefill.
 *
 * A block has MT tiles of 16 rows (see attention.cuh: heads that share keys, for neighbouring tokens), so that a page
 * is read once for all of them, and WM x WN warps. Per page of 64 positions:
 *   scores  = q . k     warps side by side over positions; q in two halves (hi + lo = 22 bits), so that a rounding of a
 *                       query does not move a large score; exact halves of keys
 *   weights = exp(scores - maximum so far) * 4096, rounded to half, into shared memory
 *   values += weights . v, sums of weights likewise (a column of ones): warps side by side over the columns of v
 * Which warp computes an element, and how many rows the block has, does not enter into its sum: an element's terms come
 * in order of d_k, or of position. Rows of other tokens or heads never meet.
 *
 * Rounding, against real arithmetic on the pool's values: scores (d_k + 8) * 2^-24 * scale * sum|q||k|, weights 2^-11,
 * Q8_0's numbers 2^-11 when they become halves. Positions past a row's own are left out by -infinity, and rows of a
 * page past the last token are zeros in shared memory, whatever the page holds. Values that are not finite, of tokens
 * that only some of the block's rows see, are taken out of the product and added to those rows alone: 0 * infinity is
 * no number.
 *
 * Roofline. Decode: bytes = (pos + 1) * row bytes of a key head, once per token and key head; bound by memory, since a
 * 16-row tile needs 2 * 16 * (2 d_k + d_v) flops per position for 2 (d_k + d_v) bytes, 48 per byte at d = 128, a tenth
 * of the chip's balance. Prefill: 2 * rows * (2 d_k + d_v) flops per position, bound by the tensor cores' mma.sync rate
 * (about 60 % of wgmma's on Hopper) and by shared memory's 128 bytes per clock, both about equally. */
#include "kernels/cuda/attention.cuh"

#define PAGE    K_PAGE_TOKENS
#define PAD     8 /* halves after each row in shared memory: rows 16 bytes apart modulo 128, no bank conflicts */
#define P_LD    (PAGE + PAD)
#define P_SHIFT 8.31776617f /* 12 ln 2: weights up to 4096, so that small ones are no subnormal halves */
#define ONES    0x3c003c00u /* two halves of 1 */

/* The tile of prefill folds nothing: it has no register to spare, and there a launch more does not count. */
#define PREFILL_MT 4

/* Neighbouring tokens of one sequence at neighbouring positions. */
struct tile_run {
    int32_t first, count;
};
KDEV struct tile_run run_of(const struct cuda_tokens &t, int32_t run)
{
    struct tile_run r = {t.run_start[run], t.run_start[run + 1] - t.run_start[run]};
    return r;
}

/* The (token, head) that is row `row` of the run, counted over all. */
KDEV int64_t head_of_row(const struct attn_args &a, struct tile_run run, int32_t row)
{
    return (int64_t)(run.first + row / a.group) * a.n_head + block_y() * a.group + row % a.group;
}

/* Where things lie in a block's shared memory. */
struct tile_memory {
    uint16_t *k, *v;       /* of the stage in use: [64][ldk], [64][ldv]; MLA: the same */
    uint16_t *q_hi, *q_lo; /* [rows][ldk] */
    uint16_t *p;           /* [rows][P_LD] */
    int32_t *row_pos;      /* [rows] the row's position, -1: no such row */
    float *row_scale;      /* [rows] from sums of products to scores */
    float *max;            /* [WN][rows] */
    float *sum;            /* [rows] */
    int32_t *odd;          /* [1] whether a value that is not finite was found */
    int32_t ldk, ldv;
};

KHOST_DEV size_t stage_halves(const struct attn_args &a)
{
    return (size_t)PAGE * (size_t)(a.d_k + PAD + (a.latent ? 0 : a.d_v + PAD));
}

static size_t shared_bytes(const struct attn_args &a, int rows, int wn)
{
    size_t halves = (size_t)a.n_stage * stage_halves(a) + (size_t)rows * (size_t)(2 * (a.d_k + PAD) + P_LD);
    return halves * sizeof(uint16_t) + ((size_t)rows * (size_t)(wn + 3) + 4) * sizeof(float);
}

template <int ROWS, int WN> static KMEMBER struct tile_memory tile_memory_of(const struct attn_args &a, uint16_t *base)
{
    struct tile_memory s;
    s.ldk = a.d_k + PAD, s.ldv = a.latent ? s.ldk : a.d_v + PAD;
    s.k = base, s.v = a.latent ? base : base + PAGE * s.ldk;
    s.q_hi = base + (size_t)a.n_stage * stage_halves(a);
    s.q_lo = s.q_hi + ROWS * s.ldk;
    s.p = s.q_lo + ROWS * s.ldk;
    s.row_pos = (int32_t *)(s.p + ROWS * P_LD);
    s.row_scale = (float *)(s.row_pos + ROWS);
    s.max = s.row_scale + ROWS;
    s.sum = s.max + WN * ROWS;
    s.odd = (int32_t *)(s.sum + ROWS);
    return s;
}

/* ---- a page into shared memory ---- */

/* n halves from each of `rows` rows of a page; rows up to 64 are filled with zeros. n a multiple of 8. */
KDEV void load_f16(uint16_t *to, int32_t ld, const uint8_t *from, int32_t row_bytes, int32_t n, int32_t rows)
{
    const int32_t chunks = n / 8, d_row = block_dim() / chunks, d_chunk = block_dim() % chunks;
    int32_t row = thread_x() / chunks, chunk = thread_x() % chunks;
    while (row < PAGE) {
        cp_async16(to + row * ld + chunk * 8, from + (row < rows ? (int64_t)row * row_bytes : 0) + chunk * 16,
                   row < rows);
        row += d_row, chunk += d_chunk;
        if (chunk >= chunks)
            chunk -= chunks, row++;
    }
}

/* The same of blocks of 32; n a multiple of 32. A thread takes a block: 2-byte loads, since that is their alignment. */
KDEV void load_q8_0(uint16_t *to, int32_t ld, const uint8_t *from, int32_t row_bytes, int32_t n, int32_t rows)
{
    const int32_t blocks = n / 32;
    for (int32_t i = thread_x(); i < PAGE * blocks; i += block_dim()) {
        const int32_t row = i / blocks, block = i % blocks;
        const uint16_t *b = (const uint16_t *)(from + (int64_t)row * row_bytes + block * 34);
        uint32_t *out = (uint32_t *)(to + row * ld + block * 32);
        const float d = row < rows ? f16_to_f32(b[0]) : 0.0f;
        uint32_t two[16]; /* all of them, then the writes, which a compiler lets no read pass */
#pragma unroll
        for (int32_t j = 0; j < 16; j++)
            two[j] = row < rows ? b[1 + j] : 0u;
#pragma unroll
        for (int32_t j = 0; j < 16; j++)
            out[j] = pack_f16(d * (float)(int8_t)(two[j] & 0xff), d * (float)(int8_t)(two[j] >> 8));
    }
}

KDEV void load_part(uint16_t *to, int32_t ld, const struct attn_args &a, const uint8_t *page, int32_t at, int32_t n,
                    int32_t rows)
{
    if (a.kv_type == K_F16)
        load_f16(to, ld, page + (int64_t)at * 2, a.row_bytes, n, rows);
    else
        load_q8_0(to, ld, page + (int64_t)(at / 32) * 34, a.row_bytes, n, rows);
}

KDEV void load_page(const struct tile_memory &s, const struct attn_args &a, int32_t token, int32_t page, int32_t stage,
                    int32_t last_pos)
{
    const uint8_t *from = attn_page(a, token, page);
    const size_t at = (size_t)stage * stage_halves(a);
    const int32_t rows = last_pos + 1 - page * PAGE;
    load_part(s.k + at, s.ldk, a, from, a.key_at + block_y() * a.key_step, a.d_k, rows);
    if (!a.latent)
        load_part(s.v + at, s.ldv, a, from, a.value_at + block_y() * a.value_step, a.d_v, rows);
}

/* ---- queries ---- */

/* One row, a warp: q * 2^e = hi + lo with the largest element in [2^7, 2^8), far from the limits of a half. The whole
 * row is asked for at once. */
#define QUERY_EACH (576 / WARP) /* attention_tile_can() */
KDEV void split_query(uint16_t *hi, uint16_t *lo, float *scale, const float *q, int32_t n, float attn_scale)
{
    float v[QUERY_EACH], top = 0.0f;
#pragma unroll
    for (int e = 0; e < QUERY_EACH; e++)
        v[e] = e * WARP + lane() < n ? q[e * WARP + lane()] : 0.0f;
#pragma unroll
    for (int e = 0; e < QUERY_EACH; e++)
        top = fmaxf(top, fabsf(v[e]));
    top = warp_max(top);
    int32_t e = (int32_t)(f32_to_bits(top) >> 23); /* biased */
    e = e < 16 ? 16 : e > 250 ? 250 : e;
    const float up = bits_to_f32((uint32_t)(127 + 134 - e) << 23);
#pragma unroll
    for (int i = 0; i < QUERY_EACH; i++) {
        const float x = v[i] * up;
        const uint16_t half = f32_to_f16(x);
        if (i * WARP + lane() < n) {
            hi[i * WARP + lane()] = half;
            lo[i * WARP + lane()] = f32_to_f16(x - f16_to_f32(half));
        }
    }
    if (lane() == 0)
        *scale = attn_scale * bits_to_f32((uint32_t)(e - 134 + 127) << 23);
}

/* The block's rows, from row0 of the run on. */
template <int ROWS>
static KMEMBER void load_queries(const struct tile_memory &s, const struct attn_args &a, struct tile_run run,
                                 int32_t row0)
{
    for (int32_t r = warp_of_block(); r < ROWS; r += block_dim() / WARP) {
        const int32_t row = row0 + r, token = run.first + row / a.group;
        const bool valid = row < run.count * a.group;
        if (valid)
            split_query(s.q_hi + r * s.ldk, s.q_lo + r * s.ldk, s.row_scale + r, a.q + head_of_row(a, run, row) * a.d_k,
                        a.d_k, a.scale);
        for (int32_t i = lane(); !valid && i < a.d_k; i += WARP)
            s.q_hi[r * s.ldk + i] = s.q_lo[r * s.ldk + i] = 0;
        if (lane() == 0)
            s.row_pos[r] = valid ? a.tokens.pos[token] : -1;
        if (lane() == 0 && !valid)
            s.row_scale[r] = 0.0f;
    }
}

/* ---- a warp's share of a block ---- */

/* RT tiles of 16 rows, NS tiles of 8 positions, NO tiles of 8 columns of v. Registers of a thread in an mma tile: rows
 * lane / 4 and lane / 4 + 8, columns lane % 4 * 2 and the next. */
template <int RT, int NO> struct warp_state {
    float out[RT][NO][4]; /* of the split */
    float sum[RT][4];     /* weights, by a column of ones; of warps with wn == 0 */
    float max[RT][2];
};
template <int RT, int NO> struct warp_total {
    float out[RT][NO][4]; /* of all splits so far */
    float sum[RT][2], max[RT][2];
};

template <int RT, int NO> static KMEMBER void state_clear(struct warp_state<RT, NO> &w)
{
#pragma unroll
    for (int t = 0; t < RT; t++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            w.sum[t][i] = 0.0f;
#pragma unroll
            for (int o = 0; o < NO; o++)
                w.out[t][o][i] = 0.0f;
        }
        w.max[t][0] = w.max[t][1] = ATTN_NONE;
    }
}

/* Address of a lane's row for ldmatrix_x4: the four 8 x 8 matrices of a 16 x 16 tile at (row, column) of x, first down,
 * then across. */
KDEV const uint16_t *tile_down(const uint16_t *x, int32_t ld, int32_t row, int32_t column)
{
    return x + (row + (lane() & 15)) * ld + column + (lane() >> 4) * 8;
}
/* First across, then down. */
KDEV const uint16_t *tile_across(const uint16_t *x, int32_t ld, int32_t row, int32_t column)
{
    return x + (row + (lane() & 7) + (lane() >> 4) * 8) * ld + column + ((lane() >> 3) & 1) * 8;
}

/* Sums of products of 16 elements from column on: RT tiles of queries with keys b[n] of the warp's NS tiles. */
template <int RT, int NS>
static KMEMBER void score_step(float (&s)[RT][NS][4], const struct tile_memory &m, int32_t row, int32_t column,
                               const uint32_t (&b)[NS][2])
{
#pragma unroll
    for (int t = 0; t < RT; t++) {
        uint32_t hi[4], lo[4];
        ldmatrix_x4(hi, tile_down(m.q_hi, m.ldk, row + t * 16, column));
        ldmatrix_x4(lo, tile_down(m.q_lo, m.ldk, row + t * 16, column));
#pragma unroll
        for (int n = 0; n < NS; n++) {
            mma_f16_m16n8k16(s[t][n], hi, b[n]);
            mma_f16_m16n8k16(s[t][n], lo, b[n]);
        }
    }
}

/* Scores of rows `row` and on with the positions of the page from `position` on, before scaling. */
template <int RT, int NS>
static KMEMBER void score_page(float (&s)[RT][NS][4], const struct tile_memory &m, const uint16_t *k, int32_t row,
                               int32_t position, int32_t d_k)
{
#pragma unroll
    for (int t = 0; t < RT; t++)
#pragma unroll
        for (int n = 0; n < NS; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                s[t][n][i] = 0.0f;
    for (int32_t column = 0; column < d_k; column += 16) {
        uint32_t b[NS][2], r[4];
        if (NS == 1) { /* one tile of positions: 8 x 16, the other two matrices are not used */
            ldmatrix_x4(r, k + (position + (lane() & 7)) * m.ldk + column + ((lane() >> 3) & 1) * 8);
            b[0][0] = r[0], b[0][1] = r[1];
        }
#pragma unroll
        for (int n = 0; n + 1 < NS; n += 2) {
            ldmatrix_x4(r, tile_across(k, m.ldk, position + n * 8, column));
            b[n][0] = r[0], b[n][1] = r[1], b[n + 1][0] = r[2], b[n + 1][1] = r[3];
        }
        score_step<RT, NS>(s, m, row, column, b);
    }
}

/* Scale, leave out what a row may not see, and the maximum of the warp's positions into shared memory. */
template <int RT, int NS>
static KMEMBER void mask_page(float (&s)[RT][NS][4], const struct tile_memory &m, float *max_out, int32_t row,
                              int32_t first_pos)
{
#pragma unroll
    for (int t = 0; t < RT; t++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int32_t r = row + t * 16 + half * 8 + lane() / 4, last = m.row_pos[r];
            const float scale = m.row_scale[r];
            float top = ATTN_NONE;
#pragma unroll
            for (int n = 0; n < NS; n++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float *x = &s[t][n][half * 2 + i];
                    *x = first_pos + n * 8 + lane() % 4 * 2 + i <= last ? *x * scale : ATTN_NONE;
                    top = *x > top ? *x : top;
                }
            top = fmaxf(top, shfl_xor(top, 1));
            top = fmaxf(top, shfl_xor(top, 2));
            if (lane() % 4 == 0)
                max_out[r] = top;
        }
}

/* Weights of the warp's positions into shared memory; what the warp gathered before is brought to the new maximum. */
template <int RT, int NS, int WN, int ROWS, int NO>
static KMEMBER void weight_page(struct warp_state<RT, NO> &w, const float (&s)[RT][NS][4], const struct tile_memory &m,
                                int32_t row, int32_t position)
{
#pragma unroll
    for (int t = 0; t < RT; t++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int32_t r = row + t * 16 + half * 8 + lane() / 4;
            float max = w.max[t][half];
#pragma unroll
            for (int i = 0; i < WN; i++)
                max = fmaxf(max, m.max[i * ROWS + r]);
            const float from = max == ATTN_NONE ? 0.0f : max, keep = exp_fast(w.max[t][half] - from);
            w.max[t][half] = max;
#pragma unroll
            for (int n = 0; n < NS; n++)
                *(uint32_t *)(m.p + r * P_LD + position + n * 8 + lane() % 4 * 2) = pack_f16(
                    exp_fast(s[t][n][half * 2] - from + P_SHIFT), exp_fast(s[t][n][half * 2 + 1] - from + P_SHIFT));
#pragma unroll
            for (int i = half * 2; i < half * 2 + 2; i++) {
                w.sum[t][i] *= keep;
#pragma unroll
                for (int o = 0; o < NO; o++)
                    w.out[t][o][i] *= keep;
            }
        }
}

/* Weights times values: the warp's pairs of column tiles wn, wn + WN, ... of those that there are. */
template <int RT, int WN, int NO>
static KMEMBER void weigh_page(struct warp_state<RT, NO> &w, const struct tile_memory &m, const uint16_t *v,
                               int32_t row, int32_t wn, int32_t d_v)
{
    const uint32_t ones[2] = {ONES, ONES};
#pragma unroll
    for (int32_t position = 0; position < PAGE; position += 16) {
        uint32_t p[RT][4], r[4];
#pragma unroll
        for (int t = 0; t < RT; t++) {
            ldmatrix_x4(p[t], tile_down(m.p, P_LD, row + t * 16, position));
            if (wn == 0)
                mma_f16_m16n8k16(w.sum[t], p[t], ones);
        }
#pragma unroll
        for (int o = 0; o < NO; o += 2) {
            const int32_t column = (wn + WN * (o / 2)) * 16;
            if (column >= d_v)
                continue;
            ldmatrix_x4_trans(r, tile_down(v, m.ldv, position, column));
            const uint32_t left[2] = {r[0], r[1]}, right[2] = {r[2], r[3]};
#pragma unroll
            for (int t = 0; t < RT; t++) {
                mma_f16_m16n8k16(w.out[t][o], p[t], left);
                mma_f16_m16n8k16(w.out[t][o + 1], p[t], right);
            }
        }
    }
}

/* ---- values that are not finite ---- */

KDEV bool f16_is_finite(uint16_t h)
{
    return (h & 0x7c00) != 0x7c00;
}

/* Sets *m.odd if there is one among positions `from` and up of the page. */
KDEV void find_odd_values(const struct tile_memory &m, const uint16_t *v, int32_t from, int32_t d_v)
{
    bool odd = false;
    for (int32_t i = from * d_v + thread_x(); i < PAGE * d_v; i += block_dim())
        odd = odd || !f16_is_finite(v[i / d_v * m.ldv + i % d_v]);
    if (odd)
        atomic_max_int(m.odd, 1);
}

/* Adds them, weighed, to the rows that see them: each thread to the elements that it holds. */
template <int RT, int WN, int NO>
static KMEMBER void add_odd_values(struct warp_state<RT, NO> &w, const struct tile_memory &m, const uint16_t *v,
                                   int32_t row, int32_t wn, int32_t first_pos, int32_t from, int32_t d_v)
{
#pragma unroll 1
    for (int32_t j = from; j < PAGE; j++)
#pragma unroll
        for (int t = 0; t < RT; t++)
#pragma unroll
            for (int o = 0; o < NO; o++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int32_t r = row + t * 16 + i / 2 * 8 + lane() / 4;
                    const int32_t column = (wn + WN * (o / 2)) * 16 + o % 2 * 8 + lane() % 4 * 2 + i % 2;
                    if (column >= d_v || first_pos + j > m.row_pos[r] || f16_is_finite(v[j * m.ldv + column]))
                        continue;
                    w.out[t][o][i] =
                        fma_rn(f16_to_f32(m.p[r * P_LD + j]), f16_to_f32(v[j * m.ldv + column]), w.out[t][o][i]);
                }
}

KDEV void drop_odd_values(const struct tile_memory &m, uint16_t *v, int32_t from, int32_t d_v)
{
    for (int32_t i = from * d_v + thread_x(); i < PAGE * d_v; i += block_dim()) {
        uint16_t *x = v + i / d_v * m.ldv + i % d_v;
        *x = f16_is_finite(*x) ? *x : (uint16_t)0;
    }
}

/* Before weigh_page(), where the page's positions `from` and up are not seen by all rows; first_pos: of the page. */
template <int RT, int WN, int NO>
static KMEMBER void settle_odd_values(struct warp_state<RT, NO> &w, const struct tile_memory &m, uint16_t *v,
                                      int32_t row, int32_t wn, int32_t first_pos, int32_t from, int32_t d_v)
{
    find_odd_values(m, v, from, d_v);
    sync_block();
    if (*m.odd == 0)
        return;
    add_odd_values<RT, WN, NO>(w, m, v, row, wn, first_pos, from, d_v);
    sync_block();
    drop_odd_values(m, v, from, d_v);
    if (thread_x() == 0)
        *m.odd = 0;
    sync_block();
}

/* ---- a split is done ---- */

template <int RT, int NO>
static KMEMBER void fold_split(struct warp_total<RT, NO> &to, const struct warp_state<RT, NO> &w)
{
#pragma unroll
    for (int t = 0; t < RT; t++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            if (w.max[t][half] == ATTN_NONE)
                continue;
            const struct attn_fold f = attn_fold_of(to.max[t][half], w.max[t][half]);
            to.max[t][half] = f.max;
            to.sum[t][half] = fma_rn(to.sum[t][half], f.keep, w.sum[t][half * 2] * f.take);
#pragma unroll
            for (int o = 0; o < NO; o++)
#pragma unroll
                for (int i = half * 2; i < half * 2 + 2; i++)
                    to.out[t][o][i] = fma_rn(to.out[t][o][i], f.keep, w.out[t][o][i] * f.take);
        }
}

/* Where a warp's row comes out. */
struct tile_place {
    struct tile_run run;
    int32_t row0;    /* of the block, in the run */
    int32_t row, wn; /* of the warp, in the block */
};

template <int RT, int WN, int NO>
static KMEMBER void store_split(const struct attn_args &a, const struct tile_place &at, int32_t split,
                                const struct warp_state<RT, NO> &w)
{
#pragma unroll
    for (int t = 0; t < RT; t++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int32_t row = at.row0 + at.row + t * 16 + half * 8 + lane() / 4;
            if (row >= at.run.count * a.group)
                continue;
            float *to = attn_part(a, head_of_row(a, at.run, row), split);
#pragma unroll
            for (int o = 0; o < NO; o++) {
                const int32_t column = (at.wn + WN * (o / 2)) * 16 + o % 2 * 8 + lane() % 4 * 2;
                if (column < a.d_v)
                    to[column] = w.out[t][o][half * 2], to[column + 1] = w.out[t][o][half * 2 + 1];
            }
            if (at.wn == 0 && lane() % 4 == 0)
                to[a.d_v] = w.max[t][half], to[a.d_v + 1] = w.sum[t][half * 2];
        }
}

/* The block has folded all splits itself. */
template <int RT, int WN, int NO>
static KMEMBER void store_total(const struct attn_args &a, const struct tile_place &at, const struct tile_memory &m,
                                const struct warp_total<RT, NO> &w)
{
#pragma unroll
    for (int t = 0; t < RT; t++)
#pragma unroll
        for (int half = 0; half < 2; half++)
            if (at.wn == 0 && lane() % 4 == 0)
                m.sum[at.row + t * 16 + half * 8 + lane() / 4] = w.sum[t][half];
    sync_block();
#pragma unroll
    for (int t = 0; t < RT; t++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int32_t r = at.row + t * 16 + half * 8 + lane() / 4, row = at.row0 + r;
            if (row >= at.run.count * a.group)
                continue;
            float *to = a.y + head_of_row(a, at.run, row) * a.d_v;
            const float sum = m.sum[r];
#pragma unroll
            for (int o = 0; o < NO; o++) {
                const int32_t column = (at.wn + WN * (o / 2)) * 16 + o % 2 * 8 + lane() % 4 * 2;
                if (column < a.d_v)
                    to[column] = w.out[t][o][half * 2] / sum, to[column + 1] = w.out[t][o][half * 2 + 1] / sum;
            }
        }
}

/* ---- splits that several blocks computed ---- */

KDEV int32_t splits_up_to(const struct attn_args &a, int32_t pos)
{
    return pos / (PAGE * a.split_pages) + 1;
}

/* Four columns of a row in n splits, in order, as fold_split() folds them; so many splits are on their way at once. */
#define FOLD_AHEAD 4
KDEV void fold_columns(const struct attn_args &a, int64_t row, int32_t n, int32_t column)
{
    float max = ATTN_NONE, sum = 0.0f, out[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int32_t first = 0; first < n; first += FOLD_AHEAD) {
        struct u32x4 value[FOLD_AHEAD], weight[FOLD_AHEAD];
#pragma unroll
        for (int i = 0; i < FOLD_AHEAD; i++) {
            const float *part = attn_part(a, row, first + i < n ? first + i : n - 1);
            value[i] = load16(part + column), weight[i] = load16(part + a.d_v);
        }
#pragma unroll
        for (int i = 0; i < FOLD_AHEAD; i++) {
            const bool is = first + i < n; /* chosen, not branched on: a load would wait for its branch */
            const struct attn_fold f = attn_fold_of(max, bits_to_f32(weight[i].x));
            const uint32_t v[4] = {value[i].x, value[i].y, value[i].z, value[i].w};
            max = is ? f.max : max;
            sum = is ? fma_rn(sum, f.keep, bits_to_f32(weight[i].y) * f.take) : sum;
            for (int c = 0; c < 4; c++)
                out[c] = is ? fma_rn(out[c], f.keep, bits_to_f32(v[c]) * f.take) : out[c];
        }
    }
    for (int c = 0; c < 4; c++)
        a.y[row * a.d_v + column + c] = out[c] / sum;
}

/* The block's rows. */
template <int ROWS> static KMEMBER void fold_rows(const struct attn_args &a, const struct tile_place &at)
{
    const int32_t n_quad = a.d_v / 4;
    for (int32_t i = thread_x(); i < ROWS * n_quad; i += block_dim()) {
        const int32_t row = at.row0 + i / n_quad;
        if (row >= at.run.count * a.group)
            return;
        const int32_t pos = a.tokens.pos[at.run.first + row / a.group];
        fold_columns(a, head_of_row(a, at.run, row), splits_up_to(a, pos), i % n_quad * 4);
    }
}

/* The page after this one that the block works on: its splits are n_z apart. */
KDEV int32_t page_after(const struct attn_args &a, int32_t page)
{
    page++;
    return page % a.split_pages ? page : page + (a.n_z - 1) * a.split_pages;
}

/* Grid (runs * row blocks, key heads, n_z), 32 * WM * WN threads. Shared: shared_bytes(), 80 KiB for a decode tile of
 * d = 128, 224 KiB for MLA's 32 heads by 576. The last of the blocks that share a row block's splits reads these from
 * L2, rows * splits * (d_v + 4) * 4 bytes and no more than ATTN_FOLD_BYTES. */
template <int MT, int WM, int WN, int NO> KERNEL_BOUNDS(attention_tile_kernel, WM *WN *WARP, 1)(struct attn_args a)
{
    let_next_begin();
    wait_for_before();
    enum { RT = MT / WM, NS = PAGE / 8 / WN, ROWS = MT * 16 };
    SHARED_DYN(uint16_t, base);
    struct tile_memory m = tile_memory_of<ROWS, WN>(a, base);
    struct tile_place at;
    at.run = run_of(a.tokens, block_x() / a.n_row_block);
    at.row0 = block_x() % a.n_row_block * ROWS;
    at.row = warp_of_block() / WN * RT * 16, at.wn = warp_of_block() % WN;
    if (at.run.count < a.count_min || at.run.count > a.count_max || at.row0 >= at.run.count * a.group)
        return;
    const int32_t last_row = (at.row0 + ROWS < at.run.count * a.group ? at.row0 + ROWS : at.run.count * a.group) - 1;
    const int32_t last_pos = a.tokens.pos[at.run.first + last_row / a.group], last_page = last_pos / PAGE;
    const int32_t seen_by_all = a.tokens.pos[at.run.first + at.row0 / a.group]; /* up to there */
    int32_t page = block_z() * a.split_pages, stage = 0;
    if (page > last_page || token_is_padding(a.tokens, at.run.first))
        return;
    if (thread_x() == 0)
        *m.odd = 0;
    struct warp_state<RT, NO> w;
    struct warp_total<RT, NO> total;
    state_clear(w);
#pragma unroll
    for (int t = 0; t < RT; t++)
        for (int half = 0; half < 2; half++) {
            total.max[t][half] = ATTN_NONE, total.sum[t][half] = 0.0f;
#pragma unroll
            for (int o = 0; o < NO; o++)
                total.out[t][o][half * 2] = total.out[t][o][half * 2 + 1] = 0.0f;
        }
    load_queries<ROWS>(m, a, at.run, at.row0);
    if (a.n_stage == 2) {
        load_page(m, a, at.run.first, page, 0, last_pos);
        cp_async_commit();
    }
    for (int32_t next; page <= last_page; page = next) {
        next = page_after(a, page);
        if (a.n_stage == 1) {
            sync_block(); /* the last page is not needed any more */
            load_page(m, a, at.run.first, page, 0, last_pos);
            cp_async_commit();
        }
        cp_async_wait<0>();
        sync_block();
        if (a.n_stage == 2 && next <= last_page) {
            load_page(m, a, at.run.first, next, stage ^ 1, last_pos);
            cp_async_commit();
        }
        const size_t in_use = (size_t)stage * stage_halves(a);
        float s[RT][NS][4];
        score_page<RT, NS>(s, m, m.k + in_use, at.row, at.wn * NS * 8, a.d_k);
        mask_page<RT, NS>(s, m, m.max + at.wn * ROWS, at.row, page * PAGE + at.wn * NS * 8);
        sync_block();
        weight_page<RT, NS, WN, ROWS, NO>(w, s, m, at.row, at.wn * NS * 8);
        sync_block();
        if (seen_by_all < last_pos && seen_by_all < page * PAGE + PAGE - 1)
            settle_odd_values<RT, WN, NO>(w, m, m.v + in_use, at.row, at.wn, page * PAGE,
                                          seen_by_all < page * PAGE ? 0 : seen_by_all + 1 - page * PAGE, a.d_v);
        weigh_page<RT, WN, NO>(w, m, m.v + in_use, at.row, at.wn, a.d_v);
        if ((page + 1) % a.split_pages == 0 || next > last_page) {
            if (a.n_z > 1)
                store_split<RT, WN, NO>(a, at, page / a.split_pages, w);
            else
                fold_split<RT, NO>(total, w);
            state_clear(w);
        }
        stage ^= a.n_stage == 2;
    }
    const int32_t n_split = last_page / a.split_pages + 1, n_block = n_split < a.n_z ? n_split : a.n_z;
    if (a.n_z == 1)
        store_total<RT, WN, NO>(a, at, m, total);
    else if (MT < PREFILL_MT && a.arrived &&
             last_of_blocks(a.arrived + head_of_row(a, at.run, at.row0), n_block, m.odd))
        fold_rows<ROWS>(a, at);
}

/* The same in a launch of its own, for more splits than a block should read: a block per row.
 * Grid (n_tok, n_head), 128 threads. Bytes: splits * (d_v + 4) * 4 read per row. Bound by latency. */
KERNEL(attention_fold_kernel)(struct attn_args a)
{
    let_next_begin();
    wait_for_before();
    const int32_t token = block_x(), count = run_of(a.tokens, a.tokens.run_of[token]).count;
    if (count < a.count_min || count > a.count_max || token_is_padding(a.tokens, token))
        return;
    for (int32_t column = thread_x() * 4; column < a.d_v; column += block_dim() * 4)
        fold_columns(a, (int64_t)token * a.n_head + block_y(), splits_up_to(a, a.tokens.pos[token]), column);
}

/* ---- host ---- */

/* What the kernel needs: halves in runs of 16 bytes, blocks that belong to one head, columns in pairs of tiles. */
bool attention_tile_can(const struct attn_args *a)
{
    const int32_t unit = a->kv_type == K_Q8_0 ? 32 : 16;
    if (a->kv_type == K_F32 || a->d_k % unit || a->d_v % unit || a->d_k > 576 || a->d_v > (a->latent ? 512 : 128))
        return false;
    if (a->kv_type == K_Q8_0)
        return true;
    return a->row_bytes % 16 == 0 && a->page_stride % 16 == 0 && (uintptr_t)a->kv % 16 == 0;
}

/* The row blocks as they are, or the splits of each shared by n_z of them when there would be too few. rows: of one. */
static void share_splits(struct attn_args *a, const struct attn_env *env, int64_t row_blocks, int32_t rows)
{
    const int64_t blocks = row_blocks * a->n_kv_head, want = 2 * (int64_t)env->n_sm;
    a->n_split = env->tokens.pos_max / (PAGE * a->split_pages) + 1;
    a->part = env->part;
    const double part_bytes = (double)a->n_split * attn_part_floats(*a) * sizeof(float);
    const double n_rows = (double)env->tokens.n_tok * a->n_head;
    int64_t n_z = (want + blocks - 1) / blocks;
    n_z = n_z < a->n_split ? n_z : a->n_split;
    a->n_z = n_rows * part_bytes <= (double)env->part_bytes ? (int32_t)n_z : 1;
    a->arrived = rows * part_bytes <= (double)env->fold_bytes && n_rows <= CUDA_ARRIVED ? env->arrived : NULL;
}

/* The runs of count_min to count_max tokens. */
template <int MT, int WM, int WN, int NO>
static enum k_status run_counts(const struct attn_env *env, struct attn_args a, int32_t count_min, int32_t count_max)
{
    const struct cuda_tokens *t = &env->tokens;
    const int32_t longest = t->run_max < count_max ? t->run_max : count_max;
    if (longest < count_min)
        return K_OK;
    a.count_min = count_min, a.count_max = count_max;
    a.n_row_block = (longest * a.group + MT * 16 - 1) / (MT * 16);
    /* How many row blocks there will be is known on the device alone; a guess, which changes speed and no result. */
    const int64_t guess =
        count_min == 1 ? (int64_t)t->n_runs * a.n_row_block : (int64_t)(t->n_tok - t->n_runs) * a.group / (MT * 16);
    share_splits(&a, env, guess > a.n_row_block ? guess : a.n_row_block,
                 longest * a.group < MT * 16 ? longest * a.group : MT * 16);
    if (MT == PREFILL_MT)
        a.arrived = NULL;
    a.n_stage = 2;
    if (shared_bytes(a, MT * 16, WN) > env->shared_max)
        a.n_stage = 1;
    const size_t shared = shared_bytes(a, MT * 16, WN);
    if (shared > env->shared_max)
        return K_BAD_SHAPE;
    enum k_status st =
        launch_early(env->stream, env->early, attention_tile_kernel<MT, WM, WN, NO>,
                     grid_of((int64_t)t->n_runs * a.n_row_block, a.n_kv_head, a.n_z), WM * WN * WARP, shared, a);
    if (st != K_OK || a.n_z == 1 || a.arrived)
        return st;
    return launch_early(env->stream, env->early, attention_fold_kernel, grid_of(t->n_tok, a.n_head), 128, 0, a);
}

/* Whether a block of the larger of the two kernels that such heads may need has its shared memory. */
static bool tiles_fit(const struct attn_env *env, struct attn_args a)
{
    a.n_stage = 1;
    return (a.latent ? shared_bytes(a, 32, 8) : shared_bytes(a, 64, 2)) <= env->shared_max;
}

#define ALONE_MAX 3 /* longer runs are worth tiles of their own */

enum k_status attention_tile(const struct attn_env *env, struct attn_args *a)
{
    if (!tiles_fit(env, *a))
        return K_UNSUPPORTED;
    /* Partial results would outgrow the cache they are read from where many heads share keys: longer splits. */
    a->split_pages = a->group <= 32 ? 4 : 16;
    enum k_status st;
    if (a->latent) {
        if (a->group > 16)
            return run_counts<2, 1, 8, 8>(env, *a, 1, INT32_MAX);
        st = run_counts<1, 1, 8, 8>(env, *a, 1, 1);
        return st != K_OK ? st : run_counts<2, 1, 8, 8>(env, *a, 2, INT32_MAX);
    }
    st = run_counts<1, 1, 4, 4>(env, *a, 1, ALONE_MAX);
    return st != K_OK ? st : run_counts<PREFILL_MT, 2, 2, 8>(env, *a, ALONE_MAX + 1, INT32_MAX);
}
