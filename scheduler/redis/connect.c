/* The connection itself: hiredis on libevent, names that are looked up without blocking, and mistrust: hiredis' reader
 * is given functions of ours that refuse replies which nobody asked for, and too large ones, before anything is made of
 * them. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "scheduler/redis/link_internal.h"

#define BACKOFF_MAX_MS 5000

/* ---- hiredis on libevent ---------------------------------------------------------------------------------------- */

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct redis_link *l = arg;
    (void)fd, (void)what;
    redisAsyncHandleRead(l->ac);
    if (l->ac && l->ac->c.reader->len > l->o.reply_bytes_max)
        redis_link_lose(l, "a reply is larger than any value may be");
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    struct redis_link *l = arg;
    (void)fd, (void)what;
    redisAsyncHandleWrite(l->ac);
}

static void add_read(void *arg)
{
    event_add(((struct redis_link *)arg)->readable, NULL);
}

static void del_read(void *arg)
{
    event_del(((struct redis_link *)arg)->readable);
}

static void add_write(void *arg)
{
    event_add(((struct redis_link *)arg)->writable, NULL);
}

static void del_write(void *arg)
{
    event_del(((struct redis_link *)arg)->writable);
}

/* Called for every context once, when hiredis is done with it, which is before the next one is made. */
static void drop_events(void *arg)
{
    struct redis_link *l = arg;
    if (l->readable)
        event_free(l->readable);
    if (l->writable)
        event_free(l->writable);
    l->readable = l->writable = NULL;
    if (l->tunnel)
        snprintf(l->tunnel_why, sizeof l->tunnel_why, "%s", redis_tunnel_why(l->tunnel));
    redis_tunnel_free(l->tunnel);
    l->tunnel = NULL;
}

/* ---- the reader's mistrust -------------------------------------------------------------------------------------- */

#if HIREDIS_MAJOR >= 1
typedef size_t array_length;
#else
typedef int array_length;
#endif

/* Was this reply asked for? Parts of a list belong to the reply that it is. */
static bool expected(const redisReadTask *task)
{
    struct redis_link *l = task->privdata;
    if (task->parent)
        return l->o.replies == REDIS_LISTS;
    if (l->replies_due == 0)
        return false;
    l->replies_due--;
    return true;
}

static const redisReplyObjectFunctions *own(const redisReadTask *task)
{
    return ((struct redis_link *)task->privdata)->makers_own;
}

static void *make_string(const redisReadTask *task, char *s, size_t n)
{
    return expected(task) ? own(task)->createString(task, s, n) : NULL;
}

static void *make_integer(const redisReadTask *task, long long v)
{
    return expected(task) ? own(task)->createInteger(task, v) : NULL;
}

static void *make_nil(const redisReadTask *task)
{
    return expected(task) ? own(task)->createNil(task) : NULL;
}

/* NULL: the reader takes that for "no memory" and gives the connection up. */
static void *make_array(const redisReadTask *task, array_length n)
{
    const struct redis_link *l = task->privdata;
    if (l->o.replies != REDIS_LISTS || task->parent || n > REDIS_LIST_MAX || !expected(task))
        return NULL;
    return own(task)->createArray(task, n);
}

static void distrust(struct redis_link *l)
{
    redisReader *reader = l->ac->c.reader;
    l->makers_own = reader->fn;
    l->makers = *reader->fn;
    l->makers.createString = make_string;
    l->makers.createInteger = make_integer;
    l->makers.createNil = make_nil;
    l->makers.createArray = make_array;
    reader->fn = &l->makers;
    reader->privdata = l;
    l->replies_due = 0;
}

/* ---- up and down ------------------------------------------------------------------------------------------------ */

static void go_down(struct redis_link *l, const char *why)
{
    if (l->tunnel_why[0]) /* hiredis knows only that its end was closed */
        why = l->tunnel_why;
    if (l->state == REDIS_UP)
        l->disconnects++;
    if (!l->told)
        log_warn(l->o.log, l->o.area, l->o.down_text, LOG_S("why", why), LOG_S("host", l->o.host),
                 LOG_I("port", l->o.port));
    l->told = true;
    l->state = REDIS_DOWN;
    l->late_in_a_row = 0;
    link_give_up(l);
    link_arm(l, clock_now(l->o.clock).ns + l->backoff_ms * NS_PER_MS);
    l->backoff_ms = l->backoff_ms * 2 < BACKOFF_MAX_MS ? l->backoff_ms * 2 : BACKOFF_MAX_MS;
    if (l->o.on_down)
        l->o.on_down(l->o.arg);
}

