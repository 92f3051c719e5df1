/* What an answer consists of so far, over all its legs: what the next node has to be told so that the client sees one
 * stream, one id and right counts. Fed by stream.c with what has left (or, for a whole answer, what has been gathered);
 * what is held back at the end of a leg does not count, the next leg says it again. Pure.
 *
 * ids_known holds until a token comes without its id; text_known until something is said that an assistant's message
 * cannot be begun with (thinking, a tool call, logprobs, a second choice). */
#ifndef SCHEDULER_WIRE_TRAIL_H
#define SCHEDULER_WIRE_TRAIL_H

#include <stdint.h>

#include "base/alloc.h"
#include "scheduler/wire/scan.h"

#define TRAIL_IDS_MAX  131072 /* what an engine takes: docs/NODE_API.md */
#define TRAIL_TEXT_MAX ((size_t)8 << 20)

/* What is kept; with TRAIL_IDS the text, which nobody could use, is not, and text_known is false from the start. */
enum trail_keep { TRAIL_IDS, TRAIL_TEXT };

struct trail {
    enum trail_keep keep;
    bool begun;                /* a chunk has been taken: id and created are settled */
    struct strbuf id, created; /* of the first chunk, JSON values as written; empty: it had none */
    bool ids_known, text_known;
    struct strbuf ids; /* the inside of a JSON array */
    int n_ids;
    struct strbuf text; /* the inside of a JSON string */
    int64_t chunks;     /* that carried text, thinking or tool calls */
};

void trail_init(struct trail *t, enum trail_keep keep);
void trail_fini(struct trail *t);
void trail_reset(struct trail *t); /* nothing has been said after all */
/* Has anything been said? */
bool trail_has_said(const struct trail *t);

/* One chunk that has been taken. */
struct trail_chunk {
    struct span id, created; /* n 0: missing */
    struct span ids;         /* array, or n 0: the chunk has none */
    int contents;            /* choices with text, thinking or tool calls */
    struct span text;        /* literal of the one plain text in it; n 0: none, or more than plain text */
};
void trail_take(struct trail *t, const struct trail_chunk *c);

#endif
