#include "scheduler/simulate/fields.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/money.h"
#include "base/text.h"

#define LIST_MAX  100000
#define WORDS_MAX 96

struct place { /* for complaints */
    const char *file, *key;
    int line;
};

static enum rc wrong(const struct place *p, struct error *e, const char *what)
{
    return error_set(e, RC_INVALID, "%s:%d: %s: %s", p->file, p->line, p->key, what);
}

static enum rc read_duration(const char *text, int64_t *us)
{
    size_t n = strlen(text);
    int64_t v;
    char *end;

    if (n > 2 && strcmp(text + n - 2, "us") == 0) {
        v = strtoll(text, &end, 10);
        *us = v;
        return end == text + n - 2 && v >= 0 ? RC_OK : RC_INVALID;
    }
    if (n > 1 && text[n - 1] == 'd') {
        v = strtoll(text, &end, 10);
        *us = v * INT64_C(86400000000);
        return end == text + n - 1 && v >= 0 && v <= 36500 ? RC_OK : RC_INVALID;
    }
    enum rc rc = text_parse_duration_ms(text, &v);
    *us = v * 1000;
    return rc == RC_OK && v > INT64_C(36500) * 86400000 ? RC_FULL : rc;
}

static enum rc read_number(const struct place *p, const struct field *f, const char *text, double *v, struct error *e)
{
    char *end, what[128];

    *v = strtod(text, &end);
    if (end == text || *end || !isfinite(*v)) {
        snprintf(what, sizeof what, "\"%.40s\" is not a number", text);
        return wrong(p, e, what);
    }
    if ((f->lo != 0 || f->hi != 0) && (*v < f->lo || *v > f->hi)) {
        snprintf(what, sizeof what, "%.40s is out of bounds; %.10g to %.10g is allowed", text, f->lo, f->hi);
        return wrong(p, e, what);
    }
    if (f->type == FIELD_INT && *v != floor(*v))
        return wrong(p, e, "a whole number is wanted");
    return RC_OK;
}

static enum rc read_choice(const struct place *p, const struct field *f, const char *text, int32_t *v, struct error *e)
{
    char what[256];
    size_t n = 0;

    for (*v = 0; f->words[*v]; ++*v)
        if (strcmp(f->words[*v], text) == 0)
            return RC_OK;
    n = (size_t)snprintf(what, sizeof what, "\"%.40s\" is none; there are", text);
    for (int i = 0; f->words[i] && n < sizeof what; i++)
        n += (size_t)snprintf(what + n, sizeof what - n, "%s %s", i ? "," : "", f->words[i]);
    return wrong(p, e, what);
}

static enum rc read_scalar(const struct place *p, const struct field *f, const char *text, void *at, struct arena *a,
                           struct error *e)
{
    struct error why;
    double number;
    enum rc rc;

    switch (f->type) {
    case FIELD_TEXT:
        *(const char **)at = arena_strndup(a, text, strlen(text));
        return *(const char **)at ? RC_OK : wrong(p, e, "the file is too large");
    case FIELD_BOOL:
        *(bool *)at = strcmp(text, "true") == 0 || strcmp(text, "on") == 0;
        return *(bool *)at || strcmp(text, "false") == 0 || strcmp(text, "off") == 0
                   ? RC_OK
                   : wrong(p, e, "true or false is wanted");
    case FIELD_INT:
        rc = read_number(p, f, text, &number, e);
        *(int32_t *)at = rc == RC_OK ? (int32_t)fmax(-2147483647.0, fmin(2147483647.0, number)) : 0;
        return rc;
    case FIELD_DOUBLE:
        rc = read_number(p, f, text, &number, e);
        *(double *)at = number;
        return rc;
    case FIELD_DURATION:
        return read_duration(text, at) == RC_OK ? RC_OK : wrong(p, e, "write a duration: 500ms, 2s, 10m, 1h, 30d");
    case FIELD_DOLLARS: return pusd_parse(text, at, &why) == RC_OK ? RC_OK : wrong(p, e, why.message);
    case FIELD_PRICE: return price_parse(text, at, &why) == RC_OK ? RC_OK : wrong(p, e, why.message);
    case FIELD_TIME:
        return text_parse_utc(text, at) == RC_OK
                   ? RC_OK
                   : wrong(p, e, "write a time: 2024-03-05 or 2024-03-05T12:00:00Z (UTC)");
    default: return read_choice(p, f, text, at, e);
    }
}

