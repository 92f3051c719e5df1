/* Reports and the audit: what can be handed on, and what proves it. And the overview. */
#include "scheduler/ui/sheet_internal.h"

#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "scheduler/report/write.h"

/* ---- reports --------------------------------------------------------------------------------------------------------- */

static void put_report(struct sheet *s, const struct file_seen *f)
{
    enum report_format kind = REPORT_HTML;
    char size[32];

    const bool page = files_kind(f->name, &kind) && kind == REPORT_HTML;
    markup_put(&s->m, "<tr><th scope=row><a href=\"/ui/reports/%s\"%s>%s</a></th>", f->name, page ? "" : " download",
               f->name);
    markup_put(&s->m, "<td class=\"text wide\">%s</td><td class=wide>%s</td><td>",
               page ? "page, to read" : report_format_name(kind),
               text_format_size((f->bytes + 1023) / 1024 * 1024, size, sizeof size));
    sheet_put_ago(s, f->changed_s);
    markup_put(&s->m, "</td></tr>\n");
}

void sheet_put_reports(struct sheet *s, int most)
{
    const struct files *f = &s->f->files;
    const int n = f->n < most ? f->n : most;

    if (f->why[0]) {
        markup_put(&s->m, "<p class=\"note bad\">");
        markup_text(&s->m, f->why);
        markup_put(&s->m, "</p>\n");
    }
    if (n == 0) {
        markup_empty(&s->m,
                     "None is there yet. The scheduler makes one each night where <code>reports</code> says so; "
                     "<code>spillway report --period yesterday --format html --out FOLDER</code> makes one now.");
        return;
    }
    markup_table(&s->m, "Files of reports", "File|~<Kind|~Size|Made");
    for (int i = 0; i < n; i++)
        put_report(s, &f->of[i]);
    markup_table_end(&s->m);
    markup_rest(&s->m, n, f->in_all);
}

void sheet_draw_reports(struct sheet *s)
{
    markup_section(&s->m, "reports", "Files",
                   "A report is one page that needs nothing else: it can be kept, printed and sent on. Tables are for "
                   "spreadsheets and finance's own programs.");
    sheet_put_reports(s, FILES_MAX);
    markup_section_end(&s->m);
}

/* ---- the audit --------------------------------------------------------------------------------------------------- */

static void put_audit_state(struct sheet *s)
{
    const struct facts_audit *a = &s->f->audit;

    if (a->stats.failing)
        sheet_put_state(s, FACTS_ILL, "cannot be written");
    else
        sheet_put_state(s, FACTS_WELL, "written and signed");
}

void sheet_put_audit_line(struct sheet *s)
{
    const struct facts_audit *a = &s->f->audit;
    char text[SHEET_TEXT];

    if (!a->on) {
        markup_empty(&s->m, "No audit is kept: the configuration says <code>audit: off</code>.");
        return;
    }
    markup_put(&s->m, "<p>");
    put_audit_state(s);
    markup_put(&s->m, " The chain has %s records", sheet_count(a->head.seq, text));
    if (a->head.seq)
        markup_put(&s->m, "; its newest head was signed at %.19sZ", a->head.time);
    markup_put(&s->m, ".</p>\n");
}

static void put_word(struct sheet *s, const char *word, const char *value, const char *about)
{
    markup_put(&s->m, "<dt>%s</dt><dd><code>", word);
    markup_text(&s->m, value);
    markup_put(&s->m, "</code><br><span class=soft>%s</span></dd>", about);
}

static void put_head_words(struct sheet *s)
{
    const struct facts_audit *a = &s->f->audit;
    char hash[2 * sizeof a->head.hash + 1], text[SHEET_TEXT];

    markup_put(&s->m, "<dl class=words>");
    put_word(s, "Record", sheet_count(a->head.seq, text), "the last one under this head");
    put_word(s, "Hash", text_hex(hash, &a->head.hash, sizeof a->head.hash),
             "of that record, and through it of every record before it");
    put_word(s, "Signed", a->head.time, "by the key below");
    put_word(s, "Chain", a->head.chain, "its name, for <code>spillway audit verify</code>");
    put_word(s, "Key", a->fingerprint, "fingerprint of the public part; <code>spillway audit key</code> exports it");
    markup_put(&s->m, "</dl>\n");
}

