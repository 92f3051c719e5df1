#include "scheduler/capacity/life.h"

#define MINUTE_MS INT64_C(60000)

const char *life_state_name(enum life_state s)
{
    static const char *const names[LIFE_STATES] = {
        [LIFE_REQUESTED] = "requested",
        [LIFE_BOOTING] = "booting",
        [LIFE_JOINING] = "joining",
        [LIFE_READY] = "ready",
        [LIFE_DRAINING] = "draining",
        [LIFE_SLEEPING] = "sleeping",
        [LIFE_OFF] = "off",
        [LIFE_LOST] = "lost",
        [LIFE_ENDING] = "ending",
        [LIFE_GONE] = "gone",
    };
    return (unsigned)s < LIFE_STATES ? names[s] : "unknown";
}

const char *life_event_name(enum life_event e)
{
    static const char *const names[LIFE_EVENTS] = {
        [LIFE_LAUNCHED] = "launched", [LIFE_ADDRESS] = "has an address",
        [LIFE_ANSWERS] = "answers",   [LIFE_SILENT] = "silent",
        [LIFE_RESTARTS] = "restarts", [LIFE_DRAIN] = "drain",
        [LIFE_UNDRAIN] = "undrain",   [LIFE_ASLEEP] = "asleep",
        [LIFE_WAKE] = "wake",         [LIFE_POWERED_OFF] = "powered off",
        [LIFE_POWER_ON] = "power on", [LIFE_END] = "end",
        [LIFE_OVER] = "over",         [LIFE_DEADLINE] = "deadline",
    };
    return (unsigned)e < LIFE_EVENTS ? names[e] : "unknown";
}

/* One row per move. From GONE nothing leads; OVER leads there from everywhere, and END to ENDING for what is rented. */
struct move {
    enum life_state from;
    enum life_event event;
    enum life_state to;
};
static const struct move moves[] = {
    {LIFE_REQUESTED, LIFE_LAUNCHED, LIFE_BOOTING},
    {LIFE_REQUESTED, LIFE_ADDRESS, LIFE_JOINING},
    {LIFE_REQUESTED, LIFE_SILENT, LIFE_LOST}, /* the provider can't say whether it is there */
    {LIFE_BOOTING, LIFE_SILENT, LIFE_LOST},
    {LIFE_BOOTING, LIFE_ADDRESS, LIFE_JOINING},
    {LIFE_BOOTING, LIFE_ANSWERS, LIFE_READY},
    {LIFE_JOINING, LIFE_ANSWERS, LIFE_READY},
    {LIFE_JOINING, LIFE_ASLEEP, LIFE_SLEEPING}, /* it was asleep when it was found */
    {LIFE_JOINING, LIFE_RESTARTS, LIFE_BOOTING},
    {LIFE_READY, LIFE_RESTARTS, LIFE_BOOTING},
    {LIFE_READY, LIFE_SILENT, LIFE_LOST},
    {LIFE_READY, LIFE_DRAIN, LIFE_DRAINING},
    {LIFE_READY, LIFE_ASLEEP, LIFE_SLEEPING},
    {LIFE_READY, LIFE_POWERED_OFF, LIFE_OFF},
    {LIFE_DRAINING, LIFE_UNDRAIN, LIFE_READY},
    {LIFE_DRAINING, LIFE_SILENT, LIFE_LOST},
    {LIFE_DRAINING, LIFE_ASLEEP, LIFE_SLEEPING},
    {LIFE_DRAINING, LIFE_POWERED_OFF, LIFE_OFF},
    {LIFE_SLEEPING, LIFE_WAKE, LIFE_JOINING},
    {LIFE_SLEEPING, LIFE_ANSWERS, LIFE_READY}, /* a request woke it */
    {LIFE_SLEEPING, LIFE_POWERED_OFF, LIFE_OFF},
    {LIFE_SLEEPING, LIFE_SILENT, LIFE_LOST},
    {LIFE_OFF, LIFE_POWER_ON, LIFE_BOOTING},
    {LIFE_OFF, LIFE_ANSWERS, LIFE_READY}, /* somebody else switched it on */
    {LIFE_OFF, LIFE_ASLEEP, LIFE_SLEEPING},
    {LIFE_LOST, LIFE_LAUNCHED, LIFE_BOOTING}, /* list() has found it */
    {LIFE_LOST, LIFE_ADDRESS, LIFE_JOINING},
    {LIFE_LOST, LIFE_ANSWERS, LIFE_READY},
    {LIFE_LOST, LIFE_ASLEEP, LIFE_SLEEPING},
    {LIFE_LOST, LIFE_POWER_ON, LIFE_BOOTING},
    {LIFE_LOST, LIFE_POWERED_OFF, LIFE_OFF},
    {LIFE_BOOTING, LIFE_POWERED_OFF, LIFE_OFF}, /* it did not come up */
};

static enum life_state at_deadline(enum life_state s, bool rented)
{
    switch (s) {
    case LIFE_REQUESTED: return LIFE_LOST; /* the provider's list says whether it is there */
    case LIFE_BOOTING:
    case LIFE_JOINING: return rented ? LIFE_ENDING : LIFE_LOST;
    case LIFE_READY:
    case LIFE_SLEEPING: return LIFE_LOST;
    case LIFE_DRAINING: return rented ? LIFE_ENDING : LIFE_READY;
    case LIFE_LOST: return rented ? LIFE_ENDING : LIFE_LOST;
    default: return s; /* OFF: looked at again. ENDING: ended again */
    }
}

enum life_state life_next(enum life_state s, enum life_event e, bool rented)
{
    if (s == LIFE_GONE)
        return s;
    if (e == LIFE_OVER)
        return LIFE_GONE;
    if (e == LIFE_END)
        return rented ? LIFE_ENDING : s;
    if (e == LIFE_DEADLINE)
        return at_deadline(s, rented);
    for (unsigned i = 0; i < sizeof moves / sizeof moves[0]; i++)
        if (moves[i].from == s && moves[i].event == e)
            return moves[i].to;
    return s;
}

const struct life_times life_times_default = {
    .of = {[LIFE_REQUESTED] = 5 * MINUTE_MS,
           [LIFE_BOOTING] = 30 * MINUTE_MS,
           [LIFE_JOINING] = 15 * MINUTE_MS,
           [LIFE_READY] = 2 * MINUTE_MS,
           [LIFE_DRAINING] = 30 * MINUTE_MS,
           [LIFE_SLEEPING] = 5 * MINUTE_MS,
           [LIFE_OFF] = 60 * MINUTE_MS,
           [LIFE_LOST] = 2 * MINUTE_MS,
           [LIFE_ENDING] = MINUTE_MS,
           [LIFE_GONE] = 0},
};

void life_times_for(struct life_times *t, int64_t boot_ms, int64_t drain_ms)
{
    const int64_t least = life_times_default.of[LIFE_BOOTING] / 6;
    *t = life_times_default;
    if (boot_ms > 0)
        t->of[LIFE_BOOTING] = t->of[LIFE_JOINING] = 3 * boot_ms > least ? 3 * boot_ms : least;
    if (drain_ms > 0)
        t->of[LIFE_DRAINING] = drain_ms;
}

bool life_is_paid(enum life_state s)
{
    return s != LIFE_GONE;
}

bool life_is_coming(enum life_state s)
{
    return s == LIFE_REQUESTED || s == LIFE_BOOTING || s == LIFE_JOINING;
}
