/* The pure parts of the front: places in JSON text, requests and how they are spliced, usage, whole answers, streams
 * (whole frames, held finish, usage where it belongs), error objects.
 * links: spw_sched_front */
#include <stdlib.h>

#include "base/file.h"
#include "base/json.h"
#include "scheduler/wire/answer.h"
#include "scheduler/wire/errors.h"
#include "scheduler/wire/request.h"
#include "scheduler/wire/retry_after.h"
#include "scheduler/wire/stream.h"
#include "scheduler/wire/usage.h"
#include "tests/unit/test.h"

static struct span span_of(const char *text)
{
    return (struct span){text, strlen(text)};
}

/* ---- scan ------------------------------------------------------------------------------------------------------- */

static void scan_finds_members(void)
{
    const char *text = " {\"a\" : 1 ,\"b\":\"x\\\"}\\\\\",\"c\":{\"a\":[1,{\"b\":2}]} , \"d\":[ ], \"e\":null}\n";
    CHECK(span_is(scan_find(span_of(text), "a"), "1"));
    CHECK(span_is(scan_find(span_of(text), "b"), "\"x\\\"}\\\\\""));
    CHECK(span_is(scan_find(span_of(text), "c"), "{\"a\":[1,{\"b\":2}]}"));
    CHECK(span_is(scan_find(span_of(text), "d"), "[ ]"));
    CHECK(span_is_null(scan_find(span_of(text), "e")) && span_is_null(scan_find(span_of(text), "f")));
    struct span v;
    struct scan s = scan_array(span_of("[1, \"a,b\" ,[2,3],{}]"));
    int n = 0;
    while (scan_element(&s, &v))
        n++;
    CHECK(n == 4 && !s.failed);
    s = scan_object(span_of("{}"));
    CHECK(!scan_member(&s, &v, &v) && !s.failed);
}

static void scan_refuses_broken_text(void)
{
    static const char *const broken[] = {"",           "{",           "}",          "{]",        "[1,2]",
                                         "{\"a\"}",    "{\"a\":}",    "{\"a\":1,}", "{,}",       "{\"a\":1 2}",
                                         "{\"a:1}",    "{\"a\":\"x}", "{a:1}",      "{\"a\":[}", "{\"a\":{}",
                                         "{\"a\"::1}", "{\"a\":1}}",  "null",       "\"{}\"",    "{\"a\":\"\\\"}"};
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        struct span key, value;
        struct scan s = scan_object(span_of(broken[i]));
        while (scan_member(&s, &key, &value))
            ;
        if (!s.failed)
            fprintf(stderr, "accepted: %s\n", broken[i]);
        CHECK(s.failed);
    }
}

/* A long prompt full of escapes must not cost the square of its length. */
static void scan_is_linear(void)
{
    size_t n = 8 << 20;
    char *text = malloc(n + 1);
    memcpy(text, "{\"a\":\"", 6);
    for (size_t i = 6; i < n - 2; i += 2)
        memcpy(text + i, i % 4 ? "\\\\" : "\\\"", 2);
    memcpy(text + n - 2, "\"}", 2);
    CHECK(scan_find((struct span){text, n}, "a").n == n - 6);
    free(text);
}

/* ---- requests --------------------------------------------------------------------------------------------------- */

static enum rc parse_as(struct request_body *r, enum request_kind kind, const char *text, const char **param)
{
    struct json_doc doc;
    struct error e;
    enum rc rc = request_parse(r, &doc, kind, (struct span){text, strlen(text)}, param, &e);
    if (rc == RC_OK)
        json_doc_fini(&doc);
    return rc;
}

static enum rc parse(struct request_body *r, const char *text, const char **param)
{
    return parse_as(r, REQUEST_CHAT, text, param);
}

/* in, spliced for `model`, is out. */
static void check_splice(const char *in, const char *model, const char *out)
{
    struct request_body r;
    const char *param;
    struct strbuf b;
    strbuf_init(&b, 4096);
    CHECK_INT(parse(&r, in, &param), RC_OK);
    CHECK_INT(request_splice(&r, &(struct request_leg){.upstream_model = model, .stream = r.stream}, &b), RC_OK);
    CHECK_STR(b.data, out);
    strbuf_fini(&b);
}

#define MESSAGES "\"messages\":[{\"role\":\"user\"}]"
#define ASKED    "\"stream_options\":{\"include_usage\":true}"

