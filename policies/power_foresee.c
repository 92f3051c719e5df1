/* What a group will need: the forecast's rate becomes a number of requests in service, with a spread that is compared
 * with what came. */
#include <math.h>

#include "policies/forecast.h"
#include "policies/power.h"

/* Up to here a slot that is missing is missing: it is foreseen for z. Beyond, the next plans know better and who sleeps
 * lightly bridges the rest, so that it is a matter of price: see far_z(). */
#define NEAR_S 30
/* Watts of spare capacity that it may take for one request more not to wait: two to eight times what serving it draws
 * (12 W for 70B on four H100, 3.6 W for 8B on one, in a full batch). */
#define LATE_W    28
#define FAR_LEAST 0.5 /* of z */
/* What was foreseen for a time h ahead falls by this share of the difference in h; sooner if it is dear. */
#define FORGETS   0.5
#define LIKELY    0.7 /* spreads above the mean */
#define TRIED_S   640 /* further ahead nothing is compared: a day has too few such times */
#define WIDTH_MIN 0.5
#define WIDTH_MAX 4.0
/* Of the width's logarithm, when it was too narrow once. Who is wrong about what comes in a minute is wrong for a
 * minute, so the same error is seen many times: far ahead less is learned from one. */
#define LEARNS     0.02
#define LEARNS_FAR 0.005

static const double at_s[POWER_STEPS_MAX] = {5, 10, 20, 40, 80, 160, 320, 640, 1500, 3600};

/* Served at once, so far from now. */
struct served {
    double mean, spread;
};
static struct served served(const struct power_outlook *o, double in_s)
{
    double left = exp(-in_s / (o->hold_s > 0.001 ? o->hold_s : 0.001));
    struct forecast_value v = forecast_at(o->forecast, in_s);
    /* Of n in service n left (1 - left) is the variance of those who stay, v.mean (1 - left) of those who come. */
    double chance = ((o->in_use + o->waiting) * left + v.mean) * (1 - left);
    return (struct served){.mean = (o->in_use + o->waiting) * left + v.mean * (1 - left),
                           .spread = sqrt(fmax(v.up * v.up * (1 - left), chance))};
}

/* How often more may come than z spreads, for a normal error. */
static double may_exceed(double z)
{
    return 0.5 * erfc(z / sqrt(2));
}

/* The z that is exceeded with that probability, 0 < p <= 1/2; off by 0.00045 at most: Abramowitz and Stegun, "Handbook
 * of Mathematical Functions" (1964), 26.2.23. */
static double exceeded_at(double p)
{
    const double t = sqrt(-2 * log(p));
    return t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1 + t * (1.432788 + t * (0.189269 + t * 0.001308)));
}

/* How many spreads are kept for what is far ahead: the newsvendor's rule (Arrow, Harris and Marschak, "Optimal
 * inventory policy", 1951). A slot too many costs spare_w, one too few costs LATE_W: the sum is least where more comes
 * with the probability spare_w / (spare_w + LATE_W). Never more than z, and not less than half of it. */
static double far_z(const struct power_outlook *o)
{
    const double p = o->spare_w / (o->spare_w + LATE_W);
    const double z = p <= 0 ? o->z : p < 0.5 ? exceeded_at(p) : 0;
    return fmin(fmax(z, FAR_LEAST * o->z), o->z);
}

/* ---- what was said, and what came -------------------------------------------------------------------------------- */

static void compare(struct power_tried *t, int64_t now_us, int64_t every_us, double came, double seldom, double learns)
{
    if (t->width <= 0)
        t->width = 1;
    for (; t->n > 0 && t->waiting[t->first].due_us <= now_us; t->n--) {
        /* Not after a pause: what is known is of now, not of then. */
        if (now_us - t->waiting[t->first].due_us <= every_us) {
            double step = learns * ((came > t->waiting[t->first].said) - seldom);
            t->width = fmin(fmax(t->width * exp(step), WIDTH_MIN), WIDTH_MAX);
        }
        t->first = (t->first + 1) % POWER_TRIED_MAX;
    }
}

static void remember(struct power_tried *t, int64_t now_us, int64_t in_us, int64_t every_us, double said)
{
    if (t->n == POWER_TRIED_MAX || (t->n > 0 && now_us < t->next_us))
        return;
    int32_t at = (t->first + t->n++) % POWER_TRIED_MAX;
    t->waiting[at].due_us = now_us + in_us;
    t->waiting[at].said = said;
    t->next_us = now_us + every_us;
}

static double spreads_now(const struct power_group *g, const struct power_outlook *o)
{
    const bool bridged = o->wake_us > 0 && o->ttft_us > 0 && o->wake_us <= o->ttft_us / 4;
    return bridged ? 0 : o->z * g->tried[0].width;
}

static bool forgotten(const struct power_outlook *o)
{
    return o->forget_us > 0 && o->quiet_us > o->forget_us && o->in_use + o->waiting <= 0;
}

void power_foresee(struct power_group *g, const struct power_outlook *o)
{
    bool kept = g->n_steps == POWER_STEPS_MAX;
    double passed_s = kept ? (double)(o->now_us - g->foreseen_us) / 1e6 : 0;
    g->now = o->in_use + o->waiting;
    g->n_steps = POWER_STEPS_MAX;
    g->foreseen_us = o->now_us;
    const double later_z = far_z(o), dear = later_z > 0 ? o->z / later_z : 1, forgets = FORGETS * dear * dear;
    for (int i = 0; i < POWER_STEPS_MAX; i++) {
        const bool far = at_s[i] > NEAR_S;
        struct power_tried *t = &g->tried[i];
        int64_t in_us = (int64_t)(at_s[i] * 1e6), every_us = in_us / (POWER_TRIED_MAX - 1);
        double z = far ? later_z : o->z;
        every_us = every_us > o->tick_us ? every_us : o->tick_us;
        compare(t, o->now_us, every_us, g->now, may_exceed(z), far ? LEARNS_FAR : LEARNS);
        struct served s = served(o, at_s[i]);
        double upper = s.mean + z * s.spread * t->width;
        double before = kept ? g->steps[i].capacity : 0, fall = passed_s / at_s[i] * forgets;
        if (before > upper && fall < 1)
            upper = before - (before - upper) * fall;
        if (at_s[i] <= TRIED_S)
            remember(t, o->now_us, in_us, every_us, upper);
        g->steps[i] =
            (struct power_need){.in_us = in_us, .capacity = upper, .likely = fmin(s.mean + LIKELY * s.spread, upper)};
    }
    g->untried = o->forecast->error_n[2] == 0; /* a quarter of an hour ahead */
    g->until_us = g->steps[POWER_STEPS_MAX - 1].in_us;
    struct served next = served(o, (double)o->tick_us / 1e6);
    g->margin = fmax(next.mean + spreads_now(g, o) * next.spread - g->now, 0);
    if (forgotten(o)) {
        g->n_steps = 0;
        g->now = g->margin = 0;
    }
}

int64_t power_last_us(int64_t mean_us, int32_t n)
{
    return n > 0 ? (int64_t)((double)mean_us * (n > 1 ? log(n) + 0.58 : 1)) : 0; /* 0.58: Euler's constant */
}
