/* Machines: where their bill went, energy, pre-emptions. Trust: hours, corrections, the audit. The words used. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "scheduler/report/html_internal.h"

#define POOLS_SHOWN       15
#define CORRECTIONS_SHOWN 20

/* ---- machines ---------------------------------------------------------------------------------------------------- */

#define PARTS 5
static const struct svg_series part_names[PARTS] = {
    {"answers", 0, NULL}, {"idle", 6, NULL}, {"starting", 1, NULL}, {"waste", 2, NULL}, {"unexplained", 4, NULL}};

static void put_bill_bars(struct page *p)
{
    const struct report_axis *axis = &p->r->axes[REPORT_POOL];
    double parts[POOLS_SHOWN][PARTS];
    char values[POOLS_SHOWN][PAGE_TEXT];
    struct svg_bar bars[POOLS_SHOWN];
    int n = 0;

    for (int i = 0; i < axis->n && n < POOLS_SHOWN; i++) {
        const struct report_cost *c = &axis->of[i].cost;
        const struct pusd_sum of[PARTS] = {c->allocated, c->idle, c->boot, c->waste, c->variance};
        if (c->bill.v == 0)
            continue;
        for (int k = 0; k < PARTS; k++)
            parts[n][k] = page_dollars(of[k]);
        bars[n] = (struct svg_bar){report_member_name(REPORT_POOL, &axis->of[i]), page_money_text(c->bill, values[n]),
                                   parts[n]};
        n++;
    }
    svg_key(&p->m, part_names, PARTS);
    svg_bars(&p->m, "Where the bill of each pool went",
             "A bar for each pool: what went into answers, idle time, starting up, waste, and what is not explained",
             bars, n, part_names, PARTS, svg_dollars);
}

static void put_pools(struct page *p)
{
    const struct report_axis *axis = &p->r->axes[REPORT_POOL];
    char text[WRITE_TIME];

    page_table(p, "Pools of machines, and APIs",
               "Pool|Bill|Machine hours|Busy|Idle|Asleep|Idle money|Energy|Answers interrupted");
    for (int i = 0; i < axis->n && i < POOLS_SHOWN; i++) {
        const struct report_cost *c = &axis->of[i].cost;
        const struct pusd_sum paid = {c->paid_us};
        if (c->bill.v == 0 && c->paid_us == 0)
            continue;
        page_row(p, report_member_name(REPORT_POOL, &axis->of[i]));
        page_cell_money(p, c->bill);
        page_cell_count(p, c->paid_us / 3600000000);
        page_cell_percent(p, report_ppm((struct pusd_sum){c->busy_us}, paid));
        page_cell_percent(p, report_ppm((struct pusd_sum){c->idle_us}, paid));
        page_cell_percent(p, report_ppm((struct pusd_sum){c->asleep_us}, paid));
        page_cell_money(p, c->idle);
        markup_put(&p->m, "<td>%s</td>", c->energy_mj ? write_kwh(c->energy_mj, text) : "\u2013");
        page_cell_count(p, c->preempted);
        markup_put(&p->m, "</tr>\n");
    }
    page_table_end(p);
}

static void item(struct page *p, const char *name)
{
    markup_put(&p->m, "<dt>%s</dt><dd>", name);
}

static void put_fleet_facts(struct page *p)
{
    const struct report *r = p->r;
    const struct report_cost *c = &r->cost;
    char text[WRITE_TIME];

    markup_put(&p->m, "<dl class=words>");
    item(p, "Idle");
    page_money(p, c->idle);
    markup_put(&p->m, ", ");
    page_percent(p, report_ppm(c->idle, c->bill));
    markup_put(&p->m, " of the bill: machines that were paid for and had nothing to do</dd>");
    item(p, "Waste");
    page_money(p, c->waste);
    markup_put(&p->m, ", ");
    page_percent(p, report_ppm(c->waste, c->bill));
    markup_put(&p->m, " of the bill: work on answers that nobody got. %s requests failed, ",
               write_count(r->use.failed, text));
    markup_put(&p->m, "%s were cancelled by those who asked</dd>", write_count(r->use.cancelled, text));
    item(p, "Energy");
    markup_put(&p->m, "%s, ", write_kwh(c->energy_mj, text));
    page_money(p, c->energy);
    markup_put(&p->m, "; ");
    page_percent(p, report_ppm((struct pusd_sum){c->idle_mj}, (struct pusd_sum){c->energy_mj}));
    markup_put(&p->m, " of it idle; ");
    page_percent(p, report_ppm((struct pusd_sum){c->metered_mj}, (struct pusd_sum){c->energy_mj}));
    markup_put(&p->m, " metered, the rest modelled or not known</dd>");
    item(p, "Pre-emptions survived");
    markup_put(&p->m, "%s answers were cut by a machine\u2019s end and went on elsewhere; ",
               write_count(c->preempted, text));
    markup_put(&p->m, "%s answers went on elsewhere in all, also after failures</dd>",
               write_count(r->use.continuations, text));
    item(p, "Unexplained");
    page_money(p, c->variance);
    markup_put(&p->m, ": what measurements leave over between the parts and the bill</dd></dl>\n");
}

void page_fleet(struct page *p)
{
    page_section(
        p, "fleet", "Machines: where the bill went",
        "What machines and providers cost, by what became of it. Of every machine and hour the parts add up to its "
        "bill, to the last digit.");
    if (p->r->cost.bill.v == 0)
        page_empty(p, "No machine\u2019s bill is in this time. Own machines need a price or a purchase in their "
                      "configuration to have one.");
    else {
        put_bill_bars(p);
        put_fleet_facts(p);
        put_pools(p);
    }
    page_section_end(p);
}

