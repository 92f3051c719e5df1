#include "scheduler/auth/forgery.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/peers.h"

#define WAYS 4 /* places where one address may stand */
#define SETS (FORGERY_CLIENTS / WAYS)

struct account { /* used drains at the rate of its owner; in nanoseconds, of which one bad signature costs PRICE_NS */
    struct peer_key who;
    int64_t used_ns, at_ns;
};
#define PRICE_NS (NS_PER_S / FORGERY_PER_S)
#define MOST_NS  (FORGERY_BURST * PRICE_NS)

struct bad_token {
    struct hash hash;
    int64_t until_ns; /* 0: none */
};
struct forgery {
    const struct clock *clock;
    uint64_t seed; /* strangers choose addresses and tokens: where they land is not theirs to choose */
    struct account all;
    struct account clients[SETS][WAYS];
    struct bad_token tokens[FORGERY_TOKENS];
};

enum rc forgery_new(struct forgery **out, const struct clock *clock, struct error *e)
{
    struct forgery *f = spw_calloc(1, sizeof *f);

    f->clock = clock;
    *out = f;
    if (RAND_bytes((unsigned char *)&f->seed, sizeof f->seed) == 1)
        return RC_OK;
    forgery_free(f);
    *out = NULL;
    return error_set(e, RC_IO, "no random bytes");
}

void forgery_free(struct forgery *f)
{
    free(f);
}

/* ---- tokens ----------------------------------------------------------------------------------------------------- */

/* The hash is SHA-256: any of its words is as good as a random one, and the seed makes it ours. */
static size_t place_of(const struct forgery *f, const struct hash *h)
{
    return (size_t)((h->w[0] ^ f->seed) * UINT64_C(0x9e3779b97f4a7c15) >> 32) % FORGERY_TOKENS;
}

bool forgery_known(const struct forgery *f, const struct hash *token)
{
    const struct bad_token *t = &f->tokens[place_of(f, token)];

    return t->until_ns > clock_now(f->clock).ns && hash_equal(&t->hash, token);
}

void forgery_forget_tokens(struct forgery *f)
{
    memset(f->tokens, 0, sizeof f->tokens);
}

/* ---- addresses -------------------------------------------------------------------------------------------------- */

static struct peer_key key_of(const char *peer)
{
    struct sockaddr_storage s = {0};

    if (peer && inet_pton(AF_INET, peer, &((struct sockaddr_in *)&s)->sin_addr) == 1)
        s.ss_family = AF_INET;
    else if (peer && inet_pton(AF_INET6, peer, &((struct sockaddr_in6 *)&s)->sin6_addr) == 1)
        s.ss_family = AF_INET6;
    return peer_key(&s);
}

static bool same(const struct peer_key *a, const struct peer_key *b)
{
    return a->high == b->high && a->low == b->low && a->family == b->family;
}

static size_t set_of(const struct forgery *f, const struct peer_key *k)
{
    uint64_t x = (k->high ^ f->seed) * UINT64_C(0xbf58476d1ce4e5b9);

    x = (x ^ (x >> 29) ^ k->low) * UINT64_C(0x94d049bb133111eb);
    return (size_t)(x >> 32) % SETS;
}

/* What is still used now, when it drains `times` as fast as one address's. */
static int64_t used_now(const struct account *a, int64_t now_ns, int64_t times)
{
    int64_t since = now_ns - a->at_ns;

    if (since >= MOST_NS) /* also keeps the product small */
        return 0;
    return a->used_ns > since * times ? a->used_ns - since * times : 0;
}

static const struct account *find(const struct forgery *f, const struct peer_key *k)
{
    const struct account *set = f->clients[set_of(f, k)];

    for (int i = 0; i < WAYS; i++)
        if (set[i].at_ns && same(&set[i].who, k))
            return &set[i];
    return NULL;
}

/* The address's own, or the place of whoever owes least. */
static struct account *take_place(struct forgery *f, const struct peer_key *k, int64_t now_ns)
{
    struct account *set = f->clients[set_of(f, k)], *least = &set[0];

    for (int i = 0; i < WAYS; i++) {
        if (set[i].at_ns && same(&set[i].who, k))
            return &set[i];
        if (used_now(&set[i], now_ns, 1) < used_now(least, now_ns, 1))
            least = &set[i];
    }
    *least = (struct account){.who = *k, .at_ns = now_ns};
    return least;
}

static int wait_s(int64_t used_ns, int64_t most_ns, int64_t times)
{
    int64_t over_ns = used_ns + PRICE_NS - most_ns;

    return over_ns <= 0 ? 0 : (int)(over_ns / times / NS_PER_S) + 1;
}

int forgery_wait_s(const struct forgery *f, const char *peer)
{
    struct peer_key k = key_of(peer);
    int64_t now_ns = clock_now(f->clock).ns;
    const struct account *a = find(f, &k);
    int own = a ? wait_s(used_now(a, now_ns, 1), MOST_NS, 1) : 0;
    int all = wait_s(used_now(&f->all, now_ns, FORGERY_ALL), MOST_NS * FORGERY_ALL, FORGERY_ALL);

    return own > all ? own : all;
}

static void charge(struct account *a, int64_t now_ns, int64_t times)
{
    a->used_ns = used_now(a, now_ns, times) + PRICE_NS;
    a->at_ns = now_ns;
}

void forgery_found(struct forgery *f, const struct hash *token, const char *peer)
{
    struct peer_key k = key_of(peer);
    int64_t now_ns = clock_now(f->clock).ns;

    if (token)
        f->tokens[place_of(f, token)] = (struct bad_token){*token, now_ns + FORGERY_MEMORY_S * NS_PER_S};
    charge(take_place(f, &k, now_ns), now_ns, 1);
    charge(&f->all, now_ns, FORGERY_ALL);
}
