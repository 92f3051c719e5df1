/* The batcher and who shares it: what a sequence gets does not depend on its company, decoding never starves, limits
 * hold, the cancelled leave, and nobody is forgotten.
 *
 * links: spw_engine_serve */
#include "tests/unit/batcher_glass.h"

#include <unistd.h>

#define COMPANY 12

static void ask_of(int i, struct ask *a)
{
    *a = (struct ask){.n_prompt = 1 + i * 17 % 150, .salt = i, .max_tokens = 5 + i * 11 % 60, .seed = (uint64_t)i};
    a->temperature = i % 3 ? 1.0 : 0;
}

static void run_company(const struct bench_options *bo, struct client *out)
{
    struct bench t;
    engine_init(&t.en);
    bench_init(&t, bo);
    for (int i = 0; i < COMPANY; i++) {
        struct ask a;
        ask_of(i, &a);
        CHECK_INT(submit(&t, &out[i], &a), RC_OK);
    }
    struct clients all = {out, COMPANY};
    CHECK(pump(&t, all_done, &all));
    bench_fini(&t);
}

/* The same twelve requests at batch sizes 1, 3, 8 and 12, prompts cut into slices of 1, 7 and 64: the same answers. */
static void company_changes_nothing(void)
{
    static struct client alone[COMPANY], together[COMPANY];
    memset(alone, 0, sizeof alone);
    run_company(&(struct bench_options){.max_seqs = 1}, alone);
    const int32_t seqs[] = {1, 3, 8, 12}, slices[] = {1, 7, 64};
    for (int i = 0; i < 4; i++) {
        for (int k = 0; k < 3; k++) {
            memset(together, 0, sizeof together);
            run_company(&(struct bench_options){.max_seqs = seqs[i], .step_tokens = 64, .prefill_tokens = slices[k]},
                        together);
            for (int c = 0; c < COMPANY; c++) {
                CHECK_STR(together[c].text, alone[c].text);
                CHECK_INT(together[c].usage.completion, alone[c].usage.completion);
            }
        }
    }
    CHECK(strcmp(alone[1].text, alone[2].text) != 0);
}

static void usage_is_exact(void)
{
    static struct client c;
    struct bench t;
    engine_init(&t.en);
    bench_init(&t, &(struct bench_options){.max_seqs = 2});
    c = (struct client){0};
    CHECK_INT(submit(&t, &c, &(struct ask){.n_prompt = 33, .max_tokens = 20, .samples = true}), RC_OK);
    CHECK(pump(&t, client_done, &c));
    CHECK_INT(c.finish, BATCH_LENGTH);
    CHECK_INT(c.usage.prompt, 33);
    CHECK_INT(c.usage.completion, 20);
    CHECK_INT(c.len, 20);
    CHECK_INT(c.n_ids, 20);
    CHECK_INT(c.n_samples, 20);
    struct batcher_stats s;
    batcher_stats(t.b, &s);
    CHECK_INT(s.prefill_tokens, 33);
    CHECK_INT(s.decode_tokens, 19); /* the first token comes from the prompt's last step */
    CHECK_INT(s.gap.count, 19);
    CHECK_INT(s.generated_tokens, 20);
    bench_fini(&t);
}

/* Each microsecond of the engine's thread is a step's, and so some answer's, or idle: to the last one. So is each
 * millijoule, though a step of some milliseconds draws few. */
static void time_is_all_accounted_for(void)
{
    static struct client c[2];
    struct bench t;
    int64_t busy_us = 0, millijoules = 0;
    engine_init(&t.en);
    /* With its ticking clock. */
    bench_init(&t, &(struct bench_options){.max_seqs = 2, .speculate = true, .busy_mw = 1777});
    for (int i = 0; i < 2; i++) {
        c[i] = (struct client){0};
        CHECK_INT(submit(&t, &c[i], &(struct ask){.n_prompt = 33, .max_tokens = 20, .samples = true}), RC_OK);
        CHECK(pump(&t, client_done, &c[i]));
        for (int k = 0; k < c[i].usage.n_uses; k++)
            busy_us += c[i].usage.uses[k].busy_us, millijoules += c[i].usage.uses[k].millijoules;
    }
    struct batcher_stats s, later;
    batcher_stats(t.b, &s);
    batcher_stats(t.b, &later);
    int looks = 0;
    for (; looks < 1000 && later.idle_us <= s.idle_us; looks++) { /* it has not come to wait yet */
        usleep(20000);
        batcher_stats(t.b, &later);
    }
    CHECK_INT((int64_t)(s.step_seconds * 1e6 + 0.5), busy_us);
    CHECK(busy_us > 0);
    CHECK_INT(millijoules, busy_us * 1777 / 1000000);
    CHECK(later.idle_us > s.idle_us); /* it waits, and that is seen while it does */
    /* The clock moves by a millisecond when it is looked at: what was accounted for is all of it but the looks of others. */
    const int64_t accounted = busy_us + (int64_t)later.idle_us, all = t.ticks * 1000;
    CHECK(accounted <= all && accounted > all - (int64_t)1000 * (20 + looks));
    bench_fini(&t);
}

