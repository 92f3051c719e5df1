/* `spillway report --period ...`: files of a report. */
#ifndef SCHEDULER_CLI_REPORT_MAKE_H
#define SCHEDULER_CLI_REPORT_MAKE_H

#include "scheduler/nightly/options.h"

struct report_make {
    const char *period, *team, *format, *out, *focus; /* format: words with commas; out NULL: stdout, of one format */
    const char *db, *zone, *config;                   /* db NULL: of the configuration */
};
extern const char *const report_focus_words[];
int report_make(const struct report_make *m); /* the exit code */

#endif
