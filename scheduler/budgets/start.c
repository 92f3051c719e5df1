#include "scheduler/budgets/start.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "scheduler/books/ledger_budgets.h"
#include "scheduler/budgets/memory.h"

/* A rule's conditions as the ledger's columns. False: it has a "*", so what was spent belongs to many. */
static bool spender_of(const struct budget_rule *r, struct ledger_spender *who,
                       char tags[BUDGET_MATCHES_MAX][2 * BUDGET_TAG_MAX + 160], const char *list[BUDGET_MATCHES_MAX])
{
    const struct {
        const char *key;
        const char **to;
    } known[] = {{"organisation", &who->tenant}, {"team", &who->team},  {"project", &who->project},
                 {"user", &who->user},           {"key", &who->key_id}, {"model", &who->model},
                 {"provider", &who->provider}};
    *who = (struct ledger_spender){.tags = list};
    for (int i = 0; i < r->n_match; i++) {
        const struct budget_match *m = &r->match[i];
        bool column = false;
        if (strcmp(m->value, "*") == 0)
            return false;
        for (size_t k = 0; k < sizeof known / sizeof known[0] && !column; k++) {
            column = strcmp(m->key, known[k].key) == 0;
            if (column)
                *known[k].to = m->value;
        }
        if (column)
            continue;
        snprintf(tags[who->n_tags], sizeof tags[0], "%s=%s", m->key, m->value);
        list[who->n_tags] = tags[who->n_tags];
        who->n_tags++;
    }
    return true;
}

static enum rc begin(struct budget_store *s, const char *path, const struct budget_rule *r, int64_t now_s,
                     struct error *e)
{
    char tags[BUDGET_MATCHES_MAX][2 * BUDGET_TAG_MAX + 160];
    const char *list[BUDGET_MATCHES_MAX];
    struct ledger_spender who;
    struct budget_claim c = budget_rule_claim(r, r->name, now_s);
    struct pusd spent;
    if (!spender_of(r, &who, tags, list) || memory_store_knows(s, r->name, c.start_s) ||
        memory_store_knows(s, r->name, c.before_start_s))
        return RC_OK;
    enum rc rc = ledger_spent_since(path, &who, (struct wall){c.start_s * NS_PER_S}, &spent, e);
    if (rc == RC_OK && spent.v)
        rc = ledger_begin_budget(path, r->name, c.start_s, spent, e);
    if (rc == RC_OK && spent.v)
        memory_store_begin(s, r->name, c.start_s, spent);
    return rc;
}

enum rc budgets_start(struct budget_store **out, const char *path, const struct budget_rule *rules, int n_rules,
                      const struct clock *clock, const struct log *log, struct error *e)
{
    struct pusd_sum waste = {0};
    char text[64];
    struct budget_store *s = memory_store_new(clock);
    enum rc rc = path ? memory_store_load(s, path, &waste, e) : RC_OK;
    for (int i = 0; path && i < n_rules && rc == RC_OK; i++)
        rc = begin(s, path, &rules[i], clock_wall(clock).ns / NS_PER_S, e);
    if (rc != RC_OK) {
        s->ops->free(s);
        return rc;
    }
    if (waste.v)
        log_warn(log, "budget", "what requests had been granted when the scheduler died is booked as waste",
                 LOG_S("waste_usd", pusd_sum_format(waste, text, sizeof text)));
    *out = s;
    return RC_OK;
}
