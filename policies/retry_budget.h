/* How many requests of a process may be tried again: a share of what comes in, plus a floor for quiet times. Without
 * it, nodes that fail under load would be sent every request several times, which is the load that keeps them failing.
 * Pure: plain state, time passed in.
 *
 * What is promised, whenever one is granted: retries in the last RETRY_WINDOW_US <= percent of the requests in it +
 * per_s for each of its seconds (to a tenth of the window). A retry sends again what a node has had already; going on
 * with an answer that has begun elsewhere, and trying another node when nothing could be sent, are none. */
#ifndef POLICIES_RETRY_BUDGET_H
#define POLICIES_RETRY_BUDGET_H

#include <stdbool.h>

#include "policies/window.h"

#define RETRY_WINDOW_US INT64_C(10000000)

struct retry_spec {
    int32_t percent; /* of the requests; both 0: nothing is ever tried again */
    int32_t per_s;
};
struct retry_budget { /* zeroed: nothing has happened */
    struct window window;
};

/* A request has begun. */
void retry_budget_request(struct retry_budget *b, int64_t now_us);
/* May one be tried again? If so, that is counted. */
bool retry_budget_take(struct retry_budget *b, const struct retry_spec *spec, int64_t now_us);

#endif
