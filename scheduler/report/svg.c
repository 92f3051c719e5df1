#include "scheduler/report/svg.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define HEIGHT      240
#define SQUARE      1000.0 /* units of the square in which lines are drawn */
#define TICKS_MOST  5
#define LABELS_MOST 8
#define COLOURS     8
#define GAP         0.24 /* of a slot, beside its bar */
#define SPARK_W     96
#define SPARK_H     24
#define STRIPS_MOST 400

/* ---- numbers ---------------------------------------------------------------------------------------------------------- */

/* Decimals that write `step` exactly, at most 6. */
static int places_of(double step)
{
    int places = 0;
    while (places < 6 && fabs(step - round(step)) > 1e-6) {
        step *= 10;
        places++;
    }
    return places;
}

static char *scaled(double v, double step, const char *unit, char *buf, size_t size)
{
    static const char *const of[] = {"", "k", "M", "G", "T", "P"};
    const double reach = fabs(v);
    int i = 0, places = 0;
    double by = 1;

    while (i < 5 && reach >= 1000 * by * 0.99995) {
        by *= 1000;
        i++;
    }
    if (step > 0)
        places = places_of(step / by);
    else /* by itself: three digits or so */
        for (double f = reach / by / 100; f > 0 && f < 0.999 && places < 6; f *= 10)
            places++;
    snprintf(buf, size, "%s%s%.*f%s", v < 0 ? "\u2212" : "", unit, places, reach / by, of[i]);
    return buf;
}

char *svg_number(double v, double step, char *buf, size_t size)
{
    return scaled(v, step, "", buf, size);
}

char *svg_dollars(double v, double step, char *buf, size_t size)
{
    return scaled(v, step, "$", buf, size);
}

char *svg_percent(double v, double step, char *buf, size_t size)
{
    snprintf(buf, size, step > 0 && step < 0.00999 ? "%.1f%%" : "%.0f%%", 100 * v);
    return buf;
}

/* 1, 2, 2.5 or 5 times a power of ten, no less than v. */
static double round_step(double v)
{
    static const double of[] = {1, 2, 2.5, 5, 10};
    const double unit = pow(10, floor(log10(v)));
    int i = 0;

    while (i < 4 && of[i] * unit < v * (1 - 1e-9))
        i++;
    return of[i] * unit;
}

struct svg_ticks svg_ticks(double low, double high, int most)
{
    low = fmin(low, 0);
    high = fmax(high, 0);
    const double span = high - low;
    if (!isfinite(span) || span < 1e-300)
        return (struct svg_ticks){0, 1, 2};
    most = most < 3 ? 3 : most; /* a zero between two sides needs three */
    for (double step = round_step(span / (most - 1));; step = round_step(step * 1.01)) {
        const double first = floor(low / step + 1e-9), last = ceil(high / step - 1e-9);
        if (last - first + 1 <= most)
            return (struct svg_ticks){first * step, step, (int)(last - first) + 1};
    }
}

/* ---- the frame: names, grid, labels ------------------------------------------------------------------------------------ */

/* From the top, in percent. */
static double height_of(const struct svg_ticks *t, double v)
{
    const double span = t->step * (t->n - 1);
    return span > 0 ? 100 * (1 - (v - t->first) / span) : 100;
}

static void put_element(struct markup *m, const char *element, const char *text)
{
    markup_put(m, "<%s>", element);
    markup_text(m, text);
    markup_put(m, "</%.*s>", (int)strcspn(element, " "), element);
}

static void put_open(struct markup *m, const char *class, const char *title, const char *desc, int height)
{
    const int id = markup_id(m);
    char element[32];

    markup_put(m, "<svg class=\"%s\" role=img aria-labelledby=t%d", class, id);
    if (desc)
        markup_put(m, " aria-describedby=d%d", id);
    markup_put(m, " height=%d>", height);
    snprintf(element, sizeof(element), "title id=t%d", id);
    put_element(m, element, title);
    snprintf(element, sizeof(element), "desc id=d%d", id);
    if (desc)
        put_element(m, element, desc);
}

