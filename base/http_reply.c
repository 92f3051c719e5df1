/* The exchange as its handler sees it: the request's parts, and the answer. Nothing here writes to a socket or frees a
 * connection: see the rule in http_server_internal.h. */
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/http_server_internal.h"
#include "base/text.h"

/* ---- the request ---- */

const struct http_head *http_request_head(const struct http_exchange *x)
{
    return http_parser_head(conn_of((struct http_exchange *)(uintptr_t)x)->parser);
}

const char *http_request_body(const struct http_exchange *x, size_t *n)
{
    const struct conn *c = conn_of((struct http_exchange *)(uintptr_t)x);
    if (n)
        *n = c->body.len;
    return bytes_at(&c->body); /* dispatch() put a NUL behind it */
}

bool http_request_path_is(const struct http_exchange *x, const char *path)
{
    const char *target = http_request_head(x)->target;
    size_t n = strlen(path);
    return strncmp(target, path, n) == 0 && (target[n] == '\0' || target[n] == '?');
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Form encoding: %XX and '+'. NULL for a broken escape or an encoded NUL, which would cut the string. */
static const char *percent_decode(struct arena *a, const char *in, size_t n)
{
    char *out = arena_strndup(a, in, n);
    if (!out)
        return NULL;
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        char c = in[i];
        if (c == '+') {
            c = ' ';
        } else if (c == '%') {
            int hi = i + 2 < n ? hex_digit(in[i + 1]) : -1;
            int lo = hi >= 0 ? hex_digit(in[i + 2]) : -1;
            if (hi < 0 || lo < 0 || (hi == 0 && lo == 0))
                return NULL;
            c = (char)(hi << 4 | lo);
            i += 2;
        }
        out[at++] = c;
    }
    out[at] = '\0';
    return out;
}

/* The value of `key` among the fields "key=value&..." of [p, end). */
static const char *field(const struct http_exchange *x, const char *p, const char *end, const char *key)
{
    const size_t n_key = strlen(key);

    while (p < end) {
        const char *stop = memchr(p, '&', (size_t)(end - p));
        stop = stop ? stop : end;
        const size_t n = (size_t)(stop - p);
        if (n >= n_key && memcmp(p, key, n_key) == 0 && (n == n_key || p[n_key] == '=')) {
            const char *value = n == n_key ? stop : p + n_key + 1;
            return percent_decode(http_exchange_arena((struct http_exchange *)(uintptr_t)x), value,
                                  (size_t)(stop - value));
        }
        p = stop + 1;
    }
    return NULL;
}

const char *http_request_query(const struct http_exchange *x, const char *key)
{
    const char *p = strchr(http_request_head(x)->target, '?');

    return p ? field(x, p + 1, p + strlen(p), key) : NULL;
}

const char *http_request_form(const struct http_exchange *x, const char *key)
{
    static const char type[] = "application/x-www-form-urlencoded";
    const char *given = http_head_get(http_request_head(x), "content-type");
    size_t n;
    const char *body = http_request_body(x, &n);

    if (!given || strncasecmp(given, type, sizeof(type) - 1) != 0 || strcspn(given, "; ") != sizeof(type) - 1 ||
        memchr(body, '\0', n))
        return NULL;
    return field(x, body, body + n, key);
}

struct arena *http_exchange_arena(struct http_exchange *x)
{
    if (!x->arena)
        x->arena = arena_new(ARENA_BYTES_MAX);
    return x->arena;
}

int64_t http_exchange_start_ns(const struct http_exchange *x)
{
    return x->start_ns;
}

SSL *http_exchange_tls(const struct http_exchange *x)
{
    return conn_of((struct http_exchange *)(uintptr_t)x)->stream.ssl;
}

const char *http_exchange_peer(const struct http_exchange *x)
{
    return conn_of((struct http_exchange *)(uintptr_t)x)->peer;
}

