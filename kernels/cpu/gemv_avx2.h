/* Products with few tokens for AVX2, straight from the blocks. Eight rows are taken at a time: their 32-bit words are
 * transposed in registers, so that a lane is a row from the first instruction on, and packed numbers are unpacked
 * after that, eight rows for the price of one. From there on each lane does what gemm_q_tile does, rounding for
 * rounding; whole groups are exact integers and may be added in any order. */
#ifndef KERNELS_CPU_GEMV_AVX2_H
#define KERNELS_CPU_GEMV_AVX2_H

#include "kernels/cpu/vec_avx2.h"

#define GEMV_INLINE static inline __attribute__((always_inline))
#define LANE_ROWS   8

/* The activations of up to GEMV_TOKENS tokens, and their sums for eight rows. */
struct gemv {
    __m256 acc[GEMV_TOKENS];
    const uint8_t *const *x;
    const struct act_layout *l;
    int n_tok;
};

GEMV_INLINE void gemv_load(struct gemv *v, const float *acc, const uint8_t *const *x, const struct act_layout *l,
                           int n_tok)
{
    v->x = x;
    v->l = l;
    v->n_tok = n_tok;
    for (int t = 0; t < n_tok; t++)
        v->acc[t] = _mm256_loadu_ps(acc + t * PANEL_ROWS);
}

GEMV_INLINE void gemv_store(const struct gemv *v, float *acc)
{
    for (int t = 0; t < v->n_tok; t++)
        _mm256_storeu_ps(acc + t * PANEL_ROWS, v->acc[t]);
}

/* What kernels/internal.h says of a type, as constants that the compiler folds. */
struct gemv_form {
    int group;
    bool offset, has_min;
};

/* acc += d * dx * dot for group g of the activations (and m * -dx * sum where the form has a minimum). */
GEMV_INLINE void gemv_add(struct gemv *v, int t, int64_t g, __m256 d, __m256 m, __m256i dot, struct gemv_form form)
{
    const uint8_t *x = v->x[t];
    __m256 dx = _mm256_broadcast_ss((const float *)(x + v->l->d) + g * form.group / 32);
    if (form.offset)
        dot = _mm256_add_epi32(dot, _mm256_set1_epi32(((const int32_t *)(x + v->l->correction))[g]));
    v->acc[t] = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), _mm256_cvtepi32_ps(dot), v->acc[t]);
    if (form.has_min)
        v->acc[t] = _mm256_fmadd_ps(m, _mm256_broadcast_ss((const float *)(x + v->l->minimum) + g), v->acc[t]);
}

/* ---- dot products: w[i] holds numbers 4i..4i+3 of each row ------------------------------------------------------- */

GEMV_INLINE __m256i products(__m256i w, const uint8_t *x)
{
    return _mm256_maddubs_epi16(w, set_four((const int8_t *)x));
}

/* 32 numbers below 16: 8 * 2 * 15 * 127 < 2^15, so all of a group fits sums of 16 bits. */
GEMV_INLINE __m256i dot_4bit(const __m256i w[8], const uint8_t *x)
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
GEMV_INLINE __m256i dot_5bit(const __m256i w[8], const uint8_t *x)
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
GEMV_INLINE __m256i dot_6bit(const __m256i w[4], const uint8_t *x)
{
    __m256i a = _mm256_add_epi16(products(w[0], x), products(w[1], x + 4));
    __m256i b = _mm256_add_epi16(products(w[2], x + 8), products(w[3], x + 12));
    const __m256i ones = _mm256_set1_epi16(1);
    return _mm256_add_epi32(_mm256_madd_epi16(a, ones), _mm256_madd_epi16(b, ones));
}

/* 32 signed numbers, as in dot_wide. */
GEMV_INLINE __m256i dot_8bit(const __m256i w[8], const uint8_t *x)
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

/* ---- blocks of eight rows -> w ----------------------------------------------------------------------------------- */

