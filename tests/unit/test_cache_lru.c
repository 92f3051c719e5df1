/* Proves the cache in memory: it finds exactly what a simple model of "least recently used, bounded in entries and
 * bytes, with an age" would find, over random operations; that lookups answer in a turn of their own, once, or not at
 * all when they were cancelled; what is refused; and that damaged or foreign bytes are never an entry.
 * links: spw_sched_cache */
#include "tests/unit/test.h"

#include <pthread.h>

#include "scheduler/cache/cache_internal.h"
#include "tests/unit/cache_help.h"

static struct event_base *loop;
static struct clock_manual manual;
static struct clock clock_;
static struct log log_;

static struct cache_memory *memory;

static struct cache *cache_on(struct event_base *its_loop)
{
    struct cache *c = NULL;
    struct error e;
    struct cache_options o = {.mode = CACHE_MEMORY,
                              .memory = memory,
                              .entry_bytes_max = 20000,
                              .loop = its_loop,
                              .clock = &clock_,
                              .log = &log_};
    CHECK(cache_new(&c, &o, &e) == RC_OK);
    return c;
}

static struct cache *cache_in_memory(int64_t bytes_max, int64_t ttl_ms)
{
    struct error e;
    cache_memory_free(memory); /* of the test before */
    memory = NULL;
    struct cache_memory_options m = {.ttl_ms = ttl_ms, .bytes_max = bytes_max, .clock = &clock_};
    CHECK(cache_memory_new(&memory, &m, &e) == RC_OK);
    return cache_on(loop);
}

static void turn(void)
{
    event_base_loop(loop, EVLOOP_NONBLOCK);
}

static void test_basics(void)
{
    struct cache *c = cache_in_memory(1 << 20, 1000);
    struct lookup a, b, gone;
    int64_t output;
    CHECK(help_put(c, 1, 5, 100) == RC_OK);
    (void)help_get(c, 1, &a);
    struct cache_get *get = help_get(c, 1, &gone);
    (void)help_get(c, 2, &b);
    CHECK(!a.called && !b.called); /* never from inside */
    cache_get_cancel(get);
    turn();
    CHECK(a.called == 1 && a.hit && a.intact && a.output == 5);
    CHECK(b.called == 1 && !b.hit);
    CHECK(gone.called == 0);
    CHECK(help_put(c, 1, 9, 7) == RC_OK); /* the newer one counts */
    CHECK(help_hit(loop, c, 1, &output) && output == 9);
    clock_advance(&manual, 1000 * NS_PER_MS);
    CHECK(!help_hit(loop, c, 1, NULL));
    struct cache_stats s = cache_stats(c);
    struct cache_memory_stats m = cache_memory_stats(memory);
    CHECK(s.hits == 2 && s.misses == 2 && s.stores == 2 && s.reachable);
    CHECK(m.expired == 1 && m.entries == 0 && m.bytes == 0);
    struct cache_key k = help_key(1);
    CHECK(cache_misses(c, &k) && cache_stats(c).misses == 3); /* known at once */
    CHECK(help_put(c, 1, 5, 100) == RC_OK);
    CHECK(!cache_misses(c, &k) && cache_stats(c).misses == 3);
    (void)help_get(c, 1, &a); /* dropped without a call */
    cache_free(c);
    CHECK(a.called == 0);
    cache_free(NULL);
}

static void test_refused(void)
{
    struct cache *c = cache_in_memory(1 << 20, 1000);
    struct cache_key k = help_key(1);
    const char *body = "{\"choices\":[{\"text\":\"x\",\"finish_reason\":\"stop\"}]}";
    struct cache_entry good = {200, "a", "b", "c", "d", body, strlen(body), {5, 5, 1}, {0}, {0}, false}, e;
    CHECK(cache_put(c, &k, &good) == RC_OK);
    e = good, e.content_type = "a\r\nx: y";
    CHECK(cache_put(c, &k, &e) == RC_INVALID);
    e = good, e.tokens.cached_input = 6;
    CHECK(cache_put(c, &k, &e) == RC_INVALID);
    e = good, e.charge.v = -1;
    CHECK(cache_put(c, &k, &e) == RC_INVALID);
    e = good, e.status = 0;
    CHECK(cache_put(c, &k, &e) == RC_INVALID);
    e = good, e.body = "{\"choices\":[{\"text\":\"x\",\"logprobs\":[1],\"finish_reason\":\"stop\"}]}",
    e.body_len = strlen(e.body);
    CHECK(cache_put(c, &k, &e) == RC_UNSUPPORTED);
    CHECK(help_put(c, 2, 20001, 0) == RC_FULL);
    CHECK(help_put(c, 2, 19990, 0) == RC_FULL); /* the body fits, the entry does not */
    CHECK(help_put(c, 2, 19000, 0) == RC_OK);
    CHECK_INT((int)cache_stats(c).refused, 7);
    cache_free(c);
}

