#include "scheduler/front/request.h"

#include <string.h>

#include "base/json.h"

#define BYTES_PER_TOKEN         4   /* of prompts, until a learned figure replaces it */
#define OUTPUT_TOKENS_ASSUMED   256 /* for a request that names no bound, or a larger one */
#define OUTPUT_TOKENS_MAX_LIMIT INT64_C(1000000000)

static enum rc wrong(const char **param, const char *key)
{
    *param = key;
    return RC_INVALID;
}

static enum rc check_model(struct request_body *r, const cJSON *root, const char **param, struct error *e)
{
    const char *model = NULL;
    if (json_get_string(root, "model", &model, NULL, e) != RC_OK)
        return wrong(param, "model");
    if (!model || !*model) {
        wrong(param, "model");
        return error_set(e, RC_INVALID, "'model' is missing; GET /v1/models lists what is served");
    }
    if (strlen(model) > REQUEST_MODEL_BYTES_MAX) {
        wrong(param, "model");
        return error_set(e, RC_INVALID, "'model' is longer than %d bytes", REQUEST_MODEL_BYTES_MAX);
    }
    memcpy(r->model, model, strlen(model) + 1);
    return RC_OK;
}

static enum rc check_stream(struct request_body *r, const cJSON *root, const char **param, struct error *e)
{
    if (json_get_bool(root, "stream", &r->stream, NULL, e) != RC_OK)
        return wrong(param, "stream");
    const cJSON *options = cJSON_GetObjectItemCaseSensitive(root, "stream_options");
    if (!options || cJSON_IsNull(options))
        return RC_OK;
    if (!cJSON_IsObject(options)) {
        wrong(param, "stream_options");
        return error_set(e, RC_INVALID, "'stream_options' must be an object");
    }
    if (!r->stream) {
        wrong(param, "stream_options");
        return error_set(e, RC_INVALID, "'stream_options' is only allowed with \"stream\": true");
    }
    if (json_get_bool(options, "include_usage", &r->usage_asked, NULL, e) != RC_OK)
        return wrong(param, "stream_options.include_usage");
    return RC_OK;
}

static enum rc check_bounds(struct request_body *r, const cJSON *root, const char **param, struct error *e)
{
    r->output_tokens_max = -1;
    if (json_get_int(root, "max_tokens", 0, OUTPUT_TOKENS_MAX_LIMIT, &r->output_tokens_max, NULL, e) != RC_OK)
        return wrong(param, "max_tokens");
    if (json_get_int(root, "max_completion_tokens", 0, OUTPUT_TOKENS_MAX_LIMIT, &r->output_tokens_max, NULL, e) !=
        RC_OK)
        return wrong(param, "max_completion_tokens");
    return RC_OK;
}

static enum rc check_input(const struct request_body *r, const cJSON *root, const char **param, struct error *e)
{
    const char *key = r->kind == REQUEST_CHAT ? "messages" : "prompt";
    const cJSON *input = cJSON_GetObjectItemCaseSensitive(root, key);
    bool fine =
        r->kind == REQUEST_CHAT ? cJSON_IsArray(input) && input->child : cJSON_IsString(input) || cJSON_IsArray(input);
    if (fine)
        return RC_OK;
    wrong(param, key);
    if (r->kind == REQUEST_CHAT)
        return error_set(e, RC_INVALID, "'messages' must be an array with at least one message");
    return error_set(e, RC_INVALID, "'prompt' must be a string or an array");
}

/* The places to cut. The n-th member of the text is the n-th child of the tree, so a key that is written with escapes is
 * found by its meaning, not by its spelling. */
static bool find_members(const cJSON *object, struct span text, const char *const *keys, struct span *values, int n)
{
    struct scan s = scan_object(text);
    struct span key, value;
    const cJSON *child = object->child;
    for (; scan_member(&s, &key, &value); child = child->next) {
        if (!child)
            return false;
        for (int i = 0; i < n; i++) {
            if (strcmp(child->string, keys[i]) == 0)
                values[i] = value;
        }
    }
    return !s.failed && !child;
}

