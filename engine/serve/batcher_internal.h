/* The batcher's parts: batcher.c (life, the loop thread's calls, what is published), batcher_queue.c (who waits, who is
 * admitted, who is displaced), batcher_step.c (what is in a step, and what is made of what comes out of it) and
 * batcher_ahead.c (a step that is begun before the one before it is read). */
#ifndef ENGINE_SERVE_BATCHER_INTERNAL_H
#define ENGINE_SERVE_BATCHER_INTERNAL_H

#include <pthread.h>

#include "engine/serve/batcher.h"
#include "engine/serve/speculate.h"

#define RESUME_TOKENS_FIRST 128 /* struct batcher: resume_tokens */
#define RESUME_TOKENS_MIN   32

enum job_phase { JOB_WAITING, JOB_PREFILL, JOB_DECODE, JOB_DONE };

struct batch_job {
    /* Set before it is submitted, then the engine thread's. */
    int32_t n_ids;    /* to be computed before the first choice: the prompt, then the answer so far */
    int32_t n_prompt; /* of them */
    struct prefix_salt salt;
    int32_t max_tokens;
    bool want_samples, sibling, no_answer;
    struct sample *prompt; /* owned, by token of the prompt; NULL: nobody wants them */
    bool prompt_told;      /* all of them are there */
    enum batch_pool pool;
    double *pooled;   /* n_embd: the sum so far, in order of the tokens, however they were cut into steps */
    float *embedding; /* n_embd; both NULL where nothing is pooled */
    struct sampler *sampler;
    struct answer *answer;
    /* Loop thread. */
    batch_output_fn *on_output;
    void *arg;
    bool detached;            /* cancelled: no more calls */
    struct batch_output view; /* what on_output sees; swapped with `out` */
    /* Under the lock. */
    bool cancel, pause, dirty;
    struct batch_job *next, *next_dirty; /* waiting list; list of jobs with output */
    struct batch_output out;
    /* Engine thread. */
    enum job_phase phase;
    struct seq *seq;
    int32_t *ids; /* n_ids, then what was chosen since */
    int32_t n_all, cap_ids;
    int32_t n_cached; /* of ids, known when it was admitted */
    int32_t n_stored; /* of n_ids, computed or known */
    bool fed;         /* the sampler has seen them */
    bool begun;       /* was admitted before */
    int32_t overtaken;
    bool by_host; /* its next token: a device could not choose it */
    bool skip;    /* paused as of this step's plan */
    bool news;    /* has something to publish */
    struct mono submitted, admitted, first_token, last_token;
    int32_t n_draft;                          /* ids that are proposed in this step */
    int32_t n_new;                            /* ids chosen in this step, not yet published */
    struct sample samples[SPECULATE_MAX + 1]; /* of them */
    int32_t proposed[SPECULATE_MAX + 1];      /* the last id, then those that may follow it */
    struct speculate_luck luck;
    struct batch_use uses[BATCH_USES];
    int n_uses;
    enum batch_finish finish;
    struct error error;
};

/* A step that is begun, and whose turn comes next; the same as slices, slice_jobs and requests of struct batcher. */
struct batch_ahead {
    struct step_slice *slices;
    struct batch_job **jobs; /* NULL: has ended meanwhile */
    struct k_sample *requests;
    int32_t n; /* 0: there is none */
};

struct batcher {
    struct batcher_options o;
    pthread_t thread;
    /* Engine thread. */
    struct batch_job **running; /* in order of admission, but for stand_back() */
    struct batch_job **back;    /* stand_back()'s */
    int32_t n_running;
    int fd;
    struct step_slice *slices;
    struct k_sample *requests; /* [max_seqs] of the slices that a device may choose for */
    struct batch_job **slice_jobs;
    struct batch_ahead ahead;
    struct mono step_end;     /* of the last step */
    int64_t *weights, *parts; /* of the slices: share_step() */
    int64_t nanojoules;       /* of the steps so far, that no job was told yet: less than a millijoule */
    struct mono accounted;    /* until then each microsecond is of a step or idle; under the lock while `idle` */
    struct sampler_scratch *scratch;
    struct step_times times;
    struct pace pace;
    int32_t resume_tokens; /* most of answers that go on in a step that decodes: as many as take RESUME_STEP_S */
    bool begun;            /* the step in slices is what was ahead */
    bool idle;             /* it waits for work; under the lock */
    /* Under the lock. */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct batch_job *waiting, **waiting_tail;
    struct batch_job *dirty, **dirty_tail;
    bool quit;
    bool kick; /* something changed that the engine thread must look at */
    struct batcher_stats stats;
};

/* Engine thread. */
void job_leave(struct batcher *b, struct batch_job *j, enum batch_finish finish);
void job_fail(struct batcher *b, struct batch_job *j, const struct error *e);
bool job_runs(const struct batch_job *j); /* admitted, and neither displaced nor done */
void publish_job_locked(struct batcher *b, struct batch_job *j);

/* batcher_queue.c */
void waiting_remove_locked(struct batcher *b, struct batch_job *j);
void heed_flags_locked(struct batcher *b); /* drop the cancelled from both lists, note who is paused */
void admit_locked(struct batcher *b);      /* whoever has a slot and room */
void make_room(struct batcher *b);         /* before a step: for every answer's next token */

/* batcher_ahead.c */
/* The step ahead becomes the one in `slices`; returns how many, 0: there is none. */
int32_t ahead_take(struct batcher *b);
/* Makes the step in `slices`, and where that can be, begins one ahead before it is done. Afterwards *n is less by
 * slices whose jobs have gone while it was ahead. */
enum rc ahead_step(struct batcher *b, int32_t *n, int32_t n_prefill, struct error *e) SPW_MUST_USE;
/* The step's token of j could not be chosen on the device: compute it again, for the host. */
void ahead_again(struct batcher *b, struct batch_job *j);
void ahead_forget(struct batcher *b, const struct batch_job *j); /* its slice ahead, if any, is nobody's */
bool ahead_has(const struct batcher *b, const struct batch_job *j);
void ahead_drop(struct batcher *b); /* the batcher ends */

/* batcher_step.c */
void batcher_step(struct batcher *b); /* plan, compute, choose */
/* batcher.c: whole microseconds that nobody has accounted for yet; they are the caller's now. The engine's thread. */
int64_t batcher_account(struct batcher *b);

#endif
