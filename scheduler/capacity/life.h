/* The life of a node that the capacity controller looks after: a table, and nothing else. No clock, no I/O.
 *
 *                 launched            has an address          answers
 *    REQUESTED ------------> BOOTING -----------------> JOINING ---------> READY <------------------------+
 *        |  \                  |  ^                       |  ^           / |  ^ \                          |
 *        |   \ not to be had   |  | power on              |  | wake     /  |  |  \ silent                  | answers
 *        |    \                |  |                       |  |    drain/   |  |   v                        |
 *        |     +--> GONE <--+  |  OFF <---+               |  +--+     /    |  +-- LOST ---------------------+
 *        |           ^      |  |   ^      | power off     |     |    v undrain     ^ |
 *        |           | ended|  |   +------+-------- SLEEPING <--+-- DRAINING ------/  |
 *        |           |      |  |                      ^     asleep   |                | end, deadline (rented)
 *        |         ENDING <-+--+----------------------+--------------+----------------+
 *        |           ^  \__ deadline: ended once more
 *        +-----------+  deadline: LOST, since nobody knows whether it is there
 *
 * Every state but GONE has a deadline, and something happens at it. A *rented* node (whoever launched it can end it)
 * that does not come, does not answer or does not empty is ended; an *owned* one is there whatever we do: it stays LOST
 * until it answers, and one that does not run empty is taken back into service. What an event does not mean in a state
 * changes nothing. */
#ifndef SCHEDULER_CAPACITY_LIFE_H
#define SCHEDULER_CAPACITY_LIFE_H

#include <stdbool.h>
#include <stdint.h>

enum life_state {
    LIFE_REQUESTED, /* the intent is on disk, the provider has been asked */
    LIFE_BOOTING,   /* there is a machine, or it is being switched on; no address yet */
    LIFE_JOINING,   /* an address; the engine loads, or its worker wakes */
    LIFE_READY,     /* answers */
    LIFE_DRAINING,  /* gets nothing new; then sleeps or ends */
    LIFE_SLEEPING,  /* no worker; its supervisor answers */
    LIFE_OFF,       /* no power */
    LIFE_LOST,      /* silent, or nobody knows */
    LIFE_ENDING,    /* the provider has been told to end it */
    LIFE_GONE,      /* the provider says so; nothing is kept of it */
    LIFE_STATES,
};
const char *life_state_name(enum life_state s); /* "requested", ... */

enum life_event {
    LIFE_LAUNCHED,    /* the provider has it, by an id */
    LIFE_ADDRESS,     /* it has an address */
    LIFE_ANSWERS,     /* a health check was good: its worker is up */
    LIFE_SILENT,      /* health checks fail, heartbeats stay away */
    LIFE_RESTARTS,    /* its engine ended by itself and is being started again */
    LIFE_DRAIN,       /* it is to get nothing new: plan, operator, notice of a pre-emption */
    LIFE_UNDRAIN,     /* and is wanted again */
    LIFE_ASLEEP,      /* it says that it sleeps */
    LIFE_WAKE,        /* it was told to wake */
    LIFE_POWERED_OFF, /* its power was seen off */
    LIFE_POWER_ON,    /* it was told to switch on */
    LIFE_END,         /* it is to be ended: drained, useless, a stray */
    LIFE_OVER,        /* the provider says that it is gone */
    LIFE_DEADLINE,    /* it has been in this state for too long */
    LIFE_EVENTS,
};
const char *life_event_name(enum life_event e);

/* The state after it; the same state: it changes nothing. */
enum life_state life_next(enum life_state s, enum life_event e, bool rented);

/* For how long a node may be in a state, milliseconds. READY and SLEEPING: without a sign of life (whoever sees one
 * begins the time anew). OFF: until its power is looked at again. */
struct life_times {
    int64_t of[LIFE_STATES]; /* GONE: 0 */
};
extern const struct life_times life_times_default;
/* boot_ms: expected; the deadline is three times as much, and at least the default's sixth. 0: the default. */
void life_times_for(struct life_times *t, int64_t boot_ms, int64_t drain_ms);

/* Of what it is: does it cost money by the hour (rented), may it be sent work, is it on its way? */
bool life_is_paid(enum life_state s);   /* all but GONE: whatever may be there counts */
bool life_is_coming(enum life_state s); /* REQUESTED, BOOTING, JOINING */

#endif
