/* Products with few tokens, where packing a panel costs more than it saves: the same sums straight from the blocks, for
 * the types that decode speed hangs on. Bound by bytes: a core keeps up with its share of memory bandwidth.
 *
 * Whole groups are integers, so they may be added in any order; rows end up in lanes by a tree of unpacks and
 * additions, and from there on each lane does what gemm_q_tile does, rounding for rounding. */
#ifndef KERNELS_CPU_GEMV_AVX512_H
#define KERNELS_CPU_GEMV_AVX512_H

#include "kernels/cpu/vec_avx512.h"

#define GEMV_TOKENS 4
#define GEMV_INLINE static inline __attribute__((always_inline))

/* The activations of up to GEMV_TOKENS tokens, and their sums. */
struct gemv {
    __m512 acc[GEMV_TOKENS];
    const uint8_t *const *x;
    const struct act_layout *l;
    int n_tok;
};

GEMV_INLINE void gemv_load(struct gemv *v, const float *acc, const uint8_t *const *x, const struct act_layout *l,
                           int n_tok)
{
    *v = (struct gemv){.x = x, .l = l, .n_tok = n_tok};
    for (int t = 0; t < n_tok; t++)
        v->acc[t] = _mm512_loadu_ps(acc + t * PANEL_ROWS);
}

GEMV_INLINE void gemv_store(const struct gemv *v, float *acc)
{
    for (int t = 0; t < v->n_tok; t++)
        _mm512_storeu_ps(acc + t * PANEL_ROWS, v->acc[t]);
}

/* acc += d * dx * dot for group g of the activations (and m * -dx * sum when has_min). */
GEMV_INLINE void gemv_add(struct gemv *v, int t, int64_t g, __m512 d, __m512 m, __m512i dot, bool has_min)
{
    const uint8_t *x = v->x[t];
    float dx = ((const float *)(x + v->l->d))[g * v->l->group / 32];
    dot = _mm512_add_epi32(dot, _mm512_set1_epi32(((const int32_t *)(x + v->l->correction))[g]));
    v->acc[t] = _mm512_fmadd_ps(_mm512_mul_ps(d, _mm512_set1_ps(dx)), _mm512_cvtepi32_ps(dot), v->acc[t]);
    if (has_min)
        v->acc[t] = _mm512_fmadd_ps(m, _mm512_set1_ps(((const float *)(x + v->l->minimum))[g]), v->acc[t]);
}

GEMV_INLINE __m512i rows_2(const uint8_t *const *rows, int r, int64_t at)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(rows[r] + at))),
                              _mm256_loadu_si256((const __m256i *)(rows[r + 8] + at)), 1);
}

GEMV_INLINE __m512i rows_4(const uint8_t *const *rows, int r, int64_t at)
{
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(rows[r] + at)));
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(rows[r + 4] + at)), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(rows[r + 8] + at)), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(rows[r + 12] + at)), 3);
}

/* Add the four lanes of each 128 bits: lane i of the result's 128 bits is the sum of a[i]'s. */
GEMV_INLINE __m512i sum_4(__m512i a, __m512i b, __m512i c, __m512i d)
{
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}

/* w[r] holds 32 numbers of row r and of row r + 8: dot products of the first and of the last 16, lanes in row order. */
GEMV_INLINE void dot_halves(__m512i out[2], const __m512i w[8], const uint8_t *x)
{
    const __m512i even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13),
                  odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    const __m512i zero = _mm512_setzero_si512(), x2 = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)x));
    __m512i low = sum_4(_mm512_dpbusd_epi32(zero, w[0], x2), _mm512_dpbusd_epi32(zero, w[1], x2),
                        _mm512_dpbusd_epi32(zero, w[2], x2), _mm512_dpbusd_epi32(zero, w[3], x2));
    __m512i high = sum_4(_mm512_dpbusd_epi32(zero, w[4], x2), _mm512_dpbusd_epi32(zero, w[5], x2),
                         _mm512_dpbusd_epi32(zero, w[6], x2), _mm512_dpbusd_epi32(zero, w[7], x2));
    out[0] = _mm512_permutex2var_epi64(low, even, high);
    out[1] = _mm512_permutex2var_epi64(low, odd, high);
}

GEMV_INLINE __m512i dot_32(const __m512i w[8], const uint8_t *x)
{
    __m512i half[2];
    dot_halves(half, w, x);
    return _mm512_add_epi32(half[0], half[1]);
}

/* The same for 16 + 16 numbers of four rows per register. */
GEMV_INLINE __m512i dot_nibbles(const __m512i low[4], const __m512i high[4], const uint8_t *x)
{
    const __m512i x_low = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)x));
    const __m512i x_high = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(x + 16)));
    __m512i a[4];
    for (int r = 0; r < 4; r++)
        a[r] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), low[r], x_low), high[r], x_high);
    return sum_4(a[0], a[1], a[2], a[3]);
}

