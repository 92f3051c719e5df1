/* The forward pass: which operation of kernels/ops.h follows which. No arithmetic of its own.
 *
 *   x = rows of the embedding
 *   per layer:  x += attention(norm(x));  x += ffn(norm(x))
 *   logits = output . norm(x), for the rows that want them
 *
 * Sources: Llama (arXiv 2302.13971), Qwen2 (2407.10671), DeepSeek-V2 section 2.1 (2405.04434), DeepSeek-V3 section 2.1
 * (2412.19437). MLA always works on the compressed cache with the up-projections absorbed, in prefill as in decode, so
 * that a token's result does not depend on how its context was computed. */
#include "engine/model/model_internal.h"

/* Name the operation for the message, run it, leave on failure. */
#define RUN(en, name, call)                                                                                            \
    do {                                                                                                               \
        (en)->op = (name);                                                                                             \
        enum k_status s_ = (call);                                                                                     \
        if (s_ != K_OK)                                                                                                \
            return s_;                                                                                                 \
    } while (0)

static enum k_status multiply(struct engine *en, float *y, const float *x, const struct k_tensor *w, int32_t n_tok)
{
    return k_matmul(en->ops, en->ctx, y, x, w->ne[0], w, NULL, n_tok, en->precision);
}

/* Products of s->h. */
static enum k_status multiply_all(struct engine *en, const struct k_product *products, int32_t n, int32_t n_tok)
{
    return en->ops->matmul(en->ctx, products, n, en->s.h, en->m->hp.n_embd, n_tok, en->precision);
}

static enum k_status norm(struct engine *en, float *y, const float *x, const float *w, int64_t rows, int32_t dim)
{
    return en->ops->rms_norm(en->ctx, y, x, w, rows, dim, dim, en->m->hp.eps);
}

/* What follows a block: the norm of its x for the next one, into s->h, or none. */
static struct k_norm norm_for(const struct engine *en, float *y, const float *w)
{
    return (struct k_norm){.y = y, .w = w, .eps = en->m->hp.eps};
}

static const struct k_norm nothing = {0};

static enum k_status norm_after(struct engine *en, const float *x, const struct k_norm *then, int32_t n)
{
    if (then->y)
        RUN(en, "norm", norm(en, then->y, x, then->w, n, en->m->hp.n_embd));
    return K_OK;
}

/* y += w . x */
static enum k_status multiply_add(struct engine *en, float *y, const float *x, const struct k_tensor *w,
                                  const struct k_norm *then, int32_t n_tok)
{
    if (en->ops->matmul_add) {
        const struct k_added added = {.y = y, .x = x, .x_stride = w->ne[0], .w = w, .norm = *then};
        return en->ops->matmul_add(en->ctx, &added, n_tok, en->precision);
    }
    enum k_status st = multiply(en, en->s.o, x, w, n_tok);
    if (st == K_OK)
        st = en->ops->add(en->ctx, y, en->s.o, (int64_t)n_tok * w->ne[1]);
    return st == K_OK ? norm_after(en, y, then, n_tok) : st;
}

/* Queries and keys are rotated, keys and values stored. */
static enum k_status place_gqa(struct engine *en, const struct k_kv_pool *kv, const struct k_gqa *shape, int32_t n)
{
    const struct hparams *hp = &en->m->hp;
    struct scratch *s = &en->s;
    const int32_t k_elems = hp->n_kv_head * hp->d_k, v_elems = hp->n_kv_head * hp->d_v;
    if (en->ops->place_gqa) {
        const struct k_gqa_rows rows = {.q = s->q, .k = s->k, .v = s->v};
        RUN(en, "placing q, k and v", en->ops->place_gqa(en->ctx, kv, &rows, shape, &en->w.rope, en->toks, n));
        return K_OK;
    }
    RUN(en, "rope of q",
        en->ops->rope(en->ctx, s->q, (int64_t)hp->n_head * hp->d_k, hp->n_head, hp->d_k, en->toks, n, &en->w.rope));
    RUN(en, "rope of k", en->ops->rope(en->ctx, s->k, k_elems, hp->n_kv_head, hp->d_k, en->toks, n, &en->w.rope));
    RUN(en, "storing k", en->ops->kv_store(en->ctx, kv, s->k, k_elems, 0, k_elems, en->toks, n));
    RUN(en, "storing v", en->ops->kv_store(en->ctx, kv, s->v, v_elems, k_elems, v_elems, en->toks, n));
    return K_OK;
}

