/* From a plan's word to an instance: guard, journal, provider, in this order. Nothing else calls a provider's launch(). */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/random.h"
#include "base/text.h"
#include "scheduler/capacity/fleet_internal.h"

#define WRONG_MS 60000

static void make_token(char token[JOURNAL_TOKEN_MAX])
{
    struct random_pool pool = {.left = 0};
    unsigned char bytes[16];
    random_take(&pool, bytes, sizeof bytes);
    text_hex(token, bytes, sizeof bytes);
}

/* "burst-3": the lowest number that nobody has. */
static void make_name(struct pool *p, char name[JOURNAL_NAME_MAX])
{
    for (int i = 1;; i++) {
        snprintf(name, JOURNAL_NAME_MAX, "%.48s-%d", p->name, i);
        if (!fleet_find(p->fleet, name) && !nodes_find(p->fleet->o.nodes, name))
            return;
    }
}

static struct provider_spec spec_of(const struct member *m, const char *const *offers, int n, struct error *e)
{
    struct pool *p = m->pool;
    if (!p->config) /* the configuration has lost it: it is only watched until it is gone */
        return (struct provider_spec){.name = m->name, .token = m->token, .owner = m->fleet->owner, .pool = p->name};
    const struct config_node *c = &p->config->node;
    const char *key, *file = NULL;
    if (p->source->ops->caps & PROVIDER_ENDS_WITH_US)
        (void)!nodes_engine_key(m->fleet->o.nodes, &key, &file, e);
    return (struct provider_spec){.name = m->name,
                                  .alias = node_upstream_model(c) ? node_upstream_model(c) : c->models[0],
                                  .node_key_file = file,
                                  .token = m->token,
                                  .owner = m->fleet->owner,
                                  .pool = p->name,
                                  .offers = offers,
                                  .n_offers = n,
                                  .settings = p->config->settings};
}

static struct member *by_token(const struct fleet *f, const char *token)
{
    struct member *m;
    TAILQ_FOREACH(m, &f->members, next)
    {
        if (strcmp(m->token, token) == 0)
            return m;
    }
    return NULL;
}

static void on_intended(enum rc rc, const char *token, void *arg)
{
    struct fleet *f = arg;
    struct member *m = by_token(f, token);
    const char *offers[OFFERS_ASKED_MAX];
    struct error e = {.message = ""};
    if (rc == RC_CANCELLED) /* we end */
        return;
    for (int k = 0; m && k < m->n_asked; k++)
        offers[k] = m->asked[k];
    if (m && rc == RC_OK)
        m->journaled = true;
    if (m && rc != RC_OK) {
        member_event(m, LIFE_OVER, "the journal cannot be written");
    } else if (m && (m->life != LIFE_REQUESTED || f->stopping || !m->pool->config)) {
        member_event(m, LIFE_OVER, "not wanted any more"); /* the provider knows nothing of it */
    } else if (m) {
        char join_token[FLEET_JOIN_TOKEN_MAX];
        struct provider_spec spec = spec_of(m, offers, m->n_asked, &e);
        if (member_joins(m)) {
            if (f->join.token(m->name, join_token, &e, f->join.arg) != RC_OK) {
                member_event(m, LIFE_OVER, e.message); /* it could never join, and would be paid */
                return;
            }
            spec.join_url = f->join.url;
            spec.join_token = join_token;
        }
        f->stats.launches++;
        m->told = true;
        rc = m->pool->source->ops->launch(m->pool->source->provider, &spec, &e);
        explicit_bzero(join_token, sizeof join_token);
        if (rc != RC_OK) {
            m->pool->blocked_until.ns = clock_now(f->o.clock).ns + WRONG_MS * NS_PER_MS;
            f->stats.failures[PROVIDER_INVALID]++;
            member_event(m, LIFE_OVER, e.message);
        }
    }
    if (!m && rc == RC_OK)
        journal_end(f->journal, token, fleet_now_s(f), "not wanted any more");
}

static struct pusd dearest(struct offer *const *offers, int n)
{
    struct pusd most = {0};
    for (int i = 0; i < n; i++)
        most = offers[i]->price_hour.v > most.v ? offers[i]->price_hour : most;
    return most;
}

