/* From a request's bytes to what the batcher wants: ids, samplers, answers. Worker thread. */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/sha256.h"
#include "engine/serve/call.h"

#define PROMPT_BYTES_MAX ((size_t)96 << 20) /* a rendered chat; bodies are at most 32 MiB */

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

bool call_ids(const struct serve_model *m, const struct api_request *r, struct tokens *ids,
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
        rc = tokenize(m->vocab, r->prompt, strlen(r->prompt), r->bare ? 0 : TOKENIZE_ADD_SPECIAL, ids, &e);
    } else {
        for (int32_t i = 0; i < r->n_prompt_ids && !rc; i++)
            rc = tokens_push(ids, r->prompt_ids[i]);
    }
    const char *param = r->kind == API_CHAT ? "messages" : "prompt";
    if (rc == RC_FULL)
        return api_fail(error, 400, param, "context_length_exceeded", "the prompt is far too long: %s", e.message);
    return rc ? fail_rc(error, param, &e) : true;
}

static bool fits(const struct serve_model *m, const struct api_request *r, const struct tokens *ids,
                 struct api_error *error)
{
    const char *param = r->kind == API_CHAT ? "messages" : "prompt";
    if (ids->n == 0)
        return api_fail(error, 400, param, NULL, "%s is empty, and this vocabulary has no token to begin with", param);
    if (ids->n >= (size_t)m->n_ctx)
        return api_fail(error, 400, param, "context_length_exceeded",
                        "the prompt has %zu tokens; this model's context holds %d, of which at least one is for the "
                        "answer",
                        ids->n, (int)m->n_ctx);
    if ((size_t)r->n * ids->n > CALL_TOKENS_MAX)
        return api_fail(error, 400, "n", NULL, "n is %d, and the prompt has %zu tokens: together more than %zu", r->n,
                        ids->n, CALL_TOKENS_MAX);
    return true;
}

uint64_t call_random(void)
{
    uint64_t v = 0;
    while (getrandom(&v, sizeof v, 0) != (ssize_t)sizeof v)
        ; /* interrupted before the pool is ready, early in the machine's life */
    return v;
}

/* Choices of one request draw from neighbouring seeds: the first is what the request would give alone. */
static bool make_sampler(struct choice *ch, struct api_request *r)
{
    struct call *c = ch->call;
    struct error e = {0};
    struct sampler_params p = r->sampling;
    p.seed += (uint64_t)ch->index;
    p.skip_logprob = !r->logprobs;
    if (sampler_new(&p, c->s->model.n_vocab, &ch->job_options.sampler, &e))
        return fail_rc(&c->error, NULL, &e);
    return true;
}

static bool make_answer(struct choice *ch, const struct api_request *r, enum reasoning_start reasoning)
{
    struct call *c = ch->call;
    struct error e = {0};
    const struct answer_options o = {
        .vocab = c->s->model.vocab,
        .stop = r->stop,
        .n_stop = r->n_stop,
        .end_ids = c->s->end_ids,
        .n_end_ids = c->s->n_end_ids,
        .ignore_end = r->ignore_eos,
        .min_tokens = r->sampling.min_tokens,
        .reasoning = reasoning,
    };
    if (answer_new(&o, &ch->job_options.answer, &e))
        return fail_rc(&c->error, "stop", &e);
    return true;
}

/* Half of SHA-256 keeps salts apart, whatever clients make of them; without one it is the salt of those without one. */
void call_salt(struct prefix_salt *salt, const char *text)
{
    uint8_t digest[SHA256_BYTES];
    if (!text)
        return;
    sha256(text, strlen(text), digest);
    memcpy(salt->bytes, digest, sizeof salt->bytes);
}

/* Take the answer through the ids it has, without their text. Whatever it held back after them it holds back again. */
static bool replay(struct choice *ch, const struct api_request *r, struct tokens *ids)
{
    struct call *c = ch->call;
    struct answer *a = ch->job_options.answer;
    struct error e = {0};
    if (r->n_resume_ids > c->s->model.n_ctx - (int32_t)ids->n)
        return api_fail(&c->error, 400, "spillway_resume", "context_length_exceeded",
                        "the prompt has %zu tokens and the answer so far %d; this model's context holds %d", ids->n,
                        (int)r->n_resume_ids, (int)c->s->model.n_ctx);
    for (int32_t i = 0; i < r->n_resume_ids; i++) {
        if (c->over != BATCH_RUNNING)
            return api_fail(&c->error, 400, "spillway_resume", NULL, "spillway_resume: the answer ends before ids[%d]",
                            (int)i);
        enum rc rc = tokens_push(ids, r->resume_ids[i]);
        if (!rc)
            rc = answer_push(a, r->resume_ids[i], &e);
        if (rc)
            return fail_rc(&c->error, "spillway_resume", &e);
        if (a->state == ANSWER_ENDED)
            c->over = BATCH_STOP;
        else if (a->n_tokens >= ch->job_options.max_tokens)
            c->over = BATCH_LENGTH; /* what was held back went out with this id */
        strbuf_clear(&a->content);
        strbuf_clear(&a->reasoning);
    }
    c->resumed = r->resumed;
    ch->job_options.n_resumed = r->n_resume_ids;
    ch->text_offset += api_text_offset(c->s->model.vocab, r->resume_ids, r->n_resume_ids);
    return true;
}

