/* The report as JSON: all figures of all scenarios. Money is exact, as text; durations are microseconds. */
#include "scheduler/cli/simulate_report.h"

#include <math.h>
#include <stdlib.h>

#include "base/json_write.h"

#define PROVIDERS_MAX 256

static void number(struct json_writer *w, const char *key, double v)
{
    char text[48];

    if (!isfinite(v))
        v = 0;
    snprintf(text, sizeof text, "%.10g", v);
    json_raw(w, key, text);
}

static void money(struct json_writer *w, const char *key, struct pusd_sum v)
{
    char text[64];
    json_string(w, key, pusd_sum_format(v, text, sizeof text));
}

static void quantiles(struct json_writer *w, const char *key, const struct hist *h)
{
    static const struct {
        const char *name;
        double q;
    } all[] = {{"p50", 0.5}, {"p90", 0.9}, {"p95", 0.95}, {"p99", 0.99}, {"p999", 0.999}};

    json_open(w, key, '{');
    json_int(w, "n", h->n);
    number(w, "mean", hist_mean(h));
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        json_int(w, all[i].name, hist_quantile(h, all[i].q));
    json_int(w, "max", h->max);
    json_close(w, '}');
}

static void class_result(struct json_writer *w, const char *key, const struct sim_class_result *c)
{
    json_open(w, key, '{');
    json_int(w, "requests", c->requests);
    json_int(w, "done", c->done);
    json_int(w, "refused", c->refused);
    json_int(w, "expired", c->expired);
    json_int(w, "in_slo", c->in_slo);
    number(w, "slo_attainment", c->requests ? (double)c->in_slo / (double)c->requests : 1);
    json_int(w, "waited", c->waited);
    json_int(w, "by_api", c->by_api);
    json_int(w, "by_spot", c->by_spot);
    json_int(w, "by_on_demand", c->by_on_demand);
    json_int(w, "by_on_prem", c->by_on_prem);
    json_int(w, "prompt_tokens", c->prompt_tokens);
    json_int(w, "output_tokens", c->output_tokens);
    quantiles(w, "ttft_us", &c->ttft_us);
    quantiles(w, "tpot_us", &c->tpot_us);
    quantiles(w, "e2e_us", &c->e2e_us);
    quantiles(w, "wait_us", &c->wait_us);
    json_close(w, '}');
}

static void routes(struct json_writer *w, const struct sim_result *r)
{
    json_open(w, "routes", '[');
    for (int i = 0; i < r->n_models; i++) {
        const struct sim_model_result *m = &r->models[i];
        json_open(w, NULL, '{');
        json_string(w, "model", m->name);
        for (int k = 0; k < WAITING_CLASSES; k++)
            class_result(w, waiting_class_name((enum waiting_class)k), &m->of[k]);
        json_int(w, "interrupted", m->interrupted);
        json_int(w, "continued", m->continued);
        json_int(w, "again", m->again);
        json_int(w, "replayed_tokens", m->replayed_tokens);
        json_int(w, "plans", m->plans);
        json_int(w, "actions", m->actions);
        json_close(w, '}');
    }
    json_close(w, ']');
}

static void bills(struct json_writer *w, const struct sim_result *r)
{
    json_open(w, "machines", '[');
    for (int i = 0; i < r->n_bills; i++) {
        const struct sim_bill *b = &r->bills[i];
        json_open(w, NULL, '{');
        json_string(w, "provider", b->provider);
        json_string(w, "zone", b->zone);
        json_string(w, "what", b->what);
        json_string(w, "market", b->api ? "api" : scale_market_name(b->market));
        money(w, "usd", report_bill(b));
        money(w, "compute_usd", b->compute);
        money(w, "energy_usd", b->energy);
        money(w, "purchase_usd", b->purchase);
        money(w, "tokens_usd", b->tokens);
        number(w, "kwh", b->kwh);
        number(w, "node_hours", b->node_hours);
        number(w, "busy_hours", b->busy_hours);
        number(w, "utilisation", b->node_hours > 0 ? b->busy_hours / b->node_hours : 0);
        number(w, "batch_mean", b->busy_hours > 0 ? b->batch_hours / b->busy_hours : 0);
        json_int(w, "launches", b->launches);
        json_int(w, "wakes", b->wakes);
        json_int(w, "preemptions", b->preemptions);
        json_int(w, "failures", b->failures);
        json_int(w, "requests", b->requests);
        json_int(w, "prompt_tokens", b->prompt_tokens);
        json_int(w, "output_tokens", b->output_tokens);
        json_close(w, '}');
    }
    json_close(w, ']');
}

static void providers(struct json_writer *w, const struct sim_result *r)
{
    struct report_provider rows[PROVIDERS_MAX];
    int n = report_providers(r, rows, PROVIDERS_MAX);

    json_open(w, "providers", '[');
    for (int i = 0; i < n; i++) {
        json_open(w, NULL, '{');
        json_string(w, "provider", rows[i].name);
        money(w, "usd", rows[i].money);
        number(w, "kwh", rows[i].kwh);
        number(w, "node_hours", rows[i].node_hours);
        json_int(w, "requests", rows[i].requests);
        json_int(w, "preemptions", rows[i].preemptions);
        json_close(w, '}');
    }
    json_close(w, ']');
}

static void teams(struct json_writer *w, const struct report *p, const struct sim_result *r)
{
    json_open(w, "teams", '[');
    for (int i = 0; i < r->n_teams; i++) {
        const struct sim_team_result *t = &r->teams[i];
        if (t->money.v == 0 && t->requests == 0)
            continue;
        json_open(w, NULL, '{');
        json_string(w, "team", i == r->n_teams - 1 ? NULL : report_team(p, r, i));
        money(w, "usd", t->money);
        json_int(w, "requests", t->requests);
        json_int(w, "prompt_tokens", t->prompt_tokens);
        json_int(w, "output_tokens", t->output_tokens);
        json_close(w, '}');
    }
    json_close(w, ']');
}

