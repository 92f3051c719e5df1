/* Books that look like a site's, for tests and the bench of reports: so many requests an hour of seven teams (one of
 * them nobody's), five models, own machines, spot, on demand and an API, with cache hits, cancels, failures, answers
 * that went on elsewhere, client's bounds, a price change, a discount, corrections and a budget; every hour is closed
 * as the daemon closes it. The same options give the same books. Needs: spw_sched_books. */
#ifndef TESTS_UNIT_BOOKS_FILL_H
#define TESTS_UNIT_BOOKS_FILL_H

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "policies/tariff.h"
#include "scheduler/books/closing.h"
#include "scheduler/books/finance.h"
#include "scheduler/books/ledger_internal.h"
#include "scheduler/books/meter.h"

#define FILL_US     INT64_C(1000000)
#define FILL_NODES  9
#define FILL_MODELS 5
#define FILL_TEAMS  7

struct fill_options {
    const char *path;
    int64_t start_s; /* a whole hour */
    int hours, rows; /* rows: in each hour */
    bool quiet;
};
struct fill {
    const struct fill_options *o;
    uint64_t seed;
    sqlite3 *db;
    struct ledger_inserts inserts;
    int64_t n, versions[FILL_MODELS][2], busy_us[FILL_NODES];
    unsigned problems;
    char budgets[64];
};
static const struct fill_node {
    const char *name, *pool, *provider, *market, *domain;
} fill_nodes[FILL_NODES] = {
    {"gpu-1", NULL, "static", "on-prem", NULL},
    {"gpu-2", NULL, "static", "on-prem", NULL},
    {"gpu-3", NULL, "static", "on-prem", NULL},
    {"gpu-4", NULL, "static", "on-prem", NULL},
    {"s-1", "spots", "ec2", "spot", "aws/eu-central-1/eu-central-1a/g6.12xlarge"},
    {"s-2", "spots", "ec2", "spot", "aws/eu-central-1/eu-central-1b/g6.12xlarge"},
    {"d-1", "spots", "ec2", "on-demand", "aws/eu-central-1/eu-central-1a/g6.12xlarge"},
    {"h-1", "h200", "ec2", "on-demand", "aws/us-east-1/us-east-1a/p5e.48xlarge"},
    {"openai", NULL, "openai", "api", NULL},
};
enum { FILL_SPOT = 4, FILL_API = 8 };
static const char *const fill_models[FILL_MODELS] = {"deepseek-r1", "llama-70b", "qwen-7b", "embed", "gpt"};
static const char *const fill_teams[FILL_TEAMS] = {"search", "support", "ads", "research", "legal", "it", NULL};
static const char *const fill_projects[3] = {"web", "batch", NULL};
static const char *const fill_tags[4] = {NULL, ",env=prod,", ",env=test,cost=4711,", NULL};
static const struct token_prices fill_prices[FILL_MODELS][2] = {
    {{{550000}, {140000}, {2190000}}, {{600000}, {150000}, {2000000}}},
    {{{590000}, {590000}, {790000}}, {{590000}, {590000}, {790000}}},
    {{{100001}, {50000}, {200003}}, {{90000}, {45000}, {180000}}},
    {{{20000}, {20000}, {0}}, {{20000}, {20000}, {0}}},
    {{{2500000}, {1250000}, {10000000}}, {{2500000}, {1250000}, {10000000}}}};

/* xorshift64*: enough for a test. */
static int64_t fill_between(struct fill *f, int64_t lo, int64_t hi)
{
    f->seed ^= f->seed >> 12;
    f->seed ^= f->seed << 25;
    f->seed ^= f->seed >> 27;
    return lo + (int64_t)((f->seed * 0x2545F4914F6CDD1DULL >> 33) % (uint64_t)(hi - lo + 1));
}

