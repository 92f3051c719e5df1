#include "engine/text/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "engine/text/softmax.h"

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
    int32_t *seen;    /* owned; the ids that have a count or are in the prompt, each once */
    int32_t n_seen;
};

struct candidate {
    float logit;
    int32_t id;
};

#define BANDS       K_SAMPLE_BANDS /* of falling likelihood, see draw_filtered() */
#define BAND_EFOLDS 30             /* from the first to the last */
#define NOT_FINITE  "the model's logits are not finite numbers"
#define SCALE_MAX   1e30 /* temperatures below its inverse act like it: no product overflows to 0 * infinity */

struct sampler_scratch {
    int32_t n_vocab;
    float *logits;          /* owned; after penalties, bias and bans */
    float *weights;         /* owned; of every id, the likeliest having 1 */
    struct candidate *heap; /* owned; those that can pass the filters */
    float *kept;            /* owned; weights of those taken from the heap */
    uint64_t total;         /* of the bands */
    uint64_t band_weight[BANDS];
    int32_t band_count[BANDS];
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
    if (s->counts)
        s->seen = spw_calloc((size_t)n_vocab, sizeof(*s->seen));
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
    free(s->seen);
    free(s);
}

struct sampler_scratch *sampler_scratch_new(int32_t n_vocab)
{
    struct sampler_scratch *scratch = spw_calloc(1, sizeof(*scratch));

    scratch->n_vocab = n_vocab;
    scratch->logits = spw_calloc((size_t)n_vocab, sizeof(*scratch->logits));
    scratch->weights = spw_calloc((size_t)n_vocab, sizeof(*scratch->weights));
    scratch->heap = spw_calloc((size_t)n_vocab, sizeof(*scratch->heap));
    scratch->kept = spw_calloc((size_t)n_vocab, sizeof(*scratch->kept));
    return scratch;
}

void sampler_scratch_free(struct sampler_scratch *scratch)
{
    if (!scratch)
        return;
    free(scratch->logits);
    free(scratch->weights);
    free(scratch->heap);
    free(scratch->kept);
    free(scratch);
}

static void see(struct sampler *s, int32_t id)
{
    if (!s->counts[id] && !(s->prompt && s->prompt[id]))
        s->seen[s->n_seen++] = id;
}

void sampler_prompt(struct sampler *s, const int32_t *ids, size_t n)
{
    for (size_t i = 0; s->prompt && i < n; i++) {
        if (ids[i] < 0 || ids[i] >= s->n_vocab)
            continue;
        see(s, ids[i]);
        s->prompt[ids[i]] = 1;
    }
}

