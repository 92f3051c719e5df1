/* What changed and why; what is unusual. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/report/html_internal.h"

#define DRIVERS_SHOWN 5
#define ODD_SHOWN     12
#define ODD_OF_ONE    8
#define ODD_LEAST     0.05 /* of a mean day's spend: less is not worth anybody's look */

/* ---- drivers ----------------------------------------------------------------------------------------------------- */

/* Corrections are no price of tokens: they count as price, which is what was put right. */
static struct driver split(const struct report_axis *axis, int i)
{
    const struct report_member *x = &axis->of[i];
    struct driver d =
        driver_split(i, x->use_before.charge, report_tokens(&x->use_before), x->use.charge, report_tokens(&x->use));
    const __int128 corrected = x->corrected.v - x->corrected_before.v;
    d.change += corrected;
    d.price += corrected;
    return d;
}

static char *signed_money(__int128 v, char buf[PAGE_TEXT])
{
    char text[PAGE_TEXT];
    snprintf(buf, PAGE_TEXT, "%s%.60s", v > 0 ? "+" : "", page_money_text((struct pusd_sum){v}, text));
    return buf;
}

static void put_drivers(struct page *p, enum report_dim dim, const char *title)
{
    const struct report_axis *axis = &p->r->axes[dim];
    struct driver *all = spw_calloc((size_t)axis->n + 1, sizeof(*all)), rest = {-1, 0, 0, 0};
    double parts[DRIVERS_SHOWN + 1][2];
    char values[DRIVERS_SHOWN + 1][PAGE_TEXT];
    struct svg_bar bars[DRIVERS_SHOWN + 1];
    static const struct svg_series key[] = {{"volume", 3, NULL}, {"price", 1, NULL}};
    int n = 0;

    for (int i = 0; i < axis->n; i++)
        all[i] = split(axis, i);
    driver_sort(all, axis->n);
    for (int i = DRIVERS_SHOWN; i < axis->n; i++) {
        rest.change += all[i].change;
        rest.volume += all[i].volume;
        rest.price += all[i].price;
    }
    for (int i = 0; i <= DRIVERS_SHOWN && i < axis->n; i++) {
        const struct driver *d = i < DRIVERS_SHOWN ? &all[i] : &rest;
        if (d->change == 0 && d->volume == 0)
            continue;
        parts[n][0] = (double)d->volume / 1e12;
        parts[n][1] = (double)d->price / 1e12;
        bars[n] = (struct svg_bar){d->member < 0 ? "all others" : report_member_name(dim, &axis->of[d->member]),
                                   signed_money(d->change, values[n]), parts[n]};
        n++;
    }
    markup_put(&p->m, "<div><h3>%s</h3>\n", title);
    if (n)
        svg_bars(&p->m, title, "Change against the period before, largest first, in volume and price", bars, n, key, 2,
                 svg_dollars);
    else
        page_empty(p, "No difference.");
    markup_put(&p->m, "</div>\n");
    free(all);
}

void page_why(struct page *p)
{
    static const struct svg_series key[] = {{"volume: more or fewer tokens", 3, NULL},
                                            {"price: what a token cost", 1, NULL}};
    const struct report *r = p->r;
    const struct pusd_sum now = page_spend(&r->use, r->corrected),
                          before = page_spend(&r->use_before, r->corrected_before);
    char text[PAGE_TEXT];

    page_section(
        p, "why", "What changed, and why",
        "Against the period before. A change in <em>volume</em> is more or fewer tokens at the mean of both prices; "
        "a change in <em>price</em> is what a token cost on average: other price lists, other machines, a larger "
        "share from the cache, corrections. The two add up to the change exactly.");
    if (before.v == 0) {
        page_empty(p, "There is nothing to compare with: nothing was spent in the period before.");
        page_section_end(p);
        return;
    }
    markup_put(&p->m, "<p>All together: <strong>%s</strong>, ", signed_money(now.v - before.v, text));
    page_more_or_less(p, now, before, "before");
    markup_put(&p->m, ".</p>\n");
    svg_key(&p->m, key, 2);
    markup_put(&p->m, "<div class=grid>\n");
    if (!r->team)
        put_drivers(p, REPORT_TEAM, "By team");
    put_drivers(p, REPORT_MODEL, "By model");
    put_drivers(p, REPORT_PROVIDER, "By provider");
    markup_put(&p->m, "</div>\n");
    page_section_end(p);
}

/* ---- what is unusual --------------------------------------------------------------------------------------------- */

struct odd {
    struct anomaly a;
    const char *what, *name; /* "team", "search"; name NULL: everything */
};
struct odds {
    struct odd of[3 * REPORT_MEMBERS_MAX];
    int n, judged;
};

