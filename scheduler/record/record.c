#include "scheduler/record/record.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "scheduler/record/record_tables.h"

const char *record_kind_name(enum record_kind k)
{
    static const char *const names[] = {"begin", "node", "model", "end"};
    return k < RECORD_BEGIN ? router_event_name((enum router_event_kind)k) : names[k - RECORD_BEGIN];
}

/* ---- between routers and records ------------------------------------------------------------------------------------ */

size_t record_event_bytes(enum record_kind k)
{
    static const size_t of[RECORD_KINDS] = {
        [ROUTER_PUT] = sizeof(struct record_facts),
        [ROUTER_LIKE] = sizeof(int32_t),
        [ROUTER_STATE] = sizeof(struct router_state),
        [ROUTER_TARIFF] = sizeof(struct router_event_tariff),
        [ROUTER_GROWING] = sizeof(struct router_event_growing),
        [ROUTER_SENT] = sizeof(struct record_sent),
        [ROUTER_SPOKE] = sizeof(struct router_event_heard),
        [ROUTER_ENDED] = sizeof(struct router_event_heard),
        [ROUTER_LISTED] = sizeof(struct record_choice),
        [ROUTER_CHOSE] = sizeof(struct record_choice),
        [RECORD_BEGIN] = sizeof(struct record_begin),
        [RECORD_NODE] = sizeof(struct record_named),
        [RECORD_MODEL] = sizeof(struct record_named),
        [RECORD_END] = sizeof(struct record_end),
    };
    return offsetof(struct record_event, u) + of[k];
}

static void take_choice(const struct router_event *from, const struct record_who *who, struct record_choice *to,
                        struct record_candidate *c)
{
    const struct router_event_choice *x = &from->u.choice;
    const struct route_decision *d = x->decision;
    to->who = *who;
    to->model = x->ask->model;
    to->q = *x->ask->request;
    to->held = x->ask->held;
    to->n_holders = x->ask->n_holders;
    to->n_skip = x->ask->n_skip;
    to->n = x->n;
    to->listed = x->nodes != NULL;
    for (int32_t i = 0; i < x->ask->n_holders; i++)
        to->holders[i] = x->ask->holders[i];
    for (int32_t i = 0; i < x->ask->n_skip; i++)
        to->skip[i] = x->ask->skip[i];
    for (int32_t i = 0; i < x->n; i++) {
        c[i].node = x->nodes ? x->nodes[i] : i;
        if (d) {
            c[i].reason = d->reasons[i];
            c[i].c = x->candidates[i];
            c[i].t = d->terms[i];
        }
    }
    to->chosen = d ? d->chosen : -1;
    to->may_wait = d && d->may_wait;
    to->busy = d && d->busy;
    to->model_known = d && d->model_known;
    to->too_late = d && d->too_late;
    to->back_us = d ? d->back_us : 0;
}

static void take_facts(const struct router_facts *f, struct record_facts *to)
{
    *to = (struct record_facts){.f = *f, .has_curve = f->curve != NULL};
    if (f->curve)
        to->curve = *f->curve;
    to->f.curve = NULL;
}

void record_take(const struct router_event *from, const struct record_who *who, struct record_event *e,
                 struct record_candidate *c)
{
    e->kind = (enum record_kind)from->kind;
    e->node = from->node;
    switch (from->kind) {
    case ROUTER_PUT: take_facts(from->u.facts, &e->u.facts); break;
    case ROUTER_LIKE: e->u.other = from->u.other; break;
    case ROUTER_STATE: e->u.state = *from->u.state; break;
    case ROUTER_TARIFF: e->u.tariff = from->u.tariff; break;
    case ROUTER_GROWING: e->u.growing = from->u.growing; break;
    case ROUTER_SENT: e->u.sent = (struct record_sent){*from->u.sent.work, *from->u.sent.leg}; break;
    case ROUTER_SPOKE:
    case ROUTER_ENDED: e->u.heard = from->u.heard; break;
    case ROUTER_LISTED:
    case ROUTER_CHOSE: take_choice(from, who, &e->u.choice, c); break;
    case ROUTER_DROP:
    case ROUTER_FORGET:
    case ROUTER_KINDS: break;
    }
}

void record_give(const struct record_event *e, struct router_event *out)
{
    *out = (struct router_event){.kind = (enum router_event_kind)e->kind, .node = e->node};
    switch (out->kind) {
    case ROUTER_PUT: out->u.facts = &e->u.facts.f; break;
    case ROUTER_LIKE: out->u.other = e->u.other; break;
    case ROUTER_STATE: out->u.state = &e->u.state; break;
    case ROUTER_TARIFF: out->u.tariff = e->u.tariff; break;
    case ROUTER_GROWING: out->u.growing = e->u.growing; break;
    case ROUTER_SENT: out->u.sent = (struct router_event_sent){&e->u.sent.work, &e->u.sent.leg}; break;
    case ROUTER_SPOKE:
    case ROUTER_ENDED: out->u.heard = e->u.heard; break;
    case ROUTER_DROP:
    case ROUTER_FORGET:
    case ROUTER_LISTED:
    case ROUTER_CHOSE:
    case ROUTER_KINDS: break;
    }
}

void record_ask(const struct record_choice *c, struct router_ask *out)
{
    *out = (struct router_ask){.model = c->model,
                               .request = &c->q,
                               .holders = c->holders,
                               .n_holders = c->n_holders,
                               .skip = c->skip,
                               .n_skip = c->n_skip,
                               .held = c->held};
}

