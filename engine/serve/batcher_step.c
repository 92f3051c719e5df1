#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/divide.h"
#include "engine/serve/batcher_internal.h"

#define RESUME_STEP_S  0.25
#define PREFILL_TOKENS 32   /* of prompts in a step that also decodes */
#define LONG_PROMPT    1024 /* one of more tokens than this may take less of them, as pace.h says... */
#define LONG_TOKENS    16   /* ...and this before it is known what they take */
#define NJ_PER_MJ      INT64_C(1000000)
#define PROMPT_ROWS    32 /* rows of logits that a prompt's samples take of a step: each is as wide as the vocabulary */

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
    int32_t max = (left < room ? left : room) - 1, free = b->o.step_tokens - tokens;
    max = max < free ? max : free;
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

/* Where a step only decodes, what it costs to look ahead is weighed against what that may bring. */
static void propose_all(struct batcher *b, int32_t n)
{
    double yield = n;
    int32_t tokens = n;
    for (int32_t i = 0; i < n; i++) {
        propose(b, b->slice_jobs[i], &b->slices[i], tokens, &yield);
        tokens += b->slice_jobs[i]->n_draft;
    }
}

/* Of an answer that has begun, here or elsewhere: its client waits in the middle of a sentence. */
static bool goes_on(const struct batch_job *j)
{
    return j->phase == JOB_PREFILL && !j->skip && j->n_ids > j->n_prompt;
}

/* Tokens of prompts that a step of so many decoding sequences may take, out of `all` that it has room for. */
static int32_t prefill_budget(const struct batcher *b, int32_t n_decode, int32_t all)
{
    const int32_t most = b->o.prefill_tokens > 0 ? b->o.prefill_tokens : PREFILL_TOKENS;
    return n_decode == 0 || most > all ? all : most;
}

/* How much of it j may have. */
static int32_t paced(const struct batcher *b, const struct batch_job *j, int32_t n_decode, int32_t budget)
{
    if (n_decode == 0 || b->o.prefill_tokens > 0 || j->n_ids <= LONG_PROMPT)
        return budget;
    return pace_tokens(&b->pace, n_decode, step_times_surely(&b->times, n_decode), LONG_TOKENS, budget);
}

/* All prompt tokens of j that can be in one step. */
static int32_t prompt_left(const struct batch_job *j)
{
    const int32_t left = j->n_ids - j->n_stored;
    return j->prompt && !j->prompt_told && left > PROMPT_ROWS ? PROMPT_ROWS : left;
}

static int32_t plan_prefill(struct batcher *b, int32_t n, struct batch_job *j, int32_t most, int32_t *budget)
{
    const int32_t left = prompt_left(j), take = left < most ? left : most;
    if (take <= 0)
        return n;
    *budget -= take;
    n = plan_add(b, n, j, j->ids + j->n_stored, take, j->n_stored + take == j->n_ids);
    b->slices[n - 1].all_logits = j->prompt && !j->prompt_told;
    return n;
}

/* Its answer has not begun. */
static bool is_new(const struct batch_job *j)
{
    return j->phase == JOB_PREFILL && !j->skip && j->n_ids == j->n_prompt;
}

static bool is_long(const struct batch_job *j)
{
    return j->n_ids - j->n_stored > LONG_PROMPT;
}

/* What long prompts may take of the budget: half, or what the short ones do not want. */
static int32_t share_of_long(const struct batcher *b, int32_t budget)
{
    int64_t wanted = 0;
    for (int32_t i = 0; i < b->n_running; i++)
        if (is_new(b->running[i]) && !is_long(b->running[i]))
            wanted += prompt_left(b->running[i]);
    return wanted < budget / 2 ? budget - (int32_t)wanted : budget - budget / 2;
}

/* Prompts whose answers have not begun, as they stand in `running`. */
static int32_t plan_new(struct batcher *b, int32_t n, int32_t n_decode, int32_t budget)
{
    int32_t for_long = share_of_long(b, budget);
    for (int32_t i = 0; i < b->n_running; i++) {
        struct batch_job *j = b->running[i];
        const int32_t before = budget, most = is_long(j) && for_long < budget ? for_long : budget;
        const bool counts = is_long(j);
        if (!is_new(j))
            continue;
        n = plan_prefill(b, n, j, paced(b, j, n_decode, most), &budget);
        for_long -= counts ? before - budget : 0;
    }
    return n;
}

