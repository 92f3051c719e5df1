/* One completion request from its bytes to its answer.
 *
 *     start --worker: parse, template, tokenise--> prepared --submit--> running --output*--> ended
 *        \                    \--error reply--------> ended               |
 *         \--client gone: the worker's done() frees it                    \--client gone: cancel, freed
 *
 * A call belongs to the loop thread, except while its task is with the worker; then only `x` (NULL: the client is gone)
 * may be touched here. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/sha256.h"
#include "engine/serve/server_internal.h"

#define CALL_MAGIC        0x63616c6cu
#define PROMPT_BYTES_MAX  ((size_t)96 << 20) /* a rendered chat; bodies are at most 32 MiB */
#define PROMPT_TOKENS_MAX ((size_t)1 << 24)
#define PENDING_HIGH      ((size_t)256 << 10) /* bytes a slow reader may be behind before its sequence pauses */
#define PENDING_LOW       ((size_t)64 << 10)

struct call {
    unsigned magic;
    struct call *next, **link; /* in the server's list; *link is this */
    struct worker_task task;
    struct server *s;
    struct http_exchange *x; /* NULL: the client is gone */
    struct mono start;       /* the request's first byte */
    char id[40];
    struct api_answer answer; /* what its objects share */
    /* In, for the worker. */
    char *body; /* owned */
    size_t body_len;
    /* Out of the worker. */
    bool prepared; /* else error */
    struct api_error error;
    bool stream;
    bool resumed;
    enum batch_finish ended;              /* what a resumed answer had come to already; BATCH_RUNNING: it goes on */
    struct batch_job_options job_options; /* ids, sampler and answer owned until the job is made */
    /* Running. */
    struct batch_job *job;  /* the batcher's; NULL before and after */
    struct event *queue_ev; /* the end of its patience while it waits for a slot, or NULL */
    bool begun;             /* the head of the answer is out */
    size_t text_offset;
    struct batch_output whole; /* of an answer that is not streamed */
};

static struct call *call_of(struct worker_task *t)
{
    struct call *c = (struct call *)((char *)t - offsetof(struct call, task));
    SPW_ASSERT(c->magic == CALL_MAGIC);
    return c;
}

static void call_free(struct call *c)
{
    SPW_ASSERT(c->magic == CALL_MAGIC && !c->job);
    if (c->queue_ev)
        event_free(c->queue_ev);
    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
    c->magic = 0;
    free(c->body);
    free(c->job_options.ids);
    sampler_free(c->job_options.sampler);
    answer_free(c->job_options.answer);
    strbuf_fini(&c->whole.content);
    strbuf_fini(&c->whole.reasoning);
    free(c->whole.ids);
    free(c->whole.samples);
    free(c);
}

/* Worker thread: from bytes to ids. */

static bool fail_rc(struct api_error *out, const char *param, const struct error *e)
{
    return api_fail(out, e->code == RC_INTERNAL ? 500 : 400, param, NULL, "%s", e->message);
}

static enum rc render(const struct serve_model *m, const struct api_request *r, const struct chat_options *o,
                      struct tokens *ids, struct error *e)
{
    struct chat_messages messages;
    struct chat_prompt prompt;
    enum rc rc = chat_messages_parse(r->messages, &messages, e);
    if (rc)
        return rc;
    chat_prompt_init(&prompt, PROMPT_BYTES_MAX);
    rc = chat_template_render(m->chat, &messages, o, &prompt, e);
    if (!rc)
        rc = tokenize_segments(m->vocab, prompt.text.data, prompt.text.len, prompt.segments, prompt.n_segments,
                               TOKENIZE_ADD_SPECIAL, ids, e);
    chat_prompt_fini(&prompt);
    chat_messages_fini(&messages);
    return rc;
}

