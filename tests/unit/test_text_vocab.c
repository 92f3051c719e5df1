/* Vocabularies that are wrong: each is refused with a text that says what is wrong, or taken in a defined way; none
 * crashes. And what a right one answers.
 * links: spw_engine_text */
#include "tests/unit/test.h"

#include <math.h>

#include "tests/unit/text_vocab.h"

static void refuse(struct tiny *t, enum rc rc, const char *part)
{
    struct vocab *v = NULL;
    struct error e = {0};

    CHECK_INT(tiny_build(t, &v, &e), rc);
    CHECK(v == NULL);
    if (!strstr(e.message, part))
        fprintf(stderr, "\"%s\" lacks \"%s\"\n", e.message, part);
    CHECK(strstr(e.message, part) != NULL);
    vocab_free(v);
}

static void test_unknown_kinds(void)
{
    struct tiny t;

    tiny_init(&t, "gpt2", "gpt-2");
    refuse(&t, RC_INVALID, "no tokens");
    tiny_init(&t, "bert", "");
    tiny_add(&t, "a", TOKEN_TYPE_NORMAL, 0);
    refuse(&t, RC_UNSUPPORTED, "\"bert\"");
    tiny_init(&t, "", "");
    tiny_add(&t, "a", TOKEN_TYPE_NORMAL, 0);
    refuse(&t, RC_UNSUPPORTED, "tokenizer model");
    tiny_bpe(&t, "gpt-4o");
    refuse(&t, RC_UNSUPPORTED, "\"gpt-4o\"");
    refuse(&t, RC_UNSUPPORTED, "deepseek-v3, default");
    tiny_bpe(&t, "");
    struct vocab *v = tiny_vocab(&t);
    CHECK_STR(vocab_pre_name(v), "default");
    vocab_free(v);
}

static void test_bad_merges(void)
{
    static const struct {
        const char *merge, *part;
    } bad[] = {{"", "merge 0"},      {"ab", "two parts"},  {" b", "two parts"},       {"a ", "two parts"},
               {"a qq", "no token"}, {"qq a", "no token"}, {"a b", "makes no token"}, {"a b c", "no token"}};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct tiny t;
        tiny_bpe(&t, "gpt-2");
        t.merges[t.src.n_merges++] = span(bad[i].merge);
        refuse(&t, RC_INVALID, bad[i].part);
    }
    char *huge = calloc(1, 100001);
    memset(huge, 'a', 100000);
    huge[50000] = ' ';
    struct tiny t;
    tiny_bpe(&t, "gpt-2");
    t.merges[t.src.n_merges++] = span(huge);
    refuse(&t, RC_INVALID, "makes no token");
    free(huge);
}

static void test_bad_ids_types_scores(void)
{
    struct tiny t;

    tiny_bpe(&t, "gpt-2");
    t.src.bos = 256;
    refuse(&t, RC_INVALID, "bos token id 256");
    t.src.bos = -7;
    refuse(&t, RC_INVALID, "bos token id -7");
    t.src.bos = -1;
    t.src.eos = INT64_MAX;
    refuse(&t, RC_INVALID, "eos token id");
    t.src.eos = -1;
    t.src.add_bos = 1;
    refuse(&t, RC_INVALID, "names none");
    t.src.add_bos = 0;
    t.src.add_eos = 1;
    refuse(&t, RC_INVALID, "names none");
    t.src.add_eos = 0;
    t.types[9] = 7;
    refuse(&t, RC_INVALID, "token 9 has type 7");
    t.types[9] = -1;
    refuse(&t, RC_INVALID, "token 9 has type -1");
    t.types[9] = 1;
    t.scores[3] = NAN;
    refuse(&t, RC_INVALID, "score of token 3");
    t.scores[3] = 0;
    tiny_spm(&t);
    t.tokens[200] = span("<0xG1>");
    refuse(&t, RC_INVALID, "token 200 has type byte");
}

