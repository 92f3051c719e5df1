/* Tokenizers on small vocabularies: merge order, special tokens only in markup, BOS once, byte fallback, round trips of
 * all bytes, and streaming decode that never cuts a character.
 * links: spw_engine_text */
#include "tests/unit/test.h"

#include "engine/text/tokenizer.h"
#include "tests/unit/text_vocab.h"

/* Does text give exactly these ids (ended by -1)? */
static bool gives(const struct vocab *v, const char *text, unsigned flags, const int32_t *expected)
{
    struct tokens out;
    struct error e = {0};
    size_t n = 0;
    bool same;

    tokens_init(&out, 1000);
    if (tokenize(v, text, strlen(text), flags, &out, &e) != RC_OK)
        fprintf(stderr, "tokenize: %s\n", e.message);
    while (expected[n] >= 0)
        n++;
    same = out.n == n && (n == 0 || memcmp(out.ids, expected, n * sizeof(*expected)) == 0);
    for (size_t i = 0; !same && i < out.n; i++)
        fprintf(stderr, "%s%d%s", i ? " " : "got ", out.ids[i], i + 1 == out.n ? "\n" : "");
    tokens_fini(&out);
    return same;
}
#define IDS(...) ((const int32_t[]){__VA_ARGS__, -1})

/* The text back from the text's ids. */
static bool round_trips(const struct vocab *v, const char *text, size_t n)
{
    struct tokens ids;
    struct error e = {0};
    struct strbuf bytes;
    bool same;

    tokens_init(&ids, n + 10);
    strbuf_init(&bytes, n + 10);
    if (tokenize(v, text, n, TOKENIZE_PLAIN, &ids, &e) != RC_OK)
        fprintf(stderr, "tokenize: %s\n", e.message);
    for (size_t i = 0; i < ids.n; i++) {
        struct text_span s = vocab_token_bytes(v, ids.ids[i]);
        if (strbuf_append(&bytes, s.ptr, s.len) != RC_OK)
            break;
    }
    same = bytes.len == n && (n == 0 || memcmp(bytes.data, text, n) == 0);
    tokens_fini(&ids);
    strbuf_fini(&bytes);
    return same;
}

/* ---- byte-level BPE ---- */

static void test_bpe_best_rank_first(void)
{
    struct tiny t;

    tiny_bpe(&t, "gpt-2");
    int32_t bc = tiny_merge(&t, "b c", "bc"), ab = tiny_merge(&t, "a b", "ab"), abc = tiny_merge(&t, "a bc", "abc");
    int32_t abab = tiny_merge(&t, "ab ab", "abab"), space_a = tiny_merge(&t, "Ġ a", "Ġa");
    struct vocab *v = tiny_vocab(&t);
    CHECK(gives(v, "abc", 0, IDS(abc))); /* not ab + c: "b c" ranks first */
    CHECK(gives(v, "ab", 0, IDS(ab)));
    CHECK(gives(v, "ababab", 0, IDS(abab, ab))); /* of equal ranks the left one first */
    CHECK(gives(v, "xbc", 0, IDS('x', bc)));
    CHECK(gives(v, "b a", 0, IDS('b', space_a)));
    CHECK(gives(v, "", 0, (const int32_t[]){-1}));
    vocab_free(v);
}

static void test_bpe_round_trips_all_bytes(void)
{
    const char *const pres[] = {"gpt-2",          "llama-bpe",   "qwen2",  "deepseek-llm",
                                "deepseek-coder", "deepseek-v3", "default"};
    char text[1024];
    uint32_t x = 12345;

    for (size_t k = 0; k < sizeof(pres) / sizeof(pres[0]); k++) {
        struct tiny t;
        tiny_bpe(&t, pres[k]);
        tiny_merge(&t, "Ã ©", "Ã©");
        tiny_merge(&t, "Ċ Ċ", "ĊĊ");
        struct vocab *v = tiny_vocab(&t);
        for (int i = 0; i < 256; i++)
            text[i] = (char)i;
        CHECK(round_trips(v, text, 256));
        for (int trial = 0; trial < 50; trial++) {
            for (size_t i = 0; i < sizeof(text); i++) {
                x = x * 1664525 + 1013904223;
                text[i] = (char)(x >> 24);
            }
            CHECK(round_trips(v, text, sizeof(text)));
        }
        vocab_free(v);
    }
}

