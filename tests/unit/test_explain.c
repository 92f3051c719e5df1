/* Proves that decisions are kept and told as they were taken: the newest ones, in order, each whole or not at all while
 * others are written over it; of many candidates those that came furthest, the others counted; that what a loser is
 * said to have lost by is its own figure, worse than the winner's; and that the header always fits and is one line of
 * JSON.
 * links: spw_sched_front */
#include <malloc.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/json.h"
#include "scheduler/front/explain_text.h"
#include "tests/unit/random.h"
#include "tests/unit/test.h"

#define ROUNDS TEST_FEWER(1500)

struct snapshot {
    struct route_request q;
    struct route_candidate c[ROUTE_CANDIDATES_MAX];
    char names[ROUTE_CANDIDATES_MAX][80];
    int32_t n;
};

static const char *name_of(const void *arg, int32_t i)
{
    return ((const struct snapshot *)arg)->names[i];
}

static struct explain_context context_of(const struct snapshot *s, const char *id)
{
    return (struct explain_context){.request_id = id,
                                    .model_asked = "large",
                                    .model = "small",
                                    .at_ns = INT64_C(1764392400123000000),
                                    .name = name_of,
                                    .arg = s};
}

static double between(uint64_t *seed, double low, double high)
{
    return low + (high - low) * random_unit(seed);
}

static bool one_in(uint64_t *seed, unsigned n)
{
    return next_random(seed) % n == 0;
}

static void random_candidate(struct route_candidate *c, uint64_t *seed)
{
    *c = (struct route_candidate){
        .serves_model = !one_in(seed, 12),
        .healthy = !one_in(seed, 12),
        .draining = one_in(seed, 20),
        .local = one_in(seed, 2),
        .tried = one_in(seed, 20),
        .broken = one_in(seed, 20),
        .cooling = one_in(seed, 20),
        .back_us = (int64_t)(next_random(seed) % 2) * 1500000,
        .rank = one_in(seed, 10),
        .in_flight = (int32_t)(next_random(seed) % 5),
        .slots = (int32_t)(next_random(seed) % 3) * 4,
        .cached_tokens = one_in(seed, 3) ? (int64_t)between(seed, 0, 5000) : 0,
        .has_marginal = !one_in(seed, 4),
        .marginal = {(int64_t)(next_random(seed) % 3) * 420000000},
        .has_energy = !one_in(seed, 4),
        .marginal_mj = (int64_t)(next_random(seed) % 3) * 17000,
        .predicted = !one_in(seed, 4),
        .latency = {{.median_us = between(seed, 1e4, 1e6), .log_sd = between(seed, 0.05, 1)},
                    {.median_us = between(seed, 5e3, 1e5), .log_sd = 0.3}},
        .risk = one_in(seed, 2) ? 0 : between(seed, 0, 0.5),
    };
    c->prices.input.uusd_per_mtok = (int64_t)(next_random(seed) % 3) * 150000;
    c->prices.output.uusd_per_mtok = (int64_t)(next_random(seed) % 3) * 600000;
}

static void random_snapshot(struct snapshot *s, uint64_t *seed, int32_t most)
{
    memset(s, 0, sizeof *s);
    s->n = (int32_t)(next_random(seed) % (uint64_t)(most + 1));
    s->q = (struct route_request){.input_tokens = (int64_t)between(seed, 1, 8000),
                                  .output_tokens = (int64_t)between(seed, 1, 1000),
                                  .local_only = one_in(seed, 6),
                                  .objective = (enum route_objective)(next_random(seed) % 4),
                                  .spread = (uint32_t)next_random(seed)};
    if (one_in(seed, 2))
        s->q.slo = (struct route_slo){(int64_t)between(seed, 5e4, 2e6), (int64_t)between(seed, 5e3, 1e5), 0.9, 0};
    for (int32_t i = 0; i < s->n; i++) {
        random_candidate(&s->c[i], seed);
        snprintf(s->names[i], sizeof s->names[i], "node-%d%s", i, one_in(seed, 9) ? "-with-a-name-of-some-length" : "");
    }
}

/* ---- the ring ----------------------------------------------------------------------------------------------------- */

