#include "engine/serve/batcher.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/thread.h"
#include "engine/serve/speculate.h"

#define PREFILL_TOKENS_DEFAULT 32
#define FIRST_ROOM             K_PAGE_TOKENS /* for the answer, reserved with the prompt */
#define OVERTAKEN_MAX          8             /* admissions that a waiting job lets pass for the sake of fairness */
#define FAIR_LOOK              256           /* of those who wait, from the oldest on, are looked at for that */

enum job_phase { JOB_WAITING, JOB_PREFILL, JOB_DECODE, JOB_DONE };

struct batch_job {
    /* Set before it is submitted, then the engine thread's. */
    int32_t n_ids;    /* to be computed before the first choice: the prompt, then the answer so far */
    int32_t n_prompt; /* of them */
    struct prefix_salt salt;
    int32_t max_tokens;
    bool want_samples, sibling;
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
    bool skip; /* paused as of this step's plan */
    bool news; /* has something to publish */
    struct mono submitted, admitted, first_token, last_token;
    int32_t n_draft;                          /* ids that are proposed in this step */
    int32_t n_new;                            /* ids chosen in this step, not yet published */
    struct sample samples[SPECULATE_MAX + 1]; /* of them */
    int32_t proposed[SPECULATE_MAX + 1];      /* the last id, then those that may follow it */
    struct speculate_luck luck;
    enum batch_finish finish;
    struct error error;
};

struct batcher {
    struct batcher_options o;
    pthread_t thread;
    int fd;
    /* Engine thread. */
    struct batch_job **running; /* in order of admission */
    int32_t n_running;
    struct step_slice *slices;
    struct batch_job **slice_jobs;
    struct sampler_scratch *scratch;
    struct step_times times;
    /* Under the lock. */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct batch_job *waiting, **waiting_tail;
    struct batch_job *dirty, **dirty_tail;
    bool quit;
    bool kick; /* something changed that the engine thread must look at */
    struct batcher_stats stats;
};

const struct batch_engine_ops batch_engine_ops_real = {
    .seq_new = seq_new,
    .seq_free = seq_free,
    .seq_attach = seq_attach,
    .seq_share = seq_share,
    .seq_rewind = seq_rewind,
    .seq_reserve = seq_reserve,
    .step = engine_step,
    .pages_free = engine_pages_free,
    .pages_total = engine_pages_total,
    .pages_kept = engine_pages_kept,
    .pages_evicted = engine_pages_evicted,
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
    SPW_ASSERT(o->n_resumed >= 0 && o->n_ids > o->n_resumed && o->max_tokens > o->n_resumed);
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
    free(j->pooled);
    free(j->embedding);
    output_fini(&j->out);
    output_fini(&j->view);
    free(j);
}

/* Engine thread: leaving. */

static void job_leave(struct batcher *b, struct batch_job *j, enum batch_finish finish)
{
    if (j->seq)
        b->o.ops->seq_free(j->seq);
    j->seq = NULL;
    j->phase = JOB_DONE;
    j->finish = finish;
    j->news = true;
}

static void job_fail(struct batcher *b, struct batch_job *j, const struct error *e)
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

static void publish_job_locked(struct batcher *b, struct batch_job *j)
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
    o->first_token = j->first_token;
    o->embedding = j->embedding;
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
}

static bool is_running(const struct batch_job *j)
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
        if (is_running(j))
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

/* Engine thread: admission. The lock is held. */

static void waiting_remove_locked(struct batcher *b, struct batch_job *j)
{
    struct batch_job **link = &b->waiting;
    while (*link != j)
        link = &(*link)->next;
    *link = j->next;
    if (!j->next)
        b->waiting_tail = link;
    b->stats.waiting--;
}

/* Those who have begun already stand before all others, by age. */
static void waiting_insert_locked(struct batcher *b, struct batch_job *j)
{
    struct batch_job **link = &b->waiting;
    while (*link && (*link)->begun && (*link)->submitted.ns <= j->submitted.ns)
        link = &(*link)->next;
    j->next = *link;
    *link = j;
    if (!j->next)
        b->waiting_tail = &j->next;
    b->stats.waiting++;
}

static int32_t running_of(const struct batcher *b, const struct prefix_salt *salt)
{
    int32_t n = 0;
    for (int32_t i = 0; i < b->n_running; i++)
        n += memcmp(&b->running[i]->salt, salt, sizeof *salt) == 0;
    return n;
}

/* Who is next: whoever has begun already or has been overtaken too often, else the oldest of the tenant with the fewest
 * running. */
