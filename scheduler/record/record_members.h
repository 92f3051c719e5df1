/* Members of plain structs as rows of a table: to write them as JSON, to read them, to compare them bit by bit. */
#ifndef SCHEDULER_RECORD_RECORD_MEMBERS_H
#define SCHEDULER_RECORD_RECORD_MEMBERS_H

#include "base/json.h"
#include "base/json_write.h"

enum member_type {
    MEMBER_BOOL,
    MEMBER_I16,
    MEMBER_I32,
    MEMBER_U32,
    MEMBER_I64,
    MEMBER_DOUBLE,
    MEMBER_WORD,
    MEMBER_TEXT
};
struct member {
    const char *name;
    enum member_type type;
    uint16_t offset;
    uint16_t bytes;             /* TEXT: of the array, with the NUL */
    const char *(*word)(int v); /* WORD: an enum's names, NULL after the last */
    int64_t lo, hi;             /* integers; equal: anything that fits */
};
struct members {
    const struct member *rows;
    int n;
};

/* Members of an open object; what is zero is left out. */
void members_write(struct json_writer *w, const struct members *f, const void *from);
/* One member by its key: RC_NOT_FOUND: no row has this name. *from: the row to look at first, moved on. */
enum rc members_read_one(const cJSON *item, const struct members *f, int *from, void *to, struct error *e) SPW_MUST_USE;
/* A whole object that has no other members. *to is zeroed first, bytes of it. */
enum rc members_read(const cJSON *object, const struct members *f, void *to, size_t bytes,
                     struct error *e) SPW_MUST_USE;
/* The first row in which they differ, or NULL. */
const struct member *members_differ(const struct members *f, const void *a, const void *b);
void member_print(const struct member *row, const void *from, char *text, size_t size);

#endif
