/* The engine's OpenAI surface as plain data: which requests are taken, how each mistake is named, and that what is
 * written is JSON of the right shape whatever the tokens are.
 *
 * links: spw_engine_serve */
#include "engine/serve/api.h"

#include <stdlib.h>

#include "tests/unit/test.h"

#define N_VOCAB 300
#define N_CTX   64

struct reading {
    cJSON *root;
    struct arena *arena;
    struct api_request r;
    struct api_error e;
    bool ok;
};

static void read_request_of(struct reading *rd, enum api_caller caller, enum api_kind kind, const char *text)
{
    struct error e = {0};
    const struct api_limits limits = {.n_vocab = N_VOCAB, .n_ctx = N_CTX, .caller = caller};
    *rd = (struct reading){.arena = arena_new(1 << 20)};
    if (json_parse(text, strlen(text), JSON_DEPTH_MAX, &rd->root, &e))
        fprintf(stderr, "the test's own JSON is wrong: %s: %s\n", text, e.message);
    else
        rd->ok = api_request_read(rd->root, kind, &limits, rd->arena, &rd->r, &rd->e);
}

static void read_request(struct reading *rd, enum api_kind kind, const char *text)
{
    read_request_of(rd, API_CALLER_CLIENT, kind, text);
}

static void done_reading(struct reading *rd)
{
    cJSON_Delete(rd->root);
    arena_free(rd->arena);
}

#define MESSAGES "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

static void defaults(void)
{
    struct reading rd;
    read_request(&rd, API_CHAT, "{" MESSAGES "}");
    CHECK(rd.ok && !rd.r.stream && !rd.r.include_usage && !rd.r.has_seed && !rd.r.logprobs && !rd.r.model);
    CHECK_INT(rd.r.max_tokens, 0);
    CHECK(rd.r.sampling.temperature == 1 && rd.r.sampling.top_p == 1 && rd.r.sampling.repetition_penalty == 1);
    done_reading(&rd);
    read_request(&rd, API_COMPLETION, "{\"prompt\":\"hi\",\"user\":\"u\",\"made_up\":[1]}");
    CHECK(rd.ok);
    CHECK_STR(rd.r.prompt, "hi");
    CHECK_INT(rd.r.max_tokens, API_COMPLETION_TOKENS);
    done_reading(&rd);
}

static void everything_at_once(void)
{
    struct reading rd;
    read_request(&rd, API_CHAT,
                 "{\"model\":\"m\"," MESSAGES ",\"stream\":true,\"stream_options\":{\"include_usage\":true},"
                 "\"max_tokens\":7,\"max_completion_tokens\":9,\"min_tokens\":2,\"temperature\":0.5,\"top_p\":0.9,"
                 "\"top_k\":40,\"min_p\":0.05,\"presence_penalty\":0.1,\"frequency_penalty\":-0.2,"
                 "\"repetition_penalty\":1.1,\"logit_bias\":{\"5\":-100,\"299\":1.5},\"seed\":-3,\"n\":1,"
                 "\"logprobs\":true,\"top_logprobs\":4,\"stop\":[\"a\",\"bc\"],\"ignore_eos\":true,\"tools\":[],"
                 "\"response_format\":{\"type\":\"text\"}}");
    const struct api_request *r = &rd.r;
    CHECK(rd.ok && r->stream && r->include_usage && r->ignore_eos && r->logprobs && r->has_seed);
    CHECK_STR(r->model, "m");
    CHECK_INT(r->max_tokens, 9);
    CHECK_INT(r->sampling.min_tokens, 2);
    CHECK_INT(r->sampling.top_k, 40);
    CHECK_INT(r->sampling.n_top, 4);
    CHECK(r->sampling.temperature == 0.5 && r->sampling.top_p == 0.9 && r->sampling.min_p == 0.05);
    CHECK(r->sampling.presence_penalty == 0.1 && r->sampling.frequency_penalty == -0.2);
    CHECK(r->sampling.repetition_penalty == 1.1);
    CHECK_INT(r->sampling.n_bias, 2);
    CHECK_INT(r->sampling.bias[1].id, 299);
    CHECK(r->sampling.bias[0].bias == -100 && r->sampling.bias[1].bias == 1.5f);
    CHECK_INT((int64_t)r->sampling.seed, -3);
    CHECK_INT(r->n_stop, 2);
    CHECK(r->stop[1].len == 2 && memcmp(r->stop[1].ptr, "bc", 2) == 0);
    done_reading(&rd);
}

