/* The report as Markdown: for chats, tickets, and people who read files in a terminal. */
#include <inttypes.h>
#include <string.h>

#include "scheduler/report/write.h"

#define ROWS_MAX 15 /* of a table; the rest is in the CSV */

struct md {
    const struct report *r;
    FILE *out;
};

/* A name is somebody's text: it ends no table and starts no markup. */
static void put_name(const struct md *m, const char *name)
{
    for (const char *p = name; *p; p++) {
        if (strchr("\\`*_{}[]<>#|~", *p))
            fputc('\\', m->out);
        fputc(*p == '\n' || *p == '\r' ? ' ' : *p, m->out);
    }
}

static void put_money(const struct md *m, struct pusd_sum a)
{
    char text[WRITE_MONEY];
    fputs(write_money(a, text), m->out);
}

static void put_cell_money(const struct md *m, struct pusd_sum a)
{
    fputs(" | ", m->out);
    put_money(m, a);
}

static void put_cell_count(const struct md *m, int64_t n)
{
    char text[WRITE_TIME];
    fprintf(m->out, " | %s", write_count(n, text));
}

static void put_cell_change(const struct md *m, struct pusd_sum now, struct pusd_sum before)
{
    char text[WRITE_TIME];
    bool known;
    const int64_t ppm = write_change(now, before, &known);
    fprintf(m->out, " | %s", known ? write_percent(ppm, true, text) : now.v ? "new" : "-");
}

static void head(const struct md *m, const char *title, const char *columns)
{
    int n = 1;
    fprintf(m->out, "\n## %s\n\n| %s |\n|", title, columns);
    for (const char *p = columns; *p; p++)
        n += *p == '|';
    for (int i = 0; i < n; i++)
        fputs(i ? "---:|" : "---|", m->out);
    fputc('\n', m->out);
}

/* ---- headline ---------------------------------------------------------------------------------------------------- */

static struct pusd_sum plus(struct pusd_sum a, struct pusd_sum b)
{
    return (struct pusd_sum){a.v + b.v};
}

static void line(const struct md *m, const char *what, struct pusd_sum now, struct pusd_sum before,
                 struct pusd_sum month)
{
    fprintf(m->out, "| %s", what);
    put_cell_money(m, now);
    put_cell_money(m, before);
    put_cell_change(m, now, before);
    put_cell_money(m, month);
    fputs(" |\n", m->out);
}

static void headline(const struct md *m)
{
    const struct report *r = m->r;
    char from[WRITE_TIME], until[WRITE_TIME];
    fputs("# ", m->out);
    put_name(m, r->site);
    fputs(": cost report ", m->out);
    put_name(m, r->period.name);
    if (r->team) {
        fputs(", team ", m->out);
        put_name(m, r->team);
    }
    fprintf(m->out, "\n\n%s to %s (exclusive), days of %s.\n", write_utc(r->period.from_s, from),
            write_utc(r->period.until_s, until), r->zone_name);
    head(m, "Headline", "amount | this period | the one before | change | month so far");
    line(m, "Charged", plus(r->use.charge, r->corrected), plus(r->use_before.charge, r->corrected_before),
         plus(r->month.charge, r->month_corrected));
    if (r->team)
        line(m, "Cost of its work", plus(r->use.allocated, r->use.waste),
             plus(r->use_before.allocated, r->use_before.waste), plus(r->month.allocated, r->month.waste));
    else
        line(m, "Cost (bills)", r->cost.bill, r->cost_before.bill, r->month_cost.bill);
    fputs(
        "\nCharged is what users are charged: tokens at their prices. Cost is what machines and providers cost; of a\n"
        "team or a model what its own work took, since idle time and starts are nobody's.\n",
        m->out);
    if (r->hours.open)
        fprintf(m->out, "\n**%" PRId64 " %s not closed yet and not in here**, from %s on.\n", r->hours.open,
                write_hours_are(r->hours.open), write_utc(r->hours.first_open_s, from));
    if (r->hours.wrong)
        fprintf(m->out,
                "\n**Hours that do not close: %" PRId64 "** (the first: %s); see `spillway report --reconcile`.\n",
                r->hours.wrong, write_utc(r->hours.first_wrong_s, from));
}