/* Word i of the 16 bytes at `at` of each row -> w[i]. */
GEMV_INLINE void words_4(__m256i w[4], const uint8_t *const *rows, int64_t at)
{
    __m256i a[4];
    for (int r = 0; r < 4; r++)
        a[r] = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(rows[r] + at))),
                                       _mm_loadu_si128((const __m128i *)(rows[r + 4] + at)), 1);
    __m256i low01 = _mm256_unpacklo_epi32(a[0], a[1]), low23 = _mm256_unpacklo_epi32(a[2], a[3]);
    __m256i high01 = _mm256_unpackhi_epi32(a[0], a[1]), high23 = _mm256_unpackhi_epi32(a[2], a[3]);
    w[0] = _mm256_unpacklo_epi64(low01, low23);
    w[1] = _mm256_unpackhi_epi64(low01, low23);
    w[2] = _mm256_unpacklo_epi64(high01, high23);
    w[3] = _mm256_unpackhi_epi64(high01, high23);
}

GEMV_INLINE void words_8(__m256i w[8], const uint8_t *const *rows, int64_t at)
{
    words_4(w, rows, at);
    words_4(w + 4, rows, at + 16);
}

GEMV_INLINE __m256i low_nibbles(__m256i w)
{
    return _mm256_and_si256(w, _mm256_set1_epi8(15));
}

GEMV_INLINE __m256i high_nibbles(__m256i w)
{
    return low_nibbles(_mm256_srli_epi16(w, 4));
}

GEMV_INLINE void block_q8_0(__m256i w[8], const uint8_t *const *rows, int64_t at)
{
    words_8(w, rows, at + 2);
}

GEMV_INLINE void block_q4_0(__m256i w[8], const uint8_t *const *rows, int64_t at)
{
    __m256i both[4];
    words_4(both, rows, at + 2);
    for (int i = 0; i < 4; i++) {
        w[i] = low_nibbles(both[i]);
        w[i + 4] = high_nibbles(both[i]);
    }
}

GEMV_INLINE void block_q5_0(__m256i w[8], const uint8_t *const *rows, int64_t at)
{
    __m256i both[4];
    uint32_t masks[LANE_ROWS];
    words_4(both, rows, at + 6);
    for (int r = 0; r < LANE_ROWS; r++)
        memcpy(&masks[r], rows[r] + at + 2, sizeof masks[r]);
    __m256i fifth = _mm256_setr_epi32((int)masks[0], (int)masks[1], (int)masks[2], (int)masks[3], (int)masks[4],
                                      (int)masks[5], (int)masks[6], (int)masks[7]);
    for (int i = 0; i < 8; i++) {
        /* Byte i / 2 of each row's mask four times over, of which each place keeps its own bit. */
        const __m256i spread = _mm256_add_epi8(
            _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404, 0x08080808, 0x0c0c0c0c),
            _mm256_set1_epi8((char)(i / 2)));
        const __m256i own = _mm256_set1_epi32(i % 2 == 0 ? 0x08040201 : (int)0x80402010);
        __m256i bits = _mm256_and_si256(_mm256_shuffle_epi8(fifth, spread), own);
        bits = _mm256_and_si256(_mm256_cmpeq_epi8(bits, own), _mm256_set1_epi8(16));
        w[i] = _mm256_or_si256(i < 4 ? low_nibbles(both[i]) : high_nibbles(both[i - 4]), bits);
    }
}

/* Groups 2 * pair and 2 * pair + 1. */
GEMV_INLINE void pair_q4_k(__m256i w[16], const uint8_t *const *rows, int64_t at, int pair)
{
    __m256i both[8];
    words_8(both, rows, at + 16 + pair * 32);
    for (int i = 0; i < 8; i++) {
        w[i] = low_nibbles(both[i]);
        w[i + 8] = high_nibbles(both[i]);
    }
}

