#include "engine/serve/call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PENDING_HIGH ((size_t)256 << 10) /* bytes a slow reader may be behind before its sequences pause */
#define PENDING_LOW  ((size_t)64 << 10)

struct call *call_of(struct worker_task *t)
{
    struct call *c = (struct call *)((char *)t - offsetof(struct call, task));
    SPW_ASSERT(c->magic == CALL_MAGIC);
    return c;
}

static void choice_fini(struct choice *ch)
{
    SPW_ASSERT(!ch->job);
    free(ch->job_options.ids);
    sampler_free(ch->job_options.sampler);
    answer_free(ch->job_options.answer);
    strbuf_fini(&ch->whole.content);
    strbuf_fini(&ch->whole.reasoning);
    free(ch->whole.ids);
    free(ch->whole.samples);
}

static void call_free(struct call *c)
{
    SPW_ASSERT(c->magic == CALL_MAGIC);
    if (c->queue_ev)
        event_free(c->queue_ev);
    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
    for (int i = 0; i < c->n; i++)
        choice_fini(&c->choices[i]);
    c->magic = 0;
    echo_free(c->echo);
    free(c->choices);
    free(c->body);
    free(c);
}

/* No further output of any choice. */
static void cancel_jobs(struct call *c)
{
    for (int i = 0; i < c->n; i++) {
        if (c->choices[i].job)
            batcher_cancel(c->s->batcher, c->choices[i].job);
        c->choices[i].job = NULL;
    }
}

static bool has_jobs(const struct call *c)
{
    for (int i = 0; i < c->n; i++)
        if (c->choices[i].job)
            return true;
    return false;
}

/* Loop thread: the answer. */

static void send_scratch(struct call *c)
{
    struct strbuf *b = &c->s->scratch;
    if (b->len)
        http_reply_write(c->x, b->data, b->len);
    strbuf_clear(b);
}

/* Nobody else would know what to do with it. */
static void tell_leaving(struct call *c)
{
    int64_t left_ms = (c->s->cut_at.ns - clock_now(c->s->o.clock).ns) / NS_PER_MS;
    if (c->answer.caller == API_CALLER_SCHEDULER &&
        api_write_leaving(&c->s->scratch, left_ms > 0 ? left_ms : 0) == RC_OK)
        send_scratch(c);
    strbuf_clear(&c->s->scratch);
}

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
    if (c->s->leaving)
        tell_leaving(c);
}

/* The exchange has its answer: nothing of it may be touched any more. */
static void call_end(struct call *c)
{
    c->x = NULL;
    call_free(c);
}

static void set_flow(struct call *c, enum batch_flow flow)
{
    for (int i = 0; i < c->n; i++)
        if (c->choices[i].job)
            batcher_set_flow(c->s->batcher, c->choices[i].job, flow);
}

static void resume_cb(struct http_exchange *x, void *state)
{
    (void)x;
    set_flow(state, BATCH_FLOW);
}

/* A reader that falls behind stops its sequences, not the memory. One that never catches up runs into the HTTP server's
 * write deadline, which ends the call. */
