/* Proposals: what followed before, most recently and after the longest run; and how many are worth their time: none
 * where they are wrong or a step of more tokens takes as much longer, as many as come true where they cost little; and
 * that luck and cost are learned, and unlearned.
 * links: spw_engine_serve */
#include "engine/serve/speculate.h"

#include <math.h>

#include "tests/unit/random.h"
#include "tests/unit/test.h"

static int32_t find(const char *text, int32_t max, char *out)
{
    int32_t ids[200], n = 0;
    const int32_t *found;
    for (; text[n]; n++)
        ids[n] = (unsigned char)text[n];
    int32_t got = speculate_find(ids, n, max, &found);
    for (int32_t i = 0; i < got; i++)
        out[i] = (char)found[i];
    out[got] = '\0';
    return got;
}

static void what_followed(void)
{
    static const struct {
        const char *text;
        int32_t max;
        const char *want;
    } rows[] = {
        {"", 8, ""},
        {"a", 8, ""},
        {"abcdef", 8, ""},
        {"ab-a", 8, ""}, /* a run of one says too little */
        {"abcd-ab", 8, "cd-ab"},
        {"abcd-ab", 2, "cd"},
        {"abX-abY-ab", 3, "Y-a"},         /* the latest of equals */
        {"wabX-abY-wab", 2, "X-"},        /* the longer run wins over the later one */
        {"qwabX-zwabY-qwab", 2, "X-"},    /* up to four */
        {"pqwabX-rqwabY-pqwab", 2, "Y-"}, /* and no further: the later one again */
        {"aaaa", 8, "a"},                 /* a run may overlap itself */
    };
    char got[16];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        CHECK_INT(find(rows[i].text, rows[i].max, got), (int)strlen(rows[i].want));
        CHECK_STR(got, rows[i].want);
    }
}

static void what_steps_take(void)
{
    struct step_times t = {{0}};
    CHECK(step_times_expect(&t, 5) == 0);
    step_times_observe(&t, 2, 0.010);
    CHECK(step_times_expect(&t, 1) == 0.010 && step_times_expect(&t, 60) == 0.010);
    CHECK(step_times_surely(&t, 1) == 0.010 && step_times_surely(&t, 2) == 0.010);
    CHECK(step_times_surely(&t, 3) == 0 && step_times_surely(&t, PACE_TABLE + 9) == 0);
    step_times_observe(&t, 6, 0.030);
    CHECK(fabs(step_times_expect(&t, 4) - 0.020) < 1e-12);
    CHECK(step_times_expect(&t, 7) == 0.030);
    for (int i = 0; i < 50; i++)
        step_times_observe(&t, 6, 0.050);
    CHECK(fabs(step_times_expect(&t, 6) - 0.050) < 1e-4);
    step_times_observe(&t, 0, 1);
    step_times_observe(&t, PACE_TABLE + 1, 1);
    CHECK(step_times_expect(&t, PACE_TABLE) < 0.06);
}

/* A world in which one more token costs `cost` of a step's time and a proposal is right with `p`: ids per time, against
 * not looking ahead, after it has learned. */
static double gain(double cost, double p, uint64_t seed, double *share_tried)
{
    struct step_times t = {{0}};
    struct speculate_luck luck = {0};
    double time = 0, plain = 0;
    int tried = 0, steps = 4000;
    for (int i = 0; i < steps; i++) {
        double yield = 1;
        int32_t n = speculate_length(&luck, &t, 1, SPECULATE_MAX, &yield), right = 0;
        while (right < n && random_unit(&seed) < p)
            right++;
        double took = 1 + cost * n;
        step_times_observe(&t, 1 + n, took);
        speculate_observe(&luck, n, right);
        if (i < steps / 4)
            continue;
        tried += n > 0;
        time += took;
        plain += 1 + right;
    }
    *share_tried = tried / (steps * 0.75);
    return plain / time;
}

static void when_it_pays(void)
{
    double tried;
    CHECK(gain(0.02, 0.9, 1, &tried) > 3.0 && tried > 0.95);
    CHECK(gain(0.1, 0.8, 2, &tried) > 1.8);
    CHECK(gain(0.1, 0.02, 3, &tried) > 0.98 && tried < 0.2); /* off by itself, but for a look now and then */
    CHECK(gain(1.0, 0.9, 4, &tried) > 0.97 && tried < 0.2);  /* where twice the tokens take twice the time */
    CHECK(gain(0.5, 0.6, 5, &tried) > 1.0);
}

/* In a full step there is less to win: every token costs, and the others wait for it. */
static void company_raises_the_price(void)
{
    struct step_times t = {{0}};
    struct speculate_luck luck = {.p = 0.5};
    for (int32_t n = 1; n <= PACE_TABLE; n++)
        step_times_observe(&t, n, n <= 8 ? 1.0 : 1.0 + 0.125 * (n - 8)); /* free up to 8, then in proportion */
    double yield = 1;
    CHECK(speculate_length(&luck, &t, 1, SPECULATE_MAX, &yield) >= 6);
    CHECK(yield > 1.9);
    yield = 16;
    CHECK_INT(speculate_length(&luck, &t, 16, SPECULATE_MAX, &yield), 0);
    CHECK(yield == 16);
    yield = PACE_TABLE;
    CHECK_INT(speculate_length(&luck, &t, PACE_TABLE, SPECULATE_MAX, &yield), 0);
}

int main(void)
{
    TEST(what_followed);
    TEST(what_steps_take);
    TEST(when_it_pays);
    TEST(company_raises_the_price);
    return TEST_RESULT();
}