static void put_grid(struct markup *m, const struct svg_chart *c, const struct svg_ticks *t)
{
    char text[32];

    for (int i = 0; i < t->n; i++) {
        const double v = t->first + i * t->step, y = height_of(t, v);
        markup_put(m,
                   "<line class=%s x1=0 x2=\"100%%\" y1=\"%.2f%%\" y2=\"%.2f%%\" />"
                   "<text class=y x=-8 y=\"%.2f%%\" dy=4>%s</text>",
                   fabs(v) < t->step / 2 ? "base" : "grid", y, y, y, c->format(v, t->step, text, sizeof(text)));
    }
}

/* Of bars they stand below the middle of their slots. */
static void put_labels(struct markup *m, const struct svg_chart *c, bool bars)
{
    int labelled = 0, seen = 0;

    for (int i = 0; c->labels && i < c->n; i++)
        labelled += c->labels[i] != NULL;
    const int stride = (labelled + LABELS_MOST - 1) / LABELS_MOST;
    for (int i = 0; c->labels && i < c->n; i++) {
        if (!c->labels[i] || seen++ % stride)
            continue;
        const double x = bars ? 100 * (i + 0.5) / c->n : c->n > 1 ? 100.0 * i / (c->n - 1) : 0;
        const bool wide = labelled > 4 && (seen - 1) / stride % 2; /* a telephone has room for every other one */
        markup_put(m, "<text class=\"%s%s\" x=\"%.2f%%\" y=\"100%%\" dy=18>",
                   x < 1    ? "x0"
                   : x > 97 ? "x1"
                            : "x",
                   wide ? " wide" : "", x);
        markup_text(m, c->labels[i]);
        markup_put(m, "</text>");
    }
}

static const char *label_of(const struct svg_chart *c, int i)
{
    const char *s = c->labels_whole ? c->labels_whole[i] : c->labels ? c->labels[i] : NULL;
    return s ? s : "";
}

static int height_in(const struct svg_chart *c)
{
    return c->height ? c->height : HEIGHT;
}

static double positive(double v)
{
    return v > 0 ? v : 0; /* NAN, too */
}

/* A line of what the pointer is told. */
static void put_value(struct markup *m, const struct svg_series *s, double v, svg_format_fn *format)
{
    char text[32];

    markup_put(m, "\n");
    markup_text(m, s->name);
    markup_put(m, " %s", format(v, 0, text, sizeof(text)));
}

/* ---- bars that stand --------------------------------------------------------------------------------------------------- */

static double slot_sum(const struct svg_series *s, int n_series, int i)
{
    double sum = 0;
    for (int k = 0; k < n_series; k++)
        sum += positive(s[k].values[i]);
    return sum;
}

static void put_column(struct markup *m, const struct svg_chart *c, const struct svg_series *s, int n_series, int i,
                       const struct svg_ticks *t, bool pale)
{
    const double x = 100 * (i + GAP / 2) / c->n, w = 100 * (1 - GAP) / c->n;
    double sum = 0;
    char text[32];

    markup_put(m, "<g%s><title>", pale ? " class=pale" : "");
    markup_text(m, label_of(c, i));
    markup_put(m, ": %s", c->format(slot_sum(s, n_series, i), 0, text, sizeof(text)));
    for (int k = 0; k < n_series && n_series > 1; k++)
        if (s[k].values[i] > 0)
            put_value(m, &s[k], s[k].values[i], c->format);
    markup_put(m, "</title>");
    for (int k = 0; k < n_series; k++) {
        const double v = positive(s[k].values[i]), top = height_of(t, sum + v), low = height_of(t, sum);
        if (low - top > 0.02)
            markup_put(m, "<rect class=c%d x=\"%.3f%%\" y=\"%.2f%%\" width=\"%.3f%%\" height=\"%.2f%%\" />",
                       s[k].colour % COLOURS, x, top, w, low - top);
        sum += v;
    }
    markup_put(m, "</g>");
}

