/* Budgets in the admin API: as they stand, what was changed, and changes. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"
#include "scheduler/admin/admin_internal.h"
#include "scheduler/books/ledger_budgets.h"
#include "scheduler/front/budget_desk.h"

#define CHANGES_DEFAULT 20

/* ---- as they stand ----------------------------------------------------------------------------------------------- */

static void put_amount(struct json_writer *w, const char *key, struct pusd a)
{
    char text[64];
    json_string(w, key, a.v == BUDGET_UNLIMITED || a.v < 0 ? NULL : pusd_format(a, text, sizeof text));
}

static void put_budget(struct json_writer *w, const struct budget_known *k, int64_t now_s)
{
    struct budget_limits l = {.hard = k->view.hard, .carry_max = k->rule->limits.carry_max};
    const struct budget_state *s = &k->view.state;
    json_open(w, NULL, '{');
    json_string(w, "name", k->name);
    json_string(w, "period", period_kind_name(k->rule->period.kind));
    admin_put_time(w, "start", k->claim.start_s);
    admin_put_time(w, "reset", k->claim.end_s);
    put_amount(w, "hard_usd", k->view.hard);
    put_amount(w, "soft_usd", k->view.soft);
    put_amount(w, "limit_usd", budget_limit(&l, s));
    put_amount(w, "spent_usd", s->spent);
    put_amount(w, "waste_usd", s->waste);
    put_amount(w, "reserved_usd", s->reserved);
    put_amount(w, "available_usd", budget_available(&l, s));
    put_amount(w, "carried_in_usd", s->carried_in);
    put_amount(w, "topped_up_usd", s->topped_up);
    json_string(w, "level", budget_level_name(budget_level(&l, s, k->view.soft, (struct pusd){1})));
    admin_put_time(w, "exhausted_forecast", budget_known_exhausted_at(k, now_s));
    json_close(w, '}');
}

/* The exchange and the question end together: it is told, or its client leaves and nobody is. */
struct question {
    struct http_exchange *x; /* NULL: the client has left */
    bool inside, told;
};

static void abort_cb(struct http_exchange *x, void *state)
{
    (void)x;
    ((struct question *)state)->x = NULL;
}

static void reply(struct http_exchange *x, enum rc rc, const char *why, const struct budget_known *k, int n)
{
    struct strbuf body;
    if (rc != RC_OK) {
        admin_reply_error(x, 503, "budgets_unavailable", "%s", why ? why : "budgets cannot be asked at the moment");
        return;
    }
    strbuf_init(&body, ADMIN_ANSWER_MAX);
    struct json_writer w = json_write_begin(&body);
    json_open(&w, NULL, '{');
    json_open(&w, "budgets", '[');
    for (int i = 0; i < n; i++)
        put_budget(&w, &k[i], clock_wall(&clock_system).ns / NS_PER_S);
    json_close(&w, ']');
    json_close(&w, '}');
    admin_reply_json(x, 200, &w);
}

static void told_cb(enum rc rc, const char *why, const struct budget_known *k, int n, void *arg)
{
    struct question *q = arg;
    q->told = true;
    if (q->x) {
        http_exchange_set(q->x, NULL, NULL);
        reply(q->x, rc, why, k, n);
    }
    if (!q->inside)
        free(q);
}

/* change NULL: a look. */
static void ask(const struct admin_call *c, const char *name, const struct front_budget_change *change)
{
    struct question *q = spw_calloc(1, sizeof *q);
    struct error e;
    q->x = c->x;
    q->inside = true;
    http_exchange_set(c->x, q, abort_cb);
    enum rc rc = change ? front_budget_change(c->admin->o.front, name, change, told_cb, q, &e)
                        : front_budgets_read(c->admin->o.front, name, told_cb, q, &e);
    q->inside = false;
    if (rc == RC_OK && !q->told)
        return;
    if (rc != RC_OK) {
        http_exchange_set(c->x, NULL, NULL);
        admin_reply_error(c->x, rc == RC_NOT_FOUND ? 404 : 503,
                          rc == RC_NOT_FOUND ? "not_found" : "budgets_unavailable", "%s", e.message);
    }
    free(q);
}

void admin_get_budgets(const struct admin_call *c)
{
    ask(c, http_request_query(c->x, "name"), NULL);
}

/* ---- changes ------------------------------------------------------------------------------------------------------ */

/* "800" or null, of the body; left out: as before. */
static enum rc get_limit(const cJSON *body, const char *key, struct pusd *out, struct error *e)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(body, key);
    struct error why;
    out->v = v ? -1 : BUDGET_KEEP;
    if (!v || cJSON_IsNull(v))
        return RC_OK;
    if (!cJSON_IsString(v))
        return error_set(e, RC_INVALID, "%s: write dollars as text, as in \"800.50\", or null", key);
    if (pusd_parse(v->valuestring, out, &why) != RC_OK)
        return error_set(e, RC_INVALID, "%s: %s", key, why.message);
    return RC_OK;
}

enum rc admin_only_known(const cJSON *body, const char *const *known, struct error *e)
{
    for (const cJSON *m = body->child; m; m = m->next) {
        bool found = false;
        for (int i = 0; known[i]; i++)
            found = found || strcmp(m->string, known[i]) == 0;
        if (!found)
            return error_set(e, RC_INVALID, "%.40s: is not known here", m->string);
    }
    return RC_OK;
}

