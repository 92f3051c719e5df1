/* A port's connection: is that Redis one that loses nothing, may we speak, are we alive. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/budgets/redis_internal.h"
#include "scheduler/budgets/redis_script.h"

#define BEATS_PER_DEATH   5
#define BURIED_PER_BEAT   256
#define REPLY_BYTES_MAX   ((size_t)4 << 20)
#define CLOSED_RETRY_MS   250
#define REFUSED_RETRY_MS  5000
#define TICK_MS           20
#define COMPLAIN_EVERY_NS (10 * NS_PER_S)

const char *const persistence_names[3] = {"appendonly", "appendfsync", "maxmemory-policy"};

const char *persistence_wrong(const char *name, const char *value)
{
    if (strcmp(name, "appendonly") == 0)
        return strcmp(value, "yes") == 0
                   ? NULL
                   : "this Redis keeps no log (appendonly no) and would forget what was spent: set appendonly yes";
    if (strcmp(name, "appendfsync") == 0)
        return strcmp(value, "always") == 0 ? NULL
                                            : "this Redis answers before its log is on disk and may forget what was "
                                              "spent: set appendfsync always";
    return strcmp(value, "noeviction") == 0
               ? NULL
               : "this Redis may evict budgets when its memory is full: set maxmemory-policy noeviction";
}

static void arm(struct event *ev, int64_t ms)
{
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    event_add(ev, &tv);
}

static void become(struct redis_port *p, enum port_state state, const char *why)
{
    if (p->state == PORT_OPEN && state != PORT_OPEN)
        p->store->open--;
    if (p->state != PORT_OPEN && state == PORT_OPEN)
        p->store->open++;
    p->state = state;
    p->why = why;
    if (why)
        p->store->why = why;
}

static bool send_wire(struct redis_port *p, const struct wire *w, redis_reply_cb *cb)
{
    return redis_link_send(p->link, w->n, (const char **)w->argv, w->lengths, cb, p) != NULL;
}

/* ---- hello ------------------------------------------------------------------------------------------------------ */

static void opened(struct redis_port *p, const redisReply *reply)
{
    bool another = p->epoch[0] && strcmp(p->epoch, reply_text(reply, 2)) != 0;
    snprintf(p->token, sizeof p->token, "%s", reply_text(reply, 1));
    snprintf(p->epoch, sizeof p->epoch, "%s", reply_text(reply, 2));
    become(p, PORT_OPEN, NULL);
    log_info(p->store->o.log, "budget", "shared budgets are open", LOG_S("epoch", p->epoch),
             LOG_B("another_epoch", another));
    leases_sync(p);
    steps_send(p);
}

static void on_hello(const redisReply *reply, void *arg)
{
    struct redis_port *p = arg;
    p->hello_under_way = false;
    if (reply_is(reply, "ok")) {
        opened(p, reply);
        return;
    }
    if (reply_is(reply, "closed")) {
        if (p->state != PORT_CLOSED)
            log_warn(p->store->o.log, "budget", "shared budgets are closed until every ledger has told its part",
                     LOG_I("told", reply_int(reply, 2)), LOG_I("ledgers", p->store->o.ledgers));
        become(p, PORT_CLOSED, "the shared budgets are being rebuilt from the ledgers");
        rebuild_start(p->store, reply_text(reply, 1));
        arm(p->beat, CLOSED_RETRY_MS);
        return;
    }
    if (reply) {
        log_error(p->store->o.log, "budget", "redis does not take the script of budgets",
                  LOG_S("why", reply->type == REDIS_REPLY_ERROR ? reply->str : reply_text(reply, 0)));
        become(p, PORT_REFUSED, "the Redis of the shared budgets does not take their script");
        arm(p->beat, REFUSED_RETRY_MS);
    }
}

static void say_hello(struct redis_port *p)
{
    struct wire w;
    if (p->hello_under_way || !redis_link_ready(p->link))
        return;
    if (p->state != PORT_CLOSED)
        become(p, PORT_HELLO, "the Redis of the shared budgets has just been connected to");
    wire_begin(&w, p->sha, 0, p->epoch[0] ? p->epoch : "-", p->instance);
    /* Should there be no epoch, this names the next one: the instance is as good a name as any, with a count behind. */
    char next[EPOCH_BYTES];
    snprintf(next, sizeof next, "%.24s.%d", p->instance, (int)(++p->operations % 1000000000));
    wire_call(&w, "hello", next, p->instance, "0");
    p->hello_under_way = send_wire(p, &w, on_hello);
}

/* ---- checks ----------------------------------------------------------------------------------------------------- */

static void refuse(struct redis_port *p, const char *why)
{
    if (p->state != PORT_REFUSED || p->why != why)
        log_error(p->store->o.log, "budget", "redis cannot keep budgets", LOG_S("why", why));
    become(p, PORT_REFUSED, why);
    p->check_failed = true;
    arm(p->beat, REFUSED_RETRY_MS);
}

static void checked(struct redis_port *p)
{
    if (--p->checks == 0 && !p->check_failed)
        say_hello(p);
}

/* CONFIG GET answers with name and value. */
static void on_config(const redisReply *reply, void *arg)
{
    struct redis_port *p = arg;
    if (!reply)
        return;
    const char *why = "this Redis does not tell whether it keeps what it is told: allow CONFIG GET to the user";
    if (reply_text(reply, 0)[0])
        why = persistence_wrong(reply_text(reply, 0), reply_text(reply, 1));
    if (why && !p->check_failed)
        refuse(p, why);
    checked(p);
}

static void on_script(const redisReply *reply, void *arg)
{
    struct redis_port *p = arg;
    if (!reply)
        return;
    if (reply->type == REDIS_REPLY_STRING && reply->len == 40)
        snprintf(p->sha, sizeof p->sha, "%s", reply->str);
    else if (!p->check_failed)
        refuse(p, "this Redis takes no scripts: allow SCRIPT LOAD and EVALSHA to the user");
    checked(p);
}

