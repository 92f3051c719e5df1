/* Exact-match cache of finished answers. It keeps whole answers, as bodies of /v1/chat/completions or /v1/completions,
 * under the keys of canonical.h; replay.h turns them into what a client gets.
 *
 * Two back ends behind one small table: `memory` (an LRU of our own, lru.c) and `redis` (redis.c). A cache never makes
 * a request fail: whatever goes wrong is a miss, counted. A cache belongs to one loop and its thread, and nothing
 * blocks; with several loops each has its own, and those of mode memory share what they keep (struct cache_memory).
 * cache_stats() alone may be called from any thread.
 *
 * The life of a request in it (dispatch's side of each step is in scheduler/cache/README.md):
 *
 *     cache_ask_parse, cache_use  ->  canonical_key  ->  cache_get  ->  hit: replay
 *                                                          |
 *                                                          v miss
 *                                     flight_join: leader computes, then cache_put + flight_finish */
#ifndef SCHEDULER_CACHE_CACHE_H
#define SCHEDULER_CACHE_CACHE_H

#include <event2/event.h>

#include "base/log.h"
#include "base/money.h"
#include "base/tls.h"
#include "scheduler/cache/canonical.h"

/* ---- what a request wants of the cache -------------------------------------------------------------------------- */

enum cache_switch { CACHE_SWITCH_DEFAULT, CACHE_SWITCH_ON, CACHE_SWITCH_OFF };
struct cache_ask {
    enum cache_switch asked; /* x-spillway-cache: on | off */
    bool no_store, no_cache; /* Cache-Control; max-age=0 is no-cache */
    int64_t age_s_max;       /* Cache-Control: max-age, -1: none */
};
/* Header values, NULL: not sent. RC_INVALID: x-spillway-cache is neither on nor off; unknown cache directives are
 * ignored, as RFC 9111 wants it. */
enum rc cache_ask_parse(struct cache_ask *ask, const char *cache_control, const char *x_spillway_cache,
                        struct error *e) SPW_MUST_USE;

#define CACHE_READ     1u /* look it up */
#define CACHE_STORE    2u /* keep the answer */
#define CACHE_COLLAPSE 4u /* share the answer with identical requests in flight */
/* Which of these a request may do. None unless it asks for one answer, and is deterministic or says `on`. no-store:
 * read alone. no-cache: fresh from a node, then kept. `off`: nothing. */
unsigned cache_use(const struct cache_ask *ask, enum cache_kind kind, const cJSON *root);

/* ---- the cache -------------------------------------------------------------------------------------------------- */

struct cache_entry { /* texts without control bytes, never NULL */
    int status;      /* of the answer; 200 */
    const char *content_type, *model, *node, *usage_source;
    const char *body; /* NUL-terminated */
    size_t body_len;
    struct token_counts tokens;
    struct pusd charge; /* of the request that paid for it: what a hit saves */
    struct wall stored; /* set by cache_put() */
    bool replays;       /* it is known that replay_check() takes the body: it is not read again to be kept */
};

/* What is kept in our own memory, for the caches of all loops. Behind a short lock of its own that is never held over
 * anything that waits. Outlives every cache that uses it. */
struct cache_memory;
struct cache_memory_options {
    int64_t ttl_ms, bytes_max; /* bytes: of all entries with their book-keeping */
    const struct clock *clock; /* borrowed */
};
enum rc cache_memory_new(struct cache_memory **m, const struct cache_memory_options *o, struct error *e) SPW_MUST_USE;
void cache_memory_free(struct cache_memory *m); /* NULL is fine */

enum cache_mode { CACHE_MEMORY, CACHE_REDIS };
struct cache_options { // NOLINT(clang-analyzer-optin.performance.Padding): grouped by subject
    enum cache_mode mode;
    struct cache_memory *memory; /* memory: borrowed */
    int64_t ttl_ms;              /* redis */
    int64_t entry_bytes_max;     /* a larger answer is not kept */
    struct event_base *loop;     /* these three outlive the cache */
    const struct clock *clock;
    const struct log *log;
    struct {
        const char *host; /* name, literal or "unix:/path" */
        SSL_CTX *tls;     /* of tls_client_new(); gets a reference. NULL: plain text */
        int port, db;
        const char *username, *password; /* NULL: none; copied, wiped at the end */
        int64_t timeout_ms;              /* of a command: then it is a miss */
        int64_t connect_ms;              /* with AUTH and SELECT; 0: 4 timeouts */
    } redis;
};

struct cache;
struct cache_get;

/* A Redis that is not there is no error: it is connected to from the loop, and until then everything misses. */
enum rc cache_new(struct cache **c, const struct cache_options *o, struct error *e) SPW_MUST_USE;
/* Lookups under way are dropped without a call. Not from inside a callback. NULL is fine. */
void cache_free(struct cache *c);

/* entry: NULL for a miss; borrowed for the call. On the loop, once, never from inside cache_get(); within redis'
 * timeout. `get` is gone then. */
typedef void cache_get_cb(const struct cache_entry *entry, void *arg);
struct cache_get *cache_get(struct cache *c, const struct cache_key *key, cache_get_cb *cb, void *arg);
void cache_get_cancel(struct cache_get *get);
/* Is it certain, at once and without a turn of the loop, that cache_get() would miss? Then it is counted as a miss, and
 * need not be called. False: ask. */
bool cache_misses(struct cache *c, const struct cache_key *key);

/* An answer as it is kept: bytes, counted, never changed. Any thread. */
struct blob;
void blob_unref(struct blob *b); /* NULL is fine */
/* Make one of entry, all of it copied. Errors as cache_put(). */
enum rc cache_keep(struct cache *c, const struct cache_key *key, const struct cache_entry *entry,
                   struct blob **kept) SPW_MUST_USE;
void cache_put_kept(struct cache *c, const struct cache_key *key, struct blob *kept);
/* *entry borrows from it. RC_INVALID: of another key. */
enum rc cache_read_kept(const struct blob *kept, const struct cache_key *key, struct cache_entry *entry) SPW_MUST_USE;

/* Both at once. Keep an answer; all of it is copied. RC_FULL: larger than entry_bytes_max; RC_UNSUPPORTED: an answer
 * that could not be replayed both ways (replay_check()); RC_INVALID: impossible figures or texts. Whether it then
 * reaches a Redis is told by nobody but the counters. */
enum rc cache_put(struct cache *c, const struct cache_key *key, const struct cache_entry *entry);

struct cache_stats {
    uint64_t hits, misses, stores;
    uint64_t refused;                   /* answers not kept: too large, or not to be replayed */
    uint64_t errors, timeouts, dropped; /* redis: bad replies and values; commands too late; stores not sent */
    uint64_t connects, disconnects;
    bool reachable; /* memory: always */
};
struct cache_stats cache_stats(const struct cache *c);
/* Of the memory that caches share; any thread. */
struct cache_memory_stats {
    uint64_t evictions, expired;
    int64_t entries, bytes; /* now */
};
struct cache_memory_stats cache_memory_stats(struct cache_memory *m);

#endif
