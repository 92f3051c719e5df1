#include "base/yaml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/alloc.h"
#include "base/file.h"

#define YAML_BYTES_MAX ((size_t)4 << 20)
#define YAML_DEPTH_MAX 32

struct yaml_doc {
    struct arena *arena; /* owns every node */
    struct yaml_node *root;
};

/* The recursion's state: libyaml's event stream and where texts go. */
struct reader {
    yaml_parser_t parser;
    struct arena *arena;
    const char *name;
    struct error *e;
};

static void *take(struct reader *r, size_t bytes)
{
    void *p = arena_alloc(r->arena, bytes);
    SPW_ASSERT(p); /* the text's bound keeps the tree's far below the arena's */
    return p;
}

static enum rc complain(struct reader *r, int line, const char *what)
{
    return error_set(r->e, RC_INVALID, "%s:%d: %s", r->name, line, what);
}

static enum rc next_event(struct reader *r, yaml_event_t *event)
{
    if (yaml_parser_parse(&r->parser, event))
        return RC_OK;
    const char *problem = r->parser.problem ? r->parser.problem : "cannot be read";
    return error_set(r->e, RC_INVALID, "%s:%d: not YAML: %s", r->name, (int)r->parser.problem_mark.line + 1, problem);
}

static int line_of(const yaml_event_t *event)
{
    return (int)event->start_mark.line + 1;
}

/* Children while they are being collected. */
struct children {
    struct yaml_node **items;
    const char **keys;
    int *key_lines;
    int n, cap;
};

static void children_free(struct children *c)
{
    free(c->items);
    free(c->keys);
    free(c->key_lines);
}

static void children_add(struct children *c, struct yaml_node *item, const char *key, int key_line)
{
    if (c->n == c->cap) {
        c->cap = c->cap ? c->cap * 2 : 8;
        c->items = spw_realloc(c->items, (size_t)c->cap * sizeof(struct yaml_node *));
        c->keys = spw_realloc(c->keys, (size_t)c->cap * sizeof *c->keys);
        c->key_lines = spw_realloc(c->key_lines, (size_t)c->cap * sizeof *c->key_lines);
    }
    c->items[c->n] = item;
    c->keys[c->n] = key;
    c->key_lines[c->n] = key_line;
    c->n++;
}

/* Move what was collected into the arena. */
static void children_store(struct reader *r, struct children *c, struct yaml_node *node)
{
    size_t n = (size_t)c->n;
    node->n_items = c->n;
    if (!n)
        return;
    node->items = memcpy(take(r, n * sizeof(struct yaml_node *)), c->items, n * sizeof(struct yaml_node *));
    if (node->kind == YAML_KIND_MAP) {
        node->keys = memcpy(take(r, n * sizeof *c->keys), c->keys, n * sizeof *c->keys);
        node->key_lines = memcpy(take(r, n * sizeof *c->key_lines), c->key_lines, n * sizeof *c->key_lines);
    }
}

static enum rc read_node(struct reader *r, yaml_event_t *event, int depth, struct yaml_node **out);

static enum rc read_list(struct reader *r, int depth, struct yaml_node *node)
{
    struct children c = {0};
    enum rc rc;
    for (;;) {
        yaml_event_t event;
        rc = next_event(r, &event);
        if (rc != RC_OK)
            break;
        bool end = event.type == YAML_SEQUENCE_END_EVENT;
        struct yaml_node *item = NULL;
        if (!end)
            rc = read_node(r, &event, depth + 1, &item);
        yaml_event_delete(&event);
        if (end || rc != RC_OK)
            break;
        children_add(&c, item, NULL, 0);
    }
    if (rc == RC_OK)
        children_store(r, &c, node);
    children_free(&c);
    return rc;
}

static enum rc read_key(struct reader *r, const yaml_event_t *event, const struct children *c, const char **key)
{
    int line = line_of(event);
    if (event->type != YAML_SCALAR_EVENT)
        return complain(r, line, "a key must be a plain word");
    const char *text = (const char *)event->data.scalar.value;
    size_t n = event->data.scalar.length;
    if (strlen(text) != n)
        return complain(r, line, "NUL byte in a key");
    for (int i = 0; i < c->n; i++) {
        if (strcmp(c->keys[i], text) == 0)
            return error_set(r->e, RC_INVALID, "%s:%d: %s: given twice, first at line %d", r->name, line, text,
                             c->key_lines[i]);
    }
    *key = memcpy(take(r, n + 1), text, n + 1);
    return RC_OK;
}

static enum rc read_map(struct reader *r, int depth, struct yaml_node *node)
{
    struct children c = {0};
    enum rc rc;
    for (;;) {
        yaml_event_t event;
        rc = next_event(r, &event);
        if (rc != RC_OK)
            break;
        if (event.type == YAML_MAPPING_END_EVENT) {
            yaml_event_delete(&event);
            break;
        }
        const char *key = NULL;
        int line = line_of(&event);
        rc = read_key(r, &event, &c, &key);
        yaml_event_delete(&event);
        if (rc != RC_OK || (rc = next_event(r, &event)) != RC_OK)
            break;
        struct yaml_node *value = NULL;
        rc = read_node(r, &event, depth + 1, &value);
        yaml_event_delete(&event);
        if (rc != RC_OK)
            break;
        children_add(&c, value, key, line);
    }
    if (rc == RC_OK)
        children_store(r, &c, node);
    children_free(&c);
    return rc;
}

