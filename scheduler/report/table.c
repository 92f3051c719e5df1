#include <stdlib.h>
#include <string.h>

#include "base/fnv.h"
#include "scheduler/report/gather.h"

void table_init(struct table *t, size_t item_bytes, size_t key_bytes)
{
    *t = (struct table){.item_bytes = item_bytes, .key_bytes = key_bytes};
}

void table_free(struct table *t)
{
    free(t->items);
    free(t->slots);
    *t = (struct table){.items = NULL};
}

void *table_at(const struct table *t, int i)
{
    return t->items + (size_t)i * t->item_bytes;
}

/* FNV-1a over words, with a mixing step at the end: keys are mostly pointers, whose low bits are alike. */
static uint64_t hash(const void *key, size_t n)
{
    uint64_t h = FNV_START, word;
    for (size_t i = 0; i + sizeof word <= n; i += sizeof word) {
        memcpy(&word, (const char *)key + i, sizeof word);
        h = fnv_step(h, word);
        h ^= h >> 29;
    }
    return h ^ h >> 32;
}

/* Where the key stands, or could stand. */
static int *slot(const struct table *t, const void *key)
{
    const uint64_t mask = (uint64_t)t->n_slots - 1;
    for (uint64_t at = hash(key, t->key_bytes) & mask;; at = (at + 1) & mask) {
        int *s = &t->slots[at];
        if (*s == 0 || memcmp(table_at(t, *s - 1), key, t->key_bytes) == 0)
            return s;
    }
}

static void grow(struct table *t)
{
    t->n_slots = t->n_slots ? 2 * t->n_slots : 64;
    free(t->slots);
    t->slots = spw_calloc((size_t)t->n_slots, sizeof *t->slots);
    for (int i = 0; i < t->n; i++)
        *slot(t, table_at(t, i)) = i + 1;
}

void *table_get(struct table *t, const void *key, int max)
{
    if (2 * t->n >= t->n_slots)
        grow(t);
    int *s = slot(t, key);
    if (*s)
        return table_at(t, *s - 1);
    if (t->n >= max)
        return NULL;
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 32;
        t->items = spw_realloc(t->items, (size_t)t->cap * t->item_bytes);
    }
    void *item = table_at(t, t->n);
    memset(item, 0, t->item_bytes);
    memcpy(item, key, t->key_bytes);
    *s = ++t->n;
    return item;
}

/* ---- texts ------------------------------------------------------------------------------------------------------- */

static const char **text_slot(const struct texts *t, const char *text)
{
    const uint64_t mask = (uint64_t)t->n_slots - 1;
    const uint64_t h = fnv_text(FNV_START, text);
    for (uint64_t at = (h ^ h >> 32) & mask;; at = (at + 1) & mask)
        if (!t->slots[at] || strcmp(t->slots[at], text) == 0)
            return &t->slots[at];
}

const char *texts_get(struct texts *t, struct arena *arena, const char *text)
{
    if (2 * t->n >= t->n_slots) {
        const struct texts old = *t;
        t->n_slots = old.n_slots ? 2 * old.n_slots : 256;
        t->slots = spw_calloc((size_t)t->n_slots, sizeof *t->slots);
        for (int i = 0; i < old.n_slots; i++)
            if (old.slots[i])
                *text_slot(t, old.slots[i]) = old.slots[i];
        free(old.slots);
    }
    const char **s = text_slot(t, text);
    if (!*s) {
        *s = arena_strndup(arena, text, strlen(text));
        SPW_ASSERT(*s); /* the arena has no bound but the memory */
        t->n++;
    }
    return *s;
}

void texts_free(struct texts *t)
{
    free(t->slots);
    *t = (struct texts){.slots = NULL};
}
