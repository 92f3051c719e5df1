/* The report as one HTML page that needs nothing else: no script, no font, no picture from elsewhere. Charts are inline
 * SVG and take their colours from the page, light or dark as the reader's system is. */
#include "scheduler/cli/simulate_report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/report/svg.h"

#define PROVIDERS_MAX 32
#define TEAMS_SHOWN   15
#define LINES_MAX     3
#define POINTS_MAX    480 /* of one line */

static const char style[] =
    "body{background:var(--bg);color:var(--fg);font:15px/1.5 Inter,system-ui,sans-serif;max-width:960px;margin:2em "
    "auto;padding:0 1em}"
    "h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}p.soft,.soft{color:var(--soft)}"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px}"
    "th,td{padding:.3em .7em;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left}.good{color:var(--good)}.bad{color:var(--bad)}";

#define KINDS 4
static const struct svg_series kinds[KINDS] = {
    {"own machines", 0, NULL}, {"spot", 1, NULL}, {"on demand", 2, NULL}, {"API", 3, NULL}};

/* --- charts ------------------------------------------------------------------------------------------------------- */

static void put_money_bars(struct markup *p, const struct report *r)
{
    struct report_figures *f = spw_malloc(sizeof *f);
    double parts[REPORT_COLUMNS_MAX][KINDS];
    char values[REPORT_COLUMNS_MAX][48];
    struct svg_bar bars[REPORT_COLUMNS_MAX];
    int n = 0;

    for (int i = 0; i < r->n; i++) {
        if (!r->columns[i].ran)
            continue;
        report_sum(f, &r->columns[i].result);
        const struct pusd_sum of[KINDS] = {f->on_prem, f->spot, f->on_demand, f->api};
        for (int k = 0; k < KINDS; k++)
            parts[n][k] = fmax(0, report_dollars(of[k]));
        snprintf(values[n], sizeof values[n], "$ %.2f", report_dollars(r->columns[i].result.total));
        bars[n] = (struct svg_bar){r->columns[i].name, values[n], parts[n]};
        n++;
    }
    svg_key(p, kinds, KINDS);
    svg_bars(p, "Dollars by scenario", NULL, bars, n, kinds, KINDS, svg_dollars);
    free(f);
}

struct line { /* one series over the samples */
    const char *name;
    double (*of)(const struct sim_sample *s);
    int colour;
};

static double s_on_prem(const struct sim_sample *s)
{
    return s->on_prem;
}
static double s_spot(const struct sim_sample *s)
{
    return s->spot;
}
static double s_on_demand(const struct sim_sample *s)
{
    return s->on_demand;
}
static double s_hour(const struct sim_sample *s)
{
    return (double)s->hour.v / 1e12;
}
static double s_kilowatts(const struct sim_sample *s)
{
    return s->watts / 1000;
}
static double s_demand(const struct sim_sample *s)
{
    return s->demand;
}
static double s_forecast(const struct sim_sample *s)
{
    return s->forecast;
}
static double s_waiting(const struct sim_sample *s)
{
    return s->waiting;
}

#define HOURS_LABELLED 6

/* "0 h" to the end at equal steps of n points; texts: HOURS_LABELLED + 1. */
static void label_hours(const char **labels, char (*texts)[24], int n, double hours)
{
    for (int i = 0; i <= HOURS_LABELLED; i++) {
        snprintf(texts[i], sizeof texts[i], "%.3g h", hours * i / HOURS_LABELLED);
        labels[(n - 1) * i / HOURS_LABELLED] = texts[i];
    }
}

/* At most POINTS_MAX samples of each, at equal steps. */
static void put_series(struct markup *p, const struct sim_result *r, const struct line *lines, int n,
                       enum svg_line_style how, svg_format_fn *format, const char *title)
{
    const int stride = (r->n_samples + POINTS_MAX - 1) / POINTS_MAX;
    const int points = stride ? (r->n_samples - 1) / stride + 1 : 0;
    char texts[HOURS_LABELLED + 1][24];

