/* In the place of the compiler's <immintrin.h>, for tests: AVX-512 by means of AVX2 (SIMDe), so that what is written
 * for AVX-512 runs, and is compared, on machines without it. First the intrinsics that SIMDe has, then those of ours
 * that it lacks, after Intel's intrinsics guide: a register is two halves, and each half is what the AVX2 intrinsic of
 * the same name makes of it. Nothing here is for speed.
 *
 * It stands in an include path before the compiler's, and the sources that are tested know nothing of it. */
#ifndef TESTS_SIMDE_IMMINTRIN_H
#define TESTS_SIMDE_IMMINTRIN_H

#include_next <immintrin.h>

/* __m512 is SIMDe's type here, and not the compiler's, which needs the instruction set. */
#define SIMDE_ENABLE_NATIVE_ALIASES
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>
#pragma GCC diagnostic pop

#include <stdint.h>
#include <string.h>

#define SHIM static inline __attribute__((always_inline, unused))

SHIM __m256i shim_low_i(__m512i a)
{
    return _mm512_castsi512_si256(a);
}

SHIM __m256i shim_high_i(__m512i a)
{
    return _mm512_extracti64x4_epi64(a, 1);
}

SHIM __m512i shim_join_i(__m256i low, __m256i high)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

SHIM __m256 shim_half(__m512 a, int half)
{
    __m256 part;
    memcpy(&part, (const char *)&a + half * (int)sizeof part, sizeof part);
    return part;
}

SHIM __m512 shim_join(__m256 low, __m256 high)
{
    __m512 a;
    memcpy(&a, &low, sizeof low);
    memcpy((char *)&a + sizeof low, &high, sizeof high);
    return a;
}

SHIM __m512 shim_cvtepi32_ps(__m512i a)
{
    return shim_join(_mm256_cvtepi32_ps(shim_low_i(a)), _mm256_cvtepi32_ps(shim_high_i(a)));
}

SHIM __m512i shim_cvtps_epi32(__m512 a)
{
    return shim_join_i(_mm256_cvtps_epi32(shim_half(a, 0)), _mm256_cvtps_epi32(shim_half(a, 1)));
}

SHIM __m512i shim_cvtepi8_epi32(__m128i a)
{
    return shim_join_i(_mm256_cvtepi8_epi32(a), _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(a, a)));
}

SHIM __m256i shim_cvtepi32_epi16(__m512i a)
{
    uint32_t from[16];
    uint16_t to[16];
    __m256i out;
    memcpy(from, &a, sizeof from);
    for (int i = 0; i < 16; i++)
        to[i] = (uint16_t)from[i];
    memcpy(&out, to, sizeof out);
    return out;
}

SHIM __m128i shim_cvtepi32_epi8(__m512i a)
{
    uint32_t from[16];
    uint8_t to[16];
    __m128i out;
    memcpy(from, &a, sizeof from);
    for (int i = 0; i < 16; i++)
        to[i] = (uint8_t)from[i];
    memcpy(&out, to, sizeof out);
    return out;
}

SHIM __m512 shim_cvtph_ps(__m256i a)
{
    return shim_join(_mm256_cvtph_ps(_mm256_castsi256_si128(a)), _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1)));
}

SHIM __m512d shim_cvtps_pd(__m256 a)
{
    __m256d half[2] = {_mm256_cvtps_pd(_mm256_castps256_ps128(a)), _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1))};
    __m512d out;
    memcpy(&out, half, sizeof out);
    return out;
}

SHIM __m512 shim_maskz_loadu_ps(__mmask16 k, const void *p)
{
    float v[16] = {0};
    for (int i = 0; i < 16; i++)
        if (k >> i & 1)
            memcpy(&v[i], (const char *)p + i * 4, sizeof v[i]);
    __m512 a;
    memcpy(&a, v, sizeof a);
    return a;
}

SHIM void shim_mask_storeu_ps(void *p, __mmask16 k, __m512 a)
{
    for (int i = 0; i < 16; i++)
        if (k >> i & 1)
            memcpy((char *)p + i * 4, (const char *)&a + i * 4, 4);
}

