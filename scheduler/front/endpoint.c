/* The public surface: one table of routes, who may call them, and the checks that a request passes before it becomes
 * work. /metrics and /admin are not here and never will be: they are another listener's. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "scheduler/front/front_internal.h"
#include "scheduler/front/premises.h"

#define CATALOGUE_BYTES_MAX ((size_t)64 << 20)

struct route;

struct call { /* one request on its way through the checks */
    struct lane *l;
    struct front *f; /* l->front */
    struct http_exchange *x;
    const char *id;
    struct wall began;
    const struct route *route; /* NULL: none is known yet */
    const char *rest;          /* of the path, behind a route that ends with '/' */
    struct identity *who;      /* NULL on routes that are open */
};

enum access { ACCESS_OPEN, ACCESS_KEY };

struct route {
    const char *method, *path; /* a path that ends with '/' takes one more segment */
    enum access access;
    void (*handle)(struct call *c);
    enum request_kind kind; /* of handle_generation() */
};

/* ---- ids -------------------------------------------------------------------------------------------------------- */

/* As a ULID: 48 bits of milliseconds, 80 random bits, in Crockford's base 32. Sorts by time; cannot be guessed. */
static void make_id(char id[REQUEST_ID_BYTES], struct lane *l, struct wall now)
{
    static const char digits[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    uint8_t random[10];
    uint64_t ms = (uint64_t)(now.ns / NS_PER_MS), high, low;
    random_take(&l->random, random, sizeof random);
    memcpy(&high, random, 5);
    memcpy(&low, random + 5, 5);
    memcpy(id, "req_", 4);
    for (int i = 0; i < 10; i++)
        id[4 + i] = digits[(ms >> (45 - 5 * i)) & 31];
    for (int i = 0; i < 8; i++) {
        id[14 + i] = digits[(high >> (5 * i)) & 31];
        id[22 + i] = digits[(low >> (5 * i)) & 31];
    }
    id[REQUEST_ID_BYTES - 1] = '\0';
}

/* ---- small answers ---------------------------------------------------------------------------------------------- */

static void count_refusal(struct call *c, const struct api_error *e)
{
    struct spans_refusal span = {.head = http_request_head(c->x), .began = c->began, .id = c->id, .error = e};
    counter_add(&c->l->refused, 1);
    metrics_add(c->l->metrics, METRIC_REFUSED, (int)e->code, 0, 1);
    log_debug(c->f->o.log, "request", "refused", LOG_S("request_id", c->id), LOG_S("error", api_error_name(e)),
              LOG_I("status", api_error_status(e)), LOG_S("tenant", c->who ? c->who->tenant : NULL));
    if (!c->who || !c->route)
        return;
    span.method = c->route->method;
    span.route = c->route->path;
    span.tenant = c->who->tenant;
    spans_turned_away(c->l->spans, &span);
}

static void refuse(struct call *c, const struct api_error *e, const char *allow)
{
    count_refusal(c, e);
    api_error_reply(c->x, e, c->id, NULL, allow);
}

static void refuse_code(struct call *c, enum api_code code)
{
    struct api_error e;
    api_error_set(&e, code, NULL, "%s", "");
    refuse(c, &e, NULL);
}

static void reply_json(struct call *c, int status, const struct strbuf *body)
{
    struct http_header headers[] = {{"Content-Type", "application/json"}, {"x-request-id", c->id}};
    http_reply(c->x, status, headers, 2, body->data, body->len);
}

static void handle_healthz(struct call *c)
{
    static const char body[] = "{\"status\":\"ok\"}\n";
    struct http_header headers[] = {{"Content-Type", "application/json"}};
    http_reply(c->x, 200, headers, 1, body, sizeof body - 1);
}

static void handle_readyz(struct call *c)
{
    const char *why;
    bool ready = front_is_ready(c->f, &why);
    struct strbuf body;
    strbuf_init(&body, 1024);
    enum rc rc = ready ? strbuf_puts(&body, "{\"status\":\"ready\"}\n")
                       : strbuf_printf(&body, "{\"status\":\"not ready\",\"reason\":\"%s\"}\n", why);
    SPW_ASSERT(rc == RC_OK);
    reply_json(c, ready ? 200 : 503, &body);
    strbuf_fini(&body);
}

/* ---- models ----------------------------------------------------------------------------------------------------- */

static void handle_models(struct call *c)
{
    struct strbuf body;
    strbuf_init(&body, CATALOGUE_BYTES_MAX);
    if (catalogue_list(c->l, c->who, &body) == RC_OK)
        reply_json(c, 200, &body);
    else
        refuse_code(c, API_INTERNAL); /* tens of thousands of names */
    strbuf_fini(&body);
}

static int hex_digit(char ch)
{
    return ch >= '0' && ch <= '9' ? ch - '0' : (ch | 32) >= 'a' && (ch | 32) <= 'f' ? (ch | 32) - 'a' + 10 : -1;
}

/* The model's name from the path, percent-decoded; names may hold slashes. False: none that could exist. */
static bool decode_model(const char *path, char *out, size_t size)
{
    size_t n = 0;
    for (; *path && *path != '?'; path++) {
        int c = (unsigned char)*path;
        if (c == '%') {
            int high = hex_digit(path[1]), low = high < 0 ? -1 : hex_digit(path[2]);
            if (low < 0)
                return false;
            c = high * 16 + low;
            path += 2;
        }
        if (c == 0 || n + 1 >= size)
            return false;
        out[n++] = (char)c;
    }
    out[n] = '\0';
    return n > 0;
}

static void handle_model(struct call *c)
{
    char model[REQUEST_MODEL_BYTES_MAX + 1];
    struct strbuf body;
    strbuf_init(&body, CATALOGUE_BYTES_MAX);
    if (decode_model(c->rest, model, sizeof model) && catalogue_one(c->l, c->who, model, &body) == RC_OK)
        reply_json(c, 200, &body);
    else
        refuse_code(c, API_MODEL_NOT_FOUND);
    strbuf_fini(&body);
}

/* ---- generation ------------------------------------------------------------------------------------------------- */

/* The model, and somebody who answers for it. */
static bool may_ask(const struct identity *who, const struct model *model)
{
    for (int i = 0; i < model->n_chain; i++) {
        if (model_may_step(model, model->chain[i], who))
            return true;
    }
    return false;
}

/* Against its limits; then it is a request. */
static void start_admitted(struct call *c, const struct request_body *body, const cJSON *root,
                           const struct model *model, const struct urgency *urgency)
{
    struct admission a = {.root = root, .model = model, .urgency = *urgency};
    char labels[BUDGET_LABELS_BYTES];
    struct api_error refusal;
    if (cached_ask(c->x, &a.ask, &refusal) != RC_OK ||
        bound_read(c->x, &a.charge_bounded, &a.charge_max, &refusal) != RC_OK ||
        explained_read(c->x, &a.explain, &refusal) != RC_OK) {
        refuse(c, &refusal, NULL);
        return;
    }
    if (c->l->config->n_budgets && budgeted_read(c->x, labels, &refusal) != RC_OK) {
        refuse(c, &refusal, NULL);
        return;
    }
    a.labels = labels;
    enum rc rc = idempotency_begin(c->l, c->x, c->id, body, c->who, &a.idempotency, &refusal);
    if (rc == RC_DENIED)
        refuse(c, &refusal, NULL);
    if (rc != RC_OK)
        return;
    if (admit(c->l, c->who, model, body, &a.ticket, &a.limits, &refusal) == RC_OK) {
        a.who = identity_ref(c->who);
        request_start(c->l, c->x, c->id, body, &a);
        return;
    }
    struct http_header headers[LIMIT_HEADERS_MAX];
    struct limit_texts texts;
    int n = limit_headers(&a.limits, &texts, headers);
    idempotency_refused(c->l, a.idempotency, &refusal);
    count_refusal(c, &refusal);
    api_error_reply_with(c->x, &refusal, c->id, headers, n);
}

/* Is what its body says something that this caller may ask of somebody? */
static void handle_parsed(struct call *c, const struct request_body *body, const cJSON *root)
{
    struct urgency urgency;
    struct api_error refusal;
    struct error e;
    const struct model *model = model_table_find(c->l->config->model_table, body->model);
    if (!model) {
        api_error_set(&refusal, API_MODEL_NOT_FOUND, "model",
                      "no node serves the model '%.200s'; GET /v1/models lists what is served", body->model);
        refuse(c, &refusal, NULL);
        return;
    }
    if (!may_ask(c->who, model)) {
        refuse_code(c, API_MODEL_NOT_ALLOWED);
        return;
    }
    const char *deadline = http_head_get(http_request_head(c->x), URGENCY_HEADER);
    if (urgency_read(&urgency, body->tier, deadline, clock_wall(c->f->o.clock), c->l->config->batch_after_ms, &e) !=
        RC_OK) {
        api_error_set(&refusal, API_INVALID_BODY, URGENCY_HEADER, "%s", e.message);
        refuse(c, &refusal, NULL);
        return;
    }
    start_admitted(c, body, root, model, &urgency);
}

static void handle_generation(struct call *c)
{
    struct front *f = c->f;
    struct request_body body;
    struct json_doc doc;
    struct api_error refusal;
    struct error e;
    const char *param;
    struct span text;
    text.p = http_request_body(c->x, &text.n);
    if (f->ledger_failing || ledger_is_failing(f->o.ledger) || !audited_takes_work(c->l)) {
        refuse_code(c, API_LEDGER);
        return;
    }
    if (f->draining && !f->queue_stays) { /* else who was accepted is served: he will not come again */
        refuse_code(c, API_DRAINING);
        return;
    }
    if (request_parse(&body, &doc, c->route->kind, text, &param, &e) != RC_OK) {
        api_error_set(&refusal, API_INVALID_BODY, param, "%s", e.message);
        refuse(c, &refusal, NULL);
        return;
    }
    handle_parsed(c, &body, doc.root);
    json_doc_fini(&doc);
}

/* ---- the table -------------------------------------------------------------------------------------------------- */

static const struct route routes[] = {
    {"POST", "/v1/chat/completions", ACCESS_KEY, handle_generation, REQUEST_CHAT},
    {"POST", "/v1/completions", ACCESS_KEY, handle_generation, REQUEST_COMPLETION},
    {"POST", "/v1/embeddings", ACCESS_KEY, handle_generation, REQUEST_EMBEDDINGS},
    {"POST", "/tokenize", ACCESS_KEY, handle_generation, REQUEST_TOKENIZE},
    {"POST", "/detokenize", ACCESS_KEY, handle_generation, REQUEST_DETOKENIZE},
    {.method = "GET", .path = "/v1/models", .access = ACCESS_KEY, .handle = handle_models},
    {.method = "GET", .path = "/v1/models/", .access = ACCESS_KEY, .handle = handle_model},
    {.method = "GET", .path = "/healthz", .access = ACCESS_OPEN, .handle = handle_healthz},
    {.method = "GET", .path = "/readyz", .access = ACCESS_OPEN, .handle = handle_readyz},
};

/* The route of this path, whatever the method. */
static const struct route *find_route(struct http_exchange *x, const char **rest)
{
    const char *target = http_request_head(x)->target;
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        size_t n = strlen(routes[i].path);
        if (routes[i].path[n - 1] == '/' && strncmp(target, routes[i].path, n) == 0) {
            *rest = target + n;
            return &routes[i];
        }
        if (http_request_path_is(x, routes[i].path))
            return &routes[i];
    }
    return NULL;
}

