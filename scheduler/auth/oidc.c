#include "scheduler/auth/oidc.h"

#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "scheduler/auth/forgery.h"
#include "scheduler/auth/jwks.h"
#include "scheduler/auth/token_cache.h"

#define REFRESH_MS_DEFAULT  (INT64_C(10) * 60 * 1000)
#define STALE_MS_DEFAULT    (INT64_C(24) * 3600 * 1000)
#define REFETCH_MS_DEFAULT  (INT64_C(30) * 1000)
#define BACKOFF_MS_MAX      INT64_C(30000)
#define FETCH_MS            5000
#define DISCOVERY_BYTES_MAX ((size_t)256 << 10)
#define WAITS_PER_TURN      32 /* signatures checked in one turn of the loop */

struct issuer {
    struct oidc *o;
    struct oidc_issuer c;
    struct jwks *keys;         /* owned; NULL: none yet */
    struct hash keys_hash;     /* of their text */
    struct mono fetched, next; /* last success; earliest next fetch */
    int failures;              /* in a row */
    struct fetch *fetch;       /* running */
    const char *fetching;      /* its URL, for the log */
};
struct auth_wait {
    TAILQ_ENTRY(auth_wait) link;
    struct oidc *o;
    struct issuer *i;
    char *token; /* owned */
    size_t n;
    char peer[46];
    bool ready; /* in o->ready, else in o->waits */
    auth_cb *cb;
    void *arg;
};
TAILQ_HEAD(waits, auth_wait);

struct oidc {
    struct issuer *issuers;
    int n;
    struct arena *arena; /* owns the issuers' texts */
    struct fetcher *fetcher;
    const struct clock *clock;
    const struct log *log;
    struct token_cache *cache;
    struct forgery *forgery;
    EVP_MD *sha256;
    struct waits waits, ready;
    struct event *turn;
    struct oidc_stats stats;
};

static void issuer_fetch(struct issuer *i);

static int64_t or_default(int64_t v, int64_t fallback)
{
    return v > 0 ? v : fallback;
}

/* ---- issuers ---------------------------------------------------------------------------------------------------- */

static bool keys_usable(const struct issuer *i)
{
    return i->keys && mono_since(i->o->clock, i->fetched) < or_default(i->c.stale_ms, STALE_MS_DEFAULT) * NS_PER_MS;
}

static bool keys_due(const struct issuer *i)
{
    return !i->keys ||
           mono_since(i->o->clock, i->fetched) >= or_default(i->c.refresh_ms, REFRESH_MS_DEFAULT) * NS_PER_MS;
}

/* Is a fetch running, or can one be started now? */
static bool fetch_helps(struct issuer *i)
{
    if (!i->fetch && clock_now(i->o->clock).ns >= i->next.ns)
        issuer_fetch(i);
    return i->fetch != NULL;
}

static void wake(struct issuer *i)
{
    struct oidc *o = i->o;
    for (struct auth_wait *w = TAILQ_FIRST(&o->waits), *next; w; w = next) {
        next = TAILQ_NEXT(w, link);
        if (w->i != i)
            continue;
        TAILQ_REMOVE(&o->waits, w, link);
        TAILQ_INSERT_TAIL(&o->ready, w, link);
        w->ready = true;
    }
    if (!TAILQ_EMPTY(&o->ready))
        event_active(o->turn, EV_TIMEOUT, 0);
}

static void failed(struct issuer *i, const char *why)
{
    struct oidc *o = i->o;
    int64_t wait_ms = i->failures < 5 ? INT64_C(1000) << i->failures : BACKOFF_MS_MAX;
    i->failures++;
    i->next.ns = clock_now(o->clock).ns + wait_ms * NS_PER_MS;
    o->stats.fetches_failed++;
    if (o->log)
        log_warn(o->log, "auth", "an issuer's keys cannot be fetched", LOG_S("issuer", i->c.name),
                 LOG_S("url", i->fetching), LOG_S("reason", why), LOG_I("retry_ms", wait_ms),
                 LOG_B("old_keys", keys_usable(i)));
    wake(i);
}

