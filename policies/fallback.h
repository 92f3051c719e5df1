/* Which model of a chain answers: a pure function over what routing says of each in turn, by the rule of the model that
 * was asked for. Nothing is remembered: each look begins with the first.
 *
 *     the first model ---> chosen: it answers
 *                     ---> busy, and the rule says wait: it waits for a slot of this one (or of any that is better)
 *                     ---> else: the next model of the chain, by the same rule
 *     behind the last ---> waits if anybody of the chain may come back, else nobody can answer */
#ifndef POLICIES_FALLBACK_H
#define POLICIES_FALLBACK_H

#include "policies/route.h"

struct fallback_rule {
    bool when_full;   /* nodes in service that are all busy are a reason, too */
    int64_t after_ms; /* ... once the request has been here so long */
};

enum fallback_step { FALLBACK_TAKE, FALLBACK_WAIT, FALLBACK_NEXT };
/* d: of one model of the chain. waited_ms: since the request came. */
enum fallback_step fallback_judge(const struct fallback_rule *rule, const struct route_decision *d, int64_t waited_ms);

/* Milliseconds after which a waiting request has to be looked at again for its rule alone; -1: never. */
int64_t fallback_wake_ms(const struct fallback_rule *rule, int64_t waited_ms);

#endif
