#include "providers/aws_query.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/random.h"

#define DEADLINE_MS   60000
#define TRY_MS        20000
#define TRY_MIN_MS    100 /* less is no try */
#define BACKOFF_MS    200
#define BACKOFF_MAX   20000
#define SKEW_MIN_S    30 /* less is no reason for a refusal: AWS allows five minutes, some of its doubles less */
#define REFRESHES_MAX 2
#define ANSWER_MAX    ((size_t)16 << 20)
#define FORM_TYPE     "application/x-www-form-urlencoded; charset=utf-8"
#define JSON_TYPE     "application/x-amz-json-1.1"

struct aws_client {
    struct event_base *loop;
    const struct clock *clock;
    const struct log *log;
    struct fetcher *fetcher;
    struct aws_keyring *keys;
    char *url, *host, *region, *service, *ca_file; /* owned */
    int burst;
    int64_t per_ks, per_ks_max; /* calls per 1,000 s: now, and as configured */
    int64_t full_at_ns;         /* GCRA's "theoretical arrival time" */
    struct aws_call *calls;     /* all that are not answered */
    struct random_pool random;
    struct aws_client_stats stats;
};

struct aws_call {
    struct aws_client *c;
    struct aws_call *prev, *next;
    char *body, *target; /* owned */
    size_t body_len;
    int64_t try_ms;
    struct mono until;
    int tries, refreshes;
    int64_t signed_skew_s;      /* of the last try */
    unsigned signed_generation; /* of its keys */
    struct event *timer;        /* owned: its turn, or the next try */
    struct fetch *fetch;        /* under way; NULL: none */
    struct aws_keys_wait wait;  /* while next is not NULL */
    bool has_turn;
    aws_call_cb *cb;
    void *arg;
};

/* ---- the body --------------------------------------------------------------------------------------------------- */

void aws_form_init(struct aws_form *f, const char *action, const char *version)
{
    *f = (struct aws_form){0};
    strbuf_init(&f->text, AWS_FORM_MAX);
    aws_form_add(f, "Action", action);
    aws_form_add(f, "Version", version);
}

void aws_form_fini(struct aws_form *f)
{
    strbuf_fini(&f->text);
}

void aws_form_add(struct aws_form *f, const char *name, const char *value)
{
    if (!value || !*value || f->full)
        return;
    f->full = (f->text.len > 0 && strbuf_puts(&f->text, "&") != RC_OK) || aws_encode(&f->text, name) != RC_OK ||
              strbuf_puts(&f->text, "=") != RC_OK || aws_encode(&f->text, value) != RC_OK;
}

void aws_form_addf(struct aws_form *f, const char *value, const char *name_format, ...)
{
    char name[128];
    va_list ap;
    va_start(ap, name_format);
    int n = vsnprintf(name, sizeof name, name_format, ap);
    va_end(ap);
    SPW_ASSERT(n > 0 && n < (int)sizeof name);
    aws_form_add(f, name, value);
}

/* ---- the client ------------------------------------------------------------------------------------------------- */

/* "https://host:8443" -> "host:8443", as the Host header will have it; curl leaves a scheme's own port out. */
static char *host_of(const char *endpoint)
{
    const char *at = strstr(endpoint, "://");
    at = at ? at + 3 : endpoint;
    size_t n = strcspn(at, "/");
    const char *own = strncmp(endpoint, "https:", 6) == 0 ? ":443" : ":80";
    size_t len = strlen(own);
    if (n > len && strncmp(at + n - len, own, len) == 0)
        n -= len;
    return spw_strndup(at, n);
}

enum rc aws_client_new(struct aws_client **out, const struct aws_client_options *o, struct error *e)
{
    const char *at = strstr(o->endpoint, "://");
    if (!at || !at[3] || at[3] == '/' || at[3 + strcspn(at + 3, "/")] == '/')
        return error_set(e, RC_INVALID, "endpoint '%s' must be https://HOST without a path", o->endpoint);
    struct aws_client *c = spw_calloc(1, sizeof(*c));
    int per_s = o->per_s > 0 ? o->per_s : 5;
    *c = (struct aws_client){
        .loop = o->loop,
        .clock = o->clock,
        .log = o->log,
        .fetcher = o->fetcher,
        .keys = o->keys,
        .url = spw_asprintf("%s/", o->endpoint),
        .host = host_of(o->endpoint),
        .region = spw_strdup(o->region),
        .service = spw_strdup(o->service),
        .ca_file = o->ca_file ? spw_strdup(o->ca_file) : NULL,
        .burst = o->burst > 0 ? o->burst : 20,
        .per_ks = per_s * INT64_C(1000),
        .per_ks_max = per_s * INT64_C(1000),
    };
    *out = c;
    return RC_OK;
}

