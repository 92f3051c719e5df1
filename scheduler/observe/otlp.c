/* The exporter's queue is a list of batches, each already the body of a request but for its tail:
 *
 *     open --full, long or old: close_batch()--> waiting --send()--> flying --on_answer()--> freed, or tried again
 *
 * At most one batch is open (the last of the list) and one flying (the first). One timer serves both waits: until the
 * open batch is old, or, after a failure, until the first batch may be tried again. */
#include "scheduler/observe/otlp_internal.h"

#include <event2/util.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

#define AREA              "otlp"
#define ANSWER_MAX        ((size_t)64 * 1024)
#define HEADERS_FILE_MAX  ((size_t)16 * 1024)
#define RETRY_AFTER_MAX_S INT64_C(300) /* a collector that asks for more is asked again after this */

struct batch {
    struct batch *next;
    struct strbuf text;
    int n_spans, tries;
    bool closed;
};

struct otlp {
    struct otlp_options o; /* defaults filled in; borrowed strings replaced by own ones */
    char *url, *ca_file, *headers_text;
    struct strbuf head; /* what each batch begins with */
    struct http_header headers[OTLP_HEADERS_MAX + 1];
    int n_headers;
    struct batch *first, *last;
    int n_batches, batches_max;
    struct fetch *flying; /* the first batch's; NULL: none */
    struct event *timer;
    int failures; /* in a row; 0: the collector answers */
    struct mono retry_at;
    struct mono open_since;
    uint64_t dropped_reported;
    struct {
        void (*done)(void *arg);
        void *arg;
        struct mono deadline;
    } flush;
    struct { /* struct otlp_stats, that others may read */
        _Atomic uint64_t submitted, exported, rejected, dropped_full, dropped_failed, batches, retries;
        _Atomic int queued;
    } stats;
};

_Static_assert(SPAN_JSON_MAX < OTLP_BATCH_BYTES / 2, "any span fits an empty batch beside the head");

static void proceed(struct otlp *o);

/* ---- batches ---------------------------------------------------------------------------------------------------- */

static void batch_free(struct batch *b)
{
    strbuf_fini(&b->text);
    free(b);
}

/* The one that takes spans, or NULL: no more may be begun. */
static struct batch *open_batch(struct otlp *o)
{
    if (o->last && !o->last->closed)
        return o->last;
    if (o->n_batches == o->batches_max)
        return NULL;
    struct batch *b = spw_calloc(1, sizeof(*b));
    strbuf_init(&b->text, OTLP_BATCH_BYTES + sizeof OTLP_TAIL);
    if (strbuf_append(&b->text, o->head.data, o->head.len) != RC_OK) {
        batch_free(b);
        return NULL;
    }
    if (o->last)
        o->last->next = b;
    else
        o->first = b;
    o->last = b;
    o->n_batches++;
    o->open_since = clock_now(o->o.clock);
    return b;
}

static void close_batch(struct batch *b)
{
    SPW_ASSERT(strbuf_puts(&b->text, OTLP_TAIL) == RC_OK); /* its place is kept free */
    b->closed = true;
}

static void drop_first(struct otlp *o)
{
    struct batch *b = o->first;
    o->first = b->next;
    if (!o->first)
        o->last = NULL;
    o->n_batches--;
    o->stats.queued -= b->n_spans;
    batch_free(b);
}

/* The comma and the span, whole or not at all. */
static bool batch_add(struct batch *b, const struct trace_span *s)
{
    size_t before = b->text.len;
    if ((b->n_spans == 0 || strbuf_puts(&b->text, ",") == RC_OK) && otlp_write_span(&b->text, s) == RC_OK &&
        b->text.len <= OTLP_BATCH_BYTES) {
        b->n_spans++;
        return true;
    }
    b->text.len = before;
    return false;
}

void otlp_submit(struct otlp *o, const struct trace_span *s)
{
    struct batch *b = o->stats.queued < o->o.queue_max ? open_batch(o) : NULL;
    o->stats.submitted++;
    if (!b || !batch_add(b, s)) {
        o->stats.dropped_full++;
        return;
    }
    o->stats.queued++;
    if (b->n_spans == o->o.batch_max || b->text.len + SPAN_JSON_MAX > OTLP_BATCH_BYTES)
        close_batch(b);
    if (b->n_spans == 1 || b->closed)
        proceed(o);
}

