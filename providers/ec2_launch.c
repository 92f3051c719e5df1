/* One machine, from launch() to its end. See ec2_internal.h for the steps. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "providers/ec2_internal.h"

#define FIND_FIRST_MS  (15 * 60 * 1000) /* of a process: a token may be older than it */
#define FIND_POLLS     3                /* for so long after an outcome that is not known */
#define EARLY_MS       120000           /* an instance may be unknown to some of EC2 for so long */
#define EARLY_WAIT_MS  2000
#define TEMPLATE_TRIES 5
#define FLEET_IDS_MAX  16

/* ---- a machine -------------------------------------------------------------------------------------------------- */

void ec2_describe_machine(const struct ec2_machine *m, struct provider_instance *i)
{
    *i = (struct provider_instance){
        .name = m->name,
        .state = m->state,
        .host = m->host,
        .port = m->port,
        .reason = m->reason,
        .failure = m->state == INSTANCE_GONE ? m->failure : PROVIDER_FINE,
        .id = m->id,
        .token = *m->token ? m->token : NULL,
        .offer = m->offer,
        .pool = m->pool,
        .launched_at_s = m->launched_s,
        .price_hour = m->price,
        .price_at_s = m->price_at_s,
        .ended_at_s = m->ended_s,
    };
}

void ec2_machine_enter(struct ec2_machine *m, enum provider_instance_state state)
{
    struct provider_instance i;
    m->state = state;
    m->told = true;
    ec2_describe_machine(m, &i);
    if (m->p->env.on_change)
        m->p->env.on_change(&i, m->p->env.arg);
}

struct ec2_machine *ec2_machine_find(struct ec2 *p, const char *name)
{
    for (struct ec2_machine *m = p->machines; m; m = m->next) {
        if (strcmp(m->name, name) == 0)
            return m;
    }
    return NULL;
}

static void on_step(evutil_socket_t fd, short what, void *arg);

struct ec2_machine *ec2_machine_new(struct ec2 *p, const struct provider_spec *s)
{
    const char *address = provider_setting(s->settings, "address");
    int port = (int)provider_setting_int(s->settings, "port");
    struct ec2_machine *m = spw_calloc(1, sizeof(*m));
    *m = (struct ec2_machine){
        .next = p->machines,
        .p = p,
        .name = spw_strdup(s->name),
        .token = spw_strdup(s->token ? s->token : s->name),
        .pool = s->pool ? spw_strdup(s->pool) : NULL,
        .port = port > 0 ? port : EC2_PORT,
        .public_address = address && strcmp(address, "public") == 0,
        .state = INSTANCE_STARTING,
        .if_not_found = PROVIDER_ENDED,
    };
    m->timer = evtimer_new(p->env.loop, on_step, m);
    p->machines = m;
    return m;
}

void ec2_machine_free(struct ec2_machine *m)
{
    if (m->call)
        aws_call_cancel(m->call);
    event_free(m->timer);
    while (m->waiters) {
        struct ec2_waiter *w = m->waiters;
        m->waiters = w->next;
        free(w);
    }
    for (int i = 0; i < m->n_attempts; i++)
        aws_form_fini(&m->attempts[i].form);
    for (int i = 0; i < m->n_offers; i++)
        free(m->offers[i]);
    free(m->attempts);
    free(m->offers);
    free(m->on_demand);
    free(m->name);
    free(m->token);
    free(m->pool);
    free(m->id);
    free(m->offer);
    free(m->host);
    free(m);
}

static void tell_waiters(struct ec2_machine *m, enum provider_failure failure, const char *text)
{
    struct ec2_waiter *list = m->waiters; /* a callback may ask again */
    m->waiters = NULL;
    while (list) {
        struct ec2_waiter *w = list;
        list = w->next;
        if (w->cb)
            w->cb(failure, text, w->arg);
        free(w);
    }
}