static struct batch_job *waiting_next_locked(struct batcher *b)
{
    struct batch_job *best = b->waiting;
    int32_t looked = 0, fewest = INT32_MAX;
    for (struct batch_job *j = b->waiting; j && looked < FAIR_LOOK; j = j->next, looked++) {
        if (j->begun || j->overtaken >= OVERTAKEN_MAX)
            return j;
        int32_t n = running_of(b, &j->salt);
        if (n < fewest) {
            fewest = n;
            best = j;
        }
    }
    return best;
}

static void leave_waiting_locked(struct batcher *b, struct batch_job *next)
{
    for (struct batch_job *j = b->waiting; j != next; j = j->next)
        j->overtaken++;
    waiting_remove_locked(b, next);
}

/* Drop the cancelled from both lists, note who is paused. */
static void heed_flags_locked(struct batcher *b)
{
    for (int32_t i = 0; i < b->n_running; i++) {
        struct batch_job *j = b->running[i];
        j->skip = j->pause;
        if (j->cancel && j->phase != JOB_DONE)
            job_leave(b, j, BATCH_STOP);
    }
    struct batch_job **link = &b->waiting;
    while (*link) {
        struct batch_job *j = *link;
        if (!j->cancel) {
            link = &j->next;
            continue;
        }
        *link = j->next;
        b->stats.waiting--;
        job_leave(b, j, BATCH_STOP);
        publish_job_locked(b, j);
    }
    b->waiting_tail = link;
}

static int32_t pages_of(int64_t tokens)
{
    return (int32_t)((tokens + K_PAGE_TOKENS - 1) / K_PAGE_TOKENS);
}

/* A sequence for the job, with what is known of its prompt and pages for the rest and the beginning of its answer; or none,
 * and why. Something stays free for the answers that run: who comes shall not be displaced at once. */
static void take_seq(struct batcher *b, struct batch_job *j, struct error *e)
{
    const struct batch_engine_ops *ops = b->o.ops;
    j->seq = ops->seq_new(b->o.engine);
    if (!j->seq) {
        error_set(e, RC_FULL, "the engine has no sequence to give although none runs");
        return;
    }
    /* A mean wants the states of all tokens, also of those whose keys and values are known. */
    int32_t known = j->pool == BATCH_POOL_MEAN ? 0 : ops->seq_attach(j->seq, &j->salt, j->ids, j->n_ids);
    int64_t room = b->o.n_ctx - known, need = (int64_t)j->n_ids - known + FIRST_ROOM;
    need = need < room ? need : room;
    bool tight = b->n_running > 0 && pages_of(need) + b->n_running > ops->pages_free(b->o.engine);
    if (tight || ops->seq_reserve(j->seq, (int32_t)need, e)) {
        ops->seq_free(j->seq);
        j->seq = NULL;
        return;
    }
    j->n_stored = known;
    if (!j->begun)
        j->n_cached = known;
}

/* What is counted once of a job, however often it is displaced. */
static void count_admission_locked(struct batcher *b, struct batch_job *j)
{
    j->begun = true;
    j->admitted = clock_now(b->o.clock);
    histogram_observe(&b->stats.queue, (double)(j->admitted.ns - j->submitted.ns) / NS_PER_S);
    b->stats.prompt_tokens += (uint64_t)j->n_prompt;
    b->stats.cached_tokens += (uint64_t)(j->n_cached < j->n_prompt ? j->n_cached : j->n_prompt);
}

/* One job of those who wait begins, or goes on. False: not now. */
static bool admit_one_locked(struct batcher *b)
{
    struct batch_job *j = waiting_next_locked(b);
    struct error e = {0};
    take_seq(b, j, &e);
    if (!j->seq && b->n_running > 0)
        return false; /* someone will finish and give back what is missing */
    /* With every page free it does not fit, so it never will. */
    leave_waiting_locked(b, j);
    b->running[b->n_running++] = j;
    j->phase = JOB_PREFILL;
    j->skip = j->pause;
    if (!j->begun)
        count_admission_locked(b, j);
    if (!j->seq)
        job_fail(b, j, &e);
    return true;
}

/* It gives its pages to older ones, and waits for its turn to go on; what it has said so far becomes part of what is to
 * be computed, where it is not known any more by then. */
static void displace(struct batcher *b, struct batch_job *j)
{
    b->o.ops->seq_free(j->seq);
    j->seq = NULL;
    j->n_ids = j->n_all;
    pthread_mutex_lock(&b->lock);
    j->phase = JOB_WAITING;
    waiting_insert_locked(b, j);
    b->stats.preemptions++;
    pthread_mutex_unlock(&b->lock);
}

