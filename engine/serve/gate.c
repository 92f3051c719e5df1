#include "engine/serve/gate.h"

#include <stdio.h>
#include <string.h>

#define NODE_FIELD "spillway_"

static const struct gate_route routes[] = {
    {"GET", "/health", false, GATE_HEALTH, 0},
    {"GET", "/metrics", false, GATE_METRICS, GATE_NEEDS_KEY},
    {"GET", "/v1/models", false, GATE_MODELS, GATE_NEEDS_KEY | GATE_NEEDS_READY},
    {"GET", "/v1/models/", true, GATE_MODEL, GATE_NEEDS_KEY | GATE_NEEDS_READY},
    {"POST", "/v1/chat/completions", false, GATE_CHAT, GATE_NEEDS_KEY | GATE_NEEDS_READY},
    {"POST", "/v1/completions", false, GATE_COMPLETION, GATE_NEEDS_KEY | GATE_NEEDS_READY},
    {"POST", "/v1/embeddings", false, GATE_EMBEDDINGS, GATE_NEEDS_KEY | GATE_NEEDS_READY},
    {"POST", "/tokenize", false, GATE_TOKENIZE, GATE_NEEDS_KEY | GATE_NEEDS_READY},
    {"POST", "/detokenize", false, GATE_DETOKENIZE, GATE_NEEDS_KEY | GATE_NEEDS_READY},
    {"POST", "/drain", false, GATE_DRAIN, GATE_NEEDS_KEY | GATE_NEEDS_NODE_KEY},
    {"POST", "/sleep", false, GATE_SLEEP, GATE_NEEDS_KEY | GATE_NEEDS_NODE_KEY},
    {"POST", "/wake_up", false, GATE_WAKE, GATE_NEEDS_KEY | GATE_NEEDS_NODE_KEY},
};

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One character of a percent-encoded text; where the next one begins. */
static const char *percent_decode(const char *p, char *c)
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
            p = percent_decode(p, &c);
            if (c != NODE_FIELD[n])
                break;
        }
        if (NODE_FIELD[n] == '\0')
            return true;
        key = strchr(key + 1, '&');
    }
    return false;
}

/* False: a node key that is none, or a client's request with something of the node API in its query. */
static bool know_caller(const struct gate *g, const struct http_head *h, enum api_caller *caller, struct api_error *e)
{
    const char *key = http_head_get(h, "x-spillway-node-key");
    *caller = API_CALLER_CLIENT;
    if (key && !g->node_key)
        return api_fail(e, 401, NULL, "invalid_node_key",
                        "this engine has no node key; start it with --node-key-file, or do not send one");
    if (key && !api_keys_have(g->node_key, key))
        return api_fail(e, 401, NULL, "invalid_node_key", "the node key is not this engine's");
    if (key)
        *caller = API_CALLER_SCHEDULER;
    else if (query_has_node_field(h->target))
        return api_fail(e, 400, NULL, "node_key_required", "a query with " NODE_FIELD "... needs the node key");
    return true;
}

static bool is_here(const struct gate_route *r, const char *target)
{
    size_t n = strlen(r->path);
    return strncmp(target, r->path, n) == 0 && (r->is_prefix || target[n] == '\0' || target[n] == '?');
}

static const struct gate_route *find(const struct http_head *h, const char **allowed)
{
    *allowed = NULL;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        const struct gate_route *r = &routes[i];
        if (!is_here(r, h->target))
            continue;
        if (strcmp(h->method, r->method) == 0)
            return r;
        *allowed = r->method;
    }
    return NULL;
}

static bool no_route(struct api_error *e, const char *allowed)
{
    if (allowed)
        return api_fail(e, 405, NULL, "method_not_allowed", "this path wants the method %s", allowed);
    return api_fail(e, 404, NULL, "not_found",
                    "there is nothing at this path; see /v1/chat/completions, /v1/completions, /v1/embeddings, "
                    "/v1/models, /tokenize, /detokenize, /health and /metrics");
}

static bool may_have(const struct gate *g, const struct http_head *h, const struct gate_route *r, const char *allowed,
                     enum api_caller *caller, struct api_error *e)
{
    if (!know_caller(g, h, caller, e))
        return false;
    bool needs_key = g->keys && *caller == API_CALLER_CLIENT && (!r || (r->needs & GATE_NEEDS_KEY));
    if (needs_key && !api_keys_allow(g->keys, http_head_get(h, "authorization")))
        return api_fail(e, 401, NULL, "invalid_api_key", "a valid API key is needed: Authorization: Bearer KEY");
    if (!r)
        return no_route(e, allowed);
    if ((r->needs & GATE_NEEDS_NODE_KEY) && *caller != API_CALLER_SCHEDULER)
        return api_fail(e, 401, NULL, "node_key_required",
                        "this path is open only to a scheduler that sends the node key");
    return true;
}

const struct gate_route *gate_admit(const struct gate *g, const struct http_head *h, enum api_caller *caller,
                                    struct api_error *e)
{
    const char *allowed;
    const struct gate_route *r = find(h, &allowed);
    return may_have(g, h, r, allowed, caller, e) ? r : NULL;
}

/* Is the percent-encoded text up to a '?' this name? */
static bool path_names(const char *encoded, const char *name)
{
    const char *p = encoded;
    for (; *p && *p != '?'; name++) {
        char c;
        p = percent_decode(p, &c);
        if (c != *name || c == '\0')
            return false;
    }
    return *name == '\0';
}

bool gate_names_model(const char *target, const char *model_id, struct api_error *e)
{
    if (path_names(target + strlen("/v1/models/"), model_id))
        return true;
    return api_fail(e, 404, "model", "model_not_found", "there is no such model; this engine serves '%.200s'",
                    model_id);
}

void gate_reply_error(struct http_exchange *x, const struct api_error *e, struct strbuf *scratch)
{
    char retry[16];
    struct http_header h[3] = {{"content-type", "application/json"}};
    int n = 1;
    if (e->status == 503 || e->status == 429) {
        snprintf(retry, sizeof retry, "%d", API_RETRY_SECONDS);
        h[n++] = (struct http_header){"retry-after", retry};
    }
    if (e->status == 401)
        h[n++] = (struct http_header){"www-authenticate", "Bearer"};
    (void)api_write_error(scratch, e);
    http_reply(x, e->status, h, n, scratch->data, scratch->len);
    strbuf_clear(scratch);
}
