/* Small vocabularies for tests of the tokenizer, built in memory. */
#ifndef TESTS_UNIT_TEXT_VOCAB_H
#define TESTS_UNIT_TEXT_VOCAB_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/vocab.h"

#define TINY_TOKENS_MAX 400

/* Storage that a vocab_source borrows from. */
struct tiny {
    struct vocab_source src;
    struct text_span tokens[TINY_TOKENS_MAX], merges[TINY_TOKENS_MAX];
    int32_t types[TINY_TOKENS_MAX];
    float scores[TINY_TOKENS_MAX];
    char byte_text[256][8];
};

static inline struct text_span span(const char *s)
{
    return (struct text_span){s, strlen(s)};
}

static inline int32_t tiny_add(struct tiny *t, const char *text, enum token_type type, float score)
{
    size_t i = t->src.n_tokens++;

    t->tokens[i] = span(text);
    t->types[i] = (int32_t)type;
    t->scores[i] = score;
    return (int32_t)i;
}

static inline void tiny_init(struct tiny *t, const char *model, const char *pre)
{
    memset(t, 0, sizeof(*t));
    vocab_source_init(&t->src);
    t->src.model = span(model);
    t->src.pre = span(pre);
    t->src.tokens = t->tokens;
    t->src.merges = t->merges;
}

/* "h e": the merge, and the token it makes. */
static inline int32_t tiny_merge(struct tiny *t, const char *merge, const char *result)
{
    t->merges[t->src.n_merges++] = span(merge);
    return tiny_add(t, result, TOKEN_TYPE_NORMAL, 0);
}

/* Ids 0..255 are the bytes in order, spelled in the byte alphabet (here worked out by the rule of its definition). */
static inline void tiny_bpe(struct tiny *t, const char *pre)
{
    unsigned extra = 256;

    tiny_init(t, "gpt2", pre);
    for (unsigned b = 0; b < 256; b++) {
        bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        unsigned cp = printable ? b : extra++;
        if (cp < 0x80)
            snprintf(t->byte_text[b], 8, "%c", (char)cp);
        else
            snprintf(t->byte_text[b], 8, "%c%c", (char)(0xC0 | cp >> 6), (char)(0x80 | (cp & 63)));
        tiny_add(t, t->byte_text[b], TOKEN_TYPE_NORMAL, 0);
    }
}

/* <unk> <s> </s>, then 256 byte tokens from id 3 on. */
static inline void tiny_spm(struct tiny *t)
{
    tiny_init(t, "llama", "default");
    tiny_add(t, "<unk>", TOKEN_TYPE_UNKNOWN, 0);
    tiny_add(t, "<s>", TOKEN_TYPE_CONTROL, 0);
    tiny_add(t, "</s>", TOKEN_TYPE_CONTROL, 0);
    for (int b = 0; b < 256; b++) {
        snprintf(t->byte_text[b], 8, "<0x%02X>", (unsigned)b & 255u);
        tiny_add(t, t->byte_text[b], TOKEN_TYPE_BYTE, 0);
    }
}

static inline enum rc tiny_build(struct tiny *t, struct vocab **v, struct error *e)
{
    t->src.types = t->types;
    t->src.n_types = t->src.n_tokens;
    t->src.scores = t->scores;
    t->src.n_scores = t->src.n_tokens;
    return vocab_new(&t->src, v, e);
}

static inline struct vocab *tiny_vocab(struct tiny *t)
{
    struct vocab *v;
    struct error e = {0};

    if (tiny_build(t, &v, &e) != RC_OK) {
        fprintf(stderr, "vocab_new: %s\n", e.message);
        abort();
    }
    return v;
}

#endif
