/* Vectors of 16 lanes as two AVX2 registers. Meanings: vec_scalar.h. */
#ifndef KERNELS_CPU_VEC_AVX2_H
#define KERNELS_CPU_VEC_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/isa.h"

#define TILE_TOKENS 4
#define WIDE_BYTES  2 /* of a number of an 8-bit type in panels and activations */

struct vf {
    __m256 a, b;
};
struct vi {
    __m256i a, b;
};
struct vd {
    __m256d a, b;
};

static inline struct vf vf_load(const float *p)
{
    return (struct vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

static inline struct vf vf_load_part(const float *p, int64_t n)
{
    float full[16] = {0};
    memcpy(full, p, (size_t)n * sizeof *p);
    return vf_load(full);
}

static inline void vf_store(float *p, struct vf v)
{
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
}

static inline void vf_store_part(float *p, struct vf v, int64_t n)
{
    float full[16];
    vf_store(full, v);
    memcpy(p, full, (size_t)n * sizeof *p);
}

static inline struct vf vf_set(float f)
{
    return (struct vf){_mm256_set1_ps(f), _mm256_set1_ps(f)};
}

static inline struct vf vf_add(struct vf x, struct vf y)
{
    return (struct vf){_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}

static inline struct vf vf_sub(struct vf x, struct vf y)
{
    return (struct vf){_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}

static inline struct vf vf_mul(struct vf x, struct vf y)
{
    return (struct vf){_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}

static inline struct vf vf_div(struct vf x, struct vf y)
{
    return (struct vf){_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}

static inline struct vf vf_fma(struct vf x, struct vf y, struct vf z)
{
    return (struct vf){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}

static inline struct vf vf_max(struct vf x, struct vf y)
{
    return (struct vf){_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}

static inline struct vf vf_min(struct vf x, struct vf y)
{
    return (struct vf){_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}

static inline struct vf vf_round(struct vf x)
{
    return (struct vf){_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                       _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

static inline __m256 pow2_8(__m256 x)
{
    __m256i n = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(n, 23));
}

static inline struct vf vf_pow2(struct vf x)
{
    return (struct vf){pow2_8(x.a), pow2_8(x.b)};
}

static inline float vf_sum(struct vf x)
{
    __m256 b = _mm256_add_ps(x.a, x.b);
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

static inline float vf_max_lane(struct vf x)
{
    __m256 b = _mm256_max_ps(x.a, x.b);
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

static inline struct vf vf_load_f16(const uint16_t *p)
{
    return (struct vf){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                       _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}

static inline struct vf vf_load_i8(const int8_t *p)
{
    __m128i x = _mm_loadu_si128((const __m128i *)(const void *)p);
    return (struct vf){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)),
                       _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(x, x)))};
}

static inline void vf_store_f16(uint16_t *p, struct vf x)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

static inline struct vf vf_from_vi(struct vi x)
{
    return (struct vf){_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
}

static inline struct vi vi_add(struct vi x, struct vi y)
{
    return (struct vi){_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}

static inline struct vi vi_magnitude(struct vf x)
{
    __m256i mask = _mm256_set1_epi32(0x7fffffff);
    return (struct vi){_mm256_and_si256(_mm256_castps_si256(x.a), mask),
                       _mm256_and_si256(_mm256_castps_si256(x.b), mask)};
}

static inline struct vi vi_max(struct vi x, struct vi y)
{
    return (struct vi){_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)};
}

static inline int32_t vi_max_lane(struct vi x)
{
    __m256i b = _mm256_max_epi32(x.a, x.b);
    __m128i c = _mm_max_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
    c = _mm_max_epi32(c, _mm_shuffle_epi32(c, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(c, _mm_shuffle_epi32(c, 0xb1)));
}

static inline int32_t vi_sum(struct vi x)
{
    __m256i b = _mm256_add_epi32(x.a, x.b);
    __m128i c = _mm_add_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
    c = _mm_add_epi32(c, _mm_shuffle_epi32(c, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(c, _mm_shuffle_epi32(c, 0xb1)));
}

static inline struct vi vi_round(struct vf x)
{
    return (struct vi){_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)};
}

static inline void vi_store_i8(int8_t *p, struct vi x)
{
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
    _mm_storeu_si128((__m128i *)p, _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

static inline struct vd vd_zero(void)
{
    return (struct vd){_mm256_setzero_pd(), _mm256_setzero_pd()};
}

static inline struct vd vd_add_squares(struct vd acc, const float *x)
{
    __m256d a = _mm256_cvtps_pd(_mm_loadu_ps(x)), b = _mm256_cvtps_pd(_mm_loadu_ps(x + 4));
    return (struct vd){_mm256_add_pd(acc.a, _mm256_mul_pd(a, a)), _mm256_add_pd(acc.b, _mm256_mul_pd(b, b))};
}

static inline double vd_sum(struct vd x)
{
    __m256d b = _mm256_add_pd(x.a, x.b);
    __m128d c = _mm_add_pd(_mm256_castpd256_pd128(b), _mm256_extractf128_pd(b, 1));
    return _mm_cvtsd_f64(_mm_add_sd(c, _mm_unpackhi_pd(c, c)));
}

/* 8 words of 8 rows, written to one half of each of 8 panel lines. */
static inline void pack_8x8(uint32_t *panel, const uint8_t *const *rows, int64_t at)
{
    __m256i a[8], b[8];
    for (int r = 0; r < 8; r++)
        a[r] = _mm256_loadu_si256((const __m256i *)(rows[r] + at));
    for (int r = 0; r < 8; r += 2) {
        b[r] = _mm256_unpacklo_epi32(a[r], a[r + 1]);
        b[r + 1] = _mm256_unpackhi_epi32(a[r], a[r + 1]);
    }
    for (int r = 0; r < 8; r += 4) {
        a[r] = _mm256_unpacklo_epi64(b[r], b[r + 2]);
        a[r + 1] = _mm256_unpackhi_epi64(b[r], b[r + 2]);
        a[r + 2] = _mm256_unpacklo_epi64(b[r + 1], b[r + 3]);
        a[r + 3] = _mm256_unpackhi_epi64(b[r + 1], b[r + 3]);
    }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_si256((__m256i *)(panel + i * 16), _mm256_permute2x128_si256(a[i], a[i + 4], 0x20));
        _mm256_storeu_si256((__m256i *)(panel + (i + 4) * 16), _mm256_permute2x128_si256(a[i], a[i + 4], 0x31));
    }
}

static inline void vec_pack_8(uint32_t *panel, const uint8_t *const rows[PANEL_ROWS], int64_t at)
{
    pack_8x8(panel, rows, at);
    pack_8x8(panel + 8, rows + 8, at);
}

static inline __m256i set_four(const int8_t *x)
{
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm256_set1_epi32(four);
}

/* Compilers like to begin all tokens' products before they end any, and then run out of registers. */
#define KEEP_ORDER(v) __asm__ volatile("" : "+x"(v))

/* A sum that stays in its register. With the moves that compilers make of it otherwise a step would have more
 * instructions than a core takes in while it multiplies; so would the loop, were it not unrolled. */
static inline __attribute__((always_inline)) void add_in_place(__m256i *sum, __m256i x)
{
    __asm__ volatile("vpaddd %1, %0, %0" : "+x"(*sum) : "x"(x));
}

/* Weights of 8 bits fill the 16-bit sums of a single pair, so panels and activations hold them in 16 bits, signed: the
 * offset is gone then, and with it the correction. w: [pairs][16][2], x: the same numbers for each token. */
static inline __attribute__((always_inline)) void dot_wide(struct vi *acc, const int16_t *w, const int8_t *const *x,
                                                           int pairs, int n_tok)
{
    for (int t = 0; t < n_tok; t++)
        acc[t] = (struct vi){_mm256_setzero_si256(), _mm256_setzero_si256()};
#pragma GCC unroll 4
    for (int s = 0; s < pairs; s++) {
        const __m256i *line = (const __m256i *)(w + s * 32);
        __m256i wa = _mm256_loadu_si256(line), wb = _mm256_loadu_si256(line + 1);
        for (int t = 0; t < n_tok; t++) {
            __m256i two = set_four(x[t] + 4 * s);
            add_in_place(&acc[t].a, _mm256_madd_epi16(wa, two));
            add_in_place(&acc[t].b, _mm256_madd_epi16(wb, two));
        }
    }
}

/* Weights of `bits` bits, at most 6. Sums of 16 bits hold 2 * (2^bits - 1) * 127 as often as `fits`; then they are
 * widened. */
static inline __attribute__((always_inline)) void dot_narrow(struct vi *acc, const uint8_t *w, const int8_t *const *x,
                                                             const int32_t *correction, int steps, int bits, int n_tok)
{
    const __m256i ones = _mm256_set1_epi16(1);
    const int fits = 32767 / (2 * ((1 << bits) - 1) * 127), deep = fits < steps ? fits : steps;
    for (int t = 0; t < n_tok; t++)
        acc[t] = (struct vi){_mm256_set1_epi32(correction[t]), _mm256_set1_epi32(correction[t])};
    for (int s0 = 0; s0 < steps; s0 += deep) {
        struct vi part[TILE_TOKENS];
        for (int t = 0; t < n_tok; t++)
            part[t] = (struct vi){_mm256_setzero_si256(), _mm256_setzero_si256()};
        for (int s = s0; s < s0 + deep; s++) {
            const __m256i *line = (const __m256i *)(w + s * 64);
            __m256i wa = _mm256_loadu_si256(line), wb = _mm256_loadu_si256(line + 1);
            for (int t = 0; t < n_tok; t++) {
                __m256i four = set_four(x[t] + 4 * s);
                part[t].a = _mm256_add_epi16(part[t].a, _mm256_maddubs_epi16(wa, four));
                part[t].b = _mm256_add_epi16(part[t].b, _mm256_maddubs_epi16(wb, four));
                KEEP_ORDER(part[t].a);
                KEEP_ORDER(part[t].b);
            }
        }
        for (int t = 0; t < n_tok; t++)
            acc[t] =
                vi_add(acc[t], (struct vi){_mm256_madd_epi16(part[t].a, ones), _mm256_madd_epi16(part[t].b, ones)});
    }
}

static inline __attribute__((always_inline)) void vec_dot(struct vi *acc, const uint8_t *w, const int8_t *const *x,
                                                          const int32_t *correction, int steps, int bits, int n_tok)
{
    if (bits <= 6) {
        dot_narrow(acc, w, x, correction, steps, bits, n_tok);
        return;
    }
    dot_wide(acc, (const int16_t *)w, x, steps * 2, n_tok);
}

#endif