/* s->h -> added to s->x */
static enum k_status attention_gqa(struct engine *en, const struct layer *l, const struct k_kv_pool *kv,
                                   const struct k_norm *then, int32_t n)
{
    const struct hparams *hp = &en->m->hp;
    struct scratch *s = &en->s;
    struct k_gqa shape = {
        .n_head = hp->n_head, .n_kv_head = hp->n_kv_head, .d_k = hp->d_k, .d_v = hp->d_v, .scale = hp->attn_scale};
    const struct k_product qkv[] = {
        {s->q, &l->wq, l->bq, NULL}, {s->k, &l->wk, l->bk, NULL}, {s->v, &l->wv, l->bv, NULL}};
    RUN(en, "attn_q, attn_k and attn_v", multiply_all(en, qkv, 3, n));
    if (hp->qk_norm) {
        RUN(en, "attn_q_norm", norm(en, s->q, s->q, l->q_norm, (int64_t)n * hp->n_head, hp->d_k));
        RUN(en, "attn_k_norm", norm(en, s->k, s->k, l->k_norm, (int64_t)n * hp->n_kv_head, hp->d_k));
    }
    enum k_status st = place_gqa(en, kv, &shape, n);
    if (st != K_OK)
        return st;
    RUN(en, "attention", en->ops->attention_gqa(en->ctx, s->att, s->q, kv, &shape, en->toks, n));
    RUN(en, "attn_output", multiply_add(en, s->x, s->att, &l->wo, then, n));
    return K_OK;
}

/* s->h -> queries s->q [n, n_head, nope | rope], not yet rotated, and s->k, what is common to all heads. */
static enum k_status mla_inputs(struct engine *en, const struct layer *l, int32_t n)
{
    const struct hparams *hp = &en->m->hp;
    struct scratch *s = &en->s;
    const bool direct = hp->q_lora == 0;
    const struct k_product both[] = {{direct ? s->q : s->q_a, direct ? &l->wq : &l->wq_a, NULL, NULL},
                                     {s->k, &l->wkv_a, NULL, NULL}};
    RUN(en, direct ? "attn_q and attn_kv_a" : "attn_q_a and attn_kv_a", multiply_all(en, both, 2, n));
    if (direct)
        return K_OK;
    RUN(en, "attn_q_a_norm", norm(en, s->q_a, s->q_a, l->q_a_norm, n, hp->q_lora));
    RUN(en, "attn_q_b", multiply(en, s->q, s->q_a, &l->wq_b, n));
    return K_OK;
}

/* What is common to all heads is normed, rotated and stored; queries are rotated, and this part of them copied behind
 * where attn_k_b leaves the absorbed part of each head. */
static enum k_status place_mla(struct engine *en, const struct layer *l, const struct k_kv_pool *kv,
                               const struct k_mla *shape, int32_t n)
{
    const struct hparams *hp = &en->m->hp;
    struct scratch *s = &en->s;
    const int32_t wide = hp->kv_lora + hp->rope.d_rope;
    struct k_rope rope_k = en->w.rope;
    rope_k.offset = hp->kv_lora;
    if (en->ops->place_mla) {
        const struct k_mla_rows rows = {
            .q = s->q, .d_q = hp->d_k, .k = s->k, .norm = l->kv_a_norm, .eps = hp->eps, .q_abs = s->q_abs};
        RUN(en, "placing q and k", en->ops->place_mla(en->ctx, kv, &rows, shape, &en->w.rope, en->toks, n));
        return K_OK;
    }
    RUN(en, "rope of q",
        en->ops->rope(en->ctx, s->q, (int64_t)hp->n_head * hp->d_k, hp->n_head, hp->d_k, en->toks, n, &en->w.rope));
    RUN(en, "attn_kv_a_norm", en->ops->rms_norm(en->ctx, s->k, s->k, l->kv_a_norm, n, hp->kv_lora, wide, hp->eps));
    RUN(en, "rope of k", en->ops->rope(en->ctx, s->k, wide, 1, wide, en->toks, n, &rope_k));
    RUN(en, "storing k", en->ops->kv_store(en->ctx, kv, s->k, wide, 0, wide, en->toks, n));
    RUN(en, "rotated part of q",
        en->ops->copy_rows(en->ctx, s->q_abs + hp->kv_lora, wide, s->q + (hp->d_k - hp->rope.d_rope), hp->d_k,
                           (int64_t)n * hp->n_head, hp->rope.d_rope));
    return K_OK;
}

