/* Stop strings in a stream: whatever the pieces, what comes out is what a search of the whole text says.
 * links: spw_engine_text */
#include "tests/unit/test.h"

#include <stdlib.h>

#include "engine/text/stop.h"

static struct text_span span(const char *s)
{
    return (struct text_span){s, strlen(s)};
}

/* Feed text in pieces of `piece` bytes; the text that came out, "!N" behind it when string N stopped it. */
static const char *stream(const char *const *strings, size_t n, const char *text, size_t piece)
{
    static char result[4096];
    struct text_span spans[STOP_STRINGS_MAX];
    struct strbuf out;
    struct stop *s;
    struct error e = {0};
    size_t len = strlen(text);
    int hit = -1;

    for (size_t i = 0; i < n; i++)
        spans[i] = span(strings[i]);
    if (stop_new(spans, n, &s, &e) != RC_OK)
        return "(refused)";
    strbuf_init(&out, 4000);
    for (size_t at = 0; at < len; at += piece)
        if (stop_push(s, text + at, at + piece < len ? piece : len - at, &out, &hit) != RC_OK)
            hit = -99;
    if (stop_finish(s, &out) != RC_OK)
        hit = -99;
    CHECK_INT(stop_held(s), 0);
    if (hit >= 0)
        snprintf(result, sizeof(result), "%s!%d", out.data ? out.data : "", hit);
    else
        snprintf(result, sizeof(result), "%s", out.data ? out.data : "");
    strbuf_fini(&out);
    stop_free(s);
    return result;
}
#define STRINGS(...) (const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)

static void test_found_across_pieces(void)
{
    for (size_t piece = 1; piece < 12; piece++) {
        CHECK_STR(stream(STRINGS("END"), "some text EN ENDING", piece), "some text EN !0");
        CHECK_STR(stream(STRINGS("END"), "nothing here EN", piece), "nothing here EN");
        CHECK_STR(stream(STRINGS("\n\n", "User:"), "a\nb User: x", piece), "a\nb !1");
        CHECK_STR(stream(STRINGS("aab"), "aaab", piece), "a!0");
        CHECK_STR(stream(STRINGS("abab", "bab"), "xabab", piece), "x!0"); /* same end: the longest */
        CHECK_STR(stream(STRINGS("abcd", "bc"), "xabcd", piece), "xa!1"); /* the first complete one */
        CHECK_STR(stream(STRINGS("é"), "caf\xC3\xA9!", piece), "caf!0");
    }
    CHECK_STR(stream(NULL, 0, "all of it", 4), "all of it");
}

/* Strings that are complete while they are ignored are text, also where the end of one is the beginning of the next. */
static void test_ignored_for_a_while(void)
{
    for (size_t piece = 1; piece < 8; piece++) {
        const struct text_span spans[] = {span("aba"), span("aa")};
        struct strbuf out;
        struct stop *s;
        struct error e = {0};
        int hit = -1;
        CHECK_INT(stop_new(spans, 2, &s, &e), RC_OK);
        strbuf_init(&out, 4000);
        stop_set_mode(s, STOP_IGNORES);
        for (const char *text = "xabaaab"; *text; text += strlen(text) < piece ? strlen(text) : piece)
            CHECK_INT(stop_push(s, text, strlen(text) < piece ? strlen(text) : piece, &out, &hit), RC_OK);
        CHECK_INT(hit, -1);
        CHECK_STR(out.data, "xabaa"); /* "ab" may go on */
        CHECK_INT(stop_held(s), 2);
        stop_set_mode(s, STOP_HEEDS);
        CHECK_INT(stop_push(s, "ax", 2, &out, &hit), RC_OK);
        CHECK_INT(hit, 0);
        CHECK_STR(out.data, "xabaa");
        strbuf_fini(&out);
        stop_free(s);
    }
}

