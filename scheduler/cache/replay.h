/* A stored answer on its way to another client: the same body with an id and a time of its own, or the stream that
 * would have brought it. Works on places in the text, so that whatever a model said comes out as it went in. Pure.
 *
 * What can be replayed: a chat.completion or text_completion with one choice of index 0 that ended by itself (stop,
 * length, tool_calls, function_call), whose message holds role, content, reasoning_content, reasoning, refusal and
 * tool_calls, and nothing else but what is null or empty. logprobs and anything we do not know in a message cannot be
 * cut into chunks; such answers are not kept. A list of embeddings can be replayed as a body, which gets no id and no
 * time where it had none. */
#ifndef SCHEDULER_CACHE_REPLAY_H
#define SCHEDULER_CACHE_REPLAY_H

#include "base/money.h"
#include "scheduler/wire/tree.h"

/* RC_OK, RC_INVALID: no answer at all, RC_UNSUPPORTED: one of those that cannot be replayed. */
enum rc replay_check(const char *body, size_t n) SPW_MUST_USE;
enum rc replay_check_tree(const struct tree *body) SPW_MUST_USE; /* the same, of a body that has been parsed */

struct replay {
    const char *id;       /* "chatcmpl-..." of this request */
    int64_t created_s;    /* seconds since 1970 */
    const char *model;    /* as the client knows it */
    const char *tier;     /* the service_tier that it says; NULL: none, whatever the stored one says */
    const char *spillway; /* JSON of a "spillway" member for body and usage chunk, or NULL */
    /* For a body without usage of its own; NULL: then there is none. */
    const struct token_counts *counts;
    bool usage_asked;   /* streams: a usage chunk at the end */
    size_t piece_bytes; /* streams: text per chunk, about; 0: 96 */
};
/* Append to out. RC_FULL at its bound, RC_INVALID and RC_UNSUPPORTED as replay_check(): out then holds rubbish, and the
 * hit is better taken for a miss. */
enum rc replay_body(const char *body, size_t n, const struct replay *r, struct strbuf *out) SPW_MUST_USE;
/* The whole stream: role, text in pieces, tool calls, finish, usage when asked, [DONE]. *tail (may be NULL): where in
 * out the finish begins, which must not leave before the books are written. */
enum rc replay_stream(const char *body, size_t n, const struct replay *r, struct strbuf *out,
                      size_t *tail) SPW_MUST_USE;

#endif