static void fill_must(bool ok, const char *what, const struct error *e)
{
    if (!ok) {
        fprintf(stderr, "books: %s: %s\n", what, e ? e->message : "");
        exit(1);
    }
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static struct ledger_leg fill_leg(struct fill *f, int number, int node, int64_t hour_s, int64_t at_us, int64_t busy_us)
{
    const struct fill_node *n = &fill_nodes[node];
    struct ledger_leg leg = {.leg = number,
                             .outcome = "ok",
                             .market = n->market,
                             .started = {at_us * 1000},
                             .ended = {(at_us + 2 * busy_us) * 1000}};
    snprintf(leg.node, sizeof leg.node, "%s", n->name);
    snprintf(leg.provider, sizeof leg.provider, "%s", n->provider);
    snprintf(leg.domain, sizeof leg.domain, "%s", n->domain ? n->domain : "");
    if (node != FILL_API) {
        leg.uses[leg.n_uses++] = (struct ledger_use){hour_s, busy_us, busy_us * 700 / 1000};
        f->busy_us[node] += busy_us;
    }
    return leg;
}

/* An answer from memory: nobody computed, nothing is charged. */
static void fill_cached(struct ledger_row *row)
{
    row->cache = "hit";
    row->saved = row->charge;
    row->charge = (struct pusd){0};
    row->prices = (struct token_prices){{0}, {0}, {0}};
    row->price_version = 0;
    row->node = row->provider = row->market = row->domain = NULL;
    row->n_legs = 0;
}

static void fill_row(struct fill *f, int64_t hour_s)
{
    char id[32], key[24];
    const int model = (int)fill_between(f, 0, 99) < 50 ? 0 : (int)fill_between(f, 1, FILL_MODELS - 1);
    const int team = (int)fill_between(f, 0, FILL_TEAMS - 1), k = (int)fill_between(f, 0, 99);
    const int node = model == 4 ? FILL_API : (int)fill_between(f, 0, FILL_API - 1);
    const bool newer = hour_s >= f->o->start_s + f->o->hours / 2 * 3600;
    const int64_t at_us = hour_s * FILL_US + fill_between(f, 0, 3500 * FILL_US),
                  busy_us = fill_between(f, 20000, 400000);
    struct ledger_leg legs[2];
    int n = 0;
    if (k == 7 && node != FILL_API) { /* a spot machine's end; the answer went on */
        legs[n] = fill_leg(f, 1, FILL_SPOT, hour_s, at_us, busy_us);
        legs[n].outcome = "preempted";
        legs[n++].tokens_output = 3;
    }
    legs[n] = fill_leg(f, n + 1, node, hour_s, at_us, busy_us);
    snprintf(id, sizeof id, "r%lld", (long long)++f->n);
    snprintf(key, sizeof key, "key-%d-%d", team, (int)(f->n % 2));
    struct ledger_row row = {.request_id = id,
                             .tenant = team == 5 ? "globex" : "acme",
                             .team = fill_teams[team],
                             .project = fill_projects[fill_between(f, 0, 2)],
                             .tags = fill_tags[fill_between(f, 0, 3)],
                             .key_id = key,
                             .model = fill_models[model],
                             .node = legs[n].node,
                             .provider = legs[n].provider,
                             .market = fill_nodes[node].market,
                             .domain = fill_nodes[node].domain,
                             .streamed = k % 2 == 0,
                             .attempts = n + 1,
                             .continuations = n,
                             .tokens = {fill_between(f, 20, 4000), 0, fill_between(f, 5, 800)},
                             .usage_source = "provider",
                             .prices = fill_prices[model][newer],
                             .price_version = f->versions[model][newer],
                             .accepted = {at_us * 1000},
                             .finished = legs[n].ended,
                             .outcome = k == 0   ? LEDGER_FAILED
                                        : k <= 2 ? LEDGER_CANCELLED
                                                 : LEDGER_OK,
                             .http_status = 200,
                             .budgets = f->budgets,
                             .legs = legs,
                             .n_legs = n + 1};
    row.tokens.cached_input = k % 3 ? 0 : row.tokens.input / 2;
    row.tokens_reasoning = model == 0 ? row.tokens.output / 3 : 0;
    legs[n].tokens_input = row.tokens.input;
    legs[n].tokens_cached_input = row.tokens.cached_input;
    legs[n].tokens_output = row.tokens.output - (n ? 3 : 0);
    fill_must(money_charge(&row.prices, &row.tokens, &row.charge) == RC_OK, "a charge", NULL);
    if (k == 9) { /* the client would pay no more */
        row.charge_max = (struct pusd){row.charge.v / 2 + 1};
        row.charge = row.charge.v > row.charge_max.v ? row.charge_max : row.charge;
    }
    if (k >= 95 && !n) {
        f->busy_us[node] -= node != FILL_API ? busy_us : 0;
        fill_cached(&row);
    }
    fill_must(ledger_file_insert(&f->inserts, &row) == SQLITE_DONE, "a row", NULL);
}

/* ---- machines ---------------------------------------------------------------------------------------------------- */

static void fill_meters(struct fill *f, int64_t hour_s)
{
    struct meter all[4 * FILL_NODES];
    struct error e;
    int n = 0;
    for (int i = 0; i < FILL_API; i++) {
        for (int q = 0; q < 4; q++) {
            const struct fill_node *x = &fill_nodes[i];
            const int64_t busy = q == 3 ? f->busy_us[i] - 3 * (f->busy_us[i] / 4) : f->busy_us[i] / 4;
            const int64_t boot = x->pool && q == 0 && hour_s / 3600 % 6 == i % 6 ? 90 * FILL_US : 0;
            const int64_t asleep = !x->pool && hour_s / 3600 % 24 < 5 ? 300 * FILL_US : 0;
            const int64_t idle = 900 * FILL_US - busy - boot - asleep;
            const int64_t idle_mj = idle * 90 / 1000 + asleep * 20 / 1000, boot_mj = boot * 150 / 1000;
            all[n++] = (struct meter){.node = x->name,
                                      .pool = x->pool,
                                      .provider = x->provider,
                                      .market = x->market,
                                      .domain = x->domain,
                                      .quarter_s = hour_s + q * 900,
                                      .up_us = 900 * FILL_US,
                                      .boot_us = boot,
                                      .idle_us = idle,
                                      .asleep_us = asleep,
                                      .busy_us = busy,
                                      .energy_mj = busy * 700 / 1000 + idle_mj + boot_mj,
                                      .boot_mj = boot_mj,
                                      .idle_mj = idle_mj,
                                      .energy_is = x->pool ? BOOKS_ENERGY_MODELLED : BOOKS_ENERGY_METERED};
        }
    }
    fill_must(meter_add(f->o->path, all, n, &e) == RC_OK, "meters", &e);
}

static enum rc fill_bill(const struct closing_node *a, struct closing_bill *b, void *arg, struct error *e)
{
    static const struct bill_price spot[] = {{0, {INT64_C(1700000000003)}}}, demand[] = {{0, {INT64_C(4601600000000)}}};
    static const struct tariff tariff = {.uusd_per_kwh = 290000};
    const struct bill_asset asset = {
        {180000 * INT64_C(1000000000000)}, {20000 * INT64_C(1000000000000)}, a->hour_s - 86400, 4 * INT64_C(31556952)};
    (void)arg, (void)e;
    *b = (struct closing_bill){.by_tokens = false};
    if (a->market && strcmp(a->market, "api") == 0) {
        b->by_tokens = true;
        b->prices = fill_prices[4][0];
        return RC_OK;
    }
    b->bill.paid_us = 3600 * FILL_US;
    if (!a->pool) {
        b->bill.fixed = bill_owned(&asset, a->hour_s, a->hour_s + 3600);
        b->bill.energy = bill_energy(&tariff, a->quarters, a->n_quarters);
        return RC_OK;
    }
    const struct bill_rent r = {.prices = strcmp(a->market, "spot") == 0 ? spot : demand, .n_prices = 1};
    b->bill.fixed = bill_rented(&r, a->hour_s, a->hour_s + 3600);
    return RC_OK;
}

static void fill_hour(struct fill *f, int64_t hour_s)
{
    unsigned problems;
    struct strbuf text;
    struct error e;
    memset(f->busy_us, 0, sizeof f->busy_us);
    fill_must(ledger_file_run(f->inserts.begin) == SQLITE_OK, "begin", NULL);
    for (int i = 0; i < f->o->rows; i++)
        fill_row(f, hour_s);
    fill_must(ledger_file_run(f->inserts.commit) == SQLITE_OK, "commit", NULL);
    fill_meters(f, hour_s);
    const struct closing c = {
        .path = f->o->path, .hour_s = hour_s, .now = {(hour_s + 4200) * NS_PER_S}, .bill = fill_bill};
    strbuf_init(&text, 1 << 20);
    fill_must(closing_hour(&c, &problems, &text, &e) == RC_OK, "closing", &e);
    if (problems)
        fprintf(stderr, "books: an hour does not close: %.800s\n", text.len ? text.data : "");
    f->problems |= problems;
    strbuf_fini(&text);
}

/* ---- what finance edits ------------------------------------------------------------------------------------------- */

static int64_t fill_change(const struct fill *f, const char *kind, const char *subject, const char *value,
                           int64_t from_s)
{
    const struct finance_change c = {.at = {(f->o->start_s - 3600) * NS_PER_S},
                                     .who = "test",
                                     .kind = kind,
                                     .subject = subject,
                                     .value = value,
                                     .from_s = from_s};
    int64_t version = 0;
    struct error e = {0};
    fill_must(finance_change(f->o->path, &c, NULL, NULL, &version, &e) == RC_OK, kind, &e);
    return version;
}

static void fill_finance(struct fill *f)
{
    const int64_t start = f->o->start_s;
    for (int m = 0; m < FILL_MODELS; m++)
        for (int v = 0; v < 2; v++) {
            char value[160], text[3][48];
            const struct token_prices *p = &fill_prices[m][v];
            snprintf(value, sizeof value, "{\"input\":\"%s\",\"cached_input\":\"%s\",\"output\":\"%s\"}",
                     price_format(p->input, text[0], 48), price_format(p->cached_input, text[1], 48),
                     price_format(p->output, text[2], 48));
            f->versions[m][v] =
                fill_change(f, "price", fill_models[m], value, v ? start + f->o->hours / 2 * 3600 : start - 86400);
        }
    fill_change(f, "discount", "tenant=globex", "{\"percent\":\"12.5\"}", start - 86400);
    fill_change(f, "cost_centre", "team=search", "{\"code\":\"4711\"}", start - 86400);
    fill_change(f, "reference", "deepseek-r1", "{\"input\":\"0.55\",\"cached_input\":\"0.14\",\"output\":\"2.19\"}",
                start - 86400);
    fill_change(f, "reference", "gpu-1", "{\"hour\":\"4.10\"}", start - 86400);
}

static void fill_correct(struct fill *f)
{
    const struct finance_correction all[] = {
        {.request_id = "r1", .reason = "an outage", .charge = {-250000000001}},
        {.team = "ads", .reason = "forgotten", .charge = {INT64_C(1000000000007)}}};
    int64_t version;
    struct error e;
    for (int i = 0; i < 2; i++)
        fill_must(finance_correct(f->o->path, &all[i], "test", (struct wall){(f->o->start_s + 5400) * NS_PER_S}, NULL,
                                  NULL, &version, &e) == RC_OK,
                  "a correction", &e);
}

/* Returns bits of enum close_problem: 0, if the books close. */
static unsigned fill_books(const struct fill_options *o)
{
    const struct ledger_options lo = {.path = o->path};
    struct fill f = {.o = o, .seed = 88172645463325252ULL};
    struct error e;
    snprintf(f.budgets, sizeof f.budgets, "%lld all\n", (long long)o->start_s);
    fill_finance(&f);
    fill_must(ledger_file_open(&f.db, &lo, &e) == RC_OK, "open", &e);
    fill_must(ledger_file_prepare(f.db, &f.inserts, &e) == RC_OK, "prepare", &e);
    for (int h = 0; h < o->hours; h++) {
        fill_hour(&f, o->start_s + h * INT64_C(3600));
        if (!o->quiet && h % 24 == 23)
            fprintf(stderr, "  day %d, %lld rows\n", h / 24 + 1, (long long)f.n);
    }
    fill_correct(&f);
    ledger_file_finalize(&f.inserts);
    sqlite3_close(f.db);
    return f.problems;
}

#endif
