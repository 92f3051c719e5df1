/* Pre-tokenizers: words of mixed texts, cut where the published regular expressions cut them. The expected pieces come
 * from running those expressions with Python's re over the same texts (categories from unicodedata), not from this
 * code.
 * links: spw_engine_text */
#include "tests/unit/test.h"

#include <stdlib.h>

#include "base/alloc.h"
#include "engine/text/pretokenize.h"

/* A bar between pieces; the texts hold none. */
static const struct {
    const char *pre, *pieces;
} cases[] = {
    {"gpt-2", "Hello|,| world|'s"},
    {"gpt-2", "I|'|LL| don|'t| '|sad"},
    {"gpt-2", " | two| | spaces| "},
    {"gpt-2", "a|\n\n| b| \r\n|\t|c"},
    {"gpt-2", " \n \n| x"},
    {"gpt-2", "1234567| ½²٣"},
    {"gpt-2", "x|_|1| !=| y|_|2|...|\n|\n|z"},
    {"gpt-2", "我在apple工作|123|天|～"},
    {"gpt-2", "e|\314\201|te|\314\201| \314\201|x"},
    {"gpt-2", "\343\200\200|你好|。|\343\200\200|！"},
    {"gpt-2", "#|include| <|a|.|h|>|\n"},
    {"gpt-2", "\302\240|x|\342\200\203|y|\302\205"},
    {"gpt-2", "😀😀| ok|\342\200\215!"},
    {"gpt-2", "«|Ж|»| ç|'|é"},
    {"gpt-2", "\001\002| a"},
    {"gpt-2", "9|,|876|.|54| $|5"},
    {"llama-bpe", "Hello|,| world|'s"},
    {"llama-bpe", "I|'LL| don|'t| '|sad"},
    {"llama-bpe", " | two| | spaces| "},
    {"llama-bpe", "a|\n\n| b| \r\n|\tc"},
    {"llama-bpe", " \n \n| x"},
    {"llama-bpe", "123|456|7| |½²٣"},
    {"llama-bpe", "x|_|1| !=| y|_|2|...\n\n|z"},
    {"llama-bpe", "我在apple工作|123|天|～"},
    {"llama-bpe", "e|\314\201te|\314\201| \314\201|x"},
    {"llama-bpe", "\343\200\200你好|。|\343\200\200|！"},
    {"llama-bpe", "#include| <|a|.h|>\n"},
    {"llama-bpe", "\302\240x|\342\200\203y|\302\205"},
    {"llama-bpe", "😀😀| ok|\342\200\215!"},
    {"llama-bpe", "«Ж|»| ç|'é"},
    {"llama-bpe", "\001\002| a"},
    {"llama-bpe", "9|,|876|.|54| $|5"},
    {"qwen2", "Hello|,| world|'s"},
    {"qwen2", "I|'LL| don|'t| '|sad"},
    {"qwen2", " | two| | spaces| "},
    {"qwen2", "a|\n\n| b| \r\n|\tc"},
    {"qwen2", " \n \n| x"},
    {"qwen2", "1|2|3|4|5|6|7| |½|²|٣"},
    {"qwen2", "x|_|1| !=| y|_|2|...\n\n|z"},
    {"qwen2", "我在apple工作|1|2|3|天|～"},
    {"qwen2", "e|\314\201te|\314\201| \314\201|x"},
    {"qwen2", "\343\200\200你好|。|\343\200\200|！"},
    {"qwen2", "#include| <|a|.h|>\n"},
    {"qwen2", "\302\240x|\342\200\203y|\302\205"},
    {"qwen2", "😀😀| ok|\342\200\215!"},
    {"qwen2", "«Ж|»| ç|'é"},
    {"qwen2", "\001\002| a"},
    {"qwen2", "9|,|8|7|6|.|5|4| $|5"},
    {"deepseek-llm", "Hello|,| world|'|s"},
    {"deepseek-llm", "I|'|LL| don|'|t| '|sad"},
    {"deepseek-llm", " | two| | spaces| "},
    {"deepseek-llm", "a|\n|\n| b| |\r|\n|\tc"},
    {"deepseek-llm", " |\n| |\n| x"},
    {"deepseek-llm", "1234567| |½²٣"},
    {"deepseek-llm", "x|_|1| !=| y|_|2|...|\n|\n|z"},
    {"deepseek-llm", "我在|apple|工作|123|天|～"},
    {"deepseek-llm", "e|\314\201|te|\314\201 \314\201|x"},
    {"deepseek-llm", "\343\200\200|你好|。\343\200\200|！"},
    {"deepseek-llm", "#|include| <|a|.|h|>|\n"},
    {"deepseek-llm", "\302\240x|\342\200\203|y|\302\205"},
    {"deepseek-llm", "😀😀| ok|\342\200\215|!"},
    {"deepseek-llm", "«|Ж|»| ç|'|é"},
    {"deepseek-llm", "\001\002| a"},
    {"deepseek-llm", "9|,|876|.|54| $|5"},
    {"deepseek-coder", "Hello|,| world|'|s"},
    {"deepseek-coder", "I|'|LL| don|'|t| '|sad"},
    {"deepseek-coder", " | two| | spaces| "},
    {"deepseek-coder", "a|\n|\n| b| |\r|\n|\tc"},
    {"deepseek-coder", " |\n| |\n| x"},
    {"deepseek-coder", "1|2|3|4|5|6|7| |½|²|٣"},
    {"deepseek-coder", "x|_|1| !|=| y|_|2|...|\n|\n|z"},
    {"deepseek-coder", "我在|apple|工作|1|2|3|天|～"},
    {"deepseek-coder", "e|\314\201|te|\314\201 \314\201|x"},
    {"deepseek-coder", "\343\200\200你好|。|\343\200\200|！"},
    {"deepseek-coder", "#|include| <|a|.|h|>|\n"},
    {"deepseek-coder", "\302\240x|\342\200\203|y|\302\205"},
    {"deepseek-coder", "😀😀| ok|\342\200\215|!"},
    {"deepseek-coder", "«|Ж|»| ç|'|é"},
    {"deepseek-coder", "\001\002| a"},
    {"deepseek-coder", "9|,|8|7|6|.|5|4| $|5"},
    {"deepseek-v3", "Hello|,| world|'s"},
    {"deepseek-v3", "I|'LL| don|'t| '|sad"},
    {"deepseek-v3", " | two| | spaces| "},
    {"deepseek-v3", "a|\n\n| b| \r\n|\tc"},
    {"deepseek-v3", " \n \n| x"},
    {"deepseek-v3", "123|456|7| |½²٣"},
    {"deepseek-v3", "x|_|1| !=| y|_|2|...\n\n|z"},
    {"deepseek-v3", "我在|apple|工作|123|天|～"},
    {"deepseek-v3", "e\314\201te\314\201| \314\201x"},
    {"deepseek-v3", "\343\200\200|你好|。|\343\200\200|！"},
    {"deepseek-v3", "#include| <|a|.h|>\n"},
    {"deepseek-v3", "\302\240x|\342\200\203y|\302\205"},
    {"deepseek-v3", "😀😀| ok|\342\200\215|!"},
    {"deepseek-v3", "«|Ж|»| ç|'|é"},
    {"deepseek-v3", "\001\002| a"},
    {"deepseek-v3", "9|,|876|.|54| $|5"},
    {"default", "Hello|,| world|'|s"},
    {"default", "I|'|LL| don|'|t| |'|sad"},
    {"default", " | two| | spaces| "},
    {"default", "a|\n\n| b| \r\n|\t|c"},
    {"default", " \n \n| x"},
    {"default", "123|456|7| |½²٣"},
    {"default", "x|_|1| |!=| y|_|2|...|\n|\n|z"},
    {"default", "我在apple工作|123|天|～"},
    {"default", "e|\314\201|te|\314\201| \314\201|x"},
    {"default", "\343\200\200|你好|。|\343\200\200|！"},
    {"default", "#|include| |<|a|.|h|>|\n"},
    {"default", "\302\240|x|\342\200\203|y|\302\205"},
    {"default", "😀😀| ok|\342\200\215|!"},
    {"default", "«|Ж|»| ç|'|é"},
    {"default", "\001\002| a"},
    {"default", "9|,|876|.|54| |$|5"},
};

