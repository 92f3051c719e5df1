#include "policies/predict.h"

#include <math.h>
#include <string.h>

#define FORGET        0.995 /* per observation: the last 200 count */
#define MOVING        (1.0 / 24)
#define SD_KNOWN      0.35 /* of ln T, to begin with: calibrated; guessed */
#define SD_GUESSED    1.0
#define SD_LEAST      0.02
#define SD_MOST       2.0
#define SURPRISE_MOST 3.0 /* of one observation, in ln: one stall is not the rule */
#define HOLD_KNOWN    0.05 /* observations that the prior counts as: coefficients are thought right within a half or so, */
#define HOLD_GUESSED  0.0008 /* or within a factor of five */
#define PART_MOST     1e6    /* of one coefficient in one observation, by what was seen */
#define SOLVE_ALL     32     /* observations; after these every SOLVE_EVERY-th changes the line */
#define SOLVE_EVERY   4

static const struct node_curve guessed = {
    .base_us = 50000, .prefill_us_per_tok = 100, .decode_us_base = 20000, .decode_us_per_seq = 1000};

/* ---- one line --------------------------------------------------------------------------------------------------- */

static double spread(double log_variance)
{
    return fmin(fmax(sqrt(log_variance), SD_LEAST), SD_MOST);
}

static void fit_init(struct predict_fit *f, int n, const double *at, bool known, double log_sd)
{
    memset(f, 0, sizeof *f);
    f->n = n;
    f->hold = known ? HOLD_KNOWN : HOLD_GUESSED;
    for (int i = 0; i < n; i++) {
        f->at[i] = at[i];
        f->began[i] = at[i];
        f->unit[i] = at[i] > 0 ? at[i] : 1;
        f->square[i][i] = f->hold;
        f->right[i] = f->hold * f->began[i] / f->unit[i];
    }
    double sd = log_sd > 0 ? log_sd : known ? SD_KNOWN : SD_GUESSED;
    f->log_variance = sd * sd;
    f->scale = 1;
    f->sd = spread(f->log_variance);
}

static double line_at(const struct predict_fit *f, const double *x)
{
    double y = 0;
    for (int i = 0; i < f->n; i++)
        y += f->at[i] * x[i];
    return y > 1 ? y : 1;
}

static struct latency latency_of(const struct predict_fit *f, const double *x)
{
    return (struct latency){line_at(f, x) * f->scale, f->sd};
}

/* square * c = right for the coefficients that are in; the others are 0. By Cholesky's way: square is positive definite, since
 * `hold` is never forgotten. False: numbers ran out. */
static bool solve(const struct predict_fit *f, unsigned in, double c[PREDICT_TERMS])
{
    double l[PREDICT_TERMS][PREDICT_TERMS], y[PREDICT_TERMS];
    int at[PREDICT_TERMS], n = 0;
    for (int i = 0; i < f->n; i++) {
        c[i] = 0;
        if (in >> i & 1)
            at[n++] = i;
    }
    for (int i = 0; i < n; i++) {
        y[i] = f->right[at[i]];
        for (int k = 0; k <= i; k++) {
            l[i][k] = f->square[at[i]][at[k]];
            for (int m = 0; m < k; m++)
                l[i][k] -= l[i][m] * l[k][m];
            if (k < i)
                l[i][k] /= l[k][k];
        }
        if (!(l[i][i] > 0))
            return false;
        l[i][i] = sqrt(l[i][i]);
        for (int k = 0; k < i; k++)
            y[i] -= l[i][k] * y[k];
        y[i] /= l[i][i];
    }
    for (int i = n - 1; i >= 0; i--) {
        for (int k = i + 1; k < n; k++)
            y[i] -= l[k][i] * y[k];
        y[i] /= l[i][i];
        if (!isfinite(y[i]))
            return false;
        c[at[i]] = y[i];
    }
    return true;
}

static void set_line(struct predict_fit *f)
{
    double c[PREDICT_TERMS];
    unsigned in = (1u << f->n) - 1;
    for (int round = 0; round < f->n && in; round++) {
        if (!solve(f, in, c))
            return;
        int worst = 0;
        for (int i = 1; i < f->n; i++)
            worst = c[i] < c[worst] ? i : worst;
        if (c[worst] >= 0)
            break;
        in &= ~(1u << worst);
        c[worst] = 0;
    }
    for (int i = 0; i < f->n; i++)
        f->at[i] = fmax(0, c[i]) * f->unit[i];
}

/* The line learns relative errors: features and time are divided by the time that was seen. */
static void learn_line(struct predict_fit *f, const double *x, double us)
{
    double u[PREDICT_TERMS];
    for (int i = 0; i < f->n; i++)
        u[i] = fmin(x[i] * f->unit[i] / us, PART_MOST);
    for (int i = 0; i < f->n; i++) {
        for (int k = 0; k < f->n; k++)
            f->square[i][k] = f->square[i][k] * FORGET + u[i] * u[k];
        f->square[i][i] += f->hold * (1 - FORGET);
        f->right[i] = f->right[i] * FORGET + u[i] + f->hold * (1 - FORGET) * f->began[i] / f->unit[i];
    }
    if (f->observed <= SOLVE_ALL || f->observed % SOLVE_EVERY == 0)
        set_line(f);
}