static void start(struct issuer *i, const char *url, size_t bytes_max, fetch_cb *cb)
{
    struct http_header accept[] = {{"Accept", "application/json"}};
    struct fetch_request r = {.url = url,
                              .headers = accept,
                              .n_headers = 1,
                              .deadline_ms = FETCH_MS,
                              .answer_bytes_max = bytes_max,
                              .ca_file = i->c.ca_file};
    struct error e;
    i->fetching = url;
    i->o->stats.fetches++;
    if (fetch_start(i->o->fetcher, &r, cb, i, &i->fetch, &e) != RC_OK) {
        i->fetch = NULL;
        failed(i, e.message);
    }
}

/* The answer's body, or NULL after failed(). */
static const char *body_of(struct issuer *i, const struct fetch_answer *a, const struct error *e)
{
    char why[64];
    i->fetch = NULL;
    if (a && a->status == 200)
        return a->body;
    snprintf(why, sizeof why, "status %d", a ? a->status : 0);
    failed(i, a ? why : e->message);
    return NULL;
}

static void on_keys(const struct fetch_answer *a, const struct error *fetch_error, void *arg)
{
    struct issuer *i = arg;
    struct oidc *o = i->o;
    struct jwks *keys;
    struct hash h;
    struct error e;

    if (!body_of(i, a, fetch_error))
        return;
    if (jwks_parse(&keys, a->body, a->n, &e) != RC_OK) {
        failed(i, e.message);
        return;
    }
    bool hashed = EVP_Digest(a->body, a->n, (unsigned char *)&h, NULL, o->sha256, NULL) == 1;
    if (!hashed || !i->keys || !hash_equal(&h, &i->keys_hash)) {
        token_cache_clear(o->cache);
        forgery_forget_tokens(o->forgery);
        if (o->log)
            log_info(o->log, "auth", "an issuer's keys were read", LOG_S("issuer", i->c.name), LOG_I("keys", keys->n),
                     LOG_I("left_out", keys->skipped));
    }
    jwks_free(i->keys);
    i->keys = keys;
    i->keys_hash = h;
    i->failures = 0;
    i->fetched = clock_now(o->clock);
    i->next.ns = i->fetched.ns + or_default(i->c.refetch_ms, REFETCH_MS_DEFAULT) * NS_PER_MS;
    wake(i);
}

/* Where the discovery document says the keys are; NULL after failed(). The document must be the issuer's own: one that
 * names another issuer could hand out keys for it (OpenID Connect Discovery 1.0, section 4.3). */
static const char *keys_url_of(struct issuer *i, const cJSON *doc)
{
    const char *issuer = NULL, *url = NULL;
    struct error e;
    struct oidc_issuer probe = i->c;

    if (!cJSON_IsObject(doc) || json_get_string(doc, "issuer", &issuer, NULL, &e) != RC_OK || !issuer ||
        strcmp(issuer, i->c.issuer) != 0) {
        failed(i, "the discovery document is not this issuer's");
        return NULL;
    }
    if (json_get_string(doc, "jwks_uri", &url, NULL, &e) != RC_OK || !url) {
        failed(i, "the discovery document has no jwks_uri");
        return NULL;
    }
    probe.jwks_url = url;
    if (oidc_issuer_check(&probe, &e) != RC_OK) {
        failed(i, e.message);
        return NULL;
    }
    return url;
}

static void on_discovery(const struct fetch_answer *a, const struct error *fetch_error, void *arg)
{
    struct issuer *i = arg;
    struct error e;
    cJSON *doc = NULL;

    if (!body_of(i, a, fetch_error))
        return;
    if (json_parse(a->body, a->n, 16, &doc, &e) != RC_OK) {
        failed(i, "the discovery document is not JSON");
        return;
    }
    const char *url = keys_url_of(i, doc);
    if (url)
        start(i, url, JWKS_BYTES_MAX, on_keys);
    i->fetching = "jwks_uri of the discovery document"; /* url goes with the document */
    cJSON_Delete(doc);
}

static void issuer_fetch(struct issuer *i)
{
    if (i->c.jwks_url)
        start(i, i->c.jwks_url, JWKS_BYTES_MAX, on_keys);
    else
        start(i, i->c.discovery_url, DISCOVERY_BYTES_MAX, on_discovery);
}

/* ---- tokens ----------------------------------------------------------------------------------------------------- */

