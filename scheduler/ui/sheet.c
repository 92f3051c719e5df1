/* The frame of a page, and the small things that all of them are made of. */
#include "scheduler/ui/sheet_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "scheduler/report/html.h"
#include "scheduler/report/svg.h"
#include "scheduler/report/write.h"

extern const char ui_css_text[];
extern const size_t ui_css_length;

const struct ui_page ui_pages[] = {
    {"", "Overview", "What is running, what it costs, and whether promises are kept.",
     PAGE_MONTH | PAGE_BUDGETS | PAGE_FILES, sheet_draw_overview},
    {"/fleet", "Machines", "Every machine and paid service that answers requests, or will soon.", PAGE_MONTH,
     sheet_draw_fleet},
    {"/money", "Money", "What is spent, against which budgets, and what the machines cost.", PAGE_MONTH | PAGE_BUDGETS,
     sheet_draw_money},
    {"/service", "Service", "Whether answers begin in time, model by model.", 0, sheet_draw_service},
    {"/decisions", "Decisions", "Where the last requests were sent, and why.", 0, sheet_draw_decisions},
    {"/reports", "Reports", "The cost reports that were made, newest first.", PAGE_FILES, sheet_draw_reports},
    {"/audit", "Audit", "The chain of signed records, and where it ends.", 0, sheet_draw_audit},
    {"/decisions/", "Decision", "One request: every place it could have gone, and why it went where it did.", PAGE_ITEM,
     sheet_draw_decision},
};
const int ui_n_pages = (int)(sizeof ui_pages / sizeof ui_pages[0]);

/* A tank with its overflow. */
const char sheet_icon[] =
    "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 32 32\"><rect width=\"32\" height=\"32\" rx=\"7\" "
    "fill=\"#1f6b5d\"/>"
    "<path d=\"M6 8v14a3 3 0 0 0 3 3h9M6 14h13a4 4 0 0 1 4 4v7\" fill=\"none\" stroke=\"#fff\" stroke-width=\"3\" "
    "stroke-linecap=\"round\" stroke-linejoin=\"round\"/></svg>\n";

/* ---- texts --------------------------------------------------------------------------------------------------------- */

char *sheet_money(struct pusd_sum a, char buf[SHEET_TEXT])
{
    char text[WRITE_MONEY];
    return write_closed_up(write_money(a, text), buf, SHEET_TEXT);
}

char *sheet_dollars(struct pusd a, char buf[SHEET_TEXT])
{
    return sheet_money((struct pusd_sum){a.v}, buf);
}

char *sheet_percent(double share, char buf[SHEET_TEXT])
{
    char text[WRITE_TIME];
    return write_closed_up(write_percent((int64_t)llround(share * 1e6), false, text), buf, SHEET_TEXT);
}

char *sheet_count(int64_t n, char buf[SHEET_TEXT])
{
    return write_count(n, buf);
}

char *sheet_watts(int64_t milliwatts, char buf[SHEET_TEXT])
{
    const double w = (double)milliwatts / 1e3;

    if (w < 1000)
        snprintf(buf, SHEET_TEXT, "%.0f W", w);
    else
        snprintf(buf, SHEET_TEXT, "%.*f kW", w < 1e5 ? 1 : 0, w / 1e3);
    return buf;
}

char *sheet_time(int64_t at_s, char buf[SHEET_TEXT])
{
    static const char *const months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                         "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    const int64_t days = at_s / 86400, of_day = at_s % 86400;
    int64_t year;
    int month, day;

    date_from_days(days, &year, &month, &day);
    snprintf(buf, SHEET_TEXT, "%d %s %" PRId64 ", %02d:%02d UTC", day, months[month - 1], year, (int)(of_day / 3600),
             (int)(of_day / 60 % 60));
    return buf;
}

char *sheet_for(int64_t s, char buf[SHEET_TEXT])
{
    static const struct {
        int64_t from, unit;
        const char *name;
    } steps[] = {{172800, 86400, "days"}, {7200, 3600, "h"}, {120, 60, "min"}, {INT64_MIN, 1, "s"}};

    s = s < 0 ? 0 : s;
    for (size_t i = 0;; i++) {
        if (s >= steps[i].from) {
            snprintf(buf, SHEET_TEXT, "%" PRId64 " %s", s / steps[i].unit, steps[i].name);
            return buf;
        }
    }
}

double sheet_value(struct pusd_sum a)
{
    return (double)a.v / 1e12;
}

/* ---- small parts ----------------------------------------------------------------------------------------------------- */

void sheet_put_ago(struct sheet *s, int64_t at_s)
{
    char utc[WRITE_TIME], ago[SHEET_TEXT], whole[SHEET_TEXT];

    markup_put(&s->m, "<time datetime=%s title=\"%s\">%s ago</time>", write_utc(at_s, utc), sheet_time(at_s, whole),
               sheet_for(s->f->now.ns / NS_PER_S - at_s, ago));
}

static const char *const moods[] = {"well", "between", "resting", "ill"};

void sheet_put_state(struct sheet *s, enum facts_mood mood, const char *word)
{
    markup_put(&s->m, "<span class=\"state %s\">%s</span>", moods[mood], word);
}

void sheet_put_bar(struct sheet *s, double share, double soft, enum facts_mood mood, const char *title)
{
    share = share > 1 ? 1 : share > 0 ? share : 0;
    markup_put(&s->m,
               "<svg class=\"bar %s\" role=img aria-label=\"%s\"><rect class=track width=\"100%%\" height=10 rx=5 />"
               "<rect class=fill width=\"%.2f%%\" height=10 rx=5 />",
               moods[mood], title, share * 100);
    if (soft > 0 && soft < 1)
        markup_put(&s->m, "<line class=mark x1=\"%.2f%%\" x2=\"%.2f%%\" y1=-2 y2=12 />", soft * 100, soft * 100);
    markup_put(&s->m, "</svg>");
}

