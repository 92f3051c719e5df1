/* The recorded requests under another configuration: a router of its own hears what the first one hears, but of nodes
 * what that configuration says of them. Nodes that are new there get numbers after the recorded ones; nobody is sent to
 * them, so they are judged by what is said of them. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "scheduler/simulate/replay_internal.h"

#define NEW_NODES_MAX 64
#define US_PER_S      INT64_C(1000000)

struct other {
    struct router *router;
    struct replay_legs legs;
    struct replay_models models; /* its ids are not the recorded ones */
    bool looked;                 /* for new nodes */
    int32_t first_new, n_new;
    const char *new_names[NEW_NODES_MAX]; /* borrowed */
    int64_t tariff_until_s;
    /* of the decision that was heard last */
    bool decided;
    int32_t was, would; /* nodes; would -1: nobody */
    struct route_terms was_terms, would_terms;
    double stay; /* money of `was` here; -1: not known */
};

void other_free(struct other *o)
{
    if (!o)
        return;
    router_free(o->router);
    replay_legs_clear(&o->legs);
    free(o);
}

/* ---- which nodes are new ----------------------------------------------------------------------------------------- */

static bool is_known(const struct replay *x, const char *name)
{
    for (int i = 0; i < x->n_known; i++)
        if (strcmp(x->known[i], name) == 0)
            return true;
    return false;
}

/* Lines that can't be read are told of when it is their turn. */
enum rc other_look_ahead(struct replay *x)
{
    struct error ignored;
    char *text;
    size_t n;
    enum rc rc;
    while ((rc = lines_next(&x->lines, &text, &n, x->e)) == RC_OK) {
        if (!strstr(text, "\"event\":\"node\"") || record_read(text, n, &x->event, x->candidates, &ignored) != RC_OK ||
            x->event.kind != RECORD_NODE || is_known(x, x->event.u.named.name))
            continue;
        x->known = spw_realloc(x->known, (size_t)(x->n_known + 1) * sizeof *x->known);
        memcpy(x->known[x->n_known++], x->event.u.named.name, RECORD_NAME_BYTES);
    }
    return rc == RC_NOT_FOUND ? lines_rewind(&x->lines, x->e) : rc;
}

/* was: as it was recorded, with what the node said of itself; NULL: it was not there. */
static void put(struct replay *x, int32_t node, const char *name, const struct router_facts *was)
{
    struct router_facts f = {0};
    if (!x->asked->facts(x->asked->arg, name, &x->other->models, &f)) {
        router_drop(x->other->router, node);
        return;
    }
    if (was) {
        f.sequences = f.sequences ? f.sequences : was->sequences;
        f.kv_tokens = f.kv_tokens ? f.kv_tokens : was->kv_tokens;
    }
    router_put(x->other->router, node, &f);
}

static void put_new_ones(struct replay *x)
{
    const struct router_state ready = {.state = SHORTLIST_READY};
    struct other *o = x->other;
    const char *name;
    o->looked = true;
    for (int i = 0; o->n_new < NEW_NODES_MAX && (name = x->asked->node(x->asked->arg, i)); i++) {
        if (is_known(x, name))
            continue;
        const int32_t node = o->first_new + o->n_new;
        put(x, node, name, NULL);
        if (router_has(o->router, node)) {
            o->new_names[o->n_new++] = name;
            router_state(o->router, node, &ready);
        }
    }
}

enum rc other_begin(struct replay *x)
{
    struct other *o = x->other = spw_calloc(1, sizeof *o);
    struct error why;
    o->first_new = x->begin.nodes;
    const struct router_size size = {x->begin.nodes + NEW_NODES_MAX, x->begin.pairs, x->begin.probability};
    if (router_new(&o->router, &size, &why) != RC_OK)
        return replay_wrong(x, "%s", why.message);
    return RC_OK;
}

static int own_model(struct replay *x, int model)
{
    return replay_model_id(&x->other->models, x->models.names[model]);
}

/* ---- deciding ---------------------------------------------------------------------------------------------------- */

static void learn_tariff(struct replay *x)
{
    struct other *o = x->other;
    const int64_t now_s = (x->begin.wall_us + x->event.at_us) / US_PER_S;
    if (now_s < o->tariff_until_s)
        return;
    const int64_t price = x->asked->tariff(x->asked->arg, now_s, &o->tariff_until_s);
    for (int site = 0; site < ROUTER_SITES_MAX; site++)
        router_tariff(o->router, site, price);
}

static const struct record_candidate *recorded(const struct replay *x, int32_t node)
{
    for (int32_t i = 0; i < x->event.u.choice.n; i++)
        if (x->candidates[i].node == node)
            return &x->candidates[i];
    return NULL;
}

/* Its model and its price are this configuration's; the rest of what the daemon knew holds for it as well. */
static void callers_part(const struct record_candidate *was, struct route_candidate *c)
{
    const bool serves = c->serves_model;
    const int64_t cached = c->cached_tokens;
    if (!was)
        return;
    router_callers_part(&was->c, c);
    c->serves_model = serves;
    c->cached_tokens = cached;
}

