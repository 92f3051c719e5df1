/* The routes that answer from memory. */
#include "scheduler/admin/admin_internal.h"

#include <stdlib.h>
#include <string.h>

#include "scheduler/budgets/store.h"

/* --- nodes -------------------------------------------------------------------------------------------------- */

static void write_node_load(struct json_writer *w, const struct front_node *n)
{
    json_int(w, "in_flight", n->in_flight);
    json_int(w, "slots", n->slots);
    json_uint(w, "requests", n->requests);
    json_uint(w, "failures", n->failures);
    if (n->probe_us >= 0)
        json_int(w, "probe_us", n->probe_us);
    else
        json_null(w, "probe_us");
    json_int(w, "pid", n->pid);
    json_int(w, "restarts", n->restarts);
}

struct nodes_writer {
    struct json_writer *w;
    const struct admin *admin;
};

static void write_node(const struct front_node *n, void *arg)
{
    const struct nodes_writer *to = arg;
    struct json_writer *w = to->w;
    struct fleet_view life;
    char buf[64];

    json_open(w, NULL, '{');
    json_string(w, "name", n->name);
    json_string(w, "provider", n->provider);
    json_string(w, "address", n->address);
    json_open(w, "models", '[');
    for (int i = 0; i < n->n_models; i++)
        json_string(w, NULL, n->models[i]);
    json_close(w, ']');
    json_string(w, "state", node_state_name(n->state));
    json_string(w, "reason", n->reason);
    json_string(w, "breaker", n->breaker);
    json_string(w, "since", wall_format(n->state_since, buf, sizeof buf));
    json_bool(w, "draining", n->draining);
    json_bool(w, "local", n->local);
    json_bool(w, "resumes", n->resumes);
    json_string(w, "numerics", n->numerics[0] ? n->numerics : NULL);
    json_int(w, "watts", n->watts);
    json_int(w, "milliwatts", n->milliwatts);
    json_string(w, "watts_are", node_watts_name(n->watts_are));
    json_open(w, "price_usd_per_mtok", '{');
    json_string(w, "input", price_format(n->prices.input, buf, sizeof buf));
    json_string(w, "cached_input", price_format(n->prices.cached_input, buf, sizeof buf));
    json_string(w, "output", price_format(n->prices.output, buf, sizeof buf));
    json_close(w, '}');
    write_node_load(w, n);
    if (to->admin->o.fleet && fleet_get(to->admin->o.fleet, n->name, &life))
        admin_write_life(w, &life);
    json_close(w, '}');
}

/* One that has no place in the table: it is on its way, or its end is. */
static void write_absent(const struct fleet_view *v, void *arg)
{
    const struct nodes_writer *to = arg;
    struct json_writer *w = to->w;
    if (front_has_node(to->admin->o.front, v->name))
        return;
    json_open(w, NULL, '{');
    json_string(w, "name", v->name);
    json_string(w, "provider", v->provider);
    json_string(w, "state", life_state_name(v->life));
    json_string(w, "reason", v->reason);
    json_bool(w, "draining", false);
    admin_write_life(w, v);
    json_close(w, '}');
}

void admin_get_nodes(const struct admin_call *c)
{
    struct strbuf out;

    strbuf_init(&out, ADMIN_ANSWER_MAX);
    struct json_writer w = json_write_begin(&out);
    json_open(&w, NULL, '{');
    json_open(&w, "nodes", '[');
    struct nodes_writer to = {&w, c->admin};
    front_nodes_each(c->admin->o.front, write_node, &to);
    if (c->admin->o.fleet)
        fleet_each(c->admin->o.fleet, write_absent, &to);
    json_close(&w, ']');
    json_close(&w, '}');
    admin_reply_json(c->x, 200, &w);
}

void admin_get_node(const struct admin_call *c)
{
    struct strbuf out;

    strbuf_init(&out, ADMIN_ANSWER_MAX);
    struct json_writer w = json_write_begin(&out);
    struct nodes_writer to = {&w, c->admin};
    struct fleet_view life;
    const struct fleet *fleet = c->admin->o.fleet;
    if (front_node_get(c->admin->o.front, c->name, write_node, &to) == RC_OK) {
        admin_reply_json(c->x, 200, &w);
        return;
    }
    if (fleet && fleet_get(fleet, c->name, &life)) {
        write_absent(&life, &to);
        admin_reply_json(c->x, 200, &w);
        return;
    }
    strbuf_fini(&out);
    admin_reply_error(c->x, 404, "not_found", "there is no node \"%s\"; GET /admin/v1/nodes lists them", c->name);
}

