#include "engine/node/join.h"

#include <inttypes.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cert.h"
#include "base/file.h"
#include "base/http_client.h"
#include "base/json.h"
#include "base/text.h"
#include "base/tls.h"
#include "base/url.h"

#define AREA       "join"
#define FILE_MAX   ((size_t)64 << 10)
#define BODY_MAX   ((size_t)256 << 10)
#define TOKEN_MAX  256
#define HEX_DIGITS (2 * TLS_PIN_BYTES)

enum asking { ASK_NOTHING, ASK_TOKEN, ASK_JOIN, ASK_BEAT, ASK_NOTICE };

struct join_client {
    struct join_client_options o;
    struct event_base *loop;
    char *pair_file, *authority_file, *key_file, *name_file, *pending_file; /* owned */
    struct url at;                                                          /* of the scheduler */
    int own_port;
    char name[80];
    int64_t from_s, until_s; /* of the certificate; until 0: none */
    unsigned char pin[TLS_PIN_BYTES];
    struct http_client *client;             /* NULL: made for the next call */
    SSL_CTX *tls;                           /* its; owned */
    bool client_is_pinned, client_is_stale; /* stale: another one for the next call; not from inside its own handlers */
    bool member;                            /* the scheduler knows us, since it or we were started */
    bool started;
    struct http_call *call;
    enum asking asking;
    int status;
    struct strbuf answer;
    EVP_PKEY *key; /* of the certificate that is asked for */
    struct event *timer;
    int failures; /* in a row */
    int64_t beat_ms;
    int64_t order_done;
    bool soon; /* beat again as soon as the running call is over */
    char notice[32];
    struct mono notice_end;        /* notice: when it is over; ns 0: not known */
    bool has_notice, notice_asked; /* asked: the running call tells of this one */
    char life[17];                 /* of this process */
    char said[160];                /* the last failure that was logged */
};

static void step(struct join_client *j);

static int64_t now_s(const struct join_client *j)
{
    return clock_wall(j->o.clock).ns / NS_PER_S;
}

/* 0 <= r < n, of the system's randomness: many engines of one kind are started at once. */
static int64_t by_chance(int64_t n)
{
    uint64_t r = 0;
    (void)!getrandom(&r, sizeof r, 0);
    return n > 0 ? (int64_t)(r % (uint64_t)n) : 0;
}

static void arm(struct join_client *j, int64_t ms)
{
    const struct timeval tv = {ms / 1000, ms % 1000 * 1000};
    event_add(j->timer, &tv);
}

/* ---- what is kept ----------------------------------------------------------------------------------------------- */

static void read_identity(struct join_client *j)
{
    struct strbuf pem;
    struct error e;
    X509 *cert = NULL;
    char *name = NULL, *key = NULL;
    j->until_s = 0;
    enum rc rc = file_read(&pem, j->pair_file, FILE_MAX, &e);
    if (rc == RC_OK)
        rc = cert_read(&cert, pem.data ? pem.data : "", pem.len, &e);
    if (rc == RC_OK)
        rc = file_read_secret(&name, j->name_file, &e);
    if (rc == RC_OK)
        rc = file_read_secret(&key, j->key_file, &e);
    if (rc == RC_OK && strlen(name) < sizeof j->name) {
        j->from_s = cert_from_s(cert);
        j->until_s = cert_until_s(cert);
        text_put(j->name, j->name + sizeof j->name, name);
    }
    if (pem.data)
        explicit_bzero(pem.data, pem.cap);
    strbuf_fini(&pem);
    X509_free(cert);
    free(name);
    if (key)
        explicit_bzero(key, strlen(key));
    free(key);
}

static bool has_certificate(const struct join_client *j)
{
    return j->until_s > now_s(j);
}

