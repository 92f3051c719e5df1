/* Panels of the types that speed hangs on, straight from the blocks. Eight rows are taken at a time: their 32-bit words
 * are transposed in registers, so that a lane is a row from the first instruction on, and packed numbers are unpacked
 * after that, eight rows for the price of one. What comes out is what expanding each row and packing would give. */
#ifndef KERNELS_CPU_PACK_AVX2_H
#define KERNELS_CPU_PACK_AVX2_H

#include "kernels/cpu/vec_avx2.h"
#include "kernels/expand.h"

#define PACK_INLINE static inline __attribute__((always_inline))
#define LANE_ROWS   8

/* ---- blocks of eight rows -> w ----------------------------------------------------------------------------------- */

/* The 16 bytes at `at` of rows r and r + 4. */
PACK_INLINE __m256i two_rows(const uint8_t *const *rows, int r, int64_t at)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(rows[r] + at))),
                                   _mm_loadu_si128((const __m128i *)(rows[r + 4] + at)), 1);
}

/* Word i of the 16 bytes at `at` of each row -> w[i]. */
PACK_INLINE void words_4(__m256i w[4], const uint8_t *const *rows, int64_t at)
{
    __m256i a[4];
    for (int r = 0; r < 4; r++)
        a[r] = two_rows(rows, r, at);
    __m256i low01 = _mm256_unpacklo_epi32(a[0], a[1]), low23 = _mm256_unpacklo_epi32(a[2], a[3]);
    __m256i high01 = _mm256_unpackhi_epi32(a[0], a[1]), high23 = _mm256_unpackhi_epi32(a[2], a[3]);
    w[0] = _mm256_unpacklo_epi64(low01, low23);
    w[1] = _mm256_unpackhi_epi64(low01, low23);
    w[2] = _mm256_unpacklo_epi64(high01, high23);
    w[3] = _mm256_unpackhi_epi64(high01, high23);
}

PACK_INLINE void words_8(__m256i w[8], const uint8_t *const *rows, int64_t at)
{
    words_4(w, rows, at);
    words_4(w + 4, rows, at + 16);
}

PACK_INLINE __m256i low_nibbles(__m256i w)
{
    return _mm256_and_si256(w, _mm256_set1_epi8(15));
}

PACK_INLINE __m256i high_nibbles(__m256i w)
{
    return low_nibbles(_mm256_srli_epi16(w, 4));
}

PACK_INLINE void block_q8_0(__m256i w[8], const uint8_t *const *rows, int64_t at)
{
    words_8(w, rows, at + 2);
}

PACK_INLINE void block_q4_0(__m256i w[8], const uint8_t *const *rows, int64_t at)
{
    __m256i both[4];
    words_4(both, rows, at + 2);
    for (int i = 0; i < 4; i++) {
        w[i] = low_nibbles(both[i]);
        w[i + 4] = high_nibbles(both[i]);
    }
}

/* The non-linear four bits stand for sixteen signed numbers. */
PACK_INLINE void block_iq4(__m256i w[8], const uint8_t *const *rows, int64_t at)
{
    const __m256i values = _mm256_xor_si256(
        _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)expand_iq4_values)), _mm256_set1_epi8(-128));
    block_q4_0(w, rows, at);
    for (int i = 0; i < 8; i++)
        w[i] = _mm256_shuffle_epi8(values, w[i]);
}

PACK_INLINE void block_q5_0(__m256i w[8], const uint8_t *const *rows, int64_t at)
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
        const __m256i sixteen = _mm256_set1_epi32(i % 2 == 0 ? 0x10101010 : (int)0xf0101010); /* whose sign own has */
        __m256i bits = _mm256_sign_epi8(sixteen, _mm256_and_si256(_mm256_shuffle_epi8(fifth, spread), own));
        w[i] = _mm256_or_si256(i < 4 ? low_nibbles(both[i]) : high_nibbles(both[i - 4]), bits);
    }
}

