/* expat's callbacks build the tree; the first thing that is not wanted stops it. */
#include "providers/xml.h"

#include <expat.h>
#include <string.h>

struct open_node {
    struct xml_node *node, *last; /* last: of its children */
};

struct builder {
    XML_Parser parser;
    struct arena *arena;
    struct open_node open[XML_DEPTH_MAX];
    int depth, nodes;
    struct strbuf text; /* of the innermost element so far */
    struct xml_node *root;
    enum rc rc;
    const char *why;
};

static void refuse(struct builder *b, enum rc rc, const char *why)
{
    if (b->rc != RC_OK)
        return;
    b->rc = rc;
    b->why = why;
    XML_StopParser(b->parser, XML_FALSE);
}

static const char *local_name(const char *name)
{
    const char *colon = strrchr(name, ':');
    return colon ? colon + 1 : name;
}

static void on_start(void *arg, const char *name, const char **attributes)
{
    struct builder *b = arg;
    (void)attributes;
    if (b->depth == XML_DEPTH_MAX || ++b->nodes > XML_NODES_MAX) {
        refuse(b, RC_FULL, b->depth == XML_DEPTH_MAX ? "is nested too deep" : "has too many elements");
        return;
    }
    struct xml_node *n = arena_alloc(b->arena, sizeof(*n));
    name = local_name(name);
    const char *own = n ? arena_strndup(b->arena, name, strlen(name)) : NULL;
    if (!own) {
        refuse(b, RC_FULL, "is too large");
        return;
    }
    *n = (struct xml_node){.name = own, .text = ""};
    strbuf_clear(&b->text);
    if (b->depth == 0) {
        b->root = n;
    } else {
        struct open_node *up = &b->open[b->depth - 1];
        *(up->last ? &up->last->next : &up->node->child) = n;
        up->last = n;
    }
    b->open[b->depth++] = (struct open_node){.node = n};
}

static void on_end(void *arg, const char *name)
{
    struct builder *b = arg;
    (void)name;
    if (b->rc != RC_OK)
        return;
    struct xml_node *n = b->open[--b->depth].node;
    if (!n->child && b->text.len > 0) {
        n->text = arena_strndup(b->arena, b->text.data, b->text.len);
        if (!n->text)
            refuse(b, RC_FULL, "is too large");
    }
    strbuf_clear(&b->text);
}

static void on_text(void *arg, const char *text, int n)
{
    struct builder *b = arg;
    if (b->rc == RC_OK && strbuf_append(&b->text, text, (size_t)n) != RC_OK)
        refuse(b, RC_FULL, "has too long a text");
}

static void on_doctype(void *arg, const char *name, const char *system, const char *public, int has_subset)
{
    (void)name;
    (void)system;
    (void)public;
    (void)has_subset;
    refuse(arg, RC_INVALID, "has a document type declaration, which no answer needs");
}

static enum rc build(struct builder *b, const char *text, size_t n, struct error *e)
{
    XML_SetUserData(b->parser, b);
    XML_SetElementHandler(b->parser, on_start, on_end);
    XML_SetCharacterDataHandler(b->parser, on_text);
    XML_SetStartDoctypeDeclHandler(b->parser, on_doctype);
    if (n > XML_BYTES_MAX)
        return error_set(e, RC_FULL, "XML is too large: %zu bytes", n);
    enum XML_Status status = XML_Parse(b->parser, text, (int)n, XML_TRUE);
    unsigned long line = XML_GetCurrentLineNumber(b->parser);
    if (b->rc != RC_OK)
        return error_set(e, b->rc, "XML %s (line %lu)", b->why, line);
    if (status != XML_STATUS_OK)
        return error_set(e, RC_INVALID, "not well-formed XML: %s (line %lu)",
                         XML_ErrorString(XML_GetErrorCode(b->parser)), line);
    return RC_OK;
}

enum rc xml_parse(struct xml *x, const char *text, size_t n, struct error *e)
{
    struct builder b = {.parser = XML_ParserCreate(NULL), .arena = arena_new(XML_BYTES_MAX)};
    SPW_ASSERT(b.parser);
    strbuf_init(&b.text, XML_BYTES_MAX / 4);
    enum rc rc = build(&b, text, n, e);
    XML_ParserFree(b.parser);
    strbuf_fini(&b.text);
    *x = (struct xml){0};
    if (rc != RC_OK) {
        arena_free(b.arena);
        return rc;
    }
    *x = (struct xml){.arena = b.arena, .root = b.root};
    return RC_OK;
}

void xml_fini(struct xml *x)
{
    arena_free(x->arena);
    *x = (struct xml){0};
}

static const struct xml_node *named(const struct xml_node *n, const char *name, size_t len)
{
    while (n && (strncmp(n->name, name, len) != 0 || n->name[len]))
        n = n->next;
    return n;
}

const struct xml_node *xml_find(const struct xml_node *n, const char *path)
{
    while (n && *path) {
        size_t len = strcspn(path, "/");
        n = named(n->child, path, len);
        path += len + (path[len] == '/');
    }
    return n;
}

const struct xml_node *xml_next(const struct xml_node *n)
{
    return named(n->next, n->name, strlen(n->name));
}

const char *xml_text(const struct xml_node *n, const char *path)
{
    n = xml_find(n, path);
    return n ? n->text : "";
}
