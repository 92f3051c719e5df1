/* What an engine owes its scheduler beside the OpenAI surface (docs/NODE_API.md): the node key, and draining. */
#include <string.h>
#include <strings.h>

#include "engine/serve/server_internal.h"

#define AREA       "serve"
#define NODE_FIELD "spillway_"

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

const char *server_percent_decode(const char *p, char *c)
{
    int hi = *p == '%' ? hex_digit(p[1]) : -1, lo = hi >= 0 ? hex_digit(p[2]) : -1;
    *c = lo >= 0 ? (char)(hi << 4 | lo) : *p;
    return p + (lo >= 0 ? 3 : 1);
}

/* Does the query of this target have a key that begins like a field of the node API, however it is encoded? */
static bool query_has_node_field(const char *target)
{
    const char *key = strchr(target, '?');
    while (key) {
        const char *p = key + 1;
        size_t n = 0;
        char c = '\0';
        for (; NODE_FIELD[n] && *p; n++) {
            p = server_percent_decode(p, &c);
            if (c != NODE_FIELD[n])
                break;
        }
        if (NODE_FIELD[n] == '\0')
            return true;
        key = strchr(key + 1, '&');
    }
    return false;
}

bool server_caller(const struct server *s, const struct http_exchange *x, enum api_caller *caller, struct api_error *e)
{
    const struct http_head *h = http_request_head(x);
    const char *key = http_head_get(h, "x-spillway-node-key");
    *caller = API_CALLER_CLIENT;
    if (key && !s->o.node_key)
        return api_fail(e, 401, NULL, "invalid_node_key",
                        "this engine has no node key; start it with --node-key-file, or do not send one");
    if (key && !api_keys_have(s->o.node_key, key))
        return api_fail(e, 401, NULL, "invalid_node_key", "the node key is not this engine's");
    if (key)
        *caller = API_CALLER_SCHEDULER;
    else if (query_has_node_field(h->target))
        return api_fail(e, 400, NULL, "node_key_required", "a query with " NODE_FIELD "... needs the node key");
    return true;
}

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

/* A second drain keeps the first one's deadline; once that has passed, it sets a new one for what is left. */
static bool arm_deadline(struct server *s)
{
    struct timeval limit = {.tv_sec = s->o.drain_ms / 1000, .tv_usec = s->o.drain_ms % 1000 * 1000};
    if (!s->drain_ev)
        s->drain_ev = event_new(s->loop, -1, 0, drain_deadline_cb, s);
    return s->drain_ev && (event_pending(s->drain_ev, EV_TIMEOUT, NULL) || event_add(s->drain_ev, &limit) == 0);
}

void server_begin_drain(struct server *s)
{
    if (s->state != SERVER_DRAINING)
        log_info(s->o.log, AREA, "draining", LOG_I("exchanges", http_server_stats(s->http).active_exchanges),
                 LOG_B("ending", s->ending));
    s->state = SERVER_DRAINING;
    if (!arm_deadline(s))
        drain_deadline_cb(-1, 0, s); /* no deadline, no drain */
}
