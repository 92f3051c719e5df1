/* Proves the laws of waiting rooms (policies/waiting.h): who is let in at the bounds and by foresight, and in which
 * order slots are given: answers under way, classes with a turn for batch, fair shares between tenants, deadlines
 * within one, and past everybody whom a slot does not suit.
 * links: spw_policies */
#include "tests/unit/test.h"

#include <stdint.h>
#include <stdlib.h>

#include "policies/waiting.h"

#define MS  INT64_C(1000000)
#define S   (1000 * MS)
#define INF INT64_MAX

static uint64_t random_state = 1;
static int64_t random_below(int64_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (int64_t)((random_state * 0x2545f4914f6cdd1du) >> 11) % n;
}

static void make_room(struct waiting *room, int64_t count, int64_t bytes, int64_t wait_ns)
{
    struct waiting_bounds b = {.count = count, .bytes = bytes, .wait_ns = wait_ns};
    waiting_init(room);
    waiting_set_bounds(room, WAITING_INTERACTIVE, &b);
    waiting_set_bounds(room, WAITING_BATCH, &b);
}

static struct waiter waiter(const char *tenant, enum waiting_class class)
{
    return (struct waiter){.tenant = tenant, .class = class, .cost = 100, .bytes = 10, .start_by_ns = INF};
}

static bool all_fit(const struct waiter *w, void *arg)
{
    (void)w;
    (void)arg;
    return true;
}

static bool none_fits(const struct waiter *w, void *arg)
{
    (void)w;
    (*(int *)arg)++;
    return false;
}

/* A slot that is no local one's, and no picky one's but those with this cost. */
static bool fits_remote(const struct waiter *w, void *arg)
{
    return w->reach == WAITING_ANYWHERE || (w->reach == WAITING_PICKY && w->cost == *(int64_t *)arg);
}

static struct waiter *give(struct waiting *room, int64_t now)
{
    struct waiter *w = waiting_best(room, now, all_fit, NULL);
    if (w)
        waiting_take(room, w, now);
    return w;
}

static void empty(struct waiting *room)
{
    while (give(room, 0))
        continue;
    waiting_fini(room);
}

/* ---- order ------------------------------------------------------------------------------------------------------ */

static void one_tenant_by_arrival_and_deadline(void)
{
    struct waiting room;
    struct waiter w[5];
    make_room(&room, 100, 1000, 10 * S);
    for (int i = 0; i < 5; i++) {
        w[i] = waiter("a", WAITING_INTERACTIVE);
        if (i == 3)
            w[i].start_by_ns = 2 * S;
        CHECK_INT(waiting_enter(&room, &w[i], i * MS), WAITING_IN);
    }
    CHECK_INT(w[3].until_ns, 2 * S);
    CHECK_INT(w[4].until_ns, 10 * S + 4 * MS);
    CHECK_INT(waiting_oldest_ns(&room, WAITING_INTERACTIVE, 100 * MS), 100 * MS);
    const int order[] = {3, 0, 1, 2, 4};
    for (int i = 0; i < 5; i++)
        CHECK(give(&room, S) == &w[order[i]]);
    CHECK(give(&room, S) == NULL);
    CHECK_INT(waiting_oldest_ns(&room, WAITING_INTERACTIVE, 100 * MS), 0);
    empty(&room);
}

static void a_new_tenant_waits_for_one_slot(void)
{
    static struct waiter many[1000];
    for (int served = 0; served < 3; served++) {
        struct waiting room;
        struct waiter late = waiter("b", WAITING_INTERACTIVE);
        make_room(&room, 2000, 1 << 20, 1000 * S);
        for (int i = 0; i < 1000; i++) {
            many[i] = waiter("a", WAITING_INTERACTIVE);
            many[i].cost = 1 + random_below(5000);
            CHECK_INT(waiting_enter(&room, &many[i], 0), WAITING_IN);
        }
        for (int i = 0; i < served; i++)
            CHECK(give(&room, S) == &many[i]);
        CHECK_INT(waiting_enter(&room, &late, S), WAITING_IN);
        struct waiter *first = give(&room, S), *second = give(&room, S);
        CHECK(first == &late || second == &late);
        empty(&room);
    }
}

