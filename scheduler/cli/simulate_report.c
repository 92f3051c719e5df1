/* The figures that all forms of the report show, and the form for terminals. */
#include "scheduler/cli/simulate_report.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/cli/cli_internal.h"

#define PROVIDERS_MAX 64
#define TEAMS_SHOWN   20

double report_dollars(struct pusd_sum a)
{
    return (double)a.v / 1e12;
}

struct pusd_sum report_bill(const struct sim_bill *b)
{
    return (struct pusd_sum){b->compute.v + b->energy.v + b->purchase.v + b->tokens.v};
}

static void sum_class(struct report_figures *f, const struct sim_class_result *c, bool batch)
{
    f->requests += c->requests;
    f->done += c->done;
    f->refused += c->refused;
    f->expired += c->expired;
    f->by_api += c->by_api;
    f->by_spot += c->by_spot;
    f->by_on_demand += c->by_on_demand;
    f->by_on_prem += c->by_on_prem;
    if (batch) {
        f->batch += c->requests;
        f->batch_in_time += c->in_slo;
        return;
    }
    f->interactive += c->requests;
    f->interactive_in_slo += c->in_slo;
    hist_merge(&f->ttft_us, &c->ttft_us);
    hist_merge(&f->tpot_us, &c->tpot_us);
    hist_merge(&f->e2e_us, &c->e2e_us);
}

static void sum_bill(struct report_figures *f, const struct sim_bill *b)
{
    struct pusd_sum *kind = b->api                       ? &f->api
                            : b->market == SCALE_ON_PREM ? &f->on_prem
                            : b->market == SCALE_SPOT    ? &f->spot
                                                         : &f->on_demand;

    kind->v += report_bill(b).v;
    f->energy.v += b->energy.v;
    f->purchase.v += b->purchase.v;
    f->preemptions += b->preemptions;
    f->failures += b->failures;
    f->launches += b->launches;
    f->wakes += b->wakes;
    f->node_hours += b->node_hours;
    f->busy_hours += b->busy_hours;
}

void report_sum(struct report_figures *f, const struct sim_result *r)
{
    memset(f, 0, sizeof *f);
    for (int i = 0; i < r->n_models; i++) {
        const struct sim_model_result *m = &r->models[i];
        sum_class(f, &m->of[WAITING_INTERACTIVE], false);
        sum_class(f, &m->of[WAITING_BATCH], true);
        f->interrupted += m->interrupted;
        f->continued += m->continued;
        f->again += m->again;
        f->replayed_tokens += m->replayed_tokens;
    }
    for (int i = 0; i < r->n_bills; i++)
        sum_bill(f, &r->bills[i]);
}

double report_slo(const struct report_figures *f)
{
    return f->interactive ? (double)f->interactive_in_slo / (double)f->interactive : 1;
}

static int by_money(const void *a, const void *b)
{
    const struct report_provider *x = a, *y = b;
    return x->money.v != y->money.v ? (x->money.v < y->money.v ? 1 : -1) : strcmp(x->name, y->name);
}

int report_providers(const struct sim_result *r, struct report_provider *out, int n_max)
{
    int n = 0, at;

    for (int i = 0; i < r->n_bills; i++) {
        const struct sim_bill *b = &r->bills[i];
        for (at = 0; at < n && strcmp(out[at].name, b->provider) != 0; at++)
            ;
        if (at == n && n == n_max)
            at = n - 1; /* the last one stands for all that have no row */
        else if (at == n)
            out[n++] = (struct report_provider){.name = b->provider};
        out[at].money.v += report_bill(b).v;
        out[at].kwh += b->kwh;
        out[at].node_hours += b->node_hours;
        out[at].requests += b->requests;
        out[at].preemptions += b->preemptions;
    }
    qsort(out, (size_t)n, sizeof *out, by_money);
    return n;
}

/* The n_max greatest, by insertion: few are wanted of perhaps many. */
int report_teams(const struct sim_result *r, int *out, int n_max)
{
    int n = 0;

    for (int i = 0; i < r->n_teams; i++) {
        int at = n;
        if (r->teams[i].money.v == 0 && r->teams[i].requests == 0)
            continue;
        while (at > 0 && r->teams[out[at - 1]].money.v < r->teams[i].money.v)
            at--;
        if (at == n_max)
            continue;
        n += n < n_max;
        memmove(out + at + 1, out + at, sizeof *out * (size_t)(n - 1 - at));
        out[at] = i;
    }
    return n;
}

