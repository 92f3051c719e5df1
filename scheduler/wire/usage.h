/* What a node says it has used: the OpenAI usage object, read with suspicion. */
#ifndef SCHEDULER_WIRE_USAGE_H
#define SCHEDULER_WIRE_USAGE_H

#include "base/money.h"
#include "scheduler/wire/scan.h"

/* Fields: prompt_tokens, completion_tokens, prompt_tokens_details.cached_tokens (else prompt_cache_hit_tokens).
 * RC_INVALID: it is no object, prompt_tokens is missing, or a figure is negative or absurd; cached is cut to the
 * input. */
enum rc usage_parse(struct span object, struct token_counts *counts) SPW_MUST_USE;

/* How many of the output were for thinking, by the same object; 0 where it doesn't say. */
int64_t usage_reasoning(struct span object);

#endif
