#include "scheduler/simulate/node_model.h"

#include <math.h>

#include "base/error.h"

#define STEP_EPSILON 1e-7 /* of a step: what doubles may have lost */
#define STEP_US_MIN  1e-3 /* a curve of zeros: no step takes no time */

void node_model_init(struct node_model *m, const struct node_spec *spec, struct node_entry *heap, int64_t now_us)
{
    const float idle = spec->mw ? spec->mw[0] : 0;
    *m = (struct node_model){.spec = spec, .heap = heap, .head = -1, .tail = -1, .at_us = now_us, .idle_mw = idle};
}

/* --- the heap of sequences ---------------------------------------------------------------------------------------- */

static inline bool entry_before(const struct node_entry *a, const struct node_entry *b)
{
    return a->last != b->last ? a->last < b->last : a->job < b->job;
}

static void heap_push_entry(struct node_model *m, struct node_entry e)
{
    int32_t at = m->n++;
    while (at > 0 && entry_before(&e, &m->heap[(at - 1) / 2])) {
        m->heap[at] = m->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    m->heap[at] = e;
}

static int32_t heap_pop_entry(struct node_model *m)
{
    const int32_t job = m->heap[0].job;
    const struct node_entry e = m->heap[--m->n];
    int32_t at = 0;
    for (;;) {
        int32_t down = 2 * at + 1;
        if (down >= m->n)
            break;
        if (down + 1 < m->n && entry_before(&m->heap[down + 1], &m->heap[down]))
            down++;
        if (!entry_before(&m->heap[down], &e))
            break;
        m->heap[at] = m->heap[down];
        at = down;
    }
    m->heap[at] = e;
    return job;
}

/* --- steps -------------------------------------------------------------------------------------------------------- */

static bool computes(const struct node_model *m)
{
    return m->n > 0 || m->n_group > 0;
}

static double milliwatts(const struct node_model *m)
{
    if (!computes(m))
        return m->idle_mw;
    const double mw = m->spec->mw ? m->spec->mw[m->n] : 0;
    return m->n_group && m->spec->prefill_mw > mw ? m->spec->prefill_mw : mw;
}

void node_model_pass(struct node_model *m, int64_t now_us)
{
    const double us = (double)(now_us - m->at_us);
    if (us <= 0)
        return;
    m->mj += milliwatts(m) * us * 1e-6;
    m->at_us = now_us;
    if (!computes(m))
        return;
    m->busy_us += (int64_t)us;
    m->batch_us += us * m->n;
    m->step += us * m->rate;
    m->context += us * m->rate * m->n;
}

/* What is decoded alone, if all goes on like this until the next event: half way there context is as it is in the mean. */
static double decode_us(const struct node_model *m)
{
    const struct node_spec *s = m->spec;
    if (!m->n)
        return 0;
    const double us =
        s->step_us ? (double)s->step_us[m->n] : s->curve.decode_us_base + s->curve.decode_us_per_seq * m->n;
    if (s->detail.decode_us_per_ctx_tok <= 0)
        return us;
    double until = m->heap[0].last;
    if (m->n_group && m->group_ends < until)
        until = m->group_ends;
    const double context = m->context + m->n * (until - m->step) / 2;
    return us + s->detail.decode_us_per_ctx_tok * context;
}

/* After the batch or the group changed. */
static void set_rate(struct node_model *m)
{
    m->changed = false;
    if (!computes(m)) {
        m->step_us = m->rate = 0;
        m->step = ceil(m->step - STEP_EPSILON);
        return;
    }
    m->step_us = decode_us(m);
    if (m->n_group)
        m->step_us += m->group_us;
    if (m->step_us < STEP_US_MIN)
        m->step_us = STEP_US_MIN;
    m->rate = 1 / m->step_us;
}

static bool cuts(const struct node_spec *s)
{
    return s->detail.mixed_chunk > 0;
}

/* May the next one start? One alone is always let in: what never fits was not to be sent here, and must not block the
 * others for ever. */
static bool may_start(const struct node_model *m, const struct node_job *job)
{
    const bool alone = !m->n && !m->n_group;
    return m->n + m->n_group < m->spec->sequences &&
           (alone || !m->spec->kv_tokens || m->kv_used + job->kv <= m->spec->kv_tokens);
}

static void start_job(struct node_model *m, const struct node_job *job)
{
    m->kv_used += job->kv;
    m->n_group++;
    m->n_queued--;
}

/* As many steps as the first prompt needs, and what of the others fills them up. */
static int64_t take_cut(struct node_model *m, struct node_job *jobs, int32_t chunk)
{
    int64_t tokens = 0, room = 0;
    for (int32_t j = m->n_queued ? m->head : -1; j >= 0; j = jobs[j].next) {
        int32_t left = jobs[j].fresh - jobs[j].begun;
        left = left > 0 ? left : 1;
        if (!may_start(m, &jobs[j]))
            break;
        if (!m->n_group)
            room = ((int64_t)left + chunk - 1) / chunk * chunk;
        if (left > room) {
            jobs[j].begun += (int32_t)room;
            return tokens + room;
        }
        start_job(m, &jobs[j]);
        tokens += left;
        room -= left;
    }
    return tokens;
}

/* How much of what waits may start: at least one, if anything may. */
static int64_t take_group(struct node_model *m, const struct node_job *jobs)
{
    int64_t tokens = 0;
    for (int32_t j = m->n_queued ? m->head : -1; j >= 0; j = jobs[j].next) {
        const int32_t fresh = jobs[j].fresh > 0 ? jobs[j].fresh : 1;
        if (!may_start(m, &jobs[j]) || (m->n_group && tokens + fresh > m->spec->chunk))
            break;
        start_job(m, &jobs[j]);
        tokens += fresh;
    }
    return tokens;
}

static void set_group(struct node_model *m, double tokens)
{
    const struct node_spec *s = m->spec;
    m->group_mixed = cuts(s) && m->n > 0;
    const double us =
        m->group_mixed && s->detail.mixed_us_per_tok > 0 ? s->detail.mixed_us_per_tok : s->curve.prefill_us_per_tok;
    const double start = ceil(m->step - STEP_EPSILON); /* the next step's */
    m->group_ends = start + ceil(tokens / (m->group_mixed ? s->detail.mixed_chunk : s->chunk) - STEP_EPSILON);
    m->group_us = us * tokens / (m->group_ends - m->step);
}

/* Nothing is decoded any more: the prompts that are being computed go on in larger pieces. */
static void hasten_group(struct node_model *m)
{
    const struct node_spec *s = m->spec;
    const double us = s->detail.mixed_us_per_tok > 0 ? s->detail.mixed_us_per_tok : s->curve.prefill_us_per_tok;
    set_group(m, us > 0 ? m->group_us * (m->group_ends - m->step) / us : 1);
}

/* A new group, if there can be one, and how fast it goes. Its prompts' time is spread evenly over its steps, so a batch
 * that changes meanwhile changes only the rest. */
static void plan(struct node_model *m, struct node_job *jobs)
{
    int64_t tokens = 0;
    if (m->n_group && m->group_mixed && !m->n)
        hasten_group(m);
    else if (!m->n_group && cuts(m->spec))
        tokens = take_cut(m, jobs, m->n ? m->spec->detail.mixed_chunk : m->spec->chunk);
    else if (!m->n_group)
        tokens = take_group(m, jobs);
    if (tokens)
        set_group(m, (double)tokens);
    set_rate(m);
}

void node_model_set_spec(struct node_model *m, const struct node_spec *spec, int64_t now_us)
{
    node_model_pass(m, now_us);
    if (m->spec->curve.prefill_us_per_tok > 0) /* eco: all figures change by the same factor */
        m->group_us *= spec->curve.prefill_us_per_tok / m->spec->curve.prefill_us_per_tok;
    m->spec = spec;
    set_rate(m);
}

void node_model_add(struct node_model *m, struct node_job *jobs, int32_t job, int64_t now_us)
{
    node_model_pass(m, now_us);
    jobs[job].next = -1;
    if (m->tail >= 0)
        jobs[m->tail].next = job;
    else
        m->head = job;
    m->tail = job;
    m->n_queued++;
    m->queued_tokens += jobs[job].fresh;
    if (!m->n_group)
        plan(m, jobs);
}

int64_t node_model_next(const struct node_model *m)
{
    if (!computes(m))
        return INT64_MAX;
    double at = m->n ? m->heap[0].last : INFINITY;
    if (m->n_group && m->group_ends < at)
        at = m->group_ends;
    const double us = ceil((at - m->step) * m->step_us - 1e-6);
    return m->at_us + (us > 0 ? (int64_t)us : 0);
}

static int32_t take_head(struct node_model *m, struct node_job *jobs)
{
    const int32_t job = m->head;
    m->head = jobs[job].next;
    if (m->head < 0)
        m->tail = -1;
    m->queued_tokens -= jobs[job].fresh;
    return job;
}

static void leaves(struct node_model *m, const struct node_job *jobs, int32_t job)
{
    m->kv_used -= jobs[job].kv;
    m->changed = true;
}

/* A sequence that holds so many tokens is not decoded any more. */
static void forgets(struct node_model *m, int32_t tokens)
{
    m->context -= tokens;
    if (!m->n || m->context < 0)
        m->context = 0;
}

static enum node_event first_token(struct node_model *m, struct node_job *jobs, int32_t *job)
{
    *job = take_head(m, jobs);
    m->n_first--;
    m->changed = true;
    if (jobs[*job].output <= 1) {
        leaves(m, jobs, *job);
        return NODE_ONLY_TOKEN;
    }
    heap_push_entry(m, (struct node_entry){.last = m->step + jobs[*job].output - 1, .job = *job});
    m->context += jobs[*job].kv - jobs[*job].output + 1;
    return NODE_FIRST_TOKEN;
}

enum node_event node_model_pop(struct node_model *m, struct node_job *jobs, int64_t now_us, int32_t *job)
{
    node_model_pass(m, now_us);
    if (m->n_first)
        return first_token(m, jobs, job);
    const double last = m->n ? m->heap[0].last : INFINITY, group = m->n_group ? m->group_ends : INFINITY;
    const double due = last < group ? last : group;
    if (due > m->step + STEP_EPSILON) {
        if (m->changed)
            plan(m, jobs);
        return NODE_NOTHING;
    }
    m->step = due; /* times are whole microseconds: what was lost on the way is given back */
    if (last <= group) {
        *job = heap_pop_entry(m);
        leaves(m, jobs, *job);
        forgets(m, jobs[*job].kv);
        return NODE_LAST_TOKEN;
    }
    m->n_first = m->n_group;
    m->n_group = 0;
    return first_token(m, jobs, job);
}

bool node_model_drop(struct node_model *m, struct node_job *jobs, int64_t now_us, int32_t *job, int32_t *said)
{
    node_model_pass(m, now_us);
    if (m->head >= 0) {
        *job = take_head(m, jobs);
        *said = 0;
        if (m->n_group) {
            m->n_group--;
            m->kv_used -= jobs[*job].kv;
        } else {
            m->n_queued--;
        }
        set_rate(m);
        return true;
    }
    if (!m->n)
        return false;
    const double left = m->heap[0].last - floor(m->step + STEP_EPSILON);
    *job = heap_pop_entry(m);
    *said = jobs[*job].output - (int32_t)left;
    if (*said >= jobs[*job].output) /* its last token was on the way */
        *said = jobs[*job].output - 1;
    leaves(m, jobs, *job);
    forgets(m, jobs[*job].kv - (int32_t)left);
    set_rate(m);
    return true;
}
