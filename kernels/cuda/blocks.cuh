/* Quantised blocks on the device: 256 elements of a row brought into the common form of kernels/internal.h with signed
 * numbers, value = d * q - m, q in 8 bits (the offset of the type is taken off), d and m per group of 16 or 32; and one
 * element as a float. Layouts: GGUF specification and kernels/expand.h, whose results these equal bit for bit.
 *
 * A block lies on a multiple of 2 bytes, of 4 where its size is one (Q4_1, Q5_1, Q2_K, Q4_K, Q5_K, IQ4_XS). */
#ifndef KERNELS_CUDA_BLOCKS_CUH
#define KERNELS_CUDA_BLOCKS_CUH

#include "kernels/cuda/portable.cuh"

#define SLICE 256 /* elements of a row whose products are summed as one: see matmul.cuh */

/* What blocks_expand() fills for half of a slice of a row: 128 numbers, and d and m of its group g at d[g * step], m[g * step]. */
struct expanded {
    int8_t *q; /* 16-byte aligned */
    float *d, *m;
    int step;
};

KDEV uint32_t word2(const uint8_t *p) /* on a multiple of 2 */
{
    return *(const uint16_t *)p | (uint32_t) * (const uint16_t *)(p + 2) << 16;
}

KDEV uint32_t word4(const uint8_t *p)
{
    return *(const uint32_t *)p;
}

KDEV float half_at(const uint8_t *p)
{
    return f16_to_f32(*(const uint16_t *)p);
}

KDEV void put4(int8_t *q, uint32_t v)
{
    *(uint32_t *)q = v;
}

KDEV void put16(int8_t *q, const uint32_t v[4])
{
    struct u32x4 all = {v[0], v[1], v[2], v[3]};
    store16(q, all);
}

/* Four bits, the lowest first, to bit 4 of four bytes. */
KDEV uint32_t fifth_bits(uint32_t four)
{
    return ((four & 15) * 0x00204081u & 0x01010101u) << 4;
}

/* The sixteen values of the non-linear types, for the eight nibbles of v: low ones in *lo, high ones in *hi. */
KDEV void iq4_values(uint32_t v, uint32_t *lo, uint32_t *hi)
{
    const uint32_t t0 = 0xbfad9881u, t1 = 0xf6eaddcfu, t2 = 0x26190d01u, t3 = 0x71594535u;
    uint32_t which = v & 0x77777777u, upper = v >> 1 & 0x44444444u;
    uint32_t a = byte_perm(byte_perm(t0, t1, which), byte_perm(t2, t3, which), 0x3210u | (upper & 0xffffu));
    uint32_t b =
        byte_perm(byte_perm(t0, t1, which >> 16), byte_perm(t2, t3, which >> 16), 0x3210u | (upper >> 16 & 0xffffu));
    *lo = byte_perm(a, b, 0x6420u);
    *hi = byte_perm(a, b, 0x7531u);
}

/* ---- types of blocks of 32: block i of the row is group i ---- */

KDEV void expand_32(enum k_type type, const uint8_t *b, int8_t *q, float *d, float *m)
{
    *d = half_at(b);
    uint32_t lo[4], hi[4];
    if (type == K_Q8_0) {
        for (int i = 0; i < 4; i++) {
            lo[i] = word2(b + 2 + 4 * i);
            hi[i] = word2(b + 18 + 4 * i);
        }
        put16(q, lo);
        put16(q + 16, hi);
        return;
    }
    bool min = type == K_Q4_1 || type == K_Q5_1, fifth = type == K_Q5_0 || type == K_Q5_1;
    uint32_t bits = 0;
    if (min)
        *m = -half_at(b + 2);
    b += min ? 4 : 2;
    if (fifth) {
        bits = word2(b);
        b += 4;
    }
    for (int i = 0; i < 4; i++) {
        uint32_t v = word2(b + 4 * i);
        lo[i] = v & 0x0f0f0f0fu;
        hi[i] = v >> 4 & 0x0f0f0f0fu;
        if (type == K_IQ4_NL)
            iq4_values(v, &lo[i], &hi[i]);
        if (fifth) {
            lo[i] |= fifth_bits(bits >> (4 * i));
            hi[i] |= fifth_bits(bits >> (4 * i + 16));
        }
        if (type == K_Q4_0 || type == K_Q5_0) {
            uint32_t offset = fifth ? 0x10101010u : 0x08080808u;
            lo[i] = sub4_s8(lo[i], offset);
            hi[i] = sub4_s8(hi[i], offset);
        }
    }
    put16(q, lo);
    put16(q + 16, hi);
}

