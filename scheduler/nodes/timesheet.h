/* How an engine says that its time and energy were spent, since its process began: "spillway_time" of GET /health
 * (docs/NODE_API.md). Read with suspicion. Pure. */
#ifndef SCHEDULER_NODES_TIMESHEET_H
#define SCHEDULER_NODES_TIMESHEET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"

struct timesheet {
    char life[33]; /* of its process; "": it says nothing of the kind */
    int64_t busy_us, idle_us, asleep_us, boot_us;
    bool has_energy, measured;
    int64_t millijoules, idle_millijoules; /* idle: of these, whenever it did not compute */
};
/* Of a member that is missing or none: life "". */
void timesheet_read(struct timesheet *t, const cJSON *health);
/* *spent: from one to the other. False, and nothing: another life, or none. */
bool timesheet_between(const struct timesheet *from, const struct timesheet *to, struct timesheet *spent);

#endif
