/* What the dashboard of a small company would show on a working morning: own machines, spot, an API; one machine that
 * fails, one that is on its way, one budget that burns too fast. The month is that of report_example.h. */
#ifndef TESTS_UNIT_UI_EXAMPLE_H
#define TESTS_UNIT_UI_EXAMPLE_H

#include "report_example.h"
#include "scheduler/ui/facts.h"

#define UI_DOLLARS(d) ((struct pusd){(int64_t)((d)*1e6) * 1000000})

struct ui_example {
    struct facts f;
    struct facts_month month;
    struct example *books;
    struct facts_node nodes[8];
    struct front_route routes[3];
    struct explain_record decisions[6];
    struct facts_budget budgets[5];
    struct file_seen files[4];
};

static void ui_example_nodes(struct ui_example *x)
{
    const int64_t now_s = x->f.now.ns / NS_PER_S;
    const struct token_prices own = {{300000}, {60000}, {1200000}}, api = {{550000}, {140000}, {2190000}};
    const struct facts_node nodes[] = {{.name = "h100-1",
                                        .pool = "",
                                        .models = "llama-3.3-70b",
                                        .state = "ready",
                                        .mood = FACTS_WELL,
                                        .local = true,
                                        .in_flight = 11,
                                        .slots = 16,
                                        .prices = own,
                                        .milliwatts = 2870000,
                                        .watts_are = NODE_WATTS_MEASURED,
                                        .since_s = now_s - 19 * 86400},
                                       {.name = "h100-2",
                                        .pool = "",
                                        .models = "llama-3.3-70b, qwen2.5-32b",
                                        .state = "ready",
                                        .mood = FACTS_WELL,
                                        .local = true,
                                        .in_flight = 7,
                                        .slots = 16,
                                        .prices = own,
                                        .milliwatts = 2410000,
                                        .watts_are = NODE_WATTS_MEASURED,
                                        .since_s = now_s - 6 * 86400},
                                       {.name = "h100-3",
                                        .pool = "",
                                        .models = "llama-3.3-70b",
                                        .state = "asleep",
                                        .mood = FACTS_RESTING,
                                        .local = true,
                                        .slots = 16,
                                        .prices = own,
                                        .milliwatts = 390000,
                                        .watts_are = NODE_WATTS_ESTIMATED,
                                        .since_s = now_s - 8 * 3600},
                                       {.name = "h100-4",
                                        .pool = "",
                                        .models = "qwen2.5-32b",
                                        .state = "failing",
                                        .mood = FACTS_ILL,
                                        .local = true,
                                        .reason = "no answer to /health within 2 s",
                                        .slots = 16,
                                        .prices = own,
                                        .since_s = now_s - 260},
                                       {.name = "g6e-spot-1",
                                        .pool = "g6e-spot",
                                        .models = "qwen2.5-32b",
                                        .state = "ready",
                                        .mood = FACTS_WELL,
                                        .rented = true,
                                        .hour = UI_DOLLARS(1.86),
                                        .in_flight = 5,
                                        .slots = 8,
                                        .prices = own,
                                        .since_s = now_s - 3 * 3600},
                                       {.name = "g6e-spot-2",
                                        .pool = "g6e-spot",
                                        .models = "qwen2.5-32b",
                                        .state = "draining",
                                        .mood = FACTS_BETWEEN,
                                        .reason = "the provider takes it away in 96 s",
                                        .rented = true,
                                        .hour = UI_DOLLARS(1.86),
                                        .in_flight = 2,
                                        .slots = 8,
                                        .prices = own,
                                        .since_s = now_s - 24},
                                       {.name = "g6e-spot-3",
                                        .pool = "g6e-spot",
                                        .models = "",
                                        .state = "booting",
                                        .mood = FACTS_BETWEEN,
                                        .rented = true,
                                        .hour = UI_DOLLARS(1.92),
                                        .since_s = now_s - 20},
                                       {.name = "deepseek-api",
                                        .pool = "",
                                        .models = "deepseek-r1",
                                        .state = "ready",
                                        .mood = FACTS_WELL,
                                        .in_flight = 3,
                                        .prices = api,
                                        .since_s = now_s - 40 * 86400}};
    memcpy(x->nodes, nodes, sizeof nodes);
    for (int i = 0; i < 8; i++) {
        x->f.n_by_mood[nodes[i].mood]++;
        x->nodes[i].provider = x->nodes[i].provider ? x->nodes[i].provider : "static";
        x->nodes[i].reason = x->nodes[i].reason ? x->nodes[i].reason : "";
    }
    x->f.nodes = x->nodes;
    x->f.n_nodes = x->f.n_nodes_in_all = 8;
    x->f.rate = (struct facts_rate){.rents.v = UI_DOLLARS(5.64).v,
                                    .energy.v = UI_DOLLARS(0.79).v,
                                    .standing.v = UI_DOLLARS(8.91).v,
                                    .by_token.v = UI_DOLLARS(1.37).v,
                                    .milliwatts = 5670000,
                                    .unmeasured = 1};
}

