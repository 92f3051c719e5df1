/* Operations that know where a token stands: rotation, storing keys and values, and both as one for a token's
 * queries, keys and values. */
#include "kernels/cuda/internal.h"
#include "kernels/cuda/norm.cuh"

#define THREADS     128
#define BLOCK_HEADS 4 /* heads of queries that a block of place_gqa and place_mla rotates */
#define TOGETHER    8 /* elements that a thread asks for before it uses one */

/* cosine[half], then sine[half], of angles pos * inv_freq[i] in double, rounded once, as the reference. By all
 * threads, a barrier before they are read. */
KDEV void rope_angles(float *cosine, int32_t pos, const struct k_rope &r)
{
    const int32_t half = r.d_rope / 2;
    for (int32_t i = thread_x(); i < half; i += THREADS) {
        float s, c;
        sincos_exact((double)pos * (double)r.inv_freq[i], &s, &c);
        cosine[i] = c * r.magnitude;
        cosine[half + i] = s * r.magnitude;
    }
}

/* The d_rope rotated elements of n heads: from heads from_stride apart to heads to_stride apart, which may be the
 * same: so a thread asks for all that it rotates in a round before it writes any. */
KDEV void rotate_heads(float *to, int64_t to_stride, const float *from, int64_t from_stride, int32_t n,
                       const float *cosine, const struct k_rope &r)
{
    const int32_t half = r.d_rope / 2;
    for (int32_t first = thread_x(); first < n * half; first += TOGETHER * THREADS) {
        float va[TOGETHER], vb[TOGETHER];
#pragma unroll
        for (int e = 0; e < TOGETHER; e++) {
            const int32_t k = first + e * THREADS, i = k % half;
            if (k < n * half) {
                va[e] = from[k / half * from_stride + (r.style == K_ROPE_NEOX ? i : 2 * i)];
                vb[e] = from[k / half * from_stride + (r.style == K_ROPE_NEOX ? i + half : 2 * i + 1)];
            }
        }
#pragma unroll
        for (int e = 0; e < TOGETHER; e++) {
            const int32_t k = first + e * THREADS, i = k % half;
            if (k < n * half) {
                float *head = to + k / half * to_stride;
                head[r.style == K_ROPE_NEOX ? i : 2 * i] = fma_rn(va[e], cosine[i], -(vb[e] * cosine[half + i]));
                head[r.style == K_ROPE_NEOX ? i + half : 2 * i + 1] =
                    fma_rn(va[e], cosine[half + i], vb[e] * cosine[i]);
            }
        }
    }
}

/* Grid (n_tok), 128 threads. Shared: d_rope floats. Bytes: 8 per rotated element; with few tokens bound by the double
 * arithmetic of d_rope / 2 sines, some microseconds. */