static bool read_pin(const char *token, unsigned char pin[TLS_PIN_BYTES])
{
    const char *dot = strrchr(token, '.');
    if (strncmp(token, "spwj1.", 6) != 0 || !dot || strlen(dot + 1) != HEX_DIGITS ||
        strspn(dot + 1, "0123456789abcdef") != HEX_DIGITS)
        return false;
    for (int i = 0; i < TLS_PIN_BYTES; i++) {
        const char pair[3] = {dot[1 + 2 * i], dot[2 + 2 * i], '\0'};
        pin[i] = (unsigned char)strtoul(pair, NULL, 16);
    }
    return true;
}

/* Read anew for each try: a person may have put another one there. */
static enum rc read_token(struct join_client *j, char **token, struct error *e)
{
    if (!j->o.token_file)
        return error_set(e, RC_NOT_FOUND, "there is no certificate that holds, and no --join-token-file");
    unsigned char before[TLS_PIN_BYTES];
    enum rc rc = file_read_secret(token, j->o.token_file, e);
    memcpy(before, j->pin, sizeof before);
    if (rc == RC_OK && (strlen(*token) >= TOKEN_MAX || !read_pin(*token, j->pin))) {
        rc = error_set(e, RC_INVALID, "%s: that is no join token; `spillway nodes token NAME` makes one",
                       j->o.token_file);
        free(*token);
        *token = NULL;
    }
    if (memcmp(before, j->pin, sizeof before) != 0)
        j->client_is_stale = true; /* it has verified another authority */
    return rc;
}

/* A token for another authority than the one that we know: that scheduler has been set up anew, and what it gave before
 * is worth nothing. */
static void forget_other_authority(struct join_client *j)
{
    struct strbuf pem;
    struct error e;
    X509 *ca = NULL;
    unsigned char ours[TLS_PIN_BYTES];
    char *token = NULL;
    if (!j->until_s || !j->o.token_file || read_token(j, &token, &e) != RC_OK)
        return;
    free(token);
    if (file_read(&pem, j->authority_file, FILE_MAX, &e) == RC_OK &&
        cert_read(&ca, pem.data ? pem.data : "", pem.len, &e) == RC_OK) {
        cert_fingerprint(ca, ours);
        if (memcmp(ours, j->pin, sizeof ours) != 0) {
            log_warn(j->o.log, AREA, "the token is for another authority: the old certificate is dropped");
            j->until_s = 0;
        }
    }
    strbuf_fini(&pem);
    X509_free(ca);
}

/* The key that a certificate is asked for; of a token's exchange the same one until an answer was heard. */
static enum rc make_key(struct join_client *j, bool kept, struct error *e)
{
    struct strbuf pem;
    EVP_PKEY_free(j->key);
    j->key = NULL;
    if (!kept)
        return cert_key_new(&j->key, e);
    enum rc rc = file_read(&pem, j->pending_file, FILE_MAX, e);
    if (rc == RC_OK && cert_key_read(&j->key, pem.data ? pem.data : "", pem.len, e) == RC_OK)
        goto out;
    strbuf_clear(&pem);
    rc = cert_key_new(&j->key, e);
    if (rc == RC_OK)
        rc = cert_key_write(j->key, &pem, e);
    if (rc == RC_OK)
        rc = file_replace(j->pending_file, 0600, pem.data, pem.len, e);
out:
    if (pem.data)
        explicit_bzero(pem.data, pem.cap);
    strbuf_fini(&pem);
    return rc;
}

/* The pair last: it makes the rest hold. */
static enum rc keep(struct join_client *j, const char *name, const char *cert, const char *authority, const char *key,
                    struct error *e)
{
    struct strbuf pair;
    X509 *x = NULL;
    strbuf_init(&pair, FILE_MAX);
    enum rc rc = cert_read(&x, cert, strlen(cert), e);
    if (rc == RC_OK && X509_check_private_key(x, j->key) != 1)
        rc = error_set(e, RC_INVALID, "the certificate is not for the key that we asked with");
    if (rc == RC_OK && (strbuf_puts(&pair, cert) != RC_OK || strbuf_puts(&pair, authority) != RC_OK))
        rc = error_set(e, RC_FULL, "the certificate is too long");
    if (rc == RC_OK)
        rc = cert_key_write(j->key, &pair, e);
    if (rc == RC_OK)
        rc = file_replace(j->authority_file, 0644, authority, strlen(authority), e);
    if (rc == RC_OK)
        rc = file_replace(j->key_file, 0600, key, strlen(key), e);
    if (rc == RC_OK)
        rc = file_replace(j->name_file, 0644, name, strlen(name), e);
    if (rc == RC_OK)
        rc = file_replace(j->pair_file, 0600, pair.data, pair.len, e);
    if (rc == RC_OK)
        (void)unlink(j->pending_file);
    if (pair.data)
        explicit_bzero(pair.data, pair.cap);
    strbuf_fini(&pair);
    X509_free(x);
    return rc;
}

