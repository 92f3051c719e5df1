/* Small things that all who write a report share. Each returns buf. */
#ifndef SCHEDULER_REPORT_WRITE_H
#define SCHEDULER_REPORT_WRITE_H

#include "scheduler/report/report.h"

#define WRITE_TIME 32
/* "2026-11-28T00:00:00Z" */
char *write_utc(int64_t at_s, char buf[WRITE_TIME]);
/* "2026-11-28" of the site's day. */
char *write_day(const struct report *r, int day, char buf[WRITE_TIME]);
/* Dollars for people: "$ 1,234.56", below a dollar with more places: "$ 0.000123". Rounded to nearest. */
#define WRITE_MONEY 64
char *write_money(struct pusd_sum a, char buf[WRITE_MONEY]);
/* "+12.3 %", "12.3 %" of millionths; rounded to nearest. */
char *write_percent(int64_t ppm, bool with_sign, char buf[WRITE_TIME]);
/* Such a text as pages have it: without the blanks that Markdown wants, and with a true minus sign. */
char *write_closed_up(const char *text, char *buf, size_t size);
/* "1,234,567" */
char *write_count(int64_t n, char buf[WRITE_TIME]);
const char *write_hours_are(int64_t n); /* "hour is", "hours are" */
/* "1,234.5 kWh" */
char *write_kwh(int64_t millijoules, char buf[WRITE_TIME]);
/* How much more than before, in millionths; *known false: there was nothing before. */
int64_t write_change(struct pusd_sum now, struct pusd_sum before, bool *known);
extern const char *const write_saving_names[REPORT_SAVINGS]; /* "all API", ... */

#endif