/* ---- sending ---------------------------------------------------------------------------------------------------- */

static void report(struct otlp *o, const char *reason)
{
    uint64_t dropped = o->stats.dropped_full + o->stats.dropped_failed;
    if (reason && o->failures == 1)
        log_warn(o->o.log, AREA, "the collector does not take spans", LOG_S("reason", reason),
                 LOG_I("queued", o->stats.queued));
    if (!reason && o->failures > 0)
        log_info(o->o.log, AREA, "the collector takes spans again", LOG_I("dropped", dropped - o->dropped_reported));
    if (!reason)
        o->dropped_reported = dropped;
}

static int64_t backoff_ms(const struct otlp *o)
{
    int64_t ms = o->o.backoff_ms;
    for (int i = 1; i < o->failures && ms < o->o.backoff_ms_max; i++)
        ms *= 2;
    if (ms > o->o.backoff_ms_max)
        ms = o->o.backoff_ms_max;
    uint8_t jitter; /* upwards only, by a quarter: schedulers that lost one collector must not come back as one */
    evutil_secure_rng_get_bytes(&jitter, sizeof jitter);
    return ms + ms * jitter / 1024;
}

static void fail(struct otlp *o, bool again, const char *reason, int64_t retry_after_s)
{
    struct batch *b = o->first;
    o->failures++;
    report(o, reason);
    int64_t wait_ms = backoff_ms(o);
    if (retry_after_s > RETRY_AFTER_MAX_S)
        retry_after_s = RETRY_AFTER_MAX_S;
    if (retry_after_s * 1000 > wait_ms) /* it may ask for more patience than we have, not for less */
        wait_ms = retry_after_s * 1000;
    o->retry_at.ns = clock_now(o->o.clock).ns + wait_ms * NS_PER_MS;
    if (again && b->tries < o->o.tries_max)
        return;
    o->stats.dropped_failed += (uint64_t)b->n_spans;
    drop_first(o);
}

/* {"partialSuccess":{"rejectedSpans":"3"}}: those are gone, and must not be sent again. */
static int64_t rejected_spans(const struct fetch_answer *a, int64_t at_most)
{
    cJSON *root = NULL;
    int64_t n = 0;
    if (json_parse(a->body, a->n, JSON_DEPTH_MAX, &root, NULL) != RC_OK)
        return 0; /* accepted all the same: the status says so */
    const cJSON *count =
        cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(root, "partialSuccess"), "rejectedSpans");
    if (cJSON_IsString(count))
        n = strtoll(count->valuestring, NULL, 10);
    else if (cJSON_IsNumber(count) && count->valuedouble > 0 && count->valuedouble < 1e9)
        n = (int64_t)count->valuedouble;
    cJSON_Delete(root);
    return n < 0 ? 0 : n > at_most ? at_most : n;
}

static void succeed(struct otlp *o, const struct fetch_answer *a)
{
    int64_t rejected = rejected_spans(a, o->first->n_spans);
    o->stats.rejected += (uint64_t)rejected;
    o->stats.exported += (uint64_t)(o->first->n_spans - rejected);
    report(o, NULL);
    o->failures = 0;
    drop_first(o);
}

static void on_answer(const struct fetch_answer *a, const struct error *e, void *arg)
{
    struct otlp *o = arg;
    char reason[64];
    o->flying = NULL;
    if (!a) {
        fail(o, e->code != RC_FULL, e->message,
             0); /* full: it answered, with too much; whether it took them is unknown */
    } else if (a->status >= 200 && a->status < 300) {
        succeed(o, a);
    } else {
        snprintf(reason, sizeof reason, "it answered %d", a->status);
        fail(o, a->status == 429 || (a->status >= 502 && a->status <= 504), reason, a->retry_after_s);
    }
    proceed(o);
}