/* ---- types of blocks of 256: half h of one, elements 128 h and up ---- */

KDEV void expand_q2_k(const uint8_t *b, int h, const struct expanded *e)
{
    float scale = half_at(b + 80), min = half_at(b + 82);
    for (int g = 0; g < 8; g++) {
        e->d[g * e->step] = scale * (float)(b[8 * h + g] & 15);
        e->m[g * e->step] = min * (float)(b[8 * h + g] >> 4);
    }
    for (int i = 0; i < 8; i++) {
        uint32_t v = word4(b + 16 + 32 * h + 4 * i);
        for (int layer = 0; layer < 4; layer++)
            put4(e->q + 32 * layer + 4 * i, v >> (2 * layer) & 0x03030303u);
    }
}

KDEV void expand_q3_k(const uint8_t *b, int h, const struct expanded *e)
{
    const uint8_t *s = b + 96;
    float scale = half_at(b + 108);
    for (int i = 0; i < 8; i++) {
        int g = 8 * h + i, low = s[i] >> (4 * h) & 15, high = s[8 + i % 4] >> (2 * (g / 4)) & 3;
        e->d[i * e->step] = scale * (float)((low | high << 4) - 32);
    }
    for (int i = 0; i < 8; i++) {
        uint32_t v = word2(b + 32 + 32 * h + 4 * i), third = word2(b + 4 * i) >> (4 * h);
        for (int layer = 0; layer < 4; layer++) {
            uint32_t q = (v >> (2 * layer) & 0x03030303u) | (third >> layer & 0x01010101u) << 2;
            put4(e->q + 32 * layer + 4 * i, sub4_s8(q, 0x04040404u));
        }
    }
}

/* Q4_K and Q5_K: the 6-bit scales and minima of the half's four groups, one to a byte. */
KDEV void scales_k(const uint8_t *b, int h, const struct expanded *e)
{
    uint32_t s0 = word4(b + 4), s1 = word4(b + 8), s2 = word4(b + 12);
    uint32_t scales = h ? (s2 & 0x0f0f0f0fu) | (s0 >> 2 & 0x30303030u) : s0 & 0x3f3f3f3fu;
    uint32_t minima = h ? (s2 >> 4 & 0x0f0f0f0fu) | (s1 >> 2 & 0x30303030u) : s1 & 0x3f3f3f3fu;
    float scale = half_at(b), min = half_at(b + 2);
    for (int i = 0; i < 4; i++) {
        e->d[i * e->step] = scale * (float)(scales >> (8 * i) & 255);
        e->m[i * e->step] = min * (float)(minima >> (8 * i) & 255);
    }
}

/* Its blocks, 144 bytes, lie on multiples of 16. */
KDEV void expand_q4_k(const uint8_t *b, int h, const struct expanded *e)
{
    scales_k(b, h, e);
    for (int i = 0; i < 4; i++) { /* 16 bytes: half of a pair of groups */
        struct u32x4 v = load16(b + 16 + 64 * h + 16 * i);
        uint32_t lo[4] = {v.x, v.y, v.z, v.w}, hi[4];
        for (int j = 0; j < 4; j++) {
            hi[j] = lo[j] >> 4 & 0x0f0f0f0fu;
            lo[j] &= 0x0f0f0f0fu;
        }
        int8_t *q = e->q + 64 * (i / 2) + 16 * (i & 1);
        put16(q, lo);
        put16(q + 32, hi);
    }
}

KDEV void expand_q5_k(const uint8_t *b, int h, const struct expanded *e)
{
    scales_k(b, h, e);
    for (int i = 0; i < 8; i++) {
        uint32_t fifth = word4(b + 16 + 4 * i) >> (4 * h);
        for (int p = 0; p < 2; p++) {
            int pair = 2 * h + p;
            uint32_t v = word4(b + 48 + 32 * pair + 4 * i);
            put4(e->q + 64 * p + 4 * i, (v & 0x0f0f0f0fu) | (fifth >> (2 * p) & 0x01010101u) << 4);
            put4(e->q + 64 * p + 32 + 4 * i, (v >> 4 & 0x0f0f0f0fu) | (fifth >> (2 * p + 1) & 0x01010101u) << 4);
        }
    }
}

