/* `budgets`, checked across rows and brought into the form of scheduler/budgets. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "scheduler/budgets/rules.h"
#include "scheduler/budgets/zone.h"
#include "scheduler/config/config_internal.h"

struct at { /* one item, for messages */
    struct config_loader *l;
    const struct config_budget *b;
    int index;
};

static void problem(const struct at *at, const char *key, const char *text)
{
    const struct settings *t = config_tables[CONFIG_TABLE_BUDGETS];
    char name[128];
    int row = config_row(t, key);
    snprintf(name, sizeof name, "budgets[%d].%s", at->index, key);
    config_problem(at->l, row >= 0 && at->b->lines[row] ? at->b->lines[row] : at->b->line, name, "%s", text);
}

/* "500", "$12.50" or, where a whole is known, "80%". */
static bool amount(const struct at *at, const char *key, const char *text, struct pusd whole, struct pusd *out)
{
    struct error e;
    char say[600], *end;
    size_t n = strlen(text);
    if (n > 1 && text[n - 1] == '%') {
        double percent = strtod(text, &end);
        if (end == text + n - 1 && percent >= 0 && percent <= 1000 && whole.v != BUDGET_UNLIMITED) {
            out->v = (int64_t)((__int128)whole.v * llround(percent * 10000) / 1000000);
            return true;
        }
        problem(at, key, "a share is of the hard limit, as in 80%; give `hard`, or an amount of dollars");
        return false;
    }
    if (pusd_parse(text, out, &e) == RC_OK)
        return true;
    snprintf(say, sizeof say, "%s", e.message);
    problem(at, key, say);
    return false;
}

static bool read_start(const char *text, int64_t *local_s)
{
    int year, month, day, hour = 0, minute = 0, n = 0;
    /* NOLINTNEXTLINE(cert-err34-c): no more digits than fit, and what was converted is counted */
    if (sscanf(text, "%4d-%2d-%2d%n", &year, &month, &day, &n) != 3 || n != 10)
        return false;
    /* NOLINTNEXTLINE(cert-err34-c): likewise */
    if (text[n] && (sscanf(text + n, "T%2d:%2d%n", &hour, &minute, &n) != 2 || n != 6 || text[16]))
        return false;
    if (year < 1970 || year > 2100 || month < 1 || month > 12 || day < 1 || day > date_month_days(year, month) ||
        hour < 0 || hour > 23 || minute < 0 || minute > 59)
        return false;
    *local_s = date_to_days(year, month, day) * 86400 + hour * 3600 + minute * 60;
    return true;
}

const struct zone *config_zone(struct config_loader *l, const char *name, struct error *e)
{
    struct zone *z;
    if (zone_load(&z, name, e) != RC_OK)
        return NULL;
    size_t bytes = (size_t)z->n * sizeof(struct zone_change);
    struct zone *kept = arena_alloc(l->c->arena, sizeof *kept + bytes);
    if (kept) {
        struct zone_change *changes = (struct zone_change *)(kept + 1);
        if (bytes)
            memcpy(changes, z->changes, bytes);
        *kept = (struct zone){changes, z->n, z->offset_before_s};
    } else {
        (void)error_set(e, RC_FULL, "the configuration is too large");
    }
    zone_free(z);
    return kept;
}

static void read_actions(const struct at *at, const char *key, const char **words, int n, unsigned allowed,
                         unsigned *actions, const char **model)
{
    char say[320];
    *model = NULL;
    *actions = 0;
    for (int i = 0; i < n; i++) {
        enum budget_action a;
        const char *m;
        if (!budget_action_parse(words[i], &a, &m) || !(a & allowed)) {
            snprintf(say, sizeof say,
                     "\"%.64s\" is not an action here; write notify, prefer_local, local_only, \"downgrade: MODEL\", "
                     "queue%s",
                     words[i], allowed & BUDGET_DENY ? " or deny" : "; only a hard limit may deny");
            problem(at, key, say);
            continue;
        }
        if (m && !config_model_served(at->l->c, m) && !config_model(at->l->c, m)) {
            snprintf(say, sizeof say, "no node serves a model \"%.64s\"", m);
            problem(at, key, say);
        }
        *actions |= a;
        if (m)
            *model = m;
    }
}