static void learn(struct predict_fit *f, const double *x, double us)
{
    if (!(us > 0) || !isfinite(us))
        return;
    struct latency was = latency_of(f, x);
    int tenth = (int)(latency_within(was, us) * PREDICT_TENTHS);
    f->tenths[tenth < PREDICT_TENTHS ? tenth : PREDICT_TENTHS - 1]++;
    f->observed++;
    double surprise = log(us / was.median_us);
    surprise = fmin(fmax(surprise, -SURPRISE_MOST), SURPRISE_MOST);
    /* The first ones count for more, so that a guess is soon forgotten. */
    double part = fmax(MOVING, 1.0 / (double)(f->observed + 1));
    double before = line_at(f, x);
    learn_line(f, x, was.median_us * exp(surprise));
    /* What the line has taken over of the surprise is no offset any more. */
    f->log_offset += part * surprise - log(line_at(f, x) / before);
    f->log_offset = fmin(fmax(f->log_offset, -SURPRISE_MOST), SURPRISE_MOST);
    f->log_variance += part * (surprise * surprise - f->log_variance);
    f->scale = exp(f->log_offset);
    f->sd = spread(f->log_variance);
}

double predict_miscalibration(const struct predict_fit *f)
{
    double most = 0;
    uint64_t below = 0, all = 0;
    for (int i = 0; i < PREDICT_TENTHS; i++)
        all += f->tenths[i];
    for (int i = 0; i < PREDICT_TENTHS && all; i++) {
        below += f->tenths[i];
        most = fmax(most, fabs((double)below / (double)all - (i + 1.0) / PREDICT_TENTHS));
    }
    return most;
}

/* ---- a node ----------------------------------------------------------------------------------------------------- */

void predictor_init(struct predictor *p, const struct predict_prior *prior)
{
    const struct node_curve *c = prior->curve ? prior->curve : &guessed;
    const bool known = prior->curve != NULL;
    double step = c->decode_us_base + c->decode_us_per_seq;
    const double tpot[] = {step, c->decode_us_per_seq};
    /* Without chunks: a prompt that comes to a batch waits for the step that runs, and a little for the others'. */
    const double whole[] = {c->base_us, c->prefill_us_per_tok, step};
    const double chunked[] = {c->base_us, c->prefill_us_per_tok, c->decode_us_base, c->decode_us_per_seq};
    p->chunk = prior->chunk > 0 ? prior->chunk : 0;
    if (p->chunk)
        fit_init(&p->ttft, 4, chunked, known, prior->log_sd);
    else
        fit_init(&p->ttft, 3, whole, known, prior->log_sd);
    fit_init(&p->tpot, 2, tpot, known, prior->log_sd);
}

static double positive(double v)
{
    return v > 0 ? v : 0;
}

static void features(const struct predictor *p, const struct predict_load *load, double x[PREDICT_TERMS])
{
    const double fresh = positive((double)(load->prompt - load->cached)), queued = positive((double)load->queued),
                 others = positive(load->others);
    x[0] = 1;
    x[1] = fresh + queued;
    if (!p->chunk) {
        x[2] = others;
        return;
    }
    /* One step is under way, the queue takes at most twice the steps that full ones would (curve.h), then come its own. */
    x[2] = 1 + 2 * queued / p->chunk + ceil(fresh / p->chunk);
    x[3] = x[2] * others;
}

struct prediction predict(const struct predictor *p, const struct predict_load *load)
{
    double x[PREDICT_TERMS];
    features(p, load, x);
    const double crowd[] = {1, positive(load->others)};
    return (struct prediction){latency_of(&p->ttft, x), latency_of(&p->tpot, crowd)};
}

struct predict_line predict_first(const struct predictor *p, const struct predict_load *load)
{
    const struct predict_load empty = {.others = load->others, .queued = load->queued};
    double x[PREDICT_TERMS];
    features(p, &empty, x);
    struct predict_line l = {line_at(&p->ttft, x) * p->ttft.scale, p->ttft.at[1] * p->ttft.scale};
    if (p->chunk)
        l.per_token_us += (p->ttft.at[2] + p->ttft.at[3] * positive(load->others)) / p->chunk * p->ttft.scale;
    return l;
}

void predictor_saw_ttft(struct predictor *p, const struct predict_load *load, double us)
{
    double x[PREDICT_TERMS];
    features(p, load, x);
    learn(&p->ttft, x, us);
}

void predictor_saw_tpot(struct predictor *p, const struct predict_load *load, double us)
{
    const double crowd[] = {1, positive(load->others)};
    learn(&p->tpot, crowd, us);
}

struct node_curve predictor_curve(const struct predictor *p)
{
    const double step = p->tpot.at[0] * p->tpot.scale, crowd = p->tpot.at[1] * p->tpot.scale;
    return (struct node_curve){.base_us = p->ttft.at[0] * p->ttft.scale,
                               .prefill_us_per_tok = p->ttft.at[1] * p->ttft.scale,
                               .decode_us_base = positive(step - crowd),
                               .decode_us_per_seq = crowd};
}
