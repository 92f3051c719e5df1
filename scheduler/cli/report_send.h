/* `spillway report --send` and `--sent`: what a running scheduler makes and delivers by itself (scheduler/nightly). */
#ifndef SCHEDULER_CLI_REPORT_SEND_H
#define SCHEDULER_CLI_REPORT_SEND_H

#include "scheduler/cli/cli_internal.h"

/* The exit codes. team NULL: everything. */
int report_send(const struct cli_target *t, const char *period, const char *team);
int report_sent(const struct cli_target *t);

#endif