void http_exchange_set(struct http_exchange *x, void *state, void (*on_abort)(struct http_exchange *x, void *state))
{
    x->handler = state;
    x->on_abort = on_abort;
}

void *http_exchange_get(const struct http_exchange *x)
{
    return x->handler;
}

/* ---- the answer ---- */

static const char *reason_phrase(int status)
{
    switch (status) {
    case 200: return "OK";
    case 201: return "Created";
    case 202: return "Accepted";
    case 204: return "No Content";
    case 301: return "Moved Permanently";
    case 302: return "Found";
    case 303: return "See Other";
    case 304: return "Not Modified";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 402: return "Payment Required";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 406: return "Not Acceptable";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 410: return "Gone";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 422: return "Unprocessable Content";
    case 424: return "Failed Dependency";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 499: return "Client Closed Request";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    case 507: return "Insufficient Storage";
    default: return "Status";
    }
}

static const char *date_now(struct http_server *s)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME_COARSE, &t);
    if (t.tv_sec != s->date_s) {
        struct tm tm;
        s->date_s = t.tv_sec;
        gmtime_r(&t.tv_sec, &tm);
        strftime(s->date, sizeof(s->date), "%a, %d %b %Y %H:%M:%S GMT", &tm);
    }
    return s->date;
}

/* Fields that are the server's to say. */
static bool is_ours(const char *name, size_t n)
{
    switch (n) {
    case 4: return strcasecmp(name, "Date") == 0;
    case 10: return strcasecmp(name, "Connection") == 0 || strcasecmp(name, "Keep-Alive") == 0;
    case 14: return strcasecmp(name, "Content-Length") == 0;
    case 17: return strcasecmp(name, "Transfer-Encoding") == 0;
    default: return false;
    }
}

static char *put(char *at, const char *s, size_t n)
{
    memcpy(at, s, n);
    return at + n;
}
#define PUT(at, literal) put(at, literal, sizeof(literal) - 1)

static char *put_hex(char *at, size_t n)
{
    int shift = 0;
    while (shift < 60 && n >> shift > 15)
        shift += 4;
    for (; shift >= 0; shift -= 4)
        *at++ = "0123456789abcdef"[n >> shift & 15];
    return at;
}

static void put_header(struct bytes *out, const struct http_header *h)
{
    size_t n_name = strcspn(h->name, "\r\n"), n_value = strcspn(h->value, "\r\n");
    SPW_ASSERT(h->name[n_name] == '\0' && h->value[n_value] == '\0');
    if (is_ours(h->name, n_name))
        return;
    char *start = bytes_reserve(out, n_name + n_value + 4), *at = start;
    at = put(at, h->name, n_name);
    at = PUT(at, ": ");
    at = put(at, h->value, n_value);
    at = PUT(at, "\r\n");
    out->len += (size_t)(at - start);
}

/* length -1: chunked, or by close for HTTP/1.0; -2: no body and no length (204, 304). */
void conn_put_head(struct conn *c, int status, const struct http_header *headers, int n_headers, int64_t length)
{
    const struct http_head *request = http_parser_head(c->parser);
    bool old = c->state != CONN_LINGER && request->minor == 0;
    if (length == -1 && old)
        c->close_after = true;
    const char *reason = reason_phrase(status), *date = date_now(c->s);
    char *start = bytes_reserve(&c->out, 512), *at = start; /* for most heads at once */
    at = PUT(at, "HTTP/1.1 ");
    at = text_put_int(at, status);
    *at++ = ' ';
    at = put(at, reason, strlen(reason));
    at = PUT(at, "\r\nDate: ");
    at = put(at, date, strlen(date));
    at = PUT(at, "\r\n");
    c->out.len += (size_t)(at - start);
    for (int i = 0; i < n_headers; i++)
        put_header(&c->out, &headers[i]);
    start = at = bytes_reserve(&c->out, 160);
    if (length >= 0) {
        at = PUT(at, "Content-Length: ");
        at = text_put_int(at, length);
        at = PUT(at, "\r\n");
    } else if (length == -1 && !old) {
        at = PUT(at, "Transfer-Encoding: chunked\r\n");
    }
    if (c->close_after)
        at = PUT(at, "Connection: close\r\n");
    else if (old)
        at = PUT(at, "Connection: keep-alive\r\n");
    at = PUT(at, "\r\n");
    c->out.len += (size_t)(at - start);
}

