/* Providers that are open, pools of the configuration, and what may be launched for them. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "scheduler/capacity/fleet_internal.h"

#define OFFERS_EVERY_MS 60000
#define OFFERS_RETRY_MS 5000
#define COLD_MS         30000  /* until the provider says otherwise */
#define FLAP_MS         600000 /* one that was taken back sooner came too early */
#define FLAPS_MAX       5
#define BOOT_GUESS_S    120
#define LOSSES_EVERY_MS 600000 /* they are written, when nothing happens */

/* ---- sources --------------------------------------------------------------------------------------------------------- */

struct source *source_find(struct fleet *f, const char *name)
{
    for (int i = 0; i < f->n_sources; i++) {
        if (strcmp(f->sources[i].name, name) == 0)
            return &f->sources[i];
    }
    return NULL;
}

static void on_price(const char *offer, struct pusd price_hour, int64_t at_s, void *arg)
{
    const struct source *s = arg;
    journal_market(s->fleet->journal, s->name, offer, price_hour, at_s);
}

static enum rc open_source(struct fleet *f, const struct config *c, const char *name, const struct provider_ops *ops,
                           const struct provider_settings *settings, struct error *e)
{
    if (f->n_sources == FLEET_SOURCES_MAX)
        return error_set(e, RC_FULL, "provider '%s': more than %d are in use", name, FLEET_SOURCES_MAX);
    struct source *s = &f->sources[f->n_sources];
    *s = (struct source){.fleet = f, .ops = ops, .config = config_ref(c)};
    snprintf(s->name, sizeof s->name, "%s", name);
    snprintf(s->type, sizeof s->type, "%s", ops->name);
    const struct provider_env env = {.loop = f->o.loop,
                                     .log = f->o.log,
                                     .clock = f->o.clock,
                                     .name = s->name,
                                     .settings = settings,
                                     .owner = f->owner,
                                     .state_dir = s->config->state_dir,
                                     .on_change = member_on_change,
                                     .on_price = on_price,
                                     .arg = s};
    enum rc rc = ops->open(&s->provider, &env, e);
    if (rc != RC_OK) {
        config_free(s->config);
        return error_prefix(e, "provider '%s'", name);
    }
    f->n_sources++;
    return RC_OK;
}

static bool same_settings(const struct provider_settings *a, const struct provider_settings *b)
{
    const int n = a ? a->n : 0;
    if (n != (b ? b->n : 0))
        return false;
    for (int i = 0; i < n; i++) {
        if (strcmp(a->pairs[i].key, b->pairs[i].key) != 0 || strcmp(a->pairs[i].value, b->pairs[i].value) != 0)
            return false;
    }
    return true;
}

static const struct config_provider *entry_of(const struct config *c, const char *name)
{
    for (int i = 0; i < c->n_providers; i++) {
        if (strcmp(c->providers[i].name, name) == 0)
            return &c->providers[i];
    }
    return NULL;
}

static enum rc check_entry(const struct source *s, const struct config_provider *p, struct error *e)
{
    const struct config_provider *before = entry_of(s->config, p->name);
    if (!before || before->ops != p->ops || !same_settings(before->settings, p->settings))
        return error_set(e, RC_CONFLICT, "providers: \"%s\" is another one than before; that needs a restart", p->name);
    return RC_OK;
}

enum rc sources_open(struct fleet *f, const struct config *c, struct error *e)
{
    enum rc rc = RC_OK;
    bool machines = false;
    for (int i = 0; i < c->n_providers && rc == RC_OK; i++) {
        const struct config_provider *p = &c->providers[i];
        const struct source *s = source_find(f, p->name);
        rc = s ? check_entry(s, p, e) : open_source(f, c, p->name, p->ops, p->settings, e);
    }
    for (int i = 0; i < c->n_pools && rc == RC_OK; i++) {
        const struct config_pool *p = &c->pools[i];
        const struct pool *before = pool_find(f, p->node.name);
        if (before && before->config && strcmp(before->source->name, p->provider) != 0)
            rc = error_set(e, RC_CONFLICT, "capacity.pools \"%s\": another provider needs a restart, or another name",
                           p->node.name);
        else if (!p->from && !source_find(f, p->provider))
            rc = open_source(f, c, p->provider, p->ops, NULL, e);
    }
    for (int i = 0; i < c->n_nodes; i++)
        machines = machines || c->nodes[i].machine_settings;
    if (rc == RC_OK && machines && !source_find(f, provider_static.name))
        rc = open_source(f, c, provider_static.name, &provider_static, NULL, e);
    return rc;
}

void sources_close(struct fleet *f)
{
    for (int i = 0; i < f->n_sources; i++) {
        f->sources[i].ops->close(f->sources[i].provider);
        config_free(f->sources[i].config);
    }
    f->n_sources = 0;
}

/* ---- pools ----------------------------------------------------------------------------------------------------------- */

