/* Proves that the books close: simulated hours of 20 nodes of five kinds (own machines with meters and a tariff by the
 * hour, spot with pre-emptions and moving prices, on demand with a billing minimum, an API by the token, own machines
 * that tell nothing), with continuous batching, cancels, continued streams, cache hits and a price change. Every node's
 * hour closes exactly with a variance of 0.5 % at most, the rows' tokens are those that the engines counted, roll-ups
 * are the sums of their rows, bills are what providers ask for, second by second. And that each of 14 planted
 * accounting mistakes is found. Every planted one runs over 2 hours, the clean run over 4; `--full`: over 48.
 * links: spw_sched_books */
#include "tests/unit/test.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/divide.h"
#include "base/random.h"
#include "policies/tariff.h"
#include "scheduler/books/closing.h"
#include "scheduler/books/finance.h"
#include "scheduler/books/ledger_internal.h"
#include "scheduler/books/meter.h"

#define START_S   INT64_C(1793491200) /* 2026-11-01T00:00:00Z */
#define US        INT64_C(1000000)
#define NODES     20
#define SEQS      8
#define LAUNCHES  64
#define LEGS      4
#define QUARTERS  (50 * 4)
#define BUSY_W    300
#define IDLE_W    90
#define BOOT_W    150
#define PREEMPT_S 4300 /* of each spot node, staggered */
#define MIN_S     900  /* billing minimum on demand */

enum kind { OWNED, SPOT, DEMAND, API, FOREIGN };
enum bug {
    NONE,
    WHOLE_STEP,    /* each sequence is told the whole step */
    ROW_LOST,      /* ... as rows are where a database stalls */
    ROW_TWICE,     /* settled again under another id */
    ABORT_FREE,    /* an aborted stream is not billed */
    OLD_PRICE,     /* the price list's change is not heeded */
    CACHED_DEAR,   /* cached input at the price of input */
    LEG_TWICE,     /* a continued answer counts its beginning again */
    SPOT_FLAT,     /* the market's price at the launch, for ever */
    NO_MINIMUM,    /* the billing minimum is forgotten */
    FLAT_TARIFF,   /* energy at the night's price all day */
    TRUNCATED,     /* shares rounded down */
    TEAM_LOST,     /* a roll-up without one team */
    BOOT_IDLE,     /* booting counts as idle, too */
    ABORT_UNTIMED, /* aborted streams are booked without the time that they took */
    N_BUGS
};
static const unsigned found_by[N_BUGS] = {
    0,          CLOSE_VARIANCE, CLOSE_TOKENS, CLOSE_TOKENS, CLOSE_TOKENS, CLOSE_CHARGE,   CLOSE_CHARGE,  CLOSE_LEGS,
    CLOSE_BILL, CLOSE_BILL,     CLOSE_BILL,   CLOSE_SUM,    CLOSE_ROLLUP, CLOSE_VARIANCE, CLOSE_VARIANCE};

struct request {
    char id[24], team[8];
    int64_t accepted_us, input, cached, output, said, dies_at; /* dies_at: said so much, its client leaves */
    struct ledger_leg legs[LEGS];
    int n_legs;
};
struct sequence {
    struct request *r;
    int64_t reads; /* tokens of the prompt that are still to be computed */
};
struct node {
    char name[16];
    enum kind kind;
    bool up;
    int64_t ready_us, step_end_us, step_us, idle_since_us, next_us;
    struct sequence seqs[SEQS];
    int n;
    struct bill_rent rents[LAUNCHES];
    int n_rents;
    struct meter meters[QUARTERS];
};
struct world {
    enum bug bug;
    uint64_t seed;
    int hours, n_requests, bad_rows;
    struct node nodes[NODES];
    sqlite3 *db;
    struct ledger_inserts inserts;
    int64_t price_version[2], price_changes_us;
};

static char dir[64], path[96];
static const char *const kind_names[] = {"static", "ec2", "ec2", "openai", "static"};
static const char *const markets[] = {"on-prem", "spot", "on-demand", "api", "on-prem"};
static const struct token_prices prices[2] = {{{550000}, {140000}, {2190000}}, {{600000}, {150000}, {2000000}}};
static const char *const price_values[2] = {"{\"input\":\"0.55\",\"cached_input\":\"0.14\",\"output\":\"2.19\"}",
                                            "{\"input\":\"0.60\",\"cached_input\":\"0.15\",\"output\":\"2\"}"};
static const struct bill_asset asset = {
    {180000 * INT64_C(1000000000000)}, {20000 * INT64_C(1000000000000)}, START_S - 400 * 86400, 4 * 31556952};
/* The market's price of an hour moves every 40 minutes. */
static struct bill_price spot_prices[100];
static const struct bill_price demand_price[] = {{0, {INT64_C(2100000000001)}}};

