/* From logits to the next token.
 *
 * A choice depends on the parameters, the logits, the ids so far and nothing else: the random number of step i is a
 * function of (seed, i), so a stream continued elsewhere by replaying its ids continues exactly. One sampler per
 * sequence; used by one thread at a time.
 *
 * Order: penalties, logit bias, bans, temperature, top-k, top-p, min-p, draw.
 * Weights are summed as integers, in units of 2^-40 of the likeliest, so that a device that sums them in another order
 * chooses the same (kernels/sample.h); what weighs less is not chosen.
 * Generator: Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"),
 * key = seed, counter = (step, 0); the draw uses 53 bits. */
#ifndef ENGINE_TEXT_SAMPLER_H
#define ENGINE_TEXT_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "kernels/sample.h"

#define SAMPLER_TOP_MAX  20   /* alternatives reported with a token */
#define SAMPLER_BIAS_MAX 1024 /* entries of logit_bias */

struct sampler_bias {
    int32_t id;
    float bias; /* -100 .. 100; -100 bans, as in the OpenAI API */
};

struct sampler_params {
    double temperature;        /* 0: greedy, ties to the lower id; up to 2 is usual, 100 the limit */
    int32_t top_k;             /* 0: off */
    double top_p;              /* (0, 1]; 1: off */
    double min_p;              /* [0, 1]; 0: off; relative to the most likely token */
    double repetition_penalty; /* [0.01, 10]; 1: off; prompt and answer (Keskar et al. 2019, arXiv 1909.05858) */
    double presence_penalty;   /* -2 .. 2; answer only, as in the OpenAI API */
    double frequency_penalty;  /* -2 .. 2; answer only */
    uint64_t seed;
    int32_t min_tokens; /* end ids are banned before this many tokens of the answer */
    int n_top;          /* alternatives to report, 0 .. SAMPLER_TOP_MAX */
    bool skip_logprob;  /* nobody asks for sample.logprob: it is NaN, and a pass over the logits is saved */
    const struct sampler_bias *bias; /* borrowed until sampler_new() returns, like the two below */
    size_t n_bias;
    const int32_t *end_ids; /* what min_tokens bans */
    size_t n_end_ids;
    const int32_t *banned; /* never chosen (e.g. ignore_eos) */
    size_t n_banned;
};
/* Temperature 1, everything else off, seed 0. */
void sampler_params_init(struct sampler_params *p);

struct sampler;
/* RC_INVALID names the parameter, its value and its range. */
enum rc sampler_new(const struct sampler_params *p, int32_t n_vocab, struct sampler **s, struct error *e) SPW_MUST_USE;
void sampler_free(struct sampler *s);

/* Work space of one thread, shared by its sequences: nothing is allocated while sampling. */
struct sampler_scratch;
struct sampler_scratch *sampler_scratch_new(int32_t n_vocab);
void sampler_scratch_free(struct sampler_scratch *scratch);

/* The ids of the prompt, before the first choice; for the repetition penalty. */
void sampler_prompt(struct sampler *s, const int32_t *ids, size_t n);
/* One id of the answer, chosen here or replayed: counts it and moves to the next step. */
void sampler_accept(struct sampler *s, int32_t id);
/* Ids accepted so far: the step that the next choice belongs to. */
int64_t sampler_step(const struct sampler *s);

struct sampler_alternative {
    int32_t id;
    float logprob;
};
struct sample {
    int32_t id;
    float logprob; /* of id, from the softmax of the logits as the model gave them */
    int n_top;
    struct sampler_alternative top[SAMPLER_TOP_MAX]; /* likeliest first, ties by id */
};

/* Choose. logits: n_vocab floats, only read. allowed: NULL, or n_vocab bits (bit id & 7 of byte id / 8) of the ids that
 * may be chosen. Does not accept. RC_INVALID: a logit is NaN or nothing is left to choose from. */
enum rc sampler_choose(const struct sampler *s, const float *logits, const uint8_t *allowed,
                       struct sampler_scratch *scratch, struct sample *out, struct error *e) SPW_MUST_USE;

/* The next choice as a request to a device that holds the logits. false: it needs what devices do not do (penalties,
 * bias, bans, alternatives), that is sampler_choose(). */
bool sampler_offer(const struct sampler *s, struct k_sample *out);
/* The same for the choice after the next one, before that is made. */
bool sampler_offer_ahead(const struct sampler *s, struct k_sample *out);
/* What the device chose, as sampler_choose() would report it. RC_INVALID as there. RC_AGAIN: K_SAMPLED_NOT_HERE, and e
 * is not set: fetch the logits and call sampler_choose(). */
enum rc sampler_take(const struct sampler *s, const struct k_sampled *chosen, struct sample *out,
                     struct error *e) SPW_MUST_USE;

/* What `logits` say of an id that is given: sample.logprob and the alternatives. RC_INVALID: a logit is NaN. */
enum rc sampler_observe(const struct sampler *s, const float *logits, int32_t id, struct sample *out,
                        struct error *e) SPW_MUST_USE;

/* The generator itself, for tests: four words of counter block (step, 0) under seed. */
void sampler_philox(uint64_t seed, uint64_t step, uint32_t out[4]);

#endif
