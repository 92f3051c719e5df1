/* What is there: one DescribeInstances for all of ours every few seconds, the search for one token, the list for
 * sweeps. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "providers/ec2_internal.h"

#define PAGES_MAX   200
#define MISSED_MAX  3     /* polls in a row that do not know an instance ... */
#define MISSED_MS   90000 /* ... that is older than this: EC2 is consistent in the end */
#define ADOPT_POLLS 6     /* for so long a token that is adopted is looked for */

/* ---- one machine and what was said of it ------------------------------------------------------------------------- */

static bool replace(char **to, const char *text)
{
    if (*to && strcmp(*to, text) == 0)
        return false;
    free(*to);
    *to = spw_strdup(text);
    return true;
}

static char *offer_of(const struct ec2_instance *i)
{
    return spw_asprintf("%s/%s/%s", i->zone, i->type, i->market == PROVIDER_SPOT ? "spot" : "on-demand");
}

static bool take_facts(struct ec2_machine *m, const struct ec2_instance *i)
{
    struct ec2_offer o;
    char *offer = offer_of(i);
    bool changed = replace(&m->offer, offer);
    free(offer);
    struct pusd on_demand = {0}, price = {0};
    for (int k = 0; k < m->n_offers; k++) {
        struct ec2_offer mine;
        if (ec2_offer_parse(m->offers[k], &mine) && strlen(i->type) == mine.type_n &&
            strncmp(i->type, mine.type, mine.type_n) == 0)
            on_demand = m->on_demand[k];
    }
    if (ec2_offer_parse(m->offer, &o))
        price = ec2_price_of(m->p, &o, on_demand, &m->price_at_s);
    if (price.v > 0 && price.v != m->price.v) {
        m->price = price;
        changed = true;
    }
    if (i->launched_s)
        m->launched_s = i->launched_s;
    if (i->launched_s && i->market == PROVIDER_SPOT) { /* no pool may name its type any more */
        ec2_want_prices(m->p, i->type);
        ec2_want_history(m->p, i->launched_s);
    }
    const char *host = m->public_address ? i->public_ip : i->private_ip;
    return (*host && replace(&m->host, host)) || changed;
}

static void ended(struct ec2_machine *m, const struct ec2_instance *i)
{
    enum provider_failure failure = m->ending ? PROVIDER_ENDED : aws_end_reason(i->reason_code);
    if (i->ended_s)
        m->ended_s = i->ended_s;
    if ((failure == PROVIDER_TAKEN_BACK || failure == PROVIDER_NO_CAPACITY) && m->offer)
        ec2_mark_cold(m->p, m->offer);
    if (m->ending)
        ec2_machine_gone(m, failure, "ended by us");
    else
        ec2_machine_gone(m, failure, "%s%s%s", *i->reason_code ? i->reason_code : "ended", *i->reason ? ": " : "",
                         i->reason);
}

static void update(struct ec2_machine *m, const struct ec2_instance *i)
{
    m->round = m->p->round;
    m->missed = 0;
    bool changed = take_facts(m, i);
    if (i->state == EC2_ENDED) {
        ended(m, i);
    } else if (m->ending) {
        return;
    } else if (i->state == EC2_STOPPED) { /* by somebody: ours never stop, and its disk still costs */
        snprintf(m->reason, sizeof m->reason, "it was stopped by somebody");
        ec2_terminate(&m->p->base, m->name, 0, NULL, NULL);
    } else if (i->state == EC2_RUNNING && m->host && (m->state != INSTANCE_RUNNING || changed)) {
        ec2_machine_enter(m, INSTANCE_RUNNING);
    } else if ((changed || !m->told) && m->state == INSTANCE_STARTING) {
        ec2_machine_enter(m, INSTANCE_STARTING);
    }
}

/* ---- the poll --------------------------------------------------------------------------------------------------- */

static bool any_moves(const struct ec2 *p)
{
    for (const struct ec2_machine *m = p->machines; m; m = m->next) {
        if (m->id && (m->state == INSTANCE_STARTING || m->ending))
            return true;
    }
    return false;
}

