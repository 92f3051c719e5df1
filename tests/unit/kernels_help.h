/* What the kernel tests share: a fixed random stream, random weights of each type, and whole pools of pages. */
#ifndef TESTS_UNIT_KERNELS_HELP_H
#define TESTS_UNIT_KERNELS_HELP_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/ops.h"

static uint64_t help_state = 1;

static inline uint32_t help_bits(void)
{
    help_state = help_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(help_state >> 32);
}

/* Even in [-1, 1), a multiple of 2^-23. */
static inline float help_float(void)
{
    return (float)((int32_t)help_bits() >> 8) * 0x1p-23f;
}

static inline float *help_floats(int64_t n, float scale)
{
    float *x = (float *)malloc((size_t)n * sizeof *x + 64);
    for (int64_t i = 0; i < n; i++)
        x[i] = help_float() * scale;
    return x;
}

/* Five tokens at positions near and far, and frequencies of heads of up to 64 rotated elements. */
#define HELP_ROPE_TOK 5
static inline void help_rope(struct k_token_ref tok[HELP_ROPE_TOK], float inv_freq[32])
{
    static const int32_t positions[HELP_ROPE_TOK] = {0, 1, 77, 4095, 131071};
    for (int i = 0; i < 32; i++)
        inv_freq[i] = (float)pow(10000.0, -i / 32.0);
    for (int t = 0; t < HELP_ROPE_TOK; t++)
        tok[t] = (struct k_token_ref){NULL, positions[t]};
}

/* Byte offset of the first or second half-precision scale inside a block, -1 for none. */
static inline int help_half_at(enum k_type type, int which)
{
    switch (type) {
    case K_Q2_K: return which ? 82 : 80;
    case K_Q3_K: return which ? -1 : 108;
    case K_Q6_K: return which ? -1 : 208;
    case K_Q4_1:
    case K_Q5_1:
    case K_Q4_K:
    case K_Q5_K: return which ? 2 : 0;
    default: return which ? -1 : 0;
    }
}

/* A tensor of random blocks: any bits for the numbers, finite scales of about `scale`. Owned by the caller. */
static inline struct k_tensor help_tensor(enum k_type type, int64_t n0, int64_t n1, int64_t n2)
{
    const struct k_type_info *info = k_type_info(type);
    size_t bytes = k_row_bytes(type, (uint64_t)n0) * (size_t)(n1 * n2);
    uint8_t *data = (uint8_t *)malloc(bytes + 64);
    if (type == K_F32 || type == K_F16 || type == K_BF16) {
        for (int64_t i = 0; i < n0 * n1 * n2; i++) {
            float f = help_float();
            k_quantise(data + i * info->block_bytes, &f, type, 1);
        }
        return (struct k_tensor){data, type, {n0, n1, n2, 1}};
    }
    for (size_t i = 0; i < bytes; i++)
        data[i] = (uint8_t)help_bits();
    for (uint8_t *block = data; block < data + bytes; block += info->block_bytes)
        for (int i = 0; i < 2; i++)
            if (help_half_at(type, i) >= 0) {
                uint16_t h = k_f32_to_f16(help_float() * 0.01f);
                memcpy(block + help_half_at(type, i), &h, sizeof h);
            }
    return (struct k_tensor){data, type, {n0, n1, n2, 1}};
}

static inline void help_tensor_free(struct k_tensor *w)
{
    free((void *)(uintptr_t)w->data);
}

/* A pool of n_pages pages in scattered order; page_ids[i] is the page of positions 64 i and up. */
struct help_pool {
    struct k_kv_pool kv;
    int32_t *page_ids;
};

static inline struct help_pool help_pool_new(enum k_type type, int32_t row_elems, int32_t n_pages)
{
    size_t stride = K_PAGE_TOKENS * k_kv_row_bytes(type, row_elems) + 64;
    struct help_pool p = {{malloc(stride * (size_t)n_pages), type, row_elems, (int64_t)stride},
                          (int32_t *)malloc((size_t)n_pages * sizeof(int32_t))};
    memset(p.kv.data, 0xff, stride * (size_t)n_pages); /* NaN wherever nothing was stored */
    for (int32_t i = 0; i < n_pages; i++)
        p.page_ids[i] = n_pages - 1 - i;
    return p;
}

static inline void help_pool_free(struct help_pool *p)
{
    free(p->kv.data);
    free(p->page_ids);
}

static const enum k_type help_types[] = {K_F32,  K_F16,  K_BF16, K_Q8_0, K_Q4_0, K_Q4_1,   K_Q5_0,  K_Q5_1,
                                         K_Q2_K, K_Q3_K, K_Q4_K, K_Q5_K, K_Q6_K, K_IQ4_NL, K_IQ4_XS};
#define HELP_TYPES (sizeof help_types / sizeof help_types[0])

#endif