static void test_holds_back_only_what_may_be_a_stop(void)
{
    struct text_span strings[] = {span("<|im_end|>")};
    struct strbuf out;
    struct stop *s;
    struct error e = {0};
    int hit;

    CHECK_INT(stop_new(strings, 1, &s, &e), RC_OK);
    strbuf_init(&out, 100);
    CHECK_INT(stop_push(s, "hi <|im", 7, &out, &hit), RC_OK);
    CHECK_STR(out.data, "hi ");
    CHECK_INT(stop_held(s), 4);
    CHECK_INT(stop_push(s, "ap", 2, &out, &hit), RC_OK);
    CHECK_STR(out.data, "hi <|imap");
    CHECK_INT(hit, -1);
    CHECK_INT(stop_push(s, "<|im_end|>more", 14, &out, &hit), RC_OK);
    CHECK_INT(hit, 0);
    CHECK_INT(stop_push(s, "still more", 10, &out, &hit), RC_OK); /* after the end nothing counts */
    CHECK_INT(hit, 0);
    CHECK_STR(out.data, "hi <|imap");
    strbuf_fini(&out);
    stop_free(s);
}

/* The same by looking at the whole text: the earliest end, of equal ends the longest string. */
static const char *naive(const char *const *strings, size_t n, const char *text)
{
    static char result[4096];

    for (size_t end = 1; end <= strlen(text); end++) {
        int best = -1;
        for (size_t k = 0; k < n; k++) {
            size_t len = strlen(strings[k]);
            if (len <= end && memcmp(text + end - len, strings[k], len) == 0 &&
                (best < 0 || len > strlen(strings[best])))
                best = (int)k;
        }
        if (best >= 0) {
            snprintf(result, sizeof(result), "%.*s!%d", (int)(end - strlen(strings[best])), text, best);
            return result;
        }
    }
    return text;
}

static void test_random_against_naive(void)
{
    uint32_t x = 1;

    for (int trial = 0; trial < 20000; trial++) {
        char text[40], strings[3][8];
        const char *list[3] = {strings[0], strings[1], strings[2]};
        size_t n = 1 + (x >> 20) % 3;
        for (size_t k = 0; k < n; k++) {
            size_t len = 1 + (x = x * 1664525 + 1013904223) / 65536 % 6;
            for (size_t i = 0; i < len; i++)
                strings[k][i] = (char)('a' + (x = x * 1664525 + 1013904223) / 65536 % 2);
            strings[k][len] = '\0';
        }
        size_t len = (x = x * 1664525 + 1013904223) / 65536 % 39;
        for (size_t i = 0; i < len; i++)
            text[i] = (char)('a' + (x = x * 1664525 + 1013904223) / 65536 % 3);
        text[len] = '\0';
        CHECK_STR(stream(list, n, text, 1 + (x >> 24) % 7), naive(list, n, text));
    }
}

static void test_bad_strings(void)
{
    struct text_span many[STOP_STRINGS_MAX + 1];
    char longest[STOP_BYTES_MAX + 1];
    struct stop *s;
    struct error e = {0};

    for (size_t i = 0; i <= STOP_STRINGS_MAX; i++)
        many[i] = span("x");
    CHECK_INT(stop_new(many, STOP_STRINGS_MAX + 1, &s, &e), RC_INVALID);
    many[1] = (struct text_span){"", 0};
    CHECK_INT(stop_new(many, 2, &s, &e), RC_INVALID);
    CHECK_STR(e.message, "stop string 1 is empty");
    memset(longest, 'x', sizeof(longest));
    many[1] = (struct text_span){longest, sizeof(longest)};
    CHECK_INT(stop_new(many, 2, &s, &e), RC_INVALID);
    many[1].len--;
    CHECK_INT(stop_new(many, 2, &s, &e), RC_OK);
    stop_free(s);
    stop_free(NULL);
}

int main(void)
{
    TEST(test_found_across_pieces);
    TEST(test_ignored_for_a_while);
    TEST(test_holds_back_only_what_may_be_a_stop);
    TEST(test_random_against_naive);
    TEST(test_bad_strings);
    return TEST_RESULT();
}
