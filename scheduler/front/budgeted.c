#include "scheduler/front/budgeted.h"

#include <stdlib.h>
#include <string.h>

#include "scheduler/front/budget_desk.h"
#include "scheduler/front/front_internal.h"

#define POLL_MS       5    /* while others' settlements are waited for, with a slot in hand */
#define SLOW_MS       50   /* a store that takes longer to answer is one that nobody's settlements reach */
#define QUEUE_POLL_MS 250  /* while room in the budget is waited for, without one */
#define WHOLE_TOKENS  8192 /* of a whole answer that names no bound, at most */
#define REACT_MS      1000 /* in which the next slice is granted, or the node is stopped, however busy this machine is */
#define PACE_ASSUMED  250  /* tokens a second of a choice, at least: what was held up comes fast */
#define PACE_TOKENS   32   /* that are heard before it is known */
#define PACE_MS       50

struct covering {
    const struct budget_rule *rule; /* of r->config */
    char name[BUDGET_NAME_BYTES];
};
/* Owned by its request; it outlives it while an answer of the store is awaited. */
struct budgeted {
    struct request *r; /* NULL: gone */
    struct lane *lane;
    struct config *config; /* a reference: rules */
    char labels[BUDGET_LABELS_BYTES];
    struct covering of[BUDGET_SET_MAX]; /* as reserved, or asked for */
    int n, n_holds;
    const struct budget_rule *beyond[BUDGET_SET_MAX]; /* used up; what the premises answer no longer counts there */
    int n_beyond;
    bool local_only, prefer_local, downgraded, queued;

    struct budget_hold *hold;   /* NULL: none */
    struct token_prices prices; /* that it was reckoned at */
    int64_t units;              /* output tokens that it pays for, over all choices */
    int64_t want;               /* more are never needed */
    bool clamped;               /* the node is told `units` */
    struct mono heard;          /* its first word; 0: not yet */
    int64_t heard_said;         /* tokens then */
    bool extending, denied;
    int64_t denied_at; /* tokens said when it was refused more */

    bool asking, inside;         /* the store has not answered; it may do so from inside the call */
    bool growing;                /* what it asks for is added to `hold` */
    struct budget_ask need, ask; /* in all; what is asked of the store */
    enum rc rc;
    struct budget_grant grant;
    struct budget_hold *granted;
    struct mono since; /* waiting for settlements, without the times in which none could come; 0: not yet */
    struct mono asked;
    char why[400]; /* the newest refusal, for people */
    bool stopped;

    char lines[BUDGET_SET_MAX * (BUDGET_NAME_BYTES + 24)], hold_id[48]; /* once settled */
    struct pusd waste;
    struct pusd reserved; /* once settled */
};

static int64_t now_s(const struct front *f)
{
    return clock_wall(f->o.clock).ns / NS_PER_S;
}

enum rc budgeted_read(struct http_exchange *x, char labels[BUDGET_LABELS_BYTES], struct api_error *e)
{
    struct error why;
    if (budget_labels_read(http_head_get(http_request_head(x), BUDGET_TAGS_HEADER), labels, &why) == RC_OK)
        return RC_OK;
    api_error_set(e, API_INVALID_BODY, BUDGET_TAGS_HEADER, "header " BUDGET_TAGS_HEADER ": %s", why.message);
    return RC_INVALID;
}

/* ---- which budgets ----------------------------------------------------------------------------------------------- */

static struct budget_facts facts_of(const struct request *r, const struct model *model, const struct config_node *node)
{
    return (struct budget_facts){
        .organisation = r->who->tenant,
        .team = r->who->team,
        .project = r->who->project,
        .user = r->who->user,
        .key = r->who->key_id,
        .model = model->name,
        .provider = !node                                ? NULL
                    : node->provider == PROVIDER_PROCESS ? provider_process.name
                                                         : provider_static.name,
        .node = node ? node->name : NULL,
        .labels = r->budget->labels,
    };
}

