/* libcurl's multi interface on libevent: curl names the sockets it waits for and one timer, the loop calls back.
 *
 * A fetch: fetch_start() --added--> running --curl says done--> cb, freed.  fetch_cancel() at any point before cb.
 *
 * curl's own callbacks never touch fetches: what has finished is collected after curl_multi_socket_action() returned,
 * since curl forbids removing a handle from inside. cb may start, cancel and free: `gone` notes that the fetcher
 * went. */
#include "base/fetch.h"

#include <curl/curl.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"

#define FETCH_DEADLINE_MS    30000
#define FETCH_ANSWER_MAX     ((size_t)16 << 20)
#define FETCH_CONNECTIONS    64
#define FETCH_CONNECT_MS_MAX 10000

struct watch { /* one socket curl waits for */
    struct fetcher *f;
    struct event *event; /* owned */
};

struct fetch {
    struct fetcher *f;
    struct fetch *prev, *next;  /* ring */
    CURL *easy;                 /* owned */
    struct curl_slist *headers; /* owned */
    char *body;                 /* owned: curl reads it while it sends */
    struct strbuf answer;
    bool full;
    unsigned char pin[32];
    fetch_cb *cb;
    void *arg;
    char text[CURL_ERROR_SIZE];
};

struct fetcher {
    struct event_base *loop;
    CURLM *multi;        /* owned */
    struct event *timer; /* owned */
    struct fetch all;    /* ring head */
    bool *gone;          /* where to note that a callback freed us */
};

static void collect(struct fetcher *f);

static void socket_cb(evutil_socket_t fd, short what, void *arg)
{
    struct fetcher *f = ((struct watch *)arg)->f; /* curl may free the watch from here on */
    int running, mask = (what & EV_READ ? CURL_CSELECT_IN : 0) | (what & EV_WRITE ? CURL_CSELECT_OUT : 0);
    curl_multi_socket_action(f->multi, fd, mask, &running);
    collect(f);
}

static void timer_cb(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct fetcher *f = arg;
    int running;
    curl_multi_socket_action(f->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    collect(f);
}

/* curl: wait for this on that socket. */
static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_state)
{
    struct fetcher *f = arg;
    struct watch *w = socket_state;
    (void)easy;
    if (w && w->event)
        event_free(w->event);
    if (what == CURL_POLL_REMOVE) {
        curl_multi_assign(f->multi, fd, NULL);
        free(w);
        return 0;
    }
    if (!w) {
        w = spw_calloc(1, sizeof(*w));
        w->f = f;
        curl_multi_assign(f->multi, fd, w);
    }
    short events = EV_PERSIST;
    events |= what & CURL_POLL_IN ? EV_READ : 0;
    events |= what & CURL_POLL_OUT ? EV_WRITE : 0;
    w->event = event_new(f->loop, fd, events, socket_cb, w);
    return w->event && event_add(w->event, NULL) == 0 ? 0 : -1;
}

/* curl: call me in ms, -1 never. Zero goes through the loop too: curl must not be entered from here. */
static int on_timer(CURLM *multi, long ms, void *arg)
{
    struct fetcher *f = arg;
    (void)multi;
    if (ms < 0) {
        evtimer_del(f->timer);
        return 0;
    }
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    evtimer_add(f->timer, &tv);
    return 0;
}

static size_t on_data(char *data, size_t size, size_t count, void *arg)
{
    struct fetch *t = arg;
    if (strbuf_append(&t->answer, data, size * count) == RC_OK)
        return size * count;
    t->full = true;
    return 0; /* makes curl end the transfer */
}

static void fetch_unlink(struct fetch *t)
{
    SPW_ASSERT(t->prev->next == t && t->next->prev == t);
    curl_multi_remove_handle(t->f->multi, t->easy);
    t->prev->next = t->next;
    t->next->prev = t->prev;
    t->prev = t->next = NULL;
}

static void fetch_dispose(struct fetch *t)
{
    curl_easy_cleanup(t->easy);
    curl_slist_free_all(t->headers);
    free(t->body);
    strbuf_fini(&t->answer);
    free(t);
}

static enum rc rc_of(CURLcode code)
{
    switch (code) {
    case CURLE_OPERATION_TIMEDOUT: return RC_TIMEOUT;
    case CURLE_UNSUPPORTED_PROTOCOL: return RC_UNSUPPORTED;
    case CURLE_URL_MALFORMAT: return RC_INVALID;
    case CURLE_PEER_FAILED_VERIFICATION: return RC_DENIED;
    default: return RC_IO;
    }
}

static int64_t date_of(CURL *easy)
{
    struct curl_header *h;
    if (curl_easy_header(easy, "Date", 0, CURLH_HEADER, -1, &h) != CURLHE_OK)
        return 0;
    time_t t = curl_getdate(h->value, NULL);
    return t > 0 ? (int64_t)t : 0;
}

