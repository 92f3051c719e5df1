#include "scheduler/wire/request.h"

#include <inttypes.h>
#include <string.h>

#include "base/json.h"

#define BYTES_PER_TOKEN         4   /* of prompts, until a learned figure replaces it */
#define OUTPUT_TOKENS_ASSUMED   256 /* for a request that names no bound, or a larger one */
#define OUTPUT_TOKENS_MAX_LIMIT INT64_C(1000000000)
#define TEMPLATE_TOKENS_MAX     512 /* a template's own words, such as a system message for those who have none */
#define CHOICES_MAX             1000000

static const struct request_traits traits[REQUEST_KINDS] = {
    [REQUEST_CHAT] = {.path = "/v1/chat/completions",
                      .operation = "chat",
                      .id = "chatcmpl",
                      .input = "messages",
                      .answers = "choices",
                      .wants = "an array with at least one message",
                      .speaks = true,
                      .computes = true},
    [REQUEST_COMPLETION] = {.path = "/v1/completions",
                            .operation = "text_completion",
                            .id = "cmpl",
                            .input = "prompt",
                            .answers = "choices",
                            .wants = "a string or an array",
                            .speaks = true,
                            .computes = true},
    [REQUEST_EMBEDDINGS] = {.path = "/v1/embeddings",
                            .operation = "embeddings",
                            .id = "embd",
                            .input = "input",
                            .answers = "data",
                            .wants = "a text, an array of token ids, or an array of either",
                            .computes = true},
    [REQUEST_TOKENIZE] = {.path = "/tokenize",
                          .operation = "tokenize",
                          .id = "tok",
                          .input = "prompt",
                          .answers = "count",
                          .wants = "a string or an array of token ids, where there are no 'messages'"},
    [REQUEST_DETOKENIZE] = {.path = "/detokenize",
                            .operation = "detokenize",
                            .id = "detok",
                            .input = "tokens",
                            .answers = "prompt",
                            .wants = "an array of token ids"},
};

const struct request_traits *request_traits(enum request_kind kind)
{
    SPW_ASSERT((unsigned)kind < REQUEST_KINDS);
    return &traits[kind];
}

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
    if (r->stream && !traits[r->kind].speaks) {
        wrong(param, "stream");
        return error_set(e, RC_INVALID, "'stream': there is no stream at this endpoint; leave it out");
    }
    const cJSON *options = json_find(root, "stream_options");
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
    static const char *const keys[] = {"max_tokens", "max_completion_tokens"};
    const bool speaks = traits[r->kind].speaks; /* else these are no words of ours */
    r->output_tokens_max = speaks ? -1 : 0;
    r->bounds[0] = r->bounds[1] = -1;
    for (int i = 0; i < 2 && speaks; i++) {
        if (json_get_int(root, keys[i], 0, OUTPUT_TOKENS_MAX_LIMIT, &r->bounds[i], NULL, e) != RC_OK)
            return wrong(param, keys[i]);
        if (r->bounds[i] >= 0)
            r->output_tokens_max = r->bounds[i];
    }
    return RC_OK;
}

static enum rc check_tier(struct request_body *r, const cJSON *root, const char **param, struct error *e)
{
    const char *text = NULL;
    enum rc rc = json_get_string(root, "service_tier", &text, NULL, e);
    if (rc == RC_OK && text)
        rc = tier_read(text, &r->tier, e);
    r->tier_asked = text != NULL;
    return rc == RC_OK ? RC_OK : wrong(param, "service_tier");
}

static enum rc check_input(const struct request_body *r, const cJSON *root, const char **param, struct error *e)
{
    const bool chat = r->kind == REQUEST_TOKENIZE && json_find(root, "messages");
    const enum request_kind as = chat ? REQUEST_CHAT : r->kind;
    const struct request_traits *t = &traits[as];
    const cJSON *input = json_find(root, t->input);
    bool list = cJSON_IsArray(input) && (input->child || as == REQUEST_COMPLETION || as == REQUEST_DETOKENIZE);
    bool text = cJSON_IsString(input) && as != REQUEST_CHAT && as != REQUEST_DETOKENIZE;
    if (list || text)
        return RC_OK;
    wrong(param, t->input);
    return error_set(e, RC_INVALID, "'%s' must be %s", t->input, t->wants);
}

