#include "scheduler/nodes/timesheet.h"

#include <string.h>

#define MOST (INT64_MAX / 4)

void timesheet_read(struct timesheet *t, const cJSON *health)
{
    const cJSON *o = cJSON_GetObjectItemCaseSensitive(health, "spillway_time");
    const char *life = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(o, "life"));
    const struct {
        const char *name;
        int64_t *to;
    } members[] = {{"busy_us", &t->busy_us},         {"idle_us", &t->idle_us},
                   {"asleep_us", &t->asleep_us},     {"boot_us", &t->boot_us},
                   {"millijoules", &t->millijoules}, {"idle_millijoules", &t->idle_millijoules}};
    bool given = false, sound = cJSON_IsObject(o) && life && *life && strlen(life) < sizeof t->life;
    *t = (struct timesheet){.has_energy = false};
    for (size_t i = 0; i < sizeof members / sizeof members[0] && sound; i++) {
        sound = json_get_int(o, members[i].name, 0, MOST, members[i].to, &given, NULL) == RC_OK;
        t->has_energy = i < 4 || (given && t->has_energy); /* both */
    }
    if (sound)
        memcpy(t->life, life, strlen(life) + 1);
    t->measured = sound && cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(o, "measured"));
}

bool timesheet_between(const struct timesheet *from, const struct timesheet *to, struct timesheet *spent)
{
    *spent = (struct timesheet){.busy_us = to->busy_us - from->busy_us,
                                .idle_us = to->idle_us - from->idle_us,
                                .asleep_us = to->asleep_us - from->asleep_us,
                                .boot_us = to->boot_us - from->boot_us,
                                .has_energy = from->has_energy && to->has_energy,
                                .measured = to->measured,
                                .millijoules = to->millijoules - from->millijoules,
                                .idle_millijoules = to->idle_millijoules - from->idle_millijoules};
    const bool forward = spent->busy_us >= 0 && spent->idle_us >= 0 && spent->asleep_us >= 0 && spent->boot_us >= 0 &&
                         spent->millijoules >= 0 && spent->idle_millijoules >= 0;
    if (to->life[0] && strcmp(from->life, to->life) == 0 && forward)
        return true;
    *spent = (struct timesheet){.has_energy = false};
    return false;
}
