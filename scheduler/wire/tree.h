/* A node's answer in JSON as a flat tree of places in it: one strict pass, no copies, nodes in one array that is used
 * again and again.
 *
 * Beside base/json.h because a cache must not lose what cJSON loses: integers past 2^53, the spelling of numbers, and
 * U+0000 or lone surrogates in strings, which a model may well say. Accepts exactly RFC 8259 with the bounds below;
 * whether bytes of 0x80 and more are UTF-8 is not checked (answers are checked elsewhere, and equal bytes stay equal
 * bytes). Pure; one thread per tree. */
#ifndef SCHEDULER_WIRE_TREE_H
#define SCHEDULER_WIRE_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"

#define TREE_BYTES_MAX ((size_t)32 << 20)
#define TREE_NODES_MAX 262144u /* 10 MiB of nodes: no chat comes near, a list of a million numbers is refused */
#define TREE_DEPTH_MAX 64

struct bytes {
    const char *p; /* borrowed */
    size_t n;
};

enum tree_type { TREE_OBJECT, TREE_ARRAY, TREE_STRING, TREE_NUMBER, TREE_TRUE, TREE_FALSE, TREE_NULL };

struct tree_node {
    uint32_t key, key_n;  /* of a member: inside its quotes, as written; 0, 0 for elements and the root */
    uint32_t start, n;    /* of the value; a string's with its quotes */
    uint32_t child, next; /* index of the first child, of the next sibling; 0: none (the root is nobody's) */
    uint32_t count;       /* of children */
    uint8_t type;
};

struct tree {
    const char *text;        /* borrowed from the caller of tree_parse() */
    struct tree_node *nodes; /* owned; [0] is the root */
    uint32_t n, cap;
};

void tree_init(struct tree *t);
void tree_fini(struct tree *t);
/* RC_INVALID: not JSON, or nested deeper than TREE_DEPTH_MAX; RC_FULL: over a bound. The tree is empty then. `text`
 * must live as long as the tree is looked at. */
enum rc tree_parse(struct tree *t, const char *text, size_t n) SPW_MUST_USE;

/* Walking. NULL is a fine node everywhere: it has no members and is of no type. Keys compare as written: one that hides
 * behind escapes is another key. */
const struct tree_node *tree_root(const struct tree *t);
const struct tree_node *tree_first(const struct tree *t, const struct tree_node *parent);
const struct tree_node *tree_next(const struct tree *t, const struct tree_node *node);
const struct tree_node *tree_find(const struct tree *t, const struct tree_node *object, const char *key);
bool tree_is(const struct tree_node *node, enum tree_type type);
/* Missing, null, or an empty string, array or object. */
bool tree_is_empty(const struct tree_node *node);
/* Here, so that the compiler knows the length of a literal. */
static inline bool bytes_are(struct bytes b, const char *text)
{
    size_t n = strlen(text);
    return b.n == n && memcmp(b.p, text, n) == 0;
}
static inline bool tree_key_is(const struct tree *t, const struct tree_node *node, const char *key)
{
    return bytes_are((struct bytes){t->text + node->key, node->key_n}, key);
}
struct bytes tree_text(const struct tree *t, const struct tree_node *node);   /* the value as written; n 0: missing */
struct bytes tree_inside(const struct tree *t, const struct tree_node *node); /* of a string, without its quotes */

#endif
