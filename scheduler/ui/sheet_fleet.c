/* Machines: what there is, in which state, at which price and draw. */
#include "scheduler/ui/sheet_internal.h"

#include <inttypes.h>
#include <stdio.h>

#include "scheduler/report/svg.h"

static const char *how_paid(const struct facts_node *n)
{
    return n->rented ? "rented by the hour" : n->local ? "our own" : "by the token";
}

static void put_price(struct sheet *s, const struct facts_node *n)
{
    char in[SHEET_TEXT], out[SHEET_TEXT];

    if (n->rented)
        markup_put(&s->m, "<td class=wide>%s<br><small>an hour</small></td>", sheet_dollars(n->hour, in));
    else
        markup_put(&s->m, "<td class=wide>$%s / $%s<br><small>a million in / out</small></td>",
                   price_format(n->prices.input, in, sizeof in), price_format(n->prices.output, out, sizeof out));
}

static void put_load(struct sheet *s, const struct facts_node *n)
{
    if (n->slots)
        markup_put(&s->m, "<td>%d of %d</td>", n->in_flight, n->slots);
    else
        markup_put(&s->m, "<td>%d</td>", n->in_flight);
}

static void put_draw(struct sheet *s, const struct facts_node *n)
{
    char text[SHEET_TEXT];

    if (!n->local)
        markup_put(&s->m, "<td class=wide>\u2013</td>");
    else if (n->watts_are == NODE_WATTS_UNKNOWN)
        markup_put(&s->m, "<td class=wide><span class=soft>not known</span></td>");
    else
        markup_put(&s->m, "<td class=wide>%s%s</td>", n->watts_are == NODE_WATTS_ESTIMATED ? "about " : "",
                   sheet_watts(n->milliwatts, text));
}

static void put_node(struct sheet *s, const struct facts_node *n)
{
    char text[SHEET_TEXT];

    markup_row(&s->m, n->name);
    markup_put(&s->m, "<td class=text>");
    sheet_put_state(s, n->mood, n->state);
    if (n->since_s)
        markup_put(&s->m, " <small class=whole>for %s</small>", sheet_for(s->f->now.ns / NS_PER_S - n->since_s, text));
    if (n->reason[0]) {
        markup_put(&s->m, "<br><small>");
        markup_text(&s->m, n->reason);
        markup_put(&s->m, "</small>");
    }
    markup_put(&s->m, "</td><td class=\"text wide\">%s", how_paid(n));
    if (n->pool[0]) {
        markup_put(&s->m, "<br><small>pool ");
        markup_name(&s->m, n->pool);
        markup_put(&s->m, "</small>");
    }
    markup_put(&s->m, "</td><td class=\"text wide\">");
    markup_text(&s->m, n->models);
    markup_put(&s->m, "</td>");
    put_load(s, n);
    put_price(s, n);
    put_draw(s, n);
    markup_put(&s->m, "</tr>\n");
}

void sheet_put_nodes(struct sheet *s, int most)
{
    const struct facts *f = s->f;
    const int n = f->n_nodes < most ? f->n_nodes : most;

    if (f->n_nodes_in_all == 0) {
        markup_empty(&s->m, "There is no machine yet: none is configured, and no pool has launched one.");
        return;
    }
    markup_table(&s->m, "Machines and their state", "Name|<State|~<Paid|~<Models|Requests now|~Price|~Draw");
    for (int i = 0; i < n; i++)
        put_node(s, &f->nodes[i]);
    markup_table_end(&s->m);
    markup_rest(&s->m, n, f->n_nodes_in_all);
}

/* ---- the page ------------------------------------------------------------------------------------------------------- */

static void put_rate_part(struct sheet *s, const char *what, struct pusd_sum a, const char *whence)
{
    char text[SHEET_TEXT];

    markup_put(&s->m, "<tr><th scope=row>%s</th><td>%s</td><td class=\"text long\">%s</td></tr>\n", what,
               sheet_money(a, text), whence);
}

static void put_rate(struct sheet *s)
{
    const struct facts_rate *r = &s->f->rate;
    const struct pusd_sum all = {r->rents.v + r->energy.v + r->standing.v + r->by_token.v};
    char text[SHEET_TEXT];

    markup_section(&s->m, "rate", "What an hour costs now",
                   "Rents and energy as they are at this moment; what is written off, and what paid services ask for "
                   "tokens, as in the last hour that is closed.");
    markup_table(&s->m, "Costs of an hour", "Part|Dollars an hour|<Where it comes from");
    put_rate_part(s, "Rented machines", r->rents, "prices at which they were launched");
    put_rate_part(s, "Energy on the premises", r->energy, "what the machines draw, at the tariff of this hour");
    put_rate_part(s, "Own machines", r->standing, "written off, or rented for longer");
    put_rate_part(s, "Paid services", r->by_token, "their tokens of the last closed hour");
    markup_total(&s->m);
    markup_put(&s->m, "<td>%s</td><td></td>", sheet_money(all, text));
    markup_total_end(&s->m);
    if (r->unmeasured)
        markup_put(
            &s->m,
            "<p class=soft><small>Machines on the premises whose draw is not known, and counts as nothing: %d. Their "
            "<code>watts</code> can be declared.</small></p>\n",
            r->unmeasured);
    markup_section_end(&s->m);
}

static void put_words(struct sheet *s)
{
    markup_section(&s->m, "words", "Words used here", NULL);
    markup_put(
        &s->m,
        "<dl class=words><dt>ready</dt><dd>It answers, and gets requests.</dd>"
        "<dt>held</dt><dd>It answers, but is left alone for a while, since it failed too often or asked for it.</dd>"
        "<dt>draining</dt><dd>It finishes what it has and gets nothing new.</dd>"
        "<dt>asleep, off</dt><dd>It costs less while nobody needs it, and is woken when somebody does.</dd>"
        "<dt>failing, stopped, lost</dt><dd>It does not answer; the line below says what was seen.</dd>"
        "<dt>Price</dt><dd>Dollars for a million tokens that are read / written; of rented machines, for an hour.</dd>"
        "<dt>about</dt><dd>A draw that was declared, not measured.</dd></dl>\n");
    markup_section_end(&s->m);
}

void sheet_draw_fleet(struct sheet *s)
{
    markup_section(&s->m, "machines", "Machines", NULL);
    sheet_put_nodes(s, FACTS_NODES_MAX);
    markup_section_end(&s->m);
    put_rate(s);
    put_words(s);
}