static void splices_touch_nothing_else(void)
{
    check_splice("{\"model\":\"m\"," MESSAGES ",\"x\":1.0e0}", NULL, "{\"model\":\"m\"," MESSAGES ",\"x\":1.0e0}");
    check_splice("{ \"model\" : \"m\" ," MESSAGES "}", "a/\"b", "{ \"model\" : \"a/\\\"b\" ," MESSAGES "}");
    check_splice("{\"mod\\u0065l\":\"m\"," MESSAGES "}", "n", "{\"mod\\u0065l\":\"n\"," MESSAGES "}");
    check_splice("\n{ \"stream\":true,\"model\":\"m\"," MESSAGES "}", NULL,
                 "\n{" ASKED ", \"stream\":true,\"model\":\"m\"," MESSAGES "}");
    check_splice("{\"stream\":true,\"model\":\"m\"," MESSAGES "," ASKED "}", NULL,
                 "{\"stream\":true,\"model\":\"m\"," MESSAGES "," ASKED "}");
    check_splice("{\"stream_options\":null,\"stream\":true,\"model\":\"m\"," MESSAGES "}", "n",
                 "{" ASKED ",\"stream\":true,\"model\":\"n\"," MESSAGES "}");
    check_splice("{\"stream_options\":{ },\"stream\":true,\"model\":\"m\"," MESSAGES "}", NULL,
                 "{" ASKED ",\"stream\":true,\"model\":\"m\"," MESSAGES "}");
    check_splice("{\"stream\":true,\"model\":\"m\"," MESSAGES ",\"stream_options\":{\"include_usage\":false}}", "n",
                 "{\"stream\":true,\"model\":\"n\"," MESSAGES "," ASKED "}");
    check_splice("{\"stream\":true,\"model\":\"m\"," MESSAGES ",\"stream_options\":{ \"y\":2}}", NULL,
                 "{\"stream\":true,\"model\":\"m\"," MESSAGES ",\"stream_options\":{\"include_usage\":true, \"y\":2}}");
    /* The same words deeper down are somebody else's. */
    check_splice("{\"metadata\":{\"model\":\"x\",\"stream_options\":{}},\"model\":\"m\"," MESSAGES "}", "n",
                 "{\"metadata\":{\"model\":\"x\",\"stream_options\":{}},\"model\":\"n\"," MESSAGES "}");
}

/* in, as it goes to an engine or another node under these conditions, is out. */
static void check_leg(const char *in, const struct request_leg *leg, const char *out)
{
    struct request_body r;
    const char *param;
    struct strbuf b;
    CHECK_INT(parse(&r, in, &param), RC_OK);
    strbuf_init(&b, request_splice_bytes_max(&r, leg));
    CHECK_INT(request_splice(&r, leg, &b), RC_OK);
    CHECK_STR(b.data, out);
    strbuf_fini(&b);
}

#define M          "{\"model\":\"m\"," MESSAGES
#define AT_MOST(n) "\"max_tokens\":" #n
#define OR(n)      "\"max_completion_tokens\":" #n

/* What we do not know passes as it was written: numbers that no double holds, escapes, blanks, words of ours deep down. */
static void odd_json_passes_untouched(void)
{
    static const char odd[] =
        "\"a\":[1.0e0,-0,-0.0,1E+2,123456789012345678901234567890,0.1000000000000000055511151231257827,1e-400],\n"
        "\t\"b\" :  {\"max_tokens\":9,\"model\":\"x\",\"spillway_salt\":\"s\",\"\":{\"\":[[],[[]],{}]}},\r\n"
        "\"c\\u00e9\":\"\\u0041\\/\\ud83d\\ude00\xc3\xa9\",\"max_\\u0074okens_x\":null, \"stream \":true";
    char in[1024], out[1024];
    struct strbuf deep;
    snprintf(in, sizeof in, "{%s,\"model\":\"m\"," MESSAGES "}", odd);
    snprintf(out, sizeof out, "{" AT_MOST(5) ",%s,\"model\":\"n\"," MESSAGES "}", odd);
    check_leg(in, &(struct request_leg){0}, in);
    check_leg(in, &(struct request_leg){.bounded = true, .output_max = 5, .upstream_model = "n"}, out);
    strbuf_init(&deep, 4096);
    CHECK_INT(strbuf_puts(&deep, M ",\"deep\":"), RC_OK);
    for (int i = 0; i < 60; i++)
        CHECK_INT(strbuf_puts(&deep, i % 2 ? "{\"k\": " : "[ 1.50 , "), RC_OK);
    CHECK_INT(strbuf_puts(&deep, "0.10"), RC_OK);
    for (int i = 59; i >= 0; i--)
        CHECK_INT(strbuf_puts(&deep, i % 2 ? " }" : "]"), RC_OK);
    CHECK_INT(strbuf_puts(&deep, "}"), RC_OK);
    check_leg(deep.data, &(struct request_leg){0}, deep.data);
    strbuf_fini(&deep);
}

static void bounds_are_lowered_and_never_raised(void)
{
    struct request_leg five = {.bounded = true, .output_max = 5};
    check_leg(M "}", &five, "{" AT_MOST(5) ",\"model\":\"m\"," MESSAGES "}");
    check_leg(M "," AT_MOST(null) "}", &five, M "," AT_MOST(5) "}");
    check_leg(M "," OR(null) "}", &five, "{" AT_MOST(5) ",\"model\":\"m\"," MESSAGES "," OR(null) "}");
    check_leg(M "," AT_MOST(6) "}", &five, M "," AT_MOST(5) "}");
    check_leg(M "," AT_MOST(5) "}", &five, M "," AT_MOST(5) "}");
    check_leg(M "," AT_MOST(0) "}", &five, M "," AT_MOST(0) "}");
    check_leg(M "," OR(9) "}", &five, M "," OR(5) "}");
    check_leg(M "," AT_MOST(3) "," OR(9) "}", &five, M "," AT_MOST(3) "," OR(5) "}");
    check_leg(M "," AT_MOST(null) "," OR(4) "}", &five, M "," AT_MOST(null) "," OR(4) "}");
    check_leg(M "," AT_MOST(6) "}", &(struct request_leg){.output_max = 5}, M "," AT_MOST(6) "}");
    /* An engine counts from the answer's beginning, who goes on by text only its own part. */
    struct strbuf text;
    strbuf_init(&text, 64);
    CHECK_INT(strbuf_puts(&text, "Hi"), RC_OK);
    struct request_leg on = {.bounded = true, .output_max = 5, .text = &text, .said = 2};
    const char *flags = "{\"continue_final_message\":true,\"add_generation_prompt\":false,";
    const char *messages = "\"messages\":[{\"role\":\"user\"},{\"role\":\"assistant\",\"content\":\"Hi\"}]";
    char out[512];
    snprintf(out, sizeof out, "%s\"model\":\"m\",%s,\"max_tokens\":3}", flags, messages);
    check_leg(M "," AT_MOST(9) "}", &on, out);
    snprintf(out, sizeof out, "%s\"model\":\"m\",%s,\"max_tokens\":2}", flags, messages);
    check_leg(M "," AT_MOST(4) "}", &on, out);
    strbuf_fini(&text);
    struct request_leg engine = {
        .to_engine = true, .seed = 7, .salt = "abc", .bounded = true, .output_max = 5, .said = 2};
    check_leg(M "," AT_MOST(9) "}", &engine,
              "{\"spillway_salt\":\"abc\",\"spillway_seed\":7,\"model\":\"m\"," MESSAGES "," AT_MOST(5) "}");
}

