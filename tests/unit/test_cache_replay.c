/* Proves that an answer comes out of the cache as it went in: body to body, body to stream to body, with every byte of
 * what a model said; which answers and streams are refused; and that pieces are never cut within a character.
 * links: spw_sched_cache */
#include "tests/unit/test.h"

#include <stdlib.h>

#include "base/json.h"
#include "base/sse.h"
#include "scheduler/cache/assemble.h"
#include "scheduler/cache/replay.h"

#define CHAT_HEAD                                                                                                      \
    "{\"id\":\"old\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"node's\",\"choices\":[{\"index\":0,"
#define STOP  ",\"finish_reason\":\"stop\"}]"
#define USAGE ",\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}"

static const struct token_counts counts = {.input = 3, .cached_input = 1, .output = 2};

static const struct replay plain = {.id = "chatcmpl-1", .created_s = 1700000000, .model = "m"};

static void test_body(void)
{
    struct replay r = plain;
    struct strbuf out;
    strbuf_init(&out, 65536);
    const char *body = CHAT_HEAD "\"message\":{\"role\":\"assistant\",\"content\":\"h\\u0000i\"},\"stop_reason\":7" STOP
                                 ",\n\"extra\" : {\"a\": [1]}" USAGE;
    r.spillway = "{\"cache\":\"hit\"}";
    r.counts = &counts;
    CHECK(replay_body(body, strlen(body), &r, &out) == RC_OK);
    CHECK_STR(out.data,
              "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"m\","
              "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"h\\u0000i\"},"
              "\"stop_reason\":7,\"finish_reason\":\"stop\"}],\"extra\":{\"a\": [1]},\"usage\":{\"prompt_tokens\":3,"
              "\"completion_tokens\":2,\"total_tokens\":5},\"spillway\":{\"cache\":\"hit\"}}");
    /* What is missing is added. */
    strbuf_clear(&out);
    body = "{\"choices\":[{\"text\":\"x\"" STOP ",\"spillway\":{\"cache\":\"miss\"}}";
    r.spillway = NULL;
    CHECK(replay_body(body, strlen(body), &r, &out) == RC_OK);
    CHECK_STR(out.data, "{\"choices\":[{\"text\":\"x\",\"finish_reason\":\"stop\"}],\"spillway\":null,"
                        "\"id\":\"chatcmpl-1\",\"created\":1700000000,\"model\":\"m\",\"usage\":{\"prompt_tokens\":3,"
                        "\"completion_tokens\":2,\"total_tokens\":5,\"prompt_tokens_details\":{\"cached_tokens\":1}}}");
    /* A tier is this request's own. */
    strbuf_clear(&out);
    r.counts = NULL;
    body = "{\"id\":\"\",\"created\":1,\"model\":\"\",\"choices\":[{\"text\":\"x\"" STOP ",\"service_tier\":\"flex\"}";
    CHECK(replay_body(body, strlen(body), &r, &out) == RC_OK && strstr(out.data, ",\"service_tier\":null}"));
    strbuf_clear(&out);
    r.tier = "default";
    CHECK(replay_body(body, strlen(body), &r, &out) == RC_OK && strstr(out.data, ",\"service_tier\":\"default\"}"));
    strbuf_clear(&out);
    CHECK(replay_stream(body, strlen(body), &r, &out, NULL) == RC_OK);
    CHECK(strstr(out.data, "\"model\":\"m\",\"service_tier\":\"default\",\"choices\""));
    /* Embeddings have no id and no time; as a stream there are none. */
    strbuf_clear(&out);
    r = plain;
    r.counts = &counts;
    body =
        "{\"object\":\"list\",\"data\":[{\"embedding\":[1,-2.50]},{\"embedding\":\"AA==\"}],\"model\":\"theirs\"" USAGE;
    CHECK(replay_body(body, strlen(body), &r, &out) == RC_OK);
    CHECK_STR(out.data,
              "{\"object\":\"list\",\"data\":[{\"embedding\":[1,-2.50]},{\"embedding\":\"AA==\"}],\"model\":\"m\","
              "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}");
    CHECK(replay_stream(body, strlen(body), &r, &out, NULL) == RC_UNSUPPORTED);
    strbuf_fini(&out);
    strbuf_init(&out, 100);
    CHECK(replay_body(body, strlen(body), &r, &out) == RC_FULL);
    strbuf_fini(&out);
}