static void test_bpe_whole_word_without_merges(void)
{
    struct tiny t;

    tiny_bpe(&t, "llama-bpe");
    int32_t word = tiny_add(&t, "Ġzebra", TOKEN_TYPE_NORMAL, 0);
    t.src.bos = tiny_add(&t, "<|begin_of_text|>", TOKEN_TYPE_CONTROL, 0);
    struct vocab *v = tiny_vocab(&t);
    CHECK(gives(v, " zebra", 0, IDS(word)));
    CHECK(vocab_adds_bos(v)); /* goes with this pre-tokenizer when the file says nothing */
    vocab_free(v);

    tiny_bpe(&t, "qwen2");
    tiny_add(&t, "Ġzebra", TOKEN_TYPE_NORMAL, 0);
    v = tiny_vocab(&t);
    CHECK(gives(v, " ze", 0, IDS(' ', 'z', 'e')));
    CHECK(gives(v, " zebra", 0, IDS(' ', 'z', 'e', 'b', 'r', 'a')));
    vocab_free(v);
}

static void test_one_long_word(void)
{
    size_t n = 400 * 1024;
    char *text = malloc(n);
    struct tiny t;
    struct tokens out;
    struct error e = {0};

    tiny_bpe(&t, "deepseek-v3");
    int32_t a2 = tiny_merge(&t, "a a", "aa"), a4 = tiny_merge(&t, "aa aa", "aaaa");
    struct vocab *v = tiny_vocab(&t);
    memset(text, 'a', n);
    tokens_init(&out, n);
    CHECK_INT(tokenize(v, text, n - 1, 0, &out, &e), RC_OK);
    CHECK_INT(out.n, n / 4 + 1);
    CHECK(out.ids[0] == a4 && out.ids[out.n - 2] == a2 && out.ids[out.n - 1] == 'a');
    tokens_fini(&out);
    tokens_init(&out, 10);
    CHECK_INT(tokenize(v, text, n, 0, &out, &e), RC_FULL);
    CHECK(strstr(e.message, "more than 10 tokens") != NULL);
    tokens_fini(&out);
    vocab_free(v);
    free(text);
}

/* ---- special tokens ---- */

struct specials {
    struct tiny t;
    int32_t bos, end, think, plain, longer;
};

static struct vocab *special_vocab(struct specials *s)
{
    tiny_bpe(&s->t, "qwen2");
    s->bos = tiny_add(&s->t, "<s>", TOKEN_TYPE_CONTROL, 0);
    s->end = tiny_add(&s->t, "<|end|>", TOKEN_TYPE_CONTROL, 0);
    s->think = tiny_add(&s->t, "<think>", TOKEN_TYPE_USER_DEFINED, 0);
    s->plain = tiny_add(&s->t, "õ", TOKEN_TYPE_USER_DEFINED, 0);
    s->longer = tiny_add(&s->t, "<|end|>!", TOKEN_TYPE_CONTROL, 0);
    s->t.src.bos = s->bos;
    s->t.src.add_bos = 1;
    return tiny_vocab(&s->t);
}

