/* The choice of experts on the device, so that decode makes no round trip to the host.
 * What is chosen, and ties to the lower id, as in kernels/route.c (DeepSeek-V2 and -V3, section 2.1.2). */
#include "kernels/cuda/internal.h"

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

/* Grid (n_tok), one warp. Shared: p, s [n_expert] and a score per group. Bytes: 4 n_expert read. Bound by latency: n_used
 * rounds of a search over n_expert / 32 scores per lane, about 1 us at 256 experts. Rows of padding choose nobody (id -1). */
KERNEL_BOUNDS(route_kernel, WARP, 1)
(int32_t *ids, float *weights, const float *logits, struct k_router r, struct cuda_tokens tokens)
{
    let_next_begin();
    SHARED_DYN(float, p);
    float *s = p + r.n_expert, *group_scores = s + r.n_expert;
    const int64_t t = block_x();
    if (tokens.n_tok > 0 && token_is_padding(tokens, block_x())) {
        for (int j = lane(); j < r.n_used; j += WARP)
            ids[t * r.n_used + j] = -1, weights[t * r.n_used + j] = 0.0f;
        return;
    }
    gate_scores(p, logits + t * r.n_expert, r);
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
            ids[t * r.n_used + j] = best.id;
            weights[t * r.n_used + j] = p[best.id];
            s[best.id] = -__builtin_huge_valf();
        }
        sum += p[best.id];
        sync_warp();
    }
    for (int j = lane(); j < r.n_used; j += WARP) {
        float w = weights[t * r.n_used + j];
        w = r.normalise ? w / (sum + 1e-20f) : w;
        weights[t * r.n_used + j] = w * r.scale;
    }
}

enum k_status cuda_route(struct k_ctx *c, int32_t *ids, float *weights, const float *logits, const struct k_router *r,
                         int32_t n_tok)
{
    enum k_status s = k_check_route(ids, weights, logits, r, n_tok);
    if (s != K_OK || n_tok == 0)
        return s;
    size_t shared = (2 * (size_t)r->n_expert + (size_t)(r->n_group > 1 ? r->n_group : 0)) * sizeof(float);
    if (shared > c->facts.shared_max)
        return K_UNSUPPORTED;
    /* A step that has padding has one row per token throughout. */
    const bool by_token = c->tokens_of && c->tokens.run_max == 1 && c->tokens.n_tok == n_tok;
    const struct cuda_tokens none = {};
    return cuda_note(c, launch(c->stream, route_kernel, grid_of(n_tok), WARP, shared, ids, weights, logits, *r,
                               by_token ? c->tokens : none));
}
