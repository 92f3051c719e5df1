/* Draining (docs/NODE_API.md). */
#include "engine/serve/server_internal.h"

#define AREA "serve"
static void drain_deadline_cb(evutil_socket_t fd, short what, void *arg)
{
    struct server *s = arg;
    (void)fd;
    (void)what;
    log_warn(s->o.log, AREA, "drain deadline reached; cutting off what still runs",
             LOG_I("exchanges", http_server_stats(s->http).active_exchanges));
    server_calls_cut(s);
    if (s->ending)
        server_done(s);
}

/* A second drain keeps the first one's deadline, or brings it nearer; once that has passed, it sets a new one for what is
 * left. */
static bool arm_deadline(struct server *s, int64_t ms)
{
    struct timeval limit = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    if (!s->drain_ev)
        s->drain_ev = event_new(s->loop, -1, 0, drain_deadline_cb, s);
    if (!s->drain_ev)
        return false;
    struct mono at = {clock_now(s->o.clock).ns + ms * NS_PER_MS};
    if (event_pending(s->drain_ev, EV_TIMEOUT, NULL) && s->cut_at.ns <= at.ns)
        return true;
    s->cut_at = at;
    return event_add(s->drain_ev, &limit) == 0;
}

void server_begin_drain(struct server *s, int64_t drain_ms)
{
    if (s->state != SERVER_DRAINING)
        log_info(s->o.log, AREA, "draining", LOG_I("exchanges", http_server_stats(s->http).active_exchanges),
                 LOG_B("ending", s->ending));
    s->state = SERVER_DRAINING;
    if (!arm_deadline(s, drain_ms))
        drain_deadline_cb(-1, 0, s); /* no deadline, no drain */
}
