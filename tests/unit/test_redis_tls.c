/* Proves that a Redis is spoken to over TLS, blocking and from a loop: large values come through whole, its certificate
 * must be for the host and of an authority that is believed, ours is shown, whoever ends it says why, and a server that
 * says nothing holds nobody up for longer than was said. Skipped by name where there is no redis-server.
 * links: spw_sched_redis */
#include "tests/unit/test.h"

#include "base/alloc.h"
#include "base/tls.h"
#include "scheduler/redis/dial.h"
#include "scheduler/redis/link.h"
#include "tests/unit/redis_help.h"
#include "tests/unit/tls_make.h"

#define LARGE ((size_t)3 << 20)

static struct help_server server;
static char folder[] = "/tmp/spw_redis_tls_XXXXXX";
static char ca[64], cert[64], key[64], other_cert[64], other_key[64], alien[64], alien_key[64];
static struct event_base *loop;
static struct log log_;

static void make_files(void)
{
    char unused[64];
    snprintf(ca, sizeof ca, "%s/ca.pem", folder);
    snprintf(unused, sizeof unused, "%s/ca-key.pem", folder);
    snprintf(cert, sizeof cert, "%s/cert.pem", folder);
    snprintf(key, sizeof key, "%s/key.pem", folder);
    snprintf(other_cert, sizeof other_cert, "%s/app.pem", folder);
    snprintf(other_key, sizeof other_key, "%s/app-key.pem", folder);
    snprintf(alien, sizeof alien, "%s/alien.pem", folder);
    snprintf(alien_key, sizeof alien_key, "%s/alien-key.pem", folder);
    struct tls_maker m = tls_make_authority(ca, unused, "ours");
    tls_write_pair(cert, key, "redis", "IP:127.0.0.1", &m);
    tls_write_pair(other_cert, other_key, "spillway", "DNS:spillway", &m);
    tls_write_pair(alien, alien_key, "alien", "IP:127.0.0.1", NULL);
    tls_maker_free(&m);
}

/* The server's --port is plain text; its TLS is at tls_port. */
static int tls_port;

static bool start(void)
{
    static char number[16];
    const char *const more[] = {
        "--tls-port", number, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca, "--appendonly",
        "no",         NULL};
    if (!tls_port)
        tls_port = peer_free_port();
    snprintf(number, sizeof number, "%d", tls_port);
    return help_server_start(&server, more);
}

static SSL_CTX *context(const char *authority, const char *c, const char *k)
{
    SSL_CTX *ctx = NULL;
    struct error e;
    CHECK(tls_client_new(&ctx, &(struct tls_client_files){authority, c, k}, &e) == RC_OK);
    return ctx;
}

static redisReply *say(struct redis_dialed *d, const char *a, const char *b, size_t n)
{
    const char *argv[] = {a, b};
    const size_t lengths[] = {strlen(a), n};
    return redisCommandArgv(d->c, 2, argv, lengths);
}

static bool is_status(redisReply *r)
{
    bool ok = r && r->type == REDIS_REPLY_STATUS;
    if (r)
        freeReplyObject(r);
    return ok;
}

static void test_blocking(void)
{
    SSL_CTX *ctx = context(ca, other_cert, other_key);
    const struct redis_dial how = {.host = "127.0.0.1", .port = tls_port, .tls = ctx, .limit_s = 5};
    struct redis_dialed d;
    struct error e;
    CHECK(redis_dial(&d, &how, &e) == RC_OK);
    CHECK(is_status(say(&d, "SELECT", "0", 1)));
    char *large = spw_malloc(LARGE);
    for (size_t i = 0; i < LARGE; i++)
        large[i] = (char)(i * 7 + i / 1000);
    redisReply *r = say(&d, "ECHO", large, LARGE);
    CHECK(r && r->type == REDIS_REPLY_STRING && r->len == LARGE && memcmp(r->str, large, LARGE) == 0);
    freeReplyObject(r);
    CHECK_STR(redis_dialed_why(&d), "");
    redis_hang_up(&d);
    redis_hang_up(&d);
    free(large);
    SSL_CTX_free(ctx);
}

/* What a connection that TLS refuses says. */
static void refused(const char *host, const char *authority, const char *c, const char *k, const char *says)
{
    SSL_CTX *ctx = context(authority, c, k);
    const struct redis_dial how = {.host = host, .port = tls_port, .tls = ctx, .limit_s = 5};
    struct redis_dialed d;
    struct error e;
    CHECK(redis_dial(&d, &how, &e) == RC_OK);
    CHECK(!is_status(say(&d, "SELECT", "0", 1)));
    const char *why = redis_dialed_why(&d);
    bool told = strstr(why, says) ||
                (c != other_cert &&
                 (strstr(why, "reset") || strstr(why, "Broken pipe"))); /* sooner than its reason could be read */
    if (!told)
        fprintf(stderr, "it says: %s, %s\n", why, d.c->errstr);
    CHECK(told);
    redis_hang_up(&d);
    SSL_CTX_free(ctx);
}

