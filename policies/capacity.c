#include "policies/capacity.h"

#include <math.h>

#include "base/error.h"
#include "policies/latency.h"

#define LOAD_MAX     0.95 /* where no SLO ends it sooner */
#define SHORT_ANSWER 3    /* the mean output over the short one whose TPOT is meant */
#define DECODE_LEAST 0.02 /* of time that is left to decoding at worst */
#define BISECTIONS   60
#define US_PER_S     1e6
#define TOKENS_LEAST 1e-9

/* --- memory ---------------------------------------------------------------------------------------------------- */

double capacity_weights_bytes(const struct model_shape *m)
{
    return m->params * m->bits_per_weight / 8;
}

double capacity_kv_bytes_per_tok(const struct model_shape *m)
{
    double values = m->kv_latent > 0 ? m->kv_latent : 2.0 * m->kv_heads * m->head_dim;
    return values * m->layers * m->kv_bits / 8;
}

void capacity_memory(struct capacity_memory *out, const struct model_shape *m, const struct gpu_facts *g,
                     const struct workload_mix *mix)
{
    double usable = g->gpus * g->memory_bytes * CAPACITY_MEMORY_USABLE, length = mix->prompt + mix->output;

    out->weights_bytes = capacity_weights_bytes(m);
    out->kv_bytes_per_tok = capacity_kv_bytes_per_tok(m);
    out->kv_bytes = fmax(usable - out->weights_bytes, 0);
    out->kv_tokens = out->kv_bytes_per_tok > 0 ? (int64_t)fmin(out->kv_bytes / out->kv_bytes_per_tok, 9e15) : 0;
    double sequences = length > 0 ? floor((double)out->kv_tokens / length) : 0;
    out->sequences = (int32_t)fmin(sequences, 1 << 20);
    out->fits = out->sequences >= 1;
}

void capacity_curve(struct node_curve *out, const struct model_shape *m, const struct gpu_facts *g,
                    const struct workload_mix *mix)
{
    double flops_s = g->gpus * g->flops * g->flops_share, bytes_s = g->gpus * g->bandwidth_bytes_s * g->bandwidth_share;
    double tok_us = 2 * m->active_params / flops_s * US_PER_S;
    double held = mix->prompt + mix->output / 2; /* of KV, by a sequence halfway through its answer */

    SPW_ASSERT(flops_s > 0 && bytes_s > 0);
    out->base_us = 0;
    out->prefill_us_per_tok = tok_us;
    out->decode_us_base = capacity_weights_bytes(m) / bytes_s * US_PER_S;
    out->decode_us_per_seq = tok_us + held * capacity_kv_bytes_per_tok(m) / bytes_s * US_PER_S;
}

/* --- speed ----------------------------------------------------------------------------------------------------- */

/* Device time of one request: its prefill, and its part in the steps that give its tokens. */
static double prefill_us(const struct node_curve *c, const struct workload_mix *mix)
{
    return c->prefill_us_per_tok * fmax(mix->prompt - mix->cached, 0);
}
static double work_us(const struct node_curve *c, const struct workload_mix *mix)
{
    return prefill_us(c, mix) + c->decode_us_per_seq * mix->output;
}

/* Quantile of wait and own prefill over prompts of all sizes. A prompt keeps those behind it waiting for its
 * prefill and for its part in the steps of decoding that go along; prompts that come within one step share them. */
static double wait_and_prefill_us(const struct node_curve *c, const struct capacity_slo *slo,
                                  const struct workload_mix *mix, double per_us, double step_us)
{
    double p = prefill_us(c, mix), var = mix->prompt_cv * mix->prompt_cv * p * p;
    double service = p + step_us / (1 + per_us * (p + step_us)), u = per_us * service;

    if (u >= 1)
        return HUGE_VAL;
    double wait = per_us * (service * service + var) / (2 * (1 - u)), mean = wait + p;
    var += u > 0 ? 2 * wait * wait / u - wait * wait : 0;
    if (mean <= 0)
        return 0;
    double log_var = log1p(var / (mean * mean));
    return mean * exp(normal_quantile(slo->probability > 0 ? slo->probability : 0.5) * sqrt(log_var) - log_var / 2);
}

/* Quantile of TPOT over answers: by chance more sequences are in the batch, and more prompts come between the
 * tokens. */
static double tpot_quantile_us(const struct capacity *at, const struct node_curve *c, const struct capacity_slo *slo,
                               const struct workload_mix *mix, double per_us)
{
    double z = normal_quantile(slo->tpot_probability), p = prefill_us(c, mix), share = per_us * p;
    double lasts_us = at->tpot_us * mix->output / SHORT_ANSWER;
    double share_sd = sqrt(per_us * p * p * (1 + mix->prompt_cv * mix->prompt_cv) / lasts_us);
    double step = c->decode_us_base + c->decode_us_per_seq * (at->concurrency + z * sqrt(at->concurrency));

    return fmax(step / fmax(1 - share - z * share_sd, DECODE_LEAST), at->tpot_us);
}