static void look(struct odds *all, const struct report *r, const struct report_point *points, double least,
                 const char *what, const char *name)
{
    double *hours = spw_calloc((size_t)r->n_hours + 1, sizeof(*hours));
    struct anomaly found[ODD_OF_ONE];
    int judged;

    for (int i = 0; i < r->n_hours; i++)
        hours[i] = (double)points[i].charge / 1e12;
    const int n = anomaly_find(hours, r->n_hours, r->hour_from, least, found, ODD_OF_ONE, &judged);
    for (int i = 0; i < n && all->n < (int)(sizeof(all->of) / sizeof(all->of[0])); i++)
        all->of[all->n++] = (struct odd){found[i], what, name};
    all->judged = judged > all->judged ? judged : all->judged;
    free(hours);
}

static int by_size(const void *a, const void *b)
{
    const struct odd *x = a, *y = b;
    const double p = fabs(x->a.spent - x->a.usual), q = fabs(y->a.spent - y->a.usual);
    return p != q ? (p < q) - (p > q) : x->a.from - y->a.from;
}

static void look_at_all(struct odds *all, const struct report *r, double least)
{
    static const enum report_dim dims[] = {REPORT_TEAM, REPORT_MODEL};

    look(all, r, r->all_hours, least, "everything", NULL);
    for (int k = r->team ? 1 : 0; k < 2; k++)
        for (int i = 0; i < r->axes[dims[k]].n && i < 50; i++)
            if (r->axes[dims[k]].of[i].hours)
                look(all, r, r->axes[dims[k]].of[i].hours, least, report_dim_name(dims[k]),
                     report_member_name(dims[k], &r->axes[dims[k]].of[i]));
    qsort(all->of, (size_t)all->n, sizeof(all->of[0]), by_size);
}

/* An hour in the site's zone: by the day that it is in. */
static void put_hour(struct page *p, int64_t at_s)
{
    const struct report *r = p->r;
    int day = r->n_days - 1;

    while (day > 0 && r->days[day].start_s > at_s)
        day--;
    int64_t hour = (at_s - r->days[day].start_s) / 3600;
    if (day + 1 < r->n_days && r->days[day].end_s - r->days[day].start_s < 86400) /* cut: by its end */
        hour = 24 - (r->days[day].end_s - at_s) / 3600;
    markup_put(&p->m, "%s %02d:00", p->labels[day], (int)(hour < 0 ? 0 : hour > 23 ? 23 : hour));
}

static void put_odd(struct page *p, const struct odd *o)
{
    char text[32];
    const int hours = o->a.until - o->a.from;

    markup_put(&p->m, "<tr><th scope=row>");
    put_hour(p, p->r->hour0_s + 3600 * (int64_t)o->a.from);
    markup_put(&p->m, "</th><td>%d h</td><td class=text>%s ", hours, o->what);
    if (o->name)
        markup_name(&p->m, o->name);
    markup_put(&p->m, "</td><td>%s</td>", svg_dollars(o->a.spent, 0, text, sizeof(text)));
    markup_put(&p->m, "<td>%s</td>", svg_dollars(o->a.usual, 0, text, sizeof(text)));
    markup_put(&p->m, "<td>%s%s</td><td>%s%.1f</td></tr>\n", o->a.spent > o->a.usual ? "+" : "",
               svg_dollars(o->a.spent - o->a.usual, 0, text, sizeof(text)), o->a.z > 0 ? "+" : "\u2212", fabs(o->a.z));
}

void page_unusual(struct page *p)
{
    const struct report *r = p->r;
    struct odds *all = spw_calloc(1, sizeof(*all));
    const int days = r->n_days - r->day_from;
    const double least = ODD_LEAST * page_dollars(r->use.charge) / (days > 0 ? days : 1);

    page_section(
        p, "unusual", "What was unusual",
        "Each hour is compared with the same hour of the other weeks. The score says how many times the usual "
        "spread it is away (median and median absolute deviation, so that one odd week does not hide the next); "
        "from 3.5 on it is listed, if it made a difference of a twentieth of a day\u2019s spend.");
    if (r->n_hours)
        look_at_all(all, r, least);
    if (all->judged == 0)
        page_empty(p, "Not enough is known yet: it takes four weeks of closed hours to say what is usual.");
    else if (all->n == 0)
        page_empty(p, "Nothing. Every hour was about as it usually is.");
    else {
        page_table(p, "Unusual hours, the largest difference first", "From|For|<Of|Spent|Usually|Difference|Score");
        for (int i = 0; i < all->n && i < ODD_SHOWN; i++)
            put_odd(p, &all->of[i]);
        page_table_end(p);
        page_rest(p, ODD_SHOWN, all->n);
    }
    page_section_end(p);
    free(all);
}
