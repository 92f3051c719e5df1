#include "engine/node/link.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "engine/node/channel.h"
#include "engine/node/messages.h"

#define AREA     "node"
#define STATS_MS 1000

struct link {
    struct link_options o;
    struct channel *channel;
    struct event *stats_timer; /* owned */
    bool ready;
    struct server *server; /* borrowed */
    struct server_supervisor supervisor;
    bool leaving;   /* told to fall asleep or to drain: connections are given back */
    bool passed_on; /* a wish to sleep, which the supervisor may not have heard yet */
    uint64_t round; /* of that order */
};

/* A supervisor that takes nothing more is gone, which on_closed() says. */
static void tell(struct link *l, enum node_message type, const void *data, size_t n, int fd)
{
    (void)!channel_send(l->channel, type, data, n, fd);
}

static void tell_stats(struct link *l)
{
    struct serve_totals t;
    server_totals(l->server, &t);
    tell(l, MSG_STATS, &t, sizeof t, -1);
}

static void stats_cb(evutil_socket_t fd, short what, void *arg)
{
    struct link *l = arg;
    (void)fd;
    (void)what;
    if (l->ready)
        tell_stats(l);
    else
        tell(l, MSG_ALIVE, NULL, 0, -1);
}

/* ---- what the server says ---------------------------------------------------------------------------------------- */

static void on_ready(void *arg)
{
    struct link *l = arg;
    const struct serve_model *m = server_model(l->server);
    struct serve_totals t;
    server_totals(l->server, &t);
    struct node_card card = {
        .created = m->created,
        .n_ctx = m->n_ctx,
        .n_slots = l->o.n_slots,
        .kv_tokens = (int64_t)t.batcher.pages_total * K_PAGE_TOKENS,
        .load_ns = server_load_ns(l->server),
    };
    snprintf(card.arch, sizeof card.arch, "%s", m->arch);
    snprintf(card.quant, sizeof card.quant, "%s", m->quant);
    snprintf(card.device, sizeof card.device, "%s", m->device);
    snprintf(card.numerics, sizeof card.numerics, "%s", m->numerics);
    snprintf(card.numerics_class, sizeof card.numerics_class, "%s", m->numerics_class);
    tell(l, MSG_READY, &card, sizeof card, -1);
    tell_stats(l);
    l->ready = true;
}

static void on_asked(enum server_asked what, void *arg)
{
    struct link *l = arg;
    const struct node_asked sleep = {NODE_ASKED_SLEEP}, drain = {NODE_ASKED_DRAIN};
    switch (what) {
    case SERVER_ASKED_SLEEP:
        tell(l, MSG_ASKED, &sleep, sizeof sleep, -1);
        l->passed_on = true;
        break;
    case SERVER_ASKED_DRAIN: tell(l, MSG_ASKED, &drain, sizeof drain, -1); break;
    case SERVER_ASKED_WAKE:
    case SERVER_ASKED_ANSWER:
        if (l->leaving || l->passed_on)
            tell(l, MSG_WANTED, NULL, 0, -1);
        l->passed_on = false; /* this is the later wish, and is heard later */
        break;
    }
}

static void on_idle_connection(int fd, const void *read, size_t n, void *arg)
{
    tell(arg, MSG_BACK, read, n, fd);
}

static void on_no_connection(void *arg)
{
    struct link *l = arg;
    const struct node_round r = {.round = l->round};
    tell_stats(l);
    tell(l, MSG_EMPTY, &r, sizeof r, -1);
}

/* ---- what the supervisor says ------------------------------------------------------------------------------------ */

static void stay(struct link *l)
{
    static const struct http_letting_go keep = {0};
    l->leaving = false;
    http_server_let_go(server_http(l->server), &keep);
    http_server_accepting(server_http(l->server), HTTP_ACCEPT);
}

