#include "scheduler/cli/ask.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/energy.h"
#include "base/json.h"
#include "base/sse.h"

#define ASK_BODY_MAX ((size_t)4 << 20)

/* One call: what arrives is either an event stream (status 200) or a body that is kept for the error's text. */
struct call {
    FILE *out;
    struct ask_result *r;
    struct sse *sse; /* NULL: keep the body */
    struct strbuf body;
    struct mono start, first, last; /* first.ns 0: no token yet */
    bool streamed;                  /* the answer is an event stream */
    bool done;                      /* [DONE] was seen */
    struct error *e;
    enum rc rc; /* of the frames */
};

static void copy_text(char *to, size_t size, const char *text, size_t n)
{
    while (n && (text[n - 1] == '\r' || text[n - 1] == '\n' || text[n - 1] == ' '))
        n--;
    if (n >= size)
        n = size - 1;
    memcpy(to, text, n);
    to[n] = '\0';
}

static size_t on_header(char *line, size_t size, size_t n, void *arg)
{
    struct call *c = arg;
    size_t len = size * n;
    struct {
        const char *name;
        char *to;
        size_t room;
    } wanted[] = {{"x-spillway-node: ", c->r->node, sizeof c->r->node},
                  {"x-request-id: ", c->r->request_id, sizeof c->r->request_id},
                  {"x-spillway-charge-usd: ", c->r->charge_usd, sizeof c->r->charge_usd}};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        size_t skip = strlen(wanted[i].name);
        if (len > skip && strncasecmp(line, wanted[i].name, skip) == 0)
            copy_text(wanted[i].to, wanted[i].room, line + skip, len - skip);
    }
    static const char stream_type[] = "content-type: text/event-stream";
    if (len >= sizeof stream_type - 1 && strncasecmp(line, stream_type, sizeof stream_type - 1) == 0)
        c->streamed = true;
    return len;
}

static const char *text_at(const cJSON *object, const char *key)
{
    const cJSON *m = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsString(m) ? m->valuestring : NULL;
}

static void read_usage(struct ask_result *r, const cJSON *chunk)
{
    const cJSON *usage = cJSON_GetObjectItemCaseSensitive(chunk, "usage");
    const cJSON *details = cJSON_GetObjectItemCaseSensitive(usage, "prompt_tokens_details");
    struct {
        const cJSON *object;
        const char *key;
        int64_t *to;
    } wanted[] = {{usage, "prompt_tokens", &r->tokens_in},
                  {usage, "completion_tokens", &r->tokens_out},
                  {details, "cached_tokens", &r->tokens_cached}};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        const cJSON *m = cJSON_GetObjectItemCaseSensitive(wanted[i].object, wanted[i].key);
        if (cJSON_IsNumber(m))
            *wanted[i].to = (int64_t)m->valuedouble;
    }
    const cJSON *ours = cJSON_GetObjectItemCaseSensitive(chunk, "spillway");
    const char *charge = text_at(ours, "charge_usd"), *node = text_at(ours, "node");
    if (charge)
        copy_text(r->charge_usd, sizeof r->charge_usd, charge, strlen(charge));
    if (node)
        copy_text(r->node, sizeof r->node, node, strlen(node));
    const cJSON *joules = cJSON_GetObjectItemCaseSensitive(ours, "joules_estimated");
    const bool by_engine = !joules;
    if (by_engine)
        joules = cJSON_GetObjectItemCaseSensitive(ours, "joules_measured");
    if (cJSON_IsNumber(joules)) {
        r->joules = joules->valuedouble;
        r->joules_measured = by_engine;
    }
}

static void read_delta(struct call *c, const cJSON *chunk)
{
    const cJSON *choice = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(chunk, "choices"), 0);
    const cJSON *delta = cJSON_GetObjectItemCaseSensitive(choice, "delta");
    const char *reasoning = text_at(delta, "reasoning_content"), *content = text_at(delta, "content");
    const char *finish = text_at(choice, "finish_reason");
    if (finish)
        copy_text(c->r->finish_reason, sizeof c->r->finish_reason, finish, strlen(finish));
    if (!(reasoning && *reasoning) && !(content && *content))
        return;
    c->last = clock_now(&clock_system);
    if (!c->first.ns)
        c->first = c->last;
    if (reasoning)
        fputs(reasoning, c->out);
    if (content)
        fputs(content, c->out);
    fflush(c->out);
}