struct pool *pool_find(const struct fleet *f, const char *name)
{
    struct pool *p;
    TAILQ_FOREACH(p, &f->pools, next)
    {
        if (strcmp(p->name, name) == 0)
            return p;
    }
    return NULL;
}

/* Of a provider that knows of no offers: the pool itself is the one. */
static void make_own_offer(struct pool *p)
{
    struct offer *o = &p->offers[0];
    if (p->n_offers == 0)
        o->steady_from = clock_now(p->fleet->o.clock);
    p->n_offers = 1;
    snprintf(o->id, sizeof o->id, "%s", p->name);
    snprintf(o->domain, sizeof o->domain, "%s", p->name);
    o->market = PROVIDER_ON_DEMAND;
    o->price_hour = p->config->price_hour;
    o->boot_s = (int32_t)((p->config->boot_ms + 999) / 1000);
    o->billing_min_s = (int32_t)(p->config->billing_min_ms / 1000);
    o->launchable = true;
}

static void pool_set(struct pool *p, const struct config *c, const struct config_pool *config)
{
    config_free(p->owner);
    p->owner = config_ref(c);
    p->config = config;
    if (!(p->source->ops->caps & PROVIDER_HAS_OFFERS))
        make_own_offer(p);
    else
        p->asked_at = (struct mono){0};
}

void pools_take(struct fleet *f, const struct config *c)
{
    struct pool *p;
    TAILQ_FOREACH(p, &f->pools, next)
    {
        const struct config_pool *config = config_pool(c, p->name);
        if (!config || strcmp(config->provider, p->source->name) != 0)
            p->config = NULL; /* what it has drains */
    }
    for (int i = 0; i < c->n_pools; i++) {
        const struct config_pool *config = &c->pools[i];
        p = pool_find(f, config->node.name);
        if (!p) {
            p = spw_calloc(1, sizeof *p);
            p->fleet = f;
            snprintf(p->name, sizeof p->name, "%s", config->node.name);
            p->source = source_find(f, config->provider);
            SPW_ASSERT(p->source);
            TAILQ_INSERT_TAIL(&f->pools, p, next);
        }
        pool_set(p, c, config);
    }
}

struct pool *pool_ghost(struct fleet *f, const char *name, struct source *s)
{
    struct pool *p = spw_calloc(1, sizeof *p);
    p->fleet = f;
    p->source = s;
    snprintf(p->name, sizeof p->name, "%s", name);
    TAILQ_INSERT_TAIL(&f->pools, p, next);
    return p;
}

void pools_free(struct fleet *f)
{
    struct pool *p;
    while ((p = TAILQ_FIRST(&f->pools))) {
        TAILQ_REMOVE(&f->pools, p, next);
        config_free(p->owner);
        free(p);
    }
}

/* ---- offers ---------------------------------------------------------------------------------------------------------- */

struct offer *pool_offer(struct pool *p, const char *id)
{
    for (int i = 0; i < p->n_offers; i++) {
        if (strcmp(p->offers[i].id, id) == 0)
            return &p->offers[i];
    }
    return NULL;
}

/* Cold for so long from now on. It is a return to it that waits longer each time it was too early; what is missing is
 * still tried there as soon as it is not cold any more. */
static void cool_for(struct pool *p, struct offer *o, int64_t ms)
{
    const int64_t more = (INT64_C(1) << o->flaps) - 1;
    o->cold_until.ns = clock_now(p->fleet->o.clock).ns + ms * NS_PER_MS;
    o->steady_from.ns = o->cold_until.ns + more * p->fleet->config->capacity.return_after_ms * NS_PER_MS;
}

void offer_cool(struct pool *p, const char *id)
{
    struct offer *o = pool_offer(p, id);
    if (!o)
        return;
    o->doubted = true;
    cool_for(p, o, COLD_MS);
}

void offer_lost(struct pool *p, const char *id, int64_t lived_ms)
{
    struct offer *o = pool_offer(p, id);
    if (!o)
        return;
    if (lived_ms >= FLAP_MS)
        o->flaps = 0;
    else if (o->flaps < FLAPS_MAX && !mono_after(o->cold_until, clock_now(p->fleet->o.clock)))
        o->flaps++; /* once, however many went together */
    offer_cool(p, id);
}

void offer_had(struct pool *p, const char *id)
{
    struct offer *o = pool_offer(p, id);
    if (o)
        o->doubted = false;
}

static bool wants_market(const struct config_pool *c, enum provider_market m)
{
    bool wants = c->n_markets == 0;
    for (int i = 0; i < c->n_markets; i++)
        wants = wants || strcmp(c->markets[i], provider_market_name(m)) == 0;
    return wants && m != PROVIDER_API;
}

