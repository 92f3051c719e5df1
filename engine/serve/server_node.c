/* Draining (docs/NODE_API.md). */
#include "engine/serve/server_internal.h"

#define AREA          "serve"
#define MOVE_LEAST_MS 1
#define MOVE_IDLE_MS  100 /* no stream has begun: one that is computed for may yet */

static void arm(struct event *ev, int64_t ms)
{
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    event_add(ev, &tv);
}

/* One stream is cut; the others share what is left of the time. */
static void move_cb(evutil_socket_t fd, short what, void *arg)
{
    struct server *s = arg;
    (void)fd;
    (void)what;
    int64_t left_ms = (s->cut_at.ns - clock_now(s->o.clock).ns) / NS_PER_MS;
    int n = server_calls_cut_one(s);
    int64_t next_ms = n ? left_ms / (n + 1) : MOVE_IDLE_MS;
    if (left_ms > 0)
        arm(s->move_ev, next_ms > MOVE_LEAST_MS ? next_ms : MOVE_LEAST_MS);
}

static void arm_moves(struct server *s, int64_t drain_ms, int64_t move_ms)
{
    if (!s->move_ev)
        s->move_ev = event_new(s->loop, -1, 0, move_cb, s);
    if (!s->move_ev || move_ms <= 0)
        return;
    arm(s->move_ev, drain_ms - move_ms);
    s->leaving = true;
    server_calls_tell_leaving(s);
}

static void drain_deadline_cb(evutil_socket_t fd, short what, void *arg)
{
    struct server *s = arg;
    (void)fd;
    (void)what;
    log_warn(s->o.log, AREA, "drain deadline reached; cutting off what still runs",
             LOG_I("exchanges", http_server_stats(s->http).active_exchanges));
    server_calls_cut(s);
    server_embeds_cut(s);
    if (s->ending)
        server_done(s);
}

/* A second drain keeps the first one's deadline, or brings it nearer; once that has passed, it sets a new one for what
 * is left. */
static bool arm_deadline(struct server *s, int64_t ms)
{
    if (!s->drain_ev)
        s->drain_ev = event_new(s->loop, -1, 0, drain_deadline_cb, s);
    if (!s->drain_ev)
        return false;
    struct mono at = {clock_now(s->o.clock).ns + ms * NS_PER_MS};
    if (event_pending(s->drain_ev, EV_TIMEOUT, NULL) && s->cut_at.ns <= at.ns)
        return true;
    s->cut_at = at;
    arm(s->drain_ev, ms);
    return true;
}

void server_begin_drain(struct server *s, int64_t drain_ms, int64_t move_ms)
{
    if (s->state != SERVER_DRAINING)
        log_info(s->o.log, AREA, "draining", LOG_I("exchanges", http_server_stats(s->http).active_exchanges),
                 LOG_B("ending", s->ending));
    s->state = SERVER_DRAINING;
    if (!arm_deadline(s, drain_ms))
        drain_deadline_cb(-1, 0, s); /* no deadline, no drain */
    arm_moves(s, drain_ms, move_ms < drain_ms ? move_ms : drain_ms);
}