static void test_bad_counts(void)
{
    struct tiny t;
    struct vocab *v = NULL;
    struct error e = {0};

    tiny_bpe(&t, "gpt-2");
    t.src.types = t.types;
    t.src.n_types = 255;
    CHECK_INT(vocab_new(&t.src, &v, &e), RC_INVALID);
    CHECK(strstr(e.message, "255 token types") != NULL);
    tiny_spm(&t);
    t.src.n_scores = 0;
    CHECK_INT(vocab_new(&t.src, &v, &e), RC_INVALID);
    CHECK(strstr(e.message, "needs a score") != NULL);
    char *huge = calloc(1, VOCAB_TOKEN_BYTES_MAX + 2);
    memset(huge, 'a', VOCAB_TOKEN_BYTES_MAX + 1);
    tiny_bpe(&t, "gpt-2");
    tiny_add(&t, huge, TOKEN_TYPE_NORMAL, 0);
    refuse(&t, RC_INVALID, "token 256 has 65537 bytes");
    free(huge);
}

static void test_duplicates_and_empty_tokens(void)
{
    struct tiny t;

    tiny_bpe(&t, "gpt-2");
    int32_t first = tiny_add(&t, "twice", TOKEN_TYPE_NORMAL, 0);
    tiny_add(&t, "twice", TOKEN_TYPE_NORMAL, 0);
    int32_t empty = tiny_add(&t, "", TOKEN_TYPE_CONTROL, 0);
    tiny_add(&t, "", TOKEN_TYPE_USER_DEFINED, 0);
    struct vocab *v = tiny_vocab(&t);
    CHECK_INT(vocab_find(v, "twice", 5), first);
    CHECK_INT(vocab_find(v, "", 0), empty);
    CHECK_INT(vocab_find(v, "never", 5), -1);
    CHECK_INT(vocab_token_bytes(v, empty).len, 0);
    vocab_free(v);
}

static void test_answers(void)
{
    struct tiny t;

    tiny_bpe(&t, "deepseek-r1-qwen");
    int32_t hello = tiny_add(&t, "Ġhi", TOKEN_TYPE_NORMAL, 0);
    int32_t odd = tiny_add(&t, "中", TOKEN_TYPE_NORMAL, 0); /* not in the byte alphabet: stands for itself */
    int32_t end = tiny_add(&t, "<|im_end|>", TOKEN_TYPE_CONTROL, 0);
    int32_t eos = tiny_add(&t, "<stop>", TOKEN_TYPE_CONTROL, 0);
    int32_t think = tiny_add(&t, "<think>", TOKEN_TYPE_USER_DEFINED, 0);
    int32_t unused = tiny_add(&t, "spare", TOKEN_TYPE_UNUSED, 0);
    t.src.eos = eos;
    struct vocab *v = tiny_vocab(&t);
    CHECK_STR(vocab_pre_name(v), "qwen2");
    CHECK_INT(vocab_size(v), 262);
    CHECK(vocab_token_bytes(v, hello).len == 3 && memcmp(vocab_token_bytes(v, hello).ptr, " hi", 3) == 0);
    CHECK(vocab_token_bytes(v, odd).len == 3);
    CHECK(vocab_is_end(v, end) && vocab_is_end(v, eos) && !vocab_is_end(v, think) && !vocab_is_end(v, hello));
    CHECK(vocab_is_markup(v, think) && !vocab_is_hidden(v, think) && vocab_is_hidden(v, end));
    CHECK(vocab_is_hidden(v, unused) && !vocab_is_markup(v, unused));
    CHECK(!vocab_adds_bos(v) && !vocab_adds_eos(v) && vocab_bos(v) == -1 && vocab_eos(v) == eos);
    CHECK(vocab_has(v, 261) && !vocab_has(v, 262) && !vocab_has(v, -1));
    CHECK(vocab_bytes(v) > 1000);
    vocab_free(v);

    tiny_spm(&t); /* files from before the keys: the places are known */
    v = tiny_vocab(&t);
    CHECK(vocab_bos(v) == 1 && vocab_eos(v) == 2 && vocab_unk(v) == 0 && vocab_adds_bos(v));
    CHECK_INT(vocab_token_bytes(v, 3 + 10).ptr[0], '\n');
    vocab_free(v);
}

int main(void)
{
    TEST(test_unknown_kinds);
    TEST(test_bad_merges);
    TEST(test_bad_ids_types_scores);
    TEST(test_bad_counts);
    TEST(test_duplicates_and_empty_tokens);
    TEST(test_answers);
    return TEST_RESULT();
}
