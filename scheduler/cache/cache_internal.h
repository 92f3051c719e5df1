/* What the cache and its back ends share. */
#ifndef SCHEDULER_CACHE_CACHE_INTERNAL_H
#define SCHEDULER_CACHE_CACHE_INTERNAL_H

#include <sys/queue.h>

#include "scheduler/cache/cache.h"

/* ---- an entry as bytes (entry.c) ---------------------------------------------------------------------------------
 *
 * Little-endian: magic 8, SHA-256 of all that follows 32, key 32, status 4, zero 4, input, cached, output, charge and
 * time of storing (ns) 8 each, lengths of the four texts 4 each, length of the body 8, then texts and body, each with a
 * NUL behind it. The magic changes with the layout: values of another version are misses. */

/* Counted, never changed once it is shared; the last reference may be any loop's. */
struct blob {
    _Atomic int refs;
    size_t n;
    char data[];
};
struct blob *blob_new(size_t n); /* one reference, the caller's */
struct blob *blob_ref(struct blob *b);

enum entry_trust { ENTRY_OURS, ENTRY_FOREIGN }; /* foreign: it came from outside, its hash is checked */

/* RC_INVALID, RC_FULL: over bytes_max. No hash yet. */
enum rc entry_encode(const struct cache_key *key, const struct cache_entry *e, size_t bytes_max,
                     struct blob **b) SPW_MUST_USE;
void entry_seal(struct blob *b); /* write the hash; before it leaves the process */
/* RC_INVALID: damaged, of another version, or of another key. *e borrows from the blob. */
enum rc entry_decode(const struct blob *b, const struct cache_key *key, enum entry_trust trust,
                     struct cache_entry *e) SPW_MUST_USE;

/* ---- back ends --------------------------------------------------------------------------------------------------- */

TAILQ_HEAD(get_list, cache_get);
struct cache_get {
    TAILQ_ENTRY(cache_get) entry;
    unsigned magic;
    struct cache *cache;
    struct get_list *list; /* that it is on */
    struct cache_key key;
    cache_get_cb *cb;
    void *arg;
    struct blob *blob; /* owned: what was found */
    void *command;     /* the back end's, while it works on it */
};

struct backend;
struct backend_ops {
    const char *name;
    enum entry_trust trust;
    /* Is it certain without waiting that this would be a miss? */
    bool (*misses)(struct backend *b, const struct cache_key *key);
    /* Answers with get_ready(), from inside or later; exactly once, unless cancelled. */
    void (*get)(struct backend *b, struct cache_get *get);
    void (*cancel)(struct backend *b, struct cache_get *get); /* it will be freed now. NULL: nothing is ever pending */
    void (*put)(struct backend *b, const struct cache_key *key, struct blob *blob); /* takes a reference of its own */
    void (*stats)(const struct backend *b, struct cache_stats *s);                  /* adds its own figures */
    void (*free)(struct backend *b);
};
struct backend { /* first member of each */
    const struct backend_ops *ops;
};

enum rc lru_new(struct backend **b, const struct cache_options *o, struct error *e) SPW_MUST_USE;
enum rc redis_new(struct backend **b, const struct cache_options *o, struct error *e) SPW_MUST_USE;

struct backend *get_backend(const struct cache_get *get); /* that works on it */
/* blob: a reference that is taken over; NULL: a miss. The caller of cache_get() hears of it in a turn of its own. */
void get_ready(struct cache_get *get, struct blob *blob);

#endif