/* The first two bytes of a block of each row, as numbers. */
GEMV_INLINE __m512 halves_16(const uint16_t halves[PANEL_ROWS])
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)halves));
}

/* Scales are copied some blocks ahead of their use, because a wide load soon after narrow stores would stall. */
#define SCALE_BLOCKS 8

GEMV_INLINE void copy_scales(uint16_t scales[SCALE_BLOCKS][PANEL_ROWS], const uint8_t *const *rows, int64_t block,
                             int64_t n, int64_t block_bytes, size_t ahead)
{
    for (int r = 0; r < PANEL_ROWS; r++)
        for (int64_t b = 0; b < n; b++) {
            const uint8_t *p = rows[r] + (block + b) * block_bytes;
            memcpy(&scales[b][r], p, sizeof(uint16_t));
            __builtin_prefetch(p + ahead, 0, 2);
        }
}

/* One block of 32 of each type: unpacked once, multiplied with each token. */
GEMV_INLINE void gemv_block_q8_0(struct gemv *v, const uint8_t *const *rows, int64_t at, int64_t g, __m512 d)
{
    __m512i w[8];
    for (int r = 0; r < 8; r++)
        w[r] = _mm512_xor_si512(rows_2(rows, r, at + 2), _mm512_set1_epi8(-128));
    for (int t = 0; t < v->n_tok; t++)
        gemv_add(v, t, g, d, d, dot_32(w, v->x[t] + g * 32), false);
}

GEMV_INLINE void gemv_block_q4_0(struct gemv *v, const uint8_t *const *rows, int64_t at, int64_t g, __m512 d)
{
    const __m512i mask = _mm512_set1_epi8(15);
    __m512i low[4], high[4];
    for (int r = 0; r < 4; r++) {
        __m512i both = rows_4(rows, r, at + 2);
        low[r] = _mm512_and_si512(both, mask);
        high[r] = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
    }
    for (int t = 0; t < v->n_tok; t++)
        gemv_add(v, t, g, d, d, dot_nibbles(low, high, v->x[t] + g * 32), false);
}

GEMV_INLINE void gemv_block_q5_0(struct gemv *v, const uint8_t *const *rows, int64_t at, int64_t g, __m512 d)
{
    const __m512i mask = _mm512_set1_epi8(15), fifth = _mm512_set1_epi8(16);
    __m512i low[4], high[4];
    for (int r = 0; r < 4; r++) {
        __m512i both = rows_4(rows, r, at + 6);
        uint64_t bits_low = 0, bits_high = 0;
        for (int i = 0; i < 4; i++) {
            uint32_t bits;
            memcpy(&bits, rows[r + 4 * i] + at + 2, sizeof bits);
            bits_low |= (uint64_t)(bits & 0xffff) << (16 * i);
            bits_high |= (uint64_t)(bits >> 16) << (16 * i);
        }
        low[r] = _mm512_or_si512(_mm512_and_si512(both, mask), _mm512_maskz_mov_epi8(bits_low, fifth));
        high[r] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(both, 4), mask),
                                  _mm512_maskz_mov_epi8(bits_high, fifth));
    }
    for (int t = 0; t < v->n_tok; t++)
        gemv_add(v, t, g, d, d, dot_nibbles(low, high, v->x[t] + g * 32), false);
}

typedef void gemv_block_fn(struct gemv *v, const uint8_t *const *rows, int64_t at, int64_t g, __m512 d);

GEMV_INLINE void gemv_blocks(float *acc, const uint8_t *const *rows, const uint8_t *const *x, int n_tok, int64_t n,
                             const struct act_layout *l, size_t ahead, gemv_block_fn *one, int64_t block_bytes)
{
    struct gemv v;
    uint16_t scales[SCALE_BLOCKS][PANEL_ROWS];
    gemv_load(&v, acc, x, l, n_tok);
    for (int64_t block = 0; block < n / 32; block += SCALE_BLOCKS) {
        int64_t blocks = n / 32 - block < SCALE_BLOCKS ? n / 32 - block : SCALE_BLOCKS;
        copy_scales(scales, rows, block, blocks, block_bytes, ahead);
        for (int64_t b = 0; b < blocks; b++)
            one(&v, rows, (block + b) * block_bytes, block + b, halves_16(scales[b]));
    }
    gemv_store(&v, acc);
}

/* Byte g % 4 of each lane. */
GEMV_INLINE __m512i byte_of(__m512i v, int g)
{
    return _mm512_and_si512(_mm512_srli_epi32(v, (unsigned)(8 * (g % 4))), _mm512_set1_epi32(255));
}

