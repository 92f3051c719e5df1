/* The table of tensor types and the conversions of 16-bit floats. Sizes: GGUF specification. */
#include "kernels/ops.h"

#include <string.h>

#include "kernels/internal.h"

static const struct k_type_info types[K_TYPE_COUNT] = {
    [K_F32] = {"f32", 1, 4, true},         [K_F16] = {"f16", 1, 2, true},           [K_Q4_0] = {"q4_0", 32, 18, true},
    [K_Q4_1] = {"q4_1", 32, 20, true},     [K_Q5_0] = {"q5_0", 32, 22, true},       [K_Q5_1] = {"q5_1", 32, 24, true},
    [K_Q8_0] = {"q8_0", 32, 34, true},     [K_Q2_K] = {"q2_k", 256, 84, true},      [K_Q3_K] = {"q3_k", 256, 110, true},
    [K_Q4_K] = {"q4_k", 256, 144, true},   [K_Q5_K] = {"q5_k", 256, 176, true},     [K_Q6_K] = {"q6_k", 256, 210, true},
    [K_IQ4_NL] = {"iq4_nl", 32, 18, true}, [K_IQ4_XS] = {"iq4_xs", 256, 136, true}, [K_BF16] = {"bf16", 1, 2, true},
};

static const struct quant_form forms[K_TYPE_COUNT] = {
    [K_Q4_0] = {32, 8, 4, false},  [K_Q4_1] = {32, 0, 4, true},      [K_Q5_0] = {32, 16, 5, false},
    [K_Q5_1] = {32, 0, 5, true},   [K_Q8_0] = {32, 128, 8, false},   [K_Q2_K] = {16, 0, 2, true},
    [K_Q3_K] = {16, 4, 3, false},  [K_Q4_K] = {32, 0, 4, true},      [K_Q5_K] = {32, 0, 5, true},
    [K_Q6_K] = {16, 32, 6, false}, [K_IQ4_NL] = {32, 128, 8, false}, [K_IQ4_XS] = {32, 128, 8, false},
};

const struct k_type_info *k_type_info(uint32_t type)
{
    return type < K_TYPE_COUNT && types[type].name ? &types[type] : NULL;
}

size_t k_row_bytes(uint32_t type, uint64_t n)
{
    const struct k_type_info *info = k_type_info(type);
    return info ? n / info->block_elems * info->block_bytes : 0;
}

const struct quant_form *k_quant_form(uint32_t type)
{
    return type < K_TYPE_COUNT && forms[type].group ? &forms[type] : NULL;
}

float k_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, body = (uint32_t)(h & 0x7fff) << 13, bits;
    if (body >= 0x0f800000) { /* infinity, or NaN made quiet as the hardware does */
        bits = body | 0x7f800000 | (body > 0x0f800000 ? 0x400000 : 0);
    } else if (body >= 0x00800000) {
        bits = body + 0x38000000; /* rebias the exponent, 127 - 15 */
    } else {
        float f = (float)(h & 0x3ff) * 0x1p-24f; /* subnormal: exact */
        memcpy(&bits, &f, sizeof bits);
    }
    bits |= sign;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

uint16_t k_f32_to_f16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (bits >> 13 & 0x1ff));
    if (bits >= 0x47800000) /* 65536 and up */
        return sign | 0x7c00;
    if (bits < 0x38800000) { /* subnormal half: adding 0.5 leaves the value rounded to multiples of 2^-24 */
        float body;
        memcpy(&body, &bits, sizeof body);
        body += 0.5f;
        memcpy(&bits, &body, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3f000000));
    }
    bits += 0xfff + (bits >> 13 & 1); /* to nearest even; a carry moves into the exponent, at worst to infinity */
    return (uint16_t)(sign | (bits - 0x38000000) >> 13);
}
