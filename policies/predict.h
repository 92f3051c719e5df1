/* How long a request will take on a node, as a distribution, learned while it serves.
 *
 * Two lines per node and model, of what is known when a request is routed:
 *     TTFT = base + prefill * (prompt - cached) + wait * others      others: requests in flight on the node
 *     TPOT = step + crowd * others
 * They begin as the node's curve (policies/curve.h) where it was calibrated, else as a guess, and are corrected by every
 * answer: recursive least squares of relative errors with exponential forgetting (Haykin, Adaptive Filter Theory,
 * ch. 10), no coefficient below 0. Around the lines the times are taken to be lognormal; spread and offset are moving
 * averages of the logarithm of (observed / predicted), so that a node that has become slow is believed slow after a few
 * answers even if the lines have not followed yet.
 *
 * Is it any good? Each observation is placed in the distribution that had been predicted for it; if predictions are
 * calibrated, all tenths of it are hit equally often (probability integral transform: Dawid 1984). The counts are exported.
 *
 * Plain state; no clock, I/O, lock or allocation. Doubles: none of this is money. */
#ifndef POLICIES_PREDICT_H
#define POLICIES_PREDICT_H

#include <stdbool.h>
#include <stdint.h>

#include "policies/curve.h"
#include "policies/latency.h"

#define PREDICT_TENTHS 10
struct predict_fit { /* one line; coefficient i of features x[i] */
    int n;
    double at[3], inverse[3][3]; /* inverse: of the correlations, as least squares keeps it */
    double log_offset, log_variance;
    uint64_t observed, tenths[PREDICT_TENTHS];
};
struct predictor {
    struct predict_fit ttft, tpot;
};
/* curve: NULL where nothing is known. */
void predictor_init(struct predictor *p, const struct node_curve *curve);

struct predict_load {
    int32_t others;         /* in flight beside this request */
    int64_t prompt, cached; /* tokens; cached: held by the node, as far as is known */
};
struct prediction {
    struct latency ttft, tpot;
};
struct prediction predict(const struct predictor *p, const struct predict_load *load);
/* What came of it. `load` as it was when the request was routed. Times that are not positive are passed by. */
void predictor_saw_ttft(struct predictor *p, const struct predict_load *load, double us);
void predictor_saw_tpot(struct predictor *p, const struct predict_load *load, double us);
/* The largest distance between the share of observations at or below a tenth and that tenth: 0 is perfect, below 0.1 is
 * good. 0 before the first. */
double predict_miscalibration(const struct predict_fit *f);

#endif
