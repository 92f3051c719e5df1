#include "scheduler/front/budget_desk.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/fnv.h"
#include "base/json_write.h"
#include "scheduler/front/front_internal.h"

#define BUCKETS      4096
#define KNOWN_MAX    100000
#define NEWS_NS      NS_PER_S /* what is older is no ground for a refusal at the door */
#define NOTICE_BYTES ((size_t)4096)

struct known {
    struct known *next;
    int64_t start_s, end_s; /* of the view's period; 0: none */
    struct budget_view view;
    int64_t at_ns;
    int64_t before_start_s, before_spent, before_seconds; /* the period before */
    int64_t told_soft_s, told_hard_s;                     /* start of the period that was told of; INT64_MIN: none */
    char name[];
};
struct budget_desk {
    struct budget_store *store;
    pthread_mutex_t lock;
    struct known *buckets[BUCKETS];
    int n;
};

struct budget_desk *budget_desk_new(struct budget_store *store)
{
    struct budget_desk *d = spw_calloc(1, sizeof *d);
    d->store = store;
    pthread_mutex_init(&d->lock, NULL);
    return d;
}

void budget_desk_free(struct budget_desk *d)
{
    if (!d)
        return;
    for (int i = 0; i < BUCKETS; i++) {
        for (struct known *k = d->buckets[i], *next; k; k = next) {
            next = k->next;
            free(k);
        }
    }
    pthread_mutex_destroy(&d->lock);
    free(d);
}

enum rc budget_access_new(struct budget_access **out, struct lane *l, struct error *e)
{
    struct budget_store *s = l->front->budgets->store;
    struct budget_access *a = spw_calloc(1, sizeof *a);
    a->ops = s->ops;
    a->webhook = webhook_new(l->loop, l->front->o.log);
    /* Without a file nothing can be made durable, and nobody shall wait for it. */
    bool off = ledger_stats(l->front->o.ledger).off;
    enum rc rc = s->ops->port_new(s, l->loop, off ? NULL : l->port, &a->port, e);
    *out = a;
    return rc;
}

void budget_access_free(struct budget_access *a)
{
    if (!a)
        return;
    if (a->port)
        a->ops->port_free(a->port);
    webhook_free(a->webhook);
    free(a);
}

