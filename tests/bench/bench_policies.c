/* What decisions cost: predictions, routing among 16, index updates and picks among 10,000 nodes, the map of prefixes,
 * hashing a prompt. Each line: median and 99th percentile over batches, and that nothing was allocated meanwhile.
 *   ninja -C build bench_policies && build/bench/bench_policies
 * links: spw_policies */
#include <malloc.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "policies/prefix.h"
#include "policies/route.h"
#include "policies/shortlist.h"
#include "tests/bench/bench_help.h"
#include "tests/unit/random.h"

#include <stdio.h>

#define NODES   10000
#define BATCHES 2001
#define MODEL   3

static double uniform(uint64_t *seed)
{
    return (double)(next_random(seed) >> 11) * 0x1p-53;
}

static size_t allocated(void)
{
    return mallinfo2().uordblks;
}

/* One batch of `each` operations at a time. */
static void measure(const char *what, int each, void (*batch)(void *arg, int each), void *arg)
{
    static double took[BATCHES];
    batch(arg, each);
    size_t before = allocated();
    for (int i = 0; i < BATCHES; i++) {
        int64_t began = bench_now_ns();
        batch(arg, each);
        took[i] = (double)(bench_now_ns() - began) / each;
    }
    bool clean = allocated() == before;
    qsort(took, BATCHES, sizeof took[0], bench_compare);
    printf("%-58s median %9.1f ns  p99 %9.1f ns  allocations: %s\n", what, took[BATCHES / 2], took[BATCHES * 99 / 100],
           clean ? "none" : "SOME");
}

/* ---- the index --------------------------------------------------------------------------------------------------- */

struct index_bench {
    struct shortlist *s;
    struct shortlist_terms terms[NODES];
    struct shortlist_query q;
    uint64_t seed;
    int64_t visits, picks, cut;
    int types;
};

static void load_node(struct index_bench *b, int node, struct shortlist_terms *out)
{
    double load = uniform(&b->seed);
    *out = b->terms[node];
    out->first_us *= (float)(1 + 20 * load * load * load);
    out->next_us *= (float)(1 + load);
    out->state = load > 0.97 ? SHORTLIST_FULL : SHORTLIST_READY;
}

/* types: of machines and price lists; 0: no two nodes are alike. */
static void fill_index(struct index_bench *b, int types)
{
    struct error e;
    b->seed = 1;
    b->types = types;
    if (shortlist_new(&b->s, NODES, &e) != RC_OK)
        abort();
    for (int i = 0; i < NODES; i++) {
        uint64_t type = types ? next_random(&b->seed) % (uint64_t)types + 77 : next_random(&b->seed);
        struct shortlist_kind kind = {.local = next_random(&type) % 2 == 0};
        struct shortlist_terms t;
        shortlist_kind_add(&kind, MODEL);
        shortlist_kind_add(&kind, 100 + (int)(next_random(&type) % 4));
        double slow = exp(2 * uniform(&type));
        b->terms[i] = (struct shortlist_terms){.money_per_input = (float)(1e4 * exp(4 * uniform(&type))),
                                               .money_per_output = (float)(4e4 * exp(4 * uniform(&type))),
                                               .first_us = (float)(20000 * slow),
                                               .first_us_per_input = (float)(60 * slow),
                                               .next_us = (float)(15000 * slow),
                                               .tail = 1.5f,
                                               .mj_per_input = (float)(20 * exp(uniform(&type))),
                                               .mj_per_output = (float)(900 * exp(uniform(&type)))};
        load_node(b, i, &t);
        shortlist_put(b->s, i, &kind, &t);
    }
    int64_t began = bench_now_ns();
    shortlist_order(b->s);
    printf("%-58s %9.2f ms\n", types ? "order 10,000 nodes of 24 kinds" : "order 10,000 nodes, no two alike",
           (double)(bench_now_ns() - began) / 1e6);
}

static void updates(void *arg, int each)
{
    struct index_bench *b = arg;
    for (int i = 0; i < each; i++) {
        int node = (int)(next_random(&b->seed) % NODES);
        struct shortlist_terms t;
        load_node(b, node, &t);
        shortlist_update(b->s, node, &t);
    }
}

