/* The pure parts of answers that go on elsewhere: what has been said (trail), what becomes of a request whose leg ended
 * (survive), a whole answer gathered from chunks, an engine's card, the request of a later leg, a later leg's frames.
 * links: spw_sched_front */
#include <stdlib.h>

#include "base/json.h"
#include "scheduler/nodes/card.h"
#include "scheduler/wire/request.h"
#include "scheduler/wire/stream.h"
#include "scheduler/wire/survive.h"
#include "tests/unit/test.h"

static struct span span_of(const char *text)
{
    return (struct span){text, strlen(text)};
}

/* ---- trail ------------------------------------------------------------------------------------------------------ */

static void take(struct trail *t, const char *ids, const char *text)
{
    struct trail_chunk c = {.id = span_of("\"x\""), .created = span_of("5"), .contents = text != NULL};
    if (ids)
        c.ids = span_of(ids);
    if (text && *text)
        c.text = span_of(text);
    trail_take(t, &c);
}

static void trail_keeps_ids_and_text(void)
{
    struct trail t;
    trail_init(&t, TRAIL_TEXT);
    CHECK(!trail_has_said(&t) && t.ids_known && t.text_known);
    take(&t, NULL, NULL); /* a role chunk */
    CHECK(t.begun && !trail_has_said(&t));
    CHECK_STR(t.id.data, "\"x\"");
    take(&t, "[12]", "\"a\\n\"");
    take(&t, "[ 7 , 0]", NULL);
    take(&t, "[]", NULL);
    take(&t, "[131071]", "\"\\ud83d\"");
    CHECK_STR(t.ids.data, "12,7,0,131071");
    CHECK_STR(t.text.data, "a\\n\\ud83d");
    CHECK(t.n_ids == 4 && t.chunks == 2 && t.ids_known && t.text_known);
    take(&t, NULL, "\"b\""); /* a token without its id */
    CHECK(!t.ids_known && t.text_known);
    take(&t, NULL, ""); /* thinking, a tool call */
    CHECK(!t.text_known);
    trail_reset(&t);
    CHECK(!trail_has_said(&t) && !t.begun && t.ids_known && t.n_ids == 0);
    trail_fini(&t);
    trail_init(&t, TRAIL_IDS);
    take(&t, "[1]", "\"a\"");
    CHECK(t.ids_known && !t.text_known && !t.text.len && t.chunks == 1);
    trail_fini(&t);
}

static void trail_believes_no_nonsense(void)
{
    static const char *const bad[] = {"[-1]",   "[1.5]", "[\"1\"]", "[12345678901]", "[1,]",
                                      "[null]", "{}",    "7",       "[[1]]"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct trail t;
        trail_init(&t, TRAIL_TEXT);
        take(&t, bad[i], "\"a\"");
        CHECK(!t.ids_known);
        trail_fini(&t);
    }
    struct trail t;
    trail_init(&t, TRAIL_TEXT);
    for (int i = 0; i < TRAIL_IDS_MAX; i++)
        take(&t, "[4294967295]", NULL);
    CHECK(t.ids_known && t.n_ids == TRAIL_IDS_MAX);
    take(&t, "[1]", NULL);
    CHECK(!t.ids_known && !t.ids.len);
    trail_fini(&t);
}

/* ---- survive ---------------------------------------------------------------------------------------------------- */

static enum verdict judge(struct survival *s, const char *what)
{
    struct leg_end end = {
        .died = strchr(what, 'd') != NULL,         /* died */
        .computed = strchr(what, 'c') != NULL,     /* while being computed */
        .alone = strchr(what, 'a') != NULL,        /* alone */
        .progress = strchr(what, 'p') != NULL,     /* a new token */
        .said = strchr(what, 's') != NULL,         /* something has been said */
        .not_taken = strchr(what, 'n') != NULL,    /* refused unread */
        .can_continue = strchr(what, 'k') != NULL, /* and is known */
        .retries_max = 2,
    };
    return survive_judge(s, &end);
}

