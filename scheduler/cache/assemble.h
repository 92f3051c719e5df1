/* The other direction: the chunks of a stream, put together to the whole answer that can be stored. Text is joined as
 * written, without being decoded: nothing is lost and nothing is parsed twice. Pure; no memory of its own but what the
 * answer needs. */
#ifndef SCHEDULER_CACHE_ASSEMBLE_H
#define SCHEDULER_CACHE_ASSEMBLE_H

#include "base/money.h"
#include "scheduler/wire/tree.h"

#define ASSEMBLE_TOOLS_MAX 32

struct assembled_tool {
    struct strbuf id, type, name, arguments; /* insides of strings */
};

struct assembler {
    enum rc rc;       /* the first failure sticks */
    size_t bytes_max; /* of everything kept */
    size_t bytes;
    bool chat, begun, finished;
    struct tree *tree;                                         /* borrowed: scratch, that those of one loop may share */
    struct strbuf id, model, fingerprint, usage, role, finish; /* as written */
    struct strbuf texts[4];                                    /* insides of strings; see assemble.c */
    struct assembled_tool *tools;                              /* owned; NULL until the first */
    int n_tools;
    int64_t created_s;
};

void assembler_init(struct assembler *a, size_t bytes_max, struct tree *scratch);
void assembler_fini(struct assembler *a);
/* One chunk's JSON (the data of one SSE frame, not "[DONE]"). RC_UNSUPPORTED: this stream cannot be kept (several
 * choices, logprobs, fields of a delta that we do not know); RC_FULL: over bytes_max; RC_INVALID: no chunk. Anything
 * but RC_OK is final and everything kept is given back. */
enum rc assembler_feed(struct assembler *a, const char *chunk, size_t n);
/* A chunk like one before it, but for its plain text (the inside of a string): the same without a look at the rest. */
enum rc assembler_text(struct assembler *a, struct bytes inside);
/* A usage object that has been read already. */
enum rc assembler_usage(struct assembler *a, struct bytes object);
/* For another stream, with the same bounds: nothing is kept, but the memory it took. */
void assembler_reset(struct assembler *a);
/* Append the whole answer: what replay_check() accepts; of tools alone, it may not. counts: put in when the node gave
 * no usage of its own. RC_AGAIN: no finish_reason has come. */
enum rc assembler_finish(const struct assembler *a, const struct token_counts *counts, struct strbuf *out) SPW_MUST_USE;

#endif
