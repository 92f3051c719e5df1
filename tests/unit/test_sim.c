/* Proves the simulator's laws: every request ends once, tokens and money add up, the same seed gives the same result to
 * the last
 * pico-dollar; pre-emptions and failures lose no answer; baselines are what their names say; bad scenarios are refused
 * by name.
 * links: spw_sched_simulate m */
#include "tests/unit/sim_help.h"
#include "tests/unit/test.h"

#include <stdlib.h>

#define DOLLAR INT64_C(1000000000000)
#define HOUR   INT64_C(3600000000)
#define SIM_US INT64_C(1000000)

static struct tariff tariff = {.uusd_per_kwh = 120000};
static struct sim_site site = {.name = "cellar", .tariff = &tariff, .overhead = 1.2};
static const struct sim_api api = {.provider = "openai",
                                   .prices = {.input = {550000}, .cached_input = {140000}, .output = {2190000}},
                                   .ttft_us = 600000,
                                   .tpot_us = 20000,
                                   .spread = 0.3};

/* Own machines, spot whose market comes and goes, on-demand, an API. */
struct world {
    struct sim_model model;
    struct sim_type type;
    struct sim_offer offers[4];
    struct sim_scenario s;
    struct synthetic trace;
    int64_t at[6], n[6], price_at[3], price[3];
};

static void world_init(struct world *w)
{
    *w = (struct world){
        .model = synthetic_model(),
        .type = synthetic_type(),
        .at = {0, HOUR / 6, HOUR / 4, HOUR / 3, HOUR / 2, HOUR * 2 / 3},
        .n = {6, 2, 6, 0, 3, 6},
        .price_at = {0, HOUR / 5, HOUR / 2},
        .price = {DOLLAR, 2 * DOLLAR, DOLLAR / 2},
        .trace = {.seed = 5, .rate = 30, .n = 40000, .prompt = 800, .output = 200, .models = 1, .teams = 7},
    };
    w->offers[0] = (struct sim_offer){.provider = "own",
                                      .zone = "cellar",
                                      .market = SCALE_ON_PREM,
                                      .running = 1,
                                      .asleep = 1,
                                      .purchase_hour = {DOLLAR / 2}};
    w->offers[1] = (struct sim_offer){.provider = "aws",
                                      .zone = "a",
                                      .market = SCALE_SPOT,
                                      .domain = 1,
                                      .site = -1,
                                      .price_hours = {w->price_at, w->price, 3, HOUR},
                                      .available = {w->at, w->n, 6, HOUR},
                                      .launch_max = 6,
                                      .running = 2,
                                      .boot_us = 120000000,
                                      .notice_us = 500000,
                                      .billing_min_s = 60,
                                      .losses_per_hour = 0.5};
    w->offers[2] = (struct sim_offer){.provider = "aws",
                                      .zone = "a",
                                      .market = SCALE_ON_DEMAND,
                                      .domain = 1,
                                      .site = -1,
                                      .price_hour = {4 * DOLLAR},
                                      .launch_max = 20,
                                      .boot_us = 120000000,
                                      .billing_min_s = 60};
    w->s = (struct sim_scenario){.name = "mixed",
                                 .models = &w->model,
                                 .types = &w->type,
                                 .offers = w->offers,
                                 .sites = &site,
                                 .apis = &api,
                                 .n_models = 1,
                                 .n_types = 1,
                                 .n_offers = 3,
                                 .n_sites = 1,
                                 .n_apis = 0,
                                 .seed = 1};
    w->model.scaled = true;
    w->model.limits.survive = 0.5;
}

static struct sim_result run(struct world *w)
{
    struct sim_result r;
    struct error e = {0};
    const struct sim_source source = synthetic_source(&w->trace);
    if (sim_run(&w->s, &source, NULL, &r, &e) != RC_OK) {
        CHECK_STR(e.message, "");
        exit(1);
    }
    return r;
}

static bool same_sum(struct pusd_sum a, __int128 b)
{
    return a.v == b;
}

