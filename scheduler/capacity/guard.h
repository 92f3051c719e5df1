/* The last gate before a provider's launch(): nodes, dollars per hour, launches per minute. It keeps its own book of
 * what is there and believes nobody's plan, so that no mistake elsewhere can rent more than the configuration allows.
 *
 * Integers only; no clock, no I/O. One thread's. What may be there counts: from the moment it is admitted until the
 * provider has said that it is gone. */
#ifndef SCHEDULER_CAPACITY_GUARD_H
#define SCHEDULER_CAPACITY_GUARD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/money.h"

#define GUARD_TOKEN_MAX     64   /* bytes of a token, NUL included */
#define GUARD_INSTANCES_MAX 4096 /* that can be known of; beyond it nothing is admitted */
#define GUARD_RATE_MAX      1000

struct guard_limits {
    int nodes_max;
    struct pusd hour_max; /* v < 0: no limit */
    int launches_per_min; /* 1 to GUARD_RATE_MAX, in any 60 seconds */
};

enum guard_verdict { GUARD_OK, GUARD_NODES, GUARD_DOLLARS, GUARD_RATE, GUARD_KNOWN, GUARD_VERDICTS };
const char *guard_verdict_name(enum guard_verdict v); /* "ok", "nodes", "dollars", "rate", "known" */

struct guard;
struct guard *guard_new(const struct guard_limits *l);
void guard_free(struct guard *g); /* NULL is fine */
void guard_set_limits(struct guard *g, const struct guard_limits *l);

/* May this one be launched? price_hour: the most it can cost. GUARD_OK: it counts from now on. GUARD_KNOWN: it counts
 * already; launching it again under its token is allowed (it makes no second one), and nothing changes. */
enum guard_verdict guard_admit(struct guard *g, const char *token, struct pusd price_hour, int64_t now_ns) SPW_MUST_USE;
/* What admit would say. */
enum guard_verdict guard_ask(const struct guard *g, struct pusd price_hour, int64_t now_ns);
/* It is there whether we like it or not (found after a restart, adopted by hand): it counts, over any limit. */
void guard_count(struct guard *g, const char *token, struct pusd price_hour);
/* What it really costs; an unknown token is ignored. */
void guard_price(struct guard *g, const char *token, struct pusd price_hour);
/* The provider says that it is gone, or that it was never there. */
void guard_release(struct guard *g, const char *token);

int guard_nodes(const struct guard *g);
struct pusd guard_hour(const struct guard *g);

#endif
