/* From ids to an answer: one sequence's path from the tokens it chose to the text that may leave.
 *
 *     id -> whole characters (detok) -> what is no part of a stop string (stop) -> thinking | answer (reasoning)
 *
 * What comes out depends on the ids pushed and nothing else, so that a stream continued elsewhere by replaying its ids
 * continues exactly. Used by one thread at a time; after the buffers have grown nothing is allocated per token. */
#ifndef ENGINE_SERVE_ANSWER_H
#define ENGINE_SERVE_ANSWER_H

#include "base/alloc.h"
#include "engine/text/reasoning.h"
#include "engine/text/stop.h"
#include "engine/text/tokenizer.h"

#define ANSWER_BYTES_MAX ((size_t)32 << 20) /* text of one answer that nobody has fetched yet */

struct answer_options {
    const struct vocab *vocab;    /* borrowed for the answer's life */
    const struct text_span *stop; /* copied */
    size_t n_stop;
    const int32_t *end_ids; /* ids that end the answer, ascending; borrowed for the answer's life */
    size_t n_end_ids;
    bool ignore_end;    /* end ids are tokens like any other */
    int32_t min_tokens; /* stop strings that are complete within so many tokens are text */
    enum reasoning_start reasoning;
};

enum answer_state {
    ANSWER_OPEN,
    ANSWER_ENDED, /* an end id or a stop string: push nothing more */
};

struct answer {
    struct strbuf content, reasoning; /* text that may leave; the reader clears them */
    int32_t n_tokens;                 /* pushed so far, the end id included */
    int32_t n_reasoning;              /* of them, spent on thinking */
    enum answer_state state;
    /* The rest is answer.c's. */
    struct answer_options options;
    struct detok detok;
    struct stop *stop;
    struct reasoning split;
    struct strbuf decoded, passed;
};

/* RC_INVALID: a stop string is empty, too long, or one too many. On RC_OK *a is the caller's until answer_free(). */
enum rc answer_new(const struct answer_options *o, struct answer **a, struct error *e) SPW_MUST_USE;
void answer_free(struct answer *a); /* NULL is fine */
/* One more id. Asserted: the state is ANSWER_OPEN. RC_INVALID: no such id. RC_FULL: too much text unfetched. */
enum rc answer_push(struct answer *a, int32_t id, struct error *e) SPW_MUST_USE;
/* No id comes any more (limit reached): what was held back comes out. Does nothing after ANSWER_ENDED. */
enum rc answer_finish(struct answer *a, struct error *e) SPW_MUST_USE;

#endif
