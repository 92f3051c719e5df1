#include "policies/router_event.h"

const char *router_event_name(enum router_event_kind k)
{
    static const char *const names[ROUTER_KINDS] = {
        [ROUTER_PUT] = "put",     [ROUTER_DROP] = "drop",     [ROUTER_FORGET] = "forget",   [ROUTER_LIKE] = "like",
        [ROUTER_STATE] = "state", [ROUTER_TARIFF] = "tariff", [ROUTER_GROWING] = "growing", [ROUTER_SENT] = "sent",
        [ROUTER_SPOKE] = "spoke", [ROUTER_ENDED] = "ended",   [ROUTER_LISTED] = "listed",   [ROUTER_CHOSE] = "chose",
    };
    return names[k];
}

void router_apply(struct router *r, const struct router_event *e, struct router_leg *leg)
{
    switch (e->kind) {
    case ROUTER_PUT: router_put(r, e->node, e->u.facts); break;
    case ROUTER_DROP: router_drop(r, e->node); break;
    case ROUTER_FORGET: router_forget(r, e->node); break;
    case ROUTER_LIKE: router_like(r, e->node, e->u.other); break;
    case ROUTER_STATE: router_state(r, e->node, e->u.state); break;
    case ROUTER_TARIFF: router_tariff(r, e->u.tariff.site, e->u.tariff.uusd_per_kwh); break;
    case ROUTER_GROWING: router_growing(r, e->u.growing.model, e->u.growing.growing); break;
    case ROUTER_SENT: router_sent(r, e->node, e->u.sent.work, leg); break;
    case ROUTER_SPOKE: router_spoke(r, leg, e->u.heard.us); break;
    case ROUTER_ENDED: router_ended(r, leg, e->u.heard.us); break;
    case ROUTER_LISTED:
    case ROUTER_CHOSE:
    case ROUTER_KINDS: break;
    }
}

void router_callers_part(const struct route_candidate *from, struct route_candidate *to)
{
    to->serves_model = from->serves_model;
    to->healthy = from->healthy;
    to->draining = from->draining;
    to->tried = from->tried;
    to->unfit = from->unfit;
    to->kept = from->kept;
    to->broken = from->broken;
    to->cooling = from->cooling;
    to->back_us = from->back_us;
    to->rank = from->rank;
    to->cached_tokens = from->cached_tokens;
}
