/* The connection to Redis through hiredis' asynchronous API. Three things are ours because that API (0.14 as in Debian
 * 12) has none of them or does them in a way that a loop cannot bear: time limits; names, which it would look up
 * blocking; and mistrust: replies that nobody asked for trip an assertion there, and a reply may be as large as it
 * likes. Its reader is given functions of ours that refuse both before anything is made of them. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/cache/redis_internal.h"

#define BACKOFF_MAX_MS 5000

/* ---- hiredis on libevent ---------------------------------------------------------------------------------------- */

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct redis *r = arg;
    (void)fd, (void)what;
    redisAsyncHandleRead(r->ac);
    if (r->ac && r->ac->c.reader->len > r->reply_bytes_max)
        redis_link_lost(r, "a reply is larger than any value may be");
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    struct redis *r = arg;
    (void)fd, (void)what;
    redisAsyncHandleWrite(r->ac);
}

static void add_read(void *arg)
{
    event_add(((struct redis *)arg)->readable, NULL);
}

static void del_read(void *arg)
{
    event_del(((struct redis *)arg)->readable);
}

static void add_write(void *arg)
{
    event_add(((struct redis *)arg)->writable, NULL);
}

static void del_write(void *arg)
{
    event_del(((struct redis *)arg)->writable);
}

/* Called for every context once, when hiredis is done with it, which is before the next one is made. */
static void drop_events(void *arg)
{
    struct redis *r = arg;
    if (r->readable)
        event_free(r->readable);
    if (r->writable)
        event_free(r->writable);
    r->readable = r->writable = NULL;
}

/* ---- the reader's mistrust -------------------------------------------------------------------------------------- */

#if HIREDIS_MAJOR >= 1
typedef size_t array_length;
#else
typedef int array_length;
#endif

/* Was this reply asked for? None of our commands is answered with more than one value. */
static bool expected(const redisReadTask *task)
{
    struct redis *r = task->privdata;
    if (task->parent || r->replies_due == 0)
        return false;
    r->replies_due--;
    return true;
}

static void *make_string(const redisReadTask *task, char *s, size_t n)
{
    return expected(task) ? ((struct redis *)task->privdata)->makers_own->createString(task, s, n) : NULL;
}

static void *make_integer(const redisReadTask *task, long long v)
{
    return expected(task) ? ((struct redis *)task->privdata)->makers_own->createInteger(task, v) : NULL;
}

static void *make_nil(const redisReadTask *task)
{
    return expected(task) ? ((struct redis *)task->privdata)->makers_own->createNil(task) : NULL;
}

static void *make_array(const redisReadTask *task, array_length n)
{
    (void)task, (void)n;
    return NULL; /* the reader takes that for "no memory" and gives the connection up */
}

static void distrust(struct redis *r)
{
    redisReader *reader = r->ac->c.reader;
    r->makers_own = reader->fn;
    r->makers = *reader->fn;
    r->makers.createString = make_string;
    r->makers.createInteger = make_integer;
    r->makers.createNil = make_nil;
    r->makers.createArray = make_array;
    reader->fn = &r->makers;
    reader->privdata = r;
    r->replies_due = 0;
}

/* ---- up and down ------------------------------------------------------------------------------------------------ */

static void go_down(struct redis *r, const char *why)
{
    if (r->state == REDIS_UP)
        r->disconnects++;
    if (!r->told)
        log_warn(r->log, "cache", "redis is not there; until it is, nothing is found in the cache", LOG_S("why", why),
                 LOG_S("host", r->host), LOG_I("port", r->port));
    r->told = true;
    r->state = REDIS_DOWN;
    r->late_in_a_row = 0;
    redis_give_up(r);
    redis_arm(r, clock_now(r->clock).ns + r->backoff_ms * NS_PER_MS);
    r->backoff_ms = r->backoff_ms * 2 < BACKOFF_MAX_MS ? r->backoff_ms * 2 : BACKOFF_MAX_MS;
}

void redis_link_lost(struct redis *r, const char *why)
{
    redisAsyncContext *ac = r->ac;
    r->ac = NULL;
    go_down(r, why);
    if (ac) {
        ac->data = NULL;
        redisAsyncFree(ac); /* within a reply's callback hiredis puts it off until that returns */
    }
}

/* hiredis frees the context itself after these two. */
static void on_connect(const redisAsyncContext *ac, int status)
{
    struct redis *r = ac->data;
    if (!r || status == REDIS_OK)
        return;
    r->ac = NULL;
    go_down(r, ac->c.errstr);
}

static void on_disconnect(const redisAsyncContext *ac, int status)
{
    struct redis *r = ac->data;
    (void)status;
    if (!r)
        return;
    r->ac = NULL;
    go_down(r, ac->errstr && ac->errstr[0] ? ac->errstr : "closed");
}

void redis_link_ready(struct redis *r)
{
    r->state = REDIS_UP;
    r->connects++;
    r->told = false;
    redis_arm(r, 0);
    log_info(r->log, "cache", "redis is there", LOG_S("host", r->host), LOG_I("port", r->port));
}

static bool send_words(struct redis *r, enum command_kind kind, const char *a, const char *b, const char *c)
{
    const char *argv[3] = {a, b, c};
    size_t lengths[3];
    int n = 0;
    for (; n < 3 && argv[n]; n++)
        lengths[n] = strlen(argv[n]);
    return redis_send(r, &(struct command){.kind = kind}, n, argv, lengths);
}

