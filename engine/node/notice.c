#include "engine/node/notice.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/http_client.h"
#include "base/json.h"
#include "base/text.h"

#define AREA       "notice"
#define CONNECT_MS 1000
#define ANSWER_MS  2000
#define BODY_MAX   ((size_t)16 << 10)
#define TOKEN_S    "21600"
#define TOKEN_MAX  512

enum question { Q_TOKEN, Q_ACTION, Q_REBALANCE };

struct notice {
    struct notice_options o;
    struct event *timer;
    struct http_client *client;
    struct http_call *call;
    enum question asked;
    int status;
    struct strbuf body;
    char token[TOKEN_MAX]; /* "": none */
    bool renewed;          /* in this round: a second 401 ends it */
    char told[256];        /* the last answer of instance-action that was told */
    bool told_rebalance, said_failure;
};

static void ask(struct notice *n, enum question q);

static void pause_for_next(struct notice *n)
{
    const int64_t ms = n->o.poll_ms ? n->o.poll_ms : NOTICE_POLL_MS;
    const struct timeval tv = {ms / 1000, ms % 1000 * 1000};
    n->renewed = false;
    event_add(n->timer, &tv);
}

enum rc notice_read_action(const char *text, size_t n, int64_t now_ms, int64_t *left_ms, struct error *e)
{
    cJSON *root = NULL;
    int64_t at_ms = 0;
    enum rc rc = json_parse(text, n, 4, &root, e);
    const char *action = cJSON_GetStringValue(json_find(root, "action"));
    const char *time = cJSON_GetStringValue(json_find(root, "time"));
    if (rc == RC_OK && !action)
        action = cJSON_GetStringValue(json_find(root, "instance-action"));
    if (rc == RC_OK && !action)
        rc = error_set(e, RC_INVALID, "neither \"action\" nor \"instance-action\" is in it");
    SPW_ASSERT(rc != RC_OK || action);
    if (rc == RC_OK && strcmp(action, "terminate") != 0 && strcmp(action, "stop") != 0 &&
        strcmp(action, "hibernate") != 0)
        rc = error_set(e, RC_NOT_FOUND, "\"%.40s\" is no end", action);
    *left_ms = -1;
    if (rc == RC_OK && strcmp(action, "hibernate") == 0)
        *left_ms = 0; /* it begins at once, whatever the time says */
    else if (rc == RC_OK && time && text_parse_time_ms(time, &at_ms) == RC_OK)
        *left_ms = at_ms > now_ms ? at_ms - now_ms : 0;
    cJSON_Delete(root);
    return rc;
}

static void on_action(struct notice *n)
{
    int64_t left_ms = -1;
    struct error e;
    const char *text = n->body.data ? n->body.data : "";
    if (strncmp(n->told, text, sizeof n->told - 1) == 0)
        return;
    enum rc rc = notice_read_action(text, n->body.len, clock_wall(n->o.clock).ns / NS_PER_MS, &left_ms, &e);
    text_put(n->told, n->told + sizeof n->told, text);
    if (rc == RC_OK)
        n->o.notice("spot_interruption", left_ms, n->o.arg);
    else
        log_warn(n->o.log, AREA, "a notice that we do not understand", LOG_S("error", e.message));
}

static void on_answer(struct notice *n)
{
    n->said_failure = false;
    if (n->asked == Q_TOKEN && n->status == 200 && n->body.len > 0 && n->body.len < sizeof n->token &&
        strpbrk(n->body.data, "\r\n ") == NULL) {
        text_put(n->token, n->token + sizeof n->token, n->body.data);
        ask(n, Q_ACTION);
    } else if (n->asked != Q_TOKEN && n->status == 401 && !n->renewed) {
        n->renewed = true;
        n->token[0] = '\0';
        ask(n, Q_TOKEN);
    } else if (n->asked == Q_ACTION) {
        if (n->status == 200)
            on_action(n);
        ask(n, Q_REBALANCE);
    } else {
        if (n->asked == Q_REBALANCE && n->status == 200 && !n->told_rebalance) {
            n->told_rebalance = true;
            n->o.notice("rebalance", -1, n->o.arg);
        }
        pause_for_next(n);
    }
}

static void on_head(struct http_call *c, const struct http_head *head, void *arg)
{
    struct notice *n = arg;
    (void)c;
    n->status = head->status;
}

