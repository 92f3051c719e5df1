/* One report of the night: gathered, put into the folder, and into the outbox for whom it is meant. Blocks: a thread of
 * its own. */
#ifndef SCHEDULER_NIGHTLY_MAKE_H
#define SCHEDULER_NIGHTLY_MAKE_H

#include "base/clock.h"
#include "scheduler/config/config.h"
#include "scheduler/nightly/outbox.h"

struct make_order { /* all borrowed */
    const struct config *config;
    struct outbox *outbox;
    const char *period;                    /* words of report_period_parse() */
    const struct config_report_team *team; /* its share, for its people; NULL: everything */
    struct wall now;
    int64_t wait_until_s; /* until then hours that are not closed are waited for */
    enum outbox_why why;
};
/* *made: whether it was; it is not when hours are waited for. RC_INVALID: the period makes no sense, now or ever. A
 * message and files that were made by a call which failed are made anew by the next. */
enum rc make_report(const struct make_order *o, bool *made, struct error *e) SPW_MUST_USE;

#endif
