/* Requests under way: from a snapshot to a node, one leg (leg.c) after the other, until somebody has answered. */
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "scheduler/front/front_internal.h"

#define ANSWER_BYTES_MAX ((size_t)64 << 20) /* a whole answer is held until its row is durable */
#define OUT_BYTES_MAX    ((size_t)80 << 20)
#define SEED_BITS        53 /* what a JSON number holds exactly */

void request_arm(struct request *r, int64_t ms)
{
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = (ms % 1000) * 1000};
    event_add(r->timer, &tv);
}

const struct model *request_model(const struct request *r)
{
    return r->served ? r->served : r->model->chain[0];
}

void request_observe_all(const struct request *r, const struct node_spec *node, const struct route_value *values, int n)
{
    if (!r->lane->front->routes)
        return;
    struct route_labels labels = {.operation = request_traits(r->body.kind)->operation,
                                  .model = r->room->model,
                                  .node = node ? node->config->name : "cache"};
    route_metrics_observe_all(r->lane->front->routes, &labels, values, n);
}

void request_observe(const struct request *r, const struct node_spec *node, enum route_metric what, int64_t value)
{
    if (value >= 0)
        request_observe_all(r, node, &(struct route_value){what, value}, 1);
}

void request_note_first_byte(struct request *r)
{
    const struct clock *clock = r->lane->front->o.clock;
    r->first_byte = clock_wall(clock);
    r->ttft_ns = mono_since(clock, r->arrived);
    request_observe(r, r->leg.node ? r->slot.spec : NULL, ROUTE_TTFT, r->ttft_ns);
}

/* Requests that are over lend their memory to those to come: the struct, its timer, and buffers that are not large. The
 * address sanitizer shall see who touches one that is over. */
#if defined(__SANITIZE_ADDRESS__)
#define SPARE_MAX 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SPARE_MAX 0
#endif
#endif
#ifndef SPARE_MAX
#define SPARE_MAX 64 /* per lane */
#endif
#define SPARE_BYTES_MAX ((size_t)4 << 10) /* of one buffer */

static void request_timer(evutil_socket_t fd, short what, void *arg);

/* All zero but for the timer and the buffers, which are empty. */
static struct request *request_new(struct lane *l)
{
    struct request *r = TAILQ_FIRST(&l->spare);
    if (!r) {
        r = spw_calloc(1, sizeof(*r));
        r->timer = evtimer_new(l->loop, request_timer, r);
        strbuf_init(&r->answer, ANSWER_BYTES_MAX);
        strbuf_init(&r->out, OUT_BYTES_MAX);
        return r;
    }
    TAILQ_REMOVE(&l->spare, r, all);
    l->n_spare--;
    struct event *timer = r->timer;
    struct strbuf answer = r->answer, out = r->out;
    memset(r, 0, sizeof *r); /* in place: it is four KiB */
    r->timer = timer;
    r->answer = answer;
    r->out = out;
    return r;
}

static void request_destroy(struct request *r)
{
    strbuf_fini(&r->answer);
    strbuf_fini(&r->out);
    event_free(r->timer);
    free(r);
}

static void keep_small(struct strbuf *b)
{
    if (b->cap > SPARE_BYTES_MAX)
        strbuf_fini(b);
    else
        strbuf_clear(b);
}

static void request_put_by(struct lane *l, struct request *r)
{
    if (l->n_spare >= SPARE_MAX) {
        request_destroy(r);
        return;
    }
    event_del(r->timer);
    keep_small(&r->answer);
    keep_small(&r->out);
    TAILQ_INSERT_HEAD(&l->spare, r, all);
    l->n_spare++;
}

void requests_drop_spare(struct lane *l)
{
    struct request *r;
    while ((r = TAILQ_FIRST(&l->spare))) {
        TAILQ_REMOVE(&l->spare, r, all);
        request_destroy(r);
    }
    l->n_spare = 0;
}

void request_free(struct request *r)
{
    struct lane *l = r->lane;
    leg_drop(r, "cancelled");
    cached_fini(r);
    idempotency_fini(r);
    budgeted_fini(r);
    explained_fini(r);
    alone_release(r);
    stream_fini(&r->stream);
    trail_fini(&r->trail);
    whole_fini(&r->whole);
    free(r->legs);
    affinity_drop(&r->prefix);
    identity_unref(r->who);
    node_spec_unref(r->slot.spec);
    node_spec_unref(r->last);
    config_free(r->config);
    admit_settle(l->front, &r->ticket, 0); /* refused before any node had it */
    room_correct(r);
    TAILQ_REMOVE(&l->requests, r, all);
    request_put_by(l, r);
    lane_check_empty(l);
}

