/* Budgets of a scenario, out of its file and of a configuration. */
#include "scheduler/simulate/scenario_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

/* "500" or "$12.50", or "80%" of a whole that is known. */
static enum rc read_amount(struct scenario *s, int line, const char *key, const char *text, struct pusd whole,
                           struct pusd *out, struct error *e)
{
    char *end;
    size_t n = strlen(text);
    struct error why;
    if (n > 1 && text[n - 1] == '%') {
        double percent = strtod(text, &end);
        if (end != text + n - 1 || !(percent >= 0 && percent <= 1000) || whole.v == BUDGET_UNLIMITED)
            return scenario_error(s, line, e, "%s: a share is of `hard`, as in 80%%; give it, or dollars", key);
        out->v = (int64_t)((__int128)whole.v * llround(percent * 10000) / 1000000);
        return RC_OK;
    }
    if (pusd_parse(text, out, &why) != RC_OK)
        return scenario_error(s, line, e, "%s: %s", key, why.message);
    return RC_OK;
}

static enum rc read_actions(struct scenario *s, int line, const char *key, const struct field_list *words, bool hard,
                            unsigned *actions, const char **model, struct error *e)
{
    const char *const *w = words->items;
    for (int i = 0; i < words->n; i++) {
        enum budget_action a;
        const char *m;
        if (!budget_action_parse(w[i], &a, &m))
            return scenario_error(s, line, e,
                                  "%s: \"%.64s\" is no action; write notify, prefer_local, local_only, \"downgrade: "
                                  "MODEL\", queue%s",
                                  key, w[i], hard ? " or deny" : "");
        *actions |= a;
        *model = m ? m : *model;
    }
    return RC_OK;
}

static enum rc read_match(struct scenario *s, const struct file_budget *f, struct scenario_budget *b, struct error *e)
{
    const char *const *words = f->match.items;
    for (int i = 0; i < f->match.n; i++) {
        const char *is = strchr(words[i], '=');
        bool team = is && is[1] && strncmp(words[i], "team=", 5) == 0;
        bool model = is && is[1] && strncmp(words[i], "model=", 6) == 0;
        if ((!team && !model) || strcmp(is + 1, "*") == 0)
            return scenario_error(s, f->line, e,
                                  "match: \"%.64s\": traces know teams and models; write team=NAME or model=NAME",
                                  words[i]);
        *(team ? &b->team : &b->model) = is + 1;
    }
    return RC_OK;
}

static enum rc read_budget(struct scenario *s, const struct file_budget *f, struct scenario_budget *b, struct error *e)
{
    *b = (struct scenario_budget){.name = f->name,
                                  .period = {.kind = (enum period_kind)f->period},
                                  .hard = {BUDGET_UNLIMITED},
                                  .soft = {BUDGET_UNLIMITED}};
    b->period.anchor_local_s = f->start_s >= 0 ? f->start_s : f->period == PERIOD_WEEK ? PERIOD_MONDAY_S : 0;
    if (!f->hard && !f->soft)
        return scenario_error(s, f->line, e, "budget %.60s: give hard, soft or both", f->name);
    enum rc rc = read_match(s, f, b, e);
    if (rc == RC_OK && f->hard)
        rc = read_amount(s, f->line, "hard", f->hard, b->hard, &b->hard, e);
    if (rc == RC_OK && f->soft)
        rc = read_amount(s, f->line, "soft", f->soft, b->hard, &b->soft, e);
    if (rc == RC_OK && f->carry_over)
        rc = read_amount(s, f->line, "carry_over", f->carry_over, b->hard, &b->carry_max, e);
    if (rc == RC_OK)
        rc = read_actions(s, f->line, "soft_actions", &f->soft_actions, false, &b->soft_actions, &b->soft_model, e);
    if (rc == RC_OK)
        rc = read_actions(s, f->line, "hard_actions", &f->hard_actions, true, &b->hard_actions, &b->hard_model, e);
    return rc;
}

/* A model's index; -1 for none. */
static enum rc find_model(const struct scenario *s, const struct scenario_budget *b, int line, const char *name,
                          int32_t *model, struct error *e)
{
    *model = -1;
    if (!name)
        return RC_OK;
    for (int i = 0; i < s->sim.n_models; i++)
        if (strcmp(s->sim.models[i].name, name) == 0)
            *model = i;
    if (*model >= 0)
        return RC_OK;
    return scenario_error(s, line, e, "budget %.60s: model %.80s is none of `models`", b->name, name);
}

static enum rc make_budget(struct scenario *s, const struct scenario_budget *b, int line, struct sim_budget *out,
                           struct error *e)
{
    *out = (struct sim_budget){.name = b->name,
                               .team_name = b->team,
                               .team = -1,
                               .period = b->period,
                               .hard = b->hard,
                               .soft = b->soft,
                               .carry_max = b->carry_max,
                               .hard_actions = b->hard_actions,
                               .soft_actions = b->soft_actions};
    enum rc rc = find_model(s, b, line, b->model, &out->model, e);
    if (rc == RC_OK)
        rc = find_model(s, b, line, b->soft_model, &out->soft_model, e);
    if (rc == RC_OK)
        rc = find_model(s, b, line, b->hard_model, &out->hard_model, e);
    return rc;
}

enum rc scenario_make_budgets(struct scenario *s, const struct scenario_inputs *in, struct error *e)
{
    const struct file_budget *f = s->file.budgets.items;
    struct sim_budget *budgets;
    struct scenario_budget b;
    int n = s->file.budgets.n;
    if (n + in->n_budgets > SIM_BUDGETS_MAX)
        return scenario_error(s, s->file.line, e, "budgets: %d are at most, with the configuration's", SIM_BUDGETS_MAX);
    enum rc rc = scenario_array(s, &budgets, n + in->n_budgets, sizeof *budgets, e);
    for (int i = 0; rc == RC_OK && i < n; i++) {
        rc = read_budget(s, &f[i], &b, e);
        if (rc == RC_OK)
            rc = make_budget(s, &b, f[i].line, &budgets[i], e);
    }
    for (int i = 0; rc == RC_OK && i < in->n_budgets; i++) {
        struct error why;
        if (make_budget(s, &in->budgets[i], 0, &budgets[n], &why) == RC_OK)
            n++;
        else /* of a model that is not simulated */
            rc = strbuf_printf(&s->notes, "budget %s of the configuration is left out: %s\n", in->budgets[i].name,
                               why.message);
    }
    s->sim.budgets = budgets;
    s->sim.n_budgets = n;
    return rc;
}

enum rc scenario_find_teams(struct scenario *s, struct trace *t, struct error *e)
{
    struct sim_budget *budgets = (struct sim_budget *)s->sim.budgets; /* made above, in the arena */
    enum rc rc = RC_OK;
    for (int32_t i = 0; i < s->sim.n_budgets && rc == RC_OK; i++) {
        uint32_t team;
        if (!budgets[i].team_name)
            continue;
        rc = trace_intern(t, TRACE_TEAMS, budgets[i].team_name, &team, e);
        budgets[i].team = (int32_t)team;
    }
    return rc;
}
