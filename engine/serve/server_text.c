/* POST /tokenize and /detokenize: what a text is in ids, and back, in the form that vLLM's users know.
 *
 *     {"prompt": "...", "add_special_tokens": true} | {"messages": [...]} | {"prompt": [ids]}
 *         -> {"count": 3, "max_model_len": 8192, "tokens": [...], "token_strs": [...] | null}
 *     {"tokens": [...]} -> {"prompt": "..."}
 *
 * A request is read and answered on the worker thread, for a long text takes its time; the loop only sends what came
 * out. */
#include <stdlib.h>
#include <string.h>

#include "engine/serve/call.h"

struct text_call {
    struct worker_task task;
    struct server *s;
    struct http_exchange *x; /* NULL: the client is gone */
    enum text_kind kind;
    enum api_caller caller;
    char *body; /* owned */
    size_t body_len;
    struct strbuf answer;
    struct api_error error; /* status 0: none */
};

static enum rc put_ids(struct strbuf *b, const struct tokens *ids)
{
    enum rc rc = strbuf_puts(b, "[");
    for (size_t i = 0; i < ids->n && !rc; i++)
        rc = strbuf_printf(b, i ? ",%d" : "%d", (int)ids->ids[i]);
    return rc ? rc : strbuf_puts(b, "]");
}

static enum rc put_strs(struct strbuf *b, const struct vocab *v, const struct tokens *ids)
{
    enum rc rc = strbuf_puts(b, "[");
    for (size_t i = 0; i < ids->n && !rc; i++) {
        struct text_span t = vocab_token_text(v, ids->ids[i]);
        rc = i ? strbuf_puts(b, ",") : RC_OK;
        if (!rc)
            rc = json_append_string(b, t.ptr, t.len);
    }
    return rc ? rc : strbuf_puts(b, "]");
}

static bool too_large(struct text_call *c)
{
    return api_fail(&c->error, 400, NULL, NULL, "the answer would be larger than this server can hold");
}

static bool tokenize_request(struct text_call *c, const cJSON *root, struct api_request *r)
{
    const struct serve_model *m = &c->s->model;
    bool special = true, strs = false;
    enum reasoning_start unused;
    struct error e = {0};
    struct tokens ids;
    if (json_get_bool(root, "add_special_tokens", &special, NULL, &e))
        return api_fail(&c->error, 400, "add_special_tokens", NULL, "%s", e.message);
    if (json_get_bool(root, "return_token_strs", &strs, NULL, &e))
        return api_fail(&c->error, 400, "return_token_strs", NULL, "%s", e.message);
    r->bare = !special;
    tokens_init(&ids, CALL_TOKENS_MAX);
    bool ok = call_ids(m, r, &ids, &unused, &c->error);
    if (ok) {
        enum rc rc = strbuf_printf(&c->answer, "{\"count\":%zu,\"max_model_len\":%d,\"tokens\":", ids.n, (int)m->n_ctx);
        if (!rc)
            rc = put_ids(&c->answer, &ids);
        if (!rc)
            rc = strbuf_puts(&c->answer, ",\"token_strs\":");
        if (!rc)
            rc = strs ? put_strs(&c->answer, m->vocab, &ids) : strbuf_puts(&c->answer, "null");
        if (!rc)
            rc = strbuf_puts(&c->answer, "}");
        ok = !rc || too_large(c);
    }
    tokens_fini(&ids);
    return ok;
}

static bool detokenize_request(struct text_call *c, const struct api_request *r)
{
    struct detok d;
    struct strbuf text;
    enum rc rc = RC_OK;
    detok_init(&d, c->s->model.vocab, DETOK_SHOW_SPECIAL | DETOK_TEXT_START);
    strbuf_init(&text, API_BODY_BYTES_MAX);
    for (int32_t i = 0; i < r->n_prompt_ids && !rc; i++)
        rc = detok_push(&d, r->prompt_ids[i], &text);
    if (!rc)
        rc = detok_finish(&d, &text);
    if (!rc)
        rc = strbuf_puts(&c->answer, "{\"prompt\":");
    if (!rc)
        rc = json_append_string(&c->answer, text.len ? text.data : "", text.len);
    if (!rc)
        rc = strbuf_puts(&c->answer, "}");
    strbuf_fini(&text);
    return !rc || too_large(c);
}