static void read_match(const struct at *at, struct budget_rule *r)
{
    for (int i = 0; i < at->b->n_match; i++) {
        if (i == BUDGET_MATCHES_MAX) {
            problem(at, "match", "too many conditions; up to 8 are allowed");
            return;
        }
        char say[200], *text = config_strdup(at->l, at->b->match[i]);
        if (budget_match_parse(text, &r->match[r->n_match])) {
            r->n_match++;
            continue;
        }
        snprintf(say, sizeof say,
                 "\"%.64s\" is not a condition; write team=search, or user=* for one budget per user, or a label",
                 text);
        problem(at, "match", say);
    }
}

static void read_period(const struct at *at, struct budget_rule *r)
{
    struct config_loader *l = at->l;
    struct error e;
    r->period.kind = at->b->period;
    r->period.anchor_local_s = at->b->period == PERIOD_WEEK ? PERIOD_MONDAY_S : 0;
    if (at->b->start && !read_start(at->b->start, &r->period.anchor_local_s))
        problem(at, "start", "not a local date or time; write 2026-04-01 or 2026-04-01T06:00");
    if (at->b->time_zone && !(r->period.zone = config_zone(l, at->b->time_zone, &e)))
        problem(at, "time_zone", e.message);
}

static void read_limits(const struct at *at, struct budget_rule *r)
{
    const struct config_budget *b = at->b;
    r->limits.hard.v = r->soft.v = BUDGET_UNLIMITED;
    if (b->hard)
        (void)amount(at, "hard", b->hard, (struct pusd){BUDGET_UNLIMITED}, &r->limits.hard);
    if (b->soft && amount(at, "soft", b->soft, r->limits.hard, &r->soft) && r->soft.v > r->limits.hard.v)
        problem(at, "soft", "the soft limit is above the hard one, so it would never be reached first");
    if (b->carry_over && amount(at, "carry_over", b->carry_over, r->limits.hard, &r->limits.carry_max) && !b->hard)
        problem(at, "carry_over", "means nothing without `hard`: what has no limit leaves nothing over");
    if (!b->hard && !b->soft)
        problem(at, "name", "give `hard`, `soft` or both: a budget without a limit limits nothing");
    read_actions(at, "soft_actions", b->soft_actions, b->n_soft_actions, ~(unsigned)BUDGET_DENY, &r->soft_actions,
                 &r->soft_model);
    read_actions(at, "hard_actions", b->hard_actions, b->n_hard_actions, ~0u, &r->hard_actions, &r->hard_model);
    if (b->n_soft_actions && !b->soft)
        problem(at, "soft_actions", "means nothing without `soft`");
    if (b->n_hard_actions && !b->hard)
        problem(at, "hard_actions", "means nothing without `hard`");
    if (!b->n_soft_actions)
        r->soft_actions = BUDGET_NOTIFY;
    if (!b->n_hard_actions)
        r->hard_actions = BUDGET_NOTIFY | BUDGET_DENY;
}

void config_check_budgets(struct config_loader *l)
{
    struct config *c = l->c;
    struct budget_rule *rules = arena_alloc(c->arena, sizeof *rules * (size_t)(c->n_budgets + 1));
    for (int i = 0; rules && i < c->n_budgets; i++) {
        const struct config_budget *b = &c->budgets[i];
        struct at at = {l, b, i};
        struct budget_rule *r = &rules[i];
        if (!b->name)
            continue; /* told already */
        r->name = b->name;
        for (int k = 0; k < i; k++) {
            if (c->budgets[k].name && strcmp(c->budgets[k].name, b->name) == 0)
                problem(&at, "name", "another budget has this name; every budget needs its own");
        }
        read_match(&at, r);
        read_period(&at, r);
        read_limits(&at, r);
    }
    c->budget_rules = rules;
    if (!rules)
        config_problem(l, 0, "budgets", "the configuration is too large");
}

/* ---- warnings ---------------------------------------------------------------------------------------------------- */

static bool provider_is_there(const struct config *c, const char *value)
{
    for (int i = 0; i < config_servers(c); i++) {
        const struct config_node *s = config_server(c, i);
        const char *provider = s->pool ? s->pool->provider : s->provider == PROVIDER_PROCESS ? "process" : "static";
        if ((provider && strcmp(value, provider) == 0) || (s->name && strcmp(value, s->name) == 0))
            return true;
    }
    return false;
}

static bool has_local_node(const struct config *c)
{
    for (int i = 0; i < config_servers(c); i++) {
        if (config_server(c, i)->local)
            return true;
    }
    return false;
}

