#include "scheduler/report/report.h"

#include <stdlib.h>
#include <string.h>

#include "scheduler/report/gather.h"

/* ---- figures ----------------------------------------------------------------------------------------------------- */

int64_t report_tokens(const struct report_use *u)
{
    return u->tokens.input + u->tokens.output;
}

struct pusd_sum report_per_million(struct pusd_sum amount, int64_t tokens)
{
    return (struct pusd_sum){tokens > 0 ? amount.v * 1000000 / tokens : 0};
}

int64_t report_ppm(struct pusd_sum part, struct pusd_sum whole)
{
    if (whole.v == 0)
        return 0;
    __int128 twice = part.v * 2000000 / whole.v;
    return (int64_t)((twice + (twice < 0 ? -1 : 1)) / 2);
}

void report_use_add(struct report_use *to, const struct rollup *r)
{
    to->requests += r->requests;
    to->failed += r->failed;
    to->cancelled += r->cancelled;
    to->streamed += r->streamed;
    to->continuations += r->continuations;
    to->cached += r->cache ? r->requests : 0;
    to->tokens.input += r->tokens.input;
    to->tokens.cached_input += r->tokens.cached_input;
    to->tokens.output += r->tokens.output;
    to->tokens_reasoning += r->tokens_reasoning;
    pusd_sum_add(&to->charge, r->charge);
    pusd_sum_add(&to->saved, r->saved);
    pusd_sum_add(&to->allocated, r->allocated);
    pusd_sum_add(&to->waste, r->waste);
    to->busy_us += r->busy_us;
    to->millijoules += r->millijoules;
}

void report_cost_add(struct report_cost *to, const struct node_hour *h)
{
    pusd_sum_add(&to->bill, h->bill);
    pusd_sum_add(&to->fixed, h->fixed);
    pusd_sum_add(&to->energy, h->energy);
    pusd_sum_add(&to->tokens, h->tokens);
    pusd_sum_add(&to->allocated, h->allocated);
    pusd_sum_add(&to->idle, h->idle);
    pusd_sum_add(&to->boot, h->boot);
    pusd_sum_add(&to->waste, h->waste);
    pusd_sum_add(&to->variance, h->variance);
    to->paid_us += h->paid_us;
    to->busy_us += h->busy_us;
    to->waste_us += h->waste_us;
    to->idle_us += h->idle_us;
    to->boot_us += h->boot_us;
    to->asleep_us += h->asleep_us;
    to->energy_mj += h->energy_mj;
    to->metered_mj += h->energy_is == BOOKS_ENERGY_METERED ? h->energy_mj : 0;
    to->modelled_mj += h->energy_is == BOOKS_ENERGY_MODELLED ? h->energy_mj : 0;
    to->busy_mj += h->busy_mj;
    to->idle_mj += h->idle_mj;
    to->boot_mj += h->boot_mj;
    to->legs += h->legs;
    to->preempted += h->preempted;
}

/* ---- names ------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name, *none, *others;
    bool machines; /* what its members cost are bills */
} dims[REPORT_DIMS] = {
    {"team", "(no team)", "(other teams)", false},    {"project", "(no project)", "(other projects)", false},
    {"model", "(no model)", "(other models)", false}, {"provider", "(no provider)", "(other providers)", true},
    {"pool", "(no pool)", "(other pools)", true},     {"market", "(no market)", "(other markets)", true}};

const char *report_dim_name(enum report_dim d)
{
    return dims[d].name;
}

const char *report_member_name(enum report_dim d, const struct report_member *m)
{
    return m->others ? dims[d].others : m->name ? m->name : dims[d].none;
}

static struct pusd_sum cost_of(enum report_dim d, const struct report_use *u, const struct report_cost *c)
{
    const bool bills = dims[d].machines && c->bill.v; /* of a team alone there are no bills */
    return bills ? c->bill : (struct pusd_sum){u->allocated.v + u->waste.v};
}

struct pusd_sum report_member_cost(enum report_dim d, const struct report_member *m)
{
    return cost_of(d, &m->use, &m->cost);
}

struct pusd_sum report_member_cost_before(enum report_dim d, const struct report_member *m)
{
    return cost_of(d, &m->use_before, &m->cost_before);
}

/* ---- matches ----------------------------------------------------------------------------------------------------- */

bool report_match(const char *subject, const struct report_cell *c)
{
    const struct {
        const char *key, *value;
    } known[] = {{"tenant", c->tenant}, {"organisation", c->tenant}, {"team", c->team}, {"project", c->project},
                 {"model", c->model},   {"provider", c->provider},   {"pool", c->pool}};
    const char *equals = strchr(subject, '=');
    for (size_t i = 0; equals && i < sizeof known / sizeof known[0]; i++)
        if (strlen(known[i].key) == (size_t)(equals - subject) &&
            strncmp(known[i].key, subject, (size_t)(equals - subject)) == 0)
            return known[i].value && strcmp(known[i].value, equals + 1) == 0;
    return false;
}

const char *report_cost_centre(const struct report *r, const char *tenant, const char *team, const char *project)
{
    static const char *const order[] = {"project=", "team=", "tenant="}; /* the nearest says it */
    const struct report_cell c = {.tenant = tenant, .team = team, .project = project};
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < r->n_cost_centres; i++)
            if (strncmp(r->cost_centres[i].subject, order[k], strlen(order[k])) == 0 &&
                report_match(r->cost_centres[i].subject, &c))
                return r->cost_centres[i].code;
    return NULL;
}

void report_free(struct report *r)
{
    if (!r)
        return;
    arena_free(r->arena); /* and with it r */
}