enum rc launch_one(struct pool *p, struct offer *const *offers, int n, bool pinned, const char *why, struct error *e)
{
    struct fleet *f = p->fleet;
    struct journal_entry entry = {.intended_s = fleet_now_s(f)};
    const struct mono now = clock_now(f->o.clock);
    char money[48];
    if (f->stopping || !p->config)
        return error_set(e, RC_CONFLICT, "pool '%s' launches nothing any more", p->name);
    if (n == 0)
        return error_set(e, RC_FULL, "pool '%s': nothing can be had at the moment", p->name);
    n = n < OFFERS_ASKED_MAX ? n : OFFERS_ASKED_MAX;
    entry.price_hour = dearest(offers, n);
    entry.billing_min_s = offers[0]->billing_min_s;
    make_token(entry.token);
    const enum guard_verdict v = guard_admit(f->guard, entry.token, entry.price_hour, now.ns);
    if (v != GUARD_OK) {
        f->stats.refused[v]++;
        return error_set(e, RC_FULL, "pool '%s': %s is reached (%d nodes, %s dollars per hour are there)", p->name,
                         v == GUARD_NODES     ? "capacity.max_nodes"
                         : v == GUARD_DOLLARS ? "capacity.max_hour"
                                              : "capacity.launches_per_min",
                         guard_nodes(f->guard), pusd_format(guard_hour(f->guard), money, sizeof money));
    }
    make_name(p, entry.name);
    snprintf(entry.provider, sizeof entry.provider, "%s", p->source->name);
    snprintf(entry.pool, sizeof entry.pool, "%s", p->name);
    struct member *m = member_new(f, p, entry.name, entry.token);
    m->price_hour = entry.price_hour;
    m->billing_min_s = entry.billing_min_s;
    m->boot_s = offers[0]->boot_s;
    if (n == 1)
        snprintf(m->offer, sizeof m->offer, "%s", offers[0]->id);
    life_times_for(&m->times, (int64_t)m->boot_s * 1000, f->config->capacity.drain_ms);
    m->n_asked = n;
    for (int k = 0; k < n; k++)
        snprintf(m->asked[k], sizeof m->asked[k], "%s", offers[k]->id);
    snprintf(entry.offer, sizeof entry.offer, "%s", offers[0]->id);
    m->pinned = pinned;
    snprintf(m->reason, sizeof m->reason, "%s", why);
    log_info(f->o.log, "capacity", "launching", LOG_S("node", m->name), LOG_S("pool", p->name), LOG_S("reason", why),
             LOG_S("offer", offers[0]->id), LOG_I("offers", n), LOG_S("token", m->token));
    journal_intend(f->journal, &entry, on_intended, f);
    return RC_OK;
}

void launch_known(struct member *m, const struct provider_instance *i)
{
    struct fleet *f = m->fleet;
    const bool news = i->id && *i->id && strcmp(m->id, i->id) != 0;
    if (i->id && *i->id)
        snprintf(m->id, sizeof m->id, "%s", i->id);
    if (i->offer && *i->offer)
        snprintf(m->offer, sizeof m->offer, "%s", i->offer);
    if (i->launched_at_s)
        m->launched_s = i->launched_at_s;
    if (!m->launched_s)
        m->launched_s = fleet_now_s(f);
    const struct offer *o = m->pool ? pool_offer(m->pool, m->offer) : NULL;
    const struct pusd price = i->price_hour.v > 0 ? i->price_hour : o ? o->price_hour : m->price_hour;
    if (news) {
        journal_known(f->journal, m->token, m->id, m->offer, m->launched_s, price);
        f->stats.launched++;
        if (m->pool)
            offer_had(m->pool, m->offer);
    } else if (price.v != m->price_hour.v && m->id[0]) {
        /* It may have held at the launch already, and only be known now. */
        journal_price(f->journal, m->token, price,
                      !i->price_at_s                  ? fleet_now_s(f)
                      : i->price_at_s > m->launched_s ? i->price_at_s
                                                      : m->launched_s);
    }
    m->price_hour = price;
    guard_price(f->guard, m->token, price);
}

/* ---- after a restart, and by hand -------------------------------------------------------------------------------------- */

static enum rc watch(struct member *m, const char *id, struct error *e)
{
    struct source *s = m->pool->source;
    struct error ignored;
    const struct provider_spec spec = spec_of(m, NULL, 0, &ignored);
    const struct provider_instance known = {.name = m->name,
                                            .state = INSTANCE_STARTING,
                                            .reason = "",
                                            .id = id && *id ? id : NULL,
                                            .token = m->token,
                                            .offer = m->offer,
                                            .pool = m->pool->name,
                                            .launched_at_s = m->launched_s,
                                            .price_hour = m->price_hour};
    if (!(s->ops->caps & PROVIDER_CAN_ADOPT))
        return error_set(e, RC_UNSUPPORTED, "provider '%s' (%s) cannot take over what is there", s->name, s->type);
    return s->ops->adopt(s->provider, &spec, &known, e);
}