/* ---- calls ------------------------------------------------------------------------------------------------------ */

static void drop_client(struct join_client *j)
{
    http_client_free(j->client);
    SSL_CTX_free(j->tls);
    j->client = NULL;
    j->tls = NULL;
}

static enum rc need_client(struct join_client *j, bool pinned, struct error *e)
{
    const struct tls_client_files files = {j->authority_file, j->pair_file, j->pair_file};
    if (j->client && j->client_is_pinned == pinned && !j->client_is_stale)
        return RC_OK;
    drop_client(j);
    enum rc rc = pinned ? tls_client_pinned(&j->tls, j->pin, e) : tls_client_new(&j->tls, &files, e);
    if (rc != RC_OK)
        return rc;
    struct http_client_options o = {.limits = http_limits_default,
                                    .connect_ms = JOIN_CALL_MS,
                                    .head_ms = JOIN_CALL_MS,
                                    .idle_body_ms = JOIN_CALL_MS,
                                    .connections_max = 2,
                                    .tls = j->tls,
                                    .tls_name = JOIN_SCHEDULER_NAME};
    o.limits.body_bytes_max = BODY_MAX;
    j->client_is_pinned = pinned;
    j->client_is_stale = false;
    return http_client_new(&j->client, j->loop, j->at.host, j->at.port, &o, e);
}

/* Said once as long as it stays the same. */
static void failed(struct join_client *j, const char *why)
{
    int64_t ms = JOIN_RETRY_MS;
    if (strcmp(j->said, why) != 0)
        log_warn(j->o.log, AREA, "the scheduler does not let us in, or does not answer", LOG_S("url", j->o.url),
                 LOG_S("error", why));
    text_put(j->said, j->said + sizeof j->said, why);
    for (int i = 0; i < j->failures && ms < JOIN_RETRY_MAX_MS; i++)
        ms *= 2;
    ms = ms < JOIN_RETRY_MAX_MS ? ms : JOIN_RETRY_MAX_MS;
    j->failures++;
    arm(j, ms / 2 + by_chance(ms / 2 + 1));
}

static void worked(struct join_client *j)
{
    if (j->said[0])
        log_info(j->o.log, AREA, "the scheduler answers again");
    j->said[0] = '\0';
    j->failures = 0;
    j->o.heard(j->o.arg);
}

static void next_beat(struct join_client *j)
{
    arm(j, j->soon || j->has_notice ? 0 : j->beat_ms - j->beat_ms / 10 + by_chance(j->beat_ms / 5 + 1));
    j->soon = false;
}

/* ---- answers ---------------------------------------------------------------------------------------------------- */

static const char *text_of(const cJSON *o, const char *key)
{
    const char *text = cJSON_GetStringValue(json_find(o, key));
    return text ? text : "";
}

static void take_beat_ms(struct join_client *j, const cJSON *o)
{
    struct error ignored;
    int64_t ms = j->beat_ms;
    if (json_get_int(o, "beat_ms", 10, 600000, &ms, NULL, &ignored) == RC_OK)
        j->beat_ms = ms;
}

