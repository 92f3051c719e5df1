/* What engines ask: docs/NODE_API.md, Joining. */
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "scheduler/join/join_internal.h"

#define ANSWER_MAX ((size_t)64 << 10)

/* ---- answers ---------------------------------------------------------------------------------------------------- */

static void reply(struct http_exchange *x, int status, struct strbuf *body)
{
    const struct http_header headers[] = {{"Content-Type", "application/json"}, {"Cache-Control", "no-store"}};
    http_reply(x, status, headers, 2, body->data ? body->data : "", body->len);
    strbuf_fini(body);
}

/* {"code": ..., "message": ...} */
static void refuse(struct join *j, struct http_exchange *x, int status, const char *code, const char *message)
{
    struct strbuf body;
    strbuf_init(&body, ANSWER_MAX);
    struct json_writer w = json_write_begin(&body);
    json_open(&w, NULL, '{');
    json_string(&w, "code", code);
    json_string(&w, "message", message);
    json_close(&w, '}');
    (void)!json_write_end(&w);
    j->stats.refused += status != 409; /* who is to join again did nothing wrong */
    reply(x, status, &body);
}

static void refuse_error(struct join *j, struct http_exchange *x, const struct error *e)
{
    switch (e->code) {
    case RC_DENIED: refuse(j, x, 401, "token_refused", e->message); return;
    case RC_NOT_FOUND: refuse(j, x, 404, "not_expected", e->message); return;
    case RC_CONFLICT: refuse(j, x, 422, "cannot_join", e->message); return;
    case RC_FULL:
    case RC_AGAIN: refuse(j, x, 503, "try_again", e->message); return;
    case RC_IO:
    case RC_INTERNAL: refuse(j, x, 500, "internal", e->message); return;
    default: refuse(j, x, 400, "invalid", e->message);
    }
}

/* ---- who -------------------------------------------------------------------------------------------------------- */

enum caller { CALLER_NOBODY, CALLER_NODE, CALLER_REVOKED, CALLER_EXPIRED };

/* Whose certificate is it? The handshake has checked who signed it; that may be a while ago. */
static enum caller who_calls(const struct join *j, const struct http_exchange *x, char name[TOKEN_NAME_MAX],
                             int64_t *until_s)
{
    SSL *ssl = http_exchange_tls(x);
    X509 *cert = ssl ? SSL_get0_peer_certificate(ssl) : NULL;
    if (!cert || !ca_node_of(cert, name, TOKEN_NAME_MAX))
        return CALLER_NOBODY;
    *until_s = cert_until_s(cert);
    if (*until_s <= join_now_s(j))
        return CALLER_EXPIRED;
    return book_is_revoked(j->book, name, ca_issued_s(cert)) ? CALLER_REVOKED : CALLER_NODE;
}

/* True: it is a node. Else it has its answer. */
static bool is_node(struct join *j, struct http_exchange *x, char name[TOKEN_NAME_MAX])
{
    int64_t until_s;
    switch (who_calls(j, x, name, &until_s)) {
    case CALLER_NODE: return true;
    case CALLER_REVOKED:
        refuse(j, x, 403, "revoked", "this node was ended; its certificate is worth nothing any more");
        return false;
    case CALLER_EXPIRED:
        refuse(j, x, 401, "expired", "the certificate has run out; a new token is needed");
        return false;
    default: refuse(j, x, 401, "no_certificate", "a certificate of this scheduler's authority is needed"); return false;
    }
}

/* ---- joining ---------------------------------------------------------------------------------------------------- */

struct pending { /* one whose token is being written down */
    struct join *join;
    struct http_exchange *x; /* NULL: its client is gone */
    struct node_hello hello;
    struct token token;
    char name[TOKEN_NAME_MAX];
    char host[256];
    struct strbuf lines;
    bool again; /* it had been used by the same key */
    enum rc rc;
    struct error error;
};

static void url_of(char *url, size_t size, const struct node_hello *h, const char *peer)
{
    const char *host = h->host[0] ? h->host : peer;
    snprintf(url, size, strchr(host, ':') ? "https://[%s]:%d" : "https://%s:%d", host, h->port);
}

static void write_welcome(struct join *j, const char *name, const char *cert, int64_t until_s, struct strbuf *out)
{
    char key[65];
    join_node_key(j, name, key);
    struct json_writer w = json_write_begin(out);
    json_open(&w, NULL, '{');
    json_string(&w, "name", name);
    json_string(&w, "certificate", cert);
    json_string(&w, "authority", ca_pem(j->ca));
    json_int(&w, "until", until_s);
    json_string(&w, "node_key", key);
    json_int(&w, "beat_ms", j->config->join.beat_ms);
    json_close(&w, '}');
    (void)!json_write_end(&w);
    explicit_bzero(key, sizeof key);
}

