/* The choice of experts, shared by the host backends. DeepSeek-V2 and -V3, section 2.1.2 (arXiv 2405.04434,
 * 2412.19437): scores are a softmax or sigmoids of the logits; a bias shifts the scores that select but never those
 * that weigh; groups are kept by the sum of their two best scores (V3) or their best (V2), and experts of other groups
 * are out altogether (not merely at score 0, which a negative bias could fall below). */
#include "kernels/internal.h"
#include "kernels/scalar_math.h"

static void gate_scores(float *p, const float *logits, const struct k_router *r)
{
    if (r->gating == K_GATE_SIGMOID) {
        for (int32_t e = 0; e < r->n_expert; e++)
            p[e] = 1.0f / (1.0f + scalar_exp(-logits[e]));
        return;
    }
    float max = logits[0], sum = 0.0f;
    for (int32_t e = 1; e < r->n_expert; e++)
        max = logits[e] > max ? logits[e] : max;
    for (int32_t e = 0; e < r->n_expert; e++)
        sum += p[e] = scalar_exp(logits[e] - max);
    for (int32_t e = 0; e < r->n_expert; e++)
        p[e] /= sum;
}

static float group_score(const float *s, int32_t n, bool top2)
{
    float first = -INFINITY, second = -INFINITY;
    for (int32_t e = 0; e < n; e++) {
        if (s[e] > first) {
            second = first;
            first = s[e];
        } else if (s[e] > second) {
            second = s[e];
        }
    }
    return top2 && n > 1 ? first + second : first;
}

/* Set the scores of all but the best groups to -infinity. */
static void drop_groups(float *s, const struct k_router *r)
{
    int32_t size = r->n_expert / r->n_group;
    for (int32_t drop = r->n_group - r->n_group_used; drop > 0; drop--) {
        /* The worst group left, ties to the higher id, so that the lower one stays. A dropped group is all -inf and is
         * known by its first score. */
        int32_t worst = -1;
        float worst_score = INFINITY;
        for (int32_t g = r->n_group - 1; g >= 0; g--) {
            if (s[g * size] == -INFINITY)
                continue;
            float score = group_score(s + g * size, size, r->group_top2);
            if (worst < 0 || score < worst_score) {
                worst = g;
                worst_score = score;
            }
        }
        for (int32_t e = 0; worst >= 0 && e < size; e++)
            s[worst * size + e] = -INFINITY;
    }
}

void k_route_token(int32_t *ids, float *weights, const float *logits, const struct k_router *r, float *scores)
{
    float *p = scores, *s = scores + r->n_expert;
    gate_scores(p, logits, r);
    for (int32_t e = 0; e < r->n_expert; e++) {
        float select = r->bias ? p[e] + r->bias[e] : p[e];
        s[e] = select >= -0x1p126f ? select : -0x1p126f; /* NaN counts as the worst that can still be chosen */
    }
    if (r->n_group > 1)
        drop_groups(s, r);
    float sum = 0.0f;
    for (int32_t j = 0; j < r->n_used; j++) {
        int32_t best = 0;
        for (int32_t e = 1; e < r->n_expert; e++)
            if (s[e] > s[best])
                best = e;
        ids[j] = best;
        weights[j] = p[best];
        sum += p[best];
        s[best] = -INFINITY;
    }
    if (r->normalise)
        for (int32_t j = 0; j < r->n_used; j++)
            weights[j] /= sum + 1e-20f;
    for (int32_t j = 0; j < r->n_used; j++)
        weights[j] *= r->scale;
}
