/* Who is here: the table of those that joined, their silence, orders to them. */
#include "scheduler/join/join_internal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"

#define TICK_MS     100
#define CONNECTIONS 1024
#define CUT_MS_MAX  5000 /* before its end what still runs there is moved; at most a quarter of what is left */
#define BODY_MAX    BEAT_BODY_MAX

static const char *const order_words[] = {"", "drain", "sleep", "wake", "end"};

const char *join_state_name(enum join_state s)
{
    static const char *const names[JOIN_STATES] = {"here", "silent", "lost"};
    return names[s];
}

const char *join_order_name(enum join_order o)
{
    return order_words[o];
}

int64_t join_now_s(const struct join *j)
{
    return clock_wall(j->o.clock).ns / NS_PER_S;
}

struct member *join_find(struct join *j, const char *name)
{
    for (int i = 0; i < JOIN_MEMBERS_MAX; i++) {
        if (j->members[i].taken && strcmp(j->members[i].name, name) == 0)
            return &j->members[i];
    }
    return NULL;
}

static void drop(struct member *m)
{
    if (m->end)
        event_free(m->end);
    *m = (struct member){.taken = false};
}

static struct member *take_place(struct join *j, const char *name)
{
    struct member *m = join_find(j, name), *oldest = NULL;
    for (int i = 0; !m && i < JOIN_MEMBERS_MAX; i++) {
        struct member *k = &j->members[i];
        if (!k->taken)
            m = k;
        else if (k->state == JOIN_LOST && (!oldest || k->heard.ns < oldest->heard.ns))
            oldest = k;
    }
    if (!m && oldest) {
        drop(oldest);
        m = oldest;
    }
    if (!m)
        return NULL;
    if (!m->taken) {
        *m = (struct member){.taken = true, .join = j};
        text_put(m->name, m->name + sizeof m->name, name);
    }
    return m;
}

void join_node_key(const struct join *j, const char *name, char out[65])
{
    uint8_t key[32];
    ca_secret(j->ca, "node key", name, key);
    text_hex(out, key, sizeof key);
    explicit_bzero(key, sizeof key);
}

/* ---- coming ----------------------------------------------------------------------------------------------------- */

enum rc join_may(struct join *j, enum token_kind kind, const char *name, struct error *e)
{
    if (kind == TOKEN_POOL)
        return config_pool(j->config, name) ? RC_OK : error_set(e, RC_NOT_FOUND, "there is no pool '%.64s'", name);
    const struct node *n = nodes_find(j->o.nodes, name);
    if (n && !node_may_join(n))
        return error_set(e, RC_CONFLICT, "node '%.64s' has a url, or is started here; only one without can join", name);
    return RC_OK; /* a launched one may not be in the table yet: whether it is known is seen when it comes */
}

static enum rc add_to_pool(struct join *j, const char *name, const char *pool, const struct node_place_at *at,
                           struct error *e)
{
    const struct config_pool *p = config_pool(j->config, pool);
    struct node *n;
    if (!p)
        return error_set(e, RC_NOT_FOUND, "there is no pool '%.64s' any more", pool);
    const struct nodes_newcomer c = {.owner = j->config,
                                     .like = &p->node,
                                     .name = name,
                                     .url = at->url,
                                     .node_key = at->node_key,
                                     .tls_ca = at->tls_ca,
                                     .tls_cert = at->tls_cert,
                                     .tls_key = at->tls_key,
                                     .tls_name = at->tls_name,
                                     .per_hour = p->price_hour};
    return nodes_add(j->o.nodes, &c, &n, e);
}

static enum rc place(struct join *j, const char *name, const char *pool, const struct node_place_at *at, bool *ours,
                     struct error *e)
{
    struct node *n = nodes_find(j->o.nodes, name);
    *ours = !(j->hooks.joined && j->hooks.joined(name, at, j->hooks.arg));
    if (!*ours)
        return RC_OK;
    if (n && node_may_join(n))
        return node_place(n, at, e);
    if (n && n->dynamic) /* it leaves, but has not left yet */
        return error_set(e, RC_AGAIN, "node '%.64s' is on its way out of the table", name);
    if (n)
        return error_set(e, RC_CONFLICT, "node '%.64s' has a url, or is started here; only one without can join", name);
    if (!pool[0])
        return error_set(e, RC_NOT_FOUND, "nobody here expects a node '%.64s'", name);
    return add_to_pool(j, name, pool, at, e);
}