/* The certificate first: a node whose engine gets none is not there. */
static void welcome(struct join *j, struct http_exchange *x, const char *name, const char *pool, const char *peer,
                    const struct node_hello *h)
{
    const int64_t now = join_now_s(j), life = (j->config->join.cert_ms + 999) / 1000;
    struct strbuf cert, body;
    char url[300];
    struct error e;
    strbuf_init(&cert, ANSWER_MAX);
    enum rc rc = ca_issue(j->ca, name, h->request, strlen(h->request), now, life, &cert, &e);
    url_of(url, sizeof url, h, peer);
    if (rc == RC_OK)
        rc = join_enter(j, name, pool, url, h, now + life, &e);
    if (rc == RC_OK)
        *(h->token[0] ? &j->stats.issued : &j->stats.renewed) += 1;
    if (rc == RC_OK) {
        strbuf_init(&body, ANSWER_MAX);
        write_welcome(j, name, cert.data, now + life, &body);
        reply(x, 200, &body);
    } else {
        log_warn(j->o.log, JOIN_AREA, "one that wants to join is refused", LOG_S("node", name),
                 LOG_S("error", e.message));
        refuse_error(j, x, &e);
    }
    strbuf_fini(&cert);
}

static void write_pending(void *arg)
{
    struct pending *p = arg;
    p->rc = book_write(p->join->book, p->lines.data, p->lines.len, &p->error);
}

static void pending_free(struct pending *p)
{
    strbuf_fini(&p->lines);
    explicit_bzero(p->hello.token, sizeof p->hello.token);
    free(p);
}

static void pending_done(enum rc rc, void *arg)
{
    struct pending *p = arg;
    struct join *j = p->join;
    if (rc != RC_OK || p->rc != RC_OK) {
        book_unuse(j->book, &p->token);
        if (rc == RC_OK)
            log_error(j->o.log, JOIN_AREA, "a used token cannot be written down", LOG_S("error", p->error.message));
        if (p->x) {
            http_exchange_set(p->x, NULL, NULL);
            refuse(j, p->x, 503, "try_again", "the token could not be written down");
        }
    } else {
        book_used(j->book, &p->token);
        j->stats.used += !p->again;
        if (p->x) {
            http_exchange_set(p->x, NULL, NULL);
            welcome(j, p->x, p->name, p->token.kind == TOKEN_POOL ? p->token.name : "", p->host, &p->hello);
        } /* else its next try, with the same key, is welcome */
    }
    pending_free(p);
}

static void pending_aborted(struct http_exchange *x, void *state)
{
    struct pending *p = state;
    (void)x;
    p->x = NULL;
}

/* Of a pool's token: a name that is its own, whatever happens. */
static void name_of_token(const struct token *t, char name[TOKEN_NAME_MAX])
{
    if (t->kind == TOKEN_NODE)
        text_put(name, name + TOKEN_NAME_MAX, t->name);
    else
        snprintf(name, TOKEN_NAME_MAX, "%.51s-j%02x%02x%02x%02x%02x", t->name, t->nonce[0], t->nonce[1], t->nonce[2],
                 t->nonce[3], t->nonce[4]);
}

/* What the token's node had before is worth nothing: there is one of each name. Not what it renewed after the token was
 * made: revoking up to now would revoke the token with it, and so the retry of one whose answer was lost. Who moves a
 * name to another machine while the old one runs makes the token last, or revokes the name first. */
static enum rc revoke_older(struct join *j, struct pending *p, int64_t now, struct error *e)
{
    const int64_t until = p->token.issued_s - 1, forget = now + JOIN_LONGEST_S;
    if (p->token.kind == TOKEN_POOL)
        return RC_OK; /* a name that is its own: nothing is older */
    enum rc rc = book_revoke(j->book, p->name, until, forget, now, e);
    if (rc == RC_OK)
        book_revoke_line(p->name, until, forget, &p->lines);
    return rc;
}

static enum rc use_token(struct join *j, struct pending *p, struct error *e)
{
    const int64_t now = join_now_s(j);
    uint8_t key_hash[CERT_FINGERPRINT_BYTES];
    enum rc rc = token_read(j->ca, p->hello.token, now, &p->token, e);
    if (rc != RC_OK)
        return rc;
    name_of_token(&p->token, p->name);
    if (book_is_revoked(j->book, p->name, p->token.issued_s))
        return error_set(e, RC_DENIED, "the token was made before the node was ended; make another one");
    rc = join_may(j, p->token.kind, p->token.name, e);
    if (rc == RC_OK)
        rc = ca_request_hash(p->hello.request, strlen(p->hello.request), key_hash, e);
    if (rc == RC_OK)
        rc = book_use(j->book, &p->token, key_hash, now, &p->again, e);
    if (rc != RC_OK || p->again)
        return rc;
    book_use_line(&p->token, key_hash, &p->lines);
    rc = revoke_older(j, p, now, e);
    if (rc != RC_OK)
        book_unuse(j->book, &p->token);
    return rc;
}

