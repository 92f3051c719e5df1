/* Health checks: one small request per node and interval. GET /health, or GET /v1/models where there is no /health. A
 * node that is loading or failing is asked more often than one that is well, so that it is used as soon as it can be.
 * An engine of ours is then asked for its card, in GET /v1/models under the node key: ready means that it is known
 * whether answers can be resumed there, also after a restart with another model. */
#include <string.h>

#include "base/json.h"
#include "scheduler/nodes/nodes.h"

#define STARTING_INTERVAL_MS 100
#define FAILING_INTERVAL_MS  1000
#define AGAIN_MS             50 /* a request has met something that the last probe did not see, or could not */
#define MISSES_MAX           2  /* checks without an answer in time; a busy node may miss one */

static int64_t interval_ms(const struct node *n)
{
    int64_t ms = nodes_options(n->table)->config->health_interval_ms;
    enum node_state state = node_state_now(n);
    int64_t most = state == NODE_STARTING ? STARTING_INTERVAL_MS : state == NODE_FAILING ? FAILING_INTERVAL_MS : ms;
    return ms < most ? ms : most;
}

static void arm(struct node *n, int64_t ms)
{
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = (ms % 1000) * 1000};
    event_add(n->timer, &tv);
}

static void good(struct node *n)
{
    const struct nodes_options *o = nodes_options(n->table);
    n->probe_misses = 0;
    n->probe_us = mono_since(o->clock, n->probe_started) / NS_PER_US;
    bool taken = n->silent || node_probed_well(n, n->probe_asleep ? NODE_ASLEEP : NODE_READY, n->probe_doubts);
    arm(n, taken ? interval_ms(n) : AGAIN_MS);
}

/* loading: it says itself that it will come. */
enum bad_kind { BAD_LOADING, BAD_FAILED };

static void bad(struct node *n, enum bad_kind kind, const char *reason)
{
    bool ours =
        n->dynamic || n->config->provider == PROVIDER_PROCESS; /* an engine that does not listen yet is starting */
    if (node_state_now(n) == NODE_STARTING && (ours || kind == BAD_LOADING))
        node_enter(n, NODE_STARTING, reason);
    else
        node_enter(n, NODE_FAILING, reason);
    arm(n, interval_ms(n));
}

static void missed(struct node *n)
{
    char reason[96];
    snprintf(reason, sizeof reason, "no answer to a health check within %lld ms",
             (long long)nodes_options(n->table)->config->health_timeout_ms);
    if (++n->probe_misses < MISSES_MAX && node_state_now(n) == NODE_READY)
        arm(n, interval_ms(n));
    else
        bad(n, BAD_FAILED, reason);
}

static void on_head(struct http_call *c, const struct http_head *head, void *arg)
{
    struct node *n = arg;
    (void)c;
    n->probe_status = head->status;
}

static void on_body(struct http_call *c, const char *data, size_t len, void *arg)
{
    struct node *n = arg;
    (void)c;
    if (strbuf_append(&n->probe_body, data, len) != RC_OK)
        strbuf_clear(&n->probe_body); /* far too long: then it is no card */
}

static void take_card(struct node *n)
{
    struct node_card card;
    const char *name = node_upstream_model(n->config) ? node_upstream_model(n->config) : n->config->models[0];
    if (node_card_read(&card, n->probe_body.data ? n->probe_body.data : "", n->probe_body.len, name) != RC_OK)
        card = (struct node_card){.slots = 0};
    if (card.resume != n->card.resume || strcmp(card.numerics, n->card.numerics) != 0)
        log_info(nodes_options(n->table)->log, "node",
                 card.resume ? "answers can be resumed here" : "answers cannot be resumed here", LOG_S("node", n->name),
                 LOG_S("numerics", card.numerics), LOG_I("slots", card.slots));
    pthread_mutex_lock(nodes_options(n->table)->lock);
    if (card.slots != n->card.slots || card.kv_tokens != n->card.kv_tokens)
        node_changed_locked(n);
    n->card = card;
    pthread_mutex_unlock(nodes_options(n->table)->lock);
}

/* {"status":"asleep"}, or on its way there or back: an engine's supervisor answers in the place of its worker. And how
 * its time was spent. */
