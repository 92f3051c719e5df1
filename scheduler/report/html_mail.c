/* The report as a mail's body: what the page says first, as tables; the same rows as HTML or as text of fixed width. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/report/html_internal.h"

#define MAIL_MAX    ((size_t)4 << 20)
#define ROWS_MAX    8
#define CELLS       4
#define TEXT_NAME   27 /* columns: 72 in all */
#define TEXT_FIGURE 14

struct mail {
    struct page p;
    bool html;
};

#define FONT "font-family:-apple-system,Segoe UI,Roboto,Helvetica,Arial,sans-serif;"
#define CELL                                                                                                           \
    "padding:7px 0 7px 16px;border-bottom:1px solid #e2dfd7;text-align:right;white-space:nowrap;vertical-align:top;"
#define FIRST "padding:7px 0;border-bottom:1px solid #e2dfd7;text-align:left;vertical-align:top;"
#define HEAD  "color:#5a636b;font-size:13px;font-weight:normal;"

static void put_heading(struct mail *x, const char *title, const char *const cells[CELLS])
{
    struct markup *m = &x->p.m;

    if (x->html)
        markup_put(m,
                   "</table>\n<h2 style=\"font-size:17px;margin:26px 0 4px\">%s</h2>\n<table role=presentation "
                   "width=\"100%%\" "
                   "style=\"border-collapse:collapse;font-size:14px\">\n<tr>",
                   title);
    else
        markup_put(m, "\n%s\n", title);
    for (int i = 0; i < CELLS && cells[i]; i++) {
        if (x->html)
            markup_put(m, "<th style=\"%s%s\">%s</th>", i ? CELL : FIRST, HEAD, cells[i]);
        else
            markup_plain(m, cells[i], i ? -(TEXT_FIGURE + 1) : TEXT_NAME);
    }
    markup_put(m, x->html ? "</tr>\n" : "\n");
}

static void put_row(struct mail *x, const char *const cells[CELLS])
{
    struct markup *m = &x->p.m;

    if (x->html)
        markup_put(m, "<tr>");
    for (int i = 0; i < CELLS && cells[i]; i++) {
        if (x->html) {
            markup_put(m, "<td style=\"%s\">", i ? CELL : FIRST);
            (i ? markup_text : markup_name)(m, cells[i]);
            markup_put(m, "</td>");
        } else
            markup_plain(m, cells[i], i ? -(TEXT_FIGURE + 1) : TEXT_NAME);
    }
    markup_put(m, x->html ? "</tr>\n" : "\n");
}

static char *change_text(struct pusd_sum now, struct pusd_sum before, char buf[PAGE_TEXT])
{
    bool known;
    const int64_t ppm = write_change(now, before, &known);
    if (known)
        return page_percent_text(ppm, true, buf);
    snprintf(buf, PAGE_TEXT, "%s", now.v ? "new" : "-");
    return buf;
}

static void put_axis(struct mail *x, enum report_dim d, const char *title, const char *what)
{
    const struct report *r = x->p.r;
    const struct pusd_sum all = page_spend(&r->use, r->corrected);
    char money[PAGE_TEXT], share[PAGE_TEXT], change[PAGE_TEXT];

    put_heading(x, title, (const char *const[CELLS]){what, "Spend", "Share", "Change"});
    for (int i = 0; i < r->axes[d].n && i < ROWS_MAX; i++) {
        const struct report_member *m = &r->axes[d].of[i];
        const struct pusd_sum now = page_spend(&m->use, m->corrected);
        put_row(x,
                (const char *const[CELLS]){report_member_name(d, m), page_money_text(now, money),
                                           page_percent_text(report_ppm(now, all), false, share),
                                           change_text(now, page_spend(&m->use_before, m->corrected_before), change)});
    }
}

static void put_mail_budgets(struct mail *x)
{
    const struct report *r = x->p.r;
    char spent[PAGE_TEXT], limit[PAGE_TEXT], used[PAGE_TEXT];
    int shown = 0;

    for (int i = 0; i < r->n_budgets && shown < ROWS_MAX; i++) {
        const struct report_budget *b = &r->budgets[i];
        if (b->limit.v == BUDGET_UNLIMITED)
            continue;
        if (shown++ == 0)
            put_heading(x, "Budgets", (const char *const[CELLS]){"Budget", "Spent", "Limit", "Used"});
        const struct pusd_sum a = {b->spent.v}, l = {b->limit.v};
        put_row(x, (const char *const[CELLS]){b->name, page_money_text(a, spent), page_money_text(l, limit),
                                              page_percent_text(report_ppm(a, l), false, used)});
    }
}

static void put_mail_savings(struct mail *x)
{
    const struct report *r = x->p.r;
    char would[PAGE_TEXT], is[PAGE_TEXT], saved[PAGE_TEXT];

    put_heading(x, "Savings (estimates; assumptions are in the report)",
                (const char *const[CELLS]){"Compared with", "It would cost", "It cost", "Saved"});
    for (int k = 0; k < REPORT_SAVINGS; k++) {
        const struct report_saving *s = &r->savings[k];
        if (s->known_ppm > 0 || s->saved.v != 0)
            put_row(x, (const char *const[CELLS]){page_saving_names[k], page_money_text(s->would, would),
                                                  page_money_text(s->is, is), page_money_text(s->saved, saved)});
    }
}

