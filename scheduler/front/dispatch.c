/* Requests under way: from a snapshot to a node, one leg (leg.c) after the other, until somebody has answered. */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "scheduler/front/front_internal.h"

#define ANSWER_BYTES_MAX ((size_t)64 << 20) /* a whole answer is held until its row is durable */
#define OUT_BYTES_MAX    ((size_t)80 << 20)
#define SEED_BITS        53 /* what a JSON number holds exactly */

void request_arm(struct request *r, int64_t ms)
{
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = (ms % 1000) * 1000};
    event_add(r->timer, &tv);
}

void request_free(struct request *r)
{
    struct front *f = r->front;
    leg_drop(r, "cancelled");
    alone_release(r);
    stream_fini(&r->stream);
    trail_fini(&r->trail);
    whole_fini(&r->whole);
    free(r->legs);
    strbuf_fini(&r->answer);
    strbuf_fini(&r->out);
    if (r->timer)
        event_free(r->timer);
    identity_unref(r->who);
    if (f) {
        admit_settle(f, &r->ticket, 0); /* refused before any node had it */
        TAILQ_REMOVE(&f->requests, r, all);
        front_request_gone(f);
    }
    free(r);
}

/* ---- when a leg has failed -------------------------------------------------------------------------------------- */

static enum api_code code_of(enum leg_fault fault)
{
    switch (fault) {
    case FAULT_TIMEOUT: return API_UPSTREAM_TIMEOUT;
    case FAULT_BUSY: return API_UPSTREAM_BUSY;
    default: return API_UPSTREAM;
    }
}

/* What a failure on this node means for the node, for the books and for trying it again. */
static void note_failure(struct request *r, struct node *node, enum leg_fault fault, const char *reason)
{
    struct front *f = r->front;
    /* An engine that breaks off is most likely gone: nobody is sent there until it answers again. */
    bool gone = fault == FAULT_CONNECT || (fault == FAULT_CUT && r->leg.died && r->leg.to_engine);
    log_warn(f->o.log, "dispatch", "a leg has failed", LOG_S("request_id", r->id), LOG_S("node", node->config->name),
             LOG_S("fault", leg_fault_name(fault)), LOG_S("reason", reason), LOG_B("after_first_byte", r->replied),
             LOG_I("attempts", r->attempts));
    metrics_add(f->metrics, METRIC_LEG_FAILURES, node->index, (int)fault, 1);
    node_failed(node, gone ? NODE_FAULT_CONNECT : NODE_FAULT_ANSWER, reason);
    if (leg_has_progress(r)) {
        r->tried = 0;
        r->wait_forgiven_ns = r->waited_ns;
    }
    /* A node that took nothing, or is started anew, may be asked again once it is back; any other has had its chance. */
    if (!gone)
        r->tried |= UINT64_C(1) << node->index;
    api_error_set(&r->error, code_of(fault), NULL, "%s", "");
}

/* Was it being computed, and not merely queued? An engine says how many it computes at once; of others we know only that
 * they have begun to answer. */
static bool was_computed(const struct request *r, const struct node *node)
{
    if (leg_has_progress(r) || r->leg.alone)
        return true;
    if (r->leg.to_engine && node->card.slots > 0)
        return r->leg.position <= node->card.slots;
    return r->leg.status == 200;
}

static void start_over(struct request *r)
{
    trail_reset(&r->trail);
    whole_reset(&r->whole);
    r->numerics[0] = '\0';
    r->cross_class = false;
}

static void count_retry(struct request *r)
{
    r->front->totals.retries++;
    metrics_add(r->front->metrics, METRIC_RETRIES, r->room->index, 0, 1);
}

/* Judged by survive.h. False: r->error says why it ends here. */
static bool goes_on(struct request *r, const struct leg_end *end)
{
    struct front *f = r->front;
    switch (survive_judge(&r->survival, end)) {
    case VERDICT_RETRY:
        count_retry(r);
        start_over(r); /* a role chunk at most */
        return true;
    case VERDICT_CONTINUE: return true;
    case VERDICT_GIVE_UP: return false;
    case VERDICT_POISON:
        log_error(f->o.log, "dispatch", "nodes keep dying under this request: it is refused",
                  LOG_S("request_id", r->id), LOG_S("tenant", r->who->tenant), LOG_I("attempts", r->attempts));
        metrics_add(f->metrics, METRIC_POISON, r->room->index, 0, 1);
        api_error_set(&r->error, API_POISON, NULL, "%s", "");
        return false;
    }
    return false;
}