static void join_by_token(struct join *j, struct http_exchange *x, const struct node_hello *h)
{
    struct pending *p = spw_calloc(1, sizeof *p);
    struct error e;
    *p = (struct pending){.join = j, .x = x, .hello = *h};
    text_put(p->host, p->host + sizeof p->host, http_exchange_peer(x));
    strbuf_init(&p->lines, 4096);
    enum rc rc = use_token(j, p, &e);
    if (rc != RC_OK) {
        log_warn(j->o.log, JOIN_AREA, "a token is refused", LOG_S("peer", p->host), LOG_S("node", p->name),
                 LOG_S("error", e.message));
        refuse_error(j, x, &e);
        pending_free(p);
        return;
    }
    if (p->again) {
        pending_done(RC_OK, p);
        return;
    }
    http_exchange_set(x, p, pending_aborted);
    if (worker_submit(j->writer, write_pending, pending_done, p) != RC_OK) {
        http_exchange_set(x, NULL, NULL);
        book_unuse(j->book, &p->token);
        refuse(j, x, 503, "try_again", "too many join at once");
        pending_free(p);
    }
}

static void on_join(struct join *j, struct http_exchange *x)
{
    char name[TOKEN_NAME_MAX] = "";
    struct node_hello h;
    struct error e;
    size_t n;
    const char *body = http_request_body(x, &n);
    if (node_hello_read(&h, body, n, &e) != RC_OK) {
        refuse_error(j, x, &e);
        return;
    }
    if (h.token[0])
        join_by_token(j, x, &h);
    else if (is_node(j, x, name))
        welcome(j, x, name, "", http_exchange_peer(x), &h);
    explicit_bzero(h.token, sizeof h.token);
}

/* ---- afterwards ------------------------------------------------------------------------------------------------- */

/* Who asks, by its certificate; NULL: it has its answer. */
static struct member *member_of(struct join *j, struct http_exchange *x)
{
    char name[TOKEN_NAME_MAX] = "";
    if (!is_node(j, x, name))
        return NULL;
    struct member *m = join_find(j, name);
    if (!m)
        refuse(j, x, 409, "join_again", "this scheduler does not know you yet: join, over your certificate");
    return m;
}

static void on_beat(struct join *j, struct http_exchange *x)
{
    struct node_beat b;
    struct strbuf body;
    struct error e;
    size_t n;
    const char *text = http_request_body(x, &n);
    struct member *m = member_of(j, x);
    if (!m)
        return;
    if (node_beat_read(&b, text, n, &e) != RC_OK) {
        refuse_error(j, x, &e);
        return;
    }
    join_heard(j, m, &b);
    strbuf_init(&body, ANSWER_MAX);
    struct json_writer w = json_write_begin(&body);
    json_open(&w, NULL, '{');
    json_int(&w, "beat_ms", j->config->join.beat_ms);
    if (m->order != JOIN_ORDER_NONE) {
        json_string(&w, "order", join_order_name(m->order));
        json_int(&w, "order_number", m->order_number);
    }
    json_close(&w, '}');
    (void)!json_write_end(&w);
    reply(x, 200, &body);
}

static void on_notice(struct join *j, struct http_exchange *x)
{
    struct node_notice notice;
    struct strbuf body;
    struct error e;
    size_t n;
    const char *text = http_request_body(x, &n);
    struct member *m = member_of(j, x);
    if (!m)
        return;
    if (node_notice_read(&notice, text, n, &e) != RC_OK) {
        refuse_error(j, x, &e);
        return;
    }
    join_noticed(j, m, &notice);
    strbuf_init(&body, ANSWER_MAX);
    strbuf_puts(&body, "{}");
    reply(x, 200, &body);
}

void join_on_request(struct http_exchange *x, void *arg)
{
    struct join *j = arg;
    static const struct {
        const char *path;
        void (*handle)(struct join *j, struct http_exchange *x);
    } routes[] = {{"/node/v1/beat", on_beat}, {"/node/v1/join", on_join}, {"/node/v1/notice", on_notice}};
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (!http_request_path_is(x, routes[i].path))
            continue;
        if (strcmp(http_request_head(x)->method, "POST") == 0)
            routes[i].handle(j, x);
        else
            refuse(j, x, 405, "method", "POST is meant");
        return;
    }
    refuse(j, x, 404, "path", "engines join here: /node/v1/join, /node/v1/beat, /node/v1/notice");
}