/* Fill slices: every decoding sequence, then answers that go on, then prompts. Returns how many; *n_prefill tokens of
 * prompts. */
static int32_t plan(struct batcher *b, int32_t *n_prefill)
{
    int32_t n = 0;
    for (int32_t i = 0; i < b->n_running; i++) {
        struct batch_job *j = b->running[i];
        j->n_draft = 0;
        if (j->phase == JOB_DECODE && !j->skip)
            n = plan_add(b, n, j, &j->ids[j->n_all - 1], 1, true);
    }
    int32_t n_decode = n, all = b->o.step_tokens - n, budget = all;
    if (n_decode > 0 && budget > b->resume_tokens)
        budget = b->resume_tokens;
    int32_t before = budget;
    for (int32_t i = 0; i < b->n_running; i++) {
        if (goes_on(b->running[i]))
            n = plan_prefill(b, n, b->running[i], budget, &budget);
    }
    int32_t used = before - budget;
    n = plan_new(b, n, n_decode, prefill_budget(b, n_decode, all) - used);
    *n_prefill = 0;
    for (int32_t i = n_decode; i < n; i++)
        *n_prefill += b->slices[i].n;
    if (b->o.speculate && *n_prefill == 0)
        propose_all(b, n_decode);
    return n;
}

/* A prompt of this tenant is through: its next ones go behind those of others. */
static void stand_back(struct batcher *b, const struct prefix_salt *tenant)
{
    int32_t kept = 0, n_back = 0;
    for (int32_t i = 0; i < b->n_running; i++) {
        struct batch_job *j = b->running[i];
        if (is_new(j) && memcmp(&j->salt, tenant, sizeof *tenant) == 0)
            b->back[n_back++] = j;
        else
            b->running[kept++] = j;
    }
    for (int32_t i = 0; i < n_back; i++)
        b->running[kept++] = b->back[i];
}

static void job_add_id(struct batch_job *j, int32_t id)
{
    if (j->n_all == j->cap_ids) {
        j->cap_ids += j->cap_ids / 2 + 64;
        j->ids = spw_realloc(j->ids, (size_t)j->cap_ids * sizeof *j->ids);
    }
    j->ids[j->n_all++] = id;
}

/* Bring a fresh sampler to where the answer stands. */
static void feed_sampler(struct batch_job *j)
{
    sampler_prompt(j->sampler, j->ids, (size_t)j->n_prompt);
    for (int32_t i = j->n_prompt; i < j->n_ids; i++)
        sampler_accept(j->sampler, j->ids[i]);
    j->fed = true;
}

/* Where a slice has one row of logits and nothing but a token is wanted of it, a device may choose that. */
static void offer_choices(struct batcher *b, int32_t n_slices)
{
    for (int32_t i = 0; i < n_slices; i++) {
        struct step_slice *sl = &b->slices[i];
        struct batch_job *j = b->slice_jobs[i];
        const bool by_host = j->by_host;
        j->by_host = false;
        if (!sl->want_logits || sl->want_hidden || sl->all_logits || j->no_answer || by_host)
            continue;
        if (!j->fed) /* the random number is that of the step that the answer stands at */
            feed_sampler(j);
        if (sampler_offer(j->sampler, &b->requests[i]))
            sl->sample = &b->requests[i];
    }
}

