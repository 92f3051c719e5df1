#include "scheduler/front/cached.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/sha256.h"
#include "scheduler/cache/replay.h"
#include "scheduler/front/front_internal.h"
#include "scheduler/redis/link.h"
#include "scheduler/wire/answer.h"

#define PIECES_PER_ANSWER 1000u /* a long answer is replayed in larger pieces, not in more of them */
#define PIECE_BYTES       96u
#define SCRATCH_NODES_MAX 4096u /* of an odd one: given back */
#define USAGE_BYTES_MAX   ((size_t)128 << 10)
#define SPARE_ASSEMBLERS  32
#define MADE_BYTES_KEPT   ((size_t)64 << 10)

struct cached_shared {
    struct flights *flights;
    struct cache_memory *memory; /* mode lru */
    char *password;              /* mode redis, as the next */
    SSL_CTX *tls;                /* NULL: plain text */
};

#define DIGEST_BYTES 32
struct digest {
    uint8_t b[DIGEST_BYTES];
};

#define IDENTITIES          16
#define IDENTITY_TEXT_BYTES ((size_t)64 << 10)
struct identity_memo {
    struct strbuf texts; /* owned */
    struct digest digest;
};

struct cached {
    struct cached_options o;
    struct cache *cache;
    struct tree scratch;                       /* of one answer, or of one chunk */
    struct assembler *spare[SPARE_ASSEMBLERS]; /* owned; with the memory they had, for streams to come */
    int n_spare;
    struct identity_memo identities[IDENTITIES];
    struct strbuf identity; /* scratch, as the next two */
    struct strbuf form;     /* a request's canonical one */
    struct strbuf made;     /* a stream's whole answer */
    bool far;               /* a Redis that is not said to be on the premises */
    size_t entry_bytes_max;
};

static struct cached *cached_of(const struct request *r)
{
    return r->lane->cached;
}

const char *cached_way_name(enum cached_way w)
{
    static const char *const names[CACHED_WAYS] = {"off", "bypass", "miss", "hit", "collapsed"};
    return names[w];
}

/* ---- what there is once, and once per loop ------------------------------------------------------------------------ */

enum rc cached_shared_new(struct cached_shared **out, const struct config *c, const struct clock *clock,
                          struct error *e)
{
    const struct config_cache *o = &c->cache;
    *out = NULL;
    if (o->mode == CONFIG_CACHE_OFF)
        return RC_OK;
    struct cached_shared *s = spw_calloc(1, sizeof *s);
    s->flights = flights_new(&(struct flight_options){0});
    struct cache_memory_options memory = {.ttl_ms = o->ttl_ms, .bytes_max = o->bytes_max, .clock = clock};
    enum rc rc = o->mode == CONFIG_CACHE_LRU      ? cache_memory_new(&s->memory, &memory, e)
                 : o->redis_password_file != NULL ? file_read_secret(&s->password, o->redis_password_file, e)
                                                  : RC_OK;
    const struct tls_client_files tls = {o->redis_tls_ca, o->redis_tls_cert, o->redis_tls_key};
    if (rc == RC_OK && o->mode == CONFIG_CACHE_REDIS)
        rc = config_redis_tls(&s->tls, o->redis_address, &tls, e);
    if (rc != RC_OK) {
        cached_shared_free(s);
        return rc;
    }
    *out = s;
    return RC_OK;
}

void cached_shared_free(struct cached_shared *s)
{
    if (!s)
        return;
    if (s->password)
        explicit_bzero(s->password, strlen(s->password));
    free(s->password);
    SSL_CTX_free(s->tls);
    cache_memory_free(s->memory);
    flights_free(s->flights);
    free(s);
}

