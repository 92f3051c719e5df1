/* Conditions that no single row can see: names given twice, settings that need or exclude one another, files that must
 * be there. And warnings: what is allowed, but probably not meant. */
#include "scheduler/config/config_internal.h"

#include <errno.h>
#include <openssl/ssl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/tls.h"
#include "base/url.h"
#include "scheduler/auth/identity.h"
#include "scheduler/redis/address.h"

int config_main_line(const struct config *c, const char *key)
{
    const int row = config_row(config_tables[CONFIG_TABLE_MAIN], key);
    return row >= 0 ? c->lines[row] : 0;
}

static int node_line(const struct config_node *n, const char *key)
{
    return n->lines[config_row(config_tables[CONFIG_TABLE_NODES], key)];
}

static int key_line(const struct config_key *k, const char *key)
{
    return k->lines[config_row(config_tables[CONFIG_TABLE_KEYS], key)];
}

bool config_is_loopback(const char *address)
{
    return strncmp(address, "unix:", 5) == 0 || url_is_loopback(address);
}

struct tls_server_files config_tls(const struct config *c)
{
    return (struct tls_server_files){c->tls_cert, c->tls_key, c->tls_client_ca, c->tls_client_certs, c->tls_client_crl};
}

struct tls_server_files config_admin_tls(const struct config *c)
{
    return (struct tls_server_files){c->admin_tls_cert, c->admin_tls_key, c->admin_tls_client_ca,
                                     c->admin_tls_client_certs, c->admin_tls_client_crl};
}

/* --- listeners and TLS -------------------------------------------------------------------------------------- */

/* Certificates of clients are asked for with an authority, and where there is TLS. False: a problem was told. */
static bool check_client_certs(struct config_loader *l, const struct tls_server_files *f, const char *ca_key,
                               const char *crl_key, const char *certs_key)
{
    bool wanted = f->client_certs != TLS_CLIENT_CERTS_OFF;

    if (!wanted && !f->client_ca && f->client_crl) {
        config_problem(l, config_main_line(l->c, crl_key), crl_key,
                       "means nothing while %s is off; set it to optional or required", certs_key);
        return false;
    }

    if (wanted == (f->client_ca != NULL) && (!wanted || f->cert || f->key))
        return true;
    if (wanted && !f->client_ca)
        config_problem(l, config_main_line(l->c, certs_key), certs_key,
                       "needs %s beside it: who signs these certificates", ca_key);
    else if (!wanted)
        config_problem(l, config_main_line(l->c, ca_key), ca_key,
                       "means nothing while %s is off; set it to optional or required", certs_key);
    else
        config_problem(l, config_main_line(l->c, certs_key), certs_key,
                       "certificates are shown over TLS alone; set a certificate and key of our own, too");
    return false;
}

/* Both files or none, and they fit together. True: TLS is on. */
static bool check_tls_pair(struct config_loader *l, const char *cert_key, const char *key_key,
                           const struct tls_server_files *f)
{
    const char *cert = f->cert, *key = f->key;
    SSL_CTX *ctx;
    struct error e;

    if (!cert && !key)
        return false;
    if (!key) {
        config_problem(l, config_main_line(l->c, cert_key), cert_key,
                       "needs %s beside it: the certificate's private key", key_key);
    } else if (!cert) {
        config_problem(l, config_main_line(l->c, key_key), key_key, "needs %s beside it: the certificate of this key",
                       cert_key);
    } else if (tls_server_new(&ctx, f, &e) != RC_OK) {
        config_problem(l, config_main_line(l->c, cert_key), cert_key, "%s", e.message);
    } else {
        SSL_CTX_free(ctx);
    }
    return true;
}