/* ---- by what ----------------------------------------------------------------------------------------------------- */

struct by_row {
    const char *name;
    struct pusd_sum charged, before, cost;
    const struct report_use *use;
};

static void by_row(const struct md *m, const struct by_row *x)
{
    const int64_t tokens = report_tokens(x->use);
    fputs("| ", m->out);
    put_name(m, x->name);
    put_cell_money(m, x->charged);
    put_cell_change(m, x->charged, x->before);
    put_cell_money(m, x->cost);
    put_cell_count(m, x->use->requests);
    put_cell_count(m, tokens);
    put_cell_money(m, report_per_million(x->use->charge, tokens));
    fputs(" |\n", m->out);
}

static void by(const struct md *m, enum report_dim d, const char *title)
{
    const struct report *r = m->r;
    const struct report_axis *a = &r->axes[d];
    struct by_row all = {
        "together", plus(r->use.charge, r->corrected), plus(r->use_before.charge, r->corrected_before), {0}, &r->use};
    int shown = 0;
    for (int i = 0; i < a->n; i++) {
        const struct report_member *x = &a->of[i];
        const struct by_row row = {report_member_name(d, x), plus(x->use.charge, x->corrected),
                                   plus(x->use_before.charge, x->corrected_before), report_member_cost(d, x), &x->use};
        all.cost = plus(all.cost, row.cost);
        if ((!row.charged.v && !row.cost.v && !x->use.requests) || shown == ROWS_MAX)
            continue;
        if (shown++ == 0)
            head(m, title, "name | charged | change | cost | requests | tokens | per million tokens");
        by_row(m, &row);
    }
    if (shown > 1)
        by_row(m, &all);
    else if (!shown)
        fprintf(m->out, "\n## %s\n\nThere were no requests.\n", title);
}

static void units(const struct md *m)
{
    const struct report *r = m->r;
    if (!r->n_units)
        return;
    head(m, "What a request costs",
         "model | pool | requests | p50 | p99 | charged per million tokens | cost per million tokens");
    for (int i = 0; i < r->n_units && i < 2 * ROWS_MAX; i++) {
        const struct report_unit *u = &r->units[i];
        const int64_t tokens = report_tokens(&u->use);
        fputs("| ", m->out);
        put_name(m, u->model ? u->model : "(no model)");
        fputs(" | ", m->out);
        put_name(m, u->pool ? u->pool : "all");
        put_cell_count(m, u->use.requests);
        if (u->requests) {
            put_cell_money(m, (struct pusd_sum){u->p50.v});
            put_cell_money(m, (struct pusd_sum){u->p99.v});
        } else {
            fputs(" | | ", m->out);
        }
        put_cell_money(m, report_per_million(u->use.charge, tokens));
        put_cell_money(m, report_per_million(plus(u->use.allocated, u->use.waste), tokens));
        fputs(" |\n", m->out);
    }
}

/* ---- budgets, savings -------------------------------------------------------------------------------------------- */

static void budgets(const struct md *m)
{
    const struct report *r = m->r;
    char text[WRITE_TIME];
    if (!r->n_budgets)
        return;
    head(m, "Budgets", "budget | spent | limit | used | days gone");
    for (int i = 0; i < r->n_budgets && i < 2 * ROWS_MAX; i++) {
        const struct report_budget *b = &r->budgets[i];
        const struct pusd_sum spent = {b->spent.v}, limit = {b->limit.v};
        fputs("| ", m->out);
        put_name(m, b->name);
        put_cell_money(m, spent);
        if (b->limit.v == BUDGET_UNLIMITED) {
            fputs(" | none | ", m->out);
        } else {
            put_cell_money(m, limit);
            fprintf(m->out, " | %s", write_percent(report_ppm(spent, limit), false, text));
        }
        fprintf(m->out, " | %d of %d |\n", b->n_days, b->days_in_all);
    }
}

