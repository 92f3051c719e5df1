/* The embedded store: budgets of one process, in memory, made durable by the ledger (ledger.h: holds, totals, changes).
 *
 * What is granted is durable before it is told: a hold's row is committed with whatever else the writer has. At the
 * next start memory_store_load() books the holds of a scheduler that died as waste and takes the totals. With no ledger
 * port (ledger: off) nothing is durable and all answers come from inside the calls.
 *
 * One lock, held for the arithmetic of one call. Bounded: BUDGET_INSTANCES_MAX instances; one more is refused
 * (RC_FULL). Periods that are over are forgotten when nothing is reserved in them any more, but for the newest of
 * those. */
#ifndef SCHEDULER_BUDGETS_MEMORY_H
#define SCHEDULER_BUDGETS_MEMORY_H

#include "scheduler/budgets/store.h"

#define BUDGET_INSTANCES_MAX 100000

/* clock: dates what is changed; borrowed. */
struct budget_store *memory_store_new(const struct clock *clock);
/* Before the first port. path: the ledger's; blocks. *wasted: of holds that were left over. */
enum rc memory_store_load(struct budget_store *s, const char *path, struct pusd_sum *wasted,
                          struct error *e) SPW_MUST_USE;
/* What an instance had spent before it was first heard of, as the ledger's rows say. Only where the period is not known
 * yet. */
void memory_store_begin(struct budget_store *s, const char *name, int64_t start_s, struct pusd spent);
bool memory_store_knows(const struct budget_store *s, const char *name, int64_t start_s);

#endif
