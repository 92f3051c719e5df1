/* Markets: where the demand for a model, as the front has counted it, meets who serves it. What is foreseen of it, and
 * whether it is pressing. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "scheduler/capacity/fleet_internal.h"

#define HOLD_GUESS_S  2.0
#define MEAN_OVER     1000.0 /* answers, as in the simulator; until there are as many, over all, */
#define GUESS_COUNTS  20     /* and a guess that one begins with counts as so many */
#define OBSERVED_MOST 1000

/* ---- demand ------------------------------------------------------------------------------------------------------ */

struct market *plan_market(struct fleet *f, const char *model)
{
    for (int i = 0; i < f->n_markets; i++) {
        if (strcmp(f->markets[i].model, model) == 0)
            return &f->markets[i];
    }
    if (f->n_markets == FLEET_MODELS_MAX) /* more models share the last */
        return &f->markets[FLEET_MODELS_MAX - 1];
    struct market *k = &f->markets[f->n_markets++];
    memset(k, 0, sizeof *k);
    snprintf(k->model, sizeof k->model, "%s", model);
    forecast_init(&k->forecast, FORECAST_TOKENS);
    forecast_init(&k->busy, FORECAST_SLOTS);
    forecast_init(&k->busy_now, FORECAST_SLOTS);
    k->output = OUTPUT_GUESS;
    k->hold_s = HOLD_GUESS_S;
    return k;
}

/* The models of a pool, or of an own node, are met together: under the first of them. */
static const char *primary(const struct config *c, const char *model)
{
    for (int i = 0; i < c->n_pools; i++) {
        if (config_node_serves(&c->pools[i].node, model))
            return c->pools[i].node.models[0];
    }
    for (int i = 0; i < c->n_nodes; i++) {
        if (c->nodes[i].local && config_node_serves(&c->nodes[i], model))
            return c->nodes[i].models[0];
    }
    return model;
}

struct market *market_of(struct fleet *f, const struct config_node *c)
{
    const uintptr_t at = (uintptr_t)c, first = (uintptr_t)f->config->nodes;
    const uintptr_t end = first + (uintptr_t)f->config->n_nodes * sizeof *c;
    if (at >= first && at < end)
        return f->of_node[(at - first) / sizeof *c];
    const char *name = primary(f->config, c->models[0]); /* of a configuration before this one, or a copy */
    for (int i = 0; i < f->n_markets; i++) {
        if (strcmp(f->markets[i].model, name) == 0)
            return &f->markets[i];
    }
    return NULL;
}

static bool has_model(const struct fleet *f, const char *name)
{
    for (int i = 0; i < f->n_models; i++) {
        if (strcmp(f->models[i].name, name) == 0)
            return true;
    }
    return false;
}

/* Once per configuration, since who is met where is asked for every node in every tick. */
void markets_take(struct fleet *f)
{
    const struct config *c = f->config;
    struct pool *p;
    int most = 0;
    for (int i = 0; i < config_servers(c); i++)
        most += config_server(c, i)->n_models;
    free(f->models);
    free(f->of_node);
    f->models = spw_calloc((size_t)most + 1, sizeof f->models[0]);
    f->of_node = spw_calloc((size_t)c->n_nodes + 1, sizeof(struct market *));
    f->n_models = 0;
    for (int i = 0; i < config_servers(c); i++) {
        for (int m = 0; m < config_server(c, i)->n_models; m++) {
            const char *name = config_server(c, i)->models[m];
            if (!has_model(f, name))
                f->models[f->n_models++] = (struct fleet_model){name, plan_market(f, primary(c, name))};
        }
    }
    for (int i = 0; i < c->n_nodes; i++)
        f->of_node[i] = plan_market(f, primary(c, c->nodes[i].models[0]));
    TAILQ_FOREACH(p, &f->pools, next)
    {
        if (p->config)
            p->market = plan_market(f, p->config->node.models[0]);
    }
    batch_tell(f);
}

const struct config_node *market_api(const struct config *c, const char *model)
{
    for (int i = 0; i < c->n_nodes; i++) {
        if (!c->nodes[i].local && config_node_serves(&c->nodes[i], model))
            return &c->nodes[i];
    }
    return NULL;
}

static void add(struct fleet_demand *to, const struct fleet_demand *d)
{
    to->requests += d->requests;
    to->batch += d->batch;
    to->input += d->input;
    to->answered += d->answered;
    to->prompt += d->prompt;
    to->cached += d->cached;
    to->output += d->output;
    to->prompt_sq += d->prompt_sq;
    to->hold_us += d->hold_us;
    to->in_time += d->in_time;
    to->late += d->late;
    to->waiting += d->waiting;
    to->waiting_batch += d->waiting_batch;
    to->batch_in_flight += d->batch_in_flight;
}

