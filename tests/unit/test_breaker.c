/* Proves that a node's breaker opens for failures in a row and for a share of them, not for less, not for what clients
 * do, and once for many legs that die together; that it lets one request try when its time is over, waits twice as long
 * when that fails and closes when that speaks; that a cool-down is no failure; and that retries stay within their share
 * of the requests plus a floor, in any window, whatever is asked.
 * links: spw_policies */
#include "tests/unit/test.h"

#include "policies/breaker.h"
#include "policies/retry_budget.h"

#define S  INT64_C(1000000)
#define MS INT64_C(1000)

static const struct breaker_spec spec = {.failures = 5,
                                         .percent = 50,
                                         .volume = 20,
                                         .window_us = 10 * S,
                                         .open_us = S,
                                         .open_max_us = 8 * S,
                                         .slow_us = 2 * S,
                                         .cool_us = S,
                                         .cool_max_us = 60 * S};
#define EVEN 500 /* of 0..1000: neither longer nor shorter than said */

static void leg(struct breaker *b, int64_t now, enum breaker_outcome outcome)
{
    struct breaker_leg l = breaker_begin(b, now);
    breaker_end(b, &spec, &l, now, outcome, EVEN);
}
static void legs(struct breaker *b, int64_t now, int n, enum breaker_outcome outcome)
{
    for (int i = 0; i < n; i++)
        leg(b, now, outcome);
}

static void five_in_a_row_open_it(void)
{
    struct breaker b = {0};
    legs(&b, S, 4, BREAKER_FAILED);
    CHECK_INT(breaker_look(&b, S).word, BREAKER_PASS);
    leg(&b, S, BREAKER_OK); /* not in a row any more */
    legs(&b, S, 4, BREAKER_FAILED);
    legs(&b, S, 50, BREAKER_NO_WORD); /* clients who leave say nothing */
    CHECK_INT(breaker_look(&b, S).word, BREAKER_PASS);
    leg(&b, S, BREAKER_FAILED);
    CHECK_INT(breaker_look(&b, S).word, BREAKER_BLOCKED);
    CHECK_INT(breaker_look(&b, S + 400 * MS).wait_us, 600 * MS);
    CHECK_INT(breaker_look(&b, 2 * S).word, BREAKER_PASS);
}

static void a_share_opens_it_if_there_are_enough(void)
{
    struct breaker b = {0};
    for (int i = 0; i < 9; i++) {
        leg(&b, S + i, BREAKER_OK);
        leg(&b, S + i, BREAKER_FAILED);
    }
    CHECK_INT(b.state, BREAKER_CLOSED);
    leg(&b, 2 * S, BREAKER_OK);
    leg(&b, 2 * S, BREAKER_FAILED);
    CHECK_INT(b.state, BREAKER_OPEN);
    b = (struct breaker){0}; /* spread over longer than the window they are never enough */
    for (int i = 0; i < 200; i++)
        leg(&b, i * S, i % 2 ? BREAKER_OK : BREAKER_FAILED);
    CHECK_INT(b.state, BREAKER_CLOSED);
    b = (struct breaker){0}; /* and fewer than the share are not either */
    for (int i = 0; i < 1000; i++)
        leg(&b, i * MS, i % 5 < 3 ? BREAKER_OK : BREAKER_FAILED);
    CHECK_INT(b.state, BREAKER_CLOSED);
}

static void many_that_die_together_open_it_once(void)
{
    struct breaker b = {0};
    struct breaker_leg l[64];
    for (int i = 0; i < 64; i++)
        l[i] = breaker_begin(&b, S);
    for (int i = 0; i < 64; i++)
        breaker_end(&b, &spec, &l[i], 2 * S, BREAKER_FAILED, EVEN);
    CHECK_INT(b.opened, 1);
    CHECK_INT(breaker_look(&b, 2 * S).wait_us, S);
    /* Nor does an old one that ends well close it. */
    struct breaker_leg old = l[0];
    breaker_end(&b, &spec, &old, 2 * S, BREAKER_OK, EVEN);
    CHECK_INT(breaker_look(&b, 2 * S).word, BREAKER_BLOCKED);
}

