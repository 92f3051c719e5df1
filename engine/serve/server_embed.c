/* POST /v1/embeddings: {"input": text | ids | a list of either, "encoding_format": "float" | "base64", "pooling":
 * "mean" | "last"} -> one vector of length 1 for each input, in OpenAI's form. "pooling" is ours; the mean of the
 * states of all tokens is what a model that was not trained for embeddings is asked for most.
 *
 *     start --worker: parse, tokenise--> prepared --a few jobs at once, until all inputs are through--> answer
 *
 * Belongs to the loop thread, except while the task is with the worker. */
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "engine/serve/call.h"

#define INPUTS_MAX 2048 /* as in the OpenAI API */
#define AT_ONCE    4    /* of one request: the others' turn is not far */

struct embedding {
    struct embed_call *call;
    int32_t *ids; /* owned until its job is made */
    int32_t n_ids;
    struct batch_job *job;
    float *vector; /* owned; n_embd */
};

struct embed_call {
    struct worker_task task;
    struct server *s;
    struct embed_call *next, **link; /* in the server's list; *link is this */
    struct event *queue_ev;          /* the end of its patience while the first input waits for a slot, or NULL */
    struct http_exchange *x;         /* NULL: the client is gone */
    enum api_caller caller;
    char *body; /* owned */
    size_t body_len;
    bool base64;
    enum batch_pool pool;
    struct prefix_salt salt;
    struct embedding *inputs; /* owned */
    int n, n_started, n_done;
    int64_t tokens;
    struct batch_usage usage; /* only what steps were for it */
    struct api_error error;   /* status 0: none */
};

static void embed_free(struct embed_call *c)
{
    if (c->queue_ev)
        event_free(c->queue_ev);
    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
    for (int i = 0; i < c->n; i++) {
        SPW_ASSERT(!c->inputs[i].job);
        free(c->inputs[i].ids);
        free(c->inputs[i].vector);
    }
    free(c->inputs);
    free(c->body);
    free(c);
}

/* Worker thread. */

static struct api_limits limits_of(const struct embed_call *c)
{
    const struct serve_model *m = &c->s->model;
    return (struct api_limits){.n_vocab = vocab_size(m->vocab), .n_ctx = m->n_ctx, .caller = c->caller};
}

/* One input as if it were a completion's prompt: the same reading, the same ids. */
static bool add_input(struct embed_call *c, const cJSON *input, struct arena *arena)
{
    const struct serve_model *m = &c->s->model;
    const struct api_limits limits = limits_of(c);
    struct embedding *e = &c->inputs[c->n];
    enum reasoning_start unused;
    struct api_request r;
    struct tokens ids;
    bool is_ids = cJSON_IsArray(input) && cJSON_IsNumber(input->child);
    if (!cJSON_IsString(input) && !is_ids)
        return api_fail(&c->error, 400, "input", NULL, "input %d must be a text or an array of token ids", c->n);
    if (!is_ids && !input->valuestring[0]) /* a mark of the beginning may stand before it, and means nothing alone */
        return api_fail(&c->error, 400, "input", NULL, "input %d is an empty text", c->n);
    cJSON *root = cJSON_CreateObject();
    cJSON_AddItemReferenceToObject(root, "prompt", (cJSON *)(uintptr_t)input);
    tokens_init(&ids, CALL_TOKENS_MAX);
    bool ok = api_request_read(root, API_COMPLETION, &limits, arena, &r, &c->error) &&
              call_ids(m, &r, &ids, &unused, &c->error);
    cJSON_Delete(root);
    if (ok && (ids.n == 0 || ids.n > (size_t)m->n_ctx - 1))
        ok = api_fail(&c->error, 400, "input", ids.n ? "context_length_exceeded" : NULL,
                      "input %d has %zu tokens; 1 to %d can be embedded", c->n, ids.n, (int)m->n_ctx - 1);
    if (!ok) {
        snprintf(c->error.param, sizeof c->error.param, "input");
        tokens_fini(&ids);
        return false;
    }
    *e = (struct embedding){.call = c, .ids = ids.ids, .n_ids = (int32_t)ids.n};
    c->tokens += e->n_ids;
    c->n++;
    return true;
}

static bool read_inputs(struct embed_call *c, const cJSON *input, struct arena *arena)
{
    bool many = cJSON_IsArray(input) && input->child && !cJSON_IsNumber(input->child);
    int n = many ? cJSON_GetArraySize(input) : 1;
    if (!input || (cJSON_IsArray(input) && !input->child))
        return api_fail(&c->error, 400, "input", NULL, "input is missing: a text, token ids, or a list of either");
    if (n > INPUTS_MAX)
        return api_fail(&c->error, 400, "input", NULL, "input has %d members; at most %d are allowed", n, INPUTS_MAX);
    c->inputs = spw_calloc((size_t)n, sizeof *c->inputs);
    if (!many)
        return add_input(c, input, arena);
    for (const cJSON *item = input->child; item; item = item->next)
        if (!add_input(c, item, arena))
            return false;
    return true;
}