/* The prompt's ids, and how the reasoning parser has to start. */
static bool make_ids(const struct serve_model *m, const struct api_request *r, struct tokens *ids,
                     enum reasoning_start *reasoning, struct api_error *error)
{
    struct error e = {0};
    enum rc rc = RC_OK;
    *reasoning = REASONING_OFF;
    if (r->kind == API_CHAT) {
        struct chat_options o = {.thinking_off = r->thinking_off};
        if (!m->chat)
            return api_fail(error, 400, NULL, "no_chat_template", "%s", m->chat_missing);
        if (vocab_bos(m->vocab) >= 0)
            o.bos = vocab_token_text(m->vocab, vocab_bos(m->vocab));
        rc = render(m, r, &o, ids, &e);
        if (chat_template_reasons(m->chat))
            *reasoning = chat_template_starts_in_reasoning(m->chat, &o) ? REASONING_INSIDE : REASONING_OUTSIDE;
    } else if (r->prompt) {
        rc = tokenize(m->vocab, r->prompt, strlen(r->prompt), TOKENIZE_ADD_SPECIAL, ids, &e);
    } else {
        for (int32_t i = 0; i < r->n_prompt_ids && !rc; i++)
            rc = tokens_push(ids, r->prompt_ids[i]);
    }
    const char *param = r->kind == API_CHAT ? "messages" : "prompt";
    if (rc == RC_FULL)
        return api_fail(error, 400, param, "context_length_exceeded", "the prompt is far too long: %s", e.message);
    if (rc)
        return fail_rc(error, param, &e);
    if (ids->n == 0)
        return api_fail(error, 400, param, NULL, "%s is empty, and this vocabulary has no token to begin with", param);
    if (ids->n >= (size_t)m->n_ctx)
        return api_fail(error, 400, param, "context_length_exceeded",
                        "the prompt has %zu tokens; this model's context holds %d, of which at least one is for the "
                        "answer",
                        ids->n, (int)m->n_ctx);
    return true;
}

static uint64_t random_u64(void)
{
    uint64_t v = 0;
    while (getrandom(&v, sizeof v, 0) != (ssize_t)sizeof v)
        ; /* interrupted before the pool is ready, early in the machine's life */
    return v;
}

static bool make_sampler(struct call *c, struct api_request *r)
{
    struct server *s = c->s;
    struct error e = {0};
    if (!r->has_seed)
        r->sampling.seed = random_u64();
    if (!r->ignore_eos) {
        r->sampling.end_ids = s->end_ids;
        r->sampling.n_end_ids = s->n_end_ids;
    }
    if (sampler_new(&r->sampling, s->model.n_vocab, &c->job_options.sampler, &e))
        return fail_rc(&c->error, NULL, &e);
    return true;
}

static bool make_answer(struct call *c, const struct api_request *r, enum reasoning_start reasoning)
{
    struct error e = {0};
    const struct answer_options o = {
        .vocab = c->s->model.vocab,
        .stop = r->stop,
        .n_stop = r->n_stop,
        .end_ids = c->s->end_ids,
        .n_end_ids = c->s->n_end_ids,
        .ignore_end = r->ignore_eos,
        .reasoning = reasoning,
    };
    if (answer_new(&o, &c->job_options.answer, &e))
        return fail_rc(&c->error, "stop", &e);
    return true;
}

/* Half of SHA-256 keeps salts apart, whatever clients make of them; without one it is the salt of those without one. */
static void set_salt(struct prefix_salt *salt, const char *text)
{
    uint8_t digest[SHA256_BYTES];
    if (!text)
        return;
    sha256(text, strlen(text), digest);
    memcpy(salt->bytes, digest, sizeof salt->bytes);
}