void ec2_machine_gone(struct ec2_machine *m, enum provider_failure failure, const char *format, ...)
{
    struct ec2_machine **link = &m->p->machines;
    va_list ap;
    while (*link != m)
        link = &(*link)->next;
    *link = m->next; /* first, so that on_change may launch the same name again */
    va_start(ap, format);
    vsnprintf(m->reason, sizeof m->reason, format, ap);
    va_end(ap);
    m->failure = failure;
    log_info(m->p->env.log, "provider", "instance is gone", LOG_S("node", m->name), LOG_S("id", m->id),
             LOG_S("failure", provider_failure_name(failure)), LOG_S("reason", m->reason));
    ec2_machine_enter(m, INSTANCE_GONE);
    tell_waiters(m, PROVIDER_FINE, "");
    ec2_machine_free(m);
}

void ec2_machine_begin(struct ec2_machine *m, enum ec2_step step, int64_t ms)
{
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    m->step = step;
    evtimer_add(m->timer, &tv);
}

void ec2_machine_known(struct ec2_machine *m, const char *id)
{
    m->id = spw_strdup(id);
    m->known = clock_now(m->p->env.clock);
    m->round = m->p->round;
    m->missed = 0;
    m->reason[0] = '\0';
    log_info(m->p->env.log, "provider", "instance is launched", LOG_S("node", m->name), LOG_S("id", id));
    ec2_machine_begin(m, m->ending ? STEP_END : STEP_WATCH, 0);
    ec2_poll_soon(m->p); /* it tells on_change: an id without what it is and since when is half a truth */
}

/* ---- the template ----------------------------------------------------------------------------------------------- */

static struct ec2_template *take_template(struct ec2 *p, struct ec2_template_text *text)
{
    for (struct ec2_template *t = p->templates; t; t = t->next) {
        if (strcmp(t->text.name, text->name) == 0) {
            strbuf_fini(&text->body);
            return t;
        }
    }
    struct ec2_template *t = spw_calloc(1, sizeof(*t));
    *t = (struct ec2_template){.next = p->templates, .text = *text};
    return p->templates = t;
}

static void on_template(const struct aws_reply *r, void *arg)
{
    struct ec2_machine *m = arg;
    m->call = NULL;
    /* There already: made by another launch of ours, or by the process before. */
    if (r->failure == PROVIDER_FINE || strcmp(r->code, "InvalidLaunchTemplateName.AlreadyExistsException") == 0) {
        m->template->made = true;
        ec2_machine_begin(m, STEP_TRY, 0);
        return;
    }
    ec2_machine_gone(m, r->failure, "launch template: %s", r->text);
}

static void make_template(struct ec2_machine *m)
{
    struct aws_form f = {.text = {.data = m->template->text.body.data, .len = m->template->text.body.len}};
    struct aws_call_options o = {.deadline_ms = m->p->call_ms};
    if (m->template->made) {
        ec2_machine_begin(m, STEP_TRY, 0);
        return;
    }
    m->call = aws_call_start(m->p->client, &f, &o, on_template, m);
}

/* ---- attempts --------------------------------------------------------------------------------------------------- */

/* Offers may go into one call while they are of one market; RunInstances takes one. */
static int together(const struct ec2_machine *m, int first, bool run)
{
    struct ec2_offer a, b;
    int n = 1;
    ec2_offer_parse(m->offers[first], &a);
    while (!run && first + n < m->n_offers && ec2_offer_parse(m->offers[first + n], &b) && b.market == a.market)
        n++;
    return n;
}

static void plan_attempts(struct ec2_machine *m, const struct provider_spec *s)
{
    const char *api = provider_setting(s->settings, "api");
    const bool run = api && strcmp(api, "run") == 0;
    m->attempts = spw_calloc(EC2_ATTEMPTS_MAX, sizeof m->attempts[0]);
    for (int i = 0; i < m->n_offers && m->n_attempts < EC2_ATTEMPTS_MAX;) {
        struct ec2_attempt *a = &m->attempts[m->n_attempts];
        char token[EC2_TOKEN_BYTES];
        *a = (struct ec2_attempt){.first = i, .n = together(m, i, run)};
        ec2_attempt_token(m->token, m->n_attempts++, token);
        ec2_launch_form(&a->form, s, m->p->owner, m->template->text.name, (const char *const *)m->offers + i, a->n,
                        token);
        i += a->n;
    }
}

