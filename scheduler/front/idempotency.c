#include "scheduler/front/idempotency.h"

#include <stdlib.h>
#include <string.h>

#include "scheduler/front/front_internal.h"

/* ---- the start -------------------------------------------------------------------------------------------------- */

static int hex_value(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool read_hash(const char *hex, struct hash *h)
{
    unsigned char *bytes = (unsigned char *)h->w;
    if (!hex || strlen(hex) != (size_t)2 * HASH_BYTES)
        return false;
    for (int i = 0; i < HASH_BYTES; i++) {
        int high = hex_value(hex[2 * i]), low = hex_value(hex[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        bytes[i] = (unsigned char)(high << 4 | low);
    }
    return true;
}

static void write_hash(const struct hash *h, char hex[2 * HASH_BYTES + 1])
{
    static const char digits[] = "0123456789abcdef";
    const unsigned char *bytes = (const unsigned char *)h->w;
    for (int i = 0; i < HASH_BYTES; i++) {
        hex[2 * i] = digits[bytes[i] >> 4];
        hex[2 * i + 1] = digits[bytes[i] & 15];
    }
    hex[2 * HASH_BYTES] = '\0';
}

/* An answer was paid for; of what was computed again, anything that a client has got counts. */
static void restore(const struct ledger_row *row, void *arg)
{
    struct front *f = arg;
    struct repeat_question q = {.tenant = row->tenant, .key = row->idempotency_key};
    bool used =
        row->outcome == LEDGER_OK || (row->repeat > 0 && (row->outcome == LEDGER_CANCELLED || row->first_byte.ns));
    if (!used || !read_hash(row->request_hash, &q.what))
        return;
    int64_t ago_ns = clock_wall(f->o.clock).ns - row->finished.ns;
    repeats_restore(f->repeats, &q, row->repeat, ago_ns > 0 ? ago_ns : 0);
}

enum rc idempotency_open(struct front *f, struct error *e)
{
    const struct config *c = f->o.config;
    const struct repeats_options o = {.keys_max = c->idempotency.keys_max,
                                      .bytes_max = c->idempotency.bytes_max,
                                      .keep_ms = c->idempotency.keep_ms,
                                      .clock = f->o.clock};
    struct wall since = {clock_wall(f->o.clock).ns - o.keep_ms * NS_PER_MS};
    if (!o.keep_ms)
        return RC_OK;
    f->repeats = repeats_new(&o);
    if (c->ledger_off) /* a restart forgets */
        return RC_OK;
    return ledger_read_repeats(c->ledger_path, since, o.keys_max, restore, f, e);
}

/* ---- an answer for the second time ------------------------------------------------------------------------------ */

/* The same bytes. */
static void replay(struct http_exchange *x, const struct repeat_answer *a)
{
    struct http_header headers[REPEAT_HEADERS_MAX + 1];
    memcpy(headers, a->headers, (size_t)a->n_headers * sizeof headers[0]);
    headers[a->n_headers] = (struct http_header){"x-spillway-idempotent-replay", "true"};
    if (!a->streamed) {
        http_reply(x, a->status, headers, a->n_headers + 1, a->body.data, a->body.len);
        return;
    }
    http_reply_start(x, a->status, headers, a->n_headers + 1);
    http_reply_write(x, a->body.data, a->body.len);
    http_reply_end(x);
}

/* a: NULL for one that could not be kept. */
static struct api_error why_not(const struct repeat_answer *a)
{
    struct api_error e;
    if (a)
        return a->error;
    api_error_set(&e, API_REPEAT_BUSY, NULL, "%s", "");
    return e;
}

static void answer_again(struct lane *l, struct http_exchange *x, const char *id, const struct repeat_answer *a)
{
    if (a && !a->failed) {
        log_info(l->front->o.log, "request", "answered again", LOG_S("request_id", id), LOG_I("status", a->status));
        replay(x, a);
        return;
    }
    struct api_error e = why_not(a);
    counter_add(&l->refused, 1);
    metrics_add(l->metrics, METRIC_REFUSED, (int)e.code, 0, 1);
    api_error_reply(x, &e, id, NULL, NULL);
}

/* ---- waiting for the first -------------------------------------------------------------------------------------- */

struct in_line {
    struct repeat_wait wait;
    struct lane *lane;
    struct http_exchange *x; /* NULL: the client is gone, and the mail will end it */
    char id[REQUEST_ID_BYTES];
    struct event *timer; /* owned; NULL: a client that hears nothing while it waits */
    bool headed;         /* it has heard that it waits */
};

static void in_line_free(struct in_line *w)
{
    if (w->timer)
        event_free(w->timer);
    repeat_answer_unref(w->wait.answer);
    free(w);
}

static void arm(struct in_line *w)
{
    int64_t ms = w->lane->config->keep_alive_ms;
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = (ms % 1000) * 1000};
    if (ms > 0)
        event_add(w->timer, &tv);
}

/* A stream that has nothing to say yet says so, as in a waiting room. The head is its own: the first's is not known. */
static void on_beat(evutil_socket_t fd, short what, void *arg)
{
    struct in_line *w = arg;
    (void)fd;
    (void)what;
    if (!w->headed) {
        const struct http_header headers[] = {
            {"Content-Type", "text/event-stream"},
            {"Cache-Control", "no-cache"},
            {"X-Accel-Buffering", "no"},
            {"x-request-id", w->id},
            {"x-spillway-idempotent-replay", "true"},
        };
        http_reply_start(w->x, 200, headers, 5);
        w->headed = true;
    }
    if (http_reply_pending(w->x) < 65536) /* who does not read need not be told */
        http_reply_write(w->x, REPLY_COMMENT, sizeof REPLY_COMMENT - 1);
    arm(w);
}

/* The head has left: the rest of it, or an error event. */
static void answer_headed(struct in_line *w, const struct repeat_answer *a)
{
    struct api_error e;
    struct strbuf event;
    strbuf_init(&event, 16384);
    if (a && !a->failed) {
        http_reply_write(w->x, a->body.data, a->body.len);
    } else {
        e = why_not(a);
        if (api_error_write_event(&e, &event) == RC_OK)
            http_reply_write(w->x, event.data, event.len);
    }
    http_reply_end(w->x);
    strbuf_fini(&event);
}

static void on_told(struct mail *m)
{
    struct in_line *w = (struct in_line *)((char *)m - offsetof(struct in_line, wait.mail));
    if (w->x) {
        http_exchange_set(w->x, NULL, NULL);
        if (w->headed)
            answer_headed(w, w->wait.answer);
        else
            answer_again(w->lane, w->x, w->id, w->wait.answer);
    }
    in_line_free(w);
}

static void on_waiter_abort(struct http_exchange *x, void *state)
{
    struct in_line *w = state;
    (void)x;
    w->x = NULL;
    if (w->timer)
        event_del(w->timer);
    if (repeats_leave(w->lane->front->repeats, &w->wait))
        in_line_free(w);
}

/* ---- asking ----------------------------------------------------------------------------------------------------- */

/* The header's one value, or NULL. RC_DENIED: it may not be what it is. */
static enum rc read_key(struct http_exchange *x, const char **key, struct api_error *refusal)
{
    const struct http_head *head = http_request_head(x);
    struct error e;
    int n = 0;
    *key = http_head_get(head, "idempotency-key");
    if (!*key)
        return RC_OK;
    for (int i = 0; i < head->n_headers; i++)
        n += strcasecmp(head->headers[i].name, "idempotency-key") == 0;
    enum rc rc = n == 1 ? repeat_key_check(*key, &e) : error_set(&e, RC_INVALID, "Idempotency-Key is given twice");
    if (rc == RC_OK)
        return RC_OK;
    api_error_set(refusal, API_INVALID_BODY, "Idempotency-Key", "%s", e.message);
    return RC_DENIED;
}

static struct hash hash_of(const struct request_body *body, const struct identity *who)
{
    char kind[2] = {(char)body->kind, who->local_only};
    const struct iovec parts[] = {{kind, sizeof kind}, {(void *)body->text, body->n}};
    return repeat_hash(parts, 2);
}

static struct idempotency *part_new(const struct repeat_question *q, struct repeat_ticket *ticket)
{
    struct idempotency *p = spw_calloc(1, sizeof *p);
    p->ticket = ticket;
    p->number = repeat_number(ticket);
    memcpy(p->key, q->key, strlen(q->key) + 1);
    write_hash(&q->what, p->hash);
    return p;
}

static void on_unwanted(void *arg)
{
    request_unwanted(arg);
}

static enum rc ask(struct lane *l, struct http_exchange *x, const char *id, const struct repeat_question *q,
                   bool stream, struct idempotency **part, struct api_error *refusal)
{
    const struct repeat_owner owner = {.box = l->mail, .unwanted = on_unwanted};
    struct in_line *w = spw_calloc(1, sizeof *w);
    struct repeat_ticket *ticket;
    struct repeat_answer *answer;
    *w = (struct in_line){.wait = {.box = l->mail, .mail = {.deliver = on_told}}, .lane = l, .x = x};
    snprintf(w->id, sizeof w->id, "%s", id);
    enum repeat_role role = repeats_ask(l->front->repeats, q, &owner, &ticket, &w->wait, &answer);
    if (role == REPEAT_WAIT) { /* nothing is delivered before this turn has ended */
        http_exchange_set(x, w, on_waiter_abort);
        w->timer = stream ? evtimer_new(l->loop, on_beat, w) : NULL;
        if (w->timer)
            arm(w);
        return RC_AGAIN;
    }
    free(w);
    switch (role) {
    case REPEAT_COMPUTE: *part = part_new(q, ticket); return RC_OK;
    case REPEAT_ANSWER:
        answer_again(l, x, id, answer);
        repeat_answer_unref(answer);
        return RC_AGAIN;
    case REPEAT_OTHER: api_error_set(refusal, API_REPEAT_OTHER, "Idempotency-Key", "%s", ""); break;
    case REPEAT_SPENT: api_error_set(refusal, API_REPEAT_SPENT, "Idempotency-Key", "%s", ""); break;
    default: api_error_set(refusal, API_REPEAT_BUSY, "Idempotency-Key", "%s", ""); break;
    }
    return RC_DENIED;
}

enum rc idempotency_begin(struct lane *l, struct http_exchange *x, const char *id, const struct request_body *body,
                          const struct identity *who, struct idempotency **part, struct api_error *refusal)
{
    struct repeat_question q = {.tenant = who->tenant};
    *part = NULL;
    if (!l->front->repeats)
        return RC_OK;
    enum rc rc = read_key(x, &q.key, refusal);
    if (rc != RC_OK || !q.key)
        return rc;
    q.what = hash_of(body, who);
    return ask(l, x, id, &q, body->stream, part, refusal);
}

static void part_free(struct idempotency *p)
{
    repeat_answer_unref(p->kept);
    free(p->body);
    free(p);
}

void idempotency_refused(struct lane *l, struct idempotency *p, const struct api_error *why)
{
    if (!p)
        return;
    repeats_fail(l->front->repeats, p->ticket, REPEAT_UNUSED, why);
    part_free(p);
}

/* ---- the steps of a request ------------------------------------------------------------------------------------- */

static struct repeats *repeats_of(const struct request *r)
{
    return r->lane->front->repeats;
}

void idempotency_start(struct request *r)
{
    if (r->idempotency)
        repeat_ticket_for(r->idempotency->ticket, r);
}

/* What a client has got, and given up, of one that is computed again was for nothing often enough. */
static enum repeat_use use_of(const struct request *r)
{
    return r->outcome == LEDGER_FAILED && !r->replied ? REPEAT_UNUSED : REPEAT_USED;
}

bool idempotency_goes_on(struct request *r)
{
    struct idempotency *p = r->idempotency;
    if (!p || !p->ticket)
        return false;
    if (repeats_give_up(repeats_of(r), p->ticket, r->attempts ? REPEAT_USED : REPEAT_UNUSED)) {
        p->ticket = NULL;
        return false;
    }
    if (!p->body) { /* the exchange takes its own along */
        p->body = spw_malloc(r->body.n + 1);
        memcpy(p->body, r->body.text, r->body.n);
        p->body[r->body.n] = '\0';
        request_move(&r->body, p->body);
    }
    return true;
}

void idempotency_settled(struct request *r)
{
    struct idempotency *p = r->idempotency;
    struct api_error gone;
    if (!p || !p->ticket)
        return;
    struct repeat_ticket *ticket = p->ticket;
    p->ticket = NULL;
    if (r->outcome == LEDGER_OK) {
        struct repeat_answer *kept = p->whole && !p->lost ? p->kept : NULL;
        if (kept)
            p->kept = NULL;
        repeats_finish(repeats_of(r), ticket, kept);
    } else if (r->outcome == LEDGER_FAILED) {
        repeats_fail(repeats_of(r), ticket, use_of(r), &r->error);
    } else {
        api_error_set(&gone, API_REPEAT_BUSY, NULL, "%s", "");
        repeats_fail(repeats_of(r), ticket, REPEAT_USED, &gone);
    }
}

void idempotency_fini(struct request *r)
{
    struct idempotency *p = r->idempotency;
    struct api_error ending;
    if (!p)
        return;
    if (p->ticket) { /* without an end of its own: the front goes away */
        api_error_set(&ending, API_DRAINING, NULL, "%s", "");
        repeats_fail(repeats_of(r), p->ticket, REPEAT_USED, &ending);
    }
    part_free(p);
    r->idempotency = NULL;
}

/* ---- keeping ---------------------------------------------------------------------------------------------------- */

static void lose(struct idempotency *p)
{
    repeat_answer_unref(p->kept);
    p->kept = NULL;
    p->lost = true;
}

/* What a client may still do is the business of each answer. */
static bool is_kept(const char *name)
{
    return strncasecmp(name, "x-ratelimit-", 12) != 0;
}

void idempotency_keep_head(struct request *r, int status, const struct http_header *headers, int n)
{
    struct idempotency *p = r->idempotency;
    struct http_header kept[REPEAT_HEADERS_MAX];
    int n_kept = 0;
    if (!idempotency_wants(p) || p->lost)
        return;
    for (int i = 0; i < n && n_kept < REPEAT_HEADERS_MAX; i++) {
        if (is_kept(headers[i].name))
            kept[n_kept++] = headers[i];
    }
    repeat_answer_unref(p->kept);
    p->kept = repeat_answer_new(status, kept, n_kept);
    p->kept->streamed = r->body.stream;
}

void idempotency_keep(struct request *r, const void *data, size_t n)
{
    struct idempotency *p = r->idempotency;
    if (!idempotency_wants(p) || !p->kept)
        return;
    if (!repeats_grow(repeats_of(r), p->ticket, n) || strbuf_append(&p->kept->body, data, n) != RC_OK)
        lose(p);
}

void idempotency_keep_end(struct request *r)
{
    if (idempotency_wants(r->idempotency))
        r->idempotency->whole = r->idempotency->kept != NULL;
}
