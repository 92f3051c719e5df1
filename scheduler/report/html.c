/* The page: its frame, what its sections share, the headline and the days. */
#include "scheduler/report/html_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/sha256.h"
#include "base/text.h"

#define PAGE_MAX    ((size_t)64 << 20)
#define ROWS_MAX    12
#define SPARK_DAYS  31
#define DAYS_DRAWN  62 /* more are weeks */
#define MARKETS_MAX 8

static const char *const months[] = {"January", "February", "March",     "April",   "May",      "June",
                                     "July",    "August",   "September", "October", "November", "December"};

/* ---- shared by all sections -------------------------------------------------------------------------------------- */

struct pusd_sum page_spend(const struct report_use *u, struct pusd_sum corrected)
{
    return (struct pusd_sum){u->charge.v + corrected.v};
}

double page_dollars(struct pusd_sum a)
{
    return (double)a.v / 1e12;
}

char *page_money_text(struct pusd_sum a, char buf[PAGE_TEXT])
{
    char text[WRITE_MONEY];
    return write_closed_up(write_money(a, text), buf, PAGE_TEXT);
}

char *page_percent_text(int64_t ppm, bool with_sign, char buf[PAGE_TEXT])
{
    char text[WRITE_TIME];
    return write_closed_up(write_percent(ppm, with_sign, text), buf, PAGE_TEXT);
}

void page_money(struct page *p, struct pusd_sum a)
{
    char text[PAGE_TEXT];
    markup_put(&p->m, "%s", page_money_text(a, text));
}

void page_percent(struct page *p, int64_t ppm)
{
    char text[PAGE_TEXT];
    markup_put(&p->m, "%s", page_percent_text(ppm, false, text));
}

void page_more_or_less(struct page *p, struct pusd_sum now, struct pusd_sum before, const char *than)
{
    char text[PAGE_TEXT];
    bool known;
    const int64_t ppm = write_change(now, before, &known);

    if (!known)
        markup_put(&p->m, "nothing was spent %s", than);
    else if (ppm > -500 && ppm < 500)
        markup_put(&p->m, "as much as %s", than);
    else
        markup_put(&p->m, "%s %s than %s", page_percent_text(ppm < 0 ? -ppm : ppm, false, text),
                   ppm < 0 ? "less" : "more", than);
}

void page_section(struct page *p, const char *id, const char *title, const char *about)
{
    markup_section(&p->m, id, title, about);
}

void page_section_end(struct page *p)
{
    markup_section_end(&p->m);
}

void page_empty(struct page *p, const char *text)
{
    markup_empty(&p->m, text);
}

void page_table(struct page *p, const char *caption, const char *columns)
{
    markup_table(&p->m, caption, columns);
}

void page_table_end(struct page *p)
{
    markup_table_end(&p->m);
}

void page_rest(struct page *p, int shown, int n)
{
    markup_rest(&p->m, shown, n);
}

void page_row(struct page *p, const char *name)
{
    markup_row(&p->m, name);
}

void page_cell_money(struct page *p, struct pusd_sum a)
{
    markup_put(&p->m, "<td>");
    page_money(p, a);
    markup_put(&p->m, "</td>");
}

void page_cell_percent(struct page *p, int64_t ppm)
{
    markup_put(&p->m, "<td>");
    page_percent(p, ppm);
    markup_put(&p->m, "</td>");
}

void page_cell_change(struct page *p, struct pusd_sum now, struct pusd_sum before)
{
    char text[PAGE_TEXT];
    bool known;
    const int64_t ppm = write_change(now, before, &known);
    markup_put(&p->m, "<td>%s</td>", known ? page_percent_text(ppm, true, text) : now.v ? "new" : "\u2013");
}

void page_cell_count(struct page *p, int64_t n)
{
    char text[WRITE_TIME];
    markup_put(&p->m, "<td>%s</td>", write_count(n, text));
}

/* ---- the month --------------------------------------------------------------------------------------------------- */

static bool is_whole(const struct report_day *d)
{
    return d->end_s - d->start_s >= 23 * 3600;
}

struct page_month page_month(const struct report *r)
{
    struct page_month m = {.from = r->n_days, .days = (int)((r->month_until_s - r->month_from_s + 43200) / 86400)};
    double *days = spw_calloc((size_t)r->n_days + 1, sizeof(*days));
    int first = 0, end = r->n_days;

