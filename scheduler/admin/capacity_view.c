/* Capacity over the admin API: who comes and goes, what was planned, and an operator's orders. */
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "scheduler/admin/admin_internal.h"
#include "scheduler/capacity/fleet.h"

#define LAUNCH_MOST 64
#define CHECKS_MAX  ((size_t)256 << 10)

static bool there_is_one(const struct admin_call *c)
{
    if (!c->admin->o.fleet)
        admin_reply_error(c->x, 409, "no_capacity", "this scheduler does not look after capacity");
    return c->admin->o.fleet != NULL;
}

/* ---- looking ----------------------------------------------------------------------------------------------------- */

void admin_write_life(struct json_writer *w, const struct fleet_view *v)
{
    char buf[64];
    json_string(w, "life", life_state_name(v->life));
    json_int(w, "life_ms", v->since_ms);
    json_string(w, "life_reason", v->reason);
    json_string(w, "pool", v->pool[0] ? v->pool : NULL);
    json_bool(w, "pinned", v->pinned);
    if (!v->rented)
        return;
    json_string(w, "source", v->provider);
    json_string(w, "instance", v->id[0] ? v->id : NULL);
    json_string(w, "offer", v->offer[0] ? v->offer : NULL);
    json_string(w, "price_hour_usd", pusd_format(v->price_hour, buf, sizeof buf));
    if (v->launched_s)
        json_string(w, "launched", wall_format((struct wall){v->launched_s * NS_PER_S}, buf, sizeof buf));
    else
        json_null(w, "launched");
}

static void json_rate(struct json_writer *w, const char *key, double v)
{
    char buf[48];
    snprintf(buf, sizeof buf, "%.3f", v);
    json_raw(w, key, buf);
}

static void write_plan(const struct fleet_plan_view *p, void *arg)
{
    struct json_writer *w = arg;
    char buf[64];
    json_open(w, NULL, '{');
    json_string(w, "model", p->model);
    json_rate(w, "need", p->need);
    json_rate(w, "need_now", p->need_now);
    json_rate(w, "ready", p->ready);
    json_rate(w, "coming", p->coming);
    json_rate(w, "uncovered", p->uncovered);
    json_rate(w, "not_worth", p->not_worth);
    json_rate(w, "miss_usd_per_mtok", p->miss_price * 1e6);
    json_string(w, "hour_usd", pusd_format(p->hour, buf, sizeof buf));
    json_string(w, "limited_by", p->by_budget ? "capacity.max_hour" : p->by_nodes ? "capacity.max_nodes" : NULL);
    json_close(w, '}');
}

static void write_source(const struct fleet_source_view *s, void *arg)
{
    struct json_writer *w = arg;
    json_open(w, NULL, '{');
    json_string(w, "name", s->name);
    json_string(w, "type", s->type);
    json_bool(w, "launches", s->caps & PROVIDER_CAN_LAUNCH);
    json_bool(w, "outlives_us", (s->caps & PROVIDER_CAN_LAUNCH) && !(s->caps & PROVIDER_ENDS_WITH_US));
    json_bool(w, "power", s->caps & PROVIDER_CAN_POWER);
    json_bool(w, "swept", s->caps & PROVIDER_IS_CLOUD);
    json_string(w, "last_error", s->last_error[0] ? s->last_error : NULL);
    json_close(w, '}');
}

static void write_counts(struct json_writer *w, const struct fleet_stats *s)
{
    char buf[64];
    json_int(w, "nodes", s->nodes);
    json_string(w, "hour_usd", pusd_format(s->hour, buf, sizeof buf));
    json_uint(w, "launches", s->launches);
    json_uint(w, "launched", s->launched);
    json_open(w, "failures", '{');
    for (int i = 1; i < PROVIDER_FAILURES; i++)
        json_uint(w, provider_failure_name((enum provider_failure)i), s->failures[i]);
    json_close(w, '}');
    json_open(w, "refused", '{');
    for (int i = 1; i < GUARD_VERDICTS; i++)
        json_uint(w, guard_verdict_name((enum guard_verdict)i), s->refused[i]);
    json_close(w, '}');
    json_uint(w, "ended", s->ended);
    json_uint(w, "strays_ended", s->strays);
    json_uint(w, "deadlines", s->deadlines);
    json_uint(w, "orphans", s->orphans);
    json_bool(w, "journal_failing", s->journal.failing);
}

