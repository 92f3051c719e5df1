/* What a node type can do: memory for weights and KV, a curve where none was measured, and tokens/s at the SLO.
 *
 * Capacity at the SLO. Requests of the mix come at rate x to a node that batches continuously. A prompt takes the
 * device for P = prefill_us_per_tok * (prompt - cached); the rest of the time goes to steps of b + s * batch. With
 * Little's law (batch = x * output * TPOT) the batch drops out:
 *     rho  = x * (P + s * output)        the load; 1 is the most that could ever be
 *     TPOT = b / (1 - rho)
 *     batch = x * output * TPOT
 * TTFT is base + P + one step + the wait behind other prompts, whose tail is that of an M/G/1 queue in heavy traffic
 * (Kingman 1961): P(wait > t) = u * exp(-t * u / W), u = x * P, W = x * E[P^2] / (2 * (1 - u)).
 * Capacity is the largest x at which TPOT, the asked quantile of TTFT, and the batch (KV memory, slots) all hold.
 *
 * That is TTFT of a prompt of the mean size, and the mean TPOT. Promises over all requests are asked for with
 * `all_prompts` (the prompt's own size varies as prompt_cv says: wait and prefill together are taken for lognormal)
 * and `tpot_probability` (the batch varies as Poisson's, and prompts stall short answers more than long ones: those
 * of a third of the mean output are meant). Beside the simulator's
 * node, for five mixes: the mean TPOT within 10%, the 99th percentile of TTFT within 30%, that of TPOT between 0.7
 * times and twice (too careful with long prompts); tests/unit/test_capacity_sim.c.
 *
 * Pure, no allocation; doubles, since none of this is money. */
#ifndef POLICIES_CAPACITY_H
#define POLICIES_CAPACITY_H

#include <stdbool.h>
#include <stdint.h>

#include "policies/curve.h"

/* --- memory -------------------------------------------------------------------------------------------------- */

struct model_shape {
    double params, active_params; /* equal for dense models */
    double bits_per_weight;       /* 16 BF16, 8 FP8, 8.5 Q8_0, 4.8 Q4_K_M */
    int32_t layers, kv_heads, head_dim;
    int32_t kv_latent; /* MLA: values per layer and token (compressed KV + rope), instead of 2 * kv_heads * head_dim */
    double kv_bits;    /* per value: 16, or 8 */
};
struct gpu_facts { /* of one GPU; a node has `gpus` of them and splits the model over all */
    int32_t gpus;
    double memory_bytes, bandwidth_bytes_s;
    double flops;           /* dense, at the width that is computed in */
    double flops_share;     /* of peak that prefill reaches; 0.4 where nothing better is known */
    double bandwidth_share; /* of peak that decode reaches; 0.6 */
};
struct capacity_memory {
    double weights_bytes, kv_bytes_per_tok, kv_bytes; /* kv_bytes: what is left for KV on the whole node */
    int64_t kv_tokens;
    int32_t sequences; /* of the mix's mean length at its end, at once */
    bool fits;         /* the weights, and at least one sequence */
};
#define CAPACITY_MEMORY_USABLE 0.90 /* of a GPU's memory; the rest: runtime, activations, fragments */

struct workload_mix { /* means, tokens per request */
    double prompt, cached, output;
    double prompt_cv; /* sd / mean of the prompts' sizes; 0: all alike */
};
double capacity_weights_bytes(const struct model_shape *m);
double capacity_kv_bytes_per_tok(const struct model_shape *m);
void capacity_memory(struct capacity_memory *out, const struct model_shape *m, const struct gpu_facts *g,
                     const struct workload_mix *mix);

/* Prefill from FLOPs (2 per active parameter and token), a step from the bytes it must read: all weights once, and
 * the KV of each sequence (the mix's mean length), beside 2 FLOPs per active parameter and sequence. */
void capacity_curve(struct node_curve *out, const struct model_shape *m, const struct gpu_facts *g,
                    const struct workload_mix *mix);

/* --- speed --------------------------------------------------------------------------------------------------- */

struct capacity_slo {
    double ttft_us, tpot_us; /* 0: not bounded */
    double probability;      /* of TTFT, e.g. 0.99; 0 stands for 0.5 */
    double tpot_probability; /* of TPOT over answers; 0: the mean is meant */
    bool all_prompts;        /* TTFT of prompts of every size; false: of the mean size */
};
enum capacity_limit { CAPACITY_BY_COMPUTE, CAPACITY_BY_TTFT, CAPACITY_BY_TPOT, CAPACITY_BY_SEQUENCES, CAPACITY_NONE };
struct capacity {
    double requests_per_s;
    double tokens_per_s; /* prompt (cached too) + output: the unit of forecasts with signal tokens */
    double output_tokens_per_s;
    double concurrency;        /* sequences being decoded, in the mean */
    double ttft_us, tpot_us;   /* there; ttft_us at the asked probability */
    double tpot_us_p;          /* at the asked probability; the mean where none is asked for */
    double load;               /* rho */
    enum capacity_limit limit; /* what ends it; CAPACITY_NONE: the SLO can't be met even by one request alone */
};
/* sequences_max: KV memory or configured slots; 0: not bounded. An unbounded SLO ends at 95% of what could ever be.
 * */
void capacity_at_slo(struct capacity *out, const struct node_curve *curve, const struct capacity_slo *slo,
                     const struct workload_mix *mix, int32_t sequences_max);
/* The same figures at a given load of requests_per_s; false: more than the node can ever do (nothing is set). */
bool capacity_at_rate(struct capacity *out, const struct node_curve *curve, const struct capacity_slo *slo,
                      const struct workload_mix *mix, double requests_per_s);
/* Requests per second at which the node is full, its queue growing without end: all of its time is taken, or, before
 * that, its batch (sequences_max; 0: not bounded) never has a place. The batch needs x * output * step of sequences,
 * and a step of a full batch gives each of them a token, so both limits are in one line:
 * x * (P + s * output + b * output / sequences_max) = 1. What share of it keeps the SLO depends on how many nodes share
 * the load and how requests are routed, and is measured. */
double capacity_saturated(const struct node_curve *curve, const struct workload_mix *mix, int32_t sequences_max);
/* What a fleet is planned with: at the SLO, and, where load_max > 0, busy for no more than that share of what saturates
 * it. tokens_per_s 0: the SLO can't be met. */
void capacity_planned(struct capacity *out, const struct node_curve *curve, const struct capacity_slo *slo,
                      const struct workload_mix *mix, int32_t sequences_max, double load_max);
/* Requests that a node has at once there, in the mean: those being decoded and those before their first token. slots:
 * it is sent no more (0: not bounded). 0: the SLO can't be met. */
double capacity_at_once(const struct capacity *c, int32_t slots);
const char *capacity_limit_name(enum capacity_limit l); /* "compute", "ttft", "tpot", "sequences", "none" */

#endif