static void set_drain(const struct admin_call *c, enum front_drain_mode mode)
{
    struct error e;

    if (front_node_set_drain(c->admin->o.front, c->name, mode, &e) == RC_OK)
        admin_get_node(c);
    else
        admin_reply_error(c->x, e.code == RC_NOT_FOUND ? 404 : 400,
                          e.code == RC_NOT_FOUND ? "not_found" : "invalid_request", "%s", e.message);
}

void admin_drain_node(const struct admin_call *c)
{
    if (!admin_drain_of_pool(c, true))
        set_drain(c, FRONT_NODE_DRAIN);
}

void admin_undrain_node(const struct admin_call *c)
{
    if (!admin_drain_of_pool(c, false))
        set_drain(c, FRONT_NODE_UNDRAIN);
}

void admin_get_explanation(const struct admin_call *c)
{
    struct strbuf out;
    struct error e;

    strbuf_init(&out, ADMIN_ANSWER_MAX);
    struct json_writer w = json_write_begin(&out);
    if (front_explain(c->admin->o.front, c->name, &w, &e) == RC_OK) {
        admin_reply_json(c->x, 200, &w);
        return;
    }
    strbuf_fini(&out);
    admin_reply_error(c->x, 404, "not_found", "%s", e.message);
}

/* --- the process -------------------------------------------------------------------------------------------- */

static void write_totals(struct json_writer *w, const struct front_totals *t)
{
    char buf[64];

    json_open(w, "requests", '{');
    json_uint(w, "accepted", t->accepted);
    json_uint(w, "ok", t->ok);
    json_uint(w, "cancelled", t->cancelled);
    json_uint(w, "failed", t->failed);
    json_uint(w, "refused", t->refused);
    json_uint(w, "retries", t->retries);
    json_int(w, "running", t->running);
    json_int(w, "waiting", t->waiting);
    json_close(w, '}');
    json_open(w, "tokens", '{');
    json_int(w, "input", t->tokens.input);
    json_int(w, "cached_input", t->tokens.cached_input);
    json_int(w, "output", t->tokens.output);
    json_close(w, '}');
    json_string(w, "charge_usd", pusd_sum_format(t->charge, buf, sizeof buf));
}

static void write_ledger(struct json_writer *w, const struct ledger *l)
{
    struct ledger_stats s = ledger_stats(l);
    char text[256];

    json_open(w, "ledger", '{');
    json_bool(w, "off", s.off);
    json_uint(w, "rows", s.rows);
    json_uint(w, "commits", s.commits);
    json_uint(w, "failed", s.failed);
    json_int(w, "queued", s.queued);
    json_int(w, "last_commit_us", s.last_commit_ns / NS_PER_US);
    json_bool(w, "failing", s.failing);
    json_bool(w, "spooling", s.spooling);
    json_int(w, "spool_bytes", s.spool_bytes);
    json_int(w, "journal_bytes", s.journal_bytes);
    json_string(w, "last_error", ledger_last_error(l, text, sizeof text));
    json_close(w, '}');
}

/* Of budgets that several schedulers share. */
static void write_budget_store(struct json_writer *w, const struct front *f)
{
    struct budget_store_stats s;
    if (!front_budget_store(f, &s))
        return;
    json_open(w, "budget_store", '{');
    json_int(w, "open", s.open);
    json_int(w, "workers", s.ports);
    json_string(w, "reason", s.why);
    json_uint(w, "unsettled", s.unsettled);
    json_uint(w, "refused", s.refused);
    json_uint(w, "leased", s.leased);
    json_uint(w, "timeouts", s.timeouts);
    json_uint(w, "repeated", s.repeated);
    json_uint(w, "buried", s.buried);
    json_uint(w, "rebuilds", s.rebuilds);
    json_uint(w, "unwritten", s.unwritten);
    json_close(w, '}');
}

static void count_ready(const struct front_node *n, void *arg)
{
    *(int *)arg += n->state == NODE_READY && !n->draining;
}

