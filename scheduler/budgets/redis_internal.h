/* What the files of the Redis store share: redis.c (the store's functions, the queue of steps), redis_port.c (a port's
 * connection: checks, hello, heartbeats), redis_wire.c (steps as commands, replies as answers), redis_lease.c (what may
 * be granted while Redis is lost), redis_rebuild.c (telling what the ledger knows; blocking, on a thread of its own).
 *
 * A port:
 *
 *          link up            persistence is right, script loaded       hello: ok
 *     LOST -------> CHECKING -----------------------------------> HELLO ---------> OPEN
 *      ^                |  wrong: REFUSED, asked again later         |  closed: CLOSED, rebuild, hello again
 *      +----------------+-------------------------------------------+  fenced, epoch: hello again
 *
 * Steps are sent in OPEN, in their order, and stay in the queue until they are answered; whatever is unanswered when
 * the connection is lost is sent again on the next one. */
#ifndef SCHEDULER_BUDGETS_REDIS_INTERNAL_H
#define SCHEDULER_BUDGETS_REDIS_INTERNAL_H

#include <pthread.h>
#include <sys/queue.h>

#include "base/alloc.h"
#include "scheduler/budgets/redis.h"
#include "scheduler/redis/link.h"

#define REDIS_KEYS     "spillway:{budgets}:1:"
#define STEPS_MAX      16384 /* under way per port; then reserve() and extend() are RC_FULL. Settlements always have room */
#define LEASES_MAX     1024
#define ID_BYTES       72
#define EPOCH_BYTES    40
#define INSTANCE_BYTES 40

enum port_state { PORT_LOST, PORT_CHECKING, PORT_REFUSED, PORT_HELLO, PORT_CLOSED, PORT_OPEN };
enum step_kind { STEP_RESERVE, STEP_EXTEND, STEP_SETTLE, STEP_READ, STEP_TOPUP, STEP_SET, STEP_LEASE };

struct redis_store;
struct redis_port;

/* store.h's hold and what is ours of it. Behind it lie n budget_held, then the id. */
struct redis_hold {
    struct budget_hold pub;
    TAILQ_ENTRY(redis_hold) entry; /* on the store's list, under its lock */
    struct redis_port *port;
    int sequence;
    bool in_redis;      /* there is a reservation of this id, as far as we know */
    struct pusd lost;   /* of granted: counted as spent already, since Redis does not have it any more */
    struct pusd leased; /* of granted: out of leases */
    struct step *extending;
};
TAILQ_HEAD(hold_list, redis_hold);

/* A claim of a step, or of a lease: strings owned. */
struct kept_claim {
    struct budget_claim c; /* c.name is `name` */
    char name[BUDGET_NAME_BYTES];
};

struct step {
    TAILQ_ENTRY(step) entry;
    struct redis_port *port;
    enum step_kind kind;
    char id[ID_BYTES];
    int sequence;
    struct budget_ask ask;
    struct pusd a, b; /* settle: spent; topup: amount; set: hard, soft; lease: used, wanted */
    struct redis_hold *hold;
    struct lease *lease;
    budget_done_cb *done; /* NULL: nobody waits */
    void *arg;
    int64_t deadline_ns; /* 0: none */
    struct redis_command *command;
    int sent; /* times */
    int n;
    struct kept_claim claims[]; /* n */
};
TAILQ_HEAD(step_list, step);

/* Money of one budget in one period that a port may spend while Redis is lost. Under the store's lock. */
struct lease {
    TAILQ_ENTRY(lease) entry;
    struct redis_port *port;
    int id;
    bool over; /* it is being given back */
    struct kept_claim claim;
    struct pusd total; /* what Redis has reserved for it */
    struct pusd used;  /* of it, settled here and not yet booked there */
    struct pusd held;  /* of it, by requests under way */
    int sequence;
    bool asking;     /* a step is under way */
    int64_t seen_ns; /* last use of the budget */
};
TAILQ_HEAD(lease_list, lease);

struct redis_port {
    struct redis_store *store;
    struct event_base *loop;
    struct ledger_port *ledger;
    struct redis_link *link;
    struct event *beat, *tick;
    enum port_state state;
    const char *why; /* static: why nothing can be asked */
    char instance[INSTANCE_BYTES], epoch[EPOCH_BYTES], token[24], sha[48];
    int checks; /* answers to come before hello */
    bool check_failed, hello_under_way, beating;
    int64_t lost_ns, complained_ns, operations;
    struct step_list steps;
    int n_steps;
    int n_leases, leases_made;
};

