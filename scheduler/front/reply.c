/* Towards the client of a stream, before there is an answer: its head, and comments so that nobody in between takes the
 * connection for dead. A comment is a line that begins with a colon; clients skip it (the event stream format of HTML). */
#include "scheduler/front/front_internal.h"

static const char comment[] = ": waiting\n\n";

void reply_head(struct request *r, const char *node)
{
    if (r->headed)
        return;
    struct limit_texts limits;
    struct cached_texts cached;
    struct http_header headers[5 + LIMIT_HEADERS_MAX + CACHED_HEADERS_MAX] = {
        {"Content-Type", "text/event-stream"},
        {"Cache-Control", "no-cache"},
        {"X-Accel-Buffering", "no"}, /* proxies in front of us shall not gather what we hurry to send */
        {"x-request-id", r->id},
    };
    int n = 4;
    if (node)
        headers[n++] = (struct http_header){"x-spillway-node", node};
    n += limit_headers(&r->limits, &limits, headers + n);
    n += cached_headers(r, &cached, headers + n);
    r->headed = true;
    http_reply_start(r->x, 200, headers, n);
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
    if (reads)
        http_reply_write(r->x, comment, sizeof comment - 1);
}