static void budgets(struct json_writer *w, const struct sim_result *r)
{
    json_open(w, "budgets", '[');
    for (int i = 0; i < r->n_budgets; i++) {
        const struct sim_budget_result *b = &r->budgets[i];
        json_open(w, NULL, '{');
        json_string(w, "budget", b->name);
        if (b->limit.v == BUDGET_UNLIMITED)
            json_null(w, "hard_usd");
        else
            money(w, "hard_usd", (struct pusd_sum){b->limit.v});
        money(w, "spent_usd", b->spent);
        json_int(w, "periods", b->periods);
        json_int(w, "soft_reached", b->soft);
        json_int(w, "hard_reached", b->hard);
        if (b->first_hard_us < 0)
            json_null(w, "first_hard_us");
        else
            json_int(w, "first_hard_us", b->first_hard_us);
        json_int(w, "refused", b->refused);
        json_int(w, "cut", b->cut);
        json_int(w, "kept_local", b->kept_local);
        json_int(w, "as_batch", b->demoted);
        json_int(w, "downgraded", b->downgraded);
        json_int(w, "queued", b->queued);
        json_close(w, '}');
    }
    json_close(w, ']');
}

static void samples(struct json_writer *w, const struct sim_result *r)
{
    char hour[48];

    json_open(w, "samples", '[');
    for (int i = 0; i < r->n_samples; i++) {
        const struct sim_sample *s = &r->samples[i];
        json_open(w, NULL, '{');
        json_int(w, "at_us", s->at_us);
        json_int(w, "on_prem", s->on_prem);
        json_int(w, "asleep", s->asleep);
        json_int(w, "spot", s->spot);
        json_int(w, "on_demand", s->on_demand);
        json_int(w, "booting", s->booting);
        json_int(w, "waiting", s->waiting);
        json_int(w, "in_flight", s->in_flight);
        number(w, "watts", s->watts);
        json_string(w, "usd_per_hour", pusd_format(s->hour, hour, sizeof hour));
        number(w, "demand", s->demand);
        number(w, "forecast", s->forecast);
        json_close(w, '}');
    }
    json_close(w, ']');
}

static void summary(struct json_writer *w, const struct sim_result *r)
{
    struct report_figures *f = spw_malloc(sizeof *f);

    report_sum(f, r);
    money(w, "usd", r->total);
    money(w, "on_prem_usd", f->on_prem);
    money(w, "spot_usd", f->spot);
    money(w, "on_demand_usd", f->on_demand);
    money(w, "api_usd", f->api);
    money(w, "energy_usd", f->energy);
    money(w, "purchase_usd", f->purchase);
    number(w, "kwh", r->kwh);
    number(w, "slo_attainment", report_slo(f));
    number(w, "batch_in_time", f->batch ? (double)f->batch_in_time / (double)f->batch : 1);
    json_int(w, "requests", r->requests);
    json_int(w, "done", f->done);
    json_int(w, "refused", f->refused);
    json_int(w, "expired", f->expired);
    json_int(w, "preemptions", f->preemptions);
    json_int(w, "failures", f->failures);
    json_int(w, "interrupted", f->interrupted);
    json_int(w, "continued", f->continued);
    json_int(w, "again", f->again);
    number(w, "node_hours", f->node_hours);
    number(w, "utilisation", f->node_hours > 0 ? f->busy_hours / f->node_hours : 0);
    json_int(w, "nodes_peak", r->nodes_peak);
    json_int(w, "events", r->events);
    json_int(w, "end_us", r->end_us);
    quantiles(w, "ttft_us", &f->ttft_us);
    quantiles(w, "tpot_us", &f->tpot_us);
    quantiles(w, "e2e_us", &f->e2e_us);
    free(f);
}

static void column(struct json_writer *w, const struct report *p, const struct report_column *c)
{
    json_open(w, NULL, '{');
    json_string(w, "scenario", c->name);
    json_bool(w, "simulated", c->ran);
    if (c->ran) {
        summary(w, &c->result);
        providers(w, &c->result);
        teams(w, p, &c->result);
        budgets(w, &c->result);
        routes(w, &c->result);
        bills(w, &c->result);
        samples(w, &c->result);
    } else {
        json_string(w, "why", c->why);
    }
    json_close(w, '}');
}

enum rc report_json(const struct report *p, struct strbuf *out)
{
    struct json_writer w = json_write_begin(out);

    json_open(&w, NULL, '{');
    json_string(&w, "config", p->config);
    json_uint(&w, "seed", p->seed);
    json_open(&w, "trace", '{');
    json_int(&w, "requests", p->stats.requests);
    json_int(&w, "span_us", p->stats.last_us);
    json_int(&w, "prompt_tokens", p->stats.tokens_prompt);
    json_int(&w, "output_tokens", p->stats.tokens_output);
    json_int(&w, "rows", p->stats.rows);
    json_int(&w, "bad_rows", p->stats.bad_rows);
    json_int(&w, "left_out", p->stats.left_out);
    json_close(&w, '}');
    json_string(&w, "notes", p->notes);
    json_open(&w, "scenarios", '[');
    for (int i = 0; i < p->n; i++)
        column(&w, p, &p->columns[i]);
    json_close(&w, ']');
    json_close(&w, '}');
    return json_write_end(&w);
}
