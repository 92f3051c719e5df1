/* Routed experts that a device has no room for: the CPU's operations compute them where they are mapped, while the
 * device goes on with what does not need them (the shared experts). What goes over the bus is a row per token there,
 * with the chosen ids and weights, and one back; the weighted sum over a token's experts is made here, in the order of
 * combine_experts().
 *
 * The numerics law holds as it does for the two backends: a token's row depends on that token alone. */
#include "engine/model/model_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

/* Pinned memory that the bus works on, and plain memory of a layer's products; one layer is computed at a time. */
struct host_rows {
    float *h;    /* [T, n_embd] */
    float *w;    /* [T, n_used] */
    int32_t *id; /* [T, n_used] */
    int32_t *n;  /* tokens, <= T */
    float *out;  /* [T, n_embd] */
};

/* One layer's part of a step: what the backend is given to call. */
struct host_layer {
    struct engine *en;
    int32_t index;
};

struct host_state {
    struct host_rows pinned;
    void *pinned_mem, *work_mem;
    size_t pinned_bytes, work_bytes;
    struct scratch work; /* gate and exp_out of it */
    struct host_layer *layers;
    int failed; /* enum k_status, the first failure; atomic: written by the backend's thread */
};

static void plan_pinned(struct carver *c, struct host_rows *r, const struct engine *en)
{
    const struct hparams *hp = &en->m->hp;
    int64_t t = en->max_batch_tokens;
    r->h = carve(c, t, hp->n_embd);
    r->w = carve(c, t, hp->n_used);
    r->id = carve(c, t, hp->n_used);
    r->n = carve(c, 1, 1);
    r->out = carve(c, t, hp->n_embd);
}

static void plan_work(struct carver *c, struct scratch *s, const struct engine *en)
{
    const struct hparams *hp = &en->m->hp;
    int64_t t = en->max_batch_tokens;
    s->gate = carve(c, t, (int64_t)hp->n_used * hp->n_ff_exp);
    s->exp_out = carve(c, t, (int64_t)hp->n_used * hp->n_embd);
}

enum rc host_experts_open(struct engine *en, int threads, struct error *e)
{
    int32_t n_layer = en->m->hp.n_layer;
    if (en->host.first >= n_layer)
        return RC_OK;
    struct host_state *st = en->host.state = spw_calloc(1, sizeof *st);
    en->host.ops = &k_cpu_ops;
    en->host.ctx = en->host.ops->ctx_new(threads, 0);
    if (!en->host.ctx)
        return error_set(e, RC_FULL, "no memory for the threads that compute experts on the host");
    struct carver pinned = {.fits = true}, work = {.fits = true};
    plan_pinned(&pinned, &st->pinned, en);
    plan_work(&work, &st->work, en);
    if (!pinned.fits || !work.fits || en->ops->buf_new(en->ctx, &st->pinned_mem, pinned.used, K_BUF_HOST) != K_OK ||
        en->host.ops->buf_new(en->host.ctx, &st->work_mem, work.used, K_BUF_WORK) != K_OK)
        return error_set(e, RC_FULL,
                         "no memory on the host for the experts of %d tokens in one step: lower max_batch_tokens",
                         en->max_batch_tokens);
    st->pinned_bytes = pinned.used, st->work_bytes = work.used;
    pinned = (struct carver){.base = st->pinned_mem, .fits = true};
    work = (struct carver){.base = st->work_mem, .fits = true};
    plan_pinned(&pinned, &st->pinned, en);
    plan_work(&work, &st->work, en);
    st->layers = spw_calloc((size_t)n_layer, sizeof *st->layers);
    for (int32_t i = 0; i < n_layer; i++)
        st->layers[i] = (struct host_layer){en, i};
    return RC_OK;
}

void host_experts_close(struct engine *en)
{
    struct host_state *st = en->host.state;
    if (!st)
        return;
    en->ops->buf_free(en->ctx, st->pinned_mem, st->pinned_bytes, K_BUF_HOST); /* waits for what uses it */
    if (en->host.ctx) {
        en->host.ops->buf_free(en->host.ctx, st->work_mem, st->work_bytes, K_BUF_WORK);
        en->host.ops->ctx_free(en->host.ctx);
    }
    free(st->layers);
    free(st);
    en->host.state = NULL;
}

/* A thread of the backend's. */
static void compute(void *arg)
{
    const struct host_layer *hl = arg;
    struct engine *en = hl->en;
    struct host_state *st = en->host.state;
    const struct hparams *hp = &en->m->hp;
    const struct host_rows *r = &st->pinned;
    const struct expert_job job = {.ops = en->host.ops,
                                   .ctx = en->host.ctx,
                                   .s = &st->work,
                                   .x = r->h,
                                   .ids = r->id,
                                   .n_used = hp->n_used,
                                   .n = *r->n,
                                   .precision = en->precision};
    const char *ignored;
    enum k_status s = graph_experts(&job, &en->w.layers[hl->index], &ignored);
    if (s == K_OK) {
        memset(r->out, 0, (size_t)job.n * (size_t)hp->n_embd * sizeof *r->out);
        s = job.ops->combine_experts(job.ctx, r->out, st->work.exp_out, r->w, hp->n_used, hp->n_embd, job.n);
    }
    int none = K_OK;
    if (s != K_OK)
        __atomic_compare_exchange_n(&st->failed, &none, (int)s, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

enum k_status host_experts_begin(struct engine *en, int32_t layer, int32_t n)
{
    struct host_state *st = en->host.state;
    const struct hparams *hp = &en->m->hp;
    const struct host_rows *r = &st->pinned;
    size_t rows = (size_t)n * (size_t)hp->n_embd * sizeof(float), chosen = (size_t)n * (size_t)hp->n_used * 4;
    const struct k_host_work w = {
        .out = {{r->h, en->s.h, rows},
                {r->id, en->s.rt_id, chosen},
                {r->w, en->s.rt_w, chosen},
                {r->n, en->s.counts + (layer == hp->n_layer - 1), sizeof *r->n}},
        .n_out = 4,
        .run = compute,
        .arg = &st->layers[layer],
        .back = {en->s.exp_out, r->out, rows},
    };
    return en->ops->host_begin(en->ctx, &w);
}

enum k_status host_experts_status(struct engine *en)
{
    struct host_state *st = en->host.state;
    return st ? (enum k_status)__atomic_exchange_n(&st->failed, K_OK, __ATOMIC_RELAXED) : K_OK;
}
