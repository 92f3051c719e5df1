#include "scheduler/front/tls_watch.h"

#include <stdlib.h>

#include "base/alloc.h"
#include "base/worker.h"

struct tls_watch {
    struct tls_watch_options o;
    struct worker *worker;
    struct event *timer;
    /* the look that is under way, the worker's */
    bool changed;
    enum rc rc;
    struct error error;
};

static void look(void *arg)
{
    struct tls_watch *w = arg;
    w->changed = tls_door_stale(w->o.door);
    w->rc = w->changed ? tls_door_reread(w->o.door, &w->error) : RC_OK;
}

static void looked(enum rc rc, void *arg)
{
    struct tls_watch *w = arg;
    if (rc != RC_OK)
        return; /* we are being freed */
    if (w->changed && w->rc == RC_OK)
        log_info(w->o.log, "tls", "the certificate was replaced, the new one is shown", LOG_S("name", w->o.name));
    else if (w->changed)
        log_error(w->o.log, "tls", "the certificate was replaced by one that cannot be used, the old one is shown",
                  LOG_S("name", w->o.name), LOG_S("reason", w->error.message));
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct tls_watch *w = arg;
    (void)fd;
    (void)what;
    if (worker_submit(w->worker, look, looked, w) != RC_OK)
        return; /* the last look is not over: a file system that hangs */
}

enum rc tls_watch_new(struct tls_watch **out, const struct tls_watch_options *o, struct error *e)
{
    struct tls_watch *w = spw_calloc(1, sizeof *w);
    int64_t ms = o->every_ms ? o->every_ms : TLS_WATCH_MS;
    struct timeval every = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

    w->o = *o;
    *out = w;
    enum rc rc = worker_new(&w->worker, "tls-watch", o->loop, 1, e);
    w->timer = rc == RC_OK ? event_new(o->loop, -1, EV_PERSIST, on_timer, w) : NULL;
    if (rc == RC_OK && (!w->timer || event_add(w->timer, &every) != 0))
        rc = error_set(e, RC_IO, "the loop takes no timer");
    if (rc != RC_OK) {
        tls_watch_free(w);
        *out = NULL;
    }
    return rc;
}

void tls_watch_free(struct tls_watch *w)
{
    if (!w)
        return;
    if (w->timer)
        event_free(w->timer);
    worker_free(w->worker);
    free(w);
}
