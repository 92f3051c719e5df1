/* Engines that join: who is here, tokens, revocations. */
#include "scheduler/admin/admin_internal.h"

#include <string.h>

#include "base/text.h"
#include "scheduler/join/join.h"

#define TTL_S_MAX 2592000

static bool there_is_one(const struct admin_call *c)
{
    if (!c->admin->o.join)
        admin_reply_error(c->x, 404, "not_found", "no engine can join: join.listen is not set");
    return c->admin->o.join != NULL;
}

static void write_joined(const struct join_view *v, void *arg)
{
    struct json_writer *w = arg;
    const struct node_beat *b = v->beat;
    char buf[64];
    json_open(w, NULL, '{');
    json_string(w, "name", v->name);
    json_string(w, "state", join_state_name(v->state));
    json_string(w, "address", v->address);
    json_string(w, "version", v->version);
    json_int(w, "heard_ms", v->heard_ms);
    json_string(w, "until", wall_format((struct wall){v->until_s * NS_PER_S}, buf, sizeof buf));
    json_string(w, "order", v->order[0] ? v->order : NULL);
    json_string(w, "model", b->model);
    json_string(w, "sleep", node_sleep_name(b->sleep));
    json_bool(w, "ready", b->ready);
    json_bool(w, "draining", b->draining);
    json_int(w, "running", b->running);
    json_int(w, "queue", b->queue);
    json_int(w, "kv_free_tokens", b->kv_free_tokens);
    snprintf(buf, sizeof buf, "%.1f", b->tokens_per_s);
    json_raw(w, "tokens_per_s", buf);
    snprintf(buf, sizeof buf, "%.3f", (double)b->milliwatts / 1000);
    json_raw(w, "watts", b->watts_are == NODE_WATTS_UNKNOWN ? "null" : buf);
    json_string(w, "watts_are", node_watts_name(b->watts_are));
    snprintf(buf, sizeof buf, "%.3f", (double)b->millijoules / 1000);
    json_raw(w, "joules", b->watts_are == NODE_WATTS_UNKNOWN ? "null" : buf);
    json_string(w, "numerics", b->card.numerics[0] ? b->card.numerics : NULL);
    json_int(w, "restarts", b->restarts);
    json_close(w, '}');
}

void admin_get_joined(const struct admin_call *c)
{
    struct strbuf out;
    if (!there_is_one(c))
        return;
    strbuf_init(&out, ADMIN_ANSWER_MAX);
    struct json_writer w = json_write_begin(&out);
    json_open(&w, NULL, '{');
    json_string(&w, "url", join_url(c->admin->o.join));
    json_open(&w, "joined", '[');
    join_each(c->admin->o.join, write_joined, &w);
    json_close(&w, ']');
    json_close(&w, '}');
    admin_reply_json(c->x, 200, &w);
}

static void make_token(const struct admin_call *c, enum token_kind kind)
{
    const char *ttl = http_request_query(c->x, "ttl_s");
    char token[TOKEN_TEXT_MAX];
    int64_t ttl_s = 0;
    struct strbuf out;
    struct error e;
    if (!there_is_one(c))
        return;
    if (ttl && text_parse_int(ttl, 1, TTL_S_MAX, &ttl_s) != RC_OK) {
        admin_reply_error(c->x, 400, "invalid_request", "ttl_s: seconds, 1 to %d", TTL_S_MAX);
        return;
    }
    if (join_token_new(c->admin->o.join, kind, c->name, ttl_s * 1000, token, &e) != RC_OK) {
        admin_refuse(c, &e);
        return;
    }
    log_info(c->admin->o.log, "admin", "a join token was made", LOG_S("node", c->name), LOG_S("who", c->who));
    strbuf_init(&out, ADMIN_ANSWER_MAX);
    struct json_writer w = json_write_begin(&out);
    json_open(&w, NULL, '{');
    json_string(&w, "name", c->name);
    json_string(&w, "url", join_url(c->admin->o.join));
    json_string(&w, "token", token);
    json_close(&w, '}');
    admin_reply_json(c->x, 200, &w);
    explicit_bzero(token, sizeof token);
}

void admin_token_node(const struct admin_call *c)
{
    make_token(c, TOKEN_NODE);
}

void admin_token_pool(const struct admin_call *c)
{
    make_token(c, TOKEN_POOL);
}

void admin_revoke_node(const struct admin_call *c)
{
    struct strbuf out;
    struct error e;
    if (!there_is_one(c))
        return;
    if (join_revoke(c->admin->o.join, c->name, &e) != RC_OK) {
        admin_refuse(c, &e);
        return;
    }
    strbuf_init(&out, ADMIN_ANSWER_MAX);
    struct json_writer w = json_write_begin(&out);
    json_open(&w, NULL, '{');
    json_string(&w, "name", c->name);
    json_string(&w, "ordered", "revoke");
    json_close(&w, '}');
    admin_reply_json(c->x, 200, &w);
}