/* ---- against the model ---- */

#define KEYS 100
struct model {
    bool there[KEYS];
    int n[KEYS], used[KEYS];
    int64_t until[KEYS];
    int clock, entries;
    int64_t bytes, bytes_max, base; /* base: cost of an entry without its text */
};

static void model_remove(struct model *m, int k)
{
    m->there[k] = false;
    m->entries--;
    m->bytes -= m->base + m->n[k];
}

static void model_put(struct model *m, int k, int n, int64_t until)
{
    if (m->there[k])
        model_remove(m, k);
    while (m->entries && (m->bytes + m->base + n > m->bytes_max || m->entries >= 64)) {
        int oldest = -1;
        for (int i = 0; i < KEYS; i++)
            if (m->there[i] && (oldest < 0 || m->used[i] < m->used[oldest]))
                oldest = i;
        model_remove(m, oldest);
    }
    m->there[k] = true;
    m->n[k] = n;
    m->until[k] = until;
    m->used[k] = ++m->clock;
    m->entries++;
    m->bytes += m->base + n;
}

static bool model_get(struct model *m, int k, int64_t now)
{
    if (m->there[k] && now >= m->until[k])
        model_remove(m, k);
    if (m->there[k])
        m->used[k] = ++m->clock;
    return m->there[k];
}

static void test_model(void)
{
    static struct model m;
    const int64_t ttl_ms = 400;
    struct cache *c = cache_in_memory(65536, ttl_ms);
    unsigned seed = 99;
    CHECK(help_put(c, 0, 10, 0) == RC_OK);
    m.bytes_max = 65536;
    m.base = cache_memory_stats(memory).bytes - 10;
    model_put(&m, 0, 10, manual.mono.ns + ttl_ms * NS_PER_MS);
    for (int step = 0; step < 30000; step++) {
        seed = seed * 1103515245u + 12345u;
        int k = (int)(seed >> 16) % KEYS, what = (int)(seed >> 8) % 16;
        int64_t output = 0;
        if (what < 7) {
            int n = step % 5000 < 2500 ? (int)(seed >> 5) % 400 : (int)(seed >> 5) % 4000;
            CHECK(help_put(c, k, n, 0) == RC_OK);
            model_put(&m, k, n, manual.mono.ns + ttl_ms * NS_PER_MS);
        } else if (what < 15) {
            bool wanted = model_get(&m, k, manual.mono.ns);
            CHECK(help_hit(loop, c, k, &output) == wanted);
            CHECK(!wanted || output == m.n[k]);
        } else {
            clock_advance(&manual, 40 * NS_PER_MS);
        }
        struct cache_memory_stats s = cache_memory_stats(memory);
        if (s.entries != m.entries || s.bytes != m.bytes) {
            CHECK_INT(s.entries, m.entries);
            CHECK_INT(s.bytes, m.bytes);
            break;
        }
    }
    struct cache_memory_stats s = cache_memory_stats(memory);
    CHECK(s.evictions > 1000 && s.expired > 100 && cache_stats(c).hits > 1000 && s.bytes <= 65536);
    cache_free(c);
}

/* ---- callbacks that use the cache ---- */

static struct {
    struct cache *c;
    struct cache_get *later;
    int calls;
} inside;

static void on_inside(const struct cache_entry *e, void *arg)
{
    (void)arg;
    inside.calls++;
    CHECK(e != NULL);
    size_t n = e->body_len;
    for (int i = 10; i < 90; i++) /* pushes out what is being shown */
        CHECK(help_put(inside.c, i, 100, 0) == RC_OK);
    CHECK(strlen(e->body) == n && e->body[0] == '{');
    if (inside.later)
        cache_get_cancel(inside.later);
    inside.later = NULL;
    struct cache_key k = help_key(89);
    if (inside.calls == 1)
        (void)cache_get(inside.c, &k, on_inside, NULL);
}

static void test_inside(void)
{
    struct lookup never;
    struct cache_key k = help_key(1);
    inside.c = cache_in_memory(8192, 1000);
    CHECK(help_put(inside.c, 1, 50, 0) == RC_OK);
    (void)cache_get(inside.c, &k, on_inside, NULL);
    inside.later = help_get(inside.c, 1, &never);
    turn();
    turn();
    CHECK_INT(inside.calls, 2);
    CHECK(never.called == 0);
    cache_free(inside.c);
}