static enum rc open_cache(struct cached *c, struct error *e)
{
    const struct config_cache *o = &c->o.config->cache;
    int port;
    char *host = redis_address_split(o->redis_address, &port);
    struct cache_options options = {
        .mode = o->mode == CONFIG_CACHE_REDIS ? CACHE_REDIS : CACHE_MEMORY,
        .memory = c->o.shared->memory,
        .ttl_ms = o->ttl_ms,
        .entry_bytes_max = o->entry_bytes_max,
        .loop = c->o.loop,
        .clock = c->o.clock,
        .log = c->o.log,
        .redis = {.host = host,
                  .tls = c->o.shared->tls,
                  .port = port,
                  .db = o->redis_db,
                  .username = o->redis_username,
                  .password = c->o.shared->password,
                  .timeout_ms = o->redis_timeout_ms},
    };
    enum rc rc = cache_new(&c->cache, &options, e);
    free(host);
    return rc;
}

enum rc cached_new(struct cached **out, const struct cached_options *o, struct error *e)
{
    *out = NULL;
    if (!o->shared)
        return RC_OK;
    struct cached *c = spw_calloc(1, sizeof *c);
    c->o = *o;
    tree_init(&c->scratch);
    strbuf_init(&c->identity, IDENTITY_TEXT_BYTES);
    strbuf_init(&c->form, CANONICAL_SCRATCH_BYTES_MAX);
    strbuf_init(&c->made, (size_t)o->config->cache.entry_bytes_max + USAGE_BYTES_MAX);
    for (int i = 0; i < IDENTITIES; i++)
        strbuf_init(&c->identities[i].texts, IDENTITY_TEXT_BYTES);
    c->far = o->config->cache.mode == CONFIG_CACHE_REDIS && !o->config->cache.redis_local;
    c->entry_bytes_max = (size_t)o->config->cache.entry_bytes_max;
    enum rc rc = open_cache(c, e);
    c->o.config = NULL; /* a reload gives requests another one */
    if (rc != RC_OK) {
        cached_free(c);
        return rc;
    }
    *out = c;
    return RC_OK;
}

void cached_free(struct cached *c)
{
    if (!c)
        return;
    cache_free(c->cache);
    while (c->n_spare) {
        assembler_fini(c->spare[--c->n_spare]);
        free(c->spare[c->n_spare]);
    }
    tree_fini(&c->scratch);
    strbuf_fini(&c->identity);
    strbuf_fini(&c->form);
    strbuf_fini(&c->made);
    for (int i = 0; i < IDENTITIES; i++)
        strbuf_fini(&c->identities[i].texts);
    free(c);
}

void cached_figures_add(struct cached_figures *sum, const struct cached *c)
{
    if (!c)
        return;
    struct cache_stats s = cache_stats(c->cache), *t = &sum->cache;
    t->reachable = s.reachable && (t->reachable || !sum->on);
    sum->on = true;
    t->hits += s.hits, t->misses += s.misses, t->stores += s.stores, t->refused += s.refused;
    t->errors += s.errors, t->timeouts += s.timeouts, t->dropped += s.dropped;
    t->connects += s.connects, t->disconnects += s.disconnects;
}

struct flight_stats cached_flight_figures(struct cached_shared *s)
{
    return s ? flights_stats(s->flights) : (struct flight_stats){0};
}

struct cache_memory_stats cached_memory_figures(struct cached_shared *s)
{
    return s && s->memory ? cache_memory_stats(s->memory) : (struct cache_memory_stats){0};
}

/* ---- what it asks, and its key ------------------------------------------------------------------------------------ */

enum rc cached_ask(struct http_exchange *x, struct cache_ask *ask, struct api_error *e)
{
    const struct http_head *head = http_request_head(x);
    struct error why;
    if (cache_ask_parse(ask, http_head_get(head, "cache-control"), http_head_get(head, "x-spillway-cache"), &why) ==
        RC_OK)
        return RC_OK;
    api_error_set(e, API_INVALID_BODY, "x-spillway-cache", "%s", why.message);
    return RC_DENIED;
}

static int compare_digests(const void *a, const void *b)
{
    return memcmp(a, b, DIGEST_BYTES);
}

static struct digest digest_of(const void *data, size_t n)
{
    struct digest d = {.b = {0}};
    sha256(data, n, d.b);
    return d;
}