static enum rc read_scalar(struct reader *r, const yaml_event_t *event, struct yaml_node *node)
{
    const char *text = (const char *)event->data.scalar.value;
    size_t n = event->data.scalar.length;
    if (event->data.scalar.anchor || event->data.scalar.tag)
        return complain(r, node->line, "anchors and tags are not used here; write the value out");
    if (strlen(text) != n)
        return complain(r, node->line, "NUL byte in a value");
    node->kind = YAML_KIND_SCALAR;
    node->plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    node->scalar = memcpy(take(r, n + 1), text, n + 1);
    return RC_OK;
}

static enum rc read_node(struct reader *r, yaml_event_t *event, int depth, struct yaml_node **out)
{
    struct yaml_node *node = take(r, sizeof *node);
    node->line = line_of(event);
    *out = node;
    if (depth > YAML_DEPTH_MAX)
        return complain(r, node->line, "nested too deep");
    switch (event->type) {
    case YAML_SCALAR_EVENT: return read_scalar(r, event, node);
    case YAML_SEQUENCE_START_EVENT:
        if (event->data.sequence_start.anchor || event->data.sequence_start.tag)
            return complain(r, node->line, "anchors and tags are not used here; write the list out");
        node->kind = YAML_KIND_LIST;
        return read_list(r, depth, node);
    case YAML_MAPPING_START_EVENT:
        if (event->data.mapping_start.anchor || event->data.mapping_start.tag)
            return complain(r, node->line, "anchors and tags are not used here; write the section out");
        node->kind = YAML_KIND_MAP;
        return read_map(r, depth, node);
    case YAML_ALIAS_EVENT: return complain(r, node->line, "aliases are not used here; write the value out");
    default: return complain(r, node->line, "a value was expected here");
    }
}

/* STREAM-START DOCUMENT-START node DOCUMENT-END STREAM-END, and nothing else. */
static enum rc read_stream(struct reader *r, struct yaml_node **root)
{
    bool done = false;
    enum rc rc = RC_OK;
    while (!done && rc == RC_OK) {
        yaml_event_t event;
        rc = next_event(r, &event);
        if (rc != RC_OK)
            break;
        switch (event.type) {
        case YAML_STREAM_START_EVENT:
        case YAML_DOCUMENT_END_EVENT: break;
        case YAML_STREAM_END_EVENT: done = true; break;
        case YAML_DOCUMENT_START_EVENT:
            if (*root)
                rc = complain(r, line_of(&event), "a second document; one per file");
            break;
        default: rc = read_node(r, &event, 0, root); break;
        }
        yaml_event_delete(&event);
    }
    return rc;
}

enum rc yaml_parse(struct yaml_doc **d, const char *text, size_t n, const char *name, struct error *e)
{
    *d = NULL;
    if (n > YAML_BYTES_MAX)
        return error_set(e, RC_FULL, "%s: larger than %zu bytes", name, YAML_BYTES_MAX);
    struct yaml_doc *doc = spw_calloc(1, sizeof *doc);
    doc->arena = arena_new((size_t)1 << 30);
    struct reader r = {.arena = doc->arena, .name = name, .e = e};
    if (!yaml_parser_initialize(&r.parser)) {
        yaml_doc_free(doc);
        return error_set(e, RC_INTERNAL, "%s: the YAML parser could not start", name);
    }
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, n);
    enum rc rc = read_stream(&r, &doc->root);
    yaml_parser_delete(&r.parser);
    if (rc != RC_OK) {
        yaml_doc_free(doc);
        return rc;
    }
    if (!doc->root || (doc->root->kind == YAML_KIND_SCALAR && !doc->root->scalar[0])) {
        doc->root = take(&r, sizeof *doc->root);
        doc->root->kind = YAML_KIND_MAP;
        doc->root->line = 1;
    }
    *d = doc;
    return RC_OK;
}

enum rc yaml_load(struct yaml_doc **d, const char *path, struct error *e)
{
    struct strbuf text;
    *d = NULL;
    enum rc rc = file_read(&text, path, YAML_BYTES_MAX, e);
    if (rc == RC_OK)
        rc = yaml_parse(d, text.data ? text.data : "", text.len, path, e);
    strbuf_fini(&text);
    return rc;
}

void yaml_doc_free(struct yaml_doc *d)
{
    if (!d)
        return;
    arena_free(d->arena);
    free(d);
}

const struct yaml_node *yaml_root(const struct yaml_doc *d)
{
    return d->root;
}

const struct yaml_node *yaml_get(const struct yaml_node *map, const char *key)
{
    for (int i = 0; map && map->kind == YAML_KIND_MAP && i < map->n_items; i++) {
        if (strcmp(map->keys[i], key) == 0)
            return map->items[i];
    }
    return NULL;
}