static struct batch_job *youngest(const struct batcher *b)
{
    struct batch_job *found = NULL;
    for (int32_t i = 0; i < b->n_running; i++) {
        struct batch_job *j = b->running[i];
        if (is_running(j) && (!found || j->submitted.ns >= found->submitted.ns))
            found = j;
    }
    return found;
}

/* Every answer that goes on gets room for its next token, if need be at the cost of the youngest. The oldest always gets
 * it, for the pool holds at least one whole sequence: nobody waits for ever. */
static void make_room(struct batcher *b)
{
    struct error e;
    for (int32_t i = 0; i < b->n_running; i++) {
        struct batch_job *j = b->running[i];
        while (j->phase == JOB_DECODE && !j->skip && b->o.ops->seq_reserve(j->seq, 1, &e))
            displace(b, youngest(b));
    }
}

static bool any_runnable(const struct batcher *b)
{
    for (int32_t i = 0; i < b->n_running; i++)
        if (!b->running[i]->skip)
            return true;
    return false;
}

/* Wait until there is something to do, then take in what the loop thread left. False: quit. */
static bool collect(struct batcher *b)
{
    pthread_mutex_lock(&b->lock);
    while (!b->quit && !b->kick && !any_runnable(b))
        pthread_cond_wait(&b->wake, &b->lock);
    bool go = !b->quit;
    if (go) {
        b->kick = false;
        heed_flags_locked(b);
        while (b->waiting && b->n_running < b->o.max_seqs && admit_one_locked(b))
            ;
        b->stats.running = b->n_running;
        if (b->dirty)
            ring(b); /* jobs cancelled while they waited */
    }
    pthread_mutex_unlock(&b->lock);
    return go;
}

/* Engine thread: a step. */

static int32_t plan_add(struct batcher *b, int32_t n, struct batch_job *j, const int32_t *ids, int32_t n_ids,
                        bool want_logits)
{
    b->slices[n] = (struct step_slice){.seq = j->seq, .ids = ids, .n = n_ids, .want_logits = want_logits};
    b->slices[n].want_hidden = j->pool == BATCH_POOL_MEAN || (j->pool == BATCH_POOL_LAST && want_logits);
    b->slice_jobs[n] = j;
    return n + 1;
}

/* More ids of this sequence than the last one: those that may follow. Never past the end of the answer or of its room. */
static void propose(struct batcher *b, struct batch_job *j, struct step_slice *sl, int32_t tokens, double *yield)
{
    const int32_t *found;
    int32_t left = j->max_tokens - j->answer->n_tokens, room = b->o.n_ctx - j->n_all;
    int32_t max = (left < room ? left : room) - 1;
    j->n_draft = 0;
    if (max <= 0 ||
        (j->n_draft = speculate_find(j->ids, j->n_all, max < SPECULATE_MAX ? max : SPECULATE_MAX, &found)) == 0)
        return;
    struct error e;
    j->n_draft = speculate_length(&j->luck, &b->times, tokens, j->n_draft, yield);
    if (j->n_draft > 0 && b->o.ops->seq_reserve(j->seq, 1 + j->n_draft, &e))
        j->n_draft = 0; /* not at the cost of others */
    if (j->n_draft == 0)
        return;
    j->proposed[0] = j->ids[j->n_all - 1];
    memcpy(j->proposed + 1, found, (size_t)j->n_draft * sizeof *found);
    sl->ids = j->proposed;
    sl->n = 1 + j->n_draft;
    sl->all_logits = true;
}

/* Where a step only decodes, what it costs to look ahead is weighed against what that may bring. Returns its tokens. */
static void propose_all(struct batcher *b, int32_t n)
{
    double yield = n;
    int32_t tokens = n;
    for (int32_t i = 0; i < n && tokens < b->o.step_tokens; i++) {
        propose(b, b->slice_jobs[i], &b->slices[i], tokens, &yield);
        tokens += b->slice_jobs[i]->n_draft;
    }
}