    while (m.from > 0 && r->days[m.from - 1].start_s >= r->month_from_s)
        m.from--;
    while (first < end && !is_whole(&r->days[first]))
        first++;
    while (first < end && r->all_days[first].requests == 0) /* before there was anything, there is nothing to learn */
        first++;
    while (end > first && !is_whole(&r->days[end - 1]))
        end--;
    m.whole = end > m.from ? end - m.from : 0;
    for (int i = first; i < end; i++)
        days[i - first] = (double)r->all_days[i].charge / 1e12;
    for (int i = m.from; i < end; i++)
        m.spent += (double)r->all_days[i].charge / 1e12;
    m.spent += page_dollars(r->month_corrected);
    m.exactly = page_spend(&r->month, r->month_corrected);
    const int64_t day0 = m.from < r->n_days ? r->days[m.from].local_s / 86400 : 0;
    m.weekday = (int)((day0 + 3) % 7);
    const int first_weekday = first < end ? (int)((r->days[first].local_s / 86400 + 3) % 7) : 0;
    m.ahead = outlook_month(days, end - first, first_weekday, m.days - m.whole);
    free(days);
    return m;
}

static struct pusd_sum from_dollars(double v)
{
    return (struct pusd_sum){(__int128)(v * 1e6) * 1000000};
}

char *page_about_text(double v, char buf[PAGE_TEXT])
{
    page_money_text(from_dollars(v < 100 ? v : round(v)), buf);
    if (v >= 100)
        buf[strcspn(buf, ".")] = '\0';
    return buf;
}

static void put_about(struct page *p, double v)
{
    char text[PAGE_TEXT];
    markup_put(&p->m, "%s", page_about_text(v, text));
}

const struct report_budget *page_budget_of_all(const struct report *r)
{
    for (int i = 0; i < r->n_budgets; i++)
        if (r->budgets[i].covers_all && r->budgets[i].limit.v != BUDGET_UNLIMITED && r->budgets[i].limit.v > 0)
            return &r->budgets[i];
    return NULL;
}

static void put_month_chart(struct page *p, const struct page_month *x)
{
    enum { MOST = 32 };
    const struct report *r = p->r;
    double spent[MOST], before[MOST], expected[MOST], low[MOST], high[MOST], sum = 0;
    const char *labels[MOST];
    char texts[MOST][8];
    int n = x->days < MOST - 1 ? x->days : MOST - 1, previous = x->from;

    while (previous > 0 && r->days[previous - 1].month_end_s == r->month_from_s)
        previous--;
    double sum_before = 0;
    for (int i = 0; i <= n; i++) {
        spent[i] = before[i] = expected[i] = low[i] = high[i] = NAN;
        snprintf(texts[i], sizeof(texts[i]), "%d", i);
        labels[i] = i ? texts[i] : NULL;
        sum += i > 0 && i <= x->whole ? (double)r->all_days[x->from + i - 1].charge / 1e12 : 0;
        sum += i == x->whole ? page_dollars(r->month_corrected) : 0;
        spent[i] = i <= x->whole ? sum : NAN;
        if (previous + i <= x->from && previous < x->from && r->days[previous].local_s % 86400 == 0) {
            sum_before += i ? (double)r->all_days[previous + i - 1].charge / 1e12 : 0;
            before[i] = sum_before;
        }
        if (i >= x->whole && x->ahead.known) {
            const int k = i - x->whole - 1;
            expected[i] = x->spent + (k < 0 ? 0 : x->ahead.path[k]);
            low[i] = x->spent + (k < 0 ? 0 : x->ahead.path_low[k]);
            high[i] = x->spent + (k < 0 ? 0 : x->ahead.path_high[k]);
        }
    }
    const struct svg_line lines[] = {{{"the month before", 6, before}, SVG_THIN, NULL, NULL, false},
                                     {{"forecast", 3, expected}, SVG_DASHED, low, high, x->whole < x->days},
                                     {{"this month", 0, spent}, SVG_AREA, NULL, NULL, x->whole >= x->days}};
    const struct svg_series key[] = {lines[2].of, lines[1].of, lines[0].of};
    const struct report_budget *b = page_budget_of_all(r);
    const bool monthly = b && b->kind == PERIOD_MONTH;
    const struct svg_level level = {monthly ? (double)b->limit.v / 1e12 : 0, "budget"};
    const struct svg_chart c = {
        .title = "Spend of the month, added up day by day",
        .desc = "The line of this month goes on as a forecast with a band; the thin line is the month "
                "before.",
        .labels = labels,
        .n = n + 1,
        .format = svg_dollars,
        .height = 260};
    svg_key(&p->m, key, 3);
    svg_lines(&p->m, &c, lines, 3, &level, monthly);
}

