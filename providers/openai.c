/* Provider `openai`: paid APIs as capacity without nodes. Nothing to launch and nothing to end: what it can be asked is
 * what a token costs there (from a price list, by the day and hour) and whether the account works: its key, the models
 * that it may use, and what is left of its quota.
 *
 * Requests themselves go to nodes of the configuration whose url is the API's; how its 429s are respected is the
 * business of the front (scheduler/nodes/holds.c). What check() is told by a 429 holds back this provider's offers for
 * as long.
 *
 * The key comes from a file or from the environment, is read for each call, and goes to the configured address
 * alone. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/fetch.h"
#include "base/file.h"
#include "base/json.h"
#include "base/worker.h"
#include "providers/catalogue.h"
#include "providers/provider.h"

#define URL_DEFAULT "https://api.openai.com/v1"
#define CHECK_MS    15000
#define ANSWER_MAX  ((size_t)8 << 20)
#define QUEUE_MAX   256 /* questions at once: more than there are pools */
#define MODELS_MAX  256
#define JSON_DEPTH  32
#define COLD_S_MAX  86400

static const struct provider_key api_keys[] = {
    {"url", KEY_URL, false, URL_DEFAULT, "The API, with its version: `https://api.deepseek.com/v1`."},
    {"api_key_file", KEY_SECRET_FILE, false, NULL, "File with the key."},
    {"api_key_env", KEY_TEXT, false, NULL, "Name of the environment variable with the key, instead of a file."},
    {"ca_file", KEY_FILE, false, NULL, "Who signed its certificate; the system's authorities without it."},
    {"prices", KEY_FILE, false, NULL, "Price list: CSV, YAML or JSON (`spillway prices check FILE`)."},
    {"prices_of", KEY_TEXT, false, NULL,
     "What the price list calls this API; without it, its provider of each model's lowest price."},
    {"models", KEY_LIST, false, NULL, "Models to use of it; without it, all that the price list has of it."},
    {0}};

struct api {
    struct provider base;
    struct provider_env env;
    struct fetcher *fetcher;
    struct worker *worker;
    char *name;
    struct provider_settings settings; /* copied */
    struct provider_pair *pairs;
    struct check *checks;
    int64_t cold_until_s; /* Unix time: a 429 said so */
};

static struct api *self(struct provider *p)
{
    SPW_ASSERT(p->ops == &provider_openai);
    return (struct api *)p;
}

static int64_t now_s(const struct api *a)
{
    return clock_wall(a->env.clock).ns / NS_PER_S;
}

/* ---- offers --------------------------------------------------------------------------------------------------------- */

struct price_question { /* read on the worker's thread, answered on the loop */
    struct api *api;
    char *path;
    struct price_table table;
    enum rc rc;
    struct error why;
    int lost;
    provider_offer_cb *each;
    provider_done_cb *done;
    void *arg;
};

static void on_lost(int line, const char *text, void *arg)
{
    struct price_question *q = arg;
    (void)line;
    (void)text;
    q->lost++;
}

static void read_prices(void *arg)
{
    struct price_question *q = arg;
    q->rc = price_table_load(&q->table, q->path, on_lost, q, &q->why);
}

static void tell_offer(const struct price_question *q, const struct price_api *price, const char *model)
{
    const struct api *a = q->api;
    char id[256], source[300];
    int64_t cold = a->cold_until_s - now_s(a);
    snprintf(id, sizeof(id), "%s/%s", a->name, model);
    snprintf(source, sizeof(source), "catalogue %s", q->path);
    const struct provider_offer o = {.id = id,
                                     .type = "api",
                                     .region = "",
                                     .zone = "",
                                     .market = PROVIDER_API,
                                     .price_source = source,
                                     .price_at_s = price->from_s,
                                     .launchable = cold <= 0,
                                     .cold_s = cold > 0 ? (int32_t)cold : 0,
                                     .model = model,
                                     .prices = price->prices};
    q->each(&o, q->arg);
}