static void send_first(struct otlp *o)
{
    struct batch *b = o->first;
    struct error e;
    struct fetch_request r = {.method = "POST",
                              .url = o->url,
                              .headers = o->headers,
                              .n_headers = o->n_headers,
                              .body = b->text.data,
                              .body_len = b->text.len,
                              .deadline_ms = o->o.timeout_ms,
                              .answer_bytes_max = ANSWER_MAX,
                              .ca_file = o->ca_file};
    if (b->tries++ == 0)
        o->stats.batches++;
    else
        o->stats.retries++;
    if (fetch_start(o->o.fetcher, &r, on_answer, o, &o->flying, &e) != RC_OK) {
        o->flying = NULL;
        fail(o, true, e.message, 0);
    }
}

static void flush_done(struct otlp *o)
{
    void (*done)(void *arg) = o->flush.done;
    void *arg = o->flush.arg;
    o->flush.done = NULL;
    done(arg); /* may free o */
}

/* When something is due next, INT64_MAX: only another call can change anything. */
static int64_t next_due(const struct otlp *o, int64_t now)
{
    int64_t next = INT64_MAX;
    if (o->flush.done && !o->first)
        return now;
    if (o->first && !o->flying) {
        bool must_wait = o->failures && now < o->retry_at.ns;
        next = must_wait ? o->retry_at.ns : o->first->closed ? now : o->open_since.ns + o->o.delay_ms * NS_PER_MS;
    }
    return o->flush.done && o->flush.deadline.ns < next ? o->flush.deadline.ns : next;
}

/* Do what is due, and wait for what is next. Called after every change. */
static void proceed(struct otlp *o)
{
    int64_t now = clock_now(o->o.clock).ns;
    if (o->first && !o->flying && (!o->failures || now >= o->retry_at.ns)) {
        if (!o->first->closed && (o->flush.done || now >= o->open_since.ns + o->o.delay_ms * NS_PER_MS))
            close_batch(o->first);
        if (o->first->closed)
            send_first(o);
    }
    int64_t next = next_due(o, now);
    if (next == INT64_MAX)
        return;
    int64_t us = next > now ? (next - now) / NS_PER_US + 1 : 0;
    struct timeval tv = {.tv_sec = us / 1000000, .tv_usec = us % 1000000};
    evtimer_add(o->timer, &tv);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct otlp *o = arg;
    (void)fd;
    (void)what;
    if (o->flush.done && (!o->first || clock_now(o->o.clock).ns >= o->flush.deadline.ns))
        flush_done(o);
    else
        proceed(o);
}

void otlp_flush(struct otlp *o, int64_t ms, void (*done)(void *arg), void *arg)
{
    SPW_ASSERT(!o->flush.done);
    o->flush.done = done;
    o->flush.arg = arg;
    o->flush.deadline.ns = clock_now(o->o.clock).ns + ms * NS_PER_MS;
    proceed(o);
}

struct otlp_stats otlp_stats(const struct otlp *o)
{
    return (struct otlp_stats){.submitted = o->stats.submitted,
                               .exported = o->stats.exported,
                               .rejected = o->stats.rejected,
                               .dropped_full = o->stats.dropped_full,
                               .dropped_failed = o->stats.dropped_failed,
                               .batches = o->stats.batches,
                               .retries = o->stats.retries,
                               .queued = o->stats.queued};
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

static bool is_token(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] <= ' ' || s[i] >= 0x7f || strchr("()<>@,;:\\\"/[]?={}", s[i]))
            return false;
    return n > 0;
}

