/* One node that the fleet looks after: its life (life.h), and what each state means for provider, node table and journal. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "scheduler/capacity/fleet_internal.h"

#define SILENT_MS     10000 /* of failing health checks, until it is called lost */
#define END_GRACE_MS  5000
#define MOVE_EARLY_MS 5000   /* before its end what still runs on a node is moved */
#define BLOCKED_MS    300000 /* quota, credentials: a person has to do something */

struct member *member_new(struct fleet *f, struct pool *p, const char *name, const char *token)
{
    struct member *m = spw_calloc(1, sizeof *m);
    m->fleet = f;
    m->pool = p;
    snprintf(m->name, sizeof m->name, "%s", name);
    snprintf(m->token, sizeof m->token, "%s", token);
    m->since = m->sign = clock_now(f->o.clock);
    m->times = life_times_default;
    TAILQ_INSERT_TAIL(&f->members, m, next);
    return m;
}

bool member_is_rented(const struct member *m)
{
    return m->pool != NULL;
}

void member_free(struct member *m)
{
    sleep_forget(m);
    if (m->token[0])
        guard_release(m->fleet->guard, m->token);
    TAILQ_REMOVE(&m->fleet->members, m, next);
    free(m);
}

/* ---- the node table ---------------------------------------------------------------------------------------------- */

static void leave_table(struct member *m, const char *reason)
{
    if (m->node && m->pool)
        node_lose(m->node, reason);
    if (m->pool)
        m->node = NULL;
    sleep_forget(m);
}

bool member_joins(const struct member *m)
{
    return m->fleet->join.token && m->pool && (m->pool->source->ops->caps & PROVIDER_IS_CLOUD) &&
           !(m->pool->config && m->pool->config->join_off);
}

/* As soon as it has an address and a place is free. */
static void enter_table(struct member *m)
{
    struct fleet *f = m->fleet;
    struct pool *p = m->pool;
    char url[320];
    const char *key = NULL, *file;
    struct error e;
    if (!p || m->node || m->fleet->stopping || !p->config || (!m->host[0] && !m->join_url[0]) ||
        (member_joins(m) && !m->join_url[0]))
        return;
    if (m->node_key[0])
        key = m->node_key;
    else if (p->source->ops->caps & PROVIDER_ENDS_WITH_US)
        (void)!nodes_engine_key(f->o.nodes, &key, &file, &e);
    const bool v6 = strchr(m->host, ':') != NULL;
    snprintf(url, sizeof url, "http://%s%s%s:%d", v6 ? "[" : "", m->host, v6 ? "]" : "", m->port);
    const struct offer *offer = pool_offer(p, m->offer);
    const struct nodes_newcomer c = {.owner = p->owner,
                                     .like = &p->config->node,
                                     .name = m->name,
                                     .url = m->join_url[0] ? m->join_url : url,
                                     .node_key = key,
                                     .tls_ca = m->tls_ca[0] ? m->tls_ca : NULL,
                                     .tls_cert = m->tls_cert[0] ? m->tls_cert : NULL,
                                     .tls_key = m->tls_key[0] ? m->tls_key : NULL,
                                     .tls_name = m->tls_name[0] ? m->tls_name : NULL,
                                     .per_hour = m->price_hour,
                                     .market = offer ? provider_market_name(offer->market) : NULL,
                                     .domain = offer && offer->domain[0] ? offer->domain : NULL};
    const enum rc rc = nodes_add(f->o.nodes, &c, &m->node, &e);
    if (rc != RC_OK && strcmp(m->reason, e.message) != 0) { /* tried again, until its deadline */
        log_warn(f->o.log, "capacity", "no place in the node table", LOG_S("node", m->name),
                 LOG_S("reason", e.message));
        snprintf(m->reason, sizeof m->reason, "%s", e.message);
    }
}

/* ---- ending it --------------------------------------------------------------------------------------------------- */

struct ending { /* a terminate() under way; its member may be gone when it is answered */
    struct fleet *fleet;
    char name[JOURNAL_NAME_MAX];
};

