/* What is known of a node while there is no worker: what it serves, beside what was counted (engine/serve/totals.h). */
#ifndef ENGINE_NODE_STATS_H
#define ENGINE_NODE_STATS_H

#include "engine/serve/totals.h"

/* What it serves: known once it was ready. */
struct node_card {
    int64_t created; /* seconds since 1970: the file's age */
    int32_t n_ctx, n_slots;
    int64_t kv_tokens; /* 0: not known yet */
    int64_t load_ns;   /* the last load */
    char arch[32], quant[16], device[32], numerics[128];
    char numerics_class[33]; /* 32 hex digits, docs/NODE_API.md; "": not known yet */
};

#endif