static void put_month(struct page *p, const struct page_month *x)
{
    page_section(
        p, "month", "The month so far, and where it is heading",
        "Each day to come is expected to cost what its weekday usually does, at the level of the last two weeks. In "
        "four months of five the end lies within the band. Single odd days hardly move it.");
    if (!x->ahead.known)
        page_empty(p, x->whole >= x->days ? "The month is over: nothing is left to forecast."
                                          : "There is no forecast yet: it takes three whole days.");
    if (x->days > 0)
        put_month_chart(p, x);
    page_section_end(p);
}

/* ---- the headline ------------------------------------------------------------------------------------------------ */

void page_period(struct page *p)
{
    const struct report *r = p->r;
    int64_t year, year2;
    int month, day, month2, day2;

    if (r->n_days == 0) {
        markup_put(&p->m, "%s", r->period.name);
        return;
    }
    date_from_days(r->days[r->day_from].local_s / 86400, &year, &month, &day);
    date_from_days(r->days[r->n_days - 1].local_s / 86400, &year2, &month2, &day2);
    if (strlen(r->period.name) == 7)
        markup_put(&p->m, "%s %d", months[month - 1], (int)year);
    else if (r->day_from == r->n_days - 1)
        markup_put(&p->m, "%d %s %d", day, months[month - 1], (int)year);
    else
        markup_put(&p->m, "%d %s to %d %s %d", day, months[month - 1], day2, months[month2 - 1], (int)year2);
}

static void figure(struct page *p, const char *what)
{
    markup_put(&p->m, "<div><dt>%s</dt><dd class=big>", what);
}

static void figure_sub(struct page *p)
{
    markup_put(&p->m, "</dd><dd class=sub>");
}

static void figure_end(struct page *p)
{
    markup_put(&p->m, "</dd></div>\n");
}

static void put_budget_figure(struct page *p)
{
    const struct report_budget *b = page_budget_of_all(p->r);
    int over = 0, limited = 0;

    figure(p, "Against budget");
    if (b) {
        const struct pusd_sum spent = {b->spent.v}, limit = {b->limit.v};
        const int64_t ppm = report_ppm(spent, limit);
        markup_put(&p->m, "<span class=%s>", ppm > 1000000 ? "bad" : "plain");
        page_percent(p, ppm);
        markup_put(&p->m, "</span>");
        figure_sub(p);
        page_money(p, spent);
        markup_put(&p->m, " of ");
        page_money(p, limit);
        markup_put(&p->m, " (");
        markup_name(&p->m, b->name);
        markup_put(&p->m, ")");
    } else {
        for (int i = 0; i < p->r->n_budgets; i++) {
            const struct report_budget *x = &p->r->budgets[i];
            limited += x->limit.v != BUDGET_UNLIMITED;
            over += x->limit.v != BUDGET_UNLIMITED && x->spent.v >= x->limit.v;
        }
        if (limited)
            markup_put(&p->m, "%d of %d", limited - over, limited);
        else
            markup_put(&p->m, "\u2013");
        figure_sub(p);
        markup_put(&p->m, limited ? "budgets are within their limit; none covers everything" : "no budget is set");
    }
    figure_end(p);
}

static void put_forecast_figure(struct page *p, const struct page_month *x)
{
    const bool over = x->whole >= x->days;

    figure(p, over ? "The whole month" : "Forecast for the month");
    if (over)
        page_money(p, x->exactly);
    else if (x->ahead.known)
        put_about(p, x->spent + x->ahead.expected);
    else
        markup_put(&p->m, "\u2013");
    figure_sub(p);
    if (!over && x->ahead.known) {
        markup_put(&p->m, "likely between ");
        put_about(p, x->spent + x->ahead.low);
        markup_put(&p->m, " and ");
        put_about(p, x->spent + x->ahead.high);
    } else
        markup_put(&p->m, over ? "it is over: nothing is left to forecast" : "after three whole days");
    figure_end(p);
}

