/* Proves the script of shared budgets against a real redis-server: amounts up to 2^63 are exact; over random steps of
 * several schedulers, with lost replies, dead schedulers, new periods, top-ups and leases, all figures are those of a
 * simple model in 128-bit integers; stale connections are fenced off; budgets without their epoch stay closed until
 * every ledger has told its part. Skipped by name where there is no redis-server. Arguments: steps, seed.
 * full: 1000000
 * links: spw_sched_budgets */
#include "tests/unit/test.h"

#include <inttypes.h>

#include "base/alloc.h"
#include "scheduler/budgets/redis_script.h"
#include "tests/unit/redis_help.h"

#define BUDGETS   6
#define INSTANCES 3
#define HELD_MAX  64
#define PIPELINE  32
#define PERIODS   4096
#define PREFIX    "test:{b}:"

static struct help_server server;
static redisContext *ctx;
static char sha[48];
static int steps = 20000;
static uint64_t rng = 88172645463325252u;

static uint64_t draw(void)
{
    rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
    return rng;
}

static int below(int n)
{
    return (int)(draw() % (uint64_t)n);
}

/* ---- the model ---- */

struct model_state { /* of one budget in one period */
    bool there;
    __int128 spent, waste, reserved, carried_in, carried_out, topped_up;
};
struct model_budget {
    int64_t hard, soft, carry_max;
    int64_t set_hard, set_soft; /* at run time; -1: not */
    struct model_state in[PERIODS];
};
struct model_held {
    bool used;
    int id, sequence, n, period;
    int budgets[BUDGETS];
    __int128 money;
};
struct model_instance {
    char name[16];
    long token;
    struct model_held held[HELD_MAX];
    __int128 lease[BUDGETS];
    int lease_sequence[BUDGETS], lease_period;
};
struct ask {
    int64_t fixed, unit, least, want;
};
static struct model_budget model[BUDGETS];
static struct model_instance who[INSTANCES];
static int next_id = 1, next_operation = 1, next_instance = 1;
static int period = 1;
static char epoch[32] = "epoch-1";

static int64_t hard_of(const struct model_budget *b)
{
    return b->set_hard >= 0 ? b->set_hard : b->hard;
}

static __int128 limit_of(const struct model_budget *b, const struct model_state *s)
{
    __int128 l = (__int128)hard_of(b) + s->carried_in + s->topped_up;
    return hard_of(b) == INT64_MAX || l > INT64_MAX ? INT64_MAX : l;
}

static __int128 unused_of(const struct model_budget *b, const struct model_state *s)
{
    __int128 l = limit_of(b, s);
    if (l == INT64_MAX)
        return l;
    l -= s->spent + s->reserved + s->carried_out;
    return l < 0 ? 0 : l;
}

/* The budget in that period as a step sees it; `there`: it is written, too. */
static struct model_state *state_of(struct model_budget *b, int at, bool there)
{
    struct model_state *s = &b->in[at], *before = &b->in[at - 1];
    if (!s->there && before->there && b->carry_max > 0) {
        __int128 over = unused_of(b, before);
        if (over != INT64_MAX) {
            s->carried_in = over < b->carry_max ? over : b->carry_max;
            before->carried_out += s->carried_in;
            s->there = s->carried_in > 0;
        }
    }
    s->there = s->there || there;
    return s;
}

/* ---- commands ---- */

struct command {
    char text[128][48]; /* words */
    int n;
    char expected[96][48]; /* of the reply; "": whatever */
    int n_expected;
};
static struct command queue[PIPELINE];
static int queued;
static long mismatches, refused, granted_part, done;