static void check(struct redis_port *p)
{
    const char *load[] = {"SCRIPT", "LOAD", redis_script_text};
    const size_t lengths[] = {6, 4, redis_script_length};
    if (p->state != PORT_REFUSED)
        become(p, PORT_CHECKING, "the Redis of the shared budgets has just been connected to");
    p->checks = 4;
    p->check_failed = p->hello_under_way = p->beating = false;
    for (int i = 0; i < 3; i++) {
        const char *get[] = {"CONFIG", "GET", persistence_names[i]};
        const size_t n[] = {6, 3, strlen(persistence_names[i])};
        if (!redis_link_send(p->link, 3, get, n, on_config, p))
            return;
    }
    (void)redis_link_send(p->link, 3, load, lengths, on_script, p);
}

void port_doubt(struct redis_port *p, enum port_doubt d)
{
    if (p->state != PORT_OPEN) /* it is being mended */
        return;
    if (d == PORT_NO_SCRIPT)
        check(p);
    else
        say_hello(p);
}

void port_complain(struct redis_port *p, const char *error)
{
    int64_t now = clock_now(p->store->o.clock).ns;
    if (p->complained_ns && now - p->complained_ns < COMPLAIN_EVERY_NS)
        return;
    p->complained_ns = now;
    log_error(p->store->o.log, "budget", "redis refuses a step of budgets", LOG_S("why", error));
}

/* ---- the link --------------------------------------------------------------------------------------------------- */

static void on_up(void *arg)
{
    check(arg);
}

static void on_down(void *arg)
{
    struct redis_port *p = arg;
    if (p->state != PORT_LOST)
        p->lost_ns = clock_now(p->store->o.clock).ns;
    become(p, PORT_LOST, "the Redis of the shared budgets is not there");
    p->hello_under_way = p->beating = false;
    steps_lost(p);
}

/* ---- heartbeats ------------------------------------------------------------------------------------------------- */

static void on_beat_reply(const redisReply *reply, void *arg)
{
    struct redis_port *p = arg;
    p->beating = false;
    if (!reply || p->state != PORT_OPEN)
        return;
    if (!reply_is(reply, "ok")) { /* fenced, another epoch, none; or NOSCRIPT: it was flushed */
        port_doubt(p, reply->type == REDIS_REPLY_ERROR ? PORT_NO_SCRIPT : PORT_NOT_ITS);
        return;
    }
    int64_t n = reply_int(reply, 1);
    if (!n)
        return;
    p->store->buried += (uint64_t)n;
    log_warn(p->store->o.log, "budget", "what a dead scheduler had been granted was booked as waste",
             LOG_I("reservations", n));
}

static void beat(struct redis_port *p)
{
    struct wire w;
    if (p->beating)
        return;
    wire_begin(&w, p->sha, 0, p->epoch, p->instance);
    wire_call(&w, "beat", p->epoch, p->instance, p->token);
    wire_int(&w, p->store->o.dead_ms);
    wire_int(&w, BURIED_PER_BEAT);
    p->beating = send_wire(p, &w, on_beat_reply);
}

static void on_beat(evutil_socket_t fd, short what, void *arg)
{
    struct redis_port *p = arg;
    (void)fd, (void)what;
    arm(p->beat, p->store->o.dead_ms / BEATS_PER_DEATH);
    if (!redis_link_ready(p->link))
        return;
    if (p->state == PORT_OPEN) {
        beat(p);
        leases_sync(p);
    } else if (p->state == PORT_REFUSED) {
        check(p);
    } else if (p->checks == 0 && !p->check_failed) {
        say_hello(p);
    }
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct redis_port *p = arg;
    (void)fd, (void)what;
    steps_send(p); /* and tells whoever has waited long enough */
    if (p->n_steps)
        port_tick(p);
}

void port_tick(struct redis_port *p)
{
    if (!event_pending(p->tick, EV_TIMEOUT, NULL))
        arm(p->tick, TICK_MS);
}

/* ---- birth and end ---------------------------------------------------------------------------------------------- */

enum rc port_start(struct redis_port *p, struct error *e)
{
    const struct redis_store_options *o = &p->store->o;
    struct redis_link_options link = {
        .loop = p->loop,
        .clock = o->clock,
        .log = o->log,
        .area = "budget",
        .down_text = "redis is not there; until it is, shared budgets cannot be asked",
        .setting = "budget_store.address",
        .host = o->host,
        .tls = o->tls,
        .port = o->port,
        .db = o->db,
        .username = o->username,
        .password = o->password,
        .timeout_ms = o->timeout_ms,
        .reply_bytes_max = REPLY_BYTES_MAX,
        .commands_max = STEPS_MAX * 2,
        .replies = REDIS_LISTS,
        .on_up = on_up,
        .on_down = on_down,
        .arg = p,
    };
    p->why = "the Redis of the shared budgets is not there";
    p->lost_ns = clock_now(o->clock).ns;
    p->beat = event_new(p->loop, -1, 0, on_beat, p);
    p->tick = event_new(p->loop, -1, 0, on_tick, p);
    if (!p->beat || !p->tick)
        return error_set(e, RC_IO, "budgets: the event loop takes no event");
    arm(p->beat, o->dead_ms / BEATS_PER_DEATH);
    return redis_link_new(&p->link, &link, e);
}

void port_stop(struct redis_port *p)
{
    become(p, PORT_LOST, "the store is being closed");
    redis_link_free(p->link);
    if (p->beat)
        event_free(p->beat);
    if (p->tick)
        event_free(p->tick);
}
