/* The site's limit in watts, which no request and no machine that wakes may break: all that is drawn is one sum, under
 * the lock. */
#include "policies/power.h"
#include "scheduler/nodes/nodes.h"

/* The most that it draws until it has done what it is told, at its load of now. */
static int64_t most_mw(const struct node *n)
{
    const struct power_levels *l = n->config->local ? n->config->levels : NULL;
    if (!l || n->place == PLACE_FREE)
        return 0;
    const int64_t now = power_draw_mw(l, POWER_ACTIVE, n->in_flight);
    if (n->claims)
        return n->in_flight && now > n->claim_mw ? now : n->claim_mw;
    return now;
}

int64_t nodes_ceiling_mw_locked(const struct nodes *t)
{
    int64_t sum = nodes_site(t)->base_mw;
    for (int i = 0; i < nodes_count(t); i++)
        sum += most_mw(nodes_at(t, i));
    return sum;
}

void nodes_limit_watts(struct nodes *t, int64_t cap_mw, int64_t base_mw)
{
    const struct nodes_options *o = nodes_options(t);
    struct nodes_watts *site = nodes_site(t);
    pthread_mutex_lock(o->lock);
    const int64_t ceiling = cap_mw ? nodes_ceiling_mw_locked(t) : 0;
    const bool room = site->cap_mw != cap_mw || ceiling < site->ceiling_mw; /* somebody may wait for it */
    *site = (struct nodes_watts){cap_mw, base_mw, ceiling};
    pthread_mutex_unlock(o->lock);
    if (room)
        o->on_capacity(o->arg);
}

bool node_claim_watts(struct node *n, int64_t mw, bool wakes)
{
    const struct nodes_options *o = nodes_options(n->table);
    pthread_mutex_lock(o->lock);
    const bool claimed = n->claims;
    const int64_t cap_mw = nodes_site(n->table)->cap_mw, before = n->claim_mw;
    n->claims = mw >= 0;
    n->claim_mw = mw;
    const bool fits = !wakes || cap_mw <= 0 || nodes_ceiling_mw_locked(n->table) <= cap_mw;
    if (!fits) {
        n->claims = claimed;
        n->claim_mw = before;
    }
    pthread_mutex_unlock(o->lock);
    return fits;
}

enum power_verdict node_admit_locked(const struct node *n, int64_t ceiling_mw, const struct power_ask *rest)
{
    const struct nodes_watts *site = nodes_site(n->table);
    struct power_ask ask = *rest;
    if (site->cap_mw <= 0 || !n->config->local || !n->config->levels)
        return POWER_ADMIT;
    ask.levels = n->config->levels;
    ask.state = POWER_ACTIVE;
    ask.in_flight = n->in_flight;
    return power_admit(site->cap_mw, ceiling_mw, 0, &ask);
}
