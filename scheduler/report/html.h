/* The report as pages: one file for browsers, and the body of a mail. All HTML: every text of data is escaped
 * (markup.h), no script, nothing from elsewhere (its own Content-Security-Policy forbids it; rules of style are one
 * element whose hash it names, and there are no style attributes). html.c puts the page together; html_*.c are its
 * sections. */
#ifndef SCHEDULER_REPORT_HTML_H
#define SCHEDULER_REPORT_HTML_H

#include "scheduler/report/report.h"

/* The page: report_write_html() of report.h. */

/* For mail readers, which know neither <style> nor SVG: tables with style attributes, a screenful. The whole report is
 * attached to it. */
enum rc report_write_mail_html(const struct report *r, FILE *out, struct error *e) SPW_MUST_USE;
/* The same as text of at most 72 columns. */
enum rc report_write_mail_text(const struct report *r, FILE *out, struct error *e) SPW_MUST_USE;

/* The page's rules, which other pages of ours go by, too; after those of the charts (svg.h). */
extern const char report_css_text[]; /* ended by NUL */
extern const size_t report_css_length;

#endif
