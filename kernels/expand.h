/* Bring one block of each quantised type into the common form of kernels/internal.h: unsigned numbers q, and d and m
 * per group. A file of definitions, not of declarations: dequantise.c and each kernels/cpu/isa_*.c include it and so
 * compile it for their own instruction set. The compilers' vector types stand for "the same on 16 or 32 bytes" on any
 * CPU. All arithmetic is exact or a single rounding, so every copy gives the same bits.
 *
 * EXPAND_F16(u16) may be defined before as a faster half conversion.
 * expand_NAME(block, q, d, m): q[block_elems]; d[g] and m[g] for each group g of the block (m only for types with a
 * minimum). Block layouts: GGUF specification and the comments here. */
#ifndef KERNELS_EXPAND_H
#define KERNELS_EXPAND_H

#include <string.h>

#include "kernels/internal.h"

#ifndef EXPAND_F16
#define EXPAND_F16(h) k_f16_to_f32(h)
#endif

typedef uint8_t bytes16 __attribute__((vector_size(16)));
typedef uint8_t bytes32 __attribute__((vector_size(32)));
typedef uint8_t bytes8 __attribute__((vector_size(8)));
typedef int8_t signed16 __attribute__((vector_size(16)));
typedef float floats8 __attribute__((vector_size(32)));
typedef float floats16 __attribute__((vector_size(64)));

/* Vectors are loaded and stored through memcpy, which knows no alignment. */
#define EXPAND_LOAD(v, p)  memcpy(&(v), (p), sizeof(v))
#define EXPAND_STORE(p, v) memcpy((p), &(v), sizeof(v))

static inline float expand_half(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return EXPAND_F16(h);
}

/* The low nibbles of 16 bytes are elements 0..15, the high ones elements 16..31. */
static inline void expand_nibbles(uint8_t *q, const uint8_t *nibbles)
{
    bytes16 both, low, high;
    EXPAND_LOAD(both, nibbles);
    low = both & 15;
    high = both >> 4;
    EXPAND_STORE(q, low);
    EXPAND_STORE(q + 16, high);
}

/* Bit i of a little-endian 32-bit mask is bit 4 of element i. Eight at a time: the byte is copied to all eight places,
 * each place keeps its own bit, and a carry moves whichever bit that is to the top. */
static inline void expand_fifth_bit(uint8_t *q, const uint8_t *mask)
{
    for (int i = 0; i < 4; i++) {
        uint64_t spread = (mask[i] * 0x0101010101010101u) & 0x8040201008040201u, eight;
        spread = ((spread + 0x7f7f7f7f7f7f7f7fu) & 0x8080808080808080u) >> 3;
        EXPAND_LOAD(eight, q + 8 * i);
        eight |= spread;
        EXPAND_STORE(q + 8 * i, eight);
    }
}

static inline void expand_q4_0(const uint8_t *b, uint8_t *q, float *d, float *m)
{
    (void)m;
    *d = expand_half(b);
    expand_nibbles(q, b + 2);
}

static inline void expand_q4_1(const uint8_t *b, uint8_t *q, float *d, float *m)
{
    *d = expand_half(b);
    *m = -expand_half(b + 2);
    expand_nibbles(q, b + 4);
}

static inline void expand_q5_0(const uint8_t *b, uint8_t *q, float *d, float *m)
{
    (void)m;
    *d = expand_half(b);
    expand_nibbles(q, b + 6);
    expand_fifth_bit(q, b + 2);
}

static inline void expand_q5_1(const uint8_t *b, uint8_t *q, float *d, float *m)
{
    *d = expand_half(b);
    *m = -expand_half(b + 2);
    expand_nibbles(q, b + 8);
    expand_fifth_bit(q, b + 4);
}

static inline void expand_q8_0(const uint8_t *b, uint8_t *q, float *d, float *m)
{
    (void)m;
    *d = expand_half(b);
    bytes32 all;
    EXPAND_LOAD(all, b + 2);
    all ^= 0x80;
    EXPAND_STORE(q, all);
}

/* 84 bytes: 16 of (scale | min << 4), 64 of 2-bit numbers, half d, half dmin. Each 32 bytes of numbers hold 128
 * elements in four layers of 32. */
static inline void expand_q2_k(const uint8_t *b, uint8_t *q, float *d, float *m)
{
    float scale = expand_half(b + 80), min = expand_half(b + 82);
    for (int g = 0; g < 16; g++) {
        d[g] = scale * (float)(b[g] & 15);
        m[g] = min * (float)(b[g] >> 4);
    }
    for (int half = 0; half < 2; half++) {
        bytes32 layers, layer;
        EXPAND_LOAD(layers, b + 16 + half * 32);
        for (int i = 0; i < 4; i++) {
            layer = layers & 3;
            layers >>= 2;
            EXPAND_STORE(q + half * 128 + i * 32, layer);
        }
    }
}

/* 110 bytes: 32 of high bits, 64 of 2-bit numbers as in q2_k, 12 of packed 6-bit scales (minus 32), half d. */
static inline void expand_q3_k(const uint8_t *b, uint8_t *q, float *d, float *m)
{
    (void)m;
    const uint8_t *s = b + 96;
    float scale = expand_half(b + 108);
    for (int g = 0; g < 16; g++) {
        int low = g < 8 ? s[g] & 15 : s[g - 8] >> 4, high = s[8 + g % 4] >> (2 * (g / 4)) & 3;
        d[g] = scale * (float)((low | high << 4) - 32);
    }
    bytes32 third, layers, layer;
    EXPAND_LOAD(third, b);
    for (int half = 0; half < 2; half++) {
        EXPAND_LOAD(layers, b + 32 + half * 32);
        for (int i = 0; i < 4; i++) {
            layer = (layers & 3) | (third & 1) << 2;
            layers >>= 2;
            third >>= 1;
            EXPAND_STORE(q + half * 128 + i * 32, layer);
        }
    }
}

