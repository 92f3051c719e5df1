/* The doors of the admin API: who may come in, where each request goes, and how answers look. */
#include "scheduler/admin/admin_internal.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/front/tls_watch.h"

/* --- answers ------------------------------------------------------------------------------------------------ */

static void reply(struct http_exchange *x, int status, const char *content_type, const struct strbuf *body,
                  const char *extra_name, const char *extra_value)
{
    struct http_header headers[3] = {{"Content-Type", content_type}, {"Cache-Control", "no-store"}};

    if (extra_name)
        headers[2] = (struct http_header){extra_name, extra_value};
    http_reply(x, status, headers, extra_name ? 3 : 2, body->data ? body->data : "", body->len);
}

void admin_reply(struct http_exchange *x, int status, const char *content_type, const struct strbuf *body)
{
    reply(x, status, content_type, body, NULL, NULL);
}

void admin_reply_json(struct http_exchange *x, int status, const struct json_writer *w)
{
    if (json_write_end(w) == RC_OK)
        admin_reply(x, status, "application/json", w->out);
    else
        admin_reply_error(x, 500, "answer_too_large", "the answer is larger than %zu bytes; ask for less",
                          ADMIN_ANSWER_MAX);
    strbuf_fini(w->out);
}

static void write_error(struct strbuf *body, int status, const char *code, const char *message)
{
    struct json_writer w = json_write_begin(body);

    json_open(&w, NULL, '{');
    json_open(&w, "error", '{');
    json_string(&w, "message", message);
    json_string(&w, "type", status < 500 ? "invalid_request_error" : "server_error");
    json_null(&w, "param");
    json_string(&w, "code", code);
    json_close(&w, '}');
    json_close(&w, '}');
    SPW_ASSERT(json_write_end(&w) == RC_OK);
}

static void reply_error(struct http_exchange *x, int status, const char *code, const char *extra_name,
                        const char *extra_value, const char *message)
{
    struct strbuf body;

    strbuf_init(&body, 16384); /* a message of 1 KiB, escaped at its worst */
    write_error(&body, status, code, message);
    reply(x, status, "application/json", &body, extra_name, extra_value);
    strbuf_fini(&body);
}