/* What is between scheduler and engines no client may say. */
static enum rc check_reserved(const cJSON *root, const char **param, struct error *e)
{
    static const char *const known[] = {"spillway_resume", "spillway_seed", "spillway_salt"};
    for (const cJSON *m = root->child; m; m = m->next) {
        if (strncmp(m->string, "spillway_", 9) != 0)
            continue;
        for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
            if (strcmp(m->string, known[i]) == 0)
                wrong(param, known[i]);
        }
        return error_set(e, RC_INVALID, "'%.64s': fields that start with 'spillway_' are reserved", m->string);
    }
    return RC_OK;
}

/* Is each of these absent, null, false or empty? A request has few members, so they are looked up in the keys. */
static bool all_off(const cJSON *root, const char *const *keys, size_t n)
{
    for (const cJSON *m = root->child; m; m = m->next) {
        if (cJSON_IsNull(m) || cJSON_IsFalse(m) || (cJSON_IsArray(m) && !m->child))
            continue;
        for (size_t i = 0; i < n; i++) {
            if (m->string[0] == keys[i][0] && strcmp(m->string, keys[i]) == 0)
                return false;
        }
    }
    return true;
}

static bool is_one(const cJSON *root, const char *key)
{
    const cJSON *v = json_find(root, key);
    return !v || cJSON_IsNull(v) || (cJSON_IsNumber(v) && v->valuedouble == 1);
}

static bool wants_plain_text(const cJSON *root)
{
    const cJSON *format = json_find(root, "response_format");
    const char *type = cJSON_GetStringValue(json_find(format, "type"));
    return !format || cJSON_IsNull(format) || (type && strcmp(type, "text") == 0);
}

/* The last word is the client's: an assistant's message that it has begun itself is already a prefix. */
static bool ends_with_client(const struct request_body *r, const cJSON *root)
{
    if (r->kind == REQUEST_COMPLETION)
        return cJSON_IsString(json_find(root, "prompt"));
    const cJSON *last = NULL, *m;
    cJSON_ArrayForEach(m, json_find(root, "messages")) last = m;
    const char *role = cJSON_GetStringValue(json_find(last, "role"));
    return role && strcmp(role, "assistant") != 0;
}

static int64_t count_of(const cJSON *root, const char *key)
{
    const cJSON *v = json_find(root, key);
    if (!cJSON_IsNumber(v) || !(v->valuedouble > 1))
        return 1;
    return v->valuedouble < CHOICES_MAX ? (int64_t)v->valuedouble : CHOICES_MAX;
}

static void count_choices(struct request_body *r, const cJSON *root)
{
    const cJSON *prompt = json_find(root, "prompt");
    bool list = r->kind == REQUEST_COMPLETION && cJSON_IsArray(prompt) && prompt->child;
    int64_t n = count_of(root, "n"), best_of = count_of(root, "best_of");
    r->choices = best_of > n ? best_of : n;
    if (list && !cJSON_IsNumber(prompt->child))
        r->choices *= cJSON_GetArraySize(prompt);
}

/* How an answer to this could go on elsewhere once it has begun. */
static void find_continuations(struct request_body *r, const cJSON *root)
{
    static const char *const never[] = {"tools", "functions", "suffix"};
    static const char *const never_by_text[] = {
        "echo",        "logprobs",     "continue_final_message", "add_generation_prompt",
        "guided_json", "guided_regex", "guided_grammar",         "guided_choice",
        "grammar",     "json_schema",  "structured_outputs"};
    const cJSON *prompt = json_find(root, "prompt");
    bool many = r->kind == REQUEST_COMPLETION && cJSON_IsArray(prompt) && !cJSON_IsNumber(prompt->child);
    r->resumable = is_one(root, "n") && is_one(root, "best_of") && !many;
    r->resumable = r->resumable && all_off(root, never, sizeof never / sizeof never[0]);
    r->prefixable = r->resumable && wants_plain_text(root) && ends_with_client(r, root);
    r->prefixable = r->prefixable && all_off(root, never_by_text, sizeof never_by_text / sizeof never_by_text[0]);
}

/* The places to cut: by the key's meaning, however it is spelt. */
static void find_members(const cJSON *object, const char *const *keys, struct span *values, int n)
{
    for (const cJSON *m = object->child; m; m = m->next) {
        for (int i = 0; i < n; i++) {
            if (m->string[0] == keys[i][0] && strcmp(m->string, keys[i]) == 0)
                values[i].p = json_doc_text(m, &values[i].n);
        }
    }
}

