#include "engine/text/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

/* Arrays of n_vocab exist only for what the parameters use. */
struct sampler {
    struct sampler_params p; /* its pointers are cleared: what they held is below */
    int32_t n_vocab;
    int64_t step;
    struct sampler_bias *bias; /* owned; by rising id */
    size_t n_bias;
    int32_t *end_ids, *banned; /* owned */
    size_t n_end_ids, n_banned;
    uint32_t *counts; /* owned; occurrences in the answer, NULL without penalties */
    uint8_t *prompt;  /* owned; 1: in the prompt, NULL without repetition penalty */
};

struct candidate {
    float logit;
    int32_t id;
};

struct sampler_scratch {
    int32_t n_vocab;
    float *logits;            /* owned; after penalties, bias and bans */
    struct candidate *sorted; /* owned; a heap, then the likeliest in order from the back */
    double *weights;          /* owned; of the kept candidates */
};

void sampler_params_init(struct sampler_params *p)
{
    *p = (struct sampler_params){.temperature = 1, .top_p = 1, .repetition_penalty = 1};
}

/* ---- checks ---- */

static enum rc check_range(const char *name, double v, double lo, double hi, struct error *e)
{
    if (v >= lo && v <= hi)
        return RC_OK;
    return error_set(e, RC_INVALID, "%s is %g; it can be %g to %g", name, v, lo, hi);
}

static enum rc check_ids(const char *name, const int32_t *ids, size_t n, int32_t n_vocab, struct error *e)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= n_vocab)
            return error_set(e, RC_INVALID, "%s: there is no token %d; ids are 0 to %d", name, ids[i], n_vocab - 1);
    return RC_OK;
}

static enum rc check_bias(const struct sampler_params *p, int32_t n_vocab, struct error *e)
{
    if (p->n_bias > SAMPLER_BIAS_MAX)
        return error_set(e, RC_INVALID, "logit_bias has %zu entries; the limit is %d", p->n_bias, SAMPLER_BIAS_MAX);
    for (size_t i = 0; i < p->n_bias; i++) {
        if (check_ids("logit_bias", &p->bias[i].id, 1, n_vocab, e) != RC_OK)
            return RC_INVALID;
        if (!(p->bias[i].bias >= -100 && p->bias[i].bias <= 100))
            return error_set(e, RC_INVALID, "logit_bias of token %d is %g; it can be -100 to 100", p->bias[i].id,
                             (double)p->bias[i].bias);
    }
    return RC_OK;
}

static enum rc check(const struct sampler_params *p, int32_t n_vocab, struct error *e)
{
    if (check_range("temperature", p->temperature, 0, 100, e) != RC_OK ||
        check_range("top_k", p->top_k, 0, INT32_MAX, e) != RC_OK || check_range("min_p", p->min_p, 0, 1, e) != RC_OK ||
        check_range("repetition_penalty", p->repetition_penalty, 0.01, 10, e) != RC_OK ||
        check_range("presence_penalty", p->presence_penalty, -2, 2, e) != RC_OK ||
        check_range("frequency_penalty", p->frequency_penalty, -2, 2, e) != RC_OK ||
        check_range("min_tokens", p->min_tokens, 0, INT32_MAX, e) != RC_OK ||
        check_range("top_logprobs", p->n_top, 0, SAMPLER_TOP_MAX, e) != RC_OK)
        return RC_INVALID;
    if (!(p->top_p > 0 && p->top_p <= 1))
        return error_set(e, RC_INVALID, "top_p is %g; it can be above 0 and up to 1", p->top_p);
    if (check_bias(p, n_vocab, e) != RC_OK || check_ids("end ids", p->end_ids, p->n_end_ids, n_vocab, e) != RC_OK)
        return RC_INVALID;
    return check_ids("banned ids", p->banned, p->n_banned, n_vocab, e);
}

/* ---- life ---- */

static void *copy(const void *from, size_t n, size_t size)
{
    void *to = spw_calloc(n + 1, size);

    if (n)
        memcpy(to, from, n * size);
    return to;
}

