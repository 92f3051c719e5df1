/* What replay.c and assemble.c know alike about answers. */
#ifndef SCHEDULER_CACHE_REPLAY_INTERNAL_H
#define SCHEDULER_CACHE_REPLAY_INTERNAL_H

#include "scheduler/cache/assemble.h"
#include "scheduler/cache/replay.h"

/* The texts of a message, in the order in which a stream brings them. */
enum answer_text { ANSWER_REASONING_CONTENT, ANSWER_REASONING, ANSWER_CONTENT, ANSWER_REFUSAL, ANSWER_N_TEXTS };
extern const char *const answer_texts[ANSWER_N_TEXTS];

int answer_text_index(const struct tree *t, const struct tree_node *member); /* -1: none of them */
/* finish_reasons of answers that ended by themselves. */
bool answer_finish_ok(struct bytes inside);
/* May this member of a choice be lost? Scalars that we do not know (stop_reason and the like) may; our own between
 * scheduler and engine must; what holds something (logprobs) may not. */
bool answer_member_skip(const struct tree *t, const struct tree_node *member);
/* Of a delta or a message, where whatever we do not know may be part of the answer. */
bool answer_field_skip(const struct tree *t, const struct tree_node *member);
enum rc answer_usage_write(const struct token_counts *counts, struct strbuf *out);
/* The member as written with line breaks between tokens as blanks, which a frame of a stream cannot hold. */
enum rc answer_put_flat(struct bytes text, struct strbuf *out);
enum rc put_all(struct strbuf *out, const struct bytes *parts, int n);

#define BYTES_OF(b) ((struct bytes){(b).data, (b).len}) /* a strbuf's */
#define LITERAL(s)  ((struct bytes){s, sizeof(s) - 1})
#define PUT(out, ...)                                                                                                  \
    put_all((out), (const struct bytes[]){__VA_ARGS__},                                                                \
            (int)(sizeof((const struct bytes[]){__VA_ARGS__}) / sizeof(struct bytes)))

#endif