    if (points < 2)
        return;
    double *values = spw_calloc((size_t)n * (size_t)points, sizeof *values);
    const char **labels = spw_calloc((size_t)points, sizeof *labels);
    struct svg_line drawn[LINES_MAX] = {{.style = SVG_SOLID}};
    struct svg_series key[LINES_MAX];
    for (int k = 0; k < n; k++) {
        for (int i = 0; i < points; i++)
            values[k * points + i] = lines[k].of(&r->samples[i * stride]);
        key[k] = (struct svg_series){lines[k].name, lines[k].colour, &values[k * points]};
        drawn[k] = (struct svg_line){.of = key[k], .style = how};
    }
    label_hours(labels, texts, points, (double)r->samples[(points - 1) * stride].at_us / 3600e6);
    const struct svg_chart c = {.title = title, .labels = labels, .n = points, .format = format, .height = 220};
    svg_key(p, key, n);
    svg_lines(p, &c, drawn, n, NULL, 0);
    free(labels);
    free(values);
}

/* Share of requests whose first token came within a time; logarithmic from 10 ms to 100 s. */
static void put_ttft(struct markup *p, const struct hist *hist)
{
    static const char *const labels[] = {"10 ms", "100 ms", "1 s", "10 s", "100 s"};
    const struct svg_chart c = {.title = "Time to first token: share of requests within",
                                .labels = labels,
                                .n = 5,
                                .format = svg_percent,
                                .height = 220};
    double xs[HIST_BUCKETS], ys[HIST_BUCKETS];
    int64_t below = 0;
    int n = 0;

    for (int i = 0; i < HIST_BUCKETS && hist->n; i++) {
        below += hist->counts[i];
        const double at = (log10(fmax(1, (double)hist_bucket_end(i))) - 4) / 4;
        if (hist->counts[i] && at >= 0 && at <= 1) {
            xs[n] = at;
            ys[n++] = (double)below / (double)hist->n;
        }
    }
    svg_curve(p, &c, xs, ys, n, 3, 1);
}

/* --- tables ------------------------------------------------------------------------------------------------------- */

static void put_seconds(struct markup *p, const struct hist *h, double q)
{
    int64_t us = hist_quantile(h, q);

    if (h->n == 0)
        markup_put(p, "<td>-");
    else
        markup_put(p, us < 10000000 ? "<td>%.0f ms" : "<td>%.1f s", (double)us / (us < 10000000 ? 1e3 : 1e6));
}

static void put_comparison(struct markup *p, const struct report *r)
{
    struct report_figures *f = spw_malloc(sizeof *f);
    const struct report_column *first = &r->columns[0];

    markup_put(p,
               "<div class=scroll><table><tr><th>scenario<th>dollars<th>against<th>kWh<th>in SLO<th>TTFT p50<th>TTFT "
               "p99<th>TPOT p50"
               "<th>TPOT p99<th>E2E p99<th>pre-empted<th>continued<th>unserved<th>busy\n");
    for (int i = 0; i < r->n; i++) {
        const struct report_column *c = &r->columns[i];
        markup_put(p, "<tr><td>");
        markup_text(p, c->name);
        if (!c->ran) {
            markup_put(p, "<td colspan=13 style=\"text-align:left\" class=soft>not simulated: ");
            markup_text(p, c->why);
            markup_put(p, "\n");
            continue;
        }
        report_sum(f, &c->result);
        double dollars = report_dollars(c->result.total), base = first->ran ? report_dollars(first->result.total) : 0;
        markup_put(p, "<td>%.2f", dollars);
        if (i && base > 0)
            markup_put(p, "<td class=%s>%+.1f%%", dollars >= base ? "bad" : "good", 100 * (dollars / base - 1));
        else
            markup_put(p, "<td>-");
        markup_put(p, "<td>%.1f<td>%.2f%%", c->result.kwh, 100 * report_slo(f));
        put_seconds(p, &f->ttft_us, 0.5);
        put_seconds(p, &f->ttft_us, 0.99);
        put_seconds(p, &f->tpot_us, 0.5);
        put_seconds(p, &f->tpot_us, 0.99);
        put_seconds(p, &f->e2e_us, 0.99);
        markup_put(p, "<td>%lld<td>%lld<td>%lld<td>%.0f%%\n", (long long)f->preemptions, (long long)f->continued,
                   (long long)f->refused + f->expired, f->node_hours > 0 ? 100 * f->busy_hours / f->node_hours : 0);
    }
    markup_put(p, "</table></div>\n");
    free(f);
}