/* What holds of any run. */
static void laws(const struct world *w, const struct sim_result *r)
{
    int64_t came = 0, done = 0, requests = 0, out = 0, in = 0, team_requests = 0;
    __int128 teams = 0, bills = 0;
    for (int32_t m = 0; m < r->n_models; m++)
        for (int c = 0; c < WAITING_CLASSES; c++) {
            const struct sim_class_result *k = &r->models[m].of[c];
            CHECK_INT(k->done + k->refused + k->expired, k->requests);
            CHECK_INT(k->by_api + k->by_spot + k->by_on_demand + k->by_on_prem, k->done);
            CHECK_INT(k->ttft_us.n, k->done);
            CHECK_INT(k->e2e_us.n, k->done);
            CHECK(k->in_slo <= k->done);
            came += k->requests;
            done += k->done;
            out += k->output_tokens;
            in += k->prompt_tokens;
        }
    CHECK_INT(came, w->trace.n);
    CHECK_INT(r->requests, w->trace.n);
    CHECK_INT(r->requests_done, done);
    int64_t said = 0, read = 0;
    for (int32_t b = 0; b < r->n_bills; b++) {
        const struct sim_bill *k = &r->bills[b];
        CHECK(k->compute.v >= 0 && k->purchase.v >= 0 && k->tokens.v >= 0);
        bills += k->compute.v + k->energy.v + k->purchase.v + k->tokens.v;
        requests += k->requests;
        said += k->output_tokens;
        read += k->prompt_tokens;
        CHECK(k->busy_hours <= k->node_hours + 1e-6);
    }
    CHECK_INT(requests, done);
    for (int32_t t = 0; t < r->n_teams; t++) {
        teams += r->teams[t].money.v;
        team_requests += r->teams[t].requests;
    }
    CHECK_INT(team_requests, done);
    CHECK(same_sum(r->total, bills));
    CHECK(same_sum(r->total, teams));
    /* Every token that an answer has was said once, and those of answers that came to nothing beside them. */
    CHECK(said >= out);
    if (done == came) {
        CHECK_INT(said, out);
        CHECK(read >= in - 0);
    }
}

static void everything_adds_up(void)
{
    struct world w;
    world_init(&w);
    struct sim_result r = run(&w);
    laws(&w, &r);
    CHECK(r.models[0].of[0].done > w.trace.n * 9 / 10);
    CHECK(r.bills[1].preemptions > 0);
    CHECK(r.models[0].interrupted > 0 && r.models[0].continued > 0);
    CHECK(r.bills[2].launches > 0); /* on demand, while there is no spot */
    CHECK(r.kwh > 0 && r.bills[0].energy.v > 0);
    CHECK(r.n_samples > 5 && r.n_teams == 8);
    /* Energy is what the kWh cost, PUE counted. */
    CHECK(llabs((long long)(r.bills[0].energy.v - (__int128)(r.bills[0].kwh * 1.2 * 0.12 * 1e12))) < 1000000);
    CHECK(r.bills[0].purchase.v == (__int128)DOLLAR * r.end_us / HOUR); /* two of them */
    sim_result_fini(&r);
}

static void same_seed_same_result(void)
{
    struct world w;
    world_init(&w);
    w.type.mtbf_h = 2;
    w.type.repair_us = HOUR / 6;
    w.s.n_apis = 1;
    w.model.api.allowed = true;
    w.model.slo.probability = 0.9;
    struct sim_result a = run(&w), b = run(&w);
    laws(&w, &a);
    CHECK(a.total.v == b.total.v && a.events == b.events && a.end_us == b.end_us);
    CHECK(memcmp(a.models, b.models, sizeof(*a.models)) == 0);
    CHECK(memcmp(a.samples, b.samples, (size_t)a.n_samples * sizeof(*a.samples)) == 0);
    w.s.seed = 2;
    struct sim_result c = run(&w);
    laws(&w, &c);
    CHECK(c.total.v != a.total.v);
    sim_result_fini(&a);
    sim_result_fini(&b);
    sim_result_fini(&c);
}

/* Rent against a sum made by hand: a fixed fleet at one price. */
static void rent_is_time_by_price(void)
{
    struct world w;
    world_init(&w);
    w.model.scaled = false;
    w.s.offers = &w.offers[2];
    w.s.n_offers = 1;
    w.offers[2].running = 3;
    w.s.until_us = 2 * HOUR;
    w.trace.n = 5000;
    struct sim_result r = run(&w);
    laws(&w, &r);
    CHECK_INT(r.end_us, 2 * HOUR);
    CHECK(r.total.v == (__int128)3 * 2 * 4 * DOLLAR);
    CHECK(fabs(r.bills[0].node_hours - 6) < 1e-9);
    sim_result_fini(&r);
}

