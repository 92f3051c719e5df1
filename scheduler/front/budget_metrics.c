/* Budgets in /metrics: one series per instance, as last known, of at most BUDGET_SERIES_MAX instances. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/front/front_internal.h"
#include "scheduler/front/metrics_internal.h"

#define BUDGET_SERIES_MAX 1000
#define LINE_BYTES        64

struct series {
    struct strbuf values[4]; /* of each metric */
    int n;
    enum rc rc;
};

static const char *const heads[4] = {
    "# HELP spillway_budget_spent_usd Spent in the running period, with what was booked as waste.\n"
    "# TYPE spillway_budget_spent_usd gauge\n",
    "# HELP spillway_budget_reserved_usd Reserved by running requests, as last known.\n"
    "# TYPE spillway_budget_reserved_usd gauge\n",
    "# HELP spillway_budget_limit_usd Hard limit of the running period with carry-over and top-ups.\n"
    "# TYPE spillway_budget_limit_usd gauge\n",
    "# HELP spillway_budget_exhausted_seconds When the limit will be reached, since 1970, if spending goes on like "
    "this.\n"
    "# TYPE spillway_budget_exhausted_seconds gauge\n",
};
static const char *const names[4] = {"spillway_budget_spent_usd", "spillway_budget_reserved_usd",
                                     "spillway_budget_limit_usd", "spillway_budget_exhausted_seconds"};

static void put(struct series *s, int metric, const char *budget, const char *value)
{
    char label[2 * BUDGET_NAME_BYTES];
    size_t n = 0;
    for (const char *p = budget; *p; p++) {
        if (*p == '"' || *p == '\\')
            label[n++] = '\\';
        label[n++] = *p;
    }
    label[n] = '\0';
    if (s->rc == RC_OK)
        s->rc = strbuf_printf(&s->values[metric], "%s{budget=\"%s\"} %s\n", names[metric], label, value);
}

static void put_budget(const struct budget_known *k, void *arg)
{
    struct series *s = arg;
    struct budget_limits l = {.hard = k->view.hard};
    struct pusd limit = budget_limit(&l, &k->view.state);
    int64_t at_s = budget_known_exhausted_at(k, k->now_s);
    char text[LINE_BYTES];
    if (s->n++ >= BUDGET_SERIES_MAX)
        return;
    put(s, 0, k->name, pusd_format(k->view.state.spent, text, sizeof text));
    put(s, 1, k->name, pusd_format(k->view.state.reserved, text, sizeof text));
    if (limit.v != BUDGET_UNLIMITED)
        put(s, 2, k->name, pusd_format(limit, text, sizeof text));
    snprintf(text, sizeof text, "%" PRId64, at_s);
    if (at_s >= 0)
        put(s, 3, k->name, text);
}

static enum rc put_shared(const struct budget_store_stats *s, struct strbuf *out)
{
    const struct {
        const char *name, *type, *help;
        uint64_t value;
    } list[] = {
        {"spillway_budget_store_ports", "gauge", "Ways to the shared store of budgets: one per worker.",
         (uint64_t)s->ports},
        {"spillway_budget_store_open", "gauge", "Of these, how many can ask it now.", (uint64_t)s->open},
        {"spillway_budget_store_unsettled", "gauge", "Settlements that it has not got yet.", s->unsettled},
        {"spillway_budget_store_refused_total", "counter",
         "Reservations that were refused because it was lost or closed.", s->refused},
        {"spillway_budget_store_leased_total", "counter", "Reservations that were granted out of leases meanwhile.",
         s->leased},
        {"spillway_budget_store_timeouts_total", "counter", "Steps without an answer in time.", s->timeouts},
        {"spillway_budget_store_repeated_total", "counter", "Steps that were sent again.", s->repeated},
        {"spillway_budget_store_buried_total", "counter",
         "Reservations of dead schedulers that this one booked as waste.", s->buried},
        {"spillway_budget_store_rebuilds_total", "counter", "Times that this scheduler told what its ledger knows.",
         s->rebuilds},
        {"spillway_budget_store_unwritten_total", "counter",
         "Events that the ledger did not take, so that a rebuild would not know of them.", s->unwritten},
    };
    enum rc rc = RC_OK;
    for (size_t i = 0; i < sizeof list / sizeof list[0] && rc == RC_OK; i++)
        rc = strbuf_printf(out, "# HELP %s %s\n# TYPE %s %s\n%s %" PRIu64 "\n", list[i].name, list[i].help,
                           list[i].name, list[i].type, list[i].name, list[i].value);
    return rc;
}

enum rc budget_metrics_render(const struct front *f, struct strbuf *out)
{
    const struct config *c = front_config(f);
    struct series s = {.rc = RC_OK};
    struct budget_store_stats shared;
    if (budget_desk_shared(f->budgets, &shared))
        s.rc = put_shared(&shared, out);
    if (!c->n_budgets || s.rc != RC_OK)
        return s.rc;
    for (int i = 0; i < 4; i++)
        strbuf_init(&s.values[i], (size_t)1 << 20);
    budget_desk_each(f->budgets, c->budget_rules, c->n_budgets, clock_wall(f->o.clock).ns / NS_PER_S, put_budget, &s);
    for (int i = 0; i < 4; i++) {
        if (s.rc == RC_OK)
            s.rc = strbuf_puts(out, heads[i]);
        if (s.rc == RC_OK && s.values[i].len)
            s.rc = strbuf_append(out, s.values[i].data, s.values[i].len);
        strbuf_fini(&s.values[i]);
    }
    return s.rc;
}