KDEV void expand_q6_k(const uint8_t *b, int h, const struct expanded *e)
{
    float scale = half_at(b + 208);
    for (int g = 0; g < 8; g++)
        e->d[g * e->step] = scale * (float)(int8_t)b[192 + 8 * h + g];
    for (int i = 0; i < 2; i++) { /* 16 numbers of each layer */
        uint32_t layer[4][4];
        for (int j = 0; j < 4; j++) {
            const uint8_t *at = b + 64 * h + 16 * i + 4 * j;
            uint32_t even = word2(at), odd = word2(at + 32), high = word2(b + 128 + 32 * h + 16 * i + 4 * j);
            layer[0][j] = (even & 0x0f0f0f0fu) | (high & 0x03030303u) << 4;
            layer[1][j] = (odd & 0x0f0f0f0fu) | (high >> 2 & 0x03030303u) << 4;
            layer[2][j] = (even >> 4 & 0x0f0f0f0fu) | (high >> 4 & 0x03030303u) << 4;
            layer[3][j] = (odd >> 4 & 0x0f0f0f0fu) | (high >> 6 & 0x03030303u) << 4;
        }
        for (int l = 0; l < 4; l++) {
            for (int j = 0; j < 4; j++)
                layer[l][j] = sub4_s8(layer[l][j], 0x20202020u);
            put16(e->q + 32 * l + 16 * i, layer[l]);
        }
    }
}

KDEV float iq4_xs_scale(const uint8_t *b, int g)
{
    int low = b[4 + g / 2] >> (4 * (g & 1)) & 15, high = *(const uint16_t *)(b + 2) >> (2 * g) & 3;
    return half_at(b) * (float)((low | high << 4) - 32);
}

KDEV void expand_iq4_xs(const uint8_t *b, int h, const struct expanded *e)
{
    for (int g = 0; g < 4; g++) {
        e->d[g * e->step] = iq4_xs_scale(b, 4 * h + g);
        for (int i = 0; i < 4; i++) {
            uint32_t lo, hi;
            iq4_values(word4(b + 8 + 16 * (4 * h + g) + 4 * i), &lo, &hi);
            put4(e->q + 32 * g + 4 * i, lo);
            put4(e->q + 32 * g + 16 + 4 * i, hi);
        }
    }
}

/* Half h (elements 128 h to 128 h + 127) of the SLICE elements at `b`, of which only n, whole blocks, are the row's.
 * The branch on the type is the same for all threads. d and m of groups outside of n, and q there, stay as they
 * were. */
KDEV void blocks_expand(enum k_type type, const uint8_t *b, int h, int n, const struct expanded *e)
{
    switch (type) {
    case K_Q2_K: expand_q2_k(b, h, e); break;
    case K_Q3_K: expand_q3_k(b, h, e); break;
    case K_Q4_K: expand_q4_k(b, h, e); break;
    case K_Q5_K: expand_q5_k(b, h, e); break;
    case K_Q6_K: expand_q6_k(b, h, e); break;
    case K_IQ4_XS: expand_iq4_xs(b, h, e); break;
    default: {
        int bytes = type == K_Q8_0 ? 34 : type == K_Q5_1 ? 24 : type == K_Q5_0 ? 22 : type == K_Q4_1 ? 20 : 18;
        for (int g = 0; g < 4; g++)
            if (128 * h + 32 * g < n)
                expand_32(type, b + (4 * h + g) * bytes, e->q + 32 * g, &e->d[g * e->step], &e->m[g * e->step]);
    }
    }
}

/* ---- one element ---- */

KDEV float nibble_value(enum k_type type, const uint8_t *nibbles, uint32_t fifth, float d, float m, int i)
{
    int q = nibbles[i & 15] >> (i & 16 ? 4 : 0) & 15;
    if (type == K_IQ4_NL || type == K_IQ4_XS) {
        uint32_t lo, hi;
        iq4_values((uint32_t)q, &lo, &hi);
        return d * (float)(int8_t)(lo & 255);
    }
    q |= (int)(fifth >> i & 1) << 4;
    q -= type == K_Q4_0 ? 8 : type == K_Q5_0 ? 16 : 0;
    return d * (float)q - m;
}

