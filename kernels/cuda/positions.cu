/* Operations that know where a token stands: rotation, and storing keys and values. */
#include "kernels/cuda/internal.h"

#define THREADS 128

/* Angles pos * inv_freq[i] in double, sine and cosine rounded once, as the reference; then each head's pairs.
 * Grid (n_tok), 128 threads. Shared: d_rope floats. Bytes: 8 per rotated element; with few tokens bound by the double
 * arithmetic of d_rope / 2 sines, some microseconds. */
KERNEL_BOUNDS(rope_kernel, THREADS, 4)
(float *x, int64_t row_stride, int32_t n_head, int32_t head_stride, const int32_t *pos, struct k_rope r)
{
    SHARED_DYN(float, cosine);
    const int32_t half = r.d_rope / 2;
    float *sine = cosine + half;
    for (int32_t i = thread_x(); i < half; i += THREADS) {
        float s, c;
        sincos_exact((double)pos[block_x()] * (double)r.inv_freq[i], &s, &c);
        cosine[i] = c * r.magnitude;
        sine[i] = s * r.magnitude;
    }
    sync_block();
    float *row = x + (int64_t)block_x() * row_stride + r.offset;
    for (int32_t k = thread_x(); k < n_head * half; k += THREADS) {
        const int32_t i = k % half;
        float *head = row + (int64_t)(k / half) * head_stride;
        float *a = r.style == K_ROPE_NEOX ? &head[i] : &head[2 * i];
        float *b = r.style == K_ROPE_NEOX ? &head[i + half] : &head[2 * i + 1];
        const float va = *a, vb = *b;
        *a = fma_rn(va, cosine[i], -(vb * sine[i]));
        *b = fma_rn(va, sine[i], vb * cosine[i]);
    }
}

enum k_status cuda_rope(struct k_ctx *c, float *x, int64_t row_stride, int32_t n_head, int32_t head_stride,
                        const struct k_token_ref *tok, int32_t n_tok, const struct k_rope *r)
{
    struct cuda_tokens t;
    enum k_status s = k_check_rope(x, row_stride, n_head, head_stride, tok, n_tok, r);
    if (s != K_OK || n_tok == 0)
        return s;
    s = cuda_tokens(c, &t, tok, n_tok);
    if (s != K_OK)
        return s;
    return cuda_note(c, launch(c->stream, rope_kernel, grid_of(n_tok), THREADS, (size_t)r->d_rope * sizeof(float), x,
                               row_stride, n_head, head_stride, t.pos, *r));
}

/* What a store needs to find its row. */
struct store {
    uint8_t *data;
    int64_t page_stride;
    int32_t row_bytes, at; /* bytes: of a row, and into it */
    const int32_t *pos, *first, *pages;
};

/* NULL: of padding nothing is stored. */
KDEV uint8_t *store_row(const struct store &s, int32_t t)
{
    const int32_t pos = s.pos[t];
    const int32_t page = s.pages[s.first[t] + pos / K_PAGE_TOKENS];
    if (page == K_PAGE_NONE)
        return NULL;
    return s.data + page * s.page_stride + (int64_t)(pos % K_PAGE_TOKENS) * s.row_bytes + s.at;
}

/* Floats, as they are or rounded to halves. Grid (n_tok), 128 threads. Bytes: 4 read and 4 or 2 written per element. */
KERNEL_BOUNDS(store_floats_kernel, THREADS, 4)
(struct store s, enum k_type type, const float *rows, int64_t stride, int32_t n)
{
    uint8_t *to = store_row(s, block_x());
    for (int32_t i = thread_x(); to && i < n; i += THREADS) {
        const float v = rows[block_x() * stride + i];
        if (type == K_F32)
            ((float *)to)[i] = v;
        else
            ((uint16_t *)to)[i] = f32_to_f16(v);
    }
}

/* Blocks of 32 with a half as scale, as k_kv_quantise() makes them: a warp per block, NaN counts as the lowest number.
 * Grid (n_tok), 128 threads. Bytes: 4 read and 34 / 32 written per element. */
KERNEL_BOUNDS(store_q8_kernel, THREADS, 4)(struct store s, const float *rows, int64_t stride, int32_t n)
{
    uint8_t *to = store_row(s, block_x());
    for (int32_t b = warp_of_block(); to && b * 32 < n; b += THREADS / WARP) {
        const int32_t i = b * 32 + lane();
        const float v = i < n ? rows[block_x() * stride + i] : 0.0f, magnitude = fabsf(v);
        const float largest = warp_max(magnitude == magnitude ? magnitude : 0.0f);
        const uint16_t half = f32_to_f16(fminf(largest / 127.0f, 65504.0f));
        const float d = f16_to_f32(half), ratio = d != 0.0f ? v / d : 0.0f;
        if (lane() == 0)
            *(uint16_t *)(to + b * K_Q8_0_BYTES) = half;
        to[b * K_Q8_0_BYTES + 2 + lane()] = (uint8_t)(int8_t)(int)rintf(fminf(fmaxf(ratio, -127.0f), 127.0f));
    }
}

enum k_status cuda_kv_store(struct k_ctx *c, const struct k_kv_pool *kv, const float *rows, int64_t stride,
                            int32_t offset, int32_t n, const struct k_token_ref *tok, int32_t n_tok)
{
    struct cuda_tokens t;
    enum k_status s = k_check_store(kv, rows, stride, offset, n, tok, n_tok);
    if (s != K_OK || n_tok == 0)
        return s;
    s = cuda_tokens(c, &t, tok, n_tok);
    if (s != K_OK)
        return s;
    struct store at = {};
    at.data = (uint8_t *)kv->data, at.page_stride = kv->page_stride;
    at.row_bytes = (int32_t)k_kv_row_bytes(kv->type, kv->row_elems), at.at = (int32_t)k_kv_offset(kv, offset);
    at.pos = t.pos, at.first = t.first, at.pages = t.pages;
    if (kv->type == K_Q8_0)
        return cuda_note(c, launch(c->stream, store_q8_kernel, grid_of(n_tok), THREADS, 0, at, rows, stride, n));
    return cuda_note(c,
                     launch(c->stream, store_floats_kernel, grid_of(n_tok), THREADS, 0, at, kv->type, rows, stride, n));
}