/* What decides an answer beside the request: the model's public name, and of each node that serves it what it calls the
 * model and, from engines, the numerics class, which has the hash of the weights in it. One text each, ended by a NUL,
 * in the order of the configuration. */
static void identity_texts(const struct request *r, struct strbuf *out)
{
    struct front *f = r->lane->front;
    const char *model = r->model->chain[0]->name; /* what its fallbacks say is not kept */
    strbuf_clear(out);
    enum rc rc = strbuf_append(out, model, strlen(model) + 1);
    front_lock(f);
    for (int i = 0; i < nodes_count(f->nodes) && rc == RC_OK; i++) {
        const struct node *node = nodes_at(f->nodes, i);
        if (!node_serves(node, model))
            continue;
        const char *upstream = node_upstream_model(node->config);
        rc = strbuf_puts(out, upstream ? upstream : model);
        if (rc == RC_OK)
            rc = strbuf_append(out, "\n", 1);
        if (rc == RC_OK)
            rc = strbuf_append(out, node->card.numerics, strlen(node->card.numerics) + 1);
    }
    front_unlock(f);
    SPW_ASSERT(rc == RC_OK); /* names and nodes are bounded far below */
}

/* Each once and in an order that does not depend on the configuration's, so that schedulers with one Redis agree. */
static struct digest digest_of_texts(const struct strbuf *texts)
{
    struct digest parts[1 + ROUTE_CANDIDATES_MAX];
    int n = 0;
    for (const char *p = texts->data, *end = p + texts->len; p < end; p += strlen(p) + 1) {
        SPW_ASSERT(n < 1 + ROUTE_CANDIDATES_MAX);
        parts[n++] = digest_of(p, strlen(p));
    }
    qsort(parts + 1, (size_t)(n - 1), sizeof parts[0], compare_digests);
    int kept = 1;
    for (int i = 1; i < n; i++) {
        if (i == 1 || compare_digests(&parts[i], &parts[kept - 1]) != 0)
            parts[kept++] = parts[i];
    }
    return digest_of(parts, (size_t)kept * sizeof parts[0]);
}

/* It is the same for all requests of a model until a node comes, goes or changes, so what it was made from is kept with
 * it; a few models have a place each. */
static struct digest model_identity(const struct request *r)
{
    struct cached *c = cached_of(r);
    unsigned hash = 0;
    for (const char *p = r->room->model; *p; p++)
        hash = hash * 31 + (unsigned char)*p;
    struct identity_memo *memo = &c->identities[hash % IDENTITIES];
    identity_texts(r, &c->identity);
    if (memo->texts.len != c->identity.len || memcmp(memo->texts.data, c->identity.data, c->identity.len) != 0) {
        strbuf_clear(&memo->texts);
        enum rc rc = strbuf_append(&memo->texts, c->identity.data, c->identity.len);
        SPW_ASSERT(rc == RC_OK);
        memo->digest = digest_of_texts(&memo->texts);
    }
    return memo->digest;
}

static uint64_t short_of(const struct digest *d)
{
    uint64_t v;
    memcpy(&v, d->b, sizeof v);
    return v;
}

static enum cache_kind kind_of(const struct request *r)
{
    static const enum cache_kind kinds[REQUEST_KINDS] = {
        [REQUEST_CHAT] = CACHE_CHAT, [REQUEST_COMPLETION] = CACHE_COMPLETION, [REQUEST_EMBEDDINGS] = CACHE_EMBEDDINGS};
    return kinds[r->body.kind];
}

static enum rc make_key(struct cached *c, struct request *r, const cJSON *root)
{
    static const char hex[] = "0123456789abcdef";
    struct digest d = model_identity(r);
    char identity[2 * DIGEST_BYTES + 1];
    for (int i = 0; i < DIGEST_BYTES; i++) {
        identity[2 * i] = hex[d.b[i] >> 4];
        identity[2 * i + 1] = hex[d.b[i] & 15];
    }
    identity[2 * DIGEST_BYTES] = '\0';
    struct cache_key_input in = {.kind = kind_of(r), .tenant = r->who->tenant, .model_identity = identity};
    r->cached.identity = short_of(&d);
    return canonical_key(root, &in, &c->form, &r->cached.key);
}