static void before_the_first_token_it_costs_a_retry(void)
{
    struct survival s = {0};
    CHECK_INT(judge(&s, ""), VERDICT_RETRY);
    CHECK_INT(judge(&s, "d"), VERDICT_RETRY);
    CHECK_INT(judge(&s, ""), VERDICT_GIVE_UP);
    struct survival after = {0};
    for (int i = 0; i < 100; i++)
        CHECK_INT(judge(&after, "dcpsk"), VERDICT_CONTINUE);
    CHECK(after.retries == 0 && !after.alone);
    CHECK_INT(judge(&after, "dcps"), VERDICT_GIVE_UP);
}

/* Nobody had it: it may look on, but not for ever. */
static void what_was_not_taken_costs_nothing(void)
{
    struct survival s = {0};
    for (int i = 0; i < SURVIVE_FRUITLESS_MAX; i++)
        CHECK_INT(judge(&s, "n"), VERDICT_RETRY);
    CHECK_INT(s.retries, 0);
    CHECK_INT(judge(&s, "n"), VERDICT_GIVE_UP);
}

static void poison_goes_alone_and_then_not_at_all(void)
{
    struct survival s = {0};
    CHECK_INT(judge(&s, "dcpsk"), VERDICT_CONTINUE);
    CHECK(!s.alone);
    CHECK_INT(judge(&s, "dcsk"), VERDICT_CONTINUE); /* the second death, no token between */
    CHECK(s.alone);
    CHECK_INT(judge(&s, "dcask"), VERDICT_CONTINUE);
    CHECK_INT(judge(&s, "dcask"), VERDICT_POISON);
    struct survival early = {0}; /* in prefill: not for want of retries does it go on */
    CHECK_INT(judge(&early, "dc"), VERDICT_RETRY);
    CHECK_INT(judge(&early, "dc"), VERDICT_RETRY);
    CHECK_INT(judge(&early, "dca"), VERDICT_RETRY);
    CHECK_INT(judge(&early, "dca"), VERDICT_POISON);
}

/* Engines that die faster than a token comes are not this request's fault, as long as it has company. */
static void deaths_in_company_do_not_refuse_it(void)
{
    struct survival s = {0};
    for (int i = 0; i < SURVIVE_FRUITLESS_MAX - 1; i++)
        CHECK_INT(judge(&s, "dcsk"), VERDICT_CONTINUE);
    CHECK(s.alone);
    CHECK_INT(judge(&s, "dcask"), VERDICT_CONTINUE);
    CHECK(s.alone);
    CHECK_INT(judge(&s, "dcapsk"), VERDICT_CONTINUE); /* it speaks: all of that is forgotten */
    CHECK(!s.alone && s.deaths == 0 && s.deaths_alone == 1);
}

static void a_token_clears_it_and_a_queue_is_no_guilt(void)
{
    struct survival s = {0};
    judge(&s, "dcsk");
    judge(&s, "dcsk");
    CHECK(s.alone);
    CHECK_INT(judge(&s, "dcpsk"), VERDICT_CONTINUE);
    CHECK(!s.alone && s.deaths == 1);
    for (int i = 0; i < 10; i++)
        CHECK_INT(judge(&s, "dsk"), VERDICT_CONTINUE); /* merely queued */
    CHECK(s.deaths == 1 && !s.alone);
    int legs = 0;
    while (judge(&s, "sk") == VERDICT_CONTINUE && legs < 100)
        legs++;
    CHECK_INT(legs + 10, SURVIVE_FRUITLESS_MAX); /* without a token it does not go on for ever */
}

/* ---- whole ------------------------------------------------------------------------------------------------------ */

#define CHUNK(choice) "{\"id\":\"c\",\"model\":\"n\",\"choices\":[" choice "]}"