/* All at once: what of it fails is seen when the replies come. */
static bool introduce(struct redis *r)
{
    char db[16];
    bool sent = true;
    snprintf(db, sizeof db, "%d", r->db);
    if (r->password)
        sent = r->username ? send_words(r, COMMAND_AUTH, "AUTH", r->username, r->password)
                           : send_words(r, COMMAND_AUTH, "AUTH", r->password, NULL);
    if (sent && r->db)
        sent = send_words(r, COMMAND_SELECT, "SELECT", db, NULL);
    return sent && send_words(r, COMMAND_PING, "PING", NULL, NULL);
}

static bool attach(struct redis *r)
{
    redisAsyncContext *ac = r->ac;
    ac->data = r;
    ac->ev.data = r;
    ac->ev.addRead = add_read;
    ac->ev.delRead = del_read;
    ac->ev.addWrite = add_write;
    ac->ev.delWrite = del_write;
    ac->ev.cleanup = drop_events;
    r->readable = event_new(r->loop, ac->c.fd, EV_READ, on_readable, r);
    r->writable = event_new(r->loop, ac->c.fd, EV_WRITE, on_writable, r);
    if (!r->readable || !r->writable)
        return false;
    distrust(r);
    redisAsyncSetConnectCallback(ac, on_connect); /* also begins to wait for the connection */
    redisAsyncSetDisconnectCallback(ac, on_disconnect);
    return true;
}

/* address: numeric, or a path behind "unix:". */
static void connect_to(struct redis *r, const char *address)
{
    if (strncmp(address, "unix:", 5) == 0)
        r->ac = redisAsyncConnectUnix(address + 5);
    else
        r->ac = redisAsyncConnect(address, r->port);
    if (!r->ac || r->ac->err) {
        char why[128];
        snprintf(why, sizeof why, "%s", r->ac ? r->ac->errstr : "no memory");
        redis_link_lost(r, why);
        return;
    }
    if (!attach(r) || !introduce(r))
        redis_link_lost(r, "the event loop takes no event");
}

/* Each attempt takes the next of the host's addresses. */
static const struct evutil_addrinfo *choose(const struct redis *r, const struct evutil_addrinfo *list)
{
    const struct evutil_addrinfo *a;
    unsigned n = 0;
    for (a = list; a; a = a->ai_next)
        n++;
    a = list;
    for (unsigned i = n ? r->attempts % n : 0; i; i--)
        a = a->ai_next;
    return a;
}

static void print_address(const struct evutil_addrinfo *a, char *text, size_t size)
{
    const void *sa = a->ai_addr;
    if (a->ai_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)sa)->sin_addr, text, (socklen_t)size);
    else if (a->ai_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)sa)->sin6_addr, text, (socklen_t)size);
}

static void on_resolved(int result, struct evutil_addrinfo *list, void *arg)
{
    struct resolve *resolve = arg;
    struct redis *r = resolve->redis;
    char address[INET6_ADDRSTRLEN] = "";
    free(resolve);
    if (r && list)
        print_address(choose(r, list), address, sizeof address);
    if (list)
        evutil_freeaddrinfo(list);
    if (!r)
        return;
    r->resolving = NULL;
    if (r->state != REDIS_OPENING) /* too late for this attempt */
        return;
    r->attempts++;
    if (address[0])
        connect_to(r, address);
    else
        redis_link_lost(r, result ? evutil_gai_strerror(result) : "the name has no address");
}

void redis_link_open(struct redis *r)
{
    r->state = REDIS_OPENING;
    redis_arm(r, clock_now(r->clock).ns + r->connect_ns);
    if (!r->dns) {
        connect_to(r, r->host);
        return;
    }
    if (r->resolving) /* of an attempt that was given up; its answer is as good as a new one's */
        return;
    struct resolve *resolve = spw_calloc(1, sizeof *resolve);
    struct evutil_addrinfo hints = {.ai_family = AF_UNSPEC,
                                    .ai_socktype = SOCK_STREAM,
                                    .ai_protocol = IPPROTO_TCP,
                                    .ai_flags = EVUTIL_AI_ADDRCONFIG};
    resolve->redis = r;
    r->resolving = resolve;
    (void)evdns_getaddrinfo(r->dns, r->host, NULL, &hints, on_resolved, resolve); /* failures come by callback too */
}

static bool is_name(const char *host)
{
    struct in6_addr a;
    return strncmp(host, "unix:", 5) != 0 && inet_pton(AF_INET, host, &a) != 1 && inet_pton(AF_INET6, host, &a) != 1;
}

enum rc redis_link_init(struct redis *r, struct error *e)
{
    signal(SIGPIPE, SIG_IGN); /* hiredis writes without MSG_NOSIGNAL */
    r->backoff_ms = REDIS_BACKOFF_FIRST_MS;
    if (!is_name(r->host))
        return RC_OK;
    r->dns = evdns_base_new(r->loop, EVDNS_BASE_INITIALIZE_NAMESERVERS | EVDNS_BASE_DISABLE_WHEN_INACTIVE);
    if (r->dns)
        return RC_OK;
    r->dns = evdns_base_new(r->loop, 0); /* no usable resolv.conf: the hosts file alone may know the name */
    if (!r->dns)
        return error_set(e, RC_IO, "cache.redis.host: %s: no name resolver", r->host);
    (void)evdns_base_load_hosts(r->dns, "/etc/hosts");
    return RC_OK;
}

void redis_link_fini(struct redis *r)
{
    redisAsyncContext *ac = r->ac;
    r->ac = NULL;
    if (ac) {
        ac->data = NULL;
        redisAsyncFree(ac);
    }
    if (r->resolving)
        r->resolving->redis = NULL; /* on_resolved() frees it */
    if (r->dns)
        evdns_base_free(r->dns, 1);
}