enum rc sampler_new(const struct sampler_params *p, int32_t n_vocab, struct sampler **sampler, struct error *e)
{
    *sampler = NULL;
    SPW_ASSERT(n_vocab > 0);
    if (check(p, n_vocab, e) != RC_OK)
        return RC_INVALID;
    struct sampler *s = spw_calloc(1, sizeof(*s));
    s->p = *p;
    s->n_vocab = n_vocab;
    s->bias = copy(p->bias, p->n_bias, sizeof(*p->bias));
    s->n_bias = p->n_bias;
    s->end_ids = copy(p->end_ids, p->n_end_ids, sizeof(*p->end_ids));
    s->n_end_ids = p->n_end_ids;
    s->banned = copy(p->banned, p->n_banned, sizeof(*p->banned));
    s->n_banned = p->n_banned;
    s->p.bias = NULL;
    s->p.end_ids = s->p.banned = NULL;
    if (p->repetition_penalty != 1)
        s->prompt = spw_calloc((size_t)n_vocab, 1);
    if (p->repetition_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0)
        s->counts = spw_calloc((size_t)n_vocab, sizeof(*s->counts));
    *sampler = s;
    return RC_OK;
}

void sampler_free(struct sampler *s)
{
    if (!s)
        return;
    free(s->bias);
    free(s->end_ids);
    free(s->banned);
    free(s->counts);
    free(s->prompt);
    free(s);
}

struct sampler_scratch *sampler_scratch_new(int32_t n_vocab)
{
    struct sampler_scratch *scratch = spw_calloc(1, sizeof(*scratch));

    scratch->n_vocab = n_vocab;
    scratch->logits = spw_calloc((size_t)n_vocab, sizeof(*scratch->logits));
    scratch->sorted = spw_calloc((size_t)n_vocab, sizeof(*scratch->sorted));
    scratch->weights = spw_calloc((size_t)n_vocab, sizeof(*scratch->weights));
    return scratch;
}

void sampler_scratch_free(struct sampler_scratch *scratch)
{
    if (!scratch)
        return;
    free(scratch->logits);
    free(scratch->sorted);
    free(scratch->weights);
    free(scratch);
}

void sampler_prompt(struct sampler *s, const int32_t *ids, size_t n)
{
    for (size_t i = 0; s->prompt && i < n; i++)
        if (ids[i] >= 0 && ids[i] < s->n_vocab)
            s->prompt[ids[i]] = 1;
}

void sampler_accept(struct sampler *s, int32_t id)
{
    if (s->counts && id >= 0 && id < s->n_vocab && s->counts[id] < UINT32_MAX)
        s->counts[id]++;
    s->step++;
}

int64_t sampler_step(const struct sampler *s)
{
    return s->step;
}

/* ---- the generator ---- */

void sampler_philox(uint64_t seed, uint64_t step, uint32_t out[4])
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    uint32_t c0 = (uint32_t)step, c1 = (uint32_t)(step >> 32), c2 = 0, c3 = 0;

    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(b >> 32) ^ c1 ^ k0, n2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b;
        c3 = (uint32_t)a;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* Uniform in [0, 1), 53 bits. */
static double draw(const struct sampler *s)
{
    uint32_t w[4];

    sampler_philox(s->p.seed, (uint64_t)s->step, w);
    return (double)(((uint64_t)w[0] << 32 | w[1]) >> 11) * 0x1p-53;
}

/* ---- from logits to candidates ---- */

static float penalised(const struct sampler *s, int32_t id, float logit)
{
    uint32_t count = s->counts[id];

    if (s->prompt && (count || s->prompt[id]))
        logit = (float)(logit > 0 ? logit / s->p.repetition_penalty : logit * s->p.repetition_penalty);
    if (count)
        logit -= (float)(s->p.frequency_penalty * count + s->p.presence_penalty);
    return logit;
}

static void ban(float *logits, const int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        logits[ids[i]] = -INFINITY;
}

