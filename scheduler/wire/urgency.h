/* How urgent a request is: its class of service and its deadline, from the body's `service_tier` and the header
 * x-spillway-deadline. Pure functions.
 *
 *   service_tier              class
 *   priority, default, scale  interactive
 *   flex                      batch
 *   auto, null, none          by the deadline: batch when it is at least `queue.batch_after` away, else interactive
 *
 * x-spillway-deadline says by when the whole answer is wanted: a duration from now ("1500ms", "30s", "5m", "2h", or
 * whole seconds, "30") or a time as RFC 3339 writes it ("2027-01-31T18:00:00Z", "2027-01-31T19:00:00.5+01:00"). It
 * orders a tenant's waiting requests, and a request that will most likely not be answered by then is refused instead of
 * being computed in vain. An answer that has begun is never cut off for it. */
#ifndef SCHEDULER_WIRE_URGENCY_H
#define SCHEDULER_WIRE_URGENCY_H

#include "base/clock.h"
#include "base/error.h"
#include "policies/waiting.h"

#define URGENCY_HEADER    "x-spillway-deadline"
#define URGENCY_AHEAD_MAX ((int64_t)7 * 24 * 3600 * NS_PER_S) /* a deadline farther away is a mistake */

enum service_tier { TIER_AUTO, TIER_DEFAULT, TIER_FLEX, TIER_PRIORITY, TIER_SCALE };
/* RC_INVALID: no such tier; e says which there are. */
enum rc tier_read(const char *text, enum service_tier *tier, struct error *e) SPW_MUST_USE;

struct urgency {
    enum waiting_class class;
    bool has_deadline;
    int64_t left_ns; /* until it; has_deadline alone */
};
/* deadline: the header's value, or NULL. RC_INVALID: it cannot be read, has passed or is too far away; e says what
 * would be right. */
enum rc urgency_read(struct urgency *u, enum service_tier tier, const char *deadline, struct wall now,
                     int64_t batch_after_ms, struct error *e) SPW_MUST_USE;

/* What it was served as, in OpenAI's words: "flex" as batch work, else "priority" where that was asked, else "default". */
const char *tier_served(enum service_tier asked, enum waiting_class class);

#endif