/* What r may do here; its key is made if that is anything. */
static unsigned use_of(struct cached *c, struct request *r, const cJSON *root)
{
    if (!request_traits(r->body.kind)->computes)
        return 0;
    unsigned use = cache_use(&r->cached.ask, kind_of(r), root);
    if (c->far && model_stays_local(r->model, r->model->chain[0], r->who))
        use &= ~(CACHE_READ | CACHE_STORE);
    if (r->charge_bounded) /* it may be shorter than others would have it */
        use &= ~(CACHE_STORE | CACHE_COLLAPSE);
    if (!model_may_step(r->model, r->model->chain[0], r->who))
        use = 0;
    if (!r->config->cache.collapse_ms)
        use &= ~CACHE_COLLAPSE;
    return use && make_key(c, r, root) == RC_OK ? use : 0;
}

/* ---- an answer that was found ------------------------------------------------------------------------------------- */

static struct replay replay_of(const struct request *r, const struct cache_entry *entry, char *id, size_t id_size,
                               const char *bill)
{
    /* Behind "req_": the same characters, so that whoever sees the one can find the other. */
    snprintf(id, id_size, "%s-%s", request_traits(r->body.kind)->id, r->id + 4);
    size_t piece = entry->body_len / PIECES_PER_ANSWER;
    return (struct replay){.id = id,
                           .created_s = clock_wall(cached_of(r)->o.clock).ns / NS_PER_S,
                           .model = r->body.model,
                           .tier = request_tier(r),
                           .spillway = bill,
                           .counts = &entry->tokens,
                           .usage_asked = r->body.usage_asked,
                           .piece_bytes = piece > PIECE_BYTES ? piece : PIECE_BYTES};
}

/* {"node":"n1","charge_usd":"0","cache":"hit"}: what stands beside the usage of a stream. */
static enum rc write_bill(const struct cache_entry *entry, enum cached_way way, struct strbuf *out)
{
    enum rc rc = strbuf_puts(out, "{\"node\":");
    if (rc == RC_OK)
        rc = json_append_string(out, entry->node, strlen(entry->node));
    return rc == RC_OK ? strbuf_printf(out, ",\"charge_usd\":\"0\",\"cache\":\"%s\"}", cached_way_name(way)) : rc;
}

static enum rc write_replay(struct request *r, const struct cache_entry *entry, enum cached_way way)
{
    struct strbuf bill;
    char id[64];
    strbuf_init(&bill, 8192);
    strbuf_clear(&r->out);
    enum rc rc = write_bill(entry, way, &bill);
    struct replay how = replay_of(r, entry, id, sizeof id, r->body.stream ? bill.data : NULL);
    r->cached.tail = 0;
    if (rc == RC_OK)
        rc = r->body.stream ? replay_stream(entry->body, entry->body_len, &how, &r->out, &r->cached.tail)
                            : replay_body(entry->body, entry->body_len, &how, &r->out);
    strbuf_fini(&bill);
    return rc;
}

static void note_found(struct request *r, const struct cache_entry *entry, enum cached_way way)
{
    struct cached_request *c = &r->cached;
    int64_t age_ns = clock_wall(cached_of(r)->o.clock).ns - entry->stored.ns;
    c->way = way;
    c->saved = entry->charge;
    c->age_s = way == CACHED_HIT && age_ns > 0 ? age_ns / NS_PER_S : 0;
    snprintf(c->node, sizeof c->node, "%s", entry->node);
    r->tokens = entry->tokens;
    r->usage_source = strcmp(entry->usage_source, "provider") == 0 ? "provider" : "counted";
}