static void finish(struct fetch *t, CURLcode code)
{
    fetch_unlink(t);
    if (code == CURLE_OK) {
        long status = 0;
        curl_off_t retry_after_s = 0; /* curl reads both forms and bounds them to six hours */
        curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
        curl_easy_getinfo(t->easy, CURLINFO_RETRY_AFTER, &retry_after_s);
        struct fetch_answer a = {.status = (int)status,
                                 .body = t->answer.data ? t->answer.data : "",
                                 .n = t->answer.len,
                                 .retry_after_s = retry_after_s,
                                 .transfer = t->easy,
                                 .date_s = date_of(t->easy)};
        t->cb(&a, NULL, t->arg);
    } else {
        struct error e;
        if (t->full)
            error_set(&e, RC_FULL, "answer is larger than %zu bytes", t->answer.max);
        else
            error_set(&e, rc_of(code), "%s", *t->text ? t->text : curl_easy_strerror(code));
        t->cb(NULL, &e, t->arg);
    }
    fetch_dispose(t);
}

static void collect(struct fetcher *f)
{
    bool gone = false;
    CURLMsg *m;
    int left;
    /* cppcheck-suppress autoVariables; taken back below */
    f->gone = &gone;
    while ((m = curl_multi_info_read(f->multi, &left))) {
        struct fetch *t = NULL;
        if (m->msg != CURLMSG_DONE)
            continue;
        CURLcode code = m->data.result; /* the message goes with the handle */
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &t);
        finish(t, code);
        if (gone)
            return;
    }
    f->gone = NULL;
}

enum rc fetcher_new(struct fetcher **out, struct event_base *loop, struct error *e)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) /* counted by curl: undone in fetcher_free() */
        return error_set(e, RC_IO, "libcurl does not start");
    struct fetcher *f = spw_calloc(1, sizeof(*f));
    f->loop = loop;
    f->all.prev = f->all.next = &f->all;
    f->multi = curl_multi_init();
    f->timer = evtimer_new(loop, timer_cb, f);
    SPW_ASSERT(f->multi && f->timer);
    curl_multi_setopt(f->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(f->multi, CURLMOPT_SOCKETDATA, f);
    curl_multi_setopt(f->multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(f->multi, CURLMOPT_TIMERDATA, f);
    curl_multi_setopt(f->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)FETCH_CONNECTIONS); /* more wait their turn */
    *out = f;
    return RC_OK;
}

void fetcher_free(struct fetcher *f)
{
    if (!f)
        return;
    while (f->all.next != &f->all)
        fetch_cancel(f->all.next); /* NOLINT(clang-analyzer-unix.Malloc): it cannot follow the ring */
    if (f->gone)
        *f->gone = true;
    curl_multi_cleanup(f->multi);
    event_free(f->timer);
    free(f);
    curl_global_cleanup();
}

static bool has_line_break(const char *s)
{
    return strpbrk(s, "\r\n") != NULL;
}

static enum rc put_headers(struct fetch *t, const struct fetch_request *r, struct error *e)
{
    for (int i = 0; i < r->n_headers; i++) {
        if (has_line_break(r->headers[i].name) || has_line_break(r->headers[i].value))
            return error_set(e, RC_INVALID, "request header with a line break");
        /* "Name;" is curl's way to say a header without a value. */
        char *line = *r->headers[i].value ? spw_asprintf("%s: %s", r->headers[i].name, r->headers[i].value)
                                          : spw_asprintf("%s;", r->headers[i].name);
        struct curl_slist *more = curl_slist_append(t->headers, line);
        free(line);
        SPW_ASSERT(more);
        t->headers = more;
    }
    /* No "Expect: 100-continue" round trip for bodies over a MiB. */
    struct curl_slist *more = curl_slist_append(t->headers, "Expect:");
    SPW_ASSERT(more);
    t->headers = more;
    return RC_OK;
}

static void put_method(struct fetch *t, const struct fetch_request *r)
{
    const char *method = r->method ? r->method : "GET";
    if (strcmp(method, "HEAD") == 0) {
        curl_easy_setopt(t->easy, CURLOPT_NOBODY, 1L);
        return;
    }
    if (r->body_len || strcmp(method, "POST") == 0 || strcmp(method, "PUT") == 0) {
        t->body = spw_malloc(r->body_len + 1);
        if (r->body_len)
            memcpy(t->body, r->body, r->body_len);
        curl_easy_setopt(t->easy, CURLOPT_POSTFIELDS, t->body);
        curl_easy_setopt(t->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->body_len);
    }
    curl_easy_setopt(t->easy, CURLOPT_CUSTOMREQUEST, method);
}

/* ---- a pinned certificate --------------------------------------------------------------------------------------- */

/* OpenSSL asks this instead of building a chain. */
static int is_pinned(X509_STORE_CTX *store, void *arg)
{
    const struct fetch *t = arg;
    X509 *leaf = X509_STORE_CTX_get0_cert(store);
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int n = 0;
    bool same = leaf && X509_digest(leaf, EVP_sha256(), digest, &n) == 1 && n == sizeof(t->pin) &&
                memcmp(digest, t->pin, sizeof(t->pin)) == 0;
    X509_STORE_CTX_set_error(store, same ? X509_V_OK : X509_V_ERR_CERT_UNTRUSTED);
    return same;
}

