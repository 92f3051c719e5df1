/* Products with few tokens for AVX2, straight from the blocks, eight rows at a time as in pack_avx2.h. Each lane does
 * what gemm_q_tile does, rounding for rounding; whole groups are exact integers and may be added in any order.
 *
 * n_tok is a constant in each copy. What is unpacked of a group stays in registers while each token takes it. */
#ifndef KERNELS_CPU_GEMV_AVX2_H
#define KERNELS_CPU_GEMV_AVX2_H

#include "kernels/cpu/pack_avx2.h"

#define GEMV_TOKENS 4
#define LANES_FROM  3 /* tokens; fewer are better served by sums of rows */

/* The sums of eight rows, and the tokens' activations. */
struct gemv {
    __m256 acc[GEMV_TOKENS];
    const uint8_t *const *x;
    const struct act_layout *l;
};

/* acc += d * dx * dot for a group; at_32: the number of its 32 activations. */
PACK_INLINE void gemv_add(struct gemv *v, int t, int64_t at_32, __m256 d, __m256i dot)
{
    __m256 dx = _mm256_broadcast_ss((const float *)(v->x[t] + v->l->d) + at_32);
    v->acc[t] = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), _mm256_cvtepi32_ps(dot), v->acc[t]);
}

/* acc += m * -dx * sum(q) */
PACK_INLINE void gemv_add_min(struct gemv *v, int t, int64_t group, __m256 m)
{
    __m256 x = _mm256_broadcast_ss((const float *)(v->x[t] + v->l->minimum) + group);
    v->acc[t] = _mm256_fmadd_ps(m, x, v->acc[t]);
}

PACK_INLINE __m256i corrected(const struct gemv *v, int t, int64_t group, __m256i dot)
{
    return _mm256_add_epi32(dot, _mm256_set1_epi32(((const int32_t *)(v->x[t] + v->l->correction))[group]));
}

/* ---- dot products: numbers stay in the order of their row until a group is summed ---------------------------------- */

PACK_INLINE __m256i twice(const uint8_t *x)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)x));
}

/* The four lanes of each 128 bits, in pairs: two of a's, two of b's in turn. */
PACK_INLINE __m256i fold_16(__m256i a, __m256i b)
{
    return _mm256_add_epi16(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
}

PACK_INLINE __m256i fold_32(__m256i a, __m256i b)
{
    return _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
}

PACK_INLINE __m256i widened(__m256i sums)
{
    return _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
}

/* Sums of 16 bits, p[r] of rows r and r + 4 -> a lane of 32 bits per row. Of four-bit numbers a group fits sums of
 * 16 bits, since 16 * 15 * 127 < 2^15. */
PACK_INLINE __m256i sum_4bit(const __m256i p[4])
{
    __m256i ab = fold_16(p[0], p[1]), cd = fold_16(p[2], p[3]);
    return widened(_mm256_add_epi16(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd)));
}

/* The second half of the way in 32 bits: 8 * 31 * 127 < 2^15 and 4 * 63 * 127 < 2^15. */
PACK_INLINE __m256i join_rows(__m256i ab, __m256i cd)
{
    ab = widened(ab), cd = widened(cd);
    return _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
}

/* 32 numbers of a row and of another one, in halves of 16, times x: sums of four. */
PACK_INLINE __m256i products_32(__m256i first, __m256i last, const uint8_t *x)
{
    return _mm256_add_epi16(_mm256_maddubs_epi16(first, twice(x)), _mm256_maddubs_epi16(last, twice(x + 16)));
}

PACK_INLINE __m256i sum_5bit(const __m256i p[4])
{
    return join_rows(fold_16(p[0], p[1]), fold_16(p[2], p[3]));
}

/* One block of 32, whose activations begin at x_at; dot: for each token. Returns the scales. */
typedef __m256 dot_fn(__m256i *dot, const uint8_t *const *rows, int64_t at, const uint8_t *const *x, int64_t x_at,
                      int n_tok);

PACK_INLINE __m256 dot_q4_0(__m256i *dot, const uint8_t *const *rows, int64_t at, const uint8_t *const *x, int64_t x_at,
                            int n_tok)
{
    __m256i low[4], high[4];
    for (int r = 0; r < 4; r++) {
        __m256i both = two_rows(rows, r, at + 2);
        low[r] = low_nibbles(both);
        high[r] = high_nibbles(both);
    }
    for (int t = 0; t < n_tok; t++) {
        __m256i p[4];
        for (int r = 0; r < 4; r++)
            p[r] = products_32(low[r], high[r], x[t] + x_at);
        dot[t] = sum_4bit(p);
    }
    return halves_at(rows, at);
}

