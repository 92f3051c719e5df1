/* Proves the store that several schedulers share against a real redis-server that is killed, stopped, emptied and set
 * up wrongly: what is granted never exceeds the limit, every call is answered, nothing is lost and nothing counted
 * twice. Skipped by name where there is no redis-server.
 * links: spw_sched_budgets */
#include "tests/unit/test.h"

#include "base/alloc.h"
#include "scheduler/budgets/redis.h"
#include "tests/unit/redis_help.h"

#define START       INT64_C(1700000000)
#define TIMEOUT_MS  1000
#define PATIENCE_MS 30000

static struct event_base *loop;
static struct log log_;
static struct help_server server;
static const char *const durable[] = {"--appendonly", "yes", "--appendfsync", "always", "--requirepass",
                                      "secret",       NULL};

struct scheduler {
    struct budget_store *store;
    struct budget_port *port;
};

static struct scheduler scheduler_new(int64_t allowance, int64_t dead_ms, int ledgers, const char *name)
{
    struct redis_store_options o = {.clock = &clock_system,
                                    .log = &log_,
                                    .host = "127.0.0.1",
                                    .port = server.port,
                                    .password = "secret",
                                    .timeout_ms = TIMEOUT_MS,
                                    .dead_ms = dead_ms,
                                    .allowance = {allowance},
                                    .ledgers = ledgers,
                                    .name = name};
    struct scheduler s = {.store = redis_store_new(&o)};
    struct error e;
    CHECK(s.store->ops->port_new(s.store, loop, NULL, &s.port, &e) == RC_OK);
    return s;
}

static void scheduler_free(struct scheduler *s)
{
    s->store->ops->port_free(s->port);
    s->store->ops->free(s->store);
}

static bool is_open(const struct scheduler *s, bool wanted)
{
    for (int64_t end = peer_ms() + PATIENCE_MS; peer_ms() < end; peer_pump(loop))
        if ((redis_store_stats(s->store).open > 0) == wanted)
            return true;
    return false;
}

static struct budget_claim claim(const char *name, int64_t hard)
{
    return (struct budget_claim){.name = name,
                                 .start_s = START,
                                 .end_s = INT64_C(4000000000),
                                 .before_start_s = START - 1000,
                                 .limits = {.hard = {hard}},
                                 .soft = {BUDGET_UNLIMITED}};
}

struct answer {
    int called;
    enum rc rc;
    struct budget_grant grant;
    struct budget_hold *hold;
    struct budget_view views[4];
};

static void on_answer(const struct budget_answer *a, void *arg)
{
    struct answer *x = arg;
    x->called++;
    x->rc = a->rc;
    x->grant = a->grant;
    x->hold = a->hold ? a->hold : x->hold;
    for (int i = 0; i < a->n && i < 4; i++)
        x->views[i] = a->views[i];
}

static bool wait_for(const struct answer *a)
{
    return peer_wait(loop, &a->called, 1, PATIENCE_MS);
}

static struct answer reserve(struct scheduler *s, const char *id, const struct budget_claim *c, int n, int64_t fixed,
                             int64_t unit, int64_t want)
{
    struct answer a = {0};
    struct budget_ask ask = {.fixed = {fixed}, .unit = {unit}, .units_min = want > 0, .units_want = want};
    CHECK(s->port && s->store->ops->reserve(s->port, id, c, n, &ask, on_answer, &a) == RC_OK);
    CHECK(wait_for(&a));
    return a;
}

static struct answer extend(struct scheduler *s, struct budget_hold *h, const struct budget_claim *c, int n,
                            int64_t amount)
{
    struct answer a = {.hold = h};
    struct budget_ask ask = {.fixed = {amount}};
    CHECK(s->store->ops->extend(s->port, h, c, n, &ask, on_answer, &a) == RC_OK);
    CHECK(wait_for(&a));
    return a;
}

static struct budget_state look(struct scheduler *s, const struct budget_claim *c)
{
    struct answer a = {0};
    CHECK(s->store->ops->read(s->port, c, 1, on_answer, &a) == RC_OK);
    CHECK(wait_for(&a) && a.rc == RC_OK);
    return a.views[0].state;
}

/* What it is once so much is spent and so much reserved, or after a long while. */
static struct budget_state look_until(struct scheduler *s, const struct budget_claim *c, int64_t spent, int64_t least,
                                      int64_t most)
{
    struct budget_state x = look(s, c);
    for (int64_t end = peer_ms() + PATIENCE_MS; peer_ms() < end; x = look(s, c)) {
        if (x.spent.v == spent && x.reserved.v >= least && x.reserved.v <= most)
            break;
        peer_run_ms(loop, 10);
    }
    return x;
}