/* ---- trust ------------------------------------------------------------------------------------------------------- */

static void put_hours(struct page *p)
{
    const struct report_hours *h = &p->r->hours;
    char text[WRITE_TIME];

    item(p, "Closed hours");
    markup_put(&p->m, "%s, each compared with its rows when it closed; ", write_count(h->closed, text));
    if (h->wrong) {
        markup_put(&p->m, "<strong class=bad>%s do not add up</strong>", write_count(h->wrong, text));
        markup_put(&p->m, ", the first %s: ", write_utc(h->first_wrong_s, text));
        markup_text(&p->m, h->first_problem);
    } else
        markup_put(&p->m, "all add up");
    markup_put(&p->m, "</dd>");
    item(p, "Still open");
    if (h->open)
        markup_put(&p->m, "%" PRId64 " hours, the first %s: they are not in this report</dd>", h->open,
                   write_utc(h->first_open_s, text));
    else
        markup_put(&p->m, "none</dd>");
}

static void put_unallocated(struct page *p)
{
    const struct report *r = p->r;
    char text[WRITE_TIME];

    item(p, "Nobody\u2019s");
    page_money(p, r->unallocated.charge);
    markup_put(&p->m, ", ");
    page_percent(p, report_ppm(r->unallocated.charge, r->use.charge));
    markup_put(&p->m, " of spend, is of %s requests whose team is not known</dd>",
               write_count(r->unallocated.requests, text));
    item(p, "Corrections");
    page_money(p, r->corrected);
    markup_put(&p->m, " in %d correction%s of finance; booked rows are never changed</dd>", r->n_corrections,
               r->n_corrections == 1 ? "" : "s");
}

char *page_hash_text(const struct report *r, char *buf)
{
    return text_hex(buf, &r->head.hash, sizeof(r->head.hash));
}

static void put_audit(struct page *p)
{
    const struct report *r = p->r;
    char text[2 * sizeof(r->head.hash) + 1];

    item(p, "Audit");
    if (r->has_head) {
        markup_put(&p->m, "%" PRId64 " records in one signed chain, verified. Its newest head, of ", r->head.seq);
        markup_text(&p->m, r->head.time);
        markup_put(&p->m,
                   ":<br><code>%s</code><br>Keep this page: with it, <code>spillway audit verify</code> finds any "
                   "record that is changed or removed later</dd>",
                   page_hash_text(r, text));
        return;
    }
    markup_text(&p->m, r->head_why ? r->head_why : "not part of this report");
    markup_put(&p->m, "</dd>");
}

static void put_corrections(struct page *p)
{
    const struct report *r = p->r;
    char text[WRITE_TIME];

    page_table(p, "Corrections", "When|<Request|<Team|Charge|<Reason");
    for (int i = 0; i < r->n_corrections && i < CORRECTIONS_SHOWN; i++) {
        const struct report_correction *c = &r->corrections[i];
        page_row(p, write_utc(c->at_s, text));
        markup_put(&p->m, "<td class=text><code>");
        markup_text(&p->m, c->request_id ? c->request_id : "\u2013");
        markup_put(&p->m, "</code></td><td class=text>");
        markup_name(&p->m, c->team ? c->team : "\u2013");
        markup_put(&p->m, "</td>");
        page_cell_money(p, (struct pusd_sum){c->charge.v});
        markup_put(&p->m, "<td class=text>");
        markup_text(&p->m, c->reason);
        markup_put(&p->m, "</td></tr>\n");
    }
    page_table_end(p);
}

void page_trust(struct page *p)
{
    page_section(
        p, "trust", "Can these numbers be trusted?",
        "Everything here is summed from the ledger\u2019s closed hours. <code>spillway report --reconcile</code> "
        "proves again that they add up, also against a provider\u2019s invoice.");
    markup_put(&p->m, "<dl class=words>");
    put_hours(p);
    put_unallocated(p);
    put_audit(p);
    markup_put(&p->m, "</dl>\n");
    if (p->r->n_corrections)
        put_corrections(p);
    page_section_end(p);
}

/* ---- words ------------------------------------------------------------------------------------------------------- */

void page_words(struct page *p)
{
    static const char *const of[][2] = {
        {"Spillway",
         "answers requests to language models with the machines an organisation owns, and rents machines or pays "
         "APIs only where that is cheaper or needed."},
        {"Token", "a piece of a word; models read and write them, and prices are per million of them."},
        {"Spend", "what requests are charged: tokens times the price of whoever answered, and corrections of finance."},
        {"Bill, cost", "what machines, energy and providers cost, used or not."},
        {"Own machines (on-prem)", "bought and written off; they cost the same idle or busy, but for energy."},
        {"Spot", "rented machines that are cheap since their owner may take them back at short notice."},
        {"On demand", "rented machines at list price that stay."},
        {"API", "a provider that is paid by the token."},
        {"Pool", "machines of one kind that serve the same models."},
        {"Pre-emption", "a spot machine is taken back; answers under way go on elsewhere, unseen by who asked."},
        {"Cache", "keeps answers; an identical question is answered from it, free of charge."},
        {"Period before",
         "the calendar month, or as many days, before this report\u2019s; of a period under way, as much "
         "of it."},
    };
    page_section(p, "words", "Words used here", NULL);
    markup_put(&p->m, "<dl class=words>");
    for (size_t i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
        item(p, of[i][0]);
        markup_put(&p->m, "%s</dd>", of[i][1]);
    }
    markup_put(&p->m, "</dl>\n");
    page_section_end(p);
}