static void leave(struct link *l, const struct node_round *r)
{
    const struct http_letting_go go = {on_idle_connection, on_no_connection, l};
    l->leaving = true;
    l->round = r->round;
    http_server_accepting(server_http(l->server), HTTP_LEAVE);
    http_server_let_go(server_http(l->server), &go);
}

static void take(struct link *l, const struct channel_message *m)
{
    const struct node_passed *p = m->data;
    tell(l, MSG_TAKEN, p, sizeof *p, -1); /* before a byte of an answer can leave */
    http_server_adopt_plain(server_http(l->server), m->fd, p + 1, m->n - sizeof *p);
}

/* A small file of ours that was just written: the loop can read it. */
static void reread(struct link *l)
{
    struct error e = {0};
    if (l->o.tls && tls_door_reread(l->o.tls, &e))
        log_error(l->o.log, AREA, "the certificate cannot be read again; the old one is shown",
                  LOG_S("error", e.message));
}

static bool has(const struct channel_message *m, size_t n)
{
    return m->n == n && m->fd < 0;
}

static void on_message(const struct channel_message *m, void *arg)
{
    struct link *l = arg;
    switch ((enum node_message)m->type) {
    case MSG_BEGIN:
        if (has(m, sizeof(struct node_begin))) {
            const struct node_begin *b = m->data;
            server_came_before(l->server, &b->before, &b->counts);
            return;
        }
        break;
    case MSG_AWAKE:
        if (has(m, sizeof(struct node_counts))) {
            server_counts(l->server, m->data);
            stay(l);
            return;
        }
        break;
    case MSG_TAKE:
        if (m->fd >= 0 && m->n >= sizeof(struct node_passed)) {
            take(l, m);
            return;
        }
        break;
    case MSG_SLEEP:
        if (has(m, sizeof(struct node_round))) {
            leave(l, m->data);
            return;
        }
        break;
    case MSG_DRAIN:
        if (has(m, sizeof(struct node_round))) {
            const struct node_round *r = m->data;
            server_refuse(l->server, r->drain_ms, r->move_ms);
            leave(l, r);
            return;
        }
        break;
    case MSG_REREAD: reread(l); return;
    case MSG_END: l->o.end(l->o.arg); return;
    default: break;
    }
    log_error(l->o.log, AREA, "a message from the supervisor that is none", LOG_I("message_type", m->type));
    l->o.end(l->o.arg);
}

static void on_closed(void *arg)
{
    struct link *l = arg;
    log_error(l->o.log, AREA, "the supervisor is gone", LOG_S("model", l->o.model_id));
    l->o.end(l->o.arg);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

enum rc link_new(struct link **out, struct event_base *loop, int fd, const struct link_options *o, struct error *e)
{
    static const struct channel_handlers handlers = {on_message, on_closed};
    const struct timeval often = {.tv_sec = STATS_MS / 1000};
    struct link *l = spw_calloc(1, sizeof *l);
    l->o = *o;
    l->supervisor = (struct server_supervisor){on_ready, on_asked, l};
    l->stats_timer = event_new(loop, -1, EV_PERSIST, stats_cb, l);
    enum rc rc = l->stats_timer && event_add(l->stats_timer, &often) == 0
                     ? channel_new(&l->channel, loop, fd, &handlers, l, e)
                     : error_set(e, RC_IO, "cannot make a timer");
    if (rc) {
        link_free(l);
        return rc;
    }
    *out = l;
    return RC_OK;
}

void link_free(struct link *l)
{
    if (!l)
        return;
    channel_free(l->channel);
    if (l->stats_timer)
        event_free(l->stats_timer);
    free(l);
}

const struct server_supervisor *link_supervisor(struct link *l)
{
    return &l->supervisor;
}

void link_serve(struct link *l, struct server *s)
{
    l->server = s;
    http_server_accepting(server_http(s), HTTP_LEAVE);
}

void link_failed(struct link *l, const struct error *e)
{
    tell(l, MSG_UNLOADABLE, e->message, strlen(e->message), -1);
}
