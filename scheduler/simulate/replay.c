#include "scheduler/simulate/replay.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "scheduler/simulate/replay_internal.h"

enum rc replay_wrong(struct replay *x, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return lines_error(&x->lines, x->e, RC_INVALID, "%s", text);
}

void replay_legs_add(struct replay_legs *l, const struct router_leg *leg)
{
    if (l->n == l->room) {
        l->room = l->room ? 2 * l->room : 1024;
        l->legs = spw_realloc(l->legs, l->room * sizeof *l->legs);
    }
    l->legs[l->n++] = *leg;
}

void replay_legs_clear(struct replay_legs *l)
{
    free(l->legs);
    *l = (struct replay_legs){0};
}

int replay_model_id(struct replay_models *m, const char *name)
{
    for (int i = 0; i < m->n; i++)
        if (strcmp(m->names[i], name) == 0)
            return i;
    if (m->n == SHORTLIST_MODELS_MAX)
        return SHORTLIST_MODELS_MAX - 1; /* as the daemon has it */
    snprintf(m->names[m->n], sizeof m->names[0], "%s", name);
    return m->n++;
}

/* ---- may it be told that ----------------------------------------------------------------------------------------------- */

static enum rc check_node(struct replay *x, int32_t node)
{
    return node >= 0 && node < x->begin.nodes ? RC_OK
                                              : replay_wrong(x, "node %d: 0 to %d are there", node, x->begin.nodes - 1);
}

static enum rc check_here(struct replay *x, int32_t node)
{
    const enum rc rc = check_node(x, node);
    if (rc == RC_OK && !router_has(x->router, node))
        return replay_wrong(x, "node %d is not there: no \"put\" came before", node);
    return rc;
}

static bool is_time(double us)
{
    return isfinite(us) && us >= 0;
}

static enum rc check_facts(struct replay *x)
{
    const struct record_facts *f = &x->event.u.facts;
    const struct node_curve *c = &f->curve;
    if (!is_time(c->base_us) || !is_time(c->prefill_us_per_tok) || !is_time(c->decode_us_base) ||
        !is_time(c->decode_us_per_seq) || !is_time(f->f.log_sd) || !is_time(f->f.losses_per_hour))
        return replay_wrong(x, "a curve's figures are not negative");
    return check_node(x, x->event.node);
}

static enum rc check_leg(struct replay *x)
{
    const struct router_event_heard *h = &x->event.u.heard;
    if (h->leg < 1 || h->leg > x->legs.n)
        return replay_wrong(x, "leg %u: %zu have been sent so far", h->leg, x->legs.n);
    return isfinite(h->us) ? RC_OK : replay_wrong(x, "\"us\": a time is wanted");
}

static enum rc check_sent(struct replay *x)
{
    if (x->event.u.sent.leg.number != x->legs.n + 1)
        return replay_wrong(x, "leg %u comes after leg %zu: something is missing between", x->event.u.sent.leg.number,
                            x->legs.n);
    return check_here(x, x->event.node);
}

static enum rc check_choice(struct replay *x)
{
    const struct record_choice *c = &x->event.u.choice;
    enum rc rc = c->chosen < c->n ? RC_OK : replay_wrong(x, "\"chosen\": %d of %d candidates", c->chosen, c->n);
    for (int i = 0; rc == RC_OK && i < c->n; i++)
        rc = check_node(x, x->candidates[i].node);
    for (int i = 0; rc == RC_OK && i < c->n_holders; i++)
        rc = check_node(x, c->holders[i].node);
    for (int i = 0; rc == RC_OK && i < c->n_skip; i++)
        rc = check_node(x, c->skip[i]);
    return rc;
}

static enum rc check(struct replay *x)
{
    const struct record_event *e = &x->event;
    if (!x->router && e->kind != RECORD_BEGIN)
        return replay_wrong(x, "\"%s\" comes before \"begin\"", record_kind_name(e->kind));
    switch ((int)e->kind) {
    case ROUTER_PUT: return check_facts(x);
    case ROUTER_DROP:
    case ROUTER_FORGET: return check_node(x, e->node);
    case ROUTER_LIKE: return check_node(x, e->node) == RC_OK ? check_node(x, e->u.other) : RC_INVALID;
    case ROUTER_STATE: return check_here(x, e->node);
    case ROUTER_SENT: return check_sent(x);
    case ROUTER_SPOKE:
    case ROUTER_ENDED: return check_leg(x);
    case ROUTER_LISTED:
    case ROUTER_CHOSE: return check_choice(x);
    case RECORD_NODE: return check_node(x, e->u.named.id);
    case RECORD_MODEL:
        return e->u.named.id < SHORTLIST_MODELS_MAX
                   ? RC_OK
                   : replay_wrong(x, "model %d: 0 to %d are possible", e->u.named.id, SHORTLIST_MODELS_MAX - 1);
    default: return RC_OK;
    }
}