static int64_t choices_of(enum request_kind kind, const char *text)
{
    struct request_body r;
    const char *param;
    CHECK_INT(parse_as(&r, kind, text, &param), RC_OK);
    CHECK(request_input_max(&r) > (int64_t)strlen(text));
    return r.choices;
}

static void choices_are_counted(void)
{
    CHECK_INT(choices_of(REQUEST_CHAT, M "}"), 1);
    CHECK_INT(choices_of(REQUEST_CHAT, M ",\"n\":3}"), 3);
    CHECK_INT(choices_of(REQUEST_CHAT, M ",\"n\":null,\"prompt\":[\"a\",\"b\"]}"), 1);
    CHECK_INT(choices_of(REQUEST_CHAT, M ",\"n\":-4}"), 1);
    CHECK_INT(choices_of(REQUEST_CHAT, M ",\"n\":1e300}"), 1000000);
    CHECK_INT(choices_of(REQUEST_COMPLETION, "{\"model\":\"m\",\"prompt\":\"a\",\"n\":2,\"best_of\":5}"), 5);
    CHECK_INT(choices_of(REQUEST_COMPLETION, "{\"model\":\"m\",\"prompt\":[\"a\",\"b\"],\"n\":2}"), 4);
    CHECK_INT(choices_of(REQUEST_COMPLETION, "{\"model\":\"m\",\"prompt\":[[1],[2,3],[4]]}"), 3);
    CHECK_INT(choices_of(REQUEST_COMPLETION, "{\"model\":\"m\",\"prompt\":[1,2,3]}"), 1);
    CHECK_INT(choices_of(REQUEST_COMPLETION, "{\"model\":\"m\",\"prompt\":[]}"), 1);
}

static enum rc parse_embeddings(struct request_body *r, const char *text, const char **param)
{
    return parse_as(r, REQUEST_EMBEDDINGS, text, param);
}

/* The tokenizer's endpoints: nothing is computed, so there is nothing to reserve, to keep or to stream. */
static void texts_cost_nothing(void)
{
    static const struct {
        enum request_kind kind;
        const char *given, *wrong; /* param, or NULL: it is fine */
    } cases[] = {
        {REQUEST_TOKENIZE, "\"prompt\":\"\",\"add_special_tokens\":false", NULL},
        {REQUEST_TOKENIZE, "\"prompt\":[1,2]", NULL},
        {REQUEST_TOKENIZE, "\"messages\":[{}]", NULL},
        {REQUEST_TOKENIZE, "\"messages\":[]", "messages"},
        {REQUEST_TOKENIZE, "\"x\":1", "prompt"},
        {REQUEST_TOKENIZE, "\"prompt\":\"x\",\"stream\":true", "stream"},
        {REQUEST_DETOKENIZE, "\"tokens\":[]", NULL},
        {REQUEST_DETOKENIZE, "\"tokens\":\"x\"", "tokens"},
        {REQUEST_DETOKENIZE, "\"prompt\":[1]", "tokens"},
    };
    struct request_body r;
    const char *param;
    char text[256];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        snprintf(text, sizeof text, "{\"model\":\"m\",%s}", cases[i].given);
        const enum rc rc = parse_as(&r, cases[i].kind, text, &param);
        CHECK_INT(rc, cases[i].wrong ? RC_INVALID : RC_OK);
        if (cases[i].wrong)
            CHECK_STR(param, cases[i].wrong);
        else
            CHECK(!r.resumable && request_input_max(&r) == 0 && request_estimate_output(&r) == 0 &&
                  request_estimate_input(&r) == 1);
    }
    static const char *const bodies[] = {"{\"count\":0,\"tokens\":[]}", "{\"tokens\":[]}", "{\"count\":{}}", "[]",
                                         "{\"count\":1"};
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++)
        CHECK_INT(answer_has((struct span){bodies[i], strlen(bodies[i])}, "count"), i == 0);
}

