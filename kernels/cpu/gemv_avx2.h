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

/* ---- dot products: w[i] holds numbers 4i..4i+3 of each row ------------------------------------------------------- */

PACK_INLINE __m256i products(__m256i w, const uint8_t *x)
{
    return _mm256_maddubs_epi16(w, set_four((const int8_t *)x));
}

/* 32 numbers below 16: 8 * 2 * 15 * 127 < 2^15, so all of a group fits sums of 16 bits. */
PACK_INLINE __m256i dot_4bit(const __m256i w[8], const uint8_t *x)
{
    __m256i p[8];
    for (int i = 0; i < 8; i++)
        p[i] = products(w[i], x + 4 * i);
    for (int n = 4; n > 0; n /= 2)
        for (int i = 0; i < n; i++)
            p[i] = _mm256_add_epi16(p[i], p[i + n]);
    return _mm256_madd_epi16(p[0], _mm256_set1_epi16(1));
}

/* 32 numbers below 32: 4 * 2 * 31 * 127 < 2^15. */
PACK_INLINE __m256i dot_5bit(const __m256i w[8], const uint8_t *x)
{
    __m256i p[8];
    for (int i = 0; i < 8; i++)
        p[i] = products(w[i], x + 4 * i);
    for (int i = 0; i < 4; i++)
        p[i] = _mm256_add_epi16(p[i], p[i + 4]);
    p[0] = _mm256_madd_epi16(_mm256_add_epi16(p[0], p[2]), _mm256_set1_epi16(1));
    p[1] = _mm256_madd_epi16(_mm256_add_epi16(p[1], p[3]), _mm256_set1_epi16(1));
    return _mm256_add_epi32(p[0], p[1]);
}

/* 16 numbers below 64: 2 * 2 * 63 * 127 < 2^15. */
PACK_INLINE __m256i dot_6bit(const __m256i w[4], const uint8_t *x)
{
    __m256i a = _mm256_add_epi16(products(w[0], x), products(w[1], x + 4));
    __m256i b = _mm256_add_epi16(products(w[2], x + 8), products(w[3], x + 12));
    const __m256i ones = _mm256_set1_epi16(1);
    return _mm256_add_epi32(_mm256_madd_epi16(a, ones), _mm256_madd_epi16(b, ones));
}

/* 32 signed numbers, as in dot_wide. */
PACK_INLINE __m256i dot_8bit(const __m256i w[8], const uint8_t *x)
{
    __m256i p[8];
    for (int i = 0; i < 8; i++) {
        __m256i four = _mm256_sign_epi8(set_four((const int8_t *)x + 4 * i), w[i]);
        p[i] = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(w[i]), four), _mm256_set1_epi16(1));
    }
    for (int n = 4; n > 0; n /= 2)
        for (int i = 0; i < n; i++)
            p[i] = _mm256_add_epi32(p[i], p[i + n]);
    return p[0];
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

typedef __m256i dot_fn(const __m256i *w, const uint8_t *x);

PACK_INLINE void gemv_blocks(struct gemv *v, const uint8_t *const *rows, int64_t n, size_t ahead, block_fn *block_w,
                             dot_fn *dot, int64_t block_bytes, bool offset)
{
    struct scale_turns s = {.rows = rows, .n_blocks = n / 32, .block_bytes = block_bytes, .ahead = ahead};
    copy_turn(&s, 0);
    for (int64_t turn = 0; turn < s.n_blocks; turn += SCALE_BLOCKS) {
        copy_turn(&s, turn + SCALE_BLOCKS);
        for (int64_t block = turn; block < turn + blocks_from(&s, turn); block++) {
            __m256i w[8];
            block_w(w, rows, block * block_bytes);
            __m256i sum = dot(w, v->x + block * 32);
            gemv_add(v, block, scales_of(&s, block), offset ? corrected(v, block, sum) : sum);
        }
    }
}

/* One group of a pair: its scale and minimum are the lowest bytes of the lanes. */
PACK_INLINE void gemv_group_k(struct gemv *v, const struct scales_k *k, __m256i scale, __m256i min, int64_t group,
                              __m256i dot)
{
    gemv_add(v, group, scaled_byte(scale, k->d), dot);
    v->acc = _mm256_fmadd_ps(scaled_byte(min, k->dmin), _mm256_broadcast_ss(v->minimum + group), v->acc);
}

PACK_INLINE void gemv_pairs(struct gemv *v, const uint8_t *const *rows, int64_t n, size_t ahead, pair_fn *pair_w,
                            dot_fn *dot, int64_t block_bytes)
{
    for (int64_t block = 0; block < n / 256; block++) {
        int64_t at = block * block_bytes;
        struct scales_k k = load_scales_k(rows, at);
        prefetch_rows(rows, at + (int64_t)ahead, block_bytes);
        for (int half = 0; half < 2; half++) {
            __m256i scale = k.scale[half], min = k.min[half];
            for (int pair = 2 * half; pair < 2 * half + 2; pair++) {
                __m256i w[16];
                int64_t group = block * 8 + 2 * pair;
                pair_w(w, rows, at, pair);
                gemv_group_k(v, &k, scale, min, group, dot(w, v->x + group * 32));
                gemv_group_k(v, &k, _mm256_srli_epi32(scale, 8), _mm256_srli_epi32(min, 8), group + 1,
                             dot(w + 8, v->x + group * 32 + 32));
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
        uint16_t halves[LANE_ROWS];
        for (int r = 0; r < LANE_ROWS; r++)
            memcpy(&halves[r], rows[r] + at + 208, sizeof halves[r]);
        words_4(scales, rows, at + 192);
        prefetch_rows(rows, at + (int64_t)ahead, 210);
        __m256 unit = halves_8(halves);
        for (int half = 0; half < 2; half++) {
            __m256i dot[8];
            for (int column = 0; column < 2; column++) {
                __m256i w[4][4];
                column_q6_k(w, rows, at, half, column);
                for (int layer = 0; layer < 4; layer++) {
                    int g = layer * 2 + column;
                    dot[g] = dot_6bit(w[layer], v->x + block * 256 + half * 128 + g * 16);
                }
            }
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

GEMV_TYPE(q8_0, gemv_blocks(&v, r, n, ahead, block_q8_0, dot_8bit, 34, false))
GEMV_TYPE(q4_0, gemv_blocks(&v, r, n, ahead, block_q4_0, dot_4bit, 18, true))
GEMV_TYPE(q5_0, gemv_blocks(&v, r, n, ahead, block_q5_0, dot_5bit, 22, true))
GEMV_TYPE(q4_k, gemv_pairs(&v, r, n, ahead, pair_q4_k, dot_4bit, 144))
GEMV_TYPE(q5_k, gemv_pairs(&v, r, n, ahead, pair_q5_k, dot_5bit, 176))
GEMV_TYPE(q6_k, gemv_sixes(&v, r, n, ahead))

#define ISA_GEMV_TOKENS 1
#define ISA_GEMV                                                                                                       \
    {                                                                                                                  \
        [K_Q8_0] = gemv_q8_0, [K_Q4_0] = gemv_q4_0, [K_Q5_0] = gemv_q5_0, [K_Q4_K] = gemv_q4_k, [K_Q5_K] = gemv_q5_k,  \
        [K_Q6_K] = gemv_q6_k,                                                                                          \
    }

#endif
