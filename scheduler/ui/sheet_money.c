/* Money: the month so far, budgets and how fast they burn. */
#include "scheduler/ui/sheet_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/report/svg.h"
#include "scheduler/report/write.h"

#define CHARTS_MAX 12
#define LABEL      8

/* NULL: there is none, or nothing in it yet; then nothing is less than last month's, either. */
static const struct report *report_of(const struct sheet *s)
{
    const struct report *r = s->f->month ? s->f->month->report : NULL;
    return r && r->hours.closed ? r : NULL;
}

static void put_no_month(struct sheet *s)
{
    const char *why = s->f->month && s->f->month->why[0] ? s->f->month->why : "no hour of this month is closed yet";

    markup_put(&s->m, "<p class=empty>There are no figures of the month: ");
    markup_text(&s->m, why);
    markup_put(&s->m, ".</p>\n");
}

/* ---- the headline --------------------------------------------------------------------------------------------------- */

static void put_change(struct sheet *s, struct pusd_sum now, struct pusd_sum before)
{
    char text[SHEET_TEXT];
    bool known;
    const int64_t ppm = write_change(now, before, &known);

    if (!known)
        markup_put(&s->m, "nothing by this day of last month");
    else
        markup_put(&s->m, "%s %s than by this day of last month", sheet_percent(fabs((double)ppm) / 1e6, text),
                   ppm < 0 ? "less" : "more");
}

static void put_month_figures(struct sheet *s)
{
    const struct report *r = report_of(s);
    char text[SHEET_TEXT];
    const struct pusd_sum charged = {r ? r->use.charge.v + r->corrected.v : 0},
                          before = {r ? r->use_before.charge.v + r->corrected_before.v : 0};

    sheet_figure(s, "Charged this month");
    markup_put(&s->m, "%s", r ? sheet_money(charged, text) : "\u2013");
    sheet_figure_sub(s);
    if (r)
        put_change(s, charged, before);
    else
        markup_put(&s->m, "no hour is closed yet");
    sheet_figure_end(s);
    sheet_figure(s, "Costs this month");
    markup_put(&s->m, "%s", r ? sheet_money(r->cost.bill, text) : "\u2013");
    sheet_figure_sub(s);
    if (r)
        put_change(s, r->cost.bill, r->cost_before.bill);
    else
        markup_put(&s->m, "no hour is closed yet");
    sheet_figure_end(s);
}

static void put_slo_figure(struct sheet *s)
{
    const struct facts *f = s->f;
    int64_t in_time = 0, late = 0;
    char text[SHEET_TEXT];

    for (int i = 0; i < f->n_routes; i++) {
        in_time += f->routes[i].demand.in_time;
        late += f->routes[i].demand.late;
    }
    sheet_figure(s, "Begun in time");
    markup_put(&s->m, "%s",
               in_time + late ? sheet_percent((double)in_time / (double)(in_time + late), text) : "\u2013");
    sheet_figure_sub(s);
    if (in_time + late)
        markup_put(&s->m, "of %s answers that were promised it, since the start", sheet_count(in_time + late, text));
    else
        markup_put(&s->m, "no answer was promised it so far");
    sheet_figure_end(s);
}

void sheet_put_figures(struct sheet *s)
{
    const struct facts *f = s->f;
    const struct facts_rate *r = &f->rate;
    const struct pusd_sum rate = {r->rents.v + r->energy.v + r->standing.v + r->by_token.v};
    char text[SHEET_TEXT], more[SHEET_TEXT];

    markup_put(&s->m, "<dl class=\"figures six\">\n");
    sheet_figure(s, "Costs now");
    markup_put(&s->m, "%s", sheet_money(rate, text));
    sheet_figure_sub(s);
    markup_put(&s->m, "an hour, of which %s are rents", sheet_money(r->rents, text));
    sheet_figure_end(s);
    put_month_figures(s);
    sheet_figure(s, "Machines ready");
    markup_put(&s->m, "%d of %d", f->n_by_mood[FACTS_WELL], f->n_nodes_in_all);
    sheet_figure_sub(s);
    if (r->milliwatts)
        markup_put(&s->m, "%d asleep, %s drawn on the premises", f->n_by_mood[FACTS_RESTING],
                   sheet_watts(r->milliwatts, text));
    else
        markup_put(&s->m, "%d asleep, %d in trouble", f->n_by_mood[FACTS_RESTING], f->n_by_mood[FACTS_ILL]);
    sheet_figure_end(s);
    sheet_figure(s, "Requests now");
    markup_put(&s->m, "%d", f->totals.running);
    sheet_figure_sub(s);
    markup_put(&s->m, "%d wait; %s answered since the start", f->totals.waiting,
               sheet_count((int64_t)f->totals.ok, more));
    sheet_figure_end(s);
    put_slo_figure(s);
    markup_put(&s->m, "</dl>\n");
}

