#include "scheduler/auth/token_cache.h"

#include <stdlib.h>
#include <sys/queue.h>

#include "base/alloc.h"

struct entry {
    TAILQ_ENTRY(entry) by_use;
    struct hash token;
    struct identity *who; /* owned reference */
    int64_t until_s;
};
struct token_cache {
    TAILQ_HEAD(entries, entry) used; /* most recently used first */
    struct hash_table *by_token;
    int max;
};

enum rc token_cache_new(struct token_cache **out, int entries_max, struct error *e)
{
    struct token_cache *c = spw_calloc(1, sizeof *c);
    *out = NULL;
    TAILQ_INIT(&c->used);
    c->max = entries_max;
    enum rc rc = hash_table_new(&c->by_token, e);
    if (rc != RC_OK) {
        free(c);
        return rc;
    }
    *out = c;
    return RC_OK;
}

static void drop(struct token_cache *c, struct entry *t)
{
    hash_table_remove(c->by_token, &t->token);
    TAILQ_REMOVE(&c->used, t, by_use);
    identity_unref(t->who);
    free(t);
}

void token_cache_clear(struct token_cache *c)
{
    for (struct entry *t = TAILQ_FIRST(&c->used), *next; t; t = next) {
        next = TAILQ_NEXT(t, by_use);
        drop(c, t);
    }
}

void token_cache_free(struct token_cache *c)
{
    if (!c)
        return;
    token_cache_clear(c);
    hash_table_free(c->by_token);
    free(c);
}

struct identity *token_cache_get(struct token_cache *c, const struct hash *token, int64_t now_s)
{
    struct entry *t = hash_table_find(c->by_token, token);
    if (!t)
        return NULL;
    if (now_s > t->until_s) {
        drop(c, t);
        return NULL;
    }
    TAILQ_REMOVE(&c->used, t, by_use);
    TAILQ_INSERT_HEAD(&c->used, t, by_use);
    return identity_ref(t->who);
}

void token_cache_put(struct token_cache *c, const struct hash *token, struct identity *who, int64_t until_s)
{
    struct entry *t = hash_table_find(c->by_token, token);
    if (t)
        drop(c, t);
    if (hash_table_count(c->by_token) >= c->max)
        drop(c, TAILQ_LAST(&c->used, entries));
    t = spw_calloc(1, sizeof *t);
    t->token = *token;
    t->who = identity_ref(who);
    t->until_s = until_s;
    hash_table_put(c->by_token, token, t);
    TAILQ_INSERT_HEAD(&c->used, t, by_use);
}

int token_cache_count(const struct token_cache *c)
{
    return hash_table_count(c->by_token);
}
