/* Steps ahead: the next step is planned and given to the device while one runs, which then finds its work waiting
 * instead of waiting for tokens to be read, texts to be made and a plan. For backends that choose tokens themselves
 * (engine_step_start()), where every running answer decodes and nothing else is to be done; a newcomer is admitted a
 * step later at most.
 *
 * What is not known yet is whether an answer ends with the token that is being chosen. If it does, what the step ahead
 * computes for it is thrown away: its slice has no job any more, nobody is told or charged, and the sequence may be
 * freed while it is computed, since what is written to its pages later comes later on the device. An answer that is
 * known to end (its length) is left out.
 *
 *     plan -> started --------------> finished -> tokens taken
 *                 \-> planned ahead, started -> ... */
#include <string.h>

#include "engine/serve/batcher_internal.h"

/* Whether this step can be of the kind that another may follow before it is read. */
static bool can_overlap(const struct batcher *b, int32_t n, int32_t n_prefill)
{
    if (!b->o.ops->step_start || n_prefill > 0 || n > b->o.ops->overlap_max(b->o.engine))
        return false;
    for (int32_t i = 0; i < n; i++)
        if (!b->slices[i].sample || b->slices[i].n != 1)
            return false;
    return true;
}

/* It ends with the token that this step chooses, if not before. */
static bool ends_with_this(const struct batcher *b, const struct batch_job *j)
{
    const int32_t tokens = j->answer->n_tokens + 1;
    return tokens >= j->max_tokens || j->n_prompt + tokens >= b->o.n_ctx;
}

/* A job's slice of the step ahead. False: it wants the host, or has no room without displacing anybody. */
static bool add_slice(struct batcher *b, struct batch_ahead *a, struct batch_job *j, int32_t follows)
{
    struct error e;
    struct step_slice *sl = &a->slices[a->n];
    if (!sampler_offer_ahead(j->sampler, &a->requests[a->n]) || b->o.ops->seq_reserve(j->seq, 1, &e) != RC_OK)
        return false;
    *sl = (struct step_slice){
        .seq = j->seq, .n = 1, .want_logits = true, .sample = &a->requests[a->n], .follows = follows};
    a->jobs[a->n++] = j;
    return true;
}

static bool nothing_else_to_do(struct batcher *b, int32_t n)
{
    int32_t n_jobs = 0;
    for (int32_t i = 0; i < n; i++)
        n_jobs += b->slice_jobs[i] != NULL;
    if (b->n_running != n_jobs)
        return false;
    pthread_mutex_lock(&b->lock);
    bool nothing = !b->kick && !b->quit;
    pthread_mutex_unlock(&b->lock);
    return nothing;
}

/* Whether it pays better to verify what may follow (speculate.h), as far as the ids up to now can tell. */
static bool may_propose(struct batcher *b, struct batch_job *j, int32_t n)
{
    const int32_t *found;
    double yield = n;
    int32_t ids = b->o.speculate ? speculate_find(j->ids, j->n_all, SPECULATE_MAX, &found) : 0;
    return ids > 0 && speculate_length(&j->luck, &b->times, n, ids, &yield) > 0;
}

/* Plan and start the step after the one that runs, of n slices. */
static void look_ahead(struct batcher *b, int32_t n)
{
    struct batch_ahead *a = &b->ahead;
    struct error e;
    bool good = nothing_else_to_do(b, n);
    for (int32_t i = 0; i < n && good; i++) {
        struct batch_job *j = b->slice_jobs[i];
        if (!j || j->skip || ends_with_this(b, j))
            continue;
        good = !may_propose(b, j, n) && add_slice(b, a, j, i);
    }
    if (!good || a->n == 0 || b->o.ops->step_start(b->o.engine, a->slices, a->n, &e) != RC_OK)
        a->n = 0; /* a failure comes again, and is told, when the step is made in its turn */
}

/* The slices whose jobs are still there to the front; returns how many. */
static int32_t drop_orphans(struct batcher *b, int32_t n)
{
    int32_t kept = 0;
    for (int32_t i = 0; i < n; i++)
        if (b->slice_jobs[i]) {
            b->slices[kept] = b->slices[i];
            b->slice_jobs[kept++] = b->slice_jobs[i];
        }
    return kept;
}

enum rc ahead_step(struct batcher *b, int32_t *n, int32_t n_prefill, struct error *e)
{
    const struct batch_engine_ops *ops = b->o.ops;
    const bool begun = b->begun;
    enum rc rc = RC_OK;
    b->begun = false;
    if (!begun && !can_overlap(b, *n, n_prefill))
        return ops->step(b->o.engine, b->slices, *n, e);
    if (!begun)
        rc = ops->step_start(b->o.engine, b->slices, *n, e);
    if (rc == RC_OK) {
        look_ahead(b, *n);
        rc = ops->step_finish(b->o.engine, b->slices, *n, e);
    }
    *n = drop_orphans(b, *n);
    return rc;
}

void ahead_again(struct batcher *b, struct batch_job *j)
{
    ahead_forget(b, j);
    b->o.ops->seq_rewind(j->seq, j->n_all - 1);
    j->by_host = true;
}

int32_t ahead_take(struct batcher *b)
{
    struct batch_ahead *a = &b->ahead, was = *a;
    if (a->n == 0)
        return 0;
    *a = (struct batch_ahead){.slices = b->slices, .jobs = b->slice_jobs, .requests = b->requests};
    b->slices = was.slices, b->slice_jobs = was.jobs, b->requests = was.requests;
    b->begun = true;
    return was.n;
}

void ahead_forget(struct batcher *b, const struct batch_job *j)
{
    for (int32_t i = 0; i < b->ahead.n; i++)
        if (b->ahead.jobs[i] == j)
            b->ahead.jobs[i] = NULL;
}

bool ahead_has(const struct batcher *b, const struct batch_job *j)
{
    for (int32_t i = 0; i < b->ahead.n; i++)
        if (b->ahead.jobs[i] == j)
            return true;
    return false;
}

void ahead_drop(struct batcher *b)
{
    struct error e;
    if (b->ahead.n > 0)
        (void)!b->o.ops->step_finish(b->o.engine, b->ahead.slices, b->ahead.n, &e);
    b->ahead.n = 0;
}