/* Those that are named, or all that the list has of this API, each once. */
static int tell_offers(struct price_question *q, char *missing, size_t size)
{
    const char *names = provider_setting(&q->api->settings, "models"), *word;
    const char *whose = provider_setting(&q->api->settings, "prices_of");
    const int64_t at_s = now_s(q->api);
    int n = 0;
    size_t len;
    while (names && (len = provider_setting_word(&names, &word)) > 0) {
        char model[200];
        snprintf(model, sizeof(model), "%.*s", (int)len, word);
        const struct price_api *p = price_api_find(&q->table, whose, model, at_s);
        if (p)
            tell_offer(q, p, model);
        else
            snprintf(missing, size, "%s has no price of %s", q->path, model);
        n += p != NULL;
    }
    if (provider_setting(&q->api->settings, "models"))
        return n;
    for (int i = 0; i < q->table.n_apis && n < MODELS_MAX; i++) {
        const struct price_api *p = &q->table.apis[i];
        if (price_api_find(&q->table, whose, p->model, at_s) != p)
            continue;
        tell_offer(q, p, p->model);
        n++;
    }
    return n;
}

static void on_prices(enum rc rc, void *arg)
{
    struct price_question *q = arg;
    char text[600] = "";
    enum provider_failure failure = PROVIDER_FINE;
    if (rc != RC_OK) { /* we are closed */
        if (q->rc == RC_OK)
            price_table_fini(&q->table);
        free(q->path);
        free(q);
        return;
    }
    if (q->rc != RC_OK) {
        failure = PROVIDER_INVALID;
        snprintf(text, sizeof(text), "%s", q->why.message);
    } else if (tell_offers(q, text, sizeof(text)) == 0 || text[0]) {
        failure = PROVIDER_INVALID;
        if (!text[0])
            snprintf(text, sizeof(text), "%s has no price of this API; prices_of says what it calls it", q->path);
    }
    if (q->lost)
        log_warn(q->api->env.log, "provider", "rows of a price list cannot be read; spillway prices check names them",
                 LOG_S("text", q->path));
    if (q->rc == RC_OK)
        price_table_fini(&q->table);
    q->done(failure, text, q->arg);
    free(q->path);
    free(q);
}

/* Whoever asks does so once per pool, so the queue is never full. */
static void api_offers(struct provider *base, const struct provider_settings *pool, provider_offer_cb *each,
                       provider_done_cb *done, void *arg)
{
    struct api *a = self(base);
    const char *path = provider_setting(&a->settings, "prices");
    struct price_question *q = spw_calloc(1, sizeof(*q));
    (void)pool;
    *q = (struct price_question){.api = a,
                                 .path = spw_strdup(path ? path : "(no price list: set prices)"),
                                 .each = each,
                                 .done = done,
                                 .arg = arg};
    q->rc = RC_FULL;
    if (worker_submit(a->worker, read_prices, on_prices, q) == RC_OK)
        return;
    log_warn(a->env.log, "provider", "too many questions for prices at once");
    free(q->path);
    free(q);
}

/* ---- check ---------------------------------------------------------------------------------------------------------- */

struct check {
    struct check *next;
    struct api *api;
    struct fetch *fetch;
    struct event *timer; /* of what failed before a call */
    struct error why;
    provider_check_cb *each;
    provider_done_cb *done;
    void *arg;
};

static void end_check(struct check *k, enum provider_failure failure, const char *text)
{
    struct check **link = &k->api->checks;
    while (*link != k)
        link = &(*link)->next;
    *link = k->next;
    provider_done_cb *done = k->done;
    void *arg = k->arg;
    char copy[600];
    snprintf(copy, sizeof(copy), "%s", text);
    if (k->timer)
        event_free(k->timer);
    free(k);
    done(failure, copy, arg);
}

static enum rc read_key(const struct api *a, char **key, struct error *e)
{
    const char *file = provider_setting(&a->settings, "api_key_file"),
               *name = provider_setting(&a->settings, "api_key_env");
    if (file)
        return file_read_secret(key, file, e);
    const char *value = getenv(name);
    if (!value || !value[0])
        return error_set(e, RC_INVALID, "the environment has no %.60s", name);
    *key = spw_strdup(value);
    return RC_OK;
}

