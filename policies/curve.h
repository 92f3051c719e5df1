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

#include <stdint.h>

struct node_curve { /* microseconds; all >= 0 */
    double base_us, prefill_us_per_tok, decode_us_base, decode_us_per_seq;
};

/* What the lines leave out, where it was measured; the simulator's node heeds it, and who draws lines may mend them by
 * it. 0: not known.
 *   a step of a batch whose sequences hold `context` tokens in all:  + decode_us_per_ctx_tok * context
 *   prompts beside decoding:  mixed_chunk tokens of them in each step at most, at mixed_us_per_tok each */
struct curve_detail {
    double decode_us_per_ctx_tok, mixed_us_per_tok;
    int32_t chunk, mixed_chunk; /* tokens of prompts in a step that decodes nothing, and in one that does */
};

/* When a prompt of `fresh` tokens has its first token at the latest on a node that has `queued` tokens of other prompts
 * before it and decodes `batch` sequences meanwhile: prompts are computed in the order they came, up to `chunk` tokens
 * in each step, none cut to fill one up, which takes at most twice the steps that full ones would (next-fit); a step is
 * under way. */
static inline double curve_ttft_us(const struct node_curve *c, double queued, double fresh, int batch, int chunk)
{
    double own = (double)(long long)((fresh + chunk - 1) / chunk);
    double steps = (queued > 0 ? 1 + 2 * queued / chunk : 1) + own;

    return c->base_us + (queued + fresh) * c->prefill_us_per_tok +
           steps * (c->decode_us_base + c->decode_us_per_seq * batch);
}

#endif
