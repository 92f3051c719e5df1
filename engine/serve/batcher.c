#include "engine/serve/batcher_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/thread.h"

const struct batch_engine_ops batch_engine_ops_real = {
    .seq_new = seq_new,
    .seq_free = seq_free,
    .seq_attach = seq_attach,
    .seq_share = seq_share,
    .seq_rewind = seq_rewind,
    .seq_reserve = seq_reserve,
    .step = engine_step,
    .overlap_max = engine_overlap_max,
    .step_start = engine_step_start,
    .step_finish = engine_step_finish,
    .pages_free = engine_pages_free,
    .pages_total = engine_pages_total,
    .pages_kept = engine_pages_kept,
    .pages_evicted = engine_pages_evicted,
    .spill = engine_spill,
};

/* Jobs. */

static void output_init(struct batch_output *o)
{
    *o = (struct batch_output){.finish = BATCH_RUNNING};
    strbuf_init(&o->content, ANSWER_BYTES_MAX);
    strbuf_init(&o->reasoning, ANSWER_BYTES_MAX);
}

static void output_fini(struct batch_output *o)
{
    strbuf_fini(&o->content);
    strbuf_fini(&o->reasoning);
    free(o->ids);
    free(o->samples);
}

struct batch_job *batch_job_new(const struct batch_job_options *o)
{
    SPW_ASSERT(o->n_resumed >= 0 && o->n_ids > o->n_resumed);
    SPW_ASSERT(o->no_answer || o->max_tokens > o->n_resumed);
    struct batch_job *j = spw_calloc(1, sizeof *j);
    j->ids = o->ids;
    j->n_ids = j->n_all = j->cap_ids = o->n_ids;
    j->salt = o->salt;
    j->n_prompt = o->n_ids - o->n_resumed;
    j->max_tokens = o->max_tokens;
    j->sampler = o->sampler;
    j->answer = o->answer;
    j->want_samples = o->want_samples;
    j->sibling = o->sibling;
    j->no_answer = o->no_answer;
    if (o->want_prompt)
        j->prompt = spw_calloc((size_t)j->n_prompt, sizeof *j->prompt);
    j->pool = o->pool;
    j->on_output = o->on_output;
    j->arg = o->arg;
    output_init(&j->out);
    output_init(&j->view);
    return j;
}

void batch_job_free(struct batch_job *j)
{
    if (!j)
        return;
    SPW_ASSERT(!j->seq);
    free(j->ids);
    sampler_free(j->sampler);
    answer_free(j->answer);
    free(j->prompt);
    free(j->pooled);
    free(j->embedding);
    output_fini(&j->out);
    output_fini(&j->view);
    free(j);
}

/* Engine thread: leaving. */

void job_leave(struct batcher *b, struct batch_job *j, enum batch_finish finish)
{
    ahead_forget(b, j);
    if (j->seq)
        b->o.ops->seq_free(j->seq);
    j->seq = NULL;
    j->phase = JOB_DONE;
    j->finish = finish;
    j->news = true;
}

void job_fail(struct batcher *b, struct batch_job *j, const struct error *e)
{
    j->error = *e;
    job_leave(b, j, BATCH_FAILED);
}

/* Engine thread: publishing. The lock is held. */

static void output_add(struct batch_job *j, const struct sample *s)
{
    struct batch_output *o = &j->out;
    if (o->n_ids == o->cap_ids) {
        o->cap_ids = o->cap_ids ? 2 * o->cap_ids : 16;
        o->ids = spw_realloc(o->ids, (size_t)o->cap_ids * sizeof *o->ids);
        if (j->want_samples)
            o->samples = spw_realloc(o->samples, (size_t)o->cap_ids * sizeof *o->samples);
    }
    if (j->want_samples)
        o->samples[o->n_ids] = *s;
    o->ids[o->n_ids++] = s->id;
}

static enum rc move_text(struct strbuf *to, struct strbuf *from)
{
    enum rc rc = from->len ? strbuf_append(to, from->data, from->len) : RC_OK;
    if (rc == RC_OK)
        strbuf_clear(from);
    return rc;
}

static void finish_count_locked(struct batcher *b, const struct batch_job *j)
{
    struct batcher_stats *s = &b->stats;
    if (j->cancel) {
        s->cancelled++;
        return;
    }
    s->finished_stop += j->finish == BATCH_STOP;
    s->finished_length += j->finish == BATCH_LENGTH;
    s->finished_failed += j->finish == BATCH_FAILED;
    if (j->first_token.ns)
        histogram_observe(&s->decode, (double)(j->last_token.ns - j->first_token.ns) / NS_PER_S);
}