static void on_joined(struct join_client *j, const cJSON *o)
{
    struct error e;
    const char *name = text_of(o, "name"), *cert = text_of(o, "certificate"), *ca = text_of(o, "authority"),
               *key = text_of(o, "node_key");
    if (!name[0] || !cert[0] || !ca[0] || !key[0]) {
        failed(j, "its answer to our joining lacks a name, a certificate or a key");
        return;
    }
    if (keep(j, name, cert, ca, key, &e) != RC_OK) {
        failed(j, e.message);
        return;
    }
    read_identity(j);
    j->client_is_stale = true;
    take_beat_ms(j, o);
    worked(j);
    if (!j->member)
        log_info(j->o.log, AREA, "joined", LOG_S("name", j->name), LOG_S("scheduler", j->o.url),
                 LOG_I("certificate_s", j->until_s - now_s(j)));
    j->member = true;
    j->o.identity(j->o.arg);
    j->soon = true;
    next_beat(j);
}

static void on_beaten(struct join_client *j, const cJSON *o)
{
    static const char *const words[] = {"drain", "sleep", "wake", "end"};
    struct error ignored;
    int64_t number = 0;
    const char *order = text_of(o, "order");
    take_beat_ms(j, o);
    worked(j);
    (void)!json_get_int(o, "order_number", 0, INT64_MAX / 2, &number, NULL, &ignored);
    for (int i = 0; order[0] && number > j->order_done && i < 4; i++) {
        if (strcmp(words[i], order) != 0)
            continue;
        log_info(j->o.log, AREA, "the scheduler's order", LOG_S("order", order));
        j->order_done = number;
        j->soon = true;
        j->o.order((enum join_order)i, j->o.arg);
    }
    next_beat(j);
}

static void on_refused(struct join_client *j, const cJSON *o)
{
    const char *code = text_of(o, "code");
    char why[160];
    if (strcmp(code, "join_again") == 0) {
        j->member = false;
        j->order_done = 0;
        arm(j, by_chance(JOIN_RETRY_MS));
        return;
    }
    if (strcmp(code, "revoked") == 0) {
        log_error(j->o.log, AREA, "the scheduler has ended this node: its certificate is worth nothing any more");
        j->until_s = 0;
        (void)unlink(j->pair_file);
        j->client_is_stale = true;
        j->o.order(JOIN_ORDER_END, j->o.arg);
    } else if (strcmp(code, "expired") == 0) {
        j->until_s = 0;
        j->client_is_stale = true;
    }
    snprintf(why, sizeof why, "%d %.30s: %.110s", j->status, code, text_of(o, "message"));
    failed(j, why);
}

static void on_answer(struct join_client *j)
{
    const enum asking asked = j->asking;
    cJSON *root = NULL;
    struct error e;
    j->asking = ASK_NOTHING;
    if (json_parse(j->answer.data ? j->answer.data : "", j->answer.len, 8, &root, &e) != RC_OK ||
        !cJSON_IsObject(root)) {
        failed(j, "what answers there is no scheduler");
    } else if (j->status != 200) {
        if (asked == ASK_NOTICE && j->status == 400)
            j->has_notice = false; /* it says nothing to this scheduler, however often */
        on_refused(j, root);
    } else if (asked == ASK_TOKEN || asked == ASK_JOIN) {
        on_joined(j, root);
    } else if (asked == ASK_BEAT) {
        on_beaten(j, root);
    } else {
        j->has_notice = !j->notice_asked; /* another one may have come meanwhile */
        worked(j);
        next_beat(j);
    }
    if (root)
        cJSON_Delete(root);
}

static void on_head(struct http_call *c, const struct http_head *head, void *arg)
{
    struct join_client *j = arg;
    (void)c;
    j->status = head->status;
}

static void on_body(struct http_call *c, const char *data, size_t n, void *arg)
{
    struct join_client *j = arg;
    (void)c;
    if (strbuf_append(&j->answer, data, n) != RC_OK)
        strbuf_clear(&j->answer);
}

static void on_end(struct http_call *c, void *arg)
{
    struct join_client *j = arg;
    (void)c;
    j->call = NULL;
    on_answer(j);
}