/* Bits 8 * byte .. 8 * byte + 15 of the mask behind the scale, as bit 4 of 16 numbers. */
PACK_INLINE __m256i fifth_bits(__m256i head, int byte)
{
    const __m256i spread = _mm256_add_epi8(_mm256_setr_epi64x(0, 0x0101010101010101, 0, 0x0101010101010101),
                                           _mm256_set1_epi8((char)(2 + byte)));
    const __m256i own = _mm256_set1_epi64x((int64_t)0x8040201008040201);
    /* A place's own bit has the sign of its byte, which is that of this 16; no bit leaves 0. */
    const __m256i sixteen = _mm256_set1_epi64x((int64_t)0xf010101010101010);
    return _mm256_sign_epi8(sixteen, _mm256_and_si256(_mm256_shuffle_epi8(head, spread), own));
}

PACK_INLINE __m256 dot_q5_0(__m256i *dot, const uint8_t *const *rows, int64_t at, const uint8_t *const *x, int64_t x_at,
                            int n_tok)
{
    __m256i low[4], high[4], head[4];
    for (int r = 0; r < 4; r++) {
        head[r] = two_rows(rows, r, at);
        __m256i both = two_rows(rows, r, at + 6);
        low[r] = _mm256_or_si256(low_nibbles(both), fifth_bits(head[r], 0));
        high[r] = _mm256_or_si256(high_nibbles(both), fifth_bits(head[r], 2));
    }
    __m256i d = _mm256_unpacklo_epi32(_mm256_unpacklo_epi16(head[0], head[1]), _mm256_unpacklo_epi16(head[2], head[3]));
    for (int t = 0; t < n_tok; t++) {
        __m256i p[4];
        for (int r = 0; r < 4; r++)
            p[r] = products_32(low[r], high[r], x[t] + x_at);
        dot[t] = sum_5bit(p);
    }
    return _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(d, 0x08)));
}

/* Signed numbers fill the sums of 16 bits with a single pair. */
PACK_INLINE __m256i products_q8_0(__m256i w, __m256i x)
{
    return widened(_mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)));
}

PACK_INLINE __m256 dot_q8_0(__m256i *dot, const uint8_t *const *rows, int64_t at, const uint8_t *const *x, int64_t x_at,
                            int n_tok)
{
    __m256i two[GEMV_TOKENS][4];
    for (int pair = 0; pair < 4; pair++) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(rows[2 * pair] + at + 2));
        __m256i b = _mm256_loadu_si256((const __m256i *)(rows[2 * pair + 1] + at + 2));
        for (int t = 0; t < n_tok; t++) {
            __m256i all = _mm256_loadu_si256((const __m256i *)(x[t] + x_at));
            two[t][pair] = fold_32(products_q8_0(a, all), products_q8_0(b, all));
        }
    }
    for (int t = 0; t < n_tok; t++) {
        __m256i *p = two[t];
        __m256i low = _mm256_add_epi32(_mm256_unpacklo_epi64(p[0], p[1]), _mm256_unpackhi_epi64(p[0], p[1]));
        __m256i high = _mm256_add_epi32(_mm256_unpacklo_epi64(p[2], p[3]), _mm256_unpackhi_epi64(p[2], p[3]));
        dot[t] =
            _mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x20), _mm256_permute2x128_si256(low, high, 0x31));
    }
    return halves_at(rows, at);
}

/* Groups 2 * pair and 2 * pair + 1 of a block of 256; dot: of each for each token. */
typedef void dot_pair_fn(__m256i dot[2][GEMV_TOKENS], const uint8_t *const *rows, int64_t at, int pair,
                         const uint8_t *const *x, int64_t x_at, int n_tok);

PACK_INLINE void dot_q4_k(__m256i dot[2][GEMV_TOKENS], const uint8_t *const *rows, int64_t at, int pair,
                          const uint8_t *const *x, int64_t x_at, int n_tok)
{
    __m256i p[2][GEMV_TOKENS][4];
    for (int r = 0; r < 4; r++) {
        __m256i first = two_rows(rows, r, at + 16 + pair * 32), last = two_rows(rows, r, at + 32 + pair * 32);
        __m256i low[2] = {low_nibbles(first), low_nibbles(last)}, high[2] = {high_nibbles(first), high_nibbles(last)};
        for (int t = 0; t < n_tok; t++) {
            p[0][t][r] = products_32(low[0], low[1], x[t] + x_at);
            p[1][t][r] = products_32(high[0], high[1], x[t] + x_at + 32);
        }
    }
    for (int t = 0; t < n_tok; t++) {
        dot[0][t] = sum_4bit(p[0][t]);
        dot[1][t] = sum_4bit(p[1][t]);
    }
}