static void on_terminated(enum provider_failure failure, const char *text, void *arg)
{
    struct ending *end = arg;
    struct member *m = fleet_find(end->fleet, end->name);
    if (m && m->life == LIFE_ENDING) {
        m->terminating = false;
        if (failure == PROVIDER_FINE) {
            member_event(m, LIFE_OVER, "ended");
        } else {
            end->fleet->stats.failures[failure]++;
            log_warn(end->fleet->o.log, "capacity", "could not be ended; it is tried again", LOG_S("node", m->name),
                     LOG_S("failure", provider_failure_name(failure)), LOG_S("reason", text));
        }
    }
    free(end);
}

static void terminate(struct member *m)
{
    struct fleet *f = m->fleet;
    struct source *s = m->pool->source;
    if (!m->told) { /* nobody was asked for it, and nobody will be */
        member_event(m, LIFE_OVER, "not wanted any more");
        return;
    }
    if (m->terminating)
        return;
    struct ending *end = spw_calloc(1, sizeof *end);
    end->fleet = f;
    snprintf(end->name, sizeof end->name, "%s", m->name);
    m->terminating = true;
    m->told_to_end_s = fleet_now_s(f);
    enum rc rc = s->ops->terminate(s->provider, m->name, END_GRACE_MS, on_terminated, end);
    if (rc == RC_NOT_FOUND && m->id[0] && s->ops->terminate_id)
        rc = s->ops->terminate_id(s->provider, m->id, on_terminated, end);
    if (rc == RC_OK)
        return;
    m->terminating = false;
    free(end);
    if (!(s->ops->caps & PROVIDER_IS_CLOUD))
        member_event(m, LIFE_OVER, "the provider knows nothing of it");
    /* else its list says whether it is there: sweep.c */
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static int64_t end_of(const struct member *m)
{
    return m->ended_s ? m->ended_s : m->told_to_end_s ? m->told_to_end_s : fleet_now_s(m->fleet);
}

static void gone(struct member *m)
{
    struct fleet *f = m->fleet;
    if (m->pool && (m->pool->source->ops->caps & PROVIDER_CAN_ADOPT) && m->pool->source->ops->forget)
        m->pool->source->ops->forget(m->pool->source->provider, m->name);
    leave_table(m, m->reason[0] ? m->reason : "it is gone");
    if (m->journaled)
        journal_end(f->journal, m->token, end_of(m), m->reason);
    f->stats.ended++;
    member_free(m);
    fleet_plan_soon(f);
}

static void came_into(struct member *m, enum life_state before)
{
    struct fleet *f = m->fleet;
    switch (m->life) {
    case LIFE_BOOTING:
        if (before != LIFE_REQUESTED && before != LIFE_LOST)
            leave_table(m, m->reason);
        m->host[0] = '\0';
        break;
    case LIFE_JOINING: enter_table(m); break;
    case LIFE_READY:
        m->call_at.ns = 0;
        if (m->node && m->purpose == FOR_NOTHING && before == LIFE_DRAINING)
            node_set_drain(m->node, false);
        if (m->noticed || m->purpose == FOR_END)
            member_drain(m, FOR_END, m->reason);
        fleet_plan_soon(f);
        break;
    case LIFE_DRAINING:
        if (m->node)
            node_set_drain(m->node, true);
        break;
    case LIFE_SLEEPING:
        f->stats.sleeps++;
        m->purpose = FOR_NOTHING;
        if (m->node)
            node_set_drain(m->node, false);
        break;
    case LIFE_LOST:
        f->stats.lost++;
        if (m->pool && (m->pool->source->ops->caps & PROVIDER_IS_CLOUD))
            sweep_source(m->pool->source); /* is it there at all? */
        fleet_plan_soon(f);
        break;
    case LIFE_ENDING:
        if (member_joins(m) && m->fleet->join.ended)
            m->fleet->join.ended(m->name, m->fleet->join.arg);
        leave_table(m, m->reason);
        terminate(m);
        break;
    case LIFE_GONE: gone(m); break;
    default: break;
    }
}

void member_event(struct member *m, enum life_event e, const char *reason)
{
    struct fleet *f = m->fleet;
    const enum life_state before = m->life, next = life_next(before, e, member_is_rented(m));
    char buf[512];
    snprintf(buf, sizeof buf, "%s", reason); /* it may be the member's own */
    if (e == LIFE_DEADLINE)
        f->stats.deadlines++;
    if (next == before) {
        if (e == LIFE_DEADLINE) {
            m->since = clock_now(f->o.clock);
            if (next == LIFE_ENDING)
                terminate(m);
        }
        return;
    }
    m->life = next;
    m->since = m->sign = clock_now(f->o.clock);
    snprintf(m->reason, sizeof m->reason, "%s", buf);
    const bool bad = next == LIFE_LOST || e == LIFE_DEADLINE;
    log_write(f->o.log, bad ? LOG_WARN : LOG_INFO, "capacity", "node moves on",
              (const struct log_field[]){LOG_S("node", m->name), LOG_S("pool", m->pool ? m->pool->name : ""),
                                         LOG_S("from", life_state_name(before)), LOG_S("state", life_state_name(next)),
                                         LOG_S("event", life_event_name(e)), LOG_S("reason", m->reason)},
              6);
    came_into(m, before);
}

void member_end(struct member *m, const char *reason)
{
    m->purpose = FOR_END;
    member_event(m, LIFE_END, reason);
}

void member_drain(struct member *m, enum purpose purpose, const char *reason)
{
    m->purpose = purpose;
    if (m->life == LIFE_READY)
        member_event(m, LIFE_DRAIN, reason);
    else if (purpose == FOR_END && m->life != LIFE_DRAINING) /* nothing is there to be finished */
        member_end(m, reason);
}

void member_undrain(struct member *m, const char *reason)
{
    m->purpose = FOR_NOTHING;
    m->cut = false;
    member_event(m, LIFE_UNDRAIN, reason);
}

/* ---- what the provider says -------------------------------------------------------------------------------------- */

static struct member *member_of(struct source *s, const struct provider_instance *i)
{
    struct member *m;
    TAILQ_FOREACH(m, &s->fleet->members, next)
    {
        if (m->pool && m->pool->source == s &&
            ((i->name && strcmp(m->name, i->name) == 0) || (i->token && strcmp(m->token, i->token) == 0)))
            return m;
    }
    return NULL;
}

/* It could not be had, or was lost: what follows for what is launched next. */
static void note_failure(struct member *m, const struct provider_instance *i)
{
    struct fleet *f = m->fleet;
    const struct mono now = clock_now(f->o.clock);
    if (m->life != LIFE_ENDING)
        f->stats.failures[i->failure]++;
    if (i->failure == PROVIDER_NO_CAPACITY) {
        for (int k = 0; k < m->n_asked; k++)
            offer_cool(m->pool, m->asked[k]);
        m->pool->asked_at.ns = 0; /* the provider may know more by now */
    }
    if (i->failure == PROVIDER_TAKEN_BACK && m->launched_s) {
        offer_lost(m->pool, m->offer, (fleet_now_s(f) - m->launched_s) * 1000);
        pool_lost(m->pool);
    }
    if (i->failure == PROVIDER_QUOTA || i->failure == PROVIDER_DENIED || i->failure == PROVIDER_INVALID) {
        m->pool->blocked_until.ns = now.ns + BLOCKED_MS * NS_PER_MS;
        log_error(f->o.log, "capacity", "the provider refuses; nothing more is asked for this pool for a while",
                  LOG_S("pool", m->pool->name), LOG_S("provider", m->pool->source->name),
                  LOG_S("failure", provider_failure_name(i->failure)), LOG_S("reason", i->reason));
    }
    if (i->failure != PROVIDER_FINE && i->failure != PROVIDER_ENDED)
        snprintf(m->pool->source->last_error, sizeof m->pool->source->last_error, "%s", i->reason);
}

static void running(struct member *m, const struct provider_instance *i)
{
    const char *host = i->host ? i->host : "";
    const bool moved = m->host[0] && (strcmp(m->host, host) != 0 || m->port != i->port);
    launch_known(m, i);
    if (moved)
        leave_table(m, "it has another address");
    snprintf(m->host, sizeof m->host, "%s", host);
    m->port = i->port;
    if (!host[0])
        member_event(m, LIFE_LAUNCHED, "launched");
    else if (m->life == LIFE_READY || m->life == LIFE_DRAINING)
        enter_table(m); /* after it moved */
    else
        member_event(m, LIFE_ADDRESS, "it has an address");
}

void member_on_change(const struct provider_instance *i, void *arg)
{
    struct source *s = arg;
    struct member *m = member_of(s, i);
    const char *reason = i->reason && i->reason[0] ? i->reason : NULL;
    if (!m)
        return;
    switch (i->state) {
    case INSTANCE_STARTING:
        launch_known(m, i);
        member_event(m, LIFE_LAUNCHED, reason ? reason : "launched");
        break;
    case INSTANCE_RUNNING: running(m, i); break;
    case INSTANCE_BACKOFF: member_event(m, LIFE_RESTARTS, reason ? reason : "its engine ended"); break;
    case INSTANCE_STOPPING: break;
    case INSTANCE_GONE:
        if (i->id && *i->id) /* ended before anything was told of it, or at another price: paid it is */
            launch_known(m, i);
        m->ended_s = i->ended_at_s;
        note_failure(m, i);
        if (i->failure == PROVIDER_UNREACHABLE && (s->ops->caps & PROVIDER_IS_CLOUD) && m->life != LIFE_ENDING)
            member_event(m, LIFE_SILENT, reason ? reason : "nobody knows whether it was launched");
        else
            member_event(m, LIFE_OVER, reason ? reason : provider_failure_name(i->failure));
        break;
    }
}

/* ---- what node table and clock say ------------------------------------------------------------------------------- */

static bool look_at_node(struct member *m, struct mono now)
{
    const struct node_load l = node_load(m->node);
    const enum life_state before = m->life;
    if (m->life == LIFE_JOINING || (m->life == LIFE_DRAINING && m->call_at.ns && m->called_sleep))
        health_probe_soon(m->node);
    if (l.state == NODE_READY && l.fresh) {
        m->sign = now;
        if (m->life != LIFE_READY && m->life != LIFE_DRAINING && m->life != LIFE_ENDING &&
            !(m->life == LIFE_SLEEPING && m->call)) /* it may still be on its way down */
            member_event(m, LIFE_ANSWERS, "answers");
    } else if (l.state == NODE_ASLEEP) {
        m->sign = now;
        if (m->life == LIFE_JOINING && m->call_at.ns && !m->called_sleep)
            sleep_order(m, false); /* on its way up; again, if that was not heard */
        else if (m->life != LIFE_SLEEPING)
            member_event(m, LIFE_ASLEEP, "asleep");
    } else if ((m->life == LIFE_READY || m->life == LIFE_DRAINING || m->life == LIFE_SLEEPING) &&
               now.ns - m->sign.ns > SILENT_MS * NS_PER_MS) {
        member_event(m, LIFE_SILENT, "it does not answer");
    }
    return m->life == before;
}

/* What it drains for, once it is empty. False: it is another's turn. */
static bool look_at_drain(struct member *m, struct mono now)
{
    const struct node_load l = m->node ? node_load(m->node) : (struct node_load){.in_flight = 0};
    if (m->noticed && !m->cut && m->node && l.in_flight && m->gone_by.ns - now.ns < MOVE_EARLY_MS * NS_PER_MS) {
        m->cut = true;
        log_info(m->fleet->o.log, "capacity", "what runs there is moved", LOG_S("node", m->name),
                 LOG_I("requests", l.in_flight));
        node_cut(m->node);
        return true;
    }
    if (l.in_flight)
        return true;
    if (m->purpose == FOR_SLEEP)
        sleep_order(m, true);
    else if (m->purpose == FOR_END && !m->noticed && m->pool) {
        member_end(m, m->reason);
        return false;
    }
    return true;
}

void member_look(struct member *m)
{
    const struct mono now = clock_now(m->fleet->o.clock);
    if (m->life == LIFE_JOINING && !m->node)
        enter_table(m);
    if (m->node && !look_at_node(m, now))
        return;
    if (m->life == LIFE_DRAINING && !look_at_drain(m, now))
        return;
    const bool by_sign = m->life == LIFE_READY || m->life == LIFE_SLEEPING;
    const int64_t in_ms = (now.ns - (by_sign ? m->sign.ns : m->since.ns)) / NS_PER_MS;
    if (m->times.of[m->life] && in_ms > m->times.of[m->life])
        member_event(m, LIFE_DEADLINE, "it has been so for too long");
}
