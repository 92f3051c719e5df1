/* XML answers of cloud APIs as a small tree, read by expat. Bounded: depth, nodes, memory. A document type
 * declaration is refused, so there are no entities but the five of XML itself and character references: nothing is
 * fetched, nothing can multiply. Attributes, comments, processing instructions and namespace prefixes are dropped:
 * nothing here needs them. Pure, any thread. */
#ifndef PROVIDERS_XML_H
#define PROVIDERS_XML_H

#include "base/alloc.h"

#define XML_DEPTH_MAX 32
#define XML_NODES_MAX 400000             /* 1,000 instances with all that EC2 tells of each: some 150,000 */
#define XML_BYTES_MAX ((size_t)64 << 20) /* of the tree */

struct xml_node {
    const char *name; /* without a prefix; never NULL */
    const char *text; /* of an element without elements inside: as written. Else "". Never NULL */
    struct xml_node *child, *next;
};

struct xml {
    struct arena *arena;   /* owned */
    struct xml_node *root; /* never NULL */
};

/* RC_INVALID: not well-formed, or refused (the text says what and in which line); RC_FULL: past a bound. On failure
 * nothing is held. */
enum rc xml_parse(struct xml *x, const char *text, size_t n, struct error *e) SPW_MUST_USE;
void xml_fini(struct xml *x); /* {0} is fine */

/* The first element by a path of names, "instancesSet/item", or NULL; also NULL for a NULL node. */
const struct xml_node *xml_find(const struct xml_node *n, const char *path);
/* The next sibling of the same name, or NULL. */
const struct xml_node *xml_next(const struct xml_node *n);
/* The text of the first element by that path; "" where there is none. Never NULL. */
const char *xml_text(const struct xml_node *n, const char *path);

/* NOLINTNEXTLINE(bugprone-macro-parentheses): item is a name that is declared */
#define xml_each(item, node, path) for (const struct xml_node *item = xml_find(node, path); item; item = xml_next(item))

#endif
