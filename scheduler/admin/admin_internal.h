/* What admin.c (doors and dispatch), routes.c (the table) and the handlers share. */
#ifndef SCHEDULER_ADMIN_ADMIN_INTERNAL_H
#define SCHEDULER_ADMIN_ADMIN_INTERNAL_H

#include "base/http_server.h"
#include "base/json.h"
#include "base/json_write.h"
#include "base/worker.h"
#include "scheduler/admin/admin.h"
#include "scheduler/audit/audit.h"

#define ADMIN_NAME_MAX   200 /* of a report's file, the longest; nodes and keys have 64, as the schema has it */
#define ADMIN_ANSWER_MAX ((size_t)16 << 20)
#define ADMIN_ROWS_MAX   10000 /* of the ledger in one answer */

struct admin_door { /* one listener */
    struct admin *admin;
    struct http_server *server;
    bool needs_key;
};
struct admin {
    struct admin_options o;
    struct config *config; /* a reference; what runs on a thread holds its own */
    struct admin_door local, remote;
    struct tls_door *tls; /* of admin.listen; NULL: plain HTTP */
    struct tls_watch *tls_watch;
    struct worker *reader;
    struct audit_port *audit; /* NULL: there is none */
    struct strbuf record;     /* scratch for what the audit is told */
    struct wall started;
    void (*drained)(void *arg); /* see admin_drain() */
    void *drained_arg;
    int draining; /* doors not yet empty */
};

/* One request that was let in, for the length of a handler. */
struct admin_call {
    struct admin *admin;
    struct http_exchange *x;
    const char *name; /* what stood for {name} in the path, percent-decoded; NULL without one */
    const char *who;  /* id of the key; "socket" */
};
typedef void admin_handler(const struct admin_call *c);

struct admin_route {
    const char *method, *path; /* "/admin/v1/nodes/{name}/drain" */
    admin_handler *handler;
    const char *help;
    const char *query;  /* markdown, or NULL */
    const char *answer; /* status and an example */
};
extern const struct admin_route admin_routes[];
extern const int admin_n_routes;

/* The route of a request, and its {name} in `name` (ADMIN_NAME_MAX + 1 bytes). NULL: *allow holds the methods that the
 * path has, or "" when there is no such path. */
const struct admin_route *admin_route_find(const char *method, const char *target, char *name, char *allow,
                                           size_t allow_size);

/* audit_view.c: an action is recorded and then, when that is durable, carried out; not at all if it can't be recorded
 * (unless the configuration says to go on) or the client leaves before. */
void admin_record_action(struct admin_door *door, struct http_exchange *x, const struct admin_route *route,
                         const char *name, const char *who);
void admin_record_refusal(struct admin *a, struct http_exchange *x, const struct auth_refusal *why, const char *key);

/* Answers; the exchange is over afterwards. */
void admin_reply(struct http_exchange *x, int status, const char *content_type, const struct strbuf *body);
void admin_reply_json(struct http_exchange *x, int status, const struct json_writer *w); /* frees w->out's bytes */
void admin_reply_error(struct http_exchange *x, int status, const char *code, const char *format, ...) SPW_PRINTF(4, 5);
void admin_refuse(const struct admin_call *c, const struct error *e); /* by its code */

/* The call's exchange waits for what run(job) does on the reader's thread, then done(rc, job). False: too much waits
 * already; it was told so, and the job is still the caller's. */
bool admin_start(const struct admin_call *c, void (*run)(void *job), void (*done)(enum rc rc, void *job),
                 void (*on_abort)(struct http_exchange *x, void *job), void *job);
/* Seconds since 1970; none (0 or below): null. */
void admin_put_time(struct json_writer *w, const char *key, int64_t at_s);

/* budgets_view.c: RC_INVALID: the object has a member that is none of those (a list that ends with NULL). */
enum rc admin_only_known(const cJSON *body, const char *const *known, struct error *e);

/* handlers.c, ledger_view.c, keys_view.c, budgets_view.c */
admin_handler admin_get_nodes, admin_get_node, admin_drain_node, admin_undrain_node, admin_get_ledger, admin_get_legs,
    admin_get_config, admin_get_status, admin_post_drain, admin_post_reload, admin_get_metrics, admin_get_keys,
    admin_create_key, admin_revoke_key, admin_rotate_key, admin_get_budgets, admin_get_budget_changes, admin_set_budget,
    admin_top_up_budget, admin_get_explanation;
admin_handler admin_get_audit; /* audit_view.c */
/* finance_view.c */
admin_handler admin_get_finance, admin_change_finance, admin_correct_finance;
/* reports_view.c */
admin_handler admin_get_reports, admin_get_report, admin_post_report;
/* join_view.c */
admin_handler admin_get_joined, admin_token_node, admin_token_pool, admin_revoke_node;

/* capacity_view.c */
admin_handler admin_get_capacity, admin_get_providers, admin_check_provider, admin_terminate_node, admin_sleep_node,
    admin_wake_node, admin_launch, admin_adopt;
void admin_write_life(struct json_writer *w, const struct fleet_view *v);
bool admin_drain_of_pool(const struct admin_call *c, bool drain);

#endif