static uint64_t note(struct explain *e, const struct snapshot *s, const char *id, struct route_decision *d)
{
    struct explain_context x = context_of(s, id);
    route_choose(d, &s->q, s->c, s->n);
    return explain_note_locked(e, &x, &s->q, s->c, s->n, d);
}

static void the_newest_are_kept(void)
{
    struct explain *e = explain_new(10);
    uint64_t seed = 1, tickets[8];
    struct route_decision d;
    struct explain_record r;
    struct snapshot s;
    char id[40];
    int earlier;
    random_snapshot(&s, &seed, 3);
    for (int i = 0; i < 34; i++) {
        snprintf(id, sizeof id, "req_%026d", i / 3); /* three decisions each */
        note(e, &s, id, &d);
    }
    CHECK_INT(explain_keeps(e), 10);
    CHECK_INT(explain_find(e, "req_00000000000000000000000009", tickets, 8, &earlier), 3);
    CHECK_INT(earlier, 0);
    CHECK(tickets[0] == 28 && tickets[1] == 29 && tickets[2] == 30);
    CHECK(explain_read(e, 29, "req_00000000000000000000000009", &r));
    CHECK_STR(r.id, "req_00000000000000000000000009");
    CHECK(r.ticket == 29);
    CHECK_INT(explain_find(e, "req_00000000000000000000000009", tickets, 2, &earlier), 2); /* the newest two */
    CHECK(tickets[0] == 29 && tickets[1] == 30 && earlier == 1);
    CHECK_INT(explain_find(e, "req_00000000000000000000000007", tickets, 8, NULL), 0); /* written over */
    CHECK_INT(explain_find(e, "req_0000000000000000000000000", tickets, 8, NULL), 0);
    CHECK_INT(explain_find(e, "", tickets, 8, NULL), 0);
    struct explain_record newest[12];
    CHECK_INT(explain_newest(e, newest, 3), 3);
    CHECK(newest[0].ticket > newest[1].ticket && newest[1].ticket > newest[2].ticket);
    CHECK(explain_read(e, newest[0].ticket, newest[0].id, &r));
    CHECK_INT(explain_newest(NULL, newest, 3), 0);
    CHECK(!explain_read(e, 29, "req_00000000000000000000000008", &r));
    CHECK(!explain_read(e, 19, "req_00000000000000000000000009", &r));
    explain_free(e);
}

static void nothing_is_kept_where_nothing_is_to_be(void)
{
    struct explain *e = explain_new(0);
    uint64_t seed = 1, tickets[8];
    struct route_decision d;
    struct explain_record r;
    struct snapshot s;
    struct explain_then then = {.ahead = 1};
    random_snapshot(&s, &seed, 3);
    CHECK(e == NULL && explain_keeps(e) == 0);
    CHECK(note(e, &s, "req_1", &d) == 0);
    explain_then_locked(e, 0, &then);
    explain_forget_locked(e, explain_next_locked(e));
    CHECK_INT(explain_find(e, "req_1", tickets, 8, NULL), 0);
    CHECK(!explain_read(e, 1, "req_1", &r));
    explain_free(e);
}

static void what_became_of_it_and_what_was_not_meant(void)
{
    struct explain *e = explain_new(5);
    uint64_t seed = 2, tickets[8];
    struct route_decision d;
    struct explain_record r;
    struct snapshot s;
    random_snapshot(&s, &seed, 3);
    note(e, &s, "req_before", &d);
    uint64_t mark = explain_next_locked(e);
    note(e, &s, "req_1", &d);
    note(e, &s, "req_1", &d);
    explain_forget_locked(e, mark);
    CHECK_INT(explain_find(e, "req_1", tickets, 8, NULL), 0);
    uint64_t ticket = note(e, &s, "req_1", &d);
    explain_then_locked(e, ticket, &(struct explain_then){.outcome = EXPLAIN_WAITS, .ahead = 7, .wait_ms = 30000});
    CHECK_INT(explain_find(e, "req_1", tickets, 8, NULL), 1);
    CHECK(tickets[0] == ticket && ticket == mark);
    CHECK(explain_read(e, ticket, "req_1", &r));
    CHECK(r.then.outcome == EXPLAIN_WAITS && r.then.ahead == 7 && r.then.wait_ms == 30000);
    CHECK_INT(r.input_tokens, s.q.input_tokens);
    for (int i = 0; i < 5; i++)
        note(e, &s, "req_later", &d);
    explain_then_locked(e, ticket, &(struct explain_then){.outcome = EXPLAIN_NOT_LET_IN}); /* too late: not another's */
    CHECK(explain_read(e, ticket + 5, "req_later", &r));
    CHECK(r.then.outcome != EXPLAIN_NOT_LET_IN);
    explain_free(e);
}

