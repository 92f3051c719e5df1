/* Identical requests in flight, over all loops: the first one (the leader) is computed, the others (followers) wait for
 * its answer. Bookkeeping without I/O or clock.
 *
 *            flight_join()
 *     idle ---------------> LEADER --- flight_finish(): every follower gets FLIGHT_RESULT ---> idle
 *       |                     ^   \--- flight_fail(): the eldest follower gets FLIGHT_LEAD --> idle
 *       |                     |    \-- flight_dissolve(): every follower gets FLIGHT_ALONE --> idle
 *       |                     |     \- flight_refuse(): every follower gets FLIGHT_REFUSED --> idle
 *       |    FLIGHT_LEAD      |
 *       +-> FOLLOWER ---------+
 *       |      |  flight_leave(), or an event above
 *       |      +---------------------------------------> idle
 *       +-> FLIGHT_ROLE_ALONE: a bound is reached; nothing is kept, the request goes its own way
 *
 * A ticket lies inside the request and is either idle or in one flight. Deadlines are the request's: when a follower
 * has waited too long, it leaves and goes its own way.
 *
 * Threads: one table for all loops, behind one short lock. A ticket belongs to the loop of the mailbox that it joined
 * with; its callback comes there, by a message and so in a turn of its own, and may do whatever it likes. Who leaves
 * hears nothing more, even if the message is on its way already. A flight that ends is out of the table at once: who
 * joins with its key then begins a new one. */
#ifndef SCHEDULER_CACHE_FLIGHT_H
#define SCHEDULER_CACHE_FLIGHT_H

#include <sys/queue.h>

#include "base/mailbox.h"
#include "scheduler/cache/canonical.h"

struct blob; /* cache.h */
struct flights;
struct flight_seat;

enum flight_role { FLIGHT_ROLE_LEADER, FLIGHT_ROLE_FOLLOWER, FLIGHT_ROLE_ALONE };
enum flight_event {
    FLIGHT_RESULT,  /* the leader's answer; the ticket is idle */
    FLIGHT_LEAD,    /* the leader is gone: this one leads now and must compute, and later finish, fail or dissolve */
    FLIGHT_ALONE,   /* what the leader got helps nobody else (too large to keep, refused): go your own way; idle */
    FLIGHT_REFUSED, /* what the leader did must not be tried again; idle */
};
/* result: what flight_finish() was given, borrowed for the call; NULL for the other events. */
typedef void flight_cb(enum flight_event event, const struct blob *result, void *arg);

struct flight_ticket {        /* zeroed before its first use */
    struct flight_seat *seat; /* NULL: idle */
};

struct flight_options {
    int flights_max;   /* different requests; 0: 65536 */
    int followers_max; /* of one; 0: 1024 */
};
struct flight_stats {
    uint64_t led, followed, promoted, alone; /* alone: turned away by a bound, or dissolved */
    int flights, followers;                  /* now */
};

struct flights *flights_new(const struct flight_options *o);
/* Every ticket is idle, every message delivered. NULL is fine. */
void flights_free(struct flights *f);
struct flight_stats flights_stats(struct flights *f);

/* mail: of the loop that the ticket belongs to. */
enum flight_role flight_join(struct flights *f, const struct cache_key *key, struct flight_ticket *t,
                             struct mailbox *mail, flight_cb *cb, void *arg) SPW_MUST_USE;
bool flight_leads(const struct flight_ticket *t);
/* The leader has its answer. result: followers get a reference each. */
void flight_finish(struct flight_ticket *leader, struct blob *result);
/* The leader failed, or its client left, in a way that says nothing about the next try. */
void flight_fail(struct flight_ticket *leader);
void flight_dissolve(struct flight_ticket *leader);
void flight_refuse(struct flight_ticket *leader);
/* In whatever role, or idle: a leader that leaves has failed. For the end of every request. */
void flight_leave(struct flight_ticket *t);

#endif