void admin_get_status(const struct admin_call *c)
{
    const struct admin *a = c->admin;
    struct strbuf out;
    const char *why = "";
    char buf[64];
    int ready = 0;

    front_nodes_each(a->o.front, count_ready, &ready);
    bool is_ready = front_is_ready(a->o.front, &why);
    struct front_totals totals = front_totals(a->o.front);
    strbuf_init(&out, ADMIN_ANSWER_MAX);
    struct json_writer w = json_write_begin(&out);
    json_open(&w, NULL, '{');
    json_string(&w, "version", SPILLWAY_VERSION);
    json_string(&w, "started", wall_format(a->started, buf, sizeof buf));
    json_int(&w, "uptime_s", (clock_wall(a->o.clock).ns - a->started.ns) / NS_PER_S);
    json_int(&w, "port", front_port(a->o.front));
    json_bool(&w, "draining", front_is_draining(a->o.front));
    json_bool(&w, "ready", is_ready);
    json_string(&w, "reason", why);
    json_int(&w, "nodes", front_nodes_count(a->o.front));
    json_int(&w, "nodes_ready", ready);
    write_totals(&w, &totals);
    write_ledger(&w, a->o.ledger);
    write_budget_store(&w, a->o.front);
    json_close(&w, '}');
    admin_reply_json(c->x, 200, &w);
}

void admin_get_config(const struct admin_call *c)
{
    struct strbuf out;

    strbuf_init(&out, ADMIN_ANSWER_MAX);
    struct json_writer w = json_write_begin(&out);
    w.rc = config_dump_json(c->admin->config, &out);
    admin_reply_json(c->x, 200, &w);
}

void admin_post_drain(const struct admin_call *c)
{
    struct strbuf out;
    struct admin *a = c->admin;

    strbuf_init(&out, 256);
    struct json_writer w = json_write_begin(&out);
    json_open(&w, NULL, '{');
    json_bool(&w, "draining", true);
    json_close(&w, '}');
    admin_reply_json(c->x, 202, &w); /* before the drain: with nothing to finish it may end this very server */
    a->o.drain(a->o.drain_arg);
}

/* The exchange and the question end together: it is told, or its client leaves and nobody is. */
struct reload_question {
    struct http_exchange *x; /* NULL: the client has left */
};

static void reload_abort_cb(struct http_exchange *x, void *state)
{
    (void)x;
    ((struct reload_question *)state)->x = NULL;
}

static void reload_told_cb(const struct reload_report *r, void *arg)
{
    struct reload_question *q = arg;
    int status = r->rc == RC_OK ? 200 : r->rc == RC_INVALID ? 400 : r->rc == RC_CANCELLED ? 503 : 409;
    struct strbuf body;

    if (q->x) {
        http_exchange_set(q->x, NULL, NULL);
        strbuf_init(&body, r->json_len + 1);
        if (strbuf_append(&body, r->json, r->json_len) == RC_OK)
            admin_reply(q->x, status, "application/json", &body);
        else
            admin_reply_error(q->x, 500, "answer_too_large", "the report is too large");
        strbuf_fini(&body);
    }
    free(q);
}

void admin_post_reload(const struct admin_call *c)
{
    struct reload_question *q;

    if (!c->admin->o.reload) {
        admin_reply_error(c->x, 409, "reload_failed", "this scheduler was not started from a file");
        return;
    }
    q = spw_calloc(1, sizeof *q);
    q->x = c->x;
    if (reload_ask(c->admin->o.reload, reload_told_cb, q) != RC_OK) {
        free(q);
        admin_reply_error(c->x, 503, "busy", "too many reloads are waiting already; try again");
        return;
    }
    http_exchange_set(c->x, q, reload_abort_cb);
}

void admin_get_metrics(const struct admin_call *c)
{
    struct strbuf out;

    if (c->admin->config->metrics_off) {
        admin_reply_error(c->x, 404, "metrics_off", "the configuration says metrics: off");
        return;
    }
    strbuf_init(&out, ADMIN_ANSWER_MAX);
    if (front_metrics_render(c->admin->o.front, &out) == RC_OK)
        admin_reply(c->x, 200, FRONT_METRICS_CONTENT_TYPE, &out);
    else
        admin_reply_error(c->x, 500, "answer_too_large", "the metrics are larger than %zu bytes", ADMIN_ANSWER_MAX);
    strbuf_fini(&out);
}