/* While a prompt of 400 tokens prefills, the running sequence gets a token in every step, beside at most 16 others. */
static void decode_never_starves(void)
{
    static struct client runner, newcomer;
    struct bench t;
    engine_init(&t.en);
    t.en.permits = 0;
    bench_init(&t, &(struct bench_options){.max_seqs = 4, .prefill_tokens = 16});
    runner = newcomer = (struct client){0};
    CHECK_INT(submit(&t, &runner, &(struct ask){.n_prompt = 8, .max_tokens = 200}), RC_OK);
    engine_set_permits(&t.en, 3);
    CHECK(pump(&t, has_text, &runner));
    CHECK_INT(submit(&t, &newcomer, &(struct ask){.n_prompt = 400, .max_tokens = 4, .salt = 1}), RC_OK);
    int steps = t.en.steps;
    engine_set_permits(&t.en, -1);
    CHECK(pump(&t, has_text, &newcomer));
    CHECK(engine_get(&t.en, &t.en.steps) - steps >= 400 / 16);
    CHECK_INT(t.en.most_mixed, 16);
    CHECK(runner.n_ids >= 400 / 16);
    bench_fini(&t);
}

static void waiting_room_is_bounded_and_fair(void)
{
    static struct client c[5];
    struct bench t;
    int order = 0;
    engine_init(&t.en);
    t.en.permits = 0;
    bench_init(&t, &(struct bench_options){.max_seqs = 1, .waiting_max = 3});
    memset(c, 0, sizeof c);
    for (int i = 0; i < 5; i++) {
        c[i].order = &order;
        struct ask a = {.n_prompt = 4, .max_tokens = 3, .salt = i};
        CHECK_INT(submit(&t, &c[i], &a), i < 4 ? RC_OK : RC_FULL);
    }
    c[4].finish = BATCH_FAILED;
    struct batcher_stats s;
    batcher_stats(t.b, &s);
    CHECK_INT(s.refused, 1);
    engine_set_permits(&t.en, -1);
    struct clients all = {c, 5};
    CHECK(pump(&t, all_done, &all));
    for (int i = 0; i < 4; i++)
        CHECK_INT(c[i].place, i + 1);
    bench_fini(&t);
}

/* A cancelled job is gone after the step that runs: the next step already belongs to the one that waited. */
static void cancel_frees_the_slot(void)
{
    static struct client gone, next;
    struct bench t;
    engine_init(&t.en);
    t.en.permits = 4;
    bench_init(&t, &(struct bench_options){.max_seqs = 1});
    gone = next = (struct client){0};
    CHECK_INT(submit(&t, &gone, &(struct ask){.n_prompt = 4, .max_tokens = 400}), RC_OK);
    CHECK_INT(submit(&t, &next, &(struct ask){.n_prompt = 4, .max_tokens = 2, .salt = 1}), RC_OK);
    CHECK(pump(&t, has_text, &gone));
    batcher_cancel(t.b, gone.job);
    int calls = gone.calls;
    engine_set_permits(&t.en, 4); /* at most one more for the cancelled (its step may have begun), two for the other */
    CHECK(pump(&t, client_done, &next));
    CHECK_INT(gone.calls, calls);
    CHECK_INT(next.usage.completion, 2);
    struct batcher_stats s;
    batcher_stats(t.b, &s);
    CHECK_INT(s.cancelled, 1);
    bench_fini(&t);
}

static void cancel_while_waiting(void)
{
    static struct client runs, waits;
    struct bench t;
    engine_init(&t.en);
    t.en.permits = 0;
    bench_init(&t, &(struct bench_options){.max_seqs = 1});
    runs = waits = (struct client){0};
    CHECK_INT(submit(&t, &runs, &(struct ask){.n_prompt = 4, .max_tokens = 3}), RC_OK);
    CHECK_INT(submit(&t, &waits, &(struct ask){.n_prompt = 4, .max_tokens = 3}), RC_OK);
    batcher_cancel(t.b, waits.job);
    engine_set_permits(&t.en, -1);
    CHECK(pump(&t, client_done, &runs));
    CHECK(pump(&t, nothing_runs, &t));
    CHECK_INT(waits.calls, 0);
    bench_fini(&t);
}