static void arm_poll(struct ec2 *p, int64_t ms)
{
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    if (!p->poll_call)
        evtimer_add(p->poll_timer, &tv);
}

void ec2_poll_soon(struct ec2 *p)
{
    arm_poll(p, p->poll_ms / 10);
}

static void on_instance(const struct ec2_instance *i, void *arg)
{
    struct ec2 *p = arg;
    for (struct ec2_machine *m = p->machines; m; m = m->next) {
        if (m->id && strcmp(m->id, i->id) == 0) {
            update(m, i);
            return;
        }
    }
}

static bool is_lost(const struct ec2_machine *m)
{
    if (m->ended && m->missed > 0)
        return true;
    return m->missed >= MISSED_MAX && mono_since(m->p->env.clock, m->known) > MISSED_MS * NS_PER_MS;
}

static void on_tagged(const struct aws_reply *r, void *arg)
{
    struct ec2_machine *m = arg;
    m->call = NULL;
    if (r->failure != PROVIDER_FINE && !r->too_early)
        log_warn(m->p->env.log, "provider", "adopted instance could not be tagged", LOG_S("node", m->name),
                 LOG_S("why", r->text));
}

/* Polls go by our owner tag: one that they do not show was launched by somebody else, and becomes ours by the tag. */
static void tag_adopted(struct ec2_machine *m)
{
    struct aws_form f;
    if (m->tagged || m->missed != 1 || m->n_attempts > 0 || m->call)
        return;
    m->tagged = true;
    ec2_tag_form(&f, m->id, m->p->owner, m->name, m->token, m->pool);
    m->call = ec2_call(m->p, &f, on_tagged, m);
    ec2_poll_soon(m->p);
}

/* After a whole round: those that nobody knows any more. on_change may change the list, so one at a time. */
static void end_round(struct ec2 *p)
{
    for (struct ec2_machine *m = p->machines; m; m = m->next) {
        m->missed += m->id && m->round != p->round;
        tag_adopted(m);
    }
    for (struct ec2_machine *m = p->machines; m;) {
        struct ec2_machine *next = m->next;
        if (is_lost(m)) {
            ec2_machine_gone(m, PROVIDER_ENDED, m->ended ? "ended by us" : "EC2 does not know it any more");
            next = p->machines; /* from the start: anything may have happened */
        }
        m = next;
    }
}

static void on_page(const struct aws_reply *r, void *arg);

static void ask_page(struct ec2 *p, const char *next)
{
    struct aws_form f;
    ec2_describe_form(&f, EC2_TAG_OWNER, p->owner, false, next);
    p->poll_call = ec2_call(p, &f, on_page, p);
}

static void on_page(const struct aws_reply *r, void *arg)
{
    struct ec2 *p = arg;
    p->poll_call = NULL;
    if (r->failure != PROVIDER_FINE) {
        log_warn(p->env.log, "provider", "instances could not be looked at", LOG_S("provider", p->env.name),
                 LOG_S("failure", provider_failure_name(r->failure)), LOG_S("why", r->text));
        arm_poll(p, p->poll_ms);
        return;
    }
    const char *next;
    ec2_answer_instances(r->root, on_instance, p, &next);
    if (*next && ++p->pages < PAGES_MAX) {
        ask_page(p, next);
        return;
    }
    if (!*next)
        end_round(p);
    arm_poll(p, any_moves(p) ? p->poll_ms / 5 : p->poll_ms);
}

void ec2_on_poll(evutil_socket_t fd, short what, void *arg)
{
    struct ec2 *p = arg;
    bool any = false;
    (void)fd;
    (void)what;
    for (const struct ec2_machine *m = p->machines; m; m = m->next)
        any |= m->id != NULL;
    if (!any || p->poll_call) /* ec2_poll_soon() begins it again */
        return;
    p->round++;
    p->pages = 0;
    ask_page(p, NULL);
}

