#include "engine/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "engine/text/text_internal.h"

/* ---- lists of ids ---- */

void tokens_init(struct tokens *t, size_t max)
{
    *t = (struct tokens){.max = max};
}

void tokens_fini(struct tokens *t)
{
    free(t->ids);
    *t = (struct tokens){.max = t->max};
}

enum rc tokens_push(struct tokens *t, int32_t id)
{
    if (t->n == t->max)
        return RC_FULL;
    if (t->n == t->cap) {
        t->cap = t->cap ? t->cap * 2 : 64;
        if (t->cap > t->max)
            t->cap = t->max;
        t->ids = spw_realloc(t->ids, t->cap * sizeof(*t->ids));
    }
    t->ids[t->n++] = id;
    return RC_OK;
}

/* ---- encoding ---- */

struct encode_run {
    const struct vocab *v;
    const char *text;
    size_t n;
    const struct text_segment *segments;
    size_t n_segments;
    struct tokens *out;
    struct error *e;
    size_t bos_at;      /* where this call put a BOS in *out; SIZE_MAX: nowhere */
    bool after_special; /* SentencePiece puts a space in front of the stretch to come */
};

static enum rc push_special(struct encode_run *r, int32_t id)
{
    /* A template that spells BOS meets a file that adds one: one is enough. */
    if (id == r->v->bos && r->bos_at < r->out->n && r->bos_at + 1 == r->out->n)
        return RC_OK;
    if (tokens_push(r->out, id) != RC_OK)
        return error_set(r->e, RC_FULL, "the text has more than %zu tokens", r->out->max);
    r->after_special = true;
    return RC_OK;
}

static enum rc encode_stretch(struct encode_run *r, size_t from, size_t to)
{
    if (from == to)
        return RC_OK;
    bool space_prefix = r->v->add_space_prefix && r->after_special;
    r->after_special = false;
    if (r->v->model == VOCAB_SPM)
        return spm_encode(r->v, r->text + from, to - from, space_prefix, r->out, r->e);
    return bpe_encode(r->v, r->text + from, to - from, r->out, r->e);
}

/* One pass over the text: find special tokens from left to right, the longest at each place, and encode what lies
 * between them. markup_end is the end of the run of markup that pos lies in, or pos. */
static enum rc encode_text(struct encode_run *r)
{
    size_t segment = 0, segment_end = 0, markup_end = 0, from = 0, pos = 0;
    enum rc rc;

    while (pos < r->n) {
        while (pos >= segment_end && segment < r->n_segments) {
            bool markup = r->segments[segment].is_markup;
            segment_end += r->segments[segment++].len;
            if (markup && markup_end < segment_end)
                for (markup_end = segment_end; segment < r->n_segments && r->segments[segment].is_markup; segment++)
                    markup_end = segment_end += r->segments[segment].len;
        }
        size_t len, n_markup = markup_end > pos ? markup_end - pos : 0;
        int32_t id = special_match(r->v, r->text + pos, r->n - pos, n_markup, &len);
        if (id < 0) {
            pos++;
            continue;
        }
        if ((rc = encode_stretch(r, from, pos)) != RC_OK || (rc = push_special(r, id)) != RC_OK)
            return rc;
        from = pos += len;
    }
    return encode_stretch(r, from, r->n);
}

enum rc tokenize_segments(const struct vocab *v, const char *text, size_t n, const struct text_segment *segments,
                          size_t n_segments, unsigned flags, struct tokens *out, struct error *e)
{
    struct encode_run r = {.v = v,
                           .text = text,
                           .n = n,
                           .segments = segments,
                           .n_segments = n_segments,
                           .out = out,
                           .e = e,
                           .bos_at = SIZE_MAX,
                           .after_special = true};
    enum rc rc;

    if (n > TOKENIZER_TEXT_MAX)
        return error_set(e, RC_FULL, "the text has %zu bytes; the limit is %d", n, TOKENIZER_TEXT_MAX);
    if ((flags & TOKENIZE_ADD_SPECIAL) && v->add_bos) {
        size_t at = out->n;
        if ((rc = push_special(&r, v->bos)) != RC_OK)
            return rc;
        r.bos_at = at;
    }
    if ((rc = encode_text(&r)) != RC_OK)
        return rc;
    if ((flags & TOKENIZE_ADD_SPECIAL) && v->add_eos && (rc = push_special(&r, v->eos)) != RC_OK)
        return rc;
    return RC_OK;
}

enum rc tokenize(const struct vocab *v, const char *text, size_t n, unsigned flags, struct tokens *out, struct error *e)
{
    struct text_segment all = {n, flags & TOKENIZE_PARSE_SPECIAL};

    return tokenize_segments(v, text, n, &all, 1, flags, out, e);
}