static void heed_backpressure(struct call *c)
{
    if (http_reply_pending(c->x) <= PENDING_HIGH)
        return;
    set_flow(c, BATCH_PAUSE);
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

/* Hours are in order, and each choice has some of the same. */
void call_add_uses(struct batch_usage *to, const struct batch_usage *u)
{
    for (int i = 0; i < u->n_uses; i++) {
        int at = 0;
        while (at < to->n_uses && to->uses[at].hour_s != u->uses[i].hour_s)
            at++;
        if (at == BATCH_USES)
            at = BATCH_USES - 1;
        else if (at == to->n_uses)
            to->uses[to->n_uses++] = (struct batch_use){.hour_s = u->uses[i].hour_s};
        to->uses[at].busy_us += u->uses[i].busy_us;
        to->uses[at].millijoules = u->uses[i].millijoules < 0 ? -1 : to->uses[at].millijoules + u->uses[i].millijoules;
    }
}

/* What all choices together have used: the prompt once. */
static struct batch_usage total_usage(const struct call *c)
{
    struct batch_usage all = c->choices[0].whole.usage;
    for (int i = 1; i < c->n; i++) {
        all.completion += c->choices[i].whole.usage.completion;
        all.reasoning += c->choices[i].whole.usage.reasoning;
        call_add_uses(&all, &c->choices[i].whole.usage);
    }
    return all;
}

static enum rc stream_output(struct choice *ch, const struct batch_output *out)
{
    struct call *c = ch->call;
    struct strbuf *b = &c->s->scratch;
    enum api_chunk_place place = ch->begun || c->resumed ? API_CHUNK_LATER : API_CHUNK_FIRST;
    if (!c->begun)
        begin_stream(c);
    ch->begun = true;
    c->answer.index = ch->index;
    bool last = c->n_ended == c->n;
    enum rc rc = api_write_chunk(b, &c->answer, out, place, &ch->text_offset);
    if (!rc && last && c->answer.include_usage) {
        struct batch_usage usage = total_usage(c);
        rc = api_write_usage_chunk(b, &c->answer, &usage);
    }
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
    if (w->n_ids == 0) {
        w->n_echo = out->n_echo;
        w->echo_characters = out->echo_characters;
    }
    if (out->samples && out->n_ids) {
        size_t n = (size_t)w->n_ids + (size_t)out->n_ids;
        w->ids = spw_realloc(w->ids, n * sizeof *w->ids);
        w->samples = spw_realloc(w->samples, n * sizeof *w->samples);
        memcpy(w->ids + w->n_ids, out->ids, (size_t)out->n_ids * sizeof *w->ids);
        memcpy(w->samples + w->n_ids, out->samples, (size_t)out->n_ids * sizeof *w->samples);
        w->n_ids = (int32_t)n;
    }
    w->finish = out->finish;
    return rc;
}

static enum rc send_body(struct call *c)
{
    struct strbuf *b = &c->s->scratch;
    char use[API_USE_BYTES];
    const struct http_header h[] = {
        {"content-type", "application/json"}, {"x-request-id", c->id}, {API_USE_HEADER, use}};
    struct batch_usage usage = total_usage(c);
    enum rc rc = api_write_body_begin(b, &c->answer);
    for (int i = 0; i < c->n && !rc; i++) {
        c->answer.index = i;
        rc = api_write_body_choice(b, &c->answer, &c->choices[i].whole);
    }
    if (!rc)
        rc = api_write_body_end(b, &usage);
    if (rc)
        return rc;
    c->s->counters.responses[2]++;
    api_write_use(use, &usage);
    http_reply(c->x, 200, h, c->answer.caller == API_CALLER_SCHEDULER ? 3 : 2, b->data, b->len);
    strbuf_clear(b);
    return RC_OK;
}

static enum rc gather_output(struct choice *ch, const struct batch_output *out)
{
    enum rc rc = whole_add(&ch->whole, out);
    return rc || ch->call->n_ended < ch->call->n ? rc : send_body(ch->call);
}

/* Of all choices together, with their prompt. */
static void observe_joules(struct histogram *h, const struct batch_usage *u)
{
    int64_t millijoules = 0;
    for (int i = 0; i < u->n_uses; i++) {
        if (u->uses[i].millijoules < 0)
            return;
        millijoules += u->uses[i].millijoules;
    }
    if (u->n_uses > 0 && u->completion > 0)
        histogram_observe(h, (double)millijoules / 1000 / u->completion);
}

static void account(struct call *c)
{
    struct serve_counters *k = &c->s->counters;
    const struct batch_usage usage = total_usage(c);
    int64_t e2e = mono_since(c->s->o.clock, c->start), ttft = c->first_token.ns ? c->first_token.ns - c->start.ns : 0;
    histogram_observe(&k->e2e, (double)e2e / NS_PER_S);
    if (c->first_token.ns)
        histogram_observe(&k->ttft, (double)ttft / NS_PER_S);
    histogram_observe(&k->prompt_tokens, usage.prompt);
    histogram_observe(&k->generation_tokens, usage.completion);
    observe_joules(&k->joules_per_token, &usage);
    log_debug(c->s->o.log, "serve", "request done", LOG_S("id", c->id), LOG_I("prompt_tokens", usage.prompt),
              LOG_I("completion_tokens", usage.completion), LOG_I("ttft_us", ttft / NS_PER_US),
              LOG_I("total_us", e2e / NS_PER_US));
}

static void on_output(struct batch_job *job, const struct batch_output *out, void *arg);

static enum rc submit(struct choice *ch, struct error *e)
{
    ch->job_options.on_output = on_output;
    ch->job_options.arg = ch;
    struct batch_job *job = batch_job_new(&ch->job_options);
    ch->job_options.ids = NULL;
    ch->job_options.sampler = NULL;
    ch->job_options.answer = NULL;
    enum rc rc = batcher_submit(ch->call->s->batcher, job, e);
    if (rc)
        batch_job_free(job);
    else
        ch->job = job;
    return rc;
}

/* The first choice has its first token: its prompt is known now. */
static void submit_siblings(struct call *c)
{
    struct error e = {0};
    c->siblings = true;
    for (int i = 1; i < c->n; i++) {
        enum rc rc = submit(&c->choices[i], &e);
        SPW_ASSERT(rc == RC_OK); /* they are let in with the first */
    }
}

static enum rc deliver(struct choice *ch, const struct batch_output *out)
{
    return ch->call->stream ? stream_output(ch, out) : gather_output(ch, out);
}

/* The first output of a choice of a call that echoes. */
static enum rc deliver_echo(struct choice *ch, const struct batch_output *out)
{
    struct echo *echo = ch->call->echo;
    struct batch_output with;
    ch->echoed = true;
    if (out->prompt)
        echo_tell(echo, out->prompt);
    enum rc rc = echo_before(echo, out, &with);
    if (!rc)
        rc = deliver(ch, &with);
    echo_before_fini(&with);
    return rc;
}

static enum rc take_output(struct choice *ch, const struct batch_output *out)
{
    struct call *c = ch->call;
    ch->whole.usage = out->usage;
    if (out->finish != BATCH_RUNNING) {
        ch->job = NULL; /* the batcher frees it after this call */
        c->n_ended++;
    }
    if (!c->first_token.ns)
        c->first_token = out->first_token;
    if (!c->siblings)
        submit_siblings(c);
    return c->echo && !ch->echoed ? deliver_echo(ch, out) : deliver(ch, out);
}

static void on_output(struct batch_job *job, const struct batch_output *out, void *arg)
{
    struct choice *ch = arg;
    struct call *c = ch->call;
    const char *failed = NULL;
    (void)job;
    SPW_ASSERT(c->magic == CALL_MAGIC && c->x);
    if (out->finish == BATCH_FAILED) {
        ch->job = NULL;
        failed = out->error.message;
    } else if (take_output(ch, out)) {
        failed = "the answer is larger than this server can hold";
    }
    if (!failed && c->n_ended < c->n)
        return;
    account(c);
    cancel_jobs(c);
    if (failed)
        fail_answer(c, failed);
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
    if (!has_jobs(c))
        return; /* with the worker, which gives it back to prepare_done() */
    cancel_jobs(c);
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
    struct choice *first = &c->choices[0];
    (void)fd;
    (void)what;
    SPW_ASSERT(c->magic == CALL_MAGIC);
    if (!server_withdraw(c->s, &first->job))
        return;
    (void)server_queue_timeout(c->s, &c->error);
    reply_and_end(c);
}

bool server_queue_timeout(const struct server *s, struct api_error *e)
{
    return api_fail(e, 503, NULL, "queue_timeout", "no slot was free for %lld seconds; try again shortly",
                    (long long)s->o.queue_ms / 1000);
}

bool server_withdraw(struct server *s, struct batch_job **job)
{
    if (!*job || !batcher_withdraw(s->batcher, *job))
        return false;
    batch_job_free(*job);
    *job = NULL;
    return true;
}

struct event *server_queue_deadline(struct server *s, event_callback_fn cb, void *arg)
{
    const struct timeval limit = {.tv_sec = s->o.queue_ms / 1000, .tv_usec = s->o.queue_ms % 1000 * 1000};
    struct event *ev = s->o.queue_ms > 0 ? event_new(s->loop, -1, 0, cb, arg) : NULL;
    if (ev)
        (void)event_add(ev, &limit);
    return ev;
}

/* Nothing is left to compute: of a resumed answer the client lacks only its end, of an echo alone nothing is asked. */
static void answer_ended(struct call *c)
{
    struct batch_output out = {.finish = c->over};
    enum rc rc = RC_OK;
    for (int i = 0; i < c->n; i++) {
        const struct batch_job_options *o = &c->choices[i].job_options;
        c->choices[i].whole.usage = (struct batch_usage){
            .prompt = o->n_ids - o->n_resumed,
            .completion = o->answer->n_tokens,
            .reasoning = o->answer->n_reasoning,
        };
    }
    account(c);
    for (int i = 0; i < c->n && !rc; i++) {
        c->n_ended++;
        rc = c->echo ? deliver_echo(&c->choices[i], &out) : deliver(&c->choices[i], &out);
    }
    if (rc)
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
    if (c->over != BATCH_RUNNING) {
        answer_ended(c);
        return;
    }
    if (submit(&c->choices[0], &e)) {
        api_fail(&c->error, 503, NULL, "queue_full", "%s; try again shortly", e.message);
        reply_and_end(c);
        return;
    }
    c->queue_ev = server_queue_deadline(c->s, queue_deadline_cb, c);
}

static void make_id(char *buf, size_t size, const char *prefix)
{
    snprintf(buf, size, "%s-%016llx%08llx", prefix, (unsigned long long)call_random(),
             (unsigned long long)(call_random() & 0xffffffff));
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

bool server_cut_error(struct api_error *e)
{
    return api_fail(e, 503, NULL, "draining", "this engine is shutting down, and its time for answers is over");
}

static void call_cut(struct call *c)
{
    struct api_error e;
    (void)server_cut_error(&e);
    if (c->begun)
        http_reply_abort(c->x);
    else
        server_reply_error(c->s, c->x, &e);
    c->x = NULL;
    if (!has_jobs(c))
        return; /* with the worker, which gives it back to prepare_done() */
    cancel_jobs(c);
    call_free(c);
}

void server_calls_cut(struct server *s)
{
    for (struct call *c = s->calls, *next; c; c = next) {
        next = c->next;
        if (c->x) /* else only its task is left */
            call_cut(c);
    }
}

void server_calls_tell_leaving(struct server *s)
{
    for (struct call *c = s->calls; c; c = c->next)
        if (c->x && c->begun)
            tell_leaving(c);
}

int server_calls_cut_one(struct server *s)
{
    struct call *oldest = NULL;
    int n = 0;
    for (struct call *c = s->calls; c; c = c->next) {
        if (!c->x || !c->begun)
            continue;
        oldest = c;
        n++;
    }
    if (!oldest)
        return 0;
    call_cut(oldest);
    return n - 1;
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
    /* A copy: the exchange and its body end when the client goes away, the worker may still read then. */
    const char *body = http_request_body(x, &c->body_len);
    c->body = spw_strndup(body, c->body_len);
    c->task = (struct worker_task){.run = call_prepare_run, .done = prepare_done};
    s->counters.requests++;
    http_exchange_set(x, c, on_abort);
    if (worker_submit(s->worker, &c->task)) {
        api_fail(&c->error, 503, NULL, "queue_full", "too many requests arrive at once; try again shortly");
        reply_and_end(c);
    }
}
