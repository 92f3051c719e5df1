/* Bring one block of each quantised type into the common form of kernels/internal.h: unsigned numbers q, and d and m
 * per group. A file of definitions, not of declarations: dequantise.c and each kernels/cpu/isa_*.c include it and so
 * compile it for their own instruction set, where the loops below become a few vector instructions. All arithmetic is
 * exact or a single rounding, so every copy gives the same bits.
 *
 * EXPAND_F16(u16) may be defined before as a faster half conversion.
 * expand_NAME(block, q, d, m, stride): q[block_elems]; d[g * stride], m[g * stride] for each group g of the block (m
 * only for types with a minimum). Block layouts: GGUF specification and the comments here. */
#ifndef KERNELS_EXPAND_H
#define KERNELS_EXPAND_H

#include <string.h>

#include "kernels/internal.h"

#ifndef EXPAND_F16
#define EXPAND_F16(h) k_f16_to_f32(h)
#endif

static inline float expand_half(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return EXPAND_F16(h);
}

/* The low nibbles of 16 bytes are elements 0..15, the high ones elements 16..31. */
static inline void expand_nibbles(uint8_t *q, const uint8_t *nibbles)
{
    for (int i = 0; i < 16; i++) {
        q[i] = nibbles[i] & 15;
        q[16 + i] = nibbles[i] >> 4;
    }
}

/* Bit i of a little-endian 32-bit mask is bit 4 of element i. */
static inline void expand_fifth_bit(uint8_t *q, const uint8_t *mask)
{
    for (int i = 0; i < 32; i++)
        q[i] |= (uint8_t)((mask[i / 8] >> (i % 8) & 1) << 4);
}

static inline void expand_q4_0(const uint8_t *b, uint8_t *q, float *d, float *m, int64_t stride)
{
    (void)m, (void)stride;
    *d = expand_half(b);
    expand_nibbles(q, b + 2);
}

static inline void expand_q4_1(const uint8_t *b, uint8_t *q, float *d, float *m, int64_t stride)
{
    (void)stride;
    *d = expand_half(b);
    *m = -expand_half(b + 2);
    expand_nibbles(q, b + 4);
}

static inline void expand_q5_0(const uint8_t *b, uint8_t *q, float *d, float *m, int64_t stride)
{
    (void)m, (void)stride;
    *d = expand_half(b);
    expand_nibbles(q, b + 6);
    expand_fifth_bit(q, b + 2);
}

static inline void expand_q5_1(const uint8_t *b, uint8_t *q, float *d, float *m, int64_t stride)
{
    (void)stride;
    *d = expand_half(b);
    *m = -expand_half(b + 2);
    expand_nibbles(q, b + 8);
    expand_fifth_bit(q, b + 4);
}

static inline void expand_q8_0(const uint8_t *b, uint8_t *q, float *d, float *m, int64_t stride)
{
    (void)m, (void)stride;
    *d = expand_half(b);
    for (int i = 0; i < 32; i++)
        q[i] = b[2 + i] ^ 0x80;
}

/* 84 bytes: 16 of (scale | min << 4), 64 of 2-bit numbers, half d, half dmin. Each 32 bytes of numbers hold 128
 * elements in four layers of 32. */
static inline void expand_q2_k(const uint8_t *b, uint8_t *q, float *d, float *m, int64_t stride)
{
    float scale = expand_half(b + 80), min = expand_half(b + 82);
    for (int g = 0; g < 16; g++) {
        d[g * stride] = scale * (float)(b[g] & 15);
        m[g * stride] = min * (float)(b[g] >> 4);
    }
    for (int half = 0; half < 2; half++)
        for (int layer = 0; layer < 4; layer++)
            for (int i = 0; i < 32; i++)
                q[half * 128 + layer * 32 + i] = b[16 + half * 32 + i] >> (2 * layer) & 3;
}

/* 110 bytes: 32 of high bits, 64 of 2-bit numbers as in q2_k, 12 of packed 6-bit scales (minus 32), half d. */
static inline void expand_q3_k(const uint8_t *b, uint8_t *q, float *d, float *m, int64_t stride)
{
    (void)m;
    const uint8_t *s = b + 96;
    float scale = expand_half(b + 108);
    for (int g = 0; g < 16; g++) {
        int low = g < 8 ? s[g] & 15 : s[g - 8] >> 4, high = s[8 + g % 4] >> (2 * (g / 4)) & 3;
        d[g * stride] = scale * (float)((low | high << 4) - 32);
    }
    for (int half = 0; half < 2; half++)
        for (int layer = 0; layer < 4; layer++)
            for (int i = 0; i < 32; i++)
                q[half * 128 + layer * 32 + i] =
                    (uint8_t)((b[32 + half * 32 + i] >> (2 * layer) & 3) | (b[i] >> (half * 4 + layer) & 1) << 2);
}

/* The 12 bytes of 6-bit scales and minima that q4_k and q5_k share: entries 0..3 are whole in bytes 0..3 (scales) and
 * 4..7 (minima), their top two bits belong to entries 4..7, whose low nibbles are in bytes 8..11. */
