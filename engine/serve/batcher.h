/* Continuous batching: many sequences share one engine, one step at a time.
 *
 * Owns: the engine thread, the jobs handed to it, the queue of those that wait. Leaves to others: the engine itself
 * (borrowed, used by the engine thread alone from batcher_new() to batcher_free()), HTTP, JSON.
 *
 * Threads. The *loop thread* creates jobs, submits, cancels and pauses them, and receives their output from
 * batcher_dispatch(), which it calls when batcher_fd() is readable. The *engine thread* admits, computes, samples, and
 * turns ids into text. One lock, held only to exchange lists and flags, never over a step.
 *
 * A job:
 *
 *     new --submit--> WAITING --admit--> PREFILL --last slice--> DECODE --stop | limit | failure--> DONE
 *                        \------------------cancel-----------------------------------------------> DONE
 *                         \--withdraw--> the caller's again
 *
 * Each step takes first one token of every decoding sequence, so that decoding never starves, then slices of prompts,
 * oldest first, out of what the token budget leaves (less while others decode, which bounds the time between their
 * tokens: pace.h). Whose prompt is through lets other tenants' prompts pass before his next one; and long prompts leave
 * half of the budget to short ones. By the numerics law what a sequence gets does not depend on its company, so the
 * plan is free. A step that only decodes may look ahead (speculate.h) and then choose several tokens of a sequence.
 *
 * Memory. A job is admitted when there are KV pages for its prompt and the beginning of its answer, less what is known
 * of the prompt's beginning (seq_attach); it takes more as it goes. When there are none left the youngest job is
 * *displaced*: its pages go to the older ones, it waits at the head of the queue, and computes again what is not known
 * any more by then. So the oldest always goes on, and everybody becomes the oldest. A paused job is displaced when
 * somebody waits for its slot, and stands at the head of the queue once it may go on.
 *
 * Order. Whoever has begun goes first, then the oldest of the tenant (salt) that has the fewest running; nobody lets
 * more than a few pass. */
#ifndef ENGINE_SERVE_BATCHER_H
#define ENGINE_SERVE_BATCHER_H

#include "base/clock.h"
#include "engine/model/model.h"
#include "engine/serve/answer.h"
#include "engine/serve/histogram.h"
#include "engine/text/sampler.h"

/* What the batcher asks of an engine: model.h's calls, or a test's stand-ins for them. */
struct batch_engine_ops {
    struct seq *(*seq_new)(struct engine *en);
    void (*seq_free)(struct seq *s);
    int32_t (*seq_attach)(struct seq *s, const struct prefix_salt *salt, const int32_t *ids, int32_t n);
    void (*seq_share)(struct seq *s, const struct prefix_salt *salt, const int32_t *ids);
    void (*seq_rewind)(struct seq *s, int32_t len);
    enum rc (*seq_reserve)(struct seq *s, int32_t n, struct error *e);
    enum rc (*step)(struct engine *en, struct step_slice *slices, int32_t n_slices, struct error *e);
    /* All three or none: engine_overlap_max(), engine_step_start(), engine_step_finish(). */
    int32_t (*overlap_max)(const struct engine *en);
    enum rc (*step_start)(struct engine *en, struct step_slice *slices, int32_t n_slices, struct error *e);
    enum rc (*step_finish)(struct engine *en, struct step_slice *slices, int32_t n_slices, struct error *e);
    int32_t (*pages_free)(const struct engine *en);
    int32_t (*pages_total)(const struct engine *en);
    int32_t (*pages_kept)(const struct engine *en);
    uint64_t (*pages_evicted)(const struct engine *en);
    struct kv_spill (*spill)(const struct engine *en);
};
extern const struct batch_engine_ops batch_engine_ops_real;

struct batcher_options {
    const struct batch_engine_ops *ops;
    struct engine *engine;
    const struct clock *clock;
    int32_t n_vocab, n_ctx, n_embd;
    int32_t n_logits;       /* floats from one row of logits to the next, >= n_vocab; 0: n_vocab */
    int32_t max_seqs;       /* sequences at once, 1 .. step_tokens */
    int32_t step_tokens;    /* most tokens in one step; at most the engine's */
    int32_t prefill_tokens; /* most prompt tokens in a step that also decodes; 0: as pace.h says */
    bool speculate;         /* speculate.h */
    int64_t busy_mw;        /* the machine's declared draw while it computes; 0: not known */
    int32_t waiting_max;    /* jobs waiting for a slot; beyond: RC_FULL; 0: refuse what cannot start at once */
    /* A step ended with RC_IO: the device is gone, and no further step can do better. Engine thread; does not return.
     * NULL: that step's jobs fail, as of any other error. */
    void (*device_lost)(void *arg, const struct error *e);
    void *device_lost_arg;
};

enum batch_finish { BATCH_RUNNING, BATCH_STOP, BATCH_LENGTH, BATCH_FAILED };

/* What steps were for a job: each step's time, and the energy that it drew, divided among its sequences by weighted
 * tokens (base/divide.h), so that over all jobs they add up to the steps exactly. By hours of the wall clock. */
#define BATCH_USES 4 /* the last takes what is beyond */
struct batch_use {
    int64_t hour_s, busy_us, millijoules; /* millijoules -1: not known */
};
struct batch_usage {
    int32_t prompt, completion, reasoning;
    int32_t cached; /* of the prompt: known already, not computed */
    struct batch_use uses[BATCH_USES];
    int n_uses;
};

