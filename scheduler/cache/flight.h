/* Identical requests in flight: the first one (the leader) is computed, the others (followers) wait for its answer. Pure
 * bookkeeping without I/O or clock; loop thread.
 *
 *            flight_join()
 *     idle ---------------> LEADER --- flight_finish(): every follower gets FLIGHT_RESULT ---> idle
 *       |                     ^   \--- flight_fail(): the eldest follower gets FLIGHT_LEAD --> idle
 *       |                     |    \-- flight_dissolve(): every follower gets FLIGHT_ALONE --> idle
 *       |    FLIGHT_LEAD      |
 *       +-> FOLLOWER ---------+
 *       |      |  flight_leave(), or an event above
 *       |      +---------------------------------------> idle
 *       +-> FLIGHT_ROLE_ALONE: a bound is reached; nothing is kept, the request goes its own way
 *
 * A ticket lies inside the request and is either idle or in one flight. Deadlines are the request's: when a follower has
 * waited too long, it leaves and goes its own way. Callbacks come from inside the three calls of the leader; they may
 * join, leave, fail and finish whatever they like, but not free the table. A flight that ends is out of the table before
 * the first callback: who joins with its key then begins a new one. */
#ifndef SCHEDULER_CACHE_FLIGHT_H
#define SCHEDULER_CACHE_FLIGHT_H

#include <sys/queue.h>

#include "scheduler/cache/canonical.h"

struct flights;
struct flight;

enum flight_role { FLIGHT_ROLE_LEADER, FLIGHT_ROLE_FOLLOWER, FLIGHT_ROLE_ALONE };
enum flight_event {
    FLIGHT_RESULT, /* the leader's answer; the ticket is idle */
    FLIGHT_LEAD,   /* the leader is gone: this one leads now and must compute, and later finish, fail or dissolve */
    FLIGHT_ALONE,  /* what the leader got helps nobody else (too large to keep, refused): go your own way; idle */
};
/* result: what flight_finish() was given, borrowed for the call; NULL for the other events. */
typedef void flight_cb(enum flight_event event, const void *result, void *arg);

struct flight_ticket { /* zeroed before its first use */
    TAILQ_ENTRY(flight_ticket) entry;
    struct flight *flight; /* NULL: idle */
    flight_cb *cb;
    void *arg;
};

struct flight_options {
    int flights_max;   /* different requests; 0: 65536 */
    int followers_max; /* of one; 0: 1024. All of them are told in one turn of the loop */
};
struct flight_stats {
    uint64_t led, followed, promoted, alone; /* alone: turned away by a bound, or dissolved */
    int flights, followers;                  /* now */
};

struct flights *flights_new(const struct flight_options *o);
void flights_free(struct flights *f);                       /* tickets become idle without a call; NULL is fine */
struct flight_stats flights_stats(const struct flights *f); /* any thread */

enum flight_role flight_join(struct flights *f, const struct cache_key *key, struct flight_ticket *t, flight_cb *cb,
                             void *arg) SPW_MUST_USE;
bool flight_leads(const struct flight_ticket *t);
/* The leader has its answer. */
void flight_finish(struct flight_ticket *leader, const void *result);
/* The leader failed, or its client left, in a way that says nothing about the next try. */
void flight_fail(struct flight_ticket *leader);
void flight_dissolve(struct flight_ticket *leader);
/* In whatever role, or idle: a leader that leaves has failed. For the end of every request. */
void flight_leave(struct flight_ticket *t);

#endif