bool budget_desk_shared(const struct budget_desk *d, struct budget_store_stats *s)
{
    if (!d->store->ops->shared)
        return false;
    *s = d->store->ops->shared(d->store);
    return true;
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

static struct known **bucket_of(struct budget_desk *d, const char *name)
{
    const uint64_t h = fnv_text(FNV_START, name);
    return &d->buckets[(h ^ (h >> 29)) % BUCKETS];
}

static struct known *find_locked(struct budget_desk *d, const char *name)
{
    struct known *k = *bucket_of(d, name);
    while (k && strcmp(k->name, name) != 0)
        k = k->next;
    return k;
}

static struct known *find_or_add_locked(struct budget_desk *d, const char *name)
{
    struct known *k = find_locked(d, name), **at = bucket_of(d, name);
    if (k || d->n == KNOWN_MAX)
        return k;
    size_t n = strlen(name) + 1;
    k = spw_calloc(1, sizeof *k + n);
    memcpy(k->name, name, n);
    k->told_soft_s = k->told_hard_s = INT64_MIN;
    k->next = *at;
    *at = k;
    d->n++;
    return k;
}

void budget_desk_hear(struct budget_desk *d, const char *name)
{
    pthread_mutex_lock(&d->lock);
    (void)find_or_add_locked(d, name);
    pthread_mutex_unlock(&d->lock);
}

static void take_view_locked(struct known *k, const struct budget_claim *claim, const struct budget_view *view,
                             int64_t now_ns)
{
    if (k->start_s != claim->start_s && k->start_s == claim->before_start_s && k->end_s > k->start_s) {
        k->before_start_s = k->start_s;
        k->before_spent = k->view.state.spent.v;
        k->before_seconds = k->end_s - k->start_s;
    }
    k->start_s = claim->start_s;
    k->end_s = claim->end_s;
    k->view = *view;
    k->at_ns = now_ns;
}

/* ---- notices ----------------------------------------------------------------------------------------------------- */

static struct budget_limits limits_of(const struct budget_rule *rule, const struct budget_view *v)
{
    return (struct budget_limits){.hard = v->hard, .carry_max = rule->limits.carry_max};
}

static int64_t exhausted_at(const struct budget_rule *rule, const struct budget_claim *c, const struct budget_view *v,
                            int64_t now_s, int64_t before_rate)
{
    struct budget_limits l = limits_of(rule, v);
    struct pusd limit = budget_limit(&l, &v->state);
    if (limit.v == BUDGET_UNLIMITED)
        limit = v->soft;
    return budget_exhausted_at(limit, v->state.spent, c->start_s, c->end_s, now_s, before_rate);
}

int64_t budget_known_exhausted_at(const struct budget_known *k, int64_t now_s)
{
    return exhausted_at(k->rule, &k->claim, &k->view, now_s, k->before_rate);
}

static void put_amount(struct json_writer *w, const char *key, struct pusd a)
{
    char text[64];
    json_string(w, key, a.v == BUDGET_UNLIMITED ? NULL : pusd_format(a, text, sizeof text));
}

static void put_time(struct json_writer *w, const char *key, int64_t at_s)
{
    char text[32];
    json_string(w, key, at_s < 0 ? NULL : wall_format((struct wall){at_s * NS_PER_S}, text, sizeof text));
}

static void tell(struct lane *l, const struct budget_rule *rule, const struct budget_claim *c,
                 const struct budget_view *v, enum budget_level level, int64_t before_rate)
{
    const struct config *config = l->config;
    int64_t now = clock_wall(l->front->o.clock).ns / NS_PER_S;
    struct budget_limits limits = limits_of(rule, v);
    unsigned actions = level == BUDGET_HARD ? rule->hard_actions : rule->soft_actions;
    char spent[64], until[32];
    struct strbuf body;
    log_warn(l->front->o.log, "budget",
             level == BUDGET_HARD ? "a budget is used up" : "a budget has reached its soft limit",
             LOG_S("budget", c->name), LOG_S("spent_usd", pusd_format(v->state.spent, spent, sizeof spent)),
             LOG_S("reset", wall_format((struct wall){c->end_s * NS_PER_S}, until, sizeof until)));
    metrics_add(l->metrics, METRIC_BUDGET_REACHED, 0, 0, 1);
    if (!(actions & BUDGET_NOTIFY) || !config->budget_webhook)
        return;
    strbuf_init(&body, NOTICE_BYTES);
    struct json_writer w = json_write_begin(&body);
    json_open(&w, NULL, '{');
    json_string(&w, "event", level == BUDGET_HARD ? "budget.hard" : "budget.soft");
    json_string(&w, "budget", c->name);
    put_time(&w, "at", now);
    put_amount(&w, "spent_usd", v->state.spent);
    put_amount(&w, "reserved_usd", v->state.reserved);
    put_amount(&w, "limit_usd", budget_limit(&limits, &v->state));
    put_amount(&w, "soft_usd", v->soft);
    put_time(&w, "period_start", c->start_s);
    put_time(&w, "reset", c->end_s);
    put_time(&w, "exhausted_forecast", exhausted_at(rule, c, v, now, before_rate));
    json_close(&w, '}');
    const struct webhook_target to = {config->budget_webhook, config->budget_webhook_token_file,
                                      config->budget_webhook_ca};
    if (json_write_end(&w) == RC_OK)
        webhook_send(l->budgets->webhook, &to, body.data, body.len);
    strbuf_fini(&body);
}

void budget_desk_note(struct lane *l, const struct budget_rule *rule, const struct budget_claim *claim,
                      const struct budget_view *view, bool refused)
{
    struct budget_desk *d = l->front->budgets;
    struct budget_limits limits = limits_of(rule, view);
    enum budget_level level = refused ? BUDGET_HARD : budget_level(&limits, &view->state, view->soft, (struct pusd){1});
    bool news = false;
    int64_t rate = 0;
    pthread_mutex_lock(&d->lock);
    struct known *k = find_or_add_locked(d, claim->name);
    if (k) {
        take_view_locked(k, claim, view, clock_now(l->front->o.clock).ns);
        rate = k->before_seconds ? k->before_spent / k->before_seconds : 0;
        int64_t *told = level == BUDGET_HARD ? &k->told_hard_s : &k->told_soft_s;
        news = level != BUDGET_OK && *told != claim->start_s;
        if (news)
            *told = claim->start_s;
    }
    pthread_mutex_unlock(&d->lock);
    if (news)
        tell(l, rule, claim, view, level, rate);
}

void budget_desk_settled(struct lane *l, const struct budget_held *of, struct pusd granted, struct pusd spent)
{
    struct budget_desk *d = l->front->budgets;
    pthread_mutex_lock(&d->lock);
    struct known *k = find_locked(d, of->name);
    if (k && k->start_s == of->start_s) {
        struct budget_state *s = &k->view.state;
        s->reserved.v -= granted.v < s->reserved.v ? granted.v : s->reserved.v;
        s->spent.v += spent.v;
        k->at_ns = clock_now(l->front->o.clock).ns;
    }
    pthread_mutex_unlock(&d->lock);
}

/* ---- looked at --------------------------------------------------------------------------------------------------- */

enum budget_level budget_desk_level(struct lane *l, const struct budget_rule *rule, const char *name,
                                    struct budget_view *view)
{
    struct budget_desk *d = l->front->budgets;
    const struct clock *clock = l->front->o.clock;
    int64_t now = clock_wall(clock).ns / NS_PER_S;
    enum budget_level level = BUDGET_OK;
    pthread_mutex_lock(&d->lock);
    const struct known *k = find_locked(d, name);
    if (k && k->start_s <= now && now < k->end_s) {
        struct budget_limits limits = limits_of(rule, &k->view);
        /* Of a top-up by another scheduler we hear when we ask the store. */
        int64_t news_ns = d->store->ops->shared ? l->config->budget_wait_ms * NS_PER_MS : NEWS_NS;
        bool fresh = clock_now(clock).ns - k->at_ns < news_ns;
        *view = k->view;
        level = budget_level(&limits, &k->view.state, k->view.soft, (struct pusd){1});
        if (level == BUDGET_HARD && !fresh)
            level = BUDGET_SOFT; /* the store will say */
    }
    pthread_mutex_unlock(&d->lock);
    return level;
}

bool budget_desk_all_cost(const struct request *r)
{
    for (int i = 0; i < config_servers(r->config); i++) {
        const struct config_node *n = config_server(r->config, i);
        bool is_free =
            !n->prices.input.uusd_per_mtok && !n->prices.output.uusd_per_mtok && !n->prices.cached_input.uusd_per_mtok;
        for (int k = 0; is_free && k < r->model->n_chain; k++) {
            if (config_node_serves(n, r->model->chain[k]->name))
                return false;
        }
    }
    return true;
}

static bool is_each(const struct budget_rule *r)
{
    for (int i = 0; i < r->n_match; i++) {
        if (strcmp(r->match[i].value, "*") == 0)
            return true;
    }
    return false;
}

const struct budget_rule *budget_desk_rule(const struct budget_rule *rules, int n_rules, const char *name)
{
    size_t n = strcspn(name, "[~");
    for (int i = 0; i < n_rules; i++) {
        if (strncmp(rules[i].name, name, n) == 0 && !rules[i].name[n] && is_each(&rules[i]) == (name[n] != '\0'))
            return &rules[i];
    }
    return NULL;
}

static void fill(struct budget_known *out, const struct budget_rule *rule, const char *name, const struct known *k,
                 int64_t now_s)
{
    *out = (struct budget_known){
        .name = name, .rule = rule, .now_s = now_s, .claim = budget_rule_claim(rule, name, now_s)};
    out->view = (struct budget_view){.hard = rule->limits.hard, .soft = rule->soft};
    if (!k)
        return;
    if (k->start_s == out->claim.start_s && k->end_s)
        out->view = k->view;
    out->before_rate = k->before_seconds ? k->before_spent / k->before_seconds : 0;
}

void budget_desk_each(struct budget_desk *d, const struct budget_rule *rules, int n_rules, int64_t now_s,
                      void (*each)(const struct budget_known *k, void *arg), void *arg)
{
    struct budget_known out;
    pthread_mutex_lock(&d->lock);
    for (int i = 0; i < n_rules; i++) {
        if (is_each(&rules[i]))
            continue;
        fill(&out, &rules[i], rules[i].name, find_locked(d, rules[i].name), now_s);
        each(&out, arg);
    }
    for (int i = 0; i < BUCKETS; i++) {
        for (const struct known *k = d->buckets[i]; k; k = k->next) {
            const struct budget_rule *rule = budget_desk_rule(rules, n_rules, k->name);
            if (!rule || !is_each(rule))
                continue;
            fill(&out, rule, k->name, k, now_s);
            each(&out, arg);
        }
    }
    pthread_mutex_unlock(&d->lock);
}