static void on_fail(struct http_call *c, enum http_phase phase, const struct error *e, void *arg)
{
    struct join_client *j = arg;
    (void)c, (void)phase;
    j->call = NULL;
    j->asking = ASK_NOTHING;
    if (e->code != RC_CANCELLED)
        failed(j, e->message);
}

static const struct http_call_handlers handlers = {
    .on_head = on_head, .on_body = on_body, .on_end = on_end, .on_fail = on_fail};

static enum rc ask(struct join_client *j, enum asking what, const char *path, const struct strbuf *body,
                   struct error *e)
{
    const struct http_header headers[] = {{"Content-Type", "application/json"}};
    const struct http_request r = {.method = "POST",
                                   .target = path,
                                   .headers = headers,
                                   .n_headers = 1,
                                   .body = body->data ? body->data : "",
                                   .body_len = body->len};
    enum rc rc = need_client(j, what == ASK_TOKEN, e);
    strbuf_clear(&j->answer);
    j->status = 0;
    if (rc == RC_OK)
        rc = http_call_start(j->client, &r, &handlers, j, &j->call, e);
    j->asking = rc == RC_OK ? what : ASK_NOTHING;
    return rc;
}

/* ---- questions -------------------------------------------------------------------------------------------------- */

static enum rc ask_join(struct join_client *j, struct error *e)
{
    const bool by_token = !has_certificate(j);
    char *token = NULL;
    struct strbuf request, body;
    enum rc rc = by_token ? read_token(j, &token, e) : RC_OK;
    if (rc == RC_OK)
        rc = make_key(j, by_token, e);
    strbuf_init(&request, FILE_MAX);
    strbuf_init(&body, FILE_MAX);
    if (rc == RC_OK)
        rc = cert_request_write(j->key, &request, e);
    if (rc == RC_OK) {
        struct json_writer w = json_write_begin(&body);
        json_open(&w, NULL, '{');
        if (token)
            json_string(&w, "token", token);
        json_string(&w, "request", request.data);
        json_int(&w, "port", j->own_port);
        if (j->o.host)
            json_string(&w, "host", j->o.host);
        json_string(&w, "model", j->o.model);
        json_string(&w, "version", j->o.version);
        json_string(&w, "life", j->life);
        json_close(&w, '}');
        rc = json_write_end(&w);
    }
    if (rc == RC_OK)
        rc = ask(j, by_token ? ASK_TOKEN : ASK_JOIN, "/node/v1/join", &body, e);
    if (body.data)
        explicit_bzero(body.data, body.cap);
    strbuf_fini(&body);
    strbuf_fini(&request);
    if (token)
        explicit_bzero(token, strlen(token));
    free(token);
    return rc;
}

static enum rc ask_beat(struct join_client *j, struct error *e)
{
    struct strbuf body;
    strbuf_init(&body, FILE_MAX);
    struct json_writer w = json_write_begin(&body);
    json_open(&w, NULL, '{');
    json_string(&w, "model", j->o.model);
    json_int(&w, "order_done", j->order_done);
    j->o.report(&w, j->o.arg);
    json_close(&w, '}');
    enum rc rc = json_write_end(&w);
    if (rc == RC_OK)
        rc = ask(j, ASK_BEAT, "/node/v1/beat", &body, e);
    strbuf_fini(&body);
    return rc;
}

static enum rc ask_notice(struct join_client *j, struct error *e)
{
    struct strbuf body;
    char left[32];
    strbuf_init(&body, FILE_MAX);
    struct json_writer w = json_write_begin(&body);
    json_open(&w, NULL, '{');
    json_string(&w, "what", j->notice);
    if (j->notice_end.ns) {
        int64_t ns = j->notice_end.ns - clock_now(j->o.clock).ns;
        snprintf(left, sizeof left, "%.3f", ns > 0 ? (double)ns / NS_PER_S : 0.0);
        json_raw(&w, "left_s", left);
    }
    json_close(&w, '}');
    enum rc rc = json_write_end(&w);
    if (rc == RC_OK)
        rc = ask(j, ASK_NOTICE, "/node/v1/notice", &body, e);
    j->notice_asked = rc == RC_OK;
    strbuf_fini(&body);
    return rc;
}