/* 16 bytes of two rows at `at` with fifth bits at `fifth_at`: bit 2 * pair is the first group's, the next one the second's. */
PACK_INLINE void numbers_q5_k(__m256i w[2], const uint8_t *const *rows, int r, int64_t at, int64_t fifth_at, int pair)
{
    const __m256i bit = _mm256_set1_epi8(16);
    __m256i both = two_rows(rows, r, at), bits = _mm256_srli_epi16(two_rows(rows, r, fifth_at), 2 * pair);
    w[0] = _mm256_or_si256(low_nibbles(both), _mm256_and_si256(_mm256_slli_epi16(bits, 4), bit));
    w[1] = _mm256_or_si256(high_nibbles(both), _mm256_and_si256(_mm256_slli_epi16(bits, 3), bit));
}

PACK_INLINE void dot_q5_k(__m256i dot[2][GEMV_TOKENS], const uint8_t *const *rows, int64_t at, int pair,
                          const uint8_t *const *x, int64_t x_at, int n_tok)
{
    __m256i p[2][GEMV_TOKENS][4];
    for (int r = 0; r < 4; r++) {
        __m256i first[2], last[2];
        numbers_q5_k(first, rows, r, at + 48 + pair * 32, at + 16, pair);
        numbers_q5_k(last, rows, r, at + 64 + pair * 32, at + 32, pair);
        for (int t = 0; t < n_tok; t++) {
            p[0][t][r] = products_32(first[0], last[0], x[t] + x_at);
            p[1][t][r] = products_32(first[1], last[1], x[t] + x_at + 32);
        }
    }
    for (int t = 0; t < n_tok; t++) {
        dot[0][t] = sum_5bit(p[0][t]);
        dot[1][t] = sum_5bit(p[1][t]);
    }
}

/* The first (column 0) or last 16 numbers of each of the four layers of a half, rows r and r + 4. */
PACK_INLINE void layers_q6_k(__m256i w[4], const uint8_t *const *rows, int r, int64_t at, int half, int column)
{
    const __m256i pair = _mm256_set1_epi8(0x30);
    __m256i even = two_rows(rows, r, at + half * 64 + column * 16);
    __m256i odd = two_rows(rows, r, at + half * 64 + 32 + column * 16);
    __m256i high = two_rows(rows, r, at + 128 + half * 32 + column * 16);
    w[0] = _mm256_or_si256(low_nibbles(even), _mm256_and_si256(_mm256_slli_epi16(high, 4), pair));
    w[1] = _mm256_or_si256(low_nibbles(odd), _mm256_and_si256(_mm256_slli_epi16(high, 2), pair));
    w[2] = _mm256_or_si256(high_nibbles(even), _mm256_and_si256(high, pair));
    w[3] = _mm256_or_si256(high_nibbles(odd), _mm256_and_si256(_mm256_srli_epi16(high, 2), pair));
}

/* dot: of each layer for each token. */
PACK_INLINE void dot_q6_k(__m256i dot[4][GEMV_TOKENS], const uint8_t *const *rows, int64_t at, int half, int column,
                          const uint8_t *const *x, int64_t x_at, int n_tok)
{
    __m256i folded[GEMV_TOKENS][4][2];
    for (int two = 0; two < 2; two++) {
        __m256i a[4], b[4];
        layers_q6_k(a, rows, 2 * two, at, half, column);
        layers_q6_k(b, rows, 2 * two + 1, at, half, column);
        for (int t = 0; t < n_tok; t++)
            for (int layer = 0; layer < 4; layer++) {
                __m256i q = twice(x[t] + x_at + layer * 32);
                folded[t][layer][two] = fold_16(_mm256_maddubs_epi16(a[layer], q), _mm256_maddubs_epi16(b[layer], q));
            }
    }
    for (int t = 0; t < n_tok; t++)
        for (int layer = 0; layer < 4; layer++)
            dot[layer][t] = join_rows(folded[t][layer][0], folded[t][layer][1]);
}

/* ---- dot products of several tokens: words are transposed first, as for panels, so that a lane is a row ------------- */
/* Dearer once, cheaper for each token. KEEP_ORDER: compilers would add the sums of a token up as a tree, and keep all
 * of its products in memory until then. */