/* ---- when a leg has failed -------------------------------------------------------------------------------------- */

static enum api_code code_of(enum leg_fault fault)
{
    switch (fault) {
    case FAULT_TIMEOUT: return API_UPSTREAM_TIMEOUT;
    case FAULT_BUSY: return API_UPSTREAM_BUSY;
    case FAULT_ENDPOINT: return API_ENDPOINT_NOT_SERVED;
    case FAULT_AWAY: return API_NO_CAPACITY;
    default: return API_UPSTREAM;
    }
}

/* What a failure on this node means for the node, for the books and for trying it again. */
static void note_failure(struct request *r, struct node *node, enum leg_fault fault, const char *reason)
{
    struct lane *l = r->lane;
    /* An engine that breaks off is most likely gone: nobody is sent there until it answers again. */
    bool gone = fault == FAULT_CONNECT || (fault == FAULT_CUT && r->leg.died && r->leg.to_engine);
    log_warn(l->front->o.log, "dispatch", "a leg has failed", LOG_S("request_id", r->id), LOG_S("node", node->name),
             LOG_S("fault", leg_fault_name(fault)), LOG_S("reason", reason), LOG_B("after_first_byte", r->replied),
             LOG_I("attempts", r->attempts));
    metrics_add(l->metrics, METRIC_LEG_FAILURES, node->index, (int)fault, 1);
    if (fault == FAULT_AWAY) /* as it says itself, before the next probe would have told */
        node_failed(node, NODE_FAULT_AWAY, reason);
    else if (r->leg.put_off) /* it is well, and will be again */
        r->slot.word = (struct leg_word){.outcome = BREAKER_NO_WORD, .cool = true, .cool_us = r->leg.put_off_us};
    else if (fault == FAULT_ENDPOINT) /* which says nothing of what it is there for */
        node_lacks(node, r->body.kind);
    else if (node_failed(node, gone ? NODE_FAULT_CONNECT : NODE_FAULT_ANSWER, reason) || (!gone && !r->leg.stale))
        r->slot.word = (struct leg_word){.outcome = BREAKER_FAILED, .reason = reason};
    if (leg_has_progress(r)) {
        r->tried = 0;
        r->wait_forgiven_ns = r->waited_ns;
    }
    /* A node that took nothing, is started anew or cools down may be asked again once it is back; any other has had its
     * chance. */
    if (!gone && !r->leg.put_off && fault != FAULT_AWAY)
        r->tried |= UINT64_C(1) << node->index;
    api_error_set(&r->error, code_of(fault), NULL, "%s", "");
}

/* Was it being computed, and not merely queued? An engine says how many it computes at once; of others we know only
 * that they have begun to answer. */
static bool was_computed(const struct request *r)
{
    if (leg_has_progress(r) || r->leg.alone)
        return true;
    if (r->leg.to_engine && r->slot.card.slots > 0)
        return r->slot.position <= r->slot.card.slots;
    return r->leg.status == 200;
}

static void start_over(struct request *r)
{
    trail_reset(&r->trail);
    whole_reset(&r->whole);
    cached_restart(r);
    r->numerics[0] = '\0';
    r->cross_class = false;
}

static void count_retry(struct request *r)
{
    metrics_add(r->lane->metrics, METRIC_RETRIES, r->room->index, 0, 1);
}

/* May what a node has had already be sent again? Where somebody must find out whether it is poison no budget stands in
 * the way. */
static bool within_budget(struct request *r)
{
    if (r->survival.alone || retry_take(r->lane->front->nodes))
        return true;
    metrics_add(r->lane->metrics, METRIC_RETRIES_REFUSED, 0, 0, 1);
    return false;
}

