/* How much of a prompt a step takes in beside those that decode: as much as makes it 2.1 times as long, whatever a
 * token costs, however many decode, and after the machine has become slower or the prompt's tokens dearer; and never
 * nothing.
 * links: spw_engine_serve */
#include "engine/serve/pace.h"

#include "tests/unit/test.h"

#define FIRST 32
#define MAX   512

/* Steps of a machine on which a prompt's token takes token_s, until nothing moves; how many of them a step takes then. */
static int32_t settle(struct pace *p, int32_t n_decode, double decode_s, double token_s)
{
    int32_t n = 0;
    for (int i = 0; i < 60; i++) {
        n = pace_tokens(p, n_decode, decode_s, FIRST, MAX);
        pace_observe(p, n, decode_s, decode_s + token_s * n);
    }
    return n;
}

static void a_step_takes_so_much_longer(void)
{
    static const struct {
        int32_t n_decode;
        double decode_s, token_s;
        int32_t want;
    } rows[] = {{7, 0.2, 0.01, 22},   {1, 0.1, 0.001, 110}, {7, 0.02, 0.01, 4}, {40, 0.2, 0.01, 22},
                {80, 0.01, 0.01, 20}, {7, 0.2, 1e-6, MAX},  {1, 1e-6, 0.01, 4}};
    struct pace all = {0};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct pace p = {0};
        CHECK_INT(pace_tokens(&p, rows[i].n_decode, rows[i].decode_s, FIRST, MAX), FIRST);
        for (int again = 0; again < 2; again++) { /* also coming from elsewhere */
            const int32_t n = settle(again ? &all : &p, rows[i].n_decode, rows[i].decode_s, rows[i].token_s);
            CHECK(n >= rows[i].want - 1 && n <= rows[i].want + 1);
        }
    }
}

static void nothing_is_known(void)
{
    struct pace p = {0};
    CHECK_INT(pace_tokens(&p, 3, 0.1, FIRST, 16), 16); /* there is no room for more */
    pace_observe(&p, 0, 0.1, 0.2);
    pace_observe(&p, 5, 0.1, 0);
    CHECK(p.token_s == 0);
    pace_observe(&p, 10, 0, 0.1);
    CHECK_INT(pace_tokens(&p, 3, 0, FIRST, MAX), FIRST); /* what the others take is not known */
    CHECK_INT(pace_tokens(&p, 3, 0.2, FIRST, MAX), 22);
    CHECK_INT(pace_tokens(&p, 3, 0.2, FIRST, 12), 12);
    pace_observe(&p, 10, 0.1, 0.05); /* quicker than without: a guess too high */
    CHECK(p.token_s > 0);
}

int main(void)
{
    TEST(a_step_takes_so_much_longer);
    TEST(nothing_is_known);
    return TEST_RESULT();
}