/* One of two words; the first is the default. */
static bool read_word(struct embed_call *c, const cJSON *root, const char *key, const char *first, const char *second,
                      bool *is_second)
{
    const char *word = first;
    struct error e = {0};
    if (json_get_string(root, key, &word, NULL, &e))
        return api_fail(&c->error, 400, key, NULL, "%s", e.message);
    *is_second = strcmp(word, second) == 0;
    return *is_second || strcmp(word, first) == 0 ||
           api_fail(&c->error, 400, key, NULL, "%s must be \"%s\" or \"%s\"", key, first, second);
}

static bool read_request(void *arg, cJSON *root, struct arena *arena)
{
    struct embed_call *c = arg;
    const char *model = NULL;
    struct error e = {0};
    bool last = false;
    if (!cJSON_IsObject(root))
        return api_fail(&c->error, 400, NULL, NULL, "the request body must be a JSON object");
    if (json_get_string(root, "model", &model, NULL, &e))
        return api_fail(&c->error, 400, "model", NULL, "%s", e.message);
    const cJSON *dimensions = cJSON_GetObjectItemCaseSensitive(root, "dimensions");
    if (dimensions && !cJSON_IsNull(dimensions))
        return api_fail(&c->error, 400, "dimensions", "unsupported_parameter",
                        "dimensions is not supported by this engine; leave it out");
    if (!call_names_us(c->s, model, &c->error) ||
        !read_word(c, root, "encoding_format", "float", "base64", &c->base64) ||
        !read_word(c, root, "pooling", "mean", "last", &last))
        return false;
    c->pool = last ? BATCH_POOL_LAST : BATCH_POOL_MEAN;
    const struct api_limits limits = limits_of(c);
    struct api_request node = {0};
    if (!api_request_node_fields(root, &limits, arena, &node, &c->error))
        return false;
    call_salt(&c->salt, node.salt);
    return read_inputs(c, cJSON_GetObjectItemCaseSensitive(root, "input"), arena);
}

static void embed_run(struct worker_task *t)
{
    struct embed_call *c = (struct embed_call *)((char *)t - offsetof(struct embed_call, task));
    call_read(&c->body, c->body_len, &c->error, read_request, c);
}

/* Loop thread. */

static enum rc put_vector(struct strbuf *b, const struct embed_call *c, const float *v)
{
    int32_t n = c->s->model.n_embd;
    if (c->base64) { /* little-endian float32, as clients expect it: the only order that this program is built for */
        size_t bytes = (size_t)n * sizeof *v;
        char *text = spw_calloc(4 * (bytes / 3 + 1) + 1, 1);
        EVP_EncodeBlock((unsigned char *)text, (const unsigned char *)v, (int)bytes);
        enum rc rc = strbuf_printf(b, "\"%s\"", text);
        free(text);
        return rc;
    }
    enum rc rc = strbuf_puts(b, "[");
    for (int32_t i = 0; i < n && !rc; i++)
        rc = strbuf_printf(b, i ? ",%.9g" : "%.9g", (double)v[i]);
    return rc ? rc : strbuf_puts(b, "]");
}

static enum rc put_answer(struct strbuf *b, const struct embed_call *c)
{
    enum rc rc = strbuf_puts(b, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < c->n && !rc; i++) {
        rc = strbuf_printf(b, "%s{\"object\":\"embedding\",\"index\":%d,\"embedding\":", i ? "," : "", i);
        if (!rc)
            rc = put_vector(b, c, c->inputs[i].vector);
        if (!rc)
            rc = strbuf_puts(b, "}");
    }
    if (!rc)
        rc = strbuf_puts(b, "],\"model\":");
    if (!rc)
        rc = json_append_string(b, c->s->o.model_id, strlen(c->s->o.model_id));
    return rc ? rc
              : strbuf_printf(b, ",\"usage\":{\"prompt_tokens\":%lld,\"total_tokens\":%lld}}", (long long)c->tokens,
                              (long long)c->tokens);
}

static void cancel_jobs(struct embed_call *c)
{
    for (int i = 0; i < c->n; i++) {
        if (c->inputs[i].job)
            batcher_cancel(c->s->batcher, c->inputs[i].job);
        c->inputs[i].job = NULL;
    }
}

/* Answer, with the vectors or the error, and end. */
static void embed_end(struct embed_call *c)
{
    struct strbuf b;
    char use[API_USE_BYTES];
    const struct http_header h[] = {{"content-type", "application/json"}, {API_USE_HEADER, use}};
    api_write_use(use, &c->usage);
    cancel_jobs(c);
    strbuf_init(&b, API_BODY_BYTES_MAX);
    if (!c->error.status && put_answer(&b, c))
        api_fail(&c->error, 400, "input", NULL, "the answer would be larger than this server can hold");
    if (c->error.status) {
        server_reply_error(c->s, c->x, &c->error);
    } else {
        c->s->counters.responses[2]++;
        http_reply(c->x, 200, h, c->caller == API_CALLER_SCHEDULER ? 2 : 1, b.data, b.len);
    }
    strbuf_fini(&b);
    embed_free(c);
}

