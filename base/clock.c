#include "base/clock.h"

#include <stdio.h>
#include <time.h>

static int64_t read_clock(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * NS_PER_S + t.tv_nsec;
}

static struct mono system_now(void *state)
{
    (void)state;
    return (struct mono){read_clock(CLOCK_MONOTONIC)};
}

static struct wall system_wall(void *state)
{
    (void)state;
    return (struct wall){read_clock(CLOCK_REALTIME)};
}

static const struct clock_ops system_ops = {.now = system_now, .wall = system_wall};
const struct clock clock_system = {.ops = &system_ops};

static int64_t scaled_elapsed(const struct clock_scaled *s)
{
    return (int64_t)((double)(clock_now(s->base).ns - s->mono0.ns) * s->factor);
}

static struct mono scaled_now(void *state)
{
    const struct clock_scaled *s = state;
    return (struct mono){s->mono0.ns + scaled_elapsed(s)};
}

static struct wall scaled_wall(void *state)
{
    const struct clock_scaled *s = state;
    return (struct wall){s->wall0.ns + scaled_elapsed(s)};
}

struct clock clock_scale(struct clock_scaled *storage, const struct clock *base, double factor)
{
    static const struct clock_ops ops = {.now = scaled_now, .wall = scaled_wall};
    *storage =
        (struct clock_scaled){.base = base, .factor = factor, .mono0 = clock_now(base), .wall0 = clock_wall(base)};
    return (struct clock){.ops = &ops, .state = storage};
}

static struct mono manual_now(void *state)
{
    return ((struct clock_manual *)state)->mono;
}

static struct wall manual_wall(void *state)
{
    return ((struct clock_manual *)state)->wall;
}

struct clock clock_manual(struct clock_manual *storage)
{
    static const struct clock_ops ops = {.now = manual_now, .wall = manual_wall};
    return (struct clock){.ops = &ops, .state = storage};
}

void clock_advance(struct clock_manual *storage, int64_t ns)
{
    storage->mono.ns += ns;
    storage->wall.ns += ns;
}

char *wall_format(struct wall w, char *buf, size_t size)
{
    time_t seconds = (time_t)(w.ns / NS_PER_S);
    int64_t rest = w.ns % NS_PER_S;
    if (rest < 0) {
        rest += NS_PER_S;
        seconds--;
    }
    struct tm t;
    gmtime_r(&seconds, &t);
    snprintf(buf, size, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", t.tm_year + 1900, t.tm_mon + 1, t.tm_mday, t.tm_hour,
             t.tm_min, t.tm_sec, (int)(rest / NS_PER_MS));
    return buf;
}
