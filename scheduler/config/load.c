/* From YAML to struct config by the schema: types, bounds, defaults, unknown keys. Every mistake is noted and loading
 * goes on, so that one run shows all of them; conditions across settings are check.c's. */
#include "scheduler/config/config_internal.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "providers/provider.h"

#define CONFIG_WORDS_MAX 1000
#define CONFIG_BYTES_MAX ((size_t)256 << 20) /* of everything the configuration owns */

/* Was something wrong with this key, or with what it is part of, when it was read? */
static bool is_consequence(const struct config_loader *l, const char *key)
{
    for (int i = 0; i < l->n_loaded; i++) {
        size_t n = strlen(l->problems[i].key);
        if (strncmp(key, l->problems[i].key, n) == 0 && (key[n] == '\0' || key[n] == '.'))
            return true;
    }
    return false;
}

void config_problem(struct config_loader *l, int line, const char *key, const char *format, ...)
{
    char what[768];
    va_list args;

    if (is_consequence(l, key))
        return;
    if (l->n_problems == CONFIG_PROBLEMS_MAX) {
        l->n_more++;
        return;
    }
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    struct config_problem *p = &l->problems[l->n_problems];
    p->line = line;
    p->key = spw_strdup(key);
    p->order = l->n_problems++;
    if (line > 0)
        p->text = spw_asprintf("%s:%d: %s: %s", l->file, line, key, what);
    else
        p->text = spw_asprintf("%s: %s: %s", l->file, key, what);
}

char *config_strdup(struct config_loader *l, const char *s)
{
    return arena_strndup(l->c->arena, s, strlen(s));
}

const char *config_path(struct config_loader *l, const char *path)
{
    if (path[0] == '/' || l->dir[0] == '\0')
        return config_strdup(l, path);
    return arena_printf(l->c->arena, "%s/%s", l->dir, path);
}

/* --- values ------------------------------------------------------------------------------------------------- */

/* Where one value goes and what it is called in messages. */
struct target {
    const struct setting *row;
    const char *key; /* "nodes[1].price.input" */
    int line;
    char *base; /* the struct being filled */
};

static void out_of_bounds(struct config_loader *l, const struct target *t, const char *text)
{
    char lo[32], hi[32];
    const struct setting *s = t->row;

    if (s->type == SETTING_DURATION) {
        text_format_duration_ms(s->lo, lo, sizeof lo);
        text_format_duration_ms(s->hi, hi, sizeof hi);
    } else if (s->type == SETTING_SIZE) {
        text_format_size(s->lo, lo, sizeof lo);
        text_format_size(s->hi, hi, sizeof hi);
    } else {
        snprintf(lo, sizeof lo, "%" PRId64, s->lo);
        snprintf(hi, sizeof hi, "%" PRId64, s->hi);
    }
    config_problem(l, t->line, t->key, "%.40s is out of range; %s to %s is allowed", text, lo, hi);
}

static bool set_number(struct config_loader *l, const struct target *t, const char *text)
{
    static const char *const forms[] = {[SETTING_INT] = "a whole number, as in 8",
                                        [SETTING_DURATION] = "a duration, as in 500ms, 2s or 5m",
                                        [SETTING_SIZE] = "a size, as in 4096, 64KiB or 32MiB"};
    int64_t v = 0;
    enum rc rc;

    if (t->row->choices && strcmp(text, t->row->choices[0]) == 0) {
        *(int *)(t->base + t->row->offset) = 0;
        return true;
    }
    if (t->row->type == SETTING_DURATION)
        rc = text_parse_duration_ms(text, &v);
    else if (t->row->type == SETTING_SIZE)
        rc = text_parse_size(text, &v);
    else
        rc = text_parse_int(text, t->row->lo, t->row->hi, &v);
    if (rc == RC_INVALID) {
        config_problem(l, t->line, t->key, "\"%.80s\" is not %s", text, forms[t->row->type]);
        return false;
    }
    if (rc == RC_FULL || v < t->row->lo || v > t->row->hi) {
        out_of_bounds(l, t, text);
        return false;
    }
    if (t->row->type == SETTING_INT)
        *(int *)(t->base + t->row->offset) = (int)v;
    else
        *(int64_t *)(t->base + t->row->offset) = v;
    return true;
}

