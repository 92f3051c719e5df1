/* SentencePiece BPE: of all neighbouring pairs whose concatenation is a token, the one with the best score merges
 * first; ties go to the left. Characters that are no token fall back to one token per byte.
 *
 * Same shape as bpe.c: a linked list and a heap, n log n. What differs: a pair is looked up by its text (pairs longer
 * than the longest token are not), and there are no words, only spaces spelled U+2581.
 *
 * Source: Kudo and Richardson 2018 (arXiv 1808.06226). */
#include <stdlib.h>
#include <string.h>

#include "engine/text/merge_heap.h"
#include "engine/text/text_internal.h"

#define NONE UINT32_MAX

static const char space_mark[] = "\xE2\x96\x81";

struct piece {
    uint32_t at, len; /* in the text; len 0: merged away */
    uint32_t prev, next;
};

struct spm_run {
    const struct vocab *v;
    char *text;             /* owned; spaces spelled out */
    struct piece *pieces;   /* owned */
    struct merge_heap heap; /* a of a candidate: the length of both halves together, which tells a stale one */
    size_t n, n_pieces;
};

static void queue_pair(struct spm_run *r, uint32_t left)
{
    if (left == NONE || r->pieces[left].next == NONE)
        return;
    const struct piece *p = &r->pieces[left];
    uint32_t len = p->len + r->pieces[p->next].len;
    int32_t id = vocab_find_mergeable(r->v, r->text + p->at, len);
    if (id >= 0)
        merge_heap_push(&r->heap, (struct merge_candidate){-(double)r->v->score[id], left, (int32_t)len, 0});
}

static void spell(struct spm_run *r, const char *text, size_t n, bool space_prefix)
{
    r->text = spw_malloc((n + 1) * 3);
    if (space_prefix) {
        memcpy(r->text, space_mark, 3);
        r->n = 3;
    }
    for (size_t i = 0; i < n; i++) {
        if (text[i] == ' ') {
            memcpy(r->text + r->n, space_mark, 3);
            r->n += 3;
        } else {
            r->text[r->n++] = text[i];
        }
    }
}

static void cut_chars(struct spm_run *r)
{
    r->pieces = spw_malloc((r->n + 1) * sizeof(*r->pieces));
    for (size_t at = 0; at < r->n;) {
        uint32_t cp, i = (uint32_t)r->n_pieces++;
        size_t len = utf8_decode((const unsigned char *)r->text + at, r->n - at, &cp);
        r->pieces[i] = (struct piece){(uint32_t)at, (uint32_t)len, i ? i - 1 : NONE, i + 1};
        at += len;
    }
    if (r->n_pieces)
        r->pieces[r->n_pieces - 1].next = NONE;
}

static void merge_all(struct spm_run *r)
{
    struct piece *p = r->pieces;

    for (size_t i = 0; i + 1 < r->n_pieces; i++)
        queue_pair(r, (uint32_t)i);
    struct merge_candidate c;
    while (merge_heap_pop(&r->heap, &c)) {
        uint32_t right = p[c.left].next;
        if (p[c.left].len == 0 || right == NONE || p[c.left].len + p[right].len != (uint32_t)c.a)
            continue;
        p[c.left].len = (uint32_t)c.a;
        p[c.left].next = p[right].next;
        if (p[right].next != NONE)
            p[p[right].next].prev = c.left;
        p[right].len = 0;
        queue_pair(r, p[c.left].prev);
        queue_pair(r, c.left);
    }
}

static enum rc push(const struct vocab *v, int32_t id, unsigned char byte, struct tokens *out, struct error *e)
{
    if (id < 0)
        id = v->unk;
    if (id < 0)
        return error_set(e, RC_UNSUPPORTED, "the vocabulary has no token for byte 0x%02x and no unknown token", byte);
    if (tokens_push(out, id) != RC_OK)
        return error_set(e, RC_FULL, "the text has more than %zu tokens", out->max);
    return RC_OK;
}

static enum rc emit(const struct spm_run *r, struct tokens *out, struct error *e)
{
    enum rc rc = RC_OK;

    for (uint32_t i = r->n_pieces ? 0 : NONE; i != NONE && rc == RC_OK; i = r->pieces[i].next) {
        const char *s = r->text + r->pieces[i].at;
        uint32_t len = r->pieces[i].len;
        int32_t id = vocab_find_mergeable(r->v, s, len);
        if (id >= 0) {
            rc = push(r->v, id, 0, out, e);
            continue;
        }
        for (uint32_t k = 0; k < len && rc == RC_OK; k++)
            rc = push(r->v, r->v->byte_token[(unsigned char)s[k]], (unsigned char)s[k], out, e);
    }
    return rc;
}

enum rc spm_encode(const struct vocab *v, const char *text, size_t n, bool space_prefix, struct tokens *out,
                   struct error *e)
{
    struct spm_run r = {.v = v};

    spell(&r, text, n, space_prefix);
    cut_chars(&r);
    merge_all(&r);
    enum rc rc = emit(&r, out, e);
    free(r.text);
    free(r.pieces);
    merge_heap_fini(&r.heap);
    return rc;
}
