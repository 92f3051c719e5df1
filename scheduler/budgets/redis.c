/* The store's functions, and the steps that are on their way. */
#include "scheduler/budgets/redis.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "base/text.h"
#include "scheduler/budgets/redis_internal.h"

#define TIMEOUT_DEFAULT_MS 500
#define DEAD_DEFAULT_MS    10000

static int64_t now_ns(const struct redis_port *p)
{
    return clock_now(p->store->o.clock).ns;
}

/* ---- holds ------------------------------------------------------------------------------------------------------ */

static struct redis_hold *hold_new(struct redis_port *p, const char *id, const struct kept_claim *claims, int n)
{
    size_t names = (size_t)n * sizeof(struct budget_held), id_bytes = strlen(id) + 1;
    struct redis_hold *h = spw_calloc(1, sizeof *h + names + id_bytes);
    h->pub.n = n;
    h->pub.of = (struct budget_held *)(h + 1);
    for (int i = 0; i < n; i++) {
        memcpy(h->pub.of[i].name, claims[i].name, sizeof h->pub.of[i].name);
        h->pub.of[i].start_s = claims[i].c.start_s;
    }
    h->pub.id = memcpy((char *)(h + 1) + names, id, id_bytes);
    h->port = p;
    h->sequence = 1;
    pthread_mutex_lock(&p->store->lock);
    TAILQ_INSERT_TAIL(&p->store->holds, h, entry);
    pthread_mutex_unlock(&p->store->lock);
    return h;
}

static void hold_free(struct redis_hold *h)
{
    pthread_mutex_t *lock = &h->port->store->lock;
    pthread_mutex_lock(lock);
    TAILQ_REMOVE(&h->port->store->holds, h, entry);
    pthread_mutex_unlock(lock);
    free(h);
}

static void hold_grant(struct redis_hold *h, struct pusd amount, bool leased)
{
    pthread_mutex_lock(&h->port->store->lock);
    h->pub.granted.v += amount.v;
    if (leased)
        h->leased.v += amount.v;
    else
        h->in_redis = true;
    pthread_mutex_unlock(&h->port->store->lock);
}

/* Redis has none of it any more, and has counted all of it as spent. */
static void hold_lose(struct redis_hold *h)
{
    pthread_mutex_lock(&h->port->store->lock);
    h->lost.v = h->pub.granted.v - h->leased.v;
    h->in_redis = false;
    pthread_mutex_unlock(&h->port->store->lock);
}

/* ---- steps ------------------------------------------------------------------------------------------------------ */

struct step *step_new(struct redis_port *p, enum step_kind kind, const struct budget_claim *claims, int n)
{
    struct step *s = spw_calloc(1, sizeof *s + (size_t)n * sizeof s->claims[0]);
    s->port = p;
    s->kind = kind;
    s->n = n;
    for (int i = 0; i < n; i++) {
        struct kept_claim *k = &s->claims[i];
        k->c = claims[i];
        snprintf(k->name, sizeof k->name, "%s", claims[i].name);
        k->c.name = k->name;
    }
    return s;
}

static bool has_deadline(const struct step *s)
{
    return s->kind != STEP_SETTLE && s->kind != STEP_LEASE;
}

static void on_step(const redisReply *reply, void *arg)
{
    struct step *s = arg;
    s->command = NULL;
    step_replied(s, reply);
}

static bool send_step(struct step *s)
{
    struct wire w;
    wire_step(&w, s);
    s->command = redis_link_send(s->port->link, w.n, w.argv, w.lengths, on_step, s);
    if (s->command && s->sent++)
        s->port->store->repeated++;
    return s->command != NULL;
}

void step_queue(struct step *s)
{
    struct redis_port *p = s->port;
    TAILQ_INSERT_TAIL(&p->steps, s, entry);
    p->n_steps++;
    if (s->kind == STEP_SETTLE)
        p->store->unsettled++;
    if (has_deadline(s))
        s->deadline_ns = now_ns(p) + p->store->o.timeout_ms * NS_PER_MS;
    if (p->state == PORT_OPEN)
        (void)send_step(s);
    port_tick(p);
}