int cached_headers(const struct request *r, struct cached_texts *t, struct http_header *headers)
{
    const struct cached_request *c = &r->cached;
    int n = 0;
    if (c->way == CACHED_OFF || r->state == REQUEST_ASKING) /* it may still turn out one way or the other */
        return 0;
    headers[n++] = (struct http_header){"x-spillway-cache", cached_way_name(c->way)};
    if (cached_answered(c)) {
        snprintf(t->age, sizeof t->age, "%" PRId64, c->age_s);
        headers[n++] = (struct http_header){"Age", t->age};
    }
    return n;
}

/* A stream's text leaves at once, like any other; its end, or a whole body, when the row is durable. */
static void begin_stream(struct request *r)
{
    reply_head(r, r->cached.node);
    r->replied = true;
    reply_write(r, r->out.data, r->cached.tail);
}

static bool answer(struct request *r, const struct cache_entry *entry, enum cached_way way)
{
    if (write_replay(r, entry, way) != RC_OK)
        return false;
    note_found(r, entry, way);
    r->state = REQUEST_SETTLING;
    request_note_first_byte(r);
    if (r->body.stream)
        begin_stream(r);
    settle(r, r->x || idempotency_wants(r->idempotency) ? LEDGER_OK : LEDGER_CANCELLED);
    return true;
}

static void write_whole(struct request *r)
{
    struct limit_texts limits;
    struct cached_texts texts;
    struct http_header headers[5 + LIMIT_HEADERS_MAX + CACHED_HEADERS_MAX] = {
        {"Content-Type", "application/json"}, {"x-request-id", r->id},
        {"x-spillway-node", r->cached.node},  {"x-spillway-model", request_model(r)->name},
        {"x-spillway-charge-usd", "0"},
    };
    int n = 5;
    n += limit_headers(&r->limits, &limits, headers + n);
    n += cached_headers(r, &texts, headers + n);
    reply_whole(r, headers, n, r->out.data, r->out.len);
}

void cached_write_rest(struct request *r)
{
    if (!r->body.stream) {
        write_whole(r);
        return;
    }
    reply_write(r, r->out.data + r->cached.tail, r->out.len - r->cached.tail);
    reply_end(r);
}

/* ---- asking ------------------------------------------------------------------------------------------------------- */

static void on_flight(enum flight_event event, const struct blob *result, void *arg);

/* Until when it may follow: not so long that it could not meet its deadline by itself. */
static int64_t follow_until_ns(const struct request *r)
{
    int64_t until = r->wait_since.ns + r->config->cache.collapse_ms * NS_PER_MS, start_by = room_start_by_ns(r);
    return until < start_by ? until : start_by;
}

/* A stream hears a comment now and then, as in a waiting room. */
static void sleep_on(struct request *r, const struct cached *c)
{
    int64_t ns = follow_until_ns(r) - clock_now(c->o.clock).ns, beat = reply_beat_ms(r);
    int64_t ms = ns > 0 ? (ns + NS_PER_MS - 1) / NS_PER_MS : 0;
    request_arm(r, beat >= 0 && beat < ms ? beat : ms);
}

/* Nobody has it. Somebody who is just computing it may be waited for. True: so it is. */
static bool missed(struct cached *c, struct request *r)
{
    struct cached_request *q = &r->cached;
    q->way = CACHED_MISS;
    if (!(q->use & CACHE_COLLAPSE) ||
        flight_join(c->o.shared->flights, &q->key, &q->ticket, r->lane->mail, on_flight, r) != FLIGHT_ROLE_FOLLOWER)
        return false;
    r->state = REQUEST_ASKING;
    r->wait_since = clock_now(c->o.clock);
    sleep_on(r, c);
    return true;
}

static void go(struct request *r)
{
    int64_t waited = r->wait_since.ns ? mono_since(cached_of(r)->o.clock, r->wait_since) : 0;
    r->waited_ns += waited;
    r->wait_forgiven_ns += waited; /* it may still wait for a slot as long as anybody */
    event_del(r->timer);
    r->state = REQUEST_SETTLING; /* nobody's yet */
    dispatch(r);
}