static void picks(void *arg, int each)
{
    struct index_bench *b = arg;
    for (int i = 0; i < each; i++) {
        struct shortlist_result r;
        b->q.input_tokens = (float)(100 + next_random(&b->seed) % 4000);
        b->q.output_tokens = (float)(10 + next_random(&b->seed) % 800);
        shortlist_pick(b->s, &b->q, &r);
        b->visits += r.visits;
        b->cut += r.cut;
        b->picks++;
    }
}

static void bench_index(int types)
{
    static const struct {
        const char *name;
        float w[3], first_limit_us;
    } objectives[] = {{"cost, with an SLO", {1, 0, 0}, 600000},
                      {"latency", {0, 1, 0}, 0},
                      {"energy, with an SLO", {0, 0, 1}, 600000},
                      {"balanced, with an SLO", {1, 30, 2000}, 600000}};
    struct index_bench *b = calloc(1, sizeof *b);
    char what[120];
    fill_index(b, types);
    measure("update one of 10,000 nodes", 100, updates, b);
    for (size_t i = 0; i < sizeof objectives / sizeof objectives[0]; i++) {
        b->q = (struct shortlist_query){.model = MODEL,
                                        .w_money = objectives[i].w[0],
                                        .w_us = objectives[i].w[1],
                                        .w_mj = objectives[i].w[2],
                                        .first_limit_us = objectives[i].first_limit_us,
                                        .want = SHORTLIST_MAX};
        b->visits = b->picks = b->cut = 0;
        snprintf(what, sizeof what, "pick 16 of 10,000: %s", objectives[i].name);
        measure(what, 10, picks, b);
        printf("    blocks of 8 opened: %.1f of %d on average; searches cut: %lld\n",
               (double)b->visits / (double)b->picks, 1250 + 157 + 20 + 3 + 1, (long long)b->cut);
    }
    shortlist_free(b->s);
    free(b);
}

/* ---- prefixes ---------------------------------------------------------------------------------------------------- */

#define PROMPT_BYTES  400000
#define PROMPT_BLOCKS (PROMPT_BYTES / PREFIX_BLOCK_BYTES)

struct prefix_bench {
    struct prefix_map *map;
    uint64_t hashes[PROMPT_BLOCKS + 1], seed;
    char text[PROMPT_BYTES];
    int64_t sum;
    int blocks; /* of a prompt */
};

static void hash_prompt(void *arg, int each)
{
    struct prefix_bench *b = arg;
    for (int i = 0; i < each; i++) {
        struct prefix_hasher h;
        prefix_hasher_init(&h, (uint64_t)i, b->hashes, PROMPT_BLOCKS);
        prefix_hasher_feed_json(&h, b->text, (size_t)b->blocks * PREFIX_BLOCK_BYTES + 100);
        b->sum += (int64_t)h.last;
    }
}

static void random_hashes(struct prefix_bench *b)
{
    uint64_t prompt = next_random(&b->seed) % 20000;
    for (int i = 0; i < b->blocks; i++)
        b->hashes[i] = next_random(&prompt);
}

static void insert_prompt(void *arg, int each)
{
    struct prefix_bench *b = arg;
    for (int i = 0; i < each; i++) {
        random_hashes(b);
        prefix_insert(b->map, (int32_t)(next_random(&b->seed) % NODES), b->hashes, b->blocks);
    }
}

static void look_up_prompt(void *arg, int each)
{
    struct prefix_bench *b = arg;
    for (int i = 0; i < each; i++) {
        struct prefix_holder found[PREFIX_HOLDERS_MAX];
        random_hashes(b);
        b->sum += prefix_lookup(b->map, b->hashes, b->blocks, found);
    }
}

static void fill_text(struct prefix_bench *b, size_t words)
{
    size_t at = 0;
    memset(b->text, ' ', sizeof b->text);
    while (at + words * 70 + 100 < sizeof b->text) {
        at += (size_t)snprintf(b->text + at, 100, "{\"role\": \"user\", \"content\": \"");
        for (size_t i = 0; i < words; i++)
            at += (size_t)snprintf(b->text + at, 70, "eight words of what somebody had said %6zu\\n", at);
        at += (size_t)snprintf(b->text + at, 10, "\"}, ");
    }
    b->text[at] = ' ';
}

