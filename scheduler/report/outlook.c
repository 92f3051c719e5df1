#include "scheduler/report/outlook.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WEEK         7
#define LEVEL_DAYS   14
#define NORMAL_80    1.2816 /* half of the width of the middle 80 % */
#define MAD_TO_SIGMA 1.4826
#define MAD_TO_Z     0.6745
#define HOURS_WEEK   168
#define WEEKS_MAX    16
#define LEAST_SPREAD 0.1 /* of the median: the spread of few quiet hours is no measure */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts. n 0: 0. */
static double median(double *v, int n)
{
    if (n == 0)
        return 0;
    qsort(v, (size_t)n, sizeof(*v), by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* ---- where the month will end ----------------------------------------------------------------------------------------- */

struct past {
    const double *days;
    int n, first_weekday;
    double factor[WEEK];
    double level, noise, drift;
};

static int weekday(const struct past *p, int i)
{
    return (p->first_weekday + i) % WEEK;
}

/* Mean of the seven days around day i; at the ends of the nearest seven. */
static double around(const struct past *p, int i)
{
    const int width = p->n < WEEK ? p->n : WEEK;
    int from = i - width / 2;
    double sum = 0;

    from = from < 0 ? 0 : from > p->n - width ? p->n - width : from;
    for (int k = from; k < from + width; k++)
        sum += p->days[k];
    return sum / width;
}

static void find_factors(struct past *p)
{
    double sum = 0;

    for (int w = 0; w < WEEK; w++) {
        double ratios[OUTLOOK_PAST_MAX];
        int n = 0;
        for (int i = 0; i < p->n; i++) {
            const double mean = around(p, i);
            if (weekday(p, i) == w && mean > 0)
                ratios[n++] = p->days[i] / mean;
        }
        sum += p->factor[w] = n ? median(ratios, n) : 1;
    }
    for (int w = 0; w < WEEK; w++)
        p->factor[w] = sum > 0 ? p->factor[w] * WEEK / sum : 1;
}

static void find_level(struct past *p)
{
    double v[LEVEL_DAYS];
    int n = 0;

    for (int i = p->n > LEVEL_DAYS ? p->n - LEVEL_DAYS : 0; i < p->n; i++)
        if (p->factor[weekday(p, i)] > 0.05) /* a day on which hardly anybody works says nothing of the others */
            v[n++] = p->days[i] / p->factor[weekday(p, i)];
    p->level = median(v, n);
}

static void find_noise(struct past *p)
{
    double off[OUTLOOK_PAST_MAX];
    int n = 0;

    for (int i = 0; i < p->n; i++) {
        const double mean = around(p, i), f = p->factor[weekday(p, i)];
        if (mean > 0 && f > 0.05)
            off[n++] = fabs(p->days[i] / mean / f - 1);
    }
    p->noise = MAD_TO_SIGMA * median(off, n);
    n = 0;
    for (int end = p->n; end >= 2 * WEEK; end -= WEEK) {
        double last = 0, before = 0;
        for (int i = 1; i <= WEEK; i++) {
            last += p->days[end - i];
            before += p->days[end - WEEK - i];
        }
        if (before > 0)
            off[n++] = fabs(last / before - 1);
    }
    p->drift = MAD_TO_SIGMA * median(off, n);
}

struct outlook outlook_month(const double *days, int n, int first_weekday, int ahead)
{
    struct outlook o = {.known = n >= 3, .weekdays = n >= 2 * WEEK};

    if (!o.known)
        return o;
    const int skipped = n > OUTLOOK_PAST_MAX ? n - OUTLOOK_PAST_MAX : 0;
    struct past p = {days + skipped, n - skipped, (first_weekday + skipped) % WEEK, {1, 1, 1, 1, 1, 1, 1}, 0, 0, 0};

    if (o.weekdays)
        find_factors(&p);
    find_level(&p);
    find_noise(&p);
    for (int h = 1; h <= ahead && h <= OUTLOOK_DAYS_MAX; h++) {
        o.expected += p.level * p.factor[weekday(&p, p.n + h - 1)];
        const double s2 = p.noise * p.noise, variance = h * s2 + (double)h * h * (M_PI / 2) * s2 / LEVEL_DAYS +
                                                        p.drift * p.drift * (double)h * h * h / (3 * WEEK);
        const double half = NORMAL_80 * p.level * sqrt(variance);
        o.low = fmax(o.low, o.expected - half); /* a sum of what is never negative does not fall */
        o.high = o.expected + half;
        o.path[h - 1] = o.expected;
        o.path_low[h - 1] = o.low;
        o.path_high[h - 1] = o.high;
    }
    return o;
}

/* ---- what made the difference ------------------------------------------------------------------------------------------ */

/* a x part / whole, to nearest, away from zero; |a| < 2^100 and part, whole < 2^63, so in two steps. whole > 0. */
static __int128 scale(__int128 a, int64_t part, int64_t whole)
{
    const bool below = a < 0;
    const unsigned __int128 v = below ? -(unsigned __int128)a : (unsigned __int128)a, w = (uint64_t)whole;
    const unsigned __int128 rest = (v % w) * (uint64_t)part;
    const unsigned __int128 r = v / w * (uint64_t)part + rest / w + (rest % w * 2 >= w);
    return below ? -(__int128)r : (__int128)r;
}

struct driver driver_split(int member, struct pusd_sum before, int64_t tokens_before, struct pusd_sum now,
                           int64_t tokens_now)
{
    struct driver d = {.member = member, .change = now.v - before.v};

    if (tokens_before <= 0 || tokens_now <= 0) {
        d.volume = d.change;
        return d;
    }
    /* (p0 + p1) / 2 x (q1 - q0) = (c0 q1 / q0 - c0 + c1 - c1 q0 / q1) / 2 */
    d.volume =
        (scale(before.v, tokens_now, tokens_before) - before.v + now.v - scale(now.v, tokens_before, tokens_now)) / 2;
    d.price = d.change - d.volume;
    return d;
}

static int by_change(const void *a, const void *b)
{
    const struct driver *x = a, *y = b;
    const __int128 p = x->change < 0 ? -x->change : x->change, q = y->change < 0 ? -y->change : y->change;
    return p != q ? (p < q) - (p > q) : (x->member > y->member) - (x->member < y->member);
}

void driver_sort(struct driver *d, int n)
{
    if (n > 1)
        qsort(d, (size_t)n, sizeof(*d), by_change);
}

/* ---- what is unusual --------------------------------------------------------------------------------------------- */

/* z of hour i, and what is usual then. false: there are too few other weeks. */
static bool judge(const double *hours, int n, int i, double *usual, double *z)
{
    double same[2 * WEEKS_MAX], off[6 * WEEKS_MAX];
    int weeks = 0, n_off = 0;

    for (int at = i % HOURS_WEEK; at < n && weeks < 2 * WEEKS_MAX; at += HOURS_WEEK)
        if (at != i)
            same[weeks++] = hours[at];
    if (weeks < ANOMALY_WEEKS_LEAST)
        return false;
    *usual = median(same, weeks);
    for (int shift = -1; shift <= 1; shift++) { /* each neighbour against its own median */
        double v[2 * WEEKS_MAX];
        int k = 0;
        for (int at = i % HOURS_WEEK; at < n && k < 2 * WEEKS_MAX; at += HOURS_WEEK)
            if (at != i && at + shift >= 0 && at + shift < n)
                v[k++] = hours[at + shift];
        const double middle = median(v, k);
        for (int j = 0; j < k; j++)
            off[n_off++] = fabs(v[j] - middle);
    }
    const double spread = fmax(median(off, n_off), LEAST_SPREAD * *usual);
    const double away = hours[i] - *usual;
    *z = spread > 0 ? MAD_TO_Z * away / spread : away > 0 ? 99 : 0;
    *z = fmax(-99, fmin(99, *z));
    return true;
}

/* Among the largest? Then at its place in time. */
static void keep(struct anomaly *out, int *n, int max, const struct anomaly *a)
{
    if (*n == max) {
        int least = 0;
        for (int i = 1; i < max; i++)
            if (fabs(out[i].spent - out[i].usual) < fabs(out[least].spent - out[least].usual))
                least = i;
        if (max == 0 || fabs(out[least].spent - out[least].usual) >= fabs(a->spent - a->usual))
            return;
        memmove(&out[least], &out[least + 1], (size_t)(max - least - 1) * sizeof(*out));
        --*n;
    }
    out[(*n)++] = *a;
}

int anomaly_find(const double *hours, int n, int first, double least, struct anomaly *out, int max, int *judged)
{
    struct anomaly open = {0};
    bool is_open = false;
    int found = 0;

    *judged = 0;
    for (int i = first < 0 ? 0 : first; i <= n; i++) {
        double usual = 0, z = 0;
        const bool known = i < n && judge(hours, n, i, &usual, &z);
        const bool odd = known && fabs(z) >= ANOMALY_Z;
        *judged += known;
        if (is_open && (!odd || (z > 0) != (open.z > 0))) {
            if (fabs(open.spent - open.usual) >= least)
                keep(out, &found, max, &open);
            is_open = false;
        }
        if (odd) {
            if (!is_open)
                open = (struct anomaly){.from = i};
            is_open = true;
            open.until = i + 1;
            open.spent += hours[i];
            open.usual += usual;
            open.z = fabs(z) > fabs(open.z) ? z : open.z;
        }
    }
    return found;
}
