/* Proves the cache against a real redis-server: what is stored is found, by another process's connection too; entries
 * end with their time; and while the server is killed and started again under load, every lookup is answered, none
 * wrongly, and hits come back by themselves. Skipped by name where there is no redis-server.
 * links: spw_sched_cache */
#include "tests/unit/test.h"

#include <hiredis/hiredis.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include "tests/unit/cache_help.h"

#define PASSWORD "test-only"

extern char **environ;

static struct event_base *loop;
static struct log log_;
static char folder[] = "/tmp/spw_redis_XXXXXX";
static int port;
static pid_t server;

static bool server_start(void)
{
    char number[16];
    char *argv[] = {"redis-server",  "--port",    number,         "--bind",      "127.0.0.1",
                    "--save",        "",          "--appendonly", "no",          "--dir",
                    folder,          "--logfile", "log",          "--daemonize", "no",
                    "--requirepass", PASSWORD,    "--databases",  "4",           NULL};
    snprintf(number, sizeof number, "%d", port);
    return posix_spawnp(&server, "redis-server", NULL, NULL, argv, environ) == 0;
}

static void server_kill(void)
{
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    server = 0;
}

static struct cache *cache_live(int64_t ttl_ms)
{
    struct cache *c = NULL;
    struct error e;
    struct cache_options o = {.mode = CACHE_REDIS,
                              .ttl_ms = ttl_ms,
                              .entry_bytes_max = 1 << 20,
                              .loop = loop,
                              .clock = &clock_system,
                              .log = &log_,
                              .redis = {.host = "127.0.0.1",
                                        .port = port,
                                        .db = 2,
                                        .username = "default",
                                        .password = PASSWORD,
                                        .timeout_ms = 1000}};
    CHECK(cache_new(&c, &o, &e) == RC_OK);
    return c;
}

static void test_store_and_find(void)
{
    struct cache *c = cache_live(60000), *other = cache_live(60000);
    int64_t output;
    CHECK(help_reachable(loop, c, true, 10000) && help_reachable(loop, other, true, 10000));
    CHECK(!help_hit(loop, c, 1, NULL));
    CHECK(help_put(c, 1, 10, 5) == RC_OK);
    CHECK(help_put(c, 2, 900000, 5) == RC_OK);
    CHECK(help_hit(loop, c, 1, &output) && output == 10); /* after the store: one connection, in order */
    CHECK(help_hit(loop, other, 1, &output) && output == 10);
    CHECK(help_hit(loop, other, 2, &output) && output == 900000);
    CHECK(help_put(other, 1, 11, 5) == RC_OK);
    CHECK(help_hit(loop, other, 1, &output) && output == 11);
    CHECK(!help_hit(loop, other, 3, NULL));
    cache_free(other);
    cache_free(c);
}

static void test_time(void)
{
    struct cache *c = cache_live(150);
    CHECK(help_reachable(loop, c, true, 10000));
    CHECK(help_put(c, 10, 10, 0) == RC_OK);
    peer_run_ms(loop, 400);
    CHECK(!help_hit(loop, c, 10, NULL));
    cache_free(c);
}

/* A key of ours that somebody else has made a list of, or cut. */
static void test_spoiled(void)
{
    struct cache *c = cache_live(60000);
    CHECK(help_reachable(loop, c, true, 10000));
    CHECK(help_put(c, 20, 10, 0) == RC_OK && help_put(c, 21, 10, 0) == RC_OK);
    CHECK(help_hit(loop, c, 20, NULL) && help_hit(loop, c, 21, NULL));
    redisContext *direct = redisConnect("127.0.0.1", port);
    freeReplyObject(redisCommand(direct, "AUTH " PASSWORD));
    freeReplyObject(redisCommand(direct, "SELECT 2"));
    redisReply *keys = redisCommand(direct, "KEYS spillway:cache:*");
    CHECK(keys && keys->type == REDIS_REPLY_ARRAY && keys->elements >= 2);
    for (size_t i = 0; keys && i < keys->elements; i++) {
        freeReplyObject(i % 2 ? redisCommand(direct, "DEL %s", keys->element[i]->str)
                              : redisCommand(direct, "SETRANGE %s 60 x", keys->element[i]->str));
        if (i % 2)
            freeReplyObject(redisCommand(direct, "RPUSH %s a b", keys->element[i]->str));
    }
    freeReplyObject(keys);
    redisFree(direct);
    CHECK(!help_hit(loop, c, 20, NULL) && !help_hit(loop, c, 21, NULL));
    CHECK(cache_stats(c).reachable && cache_stats(c).errors == 2);
    CHECK(help_put(c, 20, 12, 0) == RC_OK && help_put(c, 21, 12, 0) == RC_OK); /* a SET mends it */
    CHECK(help_hit(loop, c, 20, NULL) && help_hit(loop, c, 21, NULL));
    cache_free(c);
}

