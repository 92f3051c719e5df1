/* Vocabularies and texts from anywhere: nothing crashes, ids are in range, and where all bytes have tokens the text
 * comes back byte for byte. The first byte chooses between a good vocabulary with a wild text and a wild vocabulary.
 * links: spw_engine_text */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/tokenizer.h"
#include "tests/unit/text_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const char *const pres[] = {"gpt-2",          "llama-bpe",   "qwen2",  "deepseek-llm",
                                   "deepseek-coder", "deepseek-v3", "default"};
#define N_PRES (sizeof(pres) / sizeof(pres[0]))

static struct vocab *good_vocab(size_t which)
{
    static struct vocab *vocabs[N_PRES + 1];
    struct tiny t;

    if (vocabs[which])
        return vocabs[which];
    if (which < N_PRES) {
        tiny_bpe(&t, pres[which]);
        tiny_merge(&t, "a b", "ab");
        tiny_merge(&t, "ab ab", "abab");
        tiny_merge(&t, "Ġ a", "Ġa");
        tiny_merge(&t, "Ċ Ċ", "ĊĊ");
        tiny_merge(&t, "Ã ©", "Ã©");
        tiny_add(&t, "õ", TOKEN_TYPE_USER_DEFINED, 0);
    } else {
        tiny_spm(&t);
        tiny_add(&t, "▁", TOKEN_TYPE_NORMAL, -1);
        tiny_add(&t, "▁a", TOKEN_TYPE_NORMAL, -2);
        tiny_add(&t, "ab", TOKEN_TYPE_NORMAL, -3);
        t.src.add_space_prefix = 0;
    }
    tiny_add(&t, "<|end|>", TOKEN_TYPE_CONTROL, 0);
    return vocabs[which] = tiny_vocab(&t);
}

static void check_text(const struct vocab *v, const char *text, size_t n, unsigned flags, bool round_trip)
{
    struct tokens ids;
    struct strbuf bytes, shown;
    struct detok d;
    struct error e;

    tokens_init(&ids, 1 << 20);
    strbuf_init(&bytes, 1 << 24);
    strbuf_init(&shown, 1 << 24);
    detok_init(&d, v, flags);
    if (tokenize(v, text, n, flags, &ids, &e) != RC_OK && round_trip)
        abort();
    for (size_t i = 0; i < ids.n; i++) {
        if (!vocab_has(v, ids.ids[i]))
            abort();
        struct text_span s = vocab_token_bytes(v, ids.ids[i]);
        if (strbuf_append(&bytes, s.ptr, s.len) != RC_OK || detok_push(&d, ids.ids[i], &shown) != RC_OK)
            break;
    }
    if (detok_finish(&d, &shown) != RC_OK && round_trip)
        abort();
    if (round_trip && (bytes.len != n || (n && memcmp(bytes.data, text, n) != 0)))
        abort();
    tokens_fini(&ids);
    strbuf_fini(&bytes);
    strbuf_fini(&shown);
}

/* A span of the input: one length byte, then the bytes. */
static struct text_span take(const uint8_t **p, const uint8_t *end)
{
    size_t n = *p < end ? *(*p)++ & 15 : 0;

    if (n > (size_t)(end - *p))
        n = (size_t)(end - *p);
    struct text_span s = {(const char *)*p, n};
    *p += n;
    return s;
}

static void wild_vocab(const uint8_t *p, const uint8_t *end)
{
    static struct text_span tokens[64], merges[64];
    static int32_t types[64];
    static float scores[64];
    struct vocab_source src;
    struct vocab *v;
    struct error e;

    if (end - p < 8)
        return;
    vocab_source_init(&src);
    src.model = p[0] & 1 ? span("gpt2") : span("llama");
    src.pre = span(pres[p[1] % N_PRES]);
    src.bos = (int8_t)p[2];
    src.eos = (int8_t)p[3];
    src.unk = (int8_t)p[4];
    src.add_bos = (p[0] >> 1 & 3) - 1;
    src.n_tokens = p[5] & 63;
    src.n_merges = p[6] & 63;
    p += 8;
    for (size_t i = 0; i < src.n_tokens; i++) {
        types[i] = p < end ? *p & 7 : 1;
        memcpy(&scores[i], end - p >= 4 ? p : (const uint8_t *)"\0\0\0\0", 4);
        tokens[i] = take(&p, end);
    }
    for (size_t i = 0; i < src.n_merges; i++)
        merges[i] = take(&p, end);
    src.tokens = tokens;
    src.merges = merges;
    src.types = types;
    src.scores = scores;
    src.n_types = src.n_scores = src.n_tokens;
    if (vocab_new(&src, &v, &e) != RC_OK)
        return;
    check_text(v, (const char *)p, (size_t)(end - p), TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL, false);
    check_text(v, (const char *)p, (size_t)(end - p), TOKENIZE_PLAIN, false);
    vocab_free(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 1 || n > 1 << 16)
        return 0;
    size_t which = data[0] % (N_PRES + 2);
    if (which == N_PRES + 1) {
        wild_vocab(data + 1, data + n);
        return 0;
    }
    bool has_mark = which == N_PRES && memmem(data + 1, n - 1, "\xE2\x96\x81", 3); /* SentencePiece's space: lossy */
    check_text(good_vocab(which), (const char *)data + 1, n - 1, data[0] & 128 ? TOKENIZE_PARSE_SPECIAL : 0, !has_mark);
    return 0;
}
