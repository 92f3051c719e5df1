/* What the files of the tokenizer share: the inside of a vocabulary. */
#ifndef ENGINE_TEXT_INTERNAL_H
#define ENGINE_TEXT_INTERNAL_H

#include "base/alloc.h"
#include "base/fnv.h"
#include "engine/text/pretokenize.h"
#include "engine/text/tokenizer.h"
#include "engine/text/unicode.h"
#include "engine/text/vocab.h"

#define SPECIAL_BYTES_MAX 512 /* a longer special token is never looked for in a text */

enum vocab_model { VOCAB_BPE, VOCAB_SPM };

/* Bits beside a token's type. */
enum {
    TOKEN_MARKUP = 1, /* vocab_is_markup() */
    TOKEN_HIDDEN = 2, /* vocab_is_hidden() */
    TOKEN_END = 4,    /* vocab_is_end() */
};

/* Strings end to end in one block. */
struct string_table {
    char *data;   /* owned */
    uint32_t *at; /* owned; n + 1 offsets */
};

/* A byte trie as an open-addressing map from (node, byte) to node. Node 0 is the root; a node number is never 0 as a
 * value. */
struct special_trie {
    uint64_t *keys;    /* owned; (node << 8 | byte) + 1, 0 is empty */
    uint32_t *values;  /* owned */
    size_t mask;       /* slots - 1 */
    int32_t *plain_id; /* owned, per node: user-defined token that is ordinary text; -1 */
    int32_t *markup_id;
    size_t n_nodes;
    bool first[256]; /* some token starts with this byte */
};

/* Two neighbouring tokens that merge into a third. */
struct merge {
    int32_t left, right; /* left == -1: empty slot */
    uint32_t rank;       /* lower merges first */
    int32_t result;
};

struct bpe {
    struct merge *merges; /* owned; open addressing */
    size_t mask;
    bool ignore_merges; /* a word that is a token as a whole is that token */
};

struct vocab {
    enum vocab_model model;
    const struct pretokenizer *pre; /* BPE */
    int32_t n;
    struct string_table text;  /* as the file spells it */
    struct string_table bytes; /* as it appears in a text */
    uint8_t *type;             /* owned; enum token_type */
    uint8_t *bits;             /* owned; TOKEN_* */
    float *score;              /* owned; SentencePiece */
    uint32_t *slots;           /* owned; hash of texts: id + 1, 0 is empty */
    size_t slot_mask;
    size_t text_max; /* longest text */
    struct special_trie special;
    struct bpe bpe;
    int32_t byte_token[256]; /* BPE: each byte's own token; SentencePiece: its fallback; -1: none */
    int32_t bos, eos, eot, unk;
    bool add_bos, add_eos, add_space_prefix;
    size_t merge_bytes;
};

static inline struct text_span string_at(const struct string_table *t, int32_t i)
{
    return (struct text_span){t->data + t->at[i], t->at[i + 1] - t->at[i]};
}

static inline uint64_t hash_bytes(const char *s, size_t n)
{
    const uint64_t h = fnv_bytes(FNV_START, s, n);

    return h ^ (h >> 29);
}
static inline uint64_t hash_pair(uint64_t a, uint64_t b)
{
    uint64_t h = (a << 32 | (b & 0xffffffffu)) * 0x9e3779b97f4a7c15u;

    return h ^ (h >> 31);
}
/* Slots for n entries at a load of at most 2/3: a power of two. */
size_t hash_slots(size_t n);

/* A token that text may turn into by merging, -1 if none: control, unknown and byte tokens and tags are reserved, so
 * that no text spells its way into one. */
int32_t vocab_find_mergeable(const struct vocab *v, const char *text, size_t len);

/* special.c. RC_INVALID: too many bytes of special tokens. */
enum rc special_build(struct vocab *v, struct error *e) SPW_MUST_USE;
void special_fini(struct special_trie *t);
/* The longest special token at the start of s, or -1: user-defined text within n bytes, markup within n_markup. */
int32_t special_match(const struct vocab *v, const char *s, size_t n, size_t n_markup, size_t *len);

/* bpe.c */
/* The character that stands for a byte in a byte-level vocabulary. */
uint32_t bpe_byte_char(unsigned byte);
/* Back: the byte, or -1. */
int bpe_char_byte(uint32_t cp);
enum rc bpe_build(struct vocab *v, const struct vocab_source *src, struct error *e) SPW_MUST_USE;
void bpe_fini(struct bpe *b);
enum rc bpe_encode(const struct vocab *v, const char *text, size_t n, struct tokens *out, struct error *e) SPW_MUST_USE;

/* spm.c: text of one stretch between special tokens; space_prefix as the rules of the stretch say. */
enum rc spm_encode(const struct vocab *v, const char *text, size_t n, bool space_prefix, struct tokens *out,
                   struct error *e) SPW_MUST_USE;

#endif
