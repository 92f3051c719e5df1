/* A node to itself, for a request under which nodes have died: what it does next it does to nobody else.
 *
 * While it waits, the emptiest node that could take it is kept for it: what runs there ends, nothing new begins
 * (nodes_snapshot_locked() says so to everybody else), and once the node is empty the request goes there. */
#include "scheduler/front/front_internal.h"

void alone_release_locked(struct request *r)
{
    if (!r->kept)
        return;
    r->kept->kept_for = NULL;
    node_changed_locked(r->kept);
    r->kept = NULL;
}

void alone_release(struct request *r)
{
    if (!r->kept)
        return;
    struct front *f = r->lane->front;
    front_lock(f);
    alone_release_locked(r);
    rooms_grant_locked(f);
    front_unlock_on(r->lane);
}

static void keep(struct request *r, struct node *node)
{
    if (r->kept == node)
        return;
    alone_release_locked(r);
    r->kept = node;
    node->kept_for = r;
    node_changed_locked(node);
}

void alone_keep_locked(struct request *r)
{
    struct front *f = r->lane->front;
    struct route_decision d;
    struct node *best = NULL;
    if (r->kept && r->kept->state == NODE_READY && !r->kept->draining && !r->kept->leaving)
        return;
    alone_release_locked(r);
    slot_look_locked(r, 0, &d, LOOK_ONLY);
    for (int i = 0; i < nodes_count(f->nodes); i++) {
        struct node *n = nodes_at(f->nodes, i);
        if (d.reasons[i] == ROUTE_FULL && (!best || n->in_flight < best->in_flight))
            best = n;
    }
    if (best)
        keep(r, best);
}

void alone_take_locked(struct request *r)
{
    keep(r, r->slot.node);
}
