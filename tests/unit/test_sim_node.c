/* Proves the model of one node: alone it is as fast as its curve says; in a batch everybody gets every token once and
 * the time
 * adds up; queues are as long as theory says (M/D/1, M/M/1); what is dropped has said what it had time for; and the
 * queue of events
 * gives them out in order.
 * links: spw_sched_simulate m */
#include "scheduler/simulate/event_queue.h"
#include "scheduler/simulate/node_model.h"
#include "tests/unit/test.h"

#include <math.h>
#include <stdlib.h>

#define JOBS 4096
static struct node_job jobs[JOBS];
static struct node_entry heap[512];

static uint64_t random_state;
static double random_unit(void) /* (0, 1) */
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return ((double)((z ^ (z >> 31)) >> 11) + 0.5) / 9007199254740992.0;
}

static void run_one_event(struct node_model *m)
{
    const int64_t now = node_model_next(m);
    int32_t job;
    while (node_model_pop(m, jobs, now, &job) != NODE_NOTHING)
        ;
}

static void alone_as_the_curve_says(void)
{
    const struct node_spec spec = {.curve = {5000, 50, 10000, 100}, .chunk = 2048, .sequences = 64};
    struct node_model m;
    node_model_init(&m, &spec, heap, 0);
    CHECK_INT(node_model_next(&m), INT64_MAX);
    jobs[0] = (struct node_job){.fresh = 1000, .output = 101, .kv = 1101};
    node_model_add(&m, jobs, 0, 1000);
    CHECK_INT(node_model_next(&m), 1000 + 50 * 1000);
    int32_t job = -1;
    CHECK_INT(node_model_pop(&m, jobs, 51000, &job), NODE_FIRST_TOKEN);
    CHECK_INT(node_model_pop(&m, jobs, 51000, &job), NODE_NOTHING);
    CHECK_INT(node_model_next(&m), 51000 + 100 * 10100);
    node_model_pass(&m, 51000 + 50 * 10100 + 5000);
    CHECK_INT(m.busy_us, 50000 + 50 * 10100 + 5000);
    CHECK_INT(node_model_pop(&m, jobs, 51000 + 100 * 10100, &job), NODE_LAST_TOKEN);
    CHECK_INT(job, 0);
    CHECK_INT(node_model_pop(&m, jobs, 51000 + 100 * 10100, &job), NODE_NOTHING);
    CHECK_INT(node_model_next(&m), INT64_MAX);
    CHECK_INT(m.kv_used, 0);
    CHECK_INT(node_model_in_flight(&m), 0);
}

/* A prompt that comes while others are decoded waits for the step under way, then shares its steps. */
static void prompts_share_steps(void)
{
    const struct node_spec spec = {.curve = {0, 10, 10000, 0}, .chunk = 1000, .sequences = 64};
    struct node_model m;
    int32_t job = -1;
    node_model_init(&m, &spec, heap, 0);
    jobs[0] = (struct node_job){.fresh = 1000, .output = 1000};
    node_model_add(&m, jobs, 0, 0);
    CHECK_INT(node_model_pop(&m, jobs, 10000, &job), NODE_FIRST_TOKEN);
    CHECK_INT(node_model_pop(&m, jobs, 10000, &job), NODE_NOTHING);
    jobs[1] = (struct node_job){.fresh = 2500, .output = 1}; /* three chunks */
    node_model_add(&m, jobs, 1, 10000 + 10000 * 7 + 5000);   /* half way through the eighth step */
    CHECK_INT(node_model_next(&m), 10000 + 10000 * 8 + 3 * 10000 + 2500 * 10);
    CHECK_INT(node_model_pop(&m, jobs, node_model_next(&m), &job), NODE_ONLY_TOKEN);
    CHECK_INT(job, 1);
    CHECK_INT(node_model_pop(&m, jobs, m.at_us, &job), NODE_NOTHING);
    int32_t said;
    CHECK(node_model_drop(&m, jobs, m.at_us + 10001, &job, &said));
    CHECK_INT(said, 1 + 8 + 3 + 1);
    CHECK(!node_model_drop(&m, jobs, m.at_us, &job, &said));
}

