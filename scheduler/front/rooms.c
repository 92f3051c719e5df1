/* Waiting rooms: one per model, in order of arrival, bounded in count and time. A freed slot goes to whoever has waited
 * longest among those it can serve. */
#include "scheduler/front/front_internal.h"

/* An answer that has begun waits for a node to go on with at least this long. */
#define CONTINUE_WAIT_MS 30000

static bool has_begun(const struct request *r)
{
    return r->replied || trail_has_said(&r->trail);
}

static int64_t left_ms(const struct request *r)
{
    int64_t most = r->front->o.config->queue_ms;
    if (has_begun(r) && most < CONTINUE_WAIT_MS)
        most = CONTINUE_WAIT_MS;
    return most - (r->waited_ns - r->wait_forgiven_ns) / NS_PER_MS;
}

void room_enter(struct request *r, enum room_side side)
{
    struct front *f = r->front;
    struct room *room = r->room;
    if (left_ms(r) <= 0) {
        if (r->attempts == 0) /* else what the last leg failed with says more */
            api_error_set(&r->error, API_NO_CAPACITY, NULL, "%s", "");
        settle_failed(r);
        return;
    }
    /* An answer that has begun was let in long ago. */
    if (f->n_waiting >= f->o.config->queue_max && !has_begun(r)) {
        api_error_set(&r->error, API_QUEUE_FULL, NULL, "%s", "");
        settle_failed(r);
        return;
    }
    r->state = REQUEST_WAITING;
    r->wait_since = clock_now(f->o.clock);
    if (side == ROOM_HEAD)
        TAILQ_INSERT_HEAD(&room->queue, r, waiting);
    else
        TAILQ_INSERT_TAIL(&room->queue, r, waiting);
    room->n++;
    f->n_waiting++;
    request_arm(r, left_ms(r));
    if (r->survival.alone)
        alone_keep(r);
}

void room_leave(struct request *r)
{
    SPW_ASSERT(r->state == REQUEST_WAITING && r->room->n > 0);
    TAILQ_REMOVE(&r->room->queue, r, waiting);
    r->room->n--;
    r->front->n_waiting--;
    r->waited_ns += mono_since(r->front->o.clock, r->wait_since);
    event_del(r->timer);
    r->state = REQUEST_SETTLING; /* nobody's, until the caller moves it on */
}

/* Could a node take r right now? */
static bool placeable(const struct request *r)
{
    struct route_decision d;
    dispatch_look(r, 0, &d);
    return d.chosen >= 0;
}

/* The first in the room whom a node can take. Behind one that only lacks a slot nobody can do better, unless the one in
 * front is special: bound to the premises, with nodes that failed for it already, in the middle of an answer, or in need
 * of a node to itself. */
static struct request *first_placeable(const struct room *room)
{
    for (struct request *r = TAILQ_FIRST(&room->queue); r; r = TAILQ_NEXT(r, waiting)) {
        if (placeable(r))
            return r;
        if (r->survival.alone)
            alone_keep(r);
        else if (!r->who->local_only && !r->tried && !has_begun(r))
            return NULL;
    }
    return NULL;
}

/* Each round gives one slot to the longest wait of all rooms; a round without a taker ends it. */
void rooms_wake(struct front *f)
{
    while (f->n_waiting > 0) {
        struct request *longest = NULL;
        for (int i = 0; i < f->n_rooms; i++) {
            struct request *r = f->rooms[i].n ? first_placeable(&f->rooms[i]) : NULL;
            if (r && (!longest || r->wait_since.ns < longest->wait_since.ns))
                longest = r;
        }
        if (!longest)
            return;
        room_leave(longest);
        dispatch(longest);
    }
}

/* In a turn of its own: whoever frees a slot is in the middle of something else. */
void rooms_wake_soon(struct front *f)
{
    if (f->n_waiting > 0)
        event_active(f->wake, EV_TIMEOUT, 0);
}