void step_end(struct step *s)
{
    struct redis_port *p = s->port;
    TAILQ_REMOVE(&p->steps, s, entry);
    p->n_steps--;
    if (s->kind == STEP_SETTLE)
        p->store->unsettled--;
    if (s->command)
        redis_command_cancel(s->command);
    free(s);
}

void steps_lost(struct redis_port *p)
{
    struct step *s;
    TAILQ_FOREACH(s, &p->steps, entry)
    s->command = NULL; /* its callback has been or is being called by the link */
}

/* ---- answers ---------------------------------------------------------------------------------------------------- */

static void answer_plain(budget_done_cb *done, void *arg, enum rc rc, const char *why)
{
    struct budget_answer a = {.rc = rc, .grant = {.units = -1, .refused = -1}, .why = why};
    if (done)
        done(&a, arg);
}

static void refuse(struct redis_port *p, budget_done_cb *done, void *arg)
{
    p->store->refused++;
    answer_plain(done, arg,
                 p->state == PORT_CLOSED ? RC_AGAIN
                 : p->state == PORT_OPEN ? RC_TIMEOUT
                                         : RC_IO,
                 p->why ? p->why : "the Redis of the shared budgets does not answer in time");
}

/* Out of leases, while Redis cannot be asked. False: there is nothing to grant. */
static bool grant_leased(struct redis_port *p, struct redis_hold *h, const char *id, const struct kept_claim *kept,
                         int n, const struct budget_ask *ask, budget_done_cb *done, void *arg)
{
    struct budget_claim claims[BUDGET_SET_MAX];
    struct budget_view views[BUDGET_SET_MAX] = {0};
    for (int i = 0; i < n; i++) {
        claims[i] = kept[i].c;
        views[i] = (struct budget_view){.hard = claims[i].limits.hard, .soft = claims[i].soft};
    }
    struct budget_grant g = leases_take(p, claims, n, ask);
    if (g.units < 0)
        return false;
    p->store->leased++;
    struct budget_answer a = {.rc = RC_OK, .grant = g, .n = n, .views = views};
    if (!h)
        a.hold = &(h = hold_new(p, id, kept, n))->pub;
    hold_grant(h, g.amount, true);
    journal_hold(p, &h->pub);
    done(&a, arg);
    return true;
}

/* Nobody waits for it any longer. What it may have taken is given back. */
static void give_up(struct step *s)
{
    struct redis_port *p = s->port;
    budget_done_cb *done = s->done;
    void *arg = s->arg;
    struct redis_hold *h = s->hold;
    p->store->timeouts++;
    if (h) {
        h->extending = NULL;
        h->in_redis = h->in_redis || s->sent;
    } else if (s->kind == STEP_RESERVE && s->sent) {
        struct step *undo = step_new(p, STEP_SETTLE, NULL, 0);
        memcpy(undo->id, s->id, sizeof undo->id);
        step_queue(undo);
    }
    bool asks = s->kind == STEP_RESERVE || s->kind == STEP_EXTEND;
    TAILQ_REMOVE(&p->steps, s, entry);
    p->n_steps--;
    if (s->command)
        redis_command_cancel(s->command);
    if (!done || !asks || !grant_leased(p, h, s->id, s->claims, s->n, &s->ask, done, arg))
        refuse(p, done, arg);
    free(s);
}

static void granted(struct step *s, const redisReply *reply, struct budget_answer *a)
{
    struct redis_hold *h = s->hold;
    a->rc = RC_OK;
    a->grant = (struct budget_grant){.units = reply_int(reply, 1), .refused = -1};
    a->grant.amount.v = s->ask.fixed.v + s->ask.unit.v * a->grant.units;
    if (!h)
        a->hold = &(h = hold_new(s->port, s->id, s->claims, s->n))->pub;
    else
        h->extending = NULL;
    hold_grant(h, a->grant.amount, false);
    journal_hold(s->port, &h->pub);
    leases_want(s->port, s->claims, s->n);
}

/* The reservation of a hold is gone: its instance was taken for dead, or Redis has lost its data. It goes on with a new
 * one of the same name, beside what is counted as spent already. */
static void extend_anew(struct step *s)
{
    hold_lose(s->hold);
    s->kind = STEP_RESERVE;
    s->hold->sequence = 1;
    if (s->port->state == PORT_OPEN)
        (void)send_step(s);
}