/* Whatever end the process before it had notice of is not this one's. */
static void begin_life(struct member *m, const char *life)
{
    struct node *n = nodes_find(m->join->o.nodes, m->name);
    if (strcmp(m->life, life) == 0)
        return;
    text_put(m->life, m->life + sizeof m->life, life);
    if (m->end)
        event_del(m->end);
    if (m->noticed && m->ours && n)
        node_set_drain(n, false);
    m->noticed = m->ending = false;
}

enum rc join_enter(struct join *j, const char *name, const char *pool, const char *url, const struct node_hello *h,
                   int64_t until_s, struct error *e)
{
    char key[65], tls_name[CERT_NAME_MAX];
    struct member *m = take_place(j, name);
    if (!m)
        return error_set(e, RC_FULL, "%d nodes have joined; that is all that there can be", JOIN_MEMBERS_MAX);
    const bool again = m->address[0] != '\0';
    join_node_key(j, name, key);
    snprintf(tls_name, sizeof tls_name, "%s%s", name, CA_NODE_SUFFIX);
    const struct node_place_at at = {.url = url,
                                     .tls_ca = ca_file(j->ca),
                                     .tls_cert = ca_scheduler_file(j->ca),
                                     .tls_key = ca_scheduler_file(j->ca),
                                     .tls_name = tls_name,
                                     .node_key = key};
    enum rc rc = place(j, name, pool[0] ? pool : m->pool, &at, &m->ours, e);
    explicit_bzero(key, sizeof key);
    if (rc != RC_OK) {
        if (!again)
            drop(m);
        return rc;
    }
    if (m->state != JOIN_HERE && m->address[0])
        log_info(j->o.log, JOIN_AREA, "it is back", LOG_S("node", name));
    if (strcmp(m->address, url) != 0)
        log_info(j->o.log, JOIN_AREA, "joined", LOG_S("node", name), LOG_S("address", url), LOG_S("model", h->model),
                 LOG_S("version", h->version));
    text_put(m->address, m->address + sizeof m->address, url);
    text_put(m->version, m->version + sizeof m->version, h->version);
    begin_life(m, h->life);
    if (pool[0])
        text_put(m->pool, m->pool + sizeof m->pool, pool);
    m->state = JOIN_HERE;
    m->revoked = false;
    m->heard = clock_now(j->o.clock);
    m->until_s = until_s;
    *(again ? &j->stats.rejoined : &j->stats.joined) += 1;
    return RC_OK;
}

/* ---- being here ------------------------------------------------------------------------------------------------- */

void join_heard(struct join *j, struct member *m, const struct node_beat *b)
{
    struct node *n = nodes_find(j->o.nodes, m->name);
    if (m->state != JOIN_HERE)
        log_info(j->o.log, JOIN_AREA, "it is back", LOG_S("node", m->name));
    m->state = JOIN_HERE;
    m->heard = clock_now(j->o.clock);
    m->beat = *b;
    j->stats.beats++;
    if (b->order_done >= m->order_number)
        m->order = JOIN_ORDER_NONE;
    const bool asleep = b->sleep == NODE_SLEEPS || b->sleep == NODE_FALLS_ASLEEP || b->sleep == NODE_WAKES;
    const struct node_vitals v = {.card = b->card,
                                  .asleep = asleep,
                                  .ready = b->ready && !b->draining,
                                  .watts_are = b->watts_are,
                                  .milliwatts = b->milliwatts};
    if (n && node_may_join(n))
        node_take_beat(n, &v);
    if (j->hooks.beat)
        j->hooks.beat(m->name, b, j->hooks.arg);
}

