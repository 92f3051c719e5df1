/* Sleep and power of one node: POST /sleep and /wake_up under its key (docs/NODE_API.md), or its provider's switch.
 * What came of it is seen by the health check; an order that got no answer is given again. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "scheduler/capacity/fleet_internal.h"

#define CALL_MS  5000
#define AGAIN_MS 2000 /* between two orders */

void sleep_forget(struct member *m)
{
    if (m->call)
        http_call_cancel(m->call);
    http_client_free(m->client);
    m->call = NULL;
    m->client = NULL;
}

static void on_head(struct http_call *c, const struct http_head *head, void *arg)
{
    (void)c;
    ((struct member *)arg)->status = head->status;
}

static void on_body(struct http_call *c, const char *data, size_t n, void *arg)
{
    (void)c, (void)data, (void)n, (void)arg; /* the health check tells more */
}

static void failed(struct member *m, const char *reason)
{
    log_warn(m->fleet->o.log, "capacity", m->called_sleep ? "it was told to sleep" : "it was told to wake up",
             LOG_S("node", m->name), LOG_S("failure", reason));
    if (m->called_sleep && m->life == LIFE_DRAINING && m->purpose == FOR_SLEEP)
        member_undrain(m, reason); /* the plan says it again */
}

static void on_end(struct http_call *c, void *arg)
{
    struct member *m = arg;
    char reason[64];
    (void)c;
    m->call = NULL;
    if (m->node)
        health_probe_soon(m->node);
    if (m->status >= 200 && m->status < 300)
        return;
    snprintf(reason, sizeof reason, "it answered %d", m->status);
    failed(m, reason);
}

static void on_fail(struct http_call *c, enum http_phase phase, const struct error *e, void *arg)
{
    struct member *m = arg;
    (void)c, (void)phase;
    m->call = NULL;
    if (e->code != RC_CANCELLED)
        failed(m, e->message);
}

static const struct http_call_handlers handlers = {
    .on_head = on_head, .on_body = on_body, .on_end = on_end, .on_fail = on_fail};

static enum rc connect_to(struct member *m, struct error *e)
{
    const unsigned now = m->node->target.generation;
    if (m->client && m->generation == now)
        return RC_OK;
    sleep_forget(m);
    return node_client_new(m->node, m->fleet->o.loop, &m->client, &m->generation, e);
}

void sleep_order(struct member *m, bool asleep)
{
    struct fleet *f = m->fleet;
    const struct mono now = clock_now(f->o.clock);
    struct error e;
    if (!m->node || !m->node->spec || !m->node->spec->node_key)
        return;
    if (m->call && now.ns - m->call_at.ns < CALL_MS * NS_PER_MS)
        return;
    if (m->call_at.ns && m->called_sleep == asleep && now.ns - m->call_at.ns < AGAIN_MS * NS_PER_MS)
        return;
    if (m->call)
        http_call_cancel(m->call);
    m->call = NULL;
    m->called_sleep = asleep;
    m->call_at = now;
    m->status = 0;
    const struct http_header headers[] = {{"x-spillway-node-key", m->node->spec->node_key}};
    const struct http_request r = {
        .method = "POST", .target = asleep ? "/sleep" : "/wake_up", .headers = headers, .n_headers = 1};
    enum rc rc = connect_to(m, &e);
    if (rc == RC_OK)
        rc = http_call_start(m->client, &r, &handlers, m, &m->call, &e);
    if (rc != RC_OK)
        failed(m, e.message);
}

/* ---- power ------------------------------------------------------------------------------------------------------- */

struct switching {
    struct fleet *fleet;
    char name[JOURNAL_NAME_MAX];
    bool on;
};

static void on_switched(enum provider_failure failure, const char *text, void *arg)
{
    struct switching *s = arg;
    struct member *m = fleet_find(s->fleet, s->name);
    if (m) {
        m->powering = false;
        if (failure != PROVIDER_FINE) {
            log_warn(s->fleet->o.log, "capacity",
                     s->on ? "it could not be switched on" : "it could not be switched off", LOG_S("node", m->name),
                     LOG_S("failure", provider_failure_name(failure)), LOG_S("reason", text));
            if (!s->on && m->life == LIFE_DRAINING)
                member_undrain(m, text);
        } else if (!s->on) {
            m->purpose = FOR_NOTHING;
            member_event(m, LIFE_POWERED_OFF, "switched off");
        }
    }
    free(s);
}

void power_order(struct member *m, bool on)
{
    struct source *source = source_find(m->fleet, provider_static.name);
    const struct mono now = clock_now(m->fleet->o.clock);
    if (!source || !m->owned_known || m->powering || !source->ops->power ||
        (m->power_at.ns && now.ns - m->power_at.ns < AGAIN_MS * NS_PER_MS))
        return;
    struct switching *s = spw_calloc(1, sizeof *s);
    s->fleet = m->fleet;
    s->on = on;
    snprintf(s->name, sizeof s->name, "%s", m->name);
    m->power_at = now;
    m->powering = source->ops->power(source->provider, m->name, on, on_switched, s) == RC_OK;
    if (!m->powering)
        free(s);
    else if (on)
        member_event(m, LIFE_POWER_ON, "it is switched on");
}