/* Candidates beyond what is listed are those that were out first, and are counted. */
static void of_many_those_that_came_furthest(void)
{
    struct explain *e = explain_new(1);
    uint64_t seed = 3;
    int full = 0;
    for (int round = 0; round < ROUNDS; round++) {
        struct snapshot s;
        struct route_decision d;
        struct explain_record r;
        random_snapshot(&s, &seed, ROUTE_CANDIDATES_MAX);
        uint64_t ticket = note(e, &s, "req_1", &d);
        CHECK(explain_read(e, ticket, "req_1", &r));
        int least = EXPLAIN_REASONS, counted = 0;
        CHECK_INT(r.n, s.n < EXPLAIN_CANDIDATES_MAX ? s.n : EXPLAIN_CANDIDATES_MAX);
        for (int i = 0; i < r.n; i++) {
            if (r.candidates[i].reason && r.candidates[i].reason < least)
                least = r.candidates[i].reason;
        }
        for (int i = 0; i < EXPLAIN_REASONS; i++) {
            counted += r.others[i];
            CHECK(!r.others[i] || i <= least);
        }
        CHECK_INT(r.n + counted, s.n);
        CHECK(r.others[ROUTE_CHOSEN] == 0 && (r.chosen >= 0) == (d.chosen >= 0));
        if (r.chosen >= 0)
            CHECK_STR(explain_name(&r, r.candidates[r.chosen].name), s.names[d.chosen]);
        full += counted > 0;
    }
    CHECK(full > ROUNDS / 2);
    explain_free(e);
}

static void names_without_room_are_cut(void)
{
    struct explain *e = explain_new(1);
    uint64_t seed = 4;
    struct snapshot s;
    struct route_decision d;
    struct explain_record r;
    random_snapshot(&s, &seed, 3);
    s.n = EXPLAIN_CANDIDATES_MAX;
    for (int i = 0; i < s.n; i++) {
        s.c[i] = s.c[0];
        snprintf(s.names[i], sizeof s.names[i], "%c%063d", 'a' + i, i);
    }
    uint64_t ticket = note(e, &s, "req_1", &d);
    CHECK(explain_read(e, ticket, "req_1", &r));
    CHECK_STR(explain_name(&r, r.candidates[0].name), s.names[0]);
    const char *last = explain_name(&r, r.candidates[15].name);
    CHECK(strlen(last) >= 2 && last[0] == 'p' && last[strlen(last) - 1] == '~');
    CHECK_STR(explain_name(&r, r.model), "small");
    CHECK_STR(explain_name(&r, r.model_asked), "large");
    explain_free(e);
}

static void writing_takes_no_memory(void)
{
    struct explain *e = explain_new(100);
    uint64_t seed = 5;
    struct snapshot s;
    struct route_decision d;
    random_snapshot(&s, &seed, ROUTE_CANDIDATES_MAX);
    size_t before = mallinfo2().uordblks;
    for (int i = 0; i < 1000; i++)
        note(e, &s, "req_1", &d);
    CHECK(mallinfo2().uordblks == before);
    explain_free(e);
}

/* ---- read while it is written ------------------------------------------------------------------------------------- */

struct race {
    struct explain *e;
    _Atomic bool over;
    _Atomic uint64_t whole;
    uint64_t gone, torn;
};