static void ui_example_routes(struct ui_example *x)
{
    static const struct {
        const char *model;
        int64_t ttft_ms;
        int ppm;
        int64_t in_time, late, answered;
        int waiting;
    } of[] = {{"llama-3.3-70b", 800, 950000, 182211, 2904, 241877, 0},
              {"qwen2.5-32b", 500, 990000, 97120, 1988, 128334, 4},
              {"deepseek-r1", 0, 950000, 0, 0, 20417, 0}};
    for (int i = 0; i < 3; i++) {
        x->routes[i] = (struct front_route){.model = of[i].model, .served = true};
        x->routes[i].aim = (struct config_aim){.ttft_ms = of[i].ttft_ms, .probability_ppm = of[i].ppm};
        x->routes[i].demand = (struct fleet_demand){.requests = of[i].answered,
                                                    .answered = of[i].answered,
                                                    .in_time = of[i].in_time,
                                                    .late = of[i].late,
                                                    .waiting = of[i].waiting};
    }
    x->f.routes = x->routes;
    x->f.n_routes = 3;
}

static uint16_t ui_example_name(struct explain_record *r, const char *name)
{
    const uint16_t at = r->names_used;
    r->names_used = (uint16_t)(at + snprintf(r->names + at, sizeof r->names - at, "%s", name) + 1);
    return at;
}

static void ui_example_decisions(struct ui_example *x)
{
    static const char *const nodes[] = {"h100-1", "h100-2", "g6e-spot-1", "deepseek-api"};
    for (int i = 0; i < 6; i++) {
        struct explain_record *r = &x->decisions[i];
        snprintf(r->id, sizeof r->id, "req_01HF7Q%02dM4ZT8W3KX5N9PBD%d", 93 - i, i);
        r->at_ns = x->f.now.ns - (3 + i * i * 4) * NS_PER_S;
        r->model = r->model_asked = ui_example_name(r, i % 3 ? "qwen2.5-32b" : "llama-3.3-70b");
        r->slo_ttft_us = 800000;
        r->slo_probability = 0.95f;
        r->input_tokens = 1200 + 310 * i;
        r->output_tokens = 380;
        r->n = 4;
        r->chosen = (int8_t)(i == 4 ? -1 : i % 2);
        r->then.outcome = i == 4 ? EXPLAIN_WAITS : EXPLAIN_CHOSEN;
        r->then.wait_ms = 20000;
        r->then.ahead = 2;
        for (int k = 0; k < 4; k++)
            r->candidates[k] = (struct explain_candidate){
                .name = ui_example_name(r, nodes[k]),
                .money = (k == r->chosen ? 3.1e8 : 4.2e8 + 1.7e8 * k),
                .ttft_us = 210000.0f + 90000.0f * (float)k,
                .tpot_us = 14000.0f + 3000.0f * (float)k,
                .p_slo = 0.99f,
                .time_us = 6e6f + 1e6f * (float)k,
                .in_flight = i == 4 ? 16 : 5 + k,
                .slots = 16,
                .reason = (uint8_t)(i == 4           ? ROUTE_FULL
                                    : k == r->chosen ? ROUTE_CHOSEN
                                                     : ROUTE_DEARER),
                .knows = EXPLAIN_PREDICTED | EXPLAIN_MARGINAL,
            };
    }
    x->f.decisions = x->decisions;
    x->f.n_decisions = 6;
    x->f.decisions_kept = 1000;
}