static void on_end(evutil_socket_t fd, short what, void *arg)
{
    struct member *m = arg;
    struct node *n = nodes_find(m->join->o.nodes, m->name);
    (void)fd, (void)what;
    if (n && m->ours) {
        log_info(m->join->o.log, JOIN_AREA, "its end is near: what still runs there goes on elsewhere",
                 LOG_S("node", m->name));
        node_cut(n);
    }
}

/* Nothing new, and shortly before the end what still runs is moved. An end that is only likely moves nothing. */
void join_noticed(struct join *j, struct member *m, const struct node_notice *x)
{
    struct node *n = nodes_find(j->o.nodes, m->name);
    log_warn(j->o.log, JOIN_AREA, "it has notice of its end", LOG_S("node", m->name), LOG_S("what", x->what),
             LOG_I("left_ms", x->left_ms));
    j->stats.notices++;
    m->noticed = true;
    m->ending = m->ending || strcmp(x->what, "rebalance") != 0;
    m->heard = clock_now(j->o.clock);
    if (j->hooks.notice && j->hooks.notice(m->name, x, j->hooks.arg))
        return;
    if (!n)
        return;
    node_set_drain(n, true);
    if (x->left_ms < 0)
        return;
    const int64_t early = x->left_ms / 4 < CUT_MS_MAX ? x->left_ms / 4 : CUT_MS_MAX, in = x->left_ms - early;
    const struct timeval tv = {in / 1000, in % 1000 * 1000};
    if (!m->end)
        m->end = evtimer_new(j->o.loop, on_end, m);
    if (!m->end || event_add(m->end, &tv) != 0)
        node_cut(n);
}

/* Its silence was to be expected. */
static bool was_announced(const struct member *m)
{
    return m->ending || m->revoked;
}

static void say_silence(const struct member *m, const char *what, int64_t ms)
{
    const struct log *log = m->join->o.log;
    if (was_announced(m))
        log_info(log, JOIN_AREA, what, LOG_S("node", m->name), LOG_I("heard_ms", ms), LOG_B("announced", true));
    else
        log_warn(log, JOIN_AREA, what, LOG_S("node", m->name), LOG_I("heard_ms", ms), LOG_B("announced", false));
}

static void fall_silent(struct join *j, struct member *m, int64_t ms)
{
    struct node *n = nodes_find(j->o.nodes, m->name);
    char reason[96];
    snprintf(reason, sizeof reason, "no heartbeat for %.1f s", (double)ms / 1000);
    say_silence(m, "silent", ms);
    m->state = JOIN_SILENT;
    j->stats.silent += !was_announced(m);
    if (n && node_may_join(n))
        node_silence(n, reason);
}

static void lose(struct join *j, struct member *m, int64_t ms)
{
    struct node *n = nodes_find(j->o.nodes, m->name);
    say_silence(m, "lost", ms);
    m->state = JOIN_LOST;
    j->stats.lost += !was_announced(m);
    if (j->hooks.lost && j->hooks.lost(m->name, j->hooks.arg))
        return;
    if (!n || !node_may_join(n))
        return;
    if (n->dynamic && m->ours)
        node_lose(n, "lost: its engine says nothing any more");
    else
        node_cut(n);
}

/* While this loop stood still it heard nobody, and what they have said meanwhile it may have yet to read: that time is
 * no silence of theirs. */
static void leave_out_own_pauses(struct join *j)
{
    const struct mono now = clock_now(j->o.clock);
    const int64_t late = now.ns - j->ticked.ns - TICK_MS * NS_PER_MS;
    for (int i = 0; j->ticked.ns && late >= TICK_MS * NS_PER_MS && i < JOIN_MEMBERS_MAX; i++) {
        struct member *m = &j->members[i];
        m->heard.ns = m->heard.ns + late < now.ns ? m->heard.ns + late : now.ns;
    }
    j->ticked = now;
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct join *j = arg;
    (void)fd, (void)what;
    leave_out_own_pauses(j);
    for (int i = 0; i < JOIN_MEMBERS_MAX; i++) {
        struct member *m = &j->members[i];
        const int64_t ms = m->taken ? mono_since(j->o.clock, m->heard) / NS_PER_MS : 0;
        if (!m->taken)
            continue;
        if (m->state == JOIN_HERE && ms >= j->config->join.silent_ms)
            fall_silent(j, m, ms);
        if (m->state == JOIN_SILENT && ms >= j->config->join.lost_ms)
            lose(j, m, ms);
    }
}

