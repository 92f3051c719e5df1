/* Products with one token for AVX2, straight from the blocks, eight rows at a time as in pack_avx2.h. Each lane does what
 * gemm_q_tile does, rounding for rounding; whole groups are exact integers and may be added in any order. */
#ifndef KERNELS_CPU_GEMV_AVX2_H
#define KERNELS_CPU_GEMV_AVX2_H

#include "kernels/cpu/pack_avx2.h"

/* The sums of eight rows, and the token's activations. */
struct gemv {
    __m256 acc;
    const uint8_t *x;
    const float *d, *minimum;
    const int32_t *correction;
};

/* acc += d * dx * dot for a group; at: its number, at_32: the number of its 32 activations. */
PACK_INLINE void gemv_add(struct gemv *v, int64_t at_32, __m256 d, __m256i dot)
{
    __m256 dx = _mm256_broadcast_ss(v->d + at_32);
    v->acc = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), _mm256_cvtepi32_ps(dot), v->acc);
}

PACK_INLINE __m256i corrected(const struct gemv *v, int64_t at, __m256i dot)
{
    return _mm256_add_epi32(dot, _mm256_set1_epi32(v->correction[at]));
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

typedef __m256i dot_fn(const uint8_t *const *rows, int64_t at, const uint8_t *x);

PACK_INLINE __m256i dot_q4_0(const uint8_t *const *rows, int64_t at, const uint8_t *x)
{
    __m256i p[4], x_low = twice(x), x_high = twice(x + 16);
    for (int r = 0; r < 4; r++) {
        __m256i both = two_rows(rows, r, at + 2);
        p[r] = _mm256_add_epi16(_mm256_maddubs_epi16(low_nibbles(both), x_low),
                                _mm256_maddubs_epi16(high_nibbles(both), x_high));
    }
    return sum_4bit(p);
}

/* Bits 8 * byte .. 8 * byte + 15 of the mask behind the scale, as bit 4 of 16 numbers. */
PACK_INLINE __m256i fifth_bits(__m256i head, int byte)
{
    const __m256i spread = _mm256_add_epi8(_mm256_setr_epi64x(0, 0x0101010101010101, 0, 0x0101010101010101),
                                           _mm256_set1_epi8((char)(2 + byte)));
    const __m256i own = _mm256_set1_epi64x((int64_t)0x8040201008040201);
    __m256i bits = _mm256_and_si256(_mm256_shuffle_epi8(head, spread), own);
    return _mm256_and_si256(_mm256_cmpeq_epi8(bits, own), _mm256_set1_epi8(16));
}

PACK_INLINE __m256i dot_q5_0(const uint8_t *const *rows, int64_t at, const uint8_t *x)
{
    __m256i p[4], x_low = twice(x), x_high = twice(x + 16);
    for (int r = 0; r < 4; r++) {
        __m256i head = two_rows(rows, r, at), both = two_rows(rows, r, at + 6);
        __m256i low = _mm256_or_si256(low_nibbles(both), fifth_bits(head, 0));
        __m256i high = _mm256_or_si256(high_nibbles(both), fifth_bits(head, 2));
        p[r] = _mm256_add_epi16(_mm256_maddubs_epi16(low, x_low), _mm256_maddubs_epi16(high, x_high));
    }
    return join_rows(fold_16(p[0], p[1]), fold_16(p[2], p[3]));
}

/* Signed numbers fill the sums of 16 bits with a single pair. */
PACK_INLINE __m256i dot_q8_0(const uint8_t *const *rows, int64_t at, const uint8_t *x)
{
    __m256i p[LANE_ROWS], all = _mm256_loadu_si256((const __m256i *)x);
    for (int r = 0; r < LANE_ROWS; r++) {
        __m256i w = _mm256_loadu_si256((const __m256i *)(rows[r] + at + 2));
        p[r] = widened(_mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(all, w)));
    }
    __m256i ab = fold_32(p[0], p[1]), cd = fold_32(p[2], p[3]), ef = fold_32(p[4], p[5]), gh = fold_32(p[6], p[7]);
    __m256i low = _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
    __m256i high = _mm256_add_epi32(_mm256_unpacklo_epi64(ef, gh), _mm256_unpackhi_epi64(ef, gh));
    return _mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x20), _mm256_permute2x128_si256(low, high, 0x31));
}

/* Groups 2 * pair and 2 * pair + 1 of a block of 256. */
typedef void dot_pair_fn(__m256i dot[2], const uint8_t *const *rows, int64_t at, int pair, const uint8_t *x);

