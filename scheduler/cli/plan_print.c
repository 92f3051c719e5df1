/* What `spillway plan` shows. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_write.h"
#include "scheduler/cli/cli_internal.h"
#include "scheduler/cli/plan.h"

/* --- text ------------------------------------------------------------------------------------------------------ */

/* "$12,345": whole dollars, halves up; "$0.42" below a hundred. */
static const char *dollars(struct pusd_sum a, char *buf, size_t size)
{
    char digits[48];
    int n, at = 0;

    if (a.v < (__int128)100 * 1000000000000) {
        snprintf(buf, size, "$%.2f", (double)(int64_t)(a.v / 1000000) * 1e-6);
        return buf;
    }
    n = snprintf(digits, sizeof(digits), "%lld", (long long)((a.v + 500000000000) / 1000000000000));
    buf[at++] = '$';
    for (int i = 0; i < n && at + 2 < (int)size; i++) {
        buf[at++] = digits[i];
        if ((n - 1 - i) % 3 == 0 && i < n - 1)
            buf[at++] = ',';
    }
    buf[at] = '\0';
    return buf;
}

static void cell(struct cli_table *t, const char *format, double x)
{
    char buf[48];
    snprintf(buf, sizeof(buf), format, x); // NOLINT: format is one of ours
    cli_table_add(t, buf);
}

static void cost_cells(struct cli_table *t, const struct plan_cost *c)
{
    char buf[48];
    cli_table_add(t, c->offered ? dollars(c->fixed, buf, sizeof(buf)) : NULL);
    cli_table_add(t, c->offered ? dollars(c->scaled, buf, sizeof(buf)) : NULL);
}

static void print_ask(const struct plan_result *r, FILE *out)
{
    const struct plan_ask *a = &r->ask;
    const struct model_shape *m = &r->model->shape;
    double per_tok = capacity_kv_bytes_per_tok(m);

    fprintf(
        out, "%s: %g requests/s in the mean, %g in the busiest hour; %g prompt tokens (%g cached), %g output tokens\n",
        r->model->name, a->requests_per_s, a->requests_per_s * a->peak, a->mix.prompt, a->mix.cached, a->mix.output);
    fprintf(out, "SLO: ");
    if (a->slo.ttft_us > 0)
        fprintf(out, "first token within %g ms", a->slo.ttft_us / 1e3);
    if (a->slo.tpot_us > 0)
        fprintf(out, "%s%g ms per further token", a->slo.ttft_us > 0 ? ", " : "", a->slo.tpot_us / 1e3);
    if (a->slo.ttft_us > 0 || a->slo.tpot_us > 0)
        fprintf(out, ", for %g%% of requests", a->slo.probability * 100);
    else
        fprintf(out, "none, up to 95%% load");
    fprintf(out, "; %g%% more than is asked for is provided\n", a->over_provision * 100);
    fprintf(out, "memory: %.1f GB of weights (%g bits), %.1f KB of KV per token, %.0f MB per request at its end\n\n",
            capacity_weights_bytes(m) / 1e9, m->bits_per_weight, per_tok / 1e3,
            per_tok * (a->mix.prompt + a->mix.output) / 1e6);
}

static void print_sizes(const struct plan_result *r, FILE *out)
{
    static const struct cli_column columns[] = {
        {"TYPE", CLI_LEFT},        {"GPUS", CLI_LEFT},        {"REPLICAS", CLI_RIGHT}, {"KV GB", CLI_RIGHT},
        {"AT ONCE", CLI_RIGHT},    {"REQUESTS/S", CLI_RIGHT}, {"TOKENS/S", CLI_RIGHT}, {"TTFT MS", CLI_RIGHT},
        {"TPOT MS", CLI_RIGHT},    {"ENDED BY", CLI_LEFT},    {"NODES", CLI_RIGHT},    {"MEAN", CLI_RIGHT},
        {"DECODE CURVE", CLI_LEFT}};
    struct cli_table t;
    char buf[96];

    cli_table_init(&t, columns, 13);
    for (int i = 0; i < r->n_rows; i++) {
        const struct plan_row *row = &r->rows[i];
        if (row->why != PLAN_OK)
            continue;
        cli_table_add(&t, row->node->name);
        snprintf(buf, sizeof(buf), "%dx%s", row->node->gpus, row->node->gpu);
        cli_table_add(&t, buf);
        snprintf(buf, sizeof(buf), "%d of %d", row->replicas, row->width);
        cli_table_add(&t, buf);
        cell(&t, "%.0f", row->memory.kv_bytes / 1e9);
        cell(&t, "%.0f", row->capacity.concurrency);
        cell(&t, "%.2f", row->capacity.requests_per_s);
        cell(&t, "%.0f", row->capacity.tokens_per_s);
        cell(&t, "%.0f", row->capacity.ttft_us / 1e3);
        cell(&t, "%.1f", row->capacity.tpot_us_p / 1e3);
        cli_table_add(&t, capacity_limit_name(row->capacity.limit));
        cell(&t, "%.0f", row->nodes_peak);
        cell(&t, "%.1f", row->nodes_mean);
        cli_table_add(&t, row->measured ? "measured" : "derived");
    }
    cli_table_print(&t, out);
    cli_table_fini(&t);
}