const char *report_team(const struct report *p, const struct sim_result *r, int i)
{
    const char *name = i == r->n_teams - 1 ? "(nobody: idle, booting)" : trace_name(p->trace, TRACE_TEAMS, (uint32_t)i);
    return name ? name : "?";
}

/* --- tables ------------------------------------------------------------------------------------------------------- */

static void cell(struct cli_table *t, const char *format, ...) SPW_PRINTF(2, 3);
static void cell(struct cli_table *t, const char *format, ...)
{
    char text[128];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    cli_table_add(t, text);
}

static void seconds_cell(struct cli_table *t, const struct hist *h, double q)
{
    int64_t us = hist_quantile(h, q);

    if (h->n == 0)
        cli_table_add(t, "-");
    else if (us < 10000000)
        cell(t, "%.0f ms", (double)us / 1000);
    else
        cell(t, "%.1f s", (double)us / 1e6);
}

static void compare_row(struct cli_table *t, const struct report_column *c, const struct report_column *first)
{
    struct report_figures *f = spw_malloc(sizeof *f);

    cli_table_add(t, c->name);
    if (!c->ran) {
        for (int i = 0; i < 12; i++)
            cli_table_add(t, "-");
        free(f);
        return;
    }
    report_sum(f, &c->result);
    cell(t, "%.2f", report_dollars(c->result.total));
    if (c == first || !first->ran || first->result.total.v == 0)
        cli_table_add(t, "-");
    else
        cell(t, "%+.1f%%", 100 * (report_dollars(c->result.total) / report_dollars(first->result.total) - 1));
    cell(t, "%.1f", c->result.kwh);
    cell(t, "%.2f%%", 100 * report_slo(f));
    seconds_cell(t, &f->ttft_us, 0.5);
    seconds_cell(t, &f->ttft_us, 0.99);
    seconds_cell(t, &f->tpot_us, 0.5);
    seconds_cell(t, &f->tpot_us, 0.99);
    seconds_cell(t, &f->e2e_us, 0.99);
    cell(t, "%lld", (long long)f->preemptions);
    cell(t, "%lld", (long long)f->continued);
    cell(t, "%lld", (long long)f->refused + f->expired);
    free(f);
}

static void print_comparison(const struct report *p, FILE *out)
{
    static const struct cli_column columns[] = {
        {"SCENARIO", CLI_LEFT},  {"DOLLARS", CLI_RIGHT},  {"AGAINST", CLI_RIGHT},  {"KWH", CLI_RIGHT},
        {"IN SLO", CLI_RIGHT},   {"TTFT P50", CLI_RIGHT}, {"TTFT P99", CLI_RIGHT}, {"TPOT P50", CLI_RIGHT},
        {"TPOT P99", CLI_RIGHT}, {"E2E P99", CLI_RIGHT},  {"PREEMPT", CLI_RIGHT},  {"CONTINUED", CLI_RIGHT},
        {"UNSERVED", CLI_RIGHT}};
    struct cli_table t;

    cli_table_init(&t, columns, 13);
    for (int i = 0; i < p->n; i++)
        compare_row(&t, &p->columns[i], &p->columns[0]);
    cli_table_print(&t, out);
    cli_table_fini(&t);
    for (int i = 0; i < p->n; i++)
        if (!p->columns[i].ran)
            fprintf(out, "%s was not simulated: %s\n", p->columns[i].name, p->columns[i].why);
}

static void print_providers(const struct sim_result *r, FILE *out)
{
    static const struct cli_column columns[] = {
        {"PROVIDER", CLI_LEFT},    {"DOLLARS", CLI_RIGHT},  {"SHARE", CLI_RIGHT},  {"KWH", CLI_RIGHT},
        {"NODE HOURS", CLI_RIGHT}, {"REQUESTS", CLI_RIGHT}, {"PREEMPT", CLI_RIGHT}};
    struct report_provider rows[PROVIDERS_MAX];
    int n = report_providers(r, rows, PROVIDERS_MAX);
    struct cli_table t;

    cli_table_init(&t, columns, 7);
    for (int i = 0; i < n; i++) {
        cli_table_add(&t, rows[i].name);
        cell(&t, "%.2f", report_dollars(rows[i].money));
        cell(&t, "%.1f%%", r->total.v ? 100 * report_dollars(rows[i].money) / report_dollars(r->total) : 0);
        cell(&t, "%.1f", rows[i].kwh);
        cell(&t, "%.1f", rows[i].node_hours);
        cell(&t, "%lld", (long long)rows[i].requests);
        cell(&t, "%lld", (long long)rows[i].preemptions);
    }
    cli_table_print(&t, out);
    cli_table_fini(&t);
}