/* ---- writing ------------------------------------------------------------------------------------------------------ */

static void write_facts(struct json_writer *w, const struct record_facts *x)
{
    json_open(w, "facts", '{');
    members_write(w, &record_facts_members, &x->f);
    json_close(w, '}');
    json_open(w, "models", '[');
    for (int i = 0; i < SHORTLIST_MODELS_MAX; i++)
        if (x->f.kind.models[i / 64] >> (i % 64) & 1)
            json_int(w, NULL, i);
    json_close(w, ']');
    if (!x->has_curve)
        return;
    json_open(w, "curve", '{');
    members_write(w, &record_curve_members, &x->curve);
    json_close(w, '}');
}

static void write_numbers(struct json_writer *w, const char *key, const int32_t *v, int n)
{
    if (!n)
        return;
    json_open(w, key, '[');
    for (int i = 0; i < n; i++)
        json_int(w, NULL, v[i]);
    json_close(w, ']');
}

static void write_choice(struct json_writer *w, const struct record_choice *x, const struct record_candidate *c,
                         bool decided)
{
    members_write(w, &record_who_members, &x->who);
    members_write(w, &record_choice_members, x);
    json_open(w, "q", '{');
    members_write(w, &record_request_members, &x->q);
    json_close(w, '}');
    if (x->n_holders) {
        json_open(w, "holders", '[');
        for (int i = 0; i < x->n_holders; i++) {
            json_open(w, NULL, '[');
            json_int(w, NULL, x->holders[i].node);
            json_int(w, NULL, x->holders[i].tokens);
            json_close(w, ']');
        }
        json_close(w, ']');
    }
    write_numbers(w, "skip", x->skip, x->n_skip);
    json_open(w, "candidates", '[');
    for (int i = 0; i < x->n; i++) {
        if (!decided) {
            json_int(w, NULL, c[i].node);
            continue;
        }
        json_open(w, NULL, '{');
        members_write(w, &record_candidate_members, &c[i]);
        json_close(w, '}');
    }
    json_close(w, ']');
}

static void write_part(struct json_writer *w, const char *key, const struct members *f, const void *from)
{
    json_open(w, key, '{');
    members_write(w, f, from);
    json_close(w, '}');
}

static void write_rest(struct json_writer *w, const struct record_event *e, const struct record_candidate *c)
{
    switch ((int)e->kind) {
    case ROUTER_PUT: write_facts(w, &e->u.facts); break;
    case ROUTER_LIKE: members_write(w, &record_like_members, e); break;
    case ROUTER_STATE: members_write(w, &record_state_members, &e->u.state); break;
    case ROUTER_TARIFF: members_write(w, &record_tariff_members, &e->u.tariff); break;
    case ROUTER_GROWING: members_write(w, &record_growing_members, &e->u.growing); break;
    case ROUTER_SENT:
        write_part(w, "work", &record_work_members, &e->u.sent.work);
        write_part(w, "leg", &record_leg_members, &e->u.sent.leg);
        break;
    case ROUTER_SPOKE:
    case ROUTER_ENDED: members_write(w, &record_heard_members, &e->u.heard); break;
    case ROUTER_LISTED:
    case ROUTER_CHOSE: write_choice(w, &e->u.choice, c, (int)e->kind == ROUTER_CHOSE); break;
    case RECORD_BEGIN: members_write(w, &record_begin_members, &e->u.begin); break;
    case RECORD_NODE:
    case RECORD_MODEL: members_write(w, &record_named_members, &e->u.named); break;
    case RECORD_END: members_write(w, &record_end_members, &e->u.end); break;
    default: break;
    }
}

enum rc record_write(struct strbuf *out, const struct record_event *e, const struct record_candidate *c)
{
    struct json_writer w = json_write_begin(out);
    w.rc = strbuf_puts(out, "{"); /* by hand: after a line before it the writer would begin with a comma */
    json_string(&w, "event", record_kind_name(e->kind));
    members_write(&w, &record_event_members, e);
    write_rest(&w, e, c);
    json_close(&w, '}');
    const enum rc rc = json_write_end(&w);
    return rc == RC_OK ? strbuf_puts(out, "\n") : rc;
}

/* ---- comparing ---------------------------------------------------------------------------------------------------- */

static bool differ(const struct members *f, const void *was, const void *is, char text[RECORD_DIFFERENCE_BYTES])
{
    char before[64], now[64];
    const struct member *row = members_differ(f, was, is);
    if (!row)
        return false;
    member_print(row, was, before, sizeof before);
    member_print(row, is, now, sizeof now);
    snprintf(text, RECORD_DIFFERENCE_BYTES, "%s is %s, was %s", row->name, now, before);
    return true;
}

bool record_candidates_differ(const struct record_candidate *was, const struct record_candidate *is,
                              char text[RECORD_DIFFERENCE_BYTES])
{
    return differ(&record_candidate_members, was, is, text);
}

bool record_choices_differ(const struct record_choice *was, const struct record_choice *is,
                           char text[RECORD_DIFFERENCE_BYTES])
{
    return differ(&record_choice_members, was, is, text);
}

bool record_legs_differ(const struct router_leg *was, const struct router_leg *is, char text[RECORD_DIFFERENCE_BYTES])
{
    return differ(&record_leg_members, was, is, text);
}
