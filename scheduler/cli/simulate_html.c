/* The report as one HTML page that needs nothing else: no script, no font, no picture from elsewhere. Charts are inline SVG and
 * take their colours from the page, light or dark as the reader's system is. */
#include "scheduler/cli/simulate_report.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define PROVIDERS_MAX 32
#define TEAMS_SHOWN   15
#define WIDTH         860
#define LEFT          70
#define POINTS_MAX    480 /* of one line */

struct page {
    struct strbuf *out;
    enum rc rc; /* the first failure sticks */
};

static void put(struct page *p, const char *format, ...) SPW_PRINTF(2, 3);
static void put(struct page *p, const char *format, ...)
{
    char text[2048];
    va_list args;

    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (p->rc == RC_OK)
        p->rc = strbuf_append(p->out, text, n < (int)sizeof text ? (size_t)n : sizeof text - 1);
}

/* Text of others: names of teams, nodes, files. */
static void put_text(struct page *p, const char *s)
{
    for (; s && *s; s++) {
        if (*s == '<')
            put(p, "&lt;");
        else if (*s == '>')
            put(p, "&gt;");
        else if (*s == '&')
            put(p, "&amp;");
        else if (*s == '"')
            put(p, "&quot;");
        else
            put(p, "%c", *s);
    }
}

static const char style[] =
    ":root{--bg:#fff;--fg:#1b1f24;--soft:#6a737d;--line:#d8dee4;--c0:#2f6f4f;--c1:#d08b2c;--c2:#b5483a;--c3:#3a6ea5;"
    "--good:#2f6f4f;--bad:#b5483a}"
    "@media(prefers-color-scheme:dark){:root{--bg:#14171a;--fg:#e6e9ec;--soft:#98a2ad;--line:#2f363d;--c0:#6fbf95;"
    "--c1:#e6b566;--c2:#e58476;--c3:#7fb2e5;--good:#6fbf95;--bad:#e58476}}"
    "body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:2em "
    "auto;padding:0 1em}"
    "h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}p.soft,.soft{color:var(--soft)}"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px}"
    "th,td{padding:.3em .7em;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left}.good{color:var(--good)}.bad{color:var(--bad)}"
    "svg{max-width:100%;height:auto}svg text{fill:var(--soft);font-size:12px}.axis{stroke:var(--line)}"
    ".key{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin:0 .35em 0 1em}";

static const char *const kinds[] = {"own machines", "spot", "on demand", "API"};

static void put_key(struct page *p, const char *const *names, int n)
{
    put(p, "<p class=soft>");
    for (int i = 0; i < n; i++)
        put(p, "<span class=key style=\"background:var(--c%d)\"></span>%s", i, names[i]);
    put(p, "</p>\n");
}

/* --- charts ---------------------------------------------------------------------------------------------------------------- */

/* A round number that is no less than v: 1, 2 or 5 times a power of ten. */
static double round_up(double v)
{
    double unit = v > 0 ? pow(10, floor(log10(v))) : 1;
    return v <= unit ? unit : v <= 2 * unit ? 2 * unit : v <= 5 * unit ? 5 * unit : 10 * unit;
}

static void put_money_bars(struct page *p, const struct report *r)
{
    struct report_figures *f = spw_malloc(sizeof *f);
    double most = 0;
    int row = 0;

    for (int i = 0; i < r->n; i++)
        if (r->columns[i].ran)
            most = fmax(most, report_dollars(r->columns[i].result.total));
    put_key(p, kinds, 4);
    put(p, "<svg viewBox=\"0 0 %d %d\" role=img aria-label=\"dollars by scenario\">\n", WIDTH, r->n * 26 + 4);
    for (int i = 0; i < r->n; i++) {
        if (!r->columns[i].ran)
            continue;
        report_sum(f, &r->columns[i].result);
        const double parts[4] = {report_dollars(f->on_prem), report_dollars(f->spot), report_dollars(f->on_demand),
                                 report_dollars(f->api)};
        double x = 190, scale = most > 0 ? (WIDTH - 290) / most : 0;
        put(p, "<text x=180 y=%d text-anchor=end>", row * 26 + 17);
        put_text(p, r->columns[i].name);
        put(p, "</text>");
        for (int k = 0; k < 4; k++) {
            double w = fmax(0, parts[k]) * scale;
            if (w > 0.1)
                put(p, "<rect x=%.1f y=%d width=%.1f height=18 fill=\"var(--c%d)\"><title>%s: $ %.2f</title></rect>", x,
                    row * 26 + 4, w, k, kinds[k], parts[k]);
            x += w;
        }
        put(p, "<text x=%.1f y=%d>$ %.2f</text>\n", x + 6, row++ * 26 + 17, report_dollars(r->columns[i].result.total));
    }
    put(p, "</svg>\n");
    free(f);
}