/* The offers that are not cold, in the order given. */
static void take_offers(struct ec2_machine *m, const struct provider_spec *s)
{
    bool quota = false;
    m->offers = spw_calloc((size_t)s->n_offers, sizeof m->offers[0]);
    m->on_demand = spw_calloc((size_t)s->n_offers, sizeof m->on_demand[0]);
    m->failure = PROVIDER_NO_CAPACITY;
    for (int i = 0; i < s->n_offers; i++) {
        struct ec2_offer o;
        if (ec2_cold_ms(m->p, s->offers[i], &quota) > 0) {
            if (quota)
                m->failure = PROVIDER_QUOTA;
            continue;
        }
        ec2_offer_parse(s->offers[i], &o);
        m->on_demand[m->n_offers] = ec2_listed_price(m->p, s->settings, o.type, o.type_n);
        m->offers[m->n_offers++] = spw_strdup(s->offers[i]);
    }
    if (m->n_offers > 0)
        m->failure = PROVIDER_NO_CAPACITY;
    else
        snprintf(m->reason, sizeof m->reason, "every offer is being left alone: %s",
                 m->failure == PROVIDER_QUOTA ? "a quota was met" : "no capacity was there a while ago");
}

static bool is_offer_of(const char *offer, const struct ec2_fleet_error *f)
{
    struct ec2_offer o;
    return ec2_offer_parse(offer, &o) &&
           (!*f->type || (strlen(f->type) == o.type_n && !strncmp(f->type, o.type, o.type_n))) &&
           (!*f->zone || (strlen(f->zone) == o.zone_n && !strncmp(f->zone, o.zone, o.zone_n)));
}

/* What an offer could not be had for. A quota or a denial of all goes before a lack of one: it is what a person must
 * know. */
static void note_failure(struct ec2_machine *m, const char *code, const char *message, const struct ec2_fleet_error *f)
{
    const struct ec2_attempt *a = &m->attempts[m->attempt];
    const struct aws_error_kind *kind = aws_error_find(code, 400);
    for (int i = a->first; i < a->first + a->n; i++) {
        if (!is_offer_of(m->offers[i], f))
            continue;
        if (kind->failure == PROVIDER_QUOTA)
            ec2_mark_quota(m->p, m->offers[i]);
        else if (kind->failure == PROVIDER_NO_CAPACITY || kind->failure == PROVIDER_INVALID)
            ec2_mark_cold(m->p, m->offers[i]);
    }
    if (m->failure == PROVIDER_NO_CAPACITY || kind->failure == PROVIDER_QUOTA || kind->failure == PROVIDER_DENIED) {
        m->failure = kind->failure;
        snprintf(m->reason, sizeof m->reason, "%.60s: %.180s", code, message);
    }
}

static void on_fleet_error(const struct ec2_fleet_error *f, void *arg)
{
    note_failure(arg, f->code, f->message, f);
}

static void next_attempt(struct ec2_machine *m)
{
    if (m->ending) {
        ec2_machine_gone(m, PROVIDER_ENDED, "ended before it was launched");
    } else if (m->attempt + 1 < m->n_attempts) {
        m->attempt++;
        ec2_machine_begin(m, STEP_TRY, 0);
    } else {
        char why[256];
        snprintf(why, sizeof why, "%s", *m->reason ? m->reason : "no capacity");
        ec2_machine_gone(m, m->failure, "%s", why);
    }
}

static void on_extra_ended(enum provider_failure failure, const char *text, void *arg)
{
    (void)failure; /* the sweep finds it by its tag if it is still there */
    (void)text;
    (void)arg;
}

static int launched_ids(struct ec2_machine *m, const struct aws_reply *r, const char **ids)
{
    int n = ec2_answer_fleet(r->root, ids, FLEET_IDS_MAX, on_fleet_error, m);
    const char *one = xml_text(r->root, "instancesSet/item/instanceId"); /* RunInstances */
    if (n == 0 && *one)
        ids[n++] = one;
    return n < FLEET_IDS_MAX ? n : FLEET_IDS_MAX;
}

