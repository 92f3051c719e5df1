/* Sequences and the pages that hold their keys and values.
 *
 * Pages come from one stack of free page numbers. A sequence owns ceil(len / K_PAGE_TOKENS) of them at the least, more
 * after seq_reserve(); each page holds all layers of its K_PAGE_TOKENS positions. */
#include <string.h>

#include "engine/model/model_internal.h"

static int32_t pages_for(int32_t tokens)
{
    return (tokens + K_PAGE_TOKENS - 1) / K_PAGE_TOKENS;
}

static void give_back(struct seq *s, int32_t keep)
{
    struct engine *en = s->en;
    while (s->n_pages > keep)
        en->pages_free[en->n_pages_free++] = s->pages[--s->n_pages];
}

struct seq *seq_new(struct engine *en)
{
    for (int32_t i = 0; i < en->max_seqs; i++) {
        struct seq *s = &en->seqs[i];
        if (s->en)
            continue;
        *s = (struct seq){.magic = SEQ_MAGIC, .en = en, .pages = en->seq_pages + (size_t)i * (size_t)en->pages_per_seq};
        return s;
    }
    return NULL;
}

void seq_free(struct seq *s)
{
    if (!s)
        return;
    SPW_ASSERT(s->magic == SEQ_MAGIC && s->en);
    give_back(s, 0);
    s->en = NULL;
    s->magic = 0;
}

int32_t seq_len(const struct seq *s)
{
    return s->len;
}

void seq_truncate(struct seq *s, int32_t len)
{
    SPW_ASSERT(s->magic == SEQ_MAGIC && len >= 0 && len <= s->len);
    s->len = len;
    give_back(s, pages_for(len));
}

enum rc seq_reserve(struct seq *s, int32_t n, struct error *e)
{
    struct engine *en = s->en;
    SPW_ASSERT(s->magic == SEQ_MAGIC && n >= 0);
    if (n > en->n_ctx - s->len)
        return error_set(e, RC_FULL, "%d tokens and %d more pass the longest sequence, %d tokens", s->len, n,
                         en->n_ctx);
    int32_t want = pages_for(s->len + n) - s->n_pages;
    if (want > en->n_pages_free)
        return error_set(e, RC_FULL, "%d pages of keys and values are needed, %d of %d are free", want,
                         en->n_pages_free, en->n_pages);
    for (; want > 0; want--)
        s->pages[s->n_pages++] = en->pages_free[--en->n_pages_free];
    return RC_OK;
}

int32_t engine_pages_free(const struct engine *en)
{
    return en->n_pages_free;
}

int32_t engine_pages_total(const struct engine *en)
{
    return en->n_pages;
}
