/* Capacity in /metrics: nodes of pools and their lives, launches and what became of them, the last plans. */
#include <inttypes.h>

#include "scheduler/front/front_internal.h"
#include "scheduler/front/metrics_internal.h"

#define POOLS_MAX 66

struct census { /* nodes by pool and state */
    const char *pools[POOLS_MAX];
    int count[POOLS_MAX][LIFE_STATES];
    int n;
};

static void count_node(const struct fleet_view *v, void *arg)
{
    struct census *c = arg;
    int i = 0;
    while (i < c->n && strcmp(c->pools[i], v->pool) != 0)
        i++;
    if (i == POOLS_MAX)
        return;
    if (i == c->n)
        c->pools[c->n++] = v->pool;
    c->count[i][v->life]++;
}

static enum rc put_census(const struct fleet *fleet, struct strbuf *out)
{
    struct census c = {.n = 0};
    fleet_each(fleet, count_node, &c);
    enum rc rc =
        strbuf_printf(out, "# HELP spillway_nodes Nodes that capacity looks after, by state of their life; pool "
                           "\"\": of the configuration.\n# TYPE spillway_nodes gauge\n");
    for (int i = 0; i < c.n && rc == RC_OK; i++) {
        for (int s = 0; s < LIFE_GONE && rc == RC_OK; s++)
            rc = strbuf_printf(out, "spillway_nodes{pool=\"%s\",state=\"%s\"} %d\n", c.pools[i],
                               life_state_name((enum life_state)s), c.count[i][s]);
    }
    return rc;
}

struct plans {
    struct strbuf *out;
    enum rc rc;
    int what;
};
static const char *const plan_names[] = {"need", "ready", "coming", "uncovered"};

/* Model names are plain (the schema), so that a label needs no escaping. */
static void put_plan(const struct fleet_plan_view *p, void *arg)
{
    struct plans *to = arg;
    const double value[] = {p->need, p->ready, p->coming, p->uncovered};
    if (to->rc == RC_OK)
        to->rc = strbuf_printf(to->out, "spillway_capacity_%s_tokens_per_second{model=\"%s\"} %.3f\n",
                               plan_names[to->what], p->model, value[to->what]);
}

static enum rc put_plans(const struct fleet *fleet, struct strbuf *out)
{
    static const char *const help[] = {"What the last plan holds capacity for.", "What nodes that serve can do.",
                                       "What nodes on their way will do.",
                                       "Need that limits or stock leave uncovered when all of them have come."};
    struct plans to = {.out = out, .rc = RC_OK};
    for (to.what = 0; to.what < 4 && to.rc == RC_OK; to.what++) {
        to.rc = strbuf_printf(out,
                              "# HELP spillway_capacity_%s_tokens_per_second %s\n"
                              "# TYPE spillway_capacity_%s_tokens_per_second gauge\n",
                              plan_names[to.what], help[to.what], plan_names[to.what]);
        fleet_plans(fleet, put_plan, &to);
    }
    return to.rc;
}

static void put_pool(const struct fleet_pool_view *p, void *arg)
{
    struct plans *to = arg;
    if (to->rc == RC_OK)
        to->rc = strbuf_printf(to->out, "spillway_capacity_losses_per_hour{pool=\"%s\"} %.6f\n", p->name,
                               p->losses_per_hour);
}

static enum rc put_pools(const struct fleet *fleet, struct strbuf *out)
{
    struct plans to = {.out = out};
    to.rc = strbuf_printf(out, "# HELP spillway_capacity_losses_per_hour How often one spot node of the pool is taken "
                               "back, as plans assume.\n# TYPE spillway_capacity_losses_per_hour gauge\n");
    fleet_pools(fleet, put_pool, &to);
    return to.rc;
}