static void put_providers(struct markup *p, const struct sim_result *r)
{
    struct report_provider rows[PROVIDERS_MAX];
    int n = report_providers(r, rows, PROVIDERS_MAX);

    markup_put(p, "<div class=scroll><table><tr><th>provider<th>dollars<th>share<th>kWh<th>node "
                  "hours<th>requests<th>pre-empted\n");
    for (int i = 0; i < n; i++) {
        markup_put(p, "<tr><td>");
        markup_text(p, rows[i].name);
        markup_put(p, "<td>%.2f<td>%.1f%%<td>%.1f<td>%.1f<td>%lld<td>%lld\n", report_dollars(rows[i].money),
                   r->total.v ? 100 * report_dollars(rows[i].money) / report_dollars(r->total) : 0, rows[i].kwh,
                   rows[i].node_hours, (long long)rows[i].requests, (long long)rows[i].preemptions);
    }
    markup_put(p, "</table></div>\n");
}

static void put_routes(struct markup *p, const struct sim_result *r)
{
    markup_put(p,
               "<div class=scroll><table><tr><th>route<th>class<th>requests<th>in SLO<th>TTFT p50<th>TTFT p99<th>TPOT "
               "p99<th>E2E p99"
               "<th>waited<th>refused<th>expired\n");
    for (int i = 0; i < r->n_models; i++)
        for (int k = 0; k < WAITING_CLASSES; k++) {
            const struct sim_class_result *c = &r->models[i].of[k];
            if (c->requests == 0)
                continue;
            markup_put(p, "<tr><td>");
            markup_text(p, r->models[i].name);
            markup_put(p, "<td>%s<td>%lld<td>%.2f%%", waiting_class_name((enum waiting_class)k), (long long)c->requests,
                       100 * (double)c->in_slo / (double)c->requests);
            put_seconds(p, &c->ttft_us, 0.5);
            put_seconds(p, &c->ttft_us, 0.99);
            put_seconds(p, &c->tpot_us, 0.99);
            put_seconds(p, &c->e2e_us, 0.99);
            markup_put(p, "<td>%lld<td>%lld<td>%lld\n", (long long)c->waited, (long long)c->refused,
                       (long long)c->expired);
        }
    markup_put(p, "</table></div>\n");
}

static void put_teams(struct markup *p, const struct report *rep, const struct sim_result *r)
{
    int shown[TEAMS_SHOWN], n = report_teams(r, shown, TEAMS_SHOWN);

    markup_put(p, "<div class=scroll><table><tr><th>team<th>dollars<th>requests<th>prompt tokens<th>output tokens\n");
    for (int i = 0; i < n; i++) {
        const struct sim_team_result *t = &r->teams[shown[i]];
        markup_put(p, "<tr><td>");
        markup_text(p, report_team(rep, r, shown[i]));
        markup_put(p, "<td>%.2f<td>%lld<td>%lld<td>%lld\n", report_dollars(t->money), (long long)t->requests,
                   (long long)t->prompt_tokens, (long long)t->output_tokens);
    }
    markup_put(p, "</table></div>\n");
}

static void put_budgets(struct markup *p, const struct sim_result *r)
{
    if (r->n_budgets == 0)
        return;
    markup_put(
        p, "<h2>Budgets</h2>\n<div class=scroll><table><tr><th>budget<th>hard limit<th>spent<th>periods<th>soft limit "
           "reached<th>hard limit reached<th>refused<th>cut<th>kept local<th>as batch<th>downgraded<th>queued\n");
    for (int i = 0; i < r->n_budgets; i++) {
        const struct sim_budget_result *b = &r->budgets[i];
        markup_put(p, "<tr><td>");
        markup_text(p, b->name);
        if (b->limit.v == BUDGET_UNLIMITED)
            markup_put(p, "<td>-");
        else
            markup_put(p, "<td>%.2f", (double)b->limit.v / 1e12);
        markup_put(p, "<td>%.2f<td>%lld<td>%lld<td>%lld<td>%lld<td>%lld<td>%lld<td>%lld<td>%lld<td>%lld\n",
                   report_dollars(b->spent), (long long)b->periods, (long long)b->soft, (long long)b->hard,
                   (long long)b->refused, (long long)b->cut, (long long)b->kept_local, (long long)b->demoted,
                   (long long)b->downgraded, (long long)b->queued);
    }
    markup_put(p, "</table></div>\n");
}

