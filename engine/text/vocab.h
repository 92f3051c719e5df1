/* A vocabulary: the tokens of a model, what each stands for, and how text is cut into them.
 *
 * Built once from a plain struct (whoever reads the file fills it), immutable afterwards, and therefore shared by all
 * threads without a lock. Strings may hold any bytes and are never taken for NUL-terminated. Whatever is wrong with a
 * file's vocabulary is found here, at load, with a text that names the token or merge.
 *
 * Token ids are int32_t; -1 means "none" everywhere. */
#ifndef ENGINE_TEXT_VOCAB_H
#define ENGINE_TEXT_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define VOCAB_TOKENS_MAX      (1 << 22) /* tokens in one vocabulary */
#define VOCAB_MERGES_MAX      (1 << 23)
#define VOCAB_TOKEN_BYTES_MAX (1 << 16) /* bytes of one token */

/* Some bytes of someone else's; no terminator. */
struct text_span {
    const char *ptr;
    size_t len;
};

/* The numbers of GGUF's tokenizer.ggml.token_type. */
enum token_type {
    TOKEN_TYPE_UNDEFINED = 0,
    TOKEN_TYPE_NORMAL = 1,
    TOKEN_TYPE_UNKNOWN = 2,
    TOKEN_TYPE_CONTROL = 3,
    TOKEN_TYPE_USER_DEFINED = 4,
    TOKEN_TYPE_UNUSED = 5,
    TOKEN_TYPE_BYTE = 6,
};

/* What the file says. Everything is borrowed for the duration of vocab_new(). Start from vocab_source_init(). */
struct vocab_source {
    struct text_span model; /* "gpt2": byte-level BPE; "llama": SentencePiece */
    struct text_span pre;   /* pre-tokenizer of a BPE; empty is "default" */
    size_t n_tokens;
    const struct text_span *tokens;
    size_t n_scores; /* 0 or n_tokens; required for SentencePiece */
    const float *scores;
    size_t n_types; /* 0 (all normal) or n_tokens */
    const int32_t *types;
    size_t n_merges;
    const struct text_span *merges;         /* "left right", best first */
    int64_t bos, eos, eot, unk, pad;        /* -1: not named */
    int add_bos, add_eos, add_space_prefix; /* 1, 0, or -1: the file does not say */
};

/* No tokens, no special ids, nothing said. */
void vocab_source_init(struct vocab_source *src);

struct vocab;

/* RC_INVALID names the first thing wrong; RC_UNSUPPORTED names the models or pre-tokenizers that are supported.
 * On RC_OK *vocab is the caller's until vocab_free(). */
enum rc vocab_new(const struct vocab_source *src, struct vocab **vocab, struct error *e) SPW_MUST_USE;
void vocab_free(struct vocab *v); /* NULL is fine */

int32_t vocab_size(const struct vocab *v);
static inline bool vocab_has(const struct vocab *v, int64_t id)
{
    return id >= 0 && id < vocab_size(v);
}

/* For ids in range. */
struct text_span vocab_token_text(const struct vocab *v, int32_t id);  /* as the file spells it: "Ġhello", "<0x0A>" */
struct text_span vocab_token_bytes(const struct vocab *v, int32_t id); /* what it adds to a text: " hello", "\n" */
enum token_type vocab_token_type(const struct vocab *v, int32_t id);
/* Markup rather than text: control and unknown tokens, and user-defined ones that look like a tag ("<think>"). */
bool vocab_is_markup(const struct vocab *v, int32_t id);
/* Left out of decoded text unless asked for: control, unknown and unused tokens. "<think>" is text here. */
bool vocab_is_hidden(const struct vocab *v, int32_t id);
/* Ends a generation: eos, eot, and the control tokens known by name to end a turn ("<|im_end|>", "<|eot_id|>", ...). */
bool vocab_is_end(const struct vocab *v, int32_t id);

/* The token that the file spells exactly so, or -1. Of duplicates the lowest id. */
int32_t vocab_find(const struct vocab *v, const char *text, size_t len);

int32_t vocab_bos(const struct vocab *v); /* -1: none */
int32_t vocab_eos(const struct vocab *v);
int32_t vocab_unk(const struct vocab *v);
bool vocab_adds_bos(const struct vocab *v); /* the tokenizer puts BOS in front */
bool vocab_adds_eos(const struct vocab *v);
const char *vocab_pre_name(const struct vocab *v); /* "deepseek-v3", ...; "spm" for SentencePiece */
size_t vocab_bytes(const struct vocab *v);         /* memory held */

#endif