static void on_offer(const struct provider_offer *in, void *arg)
{
    struct pool *p = arg;
    struct fleet *f = p->fleet;
    if (!p->config || !wants_market(p->config, in->market) || strlen(in->id) >= sizeof p->offers[0].id)
        return;
    struct offer *o = pool_offer(p, in->id);
    if (!o && p->n_offers == FLEET_OFFERS_MAX)
        return;
    const struct mono now = clock_now(f->o.clock);
    const bool was = o && o->launchable, cold = in->cold_s > 0 && in->price_hour.v > 0;
    if (!o) {
        o = &p->offers[p->n_offers++];
        memset(o, 0, sizeof *o);
        snprintf(o->id, sizeof o->id, "%s", in->id);
        snprintf(o->domain, sizeof o->domain, "%s/%s/%s/%s", p->source->name, in->region ? in->region : "",
                 in->zone ? in->zone : "", in->type ? in->type : "");
    }
    o->market = in->market;
    o->price_hour = p->config->price_text ? p->config->price_hour : in->price_hour;
    o->boot_s = p->config->boot_ms ? (int32_t)((p->config->boot_ms + 999) / 1000)
                : in->boot_s       ? in->boot_s
                                   : BOOT_GUESS_S;
    o->billing_min_s = p->config->billing_min_ms ? (int32_t)(p->config->billing_min_ms / 1000) : in->billing_min_s;
    o->launchable = in->launchable || cold; /* cold_until says until when it is not */
    o->seen = true;
    if (cold) /* the provider knows best for how long */
        cool_for(p, o, in->cold_s * INT64_C(1000));
    else if (!was && o->launchable)
        o->steady_from = now;
    else if (in->launchable)
        o->cold_until.ns = 0;
}

static void on_offers(enum provider_failure failure, const char *text, void *arg)
{
    struct pool *p = arg;
    struct fleet *f = p->fleet;
    p->asking = false;
    p->asked_at = clock_now(f->o.clock);
    snprintf(p->source->last_error, sizeof p->source->last_error, "%s", failure == PROVIDER_FINE ? "" : text);
    if (failure != PROVIDER_FINE) {
        log_warn(f->o.log, "capacity", "offers cannot be read", LOG_S("pool", p->name),
                 LOG_S("provider", p->source->name), LOG_S("failure", provider_failure_name(failure)),
                 LOG_S("reason", text));
        p->asked_at.ns -= (OFFERS_EVERY_MS - OFFERS_RETRY_MS) * NS_PER_MS;
        return;
    }
    for (int i = 0; i < p->n_offers; i++) {
        if (!p->offers[i].seen)
            p->offers[i].launchable = false; /* nodes of it may still be there */
        p->offers[i].seen = false;
    }
    fleet_plan_soon(f);
}

void pool_ask_offers(struct pool *p)
{
    struct fleet *f = p->fleet;
    const struct mono now = clock_now(f->o.clock);
    if (!p->config || p->asking || !(p->source->ops->caps & PROVIDER_HAS_OFFERS))
        return;
    if (p->asked_at.ns && now.ns - p->asked_at.ns < OFFERS_EVERY_MS * NS_PER_MS)
        return;
    p->asking = true;
    p->source->ops->offers(p->source->provider, p->config->settings, on_offer, on_offers, p);
}

/* ---- losses ------------------------------------------------------------------------------------------------------------ */

static void keep_losses(struct pool *p)
{
    p->losses_kept = clock_now(p->fleet->o.clock);
    journal_losses(p->fleet->journal, p->name, &p->losses);
}

void pools_watch(struct fleet *f)
{
    const struct mono now = clock_now(f->o.clock);
    const double hours = f->watched.ns ? (double)(now.ns - f->watched.ns) / NS_PER_S / 3600 : 0;
    struct member *m;
    struct pool *p;
    f->watched = now;
    TAILQ_FOREACH(m, &f->members, next)
    {
        const struct offer *o = m->pool ? pool_offer(m->pool, m->offer) : NULL;
        if (o && o->market == PROVIDER_SPOT && m->launched_s && m->life != LIFE_LOST)
            losses_note(&m->pool->losses, fleet_now_s(f), hours, 0);
    }
    TAILQ_FOREACH(p, &f->pools, next)
    {
        if (!p->losses_kept.ns)
            p->losses_kept = now;
        if (p->losses.at_s && now.ns - p->losses_kept.ns > LOSSES_EVERY_MS * NS_PER_MS)
            keep_losses(p);
    }
}

void pool_lost(struct pool *p)
{
    losses_note(&p->losses, fleet_now_s(p->fleet), 0, 1);
    keep_losses(p);
}

static void on_losses(const char *pool, const struct losses *l, void *arg)
{
    struct pool *p = pool_find(arg, pool);
    if (p)
        p->losses = *l;
}

enum rc pools_remember(struct fleet *f, struct error *e)
{
    return journal_each_losses(f->journal, on_losses, f, e);
}