/* Take the answer through the ids it has, without their text. Whatever it held back after them it holds back again. */
static bool replay(struct call *c, const struct api_request *r, struct tokens *ids)
{
    struct answer *a = c->job_options.answer;
    struct error e = {0};
    if (r->n_resume_ids > c->s->model.n_ctx - (int32_t)ids->n)
        return api_fail(&c->error, 400, "spillway_resume", "context_length_exceeded",
                        "the prompt has %zu tokens and the answer so far %d; this model's context holds %d", ids->n,
                        (int)r->n_resume_ids, (int)c->s->model.n_ctx);
    for (int32_t i = 0; i < r->n_resume_ids; i++) {
        if (c->ended != BATCH_RUNNING)
            return api_fail(&c->error, 400, "spillway_resume", NULL, "spillway_resume: the answer ends before ids[%d]",
                            (int)i);
        enum rc rc = tokens_push(ids, r->resume_ids[i]);
        if (!rc)
            rc = answer_push(a, r->resume_ids[i], &e);
        if (rc)
            return fail_rc(&c->error, "spillway_resume", &e);
        if (a->state == ANSWER_ENDED)
            c->ended = BATCH_STOP;
        else if (a->n_tokens >= c->job_options.max_tokens)
            c->ended = BATCH_LENGTH; /* what was held back went out with this id */
        strbuf_clear(&a->content);
        strbuf_clear(&a->reasoning);
    }
    c->resumed = r->resumed;
    c->job_options.n_resumed = r->n_resume_ids;
    c->text_offset = api_text_offset(c->s->model.vocab, r->resume_ids, r->n_resume_ids);
    return true;
}

static bool prepare_request(struct call *c, struct api_request *r)
{
    const struct serve_model *m = &c->s->model;
    enum reasoning_start reasoning;
    struct tokens ids;
    if (r->model && strcmp(r->model, c->s->o.model_id) != 0)
        return api_fail(&c->error, 404, "model", "model_not_found",
                        "the model '%.100s' does not exist; this engine serves '%.200s'", r->model, c->s->o.model_id);
    tokens_init(&ids, PROMPT_TOKENS_MAX);
    bool ok = make_ids(m, r, &ids, &reasoning, &c->error) && make_sampler(c, r) && make_answer(c, r, reasoning);
    if (ok) {
        int32_t room = m->n_ctx - (int32_t)ids.n;
        c->job_options.max_tokens = r->max_tokens && r->max_tokens < room ? r->max_tokens : room;
        ok = replay(c, r, &ids);
    }
    if (!ok) {
        tokens_fini(&ids);
        return false;
    }
    c->job_options.ids = ids.ids;
    c->job_options.n_ids = (int32_t)ids.n;
    c->job_options.want_samples = r->logprobs;
    set_salt(&c->job_options.salt, r->salt);
    c->stream = r->stream;
    c->answer.include_usage = r->include_usage;
    c->answer.logprobs = r->logprobs;
    c->answer.n_top = r->sampling.n_top;
    return true;
}

static void prepare_run(struct worker_task *t)
{
    struct call *c = call_of(t);
    struct error e = {0};
    cJSON *root = NULL;
    struct arena *arena = arena_new(API_REQUEST_ARENA_BYTES);
    struct api_request r;
    const struct api_limits limits = {
        .n_vocab = vocab_size(c->s->model.vocab), .n_ctx = c->s->model.n_ctx, .caller = c->answer.caller};
    if (json_parse(c->body, c->body_len, JSON_DEPTH_MAX, &root, &e))
        api_fail(&c->error, 400, NULL, "invalid_json", "the request body is not valid JSON: %s", e.message);
    else
        c->prepared = api_request_read(root, c->answer.kind, &limits, arena, &r, &c->error) && prepare_request(c, &r);
    cJSON_Delete(root);
    arena_free(arena);
    free(c->body); /* not needed any more, and it may be large */
    c->body = NULL;
}

/* Loop thread: the answer. */

static void begin_stream(struct call *c)
{
    const struct http_header h[] = {
        {"content-type", "text/event-stream"},
        {"cache-control", "no-cache"},
        {"x-accel-buffering", "no"}, /* proxies must not collect the stream */
        {"x-request-id", c->id},
    };
    c->s->counters.responses[2]++;
    http_reply_start(c->x, 200, h, sizeof h / sizeof *h);
    c->begun = true;
}