static void on_found(const struct cache_entry *entry, void *arg)
{
    struct request *r = arg;
    struct cached *c = cached_of(r);
    int64_t most = r->cached.ask.age_s_max;
    r->cached.get = NULL;
    bool fresh = entry && (most < 0 || clock_wall(c->o.clock).ns - entry->stored.ns <= most * NS_PER_S);
    if (fresh && answer(r, entry, CACHED_HIT))
        return;
    if (!missed(c, r))
        go(r);
}

/* In a turn of its own. */
static void on_flight(enum flight_event event, const struct blob *result, void *arg)
{
    struct request *r = arg;
    struct cache_entry entry;
    if (event == FLIGHT_REFUSED) {
        api_error_set(&r->error, API_POISON, NULL, "%s", "");
        request_refuse(r);
        return;
    }
    if (event == FLIGHT_RESULT && cache_read_kept(result, &r->cached.key, &entry) == RC_OK &&
        answer(r, &entry, CACHED_COLLAPSED))
        return;
    go(r);
}

bool cached_begin(struct request *r, const cJSON *root)
{
    struct cached *c = cached_of(r);
    struct cached_request *q = &r->cached;
    if (!c)
        return false;
    q->way = CACHED_BYPASS;
    q->use = use_of(c, r, root);
    if (!(q->use & CACHE_READ) || cache_misses(c->cache, &q->key)) {
        if (q->use & CACHE_READ)
            q->way = CACHED_MISS;
        return (q->use & CACHE_COLLAPSE) && missed(c, r);
    }
    r->state = REQUEST_ASKING;
    q->get = cache_get(c->cache, &q->key, on_found, r); /* has its own deadline */
    return true;
}

void cached_turn(struct request *r)
{
    const struct cached *c = cached_of(r);
    if (clock_now(c->o.clock).ns < follow_until_ns(r)) {
        reply_beat(r);
        sleep_on(r, c);
        return;
    }
    flight_leave(&r->cached.ticket); /* the leader takes too long */
    go(r);
}

void cached_leave(struct request *r)
{
    if (r->cached.get)
        cache_get_cancel(r->cached.get);
    r->cached.get = NULL;
    flight_leave(&r->cached.ticket);
}

static struct assembler *take_parts(struct cached *c)
{
    if (c->n_spare)
        return c->spare[--c->n_spare];
    struct assembler *a = spw_malloc(sizeof *a);
    assembler_init(a, c->entry_bytes_max, &c->scratch);
    return a;
}

static void give_back_parts(struct cached *c, struct assembler *a)
{
    if (c->n_spare < SPARE_ASSEMBLERS) {
        assembler_reset(a);
        c->spare[c->n_spare++] = a;
        return;
    }
    assembler_fini(a);
    free(a);
}

void cached_fini(struct request *r)
{
    cached_leave(r);
    if (r->cached.parts)
        give_back_parts(cached_of(r), r->cached.parts);
    r->cached.parts = NULL;
}

/* ---- keeping ------------------------------------------------------------------------------------------------------ */

bool cached_wants(const struct request *r)
{
    if (!cached_of(r) || cached_answered(&r->cached))
        return false;
    return (r->cached.use & CACHE_STORE) || flight_leads(&r->cached.ticket);
}

/* Their first failure sticks. */
static void on_chunk(struct span chunk, struct span plain, void *arg)
{
    struct request *r = arg;
    if (plain.n)
        (void)assembler_text(r->cached.parts, (struct bytes){plain.p + 1, plain.n - 2});
    else
        (void)assembler_feed(r->cached.parts, chunk.p, chunk.n);
}

void cached_follow(struct request *r)
{
    struct cached *c = cached_of(r);
    if (!r->body.stream || !cached_wants(r))
        return;
    if (!r->cached.parts)
        r->cached.parts = take_parts(c);
    stream_tap(&r->stream, on_chunk, r);
}

static void trim_scratch(struct cached *c)
{
    if (c->scratch.cap > SCRATCH_NODES_MAX)
        tree_fini(&c->scratch);
}