void publish_job_locked(struct batcher *b, struct batch_job *j)
{
    struct batch_output *o = &j->out;
    for (int32_t i = 0; i < j->n_new; i++)
        output_add(j, &j->samples[i]);
    j->n_new = 0;
    if (j->answer && (move_text(&o->content, &j->answer->content) || move_text(&o->reasoning, &j->answer->reasoning))) {
        error_set(&j->error, RC_FULL, "the reader is too slow: %zu MiB of text wait for it", ANSWER_BYTES_MAX >> 20);
        if (j->phase != JOB_DONE)
            job_leave(b, j, BATCH_FAILED);
        j->finish = BATCH_FAILED;
    }
    o->usage = (struct batch_usage){
        .prompt = j->n_prompt,
        .completion = j->answer ? j->answer->n_tokens : 0,
        .reasoning = j->answer ? j->answer->n_reasoning : 0,
        .cached = j->n_cached < j->n_prompt ? j->n_cached : j->n_prompt,
    };
    memcpy(o->usage.uses, j->uses, sizeof j->uses);
    o->usage.n_uses = j->n_uses;
    o->first_token = j->first_token;
    o->embedding = j->embedding;
    o->prompt = j->prompt_told ? j->prompt + 1 : NULL;
    if (j->phase == JOB_DONE) {
        o->finish = j->finish;
        o->error = j->error;
        finish_count_locked(b, j);
    }
    if (!j->dirty) {
        j->dirty = true;
        j->next_dirty = NULL;
        *b->dirty_tail = j;
        b->dirty_tail = &j->next_dirty;
    }
    j->news = false;
}

static void ring(struct batcher *b)
{
    uint64_t one = 1;
    ssize_t n;
    do {
        n = write(b->fd, &one, sizeof one);
    } while (n < 0 && errno == EINTR); /* EAGAIN: already readable, which is all we want */
}

static void count_pages_locked(struct batcher *b)
{
    b->stats.pages_free = b->o.ops->pages_free(b->o.engine);
    b->stats.pages_kept = b->o.ops->pages_kept(b->o.engine);
    b->stats.pages_evicted = b->o.ops->pages_evicted(b->o.engine);
    const struct kv_spill spill = b->o.ops->spill(b->o.engine);
    b->stats.pages_spilled = spill.pages;
    b->stats.spills = spill.out;
    b->stats.returns = spill.in;
}

bool job_runs(const struct batch_job *j)
{
    return j->phase == JOB_PREFILL || j->phase == JOB_DECODE;
}

/* Publish what changed, and forget the jobs that have ended: from here on they are the loop thread's. */
static void publish(struct batcher *b)
{
    bool any = false;
    pthread_mutex_lock(&b->lock);
    int32_t kept = 0;
    for (int32_t i = 0; i < b->n_running; i++) {
        struct batch_job *j = b->running[i];
        if (j->news) {
            publish_job_locked(b, j);
            any = true;
        }
        if (job_runs(j))
            b->running[kept++] = j;
    }
    if (kept < b->n_running)
        b->kick = true; /* there is room: look at who waits */
    b->n_running = b->stats.running = kept;
    count_pages_locked(b);
    pthread_mutex_unlock(&b->lock);
    if (any)
        ring(b);
}

static bool any_runnable(const struct batcher *b)
{
    for (int32_t i = 0; i < b->n_running; i++)
        if (!b->running[i]->skip)
            return true;
    return false;
}

int64_t batcher_account(struct batcher *b)
{
    const int64_t us = mono_since(b->o.clock, b->accounted) / NS_PER_US;
    b->accounted.ns += us * NS_PER_US;
    return us;
}

static void wait_locked(struct batcher *b)
{
    b->idle = true;
    while (!b->quit && !b->kick && !any_runnable(b))
        pthread_cond_wait(&b->wake, &b->lock);
    b->idle = false;
    b->stats.idle_us += (uint64_t)batcher_account(b);
}

/* Wait until there is something to do, then take in what the loop thread left. False: quit. */
static bool collect(struct batcher *b)
{
    pthread_mutex_lock(&b->lock);
    if (!b->quit && !b->kick && !any_runnable(b))
        wait_locked(b);
    bool go = !b->quit;
    if (go) {
        b->kick = false;
        heed_flags_locked(b);
        admit_locked(b);
        b->stats.running = b->n_running;
        if (b->dirty)
            ring(b); /* jobs cancelled while they waited */
    }
    pthread_mutex_unlock(&b->lock);
    return go;
}