bool call_names_us(const struct server *s, const char *model, struct api_error *e)
{
    if (!model || strcmp(model, s->o.model_id) == 0)
        return true;
    return api_fail(e, 404, "model", "model_not_found",
                    "the model '%.100s' does not exist; this engine serves '%.200s'", model, s->o.model_id);
}

/* The choices, without their ids. */
static bool make_choices(struct call *c, struct api_request *r, enum reasoning_start reasoning)
{
    struct server *s = c->s;
    if (!r->has_seed)
        r->sampling.seed = call_random();
    if (!r->ignore_eos) {
        r->sampling.end_ids = s->end_ids;
        r->sampling.n_end_ids = s->n_end_ids;
    }
    c->n = r->n;
    c->choices = spw_calloc((size_t)c->n, sizeof *c->choices);
    for (int i = 0; i < c->n; i++) {
        struct choice *ch = &c->choices[i];
        ch->call = c;
        ch->index = i;
        strbuf_init(&ch->whole.content, ANSWER_BYTES_MAX);
        strbuf_init(&ch->whole.reasoning, ANSWER_BYTES_MAX);
    }
    for (int i = 0; i < c->n; i++)
        if (!make_sampler(&c->choices[i], r) || !make_answer(&c->choices[i], r, reasoning))
            return false;
    return true;
}

/* A leg that resumes an answer has nothing to echo: it left with the first ids, see echo.h. Its text still counts. */
static bool make_echo(struct call *c, const struct api_request *r, const struct tokens *ids)
{
    if (!r->echo)
        return true;
    if (echo_new(c->s->model.vocab, r->prompt, ids->ids, (int32_t)ids->n, r->logprobs, &c->echo))
        return api_fail(&c->error, 400, "echo", NULL, "the prompt is longer than this server can give back");
    for (int i = 0; i < c->n; i++)
        c->choices[i].text_offset = c->echo->characters;
    if (r->n_resume_ids > 0) {
        echo_free(c->echo);
        c->echo = NULL;
    }
    if (r->no_answer && !r->logprobs)
        c->over = BATCH_LENGTH;
    return true;
}

/* Every choice gets ids of its own, for it will add its answer to them. */
static void give_ids(struct call *c, const struct api_request *r, struct tokens *ids)
{
    for (int i = c->n - 1; i >= 0; i--) {
        struct batch_job_options *o = &c->choices[i].job_options;
        o->ids = ids->ids; /* the last to be served takes the list itself */
        if (i > 0) {
            o->ids = spw_calloc(ids->n, sizeof *o->ids);
            memcpy(o->ids, ids->ids, ids->n * sizeof *o->ids);
        }
        o->n_ids = (int32_t)ids->n;
        o->max_tokens = c->choices[0].job_options.max_tokens;
        o->want_samples = r->logprobs;
        o->want_prompt = c->echo && r->logprobs && i == 0;
        o->no_answer = r->no_answer;
        o->sibling = i > 0;
        call_salt(&o->salt, r->salt);
    }
}

static bool prepare_request(struct call *c, struct api_request *r)
{
    const struct serve_model *m = &c->s->model;
    enum reasoning_start reasoning;
    struct tokens ids;
    if (!call_names_us(c->s, r->model, &c->error))
        return false;
    tokens_init(&ids, CALL_TOKENS_MAX);
    bool ok =
        call_ids(m, r, &ids, &reasoning, &c->error) && fits(m, r, &ids, &c->error) && make_choices(c, r, reasoning);
    if (ok) {
        int32_t room = m->n_ctx - (int32_t)ids.n;
        c->choices[0].job_options.max_tokens = r->max_tokens && r->max_tokens < room ? r->max_tokens : room;
        ok = make_echo(c, r, &ids) && replay(&c->choices[0], r, &ids);
    }
    if (!ok) {
        tokens_fini(&ids);
        return false;
    }
    give_ids(c, r, &ids);
    c->stream = r->stream;
    c->answer.include_usage = r->include_usage;
    c->answer.logprobs = r->logprobs;
    c->answer.n_top = r->sampling.n_top;
    return true;
}

void call_read(char **body, size_t n, struct api_error *error,
               bool (*read)(void *arg, cJSON *root, struct arena *arena), void *arg)
{
    struct error e = {0};
    cJSON *root = NULL;
    struct arena *arena = arena_new(API_REQUEST_ARENA_BYTES);
    if (json_parse(*body, n, JSON_DEPTH_MAX, &root, &e))
        api_fail(error, 400, NULL, "invalid_json", "the request body is not valid JSON: %s", e.message);
    else
        (void)read(arg, root, arena);
    cJSON_Delete(root);
    arena_free(arena);
    free(*body); /* not needed any more, and it may be large */
    *body = NULL;
}

static bool read_completion(void *arg, cJSON *root, struct arena *arena)
{
    struct call *c = arg;
    struct api_request r;
    const struct api_limits limits = {
        .n_vocab = vocab_size(c->s->model.vocab), .n_ctx = c->s->model.n_ctx, .caller = c->answer.caller};
    c->prepared = api_request_read(root, c->answer.kind, &limits, arena, &r, &c->error) && prepare_request(c, &r);
    return c->prepared;
}

void call_prepare_run(struct worker_task *t)
{
    struct call *c = call_of(t);
    call_read(&c->body, c->body_len, &c->error, read_completion, c);
}
