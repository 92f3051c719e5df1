/* Records as JSON. */
#include "scheduler/audit/record.h"
#include "base/text.h"

#include <stdlib.h>
#include <string.h>

#include "scheduler/audit/chain.h"

static void text(struct json_writer *w, const char *key, const char *value)
{
    if (value && value[0])
        json_string(w, key, value);
}

static void number(struct json_writer *w, const char *key, int64_t value)
{
    if (value)
        json_int(w, key, value);
}

struct json_writer record_begin(struct strbuf *out, const char *kind, struct wall at)
{
    char time[32];

    strbuf_clear(out);
    struct json_writer w = json_write_begin(out);
    json_open(&w, NULL, '{');
    json_string(&w, "k", kind);
    json_string(&w, "t", wall_format(at, time, sizeof time));
    return w;
}

enum rc record_end(struct json_writer *w)
{
    json_close(w, '}');
    enum rc rc = json_write_end(w);
    return rc == RC_OK && w->out->len > AUDIT_JSON_BYTES_MAX ? RC_FULL : rc;
}

static void write_body(struct json_writer *w, const char *hmac_key, const char *bytes_key, const struct record_body *b)
{
    char hex[65];

    if (!b->known)
        return;
    text_hex(hex, b->hmac, sizeof b->hmac);
    json_string(w, hmac_key, hex);
    json_int(w, bytes_key, b->bytes);
}

static void write_legs(struct json_writer *w, const struct ledger_row *row)
{
    json_open(w, "legs", '[');
    for (int i = 0; i < row->n_legs; i++) {
        const struct ledger_leg *leg = &row->legs[i];
        json_open(w, NULL, '{');
        json_string(w, "node", leg->node);
        text(w, "provider", leg->provider);
        text(w, "model_hash", leg->numerics);
        text(w, "outcome", leg->outcome);
        json_int(w, "out", leg->tokens_output);
        json_close(w, '}');
    }
    json_close(w, ']');
}

static void write_who(struct json_writer *w, const struct ledger_row *row, const char *peer)
{
    text(w, "tenant", row->tenant);
    text(w, "team", row->team);
    text(w, "project", row->project);
    text(w, "user", row->user);
    text(w, "key", row->key_id);
    text(w, "peer", peer);
}

static void write_what(struct json_writer *w, const struct record_request *r)
{
    const struct ledger_row *row = r->row;

    text(w, "model", row->model);
    text(w, "asked", row->asked_model);
    text(w, "node", row->node);
    text(w, "provider", row->provider);
    if (row->n_legs)
        text(w, "model_hash", row->legs[row->n_legs - 1].numerics);
    text(w, "decision", r->why);
    text(w, "policy", r->policy);
    text(w, "class", row->service_class);
    text(w, "cache", row->cache);
    text(w, "idempotency_key", row->idempotency_key);
    number(w, "repeat", row->repeat);
    if (row->streamed)
        json_bool(w, "stream", true);
}

static void write_outcome(struct json_writer *w, const struct ledger_row *row)
{
    char charge[64];

    json_string(w, "outcome", ledger_outcome_name(row->outcome));
    json_int(w, "status", row->http_status);
    text(w, "error", row->error);
    json_int(w, "attempts", row->attempts);
    number(w, "continuations", row->continuations);
    if (row->cross_class)
        json_bool(w, "cross_class", true);
    json_int(w, "in", row->tokens.input);
    number(w, "cached_in", row->tokens.cached_input);
    json_int(w, "out", row->tokens.output);
    json_string(w, "charge_usd", pusd_format(row->charge, charge, sizeof charge));
}

static enum rc write_request(struct strbuf *out, const struct record_request *r, bool legs)
{
    struct json_writer w = record_begin(out, "request", r->row->finished);
    char time[32];

    json_string(&w, "id", r->row->request_id);
    json_string(&w, "accepted", wall_format(r->row->accepted, time, sizeof time));
    if (r->recovered)
        json_string(&w, "recovered", "ledger");
    write_who(&w, r->row, r->peer);
    write_what(&w, r);
    write_outcome(&w, r->row);
    write_body(&w, "request_hmac", "request_bytes", &r->request);
    write_body(&w, "response_hmac", "response_bytes", &r->response);
    if (legs && r->row->n_legs)
        write_legs(&w, r->row);
    return record_end(&w);
}

enum rc record_request(struct strbuf *out, const struct record_request *r)
{
    enum rc rc = write_request(out, r, true);

    return rc == RC_OK ? rc : write_request(out, r, false);
}

enum rc record_admin(struct strbuf *out, const struct record_admin *r)
{
    struct json_writer w = record_begin(out, "admin", r->at);

    text(&w, "method", r->method);
    text(&w, "path", r->path);
    text(&w, "name", r->name);
    text(&w, "query", r->query);
    text(&w, "by", r->by);
    text(&w, "peer", r->peer);
    if (r->body && r->n && r->n <= RECORD_ADMIN_BODY_MAX) {
        char *copy = spw_strndup(r->body, r->n); /* up to a NUL, which no body of JSON has */
        json_string(&w, "body", copy);
        free(copy);
    } else if (r->body && r->n) {
        struct audit_hash h = audit_content(r->body, r->n);
        char hex[AUDIT_HASH_DIGITS + 1];
        text_hex(hex, h.b, sizeof h.b);
        json_string(&w, "body_sha256", hex);
        json_int(&w, "body_bytes", (int64_t)r->n);
    }
    return record_end(&w);
}

enum rc record_refused(struct strbuf *out, const struct record_refused *r)
{
    struct json_writer w = record_begin(out, "refused", r->at);

    text(&w, "door", r->door);
    text(&w, "code", r->code);
    text(&w, "key", r->key);
    text(&w, "peer", r->peer);
    return record_end(&w);
}