enum rc cached_read_answer(struct request *r, struct token_counts *counts, bool *known)
{
    struct cached *c = cached_of(r);
    const struct strbuf *body = &r->answer;
    const char *answers = request_traits(r->body.kind)->answers;
    r->cached.replays = false;
    if (!cached_wants(r) || tree_parse(&c->scratch, body->data, body->len) != RC_OK)
        return answer_read((struct span){body->data, body->len}, answers, counts, known);
    enum rc rc = answer_read_tree(&c->scratch, answers, counts, known);
    r->cached.replays = rc == RC_OK && replay_check_tree(&c->scratch) == RC_OK;
    trim_scratch(c);
    return rc;
}

void cached_restart(struct request *r)
{
    if (r->cached.parts)
        assembler_reset(r->cached.parts);
}

void cached_failed(struct request *r)
{
    struct flight_ticket *t = &r->cached.ticket;
    /* What one was refused for would meet the others too; and what has killed its nodes must not be tried on more of
     * them. Any other failure says nothing about the next try. */
    bool failed = r->outcome == LEDGER_FAILED && flight_leads(t);
    if (failed && r->error.code == API_POISON)
        flight_refuse(t);
    else if (failed && r->error.status >= 400 && r->error.status < 500)
        flight_dissolve(t);
    cached_leave(r);
}

/* The node's own words about usage, which have not been forwarded. */
static void feed_usage(struct request *r)
{
    struct strbuf usage;
    strbuf_init(&usage, USAGE_BYTES_MAX);
    if (stream_usage(&r->stream, &r->tokens, &usage) == RC_OK)
        (void)assembler_usage(r->cached.parts, (struct bytes){usage.data, usage.len});
    strbuf_fini(&usage);
}

/* The body of r's answer; *made holds it where it had to be put together. */
static enum rc whole_of(struct request *r, struct bytes body, struct strbuf *made, struct bytes *out)
{
    *out = body;
    if (!r->body.stream)
        return body.n ? RC_OK : RC_UNSUPPORTED;
    if (!r->cached.parts)
        return RC_UNSUPPORTED;
    stream_tap_held(&r->stream);
    feed_usage(r);
    enum rc rc = assembler_finish(r->cached.parts, &r->tokens, made);
    *out = (struct bytes){made->data, made->len};
    return rc;
}

/* Then it is this request's answer alone: others may not be allowed that model. */
static bool fell_back(const struct request *r)
{
    return request_model(r) != r->model->chain[0];
}

/* May it be kept under the key that was made when it began? Not if the model's nodes have changed meanwhile, if another
 * model has answered, or if it is a piece of one class and a piece of another, which nobody would get again. */
static bool keeps(const struct request *r)
{
    struct digest now = model_identity(r);
    return (r->cached.use & CACHE_STORE) && !r->cross_class && !fell_back(r) && short_of(&now) == r->cached.identity;
}

void cached_done(struct request *r, struct bytes body)
{
    struct cached *c = cached_of(r);
    struct bytes whole;
    struct blob *kept = NULL;
    strbuf_clear(&c->made);
    enum rc rc = whole_of(r, body, &c->made, &whole);
    struct cache_entry entry = {
        .status = 200,
        .content_type = "application/json",
        .model = request_model(r)->name,
        .node = r->billed->config->name,
        .usage_source = r->usage_source,
        .body = whole.p,
        .body_len = whole.n,
        .tokens = r->tokens,
        .charge = r->charge,
        .replays = r->body.stream ? r->cached.parts && !r->cached.parts->n_tools : r->cached.replays,
    };
    if (rc == RC_OK)
        rc = cache_keep(c->cache, &r->cached.key, &entry, &kept);
    if (rc == RC_OK && keeps(r))
        cache_put_kept(c->cache, &r->cached.key, kept);
    trim_scratch(c);
    if (rc == RC_OK && !fell_back(r) && flight_leads(&r->cached.ticket))
        flight_finish(&r->cached.ticket, kept);
    else if (flight_leads(&r->cached.ticket))
        flight_dissolve(&r->cached.ticket);
    blob_unref(kept);
    if (c->made.cap > MADE_BYTES_KEPT)
        strbuf_fini(&c->made);
}
