/* Which node answers a request: a pure function over a snapshot. No clock, no I/O, no globals, no allocation; the
 * daemon, the simulator and the tests run this same code.
 *
 * The rule. Of the nodes that serve the model, are healthy, admit the request's privacy and are not full, each step leaves
 * those that are best by its measure, and names the reason for the others:
 *   1. rank: how well a node suits where the request stands, e.g. in the middle of an answer;
 *   2. the SLO, where there is one: those that meet it with the asked probability; if nobody does, those that are about as
 *      likely as the likeliest;
 *   3. the objective: cost (marginal money), latency (expected time to the last token), energy (marginal joules), or
 *      balanced (the mean of the three, each against the best of its kind); what is within ROUTE_NEAR of the best is as good;
 *   4. risk: of equals, not one whose failure domain is clearly likelier to be lost before the answer ends;
 *   5. affinity: where somebody holds a part of the prompt already (prefix.h), those with the least work for it: requests in
 *      flight per slot, and the share of the prompt that is still to be read, a whole prompt counting as much as half of a
 *      node's slots;
 *   6. two of the rest are drawn by `spread`, and the one with less in flight per slot is chosen (the power of two choices:
 *      Mitzenmacher 2001). Always taking the least loaded would send everybody to the same node between two looks at it.
 *
 * What is not known of a node (no prediction yet, no watts) counts as good as the best that is known, so that somebody
 * finds out. */
#ifndef POLICIES_ROUTE_H
#define POLICIES_ROUTE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/money.h"
#include "policies/predict.h"

#define ROUTE_CANDIDATES_MAX 64   /* more than the 16 that are listed where there are many: a last look is at all */
#define ROUTE_NEAR           0.01 /* of the best: as good */
#define ROUTE_NEAR_RISK      0.01 /* of probability */
#define ROUTE_NEAR_SLO       0.02 /* of probability, where nobody meets it */
#define ROUTE_LATE_QUEUE                                                                                               \
    0.05 /* of an SLO's bound, or of what it takes itself if that is more: whoever is late waits while the queue is longer */

/* A node without a declared bound counts as having this many slots, so that it neither attracts nor repels everything
 * beside a bounded one. */
#define ROUTE_SLOTS_WHEN_UNBOUNDED 256

enum route_objective { ROUTE_COST, ROUTE_LATENCY, ROUTE_ENERGY, ROUTE_BALANCED };
const char *route_objective_name(enum route_objective o); /* "cost", ... */

struct route_candidate {
    bool serves_model, healthy, draining, local; /* local: on the organisation's own premises */
    bool tried;                                  /* already failed for this request */
    bool unfit;                                  /* cannot take an answer up where this one stands */
    bool kept;                                   /* for another request, which must be alone there */
    bool spared;                                 /* another is to have it: one that is awake, or that is waited for */
    bool no_watts;                               /* one more request there could break the site's limit in watts */
    bool crowded;                                /* has not the memory free that this one takes: it would wait inside */
    bool broken;                                 /* its breaker is open: it failed too often */
    bool cooling;                                /* it asked to be left alone for a while */
    int64_t back_us;                             /* broken, cooling: for how long still; 0: that is not known */
    int32_t rank;                                /* how well it suits, 0 best: a lower rank goes before any price */
    int32_t in_flight, slots;                    /* slots 0: unbounded */
    int64_t cached_tokens;                       /* of the prompt, that it is expected to hold already */
    bool bought;                                 /* what it says is billed by the token: an API */
    struct token_prices prices; /* list prices, per token: bounds, and money where `marginal` is unknown */
    bool has_marginal;          /* else money is tokens x prices */
    struct pusd marginal;       /* what this request would add to what the organisation pays */
    bool has_energy;
    int64_t marginal_mj; /* millijoules that it would add; a wake-up's included */
    int64_t wake_us;     /* asleep: until it serves; 0: awake */
    double risk;         /* that its failure domain is lost before the answer ends, 0..1 */
    double queue_us; /* predicted: of the time to its first token, what the prompts take that were sent there before */
    bool predicted;
    struct prediction latency; /* last: a router reckons it anew for every request, and copies the rest */
};
struct route_slo {
    int64_t ttft_us, tpot_us; /* 0: not bounded */
    double probability;       /* asked of both together, 0..1 */
    /* `probability` may be lowered by what may be missed, so that no answers are bought and no machines woken for it.
     * Between machines that run anyway nothing is saved by it: of those that are no likelier than this nobody is chosen
     * who is less likely than the likeliest (but for ROUTE_NEAR_SLO). 0: as `probability`. */
    double sure;
};
/* An SLO's bound for the first token of this prompt: so much more per token above those that are free. 0: there is none. */
static inline int64_t route_ttft_limit_us(int64_t ttft_us, double us_per_token, int64_t free_tokens, int64_t prompt)
{
    const int64_t above = prompt > free_tokens ? prompt - free_tokens : 0;
    return ttft_us ? ttft_us + (int64_t)(us_per_token * (double)above) : 0;
}
/* Who is late stands back for the first quarter of the time that it may wait; then it is as good as any other. */
static inline int64_t route_stand_back_us(int64_t wait_max_us)
{
    return wait_max_us / 4;
}
static inline bool route_stands_back(int64_t ttft_limit_us, int64_t waited_us, int64_t wait_max_us)
{
    return ttft_limit_us > 0 && waited_us >= ttft_limit_us && waited_us < route_stand_back_us(wait_max_us);
}
struct route_request {
    int64_t input_tokens;  /* estimate */
    int64_t output_tokens; /* estimate */
    bool local_only;
    bool bounded; /* nobody is asked who could come to more than charge_max for the least that is worth asking: */
    struct pusd charge_max;
    int64_t input_max;  /* the prompt cannot have more tokens */
    int64_t output_min; /* fewer output tokens, over all choices, would be no answer, or less than has been said */
    int64_t waited_us;  /* since it came: of what the SLO allows for the first token, so much is gone */
    bool alone;         /* takes only a node with nothing in flight */
    bool presses;       /* has waited so long that it goes where it would have to wait inside, too */
    bool stands_back;   /* is late already: it goes only where nobody who comes after it is made late by it */
    enum route_objective objective;
    struct route_slo slo;
    uint32_t spread; /* any number; the same one gives the same answer */
};