struct redis_store {
    struct budget_store pub;      /* first */
    struct redis_store_options o; /* texts owned */
    _Atomic int ports_made, open;
    const char *_Atomic why; /* the newest reason of a port that is not open */
    _Atomic uint64_t refused, leased, timeouts, repeated, buried, rebuilds, unsettled, unwritten;
    pthread_mutex_t lock; /* never held over I/O or callbacks */
    struct hold_list holds;
    struct lease_list leases; /* of all ports */
    pthread_t rebuilder;
    bool rebuilder_started;
    char telling[EPOCH_BYTES];       /* the epoch that is told, or was */
    struct rebuild_figures *figures; /* what requests held when its telling began; owned */
    bool told;                       /* successfully */
    _Atomic bool rebuilding, ending;
};

static inline struct redis_store *redis_store_of(struct budget_store *s)
{
    return (struct redis_store *)s;
}
static inline struct redis_port *redis_port_of(struct budget_port *p)
{
    return (struct redis_port *)p;
}

/* ---- redis.c ---- */
void steps_send(struct redis_port *p); /* what is not under way, if it can be */
void steps_lost(struct redis_port *p); /* the connection is gone: all is to be sent again */
struct step *step_new(struct redis_port *p, enum step_kind kind, const struct budget_claim *claims, int n);
void step_queue(struct step *s);
void step_end(struct step *s); /* take it off, free it */
/* The reply of a step; NULL: there is none, it will be sent again. */
void step_replied(struct step *s, const redisReply *reply);

/* ---- redis_port.c ---- */
enum rc port_start(struct redis_port *p, struct error *e) SPW_MUST_USE;
void port_stop(struct redis_port *p);
void port_tick(struct redis_port *p); /* there are steps: look after them soon */
/* A step was told that this epoch or token is no longer the right one, or that there is no script. */
enum port_doubt { PORT_NOT_ITS, PORT_NO_SCRIPT };
void port_doubt(struct redis_port *p, enum port_doubt d);
void port_complain(struct redis_port *p, const char *error); /* Redis refuses to write */
/* "appendonly" and the like as CONFIG GET answered: NULL where it is right, else what is to be done. */
const char *persistence_wrong(const char *name, const char *value);
extern const char *const persistence_names[3];

/* ---- redis_wire.c ---- */
struct wire { /* a command that is being put together */
    int n;
    const char *argv[192];
    size_t lengths[192];
    size_t used;
    char text[192 * 96];
};
void wire_begin(struct wire *w, const char *sha, int n_keys, const char *epoch, const char *instance);
void wire_key(struct wire *w, const char *epoch, const char *name, int64_t start_s);
void wire_call(struct wire *w, const char *step, const char *epoch, const char *instance, const char *token);
void wire_text(struct wire *w, const char *s);
void wire_int(struct wire *w, int64_t v);
void wire_step(struct wire *w, const struct step *s);
bool reply_is(const redisReply *r, const char *word);
const char *reply_text(const redisReply *r, size_t i); /* "" where there is none */
int64_t reply_int(const redisReply *r, size_t i);      /* clamped to int64 */
bool reply_views(const redisReply *r, size_t from, int n, struct budget_view *views);
int64_t keep_seconds(int64_t start_s, int64_t end_s);

/* ---- redis_lease.c: all take the lock themselves ---- */
void leases_want(struct redis_port *p, const struct kept_claim *claims, int n); /* they were just used */
struct budget_grant leases_take(struct redis_port *p, const struct budget_claim *claims, int n,
                                const struct budget_ask *ask);
void leases_settle(struct redis_port *p, const struct redis_hold *h, struct pusd spent);
void leases_sync(struct redis_port *p); /* tell what was used, ask for more, give back what is over */
void leases_replied(struct step *s, const redisReply *reply);
void leases_free(struct redis_port *p);
void leases_void(struct redis_store *s); /* Redis has lost them. With the lock */

/* ---- redis_journal.c ---- */
void journal_hold(struct redis_port *p, const struct budget_hold *h); /* it has been granted so much in all */
void journal_drop(struct redis_port *p, const struct budget_hold *h); /* it ends without a row */
void journal_change(struct redis_port *p, const struct step *s);      /* topped up, or set */

/* ---- redis_rebuild.c ---- */
/* Tell our part for this next epoch, unless that is done or under way. From now on all that our requests hold counts as
 * spent, and leases are void. */
void rebuild_start(struct redis_store *s, const char *epoch);
void rebuild_stop(struct redis_store *s);

#endif