static void send_scratch(struct call *c)
{
    struct strbuf *b = &c->s->scratch;
    if (b->len)
        http_reply_write(c->x, b->data, b->len);
    strbuf_clear(b);
}

/* The exchange has its answer: nothing of it may be touched any more. */
static void call_end(struct call *c)
{
    c->x = NULL;
    call_free(c);
}

static void resume_cb(struct http_exchange *x, void *state)
{
    struct call *c = state;
    (void)x;
    if (c->job)
        batcher_set_flow(c->s->batcher, c->job, BATCH_FLOW);
}

/* A reader that falls behind stops its sequence, not the memory. One that never catches up runs into the HTTP server's
 * write deadline, which ends the call. */
static void heed_backpressure(struct call *c)
{
    if (http_reply_pending(c->x) <= PENDING_HIGH)
        return;
    batcher_set_flow(c->s->batcher, c->job, BATCH_PAUSE);
    http_reply_on_drain(c->x, PENDING_LOW, resume_cb);
}

static void fail_answer(struct call *c, const char *message)
{
    struct api_error e;
    api_fail(&e, 500, NULL, "engine_error", "%s", message);
    log_error(c->s->o.log, "serve", "request failed", LOG_S("id", c->id), LOG_S("error", message));
    strbuf_clear(&c->s->scratch);
    if (!c->begun) {
        server_reply_error(c->s, c->x, &e);
        return;
    }
    struct strbuf *b = &c->s->scratch;
    (void)strbuf_puts(b, "data: ");
    (void)api_write_error(b, &e);
    (void)strbuf_puts(b, "\n\n");
    send_scratch(c);
    http_reply_end(c->x); /* without [DONE]: the client sees that it is incomplete */
}

static enum rc stream_output(struct call *c, const struct batch_output *out)
{
    struct strbuf *b = &c->s->scratch;
    enum api_chunk_place place = c->begun || c->resumed ? API_CHUNK_LATER : API_CHUNK_FIRST;
    if (!c->begun)
        begin_stream(c);
    bool last = out->finish != BATCH_RUNNING;
    enum rc rc = api_write_chunk(b, &c->answer, out, place, &c->text_offset);
    if (!rc && last && c->answer.include_usage)
        rc = api_write_usage_chunk(b, &c->answer, &out->usage);
    if (!rc && last)
        rc = api_write_done(b);
    if (rc)
        return rc;
    send_scratch(c);
    if (last)
        http_reply_end(c->x);
    else
        heed_backpressure(c);
    return RC_OK;
}

/* Gather what is not streamed. */
static enum rc whole_add(struct batch_output *w, const struct batch_output *out)
{
    enum rc rc = strbuf_append(&w->content, out->content.data, out->content.len);
    if (!rc)
        rc = strbuf_append(&w->reasoning, out->reasoning.data, out->reasoning.len);
    if (out->samples && out->n_ids) {
        size_t n = (size_t)w->n_ids + (size_t)out->n_ids;
        w->ids = spw_realloc(w->ids, n * sizeof *w->ids);
        w->samples = spw_realloc(w->samples, n * sizeof *w->samples);
        memcpy(w->ids + w->n_ids, out->ids, (size_t)out->n_ids * sizeof *w->ids);
        memcpy(w->samples + w->n_ids, out->samples, (size_t)out->n_ids * sizeof *w->samples);
        w->n_ids = (int32_t)n;
    }
    w->finish = out->finish;
    w->usage = out->usage;
    return rc;
}

static enum rc send_body(struct call *c)
{
    struct strbuf *b = &c->s->scratch;
    const struct http_header h[] = {{"content-type", "application/json"}, {"x-request-id", c->id}};
    enum rc rc = api_write_body(b, &c->answer, &c->whole);
    if (rc)
        return rc;
    c->s->counters.responses[2]++;
    http_reply(c->x, 200, h, 2, b->data, b->len);
    strbuf_clear(b);
    return RC_OK;
}