static void check_listeners(struct config_loader *l)
{
    const struct config *c = l->c;
    struct sockaddr_un un;

    struct tls_server_files front = config_tls(c), admin = config_admin_tls(c);
    bool admin_tls = admin.cert || admin.key;

    if (check_client_certs(l, &front, "tls.client_ca", "tls.client_crl", "tls.client_certs"))
        check_tls_pair(l, "tls.cert", "tls.key", &front);
    if (check_client_certs(l, &admin, "admin.tls_client_ca", "admin.tls_client_crl", "admin.tls_client_certs"))
        check_tls_pair(l, "admin.tls_cert", "admin.tls_key", &admin);
    if (c->admin_listen && !admin_tls && !config_is_loopback(c->admin_listen))
        config_problem(l, config_main_line(c, "admin.listen"), "admin.listen",
                       "\"%.80s\" is reachable from other machines, so it needs TLS; set admin.tls_cert and "
                       "admin.tls_key, or listen on 127.0.0.1",
                       c->admin_listen);
    if (c->admin_listen && strcmp(c->admin_listen, c->listen) == 0 && !strstr(c->listen, ":0"))
        config_problem(l, config_main_line(c, "admin.listen"), "admin.listen",
                       "the same address as listen; the admin API needs one of its own");
    if (strlen(c->admin_socket) >= sizeof un.sun_path)
        config_problem(
            l, config_main_line(c, "admin.socket"), "admin.socket",
            "\"%.120s\" is too long for a socket (%zu characters at most); set admin.socket to a shorter one",
            c->admin_socket, sizeof un.sun_path - 1);
}

/* --- files -------------------------------------------------------------------------------------------------- */

enum file_need { FILE_READABLE, FILE_EXECUTABLE };

