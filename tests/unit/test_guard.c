/* The guard's law: whatever is asked of it in whatever order, nodes, dollars per hour and launches per minute are never
 * exceeded by anything that it admitted; what was there anyhow counts.
 * links: spw_sched_capacity */
#include "scheduler/capacity/guard.h"

#include <inttypes.h>

#include "base/clock.h"
#include "tests/unit/test.h"

#define DOLLAR INT64_C(1000000000000)

static void says_why(void)
{
    const struct guard_limits l = {.nodes_max = 3, .hour_max = {5 * DOLLAR}, .launches_per_min = 2};
    struct guard *g = guard_new(&l);
    CHECK_INT(guard_admit(g, "a", (struct pusd){2 * DOLLAR}, 0), GUARD_OK);
    CHECK_INT(guard_admit(g, "a", (struct pusd){2 * DOLLAR}, 0), GUARD_KNOWN);
    CHECK_INT(guard_admit(g, "b", (struct pusd){4 * DOLLAR}, 0), GUARD_DOLLARS);
    CHECK_INT(guard_admit(g, "b", (struct pusd){3 * DOLLAR}, 1), GUARD_OK);
    CHECK_INT(guard_admit(g, "c", (struct pusd){0}, 2), GUARD_RATE);
    CHECK_INT(guard_admit(g, "c", (struct pusd){0}, 60 * NS_PER_S), GUARD_OK);
    CHECK_INT(guard_admit(g, "d", (struct pusd){0}, 200 * NS_PER_S), GUARD_NODES);
    guard_release(g, "a");
    guard_release(g, "nobody");
    CHECK_INT(guard_nodes(g), 2);
    CHECK_INT(guard_hour(g).v, 3 * DOLLAR);
    guard_price(g, "b", (struct pusd){9 * DOLLAR}); /* a price may rise */
    CHECK_INT(guard_admit(g, "d", (struct pusd){0}, 200 * NS_PER_S), GUARD_DOLLARS);
    CHECK_INT(guard_ask(g, (struct pusd){-1}, 200 * NS_PER_S), GUARD_DOLLARS);
    guard_free(g);
}

static uint64_t next(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

/* Beside the guard a book of our own, the simple way. */
struct book {
    bool there[64];
    int64_t price[64], at[4096];
    int n_at;
};

static int64_t sum(const struct book *b, int *n)
{
    int64_t s = 0;
    *n = 0;
    for (int i = 0; i < 64; i++)
        if (b->there[i])
            s += b->price[i], ++*n;
    return s;
}

static void a_step(struct guard *g, struct book *b, uint64_t *x, const struct guard_limits *l, int64_t now,
                   bool counted)
{
    char token[16];
    int i = (int)(next(x) % 64), n;
    int64_t price = (int64_t)(next(x) % 1000) * (DOLLAR / 100);
    snprintf(token, sizeof token, "t%d", i);
    switch (next(x) % (counted ? 5 : 3)) {
    case 0:
    case 1:
        if (guard_admit(g, token, (struct pusd){price}, now) != GUARD_OK)
            break;
        b->there[i] = true;
        b->price[i] = price;
        int64_t all = sum(b, &n);
        CHECK(n <= l->nodes_max && all <= l->hour_max.v);
        b->at[b->n_at++] = now;
        int in = 0;
        for (int k = 0; k < b->n_at; k++)
            in += now - b->at[k] < 60 * NS_PER_S;
        CHECK(in <= l->launches_per_min);
        break;
    case 2:
        guard_release(g, token);
        b->there[i] = false;
        break;
    case 3:
        guard_count(g, token, (struct pusd){price});
        b->there[i] = true;
        b->price[i] = price;
        break;
    case 4:
        guard_price(g, token, (struct pusd){price});
        if (b->there[i])
            b->price[i] = price;
        break;
    }
    CHECK_INT(guard_hour(g).v, sum(b, &n));
    CHECK_INT(guard_nodes(g), n);
}

static void never_more_than_allowed(void)
{
    uint64_t x = 88172645463325252u;
    for (int run = 0; run < 200; run++) {
        const struct guard_limits l = {.nodes_max = (int)(next(&x) % 20),
                                       .hour_max = {(int64_t)(next(&x) % 50) * DOLLAR},
                                       .launches_per_min = 1 + (int)(next(&x) % 30)};
        struct guard *g = guard_new(&l);
        struct book b = {.n_at = 0};
        int64_t now = 0;
        for (int i = 0; i < 1000; i++) {
            now += (int64_t)(next(&x) % (3 * (uint64_t)NS_PER_S));
            a_step(g, &b, &x, &l, now, run % 2);
        }
        guard_free(g);
    }
}

int main(void)
{
    TEST(says_why);
    TEST(never_more_than_allowed);
    return TEST_RESULT();
}