static enum rc gather_output(struct call *c, const struct batch_output *out)
{
    enum rc rc = whole_add(&c->whole, out);
    return rc || out->finish == BATCH_RUNNING ? rc : send_body(c);
}

static void account(struct call *c, const struct batch_output *out)
{
    struct serve_counters *k = &c->s->counters;
    int64_t e2e = mono_since(c->s->o.clock, c->start),
            ttft = out->first_token.ns ? out->first_token.ns - c->start.ns : 0;
    histogram_observe(&k->e2e, (double)e2e / NS_PER_S);
    if (out->first_token.ns)
        histogram_observe(&k->ttft, (double)ttft / NS_PER_S);
    histogram_observe(&k->prompt_tokens, out->usage.prompt);
    histogram_observe(&k->generation_tokens, out->usage.completion);
    log_debug(c->s->o.log, "serve", "request done", LOG_S("id", c->id), LOG_I("prompt_tokens", out->usage.prompt),
              LOG_I("completion_tokens", out->usage.completion), LOG_I("ttft_us", ttft / NS_PER_US),
              LOG_I("total_us", e2e / NS_PER_US));
}

static void on_output(struct batch_job *job, const struct batch_output *out, void *arg)
{
    struct call *c = arg;
    (void)job;
    SPW_ASSERT(c->magic == CALL_MAGIC && c->x);
    bool last = out->finish != BATCH_RUNNING;
    if (last) {
        c->job = NULL; /* the batcher frees it after this call */
        account(c, out);
    }
    enum rc rc = RC_OK;
    if (out->finish == BATCH_FAILED)
        fail_answer(c, out->error.message);
    else if (c->stream)
        rc = stream_output(c, out);
    else
        rc = gather_output(c, out);
    if (rc) {
        if (c->job)
            batcher_cancel(c->s->batcher, c->job);
        c->job = NULL;
        fail_answer(c, "the answer is larger than this server can hold");
    }
    if (last || rc)
        call_end(c);
}

/* Loop thread: the beginning. */

static void on_abort(struct http_exchange *x, void *state)
{
    struct call *c = state;
    (void)x;
    SPW_ASSERT(c->magic == CALL_MAGIC);
    c->x = NULL;
    c->s->counters.aborted++;
    log_debug(c->s->o.log, "serve", "client went away", LOG_S("id", c->id));
    if (!c->job)
        return; /* with the worker, which gives it back to prepare_done() */
    batcher_cancel(c->s->batcher, c->job);
    c->job = NULL;
    call_free(c);
}

static void reply_and_end(struct call *c)
{
    server_reply_error(c->s, c->x, &c->error);
    call_end(c);
}

/* It may run by now: only the batcher knows. */
static void queue_deadline_cb(evutil_socket_t fd, short what, void *arg)
{
    struct call *c = arg;
    (void)fd;
    (void)what;
    SPW_ASSERT(c->magic == CALL_MAGIC);
    if (!c->job || !batcher_withdraw(c->s->batcher, c->job))
        return;
    batch_job_free(c->job);
    c->job = NULL;
    api_fail(&c->error, 503, NULL, "queue_timeout", "no slot was free for %lld seconds; try again shortly",
             (long long)c->s->o.queue_ms / 1000);
    reply_and_end(c);
}

static void arm_queue_deadline(struct call *c)
{
    int64_t ms = c->s->o.queue_ms;
    struct timeval limit = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    if (ms == 0)
        return;
    c->queue_ev = event_new(c->s->loop, -1, 0, queue_deadline_cb, c);
    if (c->queue_ev)
        (void)event_add(c->queue_ev, &limit);
}

