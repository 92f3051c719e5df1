/* The choice of experts on the device, so that decode makes no round trip to the host.
 * What is chosen, and ties to the lower id, as in kernels/route.c (DeepSeek-V2 and -V3, section 2.1.2). */
#include "kernels/cuda/precise.cuh"

/* ids, weights: [n_tok, n_used]; logits: [n_tok, n_expert]. tokens: of the step, or none. */
struct routing {
    int32_t *ids;
    float *weights;
    const float *logits;
    struct k_router r;
    struct cuda_tokens tokens;
};

/* A score and whose it is; better: the higher score, of equals the lower id. */
struct candidate {
    float score;
    int id;
};

KDEV bool better(float score, int id, const struct candidate &than)
{
    return score > than.score || (score == than.score && id < than.id);
}

KDEV struct candidate warp_best(struct candidate c)
{
    for (int m = WARP / 2; m > 0; m /= 2) {
        const float score = shfl_xor(c.score, m);
        const int id = shfl_xor(c.id, m);
        if (better(score, id, c))
            c.score = score, c.id = id;
    }
    return c;
}

/* p[e]: softmax over the experts or a sigmoid of each. Lane l has experts l, l + 32, ...; sums by lane, then butterfly. */
KDEV void gate_scores(float *p, const float *logits, const struct k_router &r)
{
    float max = logits[0], sum = 0.0f;
    if (r.gating == K_GATE_SIGMOID) {
        for (int e = lane(); e < r.n_expert; e += WARP)
            p[e] = 1.0f / (1.0f + exp_exact(-logits[e]));
        return;
    }
    for (int e = lane(); e < r.n_expert; e += WARP)
        max = logits[e] > max ? logits[e] : max;
    max = warp_max(max);
    for (int e = lane(); e < r.n_expert; e += WARP)
        sum += p[e] = exp_exact(logits[e] - max);
    sum = warp_sum(sum);
    for (int e = lane(); e < r.n_expert; e += WARP)
        p[e] /= sum;
}

/* Sum of the two largest, or the largest. */
KDEV float group_score(const float *s, int n, bool top2)
{
    const float none = -__builtin_huge_valf();
    float first = none, second = none;
    for (int e = 0; e < n; e++) {
        const float v = s[e];
        second = v > first ? first : v > second ? v : second;
        first = v > first ? v : first;
    }
    return top2 && n > 1 ? first + second : first;
}

/* A group stays if fewer than n_group_used are better; experts of the others are out. Lane l has groups l, l + 32, ... */
KDEV void drop_groups(float *s, float *scores, const struct k_router &r)
{
    const int size = r.n_expert / r.n_group;
    for (int g = lane(); g < r.n_group; g += WARP)
        scores[g] = group_score(s + g * size, size, r.group_top2);
    sync_warp();
    for (int g = lane(); g < r.n_group; g += WARP) {
        const struct candidate mine = {scores[g], g};
        int ahead = 0;
        for (int o = 0; o < r.n_group; o++)
            ahead += better(scores[o], o, mine);
        for (int e = 0; ahead >= r.n_group_used && e < size; e++)
            s[g * size + e] = -__builtin_huge_valf();
    }
    sync_warp();
}

/* Shared memory of a warp: p, s [n_expert] and a score per group. */
KHOST_DEV int route_floats(const struct k_router &r)
{
    return 2 * r.n_expert + (r.n_group > 1 ? r.n_group : 0);
}

/* Token t's choice, by a warp. Rows of padding choose nobody (id -1). */
KDEV void route_token(const struct routing &to, int32_t t, float *p)
{
    const struct k_router &r = to.r;
    int32_t *ids = to.ids + (int64_t)t * r.n_used;
    float *weights = to.weights + (int64_t)t * r.n_used, *s = p + r.n_expert, *group_scores = s + r.n_expert;
    if (to.tokens.n_tok > 0 && token_is_padding(to.tokens, t)) {
        for (int j = lane(); j < r.n_used; j += WARP)
            ids[j] = -1, weights[j] = 0.0f;
        return;
    }
    gate_scores(p, to.logits + (int64_t)t * r.n_expert, r);
    for (int e = lane(); e < r.n_expert; e += WARP) {
        const float select = r.bias ? p[e] + r.bias[e] : p[e];
        s[e] = select >= -0x1p126f ? select : -0x1p126f; /* NaN counts as the worst that can still be chosen */
    }
    sync_warp();
    if (r.n_group > 1)
        drop_groups(s, group_scores, r);
    float sum = 0.0f;
    for (int j = 0; j < r.n_used; j++) {
        struct candidate best = {-__builtin_huge_valf(), r.n_expert};
        for (int e = lane(); e < r.n_expert; e += WARP)
            if (better(s[e], e, best))
                best.score = s[e], best.id = e;
        best = warp_best(best);
        sync_warp(); /* all have read the scores: a shuffle orders no memory */
        if (lane() == 0) {
            ids[j] = best.id;
            weights[j] = p[best.id];
            s[best.id] = -__builtin_huge_valf();
        }
        sum += p[best.id];
        sync_warp();
    }
    for (int j = lane(); j < r.n_used; j += WARP) {
        float w = weights[j];
        w = r.normalise ? w / (sum + 1e-20f) : w;
        weights[j] = w * r.scale;
    }
}

