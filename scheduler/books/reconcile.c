#include "scheduler/books/reconcile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/lines.h"
#include "base/text.h"
#include "scheduler/books/archive.h"

#define ITEMS_MAX 100000

struct item {
    char provider[64], resource[128]; /* resource "": all of the provider's */
    struct pusd_sum bill, invoice;
    bool on_invoice;
};
struct tally {
    struct reconciled *out;
    struct item *items;
    int n, cap;
};

static struct item *item(struct tally *t, const char *provider, const char *resource, bool make)
{
    for (int i = 0; i < t->n; i++)
        if (strcmp(t->items[i].provider, provider) == 0 && strcmp(t->items[i].resource, resource) == 0)
            return &t->items[i];
    if (!make || t->n == ITEMS_MAX)
        return NULL;
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 64;
        t->items = spw_realloc(t->items, (size_t)t->cap * sizeof *t->items);
    }
    struct item *x = &t->items[t->n++];
    memset(x, 0, sizeof *x);
    snprintf(x->provider, sizeof x->provider, "%s", provider);
    snprintf(x->resource, sizeof x->resource, "%s", resource);
    return x;
}

/* ---- ours -------------------------------------------------------------------------------------------------------- */

static void take_node(const struct node_hour *h, void *arg)
{
    struct tally *t = arg;
    const char *provider = h->provider ? h->provider : "unknown";
    struct item *all = item(t, provider, "", true), *own;
    if (all)
        pusd_sum_add(&all->bill, h->bill);
    own = item(t, provider, h->node, true);
    if (own)
        pusd_sum_add(&own->bill, h->bill);
    pusd_sum_add(&t->out->bill, h->bill);
    pusd_sum_add(&t->out->allocated, h->allocated);
    pusd_sum_add(&t->out->idle, h->idle);
    pusd_sum_add(&t->out->boot, h->boot);
    pusd_sum_add(&t->out->waste, h->waste);
    pusd_sum_add(&t->out->variance, h->variance);
}

static void take_hour(const struct closed_hour *h, void *arg)
{
    pusd_sum_add(&((struct tally *)arg)->out->charge, h->charge);
}

/* ---- theirs ------------------------------------------------------------------------------------------------------ */

struct columns {
    int cost, from, until, provider, resource, currency;
};

static enum rc find_columns(const struct csv *c, struct columns *k, struct error *e)
{
    static const char *const names[] = {"HostProviderName", "ServiceProviderName", "ProviderName"};
    enum rc rc = RC_OK;
    k->cost = csv_find(c, "EffectiveCost");
    if (k->cost < 0)
        rc = csv_need(c, "BilledCost", &k->cost, e);
    if (rc == RC_OK)
        rc = csv_need(c, "ChargePeriodStart", &k->from, e);
    if (rc == RC_OK)
        rc = csv_need(c, "ChargePeriodEnd", &k->until, e);
    k->provider = -1;
    for (int i = 0; i < 3 && k->provider < 0; i++)
        k->provider = csv_find(c, names[i]);
    k->resource = csv_find(c, "ResourceId");
    k->currency = csv_find(c, "BillingCurrency");
    if (rc == RC_OK && k->provider < 0)
        rc = lines_error(&c->lines, e, RC_INVALID, "no column HostProviderName, ServiceProviderName or ProviderName");
    return rc;
}

static enum rc parse_cost(const struct csv *c, const char *text, struct pusd *cost, struct error *e)
{
    const bool below = text[0] == '-';
    struct error why;
    if (pusd_parse(text + below, cost, &why) != RC_OK)
        return lines_error(&c->lines, e, RC_INVALID, "\"%.40s\" is no amount: %s", text, why.message);
    cost->v = below ? -cost->v : cost->v;
    return RC_OK;
}