PACK_INLINE __m256i word_of(const uint8_t *x, int64_t at)
{
    return _mm256_castps_si256(_mm256_broadcast_ss((const float *)(x + at)));
}

/* A word of four numbers times that of each token, added to sums of 16 bits p[t]. */
PACK_INLINE void lane_product(__m256i *p, __m256i w, const uint8_t *const *x, int64_t x_at, int n_tok)
{
    for (int t = 0; t < n_tok; t++) {
        p[t] = _mm256_add_epi16(p[t], _mm256_maddubs_epi16(w, word_of(x[t], x_at)));
        KEEP_ORDER(p[t]);
    }
}

PACK_INLINE void lanes_zero(__m256i *p)
{
    for (int t = 0; t < GEMV_TOKENS; t++)
        p[t] = _mm256_setzero_si256();
}

PACK_INLINE void lanes_q4_k(__m256i dot[2][GEMV_TOKENS], const uint8_t *const *rows, int64_t at, int pair,
                            const uint8_t *const *x, int64_t x_at, int n_tok)
{
    __m256i both[4];
    lanes_zero(dot[0]);
    lanes_zero(dot[1]);
    for (int i = 0; i < 8; i++) {
        if (i % 4 == 0)
            words_4(both, rows, at + 16 + pair * 32 + i * 4);
        lane_product(dot[0], low_nibbles(both[i % 4]), x, x_at + 4 * i, n_tok);
        lane_product(dot[1], high_nibbles(both[i % 4]), x, x_at + 32 + 4 * i, n_tok);
    }
    for (int t = 0; t < n_tok; t++) {
        dot[0][t] = widened(dot[0][t]);
        dot[1][t] = widened(dot[1][t]);
    }
}