/* Judged by survive.h. sent: a node has had it. False: r->error says why it ends here. */
static bool goes_on(struct request *r, const struct leg_end *end, bool sent)
{
    switch (survive_judge(&r->survival, end)) {
    case VERDICT_RETRY:
        if (sent && !within_budget(r))
            return false;
        count_retry(r);
        start_over(r); /* a role chunk at most */
        return true;
    case VERDICT_CONTINUE: return true;
    case VERDICT_GIVE_UP: return false;
    case VERDICT_POISON:
        log_error(r->lane->front->o.log, "dispatch", "nodes keep dying under this request: it is refused",
                  LOG_S("request_id", r->id), LOG_S("tenant", r->who->tenant), LOG_I("attempts", r->attempts));
        metrics_add(r->lane->metrics, METRIC_POISON, r->room->index, 0, 1);
        api_error_set(&r->error, API_POISON, NULL, "%s", "");
        return false;
    }
    return false;
}

bool request_can_continue(const struct request *r)
{
    const struct trail *t = &r->trail;
    bool known = !trail_has_said(t) || (t->ids_known && r->body.resumable) || t->text_known;
    return known && r->n_legs < LEGS_MAX && (r->x || idempotency_wants(r->idempotency));
}

/* Whoever is told "not now" is told when, in whole seconds. */
static void tell_when(struct request *r, int64_t us)
{
    if (us > 0)
        r->error.retry_after_s = (int)((us + 999999) / 1000000);
}

void leg_failed(struct request *r, enum leg_fault fault, const char *reason)
{
    struct node *node = r->leg.node;
    struct route_decision d;
    struct leg_end end = {
        .died = r->leg.died,
        .computed = was_computed(r),
        .alone = r->leg.alone,
        .progress = leg_has_progress(r),
        .said = r->replied || trail_has_said(&r->trail),
        .not_taken = fault == FAULT_AWAY,
        .retries_max = r->config->retries,
    };
    note_failure(r, node, fault, reason);
    leg_drop(r, leg_fault_name(fault));
    end.can_continue = request_can_continue(r);
    if (goes_on(r, &end, fault != FAULT_CONNECT && fault != FAULT_AWAY)) {
        dispatch(r);
        return;
    }
    if (fault == FAULT_BUSY)
        tell_when(r, slot_back_us(r, &d));
    settle_failed(r);
}

/* ---- choosing --------------------------------------------------------------------------------------------------- */

/* Nobody can take it, ever. Could somebody, if something of what is known about it were forgotten? */
static bool second_look(struct request *r)
{
    bool begun = r->replied || trail_has_said(&r->trail);
    if (r->tried && (begun || r->survival.alone)) { /* survive.h bounds how often */
        r->tried = 0;
        return true;
    }
    /* Of a whole answer the client has seen nothing yet: it may as well begin again. */
    if (begun && !r->replied && r->survival.retries < r->config->retries) {
        r->survival.retries++;
        count_retry(r);
        start_over(r);
        return true;
    }
    return false;
}

static void nobody(struct request *r, const struct route_decision *d)
{
    bool kept_home = false, too_dear = false;
    for (int i = 0; i < nodes_count(r->lane->front->nodes); i++) {
        kept_home = kept_home || d->reasons[i] == ROUTE_NOT_LOCAL;
        too_dear = too_dear || d->reasons[i] == ROUTE_TOO_DEAR;
    }
    if (kept_home && budgeted_explains(r)) /* sets the error */
        metrics_add(r->lane->metrics, METRIC_BUDGET_REFUSED, 0, 0, 1);
    else if (too_dear)
        bound_refused(r);
    else if (r->attempts == 0)
        api_error_set(&r->error, kept_home ? API_NO_LOCAL_CAPACITY : API_NO_CAPACITY, NULL, "%s", "");
    settle_failed(r);
}

static void count_start(struct request *r)
{
    struct lane *l = r->lane;
    struct front *f = l->front;
    if (r->attempts == 1) {
        counter_add(&l->accepted, 1);
        request_observe(r, r->leg.node ? r->slot.spec : NULL, ROUTE_ADDED,
                        mono_since(f->o.clock, r->arrived) - r->waited_ns);
    }
    if (!r->replied && !trail_has_said(&r->trail))
        return;
    r->continuations++;
    metrics_add(l->metrics, METRIC_CONTINUATIONS, r->room->index, 0, 1);
    log_info(f->o.log, "dispatch", "an answer goes on on another node", LOG_S("request_id", r->id),
             LOG_S("node", r->leg.node->name), LOG_I("ids", r->trail.n_ids), LOG_B("by_text", r->leg.by_text),
             LOG_B("alone", r->survival.alone));
}

