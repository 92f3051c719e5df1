/* How long a node takes: continuous batching with chunked prefill, in closed form between events. A request costs three
 * events (it comes, its first token, its last token), whatever its length.
 *
 * A node computes in steps. A step gives each of `n` sequences being decoded one token and computes up to `chunk`
 * tokens of
 * prompts; it takes
 *     decode_us_base + decode_us_per_seq * n     (nothing if n is 0)     + prefill_us_per_tok * tokens of prompts
 * (Agrawal et al., "Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve", OSDI'24, for the scheme;
 * policies/curve.h for the line.) All sequences advance together, so a node has one count of steps, as in the virtual
 * time of
 * processor sharing: a sequence that gets its first token at step v is through at step v + output - 1, whatever happens
 * meanwhile, and the sequences wait in a heap ordered by that step. Between events the steps' length is constant.
 *
 * Where it was measured (spec.detail, spec.step_us), a step also takes longer by the context that its sequences hold,
 * and beside decoding prompts are computed in smaller pieces (as Sarathi-Serve, vLLM and our own engine do). Context
 * grows while a step's length is held constant; it is taken as it will be half way to the next event.
 *
 * Prompts are computed in the order they came, as a group: as many as fit in one chunk together, or one that is longer
 * and takes
 * ceil(tokens / chunk) steps. A group begins at the next step's start, and while sequences (batch) and KV memory are
 * free: memory for
 * prompt and whole answer is set aside at the start, as our engine does. First tokens come at a group's end.
 *
 * base_us (network, tokenizing) is no device time: the caller adds it to what a client sees.
 *
 * Plain state of the caller's, and of his jobs' array; no allocation, no clock, deterministic. */
#ifndef SCHEDULER_SIMULATE_NODE_MODEL_H
#define SCHEDULER_SIMULATE_NODE_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "policies/curve.h"

#define NODE_CHUNK_TOKENS 2048

struct node_spec {
    struct node_curve curve;
    int32_t chunk, sequences; /* both >= 1 */
    /* Measured of this very node. With detail.mixed_chunk a prompt is cut where a step is full, and the next one fills
     * the rest. */
    struct curve_detail detail;
    const float *step_us; /* [sequences + 1]: a step of so many sequences without its context; NULL: by the curve */
    int64_t kv_tokens;    /* 0: never short */
    const float *mw;      /* [sequences + 1]: milliwatts while so many are decoded, by whole node */
    float prefill_mw;     /* at least, while a prompt is computed */
};
struct node_job {
    int32_t next;   /* in the queue; -1: the last */
    int32_t fresh;  /* prompt tokens to compute, >= 1 (0 counts as 1) */
    int32_t begun;  /* of them, computed with the group before; 0 when it comes */
    int32_t output; /* tokens to say, >= 1 */
    int32_t kv;     /* tokens of memory set aside: the whole prompt and the answer */
};
struct node_entry {
    double last;
    int32_t job;
};
struct node_model {
    const struct node_spec *spec;
    struct node_entry *heap;            /* [spec->sequences], the caller's; by step of the last token */
    int32_t n;                          /* being decoded */
    int32_t head, tail;                 /* prompts, in order; -1: none */
    int32_t n_first, n_group, n_queued; /* first tokens to be told; the group's; behind it */
    bool changed;                       /* the batch, since the rate was set */
    int64_t queued_tokens;              /* prompt tokens of both, as they came */
    int64_t kv_used;
    double step, rate,
        step_us; /* steps so far; per us from at_us on, and the inverse; both 0 while nothing is computed */
    double group_ends, group_us; /* at this step; what its prompts add to each step until then */
    bool group_mixed;            /* its steps are those of detail.mixed_chunk */
    double context;              /* tokens that the sequences being decoded hold, all together */
    int64_t at_us;
    /* Integrals since the start, up to at_us. */
    double mj, batch_us;
    int64_t busy_us;
    float idle_mw; /* drawn while nothing is computed; the caller's to change, after node_model_pass() */
};

/* An empty node. heap: room for spec->sequences. */
void node_model_init(struct node_model *m, const struct node_spec *spec, struct node_entry *heap, int64_t now_us);
/* Time passes without an event: to read the integrals, or before idle_mw changes. now_us <= node_model_next(). */
void node_model_pass(struct node_model *m, int64_t now_us);
/* Another speed and draw from now on (same chunk, sequences and memory). */
void node_model_set_spec(struct node_model *m, const struct node_spec *spec, int64_t now_us);
/* A request comes. jobs[job].fresh, .output and .kv are set. */
void node_model_add(struct node_model *m, struct node_job *jobs, int32_t job, int64_t now_us);
/* When something will happen, or INT64_MAX. */
int64_t node_model_next(const struct node_model *m);
enum node_event {
    NODE_NOTHING, /* that is all for now */
    NODE_FIRST_TOKEN,
    NODE_ONLY_TOKEN, /* the first and the last: the job is out of the node */
    NODE_LAST_TOKEN, /* the job is out of the node */
};
/* At node_model_next(), to be called until it says NODE_NOTHING, before anything else: what happens, to which job. */
enum node_event node_model_pop(struct node_model *m, struct node_job *jobs, int64_t now_us, int32_t *job);
/* The node dies: takes one job out, with the tokens it has said; false: there are none left. */
bool node_model_drop(struct node_model *m, struct node_job *jobs, int64_t now_us, int32_t *job, int32_t *said);
static inline int32_t node_model_in_flight(const struct node_model *m)
{
    return m->n + m->n_first + m->n_group + m->n_queued;
}

#endif