/* s->h -> added to s->x */
static enum k_status attention_mla(struct engine *en, const struct layer *l, const struct k_kv_pool *kv,
                                   const struct k_norm *then, int32_t n)
{
    const struct hparams *hp = &en->m->hp;
    struct scratch *s = &en->s;
    int32_t wide = hp->kv_lora + hp->rope.d_rope;
    struct k_mla shape = {
        .n_head = hp->n_head, .kv_lora = hp->kv_lora, .d_rope = hp->rope.d_rope, .scale = hp->attn_scale};
    enum k_status st = mla_inputs(en, l, n);
    if (st == K_OK)
        st = place_mla(en, l, kv, &shape, n);
    if (st != K_OK)
        return st;
    RUN(en, "attn_k_b", en->ops->matmul_heads(en->ctx, s->q_abs, wide, s->q, hp->d_k, &l->wk_b, n, en->precision));
    RUN(en, "attention", en->ops->attention_mla(en->ctx, s->lat, s->q_abs, kv, &shape, en->toks, n));
    RUN(en, "attn_v_b",
        en->ops->matmul_heads(en->ctx, s->att, hp->d_v, s->lat, hp->kv_lora, &l->wv_b, n, en->precision));
    RUN(en, "attn_output", multiply_add(en, s->x, s->att, &l->wo, then, n));
    return K_OK;
}

/* Dense layers and shared experts: s->h -> added to x */
static enum k_status add_ffn(struct engine *en, const struct layer *l, float *x, const struct k_norm *then, int32_t n)
{
    struct scratch *s = &en->s;
    const struct k_product gated = {s->gate, &l->gate, NULL, &l->up};
    if (!l->gate.data)
        return norm_after(en, x, then, n);
    RUN(en, "ffn_gate and ffn_up", multiply_all(en, &gated, 1, n));
    RUN(en, "ffn_down", multiply_add(en, x, s->gate, &l->down, then, n));
    return K_OK;
}

enum k_status graph_experts(const struct expert_job *job, const struct layer *l, const char **op)
{
    const struct k_ops *ops = job->ops;
    const struct scratch *s = job->s;
    const struct k_product gated = {s->gate, &l->gate_exps, NULL, &l->up_exps};
    const struct k_product down = {s->exp_out, &l->down_exps, NULL, NULL};
    *op = "ffn_gate_exps and ffn_up_exps";
    enum k_status st =
        ops->matmul_experts(job->ctx, &gated, job->x, false, job->ids, job->n_used, job->n, job->precision);
    if (st != K_OK)
        return st;
    *op = "ffn_down_exps";
    return ops->matmul_experts(job->ctx, &down, s->gate, true, job->ids, job->n_used, job->n, job->precision);
}

/* s->h -> s->rt_id, s->rt_w */
static enum k_status choose_experts(struct engine *en, const struct layer *l, int32_t n)
{
    const struct hparams *hp = &en->m->hp;
    struct scratch *s = &en->s;
    struct k_router router = hp->router;
    router.bias = l->router_bias;
    if (en->ops->choose) {
        const struct k_choice choice = {
            .ids = s->rt_id, .weights = s->rt_w, .logits = s->rt_logit, .x = s->h, .w = &l->router};
        RUN(en, "ffn_gate_inp and routing", en->ops->choose(en->ctx, &choice, &router, n));
        return K_OK;
    }
    /* Always precise: a rounding here can choose another expert. */
    RUN(en, "ffn_gate_inp", k_matmul(en->ops, en->ctx, s->rt_logit, s->h, hp->n_embd, &l->router, NULL, n, K_PRECISE));
    RUN(en, "routing", en->ops->route(en->ctx, s->rt_id, s->rt_w, s->rt_logit, &router, n));
    return K_OK;
}

/* The chosen experts and the shared ones, as one: s->h -> added to x */
static enum k_status moe_at_once(struct engine *en, const struct layer *l, float *x, const struct k_norm *then,
                                 int32_t n)
{
    const struct hparams *hp = &en->m->hp;
    struct scratch *s = &en->s;
    const struct k_moe moe = {.x = s->h,
                              .gate_exps = &l->gate_exps,
                              .up_exps = &l->up_exps,
                              .down_exps = &l->down_exps,
                              .ids = s->rt_id,
                              .weights = s->rt_w,
                              .n_used = hp->n_used,
                              .gate = l->gate.data ? &l->gate : NULL,
                              .up = &l->up,
                              .down = &l->down,
                              .hidden = s->gate,
                              .out = s->exp_out,
                              .shared_hidden = s->shared,
                              .shared_out = s->o,
                              .norm = *then};
    enum k_status st = choose_experts(en, l, n);
    if (st != K_OK)
        return st;
    RUN(en, "experts", en->ops->moe(en->ctx, x, &moe, n, en->precision));
    return K_OK;
}

/* s->h -> added to x */
static enum k_status moe(struct engine *en, const struct layer *l, float *x, const struct k_norm *then, int32_t n)
{
    const struct hparams *hp = &en->m->hp;
    struct scratch *s = &en->s;
    if (en->ops->moe)
        return moe_at_once(en, l, x, then, n);
    const struct expert_job job = {.ops = en->ops,
                                   .ctx = en->ctx,
                                   .s = s,
                                   .x = s->h,
                                   .ids = s->rt_id,
                                   .n_used = hp->n_used,
                                   .n = n,
                                   .precision = en->precision};
    enum k_status st = choose_experts(en, l, n);
    if (st == K_OK)
        st = graph_experts(&job, l, &en->op);
    if (st != K_OK)
        return st;
    RUN(en, "combining", en->ops->combine_experts(en->ctx, x, s->exp_out, s->rt_w, hp->n_used, hp->n_embd, n));
    return add_ffn(en, l, x, then, n);
}