GEMV_INLINE void pair_q5_k(__m256i w[16], const uint8_t *const *rows, int64_t at, int pair)
{
    __m256i both[8], fifth[8];
    const __m256i bit = _mm256_set1_epi8(16);
    words_8(both, rows, at + 48 + pair * 32);
    words_8(fifth, rows, at + 16);
    for (int i = 0; i < 8; i++) { /* bit 2 * pair of each byte belongs to the first group, the next one to the second */
        __m256i bits = _mm256_srli_epi16(fifth[i], 2 * pair);
        w[i] = _mm256_or_si256(low_nibbles(both[i]), _mm256_and_si256(_mm256_slli_epi16(bits, 4), bit));
        w[i + 8] = _mm256_or_si256(high_nibbles(both[i]), _mm256_and_si256(_mm256_slli_epi16(bits, 3), bit));
    }
}

/* The four layers of 32 numbers of one half of a block. */
GEMV_INLINE void half_q6_k(__m256i w[32], const uint8_t *const *rows, int64_t at, int half)
{
    __m256i even[8], odd[8], high[8];
    const __m256i pair = _mm256_set1_epi8(0x30);
    words_8(even, rows, at + half * 64);
    words_8(odd, rows, at + half * 64 + 32);
    words_8(high, rows, at + 128 + half * 32);
    for (int i = 0; i < 8; i++) {
        w[i] = _mm256_or_si256(low_nibbles(even[i]), _mm256_and_si256(_mm256_slli_epi16(high[i], 4), pair));
        w[i + 8] = _mm256_or_si256(low_nibbles(odd[i]), _mm256_and_si256(_mm256_slli_epi16(high[i], 2), pair));
        w[i + 16] = _mm256_or_si256(high_nibbles(even[i]), _mm256_and_si256(high[i], pair));
        w[i + 24] = _mm256_or_si256(high_nibbles(odd[i]), _mm256_and_si256(_mm256_srli_epi16(high[i], 2), pair));
    }
}

/* ---- scales ------------------------------------------------------------------------------------------------------ */

GEMV_INLINE __m256 halves_8(const uint16_t halves[LANE_ROWS])
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)halves));
}

/* The bytes `ahead` of n bytes of each row are asked for. */
GEMV_INLINE void prefetch_rows(const uint8_t *const *rows, int64_t at, int64_t n)
{
    for (int r = 0; r < LANE_ROWS; r++)
        for (int64_t i = 0; i < n; i += 64)
            __builtin_prefetch(rows[r] + at + i, 0, 2);
}

/* Scales are copied some blocks ahead of their use, because a wide load soon after narrow stores would stall. */
#define SCALE_BLOCKS 8

GEMV_INLINE void copy_scales(uint16_t scales[SCALE_BLOCKS][LANE_ROWS], const uint8_t *const *rows, int64_t at,
                             int64_t n, int64_t block_bytes)
{
    for (int r = 0; r < LANE_ROWS; r++)
        for (int64_t b = 0; b < n; b++)
            memcpy(&scales[b][r], rows[r] + at + b * block_bytes, sizeof scales[b][r]);
}

/* expand_scales_k for eight rows at once: bytes of groups 0..3 and 4..7. */
struct scales_k {
    __m256 d, dmin;
    __m256i scale[2], min[2];
};

GEMV_INLINE struct scales_k load_scales_k(const uint8_t *const *rows, int64_t at)
{
    __m256i head[4];
    const __m256i six = _mm256_set1_epi8(0x3f), four = _mm256_set1_epi8(0x0f), two = _mm256_set1_epi8(0x30);
    words_4(head, rows, at);
    /* The low and the high halves of eight words, in order. */
    const __m256i split = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12,
                                           13, 2, 3, 6, 7, 10, 11, 14, 15);
    __m256i units = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(head[0], split), 0xd8);
    struct scales_k k;
    k.d = _mm256_cvtph_ps(_mm256_castsi256_si128(units));
    k.dmin = _mm256_cvtph_ps(_mm256_extracti128_si256(units, 1));
    k.scale[0] = _mm256_and_si256(head[1], six);
    k.scale[1] = _mm256_or_si256(_mm256_and_si256(head[3], four), _mm256_and_si256(_mm256_srli_epi32(head[1], 2), two));
    k.min[0] = _mm256_and_si256(head[2], six);
    k.min[1] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi32(head[3], 4), four),
                               _mm256_and_si256(_mm256_srli_epi32(head[2], 2), two));
    return k;
}

