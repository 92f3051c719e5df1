/* What html.c (the page, its headline), html_why.c (drivers, what is unusual), html_money.c (budgets, prices of a
 * token, savings) and html_fleet.c (machines, trust, words) share. */
#ifndef SCHEDULER_REPORT_HTML_INTERNAL_H
#define SCHEDULER_REPORT_HTML_INTERNAL_H

#include "scheduler/report/html.h"
#include "scheduler/report/outlook.h"
#include "scheduler/report/svg.h"
#include "scheduler/report/write.h"

#define PAGE_LABEL 16
struct page {
    struct markup m;
    const struct report *r;
    char (*labels)[PAGE_LABEL]; /* "28 Nov" of each of the window's days */
};

/* Of charges and corrections: what the report calls spend. */
struct pusd_sum page_spend(const struct report_use *u, struct pusd_sum corrected);
double page_dollars(struct pusd_sum a); /* for pictures, never for sums */
/* Where the report's month will end, from the whole days before. */
struct page_month {
    struct outlook ahead;
    int from, whole, days, weekday; /* first day of it; days that are whole; days it has; its first, 0 Monday */
    double spent;                   /* in whole days and corrections */
    struct pusd_sum exactly;        /* up to the report's end */
};
struct page_month page_month(const struct report *r);
const struct report_budget *page_budget_of_all(const struct report *r); /* with a limit; NULL: there is none */

/* "$1,234.56", "12.3%", "+12.3%", "1,234"; 1.2 million tokens: "1.2M". */
#define PAGE_TEXT 64
char *page_money_text(struct pusd_sum a, char buf[PAGE_TEXT]);
char *page_percent_text(int64_t ppm, bool with_sign, char buf[PAGE_TEXT]);
char *page_about_text(double dollars, char buf[PAGE_TEXT]); /* of an estimate: whole dollars from a hundred on */
char *page_hash_text(const struct report *r, char *buf);    /* of the audit's head: two digits a byte, and a NUL */
extern const char *const page_saving_names[REPORT_SAVINGS];
void page_money(struct page *p, struct pusd_sum a);
void page_percent(struct page *p, int64_t ppm);
/* "8.3% more than before", or that there was nothing. */
void page_more_or_less(struct page *p, struct pusd_sum now, struct pusd_sum before, const char *than);

/* "November 2026", "28 November 2026", "1 November to 7 November 2026": the report's. */
void page_period(struct page *p);
/* RC_FULL: the page has come to its bound; RC_IO. */
enum rc page_out(const struct page *p, FILE *out, struct error *e) SPW_MUST_USE;

void page_section(struct page *p, const char *id, const char *title, const char *about); /* about: HTML of ours */
void page_section_end(struct page *p);
void page_empty(struct page *p, const char *text); /* HTML of ours */
/* columns: "Team|Spend|<Why": all but the first stand on the right, unless they begin with <. */
void page_table(struct page *p, const char *caption, const char *columns);
void page_table_end(struct page *p);
void page_rest(struct page *p, int shown, int n); /* below it, if there are more */
void page_row(struct page *p, const char *name);
void page_cell_money(struct page *p, struct pusd_sum a);
void page_cell_percent(struct page *p, int64_t ppm);
void page_cell_change(struct page *p, struct pusd_sum now, struct pusd_sum before);
void page_cell_count(struct page *p, int64_t n);

/* Sections, in the page's order. */
void page_why(struct page *p);
void page_budgets(struct page *p);
void page_units(struct page *p);
void page_savings(struct page *p);
void page_fleet(struct page *p);
void page_unusual(struct page *p);
void page_trust(struct page *p);
void page_words(struct page *p);

#endif