static void own_machines_fail_and_come_back(void)
{
    struct world w;
    world_init(&w);
    w.model.scaled = false;
    w.s.n_offers = 1;
    w.offers[0].running = 4;
    w.type.mtbf_h = 0.1;
    w.type.repair_us = 20000000;
    struct sim_result r = run(&w);
    laws(&w, &r);
    CHECK(r.bills[0].failures > 5);
    CHECK(r.models[0].of[0].done > w.trace.n * 9 / 10);
    CHECK(r.models[0].continued > 0);
    sim_result_fini(&r);
}

static void local_only_stays(void)
{
    struct world w;
    world_init(&w);
    w.s.offers = &w.offers[1];
    w.s.n_offers = 2;
    w.s.n_apis = 1;
    w.model.api.allowed = true;
    w.trace.local = 0.2;
    w.trace.n = 3000;
    struct sim_result r = run(&w);
    laws(&w, &r);
    const struct sim_class_result *k = &r.models[0].of[0];
    CHECK(k->refused + k->expired > 3000 * 0.15 && k->refused + k->expired < 3000 * 0.25);
    sim_result_fini(&r);
}

/* Share of the energy that is drawn from 07:00 to 22:00. */
static double by_day(const struct world *w, const struct sim_result *r)
{
    double by[2] = {0};
    for (int32_t i = 0; i + 1 < r->n_samples; i++) {
        const int64_t hour = (w->s.start_unix_s + r->samples[i].at_us / SIM_US) / 3600 % 24;
        by[hour >= 7 && hour < 22] += r->samples[i].watts * (double)(r->samples[i + 1].at_us - r->samples[i].at_us);
    }
    return by[1] / (by[0] + by[1]);
}

/* A hall of six machines that sleep, and batch work for it: `hours` long, from the hour `from` on, due 20 hours after
 * it came. *dollars: of energy. Returns the share of it that is drawn by day. */
static double batch_in_a_hall(const struct tariff *t, int from, int hours, double *dollars)
{
    struct world w;
    struct sim_site hall = {.name = "hall", .tariff = t, .powered = true, .trust = 800};
    world_init(&w);
    w.type.levels.of[POWER_SLEEP].idle_mw = 10;
    w.s.sites = &hall;
    w.s.n_offers = 1;
    w.s.start_unix_s = 1767571200 + from * 3600;
    w.model.scaled = false;
    w.offers[0].running = 0;
    w.offers[0].asleep = 6;
    w.trace.rate = 0.5;
    w.trace.n = 1800 * hours;
    w.trace.batch = 1;
    w.trace.deadline_us = 20 * HOUR;
    struct sim_result r = run(&w);
    laws(&w, &r);
    CHECK_INT(r.models[0].of[WAITING_BATCH].in_slo, w.trace.n);
    *dollars = (double)r.bills[0].energy.v * 1e-12;
    const double day = by_day(&w, &r);
    sim_result_fini(&r);
    return day;
}

/* A kWh costs a third from 22:00 to 07:00. What comes by day waits, and six machines that sleep are woken for it then,
 * and none before; what comes by night is done as it comes, and what is left at 07:00 does not keep them awake. At one
 * price all is done as it comes. */
static void batch_waits_for_cheap_hours(void)
{
    static const struct tariff flat = {.uusd_per_kwh = 300000};
    static const struct tariff night = {.uusd_per_kwh = 100000,
                                        .rules = {{TARIFF_EVERY_DAY, TARIFF_EVERY_MONTH, 7 * 60, 22 * 60, 300000}},
                                        .n_rules = 1};
    double at_one_price, dollars;
    CHECK(batch_in_a_hall(&flat, 8, 10, &at_one_price) > 0.9);
    CHECK(batch_in_a_hall(&night, 8, 10, &dollars) < 0.05);
    CHECK(dollars < at_one_price / 3);
    CHECK(batch_in_a_hall(&night, 5, 5, &dollars) < 0.08); /* a few minutes until all have fallen asleep */
}

static void batch_waits_and_is_in_time(void)
{
    struct world w;
    world_init(&w);
    w.trace.batch = 0.3;
    w.trace.deadline_us = HOUR;
    struct sim_result r = run(&w);
    laws(&w, &r);
    const struct sim_class_result *k = &r.models[0].of[WAITING_BATCH];
    CHECK(k->requests > w.trace.n / 4);
    CHECK(k->in_slo >= k->requests * 99 / 100);
    sim_result_fini(&r);
}