static bool set_word(struct config_loader *l, const struct target *t, const char *text)
{
    const char *const *words = t->row->choices;
    char list[160] = "";
    int n = 0;

    for (; words[n]; n++) {
        if (strcmp(words[n], text) == 0) {
            if (t->row->type == SETTING_EITHER)
                *(bool *)(t->base + t->row->offset) = n == 1;
            else
                *(int *)(t->base + t->row->offset) = n;
            return true;
        }
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", n ? ", " : "", words[n]);
    }
    const char *near = text_nearest(text, words, n);
    if (near)
        config_problem(l, t->line, t->key, "\"%.80s\" is unknown; did you mean \"%s\"? (%s)", text, near, list);
    else
        config_problem(l, t->line, t->key, "\"%.80s\" is unknown; one of %s is right", text, list);
    return false;
}

static bool set_price(struct config_loader *l, const struct target *t, const char *text)
{
    struct error e;

    if (price_parse(text, (struct price *)(t->base + t->row->offset), &e) == RC_OK)
        return true;
    config_problem(l, t->line, t->key,
                   "\"%.40s\" is not a price; dollars per million tokens, at most 6 decimals, "
                   "as in 0.55",
                   text);
    return false;
}

/* A decimal of at most 6 digits, which is how prices are written, too. */
static bool set_ratio(struct config_loader *l, const struct target *t, const char *text)
{
    struct price p;
    struct error e;

    if (price_parse(text, &p, &e) == RC_OK && p.uusd_per_mtok <= 1000000) {
        *(int *)(t->base + t->row->offset) = (int)p.uusd_per_mtok;
        return true;
    }
    config_problem(l, t->line, t->key, "\"%.40s\" is not a share; 0 to 1 with at most 6 decimals, as in 0.01", text);
    return false;
}

static bool set_bool(struct config_loader *l, const struct target *t, const char *text)
{
    bool *field = (bool *)(t->base + t->row->offset);

    if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0) {
        config_problem(l, t->line, t->key, "\"%.80s\" is neither true nor false", text);
        return false;
    }
    *field = text[0] == 't';
    return true;
}

/* One scalar into its field. False: a problem was noted and the default stands. */
static bool set_scalar(struct config_loader *l, const struct target *t, const char *text)
{
    const char **field = (const char **)(t->base + t->row->offset);

    switch (t->row->type) {
    case SETTING_TEXT: *field = config_strdup(l, text); return true;
    case SETTING_PATH: *field = config_path(l, text); return true;
    case SETTING_BOOL: return set_bool(l, t, text);
    case SETTING_EITHER:
    case SETTING_CHOICE: return set_word(l, t, text);
    case SETTING_INT:
    case SETTING_DURATION:
    case SETTING_SIZE: return set_number(l, t, text);
    case SETTING_PRICE: return set_price(l, t, text);
    case SETTING_RATIO: return set_ratio(l, t, text);
    case SETTING_WORDS:
    case SETTING_PAIRS: break;
    }
    SPW_ASSERT(!"a scalar's type");
    return false;
}

/* Texts end up in headers, log lines, paths and requests to nodes: a line break in one is nobody's intention. The bad
 * value is not quoted, it would break the message as well. */
static bool is_printable(struct config_loader *l, int line, const char *key, const char *text)
{
    size_t i = 0;

    while (text[i] && (unsigned char)text[i] >= ' ' && text[i] != 0x7f)
        i++;
    if (!text[i])
        return true;
    config_problem(l, line, key, "there is a control character (0x%02x) at place %zu; write it without",
                   (unsigned char)text[i], i + 1);
    return false;
}

static bool is_empty(const struct yaml_node *v)
{
    return v->kind == YAML_KIND_SCALAR && v->plain &&
           (v->scalar[0] == '\0' || strcmp(v->scalar, "~") == 0 || strcmp(v->scalar, "null") == 0);
}

/* A list of words, or one word alone. */
static bool set_words(struct config_loader *l, const struct target *t, const struct yaml_node *v)
{
    struct yaml_node *const one = (struct yaml_node *)v, *const *items = v->kind == YAML_KIND_LIST ? v->items : &one;
    int n = v->kind == YAML_KIND_LIST ? v->n_items : 1;
    const char **words = arena_alloc(l->c->arena, sizeof(char *) * (size_t)(n + 1));

    if (v->kind == YAML_KIND_MAP) {
        config_problem(l, t->line, t->key, "this must be a list of names, as in [a, b]");
        return false;
    }
    if (n > CONFIG_WORDS_MAX) {
        config_problem(l, t->line, t->key, "%d entries; up to %d are allowed", n, CONFIG_WORDS_MAX);
        return false;
    }
    for (int i = 0; i < n; i++) {
        if (items[i]->kind != YAML_KIND_SCALAR || is_empty(items[i])) {
            config_problem(l, items[i]->line, t->key, "every entry must be a name");
            return false;
        }
        if (!is_printable(l, items[i]->line, t->key, items[i]->scalar))
            return false;
        words[i] = config_strdup(l, items[i]->scalar);
    }
    *(const char ***)(t->base + t->row->offset) = words;
    *(int *)(t->base + t->row->count_offset) = n;
    return true;
}

