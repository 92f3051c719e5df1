/* The shortlist beside a scan of all nodes: over random fleets, loads and updates, for every objective.
 * links: spw_policies */
#include <math.h>
#include <stdlib.h>

#include "policies/shortlist.h"
#include "tests/unit/random.h"
#include "tests/unit/test.h"

#define NODES  10000
#define MODELS 130

static double uniform(uint64_t *seed)
{
    return (double)(next_random(seed) >> 11) * 0x1p-53;
}

/* The fleet as the test sees it. */
struct fleet {
    int n;
    bool there[NODES];
    struct shortlist_kind kinds[NODES];
    struct shortlist_terms terms[NODES];
};

/* Where types is 0 every node has prices of its own, else there are so many kinds of machine. */
static void random_node(struct fleet *f, int i, int types, uint64_t *seed)
{
    uint64_t own = next_random(seed), type = types ? next_random(seed) % (uint64_t)types * 31 + 5 : own;
    struct shortlist_kind kind = {.local = next_random(&type) % 3 == 0};
    for (int k = (int)(next_random(&type) % 3); k >= 0; k--)
        shortlist_kind_add(&kind, (int)(next_random(&type) % 3 == 0 ? next_random(&type) % MODELS : 1));
    f->kinds[i] = kind;
    f->there[i] = true;
    double dear = exp(3 * uniform(&type)), slow = exp(2 * uniform(&type));
    f->terms[i] = (struct shortlist_terms){
        .money_per_input = (float)(kind.local ? 1e3 * dear : 1e5 * dear * (0.5 + uniform(&type))),
        .money_per_output = (float)(kind.local ? 4e3 * dear : 4e5 * dear * (0.5 + uniform(&type))),
        .first_us = (float)(20000 * slow),
        .first_us_per_input = (float)(100 * slow),
        .next_us = (float)(20000 * slow),
        .tail = 1,
        .mj_per_input = (float)(20 * dear),
        .mj_per_output = (float)(900 * exp(uniform(&type))),
    };
}

/* What its load makes of it; the rest stays. */
static void random_load(struct fleet *f, int i, const struct shortlist_terms *unloaded, uint64_t *seed)
{
    struct shortlist_terms *t = &f->terms[i];
    double load = uniform(seed);
    *t = *unloaded;
    t->state = load > 0.95 ? (enum shortlist_state)(next_random(seed) % 5) : SHORTLIST_READY;
    t->first_us *= (float)(1 + 20 * load * load * load);
    t->next_us *= (float)(1 + load);
    t->tail = (float)(1.2 + uniform(seed));
    if (next_random(seed) % 10 == 0) { /* asleep */
        t->first_us += 8e6f;
        t->money += 3e7f;
        t->mj += 2e5f;
    }
}

static void random_query(struct shortlist_query *q, uint64_t *seed)
{
    static const float weights[4][3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}, {1, 30, 2000}};
    const float *w = weights[next_random(seed) % 4];
    *q = (struct shortlist_query){
        .model = next_random(seed) % 4 ? 1 : (int)(next_random(seed) % MODELS),
        .local_only = next_random(seed) % 3 == 0,
        .input_tokens = (float)(int)exp(9 * uniform(seed)),
        .output_tokens = (float)(int)exp(7 * uniform(seed)),
        .w_money = w[0],
        .w_us = w[1],
        .w_mj = w[2],
        .want = next_random(seed) % 4 ? SHORTLIST_MAX : 1 + (int)(next_random(seed) % SHORTLIST_MAX),
    };
    if (next_random(seed) % 3) {
        q->first_limit_us = (float)(4e5 * exp(3 * uniform(seed)));
        q->next_limit_us = (float)(4e4 * exp(2 * uniform(seed)));
    }
}

static bool may_answer(const struct fleet *f, const struct shortlist_query *q, int i)
{
    return f->there[i] && (f->kinds[i].models[q->model / 64] >> (q->model % 64)) & 1 &&
           (f->kinds[i].local || !q->local_only);
}

static int cuts; /* searches that ended at their bound */