static void check_file(struct config_loader *l, int line, const char *key, const char *path, enum file_need need)
{
    struct stat st;

    if (stat(path, &st) != 0)
        config_problem(l, line, key, "%.200s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        config_problem(l, line, key, "%.200s is not a file", path);
    else if (access(path, need == FILE_EXECUTABLE ? X_OK : R_OK) != 0)
        config_problem(l, line, key, "%.200s may not be %s by this user", path,
                       need == FILE_EXECUTABLE ? "run" : "read");
    else if (st.st_size == 0)
        config_problem(l, line, key, "%.200s is empty", path);
}

/* --- nodes -------------------------------------------------------------------------------------------------- */

static void name_of(char *buf, size_t size, const char *list, int i, const char *key)
{
    snprintf(buf, size, "%s[%d].%s", list, i, key);
}

/* A setting that only the other provider reads would be silently ignored: say so. */
static void check_node_provider(struct config_loader *l, const struct config_node *n, int i)
{
    static const char *const of_process[] = {"engine", "model_path", "port", "threads", "ctx_size", "max_batch"};
    static const char *const of_static[] = {"url",      "api_key_file", "node_key_file",  "tls.ca",
                                            "tls.cert", "tls.key",      "tls.server_name"};
    bool process = n->provider == PROVIDER_PROCESS;
    const char *const *foreign = process ? of_static : of_process;
    int n_foreign = process ? 7 : 6;
    char name[96];

    for (int k = 0; k < n_foreign; k++) {
        name_of(name, sizeof name, "nodes", i, foreign[k]);
        if (node_line(n, foreign[k]))
            config_problem(l, node_line(n, foreign[k]), name,
                           "means nothing for provider %s; remove it, or set "
                           "provider: %s",
                           process ? "process" : "static", process ? "static" : "process");
    }
    const char *needed = process ? "model_path" : "url";
    name_of(name, sizeof name, "nodes", i, needed);
    if (!node_line(n, needed) && (process || !l->c->join.listen)) /* else its engine joins */
        config_problem(l, n->line, name,
                       process ? "this is missing; provider process needs the GGUF file to serve"
                               : "this is missing; provider static needs the server's address, as in "
                                 "http://10.0.0.5:8000");
}

static void check_node_files(struct config_loader *l, const struct config_node *n, int i)
{
    char name[96];

    if (n->provider == PROVIDER_STATIC && n->api_key_file) {
        name_of(name, sizeof name, "nodes", i, "api_key_file");
        check_file(l, node_line(n, "api_key_file"), name, n->api_key_file, FILE_READABLE);
    }
    if (n->provider == PROVIDER_STATIC && n->node_key_file) {
        name_of(name, sizeof name, "nodes", i, "node_key_file");
        check_file(l, node_line(n, "node_key_file"), name, n->node_key_file, FILE_READABLE);
    }
    if (n->provider != PROVIDER_PROCESS)
        return;
    if (n->engine) {
        name_of(name, sizeof name, "nodes", i, "engine");
        check_file(l, node_line(n, "engine"), name, n->engine, FILE_EXECUTABLE);
    }
    if (n->model_path) {
        name_of(name, sizeof name, "nodes", i, "model_path");
        check_file(l, node_line(n, "model_path"), name, n->model_path, FILE_READABLE);
    }
}

/* What is said of TLS fits together, and the node is spoken to over it. */
static void check_node_tls(struct config_loader *l, const struct config_node *n, int i)
{
    static const char *const keys[] = {"tls.ca", "tls.cert", "tls.key", "tls.server_name"};
    const struct tls_client_files files = {n->tls_ca, n->tls_cert, n->tls_key};
    bool https = n->url && strncmp(n->url, "https://", 8) == 0;
    const char *first = NULL;
    char name[96];
    SSL_CTX *ctx;
    struct error e;

    for (int k = 3; k >= 0; k--)
        first = node_line(n, keys[k]) ? keys[k] : first;
    if (!first || n->provider == PROVIDER_PROCESS)
        return;
    name_of(name, sizeof name, "nodes", i, first);
    if (!https) {
        config_problem(l, node_line(n, first), name, "means nothing unless url begins with https://");
    } else if (!n->tls_cert != !n->tls_key) {
        name_of(name, sizeof name, "nodes", i, n->tls_cert ? "tls.cert" : "tls.key");
        config_problem(l, node_line(n, n->tls_cert ? "tls.cert" : "tls.key"), name, "needs %s beside it",
                       n->tls_cert ? "tls.key" : "tls.cert");
    } else if (tls_client_new(&ctx, &files, &e) != RC_OK) {
        config_problem(l, node_line(n, first), name, "%s", e.message);
    } else {
        SSL_CTX_free(ctx);
    }
}

static void check_node_models(struct config_loader *l, const struct config_node *n)
{
    char name[96];
    int line;

    config_server_key(l->c, n, "models", name, sizeof name, &line);
    if (n->n_models == 0 && n->models) /* a missing list is told of already */
        config_problem(l, line, name, "there is no model in it; a node serves at least one");
    for (int a = 0; a < n->n_models; a++) {
        if (!identity_model_ok(n->models[a]) || strchr(n->models[a], '*'))
            config_problem(l, line, name,
                           "\"%.80s\" is not a model name; 1 to 128 printable characters without blanks, quotes or '*'",
                           n->models[a]);
        for (int b = 0; b < a; b++)
            if (strcmp(n->models[a], n->models[b]) == 0) {
                config_problem(l, line, name, "\"%.80s\" is listed twice", n->models[a]);
                b = a;
            }
    }
}

static void check_nodes(struct config_loader *l)
{
    const struct config *c = l->c;
    char name[96];

    if (config_servers(c) == 0)
        config_problem(l, 0, "nodes", "there is no node; add at least one entry with name, url and models");
    for (int i = 0; i < c->n_pools; i++)
        check_node_models(l, &c->pools[i].node);
    for (int i = 0; i < c->n_nodes; i++) {
        const struct config_node *n = &c->nodes[i];
        check_node_provider(l, n, i);
        check_node_files(l, n, i);
        check_node_tls(l, n, i);
        check_node_models(l, n);
        for (int k = 0; k < i; k++) {
            const struct config_node *other = &c->nodes[k];
            if (n->name && other->name && strcmp(n->name, other->name) == 0) {
                name_of(name, sizeof name, "nodes", i, "name");
                config_problem(l, node_line(n, "name"), name,
                               "\"%s\" is also the name of the node at line %d; every "
                               "node needs its own",
                               n->name, other->line);
            }
            if (n->port && n->port == other->port && n->provider == other->provider) {
                name_of(name, sizeof name, "nodes", i, "port");
                config_problem(l, node_line(n, "port"), name, "%d is also the port of the node at line %d", n->port,
                               other->line);
            }
        }
    }
}

/* --- keys --------------------------------------------------------------------------------------------------- */

struct key_ref { /* what is sorted */
    const struct config_key *key;
};

static int by_id(const void *a, const void *b)
{
    const struct config_key *p = ((const struct key_ref *)a)->key, *q = ((const struct key_ref *)b)->key;
    int order = strcmp(p->id, q->id);
    return order ? order : p->line - q->line;
}

static int by_hash(const void *a, const void *b)
{
    const struct config_key *p = ((const struct key_ref *)a)->key, *q = ((const struct key_ref *)b)->key;
    int order = strcmp(p->sha256, q->sha256);
    return order ? order : p->line - q->line;
}

/* Sorted, so that ten thousand keys are not fifty million comparisons. */
static void check_keys_twice(struct config_loader *l, struct key_ref *sorted, int n)
{
    char name[96];

    qsort(sorted, (size_t)n, sizeof sorted[0], by_id);
    for (int i = 1; i < n; i++) {
        const struct config_key *k = sorted[i].key, *before = sorted[i - 1].key;
        name_of(name, sizeof name, "keys", (int)(k - l->c->keys), "id");
        if (strcmp(k->id, before->id) == 0)
            config_problem(l, key_line(k, "id"), name,
                           "\"%s\" is also the id of the key at line %d; every key needs its own", k->id, before->line);
    }
    qsort(sorted, (size_t)n, sizeof sorted[0], by_hash);
    for (int i = 1; i < n; i++) {
        const struct config_key *k = sorted[i].key, *before = sorted[i - 1].key;
        name_of(name, sizeof name, "keys", (int)(k - l->c->keys), "sha256");
        if (strcmp(k->sha256, before->sha256) == 0)
            config_problem(l, key_line(k, "sha256"), name,
                           "the same key as the one at line %d; make another with `spillway keys create --offline`",
                           before->line);
    }
}

static void check_keys(struct config_loader *l)
{
    const struct config *c = l->c;
    struct key_ref *sorted = spw_calloc((size_t)c->n_keys + 1, sizeof *sorted);
    int n = 0;

    for (int i = 0; i < c->n_keys; i++) {
        if (c->keys[i].id && c->keys[i].sha256)
            sorted[n++].key = &c->keys[i];
    }
    check_keys_twice(l, sorted, n);
    free(sorted);
}

/* --- cache and spans ---------------------------------------------------------------------------------------- */

void config_check_main_file(struct config_loader *l, const char *key, const char *path)
{
    if (path)
        check_file(l, config_main_line(l->c, key), key, path, FILE_READABLE);
}

enum rc config_redis_tls(SSL_CTX **ctx, const char *address, const struct tls_client_files *f, struct error *e)
{
    *ctx = NULL;
    return redis_address_is_tls(address) ? tls_client_new(ctx, f, e) : RC_OK;
}

/* keys: of ca, cert and key. */
static void check_redis_tls(struct config_loader *l, const char *address, const struct tls_client_files *f,
                            const char *const keys[3])
{
    const char *named = f->ca ? keys[0] : f->cert ? keys[1] : keys[2];
    SSL_CTX *ctx = NULL;
    struct error e;

    if (!redis_address_is_tls(address) && (f->ca || f->cert || f->key))
        config_problem(l, config_main_line(l->c, named), named,
                       "means nothing for an address without rediss:// before it");
    else if (!f->cert != !f->key)
        config_problem(l, config_main_line(l->c, f->cert ? keys[1] : keys[2]), f->cert ? keys[1] : keys[2],
                       "needs %s beside it", f->cert ? keys[2] : keys[1]);
    else if (config_redis_tls(&ctx, address, f, &e) != RC_OK)
        config_problem(l, config_main_line(l->c, named), named, "%s", e.message);
    SSL_CTX_free(ctx);
}

static void check_budget_store(struct config_loader *l)
{
    static const char *const tls_keys[] = {"budget_store.tls.ca", "budget_store.tls.cert", "budget_store.tls.key"};
    static const char *const of_redis[] = {
        "budget_store.address", "budget_store.db",         "budget_store.username", "budget_store.password_file",
        "budget_store.timeout", "budget_store.dead_after", "budget_store.on_loss",  "budget_store.allowance_usd",
        "budget_store.ledgers", "budget_store.tls.ca",     "budget_store.tls.cert", "budget_store.tls.key"};
    const struct config_budget_shared *c = &l->c->budget_store;
    struct pusd allowance;
    struct error e;

    for (size_t i = 0; i < sizeof of_redis / sizeof of_redis[0] && c->kind != CONFIG_BUDGETS_REDIS; i++) {
        if (config_main_line(l->c, of_redis[i]))
            config_problem(
                l, config_main_line(l->c, of_redis[i]), of_redis[i],
                "means nothing unless budget_store.kind is redis; remove it, or set budget_store.kind: redis");
    }
    if (c->kind == CONFIG_BUDGETS_REDIS)
        check_redis_tls(l, c->address, &(struct tls_client_files){c->tls_ca, c->tls_cert, c->tls_key}, tls_keys);
    config_check_main_file(l, "budget_store.password_file", c->password_file);
    if (c->username && !c->password_file)
        config_problem(l, config_main_line(l->c, "budget_store.username"), "budget_store.username",
                       "needs budget_store.password_file beside it");
    if (pusd_parse(c->allowance, &allowance, &e) != RC_OK)
        config_problem(l, config_main_line(l->c, "budget_store.allowance_usd"), "budget_store.allowance_usd", "%s",
                       e.message);
    if (c->kind == CONFIG_BUDGETS_REDIS && l->c->ledger_off)
        config_problem(l, config_main_line(l->c, "budget_store.kind"), "budget_store.kind",
                       "redis needs a ledger: should the Redis lose its data, the ledgers tell what was spent");
}

static void check_cache(struct config_loader *l)
{
    static const char *const of_redis[] = {
        "cache.redis.address",       "cache.redis.db",    "cache.redis.username", "cache.redis.timeout",
        "cache.redis.password_file", "cache.redis.local", "cache.redis.tls.ca",   "cache.redis.tls.cert",
        "cache.redis.tls.key"};
    static const char *const tls_keys[] = {"cache.redis.tls.ca", "cache.redis.tls.cert", "cache.redis.tls.key"};
    struct config_cache *c = &l->c->cache;
    const struct tls_client_files tls = {c->redis_tls_ca, c->redis_tls_cert, c->redis_tls_key};

    if (!config_main_line(l->c, "cache.redis.local"))
        c->redis_local = config_is_loopback(redis_address_plain(c->redis_address));
    for (size_t i = 0; i < sizeof of_redis / sizeof of_redis[0] && c->mode != CONFIG_CACHE_REDIS; i++) {
        if (config_main_line(l->c, of_redis[i]))
            config_problem(l, config_main_line(l->c, of_redis[i]), of_redis[i],
                           "means nothing unless cache.mode is redis; remove it, or set cache.mode: redis");
    }
    if (c->mode == CONFIG_CACHE_REDIS)
        check_redis_tls(l, c->redis_address, &tls, tls_keys);
    config_check_main_file(l, "cache.redis.password_file", c->redis_password_file);
    if (c->redis_username && !c->redis_password_file)
        config_problem(l, config_main_line(l->c, "cache.redis.username"), "cache.redis.username",
                       "needs cache.redis.password_file beside it");
    if (c->mode == CONFIG_CACHE_LRU && c->entry_bytes_max > c->bytes_max)
        config_problem(
            l,
            config_main_line(l->c, config_main_line(l->c, "cache.max_entry") ? "cache.max_entry" : "cache.max_bytes"),
            config_main_line(l->c, "cache.max_entry") ? "cache.max_entry" : "cache.max_bytes",
            "one answer may be larger (%lld bytes) than all of them together (%lld bytes)",
            (long long)c->entry_bytes_max, (long long)c->bytes_max);
}

/* Of those who are told: where spans, limits of budgets and heads of the audit go. */
static void check_told(struct config_loader *l)
{
    const struct config *c = l->c;

    config_check_main_file(l, "tracing.headers_file", c->tracing.headers_file);
    config_check_main_file(l, "tracing.ca_file", c->tracing.ca_file);
    config_check_main_file(l, "budget_webhook.token_file", c->budget_webhook_token_file);
    config_check_main_file(l, "budget_webhook.ca", c->budget_webhook_ca);
    config_check_main_file(l, "audit.heads.token_file", c->audit.webhook_token_file);
    config_check_main_file(l, "audit.heads.ca", c->audit.webhook_ca);
}

void config_check(struct config_loader *l)
{
    const struct config *c = l->c;

    check_listeners(l);
    check_nodes(l);
    check_keys(l);
    config_check_models(l);
    check_cache(l);
    check_budget_store(l);
    check_told(l);
    config_check_who(l);
    config_check_budgets(l);
    config_check_energy(l);
    config_check_reports(l);
    config_check_calibrations(l);
    config_check_capacity(l);
    if (c->breaker_open_max_ms < c->breaker_open_ms)
        config_problem(l,
                       config_main_line(c, config_main_line(c, "breaker.open") ? "breaker.open" : "breaker.open_max"),
                       config_main_line(c, "breaker.open") ? "breaker.open" : "breaker.open_max",
                       "breaker.open (%lld ms) is longer than breaker.open_max (%lld ms)",
                       (long long)c->breaker_open_ms, (long long)c->breaker_open_max_ms);
    if (c->health_timeout_ms > c->health_interval_ms &&
        config_main_line(c, "health.timeout") + config_main_line(c, "health.interval"))
        config_problem(
            l, config_main_line(c, config_main_line(c, "health.timeout") ? "health.timeout" : "health.interval"),
            config_main_line(c, "health.timeout") ? "health.timeout" : "health.interval",
            "the timeout (%lld ms) is longer than the interval (%lld ms); a check must end before the next",
            (long long)c->health_timeout_ms, (long long)c->health_interval_ms);
}

/* --- warnings ----------------------------------------------------------------------------------------------- */

void config_warn(const struct config *c, struct strbuf *out, int *n, int line, const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    (*n)++;
    if (line)
        (void)strbuf_printf(out, "%s:%d: %s\n", c->path, line, text);
    else
        (void)strbuf_printf(out, "%s: %s\n", c->path, text);
}

/* A model that only nodes off the premises serve is dead for callers whose every key is local_only. */
static void warn_dead_models(const struct config *c, struct strbuf *out, int *n)
{
    bool all_local = !c->auth_off && c->n_keys > 0, here = false;

    for (int i = 0; i < c->n_keys; i++)
        all_local = all_local && c->keys[i].local_only;
    for (int i = 0; all_local && i < c->n_nodes; i++) {
        if (c->nodes[i].local)
            continue;
        config_warn(c, out, n, c->nodes[i].line,
                    "nodes[%d].local: every key is local_only, so node \"%s\" is never used", i, c->nodes[i].name);
    }
    for (int i = 0; i < c->n_keys && !all_local; i++)
        here = here || c->keys[i].local_only;
    bool any_local = false;
    for (int i = 0; i < config_servers(c); i++)
        any_local = any_local || config_server(c, i)->local;
    if (here && !any_local)
        config_warn(c, out, n, 0, "keys: some keys are local_only, but no node is local: they can reach nothing");
}

/* A key's models are compared with what a name stands for. */
static void warn_alias_models(const struct config *c, struct strbuf *out, int *n)
{
    for (int i = 0; i < c->n_keys && c->n_models; i++)
        for (int k = 0; k < c->keys[i].n_models; k++) {
            const struct config_model *m = config_alias(c, c->keys[i].models[k]);
            if (m)
                config_warn(c, out, n, key_line(&c->keys[i], "models"),
                            "keys[%d].models: \"%s\" is an alias and opens nothing; write \"%s\"", i,
                            c->keys[i].models[k], m->name);
        }
}

/* A key that may ask for a model, and may use nobody who would answer for it. */
static void warn_closed_chains(const struct config *c, struct strbuf *out, int *n)
{
    const char *chain[CONFIG_CHAIN_MAX];

    for (int m = 0; m < c->n_models; m++) {
        int n_chain = config_model_chain(c, c->models[m].name, chain);
        for (int i = 0; i < c->n_keys; i++) {
            const struct config_key *k = &c->keys[i];
            struct identity who = {.models = k->models, .n_models = k->n_models};
            bool opens = !identity_may_use(&who, c->models[m].name);
            for (int s = 0; s < n_chain && !opens; s++)
                opens = identity_may_use(&who, chain[s]);
            if (!opens)
                config_warn(
                    c, out, n, key_line(k, "models"),
                    "keys[%d].models: \"%s\" stands for models that this key may not use, so it opens nothing; add "
                    "\"%s\"",
                    i, c->models[m].name, chain[0]);
        }
    }
}

/* A process node without `engine` runs the spillway-engine beside this program. */
static bool engine_beside_us(void)
{
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - sizeof "spillway-engine");

    while (n > 0 && path[n - 1] != '/')
        n--;
    if (n <= 0)
        return true; /* not known */
    memcpy(path + n, "spillway-engine", sizeof "spillway-engine");
    return access(path, X_OK) == 0;
}

