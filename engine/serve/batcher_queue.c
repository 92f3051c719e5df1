#include <string.h>

#include "engine/serve/batcher_internal.h"

#define FIRST_ROOM    K_PAGE_TOKENS /* for the answer, reserved with the prompt */
#define OVERTAKEN_MAX 8             /* admissions that a waiting job lets pass for the sake of fairness */
#define FAIR_LOOK     256           /* of those who wait, from the oldest on, are looked at for that */

void waiting_remove_locked(struct batcher *b, struct batch_job *j)
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
 * running. Not whose reader is behind. NULL: nobody. */
static struct batch_job *waiting_next_locked(struct batcher *b)
{
    struct batch_job *best = NULL;
    int32_t looked = 0, fewest = INT32_MAX;
    for (struct batch_job *j = b->waiting; j && looked < FAIR_LOOK; j = j->next) {
        if (j->pause)
            continue;
        looked++;
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

void heed_flags_locked(struct batcher *b)
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

/* A sequence for the job, with what is known of its prompt and pages for the rest and the beginning of its answer; or
 * none, and why. Something stays free for the answers that run: who comes shall not be displaced at once. */
static void take_seq(struct batcher *b, struct batch_job *j, struct error *e)
{
    const struct batch_engine_ops *ops = b->o.ops;
    j->seq = ops->seq_new(b->o.engine);
    if (!j->seq) {
        error_set(e, RC_FULL, "the engine has no sequence to give although none runs");
        return;
    }
    /* A mean wants the states of all tokens, also of those whose keys and values are known; so do the prompt's samples. */
    bool all = j->pool == BATCH_POOL_MEAN || (j->prompt && !j->prompt_told);
    int32_t known = all ? 0 : ops->seq_attach(j->seq, &j->salt, j->ids, j->n_ids);
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
    int32_t cached = j->n_cached < j->n_prompt ? j->n_cached : j->n_prompt;
    b->stats.cached_tokens += (uint64_t)cached;
    histogram_observe(&b->stats.prefix_hits, cached);
}

/* One job of those who wait begins, or goes on. False: not now. */
static bool admit_one_locked(struct batcher *b, struct batch_job *j)
{
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

/* It gives its pages to others, and waits for its turn to go on; what it has said so far becomes part of what is to be
 * computed, where it is not known any more by then. */
static void displace_locked(struct batcher *b, struct batch_job *j)
{
    ahead_forget(b, j);
    b->o.ops->seq_free(j->seq);
    j->seq = NULL;
    j->n_ids = j->n_all;
    j->phase = JOB_WAITING;
    waiting_insert_locked(b, j);
    b->stats.preemptions++;
}

/* A job whose reader is behind gives up its slot and pages: who does not read must not keep others from being answered.
 * False: none does. */
static bool make_way_locked(struct batcher *b)
{
    int32_t at = -1;
    for (int32_t i = 0; i < b->n_running; i++) {
        if (!job_runs(b->running[i]))
            return false; /* it has just been cancelled, and makes way with this step */
        at = b->running[i]->skip ? i : at;
    }
    if (at < 0)
        return false;
    displace_locked(b, b->running[at]);
    b->n_running--;
    memmove(&b->running[at], &b->running[at + 1], (size_t)(b->n_running - at) * sizeof(void *));
    return true;
}

void admit_locked(struct batcher *b)
{
    struct batch_job *next;
    bool may = true;
    while (may && (next = waiting_next_locked(b)))
        may = (b->n_running < b->o.max_seqs && admit_one_locked(b, next)) || make_way_locked(b);
}

static void displace(struct batcher *b, struct batch_job *j)
{
    pthread_mutex_lock(&b->lock);
    displace_locked(b, j);
    pthread_mutex_unlock(&b->lock);
}

static struct batch_job *youngest(const struct batcher *b)
{
    struct batch_job *found = NULL;
    for (int32_t i = 0; i < b->n_running; i++) {
        struct batch_job *j = b->running[i];
        if (job_runs(j) && (!found || j->submitted.ns >= found->submitted.ns))
            found = j;
    }
    return found;
}

/* Every answer that goes on gets room for its next token, if need be at the cost of the youngest. The oldest always
 * gets it, for the pool holds at least one whole sequence: nobody waits for ever. */
void make_room(struct batcher *b)
{
    struct error e;
    for (int32_t i = 0; i < b->n_running; i++) {
        struct batch_job *j = b->running[i];
        while (j->phase == JOB_DECODE && !j->skip && b->o.ops->seq_reserve(j->seq, 1, &e))
            displace(b, youngest(b));
    }
}