/* What it comes to, and how far it is from ready and in time: said a second time, in double. */
static double cost_of(const struct fleet *f, const struct shortlist_query *q, int i, int *level)
{
    const struct shortlist_terms *t = &f->terms[i];
    double first = t->first_us + (double)t->first_us_per_input * q->input_tokens;
    double money =
        t->money + (double)t->money_per_input * q->input_tokens + (double)t->money_per_output * q->output_tokens;
    double mj = t->mj + (double)t->mj_per_input * q->input_tokens + (double)t->mj_per_output * q->output_tokens;
    bool late = (q->first_limit_us > 0 && first * t->tail > q->first_limit_us) ||
                (q->next_limit_us > 0 && (double)t->next_us * t->tail > q->next_limit_us);
    *level = 2 * (int)t->state + late;
    return money * q->w_money + (first + (double)t->next_us * q->output_tokens) * q->w_us + mj * q->w_mj;
}

static bool lists(const struct shortlist_result *r, int node)
{
    for (int i = 0; i < r->n; i++) {
        if (r->nodes[i] == node)
            return true;
    }
    return false;
}

/* The best of all against the best of those on the list. */
static void best_is_listed(const struct fleet *f, const struct shortlist_query *q, const struct shortlist_result *r)
{
    double best = INFINITY, listed = INFINITY, fastest = INFINITY, fastest_listed = INFINITY;
    int best_level = 99, listed_level = 99, eligible = 0, level;
    struct shortlist_query fast = *q;
    fast.w_money = fast.w_mj = 0;
    fast.w_us = 1;
    for (int i = 0; i < f->n; i++) {
        if (!may_answer(f, q, i))
            continue;
        eligible++;
        double cost = cost_of(f, q, i, &level), time = cost_of(f, &fast, i, &level);
        if (level < best_level || (level == best_level && cost < best)) {
            best = cost;
            best_level = level;
        }
        if (lists(r, i) && (level < listed_level || (level == listed_level && cost < listed))) {
            listed = cost;
            listed_level = level;
        }
        if (level == 0)
            fastest = time < fastest ? time : fastest;
        if (level == 0 && lists(r, i))
            fastest_listed = time < fastest_listed ? time : fastest_listed;
    }
    CHECK_INT(r->n, eligible < q->want ? eligible : q->want);
    CHECK_INT(listed_level, best_level);
    CHECK(eligible == 0 || listed <= best * 1.01);
    cuts += r->cut;
    if (q->first_limit_us > 0 && q->want > 2)
        CHECK(fastest_listed <= fastest * 1.01);
    for (int i = 0; i < r->n; i++) {
        CHECK(may_answer(f, q, r->nodes[i]));
        for (int k = 0; k < i; k++)
            CHECK(r->nodes[i] != r->nodes[k]);
    }
}

static int32_t visits_most;

static void a_fleet(int n, int types, bool ordered, uint64_t *seed)
{
    struct fleet *f = calloc(1, sizeof *f);
    struct shortlist_terms *unloaded = calloc((size_t)n, sizeof *unloaded);
    struct shortlist *s = NULL;
    struct error e;
    CHECK_INT(shortlist_new(&s, n, &e), RC_OK);
    f->n = n;
    for (int i = 0; i < n; i++) {
        random_node(f, i, types, seed);
        unloaded[i] = f->terms[i];
        random_load(f, i, &unloaded[i], seed);
        shortlist_put(s, i, &f->kinds[i], &f->terms[i]);
    }
    if (ordered)
        shortlist_order(s);
    for (int step = 0; step < 60 && !test_run_.group_failed; step++) {
        for (int k = 0; k < 40; k++) {
            int i = (int)(next_random(seed) % (uint64_t)n);
            uint64_t what = next_random(seed) % 20;
            if (f->there[i] && what == 0) {
                shortlist_drop(s, i);
                f->there[i] = false;
            } else if (!f->there[i] || what == 1) {
                random_node(f, i, types, seed);
                unloaded[i] = f->terms[i];
                shortlist_put(s, i, &f->kinds[i], &f->terms[i]);
            } else {
                random_load(f, i, &unloaded[i], seed);
                shortlist_update(s, i, &f->terms[i]);
            }
        }
        struct shortlist_query q;
        struct shortlist_result r;
        random_query(&q, seed);
        shortlist_pick(s, &q, &r);
        visits_most = r.visits > visits_most ? r.visits : visits_most;
        best_is_listed(f, &q, &r);
    }
    shortlist_free(s);
    free(unloaded);
    free(f);
}

