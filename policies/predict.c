#include "policies/predict.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "policies/normal.h"

#define FORGET        0.995 /* per observation: the last 200 count */
#define MOVING        (1.0 / 24)
#define MOVING_FAST   (1.0 / 6) /* once IN_A_ROW surprises say that it has changed */
#define IN_A_ROW      3
#define SD_KNOWN      0.2  /* of ln T, to begin with: calibrated; guessed */
#define SD_CURVE      0.02 /* of long prompts, that a curve was fitted to */
#define SD_GUESSED    1.0
#define SD_LEAST      0.02
#define SD_MOST       2.0
#define SURPRISE_MOST 3.0         /* of one observation, in ln */
#define SURPRISED     3.0         /* spreads */
#define ODD_MOVING    (1.0 / 256) /* stalls are seldom: their share is a mean over more */
#define HOLD_KNOWN    0.05 /* observations that the prior counts as: coefficients are thought right within a half or so, */
#define HOLD_GUESSED  0.0008  /* or within a factor of five */
#define PART_MOST     1e6     /* of one coefficient in one observation, by what was seen */
#define FIRST_SIZE_US 50000.0 /* expected times up to here are of the first class */
#define SIZE_FACTOR   4.0
#define SEEN_ENOUGH   12 /* observations: from then on its spread is believed */
#define SOLVE_ALL     32 /* observations; after these every SOLVE_EVERY-th changes the line */
#define SOLVE_EVERY   4

static const struct node_curve guessed = {
    .base_us = 50000, .prefill_us_per_tok = 100, .decode_us_base = 20000, .decode_us_per_seq = 1000};

/* ---- one line --------------------------------------------------------------------------------------------------- */

static double within(double v, double most) /* v is a number */
{
    const double least = v > -most ? v : -most;
    return least < most ? least : most;
}

static double spread(double log_variance)
{
    const double sd = sqrt(log_variance), least = sd > SD_LEAST ? sd : SD_LEAST;
    return least < SD_MOST ? least : SD_MOST;
}

static void tell_spreads(struct predict_error *e)
{
    e->s.scale = exp(e->s.log_offset);
    e->s.sd_above = spread(e->above);
    e->s.sd_below = spread(e->below);
}

static void tell_mean(struct predict_error *e)
{
    e->s.mean_ratio =
        latency_mean(&(struct latency){.median_us = 1, .log_sd = e->s.sd_above, .log_sd_below = e->s.sd_below});
}

static struct predict_error error_of(double sd)
{
    struct predict_error e = {.s = {.odd_log = 1, .began_sd = spread(sd * sd)}, .above = sd * sd, .below = sd * sd};
    tell_spreads(&e);
    tell_mean(&e);
    return e;
}

/* A measured curve is right for long prompts, and short ones are delayed by this and that. */
static void fit_init(struct predict_fit *f, int n, const double *at, bool known, double log_sd)
{
    memset(f, 0, sizeof *f);
    SPW_ASSERT(n <= PREDICT_TERMS);
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
    f->fixed = known;
    f->all = error_of(sd);
    for (int i = 0; i < PREDICT_SIZES; i++) {
        f->sized[i] = error_of(known && !(log_sd > 0) ? fmax(ldexp(sd, -i), SD_CURVE) : sd);
    }
}

static double sum_at(const struct predict_fit *f, const double *x)
{
    double y = 0;
    for (int i = 0; i < f->n; i++)
        y += f->at[i] * x[i];
    return y;
}

static double at_least_1(double us)
{
    return us > 1 ? us : 1;
}

static double line_at(const struct predict_fit *f, const double *x)
{
    return at_least_1(sum_at(f, x));
}

static int size_of(double us)
{
    _Static_assert(PREDICT_SIZES == 4, "as many comparisons as there are bounds");
    return (us > FIRST_SIZE_US) + (us > FIRST_SIZE_US * SIZE_FACTOR) + (us > FIRST_SIZE_US * SIZE_FACTOR * SIZE_FACTOR);
}

