/* The cache on a request's way through the front: looked up before a node is chosen, shared with identical requests
 * that are under way, kept when it has been computed. scheduler/cache has the parts; this is who calls them, and when.
 *
 *     cached_begin() --+-> BYPASS or MISS: dispatch, as if there were no cache
 *                      |
 *                      +-> REQUEST_ASKING: a lookup, or the answer to an identical request, is awaited
 *                              |         too late, or its leader has failed: dispatch after all
 *                              |
 *                              +-> answered: settled with charge 0; the rest leaves when its row is durable
 *
 *     dispatch ... cached_take() per chunk ... settle --+-> cached_done(): kept, and given to those who wait for it
 *                                                       +-> cached_failed(): the next of them has to compute it
 *
 * Who may be served what: an answer belongs to its tenant and its model's identity, which are in the key. A request
 * that is bound to the premises may be served from there, since nothing of it leaves; but it touches a Redis only where
 * cache.redis.local says that it stands there. Limits count a hit as a request of no tokens.
 *
 * Never longer than redis.timeout and cache.collapse: what goes wrong is a miss. On the request's own loop. */
#ifndef SCHEDULER_FRONT_CACHED_H
#define SCHEDULER_FRONT_CACHED_H

#include "base/http_server.h"
#include "scheduler/cache/assemble.h"
#include "scheduler/cache/cache.h"
#include "scheduler/cache/flight.h"
#include "scheduler/config/config.h"
#include "scheduler/wire/errors.h"

struct request;

/* How a request came by its answer: what x-spillway-cache says. */
enum cached_way {
    CACHED_OFF, /* there is no cache: the header is not sent */
    CACHED_BYPASS,
    CACHED_MISS,
    CACHED_HIT,
    CACHED_COLLAPSED,
    CACHED_WAYS,
};
const char *cached_way_name(enum cached_way w);

/* A request's part; zeroed is fine. */
struct cached_request {
    struct cache_ask ask;
    enum cached_way way;
    unsigned use;         /* CACHE_READ...; 0: it has no key */
    struct cache_key key; /* of the model's identity as it began */
    uint64_t identity;    /* digest of that */
    struct cache_get *get;
    struct flight_ticket ticket;
    struct assembler *parts; /* owned; NULL: not a stream that is kept */
    bool replays;            /* its whole answer is known to be one that can be kept */
    /* Of an answer that was found. */
    size_t tail; /* of out: what waits for the row */
    struct pusd saved;
    int64_t age_s;
    char node[72]; /* that made it, once */
};

/* ---- what there is once, and once per loop ------------------------------------------------------------------------ */

struct cached_shared; /* flights, the memory of mode lru, password and TLS of mode redis; NULL for mode off */
enum rc cached_shared_new(struct cached_shared **s, const struct config *c, const struct clock *clock,
                          struct error *e) SPW_MUST_USE;
void cached_shared_free(struct cached_shared *s);

struct cached; /* of one loop: its cache. NULL: mode off */
struct cached_options {
    struct cached_shared *shared; /* all borrowed */
    const struct config *config;
    struct event_base *loop;
    const struct clock *clock;
    const struct log *log;
};
enum rc cached_new(struct cached **c, const struct cached_options *o, struct error *e) SPW_MUST_USE;
void cached_free(struct cached *c); /* no request may have a lookup under way */

struct cached_figures { /* sums */
    struct cache_stats cache;
    bool on;
};
/* Add what one loop's part has counted; any thread. */
void cached_figures_add(struct cached_figures *sum, const struct cached *c);
struct flight_stats cached_flight_figures(struct cached_shared *s);
/* Entries, bytes, evictions; zero without mode lru. Any thread. */
struct cache_memory_stats cached_memory_figures(struct cached_shared *s);

/* ---- the life of a request ---------------------------------------------------------------------------------------- */

/* What its headers ask. RC_DENIED: *e is a 400. */
enum rc cached_ask(struct http_exchange *x, struct cache_ask *ask, struct api_error *e) SPW_MUST_USE;
/* root: what r's body says. True: r is taken: it waits, or is answered and gone. False: dispatch it. */
bool cached_begin(struct request *r, const cJSON *root);
/* The timer of a request that is REQUEST_ASKING: it has waited for long enough. */
void cached_turn(struct request *r);
/* It goes no further here: whatever it waits for is let go, and whoever waits for it hears so. Idempotent. */
void cached_leave(struct request *r);
void cached_fini(struct request *r);

/* A leg begins whose chunks leave through r->stream. */
void cached_follow(struct request *r);
/* r->answer, a node's whole one, as answer_read(): where it is to be kept, one parse serves both. */
enum rc cached_read_answer(struct request *r, struct token_counts *counts, bool *known) SPW_MUST_USE;
/* What was said does not count after all: the next leg begins again. */
void cached_restart(struct request *r);
/* r has failed (r->error says how), or its client left. */
void cached_failed(struct request *r);
/* Would anybody have r's answer? */
bool cached_wants(const struct request *r);
/* r's row is durable and its answer written: keep it, and hand it on. body: of a whole answer, as it left; n 0: it
 * could not be written. */
void cached_done(struct request *r, struct bytes body);

static inline bool cached_answered(const struct cached_request *c)
{
    return c->way == CACHED_HIT || c->way == CACHED_COLLAPSED;
}
/* After the commit of an answer that was found: what is left of it. */
void cached_write_rest(struct request *r);

/* x-spillway-cache and Age. Returns how many of at most CACHED_HEADERS_MAX. */
#define CACHED_HEADERS_MAX 2
struct cached_texts {
    char age[24];
};
int cached_headers(const struct request *r, struct cached_texts *t, struct http_header *headers);

#endif