static void put_mail_figures(struct mail *x)
{
    const struct report *r = x->p.r;
    const struct page_month month = page_month(r);
    const struct report_budget *b = page_budget_of_all(r);
    char a[PAGE_TEXT], c[PAGE_TEXT], d[PAGE_TEXT];
    const struct pusd_sum spend = page_spend(&r->use, r->corrected),
                          before = page_spend(&r->use_before, r->corrected_before);

    put_heading(x, "At a glance", (const char *const[CELLS]){"", "Now", "Compared", "With"});
    put_row(x, (const char *const[CELLS]){"Spend", page_money_text(spend, a), page_money_text(before, c), "before"});
    if (b) {
        const struct pusd_sum spent = {b->spent.v}, limit = {b->limit.v};
        put_row(x, (const char *const[CELLS]){"Budget of all", page_money_text(spent, a), page_money_text(limit, c),
                                              "limit"});
    }
    if (month.whole < month.days && month.ahead.known) {
        page_about_text(month.spent + month.ahead.expected, a);
        page_about_text(month.spent + month.ahead.low, c);
        page_about_text(month.spent + month.ahead.high, d);
        put_row(x, (const char *const[CELLS]){"Month end, lowest, highest", a, c, d});
    }
    if (r->team)
        return;
    put_row(x, (const char *const[CELLS]){"Cost of machines and APIs", page_money_text(r->cost.bill, a),
                                          page_money_text(r->cost_before.bill, c), "before"});
    put_row(x, (const char *const[CELLS]){"of it idle", page_money_text(r->cost.idle, a),
                                          page_percent_text(report_ppm(r->cost.idle, r->cost.bill), false, c),
                                          "of the bill"});
}

static void put_notes(struct mail *x)
{
    const struct report *r = x->p.r;
    struct markup *m = &x->p.m;
    const char *open = x->html ? "<p style=\"margin:10px 0\">" : "\n", *close = x->html ? "</p>\n" : "\n";

    if (r->use.requests == 0)
        markup_put(m, "%sNo request was answered in this time.%s", open, close);
    if (r->hours.wrong)
        markup_put(m, "%sAttention: %lld closed hours do not add up.%s", open, (long long)r->hours.wrong, close);
    if (r->hours.open)
        markup_put(m, "%s%lld %s not closed yet and missing.%s", open, (long long)r->hours.open,
                   write_hours_are(r->hours.open), close);
    if (r->has_head) {
        char text[2 * sizeof(r->head.hash) + 1];
        page_hash_text(r, text);
        markup_put(m, "%sAudit: %lld records verified; newest head%s%s%s", open, (long long)r->head.seq,
                   x->html ? "<br>" : "\n", text, close);
    }
}

static void put_mail(struct mail *x)
{
    struct markup *m = &x->p.m;

    if (x->html)
        markup_put(m, "<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>Cost report</title></head>\n"
                      "<body style=\"margin:0;padding:24px 12px;background:#f6f5f1;color:#1d2327;" FONT "\">\n<div "
                      "style=\"max-width:640px;margin:0 auto;padding:22px 26px;background:#ffffff;border:1px solid "
                      "#e2dfd7\">\n<p style=\"margin:0;color:#5a636b;font-size:14px\">");
    (x->html ? markup_text : markup_line)(m, x->p.r->site ? x->p.r->site : "Spillway");
    if (x->p.r->team) {
        markup_put(m, ", team ");
        (x->html ? markup_text : markup_line)(m, x->p.r->team);
    }
    markup_put(m, x->html ? ", cost report</p>\n<h1 style=\"font-size:26px;margin:2px 0 0\">" : ", cost report: ");
    page_period(&x->p);
    markup_put(m, x->html ? "</h1>\n<table>" : "\n");
    put_mail_figures(x);
    if (x->p.r->use.requests) {
        if (!x->p.r->team)
            put_axis(x, REPORT_TEAM, "By team", "Team");
        put_axis(x, REPORT_MODEL, "By model", "Model");
    }
    put_mail_budgets(x);
    if (x->p.r->use.requests)
        put_mail_savings(x);
    if (x->html)
        markup_put(m, "</table>\n");
    put_notes(x);
    markup_put(m, x->html
                      ? "<p style=\"margin:18px 0 0;color:#5a636b;font-size:13px\">The whole report and its data are "
                        "attached.</p>\n</div></body></html>\n"
                      : "\nThe whole report and its data are attached.\n");
}

static enum rc write_mail(const struct report *r, bool html, FILE *out, struct error *e)
{
    struct strbuf text;

    strbuf_init(&text, MAIL_MAX);
    struct mail x = {.p = {.m = {.out = &text, .rc = RC_OK}, .r = r}, .html = html};
    put_mail(&x);
    const enum rc rc = page_out(&x.p, out, e);
    strbuf_fini(&text);
    return rc;
}

enum rc report_write_mail_html(const struct report *r, FILE *out, struct error *e)
{
    return write_mail(r, true, out, e);
}

enum rc report_write_mail_text(const struct report *r, FILE *out, struct error *e)
{
    return write_mail(r, false, out, e);
}