static void ui_example_budgets(struct ui_example *x)
{
    for (int i = 0; i < 4; i++) {
        const struct report_budget *b = &x->books->budgets[i];
        struct facts_budget *to = &x->budgets[i];
        *to = (struct facts_budget){.name = b->name,
                                    .kind = b->kind,
                                    .start_s = b->start_s,
                                    .end_s = b->end_s,
                                    .exhausted_s = -1,
                                    .soft = b->soft,
                                    .limit = b->limit,
                                    .spent = b->spent,
                                    .reserved = UI_DOLLARS(0.04 * (i + 1))};
        to->level = b->spent.v >= b->limit.v ? BUDGET_HARD : b->spent.v >= b->soft.v ? BUDGET_SOFT : BUDGET_OK;
    }
    x->budgets[4] = (struct facts_budget){.name = "each-user[ana]",
                                          .kind = PERIOD_DAY,
                                          .start_s = x->books->r.period.until_s,
                                          .end_s = x->books->r.period.until_s + 86400,
                                          .exhausted_s = x->f.now.ns / NS_PER_S + 14000,
                                          .soft = {BUDGET_UNLIMITED},
                                          .limit = UI_DOLLARS(5),
                                          .spent = UI_DOLLARS(2.61),
                                          .reserved = UI_DOLLARS(0.01)};
    x->f.budgets = x->budgets;
    x->f.n_budgets = 5;
}

static void ui_example_files(struct ui_example *x)
{
    static const char *const names[] = {"spillway-2026-11-27.html", "spillway-2026-11-27.csv",
                                        "spillway-2026-11-26.html", "spillway-2026-10.html"};
    for (int i = 0; i < 4; i++) {
        snprintf(x->files[i].name, sizeof x->files[i].name, "%s", names[i]);
        x->files[i].bytes = 78000 - 9000 * i;
        x->files[i].changed_s = x->f.now.ns / NS_PER_S - 21600 - 86400 * i;
    }
    x->f.files = (struct files){.of = x->files, .n = 4, .in_all = 4};
}

/* ui_example_free() it. */
static struct ui_example *ui_example_new(void)
{
    struct ui_example *x = spw_calloc(1, sizeof *x);

    x->books = example_new();
    x->month.report = &x->books->r;
    x->f = (struct facts){.now.ns = (x->books->r.period.until_s + 34860) * NS_PER_S,
                          .version = "0.1.0",
                          .ready = true,
                          .why_not = "",
                          .month = &x->month};
    x->f.totals = (struct front_totals){.ok = 390628, .running = 28, .waiting = 4};
    ui_example_nodes(x);
    ui_example_routes(x);
    ui_example_decisions(x);
    ui_example_budgets(x);
    ui_example_files(x);
    x->f.audit = (struct facts_audit){
        .on = true, .stats = {.records = 390911, .groups = 88214, .logins_not_written = 0}, .head = x->books->r.head};
    snprintf(x->f.audit.head.chain, sizeof x->f.audit.head.chain, "%s", "5f0c3a9b");
    snprintf(x->f.audit.head.time, sizeof x->f.audit.head.time, "%s", "2026-11-28T09:40:58.112Z");
    snprintf(x->f.audit.fingerprint, sizeof x->f.audit.fingerprint, "SHA256:%s",
             "Zr0bq8s1dX4v0b9mCk3o0gkqf1yTn7hQe5Wc2uJpL8M");
    return x;
}

static void ui_example_free(struct ui_example *x)
{
    free(x->books);
    free(x);
}

#endif
