/* A seat is what a ticket has in a flight. It outlives its ticket while a message to it is under way, and its parts
 * have different owners: `ticket` its own loop's, the rest the lock's. */
#include "scheduler/cache/flight.h"

#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/cache/cache_internal.h"

#define FLIGHTS_MAX_DEFAULT   65536
#define FOLLOWERS_MAX_DEFAULT 1024
#define BUCKETS_FIRST         64u

struct flight_seat {
    TAILQ_ENTRY(flight_seat) entry; /* among the followers, or among those who are to be told */
    struct flights *table;          /* constant, like the next three */
    struct mailbox *mail;
    flight_cb *cb;
    void *arg;
    struct flight_ticket *ticket; /* NULL: it has left */
    struct flight *flight;        /* NULL: out of it */
    bool told;                    /* the message is under way */
    enum flight_event event;      /* what it says */
    struct blob *result;          /* owned */
    struct mail message;
};
TAILQ_HEAD(seat_list, flight_seat);

struct flight {
    LIST_ENTRY(flight) chain;
    struct cache_key key;
    struct flight_seat *leader;
    struct seat_list followers; /* eldest first */
    int n_followers;
};
LIST_HEAD(flight_chain, flight);

struct flights {
    struct flight_options o;
    pthread_mutex_t lock; /* guards all that follows, and the seats */
    struct flight_chain *buckets;
    uint32_t n_buckets; /* a power of two */
    struct flight_stats stats;
};

static void lock(struct flights *f)
{
    SPW_ASSERT(pthread_mutex_lock(&f->lock) == 0);
}

static void unlock(struct flights *f)
{
    SPW_ASSERT(pthread_mutex_unlock(&f->lock) == 0);
}

struct flights *flights_new(const struct flight_options *o)
{
    struct flights *f = spw_calloc(1, sizeof *f);
    f->o = *o;
    if (!f->o.flights_max)
        f->o.flights_max = FLIGHTS_MAX_DEFAULT;
    if (!f->o.followers_max)
        f->o.followers_max = FOLLOWERS_MAX_DEFAULT;
    SPW_ASSERT(pthread_mutex_init(&f->lock, NULL) == 0);
    f->n_buckets = BUCKETS_FIRST;
    f->buckets = spw_calloc(f->n_buckets, sizeof *f->buckets);
    return f;
}

void flights_free(struct flights *f)
{
    if (!f)
        return;
    SPW_ASSERT(f->stats.flights == 0);
    pthread_mutex_destroy(&f->lock);
    free(f->buckets);
    free(f);
}

struct flight_stats flights_stats(struct flights *f)
{
    lock(f);
    struct flight_stats s = f->stats;
    unlock(f);
    return s;
}

/* ---- the table -------------------------------------------------------------------------------------------------- */

/* The key is a hash already. */
static struct flight_chain *bucket(const struct flights *f, const struct cache_key *key)
{
    uint32_t h;
    memcpy(&h, key->bytes, sizeof h);
    return &f->buckets[h & (f->n_buckets - 1)];
}

static struct flight *find_locked(const struct flights *f, const struct cache_key *key)
{
    struct flight *flight;
    for (flight = LIST_FIRST(bucket(f, key)); flight; flight = LIST_NEXT(flight, chain)) {
        if (memcmp(&flight->key, key, sizeof *key) == 0)
            return flight;
    }
    return NULL;
}

static void grow_locked(struct flights *f)
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

static void remove_flight_locked(struct flights *f, struct flight *flight)
{
    f->stats.flights--;
    LIST_REMOVE(flight, chain);
    free(flight);
}

/* ---- joining ---------------------------------------------------------------------------------------------------- */

static void on_message(struct mail *m);

static struct flight_seat *seat_new(struct flights *f, struct flight_ticket *t, struct mailbox *mail, flight_cb *cb,
                                    void *arg)
{
    struct flight_seat *s = spw_calloc(1, sizeof *s);
    s->table = f;
    s->ticket = t;
    s->mail = mail;
    s->cb = cb;
    s->arg = arg;
    s->message.deliver = on_message;
    t->seat = s;
    return s;
}

static void seat_free(struct flight_seat *s)
{
    blob_unref(s->result);
    free(s);
}

static bool lead_locked(struct flights *f, const struct cache_key *key, struct flight_seat *s)
{
    if (f->stats.flights >= f->o.flights_max)
        return false;
    if ((uint32_t)f->stats.flights >= f->n_buckets)
        grow_locked(f);
    struct flight *flight = spw_calloc(1, sizeof *flight);
    flight->key = *key;
    flight->leader = s;
    TAILQ_INIT(&flight->followers);
    LIST_INSERT_HEAD(bucket(f, key), flight, chain);
    s->flight = flight;
    f->stats.flights++;
    f->stats.led++;
    return true;
}

static bool follow_locked(struct flights *f, struct flight *flight, struct flight_seat *s)
{
    if (flight->n_followers >= f->o.followers_max)
        return false;
    s->flight = flight;
    TAILQ_INSERT_TAIL(&flight->followers, s, entry);
    flight->n_followers++;
    f->stats.followers++;
    f->stats.followed++;
    return true;
}