static bool lists_model(const cJSON *doc, const char *model, size_t n)
{
    const cJSON *m;
    cJSON_ArrayForEach(m, json_find(doc, "data"))
    {
        const cJSON *id = json_find(m, "id");
        if (cJSON_IsString(id) && strlen(id->valuestring) == n && strncmp(id->valuestring, model, n) == 0)
            return true;
    }
    return false;
}

static void tell_models(const struct check *k, const cJSON *doc)
{
    const char *names = provider_setting(&k->api->settings, "models"), *word;
    char what[220];
    size_t n;
    while (names && (n = provider_setting_word(&names, &word)) > 0) {
        bool there = lists_model(doc, word, n);
        snprintf(what, sizeof(what), "model %.*s", (int)(n > 200 ? 200 : n), word);
        k->each(what, there, there ? "is listed" : "is not listed by the API: misspelled, or not for this account",
                k->arg);
    }
}

/* The x-ratelimit headers that OpenAI's servers, and many others by their example, send. */
static void tell_quota(const struct check *k, const struct fetch_answer *answer)
{
    static const char *const kinds[] = {"requests", "tokens"};
    for (int i = 0; i < 2; i++) {
        char name[64], left[40], limit[40], text[160];
        snprintf(name, sizeof(name), "x-ratelimit-remaining-%s", kinds[i]);
        const char *v = fetch_answer_header(answer, name);
        snprintf(left, sizeof(left), "%s", v ? v : "");
        snprintf(name, sizeof(name), "x-ratelimit-limit-%s", kinds[i]);
        v = fetch_answer_header(answer, name);
        snprintf(limit, sizeof(limit), "%s", v ? v : "?");
        if (!left[0])
            continue;
        snprintf(text, sizeof(text), "%s of %s %s per minute left", left, limit, kinds[i]);
        k->each("quota", strcmp(left, "0") != 0, text, k->arg);
    }
}

static void on_refused(struct check *k, const struct fetch_answer *answer, const cJSON *doc)
{
    const cJSON *error = json_find(doc, "error"), *message = json_find(error, "message"),
                *code = json_find(error, "code");
    enum provider_failure failure = PROVIDER_INVALID;
    bool quota = cJSON_IsString(code) && strcmp(code->valuestring, "insufficient_quota") == 0;
    char text[300];
    snprintf(text, sizeof(text), "the API answers %d%s%.200s", answer->status, cJSON_IsString(message) ? ": " : "",
             cJSON_IsString(message) ? message->valuestring : "");
    if (answer->status == 401 || answer->status == 403)
        failure = PROVIDER_DENIED;
    else if (answer->status == 429)
        failure = quota ? PROVIDER_QUOTA : PROVIDER_THROTTLED;
    else if (answer->status >= 500)
        failure = PROVIDER_UNREACHABLE;
    if (answer->status == 429 && answer->retry_after_s > 0)
        k->api->cold_until_s =
            now_s(k->api) + (answer->retry_after_s < COLD_S_MAX ? answer->retry_after_s : COLD_S_MAX);
    k->each(failure == PROVIDER_QUOTA || failure == PROVIDER_THROTTLED ? "quota" : "credentials", false, text, k->arg);
    end_check(k, failure, text);
}

static void on_models(const struct fetch_answer *answer, const struct error *e, void *arg)
{
    struct check *k = arg;
    cJSON *doc = NULL;
    struct error ignored;
    k->fetch = NULL;
    if (e) {
        k->each("reachable", false, e->message, k->arg);
        end_check(k, e->code == RC_DENIED ? PROVIDER_DENIED : PROVIDER_UNREACHABLE, e->message);
        return;
    }
    if (json_parse(answer->body, answer->n, JSON_DEPTH, &doc, &ignored) != RC_OK)
        doc = NULL;
    if (answer->status != 200) {
        on_refused(k, answer, doc);
    } else {
        k->each("credentials", true, "the key is accepted", k->arg);
        tell_models(k, doc);
        tell_quota(k, answer);
        end_check(k, PROVIDER_FINE, "");
    }
    cJSON_Delete(doc);
}

static void on_failed(evutil_socket_t fd, short what, void *arg)
{
    struct check *k = arg;
    (void)fd;
    (void)what;
    k->each("credentials", false, k->why.message, k->arg);
    end_check(k, PROVIDER_DENIED, k->why.message);
}