/* Byte g % 4 of each lane times a unit. */
GEMV_INLINE __m256 scaled_byte(__m256i v, int g, __m256 unit)
{
    __m256i byte = _mm256_and_si256(_mm256_srli_epi32(v, 8 * (g % 4)), _mm256_set1_epi32(255));
    return _mm256_mul_ps(_mm256_cvtepi32_ps(byte), unit);
}

/* The same for signed bytes. */
GEMV_INLINE __m256 scaled_signed(__m256i v, int g, __m256 unit)
{
    __m256i byte = _mm256_srai_epi32(_mm256_slli_epi32(v, 24 - 8 * (g % 4)), 24);
    return _mm256_mul_ps(_mm256_cvtepi32_ps(byte), unit);
}

/* ---- products ------------------------------------------------------------------------------------------------------ */

typedef void block_fn(__m256i w[8], const uint8_t *const *rows, int64_t at);
typedef __m256i dot_fn(const __m256i *w, const uint8_t *x);

GEMV_INLINE void gemv_blocks(struct gemv *v, const uint8_t *const *rows, int64_t n, size_t ahead, block_fn *block_w,
                             dot_fn *dot, int64_t block_bytes, struct gemv_form form)
{
    uint16_t scales[SCALE_BLOCKS][LANE_ROWS];
    for (int64_t block = 0; block < n / 32; block += SCALE_BLOCKS) {
        int64_t blocks = n / 32 - block < SCALE_BLOCKS ? n / 32 - block : SCALE_BLOCKS;
        copy_scales(scales, rows, block * block_bytes, blocks, block_bytes);
        prefetch_rows(rows, block * block_bytes + (int64_t)ahead, SCALE_BLOCKS * block_bytes);
        for (int64_t b = 0; b < blocks; b++) {
            __m256i w[8];
            __m256 d = halves_8(scales[b]);
            block_w(w, rows, (block + b) * block_bytes);
            for (int t = 0; t < v->n_tok; t++)
                gemv_add(v, t, block + b, d, d, dot(w, v->x[t] + (block + b) * 32), form);
        }
    }
}

typedef void pair_fn(__m256i w[16], const uint8_t *const *rows, int64_t at, int pair);

GEMV_INLINE void gemv_pairs(struct gemv *v, const uint8_t *const *rows, int64_t n, size_t ahead, pair_fn *pair_w,
                            dot_fn *dot, int64_t block_bytes)
{
    const struct gemv_form form = {32, false, true};
    for (int64_t block = 0; block < n / 256; block++) {
        int64_t at = block * block_bytes;
        struct scales_k k = load_scales_k(rows, at);
        prefetch_rows(rows, at + (int64_t)ahead, block_bytes);
        for (int pair = 0; pair < 4; pair++) {
            __m256i w[16];
            pair_w(w, rows, at, pair);
            for (int g = 2 * pair; g < 2 * pair + 2; g++) {
                __m256 d = scaled_byte(k.scale[g / 4], g, k.d), m = scaled_byte(k.min[g / 4], g, k.dmin);
                for (int t = 0; t < v->n_tok; t++)
                    gemv_add(v, t, block * 8 + g, d, m, dot(w + g % 2 * 8, v->x[t] + block * 256 + g * 32), form);
            }
        }
    }
}