/* ---- streams ---- */

struct reading {
    struct assembler a;
    int frames, done, with_usage, content;
    bool role_first;
};

static bool member_is(const struct tree *t, const struct tree_node *object, const char *key, const char *text)
{
    return bytes_are(tree_text(t, tree_find(t, object, key)), text);
}

/* cJSON would refuse the lone surrogates that a model may say. */
static enum rc on_frame(const struct sse_frame *f, void *arg)
{
    struct reading *r = arg;
    struct tree t;
    CHECK(f->has_data && !r->done);
    r->frames++;
    if (f->data_len == 6 && memcmp(f->data, "[DONE]", 6) == 0) {
        r->done++;
        return RC_OK;
    }
    /* Each alone is good UTF-8 and good JSON, and names the new id and model. */
    tree_init(&t);
    CHECK(utf8_valid_prefix(f->data, f->data_len, NULL) == f->data_len);
    CHECK(tree_parse(&t, f->data, f->data_len) == RC_OK);
    const struct tree_node *root = tree_root(&t);
    CHECK(member_is(&t, root, "id", "\"chatcmpl-1\"") && member_is(&t, root, "model", "\"m\""));
    CHECK(member_is(&t, root, "created", "1700000000"));
    const struct tree_node *delta = tree_find(&t, tree_first(&t, tree_find(&t, root, "choices")), "delta");
    if (r->frames == 1)
        r->role_first = tree_is(tree_find(&t, delta, "role"), TREE_STRING);
    r->content += tree_is(tree_find(&t, delta, "content"), TREE_STRING);
    r->with_usage += tree_is(tree_find(&t, root, "usage"), TREE_OBJECT);
    CHECK(assembler_feed(&r->a, f->data, f->data_len) == RC_OK);
    tree_fini(&t);
    return RC_OK;
}

static struct tree scratch; /* one for all, as on a loop */

/* body -> stream -> assembler -> whole. */
static void stream_back(const char *body, const struct replay *how, struct reading *r, struct strbuf *whole)
{
    struct strbuf stream;
    struct sse *sse = sse_new(0);
    strbuf_init(&stream, 1 << 20);
    memset(r, 0, sizeof *r);
    assembler_init(&r->a, 1 << 20, &scratch);
    CHECK(replay_stream(body, strlen(body), how, &stream, NULL) == RC_OK);
    CHECK(sse_feed(sse, stream.data, stream.len, on_frame, r) == RC_OK);
    CHECK(sse_finish(sse, on_frame, r) == RC_OK);
    CHECK_INT(r->done, 1);
    CHECK(assembler_finish(&r->a, &counts, whole) == RC_OK);
    CHECK(replay_check(whole->data, whole->len) == RC_OK);
    assembler_fini(&r->a);
    strbuf_fini(&stream);
    sse_free(sse);
}

/* The text of a message's member comes back the same, in pieces of every size. */
static void round_trip(const char *member, const char *inside)
{
    char *body =
        spw_asprintf(CHAT_HEAD "\"message\":{\"role\":\"assistant\",\"%s\":\"%s\"}" STOP USAGE, member, inside);
    char *wanted = spw_asprintf("\"%s\":\"%s\"", member, inside);
    for (size_t piece = 1; piece < 40; piece++) {
        struct replay how = plain;
        struct reading r;
        struct strbuf whole;
        strbuf_init(&whole, 1 << 20);
        how.piece_bytes = piece;
        stream_back(body, &how, &r, &whole);
        CHECK(strstr(whole.data, wanted) != NULL);
        CHECK(r.role_first && r.with_usage == 0);
        strbuf_fini(&whole);
    }
    free(body);
    free(wanted);
}

