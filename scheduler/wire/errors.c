#include "scheduler/wire/errors.h"

#include <stdarg.h>
#include <string.h>

#include "base/json.h"

static const struct api_error_kind rows[API_CODES] = {
    [API_INVALID_BODY] =
        {.type = "invalid_request_error",
         .label = "invalid_request",
         .status = 400,
         .text = "the request is not valid",
         .when = "The body is not JSON, or a field or header that Spillway reads has a wrong value; `param` names it.",
         .remedy = "Change what the message names."},
    [API_UNAUTHORIZED] =
        {.type = "invalid_request_error",
         .name = "invalid_api_key",
         .status = 401,
         .text = "no valid API key; send it as 'Authorization: Bearer KEY'",
         .when = "There is no credential, or it is unknown, expired or revoked. `WWW-Authenticate` says which.",
         .remedy = "Send a valid key or token as `Authorization: Bearer ...`."},
    [API_FORBIDDEN] =
        {.type = "invalid_request_error",
         .name = "permission_denied",
         .status = 403,
         .text = "this credential does not open this endpoint",
         .when =
             "The credential is genuine, but lacks the scope, comes from a network that it may not be used from, or "
             "lacks a claim that its issuer must give.",
         .remedy = "Ask the operator for another key, scope or network."},
    [API_MODEL_NOT_ALLOWED] = {.type = "invalid_request_error",
                               .name = "model_not_allowed",
                               .status = 403,
                               .text = "this credential may not use this model; GET /v1/models lists what it may",
                               .when = "The model exists, and the key's list of models does not have it.",
                               .remedy = "Use a model of `GET /v1/models`."},
    [API_MAX_CHARGE] =
        {.type = "invalid_request_error",
         .name = "max_charge_too_low",
         .status = 402,
         .text = "x-spillway-max-charge-usd is too low for this prompt on every node that could answer it",
         .when = "`x-spillway-max-charge-usd` does not pay for the prompt, reckoned at its most, and one token of an "
                 "answer, on any node that could take the request.",
         .remedy = "Raise the bound, shorten the prompt, or ask for a cheaper model."},
    [API_REPEAT_OTHER] =
        {.type = "invalid_request_error",
         .name = "idempotency_key_reused",
         .status = 422,
         .text = "this Idempotency-Key was sent with another request before; take a new key for a new request",
         .when =
             "The tenant has used the `Idempotency-Key` in the last minutes (`idempotency.keep`), with another body, "
             "on another endpoint, or with a credential that is bound to the premises where this one is not.",
         .remedy = "A key means one request: take a new one."},
    [API_REPEAT_SPENT] =
        {.type = "invalid_request_error",
         .name = "idempotency_repeats_spent",
         .status = 409,
         .text = "the answer under this Idempotency-Key is no longer there, and was computed again as often as may be",
         .when =
             "The answer was too large to be kept, had to make room for others, or was lost by a restart. It was paid "
             "for, so it is computed again free of charge, but not more than three times.",
         .remedy = "Send the request with a new key; it is a new request then, and charged."},
    [API_REPEAT_BUSY] =
        {.type = "rate_limit_error",
         .name = "idempotency_busy",
         .status = 429,
         .retry_after_s = 1,
         .text = "the answer under this Idempotency-Key cannot be waited for; try again shortly",
         .when =
             "The first request under the key is being answered and too many wait for it already, it was too large to "
             "be shared, or there are more keys than `idempotency.keys`.",
         .remedy = "Try again with the same key."},
    [API_AUTH_UNAVAILABLE] = {.type = "server_error",
                              .name = "auth_unavailable",
                              .status = 503,
                              .retry_after_s = 1,
                              .text = "the token cannot be verified at the moment; try again shortly",
                              .when = "The public keys of the token's issuer cannot be fetched.",
                              .remedy = "Try again; if it stays, the operator looks at the issuer's address."},
    [API_AUTH_TOO_MANY] =
        {.type = "rate_limit_error",
         .name = "too_many_bad_tokens",
         .status = 429,
         .retry_after_s = 1,
         .text = "too many tokens with a bad signature from this address",
         .when = "Tokens whose signature is not their issuer's came from this address again and again; no further "
                 "signature from there is checked for a while. Tokens that were let in before still are.",
         .remedy = "Wait as long as `Retry-After` says; find out who sends such tokens."},
    [API_INSUFFICIENT_QUOTA] =
        {.type = "insufficient_quota",
         .name = "insufficient_quota",
         .status = 429,
         .text = "a budget that the request falls under is used up",
         .when = "Prompt and one token of the answer cost more than is left in a budget, also after waiting for "
                 "`budget_wait_ms`. The message names the budget and when it begins anew. Trying again earlier is "
                 "pointless: `x-should-retry: false`.",
         .remedy = "Wait for the new period, or ask whoever keeps the budget for a top-up (`spillway budgets topup`)."},
    [API_BUDGETS_UNAVAILABLE] = {.type = "server_error",
                                 .name = "budgets_unavailable",
                                 .status = 503,
                                 .retry_after_s = 1,
                                 .text = "budgets cannot be asked at the moment; try again shortly",
                                 .when = "Where budgets are counted cannot be reached or written, and no more may be "
                                         "spent than they say.",
                                 .remedy =
                                     "Try again; if it stays, the operator looks at the ledger's disk or at Redis."},
    [API_RATE_LIMITED] =
        {.type = "rate_limit_error",
         .name = "rate_limit_exceeded",
         .status = 429,
         .retry_after_s = 1,
         .text = "the rate limit is reached",
         .when = "A limit of the key, its team, or its tenant's use of the model. `x-ratelimit-*` show them. A request "
                 "that no wait would let through has `x-should-retry: false` instead of `Retry-After`.",
         .remedy = "Wait as long as `Retry-After` says; bound `max_tokens`."},
    [API_NOT_FOUND] = {.type = "invalid_request_error",
                       .label = "not_found",
                       .status = 404,
                       .text = "there is no such endpoint; a client's base URL ends in /v1, and behind it are "
                               "chat/completions, completions, embeddings and models",
                       .when = "The path is none of Spillway's.",
                       .remedy = "Use `/v1/chat/completions`, `/v1/completions`, `/v1/embeddings`, `/v1/models`, "
                                 "`/tokenize` or `/detokenize`."},
    [API_METHOD] = {.type = "invalid_request_error",
                    .name = "method_not_allowed",
                    .status = 405,
                    .text = "this endpoint takes another method",
                    .when = "The path exists, for the method that `Allow` names.",
                    .remedy = "Use that method."},
    [API_MODEL_NOT_FOUND] = {.type = "invalid_request_error",
                             .name = "model_not_found",
                             .status = 404,
                             .text = "no node serves this model; GET /v1/models lists what is served",
                             .when = "The configuration has no such model or alias, or this caller may not know of it.",
                             .remedy = "Use a model of `GET /v1/models`."},
    [API_ENDPOINT_NOT_SERVED] =
        {.type = "invalid_request_error",
         .name = "endpoint_not_served",
         .status = 404,
         .text = "the nodes that serve this model do not have this endpoint for it",
         .when = "`/v1/embeddings`, `/tokenize` or `/detokenize` of a model whose nodes have no such endpoint (they "
                 "answered 404, 405 or 501, or have something else at that path).",
         .remedy = "Use a model that has it; for embeddings the operator of the node may have to switch them on. "
                   "Texts and ids are told by Spillway's engine and by vLLM."},
    [API_QUEUE_FULL] = {.type = "rate_limit_error",
                        .name = "queue_full",
                        .status = 429,
                        .retry_after_s = 1,
                        .text = "too many requests are waiting already; try again shortly",
                        .when = "All nodes for the model are busy, and the waiting room is full.",
                        .remedy = "Wait as long as `Retry-After` says."},
    [API_NO_CAPACITY] =
        {.type = "overloaded_error",
         .name = "no_capacity",
         .status = 503,
         .retry_after_s = 1,
         .text = "every node that serves this model is busy or failing; try again shortly",
         .when = "No node for the model, or for its fallbacks, could take the request in the time it may wait.",
         .remedy = "Wait as long as `Retry-After` says."},
    [API_DEADLINE] =
        {.type = "overloaded_error",
         .name = "deadline_unreachable",
         .status = 503,
         .retry_after_s = 1,
         .text = "the answer would most likely come after x-spillway-deadline; give more time, or try again shortly",
         .when = "The request had to wait for a slot, and would have had to wait too long for an answer before its "
                 "`x-spillway-deadline`.",
         .remedy = "Give a later deadline, or wait as long as `Retry-After` says."},
    [API_NO_LOCAL_CAPACITY] =
        {.type = "overloaded_error",
         .name = "no_local_capacity",
         .status = 503,
         .retry_after_s = 5,
         .text = "this request may only use nodes on the premises, and none of them can answer for this model",
         .when = "The key, issuer or model is `local_only`, and only nodes elsewhere could answer.",
         .remedy = "Wait as long as `Retry-After` says, or use another model."},
    [API_LEDGER] = {.type = "server_error",
                    .name = "ledger_unavailable",
                    .status = 503,
                    .retry_after_s = 2,
                    .text = "requests cannot be recorded at the moment; try again shortly",
                    .when = "The ledger or the audit cannot be written: a full or broken disk.",
                    .remedy = "Try again; the operator has an alert."},
    [API_DRAINING] = {.type = "overloaded_error",
                      .name = "draining",
                      .status = 503,
                      .retry_after_s = 1,
                      .text = "this scheduler is shutting down; try again",
                      .when = "The scheduler was told to end.",
                      .remedy = "Try again: another instance, or the restarted one, answers."},
    [API_UPSTREAM] = {.type = "server_error",
                      .name = "upstream_error",
                      .status = 502,
                      .retry_after_s = 1,
                      .text = "the node that answered has failed",
                      .when = "Nodes failed, and no other was left to try or allowed to.",
                      .remedy = "Try again. In the middle of a stream: what came is all there is."},
    [API_UPSTREAM_BUSY] = {.type = "rate_limit_error",
                           .name = "upstream_busy",
                           .status = 429,
                           .retry_after_s = 2,
                           .text = "every node that serves this model refuses for load; try again shortly",
                           .when = "Every node that could answer refused for load (429 or 503).",
                           .remedy = "Wait as long as `Retry-After` says."},
    [API_UPSTREAM_TIMEOUT] =
        {.type = "server_error",
         .name = "upstream_timeout",
         .status = 504,
         .retry_after_s = 1,
         .text = "no node answered in time",
         .when = "A node was silent for longer than `routing.first_byte`, `routing.idle` or `routing.token` allows.",
         .remedy = "Try again; bound `max_tokens`, or stream."},
    [API_POISON] = {.type = "server_error",
                    .name = "poison_request",
                    .status = 500,
                    .text = "nodes that computed this request have died again and again; it is not tried any more",
                    .when = "Nodes died one after the other while they computed this very request.",
                    .remedy = "Do not send it again; tell the operator the request id."},
    [API_INTERNAL] = {.type = "server_error",
                      .name = "internal_error",
                      .status = 500,
                      .retry_after_s = 1,
                      .text = "the scheduler has failed",
                      .when = "A fault of Spillway, or an answer too large to be held.",
                      .remedy = "Try again once; tell the operator the request id."},
};