/* A list's words with commas between them. NULL: a problem was noted. */
static const char *pair_value(struct config_loader *l, const char *key, const struct yaml_node *v, int line)
{
    const char *text = NULL;
    if (v->kind == YAML_KIND_SCALAR && !is_empty(v))
        return is_printable(l, line, key, v->scalar) ? config_strdup(l, v->scalar) : NULL;
    for (int i = 0; v->kind == YAML_KIND_LIST && i < v->n_items; i++) {
        const struct yaml_node *word = v->items[i];
        if (word->kind != YAML_KIND_SCALAR || is_empty(word) || strchr(word->scalar, ',')) {
            config_problem(l, word->line, key, "every entry must be a word without a comma");
            return NULL;
        }
        if (!is_printable(l, word->line, key, word->scalar))
            return NULL;
        text = text ? arena_printf(l->c->arena, "%s,%s", text, word->scalar) : config_strdup(l, word->scalar);
    }
    if (!text)
        config_problem(l, line, key, "this must be one value, or a list of words");
    return text;
}

/* Keys of which only a provider knows what they mean: that is checked in capacity.c. */
static void set_pairs(struct config_loader *l, const struct target *t, const struct yaml_node *v)
{
    char key[192];
    if (v->kind != YAML_KIND_MAP) {
        config_problem(l, t->line, t->key, "this is a section; write its keys indented below it");
        return;
    }
    if (v->n_items > CONFIG_PAIRS_MAX) {
        config_problem(l, t->line, t->key, "%d keys; up to %d are allowed", v->n_items, CONFIG_PAIRS_MAX);
        return;
    }
    struct provider_pair *pairs = arena_alloc(l->c->arena, sizeof *pairs * (size_t)(v->n_items + 1));
    int n = 0;
    for (int i = 0; i < v->n_items; i++) {
        snprintf(key, sizeof key, "%s.%.60s", t->key, v->keys[i]);
        const char *value = pair_value(l, key, v->items[i], v->key_lines[i]);
        if (value)
            pairs[n++] = (struct provider_pair){config_strdup(l, v->keys[i]), value};
    }
    *(struct provider_pair **)(t->base + t->row->offset) = pairs;
    *(int *)(t->base + t->row->count_offset) = n;
}

static void set_value(struct config_loader *l, const struct settings *table, int row, struct target *t,
                      const struct yaml_node *v)
{
    char why[512];

    t->row = &table->rows[row];
    ((int *)(t->base + table->lines_offset))[row] = t->line; /* also of a wrong value: required keys were given */
    if (is_empty(v)) {
        config_problem(l, t->line, t->key, "there is no value; give one or leave the line out");
        return;
    }
    if (t->row->type == SETTING_WORDS || t->row->type == SETTING_PAIRS) {
        if (t->row->type == SETTING_WORDS)
            set_words(l, t, v);
        else
            set_pairs(l, t, v);
        return;
    }
    if (v->kind != YAML_KIND_SCALAR) {
        config_problem(l, t->line, t->key, "this must be one value, not a %s",
                       v->kind == YAML_KIND_LIST ? "list" : "section");
        return;
    }
    if (v->scalar[0] == '\0') {
        config_problem(l, t->line, t->key, "the value is empty; give one or leave the line out");
        return;
    }
    if (!is_printable(l, t->line, t->key, v->scalar))
        return;
    if (set_scalar(l, t, v->scalar) && t->row->check && !t->row->check(t->base + t->row->offset, why, sizeof why))
        config_problem(l, t->line, t->key, "%s", why);
}

/* --- defaults ----------------------------------------------------------------------------------------------- */

static void set_defaults(struct config_loader *l, const struct settings *table, void *base)
{
    int before = l->n_problems;

    for (int i = 0; i < table->n_rows; i++) {
        struct target t = {.row = &table->rows[i], .key = table->rows[i].key, .base = base};
        if (t.row->def)
            set_scalar(l, &t, t.row->def);
    }
    SPW_ASSERT(l->n_problems == before); /* the table's own defaults are well-formed */
}