static void take_launch(struct ec2_machine *m, const struct aws_reply *r)
{
    const char *ids[FLEET_IDS_MAX];
    int n = launched_ids(m, r, ids);
    for (int i = 1; i < n; i++) { /* asked for one: what is more than that is nobody's */
        log_warn(m->p->env.log, "provider", "more instances than asked for, ended", LOG_S("node", m->name),
                 LOG_S("id", ids[i]));
        ec2_terminate_id(&m->p->base, ids[i], on_extra_ended, NULL);
    }
    if (n > 0) {
        ec2_machine_known(m, ids[0]);
        return;
    }
    if (!xml_find(r->root, "errorSet/item")) { /* nothing, and no word why */
        static const struct ec2_fleet_error any = {"", "", "", "", ""};
        note_failure(m, "InsufficientInstanceCapacity", "an answer without an instance", &any);
    }
    next_attempt(m);
}

/* Its tag tells whether it is there. */
static void find_out(struct ec2_machine *m, enum provider_failure if_not, const char *text)
{
    snprintf(m->reason, sizeof m->reason, "%s", text);
    m->if_not_found = if_not;
    m->find_until = ec2_after(m->p, FIND_POLLS * m->p->poll_ms);
    ec2_machine_begin(m, STEP_FIND, m->p->poll_ms / 10);
}

static void on_attempt(const struct aws_reply *r, void *arg)
{
    static const struct ec2_fleet_error any = {"", "", "", "", ""};
    struct ec2_machine *m = arg;
    m->call = NULL;
    if (r->failure == PROVIDER_FINE) {
        take_launch(m, r);
    } else if (r->failure == PROVIDER_NO_CAPACITY || r->failure == PROVIDER_QUOTA) {
        note_failure(m, r->code, r->text, &any);
        next_attempt(m);
    } else if (r->too_early && m->template_tries++ < TEMPLATE_TRIES) {
        /* The template: not yet everywhere, or somebody deleted it. */
        m->template->made = false;
        ec2_machine_begin(m, STEP_TEMPLATE, 500);
    } else if (strcmp(r->code, "IdempotentParameterMismatch") == 0) {
        /* This token was used by the process before us, when other offers were cold: what it brought stands. */
        find_out(m, PROVIDER_NO_CAPACITY, r->text);
    } else if (r->failure == PROVIDER_UNREACHABLE || r->tries > 1) {
        find_out(m, r->failure, r->text); /* a try before this one may have launched it */
    } else if (m->ending) {
        next_attempt(m);
    } else {
        ec2_machine_gone(m, r->failure, "%s", r->text);
    }
}

static void try_it(struct ec2_machine *m)
{
    struct aws_call_options o = {.deadline_ms = m->p->call_ms};
    if (m->ending) {
        next_attempt(m);
        return;
    }
    m->call = aws_call_start(m->p->client, &m->attempts[m->attempt].form, &o, on_attempt, m);
}

/* ---- launch ----------------------------------------------------------------------------------------------------- */

static enum rc check_spec(struct ec2 *p, const struct provider_spec *s, struct error *e)
{
    struct ec2_offer o;
    if (ec2_machine_find(p, s->name))
        return error_set(e, RC_CONFLICT, "an instance named '%s' is there already", s->name);
    if (s->n_offers < 1 || s->n_offers > EC2_OFFERS_MAX)
        return error_set(e, RC_INVALID, "'%s' needs 1 to %d offers to launch", s->name, EC2_OFFERS_MAX);
    for (int i = 0; i < s->n_offers; i++) {
        if (!ec2_offer_parse(s->offers[i], &o))
            return error_set(e, RC_INVALID, "'%s' is no offer of EC2: they read ZONE/TYPE/spot or ZONE/TYPE/on-demand",
                             s->offers[i]);
    }
    if (s->join_token && strlen(s->join_token) > 256) /* a tag's bound */
        return error_set(e, RC_INVALID, "the join token is longer than the 256 bytes of a tag");
    return RC_OK;
}

enum rc ec2_launch(struct provider *base, const struct provider_spec *s, struct error *e)
{
    struct ec2 *p = ec2_self(base);
    struct ec2_template_text text = {0};
    enum rc rc = check_spec(p, s, e);
    if (rc == RC_OK)
        rc = ec2_template_text(&text, s, p->owner, e);
    if (rc != RC_OK)
        return rc;
    struct ec2_machine *m = ec2_machine_new(p, s);
    m->template = take_template(p, &text);
    take_offers(m, s);
    plan_attempts(m, s);
    const char *types = provider_setting(s->settings, "types");
    ec2_want_prices(p, types ? types : "");
    bool may_be_there = mono_since(p->env.clock, p->opened) < FIND_FIRST_MS * NS_PER_MS;
    ec2_machine_begin(m, may_be_there ? STEP_FIND : STEP_TEMPLATE, 0);
    return RC_OK;
}