const struct api_error_kind *api_error_kind(enum api_code code)
{
    SPW_ASSERT((unsigned)code < API_CODES);
    return &rows[code];
}

void api_error_set(struct api_error *e, enum api_code code, const char *param, const char *format, ...)
{
    memset(e, 0, sizeof(*e));
    e->code = code;
    e->param = param;
    va_list args;
    va_start(args, format);
    vsnprintf(e->message, sizeof e->message, format, args);
    va_end(args);
}

int api_error_status(const struct api_error *e)
{
    return e->status ? e->status : rows[e->code].status;
}

const char *api_error_name(const struct api_error *e)
{
    const struct api_error_kind *row = &rows[e->code];
    if (e->status) /* a node's own words are not a bounded set */
        return "upstream_rejected";
    return row->name ? row->name : row->label;
}

static enum rc put_member(struct strbuf *out, const char *key, const char *value)
{
    enum rc rc = strbuf_printf(out, "\"%s\":", key);
    if (rc != RC_OK)
        return rc;
    return value ? json_append_string(out, value, strlen(value)) : strbuf_puts(out, "null");
}

enum rc api_error_write(const struct api_error *e, struct strbuf *out)
{
    const struct api_error_kind *row = &rows[e->code];
    const char *name = e->status ? (e->name[0] ? e->name : NULL) : row->name;
    enum rc rc = strbuf_puts(out, "{\"error\":{");
    if (rc == RC_OK)
        rc = put_member(out, "message", e->message[0] ? e->message : row->text);
    if (rc == RC_OK)
        rc = strbuf_puts(out, ",");
    if (rc == RC_OK)
        rc = put_member(out, "type", e->type[0] ? e->type : row->type);
    if (rc == RC_OK)
        rc = strbuf_puts(out, ",");
    if (rc == RC_OK)
        rc = put_member(out, "param", e->field[0] ? e->field : e->param);
    if (rc == RC_OK)
        rc = strbuf_puts(out, ",");
    if (rc == RC_OK)
        rc = put_member(out, "code", name);
    return rc == RC_OK ? strbuf_puts(out, "}}") : rc;
}

