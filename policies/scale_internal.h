/* What scale.c (what should run), scale_cover.c (the cheapest set) and scale_moves.c (how to get there) share. */
#ifndef POLICIES_SCALE_INTERNAL_H
#define POLICIES_SCALE_INTERNAL_H

#include "policies/scale.h"

#define SCALE_EPSILON 1e-9

/* Of the groups that are `in`: the cheapest nodes whose capacity is at least target, for at most spend_max
 * (HUGE_VAL: any) by their `cost`; or, where that can't be, the most capacity. `taken` of these groups is set;
 * returns the capacity. */
double scale_cover(struct scale_work *w, double target, double spend_max);

static inline bool scale_same_domain(const struct scale_snapshot *s, int32_t a, int32_t b)
{
    return s->offers[a].domain == s->offers[b].domain;
}
static inline double scale_dollars(struct pusd p)
{
    return (double)p.v * 1e-12;
}

/* `nodes`: how many, by offer. Those of the offer's pool beyond what is kept of it (< 0: so many are missing);
 * INT32_MAX: nothing is. */
int32_t scale_beyond_min(const struct scale_snapshot *s, const int32_t *nodes, int32_t offer);

/* Is there a promise that says how many may miss it? */
static inline bool scale_misses_count(const struct scale_snapshot *s)
{
    return s->promise.asked > 0 && s->promise.asked < 1;
}
/* Of demand with this mean and spread, the mean rate above a capacity. */
double scale_overflow(double mean, double sd, double capacity);
/* What a late token costs, in dollars; learns from s->promise what has come since. 0: misses aren't weighed. */
double scale_miss_price(struct scale_memory *m, const struct scale_snapshot *s);

/* From what is to what should be (work->want): fills the plan's actions and sums. */
void scale_moves(struct scale_plan *plan, struct scale_work *w, const struct scale_snapshot *s);

#endif