void svg_stack(struct markup *m, const struct svg_chart *c, const struct svg_series *series, int n_series, int pale)
{
    double most = 0;

    for (int i = 0; i < c->n; i++)
        most = fmax(most, slot_sum(series, n_series, i));
    const struct svg_ticks t = svg_ticks(0, most, TICKS_MOST);
    put_open(m, "chart", c->title, c->desc, height_in(c));
    put_grid(m, c, &t);
    for (int i = 0; i < c->n; i++)
        put_column(m, c, series, n_series, i, &t, pale >= 0 && i >= pale);
    put_labels(m, c, true);
    markup_put(m, "</svg>\n");
}

/* ---- lines ------------------------------------------------------------------------------------------------------- */

static void widen(double *low, double *high, const double *values, int n)
{
    for (int i = 0; i < n; i++)
        if (isfinite(values[i])) {
            *low = fmin(*low, values[i]);
            *high = fmax(*high, values[i]);
        }
}

/* Where slot i of n is in the square. */
static double across(int i, int n)
{
    return n > 1 ? SQUARE * i / (n - 1) : 0;
}

static void put_point(struct markup *m, bool *begun, double x, const struct svg_ticks *t, double v)
{
    markup_put(m, "%c%.1f %.1f", *begun ? 'L' : 'M', x, height_of(t, v) * SQUARE / 100);
    *begun = true;
}

static void put_band(struct markup *m, const struct svg_line *l, int n, const struct svg_ticks *t)
{
    bool begun = false;

    markup_put(m, "<path class=\"band c%d\" d=\"", l->of.colour % COLOURS);
    for (int i = 0; i < n; i++)
        if (isfinite(l->low[i]) && isfinite(l->high[i]))
            put_point(m, &begun, across(i, n), t, l->high[i]);
    for (int i = n - 1; i >= 0; i--)
        if (isfinite(l->low[i]) && isfinite(l->high[i]))
            put_point(m, &begun, across(i, n), t, l->low[i]);
    markup_put(m, "%s\"/>", begun ? "Z" : "");
}

/* The points that there are; false: none. */
static bool first_and_last(const double *values, int n, int *first, int *last)
{
    *first = *last = -1;
    for (int i = 0; i < n; i++)
        if (isfinite(values[i])) {
            *first = *first < 0 ? i : *first;
            *last = i;
        }
    return *last >= 0;
}

static void put_area(struct markup *m, const struct svg_line *l, int n, const struct svg_ticks *t)
{
    int first, last;
    bool begun = false;

    if (!first_and_last(l->of.values, n, &first, &last))
        return;
    markup_put(m, "<path class=\"area c%d\" d=\"", l->of.colour % COLOURS);
    put_point(m, &begun, across(first, n), t, 0);
    for (int i = first; i <= last; i++)
        if (isfinite(l->of.values[i]))
            put_point(m, &begun, across(i, n), t, l->of.values[i]);
    put_point(m, &begun, across(last, n), t, 0);
    markup_put(m, "Z\"/>");
}

static void put_path(struct markup *m, const struct svg_line *l, int n, const struct svg_ticks *t)
{
    static const char *const classes[] = {"line", "line dashed", "line thin", "line"};
    bool begun = false;

    if (l->style == SVG_AREA)
        put_area(m, l, n, t);
    markup_put(m, "<path class=\"%s s%d\" d=\"", classes[l->style], l->of.colour % COLOURS);
    for (int i = 0; i < n; i++) {
        if (isfinite(l->of.values[i]))
            put_point(m, &begun, across(i, n), t, l->of.values[i]);
        else
            begun = false;
    }
    markup_put(m, "\"/>");
}

static void put_end(struct markup *m, const struct svg_chart *c, const struct svg_line *l, const struct svg_ticks *t)
{
    int first, last;
    char text[32];

    if (!first_and_last(l->of.values, c->n, &first, &last))
        return;
    const double x = across(last, c->n) * 100 / SQUARE, y = height_of(t, l->of.values[last]);
    markup_put(m,
               "<circle class=\"dot c%d\" cx=\"%.2f%%\" cy=\"%.2f%%\" r=4 />"
               "<text class=\"end %s\" x=\"%.2f%%\" y=\"%.2f%%\" dx=%d dy=%d>%s</text>",
               l->of.colour % COLOURS, x, y, x > 50 ? "x1" : "x0", x, y, x > 50 ? -8 : 8, y < 14 ? 18 : -8,
               c->format(l->of.values[last], 0, text, sizeof(text)));
}

