/* Proves that rate limits never admit more than burst + rate in any window (against a list of all admissions), never
 * refuse what a naive exact model admits, say truly how long to wait, take from all scopes or none; and that the
 * bounded table of them cannot be used to reset a limit.
 * links: spw_sched_auth spw_policies */
#include "tests/unit/test.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "policies/limits.h"
#include "scheduler/auth/limit_table.h"

static uint64_t random_state = 1;
static uint64_t random_u64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x2545f4914f6cdd1du;
}
static int64_t random_below(int64_t n)
{
    return (int64_t)(random_u64() % (uint64_t)n);
}

static void admit1(struct limit_state *s, const struct limit_spec *l, int64_t now, int64_t tokens,
                   struct limit_verdict *v)
{
    limits_admit(&s, &l, 1, now, tokens, v);
}
static void settle1(struct limit_state *s, const struct limit_spec *l, int64_t now, int64_t reserved, int64_t actual)
{
    limits_settle(&s, &l, 1, now, reserved, actual);
}

static int64_t gap(void) /* bursts, pauses, and everything between */
{
    int64_t scale[] = {1, 1000, 100000, 3000000, 90000000};
    return random_below(4) == 0 ? 0 : random_below(scale[random_below(5)]);
}

#define EVENTS 400

/* Requests: each window between two admissions holds at most burst + rate * window. */
static void windows_hold_for_requests(void)
{
    static int64_t at[EVENTS];
    for (int round = 0; round < 60; round++) {
        struct limit_spec l = {.requests_per_min = 1 + random_below(round % 2 ? 20 : 5000)};
        l.requests_burst = random_below(2) ? 0 : 1 + random_below(50);
        int64_t burst = l.requests_burst ? l.requests_burst : l.requests_per_min;
        struct limit_state s = {0};
        struct limit_verdict v;
        int n = 0;
        int64_t now = random_below(INT64_C(1) << 40);
        for (int i = 0; i < EVENTS; i++, now += gap()) {
            admit1(&s, &l, now, 0, &v);
            if (v.allowed) {
                settle1(&s, &l, now, 0, 0);
                at[n++] = now;
            }
        }
        bool held = true;
        for (int i = 0; i < n; i++)
            for (int j = i; j < n; j++)
                held = held && (int64_t)(j - i + 1) <= burst + l.requests_per_min * (at[j] - at[i]) / 60000000;
        CHECK(held);
    }
}

struct flow {
    int64_t at, amount; /* > 0 reserved, < 0 given back */
};

/* Tokens: reserved less given back; answers never longer than estimated. */
static void windows_hold_for_tokens(void)
{
    static struct flow flows[2 * EVENTS];
    for (int round = 0; round < 40; round++) {
        struct limit_spec l = {.tokens_per_min = 1 + random_below(1000000)};
        struct limit_state s = {0};
        struct limit_verdict v;
        struct {
            int64_t reserved, end;
        } open[16] = {{0, 0}};
        int n = 0;
        int64_t now = random_below(INT64_C(1) << 40);
        for (int i = 0; i < EVENTS; i++, now += gap()) {
            int k = (int)random_below(16);
            if (open[k].reserved) {
                int64_t actual = random_below(open[k].reserved + 1);
                settle1(&s, &l, now, open[k].reserved, actual);
                flows[n++] = (struct flow){now, actual - open[k].reserved};
                open[k].reserved = 0;
                continue;
            }
            int64_t tokens = 1 + random_below(l.tokens_per_min / 3 + 1);
            admit1(&s, &l, now, tokens, &v);
            if (v.allowed) {
                open[k].reserved = tokens;
                flows[n++] = (struct flow){now, tokens};
            }
        }
        bool held = true;
        for (int i = 0; i < n; i++) {
            int64_t sum = 0;
            for (int j = i; j < n; j++) {
                sum += flows[j].amount;
                held = held && sum <= l.tokens_per_min + (int64_t)((__int128)l.tokens_per_min *
                                                                   (flows[j].at - flows[i].at) / 60000000);
            }
        }
        CHECK(held);
    }
}

