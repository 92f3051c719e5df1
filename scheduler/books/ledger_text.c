#include "scheduler/books/ledger_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

static void write_time(struct json_writer *w, const char *key, struct wall t)
{
    char buf[40];

    if (t.ns)
        json_string(w, key, wall_format(t, buf, sizeof buf));
    else
        json_null(w, key);
}

static void write_ms(struct json_writer *w, const char *key, struct wall from, struct wall to)
{
    if (from.ns && to.ns)
        json_int(w, key, (to.ns - from.ns) / NS_PER_MS);
    else
        json_null(w, key);
}

static void write_known(struct json_writer *w, const char *key, int64_t v, bool known)
{
    if (known)
        json_int(w, key, v);
    else
        json_null(w, key);
}

static void write_prices(struct json_writer *w, const struct token_prices *p)
{
    char buf[64];

    json_open(w, "price_usd_per_mtok", '{');
    json_string(w, "input", price_format(p->input, buf, sizeof buf));
    json_string(w, "cached_input", price_format(p->cached_input, buf, sizeof buf));
    json_string(w, "output", price_format(p->output, buf, sizeof buf));
    json_close(w, '}');
}

void ledger_row_json(struct json_writer *w, const struct ledger_row *r)
{
    char buf[64];

    json_open(w, NULL, '{');
    json_string(w, "request_id", r->request_id);
    write_time(w, "accepted", r->accepted);
    write_time(w, "finished", r->finished);
    write_ms(w, "first_byte_ms", r->accepted, r->first_byte);
    write_ms(w, "total_ms", r->accepted, r->finished);
    json_string(w, "tenant", r->tenant);
    json_string(w, "team", r->team);
    json_string(w, "project", r->project);
    json_string(w, "user", r->user);
    json_string(w, "key_id", r->key_id);
    json_string(w, "tags", r->tags);
    json_string(w, "model", r->model);
    json_string(w, "asked_model", r->asked_model);
    json_string(w, "service_class", r->service_class);
    json_string(w, "node", r->node);
    json_string(w, "provider", r->provider);
    json_string(w, "market", r->market);
    json_string(w, "failure_domain", r->domain);
    write_known(w, "busy_us", r->busy_us, r->busy_us >= 0);
    write_known(w, "millijoules", r->millijoules, r->millijoules >= 0);
    json_bool(w, "streamed", r->streamed);
    json_int(w, "attempts", r->attempts);
    json_int(w, "continuations", r->continuations);
    json_bool(w, "cross_class", r->cross_class);
    json_int(w, "tokens_input", r->tokens.input);
    json_int(w, "tokens_cached_input", r->tokens.cached_input);
    json_int(w, "tokens_output", r->tokens.output);
    json_int(w, "tokens_reasoning", r->tokens_reasoning);
    json_string(w, "usage_source", r->usage_source);
    write_prices(w, &r->prices);
    json_int(w, "price_version", r->price_version);
    json_string(w, "reserved_usd", pusd_format(r->reserved, buf, sizeof buf));
    json_string(w, "charge_usd", pusd_format(r->charge, buf, sizeof buf));
    json_string(w, "cache", r->cache);
    json_string(w, "saved_usd", pusd_format(r->saved, buf, sizeof buf));
    json_string(w, "idempotency_key", r->idempotency_key);
    json_int(w, "repeat", r->repeat);
    json_string(w, "outcome", ledger_outcome_name(r->outcome));
    json_int(w, "http_status", r->http_status);
    json_string(w, "error", r->error);
    json_close(w, '}');
}

void ledger_leg_json(struct json_writer *w, const struct ledger_leg *leg)
{
    json_open(w, NULL, '{');
    json_int(w, "leg", leg->leg);
    json_string(w, "node", leg->node);
    json_string(w, "provider", leg->provider[0] ? leg->provider : NULL);
    json_string(w, "outcome", leg->outcome);
    json_int(w, "tokens_input", leg->tokens_input);
    json_int(w, "tokens_cached_input", leg->tokens_cached_input);
    json_int(w, "tokens_output", leg->tokens_output);
    json_string(w, "market", leg->market);
    json_string(w, "failure_domain", leg->domain[0] ? leg->domain : NULL);
    struct ledger_use sum = {0};
    for (int i = 0; i < leg->n_uses; i++) {
        sum.busy_us += leg->uses[i].busy_us;
        sum.millijoules = leg->uses[i].millijoules < 0 ? -1 : sum.millijoules + leg->uses[i].millijoules;
    }
    write_known(w, "busy_us", sum.busy_us, leg->n_uses > 0);
    write_known(w, "millijoules", sum.millijoules, leg->n_uses > 0 && sum.millijoules >= 0);
    write_time(w, "started", leg->started);
    write_ms(w, "total_ms", leg->started, leg->ended);
    json_string(w, "numerics", leg->numerics[0] ? leg->numerics : NULL);
    json_close(w, '}');
}