static void test_special_only_when_asked(void)
{
    struct specials s;
    struct vocab *v = special_vocab(&s);

    CHECK(gives(v, "a<s>", 0, IDS('a', '<', 's', '>')));
    CHECK(gives(v, "a<s>", TOKENIZE_PARSE_SPECIAL, IDS('a', s.bos)));
    CHECK(gives(v, "<think>", 0, IDS('<', 't', 'h', 'i', 'n', 'k', '>')));
    CHECK(gives(v, "<think>", TOKENIZE_PARSE_SPECIAL, IDS(s.think)));
    CHECK(gives(v, "<|end|>!<|end|>", TOKENIZE_PARSE_SPECIAL, IDS(s.longer, s.end))); /* the longest */
    CHECK(gives(v, "<|end|", TOKENIZE_PARSE_SPECIAL, IDS('<', '|', 'e', 'n', 'd', '|')));
    CHECK(gives(v, "aõb", 0, IDS('a', s.plain, 'b'))); /* an added letter is text, not markup */
    vocab_free(v);
}

static void test_bos_never_twice(void)
{
    struct specials s;
    struct vocab *v = special_vocab(&s);
    unsigned both = TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL;

    CHECK(gives(v, "a", TOKENIZE_ADD_SPECIAL, IDS(s.bos, 'a')));
    CHECK(gives(v, "<s>a", both, IDS(s.bos, 'a')));
    CHECK(gives(v, "<s>a<s>", both, IDS(s.bos, 'a', s.bos)));
    CHECK(gives(v, "", TOKENIZE_ADD_SPECIAL, IDS(s.bos)));
    CHECK(gives(v, "<s>a", TOKENIZE_ADD_SPECIAL, IDS(s.bos, '<', 's', '>', 'a')));
    CHECK(gives(v, "<s><s>", TOKENIZE_PARSE_SPECIAL, IDS(s.bos, s.bos))); /* nothing added, nothing dropped */
    vocab_free(v);
}

/* The same text, tokenised as segments: true is markup. */
static void test_segments(void)
{
    struct specials s;
    struct vocab *v = special_vocab(&s);
    const char text[] = "<s>a<|end|>b<|end|>";
    const struct text_segment split[] = {{3, true}, {9, false}, {7, true}};
    /* Two markup segments in a row are one stretch of markup. */
    const struct text_segment torn[] = {{1, true}, {2, true}, {1, false}, {7, true}, {1, false}, {3, true}, {4, false}};
    struct tokens out;
    struct error e = {0};

    tokens_init(&out, 100);
    CHECK_INT(tokenize_segments(v, text, 19, split, 3, TOKENIZE_ADD_SPECIAL, &out, &e), RC_OK);
    const int32_t safe[] = {s.bos, 'a', '<', '|', 'e', 'n', 'd', '|', '>', 'b', s.end};
    CHECK(out.n == 11 && memcmp(out.ids, safe, sizeof(safe)) == 0);
    out.n = 0;
    CHECK_INT(tokenize_segments(v, text, 19, torn, 7, 0, &out, &e), RC_OK);
    const int32_t cut[] = {s.bos, 'a', s.end, 'b', '<', '|', 'e', 'n', 'd', '|', '>'};
    CHECK(out.n == 11 && memcmp(out.ids, cut, sizeof(cut)) == 0); /* the last tag is half content: text */
    tokens_fini(&out);
    vocab_free(v);
}

/* Words go across the borders of segments: the ids are those of the whole text. */
static void test_segments_share_words(void)
{
    const struct text_segment segments[] = {{1, true}, {1, false}};
    struct tokens out;
    struct error e = {0};
    struct tiny t;

    tiny_bpe(&t, "gpt-2");
    int32_t ab = tiny_merge(&t, "a b", "ab");
    struct vocab *v = tiny_vocab(&t);
    tokens_init(&out, 100);
    CHECK_INT(tokenize_segments(v, "ab", 2, segments, 2, 0, &out, &e), RC_OK);
    CHECK(out.n == 1 && out.ids[0] == ab);
    tokens_fini(&out);
    vocab_free(v);
}

