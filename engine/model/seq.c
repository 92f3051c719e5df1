/* Sequences and the pages that hold their keys and values.
 *
 * Pages come from one stack of free page numbers, then from those that are kept for prefixes, whose content may move to
 * the host's memory (kv_store.c). A sequence has ceil(len / K_PAGE_TOKENS) of them at the least, more after
 * seq_reserve(); each page holds all layers of its K_PAGE_TOKENS positions. Its first n_known ones are in the prefix
 * tree, shared with whoever begins alike; the others are its own. */
#include <string.h>

#include "engine/model/model_internal.h"

static int32_t pages_for(int32_t tokens)
{
    return (tokens + K_PAGE_TOKENS - 1) / K_PAGE_TOKENS;
}

static void put_page(struct engine *en, int32_t page)
{
    en->pages_free[en->n_pages_free++] = page;
}

/* A kept page, for the content of which there is a slot, or nobody will know it any more. prefix_spare() is to follow. */
static int32_t exchange_page(struct engine *en)
{
    int32_t slot;
    kv_store_grow(en);
    int32_t page = prefix_evict(en->prefix, &slot);
    if (slot != PREFIX_NONE && kv_store_put(en, slot, page) != K_OK)
        prefix_lose(en->prefix, slot);
    return page;
}

static int32_t evict_page(struct engine *en)
{
    int32_t page = exchange_page(en);
    prefix_spare(en->prefix);
    return page;
}

/* The last first, as the tree wants it. */
static void give_back(struct seq *s, int32_t keep)
{
    struct engine *en = s->en;
    while (s->n_pages > keep) {
        int32_t page = s->pages[--s->n_pages];
        if (s->n_pages >= s->n_known) {
            put_page(en, page);
            continue;
        }
        s->n_known = s->n_pages;
        prefix_release(en->prefix, page);
        if (prefix_kept(en->prefix) > en->kept_max)
            put_page(en, evict_page(en));
    }
}

static int32_t take_page(struct engine *en)
{
    return en->n_pages_free > 0 ? en->pages_free[--en->n_pages_free] : evict_page(en);
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

int32_t seq_truncate(struct seq *s, int32_t len)
{
    SPW_ASSERT(s->magic == SEQ_MAGIC && len >= 0 && len <= s->len);
    give_back(s, pages_for(len));
    if (len % K_PAGE_TOKENS && s->n_known == s->n_pages) { /* what comes next would be written into a known page */
        if (prefix_forget(s->en->prefix, s->pages[s->n_pages - 1])) {
            s->n_known--;
        } else {
            len -= len % K_PAGE_TOKENS;
            give_back(s, pages_for(len));
        }
    }
    s->len = len;
    return len;
}

void seq_rewind(struct seq *s, int32_t len)
{
    SPW_ASSERT(s->magic == SEQ_MAGIC && len <= s->len && len >= s->n_known * K_PAGE_TOKENS);
    s->len = len;
}

/* Pages that others may want before long: one for each sequence that runs beside this one, and this one's next. */
static int32_t pages_spoken_for(const struct engine *en)
{
    int32_t n = 0;
    for (int32_t i = 0; i < en->max_seqs; i++)
        n += en->seqs[i].en != NULL;
    return n > 1 ? n + 1 : 0;
}

/* The block that follows the sequence's pages, out of its slot into a page; PREFIX_NONE if there is none to spare: what
 * comes back only to be displaced again is better left. */
static int32_t bring_back(struct seq *s, const struct prefix_salt *salt, const int32_t *ids, int32_t n)
{
    struct engine *en = s->en;
    int32_t parent = s->n_pages > 0 ? s->pages[s->n_pages - 1] : PREFIX_NONE;
    if (pages_for(n) - s->n_pages + pages_spoken_for(en) > engine_pages_free(en))
        return PREFIX_NONE;
    int32_t page = en->n_pages_free > 0 ? en->pages_free[--en->n_pages_free] : exchange_page(en);
    int32_t slot = prefix_find(en->prefix, parent, salt, ids); /* none: a copy that failed took it along */
    if (slot != PREFIX_NONE && kv_store_get(en, page, slot) == K_OK) {
        prefix_return(en->prefix, slot, page);
    } else {
        put_page(en, page);
        page = PREFIX_NONE;
    }
    prefix_spare(en->prefix);
    return page;
}

int32_t seq_attach(struct seq *s, const struct prefix_salt *salt, const int32_t *ids, int32_t n)
{
    struct prefix *p = s->en->prefix;
    int32_t parent = PREFIX_NONE;
    SPW_ASSERT(s->magic == SEQ_MAGIC && s->len == 0 && s->n_pages == 0);
    for (; s->len + K_PAGE_TOKENS < n; s->len += K_PAGE_TOKENS) {
        int32_t page = prefix_find(p, parent, salt, ids + s->len);
        if (page >= s->en->n_pages)
            page = bring_back(s, salt, ids + s->len, n);
        else if (page != PREFIX_NONE)
            prefix_hold(p, page);
        if (page == PREFIX_NONE)
            break;
        s->pages[s->n_pages++] = parent = page;
    }
    s->n_known = s->n_pages;
    return s->len;
}

void seq_share(struct seq *s, const struct prefix_salt *salt, const int32_t *ids)
{
    struct prefix *p = s->en->prefix;
    SPW_ASSERT(s->magic == SEQ_MAGIC);
    for (int32_t i = s->n_known; (i + 1) * K_PAGE_TOKENS <= s->len; i = ++s->n_known) {
        int32_t parent = i > 0 ? s->pages[i - 1] : PREFIX_NONE, own = s->pages[i];
        int32_t page = prefix_find(p, parent, salt, ids + (size_t)i * K_PAGE_TOKENS);
        if (page == PREFIX_NONE) {
            prefix_add(p, own, parent, salt, ids + (size_t)i * K_PAGE_TOKENS);
        } else if (page >= s->en->n_pages) { /* it was computed although a slot has it: what is nearer stays */
            prefix_return(p, page, own);
        } else { /* another computed the same meanwhile: one copy is enough */
            prefix_hold(p, page);
            s->pages[i] = page;
            put_page(s->en, own);
        }
    }
}

enum rc seq_reserve(struct seq *s, int32_t n, struct error *e)
{
    struct engine *en = s->en;
    SPW_ASSERT(s->magic == SEQ_MAGIC && n >= 0);
    if (n > en->n_ctx - s->len)
        return error_set(e, RC_FULL, "%d tokens and %d more pass the longest sequence, %d tokens", s->len, n,
                         en->n_ctx);
    int32_t want = pages_for(s->len + n) - s->n_pages;
    if (want > engine_pages_free(en))
        return error_set(e, RC_FULL, "%d pages of keys and values are needed, %d of %d are free", want,
                         engine_pages_free(en), en->n_pages);
    for (; want > 0; want--)
        s->pages[s->n_pages++] = take_page(en);
    return RC_OK;
}

int32_t engine_pages_free(const struct engine *en)
{
    return en->n_pages_free + engine_pages_kept(en);
}

int32_t engine_pages_kept(const struct engine *en)
{
    return prefix_kept(en->prefix);
}

uint64_t engine_pages_evicted(const struct engine *en)
{
    return prefix_evicted(en->prefix);
}

uint64_t engine_kv_bytes(const struct engine *en)
{
    return en->kv_bytes;
}

int32_t engine_pages_total(const struct engine *en)
{
    return en->n_pages;
}
