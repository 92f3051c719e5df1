/* Where budgets are counted: a table of asynchronous functions, so that one process (memory.h, made durable by the
 * ledger) or several (Redis) can keep the same books with the same guarantees.
 *
 * A store knows instances of budgets by name ("research", or "each-user[alice]"), and for each the periods that are in
 * use. What the limits are comes with each call out of the caller's configuration; top-ups and limits that were set at
 * run time are the store's, and are added there. The arithmetic is policies/budget.h: all budgets of a call in one
 * atomic step.
 *
 * Life of a reservation:
 *
 *     reserve() --> granted --> [ extend() ... ] --> settle(spent)        spent 0: it is released
 *               \-> refused
 *
 * What reserve() and extend() grant is durable before they say so: should the scheduler die, all that was granted
 * counts as spent (booked as waste), and what was asked but not granted is void. settle() says nothing back; the memory
 * store's is durable with the request's ledger row, which carries hold->name and start_s (ledger.h).
 *
 * Threads: a port belongs to one event loop and is used on its thread alone; store functions without a port are for any
 * thread. `done` comes exactly once per call that returned RC_OK, on the port's loop, and MAY COME FROM INSIDE the call
 * (memory without a ledger). The caller may settle() while an extend() has not answered: then its done never comes, and
 * what it is granted is given back. Nothing blocks. */
#ifndef SCHEDULER_BUDGETS_STORE_H
#define SCHEDULER_BUDGETS_STORE_H

#include <event2/event.h>

#include "base/clock.h"
#include "base/error.h"
#include "policies/budget.h"

#define BUDGET_NAME_BYTES 192 /* of an instance, with NUL: letters, digits, and whatever a label's value may hold */

/* One budget that a request falls under, now. Strings are copied by the call. */
struct budget_claim {
    const char *name;            /* of the instance */
    int64_t start_s, end_s;      /* the period: policies/period.h */
    int64_t before_start_s;      /* the one before, for what is carried over */
    struct budget_limits limits; /* as configured; a limit that was set at run time goes before limits.hard */
    struct pusd soft;            /* BUDGET_UNLIMITED: none; likewise */
};
/* As it stands, after the call. */
struct budget_view {
    struct budget_state state;
    struct pusd hard, soft; /* in force, before top-ups and carry-over; BUDGET_UNLIMITED: none */
};
/* What a reservation holds: the front part of the store's own struct. Read-only for callers. */
struct budget_held {
    char name[BUDGET_NAME_BYTES];
    int64_t start_s;
};
struct budget_hold {
    int n;
    struct budget_held *of; /* n */
    struct pusd granted;    /* over all steps, from each budget */
    const char *id;         /* as given */
};

struct budget_answer {
    enum rc rc; /* RC_OK: granted. RC_DENIED: refused by grant.refused. RC_IO, RC_TIMEOUT, RC_AGAIN: the store cannot be
                   asked at the moment (closed until it is rebuilt, lost), nothing was taken: `why` says it in words */
    struct budget_grant grant;
    struct budget_hold *hold;        /* of a reserve that was granted: the caller's until settle(); else NULL */
    int n;                           /* views[0..n): of the claims in order; valid with RC_OK and RC_DENIED */
    const struct budget_view *views; /* for the call */
    const char *why;                 /* static text, or for the call; NULL with RC_OK and RC_DENIED */
};
typedef void budget_done_cb(const struct budget_answer *a, void *arg);

struct budget_store;
struct budget_port;
struct ledger_port;

/* Of a store that several schedulers share. */
struct budget_store_stats {
    int ports, open;    /* ways to it; that can be asked */
    const char *why;    /* static: why one that cannot be asked cannot; NULL: all can */
    uint64_t refused;   /* reserve and extend that were refused because it was lost or closed */
    uint64_t leased;    /* ... that were granted out of leases */
    uint64_t timeouts;  /* steps without an answer in time */
    uint64_t repeated;  /* steps that were sent again */
    uint64_t buried;    /* reservations of dead schedulers that this one booked as waste */
    uint64_t rebuilds;  /* times that this one told its part */
    uint64_t unsettled; /* now: settlements that it has not got yet */
    uint64_t unwritten; /* events that the ledger did not take: a rebuild would not know of them */
};

struct budget_store_ops {
    const char *name; /* "memory", "redis" */
    /* Others change these budgets too: what is known of one is no longer so after a while. Else NULL. For any thread. */
    struct budget_store_stats (*shared)(const struct budget_store *s);
    /* A loop's way to the store. ledger: that loop's port, for what is to be made durable; NULL: none. */
    enum rc (*port_new)(struct budget_store *s, struct event_base *loop, struct ledger_port *ledger,
                        struct budget_port **p, struct error *e);
    /* After its last call has been answered; holds that are still open stay as they would with a dead scheduler. NULL
     * is fine. */
    void (*port_free)(struct budget_port *p);
    /* id: of the request, unique; 1..63 bytes. 1 <= n <= BUDGET_SET_MAX, names distinct. RC_FULL: too much is under way. */
    enum rc (*reserve)(struct budget_port *p, const char *id, const struct budget_claim *claims, int n,
                       const struct budget_ask *ask, budget_done_cb *done, void *arg);
    /* More for a hold, from the same periods of the same budgets. ask->fixed too. At most one at a time per hold.
     * claims: as with reserve(), for the limits that hold now. */
    enum rc (*extend)(struct budget_port *p, struct budget_hold *hold, const struct budget_claim *claims, int n,
                      const struct budget_ask *ask, budget_done_cb *done, void *arg);
    /* Takes the hold. Returns what was spent beyond what was granted: 0, unless somebody counts more than there can be. */
    struct pusd (*settle)(struct budget_port *p, struct budget_hold *hold, struct pusd spent);
    /* How they stand; nothing is taken. */
    enum rc (*read)(struct budget_port *p, const struct budget_claim *claims, int n, budget_done_cb *done, void *arg);
    /* amount > 0: more for this period alone. With done's views as it stands afterwards. */
    enum rc (*top_up)(struct budget_port *p, const struct budget_claim *claim, struct pusd amount, budget_done_cb *done,
                      void *arg);
    /* Limits from now on instead of the configured ones, in this and all later periods. A v of -1: the configured one
     * again; -2: as it is now. */
    enum rc (*set)(struct budget_port *p, const struct budget_claim *claim, struct pusd hard, struct pusd soft,
                   budget_done_cb *done, void *arg);
    void (*free)(struct budget_store *s); /* after the last port */
};
struct budget_store { /* the front part of each store's own struct */
    const struct budget_store_ops *ops;
};

#endif