static void print_routes(const struct sim_result *r, FILE *out)
{
    static const struct cli_column columns[] = {
        {"ROUTE", CLI_LEFT},       {"CLASS", CLI_LEFT},     {"REQUESTS", CLI_RIGHT}, {"IN SLO", CLI_RIGHT},
        {"TTFT P50", CLI_RIGHT},   {"TTFT P99", CLI_RIGHT}, {"TPOT P99", CLI_RIGHT}, {"E2E P50", CLI_RIGHT},
        {"E2E P99", CLI_RIGHT},    {"WAITED", CLI_RIGHT},   {"REFUSED", CLI_RIGHT},  {"EXPIRED", CLI_RIGHT},
        {"INTERRUPTED", CLI_RIGHT}};
    struct cli_table t;

    cli_table_init(&t, columns, 13);
    for (int i = 0; i < r->n_models; i++)
        for (int k = 0; k < WAITING_CLASSES; k++) {
            const struct sim_class_result *c = &r->models[i].of[k];
            if (c->requests == 0)
                continue;
            cli_table_add(&t, r->models[i].name);
            cli_table_add(&t, waiting_class_name((enum waiting_class)k));
            cell(&t, "%lld", (long long)c->requests);
            cell(&t, "%.2f%%", 100 * (double)c->in_slo / (double)c->requests);
            seconds_cell(&t, &c->ttft_us, 0.5);
            seconds_cell(&t, &c->ttft_us, 0.99);
            seconds_cell(&t, &c->tpot_us, 0.99);
            seconds_cell(&t, &c->e2e_us, 0.5);
            seconds_cell(&t, &c->e2e_us, 0.99);
            cell(&t, "%lld", (long long)c->waited);
            cell(&t, "%lld", (long long)c->refused);
            cell(&t, "%lld", (long long)c->expired);
            cell(&t, "%lld", (long long)r->models[i].interrupted);
        }
    cli_table_print(&t, out);
    cli_table_fini(&t);
}

static void print_machines(const struct sim_result *r, FILE *out)
{
    static const struct cli_column columns[] = {{"MACHINES", CLI_LEFT}, {"WHERE", CLI_LEFT},       {"MARKET", CLI_LEFT},
                                                {"DOLLARS", CLI_RIGHT}, {"NODE HOURS", CLI_RIGHT}, {"BUSY", CLI_RIGHT},
                                                {"BATCH", CLI_RIGHT},   {"LAUNCHES", CLI_RIGHT},   {"WAKES", CLI_RIGHT},
                                                {"PREEMPT", CLI_RIGHT}, {"FAILURES", CLI_RIGHT}};
    struct cli_table t;
    char where[128];

    cli_table_init(&t, columns, 11);
    for (int i = 0; i < r->n_bills; i++) {
        const struct sim_bill *b = &r->bills[i];
        snprintf(where, sizeof where, "%s%s%s", b->provider, b->zone && b->zone[0] ? " " : "", b->zone ? b->zone : "");
        cli_table_add(&t, b->what);
        cli_table_add(&t, where);
        cli_table_add(&t, b->api ? "api" : scale_market_name(b->market));
        cell(&t, "%.2f", report_dollars(report_bill(b)));
        cell(&t, "%.1f", b->node_hours);
        cell(&t, "%.0f%%", b->node_hours > 0 ? 100 * b->busy_hours / b->node_hours : 0);
        cell(&t, "%.1f", b->busy_hours > 0 ? b->batch_hours / b->busy_hours : 0);
        cell(&t, "%lld", (long long)b->launches);
        cell(&t, "%lld", (long long)b->wakes);
        cell(&t, "%lld", (long long)b->preemptions);
        cell(&t, "%lld", (long long)b->failures);
    }
    cli_table_print(&t, out);
    cli_table_fini(&t);
}

