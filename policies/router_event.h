/* What a router is told and asked, as plain data: a run can be written down and told to another router, which must then
 * decide the same, to the last bit. Every function of router.h that changes something is an event here, and so is every
 * decision; router.c makes one event per call, router_apply() makes the call again. test_router_event.c holds the two
 * together: whoever adds a call there adds its event here. */
#ifndef POLICIES_ROUTER_EVENT_H
#define POLICIES_ROUTER_EVENT_H

#include "policies/router.h"

enum router_event_kind {
    ROUTER_PUT,
    ROUTER_DROP,
    ROUTER_FORGET,
    ROUTER_LIKE,
    ROUTER_STATE,
    ROUTER_TARIFF,
    ROUTER_GROWING,
    ROUTER_SENT, /* with the leg as it came to be */
    ROUTER_SPOKE,
    ROUTER_ENDED,
    ROUTER_LISTED, /* the index has learned what changed before: it matters when */
    ROUTER_CHOSE,
    ROUTER_KINDS
};
const char *router_event_name(enum router_event_kind k); /* "put", ... */

struct router_event {
    enum router_event_kind kind;
    int32_t node; /* PUT to STATE, SENT */
    union {
        const struct router_facts *facts; /* PUT */
        int32_t other;                    /* LIKE */
        const struct router_state *state; /* STATE */
        struct router_event_tariff {
            int32_t site;
            int64_t uusd_per_kwh;
        } tariff;
        struct router_event_growing {
            int32_t model;
            bool growing;
        } growing;
        struct router_event_sent {
            const struct router_work *work;
            const struct router_leg *leg;
        } sent;
        struct router_event_heard { /* SPOKE, ENDED */
            uint32_t leg;           /* its number */
            double us;              /* to the first token, or per token */
        } heard;
        struct router_event_choice { /* LISTED: without candidates and decision */
            const struct router_ask *ask;
            const int32_t *nodes; /* NULL: 0..n-1 */
            int32_t n;
            const struct route_candidate *candidates; /* as they were decided between */
            const struct route_decision *decision;
        } choice;
    } u;
};

/* The call that made it, made again. *leg: for SENT it is filled, for SPOKE and ENDED it is the one that is spoken of.
 * LISTED, CHOSE: nothing; whoever wants the answer asks for it himself. */
void router_apply(struct router *r, const struct router_event *e, struct router_leg *leg);

/* What a caller knows of a candidate beyond what router_candidate() says of it, from one to the other. */
void router_callers_part(const struct route_candidate *from, struct route_candidate *to);

#endif
