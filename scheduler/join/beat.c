#include "scheduler/join/beat.h"

#include <string.h>

#include "base/json.h"
#include "base/text.h"

#define COUNT_MAX   1000000
#define TOKENS_MAX  INT64_C(1000000000000)
#define MW_MAX      INT64_C(1000000000)
#define SECONDS_MAX INT64_C(31536000)

static const char *const sleep_words[] = {"awake", "falling_asleep", "asleep", "waking"};
static const char *const watts_words[] = {"unknown", "estimated", "measured"};

const char *node_sleep_name(enum node_sleep s)
{
    return s < NODE_SLEEP_UNKNOWN ? sleep_words[s] : "unknown";
}

/* A member that is a text; too long a one is refused, a missing one is "". */
static enum rc get_text(const cJSON *o, const char *key, char *out, size_t size, struct error *e)
{
    const char *text = NULL;
    enum rc rc = json_get_string(o, key, &text, NULL, e);
    if (rc == RC_OK && text && strlen(text) >= size)
        rc = error_set(e, RC_INVALID, "\"%s\" has at most %zu bytes", key, size - 1);
    if (rc == RC_OK)
        text_put(out, out + size, text ? text : "");
    return rc;
}

static enum rc get_count(const cJSON *o, const char *key, int *out, struct error *e)
{
    int64_t v = 0;
    enum rc rc = json_get_int(o, key, 0, COUNT_MAX, &v, NULL, e);
    *out = (int)v;
    return rc;
}

/* The place of a member's word in the list; missing or unknown: `fallback`, so that newer engines may say more. */
static enum rc get_word(const cJSON *o, const char *key, const char *const *words, int n, int fallback, int *out,
                        struct error *e)
{
    const char *text = NULL;
    enum rc rc = json_get_string(o, key, &text, NULL, e);
    *out = fallback;
    for (int i = 0; rc == RC_OK && text && i < n; i++) {
        if (strcmp(words[i], text) == 0)
            *out = i;
    }
    return rc;
}

static enum rc parse(const char *text, size_t n, cJSON **root, struct error *e)
{
    if (n > BEAT_BODY_MAX)
        return error_set(e, RC_FULL, "the body has at most %zu bytes", BEAT_BODY_MAX);
    enum rc rc = json_parse(text, n, BEAT_DEPTH, root, e);
    if (rc == RC_OK && !cJSON_IsObject(*root)) {
        cJSON_Delete(*root);
        *root = NULL;
        return error_set(e, RC_INVALID, "the body is a JSON object");
    }
    return rc;
}

/* As a host in an address: a name, or a literal without brackets. */
static bool is_host(const char *s)
{
    return !*s || text_is_word(s, "-_.:%", SIZE_MAX);
}

enum rc node_hello_read(struct node_hello *h, const char *text, size_t n, struct error *e)
{
    cJSON *root = NULL;
    int64_t port = 0;
    *h = (struct node_hello){.port = 0};
    enum rc rc = parse(text, n, &root, e);
    if (rc != RC_OK)
        return rc;
    rc = get_text(root, "token", h->token, sizeof h->token, e);
    if (rc == RC_OK)
        rc = get_text(root, "request", h->request, sizeof h->request, e);
    if (rc == RC_OK)
        rc = get_text(root, "host", h->host, sizeof h->host, e);
    if (rc == RC_OK)
        rc = get_text(root, "model", h->model, sizeof h->model, e);
    if (rc == RC_OK)
        rc = get_text(root, "version", h->version, sizeof h->version, e);
    if (rc == RC_OK)
        rc = get_text(root, "life", h->life, sizeof h->life, e);
    if (rc == RC_OK)
        rc = json_get_int(root, "port", 1, 65535, &port, NULL, e);
    h->port = (int)port;
    if (rc == RC_OK && !h->request[0])
        rc = error_set(e, RC_INVALID, "\"request\" is missing: a request for a certificate in PEM form");
    if (rc == RC_OK && !h->port)
        rc = error_set(e, RC_INVALID, "\"port\" is missing: where the engine serves");
    if (rc == RC_OK && !is_host(h->host))
        rc = error_set(e, RC_INVALID, "\"host\" is a host name or an address");
    cJSON_Delete(root);
    return rc;
}