void redis_link_lose(struct redis_link *l, const char *why)
{
    redisAsyncContext *ac = l->ac;
    l->ac = NULL;
    go_down(l, why);
    if (ac) {
        ac->data = NULL;
        redisAsyncFree(ac); /* within a reply's callback hiredis puts it off until that returns */
    }
}

/* hiredis frees the context itself after these two. */
static void on_connect(const redisAsyncContext *ac, int status)
{
    struct redis_link *l = ac->data;
    if (!l || status == REDIS_OK)
        return;
    l->ac = NULL;
    go_down(l, ac->c.errstr);
}

static void on_disconnect(const redisAsyncContext *ac, int status)
{
    struct redis_link *l = ac->data;
    (void)status;
    if (!l)
        return;
    l->ac = NULL;
    go_down(l, ac->errstr && ac->errstr[0] ? ac->errstr : "closed");
}

void link_up(struct redis_link *l)
{
    l->state = REDIS_UP;
    l->connects++;
    l->told = false;
    link_arm(l, 0);
    log_info(l->o.log, l->o.area, "redis is there", LOG_S("host", l->o.host), LOG_I("port", l->o.port));
    if (l->o.on_up)
        l->o.on_up(l->o.arg);
}

static bool send_words(struct redis_link *l, enum command_kind kind, const char *a, const char *b, const char *c)
{
    const char *argv[3] = {a, b, c};
    size_t lengths[3];
    int n = 0;
    for (; n < 3 && argv[n]; n++)
        lengths[n] = strlen(argv[n]);
    return link_send(l, &(struct redis_command){.kind = kind}, n, argv, lengths) != NULL;
}

/* All at once: what of it fails is seen when the replies come. */
static bool introduce(struct redis_link *l)
{
    char db[16];
    bool sent = true;
    snprintf(db, sizeof db, "%d", l->o.db);
    if (l->o.password)
        sent = l->o.username ? send_words(l, COMMAND_AUTH, "AUTH", l->o.username, l->o.password)
                             : send_words(l, COMMAND_AUTH, "AUTH", l->o.password, NULL);
    if (sent && l->o.db)
        sent = send_words(l, COMMAND_SELECT, "SELECT", db, NULL);
    return sent && send_words(l, COMMAND_PING, "PING", NULL, NULL);
}

static bool attach(struct redis_link *l)
{
    redisAsyncContext *ac = l->ac;
    ac->data = l;
    ac->ev.data = l;
    ac->ev.addRead = add_read;
    ac->ev.delRead = del_read;
    ac->ev.addWrite = add_write;
    ac->ev.delWrite = del_write;
    ac->ev.cleanup = drop_events;
    l->readable = event_new(l->o.loop, ac->c.fd, EV_READ, on_readable, l);
    l->writable = event_new(l->o.loop, ac->c.fd, EV_WRITE, on_writable, l);
    if (!l->readable || !l->writable)
        return false;
    distrust(l);
    redisAsyncSetConnectCallback(ac, on_connect); /* also begins to wait for the connection */
    redisAsyncSetDisconnectCallback(ac, on_disconnect);
    return true;
}

/* What hiredis has connected becomes the tunnel's, and hiredis gets the tunnel's end. */
static enum rc dig_tunnel(struct redis_link *l, struct error *e)
{
    struct redis_tunnel_options o = {.loop = l->o.loop, .tls = l->o.tls, .host = l->o.host};
    int inner;

    o.tcp = fcntl(l->ac->c.fd, F_DUPFD_CLOEXEC, 0);
    if (o.tcp < 0)
        return error_set(e, RC_IO, "%s", strerror(errno));
    enum rc rc = redis_tunnel_new(&l->tunnel, &o, &inner, e);
    if (rc != RC_OK)
        return rc;
#if HIREDIS_MAJOR >= 1
    redisOptions end = {.type = REDIS_CONN_USERFD, .endpoint.fd = inner};
    redisAsyncFree(l->ac);
    l->ac = redisAsyncConnectWithOptions(&end);
    if (!l->ac || l->ac->err)
        rc = error_set(e, RC_IO, "%s", l->ac ? l->ac->errstr : "no memory");
#else /* it takes no descriptor of ours, but is not told whose the one is that it has */
    if (dup3(inner, l->ac->c.fd, O_CLOEXEC) < 0)
        rc = error_set(e, RC_IO, "%s", strerror(errno));
    close(inner);
#endif
    return rc;
}