static struct issuer *issuer_of(struct oidc *o, const struct jwt *t)
{
    const cJSON *iss = cJSON_GetObjectItemCaseSensitive(t->claims, "iss");
    for (int i = 0; cJSON_IsString(iss) && i < o->n; i++)
        if (strcmp(o->issuers[i].c.issuer, iss->valuestring) == 0)
            return &o->issuers[i];
    return NULL;
}

/* The costly part. RC_NOT_FOUND as in judge(). */
static enum rc check_signature(struct oidc *o, const struct jwt *t, const struct jwk *key, const struct hash *h,
                               const char *peer, struct auth_refusal *r)
{
    int wait_s = forgery_wait_s(o->forgery, peer);
    if (wait_s) {
        auth_refusal_set(r, AUTH_TOO_MANY_BAD,
                         "too many tokens with a bad signature from this address; try again in %d s", wait_s);
        r->retry_after_s = wait_s;
        return RC_DENIED;
    }
    o->stats.signatures++;
    enum rc rc = jwt_verify(t, key, r);
    if (rc == RC_OK)
        return rc;
    /* One that names no key may be signed with a key that is newer than ours: worth a look, like an unknown key id, and
     * not yet a bad token for good. */
    forgery_found(o->forgery, t->kid ? h : NULL, peer);
    return t->kid ? rc : RC_NOT_FOUND;
}

struct asked { /* what is judged */
    const struct jwt *t;
    const struct hash *hash;
    const char *peer;
    int64_t now_s;
};

/* RC_NOT_FOUND: refused with *r, but fetching the issuer's keys may change that. */
static enum rc judge(struct issuer *i, const struct asked *a, struct identity **who, int64_t *until_s,
                     struct auth_refusal *r)
{
    const struct jwt *t = a->t;
    int64_t now_s = a->now_s;
    const struct jwk *key;
    enum rc rc = claims_check(t->claims, &i->c, now_s, NULL, until_s, r);
    if (rc == RC_OK && i->c.algs && !(i->c.algs & 1u << t->alg))
        rc = auth_refuse(r, AUTH_TOKEN_INVALID, "the token's algorithm is not one of those configured for its issuer");
    if (rc == RC_OK && !keys_usable(i)) {
        auth_refusal_set(r, AUTH_UNAVAILABLE, "the keys of the token's issuer cannot be had at the moment");
        return RC_NOT_FOUND;
    }
    if (rc == RC_OK)
        rc = jwks_find(i->keys, t, &key, r);
    if (rc == RC_OK)
        rc = check_signature(i->o, t, key, a->hash, a->peer, r);
    if (rc == RC_OK)
        rc = claims_check(t->claims, &i->c, now_s, who, until_s, r);
    return rc;
}

/* *i: the issuer, once it is known. */
static enum rc check(struct oidc *o, const struct oidc_question *q, struct issuer **i, struct identity **who,
                     struct auth_refusal *r)
{
    const char *token = q->token;
    size_t n = q->n;
    struct jwt t;
    struct hash h;
    int64_t now_s = clock_wall(o->clock).ns / NS_PER_S, until_s = 0;

    *i = NULL;
    *who = NULL;
    if (n > JWT_BYTES_MAX)
        return auth_refuse(r, AUTH_TOKEN_INVALID, "the token is larger than %d bytes", JWT_BYTES_MAX);
    SPW_ASSERT(EVP_Digest(token, n, (unsigned char *)&h, NULL, o->sha256, NULL) == 1);
    *who = token_cache_get(o->cache, &h, now_s);
    if (*who) {
        o->stats.hits++;
        return RC_OK;
    }
    if (forgery_known(o->forgery, &h))
        return auth_refuse(r, AUTH_TOKEN_INVALID, "the token's signature is not valid");
    enum rc rc = jwt_parse(&t, token, n, r);
    if (rc != RC_OK)
        return rc;
    const struct asked a = {.t = &t, .hash = &h, .peer = q->peer, .now_s = now_s};
    *i = issuer_of(o, &t);
    if (!*i)
        rc = auth_refuse(r, AUTH_TOKEN_INVALID, "the token's issuer is not one that is trusted here");
    else
        rc = judge(*i, &a, who, &until_s, r);
    if (rc == RC_OK) {
        o->stats.verified++;
        token_cache_put(o->cache, &h, *who, until_s < now_s + OIDC_CACHE_S ? until_s : now_s + OIDC_CACHE_S);
    }
    jwt_fini(&t);
    return rc;
}

