/* What the cache's tests share: entries, lookups that are waited for. */
#ifndef TESTS_UNIT_CACHE_HELP_H
#define TESTS_UNIT_CACHE_HELP_H

#include <fcntl.h>
#include <stdlib.h>

#include "scheduler/cache/cache.h"
#include "tests/unit/http_peer.h"

static inline struct cache_key help_key(int n)
{
    struct cache_key k;
    for (size_t i = 0; i < sizeof k.bytes; i++)
        k.bytes[i] = (uint8_t)(n * 31 + (int)i * 7);
    memcpy(k.bytes, &n, sizeof n);
    return k;
}

/* A completion that says `n` times x. Caller frees. */
static inline char *help_body(int n)
{
    char *pad = spw_malloc((size_t)n + 1);
    memset(pad, 'x', (size_t)n);
    pad[n] = '\0';
    char *body = spw_asprintf("{\"choices\":[{\"text\":\"%s\",\"finish_reason\":\"stop\"}]}", pad);
    free(pad);
    return body;
}

static inline enum rc help_put(struct cache *c, int key, int n, int64_t charge)
{
    struct cache_key k = help_key(key);
    char *body = help_body(n);
    struct cache_entry e = {.status = 200,
                            .content_type = "application/json",
                            .model = "m",
                            .node = "n1",
                            .usage_source = "provider",
                            .body = body,
                            .body_len = strlen(body),
                            .tokens = {7, 3, n},
                            .charge = {charge}};
    enum rc rc = cache_put(c, &k, &e);
    free(body);
    return rc;
}

struct lookup {
    int called;
    bool hit;
    int64_t output; /* of a hit: what help_put() was given as n */
    bool intact;
};

static inline void help_found(const struct cache_entry *e, void *arg)
{
    struct lookup *l = arg;
    l->called++;
    l->hit = e != NULL;
    if (!e)
        return;
    l->output = e->tokens.output;
    char *body = help_body((int)e->tokens.output);
    l->intact = e->status == 200 && strcmp(e->content_type, "application/json") == 0 && strcmp(e->model, "m") == 0 &&
                strcmp(e->node, "n1") == 0 && strcmp(e->usage_source, "provider") == 0 && e->tokens.input == 7 &&
                e->tokens.cached_input == 3 && e->body_len == strlen(body) && strcmp(e->body, body) == 0;
    free(body);
}

static inline struct cache_get *help_get(struct cache *c, int key, struct lookup *l)
{
    struct cache_key k = help_key(key);
    memset(l, 0, sizeof *l);
    return cache_get(c, &k, help_found, l);
}

/* Wait for it, at most 5 s. */
static inline bool help_hit(struct event_base *loop, struct cache *c, int key, int64_t *output)
{
    struct lookup l;
    (void)help_get(c, key, &l);
    for (int64_t end = peer_ms() + 5000; !l.called && peer_ms() < end;)
        event_base_loop(loop, EVLOOP_ONCE | EVLOOP_NONBLOCK);
    if (output)
        *output = l.output;
    return l.called == 1 && l.hit && l.intact;
}

static inline bool help_reachable(struct event_base *loop, const struct cache *c, bool wanted, int ms)
{
    int64_t end = peer_ms() + ms;
    while (cache_stats(c).reachable != wanted && peer_ms() < end)
        peer_pump(loop);
    return cache_stats(c).reachable == wanted;
}

static inline struct log help_log(void)
{
    return (struct log){
        .fd = open("/dev/null", O_WRONLY | O_CLOEXEC), .level = LOG_DEBUG, .clock = &clock_system, .program = "test"};
}

#endif