/* The 12 bytes of 6-bit scales and minima that q4_k and q5_k share: entries 0..3 are whole in bytes 0..3 (scales) and
 * 4..7 (minima), their top two bits belong to entries 4..7, whose low nibbles are in bytes 8..11. */
static inline void expand_scales_k(const uint8_t *b, float *d, float *m)
{
    uint32_t s0, s1, s2;
    EXPAND_LOAD(s0, b + 4);
    EXPAND_LOAD(s1, b + 8);
    EXPAND_LOAD(s2, b + 12);
    uint64_t scales = (s0 & 0x3f3f3f3f) | (uint64_t)((s2 & 0x0f0f0f0f) | (s0 >> 2 & 0x30303030)) << 32;
    uint64_t minima = (s1 & 0x3f3f3f3f) | (uint64_t)((s2 >> 4 & 0x0f0f0f0f) | (s1 >> 2 & 0x30303030)) << 32;
    bytes8 eight;
    EXPAND_LOAD(eight, &scales);
    floats8 wide = __builtin_convertvector(eight, floats8) * expand_half(b);
    EXPAND_STORE(d, wide);
    EXPAND_LOAD(eight, &minima);
    wide = __builtin_convertvector(eight, floats8) * expand_half(b + 2);
    EXPAND_STORE(m, wide);
}

/* 144 bytes: half d, half dmin, scales, 128 bytes whose each 32 hold two groups: low nibbles, then high ones. */
static inline void expand_q4_k(const uint8_t *b, uint8_t *q, float *d, float *m)
{
    expand_scales_k(b, d, m);
    for (int pair = 0; pair < 4; pair++) {
        bytes32 both, low, high;
        EXPAND_LOAD(both, b + 16 + pair * 32);
        low = both & 15;
        high = both >> 4;
        EXPAND_STORE(q + pair * 64, low);
        EXPAND_STORE(q + pair * 64 + 32, high);
    }
}

/* 176 bytes: q4_k with 32 bytes of fifth bits before the nibbles: bit g of byte i belongs to element i of group g. */
static inline void expand_q5_k(const uint8_t *b, uint8_t *q, float *d, float *m)
{
    expand_scales_k(b, d, m);
    bytes32 fifth, both, low, high;
    EXPAND_LOAD(fifth, b + 16);
    for (int pair = 0; pair < 4; pair++) {
        EXPAND_LOAD(both, b + 48 + pair * 32);
        low = (both & 15) | (fifth & 1) << 4;
        high = both >> 4 | (fifth & 2) << 3;
        fifth >>= 2;
        EXPAND_STORE(q + pair * 64, low);
        EXPAND_STORE(q + pair * 64 + 32, high);
    }
}

/* 210 bytes: 128 of low nibbles, 64 of high pairs of bits, 16 signed scales, half d. Each half of 128 elements: four
 * layers of 32, of which 0 and 2 (1 and 3) share bytes 0..31 (32..63) of the nibbles. */
static inline void expand_q6_k(const uint8_t *b, uint8_t *q, float *d, float *m)
{
    (void)m;
    signed16 scales;
    EXPAND_LOAD(scales, b + 192);
    floats16 wide = __builtin_convertvector(scales, floats16) * expand_half(b + 208);
    EXPAND_STORE(d, wide);
    for (int half = 0; half < 2; half++) {
        bytes32 even, odd, high, layer;
        EXPAND_LOAD(even, b + half * 64);
        EXPAND_LOAD(odd, b + half * 64 + 32);
        EXPAND_LOAD(high, b + 128 + half * 32);
        uint8_t *out = q + half * 128;
        layer = (even & 15) | (high & 3) << 4;
        EXPAND_STORE(out, layer);
        layer = (odd & 15) | (high & 0x0c) << 2;
        EXPAND_STORE(out + 32, layer);
        layer = even >> 4 | (high & 0x30);
        EXPAND_STORE(out + 64, layer);
        layer = odd >> 4 | (high & 0xc0) >> 2;
        EXPAND_STORE(out + 96, layer);
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

static inline void expand_iq4_nl(const uint8_t *b, uint8_t *q, float *d, float *m)
{
    (void)m;
    *d = expand_half(b);
    expand_iq4_nibbles(q, b + 2);
}

/* 136 bytes: half d, 16 bits of high parts and 4 bytes of low parts of 6-bit scales (minus 32), 128 of nibbles. */
static inline void expand_iq4_xs_scales(const uint8_t *b, float *d)
{
    float scale = expand_half(b);
    uint16_t high;
    memcpy(&high, b + 2, sizeof high);
    for (int g = 0; g < 8; g++) {
        int low = b[4 + g / 2] >> (4 * (g % 2)) & 15;
        d[g] = scale * (float)((low | (high >> (2 * g) & 3) << 4) - 32);
    }
}

static inline void expand_iq4_xs(const uint8_t *b, uint8_t *q, float *d, float *m)
{
    (void)m;
    expand_iq4_xs_scales(b, d);
    for (int g = 0; g < 8; g++)
        expand_iq4_nibbles(q + g * 32, b + 8 + g * 16);
}

#endif
