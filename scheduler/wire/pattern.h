/* The shape of a stream's plain chunks. Nearly all chunks of a stream are the same but for one string, so the first one
 * that was read with care tells how to read and write the others: what stands before and after the text must be the
 * same, byte for byte; then the text is copied between the beginning and the end that the first one was written with.
 *
 * A chunk that differs in anything is none of the pattern's, and is read with care. Pure; no allocation once
 * learned. */
#ifndef SCHEDULER_WIRE_PATTERN_H
#define SCHEDULER_WIRE_PATTERN_H

#include "scheduler/wire/scan.h"

#define PATTERN_BYTES_MAX ((size_t)16 << 10)
#define PATTERN_MISSES_MAX                                                                                             \
    8 /* in a row; a stream whose chunks have no shape in common is not learned again and again */

struct pattern {
    struct strbuf text; /* owned; head, tail, head and tail as they are written, one behind the other */
    size_t n[4];        /* their lengths */
    bool known;
    int misses;
};

void pattern_init(struct pattern *p);
void pattern_fini(struct pattern *p);

/* Worth learning from the next chunk that was read with care? */
static inline bool pattern_wanted(const struct pattern *p)
{
    return p->misses < PATTERN_MISSES_MAX;
}
/* The chunk `text` with its string `literal` (quotes included) was written as put, in which the literal stands put_at
 * bytes from the beginning. Too long a one is not kept. */
void pattern_learn(struct pattern *p, struct span text, struct span literal, struct span put, size_t put_at);
/* Is it of this shape? *literal: its string, quotes included, not empty. */
bool pattern_match(struct pattern *p, struct span text, struct span *literal);
/* Appends what is written for it. */
enum rc pattern_write(const struct pattern *p, struct span literal, struct strbuf *out) SPW_MUST_USE;

#endif
