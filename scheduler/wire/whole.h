/* A whole answer gathered from the chunks of a stream: towards a node that can resume the scheduler streams even when
 * the client does not, so that such answers survive too. One choice; texts are joined as written, never decoded.
 * Pure. */
#ifndef SCHEDULER_WIRE_WHOLE_H
#define SCHEDULER_WIRE_WHOLE_H

#include "base/money.h"
#include "scheduler/wire/scan.h"

#define WHOLE_LISTS_MAX 4 /* of logprobs: "content", or "tokens" and its three companions */

struct whole_list {
    struct strbuf key, inside; /* of one array, joined over the chunks */
};

struct whole {
    bool chat;                                 /* chat.completion, else text_completion */
    bool touched;                              /* a chunk has been taken */
    struct strbuf content, reasoning, refusal; /* insides of strings */
    struct strbuf finish;                      /* the value as written */
    struct whole_list lists[WHOLE_LISTS_MAX];
    int n_lists;
};

void whole_init(struct whole *w, bool chat);
void whole_fini(struct whole *w);
void whole_reset(struct whole *w);
/* One chunk. RC_UNSUPPORTED: it holds what a whole answer of ours has no place for; RC_FULL; RC_INVALID: no chunk. */
enum rc whole_take(struct whole *w, struct span chunk) SPW_MUST_USE;
/* like: a chunk, for model and fingerprint. id, created, usage: JSON values, n 0 for what is not known. */
struct whole_head {
    struct span like, id, created, usage;
};
enum rc whole_write(const struct whole *w, const struct whole_head *h, struct strbuf *out) SPW_MUST_USE;

#endif
