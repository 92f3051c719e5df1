#include "scheduler/books/ledger_text.h"

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