static enum rc read_body(const struct admin_call *c, cJSON **body, const char *const *known, const char **name,
                         struct error *e)
{
    size_t n;
    const char *text = http_request_body(c->x, &n);
    enum rc rc = json_parse(text, n, 4, body, e);
    if (rc == RC_OK && !cJSON_IsObject(*body))
        rc = error_set(e, RC_INVALID, "the body must be a JSON object");
    if (rc == RC_OK)
        rc = admin_only_known(*body, known, e);
    if (rc == RC_OK)
        rc = json_get_string(*body, "name", name, NULL, e);
    if (rc == RC_OK && !*name)
        rc = error_set(e, RC_INVALID, "name: is missing: which budget?");
    return rc;
}

static void change(const struct admin_call *c, cJSON *body, enum rc rc, const char *name,
                   const struct front_budget_change *what, const struct error *e)
{
    if (rc == RC_OK) {
        log_info(c->admin->o.log, "admin", what->top_up.v > 0 ? "a budget is topped up" : "a budget's limits are set",
                 LOG_S("budget", name), LOG_S("key", c->who));
        ask(c, name, what);
    } else {
        admin_reply_error(c->x, 400, "invalid_request", "%s", e->message);
    }
    cJSON_Delete(body);
}

void admin_set_budget(const struct admin_call *c)
{
    static const char *const known[] = {"name", "hard_usd", "soft_usd", NULL};
    struct front_budget_change what = {.top_up = {0}};
    const char *name = NULL;
    cJSON *body = NULL;
    struct error e;
    enum rc rc = read_body(c, &body, known, &name, &e);
    if (rc == RC_OK)
        rc = get_limit(body, "hard_usd", &what.hard, &e);
    if (rc == RC_OK)
        rc = get_limit(body, "soft_usd", &what.soft, &e);
    if (rc == RC_OK && what.hard.v == BUDGET_KEEP && what.soft.v == BUDGET_KEEP)
        rc = error_set(&e, RC_INVALID, "give hard_usd, soft_usd or both");
    change(c, body, rc, name, &what, &e);
}

void admin_top_up_budget(const struct admin_call *c)
{
    static const char *const known[] = {"name", "amount_usd", NULL};
    struct front_budget_change what = {.top_up = {0}};
    const char *name = NULL;
    cJSON *body = NULL;
    struct error e;
    enum rc rc = read_body(c, &body, known, &name, &e);
    if (rc == RC_OK)
        rc = get_limit(body, "amount_usd", &what.top_up, &e);
    if (rc == RC_OK && what.top_up.v <= 0)
        rc = error_set(&e, RC_INVALID, "amount_usd: give dollars as text, more than 0");
    change(c, body, rc, name, &what, &e);
}

/* ---- what was changed: on the reader's thread ---------------------------------------------------------------------- */

struct job {
    struct http_exchange *x; /* NULL: the client has left */
    struct config *config;
    char name[BUDGET_NAME_BYTES];
    int last;
    struct strbuf body;
    struct json_writer w;
    enum rc rc;
    struct error e;
};

static void put_change(const struct ledger_budget_change *c, void *arg)
{
    struct json_writer *w = arg;
    char at[32];
    json_open(w, NULL, '{');
    json_string(w, "at", wall_format(c->at, at, sizeof at));
    json_string(w, "name", c->name);
    json_string(w, "change", c->change);
    admin_put_time(w, "period_start", c->start_s);
    put_amount(w, "amount_usd", c->amount);
    put_amount(w, "soft_usd", strcmp(c->change, "set") == 0 ? c->soft : (struct pusd){-1});
    json_string(w, "request_id", c->request_id);
    json_close(w, '}');
}

static void run_job(void *arg)
{
    struct job *j = arg;
    json_open(&j->w, NULL, '{');
    json_open(&j->w, "changes", '[');
    j->rc = ledger_read_budget_changes(j->config->ledger_path, j->name[0] ? j->name : NULL, j->last, put_change, &j->w,
                                       &j->e);
    json_close(&j->w, ']');
    json_close(&j->w, '}');
}

static void job_done(enum rc rc, void *arg)
{
    struct job *j = arg;
    if (j->x && rc == RC_OK) {
        http_exchange_set(j->x, NULL, NULL);
        if (j->rc == RC_OK)
            admin_reply_json(j->x, 200, &j->w);
        else
            admin_reply_error(j->x, 500, "ledger_unreadable", "%s", j->e.message);
    }
    strbuf_fini(&j->body);
    config_free(j->config);
    free(j);
}

static void job_abort(struct http_exchange *x, void *state)
{
    (void)x;
    ((struct job *)state)->x = NULL;
}

void admin_get_budget_changes(const struct admin_call *c)
{
    const char *text = http_request_query(c->x, "last"), *name;
    int64_t last = CHANGES_DEFAULT;
    if (text && text_parse_int(text, 1, ADMIN_ROWS_MAX, &last) != RC_OK) {
        admin_reply_error(c->x, 400, "invalid_request", "last: \"%.40s\" is not a number from 1 to %d", text,
                          ADMIN_ROWS_MAX);
        return;
    }
    if (ledger_stats(c->admin->o.ledger).off) {
        admin_reply_error(c->x, 404, "ledger_off", "the configuration says ledger: off");
        return;
    }
    struct job *j = spw_calloc(1, sizeof *j);
    j->x = c->x;
    j->config = config_ref(c->admin->config);
    j->last = (int)last;
    name = http_request_query(c->x, "name");
    snprintf(j->name, sizeof j->name, "%s", name ? name : "");
    strbuf_init(&j->body, ADMIN_ANSWER_MAX);
    j->w = json_write_begin(&j->body);
    if (!admin_start(c, run_job, job_done, job_abort, j)) {
        strbuf_fini(&j->body);
        config_free(j->config);
        free(j);
    }
}
