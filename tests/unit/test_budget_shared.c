/* Proves that three schedulers that share a real redis-server through the store's own functions keep the books of a
 * simple model: random reservations, extensions, settlements, looks, top-ups, other limits and new periods, many under
 * way at once, while the Redis is killed and schedulers die with what they hold. Arguments: operations, seed.
 * full: 1000000
 * Skipped by name where there is no redis-server.
 * links: spw_sched_budgets */
#include "tests/unit/test.h"

#include "scheduler/budgets/redis.h"
#include "tests/unit/random.h"
#include "tests/unit/redis_help.h"

#define BUDGETS    6
#define SCHEDULERS 3
#define HOLDS      160  /* of a scheduler */
#define PERIODS    4096 /* in all */
#define PERIOD_S   100
#define BATCH      128    /* operations under way at once */
#define DEAD_MS    4000   /* so that nobody is taken for dead on a busy machine */
#define WAIT_MS    600000 /* machines stand still now and then */

static int64_t operations = 20000;
static uint64_t seed = 4;
static struct event_base *loop;
static struct log log_;
static struct help_server server;
static const char *const durable[] = {"--appendonly", "yes", "--appendfsync", "always", NULL};

static int64_t below(int64_t n)
{
    return (int64_t)(next_random(&seed) % (uint64_t)n);
}

/* ---- the model: what each budget has in each period, added up ---------------------------------------------------- */

struct books {
    bool there; /* written: what it carried over is settled */
    int64_t spent, waste, reserved, carried_in, carried_out, topped_up;
};
struct model_budget {
    char name[16];
    int64_t hard, carry_max, set_hard; /* set_hard -1: not set */
    bool was_set;                      /* at any time: then there may be more spent than there is now */
    struct books in[PERIODS];
};
struct model_hold {
    struct budget_hold *hold; /* NULL: free */
    bool busy;                /* in this batch */
    int64_t number, granted;
    int set[BUDGETS], n;
};
struct scheduler {
    struct budget_store *store;
    struct budget_port *port;
    struct model_hold holds[HOLDS];
};
static struct model_budget budgets[BUDGETS];
static struct scheduler schedulers[SCHEDULERS];
static int64_t now = 1, reservations, refused, in_part, kills, deaths;

static int64_t hard_of(const struct model_budget *b)
{
    return b->set_hard >= 0 ? b->set_hard : b->hard;
}

static int64_t unused(const struct model_budget *b, const struct books *s)
{
    int64_t v = hard_of(b) + s->carried_in + s->topped_up - s->spent - s->reserved - s->carried_out;
    return v > 0 ? v : 0;
}

/* As a step finds it: the first that does takes what the period before did not use. */
static struct books *books_of(int i, int64_t number)
{
    struct model_budget *b = &budgets[i];
    struct books *s = &b->in[number], *before = &b->in[number - 1];
    if (!s->there && before->there && b->carry_max > 0) {
        int64_t over = unused(b, before);
        s->carried_in = over < b->carry_max ? over : b->carry_max;
        before->carried_out += s->carried_in;
        s->there = s->carried_in > 0;
    }
    return s;
}

static struct budget_claim claim_of(int i)
{
    return (struct budget_claim){.name = budgets[i].name,
                                 .start_s = now * PERIOD_S,
                                 .end_s = (now + 1) * PERIOD_S,
                                 .before_start_s = (now - 1) * PERIOD_S,
                                 .limits = {{budgets[i].hard}, {budgets[i].carry_max}},
                                 .soft = {BUDGET_UNLIMITED}};
}

/* ---- operations under way ---------------------------------------------------------------------------------------- */

struct op {
    struct model_hold *hold; /* NULL: a look, or a change */
    struct budget_ask ask;
    enum rc rc; /* expected */
    int64_t units;
    bool unsure; /* the Redis is killed meanwhile: what is said is taken */
    int budget;  /* of a look */
    struct books books;
    int answered;
};
static struct op ops[BATCH];
static int n_ops;

static int64_t amount_of(const struct budget_ask *ask, int64_t units)
{
    return ask->fixed.v + ask->unit.v * units;
}

static void grant(struct model_hold *h, int64_t amount)
{
    h->granted += amount;
    for (int i = 0; i < h->n; i++) {
        struct books *s = &budgets[h->set[i]].in[h->number];
        s->reserved += amount;
        s->there = true;
    }
}

