/* Vectors of 16 lanes as one AVX-512 register. Meanings: vec_scalar.h. */
#ifndef KERNELS_CPU_VEC_AVX512_H
#define KERNELS_CPU_VEC_AVX512_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/isa.h"

#define TILE_TOKENS 8 /* 8 integer and 8 float sums of the 32 registers */
#define WIDE_BYTES  1

struct vf {
    __m512 v;
};
struct vi {
    __m512i v;
};
struct vd {
    __m512d v;
};

static inline struct vf vf_load(const float *p)
{
    return (struct vf){_mm512_loadu_ps(p)};
}

static inline __mmask16 part_mask(int64_t n)
{
    return (__mmask16)((1u << n) - 1);
}

static inline struct vf vf_load_part(const float *p, int64_t n)
{
    return (struct vf){_mm512_maskz_loadu_ps(part_mask(n), p)};
}

static inline void vf_store(float *p, struct vf a)
{
    _mm512_storeu_ps(p, a.v);
}

static inline void vf_store_part(float *p, struct vf a, int64_t n)
{
    _mm512_mask_storeu_ps(p, part_mask(n), a.v);
}

static inline struct vf vf_set(float f)
{
    return (struct vf){_mm512_set1_ps(f)};
}

static inline struct vf vf_add(struct vf a, struct vf b)
{
    return (struct vf){_mm512_add_ps(a.v, b.v)};
}

static inline struct vf vf_sub(struct vf a, struct vf b)
{
    return (struct vf){_mm512_sub_ps(a.v, b.v)};
}

static inline struct vf vf_mul(struct vf a, struct vf b)
{
    return (struct vf){_mm512_mul_ps(a.v, b.v)};
}

static inline struct vf vf_div(struct vf a, struct vf b)
{
    return (struct vf){_mm512_div_ps(a.v, b.v)};
}

static inline struct vf vf_fma(struct vf a, struct vf b, struct vf c)
{
    return (struct vf){_mm512_fmadd_ps(a.v, b.v, c.v)};
}

static inline struct vf vf_max(struct vf a, struct vf b)
{
    return (struct vf){_mm512_max_ps(a.v, b.v)};
}

static inline struct vf vf_min(struct vf a, struct vf b)
{
    return (struct vf){_mm512_min_ps(a.v, b.v)};
}

static inline struct vf vf_round(struct vf a)
{
    return (struct vf){_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

static inline struct vf vf_pow2(struct vf a)
{
    __m512i n = _mm512_add_epi32(_mm512_cvtps_epi32(a.v), _mm512_set1_epi32(127));
    return (struct vf){_mm512_castsi512_ps(_mm512_slli_epi32(n, 23))};
}

static inline float vf_sum(struct vf a)
{
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

static inline float vf_max_lane(struct vf a)
{
    __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

static inline struct vf vf_load_f16(const uint16_t *p)
{
    return (struct vf){_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p))};
}

static inline struct vf vf_load_i8(const int8_t *p)
{
    return (struct vf){_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)))};
}

static inline void vf_store_f16(uint16_t *p, struct vf a)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

static inline struct vf vf_from_vi(struct vi a)
{
    return (struct vf){_mm512_cvtepi32_ps(a.v)};
}

static inline struct vi vi_add(struct vi a, struct vi b)
{
    return (struct vi){_mm512_add_epi32(a.v, b.v)};
}

static inline struct vi vi_magnitude(struct vf a)
{
    return (struct vi){_mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(0x7fffffff))};
}

static inline struct vi vi_max(struct vi a, struct vi b)
{
    return (struct vi){_mm512_max_epi32(a.v, b.v)};
}

static inline int32_t vi_max_lane(struct vi a)
{
    return _mm512_reduce_max_epi32(a.v);
}

static inline int32_t vi_sum(struct vi a)
{
    return _mm512_reduce_add_epi32(a.v);
}

static inline struct vi vi_round(struct vf a)
{
    return (struct vi){_mm512_cvtps_epi32(a.v)};
}

static inline void vi_store_i8(int8_t *p, struct vi a)
{
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a.v));
}

static inline struct vd vd_zero(void)
{
    return (struct vd){_mm512_setzero_pd()};
}

static inline struct vd vd_add_squares(struct vd acc, const float *x)
{
    __m512d d = _mm512_cvtps_pd(_mm256_loadu_ps(x));
    return (struct vd){_mm512_add_pd(acc.v, _mm512_mul_pd(d, d))};
}

static inline double vd_sum(struct vd a)
{
    __m256d b = _mm256_add_pd(_mm512_castpd512_pd256(a.v), _mm512_extractf64x4_pd(a.v, 1));
    __m128d c = _mm_add_pd(_mm256_castpd256_pd128(b), _mm256_extractf128_pd(b, 1));
    return _mm_cvtsd_f64(_mm_add_sd(c, _mm_unpackhi_pd(c, c)));
}

/* 8 words of each of 16 rows -> lines[word], lanes in row order: rows r and r + 8 share a register, and each half is
 * transposed on its own. */
static inline __attribute__((always_inline)) void vec_transpose_8(__m512i lines[8],
                                                                  const uint8_t *const rows[PANEL_ROWS], int64_t at)
{
    const __m512i even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13),
                  odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    __m512i a[8], b[8];
    for (int r = 0; r < 8; r++)
        a[r] = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(rows[r] + at))),
                                  _mm256_loadu_si256((const __m256i *)(rows[r + 8] + at)), 1);
    for (int r = 0; r < 8; r += 2) {
        b[r] = _mm512_unpacklo_epi32(a[r], a[r + 1]);
        b[r + 1] = _mm512_unpackhi_epi32(a[r], a[r + 1]);
    }
    for (int r = 0; r < 8; r += 4) {
        a[r] = _mm512_unpacklo_epi64(b[r], b[r + 2]);
        a[r + 1] = _mm512_unpackhi_epi64(b[r], b[r + 2]);
        a[r + 2] = _mm512_unpacklo_epi64(b[r + 1], b[r + 3]);
        a[r + 3] = _mm512_unpackhi_epi64(b[r + 1], b[r + 3]);
    }
    for (int i = 0; i < 4; i++) {
        lines[i] = _mm512_permutex2var_epi64(a[i], even, a[i + 4]);
        lines[i + 4] = _mm512_permutex2var_epi64(a[i], odd, a[i + 4]);
    }
}

static inline void vec_pack_8(uint32_t *panel, const uint8_t *const rows[PANEL_ROWS], int64_t at)
{
    __m512i lines[8];
    vec_transpose_8(lines, rows, at);
    for (int i = 0; i < 8; i++)
        _mm512_storeu_si512(panel + i * PANEL_ROWS, lines[i]);
}

static inline __attribute__((always_inline)) void vec_dot(struct vi *acc, const uint8_t *w, const int8_t *const *x,
                                                          const int32_t *correction, int steps, int bits, int n_tok)
{
    (void)bits;
    for (int t = 0; t < n_tok; t++)
        acc[t].v = _mm512_set1_epi32(correction[t]);
    for (int s = 0; s < steps; s++) {
        __m512i weights = _mm512_loadu_si512(w + s * 64);
        for (int t = 0; t < n_tok; t++) {
            int32_t four;
            memcpy(&four, x[t] + 4 * s, sizeof four);
            acc[t].v = _mm512_dpbusd_epi32(acc[t].v, weights, _mm512_set1_epi32(four));
        }
    }
}

#endif