static void put_counts(struct sheet *s)
{
    const struct audit_stats *t = &s->f->audit.stats;
    char a[SHEET_TEXT], b[SHEET_TEXT], c[SHEET_TEXT], d[SHEET_TEXT];

    markup_put(&s->m,
               "<p class=soft>Since the start: %s records in %s signed groups; %d wait; %s writes failed and were "
               "tried again; "
               "%s refused logins were counted, not written.</p>\n",
               sheet_count((int64_t)t->records, a), sheet_count((int64_t)t->groups, b), t->queued,
               sheet_count((int64_t)t->failures, c), sheet_count((int64_t)t->logins_not_written, d));
    if (t->lost)
        markup_put(&s->m, "<p class=\"note bad\">%s records were lost.</p>\n", sheet_count((int64_t)t->lost, a));
    if (t->failing) {
        markup_put(&s->m, "<p class=\"note bad\">");
        markup_text(&s->m, s->f->audit.error);
        markup_put(&s->m, "</p>\n");
    }
}

void sheet_draw_audit(struct sheet *s)
{
    markup_section(
        &s->m, "head", "Where the chain ends",
        "Each request, each act of an operator and each refused login is a record; each record "
        "holds the hash of the one before. Who keeps this head elsewhere can prove later that nothing before it was "
        "changed: write it down, or let <code>audit.heads</code> send it.");
    sheet_put_audit_line(s);
    if (s->f->audit.on && s->f->audit.head.seq)
        put_head_words(s);
    if (s->f->audit.on)
        put_counts(s);
    markup_section_end(&s->m);
}

/* ---- the overview ------------------------------------------------------------------------------------------------ */

static void put_readiness(struct sheet *s)
{
    markup_put(&s->m, "<p class=now>");
    if (s->f->ready)
        sheet_put_state(s, FACTS_WELL, "serving");
    else
        sheet_put_state(s, s->f->draining ? FACTS_BETWEEN : FACTS_ILL, s->f->draining ? "draining" : "not ready");
    if (!s->f->ready && !s->f->draining)
        markup_put(&s->m, " %s", s->f->why_not);
    markup_put(&s->m, "</p>\n");
}

static void put_part(struct sheet *s, const char *id, const char *title, void (*put)(struct sheet *s, int most),
                     int most, const char *path, const char *more)
{
    markup_section(&s->m, id, title, NULL);
    put(s, most);
    sheet_more(s, path, more);
    markup_section_end(&s->m);
}

void sheet_draw_overview(struct sheet *s)
{
    put_readiness(s);
    sheet_put_figures(s);
    put_part(s, "machines", "Machines", sheet_put_nodes, 12, "/fleet", "All machines, and what an hour costs");
    markup_section(&s->m, "spend", "The month, day by day", NULL);
    sheet_put_spend(s);
    sheet_more(s, "/money", "More about money");
    markup_section_end(&s->m);
    put_part(s, "budgets", "Budgets", sheet_put_budget_bars, 6, "/money", "All budgets, and how they burn");
    put_part(s, "service", "Promises kept", sheet_put_routes, 8, "/service", "All models");
    put_part(s, "decisions", "The last decisions", sheet_put_decisions, 5, "/decisions", "More decisions");
    put_part(s, "reports", "Reports", sheet_put_reports, 4, "/reports", "All reports");
    markup_section(&s->m, "audit", "Audit", NULL);
    sheet_put_audit_line(s);
    sheet_more(s, "/audit", "Where the chain ends");
    markup_section_end(&s->m);
}