static void word(struct command *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void word(struct command *c, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(c->text[c->n++], sizeof c->text[0], format, args);
    va_end(args);
}

static void print(char text[48], __int128 v)
{
    char digits[48];
    int n = 0;
    bool minus = v < 0;
    unsigned __int128 u = minus ? -(unsigned __int128)v : (unsigned __int128)v;
    for (; u > UINT64_MAX; u /= 10)
        digits[n++] = (char)('0' + (int)(u % 10));
    uint64_t small = (uint64_t)u;
    do
        digits[n++] = (char)('0' + (int)(small % 10));
    while (small /= 10);
    char *p = text;
    if (minus)
        *p++ = '-';
    while (n)
        *p++ = digits[--n];
    *p = '\0';
}

static void expect(struct command *c, const char *text)
{
    snprintf(c->expected[c->n_expected++], sizeof c->expected[0], "%s", text);
}

static void expect_money(struct command *c, __int128 v)
{
    print(c->expected[c->n_expected++], v);
}

static void expect_budgets(struct command *c, const int *list, int n, int at)
{
    for (int i = 0; i < n; i++) {
        const struct model_budget *b = &model[list[i]];
        const struct model_state *s = &b->in[at];
        const __int128 v[] = {s->spent,       s->waste,     s->reserved, s->carried_in,
                              s->carried_out, s->topped_up, hard_of(b),  b->set_soft >= 0 ? b->set_soft : b->soft};
        for (int k = 0; k < 8; k++)
            expect_money(c, v[k]);
    }
}

static void submit(const struct command *c)
{
    const char *argv[128];
    size_t lengths[128];
    for (int i = 0; i < c->n; i++) {
        argv[i] = c->text[i];
        lengths[i] = strlen(c->text[i]);
    }
    redisAppendCommandArgv(ctx, c->n, argv, lengths);
}

static void complain(const struct command *c, const redisReply *r)
{
    if (mismatches++ > 3)
        return;
    fprintf(stderr, "step:");
    for (int i = 0; i < c->n; i++)
        fprintf(stderr, " %s", c->text[i]);
    fprintf(stderr, "\nreply:");
    if (r && r->type == REDIS_REPLY_ERROR)
        fprintf(stderr, " error %s", r->str);
    for (size_t i = 0; r && r->type == REDIS_REPLY_ARRAY && i < r->elements; i++)
        fprintf(stderr, " %s", r->element[i]->str);
    fprintf(stderr, "\nexpected:");
    for (int i = 0; i < c->n_expected; i++)
        fprintf(stderr, " %s", c->expected[i]);
    fprintf(stderr, "\n");
}

static void receive(const struct command *c)
{
    void *reply = NULL;
    bool right = redisGetReply(ctx, &reply) == REDIS_OK;
    const redisReply *r = reply;
    right = right && r->type == REDIS_REPLY_ARRAY && r->elements >= (size_t)c->n_expected;
    for (int i = 0; right && i < c->n_expected; i++)
        right = !c->expected[i][0] || strcmp(r->element[i]->str, c->expected[i]) == 0;
    if (!right)
        complain(c, r);
    if (reply)
        freeReplyObject(reply);
    done++;
}

static void flush_all(void)
{
    for (int i = 0; i < queued; i++)
        receive(&queue[i]);
    queued = 0;
}

/* A new command of the pipeline, for these budgets in that period, up to the instance's token. */
static struct command *begin_at(const struct model_instance *m, const char *name, const int *list, int n, int at)
{
    if (queued == PIPELINE)
        flush_all();
    struct command *c = &queue[queued++];
    c->n = c->n_expected = 0;
    word(c, "EVALSHA");
    word(c, "%s", sha);
    word(c, "%d", 6 + 2 * n);
    word(c, PREFIX "epoch");
    word(c, PREFIX "state");
    word(c, PREFIX "instances");
    word(c, PREFIX "rebuilding");
    word(c, PREFIX "%s:limits", epoch);
    word(c, PREFIX "%s:held:%s", epoch, m->name);
    for (int i = 0; i < n; i++) {
        word(c, PREFIX "%s:b:%d:%d", epoch, at, list[i]);
        word(c, PREFIX "%s:b:%d:%d", epoch, at - 1, list[i]);
    }
    word(c, "%s", name);
    word(c, "%s", epoch);
    word(c, "%s", m->name);
    word(c, "%ld", m->token);
    return c;
}

/* With a key for each budget, none for what was before. */
static struct command *begin_plain(const struct model_instance *m, const char *name, const int *list, int n)
{
    struct command *c = begin_at(m, name, NULL, 0, 0);
    char tail[4][48];
    memcpy(tail, c->text + c->n - 4, sizeof tail);
    c->n -= 4;
    snprintf(c->text[2], sizeof c->text[2], "%d", 6 + n);
    for (int i = 0; i < n; i++)
        word(c, PREFIX "%s:b:%d:%d", epoch, period, list[i]);
    for (int i = 0; i < 4; i++)
        word(c, "%s", tail[i]);
    return c;
}

static struct command *begin(const struct model_instance *m, const char *name, const int *list, int n)
{
    return begin_at(m, name, list, n, period);
}

static void word_money(struct command *c, __int128 v)
{
    char text[48];
    print(text, v);
    word(c, "%s", text);
}

static void word_budgets(struct command *c, const int *list, int n)
{
    for (int i = 0; i < n; i++) {
        const struct model_budget *b = &model[list[i]];
        word(c, "%d", list[i]);
        word(c, "100000");
        word_money(c, b->hard);
        word_money(c, b->soft);
        word_money(c, b->carry_max);
    }
}

/* ---- random steps ---- */

static int64_t draw_amount(void)
{
    static const int64_t edges[] = {0,
                                    1,
                                    999999999,
                                    1000000000,
                                    1000000001,
                                    (INT64_C(1) << 53) - 1,
                                    INT64_C(1) << 53,
                                    (INT64_C(1) << 53) + 1,
                                    INT64_MAX / 4,
                                    INT64_MAX - 1,
                                    INT64_MAX};
    int kind = below(8);
    if (kind == 0)
        return edges[below(sizeof edges / sizeof edges[0])];
    if (kind == 1)
        return (int64_t)(draw() >> 1) >> below(62);
    return (int64_t)(draw() >> 1) % (INT64_C(1) << (40 + below(16)));
}

static int pick_budgets(int list[BUDGETS])
{
    int n = 0;
    while (n == 0)
        for (int i = 0; i < BUDGETS; i++)
            if (below(3) == 0)
                list[n++] = i;
    return n;
}

static struct model_held *pick_held(struct model_instance *m, bool used)
{
    int from = below(HELD_MAX);
    for (int i = 0; i < HELD_MAX; i++) {
        struct model_held *h = &m->held[(from + i) % HELD_MAX];
        if (h->used == used)
            return h;
    }
    return NULL;
}

/* What a lost reply does: the same command once more, with no other effect; its own figures are those of now. */
static void maybe_again(const struct command *c)
{
    if (below(6) || queued == PIPELINE)
        return;
    struct command *again = &queue[queued++];
    *again = *c;
    submit(again);
}

static struct ask draw_ask(void)
{
    struct ask a = {.fixed = draw_amount(), .unit = below(4) ? draw_amount() / 256 : below(3), .least = below(3)};
    a.want = a.least + below(4) * below(100);
    if (below(50) == 0)
        a.unit = 1, a.want = INT64_C(1) << 50;
    return a;
}

/* What policies/budget.h says, in wider integers. */
static void take(struct command *c, struct model_held *h, struct ask a)
{
    int refused_by = -1;
    bool may_wait = true;
    __int128 units = a.want;
    struct model_state *s[BUDGETS];
    for (int i = 0; i < h->n; i++) {
        struct model_budget *b = &model[h->budgets[i]];
        s[i] = state_of(b, h->period, false);
        __int128 room = unused_of(b, s[i]), least = a.fixed + (__int128)a.unit * a.least;
        if (room < least) {
            refused_by = refused_by < 0 ? i : refused_by;
            may_wait = may_wait && limit_of(b, s[i]) - s[i]->spent - s[i]->carried_out >= least;
        } else if (a.unit && (room - a.fixed) / a.unit < units)
            units = (room - a.fixed) / a.unit;
    }
    if (refused_by >= 0) {
        refused++;
        expect(c, "no");
        expect_money(c, refused_by + 1);
        expect(c, may_wait ? "1" : "0");
    } else {
        __int128 money = a.fixed + units * a.unit;
        for (int i = 0; i < h->n; i++) {
            s[i]->reserved += money;
            s[i]->there = true;
        }
        h->money += money;
        h->sequence++;
        granted_part += units < a.want;
        expect(c, "ok");
        expect_money(c, units);
        expect_money(c, money);
    }
    expect_budgets(c, h->budgets, h->n, h->period);
    submit(c);
    if (refused_by < 0) { /* a repetition does not say the amount again */
        char amount[48];
        memcpy(amount, c->expected[2], sizeof amount);
        c->expected[2][0] = '\0';
        maybe_again(c);
    }
}

static void word_ask(struct command *c, struct ask a)
{
    word_money(c, a.fixed);
    word_money(c, a.unit);
    word_money(c, a.least);
    word_money(c, a.want);
}

static void do_reserve(struct model_instance *m)
{
    struct model_held *h = pick_held(m, false);
    if (!h)
        return;
    *h = (struct model_held){.id = next_id++, .period = period};
    h->n = pick_budgets(h->budgets);
    struct ask a = draw_ask();
    struct command *c = begin(m, "reserve", h->budgets, h->n);
    word(c, "r%d", h->id);
    word_ask(c, a);
    word_budgets(c, h->budgets, h->n);
    take(c, h, a);
    h->used = h->sequence > 0;
}

static void do_extend(struct model_instance *m)
{
    struct model_held *h = pick_held(m, true);
    if (!h)
        return;
    struct ask a = draw_ask();
    struct command *c = begin_at(m, "extend", h->budgets, h->n, h->period);
    word(c, "r%d", h->id);
    word(c, "%d", h->sequence + 1);
    word_ask(c, a);
    word_budgets(c, h->budgets, h->n);
    take(c, h, a);
}

static void do_settle(struct model_instance *m)
{
    struct model_held *h = pick_held(m, true);
    if (!h)
        return;
    __int128 spent = below(4) ? (__int128)((uint64_t)(draw() >> 1)) % (h->money + 1) : below(2) ? h->money : 0;
    struct command *c = begin(m, "settle", NULL, 0);
    word(c, "r%d", h->id);
    word_money(c, spent);
    for (int i = 0; i < h->n; i++) {
        struct model_state *s = &model[h->budgets[i]].in[h->period];
        s->reserved -= h->money;
        s->spent += spent;
    }
    expect(c, "ok");
    expect_money(c, h->money);
    submit(c);
    h->used = false;
    if (below(6) == 0 && queued < PIPELINE) { /* once more: it is gone */
        struct command *again = &queue[queued++];
        *again = *c;
        again->n_expected = 0;
        expect(again, "gone");
        submit(again);
    }
}

static void do_topup(struct model_instance *m)
{
    int list[] = {below(BUDGETS)};
    int64_t amount = draw_amount() / 64;
    struct command *c = begin(m, "topup", list, 1);
    word(c, "%d", next_operation++);
    word_money(c, amount);
    word(c, "600");
    word_budgets(c, list, 1);
    state_of(&model[list[0]], period, true)->topped_up += amount;
    expect(c, "ok");
    expect(c, "0");
    expect(c, "");
    expect_budgets(c, list, 1, period);
    submit(c);
    maybe_again(c);
}

static void do_set(struct model_instance *m)
{
    int list[] = {below(BUDGETS)};
    struct model_budget *b = &model[list[0]];
    int64_t hard = below(2) ? -1 - below(2) : below(3) ? draw_amount() : INT64_MAX;
    int64_t soft = below(2) ? -1 - below(2) : draw_amount();
    struct command *c = begin(m, "set", list, 1);
    word_money(c, hard);
    word_money(c, soft);
    word_budgets(c, list, 1);
    state_of(b, period, false);
    b->set_hard = hard == -2 ? b->set_hard : hard;
    b->set_soft = soft == -2 ? b->set_soft : soft;
    submit(c);
}

static void do_lease(struct model_instance *m)
{
    int b = below(BUDGETS), list[] = {b};
    if (m->lease_period != period) { /* what there is goes on in its own period; here: one per instance and period */
        if (m->lease_period)
            return;
        m->lease_period = period;
    }
    __int128 had = m->lease[b], used = below(3) ? 0 : (__int128)(draw() >> 1) % (had + 1);
    int64_t wanted = draw_amount() / 16;
    struct command *c = begin(m, "lease", list, 1);
    word(c, "lease:%d", b);
    word(c, "%d", ++m->lease_sequence[b]);
    word_money(c, used);
    word_money(c, wanted);
    word_budgets(c, list, 1);
    struct model_state *s = state_of(&model[b], period, true);
    s->spent += used;
    s->reserved -= used;
    m->lease[b] -= used;
    __int128 more = wanted - m->lease[b], left = unused_of(&model[b], s);
    if (more > 0)
        more = more < left ? more : left;
    s->reserved += more;
    m->lease[b] += more;
    expect(c, "ok");
    expect_money(c, m->lease[b]);
    expect(c, "");
    expect_budgets(c, list, 1, period);
    submit(c);
    maybe_again(c);
}

static void hello(struct model_instance *m)
{
    flush_all();
    submit(begin(m, "hello", NULL, 0));
    void *reply = NULL;
    CHECK(redisGetReply(ctx, &reply) == REDIS_OK);
    const redisReply *r = reply;
    CHECK(r && r->type == REDIS_REPLY_ARRAY && r->elements == 3 && strcmp(r->element[0]->str, "ok") == 0);
    if (r && r->type == REDIS_REPLY_ARRAY)
        m->token = strtol(r->element[1]->str, NULL, 10);
    freeReplyObject(reply);
    queued = 0;
}

static void be_born(struct model_instance *m)
{
    memset(m, 0, sizeof *m);
    snprintf(m->name, sizeof m->name, "i%d", next_instance++);
    hello(m);
}

static void waste(int b, int at, __int128 money)
{
    struct model_state *s = &model[b].in[at];
    s->reserved -= money;
    s->spent += money;
    s->waste += money;
}

/* It is gone: what was granted counts as spent. */
static void do_die(struct model_instance *m)
{
    struct command *c = begin(m, "bye", NULL, 0);
    int n = 0;
    for (int i = 0; i < HELD_MAX; i++) {
        const struct model_held *h = &m->held[i];
        n += h->used;
        for (int k = 0; h->used && k < h->n; k++)
            waste(h->budgets[k], h->period, h->money);
    }
    for (int i = 0; i < BUDGETS; i++) {
        n += m->lease_sequence[i] > 0;
        waste(i, m->lease_period, m->lease[i]);
    }
    expect(c, "ok");
    expect_money(c, n);
    expect(c, "0");
    submit(c);
    be_born(m);
}

/* A connection that was given up speaks late: refused, whatever it says. */
static void do_stale(struct model_instance *m)
{
    struct model_instance old = *m;
    int list[] = {below(BUDGETS)};
    hello(m);
    struct command *c = begin(&old, "reserve", list, 1);
    word(c, "stale");
    word_ask(c, (struct ask){.fixed = 1});
    word_budgets(c, list, 1);
    expect(c, "fenced");
    submit(c);
}

static void do_limit(void)
{
    struct model_budget *b = &model[below(BUDGETS)];
    b->hard = below(5) ? INT64_C(1) << (50 + below(13)) : INT64_MAX;
    b->soft = draw_amount();
    b->carry_max = below(2) ? 0 : draw_amount();
}

static void random_step(void)
{
    struct model_instance *m = &who[below(INSTANCES)];
    int kind = below(100);
    if (kind < 40)
        do_reserve(m);
    else if (kind < 60)
        do_extend(m);
    else if (kind < 88)
        do_settle(m);
    else if (kind < 93)
        do_lease(m);
    else if (kind < 96)
        do_topup(m);
    else if (kind == 96)
        do_set(m);
    else if (kind == 97 && below(16) == 0 && period < PERIODS - 1)
        period++;
    else if (kind == 98 && below(8) == 0)
        do_die(m);
    else if (kind == 99 && below(4) == 0)
        do_stale(m);
}

/* Both ledgers tell their parts, each twice. */
static void rebuild_all(void)
{
    int list[BUDGETS];
    for (int i = 0; i < BUDGETS; i++) {
        list[i] = i;
        memset(model[i].in, 0, sizeof model[i].in);
        model[i].set_hard = model[i].set_soft = -1;
    }
    for (int ledger = 1; ledger <= 2; ledger++) {
        for (int twice = 0; twice < 2; twice++) {
            struct command *c = begin_plain(&who[0], "part", list, BUDGETS);
            word(c, "ledger-%d", ledger);
            for (int i = 0; i < BUDGETS; i++) {
                word(c, "100000");
                word(c, "%d", 1000 * ledger + i);
                word(c, "%d", ledger);
                word(c, "%d", ledger == 1 ? 7 : 0);
            }
            word(c, "3"); /* budget 3 has a limit of its own */
            word(c, "777777777777777777");
            word(c, "-1");
            expect(c, "ok");
            submit(c);
        }
        struct command *c = begin(&who[0], "open", NULL, 0);
        word(c, "ledger-%d", ledger);
        word(c, "2");
        expect(c, ledger == 1 ? "closed" : "ok");
        submit(c);
    }
    model[3].set_hard = INT64_C(777777777777777777);
    for (int i = 0; i < BUDGETS; i++)
        model[i].in[period] = (struct model_state){.there = true, .spent = 3000 + 2 * i, .waste = 3, .topped_up = 7};
}

static void read_all(struct model_instance *m)
{
    int list[BUDGETS];
    for (int i = 0; i < BUDGETS; i++) {
        list[i] = i;
        state_of(&model[i], period, false);
    }
    struct command *c = begin(m, "read", list, BUDGETS);
    word_budgets(c, list, BUDGETS);
    expect(c, "ok");
    expect(c, "0");
    expect(c, "");
    expect_budgets(c, list, BUDGETS, period);
    submit(c);
    flush_all();
    CHECK(mismatches == 0);
}

static void reserve_one(struct model_instance *m, const char *id, int64_t amount, const char *word_expected)
{
    int list[] = {2};
    struct command *c = begin(m, "reserve", list, 1);
    word(c, "%s", id);
    word_ask(c, (struct ask){.fixed = amount});
    word_budgets(c, list, 1);
    expect(c, word_expected);
    submit(c);
}

/* Closed without an epoch; another epoch than one's own is told; opened when both ledgers have said what they know. */
static void test_epoch(void)
{
    for (int i = 0; i < BUDGETS; i++)
        model[i] = (struct model_budget){.hard = INT64_C(1) << 60, .set_hard = -1, .set_soft = -1};
    snprintf(who[0].name, sizeof who[0].name, "i0");
    struct command *c = begin(&who[0], "hello", NULL, 0);
    expect(c, "closed");
    expect(c, "epoch-1");
    expect(c, "0");
    submit(c);
    rebuild_all();
    flush_all();
    be_born(&who[0]);
    snprintf(epoch, sizeof epoch, "epoch-0");
    reserve_one(&who[0], "r0", 5, "epoch");
    snprintf(epoch, sizeof epoch, "epoch-1");
    read_all(&who[0]);
}

static void test_random(void)
{
    for (int i = 0; i < INSTANCES; i++)
        be_born(&who[i]);
    long before = done;
    while (done - before < steps && mismatches == 0) {
        if (below(50) == 0)
            do_limit();
        random_step();
        if (below(200) == 0)
            flush_all();
    }
    read_all(&who[0]);
    CHECK(refused > steps / 50 && granted_part > steps / 200);
    printf("        %ld steps in %d periods agree with the model; %ld refused, %ld granted in part\n", done - before,
           period, refused, granted_part);
}

/* The data is lost: nothing of the old life is left in the new one. */
static void test_lost(void)
{
    flush_all();
    freeReplyObject(redisCommand(ctx, "DEL " PREFIX "epoch"));
    reserve_one(&who[1], "late", 1, "closed");
    snprintf(epoch, sizeof epoch, "epoch-2"); /* the first hello names it, no other step */
    struct command *c = begin(&who[0], "hello", NULL, 0);
    expect(c, "closed");
    expect(c, "epoch-2");
    submit(c);
    snprintf(epoch, sizeof epoch, "epoch-3");
    c = begin(&who[0], "hello", NULL, 0);
    expect(c, "closed");
    expect(c, "epoch-2");
    submit(c);
    snprintf(epoch, sizeof epoch, "epoch-2");
    rebuild_all();
    for (int i = 0; i < INSTANCES; i++)
        be_born(&who[i]);
    read_all(&who[1]);
}

static int beat(struct model_instance *m)
{
    flush_all();
    struct command *c = begin(m, "beat", NULL, 0);
    word(c, "300");
    word(c, "10");
    submit(c);
    queued = 0;
    void *reply = NULL;
    CHECK(redisGetReply(ctx, &reply) == REDIS_OK);
    const redisReply *r = reply;
    bool right = r && r->type == REDIS_REPLY_ARRAY && strcmp(r->element[0]->str, "ok") == 0;
    int buried = right ? (int)strtol(r->element[1]->str, NULL, 10) : -1;
    freeReplyObject(reply);
    return buried;
}

/* Whoever is silent is buried by another's heartbeat; not before everybody has had time to speak after a silence of all. */
static void test_heartbeats(void)
{
    model[2].hard = INT64_MAX;
    model[2].carry_max = 0;
    reserve_one(&who[2], "doomed", INT64_C(4000000000000000001), "ok");
    struct model_state *s = state_of(&model[2], period, true);
    int buried = 0;
    int64_t start = peer_ms();
    while (peer_ms() - start < 3000 && buried == 0) {
        buried = beat(&who[1]);
        usleep(20000);
    }
    CHECK_INT(buried, 1);
    CHECK(peer_ms() - start >= 300);
    s->spent += INT64_C(4000000000000000001);
    s->waste += INT64_C(4000000000000000001);
    struct command *c = begin(&who[2], "settle", NULL, 0);
    word(c, "doomed");
    word(c, "5");
    expect(c, "fenced");
    submit(c);
    read_all(&who[1]);
}

int main(int argc, char **argv)
{
    static const char *const none[] = {"--appendonly", "no", NULL};
    if (argc > 1)
        steps = (int)strtol(argv[1], NULL, 10);
    if (argc > 2)
        rng += strtoull(argv[2], NULL, 10) * 2654435761u;
    if (!help_server_start(&server, none)) {
        printf("skipped: test_budget_script: no redis-server\n0 passed, 0 failed\n");
        return 0;
    }
    ctx = help_server_connect(&server);
    redisReply *r = ctx ? redisCommand(ctx, "SCRIPT LOAD %b", redis_script_text, redis_script_length) : NULL;
    if (r && r->type == REDIS_REPLY_STRING) {
        snprintf(sha, sizeof sha, "%s", r->str);
        TEST(test_epoch);
        TEST(test_random);
        TEST(test_lost);
        TEST(test_heartbeats);
    } else {
        fprintf(stderr, "%s\n", r ? r->str : "no connection");
        test_run_.failed++;
    }
    if (r)
        freeReplyObject(r);
    if (ctx)
        redisFree(ctx);
    help_server_kill(&server);
    help_server_clean(&server);
    return TEST_RESULT();
}