/* Two thirds of its life after it was given, which is a while after it begins. */
static bool renewal_is_due(const struct join_client *j)
{
    const int64_t given_s = j->from_s + CERT_BACKDATE_S < j->until_s ? j->from_s + CERT_BACKDATE_S : j->from_s;
    return now_s(j) >= given_s + (j->until_s - given_s) * 2 / 3;
}

static void step(struct join_client *j)
{
    struct error e = {.message = ""};
    if (j->call || !j->started)
        return;
    const bool in = has_certificate(j) && j->member;
    const bool renew = renewal_is_due(j) && j->failures % 2 == 0; /* while that fails it goes on beating in between */
    enum rc rc = !in || renew ? ask_join(j, &e) : j->has_notice ? ask_notice(j, &e) : ask_beat(j, &e);
    if (rc != RC_OK)
        failed(j, e.message);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    step(arg);
}

/* ---- outside ---------------------------------------------------------------------------------------------------- */

bool join_client_has_identity(const struct join_client *j)
{
    return has_certificate(j);
}

void join_client_beat_now(struct join_client *j)
{
    j->soon = true;
    if (!j->call && j->started && !j->failures)
        arm(j, 0);
}

void join_client_notice(struct join_client *j, const char *what, int64_t left_ms)
{
    text_put(j->notice, j->notice + sizeof j->notice, what);
    j->notice_end.ns = left_ms < 0 ? 0 : clock_now(j->o.clock).ns + left_ms * NS_PER_MS;
    j->has_notice = true;
    j->notice_asked = false;
    if (!j->call && j->started)
        arm(j, 0);
}

bool join_client_told(const struct join_client *j)
{
    return !j->has_notice;
}

static enum rc parse_url(struct join_client *j, struct error *e)
{
    struct error why;
    if (url_parse(&j->at, j->o.url, &why) != RC_OK)
        return error_set(e, RC_INVALID, "--join: %s", why.message);
    if (!j->at.tls)
        return error_set(e, RC_INVALID, "--join: \"%.120s\" is not encrypted; write https://HOST:PORT", j->o.url);
    return RC_OK;
}

enum rc join_client_new(struct join_client **out, struct event_base *loop, const struct join_client_options *o,
                        struct error *e)
{
    struct join_client *j = spw_calloc(1, sizeof *j);
    j->o = *o;
    j->loop = loop;
    j->beat_ms = JOIN_BEAT_MS;
    snprintf(j->life, sizeof j->life, "%016" PRIx64, (uint64_t)by_chance(INT64_MAX));
    strbuf_init(&j->answer, BODY_MAX);
    j->pair_file = spw_asprintf("%s/node.pem", o->state_dir);
    j->authority_file = spw_asprintf("%s/ca.pem", o->state_dir);
    j->key_file = spw_asprintf("%s/node.key", o->state_dir);
    j->name_file = spw_asprintf("%s/name", o->state_dir);
    j->pending_file = spw_asprintf("%s/pending.key", o->state_dir);
    j->timer = event_new(loop, -1, 0, on_timer, j);
    enum rc rc = j->timer ? parse_url(j, e) : error_set(e, RC_IO, "cannot make a timer");
    if (rc != RC_OK) {
        join_client_free(j);
        return rc;
    }
    read_identity(j);
    forget_other_authority(j);
    *out = j;
    return RC_OK;
}

void join_client_start(struct join_client *j, int port)
{
    j->own_port = port;
    j->started = true;
    arm(j, 0);
}

void join_client_free(struct join_client *j)
{
    if (!j)
        return;
    if (j->call)
        http_call_cancel(j->call);
    drop_client(j);
    EVP_PKEY_free(j->key);
    strbuf_fini(&j->answer);
    if (j->timer)
        event_free(j->timer);
    free(j->pair_file);
    free(j->authority_file);
    free(j->key_file);
    free(j->name_file);
    free(j->pending_file);
    free(j);
}