static void *engine_thread(void *arg)
{
    struct batcher *b = arg;
    b->accounted = clock_now(b->o.clock);
    while (collect(b)) {
        batcher_step(b);
        publish(b);
    }
    ahead_drop(b);
    return NULL;
}

/* Life. */

void batcher_stats_init(struct batcher_stats *s)
{
    *s = (struct batcher_stats){0};
    histogram_init(&s->gap, &histogram_gaps);
    histogram_init(&s->queue, &histogram_seconds);
    histogram_init(&s->prefill, &histogram_seconds);
    histogram_init(&s->decode, &histogram_seconds);
    histogram_init(&s->step, &histogram_gaps);
    histogram_init(&s->step_batch, &histogram_tokens);
    histogram_init(&s->step_prefill, &histogram_tokens);
    histogram_init(&s->step_pages, &histogram_tokens);
    histogram_init(&s->prefix_hits, &histogram_tokens);
}

static void stats_init(struct batcher *b)
{
    struct batcher_stats *s = &b->stats;
    batcher_stats_init(s);
    s->pages_total = b->o.ops->pages_total(b->o.engine);
    count_pages_locked(b);
}

static void batcher_destroy(struct batcher *b)
{
    pthread_mutex_destroy(&b->lock);
    pthread_cond_destroy(&b->wake);
    if (b->fd >= 0)
        close(b->fd);
    sampler_scratch_free(b->scratch);
    free(b->running);
    free(b->back);
    free(b->weights);
    free(b->parts);
    free(b->slices);
    free(b->requests);
    free(b->slice_jobs);
    free(b->ahead.slices);
    free(b->ahead.requests);
    free(b->ahead.jobs);
    free(b);
}

enum rc batcher_new(struct batcher **out, const struct batcher_options *o, struct error *e)
{
    if (o->max_seqs < 1 || o->step_tokens < o->max_seqs)
        return error_set(e, RC_INVALID,
                         "%d sequences do not fit into a step of %d tokens; the step must hold one of each",
                         (int)o->max_seqs, (int)o->step_tokens);
    struct batcher *b = spw_calloc(1, sizeof *b);
    b->o = *o;
    if (b->o.n_logits == 0)
        b->o.n_logits = b->o.n_vocab;
    b->resume_tokens = o->step_tokens < RESUME_TOKENS_FIRST ? o->step_tokens : RESUME_TOKENS_FIRST;
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->wake, NULL);
    b->waiting_tail = &b->waiting;
    b->dirty_tail = &b->dirty;
    b->slices = spw_calloc((size_t)o->max_seqs, sizeof *b->slices);
    b->requests = spw_calloc((size_t)o->max_seqs, sizeof *b->requests);
    b->running = spw_calloc((size_t)o->max_seqs, sizeof(void *));    /* arrays of pointers: said so, as the analyzer */
    b->slice_jobs = spw_calloc((size_t)o->max_seqs, sizeof(void *)); /* takes a sizeof of one for a slip */
    b->back = spw_calloc((size_t)o->max_seqs, sizeof(void *));
    b->ahead.slices = spw_calloc((size_t)o->max_seqs, sizeof *b->ahead.slices);
    b->ahead.requests = spw_calloc((size_t)o->max_seqs, sizeof *b->ahead.requests);
    b->ahead.jobs = spw_calloc((size_t)o->max_seqs, sizeof(void *));
    b->weights = spw_calloc((size_t)o->max_seqs, sizeof *b->weights);
    b->parts = spw_calloc((size_t)o->max_seqs, sizeof *b->parts);
    b->scratch = sampler_scratch_new(o->n_vocab);
    stats_init(b);
    b->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (b->fd < 0) {
        batcher_destroy(b);
        return error_set(e, RC_IO, "cannot create an event descriptor: errno %d", errno);
    }
    int failed = thread_start(&b->thread, "batcher", engine_thread, b);
    if (failed) {
        batcher_destroy(b);
        return error_set(e, RC_IO, "cannot start the engine thread: errno %d", failed);
    }
    *out = b;
    return RC_OK;
}

