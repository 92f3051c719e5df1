/* A waiting room: who waits for a slot of one model, who is let in, and who gets the next slot. Plain state: no clock,
 * no I/O, no lock; times are monotonic nanoseconds that the caller passes in. The daemon, the simulator and the tests
 * run this same code.
 *
 * Who is let in. Each class is bounded by itself, in waiters, in bytes that they hold, and in time:
 *   - a tenant that waits already is let in only while it holds less than WAITING_SHARE times what is free, in places and
 *     in bytes (dynamic thresholds, Choudhury and Hahne 1998). One tenant alone gets 8/9 of a room, two get 8/17 each;
 *     something is always left for one who has not been here, and a tenant's first waiter needs no share;
 *   - nobody is let in who would most likely wait in vain: the wait is foreseen from the tenant's place in the order
 *     below and the rate at which slots were given of late, and must be less than 3/4 of the time allowed (estimates err,
 *     and to be refused late is worse than to be refused at once) and end before `start_by_ns`;
 *   - an answer that is under way was let in long ago: no bound holds for it.
 *
 * Who gets a slot: of those whom a free slot suits (`fits`), the first in this order.
 *   1. Answers that are under way, the one that waits longest first.
 *   2. Interactive before batch. But when somebody of batch has waited for half of his time, every
 *      WAITING_BATCH_TURN-th slot is batch's: it may be slow, it does not starve.
 *   3. Within a class, between tenants: start-time fair queueing (Goyal, Vin and Cheng 1996) over the estimated work of
 *      requests. Who has had less since the room filled goes first; a tenant that comes new is behind nobody but those
 *      already chosen, so however many wait before it, its first waits for at most one of each other tenant.
 *   4. Within a tenant: the earliest deadline first; equal ones in the order of arrival.
 *   Before 3, within a class: those who can still be in time. Whoever cannot (`late_ns` has come, or waiting_give_way()) stands
 *   back until `back_ns`: behind all who do not, of whatever tenant; else one who is late already would keep a slot from those
 *   behind it, which it may not take itself (route.h), until they are late, too.
 * So a waiter overtakes: of its own tenant those with later deadlines, of others those whose tenants have had more, all
 * of batch (but for rule 2), and everybody whom the free slot does not suit.
 *
 * What a tenant has had is forgotten when its class is empty: then there is enough for everybody. */
#ifndef POLICIES_WAITING_H
#define POLICIES_WAITING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/error.h"
#include "base/heap.h"

#define WAITING_SHARE       8
#define WAITING_BATCH_TURN  8
#define WAITING_LOOKS_MAX   64 /* picky waiters, and answers under way, that are tried for one slot */
#define WAITING_RETRY_MAX_S 120

enum waiting_class { WAITING_INTERACTIVE, WAITING_BATCH, WAITING_CLASSES };
const char *waiting_class_name(enum waiting_class c); /* "interactive", "batch" */

/* What may take it. All of one reach, but picky ones, fit the same slots; what fits LOCAL fits ANYWHERE. */
enum waiting_reach { WAITING_ANYWHERE, WAITING_LOCAL, WAITING_PICKY };

struct waiting_flow;
struct waiter {
    /* the caller's, before it enters; not changed while it waits */
    const char *tenant; /* borrowed until it leaves */
    enum waiting_class class;
    enum waiting_reach reach;
    bool under_way;           /* part of its answer is said, or nodes have tried */
    int64_t cost;             /* estimated work, in any unit that is the same for all; at least 1 */
    int64_t bytes;            /* held while it waits */
    int64_t start_by_ns;      /* a slot after this is of no use; INT64_MAX: none named. Must be named under way */
    int64_t late_ns, back_ns; /* interactive: from late_ns until back_ns it stands back; both 0: never */
    /* the room's */
    int64_t entered_ns, until_ns; /* until: then it is to leave without a slot */
    int64_t order;
    struct waiting_flow *flow; /* NULL: it does not wait, or is under way */
    struct heap_place in_flow;
    TAILQ_ENTRY(waiter) age, picky;
    TAILQ_ENTRY(waiter) standing; /* while it stands back */
    bool waits, stands_back;
};
TAILQ_HEAD(waiter_list, waiter);

struct waiting_bounds {
    int64_t count, bytes;
    int64_t wait_ns; /* 0: nobody waits */
};

/* The rate at which slots are given, over the last WAITING_MARKS marks of at least one slot and WAITING_MARK_NS. */
#define WAITING_MARKS   32
#define WAITING_MARK_NS INT64_C(50000000)
struct waiting_meter {
    int64_t at_ns[WAITING_MARKS]; /* of a mark's first slot */
    int64_t slots[WAITING_MARKS];
    int64_t origin_ns, total; /* counted since; total: of all marks but what the origin's own mark began with */
    int first, n;
};

