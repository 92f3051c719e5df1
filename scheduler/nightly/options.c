#include "scheduler/nightly/options.h"

#include <stdlib.h>
#include <string.h>

#include "scheduler/budgets/zone.h"

/* ---- reference prices -------------------------------------------------------------------------------------------- */

static const char *own(struct report_inputs *in, char *text)
{
    in->texts = spw_realloc(in->texts, ((size_t)in->n_texts + 1) * sizeof *in->texts);
    in->texts[in->n_texts++] = text;
    return text;
}

static struct report_reference *reference(struct report_inputs *in, const char *subject, bool by_hour)
{
    for (int i = 0; i < in->options.n_references; i++)
        if (in->references[i].by_hour == by_hour && strcmp(in->references[i].subject, subject) == 0)
            return &in->references[i];
    const size_t n = (size_t)in->options.n_references++;
    in->references = spw_realloc(in->references, (n + 1) * sizeof *in->references);
    in->references[n] = (struct report_reference){.subject = subject, .by_hour = by_hour};
    return &in->references[n];
}

static int64_t both(const struct token_prices *p)
{
    return p->input.uusd_per_mtok + p->output.uusd_per_mtok;
}

/* The cheapest API that serves the model is what it would be bought from. */
static void take_api(struct report_inputs *in, const struct config_node *n)
{
    for (int i = 0; i < n->n_models && both(&n->prices) > 0; i++) {
        struct report_reference *r = reference(in, n->models[i], false);
        if (r->source && both(&r->prices) <= both(&n->prices))
            continue;
        r->prices = n->prices;
        r->source = own(in, spw_asprintf("%s %s of the configuration", n->pool ? "pool" : "node", n->name));
    }
}

static void take_references(struct report_inputs *in, const struct config *c)
{
    for (int i = 0; i < config_servers(c); i++) {
        const struct config_node *n = config_server(c, i);
        if (!n->local && !n->pool)
            take_api(in, n);
    }
    for (int i = 0; i < c->n_pools; i++) {
        const struct config_pool *p = &c->pools[i];
        if (p->price_hour.v <= 0)
            continue;
        struct report_reference *r = reference(in, p->node.name, true);
        r->hour = p->price_hour;
        r->source = own(in, spw_asprintf("price_hour of pool %s of the configuration", p->node.name));
    }
    in->options.references = in->references;
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */

static enum rc begin(struct report_inputs *in, const char *ledger, const char *zone, const char *period,
                     struct wall now, struct error *e)
{
    *in = (struct report_inputs){.options = {.ledger = ledger, .now = now, .zone_name = zone ? zone : "UTC"}};
    enum rc rc = zone && strcmp(zone, "UTC") != 0 ? zone_load(&in->zone, zone, e) : RC_OK;
    in->options.zone = in->zone;
    if (rc == RC_NOT_FOUND)
        rc = error_set(e, RC_INVALID, "time zone: the system knows no \"%.60s\"; as in Europe/Berlin", zone);
    return rc == RC_OK ? report_period_parse(period, in->zone, now.ns / NS_PER_S, &in->options.period, e) : rc;
}

enum rc report_inputs(struct report_inputs *in, const struct config *c, const char *period, struct wall now,
                      struct error *e)
{
    enum rc rc = begin(in, c->ledger_path, c->reports.zone_name, period, now, e);
    if (rc != RC_OK)
        return rc;
    if (c->ledger_off)
        return error_set(e, RC_INVALID, "ledger: is off, there is nothing to report");
    in->options.audit_dir = c->audit.off ? NULL : c->audit.dir;
    in->options.audit_key = c->audit.key;
    in->options.rules = c->budget_rules;
    in->options.n_rules = c->n_budgets;
    take_references(in, c);
    return RC_OK;
}

enum rc report_inputs_of_file(struct report_inputs *in, const char *ledger, const char *zone, const char *period,
                              struct wall now, struct error *e)
{
    return begin(in, ledger, zone, period, now, e);
}

void report_inputs_fini(struct report_inputs *in)
{
    for (int i = 0; i < in->n_texts; i++)
        free(in->texts[i]);
    free(in->texts);
    free(in->references);
    zone_free(in->zone);
    *in = (struct report_inputs){.texts = NULL};
}