/* ---- orders ----------------------------------------------------------------------------------------------------- */

enum rc join_order(struct join *j, const char *name, enum join_order what, struct error *e)
{
    struct member *m = join_find(j, name);
    if (!m || m->state == JOIN_LOST)
        return error_set(e, RC_NOT_FOUND, "node '%.64s' has not joined", name);
    m->order = what;
    m->order_number++;
    return RC_OK;
}

enum rc join_token_new(struct join *j, enum token_kind kind, const char *name, int64_t ttl_ms, char out[TOKEN_TEXT_MAX],
                       struct error *e)
{
    struct token t = {.kind = kind, .issued_s = join_now_s(j)};
    const int64_t ms = ttl_ms > 0 ? ttl_ms : j->config->join.token_ms;
    enum rc rc = join_may(j, kind, name, e);
    if (rc == RC_OK && strlen(name) >= sizeof t.name)
        rc = error_set(e, RC_INVALID, "a node's name has up to %zu letters", sizeof t.name - 1);
    if (rc != RC_OK)
        return rc;
    t.until_s = t.issued_s + (ms + 999) / 1000;
    text_put(t.name, t.name + sizeof t.name, name);
    rc = token_write(j->ca, &t, out, e);
    j->stats.tokens += rc == RC_OK;
    return rc;
}

struct line {
    struct join *join;
    struct strbuf text;
    enum rc rc;
    struct error error;
};

static void write_line(void *arg)
{
    struct line *l = arg;
    l->rc = book_write(l->join->book, l->text.data, l->text.len, &l->error);
}

static void line_written(enum rc rc, void *arg)
{
    struct line *l = arg;
    if (rc == RC_OK && l->rc != RC_OK)
        log_error(l->join->o.log, JOIN_AREA, "a revocation holds only until the next start",
                  LOG_S("error", l->error.message));
    strbuf_fini(&l->text);
    free(l);
}

enum rc join_revoke(struct join *j, const char *name, struct error *e)
{
    const int64_t now = join_now_s(j);
    const int64_t forget = now + JOIN_LONGEST_S;
    if (!name[0] || strlen(name) >= TOKEN_NAME_MAX || strcspn(name, " \n") != strlen(name))
        return error_set(e, RC_INVALID, "\"%.64s\" is no node's name", name);
    enum rc rc = book_revoke(j->book, name, now, forget, now, e);
    if (rc != RC_OK)
        return rc;
    struct line *l = spw_calloc(1, sizeof *l);
    l->join = j;
    strbuf_init(&l->text, 1024);
    book_revoke_line(name, now, forget, &l->text);
    j->stats.revoked++;
    struct member *m = join_find(j, name);
    if (m)
        m->revoked = true;
    log_info(j->o.log, JOIN_AREA, "its certificates are worth nothing any more", LOG_S("node", name));
    rc = worker_submit(j->writer, write_line, line_written, l);
    if (rc != RC_OK) {
        strbuf_fini(&l->text);
        free(l);
        return error_set(e, rc, "too much is being written; try again");
    }
    return RC_OK;
}

/* ---- seen from outside ------------------------------------------------------------------------------------------ */

void join_each(const struct join *j, void (*each)(const struct join_view *v, void *arg), void *arg)
{
    for (int i = 0; i < JOIN_MEMBERS_MAX; i++) {
        const struct member *m = &j->members[i];
        const struct join_view v = {.name = m->name,
                                    .address = m->address,
                                    .version = m->version,
                                    .order = join_order_name(m->order),
                                    .state = m->state,
                                    .heard_ms = mono_since(j->o.clock, m->heard) / NS_PER_MS,
                                    .until_s = m->until_s,
                                    .beat = &m->beat};
        if (m->taken)
            each(&v, arg);
    }
}

