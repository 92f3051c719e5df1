/* Towards the client. Every byte of an answer passes here, and what has to be kept of it for repeats (idempotency.h) is
 * kept here, whether or not the client is still there to read it.
 *
 * Before there is an answer, a stream has its head, and comments so that nobody in between takes the connection for
 * dead. A comment is a line that begins with a colon; clients skip it (the event stream format of HTML), and nobody
 * keeps it. */
#include "scheduler/front/reply.h"

#include <string.h>

#include "scheduler/front/front_internal.h"

void reply_head(struct request *r, const char *node)
{
    if (r->headed)
        return;
    struct limit_texts limits;
    struct cached_texts cached;
    struct strbuf why;
    struct http_header headers[7 + LIMIT_HEADERS_MAX + CACHED_HEADERS_MAX] = {
        {"Content-Type", "text/event-stream"},
        {"Cache-Control", "no-cache"},
        {"X-Accel-Buffering", "no"}, /* proxies in front of us shall not gather what we hurry to send */
        {"x-request-id", r->id},
    };
    int n = 4;
    if (node)
        headers[n++] = (struct http_header){"x-spillway-node", node};
    if (node)
        headers[n++] = (struct http_header){"x-spillway-model", request_model(r)->name};
    n += limit_headers(&r->limits, &limits, headers + n);
    n += cached_headers(r, &cached, headers + n);
    r->headed = true;
    idempotency_keep_head(r, 200, headers, n);
    n += explained_header(r, &why, &headers[n]);
    if (r->x)
        http_reply_start(r->x, 200, headers, n);
    strbuf_fini(&why);
}

void reply_write(struct request *r, const void *data, size_t n)
{
    idempotency_keep(r, data, n);
    audited_take(r, data, n);
    if (r->x)
        http_reply_write(r->x, data, n);
}

void reply_push(struct request *r)
{
    if (r->x && r->headed)
        http_reply_push(r->x);
}

void reply_end(struct request *r)
{
    idempotency_keep_end(r);
    if (r->x)
        http_reply_end(r->x);
    r->x = NULL;
}

void reply_whole(struct request *r, const struct http_header *headers, int n, const void *body, size_t bytes)
{
    struct http_exchange *x = r->x;
    struct http_header all[REPLY_HEADERS_MAX + 1];
    struct strbuf why;
    SPW_ASSERT(n <= REPLY_HEADERS_MAX);
    idempotency_keep_head(r, 200, headers, n);
    idempotency_keep(r, body, bytes);
    idempotency_keep_end(r);
    r->x = NULL;
    memcpy(all, headers, (size_t)n * sizeof *all);
    n += explained_header(r, &why, &all[n]); /* not kept: who asks again may be somebody else */
    if (x)
        http_reply(x, 200, all, n, body, bytes);
    strbuf_fini(&why);
}

void reply_error(struct request *r, const char *node)
{
    struct http_exchange *x = r->x;
    struct http_header more[2];
    struct strbuf why;
    int n = 0;
    r->x = NULL;
    if (node)
        more[n++] = (struct http_header){"x-spillway-node", node};
    n += explained_header(r, &why, &more[n]);
    if (x)
        api_error_reply_with(x, &r->error, r->id, more, n);
    strbuf_fini(&why);
}

/* Of a request that waits, and of one whose waiting has been told: it goes on until the first token. */
static bool has_beat(const struct request *r)
{
    return r->x && r->body.stream && !r->replied && r->config->keep_alive_ms > 0 &&
           (r->headed || r->state == REQUEST_WAITING || r->state == REQUEST_ASKING);
}

/* The client has heard something last. */
static struct mono heard_last(const struct request *r)
{
    return r->headed ? r->beat : r->wait_since;
}

int64_t reply_beat_ms(const struct request *r)
{
    const struct front *f = r->lane->front;
    if (!has_beat(r))
        return -1;
    int64_t left = r->config->keep_alive_ms - mono_since(f->o.clock, heard_last(r)) / NS_PER_MS;
    return left > 0 ? left : 0;
}

void reply_beat(struct request *r)
{
    if (reply_beat_ms(r) != 0)
        return;
    bool reads = !r->headed || http_reply_pending(r->x) == 0; /* else it need not be told */
    r->beat = clock_now(r->lane->front->o.clock);
    reply_head(r, NULL);
    if (reads) {
        audited_take(r, REPLY_COMMENT, sizeof REPLY_COMMENT - 1);
        http_reply_write(r->x, REPLY_COMMENT, sizeof REPLY_COMMENT - 1);
    }
}