/* Pages for one request at a time: the second waits for them; one that can never fit is refused in words. */
static void pages_gate_admission(void)
{
    static struct client c[3];
    struct bench t;
    engine_init(&t.en);
    t.en.pages_total = t.en.pages_free = 2;
    bench_init(&t, &(struct bench_options){.max_seqs = 4});
    memset(c, 0, sizeof c);
    CHECK_INT(submit(&t, &c[0], &(struct ask){.n_prompt = 60, .max_tokens = 60}), RC_OK);
    CHECK_INT(submit(&t, &c[1], &(struct ask){.n_prompt = 60, .max_tokens = 60, .salt = 1}), RC_OK);
    CHECK_INT(submit(&t, &c[2], &(struct ask){.n_prompt = 130, .max_tokens = 300, .salt = 2}), RC_OK);
    struct clients all = {c, 3};
    CHECK(pump(&t, all_done, &all));
    CHECK_INT(c[0].finish, BATCH_LENGTH);
    CHECK_INT(c[1].finish, BATCH_LENGTH);
    CHECK_INT(c[2].finish, BATCH_FAILED);
    CHECK_STR(c[2].error, "the pool has 2 pages");
    bench_fini(&t);
}

/* A pool for one long answer and a half: the young give way to the old, and in the end everybody has said what he would
 * have said with room for all; also where some look ahead, and may be through before the oldest is. */
static void the_young_give_way(void)
{
    static struct client got[3][6];
    memset(got, 0, sizeof got);
    for (int tight = 0; tight < 3; tight++) {
        struct bench t;
        struct batcher_stats s;
        int order = 0;
        engine_init(&t.en);
        if (tight)
            t.en.pages_total = t.en.pages_free = 12; /* an answer takes five at most */
        t.en.permits = 0;                            /* until all are there */
        bench_init(&t, &(struct bench_options){.max_seqs = 6, .speculate = tight == 2});
        for (int i = 0; i < 6; i++) {
            struct ask a = {.n_prompt = 30 + 9 * i,
                            .salt = i,
                            .max_tokens = 200,
                            .temperature = i % 2,
                            .seed = 5,
                            .samples = i == 3,
                            .prompt = i == 5};
            got[tight][i].order = &order;
            CHECK_INT(submit(&t, &got[tight][i], &a), RC_OK);
        }
        engine_set_permits(&t.en, -1);
        struct clients all = {got[tight], 6};
        CHECK(pump(&t, all_done, &all));
        batcher_stats(t.b, &s);
        CHECK(tight ? s.preemptions > 0 : s.preemptions == 0);
        CHECK_INT(s.finished_length, 6);
        CHECK_INT(s.generated_tokens, 6 * 200);
        CHECK_INT(s.prompt_tokens, 6 * 30 + 9 * 15); /* each once */
        bench_fini(&t);
    }
    CHECK_INT(got[1][0].place, 1); /* the oldest was never displaced */
    for (int k = 0; k < 12; k++) {
        const int i = k % 6;
        const struct client *c = &got[1 + k / 6][i];
        CHECK_INT(c->n_ids, got[0][i].n_ids);
        CHECK(memcmp(c->ids, got[0][i].ids, sizeof c->ids) == 0);
        CHECK_INT(c->usage.prompt, 30 + 9 * i);
        CHECK_INT(c->n_samples, got[0][i].n_samples);
        CHECK(memcmp(c->prompt, got[0][i].prompt, sizeof c->prompt) == 0);
    }
}

