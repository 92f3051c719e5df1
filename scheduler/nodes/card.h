/* What an engine says of itself under the node key, in GET /v1/models (docs/NODE_API.md). Read with suspicion. Pure. */
#ifndef SCHEDULER_NODES_CARD_H
#define SCHEDULER_NODES_CARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define NUMERICS_DIGITS 32

struct node_card {
    bool resume;                        /* streams can be resumed there */
    char numerics[NUMERICS_DIGITS + 1]; /* its numerics class; "": none, and then nothing can be resumed */
    int slots;                          /* sequences that run at once; 0: unknown */
    int64_t kv_tokens;                  /* that its KV cache has room for; 0: unknown */
    int context;                        /* longest sequence, tokens; 0: unknown */
};
/* Of the model called `model`, else of the first in the list. RC_INVALID: no list of models. Without the fields: a
 * server that is none of ours, and RC_OK. */
enum rc node_card_read(struct node_card *card, const char *text, size_t n, const char *model) SPW_MUST_USE;
/* Say the same, whatever stands between the members and after a text's end. */
bool node_card_equal(const struct node_card *a, const struct node_card *b);

#endif