static void put_figures(struct page *p, const struct page_month *x)
{
    const struct report *r = p->r;
    const struct pusd_sum spend = page_spend(&r->use, r->corrected),
                          before = page_spend(&r->use_before, r->corrected_before);
    char text[PAGE_TEXT];

    markup_put(&p->m, "<dl class=figures>\n");
    figure(p, "Spend");
    page_money(p, spend);
    figure_sub(p);
    page_more_or_less(p, spend, before, "in the period before");
    figure_end(p);
    put_budget_figure(p);
    put_forecast_figure(p, x);
    if (r->team) {
        figure(p, "Requests");
        markup_put(&p->m, "%s", write_count(r->use.requests, text));
        figure_sub(p);
        markup_put(&p->m, "%s tokens", write_count(report_tokens(&r->use), text));
    } else {
        figure(p, "What it cost to run");
        page_money(p, r->cost.bill);
        figure_sub(p);
        markup_put(&p->m, "machines, energy and APIs; spend is ");
        page_percent(p, report_ppm(spend, r->cost.bill));
        markup_put(&p->m, " of it");
    }
    figure_end(p);
    markup_put(&p->m, "</dl>\n");
}

static void put_lead(struct page *p, const struct page_month *x)
{
    const struct report *r = p->r;
    const struct pusd_sum spend = page_spend(&r->use, r->corrected),
                          before = page_spend(&r->use_before, r->corrected_before);
    char text[WRITE_TIME];

    if (r->use.requests == 0 && spend.v == 0) {
        markup_put(&p->m, "<p class=lead>No request was answered and nothing was charged in this time.</p>\n");
        return;
    }
    markup_put(&p->m, "<p class=lead>%s requests were charged <strong>", write_count(r->use.requests, text));
    page_money(p, spend);
    markup_put(&p->m, "</strong>: ");
    page_more_or_less(p, spend, before, "in the period before");
    if (x->whole < x->days && x->ahead.known) {
        markup_put(&p->m, ". The month is heading for <strong>");
        put_about(p, x->spent + x->ahead.expected);
        markup_put(&p->m, "</strong>");
    }
    if (!r->team && r->cost.bill.v > 0) {
        markup_put(&p->m, ". Machines and providers cost ");
        page_money(p, r->cost.bill);
        markup_put(&p->m, ", of which ");
        page_percent(p, report_ppm(r->cost.idle, r->cost.bill));
        markup_put(&p->m, " was idle time");
    }
    markup_put(&p->m, ".</p>\n");
}

static void put_warnings(struct page *p)
{
    const struct report_hours *h = &p->r->hours;

    if (!h->open && !h->wrong)
        return;
    markup_put(&p->m, "<p class=\"note%s\">", h->wrong ? " bad" : "");
    if (h->wrong)
        markup_put(&p->m, "%lld closed hours do not add up. ", (long long)h->wrong);
    if (h->open)
        markup_put(&p->m, "%lld %s not closed yet and missing here. ", (long long)h->open, write_hours_are(h->open));
    markup_put(&p->m, "See <a href=\"#trust\">Can these numbers be trusted?</a></p>\n");
}

/* ---- by day, by team --------------------------------------------------------------------------------------------- */

/* Charges (or costs) of a member by slot, of days or of weeks. */
static void fill(const struct report *r, const struct report_point *days, int per, double *out)
{
    for (int i = r->day_from; i < r->n_days; i++)
        out[(i - r->day_from) / per] += (double)days[i].charge / 1e12;
}

static struct svg_series market_series(const struct report_member *x, const double *values)
{
    static const char *const of[][2] = {
        {"on-prem", "own machines"}, {"spot", "spot"}, {"on-demand", "on demand"}, {"api", "paid API"}};
    for (int i = 0; x->name && i < 4; i++)
        if (strcmp(x->name, of[i][0]) == 0)
            return (struct svg_series){of[i][1], i, values};
    return (struct svg_series){report_member_name(REPORT_MARKET, x), 6, values};
}