/* Step by step as our engine's batcher does it: a token for each sequence, and prompts in order, cut where the step is full. */
struct stepped {
    int64_t comes_us, first_us, last_us;
    int32_t left, said;
};
static void step_through(const struct node_spec *s, struct stepped *r, const struct node_job *j, int n)
{
    double now = 0;
    for (int done = 0; done < n;) {
        int batch = 0, running = 0, decoding[64];
        double context = 0, prompt_us = 0;
        for (int i = 0; i < n; i++)
            if (r[i].said && r[i].said < j[i].output) {
                decoding[batch++] = i;
                context += j[i].kv - j[i].output + r[i].said;
            }
        int32_t room = batch ? s->detail.mixed_chunk : s->chunk;
        running = batch;
        const double tok_us = batch ? s->detail.mixed_us_per_tok : s->curve.prefill_us_per_tok;
        int firsts[64], n_firsts = 0;
        for (int i = 0; i < n && room > 0 && running < s->sequences; i++) {
            if (r[i].said || (double)r[i].comes_us > now + 1e-6)
                continue;
            const int32_t take = r[i].left < room ? r[i].left : room;
            running++;
            r[i].left -= take;
            room -= take;
            prompt_us += take * tok_us;
            if (!r[i].left)
                firsts[n_firsts++] = i;
        }
        if (!batch && prompt_us == 0) { /* idle until the next one comes */
            double next = INFINITY;
            for (int i = 0; i < n; i++)
                if (!r[i].said && (double)r[i].comes_us < next)
                    next = (double)r[i].comes_us;
            now = next;
            continue;
        }
        now += prompt_us + (batch ? s->step_us[batch] + s->detail.decode_us_per_ctx_tok * context : 0);
        for (int i = 0; i < batch; i++)
            r[decoding[i]].said++;
        for (int i = 0; i < n_firsts; i++)
            r[firsts[i]].said = 1;
        for (int i = 0; i < n; i++) {
            if (r[i].said == 1 && !r[i].first_us)
                r[i].first_us = (int64_t)now;
            if (r[i].said == j[i].output && !r[i].last_us) {
                r[i].last_us = (int64_t)now;
                done++;
            }
        }
    }
}

/* In closed form between events the model says what stepping through says: each request's first and last token within a
 * few per cent of its time in the node, and the means closer. */
static void as_if_stepped(void)
{
    static float step_us[9] = {0, 20000, 22000, 25000, 27000, 31000, 34000, 38000, 41000};
    const struct node_spec spec = {
        .curve = {0, 2000, 18000, 3000}, .chunk = 512, .sequences = 8, .detail = {5, 2300, 0, 32}, .step_us = step_us};
    enum { N = 400 };
    static struct stepped real[N], model[N];
    static struct node_job copy[N];
    struct node_model m;
    node_model_init(&m, &spec, heap, 0);
    random_state = 11;
    int64_t at = 0;
    for (int i = 0; i < N; i++) {
        at += (int64_t)(-log(random_unit()) * 1.1e6);
        const int32_t prompt = 20 + (int32_t)(random_unit() * random_unit() * 600);
        copy[i] = jobs[i] = (struct node_job){.fresh = prompt, .output = 2 + (int32_t)(random_unit() * 90)};
        copy[i].kv = jobs[i].kv = prompt + jobs[i].output;
        real[i] = model[i] = (struct stepped){.comes_us = at, .left = prompt};
    }
    step_through(&spec, real, copy, N);
    for (int i = 0, job = 0; i < N || node_model_in_flight(&m);) {
        if (i < N && model[i].comes_us <= node_model_next(&m)) {
            node_model_add(&m, jobs, i, model[i].comes_us);
            i++;
            continue;
        }
        const int64_t now = node_model_next(&m);
        for (enum node_event e; (e = node_model_pop(&m, jobs, now, &job)) != NODE_NOTHING;)
            *(e == NODE_FIRST_TOKEN ? &model[job].first_us : &model[job].last_us) = now;
    }
    double ttft[2] = {0}, tpot[2] = {0}, off = 0;
    for (int i = 0; i < N; i++) {
        ttft[0] += (double)(real[i].first_us - real[i].comes_us);
        ttft[1] += (double)(model[i].first_us - model[i].comes_us);
        tpot[0] += (double)(real[i].last_us - real[i].first_us) / (copy[i].output - 1);
        tpot[1] += (double)(model[i].last_us - model[i].first_us) / (copy[i].output - 1);
        off += fabs((double)(model[i].last_us - real[i].last_us)) / (double)(real[i].last_us - real[i].comes_us);
    }
    printf("stepped against closed form: TTFT %.1f and %.1f ms, TPOT %.2f and %.2f ms; last tokens off by %.2f%% of "
           "the way\n",
           ttft[0] / N / 1e3, ttft[1] / N / 1e3, tpot[0] / N / 1e3, tpot[1] / N / 1e3, off / N * 100);
    CHECK(fabs(ttft[1] / ttft[0] - 1) < 0.03);
    CHECK(fabs(tpot[1] / tpot[0] - 1) < 0.02);
    CHECK(off / N < 0.05);
    CHECK(m.context == 0 && m.kv_used == 0);
}