static void settle(struct scheduler *s, struct budget_hold *h, int64_t spent)
{
    (void)s->store->ops->settle(s->port, h, (struct pusd){spent});
}

static bool all_settled(const struct scheduler *s)
{
    for (int64_t end = peer_ms() + PATIENCE_MS; peer_ms() < end; peer_pump(loop))
        if (redis_store_stats(s->store).unsettled == 0)
            return true;
    return false;
}

static void raw(const char *command)
{
    redisContext *c = redisConnect("127.0.0.1", server.port);
    freeReplyObject(redisCommand(c, "AUTH secret"));
    freeReplyObject(redisCommand(c, command));
    redisFree(c);
}

static void restart(void)
{
    CHECK(help_server_start(&server, durable));
}

/* ---- tests ---- */

static void test_together(void)
{
    struct scheduler a = scheduler_new(0, 0, 1, "a"), b = scheduler_new(0, 0, 1, "b");
    struct budget_claim c[] = {claim("team", 1000), claim("org", 5000)};
    CHECK(is_open(&a, true) && is_open(&b, true));
    struct answer one = reserve(&a, "r1", c, 2, 100, 10, 50);
    CHECK(one.rc == RC_OK && one.grant.units == 50 && one.grant.amount.v == 600 && one.hold);
    CHECK(one.hold->n == 2 && strcmp(one.hold->of[1].name, "org") == 0 && one.hold->granted.v == 600);
    struct answer two = reserve(&b, "r2", c, 2, 100, 10, 50); /* the other sees it, and gets what is left */
    CHECK(two.rc == RC_OK && two.grant.units == 30 && two.views[0].state.reserved.v == 1000);
    struct answer three = reserve(&b, "r3", c, 2, 1, 0, 0);
    CHECK(three.rc == RC_DENIED && three.grant.refused == 0 && three.grant.may_wait && !three.hold);
    settle(&a, one.hold, 50);
    CHECK(all_settled(&a));
    struct answer more = extend(&b, two.hold, c, 2, 500);
    CHECK(more.rc == RC_OK && two.hold->granted.v == 900);
    CHECK(extend(&b, two.hold, c, 2, 51).rc == RC_DENIED);
    CHECK(extend(&b, two.hold, c, 2, 50).rc == RC_OK);
    settle(&b, two.hold, 940);
    CHECK(all_settled(&b));
    struct budget_state s = look(&a, &c[0]), org = look(&a, &c[1]);
    CHECK(s.spent.v == 990 && s.reserved.v == 0 && org.spent.v == 990);
    struct answer x = {0};
    CHECK(a.store->ops->top_up(a.port, c, (struct pusd){70}, on_answer, &x) == RC_OK && wait_for(&x));
    CHECK(x.rc == RC_OK && x.views[0].state.topped_up.v == 70);
    x = (struct answer){0};
    CHECK(b.store->ops->set(b.port, c, (struct pusd){2000}, (struct pusd){-1}, on_answer, &x) == RC_OK && wait_for(&x));
    CHECK(x.views[0].hard.v == 2000 && x.views[0].soft.v == BUDGET_UNLIMITED);
    three = reserve(&a, "r4", c, 1, 1080, 0, 0);
    CHECK(three.rc == RC_OK);
    settle(&a, three.hold, 0);
    scheduler_free(&b);
    scheduler_free(&a);
}

/* Killed under load: every call is answered, and the books are those of what was told. */
static void test_killed(void)
{
    struct scheduler a = scheduler_new(0, 0, 1, "a");
    struct budget_claim c[] = {claim("killed", INT64_C(1) << 60)};
    static struct answer x[400];
    int64_t spent = 0, n = 0;
    CHECK(is_open(&a, true));
    memset(x, 0, sizeof x);
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 100; i++) {
            char id[32];
            snprintf(id, sizeof id, "k%d", (int)n);
            struct budget_ask ask = {.fixed = {1000 + n}};
            CHECK(a.store->ops->reserve(a.port, id, c, 1, &ask, on_answer, &x[n++]) == RC_OK);
        }
        if (round % 2)
            peer_run_ms(loop, round * 2);
        help_server_kill(&server);
        peer_run_ms(loop, 30);
        restart();
        for (int64_t i = n - 100; i < n; i++) {
            CHECK(wait_for(&x[i]));
            if (x[i].rc == RC_OK)
                settle(&a, x[i].hold, 900 + i);
            spent += x[i].rc == RC_OK ? 900 + i : 0;
        }
        CHECK(is_open(&a, true));
    }
    CHECK(all_settled(&a) && spent > 0);
    struct budget_state s = look(&a, c);
    CHECK_INT(s.spent.v, spent);
    CHECK_INT(s.reserved.v, 0);
    CHECK_INT(s.waste.v, 0);
    scheduler_free(&a);
}

