/* What this process uses of its machine, under the names that every Prometheus client has: CPU, memory, open files,
 * when it started. Linux; reads /proc, which does not wait for a disk. Any thread. */
#ifndef SCHEDULER_OBSERVE_PROCESS_METRICS_H
#define SCHEDULER_OBSERVE_PROCESS_METRICS_H

#include "base/alloc.h"

/* Append the process_* metrics in Prometheus' text format. What cannot be read is left out. RC_FULL at out's bound. */
enum rc process_metrics_render(struct strbuf *out) SPW_MUST_USE;

#endif