static void print_costs(const struct plan_result *r, FILE *out)
{
    static const struct cli_column columns[] = {
        {"A MONTH", CLI_LEFT},   {"OWNED", CLI_RIGHT},      {"SLEEPING", CLI_RIGHT},      {"SPOT", CLI_RIGHT},
        {"SCALED", CLI_RIGHT},   {"ON DEMAND", CLI_RIGHT},  {"SCALED", CLI_RIGHT},        {"OWNED>API", CLI_RIGHT},
        {"SPOT>API", CLI_RIGHT}, {"DEMAND>API", CLI_RIGHT}, {"OWN FROM H/DAY", CLI_RIGHT}};
    struct cli_table t;

    cli_table_init(&t, columns, 11);
    for (int i = 0; i < r->n_rows; i++) {
        const struct plan_row *row = &r->rows[i];
        const struct plan_cost *costs[] = {&row->on_prem, &row->spot, &row->on_demand};
        if (row->why != PLAN_OK)
            continue;
        cli_table_add(&t, row->node->name);
        for (int k = 0; k < 3; k++)
            cost_cells(&t, costs[k]);
        for (int k = 0; k < 3; k++)
            if (costs[k]->break_even_mtok >= 0)
                cell(&t, "%.0f", costs[k]->break_even_mtok);
            else
                cli_table_add(&t, costs[k]->offered && r->api ? "never" : NULL);
        if (row->hours_per_day >= 0)
            cell(&t, "%.1f", row->hours_per_day);
        else
            cli_table_add(&t, NULL);
    }
    fputc('\n', out);
    cli_table_print(&t, out);
    cli_table_fini(&t);
}

struct cheapest {
    const char *what, *how;
    struct pusd_sum month;
};
static void find_cheapest(const struct plan_result *r, struct cheapest *best)
{
    *best = (struct cheapest){0};
    if (r->api)
        *best = (struct cheapest){r->model->api, "the API", r->api_month};
    for (int i = 0; i < r->n_rows; i++) {
        const struct plan_row *row = &r->rows[i];
        const struct plan_cost *costs[] = {&row->on_prem, &row->spot, &row->on_demand};
        static const char *const how[] = {"owned, the idle ones asleep", "spot, as many as each hour needs",
                                          "on demand, as many as each hour needs"};
        for (int k = 0; k < 3 && row->why == PLAN_OK; k++)
            if (costs[k]->offered && (!best->what || costs[k]->scaled.v < best->month.v))
                *best = (struct cheapest){row->node->name, how[k], costs[k]->scaled};
    }
}

static void print_misfits(const struct plan_result *r, FILE *out)
{
    for (int i = 0; i < r->n_rows; i++) {
        const struct plan_row *row = &r->rows[i];
        if (row->why == PLAN_NO_MEMORY)
            fprintf(out, "%s: too small: %.1f GB of weights and one request need more than its %.0f GB\n",
                    row->node->name, row->memory.weights_bytes / 1e9,
                    row->node->gpus * row->node->gpu_memory_bytes * CAPACITY_MEMORY_USABLE / 1e9);
        if (row->why == PLAN_NO_SLO)
            fprintf(
                out,
                "%s: too slow: alone on it a request may have its first token after %.0f ms and then one in %.1f ms\n",
                row->node->name, row->capacity.ttft_us / 1e3, row->capacity.tpot_us_p / 1e3);
    }
}

void plan_print_table(const struct plan_result *r, FILE *out)
{
    struct cheapest best;
    char buf[48], rate[48];
    bool any = false;

    print_ask(r, out);
    for (int i = 0; i < r->n_rows; i++)
        any = any || r->rows[i].why == PLAN_OK;
    if (any) {
        print_sizes(r, out);
        print_costs(r, out);
    }
    print_misfits(r, out);
    find_cheapest(r, &best);
    fputc('\n', out);
    if (r->api)
        fprintf(out, "API (%s): %s a month at %s a request\n", r->model->api, dollars(r->api_month, buf, sizeof(buf)),
                pusd_format(r->api_request, rate, sizeof(rate)));
    if (best.what)
        fprintf(out, "cheapest: %s (%s): %s a month\n", best.what, best.how, dollars(best.month, buf, sizeof(buf)));
    if (!any)
        return;
    fprintf(
        out,
        "\nNODES: for the busiest hour. OWNED: purchase over %g years and energy at $%.4g per kWh (PUE %g).\n"
        "SLEEPING, SCALED: only as many as each hour of the day needs are awake or rented (MEAN). X>API: million\n"
        "tokens a month from which X is cheaper than the API. OWN FROM H/DAY: hours a day of renting on demand that\n"
        "cost as much as owning. derived: from bandwidth and FLOPs, not measured; spot losses are not reckoned here\n"
        "(spillway simulate does).\n",
        r->ask.years, (double)r->ask.uusd_per_kwh * 1e-6, r->ask.pue);
}