static void start_some(struct embed_call *c);

static void on_output(struct batch_job *job, const struct batch_output *out, void *arg)
{
    struct embedding *e = arg;
    struct embed_call *c = e->call;
    (void)job;
    if (out->finish == BATCH_RUNNING)
        return;
    e->job = NULL;
    if (out->finish == BATCH_FAILED || !out->embedding) {
        api_fail(&c->error, 500, NULL, "engine_error", "%s", out->error.message);
        embed_end(c);
        return;
    }
    size_t bytes = (size_t)c->s->model.n_embd * sizeof *e->vector;
    e->vector = spw_calloc(bytes, 1);
    memcpy(e->vector, out->embedding, bytes);
    call_add_uses(&c->usage, &out->usage);
    c->n_done++;
    start_some(c);
}

/* The first one waits for room like any request; the others of it are let in with it. Ends the call where it is over. */
static void start_some(struct embed_call *c)
{
    struct error e = {0};
    for (; c->n_started < c->n && c->n_started - c->n_done < AT_ONCE; c->n_started++) {
        struct embedding *in = &c->inputs[c->n_started];
        const struct batch_job_options o = {.ids = in->ids,
                                            .n_ids = in->n_ids,
                                            .max_tokens = 1,
                                            .salt = c->salt,
                                            .pool = c->pool,
                                            .sibling = c->n_started > 0,
                                            .on_output = on_output,
                                            .arg = in};
        struct batch_job *job = batch_job_new(&o);
        in->ids = NULL;
        if (batcher_submit(c->s->batcher, job, &e)) {
            batch_job_free(job);
            api_fail(&c->error, 503, NULL, "queue_full", "%s; try again shortly", e.message);
            break;
        }
        in->job = job;
    }
    if (c->error.status || c->n_done == c->n)
        embed_end(c);
}

/* It may run by now: only the batcher knows. What waits beside the first was let in with it, and leaves with it. */
static void queue_deadline_cb(evutil_socket_t fd, short what, void *arg)
{
    struct embed_call *c = arg;
    struct embedding *first = &c->inputs[0];
    (void)fd;
    (void)what;
    if (!server_withdraw(c->s, &first->job))
        return;
    (void)server_queue_timeout(c->s, &c->error);
    embed_end(c);
}

static void embed_done(struct worker_task *t)
{
    struct embed_call *c = (struct embed_call *)((char *)t - offsetof(struct embed_call, task));
    if (!c->x) {
        embed_free(c);
        return;
    }
    if (!c->error.status && c->n == 0) /* never ran: the server is going down */
        api_fail(&c->error, 503, NULL, "draining", "this engine is shutting down");
    if (c->error.status) {
        embed_end(c);
        return;
    }
    c->queue_ev = server_queue_deadline(c->s, queue_deadline_cb, c);
    start_some(c);
}

void server_embeds_cut(struct server *s)
{
    for (struct embed_call *c = s->embeds, *next; c; c = next) {
        struct api_error e;
        next = c->next;
        if (!c->x)
            continue; /* only its task is left */
        (void)server_cut_error(&e);
        if (c->n_started > 0) {
            c->error = e;
            embed_end(c);
        } else { /* with the worker, which gives it back to embed_done() */
            server_reply_error(s, c->x, &e);
            c->x = NULL;
        }
    }
}

static void on_abort(struct http_exchange *x, void *state)
{
    struct embed_call *c = state;
    (void)x;
    c->x = NULL;
    c->s->counters.aborted++;
    if (c->n_started == 0)
        return; /* with the worker, which gives it back to embed_done() */
    cancel_jobs(c);
    embed_free(c);
}

void server_embed_start(struct server *s, struct http_exchange *x, enum api_caller caller)
{
    struct embed_call *c = spw_calloc(1, sizeof *c);
    *c = (struct embed_call){.s = s,
                             .next = s->embeds,
                             .link = &s->embeds,
                             .x = x,
                             .caller = caller,
                             .task = {.run = embed_run, .done = embed_done}};
    if (c->next)
        c->next->link = &c->next;
    s->embeds = c;
    const char *body = http_request_body(x, &c->body_len);
    c->body = spw_strndup(body, c->body_len);
    s->counters.requests++;
    http_exchange_set(x, c, on_abort);
    if (worker_submit(s->worker, &c->task)) {
        api_fail(&c->error, 503, NULL, "queue_full", "too many requests arrive at once; try again shortly");
        embed_end(c);
    }
}