/* Stopped, not dead: refused in time; what it took nevertheless is given back. */
static void test_stopped(void)
{
    struct scheduler a = scheduler_new(0, 0, 1, "a");
    struct budget_claim c[] = {claim("stopped", 1000)};
    CHECK(is_open(&a, true));
    struct answer held = reserve(&a, "s0", c, 1, 100, 0, 0);
    kill(server.pid, SIGSTOP);
    int64_t before = peer_ms();
    struct answer x = reserve(&a, "s1", c, 1, 300, 0, 0);
    CHECK(x.rc != RC_OK && x.rc != RC_DENIED && !x.hold);
    CHECK(peer_ms() - before >= TIMEOUT_MS - 1 && peer_ms() - before < 10 * TIMEOUT_MS);
    settle(&a, held.hold, 70);
    kill(server.pid, SIGCONT);
    CHECK(is_open(&a, true) && all_settled(&a));
    struct budget_state s = look(&a, c);
    CHECK(s.spent.v == 70 && s.reserved.v == 0);
    scheduler_free(&a);
}

static void test_leases(void)
{
    struct scheduler a = scheduler_new(500, 0, 1, "a");
    struct budget_claim c[] = {claim("leased", 2000), claim("leased too", 2000)};
    CHECK(is_open(&a, true));
    struct answer x = reserve(&a, "l0", c, 2, 100, 0, 0);
    CHECK(x.rc == RC_OK);
    settle(&a, x.hold, 100);
    struct budget_state s = look_until(&a, c, 100, 500, 500);
    CHECK(s.spent.v == 100 && s.reserved.v == 500); /* leased beforehand */
    help_server_kill(&server);
    CHECK(is_open(&a, false));
    struct answer one = reserve(&a, "l1", c, 2, 200, 0, 0), two = reserve(&a, "l2", c, 2, 200, 0, 0);
    CHECK(one.rc == RC_OK && two.rc == RC_OK && one.hold && two.hold);
    struct answer three = reserve(&a, "l3", c, 2, 101, 0, 0);
    CHECK(three.rc == RC_IO || three.rc == RC_TIMEOUT);
    struct answer unknown = reserve(&a, "l4", (struct budget_claim[]){claim("never seen", 10)}, 1, 1, 0, 0);
    CHECK(unknown.rc == RC_IO || unknown.rc == RC_TIMEOUT);
    settle(&a, one.hold, 150);
    struct answer more = extend(&a, two.hold, c, 2, 50);
    CHECK(more.rc == RC_OK && two.hold->granted.v == 250);
    restart();
    CHECK(is_open(&a, true));
    s = look_until(&a, c, 250, 250, 1000);
    CHECK_INT(s.spent.v, 250);
    CHECK(s.reserved.v >= 250 && s.reserved.v <= 1000);
    settle(&a, two.hold, 240);
    redis_store_stats(a.store);
    CHECK(redis_store_stats(a.store).leased == 3);
    scheduler_free(&a);
}

static void test_dead(void)
{
    struct scheduler a = scheduler_new(0, 400, 1, "a"), b = scheduler_new(0, 400, 1, "b");
    struct budget_claim c[] = {claim("dead", 1000)};
    CHECK(is_open(&a, true) && is_open(&b, true));
    CHECK(reserve(&a, "d1", c, 1, 300, 0, 0).rc == RC_OK);
    struct answer mine = reserve(&b, "d2", c, 1, 300, 0, 0);
    scheduler_free(&a);
    struct budget_state s = {0};
    for (int64_t end = peer_ms() + PATIENCE_MS; peer_ms() < end && !s.waste.v; s = look(&b, c))
        peer_run_ms(loop, 50);
    CHECK(s.waste.v == 300 && s.spent.v == 300 && s.reserved.v == 300);
    CHECK(redis_store_stats(b.store).buried > 0);
    settle(&b, mine.hold, 10);
    CHECK(all_settled(&b));
    CHECK_INT(look(&b, c).spent.v, 310);
    scheduler_free(&b);
}