struct bill_question {
    struct admin *admin;
    struct http_exchange *x; /* NULL: its client has left */
};

static void bill_abort_cb(struct http_exchange *x, void *state)
{
    (void)x;
    ((struct bill_question *)state)->x = NULL;
}

static void answer_capacity(struct bill_question *q, enum rc rc, const struct journal_bill *b)
{
    const struct fleet *f = q->admin->o.fleet;
    struct fleet_stats stats;
    struct strbuf out;
    char buf[64];
    strbuf_init(&out, ADMIN_ANSWER_MAX);
    struct json_writer w = json_write_begin(&out);
    fleet_stats(f, &stats);
    json_open(&w, NULL, '{');
    write_counts(&w, &stats);
    json_open(&w, "bill", '{');
    json_string(&w, "paid_usd", rc == RC_OK ? pusd_sum_format(b->paid, buf, sizeof buf) : NULL);
    json_int(&w, "instances", rc == RC_OK ? b->instances : 0);
    json_int(&w, "seconds", rc == RC_OK ? b->seconds : 0);
    json_close(&w, '}');
    json_open(&w, "plans", '[');
    fleet_plans(f, write_plan, &w);
    json_close(&w, ']');
    json_close(&w, '}');
    admin_reply_json(q->x, 200, &w);
}

static void on_bill(enum rc rc, const struct journal_bill *b, void *arg)
{
    struct bill_question *q = arg;
    if (q->x) {
        http_exchange_set(q->x, NULL, NULL);
        answer_capacity(q, rc, b);
    }
    free(q);
}

void admin_get_capacity(const struct admin_call *c)
{
    const char *from = http_request_query(c->x, "from");
    int64_t from_s = 0;
    if (!there_is_one(c))
        return;
    if (from && text_parse_utc(from, &from_s) != RC_OK) {
        admin_reply_error(c->x, 400, "invalid_request", "from: write a UTC time, as in 2027-01-01T12:00:00Z");
        return;
    }
    struct bill_question *q = spw_calloc(1, sizeof *q);
    q->admin = c->admin;
    q->x = c->x;
    http_exchange_set(c->x, q, bill_abort_cb);
    fleet_bill(c->admin->o.fleet, from_s, clock_wall(c->admin->o.clock).ns / NS_PER_S, on_bill, q);
}

void admin_get_providers(const struct admin_call *c)
{
    struct strbuf out;
    if (!there_is_one(c))
        return;
    strbuf_init(&out, ADMIN_ANSWER_MAX);
    struct json_writer w = json_write_begin(&out);
    json_open(&w, NULL, '{');
    json_open(&w, "providers", '[');
    fleet_sources(c->admin->o.fleet, write_source, &w);
    json_close(&w, ']');
    json_close(&w, '}');
    admin_reply_json(c->x, 200, &w);
}

/* ---- checking a provider ----------------------------------------------------------------------------------------- */

struct check {
    struct http_exchange *x; /* NULL: its client has left */
    struct strbuf out;
    struct json_writer w;
    bool ok;
};

static void check_abort_cb(struct http_exchange *x, void *state)
{
    (void)x;
    ((struct check *)state)->x = NULL;
}

static void on_checked(const char *what, bool ok, const char *text, void *arg)
{
    struct check *k = arg;
    k->ok = k->ok && ok;
    json_open(&k->w, NULL, '{');
    json_string(&k->w, "what", what);
    json_bool(&k->w, "ok", ok);
    json_string(&k->w, "text", text);
    json_close(&k->w, '}');
}

static void on_check_end(enum provider_failure failure, const char *text, void *arg)
{
    struct check *k = arg;
    if (failure != PROVIDER_FINE)
        on_checked(provider_failure_name(failure), false, text, k);
    json_close(&k->w, ']');
    json_bool(&k->w, "ok", k->ok);
    json_close(&k->w, '}');
    if (k->x) {
        http_exchange_set(k->x, NULL, NULL);
        admin_reply_json(k->x, 200, &k->w);
    } else {
        strbuf_fini(&k->out);
    }
    free(k);
}

