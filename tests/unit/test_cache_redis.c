/* Proves that a Redis which is dead, slow, wrong, hostile or asks for a password costs misses and nothing else: a
 * scripted server on loopback, byte by byte.
 * links: spw_sched_cache */
#include "tests/unit/test.h"

#include <netdb.h>
#include <sys/un.h>

#include "tests/unit/cache_help.h"

#define TIMEOUT_MS 400 /* a busy machine answers within it */
#define NIL        "$-1\r\n"

static struct event_base *loop;
static struct log log_;
static int listener, port;

/* ---- the server ---- */

struct fake {
    int fd;
    char in[1 << 17]; /* not yet consumed */
    size_t n;
    char *args[8]; /* of the newest command; owned */
    size_t lengths[8];
    int argc;
};

static void fake_forget(struct fake *f)
{
    for (int i = 0; i < f->argc; i++)
        free(f->args[i]);
    f->argc = 0;
}

/* "*N\r\n" or "$N\r\n" at *at; -1: not whole yet. */
static int take_count(const struct fake *f, size_t *at, char sign)
{
    const char *end = memchr(f->in + *at, '\n', f->n - *at);
    if (!end)
        return -1;
    CHECK(f->in[*at] == sign);
    int v = (int)strtol(f->in + *at + 1, NULL, 10);
    *at = (size_t)(end + 1 - f->in);
    return v;
}

static bool fake_parse(struct fake *f)
{
    size_t at = 0;
    int argc = f->n ? take_count(f, &at, '*') : -1;
    fake_forget(f);
    for (int i = 0; i < argc; i++) {
        int n = at < f->n ? take_count(f, &at, '$') : -1;
        if (n < 0 || at + (size_t)n + 2 > f->n)
            return false;
        f->args[i] = spw_strndup(f->in + at, (size_t)n);
        f->lengths[i] = (size_t)n;
        f->argc = i + 1;
        at += (size_t)n + 2;
    }
    if (argc < 0)
        return false;
    f->n -= at;
    memmove(f->in, f->in + at, f->n);
    return true;
}

/* The next command; its words are in args. */
static bool fake_command(struct fake *f, const char *name)
{
    int64_t end = peer_ms() + 3000;
    while (!fake_parse(f)) {
        ssize_t n = recv(f->fd, f->in + f->n, sizeof f->in - f->n, 0);
        if (n == 0 || peer_ms() > end)
            return false;
        if (n > 0)
            f->n += (size_t)n;
        else
            peer_pump(loop);
    }
    bool right = strcmp(f->args[0], name) == 0;
    if (!right)
        fprintf(stderr, "command %s instead of %s\n", f->args[0], name);
    return right;
}

static void fake_close(struct fake *f)
{
    close(f->fd);
    f->n = 0;
    fake_forget(f);
    free(f);
}

static struct fake *fake_accept(void)
{
    struct fake *f = spw_calloc(1, sizeof *f);
    f->fd = peer_accept(loop, listener, 8000);
    CHECK(f->fd >= 0);
    return f;
}

static void fake_say(const struct fake *f, const char *text)
{
    peer_send(loop, f->fd, text);
}

static bool fake_closed(const struct fake *f)
{
    char buf[256];
    int64_t end = peer_ms() + 3000;
    for (int i = 0; i < PEER_STEPS || peer_ms() < end; i++, peer_pump(loop)) {
        ssize_t n = recv(f->fd, buf, sizeof buf, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN))
            return true;
    }
    return false;
}

static struct fake *fake_welcome(const struct cache *c)
{
    struct fake *f = fake_accept();
    CHECK(fake_command(f, "PING"));
    fake_say(f, "+PONG\r\n");
    CHECK(help_reachable(loop, c, true, 3000));
    return f;
}

/* ---- the cache ---- */

static struct cache *cache_at(const char *host, int at_port, const char *username, const char *password, int db)
{
    struct cache *c = NULL;
    struct error e;
    struct cache_options o = {.mode = CACHE_REDIS,
                              .ttl_ms = 90000,
                              .entry_bytes_max = 30000,
                              .loop = loop,
                              .clock = &clock_system,
                              .log = &log_,
                              .redis = {.host = host,
                                        .port = at_port,
                                        .db = db,
                                        .username = username,
                                        .password = password,
                                        .timeout_ms = TIMEOUT_MS,
                                        .connect_ms = 1500}};
    CHECK(cache_new(&c, &o, &e) == RC_OK);
    return c;
}

static struct cache *cache_plain(void)
{
    return cache_at("127.0.0.1", port, NULL, NULL, 0);
}

static bool answered(const struct lookup *l, bool hit)
{
    bool called = peer_wait(loop, &l->called, 1, 3000);
    return called && l->called == 1 && l->hit == hit;
}