enum flight_role flight_join(struct flights *f, const struct cache_key *key, struct flight_ticket *t,
                             struct mailbox *mail, flight_cb *cb, void *arg)
{
    SPW_ASSERT(!t->seat);
    struct flight_seat *s = seat_new(f, t, mail, cb, arg);
    lock(f);
    struct flight *flight = find_locked(f, key);
    bool in = flight ? follow_locked(f, flight, s) : lead_locked(f, key, s);
    f->stats.alone += !in;
    unlock(f);
    if (in)
        return flight ? FLIGHT_ROLE_FOLLOWER : FLIGHT_ROLE_LEADER;
    t->seat = NULL;
    seat_free(s);
    return FLIGHT_ROLE_ALONE;
}

/* ---- telling ---------------------------------------------------------------------------------------------------- */

static void on_message(struct mail *m)
{
    struct flight_seat *s = (struct flight_seat *)((char *)m - offsetof(struct flight_seat, message));
    struct flight_ticket *t = s->ticket;
    lock(s->table);
    s->told = false;
    unlock(s->table);
    if (t && s->event == FLIGHT_LEAD) { /* the seat stays the ticket's */
        s->cb(FLIGHT_LEAD, NULL, s->arg);
        return;
    }
    if (t) {
        t->seat = NULL;
        s->cb(s->event, s->result, s->arg);
    }
    seat_free(s);
}

static void remove_follower_locked(struct flights *f, struct flight *flight, struct flight_seat *s)
{
    TAILQ_REMOVE(&flight->followers, s, entry);
    flight->n_followers--;
    f->stats.followers--;
    s->flight = NULL;
}

static void tell_locked(struct flight_seat *s, enum flight_event event, struct blob *result, struct seat_list *out)
{
    s->told = true;
    s->event = event;
    s->result = result ? blob_ref(result) : NULL;
    TAILQ_INSERT_TAIL(out, s, entry);
}

/* Without the lock: from its post on a seat is its own loop's, which may free it. */
static void post(struct seat_list *out)
{
    struct flight_seat *s;
    while ((s = TAILQ_FIRST(out))) {
        TAILQ_REMOVE(out, s, entry);
        mailbox_post(s->mail, &s->message);
    }
}

bool flight_leads(const struct flight_ticket *t)
{
    if (!t->seat)
        return false;
    struct flights *f = t->seat->table;
    lock(f);
    bool leads = t->seat->flight && t->seat->flight->leader == t->seat;
    unlock(f);
    return leads;
}

/* The leader's ticket is idle afterwards; its seat stays while a message to it is under way. */
static void let_go(struct flight_ticket *t, bool told)
{
    struct flight_seat *s = t->seat;
    t->seat = NULL;
    s->ticket = NULL;
    if (!told)
        seat_free(s);
}

/* Tell every follower and be gone. */
static void end_flight(struct flight_ticket *leader, enum flight_event event, struct blob *result)
{
    struct flight_seat *s = leader->seat, *follower;
    struct seat_list out = TAILQ_HEAD_INITIALIZER(out);
    SPW_ASSERT(s);
    struct flights *f = s->table;
    lock(f);
    struct flight *flight = s->flight;
    SPW_ASSERT(flight && flight->leader == s);
    f->stats.alone += event == FLIGHT_ALONE ? (uint64_t)flight->n_followers : 0;
    while ((follower = TAILQ_FIRST(&flight->followers))) {
        remove_follower_locked(f, flight, follower);
        tell_locked(follower, event, result, &out);
    }
    remove_flight_locked(f, flight);
    s->flight = NULL;
    bool told = s->told;
    unlock(f);
    let_go(leader, told);
    post(&out);
}

void flight_finish(struct flight_ticket *leader, struct blob *result)
{
    end_flight(leader, FLIGHT_RESULT, result);
}

void flight_dissolve(struct flight_ticket *leader)
{
    end_flight(leader, FLIGHT_ALONE, NULL);
}

void flight_refuse(struct flight_ticket *leader)
{
    end_flight(leader, FLIGHT_REFUSED, NULL);
}

/* The eldest follower leads. */
static void hand_over_locked(struct flights *f, struct flight *flight, struct seat_list *out)
{
    struct flight_seat *next = TAILQ_FIRST(&flight->followers);
    if (!next) {
        remove_flight_locked(f, flight);
        return;
    }
    remove_follower_locked(f, flight, next);
    next->flight = flight;
    flight->leader = next;
    f->stats.promoted++;
    tell_locked(next, FLIGHT_LEAD, NULL, out);
}

void flight_fail(struct flight_ticket *leader)
{
    SPW_ASSERT(flight_leads(leader));
    flight_leave(leader);
}

void flight_leave(struct flight_ticket *t)
{
    struct flight_seat *s = t->seat;
    struct seat_list out = TAILQ_HEAD_INITIALIZER(out);
    if (!s)
        return;
    struct flights *f = s->table;
    lock(f);
    struct flight *flight = s->flight;
    s->flight = NULL;
    if (flight && flight->leader == s)
        hand_over_locked(f, flight, &out);
    else if (flight)
        remove_follower_locked(f, flight, s);
    bool told = s->told;
    unlock(f);
    let_go(t, told);
    post(&out);
}
