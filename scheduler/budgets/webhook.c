#include "scheduler/budgets/webhook.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "base/alloc.h"
#include "base/fetch.h"

#define TRIES       3
#define AGAIN_MS    2000 /* after the first; five times as long after the second */
#define DEADLINE_MS 10000
#define TOKEN_BYTES 512

struct notice {
    LIST_ENTRY(notice) list;
    struct webhook *w;
    struct fetch *fetch; /* NULL: it waits for the next try */
    struct event *again;
    char *url, *ca, *body, authorization[TOKEN_BYTES + 16];
    size_t n;
    int tries;
};
struct webhook {
    struct event_base *loop;
    const struct log *log;
    struct fetcher *fetcher; /* NULL: nothing was sent yet */
    LIST_HEAD(, notice) notices;
    int n;
    struct webhook_stats stats;
};

struct webhook *webhook_new(struct event_base *loop, const struct log *log)
{
    struct webhook *w = spw_calloc(1, sizeof *w);
    w->loop = loop;
    w->log = log;
    LIST_INIT(&w->notices);
    return w;
}

static void notice_free(struct notice *x)
{
    LIST_REMOVE(x, list);
    x->w->n--;
    if (x->fetch)
        fetch_cancel(x->fetch);
    if (x->again)
        event_free(x->again);
    free(x->url);
    free(x->ca);
    free(x->body);
    memset(x->authorization, 0, sizeof x->authorization);
    free(x);
}

void webhook_free(struct webhook *w)
{
    if (!w)
        return;
    for (struct notice *x = LIST_FIRST(&w->notices), *next; x; x = next) {
        next = LIST_NEXT(x, list);
        notice_free(x);
    }
    if (w->fetcher)
        fetcher_free(w->fetcher);
    free(w);
}

static void failed(struct notice *x, const char *why)
{
    struct webhook *w = x->w;
    if (x->tries < TRIES) {
        struct timeval tv = {.tv_sec = AGAIN_MS / 1000 * (x->tries == 1 ? 1 : 5)};
        event_add(x->again, &tv);
        return;
    }
    w->stats.failed++;
    log_warn(w->log, "budget", "a notice could not be delivered to the webhook", LOG_S("reason", why),
             LOG_I("attempts", x->tries));
    notice_free(x);
}

static void on_answer(const struct fetch_answer *a, const struct error *e, void *arg)
{
    struct notice *x = arg;
    char why[64];
    x->fetch = NULL;
    if (a && a->status >= 200 && a->status < 300) {
        x->w->stats.sent++;
        notice_free(x);
        return;
    }
    /* The error's own text may name the URL. */
    if (a)
        snprintf(why, sizeof why, "it answered with status %d", a->status);
    else
        snprintf(why, sizeof why, "%s", e->code == RC_TIMEOUT ? "no answer in time" : "it could not be reached");
    failed(x, why);
}

static void try_it(struct notice *x)
{
    struct http_header headers[2] = {{"Content-Type", "application/json"}, {"Authorization", x->authorization}};
    const struct fetch_request q = {.method = "POST",
                                    .url = x->url,
                                    .headers = headers,
                                    .n_headers = x->authorization[0] ? 2 : 1,
                                    .body = x->body,
                                    .body_len = x->n,
                                    .deadline_ms = DEADLINE_MS,
                                    .answer_bytes_max = 65536,
                                    .ca_file = x->ca};
    struct error e;
    x->tries++;
    if (fetch_start(x->w->fetcher, &q, on_answer, x, &x->fetch, &e) != RC_OK) {
        x->fetch = NULL;
        failed(x, "no call can be made");
    }
}

static void on_again(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    try_it(arg);
}

/* False: there is a file, and no token in it. */
static bool read_token(const char *path, char *out, size_t size)
{
    char token[TOKEN_BYTES];
    out[0] = '\0';
    if (!path)
        return true;
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(token, 1, sizeof token - 1, f) : 0;
    if (f)
        fclose(f);
    token[n] = '\0';
    token[strcspn(token, "\r\n")] = '\0';
    snprintf(out, size, "Bearer %s", token);
    memset(token, 0, sizeof token);
    return n > 0;
}

void webhook_send(struct webhook *w, const struct webhook_target *to, const char *body, size_t n)
{
    struct error e;
    if (!to->url)
        return;
    if (w->n >= WEBHOOK_PENDING_MAX || (!w->fetcher && fetcher_new(&w->fetcher, w->loop, &e) != RC_OK)) {
        w->stats.dropped++;
        return;
    }
    struct notice *x = spw_calloc(1, sizeof *x);
    x->w = w;
    LIST_INSERT_HEAD(&w->notices, x, list);
    w->n++;
    x->url = spw_strdup(to->url);
    x->ca = to->ca_file ? spw_strdup(to->ca_file) : NULL;
    x->body = spw_malloc(n + 1);
    memcpy(x->body, body, n);
    x->n = n;
    x->again = evtimer_new(w->loop, on_again, x);
    if (!read_token(to->token_file, x->authorization, sizeof x->authorization)) {
        log_warn(w->log, "budget", "the webhook's token file cannot be read", LOG_S("name", to->token_file));
        x->authorization[0] = '\0';
    }
    try_it(x);
}

struct webhook_stats webhook_stats(const struct webhook *w)
{
    return w->stats;
}
