#include "policies/breaker.h"

enum { ALL, FAILURES };

const char *breaker_state_name(enum breaker_state s)
{
    switch (s) {
    case BREAKER_CLOSED: return "closed";
    case BREAKER_OPEN: return "open";
    case BREAKER_HALF_OPEN: return "half_open";
    }
    return "unknown";
}

static void enter(struct breaker *b, enum breaker_state state)
{
    b->state = state;
    b->era++;
    b->trial = false;
    b->in_row = 0;
    b->outcomes = (struct window){.part = 0};
}

/* Doubled each time, at most the longest, a fifth more or less: nodes that broke together are not tried together. */
static int64_t open_time(const struct breaker *b, const struct breaker_spec *spec, uint32_t random)
{
    int64_t us = spec->open_us;
    for (int i = 1; i < b->opened && us < spec->open_max_us; i++)
        us *= 2;
    if (us > spec->open_max_us)
        us = spec->open_max_us;
    return us - us / 5 + (int64_t)(random % 1001) * (us / 5 * 2) / 1000;
}

static void trip(struct breaker *b, const struct breaker_spec *spec, int64_t now_us, uint32_t random)
{
    bool again = b->state == BREAKER_HALF_OPEN || (b->opened > 0 && now_us - b->closed_at_us < b->open_us);
    b->opened = again ? b->opened + (b->opened < 63) : 1;
    b->open_us = open_time(b, spec, random);
    b->until_us = now_us + b->open_us;
    enter(b, BREAKER_OPEN);
}

static void close_again(struct breaker *b, int64_t now_us)
{
    enter(b, BREAKER_CLOSED);
    b->closed_at_us = now_us;
}

struct breaker_look breaker_look(const struct breaker *b, int64_t now_us)
{
    if (b->state == BREAKER_OPEN && now_us < b->until_us)
        return (struct breaker_look){BREAKER_BLOCKED, b->until_us - now_us};
    if (now_us < b->cool_until_us)
        return (struct breaker_look){BREAKER_COOLING, b->cool_until_us - now_us};
    if (b->trial)
        return (struct breaker_look){BREAKER_BLOCKED, 0};
    return (struct breaker_look){BREAKER_PASS, 0};
}

struct breaker_leg breaker_begin(struct breaker *b, int64_t now_us)
{
    if (b->state == BREAKER_OPEN && now_us >= b->until_us)
        enter(b, BREAKER_HALF_OPEN);
    struct breaker_leg leg = {.era = b->era, .trial = b->state == BREAKER_HALF_OPEN && !b->trial};
    b->trial = b->trial || leg.trial;
    return leg;
}

static void failed(struct breaker *b, const struct breaker_spec *spec, int64_t now_us, uint32_t random)
{
    if (b->state == BREAKER_HALF_OPEN) {
        trip(b, spec, now_us, random);
        return;
    }
    window_add(&b->outcomes, spec->window_us, now_us, ALL, 1);
    window_add(&b->outcomes, spec->window_us, now_us, FAILURES, 1);
    b->in_row++;
    struct window_sums s = window_sum(&b->outcomes, spec->window_us, now_us);
    bool in_row = spec->failures > 0 && b->in_row >= spec->failures;
    bool share = spec->percent > 0 && s.of[ALL] >= spec->volume && s.of[FAILURES] * 100 >= s.of[ALL] * spec->percent;
    if (b->state == BREAKER_CLOSED && (in_row || share))
        trip(b, spec, now_us, random);
}

void breaker_spoke(struct breaker *b, const struct breaker_spec *spec, struct breaker_leg *leg, int64_t now_us,
                   int64_t took_us, uint32_t random)
{
    if (leg->era != b->era || leg->told)
        return;
    if (spec->slow_us > 0 && took_us > spec->slow_us) {
        leg->told = true;
        failed(b, spec, now_us, random);
    } else if (leg->trial) {
        close_again(b, now_us);
        *leg = (struct breaker_leg){.era = b->era};
    }
}

void breaker_end(struct breaker *b, const struct breaker_spec *spec, const struct breaker_leg *leg, int64_t now_us,
                 enum breaker_outcome outcome, uint32_t random)
{
    if (leg->era != b->era || leg->told)
        return;
    switch (outcome) {
    case BREAKER_FAILED: failed(b, spec, now_us, random); return;
    case BREAKER_NO_WORD: b->trial = b->trial && !leg->trial; return;
    case BREAKER_OK: break;
    }
    if (leg->trial) {
        close_again(b, now_us);
        return;
    }
    b->in_row = 0;
    window_add(&b->outcomes, spec->window_us, now_us, ALL, 1);
}

void breaker_cool(struct breaker *b, const struct breaker_spec *spec, int64_t now_us, int64_t asked_us)
{
    int64_t us = asked_us > 0 ? asked_us : spec->cool_us;
    if (us > spec->cool_max_us)
        us = spec->cool_max_us;
    if (b->cool_until_us < now_us + us)
        b->cool_until_us = now_us + us;
}

void breaker_reset(struct breaker *b)
{
    uint32_t era = b->era + 1;
    *b = (struct breaker){.era = era};
}