int config_warnings(const struct config *c, struct strbuf *out)
{
    int n = 0;

    if (c->auth_off && !config_is_loopback(c->listen))
        config_warn(c, out, &n, config_main_line(c, "auth.mode"),
                    "auth: off, and listen is \"%s\": everybody who reaches it is served", c->listen);
    if (!c->auth_off && c->n_keys + c->n_issuers == 0)
        config_warn(c, out, &n, config_main_line(c, "auth.mode"),
                    "auth: neither keys nor issuers here: only keys made by `spillway keys create` are let in");
    if (c->ledger_off)
        config_warn(c, out, &n, config_main_line(c, "ledger.mode"), "ledger: off: nothing is written of who used what");
    if (!c->tls_cert && !config_is_loopback(c->listen))
        config_warn(c, out, &n, config_main_line(c, "listen"),
                    "listen: plain HTTP beyond loopback; set tls.cert and tls.key, or put "
                    "a TLS proxy before it");
    for (int i = 0; i < c->n_nodes; i++) {
        const struct config_node *node = &c->nodes[i];
        if (node->provider == PROVIDER_PROCESS && !node->engine && !engine_beside_us())
            config_warn(c, out, &n, node->line,
                        "nodes[%d].engine: there is no spillway-engine beside this program; give its path", i);
        if (!node->local && node->prices.input.uusd_per_mtok == 0 && node->prices.output.uusd_per_mtok == 0)
            config_warn(c, out, &n, node->line,
                        "nodes[%d].price: node \"%s\" is not local and has no price: it looks free "
                        "of charge",
                        i, node->name);
        if (node->prices.cached_input.uusd_per_mtok > node->prices.input.uusd_per_mtok)
            config_warn(c, out, &n, node_line(node, "price.cached_input"),
                        "nodes[%d].price.cached_input: dearer than input", i);
    }
    if (c->cache.mode == CONFIG_CACHE_REDIS && !redis_address_is_tls(c->cache.redis_address) &&
        !config_is_loopback(redis_address_plain(c->cache.redis_address)))
        config_warn(c, out, &n, config_main_line(c, "cache.redis.address"),
                    "cache.redis.address: answers travel to \"%s\" in plain text; write rediss:// before it for TLS",
                    c->cache.redis_address);
    warn_dead_models(c, out, &n);
    warn_alias_models(c, out, &n);
    warn_closed_chains(c, out, &n);
    config_warn_budgets(c, out, &n);
    config_warn_reports(c, out, &n);
    config_warn_energy(c, out, &n);
    config_warn_calibrations(c, out, &n);
    config_warn_capacity(c, out, &n);
    config_warn_slos(c, out, &n);
    config_warn_power(c, out, &n);
    return n;
}
