/* A layer's experts, and those that all tokens share: products (matmul.cu) and the sum of what they made. For one
 * token the shared ones are more blocks of the launches of the chosen ones: three launches instead of six. More tokens'
 * pairs are sorted once for both products. */
#include "kernels/cuda/backend.h"
#include "kernels/cuda/matmul.cuh"

#define COMBINE_THREADS 256

struct combined {
    float *y;             /* [n_tok, dim] */
    const float *x;       /* [n_tok, n_used, dim] */
    const float *weights; /* [n_tok, n_used] */
    const float *extra;   /* [n_tok, dim], or NULL */
    int32_t n_used, dim;
    struct norm_after norm; /* of y */
};

/* y[t, i] += sum over j, ascending, of weights[t, j] * x[t, j, i]; then += extra[t, i]; then, by the last of a token's
 * blocks, the norm. Grid (n_tok, dim / 256), 256 threads. Bytes: 4 (n_used + 2) per output, and the norm's. */
KERNEL_BOUNDS(combine_kernel, COMBINE_THREADS, 2)(struct combined a)
{
    let_next_begin();
    wait_for_before();
    SHARED(struct norm_room, room, 1);
    const int64_t t = block_x();
    const int32_t i = block_y() * COMBINE_THREADS + thread_x(), dim = a.dim;
    if (i < dim) {
        float sum = a.y[t * dim + i];
        for (int64_t j = t * a.n_used; j < (t + 1) * a.n_used; j++)
            sum = fma_rn(a.weights[j], a.x[j * dim + i], sum);
        a.y[t * dim + i] = a.extra ? sum + a.extra[t * dim + i] : sum;
    }
    norm_by_last<COMBINE_THREADS>(a.norm, block_x(), grid_y(), a.y, 1, dim, room);
}

static enum k_status combine(struct k_ctx *c, struct combined *a, int32_t n_tok)
{
    const struct k_norm norm = a->norm.of;
    enum k_status s = k_check_combine(a->y, a->x, a->weights, a->n_used, a->dim, n_tok);
    if (s == K_OK && norm.y)
        s = k_check_norm(norm.y, a->y, norm.w, n_tok, a->dim, a->dim);
    if (s == K_OK && n_tok > 0)
        a->norm.arrived = cuda_arrived(c, &s);
    if (s != K_OK || n_tok == 0)
        return s;
    if (n_tok > CUDA_ARRIVED) /* the norm by itself */
        a->norm.of.y = NULL;
    const struct grid3 grid = grid_of(n_tok, (a->dim + COMBINE_THREADS - 1) / COMBINE_THREADS);
    s = cuda_note(c, launch_early(c->stream, c->early, combine_kernel, grid, COMBINE_THREADS, 0, *a));
    if (s != K_OK || norm.y == a->norm.of.y)
        return s;
    return cuda_rms_norm(c, norm.y, a->y, norm.w, n_tok, a->dim, a->dim, norm.eps);
}

enum k_status cuda_combine_experts(struct k_ctx *c, float *y, const float *x, const float *weights, int32_t n_used,
                                   int32_t dim, int32_t n_tok)
{
    struct combined a = {y, x, weights, NULL, n_used, dim, {}};
    return combine(c, &a, n_tok);
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

/* What the chosen experts made goes to y; the shared ones' with it, or they and the norm follow. */
static enum k_status combine_moe(struct k_ctx *c, float *y, const struct k_moe *m, bool with_shared, int32_t n_tok)
{
    struct combined a = {y, m->out, m->weights, with_shared ? m->shared_out : NULL, m->n_used, 0, {}};
    a.dim = (int32_t)m->down_exps->ne[1];
    if (with_shared || !m->gate)
        a.norm.of = m->norm;
    return combine(c, &a, n_tok);
}

/* K_UNSUPPORTED: not these types, nothing was done. */
static enum k_status moe_one_token(struct k_ctx *c, float *y, const struct k_moe *m, enum k_precision p)
{
    const struct moe_products all = products_of(m);
    enum k_status s = mul_experts_and_shared(c, &all.gated, m->x, false, &all.shared_gated, m->x, m->ids, m->n_used, p);
    if (s == K_OK)
        s = mul_experts_and_shared(c, &all.down, m->hidden, true, &all.shared_down, m->shared_hidden, m->ids, m->n_used,
                                   p);
    return s != K_OK ? s : combine_moe(c, y, m, true, 1);
}

enum k_status cuda_moe(struct k_ctx *c, float *y, const struct k_moe *m, int32_t n_tok, enum k_precision p)
{
    const struct moe_products all = products_of(m);
    enum k_status s = m->gate && n_tok == 1 ? moe_one_token(c, y, m, p) : K_UNSUPPORTED;
    if (s != K_UNSUPPORTED)
        return s;
    struct mul_experts e = {m->ids, m->n_used, n_tok, p, {}};
    s = mul_by_experts(c, &e, &all.gated, m->x, false);
    if (s == K_OK)
        s = mul_by_experts(c, &e, &all.down, m->hidden, true);
    if (s == K_OK)
        s = combine_moe(c, y, m, false, n_tok);
    if (s != K_OK || !m->gate)
        return s;
    const struct k_added down = {y, m->shared_hidden, m->down->ne[0], m->down, m->norm};
    s = cuda_matmul(c, &all.shared_gated, 1, m->x, m->gate->ne[0], n_tok, p);
    return s != K_OK ? s : cuda_matmul_add(c, &down, n_tok, p);
}
