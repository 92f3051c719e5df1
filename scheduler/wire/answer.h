/* A whole (not streamed) answer of a node. Pure. */
#ifndef SCHEDULER_WIRE_ANSWER_H
#define SCHEDULER_WIRE_ANSWER_H

#include "base/alloc.h"
#include "base/money.h"
#include "scheduler/wire/scan.h"
#include "scheduler/wire/tree.h"

/* Checks that it is one: a JSON object with something in its array `answers` (request_traits). *known: counts are the
 * node's figures; otherwise counts->output is counted here from the text (bytes / 4; none in vectors) and counts->input
 * is left alone. RC_INVALID: no such answer. */
enum rc answer_read(struct span body, const char *answers, struct token_counts *counts, bool *known) SPW_MUST_USE;
/* The same of a body that has been parsed anyway. */
enum rc answer_read_tree(const struct tree *t, const char *answers, struct token_counts *counts,
                         bool *known) SPW_MUST_USE;
/* Is it an object with this member, and that a number or a string? */
bool answer_has(struct span body, const char *member);
/* The body as the client shall see it: with `model` (NULL: the node's own) as its model, and saying that it was served
 * as `tier` (NULL: nobody asked). Appends to out. */
enum rc answer_write(struct span body, const char *model, const char *tier, struct strbuf *out) SPW_MUST_USE;

#endif