/* After the engine thread has ended. A job can be both running and dirty; done ones are only dirty. */
static void drop_jobs(struct batcher *b)
{
    struct batch_job *j = b->dirty;
    while (j) {
        struct batch_job *next = j->next_dirty;
        if (j->out.finish != BATCH_RUNNING)
            batch_job_free(j);
        j = next;
    }
    for (int32_t i = 0; i < b->n_running; i++) {
        if (b->running[i]->seq)
            b->o.ops->seq_free(b->running[i]->seq);
        b->running[i]->seq = NULL;
        batch_job_free(b->running[i]);
    }
    while (b->waiting) {
        struct batch_job *waiting = b->waiting;
        b->waiting = waiting->next;
        batch_job_free(waiting);
    }
}

void batcher_free(struct batcher *b)
{
    if (!b)
        return;
    pthread_mutex_lock(&b->lock);
    b->quit = true;
    pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->lock);
    pthread_join(b->thread, NULL);
    drop_jobs(b);
    batcher_destroy(b);
}

/* Loop thread. */

enum rc batcher_submit(struct batcher *b, struct batch_job *j, struct error *e)
{
    SPW_ASSERT(j->n_ids < b->o.n_ctx);
    pthread_mutex_lock(&b->lock);
    /* Free slots count as room: the engine thread may not have had its turn yet. */
    int32_t free_slots = b->o.max_seqs - b->stats.running;
    bool full = !j->sibling && b->stats.waiting >= b->o.waiting_max + free_slots;
    if (full) {
        b->stats.refused++;
    } else {
        j->phase = JOB_WAITING;
        j->submitted = clock_now(b->o.clock);
        j->next = NULL;
        *b->waiting_tail = j;
        b->waiting_tail = &j->next;
        b->stats.waiting++;
        b->kick = true;
        pthread_cond_signal(&b->wake);
    }
    pthread_mutex_unlock(&b->lock);
    return full ? error_set(e, RC_FULL, "all %d slots are taken and %d requests wait already", (int)b->o.max_seqs,
                            (int)b->o.waiting_max)
                : RC_OK;
}

void batcher_cancel(struct batcher *b, struct batch_job *j)
{
    j->detached = true;
    pthread_mutex_lock(&b->lock);
    j->cancel = true;
    b->kick = true;
    pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->lock);
}

bool batcher_withdraw(struct batcher *b, struct batch_job *j)
{
    pthread_mutex_lock(&b->lock);
    /* In this order: once it has begun, its phase is the engine thread's, and changes without the lock. */
    bool found = !j->begun && j->phase == JOB_WAITING;
    if (found) {
        waiting_remove_locked(b, j);
        b->stats.withdrawn++;
        b->kick = true; /* whoever stood behind it may fit */
        pthread_cond_signal(&b->wake);
    }
    pthread_mutex_unlock(&b->lock);
    return found;
}

void batcher_set_flow(struct batcher *b, struct batch_job *j, enum batch_flow flow)
{
    pthread_mutex_lock(&b->lock);
    j->pause = flow == BATCH_PAUSE;
    b->kick = true;
    pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->lock);
}

int batcher_fd(const struct batcher *b)
{
    return b->fd;
}

/* Take one job's output: swap the filled buffer for the emptied one. */
static struct batch_job *dispatch_next(struct batcher *b)
{
    pthread_mutex_lock(&b->lock);
    struct batch_job *j = b->dirty;
    if (j) {
        b->dirty = j->next_dirty;
        if (!b->dirty)
            b->dirty_tail = &b->dirty;
        j->dirty = false;
        struct batch_output t = j->view;
        j->view = j->out;
        j->out = t;
        strbuf_clear(&j->out.content);
        strbuf_clear(&j->out.reasoning);
        j->out.n_ids = 0;
    }
    pthread_mutex_unlock(&b->lock);
    return j;
}

void batcher_dispatch(struct batcher *b)
{
    uint64_t count;
    if (read(b->fd, &count, sizeof count) < 0 && errno != EAGAIN && errno != EINTR)
        return;
    /* Bounded: only jobs that existed when a step ended are on the list, and each appears once per step. */
    struct batch_job *j;
    while ((j = dispatch_next(b))) {
        bool last = j->view.finish != BATCH_RUNNING;
        if (!j->detached)
            j->on_output(j, &j->view, j->arg);
        if (last)
            batch_job_free(j);
    }
}

void batcher_stats(struct batcher *b, struct batcher_stats *out)
{
    pthread_mutex_lock(&b->lock);
    *out = b->stats;
    if (b->idle)
        out->idle_us += (uint64_t)(mono_since(b->o.clock, b->accounted) / NS_PER_US);
    pthread_mutex_unlock(&b->lock);
}