static void on_body(struct http_call *c, const char *data, size_t len, void *arg)
{
    struct notice *n = arg;
    (void)c;
    (void)!strbuf_append(&n->body, data, len);
}

static void on_end(struct http_call *c, void *arg)
{
    struct notice *n = arg;
    (void)c;
    n->call = NULL;
    on_answer(n);
}

static void lost(struct notice *n, const char *why)
{
    if (!n->said_failure)
        log_warn(n->o.log, AREA, "the metadata service does not answer", LOG_S("url", n->o.url), LOG_S("error", why));
    n->said_failure = true;
    pause_for_next(n);
}

static void on_fail(struct http_call *c, enum http_phase phase, const struct error *e, void *arg)
{
    struct notice *n = arg;
    (void)c, (void)phase;
    n->call = NULL;
    if (e->code != RC_CANCELLED)
        lost(n, e->message);
}

static const struct http_call_handlers handlers = {
    .on_head = on_head, .on_body = on_body, .on_end = on_end, .on_fail = on_fail};

static void ask(struct notice *n, enum question q)
{
    static const char *const paths[] = {"/latest/api/token", "/latest/meta-data/spot/instance-action",
                                        "/latest/meta-data/events/recommendations/rebalance"};
    const struct http_header headers[] = {q == Q_TOKEN
                                              ? (struct http_header){"X-aws-ec2-metadata-token-ttl-seconds", TOKEN_S}
                                              : (struct http_header){"X-aws-ec2-metadata-token", n->token}};
    const struct http_request r = {
        .method = q == Q_TOKEN ? "PUT" : "GET", .target = paths[q], .headers = headers, .n_headers = 1};
    struct error e;
    n->asked = q;
    n->status = 0;
    strbuf_clear(&n->body);
    if (http_call_start(n->client, &r, &handlers, n, &n->call, &e) != RC_OK) {
        n->call = NULL;
        lost(n, e.message);
    }
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct notice *n = arg;
    (void)fd, (void)what;
    if (!n->call)
        ask(n, n->token[0] ? Q_ACTION : Q_TOKEN);
}

static enum rc dial(struct notice *n, struct event_base *loop, struct error *e)
{
    struct http_client_options o = {.limits = http_limits_default,
                                    .connect_ms = CONNECT_MS,
                                    .head_ms = ANSWER_MS,
                                    .idle_body_ms = ANSWER_MS,
                                    .connections_max = 1};
    const char *host = n->o.url + 7, *colon;
    char name[256] = "", *slash;
    int64_t port = 80;
    if (strncmp(n->o.url, "http://", 7) != 0 || strlen(host) >= sizeof name)
        return error_set(e, RC_INVALID, "\"%.120s\" is no metadata service: write http://HOST:PORT", n->o.url);
    text_put(name, name + sizeof name, host);
    slash = strchr(name, '/');
    if (slash)
        *slash = '\0';
    colon = strrchr(name, ':');
    if (colon && text_parse_int(colon + 1, 1, 65535, &port) != RC_OK)
        return error_set(e, RC_INVALID, "\"%.120s\" is no metadata service: the port is from 1 to 65535", n->o.url);
    if (colon)
        name[colon - name] = '\0';
    o.limits.body_bytes_max = BODY_MAX;
    return http_client_new(&n->client, loop, name, (int)port, &o, e);
}

enum rc notice_new(struct notice **out, struct event_base *loop, const struct notice_options *o, struct error *e)
{
    struct notice *n = spw_calloc(1, sizeof *n);
    const struct timeval now = {0, 0};
    n->o = *o;
    strbuf_init(&n->body, BODY_MAX);
    n->timer = event_new(loop, -1, 0, on_timer, n);
    enum rc rc =
        n->timer && event_add(n->timer, &now) == 0 ? dial(n, loop, e) : error_set(e, RC_IO, "cannot make a timer");
    if (rc == RC_OK)
        *out = n;
    else
        notice_free(n);
    return rc;
}

void notice_free(struct notice *n)
{
    if (!n)
        return;
    if (n->call)
        http_call_cancel(n->call);
    http_client_free(n->client);
    strbuf_fini(&n->body);
    if (n->timer)
        event_free(n->timer);
    free(n);
}