struct load {
    struct cache *c;
    int key, answered, hits, wrong;
};

static void on_load(const struct cache_entry *e, void *arg)
{
    struct load *l = arg;
    l->answered++;
    if (!e) {
        CHECK(help_put(l->c, l->key, 100 + l->key, 1) == RC_OK);
        return;
    }
    l->hits++;
    l->wrong += e->tokens.output != 100 + l->key;
}

/* 50 keys asked for over and over; each lookup is one turn of the loop behind the one before. */
static void run_load(struct load *l, int ms, int *asked)
{
    for (int64_t end = peer_ms() + ms; peer_ms() < end;) {
        for (int i = 0; i < 50; i++) {
            struct cache_key k = help_key(l[i].key);
            if (l[i].answered == asked[i]) {
                asked[i]++;
                (void)cache_get(l[i].c, &k, on_load, &l[i]);
            }
        }
        peer_pump(loop);
    }
}

static int hits_of(const struct load *l)
{
    int hits = 0;
    for (int i = 0; i < 50; i++)
        hits += l[i].hits;
    return hits;
}

static void test_killed_under_load(void)
{
    static struct load l[50];
    int asked[50] = {0}, before;
    struct cache *c = cache_live(60000);
    CHECK(help_reachable(loop, c, true, 10000));
    for (int i = 0; i < 50; i++)
        l[i] = (struct load){.c = c, .key = 1000 + i};
    run_load(l, 300, asked);
    for (int round = 0; round < 3; round++) {
        CHECK(hits_of(l) > 0);
        server_kill();
        run_load(l, 300, asked);
        CHECK(!cache_stats(c).reachable);
        CHECK(server_start());
        CHECK(help_reachable(loop, c, true, 15000));
        before = hits_of(l);
        run_load(l, 300, asked);
        CHECK(hits_of(l) > before);
    }
    for (int64_t end = peer_ms() + 3000; peer_ms() < end;) {
        bool all = true;
        for (int i = 0; i < 50; i++)
            all = all && l[i].answered == asked[i];
        if (all)
            break;
        peer_pump(loop);
    }
    for (int i = 0; i < 50; i++)
        CHECK(l[i].answered == asked[i] && l[i].wrong == 0);
    CHECK(cache_stats(c).disconnects == 3 && cache_stats(c).connects == 4);
    /* Stopped, not dead: as good as dead, until it goes on. */
    kill(server, SIGSTOP);
    run_load(l, 1500, asked);
    CHECK(!cache_stats(c).reachable);
    kill(server, SIGCONT);
    CHECK(help_reachable(loop, c, true, 15000));
    cache_free(c);
}

int main(void)
{
    loop = event_base_new();
    log_ = help_log();
    port = peer_free_port();
    if (!mkdtemp(folder) || !server_start()) {
        printf("skipped: test_cache_redis_live: no redis-server\n0 passed, 0 failed\n");
        return 0;
    }
    TEST(test_store_and_find);
    TEST(test_time);
    TEST(test_spoiled);
    TEST(test_killed_under_load);
    server_kill();
    char *log_file = spw_asprintf("%s/log", folder);
    unlink(log_file);
    free(log_file);
    rmdir(folder);
    event_base_free(loop);
    return TEST_RESULT();
}
