/* How long a request will take on a node, as a distribution, learned while it serves.
 *
 * Two lines per node and model, of what is known when a request is routed:
 *     TTFT = base + prefill * (fresh + queued) + step * steps + crowd * steps * others
 *     TPOT = step + crowd * others
 * fresh: prompt tokens that are not cached; queued: those of prompts that were sent there before and have no first token
 * yet; others: requests in flight on the node; steps: of the batch that a prompt sits through, for a node that computes
 * prompts in chunks beside its decoding (curve_ttft_us() has the same; Agrawal et al., Sarathi-Serve, 2024). Of a node whose
 * chunks are not known, steps is 1, and so a constant.
 * They are the node's curve (policies/curve.h) where it was calibrated, and stay that. Else they begin as a guess and are
 * learned from every answer: least squares of relative errors with exponential forgetting, held to where they began by a term
 * that is never forgotten (Tikhonov), so that what is seldom seen, or only together with something else, stays as it was; no
 * coefficient below 0 (the most negative is set to nothing, and the others are solved anew). Around the lines the times are
 * taken to be lognormal, with a spread of its own on each side (latency.h); spreads and offset are moving averages of
 * the logarithm of (observed / predicted), so that a node that has become slow is believed slow after a few answers
 * even if the lines have not followed yet. What is more than three spreads off counts as three (Huber), unless it goes
 * on: one stall is not the rule. How often that happens on the late side, and how late it is then, is kept beside it
 * (`odd`).
 *
 * Of a curve errors are kept by size, since a wait of a few steps is much for a short prompt and nothing for a long
 * one: four classes of the expected time, each four times the one before.
 *
 * Trust. A node that is thought slow gets no requests, and so could never show that it is not. What was learned of its
 * offset, its spread and its stalls therefore counts for less, the longer it was not heard of: the caller says by how
 * much (`trust`, 1: as much as ever, 0: as in the beginning), and sooner or later it is tried again.
 *
 * Is it any good? Each observation is placed in the distribution that had been predicted for it; if predictions are
 * calibrated, all tenths of it are hit equally often (probability integral transform: Dawid 1984). The counts are
 * exported.
 *
 * Plain state; no clock, I/O, lock or allocation. Doubles: none of this is money. */
#ifndef POLICIES_PREDICT_H
#define POLICIES_PREDICT_H

#include <stdbool.h>
#include <stdint.h>

#include "policies/curve.h"
#include "policies/latency.h"

#define PREDICT_TENTHS 10
#define PREDICT_TERMS  4
#define PREDICT_SIZES  4
struct predict_fit { /* one line; coefficient i of features x[i] */
    int n;
    double at[PREDICT_TERMS];
    double began[PREDICT_TERMS], unit[PREDICT_TERMS]; /* what coefficients are counted in: as they began, or 1 */
    double square[PREDICT_TERMS][PREDICT_TERMS], right[PREDICT_TERMS]; /* of the normal equations, in those units */
    double hold;                                                       /* of the prior */
    bool fixed;                                                        /* the line is the curve's */
    struct predict_error {
        struct predict_spread { /* what a prediction needs: one cache line of it */
            double log_offset, scale, sd_above, sd_below, mean_ratio, odd, odd_log;
            double began_sd; /* spread, before anything was seen */
        } s;
        double above, below; /* variances of ln */
        int32_t seen;
        int32_t run; /* surprises in a row, to one side: < 0 early, > 0 late */
    } all, sized[PREDICT_SIZES];
    uint64_t observed, tenths[PREDICT_TENTHS];
};
struct predictor {
    struct predict_fit ttft, tpot;
    int32_t chunk;
};
struct predict_prior {
    const struct node_curve *curve; /* NULL: nothing is known */
    int32_t chunk;                  /* prompt tokens that a step takes at most; 0: unknown */
    double log_sd;                  /* of times around the curve; 0: the usual for a calibrated one, or for a guess */
};
void predictor_init(struct predictor *p, const struct predict_prior *prior);

struct predict_load {
    int32_t others;         /* in flight beside this request */
    int64_t prompt, cached; /* tokens; cached: held by the node, as far as is known */
    int64_t queued;         /* tokens of others' prompts before it */
};
struct prediction {
    struct latency ttft, tpot;
};
struct prediction predict(const struct predictor *p, const struct predict_load *load, double trust);
/* Does it break a promise: a first token after first_us at the latest with that probability, tpot_us per further one in
 * the mean? 0: not promised. */
bool prediction_is_late(const struct prediction *p, double first_us, double tpot_us, double probability);
/* The same in two steps, for whoever asks of many prompts at the same load: all that no prompt changes is reckoned
 * once. It holds until the load changes or something is learned. */
struct predict_at {
    double fixed_us, per_token_us,
        per_step_us; /* the line of TTFT: of tokens that are not cached, of steps for these */
    double queue_us; /* of fixed_us, what the prompts before it take */
    double chunk;    /* tokens in a step; 0: unknown */
    double tpot_us;
    struct latency tpot; /* fully trusted */
    struct predict_spread tpot_spread;
    struct predict_spread sized[PREDICT_SIZES]; /* of TTFT, by the line */
};
void predict_at(const struct predictor *p, int32_t others, int64_t queued, struct predict_at *out);
/* fresh: prompt tokens that are not cached. Returns what of the median time to the first token the prompts before it take. */
double predict_from(const struct predict_at *a, int64_t fresh, double trust, struct prediction *out);
/* The expected time to the first token as (fixed) + (per token that is not cached) * tokens. */
struct predict_line {
    double fixed_us, per_token_us;
};
struct predict_line predict_first(const struct predictor *p, const struct predict_at *a);
/* What came of it. `load` as it was when the request was routed. Times that are not positive are passed by. */
void predictor_saw_ttft(struct predictor *p, const struct predict_load *load, double us);
void predictor_saw_tpot(struct predictor *p, const struct predict_load *load, double us);
/* The curve that the lines say: what was learned, in the words of what was measured. */
struct node_curve predictor_curve(const struct predictor *p);
/* The largest distance between the share of observations at or below a tenth and that tenth: 0 is perfect, below 0.1 is
 * good. 0 before the first. */
double predict_miscalibration(const struct predict_fit *f);

#endif
