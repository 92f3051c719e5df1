/* What sheet.c (the frame, small things) and the pages' own files share. */
#ifndef SCHEDULER_UI_SHEET_INTERNAL_H
#define SCHEDULER_UI_SHEET_INTERNAL_H

#include "scheduler/report/markup.h"
#include "scheduler/ui/sheet.h"

struct sheet {
    struct markup m;
    const struct facts *f;
    const struct page_who *who;
};

#define SHEET_TEXT 64
/* "$1,234.56", "12.3%", "1,234". Each returns buf. */
char *sheet_money(struct pusd_sum a, char buf[SHEET_TEXT]);
char *sheet_dollars(struct pusd a, char buf[SHEET_TEXT]);
char *sheet_percent(double share, char buf[SHEET_TEXT]);
char *sheet_count(int64_t n, char buf[SHEET_TEXT]);
char *sheet_watts(int64_t milliwatts, char buf[SHEET_TEXT]); /* "3.2 kW" */
char *sheet_time(int64_t at_s, char buf[SHEET_TEXT]);        /* "29 Nov, 20:31 UTC" */
char *sheet_for(int64_t seconds, char buf[SHEET_TEXT]);      /* "4 min": how long */
double sheet_value(struct pusd_sum a);                       /* dollars for pictures, never for sums */

/* <time> of a moment that has passed, with how long ago. */
void sheet_put_ago(struct sheet *s, int64_t at_s);
/* A word in the colour of its mood, which is no more than the word says. */
void sheet_put_state(struct sheet *s, enum facts_mood mood, const char *word);
/* A bar: how much of a whole. title: what it says, in words (HTML). soft: a mark; < 0: none. */
void sheet_put_bar(struct sheet *s, double share, double soft, enum facts_mood mood, const char *title);

/* A figure of the headline: begins, then what is below it, then its end. */
void sheet_figure(struct sheet *s, const char *what);
void sheet_figure_sub(struct sheet *s);
void sheet_figure_end(struct sheet *s);
/* "All machines": where there is more, at a section's end. */
void sheet_more(struct sheet *s, const char *path, const char *text);

/* Parts of pages, which the overview has, too: at most so many rows. */
void sheet_put_figures(struct sheet *s);
void sheet_put_nodes(struct sheet *s, int most);
void sheet_put_spend(struct sheet *s);
void sheet_put_budget_bars(struct sheet *s, int most);
void sheet_put_routes(struct sheet *s, int most);
void sheet_put_decisions(struct sheet *s, int most);
void sheet_put_reports(struct sheet *s, int most);
void sheet_put_audit_line(struct sheet *s);

/* Pages. */
void sheet_draw_overview(struct sheet *s);
void sheet_draw_fleet(struct sheet *s);
void sheet_draw_money(struct sheet *s);
void sheet_draw_service(struct sheet *s);
void sheet_draw_decisions(struct sheet *s);
void sheet_draw_decision(struct sheet *s);
void sheet_draw_reports(struct sheet *s);
void sheet_draw_audit(struct sheet *s);

#endif