/* Nothing is left to compute of a resumed answer: the client lacks only its end. */
static void answer_ended(struct call *c)
{
    const struct answer *a = c->job_options.answer;
    struct batch_output out = {.finish = c->ended};
    out.usage = (struct batch_usage){
        .prompt = c->job_options.n_ids - c->job_options.n_resumed,
        .completion = a->n_tokens,
        .reasoning = a->n_reasoning,
    };
    account(c, &out);
    if (stream_output(c, &out))
        fail_answer(c, "the answer is larger than this server can hold");
    call_end(c);
}

static void prepare_done(struct worker_task *t)
{
    struct call *c = call_of(t);
    struct error e = {0};
    if (!c->x) {
        call_free(c);
        return;
    }
    if (!c->prepared) {
        if (!c->error.status) /* never ran: the server is going down */
            api_fail(&c->error, 503, NULL, "draining", "this engine is shutting down");
        reply_and_end(c);
        return;
    }
    if (c->ended != BATCH_RUNNING) {
        answer_ended(c);
        return;
    }
    c->job_options.on_output = on_output;
    c->job_options.arg = c;
    struct batch_job *job = batch_job_new(&c->job_options);
    c->job_options.ids = NULL;
    c->job_options.sampler = NULL;
    c->job_options.answer = NULL;
    if (batcher_submit(c->s->batcher, job, &e)) {
        batch_job_free(job);
        api_fail(&c->error, 503, NULL, "queue_full", "%s; try again shortly", e.message);
        reply_and_end(c);
        return;
    }
    c->job = job;
    arm_queue_deadline(c);
}

static void make_id(char *buf, size_t size, const char *prefix)
{
    snprintf(buf, size, "%s-%016llx%08llx", prefix, (unsigned long long)random_u64(),
             (unsigned long long)(random_u64() & 0xffffffff));
}

static void call_link(struct call *c, struct server *s)
{
    c->s = s;
    c->next = s->calls;
    c->link = &s->calls;
    if (c->next)
        c->next->link = &c->next;
    s->calls = c;
}

void server_calls_cut(struct server *s)
{
    struct api_error e;
    api_fail(&e, 503, NULL, "draining", "this engine is shutting down, and its time for answers is over");
    for (struct call *c = s->calls, *next; c; c = next) {
        next = c->next;
        if (!c->x)
            continue; /* only its task is left */
        if (c->begun)
            http_reply_abort(c->x);
        else
            server_reply_error(s, c->x, &e);
        c->x = NULL;
        if (!c->job)
            continue; /* with the worker, which gives it back to prepare_done() */
        batcher_cancel(s->batcher, c->job);
        c->job = NULL;
        call_free(c);
    }
}

void server_call_start(struct server *s, struct http_exchange *x, enum api_kind kind, enum api_caller caller)
{
    struct call *c = spw_calloc(1, sizeof *c);
    c->magic = CALL_MAGIC;
    call_link(c, s);
    c->x = x;
    c->start.ns = http_exchange_start_ns(x);
    make_id(c->id, sizeof c->id, kind == API_CHAT ? "chatcmpl" : "cmpl");
    c->answer = (struct api_answer){
        .kind = kind,
        .id = c->id,
        .model = s->o.model_id,
        .fingerprint = s->model.fingerprint,
        .created = clock_wall(s->o.clock).ns / NS_PER_S,
        .vocab = s->model.vocab,
        .caller = caller,
    };
    strbuf_init(&c->whole.content, ANSWER_BYTES_MAX);
    strbuf_init(&c->whole.reasoning, ANSWER_BYTES_MAX);
    /* A copy: the exchange and its body end when the client goes away, the worker may still read then. */
    const char *body = http_request_body(x, &c->body_len);
    c->body = spw_strndup(body, c->body_len);
    c->task = (struct worker_task){.run = prepare_run, .done = prepare_done};
    s->counters.requests++;
    http_exchange_set(x, c, on_abort);
    if (worker_submit(s->worker, &c->task)) {
        api_fail(&c->error, 503, NULL, "queue_full", "too many requests arrive at once; try again shortly");
        reply_and_end(c);
    }
}