/* What the pointer is told: a strip per slot with all values there. */
static void put_strips(struct markup *m, const struct svg_chart *c, const struct svg_line *lines, int n)
{
    const double w = c->n > 1 ? 100.0 / (c->n - 1) : 100;

    for (int i = 0; i < c->n && c->n <= STRIPS_MOST; i++) {
        markup_put(m, "<rect class=strip x=\"%.3f%%\" width=\"%.3f%%\" height=\"100%%\"><title>", w * (i - 0.5), w);
        markup_text(m, label_of(c, i));
        for (int k = 0; k < n; k++)
            if (isfinite(lines[k].of.values[i]))
                put_value(m, &lines[k].of, lines[k].of.values[i], c->format);
        markup_put(m, "</title></rect>");
    }
}

static void put_level(struct markup *m, const struct svg_chart *c, const struct svg_level *l, const struct svg_ticks *t)
{
    const double y = height_of(t, l->at);
    char text[32];

    markup_put(m,
               "<line class=level x1=0 x2=\"100%%\" y1=\"%.2f%%\" y2=\"%.2f%%\" /><text class=\"level x0\" x=4 "
               "y=\"%.2f%%\" dy=%d>",
               y, y, y, y < 10 ? 14 : -6);
    markup_text(m, l->name);
    markup_put(m, " %s</text>", c->format(l->at, 0, text, sizeof(text)));
}

static void open_square(struct markup *m)
{
    markup_put(m, "<svg class=square width=\"100%%\" height=\"100%%\" viewBox=\"0 0 1000 1000\" "
                  "preserveAspectRatio=none>");
}

void svg_lines(struct markup *m, const struct svg_chart *c, const struct svg_line *lines, int n_lines,
               const struct svg_level *levels, int n_levels)
{
    double low = 0, high = 0;

    for (int k = 0; k < n_lines; k++) {
        widen(&low, &high, lines[k].of.values, c->n);
        if (lines[k].low) {
            widen(&low, &high, lines[k].low, c->n);
            widen(&low, &high, lines[k].high, c->n);
        }
    }
    for (int i = 0; i < n_levels; i++)
        widen(&low, &high, &levels[i].at, 1);
    const struct svg_ticks t = svg_ticks(low, high, TICKS_MOST);
    put_open(m, "chart", c->title, c->desc, height_in(c));
    put_grid(m, c, &t);
    open_square(m);
    for (int k = 0; k < n_lines; k++)
        if (lines[k].low)
            put_band(m, &lines[k], c->n, &t);
    for (int k = 0; k < n_lines; k++)
        put_path(m, &lines[k], c->n, &t);
    markup_put(m, "</svg>");
    for (int i = 0; i < n_levels; i++)
        put_level(m, c, &levels[i], &t);
    for (int k = 0; k < n_lines; k++)
        if (lines[k].end)
            put_end(m, c, &lines[k], &t);
    put_labels(m, c, false);
    put_strips(m, c, lines, n_lines);
    markup_put(m, "</svg>\n");
}

void svg_curve(struct markup *m, const struct svg_chart *c, const double *xs, const double *ys, int n, int colour,
               double most)
{
    const struct svg_ticks t = svg_ticks(0, most, TICKS_MOST);
    bool begun = false;

    put_open(m, "chart", c->title, c->desc, height_in(c));
    put_grid(m, c, &t);
    open_square(m);
    markup_put(m, "<path class=\"line s%d\" d=\"", colour % COLOURS);
    for (int i = 0; i < n; i++)
        put_point(m, &begun, SQUARE * xs[i], &t, ys[i]);
    markup_put(m, "\"/></svg>");
    put_labels(m, c, false);
    markup_put(m, "</svg>\n");
}

/* ---- bars that lie ----------------------------------------------------------------------------------------------- */

#define BAR_ROW    46
#define BAR_TOP    22
#define BAR_HEIGHT 12