static inline void expand_scales_k(const uint8_t *b, float *d, float *m, int64_t stride)
{
    float scale = expand_half(b), min = expand_half(b + 2);
    uint32_t s0, s1, s2;
    memcpy(&s0, b + 4, 4);
    memcpy(&s1, b + 8, 4);
    memcpy(&s2, b + 12, 4);
    uint32_t part[4] = {s0 & 0x3f3f3f3f, (s2 & 0x0f0f0f0f) | (s0 >> 2 & 0x30303030), s1 & 0x3f3f3f3f,
                        (s2 >> 4 & 0x0f0f0f0f) | (s1 >> 2 & 0x30303030)};
    uint8_t six[16]; /* 8 scales, 8 minima */
    float wide[16];
    memcpy(six, part, sizeof six);
    for (int i = 0; i < 16; i++)
        wide[i] = (float)six[i] * (i < 8 ? scale : min);
    for (int g = 0; g < 8; g++) {
        d[g * stride] = wide[g];
        m[g * stride] = wide[8 + g];
    }
}

/* 144 bytes: half d, half dmin, scales, 128 bytes whose each 32 hold two groups: low nibbles, then high ones. */
static inline void expand_q4_k(const uint8_t *b, uint8_t *q, float *d, float *m, int64_t stride)
{
    expand_scales_k(b, d, m, stride);
    for (int pair = 0; pair < 4; pair++)
        for (int i = 0; i < 32; i++) {
            q[pair * 64 + i] = b[16 + pair * 32 + i] & 15;
            q[pair * 64 + 32 + i] = b[16 + pair * 32 + i] >> 4;
        }
}

/* 176 bytes: q4_k with 32 bytes of fifth bits before the nibbles: bit g of byte i belongs to element i of group g. */
static inline void expand_q5_k(const uint8_t *b, uint8_t *q, float *d, float *m, int64_t stride)
{
    expand_scales_k(b, d, m, stride);
    for (int pair = 0; pair < 4; pair++)
        for (int i = 0; i < 32; i++) {
            uint8_t high = b[16 + i] >> (2 * pair), low = b[48 + pair * 32 + i];
            q[pair * 64 + i] = (uint8_t)((low & 15) | (high & 1) << 4);
            q[pair * 64 + 32 + i] = (uint8_t)(low >> 4 | (high & 2) << 3);
        }
}

/* 210 bytes: 128 of low nibbles, 64 of high pairs of bits, 16 signed scales, half d. Each half of 128 elements: four
 * layers of 32, of which 0 and 2 (1 and 3) share bytes 0..31 (32..63) of the nibbles. */
static inline void expand_q6_k(const uint8_t *b, uint8_t *q, float *d, float *m, int64_t stride)
{
    (void)m;
    float scale = expand_half(b + 208);
    for (int g = 0; g < 16; g++)
        d[g * stride] = scale * (float)(int8_t)b[192 + g];
    for (int half = 0; half < 2; half++) {
        const uint8_t *low = b + half * 64, *high = b + 128 + half * 32;
        uint8_t *out = q + half * 128;
        for (int i = 0; i < 32; i++) {
            out[i] = (uint8_t)((low[i] & 15) | (high[i] & 3) << 4);
            out[32 + i] = (uint8_t)((low[32 + i] & 15) | (high[i] & 0x0c) << 2);
            out[64 + i] = (uint8_t)(low[i] >> 4 | (high[i] & 0x30));
            out[96 + i] = (uint8_t)(low[32 + i] >> 4 | (high[i] & 0xc0) >> 2);
        }
    }
}

/* The sixteen values of the non-linear 4-bit types, plus 128. */
static const uint8_t expand_iq4_values[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};

static inline void expand_iq4_nibbles(uint8_t *q, const uint8_t *nibbles)
{
    for (int i = 0; i < 16; i++) {
        q[i] = expand_iq4_values[nibbles[i] & 15];
        q[16 + i] = expand_iq4_values[nibbles[i] >> 4];
    }
}

static inline void expand_iq4_nl(const uint8_t *b, uint8_t *q, float *d, float *m, int64_t stride)
{
    (void)m, (void)stride;
    *d = expand_half(b);
    expand_iq4_nibbles(q, b + 2);
}

/* 136 bytes: half d, 16 bits of high parts and 4 bytes of low parts of 6-bit scales (minus 32), 128 of nibbles. */
static inline void expand_iq4_xs(const uint8_t *b, uint8_t *q, float *d, float *m, int64_t stride)
{
    (void)m;
    float scale = expand_half(b);
    uint16_t high;
    memcpy(&high, b + 2, sizeof high);
    for (int g = 0; g < 8; g++) {
        int low = b[4 + g / 2] >> (4 * (g % 2)) & 15;
        d[g * stride] = scale * (float)((low | (high >> (2 * g) & 3) << 4) - 32);
        expand_iq4_nibbles(q + g * 32, b + 8 + g * 16);
    }
}

#endif