static void the_list_is_as_good_as_a_full_scan(void)
{
    uint64_t seed = 1;
    for (int round = 0; round < 60 && !test_run_.group_failed; round++) {
        int n = round % 6 == 0 ? 1 + (int)(next_random(&seed) % 80) : 200 + (int)(next_random(&seed) % 1300);
        a_fleet(n, round % 3 == 0 ? 0 : 1 + (int)(next_random(&seed) % 40), round % 2 == 0, &seed);
    }
    CHECK_INT(cuts, 0);
}

/* Ten thousand machines of a dozen kinds: a handful of blocks is enough. */
static void few_blocks_are_opened(void)
{
    enum { MANY = 10000 };
    struct fleet *f = calloc(1, sizeof *f);
    struct shortlist *s = NULL;
    struct error e;
    uint64_t seed = 2;
    int64_t visits = 0;
    CHECK_INT(shortlist_new(&s, MANY, &e), RC_OK);
    for (int i = 0; i < MANY; i++) {
        random_node(f, 0, 12, &seed);
        struct shortlist_terms unloaded = f->terms[0];
        random_load(f, 0, &unloaded, &seed);
        shortlist_put(s, i, &f->kinds[0], &f->terms[0]);
    }
    shortlist_order(s);
    CHECK_INT(shortlist_count(s), MANY);
    for (int i = 0; i < 1000; i++) {
        struct shortlist_query q;
        struct shortlist_result r;
        random_query(&q, &seed);
        shortlist_pick(s, &q, &r);
        visits += r.visits;
        CHECK(!r.cut);
    }
    CHECK(visits < 1000 * 120);
    shortlist_free(s);
    free(f);
}

/* Ten thousand of which no two are alike: the hardest there is. The search may end at its bound, the best is listed. */
static void the_bound_costs_nothing(void)
{
    uint64_t seed = 21;
    for (int i = 0; i < 3; i++)
        a_fleet(10000, 0, true, &seed);
}

static void hints_come_first_and_the_skipped_never(void)
{
    struct fleet *f = calloc(1, sizeof *f);
    struct shortlist *s = NULL;
    struct error e;
    uint64_t seed = 4;
    f->n = 300;
    CHECK_INT(shortlist_new(&s, 300, &e), RC_OK);
    for (int i = 0; i < 300; i++) {
        random_node(f, i, 5, &seed);
        shortlist_put(s, i, &f->kinds[i], &f->terms[i]);
    }
    for (int round = 0; round < 2000; round++) {
        struct shortlist_query q;
        struct shortlist_result r;
        int32_t hints[SHORTLIST_HINTS_MAX], skip[3];
        random_query(&q, &seed);
        for (int i = 0; i < SHORTLIST_HINTS_MAX; i++)
            hints[i] = (int32_t)(next_random(&seed) % 310) - 5; /* some are nobody */
        shortlist_pick(s, &q, &r);
        for (int i = 0; i < 3; i++)
            skip[i] = r.n ? r.nodes[next_random(&seed) % (uint64_t)r.n] : 7;
        q.hints = hints;
        q.n_hints = SHORTLIST_HINTS_MAX;
        q.skip = skip;
        q.n_skip = 3;
        shortlist_pick(s, &q, &r);
        int at = 0;
        for (int i = 0; i < SHORTLIST_HINTS_MAX && at < q.want; i++) {
            bool again = false, skipped = false;
            for (int k = 0; k < i; k++)
                again = again || hints[k] == hints[i];
            for (int k = 0; k < 3; k++)
                skipped = skipped || skip[k] == hints[i];
            if (hints[i] >= 0 && hints[i] < 300 && may_answer(f, &q, hints[i]) && !again && !skipped)
                CHECK_INT(r.nodes[at++], hints[i]);
        }
        for (int i = 0; i < 3; i++)
            CHECK(!lists(&r, skip[i]));
    }
    shortlist_free(s);
    free(f);
}