/* ---- who asks --------------------------------------------------------------------------------------------------- */

static enum api_code code_of(const struct auth_refusal *r)
{
    switch (r->status) {
    case 401: return API_UNAUTHORIZED;
    case 403: return API_FORBIDDEN;
    case 429: return API_AUTH_TOO_MANY;
    default: return API_AUTH_UNAVAILABLE;
    }
}

static void refuse_caller(struct call *c, const struct auth_refusal *r)
{
    struct http_header challenge = {"WWW-Authenticate", r->www_authenticate};
    struct api_error e;
    api_error_set(&e, code_of(r), NULL, "%s", r->message);
    e.retry_after_s = r->retry_after_s;
    metrics_add(c->l->metrics, METRIC_AUTH_REFUSED, (int)r->code, 0, 1);
    audited_refused(c->l, r, http_exchange_peer(c->x));
    count_refusal(c, &e);
    api_error_reply_with(c->x, &e, c->id, &challenge, r->www_authenticate[0] ? 1 : 0);
}

/* The caller is known (a reference that ends here): may it do this? */
static void handle_known(struct call *c, struct identity *who)
{
    struct auth_refusal r;
    struct api_error refusal;
    struct error e;
    enum rc bound = premises_bind(c->l->config, http_request_head(c->x), &who, &e);
    c->who = who;
    if (auth_require(who, AUTH_SCOPE_INFERENCE, &r) != RC_OK) {
        refuse_caller(c, &r);
    } else if (bound != RC_OK) {
        api_error_set(&refusal, API_INVALID_BODY, PREMISES_HEADER, "%s", e.message);
        refuse(c, &refusal, NULL);
    } else {
        c->route->handle(c);
    }
    identity_unref(who);
}

