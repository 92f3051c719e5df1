#include "providers/probe.h"

#include <errno.h>
#include <event2/bufferevent.h>
#include <event2/dns.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/http_internal.h"

struct probe {
    struct bufferevent *bev;
    struct evdns_base *dns; /* of names only */
    struct event *timer;    /* the deadline, or: tell it now */
    enum probe_word word;
    char why[96];
    probe_cb *cb;
    void *arg;
};

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct probe *p = arg;
    (void)fd;
    (void)what;
    probe_cb *cb = p->cb;
    void *cb_arg = p->arg;
    enum probe_word word = p->word;
    char why[sizeof(p->why)];
    memcpy(why, p->why, sizeof(why));
    probe_stop(p);
    cb(word, why, cb_arg);
}

static void tell_soon(struct probe *p, enum probe_word word, const char *why)
{
    const struct timeval now = {0};
    p->word = word;
    snprintf(p->why, sizeof(p->why), "%s", why);
    event_add(p->timer, &now);
}

static void on_event(struct bufferevent *bev, short what, void *arg)
{
    struct probe *p = arg;
    int code = EVUTIL_SOCKET_ERROR();
    if (what & BEV_EVENT_CONNECTED) {
        tell_soon(p, PROBE_TAKEN, "");
        return;
    }
    int name = bufferevent_socket_get_dns_error(bev);
    if (name)
        tell_soon(p, PROBE_SILENT, evutil_gai_strerror(name));
    else
        tell_soon(p, code == ECONNREFUSED || code == ECONNRESET ? PROBE_REFUSED : PROBE_SILENT, strerror(code));
}

static void resolver(struct probe *p, struct event_base *loop)
{
    p->dns = evdns_base_new(loop, EVDNS_BASE_INITIALIZE_NAMESERVERS | EVDNS_BASE_DISABLE_WHEN_INACTIVE);
    if (p->dns)
        return;
    p->dns = evdns_base_new(loop, 0); /* no usable resolv.conf: the hosts file alone may still know the name */
    SPW_ASSERT(p->dns);
    (void)evdns_base_load_hosts(p->dns, "/etc/hosts");
}

struct probe *probe_start(struct event_base *loop, const char *host, int port, int64_t ms, probe_cb *cb, void *arg)
{
    const struct timeval deadline = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    struct http_address a;
    struct error e;
    struct probe *p = spw_calloc(1, sizeof(*p));
    p->cb = cb;
    p->arg = arg;
    p->timer = evtimer_new(loop, on_timer, p);
    p->bev = bufferevent_socket_new(loop, -1, BEV_OPT_CLOSE_ON_FREE | BEV_OPT_DEFER_CALLBACKS);
    SPW_ASSERT(p->timer && p->bev);
    bufferevent_setcb(p->bev, NULL, NULL, on_event, p);
    p->word = PROBE_SILENT;
    snprintf(p->why, sizeof(p->why), "no answer");
    event_add(p->timer, &deadline);
    enum rc rc = http_address_parse(&a, host, port, &e);
    bool started;
    if (rc == RC_OK) {
        started = bufferevent_socket_connect(p->bev, (struct sockaddr *)&a.addr, (int)a.len) == 0;
    } else {
        resolver(p, loop);
        started = bufferevent_socket_connect_hostname(p->bev, p->dns, AF_UNSPEC, host, port) == 0;
    }
    if (!started)
        tell_soon(p, PROBE_SILENT, strerror(EVUTIL_SOCKET_ERROR()));
    return p;
}

void probe_stop(struct probe *p)
{
    if (!p)
        return;
    bufferevent_free(p->bev);
    if (p->dns)
        evdns_base_free(p->dns, 1);
    event_free(p->timer);
    free(p);
}