/* Of two slots the flood gets one, whoever came first; and what the flood has waiting is served, too. */
static void a_flood_is_not_everything(void)
{
    enum { FLOOD = 20, FEW = 4, AFTER = 30 };
    static struct client c[FLOOD + FEW + AFTER];
    struct bench t;
    int order = 0, last_of_few = 0, last_of_flood = 0;
    memset(c, 0, sizeof c);
    engine_init(&t.en);
    t.en.permits = 0;
    bench_init(&t, &(struct bench_options){.max_seqs = 2, .waiting_max = 100});
    for (int i = 0; i < FLOOD + FEW + AFTER; i++) {
        struct ask a = {.n_prompt = 5,
                        .salt = i,
                        .max_tokens = 10,
                        .tenant = i < FLOOD         ? 1
                                  : i < FLOOD + FEW ? 2
                                                    : 3 + i};
        c[i].order = &order;
        CHECK_INT(submit(&t, &c[i], &a), RC_OK);
    }
    engine_set_permits(&t.en, -1);
    struct clients all = {c, FLOOD + FEW + AFTER};
    CHECK(pump(&t, all_done, &all));
    for (int i = 0; i < FLOOD + FEW; i++) {
        int *last = i < FLOOD ? &last_of_flood : &last_of_few;
        *last = c[i].place > *last ? c[i].place : *last;
    }
    CHECK(last_of_few <= 2 * FEW + 4);
    CHECK(c[FLOOD - 1].place < FLOOD + FEW + AFTER); /* thirty newcomers with a tenant each don't starve it... */
    CHECK(c[2].place <= OVERTAKEN + 6);              /* ...for nobody lets more than eight pass */
    bench_fini(&t);
}

static bool five_run(void *arg)
{
    struct batcher_stats s;
    batcher_stats(((struct bench *)arg)->b, &s);
    return s.running == 5;
}

/* Five prompts of one tenant, all admitted, and then two of another's: his first is read after the first of the five,
 * and his second after the second. */
static void prompts_take_turns(void)
{
    enum { FLOOD = 5, FEW = 2 };
    static struct client c[FLOOD + FEW];
    struct bench t;
    int order = 0;
    memset(c, 0, sizeof c);
    engine_init(&t.en);
    t.en.permits = 0;
    bench_init(&t, &(struct bench_options){.max_seqs = 8, .step_tokens = 64});
    for (int i = 0; i < FLOOD + FEW; i++) {
        struct ask a = {.n_prompt = 300, .salt = i, .max_tokens = 1, .tenant = i < FLOOD ? 1 : 2};
        c[i].order = &order;
        CHECK_INT(submit(&t, &c[i], &a), RC_OK);
        if (i == FLOOD - 1) {
            engine_set_permits(&t.en, 1); /* whoever was not there before this step is admitted after it */
            CHECK(pump(&t, five_run, &t));
        }
    }
    engine_set_permits(&t.en, -1);
    struct clients all = {c, FLOOD + FEW};
    CHECK(pump(&t, all_done, &all));
    const int places[] = {1, 3, 5, 6, 7, 2, 4};
    for (int i = 0; i < FLOOD + FEW; i++)
        CHECK_INT(c[i].place, places[i]);
    bench_fini(&t);
}

/* While a prompt of 1,500 tokens is read, alone or beside a stream, one of 90 has its answer within a few steps; and
 * the long one takes what is left of each step. */
static void long_prompts_let_short_ones_pass(void)
{
    static struct client stream, slow, quick;
    for (int beside = 0; beside < 2; beside++) {
        struct bench t;
        engine_init(&t.en);
        t.en.permits = 0;
        bench_init(&t, &(struct bench_options){.max_seqs = 4, .step_tokens = 64});
        stream = slow = quick = (struct client){0};
        if (beside)
            CHECK_INT(submit(&t, &stream, &(struct ask){.n_prompt = 4, .max_tokens = 1500}), RC_OK);
        CHECK_INT(submit(&t, &slow, &(struct ask){.n_prompt = 1500, .salt = 1, .max_tokens = 1}), RC_OK);
        CHECK_INT(submit(&t, &quick, &(struct ask){.n_prompt = 90, .salt = 2, .max_tokens = 1}), RC_OK);
        engine_set_permits(&t.en, 10);
        CHECK(pump(&t, client_done, &quick));
        CHECK_INT(slow.finish, BATCH_RUNNING);
        engine_set_permits(&t.en, -1);
        CHECK(pump(&t, client_done, &slow));
        if (!beside) {
            struct batcher_stats s;
            batcher_stats(t.b, &s);
            CHECK_INT(s.prefill_tokens, 1590);
            CHECK_INT(s.steps, (1590 + 63) / 64); /* all full but the last */
        }
        bench_fini(&t);
    }
}

