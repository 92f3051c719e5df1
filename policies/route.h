/* Which node answers a request: a pure function over a snapshot. No clock, no I/O, no globals, no allocation; the daemon,
 * the simulator and the tests run this same code.
 *
 * The rule (objective cost): of the nodes that serve the model, are healthy, admit the request's privacy and are not
 * full, those that suit the request best (rank); of these the one whose predicted marginal charge for this request is
 * lowest; ties go to less work: requests in flight per slot, and the share of the prompt that the node does not hold
 * already (prefix.h), a whole prompt counting as much as half of its slots; then to the lower index (or, among exact
 * equals, to the one `spread` selects, so that equals share load). */
#ifndef POLICIES_ROUTE_H
#define POLICIES_ROUTE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/money.h"

#define ROUTE_CANDIDATES_MAX 64 /* more than the 16 that are listed where there are many: a last look is at all */
/* A node without a declared bound counts as having this many slots, so that it neither attracts nor repels everything
 * beside a bounded one. */
#define ROUTE_SLOTS_WHEN_UNBOUNDED 256

struct route_candidate {
    bool serves_model, healthy, draining, local; /* local: on the organisation's own premises */
    bool tried;                                  /* already failed for this request */
    bool unfit;                                  /* cannot take an answer up where this one stands */
    bool kept;                                   /* for another request, which must be alone there */
    bool broken;                                 /* its breaker is open: it failed too often */
    bool cooling;                                /* it asked to be left alone for a while */
    int64_t back_us;                             /* broken, cooling: for how long still; 0: that is not known */
    int32_t rank;                                /* how well it suits, 0 best: a lower rank goes before any price */
    int32_t in_flight, slots;                    /* slots 0: unbounded */
    struct token_prices prices;                  /* marginal, per token */
    int64_t cached_tokens;                       /* of the prompt, that it is expected to hold already */
};
struct route_request {
    int64_t input_tokens;  /* estimate */
    int64_t output_tokens; /* estimate */
    bool local_only;
    bool bounded; /* nobody is asked who could come to more than charge_max for the least that is worth asking: */
    struct pusd charge_max;
    int64_t input_max;  /* the prompt cannot have more tokens */
    int64_t output_min; /* fewer output tokens, over all choices, would be no answer, or less than has been said */
    bool alone;         /* takes only a node with nothing in flight */
    uint32_t spread;    /* any number; the same one gives the same answer */
};

enum route_reason { /* why a candidate was not chosen, most fundamental first */
                    ROUTE_CHOSEN = 0,
                    ROUTE_OTHER_MODEL,
                    ROUTE_NOT_LOCAL,
                    ROUTE_TOO_DEAR, /* for charge_max */
                    ROUTE_UNFIT,
                    ROUTE_TRIED,
                    ROUTE_DRAINING,
                    ROUTE_UNHEALTHY,
                    ROUTE_BREAKER_OPEN,
                    ROUTE_COOLING_DOWN,
                    ROUTE_KEPT,
                    ROUTE_FULL, /* or, for one that must be alone, not empty */
                    ROUTE_LESS_FIT,
                    ROUTE_DEARER,
                    ROUTE_BUSIER,
                    ROUTE_LESS_CACHED, /* not busier, but it would have to read more of the prompt */
                    ROUTE_TIE,
                    ROUTE_NOT_LISTED, /* by the caller: not among those that were worth a look (shortlist.h) */
};
const char *route_reason_name(enum route_reason r);

struct route_decision {
    int32_t chosen; /* index, or -1: nobody */
    /* When nobody: true if waiting could help (someone serves the model and is merely full, kept, unhealthy, broken or
     * cooling down). */
    bool may_wait;
    int64_t back_us;  /* may_wait: it is known that nobody can before so long; 0: any moment */
    bool busy;        /* may_wait, and somebody in service is merely full, or kept */
    bool model_known; /* somebody serves the model at all */
    enum route_reason reasons[ROUTE_CANDIDATES_MAX];
};
/* n <= ROUTE_CANDIDATES_MAX. */
void route_choose(struct route_decision *d, const struct route_request *r, const struct route_candidate *c, int32_t n);

#endif