static void answer_step(struct step *s, const redisReply *reply)
{
    struct budget_view views[BUDGET_SET_MAX];
    struct budget_answer a = {.rc = RC_IO, .grant = {.units = -1, .refused = -1}, .n = s->n, .views = views};
    budget_done_cb *done = s->done;
    void *arg = s->arg;
    bool asks = s->kind == STEP_RESERVE || s->kind == STEP_EXTEND;
    if (!reply_views(reply, 3, s->n, views)) {
        a.n = 0;
        a.why = "the Redis of the shared budgets says what cannot be understood";
    } else if (asks && reply_is(reply, "no")) {
        a.rc = RC_DENIED;
        a.grant.refused = (int)reply_int(reply, 1) - 1;
        a.grant.may_wait = reply_int(reply, 2) != 0;
    } else if (asks) {
        granted(s, reply, &a);
    } else {
        a.rc = RC_OK;
        if (s->kind == STEP_SET) { /* as told: without "as it is" */
            s->a.v = reply_int(reply, 1);
            s->b.v = reply_int(reply, 2);
        }
        if (s->kind != STEP_READ)
            journal_change(s->port, s);
    }
    if (s->hold)
        s->hold->extending = NULL;
    step_end(s);
    if (done)
        done(&a, arg);
}

void step_replied(struct step *s, const redisReply *reply)
{
    struct redis_port *p = s->port;
    if (!reply) /* lost or late: again, as soon as there is somebody to ask */
        return;
    if (reply_is(reply, "closed") || reply_is(reply, "epoch") || reply_is(reply, "fenced") ||
        (reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "NOSCRIPT", 8) == 0)) {
        port_doubt(p, reply->type == REDIS_REPLY_ERROR ? PORT_NO_SCRIPT : PORT_NOT_ITS);
        return;
    }
    if (s->kind == STEP_LEASE) {
        leases_replied(s, reply);
        step_end(s);
        return;
    }
    if (reply->type == REDIS_REPLY_ERROR) { /* its disk or memory is full, or it has become a replica: it did nothing */
        port_complain(p, reply->str);
        if (has_deadline(s))
            give_up(s);
        return;
    }
    if (s->kind == STEP_SETTLE)
        step_end(s);
    else if (s->kind == STEP_EXTEND && s->hold && (reply_is(reply, "gone") || reply_is(reply, "old")))
        extend_anew(s);
    else
        answer_step(s, reply);
}

void steps_send(struct redis_port *p)
{
    struct step *s, *next;
    int64_t now = now_ns(p);
    for (s = TAILQ_FIRST(&p->steps); s; s = next) {
        next = TAILQ_NEXT(s, entry);
        if (s->deadline_ns && s->deadline_ns <= now) {
            give_up(s); /* may add steps at the end */
            continue;
        }
        if (p->state == PORT_OPEN && !s->command && !send_step(s))
            break;
    }
}

/* ---- the store's functions -------------------------------------------------------------------------------------- */

/* Redis has been away for so long that nobody should wait for it. */
static bool is_lost(const struct redis_port *p)
{
    return p->state == PORT_REFUSED ||
           (p->state == PORT_LOST && now_ns(p) - p->lost_ns > p->store->o.timeout_ms * NS_PER_MS);
}

static enum rc queue_or_lease(struct step *s, budget_done_cb *done, void *arg)
{
    struct redis_port *p = s->port;
    s->done = done;
    s->arg = arg;
    bool leased = p->state != PORT_OPEN && grant_leased(p, s->hold, s->id, s->claims, s->n, &s->ask, done, arg);
    if (!leased && !is_lost(p)) {
        if (s->hold)
            s->hold->extending = s;
        step_queue(s);
        return RC_OK;
    }
    if (!leased)
        refuse(p, done, arg);
    free(s);
    return RC_OK;
}

static enum rc redis_reserve(struct budget_port *bp, const char *id, const struct budget_claim *claims, int n,
                             const struct budget_ask *ask, budget_done_cb *done, void *arg)
{
    struct redis_port *p = redis_port_of(bp);
    if (p->n_steps >= STEPS_MAX)
        return RC_FULL;
    struct step *s = step_new(p, STEP_RESERVE, claims, n);
    snprintf(s->id, sizeof s->id, "%s", id);
    s->ask = *ask;
    return queue_or_lease(s, done, arg);
}