/* The naive model: what is used, as an exact fraction over 6e7, drained by hand in 128 bits. Same decisions always. */
static void agrees_with_a_naive_model(void)
{
    for (int round = 0; round < 100; round++) {
        struct limit_spec l = {.tokens_per_min = 1 + random_below(LIMIT_PER_MIN_MAX >> random_below(33))};
        l.tokens_burst = random_below(2) ? 0 : 1 + random_below(100000);
        __int128 cap = (__int128)(l.tokens_burst ? l.tokens_burst : l.tokens_per_min) * 60000000, used = 0;
        struct limit_state s = {0};
        struct limit_verdict v;
        int64_t now = 0, before = 0;
        bool agreed = true;
        for (int i = 0; i < 2000; i++, before = now, now += gap()) {
            int64_t tokens = random_below(LIMIT_TOKENS_MAX >> random_below(30));
            used -= (__int128)l.tokens_per_min * (now - before);
            used = used < 0 ? 0 : used;
            bool expected = used + (__int128)tokens * 60000000 <= cap;
            admit1(&s, &l, now, tokens, &v);
            agreed = agreed && v.allowed == expected;
            if (v.allowed) {
                int64_t actual = random_below(3) ? tokens : random_below(LIMIT_TOKENS_MAX);
                settle1(&s, &l, now, tokens, actual);
                used += (__int128)actual * 60000000;
                used = used < 0 ? 0 : used;
            }
        }
        CHECK(agreed);
    }
}

static void waits_are_true(void)
{
    for (int round = 0; round < 3000; round++) {
        struct limit_spec l = {.requests_per_min = 1 + random_below(300), .tokens_per_min = 1 + random_below(100000)};
        struct limit_state s = {0}, copy;
        struct limit_verdict v;
        int64_t now = 5, tokens;
        do {
            tokens = random_below(l.tokens_per_min + 1);
            now += random_below(1000);
            admit1(&s, &l, now, tokens, &v);
            if (v.allowed)
                settle1(&s, &l, now, tokens, tokens);
        } while (v.allowed);
        CHECK(!v.never && v.wait_us > 0);
        copy = s;
        admit1(&copy, &l, now + v.wait_us - 1, tokens, &v);
        CHECK(!v.allowed);
        int64_t wait_us = v.wait_us;
        CHECK_INT(wait_us, 1);
        copy = s;
        admit1(&copy, &l, now + (1 + limit_retry_after_s(&v)) * 60000000, tokens, &v);
        CHECK(v.allowed);
    }
}

static void all_or_none(void)
{
    struct limit_spec wide = {.requests_per_min = 100, .tokens_per_min = 1000}, tight = {.requests_per_min = 2};
    struct limit_spec few = {.concurrent = 1};
    struct limit_state a = {0}, b = {0}, c = {0};
    struct limit_state *states[] = {&a, &b, &c};
    const struct limit_spec *specs[] = {&wide, &tight, &few};
    struct limit_verdict v;

    limits_admit(states, specs, 3, 0, 100, &v);
    CHECK(v.allowed);
    CHECK_INT(v.requests.limit, 2);
    CHECK_INT(v.requests.remaining, 1);
    CHECK_INT(v.requests.reset_us, 30000000);
    CHECK_INT(v.tokens.limit, 1000);
    CHECK_INT(v.tokens.remaining, 900);
    CHECK_INT(v.tokens.reset_us, 6000000);
    limits_admit(states, specs, 3, 0, 100, &v);
    CHECK(!v.allowed);
    CHECK_INT(v.scope, 2);
    CHECK_INT(v.kind, LIMIT_CONCURRENT);
    CHECK_INT(limit_retry_after_s(&v), 1);
    CHECK_INT(a.running, 1);
    CHECK_INT(a.tokens.used, 100 * LIMIT_UNITS);
    limits_settle(states, specs, 3, 0, 100, 40);
    CHECK_INT(a.tokens.used, 40 * LIMIT_UNITS);
    limits_admit(states, specs, 3, 0, 100, &v);
    CHECK(v.allowed);
    limits_settle(states, specs, 3, 0, 100, 100);
    limits_admit(states, specs, 3, 0, 100, &v); /* tight is used up; nothing may be taken from wide */
    CHECK(!v.allowed);
    CHECK_INT(v.scope, 1);
    CHECK_INT(v.kind, LIMIT_REQUESTS);
    CHECK_INT(v.limit, 2);
    CHECK_INT(v.wait_us, 30000000);
    CHECK_INT(limit_retry_after_s(&v), 30);
    CHECK_INT(a.requests.used, 2 * LIMIT_UNITS);
    CHECK_INT(a.running, 0);
}