static void whole_is_gathered(void)
{
    static const char *const chunks[] = {
        CHUNK("{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}"),
        CHUNK("{\"index\":0,\"delta\":{\"reasoning_content\":\"hm\"},\"logprobs\":null}"),
        CHUNK("{\"index\":0,\"delta\":{\"content\":\"a\\ud83d\"},\"logprobs\":{\"content\":[{\"l\":1}],\"refusal\":"
              "null}}"),
        CHUNK("{\"index\":0,\"delta\":{\"content\":\"\\ude00\"},\"logprobs\":{\"content\":[{\"l\":2},{\"l\":3}]}}"),
        CHUNK("{\"index\":0,\"delta\":{},\"logprobs\":{\"content\":[]}}"),
        CHUNK("{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}"),
        CHUNK("")};
    struct whole w;
    struct strbuf b;
    struct whole_head head = {
        .like = span_of(chunks[0]), .id = span_of("\"i\""), .created = span_of("9"), .usage = span_of("{\"u\":1}")};
    whole_init(&w, true);
    strbuf_init(&b, 4096);
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++)
        CHECK_INT(whole_take(&w, span_of(chunks[i])), RC_OK);
    CHECK_INT(whole_write(&w, &head, &b), RC_OK);
    CHECK_STR(b.data,
              "{\"object\":\"chat.completion\",\"id\":\"i\",\"created\":9,\"model\":\"n\",\"choices\":[{\"index\":0,"
              "\"message\":{\"role\":\"assistant\",\"reasoning_content\":\"hm\",\"content\":\"a\\ud83d\\ude00\","
              "\"refusal\":null},\"logprobs\":{\"content\":[{\"l\":1},{\"l\":2},{\"l\":3}],\"refusal\":null},"
              "\"finish_reason\":\"stop\"}],\"usage\":{\"u\":1}}");
    whole_reset(&w);
    CHECK(w.chat && !w.content.len && !w.n_lists);
    whole_fini(&w);
    whole_init(&w, false);
    strbuf_clear(&b);
    CHECK_INT(whole_take(&w, span_of(CHUNK("{\"text\":\"x\",\"logprobs\":{\"tokens\":[\"x\"],\"text_offset\":[0]}}"))),
              RC_OK);
    CHECK_INT(whole_take(&w, span_of(CHUNK("{\"text\":\"y\",\"logprobs\":{\"tokens\":[\"y\"],\"text_offset\":[1]}}"))),
              RC_OK);
    CHECK_INT(whole_write(&w, &(struct whole_head){.like = span_of("{}")}, &b), RC_OK);
    CHECK_STR(b.data,
              "{\"object\":\"text_completion\",\"choices\":[{\"index\":0,\"text\":\"xy\",\"logprobs\":{\"tokens\":["
              "\"x\",\"y\"],\"text_offset\":[0,1]},\"finish_reason\":null}]}");
    whole_fini(&w);
    strbuf_fini(&b);
}

static void whole_has_no_place_for_more(void)
{
    static const char *const bad[] = {
        CHUNK("{\"index\":1,\"delta\":{\"content\":\"a\"}}"), CHUNK("{\"delta\":{\"tool_calls\":[{}]}}"),
        CHUNK("{\"delta\":{\"content\":5}}"), CHUNK("{\"delta\":{},\"logprobs\":{\"x\":1}}"),
        CHUNK("{\"delta\":{},\"logprobs\":{\"a\":[1],\"b\":[1],\"c\":[1],\"d\":[1],\"e\":[1]}}")};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct whole w;
        whole_init(&w, true);
        CHECK_INT(whole_take(&w, span_of(bad[i])), RC_UNSUPPORTED);
        whole_fini(&w);
    }
}

/* ---- card ------------------------------------------------------------------------------------------------------- */

#define CLASS "0123456789abcdef0123456789abcdef"