/* ---- one token -------------------------------------------------------------------------------------------------- */

struct search {
    char id[64];
    bool alive;
};

/* The one that runs, if there are several with this token; the sweep ends the others. */
static void on_candidate(const struct ec2_instance *i, void *arg)
{
    struct search *s = arg;
    if (s->alive || (s->id[0] && i->state == EC2_ENDED))
        return;
    s->alive = i->state != EC2_ENDED;
    snprintf(s->id, sizeof s->id, "%s", i->id);
}

static void not_found(struct ec2_machine *m)
{
    /* It was not there, as expected. */
    bool first_launch = m->n_attempts > 0 && m->attempt == 0 && m->if_not_found == PROVIDER_ENDED && !m->ending;
    if (!ec2_is_past(m->p, m->find_until)) {
        ec2_machine_begin(m, STEP_FIND, m->p->poll_ms / 3);
    } else if (first_launch || (m->n_offers == 0 && m->template)) {
        ec2_machine_begin(m, STEP_TEMPLATE, 0); /* without offers it tells why there is nothing to try */
    } else {
        char why[200];
        snprintf(why, sizeof why, "%.180s", *m->reason ? m->reason : "it was never launched");
        ec2_machine_gone(m, m->ending ? PROVIDER_ENDED : m->if_not_found, "%s", why);
    }
}

static void find_page(struct ec2_machine *m, const char *next);

static void on_found(const struct aws_reply *r, void *arg)
{
    struct ec2_machine *m = arg;
    struct search s = {.id = ""};
    const char *next = "";
    m->call = NULL;
    if (r->failure != PROVIDER_FINE) {
        snprintf(m->reason, sizeof m->reason, "%.200s", r->text);
        if (r->failure == PROVIDER_DENIED || r->failure == PROVIDER_INVALID) {
            char why[200];
            snprintf(why, sizeof why, "%.190s", r->text);
            ec2_machine_gone(m, r->failure, "%s", why);
        } else {
            ec2_machine_begin(m, STEP_FIND, m->p->poll_ms / 3); /* until somebody ends it: not to know is no answer */
        }
        return;
    }
    ec2_answer_instances(r->root, on_candidate, &s, &next);
    if (s.id[0])
        ec2_machine_known(m, s.id);
    else if (*next) /* a filtered page may be empty, and not the last */
        find_page(m, next);
    else
        not_found(m);
}

static void find_page(struct ec2_machine *m, const char *next)
{
    struct aws_form f;
    ec2_describe_form(&f, EC2_TAG_TOKEN, m->token, false, next);
    m->call = ec2_call(m->p, &f, on_found, m);
}

void ec2_find_machine(struct ec2_machine *m)
{
    find_page(m, NULL);
}

/* A machine for an instance that is there: with what is known of it, and of one offer, for its price. */
static struct ec2_machine *adopted(struct ec2 *p, const struct provider_spec *s, const struct provider_instance *known)
{
    struct ec2_machine *m = ec2_machine_new(p, s);
    const char *types = provider_setting(s->settings, "types");
    struct ec2_offer o;
    ec2_want_prices(p, types ? types : "");
    if (!known)
        return m;
    m->launched_s = known->launched_at_s;
    m->price = known->price_hour;
    if (!known->offer || !*known->offer)
        return m;
    m->offer = spw_strdup(known->offer);
    m->offers = spw_calloc(1, sizeof m->offers[0]);
    m->on_demand = spw_calloc(1, sizeof m->on_demand[0]);
    if (ec2_offer_parse(m->offer, &o)) {
        m->on_demand[0] = ec2_listed_price(p, s->settings, o.type, o.type_n);
        m->offers[m->n_offers++] = spw_strdup(m->offer);
    }
    return m;
}