static void test_pieces(void)
{
    round_trip("content", "Hello, world");
    round_trip("content", "");
    round_trip("content", "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80 \xF0\x9F\x98\x80\xE2\x82\xAC");
    round_trip("content", "\\n\\\\\\\"\\u0000\\ud83d\\ude00\\\\n\\u00e9x\\/");
    round_trip("content", "\\ud83d\\nabc\\u0041\\ud83d\\ud83d\\ude00\\ud83d");
    round_trip("reasoning_content", "step one\\n\\nstep two");
    round_trip("reasoning", "why");
    round_trip("refusal", "no");
}

static void test_stream_text(void)
{
    struct replay how = plain;
    struct strbuf out;
    strbuf_init(&out, 65536);
    how.usage_asked = true;
    how.spillway = "{\"cache\":\"hit\"}";
    const char *body =
        "{\"system_fingerprint\":\"fp\",\"choices\":[{\"index\":0,\"text\":\"ab\",\"finish_reason\":\"length\"}],"
        "\"usage\":{\n\"prompt_tokens\":3,\r\n\"completion_tokens\":2}}";
    CHECK(replay_stream(body, strlen(body), &how, &out, NULL) == RC_OK);
#define HEAD                                                                                                           \
    "data: {\"id\":\"chatcmpl-1\",\"object\":\"text_completion\",\"created\":1700000000,\"model\":\"m\","              \
    "\"system_fingerprint\":\"fp\",\"choices\":["
    CHECK_STR(out.data, HEAD
              "{\"index\":0,\"text\":\"ab\",\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n" HEAD
              "{\"index\":0,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"length\"}],\"usage\":null}\n\n" HEAD
              "],\"usage\":{ \"prompt_tokens\":3,  \"completion_tokens\":2},\"spillway\":{\"cache\":\"hit\"}}\n\n"
              "data: [DONE]\n\n");
#undef HEAD
    strbuf_fini(&out);
    strbuf_init(&out, 500);
    CHECK(replay_stream(body, strlen(body), &how, &out, NULL) == RC_FULL);
    strbuf_fini(&out);
}

static void test_tools(void)
{
    const char *body = CHAT_HEAD
        "\"message\":{\"role\":\"assistant\",\"content\":null,\"annotations\":[],\"audio\":null,\"tool_calls\":["
        "{\"id\":\"c0\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}},"
        "{\"index\":1,\"id\":\"c1\",\"function\":{\"name\":\"g\",\"arguments\":\"\"}}]},"
        "\"finish_reason\":\"tool_calls\"}]" USAGE;
    struct replay how = plain;
    struct reading r;
    struct strbuf whole;
    strbuf_init(&whole, 1 << 20);
    how.piece_bytes = 3;
    how.usage_asked = true;
    stream_back(body, &how, &r, &whole);
    CHECK_INT(r.with_usage, 1);
    CHECK(strstr(whole.data,
                 "\"message\":{\"role\":\"assistant\",\"content\":null,\"tool_calls\":["
                 "{\"id\":\"c0\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}},"
                 "{\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":\"\"}}]},"
                 "\"logprobs\":null,\"finish_reason\":\"tool_calls\"}]" USAGE) != NULL);
    strbuf_fini(&whole);
}

