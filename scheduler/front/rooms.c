/* Waiting rooms: one per model, in order of arrival, bounded in count and time. A freed slot goes to whoever has waited
 * longest among those it can serve, on whichever lane that is. */
#include "scheduler/front/front_internal.h"

/* An answer that has begun waits for a node to go on with at least this long. */
#define CONTINUE_WAIT_MS 30000

static bool has_begun(const struct request *r)
{
    return r->replied || trail_has_said(&r->trail);
}

int64_t room_left_ms(const struct request *r)
{
    int64_t most = r->lane->front->o.config->queue[WAITING_INTERACTIVE].wait_ms;
    if (has_begun(r) && most < CONTINUE_WAIT_MS)
        most = CONTINUE_WAIT_MS;
    return most - (r->waited_ns - r->wait_forgiven_ns) / NS_PER_MS;
}

enum found room_enter_locked(struct request *r, enum room_side side)
{
    struct front *f = r->lane->front;
    struct room *room = r->room;
    if (room_left_ms(r) <= 0)
        return FOUND_NO_TIME;
    /* An answer that has begun was let in long ago. */
    if (f->n_waiting >= f->o.config->queue[WAITING_INTERACTIVE].max && !has_begun(r))
        return FOUND_QUEUE_FULL;
    r->wait_since = clock_now(f->o.clock);
    if (side == ROOM_HEAD)
        TAILQ_INSERT_HEAD(&room->queue, r, waiting);
    else
        TAILQ_INSERT_TAIL(&room->queue, r, waiting);
    room->n++;
    f->n_waiting++;
    if (r->survival.alone)
        alone_keep_locked(r);
    return FOUND_ROOM;
}

void room_entered(struct request *r)
{
    r->state = REQUEST_WAITING;
    request_arm(r, room_left_ms(r));
}

static void leave_queue_locked(struct request *r)
{
    struct front *f = r->lane->front;
    SPW_ASSERT(r->room->n > 0 && f->n_waiting > 0);
    TAILQ_REMOVE(&r->room->queue, r, waiting);
    r->room->n--;
    f->n_waiting--;
}

/* On its own lane: out of whichever list. */
static void waited(struct request *r)
{
    r->waited_ns += mono_since(r->lane->front->o.clock, r->wait_since);
    event_del(r->timer);
    r->state = REQUEST_SETTLING; /* nobody's, until the caller moves it on */
}

bool room_leave(struct request *r)
{
    struct front *f = r->lane->front;
    SPW_ASSERT(r->state == REQUEST_WAITING);
    front_lock(f);
    bool granted = r->slot.node != NULL;
    if (granted)
        TAILQ_REMOVE(&r->lane->granted, r, waiting);
    else
        leave_queue_locked(r);
    front_unlock(f);
    waited(r);
    return granted;
}

void rooms_take_granted(struct lane *l)
{
    struct front *f = l->front;
    for (;;) {
        front_lock(f);
        l->telling = false;
        struct request *r = TAILQ_FIRST(&l->granted);
        if (r)
            TAILQ_REMOVE(&l->granted, r, waiting);
        front_unlock(f);
        if (!r)
            return;
        waited(r);
        dispatch_granted(r);
    }
}

/* Could a node take r right now? */
static bool placeable_locked(const struct request *r)
{
    struct route_decision d;
    slot_look_locked(r, 0, &d);
    return d.chosen >= 0;
}

/* The first in the room whom a node can take. Behind one that only lacks a slot nobody can do better, unless the one in
 * front is special: bound to the premises, with nodes that failed for it already, in the middle of an answer, or in need
 * of a node to itself. */
static struct request *first_placeable_locked(const struct room *room)
{
    for (struct request *r = TAILQ_FIRST(&room->queue); r; r = TAILQ_NEXT(r, waiting)) {
        if (placeable_locked(r))
            return r;
        if (r->survival.alone)
            alone_keep_locked(r);
        else if (!r->who->local_only && !r->tried && !has_begun(r))
            return NULL;
    }
    return NULL;
}

static void grant_locked(struct request *r)
{
    struct lane *l = r->lane;
    struct front *f = l->front;
    struct route_decision d;
    slot_look_locked(r, f->spread++, &d);
    SPW_ASSERT(d.chosen >= 0); /* for other values of `spread` another node, but never none */
    leave_queue_locked(r);
    slot_take_locked(r, nodes_at(f->nodes, d.chosen));
    TAILQ_INSERT_TAIL(&l->granted, r, waiting);
    if (!l->telling)
        f->to_tell |= UINT64_C(1) << l->index;
    l->telling = true;
}

/* Each round gives one slot to the longest wait of all rooms; a round without a taker ends it. */
void rooms_grant_locked(struct front *f)
{
    while (f->n_waiting > 0) {
        struct request *longest = NULL;
        for (int i = 0; i < f->n_rooms; i++) {
            struct request *r = f->rooms[i].n ? first_placeable_locked(&f->rooms[i]) : NULL;
            if (r && (!longest || r->wait_since.ns < longest->wait_since.ns))
                longest = r;
        }
        if (!longest)
            return;
        grant_locked(longest);
    }
}

void rooms_grant(struct front *f)
{
    front_lock(f);
    rooms_grant_locked(f);
    front_unlock(f);
}