static enum rc put_labelled(struct strbuf *out, const char *name, const char *help, const char *label, int from, int n,
                            const char *(*word)(int i), const uint64_t *values)
{
    enum rc rc = strbuf_printf(out, "# HELP %s %s\n# TYPE %s counter\n", name, help, name);
    for (int i = from; i < n && rc == RC_OK; i++)
        rc = strbuf_printf(out, "%s{%s=\"%s\"} %" PRIu64 "\n", name, label, word(i), values[i]);
    return rc;
}

static const char *failure_word(int i)
{
    return provider_failure_name((enum provider_failure)i);
}

static const char *verdict_word(int i)
{
    return guard_verdict_name((enum guard_verdict)i);
}

static enum rc put_counts(const struct fleet_stats *s, struct strbuf *out)
{
    const struct {
        const char *name, *type, *help;
        uint64_t value;
    } list[] = {
        {"spillway_capacity_nodes", "gauge", "Nodes of pools that may be there, as the limits count them.",
         (uint64_t)s->nodes},
        {"spillway_capacity_launches_total", "counter", "Launches that providers were asked for.", s->launches},
        {"spillway_capacity_launched_total", "counter", "Of these, those that became an instance.", s->launched},
        {"spillway_capacity_ended_total", "counter", "Nodes of pools that are gone.", s->ended},
        {"spillway_capacity_deadlines_total", "counter", "Nodes that stayed too long in a state.", s->deadlines},
        {"spillway_capacity_lost_total", "counter", "Nodes that fell silent.", s->lost},
        {"spillway_capacity_strays_ended_total", "counter",
         "Instances with our tag that nobody knew, and that were ended.", s->strays},
        {"spillway_capacity_orphans", "gauge", "Instances that may run at providers which are not configured any more.",
         s->orphans},
        {"spillway_capacity_sweeps_total", "counter", "Lists of instances that providers gave.", s->sweeps},
        {"spillway_capacity_sweep_failures_total", "counter", "Lists that could not be had.", s->sweep_failures},
        {"spillway_capacity_sleeps_total", "counter", "Nodes that fell asleep.", s->sleeps},
        {"spillway_capacity_wakes_total", "counter", "Nodes that were woken or switched on.", s->wakes},
        {"spillway_capacity_journal_failing", "gauge", "1: the journal cannot be written, and nothing is launched.",
         s->journal.failing},
        {"spillway_capacity_journal_queued", "gauge", "Entries that wait for the disk.", (uint64_t)s->journal.queued},
    };
    enum rc rc = RC_OK;
    for (size_t i = 0; i < sizeof list / sizeof list[0] && rc == RC_OK; i++)
        rc = strbuf_printf(out, "# HELP %s %s\n# TYPE %s %s\n%s %" PRIu64 "\n", list[i].name, list[i].help,
                           list[i].name, list[i].type, list[i].name, list[i].value);
    return rc;
}

enum rc capacity_metrics_render(const struct front *f, struct strbuf *out)
{
    struct fleet_stats s;
    char buf[64];
    if (!f->fleet)
        return RC_OK;
    fleet_stats(f->fleet, &s);
    enum rc rc = put_census(f->fleet, out);
    if (rc == RC_OK)
        rc = put_counts(&s, out);
    if (rc == RC_OK)
        rc = put_labelled(out, "spillway_capacity_failures_total", "Launches and ends that did not work, and losses.",
                          "failure", 1, PROVIDER_FAILURES, failure_word, s.failures);
    if (rc == RC_OK)
        rc = put_labelled(out, "spillway_capacity_refused_total", "Launches that a limit did not let through.", "limit",
                          GUARD_NODES, GUARD_KNOWN, verdict_word, s.refused);
    if (rc == RC_OK)
        rc = strbuf_printf(out,
                           "# HELP spillway_capacity_hour_usd Dollars per hour of the nodes of pools.\n"
                           "# TYPE spillway_capacity_hour_usd gauge\nspillway_capacity_hour_usd %s\n",
                           pusd_format(s.hour, buf, sizeof buf));
    if (rc == RC_OK)
        rc = put_pools(f->fleet, out);
    return rc == RC_OK ? put_plans(f->fleet, out) : rc;
}