static enum rc ask_models(struct api *a, struct check *k, struct error *e)
{
    char *key = NULL;
    enum rc rc = read_key(a, &key, e);
    if (rc != RC_OK)
        return rc;
    const char *url = provider_setting(&a->settings, "url");
    size_t n = strlen(url);
    char *path = spw_asprintf("%.*s/models", (int)(n && url[n - 1] == '/' ? n - 1 : n), url);
    char *bearer = spw_asprintf("Bearer %s", key);
    const struct http_header headers[] = {{"Authorization", bearer}, {"Accept", "application/json"}};
    const struct fetch_request q = {.url = path,
                                    .headers = headers,
                                    .n_headers = 2,
                                    .deadline_ms = CHECK_MS,
                                    .answer_bytes_max = ANSWER_MAX,
                                    .ca_file = provider_setting(&a->settings, "ca_file")};
    rc = fetch_start(a->fetcher, &q, on_models, k, &k->fetch, e);
    explicit_bzero(key, strlen(key));
    explicit_bzero(bearer, strlen(bearer));
    free(key);
    free(bearer);
    free(path);
    return rc;
}

static void api_check(struct provider *base, provider_check_cb *each, provider_done_cb *done, void *arg)
{
    struct api *a = self(base);
    const struct timeval now = {0};
    struct check *k = spw_calloc(1, sizeof(*k));
    *k = (struct check){.next = a->checks, .api = a, .each = each, .done = done, .arg = arg};
    a->checks = k;
    if (ask_models(a, k, &k->why) == RC_OK)
        return;
    k->fetch = NULL;
    k->timer = evtimer_new(a->env.loop, on_failed, k);
    SPW_ASSERT(k->timer);
    event_add(k->timer, &now);
}

/* ---- the table ------------------------------------------------------------------------------------------------------ */

static void copy_settings(struct api *a, const struct provider_settings *s)
{
    int n = s ? s->n : 0;
    a->pairs = spw_calloc((size_t)n + 1, sizeof(*a->pairs));
    for (int i = 0; i < n; i++)
        a->pairs[i] = (struct provider_pair){spw_strdup(s->pairs[i].key), spw_strdup(s->pairs[i].value)};
    a->settings = (struct provider_settings){api_keys, a->pairs, n};
}

static void api_close(struct provider *base)
{
    if (!base)
        return;
    struct api *a = self(base);
    worker_free(a->worker);
    while (a->checks) {
        struct check *k = a->checks;
        a->checks = k->next;
        if (k->fetch)
            fetch_cancel(k->fetch);
        if (k->timer)
            event_free(k->timer);
        free(k);
    }
    fetcher_free(a->fetcher);
    for (int i = 0; i < a->settings.n; i++) {
        free((char *)(uintptr_t)a->pairs[i].key);
        free((char *)(uintptr_t)a->pairs[i].value);
    }
    free(a->pairs);
    free(a->name);
    free(a);
}

static enum rc api_open(struct provider **out, const struct provider_env *env, struct error *e)
{
    const bool file = provider_setting(env->settings, "api_key_file"),
               name = provider_setting(env->settings, "api_key_env");
    if (file == name)
        return error_set(e, RC_INVALID, "one of api_key_file and api_key_env says where the key is");
    struct api *a = spw_calloc(1, sizeof(*a));
    a->base.ops = &provider_openai;
    a->env = *env;
    a->name = spw_strdup(env->name ? env->name : provider_openai.name);
    copy_settings(a, env->settings);
    enum rc rc = fetcher_new(&a->fetcher, env->loop, e);
    if (rc == RC_OK)
        rc = worker_new(&a->worker, "prices", env->loop, QUEUE_MAX, e);
    if (rc != RC_OK) {
        api_close(&a->base);
        return rc;
    }
    *out = &a->base;
    return RC_OK;
}

const struct provider_ops provider_openai = {
    .name = "openai",
    .caps = PROVIDER_HAS_OFFERS,
    .keys = api_keys,
    .open = api_open,
    .close = api_close,
    .check = api_check,
    .offers = api_offers,
};