/* One lookup of `key`, which the server answers with these bytes. */
static bool ask(struct cache *c, struct fake *f, int key, const char *reply, size_t n, bool hit)
{
    struct lookup l;
    (void)help_get(c, key, &l);
    if (!fake_command(f, "GET"))
        return false;
    peer_send_n(loop, f->fd, reply, n);
    return answered(&l, hit) && (!hit || l.intact);
}

static bool ask_text(struct cache *c, struct fake *f, const char *reply, bool hit)
{
    return ask(c, f, 1, reply, strlen(reply), hit);
}

/* What SET brought, as a bulk reply. Caller frees. */
static char *stored(struct cache *c, struct fake *f, int key, int text, size_t *n)
{
    CHECK(help_put(c, key, text, 50) == RC_OK);
    CHECK(fake_command(f, "SET"));
    fake_say(f, "+OK\r\n");
    char *reply = spw_malloc(f->lengths[2] + 64);
    int head = snprintf(reply, 64, "$%zu\r\n", f->lengths[2]);
    memcpy(reply + head, f->args[2], f->lengths[2]);
    memcpy(reply + head + f->lengths[2], "\r\n", 2);
    *n = (size_t)head + f->lengths[2] + 2;
    return reply;
}

/* ---- tests ---- */

static void test_hit_and_miss(void)
{
    struct cache *c = cache_plain();
    struct lookup early;
    (void)help_get(c, 1, &early); /* before there is a connection: a miss at once */
    CHECK(answered(&early, false));
    struct fake *f = fake_welcome(c);
    CHECK(ask_text(c, f, NIL, false));
    CHECK_INT(f->argc, 2);
    CHECK(strncmp(f->args[1], "spillway:cache:1:", 17) == 0 && f->lengths[1] == 17 + 64);
    size_t n;
    char *value = stored(c, f, 1, 20, &n);
    CHECK_INT(f->argc, 5);
    CHECK_STR(f->args[3], "PX");
    CHECK_STR(f->args[4], "90000");
    CHECK(ask(c, f, 1, value, n, true));
    CHECK(ask(c, f, 2, value, n, false)); /* another key's value */
    value[n / 2] ^= 1;
    CHECK(ask(c, f, 1, value, n, false)); /* damaged */
    value[n / 2] ^= 1;
    CHECK(ask_text(c, f, "$0\r\n\r\n", false));
    CHECK(ask_text(c, f, "$5\r\nhello\r\n", false));
    CHECK(ask(c, f, 1, value, n, true));
    struct cache_stats s = cache_stats(c);
    CHECK(s.hits == 2 && s.misses == 6 && s.stores == 1 && s.errors == 4 && s.timeouts == 0 && s.connects == 1);
    free(value);
    cache_free(c);
    CHECK(fake_closed(f));
    fake_close(f);
}

static void test_pipeline_and_cancel(void)
{
    struct cache *c = cache_plain();
    struct fake *f = fake_welcome(c);
    struct lookup l[4];
    struct cache_get *get[4];
    for (int i = 0; i < 4; i++)
        get[i] = help_get(c, i, &l[i]);
    cache_get_cancel(get[1]);
    for (int i = 0; i < 4; i++)
        CHECK(fake_command(f, "GET"));
    fake_say(f, NIL NIL NIL);
    CHECK(answered(&l[0], false) && answered(&l[2], false));
    CHECK(l[1].called == 0 && l[3].called == 0);
    cache_free(c); /* with one under way */
    CHECK(l[3].called == 0);
    fake_close(f);
}

static void test_auth(void)
{
    struct cache *c = cache_at("127.0.0.1", port, "user", "secret", 3);
    struct fake *f = fake_accept();
    CHECK(fake_command(f, "AUTH") && f->argc == 3);
    CHECK_STR(f->args[1], "user");
    CHECK_STR(f->args[2], "secret");
    CHECK(fake_command(f, "SELECT"));
    CHECK_STR(f->args[1], "3");
    CHECK(fake_command(f, "PING"));
    fake_say(f, "-WRONGPASS invalid username-password pair or user is disabled.\r\n-NOAUTH\r\n-NOAUTH\r\n");
    CHECK(fake_closed(f));
    fake_close(f);
    CHECK(!cache_stats(c).reachable && !help_hit(loop, c, 1, NULL));
    f = fake_accept(); /* it tries again */
    CHECK(fake_command(f, "AUTH") && fake_command(f, "SELECT") && fake_command(f, "PING"));
    fake_say(f, "+OK\r\n+OK\r\n+PONG\r\n");
    CHECK(help_reachable(loop, c, true, 1000));
    CHECK(ask_text(c, f, NIL, false));
    cache_free(c);
    fake_close(f);
    /* A password alone; a server that wants one; one that is still loading. */
    c = cache_at("127.0.0.1", port, NULL, "secret", 0);
    f = fake_accept();
    CHECK(fake_command(f, "AUTH") && f->argc == 2);
    cache_free(c);
    fake_close(f);
    c = cache_plain();
    f = fake_accept();
    CHECK(fake_command(f, "PING"));
    fake_say(f, "-NOAUTH Authentication required.\r\n");
    CHECK(fake_closed(f) && !cache_stats(c).reachable);
    fake_close(f);
    f = fake_accept();
    CHECK(fake_command(f, "PING"));
    fake_say(f, "-LOADING Redis is loading the dataset in memory\r\n");
    CHECK(fake_closed(f));
    fake_close(f);
    fake_close(fake_welcome(c));
    cache_free(c);
}