static void pause_and_resume(void)
{
    static struct client slow, quick;
    struct bench t;
    engine_init(&t.en);
    t.en.permits = 2;
    bench_init(&t, &(struct bench_options){.max_seqs = 2});
    slow = quick = (struct client){0};
    CHECK_INT(submit(&t, &slow, &(struct ask){.n_prompt = 4, .max_tokens = 30}), RC_OK);
    CHECK(pump(&t, has_text, &slow));
    batcher_set_flow(t.b, slow.job, BATCH_PAUSE);
    engine_set_permits(&t.en, -1);
    CHECK_INT(submit(&t, &quick, &(struct ask){.n_prompt = 4, .max_tokens = 100, .salt = 1}), RC_OK);
    CHECK(pump(&t, client_done, &quick));
    CHECK(slow.n_ids <= 4); /* what had begun before the pause was heard */
    CHECK_INT(slow.finish, BATCH_RUNNING);
    batcher_set_flow(t.b, slow.job, BATCH_FLOW);
    CHECK(pump(&t, client_done, &slow));
    CHECK_INT(slow.usage.completion, 30);
    bench_fini(&t);
}

/* Who does not read keeps nobody from the slot (1), nor from the pages (2); when he reads on, his answer is what it
 * would have been. */
static void a_slow_reader_gives_way(void)
{
    static struct client got[3], quick[3];
    const struct ask text = {.n_prompt = 90, .max_tokens = 80, .temperature = 1, .seed = 4};
    struct bench t;
    struct batcher_stats s;
    for (int paused = 0; paused < 3; paused++) {
        struct client *c = &got[paused];
        engine_init(&t.en);
        t.en.permits = 5;
        if (paused == 2)
            t.en.pages_total = t.en.pages_free = 4; /* he has three of them, the others want two each */
        bench_init(&t, &(struct bench_options){.max_seqs = paused == 2 ? 3 : 1});
        memset(quick, 0, sizeof quick);
        *c = (struct client){0};
        CHECK_INT(submit(&t, c, &text), RC_OK);
        CHECK(pump(&t, has_text, c));
        if (paused)
            batcher_set_flow(t.b, c->job, BATCH_PAUSE);
        engine_set_permits(&t.en, -1);
        for (int i = 0; i < 3 && paused; i++) {
            CHECK_INT(submit(&t, &quick[i], &(struct ask){.n_prompt = 9, .max_tokens = 30, .salt = 1 + i}), RC_OK);
            CHECK(pump(&t, client_done, &quick[i]));
            CHECK_INT(c->finish, BATCH_RUNNING);
        }
        if (paused)
            batcher_set_flow(t.b, c->job, BATCH_FLOW);
        CHECK(pump(&t, client_done, c));
        batcher_stats(t.b, &s);
        CHECK_INT(s.preemptions, paused > 0);
        CHECK_INT(s.waiting, 0);
        bench_fini(&t);
        CHECK_STR(c->text, got[0].text);
        CHECK_INT(c->usage.completion, 80);
    }
}

static void failed_step_ends_its_jobs_only(void)
{
    static struct client first, second;
    struct bench t;
    engine_init(&t.en);
    t.en.fail_at = 5;
    bench_init(&t, &(struct bench_options){.max_seqs = 1});
    first = second = (struct client){0};
    CHECK_INT(submit(&t, &first, &(struct ask){.n_prompt = 4, .max_tokens = 50}), RC_OK);
    CHECK_INT(submit(&t, &second, &(struct ask){.n_prompt = 4, .max_tokens = 6}), RC_OK);
    CHECK(pump(&t, client_done, &second));
    CHECK_INT(first.finish, BATCH_FAILED);
    CHECK_STR(first.error, "the device fell over");
    CHECK_INT(first.n_ids, 4);
    CHECK_INT(second.finish, BATCH_LENGTH);
    bench_fini(&t);
}

static void count_lost(void *arg, const struct error *e)
{
    int *lost = arg;
    CHECK_STR(e->message, "the device fell over");
    __atomic_add_fetch(lost, 1, __ATOMIC_RELAXED);
}

/* Of a device that is gone the owner hears, before anybody is told of the step; of other failures it does not. In turn,
 * and with steps that are begun ahead. */
static void a_device_that_is_gone_is_told(void)
{
    for (int i = 0; i < 4; i++) {
        static struct client c;
        struct bench t;
        int lost = 0;
        engine_init(&t.en);
        t.en.fail_at = 5;
        t.en.lost = i % 2;
        t.en.chooses = t.en.overlaps = i >= 2;
        bench_init(&t, &(struct bench_options){.max_seqs = 1, .device_lost = count_lost, .device_lost_arg = &lost});
        c = (struct client){0};
        CHECK_INT(submit(&t, &c, &(struct ask){.n_prompt = 4, .max_tokens = 50, .plain = i >= 2}), RC_OK);
        CHECK(pump(&t, client_done, &c));
        CHECK_INT(c.finish, i == 2 ? BATCH_LENGTH : BATCH_FAILED); /* a step ahead that fails once is made again */
        CHECK_INT(t.en.most_begun, i >= 2 ? 2 : 0);
        CHECK_INT(__atomic_load_n(&lost, __ATOMIC_RELAXED), t.en.lost);
        bench_fini(&t);
    }
}