static bool can_continue(const struct request *r)
{
    const struct trail *t = &r->trail;
    bool known = !trail_has_said(t) || (t->ids_known && r->body.resumable) || t->text_known;
    return known && r->n_legs < LEGS_MAX && r->x;
}

void leg_failed(struct request *r, enum leg_fault fault, const char *reason)
{
    struct node *node = r->leg.node;
    struct leg_end end = {
        .died = r->leg.died,
        .computed = was_computed(r, node),
        .alone = r->leg.alone,
        .progress = leg_has_progress(r),
        .said = r->replied || trail_has_said(&r->trail),
        .retries_max = r->front->o.config->retries,
    };
    note_failure(r, node, fault, reason);
    leg_drop(r, leg_fault_name(fault));
    end.can_continue = can_continue(r);
    if (goes_on(r, &end))
        dispatch(r);
    else
        settle_failed(r);
}

/* ---- choosing --------------------------------------------------------------------------------------------------- */

void dispatch_look(const struct request *r, uint32_t spread, struct route_decision *d)
{
    struct route_candidate candidates[ROUTE_CANDIDATES_MAX];
    struct route_request q = {
        .input_tokens = r->input_estimate,
        .output_tokens = request_estimate_output(&r->body),
        .local_only = r->who->local_only,
        .alone = r->survival.alone,
        .spread = spread,
    };
    struct nodes_need need = {
        .model = r->room->model,
        .tried = r->tried,
        .who = r,
        .said = trail_has_said(&r->trail),
        .by_ids = r->trail.ids_known && r->body.resumable,
        .by_text = r->trail.text_known,
        .numerics = r->numerics,
    };
    route_choose(d, &q, candidates, nodes_snapshot(r->front->nodes, &need, candidates));
}

/* Nobody can take it, ever. Could somebody, if something of what is known about it were forgotten? */
static bool second_look(struct request *r)
{
    bool begun = r->replied || trail_has_said(&r->trail);
    if (r->tried && (begun || r->survival.alone)) { /* survive.h bounds how often */
        r->tried = 0;
        return true;
    }
    /* Of a whole answer the client has seen nothing yet: it may as well begin again. */
    if (begun && !r->replied && r->survival.retries < r->front->o.config->retries) {
        r->survival.retries++;
        count_retry(r);
        start_over(r);
        return true;
    }
    return false;
}

static void nobody(struct request *r, const struct route_decision *d)
{
    bool kept_home = false;
    for (int i = 0; i < nodes_count(r->front->nodes); i++)
        kept_home = kept_home || d->reasons[i] == ROUTE_NOT_LOCAL;
    if (d->may_wait) {
        room_enter(r, r->attempts ? ROOM_HEAD : ROOM_TAIL);
        return;
    }
    if (r->attempts == 0)
        api_error_set(&r->error, kept_home ? API_NO_LOCAL_CAPACITY : API_NO_CAPACITY, NULL, "%s", "");
    settle_failed(r);
}

static void count_start(struct request *r)
{
    struct front *f = r->front;
    if (r->attempts == 1) {
        f->totals.accepted++;
        metrics_observe(f->metrics, METRIC_ADDED, 0, mono_since(f->o.clock, r->arrived) - r->waited_ns);
    }
    if (!r->replied && !trail_has_said(&r->trail))
        return;
    r->continuations++;
    f->totals.continuations++;
    metrics_add(f->metrics, METRIC_CONTINUATIONS, r->room->index, 0, 1);
    log_info(f->o.log, "dispatch", "an answer goes on on another node", LOG_S("request_id", r->id),
             LOG_S("node", r->leg.node->config->name), LOG_I("ids", r->trail.n_ids), LOG_B("by_text", r->leg.by_text),
             LOG_B("alone", r->survival.alone));
}