static void prompts(void)
{
    static const char *const same[] = {"{\"prompt\":[5,6,7]}", "{\"prompt\":[[5,6,7]]}"};
    struct reading rd;
    for (int i = 0; i < 2; i++) {
        read_request(&rd, API_COMPLETION, same[i]);
        CHECK(rd.ok && !rd.r.prompt && rd.r.n_prompt_ids == 3 && rd.r.prompt_ids[2] == 7);
        done_reading(&rd);
    }
    read_request(&rd, API_COMPLETION, "{\"prompt\":[\"hi\"],\"logprobs\":0}");
    CHECK(rd.ok && rd.r.prompt && rd.r.logprobs && rd.r.sampling.n_top == 0);
    done_reading(&rd);
}

struct refusal {
    enum api_kind kind;
    const char *members; /* beside messages or a prompt */
    const char *param;
};

static void refusals(void)
{
    static const struct refusal rows[] = {
        {API_CHAT, "\"temperature\":-0.1", "temperature"},
        {API_CHAT, "\"temperature\":\"hot\"", "temperature"},
        {API_CHAT, "\"top_p\":-0.1", "top_p"},
        {API_CHAT, "\"top_p\":1.01", "top_p"},
        {API_CHAT, "\"top_k\":1.5", "top_k"},
        {API_CHAT, "\"min_p\":2", "min_p"},
        {API_CHAT, "\"presence_penalty\":3", "presence_penalty"},
        {API_CHAT, "\"frequency_penalty\":-3", "frequency_penalty"},
        {API_CHAT, "\"repetition_penalty\":0", "repetition_penalty"},
        {API_CHAT, "\"max_tokens\":0", "max_tokens"},
        {API_CHAT, "\"max_tokens\":-1", "max_tokens"},
        {API_CHAT, "\"max_tokens\":1e12", "max_tokens"},
        {API_CHAT, "\"max_completion_tokens\":\"7\"", "max_completion_tokens"},
        {API_CHAT, "\"max_tokens\":2,\"min_tokens\":3", "min_tokens"},
        {API_CHAT, "\"n\":129", "n"},
        {API_COMPLETION, "\"n\":2,\"best_of\":3", "best_of"},
        {API_CHAT, "\"n\":0", "n"},
        {API_CHAT, "\"seed\":1.5", "seed"},
        {API_CHAT, "\"seed\":1e30", "seed"},
        {API_CHAT, "\"stop\":[\"a\",5]", "stop"},
        {API_CHAT, "\"stop\":\"\"", "stop"},
        {API_CHAT, "\"stop\":[1]", "stop"},
        {API_CHAT, "\"stop\":{}", "stop"},
        {API_CHAT,
         "\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"10\",\"11\",\"12\",\"13\",\"14\",\"15\","
         "\"16\",\"17\"]",
         "stop"},
        {API_CHAT, "\"logit_bias\":[1]", "logit_bias"},
        {API_CHAT, "\"logit_bias\":{\"x\":1}", "logit_bias"},
        {API_CHAT, "\"logit_bias\":{\"300\":1}", "logit_bias"},
        {API_CHAT, "\"logit_bias\":{\"-1\":1}", "logit_bias"},
        {API_CHAT, "\"logit_bias\":{\"1\":101}", "logit_bias"},
        {API_CHAT, "\"logit_bias\":{\"1\":\"a\"}", "logit_bias"},
        {API_CHAT, "\"logprobs\":3", "logprobs"},
        {API_CHAT, "\"top_logprobs\":3", "top_logprobs"},
        {API_CHAT, "\"logprobs\":true,\"top_logprobs\":21", "top_logprobs"},
        {API_CHAT, "\"stream\":1", "stream"},
        {API_CHAT, "\"stream_options\":{\"include_usage\":true}", "stream_options"},
        {API_CHAT, "\"stream\":true,\"stream_options\":{\"include_usage\":1}", "stream_options.include_usage"},
        {API_CHAT, "\"tools\":[{\"type\":\"function\"}]", "tools"},
        {API_CHAT, "\"response_format\":{\"type\":\"json_object\"}", "response_format"},
        {API_CHAT, "\"response_format\":7", "response_format"},
        {API_CHAT, "\"model\":5", "model"},
        {API_CHAT, "\"echo\":true", "echo"},
        {API_COMPLETION, "\"echo\":1", "echo"},
        {API_COMPLETION, "\"max_tokens\":0", "max_tokens"},
        {API_COMPLETION, "\"max_tokens\":0,\"echo\":true,\"min_tokens\":1", "max_tokens"},
        {API_COMPLETION, "\"suffix\":\"x\"", "suffix"},
        {API_COMPLETION, "\"best_of\":3", "best_of"},
        {API_COMPLETION, "\"logprobs\":6", "logprobs"},
        {API_COMPLETION, "\"logprobs\":true", "logprobs"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[1024];
        struct reading rd;
        snprintf(text, sizeof text, "{%s,%s}", rows[i].kind == API_CHAT ? MESSAGES : "\"prompt\":\"p\"",
                 rows[i].members);
        read_request(&rd, rows[i].kind, text);
        if (rd.ok || strcmp(rd.e.param, rows[i].param) != 0)
            fprintf(stderr, "%s: %s, param \"%s\", message \"%s\"\n", text, rd.ok ? "taken" : "refused", rd.e.param,
                    rd.e.message);
        CHECK(!rd.ok && strcmp(rd.e.param, rows[i].param) == 0);
        CHECK_INT(rd.e.status, 400);
        CHECK_STR(rd.e.type, "invalid_request_error");
        CHECK(rd.e.message[0] != '\0');
        done_reading(&rd);
    }
}

static void refused_prompts(void)
{
    static const char *const bodies[] = {"{}",
                                         "[]",
                                         "5",
                                         "{\"prompt\":null}",
                                         "{\"prompt\":[]}",
                                         "{\"prompt\":[[]]}",
                                         "{\"prompt\":5}",
                                         "{\"prompt\":[1,\"a\"]}",
                                         "{\"prompt\":[300]}",
                                         "{\"prompt\":[-1]}",
                                         "{\"prompt\":[1.5]}",
                                         "{\"prompt\":[\"a\",\"b\"]}",
                                         "{\"prompt\":[[1],[2]]}"};
    struct reading rd;
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        read_request(&rd, API_COMPLETION, bodies[i]);
        CHECK(!rd.ok && rd.e.status == 400);
        done_reading(&rd);
    }
    static const char *const chats[] = {"{}", "{\"messages\":\"hi\"}", "{\"messages\":[]}", "{\"messages\":{}}"};
    for (size_t i = 0; i < sizeof chats / sizeof *chats; i++) {
        read_request(&rd, API_CHAT, chats[i]);
        CHECK(!rd.ok && strcmp(rd.e.param, "messages") == 0);
        done_reading(&rd);
    }
    struct strbuf text;
    strbuf_init(&text, 1024);
    CHECK_INT(strbuf_puts(&text, "{\"prompt\":["), RC_OK);
    for (int i = 0; i < N_CTX; i++)
        CHECK_INT(strbuf_puts(&text, i ? ",1" : "1"), RC_OK);
    CHECK_INT(strbuf_puts(&text, "]}"), RC_OK);
    read_request(&rd, API_COMPLETION, text.data);
    CHECK(rd.ok); /* the context is the caller's affair: ids are counted, too, where they are no prompt */
    CHECK_INT(rd.r.n_prompt_ids, N_CTX);
    done_reading(&rd);
    strbuf_fini(&text);
}

