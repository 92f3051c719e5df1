/* Proves that bad signatures are paid for by address and by all together, that waiting mends it, that a bad token is
 * known again for a while, and that neither many addresses nor many tokens make it grow or forget the sum.
 * links: spw_sched_auth */
#include "scheduler/auth/forgery.h"

#include "test.h"

static struct clock_manual hands;
static struct clock manual;
static struct forgery *f;

static struct hash token(uint64_t n)
{
    return (struct hash){{n * UINT64_C(0x9e3779b97f4a7c15), n, 7, 9}};
}

static void begin(void)
{
    struct error e;
    hands = (struct clock_manual){.mono = {5 * NS_PER_S}};
    manual = clock_manual(&hands);
    hands.mono.ns = 5 * NS_PER_S;
    CHECK(forgery_new(&f, &manual, &e) == RC_OK);
}

static void found(const char *peer)
{
    static uint64_t n;
    struct hash h = token(++n);
    forgery_found(f, &h, peer);
}

static void an_address_pays(void)
{
    begin();
    for (int i = 0; i < FORGERY_BURST; i++) {
        CHECK_INT(forgery_wait_s(f, "10.0.0.1"), 0);
        found("10.0.0.1");
    }
    CHECK_INT(forgery_wait_s(f, "10.0.0.1"), 1);
    CHECK_INT(forgery_wait_s(f, "::ffff:10.0.0.1"), 1);
    CHECK_INT(forgery_wait_s(f, "10.0.0.2"), 0);
    CHECK_INT(forgery_wait_s(f, "2001:db8::1"), 0);
    clock_advance(&hands, NS_PER_S / FORGERY_PER_S);
    CHECK_INT(forgery_wait_s(f, "10.0.0.1"), 0);
    found("10.0.0.1");
    CHECK_INT(forgery_wait_s(f, "10.0.0.1"), 1);
    clock_advance(&hands, 3600 * NS_PER_S);
    for (int i = 0; i < FORGERY_BURST; i++)
        found("10.0.0.1");
    CHECK_INT(forgery_wait_s(f, "10.0.0.1"), 1);
    for (int i = 0; i < 10 * FORGERY_PER_S; i++) /* those that were under way */
        found("10.0.0.1");
    CHECK_INT(forgery_wait_s(f, "10.0.0.1"), 11);
    forgery_free(f);
}

static void networks_and_sockets_count_as_one(void)
{
    begin();
    for (int i = 0; i < FORGERY_BURST; i++)
        found(i & 1 ? "2001:db8::1" : "2001:db8::2");
    CHECK_INT(forgery_wait_s(f, "2001:db8::3"), 1);
    CHECK_INT(forgery_wait_s(f, "2001:db8:0:1::3"), 0);
    for (int i = 0; i < FORGERY_BURST; i++)
        found(i & 1 ? "unix" : NULL);
    CHECK_INT(forgery_wait_s(f, "unix"), 1);
    CHECK_INT(forgery_wait_s(f, "127.0.0.1"), 0);
    forgery_free(f);
}

static void all_together_pay(void)
{
    char peer[32];
    begin();
    for (int i = 0; i < FORGERY_BURST * FORGERY_ALL; i++) {
        snprintf(peer, sizeof peer, "10.%d.%d.1", i >> 8, i & 255);
        CHECK_INT(forgery_wait_s(f, peer), 0);
        found(peer);
    }
    CHECK_INT(forgery_wait_s(f, "192.0.2.1"), 1);
    clock_advance(&hands, NS_PER_S / FORGERY_PER_S / FORGERY_ALL);
    CHECK_INT(forgery_wait_s(f, "192.0.2.1"), 0);
    for (int i = 0; i < 100000; i++) { /* far more than are remembered */
        snprintf(peer, sizeof peer, "%d.%d.%d.1", 11 + (i >> 16), i >> 8 & 255, i & 255);
        found(peer);
    }
    CHECK(forgery_wait_s(f, "192.0.2.1") > 100);
    forgery_free(f);
}

static void a_bad_token_is_known(void)
{
    struct hash a = token(1), b = token(2);
    begin();
    CHECK(!forgery_known(f, &a));
    forgery_found(f, &a, "10.0.0.1");
    CHECK(forgery_known(f, &a) && !forgery_known(f, &b));
    clock_advance(&hands, (FORGERY_MEMORY_S - 1) * NS_PER_S);
    CHECK(forgery_known(f, &a));
    clock_advance(&hands, NS_PER_S);
    CHECK(!forgery_known(f, &a));
    forgery_found(f, &b, "10.0.0.1");
    forgery_forget_tokens(f);
    CHECK(!forgery_known(f, &b));
    forgery_free(f);
}

int main(void)
{
    TEST(an_address_pays);
    TEST(networks_and_sockets_count_as_one);
    TEST(all_together_pay);
    TEST(a_bad_token_is_known);
    return TEST_RESULT();
}