/* All that could are held for longer than it may wait. What its last leg failed with, if there was one, says more. */
static void too_late(struct request *r, const struct route_decision *d)
{
    bool cooling = false;
    for (int i = 0; i < nodes_count(r->lane->front->nodes); i++)
        cooling = cooling || d->reasons[i] == ROUTE_COOLING_DOWN;
    if (r->attempts == 0)
        api_error_set(&r->error, cooling ? API_UPSTREAM_BUSY : API_NO_CAPACITY, NULL, "%s", "");
    tell_when(r, d->back_us);
    settle_failed(r);
}

/* It may not wait (v), or has waited for as long as it may (WAITING_IN). */
static void no_room(struct request *r, enum waiting_verdict v, int64_t back_us)
{
    room_explain(r, v);
    tell_when(r, back_us);
    settle_failed(r);
}

/* The node will hold the prompt from now on. */
static void note_sent(struct request *r)
{
    int64_t told = r->slot.card.kv_tokens, configured = r->slot.spec->config->kv_tokens;
    affinity_sent(r->lane->front->affinity, &r->prefix, r->leg.node->index, r->slot.generation,
                  told > 0 ? told : configured);
}

/* To the node whose slot it holds. False: nothing could be sent (the pool is full, the address gone, the request
 * unfit), and it is to look for another. */
static bool start_leg(struct request *r)
{
    struct node *node = r->slot.node;
    struct error e;
    if (leg_start(r, &e) == RC_OK) {
        note_sent(r);
        count_start(r);
        return true;
    }
    slot_return(r, SLOT_UNUSED);
    struct leg_end end = {.said = r->replied || trail_has_said(&r->trail),
                          .can_continue = request_can_continue(r),
                          .retries_max = r->config->retries};
    note_failure(r, node, FAULT_BUSY, e.message);
    if (goes_on(r, &end, false))
        return false;
    settle_failed(r);
    return true;
}

static bool use_slot(struct request *r)
{
    switch (budgeted_reserve(r)) {
    case BUDGETED_GO: return start_leg(r);
    case BUDGETED_AGAIN: return false;
    case BUDGETED_WAIT:
    case BUDGETED_OVER: break;
    }
    return true;
}

void dispatch_paid(struct request *r)
{
    if (!start_leg(r))
        dispatch(r);
}

void dispatch(struct request *r)
{
    struct route_decision d;
    enum waiting_verdict v;
    for (;;) {
        affinity_look(r->lane->front->affinity, &r->prefix);
        enum found found = slot_find(r, &d, &v);
        explained_note(r);
        switch (found) {
        case FOUND_SLOT:
            if (use_slot(r))
                return;
            break;
        case FOUND_ROOM: return;
        case FOUND_TOO_LATE: too_late(r, &d); return;
        case FOUND_NO_ROOM: no_room(r, v, d.back_us); return;
        case FOUND_NOBODY:
            if (second_look(r))
                break;
            nobody(r, &d);
            return;
        }
    }
}

void dispatch_granted(struct request *r)
{
    explained_note(r);
    if (!use_slot(r))
        dispatch(r);
}

/* ---- the request's own life ------------------------------------------------------------------------------------- */

/* It was not there long enough: what it was granted meanwhile goes to somebody else. */
static void leave_room(struct request *r)
{
    if (room_leave(r))
        slot_return(r, SLOT_UNUSED);
}

/* Whatever it waits for is told that it does not any more; a node stops at once. outcome: of the leg, for the ledger. */
static void let_go(struct request *r, const char *outcome)
{
    if (r->state == REQUEST_ASKING)
        cached_leave(r);
    else if (r->state == REQUEST_WAITING)
        leave_room(r);
    else if (r->state == REQUEST_RESERVING)
        budgeted_leave(r);
    else
        leg_drop(r, outcome);
}

/* What the client has got until now is paid for. */
static void cancel(struct request *r)
{
    let_go(r, "cancelled");
    if (r->attempts == 0) {
        request_refuse(r);
        return;
    }
    if (!trail_has_said(&r->trail) && !r->stream.content_chunks && !r->stream.usage_known)
        r->billed = NULL;
    settle(r, LEDGER_CANCELLED);
}

static void resume(struct request *r)
{
    if (r->paused && r->leg.call)
        http_call_resume(r->leg.call);
    r->paused = false;
}

/* The client is gone. */
static void on_abort(struct http_exchange *x, void *state)
{
    struct request *r = state;
    (void)x;
    r->x = NULL;
    if (r->state == REQUEST_SETTLING)
        return;
    if (!r->lane->front->stopping && idempotency_goes_on(r))
        resume(r);
    else
        cancel(r);
}