/* Merges and scores never spell a control token. */
static void test_text_cannot_merge_into_control(void)
{
    struct tiny t;

    tiny_bpe(&t, "gpt-2");
    tiny_merge(&t, "< s", "<s");
    tiny_add(&t, "<s>", TOKEN_TYPE_CONTROL, 0);
    t.merges[t.src.n_merges++] = span("<s >");
    struct vocab *v = tiny_vocab(&t);
    int32_t control = vocab_find(v, "<s>", 3);
    struct tokens out;
    struct error e = {0};
    tokens_init(&out, 10);
    CHECK_INT(tokenize(v, "<s>", 3, 0, &out, &e), RC_OK);
    for (size_t i = 0; i < out.n; i++)
        CHECK(out.ids[i] != control);
    tokens_fini(&out);
    vocab_free(v);

    tiny_spm(&t);
    tiny_add(&t, "<", TOKEN_TYPE_NORMAL, -1);
    tiny_add(&t, "<s", TOKEN_TYPE_NORMAL, -2);
    t.src.add_space_prefix = 0;
    t.src.add_bos = 0;
    v = tiny_vocab(&t);
    CHECK(gives(v, "<s>", 0, IDS(260, 3 + '>')));
    vocab_free(v);
}

/* ---- SentencePiece ---- */

static void test_spm(void)
{
    struct tiny t;

    tiny_spm(&t);
    int32_t mark = tiny_add(&t, "▁", TOKEN_TYPE_NORMAL, -10), a = tiny_add(&t, "a", TOKEN_TYPE_NORMAL, -11);
    int32_t b = tiny_add(&t, "b", TOKEN_TYPE_NORMAL, -12), ab = tiny_add(&t, "ab", TOKEN_TYPE_NORMAL, -3);
    int32_t mark_a = tiny_add(&t, "▁a", TOKEN_TYPE_NORMAL, -2);
    struct vocab *v = tiny_vocab(&t);
    CHECK(gives(v, "ab", 0, IDS(mark_a, b))); /* the better score merges first */
    CHECK(gives(v, "bab", 0, IDS(mark, b, ab)));
    CHECK(gives(v, "b a", TOKENIZE_ADD_SPECIAL, IDS(1, mark, b, mark_a)));
    CHECK(gives(v, "é", 0, IDS(mark, 3 + 0xC3, 3 + 0xA9)));
    CHECK(gives(v, "\xC3", 0, IDS(mark, 3 + 0xC3)));
    CHECK(gives(v, "a</s>a", TOKENIZE_PARSE_SPECIAL, IDS(mark_a, 2, mark_a))); /* a space behind each special token */
    CHECK(gives(v, "", TOKENIZE_ADD_SPECIAL, IDS(1)));
    CHECK_INT(a, vocab_find(v, "a", 1));
    vocab_free(v);
}

static void test_missing_byte(void)
{
    struct tokens out;
    struct error e = {0};
    struct tiny t;

    tiny_init(&t, "gpt2", "gpt-2");
    tiny_add(&t, "a", TOKEN_TYPE_NORMAL, 0);
    struct vocab *v = tiny_vocab(&t);
    tokens_init(&out, 10);
    CHECK_INT(tokenize(v, "ab", 2, 0, &out, &e), RC_UNSUPPORTED);
    CHECK(strstr(e.message, "byte 0x62") != NULL);
    vocab_free(v);
    t.src.unk = tiny_add(&t, "?", TOKEN_TYPE_UNKNOWN, 0);
    v = tiny_vocab(&t);
    CHECK(gives(v, "aba", 0, IDS(0, 1, 0)));
    vocab_free(v);
    tokens_fini(&out);
}

/* ---- decoding ---- */

/* Decode ids (ended by -1); what came out after each id, '|' between. */
static const char *decoded(const struct vocab *v, unsigned flags, const int32_t *ids)
{
    static char text[256];
    struct strbuf out;
    struct detok d;

    strbuf_init(&out, sizeof(text) - 1);
    detok_init(&d, v, flags);
    for (; *ids >= 0; ids++)
        if (detok_push(&d, *ids, &out) != RC_OK || strbuf_puts(&out, "|") != RC_OK)
            return "(failed)";
    if (detok_finish(&d, &out) != RC_OK)
        return "(failed)";
    snprintf(text, sizeof(text), "%s", out.data ? out.data : "");
    strbuf_fini(&out);
    return text;
}