/* Any two tenants that have waited all the time differ in what they were given by no more than the largest request of
 * each (the bound of start-time fair queueing). */
static void backlogged_tenants_get_equal_work(void)
{
    enum { TENANTS = 5, EACH = 400 };
    static struct waiter w[TENANTS][EACH];
    static const char *const names[TENANTS] = {"a", "b", "c", "d", "e"};
    int64_t work[TENANTS] = {0}, most[TENANTS];
    struct waiting room;
    make_room(&room, 100000, 1 << 30, 1000 * S);
    for (int t = 0; t < TENANTS; t++) {
        most[t] = 10 + 700 * t;
        for (int i = 0; i < EACH; i++) {
            w[t][i] = waiter(names[t], WAITING_INTERACTIVE);
            w[t][i].cost = 1 + random_below(most[t]);
            CHECK_INT(waiting_enter(&room, &w[t][i], 0), WAITING_IN);
        }
    }
    for (int slot = 0; slot < 500; slot++) {
        struct waiter *g = give(&room, S);
        work[(g - &w[0][0]) / EACH] += g->cost;
        if (!w[0][EACH - 1].waits)
            break; /* the one with the small requests is through */
        for (int i = 0; i < TENANTS; i++) {
            for (int k = 0; k < i; k++)
                CHECK(llabs(work[i] - work[k]) <= most[i] + most[k]);
        }
    }
    empty(&room);
}

static void a_tenant_that_returns_is_not_paid_twice(void)
{
    struct waiting room;
    struct waiter a = waiter("a", WAITING_INTERACTIVE), a2 = a, b[3];
    a.cost = 1000;
    make_room(&room, 100, 1000, 10 * S);
    CHECK_INT(waiting_enter(&room, &a, 0), WAITING_IN);
    for (int i = 0; i < 3; i++) {
        b[i] = waiter("b", WAITING_INTERACTIVE);
        CHECK_INT(waiting_enter(&room, &b[i], 0), WAITING_IN);
    }
    CHECK(give(&room, 0) == &a); /* it was first; now it has had 1,000 */
    CHECK_INT(waiting_enter(&room, &a2, 0), WAITING_IN);
    for (int i = 0; i < 3; i++)
        CHECK(give(&room, 0) == &b[i]);
    CHECK(give(&room, 0) == &a2);
    empty(&room);
}

static void work_is_corrected(void)
{
    struct waiting room;
    struct waiter a[3], b[5], c = waiter("c", WAITING_INTERACTIVE);
    make_room(&room, 100, 1000, 10 * S);
    for (int i = 0; i < 3; i++) {
        a[i] = waiter("a", WAITING_INTERACTIVE);
        CHECK_INT(waiting_enter(&room, &a[i], 0), WAITING_IN);
    }
    for (int i = 0; i < 5; i++) {
        b[i] = waiter("b", WAITING_INTERACTIVE);
        CHECK_INT(waiting_enter(&room, &b[i], 0), WAITING_IN);
    }
    CHECK(give(&room, 0) == &a[0]);
    CHECK(give(&room, 0) == &b[0]);
    waiting_correct(&room, WAITING_INTERACTIVE, "a", 150); /* longer than was thought: b gets two */
    waiting_correct(&room, WAITING_INTERACTIVE, "nobody", 150);
    CHECK(give(&room, 0) == &b[1]);
    CHECK(give(&room, 0) == &b[2]);
    CHECK(give(&room, 0) == &a[1]);
    waiting_correct(&room, WAITING_INTERACTIVE, "b",
                    -1000000); /* nobody gets ahead of the others by what he gave back */
    CHECK_INT(waiting_enter(&room, &c, 0), WAITING_IN);
    CHECK(give(&room, 0) == &b[3]);
    struct waiter *next[] = {give(&room, 0), give(&room, 0)};
    CHECK(next[0] == &c || next[1] == &c);
    CHECK(next[0] != &b[4] && next[1] != &b[4]);
    empty(&room);
}