KDEV float value_k(enum k_type type, const uint8_t *b, int k)
{
    int h = k / 128, layer = k / 32 & 3, i = k & 31, g = k / 16;
    switch (type) {
    case K_Q2_K:
        return half_at(b + 80) * (float)(b[g] & 15) * (float)(b[16 + 32 * h + i] >> (2 * layer) & 3) -
               half_at(b + 82) * (float)(b[g] >> 4);
    case K_Q3_K: {
        const uint8_t *s = b + 96;
        int low = s[g & 7] >> (4 * h) & 15, high = s[8 + (g & 3)] >> (2 * (g / 4)) & 3;
        int q = (b[32 + 32 * h + i] >> (2 * layer) & 3) | (b[i] >> (4 * h + layer) & 1) << 2;
        return half_at(b + 108) * (float)((low | high << 4) - 32) * (float)(q - 4);
    }
    case K_Q4_K:
    case K_Q5_K: {
        const uint8_t *s = b + 4;
        g = k / 32;
        int sd = g < 4 ? s[g] & 63 : (s[4 + g] & 15) | s[g - 4] >> 6 << 4;
        int sm = g < 4 ? s[4 + g] & 63 : s[4 + g] >> 4 | s[g] >> 6 << 4;
        int q = b[(type == K_Q4_K ? 16 : 48) + 32 * (g / 2) + i] >> (4 * (g & 1)) & 15;
        if (type == K_Q5_K)
            q |= (b[16 + i] >> g & 1) << 4;
        return half_at(b) * (float)sd * (float)q - half_at(b + 2) * (float)sm;
    }
    case K_Q6_K: {
        int q = (b[64 * h + 32 * (layer & 1) + i] >> (layer & 2 ? 4 : 0) & 15) |
                (b[128 + 32 * h + i] >> (2 * layer) & 3) << 4;
        return half_at(b + 208) * (float)(int8_t)b[192 + g] * (float)(q - 32);
    }
    default: return nibble_value(type, b + 8 + 16 * (k / 32), 0, iq4_xs_scale(b, k / 32), 0.0f, i);
    }
}

/* Element k of the row at `row`, of any supported type, dequantised as k_dequantise() does. Plain, and the ancestor
 * that the tests hold the fast forms to. */
KDEV float weight_at(enum k_type type, const uint8_t *row, int64_t k)
{
    const uint8_t *b = row;
    int i = (int)(k & 31);
    switch (type) {
    case K_F32: return ((const float *)row)[k];
    case K_F16: return f16_to_f32(((const uint16_t *)row)[k]);
    case K_BF16: return bf16_to_f32(((const uint16_t *)row)[k]);
    case K_Q8_0: b += k / 32 * 34; return half_at(b) * (float)(int8_t)b[2 + i];
    case K_Q4_0:
    case K_IQ4_NL: b += k / 32 * 18; return nibble_value(type, b + 2, 0, half_at(b), 0.0f, i);
    case K_Q4_1: b += k / 32 * 20; return nibble_value(type, b + 4, 0, half_at(b), -half_at(b + 2), i);
    case K_Q5_0: b += k / 32 * 22; return nibble_value(type, b + 6, word2(b + 2), half_at(b), 0.0f, i);
    case K_Q5_1: b += k / 32 * 24; return nibble_value(type, b + 8, word2(b + 4), half_at(b), -half_at(b + 2), i);
    case K_Q2_K: return value_k(type, row + k / 256 * 84, (int)(k & 255));
    case K_Q3_K: return value_k(type, row + k / 256 * 110, (int)(k & 255));
    case K_Q4_K: return value_k(type, row + k / 256 * 144, (int)(k & 255));
    case K_Q5_K: return value_k(type, row + k / 256 * 176, (int)(k & 255));
    case K_Q6_K: return value_k(type, row + k / 256 * 210, (int)(k & 255));
    default: return value_k(type, row + k / 256 * 136, (int)(k & 255));
    }
}

#endif
