/* Charts as inline SVG, for every page of ours (the cost report, the simulator's). No script, no style attribute,
 * nothing from elsewhere: colours are the variables --c0 to --c7 of the page (chart.css), so that they are light or
 * dark as the reader's system is, and that print has its own.
 *
 * Wide screens and telephones: positions are in percent of whatever width the chart has, sizes of text and strokes are
 * not, so that nothing is squeezed. Lines are drawn in a square of 1,000 units that is stretched (preserveAspectRatio
 * none) with strokes that do not scale.
 *
 * Accessible: role=img, named by <title>, described by <desc>; each bar and point has its own <title>, which browsers
 * show beside the pointer. Labels come from data and are escaped. Values are doubles: these are pictures, never
 * sums. */
#ifndef SCHEDULER_REPORT_SVG_H
#define SCHEDULER_REPORT_SVG_H

#include "scheduler/report/markup.h"

/* How values are written. `step`: what neighbours on an axis differ by, for its decimals; 0: a value by itself. buf >=
 * 32 bytes. Returns buf. */
typedef char *svg_format_fn(double v, double step, char *buf, size_t size);
char *svg_number(double v, double step, char *buf, size_t size);  /* 950, 1.2k, 3.4M */
char *svg_dollars(double v, double step, char *buf, size_t size); /* $0.05, $950, $1.2k, $3.4M */
char *svg_percent(double v, double step, char *buf, size_t size); /* of 1 */

/* Ticks at 1, 2, 2.5 or 5 times a power of ten, at most `most` (>= 2) of them, such that low..high is inside
 * first..first + step * (n - 1). 0 is in it. Not finite, or low == high == 0: 0..1. */
struct svg_ticks {
    double first, step;
    int n;
};
struct svg_ticks svg_ticks(double low, double high, int most);

struct svg_series {
    const char *name;     /* of the key */
    int colour;           /* 0..7: --c0 ..., the same for the same thing on a whole page */
    const double *values; /* one per slot; NAN: none there */
};
struct svg_chart {
    const char *title;               /* what it is */
    const char *desc;                /* what it shows, in a sentence; NULL: nothing to add */
    const char *const *labels;       /* one per slot, short; NULL in places: not labelled. Owned by the caller */
    const char *const *labels_whole; /* for the pointer; NULL: `labels` */
    int n;                           /* slots */
    svg_format_fn *format;
    int height; /* in pixels; 0: 240 */
};

/* A bar per slot, made of the series upon each other (values < 0 count as 0). Slots from `pale` on are paler: not
 * measured, but expected; < 0: none. */
void svg_stack(struct markup *m, const struct svg_chart *c, const struct svg_series *series, int n_series, int pale);

enum svg_line_style { SVG_SOLID, SVG_DASHED, SVG_THIN, SVG_AREA };
struct svg_line {
    struct svg_series of;
    enum svg_line_style style;
    const double *low, *high; /* a band around it; NULL: none */
    bool end;                 /* a dot and its value at its last point */
};
struct svg_level { /* a level line, like a limit */
    double at;
    const char *name;
};
/* Slot i is at the i-th of n - 1 equal steps. */
void svg_lines(struct markup *m, const struct svg_chart *c, const struct svg_line *lines, int n_lines,
               const struct svg_level *levels, int n_levels);
/* Points by x, which grows: for distributions. xs: 0..1 of the width; c->labels are at equal steps. */
void svg_curve(struct markup *m, const struct svg_chart *c, const double *xs, const double *ys, int n, int colour,
               double most);

/* Bars that lie, one below the other, label and value above each: for money by whom. Parts are drawn one after the
 * other; values < 0 go to the left of a common zero. */
struct svg_bar {
    const char *label, *value; /* value: as text, since sums are exact there */
    const double *parts;       /* n_parts */
};
void svg_bars(struct markup *m, const char *title, const char *desc, const struct svg_bar *bars, int n,
              const struct svg_series *parts, int n_parts, svg_format_fn *format);

/* A line the size of a word, in tables. title: what it says, in words. */
void svg_spark(struct markup *m, const double *values, int n, int colour, const char *title);

/* What the colours mean. Nothing for a single series. */
void svg_key(struct markup *m, const struct svg_series *series, int n);

/* The page's variables and the charts' rules. */
extern const char chart_css_text[]; /* ended by NUL */
extern const size_t chart_css_length;

#endif
