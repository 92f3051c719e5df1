/* What a ledger must know of shared budgets so that they can be rebuilt: holds, top-ups and limits, beside its rows.
 * The Redis has it first; nobody waits for these. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/books/ledger_budgets.h"
#include "scheduler/budgets/redis_internal.h"

#define LINE_BYTES (BUDGET_NAME_BYTES + 24)

static void append(struct redis_port *p, struct ledger_budget_event *ev)
{
    ev->at = clock_wall(p->store->o.clock);
    if (p->ledger && ledger_append_budget(p->ledger, ev, NULL, NULL) != RC_OK)
        p->store->unwritten++;
}

void journal_hold(struct redis_port *p, const struct budget_hold *h)
{
    char lines[BUDGET_SET_MAX * LINE_BYTES];
    size_t at = 0;
    for (int i = 0; i < h->n; i++)
        at += (size_t)snprintf(lines + at, sizeof lines - at, "%lld %s\n", (long long)h->of[i].start_s, h->of[i].name);
    append(p, &(struct ledger_budget_event){.kind = LEDGER_HOLD, .id = h->id, .budgets = lines, .amount = h->granted});
}

void journal_drop(struct redis_port *p, const struct budget_hold *h)
{
    append(p, &(struct ledger_budget_event){.kind = LEDGER_DROP, .id = h->id, .budgets = ""});
}

void journal_change(struct redis_port *p, const struct step *s)
{
    char line[LINE_BYTES];
    snprintf(line, sizeof line, "%lld %s\n", (long long)s->claims[0].c.start_s, s->claims[0].name);
    append(p, &(struct ledger_budget_event){.kind = s->kind == STEP_TOPUP ? LEDGER_TOP_UP : LEDGER_LIMITS,
                                            .budgets = line,
                                            .amount = s->a,
                                            .soft = s->b});
}

enum rc redis_store_start(struct budget_store **s, const struct redis_store_options *o, struct error *e)
{
    struct pusd_sum waste = {0};
    enum rc rc = redis_store_check(o, e);
    if (rc == RC_IO) {
        log_warn(o->log, "budget", "redis cannot be asked yet; until it can, shared budgets grant nothing",
                 LOG_S("why", e->message));
        rc = RC_OK;
    } else if (rc != RC_OK) {
        return error_prefix(e, "budget_store");
    }
    if (o->ledger)
        rc = ledger_book_waste(o->ledger, clock_wall(o->clock), &waste, e);
    if (rc == RC_OK)
        *s = redis_store_new(o);
    return rc;
}