/* ---- CSV ------------------------------------------------------------------------------------------------------- */

struct csv {
    struct strbuf *out;
    enum rc rc;
    int n;
};

static void put(struct csv *c, const char *text, size_t n)
{
    if (c->rc == RC_OK)
        c->rc = strbuf_append(c->out, text, n);
}

static void begin_field(struct csv *c)
{
    if (c->n++)
        put(c, ",", 1);
}

static void csv_text(struct csv *c, const char *text)
{
    begin_field(c);
    if (!text)
        return;
    const bool formula = text[0] && strchr("=+-@\t\r", text[0]);
    const bool quoted = formula || strpbrk(text, ",\"\r\n");
    if (quoted)
        put(c, formula ? "\"'" : "\"", formula ? 2 : 1);
    for (const char *p = text; *p; p++) {
        if (*p == '"')
            put(c, "\"", 1);
        put(c, p, 1);
    }
    if (quoted)
        put(c, "\"", 1);
}

static void csv_plain(struct csv *c, const char *text)
{
    begin_field(c);
    put(c, text, strlen(text));
}

static void csv_int(struct csv *c, int64_t v, bool known)
{
    char buf[32] = "";
    if (known)
        snprintf(buf, sizeof buf, "%" PRId64, v);
    csv_plain(c, buf);
}

static void csv_time(struct csv *c, struct wall t)
{
    char buf[40];
    csv_plain(c, t.ns ? wall_format(t, buf, sizeof buf) : "");
}

const char *ledger_csv_head(void)
{
    return "request_id,accepted,first_byte,finished,tenant,team,project,user,key_id,tags,model,asked_model,service_"
           "class,"
           "node,provider,market,failure_domain,streamed,attempts,continuations,cross_class,tokens_input,"
           "tokens_cached_input,tokens_output,tokens_reasoning,usage_source,price_input_usd_per_mtok,"
           "price_cached_input_usd_per_mtok,price_output_usd_per_mtok,price_version,reserved_usd,charge_usd,cache,"
           "saved_usd,"
           "busy_us,millijoules,idempotency_key,repeat,outcome,http_status,error\r\n";
}

static void csv_whose(struct csv *c, const struct ledger_row *r)
{
    const char *const texts[] = {r->tenant,   r->team,   r->project,     r->user,          r->key_id,
                                 r->tags,     r->model,  r->asked_model, r->service_class, r->node,
                                 r->provider, r->market, r->domain};
    csv_text(c, r->request_id);
    csv_time(c, r->accepted);
    csv_time(c, r->first_byte);
    csv_time(c, r->finished);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        csv_text(c, texts[i]);
}

static void csv_money(struct csv *c, const struct ledger_row *r)
{
    char buf[64];
    csv_plain(c, price_format(r->prices.input, buf, sizeof buf));
    csv_plain(c, price_format(r->prices.cached_input, buf, sizeof buf));
    csv_plain(c, price_format(r->prices.output, buf, sizeof buf));
    csv_int(c, r->price_version, true);
    csv_plain(c, pusd_format(r->reserved, buf, sizeof buf));
    csv_plain(c, pusd_format(r->charge, buf, sizeof buf));
    csv_text(c, r->cache);
    csv_plain(c, pusd_format(r->saved, buf, sizeof buf));
}

enum rc ledger_row_csv(struct strbuf *out, const struct ledger_row *r)
{
    struct csv c = {out, RC_OK, 0};
    const int64_t counts[] = {r->attempts,        r->continuations,       r->cross_class,
                              r->tokens.input,    r->tokens.cached_input, r->tokens.output,
                              r->tokens_reasoning};
    csv_whose(&c, r);
    csv_plain(&c, r->streamed ? "true" : "false");
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        if (i == 2)
            csv_plain(&c, r->cross_class ? "true" : "false");
        else
            csv_int(&c, counts[i], true);
    csv_text(&c, r->usage_source);
    csv_money(&c, r);
    csv_int(&c, r->busy_us, r->busy_us >= 0);
    csv_int(&c, r->millijoules, r->millijoules >= 0);
    csv_text(&c, r->idempotency_key);
    csv_int(&c, r->repeat, true);
    csv_plain(&c, ledger_outcome_name(r->outcome));
    csv_int(&c, r->http_status, true);
    csv_text(&c, r->error);
    return c.rc;
}
