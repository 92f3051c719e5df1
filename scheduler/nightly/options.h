/* What the configuration says of a report: the ledger, the audit, the site's time zone and budgets, and what the same
 * would cost elsewhere, as far as the configuration has prices for it (scheduler/report/report.h). For the verb and the
 * daemon. */
#ifndef SCHEDULER_NIGHTLY_OPTIONS_H
#define SCHEDULER_NIGHTLY_OPTIONS_H

#include "scheduler/config/config.h"
#include "scheduler/report/report.h"

struct report_inputs {
    struct report_options options; /* borrows from the configuration, from `period`'s caller nothing */
    struct report_reference *references;
    char **texts; /* owned, n_texts */
    int n_texts;
    struct zone *zone; /* owned */
};
/* period: words (report_period_parse()). RC_INVALID: they make no sense. The configuration outlives it. In any case the
 * caller ends it with report_inputs_fini(). */
enum rc report_inputs(struct report_inputs *in, const struct config *c, const char *period, struct wall now,
                      struct error *e) SPW_MUST_USE;
/* Without a configuration: of a ledger's file alone. zone: NULL or a name. */
enum rc report_inputs_of_file(struct report_inputs *in, const char *ledger, const char *zone, const char *period,
                              struct wall now, struct error *e) SPW_MUST_USE;
void report_inputs_fini(struct report_inputs *in); /* {0} is fine */

#endif