static void adjust(const struct sampler *s, const float *raw, const uint8_t *allowed, float *logits)
{
    memcpy(logits, raw, (size_t)s->n_vocab * sizeof(*logits));
    for (int32_t id = 0; s->counts && id < s->n_vocab; id++)
        logits[id] = penalised(s, id, logits[id]);
    for (size_t i = 0; i < s->n_bias; i++)
        logits[s->bias[i].id] = s->bias[i].bias <= -100 ? -INFINITY : logits[s->bias[i].id] + s->bias[i].bias;
    ban(logits, s->banned, s->n_banned);
    if (s->step < s->p.min_tokens)
        ban(logits, s->end_ids, s->n_end_ids);
    for (int32_t id = 0; allowed && id < s->n_vocab; id++)
        if (!(allowed[id / 8] >> (id & 7) & 1))
            logits[id] = -INFINITY;
}

/* The likeliest, ties to the lower id; -1 when everything is banned. */
static int32_t best_of(const float *logits, int32_t n)
{
    int32_t best = -1;
    float top = -INFINITY;

    for (int32_t id = 0; id < n; id++)
        if (logits[id] > top) {
            top = logits[id];
            best = id;
        }
    return best;
}

/* A total order, so that every step below is deterministic. */
static bool likelier(const struct candidate *a, const struct candidate *b)
{
    return a->logit != b->logit ? a->logit > b->logit : a->id < b->id;
}

static void sift_down(struct candidate *heap, size_t n, size_t i)
{
    struct candidate c = heap[i];

    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n)
            break;
        if (child + 1 < n && likelier(&heap[child + 1], &heap[child]))
            child++;
        if (!likelier(&heap[child], &c))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = c;
}

/* A candidate this many e-folds below the likeliest weighs under 1e-13 of it: all such together are less than what
 * 32-bit logits can tell, and filters would only sort them to drop them. */
#define NEGLIGIBLE_EFOLDS 30

/* Candidates that are possible at all, as a heap. */
static size_t make_heap(const struct sampler *s, const float *logits, float top, struct candidate *heap)
{
    double floor = (double)top - s->p.temperature * NEGLIGIBLE_EFOLDS;
    size_t n = 0;

    for (int32_t id = 0; id < s->n_vocab; id++)
        if (logits[id] > -INFINITY && (double)logits[id] >= floor)
            heap[n++] = (struct candidate){logits[id], id};
    for (size_t i = n / 2; i > 0; i--)
        sift_down(heap, n, i - 1);
    return n;
}

/* Take the likeliest out of the heap of n; it ends up behind the others, at heap[n - 1]. */
static void pop_likeliest(struct candidate *heap, size_t n)
{
    struct candidate top = heap[0];

    heap[0] = heap[n - 1];
    heap[n - 1] = top;
    if (n > 1)
        sift_down(heap, n - 1, 0);
}

static double weight(const struct sampler *s, float logit, float top)
{
    return exp(((double)logit - (double)top) / s->p.temperature);
}

/* No filter: one pass over the ids in order, no sorting. */
static int32_t draw_from_all(const struct sampler *s, const struct sampler_scratch *scratch, float top)
{
    double total = 0, sum = 0;
    int32_t last = -1;

    for (int32_t id = 0; id < s->n_vocab; id++)
        total += scratch->weights[id] = weight(s, scratch->logits[id], top);
    double target = draw(s) * total;
    for (int32_t id = 0; id < s->n_vocab; id++) {
        if (scratch->weights[id] <= 0)
            continue;
        sum += scratch->weights[id];
        last = id;
        if (sum > target)
            break;
    }
    return last;
}

/* Take the likeliest out of the heap of n into position `taken` of the order, counted from the back. */
static double take(const struct sampler *s, const struct sampler_scratch *scratch, size_t n, size_t taken, float top)
{
    pop_likeliest(scratch->sorted, n - taken);
    return scratch->weights[taken] = weight(s, scratch->sorted[n - 1 - taken].logit, top);
}

