/* What the two lines leave out. Prompts beside decoding: a stream's gaps while another's prompt is computed; how many
 * are longer tells how many steps the prompt took. Context: the same batch again after long prompts. */
#include "scheduler/calibrate/measure_internal.h"

#include <math.h>
#include <stdlib.h>

#define BEGUN          6 /* pieces that the first stream has said when the other's prompt comes */
#define GAPS_MAX       4096
#define CONTEXT_BATCH  4
#define CONTEXT_TOKENS 512  /* of each prompt, about */
#define LONGER         1.3  /* times an undisturbed gap: there was something of the prompt in it */
#define ROUND_SHARE    0.12 /* chunks are powers of two in practice; one so near to one is meant to be it */

/* Gaps of `p` in microseconds: those that end before `from` or after `to`, and those between. */
static int gaps_between(const struct probe *p, int64_t from, int64_t to, bool inside, double *us)
{
    int n = 0;
    for (int i = 1; i < p->n && n < GAPS_MAX; i++) {
        const bool in = p->at_ns[i] > from && p->at_ns[i - 1] < to;
        if (in == inside)
            us[n++] = (double)(p->at_ns[i] - p->at_ns[i - 1]) / 1e3;
    }
    return n;
}

static double nearest_round(double chunk)
{
    const double two = exp2(round(log2(chunk)));
    return fabs(chunk / two - 1) < ROUND_SHARE ? two : floor(chunk);
}

/* From the stalls of `a` while the prompt of `b` was computed: what is beyond an undisturbed step is the prompt's, and
 * as many steps as are longer by half of what the others are longer by were full of it. False: they don't tell. */
static bool read_stalls(const struct probe *a, const struct probe *b, double *us_per_tok, double *chunk)
{
    double *us = spw_calloc(GAPS_MAX, sizeof *us), *longer = spw_calloc(GAPS_MAX, sizeof *longer), stalled = 0;
    const double fresh = (double)(b->prompt - b->cached);
    const int n_plain = gaps_between(a, b->start_ns, b->at_ns[0], false, us);
    const double plain = n_plain ? measure_median(us, n_plain) : 0;
    const int n = gaps_between(a, b->start_ns, b->at_ns[0], true, us);
    int n_longer = 0, steps = 0;
    for (int i = 0; i < n; i++) {
        stalled += us[i] - plain;
        if (us[i] > plain * LONGER)
            longer[n_longer++] = us[i] - plain;
    }
    const double usual = n_longer ? measure_median(longer, n_longer) : 0;
    for (int i = 0; i < n; i++)
        steps += us[i] - plain > usual / 2;
    const bool told = plain > 0 && n_longer && stalled > 0 && a->at_ns[a->n - 1] > b->at_ns[0];
    *us_per_tok = stalled / fresh;
    *chunk = nearest_round(fresh / (steps ? steps : 1));
    free(us);
    free(longer);
    return told;
}

/* Of the words that are sent, by the node's own count. */
static double tokens_per_byte(const struct session *s)
{
    return s->c->prefill[s->c->n_prefill - 1].x / (double)s->prompt_bytes;
}

/* A server that computes a prompt in one step tells no more of its chunks than that they are longer. */
static enum rc measure_mixed(struct session *s, struct error *e)
{
    double us[16], chunk[16];
    int n = 0, rounds = s->o->repeats < 16 ? s->o->repeats : 16;
    const int32_t output = s->o->output + (int32_t)(tokens_per_byte(s) * (double)s->prompt_bytes / 16);
    enum rc rc = RC_OK;
    for (int i = 0; i < rounds && rc == RC_OK; i++) {
        struct probe p[2];
        measure_probe_init(&p[0], s, SHORT_BYTES, output);
        measure_probe_init(&p[1], s, s->prompt_bytes, 1);
        rc = measure_run(p, 2, BEGUN, s->o, e);
        if (rc == RC_OK && read_stalls(&p[0], &p[1], &us[n], &chunk[n]))
            n++;
        measure_probe_fini(&p[0]);
        measure_probe_fini(&p[1]);
    }
    if (rc != RC_OK || !n)
        return rc;
    struct curve_detail *d = &s->c->detail;
    d->mixed_us_per_tok = measure_median(us, n);
    d->mixed_chunk = (int32_t)measure_median(chunk, n);
    if (s->o->progress)
        fprintf(s->o->progress, "mixed    %8d a step   %12.0f us per prompt token beside decoding\n",
                (int)d->mixed_chunk, d->mixed_us_per_tok);
    return rc;
}

/* The slope over pairs of one batch, all through one line of least squares; context that costs nothing is none below. */
static double context_slope(const struct calibration *c)
{
    double xy = 0, xx = 0;
    for (int i = 0; i < c->n_context; i++)
        for (int k = 0; k < i; k++) {
            const double x = c->context[i].tokens - c->context[k].tokens, y = c->context[i].us - c->context[k].us;
            if (c->context[i].batch != c->context[k].batch)
                continue;
            xy += x * y;
            xx += x * x;
        }
    return xx > 0 && xy > 0 ? xy / xx : 0;
}

/* All must have begun before the first one ends, and beside decoding prompts are computed in small pieces. */
static enum rc context_point(struct session *s, int batch, size_t bytes, struct error *e)
{
    struct calibration *c = s->c;
    double us[16], context[16];
    int n = 0, rounds = s->o->repeats < 16 ? s->o->repeats : 16;
    const double tokens = (double)bytes * tokens_per_byte(s) * batch;
    const int32_t output = s->o->output + (int32_t)(tokens / (c->detail.mixed_chunk ? c->detail.mixed_chunk : 512));
    enum rc rc = RC_OK;
    for (int i = 0; i < rounds && rc == RC_OK; i++) {
        struct decoded d = {0};
        rc = measure_decode_once(s, batch, bytes, output, &d, e);
        us[n] = d.us;
        context[n] = d.context;
        n += rc == RC_OK && d.us > 0;
    }
    if (rc == RC_UNSUPPORTED) /* prompt and answer are more than it takes */
        return RC_OK;
    if (rc != RC_OK || !n || c->n_context == CALIBRATION_POINTS_MAX)
        return rc;
    c->context[c->n_context++] = (struct calibration_context){batch, measure_median(context, n), measure_median(us, n)};
    if (s->o->progress)
        fprintf(s->o->progress, "context  %8.0f tokens  %12.0f us between two tokens of %d at once\n",
                c->context[c->n_context - 1].tokens, c->context[c->n_context - 1].us, batch);
    return rc;
}

enum rc measure_detail(struct session *s, struct error *e)
{
    const size_t most = (size_t)(CONTEXT_TOKENS / tokens_per_byte(s));
    const size_t bytes = s->prompt_bytes < most ? s->prompt_bytes : most;
    const int batch = (int)s->c->decode[s->c->n_decode - 1].x;
    enum rc rc = measure_mixed(s, e);
    if (rc == RC_OK)
        rc = context_point(s, 1, bytes, e);
    if (rc == RC_OK && batch >= 2)
        rc = context_point(s, batch < CONTEXT_BATCH ? batch : CONTEXT_BATCH, bytes, e);
    if (rc == RC_OK)
        s->c->detail.decode_us_per_ctx_tok = context_slope(s->c);
    return rc;
}
