/* Quantise by simple fits, one block at a time: good enough for synthetic models and tests. Each fit rounds against the
 * scale as it will be stored, so that what is written is the nearest number the block can hold. */
#include <math.h>
#include <string.h>

#include "kernels/internal.h"

static void store_half(uint8_t *p, uint16_t h)
{
    memcpy(p, &h, sizeof h);
}

/* f as a half that is finite, and the value it then has. */
static float finite_half(float f, uint8_t *p)
{
    uint16_t h = k_f32_to_f16(fminf(fmaxf(f, -65504.0f), 65504.0f));
    store_half(p, h);
    return k_f16_to_f32(h);
}

static int round_clamp(float f, int low, int high)
{
    return (int)rintf(fminf(fmaxf(f, (float)low), (float)high)); /* NaN becomes low */
}

/* x / d, or 0 when d is. */
static float ratio(float x, float d)
{
    return d != 0.0f ? x / d : 0.0f;
}

/* The element of largest magnitude, with its sign. */
static float extreme(const float *x, int n)
{
    float best = 0.0f;
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(best))
            best = x[i];
    return best;
}

static void quantise_q8_0(uint8_t *b, const float *x)
{
    float d = finite_half(fabsf(extreme(x, 32)) / 127.0f, b);
    for (int i = 0; i < 32; i++)
        b[2 + i] = (uint8_t)(int8_t)round_clamp(ratio(x[i], d), -127, 127);
}

void k_kv_quantise(uint8_t *blocks, const float *x, int64_t n)
{
    for (; n >= K_Q8_0_ELEMS; n -= K_Q8_0_ELEMS, x += K_Q8_0_ELEMS, blocks += K_Q8_0_BYTES)
        quantise_q8_0(blocks, x);
    if (n > 0) {
        float last[K_Q8_0_ELEMS] = {0};
        memcpy(last, x, (size_t)n * sizeof *x);
        quantise_q8_0(blocks, last);
    }
}

/* The extreme takes the lowest code, which has no positive partner. */
static void quantise_q4_0(uint8_t *b, const float *x)
{
    float d = finite_half(extreme(x, 32) / -8.0f, b);
    for (int i = 0; i < 16; i++) {
        int low = round_clamp(ratio(x[i], d), -8, 7) + 8, high = round_clamp(ratio(x[16 + i], d), -8, 7) + 8;
        b[2 + i] = (uint8_t)(low | high << 4);
    }
}

static void quantise_q5_0(uint8_t *b, const float *x)
{
    float d = finite_half(extreme(x, 32) / -16.0f, b);
    uint32_t fifth = 0;
    memset(b + 6, 0, 16);
    for (int i = 0; i < 32; i++) {
        uint32_t q = (uint32_t)(round_clamp(ratio(x[i], d), -16, 15) + 16);
        fifth |= (q >> 4) << i;
        b[6 + i % 16] |= (uint8_t)((q & 15) << (i < 16 ? 0 : 4));
    }
    memcpy(b + 2, &fifth, sizeof fifth);
}

/* Scales and minima of eight groups, rounded to 6 bits of one common half each. */
static void fit_scales_k(uint8_t *b, const float *x, int codes, float *d, float *m)
{
    float scale[8], min[8], scale_max = 0.0f, min_max = 0.0f;
    for (int g = 0; g < 8; g++) {
        float low = 0.0f, high = 0.0f;
        for (int i = 0; i < 32; i++) {
            low = fminf(low, x[g * 32 + i]);
            high = fmaxf(high, x[g * 32 + i]);
        }
        min[g] = -low;
        scale[g] = (high - low) / (float)codes;
        scale_max = fmaxf(scale_max, scale[g]);
        min_max = fmaxf(min_max, min[g]);
    }
    float unit_d = finite_half(scale_max / 63.0f, b), unit_m = finite_half(min_max / 63.0f, b + 2);
    memset(b + 4, 0, 12);
    for (int g = 0; g < 8; g++) {
        uint8_t sd = (uint8_t)round_clamp(ratio(scale[g], unit_d), 0, 63);
        uint8_t sm = (uint8_t)round_clamp(ratio(min[g], unit_m), 0, 63);
        d[g] = unit_d * (float)sd;
        m[g] = unit_m * (float)sm;
        if (g < 4) {
            b[4 + g] |= sd;
            b[8 + g] |= sm;
        } else {
            b[8 + g] |= (uint8_t)((sd & 15) | sm << 4);
            b[g] |= (uint8_t)(sd >> 4 << 6);
            b[4 + g] |= (uint8_t)(sm >> 4 << 6);
        }
    }
}

static void quantise_q4_k(uint8_t *b, const float *x)
{
    float d[8], m[8];
    fit_scales_k(b, x, 15, d, m);
    for (int g = 0; g < 8; g++)
        for (int i = 0; i < 32; i++) {
            uint8_t q = (uint8_t)round_clamp(ratio(x[g * 32 + i] + m[g], d[g]), 0, 15);
            uint8_t *out = &b[16 + g / 2 * 32 + i];
            *out = g % 2 ? (uint8_t)(*out | q << 4) : q;
        }
}

static void quantise_q6_k(uint8_t *b, const float *x)
{
    float scale[16], unit = 0.0f;
    for (int g = 0; g < 16; g++) {
        scale[g] = extreme(x + g * 16, 16) / -32.0f;
        unit = fmaxf(unit, fabsf(scale[g]));
    }
    memset(b, 0, 192);
    float d = finite_half(unit / 127.0f, b + 208);
    for (int i = 0; i < 256; i++) {
        int s = round_clamp(ratio(scale[i / 16], d), -128, 127);
        b[192 + i / 16] = (uint8_t)(int8_t)s;
        unsigned q = (unsigned)(round_clamp(ratio(x[i], d * (float)s), -32, 31) + 32);
        int half = i / 128, layer = i / 32 % 4, k = i % 32;
        b[half * 64 + layer % 2 * 32 + k] |= (uint8_t)((q & 15) << (layer / 2 * 4));
        b[128 + half * 32 + k] |= (uint8_t)((q >> 4) << (2 * layer));
    }
}

static void quantise_float(uint8_t *out, const float *x, uint32_t type, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        store_half(out + 2 * i, type == K_F16 ? k_f32_to_f16(x[i]) : k_f32_to_bf16(x[i]));
}

typedef void quantise_fn(uint8_t *block, const float *x);
static quantise_fn *const quantise_table[K_TYPE_COUNT] = {
    [K_Q8_0] = quantise_q8_0, [K_Q4_0] = quantise_q4_0, [K_Q5_0] = quantise_q5_0,
    [K_Q4_K] = quantise_q4_k, [K_Q6_K] = quantise_q6_k,
};

enum k_status k_quantise(void *blocks, const float *x, uint32_t type, int64_t n)
{
    const struct k_type_info *info = k_type_info(type);
    if (!info)
        return K_UNSUPPORTED;
    if (n < 0 || n % info->block_elems)
        return K_BAD_SHAPE;
    if (type == K_F32) {
        memcpy(blocks, x, (size_t)n * sizeof *x);
    } else if (type == K_F16 || type == K_BF16) {
        quantise_float(blocks, x, type, n);
    } else {
        if (!quantise_table[type])
            return K_UNSUPPORTED;
        for (int64_t i = 0; i < n / info->block_elems; i++)
            quantise_table[type]((uint8_t *)blocks + i * info->block_bytes, x + i * info->block_elems);
    }
    return K_OK;
}
