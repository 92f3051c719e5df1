#include "scheduler/config/change.h"

#include <stdlib.h>
#include <string.h>

#include "providers/provider.h"
#include "scheduler/config/config_internal.h"

#define KEYS_TEXT_MAX ((size_t)4096)

const char *config_change_name(enum config_change_kind k)
{
    switch (k) {
    case CONFIG_ADDED: return "added";
    case CONFIG_REMOVED: return "removed";
    case CONFIG_CHANGED: return "changed";
    }
    return "unknown";
}

/* ---- values ----------------------------------------------------------------------------------------------------- */

static const char *text_at(const void *base, size_t offset)
{
    return *(const char *const *)((const char *)base + offset);
}

static int int_at(const void *base, size_t offset)
{
    return *(const int *)((const char *)base + offset);
}

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool same_words(const struct setting *s, const void *a, const void *b)
{
    const char **p = *(const char ***)((const char *)a + s->offset),
               **q = *(const char ***)((const char *)b + s->offset);
    int n = int_at(a, s->count_offset);
    if (n != int_at(b, s->count_offset))
        return false;
    for (int i = 0; i < n; i++) {
        if (strcmp(p[i], q[i]) != 0)
            return false;
    }
    return true;
}

static bool same_pairs(const struct setting *s, const void *a, const void *b)
{
    const struct provider_pair *p = *(struct provider_pair *const *)((const char *)a + s->offset),
                               *q = *(struct provider_pair *const *)((const char *)b + s->offset);
    int n = int_at(a, s->count_offset);
    if (n != int_at(b, s->count_offset))
        return false;
    for (int i = 0; i < n; i++) {
        if (strcmp(p[i].key, q[i].key) != 0 || strcmp(p[i].value, q[i].value) != 0)
            return false;
    }
    return true;
}

static size_t size_of(enum setting_type type)
{
    switch (type) {
    case SETTING_BOOL:
    case SETTING_EITHER: return sizeof(bool);
    case SETTING_CHOICE:
    case SETTING_RATIO:
    case SETTING_INT: return sizeof(int);
    case SETTING_DURATION:
    case SETTING_SIZE: return sizeof(int64_t);
    case SETTING_PRICE: return sizeof(struct price);
    case SETTING_TEXT:
    case SETTING_PATH: return sizeof(char *);
    case SETTING_WORDS: return sizeof(char **);
    case SETTING_PAIRS: return sizeof(struct provider_pair *);
    }
    return 0;
}

static bool same_value(const struct setting *s, const void *a, const void *b)
{
    if (s->type == SETTING_WORDS)
        return same_words(s, a, b);
    if (s->type == SETTING_PAIRS)
        return same_pairs(s, a, b);
    if (s->type == SETTING_TEXT || s->type == SETTING_PATH)
        return same_text(text_at(a, s->offset), text_at(b, s->offset));
    return memcmp((const char *)a + s->offset, (const char *)b + s->offset, size_of(s->type)) == 0;
}

static const char *keep_text(struct config *to, const char *text)
{
    return text ? arena_strndup(to->arena, text, strlen(text)) : NULL;
}

static void copy_value(const struct setting *s, struct config *to, const struct config *from)
{
    char *field = (char *)to + s->offset;
    if (s->type == SETTING_TEXT || s->type == SETTING_PATH) {
        *(const char **)field = keep_text(to, text_at(from, s->offset));
    } else if (s->type == SETTING_WORDS) {
        int n = int_at(from, s->count_offset);
        const char **words = arena_alloc(to->arena, sizeof(char *) * (size_t)(n + 1));
        for (int i = 0; i < n; i++)
            words[i] = keep_text(to, (*(const char ***)((const char *)from + s->offset))[i]);
        *(const char ***)field = words;
        *(int *)((char *)to + s->count_offset) = n;
    } else {
        memcpy(field, (const char *)from + s->offset, size_of(s->type));
    }
}

/* ---- the file itself -------------------------------------------------------------------------------------------- */

static int main_changes(const struct config *from, const struct config *to, config_change_cb *each, void *arg)
{
    const struct settings *t = config_tables[CONFIG_TABLE_MAIN];
    int n = 0;
    for (int i = 0; i < t->n_rows; i++) {
        const struct setting *s = &t->rows[i];
        if (same_value(s, from, to))
            continue;
        n++;
        struct config_change change = {
            .name = s->key, .kind = CONFIG_CHANGED, .keys = "", .needs_restart = !(s->flags & SETTING_RELOAD)};
        if (each)
            each(&change, arg);
    }
    return n;
}