static void warn_match(const struct config *c, int i, struct strbuf *out, int *n)
{
    const struct budget_rule *r = &c->budget_rules[i];
    for (int k = 0; k < r->n_match; k++) {
        const struct budget_match *m = &r->match[k];
        const char *meant = budget_match_meant(m);
        bool model = strcmp(m->key, "model") == 0, provider = strcmp(m->key, "provider") == 0;
        if (meant)
            config_warn(c, out, n, c->budgets[i].line,
                        "budgets[%d].match: \"%s\" is a label of x-spillway-tags; did you mean %s?", i, m->key, meant);
        if (strcmp(m->value, "*") == 0)
            continue;
        if ((model && !config_model_served(c, m->value)) || (provider && !provider_is_there(c, m->value)))
            config_warn(c, out, n, c->budgets[i].line,
                        "budgets[%d].match: no node is %s=%s, so budget \"%s\" never counts", i, m->key, m->value,
                        r->name);
        for (int j = 0; j < k; j++) {
            if (strcmp(m->key, r->match[j].key) == 0 && strcmp(m->value, r->match[j].value) != 0)
                config_warn(c, out, n, c->budgets[i].line,
                            "budgets[%d].match: %s is asked to be two things at once, so budget \"%s\" never counts", i,
                            m->key, r->name);
        }
    }
}

/* What a token in and a token out of the model cost where it is cheapest; -1: no node serves it under this name. */
static int64_t cheapest(const struct config *c, const char *model)
{
    int64_t best = -1;
    for (int i = 0; i < config_servers(c); i++) {
        const struct config_node *node = config_server(c, i);
        int64_t price = node->prices.input.uusd_per_mtok + node->prices.output.uusd_per_mtok;
        bool serves = false;
        for (int m = 0; m < node->n_models && !serves; m++)
            serves = strcmp(node->models[m], model) == 0;
        if (serves && (best < 0 || price < best))
            best = price;
    }
    return best;
}

/* Is there a model among those that the budget counts which costs more than this one? */
static bool saves(const struct config *c, const struct budget_rule *r, const char *to)
{
    int64_t price = cheapest(c, to);
    for (int k = 0; k < r->n_match; k++) {
        int64_t from = strcmp(r->match[k].key, "model") == 0 ? cheapest(c, r->match[k].value) : -1;
        if (from >= 0)
            return from > price;
    }
    for (int i = 0; i < config_servers(c); i++) {
        for (int m = 0; m < config_server(c, i)->n_models; m++) {
            if (cheapest(c, config_server(c, i)->models[m]) > price)
                return true;
        }
    }
    return false;
}

static void warn_downgrade(const struct config *c, int i, const char *key, const char *to, struct strbuf *out, int *n)
{
    const struct budget_rule *r = &c->budget_rules[i];
    if (to && cheapest(c, to) >= 0 && !saves(c, r, to))
        config_warn(c, out, n, c->budgets[i].line,
                    "budgets[%d].%s: nothing that budget \"%s\" counts is dearer than \"%s\", so the downgrade saves "
                    "nothing",
                    i, key, r->name, to);
}

static bool is_who(const char *key)
{
    return strcmp(key, "team") == 0 || strcmp(key, "project") == 0 || strcmp(key, "user") == 0 ||
           strcmp(key, "key") == 0;
}

/* Does `wide` count whatever `narrow` does, in the same periods? */
static bool covers_all_of(const struct config *c, int wide_row, int narrow_row)
{
    const struct budget_rule *wide = &c->budget_rules[wide_row], *narrow = &c->budget_rules[narrow_row];
    const char *a = c->budgets[wide_row].time_zone, *b = c->budgets[narrow_row].time_zone;
    if (wide->period.kind != narrow->period.kind || wide->period.anchor_local_s != narrow->period.anchor_local_s ||
        strcmp(a ? a : "UTC", b ? b : "UTC") != 0 || wide->limits.carry_max.v)
        return false;
    for (int i = 0; i < wide->n_match; i++) {
        bool found = false;
        for (int k = 0; k < narrow->n_match && !found; k++)
            found = strcmp(wide->match[i].key, narrow->match[k].key) == 0 &&
                    strcmp(wide->match[i].value, narrow->match[k].value) == 0;
        if (!found)
            return false;
    }
    return true;
}