/* Experts that the host computes while the device is at the shared ones: s->h -> added to x */
static enum k_status moe_beside(struct engine *en, int32_t il, float *x, const struct k_norm *then, int32_t n)
{
    const struct layer *l = &en->w.layers[il];
    enum k_status st = choose_experts(en, l, n);
    if (st != K_OK)
        return st;
    RUN(en, "experts on the host", host_experts_begin(en, il, n));
    st = add_ffn(en, l, x, &nothing, n);
    if (st != K_OK)
        return st;
    RUN(en, "experts on the host", en->ops->host_end(en->ctx));
    RUN(en, "adding experts", en->ops->add(en->ctx, x, en->s.exp_out, (int64_t)n * en->m->hp.n_embd));
    return norm_after(en, x, then, n);
}

/* x += attention(norm(x)), s->x, of which s->h is the norm. */
static enum k_status attention_block(struct engine *en, int32_t il, const struct k_norm *then, int32_t n)
{
    const struct layer *l = &en->w.layers[il];
    struct k_kv_pool kv = engine_kv_pool(en, il);
    en->op_layer = il;
    return en->m->hp.mla ? attention_mla(en, l, &kv, then, n) : attention_gqa(en, l, &kv, then, n);
}

/* x += ffn(norm(x)), n rows of x, of which s->h is the norm. */
static enum k_status ffn_block(struct engine *en, int32_t il, float *x, const struct k_norm *then, int32_t n)
{
    const struct layer *l = &en->w.layers[il];
    if (l->router.data && il >= en->host.first)
        return moe_beside(en, il, x, then, n);
    return l->router.data ? moe(en, l, x, then, n) : add_ffn(en, l, x, then, n);
}

/* All layers but the last one's ffn: s->x -> s->x. A layer's weights are waited for before its first norm is made. */
static enum k_status run_layers(struct engine *en, int32_t n)
{
    struct scratch *s = &en->s;
    const struct layer *layers = en->w.layers;
    const int32_t last = en->m->hp.n_layer - 1;
    RUN(en, "uploading weights", upload_wait(en, 0));
    RUN(en, "attn_norm", norm(en, s->h, s->x, layers[0].attn_norm, n, en->m->hp.n_embd));
    for (int32_t il = 0; il < last; il++) {
        const struct k_norm of_ffn = norm_for(en, s->h, layers[il].ffn_norm);
        const struct k_norm of_next = norm_for(en, s->h, layers[il + 1].attn_norm);
        enum k_status st = attention_block(en, il, &of_ffn, n);
        if (st != K_OK)
            return st;
        RUN(en, "uploading weights", upload_wait(en, il + 1));
        st = ffn_block(en, il, s->x, &of_next, n);
        if (st != K_OK)
            return st;
    }
    return attention_block(en, last, &nothing, n);
}

enum k_status graph_logits(struct engine *en, int32_t first, int32_t n)
{
    RUN(en, "output", multiply(en, en->s.logits, en->s.last + (int64_t)first * en->m->hp.n_embd, &en->w.output, n));
    return K_OK;
}

enum k_status graph_run(struct engine *en, int32_t n_tok, int32_t n_last, int32_t n_logits)
{
    const struct model *m = en->m;
    struct scratch *s = &en->s;
    const int32_t last = m->hp.n_layer - 1;
    en->op_layer = 0;
    RUN(en, "uploading weights", upload_wait(en, -1));
    RUN(en, "token_embd", en->ops->get_rows(en->ctx, s->x, &en->w.embd, s->ids, n_tok));
    enum k_status st = run_layers(en, n_tok);
    if (st != K_OK || n_last == 0)
        return st;
    /* Past the last attention no row looks at another: only those that are asked for go on, through the last block, and
     * where logits are wanted through the output matrix, the largest of all. */
    struct k_tensor x = {.data = s->x, .type = K_F32, .ne = {m->hp.n_embd, n_tok, 1, 1}};
    RUN(en, "choosing rows", en->ops->get_rows(en->ctx, s->last, &x, s->rows, n_last));
    RUN(en, "ffn_norm", norm(en, s->h, s->last, en->w.layers[last].ffn_norm, n_last, m->hp.n_embd));
    const struct k_norm of_output = norm_for(en, s->last, en->w.output_norm);
    st = ffn_block(en, last, s->last, &of_output, n_last);
    if (st != K_OK)
        return st;
    return n_logits > 0 ? graph_logits(en, 0, n_logits) : K_OK;
}
