/* Attention for every pool and shape, in float32 throughout: what the tensor cores cannot take (F32 pools, heads of odd
 * sizes), and the plain ancestor of attention_tile.cu for the tests. Right before fast: each head reads its keys for
 * itself. */
#include "kernels/cuda/attention.cuh"

#define THREADS 128
#define WARPS   (THREADS / WARP)

KDEV float pool_element(enum k_type type, const uint8_t *row, int32_t i)
{
    if (type == K_F32)
        return ((const float *)row)[i];
    if (type == K_F16)
        return f16_to_f32(((const uint16_t *)row)[i]);
    const uint8_t *block = row + i / 32 * 34;
    return f16_to_f32(*(const uint16_t *)block) * (float)(int8_t)block[2 + i % 32];
}

/* Scores of the page's n positions: a warp per position, lanes over the elements. */
KDEV void score_page(float *scores, const float *q, const struct attn_args &a, const uint8_t *page, int32_t key,
                     int32_t n)
{
    for (int32_t j = warp_of_block(); j < n; j += WARPS) {
        const uint8_t *row = page + (int64_t)j * a.row_bytes;
        float sum = 0.0f;
        for (int32_t i = lane(); i < a.d_k; i += WARP)
            sum = fma_rn(q[i], pool_element(a.kv_type, row, key + i), sum);
        sum = warp_sum(sum);
        if (lane() == 0)
            scores[j] = sum * a.scale;
    }
}

/* Grid (n_tok, n_head), 128 threads. Shared: the query, 64 scores, the weighed values.
 * Bytes per call: (pos + 1) * (d_k + d_v) * element per token and head, from L2 for all heads of a group but the first;
 * flops 2 * (pos + 1) * (d_k + d_v). Bound by latency: a barrier per page. */
KERNEL(attention_plain_kernel)(struct attn_args a)
{
    let_next_begin();
    wait_for_before();
    SHARED_DYN(float, q);
    float *out = q + a.d_k, *scores = out + a.d_v;
    const int32_t token = block_x(), head = block_y(), kv_head = head / a.group;
    const int32_t key = a.key_at + kv_head * a.key_step, value = a.value_at + kv_head * a.value_step;
    const int64_t row = (int64_t)token * a.n_head + head;
    const int32_t pos = a.tokens.pos[token];
    if (token_is_padding(a.tokens, token))
        return;
    float max = ATTN_NONE, sum = 0.0f;

    for (int32_t i = thread_x(); i < a.d_k; i += THREADS)
        q[i] = a.q[row * a.d_k + i];
    for (int32_t i = thread_x(); i < a.d_v; i += THREADS)
        out[i] = 0.0f;
    sync_block();
    for (int32_t first = 0; first <= pos; first += K_PAGE_TOKENS) {
        const uint8_t *page = attn_page(a, token, first / K_PAGE_TOKENS);
        const int32_t n = pos + 1 - first < K_PAGE_TOKENS ? pos + 1 - first : K_PAGE_TOKENS;
        score_page(scores, q, a, page, key, n);
        sync_block();
        float old = max;
        for (int32_t j = 0; j < n; j++)
            max = scores[j] > max ? scores[j] : max;
        float keep = exp_exact(old - max), page_sum = 0.0f;
        sync_block(); /* all have read the scores */
        for (int32_t j = thread_x(); j < n; j += THREADS)
            scores[j] = exp_exact(scores[j] - max);
        sync_block();
        for (int32_t j = 0; j < n; j++)
            page_sum += scores[j];
        sum = fma_rn(sum, keep, page_sum);
        for (int32_t i = thread_x(); i < a.d_v; i += THREADS) {
            float v = out[i] * keep;
            for (int32_t j = 0; j < n; j++)
                v = fma_rn(scores[j], pool_element(a.kv_type, page + (int64_t)j * a.row_bytes, value + i), v);
            out[i] = v;
        }
        sync_block(); /* before the next page's scores */
    }
    for (int32_t i = thread_x(); i < a.d_v; i += THREADS)
        a.y[row * a.d_v + i] = out[i] / sum;
}

enum k_status attention_plain(const struct attn_env *env, const struct attn_args *a)
{
    size_t shared = (size_t)(a->d_k + a->d_v + K_PAGE_TOKENS) * sizeof(float);
    if (env->tokens.n_tok == 0)
        return K_OK;
    if (shared > env->shared_max)
        return K_BAD_SHAPE;
    return launch_early(env->stream, env->early, attention_plain_kernel, grid_of(env->tokens.n_tok, a->n_head), THREADS,
                        shared, *a);
}