/* Nothing is said, so nothing is reserved, bounded, streamed or continued; and what we do not know passes. */
static void embeddings_say_nothing(void)
{
    static const char *const fine[] = {"\"a text\"", "[\"a\",\"b\"]", "[1,2,3]", "[[1],[2,3]]", "\"\""},
                             *const wrong[] = {"null", "[]", "7", "{}"};
    struct request_body r;
    const char *param;
    char text[256];
    for (size_t i = 0; i < sizeof fine / sizeof fine[0]; i++) {
        snprintf(text, sizeof text, "{\"model\":\"m\",\"input\":%s,\"n\":3,\"max_tokens\":-5,\"stream\":false}",
                 fine[i]);
        CHECK_INT(parse_embeddings(&r, text, &param), RC_OK);
        CHECK(r.choices == 1 && !r.stream && !r.resumable && !r.prefixable);
        CHECK(r.output_tokens_max == 0 && request_estimate_output(&r) == 0 && request_estimate_input(&r) > 10);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        snprintf(text, sizeof text, "{\"model\":\"m\",\"input\":%s}", wrong[i]);
        CHECK_INT(parse_embeddings(&r, text, &param), RC_INVALID);
        CHECK_STR(param, "input");
    }
    CHECK_INT(parse_embeddings(&r, "{\"model\":\"m\",\"prompt\":\"x\"}", &param), RC_INVALID);
    CHECK_STR(param, "input");
    CHECK_INT(parse_embeddings(&r, "{\"model\":\"m\",\"input\":\"x\",\"stream\":true}", &param), RC_INVALID);
    CHECK_STR(param, "stream");
    struct strbuf b;
    strbuf_init(&b, 4096);
    CHECK_INT(parse_embeddings(&r, "{\"model\":\"m\",\"input\": [1, 2],\"dimensions\":8,\"max_tokens\":9}", &param),
              RC_OK);
    CHECK_INT(request_splice(&r, &(struct request_leg){.upstream_model = "n", .salt = "s"}, &b), RC_OK);
    CHECK_STR(b.data, "{\"spillway_salt\":\"s\",\"model\":\"n\",\"input\": [1, 2],\"dimensions\":8,\"max_tokens\":9}");
    strbuf_fini(&b);
}

static void requests_are_checked(void)
{
    struct request_body r;
    const char *param;
    CHECK_INT(parse(&r, "{\"model\":\"m\"," MESSAGES ",\"max_tokens\":7,\"stream\":true," ASKED "}", &param), RC_OK);
    CHECK(r.stream && r.usage_asked && r.output_tokens_max == 7 && strcmp(r.model, "m") == 0);
    CHECK_INT(request_estimate_output(&r), 7);
    CHECK_INT(parse(&r, "{\"model\":\"m\"," MESSAGES ",\"max_completion_tokens\":9000}", &param), RC_OK);
    CHECK_INT(request_estimate_output(&r), 256);
    CHECK(request_estimate_input(&r) > 10);
    CHECK_INT(parse(&r, "{\"model\":\"m\"," MESSAGES ",\"max_tokens\":-1}", &param), RC_INVALID);
    CHECK_STR(param, "max_tokens");
    CHECK_INT(parse(&r, "{\"model\":null," MESSAGES "}", &param), RC_INVALID);
    CHECK_STR(param, "model");
    CHECK_INT(parse(&r, "{\"model\":\"m\"," MESSAGES ",\"service_tier\":\"flex\"}", &param), RC_OK);
    CHECK_INT(r.tier, TIER_FLEX);
    CHECK_INT(parse(&r, "{\"model\":\"m\"," MESSAGES ",\"service_tier\":null}", &param), RC_OK);
    CHECK_INT(r.tier, TIER_AUTO);
    CHECK_INT(parse(&r, "{\"model\":\"m\"," MESSAGES ",\"service_tier\":\"fast\"}", &param), RC_INVALID);
    CHECK_STR(param, "service_tier");
    CHECK_INT(parse(&r, "{\"model\":\"m\"," MESSAGES ",\"service_tier\":1}", &param), RC_INVALID);
    CHECK_STR(param, "service_tier");
    CHECK_INT(parse(&r, "[]", &param), RC_INVALID);
    CHECK(param == NULL);
    char text[700];
    snprintf(text, sizeof text, "{" MESSAGES ",\"model\":\"%0300d\"}", 0);
    CHECK_INT(parse(&r, text, &param), RC_INVALID);
    CHECK_STR(param, "model");
}

/* ---- usage and whole answers ------------------------------------------------------------------------------------ */

static void usage_is_read_with_suspicion(void)
{
    struct token_counts c = {0};
    CHECK_INT(usage_parse(span_of("{\"prompt_tokens\":10,\"completion_tokens\":3,\"total_tokens\":13,"
                                  "\"prompt_tokens_details\":{\"cached_tokens\":4}}"),
                          &c),
              RC_OK);
    CHECK(c.input == 10 && c.cached_input == 4 && c.output == 3);
    CHECK_INT(usage_parse(span_of("{\"prompt_tokens\":10,\"prompt_cache_hit_tokens\":12}"), &c), RC_OK);
    CHECK(c.input == 10 && c.cached_input == 10 && c.output == 0);
    CHECK_INT(usage_parse(span_of("{\"prompt_tokens\":1,\"prompt_tokens_details\":null}"), &c), RC_OK);
    static const char *const lies[] = {"null",
                                       "[]",
                                       "{}",
                                       "{\"prompt_tokens\":-1}",
                                       "{\"prompt_tokens\":1.5}",
                                       "{\"prompt_tokens\":\"3\"}",
                                       "{\"prompt_tokens\":1e300}",
                                       "{\"prompt_tokens\":1,\"completion_tokens\":-2}",
                                       "{\"prompt_tokens\":1,\"prompt_tokens_details\":{\"cached_tokens\":-2}}"};
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++)
        CHECK_INT(usage_parse(span_of(lies[i]), &c), RC_INVALID);
    CHECK_INT(usage_parse((struct span){NULL, 0}, &c), RC_INVALID);
    /* The plain ones are read without a tree: the same rules. */
    CHECK_INT(usage_parse(span_of(" { \"completion_tokens\" : 3, \"prompt_tokens\" : 999999999999 } "), &c), RC_OK);
    CHECK(c.input == 999999999999 && c.output == 3 && c.cached_input == 0);
    CHECK_INT(usage_parse(span_of("{\"prompt_tokens\":1000000000001}"), &c), RC_INVALID);
    CHECK_INT(usage_parse(span_of("{\"prompt_tokens\":1e2,\"total_tokens\":3}"), &c), RC_OK);
    CHECK(c.input == 100);
    static const char *const broken[] = {"{\"prompt_tokens\":01}", "{\"prompt_tokens\":1,}",
                                         "{\"prompt_tokens\":1,\"prompt_tokens\":1}", "{\"prompt_tokens\":1}}",
                                         "{\"prompt_tokens\":1 \"total_tokens\":2}"};
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++)
        CHECK_INT(usage_parse(span_of(broken[i]), &c), RC_INVALID);
}