static enum rc on_frame(const struct sse_frame *f, void *arg)
{
    struct call *c = arg;
    if (!f->has_data)
        return RC_OK;
    if (f->data_len == 6 && memcmp(f->data, "[DONE]", 6) == 0) {
        c->done = true;
        return RC_OK;
    }
    cJSON *chunk;
    enum rc rc = json_parse(f->data, f->data_len, JSON_DEPTH_MAX, &chunk, c->e);
    if (rc != RC_OK)
        return error_prefix(c->e, "the endpoint sent a chunk that");
    const char *failure = text_at(cJSON_GetObjectItemCaseSensitive(chunk, "error"), "message");
    const char *model = text_at(chunk, "model");
    if (failure)
        rc = error_set(c->e, RC_IO, "the answer was cut off: %s", failure);
    if (model)
        copy_text(c->r->model, sizeof c->r->model, model, strlen(model));
    read_usage(c->r, chunk);
    read_delta(c, chunk);
    cJSON_Delete(chunk);
    return rc;
}

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
    struct call *c = arg;
    size_t len = size * n;
    if (c->sse && c->streamed)
        c->rc = sse_feed(c->sse, data, len, on_frame, c);
    else
        c->rc = strbuf_append(&c->body, data, len);
    return c->rc == RC_OK ? len : 0;
}

/* A refusal's text out of an OpenAI error object, or the status alone. */
static enum rc refused(const struct call *c, const char *url, long status, struct error *e)
{
    cJSON *root = NULL;
    enum rc rc = json_parse(c->body.data ? c->body.data : "", c->body.len, JSON_DEPTH_MAX, &root, NULL);
    const char *text = rc == RC_OK ? text_at(cJSON_GetObjectItemCaseSensitive(root, "error"), "message") : NULL;
    rc = error_set(e, status == 401 || status == 403 ? RC_DENIED : RC_IO, "%s answered %ld%s%s", url, status,
                   text ? ": " : "", text ? text : "");
    cJSON_Delete(root);
    return rc;
}

/* GET, or POST with a body. RC_OK: status 200 and, for a stream, its end was seen. */
static enum rc perform(struct call *c, const struct ask_options *o, const char *path, const char *body, struct error *e)
{
    CURL *curl = curl_easy_init();
    char *url = spw_asprintf("%s%s", o->url, path), *auth = NULL;
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    if (o->api_key) {
        auth = spw_asprintf("Authorization: Bearer %s", o->api_key);
        headers = curl_slist_append(headers, auth);
    }
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_NOPROXY, "127.0.0.1,localhost,::1");
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)o->deadline_ms);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, c);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, c);
    if (body)
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    c->start = clock_now(&clock_system);
    CURLcode code = curl_easy_perform(curl);
    long status = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    enum rc rc = RC_OK;
    if (c->rc != RC_OK)
        rc = c->rc; /* a frame was wrong: its error is set */
    else if (code != CURLE_OK)
        rc = error_set(e, code == CURLE_OPERATION_TIMEDOUT ? RC_TIMEOUT : RC_IO, "%s: %s", url,
                       curl_easy_strerror(code));
    else if (status != 200)
        rc = refused(c, url, status, e);
    else if (c->sse && !c->done)
        rc = error_set(e, RC_IO, "%s: the answer ended without [DONE]", url);
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    free(url);
    free(auth);
    return rc;
}

