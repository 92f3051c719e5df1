/* The embedded store as a scheduler begins with it. */
#ifndef SCHEDULER_BUDGETS_START_H
#define SCHEDULER_BUDGETS_START_H

#include "scheduler/budgets/rules.h"

struct log;
/* Totals of the ledger, holds of a scheduler that died (booked as waste), and for budgets that are new what the
 * ledger's rows say was spent in their running period. path NULL: there is no ledger, and all begins at zero. Blocks;
 * at start. */
enum rc budgets_start(struct budget_store **s, const char *path, const struct budget_rule *rules, int n_rules,
                      const struct clock *clock, const struct log *log, struct error *e) SPW_MUST_USE;

#endif