static void batch_is_last_until_it_is_its_turn(void)
{
    static struct waiter fast[100];
    struct waiting room;
    struct waiter slow[2];
    make_room(&room, 1000, 10000, 10 * S);
    for (int i = 0; i < 100; i++) {
        fast[i] = waiter("a", WAITING_INTERACTIVE);
        CHECK_INT(waiting_enter(&room, &fast[i], 0), WAITING_IN);
    }
    for (int i = 0; i < 2; i++) {
        slow[i] = waiter("b", WAITING_BATCH);
        CHECK_INT(waiting_enter(&room, &slow[i], 0), WAITING_IN);
    }
    for (int i = 0; i < 20; i++) /* it has not waited for half of its time */
        CHECK(give(&room, 4 * S)->class == WAITING_INTERACTIVE);
    CHECK(give(&room, 5 * S) == &slow[0]);
    for (int i = 0; i < WAITING_BATCH_TURN - 1; i++)
        CHECK(give(&room, 5 * S)->class == WAITING_INTERACTIVE);
    CHECK(give(&room, 5 * S) == &slow[1]);
    CHECK(give(&room, 5 * S)->class == WAITING_INTERACTIVE);
    empty(&room);
}

static void under_way_before_all(void)
{
    struct waiting room;
    struct waiter a = waiter("a", WAITING_INTERACTIVE), going[2];
    make_room(&room, 1, 1000, 10 * S);
    CHECK_INT(waiting_enter(&room, &a, 0), WAITING_IN);
    for (int i = 0; i < 2; i++) {
        going[i] = waiter("a", WAITING_BATCH);
        going[i].under_way = true;
        going[i].start_by_ns = 30 * S;
        CHECK_INT(waiting_enter(&room, &going[i], 0), WAITING_IN); /* no bound for it */
        CHECK_INT(going[i].until_ns, 30 * S);
    }
    CHECK_INT(waiting_count(&room), 3);
    CHECK(give(&room, 0) == &going[0]);
    CHECK(give(&room, 0) == &going[1]);
    CHECK(give(&room, 0) == &a);
    empty(&room);
}

static void whom_the_slot_does_not_suit_is_overtaken(void)
{
    struct waiting room;
    int64_t wanted = 7;
    struct waiter local = waiter("a", WAITING_INTERACTIVE), any = local, picky = local, batch = local;
    local.reach = WAITING_LOCAL;
    picky.reach = WAITING_PICKY;
    picky.cost = 7;
    batch.class = WAITING_BATCH;
    make_room(&room, 10, 1000, 10 * S);
    CHECK_INT(waiting_enter(&room, &local, 0), WAITING_IN);
    CHECK_INT(waiting_enter(&room, &picky, 1), WAITING_IN);
    CHECK_INT(waiting_enter(&room, &any, 2), WAITING_IN);
    CHECK_INT(waiting_enter(&room, &batch, 3), WAITING_IN);
    CHECK(waiting_best(&room, 4, all_fit, NULL) == &local);
    CHECK(waiting_best(&room, 4, fits_remote, &wanted) == &picky);
    wanted = 8;
    CHECK(waiting_best(&room, 4, fits_remote, &wanted) == &any);
    waiting_leave(&room, &any);
    CHECK(waiting_best(&room, 4, fits_remote, &wanted) == &batch);
    int asked = 0;
    CHECK(waiting_best(&room, 4, none_fits, &asked) == NULL);
    CHECK_INT(asked, 3); /* one of each reach and class, and the picky one */
    empty(&room);
}

static void many_of_one_reach_are_asked_once(void)
{
    static struct waiter w[500];
    struct waiting room;
    int asked = 0;
    make_room(&room, 1000, 100000, 10 * S);
    for (int i = 0; i < 500; i++) {
        w[i] = waiter(i % 2 ? "a" : "b", WAITING_INTERACTIVE);
        if (i >= 300)
            w[i].reach = WAITING_PICKY;
        CHECK_INT(waiting_enter(&room, &w[i], 0), WAITING_IN);
    }
    CHECK(waiting_best(&room, 0, none_fits, &asked) == NULL);
    CHECK_INT(asked, 1 + WAITING_LOOKS_MAX);
    empty(&room);
}

/* ---- who is let in ---------------------------------------------------------------------------------------------- */