static int32_t candidates(struct replay *x, const struct router_ask *ask, int32_t nodes[RECORD_CANDIDATES_MAX])
{
    struct other *o = x->other;
    const struct record_choice *was = &x->event.u.choice;
    int32_t n = 0;
    if (was->listed)
        return router_list(o->router, ask, nodes);
    for (int32_t i = 0; i < was->n; i++)
        if (router_has(o->router, x->candidates[i].node))
            nodes[n++] = x->candidates[i].node;
    for (int32_t i = 0; i < o->n_new && n < RECORD_CANDIDATES_MAX; i++)
        nodes[n++] = o->first_new + i;
    return n;
}

static void decide(struct replay *x)
{
    struct other *o = x->other;
    const struct record_choice *was = &x->event.u.choice;
    int32_t nodes[RECORD_CANDIDATES_MAX];
    struct route_candidate c[RECORD_CANDIDATES_MAX];
    struct route_decision d;
    struct router_ask ask;
    struct route_request q = was->q;
    learn_tariff(x);
    x->asked->aim(x->asked->arg, &was->who, &q);
    record_ask(was, &ask);
    ask.request = &q;
    ask.model = own_model(x, was->model);
    const int32_t n = candidates(x, &ask, nodes);
    for (int32_t i = 0; i < n; i++) {
        router_candidate(o->router, &ask, nodes[i], &c[i]);
        callers_part(recorded(x, nodes[i]), &c[i]);
    }
    router_choose(o->router, &ask, nodes, c, n, &d);
    o->decided = was->chosen >= 0;
    if (!o->decided)
        return;
    o->was = x->candidates[was->chosen].node;
    o->stay = -1;
    for (int32_t i = 0; i < n; i++)
        if (nodes[i] == o->was && c[i].serves_model)
            o->stay = route_money(&q, &c[i]);
    o->was_terms = x->candidates[was->chosen].t;
    o->would = d.chosen >= 0 ? nodes[d.chosen] : -1;
    if (d.chosen >= 0)
        o->would_terms = d.terms[d.chosen];
}

/* ---- counting ---------------------------------------------------------------------------------------------------- */

static struct replay_node *count_of(struct replay *x, int32_t node)
{
    struct replay_under_other *u = &x->out->other;
    const int32_t new = node - x->other->first_new;
    const char *name = new >= 0 ? x->other->new_names[new] : x->names[node];
    for (int i = 0; i < u->n_nodes; i++)
        if (strcmp(u->nodes[i].name, name) == 0)
            return &u->nodes[i];
    if (u->n_nodes == REPLAY_NODES_MAX)
        return NULL;
    struct replay_node *n = &u->nodes[u->n_nodes++];
    strncat(n->name, name, sizeof n->name - 1);
    return n;
}

static void count_node(struct replay *x, int32_t node, int was, int would)
{
    struct replay_node *n = count_of(x, node);
    if (!n)
        return;
    n->was += was;
    n->would += would;
}

/* The request was sent, by the decision that was heard last. */
static void count(struct replay *x)
{
    const struct other *o = x->other;
    struct replay_under_other *u = &x->out->other;
    const struct route_terms *was = &o->was_terms, *would = &o->would_terms;
    u->sent++;
    count_node(x, o->was, 1, 0);
    if (o->would < 0) {
        u->nobody++;
        return;
    }
    count_node(x, o->would, 0, 1);
    u->elsewhere += o->would != o->was;
    u->money_was += was->money;
    u->money_would += would->money;
    u->stay += o->stay >= 0;
    u->money_stay += o->stay >= 0 ? o->stay : 0;
    if (was->time_us >= 0 && would->time_us >= 0) {
        u->timed++;
        u->us_was += was->time_us;
        u->us_would += would->time_us;
    }
    if (was->energy_mj >= 0 && would->energy_mj >= 0) {
        u->metered++;
        u->mj_was += was->energy_mj;
        u->mj_would += would->energy_mj;
    }
}

/* ---- hearing ----------------------------------------------------------------------------------------------------- */

static void sent(struct replay *x)
{
    struct other *o = x->other;
    const struct record_event *e = &x->event;
    struct router_leg leg = {.node = -1};
    struct router_work work = e->u.sent.work;
    work.model = own_model(x, work.model);
    if (o->decided && o->was == e->node)
        count(x);
    if (router_has(o->router, e->node))
        router_sent(o->router, e->node, &work, &leg);
    replay_legs_add(&o->legs, &leg);
}

void other_hear(struct replay *x)
{
    struct other *o = x->other;
    const struct record_event *e = &x->event;
    struct router_event again;
    struct router_leg none = {.node = -1};
    record_give(e, &again);
    switch ((int)e->kind) {
    case ROUTER_PUT:
        if (!o->looked)
            put_new_ones(x);
        put(x, e->node, x->names[e->node], again.u.facts);
        break;
    case ROUTER_STATE:
    case ROUTER_FORGET:
    case ROUTER_DROP:
    case ROUTER_LIKE:
        if (router_has(o->router, e->node))
            router_apply(o->router, &again, &none);
        break;
    case ROUTER_SENT: sent(x); break;
    case ROUTER_SPOKE:
    case ROUTER_ENDED: router_apply(o->router, &again, &o->legs.legs[e->u.heard.leg - 1]); break;
    case ROUTER_CHOSE: decide(x); return;
    case ROUTER_GROWING: router_growing(o->router, own_model(x, e->u.growing.model), e->u.growing.growing); break;
    default: break; /* the tariff is this configuration's, lists are asked for anew */
    }
    o->decided = false;
}