static enum rc collect(void *arg, const char *word, size_t len)
{
    struct strbuf *out = arg;

    if (out->len && strbuf_append(out, "|", 1) != RC_OK)
        return RC_FULL;
    return strbuf_append(out, word, len);
}

static void test_pieces(void)
{
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct pretokenizer *p = pretokenizer_find(cases[i].pre, strlen(cases[i].pre));
        char text[200];
        size_t n = 0;
        struct strbuf out;
        for (const char *s = cases[i].pieces; *s; s++)
            if (*s != '|')
                text[n++] = *s;
        strbuf_init(&out, sizeof(text));
        CHECK_INT(pretokenize(p, text, n, collect, &out), RC_OK);
        CHECK_STR(out.data, cases[i].pieces);
        strbuf_fini(&out);
    }
}

static enum rc refuse(void *arg, const char *word, size_t len)
{
    (void)word;
    (void)len;
    ++*(int *)arg;
    return RC_FULL;
}

static void test_failure_stops(void)
{
    int calls = 0;

    CHECK_INT(pretokenize(pretokenizer_find("gpt-2", 5), "a b c", 5, refuse, &calls), RC_FULL);
    CHECK_INT(calls, 1);
    CHECK_INT(pretokenize(pretokenizer_find("gpt-2", 5), "", 0, refuse, &calls), RC_OK);
    CHECK_INT(calls, 1);
}

static void test_names(void)
{
    CHECK(pretokenizer_find("deepseek-r1-qwen", 16) == pretokenizer_find("qwen2", 5));
    CHECK(pretokenizer_find("llama3", 6) == pretokenizer_find("llama-bpe", 9));
    CHECK(pretokenizer_find("qwen", 4) == NULL);
    CHECK(pretokenizer_find("", 0) == NULL);
    CHECK(strstr(pretokenizer_names(), "deepseek-v3") != NULL);
}

int main(void)
{
    TEST(test_pieces);
    TEST(test_failure_stops);
    TEST(test_names);
    return TEST_RESULT();
}