/* xorshift64*: enough for a simulation. */
static int64_t between(struct world *w, int64_t lo, int64_t hi)
{
    w->seed ^= w->seed >> 12;
    w->seed ^= w->seed << 25;
    w->seed ^= w->seed >> 27;
    return lo + (int64_t)((w->seed * 0x2545F4914F6CDD1DULL >> 33) % (uint64_t)(hi - lo + 1));
}

/* ---- what a node's engine measures ------------------------------------------------------------------------------- */

static struct meter *meter_at(struct node *n, int64_t us)
{
    int64_t q = us / US / BILL_QUARTER_S - START_S / BILL_QUARTER_S;
    q = q < 0 ? 0 : q >= QUARTERS ? QUARTERS - 1 : q;
    n->meters[q].quarter_s = START_S + q * BILL_QUARTER_S;
    return &n->meters[q];
}

enum spell { IDLE, BOOT };
static void spend(struct node *n, int64_t from_us, int64_t to_us, enum spell spell)
{
    const bool metered = n->kind == OWNED;
    while (from_us < to_us) {
        int64_t end = (from_us / US / BILL_QUARTER_S + 1) * BILL_QUARTER_S * US;
        end = end < to_us ? end : to_us;
        struct meter *m = meter_at(n, from_us);
        const int64_t us = end - from_us, mj = metered ? us * (spell == IDLE ? IDLE_W : BOOT_W) / 1000 : 0;
        *(spell == IDLE ? &m->idle_us : &m->boot_us) += us;
        *(spell == IDLE ? &m->idle_mj : &m->boot_mj) += mj;
        m->energy_mj += mj;
        m->up_us += us;
        from_us = end;
    }
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static void put_row(struct world *w, const struct ledger_row *row)
{
    if (ledger_file_insert(&w->inserts, row) != SQLITE_DONE)
        w->bad_rows++;
}

static void settle(struct world *w, struct request *r, int64_t now_us, enum ledger_outcome outcome)
{
    const struct ledger_leg *last = &r->legs[r->n_legs - 1];
    const bool newer = r->accepted_us >= w->price_changes_us && w->bug != OLD_PRICE;
    const bool abort_free = w->bug == ABORT_FREE && outcome == LEDGER_CANCELLED;
    struct ledger_row row = {.request_id = r->id,
                             .tenant = "acme",
                             .team = r->team,
                             .key_id = "k1",
                             .model = "m",
                             .node = last->node,
                             .provider = last->provider,
                             .market = last->market,
                             .domain = last->domain[0] ? last->domain : NULL,
                             .streamed = true,
                             .attempts = r->n_legs,
                             .continuations = r->n_legs - 1,
                             .tokens = {r->input, r->cached, r->said},
                             .usage_source = "provider",
                             .prices = prices[newer],
                             .price_version = w->price_version[newer],
                             .accepted = {r->accepted_us * 1000},
                             .first_byte = {r->accepted_us * 1000 + 1},
                             .finished = {now_us * 1000},
                             .outcome = outcome,
                             .http_status = 200,
                             .legs = r->legs,
                             .n_legs = r->n_legs};
    if (abort_free)
        row.tokens = (struct token_counts){0}, r->legs[r->n_legs - 1].tokens_output = 0;
    struct token_counts billed = row.tokens;
    billed.cached_input = w->bug == CACHED_DEAR ? 0 : billed.cached_input;
    CHECK(money_charge(&row.prices, &billed, &row.charge) == RC_OK);
    const int nth = w->n_requests % 97;
    for (int k = 0; k < last->n_uses && w->bug == ABORT_UNTIMED && outcome == LEDGER_CANCELLED; k++)
        r->legs[r->n_legs - 1].uses[k].busy_us = 0;
    if (w->bug != ROW_LOST || nth != 5)
        put_row(w, &row);
    if (w->bug == ROW_TWICE && nth == 5) {
        char again[32];
        snprintf(again, sizeof again, "%s-again", r->id);
        row.request_id = again;
        put_row(w, &row);
    }
    free(r);
}

/* From memory: no node has it. */
static void cache_hit(struct world *w, int64_t now_us)
{
    char id[24];
    snprintf(id, sizeof id, "hit-%d", ++w->n_requests);
    const struct ledger_row row = {.request_id = id,
                                   .tenant = "acme",
                                   .team = "web",
                                   .model = "m",
                                   .cache = "hit",
                                   .saved = {1234567},
                                   .tokens = {100, 0, 50},
                                   .accepted = {now_us * 1000},
                                   .finished = {now_us * 1000},
                                   .http_status = 200};
    put_row(w, &row);
}

/* ---- engines ----------------------------------------------------------------------------------------------------- */

static struct ledger_leg *leg_begin(struct node *n, struct request *r, int64_t now_us)
{
    struct ledger_leg *leg = &r->legs[r->n_legs++];
    *leg = (struct ledger_leg){.leg = r->n_legs,
                               .market = markets[n->kind],
                               .outcome = "ok",
                               .tokens_input = r->input + r->said,
                               .tokens_cached_input = r->n_legs == 1 ? r->cached : 0,
                               .started = {now_us * 1000}};
    snprintf(leg->node, sizeof leg->node, "%s", n->name);
    snprintf(leg->provider, sizeof leg->provider, "%s", kind_names[n->kind]);
    if (n->kind == SPOT)
        snprintf(leg->domain, sizeof leg->domain, "ec2/eu-1/a/g6");
    return leg;
}

static void leg_end(struct world *w, struct node *n, struct request *r, int64_t now_us, const char *outcome)
{
    struct ledger_leg *leg = &r->legs[r->n_legs - 1];
    int64_t before = 0;
    for (int i = 0; i + 1 < r->n_legs; i++)
        before += r->legs[i].tokens_output;
    leg->tokens_output = r->said - (w->bug == LEG_TWICE ? 0 : before);
    leg->ended = (struct wall){now_us * 1000};
    leg->outcome = outcome;
    if (n->kind == FOREIGN || n->kind == API)
        return;
    struct meter *m = meter_at(n, now_us);
    m->tokens.input += r->n_legs == 1 ? r->input : leg->tokens_input;
    m->tokens.cached_input += leg->tokens_cached_input;
    m->tokens.output += r->said - before;
    m->counted++;
}

/* Its part of a step, in the hour in which the step ended. */
static void use(struct ledger_leg *leg, int64_t now_us, int64_t us, int64_t mj)
{
    const int64_t hour_s = now_us / US / 3600 * 3600;
    if (!leg->n_uses || leg->uses[leg->n_uses - 1].hour_s != hour_s)
        leg->uses[leg->n_uses++] = (struct ledger_use){.hour_s = hour_s};
    leg->uses[leg->n_uses - 1].busy_us += us;
    leg->uses[leg->n_uses - 1].millijoules += mj;
}

static void begin_step(struct world *w, struct node *n, int64_t now_us)
{
    n->step_us = between(w, 300000, 900000);
    n->step_end_us = now_us + n->step_us;
}

static void share_step(struct world *w, struct node *n)
{
    int64_t weights[SEQS], us[SEQS], mj[SEQS];
    const int64_t drawn = n->kind == OWNED ? n->step_us * BUSY_W / 1000 : 0;
    for (int i = 0; i < n->n; i++)
        weights[i] = n->seqs[i].reads ? n->seqs[i].reads : 2;
    divide_by_weight(n->step_us, weights, us, n->n);
    divide_by_weight(drawn, weights, mj, n->n);
    for (int i = 0; i < n->n; i++) {
        struct request *r = n->seqs[i].r;
        use(&r->legs[r->n_legs - 1], n->step_end_us, w->bug == WHOLE_STEP ? n->step_us : us[i], mj[i]);
    }
    struct meter *m = meter_at(n, n->step_end_us);
    m->busy_us += n->step_us;
    m->up_us += n->step_us;
    m->energy_mj += drawn;
}

static void end_step(struct world *w, struct node *n)
{
    const int64_t now_us = n->step_end_us;
    share_step(w, n);
    for (int i = 0; i < n->n; i++) {
        struct request *r = n->seqs[i].r;
        n->seqs[i].reads = 0;
        r->said++;
        const bool dies = r->said == r->dies_at;
        if (!dies && r->said < r->output)
            continue;
        leg_end(w, n, r, now_us, dies ? "cancelled" : "ok");
        settle(w, r, now_us, dies ? LEDGER_CANCELLED : LEDGER_OK);
        n->seqs[i--] = n->seqs[--n->n];
    }
    n->step_end_us = 0;
    n->idle_since_us = now_us;
    if (n->n)
        begin_step(w, n, now_us);
}

static bool take(struct world *w, struct node *n, struct request *r, int64_t now_us)
{
    if (!n->up || n->n == SEQS || n->ready_us > now_us)
        return false;
    const struct ledger_leg *leg = leg_begin(n, r, now_us);
    n->seqs[n->n++] = (struct sequence){r, leg->tokens_input - leg->tokens_cached_input};
    if (!n->step_end_us) {
        spend(n, n->idle_since_us, now_us, IDLE);
        begin_step(w, n, now_us);
    }
    return true;
}

/* ---- machines that come and go ----------------------------------------------------------------------------------- */

static void launch(struct node *n, int64_t now_us)
{
    const bool spot = n->kind == SPOT;
    n->rents[n->n_rents++] = (struct bill_rent){.prices = spot ? spot_prices : demand_price,
                                                .n_prices = spot ? 100 : 1,
                                                .launched_s = now_us / US,
                                                .min_s = spot ? 60 : MIN_S};
    n->up = true;
    n->ready_us = now_us + 120 * US;
    n->idle_since_us = n->ready_us;
    spend(n, now_us, n->ready_us, BOOT);
}

/* Its answers go on on the first own machine that has room; where none has, they are lost. */
static void take_away(struct world *w, struct node *n, int64_t now_us)
{
    if (n->step_end_us) { /* the step under way is cut: nobody gets its token, but its time was spent */
        n->step_us -= n->step_end_us - now_us;
        n->step_end_us = now_us;
        share_step(w, n);
        n->step_end_us = 0;
    } else {
        spend(n, n->idle_since_us, now_us, IDLE);
    }
    for (int i = 0; i < n->n; i++) {
        struct request *r = n->seqs[i].r;
        bool moved = false;
        leg_end(w, n, r, now_us, "preempted");
        for (int k = 0; k < NODES && !moved; k++)
            moved = w->nodes[k].kind == OWNED && take(w, &w->nodes[k], r, now_us);
        if (!moved)
            settle(w, r, now_us, LEDGER_FAILED);
    }
    n->n = 0;
    n->up = false;
    struct bill_rent *rent = &n->rents[n->n_rents - 1];
    rent->ended_s = now_us / US;
    const int64_t paid_us = bill_paid_until(rent) * US; /* nobody has anything of what is paid beyond the end */
    spend(n, now_us, paid_us, IDLE);
}

/* Machines of a market come and go: every so often, and each at its own time. */
static void come_and_go(struct world *w, struct node *n, int index, int64_t now_us)
{
    const int64_t s = now_us / US - START_S + index * 331, turn = s % PREEMPT_S;
    const int64_t stays = n->kind == SPOT ? PREEMPT_S - 400 : index % 2 ? 600 : PREEMPT_S - 1000;
    if (!n->up && turn < stays && (turn < 2 || now_us == START_S * US) && n->n_rents < LAUNCHES)
        launch(n, now_us);
    else if (n->up && turn == stays && n->ready_us <= now_us)
        take_away(w, n, now_us);
}

/* ---- nodes that tell nothing ------------------------------------------------------------------------------------- */

static void foreign(struct world *w, struct node *n, struct request *r, int64_t now_us)
{
    leg_begin(n, r, now_us);
    r->said = r->dies_at && n->kind == API ? r->dies_at : r->output;
    const int64_t end_us = now_us + r->said * 400000;
    leg_end(w, n, r, end_us, "ok");
    settle(w, r, end_us, r->said < r->output ? LEDGER_CANCELLED : LEDGER_OK);
}

/* ---- the world --------------------------------------------------------------------------------------------------- */

static void arrive(struct world *w, struct node *n, int64_t now_us)
{
    struct request *r = spw_calloc(1, sizeof *r);
    n->next_us = now_us + between(w, 5, 60) * US;
    snprintf(r->id, sizeof r->id, "req-%d", ++w->n_requests);
    snprintf(r->team, sizeof r->team, "t%d", (int)between(w, 1, 3));
    r->accepted_us = now_us;
    r->input = between(w, 20, 3000);
    r->cached = between(w, 0, 3) ? 0 : r->input / 2;
    r->output = between(w, 2, 60);
    r->dies_at = between(w, 0, 19) ? 0 : between(w, 1, r->output);
    r->dies_at = r->dies_at == r->output ? 0 : r->dies_at;
    if (n->kind == API || n->kind == FOREIGN)
        foreign(w, n, r, now_us);
    else if (!take(w, n, r, now_us))
        free(r);
}

static void live(struct world *w)
{
    for (int64_t now_us = START_S * US; now_us < (START_S + w->hours * 3600) * US; now_us += US) {
        for (int i = 0; i < NODES; i++) {
            struct node *n = &w->nodes[i];
            while (n->step_end_us && n->step_end_us <= now_us)
                end_step(w, n);
            if (n->kind == SPOT || n->kind == DEMAND)
                come_and_go(w, n, i, now_us);
            if (n->next_us <= now_us)
                arrive(w, n, now_us);
        }
        if (now_us / US % 30 == 0)
            cache_hit(w, now_us);
    }
    const int64_t end_us = (START_S + w->hours * 3600) * US;
    for (int i = 0; i < NODES; i++) { /* what runs on is finished after the last hour */
        struct node *n = &w->nodes[i];
        while (n->step_end_us)
            end_step(w, n);
        if (n->kind <= DEMAND && n->up && n->idle_since_us < end_us)
            spend(n, n->idle_since_us, end_us, IDLE);
    }
}

static void write_meters(struct world *w)
{
    static struct meter all[NODES * QUARTERS];
    struct error e;
    int n = 0;
    for (int i = 0; i < NODES; i++) {
        struct node *node = &w->nodes[i];
        for (int q = 0; q < w->hours * 4; q++) {
            struct meter m = node->meters[q];
            m.node = node->name;
            m.pool = node->kind == SPOT ? "spots" : NULL;
            m.provider = kind_names[node->kind];
            m.market = markets[node->kind];
            m.quarter_s = START_S + q * BILL_QUARTER_S;
            m.idle_us += w->bug == BOOT_IDLE ? m.boot_us : 0;
            m.energy_is = node->kind == OWNED ? BOOKS_ENERGY_METERED : BOOKS_ENERGY_UNKNOWN;
            if (node->kind == FOREIGN) { /* its socket has a meter */
                m.energy_mj = INT64_C(900) * 200000;
                m.energy_is = BOOKS_ENERGY_METERED;
            }
            all[n++] = m;
        }
    }
    CHECK(meter_add(path, all, n, &e) == RC_OK);
}

static struct tariff tariff(bool flat)
{
    struct tariff t = {.uusd_per_kwh = 110000};
    if (!flat)
        t.rules[t.n_rules++] = (struct tariff_rule){.days = TARIFF_EVERY_DAY,
                                                    .months = TARIFF_EVERY_MONTH,
                                                    .from_min = 60,
                                                    .to_min = 1200,
                                                    .uusd_per_kwh = 290000};
    return t;
}

static enum rc bill_cb(const struct closing_node *a, struct closing_bill *b, void *arg, struct error *e)
{
    struct world *w = arg;
    struct node *n = NULL;
    (void)e;
    *b = (struct closing_bill){.by_tokens = false};
    for (int i = 0; i < NODES; i++)
        n = strcmp(w->nodes[i].name, a->node) == 0 ? &w->nodes[i] : n;
    if (!n)
        return RC_NOT_FOUND;
    const int64_t until_s = a->hour_s + 3600;
    b->bill.paid_us = 3600 * US;
    if (n->kind == OWNED || n->kind == FOREIGN) {
        const struct tariff t = tariff(w->bug == FLAT_TARIFF);
        b->bill.fixed = bill_owned(&asset, a->hour_s, until_s);
        b->bill.energy = bill_energy(&t, a->quarters, a->n_quarters);
        return RC_OK;
    }
    if (n->kind == API) {
        b->by_tokens = true;
        b->prices = prices[1];
        return RC_OK;
    }
    b->bill.paid_us = 0;
    for (int i = 0; i < n->n_rents; i++) {
        struct bill_rent r = n->rents[i];
        if (w->bug == NO_MINIMUM)
            r.min_s = 0;
        int64_t from_s = r.launched_s > a->hour_s ? r.launched_s : a->hour_s, to_s = bill_paid_until(&r);
        to_s = to_s < until_s ? to_s : until_s;
        struct bill_price flat = r.prices[0];
        for (int k = 0; k < r.n_prices && r.prices[k].at_s <= r.launched_s; k++)
            flat = r.prices[k];
        if (w->bug == SPOT_FLAT && n->kind == SPOT)
            r.prices = &flat, r.n_prices = 1;
        b->bill.fixed.v += bill_rented(&r, a->hour_s, until_s).v;
        b->bill.paid_us += to_s > from_s ? (to_s - from_s) * US : 0;
    }
    return RC_OK;
}

/* ---- the other hand: what providers ask for, second by second ---------------------------------------------------- */

static __int128 statement_rents(const struct world *w, const struct node *n)
{
    __int128 all = 0;
    for (int i = 0; i < n->n_rents; i++) {
        const struct bill_rent *r = &n->rents[i];
        const int64_t end_s = START_S + w->hours * 3600;
        __int128 sum = 0;
        for (int64_t s = r->launched_s; s < end_s; s++) {
            const bool past = r->ended_s && s >= r->ended_s && s >= r->launched_s + r->min_s;
            int k = 0;
            while (k + 1 < r->n_prices && r->prices[k + 1].at_s <= s)
                k++;
            sum += past ? 0 : r->prices[k].hour.v;
        }
        all += sum / 3600;
    }
    return all;
}

static __int128 statement_energy(const struct world *w, const struct node *n)
{
    __int128 sum = 0;
    for (int q = 0; q < w->hours * 4; q++) {
        const int64_t hour = q / 4 % 24, mj = n->kind == FOREIGN ? INT64_C(900) * 200000 : n->meters[q].energy_mj;
        sum += tariff_energy_cost(mj, hour >= 1 && hour < 20 ? 290000 : 110000).v;
    }
    return sum;
}

struct billed {
    struct world *w;
    __int128 rents[NODES], energy[NODES], fixed[NODES];
    int node_hours;
    int64_t worst_ppm, preempted, waste, idle_s, boot_s;
};
static void see_node(const struct node_hour *h, void *arg)
{
    struct billed *b = arg;
    b->node_hours++;
    b->preempted += h->preempted;
    b->waste += h->waste.v;
    b->boot_s += h->boot_us / US;
    b->idle_s += h->idle_us / US;
    if (h->bill.v > 0 && llabs(h->variance.v) / (h->bill.v / 1000000 + 1) > b->worst_ppm)
        b->worst_ppm = llabs(h->variance.v) / (h->bill.v / 1000000 + 1);
    for (int i = 0; i < NODES; i++)
        if (strcmp(b->w->nodes[i].name, h->node) == 0) {
            b->rents[i] += h->fixed.v;
            b->energy[i] += h->energy.v;
        }
}

static unsigned compare_statement(struct world *w, struct billed *b)
{
    struct error e;
    unsigned problems = 0;
    b->w = w;
    CHECK(rollup_read_nodes(path, START_S, START_S + w->hours * 3600, see_node, b, &e) == RC_OK);
    for (int i = 0; i < NODES; i++) {
        const struct node *n = &w->nodes[i];
        if ((n->kind == SPOT || n->kind == DEMAND) && b->rents[i] != statement_rents(w, n))
            problems |= CLOSE_BILL;
        if ((n->kind == OWNED || n->kind == FOREIGN) && b->energy[i] != statement_energy(w, n))
            problems |= CLOSE_BILL;
    }
    return problems;
}

/* ---- one run ----------------------------------------------------------------------------------------------------- */

static void begin(struct world *w, enum bug bug, int hours)
{
    const struct ledger_options o = {.path = path};
    struct error e;
    *w = (struct world){.bug = bug, .seed = 88172645463325252ULL, .hours = hours};
    w->price_changes_us = (START_S + 3600) * US;
    for (int i = 0; i < NODES; i++) {
        struct node *n = &w->nodes[i];
        n->kind = (enum kind)(i % 5);
        n->up = n->kind != SPOT && n->kind != DEMAND;
        n->idle_since_us = START_S * US;
        n->next_us = START_S * US + i * US;
        snprintf(n->name, sizeof n->name, "n%02d", i);
    }
    for (int i = 0; i < 100; i++)
        spot_prices[i] = (struct bill_price){START_S + i * 2400, {INT64_C(700000000003) + i % 7 * 50000000007}};
    for (int i = 0; i < 2; i++) {
        const struct finance_change c = {.at = {(START_S - 7200) * NS_PER_S},
                                         .who = "test",
                                         .kind = "price",
                                         .subject = "m",
                                         .value = price_values[i],
                                         .from_s = i ? w->price_changes_us / US : START_S - 86400};
        CHECK(finance_change(path, &c, NULL, NULL, &w->price_version[i], &e) == RC_OK);
    }
    CHECK(ledger_file_open(&w->db, &o, &e) == RC_OK);
    CHECK(ledger_file_prepare(w->db, &w->inserts, &e) == RC_OK);
    CHECK(ledger_file_run(w->inserts.begin) == SQLITE_OK);
}

static void plant_in_file(struct world *w)
{
    sqlite3 *db = NULL;
    const char *sql = w->bug == TRUNCATED   ? "UPDATE allocations SET share_pusd = share_pusd / 1000 * 1000"
                      : w->bug == TEAM_LOST ? "DELETE FROM hour_sums WHERE kind IN (SELECT kind FROM rollup_kinds"
                                              " WHERE team = 't2') AND hour_s = (SELECT max(hour_s) FROM hour_sums)"
                                            : "SELECT 1";
    CHECK(sqlite3_open(path, &db) == SQLITE_OK && sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK);
    sqlite3_close(db);
}

static void clean(void)
{
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    for (int i = 0; i < 3; i++) {
        char name[128];
        snprintf(name, sizeof name, "%s%s", path, suffixes[i]);
        unlink(name);
    }
}

static void count_due(int64_t hour_s, void *arg)
{
    (void)hour_s;
    ++*(int *)arg;
}

static unsigned run(struct world *w, enum bug bug, int hours, struct billed *b, struct strbuf *text)
{
    unsigned all = 0, problems;
    struct closing_verified v;
    struct error e = {0};
    int due = 0;
    begin(w, bug, hours);
    live(w);
    CHECK(ledger_file_run(w->inserts.commit) == SQLITE_OK);
    CHECK_INT(w->bad_rows, 0);
    ledger_file_finalize(&w->inserts);
    sqlite3_close(w->db);
    write_meters(w);
    CHECK(closing_due(path, START_S + hours * 3600, count_due, &due, &e) == RC_OK);
    CHECK_INT(due, hours);
    for (int h = 0; h < hours; h++) {
        const struct closing c = {.path = path,
                                  .hour_s = START_S + h * 3600,
                                  .now = {(START_S + (h + 1) * 3600 + 600) * NS_PER_S},
                                  .bill = bill_cb,
                                  .arg = w};
        enum rc rc = closing_hour(&c, &problems, text, &e);
        CHECK_INT(rc, RC_OK);
        if (rc != RC_OK)
            printf("%s\n", e.message);
        all |= problems;
        CHECK_INT(closing_hour(&c, &problems, NULL, &e), RC_CONFLICT); /* once */
    }
    plant_in_file(w);
    enum rc rc = closing_verify(path, START_S, START_S + hours * 3600, &v, &problems, text, &e);
    CHECK_INT(rc, RC_OK);
    if (rc != RC_OK)
        printf("%s\n", e.message);
    CHECK_INT(v.hours, hours);
    all |= problems | compare_statement(w, b);
    clean();
    return all;
}

static int clean_hours = 4;
static void test_clean(void)
{
    static struct world w;
    static struct billed b;
    struct strbuf text;
    strbuf_init(&text, 1 << 20);
    unsigned problems = run(&w, NONE, clean_hours, &b, &text);
    CHECK_INT(problems, 0);
    if (problems)
        printf("%.4000s\n", text.data);
    CHECK_INT(b.node_hours, NODES * clean_hours);
    CHECK(b.preempted > 0 && b.waste > 0 && b.boot_s > 0 && b.idle_s > 0);
    printf("%d requests, %d node-hours: worst variance %lld ppm of a bill, %lld legs pre-empted and gone on\n",
           w.n_requests, b.node_hours, (long long)b.worst_ppm, (long long)b.preempted);
    strbuf_fini(&text);
}

static void test_planted(void)
{
    static struct world w;
    for (int bug = NONE + 1; bug < N_BUGS; bug++) {
        struct billed b = {0};
        struct strbuf text;
        strbuf_init(&text, 1 << 20);
        const unsigned problems = run(&w, (enum bug)bug, 2, &b, &text);
        CHECK((problems & found_by[bug]) != 0);
        if (!(problems & found_by[bug]))
            printf("planted %d was not found: %x\n%.2000s\n", bug, problems, text.len ? text.data : "");
        strbuf_fini(&text);
    }
}

/* ---- the parts --------------------------------------------------------------------------------------------------- */

static void test_divide(void)
{
    int64_t parts[4];
    CHECK_INT(divide_by_weight(10, (const int64_t[]){1, 1, 1}, parts, 3), 10);
    CHECK(parts[0] == 4 && parts[1] == 3 && parts[2] == 3);
    CHECK_INT(divide_by_weight(100, (const int64_t[]){1, 0, 2, 4}, parts, 4), 100); /* 14.29, 0, 28.57, 57.14 */
    CHECK(parts[0] == 14 && parts[1] == 0 && parts[2] == 29 && parts[3] == 57);
    CHECK_INT(divide_by_weight(-10, (const int64_t[]){1, 1, 1}, parts, 3), -10);
    CHECK(parts[0] == -4 && parts[1] == -3 && parts[2] == -3);
    CHECK_INT(divide_by_weight(7, (const int64_t[]){0, 0}, parts, 2), 0);
    CHECK(parts[0] == 0 && parts[1] == 0);
    CHECK_INT(divide_by_weight(INT64_MAX, (const int64_t[]){INT64_MAX - 2, 1, 1}, parts, 3), INT64_MAX);
    CHECK(parts[0] == INT64_MAX - 2 && parts[1] == 1 && parts[2] == 1);
    struct world w = {.seed = 7};
    for (int i = 0; i < 20000; i++) { /* exact, and nobody is off by one whole */
        int64_t weights[4], sum = 0, total = between(&w, 0, 1000000);
        for (int k = 0; k < 4; k++)
            weights[k] = between(&w, 0, 3) ? between(&w, 0, 1000) : 0;
        const int64_t given = divide_by_weight(total, weights, parts, 4),
                      all = weights[0] + weights[1] + weights[2] + weights[3];
        for (int k = 0; k < 4; k++) {
            sum += parts[k];
            CHECK(!all || llabs(parts[k] * all - total * weights[k]) < all);
        }
        CHECK(sum == given && given == (all ? total : 0));
    }
}

static void test_bill(void)
{
    const struct bill_price two[] = {{1000, {3600}}, {1500, {7200}}};
    struct bill_rent r = {.prices = two, .n_prices = 2, .launched_s = 1000, .ended_s = 1010, .min_s = 60, .unit_s = 1};
    CHECK_INT(bill_paid_until(&r), 1060);
    CHECK_INT(bill_rented(&r, 0, 9999).v, 60);
    r.unit_s = 3600;
    CHECK_INT(bill_paid_until(&r), 4600);
    CHECK_INT(bill_rented(&r, 0, 9999).v, 500 + 2 * 3100);
    CHECK_INT(bill_rented(&r, 0, 1250).v + bill_rented(&r, 1250, 9999).v, 500 + 2 * 3100);
    const struct bill_asset a = {{1000003}, {3}, 0, 7};
    int64_t sum = 0;
    for (int i = -3; i < 20; i++)
        sum += bill_owned(&a, i, i + 1).v;
    CHECK_INT(sum, 1000000);
}

static void test_flight(void)
{
    struct close_leg legs[] = {{.started_us = 0, .ended_us = 100},
                               {.started_us = 50, .ended_us = 151},
                               {.started_us = 300, .ended_us = 300},
                               {.started_us = -50, .ended_us = 10}};
    CHECK_INT(close_by_flight(legs, 4, 0, 120), 120);
    CHECK_INT(legs[0].busy_us + legs[1].busy_us + legs[2].busy_us + legs[3].busy_us, 120);
    CHECK(legs[0].busy_us == 5 + 40 + 25 && legs[1].busy_us == 25 + 20 && legs[2].busy_us == 0 && legs[3].busy_us == 5);
}

static void test_bucket(void)
{
    for (int64_t v = 1; v < INT64_MAX / 3; v += v / 8 + 1) {
        const int64_t m = rollup_bucket_middle(rollup_bucket((struct pusd){v})).v;
        CHECK(llabs(m - v) <= v / 8 + 1);
        CHECK(rollup_bucket((struct pusd){v}) <= rollup_bucket((struct pusd){v + v / 8 + 1}));
    }
    CHECK_INT(rollup_bucket((struct pusd){0}), 0);
}

/* An owned machine of 200 W that measures itself, whose scheduler was there for half of the hour. */
static enum rc bill_half(const struct closing_node *n, struct closing_bill *b, void *arg, struct error *e)
{
    (void)n, (void)arg, (void)e;
    *b = (struct closing_bill){
        .bill = {.paid_us = 3600 * US, .fixed = {INT64_C(3600000000000)}, .energy = {INT64_C(360000000000)}}};
    return RC_OK;
}

static void see_half(const struct node_hour *h, void *arg)
{
    *(struct node_hour *)arg = *h;
}

/* What the engine measured, and the half hour of which nobody knows: idle. Its meter's joules are divided by busy time,
 * whatever its declared curve says of a leg. */
static void test_unwatched(void)
{
    static struct world w;
    const int64_t at_us = START_S * US;
    struct ledger_leg leg = {.leg = 1,
                             .outcome = "ok",
                             .started = {at_us * 1000},
                             .ended = {(at_us + 900 * US) * 1000},
                             .n_uses = 1,
                             .uses = {{START_S, 600 * US, 5}}};
    const struct ledger_row row = {.request_id = "half",
                                   .node = "n",
                                   .attempts = 1,
                                   .accepted = leg.started,
                                   .finished = leg.ended,
                                   .http_status = 200,
                                   .legs = &leg,
                                   .n_legs = 1};
    const struct meter m = {.node = "n",
                            .quarter_s = START_S,
                            .up_us = 1800 * US,
                            .busy_us = 600 * US,
                            .idle_us = 1199 * US,
                            .energy_mj = 360000000,
                            .idle_mj = 120000000,
                            .energy_is = BOOKS_ENERGY_METERED};
    const struct closing c = {.path = path, .hour_s = START_S, .now = {(START_S + 4200) * NS_PER_S}, .bill = bill_half};
    struct node_hour h = {.hour_s = 0};
    struct strbuf text;
    struct error e;
    unsigned problems;
    snprintf(leg.node, sizeof leg.node, "n");
    begin(&w, NONE, 1);
    put_row(&w, &row);
    CHECK_INT(w.bad_rows, 0);
    CHECK(ledger_file_run(w.inserts.commit) == SQLITE_OK);
    ledger_file_finalize(&w.inserts);
    sqlite3_close(w.db);
    CHECK_INT(meter_add(path, &m, 1, &e), RC_OK);
    strbuf_init(&text, 65536);
    CHECK_INT(closing_hour(&c, &problems, &text, &e), RC_OK);
    CHECK_INT(problems, 0);
    CHECK_INT(rollup_read_nodes(path, START_S, START_S + 3600, see_half, &h, &e), RC_OK);
    CHECK_INT(h.idle_us, 2999 * US);
    CHECK_INT(h.busy_mj, 240000000);
    CHECK_INT(h.allocated.v, INT64_C(600000000000) + INT64_C(240000000000));
    CHECK_INT(h.idle.v, INT64_C(2999000000000) + INT64_C(120000000000));
    CHECK_INT(h.variance.v, INT64_C(1000000000)); /* the second in which it did neither */
    strbuf_fini(&text);
    clean();
}

int main(int argc, char **argv)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%.40s/spw-closing-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir))
        return 1;
    snprintf(path, sizeof path, "%s/ledger.db", dir);
    clean_hours = argc > 1 && strcmp(argv[1], "--full") == 0 ? 48 : 4;
    TEST(test_divide);
    TEST(test_bill);
    TEST(test_flight);
    TEST(test_bucket);
    TEST(test_unwatched);
    TEST(test_clean);
    TEST(test_planted);
    rmdir(dir);
    return TEST_RESULT();
}