static void savings(const struct md *m)
{
    const struct report *r = m->r;
    char text[WRITE_TIME];
    head(m, "Savings", "against | would cost | costs | saved | prices known for");
    for (int i = 0; i < REPORT_SAVINGS; i++) {
        const struct report_saving *s = &r->savings[i];
        fprintf(m->out, "| %s", write_saving_names[i]);
        if (!s->known_ppm && !s->would.v && !s->saved.v) {
            fputs(" | - | - | not known", m->out);
        } else {
            put_cell_money(m, s->would);
            put_cell_money(m, s->is);
            put_cell_money(m, s->saved);
        }
        fprintf(m->out, " | %s |\n", write_percent(s->known_ppm, false, text));
    }
    fputc('\n', m->out);
    for (int i = 0; i < REPORT_SAVINGS; i++)
        fprintf(m->out, "- *%s*: %s.\n", write_saving_names[i], r->savings[i].assumption);
}

/* ---- where the money went ----------------------------------------------------------------------------------------- */

static void part(const struct md *m, const char *what, struct pusd_sum a, struct pusd_sum of)
{
    char text[WRITE_TIME];
    fprintf(m->out, "| %s", what);
    put_cell_money(m, a);
    fprintf(m->out, " | %s |\n", write_percent(report_ppm(a, of), false, text));
}

static void bill(const struct md *m)
{
    const struct report_cost *c = &m->r->cost;
    char text[3][WRITE_TIME];
    if (m->r->team)
        return;
    head(m, "Where the bill went", "part | amount | share");
    part(m, "allocated to answers", c->allocated, c->bill);
    part(m, "idle", c->idle, c->bill);
    part(m, "booting", c->boot, c->bill);
    part(m, "waste (failed, cancelled)", c->waste, c->bill);
    part(m, "variance", c->variance, c->bill);
    fprintf(m->out, "\nEnergy: %s, of them %s idle. Answers that survived a machine's end: %s.\n",
            write_kwh(c->energy_mj, text[0]), write_kwh(c->idle_mj, text[1]), write_count(c->preempted, text[2]));
}

static void rest(const struct md *m)
{
    const struct report *r = m->r;
    char text[WRITE_TIME];
    struct strbuf b;
    fputs("\n## Is it whole?\n\n", m->out);
    fprintf(m->out, "- Charged to no team: %s of all that was charged.\n",
            write_percent(report_ppm(r->unallocated.charge, r->use.charge), false, text));
    fprintf(m->out, "- Failed: %s, cancelled: ", write_count(r->use.failed, text));
    fprintf(m->out, "%s requests. ", write_count(r->use.cancelled, text));
    fprintf(m->out, "From memory: %s.\n", write_count(r->use.cached, text));
    fprintf(m->out, "- Corrections: %d, ", r->n_corrections);
    put_money(m, r->corrected);
    fputs(".\n", m->out);
    for (int i = 0; i < r->n_discounts; i++) {
        fputs("- Discount, ", m->out);
        put_name(m, r->discounts[i].subject);
        fputs(": ", m->out);
        put_money(m, r->discounts[i].discount);
        fputs(" (not taken off above).\n", m->out);
    }
    strbuf_init(&b, 4096);
    if (r->has_head && audit_head_write(&r->head, &b) == RC_OK)
        fprintf(m->out, "- Audit head, to be kept (`spillway audit verify --head`):\n\n  ```json\n  %s\n  ```\n",
                b.data);
    else if (r->head_why)
        fprintf(m->out, "- No audit head: %s.\n", r->head_why);
    strbuf_fini(&b);
}

enum rc report_write_md(const struct report *r, FILE *out, struct error *e)
{
    const struct md m = {r, out};
    headline(&m);
    by(&m, REPORT_TEAM, "By team");
    by(&m, REPORT_MODEL, "By model");
    by(&m, REPORT_PROVIDER, "By provider");
    by(&m, REPORT_MARKET, "By market");
    units(&m);
    budgets(&m);
    savings(&m);
    bill(&m);
    rest(&m);
    return fflush(out) == 0 && !ferror(out) ? RC_OK : error_set(e, RC_IO, "the report cannot be written");
}