static void test_detok_holds_back_partial_characters(void)
{
    struct specials s;
    struct vocab *v = special_vocab(&s);

    CHECK_STR(decoded(v, 0, IDS('a', 0xF0, 0x9F, 0x98, 0x80, 'b')), "a||||😀|b|");
    CHECK_STR(decoded(v, 0, IDS(0xE4, 0xB8, 'x')), "||\uFFFDx|"); /* one for a part that could have gone on */
    CHECK_STR(decoded(v, 0, IDS(0xE4, 0xB8)), "||\uFFFD");
    CHECK_STR(decoded(v, 0, IDS(0x80, 0xFF)), "\uFFFD|\uFFFD|");
    CHECK_STR(decoded(v, 0, IDS(0xC0, 0xAF)), "\uFFFD|\uFFFD|");              /* overlong */
    CHECK_STR(decoded(v, 0, IDS(0xED, 0xA0, 0x80)), "|\uFFFD\uFFFD|\uFFFD|"); /* surrogate */
    CHECK_STR(decoded(v, 0, IDS(0xF4, 0x90, 0x80)), "|\uFFFD\uFFFD|\uFFFD|"); /* past U+10FFFF */
    CHECK_STR(decoded(v, 0, IDS(0xE4, 0xE4, 0xB8, 0xAD)), "|\uFFFD||中|");
    vocab_free(v);
}

static void test_detok_special(void)
{
    struct specials s;
    struct vocab *v = special_vocab(&s);
    struct strbuf out;
    struct detok d;

    CHECK_STR(decoded(v, 0, IDS(s.bos, 'a', s.end)), "|a||");
    CHECK_STR(decoded(v, DETOK_SHOW_SPECIAL, IDS(s.bos, 'a', s.end)), "<s>|a|<|end|>|");
    CHECK_STR(decoded(v, 0, IDS(s.think, s.plain)), "<think>|õ|");
    strbuf_init(&out, 100);
    detok_init(&d, v, 0);
    CHECK_INT(detok_push(&d, vocab_size(v), &out), RC_INVALID);
    CHECK_INT(detok_push(&d, -1, &out), RC_INVALID);
    strbuf_fini(&out);
    vocab_free(v);
}

static void test_detok_spm_space(void)
{
    struct tiny t;

    tiny_spm(&t);
    int32_t hi = tiny_add(&t, "▁hi", TOKEN_TYPE_NORMAL, 0);
    struct vocab *v = tiny_vocab(&t);
    CHECK_STR(decoded(v, DETOK_TEXT_START, IDS(1, hi, hi)), "|hi| hi|");
    CHECK_STR(decoded(v, 0, IDS(hi, 3 + 0xC3, 3 + 0xA9)), " hi||é|"); /* an answer goes on where the prompt ended */
    CHECK_STR(decoded(v, DETOK_TEXT_START | DETOK_SHOW_SPECIAL, IDS(hi, 2, hi)), "hi|</s>|hi|");
    vocab_free(v);
}

int main(void)
{
    TEST(test_bpe_best_rank_first);
    TEST(test_bpe_round_trips_all_bytes);
    TEST(test_bpe_whole_word_without_merges);
    TEST(test_one_long_word);
    TEST(test_special_only_when_asked);
    TEST(test_bos_never_twice);
    TEST(test_segments);
    TEST(test_segments_share_words);
    TEST(test_text_cannot_merge_into_control);
    TEST(test_spm);
    TEST(test_missing_byte);
    TEST(test_detok_holds_back_partial_characters);
    TEST(test_detok_special);
    TEST(test_detok_spm_space);
    return TEST_RESULT();
}