/* --- maps, lists and unknown keys --------------------------------------------------------------------------- */

static void load_list(struct config_loader *l, const struct settings *table, const struct yaml_node *v, int line);

/* The words known right under `prefix` ("" or "tls."), each once. Returns how many. */
static int known_words(const struct settings *table, const char *prefix, const char **words, char (*store)[64], int max)
{
    size_t n_prefix = strlen(prefix);
    int n = 0;

    for (int i = 0; i < table->n_rows && n < max; i++) {
        const char *key = table->rows[i].key;
        if (strncmp(key, prefix, n_prefix) != 0)
            continue;
        snprintf(store[n], 64, "%.*s", (int)strcspn(key + n_prefix, "."), key + n_prefix);
        if (n == 0 || strcmp(store[n - 1], store[n]) != 0) { /* rows of one section stand together */
            words[n] = store[n];
            n++;
        }
    }
    for (int i = CONFIG_TABLE_MAIN + 1; i < CONFIG_N_TABLES && n < max && !table->name; i++) {
        const char *name = config_tables[i]->name;
        if (strncmp(name, prefix, n_prefix) == 0 && !strchr(name + n_prefix, '.'))
            words[n++] = name + n_prefix;
    }
    return n;
}

/* Does `path` ("tls") name a section of the table? */
static bool is_section(const struct settings *table, const char *path)
{
    size_t n = strlen(path);

    for (int i = 0; i < table->n_rows; i++)
        if (strncmp(table->rows[i].key, path, n) == 0 && table->rows[i].key[n] == '.')
            return true;
    return false;
}

static void unknown_key(struct config_loader *l, const struct settings *table, const char *prefix, const char *word,
                        const char *shown, int line)
{
    const char *words[CONFIG_SETTINGS_MAX + CONFIG_N_TABLES];
    char store[CONFIG_SETTINGS_MAX + CONFIG_N_TABLES][64], list[400] = "";
    int n = known_words(table, prefix, words, store, CONFIG_SETTINGS_MAX);
    const char *near = text_nearest(word, words, n);

    /* Right word, wrong section? That is nearer than any other word. */
    for (int i = 0; i < table->n_rows; i++) {
        const char *dot = strrchr(table->rows[i].key, '.');
        if (dot && strcmp(dot + 1, word) == 0) {
            config_problem(l, line, shown, "unknown key; did you mean \"%s\" in the section \"%.*s\"?", word,
                           (int)(dot - table->rows[i].key), table->rows[i].key);
            return;
        }
    }
    if (near) {
        config_problem(l, line, shown, "unknown key; did you mean \"%s\"?", near);
        return;
    }
    if (*prefix && is_section(table, word)) {
        config_problem(l, line, shown, "unknown key; \"%s\" is a section at the top of the file", word);
        return;
    }
    for (int i = 0; i < n; i++) {
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", words[i]);
    }
    config_problem(l, line, shown, "unknown key; known here: %s", list);
}

/* "auth: off" for "auth: {mode: off}": the row that a word alone in place of the section means, or -1. */
static int row_in_short(const struct settings *table, const char *path)
{
    char key[160];
    snprintf(key, sizeof key, "%s.mode", path);
    return config_row(table, key);
}

/* The list of that path from the top of the file, or NULL. */
static const struct settings *find_list(const struct settings *table, const char *path)
{
    for (int i = CONFIG_TABLE_MAIN + 1; i < CONFIG_N_TABLES && !table->name; i++)
        if (config_tables[i]->name && strcmp(config_tables[i]->name, path) == 0)
            return config_tables[i];
    return NULL;
}

