/* The few nodes that are worth a closer look: an index of up to some 10,000 nodes that gives routing at most 16
 * candidates for a request without looking at the others. The daemon and the simulator run this same code.
 *
 * How: the nodes are the leaves of a tree, eight children to a block. Of each child a block knows the least of every
 * term below it (money, microseconds, millijoules...) among those in the best state that there is, which models are
 * served there, and whether any node there is local. What a request would come to grows with every term, so what it
 * comes to at the least of all terms is a bound for everything below; the time of a request of usual size is one of the
 * terms, since the least of a sum is more than the sum of the leasts. The search opens the most promising block first
 * and ends when no block left can hold anything better than the eighth best that it has, by more than a thousandth: it
 * finds as good as looking at every node would. Leaves are ordered so that like nodes are neighbours
 * (shortlist_order()), which makes bounds tight; nothing but speed depends on that. An update changes one leaf and the
 * least terms on the way to the root, and stops where they stay the same. (Best-first branch and bound over a tree of
 * componentwise bounds: Hjaltason and Samet, "Distance browsing in spatial databases", TODS 1999.)
 *
 * Memory: all of it is taken in shortlist_new(). No clock, no I/O, no globals. Not locked: the caller's lock, or one
 * thread. Deterministic: equal indexes answer equal queries alike, ties go to the lower leaf. */
#ifndef POLICIES_SHORTLIST_H
#define POLICIES_SHORTLIST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define SHORTLIST_MAX        16  /* candidates: ROUTE_CANDIDATES_MAX */
#define SHORTLIST_MODELS_MAX 256 /* model ids are below this */
#define SHORTLIST_NODES_MAX  65536
#define SHORTLIST_HINTS_MAX  4
#define SHORTLIST_SKIP_MAX   64

/* Could it take a request now? A better state goes before any price, so that those that are full or ill are listed only
 * where nobody better is: routing then knows what there is to wait for. */
enum shortlist_state { SHORTLIST_READY, SHORTLIST_FULL, SHORTLIST_HELD, SHORTLIST_DOWN, SHORTLIST_LEAVING };

/* What a node is; changes seldom. */
struct shortlist_kind {
    uint64_t models[SHORTLIST_MODELS_MAX / 64]; /* bit per model id */
    bool local;                                 /* on the organisation's own premises */
};
static inline void shortlist_kind_add(struct shortlist_kind *k, int model)
{
    k->models[model / 64] |= UINT64_C(1) << (model % 64);
}

/* What a request would come to here, at the load of this moment: (fixed) + (per token) * tokens. Not negative; what is,
 * or is no number, counts as 0, and what is above 1e18 as that. */
struct shortlist_terms {
    enum shortlist_state state;
    float money, money_per_input, money_per_output; /* pico-dollars, marginal */
    float first_us, first_us_per_input;             /* expected time to the first token; waking up included */
    float next_us;                                  /* expected time per output token */
    float tail; /* by how much the quantile that the SLO asks for is above the expectation, >= 1 */
    float mj, mj_per_input, mj_per_output; /* millijoules, marginal */
};

struct shortlist_query {
    int model;
    bool local_only;
    float input_tokens, output_tokens;
    /* Candidates come in order of money * w_money + (first token + output tokens * time per token) * w_us + mj * w_mj.
     * Cost is (1, 0, 0), latency (0, 1, 0), energy (0, 0, 1), balanced what the caller makes of it. None negative. */
    float w_money, w_us, w_mj;
    /* Those that are likely to miss these come after those that are not; 0: there is no such limit. The two fastest are
     * always listed where there is a limit, so that a guess that is off leaves routing somebody to turn to. */
    float first_limit_us, next_limit_us;
    const int32_t *skip; /* n_skip nodes that are not to be listed: they have failed */
    int n_skip;
    const int32_t *hints; /* n_hints nodes that are listed first, such as those that hold the prompt's beginning */
    int n_hints;
    int want; /* 1..SHORTLIST_MAX */
};

struct shortlist_result {
    int32_t n;
    int32_t nodes[SHORTLIST_MAX]; /* hints, then the two fastest, then the others, best first; each once */
    int32_t visits;               /* blocks that were opened */
    bool cut;                     /* the search was ended at its bound: there may be somebody better */
};

struct shortlist;
/* For node ids 0..capacity-1, of which none is there yet. RC_INVALID: capacity is not within 1..SHORTLIST_NODES_MAX. */
enum rc shortlist_new(struct shortlist **s, int32_t capacity, struct error *e) SPW_MUST_USE;
void shortlist_free(struct shortlist *s); /* NULL is fine */
/* The node is there (anew), or is what it was and something else of it has changed. */
void shortlist_put(struct shortlist *s, int32_t node, const struct shortlist_kind *kind,
                   const struct shortlist_terms *terms);
/* Its load, state or price has changed. The hot path: well below a microsecond among 10,000. It is there. */
void shortlist_update(struct shortlist *s, int32_t node, const struct shortlist_terms *terms);
void shortlist_drop(struct shortlist *s, int32_t node); /* one that is not there: nothing happens */
/* Most requests are about of this size: bounds are tight for those. Changes no node's rating. As long as it takes to
 * update all. */
void shortlist_usual(struct shortlist *s, float input_tokens, float output_tokens);
int32_t shortlist_count(const struct shortlist *s);
/* Like nodes become neighbours: after many were put. Milliseconds for 10,000; allocates nothing. */
void shortlist_order(struct shortlist *s);
void shortlist_pick(const struct shortlist *s, const struct shortlist_query *q, struct shortlist_result *out);
/* One node's own figure for q, as the search computes it: (level, value), less is better; for tests and explanations.
 * False: it is not there, does not serve the model, or is not local where that is asked. */
bool shortlist_rate(const struct shortlist *s, const struct shortlist_query *q, int32_t node, int *level, float *value);

#endif
