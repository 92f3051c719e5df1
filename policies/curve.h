/* How fast a node type computes a model: four numbers, measured (`spillway nodes calibrate`), cited, or derived from
 * bandwidth and FLOPs (capacity.h). Predictions, capacity at the SLO, autoscaling and the simulator read the same
 * four.
 *
 *   one prompt alone:     TTFT = base_us + prefill_us_per_tok * (prompt - cached)
 *   one step of a batch:  each of `batch` sequences gets a token in decode_us_base + decode_us_per_seq * batch
 *
 * Steps are linear in the batch within a few per cent on what was measured (8 B on one H100, batch 8 to 256). */
#ifndef POLICIES_CURVE_H
#define POLICIES_CURVE_H

struct node_curve { /* microseconds; all >= 0 */
    double base_us, prefill_us_per_tok, decode_us_base, decode_us_per_seq;
};

/* When a prompt of `fresh` tokens has its first token on a node that has `queued` tokens of other prompts before it and decodes
 * `batch` sequences meanwhile: all prompts are computed in the order they came, up to `chunk` tokens in each step. */
static inline double curve_ttft_us(const struct node_curve *c, double queued, double fresh, int batch, int chunk)
{
    double all = queued + fresh, steps = (double)(long long)((all + chunk - 1) / chunk);

    return c->base_us + all * c->prefill_us_per_tok +
           (steps + 0.5) * (c->decode_us_base + c->decode_us_per_seq * batch);
}

#endif