static void check_view(const struct op *op, const struct budget_view *v)
{
    CHECK_INT(v->state.spent.v, op->books.spent);
    CHECK_INT(v->state.waste.v, op->books.waste);
    CHECK_INT(v->state.reserved.v, op->books.reserved);
    CHECK_INT(v->state.carried_in.v, op->books.carried_in);
    CHECK_INT(v->state.carried_out.v, op->books.carried_out);
    CHECK_INT(v->state.topped_up.v, op->books.topped_up);
}

static void on_done(const struct budget_answer *a, void *arg)
{
    struct op *op = arg;
    op->answered++;
    if (!op->hold) {
        CHECK_INT(a->rc, RC_OK);
        if (a->rc == RC_OK && !op->unsure)
            check_view(op, &a->views[0]);
        return;
    }
    CHECK(a->rc == RC_OK || a->rc == RC_DENIED);
    if (a->hold)
        op->hold->hold = a->hold;
    if (op->unsure) {
        if (a->rc == RC_OK)
            grant(op->hold, amount_of(&op->ask, a->grant.units));
        return;
    }
    CHECK_INT(a->rc, op->rc);
    CHECK_INT(a->grant.units, op->units);
}

/* What must be answered, which is in the model at once: steps of one scheduler are taken in their order. */
static void expect(struct op *op, struct model_hold *h)
{
    int64_t least = amount_of(&op->ask, op->ask.units_min), room = INT64_MAX;
    for (int i = 0; i < h->n; i++) {
        int64_t r = unused(&budgets[h->set[i]], books_of(h->set[i], h->number));
        room = r < room ? r : room;
    }
    op->rc = room < least ? RC_DENIED : RC_OK;
    op->units = -1;
    refused += op->rc == RC_DENIED;
    if (op->rc != RC_OK)
        return;
    op->units = op->ask.unit.v ? (room - op->ask.fixed.v) / op->ask.unit.v : op->ask.units_want;
    op->units = op->units < op->ask.units_want ? op->units : op->ask.units_want;
    in_part += op->units < op->ask.units_want;
    grant(h, amount_of(&op->ask, op->units));
}

static void ask(struct scheduler *s, struct model_hold *h, bool unsure)
{
    struct budget_claim claims[BUDGETS];
    struct op *op = &ops[n_ops++];
    char id[32];
    int64_t least = below(3);
    *op = (struct op){.hold = h, .unsure = unsure};
    op->ask = (struct budget_ask){{below(200)}, {below(30)}, least, least + below(40)};
    bool fresh = h->hold == NULL;
    if (fresh) {
        h->number = now;
        h->granted = h->n = 0;
        while (!h->n)
            for (int i = 0; i < BUDGETS; i++)
                if (below(2))
                    h->set[h->n++] = i;
    }
    for (int i = 0; i < h->n; i++)
        claims[i] = claim_of(h->set[i]);
    h->busy = true;
    if (!unsure)
        expect(op, h);
    snprintf(id, sizeof id, "r%lld", (long long)++reservations);
    CHECK_INT(fresh ? s->store->ops->reserve(s->port, id, claims, h->n, &op->ask, on_done, op)
                    : s->store->ops->extend(s->port, h->hold, claims, h->n, &op->ask, on_done, op),
              RC_OK);
}

static void settle(struct scheduler *s, struct model_hold *h)
{
    int64_t spent = below(5) ? below(h->granted + 1) : 0;
    CHECK_INT(s->store->ops->settle(s->port, h->hold, (struct pusd){spent}).v, 0);
    for (int i = 0; i < h->n; i++) {
        budgets[h->set[i]].in[h->number].reserved -= h->granted;
        budgets[h->set[i]].in[h->number].spent += spent;
    }
    h->hold = NULL;
    h->busy = true;
}

static void look(struct scheduler *s, int i, bool unsure)
{
    struct budget_claim c = claim_of(i);
    struct op *op = &ops[n_ops++];
    *op = (struct op){.budget = i, .unsure = unsure, .books = *books_of(i, now)};
    CHECK_INT(s->store->ops->read(s->port, &c, 1, on_done, op), RC_OK);
}