static void put_days_chart(struct page *p, int n, int per)
{
    const struct report *r = p->r;
    const struct report_axis *axis = &r->axes[REPORT_MARKET];
    const int markets = axis->n < MARKETS_MAX ? axis->n : MARKETS_MAX;
    double *values = spw_calloc((size_t)(markets * n) + 1, sizeof(*values));
    const char **labels = spw_calloc((size_t)n, sizeof(*labels));
    struct svg_series series[MARKETS_MAX];
    int used = 0;

    for (int i = 0; i < n; i++)
        labels[i] = p->labels[r->day_from + i * per];
    for (int k = 0; k < markets; k++) {
        const struct report_member *x = &axis->of[k];
        if (x->use.charge.v <= 0)
            continue;
        series[used] = market_series(x, &values[k * n]);
        fill(r, x->days, per, &values[k * n]);
        used++;
    }
    const struct svg_chart c = {
        .title = per > 1 ? "Spend by week" : "Spend by day",
        .desc = "One bar for each, made of what was answered by own machines, by spot and on-demand "
                "machines, and by paid APIs.",
        .labels = labels,
        .n = n,
        .format = svg_dollars};
    svg_key(&p->m, series, used);
    svg_stack(&p->m, &c, series, used, -1);
    free(labels);
    free(values);
}

static void put_members_total(struct page *p, struct pusd_sum all)
{
    const struct report *r = p->r;
    const int64_t tokens = report_tokens(&r->use);

    markup_total(&p->m);
    markup_put(&p->m, "<td class=wide></td>");
    page_cell_money(p, all);
    page_cell_percent(p, report_ppm(all, all));
    page_cell_change(p, all, page_spend(&r->use_before, r->corrected_before));
    page_cell_count(p, r->use.requests);
    page_cell_count(p, tokens);
    page_cell_money(p, report_per_million(r->use.charge, tokens));
    markup_total_end(&p->m);
}

static void put_members(struct page *p, enum report_dim d, const char *caption, const char *columns)
{
    const struct report *r = p->r;
    const struct pusd_sum all = page_spend(&r->use, r->corrected);
    const int from = r->n_days > SPARK_DAYS ? r->n_days - SPARK_DAYS : 0;
    char title[PAGE_TEXT];

    page_table(p, caption, columns);
    for (int i = 0; i < r->axes[d].n && i < ROWS_MAX; i++) {
        const struct report_member *x = &r->axes[d].of[i];
        const struct pusd_sum now = page_spend(&x->use, x->corrected);
        double values[SPARK_DAYS];
        page_row(p, report_member_name(d, x));
        markup_put(&p->m, "<td class=wide>");
        for (int k = from; k < r->n_days; k++)
            values[k - from] = (double)x->days[k].charge / 1e12;
        snprintf(title, sizeof(title), "spend of the last %d days, by day", r->n_days - from);
        svg_spark(&p->m, values, r->n_days - from, 0, title);
        markup_put(&p->m, "</td>");
        page_cell_money(p, now);
        page_cell_percent(p, report_ppm(now, all));
        page_cell_change(p, now, page_spend(&x->use_before, x->corrected_before));
        page_cell_count(p, x->use.requests);
        page_cell_count(p, report_tokens(&x->use));
        page_cell_money(p, report_per_million(x->use.charge, report_tokens(&x->use)));
        markup_put(&p->m, "</tr>\n");
    }
    if (r->axes[d].n > 1)
        put_members_total(p, all);
    else
        page_table_end(p);
    page_rest(p, ROWS_MAX, r->axes[d].n);
}

static void put_spend(struct page *p)
{
    const struct report *r = p->r;
    const int days = r->n_days - r->day_from, per = days > DAYS_DRAWN ? 7 : 1;

    page_section(
        p, "spend", "Who spent it, and when",
        "Spend is what requests are charged: their tokens at the price of whatever answered them. Answers from the "
        "cache are free.");
    if (r->use.requests == 0)
        page_empty(p, "There were no requests.");
    else {
        if (days > 1)
            put_days_chart(p, (days + per - 1) / per, per);
        if (!r->team)
            put_members(p, REPORT_TEAM, "By team",
                        "Team|~Last days|Spend|Share|Change|Requests|Tokens|Per million tokens");
        put_members(p, REPORT_MODEL, "By model",
                    "Model|~Last days|Spend|Share|Change|Requests|Tokens|Per million tokens");
    }
    page_section_end(p);
}

/* ---- the frame --------------------------------------------------------------------------------------------------- */