/* Ids under the name that /detokenize has for them. False: error, or nothing is left to do. */
static bool rename_tokens(struct text_call *c, cJSON *root)
{
    if (!cJSON_IsObject(root))
        return api_fail(&c->error, 400, NULL, NULL, "the request body must be a JSON object");
    cJSON *ids = cJSON_DetachItemFromObjectCaseSensitive(root, "tokens");
    bool list = cJSON_IsArray(ids) && (!ids->child || cJSON_IsNumber(ids->child)), empty = list && !ids->child;
    cJSON_DeleteItemFromObjectCaseSensitive(root, "prompt");
    if (ids)
        cJSON_AddItemToObject(root, "prompt", ids);
    if (!list)
        return api_fail(&c->error, 400, "tokens", NULL, "tokens %s",
                        ids ? "must be an array of token ids" : "is missing");
    if (empty && strbuf_puts(&c->answer, "{\"prompt\":\"\"}"))
        return too_large(c);
    return !empty;
}

static bool answer_request(void *arg, cJSON *root, struct arena *arena)
{
    struct text_call *c = arg;
    const struct serve_model *m = &c->s->model;
    const struct api_limits limits = {.n_vocab = vocab_size(m->vocab), .n_ctx = m->n_ctx, .caller = c->caller};
    bool chat = c->kind == TEXT_TOKENIZE && cJSON_HasObjectItem(root, "messages");
    struct api_request r;
    if (c->kind == TEXT_DETOKENIZE && !rename_tokens(c, root))
        return false;
    return api_request_read(root, chat ? API_CHAT : API_COMPLETION, &limits, arena, &r, &c->error) &&
           call_names_us(c->s, r.model, &c->error) &&
           (c->kind == TEXT_TOKENIZE ? tokenize_request(c, root, &r) : detokenize_request(c, &r));
}

static void text_run(struct worker_task *t) /* worker thread */
{
    struct text_call *c = (struct text_call *)((char *)t - offsetof(struct text_call, task));
    call_read(&c->body, c->body_len, &c->error, answer_request, c);
}

static void text_done(struct worker_task *t)
{
    struct text_call *c = (struct text_call *)((char *)t - offsetof(struct text_call, task));
    if (c->x && !c->error.status && !c->answer.len) /* never ran: the server is going down */
        api_fail(&c->error, 503, NULL, "draining", "this engine is shutting down");
    if (c->x && c->error.status) {
        server_reply_error(c->s, c->x, &c->error);
    } else if (c->x) {
        const struct http_header h[] = {{"content-type", "application/json"}};
        c->s->counters.responses[2]++;
        http_reply(c->x, 200, h, 1, c->answer.data, c->answer.len);
    }
    strbuf_fini(&c->answer);
    free(c->body);
    free(c);
}

static void on_abort(struct http_exchange *x, void *state)
{
    (void)x;
    ((struct text_call *)state)->x = NULL;
}

void server_text_start(struct server *s, struct http_exchange *x, enum text_kind kind, enum api_caller caller)
{
    struct text_call *c = spw_calloc(1, sizeof *c);
    *c = (struct text_call){
        .s = s, .x = x, .kind = kind, .caller = caller, .task = {.run = text_run, .done = text_done}};
    strbuf_init(&c->answer, API_BODY_BYTES_MAX);
    const char *body = http_request_body(x, &c->body_len);
    c->body = spw_strndup(body, c->body_len);
    http_exchange_set(x, c, on_abort);
    if (worker_submit(s->worker, &c->task)) {
        api_fail(&c->error, 503, NULL, "queue_full", "too many requests arrive at once; try again shortly");
        text_done(&c->task);
    }
}