/* Fill slices: every decoding sequence, then prompts in order of age. Returns how many; *n_prefill tokens of prompts. */
static int32_t plan(struct batcher *b, int32_t *n_prefill)
{
    int32_t n = 0;
    for (int32_t i = 0; i < b->n_running; i++) {
        struct batch_job *j = b->running[i];
        j->n_draft = 0;
        if (j->phase == JOB_DECODE && !j->skip)
            n = plan_add(b, n, j, &j->ids[j->n_all - 1], 1, true);
    }
    int32_t n_decode = n, budget = b->o.step_tokens - n;
    if (n > 0 && budget > b->o.prefill_tokens)
        budget = b->o.prefill_tokens;
    *n_prefill = 0;
    for (int32_t i = 0; i < b->n_running && budget > 0; i++) {
        struct batch_job *j = b->running[i];
        if (j->phase != JOB_PREFILL || j->skip)
            continue;
        int32_t left = j->n_ids - j->n_stored;
        int32_t take = left < budget ? left : budget;
        n = plan_add(b, n, j, j->ids + j->n_stored, take, take == left);
        budget -= take;
        *n_prefill += take;
    }
    if (b->o.speculate && *n_prefill == 0)
        propose_all(b, n_decode);
    return n;
}

static void job_add_id(struct batch_job *j, int32_t id)
{
    if (j->n_all == j->cap_ids) {
        j->cap_ids += j->cap_ids / 2 + 64;
        j->ids = spw_realloc(j->ids, (size_t)j->cap_ids * sizeof *j->ids);
    }
    j->ids[j->n_all++] = id;
}

/* Choose one token for a job from its logits and see whether that ends it. */
static void job_choose(struct batcher *b, struct batch_job *j, const float *logits, struct mono now)
{
    struct error e;
    struct sample *s = &j->samples[j->n_new];
    if (sampler_choose(j->sampler, logits, NULL, b->scratch, s, &e) != RC_OK) {
        job_fail(b, j, &e);
        return;
    }
    sampler_accept(j->sampler, s->id);
    job_add_id(j, s->id);
    j->n_new++;
    j->news = true;
    j->phase = JOB_DECODE;
    if (!j->first_token.ns)
        j->first_token = now;
    enum rc rc = answer_push(j->answer, s->id, &e);
    if (rc == RC_OK && j->answer->state == ANSWER_ENDED) {
        job_leave(b, j, BATCH_STOP);
    } else if (rc == RC_OK &&
               (j->answer->n_tokens >= j->max_tokens || j->n_prompt + j->answer->n_tokens >= b->o.n_ctx)) {
        rc = answer_finish(j->answer, &e);
        job_leave(b, j, BATCH_LENGTH);
    }
    if (rc)
        job_fail(b, j, &e);
}

/* Choose after the last id, and after each proposed one as long as they come true. What was stored of the others goes. */
static void job_choose_all(struct batcher *b, struct batch_job *j, const struct step_slice *sl, struct mono now)
{
    int32_t right = 0, stored = j->n_all; /* before: all but the last; the last is in this step */
    for (;; right++) {
        job_choose(b, j, sl->logits + (size_t)right * (size_t)b->o.n_vocab, now);
        if (j->phase == JOB_DONE || right == j->n_draft || j->ids[j->n_all - 1] != j->proposed[right + 1])
            break;
    }
    speculate_observe(&j->luck, j->n_draft, right);
    if (j->n_draft > right && j->seq)
        b->o.ops->seq_rewind(j->seq, stored + right);
}

static void count_tokens_locked(struct batcher *b, struct batch_job *j, struct mono now)
{
    struct batcher_stats *s = &b->stats;
    s->generated_tokens += (uint64_t)j->n_new;
    s->proposed_tokens += (uint64_t)j->n_draft;
    s->accepted_tokens += (uint64_t)(j->n_draft && j->n_new ? j->n_new - 1 : 0);
    if (!j->n_new)
        return;
    if (!j->last_token.ns)
        histogram_observe(&s->prefill, (double)(now.ns - j->admitted.ns) / NS_PER_S);
    for (int32_t k = 0; j->last_token.ns && k < j->n_new; k++)
        histogram_observe(&s->gap, (double)(now.ns - j->last_token.ns) / NS_PER_S / j->n_new);
    j->last_token = now;
}

static void count_step(struct batcher *b, int32_t n_slices, int32_t n_prefill, struct mono start, struct mono now)
{
    pthread_mutex_lock(&b->lock);
    struct batcher_stats *s = &b->stats;
    int32_t n_tokens = 0;
    for (int32_t i = 0; i < n_slices; i++) {
        n_tokens += b->slices[i].n;
        count_tokens_locked(b, b->slice_jobs[i], now);
    }
    double seconds = (double)(now.ns - start.ns) / NS_PER_S;
    s->steps++;
    s->step_seconds += seconds;
    s->prefill_tokens += (uint64_t)n_prefill;
    s->decode_tokens += (uint64_t)(n_tokens - n_prefill);
    histogram_observe(&s->step, seconds);
    histogram_observe(&s->step_batch, n_tokens);
    pthread_mutex_unlock(&b->lock);
    if (n_prefill == 0)
        step_times_observe(&b->times, n_tokens, seconds);
}