static void run_one(struct engine *en, const struct ask *a, struct client *c)
{
    struct bench t;
    engine_init(&t.en);
    t.en.eos_at = en->eos_at;
    t.en.script = en->script;
    t.en.script_from = en->script_from;
    bench_init(&t, &(struct bench_options){.max_seqs = 1});
    *c = (struct client){0};
    CHECK_INT(submit(&t, c, a), RC_OK);
    CHECK(pump(&t, client_done, c));
    bench_fini(&t);
}

static void endings(void)
{
    static struct client c;
    struct engine *en = calloc(1, sizeof *en);
    en->eos_at = 20;
    run_one(en, &(struct ask){.n_prompt = 10, .max_tokens = 100}, &c);
    CHECK_INT(c.finish, BATCH_STOP);
    CHECK_INT(c.usage.completion, 11); /* ten, and the end token */
    CHECK_INT(c.len, 10);
    run_one(en, &(struct ask){.n_prompt = 10, .max_tokens = 100, .ignore_eos = true}, &c);
    CHECK_INT(c.finish, BATCH_LENGTH);
    CHECK_INT(c.usage.completion, 100);
    CHECK_INT(c.len, 10); /* end tokens are no text */
    en->eos_at = 0;
    en->script = "one two STOP three";
    en->script_from = 10;
    run_one(en, &(struct ask){.n_prompt = 10, .max_tokens = 100, .stop = "STOP"}, &c);
    CHECK_INT(c.finish, BATCH_STOP);
    CHECK_STR(c.text, "one two ");
    CHECK_INT(c.usage.completion, 12);
    run_one(en, &(struct ask){.n_prompt = 10, .max_tokens = 10, .stop = "STOP"}, &c); /* held back, then let go */
    CHECK_INT(c.finish, BATCH_LENGTH);
    CHECK_STR(c.text, "one two ST");
    en->script = "\xe2\x82\xac\xe2\x82"; /* a euro sign, and two thirds of another */
    run_one(en, &(struct ask){.n_prompt = 10, .max_tokens = 5}, &c);
    CHECK_STR(c.text, "\xe2\x82\xac\xef\xbf\xbd");
    run_one(en, &(struct ask){.n_prompt = N_CTX - 3, .max_tokens = 100}, &c);
    CHECK_INT(c.finish, BATCH_LENGTH);
    CHECK_INT(c.usage.completion, 3);
    free(en);
}

/* The first, the middle and the last of those that wait leave; who runs stays, who is left is served in order. */
static void withdrawn_while_waiting(void)
{
    static struct client c[5];
    struct bench t;
    int order = 0;
    memset(c, 0, sizeof c);
    engine_init(&t.en);
    t.en.permits = 0;
    bench_init(&t, &(struct bench_options){.max_seqs = 1});
    for (int i = 0; i < 5; i++) {
        struct ask a = {.n_prompt = 3, .salt = i, .max_tokens = 4};
        c[i].order = &order;
        CHECK_INT(submit(&t, &c[i], &a), RC_OK);
    }
    struct mono start = clock_now(&clock_system);
    struct batcher_stats s = {0};
    while (s.running == 0 && mono_since(&clock_system, start) < PATIENCE_S * NS_PER_S)
        batcher_stats(t.b, &s);
    CHECK(!batcher_withdraw(t.b, c[0].job));
    const int leaves[] = {2, 1, 4};
    for (int k = 0; k < 3; k++) {
        struct client *who = &c[leaves[k]];
        CHECK(batcher_withdraw(t.b, who->job));
        batch_job_free(who->job);
        who->finish = BATCH_STOP;
    }
    struct ask a = {.n_prompt = 3, .salt = 9, .max_tokens = 4};
    c[4] = (struct client){.order = &order};
    CHECK_INT(submit(&t, &c[4], &a), RC_OK); /* the tail is where it should be */
    engine_set_permits(&t.en, -1);
    struct clients all = {c, 5};
    CHECK(pump(&t, all_done, &all));
    CHECK(c[0].place == 1 && c[3].place == 2 && c[4].place == 3);
    batcher_stats(t.b, &s);
    CHECK_INT(s.withdrawn, 3);
    CHECK_INT(s.waiting, 0);
    bench_fini(&t);
}