static void change(struct scheduler *s, int i, bool unsure)
{
    struct budget_claim c = claim_of(i);
    struct op *op = &ops[n_ops++];
    struct books *b = books_of(i, now);
    int64_t more = 1 + below(5000), hard = below(4) ? -1 - below(2) : below(200000);
    bool top_up = below(3) || i < 2; /* the limits of two are never set */
    if (top_up) {
        b->topped_up += more;
        b->there = true;
    } else {
        budgets[i].set_hard = hard == -2 ? budgets[i].set_hard : hard;
        budgets[i].was_set = true;
    }
    *op = (struct op){.budget = i, .unsure = unsure, .books = *b};
    CHECK_INT(top_up ? s->store->ops->top_up(s->port, &c, (struct pusd){more}, on_done, op)
                     : s->store->ops->set(s->port, &c, (struct pusd){hard}, (struct pusd){-2}, on_done, op),
              RC_OK);
}

static void flush(void)
{
    int64_t end = peer_ms() + WAIT_MS;
    for (int i = 0; i < n_ops; i++)
        while (!ops[i].answered && peer_ms() < end)
            event_base_loop(loop, EVLOOP_ONCE);
    for (int i = 0; i < n_ops; i++)
        CHECK_INT(ops[i].answered, 1);
    for (int s = 0; s < SCHEDULERS; s++) {
        while (redis_store_stats(schedulers[s].store).unsettled && peer_ms() < end)
            event_base_loop(loop, EVLOOP_ONCE);
        for (int h = 0; h < HOLDS; h++)
            schedulers[s].holds[h].busy = false;
    }
    n_ops = 0;
}

/* ---- what happens ------------------------------------------------------------------------------------------------ */

static void be_born(struct scheduler *s, int i)
{
    struct redis_store_options o = {.clock = &clock_system,
                                    .log = &log_,
                                    .host = "127.0.0.1",
                                    .port = server.port,
                                    .timeout_ms = WAIT_MS,
                                    .dead_ms = DEAD_MS,
                                    .name = (const char *[]){"a", "b", "c"}[i]};
    struct error e;
    s->store = redis_store_new(&o);
    CHECK(s->store->ops->port_new(s->store, loop, NULL, &s->port, &e) == RC_OK);
    for (int64_t end = peer_ms() + WAIT_MS; peer_ms() < end && redis_store_stats(s->store).open == 0;)
        event_base_loop(loop, EVLOOP_ONCE);
    CHECK_INT(redis_store_stats(s->store).open, 1);
}

static struct books seen;
static void on_seen(const struct budget_answer *a, void *arg)
{
    ++*(int *)arg;
    if (a->rc == RC_OK)
        seen.waste = a->views[0].state.waste.v;
}

/* With all that it holds, which is spent from then on. Another one comes in its place. */
static void die(int i)
{
    struct scheduler *s = &schedulers[i], *other = &schedulers[(i + 1) % SCHEDULERS];
    int most = 0;
    s->store->ops->port_free(s->port);
    s->store->ops->free(s->store);
    for (int h = 0; h < HOLDS; h++) {
        struct model_hold *x = &s->holds[h];
        for (int k = 0; x->hold && k < x->n; k++) {
            struct books *b = &budgets[x->set[k]].in[x->number];
            b->reserved -= x->granted;
            b->spent += x->granted;
            b->waste += x->granted;
            most = b->waste > budgets[most].in[now].waste && x->number == now ? x->set[k] : most;
        }
        x->hold = NULL;
    }
    be_born(s, i);
    struct budget_claim c = claim_of(most);
    for (int64_t end = peer_ms() + WAIT_MS; peer_ms() < end;) {
        int called = 0;
        CHECK_INT(other->store->ops->read(other->port, &c, 1, on_seen, &called), RC_OK);
        CHECK(peer_wait(loop, &called, 1, WAIT_MS));
        if (seen.waste == budgets[most].in[now].waste && redis_store_stats(s->store).open)
            break;
        peer_run_ms(loop, 50);
    }
    CHECK_INT(seen.waste, budgets[most].in[now].waste);
    deaths++;
}

static void look_at_all(void)
{
    for (int i = 0; i < BUDGETS; i++) {
        look(&schedulers[i % SCHEDULERS], i, false);
        flush();
        const struct books *b = &budgets[i].in[now];
        CHECK(budgets[i].was_set || b->spent + b->reserved <= budgets[i].hard + b->carried_in + b->topped_up);
    }
}