/* What has been parsed says the same as what is scanned. */
static void parsed_answers(void)
{
    static const char *const bodies[] = {
        "{\"choices\":[{\"message\":{\"content\":\"abcd\\u0000efgh\"}}]}",
        "{\"choices\":[{}],\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":1}}",
        "{ \"usage\" : { \"prompt_tokens\" : 20 , \"total_tokens\" : 7 } , \"choices\" : [ {\"text\":\"abc\"} ] }",
        "{\"choices\":[{\"text\":\"abcde\"}],\"usage\":null}",
        "{\"choices\":[{}],\"usage\":{\"prompt_tokens\":2,\"prompt_tokens\":3}}",
        "{\"choices\":[{}],\"usage\":{\"prompt_tokens\":02,\"total_tokens\":3}}",
        "{\"choices\":[{}],\"usage\":{\"prompt_tokens\":2,\"prompt_cache_hit_tokens\":1}}",
        "{\"choices\":{}}",
        "{\"choices\":[]}",
        "{\"error\":{}}",
        "[]",
    };
    struct tree t;
    tree_init(&t);
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        struct token_counts a = {0}, b = {0};
        bool known_a, known_b;
        enum rc scanned = answer_read(span_of(bodies[i]), "choices", &a, &known_a);
        if (tree_parse(&t, bodies[i], strlen(bodies[i])) != RC_OK)
            continue;
        CHECK_INT(answer_read_tree(&t, "choices", &b, &known_b), scanned);
        CHECK(scanned != RC_OK || (known_a == known_b && memcmp(&a, &b, sizeof a) == 0));
    }
    tree_fini(&t);
}

/* Vectors are no text: nothing of them counts as output. */
static void lists_of_embeddings(void)
{
    static const char *const bodies[] = {
        "{\"object\":\"list\",\"data\":[{\"embedding\":[0.5,-1e-3],\"index\":0}],\"usage\":{\"prompt_tokens\":4}}",
        "{\"data\":[{\"embedding\":\"AAAAPw==\"}]}", "{\"data\":[]}", "{\"choices\":[{\"text\":\"abc\"}]}"};
    struct tree t;
    tree_init(&t);
    for (int i = 0; i < 4; i++) {
        struct token_counts a = {.output = 7}, b = a;
        bool known_a, known_b;
        CHECK_INT(answer_read(span_of(bodies[i]), "data", &a, &known_a), i < 2 ? RC_OK : RC_INVALID);
        CHECK_INT(tree_parse(&t, bodies[i], strlen(bodies[i])), RC_OK);
        CHECK_INT(answer_read_tree(&t, "data", &b, &known_b), i < 2 ? RC_OK : RC_INVALID);
        CHECK(i > 1 || (known_a == (i == 0) && known_b == known_a && a.output == 0 && b.output == 0));
        CHECK(i > 0 || (a.input == 4 && b.input == 4));
    }
    tree_fini(&t);
}

static void whole_answers(void)
{
    struct token_counts c = {0};
    bool known;
    const char *text = "{\"model\":\"n\",\"choices\":[{\"message\":{\"content\":\"abcd\\u0000efgh\"}}]}";
    CHECK_INT(answer_read(span_of(text), "choices", &c, &known), RC_OK);
    CHECK(!known && c.output == 4);
    CHECK_INT(answer_read(span_of("{\"choices\":[{}],\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":1}}"),
                          "choices", &c, &known),
              RC_OK);
    CHECK(known && c.input == 2 && c.output == 1);
    static const char *const none[] = {"", "[]", "<html>", "{\"choices\":[]}", "{\"error\":{}}", "{\"choices\":[{]}"};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
        CHECK_INT(answer_read(span_of(none[i]), "choices", &c, &known), RC_INVALID);
    parsed_answers();
    lists_of_embeddings();
    struct strbuf b;
    strbuf_init(&b, 4096);
    CHECK_INT(answer_write(span_of(text), "m", NULL, &b), RC_OK);
    CHECK(strncmp(b.data, "{\"model\":\"m\",\"choices\"", 21) == 0);
    strbuf_fini(&b);
}

/* ---- streams ---------------------------------------------------------------------------------------------------- */