/* Whoever runs is not given back, at whatever moment it is asked for: also while the step that chooses its first token
 * runs. (Whether asking is a race, the thread sanitizer says.) */
static void who_runs_is_not_withdrawn(void)
{
    static struct client c;
    struct bench t;
    for (int i = 0; i < 20; i++) {
        struct batcher_stats s = {0};
        engine_init(&t.en);
        t.en.permits = 0;
        bench_init(&t, &(struct bench_options){.max_seqs = 1});
        c = (struct client){0};
        CHECK_INT(submit(&t, &c, &(struct ask){.n_prompt = 5, .max_tokens = 60}), RC_OK);
        while (s.running == 0)
            batcher_stats(t.b, &s);
        engine_set_permits(&t.en, -1);
        while (c.job) {
            CHECK(!batcher_withdraw(t.b, c.job));
            batcher_dispatch(t.b);
        }
        CHECK_INT(c.finish, BATCH_LENGTH);
        bench_fini(&t);
    }
}

/* Freed with jobs waiting, running, and ended but not fetched: nothing leaks (the sanitizer looks on), nobody is called. */
static void free_in_the_middle(void)
{
    static struct client c[8];
    struct bench t;
    engine_init(&t.en);
    bench_init(&t, &(struct bench_options){.max_seqs = 3});
    memset(c, 0, sizeof c);
    for (int i = 0; i < 8; i++)
        CHECK_INT(submit(&t, &c[i], &(struct ask){.n_prompt = 4, .max_tokens = i < 2 ? 1 : 500, .salt = i}), RC_OK);
    struct pollfd p = {.fd = batcher_fd(t.b), .events = POLLIN};
    CHECK_INT(poll(&p, 1, PATIENCE_S * 1000), 1);
    bench_fini(&t);
    for (int i = 0; i < 8; i++)
        CHECK_INT(c[i].calls, 0);
}

/* Hundreds of jobs, cancelled at random moments: all others end, and every page comes back. */
static void churn(void)
{
    enum { N = 400 };
    static struct client c[N];
    struct bench t;
    engine_init(&t.en);
    bench_init(&t, &(struct bench_options){.max_seqs = 8, .waiting_max = N});
    memset(c, 0, sizeof c);
    unsigned rng = 1;
    for (int i = 0; i < N; i++) {
        CHECK_INT(submit(&t, &c[i], &(struct ask){.n_prompt = 1 + i % 70, .max_tokens = 1 + i % 40, .salt = i}), RC_OK);
        batcher_dispatch(t.b);
        rng = rng * 1103515245u + 12345u;
        int victim = (int)(rng >> 16) % (i + 1);
        if (i % 3 == 0 && c[victim].job) {
            batcher_cancel(t.b, c[victim].job);
            c[victim].job = NULL;
            c[victim].finish = BATCH_STOP;
        }
    }
    struct clients all = {c, N};
    CHECK(pump(&t, all_done, &all));
    CHECK(pump(&t, nothing_runs, &t));
    int steps = engine_get(&t.en, &t.en.steps);
    poll(NULL, 0, 30);
    CHECK_INT(engine_get(&t.en, &t.en.steps), steps); /* idle is idle */
    bench_fini(&t);
}

static void refuses_impossible_steps(void)
{
    struct error e = {0};
    struct batcher *b;
    const struct batcher_options o = {.ops = &fake_ops, .max_seqs = 8, .step_tokens = 4, .n_vocab = N_VOCAB};
    CHECK_INT(batcher_new(&b, &o, &e), RC_INVALID);
    CHECK_STR(e.message, "8 sequences do not fit into a step of 4 tokens; the step must hold one of each");
}

/* Answers of all kinds of ends, on an engine that lets steps begin before the one before is read, or not: the same,
 * whether or not now and then a choice cannot be made there; and one that is cancelled leaves nothing behind. */