void dispatch(struct request *r)
{
    struct front *f = r->front;
    struct route_decision d;
    struct error e;
    for (;;) {
        dispatch_look(r, f->spread++, &d);
        if (d.chosen < 0 && !d.may_wait && second_look(r))
            continue;
        if (d.chosen < 0) {
            nobody(r, &d);
            return;
        }
        struct node *node = nodes_at(f->nodes, d.chosen);
        if (leg_start(r, node, &e) == RC_OK) {
            count_start(r);
            return;
        }
        /* Nothing was sent: its pool is full, or the request unfit. */
        struct leg_end end = {.said = r->replied || trail_has_said(&r->trail),
                              .can_continue = can_continue(r),
                              .retries_max = f->o.config->retries};
        note_failure(r, node, FAULT_BUSY, e.message);
        if (!goes_on(r, &end))
            break;
    }
    settle_failed(r);
}

/* ---- the request's own life ------------------------------------------------------------------------------------- */

/* The client is gone: the node stops at once, and what the client has got until now is paid for. */
static void on_abort(struct http_exchange *x, void *state)
{
    struct request *r = state;
    (void)x;
    r->x = NULL;
    if (r->state == REQUEST_SETTLING)
        return;
    if (r->state == REQUEST_WAITING)
        room_leave(r);
    else
        leg_drop(r, "cancelled");
    if (r->attempts == 0) {
        request_refuse(r);
        return;
    }
    if (!trail_has_said(&r->trail) && !r->stream.content_chunks && !r->stream.usage_known)
        r->billed = NULL;
    settle(r, LEDGER_CANCELLED);
}

void request_cut(struct request *r, enum api_code code)
{
    if (r->state == REQUEST_SETTLING)
        return;
    if (r->state == REQUEST_WAITING)
        room_leave(r);
    else
        leg_drop(r, "cut");
    api_error_set(&r->error, code, NULL, "%s", "");
    settle_failed(r);
}

static void request_timer(evutil_socket_t fd, short what, void *arg)
{
    struct request *r = arg;
    (void)fd;
    (void)what;
    switch (r->state) {
    case REQUEST_WAITING:
        room_leave(r);
        if (r->attempts == 0)
            api_error_set(&r->error, API_NO_CAPACITY, NULL, "%s", "");
        settle_failed(r);
        break;
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
    const struct front *f = r->front;
    bool any = false;
    for (int i = 0; i < nodes_count(f->nodes); i++) {
        const struct node *n = nodes_at(f->nodes, i);
        any = any || (n->config->continue_by == CONTINUE_PREFIX && node_serves(n, r->room->model));
    }
    return any && r->body.prefixable;
}

void request_start(struct front *f, struct http_exchange *x, const char *id, const struct request_body *body,
                   const struct admission *a)
{
    struct request *r = spw_calloc(1, sizeof(*r));
    r->front = f;
    r->x = x;
    r->state = REQUEST_SETTLING; /* nobody's yet */
    snprintf(r->id, sizeof r->id, "%s", id);
    note_client_id(r);
    r->body = *body;
    r->who = a->who;
    r->ticket = a->ticket;
    r->limits = a->limits;
    r->room = front_room(f, body->model);
    r->input_estimate = request_estimate_input(body);
    r->arrived = clock_now(f->o.clock);
    r->accepted = clock_wall(f->o.clock);
    r->timer = evtimer_new(f->o.loop, request_timer, r);
    strbuf_init(&r->answer, ANSWER_BYTES_MAX);
    strbuf_init(&r->out, OUT_BYTES_MAX);
    stream_init(&r->stream, NULL, false);
    trail_init(&r->trail, may_go_on_by_text(r) ? TRAIL_TEXT : TRAIL_IDS);
    whole_init(&r->whole, body->kind == REQUEST_CHAT);
    SPW_ASSERT(getrandom(&r->seed, sizeof r->seed, 0) == sizeof r->seed); /* never short for so few bytes */
    r->seed >>= 64 - SEED_BITS;
    TAILQ_INSERT_TAIL(&f->requests, r, all);
    http_exchange_set(x, r, on_abort);
    /* Nobody overtakes those who wait already; but they may all be waiting for something else, so look right away. */
    if (r->room->n > 0) {
        room_enter(r, ROOM_TAIL);
        rooms_wake_soon(f);
    } else {
        dispatch(r);
    }
}