/* What it says of one node is what the test says of it. */
static void rates_are_the_formula(void)
{
    struct fleet *f = calloc(1, sizeof *f);
    struct shortlist *s = NULL;
    struct error e;
    uint64_t seed = 9;
    f->n = 100;
    CHECK_INT(shortlist_new(&s, 100, &e), RC_OK);
    for (int i = 0; i < 100; i++) {
        random_node(f, i, 0, &seed);
        struct shortlist_terms unloaded = f->terms[i];
        random_load(f, i, &unloaded, &seed);
        shortlist_put(s, i, &f->kinds[i], &f->terms[i]);
    }
    for (int round = 0; round < 2000; round++) {
        struct shortlist_query q;
        random_query(&q, &seed);
        int i = (int)(next_random(&seed) % 100), level, level_said;
        float said;
        double cost = cost_of(f, &q, i, &level);
        CHECK(shortlist_rate(s, &q, i, &level_said, &said) == may_answer(f, &q, i));
        if (may_answer(f, &q, i)) {
            CHECK_INT(level_said, level);
            CHECK(fabs(said - cost) <= cost * 1e-5);
        }
    }
    shortlist_free(s);
    free(f);
}

static void equal_indexes_answer_alike(void)
{
    struct fleet *f = calloc(1, sizeof *f);
    struct shortlist *a = NULL, *b = NULL;
    struct error e;
    uint64_t seed = 12;
    f->n = 400;
    CHECK(shortlist_new(&a, 400, &e) == RC_OK && shortlist_new(&b, 400, &e) == RC_OK);
    for (int i = 0; i < 400; i++)
        random_node(f, i, 3, &seed);
    for (int i = 0; i < 400; i++)
        shortlist_put(a, i, &f->kinds[i], &f->terms[i]);
    for (int i = 399; i >= 0; i--)
        shortlist_put(b, i, &f->kinds[i], &f->terms[i]);
    shortlist_order(a); /* whichever way they came in */
    shortlist_order(b);
    for (int round = 0; round < 500; round++) {
        struct shortlist_query q;
        struct shortlist_result x, y;
        random_query(&q, &seed);
        shortlist_pick(a, &q, &x);
        shortlist_pick(b, &q, &y);
        CHECK_INT(x.n, y.n);
        CHECK(memcmp(x.nodes, y.nodes, (size_t)x.n * sizeof x.nodes[0]) == 0);
    }
    shortlist_free(a);
    shortlist_free(b);
    free(f);
}

static void nonsense_is_bounded(void)
{
    struct shortlist *s = NULL;
    struct error e;
    CHECK_INT(shortlist_new(&s, 0, &e), RC_INVALID);
    CHECK_INT(shortlist_new(&s, SHORTLIST_NODES_MAX + 1, &e), RC_INVALID);
    CHECK_INT(shortlist_new(&s, 3, &e), RC_OK);
    struct shortlist_kind kind = {0};
    shortlist_kind_add(&kind, 255);
    shortlist_put(s, 0, &kind, &(struct shortlist_terms){.money = NAN, .next_us = -5});
    shortlist_put(s, 1, &kind, &(struct shortlist_terms){.money = INFINITY, .first_us = 1});
    struct shortlist_query q = {.model = 255, .w_money = 1, .want = 16, .input_tokens = 1e7f, .output_tokens = 1e7f};
    struct shortlist_result r;
    shortlist_pick(s, &q, &r);
    CHECK(r.n == 2 && r.nodes[0] == 0 && r.nodes[1] == 1);
    shortlist_drop(s, 0);
    shortlist_drop(s, 0);
    shortlist_drop(s, 2);
    shortlist_pick(s, &q, &r);
    CHECK(r.n == 1 && r.nodes[0] == 1);
    q.model = 0;
    shortlist_pick(s, &q, &r);
    CHECK_INT(r.n, 0);
    shortlist_free(s);
}

int main(void)
{
    TEST(the_list_is_as_good_as_a_full_scan);
    TEST(few_blocks_are_opened);
    TEST(the_bound_costs_nothing);
    TEST(hints_come_first_and_the_skipped_never);
    TEST(rates_are_the_formula);
    TEST(equal_indexes_answer_alike);
    TEST(nonsense_is_bounded);
    return TEST_RESULT();
}
