/* What a node says of itself at GET /health: how it is, and to a scheduler how its time and energy were spent since its
 * process began (docs/NODE_API.md). Only differences mean something: of one life, they add up to the time between. */
#ifndef ENGINE_SERVE_HEALTH_H
#define ENGINE_SERVE_HEALTH_H

#include "base/alloc.h"
#include "engine/serve/totals.h"

struct health_view {
    const char *status, *model_id;
    const char *reason;                /* NULL or "": nothing more to say */
    const struct serve_totals *totals; /* NULL: the caller may not know */
    const struct node_counts *node;
};
enum rc health_write(struct strbuf *out, const struct health_view *v) SPW_MUST_USE;

#endif