PACK_INLINE void dot_pair_q4_k(__m256i dot[2], const uint8_t *const *rows, int64_t at, int pair, const uint8_t *x)
{
    __m256i low[4], high[4], x0 = twice(x), x1 = twice(x + 16), x2 = twice(x + 32), x3 = twice(x + 48);
    for (int r = 0; r < 4; r++) {
        __m256i a = two_rows(rows, r, at + 16 + pair * 32), b = two_rows(rows, r, at + 32 + pair * 32);
        low[r] = _mm256_add_epi16(_mm256_maddubs_epi16(low_nibbles(a), x0), _mm256_maddubs_epi16(low_nibbles(b), x1));
        high[r] =
            _mm256_add_epi16(_mm256_maddubs_epi16(high_nibbles(a), x2), _mm256_maddubs_epi16(high_nibbles(b), x3));
    }
    dot[0] = sum_4bit(low);
    dot[1] = sum_4bit(high);
}

PACK_INLINE void dot_pair_q5_k(__m256i dot[2], const uint8_t *const *rows, int64_t at, int pair, const uint8_t *x)
{
    const __m256i bit = _mm256_set1_epi8(16);
    __m256i low[4], high[4], xs[4] = {twice(x), twice(x + 16), twice(x + 32), twice(x + 48)};
    for (int r = 0; r < 4; r++)
        for (int i = 0; i < 2;
             i++) { /* bit 2 * pair of each byte belongs to the first group, the next one to the second */
            __m256i both = two_rows(rows, r, at + 48 + pair * 32 + i * 16);
            __m256i bits = _mm256_srli_epi16(two_rows(rows, r, at + 16 + i * 16), 2 * pair);
            __m256i first = _mm256_or_si256(low_nibbles(both), _mm256_and_si256(_mm256_slli_epi16(bits, 4), bit));
            __m256i second = _mm256_or_si256(high_nibbles(both), _mm256_and_si256(_mm256_slli_epi16(bits, 3), bit));
            first = _mm256_maddubs_epi16(first, xs[i]), second = _mm256_maddubs_epi16(second, xs[i + 2]);
            low[r] = i ? _mm256_add_epi16(low[r], first) : first;
            high[r] = i ? _mm256_add_epi16(high[r], second) : second;
        }
    dot[0] = join_rows(fold_16(low[0], low[1]), fold_16(low[2], low[3]));
    dot[1] = join_rows(fold_16(high[0], high[1]), fold_16(high[2], high[3]));
}

/* Products of rows r and r + 4 with the first (column 0) or last 16 numbers of each of the four layers of a half. */
PACK_INLINE void products_q6_k(__m256i p[4], const uint8_t *const *rows, int r, int64_t at, int half, int column,
                               const uint8_t *x)
{
    const __m256i pair = _mm256_set1_epi8(0x30);
    __m256i even = two_rows(rows, r, at + half * 64 + column * 16);
    __m256i odd = two_rows(rows, r, at + half * 64 + 32 + column * 16);
    __m256i high = two_rows(rows, r, at + 128 + half * 32 + column * 16);
    p[0] = _mm256_or_si256(low_nibbles(even), _mm256_and_si256(_mm256_slli_epi16(high, 4), pair));
    p[1] = _mm256_or_si256(low_nibbles(odd), _mm256_and_si256(_mm256_slli_epi16(high, 2), pair));
    p[2] = _mm256_or_si256(high_nibbles(even), _mm256_and_si256(high, pair));
    p[3] = _mm256_or_si256(high_nibbles(odd), _mm256_and_si256(_mm256_srli_epi16(high, 2), pair));
    for (int layer = 0; layer < 4; layer++)
        p[layer] = _mm256_maddubs_epi16(p[layer], twice(x + layer * 32));
}

