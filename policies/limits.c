/* See limits.h. Every number fits: units are at most 6e7 times 1e10 (a burst), and `used` saturates below INT64_MAX. */
#include "policies/limits.h"

#include <string.h>

#include "base/error.h"
#include "base/text.h"

#define USED_MAX (INT64_MAX / 2) /* reached by nothing but absurd settlements; then it takes years to drain anyway */

const char *limit_kind_name(enum limit_kind k)
{
    switch (k) {
    case LIMIT_NONE: return "none";
    case LIMIT_REQUESTS: return "requests";
    case LIMIT_TOKENS: return "tokens";
    case LIMIT_CONCURRENT: return "concurrent";
    }
    return "unknown";
}

static int64_t clamp(int64_t v, int64_t lo, int64_t hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

static int64_t burst_units(int64_t per_min, int64_t burst)
{
    return clamp(burst > 0 ? burst : per_min, 0, LIMIT_PER_MIN_MAX) * LIMIT_UNITS;
}

/* What is used now. rate > 0. */
static int64_t used_at(const struct limit_bucket *b, int64_t rate, int64_t now_us)
{
    int64_t elapsed;
    if (now_us <= b->at_us || b->used <= 0)
        return b->used > 0 ? b->used : 0;
    if (__builtin_sub_overflow(now_us, b->at_us, &elapsed) || elapsed > b->used / rate)
        return 0;
    return b->used - elapsed * rate;
}

static void drain(struct limit_bucket *b, int64_t rate, int64_t now_us)
{
    b->used = used_at(b, rate, now_us);
    if (now_us > b->at_us)
        b->at_us = now_us;
}

static int64_t divide_up(int64_t a, int64_t b)
{
    return a / b + (a % b != 0);
}

/* One limit of one scope. False: refused, and *wait_us or *never say for how long. */
static bool fits(struct limit_bucket *b, int64_t per_min, int64_t burst, int64_t amount, int64_t now_us,
                 int64_t *wait_us, bool *never)
{
    int64_t rate = clamp(per_min, 0, LIMIT_PER_MIN_MAX), cap = burst_units(per_min, burst);
    *wait_us = 0;
    *never = false;
    if (rate == 0)
        return true;
    drain(b, rate, now_us);
    if (amount * LIMIT_UNITS > cap) {
        *never = true;
        return false;
    }
    int64_t excess = b->used - (cap - amount * LIMIT_UNITS);
    if (excess <= 0)
        return true;
    *wait_us = divide_up(excess, rate);
    return false;
}

static void refuse(struct limit_verdict *v, int scope, enum limit_kind kind, int64_t limit, int64_t wait_us, bool never)
{
    bool worse = v->allowed || (never && !v->never) || (never == v->never && wait_us > v->wait_us);
    v->allowed = false;
    if (!worse)
        return;
    v->scope = scope;
    v->kind = kind;
    v->limit = limit;
    v->wait_us = wait_us;
    v->never = never;
}

/* The scope with least left speaks for this kind. */
static void look(struct limit_view *view, const struct limit_bucket *b, int64_t per_min, int64_t burst, int64_t now_us)
{
    int64_t rate = clamp(per_min, 0, LIMIT_PER_MIN_MAX);
    if (rate == 0)
        return;
    int64_t used = used_at(b, rate, now_us), left = (burst_units(per_min, burst) - used) / LIMIT_UNITS;
    if (left < 0)
        left = 0;
    if (view->limit && view->remaining <= left)
        return;
    *view = (struct limit_view){.limit = rate, .remaining = left, .reset_us = divide_up(used, rate)};
}

static void add_used(struct limit_bucket *b, int64_t amount)
{
    int64_t sum;
    if (__builtin_add_overflow(b->used, amount * LIMIT_UNITS, &sum) || sum > USED_MAX)
        sum = USED_MAX;
    b->used = sum < 0 ? 0 : sum;
}

void limits_admit(struct limit_state *const *states, const struct limit_spec *const *specs, int n, int64_t now_us,
                  int64_t tokens, struct limit_verdict *v)
{
    SPW_ASSERT(n >= 0 && n <= LIMIT_SCOPES_MAX);
    tokens = clamp(tokens, 0, LIMIT_TOKENS_MAX);
    *v = (struct limit_verdict){.allowed = true, .scope = -1};
    for (int i = 0; i < n; i++) {
        struct limit_state *s = states[i];
        const struct limit_spec *l = specs[i];
        int64_t wait_us;
        bool never;
        if (!fits(&s->requests, l->requests_per_min, l->requests_burst, 1, now_us, &wait_us, &never))
            refuse(v, i, LIMIT_REQUESTS, l->requests_per_min, wait_us, never);
        if (!fits(&s->tokens, l->tokens_per_min, l->tokens_burst, tokens, now_us, &wait_us, &never))
            refuse(v, i, LIMIT_TOKENS, l->tokens_per_min, wait_us, never);
        if (l->concurrent > 0 && s->running >= l->concurrent)
            refuse(v, i, LIMIT_CONCURRENT, l->concurrent, 0, false);
    }
    for (int i = 0; i < n; i++) {
        struct limit_state *s = states[i];
        if (v->allowed) {
            SPW_ASSERT(s->running < INT32_MAX);
            s->running++;
            if (specs[i]->requests_per_min > 0)
                add_used(&s->requests, 1);
            if (specs[i]->tokens_per_min > 0)
                add_used(&s->tokens, tokens);
        }
        look(&v->requests, &s->requests, specs[i]->requests_per_min, specs[i]->requests_burst, now_us);
        look(&v->tokens, &s->tokens, specs[i]->tokens_per_min, specs[i]->tokens_burst, now_us);
    }
}

void limits_settle(struct limit_state *const *states, const struct limit_spec *const *specs, int n, int64_t now_us,
                   int64_t reserved, int64_t actual)
{
    int64_t difference = clamp(actual, 0, LIMIT_TOKENS_MAX) - clamp(reserved, 0, LIMIT_TOKENS_MAX);
    for (int i = 0; i < n; i++) {
        SPW_ASSERT(states[i]->running > 0);
        states[i]->running--;
        int64_t rate = clamp(specs[i]->tokens_per_min, 0, LIMIT_PER_MIN_MAX);
        if (rate == 0)
            continue;
        drain(&states[i]->tokens, rate, now_us);
        add_used(&states[i]->tokens, difference);
    }
}

bool limit_at_rest(const struct limit_state *s, const struct limit_spec *spec, int64_t now_us)
{
    int64_t requests = clamp(spec->requests_per_min, 0, LIMIT_PER_MIN_MAX);
    int64_t tokens = clamp(spec->tokens_per_min, 0, LIMIT_PER_MIN_MAX);
    return s->running == 0 && (requests == 0 || used_at(&s->requests, requests, now_us) == 0) &&
           (tokens == 0 || used_at(&s->tokens, tokens, now_us) == 0);
}

int64_t limit_retry_after_s(const struct limit_verdict *v)
{
    int64_t s = divide_up(v->wait_us > 0 ? v->wait_us : 0, 1000000);
    return s < 1 ? 1 : s;
}

char *limit_format_reset(int64_t us, char *buf, size_t size)
{
    int64_t ms = divide_up(us > 0 ? us : 0, 1000), s = divide_up(ms, 1000);
    char text[3 * (TEXT_INT_MAX + 2)], *at = text; /* by hand: two of these are in every answer's head */
    if (s >= 3600) {
        at = text_put_int(at, s / 3600);
        *at++ = 'h';
    }
    if (s >= 60) {
        at = text_put_int(at, s / 60 % 60);
        *at++ = 'm';
    }
    at = text_put_int(at, ms < 1000 ? ms : s % 60);
    memcpy(at, ms < 1000 ? "ms" : "s", ms < 1000 ? 3 : 2);
    text_put(buf, buf + size, text);
    return buf;
}
