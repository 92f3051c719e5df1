/* hiredis blocks on its end of a tunnel, which has a thread with an event loop of its own to turn. */
#include "scheduler/redis/dial.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/thread.h"
#include "scheduler/redis/tunnel.h"

struct redis_pump {
    struct event_base *loop;
    struct redis_tunnel *tunnel;
    struct event *stop;
    int stop_fd; /* an eventfd; -1: none */
    pthread_t thread;
    bool runs;
};

static void *pump_main(void *arg)
{
    event_base_loop(((struct redis_pump *)arg)->loop, EVLOOP_NO_EXIT_ON_EMPTY);
    return NULL;
}

static void on_stop(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    event_base_loopbreak(((struct redis_pump *)arg)->loop);
}

static void pump_free(struct redis_pump *p)
{
    uint64_t one = 1;
    if (!p)
        return;
    if (p->runs && write(p->stop_fd, &one, sizeof one) == sizeof one)
        pthread_join(p->thread, NULL);
    redis_tunnel_free(p->tunnel);
    if (p->stop)
        event_free(p->stop);
    if (p->stop_fd >= 0)
        close(p->stop_fd);
    if (p->loop)
        event_base_free(p->loop);
    free(p);
}

/* tcp goes over. */
static enum rc pump_new(struct redis_pump **out, const struct redis_dial *o, int tcp, int *inner, struct error *e)
{
    struct redis_pump *p = spw_calloc(1, sizeof *p);
    struct redis_tunnel_options t = {.tls = o->tls, .host = o->host, .tcp = tcp};

    *out = NULL;
    p->loop = t.loop = event_base_new();
    p->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    p->stop = p->loop && p->stop_fd >= 0 ? event_new(p->loop, p->stop_fd, EV_READ, on_stop, p) : NULL;
    bool ok = p->stop && event_add(p->stop, NULL) == 0;
    if (!ok)
        close(tcp);
    enum rc rc = ok ? redis_tunnel_new(&p->tunnel, &t, inner, e) : error_set(e, RC_IO, "no event loop");
    int failed = rc == RC_OK ? thread_start(&p->thread, "redis-tls", pump_main, p) : 0;
    p->runs = rc == RC_OK && !failed;
    if (failed) {
        close(*inner);
        rc = error_set(e, RC_IO, "no thread: %s", strerror(failed));
    }
    if (rc == RC_OK)
        *out = p;
    else
        pump_free(p);
    return rc;
}

/* d->c, which is connected, becomes a connection through a tunnel. */
static enum rc through_tls(struct redis_dialed *d, const struct redis_dial *o, struct error *e)
{
    int inner, tcp = fcntl(d->c->fd, F_DUPFD_CLOEXEC, 0);
    redisFree(d->c);
    d->c = NULL;
    if (tcp < 0)
        return error_set(e, RC_IO, "%s", strerror(errno));
    enum rc rc = pump_new(&d->pump, o, tcp, &inner, e);
    if (rc != RC_OK)
        return rc;
    int flags = fcntl(inner, F_GETFL);
    (void)fcntl(inner, F_SETFL, flags & ~O_NONBLOCK);
    d->c = redisConnectFd(inner);
    if (!d->c)
        close(inner);
    return RC_OK;
}

enum rc redis_dial(struct redis_dialed *d, const struct redis_dial *o, struct error *e)
{
    struct timeval limit = {.tv_sec = o->limit_s};
    enum rc rc = RC_OK;
    *d = (struct redis_dialed){.c = strncmp(o->host, "unix:", 5) == 0
                                        ? redisConnectUnixWithTimeout(o->host + 5, limit)
                                        : redisConnectWithTimeout(o->host, o->port, limit)};
    if (d->c && !d->c->err && o->tls)
        rc = through_tls(d, o, e);
    if (rc == RC_OK && (!d->c || d->c->err || redisSetTimeout(d->c, limit) != REDIS_OK))
        rc = error_set(e, RC_IO, "%s", d->c ? d->c->errstr : "no memory");
    if (rc != RC_OK)
        redis_hang_up(d);
    return rc;
}

void redis_hang_up(struct redis_dialed *d)
{
    if (d->c)
        redisFree(d->c);
    pump_free(d->pump);
    *d = (struct redis_dialed){0};
}

/* Read once hiredis has seen the end: the tunnel has then written it, and writes no more. */
const char *redis_dialed_why(const struct redis_dialed *d)
{
    return d->pump && d->c && d->c->err ? redis_tunnel_why(d->pump->tunnel) : "";
}
