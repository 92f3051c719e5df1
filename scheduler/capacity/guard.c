#include "scheduler/capacity/guard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"

#define WINDOW_NS (60 * NS_PER_S)

struct entry {
    char token[GUARD_TOKEN_MAX];
    struct pusd price;
};
struct guard {
    struct guard_limits limits;
    struct entry *entries; /* GUARD_INSTANCES_MAX */
    int n;
    int64_t admitted[GUARD_RATE_MAX]; /* when; a ring */
    int first, n_admitted;
};

const char *guard_verdict_name(enum guard_verdict v)
{
    static const char *const names[GUARD_VERDICTS] = {
        [GUARD_OK] = "ok",     [GUARD_NODES] = "nodes", [GUARD_DOLLARS] = "dollars",
        [GUARD_RATE] = "rate", [GUARD_KNOWN] = "known",
    };
    return (unsigned)v < GUARD_VERDICTS ? names[v] : "unknown";
}

struct guard *guard_new(const struct guard_limits *l)
{
    struct guard *g = spw_calloc(1, sizeof *g);
    g->entries = spw_calloc(GUARD_INSTANCES_MAX, sizeof *g->entries);
    guard_set_limits(g, l);
    return g;
}

void guard_free(struct guard *g)
{
    if (!g)
        return;
    free(g->entries);
    free(g);
}

void guard_set_limits(struct guard *g, const struct guard_limits *l)
{
    g->limits = *l;
    if (g->limits.launches_per_min < 1)
        g->limits.launches_per_min = 1;
    if (g->limits.launches_per_min > GUARD_RATE_MAX)
        g->limits.launches_per_min = GUARD_RATE_MAX;
}

static struct entry *find(const struct guard *g, const char *token)
{
    for (int i = 0; i < g->n; i++)
        if (strcmp(g->entries[i].token, token) == 0)
            return &g->entries[i];
    return NULL;
}

int guard_nodes(const struct guard *g)
{
    return g->n;
}

struct pusd guard_hour(const struct guard *g)
{
    __int128 sum = 0;
    for (int i = 0; i < g->n; i++)
        sum += g->entries[i].price.v;
    return (struct pusd){sum > INT64_MAX ? INT64_MAX : (int64_t)sum};
}

/* A time before the last one counts as the last one: a clock that is set back lets nobody through sooner. */
static int in_window(const struct guard *g, int64_t now_ns)
{
    int n = 0;
    for (int i = 0; i < g->n_admitted; i++)
        n += now_ns - g->admitted[(g->first + i) % GUARD_RATE_MAX] < WINDOW_NS;
    return n;
}

enum guard_verdict guard_ask(const struct guard *g, struct pusd price, int64_t now_ns)
{
    if (g->n >= g->limits.nodes_max || g->n == GUARD_INSTANCES_MAX)
        return GUARD_NODES;
    const struct pusd hour = guard_hour(g);
    if (price.v < 0 || (g->limits.hour_max.v >= 0 && (price.v > g->limits.hour_max.v - hour.v)))
        return GUARD_DOLLARS;
    return in_window(g, now_ns) >= g->limits.launches_per_min ? GUARD_RATE : GUARD_OK;
}

static void add(struct guard *g, const char *token, struct pusd price)
{
    struct entry *e = &g->entries[g->n++];
    snprintf(e->token, sizeof e->token, "%s", token);
    e->price = price;
}

enum guard_verdict guard_admit(struct guard *g, const char *token, struct pusd price, int64_t now_ns)
{
    SPW_ASSERT(strlen(token) < GUARD_TOKEN_MAX);
    if (find(g, token))
        return GUARD_KNOWN;
    const enum guard_verdict v = guard_ask(g, price, now_ns);
    if (v != GUARD_OK)
        return v;
    add(g, token, price);
    if (g->n_admitted == GUARD_RATE_MAX) { /* the oldest is out of any window, or it would not have been let in */
        g->first = (g->first + 1) % GUARD_RATE_MAX;
        g->n_admitted--;
    }
    g->admitted[(g->first + g->n_admitted++) % GUARD_RATE_MAX] = now_ns;
    return GUARD_OK;
}

void guard_count(struct guard *g, const char *token, struct pusd price)
{
    SPW_ASSERT(strlen(token) < GUARD_TOKEN_MAX);
    if (find(g, token))
        guard_price(g, token, price);
    else if (g->n < GUARD_INSTANCES_MAX)
        add(g, token, price);
}

void guard_price(struct guard *g, const char *token, struct pusd price)
{
    struct entry *e = find(g, token);
    if (e)
        e->price.v = price.v > 0 ? price.v : 0;
}

void guard_release(struct guard *g, const char *token)
{
    struct entry *e = find(g, token);
    if (e)
        *e = g->entries[--g->n];
}