/* What went in comes out once, in time; nothing is computed twice. */
static void everything_ends_once(void)
{
    const struct node_spec spec = {.curve = {0, 20, 8000, 90}, .chunk = 512, .sequences = 48, .kv_tokens = 40000};
    struct node_model m;
    node_model_init(&m, &spec, heap, 0);
    random_state = 7;
    static int first[JOBS], last[JOBS];
    memset(first, 0, sizeof(first));
    memset(last, 0, sizeof(last));
    int64_t now = 0, most = 0;
    double prefill_us = 0;
    for (int32_t i = 0, job = 0; i < JOBS || node_model_in_flight(&m);) {
        const int64_t next = node_model_next(&m), comes = now + (int64_t)(random_unit() * 60000);
        if (i < JOBS && comes < next) {
            now = comes;
            jobs[i] = (struct node_job){.fresh = 1 + (int32_t)(random_unit() * 900),
                                        .output = 1 + (int32_t)(random_unit() * random_unit() * 400)};
            jobs[i].kv = jobs[i].fresh + jobs[i].output;
            prefill_us += 20.0 * jobs[i].fresh;
            node_model_add(&m, jobs, i++, now);
            continue;
        }
        CHECK(next >= now && next != INT64_MAX);
        now = next;
        for (enum node_event e; (e = node_model_pop(&m, jobs, now, &job)) != NODE_NOTHING;) {
            first[job] += e != NODE_LAST_TOKEN;
            last[job] += e != NODE_FIRST_TOKEN;
        }
        CHECK(m.kv_used <= spec.kv_tokens && m.n <= spec.sequences);
        most = m.n > most ? m.n : most;
    }
    for (int i = 0; i < JOBS; i++)
        CHECK(first[i] == 1 && last[i] == 1);
    CHECK_INT(m.kv_used, 0);
    CHECK_INT(m.queued_tokens, 0);
    CHECK(most > 30);
    /* Busy is what prompts and steps took: sum of step lengths. The steps' number is the step count itself. */
    CHECK((double)m.busy_us >= prefill_us + 8000 * m.step * 0.5);
}