static void too_large_is_never(void)
{
    struct limit_spec l = {.requests_per_min = 1, .tokens_per_min = 1000};
    struct limit_state s = {0};
    struct limit_verdict v;
    admit1(&s, &l, 0, 1001, &v);
    CHECK(!v.allowed && v.never);
    CHECK_INT(v.kind, LIMIT_TOKENS);
    admit1(&s, &l, 0, 1000, &v);
    CHECK(v.allowed);
    admit1(&s, &l, 0, 1001, &v); /* never outweighs any wait */
    CHECK(!v.allowed && v.never);
    CHECK_INT(v.kind, LIMIT_TOKENS);
    settle1(&s, &l, 0, 1000, INT64_MAX); /* a debt, not an overflow */
    admit1(&s, &l, 3600000000, 1, &v);
    CHECK(!v.allowed && !v.never && v.wait_us > 0);
}

static void odd_times_and_reloads(void)
{
    struct limit_spec l = {.requests_per_min = 1}, more = {.requests_per_min = 3}, none = {0};
    struct limit_state s = {0};
    struct limit_verdict v;
    admit1(&s, &l, 1000000, 0, &v);
    CHECK(v.allowed);
    admit1(&s, &l, 0, 0, &v); /* a clock that went back gives nothing */
    CHECK(!v.allowed);
    admit1(&s, &l, 60999999, 0, &v);
    CHECK(!v.allowed);
    CHECK_INT(v.wait_us, 1);
    admit1(&s, &more, 2000000, 0, &v); /* a new limit holds at once and what was used still counts */
    CHECK(v.allowed);
    CHECK_INT(v.requests.remaining, 1);
    admit1(&s, &none, 2000000, 0, &v);
    CHECK(v.allowed);
    CHECK_INT(v.requests.limit, 0);
    admit1(&s, &l, INT64_MAX, 0, &v);
    CHECK(v.allowed);
    CHECK_INT(s.running, 4);
    limits_admit(NULL, NULL, 0, 0, 5, &v);
    CHECK(v.allowed);
}

static void formats(void)
{
    char buf[32];
    CHECK_STR(limit_format_reset(0, buf, sizeof buf), "0ms");
    CHECK_STR(limit_format_reset(1, buf, sizeof buf), "1ms");
    CHECK_STR(limit_format_reset(999001, buf, sizeof buf), "1s");
    CHECK_STR(limit_format_reset(1000001, buf, sizeof buf), "2s");
    CHECK_STR(limit_format_reset(360000000, buf, sizeof buf), "6m0s");
    CHECK_STR(limit_format_reset(INT64_C(7500000000), buf, sizeof buf), "2h5m0s");
    struct limit_verdict v = {.wait_us = 1000001};
    CHECK_INT(limit_retry_after_s(&v), 2);
    CHECK_STR(limit_kind_name(LIMIT_TOKENS), "tokens");
}

/* ---- the table -------------------------------------------------------------------------------------------------- */

static enum rc ask(struct limit_table *t, const char *name, const struct limit_spec *l, int64_t now,
                   struct limit_ticket *ticket)
{
    struct limit_verdict v;
    struct limit_scope scope = {'k', name, *l};
    return limit_table_admit(t, &scope, 1, now, 0, ticket, &v);
}

static void eviction_resets_nothing(void)
{
    struct limit_table *t = limit_table_new(8);
    struct limit_spec l = {.requests_per_min = 1};
    struct limit_ticket k;
    char name[16];
    CHECK_INT(ask(t, "mine", &l, 0, &k), RC_OK);
    limit_table_settle(t, &k, 0, 0);
    CHECK_INT(ask(t, "mine", &l, 0, &k), RC_DENIED);
    for (int i = 0; i < 1000; i++) { /* crowd it out */
        snprintf(name, sizeof name, "other%d", i);
        enum rc rc = ask(t, name, &l, 1 + i, &k);
        CHECK(rc == (i < 7 ? RC_OK : RC_FULL));
        limit_table_settle(t, &k, 1 + i, 0);
    }
    CHECK_INT(ask(t, "mine", &l, 2000, &k), RC_DENIED);
    CHECK_INT(limit_table_stats(t).entries, 8);
    CHECK_INT(limit_table_stats(t).full, 993);
    /* A minute later everything is at rest and makes room. */
    for (int i = 0; i < 8; i++) {
        snprintf(name, sizeof name, "late%d", i);
        CHECK_INT(ask(t, name, &l, 61000000, &k), RC_OK);
        limit_table_settle(t, &k, 61000000, 0);
    }
    CHECK_INT(limit_table_stats(t).evicted, 8);
    limit_table_free(t);
}

