#include "scheduler/wire/tree.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"

#define NODES_FIRST 24u /* a small one, which malloc has at hand */

void tree_init(struct tree *t)
{
    memset(t, 0, sizeof *t);
}

void tree_fini(struct tree *t)
{
    free(t->nodes);
    memset(t, 0, sizeof *t);
}

struct parser {
    struct tree *t;
    const char *start, *at, *end;
    uint32_t parents[TREE_DEPTH_MAX], lasts[TREE_DEPTH_MAX]; /* open containers and the newest child of each */
    int depth;
};

static void skip_blanks(struct parser *p)
{
    /* Nearly always there are none, which one comparison finds. */
    while (p->at < p->end && (unsigned char)*p->at <= ' ' &&
           (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r'))
        p->at++;
}

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool skip_escape(struct parser *p)
{
    p->at++; /* the backslash */
    if (p->at == p->end)
        return false;
    char c = *p->at++;
    if (c != 'u')
        return strchr("\"\\/bfnrt", c) && c != '\0';
    for (int i = 0; i < 4; i++, p->at++) {
        if (p->at == p->end || !is_hex(*p->at))
            return false;
    }
    return true;
}

/* Past the string at p->at. */
static bool skip_string(struct parser *p)
{
    if (p->at == p->end || *p->at != '"')
        return false;
    p->at++;
    while (p->at < p->end) {
        p->at += json_plain_bytes(p->at, p->end);
        if (p->at == p->end)
            break;
        unsigned char c = (unsigned char)*p->at;
        if (c == '"') {
            p->at++;
            return true;
        }
        if (c < 0x20)
            return false;
        if (c != '\\')
            p->at++;
        else if (!skip_escape(p))
            return false;
    }
    return false;
}

static bool skip_digits(struct parser *p)
{
    const char *from = p->at;
    while (p->at < p->end && *p->at >= '0' && *p->at <= '9')
        p->at++;
    return p->at > from;
}

static bool skip_number(struct parser *p)
{
    if (p->at < p->end && *p->at == '-')
        p->at++;
    if (p->at < p->end && *p->at == '0')
        p->at++;
    else if (!skip_digits(p))
        return false;
    if (p->at < p->end && *p->at == '.') {
        p->at++;
        if (!skip_digits(p))
            return false;
    }
    if (p->at < p->end && (*p->at == 'e' || *p->at == 'E')) {
        p->at++;
        if (p->at < p->end && (*p->at == '+' || *p->at == '-'))
            p->at++;
        return skip_digits(p);
    }
    return true;
}

static bool skip_word(struct parser *p, const char *word)
{
    size_t n = strlen(word);
    if ((size_t)(p->end - p->at) < n || memcmp(p->at, word, n) != 0)
        return false;
    p->at += n;
    return true;
}

/* A new node at the end of the array, linked to its parent; NULL at the bound. */
static struct tree_node *add_node(struct parser *p)
{
    struct tree *t = p->t;
    if (t->n == TREE_NODES_MAX)
        return NULL;
    if (t->n == t->cap) {
        t->cap = t->cap ? t->cap * 2 : NODES_FIRST;
        t->nodes = spw_realloc(t->nodes, t->cap * sizeof *t->nodes);
    }
    uint32_t index = t->n++;
    memset(&t->nodes[index], 0, sizeof t->nodes[index]);
    if (p->depth) {
        uint32_t *last = &p->lasts[p->depth - 1];
        struct tree_node *parent = &t->nodes[p->parents[p->depth - 1]];
        if (*last)
            t->nodes[*last].next = index;
        else
            parent->child = index;
        parent->count++;
        *last = index;
    }
    return &t->nodes[index];
}

/* "key": before a member's value. */
static bool take_key(struct parser *p, struct tree_node *node)
{
    const char *from = p->at;
    if (!skip_string(p))
        return false;
    node->key = (uint32_t)(from + 1 - p->start);
    node->key_n = (uint32_t)(p->at - from - 2);
    skip_blanks(p);
    if (p->at == p->end || *p->at != ':')
        return false;
    p->at++;
    skip_blanks(p);
    return true;
}

static bool take_scalar(struct parser *p, struct tree_node *node)
{
    switch (*p->at) {
    case '"': node->type = TREE_STRING; return skip_string(p);
    case 't': node->type = TREE_TRUE; return skip_word(p, "true");
    case 'f': node->type = TREE_FALSE; return skip_word(p, "false");
    case 'n': node->type = TREE_NULL; return skip_word(p, "null");
    default: node->type = TREE_NUMBER; return skip_number(p);
    }
}

/* One value. A container is opened only: its children follow from the outer loop. */
static enum rc take_value(struct parser *p)
{
    struct tree_node *node = add_node(p);
    if (!node)
        return RC_FULL;
    if (p->depth && p->t->nodes[p->parents[p->depth - 1]].type == TREE_OBJECT && !take_key(p, node))
        return RC_INVALID;
    if (p->at == p->end)
        return RC_INVALID;
    node->start = (uint32_t)(p->at - p->start);
    if (*p->at == '{' || *p->at == '[') {
        if (p->depth == TREE_DEPTH_MAX)
            return RC_INVALID;
        node->type = *p->at == '{' ? TREE_OBJECT : TREE_ARRAY;
        p->lasts[p->depth] = 0;
        p->parents[p->depth++] = (uint32_t)(node - p->t->nodes);
        p->at++;
        return RC_OK;
    }
    if (!take_scalar(p, node))
        return RC_INVALID;
    node->n = (uint32_t)(p->at - p->start) - node->start;
    return RC_OK;
}

/* Behind a value or an opening bracket: closes what ends here. True: a further value must follow. */
static bool close_ended(struct parser *p, enum rc *rc)
{
    while (p->depth) {
        struct tree_node *open = &p->t->nodes[p->parents[p->depth - 1]];
        skip_blanks(p);
        if (p->at < p->end && *p->at == (open->type == TREE_OBJECT ? '}' : ']')) {
            p->at++;
            open->n = (uint32_t)(p->at - p->start) - open->start;
            p->depth--;
            continue;
        }
        if (open->count) {
            if (p->at == p->end || *p->at != ',') {
                *rc = RC_INVALID;
                return false;
            }
            p->at++;
            skip_blanks(p);
        }
        return true;
    }
    return false;
}

enum rc tree_parse(struct tree *t, const char *text, size_t n)
{
    struct parser p = {.t = t, .start = text, .at = text, .end = text + n};
    t->text = text;
    t->n = 0;
    if (n > TREE_BYTES_MAX)
        return RC_FULL;
    if (!n)
        return RC_INVALID;
    enum rc rc;
    skip_blanks(&p);
    do {
        rc = take_value(&p);
    } while (rc == RC_OK && close_ended(&p, &rc));
    skip_blanks(&p);
    if (rc == RC_OK && p.at != p.end)
        rc = RC_INVALID;
    if (rc != RC_OK)
        t->n = 0;
    return rc;
}

const struct tree_node *tree_root(const struct tree *t)
{
    return t->n ? t->nodes : NULL;
}

const struct tree_node *tree_first(const struct tree *t, const struct tree_node *parent)
{
    return parent && parent->child ? &t->nodes[parent->child] : NULL;
}

const struct tree_node *tree_next(const struct tree *t, const struct tree_node *node)
{
    return node->next ? &t->nodes[node->next] : NULL;
}

const struct tree_node *tree_find(const struct tree *t, const struct tree_node *object, const char *key)
{
    size_t n = strlen(key);
    if (!tree_is(object, TREE_OBJECT))
        return NULL;
    for (const struct tree_node *m = tree_first(t, object); m; m = tree_next(t, m)) {
        if (m->key_n == n && memcmp(t->text + m->key, key, n) == 0)
            return m;
    }
    return NULL;
}

bool tree_is(const struct tree_node *node, enum tree_type type)
{
    return node && node->type == type;
}

bool tree_is_empty(const struct tree_node *node)
{
    if (!node || node->type == TREE_NULL)
        return true;
    if (node->type == TREE_STRING)
        return node->n == 2;
    return (node->type == TREE_OBJECT || node->type == TREE_ARRAY) && node->count == 0;
}

struct bytes tree_text(const struct tree *t, const struct tree_node *node)
{
    return node ? (struct bytes){t->text + node->start, node->n} : (struct bytes){0};
}

struct bytes tree_inside(const struct tree *t, const struct tree_node *node)
{
    return tree_is(node, TREE_STRING) ? (struct bytes){t->text + node->start + 1, node->n - 2} : (struct bytes){0};
}