static void cards_are_read_with_suspicion(void)
{
    static const struct {
        const char *text;
        enum rc rc;
        bool resume;
        int slots;
        int64_t kv_tokens;
    } cases[] = {
        {"{\"data\":[{\"id\":\"m\",\"spillway_numerics\":\"" CLASS
         "\",\"spillway_resume\":true,\"spillway_slots\":8,\"spillway_kv_tokens\":5000000000}]}",
         RC_OK, true, 8, INT64_C(5000000000)},
        {"{\"data\":[{\"id\":\"o\"},{\"id\":\"m\",\"spillway_numerics\":\"" CLASS "\",\"spillway_resume\":true}]}",
         RC_OK, true, 0, 0},
        {"{\"data\":[{\"id\":\"m\",\"spillway_resume\":true}]}", RC_OK, false, 0, 0},
        {"{\"data\":[{\"id\":\"m\",\"spillway_numerics\":\"" CLASS "\"}]}", RC_OK, false, 0, 0},
        {"{\"data\":[{\"id\":\"m\",\"spillway_numerics\":\"ABC\",\"spillway_resume\":true}]}", RC_OK, false, 0, 0},
        {"{\"data\":[{\"spillway_numerics\":\"" CLASS "\",\"spillway_resume\":true,\"spillway_slots\":-1}]}", RC_OK,
         true, 0, 0},
        {"{\"data\":[{\"id\":\"m\",\"spillway_kv_tokens\":-1}]}", RC_OK, false, 0, 0},
        {"{\"data\":[]}", RC_OK, false, 0, 0},
        {"{\"data\":[7]}", RC_OK, false, 0, 0},
        {"{\"data\":{}}", RC_INVALID, false, 0, 0},
        {"{}", RC_INVALID, false, 0, 0},
        {"", RC_INVALID, false, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct node_card card;
        CHECK_INT(node_card_read(&card, cases[i].text, strlen(cases[i].text), "m"), cases[i].rc);
        CHECK(card.resume == cases[i].resume && card.slots == cases[i].slots);
        CHECK_INT(card.kv_tokens, cases[i].kv_tokens);
    }
}

static void cards_are_equal_when_they_say_the_same(void)
{
    static const struct node_card said = {true, CLASS, 8, 5000, 4096};
    struct node_card same, others[] = {said, said, said, said, said};
    memset(&same, 0x5a, sizeof same); /* also between the members */
    same.resume = true;
    memcpy(same.numerics, CLASS, sizeof CLASS);
    same.slots = 8;
    same.kv_tokens = 5000;
    same.context = 4096;
    CHECK(node_card_equal(&said, &same));
    CHECK(node_card_equal(&(struct node_card){.numerics = "ab\0c"}, &(struct node_card){.numerics = "ab"}));
    others[0].resume = false;
    others[1].numerics[3] = 'f';
    others[2].slots++;
    others[3].kv_tokens++;
    others[4].context++;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        CHECK(!node_card_equal(&said, &others[i]));
}

/* ---- requests of later legs ------------------------------------------------------------------------------------- */

#define BODY "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"q\"}]"

static enum rc parse(struct request_body *r, const char *text, enum request_kind kind)
{
    const char *param;
    struct json_doc doc;
    struct error e;
    enum rc rc = request_parse(r, &doc, kind, (struct span){text, strlen(text)}, &param, &e);
    if (rc == RC_OK)
        json_doc_fini(&doc);
    return rc;
}

static void check_splice(const char *in, enum request_kind kind, struct request_leg leg, const char *out)
{
    struct request_body r;
    struct strbuf b;
    CHECK_INT(parse(&r, in, kind), RC_OK);
    strbuf_init(&b, request_splice_bytes_max(&r, &leg));
    CHECK_INT(request_splice(&r, &leg, &b), RC_OK);
    CHECK_STR(b.data, out);
    strbuf_fini(&b);
}

static void splices_of_later_legs(void)
{
    struct strbuf ids, text;
    strbuf_init(&ids, 64);
    strbuf_init(&text, 64);
    CHECK(strbuf_puts(&ids, "1,2") == RC_OK && strbuf_puts(&text, "so \\\"far") == RC_OK);
    struct request_leg engine = {.stream = true, .to_engine = true, .seed = 42, .ids = &ids};
    check_splice(
        "{\"stream\":false,\"model\":\"m\",\"messages\":[1]}", REQUEST_CHAT, engine,
        "{\"stream_options\":{\"include_usage\":true},\"spillway_seed\":42,\"spillway_resume\":{\"ids\":[1,2]},"
        "\"stream\":true,\"model\":\"m\",\"messages\":[1]}");
    check_splice("{\"model\":\"m\",\"stream_options\":null,\"messages\":[1]}", REQUEST_CHAT, engine,
                 "{\"stream\":true,\"spillway_seed\":42,\"spillway_resume\":{\"ids\":[1,2]},\"model\":\"m\","
                 "\"stream_options\":{\"include_usage\":true},\"messages\":[1]}");
    struct request_leg other = {.stream = true, .text = &text, .said = 3};
    check_splice(
        "{\"stream\":true,\"model\":\"m\",\"messages\":[1 ],\"max_tokens\":10,\"max_completion_tokens\":null}",
        REQUEST_CHAT, other,
        "{\"stream_options\":{\"include_usage\":true},\"continue_final_message\":true,"
        "\"add_generation_prompt\":false,\"stream\":true,\"model\":\"m\",\"messages\":[1 ,{\"role\":\"assistant\","
        "\"content\":\"so \\\"far\"}],\"max_tokens\":7,\"max_completion_tokens\":null}");
    check_splice(
        "{\"stream\":true,\"model\":\"m\",\"prompt\":\"p\",\"max_tokens\":2}", REQUEST_COMPLETION, other,
        "{\"stream_options\":{\"include_usage\":true},\"stream\":true,\"model\":\"m\",\"prompt\":\"pso \\\"far\","
        "\"max_tokens\":1}");
    strbuf_fini(&ids);
    strbuf_fini(&text);
}

static void what_can_go_on(void)
{
    static const struct {
        const char *rest;
        bool by_ids, by_text;
    } cases[] = {
        {"}", true, true},
        {",\"n\":1,\"tools\":[],\"logprobs\":false,\"response_format\":{\"type\":\"text\"}}", true, true},
        {",\"logprobs\":true}", true, false},
        {",\"response_format\":{\"type\":\"json_object\"}}", true, false},
        {",\"response_format\":7}", true, false},
        {",\"continue_final_message\":true}", true, false},
        {",\"guided_json\":{\"a\":1}}", true, false},
        {",\"n\":2}", false, false},
        {",\"tools\":[{}]}", false, false},
    };
    struct request_body r;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[256];
        snprintf(text, sizeof text, BODY "%s", cases[i].rest);
        CHECK_INT(parse(&r, text, REQUEST_CHAT), RC_OK);
        CHECK(r.resumable == cases[i].by_ids && r.prefixable == cases[i].by_text);
    }
    CHECK_INT(parse(&r, "{\"model\":\"m\",\"messages\":[{\"role\":\"assistant\",\"content\":\"x\"}]}", REQUEST_CHAT),
              RC_OK);
    CHECK(r.resumable && !r.prefixable);
    CHECK_INT(parse(&r, "{\"model\":\"m\",\"prompt\":[1,2]}", REQUEST_COMPLETION), RC_OK);
    CHECK(r.resumable && !r.prefixable);
    CHECK_INT(parse(&r, "{\"model\":\"m\",\"prompt\":[\"a\",\"b\"]}", REQUEST_COMPLETION), RC_OK);
    CHECK(!r.resumable && !r.prefixable);
    CHECK_INT(parse(&r, BODY ",\"spillway_resume\":{}}", REQUEST_CHAT), RC_INVALID);
    CHECK_INT(parse(&r, BODY ",\"spill\\u0077ay_x\":1}", REQUEST_CHAT), RC_INVALID);
    CHECK_INT(parse(&r, BODY ",\"x\":{\"spillway_x\":1}}", REQUEST_CHAT), RC_OK);
}