void request_unwanted(struct request *r)
{
    if (!r->x && r->state != REQUEST_SETTLING && !idempotency_goes_on(r))
        cancel(r);
}

void request_cut(struct request *r, enum api_code code)
{
    if (r->state == REQUEST_SETTLING)
        return;
    let_go(r, "cut");
    api_error_set(&r->error, code, NULL, "%s", "");
    settle_failed(r);
}

static void request_timer(evutil_socket_t fd, short what, void *arg)
{
    struct request *r = arg;
    struct route_decision d;
    (void)fd;
    (void)what;
    switch (r->state) {
    case REQUEST_WAITING:
        if (!room_is_over(r))
            break;
        if (room_leave(r)) /* at the last moment */
            dispatch_granted(r);
        else
            no_room(r, WAITING_IN, slot_back_us(r, &d));
        break;
    case REQUEST_ASKING: cached_turn(r); break;
    case REQUEST_RESERVING: budgeted_turn(r); break;
    case REQUEST_RUNNING: leg_late(r); break;
    case REQUEST_SETTLING: settle_append(r); break;
    }
}

/* What the client calls its request: for the log alone, and only if it is short and plain. */
static void note_client_id(struct request *r)
{
    const char *v = http_head_get(http_request_head(r->x), "x-client-request-id");
    size_t n = v ? strlen(v) : 0;
    if (n == 0 || n >= sizeof r->client_id)
        return;
    for (size_t i = 0; i < n; i++) {
        if (v[i] <= ' ' || v[i] > '~')
            return;
    }
    memcpy(r->client_id, v, n + 1);
}

/* Is there a node that would take its text so far? */
static bool may_go_on_by_text(const struct request *r)
{
    if (!r->body.prefixable)
        return false;
    for (int i = 0; i < config_servers(r->config); i++) {
        const struct config_node *c = config_server(r->config, i);
        for (int k = 0; c->continue_by == CONTINUE_PREFIX && k < r->model->n_chain; k++) {
            if (config_node_serves(c, r->model->chain[k]->name))
                return true;
        }
    }
    return false;
}

void request_start(struct lane *l, struct http_exchange *x, const char *id, const struct request_body *body,
                   const struct admission *a)
{
    struct front *f = l->front;
    struct request *r = request_new(l);
    r->lane = l;
    r->x = x;
    r->state = REQUEST_SETTLING; /* nobody's yet */
    text_put(r->id, r->id + sizeof r->id, id);
    note_client_id(r);
    r->body = *body;
    r->config = config_ref(l->config);
    r->who = a->who;
    r->ticket = a->ticket;
    r->limits = a->limits;
    r->cached.ask = a->ask;
    r->urgency = a->urgency;
    r->idempotency = a->idempotency;
    idempotency_start(r);
    if (a->explain)
        explained_begin(r);
    r->model = a->model;
    r->room = a->model->room;
    r->charge_bounded = a->charge_bounded;
    r->charge_max = a->charge_max;
    r->picky = a->charge_bounded || (a->who->n_models && a->model->n_chain > 1);
    r->input_estimate = request_estimate_input(body);
    /* One node alone is no choice, and whoever makes a vector keeps nothing of the prompt. */
    if (r->config->prefix_affinity && (r->config->n_nodes > 1 || r->config->n_pools) &&
        request_traits(body->kind)->speaks)
        affinity_read(f->affinity, &r->prefix, body, r->config->prefix_share_all ? "" : r->who->tenant);
    r->arrived = clock_now(f->o.clock);
    r->accepted = clock_wall(f->o.clock);
    audited_begin(r);
    stream_init(&r->stream, NULL, false);
    trail_init(&r->trail, may_go_on_by_text(r) ? TRAIL_TEXT : TRAIL_IDS);
    whole_init(&r->whole, body->kind == REQUEST_CHAT);
    random_take(&l->random, &r->seed, sizeof r->seed);
    r->seed >>= 64 - SEED_BITS;
    TAILQ_INSERT_TAIL(&l->requests, r, all);
    http_exchange_set(x, r, on_abort);
    spans_begin(r);
    if (!budgeted_begin(r, a->labels))
        request_refuse(r);
    else if (!cached_begin(r, a->root))
        dispatch(r);
}