/* All that is in a record says k, its name as many times as k has it. */
static void note_k(struct explain *e, int k)
{
    static struct snapshot s;
    struct route_decision d;
    char id[16];
    snprintf(id, sizeof id, "req_%d", k % 4);
    s.n = EXPLAIN_CANDIDATES_MAX;
    s.q.input_tokens = s.q.output_tokens = k;
    for (int i = 0; i < s.n; i++) {
        s.c[i] = (struct route_candidate){.serves_model = true, .healthy = true, .in_flight = k, .cached_tokens = k};
        memset(s.names[i], 'a' + k % 26, 20);
    }
    uint64_t ticket = note(e, &s, id, &d);
    explain_then_locked(e, ticket, &(struct explain_then){.ahead = k, .wait_ms = k, .back_ms = k});
}

static bool is_one_k(const struct explain_record *r)
{
    int k = r->input_tokens;
    bool one = r->output_tokens == k && r->n == EXPLAIN_CANDIDATES_MAX && r->then.ahead == r->then.wait_ms &&
               (r->then.ahead == k || r->then.ahead == 0) && r->then.back_ms == r->then.ahead;
    for (int i = 0; i < EXPLAIN_CANDIDATES_MAX; i++) {
        const struct explain_candidate *c = &r->candidates[i];
        const char *name = explain_name(r, c->name);
        one = one && c->in_flight == k && c->cached == k && name[0] == 'a' + k % 26 && name[19] == name[0];
    }
    return one;
}

static void *read_on(void *arg)
{
    struct race *race = arg;
    struct explain_record r;
    uint64_t tickets[8];
    char id[16];
    for (unsigned i = 0; !race->over; i++) {
        snprintf(id, sizeof id, "req_%u", i % 4);
        int n = explain_find(race->e, id, tickets, 8, NULL);
        for (int k = 0; k < n; k++) {
            if (!explain_read(race->e, tickets[k], id, &r))
                race->gone++;
            else if (is_one_k(&r) && strcmp(r.id, id) == 0 && r.ticket == tickets[k])
                race->whole++;
            else
                race->torn++;
        }
    }
    return NULL;
}

/* A ring so small that each record is soon written over, and readers all the time: what is read is one decision. Goes
 * on until both have happened. */
static void a_record_is_read_whole_or_not_at_all(void)
{
    struct race race = {.e = explain_new(3)};
    pthread_t reader;
    CHECK(pthread_create(&reader, NULL, read_on, &race) == 0);
    for (int k = 1; k < 30000; k++)
        note_k(race.e, k);
    const struct timespec rest = {.tv_nsec = 20000000};
    for (int i = 0; i < 1000 && !race.whole; i++)
        nanosleep(&rest, NULL); /* now it can read some in peace */
    race.over = true;
    pthread_join(reader, NULL);
    CHECK(race.torn == 0 && race.whole > 0);
    explain_free(race.e);
}

/* ---- what is said ------------------------------------------------------------------------------------------------- */

static cJSON *request_json(const struct explain *e, const char *id)
{
    struct strbuf out;
    cJSON *root = NULL;
    struct error err;
    strbuf_init(&out, 1 << 20);
    struct json_writer w = json_write_begin(&out);
    if (explain_write_request(e, id, &w) == RC_OK && json_write_end(&w) == RC_OK)
        CHECK(json_parse(out.data, out.len, JSON_DEPTH_MAX, &root, &err) == RC_OK);
    strbuf_fini(&out);
    return root;
}

static double member(const cJSON *object, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsNumber(v) ? v->valuedouble : cJSON_IsString(v) ? strtod(v->valuestring, NULL) : -1;
}

static const char *text(const cJSON *object, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsString(v) ? v->valuestring : "";
}