/* ---- the days -------------------------------------------------------------------------------------------------------- */

/* Days of the month as slots of a chart; those that have not come are empty. */
struct days {
    int n, from;
    char text[31][LABEL];
    const char *labels[31];
};

static void label_days(struct days *d, int n, int from)
{
    d->n = n < 31 ? n : 31;
    d->from = from;
    for (int i = 0; i < d->n; i++) {
        snprintf(d->text[i], LABEL, "%d", i + 1);
        d->labels[i] = d->text[i];
    }
}

void sheet_put_spend(struct sheet *s)
{
    const struct report *r = report_of(s);
    double charged[31], cost[31];
    struct days d;

    if (!r || r->n_days == 0) {
        put_no_month(s);
        return;
    }
    label_days(&d, (int)((r->month_until_s - r->month_from_s + 43200) / 86400), r->day_from);
    for (int i = 0; i < d.n; i++) {
        const bool there = d.from + i < r->n_days;
        charged[i] = there ? (double)r->all_days[d.from + i].charge / 1e12 : NAN;
        cost[i] = there ? (double)r->all_days[d.from + i].cost / 1e12 : NAN;
    }
    const struct svg_line lines[] = {{{"costs of machines and services", 1, cost}, SVG_DASHED, NULL, NULL, false},
                                     {{"charged to teams", 0, charged}, SVG_AREA, NULL, NULL, false}};
    const struct svg_series key[] = {lines[1].of, lines[0].of};
    const struct svg_chart c = {.title = "Dollars a day, this month",
                                .desc =
                                    "What was charged to teams, and what machines and services cost, day by day; the "
                                    "last day may not be over.",
                                .labels = d.labels,
                                .n = d.n,
                                .format = svg_dollars,
                                .height = 220};
    svg_key(&s->m, key, 2);
    svg_lines(&s->m, &c, lines, 2, NULL, 0);
}

/* ---- budgets ----------------------------------------------------------------------------------------------------------- */

static double share_of(const struct facts_budget *b, struct pusd a)
{
    return b->limit.v == BUDGET_UNLIMITED || b->limit.v <= 0 ? 0 : (double)a.v / (double)b->limit.v;
}

static enum facts_mood mood_of(const struct facts_budget *b)
{
    return b->level == BUDGET_HARD                          ? FACTS_ILL
           : b->level == BUDGET_SOFT || b->exhausted_s >= 0 ? FACTS_BETWEEN
                                                            : FACTS_WELL;
}

static const char *const levels[] = {"within", "past soft limit", "used up"};

static void put_budget(struct sheet *s, const struct facts_budget *b)
{
    const bool limited = b->limit.v != BUDGET_UNLIMITED;
    char spent[SHEET_TEXT], limit[SHEET_TEXT], text[SHEET_TEXT], title[3 * SHEET_TEXT];

    sheet_dollars(b->spent, spent);
    if (limited)
        snprintf(title, sizeof title, "%s of %s spent", spent, sheet_dollars(b->limit, limit));
    else
        snprintf(title, sizeof title, "%s spent", spent);
    markup_put(&s->m, "<tr><th scope=row>");
    markup_name(&s->m, b->name);
    markup_put(&s->m, "<small class=narrow><br>%s%s%s</small></th><td class=text>", spent, limited ? " of " : "",
               limited ? limit : "");
    if (limited)
        sheet_put_bar(s, share_of(b, b->spent), b->soft.v == BUDGET_UNLIMITED ? -1 : share_of(b, b->soft), mood_of(b),
                      title);
    markup_put(&s->m, "</td><td class=wide>%s</td><td class=wide>%s</td><td class=wide>%s</td><td class=text>", spent,
               limited ? limit : "none", limited ? sheet_percent(share_of(b, b->spent), title) : "\u2013");
    sheet_put_state(s, mood_of(b), b->level == BUDGET_OK && b->exhausted_s >= 0 ? "burns too fast" : levels[b->level]);
    if (b->exhausted_s >= 0 && b->level != BUDGET_HARD)
        markup_put(&s->m, "<br><small class=wide>used up on %s if it goes on so</small>",
                   sheet_time(b->exhausted_s, text));
    else
        markup_put(&s->m, "<br><small class=wide>ends %s</small>", sheet_time(b->end_s, text));
    markup_put(&s->m, "</td></tr>\n");
}