/* dot[layer * 2 + column]; x: of the column. */
PACK_INLINE void dot_column_q6_k(__m256i dot[8], const uint8_t *const *rows, int64_t at, int half, int column,
                                 const uint8_t *x)
{
    __m256i folded[2][4];
    for (int two = 0; two < 2; two++) {
        __m256i a[4], b[4];
        products_q6_k(a, rows, 2 * two, at, half, column, x);
        products_q6_k(b, rows, 2 * two + 1, at, half, column, x);
        for (int layer = 0; layer < 4; layer++)
            folded[two][layer] = fold_16(a[layer], b[layer]);
    }
    for (int layer = 0; layer < 4; layer++)
        dot[layer * 2 + column] = join_rows(folded[0][layer], folded[1][layer]);
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

PACK_INLINE void gemv_blocks(struct gemv *v, const uint8_t *const *rows, int64_t n, size_t ahead, dot_fn *dot,
                             int64_t block_bytes, bool offset)
{
    for (int64_t block = 0; block < n / 32; block++) {
        int64_t at = block * block_bytes;
        __m256i sum = dot(rows, at, v->x + block * 32);
        prefetch_turn(rows, block, block_bytes, ahead);
        gemv_add(v, block, halves_at(rows, at), offset ? corrected(v, block, sum) : sum);
    }
}

/* One group of a pair: its scale and minimum are the lowest bytes of the lanes. */
PACK_INLINE void gemv_group_k(struct gemv *v, const struct scales_k *k, __m256i scale, __m256i min, int64_t group,
                              __m256i dot)
{
    gemv_add(v, group, scaled_byte(scale, k->d), dot);
    v->acc = _mm256_fmadd_ps(scaled_byte(min, k->dmin), _mm256_broadcast_ss(v->minimum + group), v->acc);
}

PACK_INLINE void gemv_pairs(struct gemv *v, const uint8_t *const *rows, int64_t n, size_t ahead, dot_pair_fn *dot_pair,
                            int64_t block_bytes)
{
    for (int64_t block = 0; block < n / 256; block++) {
        int64_t at = block * block_bytes;
        struct scales_k k = load_scales_k(rows, at);
        prefetch_rows(rows, at + (int64_t)ahead, block_bytes);
        for (int half = 0; half < 2; half++) {
            __m256i scale = k.scale[half], min = k.min[half];
            for (int pair = 2 * half; pair < 2 * half + 2; pair++) {
                __m256i dot[2];
                int64_t group = block * 8 + 2 * pair;
                dot_pair(dot, rows, at, pair, v->x + group * 32);
                gemv_group_k(v, &k, scale, min, group, dot[0]);
                gemv_group_k(v, &k, _mm256_srli_epi32(scale, 8), _mm256_srli_epi32(min, 8), group + 1, dot[1]);
                scale = _mm256_srli_epi32(scale, 16);
                min = _mm256_srli_epi32(min, 16);
            }
        }
    }
}

PACK_INLINE void gemv_sixes(struct gemv *v, const uint8_t *const *rows, int64_t n, size_t ahead)
{
    for (int64_t block = 0; block < n / 256; block++) {
        int64_t at = block * 210;
        __m256i scales[4];
        words_4(scales, rows, at + 192);
        prefetch_rows(rows, at + (int64_t)ahead, 210);
        __m256 unit = halves_at(rows, at + 208);
        for (int half = 0; half < 2; half++) {
            __m256i dot[8];
            for (int column = 0; column < 2; column++)
                dot_column_q6_k(dot, rows, at, half, column, v->x + block * 256 + half * 128 + column * 16);
            for (int g = 0; g < 8; g++) {
                int64_t group = block * 16 + half * 8 + g;
                __m256i scale = _mm256_srli_epi32(scales[half * 2 + g / 4], 8 * (g % 4));
                gemv_add(v, group / 2, scaled_signed(scale, unit), corrected(v, group, dot[g]));
            }
        }
    }
}

/* gemv_NAME: both halves of the rows. */
#define GEMV_TYPE(name, product)                                                                                       \
    static void gemv_##name(float *acc, const uint8_t *const *rows, const uint8_t *const *x, int n_tok, int64_t n,     \
                            const struct act_layout *l, size_t ahead)                                                  \
    {                                                                                                                  \
        (void)n_tok;                                                                                                   \
        for (int half = 0; half < PANEL_ROWS; half += LANE_ROWS) {                                                     \
            struct gemv v = {.acc = _mm256_loadu_ps(acc + half),                                                       \
                             .x = x[0],                                                                                \
                             .d = (const float *)(x[0] + l->d),                                                        \
                             .minimum = (const float *)(x[0] + l->minimum),                                            \
                             .correction = (const int32_t *)(x[0] + l->correction)};                                   \
            const uint8_t *const *r = rows + half;                                                                     \
            product;                                                                                                   \
            _mm256_storeu_ps(acc + half, v.acc);                                                                       \
        }                                                                                                              \
    }

GEMV_TYPE(q8_0, gemv_blocks(&v, r, n, ahead, dot_q8_0, 34, false))
GEMV_TYPE(q4_0, gemv_blocks(&v, r, n, ahead, dot_q4_0, 18, true))
GEMV_TYPE(q5_0, gemv_blocks(&v, r, n, ahead, dot_q5_0, 22, true))
GEMV_TYPE(q4_k, gemv_pairs(&v, r, n, ahead, dot_pair_q4_k, 144))
GEMV_TYPE(q5_k, gemv_pairs(&v, r, n, ahead, dot_pair_q5_k, 176))
GEMV_TYPE(q6_k, gemv_sixes(&v, r, n, ahead))

#define ISA_GEMV_TOKENS 1
#define ISA_GEMV                                                                                                       \
    {                                                                                                                  \
        [K_Q8_0] = gemv_q8_0, [K_Q4_0] = gemv_q4_0, [K_Q5_0] = gemv_q5_0, [K_Q4_K] = gemv_q4_k, [K_Q5_K] = gemv_q5_k,  \
        [K_Q6_K] = gemv_q6_k,                                                                                          \
    }

#endif