static void print_teams(const struct report *p, const struct sim_result *r, FILE *out)
{
    static const struct cli_column columns[] = {{"TEAM", CLI_LEFT},
                                                {"DOLLARS", CLI_RIGHT},
                                                {"REQUESTS", CLI_RIGHT},
                                                {"INPUT", CLI_RIGHT},
                                                {"OUTPUT", CLI_RIGHT}};
    int shown[TEAMS_SHOWN], n = report_teams(r, shown, TEAMS_SHOWN), all = 0;
    struct cli_table t;

    cli_table_init(&t, columns, 5);
    for (int i = 0; i < n; i++) {
        const struct sim_team_result *team = &r->teams[shown[i]];
        cli_table_add(&t, report_team(p, r, shown[i]));
        cell(&t, "%.2f", report_dollars(team->money));
        cell(&t, "%lld", (long long)team->requests);
        cell(&t, "%lld", (long long)team->prompt_tokens);
        cell(&t, "%lld", (long long)team->output_tokens);
    }
    cli_table_print(&t, out);
    cli_table_fini(&t);
    for (int i = 0; i < r->n_teams; i++)
        all += r->teams[i].money.v != 0 || r->teams[i].requests != 0;
    if (all > n)
        fprintf(out, "... and %d more; --format json has all\n", all - n);
}

static void amount_cell(struct cli_table *t, struct pusd limit)
{
    if (limit.v == BUDGET_UNLIMITED)
        cli_table_add(t, "-");
    else
        cell(t, "%.2f", (double)limit.v / 1e12);
}

static void print_budgets(const struct sim_result *r, FILE *out)
{
    static const struct cli_column columns[] = {
        {"BUDGET", CLI_LEFT},    {"HARD", CLI_RIGHT},       {"SPENT", CLI_RIGHT},       {"PERIODS", CLI_RIGHT},
        {"SOFT HIT", CLI_RIGHT}, {"HARD HIT", CLI_RIGHT},   {"FIRST AFTER", CLI_RIGHT}, {"REFUSED", CLI_RIGHT},
        {"CUT", CLI_RIGHT},      {"KEPT LOCAL", CLI_RIGHT}, {"AS BATCH", CLI_RIGHT},    {"DOWNGRADED", CLI_RIGHT},
        {"QUEUED", CLI_RIGHT}};
    struct cli_table t;

    if (r->n_budgets == 0)
        return;
    fputc('\n', out);
    cli_table_init(&t, columns, 13);
    for (int i = 0; i < r->n_budgets; i++) {
        const struct sim_budget_result *b = &r->budgets[i];
        cli_table_add(&t, b->name);
        amount_cell(&t, b->limit);
        cell(&t, "%.2f", report_dollars(b->spent));
        cell(&t, "%lld", (long long)b->periods);
        cell(&t, "%lld", (long long)b->soft);
        cell(&t, "%lld", (long long)b->hard);
        if (b->first_hard_us < 0)
            cli_table_add(&t, "-");
        else
            cell(&t, "%.1f h", (double)b->first_hard_us / 3600e6);
        cell(&t, "%lld", (long long)b->refused);
        cell(&t, "%lld", (long long)b->cut);
        cell(&t, "%lld", (long long)b->kept_local);
        cell(&t, "%lld", (long long)b->demoted);
        cell(&t, "%lld", (long long)b->downgraded);
        cell(&t, "%lld", (long long)b->queued);
    }
    cli_table_print(&t, out);
    cli_table_fini(&t);
}

void report_print(const struct report *p, FILE *out)
{
    const struct sim_result *r = &p->columns[0].result;

    fprintf(out, "%s: %lld requests over %.1f h, %lld prompt and %lld output tokens, seed %llu\n\n", p->config,
            (long long)p->stats.requests, (double)p->stats.last_us / 3600e6, (long long)p->stats.tokens_prompt,
            (long long)p->stats.tokens_output, (unsigned long long)p->seed);
    print_comparison(p, out);
    if (p->columns[0].ran) {
        fprintf(out, "\n%s by provider\n", p->columns[0].name);
        print_providers(r, out);
        fprintf(out, "\n");
        print_routes(r, out);
        fprintf(out, "\n");
        print_machines(r, out);
        fprintf(out, "\n");
        print_teams(p, r, out);
        print_budgets(r, out);
    }
    if (p->notes && p->notes[0])
        fprintf(out, "\n%s", p->notes);
}