enum rc api_error_write_event(const struct api_error *e, struct strbuf *out)
{
    enum rc rc = strbuf_puts(out, "data: ");
    if (rc == RC_OK)
        rc = api_error_write(e, out);
    return rc == RC_OK ? strbuf_puts(out, "\n\n") : rc;
}

void api_error_reply_with(struct http_exchange *x, const struct api_error *e, const char *request_id,
                          const struct http_header *more, int n_more)
{
    struct http_header headers[3 + API_HEADERS_MAX];
    int retry_after_s = e->retry_after_s ? e->retry_after_s : rows[e->code].retry_after_s;
    char retry_after[16];
    struct strbuf body;
    int n = 0;
    strbuf_init(&body, 16384);
    headers[n++] = (struct http_header){"Content-Type", "application/json"};
    headers[n++] = (struct http_header){"x-request-id", request_id};
    if (retry_after_s > 0) {
        snprintf(retry_after, sizeof retry_after, "%d", retry_after_s);
        headers[n++] = (struct http_header){"Retry-After", retry_after};
    } else if (!e->status) { /* of a node's refusal we cannot tell */
        headers[n++] = (struct http_header){"x-should-retry", "false"};
    }
    SPW_ASSERT(n_more <= API_HEADERS_MAX);
    for (int i = 0; i < n_more; i++)
        headers[n++] = more[i];
    enum rc rc = api_error_write(e, &body);
    SPW_ASSERT(rc == RC_OK); /* every text in it is bounded well below the buffer's maximum */
    http_reply(x, api_error_status(e), headers, n, body.data, body.len);
    strbuf_fini(&body);
}

