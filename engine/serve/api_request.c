/* Request JSON -> struct api_request. One row per parameter; what does not fit a row has a function of its own. */
#include "engine/serve/api.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

static const char *type_of_status(int status)
{
    switch (status) {
    case 401: return "authentication_error";
    case 429: return "rate_limit_error";
    case 503: return "overloaded_error";
    default: return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

bool api_fail(struct api_error *e, int status, const char *param, const char *code, const char *format, ...)
{
    *e = (struct api_error){.status = status};
    snprintf(e->type, sizeof e->type, "%s", type_of_status(status));
    snprintf(e->param, sizeof e->param, "%s", param ? param : "");
    snprintf(e->code, sizeof e->code, "%s", code ? code : "");
    va_list args;
    va_start(args, format);
    vsnprintf(e->message, sizeof e->message, format, args);
    va_end(args);
    /* A cut in the middle of a character would make the error itself bad JSON. */
    e->message[utf8_valid_prefix(e->message, strlen(e->message), NULL)] = '\0';
    return false;
}

static bool bad(struct api_error *e, const char *param, const char *message)
{
    return api_fail(e, 400, param, NULL, "%s", message);
}

/* Numbers and switches by table. */

#define CHAT       1u
#define COMPLETION 2u
#define BOTH       3u

enum row_type { ROW_INT, ROW_DOUBLE, ROW_BOOL };
struct row {
    const char *key;
    unsigned kinds;
    enum row_type type;
    size_t offset;
    double lo, hi;
};
#define REQUEST(field) offsetof(struct api_request, field)
static const struct row rows[] = {
    {"n", BOTH, ROW_INT, REQUEST(n), 1, API_CHOICES_MAX},
    {"stream", BOTH, ROW_BOOL, REQUEST(stream), 0, 0},
    {"max_tokens", CHAT, ROW_INT, REQUEST(max_tokens), 1, INT32_MAX},
    {"max_tokens", COMPLETION, ROW_INT, REQUEST(max_tokens), 0, INT32_MAX},
    {"echo", COMPLETION, ROW_BOOL, REQUEST(echo), 0, 0},
    {"max_completion_tokens", CHAT, ROW_INT, REQUEST(max_tokens), 1, INT32_MAX}, /* after max_tokens: it wins */
    {"min_tokens", BOTH, ROW_INT, REQUEST(sampling.min_tokens), 0, INT32_MAX},
    {"ignore_eos", BOTH, ROW_BOOL, REQUEST(ignore_eos), 0, 0},
    {"temperature", BOTH, ROW_DOUBLE, REQUEST(sampling.temperature), 0, 100},
    {"top_p", BOTH, ROW_DOUBLE, REQUEST(sampling.top_p), 0, 1},
    {"min_p", BOTH, ROW_DOUBLE, REQUEST(sampling.min_p), 0, 1},
    {"top_k", BOTH, ROW_INT, REQUEST(sampling.top_k), -1, INT32_MAX},
    {"presence_penalty", BOTH, ROW_DOUBLE, REQUEST(sampling.presence_penalty), -2, 2},
    {"frequency_penalty", BOTH, ROW_DOUBLE, REQUEST(sampling.frequency_penalty), -2, 2},
    {"repetition_penalty", BOTH, ROW_DOUBLE, REQUEST(sampling.repetition_penalty), 0, 10},
    {"logprobs", CHAT, ROW_BOOL, REQUEST(logprobs), 0, 0},
    {"top_logprobs", CHAT, ROW_INT, REQUEST(sampling.n_top), 0, SAMPLER_TOP_MAX},
    {"logprobs", COMPLETION, ROW_INT, REQUEST(sampling.n_top), 0, API_COMPLETION_TOP_MAX},
};
_Static_assert(sizeof(int) == sizeof(int32_t), "n and n_top are read as int32_t");

static bool read_row(const cJSON *root, const struct row *row, struct api_request *r, struct api_error *e)
{
    char *field = (char *)r + row->offset;
    struct error err = {0};
    bool found = false;
    int64_t i;
    switch (row->type) {
    case ROW_INT:
        if (json_get_int(root, row->key, (int64_t)row->lo, (int64_t)row->hi, &i, &found, &err))
            return bad(e, row->key, err.message);
        if (found)
            *(int32_t *)(void *)field = (int32_t)i;
        return true;
    case ROW_DOUBLE:
        if (json_get_double(root, row->key, row->lo, row->hi, (double *)(void *)field, &found, &err))
            return bad(e, row->key, err.message);
        return true;
    case ROW_BOOL:
        if (json_get_bool(root, row->key, (bool *)field, &found, &err))
            return bad(e, row->key, err.message);
        return true;
    }
    return true;
}

/* What the table cannot say: bounds that are open, and parameters that need one another. */
static bool check_numbers(const cJSON *root, struct api_request *r, struct api_error *e)
{
    struct sampler_params *s = &r->sampling;
    if (s->top_p == 0) /* OpenAI allows it: the likeliest token alone */
        s->top_p = 1, s->temperature = 0;
    if (s->repetition_penalty <= 0)
        return bad(e, "repetition_penalty", "repetition_penalty must be above 0 and at most 10");
    if (s->top_k < 0)
        s->top_k = 0; /* -1 is what some clients send for "off" */
    if (r->kind == API_COMPLETION) {
        const cJSON *lp = cJSON_GetObjectItemCaseSensitive(root, "logprobs");
        r->logprobs = lp && !cJSON_IsNull(lp);
    } else if (s->n_top > 0 && !r->logprobs) {
        return bad(e, "top_logprobs", "top_logprobs needs logprobs: true");
    }
    const cJSON *max = cJSON_GetObjectItemCaseSensitive(root, "max_tokens");
    r->no_answer = r->kind == API_COMPLETION && cJSON_IsNumber(max) && r->max_tokens == 0;
    if (r->no_answer && !r->echo)
        return bad(e, "max_tokens", "max_tokens must be at least 1; 0 is for echo: true, which gives the prompt alone");
    if (r->no_answer && (s->min_tokens > 0 || r->resumed))
        return bad(e, "max_tokens", "max_tokens is 0: there is no answer that could have min_tokens or be resumed");
    if (r->resumed && r->n != 1)
        return bad(e, "n", "n must be 1 where an answer is resumed");
    if (r->max_tokens && s->min_tokens > r->max_tokens)
        return bad(e, "min_tokens", "min_tokens must not be above max_tokens");
    return true;
}

/* Parameters whose only value we accept is the one that asks for nothing. */

static bool is_off(const cJSON *v)
{
    return !v || cJSON_IsNull(v) || cJSON_IsFalse(v) || ((cJSON_IsArray(v) || cJSON_IsObject(v)) && !v->child);
}

static bool refuse_unsupported(const cJSON *root, struct api_request *r, struct api_error *e)
{
    static const char *const keys[] = {"tools",        "functions",      "audio",         "suffix", "guided_json",
                                       "guided_regex", "guided_grammar", "guided_choice", "grammar"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!is_off(cJSON_GetObjectItemCaseSensitive(root, keys[i])))
            return api_fail(e, 400, keys[i], "unsupported_parameter",
                            "%s is not supported by this engine; leave it out", keys[i]);
    if (r->kind == API_CHAT && !is_off(cJSON_GetObjectItemCaseSensitive(root, "echo")))
        return api_fail(e, 400, "echo", "unsupported_parameter", "echo belongs to /v1/completions; leave it out");
    int64_t best_of = r->n;
    struct error err = {0};
    if (json_get_int(root, "best_of", 1, API_CHOICES_MAX, &best_of, NULL, &err))
        return bad(e, "best_of", err.message);
    if (best_of != r->n)
        return api_fail(e, 400, "best_of", "unsupported_parameter",
                        "best_of must be equal to n: this engine gives every answer that it computes");
    const cJSON *format = cJSON_GetObjectItemCaseSensitive(root, "response_format");
    if (!is_off(format)) {
        const cJSON *type = cJSON_GetObjectItemCaseSensitive(format, "type");
        if (!cJSON_IsString(type))
            return bad(e, "response_format", "response_format must be an object with a \"type\"");
        if (strcmp(type->valuestring, "text") != 0)
            return api_fail(e, 400, "response_format", "unsupported_parameter",
                            "response_format: only {\"type\": \"text\"} is supported by this engine");
    }
    return true;
}

static bool read_ids(const cJSON *array, const char *param, const struct api_limits *limits, struct arena *arena,
                     const int32_t **out, struct api_error *e)
{
    int32_t *ids = arena_alloc(arena, (size_t)cJSON_GetArraySize(array) * sizeof *ids);
    if (!ids)
        return api_fail(e, 413, param, "request_too_large", "%s is too large", param);
    const cJSON *item;
    int32_t i = 0;
    cJSON_ArrayForEach(item, array)
    {
        double v = cJSON_IsNumber(item) ? item->valuedouble : -1;
        if (!(v >= 0 && v < limits->n_vocab) || v != floor(v))
            return api_fail(e, 400, param, NULL, "%s[%d] must be a token id from 0 to %d", param, (int)i,
                            (int)limits->n_vocab - 1);
        ids[i++] = (int32_t)v;
    }
    *out = ids;
    return true;
}

/* What only a scheduler may send. An unknown field of this kind is an error and not somebody else's affair: it would
 * change what the answer means. */

static bool read_resume(const cJSON *v, const struct api_limits *limits, struct arena *arena, struct api_request *r,
                        struct api_error *e)
{
    const cJSON *ids = cJSON_GetObjectItemCaseSensitive(v, "ids");
    if (!cJSON_IsArray(ids))
        return bad(e, "spillway_resume", "spillway_resume must be {\"ids\": [...]}");
    int n = cJSON_GetArraySize(ids);
    if (n > API_RESUME_IDS_MAX)
        return api_fail(e, 400, "spillway_resume", NULL, "spillway_resume has %d ids; at most %d are allowed", n,
                        API_RESUME_IDS_MAX);
    r->resumed = true;
    r->n_resume_ids = n;
    return read_ids(ids, "spillway_resume", limits, arena, &r->resume_ids, e);
}

static bool read_salt(const cJSON *v, struct api_request *r, struct api_error *e)
{
    if (!cJSON_IsString(v) || strlen(v->valuestring) > API_SALT_BYTES_MAX)
        return api_fail(e, 400, "spillway_salt", NULL, "spillway_salt must be a text of at most %d bytes",
                        API_SALT_BYTES_MAX);
    r->salt = v->valuestring;
    return true;
}

static bool read_node_seed(const cJSON *v, struct api_request *r, struct api_error *e)
{
    double seed = cJSON_IsNumber(v) ? v->valuedouble : -1;
    if (!(seed >= 0 && seed < 0x1p53) || seed != floor(seed))
        return bad(e, "spillway_seed", "spillway_seed must be an integer from 0 to 2^53 - 1");
    r->sampling.seed = (uint64_t)seed; /* the client's own, read later, wins */
    r->has_seed = true;
    return true;
}

bool api_request_node_fields(const cJSON *root, const struct api_limits *limits, struct arena *arena,
                             struct api_request *r, struct api_error *e)
{
    const cJSON *v;
    cJSON_ArrayForEach(v, root)
    {
        bool ok = true;
        if (strncmp(v->string, "spillway_", 9) != 0)
            continue;
        if (limits->caller != API_CALLER_SCHEDULER)
            return api_fail(e, 400, v->string, "node_key_required", "%.60s can be sent only with the node key",
                            v->string);
        if (strcmp(v->string, "spillway_resume") == 0)
            ok = read_resume(v, limits, arena, r, e);
        else if (strcmp(v->string, "spillway_seed") == 0)
            ok = read_node_seed(v, r, e);
        else if (strcmp(v->string, "spillway_salt") == 0)
            ok = read_salt(v, r, e);
        else
            ok =
                api_fail(e, 400, v->string, "unsupported_parameter", "%.60s: this engine has no such field", v->string);
        if (!ok)
            return false;
    }
    return true;
}

/* stop, seed, logit_bias, stream_options. */

static bool read_stop_string(const cJSON *item, struct api_request *r, struct api_error *e)
{
    if (!cJSON_IsString(item))
        return bad(e, "stop", "stop must be a string or an array of strings");
    size_t n = strlen(item->valuestring);
    if (n == 0 || n > STOP_BYTES_MAX)
        return api_fail(e, 400, "stop", NULL, "a stop string must have 1 to %d bytes", STOP_BYTES_MAX);
    if (r->n_stop == STOP_STRINGS_MAX)
        return api_fail(e, 400, "stop", NULL, "stop holds more than %d strings", STOP_STRINGS_MAX);
    r->stop[r->n_stop++] = (struct text_span){.ptr = item->valuestring, .len = n};
    return true;
}

static bool read_stop(const cJSON *root, struct api_request *r, struct api_error *e)
{
    const cJSON *stop = cJSON_GetObjectItemCaseSensitive(root, "stop");
    if (!stop || cJSON_IsNull(stop))
        return true;
    if (!cJSON_IsArray(stop))
        return read_stop_string(stop, r, e);
    const cJSON *item;
    cJSON_ArrayForEach(item, stop)
    {
        if (!read_stop_string(item, r, e))
            return false;
    }
    return true;
}

/* Any integer, negative ones too; beyond 2^53 a JSON number loses digits, but the same text gives the same seed. */
static bool read_seed(const cJSON *root, struct api_request *r, struct api_error *e)
{
    const cJSON *seed = cJSON_GetObjectItemCaseSensitive(root, "seed");
    if (!seed || cJSON_IsNull(seed))
        return true;
    const double lowest = -9223372036854775808.0, beyond = 18446744073709551616.0; /* -2^63, 2^64 */
    double v = cJSON_IsNumber(seed) ? seed->valuedouble : NAN;
    if (!(v >= lowest && v < beyond) || v != floor(v))
        return bad(e, "seed", "seed must be an integer of at most 64 bits");
    r->sampling.seed = v < 0 ? (uint64_t)(int64_t)v : (uint64_t)v;
    r->has_seed = true;
    return true;
}

static bool read_bias(const cJSON *root, const struct api_limits *limits, struct arena *arena, struct api_request *r,
                      struct api_error *e)
{
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(root, "logit_bias");
    if (is_off(map))
        return true;
    if (!cJSON_IsObject(map))
        return bad(e, "logit_bias", "logit_bias must be an object of token id to bias");
    int n = cJSON_GetArraySize(map);
    struct sampler_bias *bias = n <= SAMPLER_BIAS_MAX ? arena_alloc(arena, (size_t)n * sizeof *bias) : NULL;
    if (!bias)
        return api_fail(e, 400, "logit_bias", NULL, "logit_bias has %d entries; at most %d are allowed", n,
                        SAMPLER_BIAS_MAX);
    const cJSON *item;
    cJSON_ArrayForEach(item, map)
    {
        int64_t id;
        if (text_parse_int(item->string, 0, limits->n_vocab - 1, &id))
            return api_fail(e, 400, "logit_bias", NULL, "logit_bias: every key must be a token id from 0 to %d",
                            (int)limits->n_vocab - 1);
        if (!cJSON_IsNumber(item) || !(item->valuedouble >= -100 && item->valuedouble <= 100))
            return bad(e, "logit_bias", "logit_bias: every value must be a number from -100 to 100");
        bias[r->sampling.n_bias++] = (struct sampler_bias){.id = (int32_t)id, .bias = (float)item->valuedouble};
    }
    r->sampling.bias = bias;
    return true;
}

static bool read_objects(const cJSON *root, struct api_request *r, struct api_error *e)
{
    struct error err = {0};
    const cJSON *so = cJSON_GetObjectItemCaseSensitive(root, "stream_options");
    if (so && !cJSON_IsNull(so)) {
        if (!cJSON_IsObject(so))
            return bad(e, "stream_options", "stream_options must be an object");
        if (!r->stream)
            return bad(e, "stream_options", "stream_options is allowed only with stream: true");
        if (json_get_bool(so, "include_usage", &r->include_usage, NULL, &err))
            return bad(e, "stream_options.include_usage", err.message);
    }
    const cJSON *kwargs = cJSON_GetObjectItemCaseSensitive(root, "chat_template_kwargs");
    if (cJSON_IsObject(kwargs)) {
        bool thinking = true;
        if (json_get_bool(kwargs, "thinking", &thinking, NULL, &err) ||
            json_get_bool(kwargs, "enable_thinking", &thinking, NULL, &err))
            return bad(e, "chat_template_kwargs", err.message);
        r->thinking_off = !thinking;
    }
    return true;
}

/* The prompt. */

static bool read_prompt_ids(const cJSON *array, const struct api_limits *limits, struct arena *arena,
                            struct api_request *r, struct api_error *e)
{
    r->n_prompt_ids = cJSON_GetArraySize(array);
    return read_ids(array, "prompt", limits, arena, &r->prompt_ids, e);
}

/* A string, an array of ids, or either of them alone in an array. */
static bool read_prompt(const cJSON *root, const struct api_limits *limits, struct arena *arena, struct api_request *r,
                        struct api_error *e)
{
    const cJSON *p = cJSON_GetObjectItemCaseSensitive(root, "prompt");
    if (cJSON_IsArray(p) && (cJSON_IsString(p->child) || cJSON_IsArray(p->child))) {
        if (p->child->next)
            return api_fail(e, 400, "prompt", "unsupported_parameter",
                            "prompt: this engine takes one prompt per request");
        p = p->child;
    }
    if (cJSON_IsString(p)) {
        r->prompt = p->valuestring;
        return true;
    }
    if (cJSON_IsArray(p) && p->child)
        return read_prompt_ids(p, limits, arena, r, e);
    return bad(e, "prompt",
               p ? "prompt must be a string or an array of token ids, and not empty"
                 : "prompt is missing: a string or an array of token ids");
}

static bool read_messages(const cJSON *root, struct api_request *r, struct api_error *e)
{
    r->messages = cJSON_GetObjectItemCaseSensitive(root, "messages");
    if (!r->messages)
        return bad(e, "messages", "messages is missing: an array of {\"role\": ..., \"content\": ...}");
    if (!cJSON_IsArray(r->messages) || !r->messages->child)
        return bad(e, "messages", "messages must be an array with at least one message");
    return true;
}

bool api_request_read(const cJSON *root, enum api_kind kind, const struct api_limits *limits, struct arena *arena,
                      struct api_request *r, struct api_error *e)
{
    *r = (struct api_request){.kind = kind, .n = 1};
    sampler_params_init(&r->sampling);
    if (!cJSON_IsObject(root))
        return bad(e, NULL, "the request body must be a JSON object");
    if (!api_request_node_fields(root, limits, arena, r, e))
        return false;
    struct error err = {0};
    if (json_get_string(root, "model", &r->model, NULL, &err))
        return bad(e, "model", err.message);
    unsigned bit = kind == API_CHAT ? CHAT : COMPLETION;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if ((rows[i].kinds & bit) && !read_row(root, &rows[i], r, e))
            return false;
    if (r->resumed && !r->stream)
        return bad(e, "spillway_resume", "spillway_resume is allowed only with stream: true");
    if (!check_numbers(root, r, e) || !refuse_unsupported(root, r, e) || !read_stop(root, r, e) ||
        !read_seed(root, r, e) || !read_bias(root, limits, arena, r, e) || !read_objects(root, r, e))
        return false;
    if (kind == API_CHAT)
        return read_messages(root, r, e);
    if (!r->max_tokens && !r->no_answer)
        r->max_tokens = API_COMPLETION_TOKENS;
    return read_prompt(root, limits, arena, r, e);
}
