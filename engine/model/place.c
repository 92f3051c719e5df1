/* Where an engine's weights are. A backend that works on the host's memory uses the model's tensors where they are
 * mapped. For one with memory of its own they are laid one after the other into a single buffer of it, and the engine
 * gets a copy of the layers that points there; the model itself, which other engines may share, stays as it is. Experts
 * that the device has no room for stay where they are mapped (placement.h decides, host_experts.c computes them).
 *
 * Before anything is taken the need is added up and held against what is free, so that what does not fit is refused
 * with the sizes that would. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "engine/model/model_internal.h"

#define PLACE_ALIGN 256                   /* what devices load from best */
#define RESERVE     ((uint64_t)256 << 20) /* a backend's own: partial results of attention, captured steps, choices */

/* ---- what there is to place ---- */

struct place {
    const void **slot; /* holds the host's address, then that in work memory */
    size_t bytes;
};
struct places {
    struct place *list; /* owned; grows */
    size_t n, room;
    uint64_t bytes; /* of the buffer */
};

static void add_place(struct places *p, const void **slot, uint64_t bytes)
{
    if (!*slot || bytes == 0)
        return;
    if (p->n == p->room) {
        p->room = p->room ? 2 * p->room : 256;
        p->list = spw_realloc(p->list, p->room * sizeof *p->list);
    }
    p->list[p->n++] = (struct place){slot, (size_t)bytes};
    p->bytes += (bytes + PLACE_ALIGN - 1) / PLACE_ALIGN * PLACE_ALIGN;
}

static void add_tensor(struct places *p, struct k_tensor *t)
{
    if (t->data)
        add_place(p, &t->data, k_row_bytes(t->type, (uint64_t)t->ne[0]) * (uint64_t)t->ne[1] * (uint64_t)t->ne[2]);
}

static void add_vector(struct places *p, const float **v, int64_t n)
{
    add_place(p, (const void **)v, (uint64_t)n * sizeof(float));
}

static void add_layer(struct places *p, struct layer *l, const struct hparams *hp)
{
    struct k_tensor *const tensors[] = {&l->wq,   &l->wk,   &l->wv, &l->wo,   &l->wq_a,   &l->wq_b, &l->wkv_a,
                                        &l->wk_b, &l->wv_b, &l->up, &l->gate, &l->router, &l->down};
    const struct {
        const float **v;
        int64_t n;
    } vectors[] = {{&l->attn_norm, hp->n_embd},    {&l->ffn_norm, hp->n_embd}, {&l->bq, l->wq.ne[1]},
                   {&l->bk, l->wk.ne[1]},          {&l->bv, l->wv.ne[1]},      {&l->q_norm, hp->d_k},
                   {&l->k_norm, hp->d_k},          {&l->q_a_norm, hp->q_lora}, {&l->kv_a_norm, hp->kv_lora},
                   {&l->router_bias, hp->n_expert}};
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++)
        add_tensor(p, tensors[i]);
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++)
        add_vector(p, vectors[i].v, vectors[i].n);
}

static void add_experts(struct places *p, struct layer *l)
{
    add_tensor(p, &l->gate_exps);
    add_tensor(p, &l->up_exps);
    add_tensor(p, &l->down_exps);
}

/* What is of no layer. */
static void add_ends(struct places *p, struct weights *w, const struct hparams *hp)
{
    add_tensor(p, &w->embd);
    add_vector(p, &w->output_norm, hp->n_embd);
    if (w->output.data != w->embd.data)
        add_tensor(p, &w->output);
    add_vector(p, &w->rope.inv_freq, hp->rope.d_rope / 2);
}

/* Everything that operations of the device read: what is of no layer, then layer by layer; first[i] is where part i begins. */
static void list_places(struct places *p, struct weights *w, const struct hparams *hp, int32_t first_host,
                        size_t *first)
{
    add_ends(p, w, hp);
    for (int32_t i = 0; i < hp->n_layer; i++) {
        first[i + 1] = p->n;
        add_layer(p, &w->layers[i], hp);
        if (i < first_host)
            add_experts(p, &w->layers[i]);
    }
    first[hp->n_layer + 1] = p->n;
}

static void borrow_weights(struct weights *w, const struct model *m)
{
    *w = (struct weights){
        .embd = m->embd, .output = m->output, .output_norm = m->output_norm, .layers = m->layers, .rope = m->hp.rope};
}

/* ---- whether it fits ---- */

static double gigabytes(uint64_t bytes)
{
    return (double)bytes * 1e-9;
}

/* What the backend takes besides what it is given: RESERVE, and for a step's tokens the activations of its widest
 * product once more, in the form that the weights want (2 bytes, or two forms of 1.4); a library's sums before they go
 * where they belong. */
static uint64_t backend_bytes(const struct engine *en)
{
    const struct hparams *hp = &en->m->hp;
    const int64_t inputs[] = {hp->n_embd, (int64_t)hp->n_head * hp->d_k, (int64_t)hp->n_head * hp->d_v,
                              (int64_t)hp->n_head * hp->kv_lora};
    int64_t hidden = hparams_hidden(hp), widest = hidden;
    for (size_t i = 0; i < sizeof inputs / sizeof inputs[0]; i++)
        widest = inputs[i] > widest ? inputs[i] : widest;
    return RESERVE + (uint64_t)en->max_batch_tokens * (uint64_t)(3 * widest + (en->library ? 4 * hidden : 0));
}

