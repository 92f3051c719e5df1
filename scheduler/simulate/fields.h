/* A YAML map into a struct, by a table: one row per key. Unknown keys, wrong types and values out of bounds are errors
 * that say "file:line: key: what is wrong, what would be right"; the first one ends the reading. */
#ifndef SCHEDULER_SIMULATE_FIELDS_H
#define SCHEDULER_SIMULATE_FIELDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/alloc.h"
#include "base/yaml.h"

enum field_type {
    FIELD_TEXT,     /* const char *, in the arena */
    FIELD_BOOL,     /* bool */
    FIELD_INT,      /* int32_t, lo..hi */
    FIELD_DOUBLE,   /* double, lo..hi */
    FIELD_DURATION, /* int64_t microseconds; "500ms", "2s", "10m", "1h", also "30d" */
    FIELD_DOLLARS,  /* struct pusd */
    FIELD_PRICE,    /* struct price: dollars per million tokens */
    FIELD_TIME,     /* int64_t Unix seconds, UTC */
    FIELD_CHOICE,   /* int32_t: index in `words` */
    FIELD_MAP,      /* a struct: `nested` */
    FIELD_LIST,     /* struct field_list of structs: `nested` */
    FIELD_TEXTS,    /* struct field_list of const char * */
};
struct field_table;
struct field {
    const char *key;
    enum field_type type;
    size_t offset;
    double lo, hi;            /* both 0: any finite */
    const char *const *words; /* NULL-terminated */
    const struct field_table *nested;
    bool required;
};
struct field_table {
    const struct field *fields;
    int n;
    size_t size;          /* of the struct */
    size_t line_offset;   /* of an int in it: where it stands in the file */
    const void *defaults; /* of items of a list; NULL: zeroes */
};
struct field_list {
    void *items; /* in the arena */
    int n;
};

/* *out holds the defaults before. */
enum rc fields_read(const struct yaml_node *map, const struct field_table *t, void *out, const char *file,
                    struct arena *a, struct error *e) SPW_MUST_USE;

#endif
