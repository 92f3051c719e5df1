/* Dequantise: the definition of every tensor type, in scalar code. */
#include "kernels/expand.h"

typedef void expand_fn(const uint8_t *block, uint8_t *q, float *d, float *m);

/* clang-format off */
static expand_fn *const expand_table[K_TYPE_COUNT] = {
    [K_Q4_0] = expand_q4_0, [K_Q4_1] = expand_q4_1, [K_Q5_0] = expand_q5_0,     [K_Q5_1] = expand_q5_1,
    [K_Q8_0] = expand_q8_0, [K_Q2_K] = expand_q2_k, [K_Q3_K] = expand_q3_k,     [K_Q4_K] = expand_q4_k,
    [K_Q5_K] = expand_q5_k, [K_Q6_K] = expand_q6_k, [K_IQ4_NL] = expand_iq4_nl, [K_IQ4_XS] = expand_iq4_xs,
};
/* clang-format on */

static float bf16_to_f32(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static void dequantise_half(float *y, const uint8_t *data, uint32_t type, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, data + 2 * i, sizeof h);
        y[i] = type == K_F16 ? k_f16_to_f32(h) : bf16_to_f32(h);
    }
}

static void dequantise_block(float *y, const uint8_t *block, uint32_t type, const struct quant_form *form)
{
    uint8_t q[256];
    float d[16], m[16] = {0};
    expand_table[type](block, q, d, m);
    for (int i = 0; i < k_type_info(type)->block_elems; i++) {
        int g = i / form->group;
        y[i] = d[g] * (float)(q[i] - form->offset);
        if (form->has_min)
            y[i] -= m[g];
    }
}

enum k_status k_dequantise(float *y, const void *blocks, uint32_t type, int64_t n)
{
    const struct k_type_info *info = k_type_info(type);
    if (!info || !info->supported)
        return K_UNSUPPORTED;
    if (n < 0 || n % info->block_elems)
        return K_BAD_SHAPE;
    if (type == K_F32) {
        memcpy(y, blocks, (size_t)n * sizeof *y);
    } else if (type == K_F16 || type == K_BF16) {
        dequantise_half(y, blocks, type, n);
    } else {
        const struct quant_form *form = k_quant_form(type);
        const uint8_t *block = blocks;
        for (int64_t i = 0; i < n; i += info->block_elems, block += info->block_bytes)
            dequantise_block(y + i, block, type, form);
    }
    return K_OK;
}
