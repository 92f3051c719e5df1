/* What becomes of a request whose leg ended early: a pure decision over what is known about its legs.
 *
 *                        leg ends early                nothing has been said: costs a retry, unless not taken
 *     RUNNING on a node ----------------> judged ---+--> RETRY     again, from the beginning
 *                                                   |
 *                                                   +--> CONTINUE  elsewhere, from where it stands; costs nothing
 *                                                   |
 *                                                   +--> GIVE_UP   no retry left, or it cannot continue
 *                                                   |
 *                                                   +--> POISON    it kills whoever computes it
 *
 * Poison: a request that was being computed on two nodes as they died, with no new token between, may be what kills
 * them. It goes on alone, so that it takes nobody along; if two more die under it alone, that is enough. What dies
 * under it in company proves nothing more, however often: engines that end faster than one token comes (a machine that
 * is being restarted again and again) end under somebody. Any new token clears it. Continuing is bounded by what it
 * achieves, not by a budget: only legs without a new token count. */
#ifndef SCHEDULER_WIRE_SURVIVE_H
#define SCHEDULER_WIRE_SURVIVE_H

#include <stdbool.h>

#define SURVIVE_DEATHS_ALONE  2  /* in company: then it goes alone */
#define SURVIVE_DEATHS_POISON 2  /* alone: then it is refused */
#define SURVIVE_FRUITLESS_MAX 16 /* legs in a row without a new token */

struct survival {
    int deaths;       /* of nodes under it and others, in a row without a new token between */
    int deaths_alone; /* of nodes that computed nothing else */
    int fruitless;    /* legs of any fate, in a row without a new token */
    int retries;      /* used */
    bool alone;       /* the next leg needs a node to itself */
};

struct leg_end {
    bool died;         /* the node is gone or hangs, as opposed to refusing or answering nonsense */
    bool computed;     /* the request was being computed there, not merely queued */
    bool alone;        /* and nothing else was, from the leg's beginning to its end */
    bool progress;     /* the leg brought a new token */
    bool not_taken;    /* the node refused it unread, as it does with all now */
    bool said;         /* something has been said, by this leg or an earlier one: it can only continue */
    bool can_continue; /* it is known what has been said */
    int retries_max;
};

enum verdict { VERDICT_RETRY, VERDICT_CONTINUE, VERDICT_GIVE_UP, VERDICT_POISON };
enum verdict survive_judge(struct survival *s, const struct leg_end *end);

#endif