/* address: numeric, or a path behind "unix:". */
static void connect_to(struct redis_link *l, const char *address)
{
    struct error e;
    l->tunnel_why[0] = '\0';
    if (strncmp(address, "unix:", 5) == 0)
        l->ac = redisAsyncConnectUnix(address + 5);
    else
        l->ac = redisAsyncConnect(address, l->o.port);
    if (!l->ac || l->ac->err) {
        char why[128];
        snprintf(why, sizeof why, "%s", l->ac ? l->ac->errstr : "no memory");
        redis_link_lose(l, why);
        return;
    }
    if (l->o.tls && dig_tunnel(l, &e) != RC_OK) {
        drop_events(l); /* hiredis does not know of it yet */
        redis_link_lose(l, e.message);
    } else if (!attach(l) || !introduce(l)) {
        redis_link_lose(l, "the event loop takes no event");
    }
}

/* Each attempt takes the next of the host's addresses. */
static const struct evutil_addrinfo *choose(const struct redis_link *l, const struct evutil_addrinfo *list)
{
    const struct evutil_addrinfo *a;
    unsigned n = 0;
    for (a = list; a; a = a->ai_next)
        n++;
    a = list;
    for (unsigned i = n ? l->attempts % n : 0; i; i--)
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
    struct redis_link *l = resolve->link;
    char address[INET6_ADDRSTRLEN] = "";
    free(resolve);
    if (l && list)
        print_address(choose(l, list), address, sizeof address);
    if (list)
        evutil_freeaddrinfo(list);
    if (!l)
        return;
    l->resolving = NULL;
    if (l->state != REDIS_OPENING) /* too late for this attempt */
        return;
    l->attempts++;
    if (address[0])
        connect_to(l, address);
    else
        redis_link_lose(l, result ? evutil_gai_strerror(result) : "the name has no address");
}

void redis_link_open(struct redis_link *l)
{
    l->state = REDIS_OPENING;
    link_arm(l, clock_now(l->o.clock).ns + l->connect_ns);
    if (!l->dns) {
        connect_to(l, l->o.host);
        return;
    }
    if (l->resolving) /* of an attempt that was given up; its answer is as good as a new one's */
        return;
    struct resolve *resolve = spw_calloc(1, sizeof *resolve);
    struct evutil_addrinfo hints = {.ai_family = AF_UNSPEC,
                                    .ai_socktype = SOCK_STREAM,
                                    .ai_protocol = IPPROTO_TCP,
                                    .ai_flags = EVUTIL_AI_ADDRCONFIG};
    resolve->link = l;
    l->resolving = resolve;
    (void)evdns_getaddrinfo(l->dns, l->o.host, NULL, &hints, on_resolved, resolve); /* failures come by callback too */
}

static bool is_name(const char *host)
{
    struct in6_addr a;
    return strncmp(host, "unix:", 5) != 0 && inet_pton(AF_INET, host, &a) != 1 && inet_pton(AF_INET6, host, &a) != 1;
}

enum rc link_connect_init(struct redis_link *l, struct error *e)
{
    signal(SIGPIPE, SIG_IGN); /* hiredis writes without MSG_NOSIGNAL */
    l->backoff_ms = REDIS_BACKOFF_FIRST_MS;
    if (!is_name(l->o.host))
        return RC_OK;
    l->dns = evdns_base_new(l->o.loop, EVDNS_BASE_INITIALIZE_NAMESERVERS | EVDNS_BASE_DISABLE_WHEN_INACTIVE);
    if (l->dns)
        return RC_OK;
    l->dns = evdns_base_new(l->o.loop, 0); /* no usable resolv.conf: the hosts file alone may know the name */
    if (!l->dns)
        return error_set(e, RC_IO, "%s: %s: no name resolver", l->o.setting, l->o.host);
    (void)evdns_base_load_hosts(l->dns, "/etc/hosts");
    return RC_OK;
}

void link_connect_fini(struct redis_link *l)
{
    redisAsyncContext *ac = l->ac;
    l->ac = NULL;
    if (ac) {
        ac->data = NULL;
        redisAsyncFree(ac);
    }
    if (l->resolving)
        l->resolving->link = NULL; /* on_resolved() frees it */
    if (l->dns)
        evdns_base_free(l->dns, 1);
}