static void bounds_hold(void)
{
    static struct waiter w[100];
    struct waiting room;
    struct waiter more = waiter("b", WAITING_INTERACTIVE), big = more, other = waiter("a", WAITING_BATCH);
    make_room(&room, 90, 1000, 10 * S);
    for (int i = 0; i < 80; i++) {
        w[i] = waiter("a", WAITING_INTERACTIVE);
        CHECK_INT(waiting_enter(&room, &w[i], 0), WAITING_IN);
    }
    w[80] = waiter("a", WAITING_INTERACTIVE);
    CHECK_INT(waiting_enter(&room, &w[80], 0), WAITING_CROWDED); /* 8 x 10 left */
    big.bytes = 201;
    CHECK_INT(waiting_enter(&room, &big, 0), WAITING_BYTES);
    big.bytes = 200; /* a tenant's first needs no share */
    CHECK_INT(waiting_enter(&room, &big, 0), WAITING_IN);
    CHECK_INT(waiting_enter(&room, &more, 0), WAITING_BYTES);
    more.bytes = 0;
    CHECK_INT(waiting_enter(&room, &more, 0), WAITING_CROWDED); /* 200 of 0 bytes left */
    waiting_leave(&room, &big);
    for (int i = 81; i < 91; i++) {
        static const char *const names[] = {"c", "d", "e", "f", "g", "h", "i", "j", "k", "l"};
        w[i] = waiter(names[i - 81], WAITING_INTERACTIVE);
        CHECK_INT(waiting_enter(&room, &w[i], 0), WAITING_IN);
    }
    CHECK_INT(waiting_enter(&room, &more, 0), WAITING_FULL);
    CHECK_INT(waiting_enter(&room, &other, 0), WAITING_IN); /* each class has its own places */
    empty(&room);
}

static void a_small_room_is_filled_by_one_tenant(void)
{
    struct waiting room;
    struct waiter w[7];
    make_room(&room, 6, 1000, 10 * S);
    for (int i = 0; i < 7; i++) {
        w[i] = waiter("a", WAITING_INTERACTIVE);
        CHECK_INT(waiting_enter(&room, &w[i], 0), i < 6 ? WAITING_IN : WAITING_FULL);
    }
    empty(&room);
}

static void nobody_waits_where_nobody_may(void)
{
    struct waiting room;
    struct waiter w = waiter("a", WAITING_INTERACTIVE), late = w;
    make_room(&room, 10, 1000, 0);
    CHECK_INT(waiting_enter(&room, &w, 0), WAITING_NO_WAIT);
    CHECK_INT(waiting_retry_after_s(&room, WAITING_INTERACTIVE, 0), 1);
    waiting_fini(&room);
    make_room(&room, 10, 1000, S);
    late.start_by_ns = 5;
    CHECK_INT(waiting_enter(&room, &late, 5), WAITING_TOO_LATE);
    waiting_fini(&room);
}

/* 10 slots per second and a bound of 10 s: 75 may wait. */
static void a_wait_in_vain_is_foreseen(void)
{
    static struct waiter w[2000];
    struct waiting room;
    int n = 0, in = 0;
    make_room(&room, 100000, 1 << 20, 10 * S);
    for (; n < 60; n++) {
        w[n] = waiter("a", WAITING_INTERACTIVE);
        CHECK_INT(waiting_enter(&room, &w[n], 0), WAITING_IN);
    }
    for (int i = 1; i <= 10; i++)
        CHECK(give(&room, i * 100 * MS) != NULL);
    CHECK_INT(waiting_rate(&room, WAITING_INTERACTIVE, S) + 0.5, 10);
    CHECK_INT(waiting_retry_after_s(&room, WAITING_INTERACTIVE, S), 6);
    for (; n < 200; n++) {
        w[n] = waiter("a", WAITING_INTERACTIVE);
        enum waiting_verdict v = waiting_enter(&room, &w[n], S);
        CHECK(v == WAITING_IN || v == WAITING_TOO_LONG);
        in += v == WAITING_IN;
    }
    CHECK_INT(50 + in, 75);
    /* Whoever is new waits less. */
    struct waiter b = waiter("b", WAITING_INTERACTIVE), hurried = b, too_hurried = b,
                  own = waiter("a", WAITING_INTERACTIVE);
    b.until_ns = 10 * S;
    CHECK_INT(waiting_expected_ns(&room, &b, S) / MS, 200);
    hurried.start_by_ns = S + 250 * MS;
    too_hurried.start_by_ns = S + 150 * MS;
    CHECK_INT(waiting_enter(&room, &too_hurried, S), WAITING_TOO_LATE);
    CHECK_INT(waiting_enter(&room, &hurried, S), WAITING_IN);
    own.start_by_ns = S + 900 * MS; /* the earliest deadline of its own tenant: nobody of them is before it */
    CHECK_INT(waiting_enter(&room, &own, S), WAITING_IN);
    empty(&room);
}

