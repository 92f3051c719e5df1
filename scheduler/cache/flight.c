#include "scheduler/cache/flight.h"

#include <stdlib.h>
#include <string.h>

#define FLIGHTS_MAX_DEFAULT   65536
#define FOLLOWERS_MAX_DEFAULT 1024
#define BUCKETS_FIRST         64u

TAILQ_HEAD(ticket_list, flight_ticket);

struct flight {
    LIST_ENTRY(flight) chain;
    struct flights *table; /* NULL: it has ended, its callbacks run */
    struct cache_key key;
    struct flight_ticket *leader;
    struct ticket_list followers; /* eldest first */
    int n_followers;
};
LIST_HEAD(flight_chain, flight);

struct flights {
    struct flight_options o;
    struct flight_chain *buckets;
    uint32_t n_buckets; /* a power of two */
    struct {            /* struct flight_stats, that others may read */
        _Atomic uint64_t led, followed, promoted, alone;
        _Atomic int flights, followers;
    } stats;
};

struct flights *flights_new(const struct flight_options *o)
{
    struct flights *f = spw_calloc(1, sizeof *f);
    f->o = *o;
    if (!f->o.flights_max)
        f->o.flights_max = FLIGHTS_MAX_DEFAULT;
    if (!f->o.followers_max)
        f->o.followers_max = FOLLOWERS_MAX_DEFAULT;
    f->n_buckets = BUCKETS_FIRST;
    f->buckets = spw_calloc(f->n_buckets, sizeof *f->buckets);
    return f;
}

static void free_flight(struct flight *flight)
{
    LIST_REMOVE(flight, chain);
    free(flight);
}

void flights_free(struct flights *f)
{
    if (!f)
        return;
    for (uint32_t i = 0; i < f->n_buckets; i++) {
        struct flight *flight;
        while ((flight = LIST_FIRST(&f->buckets[i]))) {
            struct flight_ticket *t;
            for (t = TAILQ_FIRST(&flight->followers); t; t = TAILQ_NEXT(t, entry))
                t->flight = NULL;
            flight->leader->flight = NULL;
            free_flight(flight);
        }
    }
    free(f->buckets);
    free(f);
}

struct flight_stats flights_stats(const struct flights *f)
{
    return (struct flight_stats){.led = f->stats.led,
                                 .followed = f->stats.followed,
                                 .promoted = f->stats.promoted,
                                 .alone = f->stats.alone,
                                 .flights = f->stats.flights,
                                 .followers = f->stats.followers};
}

/* The key is a hash already. */
static struct flight_chain *bucket(const struct flights *f, const struct cache_key *key)
{
    uint32_t h;
    memcpy(&h, key->bytes, sizeof h);
    return &f->buckets[h & (f->n_buckets - 1)];
}

static struct flight *find(const struct flights *f, const struct cache_key *key)
{
    struct flight *flight;
    for (flight = LIST_FIRST(bucket(f, key)); flight; flight = LIST_NEXT(flight, chain)) {
        if (memcmp(&flight->key, key, sizeof *key) == 0)
            return flight;
    }
    return NULL;
}

static void grow(struct flights *f)
{
    struct flight_chain *old = f->buckets;
    uint32_t n = f->n_buckets;
    f->n_buckets = n * 2;
    f->buckets = spw_calloc(f->n_buckets, sizeof *f->buckets);
    for (uint32_t i = 0; i < n; i++) {
        struct flight *flight;
        while ((flight = LIST_FIRST(&old[i]))) {
            LIST_REMOVE(flight, chain);
            LIST_INSERT_HEAD(bucket(f, &flight->key), flight, chain);
        }
    }
    free(old);
}

static enum flight_role lead(struct flights *f, const struct cache_key *key, struct flight_ticket *t)
{
    if (f->stats.flights >= f->o.flights_max) {
        f->stats.alone++;
        return FLIGHT_ROLE_ALONE;
    }
    if ((uint32_t)f->stats.flights >= f->n_buckets)
        grow(f);
    struct flight *flight = spw_calloc(1, sizeof *flight);
    flight->table = f;
    flight->key = *key;
    flight->leader = t;
    TAILQ_INIT(&flight->followers);
    LIST_INSERT_HEAD(bucket(f, key), flight, chain);
    t->flight = flight;
    f->stats.flights++;
    f->stats.led++;
    return FLIGHT_ROLE_LEADER;
}

enum flight_role flight_join(struct flights *f, const struct cache_key *key, struct flight_ticket *t, flight_cb *cb,
                             void *arg)
{
    SPW_ASSERT(!t->flight);
    t->cb = cb;
    t->arg = arg;
    struct flight *flight = find(f, key);
    if (!flight)
        return lead(f, key, t);
    if (flight->n_followers >= f->o.followers_max) {
        f->stats.alone++;
        return FLIGHT_ROLE_ALONE;
    }
    t->flight = flight;
    TAILQ_INSERT_TAIL(&flight->followers, t, entry);
    flight->n_followers++;
    f->stats.followers++;
    f->stats.followed++;
    return FLIGHT_ROLE_FOLLOWER;
}

bool flight_leads(const struct flight_ticket *t)
{
    return t->flight && t->flight->leader == t;
}

static void remove_follower(struct flight *flight, struct flight_ticket *t)
{
    TAILQ_REMOVE(&flight->followers, t, entry);
    t->flight = NULL;
    flight->n_followers--;
    if (flight->table)
        flight->table->stats.followers--;
}

/* Tell every follower and be gone. A callback may make other followers leave: the list is read anew each time. */
static void end_flight(struct flight_ticket *leader, enum flight_event event, const void *result)
{
    SPW_ASSERT(flight_leads(leader));
    struct flight *flight = leader->flight;
    struct flights *f = flight->table;
    f->stats.flights--;
    f->stats.followers -= flight->n_followers;
    f->stats.alone += event == FLIGHT_ALONE ? (uint64_t)flight->n_followers : 0;
    LIST_REMOVE(flight, chain);
    flight->table = NULL;
    flight->leader = NULL;
    leader->flight = NULL;
    struct flight_ticket *t;
    while ((t = TAILQ_FIRST(&flight->followers))) {
        remove_follower(flight, t);
        t->cb(event, result, t->arg);
    }
    free(flight);
}

void flight_finish(struct flight_ticket *leader, const void *result)
{
    end_flight(leader, FLIGHT_RESULT, result);
}

void flight_dissolve(struct flight_ticket *leader)
{
    end_flight(leader, FLIGHT_ALONE, NULL);
}

void flight_fail(struct flight_ticket *leader)
{
    SPW_ASSERT(flight_leads(leader));
    struct flight *flight = leader->flight;
    struct flight_ticket *next = TAILQ_FIRST(&flight->followers);
    if (!next) {
        end_flight(leader, FLIGHT_ALONE, NULL);
        return;
    }
    leader->flight = NULL;
    remove_follower(flight, next);
    next->flight = flight;
    flight->leader = next;
    flight->table->stats.promoted++;
    next->cb(FLIGHT_LEAD, NULL, next->arg);
}

void flight_leave(struct flight_ticket *t)
{
    if (flight_leads(t))
        flight_fail(t);
    else if (t->flight)
        remove_follower(t->flight, t);
}