static void one_tries_when_its_time_is_over(void)
{
    struct breaker b = {0};
    legs(&b, S, 5, BREAKER_FAILED);
    struct breaker_leg trial = breaker_begin(&b, 2 * S);
    CHECK(trial.trial);
    CHECK_INT(b.state, BREAKER_HALF_OPEN);
    CHECK_INT(breaker_look(&b, 2 * S).word, BREAKER_BLOCKED);
    CHECK_INT(breaker_look(&b, 2 * S).wait_us, 0);
    breaker_end(&b, &spec, &trial, 2 * S, BREAKER_NO_WORD, EVEN); /* its client left: another one tries */
    CHECK_INT(breaker_look(&b, 2 * S).word, BREAKER_PASS);
    trial = breaker_begin(&b, 3 * S);
    CHECK(trial.trial);
    breaker_spoke(&b, &spec, &trial, 4 * S, S, EVEN);
    CHECK_INT(b.state, BREAKER_CLOSED); /* at its first token, however long the answer is */
    breaker_end(&b, &spec, &trial, 5 * S, BREAKER_FAILED, EVEN);
    CHECK_INT(b.in_row, 1); /* and what it does then still counts */
}

static int64_t try_and_fail(struct breaker *b, int64_t now)
{
    struct breaker_leg trial = breaker_begin(b, now);
    breaker_end(b, &spec, &trial, now, BREAKER_FAILED, EVEN);
    return breaker_look(b, now).wait_us;
}

static void it_waits_longer_each_time(void)
{
    struct breaker b = {0};
    int64_t now = S, wait, expected = 2 * S;
    legs(&b, now, 5, BREAKER_FAILED);
    for (int i = 0; i < 200; i++) {
        now += breaker_look(&b, now).wait_us;
        wait = try_and_fail(&b, now);
        CHECK_INT(wait, expected);
        expected = expected < 8 * S ? expected * 2 : expected;
    }
    now += wait;
    leg(&b, now, BREAKER_OK);
    CHECK_INT(b.state, BREAKER_CLOSED);
    legs(&b, now + S, 5, BREAKER_FAILED); /* soon again: it has not got better */
    CHECK_INT(breaker_look(&b, now + S).wait_us, 8 * S);
    now += 9 * S;
    leg(&b, now, BREAKER_OK);
    legs(&b, now + 60 * S, 5, BREAKER_FAILED); /* after a good while it starts anew */
    CHECK_INT(breaker_look(&b, now + 60 * S).wait_us, S);
}

static void chance_spreads_by_a_fifth(void)
{
    int64_t least = INT64_MAX, most = 0;
    for (uint32_t i = 0; i < 5000; i++) {
        struct breaker b = {0};
        for (int k = 0; k < 5; k++) {
            struct breaker_leg l = breaker_begin(&b, S);
            breaker_end(&b, &spec, &l, S, BREAKER_FAILED, i * 2654435761u);
        }
        int64_t us = breaker_look(&b, S).wait_us;
        least = us < least ? us : least;
        most = us > most ? us : most;
    }
    CHECK(least >= 800 * MS && least < 810 * MS);
    CHECK(most <= 1200 * MS && most > 1190 * MS);
}

static void slow_is_failed(void)
{
    struct breaker b = {0};
    for (int i = 0; i < 5; i++) {
        struct breaker_leg l = breaker_begin(&b, S);
        breaker_spoke(&b, &spec, &l, 4 * S, 3 * S, EVEN);
        breaker_end(&b, &spec, &l, 5 * S, BREAKER_OK, EVEN); /* it counts once */
    }
    CHECK_INT(b.state, BREAKER_OPEN);
    struct breaker_leg trial = breaker_begin(&b, 10 * S);
    breaker_spoke(&b, &spec, &trial, 13 * S, 3 * S, EVEN);
    CHECK_INT(b.state, BREAKER_OPEN);
    CHECK_INT(b.opened, 2);
}

static void a_cool_down_is_no_failure(void)
{
    struct breaker b = {0};
    for (int i = 0; i < 100; i++) {
        struct breaker_leg l = breaker_begin(&b, S);
        breaker_cool(&b, &spec, S, 7 * S);
        breaker_end(&b, &spec, &l, S, BREAKER_NO_WORD, EVEN);
    }
    CHECK_INT(b.state, BREAKER_CLOSED);
    CHECK_INT(breaker_look(&b, 2 * S).word, BREAKER_COOLING);
    CHECK_INT(breaker_look(&b, 2 * S).wait_us, 6 * S);
    breaker_cool(&b, &spec, 2 * S, S); /* a shorter one does not shorten it */
    CHECK_INT(breaker_look(&b, 2 * S).wait_us, 6 * S);
    CHECK_INT(breaker_look(&b, 8 * S).word, BREAKER_PASS);
    breaker_cool(&b, &spec, 8 * S, 0);
    CHECK_INT(breaker_look(&b, 8 * S).wait_us, S);
    breaker_cool(&b, &spec, 8 * S, 86400 * S); /* nor is it believed without end */
    CHECK_INT(breaker_look(&b, 8 * S).wait_us, 60 * S);
    breaker_reset(&b);
    CHECK_INT(breaker_look(&b, 8 * S).word, BREAKER_PASS);
}

