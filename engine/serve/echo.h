/* `echo`: the prompt before the answer, its text and, where log probabilities are wanted, its tokens.
 *
 * It leaves with the first id of the answer, in the same frame: whoever continues a stream elsewhere after some ids has
 * the echo already, and whoever begins it anew has none of it. Made on the worker thread, then the loop thread's. */
#ifndef ENGINE_SERVE_ECHO_H
#define ENGINE_SERVE_ECHO_H

#include "engine/serve/batcher.h"

struct echo {
    struct strbuf text;
    size_t characters;      /* of text */
    int32_t *ids;           /* owned, n of them; NULL: no log probabilities are wanted */
    struct sample *samples; /* owned; the first says nothing. NULL until echo_tell() */
    int32_t n;
};

/* text NULL: what ids say. RC_FULL: it is too long. On RC_OK *out is the caller's until echo_free(). */
enum rc echo_new(const struct vocab *v, const char *text, const int32_t *ids, int32_t n, bool want_samples,
                 struct echo **out) SPW_MUST_USE;
void echo_free(struct echo *o); /* NULL is fine */
/* What the model says of the prompt's tokens, from the second on: the first choice tells it for all. Copied. */
void echo_tell(struct echo *o, const struct sample *samples);
/* *with is the echo and then *out; the caller frees it with echo_before_fini(), also after RC_FULL. */
enum rc echo_before(const struct echo *o, const struct batch_output *out, struct batch_output *with) SPW_MUST_USE;
void echo_before_fini(struct batch_output *with);

#endif