static void find_cuts(struct request_body *r, const cJSON *root)
{
    const char *const outer[] = {"model",      "stream_options",        "stream", traits[r->kind].input,
                                 "max_tokens", "max_completion_tokens", "tools"};
    static const char *const inner[] = {"include_usage"};
    struct span found[7] = {{0}};
    find_members(root, outer, found, 7);
    r->model_value = found[0];
    r->options_value = found[1];
    r->stream_value = found[2];
    r->input_value = found[3];
    r->bound_values[0] = found[4];
    r->bound_values[1] = found[5];
    r->tools_value = found[6];
    const cJSON *options = json_find(root, "stream_options");
    if (options)
        find_members(options, inner, &r->usage_value, 1);
    r->inside = (const char *)memchr(r->text, '{', r->n) + 1;
}

/* What kind of an answer it may get. */
static void find_answers(struct request_body *r, const cJSON *root)
{
    r->choices = 1;
    if (!traits[r->kind].speaks)
        return;
    find_continuations(r, root);
    count_choices(r, root);
}

static enum rc check(struct request_body *r, const cJSON *root, const char **param, struct error *e)
{
    if (!cJSON_IsObject(root))
        return error_set(e, RC_INVALID, "the body must be a JSON object");
    enum rc rc = check_model(r, root, param, e);
    if (rc == RC_OK)
        rc = check_stream(r, root, param, e);
    if (rc == RC_OK)
        rc = check_bounds(r, root, param, e);
    if (rc == RC_OK)
        rc = check_tier(r, root, param, e);
    if (rc == RC_OK)
        rc = check_input(r, root, param, e);
    return rc == RC_OK ? check_reserved(root, param, e) : rc;
}

enum rc request_parse(struct request_body *r, struct json_doc *doc, enum request_kind kind, struct span text,
                      const char **param, struct error *e)
{
    *param = NULL;
    memset(r, 0, sizeof(*r));
    r->text = text.p;
    r->n = text.n;
    r->kind = kind;
    if (json_doc_parse(doc, text.p, text.n, JSON_DEPTH_MAX, e) != RC_OK)
        return RC_INVALID;
    enum rc rc = check(r, doc->root, param, e);
    if (rc != RC_OK) {
        json_doc_fini(doc);
        return rc;
    }
    find_cuts(r, doc->root);
    find_answers(r, doc->root);
    return RC_OK;
}

void request_move(struct request_body *r, const char *text)
{
    const char **places[] = {&r->model_value.p,     &r->options_value.p, &r->usage_value.p,
                             &r->stream_value.p,    &r->input_value.p,   &r->bound_values[0].p,
                             &r->bound_values[1].p, &r->inside,          &r->tools_value.p};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        if (*places[i])
            *places[i] = text + (*places[i] - r->text);
    }
    r->text = text;
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

/* The edits of one leg and the texts that they put in. */
struct splice {
    struct edit edits[12];
    int n;
    struct strbuf name, salt, fields, bounds[2];
};

static void put_edit(struct splice *s, const char *at, size_t cut, const char *put, size_t put_n)
{
    s->edits[s->n++] = (struct edit){at, cut, put, put_n};
}

static void stream_edits(struct splice *s, const struct request_body *r)
{
    static const char member[] = "\"stream\":true,";
    if (!r->stream && r->stream_value.n)
        put_edit(s, r->stream_value.p, r->stream_value.n, "true", 4);
    else if (!r->stream)
        put_edit(s, r->inside, 0, member, sizeof member - 1);
    if (!r->usage_asked)
        s->edits[s->n++] = usage_edit(r);
}

/* The fields between us and our engines. */
static enum rc engine_edits(struct splice *s, const struct request_body *r, const struct request_leg *leg)
{
    enum rc rc = strbuf_printf(&s->fields, "\"spillway_seed\":%" PRIu64 ",", leg->seed);
    if (rc == RC_OK && leg->ids && leg->ids->len) {
        rc = strbuf_puts(&s->fields, "\"spillway_resume\":{\"ids\":[");
        if (rc == RC_OK)
            rc = strbuf_append(&s->fields, leg->ids->data, leg->ids->len);
        if (rc == RC_OK)
            rc = strbuf_puts(&s->fields, "]},");
    }
    put_edit(s, r->inside, 0, s->fields.data, s->fields.len);
    return rc;
}

/* The text so far as the beginning of the assistant's message, as vLLM and llama-server take it, or at the end of the
 * prompt. */
static enum rc text_edits(struct splice *s, const struct request_body *r, const struct request_leg *leg)
{
    static const char flags[] = "\"continue_final_message\":true,\"add_generation_prompt\":false,";
    const char *last = r->input_value.p + r->input_value.n - 1; /* the closing bracket or quote */
    enum rc rc = RC_OK;
    if (r->kind == REQUEST_COMPLETION) {
        put_edit(s, last, 0, leg->text->data, leg->text->len);
    } else {
        rc = strbuf_puts(&s->fields, ",{\"role\":\"assistant\",\"content\":\"");
        if (rc == RC_OK)
            rc = strbuf_append(&s->fields, leg->text->data, leg->text->len);
        if (rc == RC_OK)
            rc = strbuf_puts(&s->fields, "\"}");
        put_edit(s, r->inside, 0, flags, sizeof flags - 1);
        put_edit(s, last, 0, s->fields.data, s->fields.len);
    }
    return rc;
}

