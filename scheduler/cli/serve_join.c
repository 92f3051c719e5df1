/* Puts those that join (scheduler/join) and those that were launched (scheduler/capacity) together: neither knows the
 * other. */
#include "scheduler/capacity/fleet.h"
#include "scheduler/cli/cli_internal.h"
#include "scheduler/join/join.h"

_Static_assert(FLEET_JOIN_TOKEN_MAX >= TOKEN_TEXT_MAX, "a token fits");

/* RC_NOT_FOUND: it is none of the fleet's; anything else that went wrong is told by its own log lines, and tried again
 * when its engine does. */
static bool joined_cb(const char *name, const struct node_place_at *at, void *arg)
{
    struct error e;
    const enum rc rc = fleet_joined(arg, name, at, &e);
    return rc != RC_NOT_FOUND && rc != RC_INVALID;
}

static bool notice_cb(const char *name, const struct node_notice *x, void *arg)
{
    struct fleet_view v;
    struct error e;
    return fleet_get(arg, name, &v) && v.pool[0] && fleet_notice(arg, name, x->what, x->left_ms, &e) == RC_OK;
}

static enum rc token_cb(const char *name, char *token, struct error *e, void *arg)
{
    return join_token_new(arg, TOKEN_NODE, name, 0, token, e);
}

static void ended_cb(const char *name, void *arg)
{
    struct error e;
    (void)!join_revoke(arg, name, &e); /* a name, and room: what can go wrong is logged there */
}

void serve_join_fleet(struct join *j, struct fleet *f)
{
    const struct join_hooks hooks = {.joined = joined_cb, .notice = notice_cb, .arg = f};
    const struct fleet_join join = {.url = join_url(j), .token = token_cb, .ended = ended_cb, .arg = j};
    join_set_hooks(j, &hooks);
    fleet_set_join(f, &join);
}