static void test_refusals(void)
{
    refused("127.0.0.1", alien, other_cert, other_key, "certificate refused: ");
    refused("localhost", ca, other_cert, other_key, "certificate refused: hostname mismatch");
    refused("127.0.0.1", ca, NULL, NULL, "TLS: ");
    refused("127.0.0.1", ca, alien, alien_key, "TLS: ");
}

/* Nobody answers the handshake; nobody is there at all. */
static void test_silence(void)
{
    SSL_CTX *ctx = context(ca, NULL, NULL);
    int port, fd = peer_listen(&port);
    struct redis_dial how = {.host = "127.0.0.1", .port = port, .tls = ctx, .limit_s = 1};
    struct redis_dialed d;
    struct error e;
    int64_t before = peer_ms();
    CHECK(redis_dial(&d, &how, &e) == RC_OK);
    CHECK(!is_status(say(&d, "SELECT", "0", 1)));
    redis_hang_up(&d);
    CHECK(peer_ms() - before < 30000); /* nobody ever answers */
    close(fd);
    how.port = peer_free_port();
    CHECK(redis_dial(&d, &how, &e) == RC_IO && !d.c && !d.pump);
    SSL_CTX_free(ctx);
}

struct got {
    int called;
    size_t n;
    bool nothing;
};

static void on_reply(const redisReply *reply, void *arg)
{
    struct got *g = arg;
    g->called++;
    g->nothing = !reply;
    g->n = reply ? reply->len : 0;
}

static struct redis_link *link_new(SSL_CTX *ctx)
{
    struct redis_link *l = NULL;
    struct error e;
    const struct redis_link_options o = {.loop = loop,
                                         .clock = &clock_system,
                                         .log = &log_,
                                         .area = "test",
                                         .down_text = "down",
                                         .setting = "test",
                                         .host = "127.0.0.1",
                                         .tls = ctx,
                                         .port = tls_port,
                                         .timeout_ms = 20000, /* nobody waits in vain */
                                         .reply_bytes_max = LARGE * 2,
                                         .commands_max = 100};
    CHECK(redis_link_new(&l, &o, &e) == RC_OK);
    SSL_CTX_free(ctx); /* it has its own */
    return l;
}

static bool comes_up(struct redis_link *l)
{
    for (int64_t end = peer_ms() + 20000; peer_ms() < end && !redis_link_ready(l);)
        peer_pump(loop);
    return redis_link_ready(l);
}

static void test_on_a_loop(void)
{
    struct redis_link *l = link_new(context(ca, other_cert, other_key));
    CHECK(comes_up(l));
    char *large = spw_calloc(1, LARGE);
    const char *argv[] = {"ECHO", large};
    const size_t lengths[] = {4, LARGE};
    struct got got[6] = {0};
    for (int i = 0; i < 5; i++) /* more than all buffers on the way hold */
        CHECK(redis_link_send(l, 2, argv, lengths, on_reply, &got[i]));
    for (int i = 0; i < 5; i++)
        CHECK(peer_wait(loop, &got[i].called, 1, 20000) && got[i].n == LARGE);
    help_server_kill(&server); /* under way: answered with nothing, and it comes back */
    if (redis_link_send(l, 2, argv, lengths, on_reply, &got[5]))
        CHECK(peer_wait(loop, &got[5].called, 1, 8000) && got[5].nothing);
    for (int64_t end = peer_ms() + 20000; peer_ms() < end && redis_link_ready(l);)
        peer_pump(loop);
    CHECK(!redis_link_ready(l) && start() && comes_up(l));
    CHECK(redis_link_stats(l).connects == 2);
    redis_link_free(l);
    free(large);
    l = link_new(context(alien, other_cert, other_key));
    peer_run_ms(loop, 300);
    CHECK(!redis_link_ready(l) && redis_link_stats(l).connects == 0);
    redis_link_free(l);
}

static bool answers(void)
{
    redisContext *c = help_server_connect(&server);
    if (c)
        redisFree(c);
    return c != NULL;
}

int main(void)
{
    CHECK(mkdtemp(folder) != NULL);
    make_files();
    signal(SIGPIPE, SIG_IGN);
    if (!start()) {
        printf("skipped: redis over TLS: there is no redis-server\n");
        return TEST_RESULT();
    }
    loop = event_base_new();
    log_ = (struct log){.fd = 2, .level = LOG_ERROR, .clock = &clock_system, .program = "test"};
    CHECK(answers());
    TEST(test_blocking);
    TEST(test_refusals);
    TEST(test_silence);
    TEST(test_on_a_loop);
    event_base_free(loop);
    help_server_kill(&server);
    help_server_clean(&server);
    struct help_server mine = {0};
    snprintf(mine.folder, sizeof mine.folder, "%s", folder);
    help_server_clean(&mine);
    return TEST_RESULT();
}