/* An exchange that waits until somebody's public keys are fetched. Owned by its exchange and by the question, which end
 * together: the answer comes, or the client leaves and the question is cancelled. */
struct parked {
    struct call call;
    char id[REQUEST_ID_BYTES];
    struct auth_wait *wait;
};

static void on_parked_abort(struct http_exchange *x, void *state)
{
    struct parked *p = state;
    (void)x;
    auth_cancel(p->wait);
    free(p);
}

static void on_auth(struct identity *who, const struct auth_refusal *refusal, void *arg)
{
    struct parked *p = arg;
    http_exchange_set(p->call.x, NULL, NULL);
    if (who)
        handle_known(&p->call, who);
    else
        refuse_caller(&p->call, refusal);
    free(p);
}

static struct auth_credential credential_of(struct http_exchange *x)
{
    const struct http_head *head = http_request_head(x);
    const char *api_key = http_head_get(head, "api-key");
    return (struct auth_credential){.authorization = http_head_get(head, "authorization"),
                                    .api_key = api_key ? api_key : http_head_get(head, "x-api-key"),
                                    .peer = http_exchange_peer(x)};
}

/* c->rest points into the request's head, which stays as long as the exchange does. */
static void identify(struct call *c)
{
    struct auth_credential credential = credential_of(c->x);
    struct parked *p = spw_calloc(1, sizeof *p);
    struct identity *who;
    struct auth_refusal r;
    enum rc rc = auth_check(c->l->auth, &credential, &who, &r, on_auth, p, &p->wait);
    if (rc == RC_AGAIN) {
        p->call = *c;
        memcpy(p->id, c->id, sizeof p->id);
        p->call.id = p->id;
        http_exchange_set(c->x, p, on_parked_abort);
        return;
    }
    free(p);
    if (rc == RC_OK)
        handle_known(c, who);
    else
        refuse_caller(c, &r);
}