static void bench_prefix(int blocks)
{
    struct prefix_bench *b = calloc(1, sizeof *b);
    struct prefix_stats stats;
    struct error e;
    char what[120];
    if (prefix_new(&b->map, PREFIX_BYTES_DEFAULT, NODES, &e) != RC_OK)
        abort();
    for (int i = 0; i < NODES; i++)
        prefix_set_tokens(b->map, i, 2000000);
    b->blocks = blocks;
    for (size_t words = 1; words <= 100; words += 99) { /* in a message */
        fill_text(b, words);
        snprintf(what, sizeof what, "hash a prompt of %d KiB, %d words a message", blocks, (int)words * 8);
        measure(what, 1, hash_prompt, b);
    }
    snprintf(what, sizeof what, "insert a prompt of %d KiB", blocks);
    measure(what, 4, insert_prompt, b);
    snprintf(what, sizeof what, "look up a prompt of %d KiB", blocks);
    measure(what, 4, look_up_prompt, b);
    prefix_stats(b->map, &stats);
    printf("    the map: %.1f MiB, %lld blocks, %lld had to go; sum %lld\n", (double)stats.bytes / 1048576,
           (long long)stats.blocks, (long long)stats.evicted, (long long)(b->sum & 1));
    prefix_free(b->map);
    free(b);
}

/* ---- the decision ----------------------------------------------------------------------------------------------- */

#define DECISIONS 64
struct decision_bench {
    struct predictor predictors[16];
    struct route_candidate c[DECISIONS][16];
    struct route_request r[DECISIONS];
    uint64_t sum;
    int next;
};

static void predictions(void *arg, int each)
{
    struct decision_bench *b = arg;
    for (int i = 0; i < each; i++) {
        const struct predict_load load = {.others = b->next & 7, .prompt = 100 + b->next};
        struct prediction p = predict(&b->predictors[b->next++ & 15], &load, 1);
        b->sum += (uint64_t)p.ttft.median_us;
    }
}

static void decisions(void *arg, int each)
{
    struct decision_bench *b = arg;
    struct route_decision d;
    for (int i = 0; i < each; i++) {
        int k = b->next++ % DECISIONS;
        b->r[k].spread++;
        route_choose(&d, &b->r[k], b->c[k], 16);
        b->sum += (uint64_t)d.chosen;
    }
}

static void fill_decisions(struct decision_bench *b, enum route_objective objective, bool slo)
{
    uint64_t seed = 5;
    memset(b, 0, sizeof *b);
    for (int i = 0; i < 16; i++)
        predictor_init(&b->predictors[i], &(struct predict_prior){.curve = NULL});
    for (int k = 0; k < DECISIONS; k++) {
        b->r[k] = (struct route_request){.input_tokens = 1000, .output_tokens = 300, .objective = objective};
        if (slo)
            b->r[k].slo = (struct route_slo){.ttft_us = 500000, .tpot_us = 50000, .probability = 0.9};
        for (int i = 0; i < 16; i++)
            b->c[k][i] =
                (struct route_candidate){.serves_model = true,
                                         .healthy = true,
                                         .slots = 32,
                                         .in_flight = (int32_t)(next_random(&seed) % 32),
                                         .has_marginal = true,
                                         .marginal = {(int64_t)(next_random(&seed) % 1000000)},
                                         .has_energy = true,
                                         .marginal_mj = (int64_t)(next_random(&seed) % 1000000),
                                         .predicted = true,
                                         .latency = {{.median_us = 1e5 + 5e5 * random_unit(&seed), .log_sd = 0.4},
                                                     {.median_us = 1e4 + 5e4 * random_unit(&seed), .log_sd = 0.2}}};
    }
}

static void bench_decisions(void)
{
    static struct decision_bench b;
    char what[64];
    fill_decisions(&b, ROUTE_COST, false);
    measure("predict one node", 64, predictions, &b);
    for (int o = ROUTE_COST; o <= ROUTE_BALANCED; o++) {
        for (int slo = 0; slo < 2; slo++) {
            fill_decisions(&b, (enum route_objective)o, slo);
            snprintf(what, sizeof what, "decide among 16: %s%s", route_objective_name((enum route_objective)o),
                     slo ? ", with an SLO" : "");
            measure(what, 16, decisions, &b);
        }
    }
}

int main(void)
{
    bench_decisions();
    bench_index(24);
    bench_index(0);
    bench_prefix(2);
    bench_prefix(PROMPT_BLOCKS);
    return 0;
}