static CURLcode on_tls(CURL *easy, void *ctx, void *arg)
{
    (void)easy;
    SSL_CTX_set_cert_verify_callback(ctx, is_pinned, arg);
    return CURLE_OK;
}

static void put_pin(struct fetch *t, const unsigned char *pin)
{
    memcpy(t->pin, pin, sizeof(t->pin));
    curl_easy_setopt(t->easy, CURLOPT_SSL_CTX_FUNCTION, on_tls);
    curl_easy_setopt(t->easy, CURLOPT_SSL_CTX_DATA, t);
    curl_easy_setopt(t->easy, CURLOPT_SSL_VERIFYHOST, 0L); /* the certificate itself is the name */
    /* A connection or session that was opened under other rules would be taken as it is. */
    curl_easy_setopt(t->easy, CURLOPT_FRESH_CONNECT, 1L);
    curl_easy_setopt(t->easy, CURLOPT_FORBID_REUSE, 1L);
    curl_easy_setopt(t->easy, CURLOPT_SSL_SESSIONID_CACHE, 0L);
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

enum rc fetch_pin_parse(const char *text, unsigned char pin[32], struct error *e)
{
    const char *p = strncasecmp(text, "sha256:", 7) == 0 ? text + 7 : text;
    int n = 0;
    for (; *p && n < 32; n++, p += 2) {
        p += n && *p == ':';
        int high = hex_digit(p[0]), low = high < 0 ? -1 : hex_digit(p[1]);
        if (low < 0)
            break;
        pin[n] = (unsigned char)(high << 4 | low);
    }
    if (n < 32 || *p)
        return error_set(e, RC_INVALID,
                         "\"%.20s...\" is no SHA-256 fingerprint: 64 hexadecimal digits, as "
                         "`openssl x509 -fingerprint -sha256` prints them, are right",
                         text);
    return RC_OK;
}

const char *fetch_answer_header(const struct fetch_answer *a, const char *name)
{
    struct curl_header *h;
    return curl_easy_header(a->transfer, name, 0, CURLH_HEADER, -1, &h) == CURLHE_OK ? h->value : NULL;
}

enum rc fetch_start(struct fetcher *f, const struct fetch_request *r, fetch_cb *cb, void *arg, struct fetch **out,
                    struct error *e)
{
    if (strncasecmp(r->url, "http://", 7) != 0 && strncasecmp(r->url, "https://", 8) != 0)
        return error_set(e, RC_UNSUPPORTED, "only http:// and https:// addresses can be fetched");
    if (r->method && (!*r->method || has_line_break(r->method)))
        return error_set(e, RC_INVALID, "malformed method");
    struct fetch *t = spw_calloc(1, sizeof(*t));
    t->f = f;
    t->cb = cb;
    t->arg = arg;
    strbuf_init(&t->answer, r->answer_bytes_max ? r->answer_bytes_max : FETCH_ANSWER_MAX);
    t->easy = curl_easy_init();
    SPW_ASSERT(t->easy);
    enum rc rc = put_headers(t, r, e);
    if (rc != RC_OK) {
        fetch_dispose(t);
        return rc;
    }
    put_method(t, r);
    long deadline_ms = r->deadline_ms > 0 ? (long)r->deadline_ms : FETCH_DEADLINE_MS;
    curl_easy_setopt(t->easy, CURLOPT_URL, r->url);
    curl_easy_setopt(t->easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(t->easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(t->easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(t->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(t->easy, CURLOPT_NOPROXY, "*"); /* where money and keys go is configured, not inherited */
    curl_easy_setopt(t->easy, CURLOPT_TIMEOUT_MS, deadline_ms);
    curl_easy_setopt(t->easy, CURLOPT_CONNECTTIMEOUT_MS,
                     deadline_ms < FETCH_CONNECT_MS_MAX ? deadline_ms : (long)FETCH_CONNECT_MS_MAX);
    curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers);
    curl_easy_setopt(t->easy, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(t->easy, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(t->easy, CURLOPT_ERRORBUFFER, t->text);
    curl_easy_setopt(t->easy, CURLOPT_PRIVATE, t);
    if (r->ca_file)
        curl_easy_setopt(t->easy, CURLOPT_CAINFO, r->ca_file);
    if (r->pin_sha256)
        put_pin(t, r->pin_sha256);
    CURLMcode code = curl_multi_add_handle(f->multi, t->easy);
    if (code != CURLM_OK) {
        fetch_dispose(t);
        return error_set(e, RC_IO, "libcurl: %s", curl_multi_strerror(code));
    }
    t->next = &f->all;
    t->prev = f->all.prev;
    t->prev->next = t;
    f->all.prev = t;
    *out = t;
    return RC_OK;
}

void fetch_cancel(struct fetch *t)
{
    fetch_unlink(t);
    fetch_dispose(t);
}