/* expand_scales_k for 16 rows at once: the header's four words, one row per lane. */
struct scales_k {
    __m512 d, dmin;
    __m512i scale[2], min[2]; /* bytes of groups 0..3 and 4..7 */
};

GEMV_INLINE struct scales_k load_scales_k(const uint8_t *const *rows, int64_t at)
{
    __m512i a = rows_4(rows, 0, at), b = rows_4(rows, 1, at), c = rows_4(rows, 2, at), d = rows_4(rows, 3, at);
    __m512i ab = _mm512_unpacklo_epi32(a, b), cd = _mm512_unpacklo_epi32(c, d);
    __m512i w0 = _mm512_unpacklo_epi64(ab, cd), s0 = _mm512_unpackhi_epi64(ab, cd);
    ab = _mm512_unpackhi_epi32(a, b), cd = _mm512_unpackhi_epi32(c, d);
    __m512i s1 = _mm512_unpacklo_epi64(ab, cd), s2 = _mm512_unpackhi_epi64(ab, cd);
    const __m512i six = _mm512_set1_epi8(0x3f), four = _mm512_set1_epi8(0x0f), two = _mm512_set1_epi8(0x30);
    struct scales_k k;
    k.d = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(w0));
    k.dmin = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(w0, 16)));
    k.scale[0] = _mm512_and_si512(s0, six);
    k.scale[1] = _mm512_or_si512(_mm512_and_si512(s2, four), _mm512_and_si512(_mm512_srli_epi32(s0, 2), two));
    k.min[0] = _mm512_and_si512(s1, six);
    k.min[1] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi32(s2, 4), four),
                               _mm512_and_si512(_mm512_srli_epi32(s1, 2), two));
    return k;
}

GEMV_INLINE void gemv_group_k(struct gemv *v, const struct scales_k *k, const __m512i w[8], int64_t block, int g)
{
    __m512 d = _mm512_mul_ps(_mm512_cvtepi32_ps(byte_of(k->scale[g / 4], g)), k->d);
    __m512 m = _mm512_mul_ps(_mm512_cvtepi32_ps(byte_of(k->min[g / 4], g)), k->dmin);
    for (int t = 0; t < v->n_tok; t++)
        gemv_add(v, t, block * 8 + g, d, m, dot_32(w, v->x[t] + block * 256 + g * 32), true);
}

GEMV_INLINE void prefetch_rows(const uint8_t *const *rows, int64_t at, int64_t bytes)
{
    for (int r = 0; r < PANEL_ROWS; r++)
        for (int64_t i = 0; i < bytes; i += 64)
            __builtin_prefetch(rows[r] + at + i, 0, 2);
}

GEMV_INLINE void gemv_k(float *acc, const uint8_t *const *rows, const uint8_t *const *x, int n_tok, int64_t n,
                        const struct act_layout *l, size_t ahead, bool fifth)
{
    const __m512i mask = _mm512_set1_epi8(15), bit = _mm512_set1_epi8(16);
    const int64_t block_bytes = fifth ? 176 : 144, nibbles = fifth ? 48 : 16;
    struct gemv v;
    gemv_load(&v, acc, x, l, n_tok);
    for (int64_t block = 0; block < n / 256; block++) {
        int64_t at = block * block_bytes;
        struct scales_k k = load_scales_k(rows, at);
        for (int pair = 0; pair < 4; pair++) {
            __m512i low[8], high[8];
            prefetch_rows(rows, at + (int64_t)ahead + pair * block_bytes / 4, 1);
            for (int r = 0; r < 8; r++) {
                __m512i both = rows_2(rows, r, at + nibbles + pair * 32);
                low[r] = _mm512_and_si512(both, mask);
                high[r] = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
                if (fifth) { /* bit 2 * pair of each byte belongs to `low`, the next one to `high` */
                    __m512i bits = _mm512_srli_epi16(rows_2(rows, r, at + 16), (unsigned)(2 * pair));
                    low[r] = _mm512_or_si512(low[r], _mm512_and_si512(_mm512_slli_epi16(bits, 4), bit));
                    high[r] = _mm512_or_si512(high[r], _mm512_and_si512(_mm512_slli_epi16(bits, 3), bit));
                }
            }
            gemv_group_k(&v, &k, low, block, 2 * pair);
            gemv_group_k(&v, &k, high, block, 2 * pair + 1);
        }
    }
    gemv_store(&v, acc);
}

/* 32 numbers of one layer of a q6_k half, rows r and r + 8. */
GEMV_INLINE __m512i layer_q6_k(const uint8_t *const *rows, int r, int64_t at, int half, int layer)
{
    __m512i low = rows_2(rows, r, at + half * 64 + layer % 2 * 32), high = rows_2(rows, r, at + 128 + half * 32);
    low = _mm512_and_si512(layer < 2 ? low : _mm512_srli_epi16(low, 4), _mm512_set1_epi8(15));
    high = layer == 0   ? _mm512_slli_epi16(high, 4)
           : layer == 1 ? _mm512_slli_epi16(high, 2)
           : layer == 2 ? high
                        : _mm512_srli_epi16(high, 2);
    return _mm512_or_si512(low, _mm512_and_si512(high, _mm512_set1_epi8(0x30)));
}

