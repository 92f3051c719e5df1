#include "base/peers.h"

#include <netinet/in.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

#define BUCKETS_MIN 256

struct peer {
    struct peer *next;
    struct peer_key key;
    int n;
};
struct peers {
    pthread_mutex_t lock; /* guards all below */
    int each_max, clients;
    struct peer **buckets; /* n_buckets of them, a power of two */
    size_t n_buckets;
    uint64_t seed; /* clients choose their addresses: where they land shall not be theirs to choose */
};

struct peers *peers_new(int each_max)
{
    struct peers *p = spw_calloc(1, sizeof *p);

    pthread_mutex_init(&p->lock, NULL);
    p->each_max = each_max;
    p->n_buckets = BUCKETS_MIN;
    p->buckets = spw_calloc(p->n_buckets, sizeof(struct peer *));
    if (RAND_bytes((unsigned char *)&p->seed, sizeof p->seed) != 1)
        p->seed = (uint64_t)(uintptr_t)p;
    return p;
}

void peers_free(struct peers *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->n_buckets; i++)
        for (struct peer *e = p->buckets[i], *next; e; e = next) {
            next = e->next;
            free(e);
        }
    free(p->buckets);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

void peers_set_max(struct peers *p, int each_max)
{
    pthread_mutex_lock(&p->lock);
    p->each_max = each_max;
    pthread_mutex_unlock(&p->lock);
}

struct peer_key peer_key(const struct sockaddr_storage *peer)
{
    struct peer_key k = {0};

    if (peer->ss_family == AF_INET) {
        k.low = ntohl(((const struct sockaddr_in *)peer)->sin_addr.s_addr);
        k.family = AF_INET;
    } else if (peer->ss_family == AF_INET6) {
        const struct in6_addr *a = &((const struct sockaddr_in6 *)peer)->sin6_addr;
        if (IN6_IS_ADDR_V4MAPPED(a)) { /* a listener for both families: the same client as over IPv4 */
            memcpy(&k.low, &a->s6_addr[12], sizeof k.low);
            k.low = ntohl(k.low);
            k.family = AF_INET;
        } else {
            memcpy(&k.high, a->s6_addr, sizeof k.high);
            k.family = AF_INET6;
        }
    }
    return k;
}

static bool equal(const struct peer_key *a, const struct peer_key *b)
{
    return a->high == b->high && a->low == b->low && a->family == b->family;
}

/* Mixed as in splitmix64. */
static size_t bucket_of(const struct peers *p, const struct peer_key *k)
{
    uint64_t x = p->seed ^ k->high;

    for (int i = 0; i < 2; i++) {
        x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
        x ^= x >> 31;
        x += p->seed ^ k->low;
    }
    return (size_t)x & (p->n_buckets - 1);
}

static struct peer **find(struct peers *p, const struct peer_key *k)
{
    struct peer **at = &p->buckets[bucket_of(p, k)];

    while (*at && !equal(&(*at)->key, k))
        at = &(*at)->next;
    return at;
}

static void grow(struct peers *p)
{
    struct peer **old = p->buckets;
    size_t n = p->n_buckets;

    p->n_buckets = n * 2;
    p->buckets = spw_calloc(p->n_buckets, sizeof(struct peer *));
    for (size_t i = 0; i < n; i++)
        for (struct peer *e = old[i], *next; e; e = next) {
            next = e->next;
            struct peer **to = &p->buckets[bucket_of(p, &e->key)];
            e->next = *to;
            *to = e;
        }
    free(old);
}

bool peers_enter(struct peers *p, const struct peer_key *k)
{
    bool fits;

    if (!k->family)
        return true;
    pthread_mutex_lock(&p->lock);
    struct peer **at = find(p, k);
    fits = !p->each_max || !*at || (*at)->n < p->each_max;
    if (fits && !*at) {
        *at = spw_calloc(1, sizeof **at);
        (*at)->key = *k;
        p->clients++;
    }
    if (fits)
        (*at)->n++;
    if ((size_t)p->clients > p->n_buckets)
        grow(p);
    pthread_mutex_unlock(&p->lock);
    return fits;
}

void peers_leave(struct peers *p, const struct peer_key *k)
{
    if (!k->family)
        return;
    pthread_mutex_lock(&p->lock);
    struct peer **at = find(p, k), *e = *at;
    SPW_ASSERT(e && e->n > 0);
    if (--e->n == 0) {
        *at = e->next;
        free(e);
        p->clients--;
    }
    pthread_mutex_unlock(&p->lock);
}

int peers_count(struct peers *p, const struct peer_key *k)
{
    pthread_mutex_lock(&p->lock);
    struct peer *e = *find(p, k);
    int n = e ? e->n : 0;
    pthread_mutex_unlock(&p->lock);
    return n;
}

int peers_clients(struct peers *p)
{
    pthread_mutex_lock(&p->lock);
    int n = p->clients;
    pthread_mutex_unlock(&p->lock);
    return n;
}
