/* Text to token ids and back.
 *
 * Encoding is thread-safe: the vocabulary is immutable and scratch lives for one call. Cost is n log n in the bytes of
 * the text whatever the text is. Token text such as "<|im_end|>" in a text becomes that token only inside markup:
 * what users write can never turn into a control token.
 *
 * Sources: byte-level BPE as in GPT-2's encoder; SentencePiece BPE (Kudo and Richardson 2018, arXiv 1808.06226). */
#ifndef ENGINE_TEXT_TOKENIZER_H
#define ENGINE_TEXT_TOKENIZER_H

#include "base/alloc.h"
#include "engine/text/vocab.h"

#define TOKENIZER_TEXT_MAX (16 << 20) /* bytes of one text */

/* A growing list of ids born with its maximum. */
struct tokens {
    int32_t *ids; /* owned */
    size_t n, cap, max;
};
void tokens_init(struct tokens *t, size_t max);
void tokens_fini(struct tokens *t);
enum rc tokens_push(struct tokens *t, int32_t id) SPW_MUST_USE; /* RC_FULL at the maximum */

enum tokenize_flags {
    TOKENIZE_PLAIN = 0,
    TOKENIZE_ADD_SPECIAL = 1,   /* BOS in front and EOS behind when the file says so; BOS never twice */
    TOKENIZE_PARSE_SPECIAL = 2, /* the whole text is markup */
};

/* Append the ids of text[0..n) to *out. Any bytes are accepted; what is not UTF-8 is kept byte by byte.
 * RC_FULL: more ids than out->max, or a text over TOKENIZER_TEXT_MAX. RC_UNSUPPORTED: the vocabulary has no token for
 * a byte of the text, and no unknown token. */
enum rc tokenize(const struct vocab *v, const char *text, size_t n, unsigned flags, struct tokens *out,
                 struct error *e) SPW_MUST_USE;

/* A stretch of a text that is all markup (written by a template) or all content (written by users). */
struct text_segment {
    size_t len;
    bool is_markup;
};
/* As tokenize(), for a text made of segments whose lengths add up to n. Special tokens are recognised inside runs of
 * markup only; everything between two special tokens is tokenised as one text, across segment borders, so that
 * harmless content gives the ids of the plain concatenation. TOKENIZE_PARSE_SPECIAL is ignored. */
enum rc tokenize_segments(const struct vocab *v, const char *text, size_t n, const struct text_segment *segments,
                          size_t n_segments, unsigned flags, struct tokens *out, struct error *e) SPW_MUST_USE;

enum detok_flags {
    DETOK_PLAIN = 0,
    DETOK_SHOW_SPECIAL = 1, /* control tokens appear as their text */
    DETOK_TEXT_START = 2,   /* the ids start a text: drop the space that SentencePiece puts in front */
};

/* Streaming decoder: ids in, whole characters out. Bytes of a character still incomplete are held back (at most 3);
 * what can never become a character turns into U+FFFD, one for each maximal part of a sequence (Unicode 3.9).
 * Caller's storage; no fini. What it holds depends on the ids pushed and nothing else. */
struct detok {
    const struct vocab *vocab; /* borrowed */
    unsigned flags;
    bool strip_space;
    unsigned char held[4];
    int n_held;
};
void detok_init(struct detok *d, const struct vocab *v, unsigned flags);
/* Append to *out what id completes, possibly nothing. RC_INVALID: no such id. RC_FULL: *out is. */
enum rc detok_push(struct detok *d, int32_t id, struct strbuf *out) SPW_MUST_USE;
/* The end of the stream: a held partial character becomes U+FFFD. */
enum rc detok_finish(struct detok *d, struct strbuf *out) SPW_MUST_USE;

#endif
