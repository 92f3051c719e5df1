/* Scenarios and requests for tests of the simulator: Poisson arrivals, log-uniform sizes, all by a seed. */
#ifndef TESTS_UNIT_SIM_HELP_H
#define TESTS_UNIT_SIM_HELP_H

#include <math.h>

#include "scheduler/simulate/sim.h"
#include "scheduler/simulate/trace.h"

struct synthetic {
    uint64_t seed;
    double rate;            /* per second */
    int64_t n;              /* requests */
    int32_t prompt, output; /* mean tokens; each from half to one and a half */
    uint32_t models, teams;
    double batch;        /* share that is batch work */
    int64_t deadline_us; /* of it */
    double local;        /* share that must not leave the premises */
    double wave;         /* the rate swings by this share of it over wave_us */
    int64_t wave_us;
    /* state */
    uint64_t random;
    double at_us;
    int64_t sent;
};

static inline double synthetic_unit(struct synthetic *t)
{
    uint64_t z = (t->random += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return ((double)((z ^ (z >> 31)) >> 11) + 0.5) / 9007199254740992.0;
}

static inline int32_t synthetic_size(struct synthetic *t, int32_t mean)
{
    const double v = mean * (0.5 + synthetic_unit(t));
    return v < 1 ? 1 : (int32_t)v;
}

static inline enum rc synthetic_next(void *arg, struct sim_request *r, struct error *e)
{
    struct synthetic *t = arg;
    (void)e;
    if (t->sent == t->n)
        return RC_NOT_FOUND;
    t->sent++;
    const double swing = t->wave_us ? 1 + t->wave * sin(6.283185307179586 * t->at_us / (double)t->wave_us) : 1;
    t->at_us += -log(synthetic_unit(t)) * 1e6 / (t->rate * swing);
    *r = (struct sim_request){.at_us = (int64_t)t->at_us,
                              .prompt = synthetic_size(t, t->prompt),
                              .output = synthetic_size(t, t->output),
                              .model = t->models > 1 ? (uint32_t)(synthetic_unit(t) * t->models) : 0,
                              .team = t->teams > 1 ? (uint32_t)(synthetic_unit(t) * t->teams) : 0,
                              .batch = t->batch > 0 && synthetic_unit(t) < t->batch,
                              .local_only = t->local > 0 && synthetic_unit(t) < t->local};
    r->deadline_us = r->batch ? t->deadline_us : 0;
    return RC_OK;
}

static inline struct sim_source synthetic_source(struct synthetic *t)
{
    t->random = t->seed;
    t->at_us = 0;
    t->sent = 0;
    return (struct sim_source){.next = synthetic_next, .arg = t};
}

/* An 8 B model on one H100: 8 ms and 60 us per sequence a step, 30 us per prompt token. */
static inline struct sim_type synthetic_type(void)
{
    struct sim_type t = {
        .name = "h100",
        .curve = {.base_us = 2000, .prefill_us_per_tok = 30, .decode_us_base = 8000, .decode_us_per_seq = 60},
        .sequences_max = 128,
        .slots = 96,
        .kv_tokens = 400000,
        .prefill_mw = 650000};
    t.levels.of[POWER_ACTIVE] = (struct power_level){
        .allowed = true,
        .idle_mw = 120000,
        .n_points = 2,
        .points = {{.in_flight = 1, .mw = 480000}, {.in_flight = 128, .mw = 690000}},
    };
    t.levels.of[POWER_SLEEP] = (struct power_level){.allowed = true,
                                                    .idle_mw = 60000,
                                                    .down_us = 5000000,
                                                    .down_mw = 150000,
                                                    .wake_us = 20000000,
                                                    .wake_mw = 200000};
    return t;
}

static inline struct sim_model synthetic_model(void)
{
    return (struct sim_model){
        .name = "llama-8b",
        .slo = {.ttft_us = 500000,
                .tpot_us = 50000,
                .ttft_us_per_tok = 100,
                .ttft_free_tokens = 4000,
                .probability = 0.99},
        .waiting = {{.count = 100000, .bytes = INT64_C(1) << 34, .wait_ns = INT64_C(30000000000)},
                    {.count = 100000, .bytes = INT64_C(1) << 34, .wait_ns = INT64_C(86400000000000)}},
        .limits = {.nodes_min = 0,
                   .nodes_max = 1000,
                   .hour_max = {.v = -1},
                   .z = 1.28,
                   .over_provision = 0.1,
                   .queue_drain_s = 30,
                   .down_after_s = 300,
                   .return_after_s = 300,
                   .replace_saving = 0.15,
                   .drain_max_s = 600,
                   .tick_s = 10},
    };
}

#endif
