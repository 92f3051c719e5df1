/* What is last known of every instance of a budget, for refusals at the door, notices and the admin API; and each
 * lane's way to the store. One lock of its own, never held over I/O or a call back. */
#ifndef SCHEDULER_FRONT_BUDGET_DESK_H
#define SCHEDULER_FRONT_BUDGET_DESK_H

#include "scheduler/budgets/rules.h"
#include "scheduler/budgets/webhook.h"

struct request;
struct front;
struct lane;
struct budget_desk;

struct budget_access { /* a lane's */
    const struct budget_store_ops *ops;
    struct budget_port *port;
    struct webhook *webhook;
};
/* store: borrowed. */
struct budget_desk *budget_desk_new(struct budget_store *store);
void budget_desk_free(struct budget_desk *d);
/* How the store fares that others share. False: it is this process's own. */
bool budget_desk_shared(const struct budget_desk *d, struct budget_store_stats *s);
/* Of a lane that has a loop and a ledger port. */
enum rc budget_access_new(struct budget_access **a, struct lane *l, struct error *e) SPW_MUST_USE;
void budget_access_free(struct budget_access *a); /* after the lane's ledger port; NULL is fine */

/* The store has said how an instance stands. refused: it has just refused, for good, what is not much. Tells the
 * webhook, the log and the metrics when a limit is reached, once per period and limit. */
void budget_desk_note(struct lane *l, const struct budget_rule *rule, const struct budget_claim *claim,
                      const struct budget_view *view, bool refused);
/* What a request gave back, and spent, of an instance's period. */
void budget_desk_settled(struct lane *l, const struct budget_held *of, struct pusd granted, struct pusd spent);
/* How far it is used, as last known. HARD only where that is news. */
enum budget_level budget_desk_level(struct lane *l, const struct budget_rule *rule, const char *name,
                                    struct budget_view *view);
bool budget_desk_all_cost(const struct request *r); /* no node that could answer it is free of charge */

struct budget_known {
    const char *name;
    const struct budget_rule *rule;
    struct budget_claim claim;
    struct budget_view view; /* as last known in this period; zero where nothing is */
    int64_t now_s;           /* when it is told */
    int64_t before_rate;     /* pico-dollars per second in the period before; 0: unknown */
};
/* All instances of these rules that have been heard of, and every rule without "*". Under the lock: no calls back. */
void budget_desk_each(struct budget_desk *d, const struct budget_rule *rules, int n_rules, int64_t now_s,
                      void (*each)(const struct budget_known *k, void *arg), void *arg);
/* The rule that an instance of this name belongs to; NULL: none. */
const struct budget_rule *budget_desk_rule(const struct budget_rule *rules, int n_rules, const char *name);
/* Heard of in the ledger, at the start. */
void budget_desk_hear(struct budget_desk *d, const char *name);
int64_t budget_known_exhausted_at(const struct budget_known *k, int64_t now_s); /* forecast; -1: not in this period */

#endif
