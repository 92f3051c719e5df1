/* Splits R1-style output "<think> reasoning </think> answer" into the two, while it streams.
 *
 * A prompt that itself ends in <think> makes the model start inside the reasoning; otherwise a <think> counts only at
 * the very start of the output. There is one reasoning block: later tags are plain text. Tags may be cut anywhere by
 * piece borders; what may be a tag is held back. Newlines next to a tag belong to it and are dropped.
 *
 *        OUTSIDE_START --<think>--> INSIDE_START --text--> INSIDE --</think>--> AFTER_TAG --text--> CONTENT
 *              \---------------------text-------------------------------------------------------->/
 */
#ifndef ENGINE_TEXT_REASONING_H
#define ENGINE_TEXT_REASONING_H

#include "base/alloc.h"

enum reasoning_start {
    REASONING_OFF,     /* everything is content */
    REASONING_OUTSIDE, /* a <think> at the start opens the block */
    REASONING_INSIDE,  /* the prompt has opened it */
};

enum reasoning_state {
    REASONING_STATE_CONTENT,
    REASONING_STATE_OUTSIDE_START,
    REASONING_STATE_INSIDE_START,
    REASONING_STATE_INSIDE,
    REASONING_STATE_AFTER_TAG,
};

/* Caller's storage; no fini. */
struct reasoning {
    enum reasoning_state state;
    size_t newlines; /* held back: dropped if a tag follows, text if not */
    char held[8];    /* beginning of a tag */
    size_t n_held;
};
void reasoning_init(struct reasoning *r, enum reasoning_start start);
/* Feed text[0..n); appends to either. RC_FULL: one of them is. */
enum rc reasoning_push(struct reasoning *r, const char *text, size_t n, struct strbuf *reasoning,
                       struct strbuf *content) SPW_MUST_USE;
/* The end of the stream: what was held back comes out. */
enum rc reasoning_finish(struct reasoning *r, struct strbuf *reasoning, struct strbuf *content) SPW_MUST_USE;
/* Is the model still thinking? */
bool reasoning_inside(const struct reasoning *r);

#endif