static void put_style(struct page *p)
{
    struct strbuf css;
    uint8_t hash[SHA256_BYTES];

    strbuf_init(&css, PAGE_MAX);
    if (strbuf_append(&css, chart_css_text, chart_css_length) != RC_OK ||
        strbuf_append(&css, report_css_text, report_css_length) != RC_OK)
        p->m.rc = RC_FULL;
    sha256(css.data, css.len, hash);
    char *name = text_base64(hash, sizeof(hash));
    markup_put(&p->m,
               "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'sha256-%s'; base-uri "
               "'none'; form-action 'none'\">\n<style>%s</style>\n",
               name, css.data);
    free(name);
    strbuf_fini(&css);
}

static void put_head(struct page *p)
{
    markup_put(&p->m,
               "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n<meta name=viewport "
               "content=\"width=device-width,initial-scale=1\">\n<meta name=color-scheme content=\"light dark\">\n"
               "<meta name=referrer content=no-referrer>\n<title>Cost report, ");
    page_period(p);
    markup_put(&p->m, "</title>\n");
    put_style(p);
    markup_put(&p->m, "</head>\n<body>\n<header>\n<p class=kicker>");
    markup_name(&p->m, p->r->site ? p->r->site : "Spillway");
    if (p->r->team) {
        markup_put(&p->m, " \u00b7 team ");
        markup_name(&p->m, p->r->team);
    }
    markup_put(&p->m, " \u00b7 cost report</p>\n<h1>");
    page_period(p);
    markup_put(&p->m, "</h1>\n");
}

static void put_nav(struct page *p)
{
    static const char *const of[][2] = {{"spend", "Spend"},     {"month", "Forecast"},    {"why", "What changed"},
                                        {"budgets", "Budgets"}, {"units", "Unit prices"}, {"savings", "Savings"},
                                        {"fleet", "Machines"},  {"unusual", "Unusual"},   {"trust", "Trust"},
                                        {"words", "Words used"}};
    markup_put(&p->m, "<nav aria-label=\"Sections\"><ul>");
    for (size_t i = 0; i < sizeof(of) / sizeof(of[0]); i++)
        if (!p->r->team || strcmp(of[i][0], "fleet") != 0)
            markup_put(&p->m, "<li><a href=\"#%s\">%s</a>", of[i][0], of[i][1]);
    markup_put(&p->m, "</ul></nav>\n</header>\n<main>\n");
}

static void put_page(struct page *p)
{
    const struct page_month month = page_month(p->r);
    char text[WRITE_TIME];

    put_head(p);
    put_lead(p, &month);
    put_warnings(p);
    put_figures(p, &month);
    put_nav(p);
    put_spend(p);
    put_month(p, &month);
    page_why(p);
    page_budgets(p);
    page_units(p);
    page_savings(p);
    if (!p->r->team)
        page_fleet(p);
    page_unusual(p);
    page_trust(p);
    page_words(p);
    markup_put(&p->m, "</main>\n<footer>Made %s from closed hours of the ledger. Days are those of ",
               write_utc(p->r->made.ns / NS_PER_S, text));
    markup_text(&p->m, p->r->zone_name ? p->r->zone_name : "UTC");
    markup_put(&p->m,
               "; amounts are US dollars, exact to 10<sup>\u221212</sup> inside and rounded here.</footer>\n</body>\n"
               "</html>\n");
}

static char (*make_labels(const struct report *r))[PAGE_LABEL]
{
    char(*labels)[PAGE_LABEL] = spw_calloc((size_t)r->n_days + 1, sizeof(*labels));

    for (int i = 0; i < r->n_days; i++) {
        int64_t year;
        int month, day;
        date_from_days(r->days[i].local_s / 86400, &year, &month, &day);
        snprintf(labels[i], PAGE_LABEL, "%d %.3s", day, months[month - 1]);
    }
    return labels;
}

enum rc page_out(const struct page *p, FILE *out, struct error *e)
{
    const struct strbuf *text = p->m.out;

    if (p->m.rc != RC_OK)
        return error_set(e, p->m.rc, "the report has more than %zu bytes as HTML", text->max);
    if (fwrite(text->data, 1, text->len, out) != text->len)
        return error_set(e, RC_IO, "the report cannot be written");
    return RC_OK;
}

enum rc report_write_html(const struct report *r, FILE *out, struct error *e)
{
    struct strbuf text;

    strbuf_init(&text, PAGE_MAX);
    struct page p = {.m = {.out = &text, .rc = RC_OK}, .r = r, .labels = make_labels(r)};
    put_page(&p);
    free(p.labels);
    const enum rc rc = page_out(&p, out, e);
    strbuf_fini(&text);
    return rc;
}