#define HEAD           "{\"id\":\"c\",\"model\":\"n\",\"choices\":["
#define WORD(w)        "data: " HEAD "{\"index\":0,\"delta\":{\"content\":\"" w "\"},\"finish_reason\":null}]}\n\n"
#define FINISH(rest)   "data: " HEAD "{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]" rest "}\n\n"
#define USAGE          "{\"prompt_tokens\":5,\"completion_tokens\":2}"
#define USAGE_CHUNK    "data: " HEAD "],\"usage\":" USAGE "}\n\n"
#define DONE           "data: [DONE]\n\n"
#define SPILLWAY(cost) ",\"spillway\":{\"node\":\"a\",\"charge_usd\":\"" cost "\"}"

struct fed {
    struct stream s;
    struct strbuf out;
    enum stream_status status;
};

static void feed(struct fed *f, const char *text, size_t step, const char *model, bool usage_asked)
{
    stream_init(&f->s, model, usage_asked);
    strbuf_init(&f->out, 1 << 20);
    f->status = STREAM_MORE;
    for (size_t at = 0, n = strlen(text); at < n && f->status == STREAM_MORE; at += step)
        f->status = stream_feed(&f->s, text + at, n - at < step ? n - at : step, &f->out);
}

static void fed_free(struct fed *f)
{
    stream_fini(&f->s);
    strbuf_fini(&f->out);
}

/* Whatever the cuts: `in` lets `now` leave at once and `later` after the commit. */
static void check_bill(const char *in, const char *model, bool usage_asked, int64_t joules, const char *now,
                       const char *later)
{
    for (size_t step = 1; step < 400; step = step < 8 ? step + 1 : step * 2 + 1) {
        struct fed f;
        struct token_counts counts = {.input = 9, .output = 2};
        feed(&f, in, step, model, usage_asked);
        if (f.status == STREAM_MORE)
            f.status = stream_eof(&f.s, &f.out);
        CHECK_INT(f.status, STREAM_DONE);
        CHECK_STR(f.out.data ? f.out.data : "", now);
        strbuf_clear(&f.out);
        CHECK_INT(stream_final(&f.s, &(struct stream_bill){"a", "0.01", joules, NULL, false}, &counts, &f.out), RC_OK);
        CHECK_STR(f.out.data, later);
        CHECK_INT(f.s.content_chunks, 2);
        fed_free(&f);
    }
}

static void check_stream(const char *in, const char *model, bool usage_asked, const char *now, const char *later)
{
    check_bill(in, model, usage_asked, -1, now, later);
}

static void finish_is_held_and_usage_is_placed(void)
{
    const char *usual = WORD("x") WORD("y") FINISH("") USAGE_CHUNK DONE;
    check_stream(usual, NULL, false, WORD("x") WORD("y"), FINISH("") DONE);
    check_stream(usual, NULL, true, WORD("x") WORD("y"),
                 FINISH("") "data: " HEAD "],\"usage\":" USAGE SPILLWAY("0.01") "}\n\n" DONE);
    check_bill(usual, NULL, true, 41007, WORD("x") WORD("y"),
               FINISH("") "data: " HEAD "],\"usage\":" USAGE ",\"spillway\":{\"node\":\"a\",\"charge_usd\":\"0.01\","
                          "\"joules_estimated\":41.007}}\n\n" DONE);
    /* Usage in the finish chunk, in a content chunk, nowhere; no [DONE]; comments; CRLF. */
    check_stream(WORD("x") WORD("y") FINISH(",\"usage\":" USAGE) DONE, NULL, true, WORD("x") WORD("y"),
                 FINISH(",\"usage\":null") "data: " HEAD "],\"usage\":" USAGE SPILLWAY("0.01") "}\n\n" DONE);
    check_stream(WORD("x") WORD("y") FINISH(",\"usage\":" USAGE) DONE, NULL, false, WORD("x") WORD("y"),
                 FINISH(",\"usage\":null") DONE);
    check_stream(WORD("x") ": ping\n\n" WORD("y") FINISH(""), NULL, true, WORD("x") WORD("y"),
                 FINISH("") "data: {\"id\":\"c\",\"model\":\"n\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,"
                            "\"completion_tokens\":2,\"total_tokens\":11}" SPILLWAY("0.01") "}\n\n" DONE);
}

static void model_is_the_clients(void)
{
    struct fed f;
    feed(&f, WORD("x"), 1000, "mine", false);
    CHECK(strstr(f.out.data, "\"model\":\"mine\"") && !strstr(f.out.data, "\"n\""));
    fed_free(&f);
}

static void check_tier(const char *body, const char *wanted)
{
    struct strbuf b;
    strbuf_init(&b, 4096);
    CHECK_INT(answer_write(span_of(body), "m", "flex", &b), RC_OK);
    CHECK_STR(b.data, wanted);
    strbuf_fini(&b);
}