/* Every key of one map. prefix: path inside the table, with its dot; shown: the same for messages, from the top. */
static void load_map(struct config_loader *l, const struct settings *table, const struct yaml_node *map,
                     const char *prefix, const char *shown, char *base)
{
    for (int i = 0; i < map->n_items; i++) {
        char path[128], name[192];
        const struct yaml_node *v = map->items[i];
        snprintf(path, sizeof path, "%s%.60s", prefix, map->keys[i]);
        snprintf(name, sizeof name, "%s%.60s", shown, map->keys[i]);
        struct target t = {.key = name, .line = map->key_lines[i], .base = base};
        const struct settings *list = find_list(table, path);
        int row = config_row(table, path);

        if ((row >= 0 || list) && strchr(map->keys[i], '.')) { /* one notation, so that nothing can be said twice */
            config_problem(l, t.line, name, "write it nested: \"%s\" in the section \"%.*s\"", strrchr(name, '.') + 1,
                           (int)(strrchr(path, '.') - path), path);
        } else if (row >= 0) {
            set_value(l, table, row, &t, v);
        } else if (list) {
            load_list(l, list, v, t.line);
        } else if (!is_section(table, path)) {
            unknown_key(l, table, prefix, map->keys[i], name, t.line);
        } else if (v->kind == YAML_KIND_MAP) {
            snprintf(path + strlen(path), sizeof path - strlen(path), ".");
            snprintf(name + strlen(name), sizeof name - strlen(name), ".");
            load_map(l, table, v, path, name, base);
        } else if (v->kind == YAML_KIND_SCALAR && !is_empty(v) && row_in_short(table, path) >= 0) {
            set_value(l, table, row_in_short(table, path), &t, v);
        } else if (!is_empty(v)) { /* a section whose lines are all commented out is fine */
            config_problem(l, t.line, name, "this is a section; write its keys indented below it");
        }
    }
}

static void check_required(struct config_loader *l, const struct settings *table, const char *shown, const char *base,
                           int line)
{
    const int *lines = (const int *)(base + table->lines_offset);
    char name[192];

    for (int i = 0; i < table->n_rows; i++) {
        if (!(table->rows[i].flags & SETTING_REQUIRED) || lines[i])
            continue;
        snprintf(name, sizeof name, "%s%s", shown, table->rows[i].key);
        config_problem(l, line, name, "this is missing; every entry of %s needs it", table->name);
    }
}

static void load_list(struct config_loader *l, const struct settings *table, const struct yaml_node *v, int line)
{
    char shown[64];

    if (is_empty(v))
        return;
    if (v->kind != YAML_KIND_LIST) {
        config_problem(l, line, table->name, "this must be a list; start each entry with \"- \"");
        return;
    }
    if (v->n_items > table->items_max) {
        config_problem(l, line, table->name, "%d entries; up to %d are allowed", v->n_items, table->items_max);
        return;
    }
    char *items = arena_alloc(l->c->arena, table->item_size * (size_t)(v->n_items + 1));
    *(void **)((char *)l->c + table->items_offset) = items;
    *(int *)((char *)l->c + table->count_offset) = v->n_items;
    for (int i = 0; i < v->n_items; i++) {
        char *base = items + table->item_size * (size_t)i;
        *(int *)(base + table->line_offset) = v->items[i]->line;
        set_defaults(l, table, base);
        snprintf(shown, sizeof shown, "%s[%d].", table->name, i);
        if (v->items[i]->kind == YAML_KIND_MAP) {
            load_map(l, table, v->items[i], "", shown, base);
            check_required(l, table, shown, base, v->items[i]->line);
        } else {
            shown[strlen(shown) - 1] = '\0';
            config_problem(l, v->items[i]->line, shown, "an entry of %s is a section of keys, as in \"- %s: ...\"",
                           table->name, table->rows[0].key);
        }
    }
}

/* --- the file ----------------------------------------------------------------------------------------------- */

static int by_line(const void *a, const void *b)
{
    const struct config_problem *p = a, *q = b;
    int pl = p->line ? p->line : INT32_MAX, ql = q->line ? q->line : INT32_MAX; /* of no line: last */

    return pl != ql ? (pl < ql ? -1 : 1) : p->order - q->order;
}

/* Hand the problems over in order of lines. RC_FULL of the caller's buffer cuts the list, not the verdict. */
static void report(struct config_loader *l, struct strbuf *out)
{
    qsort(l->problems, (size_t)l->n_problems, sizeof l->problems[0], by_line);
    for (int i = 0; i < l->n_problems; i++) {
        (void)strbuf_printf(out, "%s\n", l->problems[i].text);
        free(l->problems[i].text);
        free(l->problems[i].key);
    }
    if (l->n_more)
        (void)strbuf_printf(out, "%s: %d more mistakes\n", l->file, l->n_more);
}

