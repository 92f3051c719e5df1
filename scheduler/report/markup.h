/* HTML written piece by piece into a strbuf. The first failure sticks and is there at the end: no call needs to be
 * checked. What is ours goes through markup_put(), what comes from data through markup_text() and its kin, always. */
#ifndef SCHEDULER_REPORT_MARKUP_H
#define SCHEDULER_REPORT_MARKUP_H

#include "base/alloc.h"

struct markup {
    struct strbuf *out; /* borrowed */
    enum rc rc;         /* of the first failure */
    int ids;            /* given out by markup_id() */
};
void markup_put(struct markup *m, const char *format, ...) SPW_PRINTF(2, 3);
/* Others' text, inside elements and in quoted attributes: <>&"' are escaped; what is no UTF-8, and what cannot be seen
 * (controls, marks that turn the direction of writing), is U+FFFD. NULL: nothing. */
void markup_text(struct markup *m, const char *text);
/* The same as a name in our sentence, so that its direction of writing stays its own: <bdi>. Not in attributes or SVG. */
void markup_name(struct markup *m, const char *name);
/* For plain text: the same, not escaped, and a line's end is a blank. */
void markup_line(struct markup *m, const char *text);
/* ... cut and filled to so many characters; columns < 0: to the right. */
void markup_plain(struct markup *m, const char *text, int columns);

/* ---- what all our pages are made of; report.css has its rules ---------------------------------------------------------- */

/* title, about (NULL: none) and text: HTML of ours. id: a word. */
void markup_section(struct markup *m, const char *id, const char *title, const char *about);
void markup_section_end(struct markup *m);
void markup_empty(struct markup *m, const char *text);
/* columns: "Team|Spend|<Why": all but the first stand on the right, unless they begin with <. One that begins with ~
 * has the class "wide", like its cells: for wide screens. */
void markup_table(struct markup *m, const char *caption, const char *columns);
void markup_table_end(struct markup *m);
/* Instead of that end: a last row of sums, whose cells stand between the two. */
void markup_total(struct markup *m);
void markup_total_end(struct markup *m);
void markup_rest(struct markup *m, int shown, int n); /* below it, if there are more */
void markup_row(struct markup *m, const char *name);  /* begins one, and is its head */

/* A number that no id of this page has had, for "t1", "d1". */
int markup_id(struct markup *m);

#endif