static void call_free(struct aws_call *call)
{
    if (call->wait.next)
        aws_keyring_unwait(&call->wait);
    if (call->fetch)
        fetch_cancel(call->fetch);
    event_free(call->timer);
    *(call->prev ? &call->prev->next : &call->c->calls) = call->next;
    if (call->next)
        call->next->prev = call->prev;
    free(call->body);
    free(call->target);
    free(call);
}

void aws_client_free(struct aws_client *c)
{
    if (!c)
        return;
    for (struct aws_call *call = c->calls, *next; call; call = next) {
        next = call->next;
        call_free(call);
    }
    free(c->url);
    free(c->host);
    free(c->region);
    free(c->service);
    free(c->ca_file);
    free(c);
}

struct aws_client_stats aws_client_stats(const struct aws_client *c)
{
    struct aws_client_stats s = c->stats;
    s.per_ks = c->per_ks;
    return s;
}

/* ---- one call --------------------------------------------------------------------------------------------------- */

static void answer(struct aws_call *call, struct aws_reply *r)
{
    aws_call_cb *cb = call->cb;
    void *arg = call->arg;
    r->tries = call->tries;
    if (!r->code)
        r->code = "";
    call->c->stats.denied += r->failure == PROVIDER_DENIED;
    call_free(call);
    cb(r, arg);
}

static void give_up(struct aws_call *call, enum provider_failure failure, const char *text)
{
    answer(call, &(struct aws_reply){.failure = failure, .text = text});
}

static int64_t left_ms(const struct aws_call *call)
{
    return (call->until.ns - clock_now(call->c->clock).ns) / NS_PER_MS;
}

static void arm(struct aws_call *call, int64_t ms)
{
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    evtimer_add(call->timer, &tv);
}

/* Uniform in 0..n. */
static int64_t random_up_to(struct aws_client *c, int64_t n)
{
    uint64_t x;
    random_take(&c->random, &x, sizeof x);
    return (int64_t)(x % (uint64_t)(n + 1));
}

/* Again after a while, or up with the failure when no time is left for that. */
static void again(struct aws_call *call, int64_t retry_after_s, struct aws_reply *failed)
{
    int shift = call->tries < 10 ? call->tries - 1 : 9;
    int64_t most = (int64_t)BACKOFF_MS << shift;
    int64_t ms = random_up_to(call->c, most < BACKOFF_MAX ? most : BACKOFF_MAX);
    if (ms < retry_after_s * 1000)
        ms = retry_after_s * 1000;
    if (ms + TRY_MIN_MS >= left_ms(call)) {
        char *text = spw_asprintf("%s (tried %d times)", failed->text, call->tries);
        failed->text = text;
        answer(call, failed);
        free(text);
        return;
    }
    log_debug(call->c->log, "provider", "call is tried again", LOG_S("service", call->c->service),
              LOG_S("why", failed->text), LOG_I("wait_ms", ms), LOG_I("tries", call->tries));
    arm(call, ms);
}

static void rate_down(struct aws_client *c)
{
    c->stats.throttled++;
    c->per_ks = c->per_ks / 2 > c->per_ks_max / 16 ? c->per_ks / 2 : c->per_ks_max / 16;
}

static void rate_up(struct aws_client *c)
{
    c->per_ks += c->per_ks_max / 20;
    if (c->per_ks > c->per_ks_max)
        c->per_ks = c->per_ks_max;
}

/* What a refusal of our keys or our clock can be cured by, once for each of them. */
static bool refresh(struct aws_call *call, const struct fetch_answer *a)
{
    struct aws_client *c = call->c;
    if (call->refreshes++ >= REFRESHES_MAX)
        return false;
    int64_t skew_s = a->date_s ? a->date_s - clock_wall(c->clock).ns / NS_PER_S : c->stats.skew_s;
    int64_t change = skew_s - c->stats.skew_s;
    if (change > SKEW_MIN_S || change < -SKEW_MIN_S) {
        log_warn(c->log, "provider", "our clock differs from the service's, signed with theirs",
                 LOG_I("skew_s", skew_s));
        c->stats.skew_s = skew_s;
        return true;
    }
    return call->signed_skew_s != c->stats.skew_s || aws_keyring_refused(c->keys, call->signed_generation);
}