/* The asked quantile of the time behind other prompts. */
static double wait_us(const struct node_curve *c, const struct capacity_slo *slo, const struct workload_mix *mix,
                      double per_us)
{
    double p = prefill_us(c, mix), u = per_us * p, late = 1 - (slo->probability > 0 ? slo->probability : 0.5);

    if (u >= 1)
        return HUGE_VAL;
    double mean = per_us * p * p * (1 + mix->prompt_cv * mix->prompt_cv) / (2 * (1 - u));
    if (u <= late || mean <= 0) /* so seldom does anybody wait */
        return 0;
    return mean / u * log(u / fmax(late, 1e-9));
}

bool capacity_at_rate(struct capacity *out, const struct node_curve *c, const struct capacity_slo *slo,
                      const struct workload_mix *mix, double requests_per_s)
{
    double per_us = requests_per_s / US_PER_S, load = per_us * work_us(c, mix);

    if (!(load < 1))
        return false;
    out->requests_per_s = requests_per_s;
    out->tokens_per_s = requests_per_s * (mix->prompt + mix->output);
    out->output_tokens_per_s = requests_per_s * mix->output;
    out->load = load;
    /* b / (1 - load) is a step of a batch; one sequence alone takes b + s, whatever the formula says of a fraction.
     * */
    out->tpot_us = fmax(c->decode_us_base / (1 - load), c->decode_us_base + c->decode_us_per_seq);
    out->concurrency = per_us * mix->output * out->tpot_us;
    out->tpot_us_p = slo->tpot_probability > 0 ? tpot_quantile_us(out, c, slo, mix, per_us) : out->tpot_us;
    double step = c->decode_us_base + c->decode_us_per_seq * out->concurrency;
    if (slo->all_prompts) /* half of the step under way is still to come, and its own is after its prompt */
        out->ttft_us = c->base_us + wait_and_prefill_us(c, slo, mix, per_us, step) + 1.5 * step;
    else
        out->ttft_us = c->base_us + prefill_us(c, mix) + wait_us(c, slo, mix, per_us) + out->tpot_us;
    return true;
}

/* What, if anything, is broken at this rate. */
static bool holds(struct capacity *out, const struct node_curve *c, const struct capacity_slo *slo,
                  const struct workload_mix *mix, int32_t sequences_max, double rate, enum capacity_limit *limit)
{
    *limit = CAPACITY_BY_COMPUTE;
    if (!capacity_at_rate(out, c, slo, mix, rate) || out->load > LOAD_MAX)
        return false;
    if (slo->tpot_us > 0 && out->tpot_us_p > slo->tpot_us)
        *limit = CAPACITY_BY_TPOT;
    else if (slo->ttft_us > 0 && out->ttft_us > slo->ttft_us)
        *limit = CAPACITY_BY_TTFT;
    else if (sequences_max > 0 && out->concurrency > sequences_max)
        *limit = CAPACITY_BY_SEQUENCES;
    else
        return true;
    return false;
}

void capacity_at_slo(struct capacity *out, const struct node_curve *c, const struct capacity_slo *slo,
                     const struct workload_mix *mix, int32_t sequences_max)
{
    double work = work_us(c, mix), low = 0, high = US_PER_S / fmax(work, TOKENS_LEAST);
    struct capacity at;
    enum capacity_limit limit, last = CAPACITY_BY_COMPUTE;

    if (!holds(&at, c, slo, mix, sequences_max, 0, &limit)) {
        *out = at;
        out->requests_per_s = out->tokens_per_s = out->output_tokens_per_s = out->concurrency = out->load = 0;
        out->limit = CAPACITY_NONE;
        return;
    }
    for (int i = 0; i < BISECTIONS; i++) { /* everything that is bounded grows with the rate */
        double middle = (low + high) / 2;
        if (holds(&at, c, slo, mix, sequences_max, middle, &limit)) {
            low = middle;
        } else {
            high = middle;
            last = limit;
        }
    }
    (void)holds(out, c, slo, mix, sequences_max, low, &limit);
    out->limit = last;
}

double capacity_saturated(const struct node_curve *c, const struct workload_mix *mix, int32_t sequences_max)
{
    double in_steps = sequences_max > 0 ? c->decode_us_base * mix->output / sequences_max : 0;

    return US_PER_S / fmax(work_us(c, mix) + in_steps, TOKENS_LEAST);
}

void capacity_planned(struct capacity *out, const struct node_curve *c, const struct capacity_slo *slo,
                      const struct workload_mix *mix, int32_t sequences_max, double load_max)
{
    const int32_t sequences = sequences_max > 0 ? sequences_max : 1;
    *out = (struct capacity){0};
    capacity_at_slo(out, c, slo, mix, sequences);
    const double most = load_max * capacity_saturated(c, mix, sequences);
    if (out->limit == CAPACITY_NONE)
        out->tokens_per_s = 0;
    else if (load_max > 0 && out->requests_per_s > most)
        (void)capacity_at_rate(out, c, slo, mix, most);
}

double capacity_at_once(const struct capacity *c, int32_t slots)
{
    const double n = c->limit == CAPACITY_NONE ? 0 : c->concurrency + c->requests_per_s * c->ttft_us / US_PER_S;
    return slots > 0 ? fmin(n, slots) : n;
}

const char *capacity_limit_name(enum capacity_limit l)
{
    static const char *const names[] = {"compute", "ttft", "tpot", "sequences", "none"};
    return names[l];
}
