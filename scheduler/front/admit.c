/* How much somebody may ask: the request against the limits of its key, its team, and its tenant's use of the model. */
#include <inttypes.h>
#include <string.h>

#include "base/text.h"
#include "scheduler/front/front_internal.h"

static int64_t now_us(const struct front *f)
{
    return clock_now(f->o.clock).ns / NS_PER_US;
}

static struct limit_spec spec_of(const struct config *config, const char *class_name)
{
    const struct config_class *c = config_class(config, class_name);
    if (!c)
        return (struct limit_spec){0};
    return (struct limit_spec){.requests_per_min = c->requests_per_min,
                               .tokens_per_min = c->tokens_per_min,
                               .requests_burst = c->requests_burst,
                               .tokens_burst = c->tokens_burst,
                               .concurrent = c->concurrent};
}

/* What a client would have to do to itself to get around a limit is the operator's to grant: another key, another user.
 * Names
 * that are longer than their checks allow are cut, which only makes two of them share a limit. */
#define SCOPES         3
#define FIRST_NAME_MAX 128 /* a tenant has 64 characters at most, a key id hardly more */
struct names {
    char text[SCOPES][LIMIT_NAME_MAX + 1];
};

static void put_name(char name[LIMIT_NAME_MAX + 1], const char *first, const char *between, const char *second)
{
    const char *end = name + LIMIT_NAME_MAX + 1;
    char *at = text_put(name, name + FIRST_NAME_MAX + 1, first);
    text_put(text_put(at, end, between), end, second);
}

static void fill_scopes(const struct config *c, const struct identity *who, const char *model, struct names *n,
                        struct limit_scope *scopes)
{
    /* All users of an issuer share its key id; each has the limits of a key. */
    bool token = who->key_id && strncmp(who->key_id, "oidc:", 5) == 0 && who->user;
    /* cppcheck-suppress uninitvar; it is written here */
    put_name(n->text[0], who->key_id ? who->key_id : "", token ? "/" : "", token ? who->user : "");
    put_name(n->text[1], who->tenant, "/", who->team ? who->team : "");
    put_name(n->text[2], who->tenant, "/", model);
    /* A class that the configuration lost must not mean "no limits" for keys that name it. */
    bool known = config_class(c, who->rate_class) != NULL;
    scopes[0] = (struct limit_scope){'k', n->text[0], spec_of(c, known ? who->rate_class : c->class_key)};
    scopes[1] = (struct limit_scope){'t', n->text[1], spec_of(c, c->class_team)};
    scopes[2] = (struct limit_scope){'m', n->text[2], spec_of(c, c->class_model)};
}

static void explain(const struct limit_verdict *v, enum rc rc, int64_t tokens, const char *model, struct api_error *e)
{
    static const char *const whose[] = {"this key", "this team", "this tenant"};
    char of[64] = "";
    const char *who = v->scope >= 0 && v->scope < SCOPES ? whose[v->scope] : "this key";

    if (rc == RC_FULL) {
        api_error_set(e, API_RATE_LIMITED, NULL, "too many callers to count at the moment; try again shortly");
        return;
    }
    if (v->scope == 2)
        snprintf(of, sizeof of, " of model '%.40s'", model);
    if (v->never)
        api_error_set(e, API_RATE_LIMITED, NULL,
                      "the request may take about %" PRId64 " tokens, more than %s may use%s at once; make it shorter, "
                      "or bound max_tokens",
                      tokens, who, of);
    else if (v->kind == LIMIT_CONCURRENT)
        api_error_set(e, API_RATE_LIMITED, NULL, "%s may have %" PRId64 " requests%s at the same time", who, v->limit,
                      of);
    else
        api_error_set(e, API_RATE_LIMITED, NULL, "%s may use %" PRId64 " %s%s per minute; try again in %" PRId64 " s",
                      who, v->limit, limit_kind_name(v->kind), of, limit_retry_after_s(v));
    e->retry_after_s = v->never ? -1 : (int)limit_retry_after_s(v);
}

enum rc admit(struct lane *l, const struct identity *who, const struct model *model, const struct request_body *body,
              struct limit_ticket *ticket, struct limit_verdict *v, struct api_error *e)
{
    struct front *f = l->front;
    struct limit_scope scopes[SCOPES];
    struct names names;
    int64_t tokens = request_estimate_input(body) + request_estimate_output(body);

    fill_scopes(l->config, who, model->name, &names, scopes);
    int64_t now = now_us(f);
    pthread_mutex_lock(&f->limits_lock);
    enum rc rc = limit_table_admit(f->limits, scopes, SCOPES, now, tokens, ticket, v);
    pthread_mutex_unlock(&f->limits_lock);
    if (rc == RC_OK)
        return RC_OK;
    metrics_add(l->metrics, METRIC_LIMITED, (int)v->kind, 0, 1);
    explain(v, rc, tokens, model->name, e);
    return RC_DENIED;
}

void admit_settle(struct front *f, struct limit_ticket *ticket, int64_t tokens)
{
    if (ticket->n == 0)
        return;
    int64_t now = now_us(f);
    pthread_mutex_lock(&f->limits_lock);
    limit_table_settle(f->limits, ticket, now, tokens);
    pthread_mutex_unlock(&f->limits_lock);
}

static int put_view(const struct limit_view *view, const char *const names[3], char (*text)[32],
                    struct http_header *headers)
{
    if (!view->limit)
        return 0;
    *text_put_int(text[0], view->limit) = '\0';
    *text_put_int(text[1], view->remaining) = '\0';
    limit_format_reset(view->reset_us, text[2], sizeof text[2]);
    for (int i = 0; i < 3; i++)
        headers[i] = (struct http_header){names[i], text[i]};
    return 3;
}

int limit_headers(const struct limit_verdict *v, struct limit_texts *t, struct http_header *headers)
{
    static const char *const requests[] = {"x-ratelimit-limit-requests", "x-ratelimit-remaining-requests",
                                           "x-ratelimit-reset-requests"};
    static const char *const tokens[] = {"x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens",
                                         "x-ratelimit-reset-tokens"};
    int n = put_view(&v->requests, requests, t->text, headers);
    return n + put_view(&v->tokens, tokens, t->text + n, headers + n);
}
