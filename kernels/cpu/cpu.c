/* The CPU backend's table: context, and the operations that are a loop over rows. Products are in matmul.c, attention
 * in attention.c, rotary embedding in rope.c, the inner kernels behind isa.h. */
#include "kernels/cpu/cpu.h"

#include <stdlib.h>
#include <string.h>

/* Elements an item of an elementwise operation takes; what is smaller is not worth waking a thread for. */
#define ITEM_ELEMS 8192

size_t cpu_place(size_t *total, size_t bytes)
{
    size_t at = *total;
    *total += (bytes + 63) / 64 * 64;
    return at;
}

void *cpu_scratch(struct scratch *s, size_t bytes)
{
    if (bytes > s->bytes || !s->data) {
        size_t rounded = (bytes + 63) / 64 * 64 + 64;
        free(s->data);
        s->data = aligned_alloc(64, rounded);
        s->bytes = s->data ? rounded : 0;
    }
    return s->data;
}

struct k_ctx *cpu_ctx_new_isa(int threads, const char *isa)
{
    const struct isa *found = isa_find(isa);
    struct k_ctx *c = found ? calloc(1, sizeof *c) : NULL;
    if (!c)
        return NULL;
    c->isa = found;
    c->pairs = pairs_find();
    c->pool = pool_new(threads < 1 ? 1 : threads);
    if (!c->pool) {
        free(c);
        return NULL;
    }
    return c;
}

static struct k_ctx *cpu_ctx_new(int threads, int device)
{
    (void)device;
    return cpu_ctx_new_isa(threads, NULL);
}

static void cpu_ctx_free(struct k_ctx *c)
{
    if (!c)
        return;
    pool_free(c->pool);
    free(c->shared.data);
    free(c->per_thread.data);
    free(c->rope.values.data);
    free(c->rope.positions.data);
    free(c->rope.inv_freq.data);
    free(c);
}

/* One class for all instruction sets: they agree bit for bit (isa.h). */
static const char *cpu_numerics(const struct k_ctx *c)
{
    (void)c;
    return "cpu-1";
}

bool cpu_has_precision(const struct k_ctx *c, enum k_precision p)
{
    return p != K_FAST_BF16 || c->pairs != NULL;
}

/* Arguments of the operations below, as the items see them. */
struct rows_job {
    const struct isa *isa;
    float *y;
    const float *x, *w;
    int64_t n, stride;
    int32_t dim, n_used, offset, n_items;
    float eps;
    const struct k_tensor *tensor;
    const int32_t *ids_in;
    int32_t *ids;
    const struct k_router *router;
    const struct k_kv_pool *kv;
    const struct k_token_ref *tok;
    float *scratch;
};

static void get_row_item(void *arg, int thread, int64_t t)
{
    (void)thread;
    const struct rows_job *job = arg;
    const struct k_tensor *w = job->tensor;
    const uint8_t *row = (const uint8_t *)w->data + (size_t)job->ids_in[t] * k_row_bytes(w->type, (uint64_t)w->ne[0]);
    k_dequantise(job->y + t * w->ne[0], row, w->type, w->ne[0]);
}

static enum k_status cpu_get_rows(struct k_ctx *c, float *y, const struct k_tensor *w, const int32_t *ids,
                                  int32_t n_tok)
{
    enum k_status status = k_check_get_rows(y, w, ids, n_tok);
    struct rows_job job = {.y = y, .tensor = w, .ids_in = ids};
    if (status == K_OK)
        pool_run(c->pool, get_row_item, &job, n_tok);
    return status;
}

static void norm_item(void *arg, int thread, int64_t item)
{
    (void)thread;
    const struct rows_job *job = arg;
    int64_t rows = job->n / job->n_items + 1, begin = item * rows;
    for (int64_t r = begin; r < begin + rows && r < job->n; r++)
        job->isa->rms_norm(job->y + r * job->stride, job->x + r * job->stride, job->w, job->dim, job->eps);
}

static enum k_status cpu_rms_norm(struct k_ctx *c, float *y, const float *x, const float *w, int64_t rows, int32_t dim,
                                  int32_t stride, float eps)
{
    enum k_status status = k_check_norm(y, x, w, rows, dim, stride);
    if (status != K_OK || rows == 0)
        return status;
    struct rows_job job = {.isa = c->isa, .y = y, .x = x, .w = w, .n = rows, .stride = stride, .dim = dim, .eps = eps};
    int64_t items = rows * dim / ITEM_ELEMS + 1;
    job.n_items = (int32_t)(items < rows ? items : rows);
    pool_run(c->pool, norm_item, &job, job.n_items);
    return K_OK;
}

static void route_item(void *arg, int thread, int64_t t)
{
    const struct rows_job *job = arg;
    const struct k_router *r = job->router;
    k_route_token(job->ids + t * r->n_used, job->y + t * r->n_used, job->x + t * r->n_expert, r,
                  job->scratch + (int64_t)thread * 2 * r->n_expert);
}

