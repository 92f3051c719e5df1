/* Budgets: how much may be spent, as pure arithmetic over plain states of the caller's. No clock, no I/O, no
 * allocation.
 *
 * A budget counts one period at a time. In each:
 *     limit     = hard limit + carried over from the period before + top-ups
 *     available = limit - spent - reserved - carried out, and never counted below 0
 * A request reserves the most that it can come to before anybody is asked, from every budget it falls under in one step:
 * all of them or none. It extends the reservation while its answer grows, and settles once with what was spent; the rest
 * is free again in the same step. So spent + reserved never exceeds the limit, whatever runs at the same time. (A limit
 * that is lowered below what is spent already makes nothing available; it takes nothing back.)
 *
 * A reservation belongs to the period in which it was taken, with all its extensions and its settlement, also when they
 * come after the period's end. What is unused at the end may be carried over, up to carry_max; what is still reserved
 * then is not unused. What was carried over is carried out of the old period, so that it cannot be spent twice. */
#ifndef POLICIES_BUDGET_H
#define POLICIES_BUDGET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/money.h"

#define BUDGET_UNLIMITED INT64_MAX /* a limit that does not exist */
#define BUDGET_SET_MAX   16        /* budgets that one request can fall under */

/* What is done when a soft or hard limit is reached. NOTIFY goes with any other. */
enum budget_action {
    BUDGET_NOTIFY = 1 << 0,       /* tell the webhook, once per period and limit */
    BUDGET_PREFER_LOCAL = 1 << 1, /* nodes on the premises first, others when none can */
    BUDGET_LOCAL_ONLY = 1 << 2,   /* nothing leaves the premises; what is answered there no longer counts against it */
    BUDGET_DOWNGRADE = 1 << 3,    /* another model answers */
    BUDGET_QUEUE = 1 << 4,        /* soft: as batch; hard: waits for room in the budget */
    BUDGET_DENY = 1 << 5,
};
/* "notify", "prefer_local", "local_only", "downgrade: MODEL" (*model points into text), "queue", "deny". False: none. */
bool budget_action_parse(const char *text, enum budget_action *a, const char **model);
const char *budget_action_name(enum budget_action a);

/* The limits of one budget, as they hold for a reservation. */
struct budget_limits {
    struct pusd hard;      /* BUDGET_UNLIMITED: it only counts */
    struct pusd carry_max; /* 0: nothing is carried over */
};
/* One budget in one period. Zeroed: nothing has happened. */
struct budget_state {
    struct pusd spent;       /* settled; with waste */
    struct pusd waste;       /* of spent: slices of schedulers that died, booked as if used */
    struct pusd reserved;    /* open reservations */
    struct pusd carried_in;  /* from the period before */
    struct pusd carried_out; /* into the next one */
    struct pusd topped_up;
};
struct pusd budget_limit(const struct budget_limits *l, const struct budget_state *s); /* BUDGET_UNLIMITED, or >= 0 */
struct pusd budget_available(const struct budget_limits *l, const struct budget_state *s);

/* An amount that may be granted in part: fixed + units x unit, units_min <= units <= units_want. All >= 0;
 * units_min <= units_want. */
struct budget_ask {
    struct pusd fixed; /* the prompt */
    struct pusd unit;  /* one output token, over all choices */
    int64_t units_min, units_want;
};
struct budget_grant {
    int64_t units;      /* granted; -1: refused */
    struct pusd amount; /* taken from each budget; 0 when refused */
    int refused;        /* index of the first budget that has too little; -1: none refused */
    bool may_wait;      /* refused: it would fit if open reservations were given back */
};
/* Take as much as all of them have, or nothing. n <= BUDGET_SET_MAX; n 0 grants everything. The states are distinct. */
struct budget_grant budget_reserve(const struct budget_limits *limits, struct budget_state *const *states, int n,
                                   const struct budget_ask *ask);
/* `granted` was taken from each, over all steps; `spent` of it was used. The rest is free. spent > granted is possible
 * only if somebody counts more than there can be: it is booked as it is (books do not lie), and returned as the
 * excess. */
struct pusd budget_settle(struct budget_state *const *states, int n, struct pusd granted, struct pusd spent);
/* The period is over: what the next one begins with. Marks it in `old` as carried out. Once per period. */
struct pusd budget_carry(const struct budget_limits *l, struct budget_state *old);

/* ---- how far it is used ------------------------------------------------------------------------------------------- */

enum budget_level { BUDGET_OK, BUDGET_SOFT, BUDGET_HARD };
const char *budget_level_name(enum budget_level l); /* "ok", "soft", "hard" */
/* HARD: not even `least` more is available, whatever is given back. SOFT: spent + reserved has reached `soft`
 * (BUDGET_UNLIMITED: there is none). */
enum budget_level budget_level(const struct budget_limits *l, const struct budget_state *s, struct pusd soft,
                               struct pusd least);

/* When the limit is reached if spending goes on as it has since the period began, in seconds since 1970. -1: not within
 * the period, or nothing can be said. While less than 1/50 of the period has passed the rate of the period before
 * counts instead, if it is known (before_rate, pico-dollars per second; 0: unknown). */
int64_t budget_exhausted_at(struct pusd limit, struct pusd spent, int64_t start_s, int64_t end_s, int64_t now_s,
                            int64_t before_rate);

#endif
