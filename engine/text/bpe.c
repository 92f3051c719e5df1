/* Byte-level BPE: the pair with the best rank merges first, until no pair of the word is in the list of merges.
 *
 * A word is a doubly linked list of tokens in an array; candidate pairs wait in a binary heap by (rank, place). A pair
 * that changed since it was queued is recognised by its tokens and skipped. n bytes: at most n merges, 2n queue
 * entries, n log n steps, so one word of a whole text is no worse than many.
 *
 * Sources: Sennrich, Haddow, Birch 2016 (arXiv 1508.07909); the byte alphabet is that of GPT-2's encoder.py. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/merge_heap.h"
#include "engine/text/text_internal.h"

/* ---- the byte alphabet: printable Latin-1 stands for itself, the other 68 bytes follow from U+0100 on ---- */

uint32_t bpe_byte_char(unsigned byte)
{
    if (byte <= 32)
        return 256 + byte;
    if (byte >= 127 && byte <= 160)
        return 256 + 33 + (byte - 127);
    return byte == 173 ? 256 + 67 : byte;
}

int bpe_char_byte(uint32_t cp)
{
    if (cp < 256)
        return bpe_byte_char(cp) == cp ? (int)cp : -1;
    if (cp <= 256 + 32)
        return (int)cp - 256;
    if (cp <= 256 + 66)
        return (int)cp - 256 - 33 + 127;
    return cp == 256 + 67 ? 173 : -1;
}

/* ---- the table of merges ---- */

static size_t merge_slot(const struct bpe *b, int32_t left, int32_t right)
{
    size_t i = (size_t)hash_pair((uint64_t)left, (uint64_t)right) & b->mask;

    while (b->merges[i].left >= 0 && (b->merges[i].left != left || b->merges[i].right != right))
        i = (i + 1) & b->mask;
    return i;
}

static bool in_vocab(const struct vocab *v, const char *s, size_t n, int32_t *id)
{
    *id = vocab_find_mergeable(v, s, n);
    return *id >= 0 || vocab_find(v, s, n) >= 0;
}

/* One line "left right". A merge that would make a reserved token is left out: no text may spell a control token. */
static enum rc add_merge(struct vocab *v, struct text_span s, size_t rank, char *joined, struct error *e)
{
    struct bpe *b = &v->bpe;
    const char *space = s.len > 1 ? memchr(s.ptr + 1, ' ', s.len - 1) : NULL;
    int shown = (int)(s.len < 80 ? s.len : 80);
    int32_t left, right, result;

    if (!space || space + 1 == s.ptr + s.len)
        return error_set(e, RC_INVALID, "merge %zu is \"%.*s\"; a merge is two parts with a space between", rank, shown,
                         s.len ? s.ptr : "");
    size_t n_left = (size_t)(space - s.ptr), n_right = s.len - n_left - 1;
    if (n_left + n_right > v->text_max)
        return error_set(e, RC_INVALID, "merge %zu (\"%.*s\") makes no token of the vocabulary", rank, shown, s.ptr);
    memcpy(joined, s.ptr, n_left);
    memcpy(joined + n_left, space + 1, n_right);
    if (!in_vocab(v, joined, n_left, &left) || !in_vocab(v, joined + n_left, n_right, &right))
        return error_set(e, RC_INVALID, "a part of merge %zu (\"%.*s\") is no token of the vocabulary", rank, shown,
                         s.ptr);
    if (!in_vocab(v, joined, n_left + n_right, &result))
        return error_set(e, RC_INVALID, "merge %zu (\"%.*s\") makes no token of the vocabulary", rank, shown, s.ptr);
    if (left < 0 || right < 0 || result < 0)
        return RC_OK;
    struct merge *m = &b->merges[merge_slot(b, left, right)];
    if (m->left < 0) /* of duplicates the first, better one */
        *m = (struct merge){left, right, (uint32_t)rank, result};
    return RC_OK;
}

enum rc bpe_build(struct vocab *v, const struct vocab_source *src, struct error *e)
{
    struct bpe *b = &v->bpe;
    size_t slots = hash_slots(src->n_merges);
    enum rc rc = RC_OK;

    for (unsigned byte = 0; byte < 256; byte++) {
        unsigned char s[4];
        size_t n = utf8_encode(bpe_byte_char(byte), s);
        v->byte_token[byte] = vocab_find_mergeable(v, (const char *)s, n);
    }
    b->ignore_merges = pretokenizer_ignores_merges(v->pre);
    b->merges = spw_malloc(slots * sizeof(*b->merges));
    b->mask = slots - 1;
    v->merge_bytes = slots * sizeof(*b->merges);
    for (size_t i = 0; i < slots; i++)
        b->merges[i].left = -1;
    char *joined = spw_malloc(v->text_max + 1);
    for (size_t i = 0; i < src->n_merges && rc == RC_OK; i++)
        rc = add_merge(v, src->merges[i], i, joined, e);
    free(joined);
    return rc;
}