SHIM int32_t shim_reduce_add_epi32(__m512i a)
{
    uint32_t v[16], sum = 0;
    memcpy(v, &a, sizeof v);
    for (int i = 0; i < 16; i++)
        sum += v[i];
    return (int32_t)sum;
}

SHIM int32_t shim_reduce_max_epi32(__m512i a)
{
    int32_t v[16];
    memcpy(v, &a, sizeof v);
    int32_t top = v[0];
    for (int i = 1; i < 16; i++)
        top = v[i] > top ? v[i] : top;
    return top;
}

SHIM __m512i shim_srai_epi32(__m512i a, unsigned n)
{
    return shim_join_i(_mm256_srai_epi32(shim_low_i(a), (int)n), _mm256_srai_epi32(shim_high_i(a), (int)n));
}

/* SIMDe's wants a constant; the compiler's takes any number. */
SHIM __m512i shim_srli_epi16(__m512i a, unsigned n)
{
    return shim_join_i(_mm256_srli_epi16(shim_low_i(a), (int)n), _mm256_srli_epi16(shim_high_i(a), (int)n));
}

/* VDPBF16PS after the Intel SDM: the second numbers of all pairs, then the first ones; denormals are zeros on both
 * sides, and the control register does not count. One piece of assembly: compilers know nothing of that register. */
SHIM __m256 shim_dpbf16_half(__m256 sum, __m256i a, __m256i b)
{
    const uint32_t flush = 0x9fc0, before = _mm_getcsr();
    const __m256i high = _mm256_set1_epi32((int)0xffff0000);
    __m256 a1 = _mm256_castsi256_ps(_mm256_and_si256(a, high)), a0 = _mm256_castsi256_ps(_mm256_slli_epi32(a, 16));
    __m256 b1 = _mm256_castsi256_ps(_mm256_and_si256(b, high)), b0 = _mm256_castsi256_ps(_mm256_slli_epi32(b, 16));
    __asm__ volatile("vldmxcsr %5\n\t"
                     "vfmadd231ps %2, %1, %0\n\t"
                     "vfmadd231ps %4, %3, %0\n\t"
                     "vldmxcsr %6"
                     : "+x"(sum)
                     : "x"(a1), "x"(b1), "x"(a0), "x"(b0), "m"(flush), "m"(before));
    return sum;
}

SHIM __m512 shim_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b)
{
    const __m512i ai = (__m512i)a, bi = (__m512i)b;
    return shim_join(shim_dpbf16_half(shim_half(sum, 0), shim_low_i(ai), shim_low_i(bi)),
                     shim_dpbf16_half(shim_half(sum, 1), shim_high_i(ai), shim_high_i(bi)));
}

/* The compiler's, where it declares them, are for another type. */
#undef _mm512_cvtps_ph
#undef _mm512_extractf32x8_ps
#undef _mm512_srli_epi16
#undef _mm512_dpbf16_ps
#define _mm512_dpbf16_ps        shim_dpbf16_ps
#define _mm512_cvtepi32_ps      shim_cvtepi32_ps
#define _mm512_cvtps_epi32      shim_cvtps_epi32
#define _mm512_cvtepi8_epi32    shim_cvtepi8_epi32
#define _mm512_cvtepi32_epi16   shim_cvtepi32_epi16
#define _mm512_cvtepi32_epi8    shim_cvtepi32_epi8
#define _mm512_cvtph_ps         shim_cvtph_ps
#define _mm512_cvtps_pd         shim_cvtps_pd
#define _mm512_maskz_loadu_ps   shim_maskz_loadu_ps
#define _mm512_mask_storeu_ps   shim_mask_storeu_ps
#define _mm512_reduce_add_epi32 shim_reduce_add_epi32
#define _mm512_reduce_max_epi32 shim_reduce_max_epi32
#define _mm512_srli_epi16       shim_srli_epi16
#define _mm512_srai_epi32       shim_srai_epi32
#define _mm512_extractf32x8_ps  shim_half
#define _mm512_cvtps_ph(a, mode)                                                                                       \
    _mm256_inserti128_si256(_mm256_castsi128_si256(_mm256_cvtps_ph(shim_half(a, 0), mode)),                            \
                            _mm256_cvtps_ph(shim_half(a, 1), mode), 1)

#endif
