/* A distribution of durations in bounded memory: counts by size, 64 buckets per doubling, so that a quantile is within
 * 1.6% of
 * the truth, whatever the number of values. Exact up to 64. */
#ifndef SCHEDULER_SIMULATE_HIST_H
#define SCHEDULER_SIMULATE_HIST_H

#include <stdint.h>

#define HIST_SUB     64
#define HIST_BUCKETS (HIST_SUB * 42) /* up to 2^47: four years of microseconds */

struct hist { /* {0} is empty */
    int64_t n, max;
    double sum;
    int64_t counts[HIST_BUCKETS];
};

/* value < 0 counts as 0; too large ones count in the last bucket. */
void hist_add(struct hist *h, int64_t value);
void hist_merge(struct hist *into, const struct hist *h);
/* The smallest value v such that at least q of all are <= v (the upper end of its bucket, no more than max); 0 when
 * empty. */
int64_t hist_quantile(const struct hist *h, double q);
double hist_mean(const struct hist *h);
/* Bucket by bucket, for charts: the values of bucket i end there. */
int64_t hist_bucket_end(int i);

#endif