/* ---- the end ---------------------------------------------------------------------------------------------------- */

static void on_ended(const struct aws_reply *r, void *arg)
{
    struct ec2_machine *m = arg;
    bool early = r->too_early && mono_since(m->p->env.clock, m->known) < EARLY_MS * NS_PER_MS;
    m->call = NULL;
    if (r->failure == PROVIDER_FINE) {
        m->ended = true;
        if (!m->ended_s) /* until the poll tells exactly */
            m->ended_s = clock_wall(m->p->env.clock).ns / NS_PER_S;
        m->step = STEP_WATCH;
        m->missed = 0;
        m->round = m->p->round;
        ec2_poll_soon(m->p);
    } else if (r->too_early && !early) {
        ec2_machine_gone(m, PROVIDER_ENDED, "ended by us");
    } else if (early) {
        ec2_machine_begin(m, STEP_END, EARLY_WAIT_MS);
    } else {
        m->step = STEP_WATCH; /* still there, as far as we know: whoever asked may ask again */
        tell_waiters(m, r->failure, r->text);
    }
}

static void end_it(struct ec2_machine *m)
{
    struct aws_form f;
    const char *id = m->id;
    ec2_terminate_form(&f, &id, 1);
    m->call = ec2_call(m->p, &f, on_ended, m);
}

enum rc ec2_terminate(struct provider *base, const char *name, int64_t grace_ms, provider_done_cb *cb, void *arg)
{
    struct ec2_machine *m = ec2_machine_find(ec2_self(base), name);
    (void)grace_ms; /* the machine's own shutdown is the kindness: the engine gets its SIGTERM from there */
    if (!m)
        return RC_NOT_FOUND;
    struct ec2_waiter *w = spw_calloc(1, sizeof(*w));
    *w = (struct ec2_waiter){.next = m->waiters, .cb = cb, .arg = arg};
    m->waiters = w;
    bool again = m->ending;
    m->ending = true;
    m->state = INSTANCE_STOPPING;
    if (m->id && (!again || (m->step == STEP_WATCH && !m->call))) {
        if (m->call)
            aws_call_cancel(m->call);
        m->call = NULL;
        ec2_machine_begin(m, STEP_END, 0);
    } else if (!m->id && m->call && m->step == STEP_TEMPLATE) { /* nothing was launched yet */
        aws_call_cancel(m->call);
        m->call = NULL;
        ec2_machine_begin(m, STEP_TRY, 0);
    }
    return RC_OK;
}

static void on_id_ended(const struct aws_reply *r, void *arg)
{
    struct ec2_question *q = arg;
    q->call = NULL;
    bool gone = r->failure == PROVIDER_FINE || r->too_early;
    ec2_question_answer(q, gone ? PROVIDER_FINE : r->failure, gone ? "" : r->text);
}

enum rc ec2_terminate_id(struct provider *base, const char *id, provider_done_cb *cb, void *arg)
{
    struct ec2 *p = ec2_self(base);
    struct aws_form f;
    if (strncmp(id, "i-", 2) != 0)
        return RC_INVALID;
    struct ec2_question *q = ec2_ask(p, cb, arg);
    ec2_terminate_form(&f, &id, 1);
    q->call = ec2_call(p, &f, on_id_ended, q);
    return RC_OK;
}

static void on_step(evutil_socket_t fd, short what, void *arg)
{
    struct ec2_machine *m = arg;
    (void)fd;
    (void)what;
    switch (m->step) {
    case STEP_FIND: ec2_find_machine(m); return;
    case STEP_TEMPLATE:
        if (m->n_attempts == 0 || m->ending) {
            m->attempt = m->n_attempts;
            next_attempt(m);
        } else {
            make_template(m);
        }
        return;
    case STEP_TRY: try_it(m); return;
    case STEP_WATCH: return; /* polls do that */
    case STEP_END: end_it(m); return;
    }
}