GEMV_INLINE void gemv_sixes(struct gemv *v, const uint8_t *const *rows, int64_t n, size_t ahead)
{
    const struct gemv_form form = {16, true, false};
    for (int64_t block = 0; block < n / 256; block++) {
        int64_t at = block * 210;
        __m256i w[32], scales[4];
        uint16_t halves[LANE_ROWS];
        for (int r = 0; r < LANE_ROWS; r++)
            memcpy(&halves[r], rows[r] + at + 208, sizeof halves[r]);
        words_4(scales, rows, at + 192);
        prefetch_rows(rows, at + (int64_t)ahead, 210);
        for (int half = 0; half < 2; half++) {
            half_q6_k(w, rows, at, half);
            __m256 unit = halves_8(halves);
            for (int g = 0; g < 8; g++) {
                int group = half * 8 + g;
                __m256 d = scaled_signed(scales[group / 4], group, unit);
                for (int t = 0; t < v->n_tok; t++)
                    gemv_add(v, t, block * 16 + group, d, d, dot_6bit(w + 4 * g, v->x[t] + block * 256 + group * 16),
                             form);
            }
        }
    }
}

/* gemv_NAME: both halves of the panel, with the number of tokens as a constant. */
#define GEMV_TYPE(name, product)                                                                                       \
    GEMV_INLINE void gemv_##name##_n(float *acc, const uint8_t *const *rows, const uint8_t *const *x, int n_tok,       \
                                     int64_t n, const struct act_layout *l, size_t ahead)                              \
    {                                                                                                                  \
        for (int half = 0; half < PANEL_ROWS; half += LANE_ROWS) {                                                     \
            struct gemv v;                                                                                             \
            const uint8_t *const *r = rows + half;                                                                     \
            gemv_load(&v, acc + half, x, l, n_tok);                                                                    \
            product;                                                                                                   \
            gemv_store(&v, acc + half);                                                                                \
        }                                                                                                              \
    }                                                                                                                  \
    static void gemv_##name(float *acc, const uint8_t *const *rows, const uint8_t *const *x, int n_tok, int64_t n,     \
                            const struct act_layout *l, size_t ahead)                                                  \
    {                                                                                                                  \
        if (n_tok == 1)                                                                                                \
            gemv_##name##_n(acc, rows, x, 1, n, l, ahead);                                                             \
        else if (n_tok == 2)                                                                                           \
            gemv_##name##_n(acc, rows, x, 2, n, l, ahead);                                                             \
        else if (n_tok == 3)                                                                                           \
            gemv_##name##_n(acc, rows, x, 3, n, l, ahead);                                                             \
        else                                                                                                           \
            gemv_##name##_n(acc, rows, x, GEMV_TOKENS, n, l, ahead);                                                   \
    }

GEMV_TYPE(q8_0, gemv_blocks(&v, r, n, ahead, block_q8_0, dot_8bit, 34, ((struct gemv_form){32, false, false})))
GEMV_TYPE(q4_0, gemv_blocks(&v, r, n, ahead, block_q4_0, dot_4bit, 18, ((struct gemv_form){32, true, false})))
GEMV_TYPE(q5_0, gemv_blocks(&v, r, n, ahead, block_q5_0, dot_5bit, 22, ((struct gemv_form){32, true, false})))
GEMV_TYPE(q4_k, gemv_pairs(&v, r, n, ahead, pair_q4_k, dot_4bit, 144))
GEMV_TYPE(q5_k, gemv_pairs(&v, r, n, ahead, pair_q5_k, dot_5bit, 176))
GEMV_TYPE(q6_k, gemv_sixes(&v, r, n, ahead))

#define ISA_GEMV                                                                                                       \
    {                                                                                                                  \
        [K_Q8_0] = gemv_q8_0, [K_Q4_0] = gemv_q4_0, [K_Q5_0] = gemv_q5_0, [K_Q4_K] = gemv_q4_k, [K_Q5_K] = gemv_q5_k,  \
        [K_Q6_K] = gemv_q6_k,                                                                                          \
    }

#endif