/* Groups 2 * pair and 2 * pair + 1. */
PACK_INLINE void pair_q4_k(__m256i w[16], const uint8_t *const *rows, int64_t at, int pair)
{
    __m256i both[8];
    words_8(both, rows, at + 16 + pair * 32);
    for (int i = 0; i < 8; i++) {
        w[i] = low_nibbles(both[i]);
        w[i + 8] = high_nibbles(both[i]);
    }
}

PACK_INLINE void pair_q5_k(__m256i w[16], const uint8_t *const *rows, int64_t at, int pair)
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

/* One half of a block holds four layers of 32 numbers: the first (column 0) or last (1) 16 of each. */
PACK_INLINE void column_q6_k(__m256i w[4][4], const uint8_t *const *rows, int64_t at, int half, int column)
{
    __m256i even[4], odd[4], high[4];
    const __m256i pair = _mm256_set1_epi8(0x30);
    words_4(even, rows, at + half * 64 + column * 16);
    words_4(odd, rows, at + half * 64 + 32 + column * 16);
    words_4(high, rows, at + 128 + half * 32 + column * 16);
    for (int i = 0; i < 4; i++) {
        w[0][i] = _mm256_or_si256(low_nibbles(even[i]), _mm256_and_si256(_mm256_slli_epi16(high[i], 4), pair));
        w[1][i] = _mm256_or_si256(low_nibbles(odd[i]), _mm256_and_si256(_mm256_slli_epi16(high[i], 2), pair));
        w[2][i] = _mm256_or_si256(high_nibbles(even[i]), _mm256_and_si256(high[i], pair));
        w[3][i] = _mm256_or_si256(high_nibbles(odd[i]), _mm256_and_si256(_mm256_srli_epi16(high[i], 2), pair));
    }
}

/* ---- scales ------------------------------------------------------------------------------------------------------ */

/* What lies `ahead` of n bytes of each row is asked for. */
PACK_INLINE void prefetch_rows(const uint8_t *const *rows, int64_t at, int64_t n)
{
    for (int r = 0; r < LANE_ROWS; r++)
        for (int64_t i = 0; i < n; i += 64)
            __builtin_prefetch(rows[r] + at + i, 0, 3);
}

/* The same for small blocks, with every eighth for eight of them. */
PACK_INLINE void prefetch_blocks(const uint8_t *const *rows, int64_t block, int64_t block_bytes, size_t ahead)
{
    if (block % 8 == 0)
        prefetch_rows(rows, block * block_bytes + (int64_t)ahead, 8 * block_bytes);
}

PACK_INLINE __m128i load_16(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}

/* The half at `at` of each row, in blocks of at least 16 bytes. Put together in registers: a wide load of what narrow
 * stores wrote would have to wait for them. */
PACK_INLINE __m256 halves_at(const uint8_t *const *rows, int64_t at)
{
    __m128i two[4];
    for (int r = 0; r < 4; r++)
        two[r] = _mm_unpacklo_epi16(load_16(rows[2 * r] + at), load_16(rows[2 * r + 1] + at));
    __m128i low = _mm_unpacklo_epi32(two[0], two[1]), high = _mm_unpacklo_epi32(two[2], two[3]);
    return _mm256_cvtph_ps(_mm_unpacklo_epi64(low, high));
}

/* The half that ends at `end` of each row, where a block ends. */
PACK_INLINE __m256 halves_before(const uint8_t *const *rows, int64_t end)
{
    __m128i two[4];
    for (int r = 0; r < 4; r++)
        two[r] = _mm_unpackhi_epi16(load_16(rows[2 * r] + end - 16), load_16(rows[2 * r + 1] + end - 16));
    __m128i low = _mm_unpackhi_epi32(two[0], two[1]), high = _mm_unpackhi_epi32(two[2], two[3]);
    return _mm256_cvtph_ps(_mm_unpackhi_epi64(low, high));
}

