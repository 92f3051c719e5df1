/* Budgets, prices of tokens and requests, savings. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/report/html_internal.h"

#define BURNS_SHOWN   6
#define BUDGETS_SHOWN 40
#define UNITS_SHOWN   25
#define PRICES_SHOWN  20
#define BURN_DAYS     400

/* ---- budgets ----------------------------------------------------------------------------------------------------- */

static bool is_limited(const struct report_budget *b)
{
    return b->limit.v != BUDGET_UNLIMITED && b->limit.v > 0;
}

/* What is left by the end of each day, beside an even pace. */
static void put_burn(struct page *p, const struct report_budget *b)
{
    const int n = b->days_in_all < BURN_DAYS ? b->days_in_all : BURN_DAYS;
    double *left = spw_calloc(2 * ((size_t)n + 1), sizeof(*left)), *even = left + n + 1;
    const char **labels = spw_calloc((size_t)n + 1, sizeof(*labels));
    char(*texts)[PAGE_LABEL] = spw_calloc((size_t)n + 1, sizeof(*texts));
    char title[160];

    for (int i = 0; i <= n; i++) {
        const double spent = i == 0 ? 0 : i <= b->n_days ? page_dollars(b->days[i - 1]) : NAN;
        left[i] = (double)b->limit.v / 1e12 - spent;
        even[i] = (double)b->limit.v / 1e12 * (n - i) / (n ? n : 1);
        snprintf(texts[i], sizeof(texts[i]), i == 0 ? "start" : i == n ? "end" : "day %d", i);
        labels[i] = i == 0 || i == n || (n > 8 && i == n / 2) ? texts[i] : NULL;
    }
    snprintf(title, sizeof(title), "Budget %.100s: what is left of it, day by day", b->name);
    const struct svg_line lines[] = {
        {{"even pace", 6, even}, SVG_DASHED, NULL, NULL, false},
        {{"left", left[b->n_days < n ? b->n_days : n] < 0 ? 2 : 0, left}, SVG_AREA, NULL, NULL, true}};
    const struct svg_chart c = {.title = title, .labels = labels, .n = n + 1, .format = svg_dollars, .height = 170};
    svg_lines(&p->m, &c, lines, 2, NULL, 0);
    free(texts);
    free(labels);
    free(left);
}

static void put_burns(struct page *p)
{
    static const struct svg_series key[] = {{"left of the budget", 0, NULL}, {"an even pace", 6, NULL}};
    int shown = 0;

    for (int i = 0; i < p->r->n_budgets && shown < BURNS_SHOWN; i++) {
        const struct report_budget *b = &p->r->budgets[i];
        if (!is_limited(b) || !b->days || b->n_days < 1 || b->days_in_all < 2)
            continue;
        if (shown++ == 0) {
            svg_key(&p->m, key, 2);
            markup_put(&p->m, "<div class=grid>\n");
        }
        markup_put(&p->m, "<div><h3>");
        markup_name(&p->m, b->name);
        markup_put(&p->m, "</h3>\n<p class=soft>");
        page_percent(p, report_ppm(b->rolled, (struct pusd_sum){b->limit.v}));
        markup_put(&p->m, " used after %d of %d days</p>\n", b->n_days, b->days_in_all);
        put_burn(p, b);
        markup_put(&p->m, "</div>\n");
    }
    if (shown)
        markup_put(&p->m, "</div>\n");
}

static void put_budget(struct page *p, const struct report_budget *b)
{
    const struct pusd_sum spent = {b->spent.v}, limit = {b->limit.v}, left = {(__int128)b->limit.v - b->spent.v};
    const bool soft = b->soft.v != BUDGET_UNLIMITED && b->spent.v >= b->soft.v;

    page_row(p, b->name);
    markup_put(&p->m, "<td>%s</td>", period_kind_name(b->kind));
    page_cell_money(p, spent);
    if (!is_limited(b)) {
        markup_put(&p->m, "<td>none</td><td>\u2013</td><td>\u2013</td><td class=text>not limited</td></tr>\n");
        return;
    }
    page_cell_money(p, limit);
    page_cell_percent(p, report_ppm(spent, limit));
    page_cell_money(p, left);
    markup_put(&p->m, "<td class=text>%s</td></tr>\n",
               left.v <= 0 ? "<strong class=bad>used up</strong>"
               : soft      ? "past its soft limit"
                           : "<span class=good>within its limits</span>");
}

void page_budgets(struct page *p)
{
    const struct report *r = p->r;

    page_section(
        p, "budgets", "Budgets",
        "A budget caps what some or all requests may be charged within its period; when it is used up, they are "
        "refused, kept on own machines or made to wait, as it says. A line below the dashed one is spending faster "
        "than evenly.");
    if (r->n_budgets == 0)
        page_empty(p, "No budget is set. Budgets are written in the configuration under <code>budgets</code>.");
    else {
        put_burns(p);
        page_table(p, "Budgets, in the period that holds the end of this report",
                   "Budget|Per|Spent|Limit|Used|Left|<State");
        for (int i = 0; i < r->n_budgets && i < BUDGETS_SHOWN; i++)
            put_budget(p, &r->budgets[i]);
        page_table_end(p);
        page_rest(p, BUDGETS_SHOWN, r->n_budgets);
    }
    page_section_end(p);
}