/* Every chunk and every body says it once; what the node says stays. */
static void the_tier_is_told(void)
{
    const char *text = WORD("x") WORD("y") FINISH("") USAGE_CHUNK DONE, *said = "\"service_tier\":\"flex\"";
    struct token_counts counts = {.input = 5, .output = 2};
    struct fed f = {.status = STREAM_MORE};
    stream_init(&f.s, "mine", true);
    stream_say_tier(&f.s, "flex");
    strbuf_init(&f.out, 1 << 20);
    CHECK_INT(stream_feed(&f.s, text, strlen(text), &f.out), STREAM_DONE);
    CHECK_INT(stream_final(&f.s, &(struct stream_bill){"a", "0", -1, NULL, false}, &counts, &f.out), RC_OK);
    int n = 0;
    for (const char *p = f.out.data; (p = strstr(p, said)); p++)
        n++;
    CHECK_INT(n, 4);
    CHECK(strstr(f.out.data, "\"model\":\"mine\",\"service_tier\":\"flex\",\"choices\":[],\"usage\""));
    fed_free(&f);

    /* Token ids that stand right behind the place where it is put, last or not, are cut out all the same. */
    feed(&f, "", 1, NULL, false);
    stream_say_tier(&f.s, "flex");
    text = "data: {\"choices\":[{\"text\":\"x\"}],\"model\":\"n\",\"spillway_ids\":[1]}\n\n"
           "data: {\"model\":\"n\",\"spillway_ids\":[1],\"choices\":[{\"text\":\"y\"}]}\n\n";
    CHECK_INT(stream_feed(&f.s, text, strlen(text), &f.out), STREAM_MORE);
    CHECK_STR(f.out.data, "data: {\"choices\":[{\"text\":\"x\"}],\"model\":\"n\",\"service_tier\":\"flex\"}\n\n"
                          "data: {\"model\":\"n\",\"service_tier\":\"flex\",\"choices\":[{\"text\":\"y\"}]}\n\n");
    fed_free(&f);

    check_tier("{\"model\":\"n\",\"choices\":[]}", "{\"model\":\"m\",\"service_tier\":\"flex\",\"choices\":[]}");
    check_tier("{\"service_tier\": null,\"model\":\"n\"}", "{\"service_tier\": \"flex\",\"model\":\"m\"}");
    check_tier("{\"model\":\"n\",\"service_tier\":\"default\"}", "{\"model\":\"m\",\"service_tier\":\"default\"}");
    check_tier("{\"choices\":[]}", "{\"choices\":[]}"); /* nowhere to put it */
    check_tier("{\"model\":", "{\"model\":");
}

/* Two choices: one ends early, the text of the other does not wait behind it. */
static void text_passes_a_held_finish(void)
{
    struct fed f;
    feed(&f, WORD("x") FINISH("") WORD("z"), 1000, NULL, false);
    CHECK_STR(f.out.data, WORD("x") WORD("z"));
    CHECK(f.status == STREAM_MORE && f.s.finished && !f.s.done);
    fed_free(&f);
}

