#include "policies/fallback.h"

enum fallback_step fallback_judge(const struct fallback_rule *rule, const struct route_decision *d, int64_t waited_ms)
{
    if (d->chosen >= 0)
        return FALLBACK_TAKE;
    if (!d->busy)
        return FALLBACK_NEXT;
    return rule->when_full && waited_ms >= rule->after_ms ? FALLBACK_NEXT : FALLBACK_WAIT;
}

int64_t fallback_wake_ms(const struct fallback_rule *rule, int64_t waited_ms)
{
    return rule->when_full && waited_ms < rule->after_ms ? rule->after_ms - waited_ms : -1;
}