struct join_stats join_stats(const struct join *j)
{
    struct join_stats s = j->stats;
    for (int i = 0; i < JOIN_MEMBERS_MAX; i++)
        s.states[j->members[i].state] += j->members[i].taken;
    return s;
}

int join_port(const struct join *j)
{
    return http_server_port(j->server);
}

const char *join_url(const struct join *j)
{
    return j->url;
}

void join_set_hooks(struct join *j, const struct join_hooks *h)
{
    j->hooks = *h;
}

void join_take(struct join *j, const struct config *c)
{
    struct config *before = j->config;
    j->config = config_ref(c);
    config_free(before);
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

static enum rc open_files(struct join *j, struct error *e)
{
    char *dir = spw_asprintf("%s/join", j->config->state_dir), *book = spw_asprintf("%s/book", dir);
    enum rc rc = ca_open(&j->ca, dir, join_now_s(j), e);
    if (rc == RC_OK)
        rc = book_open(&j->book, book, join_now_s(j), e);
    free(dir);
    free(book);
    return rc;
}

static enum rc listen_on(struct join *j, struct error *e)
{
    const struct tls_server_files files = {.cert = ca_scheduler_file(j->ca),
                                           .key = ca_scheduler_file(j->ca),
                                           .client_ca = ca_file(j->ca),
                                           .client_certs = TLS_CLIENT_CERTS_OPTIONAL};
    struct http_server_options o = {.limits = http_limits_default, .connections_max = CONNECTIONS};
    const struct http_server_handlers h = {.on_request = join_on_request};
    o.limits.body_bytes_max = BODY_MAX;
    enum rc rc = tls_door_new(&j->door, &files, j->o.clock, e);
    o.tls = j->door;
    return rc == RC_OK ? http_server_new(&j->server, j->o.loop, j->config->join.listen, &o, &h, j, e) : rc;
}

static void name_url(struct join *j)
{
    char host[256] = "localhost";
    (void)gethostname(host, sizeof host - 1);
    j->url = j->config->join.url ? spw_strdup(j->config->join.url) : spw_asprintf("https://%s:%d", host, join_port(j));
}

enum rc join_new(struct join **out, const struct join_options *o, struct error *e)
{
    struct join *j = spw_calloc(1, sizeof *j);
    const struct timeval tick = {TICK_MS / 1000, TICK_MS % 1000 * 1000};
    j->o = *o;
    j->config = config_ref(o->config);
    enum rc rc = open_files(j, e);
    if (rc == RC_OK)
        rc = worker_new(&j->writer, "join", o->loop, JOIN_WRITES_MAX, e);
    if (rc == RC_OK)
        rc = listen_on(j, e);
    if (rc == RC_OK) {
        j->timer = event_new(o->loop, -1, EV_PERSIST, on_tick, j);
        if (!j->timer || event_add(j->timer, &tick) != 0)
            rc = error_set(e, RC_IO, "no timer for heartbeats");
    }
    if (rc != RC_OK) {
        error_prefix(e, "join");
        join_free(j);
        return e->code;
    }
    name_url(j);
    log_info(o->log, JOIN_AREA, "engines may join", LOG_S("url", j->url), LOG_I("port", join_port(j)));
    *out = j;
    return RC_OK;
}

void join_free(struct join *j)
{
    if (!j)
        return;
    if (j->timer)
        event_free(j->timer);
    worker_free(j->writer); /* while the server is there: who waits is answered, into the void maybe */
    http_server_free(j->server);
    tls_door_free(j->door);
    for (int i = 0; i < JOIN_MEMBERS_MAX; i++)
        drop(&j->members[i]);
    book_close(j->book);
    ca_free(j->ca);
    config_free(j->config);
    free(j->url);
    free(j);
}