/* The meter forgets what was long ago, and what nobody waited for. */
static void the_rate_follows(void)
{
    static struct waiter w[9000];
    struct waiting room;
    int64_t now = 0;
    make_room(&room, 10000, 1 << 20, 10000 * S);
    for (int i = 0; i < 9000; i++) {
        w[i] = waiter("a", WAITING_INTERACTIVE);
        if (waiting_enter(&room, &w[i], 0) != WAITING_IN)
            break;
    }
    CHECK_INT(waiting_rate(&room, WAITING_INTERACTIVE, S), 0);
    for (int i = 0; i < 5000; i++)
        give(&room, now += MS);
    CHECK(llabs((int64_t)waiting_rate(&room, WAITING_INTERACTIVE, now) - 1000) < 50);
    for (int i = 0; i < 50; i++)
        give(&room, now += 200 * MS);
    CHECK_INT(waiting_rate(&room, WAITING_INTERACTIVE, now) + 0.5, 5);
    CHECK(waiting_rate(&room, WAITING_INTERACTIVE, now + 60 * S) < 1); /* nothing moves */
    CHECK_INT(waiting_retry_after_s(&room, WAITING_INTERACTIVE, now), WAITING_RETRY_MAX_S);
    empty(&room);
}

/* ---- who is late ------------------------------------------------------------------------------------------------ */

/* In time until the second `late`, then behind the others until the second `back`. */
static struct waiter promised(const char *tenant, int64_t late, int64_t back)
{
    struct waiter w = waiter(tenant, WAITING_INTERACTIVE);
    w.late_ns = late * S;
    w.back_ns = back * S;
    return w;
}

static void whoever_is_late_stands_back(void)
{
    struct waiting room;
    struct waiter w[] = {promised("a", 1, 30), promised("a", 5, 30), promised("b", 1, 30), promised("b", 9, 30)};
    make_room(&room, 100, 1000, 100 * S);
    for (int i = 0; i < 4; i++)
        CHECK_INT(waiting_enter(&room, &w[i], i), WAITING_IN);
    CHECK(waiting_best(&room, S / 2, all_fit, NULL) == &w[0]); /* nobody is late yet */
    CHECK(give(&room, 2 * S) == &w[1]);                        /* w[0] and w[2] are: the first in time, of any tenant */
    CHECK(give(&room, 2 * S) == &w[3]);
    CHECK(waiting_best(&room, 2 * S, all_fit, NULL) == &w[0]); /* of the late as of the others */
    waiting_leave(&room, &w[2]);
    w[1] = promised("b", 60, 70);
    CHECK_INT(waiting_enter(&room, &w[1], 3 * S), WAITING_IN);
    CHECK(waiting_best(&room, 29 * S, all_fit, NULL) == &w[1]);
    CHECK(waiting_best(&room, 30 * S, all_fit, NULL) == &w[0]);
    CHECK(!w[0].stands_back); /* its time to stand back is over */
    empty(&room);
}

/* Too late for some, who say so. */
static bool fits_who_costs_less(const struct waiter *w, void *arg)
{
    if (w->cost >= *(int64_t *)arg)
        ((struct waiter *)(uintptr_t)w)->late_ns = 0;
    return w->cost < *(int64_t *)arg;
}