static void test_refused(void)
{
    static const struct {
        const char *body;
        enum rc rc;
    } cases[] = {
        {CHAT_HEAD "\"message\":{\"content\":\"x\"}" STOP "}", RC_OK},
        {CHAT_HEAD "\"message\":{\"content\":\"x\",\"spillway_ids\":[1]},\"logprobs\":null" STOP "}", RC_OK},
        {CHAT_HEAD "\"message\":{\"content\":\"x\"},\"logprobs\":{\"content\":[1]}" STOP "}", RC_UNSUPPORTED},
        {CHAT_HEAD "\"message\":{\"content\":\"x\",\"audio\":{\"id\":1}}" STOP "}", RC_UNSUPPORTED},
        {CHAT_HEAD "\"message\":{\"content\":[{\"type\":\"text\"}]}" STOP "}", RC_UNSUPPORTED},
        {CHAT_HEAD "\"message\":{\"content\":\"x\",\"tool_calls\":[{\"type\":\"custom\",\"custom\":{}}]}" STOP "}",
         RC_UNSUPPORTED},
        {CHAT_HEAD "\"message\":{\"content\":\"x\"},\"finish_reason\":\"content_filter\"}]}", RC_UNSUPPORTED},
        {CHAT_HEAD "\"message\":{\"content\":\"x\"},\"finish_reason\":null}]}", RC_UNSUPPORTED},
        {CHAT_HEAD "\"message\":{\"content\":\"x\"}}]}", RC_UNSUPPORTED},
        {"{\"choices\":[{\"index\":1,\"text\":\"x\"" STOP "}", RC_UNSUPPORTED},
        {"{\"choices\":[{\"text\":\"x\"},{\"text\":\"y\"" STOP "}", RC_UNSUPPORTED},
        {"{\"choices\":[]}", RC_INVALID},
        {"{\"choices\":[7]}", RC_INVALID},
        {"{\"choices\":{}}", RC_INVALID},
        {"{\"error\":{\"message\":\"x\"}}", RC_INVALID},
        {"{\"choices\":[{\"text\":\"x\"" STOP, RC_INVALID},
        {"", RC_INVALID},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        enum rc rc = replay_check(cases[i].body, strlen(cases[i].body));
        if (rc != cases[i].rc)
            fprintf(stderr, "case %zu: %s\n", i, cases[i].body);
        CHECK_STR(rc_name(rc), rc_name(cases[i].rc));
    }
}

static enum rc feed_all(struct assembler *a, const char *const *chunks)
{
    enum rc rc = RC_OK;
    for (int i = 0; chunks[i] && rc == RC_OK; i++)
        rc = assembler_feed(a, chunks[i], strlen(chunks[i]));
    return rc;
}

static void test_assemble(void)
{
    static const char *const chunks[] = {
        "{\"id\":\"n1\",\"object\":\"chat.completion.chunk\",\"created\":42,\"model\":\"q\",\"system_fingerprint\":"
        "\"fp\","
        "\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
        "\"finish_reason\":null}],\"usage\":null}",
        "{\"id\":\"n1\",\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":\"hm\"}}]}",
        "{\"id\":\"n1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\ud83d\"}}],\"usage\":{\"prompt_tokens\":1}"
        "}",
        "{\"id\":\"n1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\ude00\\u0000\"},\"spillway_ids\":[5]}]}",
        "{\"id\":\"\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\",\"stop_reason\":5}]}",
        "{\"id\":\"n1\",\"choices\":[],\"usage\":{\"prompt_tokens\":3}}",
        NULL};
    struct assembler a;
    struct strbuf out;
    strbuf_init(&out, 65536);
    assembler_init(&a, 4096, &scratch);
    CHECK(assembler_finish(&a, &counts, &out) == RC_AGAIN);
    CHECK(feed_all(&a, chunks) == RC_OK);
    CHECK(assembler_finish(&a, &counts, &out) == RC_OK);
    CHECK_STR(out.data, "{\"id\":\"n1\",\"object\":\"chat.completion\",\"created\":42,\"model\":\"q\","
                        "\"system_fingerprint\":\"fp\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
                        "\"content\":\"\\ud83d\\ude00\\u0000\",\"reasoning_content\":\"hm\"},\"logprobs\":null,"
                        "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":3}}");
    assembler_fini(&a);
    strbuf_fini(&out);
}

#define DELTA(d)   "{\"choices\":[{\"index\":0,\"delta\":{" d "}}]}"
#define TOOL(i, t) DELTA("\"tool_calls\":[{\"index\":" i "," t "}]")