static enum rc redis_extend(struct budget_port *bp, struct budget_hold *hold, const struct budget_claim *claims, int n,
                            const struct budget_ask *ask, budget_done_cb *done, void *arg)
{
    struct redis_port *p = redis_port_of(bp);
    struct redis_hold *h = (struct redis_hold *)hold;
    if (p->n_steps >= STEPS_MAX)
        return RC_FULL;
    SPW_ASSERT(n == hold->n && !h->extending);
    struct step *s = step_new(p, h->in_redis ? STEP_EXTEND : STEP_RESERVE, claims, n);
    for (int i = 0; i < n; i++) { /* the periods are the hold's, whatever is now */
        s->claims[i].c.end_s += hold->of[i].start_s - s->claims[i].c.start_s;
        s->claims[i].c.start_s = hold->of[i].start_s;
    }
    snprintf(s->id, sizeof s->id, "%s", hold->id);
    s->ask = *ask;
    s->hold = h;
    s->sequence = ++h->sequence;
    return queue_or_lease(s, done, arg);
}

static int64_t part_of(int64_t *rest, int64_t most)
{
    int64_t v = *rest < most ? *rest : most;
    *rest -= v;
    return v;
}

static struct pusd redis_settle(struct budget_port *bp, struct budget_hold *hold, struct pusd spent)
{
    struct redis_port *p = redis_port_of(bp);
    struct redis_hold *h = (struct redis_hold *)hold;
    struct pusd excess = {spent.v > hold->granted.v ? spent.v - hold->granted.v : 0};
    int64_t rest = spent.v;
    bool extending = h->extending != NULL;
    if (extending) /* if it was sent, it is done before the settlement that follows it; or else never */
        step_end(h->extending);
    pthread_mutex_lock(&p->store->lock);
    int64_t lost = h->lost.v, leased = h->leased.v, there = hold->granted.v - lost - leased;
    bool in_redis = h->in_redis;
    pthread_mutex_unlock(&p->store->lock);
    (void)part_of(&rest, lost);
    int64_t told = part_of(&rest, there), used = part_of(&rest, leased);
    if (in_redis || extending || !leased)
        told += rest; /* more than was granted: booked where it can be */
    else
        used += rest;
    if (spent.v == 0) /* there may be no row to end it */
        journal_drop(p, hold);
    if (leased)
        leases_settle(p, h, (struct pusd){used});
    if (in_redis || extending) {
        struct step *s = step_new(p, STEP_SETTLE, NULL, 0);
        snprintf(s->id, sizeof s->id, "%s", hold->id);
        s->a.v = told;
        step_queue(s);
    }
    hold_free(h);
    return excess;
}

static enum rc queue_plain(struct step *s, budget_done_cb *done, void *arg)
{
    struct redis_port *p = s->port;
    if (is_lost(p) || p->n_steps >= STEPS_MAX) {
        free(s);
        answer_plain(done, arg, RC_IO, p->why);
        return RC_OK;
    }
    s->done = done;
    s->arg = arg;
    step_queue(s);
    return RC_OK;
}

static enum rc redis_read(struct budget_port *bp, const struct budget_claim *claims, int n, budget_done_cb *done,
                          void *arg)
{
    return queue_plain(step_new(redis_port_of(bp), STEP_READ, claims, n), done, arg);
}

static enum rc redis_top_up(struct budget_port *bp, const struct budget_claim *claim, struct pusd amount,
                            budget_done_cb *done, void *arg)
{
    struct redis_port *p = redis_port_of(bp);
    struct step *s = step_new(p, STEP_TOPUP, claim, 1);
    snprintf(s->id, sizeof s->id, "%s:%" PRId64, p->instance, ++p->operations);
    s->a = amount;
    return queue_plain(s, done, arg);
}

static enum rc redis_set(struct budget_port *bp, const struct budget_claim *claim, struct pusd hard, struct pusd soft,
                         budget_done_cb *done, void *arg)
{
    struct step *s = step_new(redis_port_of(bp), STEP_SET, claim, 1);
    s->a = hard;
    s->b = soft;
    return queue_plain(s, done, arg);
}

/* ---- birth and end ---------------------------------------------------------------------------------------------- */