/* Grid (n_tok), one warp. Bytes: 4 n_expert read. Bound by latency: n_used rounds of a search over n_expert / 32 scores
 * per lane, about 1 us at 256 experts. */
KERNEL_BOUNDS(route_kernel, WARP, 1)(struct routing to)
{
    let_next_begin();
    wait_for_before();
    SHARED_DYN(float, p);
    route_token(to, block_x(), p);
}

/* The router's product, a row of a tile's pairs to a block, and the choice by the last of them: a launch less. Grid
 * (n_expert), 128 threads; each warp has a token at a time. Shared: route_floats() for each warp. Bound by latency. */
KERNEL_BOUNDS(choose_kernel, PRECISE_BLOCK, 1)(struct mul_job j, struct routing to, uint32_t *arrived)
{
    let_next_begin();
    wait_for_before();
    SHARED_DYN(float, p);
    SHARED(int32_t, said, 1);
    struct mul_tile tile = tile_at(&j, 0, PRECISE_PAIRS);
    precise_row(&j, &tile, block_x());
    if (!last_of_blocks(arrived, grid_x(), said))
        return;
    for (int32_t t = warp_of_block(); t < tile.count; t += PRECISE_WARPS)
        route_token(to, t, p + warp_of_block() * route_floats(to.r));
}

/* A step that has padding has one row per token throughout. */
static struct routing routing_of(const struct k_ctx *c, int32_t *ids, float *weights, const float *logits,
                                 const struct k_router *r, int32_t n_tok)
{
    const bool by_token = c->tokens_of && c->tokens.run_max == 1 && c->tokens.n_tok == n_tok;
    struct routing to = {ids, weights, logits, *r, {}};
    if (by_token)
        to.tokens = c->tokens;
    return to;
}

enum k_status cuda_route(struct k_ctx *c, int32_t *ids, float *weights, const float *logits, const struct k_router *r,
                         int32_t n_tok)
{
    enum k_status s = k_check_route(ids, weights, logits, r, n_tok);
    if (s != K_OK || n_tok == 0)
        return s;
    const size_t shared = (size_t)route_floats(*r) * sizeof(float);
    if (shared > c->facts.shared_max)
        return K_UNSUPPORTED;
    return cuda_note(c, launch_early(c->stream, c->early, route_kernel, grid_of(n_tok), WARP, shared,
                                     routing_of(c, ids, weights, logits, r, n_tok)));
}

/* Product and choice one after the other. */
static enum k_status choose_apart(struct k_ctx *c, const struct k_choice *m, const struct k_router *r, int32_t n_tok)
{
    const struct k_product product = {m->logits, m->w, NULL, NULL};
    enum k_status s = cuda_matmul(c, &product, 1, m->x, m->w->ne[0], n_tok, K_PRECISE);
    return s == K_OK ? cuda_route(c, m->ids, m->weights, m->logits, r, n_tok) : s;
}

enum k_status cuda_choose(struct k_ctx *c, const struct k_choice *m, const struct k_router *r, int32_t n_tok)
{
    const struct k_product product = {m->logits, m->w, NULL, NULL};
    struct mul_job j;
    enum k_status s = k_check_route(m->ids, m->weights, m->logits, r, n_tok);
    if (s != K_OK || n_tok == 0 || m->w->ne[1] != r->n_expert)
        return s != K_OK || n_tok == 0 ? s : K_BAD_SHAPE;
    const size_t shared = PRECISE_WARPS * (size_t)route_floats(*r) * sizeof(float);
    if (n_tok > PRECISE_PAIRS || shared > c->facts.shared_max) /* with more tokens than a tile has it is no matter */
        return choose_apart(c, m, r, n_tok);
    s = mul_precise_job(&j, &product, m->x, m->w->ne[0], n_tok);
    uint32_t *arrived = s == K_OK ? cuda_arrived(c, &s) : NULL;
    if (s != K_OK)
        return s;
    return cuda_note(c, launch_early(c->stream, c->early, choose_kernel, grid_of(j.m), PRECISE_BLOCK, shared, j,
                                     routing_of(c, m->ids, m->weights, m->logits, r, n_tok), arrived));
}