/* What an earlier scheduler had asked for and not ended. */
void launch_recover(const struct journal_entry *i, void *arg)
{
    struct fleet *f = arg;
    struct pool *p = pool_find(f, i->pool);
    struct source *s = source_find(f, i->provider);
    struct error e;
    if (s && (s->ops->caps & PROVIDER_ENDS_WITH_US)) { /* it went with that scheduler */
        journal_end(f->journal, i->token, fleet_now_s(f), "its scheduler ended");
        return;
    }
    guard_count(f->guard, i->token, i->price_hour); /* it may be there */
    if (s && (!p || p->source != s))                /* the pool is another provider's now: what it had is not */
        p = pool_ghost(f, i->pool, s);
    if (!s) {
        f->stats.orphans++;
        log_error(
            f->o.log, "capacity",
            "an instance may be running whose provider the configuration does not name any more; bring it back, or end "
            "the instance there",
            LOG_S("node", i->name), LOG_S("pool", i->pool), LOG_S("provider", i->provider), LOG_S("id", i->id),
            LOG_S("token", i->token));
        return;
    }
    struct member *m = member_new(f, p, i->name, i->token);
    m->journaled = m->told = true;
    m->price_hour = i->price_hour;
    m->billing_min_s = i->billing_min_s;
    m->launched_s = i->launched_s;
    snprintf(m->id, sizeof m->id, "%s", i->id);
    snprintf(m->offer, sizeof m->offer, "%s", i->offer);
    snprintf(m->reason, sizeof m->reason, "found in the journal");
    m->life = i->id[0] ? LIFE_BOOTING : LIFE_REQUESTED;
    log_info(f->o.log, "capacity", "found again", LOG_S("node", m->name), LOG_S("pool", p->name), LOG_S("id", m->id),
             LOG_S("token", m->token));
    if (watch(m, m->id, &e) != RC_OK)
        log_warn(f->o.log, "capacity", "cannot be watched; the next sweep looks for it", LOG_S("node", m->name),
                 LOG_S("reason", e.message));
}

static void on_adopted(enum rc rc, const char *token, void *arg)
{
    struct fleet *f = arg;
    struct member *m = by_token(f, token);
    struct error e;
    if (!m || rc == RC_CANCELLED)
        return;
    m->journaled = rc == RC_OK;
    m->told = true;
    if (rc != RC_OK)
        member_event(m, LIFE_OVER, "the journal cannot be written");
    else if (watch(m, m->id, &e) != RC_OK)
        member_event(m, LIFE_OVER, e.message);
}

enum rc launch_adopt(struct pool *p, const char *id, struct error *e)
{
    struct fleet *f = p->fleet;
    struct journal_entry entry = {.intended_s = fleet_now_s(f), .launched_s = fleet_now_s(f)};
    struct member *other;
    if (!(p->source->ops->caps & PROVIDER_CAN_ADOPT))
        return error_set(e, RC_INVALID, "provider '%s' (%s) cannot take over what is there", p->source->name,
                         p->source->type);
    TAILQ_FOREACH(other, &f->members, next)
    {
        if (other->pool && other->pool->source == p->source && strcmp(other->id, id) == 0)
            return error_set(e, RC_CONFLICT, "'%s' is node '%s' already", id, other->name);
    }
    make_token(entry.token);
    make_name(p, entry.name);
    snprintf(entry.provider, sizeof entry.provider, "%s", p->source->name);
    snprintf(entry.pool, sizeof entry.pool, "%s", p->name);
    snprintf(entry.id, sizeof entry.id, "%s", id);
    entry.price_hour = p->config->price_hour;
    guard_count(f->guard, entry.token, entry.price_hour);
    struct member *m = member_new(f, p, entry.name, entry.token);
    snprintf(m->id, sizeof m->id, "%s", id);
    m->launched_s = entry.launched_s;
    m->price_hour = entry.price_hour;
    m->life = LIFE_BOOTING;
    m->pinned = true;
    snprintf(m->reason, sizeof m->reason, "taken over by an operator");
    journal_intend(f->journal, &entry, on_adopted, f);
    return RC_OK;
}