/* --- JSON ------------------------------------------------------------------------------------------------------ */

static void put_number(struct json_writer *w, const char *key, double x)
{
    char buf[40];
    snprintf(buf, sizeof(buf), "%.10g", x);
    json_raw(w, key, isfinite(x) ? buf : "null");
}

static void put_dollars(struct json_writer *w, const char *key, struct pusd_sum a)
{
    char buf[48];
    json_string(w, key, pusd_sum_format(a, buf, sizeof(buf)));
}

static void put_cost(struct json_writer *w, const char *key, const struct plan_cost *c)
{
    if (!c->offered) {
        json_null(w, key);
        return;
    }
    json_open(w, key, '{');
    put_dollars(w, "month_usd", c->fixed);
    put_dollars(w, "month_scaled_usd", c->scaled);
    if (c->break_even_mtok >= 0)
        put_number(w, "break_even_million_tokens_month", c->break_even_mtok);
    else
        json_null(w, "break_even_million_tokens_month");
    json_close(w, '}');
}

static void put_row(struct json_writer *w, const struct plan_row *row)
{
    static const char *const why[] = {"ok", "too_small", "too_slow"};

    json_open(w, NULL, '{');
    json_string(w, "type", row->node->name);
    json_string(w, "gpu", row->node->gpu);
    json_int(w, "gpus", row->node->gpus);
    json_string(w, "verdict", why[row->why]);
    json_int(w, "gpus_per_replica", row->width);
    json_int(w, "replicas_per_node", row->replicas);
    put_number(w, "weights_bytes", row->memory.weights_bytes);
    put_number(w, "kv_bytes_per_token", row->memory.kv_bytes_per_tok);
    json_int(w, "kv_tokens_per_replica", row->memory.kv_tokens);
    put_number(w, "ttft_ms", row->capacity.ttft_us / 1e3);
    put_number(w, "tpot_ms", row->capacity.tpot_us_p / 1e3);
    put_number(w, "tpot_ms_mean", row->capacity.tpot_us / 1e3);
    if (row->why == PLAN_OK) {
        json_bool(w, "measured", row->measured);
        put_number(w, "requests_per_s", row->capacity.requests_per_s);
        put_number(w, "tokens_per_s", row->capacity.tokens_per_s);
        put_number(w, "concurrency", row->capacity.concurrency);
        json_string(w, "ended_by", capacity_limit_name(row->capacity.limit));
        json_int(w, "nodes_peak", row->nodes_peak);
        put_number(w, "nodes_mean", row->nodes_mean);
        put_cost(w, "on_prem", &row->on_prem);
        put_cost(w, "spot", &row->spot);
        put_cost(w, "on_demand", &row->on_demand);
        if (row->hours_per_day >= 0)
            put_number(w, "own_from_hours_per_day", row->hours_per_day);
    }
    json_close(w, '}');
}

enum rc plan_print_json(const struct plan_result *r, FILE *out)
{
    struct strbuf b;
    struct cheapest best;

    strbuf_init(&b, (size_t)1 << 20);
    struct json_writer w = json_write_begin(&b);
    json_open(&w, NULL, '{');
    json_string(&w, "model", r->model->name);
    put_number(&w, "requests_per_s", r->ask.requests_per_s);
    put_number(&w, "peak", r->ask.peak);
    put_number(&w, "prompt_tokens", r->ask.mix.prompt);
    put_number(&w, "cached_tokens", r->ask.mix.cached);
    put_number(&w, "output_tokens", r->ask.mix.output);
    if (r->api) {
        json_open(&w, "api", '{');
        json_string(&w, "name", r->model->api);
        put_dollars(&w, "month_usd", r->api_month);
        json_close(&w, '}');
    } else {
        json_null(&w, "api");
    }
    json_open(&w, "types", '[');
    for (int i = 0; i < r->n_rows; i++)
        put_row(&w, &r->rows[i]);
    json_close(&w, ']');
    find_cheapest(r, &best);
    if (best.what) {
        json_open(&w, "cheapest", '{');
        json_string(&w, "what", best.what);
        json_string(&w, "how", best.how);
        put_dollars(&w, "month_usd", best.month);
        json_close(&w, '}');
    }
    json_close(&w, '}');
    enum rc rc = json_write_end(&w);
    if (rc == RC_OK)
        fprintf(out, "%s\n", b.data);
    strbuf_fini(&b);
    return rc;
}