/* A hall of own machines that may sleep: less energy than when all are awake, the SLO kept, and a limit in watts that
 * is never
 * exceeded: who does not fit waits, or goes to the API. */
static void machines_sleep_under_a_limit(void)
{
    struct world w;
    world_init(&w);
    struct sim_site hall = site;
    w.s.sites = &hall;
    w.s.n_offers = 1;
    w.s.n_apis = 1;
    w.model.scaled = false;
    w.model.api.allowed = true;
    w.offers[0].running = 8;
    w.offers[0].asleep = 0;
    w.trace.rate = 20;
    w.trace.wave = 0.8;
    w.trace.wave_us = HOUR / 3;
    struct sim_result all = run(&w);
    laws(&w, &all);
    hall.powered = true;
    hall.trust = 500;
    struct sim_result some = run(&w);
    laws(&w, &some);
    CHECK(some.kwh < all.kwh * 0.5);
    CHECK(some.bills[0].wakes > 0);
    const struct sim_class_result *k = &some.models[0].of[0];
    /* The rate swings ninefold within ten minutes, the forecast begins with nothing, and the API alone is too slow. */
    CHECK(k->in_slo > k->requests * 95 / 100);
    hall.cap_mw = 1600000;
    hall.base_mw = 100000;
    w.type.prefill_mw = 480000;
    w.offers[0].running = 1;
    w.offers[0].asleep = 7;
    struct sim_result capped = run(&w);
    laws(&w, &capped);
    CHECK(capped.sites[0].peak_mw <= hall.cap_mw && capped.sites[0].peak_mw > hall.cap_mw / 2);
    for (int32_t i = 0; i < capped.n_samples; i++)
        CHECK(capped.samples[i].watts + 100 <= 1600);
    w.type.prefill_mw = 650000;
    struct error e;
    CHECK_INT(sim_check(&w.s, &e), RC_INVALID);
    sim_result_fini(&all);
    sim_result_fini(&some);
    sim_result_fini(&capped);
}

/* Money for half of what is asked: never more is spent, who is over is refused or stays on the premises, and a new
 * period begins
 * with a new limit. */
static void budgets_hold(void)
{
    struct world w;
    world_init(&w);
    w.s.n_offers = 1;
    w.s.n_apis = 1;
    w.model.scaled = false;
    w.model.api.allowed = true;
    w.model.slo.ttft_us = 1000000; /* the API is in time: nobody waits for the node instead */
    w.offers[0].running = 1;
    w.trace.rate = 60;
    const struct sim_budget teams[] = {
        {.name = "all",
         .team = -1,
         .model = -1,
         .period = {.kind = PERIOD_HOUR},
         .hard = {8 * DOLLAR},
         .soft = {4 * DOLLAR},
         .soft_actions = BUDGET_NOTIFY},
        {.name = "three",
         .team = 3,
         .model = -1,
         .period = {.kind = PERIOD_HOUR},
         .hard = {DOLLAR / 10},
         .soft = {BUDGET_UNLIMITED},
         .hard_actions = BUDGET_LOCAL_ONLY},
    };
    struct sim_result free_run = run(&w);
    CHECK(free_run.bills[1].tokens.v > 9 * DOLLAR);
    w.s.budgets = teams;
    w.s.n_budgets = 2;
    struct sim_result r = run(&w);
    laws(&w, &r);
    CHECK(r.bills[1].tokens.v <= 8 * DOLLAR && r.bills[1].tokens.v > 7 * DOLLAR);
    CHECK(r.budgets[0].spent.v == r.bills[1].tokens.v); /* own machines are not charged for here */
    CHECK(r.budgets[0].soft == 1 && r.budgets[0].hard == 1 && r.budgets[0].refused > 100);
    CHECK(r.budgets[1].spent.v <= DOLLAR / 10 && r.budgets[1].hard == 1);
    CHECK(!r.budgets[0].overspent && !r.budgets[1].overspent);
    CHECK_INT(r.models[0].of[0].refused_budget, r.budgets[0].refused);
    sim_result_fini(&free_run);
    sim_result_fini(&r);
}

