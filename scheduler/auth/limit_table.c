#include "scheduler/auth/limit_table.h"

#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/random.h>

#include "base/alloc.h"
#include "base/fnv.h"

#define ENTRIES_DEFAULT 65536

struct limit_slot {
    TAILQ_ENTRY(limit_slot) by_use;
    struct limit_slot *next; /* same bucket */
    uint64_t hash;
    struct limit_state state;
    struct limit_spec spec;
    bool fresh; /* made for the admission in progress */
    char kind;
    char name[];
};
struct limit_table {
    TAILQ_HEAD(slots, limit_slot) used; /* most recently used first */
    struct limit_slot **buckets;
    uint64_t n_buckets; /* a power of two */
    uint64_t seed;
    int n, max;
    struct limit_table_stats stats;
};

struct limit_table *limit_table_new(int entries_max)
{
    struct limit_table *t = spw_calloc(1, sizeof *t);
    t->max = entries_max > 0 ? entries_max : ENTRIES_DEFAULT;
    t->n_buckets = 16;
    while (t->n_buckets < (uint64_t)t->max)
        t->n_buckets *= 2;
    t->buckets = spw_calloc(t->n_buckets, sizeof(struct limit_slot *));
    TAILQ_INIT(&t->used);
    /* Only spreads names over buckets; which decision is made never depends on it. */
    if (getrandom(&t->seed, sizeof t->seed, 0) != (ssize_t)sizeof t->seed)
        t->seed = 0x9e3779b97f4a7c15u;
    return t;
}

void limit_table_free(struct limit_table *t)
{
    if (!t)
        return;
    for (struct limit_slot *s = TAILQ_FIRST(&t->used), *next; s; s = next) {
        next = TAILQ_NEXT(s, by_use);
        free(s);
    }
    free(t->buckets);
    free(t);
}

/* FNV-1a with a secret start and a mix at the end. */
static uint64_t hash_of(const struct limit_table *t, char kind, const char *name)
{
    uint64_t h = fnv_text(t->seed ^ (unsigned char)kind, name);
    h = (h ^ (h >> 32)) * (t->seed | 1);
    return h ^ (h >> 29);
}

static struct limit_slot *find(const struct limit_table *t, uint64_t hash, char kind, const char *name)
{
    struct limit_slot *s = t->buckets[hash & (t->n_buckets - 1)];
    while (s && (s->hash != hash || s->kind != kind || strcmp(s->name, name) != 0))
        s = s->next;
    return s;
}

static void forget(struct limit_table *t, struct limit_slot *s)
{
    struct limit_slot **at = &t->buckets[s->hash & (t->n_buckets - 1)];
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    TAILQ_REMOVE(&t->used, s, by_use);
    t->n--;
    free(s);
}

static bool make_room(struct limit_table *t, int64_t now_us)
{
    struct limit_slot *s = TAILQ_LAST(&t->used, slots);
    for (int i = 0; s && i < LIMIT_TABLE_PROBES; i++, s = TAILQ_PREV(s, slots, by_use)) {
        if (!s->fresh && limit_at_rest(&s->state, &s->spec, now_us)) {
            forget(t, s);
            t->stats.evicted++;
            return true;
        }
    }
    return false;
}

static struct limit_slot *find_or_add(struct limit_table *t, const struct limit_scope *scope, int64_t now_us)
{
    uint64_t hash = hash_of(t, scope->kind, scope->name);
    struct limit_slot *s = find(t, hash, scope->kind, scope->name);
    if (s) {
        TAILQ_REMOVE(&t->used, s, by_use);
        TAILQ_INSERT_HEAD(&t->used, s, by_use);
        s->spec = scope->spec;
        s->fresh = true;
        return s;
    }
    size_t bytes = strlen(scope->name) + 1;
    SPW_ASSERT(bytes <= LIMIT_NAME_MAX + 1);
    if (t->n >= t->max && !make_room(t, now_us))
        return NULL;
    s = spw_calloc(1, sizeof *s + bytes);
    s->hash = hash;
    s->spec = scope->spec;
    s->fresh = true;
    s->kind = scope->kind;
    memcpy(s->name, scope->name, bytes);
    s->next = t->buckets[hash & (t->n_buckets - 1)];
    t->buckets[hash & (t->n_buckets - 1)] = s;
    TAILQ_INSERT_HEAD(&t->used, s, by_use);
    t->n++;
    return s;
}

static bool limits_nothing(const struct limit_spec *l)
{
    return l->requests_per_min <= 0 && l->tokens_per_min <= 0 && l->concurrent <= 0;
}

enum rc limit_table_admit(struct limit_table *t, const struct limit_scope *scopes, int n, int64_t now_us,
                          int64_t tokens, struct limit_ticket *ticket, struct limit_verdict *v)
{
    struct limit_state *states[LIMIT_SCOPES_MAX];
    const struct limit_spec *specs[LIMIT_SCOPES_MAX];
    int scope_of[LIMIT_SCOPES_MAX];
    bool full = false;

    SPW_ASSERT(n >= 0 && n <= LIMIT_SCOPES_MAX);
    *ticket = (struct limit_ticket){0};
    for (int i = 0; i < n && !full; i++) {
        if (limits_nothing(&scopes[i].spec))
            continue;
        struct limit_slot *s = find_or_add(t, &scopes[i], now_us);
        full = !s;
        if (s) {
            states[ticket->n] = &s->state;
            specs[ticket->n] = &s->spec;
            scope_of[ticket->n] = i;
            ticket->slots[ticket->n++] = s;
        }
    }
    for (int i = 0; i < ticket->n; i++)
        ticket->slots[i]->fresh = false; /* from here on nothing is added, so nothing is evicted */
    if (full) {
        *ticket = (struct limit_ticket){0};
        *v = (struct limit_verdict){.scope = -1};
        t->stats.full++;
        return RC_FULL;
    }
    limits_admit(states, specs, ticket->n, now_us, tokens, v);
    if (!v->allowed) {
        v->scope = scope_of[v->scope];
        *ticket = (struct limit_ticket){0};
        t->stats.refused++;
        return RC_DENIED;
    }
    ticket->reserved = tokens;
    t->stats.admitted++;
    return RC_OK;
}

void limit_table_settle(struct limit_table *t, struct limit_ticket *ticket, int64_t now_us, int64_t actual)
{
    struct limit_state *states[LIMIT_SCOPES_MAX];
    const struct limit_spec *specs[LIMIT_SCOPES_MAX];

    (void)t;
    for (int i = 0; i < ticket->n; i++) {
        states[i] = &ticket->slots[i]->state;
        specs[i] = &ticket->slots[i]->spec;
    }
    limits_settle(states, specs, ticket->n, now_us, ticket->reserved, actual);
    *ticket = (struct limit_ticket){0};
}

struct limit_table_stats limit_table_stats(const struct limit_table *t)
{
    struct limit_table_stats s = t->stats;
    s.entries = t->n;
    return s;
}