/* --- the page ----------------------------------------------------------------------------------------------------- */

static void put_first(struct markup *p, const struct report *rep)
{
    static const struct line fleet[] = {
        {"own machines", s_on_prem, 0}, {"spot", s_spot, 1}, {"on demand", s_on_demand, 2}};
    static const struct line demand[] = {{"demand", s_demand, 3}, {"forecast", s_forecast, 1}};
    static const struct line hour[] = {{"dollars per hour", s_hour, 2}}, watts[] = {{"kW", s_kilowatts, 0}};
    static const struct line waiting[] = {{"waiting", s_waiting, 3}};
    const struct sim_result *r = &rep->columns[0].result;
    struct report_figures *f = spw_malloc(sizeof *f);

    report_sum(f, r);
    markup_put(p, "<h2>");
    markup_text(p, rep->columns[0].name);
    markup_put(p, ": where the money goes</h2>\n");
    put_providers(p, r);
    markup_put(p, "<h2>Routes</h2>\n");
    put_routes(p, r);
    markup_put(p, "<h2>Machines awake</h2>\n");
    put_series(p, r, fleet, 3, SVG_SOLID, svg_number, "Machines awake over time");
    markup_put(p, "<h2>Demand and forecast, per second</h2>\n");
    put_series(p, r, demand, 2, SVG_SOLID, svg_number, "Demand and forecast over time");
    markup_put(p, "<h2>Rent, dollars per hour</h2>\n");
    put_series(p, r, hour, 1, SVG_AREA, svg_dollars, "Dollars per hour over time");
    markup_put(p, "<h2>Power, kW</h2>\n");
    put_series(p, r, watts, 1, SVG_AREA, svg_number, "Kilowatts over time");
    markup_put(p, "<h2>Requests that wait</h2>\n");
    put_series(p, r, waiting, 1, SVG_AREA, svg_number, "Waiting requests over time");
    markup_put(p, "<h2>Time to first token: share of interactive requests within</h2>\n");
    put_ttft(p, &f->ttft_us);
    markup_put(p, "<h2>Teams</h2>\n");
    put_teams(p, rep, r);
    put_budgets(p, r);
    free(f);
}

enum rc report_html(const struct report *r, struct strbuf *out)
{
    struct markup p = {.out = out, .rc = RC_OK};

    markup_put(
        &p, "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width\">"
            "<meta name=color-scheme content=\"light dark\"><title>Spillway: what if</title><style>");
    markup_put(&p, "%s%s", chart_css_text, style);
    markup_put(&p, "</style></head><body><h1>What would it have cost?</h1><p class=soft>");
    markup_text(&p, r->config);
    markup_put(&p, ": %lld requests over %.1f h, %lld prompt and %lld output tokens; seed %llu</p>\n",
               (long long)r->stats.requests, (double)r->stats.last_us / 3600e6, (long long)r->stats.tokens_prompt,
               (long long)r->stats.tokens_output, (unsigned long long)r->seed);
    markup_put(&p, "<h2>Dollars, side by side</h2>\n");
    put_money_bars(&p, r);
    put_comparison(&p, r);
    if (r->columns[0].ran)
        put_first(&p, r);
    if (r->notes && r->notes[0]) {
        markup_put(&p, "<h2>Notes</h2><p class=soft style=\"white-space:pre-wrap\">");
        markup_text(&p, r->notes);
        markup_put(&p, "</p>");
    }
    markup_put(&p, "</body></html>\n");
    return p.rc;
}