static void broken_streams_are_told(void)
{
    static const struct {
        const char *text;
        enum stream_status status;
        const char *left; /* what had left before */
    } cases[] = {
        {WORD("x") "data: {\"choices\":[}\n\n", STREAM_BROKEN, WORD("x")},
        {"data: <html>\n\n", STREAM_BROKEN, ""},
        {"data: {\"choices\":{}}\n\n", STREAM_BROKEN, ""},
        {DONE, STREAM_BROKEN, ""},
        {WORD("x") "data: {\"error\":{\"message\":\"m\"}}\n\n" WORD("y"), STREAM_ERROR, WORD("x")},
        {WORD("x"), STREAM_BROKEN, WORD("x")},
        {WORD("x") FINISH("") "data: {\"id", STREAM_BROKEN, WORD("x")},
        {"", STREAM_BROKEN, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fed f;
        feed(&f, cases[i].text, 7, NULL, false);
        if (f.status == STREAM_MORE)
            f.status = stream_eof(&f.s, &f.out);
        CHECK_INT(f.status, cases[i].status);
        CHECK_STR(f.out.data ? f.out.data : "", cases[i].left);
        fed_free(&f);
    }
}

static void what_counts_as_text(void)
{
    static const struct {
        const char *choice;
        int n;
    } cases[] = {
        {"{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}", 0},
        {"{\"delta\":{\"reasoning_content\":\"hm\"}}", 1},
        {"{\"delta\":{\"content\":null,\"tool_calls\":[{\"index\":0}]}}", 1},
        {"{\"delta\":{\"tool_calls\":[]}}", 0},
        {"{\"text\":\"a\"},{\"text\":\"b\"}", 2},
        {"{\"text\":\"\"}", 0},
        {"{\"delta\":null}", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[256];
        struct fed f;
        snprintf(text, sizeof text, "data: {\"choices\":[%s]}\n\n", cases[i].choice);
        feed(&f, text, 1000, NULL, false);
        CHECK_INT(f.s.content_chunks, cases[i].n);
        fed_free(&f);
    }
}

/* ---- errors ----------------------------------------------------------------------------------------------------- */

static void errors_have_four_keys(void)
{
    for (int code = 0; code < API_CODES; code++) {
        struct api_error e;
        struct strbuf b;
        cJSON *root;
        struct error why;
        strbuf_init(&b, 16384);
        api_error_set(&e, (enum api_code)code, "p", "say \"%s\"\n", "it");
        CHECK_INT(api_error_write(&e, &b), RC_OK);
        CHECK_INT(json_parse(b.data, b.len, 4, &root, &why), RC_OK);
        const cJSON *error = cJSON_GetObjectItem(root, "error");
        CHECK_INT(cJSON_GetArraySize(error), 4);
        CHECK_STR(cJSON_GetStringValue(cJSON_GetObjectItem(error, "message")), "say \"it\"\n");
        CHECK(cJSON_HasObjectItem(error, "type") && cJSON_HasObjectItem(error, "code"));
        CHECK(api_error_status(&e) >= 400 && api_error_name(&e) && *api_error_name(&e));
        cJSON_Delete(root);
        strbuf_fini(&b);
    }
    struct api_error e;
    const char *said = "{\"error\":{\"message\":\"no\",\"type\":\"t\",\"param\":\"p\",\"code\":\"c\"}}";
    api_error_from_node(&e, 422, said, strlen(said));
    CHECK(api_error_status(&e) == 422);
    CHECK_STR(api_error_name(&e), "upstream_rejected");
    struct strbuf b;
    strbuf_init(&b, 16384);
    CHECK_INT(api_error_write(&e, &b), RC_OK);
    CHECK_STR(b.data, said);
    strbuf_fini(&b);
}

/* What is documented is what is told. */
static void errors_have_a_page(void)
{
    char path[256], *made = NULL;
    int here = (int)(strlen(__FILE__) - strlen("tests/unit/test_front.c"));
    struct strbuf kept;
    struct error e;
    size_t n = 0;
    FILE *out = open_memstream(&made, &n);

    for (int i = 0; i < API_CODES; i++) {
        const struct api_error_kind *k = api_error_kind((enum api_code)i);
        CHECK(k->when && k->remedy && k->text && k->type && (k->name || k->label));
        CHECK(k->status < 500 ? k->status == 429 || !k->retry_after_s : k->retry_after_s || k->status == 500);
        for (int j = 0; j < i && k->name; j++)
            CHECK(!api_error_kind((enum api_code)j)->name || strcmp(api_error_kind((enum api_code)j)->name, k->name));
    }
    api_errors_print_markdown(out);
    fclose(out);
    snprintf(path, sizeof path, "%.*sdocs/ERRORS.md", here, __FILE__);
    CHECK(file_read(&kept, path, 1 << 20, &e) == RC_OK);
    if (!kept.data || strcmp(kept.data, made) != 0)
        fprintf(stderr, "docs/ERRORS.md is stale: build/spillway help errors --markdown > docs/ERRORS.md\n");
    CHECK(kept.data && strcmp(kept.data, made) == 0);
    strbuf_fini(&kept);
    free(made);
}

/* ---- how long a node wants to be left alone ----------------------------------------------------------------------- */

static int64_t asked_ms(const char *name, const char *value)
{
    struct http_header h = {name, value};
    struct http_head head = {.headers = &h, .n_headers = 1};
    bool said;
    int64_t us = retry_after_us(&head, (struct wall){INT64_C(784111777) * NS_PER_S}, &said);
    return said ? us / 1000 : -1;
}

static void retry_after_is_read(void)
{
    CHECK_INT(asked_ms("Retry-After", "7"), 7000);
    CHECK_INT(asked_ms("Retry-After", "0"), 0);
    CHECK_INT(asked_ms("retry-after", "1.5"), 1500);
    CHECK_INT(asked_ms("retry-after-ms", "250"), 250);
    CHECK_INT(asked_ms("Retry-After", "Sun, 06 Nov 1994 08:49:47 GMT"), 10000);
    CHECK_INT(asked_ms("Retry-After", "Sun, 06 Nov 1994 08:49:27 GMT"), 0);  /* past */
    CHECK_INT(asked_ms("Retry-After", "99999999999999999999999"), 86400000); /* not believed */
    CHECK_INT(asked_ms("Retry-After", "1.00000000000000000000000000001"), 1000);
    static const char *const wrong[] = {"", "-1", "soon", "7s", "1,5", "0x10", "7 8"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        CHECK_INT(asked_ms("Retry-After", wrong[i]), -1);
    CHECK_INT(asked_ms("X-Other", "7"), -1);
}

static int64_t quota_ms(const char *left, const char *reset)
{
    struct http_header h[] = {{"x-ratelimit-remaining-requests", left},
                              {"x-ratelimit-reset-requests", reset},
                              {"x-ratelimit-remaining-tokens", "0"},
                              {"x-ratelimit-reset-tokens", "20ms"}};
    struct http_head head = {.headers = h, .n_headers = 4};
    bool said;
    int64_t us = retry_after_us(&head, (struct wall){0}, &said);
    return said ? us / 1000 : -1;
}

static void used_up_quota_is_read(void)
{
    CHECK_INT(quota_ms("0", "6m0s"), 360000);
    CHECK_INT(quota_ms("0", "1h2m3.5s"), 3723500);
    CHECK_INT(quota_ms("12", "6m0s"), 20); /* of the tokens, which are used up */
    CHECK_INT(quota_ms("0", "soon"), 20);
    CHECK_INT(quota_ms("0", "9999999999999h"), 86400000);
    CHECK_INT(asked_ms("x-ratelimit-reset-requests", "1s"), -1); /* nobody says that they are used up */
}

int main(void)
{
    TEST(scan_finds_members);
    TEST(scan_refuses_broken_text);
    TEST(scan_is_linear);
    TEST(splices_touch_nothing_else);
    TEST(odd_json_passes_untouched);
    TEST(bounds_are_lowered_and_never_raised);
    TEST(choices_are_counted);
    TEST(embeddings_say_nothing);
    TEST(texts_cost_nothing);
    TEST(requests_are_checked);
    TEST(usage_is_read_with_suspicion);
    TEST(whole_answers);
    TEST(finish_is_held_and_usage_is_placed);
    TEST(model_is_the_clients);
    TEST(the_tier_is_told);
    TEST(text_passes_a_held_finish);
    TEST(broken_streams_are_told);
    TEST(what_counts_as_text);
    TEST(errors_have_four_keys);
    TEST(errors_have_a_page);
    TEST(retry_after_is_read);
    TEST(used_up_quota_is_read);
    return TEST_RESULT();
}