/* Texts of chunks that need no look at the rest: joined like the others, bounded like the others. */
static void test_assemble_texts(void)
{
    struct assembler a;
    struct strbuf out;
    const char *begin[] = {DELTA("\"role\":\"assistant\",\"content\":\"a\""), NULL};
    const char *end[] = {"{\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}", NULL};
    strbuf_init(&out, 65536);
    assembler_init(&a, 100, &scratch);
    CHECK(assembler_text(&a, (struct bytes){"b", 1}) == RC_INVALID); /* like which one? */
    assembler_fini(&a);
    assembler_init(&a, 100, &scratch);
    CHECK(feed_all(&a, begin) == RC_OK);
    CHECK(assembler_text(&a, (struct bytes){"\\n\\u00e9", 8}) == RC_OK);
    CHECK(assembler_text(&a, (struct bytes){"c", 1}) == RC_OK);
    CHECK(feed_all(&a, end) == RC_OK);
    CHECK(assembler_finish(&a, &counts, &out) == RC_OK);
    CHECK(strstr(out.data, "\"content\":\"a\\n\\u00e9c\"") != NULL);
    assembler_fini(&a);
    assembler_init(&a, 20, &scratch);
    CHECK(feed_all(&a, begin) == RC_OK);
    CHECK(assembler_text(&a, (struct bytes){"0123456789abcdef", 16}) == RC_FULL);
    CHECK(assembler_text(&a, (struct bytes){"", 0}) == RC_FULL); /* sticks */
    assembler_fini(&a);
    strbuf_fini(&out);
}

static void test_assemble_refused(void)
{
    static const struct {
        const char *chunks[4];
        enum rc rc;
    } cases[] = {
        {{DELTA("\"content\":\"a\""), DELTA("\"role\":\"assistant\"")}, RC_OK},
        {{TOOL("0", "\"id\":\"x\""), TOOL("1", "\"id\":\"y\""), TOOL("0", "\"id\":\"x\"")}, RC_OK},
        {{TOOL("0", "\"id\":\"x\""), TOOL("0", "\"id\":\"y\"")}, RC_UNSUPPORTED},
        {{TOOL("1", "\"id\":\"x\"")}, RC_UNSUPPORTED},
        {{TOOL("-1", "\"id\":\"x\"")}, RC_UNSUPPORTED},
        {{DELTA("\"tool_calls\":[{\"id\":\"x\"}]")}, RC_UNSUPPORTED},
        {{DELTA("\"tool_calls\":7")}, RC_UNSUPPORTED},
        {{DELTA("\"audio\":{\"data\":1}")}, RC_UNSUPPORTED},
        {{DELTA("\"content\":[1]")}, RC_UNSUPPORTED},
        {{"{\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":{\"content\":[{}]}}]}"}, RC_UNSUPPORTED},
        {{"{\"choices\":[{\"index\":1,\"delta\":{}}]}"}, RC_UNSUPPORTED},
        {{"{\"choices\":[{\"delta\":{}},{\"delta\":{}}]}"}, RC_UNSUPPORTED},
        {{"{\"choices\":[{\"delta\":{},\"finish_reason\":\"error\"}]}"}, RC_UNSUPPORTED},
        {{DELTA("\"content\":\"a\""), "{\"choices\":[{\"text\":\"b\"}]}"}, RC_UNSUPPORTED},
        {{"{\"error\":{\"code\":1}}"}, RC_UNSUPPORTED},
        {{"[]"}, RC_INVALID},
        {{"{\"choices\":[7]}"}, RC_INVALID},
        {{DELTA("\"content\":\"12345678901234567890\""), DELTA("\"content\":\"12345678901234567890\"")}, RC_FULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct assembler a;
        struct strbuf out;
        strbuf_init(&out, 4096);
        assembler_init(&a, 32, &scratch);
        enum rc rc = feed_all(&a, cases[i].chunks);
        if (rc != cases[i].rc)
            fprintf(stderr, "case %zu\n", i);
        CHECK_STR(rc_name(rc), rc_name(cases[i].rc));
        if (rc != RC_OK) { /* it stays so, and may be freed again */
            CHECK(assembler_feed(&a, DELTA(""), sizeof(DELTA("")) - 1) == rc);
            CHECK(assembler_finish(&a, &counts, &out) == rc);
        }
        assembler_fini(&a);
        strbuf_fini(&out);
    }
}

int main(void)
{
    TEST(test_body);
    TEST(test_pieces);
    TEST(test_stream_text);
    TEST(test_tools);
    TEST(test_refused);
    TEST(test_assemble);
    TEST(test_assemble_texts);
    TEST(test_assemble_refused);
    tree_fini(&scratch);
    return TEST_RESULT();
}
