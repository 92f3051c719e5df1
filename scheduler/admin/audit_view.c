/* The audit at the admin API: what is done here is recorded first, and GET /admin/v1/audit. */
#include <stdlib.h>
#include <string.h>

#include "scheduler/admin/admin_internal.h"
#include "scheduler/audit/record.h"

/* An action that waits for its record. The audit's until it calls back; the exchange only tells it that nobody waits. */
struct action {
    struct admin_door *door;
    struct http_exchange *x; /* NULL: the client has left, and nothing is done */
    const struct admin_route *route;
    char name[ADMIN_NAME_MAX + 1], who[ADMIN_NAME_MAX + 1];
};

static void abort_cb(struct http_exchange *x, void *state)
{
    struct action *a = state;

    (void)x;
    a->x = NULL;
}

static void refuse(struct http_exchange *x)
{
    admin_reply_error(x, 503, "audit_unavailable", "actions cannot be recorded at the moment, so none is carried out");
}

static void carry_out(struct admin_door *door, struct http_exchange *x, const struct admin_route *route,
                      const char *name, const char *who)
{
    const struct admin_call call = {.admin = door->admin, .x = x, .name = name[0] ? name : NULL, .who = who};

    route->handler(&call);
}

static void recorded_cb(enum rc rc, void *arg)
{
    struct action *a = arg;
    bool goes_on = rc == RC_OK || audit_on_failure(a->door->admin->o.audit) == AUDIT_CONTINUE;

    if (a->x)
        http_exchange_set(a->x, NULL, NULL);
    if (a->x && goes_on)
        carry_out(a->door, a->x, a->route, a->name, a->who);
    else if (a->x)
        refuse(a->x);
    free(a);
}

static enum rc write_record(struct admin_door *door, struct http_exchange *x, const struct admin_route *route,
                            const char *name, const char *who)
{
    const char *query = strchr(http_request_head(x)->target, '?');
    size_t n;
    const char *body = http_request_body(x, &n);
    const struct record_admin r = {.at = clock_wall(door->admin->o.clock),
                                   .method = route->method,
                                   .path = route->path,
                                   .name = name,
                                   .query = query ? query + 1 : NULL,
                                   .by = who,
                                   .peer = http_exchange_peer(x),
                                   .body = body,
                                   .n = n};

    return record_admin(&door->admin->record, &r);
}

void admin_record_action(struct admin_door *door, struct http_exchange *x, const struct admin_route *route,
                         const char *name, const char *who)
{
    struct admin *admin = door->admin;

    if (!admin->audit) {
        carry_out(door, x, route, name, who);
        return;
    }
    bool must = audit_on_failure(admin->o.audit) == AUDIT_REFUSE;
    struct action *a = spw_calloc(1, sizeof *a);
    *a = (struct action){.door = door, .x = x, .route = route};
    snprintf(a->name, sizeof a->name, "%s", name);
    snprintf(a->who, sizeof a->who, "%s", who);
    enum rc rc = must && audit_is_failing(admin->o.audit) ? RC_IO : write_record(door, x, route, name, who);
    if (rc == RC_OK)
        rc = audit_append(admin->audit, admin->record.data, admin->record.len, recorded_cb, a);
    if (rc == RC_OK) {
        http_exchange_set(x, a, abort_cb);
        return;
    }
    free(a);
    if (must)
        refuse(x);
    else
        carry_out(door, x, route, name, who);
}

void admin_record_refusal(struct admin *a, struct http_exchange *x, const struct auth_refusal *why, const char *key)
{
    const struct record_refused r = {.at = clock_wall(a->o.clock),
                                     .door = "admin",
                                     .code = auth_code_name(why->code),
                                     .key = key,
                                     .peer = http_exchange_peer(x)};

    if (!a->audit || !audit_login_allowed(a->o.audit) || record_refused(&a->record, &r) != RC_OK)
        return;
    if (audit_append(a->audit, a->record.data, a->record.len, NULL, NULL) != RC_OK)
        log_warn(a->o.log, "audit", "a refused login is not recorded", LOG_S("peer", http_exchange_peer(x)));
}

static void write_head(struct json_writer *w, const struct audit_head *h)
{
    struct strbuf head;

    strbuf_init(&head, 2048);
    if (h->seq && audit_head_write(h, &head) == RC_OK)
        json_raw(w, "head", head.data);
    else
        json_null(w, "head");
    strbuf_fini(&head);
}

void admin_get_audit(const struct admin_call *c)
{
    const struct audit *audit = c->admin->o.audit;
    char error[256], print[80];
    struct strbuf body;

    if (!audit) {
        admin_reply_error(c->x, 404, "audit_off", "the configuration says audit: off, or ledger: off");
        return;
    }
    const struct audit_stats s = audit_stats(audit);
    const struct audit_head h = audit_newest_head(audit);
    strbuf_init(&body, ADMIN_ANSWER_MAX);
    struct json_writer w = json_write_begin(&body);
    json_open(&w, NULL, '{');
    json_uint(&w, "records", s.records);
    json_uint(&w, "seals", s.groups);
    json_int(&w, "queued", s.queued);
    json_uint(&w, "failures", s.failures);
    json_uint(&w, "lost", s.lost);
    json_uint(&w, "logins_not_written", s.logins_not_written);
    json_bool(&w, "failing", s.failing);
    json_string(&w, "last_error", audit_last_error(audit, error, sizeof error));
    json_string(&w, "fingerprint", audit_keys_fingerprint(audit_keys_of(audit), print));
    write_head(&w, &h);
    json_close(&w, '}');
    admin_reply_json(c->x, 200, &w);
}
