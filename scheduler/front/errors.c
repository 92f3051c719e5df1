#include "scheduler/front/errors.h"

#include <stdarg.h>
#include <string.h>

#include "base/json.h"

struct row {
    int status;
    const char *type, *name; /* name: the object's `code`, or NULL for null */
    const char *label;       /* for ledger and metrics when name is NULL */
    int retry_after_s;       /* 0: no header */
    const char *text;
};

static const struct row rows[API_CODES] = {
    [API_INVALID_BODY] = {400, "invalid_request_error", NULL, "invalid_request", 0, "the request is not valid"},
    [API_UNAUTHORIZED] = {401, "invalid_request_error", "invalid_api_key", NULL, 0,
                          "no valid API key; send it as 'Authorization: Bearer KEY'"},
    [API_NOT_FOUND] = {404, "invalid_request_error", NULL, "not_found", 0, "there is no such endpoint"},
    [API_METHOD] = {405, "invalid_request_error", "method_not_allowed", NULL, 0,
                    "this endpoint does not take this method"},
    [API_MODEL_NOT_FOUND] = {404, "invalid_request_error", "model_not_found", NULL, 0,
                             "no node serves this model; GET /v1/models lists what is served"},
    [API_QUEUE_FULL] = {429, "rate_limit_error", "queue_full", NULL, 1,
                        "too many requests are waiting already; try again shortly"},
    [API_NO_CAPACITY] = {503, "overloaded_error", "no_capacity", NULL, 1,
                         "every node that serves this model is busy or failing; try again shortly"},
    [API_NO_LOCAL_CAPACITY] =
        {503, "overloaded_error", "no_local_capacity", NULL, 5,
         "this key may only use nodes on the premises, and none of them can answer for this model"},
    [API_LEDGER] = {503, "server_error", "ledger_unavailable", NULL, 2,
                    "requests cannot be recorded at the moment; try again shortly"},
    [API_DRAINING] = {503, "overloaded_error", "draining", NULL, 1, "this scheduler is shutting down; try again"},
    [API_UPSTREAM] = {502, "server_error", "upstream_error", NULL, 1, "the node that answered has failed"},
    [API_UPSTREAM_BUSY] = {429, "rate_limit_error", "upstream_busy", NULL, 2,
                           "every node that serves this model refuses for load; try again shortly"},
    [API_UPSTREAM_TIMEOUT] = {504, "server_error", "upstream_timeout", NULL, 1, "no node answered in time"},
    [API_INTERNAL] = {500, "server_error", "internal_error", NULL, 1, "the scheduler has failed"},
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

void api_error_reply(struct http_exchange *x, const struct api_error *e, const char *request_id, const char *node,
                     const char *allow)
{
    const struct row *row = &rows[e->code];
    struct http_header headers[6];
    char retry_after[16];
    struct strbuf body;
    int n = 0;
    strbuf_init(&body, 16384);
    headers[n++] = (struct http_header){"Content-Type", "application/json"};
    headers[n++] = (struct http_header){"x-request-id", request_id};
    if (node)
        headers[n++] = (struct http_header){"x-spillway-node", node};
    if (row->retry_after_s) {
        snprintf(retry_after, sizeof retry_after, "%d", row->retry_after_s);
        headers[n++] = (struct http_header){"Retry-After", retry_after};
    }
    if (e->code == API_UNAUTHORIZED)
        headers[n++] = (struct http_header){"WWW-Authenticate", "Bearer error=\"invalid_token\""};
    if (allow)
        headers[n++] = (struct http_header){"Allow", allow};
    enum rc rc = api_error_write(e, &body);
    SPW_ASSERT(rc == RC_OK); /* every text in it is bounded well below the buffer's maximum */
    http_reply(x, api_error_status(e), headers, n, body.data, body.len);
    strbuf_fini(&body);
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
