/* How sure routing has to be of one request, so that a route keeps its SLO for as many as was asked.
 *
 * An SLO that 99 of 100 requests are to meet allows one to miss it. If each request demanded to be 99% sure, hardly any
 * would ever miss, and what makes the difference (the longest prompts, a moment's crowd) would go to whoever is surest,
 * at any price. So the demand on one request follows what came of the last ones: as long as more of them met the SLO
 * than was asked, it is lower, down to SLACK_LEAST; as they come to less, it is what was asked.
 *
 *     spare  = (share that met it - asked - margin) / (1 - asked - margin), 0..1
 *     demand = asked - spare * (asked - SLACK_LEAST)
 *
 * The share is a moving average over about SLACK_OVER requests, and begins at what was asked: nothing is spared before
 * it is earned. Plain state of one route; pure. */
#ifndef POLICIES_SLACK_H
#define POLICIES_SLACK_H

#include <stdbool.h>

#define SLACK_LEAST 0.5
#define SLACK_OVER  1000.0
#define SLACK_MARGIN                                                                                                   \
    0.3 /* of what may miss is kept back: what was just let through has not shown yet what came of it */

struct slack {
    double missed; /* share of the last ones */
    bool begun;
};
double slack_demand(const struct slack *s, double asked);
void slack_note(struct slack *s, double asked, bool met);

#endif
