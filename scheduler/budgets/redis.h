/* The store that several schedulers share: budgets in a Redis, changed by the script redis.lua, one atomic step per
 * call. Same promises as the embedded store (store.h), however many schedulers, crashes and lost replies there are:
 *
 *  - A step whose reply is lost is sent again, by the same name, and has its effect once. Each connection has a fencing
 *    token: what an older one of the same instance still had under way is refused.
 *  - Each port is an instance with a heartbeat. Of one that is silent for dead_ms all that was granted counts as spent.
 *  - Redis must write its log before it answers (appendonly yes, appendfsync always) and may evict nothing; that is asked on
 *    every connection, and while it is not so nothing is granted.
 *  - Without its epoch key the data is not what it was: closed, until each of `ledgers` schedulers has told what its ledger
 *    knows (totals of the running periods and the one before, limits set at run time) and what its requests hold now.
 *  - Redis lost: after timeout_ms reserve() and extend() are refused (RC_IO). With `allowance` they are granted out of
 *    leases: so much of each budget that was in use lately was reserved beforehand for each scheduler, for that case. What
 *    of it is used is booked when Redis is back, and counts as spent should the scheduler die.
 *  - settle() is kept until Redis has it.
 *
 * Threads: as store.h says. One connection per port. */
#ifndef SCHEDULER_BUDGETS_REDIS_H
#define SCHEDULER_BUDGETS_REDIS_H

#include "base/log.h"
#include "base/tls.h"
#include "scheduler/budgets/store.h"

struct redis_store_options { /* texts are copied */
    const struct clock *clock;
    const struct log *log;
    const char *host; /* a name, an address, or unix:PATH */
    SSL_CTX *tls;     /* of tls_client_new(); gets a reference. NULL: plain text */
    int port, db;
    const char *username, *password; /* NULL: none */
    int64_t timeout_ms;              /* of a step; 0: 500 */
    int64_t dead_ms;                 /* 0: 10 s */
    struct pusd allowance;           /* per scheduler and budget; 0: fail_closed */
    int ports;                       /* that there will be: they share the allowance; 0: 1 */
    const char *ledger;              /* path; NULL: none, this scheduler has nothing to tell */
    const char *name;                /* tells this scheduler's ledger from the others' */
    int ledgers;                     /* schedulers that must have told; 0: 1 */
};

/* Asks the Redis once, blocking, at start. RC_UNSUPPORTED: it may lose or evict what it was told, or its password is
 * wrong; e says what to set. RC_IO: it cannot be asked now, which need not stay so. */
enum rc redis_store_check(const struct redis_store_options *o, struct error *e) SPW_MUST_USE;
/* At start: the question above, where RC_IO is only logged; what requests of this ledger held when its scheduler died
 * is booked there as waste; the store. Blocks. */
enum rc redis_store_start(struct budget_store **s, const struct redis_store_options *o, struct error *e) SPW_MUST_USE;
struct budget_store *redis_store_new(const struct redis_store_options *o);

struct budget_store_stats redis_store_stats(const struct budget_store *s);

#endif