static enum rc find_cuts(struct request_body *r, const cJSON *root, struct error *e)
{
    static const char *const outer[] = {"model", "stream_options"};
    static const char *const inner[] = {"include_usage"};
    struct span found[2] = {{0}};
    bool ok = find_members(root, (struct span){r->text, r->n}, outer, found, 2);
    r->model_value = found[0];
    r->options_value = found[1];
    if (ok && r->options_value.n && !span_is_null(r->options_value))
        ok = find_members(cJSON_GetObjectItemCaseSensitive(root, "stream_options"), r->options_value, inner,
                          &r->usage_value, 1);
    /* The strict parse accepted it, so the scan must have understood it as well; if the two ever differ, refuse. */
    if (!ok || !r->model_value.n)
        return error_set(e, RC_INVALID, "the body is not JSON as RFC 8259 defines it");
    r->inside = (const char *)memchr(r->text, '{', r->n) + 1;
    return RC_OK;
}

enum rc request_parse(struct request_body *r, enum request_kind kind, const char *text, size_t n, const char **param,
                      struct error *e)
{
    cJSON *root = NULL;
    *param = NULL;
    memset(r, 0, sizeof(*r));
    r->text = text;
    r->n = n;
    r->kind = kind;
    enum rc rc = json_parse(text, n, JSON_DEPTH_MAX, &root, e);
    if (rc != RC_OK)
        return RC_INVALID;
    if (!cJSON_IsObject(root))
        rc = error_set(e, RC_INVALID, "the body must be a JSON object");
    if (rc == RC_OK)
        rc = check_model(r, root, param, e);
    if (rc == RC_OK)
        rc = check_stream(r, root, param, e);
    if (rc == RC_OK)
        rc = check_bounds(r, root, param, e);
    if (rc == RC_OK)
        rc = check_input(r, root, param, e);
    if (rc == RC_OK)
        rc = find_cuts(r, root, e);
    cJSON_Delete(root);
    return rc;
}

/* ---- splicing --------------------------------------------------------------------------------------------------- */

/* The edit that sets stream_options.include_usage, whatever is there now. */
static struct edit usage_edit(const struct request_body *r)
{
    static const char whole[] = "\"stream_options\":{\"include_usage\":true},", object[] = "{\"include_usage\":true}",
                      member[] = "\"include_usage\":true,";
    if (!r->options_value.n)
        return (struct edit){r->inside, 0, whole, sizeof whole - 1};
    if (span_is_null(r->options_value))
        return (struct edit){r->options_value.p, r->options_value.n, object, sizeof object - 1};
    if (r->usage_value.n)
        return (struct edit){r->usage_value.p, r->usage_value.n, "true", 4};
    struct span key, value;
    struct scan s = scan_object(r->options_value);
    bool empty = !scan_member(&s, &key, &value);
    if (empty)
        return (struct edit){r->options_value.p, r->options_value.n, object, sizeof object - 1};
    return (struct edit){r->options_value.p + 1, 0, member, sizeof member - 1};
}

enum rc request_splice(const struct request_body *r, const char *upstream_model, struct strbuf *out)
{
    struct edit edits[2];
    struct strbuf name;
    int n = 0;
    strbuf_init(&name, 8192);
    enum rc rc = RC_OK;
    if (upstream_model) {
        rc = json_append_string(&name, upstream_model, strlen(upstream_model));
        if (rc == RC_OK)
            edits[n++] = (struct edit){r->model_value.p, r->model_value.n, name.data, name.len};
    }
    if (r->stream && !r->usage_asked)
        edits[n++] = usage_edit(r);
    if (rc == RC_OK)
        rc = edits_apply((struct span){r->text, r->n}, edits, n, out);
    strbuf_fini(&name);
    return rc;
}

int64_t request_estimate_input(const struct request_body *r)
{
    return (int64_t)(r->n / BYTES_PER_TOKEN) + 1;
}

int64_t request_estimate_output(const struct request_body *r)
{
    bool bounded = r->output_tokens_max >= 0 && r->output_tokens_max < OUTPUT_TOKENS_ASSUMED;
    return bounded ? r->output_tokens_max : OUTPUT_TOKENS_ASSUMED;
}