/* Monday is the first day of the week; 1970 began on a Thursday. */
static int32_t week_s(const struct fleet *f)
{
    return (int32_t)((fleet_now_s(f) + 3 * 86400) % FORECAST_WEEK_S);
}

/* The mean over the last answers, of which n, with this mean of their own, are new. */
static void toward(double *mean, double value, int64_t n, int64_t seen)
{
    const double of = fmin((double)seen + (*mean > 0 ? GUESS_COUNTS : 0), MEAN_OVER);
    *mean += fmin((double)n / of, 1) * (value - *mean);
}

/* What came since the last look. */
static void learn(struct fleet *f, struct market *k)
{
    const struct fleet_demand *d = &k->now, *last = &k->last;
    const int64_t n = d->requests - last->requests, answers = d->answered - last->answered;
    const int64_t interactive = n - (d->batch - last->batch);
    const struct mono now = clock_now(f->o.clock);
    const int32_t week = week_s(f);
    if (answers > 0) {
        const double each = (double)answers;
        k->answers += answers;
        toward(&k->prompt, (double)(d->prompt - last->prompt) / each, answers, k->answers);
        toward(&k->cached, (double)(d->cached - last->cached) / each, answers, k->answers);
        toward(&k->output, (double)(d->output - last->output) / each, answers, k->answers);
        toward(&k->prompt_sq, (d->prompt_sq - last->prompt_sq) / each, answers, k->answers);
        toward(&k->hold_s, (double)(d->hold_us - last->hold_us) / each / 1e6, answers, k->answers);
    }
    if (n > 0) {
        const int64_t calls = n < OBSERVED_MOST ? n : OBSERVED_MOST;
        const double tokens = (double)(d->input - last->input) + (double)n * k->output;
        k->known = true;
        k->came = now;
        k->came_now = interactive > 0 ? k->came : k->came_now;
        for (int64_t i = 0; i < calls; i++) {
            forecast_observe(&k->forecast, now.ns, week, tokens / (double)calls);
            forecast_observe(&k->busy, now.ns, week, (double)n * k->hold_s / (double)calls);
            forecast_observe(&k->busy_now, now.ns, week, (double)interactive * k->hold_s / (double)calls);
        }
    } else if (k->known) { /* before the first request nothing is known: that is no demand of nothing */
        forecast_observe(&k->forecast, now.ns, week, 0);
        forecast_observe(&k->busy, now.ns, week, 0);
        forecast_observe(&k->busy_now, now.ns, week, 0);
    }
    k->last = k->now;
}

void plan_observe(struct fleet *f)
{
    struct fleet_demand d;
    for (int i = 0; i < f->n_markets; i++)
        f->markets[i].now = (struct fleet_demand){.requests = 0};
    for (int i = 0; i < f->n_models; i++) {
        if (f->o.demand(f->models[i].name, &d, f->o.arg))
            add(&f->models[i].market->now, &d);
    }
    for (int i = 0; i < f->n_markets; i++)
        learn(f, &f->markets[i]);
}

/* ---- pressure ---------------------------------------------------------------------------------------------------- */

static void count(struct market *k, struct node *n)
{
    const struct node_load l = node_load(n);
    if (!k || l.state != NODE_READY || l.draining || l.leaving)
        return;
    k->n_ready++;
    k->n_full += l.slots > 0 && l.in_flight >= l.slots;
}

/* One look at each node: this is asked in every tick. */
bool plan_pressed(struct fleet *f)
{
    struct member *m;
    bool pressed = false;
    for (int i = 0; i < f->n_markets; i++)
        f->markets[i].n_ready = f->markets[i].n_full = 0;
    TAILQ_FOREACH(m, &f->members, next)
    {
        if (m->pool && m->node && m->life == LIFE_READY)
            count(m->pool->market, m->node);
    }
    for (int i = 0; i < nodes_count(f->o.nodes); i++) {
        struct node *n = nodes_at(f->o.nodes, i);
        if (node_is_there(n) && !n->dynamic && n->config->local)
            count(market_of(f, n->config), n);
    }
    for (int i = 0; i < f->n_markets; i++) {
        struct market *k = &f->markets[i];
        const bool before = k->saturated;
        k->saturated = k->now.waiting > 0 || (k->n_ready > 0 && k->n_full == k->n_ready);
        pressed = pressed || (k->saturated && !before);
    }
    return pressed;
}