/* What the JSON says of a loser, beside what it says of the winner. */
static void check_loser(const cJSON *lost, const cJSON *won, const cJSON *decision)
{
    const char *reason = text(lost, "reason"), *why = text(lost, "why");
    bool compared = strstr(why, " against ") != NULL;
    if (strcmp(reason, "dearer") == 0)
        CHECK(compared && member(lost, "money_usd") > member(won, "money_usd"));
    if (strcmp(reason, "slower") == 0 && compared)
        CHECK(member(lost, "time_ms") > member(won, "time_ms"));
    if (strcmp(reason, "hungrier") == 0 && compared)
        CHECK(member(lost, "joules") > member(won, "joules"));
    if (strcmp(reason, "worse") == 0)
        CHECK(compared && member(lost, "value") >= member(won, "value"));
    if (strcmp(reason, "riskier") == 0)
        CHECK(compared && member(lost, "risk") > member(won, "risk"));
    if (strcmp(reason, "misses_slo") == 0)
        CHECK(member(lost, "p_slo") < member(cJSON_GetObjectItemCaseSensitive(decision, "slo"), "probability"));
    if (strcmp(reason, "full") == 0)
        CHECK(strstr(why, "full") && member(lost, "in_flight") >= member(lost, "slots"));
    if (strcmp(reason, "less_cached") == 0)
        CHECK(compared && member(lost, "tokens_cached") < member(won, "tokens_cached"));
    if (strcmp(reason, "not_local") == 0)
        CHECK(cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(lost, "local")));
}

static void losers_lost_by_what_is_said(void)
{
    struct explain *e = explain_new(1);
    uint64_t seed = 6;
    int chosen = 0;
    for (int round = 0; round < ROUNDS; round++) {
        struct snapshot s;
        struct route_decision d;
        random_snapshot(&s, &seed, 12);
        note(e, &s, "req_1", &d);
        cJSON *root = request_json(e, "req_1");
        const cJSON *decision = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(root, "decisions"), 0);
        const cJSON *candidates = cJSON_GetObjectItemCaseSensitive(decision, "candidates"), *c;
        CHECK_INT(cJSON_GetArraySize(candidates), s.n);
        if (d.chosen >= 0) {
            const cJSON *won = cJSON_GetArrayItem(candidates, 0);
            CHECK_STR(text(won, "node"), s.names[d.chosen]);
            CHECK_STR(text(decision, "chosen"), s.names[d.chosen]);
            CHECK(strncmp(text(decision, "sentence"), s.names[d.chosen], strlen(s.names[d.chosen])) == 0);
            CHECK(fabs(member(won, "money_usd") - d.terms[d.chosen].money / 1e12) < 1e-12);
            chosen++;
        } else {
            CHECK(strstr(text(decision, "sentence"), "nobody") || strstr(text(decision, "sentence"), "no node"));
        }
        cJSON_ArrayForEach(c, candidates)
        {
            CHECK(text(c, "why")[0] != '\0');
            if (d.chosen >= 0)
                check_loser(c, cJSON_GetArrayItem(candidates, 0), decision);
        }
        cJSON_Delete(root);
    }
    CHECK(chosen > ROUNDS / 2);
    explain_free(e);
}

static void the_header_fits(void)
{
    static struct explain_record records[40];
    struct explain *e = explain_new(100);
    uint64_t seed = 7;
    int cut = 0, dropped = 0;
    for (int round = 0; round < ROUNDS / 10; round++) {
        struct snapshot s;
        struct route_decision d;
        struct strbuf out;
        cJSON *root = NULL;
        struct error err;
        char id[24];
        int n = 1 + (int)(next_random(&seed) % (round % 10 ? 3 : 40));
        snprintf(id, sizeof id, "req_%d", round);
        for (int i = 0; i < n; i++) {
            random_snapshot(&s, &seed, 20);
            CHECK(explain_read(e, note(e, &s, id, &d), id, &records[i]));
        }
        strbuf_init(&out, EXPLAIN_HEADER_MAX);
        explain_write_header(records, n, 0, &out);
        CHECK(out.len <= EXPLAIN_HEADER_MAX && out.len > 0 && strcspn(out.data, "\r\n") == out.len);
        CHECK(json_parse(out.data, out.len, JSON_DEPTH_MAX, &root, &err) == RC_OK);
        const cJSON *decisions = cJSON_GetObjectItemCaseSensitive(root, "decisions");
        int earlier = (int)member(root, "earlier");
        CHECK_INT(cJSON_GetArraySize(decisions) + (earlier > 0 ? earlier : 0), n);
        const cJSON *last = cJSON_GetArrayItem(decisions, cJSON_GetArraySize(decisions) - 1); /* the newest is there */
        CHECK_STR(text(last, "chosen"), d.chosen >= 0 ? s.names[d.chosen] : "");
        cut += member(last, "more") > 0;
        dropped += earlier > 0;
        cJSON_Delete(root);
        strbuf_fini(&out);
    }
    CHECK(cut > 0 && dropped > 0);
    explain_free(e);
}