static const struct predict_error *error_at(const struct predict_fit *f, double line_us)
{
    const struct predict_error *e = &f->sized[size_of(line_us)];
    return f->fixed ? e : &f->all; /* a line that is learned follows sizes itself */
}

static inline void around(struct latency *t, const struct predict_spread *s, double line, double trust)
{
    t->median_us = line * s->scale;
    t->log_sd = s->sd_above;
    t->log_sd_below = s->sd_below;
    t->odd = s->odd;
    t->odd_log = s->odd_log;
    t->mean_ratio = s->mean_ratio;
    t->limit_us = t->within_limit = 0;
    if (__builtin_expect(trust < 1, 0)) {
        t->median_us *= exp(-s->log_offset * (1 - trust));
        t->log_sd = fmin(s->sd_above, s->began_sd + fmax(0, s->sd_above - s->began_sd) * trust);
        t->odd *= trust;
        t->mean_ratio = 0;
    }
}

/* square * c = right for the coefficients that are in; the others are 0. By Cholesky's way: square is positive
 * definite, since `hold` is never forgotten. False: numbers ran out. */
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
    double c[PREDICT_TERMS] = {0};
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

/* How much of a surprise is believed: as much as is usual on its side, and of more the more often it comes in a row. */
static double believed(struct predict_error *e, double surprise)
{
    const double usual = SURPRISED * (surprise > 0 ? e->s.sd_above : e->s.sd_below);
    const bool odd = fabs(surprise) > usual, late = odd && surprise > 0;
    e->s.odd += ODD_MOVING * (late - e->s.odd);
    if (late)
        e->s.odd_log += MOVING * (surprise - e->s.odd_log);
    if (!odd)
        e->run = 0;
    else if (late)
        e->run = e->run > 0 ? e->run + 1 : 1;
    else
        e->run = e->run < 0 ? e->run - 1 : -1;
    const int again = abs(e->run) - 1;
    return within(surprise, again > 0 ? ldexp(usual, again < 20 ? again : 20) : usual);
}

/* taken: what the line has taken over of the surprise, which is no offset any more. The offset is to be the median: it
 * is pulled by no surprise more than by a usual one, unless they come in a row. */
static void learn_error(struct predict_error *e, double surprise, double taken)
{
    /* The first ones count for more, so that a guess is soon forgotten. */
    const double often = abs(e->run) >= IN_A_ROW ? MOVING_FAST : MOVING;
    const double part = fmax(often, 1.0 / (e->seen + 2.0)), usual = (e->s.sd_above + e->s.sd_below) / 2;
    const bool in_a_row = abs(e->run) > 1 || e->seen < 2 * SEEN_ENOUGH;
    double *variance = surprise > 0 ? &e->above : &e->below;
    e->seen += e->seen < INT32_MAX;
    e->s.log_offset =
        within(e->s.log_offset + part * (in_a_row ? surprise : within(surprise, usual)) - taken, SURPRISE_MOST);
    *variance += part * (surprise * surprise - *variance);
    tell_spreads(e);
}

static double surprise_at(const struct predict_error *e, double line_us, double us)
{
    return within(normal_ln(us / (line_us * e->s.scale)), SURPRISE_MOST);
}

static void learn(struct predict_fit *f, const double *x, double us)
{
    if (!(us > 0) || !isfinite(us))
        return;
    const double line = line_at(f, x);
    struct latency was;
    around(&was, &error_at(f, line)->s, line, 1);
    const int tenth = (int)(latency_within(&was, us) * PREDICT_TENTHS);
    f->tenths[tenth < PREDICT_TENTHS ? tenth : PREDICT_TENTHS - 1]++;
    f->observed++;
    struct predict_error *sized = &f->sized[size_of(line)];
    const double all = believed(&f->all, surprise_at(&f->all, line, us)),
                 here = believed(sized, surprise_at(sized, line, us));
    if (!f->fixed)
        learn_line(f, x, line * f->all.s.scale * exp(all));
    const double taken = f->fixed ? 0 : log(line_at(f, x) / line);
    learn_error(&f->all, all, taken);
    learn_error(sized, here, taken);
    tell_mean(f->fixed ? sized : &f->all); /* of the one that predictions are made of: error_at() */
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
        x[3] = 0;
        return;
    }
    /* One step is under way, the queue takes at most twice the steps that full ones would (curve.h), then come its own. */
    x[2] = 1 + 2 * queued / p->chunk + ceil(fresh / p->chunk);
    x[3] = x[2] * others;
}