void admin_reply_error(struct http_exchange *x, int status, const char *code, const char *format, ...)
{
    char message[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    reply_error(x, status, code, status == 503 ? "Retry-After" : NULL, "1", message);
}

/* --- dispatch ----------------------------------------------------------------------------------------------- */

static void route(struct admin_door *door, struct http_exchange *x, const char *who)
{
    const struct http_head *head = http_request_head(x);
    char name[ADMIN_NAME_MAX + 1], allow[32];
    const struct admin_route *r = admin_route_find(head->method, head->target, name, allow, sizeof allow);

    if (!r && allow[0]) {
        reply_error(x, 405, "method_not_allowed", "Allow", allow, "this path has other methods; see Allow");
        return;
    }
    if (!r) {
        reply_error(x, 404, "not_found", NULL, NULL, "no such path; docs/ADMIN_API.md has the list");
        return;
    }
    if (strcmp(r->method, "GET") == 0) {
        r->handler(&(struct admin_call){.admin = door->admin, .x = x, .name = name[0] ? name : NULL, .who = who});
        return;
    }
    /* What changes something leaves a trace, and is in the audit before it is done. */
    log_info(door->admin->o.log, "admin", "command", LOG_S("path", r->path), LOG_S("name", name[0] ? name : NULL),
             LOG_S("by", who), LOG_S("peer", http_exchange_peer(x)));
    admin_record_action(door, x, r, name, who);
}

void admin_refuse(const struct admin_call *c, const struct error *e)
{
    switch (e->code) {
    case RC_NOT_FOUND: admin_reply_error(c->x, 404, "not_found", "%s", e->message); break;
    case RC_CONFLICT: admin_reply_error(c->x, 409, "conflict", "%s", e->message); break;
    case RC_FULL: admin_reply_error(c->x, 409, "limit_reached", "%s", e->message); break;
    case RC_INVALID:
    case RC_UNSUPPORTED: admin_reply_error(c->x, 400, "invalid_request", "%s", e->message); break;
    default: admin_reply_error(c->x, 503, "busy", "%s", e->message); break;
    }
}

bool admin_start(const struct admin_call *c, void (*run)(void *), void (*done)(enum rc, void *),
                 void (*on_abort)(struct http_exchange *, void *), void *job)
{
    if (worker_submit(c->admin->reader, run, done, job) != RC_OK) {
        admin_reply_error(c->x, 503, "busy", "other readers are waiting; try again");
        return false;
    }
    http_exchange_set(c->x, job, on_abort);
    return true;
}

void admin_put_time(struct json_writer *w, const char *key, int64_t at_s)
{
    char text[40];

    json_string(w, key, at_s > 0 ? wall_format((struct wall){at_s * NS_PER_S}, text, sizeof text) : NULL);
}

static void refuse(struct admin_door *door, struct http_exchange *x, const struct auth_refusal *r, const char *key)
{
    const char *code = r->status == 401   ? "unauthorized"
                       : r->status == 403 ? "forbidden"
                       : r->status == 429 ? "too_many_bad_tokens"
                                          : "unavailable";
    const char *header = r->www_authenticate[0] ? "WWW-Authenticate" : r->retry_after_s ? "Retry-After" : NULL;

    log_warn(door->admin->o.log, "admin", "refused", LOG_S("reason", auth_code_name(r->code)),
             LOG_S("peer", http_exchange_peer(x)), LOG_S("key", key));
    admin_record_refusal(door->admin, x, r, key);
    reply_error(x, r->status, code, header, r->www_authenticate[0] ? r->www_authenticate : "1", r->message);
}

/* Takes the reference. */
static void let_in(struct admin_door *door, struct http_exchange *x, struct identity *who)
{
    struct auth_refusal r;

    if (auth_require(who, AUTH_SCOPE_ADMIN, &r) == RC_OK)
        route(door, x, who->key_id ? who->key_id : "?");
    else
        refuse(door, x, &r, who->key_id);
    identity_unref(who);
}

struct parked { /* waits for an issuer's keys; ends with its exchange or with the answer */
    struct admin_door *door;
    struct http_exchange *x;
    struct auth_wait *wait;
};

static void parked_abort_cb(struct http_exchange *x, void *state)
{
    struct parked *p = state;

    (void)x;
    auth_cancel(p->wait);
    free(p);
}

static void auth_done_cb(struct identity *who, const struct auth_refusal *refusal, void *arg)
{
    struct parked p = *(struct parked *)arg;

    free(arg);
    http_exchange_set(p.x, NULL, NULL);
    if (who)
        let_in(p.door, p.x, who);
    else
        refuse(p.door, p.x, refusal, NULL);
}

static void request_cb(struct http_exchange *x, void *arg)
{
    struct admin_door *door = arg;
    struct auth_credential credential = {.authorization = http_head_get(http_request_head(x), "authorization"),
                                         .peer = http_exchange_peer(x)};
    struct auth_refusal r;
    struct identity *who;

    if (!door->needs_key) {
        route(door, x, "socket");
        return;
    }
    if (door->admin->o.pages && door->admin->o.pages(x, door->admin->o.pages_arg))
        return;
    if (!door->admin->o.auth) {
        auth_refusal_set(&r, AUTH_KEY_UNKNOWN, "there are no keys");
        refuse(door, x, &r, NULL);
        return;
    }
    struct parked *p = spw_calloc(1, sizeof *p);
    *p = (struct parked){.door = door, .x = x};
    enum rc rc = auth_check(door->admin->o.auth, &credential, &who, &r, auth_done_cb, p, &p->wait);
    if (rc == RC_AGAIN) {
        http_exchange_set(x, p, parked_abort_cb);
        return;
    }
    free(p);
    if (rc == RC_OK)
        let_in(door, x, who);
    else
        refuse(door, x, &r, NULL);
}

/* --- life --------------------------------------------------------------------------------------------------- */

static enum rc open_door(struct admin *a, struct admin_door *door, const char *address, struct tls_door *tls,
                         struct error *e)
{
    static const struct http_server_handlers handlers = {.on_request = request_cb};
    struct http_server_options o = {.limits = http_limits_default, .connections_max = 256, .tls = tls};

    o.limits.body_bytes_max = 65536;
    o.retained_bytes_max = (size_t)8 << 20;
    door->admin = a;
    enum rc rc = http_server_new(&door->server, a->o.loop, address, &o, &handlers, door, e);
    return rc == RC_OK ? rc : error_prefix(e, door == &a->remote ? "admin.listen" : "admin.socket");
}

static enum rc open_remote(struct admin *a, struct error *e)
{
    const struct tls_server_files files = config_admin_tls(a->config);
    enum rc rc = files.cert ? tls_door_new(&a->tls, &files, a->o.clock, e) : RC_OK;
    const struct tls_watch_options watch = {.loop = a->o.loop, .door = a->tls, .log = a->o.log, .name = "admin.listen"};

    if (rc == RC_OK && a->tls)
        rc = tls_watch_new(&a->tls_watch, &watch, e);
    return rc == RC_OK ? open_door(a, &a->remote, a->config->admin_listen, a->tls, e) : rc;
}

enum rc admin_take_doors(struct admin *a, const struct config *config, struct error *e)
{
    const struct tls_server_files files = config_admin_tls(config);
    if (a->remote.server && !files.cert != !a->tls)
        return error_set(e, RC_INVALID, "admin.tls_cert: TLS is turned on or off by a restart only");
    return a->tls ? tls_door_replace(a->tls, &files, e) : RC_OK;
}

enum rc admin_new(struct admin **out, const struct admin_options *o, struct error *e)
{
    struct admin *a = spw_calloc(1, sizeof *a);
    const struct config *c = o->config;
    char *socket = spw_asprintf("unix:%s", c->admin_socket);

    *out = NULL;
    a->o = *o;
    a->config = config_ref(c);
    a->started = clock_wall(o->clock);
    a->remote.needs_key = true;
    strbuf_init(&a->record, AUDIT_JSON_BYTES_MAX);
    enum rc rc = worker_new(&a->reader, "admin", o->loop, 16, e);
    if (rc == RC_OK && o->audit)
        rc = audit_port_new(&a->audit, o->audit, o->loop, e);
    if (rc == RC_OK)
        rc = open_door(a, &a->local, socket, NULL, e);
    if (rc == RC_OK && c->admin_listen)
        rc = open_remote(a, e);
    free(socket);
    if (rc != RC_OK) {
        admin_free(a);
        return rc;
    }
    *out = a;
    return RC_OK;
}

void admin_take(struct admin *a, const struct config *config, struct auth *auth)
{
    struct config *before = a->config;

    a->config = config_ref(config);
    a->o.auth = auth;
    config_free(before);
}

static void door_drained(void *arg)
{
    struct admin *a = arg;

    if (--a->draining == 0)
        a->drained(a->drained_arg); /* may free it */
}

void admin_drain(struct admin *a, void (*done)(void *arg), void *arg)
{
    SPW_ASSERT(!a->drained);
    a->drained = done;
    a->drained_arg = arg;
    a->draining = a->remote.server ? 2 : 1;
    http_server_drain(a->local.server, door_drained, a);
    if (a->remote.server)
        http_server_drain(a->remote.server, door_drained, a);
}

void admin_free(struct admin *a)
{
    if (!a)
        return;
    /* Doors first: their exchanges end (on_abort), so that the reader's last completions find nobody to answer. */
    if (a->local.server)
        http_server_free(a->local.server);
    if (a->remote.server)
        http_server_free(a->remote.server);
    audit_port_free(a->audit);
    strbuf_fini(&a->record);
    worker_free(a->reader);
    tls_watch_free(a->tls_watch);
    tls_door_free(a->tls);
    config_free(a->config);
    free(a);
}

int admin_port(const struct admin *a)
{
    return a->remote.server ? http_server_port(a->remote.server) : 0;
}