enum rc ec2_adopt(struct provider *base, const struct provider_spec *s, const struct provider_instance *known,
                  struct error *e)
{
    struct ec2 *p = ec2_self(base);
    const char *id = known ? known->id : NULL, *token = known && known->token ? known->token : s->token;
    if (ec2_machine_find(p, s->name))
        return error_set(e, RC_CONFLICT, "an instance named '%s' is there already", s->name);
    if ((!id || !*id) && (!token || !*token))
        return error_set(e, RC_INVALID, "'%s' can be adopted by the instance's id, or the token it was launched with",
                         s->name);
    if (id && *id && (strncmp(id, "i-", 2) != 0 || strlen(id) > 60))
        return error_set(e, RC_INVALID, "'%.60s' is no id of an EC2 instance: they begin with i-", id);
    struct provider_spec mine = *s;
    mine.token = token ? token : "";
    struct ec2_machine *m = adopted(p, &mine, known);
    m->find_until = ec2_after(p, ADOPT_POLLS * p->poll_ms);
    if (!id || !*id) {
        ec2_machine_begin(m, STEP_FIND, 0);
        return RC_OK;
    }
    m->id = spw_strdup(id);
    m->known = clock_now(p->env.clock);
    m->step = STEP_WATCH;
    ec2_poll_soon(p);
    return RC_OK;
}

void ec2_forget(struct provider *base, const char *name)
{
    struct ec2 *p = ec2_self(base);
    for (struct ec2_machine **link = &p->machines; *link; link = &(*link)->next) {
        struct ec2_machine *m = *link;
        if (strcmp(m->name, name) == 0) {
            *link = m->next;
            ec2_machine_free(m);
            return;
        }
    }
}

/* ---- the list --------------------------------------------------------------------------------------------------- */

static void on_listed(const struct ec2_instance *i, void *arg)
{
    const struct ec2_question *q = arg;
    struct provider_instance out = {
        .name = *i->name ? i->name : NULL,
        .state = i->state == EC2_PENDING ? INSTANCE_STARTING : INSTANCE_RUNNING,
        .host = i->private_ip,
        .reason = "",
        .id = i->id,
        .token = *i->token ? i->token : NULL,
        .pool = *i->pool ? i->pool : NULL,
        .launched_at_s = i->launched_s,
    };
    struct ec2_offer o;
    char *offer = offer_of(i);
    if (i->state == EC2_ENDED) {
        free(offer);
        return;
    }
    out.offer = offer;
    for (const struct ec2_machine *m = q->p->machines; m; m = m->next) {
        if (!m->id || strcmp(m->id, i->id) != 0)
            continue;
        out.state = m->state;
        out.price_hour = m->price;
        out.port = m->port;
        out.host = m->host;
    }
    if (out.price_hour.v == 0 && ec2_offer_parse(offer, &o))
        out.price_hour = ec2_price_of(q->p, &o, (struct pusd){0}, NULL);
    q->each_instance(&out, q->arg);
    free(offer);
}

static void on_list_page(const struct aws_reply *r, void *arg);

static void ask_list_page(struct ec2_question *q, const char *next)
{
    struct aws_form f;
    ec2_describe_form(&f, EC2_TAG_OWNER, q->p->owner, true, next);
    q->call = ec2_call(q->p, &f, on_list_page, q);
}

static void on_list_page(const struct aws_reply *r, void *arg)
{
    struct ec2_question *q = arg;
    const char *next = "";
    q->call = NULL;
    if (r->failure == PROVIDER_FINE)
        ec2_answer_instances(r->root, on_listed, q, &next);
    if (r->failure != PROVIDER_FINE)
        ec2_question_answer(q, r->failure, r->text);
    else if (*next && ++q->pages >= PAGES_MAX)
        ec2_question_answer(q, PROVIDER_UNREACHABLE, "the list has no end");
    else if (*next)
        ask_list_page(q, next);
    else
        ec2_question_answer(q, PROVIDER_FINE, "");
}

void ec2_list(struct provider *base, provider_instance_cb *each, provider_done_cb *done, void *arg)
{
    struct ec2_question *q = ec2_ask(ec2_self(base), done, arg);
    q->each_instance = each;
    ask_list_page(q, NULL);
}