void predict_at(const struct predictor *p, int32_t others, int64_t queued, struct predict_at *a)
{
    const struct predict_load empty = {.others = others, .queued = queued};
    double x[PREDICT_TERMS];
    features(p, &empty, x);
    const double crowd[] = {1, positive(others)};
    a->fixed_us = sum_at(&p->ttft, x);
    a->per_token_us = p->ttft.at[1];
    a->per_step_us = p->chunk ? p->ttft.at[2] + p->ttft.at[3] * crowd[1] : 0;
    a->chunk = p->chunk;
    a->queue_us = positive((double)queued) * (a->per_token_us + (p->chunk ? 2 * a->per_step_us / a->chunk : 0));
    a->tpot_us = line_at(&p->tpot, crowd);
    a->tpot_spread = error_at(&p->tpot, a->tpot_us)->s;
    around(&a->tpot, &a->tpot_spread, a->tpot_us, 1);
    for (int i = 0; i < PREDICT_SIZES; i++)
        a->sized[i] = p->ttft.fixed ? p->ttft.sized[i].s : p->ttft.all.s;
}

static double up(double positive) /* ceil(), without the call that it is on older machines */
{
    const double whole = (double)(int64_t)positive;
    return whole < positive ? whole + 1 : whole;
}

double predict_from(const struct predict_at *a, int64_t fresh, double trust, struct prediction *out)
{
    const double tokens = positive((double)fresh);
    const double steps = a->per_step_us > 0 ? up(tokens / a->chunk) : 0;
    const double line = at_least_1(a->fixed_us + a->per_token_us * tokens + a->per_step_us * steps);
    around(&out->ttft, &a->sized[size_of(line)], line, trust);
    if (trust < 1)
        around(&out->tpot, &a->tpot_spread, a->tpot_us, trust);
    else
        out->tpot = a->tpot;
    return a->queue_us * (out->ttft.median_us / line);
}

struct prediction predict(const struct predictor *p, const struct predict_load *load, double trust)
{
    struct predict_at a;
    struct prediction out;
    predict_at(p, load->others, load->queued, &a);
    (void)predict_from(&a, load->prompt - load->cached, trust, &out);
    return out;
}

bool prediction_is_late(const struct prediction *p, double first_us, double tpot_us, double probability)
{
    return (first_us > 0 && latency_within(&p->ttft, first_us) < probability) ||
           (tpot_us > 0 && latency_mean(&p->tpot) > tpot_us);
}

struct predict_line predict_first(const struct predictor *p, const struct predict_at *a)
{
    const double scale = p->ttft.all.s.scale;
    struct predict_line l = {at_least_1(a->fixed_us) * scale, a->per_token_us * scale};
    if (a->per_step_us > 0)
        l.per_token_us += a->per_step_us / a->chunk * scale;
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
    const double crowd[PREDICT_TERMS] = {1, positive(load->others)};
    learn(&p->tpot, crowd, us);
}

struct node_curve predictor_curve(const struct predictor *p)
{
    const double step = p->tpot.at[0] * p->tpot.all.s.scale, crowd = p->tpot.at[1] * p->tpot.all.s.scale;
    return (struct node_curve){.base_us = p->ttft.at[0] * p->ttft.all.s.scale,
                               .prefill_us_per_tok = p->ttft.at[1] * p->ttft.all.s.scale,
                               .decode_us_base = positive(step - crowd),
                               .decode_us_per_seq = crowd};
}