/* One sequence at a time: a queue with one server, whose waiting times have closed forms. */
static double mean_wait(double rho, bool exponential, uint64_t seed)
{
    const double service = 10000; /* us */
    const struct node_spec spec = {.curve = {0, 1, 1, 0}, .chunk = 1 << 30, .sequences = 1};
    struct node_model m;
    node_model_init(&m, &spec, heap, 0);
    random_state = seed;
    static int64_t came[JOBS];
    int64_t now = 0;
    double at = 0, wait = 0;
    int64_t done = 0, sent = 0;
    const int64_t n = 200000;
    at = -log(random_unit()) * service / rho;
    while (done < n) {
        const int64_t next = node_model_next(&m);
        int32_t job;
        if (sent < n && (int64_t)at <= next) {
            job = (int32_t)(sent++ % JOBS);
            now = (int64_t)at;
            at += -log(random_unit()) * service / rho;
            const double s = exponential ? -log(random_unit()) * service : service;
            jobs[job] = (struct node_job){.fresh = (int32_t)(s + 0.5) ? (int32_t)(s + 0.5) : 1, .output = 1};
            came[job] = now;
            node_model_add(&m, jobs, job, now);
            continue;
        }
        now = next;
        while (node_model_pop(&m, jobs, now, &job) != NODE_NOTHING) {
            wait += (double)(now - came[job] - jobs[job].fresh);
            done++;
        }
    }
    return wait / (double)n / service;
}

static void queues_are_as_theory_says(void)
{
    const double rhos[] = {0.3, 0.6, 0.8};
    for (int i = 0; i < 3; i++) {
        const double rho = rhos[i];
        const double d = mean_wait(rho, false, 1 + (uint64_t)i), m = mean_wait(rho, true, 11 + (uint64_t)i);
        CHECK(fabs(d / (rho / (2 * (1 - rho))) - 1) < 0.05); /* M/D/1: Pollaczek and Khinchine */
        CHECK(fabs(m / (rho / (1 - rho)) - 1) < 0.08);       /* M/M/1 */
    }
}

static void energy_is_the_integral(void)
{
    static float mw[9];
    for (int i = 0; i < 9; i++)
        mw[i] = 100000 + 50000 * (float)i;
    const struct node_spec spec = {
        .curve = {0, 100, 10000, 0}, .chunk = 2048, .sequences = 8, .mw = mw, .prefill_mw = 600000};
    struct node_model m;
    node_model_init(&m, &spec, heap, 0);
    jobs[0] = (struct node_job){.fresh = 1000, .output = 11};
    node_model_add(&m, jobs, 0, 1000000); /* 1 s idle: 100 J */
    run_one_event(&m);                    /* 0.1 s at 600 W */
    CHECK_INT((int64_t)(m.mj + 0.5), 100000 + 60000);
    run_one_event(&m); /* 0.1 s at 150 W */
    m.idle_mw = 20000;
    node_model_pass(&m, m.at_us + 1000000);
    CHECK_INT((int64_t)(m.mj + 0.5), 100000 + 60000 + 15000 + 20000);
    CHECK_INT((int64_t)m.batch_us, 100000);
}

#define SOURCES 300
static void events_come_in_order(void)
{
    struct event_queue q;
    event_queue_init(&q, SOURCES);
    static int64_t at[SOURCES];
    for (int i = 0; i < SOURCES; i++)
        at[i] = EVENT_NEVER;
    random_state = 3;
    for (int round = 0; round < 20000; round++) {
        const int32_t s = (int32_t)(random_unit() * SOURCES);
        at[s] = random_unit() < 0.3 ? EVENT_NEVER : (int64_t)(random_unit() * 1000);
        event_queue_set(&q, s, at[s]);
        int32_t least = 0;
        for (int i = 1; i < SOURCES; i++)
            if (at[i] < at[least])
                least = i;
        CHECK_INT(event_queue_next(&q), at[least]);
        if (at[least] != EVENT_NEVER)
            CHECK_INT(event_queue_source(&q), least);
    }
    event_queue_fini(&q);
}

int main(void)
{
    TEST(alone_as_the_curve_says);
    TEST(prompts_share_steps);
    TEST(as_if_stepped);
    TEST(everything_ends_once);
    TEST(queues_are_as_theory_says);
    TEST(energy_is_the_integral);
    TEST(events_come_in_order);
    return TEST_RESULT();
}