/* Candidates by falling weight, as many as top-k, top-p and min-p let through, then draw among those. top-p is a part
 * of the total of the top-k, as in the usual chain of filters. */
static int32_t draw_filtered(const struct sampler *s, const struct sampler_scratch *scratch, float top)
{
    struct candidate *heap = scratch->sorted;
    size_t n = make_heap(s, scratch->logits, top, heap), taken = 0, kept = 0;
    size_t k = s->p.top_k && (size_t)s->p.top_k < n ? (size_t)s->p.top_k : n;
    double total = 0, sum = 0;

    if (k < n)
        while (taken < k)
            total += take(s, scratch, n, taken++, top);
    else if (s->p.top_p < 1)
        for (size_t i = 0; i < n; i++)
            total += weight(s, heap[i].logit, top);
    for (; kept < k; kept++) {
        if (kept == taken)
            take(s, scratch, n, taken++, top);
        if (kept > 0 && (scratch->weights[kept] < s->p.min_p || (s->p.top_p < 1 && sum >= s->p.top_p * total)))
            break;
        sum += scratch->weights[kept];
    }
    double target = draw(s) * sum;
    sum = 0;
    for (size_t i = 0; i < kept; i++) {
        sum += scratch->weights[i];
        if (sum > target)
            return heap[n - 1 - i].id;
    }
    return heap[n - kept].id;
}

/* ---- what is reported ---- */

/* log of the sum of exp over the model's own logits; infinite and absent ones count nothing. */
static double log_total(const float *logits, int32_t n)
{
    float top = logits[best_of(logits, n)];
    double total = 0;

    for (int32_t id = 0; id < n; id++)
        total += exp((double)logits[id] - (double)top);
    return (double)top + log(total);
}

/* The n_top likeliest by the model's logits, by insertion: n_top is at most 20. */
static void report_top(const struct sampler *s, const float *logits, double total, struct sample *out)
{
    struct candidate best[SAMPLER_TOP_MAX + 1];
    int n = 0;

    for (int32_t id = 0; id < s->n_vocab; id++) {
        struct candidate c = {logits[id], id};
        int i = n;
        if (n == s->p.n_top && !likelier(&c, &best[n - 1]))
            continue;
        for (; i > 0 && likelier(&c, &best[i - 1]); i--)
            best[i] = best[i - 1];
        best[i] = c;
        if (n < s->p.n_top)
            n++;
    }
    for (int i = 0; i < n; i++)
        out->top[i] = (struct sampler_alternative){best[i].id, (float)((double)best[i].logit - total)};
    out->n_top = n;
}

enum rc sampler_choose(const struct sampler *s, const float *logits, const uint8_t *allowed,
                       struct sampler_scratch *scratch, struct sample *out, struct error *e)
{
    SPW_ASSERT(scratch->n_vocab == s->n_vocab);
    for (int32_t id = 0; id < s->n_vocab; id++)
        if (isnan(logits[id]) || logits[id] == INFINITY)
            return error_set(e, RC_INVALID, "the logit of token %d is not a finite number", id);
    adjust(s, logits, allowed, scratch->logits);
    int32_t best = best_of(scratch->logits, s->n_vocab);
    if (best < 0)
        return error_set(e, RC_INVALID, "no token is left to choose from: all are banned");

    float top = scratch->logits[best];
    if (s->p.temperature == 0)
        out->id = best;
    else if (s->p.top_k == 0 && s->p.top_p == 1 && s->p.min_p == 0)
        out->id = draw_from_all(s, scratch, top);
    else
        out->id = draw_filtered(s, scratch, top);

    out->n_top = 0;
    out->logprob = NAN;
    if (s->p.skip_logprob && s->p.n_top == 0)
        return RC_OK;
    double total = log_total(logits, s->n_vocab);
    out->logprob = (float)((double)logits[out->id] - total);
    if (s->p.n_top)
        report_top(s, logits, total, out);
    return RC_OK;
}