static void failed_call(struct aws_call *call, const struct fetch_answer *a, const char *code, const char *message)
{
    const struct aws_error_kind *kind = aws_error_find(code, a->status);
    struct aws_client *c = call->c;
    char *text = *code ? spw_asprintf("%s: %.400s", code, message) : spw_asprintf("HTTP status %d", a->status);
    struct aws_reply r = {.failure = kind->failure,
                          .code = code,
                          .text = text,
                          .too_early = kind->remedy == AWS_TOO_EARLY,
                          .body = a->body,
                          .n = a->n};
    if (kind->failure == PROVIDER_THROTTLED)
        rate_down(c);
    c->stats.unreachable += kind->failure == PROVIDER_UNREACHABLE;
    if (kind->remedy == AWS_AGAIN)
        again(call, a->retry_after_s, &r);
    else if (kind->remedy == AWS_REFRESH && refresh(call, a))
        arm(call, 0);
    else
        answer(call, &r);
    free(text);
}

/* A 200 that is no XML, or ends in the middle, says nothing about what was done. */
static void unreadable(struct aws_call *call, const char *why)
{
    call->c->stats.unreachable++;
    again(call, 0, &(struct aws_reply){.failure = PROVIDER_UNREACHABLE, .text = why});
}

static void take_xml(struct aws_call *call, const struct fetch_answer *a)
{
    struct xml x;
    struct error e;
    bool readable = xml_parse(&x, a->body, a->n, &e) == RC_OK;
    if (a->status == 200 && !readable) {
        error_prefix(&e, "answer");
        unreadable(call, e.message);
        return;
    }
    if (a->status == 200) {
        rate_up(call->c);
        answer(call, &(struct aws_reply){.text = "", .root = x.root, .body = a->body, .n = a->n});
    } else {
        /* EC2: Response/Errors/Error; the other query services: ErrorResponse/Error. */
        const struct xml_node *error = readable ? xml_find(x.root, "Errors/Error") : NULL;
        if (!error && readable)
            error = xml_find(x.root, "Error");
        failed_call(call, a, xml_text(error, "Code"), xml_text(error, "Message"));
    }
    if (readable)
        xml_fini(&x);
}

/* {"__type":"prefix#Code","message":"..."} */
static void take_json(struct aws_call *call, const struct fetch_answer *a)
{
    cJSON *root = NULL;
    const char *code = "", *message = "", *hash;
    struct error ignored;
    if (a->status == 200) {
        rate_up(call->c);
        answer(call, &(struct aws_reply){.text = "", .body = a->body, .n = a->n});
        return;
    }
    if (json_parse(a->body, a->n, 8, &root, &ignored) != RC_OK ||
        json_get_string(root, "__type", &code, NULL, &ignored) != RC_OK ||
        json_get_string(root, "message", &message, NULL, &ignored) != RC_OK)
        code = "";
    hash = strrchr(code, '#');
    failed_call(call, a, hash ? hash + 1 : code, message);
    cJSON_Delete(root);
}

static void on_answer(const struct fetch_answer *a, const struct error *e, void *arg)
{
    struct aws_call *call = arg;
    call->fetch = NULL;
    if (e) { /* not reached, or cut: it may have been done */
        unreadable(call, e->message);
        return;
    }
    if (call->target)
        take_json(call, a);
    else
        take_xml(call, a);
}

