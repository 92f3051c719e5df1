/* What a run comes to: samples on the way, bills and shares at the end. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "scheduler/simulate/sim_internal.h"

/* --- samples
 * ------------------------------------------------------------------------------------------------------------ */

/* Full: every second one goes, and the next ones are twice as far apart. */
static void thin(struct sim *x)
{
    struct sim_result *r = x->r;
    for (int32_t i = 0; i < r->n_samples / 2; i++)
        r->samples[i] = r->samples[2 * i];
    r->n_samples /= 2;
    x->sample_us *= 2;
}

void sim_sample(struct sim *x)
{
    if (x->r->n_samples == SIM_SAMPLES)
        thin(x);
    struct sim_sample *s = &x->r->samples[x->r->n_samples++];
    *s = (struct sim_sample){.at_us = x->now_us, .waiting = x->n_waiting, .in_flight = x->n_live - x->n_waiting};
    for (int32_t i = 0; i < x->s->n_offers; i++) {
        const struct sim_offer_state *o = &x->offers[i];
        const enum scale_market market = x->s->offers[i].market;
        const int32_t up = o->alive - o->booting;
        s->booting += o->booting;
        s->asleep += o->asleep;
        *(market == SCALE_ON_PREM ? &s->on_prem : market == SCALE_SPOT ? &s->spot : &s->on_demand) += up;
        if (market != SCALE_ON_PREM)
            s->hour.v += o->price.v * o->alive;
    }
    for (int32_t i = 0; i < x->n_nodes; i++) {
        const struct sim_node *n = &x->nodes[i];
        if (n->state != SIM_GONE)
            s->watts += (n->m.n ? n->m.spec->mw[n->m.n] : n->m.idle_mw) / 1000.0;
    }
    for (int32_t i = 0; i < x->s->n_models; i++) {
        s->demand += x->models[i].demand_now;
        s->forecast += x->models[i].demand_mean;
    }
}

/* --- bills
 * -------------------------------------------------------------------------------------------------------------- */

static void close_offer(struct sim *x, int32_t i)
{
    struct sim_offer_state *o = &x->offers[i];
    const struct sim_offer *offer = &x->s->offers[i];
    struct sim_bill *b = &o->bill;
    b->compute.v = o->rent / SIM_US_PER_HOUR;
    const __int128 owned = offer->market == SCALE_ON_PREM ? offer->running + offer->asleep : 0;
    b->purchase.v = owned * offer->purchase_hour.v * x->now_us / SIM_US_PER_HOUR;
    b->kwh = o->mj_total / 3.6e9;
    b->node_hours = (double)o->node_us / (double)SIM_US_PER_HOUR;
    x->r->bills[i] = *b;
}

static void close_nodes(struct sim *x)
{
    for (int32_t i = 0; i < x->n_nodes; i++) {
        struct sim_node *n = &x->nodes[i];
        if (n->state == SIM_GONE)
            continue;
        struct sim_bill *b = &x->offers[n->offer].bill;
        b->busy_hours += (double)n->m.busy_us / (double)SIM_US_PER_HOUR;
        b->batch_hours += n->m.batch_us / (double)SIM_US_PER_HOUR;
        const int64_t alive_us = x->now_us - n->launched_us;
        const int64_t least = x->s->offers[n->offer].billing_min_s * SIM_US_PER_S;
        if (x->s->offers[n->offer].market != SCALE_ON_PREM && alive_us < least)
            x->offers[n->offer].rent += (__int128)x->offers[n->offer].price.v * (least - alive_us);
    }
}

static __int128 bill_sum(const struct sim_bill *b)
{
    return b->compute.v + b->energy.v + b->purchase.v + b->tokens.v;
}

/* Each bill is split by use; what is lost by rounding, and what nobody used, is nobody's: the last row. */
static void share(struct sim *x, int32_t bill, struct sim_team_result *teams, int32_t n)
{
    const double *usage = n ? x->usage + (size_t)bill * x->team_cap : NULL;
    const __int128 sum = bill_sum(&x->r->bills[bill]);
    __int128 left = sum;
    double all = 0;
    for (int32_t t = 0; t < n; t++)
        all += usage[t];
    for (int32_t t = 0; t < n && all > 0; t++) {
        const __int128 part = (__int128)((double)sum * (usage[t] / all));
        const __int128 given = part < left ? part : left;
        teams[t].money.v += given;
        left -= given;
    }
    teams[n].money.v += left;
}

static void close_teams(struct sim *x)
{
    const int32_t n = (int32_t)x->n_teams;
    x->r->n_teams = n + 1;
    x->r->teams = spw_calloc((size_t)n + 1, sizeof(*x->r->teams));
    if (n)
        memcpy(x->r->teams, x->teams, (size_t)n * sizeof(*x->teams));
    for (int32_t i = 0; i < x->r->n_bills; i++)
        share(x, i, x->r->teams, x->usage ? n : 0);
}

void sim_finish(struct sim *x)
{
    sim_bill_all(x);
    close_nodes(x);
    for (int32_t i = 0; i < x->s->n_offers; i++)
        close_offer(x, i);
    for (int32_t i = 0; i < x->r->n_bills; i++) {
        x->r->total.v += bill_sum(&x->r->bills[i]);
        x->r->kwh += x->r->bills[i].kwh;
    }
    close_teams(x);
    free(x->teams);
}

void sim_result_fini(struct sim_result *r)
{
    free(r->bills);
    free(r->models);
    free(r->teams);
    free(r->samples);
    free(r->sites);
    free(r->budgets);
    *r = (struct sim_result){0};
}