struct line { /* one series over the samples */
    double (*of)(const struct sim_sample *s);
    int colour;
    bool stacked; /* on top of the ones before */
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

/* lines[0..k] at a sample: the sum where stacked. */
static double height(const struct line *lines, int k, const struct sim_sample *s)
{
    double v = 0;

    for (int i = lines[k].stacked ? 0 : k; i <= k; i++)
        v += lines[i].of(s);
    return v;
}

static void put_axes(struct page *p, double most, double hours, int h)
{
    for (int i = 0; i <= 4; i++) {
        double y = 10 + (h - 40) * (1 - i / 4.0);
        put(p, "<line class=axis x1=%d x2=%d y1=%.1f y2=%.1f /><text x=%d y=%.1f text-anchor=end>%.4g</text>", LEFT,
            WIDTH, y, y, LEFT - 8, y + 4, most * i / 4);
    }
    for (int i = 0; i <= 6; i++)
        put(p, "<text x=%.1f y=%d text-anchor=%s>%.4g h</text>", LEFT + (WIDTH - LEFT) * i / 6.0, h - 8,
            i == 6 ? "end" : "middle", hours * i / 6);
}

static void put_series(struct page *p, const struct sim_result *r, const struct line *lines, int n, const char *label)
{
    const int h = 220;
    double most = 0, end = r->n_samples ? (double)r->samples[r->n_samples - 1].at_us : 0;
    int stride = (r->n_samples + POINTS_MAX - 1) / POINTS_MAX;

    if (r->n_samples < 2 || end <= 0)
        return;
    for (int i = 0; i < r->n_samples; i++)
        for (int k = 0; k < n; k++)
            most = fmax(most, height(lines, k, &r->samples[i]));
    most = round_up(most);
    put(p, "<svg viewBox=\"0 0 %d %d\" role=img aria-label=\"%s\">", WIDTH, h, label);
    put_axes(p, most, end / 3600e6, h);
    for (int k = n - 1; k >= 0; k--) { /* the highest first: the others lie over it */
        if (lines[k].stacked)
            put(p, "<path fill=\"var(--c%d)\" d=\"M%d,%d L", lines[k].colour, LEFT, h - 30);
        else
            put(p, "<path fill=none stroke=\"var(--c%d)\" stroke-width=1.5 d=\"M", lines[k].colour);
        for (int i = 0; i < r->n_samples; i += stride)
            put(p, "%.1f,%.1f ", LEFT + (WIDTH - LEFT) * (double)r->samples[i].at_us / end,
                10 + (h - 40) * (1 - fmax(0, height(lines, k, &r->samples[i])) / most));
        if (lines[k].stacked)
            put(p, "L%d,%d Z", WIDTH, h - 30);
        put(p, "\"/>\n");
    }
    put(p, "</svg>\n");
}

/* Share of requests whose first token came within a time; logarithmic from 10 ms to 100 s. */
static void put_ttft(struct page *p, const struct hist *hist)
{
    const int h = 220;
    int64_t below = 0;

    put(p, "<svg viewBox=\"0 0 %d %d\" role=img aria-label=\"time to first token\">", WIDTH, h);
    for (int i = 0; i <= 4; i++) {
        double x = LEFT + (WIDTH - LEFT) * i / 4.0, y = 10 + (h - 40) * (1 - i / 4.0);
        static const char *const ticks[] = {"10 ms", "100 ms", "1 s", "10 s", "100 s"};
        put(p, "<line class=axis x1=%d x2=%d y1=%.1f y2=%.1f /><text x=%d y=%.1f text-anchor=end>%d%%</text>", LEFT,
            WIDTH, y, y, LEFT - 8, y + 4, 25 * i);
        put(p, "<text x=%.1f y=%d text-anchor=%s>%s</text>", x, h - 8, i == 4 ? "end" : "middle", ticks[i]);
    }
    put(p, "<path fill=none stroke=\"var(--c3)\" stroke-width=2 d=\"M");
    for (int i = 0; i < HIST_BUCKETS && hist->n; i++) {
        below += hist->counts[i];
        double at = (log10(fmax(1, (double)hist_bucket_end(i))) - 4) / 4;
        if (hist->counts[i] && at >= 0 && at <= 1)
            put(p, "%.1f,%.1f ", LEFT + (WIDTH - LEFT) * at, 10 + (h - 40) * (1 - (double)below / (double)hist->n));
    }
    put(p, "\"/></svg>\n");
}

/* --- tables ----------------------------------------------------------------------------------------------------------------- */

static void put_seconds(struct page *p, const struct hist *h, double q)
{
    int64_t us = hist_quantile(h, q);

    if (h->n == 0)
        put(p, "<td>-");
    else
        put(p, us < 10000000 ? "<td>%.0f ms" : "<td>%.1f s", (double)us / (us < 10000000 ? 1e3 : 1e6));
}

static void put_comparison(struct page *p, const struct report *r)
{
    struct report_figures *f = spw_malloc(sizeof *f);
    const struct report_column *first = &r->columns[0];

    put(p, "<div class=scroll><table><tr><th>scenario<th>dollars<th>against<th>kWh<th>in SLO<th>TTFT p50<th>TTFT "
           "p99<th>TPOT p50"
           "<th>TPOT p99<th>E2E p99<th>pre-empted<th>continued<th>unserved<th>busy\n");
    for (int i = 0; i < r->n; i++) {
        const struct report_column *c = &r->columns[i];
        put(p, "<tr><td>");
        put_text(p, c->name);
        if (!c->ran) {
            put(p, "<td colspan=13 style=\"text-align:left\" class=soft>not simulated: ");
            put_text(p, c->why);
            put(p, "\n");
            continue;
        }
        report_sum(f, &c->result);
        double dollars = report_dollars(c->result.total), base = first->ran ? report_dollars(first->result.total) : 0;
        put(p, "<td>%.2f", dollars);
        if (i && base > 0)
            put(p, "<td class=%s>%+.1f%%", dollars >= base ? "bad" : "good", 100 * (dollars / base - 1));
        else
            put(p, "<td>-");
        put(p, "<td>%.1f<td>%.2f%%", c->result.kwh, 100 * report_slo(f));
        put_seconds(p, &f->ttft_us, 0.5);
        put_seconds(p, &f->ttft_us, 0.99);
        put_seconds(p, &f->tpot_us, 0.5);
        put_seconds(p, &f->tpot_us, 0.99);
        put_seconds(p, &f->e2e_us, 0.99);
        put(p, "<td>%lld<td>%lld<td>%lld<td>%.0f%%\n", (long long)f->preemptions, (long long)f->continued,
            (long long)(f->refused + f->expired), f->node_hours > 0 ? 100 * f->busy_hours / f->node_hours : 0);
    }
    put(p, "</table></div>\n");
    free(f);
}

static void put_providers(struct page *p, const struct sim_result *r)
{
    struct report_provider rows[PROVIDERS_MAX];
    int n = report_providers(r, rows, PROVIDERS_MAX);

    put(p, "<div class=scroll><table><tr><th>provider<th>dollars<th>share<th>kWh<th>node "
           "hours<th>requests<th>pre-empted\n");
    for (int i = 0; i < n; i++) {
        put(p, "<tr><td>");
        put_text(p, rows[i].name);
        put(p, "<td>%.2f<td>%.1f%%<td>%.1f<td>%.1f<td>%lld<td>%lld\n", report_dollars(rows[i].money),
            r->total.v ? 100 * report_dollars(rows[i].money) / report_dollars(r->total) : 0, rows[i].kwh,
            rows[i].node_hours, (long long)rows[i].requests, (long long)rows[i].preemptions);
    }
    put(p, "</table></div>\n");
}

static void put_routes(struct page *p, const struct sim_result *r)
{
    put(p, "<div class=scroll><table><tr><th>route<th>class<th>requests<th>in SLO<th>TTFT p50<th>TTFT p99<th>TPOT "
           "p99<th>E2E p99"
           "<th>waited<th>refused<th>expired\n");
    for (int i = 0; i < r->n_models; i++)
        for (int k = 0; k < WAITING_CLASSES; k++) {
            const struct sim_class_result *c = &r->models[i].of[k];
            if (c->requests == 0)
                continue;
            put(p, "<tr><td>");
            put_text(p, r->models[i].name);
            put(p, "<td>%s<td>%lld<td>%.2f%%", waiting_class_name((enum waiting_class)k), (long long)c->requests,
                100 * (double)c->in_slo / (double)c->requests);
            put_seconds(p, &c->ttft_us, 0.5);
            put_seconds(p, &c->ttft_us, 0.99);
            put_seconds(p, &c->tpot_us, 0.99);
            put_seconds(p, &c->e2e_us, 0.99);
            put(p, "<td>%lld<td>%lld<td>%lld\n", (long long)c->waited, (long long)c->refused, (long long)c->expired);
        }
    put(p, "</table></div>\n");
}

static void put_teams(struct page *p, const struct report *rep, const struct sim_result *r)
{
    int shown[TEAMS_SHOWN], n = report_teams(r, shown, TEAMS_SHOWN);

    put(p, "<div class=scroll><table><tr><th>team<th>dollars<th>requests<th>prompt tokens<th>output tokens\n");
    for (int i = 0; i < n; i++) {
        const struct sim_team_result *t = &r->teams[shown[i]];
        put(p, "<tr><td>");
        put_text(p, report_team(rep, r, shown[i]));
        put(p, "<td>%.2f<td>%lld<td>%lld<td>%lld\n", report_dollars(t->money), (long long)t->requests,
            (long long)t->prompt_tokens, (long long)t->output_tokens);
    }
    put(p, "</table></div>\n");
}

static void put_budgets(struct page *p, const struct sim_result *r)
{
    if (r->n_budgets == 0)
        return;
    put(p, "<h2>Budgets</h2>\n<div class=scroll><table><tr><th>budget<th>hard limit<th>spent<th>periods<th>soft limit "
           "reached<th>hard limit reached<th>refused<th>cut<th>kept local<th>as batch<th>downgraded<th>queued\n");
    for (int i = 0; i < r->n_budgets; i++) {
        const struct sim_budget_result *b = &r->budgets[i];
        put(p, "<tr><td>");
        put_text(p, b->name);
        if (b->limit.v == BUDGET_UNLIMITED)
            put(p, "<td>-");
        else
            put(p, "<td>%.2f", (double)b->limit.v / 1e12);
        put(p, "<td>%.2f<td>%lld<td>%lld<td>%lld<td>%lld<td>%lld<td>%lld<td>%lld<td>%lld<td>%lld\n",
            report_dollars(b->spent), (long long)b->periods, (long long)b->soft, (long long)b->hard,
            (long long)b->refused, (long long)b->cut, (long long)b->kept_local, (long long)b->demoted,
            (long long)b->downgraded, (long long)b->queued);
    }
    put(p, "</table></div>\n");
}

/* --- the page ------------------------------------------------------------------------------------------------------------------ */

static void put_first(struct page *p, const struct report *rep)
{
    static const struct line fleet[] = {{s_on_prem, 0, true}, {s_spot, 1, true}, {s_on_demand, 2, true}};
    static const struct line demand[] = {{s_demand, 3, false}, {s_forecast, 1, false}};
    static const struct line hour[] = {{s_hour, 2, false}}, watts[] = {{s_kilowatts, 0, false}};
    static const struct line waiting[] = {{s_waiting, 3, false}};
    const struct sim_result *r = &rep->columns[0].result;
    struct report_figures *f = spw_malloc(sizeof *f);

    report_sum(f, r);
    put(p, "<h2>");
    put_text(p, rep->columns[0].name);
    put(p, ": where the money goes</h2>\n");
    put_providers(p, r);
    put(p, "<h2>Routes</h2>\n");
    put_routes(p, r);
    put(p, "<h2>Machines awake</h2>\n");
    put_key(p, kinds, 3);
    put_series(p, r, fleet, 3, "machines awake over time");
    put(p, "<h2>Demand and forecast, per second</h2><p class=soft><span class=key "
           "style=\"background:var(--c3)\"></span>demand"
           "<span class=key style=\"background:var(--c1)\"></span>forecast</p>\n");
    put_series(p, r, demand, 2, "demand and forecast over time");
    put(p, "<h2>Rent, dollars per hour</h2>\n");
    put_series(p, r, hour, 1, "dollars per hour over time");
    put(p, "<h2>Power, kW</h2>\n");
    put_series(p, r, watts, 1, "kilowatts over time");
    put(p, "<h2>Requests that wait</h2>\n");
    put_series(p, r, waiting, 1, "waiting requests over time");
    put(p, "<h2>Time to first token: share of interactive requests within</h2>\n");
    put_ttft(p, &f->ttft_us);
    put(p, "<h2>Teams</h2>\n");
    put_teams(p, rep, r);
    put_budgets(p, r);
    free(f);
}

enum rc report_html(const struct report *r, struct strbuf *out)
{
    struct page p = {out, RC_OK};

    put(&p, "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width\">"
            "<meta name=color-scheme content=\"light dark\"><title>Spillway: what if</title><style>");
    p.rc = p.rc == RC_OK ? strbuf_puts(out, style) : p.rc;
    put(&p, "</style></head><body><h1>What would it have cost?</h1><p class=soft>");
    put_text(&p, r->config);
    put(&p, ": %lld requests over %.1f h, %lld prompt and %lld output tokens; seed %llu</p>\n",
        (long long)r->stats.requests, (double)r->stats.last_us / 3600e6, (long long)r->stats.tokens_prompt,
        (long long)r->stats.tokens_output, (unsigned long long)r->seed);
    put(&p, "<h2>Dollars, side by side</h2>\n");
    put_money_bars(&p, r);
    put_comparison(&p, r);
    if (r->columns[0].ran)
        put_first(&p, r);
    if (r->notes && r->notes[0]) {
        put(&p, "<h2>Notes</h2><p class=soft style=\"white-space:pre-wrap\">");
        put_text(&p, r->notes);
        put(&p, "</p>");
    }
    put(&p, "</body></html>\n");
    return p.rc;
}