/* What a scheduler may send, and nobody else. */

static void node_fields(void)
{
    struct reading rd;
    read_request_of(&rd, API_CALLER_SCHEDULER, API_COMPLETION,
                    "{\"prompt\":\"p\",\"stream\":true,\"spillway_seed\":9007199254740991,\"spillway_salt\":\"s\","
                    "\"spillway_resume\":{\"ids\":[5,0,299]}}");
    CHECK(rd.ok && rd.r.resumed && rd.r.n_resume_ids == 3 && rd.r.resume_ids[2] == 299);
    CHECK(rd.r.has_seed && rd.r.sampling.seed == 9007199254740991u);
    CHECK_STR(rd.r.salt, "s");
    done_reading(&rd);
    read_request_of(&rd, API_CALLER_SCHEDULER, API_CHAT,
                    "{" MESSAGES ",\"stream\":true,\"seed\":4,\"spillway_seed\":5,\"spillway_resume\":{\"ids\":[]}}");
    CHECK(rd.ok && rd.r.resumed && rd.r.n_resume_ids == 0 && rd.r.sampling.seed == 4);
    done_reading(&rd);
}

static void refused_node_fields(void)
{
    static const struct {
        enum api_caller caller;
        const char *members, *param, *code;
    } rows[] = {
        {API_CALLER_CLIENT, "\"spillway_seed\":1", "spillway_seed", "node_key_required"},
        {API_CALLER_CLIENT, "\"spillway_resume\":{\"ids\":[1]}", "spillway_resume", "node_key_required"},
        {API_CALLER_CLIENT, "\"spillway_\":null", "spillway_", "node_key_required"},
        {API_CALLER_SCHEDULER, "\"spillway_other\":1", "spillway_other", "unsupported_parameter"},
        {API_CALLER_SCHEDULER, "\"spillway_seed\":9007199254740992", "spillway_seed", ""},
        {API_CALLER_SCHEDULER, "\"spillway_seed\":-1", "spillway_seed", ""},
        {API_CALLER_SCHEDULER, "\"spillway_seed\":\"1\"", "spillway_seed", ""},
        {API_CALLER_SCHEDULER, "\"spillway_salt\":1", "spillway_salt", ""},
        {API_CALLER_SCHEDULER, "\"spillway_resume\":[1]", "spillway_resume", ""},
        {API_CALLER_SCHEDULER, "\"spillway_resume\":{\"ids\":[300]}", "spillway_resume", ""},
        {API_CALLER_SCHEDULER, "\"spillway_resume\":{\"ids\":{}}", "spillway_resume", ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[256];
        struct reading rd;
        snprintf(text, sizeof text, "{\"prompt\":\"p\",\"stream\":true,%s}", rows[i].members);
        read_request_of(&rd, rows[i].caller, API_COMPLETION, text);
        CHECK(!rd.ok && rd.e.status == 400);
        CHECK_STR(rd.e.param, rows[i].param);
        CHECK_STR(rd.e.code, rows[i].code);
        done_reading(&rd);
    }
    struct reading rd;
    read_request_of(&rd, API_CALLER_SCHEDULER, API_COMPLETION, "{\"prompt\":\"p\",\"spillway_resume\":{\"ids\":[]}}");
    CHECK(!rd.ok && strstr(rd.e.message, "stream: true"));
    done_reading(&rd);
}

/* Writing. */

static struct vocab *make_vocab(void)
{
    static const struct text_span tokens[] = {{"<unk>", 5},  {"</s>", 4},   {"\xe2\x96\x81hi", 5},
                                              {"<0xE2>", 6}, {"<0x22>", 6}, {"\"", 1}};
    static const float scores[6] = {0};
    static const int32_t types[6] = {TOKEN_TYPE_UNKNOWN, TOKEN_TYPE_CONTROL, TOKEN_TYPE_NORMAL,
                                     TOKEN_TYPE_BYTE,    TOKEN_TYPE_BYTE,    TOKEN_TYPE_NORMAL};
    struct vocab_source src;
    struct vocab *v = NULL;
    struct error e = {0};
    vocab_source_init(&src);
    src.model = (struct text_span){"llama", 5};
    src.n_tokens = src.n_scores = src.n_types = 6;
    src.tokens = tokens;
    src.scores = scores;
    src.types = types;
    src.eos = 1;
    src.unk = 0;
    if (vocab_new(&src, &v, &e))
        fprintf(stderr, "cannot make the test's vocabulary: %s\n", e.message);
    return v;
}

/* Every token, each with two alternatives that look alike, a control token, half a character, and -infinity. */
static void fill_output(struct batch_output *out, struct sample *samples, int32_t *ids)
{
    for (int i = 0; i < 6; i++) {
        ids[i] = i;
        samples[i] = (struct sample){.id = i, .logprob = -0.5f, .n_top = 3};
        samples[i].top[0] = (struct sampler_alternative){.id = 4, .logprob = -0.25f};
        samples[i].top[1] = (struct sampler_alternative){.id = 5, .logprob = -1.0f / 0.0f};
        samples[i].top[2] = (struct sampler_alternative){.id = 3, .logprob = -2};
    }
    *out = (struct batch_output){.ids = ids, .n_ids = 6, .samples = samples, .finish = BATCH_LENGTH};
    strbuf_init(&out->content, 1000);
    strbuf_init(&out->reasoning, 1000);
    CHECK_INT(strbuf_puts(&out->content, "line\n\"quoted\" \xe2\x82\xac"), RC_OK);
    out->usage = (struct batch_usage){.prompt = 3, .completion = 6, .reasoning = 1};
}

static const cJSON *get(const cJSON *o, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(o, key);
}

static cJSON *parse(const char *text, size_t n)
{
    struct error e = {0};
    cJSON *root = NULL;
    if (json_parse(text, n, JSON_DEPTH_MAX, &root, &e))
        fprintf(stderr, "written JSON is wrong: %s: %.*s\n", e.message, (int)n, text);
    CHECK(root != NULL);
    return root;
}

static enum rc write_body(struct strbuf *b, struct api_answer *a, const struct batch_output *out, int n)
{
    enum rc rc = api_write_body_begin(b, a);
    for (a->index = 0; a->index < n && !rc; a->index++)
        rc = api_write_body_choice(b, a, out);
    return rc ? rc : api_write_body_end(b, &out->usage);
}

static void bodies(void)
{
    struct sample samples[6];
    int32_t ids[6];
    struct batch_output out;
    struct strbuf b;
    struct vocab *v = make_vocab();
    struct api_answer a = {
        .id = "x-1", .model = "m\"odel", .fingerprint = "fp_1", .created = 5, .vocab = v, .logprobs = true, .n_top = 3};
    fill_output(&out, samples, ids);
    strbuf_init(&b, 1 << 20);
    a.kind = API_CHAT;
    CHECK_INT(write_body(&b, &a, &out, 1), RC_OK);
    cJSON *root = parse(b.data, b.len);
    const cJSON *choice = get(root, "choices") ? get(root, "choices")->child : NULL;
    CHECK_STR(cJSON_GetStringValue(get(root, "object")), "chat.completion");
    CHECK_STR(cJSON_GetStringValue(get(root, "model")), "m\"odel");
    CHECK_STR(cJSON_GetStringValue(get(get(choice, "message"), "content")), out.content.data);
    CHECK_STR(cJSON_GetStringValue(get(choice, "finish_reason")), "length");
    CHECK_INT(cJSON_GetArraySize(get(get(choice, "logprobs"), "content")), 6);
    CHECK(cJSON_GetNumberValue(get(get(root, "usage"), "total_tokens")) == 9);
    cJSON_Delete(root);
    strbuf_clear(&b);
    a.kind = API_COMPLETION;
    CHECK_INT(write_body(&b, &a, &out, 3), RC_OK);
    root = parse(b.data, b.len); /* refuses keys that appear twice */
    choice = get(root, "choices") ? get(root, "choices")->child : NULL;
    CHECK_INT(cJSON_GetArraySize(get(root, "choices")), 3);
    for (int i = 0; i < 3 && choice; i++)
        CHECK(cJSON_GetNumberValue(get(cJSON_GetArrayItem(get(root, "choices"), i), "index")) == i);
    CHECK_STR(cJSON_GetStringValue(get(choice, "text")), out.content.data);
    CHECK_INT(cJSON_GetArraySize(get(get(choice, "logprobs"), "top_logprobs")), 6);
    cJSON_Delete(root);
    strbuf_fini(&b);
    strbuf_init(&b, 200);
    CHECK_INT(write_body(&b, &a, &out, 1), RC_FULL);
    strbuf_fini(&b);
    strbuf_fini(&out.content);
    vocab_free(v);
}

static int check_frames(const char *p, bool has_usage_key)
{
    int n = 0;
    while (*p) {
        const char *end = strstr(p, "\n\n");
        CHECK(strncmp(p, "data: ", 6) == 0 && end);
        if (!end || strncmp(p, "data: [DONE]", 12) == 0)
            return end ? n : -1;
        cJSON *root = parse(p + 6, (size_t)(end - p) - 6);
        CHECK((get(root, "usage") != NULL) == has_usage_key);
        CHECK(cJSON_IsArray(get(root, "choices")));
        cJSON_Delete(root);
        p = end + 2;
        n++;
    }
    return -1;
}

static void frames(void)
{
    struct sample samples[6];
    int32_t ids[6];
    struct batch_output out;
    struct strbuf b;
    struct vocab *v = make_vocab();
    for (int kind = 0; kind < 2; kind++) {
        size_t offset = 0;
        struct api_answer a = {.kind = kind ? API_COMPLETION : API_CHAT,
                               .id = "x-1",
                               .model = "m",
                               .fingerprint = "",
                               .vocab = v,
                               .logprobs = true,
                               .include_usage = true};
        fill_output(&out, samples, ids);
        CHECK_INT(strbuf_puts(&out.reasoning, "hm"), RC_OK);
        strbuf_init(&b, 1 << 20);
        CHECK_INT(api_write_chunk(&b, &a, &out, API_CHUNK_FIRST, &offset), RC_OK);
        CHECK_INT(api_write_usage_chunk(&b, &a, &out.usage), RC_OK);
        CHECK_INT(api_write_done(&b), RC_OK);
        CHECK_INT(check_frames(b.data, true), kind ? 3 : 4);
        CHECK(!kind || offset > 0);
        strbuf_clear(&b);
        a.include_usage = a.logprobs = false;
        strbuf_clear(&out.content);
        strbuf_clear(&out.reasoning);
        out.finish = BATCH_RUNNING;
        CHECK_INT(api_write_chunk(&b, &a, &out, API_CHUNK_LATER, &offset), RC_OK);
        CHECK_INT(b.len, 0); /* nothing to say */
        strbuf_fini(&b);
        strbuf_fini(&out.content);
        strbuf_fini(&out.reasoning);
    }
    vocab_free(v);
}

/* Each id goes out once, with the text that it made: never in a frame after that text. */
static void ids_of_chunks(void)
{
    static const struct {
        bool text, logprobs;
        enum batch_finish finish;
        const char *frames; /* T: text with ids, t: text without, F and f: the same of the finish frame */
    } rows[] = {
        {true, false, BATCH_RUNNING, "T"}, {false, false, BATCH_RUNNING, "T"}, {false, true, BATCH_RUNNING, "T"},
        {true, false, BATCH_STOP, "Tf"},   {false, false, BATCH_STOP, "F"},    {false, true, BATCH_STOP, "Tf"},
        {true, false, BATCH_LENGTH, "Tf"}, {false, false, BATCH_LENGTH, "F"},
    };
    struct vocab *v = make_vocab();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct sample samples[6];
        int32_t ids[6];
        struct batch_output out;
        struct strbuf b;
        size_t offset = 0, n = 0;
        char seen[8] = "";
        struct api_answer a = {.kind = API_CHAT, .id = "x", .model = "m", .fingerprint = "", .vocab = v};
        a.caller = API_CALLER_SCHEDULER;
        a.logprobs = rows[i].logprobs;
        fill_output(&out, samples, ids);
        if (!rows[i].text)
            strbuf_clear(&out.content);
        out.finish = rows[i].finish;
        strbuf_init(&b, 1 << 20);
        CHECK_INT(api_write_chunk(&b, &a, &out, API_CHUNK_LATER, &offset), RC_OK);
        for (const char *p = b.data, *end; *p; p = end + 2) {
            end = strstr(p, "\n\n");
            cJSON *root = parse(p + 6, (size_t)(end - p) - 6);
            bool has_ids = get(root, "spillway_ids") != NULL;
            bool finish = cJSON_IsString(get(get(root, "choices")->child, "finish_reason"));
            CHECK(!has_ids || cJSON_GetArraySize(get(root, "spillway_ids")) == 6);
            seen[n++] = (char)(finish ? (has_ids ? 'F' : 'f') : (has_ids ? 'T' : 't'));
            cJSON_Delete(root);
        }
        CHECK_STR(seen, rows[i].frames);
        strbuf_clear(&b);
        a.caller = API_CALLER_CLIENT;
        CHECK_INT(api_write_chunk(&b, &a, &out, API_CHUNK_LATER, &offset), RC_OK);
        CHECK(!b.data || !strstr(b.data, "spillway_"));
        strbuf_fini(&b);
        strbuf_fini(&out.content);
    }
    vocab_free(v);
}