void sampler_accept(struct sampler *s, int32_t id)
{
    if (s->counts && id >= 0 && id < s->n_vocab && s->counts[id] < UINT32_MAX) {
        see(s, id);
        s->counts[id]++;
    }
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

/* A step's 53 bits. */
static uint64_t random_bits(const struct sampler *s, int64_t step)
{
    uint32_t w[4];

    sampler_philox(s->p.seed, (uint64_t)step, w);
    return ((uint64_t)w[0] << 32 | w[1]) >> 11;
}

/* Even in [0, total). */
static uint64_t draw(const struct sampler *s, uint64_t total)
{
    return (uint64_t)((unsigned __int128)random_bits(s, s->step) * total >> 53);
}

static uint64_t units(float weight)
{
    return (uint64_t)(weight * K_SAMPLE_UNITS);
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
    for (int32_t i = 0; i < s->n_seen; i++)
        logits[s->seen[i]] = penalised(s, s->seen[i], logits[s->seen[i]]);
    for (size_t i = 0; i < s->n_bias; i++)
        logits[s->bias[i].id] = s->bias[i].bias <= -100 ? -INFINITY : logits[s->bias[i].id] + s->bias[i].bias;
    ban(logits, s->banned, s->n_banned);
    if (s->step < s->p.min_tokens)
        ban(logits, s->end_ids, s->n_end_ids);
    for (int32_t id = 0; allowed && id < s->n_vocab; id++)
        if (!(allowed[id / 8] >> (id & 7) & 1))
            logits[id] = -INFINITY;
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

/* Take the likeliest out of the heap of n; it ends up behind the others, at heap[n - 1]. */
static void pop_likeliest(struct candidate *heap, size_t n)
{
    struct candidate top = heap[0];

    heap[0] = heap[n - 1];
    heap[n - 1] = top;
    if (n > 1)
        sift_down(heap, n - 1, 0);
}

/* No filter that needs an order: ids as they come. */
static int32_t draw_unordered(const struct sampler *s, const struct sampler_scratch *scratch)
{
    const float *w = scratch->weights;
    const float floor = (float)s->p.min_p;
    uint64_t total = 0, sum = 0;
    int32_t id = -1;

    for (int32_t i = 0; i < s->n_vocab; i++)
        total += w[i] >= floor ? units(w[i]) : 0;
    uint64_t target = draw(s, total);
    while (sum <= target) { /* total is more than target: it ends within the vocabulary */
        id++;
        sum += w[id] >= floor ? units(w[id]) : 0;
    }
    return id;
}

/* Count the ids into bands by their distance from the likeliest; the last band that top-k or top-p reaches into. */
static int last_band(const struct sampler *s, struct sampler_scratch *scratch, float top, float bands_per_logit)
{
    uint64_t weight = 0;
    int64_t count = 0;
    int band = 0;

    memset(scratch->band_weight, 0, sizeof(scratch->band_weight));
    memset(scratch->band_count, 0, sizeof(scratch->band_count));
    for (int32_t id = 0; id < s->n_vocab; id++) {
        float at = (top - scratch->logits[id]) * bands_per_logit;
        if (!(at < BANDS))
            continue;
        scratch->band_weight[(int)at] += units(scratch->weights[id]);
        scratch->band_count[(int)at]++;
    }
    scratch->total = 0;
    for (int i = 0; i < BANDS; i++)
        scratch->total += scratch->band_weight[i];
    for (; band < BANDS - 1; band++) {
        weight += scratch->band_weight[band];
        count += scratch->band_count[band];
        if (s->p.top_k ? count >= s->p.top_k : (double)weight > s->p.top_p * (double)scratch->total)
            break;
    }
    return band;
}

static float scale_of(const struct sampler *s)
{
    return (float)fmin(1 / s->p.temperature, SCALE_MAX);
}

static float bands_per_logit_of(const struct sampler *s)
{
    return (float)fmin(BANDS / (BAND_EFOLDS * s->p.temperature), SCALE_MAX);
}

static size_t make_heap(const struct sampler *s, struct sampler_scratch *scratch, float top)
{
    float bands_per_logit = bands_per_logit_of(s);
    float reach = (float)(last_band(s, scratch, top, bands_per_logit) + 1);
    size_t n = 0;

    for (int32_t id = 0; id < s->n_vocab; id++)
        if ((top - scratch->logits[id]) * bands_per_logit < reach)
            scratch->heap[n++] = (struct candidate){scratch->logits[id], id};
    for (size_t i = n / 2; i > 0; i--)
        sift_down(scratch->heap, n, i - 1);
    return n;
}

/* Take the likeliest out of the heap of n into position `taken` of the order, counted from the back. */
static float take(struct sampler_scratch *scratch, size_t n, size_t taken)
{
    pop_likeliest(scratch->heap, n - taken);
    return scratch->kept[taken] = scratch->weights[scratch->heap[n - 1 - taken].id];
}

/* Candidates by falling weight, as many as top-k, top-p and min-p let through, then draw among those. top-p is a part
 * of the total of the top-k, as in the usual chain of filters.
 *
 * Sorting a vocabulary to keep a few of it would cost more than a model's step on a fast device. So the ids are counted
 * into bands first, and only the bands that the filters reach into are put in order, as far as needed. What lies more
 * than BAND_EFOLDS below the likeliest weighs under 1e-13 of it and is left out. */
static int32_t draw_filtered(const struct sampler *s, struct sampler_scratch *scratch, float top)
{
    size_t n = make_heap(s, scratch, top), taken = 0, kept = 0;
    size_t k = s->p.top_k && (size_t)s->p.top_k < n ? (size_t)s->p.top_k : n;
    uint64_t total = s->p.top_k ? 0 : scratch->total, sum = 0;

    while (s->p.top_k && taken < k)
        total += units(take(scratch, n, taken++));
    for (; kept < k; kept++) {
        if (kept == taken)
            take(scratch, n, taken++);
        if (kept > 0 &&
            ((double)scratch->kept[kept] < s->p.min_p || (s->p.top_p < 1 && (double)sum >= s->p.top_p * (double)total)))
            break;
        sum += units(scratch->kept[kept]);
    }
    uint64_t target = draw(s, sum);
    size_t i = 0;
    for (sum = units(scratch->kept[0]); sum <= target; sum += units(scratch->kept[i]))
        i++;
    return scratch->heap[n - 1 - i].id;
}

/* ---- what is reported ---- */

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

/* The log probability of out->id and the alternatives. model_best: the likeliest by the model's logits. */
static void report(const struct sampler *s, const float *logits, int32_t model_best, struct sample *out)
{
    double total = softmax_log_total(logits, s->n_vocab, logits[model_best]);
    out->logprob = (float)((double)logits[out->id] - total);
    out->n_top = 0;
    if (s->p.n_top)
        report_top(s, logits, total, out);
}

enum rc sampler_observe(const struct sampler *s, const float *logits, int32_t id, struct sample *out, struct error *e)
{
    int32_t model_best = softmax_best(logits, s->n_vocab);
    if (model_best < 0)
        return error_set(e, RC_INVALID, NOT_FINITE);
    SPW_ASSERT(id >= 0 && id < s->n_vocab);
    out->id = id;
    report(s, logits, model_best, out);
    return RC_OK;
}

enum rc sampler_choose(const struct sampler *s, const float *logits, const uint8_t *allowed,
                       struct sampler_scratch *scratch, struct sample *out, struct error *e)
{
    int32_t model_best = softmax_best(logits, s->n_vocab);

    SPW_ASSERT(scratch->n_vocab == s->n_vocab);
    if (model_best < 0)
        return error_set(e, RC_INVALID, NOT_FINITE);
    adjust(s, logits, allowed, scratch->logits);
    int32_t best = softmax_best(scratch->logits, s->n_vocab);
    if (best < 0 || scratch->logits[best] == -INFINITY)
        return error_set(e, RC_INVALID, "no token is left to choose from: all are banned");

    float top = scratch->logits[best];
    out->id = best;
    if (s->p.temperature > 0) {
        softmax_weights(scratch->logits, s->n_vocab, top, scale_of(s), scratch->weights);
        out->id = s->p.top_k == 0 && s->p.top_p == 1 ? draw_unordered(s, scratch) : draw_filtered(s, scratch, top);
    }
    out->n_top = 0;
    out->logprob = NAN;
    if (s->p.skip_logprob && s->p.n_top == 0)
        return RC_OK;
    report(s, logits, model_best, out);
    return RC_OK;
}

/* ---- a device's choice ---- */

static bool offer(const struct sampler *s, int64_t step, struct k_sample *out)
{
    if (s->counts || s->n_bias || s->n_banned || step < s->p.min_tokens || s->p.n_top)
        return false;
    *out = (struct k_sample){
        .top_k = s->p.top_k, .top_p = s->p.top_p, .min_p = s->p.min_p, .want_total = !s->p.skip_logprob};
    if (s->p.temperature > 0) {
        out->scale = scale_of(s);
        out->bands_per_logit = bands_per_logit_of(s);
        out->u53 = random_bits(s, step);
    }
    return true;
}

bool sampler_offer(const struct sampler *s, struct k_sample *out)
{
    return offer(s, s->step, out);
}

bool sampler_offer_ahead(const struct sampler *s, struct k_sample *out)
{
    return offer(s, s->step + 1, out);
}

enum rc sampler_take(const struct sampler *s, const struct k_sampled *chosen, struct sample *out, struct error *e)
{
    if (chosen->state == K_SAMPLED_NOT_HERE)
        return RC_AGAIN;
    if (chosen->state != K_SAMPLED)
        return error_set(e, RC_INVALID, NOT_FINITE);
    SPW_ASSERT(chosen->id >= 0 && chosen->id < s->n_vocab);
    *out = (struct sample){.id = chosen->id, .logprob = NAN};
    if (!s->p.skip_logprob)
        out->logprob = (float)((double)chosen->logit - softmax_log_of(chosen->top, chosen->total));
    return RC_OK;
}