enum rc oidc_check(struct oidc *o, const struct oidc_question *q, struct identity **who, struct auth_refusal *r,
                   auth_cb *cb, void *arg, struct auth_wait **wait)
{
    struct issuer *i;
    enum rc rc = check(o, q, &i, who, r);

    *wait = NULL;
    if (rc == RC_OK && i && keys_due(i))
        (void)fetch_helps(i);
    if (rc == RC_NOT_FOUND && i && fetch_helps(i)) {
        if (o->stats.waiting < OIDC_WAITS_MAX) {
            struct auth_wait *w = spw_calloc(1, sizeof *w);
            *w = (struct auth_wait){
                .o = o, .i = i, .token = spw_strndup(q->token, q->n), .n = q->n, .cb = cb, .arg = arg};
            snprintf(w->peer, sizeof w->peer, "%s", q->peer ? q->peer : "");
            TAILQ_INSERT_TAIL(&o->waits, w, link);
            o->stats.waiting++;
            *wait = w;
            return RC_AGAIN;
        }
        auth_refusal_set(r, AUTH_UNAVAILABLE, "too many requests wait for the keys of the token's issuer");
    }
    if (rc == RC_OK)
        return RC_OK;
    o->stats.refused++;
    return RC_DENIED;
}

static void wait_free(struct auth_wait *w)
{
    TAILQ_REMOVE(w->ready ? &w->o->ready : &w->o->waits, w, link);
    w->o->stats.waiting--;
    explicit_bzero(w->token, w->n);
    free(w->token);
    free(w);
}

void oidc_cancel(struct auth_wait *w)
{
    wait_free(w);
}