static void running_is_pinned(void)
{
    struct limit_table *t = limit_table_new(2);
    struct limit_spec l = {.concurrent = 1};
    struct limit_ticket held, k;
    CHECK_INT(ask(t, "held", &l, 0, &held), RC_OK);
    for (int i = 0; i < 50; i++) {
        char name[16];
        snprintf(name, sizeof name, "n%d", i);
        CHECK_INT(ask(t, name, &l, i, &k), RC_OK);
        limit_table_settle(t, &k, i, 0);
    }
    CHECK_INT(ask(t, "held", &l, INT64_C(1) << 50, &k), RC_DENIED);
    limit_table_settle(t, &held, 0, 0);
    CHECK_INT(ask(t, "held", &l, 0, &k), RC_OK);
    limit_table_settle(t, &k, 0, 0);
    limit_table_settle(t, &k, 0, 0); /* zeroed: ignored */
    limit_table_free(t);
}

/* Making room for one scope of a request may not forget another of the same request, though it is at rest. */
static void room_is_not_made_at_ones_own_cost(void)
{
    struct limit_table *t = limit_table_new(1);
    struct limit_spec l = {.requests_per_min = 1};
    struct limit_scope scopes[] = {{'k', "a", l}, {'t', "b", l}};
    struct limit_ticket k;
    struct limit_verdict v;
    CHECK_INT(limit_table_admit(t, scopes, 1, 0, 0, &k, &v), RC_OK);
    limit_table_settle(t, &k, 0, 0);
    CHECK_INT(limit_table_admit(t, scopes, 2, 61000000, 0, &k, &v), RC_FULL);
    CHECK_INT(limit_table_stats(t).evicted, 0);
    CHECK_INT(limit_table_admit(t, scopes + 1, 1, 61000000, 0, &k, &v), RC_OK);
    CHECK_INT(limit_table_stats(t).evicted, 1);
    limit_table_settle(t, &k, 61000000, 0);
    limit_table_free(t);
}

static void kinds_do_not_meet(void)
{
    struct limit_table *t = limit_table_new(0);
    struct limit_spec l = {.requests_per_min = 1};
    struct limit_scope scopes[] = {{'k', "x", l}, {'u', "free", {0}}, {'t', "x", l}, {'m', "x", {.concurrent = 5}}};
    struct limit_ticket k;
    struct limit_verdict v;
    CHECK_INT(limit_table_admit(t, scopes, 4, 0, 10, &k, &v), RC_OK);
    CHECK_INT(k.n, 3);
    CHECK_INT(limit_table_stats(t).entries, 3);
    limit_table_settle(t, &k, 0, 10);
    CHECK_INT(limit_table_admit(t, scopes + 1, 3, 0, 10, &k, &v), RC_DENIED);
    CHECK_INT(v.scope, 1); /* the team, counted with the scope that limits nothing */
    CHECK_INT(k.n, 0);
    limit_table_free(t);
}

/* A small table against one without a bound: whatever the small one admits, the other does too. */
static void a_small_table_is_never_looser(void)
{
    struct limit_table *small = limit_table_new(6), *large = limit_table_new(1000);
    struct limit_spec l = {.requests_per_min = 4, .concurrent = 2};
    struct limit_ticket a, b;
    char name[8];
    int64_t now = 0;
    bool held = true;
    int differ = 0;
    for (int i = 0; i < 20000; i++, now += random_below(2000000)) {
        snprintf(name, sizeof name, "%d", (int)random_below(40));
        enum rc first = ask(small, name, &l, now, &a);
        if (first == RC_FULL) { /* counted nowhere, so not asked of the other */
            differ++;
            continue;
        }
        enum rc second = ask(large, name, &l, now, &b);
        held = held && first == second;
        limit_table_settle(small, &a, now, 0);
        limit_table_settle(large, &b, now, 0);
    }
    CHECK(held);
    CHECK(differ > 0);
    limit_table_free(small);
    limit_table_free(large);
}

int main(void)
{
    TEST(windows_hold_for_requests);
    TEST(windows_hold_for_tokens);
    TEST(agrees_with_a_naive_model);
    TEST(waits_are_true);
    TEST(all_or_none);
    TEST(too_large_is_never);
    TEST(odd_times_and_reloads);
    TEST(formats);
    TEST(eviction_resets_nothing);
    TEST(running_is_pinned);
    TEST(room_is_not_made_at_ones_own_cost);
    TEST(kinds_do_not_meet);
    TEST(a_small_table_is_never_looser);
    return TEST_RESULT();
}
