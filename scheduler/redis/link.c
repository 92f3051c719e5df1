/* Commands, in order, with a deadline each. One that is late is answered with NULL at its deadline, BREAK_AFTER of them
 * in a row give the connection up, and while there is none nothing is sent at all. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "scheduler/redis/link_internal.h"

#define BREAK_AFTER        3
#define TIMEOUT_DEFAULT_MS 50
#define CONNECT_TIMEOUTS   4

void link_arm(struct redis_link *l, int64_t until_ns)
{
    if (!until_ns) {
        event_del(l->timer);
        return;
    }
    int64_t ns = until_ns - clock_now(l->o.clock).ns;
    if (ns < 0)
        ns = 0;
    int64_t us = ns / NS_PER_US + 1; /* not a moment too early */
    struct timeval tv = {.tv_sec = us / 1000000, .tv_usec = us % 1000000};
    event_add(l->timer, &tv);
}

/* The first command that is not late decides. The late ones before it are few: they end the connection. */
static void arm_commands(struct redis_link *l)
{
    const struct redis_command *c;
    for (c = TAILQ_FIRST(&l->commands); c; c = TAILQ_NEXT(c, entry)) {
        if (!c->late) {
            link_arm(l, c->deadline_ns);
            return;
        }
    }
    link_arm(l, 0);
}

static void answer(struct redis_command *c, const redisReply *reply)
{
    redis_reply_cb *cb = c->cb;
    c->cb = NULL;
    if (cb)
        cb(reply, c->arg);
}

static void forget(struct redis_command *c)
{
    struct redis_link *l = c->link;
    TAILQ_REMOVE(&l->commands, c, entry);
    l->n_commands--; /* NOLINT(clang-analyzer-core.NullDereference): on the list, so not NULL */
    c->link = NULL;
}

void link_give_up(struct redis_link *l)
{
    struct redis_command *c;
    while ((c = TAILQ_FIRST(&l->commands))) {
        forget(c); /* hiredis still has it and will call on_reply() once more */
        answer(c, NULL);
    }
}

static void expire(struct redis_link *l)
{
    int64_t now = clock_now(l->o.clock).ns;
    struct redis_command *c;
    for (c = TAILQ_FIRST(&l->commands); c; c = TAILQ_NEXT(c, entry)) {
        if (c->deadline_ns > now)
            break;
        if (c->late)
            continue;
        c->late = true;
        l->timeouts++;
        answer(c, NULL);
        if (++l->late_in_a_row >= BREAK_AFTER) {
            redis_link_lose(l, "it does not answer in time");
            return;
        }
    }
    arm_commands(l);
}

/* ---- replies ---------------------------------------------------------------------------------------------------- */

/* AUTH, SELECT or PING. A server without a password refuses AUTH, which is a mistake of the configuration just like a
 * wrong one: said, and tried again later. */
static void introduced(struct redis_link *l, enum command_kind kind, const redisReply *reply)
{
    if (reply->type == REDIS_REPLY_STATUS) {
        if (kind == COMMAND_PING)
            link_up(l);
        return;
    }
    char why[160];
    snprintf(why, sizeof why, "%s: %.120s",
             kind == COMMAND_AUTH     ? "AUTH"
             : kind == COMMAND_SELECT ? "SELECT"
                                      : "PING",
             reply->type == REDIS_REPLY_ERROR ? reply->str : "not the reply that it should be");
    l->errors++;
    redis_link_lose(l, why);
}

/* reply NULL: the connection is going; on_connect(), on_disconnect() or redis_link_lose() says so to the rest. */
static void on_reply(redisAsyncContext *ac, void *reply_arg, void *arg)
{
    const redisReply *reply = reply_arg;
    struct redis_command *c = arg;
    struct redis_link *l = c->link;
    (void)ac;
    if (l) {
        forget(c);
        if (reply && !c->late && c->kind == COMMAND_USER) {
            l->late_in_a_row = 0;
            l->backoff_ms = REDIS_BACKOFF_FIRST_MS;
        }
        if (reply && l->state == REDIS_UP)
            arm_commands(l);
        answer(c, reply);
        if (reply && c->kind != COMMAND_USER)
            introduced(l, c->kind, reply);
    }
    free(c);
}