/* ---- is it the same ---------------------------------------------------------------------------------------------- */

static const char *node_name(const struct replay *x, int32_t node)
{
    return node >= 0 && node < x->begin.nodes && x->names[node][0] ? x->names[node] : "?";
}

static struct replay_difference *differs(struct replay *x, const char *of, const char *text)
{
    if (x->out->first)
        return NULL;
    struct replay_difference *d = spw_calloc(1, sizeof *d);
    d->line = x->lines.line;
    d->kind = x->event.kind;
    d->wall_us = x->begin.wall_us + x->event.at_us;
    snprintf(d->text, sizeof d->text, "%s%s%s", of, *of ? ": " : "", text);
    x->out->first = d;
    return d;
}

static void list_again(struct replay *x)
{
    const struct record_choice *c = &x->event.u.choice;
    struct router_ask ask;
    int32_t listed[SHORTLIST_MAX];
    char text[RECORD_DIFFERENCE_BYTES] = "";
    record_ask(c, &ask);
    const int n = router_list(x->router, &ask, listed);
    if (n != c->n)
        snprintf(text, sizeof text, "%d nodes are listed, were %d", n, c->n);
    for (int i = 0; !*text && i < n; i++)
        if (listed[i] != x->candidates[i].node)
            snprintf(text, sizeof text, "node %d of the list is %s, was %s", i + 1, node_name(x, listed[i]),
                     node_name(x, x->candidates[i].node));
    if (!*text)
        return;
    x->out->events_differ++;
    differs(x, "", text);
}

static void keep_decisions(struct replay *x, struct replay_difference *d, const struct record_choice *is,
                           const struct record_candidate *is_c)
{
    const struct record_choice *was = &x->event.u.choice;
    if (!d)
        return;
    d->was = *was;
    d->is = *is;
    memcpy(d->was_c, x->candidates, sizeof d->was_c);
    memcpy(d->is_c, is_c, sizeof d->is_c);
    snprintf(d->model, sizeof d->model, "%s", x->models.names[was->model]);
    for (int i = 0; i < was->n; i++)
        snprintf(d->names[i], sizeof d->names[i], "%s", node_name(x, x->candidates[i].node));
}

static void choose_again(struct replay *x)
{
    const struct record_choice *was = &x->event.u.choice;
    struct record_candidate is_c[RECORD_CANDIDATES_MAX] = {0};
    struct route_candidate c[RECORD_CANDIDATES_MAX];
    struct record_choice is = *was;
    struct route_decision d;
    struct router_ask ask;
    char text[RECORD_DIFFERENCE_BYTES];
    const char *of = "";
    record_ask(was, &ask);
    for (int32_t i = 0; i < was->n; i++) {
        router_candidate(x->router, &ask, x->candidates[i].node, &c[i]);
        router_callers_part(&x->candidates[i].c, &c[i]);
    }
    router_choose(x->router, &ask, NULL, c, was->n, &d);
    is.chosen = d.chosen;
    is.may_wait = d.may_wait;
    is.busy = d.busy;
    is.model_known = d.model_known;
    is.too_late = d.too_late;
    is.back_us = d.back_us;
    bool other = record_choices_differ(was, &is, text);
    for (int32_t i = 0; i < was->n; i++) {
        is_c[i] = (struct record_candidate){x->candidates[i].node, d.reasons[i], c[i], d.terms[i]};
        if (other || !record_candidates_differ(&x->candidates[i], &is_c[i], text))
            continue;
        other = true;
        of = node_name(x, is_c[i].node);
    }
    x->out->decisions++;
    x->out->candidates += was->n;
    x->out->decisions_differ += other;
    if (other)
        keep_decisions(x, differs(x, of, text), &is, is_c);
}

/* ---- told again -------------------------------------------------------------------------------------------------- */

static void end_run(struct replay *x)
{
    router_free(x->router);
    x->router = NULL;
    other_free(x->other);
    x->other = NULL;
    free(x->names);
    x->names = NULL;
    replay_legs_clear(&x->legs);
    x->models.n = 0;
}