static void redis_port_free(struct budget_port *bp)
{
    struct redis_port *p = redis_port_of(bp);
    if (!p)
        return;
    port_stop(p);
    for (struct step *s = TAILQ_FIRST(&p->steps), *later; s; s = later) {
        later = TAILQ_NEXT(s, entry);
        step_end(s);
    }
    leases_free(p);
    pthread_mutex_lock(&p->store->lock);
    struct redis_hold *h, *next;
    for (h = TAILQ_FIRST(&p->store->holds); h; h = next) {
        next = TAILQ_NEXT(h, entry);
        if (h->port != p)
            continue;
        TAILQ_REMOVE(&p->store->holds, h, entry);
        free(h);
    }
    pthread_mutex_unlock(&p->store->lock);
    free(p);
}

static enum rc redis_port_new(struct budget_store *bs, struct event_base *loop, struct ledger_port *ledger,
                              struct budget_port **out, struct error *e)
{
    struct redis_store *store = redis_store_of(bs);
    struct redis_port *p = spw_calloc(1, sizeof *p);
    struct random_pool pool = {0};
    unsigned char id[8];
    p->store = store;
    p->loop = loop;
    p->ledger = ledger;
    TAILQ_INIT(&p->steps);
    random_take(&pool, id, sizeof id);
    text_hex(p->instance, id, sizeof id);
    snprintf(p->instance + 16, sizeof p->instance - 16, "-%d", store->ports_made++);
    enum rc rc = port_start(p, e);
    if (rc != RC_OK) {
        redis_port_free((struct budget_port *)p);
        return rc;
    }
    *out = (struct budget_port *)p;
    return RC_OK;
}

static char *copy(const char *s)
{
    return s ? spw_strdup(s) : NULL;
}

static void redis_free(struct budget_store *bs)
{
    struct redis_store *s = redis_store_of(bs);
    rebuild_stop(s);
    if (s->o.password)
        explicit_bzero((char *)s->o.password, strlen(s->o.password));
    free((char *)s->o.password);
    free((char *)s->o.username);
    free((char *)s->o.host);
    SSL_CTX_free(s->o.tls);
    free((char *)s->o.ledger);
    free((char *)s->o.name);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

struct budget_store_stats redis_store_stats(const struct budget_store *bs)
{
    const struct redis_store *s = (const struct redis_store *)bs;
    int ports = s->ports_made, open = s->open;
    return (struct budget_store_stats){.ports = ports,
                                       .open = open,
                                       .why = open < ports ? s->why : NULL,
                                       .refused = s->refused,
                                       .leased = s->leased,
                                       .timeouts = s->timeouts,
                                       .repeated = s->repeated,
                                       .buried = s->buried,
                                       .rebuilds = s->rebuilds,
                                       .unsettled = s->unsettled,
                                       .unwritten = s->unwritten};
}

static const struct budget_store_ops redis_ops = {
    .name = "redis",
    .shared = redis_store_stats,
    .port_new = redis_port_new,
    .port_free = redis_port_free,
    .reserve = redis_reserve,
    .extend = redis_extend,
    .settle = redis_settle,
    .read = redis_read,
    .top_up = redis_top_up,
    .set = redis_set,
    .free = redis_free,
};

struct budget_store *redis_store_new(const struct redis_store_options *o)
{
    struct redis_store *s = spw_calloc(1, sizeof *s);
    s->pub.ops = &redis_ops;
    s->o = *o;
    s->o.host = spw_strdup(o->host);
    if (o->tls)
        SSL_CTX_up_ref(o->tls);
    s->o.username = copy(o->username);
    s->o.password = copy(o->password);
    s->o.ledger = copy(o->ledger);
    s->o.name = spw_strdup(o->name ? o->name : "-");
    s->o.timeout_ms = o->timeout_ms ? o->timeout_ms : TIMEOUT_DEFAULT_MS;
    s->o.dead_ms = o->dead_ms ? o->dead_ms : DEAD_DEFAULT_MS;
    s->o.ports = o->ports ? o->ports : 1;
    s->o.ledgers = o->ledgers ? o->ledgers : 1;
    s->o.allowance.v = o->allowance.v / s->o.ports;
    pthread_mutex_init(&s->lock, NULL);
    TAILQ_INIT(&s->holds);
    TAILQ_INIT(&s->leases);
    return &s->pub;
}
