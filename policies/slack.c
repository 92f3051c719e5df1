#include "policies/slack.h"

double slack_demand(const struct slack *s, double asked)
{
    const double may_miss = (1 - asked) * (1 - SLACK_MARGIN);
    if (!s->begun || asked <= SLACK_LEAST || may_miss <= 0 || s->missed >= may_miss)
        return asked;
    return asked - (1 - s->missed / may_miss) * (asked - SLACK_LEAST);
}

void slack_note(struct slack *s, double asked, bool met)
{
    if (!s->begun)
        s->missed = 1 - asked;
    s->begun = true;
    s->missed += ((met ? 0 : 1) - s->missed) / SLACK_OVER;
}