/* The data is gone: closed until both have told; what is held counts as spent, once. */
static void test_emptied(void)
{
    raw("FLUSHALL");
    struct scheduler a = scheduler_new(0, 0, 2, "a");
    struct budget_claim c[] = {claim("emptied", 1000)};
    for (int64_t end = peer_ms() + PATIENCE_MS; peer_ms() < end && redis_store_stats(a.store).rebuilds == 0;)
        peer_pump(loop);
    peer_run_ms(loop, 200);
    CHECK(redis_store_stats(a.store).open == 0 && redis_store_stats(a.store).rebuilds == 1);
    struct answer x = reserve(&a, "e0", c, 1, 1, 0, 0);
    CHECK(x.rc == RC_AGAIN);
    struct scheduler b = scheduler_new(0, 0, 2, "b");
    CHECK(is_open(&b, true) && is_open(&a, true));
    x = reserve(&a, "e1", c, 1, 300, 0, 0);
    struct answer other = reserve(&b, "e2", c, 1, 200, 0, 0);
    CHECK(x.rc == RC_OK && other.rc == RC_OK);
    raw("FLUSHALL");
    struct answer more = extend(&a, x.hold, c, 1, 100);
    CHECK(more.rc == RC_AGAIN || more.rc == RC_OK || more.rc == RC_TIMEOUT);
    struct budget_claim d[] = {claim("another", 1000)};
    struct answer wake = reserve(&b, "e3", d, 1, 1, 0, 0);
    (void)wake;
    CHECK(is_open(&a, true) && is_open(&b, true));
    more = extend(&a, x.hold, c, 1, 50);
    CHECK(more.rc == RC_OK);
    struct budget_state s = look(&a, c);
    CHECK(s.spent.v == 500 && s.reserved.v >= 50 && s.reserved.v <= 150);
    settle(&a, x.hold, 310); /* 300 are counted */
    settle(&b, other.hold, 20);
    CHECK(all_settled(&a) && all_settled(&b));
    s = look(&a, c);
    CHECK_INT(s.spent.v, 510);
    CHECK_INT(s.reserved.v, 0);
    scheduler_free(&a);
    scheduler_free(&b);
}

/* One that may forget is refused, whenever that is seen. */
static void test_forgetful(void)
{
    struct redis_store_options o = {.host = "127.0.0.1", .port = server.port, .password = "secret"};
    struct error e = {0};
    CHECK(redis_store_check(&o, &e) == RC_OK);
    o.password = "wrong";
    CHECK(redis_store_check(&o, &e) == RC_UNSUPPORTED);
    o.password = "secret";
    raw("CONFIG SET appendfsync everysec");
    CHECK(redis_store_check(&o, &e) == RC_UNSUPPORTED && strstr(e.message, "appendfsync always"));
    struct scheduler a = scheduler_new(0, 0, 1, "a");
    peer_run_ms(loop, 300);
    struct budget_claim c[] = {claim("forgetful", 1000)};
    struct answer x = reserve(&a, "f0", c, 1, 1, 0, 0);
    CHECK(x.rc == RC_IO && redis_store_stats(a.store).open == 0);
    scheduler_free(&a);
    raw("CONFIG SET appendfsync always");
    raw("CONFIG SET maxmemory-policy allkeys-lru");
    CHECK(redis_store_check(&o, &e) == RC_UNSUPPORTED && strstr(e.message, "noeviction"));
    raw("CONFIG SET maxmemory-policy noeviction");
    raw("CONFIG SET appendonly no");
    CHECK(redis_store_check(&o, &e) == RC_UNSUPPORTED && strstr(e.message, "appendonly yes"));
    raw("CONFIG SET appendonly yes");
    o.port = 1;
    CHECK(redis_store_check(&o, &e) == RC_IO);
}

int main(void)
{
    loop = event_base_new();
    log_ = (struct log){.fd = open(getenv("TEST_LOG") ? "/dev/stderr" : "/dev/null", O_WRONLY | O_CLOEXEC),
                        .level = LOG_DEBUG,
                        .clock = &clock_system,
                        .program = "test"};
    if (!help_server_start(&server, durable)) {
        printf("skipped: test_budget_redis: no redis-server\n0 passed, 0 failed\n");
        return 0;
    }
    TEST(test_together);
    TEST(test_killed);
    TEST(test_stopped);
    TEST(test_leases);
    TEST(test_dead);
    TEST(test_emptied);
    TEST(test_forgetful);
    help_server_kill(&server);
    help_server_clean(&server);
    event_base_free(loop);
    close(log_.fd);
    return TEST_RESULT();
}