void api_error_reply(struct http_exchange *x, const struct api_error *e, const char *request_id, const char *node,
                     const char *allow)
{
    struct http_header more[2];
    int n = 0;
    if (node)
        more[n++] = (struct http_header){"x-spillway-node", node};
    if (allow)
        more[n++] = (struct http_header){"Allow", allow};
    api_error_reply_with(x, e, request_id, more, n);
}

static void copy_text(char *to, size_t size, const cJSON *object, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(object, key);
    if (cJSON_IsString(v))
        snprintf(to, size, "%s", v->valuestring);
}

void api_error_from_node(struct api_error *e, int status, const char *body, size_t n)
{
    cJSON *root = NULL;
    api_error_set(e, API_INVALID_BODY, NULL, "the node refused the request with status %d", status);
    e->status = status;
    if (n && json_parse(body, n, 16, &root, NULL) == RC_OK) {
        /* OpenAI nests it, vLLM's older form does not. */
        const cJSON *nested = cJSON_GetObjectItemCaseSensitive(root, "error");
        const cJSON *from = cJSON_IsObject(nested) ? nested : root;
        copy_text(e->message, sizeof e->message, from, "message");
        copy_text(e->type, sizeof e->type, from, "type");
        copy_text(e->name, sizeof e->name, from, "code");
        copy_text(e->field, sizeof e->field, from, "param");
    }
    cJSON_Delete(root);
}