/* ---- frames of later legs --------------------------------------------------------------------------------------- */

#define FRAME(id, created, ids, delta)                                                                                 \
    "data: {\"id\":\"" id "\",\"created\":" created ",\"choices\":[{\"index\":0,\"delta\":" delta "}]" ids "}\n\n"
#define IDS(list) ",\"spillway_ids\":[" list "]"
#define LAST                                                                                                           \
    "data: {\"id\":\"B\",\"created\":2,\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"

static void feed(struct stream *s, struct trail *t, const char *text, struct strbuf *out)
{
    stream_init(s, NULL, true);
    stream_follow(s, t, NULL);
    CHECK(stream_feed(s, text, strlen(text), out) != STREAM_BROKEN);
}

static void legs_are_one_stream(void)
{
    struct trail t;
    struct stream s;
    struct strbuf out;
    struct token_counts counts = {.input = 1, .output = 3};
    trail_init(&t, TRAIL_TEXT);
    strbuf_init(&out, 1 << 16);
    feed(&s, &t,
         FRAME("A", "1", "", "{\"role\":\"assistant\"}") FRAME("A", "1", IDS("5"), "{\"content\":\"x\"}")
             FRAME("A", "1", IDS("6"), "{}"),
         &out);
    stream_fini(&s);
    CHECK_STR(out.data, FRAME("A", "1", "", "{\"role\":\"assistant\"}") FRAME("A", "1", "", "{\"content\":\"x\"}"));
    CHECK_STR(t.ids.data, "5,6");
    strbuf_clear(&out);
    feed(&s, &t,
         FRAME("B", "2", "", "{\"role\":\"assistant\"}") "data: {\"spillway_ids\" : [7] , \"id\":\"B\",\"created\":2,"
                                                         "\"choices\":[{\"delta\":{\"content\":\"y\"}}]}\n\n" LAST
                                                         "data: [DONE]\n\n",
         &out);
    CHECK_STR(out.data, "data: { \"id\":\"A\",\"created\":1,\"choices\":[{\"delta\":{\"content\":\"y\"}}]}\n\n");
    CHECK_STR(t.ids.data, "5,6,7");
    CHECK_STR(t.text.data, "xy");
    CHECK(s.tokens == 1 && s.pieces == 2);
    strbuf_clear(&out);
    CHECK_INT(stream_final(&s, &(struct stream_bill){"n", "0.00", -1, NULL, false}, &counts, &out), RC_OK);
    CHECK(strstr(out.data, "\"B\"") == NULL && strstr(out.data, "\"created\":2") == NULL);
    CHECK(strstr(out.data, "\"finish_reason\":\"stop\"") && strstr(out.data, "\"completion_tokens\":3"));
    stream_fini(&s);
    trail_fini(&t);
    strbuf_fini(&out);
}