/* expand_scales_k for eight rows at once: bytes of groups 0..3 and 4..7. */
struct scales_k {
    __m256 d, dmin;
    __m256i scale[2], min[2];
};

PACK_INLINE struct scales_k load_scales_k(const uint8_t *const *rows, int64_t at)
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

/* The lowest byte of each lane times a unit. */
PACK_INLINE __m256 scaled_byte(__m256i v, __m256 unit)
{
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_and_si256(v, _mm256_set1_epi32(255))), unit);
}

/* The same for a signed byte. */
PACK_INLINE __m256 scaled_signed(__m256i v, __m256 unit)
{
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(v, 24), 24)), unit);
}

/* ---- panels ------------------------------------------------------------------------------------------------------ */

/* 4 * n numbers of eight rows, from element `at` on. */
PACK_INLINE void store_words(uint8_t *q, const __m256i *w, int n, int64_t at)
{
    for (int i = 0; i < n; i++)
        _mm256_storeu_si256((__m256i *)(q + at * PANEL_ROWS + i * 4 * PANEL_ROWS), w[i]);
}

/* The same for signed bytes, as pairs of 16 bits. */
PACK_INLINE void store_pairs(uint8_t *q, const __m256i *w, int n, int64_t at)
{
    const __m256i first = _mm256_setr_epi8(-1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1, 0, -1, 1, -1,
                                           4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13);
    const __m256i second = _mm256_blendv_epi8(_mm256_add_epi8(first, _mm256_set1_epi8(2)), first, first);
    for (int i = 0; i < n; i++) {
        __m256i *line = (__m256i *)(q + (at + i * 4) * PANEL_ROWS * 2);
        _mm256_storeu_si256(line, _mm256_srai_epi16(_mm256_shuffle_epi8(w[i], first), 8));
        _mm256_storeu_si256(line + 2, _mm256_srai_epi16(_mm256_shuffle_epi8(w[i], second), 8));
    }
}

typedef void block_fn(__m256i w[8], const uint8_t *const *rows, int64_t at);
typedef void store_fn(uint8_t *q, const __m256i *w, int n, int64_t at);

PACK_INLINE void pack_blocks(uint8_t *q, float *d, const uint8_t *const *rows, int64_t n, size_t ahead,
                             block_fn *block_w, store_fn *store, int64_t block_bytes)
{
    for (int64_t block = 0; block < n / 32; block++) {
        __m256i w[8];
        int64_t at = block * block_bytes;
        block_w(w, rows, at);
        prefetch_blocks(rows, block, block_bytes, ahead);
        store(q, w, 8, block * 32);
        _mm256_storeu_ps(d + block * PANEL_ROWS, halves_at(rows, at));
    }
}

PACK_INLINE void pack_iq4_xs(uint8_t *q, float *d, const uint8_t *const *rows, int64_t n, size_t ahead)
{
    for (int64_t block = 0; block < n / 256; block++) {
        int64_t at = block * 136;
        prefetch_rows(rows, at + (int64_t)ahead, 136);
        for (int g = 0; g < 8; g++) {
            __m256i w[8];
            block_iq4(w, rows, at + 6 + g * 16); /* whose nibbles are two bytes on */
            store_pairs(q, w, 8, block * 256 + g * 32);
        }
        for (int r = 0; r < LANE_ROWS; r++) {
            float scales[8];
            expand_iq4_xs_scales(rows[r] + at, scales);
            for (int g = 0; g < 8; g++)
                d[(block * 8 + g) * PANEL_ROWS + r] = scales[g];
        }
    }
}

typedef void pair_fn(__m256i w[16], const uint8_t *const *rows, int64_t at, int pair);