/* Limits that something else always comes before. */
static void warn_shadowed(const struct config *c, int i, struct strbuf *out, int *n)
{
    const struct budget_rule *r = &c->budget_rules[i];
    const unsigned denies = BUDGET_LOCAL_ONLY | BUDGET_DOWNGRADE | BUDGET_QUEUE;
    for (int k = 0; k < c->n_budgets; k++) {
        const struct budget_rule *wide = &c->budget_rules[k];
        if (k == i || r->limits.hard.v == BUDGET_UNLIMITED || wide->limits.hard.v > r->limits.hard.v ||
            (wide->limits.hard.v == r->limits.hard.v && k > i) || (wide->hard_actions & denies) ||
            !covers_all_of(c, k, i))
            continue;
        config_warn(c, out, n, c->budgets[i].line,
                    "budgets[%d].hard: budget \"%s\" counts the same requests and is used up no later, so the limit of "
                    "\"%s\" is never reached",
                    i, wide->name, r->name);
        return;
    }
}

static void warn_store(const struct config *c, struct strbuf *out, int *n)
{
    const struct config_budget_shared *s = &c->budget_store;
    struct pusd allowance;
    struct error e;
    if (s->kind != CONFIG_BUDGETS_REDIS || s->on_loss != CONFIG_BUDGETS_FAIL_OPEN ||
        pusd_parse(s->allowance, &allowance, &e) != RC_OK)
        return;
    if (!allowance.v)
        config_warn(c, out, n, 0,
                    "budget_store.allowance_usd: 0: with nothing leased beforehand on_loss: fail_open is fail_closed");
    for (int i = 0; i < c->n_budgets && allowance.v; i++) {
        const struct budget_rule *r = &c->budget_rules[i];
        if (r->limits.hard.v <= INT64_MAX / 1000 && allowance.v >= r->limits.hard.v / s->ledgers)
            config_warn(c, out, n, c->budgets[i].line,
                        "budgets[%d].hard: the leases of %d schedulers (budget_store.allowance_usd) come to all of "
                        "budget \"%s\": each can spend its own part only",
                        i, s->ledgers, r->name);
    }
}

static void warn_actions(const struct config *c, int i, struct strbuf *out, int *n)
{
    const struct budget_rule *r = &c->budget_rules[i];
    int line = c->budgets[i].line;
    warn_downgrade(c, i, "soft_actions", r->soft_model, out, n);
    warn_downgrade(c, i, "hard_actions", r->hard_model, out, n);
    if (r->hard_actions & BUDGET_PREFER_LOCAL)
        config_warn(
            c, out, n, line,
            "budgets[%d].hard_actions: prefer_local does nothing when nothing is left; write local_only, or make "
            "it a soft action",
            i);
    if ((r->hard_actions & BUDGET_QUEUE) && c->queue[WAITING_BATCH].wait_ms == 0)
        config_warn(c, out, n, line, "budgets[%d].hard_actions: queue: batch requests may not wait (queue.batch.wait)",
                    i);
    for (int k = 0; k < r->n_match && c->auth_off; k++) {
        if (is_who(r->match[k].key))
            config_warn(c, out, n, line,
                        "budgets[%d].match: with auth: off nobody's %s is known, so budget \"%s\" never counts", i,
                        r->match[k].key, r->name);
    }
}

void config_warn_budgets(const struct config *c, struct strbuf *out, int *n)
{
    const unsigned helps = BUDGET_LOCAL_ONLY | BUDGET_DOWNGRADE | BUDGET_QUEUE;
    if (c->n_budgets && c->ledger_off)
        config_warn(c, out, n, 0, "budgets: with ledger: off they begin at zero with each start");
    warn_store(c, out, n);
    for (int i = 0; i < c->n_budgets; i++) {
        const struct budget_rule *r = &c->budget_rules[i];
        int line = c->budgets[i].line;
        warn_match(c, i, out, n);
        warn_actions(c, i, out, n);
        warn_shadowed(c, i, out, n);
        if (((r->soft_actions | r->hard_actions) & (BUDGET_LOCAL_ONLY | BUDGET_PREFER_LOCAL)) && !has_local_node(c))
            config_warn(c, out, n, line,
                        "budgets[%d]: budget \"%s\" keeps requests on the premises, and no node is there", i, r->name);
        if ((r->hard_actions & BUDGET_DENY) && (r->hard_actions & helps))
            config_warn(c, out, n, line,
                        "budgets[%d].hard_actions: deny is what is left when nothing else helps; it changes nothing",
                        i);
        const bool says_so = (c->budgets[i].n_soft_actions && (r->soft_actions & BUDGET_NOTIFY)) ||
                             (c->budgets[i].n_hard_actions && (r->hard_actions & BUDGET_NOTIFY)); /* the default may */
        if (says_so && !c->budget_webhook)
            config_warn(c, out, n, line, "budgets[%d]: notify tells nobody without budget_webhook.url", i);
    }
}