enum route_reason { /* why a candidate was not chosen, most fundamental first */
                    ROUTE_CHOSEN = 0,
                    ROUTE_OTHER_MODEL,
                    ROUTE_NOT_LOCAL,
                    ROUTE_TOO_DEAR, /* for charge_max */
                    ROUTE_UNFIT,
                    ROUTE_TRIED,
                    ROUTE_DRAINING,
                    ROUTE_SPARED,
                    ROUTE_UNHEALTHY,
                    ROUTE_BREAKER_OPEN,
                    ROUTE_COOLING_DOWN,
                    ROUTE_KEPT,
                    ROUTE_FULL, /* or, for one that must be alone, not empty */
                    ROUTE_LESS_FIT,
                    ROUTE_MISSES_SLO, /* likelier than the others, or than was asked */
                    ROUTE_DEARER,
                    ROUTE_SLOWER,
                    ROUTE_HUNGRIER,
                    ROUTE_WORSE, /* balanced */
                    ROUTE_RISKIER,
                    ROUTE_BUSIER,
                    ROUTE_LESS_CACHED, /* not busier, but it would have to read more of the prompt */
                    ROUTE_TIE,         /* not drawn */
                    ROUTE_NOT_LISTED,  /* by the caller: not among those that were worth a look (shortlist.h) */
};
const char *route_reason_name(enum route_reason r); /* "dearer", ... */
/* For people, after the node's name: "is draining". */
const char *route_reason_text(enum route_reason r);

/* What the candidate was judged by; of those that were not admitted nothing is set but zeros. */
struct route_terms {
    double p_slo;     /* that it meets the SLO; 1 without one */
    double money;     /* pico-dollars */
    double time_us;   /* to the last token; -1: not known */
    double energy_mj; /* -1: not known */
    double value;     /* by the objective: less is better */
};
struct route_decision {
    int32_t chosen; /* index, or -1: nobody */
    /* When nobody: true if waiting could help (someone serves the model and is merely full, kept, unhealthy, broken or
     * cooling down). */
    bool may_wait;
    int64_t back_us;  /* may_wait: it is known that nobody can before so long; 0: any moment */
    bool busy;        /* may_wait, and somebody in service is merely full, or kept */
    bool model_known; /* somebody serves the model at all */
    bool too_late; /* nobody, only since it would make others late: it cannot be in time any more, wherever it goes */
    enum route_reason reasons[ROUTE_CANDIDATES_MAX];
    struct route_terms terms[ROUTE_CANDIDATES_MAX];
};
/* The money that c is judged by, pico-dollars, whether or not it is admitted. */
double route_money(const struct route_request *r, const struct route_candidate *c);
/* n <= ROUTE_CANDIDATES_MAX. */
void route_choose(struct route_decision *d, const struct route_request *r, const struct route_candidate *c, int32_t n);

#endif
