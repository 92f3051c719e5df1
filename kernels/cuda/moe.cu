/* A layer's experts, and those that all tokens share: products (matmul.cu) and the sum of what they made. For one
 * token the shared ones are more blocks of the launches of the chosen ones: three launches instead of six. */
#include "kernels/cuda/backend.h"
#include "kernels/cuda/matmul.cuh"

#define COMBINE_THREADS 256

/* y[t, i] += sum over j, ascending, of weights[t, j] * x[t, j, i]; then += extra[t, i], where there is one.
 * Grid (n_tok, dim / 256), 256 threads. Bytes: 4 (n_used + 2) per output. */
KERNEL(combine_kernel)
(float *y, const float *x, const float *weights, const float *extra, int32_t n_used, int32_t dim)
{
    let_next_begin();
    const int64_t t = block_x();
    const int32_t i = block_y() * COMBINE_THREADS + thread_x();
    if (i >= dim)
        return;
    float sum = y[t * dim + i];
    for (int64_t j = t * n_used; j < (t + 1) * n_used; j++)
        sum = fma_rn(weights[j], x[j * dim + i], sum);
    y[t * dim + i] = extra ? sum + extra[t * dim + i] : sum;
}

static enum k_status combine(struct k_ctx *c, float *y, const float *x, const float *weights, const float *extra,
                             int32_t n_used, int32_t dim, int32_t n_tok)
{
    enum k_status s = k_check_combine(y, x, weights, n_used, dim, n_tok);
    if (s != K_OK || n_tok == 0)
        return s;
    return cuda_note(c, launch(c->stream, combine_kernel, grid_of(n_tok, (dim + COMBINE_THREADS - 1) / COMBINE_THREADS),
                               COMBINE_THREADS, 0, y, x, weights, extra, n_used, dim));
}

enum k_status cuda_combine_experts(struct k_ctx *c, float *y, const float *x, const float *weights, int32_t n_used,
                                   int32_t dim, int32_t n_tok)
{
    return combine(c, y, x, weights, NULL, n_used, dim, n_tok);
}

/* The products of a layer: gated ones, and those with what came of them. */
struct moe_products {
    struct k_product gated, down, shared_gated, shared_down;
};

static struct moe_products products_of(const struct k_moe *m)
{
    const struct moe_products p = {{m->hidden, m->gate_exps, NULL, m->up_exps},
                                   {m->out, m->down_exps, NULL, NULL},
                                   {m->shared_hidden, m->gate, NULL, m->up},
                                   {m->shared_out, m->down, NULL, NULL}};
    return p;
}

/* K_UNSUPPORTED: not these types, nothing was done. */
static enum k_status moe_one_token(struct k_ctx *c, float *y, const struct k_moe *m, enum k_precision p)
{
    const struct moe_products all = products_of(m);
    enum k_status s = mul_experts_and_shared(c, &all.gated, m->x, false, &all.shared_gated, m->x, m->ids, m->n_used, p);
    if (s == K_OK)
        s = mul_experts_and_shared(c, &all.down, m->hidden, true, &all.shared_down, m->shared_hidden, m->ids, m->n_used,
                                   p);
    return s != K_OK ? s : combine(c, y, m->out, m->weights, m->shared_out, m->n_used, (int32_t)m->down_exps->ne[1], 1);
}

enum k_status cuda_moe(struct k_ctx *c, float *y, const struct k_moe *m, int32_t n_tok, enum k_precision p)
{
    const struct moe_products all = products_of(m);
    enum k_status s = m->gate && n_tok == 1 ? moe_one_token(c, y, m, p) : K_UNSUPPORTED;
    if (s != K_UNSUPPORTED)
        return s;
    s = cuda_matmul_experts(c, &all.gated, m->x, false, m->ids, m->n_used, n_tok, p);
    if (s == K_OK)
        s = cuda_matmul_experts(c, &all.down, m->hidden, true, m->ids, m->n_used, n_tok, p);
    if (s == K_OK)
        s = combine(c, y, m->out, m->weights, NULL, m->n_used, (int32_t)m->down_exps->ne[1], n_tok);
    if (s != K_OK || !m->gate)
        return s;
    s = cuda_matmul(c, &all.shared_gated, 1, m->x, m->gate->ne[0], n_tok, p);
    return s != K_OK ? s : cuda_matmul_add(c, y, m->shared_hidden, m->down->ne[0], m->down, n_tok, p);
}
