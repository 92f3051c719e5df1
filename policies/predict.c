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
#define INVERSE_MOST  1e6
#define TRUST_KNOWN   0.05 /* relative variance of the coefficients */
#define TRUST_GUESSED 25.0

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
    for (int i = 0; i < n; i++) {
        double trust = known ? TRUST_KNOWN : TRUST_GUESSED, size = at[i] > 0 ? at[i] : 1;
        f->at[i] = at[i];
        f->inverse[i][i] = trust * size * size;
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

/* The line learns relative errors: features and time are divided by the time that was seen. */
static void learn_line(struct predict_fit *f, const double *x, double us)
{
    double u[PREDICT_TERMS] = {0}, gain[PREDICT_TERMS], power = FORGET, error = 1;
    for (int i = 0; i < f->n; i++)
        error -= f->at[i] * x[i] / us;
    for (int i = 0; i < f->n; i++) {
        for (int k = 0; k < f->n; k++)
            u[i] += f->inverse[i][k] * x[k] / us;
        power += u[i] * x[i] / us;
    }
    for (int i = 0; i < f->n; i++) {
        gain[i] = u[i] / power;
        f->at[i] = fmax(0, f->at[i] + gain[i] * error);
    }
    for (int i = 0; i < f->n; i++) {
        for (int k = 0; k < f->n; k++)
            f->inverse[i][k] = (f->inverse[i][k] - gain[i] * u[k]) / FORGET;
        /* What is never excited must not grow without a bound (covariance wind-up). */
        double most = INVERSE_MOST * (f->at[i] * f->at[i] + 1);
        if (!(f->inverse[i][i] < most)) {
            for (int k = 0; k < f->n; k++)
                f->inverse[i][k] = f->inverse[k][i] = 0;
            f->inverse[i][i] = most;
        }
    }
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
    learn_line(f, x, us);
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