static bool answer_has_no_body(const struct conn *c, int status)
{
    return status == 204 || status == 304 || strcmp(http_parser_head(c->parser)->method, "HEAD") == 0;
}

static void answer_done(struct conn *c)
{
    c->x.state = X_DONE;
    counter_add(&c->s->stats.active_exchanges, -1);
    conn_dirty(c);
}

void http_reply(struct http_exchange *x, int status, const struct http_header *headers, int n_headers, const void *body,
                size_t n)
{
    struct conn *c = conn_of(x);
    SPW_ASSERT(x->state == X_OPEN);
    conn_put_head(c, status, headers, n_headers, status == 204 || status == 304 ? -2 : (int64_t)n);
    if (!answer_has_no_body(c, status))
        bytes_append(&c->out, body, n);
    (void)conn_retain(c); /* at once: many may be answered in one turn */
    answer_done(c);
}

void http_reply_start(struct http_exchange *x, int status, const struct http_header *headers, int n_headers)
{
    struct conn *c = conn_of(x);
    SPW_ASSERT(x->state == X_OPEN);
    conn_put_head(c, status, headers, n_headers, status == 204 || status == 304 ? -2 : -1);
    x->state = X_STREAMING;
    x->no_body = answer_has_no_body(c, status);
    x->chunked = http_parser_head(c->parser)->minor == 1;
    conn_dirty(c);
}

void http_reply_write(struct http_exchange *x, const void *data, size_t n)
{
    struct conn *c = conn_of(x);
    SPW_ASSERT(x->state == X_STREAMING);
    /* Past the bound conn_turn() closes the connection; until it does, nothing more is taken. */
    if (n == 0 || x->no_body || c->out.len > HTTP_REPLY_PENDING_MAX)
        return;
    if (x->chunked) {
        char *start = bytes_reserve(&c->out, n + 24), *at = start;
        at = put_hex(at, n); /* once per token: printf is dear */
        at = PUT(at, "\r\n");
        at = put(at, data, n);
        at = PUT(at, "\r\n");
        c->out.len += (size_t)(at - start);
    } else {
        bytes_append(&c->out, data, n);
    }
    if (n > OUT_KEEP_STREAM)
        (void)conn_retain(c);
    conn_dirty(c);
}

void http_reply_push(struct http_exchange *x)
{
    SPW_ASSERT(x->state == X_STREAMING);
    conn_push(conn_of(x));
}

void http_reply_end(struct http_exchange *x)
{
    struct conn *c = conn_of(x);
    SPW_ASSERT(x->state == X_STREAMING);
    if (x->chunked && !x->no_body)
        bytes_append(&c->out, "0\r\n\r\n", 5);
    answer_done(c);
}

void http_reply_abort(struct http_exchange *x)
{
    struct conn *c = conn_of(x);
    SPW_ASSERT(x->state == X_OPEN || x->state == X_STREAMING);
    c->close_after = true;
    c->cut = x->state == X_STREAMING && !x->chunked;
    answer_done(c);
}

size_t http_reply_pending(const struct http_exchange *x)
{
    return conn_of((struct http_exchange *)(uintptr_t)x)->out.len;
}

void http_reply_on_drain(struct http_exchange *x, size_t low, void (*cb)(struct http_exchange *x, void *state))
{
    SPW_ASSERT(x->state == X_STREAMING);
    x->drain_low = low;
    x->on_drain = cb;
    conn_dirty(conn_of(x));
}