void sheet_figure(struct sheet *s, const char *what)
{
    markup_put(&s->m, "<div><dt>%s</dt><dd class=big>", what);
}

void sheet_figure_sub(struct sheet *s)
{
    markup_put(&s->m, "</dd><dd class=sub>");
}

void sheet_figure_end(struct sheet *s)
{
    markup_put(&s->m, "</dd></div>\n");
}

void sheet_more(struct sheet *s, const char *path, const char *text)
{
    markup_put(&s->m, "<p class=more><a href=\"/ui%s\">%s</a></p>\n", path, text);
}

/* ---- the frame ------------------------------------------------------------------------------------------------------ */

static void put_head(struct markup *m, const char *title)
{
    markup_put(m,
               "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n<meta name=viewport "
               "content=\"width=device-width,initial-scale=1\">\n<meta name=color-scheme content=\"light dark\">\n"
               "<title>%s \u00b7 Spillway</title>\n<link rel=icon href=\"/ui/icon.svg\">\n"
               "<link rel=stylesheet href=\"/ui/style.css\">\n</head>\n<body>\n"
               "<a class=skip href=\"#main\">Skip to the content</a>\n",
               title);
}

static void put_bar(struct markup *m, const struct ui_page *here, const struct page_who *who)
{
    markup_put(m, "<header class=top>\n<a class=brand href=\"/ui\">Spillway</a>\n<nav aria-label=Pages><ul>");
    for (int i = 0; who && i < ui_n_pages; i++) {
        const struct ui_page *p = &ui_pages[i];
        if (p->needs & PAGE_ITEM)
            continue;
        markup_put(m, "<li><a href=\"/ui%s\"%s>%s</a>", p->path, p == here ? " aria-current=page" : "", p->title);
    }
    markup_put(m, "</ul></nav>\n");
    if (who) {
        markup_put(m,
                   "<form method=post action=\"/ui/logout\"><input type=hidden name=form value=\"%s\">"
                   "<span class=who>Key ",
                   who->form);
        markup_name(m, who->key_id);
        markup_put(m, "</span><button>Sign out</button></form>\n");
    }
    markup_put(m, "</header>\n");
}

static void put_foot(struct markup *m, const struct facts *f)
{
    char text[SHEET_TEXT];

    markup_put(m, "</main>\n<footer>");
    if (f) {
        markup_put(m, "As of %s, Spillway %s. Nothing here changes by itself: load the page again for newer figures. ",
                   sheet_time(f->now.ns / NS_PER_S, text), f->version);
        markup_put(m, "Amounts are US dollars, exact inside and rounded here.");
    }
    markup_put(m, "</footer>\n</body>\n</html>\n");
}

enum rc sheet_write(struct strbuf *out, const struct ui_page *page, const struct facts *f, const struct page_who *who)
{
    struct sheet s = {.m = {.out = out, .rc = RC_OK}, .f = f, .who = who};

    put_head(&s.m, page->title);
    put_bar(&s.m, page, who);
    markup_put(&s.m, "<main id=main tabindex=-1%s>\n", page == &ui_pages[0] ? " class=brief" : "");
    markup_put(&s.m, "<h1>%s</h1>\n<p class=lead>%s</p>\n", page->title, page->lead);
    page->put(&s);
    put_foot(&s.m, f);
    return s.m.rc;
}

enum rc sheet_write_login(struct strbuf *out, const char *form, const char *why)
{
    struct markup m = {.out = out, .rc = RC_OK};

    put_head(&m, "Sign in");
    markup_put(
        &m,
        "<header class=top><span class=brand>Spillway</span></header>\n<main id=main class=narrow "
        "tabindex=-1>\n<h1>Sign in</h1>\n<p class=lead>The dashboard is for people who run Spillway: it takes an API "
        "key of scope <code>admin</code>.</p>\n<section>\n");
    if (why) {
        markup_put(&m, "<p class=\"note bad\" role=alert id=why>");
        markup_text(&m, why);
        markup_put(&m, "</p>\n");
    }
    markup_put(
        &m,
        "<form class=sign method=post action=\"/ui/login\">\n<input type=hidden name=form value=\"%s\">\n"
        "<label for=key>API key</label>\n<input id=key name=key type=password required autofocus spellcheck=false "
        "autocomplete=current-password maxlength=512%s>\n<button>Sign in</button>\n</form>\n"
        "<p class=about>Who has none asks for one, or makes one where Spillway runs:<br><code>spillway keys create "
        "--tenant acme --admin</code></p>\n</section>\n",
        form, why ? " aria-invalid=true aria-describedby=why" : "");
    put_foot(&m, NULL);
    return m.rc;
}

enum rc sheet_write_problem(struct strbuf *out, const char *title, const char *text, const struct page_who *who)
{
    struct markup m = {.out = out, .rc = RC_OK};

    put_head(&m, title);
    put_bar(&m, NULL, who);
    markup_put(&m, "<main id=main tabindex=-1>\n<h1>%s</h1>\n<p class=lead>", title);
    markup_text(&m, text);
    markup_put(&m, "</p>\n<p class=more><a href=\"/ui\">To the overview</a></p>\n");
    put_foot(&m, NULL);
    return m.rc;
}

enum rc sheet_write_style(struct strbuf *out)
{
    enum rc rc = strbuf_append(out, chart_css_text, chart_css_length);

    if (rc == RC_OK)
        rc = strbuf_append(out, report_css_text, report_css_length);
    return rc == RC_OK ? strbuf_append(out, ui_css_text, ui_css_length) : rc;
}