static enum rc first_model(const struct ask_options *o, char *name, size_t size, struct error *e)
{
    struct ask_result ignored = {0};
    struct call c = {.r = &ignored, .e = e};
    strbuf_init(&c.body, ASK_BODY_MAX);
    enum rc rc = perform(&c, o, "/v1/models", NULL, e);
    cJSON *root = NULL;
    if (rc == RC_OK)
        rc = json_parse(c.body.data ? c.body.data : "", c.body.len, JSON_DEPTH_MAX, &root, e);
    if (rc == RC_OK) {
        const char *id = text_at(cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(root, "data"), 0), "id");
        if (id)
            copy_text(name, size, id, strlen(id));
        else
            rc = error_set(e, RC_NOT_FOUND, "%s lists no model; name one with --model", o->url);
    }
    cJSON_Delete(root);
    strbuf_fini(&c.body);
    return rc;
}

static char *request_body(const struct ask_options *o, const char *model)
{
    cJSON *root = cJSON_CreateObject(), *messages = cJSON_AddArrayToObject(root, "messages");
    const char *texts[2][2] = {{"system", o->system}, {"user", o->question}};
    for (int i = 0; i < 2; i++) {
        if (!texts[i][1])
            continue;
        cJSON *m = cJSON_CreateObject();
        cJSON_AddStringToObject(m, "role", texts[i][0]);
        cJSON_AddStringToObject(m, "content", texts[i][1]);
        cJSON_AddItemToArray(messages, m);
    }
    cJSON_AddStringToObject(root, "model", model);
    cJSON_AddBoolToObject(root, "stream", true);
    cJSON_AddBoolToObject(cJSON_AddObjectToObject(root, "stream_options"), "include_usage", true);
    if (o->temperature >= 0)
        cJSON_AddNumberToObject(root, "temperature", o->temperature);
    if (o->max_tokens > 0)
        cJSON_AddNumberToObject(root, "max_tokens", (double)o->max_tokens);
    char *text = cJSON_PrintUnformatted(root);
    cJSON_Delete(root);
    SPW_ASSERT(text);
    return text;
}

static void read_times(struct ask_result *r, const struct call *c)
{
    r->total_s = (double)mono_since(&clock_system, c->start) / (double)NS_PER_S;
    if (!c->first.ns)
        return;
    r->ttft_s = (double)(c->first.ns - c->start.ns) / (double)NS_PER_S;
    if (r->tokens_out > 1 && c->last.ns > c->first.ns)
        r->tokens_per_s = (double)(r->tokens_out - 1) * (double)NS_PER_S / (double)(c->last.ns - c->first.ns);
}

enum rc ask(const struct ask_options *o, FILE *out, struct ask_result *result, struct error *e)
{
    *result = (struct ask_result){.tokens_in = -1, .tokens_cached = -1, .tokens_out = -1, .joules = -1};
    char model[sizeof result->model];
    if (o->model)
        copy_text(model, sizeof model, o->model, strlen(o->model));
    else {
        enum rc rc = first_model(o, model, sizeof model, e);
        if (rc != RC_OK)
            return rc;
    }
    struct call c = {.out = out, .r = result, .e = e, .sse = sse_new(0)};
    strbuf_init(&c.body, ASK_BODY_MAX);
    char *body = request_body(o, model);
    uint64_t energy_before = 0, energy_after;
    bool counters = energy_read_uj(&energy_before);
    enum rc rc = perform(&c, o, "/v1/chat/completions", body, e);
    read_times(result, &c);
    /* The counters are this machine's: they say something only about a node that runs here. */
    if (counters && strstr(o->url, "://127.") && energy_read_uj(&energy_after)) {
        result->joules = (double)energy_since_uj(energy_before, energy_after, energy_range_uj()) / 1e6;
        result->joules_measured = true;
    }
    cJSON_free(body);
    strbuf_fini(&c.body);
    sse_free(c.sse);
    return rc;
}

enum rc ask_ready(const char *url, struct error *e)
{
    struct ask_result ignored = {0};
    struct call c = {.r = &ignored, .e = e};
    strbuf_init(&c.body, ASK_BODY_MAX);
    struct ask_options o = {.url = url, .deadline_ms = 2000};
    enum rc rc = perform(&c, &o, "/readyz", NULL, e);
    strbuf_fini(&c.body);
    return rc == RC_OK ? RC_OK : RC_AGAIN;
}
