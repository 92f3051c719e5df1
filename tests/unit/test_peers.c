/* Proves that clients are counted by IPv4 address and IPv6 /64, that the bound holds for each alone, that it can
 * change, and that nothing is left of those who have gone.
 * links: spw_base */
#include "base/peers.h"

#include <arpa/inet.h>
#include <pthread.h>

#include "test.h"

static struct peer_key key_of(const char *text)
{
    struct sockaddr_storage s = {0};
    struct sockaddr_in *v4 = (struct sockaddr_in *)&s;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&s;

    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1)
        s.ss_family = AF_INET;
    else if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1)
        s.ss_family = AF_INET6;
    else
        s.ss_family = AF_UNIX;
    return peer_key(&s);
}

static bool enters(struct peers *p, const char *text)
{
    struct peer_key k = key_of(text);
    return peers_enter(p, &k);
}

static void leaves(struct peers *p, const char *text)
{
    struct peer_key k = key_of(text);
    peers_leave(p, &k);
}

static void each_has_its_own_bound(void)
{
    struct peers *p = peers_new(2);

    CHECK(enters(p, "10.0.0.1") && enters(p, "10.0.0.1") && !enters(p, "10.0.0.1"));
    CHECK(enters(p, "10.0.0.2"));
    CHECK(!enters(p, "::ffff:10.0.0.1")); /* the same client by another family's listener */
    leaves(p, "10.0.0.1");
    CHECK(enters(p, "::ffff:10.0.0.1"));
    CHECK(enters(p, "2001:db8::1") && enters(p, "2001:db8::ffff:2") && !enters(p, "2001:db8::3"));
    CHECK(enters(p, "2001:db8:0:1::1"));
    for (int i = 0; i < 10; i++)
        CHECK(enters(p, "unix"));
    CHECK_INT(peers_clients(p), 4);
    peers_free(p);
}

static void the_bound_may_change(void)
{
    struct peers *p = peers_new(0);

    for (int i = 0; i < 100; i++)
        CHECK(enters(p, "10.0.0.1"));
    peers_set_max(p, 3);
    CHECK(!enters(p, "10.0.0.1"));
    for (int i = 0; i < 98; i++)
        leaves(p, "10.0.0.1");
    CHECK(enters(p, "10.0.0.1") && !enters(p, "10.0.0.1"));
    peers_free(p);
}

static void many_come_and_go(void)
{
    struct peers *p = peers_new(1);
    char text[32];

    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 20000; i++) {
            snprintf(text, sizeof text, "10.1.%d.%d", i >> 8, i & 255);
            CHECK(enters(p, text) && !enters(p, text));
        }
        CHECK_INT(peers_clients(p), 20000);
        for (int i = 0; i < 20000; i++) {
            snprintf(text, sizeof text, "10.1.%d.%d", i >> 8, i & 255);
            leaves(p, text);
        }
        CHECK_INT(peers_clients(p), 0);
    }
    peers_free(p);
}

static void *come_and_go(void *arg)
{
    for (int i = 0; i < 20000; i++)
        if (enters(arg, i & 1 ? "10.0.0.1" : "10.0.0.2"))
            leaves(arg, i & 1 ? "10.0.0.1" : "10.0.0.2");
    return NULL;
}

static void threads_share_it(void)
{
    struct peers *p = peers_new(2);
    pthread_t threads[4];

    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, come_and_go, p) == 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    CHECK_INT(peers_clients(p), 0);
    peers_free(p);
}

int main(void)
{
    TEST(each_has_its_own_bound);
    TEST(the_bound_may_change);
    TEST(many_come_and_go);
    TEST(threads_share_it);
    return TEST_RESULT();
}