/* All of it, in a period that begins now: nothing lives longer than the figures of its period. */
static void next_period(void)
{
    now++;
    for (int s = 0; s < SCHEDULERS; s++)
        for (int h = 0; h < HOLDS; h++)
            if (schedulers[s].holds[h].hold && schedulers[s].holds[h].number < now - 2)
                settle(&schedulers[s], &schedulers[s].holds[h]);
    flush();
}

/* A scheduler's next steps, sent all at once. With `killed` the Redis dies with some of them done and none, or some,
 * answered; what nobody knows of is sent again. */
static void batch(bool killed)
{
    struct scheduler *s = &schedulers[below(SCHEDULERS)];
    if (killed) { /* the carry-over of these periods is settled before: the order of what is repeated is free */
        for (int i = 0; i < BUDGETS; i++) {
            struct budget_claim c = claim_of(i);
            struct op *op = &ops[n_ops++];
            struct books *b = books_of(i, now);
            b->topped_up++, b->there = true;
            *op = (struct op){.budget = i, .books = *b};
            CHECK_INT(s->store->ops->top_up(s->port, &c, (struct pusd){1}, on_done, op), RC_OK);
        }
        flush();
    }
    for (int n = 1 + (int)below(BATCH - 1); n; n--) {
        struct model_hold *h = &s->holds[below(HOLDS)];
        int64_t what = below(100);
        if (what < 2)
            change(s, (int)below(BUDGETS), killed);
        else if (what < 8)
            look(s, (int)below(BUDGETS), killed);
        else if (!h->busy && h->hold && what >= 60)
            settle(s, h);
        else if (!h->busy)
            ask(s, h, killed);
    }
    if (killed) {
        for (int64_t n = below(4); n; n--)
            event_base_loop(loop, EVLOOP_NONBLOCK);
        help_server_kill(&server);
        CHECK(help_server_start(&server, durable));
        kills++;
    }
    flush();
}

static void test_agrees(void)
{
    for (int i = 0; i < BUDGETS; i++) {
        snprintf(budgets[i].name, sizeof budgets[i].name, "b%d", i);
        budgets[i].hard = 20000 + below(150000);
        budgets[i].carry_max = i % 2 ? below(30000) : 0;
        budgets[i].set_hard = -1;
    }
    for (int i = 0; i < SCHEDULERS; i++)
        be_born(&schedulers[i], i);
    const int64_t parts = 8 + operations / 20000; /* each ends with a kill, a death or a look at all */
    for (int64_t done = 0, part = 1; done < operations && !test_run_.group_failed;) {
        int64_t before = reservations;
        batch(false);
        done += n_ops + 1 + (reservations - before);
        if (below(40) == 0 && now < PERIODS - 4)
            next_period();
        if (done < part * operations / parts)
            continue;
        if (part % 8 == 3)
            die((int)below(SCHEDULERS));
        else
            batch(true);
        look_at_all();
        part++;
    }
    look_at_all();
    printf(
        "        %lld reservations and extensions in %lld periods agree with the model; %lld refused, %lld granted in "
        "part; the Redis was killed %lld times, schedulers died %lld times\n",
        (long long)reservations, (long long)now, (long long)refused, (long long)in_part, (long long)kills,
        (long long)deaths);
    CHECK(refused > 0 && in_part > 0 && kills > 2 && deaths > 0);
    for (int i = 0; i < SCHEDULERS; i++) {
        schedulers[i].store->ops->port_free(schedulers[i].port);
        schedulers[i].store->ops->free(schedulers[i].store);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1)
        operations = strtoll(argv[1], NULL, 10);
    if (argc > 2)
        seed = strtoull(argv[2], NULL, 10);
    loop = event_base_new();
    log_ = (struct log){.fd = open(getenv("TEST_LOG") ? "/dev/stderr" : "/dev/null", O_WRONLY | O_CLOEXEC),
                        .level = LOG_DEBUG,
                        .clock = &clock_system,
                        .program = "test"};
    if (!help_server_start(&server, durable)) {
        printf("skipped: test_budget_shared: no redis-server\n0 passed, 0 failed\n");
        return 0;
    }
    TEST(test_agrees);
    help_server_kill(&server);
    help_server_clean(&server);
    event_base_free(loop);
    close(log_.fd);
    return TEST_RESULT();
}