void engine_plan_fini(struct engine_plan *plan)
{
    free(plan->experts);
    free(plan->others);
    *plan = (struct engine_plan){0};
}

void weights_plan(struct engine_plan *plan, const struct engine *en, uint64_t device_bytes)
{
    const struct hparams *hp = &en->m->hp;
    size_t layers = (size_t)hp->n_layer;
    struct weights w;
    struct places p = {0};
    *plan = (struct engine_plan){.experts = spw_calloc(layers, sizeof *plan->experts),
                                 .others = spw_calloc(layers, sizeof *plan->others)};
    borrow_weights(&w, en->m);
    add_ends(&p, &w, hp);
    uint64_t ends = p.bytes;
    for (size_t i = 0; i < layers; i++) {
        uint64_t before = p.bytes;
        add_layer(&p, &w.layers[i], hp);
        plan->others[i] = p.bytes - before;
        add_experts(&p, &w.layers[i]);
        plan->experts[i] = p.bytes - before - plan->others[i];
    }
    free(p.list);
    plan->need = (struct placement_need){.n_layer = hp->n_layer,
                                         .experts = plan->experts,
                                         .others = plan->others,
                                         .ends = ends,
                                         .work = en->scratch_bytes + backend_bytes(en),
                                         .page = (uint64_t)en->page_stride,
                                         .pages = (uint64_t)en->n_pages,
                                         .pages_min = (uint64_t)en->pages_per_seq,
                                         .host_layers = en->host.wanted,
                                         .device = device_bytes};
    plan->is = placement_decide(&plan->need);
}

enum rc weights_decide(struct engine *en, struct error *e)
{
    size_t left = 0, total = 0;
    struct engine_plan plan;
    en->host.first = en->m->hp.n_layer;
    if (!en->ops->memory)
        return RC_OK;
    if (en->ops->memory(en->ctx, &left, &total) != K_OK)
        return error_set(e, RC_IO, "%s does not say how much memory it has: %s", en->ops->device_text(en->ctx),
                         en->ops->error_text(en->ctx));
    weights_plan(&plan, en, left);
    const struct placement_need *n = &plan.need;
    en->host.first = plan.is.first_host;
    en->host.bytes = plan.is.host_weights;
    enum rc rc = RC_OK;
    if (!plan.is.fits) {
        char text[160];
        placement_advise(text, sizeof text, n, &plan.is);
        rc = error_set(
            e, RC_FULL,
            "%s has %.1f GB free of %.1f GB; weights take %.1f GB, %d KV pages %.1f GB, work buffers %.1f GB: %s",
            en->ops->device_text(en->ctx), gigabytes(left), gigabytes(total), gigabytes(plan.is.device_weights),
            en->n_pages, gigabytes(n->page * n->pages), gigabytes(n->work), text);
    }
    engine_plan_fini(&plan);
    return rc;
}

/* ---- placing ---- */

/* Give every slot its place in the buffer, and make the list of copies. */
static struct k_copy *assign(const struct places *p, uint8_t *base)
{
    struct k_copy *copies = spw_calloc(p->n, sizeof *copies);
    uint64_t at = 0;
    for (size_t i = 0; i < p->n; i++) {
        copies[i] = (struct k_copy){.to = base + at, .from = *p->list[i].slot, .bytes = p->list[i].bytes};
        *p->list[i].slot = base + at;
        at += (p->list[i].bytes + PLACE_ALIGN - 1) / PLACE_ALIGN * PLACE_ALIGN;
    }
    return copies;
}

enum rc weights_place(struct engine *en, bool lazy, struct error *e)
{
    const struct model *m = en->m;
    struct places p = {0};
    borrow_weights(&en->w, m);
    if (!en->ops->put_many)
        return RC_OK;
    bool tied = en->w.output.data == en->w.embd.data;
    size_t layers = (size_t)m->hp.n_layer;
    en->layers_owned = spw_calloc(layers, sizeof *en->layers_owned);
    memcpy(en->layers_owned, m->layers, layers * sizeof *en->layers_owned);
    en->w.layers = en->layers_owned;
    size_t *first = spw_calloc(layers + 2, sizeof *first);
    list_places(&p, &en->w, &m->hp, en->host.first, first);
    en->placed_bytes = p.bytes;
    enum k_status s = en->ops->buf_new(en->ctx, &en->placed, p.bytes, K_BUF_WORK);
    if (s == K_OK) {
        struct k_copy *copies = assign(&p, en->placed);
        if (lazy) {
            en->upload = upload_new(en, copies, first);
            first = NULL;
        } else {
            s = en->ops->put_many(en->ctx, copies, p.n);
            free(copies);
        }
    }
    free(first);
    free(p.list);
    if (tied)
        en->w.output.data = en->w.embd.data;
    if (s != K_OK)
        return error_set(e, s == K_NO_MEMORY ? RC_FULL : RC_IO, "%s: %.1f GB of weights cannot be placed: %s",
                         en->ops->device_text(en->ctx), gigabytes(p.bytes), en->ops->error_text(en->ctx));
    return RC_OK;
}

void weights_unplace(struct engine *en)
{
    upload_free(en);
    if (en->placed)
        en->ops->buf_free(en->ctx, en->placed, en->placed_bytes, K_BUF_WORK);
    en->placed = NULL;
    free(en->layers_owned);
    en->layers_owned = NULL;
}