/* One line "Name: value" in place. The content may be a secret: texts name the line's number only. */
static enum rc take_header(struct otlp *o, char *line, int number, struct error *e)
{
    char *colon = strchr(line, ':');
    if (!colon || !is_token(line, (size_t)(colon - line)))
        return error_set(e, RC_INVALID, "%s: line %d is not \"Name: value\"", o->o.headers_file, number);
    *colon = '\0';
    char *value = colon + 1 + strspn(colon + 1, " \t");
    for (const char *p = value; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            return error_set(e, RC_INVALID, "%s: line %d holds a control character", o->o.headers_file, number);
    if (o->n_headers == OTLP_HEADERS_MAX + 1)
        return error_set(e, RC_INVALID, "%s: more than %d headers", o->o.headers_file, OTLP_HEADERS_MAX);
    o->headers[o->n_headers++] = (struct http_header){line, value};
    return RC_OK;
}

static enum rc read_headers(struct otlp *o, struct error *e)
{
    o->headers[o->n_headers++] = (struct http_header){"Content-Type", "application/json"};
    if (!o->o.headers_file)
        return RC_OK;
    struct strbuf file;
    enum rc rc = file_read(&file, o->o.headers_file, HEADERS_FILE_MAX, e);
    if (rc == RC_OK)
        o->headers_text = strbuf_take(&file);
    strbuf_fini(&file);
    char *line, *rest = o->headers_text;
    for (int number = 1; rc == RC_OK && (line = strsep(&rest, "\n")); number++) {
        size_t n = strlen(line);
        if (n && line[n - 1] == '\r')
            line[n - 1] = '\0';
        if (*line && *line != '#')
            rc = take_header(o, line, number, e);
    }
    return rc;
}

static enum rc make_url(struct otlp *o, struct error *e)
{
    const char *endpoint = o->o.endpoint;
    size_t n = strlen(endpoint);
    if (strncmp(endpoint, "http://", 7) != 0 && strncmp(endpoint, "https://", 8) != 0)
        return error_set(e, RC_INVALID, "\"%.80s\" is no collector; write http://HOST:4318", endpoint);
    if (strcspn(endpoint, "?#@ \t\r\n") != n)
        return error_set(e, RC_INVALID, "a collector's address holds no query, blanks or credentials");
    while (n && endpoint[n - 1] == '/')
        n--;
    o->url = spw_asprintf("%.*s/v1/traces", (int)n, endpoint);
    return RC_OK;
}

static void fill_defaults(struct otlp_options *o)
{
    o->queue_max = o->queue_max > 0 ? o->queue_max : 2048;
    o->batch_max = o->batch_max > 0 ? o->batch_max : 256;
    o->batch_max = o->batch_max < o->queue_max ? o->batch_max : o->queue_max;
    o->delay_ms = o->delay_ms > 0 ? o->delay_ms : 2000;
    o->timeout_ms = o->timeout_ms > 0 ? o->timeout_ms : 10000;
    o->tries_max = o->tries_max > 0 ? o->tries_max : 5;
    o->backoff_ms = o->backoff_ms > 0 ? o->backoff_ms : 1000;
    o->backoff_ms_max = o->backoff_ms_max > 0 ? o->backoff_ms_max : 30000;
}

enum rc otlp_new(struct otlp **out, const struct otlp_options *options, struct error *e)
{
    struct otlp *o = spw_calloc(1, sizeof(*o));
    o->o = *options;
    fill_defaults(&o->o);
    /* Batches that close by their length hold fewer spans: two more than the count asks for, and then spans are dropped. */
    o->batches_max = o->o.queue_max / o->o.batch_max + 2;
    strbuf_init(&o->head, OTLP_BATCH_BYTES / 4);
    o->timer = evtimer_new(o->o.loop, on_timer, o);
    SPW_ASSERT(o->timer);
    enum rc rc = make_url(o, e);
    if (rc == RC_OK)
        rc = read_headers(o, e);
    if (rc == RC_OK && (rc = otlp_write_head(&o->head, &o->o)) != RC_OK)
        error_set(e, rc, "the resource's names are too long");
    if (rc != RC_OK) {
        o->o.log = NULL;
        otlp_free(o);
        return rc;
    }
    o->ca_file = o->o.ca_file ? spw_strdup(o->o.ca_file) : NULL;
    /* Borrowed for this call only. */
    o->o.endpoint = o->o.headers_file = o->o.ca_file = o->o.service_name = o->o.instance_id = o->o.environment = NULL;
    *out = o;
    return RC_OK;
}

void otlp_free(struct otlp *o)
{
    if (!o)
        return;
    if (o->flying)
        fetch_cancel(o->flying);
    if (o->stats.queued)
        log_warn(o->o.log, AREA, "spans are left unsent", LOG_I("dropped", o->stats.queued));
    while (o->first)
        drop_first(o);
    event_free(o->timer);
    if (o->headers_text)
        explicit_bzero(o->headers_text, strlen(o->headers_text));
    free(o->headers_text);
    free(o->url);
    free(o->ca_file);
    strbuf_fini(&o->head);
    free(o);
}