/* The step did not happen: its jobs end with its error, the others go on. */
static void step_failed(struct batcher *b, int32_t n_slices, const struct error *e)
{
    for (int32_t i = 0; i < n_slices; i++)
        job_fail(b, b->slice_jobs[i], e);
    pthread_mutex_lock(&b->lock);
    b->stats.step_failures++;
    pthread_mutex_unlock(&b->lock);
}

/* Bring a fresh sampler to where the answer stands. */
static void feed_sampler(struct batch_job *j)
{
    sampler_prompt(j->sampler, j->ids, (size_t)j->n_prompt);
    for (int32_t i = j->n_prompt; i < j->n_ids; i++)
        sampler_accept(j->sampler, j->ids[i]);
    j->fed = true;
}

/* Take the states of a slice in. After the last one: the vector, as long as 1. */
static void pool_slice(struct batcher *b, struct batch_job *j, const struct step_slice *sl, bool last)
{
    int32_t n = b->o.n_embd;
    if (!j->pooled) {
        j->pooled = spw_calloc((size_t)n, sizeof *j->pooled);
        j->embedding = spw_calloc((size_t)n, sizeof *j->embedding);
    }
    if (j->n_stored == sl->n || j->pool == BATCH_POOL_LAST) /* from the beginning: it may have been displaced */
        memset(j->pooled, 0, (size_t)n * sizeof *j->pooled);
    for (int32_t t = j->pool == BATCH_POOL_LAST ? sl->n - 1 : 0; t < sl->n && sl->hidden; t++)
        for (int32_t i = 0; i < n; i++)
            j->pooled[i] += (double)sl->hidden[(size_t)t * (size_t)n + (size_t)i];
    if (!last)
        return;
    double squares = 0;
    for (int32_t i = 0; i < n; i++)
        squares += j->pooled[i] * j->pooled[i];
    double scale = squares > 0 ? 1 / sqrt(squares) : 0;
    for (int32_t i = 0; i < n; i++)
        j->embedding[i] = (float)(j->pooled[i] * scale);
    job_leave(b, j, BATCH_STOP);
}

static void step(struct batcher *b)
{
    int32_t n_prefill;
    make_room(b);
    int32_t n = plan(b, &n_prefill);
    if (n == 0)
        return;
    struct error e = {0};
    struct mono start = clock_now(b->o.clock);
    if (b->o.ops->step(b->o.engine, b->slices, n, &e) != RC_OK) {
        step_failed(b, n, &e);
        return;
    }
    struct mono now = clock_now(b->o.clock);
    for (int32_t i = 0; i < n; i++) {
        struct batch_job *j = b->slice_jobs[i];
        if (!j->fed && j->sampler)
            feed_sampler(j);
        if (j->phase == JOB_PREFILL)
            j->n_stored += b->slices[i].n;
        if (j->n_draft == 0) /* else not all that is stored is known to be right */
            b->o.ops->seq_share(j->seq, &j->salt, j->ids);
        if (j->pool)
            pool_slice(b, j, &b->slices[i], b->slices[i].want_logits);
        else if (b->slices[i].want_logits)
            job_choose_all(b, j, &b->slices[i], now);
    }
    count_step(b, n, n_prefill, start, now);
}

static void *engine_thread(void *arg)
{
    struct batcher *b = arg;
    while (collect(b)) {
        step(b);
        publish(b);
    }
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
    free(b->slices);
    free(b->slice_jobs);
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
    if (b->o.prefill_tokens <= 0)
        b->o.prefill_tokens = PREFILL_TOKENS_DEFAULT;
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->wake, NULL);
    b->waiting_tail = &b->waiting;
    b->dirty_tail = &b->dirty;
    b->slices = spw_calloc((size_t)o->max_seqs, sizeof *b->slices);
    b->running = spw_calloc((size_t)o->max_seqs, sizeof(void *));    /* arrays of pointers: said so, as the analyzer */
    b->slice_jobs = spw_calloc((size_t)o->max_seqs, sizeof(void *)); /* takes a sizeof of one for a slip */
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
    bool found = j->phase == JOB_WAITING && !j->begun;
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
    pthread_mutex_unlock(&b->lock);
}