static void baselines_are_what_they_say(void)
{
    struct world w;
    world_init(&w);
    w.s.n_apis = 1;
    w.model.api.allowed = true;
    w.trace.n = 20000;
    int32_t peak[SIM_MODELS_MAX];
    struct error e;
    const struct sim_source source = synthetic_source(&w.trace);
    CHECK_INT(sim_peak_nodes(&w.s, &source, 60000000, peak, &e), RC_OK);
    CHECK(peak[0] >= 1 && peak[0] < 10);
    for (int b = 0; b < SIM_N_BASELINES; b++) {
        struct world v = w;
        struct sim_store store;
        CHECK_INT(sim_baseline(&v.s, &store, &w.s, (enum sim_baseline)b, peak, &e), RC_OK);
        struct sim_result r = run(&v);
        laws(&v, &r);
        const struct sim_class_result *k = &r.models[0].of[0];
        if (b == SIM_ALL_ON_DEMAND_FIXED || b == SIM_ALL_ON_DEMAND)
            CHECK_INT(k->by_on_demand, k->done);
        if (b == SIM_ALL_API)
            CHECK_INT(k->by_api, w.trace.n);
        if (b == SIM_ON_PREM_ONLY)
            CHECK_INT(k->by_on_prem, k->done);
        if (b == SIM_SPOT_NO_FALLBACK)
            CHECK_INT(k->by_on_prem + k->by_spot, k->done);
        sim_result_fini(&r);
        sim_store_fini(&store);
    }
    w.s.n_apis = 0;
    struct sim_scenario out;
    struct sim_store store;
    CHECK_INT(sim_baseline(&out, &store, &w.s, SIM_ALL_API, NULL, &e), RC_INVALID);
    CHECK_STR(e.message, "baseline all-api: nothing is left that serves llama-8b");
}

static void wrong_scenarios_are_named(void)
{
    struct world w;
    struct error e;
    world_init(&w);
    w.offers[1].type = 9;
    CHECK_INT(sim_check(&w.s, &e), RC_INVALID);
    CHECK_STR(e.message, "offer 1 (aws a): type 9; there are 1");
    world_init(&w);
    w.at[3] = 1;
    w.s.offers = w.offers;
    CHECK_INT(sim_check(&w.s, &e), RC_INVALID);
    world_init(&w);
    w.type.sequences_max = 0;
    CHECK_INT(sim_check(&w.s, &e), RC_INVALID);
    CHECK_STR(e.message, "type 0 (h100): a batch of 0; 1 to 4096");
}

/* Nearly nothing is asked for: the pool's machines are there all the same, and only they. */
static void a_pool_keeps_its_minimum(void)
{
    const int32_t min = 3;
    struct world w;
    struct error e;
    double hours[2];
    for (int kept = 0; kept < 2; kept++) {
        world_init(&w);
        w.trace.rate = 0.5;
        w.trace.n = 1800; /* an hour */
        w.offers[0].pool = w.offers[1].pool = -1;
        w.offers[2].pool = 0; /* on demand */
        w.s.pools_min = &min;
        w.s.n_pools = kept;
        struct sim_result r = run(&w);
        laws(&w, &r);
        hours[kept] = r.bills[2].node_hours;
        sim_result_fini(&r);
    }
    CHECK(hours[0] < 0.1);
    CHECK(hours[1] > 2.8 && hours[1] < 3.2);
    w.offers[0].pool = 0;
    CHECK_INT(sim_check(&w.s, &e), RC_INVALID);
    CHECK_STR(e.message, "offer 0: own machines are of no pool");
}

static void steps_repeat(void)
{
    const int64_t at[] = {0, 10, 30}, value[] = {1, 2, 3};
    const struct sim_steps s = {at, value, 3, 50};
    int64_t until;
    CHECK_INT(sim_steps_at(&s, 0, &until), 1);
    CHECK_INT(until, 10);
    CHECK_INT(sim_steps_at(&s, 29, &until), 2);
    CHECK_INT(sim_steps_at(&s, 49, &until), 3);
    CHECK_INT(until, 50);
    CHECK_INT(sim_steps_at(&s, 110, &until), 2);
    CHECK_INT(until, 130);
}

int main(void)
{
    TEST(a_pool_keeps_its_minimum);
    TEST(steps_repeat);
    TEST(wrong_scenarios_are_named);
    TEST(rent_is_time_by_price);
    TEST(everything_adds_up);
    TEST(same_seed_same_result);
    TEST(own_machines_fail_and_come_back);
    TEST(local_only_stays);
    TEST(batch_waits_for_cheap_hours);
    TEST(batch_waits_and_is_in_time);
    TEST(machines_sleep_under_a_limit);
    TEST(budgets_hold);
    TEST(baselines_are_what_they_say);
    return TEST_RESULT();
}