static void cards(void)
{
    struct strbuf b;
    struct api_model_card m = {
        .id = "m", .n_ctx = 7, .numerics = "0123456789abcdef0123456789abcdef", .n_slots = 3, .kv_tokens = 5000000000};
    strbuf_init(&b, 4096);
    CHECK_INT(api_write_models(&b, &m), RC_OK);
    CHECK(!strstr(b.data, "spillway_"));
    strbuf_clear(&b);
    m.caller = API_CALLER_SCHEDULER;
    CHECK_INT(api_write_model(&b, &m), RC_OK);
    cJSON *root = parse(b.data, b.len);
    CHECK_STR(cJSON_GetStringValue(get(root, "spillway_numerics")), m.numerics);
    CHECK(cJSON_IsTrue(get(root, "spillway_resume")) && get(root, "spillway_context")->valueint == 7);
    CHECK(get(root, "spillway_slots")->valueint == 3);
    CHECK(get(root, "spillway_kv_tokens")->valuedouble == 5e9);
    cJSON_Delete(root);
    strbuf_fini(&b);
}

static void errors(void)
{
    struct api_error e;
    struct strbuf b;
    strbuf_init(&b, 4096);
    CHECK(!api_fail(&e, 404, NULL, "model_not_found", "no \"%s\"\n", "x"));
    CHECK_INT(api_write_error(&b, &e), RC_OK);
    CHECK_STR(b.data, "{\"error\":{\"message\":\"no \\\"x\\\"\\n\",\"type\":\"invalid_request_error\",\"param\":null,"
                      "\"code\":\"model_not_found\"}}");
    char wide[1021] = {0};
    for (size_t i = 0; i + 3 < sizeof wide; i += 3)
        memcpy(wide + i, "\xe2\x82\xac", 3);
    CHECK(!api_fail(&e, 400, "p", NULL, "%s", wide)); /* cut between characters */
    CHECK_INT(strlen(e.message) % 3, 0);
    strbuf_fini(&b);
}

int main(void)
{
    TEST(defaults);
    TEST(everything_at_once);
    TEST(prompts);
    TEST(refusals);
    TEST(refused_prompts);
    TEST(node_fields);
    TEST(refused_node_fields);
    TEST(bodies);
    TEST(frames);
    TEST(ids_of_chunks);
    TEST(cards);
    TEST(errors);
    return TEST_RESULT();
}
