#include "scheduler/wire/survive.h"

enum verdict survive_judge(struct survival *s, const struct leg_end *end)
{
    if (end->progress)
        s->deaths = s->deaths_alone = s->fruitless = 0;
    else
        s->fruitless++;
    if (end->died && end->computed)
        *(end->alone ? &s->deaths_alone : &s->deaths) += 1;
    s->alone = s->deaths + s->deaths_alone >= SURVIVE_DEATHS_ALONE;
    if (s->deaths_alone >= SURVIVE_DEATHS_POISON)
        return VERDICT_POISON;
    if (s->fruitless > SURVIVE_FRUITLESS_MAX)
        return VERDICT_GIVE_UP;
    if (end->said)
        return end->can_continue ? VERDICT_CONTINUE : VERDICT_GIVE_UP;
    /* Somebody must find out whether it is poison, and alone it harms nobody else: no budget stands in the way. */
    if (s->alone && end->retries_max > 0)
        return VERDICT_RETRY;
    if (end->not_taken)
        return VERDICT_RETRY;
    return s->retries++ < end->retries_max ? VERDICT_RETRY : VERDICT_GIVE_UP;
}