struct span {
    double low, high;
};

static struct span bars_span(const struct svg_bar *bars, int n, int n_parts)
{
    struct span s = {0, 0};

    for (int i = 0; i < n; i++) {
        double left = 0, right = 0;
        for (int k = 0; k < n_parts; k++)
            if (isfinite(bars[i].parts[k]))
                *(bars[i].parts[k] < 0 ? &left : &right) += bars[i].parts[k];
        s.low = fmin(s.low, left);
        s.high = fmax(s.high, right);
    }
    return s;
}

static void put_bar_parts(struct markup *m, const struct svg_bar *b, const struct svg_series *parts, int n, int y,
                          const struct span *s, svg_format_fn *format)
{
    const double scale = s->high > s->low ? 100 / (s->high - s->low) : 0;
    double right = 0, left = 0;
    char text[32];

    for (int k = 0; k < n; k++) {
        const double v = b->parts[k], from = v < 0 ? left + v : right;
        if (!isfinite(v))
            continue;
        if (fabs(v) * scale > 0.05) {
            markup_put(m, "<rect class=c%d x=\"%.2f%%\" y=%d width=\"%.2f%%\" height=%d><title>",
                       parts[k].colour % COLOURS, (from - s->low) * scale, y, fabs(v) * scale, BAR_HEIGHT);
            markup_text(m, parts[k].name);
            markup_put(m, " %s</title></rect>", format(v, 0, text, sizeof(text)));
        }
        *(v < 0 ? &left : &right) += v;
    }
}

void svg_bars(struct markup *m, const char *title, const char *desc, const struct svg_bar *bars, int n,
              const struct svg_series *parts, int n_parts, svg_format_fn *format)
{
    const struct span s = bars_span(bars, n, n_parts);

    put_open(m, "bars", title, desc, n * BAR_ROW);
    for (int i = 0; i < n; i++) {
        const int y = i * BAR_ROW;
        markup_put(m, "<text class=label x=0 y=%d>", y + 15);
        markup_text(m, bars[i].label);
        markup_put(m, "</text><text class=value x=\"100%%\" y=%d>", y + 15);
        markup_text(m, bars[i].value);
        markup_put(m, "</text><rect class=track x=0 y=%d width=\"100%%\" height=%d />", y + BAR_TOP, BAR_HEIGHT);
        put_bar_parts(m, &bars[i], parts, n_parts, y + BAR_TOP, &s, format);
        if (s.low < 0) {
            const double x = 100 * -s.low / (s.high - s.low);
            markup_put(m, "<line class=base x1=\"%.2f%%\" x2=\"%.2f%%\" y1=%d y2=%d />", x, x, y + BAR_TOP - 3,
                       y + BAR_TOP + BAR_HEIGHT + 3);
        }
    }
    markup_put(m, "</svg>\n");
}

/* ---- small ones -------------------------------------------------------------------------------------------------- */

void svg_spark(struct markup *m, const double *values, int n, int colour, const char *title)
{
    double low = 0, high = 0;

    widen(&low, &high, values, n);
    const struct svg_line l = {.of = {NULL, colour, values}, .style = SVG_AREA};
    const struct svg_ticks t = {low, high > low ? high - low : 1, 2};
    markup_put(m,
               "<svg class=spark role=img width=%d height=%d viewBox=\"0 0 1000 1000\" preserveAspectRatio=none "
               "aria-label=\"",
               SPARK_W, SPARK_H);
    markup_text(m, title);
    markup_put(m, "\">");
    put_element(m, "title", title);
    if (n > 1)
        put_path(m, &l, n, &t);
    markup_put(m, "</svg>");
}

void svg_key(struct markup *m, const struct svg_series *series, int n)
{
    if (n < 2)
        return;
    markup_put(m, "<ul class=key>");
    for (int i = 0; i < n; i++) {
        markup_put(m, "<li><svg width=12 height=12 aria-hidden=true><rect class=c%d width=12 height=12 rx=3 /></svg>",
                   series[i].colour % COLOURS);
        markup_text(m, series[i].name);
    }
    markup_put(m, "</ul>\n");
}