/* ---- what a token costs ------------------------------------------------------------------------------------------ */

static void put_unit(struct page *p, const struct report_unit *u)
{
    const int64_t tokens = report_tokens(&u->use);

    page_row(p, u->model ? u->model : "(no model)");
    markup_put(&p->m, "<td class=text>");
    if (u->pool)
        markup_name(&p->m, u->pool);
    else
        markup_put(&p->m, "<span class=soft>all together</span>");
    markup_put(&p->m, "</td>");
    page_cell_count(p, u->use.requests);
    page_cell_count(p, tokens);
    page_cell_money(p, report_per_million(u->use.charge, tokens));
    if (u->requests) {
        page_cell_money(p, (struct pusd_sum){u->p50.v});
        page_cell_money(p, (struct pusd_sum){u->p99.v});
    } else
        markup_put(&p->m, "<td>\u2013</td><td>\u2013</td>");
    markup_put(&p->m, "</tr>\n");
}

void page_units(struct page *p)
{
    const struct report *r = p->r;

    page_section(
        p, "units", "What a million tokens cost, and a request",
        "By model and by the pool of machines (or the API) that answered. Half of the requests cost no more than the "
        "middle one; one in a hundred costs more than the last column says (both to within 12.5%).");
    if (r->n_units == 0)
        page_empty(p, "There were no requests.");
    else {
        page_table(p, "Prices of tokens and requests",
                   "Model|<Answered by|Requests|Tokens|Per million tokens|Middle request (p50)|Dear request (p99)");
        for (int i = 0; i < r->n_units && i < UNITS_SHOWN; i++)
            put_unit(p, &r->units[i]);
        page_table_end(p);
        page_rest(p, UNITS_SHOWN, r->n_units);
    }
    page_section_end(p);
}

/* ---- savings ----------------------------------------------------------------------------------------------------- */

const char *const page_saving_names[REPORT_SAVINGS] = {"All by paid APIs", "All on demand", "Spot, not on demand",
                                                       "Answers from the cache"};

static void put_saving(struct page *p, enum report_saving_kind k, const char *name)
{
    const struct report_saving *s = &p->r->savings[k];

    page_row(p, name);
    if (s->known_ppm == 0 && s->would.v == 0 && s->saved.v == 0)
        markup_put(&p->m, "<td>\u2013</td><td>\u2013</td><td>not known</td>");
    else {
        page_cell_money(p, s->would);
        page_cell_money(p, s->is);
        markup_put(&p->m, "<td class=%s>", s->saved.v < 0 ? "bad" : "good");
        page_money(p, s->saved);
        markup_put(&p->m, "</td>");
    }
    page_cell_percent(p, s->known_ppm);
    markup_put(&p->m, "<td class=\"text long\">");
    markup_text(&p->m, s->assumption ? s->assumption : "");
    if (k == REPORT_ALL_ON_DEMAND && s->would_least.v != s->would.v) {
        markup_put(&p->m, "; without any idle time it would be ");
        page_money(p, s->would_least);
        markup_put(&p->m, ".");
    }
    markup_put(&p->m, "</td></tr>\n");
}

static void put_price(struct page *p, const struct report_price_used *u)
{
    char in[48], cached[48], output[48];

    page_row(p, u->subject);
    markup_put(&p->m, "<td class=text>");
    if (u->by_hour) {
        page_money(p, (struct pusd_sum){u->hour.v});
        markup_put(&p->m, " per machine and hour");
    } else
        markup_put(&p->m, "$%s in, $%s cached, $%s out, per million tokens",
                   price_format(u->prices.input, in, sizeof(in)),
                   price_format(u->prices.cached_input, cached, sizeof(cached)),
                   price_format(u->prices.output, output, sizeof(output)));
    markup_put(&p->m, "</td><td class=text>");
    markup_text(&p->m, u->source);
    markup_put(&p->m, "</td></tr>\n");
}

void page_savings(struct page *p)
{
    const struct report *r = p->r;

    page_section(
        p, "savings", "What was saved",
        "What the same work would have cost elsewhere, less what it did cost. These are estimates: each says what it "
        "takes for granted, and for how much of the work a price is known (the rest counts as it was).");
    page_table(p, "Savings and their assumptions",
               "Compared with|It would cost|It cost|Saved|Price known|<Taken for granted");
    for (int k = 0; k < REPORT_SAVINGS; k++)
        put_saving(p, (enum report_saving_kind)k, page_saving_names[k]);
    page_table_end(p);
    if (r->n_prices_used) {
        page_table(p, "Prices that the savings are reckoned with", "Of|<Price|<Source");
        for (int i = 0; i < r->n_prices_used && i < PRICES_SHOWN; i++)
            put_price(p, &r->prices_used[i]);
        page_table_end(p);
    } else
        page_empty(p,
                   "No price elsewhere is known. Give some with <code>spillway finance set reference</code>, or have a "
                   "paid API or an on-demand pool in the configuration.");
    page_section_end(p);
}