PACK_INLINE void lanes_q6_k(__m256i dot[4][GEMV_TOKENS], const uint8_t *const *rows, int64_t at, int half, int column,
                            const uint8_t *const *x, int64_t x_at, int n_tok)
{
    __m256i w[4][4];
    column_q6_k(w, rows, at, half, column);
    for (int layer = 0; layer < 4; layer++) {
        __m256i first[GEMV_TOKENS], last[GEMV_TOKENS];
        lanes_zero(first);
        lanes_zero(last);
        for (int i = 0; i < 2; i++) {
            lane_product(first, w[layer][i], x, x_at + layer * 32 + 4 * i, n_tok);
            lane_product(last, w[layer][i + 2], x, x_at + layer * 32 + 8 + 4 * i, n_tok);
        }
        for (int t = 0; t < n_tok; t++)
            dot[layer][t] = _mm256_add_epi32(widened(first[t]), widened(last[t]));
    }
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

PACK_INLINE void gemv_blocks(struct gemv *v, const uint8_t *const *rows, int64_t n, size_t ahead, int n_tok,
                             dot_fn *dot, int64_t block_bytes, bool offset)
{
    for (int64_t block = 0; block < n / 32; block++) {
        __m256i sum[GEMV_TOKENS];
        int64_t at = block * block_bytes;
        __m256 d = dot(sum, rows, at, v->x, block * 32, n_tok);
        prefetch_blocks(rows, block, block_bytes, ahead);
        for (int t = 0; t < n_tok; t++)
            gemv_add(v, t, block, d, offset ? corrected(v, t, block, sum[t]) : sum[t]);
    }
}

/* One group of a pair: its scale and minimum are the lowest bytes of the lanes. */
PACK_INLINE void gemv_group_k(struct gemv *v, const struct scales_k *k, __m256i scale, __m256i min, int64_t group,
                              const __m256i *dot, int n_tok)
{
    __m256 d = scaled_byte(scale, k->d), m = scaled_byte(min, k->dmin);
    for (int t = 0; t < n_tok; t++) {
        gemv_add(v, t, group, d, dot[t]);
        gemv_add_min(v, t, group, m);
    }
}

PACK_INLINE void gemv_pairs(struct gemv *v, const uint8_t *const *rows, int64_t n, size_t ahead, int n_tok,
                            dot_pair_fn *dot_pair, int64_t block_bytes)
{
    for (int64_t block = 0; block < n / 256; block++) {
        int64_t at = block * block_bytes;
        struct scales_k k = load_scales_k(rows, at);
        prefetch_rows(rows, at + (int64_t)ahead, block_bytes);
        for (int half = 0; half < 2; half++) {
            __m256i scale = k.scale[half], min = k.min[half];
            for (int pair = 2 * half; pair < 2 * half + 2; pair++) {
                __m256i dot[2][GEMV_TOKENS];
                int64_t group = block * 8 + 2 * pair;
                dot_pair(dot, rows, at, pair, v->x, group * 32, n_tok);
                gemv_group_k(v, &k, scale, min, group, dot[0], n_tok);
                gemv_group_k(v, &k, _mm256_srli_epi32(scale, 8), _mm256_srli_epi32(min, 8), group + 1, dot[1], n_tok);
                scale = _mm256_srli_epi32(scale, 16);
                min = _mm256_srli_epi32(min, 16);
            }
        }
    }
}

typedef void dot_column_fn(__m256i dot[4][GEMV_TOKENS], const uint8_t *const *rows, int64_t at, int half, int column,
                           const uint8_t *const *x, int64_t x_at, int n_tok);

PACK_INLINE void gemv_sixes(struct gemv *v, const uint8_t *const *rows, int64_t n, size_t ahead, int n_tok,
                            dot_column_fn *dot_column)
{
    for (int64_t block = 0; block < n / 256; block++) {
        int64_t at = block * 210;
        __m256i scales[4];
        words_4(scales, rows, at + 192);
        prefetch_rows(rows, at + (int64_t)ahead, 210);
        __m256 unit = halves_before(rows, at + 210);
        for (int half = 0; half < 2; half++) {
            __m256i dot[2][4][GEMV_TOKENS];
            for (int column = 0; column < 2; column++)
                dot_column(dot[column], rows, at, half, column, v->x, block * 256 + half * 128 + column * 16, n_tok);
            for (int g = 0; g < 8; g++) {
                int64_t group = block * 16 + half * 8 + g;
                __m256 d = scaled_signed(_mm256_srli_epi32(scales[half * 2 + g / 4], 8 * (g % 4)), unit);
                for (int t = 0; t < n_tok; t++)
                    gemv_add(v, t, group / 2, d, corrected(v, t, group, dot[g % 2][g / 2][t]));
            }
        }
    }
}

/* gemv_NAME: both halves of the rows, one to four tokens. product: of v, rows r and n_tok. */
#define GEMV_TYPE(name, product)                                                                                       \
    PACK_INLINE void gemv_##name##_tokens(float *acc, const uint8_t *const *rows, const uint8_t *const *x,             \
                                          const int n_tok, int64_t n, const struct act_layout *l, size_t ahead)        \
    {                                                                                                                  \
        for (int half = 0; half < PANEL_ROWS; half += LANE_ROWS) {                                                     \
            struct gemv v = {.x = x, .l = l};                                                                          \
            const uint8_t *const *r = rows + half;                                                                     \
            for (int t = 0; t < n_tok; t++)                                                                            \
                v.acc[t] = _mm256_loadu_ps(acc + t * PANEL_ROWS + half);                                               \
            product;                                                                                                   \
            for (int t = 0; t < n_tok; t++)                                                                            \
                _mm256_storeu_ps(acc + t * PANEL_ROWS + half, v.acc[t]);                                               \
        }                                                                                                              \
    }                                                                                                                  \
    static void gemv_##name(float *acc, const uint8_t *const *rows, const uint8_t *const *x, int n_tok, int64_t n,     \
                            const struct act_layout *l, size_t ahead)                                                  \
    {                                                                                                                  \
        switch (n_tok) {                                                                                               \
        case 1: gemv_##name##_tokens(acc, rows, x, 1, n, l, ahead); break;                                             \
        case 2: gemv_##name##_tokens(acc, rows, x, 2, n, l, ahead); break;                                             \
        case 3: gemv_##name##_tokens(acc, rows, x, 3, n, l, ahead); break;                                             \
        default: gemv_##name##_tokens(acc, rows, x, 4, n, l, ahead);                                                   \
        }                                                                                                              \
    }

GEMV_TYPE(q8_0, gemv_blocks(&v, r, n, ahead, n_tok, dot_q8_0, 34, false))
GEMV_TYPE(q4_0, gemv_blocks(&v, r, n, ahead, n_tok, dot_q4_0, 18, true))
GEMV_TYPE(q5_0, gemv_blocks(&v, r, n, ahead, n_tok, dot_q5_0, 22, true))
GEMV_TYPE(q4_k, gemv_pairs(&v, r, n, ahead, n_tok, n_tok < LANES_FROM ? dot_q4_k : lanes_q4_k, 144))
GEMV_TYPE(q5_k, gemv_pairs(&v, r, n, ahead, n_tok, dot_q5_k, 176))
GEMV_TYPE(q6_k, gemv_sixes(&v, r, n, ahead, n_tok, n_tok < LANES_FROM ? dot_q6_k : lanes_q6_k))

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