static void gemv_q6_k(float *acc, const uint8_t *const *rows, const uint8_t *const *x, int n_tok, int64_t n,
                      const struct act_layout *l, size_t ahead)
{
    struct gemv v;
    gemv_load(&v, acc, x, l, n_tok);
    for (int64_t block = 0; block < n / 256; block++) {
        int64_t at = block * 210;
        uint16_t halves[PANEL_ROWS];
        for (int r = 0; r < PANEL_ROWS; r++)
            memcpy(&halves[r], rows[r] + at + 208, sizeof halves[r]);
        __m512i a = rows_4(rows, 0, at + 192), b = rows_4(rows, 1, at + 192), c = rows_4(rows, 2, at + 192);
        __m512i e = rows_4(rows, 3, at + 192), ab = _mm512_unpacklo_epi32(a, b), ce = _mm512_unpacklo_epi32(c, e);
        __m512i scales[4] = {_mm512_unpacklo_epi64(ab, ce), _mm512_unpackhi_epi64(ab, ce)};
        ab = _mm512_unpackhi_epi32(a, b), ce = _mm512_unpackhi_epi32(c, e);
        scales[2] = _mm512_unpacklo_epi64(ab, ce), scales[3] = _mm512_unpackhi_epi64(ab, ce);
        __m512 unit = halves_16(halves);
        for (int i = 0; i < 8; i++) {
            __m512i w[8], dot[2];
            if (i % 2 == 0)
                prefetch_rows(rows, at + (int64_t)ahead + i * 27, 1);
            for (int r = 0; r < 8; r++)
                w[r] = layer_q6_k(rows, r, at, i / 4, i % 4);
            for (int t = 0; t < n_tok; t++) {
                dot_halves(dot, w, x[t] + block * 256 + i * 32);
                for (int h = 0; h < 2; h++) {
                    int g = 2 * i + h; /* the signed byte g % 4 of the lane */
                    __m512i s = _mm512_srai_epi32(_mm512_slli_epi32(scales[g / 4], (unsigned)(24 - 8 * (g % 4))), 24);
                    gemv_add(&v, t, block * 16 + g, _mm512_mul_ps(_mm512_cvtepi32_ps(s), unit), unit, dot[h], false);
                }
            }
        }
    }
    gemv_store(&v, acc);
}

static void gemv_q8_0(float *acc, const uint8_t *const *rows, const uint8_t *const *x, int n_tok, int64_t n,
                      const struct act_layout *l, size_t ahead)
{
    gemv_blocks(acc, rows, x, n_tok, n, l, ahead, gemv_block_q8_0, 34);
}

static void gemv_q4_0(float *acc, const uint8_t *const *rows, const uint8_t *const *x, int n_tok, int64_t n,
                      const struct act_layout *l, size_t ahead)
{
    gemv_blocks(acc, rows, x, n_tok, n, l, ahead, gemv_block_q4_0, 18);
}

static void gemv_q5_0(float *acc, const uint8_t *const *rows, const uint8_t *const *x, int n_tok, int64_t n,
                      const struct act_layout *l, size_t ahead)
{
    gemv_blocks(acc, rows, x, n_tok, n, l, ahead, gemv_block_q5_0, 22);
}

static void gemv_q4_k(float *acc, const uint8_t *const *rows, const uint8_t *const *x, int n_tok, int64_t n,
                      const struct act_layout *l, size_t ahead)
{
    gemv_k(acc, rows, x, n_tok, n, l, ahead, false);
}

static void gemv_q5_k(float *acc, const uint8_t *const *rows, const uint8_t *const *x, int n_tok, int64_t n,
                      const struct act_layout *l, size_t ahead)
{
    gemv_k(acc, rows, x, n_tok, n, l, ahead, true);
}

#define ISA_GEMV_TOKENS                                                                                                \
    {                                                                                                                  \
        [K_Q8_0] = 4, [K_Q4_0] = 4, [K_Q5_0] = 4, [K_Q4_K] = 4, [K_Q5_K] = 4, [K_Q6_K] = 4                             \
    }
#define ISA_GEMV                                                                                                       \
    {                                                                                                                  \
        [K_Q8_0] = gemv_q8_0, [K_Q4_0] = gemv_q4_0, [K_Q5_0] = gemv_q5_0, [K_Q4_K] = gemv_q4_k, [K_Q5_K] = gemv_q5_k,  \
        [K_Q6_K] = gemv_q6_k,                                                                                          \
    }

#endif