/* What defaults depend on other settings. */
static void derive(struct config_loader *l)
{
    struct config *c = l->c;
    int cached = config_row(config_tables[CONFIG_TABLE_NODES], "price.cached_input");

    if (!c->admin_socket)
        c->admin_socket = arena_printf(c->arena, "%s/admin.sock", c->state_dir);
    if (!c->ledger_path)
        c->ledger_path = arena_printf(c->arena, "%s/ledger.db", c->state_dir);
    if (!c->ledger_spool)
        c->ledger_spool = arena_printf(c->arena, "%s/ledger.spool", c->state_dir);
    if (!c->audit.dir)
        c->audit.dir = arena_printf(c->arena, "%s/audit", c->state_dir);
    if (!c->audit.key)
        c->audit.key = arena_printf(c->arena, "%s/key.pem", c->audit.dir);
    if (!c->reports.folder)
        c->reports.folder = arena_printf(c->arena, "%s/reports", c->state_dir);
    for (int i = 0; i < c->n_nodes; i++)
        if (!c->nodes[i].lines[cached])
            c->nodes[i].prices.cached_input = c->nodes[i].prices.input;
    cached = config_row(config_tables[CONFIG_TABLE_POOLS], "price.cached_input");
    for (int i = 0; i < c->n_pools; i++) {
        c->pools[i].node.pool = &c->pools[i];
        c->pools[i].node.line = c->pools[i].line;
        if (!c->pools[i].lines[cached])
            c->pools[i].node.prices.cached_input = c->pools[i].node.prices.input;
    }
}

static enum rc build(struct config **out, const struct yaml_doc *doc, const char *name, const char *dir,
                     struct strbuf *problems)
{
    struct arena *arena = arena_new(CONFIG_BYTES_MAX);
    struct config_problem *list = spw_calloc(CONFIG_PROBLEMS_MAX, sizeof *list);
    struct config_loader l = {.c = arena_alloc(arena, sizeof *l.c), .file = name, .dir = dir, .problems = list};
    const struct settings *top = config_tables[CONFIG_TABLE_MAIN];
    const struct yaml_node *root = yaml_root(doc);

    l.c->arena = arena;
    l.c->refs = 1;
    l.c->path = config_strdup(&l, name);
    set_defaults(&l, top, l.c);
    if (root->kind == YAML_KIND_MAP)
        load_map(&l, top, root, "", "", (char *)l.c);
    else
        config_problem(&l, root->line, "file", "the file must be keys with values, as in \"listen: 127.0.0.1:8080\"");
    derive(&l);
    l.n_loaded = l.n_problems;
    config_check(&l);
    report(&l, problems);
    free(list);
    if (l.n_problems) {
        config_free(l.c);
        return RC_INVALID;
    }
    *out = l.c;
    return RC_OK;
}

enum rc config_parse(struct config **c, const char *text, size_t n, const char *name, struct strbuf *problems)
{
    struct yaml_doc *doc = NULL;
    struct error e;
    enum rc rc = yaml_parse(&doc, text, n, name, &e);

    *c = NULL;
    if (rc != RC_OK) {
        (void)strbuf_printf(problems, "%s\n", e.message);
        return rc;
    }
    rc = build(c, doc, name, "", problems);
    yaml_doc_free(doc);
    return rc;
}

enum rc config_load(struct config **c, const char *path, struct strbuf *problems)
{
    struct yaml_doc *doc = NULL;
    struct error e;
    enum rc rc = yaml_load(&doc, path, &e);
    const char *slash = strrchr(path, '/');

    *c = NULL;
    if (rc != RC_OK) {
        (void)strbuf_printf(problems, "%s\n", e.message);
        return rc;
    }
    char *dir = spw_strndup(path, slash ? (size_t)(slash - path) : 0);
    if (slash == path) { /* "/spillway.yaml": its folder is the root */
        free(dir);
        dir = spw_strdup("/.");
    }
    rc = build(c, doc, path, dir, problems);
    free(dir);
    yaml_doc_free(doc);
    return rc;
}

bool config_node_serves(const struct config_node *n, const char *model)
{
    for (int i = 0; i < n->n_models; i++) {
        if (strcmp(n->models[i], model) == 0)
            return true;
    }
    return false;
}

struct config *config_ref(const struct config *c)
{
    struct config *counted = (struct config *)c; /* read-only but for the count */
    __atomic_fetch_add(&counted->refs, 1, __ATOMIC_RELAXED);
    return counted;
}

void config_free(struct config *c)
{
    if (c && __atomic_sub_fetch(&c->refs, 1, __ATOMIC_ACQ_REL) == 0)
        arena_free(c->arena); /* c itself lives in it */
}
