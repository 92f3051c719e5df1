/* YAML on libyaml: a small tree with line numbers, so that every later complaint can say file:line. Anchors, aliases
 * and tags are refused (a config file needs none, and alias bombs need bounds). Duplicate keys are errors. */
#ifndef BASE_YAML_H
#define BASE_YAML_H

#include <stddef.h>

#include "base/error.h"

enum yaml_kind { YAML_KIND_SCALAR, YAML_KIND_LIST, YAML_KIND_MAP };

struct yaml_node {
    enum yaml_kind kind;
    int line;                 /* 1-based */
    bool plain;               /* a scalar without quotes: may be a number, bool or null */
    const char *scalar;       /* scalars */
    struct yaml_node **items; /* lists: n_items; maps: the values */
    const char **keys;        /* maps */
    int *key_lines;
    int n_items;
};
struct yaml_doc;
/* name is used in errors ("file:line: ..."). At most 4 MiB, depth 32. An empty file is an empty map. */
enum rc yaml_parse(struct yaml_doc **d, const char *text, size_t n, const char *name, struct error *e) SPW_MUST_USE;
enum rc yaml_load(struct yaml_doc **d, const char *path, struct error *e) SPW_MUST_USE;
void yaml_doc_free(struct yaml_doc *d); /* yaml_free is libyaml's own */
const struct yaml_node *yaml_root(const struct yaml_doc *d);
const struct yaml_node *yaml_get(const struct yaml_node *map, const char *key); /* NULL when missing */

#endif