static void a_trial_that_is_put_off_gives_its_place_back(void)
{
    struct breaker b = {0};
    legs(&b, S, 5, BREAKER_FAILED);
    struct breaker_leg trial = breaker_begin(&b, 2 * S);
    breaker_cool(&b, &spec, 2 * S, 3 * S);
    breaker_end(&b, &spec, &trial, 2 * S, BREAKER_NO_WORD, EVEN);
    CHECK_INT(breaker_look(&b, 3 * S).word, BREAKER_COOLING);
    CHECK_INT(breaker_look(&b, 5 * S).word, BREAKER_PASS);
    CHECK(breaker_begin(&b, 5 * S).trial);
}

static void what_is_off_opens_nothing(void)
{
    struct breaker b = {0};
    const struct breaker_spec off = {.window_us = S, .open_us = S, .open_max_us = S};
    for (int i = 0; i < 10000; i++) {
        struct breaker_leg l = breaker_begin(&b, S);
        breaker_end(&b, &off, &l, S, BREAKER_FAILED, EVEN);
    }
    CHECK_INT(breaker_look(&b, S).word, BREAKER_PASS);
}

/* ---- window, retries -------------------------------------------------------------------------------------------- */

static uint64_t random_state = 7;
static int64_t below(int64_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (int64_t)((random_state * 0x2545f4914f6cdd1du >> 1) % (uint64_t)n);
}

#define EVENTS 3000

static void a_window_tells_its_last_parts(void)
{
    static int64_t at[EVENTS];
    struct window w = {0};
    int64_t now = below(1000 * S);
    for (int n = 0; n < EVENTS; n++) {
        now += below(20) ? below(50 * MS) : below(3 * S);
        at[n] = now;
        window_add(&w, S, now, n % 2, 1);
        int64_t later = now + below(2 * S), counts[2] = {0, 0};
        for (int i = 0; i <= n; i++)
            counts[i % 2] += at[i] / (S / 10) > later / (S / 10) - 10;
        struct window_sums s = window_sum(&w, S, later);
        CHECK_INT(s.of[0], counts[0]);
        CHECK_INT(s.of[1], counts[1]);
    }
}

static void retries_stay_within_their_share(void)
{
    static int64_t asked[EVENTS], taken[EVENTS];
    const struct retry_spec r = {.percent = 20, .per_s = 3};
    struct retry_budget b = {0};
    int64_t now = 5 * S;
    int n_taken = 0;
    bool held = true;
    for (int n = 0; n < EVENTS; n++) {
        now += below(10) ? below(20 * MS) : below(2 * S);
        retry_budget_request(&b, now);
        asked[n] = now;
        int64_t from = now - 9 * S, requests = 0, retries = 0; /* what is surely in the window; what may be */
        for (int i = 0; i <= n; i++)
            requests += asked[i] > now - 10 * S;
        for (int i = 0; i < n_taken; i++)
            retries += taken[i] > from;
        for (int64_t tries = below(6); tries > 0 && n_taken < EVENTS; tries--) {
            if (!retry_budget_take(&b, &r, now))
                continue;
            taken[n_taken++] = now;
            held = held && ++retries <= requests * 20 / 100 + 30;
        }
    }
    CHECK(held);
    CHECK(n_taken > EVENTS / 10); /* and they are granted */
}

static void a_quiet_process_has_its_floor(void)
{
    const struct retry_spec r = {.percent = 20, .per_s = 2}, none = {0};
    struct retry_budget b = {0};
    for (int i = 0; i < 20; i++)
        CHECK(retry_budget_take(&b, &r, S));
    CHECK(!retry_budget_take(&b, &r, S));
    CHECK(retry_budget_take(&b, &r, 11 * S));
    CHECK(!retry_budget_take(&(struct retry_budget){0}, &none, S));
}

int main(void)
{
    TEST(five_in_a_row_open_it);
    TEST(a_share_opens_it_if_there_are_enough);
    TEST(many_that_die_together_open_it_once);
    TEST(one_tries_when_its_time_is_over);
    TEST(it_waits_longer_each_time);
    TEST(chance_spreads_by_a_fifth);
    TEST(slow_is_failed);
    TEST(a_cool_down_is_no_failure);
    TEST(a_trial_that_is_put_off_gives_its_place_back);
    TEST(what_is_off_opens_nothing);
    TEST(a_window_tells_its_last_parts);
    TEST(retries_stay_within_their_share);
    TEST(a_quiet_process_has_its_floor);
    return TEST_RESULT();
}