void bpe_fini(struct bpe *b)
{
    free(b->merges);
}

/* ---- one word ---- */

#define NONE UINT32_MAX

struct symbol {
    int32_t id;          /* -1: a byte that the vocabulary lacks */
    uint32_t prev, next; /* NONE at the ends; a symbol merged away has id -2 */
};

struct bpe_run {
    const struct vocab *v;
    struct tokens *out;
    struct error *e;
    struct symbol *symbols; /* owned */
    size_t symbols_cap;
    struct merge_heap heap; /* a, b of a candidate: the two ids */
    char *spelled;          /* owned; text_max bytes: a word in the byte alphabet */
};

static void queue_pair(struct bpe_run *r, uint32_t left)
{
    if (left == NONE || r->symbols[left].next == NONE)
        return;
    int32_t a = r->symbols[left].id, b = r->symbols[r->symbols[left].next].id;
    if (a < 0 || b < 0)
        return;
    const struct merge *m = &r->v->bpe.merges[merge_slot(&r->v->bpe, a, b)];
    if (m->left >= 0)
        merge_heap_push(&r->heap, (struct merge_candidate){m->rank, left, a, b});
}

static void merge_all(struct bpe_run *r)
{
    struct symbol *s = r->symbols;

    struct merge_candidate c;
    while (merge_heap_pop(&r->heap, &c)) {
        uint32_t right = s[c.left].next;
        if (s[c.left].id != c.a || right == NONE || s[right].id != c.b)
            continue;
        s[c.left].id = r->v->bpe.merges[merge_slot(&r->v->bpe, c.a, c.b)].result;
        s[c.left].next = s[right].next;
        if (s[right].next != NONE)
            s[s[right].next].prev = c.left;
        s[right].id = -2;
        queue_pair(r, s[c.left].prev);
        queue_pair(r, c.left);
    }
}

static enum rc push(struct bpe_run *r, int32_t id, unsigned char byte)
{
    if (id < 0)
        id = r->v->unk;
    if (id < 0)
        return error_set(r->e, RC_UNSUPPORTED, "the vocabulary has no token for byte 0x%02x and no unknown token",
                         byte);
    if (tokens_push(r->out, id) != RC_OK)
        return error_set(r->e, RC_FULL, "the text has more than %zu tokens", r->out->max);
    return RC_OK;
}

/* The word as a token of its own, or -1. */
static int32_t whole_word(struct bpe_run *r, const char *word, size_t n)
{
    size_t at = 0;

    for (size_t i = 0; i < n; i++) {
        unsigned char s[4];
        size_t len = utf8_encode(bpe_byte_char((unsigned char)word[i]), s);
        if (at + len > r->v->text_max)
            return -1;
        memcpy(r->spelled + at, s, len);
        at += len;
    }
    return vocab_find_mergeable(r->v, r->spelled, at);
}

static enum rc encode_word(void *arg, const char *word, size_t n)
{
    struct bpe_run *r = arg;
    enum rc rc = RC_OK;

    if (r->v->bpe.ignore_merges) {
        int32_t id = whole_word(r, word, n);
        if (id >= 0)
            return push(r, id, 0);
    }
    if (n > r->symbols_cap) {
        r->symbols_cap = n * 2;
        free(r->symbols);
        r->symbols = spw_malloc(r->symbols_cap * sizeof(*r->symbols));
    }
    for (size_t i = 0; i < n; i++)
        r->symbols[i] = (struct symbol){r->v->byte_token[(unsigned char)word[i]], i ? (uint32_t)i - 1 : NONE,
                                        i + 1 < n ? (uint32_t)i + 1 : NONE};
    r->heap.n = 0;
    for (size_t i = 0; i + 1 < n; i++)
        queue_pair(r, (uint32_t)i);
    merge_all(r);
    for (uint32_t i = 0; i != NONE && rc == RC_OK; i = r->symbols[i].next)
        rc = push(r, r->symbols[i].id, (unsigned char)word[i]);
    return rc;
}

enum rc bpe_encode(const struct vocab *v, const char *text, size_t n, struct tokens *out, struct error *e)
{
    struct bpe_run r = {.v = v, .out = out, .e = e, .spelled = spw_malloc(v->text_max + 1)};
    enum rc rc = pretokenize(v->pre, text, n, encode_word, &r);

    free(r.symbols);
    merge_heap_fini(&r.heap);
    free(r.spelled);
    return rc;
}
