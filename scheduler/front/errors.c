#include "scheduler/front/errors.h"

#include <stdarg.h>
#include <string.h>

#include "base/json.h"

struct row {
    const char *type, *name; /* name: the object's `code`, or NULL for null */
    const char *label;       /* for ledger and metrics when name is NULL */
    const char *text;
    int status, retry_after_s; /* retry_after_s 0: no header */
};

static const struct row rows[API_CODES] = {
    [API_INVALID_BODY] = {"invalid_request_error", NULL, "invalid_request", "the request is not valid", 400, 0},
    [API_UNAUTHORIZED] = {"invalid_request_error", "invalid_api_key", NULL,
                          "no valid API key; send it as 'Authorization: Bearer KEY'", 401, 0},
    [API_FORBIDDEN] = {"invalid_request_error", "permission_denied", NULL,
                       "this credential does not open this endpoint", 403, 0},
    [API_MODEL_NOT_ALLOWED] = {"invalid_request_error", "model_not_allowed", NULL,
                               "this credential may not use this model; GET /v1/models lists what it may", 403, 0},
    [API_AUTH_UNAVAILABLE] = {"server_error", "auth_unavailable", NULL,
                              "the token cannot be verified at the moment; try again shortly", 503, 1},
    [API_RATE_LIMITED] = {"rate_limit_error", "rate_limit_exceeded", NULL, "the rate limit is reached", 429, 1},
    [API_NOT_FOUND] = {"invalid_request_error", NULL, "not_found", "there is no such endpoint", 404, 0},
    [API_METHOD] = {"invalid_request_error", "method_not_allowed", NULL, "this endpoint does not take this method", 405,
                    0},
    [API_MODEL_NOT_FOUND] = {"invalid_request_error", "model_not_found", NULL,
                             "no node serves this model; GET /v1/models lists what is served", 404, 0},
    [API_QUEUE_FULL] = {"rate_limit_error", "queue_full", NULL,
                        "too many requests are waiting already; try again shortly", 429, 1},
    [API_NO_CAPACITY] = {"overloaded_error", "no_capacity", NULL,
                         "every node that serves this model is busy or failing; try again shortly", 503, 1},
    [API_NO_LOCAL_CAPACITY] =
        {"overloaded_error", "no_local_capacity", NULL,
         "this key may only use nodes on the premises, and none of them can answer for this model", 503, 5},
    [API_LEDGER] = {"server_error", "ledger_unavailable", NULL,
                    "requests cannot be recorded at the moment; try again shortly", 503, 2},
    [API_DRAINING] = {"overloaded_error", "draining", NULL, "this scheduler is shutting down; try again", 503, 1},
    [API_UPSTREAM] = {"server_error", "upstream_error", NULL, "the node that answered has failed", 502, 1},
    [API_UPSTREAM_BUSY] = {"rate_limit_error", "upstream_busy", NULL,
                           "every node that serves this model refuses for load; try again shortly", 429, 2},
    [API_UPSTREAM_TIMEOUT] = {"server_error", "upstream_timeout", NULL, "no node answered in time", 504, 1},
    [API_POISON] = {"server_error", "poison_request", NULL,
                    "nodes that computed this request have died again and again; it is not tried any more", 500, 0},
    [API_INTERNAL] = {"server_error", "internal_error", NULL, "the scheduler has failed", 500, 1},
};

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
    const struct row *row = &rows[e->code];
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
    const struct row *row = &rows[e->code];
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
        rc = put_member(out, "param", e->param);
    if (rc == RC_OK)
        rc = strbuf_puts(out, ",");
    if (rc == RC_OK)
        rc = put_member(out, "code", name);
    return rc == RC_OK ? strbuf_puts(out, "}}") : rc;
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
    }
    cJSON_Delete(root);
}