static enum rc take_line(struct tally *t, const struct csv *c, const struct columns *k, int64_t from_s, int64_t until_s,
                         struct error *e)
{
    int64_t from, until;
    struct pusd cost;
    if (text_parse_utc(c->fields[k->from], &from) != RC_OK || text_parse_utc(c->fields[k->until], &until) != RC_OK)
        return lines_error(&c->lines, e, RC_INVALID, "a period is from 2026-11-01T00:00:00Z to 2026-11-01T01:00:00Z");
    if (k->currency >= 0 && strcmp(c->fields[k->currency], "USD") != 0)
        return lines_error(&c->lines, e, RC_INVALID, "BillingCurrency: \"%.20s\"; the books are in USD",
                           c->fields[k->currency]);
    enum rc rc = parse_cost(c, c->fields[k->cost], &cost, e);
    if (rc != RC_OK || from < from_s || until > until_s)
        return rc;
    struct item *all = item(t, c->fields[k->provider], "", true);
    if (!all)
        return lines_error(&c->lines, e, RC_FULL, "more than %d providers and resources", ITEMS_MAX);
    all->on_invoice = true;
    pusd_sum_add(&all->invoice, cost);
    struct item *own = k->resource >= 0 ? item(t, c->fields[k->provider], c->fields[k->resource], false) : NULL;
    if (own && own != all) {
        own->on_invoice = true;
        pusd_sum_add(&own->invoice, cost);
    }
    return RC_OK;
}

static enum rc read_invoice(struct tally *t, const char *path, int64_t from_s, int64_t until_s, struct error *e)
{
    struct csv c = {0};
    struct columns k;
    enum rc rc = csv_open(&c, path, e);
    if (rc == RC_OK)
        rc = find_columns(&c, &k, e);
    while (rc == RC_OK && (rc = csv_next(&c, e)) == RC_OK)
        rc = take_line(t, &c, &k, from_s, until_s, e);
    csv_close(&c);
    return rc == RC_NOT_FOUND ? RC_OK : rc; /* its end */
}

/* ---- both -------------------------------------------------------------------------------------------------------- */

static bool agrees(const struct item *x)
{
    const __int128 off = x->bill.v > x->invoice.v ? x->bill.v - x->invoice.v : x->invoice.v - x->bill.v;
    const __int128 size = x->bill.v < 0 ? -x->bill.v : x->bill.v;
    return off * 1000000 <= size * RECONCILE_PPM;
}

static void compare(struct tally *t, bool invoiced, void (*each)(const struct reconcile_line *l, void *arg), void *arg,
                    struct strbuf *text)
{
    for (int i = 0; i < t->n; i++) {
        const struct item *x = &t->items[i];
        const struct reconcile_line l = {.provider = x->provider,
                                         .resource = x->resource[0] ? x->resource : NULL,
                                         .bill = x->bill,
                                         .invoice = x->invoice,
                                         .on_invoice = x->on_invoice,
                                         .agrees = !x->on_invoice || agrees(x)};
        if (invoiced && !l.agrees) {
            char bill[64], invoice[64];
            t->out->problems |= CLOSE_BILL;
            (void)!strbuf_printf(text, "%s %s: billed $%s by our books, $%s by the invoice\n", x->provider, x->resource,
                                 pusd_sum_format(x->bill, bill, sizeof bill),
                                 pusd_sum_format(x->invoice, invoice, sizeof invoice));
        }
        if (each)
            each(&l, arg);
    }
}

enum rc reconcile(const char *ledger, const char *invoice, int64_t from_s, int64_t until_s, struct reconciled *out,
                  void (*each)(const struct reconcile_line *l, void *arg), void *arg, struct strbuf *text,
                  struct error *e)
{
    struct tally t = {.out = out};
    struct closing_verified v;
    memset(out, 0, sizeof *out);
    enum rc rc = archive_verify(ledger, from_s, until_s, &v, &out->problems, text, e);
    out->hours = v.hours;
    out->node_hours = v.node_hours;
    out->rows = v.rows;
    if (rc == RC_OK)
        rc = rollup_read_hours(ledger, from_s, until_s, take_hour, &t, e);
    if (rc == RC_OK)
        rc = rollup_read_nodes(ledger, from_s, until_s, take_node, &t, e);
    if (rc == RC_OK && invoice)
        rc = read_invoice(&t, invoice, from_s, until_s, e);
    if (rc == RC_OK)
        compare(&t, invoice != NULL, each, arg, text);
    free(t.items);
    return rc;
}