static enum rc begin_run(struct replay *x)
{
    const struct record_begin *b = &x->event.u.begin;
    struct error why;
    if (x->router)
        x->out->cut_off++;
    end_run(x);
    if (b->format != RECORD_FORMAT)
        return replay_wrong(x, "\"format\": %d; this program reads %d", b->format, RECORD_FORMAT);
    const struct router_size size = {b->nodes, b->pairs, b->probability};
    if (router_new(&x->router, &size, &why) != RC_OK)
        return replay_wrong(x, "%s", why.message);
    x->begin = *b;
    x->names = spw_calloc((size_t)b->nodes, sizeof *x->names);
    x->out->runs++;
    return x->asked ? other_begin(x) : RC_OK;
}

static void tell_again(struct replay *x)
{
    struct router_event again;
    struct router_leg *leg = NULL, sent;
    char text[RECORD_DIFFERENCE_BYTES];
    struct record_event *e = &x->event;
    if ((int)e->kind == ROUTER_PUT)
        e->u.facts.f.curve = e->u.facts.has_curve ? &e->u.facts.curve : NULL;
    record_give(e, &again);
    if ((int)e->kind == ROUTER_SPOKE || (int)e->kind == ROUTER_ENDED)
        leg = &x->legs.legs[e->u.heard.leg - 1];
    else if ((int)e->kind == ROUTER_SENT)
        leg = &sent;
    router_apply(x->router, &again, leg);
    if ((int)e->kind != ROUTER_SENT)
        return;
    replay_legs_add(&x->legs, &sent);
    if (!record_legs_differ(&e->u.sent.leg, &sent, text))
        return;
    x->out->events_differ++;
    differs(x, node_name(x, e->node), text);
}

/* ---- the file ---------------------------------------------------------------------------------------------------- */

static enum rc take(struct replay *x)
{
    const struct record_event *e = &x->event;
    enum rc rc = check(x);
    if (rc != RC_OK)
        return rc;
    switch ((int)e->kind) {
    case RECORD_BEGIN: return begin_run(x);
    case RECORD_NODE: memcpy(x->names[e->u.named.id], e->u.named.name, RECORD_NAME_BYTES); break;
    case RECORD_MODEL:
        memcpy(x->models.names[e->u.named.id], e->u.named.name, RECORD_NAME_BYTES);
        x->models.n = e->u.named.id >= x->models.n ? e->u.named.id + 1 : x->models.n;
        break;
    case RECORD_END:
        snprintf(x->out->ended, sizeof x->out->ended, "%s", e->u.end.why);
        end_run(x);
        return RC_OK;
    case ROUTER_LISTED: list_again(x); break;
    case ROUTER_CHOSE: choose_again(x); break;
    default: tell_again(x); break;
    }
    x->out->events += e->kind < RECORD_BEGIN;
    if (x->other)
        other_hear(x);
    return RC_OK;
}

/* A line without its end is where a run was cut off, if it is the last of its run. */
static enum rc next(struct replay *x, bool *torn)
{
    struct error why;
    char *text;
    size_t n;
    enum rc rc = lines_next(&x->lines, &text, &n, x->e);
    if (rc != RC_OK)
        return rc;
    x->out->lines++;
    rc = record_read(text, n, &x->event, x->candidates, &why);
    if (rc != RC_OK && n && text[n - 1] != '}' && !*torn) {
        *torn = true;
        return RC_OK;
    }
    if (rc != RC_OK)
        return replay_wrong(x, "%s", why.message);
    if (*torn && x->event.kind != RECORD_BEGIN && x->event.kind != RECORD_END)
        return replay_wrong(x, "the line before is cut off, and its run goes on all the same");
    *torn = false;
    return take(x);
}

static enum rc run(struct replay *x)
{
    enum rc rc = x->asked ? other_look_ahead(x) : RC_OK;
    bool torn = false;
    while (rc == RC_OK)
        rc = next(x, &torn);
    if (rc != RC_NOT_FOUND)
        return rc;
    if (x->router) {
        x->out->cut_off++;
        x->out->ended[0] = '\0';
    }
    if (!x->out->runs)
        return error_set(x->e, RC_INVALID, "%s: no recording: it has no \"begin\"; see routing.record", x->lines.path);
    return RC_OK;
}

enum rc replay_run(const char *path, const struct replay_other *other, struct replay_result *out, struct error *e)
{
    struct replay *x = spw_calloc(1, sizeof *x);
    *out = (struct replay_result){0};
    x->asked = other;
    x->out = out;
    x->e = e;
    enum rc rc = lines_open(&x->lines, path, e);
    if (rc == RC_OK)
        rc = run(x);
    end_run(x);
    free(x->known);
    lines_close(&x->lines);
    free(x);
    if (rc != RC_OK)
        replay_result_fini(out);
    return rc;
}

void replay_result_fini(struct replay_result *r)
{
    free(r->first);
    r->first = NULL;
}