void admin_check_provider(const struct admin_call *c)
{
    struct error e;
    if (!there_is_one(c))
        return;
    struct check *k = spw_calloc(1, sizeof *k);
    k->x = c->x;
    k->ok = true;
    strbuf_init(&k->out, CHECKS_MAX);
    k->w = json_write_begin(&k->out);
    json_open(&k->w, NULL, '{');
    json_string(&k->w, "provider", c->name);
    json_open(&k->w, "checks", '[');
    http_exchange_set(c->x, k, check_abort_cb);
    const enum rc rc = fleet_check(c->admin->o.fleet, c->name, on_checked, on_check_end, k, &e);
    if (rc == RC_OK)
        return;
    if (rc == RC_UNSUPPORTED) {
        on_checked("nothing to check", true, e.message, k);
        on_check_end(PROVIDER_FINE, "", k);
        return;
    }
    http_exchange_set(c->x, NULL, NULL);
    strbuf_fini(&k->out);
    free(k);
    admin_reply_error(c->x, 404, "not_found", "%s", e.message);
}

/* ---- orders ------------------------------------------------------------------------------------------------------ */

static void say_done(const struct admin_call *c, const char *what)
{
    struct strbuf out;
    log_info(c->admin->o.log, "admin", what, LOG_S("name", c->name), LOG_S("key", c->who));
    strbuf_init(&out, 1024);
    struct json_writer w = json_write_begin(&out);
    json_open(&w, NULL, '{');
    json_string(&w, "name", c->name);
    json_string(&w, "ordered", what);
    json_close(&w, '}');
    admin_reply_json(c->x, 202, &w);
}

typedef enum rc order(struct fleet *f, const char *name, struct error *e);
static void give(const struct admin_call *c, order *o, const char *what)
{
    struct error e;
    if (!there_is_one(c))
        return;
    if (o(c->admin->o.fleet, c->name, &e) == RC_OK)
        say_done(c, what);
    else
        admin_refuse(c, &e);
}

void admin_terminate_node(const struct admin_call *c)
{
    give(c, fleet_terminate, "terminate");
}

void admin_sleep_node(const struct admin_call *c)
{
    give(c, fleet_sleep, "sleep");
}

void admin_wake_node(const struct admin_call *c)
{
    give(c, fleet_wake, "wake");
}

void admin_launch(const struct admin_call *c)
{
    const char *text = http_request_query(c->x, "n");
    int64_t n = 1;
    struct error e;
    if (!there_is_one(c))
        return;
    if (text && text_parse_int(text, 1, LAUNCH_MOST, &n) != RC_OK)
        admin_reply_error(c->x, 400, "invalid_request", "n: 1 to %d", LAUNCH_MOST);
    else if (fleet_launch(c->admin->o.fleet, c->name, (int)n, &e) == RC_OK)
        say_done(c, "launch");
    else
        admin_refuse(c, &e);
}

void admin_adopt(const struct admin_call *c)
{
    const char *id = http_request_query(c->x, "instance");
    struct error e;
    if (!there_is_one(c))
        return;
    if (!id || !*id || strlen(id) >= JOURNAL_ID_MAX)
        admin_reply_error(c->x, 400, "invalid_request", "instance: the provider's id of what is to be taken over");
    else if (fleet_adopt(c->admin->o.fleet, c->name, id, &e) == RC_OK)
        say_done(c, "adopt");
    else
        admin_refuse(c, &e);
}

/* A node of a pool is drained to be ended; of others the front says what it does. False: none of a pool. */
bool admin_drain_of_pool(const struct admin_call *c, bool drain)
{
    struct fleet *f = c->admin->o.fleet;
    struct fleet_view v;
    struct error e;
    if (!f || !fleet_get(f, c->name, &v) || !v.rented)
        return false;
    if ((drain ? fleet_drain(f, c->name, &e) : fleet_undrain(f, c->name, &e)) == RC_OK)
        say_done(c, drain ? "drain" : "undrain");
    else
        admin_refuse(c, &e);
    return true;
}