/* ---- commands --------------------------------------------------------------------------------------------------- */

struct redis_command *link_send(struct redis_link *l, const struct redis_command *like, int argc, const char **argv,
                                const size_t *lengths)
{
    struct redis_command *c = spw_malloc(sizeof *c);
    *c = *like;
    c->link = l;
    c->deadline_ns = clock_now(l->o.clock).ns + l->timeout_ns;
    if (redisAsyncCommandArgv(l->ac, on_reply, c, argc, argv, lengths) != REDIS_OK) {
        free(c);
        return NULL;
    }
    TAILQ_INSERT_TAIL(&l->commands, c, entry);
    l->n_commands++;
    l->replies_due++;
    /* Not only for the first one: those before it may be late already, and nobody waits for them. */
    if (l->state == REDIS_UP && !event_pending(l->timer, EV_TIMEOUT, NULL))
        link_arm(l, c->deadline_ns);
    return c;
}

bool redis_link_ready(const struct redis_link *l)
{
    return l->state == REDIS_UP && l->n_commands < l->o.commands_max;
}

struct redis_command *redis_link_send(struct redis_link *l, int argc, const char **argv, const size_t *lengths,
                                      redis_reply_cb *cb, void *arg)
{
    struct redis_command like = {.kind = COMMAND_USER, .cb = cb, .arg = arg};
    return redis_link_ready(l) ? link_send(l, &like, argc, argv, lengths) : NULL;
}

void redis_command_cancel(struct redis_command *c)
{
    c->cb = NULL;
}

struct redis_link_stats redis_link_stats(const struct redis_link *l)
{
    return (struct redis_link_stats){.errors = l->errors,
                                     .timeouts = l->timeouts,
                                     .connects = l->connects,
                                     .disconnects = l->disconnects,
                                     .up = l->state == REDIS_UP};
}

/* ---- birth ------------------------------------------------------------------------------------------------------ */

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct redis_link *l = arg;
    (void)fd, (void)what;
    switch ((enum redis_state)l->state) {
    case REDIS_DOWN: redis_link_open(l); break;
    case REDIS_OPENING: redis_link_lose(l, "no connection in time"); break;
    case REDIS_UP: expire(l); break;
    }
}

static char *copy(const char *s)
{
    return s ? spw_strdup(s) : NULL;
}

static void wipe(const char *secret)
{
    if (secret)
        explicit_bzero((char *)secret, strlen(secret));
    free((char *)secret);
}

void redis_link_free(struct redis_link *l)
{
    if (!l)
        return;
    l->state = REDIS_DOWN; /* nothing more is sent */
    link_give_up(l);
    link_connect_fini(l);
    if (l->timer)
        event_free(l->timer);
    free((char *)l->o.host);
    free((char *)l->o.username);
    wipe(l->o.password);
    SSL_CTX_free(l->o.tls);
    free(l);
}

enum rc redis_link_new(struct redis_link **out, const struct redis_link_options *o, struct error *e)
{
    struct redis_link *l = spw_calloc(1, sizeof *l);
    l->o = *o;
    l->o.host = spw_strdup(o->host);
    l->o.username = copy(o->username);
    l->o.password = copy(o->password);
    if (o->tls)
        SSL_CTX_up_ref(o->tls);
    int64_t timeout_ms = o->timeout_ms ? o->timeout_ms : TIMEOUT_DEFAULT_MS;
    l->timeout_ns = timeout_ms * NS_PER_MS;
    l->connect_ns = (o->connect_ms ? o->connect_ms : CONNECT_TIMEOUTS * timeout_ms) * NS_PER_MS;
    TAILQ_INIT(&l->commands);
    l->timer = event_new(o->loop, -1, 0, on_timer, l);
    enum rc rc = l->timer ? link_connect_init(l, e) : error_set(e, RC_IO, "%s: the event loop takes no event", o->area);
    if (rc != RC_OK) {
        redis_link_free(l);
        return rc;
    }
    link_arm(l, clock_now(o->clock).ns + 1); /* in a turn of its own: the loop may not run yet */
    *out = l;
    return RC_OK;
}