/* A finish chunk that is held when the leg dies has not been said. */
static void held_chunks_are_not_said(void)
{
    struct trail t;
    struct stream s;
    struct strbuf out;
    trail_init(&t, TRAIL_TEXT);
    strbuf_init(&out, 1 << 16);
    feed(&s, &t,
         FRAME("A", "1", IDS("5"), "{\"content\":\"x\"}") "data: {\"id\":\"A\",\"choices\":[{\"delta\":{},"
                                                          "\"finish_reason\":\"stop\"}],\"spillway_ids\":[0]}\n\n",
         &out);
    CHECK(t.n_ids == 1 && s.tokens == 2 && s.finished);
    stream_fini(&s);
    trail_fini(&t);
    strbuf_fini(&out);
}

/* A node that leaves says so between two chunks: it is heard, and nobody else hears it. */
static void leaving_is_between_the_node_and_us(void)
{
    struct trail t;
    struct stream s;
    struct strbuf out;
    trail_init(&t, TRAIL_IDS);
    strbuf_init(&out, 1 << 16);
    feed(&s, &t, FRAME("A", "1", IDS("5"), "{\"content\":\"x\"}"), &out);
    CHECK(!s.leaving);
    static const char leaving[] = "data: {\"spillway_leaving_ms\":27000}\n\n";
    size_t before = out.len;
    CHECK(stream_feed(&s, leaving, sizeof leaving - 1, &out) == STREAM_MORE);
    CHECK(s.leaving && out.len == before && t.n_ids == 1 && s.pieces == 1);
    static const char more[] = FRAME("A", "1", IDS("6"), "{\"content\":\"y\"}");
    CHECK(stream_feed(&s, more, sizeof more - 1, &out) == STREAM_MORE);
    CHECK(t.n_ids == 2 && out.len > before && !strstr(out.data, "leaving"));
    stream_fini(&s);
    feed(&s, &t, leaving, &out); /* before the first chunk, too */
    CHECK(s.leaving && s.like.len == 0);
    stream_fini(&s);
    trail_fini(&t);
    strbuf_fini(&out);
}

int main(void)
{
    TEST(trail_keeps_ids_and_text);
    TEST(trail_believes_no_nonsense);
    TEST(before_the_first_token_it_costs_a_retry);
    TEST(what_was_not_taken_costs_nothing);
    TEST(poison_goes_alone_and_then_not_at_all);
    TEST(deaths_in_company_do_not_refuse_it);
    TEST(a_token_clears_it_and_a_queue_is_no_guilt);
    TEST(whole_is_gathered);
    TEST(whole_has_no_place_for_more);
    TEST(cards_are_read_with_suspicion);
    TEST(cards_are_equal_when_they_say_the_same);
    TEST(splices_of_later_legs);
    TEST(what_can_go_on);
    TEST(legs_are_one_stream);
    TEST(held_chunks_are_not_said);
    TEST(leaving_is_between_the_node_and_us);
    return TEST_RESULT();
}
