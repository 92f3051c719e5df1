/* What verify.c (reads, and is satisfied where all is well) and verify_detail.c (says what is not) share. */
#ifndef SCHEDULER_AUDIT_VERIFY_INTERNAL_H
#define SCHEDULER_AUDIT_VERIFY_INTERNAL_H

#include "scheduler/audit/verify.h"

/* One line of a segment, as far as it can be told what it is. */
struct seen {
    int64_t claimed; /* its number; 0: it is no record */
    int64_t truth;   /* the number that it had when it was written; 0: we have not written it, or it can't be told */
    struct audit_hash hash, content;
    uint8_t mac[AUDIT_MAC_BYTES];
    bool is_seal, hash_is_wrong;
    struct audit_head seal; /* its time and signature */
};
/* Missing so far; may turn up later. */
struct gap {
    int64_t first, last, line;
    const char *file;
};
#define GAPS_MAX 4096

struct verify {
    const struct verify_options *o;
    struct verify_result *r;
    char chain[AUDIT_CHAIN_DIGITS + 1]; /* "": none seen yet */
    int64_t last;                       /* number of the last record that is accounted for, 0: before the first */
    bool begun;                         /* `last` means something: else the first segment says where it begins */
    struct audit_hash prev;             /* of the line before, as it stands there */
    int64_t unknown, unknown_line;      /* lines that we have not written, since `last`; the first of them */
    const char *unknown_file;
    struct gap gaps[GAPS_MAX];
    int n_gaps;
};

void verify_add(struct verify *v, enum verify_what what, int64_t first, int64_t last, const char *file, int64_t line,
                const char *format, ...) SPW_PRINTF(7, 8);
/* A segment that is not as it should be: lines[0..n). Moves v->last and v->prev on. */
void verify_detail(struct verify *v, const char *file, struct seen *lines, int64_t n);
/* The end of all: what is still missing is missing. */
void verify_settle(struct verify *v);

#endif