static bool is_beyond(const struct budgeted *b, const struct budget_rule *rule)
{
    for (int i = 0; i < b->n_beyond; i++) {
        if (b->beyond[i] == rule)
            return true;
    }
    return false;
}

/* Those that cover it on this node. False: there are too many. */
static bool collect(const struct request *r, struct covering of[BUDGET_SET_MAX], int *n)
{
    const struct budgeted *b = r->budget;
    const struct config_node *node = r->slot.spec->config;
    struct budget_facts f = facts_of(r, r->slot.model, node);
    char name[BUDGET_NAME_BYTES];
    *n = 0;
    for (int i = 0; i < r->config->n_budgets; i++) {
        const struct budget_rule *rule = &r->config->budget_rules[i];
        if ((node->local && is_beyond(b, rule)) || !budget_rule_covers(rule, &f, name))
            continue;
        if (*n == BUDGET_SET_MAX)
            return false;
        of[*n].rule = rule;
        memcpy(of[(*n)++].name, name, sizeof name);
    }
    return true;
}

static bool same_set(const struct budgeted *b, const struct covering *of, int n)
{
    bool same = b->hold && b->hold->n == n;
    for (int i = 0; i < n && same; i++)
        same = strcmp(b->hold->of[i].name, of[i].name) == 0;
    return same;
}

static void claims_of(const struct budgeted *b, struct budget_claim claims[BUDGET_SET_MAX])
{
    int64_t now = now_s(b->lane->front);
    for (int i = 0; i < b->n; i++)
        claims[i] = budget_rule_claim(b->of[i].rule, b->of[i].name, now);
}

/* ---- how much ---------------------------------------------------------------------------------------------------- */

static struct pusd times(int64_t price, int64_t n)
{
    int64_t v;
    return (struct pusd){__builtin_mul_overflow(price, n, &v) || v > INT64_MAX / 4 ? INT64_MAX / 4 : v};
}

/* The prompt at its most and at its dearest. */
static struct pusd prompt_price(const struct request *r, const struct token_prices *p)
{
    int64_t in = p->input.uusd_per_mtok, cached = p->cached_input.uusd_per_mtok;
    return times(in > cached ? in : cached, request_input_max(&r->body));
}

static int64_t trail_said(const struct request *r)
{
    return r->trail.n_ids > r->trail.chunks ? r->trail.n_ids : r->trail.chunks;
}

/* Tokens of the answer until now, over all choices, in the running leg as in those before. */
static int64_t said_now(const struct request *r)
{
    int64_t ids = r->leg.ids_before + r->stream.tokens, chunks = r->leg.chunks_before + r->stream.content_chunks;
    return r->leg.to_engine && ids > chunks ? ids : chunks;
}

/* An answer that comes in pieces can be ended when its budget is. */
static bool can_be_stopped(const struct request *r)
{
    return r->body.stream || (r->slot.card.resume && r->body.resumable) || trail_has_said(&r->trail);
}

/* More tokens than that, over all choices, nobody will ask of the node. */
static int64_t want_of(const struct request *r)
{
    int64_t choices = r->body.choices, most = bound_output(r, &r->slot.spec->config->prices);
    const struct config_model *as = r->slot.model->config;
    if (r->body.output_tokens_max >= 0 && r->body.output_tokens_max < most)
        most = r->body.output_tokens_max;
    if (most == INT64_MAX && !can_be_stopped(r))
        most = as && as->context ? as->context : WHOLE_TOKENS;
    return most > INT64_MAX / choices ? INT64_MAX : most * choices;
}

static int64_t slice_of(const struct request *r)
{
    return r->config->budget_slice * r->body.choices;
}

static int64_t max_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Tokens that the node may say before what we do about its last one takes effect: they are always paid for beforehand,
 * so that its own count never exceeds what is reserved. What it says in REACT_MS at the pace it has shown, or at a fast
 * one. */