/* An embedding instead of an answer: the states of all tokens of the prompt, or of the last one, as one vector of
 * length 1. */
enum batch_pool { BATCH_NO_POOL, BATCH_POOL_MEAN, BATCH_POOL_LAST };

/* What came out of a job since the last call. Lent for the call. */
struct batch_output {
    struct strbuf content, reasoning;
    int32_t *ids; /* tokens chosen, an end token included */
    int32_t n_ids, cap_ids;
    struct sample *samples; /* n_ids of them when asked for, else NULL */
    int32_t n_echo; /* of ids, the first: they are the prompt's (0 here; for whoever puts it before the answer) */
    size_t echo_characters; /* of its text, likewise */
    const struct sample
        *prompt; /* of each of the prompt's tokens but the first, from the second on; with the first output
                                    of a job that wants them, lent until its end; else NULL */
    enum batch_finish finish;
    const float *embedding;   /* n_embd, with BATCH_STOP of a job that pools */
    struct error error;       /* BATCH_FAILED */
    struct batch_usage usage; /* so far */
    struct mono first_token;  /* when the first token was chosen; 0 before */
};

struct batch_job;
typedef void batch_output_fn(struct batch_job *job, const struct batch_output *out, void *arg);

struct batch_job_options {
    int32_t *ids; /* prompt, 1 .. n_ctx - 1 ids in range; ownership moves to the job */
    int32_t n_ids;
    int32_t n_resumed;       /* the last so many of ids are the answer's first, and `answer` has seen them */
    int32_t max_tokens;      /* of the whole answer, > n_resumed; clamped to the context's end */
    struct prefix_salt salt; /* whose prefixes it shares */
    enum batch_pool pool;    /* not BATCH_NO_POOL: sampler and answer are NULL, max_tokens is 1 */
    struct sampler *sampler; /* moves; fresh: the job feeds it the prompt */
    struct answer *answer;   /* moves; open */
    bool want_samples;
    bool want_prompt; /* samples of the prompt's tokens, too. A prefix that is known has no logits any more, so it
                                   is computed again. */
    bool no_answer;   /* ends with BATCH_LENGTH when the prompt is computed; max_tokens is 0 */
    bool sibling;     /* of a job that runs: the waiting room has let them in together, it is never full */
    batch_output_fn *on_output; /* loop thread; after a call with finish != BATCH_RUNNING the job is gone */
    void *arg;
};
/* Any thread. Until it is submitted the job is the caller's: batch_job_free(). */
struct batch_job *batch_job_new(const struct batch_job_options *o);
void batch_job_free(struct batch_job *job); /* NULL is fine */

struct batcher;
enum rc batcher_new(struct batcher **b, const struct batcher_options *o, struct error *e) SPW_MUST_USE;
/* Stops after the step that runs. Jobs left are dropped without a call. */
void batcher_free(struct batcher *b);

/* The following on the loop thread. None blocks for longer than it takes to exchange a few pointers. */

/* RC_OK: the job is the batcher's. RC_FULL: the waiting room is full; the job is still the caller's. */
enum rc batcher_submit(struct batcher *b, struct batch_job *job, struct error *e) SPW_MUST_USE;
/* The client is gone: no further call for this job, its slot is free after the step that runs now. */
void batcher_cancel(struct batcher *b, struct batch_job *job);
/* Take a job back that nobody has begun. True: it waited, and is the caller's again: batch_job_free(). False: it runs
 * or has ended, and nothing has changed. */
bool batcher_withdraw(struct batcher *b, struct batch_job *job);
/* Back-pressure: a paused job chooses no tokens; it keeps its place and pages until others want them. */
enum batch_flow { BATCH_FLOW, BATCH_PAUSE };
void batcher_set_flow(struct batcher *b, struct batch_job *job, enum batch_flow flow);
int batcher_fd(const struct batcher *b); /* readable when there is output; owned by the batcher */
void batcher_dispatch(struct batcher *b);

struct batcher_stats {
    int32_t running, waiting, pages_free, pages_total, pages_kept, pages_spilled;
    uint64_t pages_evicted, cached_tokens; /* of prompt_tokens: known already */
    uint64_t spills, returns;              /* pages copied to the host's memory, and back */
    uint64_t steps, step_failures;
    uint64_t prefill_tokens, decode_tokens;    /* computed */
    uint64_t proposed_tokens, accepted_tokens; /* of decode_tokens: looked ahead, and came true */
    uint64_t prompt_tokens, generated_tokens;
    uint64_t preemptions; /* times that a job was displaced */
    uint64_t finished_stop, finished_length, finished_failed, cancelled, refused, withdrawn;
    double step_seconds;  /* busy: what was shared among sequences (share_step()), and nothing else */
    uint64_t idle_us;     /* nothing was there to compute; with the busy time all of the thread's, to the microsecond */
    struct histogram gap; /* seconds between two tokens of one sequence */
    struct histogram queue;        /* seconds from submit to admission */
    struct histogram prefill;      /* seconds from admission to the first token */
    struct histogram decode;       /* seconds from the first token to the last */
    struct histogram step;         /* seconds of one step */
    struct histogram step_batch;   /* tokens in one step */
    struct histogram step_prefill; /* of them, of prompts */
    struct histogram step_pages;   /* KV pages in use after one step, by sequences */
    struct histogram prefix_hits;  /* tokens of an admitted prompt that were known already */
};
void batcher_stats(struct batcher *b, struct batcher_stats *out); /* any thread */
void batcher_stats_init(struct batcher_stats *s);                 /* nothing yet */

#endif