/* What may be read may be asked for without its body, which http_reply() leaves out: health checks do. */
static bool takes(const struct route *route, const char *method)
{
    return strcmp(method, route->method) == 0 || (strcmp(method, "HEAD") == 0 && strcmp(route->method, "GET") == 0);
}

/* Into c; false: it was answered that there is none. */
static bool take_route(struct call *c)
{
    struct api_error e;
    const struct route *route = find_route(c->x, &c->rest);
    if (!route) {
        refuse_code(c, API_NOT_FOUND);
        return false;
    }
    if (takes(route, http_request_head(c->x)->method)) {
        c->route = route;
        return true;
    }
    api_error_set(&e, API_METHOD, NULL, "this endpoint takes %s alone", route->method);
    refuse(c, &e, route->method);
    return false;
}

static void never_called(struct identity *who, const struct auth_refusal *refusal, void *arg)
{
    (void)refusal;
    (void)arg;
    identity_unref(who);
}

/* Before a body is read: what will be refused for its head alone is refused now, so that strangers cannot make us hold
 * bodies. Who he is, is asked once more when the body is there: a key may have been revoked meanwhile, and nothing has
 * to be kept until then. Tokens whose issuer's keys are not there yet pass: endpoint_handle() waits for them. */
void endpoint_head(struct http_exchange *x, void *arg)
{
    char id[REQUEST_ID_BYTES];
    struct lane *l = arg;
    struct call c = {.l = l, .f = l->front, .x = x, .id = id, .began = clock_wall(l->front->o.clock)};
    struct auth_credential credential = credential_of(x);
    struct auth_wait *wait;
    struct identity *who;
    struct auth_refusal r;
    make_id(id, c.l, c.began);
    if (!take_route(&c) || c.route->access == ACCESS_OPEN)
        return;
    enum rc rc = auth_check(c.l->auth, &credential, &who, &r, never_called, NULL, &wait);
    if (rc == RC_OK)
        rc = auth_require(c.who = who, AUTH_SCOPE_INFERENCE, &r);
    else if (rc == RC_AGAIN)
        auth_cancel(wait);
    if (rc == RC_DENIED)
        refuse_caller(&c, &r);
    identity_unref(who);
}

void endpoint_handle(struct http_exchange *x, void *arg)
{
    char id[REQUEST_ID_BYTES];
    struct lane *l = arg;
    struct call c = {.l = l, .f = l->front, .x = x, .id = id, .began = clock_wall(l->front->o.clock)};
    make_id(id, c.l, c.began);
    if (!take_route(&c))
        return;
    if (c.route->access == ACCESS_KEY) {
        identify(&c);
    } else {
        c.route->handle(&c);
    }
}