/* ---- several loops ---- */

/* Whatever one of them finds is what somebody has put there, whole. Run under a thread sanitizer this proves the lock. */
struct worker {
    pthread_t thread;
    struct event_base *loop;
    struct cache *c;
    unsigned seed;
    int hits, damaged;
};

static void *work(void *arg)
{
    struct worker *w = arg;
    for (int step = 0; step < 4000; step++) {
        struct lookup l;
        w->seed = w->seed * 1103515245u + 12345u;
        int k = (int)(w->seed >> 16) % 40;
        if (step % 3 == 0) {
            (void)!help_put(w->c, k, k * 20, 0);
            continue;
        }
        (void)help_get(w->c, k, &l);
        event_base_loop(w->loop, EVLOOP_NONBLOCK);
        w->hits += l.hit;
        w->damaged += l.called != 1 || (l.hit && (!l.intact || l.output != k * 20));
    }
    return NULL;
}

static void test_shared(void)
{
    struct worker w[3] = {{.seed = 1}, {.seed = 2}, {.seed = 3}};
    cache_free(cache_in_memory(12000, 1000)); /* some 15 of the 40 fit */
    for (int i = 0; i < 3; i++) {
        w[i].loop = event_base_new();
        w[i].c = cache_on(w[i].loop);
        CHECK(pthread_create(&w[i].thread, NULL, work, &w[i]) == 0);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(w[i].thread, NULL);
        CHECK(w[i].hits > 100);
        CHECK_INT(w[i].damaged, 0);
    }
    CHECK(help_put(w[0].c, 1, 33, 0) == RC_OK);
    int64_t output;
    CHECK(help_hit(w[2].loop, w[2].c, 1, &output) && output == 33); /* what one keeps, the others find */
    for (int i = 0; i < 3; i++) {
        cache_free(w[i].c);
        event_base_free(w[i].loop);
    }
    CHECK(cache_memory_stats(memory).bytes <= 12000);
}

/* ---- entries as bytes ---- */

static void test_entry_damage(void)
{
    struct cache_key k = help_key(1), other = help_key(2);
    const char *body = "{\"choices\":[{\"text\":\"x\",\"finish_reason\":\"stop\"}]}";
    struct cache_entry e = {200, "type", "model", "node", "provider", body, strlen(body), {5, 2, 1}, {77}, {42}, false},
                       back;
    struct blob *b = NULL;
    CHECK(entry_encode(&k, &e, 1 << 16, &b) == RC_OK);
    CHECK(entry_decode(b, &k, ENTRY_OURS, &back) == RC_OK);
    CHECK(entry_decode(b, &k, ENTRY_FOREIGN, &back) == RC_INVALID); /* not sealed */
    entry_seal(b);
    CHECK(entry_decode(b, &k, ENTRY_FOREIGN, &back) == RC_OK);
    CHECK(back.charge.v == 77 && back.stored.ns == 42 && back.tokens.cached_input == 2);
    CHECK_STR(back.body, body);
    CHECK_STR(back.node, "node");
    CHECK(entry_decode(b, &other, ENTRY_FOREIGN, &back) == RC_INVALID);
    for (size_t i = 0; i < b->n; i++) { /* every byte counts */
        b->data[i] ^= 0x41;
        CHECK(entry_decode(b, &k, ENTRY_FOREIGN, &back) == RC_INVALID);
        (void)!entry_decode(b, &k, ENTRY_OURS, &back); /* stays inside its bytes, which the sanitizer watches */
        b->data[i] ^= 0x41;
    }
    for (size_t n = 0; n < b->n; n++) {
        struct blob *cut = blob_new(n);
        memcpy(cut->data, b->data, n);
        CHECK(entry_decode(cut, &k, ENTRY_FOREIGN, &back) == RC_INVALID);
        CHECK(entry_decode(cut, &k, ENTRY_OURS, &back) == RC_INVALID);
        blob_unref(cut);
    }
    blob_unref(b);
    CHECK(entry_encode(&k, &e, 100, &b) == RC_FULL);
    e.stored.ns = -1; /* before 1970: its age would not be a number that fits */
    CHECK(entry_encode(&k, &e, 1 << 16, &b) == RC_INVALID);
}

int main(void)
{
    loop = event_base_new();
    manual.mono.ns = NS_PER_S;
    clock_ = clock_manual(&manual);
    log_ = help_log();
    TEST(test_basics);
    TEST(test_refused);
    TEST(test_model);
    TEST(test_inside);
    TEST(test_shared);
    TEST(test_entry_damage);
    cache_memory_free(memory);
    event_base_free(loop);
    return TEST_RESULT();
}