static int64_t lead_of(const struct request *r)
{
    const struct budgeted *b = r->budget;
    int64_t lead = max_of(PACE_ASSUMED * REACT_MS / 1000 * r->body.choices, slice_of(r) / 8);
    int64_t said = b->heard.ns ? said_now(r) - b->heard_said : 0;
    if (said >= PACE_TOKENS * r->body.choices) {
        int64_t took = mono_since(r->lane->front->o.clock, b->heard);
        if (took > PACE_MS * NS_PER_MS)
            lead = max_of(lead, said * REACT_MS * NS_PER_MS / took + 1);
    }
    return lead;
}

/* So many are granted at first, and beyond what was said each time: a slice, and the lead. */
static int64_t ahead_of(const struct request *r)
{
    return slice_of(r) + lead_of(r);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

/* ask NULL: there is nothing left at all. */
static void explain(struct budgeted *b, int refused, const struct budget_view *v, const struct budget_ask *ask)
{
    char left[64], limit[64], amount[64], needs[128] = "", until[32];
    const struct covering *c = &b->of[refused];
    struct budget_claim claim = budget_rule_claim(c->rule, c->name, now_s(b->lane->front));
    struct budget_limits l = claim.limits;
    l.hard = v->hard;
    if (ask) {
        struct pusd least = times(ask->unit.v, ask->units_min);
        least.v = least.v > INT64_MAX - ask->fixed.v ? INT64_MAX : least.v + ask->fixed.v;
        snprintf(needs, sizeof needs, ", and the request needs at least %s", pusd_format(least, amount, sizeof amount));
    }
    snprintf(b->why, sizeof b->why, "the budget '%s' has %s dollars left of %s for this %s%s; it begins anew at %s",
             c->name, pusd_format(budget_available(&l, &v->state), left, sizeof left),
             pusd_format(budget_limit(&l, &v->state), limit, sizeof limit), period_kind_name(c->rule->period.kind),
             needs, wall_format((struct wall){claim.end_s * NS_PER_S}, until, sizeof until));
}

/* Granted in part: which budget had no more. */
static void explain_part(struct budgeted *b, const struct budget_view *views)
{
    int least = 0;
    struct pusd left[BUDGET_SET_MAX];
    char until[32];
    for (int i = 0; i < b->n; i++) {
        struct budget_limits l = b->of[i].rule->limits;
        l.hard = views[i].hard;
        left[i] = budget_available(&l, &views[i].state);
        least = left[i].v < left[least].v ? i : least;
    }
    struct budget_claim claim = budget_rule_claim(b->of[least].rule, b->of[least].name, now_s(b->lane->front));
    snprintf(b->why, sizeof b->why, "the budget '%s' had room for no longer answer; it begins anew at %s",
             b->of[least].name, wall_format((struct wall){claim.end_s * NS_PER_S}, until, sizeof until));
}

bool budgeted_explains(struct request *r)
{
    const struct budgeted *b = r->budget;
    if (!b || !b->local_only || !b->why[0])
        return false;
    api_error_set(&r->error, API_INSUFFICIENT_QUOTA, NULL, "%s; no node on the premises can take it now", b->why);
    return true;
}

/* ---- the store's answers ----------------------------------------------------------------------------------------- */

static void note_views(struct budgeted *b, const struct budget_answer *a)
{
    struct budget_claim claims[BUDGET_SET_MAX];
    if (a->rc != RC_OK && a->rc != RC_DENIED)
        return;
    claims_of(b, claims);
    for (int i = 0; i < a->n && i < b->n; i++)
        budget_desk_note(b->lane, b->of[i].rule, &claims[i], &a->views[i],
                         a->rc == RC_DENIED && i == a->grant.refused && !a->grant.may_wait);
}

static void drop(struct budgeted *b)
{
    config_free(b->config);
    free(b);
}

static enum budgeted_next after_reserve(struct request *r);
static void go_on(struct request *r, enum budgeted_next next)
{
    if (next == BUDGETED_GO)
        dispatch_paid(r);
    else if (next == BUDGETED_AGAIN)
        dispatch(r);
}

/* While the store is away nobody's settlement can make room: that is no time of waiting for them. */
static void leave_out_outage(struct budgeted *b)
{
    int64_t took = mono_since(b->lane->front->o.clock, b->asked);
    if (b->since.ns && took > SLOW_MS * NS_PER_MS)
        b->since.ns += took;
}

static void on_reserved(const struct budget_answer *a, void *arg)
{
    struct budgeted *b = arg;
    b->asking = false;
    leave_out_outage(b);
    note_views(b, a);
    if (!b->r) { /* its client left meanwhile */
        if (a->hold)
            b->lane->budgets->ops->settle(b->lane->budgets->port, a->hold, (struct pusd){0});
        if (!b->inside)
            drop(b);
        return;
    }
    b->rc = a->rc;
    b->grant = a->grant;
    b->granted = a->hold;
    if (a->rc == RC_DENIED)
        explain(b, a->grant.refused, &a->views[a->grant.refused], &b->ask);
    else if (a->rc != RC_OK)
        snprintf(b->why, sizeof b->why, "%s", a->why ? a->why : "budgets cannot be asked at the moment");
    else if (a->grant.units < b->ask.units_want && a->n)
        explain_part(b, a->views);
    if (!b->inside)
        go_on(b->r, after_reserve(b->r));
}

/* Only what is missing is asked for. */
static void grow(struct budgeted *b)
{
    struct pusd least = times(b->need.unit.v, b->need.units_min);
    int64_t missing = least.v + b->need.fixed.v - b->hold->granted.v; /* each at most a quarter of what fits */
    b->ask.fixed.v = missing > 0 ? missing : 0;
    b->ask.units_want -= b->ask.units_min;
    b->ask.units_min = 0;
}

static enum budgeted_next ask_store(struct request *r)
{
    struct budgeted *b = r->budget;
    struct budget_claim claims[BUDGET_SET_MAX];
    const struct budget_access *s = b->lane->budgets;
    char id[48];
    if (b->n_holds)
        snprintf(id, sizeof id, "%s/%d", r->id, b->n_holds);
    else
        snprintf(id, sizeof id, "%s", r->id);
    claims_of(b, claims);
    r->state = REQUEST_RESERVING;
    b->asking = b->inside = true;
    b->asked = clock_now(b->lane->front->o.clock);
    b->ask = b->need;
    if (b->growing)
        grow(b);
    enum rc rc = b->growing ? s->ops->extend(s->port, b->hold, claims, b->n, &b->ask, on_reserved, b)
                            : s->ops->reserve(s->port, id, claims, b->n, &b->ask, on_reserved, b);
    b->inside = false;
    if (rc != RC_OK) {
        b->asking = false;
        b->rc = rc;
        snprintf(b->why, sizeof b->why, "there are more budgets, or requests under way, than can be counted");
    }
    return b->asking ? BUDGETED_WAIT : after_reserve(r);
}

/* Refused for good on this node. The first of the budget's actions that helps is taken. */
static enum budgeted_next refused(struct request *r)
{
    struct budgeted *b = r->budget;
    const struct budget_rule *rule = b->of[b->grant.refused].rule;
    const struct model *other = rule->hard_model ? model_table_find(r->config->model_table, rule->hard_model) : NULL;
    bool begun = r->replied || trail_has_said(&r->trail), local = r->slot.spec->config->local;
    if ((rule->hard_actions & BUDGET_LOCAL_ONLY) && local && b->n_beyond < BUDGET_SET_MAX) {
        b->beyond[b->n_beyond++] = rule;
        return budgeted_reserve(r);
    }
    if (begun) {
        slot_return(r, SLOT_UNUSED);
        (void)budgeted_stop(r);
        return BUDGETED_OVER;
    }
    if ((rule->hard_actions & BUDGET_LOCAL_ONLY) && !b->local_only && b->n_beyond < BUDGET_SET_MAX) {
        b->beyond[b->n_beyond++] = rule;
        b->local_only = true;
    } else if ((rule->hard_actions & BUDGET_DOWNGRADE) && other && !b->downgraded && other != r->model &&
               budgeted_take_model(r, other)) {
        b->downgraded = true;
    } else if ((rule->hard_actions & BUDGET_QUEUE) &&
               mono_since(r->lane->front->o.clock, r->arrived) / NS_PER_MS < r->config->queue[WAITING_BATCH].wait_ms) {
        b->since = (struct mono){0};
        slot_return(r, SLOT_UNUSED);
        request_arm(r, QUEUE_POLL_MS);
        return BUDGETED_WAIT;
    } else {
        slot_return(r, SLOT_UNUSED);
        metrics_add(r->lane->metrics, METRIC_BUDGET_REFUSED, 0, 0, 1);
        api_error_set(&r->error, API_INSUFFICIENT_QUOTA, NULL, "%s", b->why);
        settle_failed(r);
        return BUDGETED_OVER;
    }
    slot_return(r, SLOT_UNUSED);
    b->since = (struct mono){0};
    return BUDGETED_AGAIN;
}

static enum budgeted_next unavailable(struct request *r)
{
    slot_return(r, SLOT_UNUSED);
    metrics_add(r->lane->metrics, METRIC_BUDGET_UNAVAILABLE, 0, 0, 1);
    api_error_set(&r->error, API_BUDGETS_UNAVAILABLE, NULL, "%s", r->budget->why);
    settle_failed(r);
    return BUDGETED_OVER;
}

/* What it has now pays for so many tokens. */
static void take_grant(struct request *r, int64_t units)
{
    struct budgeted *b = r->budget;
    int64_t ahead = trail_said(r) * r->body.choices + ahead_of(r);
    b->units = units;
    b->prices = r->slot.spec->config->prices;
    b->want = want_of(r);
    b->denied = false;
    int64_t enough = b->want < ahead ? b->want : ahead;
    b->clamped = !can_be_stopped(r) ? units < b->want || r->body.output_tokens_max < 0 : units < enough;
}

/* How many tokens what it holds already pays for on this node; -1: not even one more. */
static int64_t held_units(const struct request *r, const struct budget_ask *ask)
{
    int64_t rest = r->budget->hold->granted.v - ask->fixed.v;
    if (rest < 0)
        return -1;
    int64_t units = ask->unit.v ? rest / ask->unit.v : ask->units_want;
    return units < ask->units_min ? -1 : units;
}

static enum budgeted_next after_reserve(struct request *r)
{
    struct budgeted *b = r->budget;
    const struct clock *clock = r->lane->front->o.clock;
    if (b->rc == RC_OK && b->growing) {
        take_grant(r, held_units(r, &b->need));
        return BUDGETED_GO;
    }
    if (b->rc == RC_OK) {
        if (b->hold)
            r->lane->budgets->ops->settle(r->lane->budgets->port, b->hold, (struct pusd){0});
        b->hold = b->granted;
        b->n_holds++;
        take_grant(r, b->grant.units);
        return BUDGETED_GO;
    }
    if (b->rc != RC_DENIED)
        return unavailable(r);
    if (!b->since.ns)
        b->since = clock_now(clock);
    if (b->grant.may_wait && mono_since(clock, b->since) / NS_PER_MS < r->config->budget_wait_ms) {
        request_arm(r, POLL_MS);
        return BUDGETED_WAIT;
    }
    return refused(r);
}

/* ---- reserve ----------------------------------------------------------------------------------------------------- */

static bool is_free(const struct token_prices *p)
{
    return !p->input.uusd_per_mtok && !p->cached_input.uusd_per_mtok && !p->output.uusd_per_mtok;
}

enum budgeted_next budgeted_reserve(struct request *r)
{
    struct budgeted *b = r->budget;
    struct covering of[BUDGET_SET_MAX];
    int n;
    if (!b)
        return BUDGETED_GO;
    if (b->extending) { /* for the leg before: its answer comes first */
        r->state = REQUEST_RESERVING;
        request_arm(r, POLL_MS);
        return BUDGETED_WAIT;
    }
    b->heard = (struct mono){0}; /* of this node nothing is known yet */
    const struct token_prices *p = &r->slot.spec->config->prices;
    if (!b->hold && (is_free(p) || idempotency_is_free(r->idempotency)))
        return BUDGETED_GO;
    if (!collect(r, of, &n)) {
        snprintf(b->why, sizeof b->why, "more than %d budgets cover this request", BUDGET_SET_MAX);
        return unavailable(r);
    }
    if (n == 0) /* with a hold: what others pay for goes on being paid for */
        return BUDGETED_GO;
    int64_t said = trail_said(r) * r->body.choices, want = want_of(r), ahead = said + ahead_of(r);
    b->need = (struct budget_ask){.fixed = prompt_price(r, p),
                                  .unit = {p->output.uusd_per_mtok},
                                  .units_min = bound_output_min(r),
                                  .units_want = can_be_stopped(r) && ahead < want ? ahead : want};
    if (b->need.units_want < b->need.units_min)
        b->need.units_want = b->need.units_min;
    b->growing = same_set(b, of, n);
    if (b->growing && held_units(r, &b->need) >= 0) {
        take_grant(r, held_units(r, &b->need));
        return BUDGETED_GO;
    }
    b->n = n;
    memcpy(b->of, of, sizeof of[0] * (size_t)n);
    return ask_store(r);
}

int64_t budgeted_output(const struct request *r)
{
    const struct budgeted *b = r->budget;
    return b && b->hold && b->clamped ? b->units / r->body.choices : INT64_MAX;
}

void budgeted_turn(struct request *r)
{
    struct budgeted *b = r->budget;
    if (b->asking)
        return;
    go_on(r, r->slot.node ? budgeted_reserve(r) : BUDGETED_AGAIN);
}

void budgeted_leave(struct request *r)
{
    if (r->slot.node)
        slot_return(r, SLOT_UNUSED);
}

/* ---- extend ------------------------------------------------------------------------------------------------------ */

static bool is_over(const struct request *r)
{
    const struct budgeted *b = r->budget;
    return b->denied && !b->clamped && b->units < b->want && b->units - said_now(r) <= lead_of(r);
}

static void on_extended(const struct budget_answer *a, void *arg)
{
    struct budgeted *b = arg;
    struct request *r = b->r; /* who is gone has settled: then nothing is told */
    b->extending = false;
    note_views(b, a);
    if (a->rc == RC_OK) {
        b->units += a->grant.units;
        b->denied = false;
        return;
    }
    b->denied = true;
    b->denied_at = said_now(r);
    if (a->rc == RC_DENIED)
        explain(b, a->grant.refused, &a->views[a->grant.refused], &b->ask);
    else
        snprintf(b->why, sizeof b->why, "%s", a->why ? a->why : "budgets cannot be asked at the moment");
    if (!b->inside && r->state == REQUEST_RUNNING && is_over(r))
        budgeted_stop(r);
}

static void extend(struct request *r)
{
    struct budgeted *b = r->budget;
    struct budget_claim claims[BUDGET_SET_MAX];
    int64_t more = said_now(r) + ahead_of(r) - b->units, slice = slice_of(r);
    more = more > slice ? more : slice;
    if (more > b->want - b->units)
        more = b->want - b->units;
    b->ask = (struct budget_ask){.unit = {b->prices.output.uusd_per_mtok}, .units_min = 1, .units_want = more};
    claims_of(b, claims);
    b->extending = b->inside = true;
    enum rc rc = r->lane->budgets->ops->extend(r->lane->budgets->port, b->hold, claims, b->n, &b->ask, on_extended, b);
    b->inside = false;
    if (rc != RC_OK)
        b->extending = false;
}

void budgeted_said(struct request *r)
{
    struct budgeted *b = r->budget;
    if (!b || !b->hold || b->clamped || !r->leg.node || b->units >= b->want)
        return;
    int64_t said = said_now(r), left = b->units - said;
    if (!b->heard.ns) {
        b->heard = clock_now(r->lane->front->o.clock);
        b->heard_said = said;
    }
    int64_t lead = lead_of(r);
    bool again = !b->denied || said - b->denied_at > slice_of(r) / 8 || left <= lead;
    if (!b->extending && left <= lead + slice_of(r) / 2 && again)
        extend(r);
    if (is_over(r) && !b->extending)
        budgeted_stop(r);
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

bool budgeted_stop(struct request *r)
{
    struct budgeted *b = r->budget;
    b->stopped = true;
    metrics_add(r->lane->metrics, METRIC_BUDGET_STOPPED, 0, 0, 1);
    log_info(r->lane->front->o.log, "budget", "an answer ends early: its budget is used up", LOG_S("request_id", r->id),
             LOG_S("reason", b->why));
    if (stream_cut(&r->stream, r->body.kind == REQUEST_CHAT, r->body.choices) == RC_OK) {
        leg_stop(r);
        return true;
    }
    leg_drop(r, "budget");
    api_error_set(&r->error, API_INSUFFICIENT_QUOTA, NULL, "%s", b->why);
    settle_failed(r);
    return false;
}

const char *budgeted_why(const struct request *r)
{
    const struct budgeted *b = r->budget;
    if (!b)
        return NULL;
    if (b->stopped)
        return b->why;
    bool cut = b->clamped && b->units < b->want && r->tokens.output >= b->units / r->body.choices * r->body.choices;
    return cut ? b->why[0] ? b->why : "a budget had room for no longer answer" : NULL;
}

bool budgeted_local_only(const struct request *r)
{
    return r->budget && r->budget->local_only;
}

bool budgeted_prefers_local(const struct request *r)
{
    return r->budget && r->budget->prefer_local;
}

const char *budgeted_lines(const struct request *r)
{
    return r->budget && r->budget->lines[0] ? r->budget->lines : NULL;
}

const char *budgeted_labels(const struct request *r)
{
    return r->budget && r->budget->labels[0] ? r->budget->labels : NULL;
}

const char *budgeted_hold_id(const struct request *r)
{
    return r->budget && r->budget->hold_id[0] ? r->budget->hold_id : NULL;
}

struct pusd budgeted_reserved(const struct request *r)
{
    return r->budget ? r->budget->reserved : (struct pusd){0};
}

struct pusd budgeted_waste(const struct request *r)
{
    return r->budget ? r->budget->waste : (struct pusd){0};
}

/* A leg that we ended, or that broke off, without the node's own count: it may have said a little more than we have
 * read, and that is paid for as well. */
static struct pusd waste_of(const struct request *r)
{
    const struct budgeted *b = r->budget;
    bool broken = (b->stopped || r->outcome != LEDGER_OK) && r->billed && !r->stream.usage_known;
    int64_t left = b->hold->granted.v - r->charge.v;
    if (!broken || left <= 0)
        return (struct pusd){0};
    struct pusd w = times(b->prices.output.uusd_per_mtok, lead_of(r));
    return (struct pusd){w.v < left ? w.v : left};
}

static void put_lines(struct budgeted *b)
{
    size_t at = 0;
    for (int i = 0; i < b->hold->n && at < sizeof b->lines; i++)
        at += (size_t)snprintf(b->lines + at, sizeof b->lines - at, "%lld %s\n", (long long)b->hold->of[i].start_s,
                               b->hold->of[i].name);
    snprintf(b->hold_id, sizeof b->hold_id, "%s", b->hold->id);
}

void budgeted_settle(struct request *r)
{
    struct budgeted *b = r->budget;
    if (!b || !b->hold)
        return;
    const struct budget_access *s = r->lane->budgets;
    if (!b->stopped && budgeted_why(r))
        metrics_add(r->lane->metrics, METRIC_BUDGET_STOPPED, 0, 0, 1);
    b->waste = waste_of(r);
    b->reserved = b->hold->granted;
    if (r->charge.v || b->waste.v)
        put_lines(b);
    const struct pusd spent = {r->charge.v + b->waste.v};
    for (int i = 0; i < b->hold->n; i++)
        budget_desk_settled(r->lane, &b->hold->of[i], b->hold->granted, spent);
    struct pusd excess = s->ops->settle(s->port, b->hold, spent);
    b->hold = NULL;
    b->extending = false;
    if (!excess.v)
        return;
    char text[64];
    log_warn(r->lane->front->o.log, "budget", "a node counts more than there can be: a budget may be overspent by that",
             LOG_S("request_id", r->id), LOG_S("node", r->billed ? r->billed->config->name : NULL),
             LOG_S("excess_usd", pusd_format(excess, text, sizeof text)));
    metrics_add(r->lane->metrics, METRIC_BUDGET_EXCESS, 0, 0, 1);
}

void budgeted_fini(struct request *r)
{
    struct budgeted *b = r->budget;
    r->budget = NULL;
    if (!b)
        return;
    if (b->hold)
        r->lane->budgets->ops->settle(r->lane->budgets->port, b->hold, (struct pusd){0});
    b->hold = NULL;
    b->r = NULL;
    if (!b->asking || b->growing) /* of a hold that is settled nothing more is told */
        drop(b);
}

/* ---- at the door ------------------------------------------------------------------------------------------------- */

bool budgeted_take_model(struct request *r, const struct model *m)
{
    for (int i = 0; i < m->n_chain; i++) {
        if (model_may_step(m, m->chain[i], r->who)) {
            r->model = m;
            r->room = m->room;
            return true;
        }
    }
    return false;
}

static void act(struct request *r, unsigned actions, const char *model)
{
    struct budgeted *b = r->budget;
    const struct model *m = model ? model_table_find(r->config->model_table, model) : NULL;
    b->prefer_local = b->prefer_local || (actions & BUDGET_PREFER_LOCAL);
    b->local_only = b->local_only || (actions & BUDGET_LOCAL_ONLY);
    if ((actions & BUDGET_DOWNGRADE) && m && m != r->model && !b->downgraded)
        b->downgraded = budgeted_take_model(r, m);
    if (actions & BUDGET_QUEUE)
        r->urgency.class = WAITING_BATCH;
}

/* Used up, and nothing helps: refused before it waits for a slot. */
static bool refuse_at_door(struct request *r, const struct budget_rule *rule, const char *name,
                           const struct budget_view *v)
{
    struct budgeted *b = r->budget;
    b->of[0].rule = rule;
    memcpy(b->of[0].name, name, sizeof b->of[0].name);
    explain(b, 0, v, NULL);
    metrics_add(r->lane->metrics, METRIC_BUDGET_REFUSED, 0, 0, 1);
    api_error_set(&r->error, API_INSUFFICIENT_QUOTA, NULL, "%s", b->why);
    return false;
}

bool budgeted_begin(struct request *r, const char *labels)
{
    char name[BUDGET_NAME_BYTES];
    if (!r->config->n_budgets)
        return true;
    struct budgeted *b = r->budget = spw_calloc(1, sizeof *b);
    b->r = r;
    b->lane = r->lane;
    b->config = config_ref(r->config);
    snprintf(b->labels, sizeof b->labels, "%s", labels);
    struct budget_facts f = facts_of(r, r->model, NULL);
    for (int i = 0; i < r->config->n_budgets; i++) {
        const struct budget_rule *rule = &r->config->budget_rules[i];
        struct budget_view v;
        if (budget_rule_asks_provider(rule) || !budget_rule_covers(rule, &f, name))
            continue;
        switch (budget_desk_level(r->lane, rule, name, &v)) {
        case BUDGET_OK: break;
        case BUDGET_SOFT: act(r, rule->soft_actions, rule->soft_model); break;
        case BUDGET_HARD:
            /* Neither an action, nor a cache, nor a node helps that answers free of charge. */
            if (!(rule->hard_actions & (BUDGET_LOCAL_ONLY | BUDGET_DOWNGRADE | BUDGET_QUEUE)) && !r->lane->cached &&
                budget_desk_all_cost(r))
                return refuse_at_door(r, rule, name, &v);
            act(r, rule->soft_actions & ~(unsigned)BUDGET_QUEUE, rule->soft_model);
            break;
        }
    }
    return true;
}
