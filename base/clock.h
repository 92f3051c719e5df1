/* Time comes from an injected clock, so that tests and the simulator can scale or step it.
 *
 * Two kinds that do not mix: monotonic (deadlines, durations) and wall (ledger, logs, reports). Nanoseconds, int64. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

struct mono {
    int64_t ns;
}; /* since an arbitrary start; never goes back */
struct wall {
    int64_t ns;
}; /* since 1970-01-01T00:00:00Z */

struct clock_ops {
    struct mono (*now)(void *state);
    struct wall (*wall)(void *state);
};
struct clock {
    const struct clock_ops *ops;
    void *state;
};

extern const struct clock clock_system;
/* A clock that runs `factor` times as fast as `base` from this moment on. Caller's storage. */
struct clock_scaled {
    const struct clock *base;
    double factor;
    struct mono mono0;
    struct wall wall0;
};
struct clock clock_scale(struct clock_scaled *storage, const struct clock *base, double factor);
/* A clock that stands until it is moved. */
struct clock_manual {
    struct mono mono;
    struct wall wall;
};
struct clock clock_manual(struct clock_manual *storage);
void clock_advance(struct clock_manual *storage, int64_t ns);

static inline struct mono clock_now(const struct clock *c)
{
    return c->ops->now(c->state);
}
static inline struct wall clock_wall(const struct clock *c)
{
    return c->ops->wall(c->state);
}
static inline int64_t mono_since(const struct clock *c, struct mono start)
{
    return clock_now(c).ns - start.ns;
}

#define NS_PER_US INT64_C(1000)
#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S  INT64_C(1000000000)

/* "2026-11-24T06:47:05.123Z"; buf holds at least 32 bytes. Returns buf. */
char *wall_format(struct wall w, char *buf, size_t size);

#endif