bool config_settings_differ(const struct config *from, const struct config *to, const char *prefix)
{
    const struct settings *t = config_tables[CONFIG_TABLE_MAIN];
    for (int i = 0; i < t->n_rows; i++) {
        if (strncmp(t->rows[i].key, prefix, strlen(prefix)) == 0 && !same_value(&t->rows[i], from, to))
            return true;
    }
    return false;
}

void config_keep(struct config *to, const struct config *from)
{
    const struct settings *t = config_tables[CONFIG_TABLE_MAIN];
    for (int i = 0; i < t->n_rows; i++) {
        if (!(t->rows[i].flags & SETTING_RELOAD) && !same_value(&t->rows[i], from, to))
            copy_value(&t->rows[i], to, from);
    }
}

/* ---- lists ------------------------------------------------------------------------------------------------------ */

/* Its first row names an item. */
static const char *name_of(const struct settings *t, const void *item)
{
    return text_at(item, t->rows[0].offset);
}

struct entry { /* what is sorted */
    const char *name;
    const void *item;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

/* Owned by the caller. Sorted, so that ten thousand keys are not a hundred million comparisons. */
static struct entry *sorted_items(const struct settings *t, const struct config *c, int *n)
{
    const char *items = text_at(c, t->items_offset);
    *n = int_at(c, t->count_offset);
    struct entry *entries = spw_calloc((size_t)*n + 1, sizeof *entries);
    for (int i = 0; i < *n; i++) {
        const void *item = items + t->item_size * (size_t)i;
        entries[i] = (struct entry){name_of(t, item), item};
    }
    qsort(entries, (size_t)*n, sizeof *entries, by_name);
    return entries;
}

/* The keys in which two items differ. */
static void list_keys(const struct settings *t, const void *a, const void *b, struct strbuf *keys)
{
    strbuf_clear(keys);
    for (int i = 0; i < t->n_rows; i++) {
        if (!same_value(&t->rows[i], a, b)) /* full: the rest goes unnamed */
            (void)strbuf_printf(keys, "%s%s", keys->len ? ", " : "", t->rows[i].key);
    }
}

static int list_changes(const struct settings *t, const struct config *from, const struct config *to,
                        config_change_cb *each, void *arg)
{
    int n_old, n_new, count = 0;
    struct entry *old = sorted_items(t, from, &n_old), *new = sorted_items(t, to, &n_new);
    struct strbuf keys;
    strbuf_init(&keys, KEYS_TEXT_MAX);
    for (int i = 0, k = 0; i < n_old || k < n_new;) {
        int order = i == n_old ? 1 : k == n_new ? -1 : strcmp(old[i].name, new[k].name);
        struct config_change change = {.list = t->name, .name = order <= 0 ? old[i].name : new[k].name, .keys = ""};
        change.kind = order < 0 ? CONFIG_REMOVED : order > 0 ? CONFIG_ADDED : CONFIG_CHANGED;
        if (order == 0) {
            list_keys(t, old[i].item, new[k].item, &keys);
            change.keys = keys.len ? keys.data : "";
        }
        i += order <= 0;
        k += order >= 0;
        if (order == 0 && !keys.len)
            continue;
        count++;
        if (each)
            each(&change, arg);
    }
    strbuf_fini(&keys);
    free(old);
    free(new);
    return count;
}

bool config_list_differs(const struct config *from, const struct config *to, const char *list)
{
    for (int k = CONFIG_TABLE_MAIN + 1; k < CONFIG_N_TABLES; k++) {
        if (strcmp(config_tables[k]->name, list) == 0)
            return list_changes(config_tables[k], from, to, NULL, NULL) > 0;
    }
    SPW_ASSERT(!"a list of the schema");
    return false;
}

int config_changes(const struct config *from, const struct config *to, config_change_cb *each, void *arg)
{
    int n = main_changes(from, to, each, arg);
    for (int k = CONFIG_TABLE_MAIN + 1; k < CONFIG_N_TABLES; k++)
        n += list_changes(config_tables[k], from, to, each, arg);
    return n;
}

bool config_node_same(const struct config_node *a, const struct config_node *b)
{
    const struct settings *t = config_tables[CONFIG_TABLE_NODES];
    for (int i = 0; i < t->n_rows; i++) {
        if (!(t->rows[i].flags & SETTING_RELOAD) && !same_value(&t->rows[i], a, b))
            return false;
    }
    return true;
}