static void test_dead(void)
{
    struct cache *c = cache_at("127.0.0.1", peer_free_port(), NULL, NULL, 0);
    for (int i = 0; i < 20; i++) {
        CHECK(!help_hit(loop, c, i, NULL));
        CHECK(help_put(c, i, 10, 0) == RC_OK);
        peer_run_ms(loop, 10);
    }
    struct cache_stats s = cache_stats(c);
    CHECK(!s.reachable && s.misses == 20 && s.dropped == 20 && s.connects == 0);
    CHECK(s.timeouts == 0); /* nobody waits for a Redis that is not there */
    cache_free(c);
    /* One that accepts and is silent: given up after connect_ms, then tried again. */
    c = cache_at("127.0.0.1", port, NULL, NULL, 0);
    struct fake *f = fake_accept();
    CHECK(fake_command(f, "PING"));
    CHECK(fake_closed(f));
    fake_close(f);
    fake_close(fake_welcome(c));
    cache_free(c);
}

static void test_slow(void)
{
    struct cache *c = cache_plain();
    struct fake *f = fake_welcome(c);
    struct lookup l;
    size_t n;
    char *value = stored(c, f, 1, 5, &n);
    int64_t before = peer_ms();
    (void)help_get(c, 1, &l);
    CHECK(fake_command(f, "GET"));
    CHECK(answered(&l, false));
    CHECK(peer_ms() - before >= TIMEOUT_MS - 1);
    peer_send_n(loop, f->fd, value, n); /* too late; taken off the line and dropped */
    CHECK(ask(c, f, 1, value, n, true));
    CHECK(l.called == 1);
    CHECK_INT((int)cache_stats(c).timeouts, 1);
    /* Three late ones in a row: the connection is given up, and until there is a new one everything misses at once. */
    for (int i = 0; i < 3; i++) {
        CHECK(cache_stats(c).reachable);
        (void)help_get(c, 1, &l);
        CHECK(fake_command(f, "GET"));
        CHECK(answered(&l, false));
    }
    CHECK(!cache_stats(c).reachable);
    CHECK(fake_closed(f));
    CHECK(!help_hit(loop, c, 1, NULL) && cache_stats(c).timeouts == 4);
    fake_close(f);
    f = fake_welcome(c);
    CHECK(ask(c, f, 1, value, n, true));
    struct cache_stats s = cache_stats(c);
    CHECK(s.timeouts == 4 && s.connects == 2 && s.disconnects == 1);
    /* Many at once, all late. */
    struct lookup many[50];
    for (int i = 0; i < 50; i++)
        (void)help_get(c, i, &many[i]);
    for (int i = 0; i < 50; i++)
        CHECK(answered(&many[i], false));
    CHECK(!cache_stats(c).reachable);
    free(value);
    cache_free(c);
    fake_close(f);
}

/* Replies that are wrong but whole: a miss, and the connection stays. */
static void test_wrong_type(void)
{
    struct cache *c = cache_plain();
    struct fake *f = fake_welcome(c);
    CHECK(ask_text(c, f, "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n", false));
    CHECK(ask_text(c, f, ":5\r\n", false));
    CHECK(ask_text(c, f, "+OK\r\n", false));
    CHECK(ask_text(c, f, "*-1\r\n", false)); /* another way to say nothing */
    CHECK(help_put(c, 1, 5, 0) == RC_OK);
    CHECK(fake_command(f, "SET"));
    fake_say(f, "-OOM command not allowed when used memory > 'maxmemory'.\r\n");
    CHECK(ask_text(c, f, NIL, false));
    CHECK(cache_stats(c).reachable);
    CHECK_INT((int)cache_stats(c).errors, 4);
    cache_free(c);
    fake_close(f);
}