/* max_tokens where the client names no bound at all: of the two names the one that every server knows. */
static enum rc add_bound(struct splice *s, const struct request_body *r, int64_t max)
{
    struct span at = r->bound_values[0]; /* there may be a null */
    enum rc rc = strbuf_printf(&s->bounds[0], at.n ? "%" PRId64 : "\"max_tokens\":%" PRId64 ",", max);
    put_edit(s, at.n ? at.p : r->inside, at.n, s->bounds[0].data, s->bounds[0].len);
    return rc;
}

/* What may still be said: what the client, the model and the money allow. A node that goes on by ids counts from the
 * answer's beginning, one that goes on by text only its own. */
static enum rc bound_edits(struct splice *s, const struct request_body *r, const struct request_leg *leg)
{
    int64_t said = !leg->to_engine && leg->text ? leg->said : 0;
    enum rc rc = RC_OK;
    if (leg->bounded && r->bounds[0] < 0 && r->bounds[1] < 0)
        return add_bound(s, r, leg->output_max - said > 1 ? leg->output_max - said : 1);
    for (int i = 0; i < 2 && rc == RC_OK; i++) {
        int64_t max = leg->bounded && r->bounds[i] > leg->output_max ? leg->output_max : r->bounds[i];
        if (r->bounds[i] < 0 || (max == r->bounds[i] && !said))
            continue;
        rc = strbuf_printf(&s->bounds[i], "%" PRId64, max - said > 1 ? max - said : 1);
        put_edit(s, r->bound_values[i].p, r->bound_values[i].n, s->bounds[i].data, s->bounds[i].len);
    }
    return rc;
}

size_t request_splice_bytes_max(const struct request_body *r, const struct request_leg *leg)
{
    return r->n + 8192 + (leg->ids ? leg->ids->len : 0) + (leg->text ? leg->text->len : 0);
}

enum rc request_splice(const struct request_body *r, const struct request_leg *leg, struct strbuf *out)
{
    struct splice s = {.n = 0};
    strbuf_init(&s.name, 8192);
    strbuf_init(&s.salt, 256);
    strbuf_init(&s.fields, request_splice_bytes_max(r, leg));
    strbuf_init(&s.bounds[0], 64);
    strbuf_init(&s.bounds[1], 64);
    enum rc rc = RC_OK;
    if (leg->upstream_model) {
        rc = json_append_string(&s.name, leg->upstream_model, strlen(leg->upstream_model));
        put_edit(&s, r->model_value.p, r->model_value.n, s.name.data, s.name.len);
    }
    if (leg->stream)
        stream_edits(&s, r);
    if (rc == RC_OK && leg->salt) {
        rc = strbuf_printf(&s.salt, "\"spillway_salt\":\"%s\",", leg->salt);
        put_edit(&s, r->inside, 0, s.salt.data, s.salt.len);
    }
    if (rc == RC_OK && leg->to_engine)
        rc = engine_edits(&s, r, leg);
    else if (rc == RC_OK && leg->text && leg->text->len)
        rc = text_edits(&s, r, leg);
    if (rc == RC_OK)
        rc = bound_edits(&s, r, leg);
    if (rc == RC_OK)
        rc = edits_apply((struct span){r->text, r->n}, s.edits, s.n, out);
    strbuf_fini(&s.name);
    strbuf_fini(&s.salt);
    strbuf_fini(&s.fields);
    strbuf_fini(&s.bounds[0]);
    strbuf_fini(&s.bounds[1]);
    return rc;
}

int64_t request_input_max(const struct request_body *r)
{
    return traits[r->kind].computes ? (int64_t)r->n + TEMPLATE_TOKENS_MAX : 0;
}

int64_t request_estimate_input(const struct request_body *r)
{
    return traits[r->kind].computes ? (int64_t)(r->n / BYTES_PER_TOKEN) + 1 : 1;
}

int64_t request_estimate_output(const struct request_body *r)
{
    bool bounded = r->output_tokens_max >= 0 && r->output_tokens_max < OUTPUT_TOKENS_ASSUMED;
    return bounded ? r->output_tokens_max : OUTPUT_TOKENS_ASSUMED;
}