static void run_ahead(struct client *out, bool overlaps, int forgets)
{
    struct bench t;
    struct batcher_stats s;
    struct client gone = {0};
    engine_init(&t.en);
    t.en.chooses = true, t.en.overlaps = overlaps, t.en.forgets = forgets;
    t.en.eos_at = 240;
    t.en.permits = 5;
    bench_init(&t, &(struct bench_options){.max_seqs = 8, .speculate = forgets > 0});
    CHECK_INT(submit(&t, &gone, &(struct ask){.n_prompt = 9, .salt = 99, .max_tokens = 400, .plain = true}), RC_OK);
    CHECK(pump(&t, has_text, &gone));
    batcher_cancel(t.b, gone.job); /* in the middle: there are permits for five steps */
    engine_set_permits(&t.en, -1);
    for (int i = 0; i < COMPANY; i++) {
        struct ask a;
        ask_of(i, &a);
        a.plain = true, a.samples = true;
        a.max_tokens = i % 4 == 3 ? 400 : 50 + i * 7;
        a.stop = i % 5 == 2 ? "qz" : NULL;
        CHECK_INT(submit(&t, &out[i], &a), RC_OK);
    }
    struct clients all = {out, COMPANY};
    CHECK(pump(&t, all_done, &all));
    CHECK(pump(&t, nothing_runs, &t));
    batcher_stats(t.b, &s);
    int64_t generated = 0;
    for (int i = 0; i < COMPANY; i++)
        generated += out[i].n_ids;
    CHECK(s.generated_tokens > (uint64_t)generated && s.generated_tokens <= (uint64_t)generated + 6);
    CHECK_INT(s.cancelled, 1);
    CHECK_INT(s.finished_stop + s.finished_length, COMPANY);
    CHECK(overlaps ? t.en.most_begun == 2 && t.en.ahead > 50 : t.en.most_begun == 0);
    bench_fini(&t);
}

static void steps_ahead_change_nothing(void)
{
    static struct client in_turn[COMPANY], ahead[COMPANY];
    memset(in_turn, 0, sizeof in_turn);
    run_ahead(in_turn, false, 0);
    for (int forgets = 0; forgets <= 11; forgets += 11) {
        memset(ahead, 0, sizeof ahead);
        run_ahead(ahead, true, forgets);
        for (int i = 0; i < COMPANY; i++) {
            CHECK_INT(ahead[i].n_ids, in_turn[i].n_ids);
            CHECK(memcmp(ahead[i].ids, in_turn[i].ids, sizeof ahead[i].ids) == 0);
            CHECK_STR(ahead[i].text, in_turn[i].text);
            CHECK_INT(ahead[i].finish, in_turn[i].finish);
        }
    }
}

/* With a step ahead, too, a step's failure ends its jobs alone, and whoever comes next is served. */
static void a_step_ahead_that_fails(void)
{
    static struct client c[3];
    struct bench t;
    memset(c, 0, sizeof c);
    engine_init(&t.en);
    t.en.chooses = t.en.overlaps = true;
    t.en.fail_at = 20;
    bench_init(&t, &(struct bench_options){.max_seqs = 4});
    for (int i = 0; i < 2; i++)
        CHECK_INT(submit(&t, &c[i], &(struct ask){.n_prompt = 5, .salt = i, .max_tokens = 60, .plain = true}), RC_OK);
    struct clients all = {c, 2};
    CHECK(pump(&t, all_done, &all));
    CHECK_INT(submit(&t, &c[2], &(struct ask){.n_prompt = 5, .max_tokens = 10, .plain = true}), RC_OK);
    CHECK(pump(&t, client_done, &c[2]));
    CHECK_INT(c[2].finish, BATCH_LENGTH);
    bench_fini(&t);
}

int main(void)
{
    TEST(company_changes_nothing);
    TEST(usage_is_exact);
    TEST(time_is_all_accounted_for);
    TEST(decode_never_starves);
    TEST(waiting_room_is_bounded_and_fair);
    TEST(cancel_frees_the_slot);
    TEST(cancel_while_waiting);
    TEST(withdrawn_while_waiting);
    TEST(who_runs_is_not_withdrawn);
    TEST(pages_gate_admission);
    TEST(the_young_give_way);
    TEST(a_flood_is_not_everything);
    TEST(prompts_take_turns);
    TEST(long_prompts_let_short_ones_pass);
    TEST(pause_and_resume);
    TEST(a_slow_reader_gives_way);
    TEST(failed_step_ends_its_jobs_only);
    TEST(a_device_that_is_gone_is_told);
    TEST(endings);
    TEST(free_in_the_middle);
    TEST(churn);
    TEST(steps_ahead_change_nothing);
    TEST(a_step_ahead_that_fails);
    TEST(refuses_impossible_steps);
    return TEST_RESULT();
}