/* What breaks the protocol, or says what nobody asked: the connection is closed, the lookup misses, a new one works. */
static void test_hostile(void)
{
    static const char *const replies[] = {"*1\r\n$1\r\na\r\n",
                                          "*1000000000\r\n",
                                          NIL NIL,
                                          NIL "-ERR and another thing\r\n",
                                          "?what\r\n",
                                          "$999999999999999999999\r\n",
                                          "$-7\r\nx\r\n",
                                          "HTTP/1.1 200 OK\r\n\r\n"};
    struct cache *c = cache_plain();
    struct fake *f = fake_welcome(c);
    for (size_t i = 0; i < sizeof replies / sizeof replies[0]; i++) {
        CHECK(ask_text(c, f, replies[i], false));
        CHECK(help_reachable(loop, c, false, 1000));
        fake_close(f);
        f = fake_welcome(c);
        CHECK(ask_text(c, f, NIL, false));
    }
    fake_say(f, NIL); /* with nothing asked at all */
    CHECK(fake_closed(f));
    fake_close(f);
    f = fake_welcome(c);
    /* Half a reply, then silence or the end. */
    struct lookup l;
    (void)help_get(c, 1, &l);
    CHECK(fake_command(f, "GET"));
    fake_say(f, "$100\r\nabc");
    CHECK(answered(&l, false));
    fake_close(f);
    f = fake_welcome(c);
    CHECK_INT((int)cache_stats(c).disconnects, (int)(sizeof replies / sizeof replies[0]) + 2);
    cache_free(c);
    fake_close(f);
}

/* A reply that is larger than any entry is cut off while it arrives. */
static void test_too_large(void)
{
    struct cache *c = cache_plain();
    struct fake *f = fake_welcome(c);
    struct lookup l;
    static char block[65536];
    (void)help_get(c, 1, &l);
    CHECK(fake_command(f, "GET"));
    fake_say(f, "$500000000\r\n");
    bool closed = false;
    size_t sent = 0;
    for (int64_t end = peer_ms() + 3000; !closed && peer_ms() < end;) {
        ssize_t n = send(f->fd, block, sizeof block, MSG_NOSIGNAL);
        closed = n < 0 && errno != EAGAIN;
        sent += n > 0 ? (size_t)n : 0;
        peer_pump(loop);
    }
    CHECK(closed && answered(&l, false) && sent < (64u << 20));
    cache_free(c);
    fake_close(f);
}

/* Stores wait for a Redis that reads nothing only up to a bound, and for its deadline. */
static void test_store_bound(void)
{
    struct cache *c = cache_plain();
    struct fake *f = fake_welcome(c);
    for (int i = 0; i < 1000; i++)
        CHECK(help_put(c, i, 29000, 0) == RC_OK);
    CHECK(cache_stats(c).dropped > 400);
    CHECK(help_reachable(loop, c, false, 3000)); /* late, all of them */
    CHECK(help_put(c, 1, 29000, 0) == RC_OK);
    cache_free(c);
    fake_close(f);
}

static void test_addresses(void)
{
    char path[64];
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(path, sizeof path, "/tmp/spw_cache_%d.sock", (int)getpid());
    memcpy(a.sun_path, path, strlen(path) + 1);
    int old = listener, fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    unlink(path);
    CHECK(bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, 8) == 0);
    char *host = spw_asprintf("unix:%s", path);
    struct cache *c = cache_at(host, 0, NULL, NULL, 0);
    listener = fd;
    struct fake *f = fake_welcome(c);
    CHECK(ask_text(c, f, NIL, false));
    cache_free(c);
    fake_close(f);
    listener = old;
    close(fd);
    unlink(path);
    free(host);
    /* A name: every address of it gets its turn. */
    c = cache_at("localhost", port, NULL, NULL, 0);
    f = fake_welcome(c);
    CHECK(ask_text(c, f, NIL, false));
    cache_free(c);
    fake_close(f);
    /* One that is not known costs nothing but misses; it may be freed while it is looked up. */
    c = cache_at("no-such-host.invalid", port, NULL, NULL, 0);
    CHECK(!help_hit(loop, c, 1, NULL));
    peer_run_ms(loop, 20);
    cache_free(c);
    peer_run_ms(loop, 20);
}

int main(void)
{
    loop = event_base_new();
    log_ = help_log();
    listener = peer_listen(&port);
    TEST(test_hit_and_miss);
    TEST(test_pipeline_and_cancel);
    TEST(test_auth);
    TEST(test_dead);
    TEST(test_slow);
    TEST(test_wrong_type);
    TEST(test_hostile);
    TEST(test_too_large);
    TEST(test_store_bound);
    TEST(test_addresses);
    close(listener);
    event_base_free(loop);
    return TEST_RESULT();
}