static void whoever_turns_out_to_be_late_gives_way(void)
{
    struct waiting room;
    struct waiter w[4];
    int64_t less = 100;
    int asked = 0;
    make_room(&room, 100, 1000, 100 * S);
    for (int i = 0; i < 4; i++) {
        w[i] = promised("a", 50, 60);
        w[i].cost = i < 2 ? 100 : 99;
        CHECK_INT(waiting_enter(&room, &w[i], i), WAITING_IN);
    }
    CHECK(waiting_best(&room, S, fits_who_costs_less, &less) == &w[2]); /* found while it looks */
    CHECK(w[0].stands_back && w[1].stands_back);
    CHECK(waiting_best(&room, S, none_fits, &asked) == NULL);
    CHECK_INT(asked, 1);
    CHECK(waiting_give_way(&room, &w[2], S)); /* found by whoever has looked */
    CHECK(!waiting_give_way(&room, &w[2], S) && !waiting_give_way(&room, &w[3], 60 * S));
    CHECK(waiting_best(&room, S, all_fit, NULL) == &w[3]);
    empty(&room);
}

/* ---- everything at once ----------------------------------------------------------------------------------------- */

static bool random_fit(const struct waiter *w, void *arg)
{
    return w->reach != WAITING_LOCAL || *(int *)arg;
}

static void churn(void)
{
    enum { N = 300 };
    static struct waiter w[N];
    static char names[40][8];
    struct waiting room;
    int64_t now = 0, waits = 0;
    make_room(&room, 100, 3000, S);
    for (int i = 0; i < 40; i++)
        snprintf(names[i], sizeof names[i], "t%d", i);
    for (int i = 0; i < 200000; i++) {
        struct waiter *x = &w[random_below(N)];
        now += random_below(3 * MS);
        if (x->waits && random_below(3) == 0) {
            waiting_leave(&room, x);
            waits--;
        } else if (!x->waits) {
            *x = waiter(names[random_below(40)], random_below(3) ? WAITING_INTERACTIVE : WAITING_BATCH);
            x->reach = (enum waiting_reach)random_below(3);
            x->cost = random_below(3000);
            x->bytes = random_below(100);
            x->under_way = random_below(20) == 0;
            x->start_by_ns = x->under_way || random_below(3) == 0 ? now + random_below(2 * S) : INF;
            x->late_ns = now + random_below(S);
            x->back_ns = x->class == WAITING_BATCH ? 0 : x->late_ns + random_below(S);
            waits += waiting_enter(&room, x, now) == WAITING_IN;
        }
        if (random_below(3) == 0) {
            int local = random_below(2) == 0;
            struct waiter *g = waiting_best(&room, now, random_fit, &local);
            CHECK(!g || (g->waits && random_fit(g, &local)));
            if (g && !g->under_way && g->class == WAITING_INTERACTIVE && random_below(4) == 0)
                (void)waiting_give_way(&room, g, now);
            if (g) {
                waiting_take(&room, g, now);
                waiting_correct(&room, g->class, g->tenant, random_below(200) - 100);
                waits--;
            }
        }
        if (waits != waiting_count(&room)) {
            CHECK(!"the count is right");
            break;
        }
        CHECK(room.lines[0].n <= 100 && room.lines[0].bytes <= 3000 && room.lines[0].bytes >= 0);
    }
    empty(&room);
}

int main(void)
{
    TEST(one_tenant_by_arrival_and_deadline);
    TEST(a_new_tenant_waits_for_one_slot);
    TEST(backlogged_tenants_get_equal_work);
    TEST(a_tenant_that_returns_is_not_paid_twice);
    TEST(work_is_corrected);
    TEST(batch_is_last_until_it_is_its_turn);
    TEST(under_way_before_all);
    TEST(whom_the_slot_does_not_suit_is_overtaken);
    TEST(many_of_one_reach_are_asked_once);
    TEST(bounds_hold);
    TEST(a_small_room_is_filled_by_one_tenant);
    TEST(nobody_waits_where_nobody_may);
    TEST(a_wait_in_vain_is_foreseen);
    TEST(the_rate_follows);
    TEST(whoever_is_late_stands_back);
    TEST(whoever_turns_out_to_be_late_gives_way);
    TEST(churn);
    return TEST_RESULT();
}