PACK_INLINE void pack_pairs(uint8_t *q, float *d, float *m, const uint8_t *const *rows, int64_t n, size_t ahead,
                            pair_fn *pair_w, int64_t block_bytes)
{
    for (int64_t block = 0; block < n / 256; block++) {
        int64_t at = block * block_bytes;
        struct scales_k k = load_scales_k(rows, at);
        prefetch_rows(rows, at + (int64_t)ahead, block_bytes);
        for (int pair = 0; pair < 4; pair++) {
            __m256i w[16];
            pair_w(w, rows, at, pair);
            store_words(q, w, 16, block * 256 + pair * 64);
        }
        for (int g = 0; g < 8; g++) {
            __m256i scale = _mm256_srli_epi32(k.scale[g / 4], 8 * (g % 4));
            __m256i min = _mm256_srli_epi32(k.min[g / 4], 8 * (g % 4));
            _mm256_storeu_ps(d + (block * 8 + g) * PANEL_ROWS, scaled_byte(scale, k.d));
            _mm256_storeu_ps(m + (block * 8 + g) * PANEL_ROWS, scaled_byte(min, k.dmin));
        }
    }
}

PACK_INLINE void pack_sixes(uint8_t *q, float *d, const uint8_t *const *rows, int64_t n, size_t ahead)
{
    for (int64_t block = 0; block < n / 256; block++) {
        int64_t at = block * 210;
        __m256i scales[4];
        prefetch_rows(rows, at + (int64_t)ahead, 210);
        for (int part = 0; part < 4; part++) {
            __m256i w[4][4];
            int half = part / 2, column = part % 2;
            column_q6_k(w, rows, at, half, column);
            for (int layer = 0; layer < 4; layer++)
                store_words(q, w[layer], 4, block * 256 + half * 128 + layer * 32 + column * 16);
        }
        words_4(scales, rows, at + 192);
        __m256 unit = halves_before(rows, at + 210);
        for (int g = 0; g < 16; g++)
            _mm256_storeu_ps(d + (block * 16 + g) * PANEL_ROWS,
                             scaled_signed(_mm256_srli_epi32(scales[g / 4], 8 * (g % 4)), unit));
    }
}

/* panel_NAME: both halves of the rows. */
#define PANEL_TYPE(name, pack_half)                                                                                    \
    static void panel_##name(const struct q_panel *panel, const uint8_t *const *rows, int64_t n, size_t ahead)         \
    {                                                                                                                  \
        for (int half = 0; half < PANEL_ROWS; half += LANE_ROWS) {                                                     \
            const uint8_t *const *r = rows + half;                                                                     \
            uint8_t *q = panel->q + half * 4; /* lanes of 4 bytes */                                                   \
            float *d = panel->d + half, *m = panel->m + half;                                                          \
            (void)m;                                                                                                   \
            pack_half;                                                                                                 \
        }                                                                                                              \
    }

PANEL_TYPE(q8_0, pack_blocks(q, d, r, n, ahead, block_q8_0, store_pairs, 34))
PANEL_TYPE(q4_0, pack_blocks(q, d, r, n, ahead, block_q4_0, store_words, 18))
PANEL_TYPE(q5_0, pack_blocks(q, d, r, n, ahead, block_q5_0, store_words, 22))
PANEL_TYPE(q4_k, pack_pairs(q, d, m, r, n, ahead, pair_q4_k, 144))
PANEL_TYPE(q5_k, pack_pairs(q, d, m, r, n, ahead, pair_q5_k, 176))
PANEL_TYPE(q6_k, pack_sixes(q, d, r, n, ahead))
PANEL_TYPE(iq4_nl, pack_blocks(q, d, r, n, ahead, block_iq4, store_pairs, 18))
PANEL_TYPE(iq4_xs, pack_iq4_xs(q, d, r, n, ahead))

#define ISA_PANEL                                                                                                      \
    {                                                                                                                  \
        [K_Q8_0] = panel_q8_0, [K_Q4_0] = panel_q4_0, [K_Q5_0] = panel_q5_0, [K_Q4_K] = panel_q4_k,                    \
        [K_Q5_K] = panel_q5_k, [K_Q6_K] = panel_q6_k, [K_IQ4_NL] = panel_iq4_nl, [K_IQ4_XS] = panel_iq4_xs,            \
    }

#endif