static enum rc read_list(const struct place *p, const struct field *f, const struct yaml_node *v,
                         struct field_list *list, struct arena *a, struct error *e)
{
    size_t size = f->type == FIELD_TEXTS ? sizeof(const char *) : f->nested->size;

    if (v->kind != YAML_KIND_LIST)
        return wrong(p, e, "a list is wanted");
    if (v->n_items > LIST_MAX)
        return wrong(p, e, "the list is too long");
    list->n = v->n_items;
    list->items = arena_alloc(a, size * (size_t)(v->n_items ? v->n_items : 1));
    if (!list->items)
        return wrong(p, e, "the file is too large");
    for (int i = 0; i < v->n_items; i++) {
        char *item = (char *)list->items + size * (size_t)i;
        struct place at = {p->file, p->key, v->items[i]->line};
        enum rc rc;
        if (f->type == FIELD_LIST) {
            if (f->nested->defaults)
                memcpy(item, f->nested->defaults, size);
            rc = fields_read(v->items[i], f->nested, item, p->file, a, e);
        } else if (v->items[i]->kind != YAML_KIND_SCALAR) {
            rc = wrong(&at, e, "a list of words is wanted");
        } else {
            const struct field text = {.type = FIELD_TEXT};
            rc = read_scalar(&at, &text, v->items[i]->scalar, item, a, e);
        }
        if (rc != RC_OK)
            return rc;
    }
    return RC_OK;
}

static enum rc read_field(const struct place *p, const struct field *f, const struct yaml_node *v, char *out,
                          struct arena *a, struct error *e)
{
    if (f->type == FIELD_MAP)
        return fields_read(v, f->nested, out + f->offset, p->file, a, e);
    if (f->type == FIELD_LIST || f->type == FIELD_TEXTS)
        return read_list(p, f, v, (struct field_list *)(void *)(out + f->offset), a, e);
    if (v->kind != YAML_KIND_SCALAR)
        return wrong(p, e, "one value is wanted, no list or map");
    return read_scalar(p, f, v->scalar, out + f->offset, a, e);
}

static enum rc unknown(const struct place *p, const struct field_table *t, struct error *e)
{
    const char *names[WORDS_MAX], *near;
    int n = t->n < WORDS_MAX ? t->n : WORDS_MAX;
    char what[128];

    for (int i = 0; i < n; i++)
        names[i] = t->fields[i].key;
    near = text_nearest(p->key, names, n);
    snprintf(what, sizeof what, near ? "no such key; did you mean %s?" : "no such key", near);
    return wrong(p, e, what);
}

enum rc fields_read(const struct yaml_node *map, const struct field_table *t, void *out, const char *file,
                    struct arena *a, struct error *e)
{
    if (map->kind != YAML_KIND_MAP)
        return error_set(e, RC_INVALID, "%s:%d: a map is wanted here: key: value", file, map->line);
    *(int *)(void *)((char *)out + t->line_offset) = map->line;
    for (int k = 0; k < map->n_items; k++) {
        struct place p = {file, map->keys[k], map->key_lines[k]};
        const struct field *f = NULL;
        for (int i = 0; i < t->n && !f; i++)
            if (strcmp(t->fields[i].key, map->keys[k]) == 0)
                f = &t->fields[i];
        enum rc rc = f ? read_field(&p, f, map->items[k], out, a, e) : unknown(&p, t, e);
        if (rc != RC_OK)
            return rc;
    }
    for (int i = 0; i < t->n; i++)
        if (t->fields[i].required && !yaml_get(map, t->fields[i].key))
            return error_set(e, RC_INVALID, "%s:%d: %s is missing", file, map->line, t->fields[i].key);
    return RC_OK;
}