static enum rc read_card(const cJSON *o, struct node_card *card, struct error *e)
{
    int64_t context = 0;
    char numerics[NUMERICS_DIGITS + 2];
    enum rc rc = get_text(o, "numerics", numerics, sizeof numerics, e);
    if (rc == RC_OK && strlen(numerics) == NUMERICS_DIGITS && strspn(numerics, "0123456789abcdef") == NUMERICS_DIGITS)
        memcpy(card->numerics, numerics, sizeof card->numerics);
    if (rc == RC_OK)
        rc = json_get_bool(o, "resume", &card->resume, NULL, e);
    if (rc == RC_OK)
        rc = get_count(o, "slots", &card->slots, e);
    if (rc == RC_OK)
        rc = json_get_int(o, "context", 0, COUNT_MAX * 100, &context, NULL, e);
    if (rc == RC_OK)
        rc = json_get_int(o, "kv_tokens", 0, TOKENS_MAX, &card->kv_tokens, NULL, e);
    card->context = (int)context;
    card->resume = card->resume && card->numerics[0];
    return rc;
}

static enum rc read_power(const cJSON *o, struct node_beat *b, struct error *e)
{
    int from = NODE_WATTS_UNKNOWN;
    enum rc rc = get_word(o, "watts_are", watts_words, 3, NODE_WATTS_UNKNOWN, &from, e);
    if (rc == RC_OK)
        rc = json_get_int(o, "milliwatts", 0, MW_MAX, &b->milliwatts, NULL, e);
    if (rc == RC_OK)
        rc = json_get_int(o, "millijoules", 0, INT64_MAX / 2, &b->millijoules, NULL, e);
    b->watts_are = (enum node_watts)from;
    if (b->watts_are == NODE_WATTS_UNKNOWN)
        b->milliwatts = b->millijoules = 0;
    return rc;
}

static enum rc read_load(const cJSON *o, struct node_beat *b, struct error *e)
{
    enum rc rc = get_count(o, "queue", &b->queue, e);
    if (rc == RC_OK)
        rc = get_count(o, "running", &b->running, e);
    if (rc == RC_OK)
        rc = json_get_int(o, "kv_free_tokens", 0, TOKENS_MAX, &b->kv_free_tokens, NULL, e);
    if (rc == RC_OK)
        rc = json_get_double(o, "tokens_per_s", 0, 1e12, &b->tokens_per_s, NULL, e);
    return rc;
}

static enum rc read_state(const cJSON *o, struct node_beat *b, struct error *e)
{
    int sleep = NODE_SLEEP_UNKNOWN;
    enum rc rc = get_word(o, "sleep", sleep_words, NODE_SLEEP_UNKNOWN, NODE_SLEEP_UNKNOWN, &sleep, e);
    b->sleep = (enum node_sleep)sleep;
    if (rc == RC_OK)
        rc = json_get_bool(o, "ready", &b->ready, NULL, e);
    if (rc == RC_OK)
        rc = json_get_bool(o, "draining", &b->draining, NULL, e);
    if (rc == RC_OK)
        rc = get_text(o, "model", b->model, sizeof b->model, e);
    if (rc == RC_OK)
        rc = json_get_int(o, "restarts", 0, INT64_MAX / 2, &b->restarts, NULL, e);
    if (rc == RC_OK)
        rc = json_get_int(o, "order_done", 0, INT64_MAX / 2, &b->order_done, NULL, e);
    return rc;
}

enum rc node_beat_read(struct node_beat *b, const char *text, size_t n, struct error *e)
{
    cJSON *root = NULL;
    *b = (struct node_beat){.kv_free_tokens = -1};
    enum rc rc = parse(text, n, &root, e);
    if (rc == RC_OK)
        rc = read_load(root, b, e);
    if (rc == RC_OK)
        rc = read_power(root, b, e);
    if (rc == RC_OK)
        rc = read_state(root, b, e);
    if (rc == RC_OK)
        rc = read_card(root, &b->card, e);
    cJSON_Delete(root);
    return rc;
}

enum rc node_notice_read(struct node_notice *x, const char *text, size_t n, struct error *e)
{
    cJSON *root = NULL;
    double left_s = -1;
    bool given = false;
    *x = (struct node_notice){.left_ms = -1};
    enum rc rc = parse(text, n, &root, e);
    if (rc == RC_OK)
        rc = get_text(root, "what", x->what, sizeof x->what, e);
    if (rc == RC_OK)
        rc = json_get_double(root, "left_s", 0, (double)SECONDS_MAX, &left_s, &given, e);
    if (rc == RC_OK && (!x->what[0] || strspn(x->what, "abcdefghijklmnopqrstuvwxyz_") != strlen(x->what)))
        rc = error_set(e, RC_INVALID, "\"what\" is missing: a word of small letters for what is going to happen");
    if (rc == RC_OK && given)
        x->left_ms = (int64_t)(left_s * 1000);
    cJSON_Delete(root);
    return rc;
}