/* The example of docs/POLICIES.md. */
static void example(struct snapshot *s)
{
    memset(s, 0, sizeof *s);
    s->n = 4;
    s->q = (struct route_request){
        .input_tokens = 1000, .output_tokens = 300, .slo = {.ttft_us = 500000, .probability = 0.95}};
    const struct {
        const char *name;
        double ttft, sd;
        int64_t money;
        int in_flight;
    } nodes[] = {{"gpu1", 420e3, 0.3, 40000000, 30},
                 {"gpu2", 180e3, 0.3, 40000000, 6},
                 {"spot1", 150e3, 0.3, 0, 4},
                 {"api-x", 400e3, 0.1, 270000000, 0}};
    for (int i = 0; i < 4; i++) {
        s->c[i] = (struct route_candidate){
            .serves_model = true,
            .healthy = true,
            .in_flight = nodes[i].in_flight,
            .slots = 32,
            .has_marginal = true,
            .marginal = {nodes[i].money},
            .predicted = true,
            .latency = {{.median_us = nodes[i].ttft, .log_sd = nodes[i].sd}, {.median_us = 2e4, .log_sd = 0.2}}};
        snprintf(s->names[i], sizeof s->names[i], "%s", nodes[i].name);
    }
}

static void sentence_of(struct snapshot *s, char sentence[EXPLAIN_SENTENCE_MAX], const struct explain_then *then)
{
    struct explain *e = explain_new(1);
    struct route_decision d;
    struct explain_record r;
    uint64_t ticket = note(e, s, "req_1", &d);
    if (then)
        explain_then_locked(e, ticket, then);
    CHECK(explain_read(e, ticket, "req_1", &r));
    explain_sentence(&r, sentence);
    explain_free(e);
}

static void sentences(void)
{
    struct snapshot s;
    char said[EXPLAIN_SENTENCE_MAX];
    example(&s);
    sentence_of(&s, said, NULL);
    CHECK_STR(
        said,
        "spot1 was chosen: the cheapest of those that meet the SLO; gpu2 lost: dearer, $0.00004 against $0; api-x: "
        "dearer, $0.00027 against $0; gpu1: misses the SLO, 72% likely to meet it where 95% is asked");
    s.c[2].slots = 4;
    s.c[1].draining = true;
    s.q.local_only = true;
    s.c[0].local = s.c[1].local = s.c[2].local = true;
    s.q.slo.ttft_us = 0;
    sentence_of(&s, said, NULL);
    CHECK_STR(said, "gpu1 was chosen: the only one that could take it; spot1 lost: is full: 4 of 4 slots; gpu2: is "
                    "draining; api-x: is not on the premises, which the request must not leave");
    s.c[0].broken = true;
    s.c[0].back_us = 1500000;
    sentence_of(&s, said, &(struct explain_then){.outcome = EXPLAIN_WAITS, .ahead = 2, .wait_ms = 30000});
    CHECK_STR(said, "nobody can take it; spot1 is full: 4 of 4 slots; gpu1 failed too often, and is left alone for a "
                    "while: 1.5 s more; gpu2 is draining; and 1 more; it waits, behind 2, for at most 30 s");
    s.n = 0;
    sentence_of(&s, said, NULL);
    CHECK_STR(said, "no node serves small; waiting cannot help");
}

int main(void)
{
    TEST(the_newest_are_kept);
    TEST(nothing_is_kept_where_nothing_is_to_be);
    TEST(what_became_of_it_and_what_was_not_meant);
    TEST(of_many_those_that_came_furthest);
    TEST(names_without_room_are_cut);
    TEST(writing_takes_no_memory);
    TEST(a_record_is_read_whole_or_not_at_all);
    TEST(losers_lost_by_what_is_said);
    TEST(the_header_fits);
    TEST(sentences);
    return TEST_RESULT();
}