static void take_health(struct node *n)
{
    static const char *const words[] = {"asleep", "falling_asleep", "waking"};
    cJSON *root = NULL;
    struct error ignored;
    const char *status = NULL;
    n->probe_asleep = false;
    if (!n->spec->node_key || !n->probe_body.len ||
        json_parse(n->probe_body.data, n->probe_body.len, 8, &root, &ignored) != RC_OK)
        return;
    if (cJSON_IsObject(root) && json_get_string(root, "status", &status, NULL, &ignored) == RC_OK && status) {
        for (int i = 0; i < 3; i++)
            n->probe_asleep = n->probe_asleep || strcmp(status, words[i]) == 0;
        timesheet_read(&n->sheet, root);
    }
    cJSON_Delete(root);
}

enum probe_kind { PROBE_HEALTH, PROBE_CARD };
static void probe(struct node *n, enum probe_kind kind);

static void on_end(struct http_call *c, void *arg)
{
    struct node *n = arg;
    char reason[96];
    int status = n->probe_status;
    (void)c;
    n->probe = NULL;
    if (!n->probe_card)
        take_health(n);
    if (status >= 200 && status < 300 && n->probe_asleep) { /* its card is what it was */
        good(n);
    } else if (status >= 200 && status < 300 && n->spec->node_key && !n->probe_card) {
        probe(n, PROBE_CARD);
    } else if (status >= 200 && status < 300) {
        if (n->probe_card)
            take_card(n);
        good(n);
    } else if (n->spec->node_key && status == 401) {
        bad(n, BAD_FAILED, "it refuses our node key (401); check node_key_file");
    } else if ((status == 404 || status == 405 || status == 501) && !n->probe_models) {
        n->probe_models = true;
        arm(n, 0);
    } else if (status == 401 || status == 403) {
        snprintf(reason, sizeof reason, "it refuses our key (%d); check api_key_file", status);
        bad(n, BAD_FAILED, reason);
    } else {
        snprintf(reason, sizeof reason, status == 503 ? "it is not ready (%d)" : "health check answered %d", status);
        bad(n, status == 503 ? BAD_LOADING : BAD_FAILED, reason);
    }
}

static void on_fail(struct http_call *c, enum http_phase phase, const struct error *e, void *arg)
{
    struct node *n = arg;
    (void)c;
    (void)phase;
    n->probe = NULL;
    if (e->code != RC_CANCELLED) /* else the node itself is being taken down */
        bad(n, BAD_FAILED, e->message);
}

static const struct http_call_handlers handlers = {
    .on_head = on_head, .on_body = on_body, .on_end = on_end, .on_fail = on_fail};

static void probe(struct node *n, enum probe_kind kind)
{
    const struct nodes_options *o = nodes_options(n->table);
    struct error e;
    struct http_header headers[3] = {{"Accept", "application/json"}};
    int n_headers = 1;
    n->probe_card = kind == PROBE_CARD || (n->spec->node_key && n->probe_models);
    strbuf_clear(&n->probe_body);
    if (n->spec->authorization)
        headers[n_headers++] = (struct http_header){"Authorization", n->spec->authorization};
    if (n->spec->node_key)
        headers[n_headers++] = (struct http_header){"x-spillway-node-key", n->spec->node_key};
    struct http_request r = {
        .method = "GET",
        .target = n->probe_models || n->probe_card ? "/v1/models" : "/health",
        .headers = headers,
        .n_headers = n_headers,
    };
    if (kind == PROBE_HEALTH) {
        n->probe_started = clock_now(o->clock);
        n->probe_doubts = node_doubts_now(n);
    }
    n->probe_status = 0;
    if (http_call_start(n->client, &r, &handlers, n, &n->probe, &e) == RC_OK) {
        arm(n, o->config->health_timeout_ms);
    } else {
        n->probe = NULL;
        bad(n, BAD_FAILED, e.message);
    }
}

/* Its meaning: the running probe is late, or the next one is due. */
static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct node *n = arg;
    (void)fd;
    (void)what;
    if (!n->probe) {
        probe(n, PROBE_HEALTH);
        return;
    }
    http_call_cancel(n->probe);
    n->probe = NULL;
    missed(n);
}

void health_start(struct node *n)
{
    SPW_ASSERT(!n->timer && n->client);
    n->timer = evtimer_new(nodes_options(n->table)->loop, on_timer, n);
    n->probe_misses = 0;
    arm(n, 0);
}

void health_stop(struct node *n)
{
    if (n->probe)
        http_call_cancel(n->probe);
    n->probe = NULL;
    if (n->timer)
        event_free(n->timer);
    n->timer = NULL;
}

void health_probe_soon(struct node *n)
{
    if (n->timer && !n->probe)
        arm(n, AGAIN_MS);
}
