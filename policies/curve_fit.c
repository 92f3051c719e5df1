#include "policies/curve_fit.h"

#include <math.h>

/* Weighted by 1 / us^2: deviations are relative ones. */
struct sums {
    double w, x, y, xx, xy;
};

static struct sums sums_of(const struct curve_point *p, int n)
{
    struct sums s = {0};
    for (int i = 0; i < n; i++) {
        double w = 1 / (p[i].us * p[i].us);
        s.w += w;
        s.x += w * p[i].x;
        s.y += w * p[i].us;
        s.xx += w * p[i].x * p[i].x;
        s.xy += w * p[i].x * p[i].us;
    }
    return s;
}

/* Of a convex problem with two bounds: if the free optimum breaks one, the best lies on it. */
static struct line least_squares(const struct sums *s)
{
    double spread = s->w * s->xx - s->x * s->x;
    struct line l = {.at_0 = s->y / s->w};
    if (spread <= 1e-12 * s->w * s->xx)
        return l;
    double slope = (s->w * s->xy - s->x * s->y) / spread, at_0 = (s->y - slope * s->x) / s->w;
    if (slope < 0)
        return l;
    if (at_0 < 0)
        return (struct line){.slope = s->xy / s->xx};
    return (struct line){.at_0 = at_0, .slope = slope};
}

struct line curve_fit_line(const struct curve_point *p, int n)
{
    struct sums s = sums_of(p, n);
    struct line l = least_squares(&s);
    for (int i = 0; i < n; i++)
        l.error = fmax(l.error, fabs(l.at_0 + l.slope * p[i].x - p[i].us) / p[i].us);
    return l;
}

struct node_curve curve_fit(const struct curve_point *prefill, int n_prefill, const struct curve_point *decode,
                            int n_decode)
{
    struct line first = curve_fit_line(prefill, n_prefill), step = curve_fit_line(decode, n_decode);
    return (struct node_curve){.base_us = first.at_0,
                               .prefill_us_per_tok = first.slope,
                               .decode_us_base = step.at_0,
                               .decode_us_per_seq = step.slope};
}
