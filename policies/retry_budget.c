#include "policies/retry_budget.h"

enum { REQUESTS, RETRIES };

void retry_budget_request(struct retry_budget *b, int64_t now_us)
{
    window_add(&b->window, RETRY_WINDOW_US, now_us, REQUESTS, 1);
}

bool retry_budget_take(struct retry_budget *b, const struct retry_spec *spec, int64_t now_us)
{
    struct window_sums s = window_sum(&b->window, RETRY_WINDOW_US, now_us);
    int64_t allowed = s.of[REQUESTS] * spec->percent / 100 + spec->per_s * (RETRY_WINDOW_US / 1000000);
    if (s.of[RETRIES] >= allowed)
        return false;
    window_add(&b->window, RETRY_WINDOW_US, now_us, RETRIES, 1);
    return true;
}
