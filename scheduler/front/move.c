/* Streams leave a node that is going to be taken away before it cuts them, or one that could sleep but for them,
 * without their clients waiting for what has been said to be computed again.
 *
 * The node says in each stream that it leaves (docs/NODE_API.md, Draining), or the power plan has it emptied
 * (scheduler/capacity/ladder.c, node_set_emptying()). From then on, a few at a time:
 *
 *     streams here ----> a round: prompt and answer so far are asked of another node, as for a leg that goes on; with its
 *          ^             first token all whole pages of them are known there, and the call is dropped
 *          |                 | meanwhile more was said here: while that shrinks fast enough, another round
 *          |                 v
 *          +-- nobody   moved: the leg ends, the next begins on that node, which has little left to compute
 *
 * This is how machines are moved while they run: copy, copy what has changed since, stop, copy the rest (Clark et al.,
 * "Live Migration of Virtual Machines", NSDI 2005). Nothing depends on it: a stream that has not moved when its node
 * cuts it goes on as ever (leg_failed()), and whatever of it is known somewhere by then is of use. Only nodes of the
 * numerics class of what has been said are asked, for pages of others would be of none.
 *
 * Of a lane, on its thread. A request is queued or has a call only while its leg runs. */
#include "scheduler/front/front_internal.h"

#define MOVES_AT_ONCE   2 /* of a lane: where they go others stream, too */
#define MOVE_ROUNDS_MAX 5
#define MOVE_QUICK_MS   200  /* a round that was over so soon leaves so little that another would gain nothing */
#define MOVE_AGAIN_MS   1000 /* nobody could take it: so much later somebody may */

static void move_next(struct lane *l);

/* Where r would go on now, as of its first model: false, nowhere that it would be the same. *there holds a reference. */
static bool find_place(const struct request *r, struct slot *there)
{
    struct front *f = r->lane->front;
    struct route_decision d;
    bool found = false;
    front_lock(f);
    const struct model *as = slot_look_locked(r, f->spread, &d, LOOK_ONLY);
    if (d.chosen >= 0) {
        struct node *n = nodes_at(f->nodes, d.chosen);
        found = n != r->leg.node && n->card.resume && strcmp(n->card.numerics, r->numerics) == 0;
        if (found)
            *there = (struct slot){.node = n,
                                   .generation = n->target.generation,
                                   .card = n->card,
                                   .spec = node_spec_ref(n->spec),
                                   .model = as};
    }
    front_unlock_on(r->lane);
    return found;
}

static bool may_move(const struct request *r)
{
    return r->state == REQUEST_RUNNING && r->leg.node && r->leg.to_engine && !r->leg.alone && r->trail.n_ids > 0 &&
           !r->stream.finished && request_can_continue(r);
}

static void end_call(struct request *r)
{
    r->moving.call = NULL;
    r->lane->n_moving--;
}

/* Not now. */
static void put_off(struct request *r)
{
    r->moving.tried = clock_now(r->lane->front->o.clock);
}

static void move(struct request *r)
{
    struct lane *l = r->lane;
    struct slot there;
    if (!find_place(r, &there)) {
        put_off(r);
        return;
    }
    node_spec_unref(there.spec);
    if (there.node->index + 1 != r->moving.to) { /* full, or gone by now; it would begin from nothing on this one */
        r->moving.to = r->moving.rounds = 0;
        put_off(r);
        return;
    }
    log_info(l->front->o.log, "dispatch", "a stream leaves its node before it goes", LOG_S("request_id", r->id),
             LOG_S("node", r->leg.node->name), LOG_S("to", there.node->name), LOG_I("rounds", r->moving.rounds),
             LOG_I("last_round_ms", r->moving.took_ms), LOG_I("ids", r->trail.n_ids));
    metrics_add(l->metrics, METRIC_MOVES, r->room->index, 0, 1);
    leg_drop(r, "moved");
    dispatch(r);
}

static void begin_round(struct request *r);

/* Its first byte is its first token: who resumes says nothing before. */
static void on_body(struct http_call *c, const char *data, size_t n, void *arg)
{
    struct request *r = arg;
    struct lane *l = r->lane;
    struct moving *m = &r->moving;
    (void)data;
    (void)n;
    const int64_t took_ms = mono_since(l->front->o.clock, m->begun) / NS_PER_MS;
    const bool shrinks = m->rounds == 0 || took_ms < m->took_ms * 3 / 4;
    http_call_cancel(c);
    end_call(r);
    m->rounds++;
    m->took_ms = took_ms;
    if (!may_move(r))
        put_off(r);
    else if (took_ms > MOVE_QUICK_MS && m->rounds < MOVE_ROUNDS_MAX && shrinks)
        begin_round(r);
    else
        move(r);
    move_next(l);
}

static void give_up_round(struct request *r)
{
    end_call(r);
    put_off(r);
    move_next(r->lane);
}

static void on_head(struct http_call *c, const struct http_head *head, void *arg)
{
    if (head->status == 200)
        return;
    http_call_cancel(c);
    give_up_round(arg);
}

static void on_end(struct http_call *c, void *arg)
{
    (void)c;
    give_up_round(arg);
}

static void on_fail(struct http_call *c, enum http_phase phase, const struct error *e, void *arg)
{
    (void)c;
    (void)phase;
    (void)e;
    give_up_round(arg);
}

static const struct http_call_handlers ahead_handlers = {
    .on_head = on_head, .on_body = on_body, .on_end = on_end, .on_fail = on_fail};

static void begin_round(struct request *r)
{
    struct slot there;
    struct error e;
    if (!may_move(r) || !find_place(r, &there)) {
        put_off(r);
        return;
    }
    r->moving.begun = clock_now(r->lane->front->o.clock);
    if (leg_send_ahead(r, &there, &ahead_handlers, &r->moving.call, &e) == RC_OK) {
        r->moving.to = there.node->index + 1;
        r->lane->n_moving++;
    } else {
        r->moving.call = NULL;
        put_off(r);
    }
    node_spec_unref(there.spec);
}

static void move_next(struct lane *l)
{
    struct request *r;
    while (!l->front->stopping && l->n_moving < MOVES_AT_ONCE && (r = TAILQ_FIRST(&l->leaving))) {
        TAILQ_REMOVE(&l->leaving, r, moving.next);
        r->moving.queued = false;
        begin_round(r);
    }
}

void move_wanted(struct request *r)
{
    struct moving *m = &r->moving;
    const struct clock *clock = r->lane->front->o.clock;
    if (m->queued || m->call || (m->wanted && mono_since(clock, m->tried) < MOVE_AGAIN_MS * NS_PER_MS))
        return;
    m->wanted = m->queued = true;
    leg_note_class(r);
    r->tried |= UINT64_C(1) << r->leg.node->index;
    TAILQ_INSERT_TAIL(&r->lane->leaving, r, moving.next);
    move_next(r->lane);
}

void move_forget(struct request *r)
{
    struct moving *m = &r->moving;
    if (m->queued)
        TAILQ_REMOVE(&r->lane->leaving, r, moving.next);
    m->wanted = m->queued = false;
    if (!m->call)
        return;
    http_call_cancel(m->call);
    end_call(r);
    move_next(r->lane);
}