static enum k_status cpu_route(struct k_ctx *c, int32_t *ids, float *weights, const float *logits,
                               const struct k_router *r, int32_t n_tok)
{
    enum k_status status = k_check_route(ids, weights, logits, r, n_tok);
    if (status != K_OK)
        return status;
    struct rows_job job = {.ids = ids, .y = weights, .x = logits, .router = r};
    job.scratch =
        cpu_scratch(&c->per_thread, (size_t)pool_threads(c->pool) * 2 * (size_t)r->n_expert * sizeof *job.scratch);
    if (!job.scratch)
        return K_NO_MEMORY;
    pool_run(c->pool, route_item, &job, n_tok);
    return K_OK;
}

static void combine_item(void *arg, int thread, int64_t t)
{
    (void)thread;
    const struct rows_job *job = arg;
    for (int64_t j = t * job->n_used; j < (t + 1) * job->n_used; j++)
        job->isa->add_scaled(job->y + t * job->dim, job->x + j * job->dim, job->w[j], job->dim);
}

static enum k_status cpu_combine_experts(struct k_ctx *c, float *y, const float *x, const float *weights,
                                         int32_t n_used, int32_t dim, int32_t n_tok)
{
    enum k_status status = k_check_combine(y, x, weights, n_used, dim, n_tok);
    struct rows_job job = {.isa = c->isa, .y = y, .x = x, .w = weights, .n_used = n_used, .dim = dim};
    if (status == K_OK)
        pool_run(c->pool, combine_item, &job, n_tok);
    return status;
}

static void store_item(void *arg, int thread, int64_t t)
{
    (void)thread;
    const struct rows_job *job = arg;
    void *out = k_kv_row(job->kv, job->tok[t].page_ids, job->tok[t].pos);
    const float *row = job->x + t * job->stride;
    if (job->kv->type == K_Q8_0) /* one piece of scalar code for all, as the router: a row in a step is little */
        k_kv_quantise((uint8_t *)out + k_kv_offset(job->kv, job->offset), row, job->n);
    else if (job->kv->type == K_F32)
        memcpy((float *)out + job->offset, row, (size_t)job->n * sizeof *row);
    else
        job->isa->f32_to_f16((uint16_t *)out + job->offset, row, job->n);
}

static enum k_status cpu_kv_store(struct k_ctx *c, const struct k_kv_pool *kv, const float *rows, int64_t stride,
                                  int32_t offset, int32_t n, const struct k_token_ref *tok, int32_t n_tok)
{
    enum k_status status = k_check_store(kv, rows, stride, offset, n, tok, n_tok);
    struct rows_job job = {.isa = c->isa, .kv = kv, .x = rows, .stride = stride, .offset = offset, .n = n, .tok = tok};
    if (status == K_OK)
        for (int64_t t = 0; t < n_tok; t++)
            store_item(&job, 0, t);
    return status;
}

static void silu_item(void *arg, int thread, int64_t item)
{
    (void)thread;
    const struct rows_job *job = arg;
    int64_t at = item * ITEM_ELEMS, n = job->n - at < ITEM_ELEMS ? job->n - at : ITEM_ELEMS;
    job->isa->silu_mul(job->y + at, job->x + at, job->w + at, n);
}

static enum k_status cpu_silu_mul(struct k_ctx *c, float *y, const float *gate, const float *up, int64_t n)
{
    enum k_status status = k_check_values(y, gate, up, n);
    struct rows_job job = {.isa = c->isa, .y = y, .x = gate, .w = up, .n = n};
    if (status == K_OK)
        pool_run(c->pool, silu_item, &job, (n + ITEM_ELEMS - 1) / ITEM_ELEMS);
    return status;
}

static void add_item(void *arg, int thread, int64_t item)
{
    (void)thread;
    const struct rows_job *job = arg;
    int64_t at = item * ITEM_ELEMS, n = job->n - at < ITEM_ELEMS ? job->n - at : ITEM_ELEMS;
    job->isa->add(job->y + at, job->x + at, n);
}

static enum k_status cpu_add(struct k_ctx *c, float *y, const float *x, int64_t n)
{
    enum k_status status = k_check_values(y, x, x, n);
    struct rows_job job = {.isa = c->isa, .y = y, .x = x, .n = n};
    if (status == K_OK)
        pool_run(c->pool, add_item, &job, (n + ITEM_ELEMS - 1) / ITEM_ELEMS);
    return status;
}

const struct k_ops k_cpu_ops = {
    .name = "cpu",
    .ctx_new = cpu_ctx_new,
    .ctx_free = cpu_ctx_free,
    .numerics = cpu_numerics,
    .has_precision = cpu_has_precision,
    .buf_new = k_host_buf_new,
    .buf_free = k_host_buf_free,
    .put = k_host_put,
    .get = k_host_put,
    .send = k_host_put,
    .fetch = k_host_put,
    .copy_rows = k_host_copy_rows,
    .step_begin = k_host_step_begin,
    .step_end = k_host_step_end,
    .get_rows = cpu_get_rows,
    .rms_norm = cpu_rms_norm,
    .matmul = cpu_matmul,
    .matmul_heads = cpu_matmul_heads,
    .matmul_experts = cpu_matmul_experts,
    .route = cpu_route,
    .combine_experts = cpu_combine_experts,
    .rope = cpu_rope,
    .kv_store = cpu_kv_store,
    .attention_gqa = cpu_attention_gqa,
    .attention_mla = cpu_attention_mla,
    .silu_mul = cpu_silu_mul,
    .add = cpu_add,
};