#define WAITING_BUCKETS 64
struct waiting_line { /* of one class */
    struct waiting_bounds bounds;
    int64_t n, bytes;
    struct waiter_list by_age, picky, standing; /* standing: who stands back, in the order in which they began to */
    struct heap flows[2];                       /* with waiters of this reach, by start */
    TAILQ_HEAD(waiting_flows, waiting_flow) all[WAITING_BUCKETS];
    int64_t n_active, n_idle; /* flows with waiters; without any, but remembered */
    int64_t virtual;          /* the start of what was served last */
    struct waiting_meter meter;
};

struct waiting {
    struct waiting_line lines[WAITING_CLASSES];
    struct waiter_list under_way;
    int64_t n_under_way[WAITING_CLASSES], order;
    int in_row; /* slots to interactive waiters, one after the other, while batch waited */
};

void waiting_init(struct waiting *room);
/* Nobody may wait in it any more. */
void waiting_fini(struct waiting *room);
/* Holds for whoever comes from now on. */
void waiting_set_bounds(struct waiting *room, enum waiting_class c, const struct waiting_bounds *bounds);

enum waiting_verdict {
    WAITING_IN,
    WAITING_NO_WAIT,  /* nobody may wait */
    WAITING_FULL,     /* all places are taken, */
    WAITING_BYTES,    /* or all bytes, */
    WAITING_CROWDED,  /* or what this tenant may have of either */
    WAITING_TOO_LONG, /* the wait would most likely be longer than is allowed */
    WAITING_TOO_LATE, /* it would most likely start after start_by_ns */
    WAITING_VERDICTS,
};
const char *waiting_verdict_name(enum waiting_verdict v);

/* WAITING_IN: w stays, by reference, until waiting_take() or waiting_leave(); w->until_ns is when the caller should
 * make it leave. Else: it was not let in. O(log n). */
enum waiting_verdict waiting_enter(struct waiting *room, struct waiter *w, int64_t now_ns) SPW_MUST_USE;
/* It gets a slot: its tenant is charged for it. It does not wait any more. */
void waiting_take(struct waiting *room, struct waiter *w, int64_t now_ns);
/* Somebody who does not wait got a slot meanwhile, since it suits none of those who do (or only worse): slots are given
 * faster than those who wait see. */
void waiting_passed(struct waiting *room, enum waiting_class c, int64_t now_ns);
/* It goes without one. */
void waiting_leave(struct waiting *room, struct waiter *w);

/* Is there a free slot for w? Where there is none it may set w->late_ns to the past: then w stands back, and the next
 * one is asked. */
typedef bool (*waiting_fits)(const struct waiter *w, void *arg);
/* Who gets the next slot, or NULL: nobody whom one fits. Of each reach only the first is asked, of picky ones and
 * answers under way WAITING_LOOKS_MAX. */
struct waiter *waiting_best(struct waiting *room, int64_t now_ns, waiting_fits fits, void *arg);

/* w was chosen, and is found to be late wherever it goes: from now on it stands back, so that the next one can be
 * looked at. False: it stands back already, or its time to do so is over; nothing has changed. */
bool waiting_give_way(struct waiting *room, struct waiter *w, int64_t now_ns);

/* A request of this tenant, of which waiting_take() was told, has used so much more (less than 0: less) than its cost
 * said. Nothing happens if the room has forgotten what the tenant had. */
void waiting_correct(struct waiting *room, enum waiting_class c, const char *tenant, int64_t more);

int64_t waiting_count_of(const struct waiting *room, enum waiting_class c); /* with those of it that are under way */
int64_t waiting_count(const struct waiting *room);                          /* of all classes, and under way */
int64_t waiting_oldest_ns(const struct waiting *room, enum waiting_class c, int64_t now_ns); /* 0: nobody waits */
/* Slots per second of late, or 0: unknown. */
double waiting_rate(const struct waiting *room, enum waiting_class c, int64_t now_ns);
/* How long w would wait if it came now, or -1: unknown. */
int64_t waiting_expected_ns(const struct waiting *room, const struct waiter *w, int64_t now_ns);
/* When one who was not let in should ask again: when those who wait now are gone. Whole seconds, 1 to
 * WAITING_RETRY_MAX_S. */
int waiting_retry_after_s(const struct waiting *room, enum waiting_class c, int64_t now_ns);

#endif