static void send_signed(struct aws_call *call, const struct aws_keys *keys)
{
    struct aws_client *c = call->c;
    struct http_header own[] = {{"Content-Type", call->target ? JSON_TYPE : FORM_TYPE}, {"X-Amz-Target", call->target}};
    struct aws_request r = {.method = "POST",
                            .host = c->host,
                            .path = "/",
                            .headers = own,
                            .n_headers = call->target ? 2 : 1,
                            .body = call->body,
                            .body_len = call->body_len,
                            .region = c->region,
                            .service = c->service};
    struct aws_signature s;
    struct error e;
    enum rc rc = aws_sign(&r, keys, clock_wall(c->clock).ns / NS_PER_S + c->stats.skew_s, &s, &e);
    if (rc == RC_OK) {
        struct http_header sent[5] = {own[0], {"X-Amz-Date", s.date}, {"Authorization", s.authorization}};
        int n = 3;
        if (keys->token)
            sent[n++] = (struct http_header){"X-Amz-Security-Token", keys->token};
        if (call->target)
            sent[n++] = own[1];
        int64_t left = left_ms(call);
        struct fetch_request f = {.method = "POST",
                                  .url = c->url,
                                  .headers = sent,
                                  .n_headers = n,
                                  .body = call->body,
                                  .body_len = call->body_len,
                                  .deadline_ms = left < call->try_ms ? (left > 0 ? left : 1) : call->try_ms,
                                  .answer_bytes_max = ANSWER_MAX,
                                  .ca_file = c->ca_file};
        call->tries++;
        c->stats.tries++;
        call->has_turn = false;
        call->signed_skew_s = c->stats.skew_s;
        call->signed_generation = aws_keyring_generation(c->keys);
        rc = fetch_start(c->fetcher, &f, on_answer, call, &call->fetch, &e);
    }
    aws_signature_fini(&s);
    if (rc != RC_OK)
        give_up(call, PROVIDER_INVALID, e.message);
}

static void on_keys(const struct error *e, void *arg);

/* Its turn in the rate: the time to wait, or -1 when that is past the deadline. Taken once per try. */
static int64_t take_turn(struct aws_call *call)
{
    struct aws_client *c = call->c;
    const int64_t now = clock_now(c->clock).ns, gap = 1000 * NS_PER_S / c->per_ks;
    int64_t wait_ns = c->full_at_ns - c->burst * gap - now;
    if (wait_ns > 0 && wait_ns / NS_PER_MS + TRY_MIN_MS >= left_ms(call))
        return -1;
    c->full_at_ns = (c->full_at_ns > now ? c->full_at_ns : now) + gap;
    call->has_turn = true;
    return wait_ns > 0 ? wait_ns / NS_PER_MS + 1 : 0;
}

/* Whatever it waits for: keys first, then its turn, then it goes. */
static void go_on(struct aws_call *call)
{
    if (left_ms(call) <= 0) {
        give_up(call, PROVIDER_UNREACHABLE, "no time left to call");
        return;
    }
    const struct aws_keys *keys = aws_keyring_peek(call->c->keys);
    if (!keys) {
        call->wait = (struct aws_keys_wait){.cb = on_keys, .arg = call};
        aws_keyring_fetch(call->c->keys, &call->wait);
        return;
    }
    if (!call->has_turn) {
        int64_t ms = take_turn(call);
        if (ms < 0) {
            give_up(call, PROVIDER_THROTTLED, "more calls than the rate that we keep to allows");
            return;
        }
        if (ms > 0) {
            arm(call, ms);
            return;
        }
    }
    send_signed(call, keys);
}

static void on_keys(const struct error *e, void *arg)
{
    struct aws_call *call = arg;
    if (!e) {
        go_on(call);
        return;
    }
    /* The metadata service stutters like any other; a role that is not there is a denial in the end. */
    call->tries++;
    again(call, 0, &(struct aws_reply){.failure = PROVIDER_DENIED, .text = e->message});
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    go_on(arg);
}

static void on_too_large(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    give_up(arg, PROVIDER_INVALID, "request is too large");
}

struct aws_call *aws_call_start(struct aws_client *c, const struct aws_form *form, const struct aws_call_options *o,
                                aws_call_cb *cb, void *arg)
{
    static const struct aws_call_options usual;
    struct aws_call *call = spw_calloc(1, sizeof(*call));
    o = o ? o : &usual;
    const char *body = o->target ? o->json : form->text.data;
    const int64_t deadline_ms = o->deadline_ms > 0 ? o->deadline_ms : DEADLINE_MS;
    *call = (struct aws_call){
        .c = c,
        .next = c->calls,
        .body = spw_strdup(body),
        .body_len = strlen(body),
        .target = o->target ? spw_strdup(o->target) : NULL,
        .try_ms = o->try_ms > 0 ? o->try_ms : TRY_MS,
        .until = {.ns = clock_now(c->clock).ns + deadline_ms * NS_PER_MS},
        .cb = cb,
        .arg = arg,
    };
    call->timer = evtimer_new(c->loop, !o->target && form->full ? on_too_large : on_timer, call);
    if (c->calls)
        c->calls->prev = call;
    c->calls = call;
    c->stats.calls++;
    arm(call, 0);
    return call;
}

void aws_call_cancel(struct aws_call *call)
{
    call_free(call);
}