/* A few waits per turn: each may cost a signature. */
static void turn_cb(evutil_socket_t fd, short what, void *arg)
{
    struct oidc *o = arg;
    struct auth_wait *w;
    (void)fd;
    (void)what;
    /* NOLINTBEGIN(clang-analyzer-unix.Malloc): the analyzer does not see that wait_free() takes the first from the list */
    for (int k = 0; k < WAITS_PER_TURN && (w = TAILQ_FIRST(&o->ready)); k++) {
        struct identity *who;
        struct auth_refusal r;
        struct issuer *i;
        auth_cb *cb = w->cb;
        void *cb_arg = w->arg;
        const struct oidc_question q = {w->token, w->n, w->peer};
        enum rc rc = check(o, &q, &i, &who, &r); /* does not wait again, whatever it finds */
        wait_free(w);
        if (rc != RC_OK)
            o->stats.refused++;
        cb(rc == RC_OK ? who : NULL, rc == RC_OK ? NULL : &r, cb_arg);
    }
    /* NOLINTEND(clang-analyzer-unix.Malloc) */
    if (!TAILQ_EMPTY(&o->ready))
        event_active(o->turn, EV_TIMEOUT, 0);
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

static const char *copy(struct arena *a, const char *s)
{
    return s ? arena_strndup(a, s, strlen(s)) : NULL;
}

static void issuer_init(struct issuer *i, struct oidc *o, const struct oidc_issuer *c)
{
    struct arena *a = o->arena;
    size_t n = strlen(c->issuer);
    *i = (struct issuer){.o = o, .c = *c};
    i->c.name = copy(a, c->name);
    i->c.issuer = copy(a, c->issuer);
    i->c.jwks_url = copy(a, c->jwks_url);
    i->c.discovery_url = c->discovery_url ? copy(a, c->discovery_url)
                                          : arena_printf(a, "%.*s/.well-known/openid-configuration",
                                                         (int)(n && c->issuer[n - 1] == '/' ? n - 1 : n), c->issuer);
    i->c.ca_file = copy(a, c->ca_file);
    const char **audiences = arena_alloc(a, (size_t)c->n_audiences * sizeof(const char *));
    for (int k = 0; k < c->n_audiences; k++)
        audiences[k] = copy(a, c->audiences[k]);
    i->c.audiences = audiences;
    i->c.tenant = copy(a, c->tenant);
    i->c.tenant_claim = copy(a, c->tenant_claim);
    i->c.team_claim = copy(a, c->team_claim);
    i->c.project_claim = copy(a, c->project_claim);
    i->c.user_claim = copy(a, c->user_claim);
    i->c.models_claim = copy(a, c->models_claim);
    i->c.scope_claim = copy(a, c->scope_claim);
    i->c.scope_prefix = copy(a, c->scope_prefix);
    i->c.rate_class = copy(a, c->rate_class);
}

static enum rc check_issuers(const struct oidc_issuer *issuers, int n, struct error *e)
{
    if (n > OIDC_ISSUERS_MAX)
        return error_set(e, RC_INVALID, "up to %d issuers are allowed", OIDC_ISSUERS_MAX);
    for (int i = 0; i < n; i++) {
        enum rc rc = oidc_issuer_check(&issuers[i], e);
        if (rc != RC_OK)
            return rc;
        for (int k = 0; k < i; k++)
            if (strcmp(issuers[i].issuer, issuers[k].issuer) == 0 || strcmp(issuers[i].name, issuers[k].name) == 0)
                return error_set(e, RC_INVALID, "issuers %s and %s: names and URLs must be unique", issuers[k].name,
                                 issuers[i].name);
    }
    return RC_OK;
}

enum rc oidc_new(struct oidc **out, const struct oidc_issuer *issuers, int n, struct event_base *loop,
                 struct fetcher *fetcher, const struct clock *clock, const struct log *log, struct error *e)
{
    *out = NULL;
    enum rc rc = check_issuers(issuers, n, e);
    if (rc != RC_OK)
        return rc;
    struct oidc *o = spw_calloc(1, sizeof *o);
    o->arena = arena_new((size_t)16 << 20);
    o->fetcher = fetcher;
    o->clock = clock;
    o->log = log;
    TAILQ_INIT(&o->waits);
    TAILQ_INIT(&o->ready);
    o->issuers = spw_calloc((size_t)n + 1, sizeof *o->issuers);
    o->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    o->turn = event_new(loop, -1, 0, turn_cb, o);
    rc = token_cache_new(&o->cache, OIDC_CACHE_MAX, e);
    if (rc == RC_OK)
        rc = forgery_new(&o->forgery, clock, e);
    if (rc == RC_OK && (!o->sha256 || !o->turn))
        rc = error_set(e, RC_INTERNAL, "OpenSSL offers no SHA-256, or the loop takes no event");
    if (rc != RC_OK) {
        oidc_free(o);
        return rc;
    }
    o->n = n;
    for (int i = 0; i < n; i++) {
        issuer_init(&o->issuers[i], o, &issuers[i]);
        issuer_fetch(&o->issuers[i]);
    }
    *out = o;
    return RC_OK;
}

static void refuse_all(struct waits *q, struct auth_refusal *r)
{
    struct auth_wait *w;
    while ((w = TAILQ_FIRST(q))) {
        auth_cb *cb = w->cb; /* NOLINT(clang-analyzer-unix.Malloc): as in turn_cb() */
        void *arg = w->arg;
        wait_free(w);
        cb(NULL, r, arg);
    }
}

void oidc_free(struct oidc *o)
{
    struct auth_refusal r;
    if (!o)
        return;
    auth_refusal_set(&r, AUTH_UNAVAILABLE, "the configuration is being replaced, or the service ends");
    refuse_all(&o->waits, &r);
    refuse_all(&o->ready, &r);
    for (int i = 0; i < o->n; i++) {
        if (o->issuers[i].fetch)
            fetch_cancel(o->issuers[i].fetch);
        jwks_free(o->issuers[i].keys);
    }
    token_cache_free(o->cache);
    forgery_free(o->forgery);
    EVP_MD_free(o->sha256);
    if (o->turn)
        event_free(o->turn);
    arena_free(o->arena);
    free(o->issuers);
    free(o);
}

struct oidc_stats oidc_stats(const struct oidc *o)
{
    struct oidc_stats s = o->stats;
    s.cached = token_cache_count(o->cache);
    return s;
}
