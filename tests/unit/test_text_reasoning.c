/* Splitting <think> blocks from the answer: the same split for every way of cutting the stream into pieces.
 * links: spw_engine_text */
#include "tests/unit/test.h"

#include "engine/text/reasoning.h"

/* "reasoning#content" for text fed in pieces of `piece` bytes. */
static const char *split(enum reasoning_start start, const char *text, size_t piece)
{
    static char result[512];
    struct strbuf reasoning, content;
    struct reasoning r;
    size_t len = strlen(text);
    bool ok = true;

    strbuf_init(&reasoning, 200);
    strbuf_init(&content, 200);
    reasoning_init(&r, start);
    for (size_t at = 0; at < len; at += piece)
        ok = reasoning_push(&r, text + at, at + piece < len ? piece : len - at, &reasoning, &content) == RC_OK && ok;
    ok = reasoning_finish(&r, &reasoning, &content) == RC_OK && ok;
    snprintf(result, sizeof(result), "%s#%s%s", reasoning.data ? reasoning.data : "", content.data ? content.data : "",
             ok ? "" : "(failed)");
    strbuf_fini(&reasoning);
    strbuf_fini(&content);
    return result;
}

static const struct {
    enum reasoning_start start;
    const char *text, *expected;
} cases[] = {
    {REASONING_INSIDE, "why\n</think>\n\nbecause", "why#because"},
    {REASONING_INSIDE, "why</think>because", "why#because"},
    {REASONING_INSIDE, "never closed", "never closed#"},
    {REASONING_INSIDE, "a\n\nb\n", "a\n\nb\n#"},
    {REASONING_INSIDE, "<think>\nopened again\n</think>\nx", "opened again#x"},
    {REASONING_INSIDE, "</think>\n\nno thought", "#no thought"},
    {REASONING_INSIDE, "\n\n</think>\n\n", "#"},
    {REASONING_INSIDE, "a < b </ c </thin </thinker </think>d", "a < b </ c </thin </thinker #d"},
    {REASONING_INSIDE, "a</think>b</think><think>c\n", "a#b</think><think>c\n"},
    {REASONING_INSIDE, "a <think> b</think>c", "a <think> b#c"},
    {REASONING_INSIDE, "a</thi", "a</thi#"},
    {REASONING_INSIDE, "<<</think>", "<<#"},
    {REASONING_INSIDE, "</</think>x", "</#x"},
    {REASONING_OUTSIDE, "<think>\nwhy\n</think>\n\nbecause\n", "why#because\n"},
    {REASONING_OUTSIDE, "\n<think>why</think>because", "why#because"},
    {REASONING_OUTSIDE, "just an answer <think>x</think>", "#just an answer <think>x</think>"},
    {REASONING_OUTSIDE, "\n\nanswer", "#\n\nanswer"},
    {REASONING_OUTSIDE, "<thinner", "#<thinner"},
    {REASONING_OUTSIDE, "<thi", "#<thi"},
    {REASONING_OUTSIDE, "\n", "#\n"},
    {REASONING_OUTSIDE, "<think>", "#"},
    {REASONING_OFF, "<think>x</think>y", "#<think>x</think>y"},
    {REASONING_INSIDE, "", "#"},
};

static void test_every_cut(void)
{
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        for (size_t piece = 1; piece <= 20; piece++)
            CHECK_STR(split(cases[i].start, cases[i].text, piece), cases[i].expected);
}

static void test_streams_without_delay(void)
{
    struct strbuf reasoning, content;
    struct reasoning r;

    strbuf_init(&reasoning, 100);
    strbuf_init(&content, 100);
    reasoning_init(&r, REASONING_INSIDE);
    CHECK(reasoning_inside(&r));
    CHECK_INT(reasoning_push(&r, "thought", 7, &reasoning, &content), RC_OK);
    CHECK_STR(reasoning.data, "thought");
    CHECK_INT(reasoning_push(&r, "</think>", 8, &reasoning, &content), RC_OK);
    CHECK(!reasoning_inside(&r));
    CHECK_INT(reasoning_push(&r, "a<", 2, &reasoning, &content), RC_OK);
    CHECK_STR(content.data, "a<"); /* nothing is held back once it is content */
    strbuf_fini(&reasoning);
    strbuf_fini(&content);
}

int main(void)
{
    TEST(test_every_cut);
    TEST(test_streams_without_delay);
    return TEST_RESULT();
}