KERNEL_BOUNDS(rope_kernel, THREADS, 4)
(float *x, int64_t row_stride, int32_t n_head, int32_t head_stride, const int32_t *pos, struct k_rope r)
{
    SHARED_DYN(float, cosine);
    rope_angles(cosine, pos[block_x()], r);
    sync_block();
    float *row = x + (int64_t)block_x() * row_stride + r.offset;
    rotate_heads(row, head_stride, row, head_stride, n_head, cosine, r);
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
    enum k_type type;
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

/* n floats to the token's row, as they are or rounded to halves. */
KDEV void store_floats(const struct store &s, int32_t t, const float *from, int32_t n)
{
    uint8_t *to = store_row(s, t);
    for (int32_t first = thread_x(); to && first < n; first += TOGETHER * THREADS) {
        float v[TOGETHER];
#pragma unroll
        for (int e = 0; e < TOGETHER; e++)
            if (first + e * THREADS < n)
                v[e] = from[first + e * THREADS];
#pragma unroll
        for (int e = 0; e < TOGETHER; e++) {
            const int32_t i = first + e * THREADS;
            if (i < n && s.type == K_F32)
                ((float *)to)[i] = v[e];
            else if (i < n)
                ((uint16_t *)to)[i] = f32_to_f16(v[e]);
        }
    }
}

/* Blocks of 32 with a half as scale, as k_kv_quantise() makes them: a warp per block, NaN counts as the lowest
 * number. */
KDEV void store_q8(const struct store &s, int32_t t, const float *from, int32_t n)
{
    uint8_t *to = store_row(s, t);
    for (int32_t b = warp_of_block(); to && b * 32 < n; b += THREADS / WARP) {
        const int32_t i = b * 32 + lane();
        const float v = i < n ? from[i] : 0.0f, magnitude = fabsf(v);
        const float largest = warp_max(magnitude == magnitude ? magnitude : 0.0f);
        const uint16_t half = f32_to_f16(fminf(largest / 127.0f, 65504.0f));
        const float d = f16_to_f32(half), ratio = d != 0.0f ? v / d : 0.0f;
        if (lane() == 0)
            *(uint16_t *)(to + b * K_Q8_0_BYTES) = half;
        to[b * K_Q8_0_BYTES + 2 + lane()] = (uint8_t)(int8_t)(int)rintf(fminf(fmaxf(ratio, -127.0f), 127.0f));
    }
}

KDEV void store_elements(const struct store &s, int32_t t, const float *from, int32_t n)
{
    if (s.type == K_Q8_0)
        store_q8(s, t, from, n);
    else
        store_floats(s, t, from, n);
}

/* Grid (n_tok), 128 threads. Bytes per element: 4 read, and 4, 2 or 34 / 32 written. */
KERNEL_BOUNDS(store_kernel, THREADS, 4)(struct store s, const float *rows, int64_t stride, int32_t n)
{
    store_elements(s, block_x(), rows + block_x() * stride, n);
}

/* Elements `offset` and up of a token's row. */
static struct store store_of(const struct k_kv_pool *kv, int32_t offset, const struct cuda_tokens *t)
{
    struct store s = {};
    s.data = (uint8_t *)kv->data, s.page_stride = kv->page_stride, s.type = kv->type;
    s.row_bytes = (int32_t)k_kv_row_bytes(kv->type, kv->row_elems), s.at = (int32_t)k_kv_offset(kv, offset);
    s.pos = t->pos, s.first = t->first, s.pages = t->pages;
    return s;
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
    return cuda_note(
        c, launch(c->stream, store_kernel, grid_of(n_tok), THREADS, 0, store_of(kv, offset, &t), rows, stride, n));
}

/* ---- a layer's queries, keys and values at once ---- */

/* How many of n_head heads, from block_y() = before on, are this block's; *first: the first of them. */
KDEV int32_t heads_of_block(int32_t n_head, int32_t before, int32_t *first)
{
    *first = (block_y() - before) * BLOCK_HEADS;
    return n_head - *first < BLOCK_HEADS ? n_head - *first : BLOCK_HEADS;
}

/* Grid (n_tok, 2 + n_head / 4), 128 threads: a block for the keys, one for the values, the others four heads of
 * queries each. Shared: d_rope floats. Bytes: 8 per rotated element, 6 per stored one (F16); bound by latency, of
 * which it saves four launches' worth: sines are computed by each block for itself, while the product before is at its
 * end. */
KERNEL_BOUNDS(place_gqa_kernel, THREADS, 4)
(struct k_gqa_rows rows, struct k_gqa a, struct k_rope r, struct store keys, struct store values)
{
    let_next_begin();
    SHARED_DYN(float, cosine);
    const int64_t t = block_x();
    if (block_y() == 1) {
        wait_for_before();
        store_elements(values, block_x(), rows.v + t * a.n_kv_head * a.d_v, a.n_kv_head * a.d_v);
        return;
    }
    rope_angles(cosine, keys.pos[t], r);
    wait_for_before();
    sync_block();
    if (block_y() == 0) {
        float *k = rows.k + t * a.n_kv_head * a.d_k;
        rotate_heads(k, a.d_k, k, a.d_k, a.n_kv_head, cosine, r);
        sync_block();
        store_elements(keys, block_x(), k, a.n_kv_head * a.d_k);
        return;
    }
    int32_t first;
    const int32_t n = heads_of_block(a.n_head, 2, &first);
    float *q = rows.q + (t * a.n_head + first) * a.d_k;
    rotate_heads(q, a.d_k, q, a.d_k, n, cosine, r);
}

enum k_status cuda_place_gqa(struct k_ctx *c, const struct k_kv_pool *kv, const struct k_gqa_rows *rows,
                             const struct k_gqa *a, const struct k_rope *r, const struct k_token_ref *tok,
                             int32_t n_tok)
{
    struct cuda_tokens t;
    enum k_status s = k_check_place_gqa(kv, rows, a, r, tok, n_tok);
    if (s != K_OK || n_tok == 0)
        return s;
    s = cuda_tokens(c, &t, tok, n_tok);
    if (s != K_OK)
        return s;
    return cuda_note(c, launch_early(c->stream, c->early, place_gqa_kernel,
                                     grid_of(n_tok, 2 + (a->n_head + BLOCK_HEADS - 1) / BLOCK_HEADS), THREADS,
                                     (size_t)r->d_rope * sizeof(float), *rows, *a, *r, store_of(kv, 0, &t),
                                     store_of(kv, a->n_kv_head * a->d_k, &t)));
}

/* Grid (n_tok, 1 + n_head / 4), 128 threads: a block for the keys, whose first warp norms the latent part while the
 * others rotate the rest; the others four heads of queries each. Shared: d_rope floats. Bound by latency, as above. */
KERNEL_BOUNDS(place_mla_kernel, THREADS, 4)
(struct k_mla_rows rows, struct k_mla a, struct k_rope r, struct store keys)
{
    let_next_begin();
    SHARED_DYN(float, cosine);
    const int64_t t = block_x();
    const int32_t wide = a.kv_lora + a.d_rope;
    rope_angles(cosine, keys.pos[t], r);
    wait_for_before();
    sync_block();
    if (block_y() == 0) {
        float *k = rows.k + t * wide;
        rotate_heads(k + a.kv_lora, wide, k + a.kv_lora, wide, 1, cosine, r);
        if (warp_of_block() == 0)
            norm_row_by_warp(k, k, rows.norm, a.kv_lora, rows.eps);
        sync_block();
        store_elements(keys, block_x(), k, wide);
        return;
    }
    int32_t first;
    const int32_t n = heads_of_block(a.n_head, 1, &first);
    rotate_heads(rows.q_abs + (t * a.n_head + first) * wide + a.kv_lora, wide,
                 rows.q + (t * a.n_head + first) * rows.d_q + r.offset, rows.d_q, n, cosine, r);
}

/* The norm of a row that is a block's, and so all of it one after the other. */
static enum k_status place_mla_apart(struct k_ctx *c, const struct k_kv_pool *kv, const struct k_mla_rows *rows,
                                     const struct k_mla *a, const struct k_rope *r, const struct k_token_ref *tok,
                                     int32_t n_tok)
{
    const int32_t wide = a->kv_lora + a->d_rope;
    struct k_rope rope_k = *r;
    rope_k.offset = a->kv_lora;
    enum k_status s = cuda_rms_norm(c, rows->k, rows->k, rows->norm, n_tok, a->kv_lora, wide, rows->eps);
    if (s == K_OK)
        s = cuda_rope(c, rows->k, wide, 1, wide, tok, n_tok, &rope_k);
    if (s == K_OK)
        s = cuda_kv_store(c, kv, rows->k, wide, 0, wide, tok, n_tok);
    if (s == K_OK)
        s = cuda_rope(c, rows->q, (int64_t)a->n_head * rows->d_q, a->n_head, rows->d_q, tok, n_tok, r);
    return s != K_OK ? s
                     : cuda_copy_rows(c, rows->q_abs + a->kv_lora, wide, rows->q + r->offset, rows->d_q,
                                      (int64_t)n_tok * a->n_head, a->d_rope);
}

enum k_status cuda_place_mla(struct k_ctx *c, const struct k_kv_pool *kv, const struct k_mla_rows *rows,
                             const struct k_mla *a, const struct k_rope *r, const struct k_token_ref *tok,
                             int32_t n_tok)
{
    struct cuda_tokens t;
    enum k_status s = k_check_place_mla(kv, rows, a, r, tok, n_tok);
    if (s != K_OK || n_tok == 0)
        return s;
    if (a->kv_lora > NORM_WARP_DIM_MAX)
        return place_mla_apart(c, kv, rows, a, r, tok, n_tok);
    s = cuda_tokens(c, &t, tok, n_tok);
    if (s != K_OK)
        return s;
    return cuda_note(c, launch_early(c->stream, c->early, place_mla_kernel,
                                     grid_of(n_tok, 1 + (a->n_head + BLOCK_HEADS - 1) / BLOCK_HEADS), THREADS,
                                     (size_t)r->d_rope * sizeof(float), *rows, *a, *r, store_of(kv, 0, &t)));
}