/* Choose one token for a job, from row `row` of its slice's logits, and see whether that ends it. */
static void job_choose(struct batcher *b, struct batch_job *j, const struct step_slice *sl, int32_t row,
                       struct mono now)
{
    struct error e;
    struct sample *s = &j->samples[j->n_new];
    enum rc chosen = sl->is_chosen ? sampler_take(j->sampler, &sl->chosen, s, &e)
                                   : sampler_choose(j->sampler, sl->logits + (size_t)row * (size_t)b->o.n_logits, NULL,
                                                    b->scratch, s, &e);
    if (chosen != RC_OK) {
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
        job_choose(b, j, sl, right, now);
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

/* Steps with answers that go on take about RESUME_STEP_S, whatever they compute on: less, and their clients wait for
 * longer; more, and the others do. */
static void pace_resumes(struct batcher *b, int32_t n_slices, double seconds)
{
    int32_t tokens = 0;
    bool decodes = false;
    for (int32_t i = 0; i < n_slices; i++) {
        const struct batch_job *j = b->slice_jobs[i];
        decodes = decodes || j->phase == JOB_DECODE;
        tokens += goes_on(j) ? b->slices[i].n : 0;
    }
    if (!decodes || tokens == 0)
        return;
    if (seconds > RESUME_STEP_S)
        b->resume_tokens = b->resume_tokens / 2;
    else if (seconds < RESUME_STEP_S / 2 && tokens >= b->resume_tokens)
        b->resume_tokens *= 2;
    if (b->resume_tokens < RESUME_TOKENS_MIN)
        b->resume_tokens = RESUME_TOKENS_MIN;
    if (b->resume_tokens > b->o.step_tokens)
        b->resume_tokens = b->o.step_tokens;
}

/* A step that computes prompts alone says what they take only as long as nothing better is known: larger ones are
 * cheaper by the token. */
static void learn_step(struct batcher *b, int32_t n_decode, int32_t n_prefill, double seconds)
{
    const double decode_s = n_decode ? step_times_surely(&b->times, n_decode) : 0;
    if (n_prefill == 0)
        step_times_observe(&b->times, n_decode, seconds);
    else if (decode_s > 0 || b->pace.token_s <= 0)
        pace_observe(&b->pace, n_prefill, decode_s, seconds);
}

static void count_step(struct batcher *b, int32_t n_slices, int32_t n_prefill, int64_t shared_us, struct mono start,
                       struct mono now)
{
    pthread_mutex_lock(&b->lock);
    struct batcher_stats *s = &b->stats;
    int32_t n_tokens = 0;
    for (int32_t i = 0; i < n_slices; i++) {
        n_tokens += b->slices[i].n;
        count_tokens_locked(b, b->slice_jobs[i], now);
    }
    double seconds = (double)(now.ns - start.ns) / NS_PER_S;
    pace_resumes(b, n_slices, seconds);
    s->steps++;
    s->step_seconds += (double)shared_us / 1e6;
    s->prefill_tokens += (uint64_t)n_prefill;
    s->decode_tokens += (uint64_t)(n_tokens - n_prefill);
    histogram_observe(&s->step, seconds);
    histogram_observe(&s->step_batch, n_tokens);
    histogram_observe(&s->step_prefill, n_prefill);
    histogram_observe(&s->step_pages, s->pages_total - b->o.ops->pages_free(b->o.engine));
    pthread_mutex_unlock(&b->lock);
    learn_step(b, n_tokens - n_prefill, n_prefill, seconds);
}

/* The step did not happen: its jobs end with its error, the others go on; without a device nothing does. */
static void step_failed(struct batcher *b, int32_t n_slices, const struct error *e)
{
    if (e->code == RC_IO && b->o.device_lost)
        b->o.device_lost(b->o.device_lost_arg, e);
    for (int32_t i = 0; i < n_slices; i++)
        job_fail(b, b->slice_jobs[i], e);
    pthread_mutex_lock(&b->lock);
    b->stats.step_failures++;
    pthread_mutex_unlock(&b->lock);
}

/* What the rows of a slice say of the prompt's next tokens; afterwards the slice has its last row alone. */
static void sample_prompt(struct batcher *b, struct batch_job *j, struct step_slice *sl)
{
    const int32_t at = j->n_stored - sl->n; /* the position of the slice's first row */
    struct error e;
    for (int32_t i = 0; i < sl->n && at + i + 1 < j->n_prompt; i++) {
        const float *logits = sl->logits + (size_t)i * (size_t)b->o.n_logits;
        const int32_t next = j->ids[at + i + 1];
        if (sampler_observe(j->sampler, logits, next, &j->prompt[at + i + 1], &e) != RC_OK) {
            job_fail(b, j, &e);
            return;
        }
    }
    j->prompt_told = j->n_stored >= j->n_prompt;
    sl->logits += (size_t)(sl->n - 1) * (size_t)b->o.n_logits;
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
    if (!isfinite(squares)) {
        struct error e;
        error_set(&e, RC_INVALID, "the model's states are not numbers");
        job_fail(b, j, &e);
        return;
    }
    double scale = squares > 0 ? 1 / sqrt(squares) : 0;
    for (int32_t i = 0; i < n; i++)
        j->embedding[i] = (float)(j->pooled[i] * scale);
    job_leave(b, j, BATCH_STOP);
}

/* Where the job's part of a step that ends now is added to. */
static struct batch_use *use_of(struct batch_job *j, int64_t hour_s)
{
    const bool newer = j->n_uses == 0 || j->uses[j->n_uses - 1].hour_s != hour_s;
    if (newer && j->n_uses < BATCH_USES)
        j->uses[j->n_uses++] = (struct batch_use){.hour_s = hour_s};
    return &j->uses[j->n_uses - 1];
}

/* The step's time among its sequences: by the tokens that it computed for each, and once more for each row of logits,
 * which is a product with the whole vocabulary. It is all the time since the last step or since there was work again:
 * what lies between two steps (tokens chosen, texts made) is the work's, too. What is less than a microsecond, or a
 * millijoule, goes to the next step. Returns the microseconds. */
static int64_t share_step(struct batcher *b, int32_t n)
{
    const int64_t hour_s = clock_wall(b->o.clock).ns / NS_PER_S / 3600 * 3600;
    const int64_t us = batcher_account(b);
    for (int32_t i = 0; i < n; i++) {
        const struct step_slice *sl = &b->slices[i];
        b->weights[i] = sl->n + (sl->all_logits ? sl->n : sl->want_logits);
    }
    divide_by_weight(us, b->weights, b->parts, n);
    for (int32_t i = 0; i < n; i++)
        use_of(b->slice_jobs[i], hour_s)->busy_us += b->parts[i];
    b->nanojoules += us * b->o.busy_mw;
    divide_by_weight(b->nanojoules / NJ_PER_MJ, b->weights, b->parts, n);
    b->nanojoules %= NJ_PER_MJ;
    for (int32_t i = 0; i < n; i++) {
        struct batch_use *use = use_of(b->slice_jobs[i], hour_s);
        use->millijoules = b->o.busy_mw > 0 ? use->millijoules + b->parts[i] : -1;
    }
    return us;
}

/* What has come out of a step for one of its jobs. */
static void job_take(struct batcher *b, struct batch_job *j, struct step_slice *sl, struct mono now)
{
    if (j->phase == JOB_PREFILL && sl->all_logits)
        sample_prompt(b, j, sl);
    if (j->phase == JOB_DONE)
        return;
    if (j->pool)
        pool_slice(b, j, sl, sl->want_logits);
    else if (sl->want_logits && j->no_answer)
        job_leave(b, j, BATCH_LENGTH);
    else if (sl->want_logits)
        job_choose_all(b, j, sl, now);
}

/* What was stored and is known becomes known to others; what a step ahead writes only once that is through. */
static void share_pages(struct batcher *b, struct batch_job *j)
{
    const bool ahead = ahead_has(b, j);
    if (j->seq && !(ahead && j->n_all % K_PAGE_TOKENS == 0)) /* else not all of it is known to be right */
        b->o.ops->seq_share(j->seq, &j->salt, j->ids);
}

/* What has come out of a step for one of its jobs, and where that leaves the job. */
static void job_step(struct batcher *b, struct batch_job *j, struct step_slice *sl, struct mono now)
{
    if (!j->fed && j->sampler)
        feed_sampler(j);
    if (j->phase == JOB_PREFILL)
        j->n_stored += sl->n;
    const bool read = is_new(j) && j->n_stored == j->n_ids;
    if (sl->sample && !sl->is_chosen && !sl->logits) {
        ahead_again(b, j);
        return;
    }
    /* Of a step ahead the token that is taken now is stored, too; of proposed ones it is not known yet which are right. */
    const bool later = ahead_has(b, j) || j->n_draft > 0;
    if (!later)
        share_pages(b, j);
    job_take(b, j, sl, now);
    if (later)
        share_pages(b, j);
    if (read)
        stand_back(b, &j->salt);
}

void batcher_step(struct batcher *b)
{
    struct error e = {0};
    struct mono start = b->step_end;
    int32_t n_prefill = 0, n = ahead_take(b);
    if (n == 0) {
        make_room(b);
        n = plan(b, &n_prefill);
        if (n == 0)
            return;
        offer_choices(b, n);
        start = clock_now(b->o.clock);
    }
    if (ahead_step(b, &n, n_prefill, &e) != RC_OK) {
        step_failed(b, n, &e);
        return;
    }
    struct mono now = clock_now(b->o.clock);
    b->step_end = now;
    if (n == 0)
        return;
    const int64_t shared_us = share_step(b, n);
    for (int32_t i = 0; i < n; i++)
        job_step(b, b->slice_jobs[i], &b->slices[i], now);
    count_step(b, n, n_prefill, shared_us, start, now);
}