void sheet_put_budget_bars(struct sheet *s, int most)
{
    const struct facts *f = s->f;
    const int n = f->n_budgets < most ? f->n_budgets : most;

    if (f->budgets_why) {
        markup_put(&s->m, "<p class=\"note bad\">Budgets cannot be read: ");
        markup_text(&s->m, f->budgets_why);
        markup_put(&s->m, "</p>\n");
        return;
    }
    if (n == 0) {
        markup_empty(&s->m, "No budget is configured: nobody's spending is limited.");
        return;
    }
    markup_table(&s->m, "Budgets of the running periods", "Budget|<Used|~Spent|~Limit|~Share|<State");
    for (int i = 0; i < n; i++)
        put_budget(s, &f->budgets[i]);
    markup_table_end(&s->m);
    markup_rest(&s->m, n, f->n_budgets);
}

/* Of a budget whose period has days to draw. */
static const struct report_budget *burn_of(const struct report *r, const char *name)
{
    for (int i = 0; r && i < r->n_budgets; i++)
        if (strcmp(r->budgets[i].name, name) == 0 && r->budgets[i].days && r->budgets[i].n_days > 0 &&
            r->budgets[i].days_in_all > 1)
            return &r->budgets[i];
    return NULL;
}

/* What was spent by the end of each day, against the limit; and what would use it up evenly. */
static void put_burn(struct sheet *s, const struct facts_budget *b, const struct report_budget *r)
{
    double spent[32], even[32];
    const int n = r->days_in_all < 31 ? r->days_in_all : 31;
    const bool limited = b->limit.v != BUDGET_UNLIMITED;
    const double limit = limited ? (double)b->limit.v / 1e12 : 0;
    char title[256];
    struct days d;

    label_days(&d, n, 0);
    for (int i = 0; i < n; i++) {
        spent[i] = i < r->n_days ? sheet_value(r->days[i]) : NAN;
        even[i] = limit * (i + 1) / n;
    }
    snprintf(title, sizeof title, "Budget %s, spent by the end of each day", b->name);
    const struct svg_line lines[] = {{{"even use", 6, even}, SVG_THIN, NULL, NULL, false},
                                     {{"spent", 0, spent}, SVG_AREA, NULL, NULL, true}};
    const struct svg_level level = {limit, "limit"};
    const struct svg_chart c = {.title = title, .labels = d.labels, .n = n, .format = svg_dollars, .height = 150};
    markup_put(&s->m, "<div><h3>");
    markup_name(&s->m, b->name);
    markup_put(&s->m, "</h3>");
    svg_lines(&s->m, &c, limited ? lines : lines + 1, limited ? 2 : 1, &level, limited);
    markup_put(&s->m, "</div>\n");
}

static void put_burns(struct sheet *s)
{
    const struct facts *f = s->f;
    int shown = 0;

    markup_section(&s->m, "burn", "How they burn",
                   "Spent by the end of each day, from closed hours; the thin line would use the budget up evenly.");
    markup_put(&s->m, "<div class=burns>\n");
    for (int i = 0; i < f->n_budgets && shown < CHARTS_MAX; i++) {
        const struct report_budget *r = burn_of(report_of(s), f->budgets[i].name);
        if (r)
            put_burn(s, &f->budgets[i], r);
        shown += r != NULL;
    }
    markup_put(&s->m, "</div>\n");
    if (!shown)
        markup_empty(&s->m, "Nothing is drawn yet: it takes a closed hour in which a budget was spent from.");
    markup_section_end(&s->m);
}

void sheet_draw_money(struct sheet *s)
{
    sheet_put_figures(s);
    markup_section(&s->m, "spend", "The month, day by day",
                   "Charged is what teams are charged for their tokens; costs are what "
                   "machines and paid services cost, whether they were used or not.");
    sheet_put_spend(s);
    markup_section_end(&s->m);
    markup_section(&s->m, "budgets", "Budgets",
                   "A budget that is used up refuses, queues or redirects requests, as it was "
                   "configured. The mark in a bar is the soft limit.");
    sheet_put_budget_bars(s, FACTS_BUDGETS_MAX);
    markup_section_end(&s->m);
    put_burns(s);
}
