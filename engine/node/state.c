#include "engine/node/state.h"

#include <stddef.h>

#define DRAIN_KILL  (NODE_DO_KILL | NODE_DO_REFUSE)
#define DRAIN_WAITS (NODE_DO_TAKE | NODE_DO_TELL_DRAIN)

/* Unwritten rows are {NODE_LOADING, 0}: no step leads there, so that next == LOADING without actions means "stays". */
static const struct node_step table[NODE_STATES][NODE_EVENTS] = {
    [NODE_LOADING] = {[NODE_READY] = {NODE_AWAKE, NODE_DO_PASS},
                      [NODE_UNLOADABLE] = {NODE_DONE, NODE_DO_EXIT_FAILED},
                      [NODE_GONE] = {NODE_DONE, NODE_DO_EXIT_FAILED},
                      [NODE_LOOPING] = {NODE_DONE, NODE_DO_EXIT_FAILED},
                      [NODE_SLEEP] = {NODE_ENDING, NODE_DO_KILL},
                      [NODE_DRAIN] = {NODE_DRAINING, DRAIN_KILL},
                      [NODE_STOP] = {NODE_STOPPING, DRAIN_KILL}},
    [NODE_AWAKE] = {[NODE_GONE] = {NODE_BACKOFF, NODE_DO_TAKE | NODE_DO_BACK_OFF},
                    [NODE_LOOPING] = {NODE_FAILED, NODE_DO_TAKE | NODE_DO_REFUSE},
                    [NODE_SLEEP] = {NODE_FALLING, NODE_DO_TAKE | NODE_DO_TELL_SLEEP},
                    [NODE_DRAIN] = {NODE_DRAINING, DRAIN_WAITS},
                    [NODE_STOP] = {NODE_STOPPING, DRAIN_WAITS}},
    [NODE_FALLING] = {[NODE_EMPTY] = {NODE_ENDING, NODE_DO_TELL_END},
                      [NODE_GONE] = {NODE_ASLEEP, 0},
                      [NODE_LOOPING] = {NODE_ASLEEP, 0},
                      [NODE_WAKE] = {NODE_AWAKE, NODE_DO_PASS},
                      [NODE_REQUEST] = {NODE_AWAKE, NODE_DO_PASS},
                      [NODE_DRAIN] = {NODE_DRAINING, NODE_DO_TELL_DRAIN},
                      [NODE_STOP] = {NODE_STOPPING, NODE_DO_TELL_DRAIN}},
    [NODE_ENDING] = {[NODE_GONE] = {NODE_ASLEEP, 0},
                     [NODE_LOOPING] = {NODE_ASLEEP, 0},
                     [NODE_WAKE] = {NODE_ENDING_WANTED, 0},
                     [NODE_REQUEST] = {NODE_ENDING_WANTED, 0},
                     [NODE_DRAIN] = {NODE_DRAINING, NODE_DO_KILL},
                     [NODE_STOP] = {NODE_STOPPING, NODE_DO_KILL}},
    [NODE_ENDING_WANTED] = {[NODE_GONE] = {NODE_WAKING, NODE_DO_START},
                            [NODE_LOOPING] = {NODE_WAKING, NODE_DO_START},
                            [NODE_SLEEP] = {NODE_ENDING, 0},
                            [NODE_DRAIN] = {NODE_DRAINING, DRAIN_KILL},
                            [NODE_STOP] = {NODE_STOPPING, DRAIN_KILL}},
    [NODE_ASLEEP] = {[NODE_WAKE] = {NODE_WAKING, NODE_DO_START},
                     [NODE_REQUEST] = {NODE_WAKING, NODE_DO_START},
                     [NODE_DRAIN] = {NODE_DRAINING, NODE_DO_REFUSE},
                     [NODE_STOP] = {NODE_DONE, NODE_DO_REFUSE | NODE_DO_EXIT}},
    [NODE_WAKING] = {[NODE_READY] = {NODE_AWAKE, NODE_DO_PASS},
                     [NODE_UNLOADABLE] = {NODE_FAILED, NODE_DO_REFUSE},
                     [NODE_GONE] = {NODE_BACKOFF, NODE_DO_BACK_OFF},
                     [NODE_LOOPING] = {NODE_FAILED, NODE_DO_REFUSE},
                     [NODE_SLEEP] = {NODE_ENDING, NODE_DO_KILL},
                     [NODE_DRAIN] = {NODE_DRAINING, DRAIN_KILL},
                     [NODE_STOP] = {NODE_STOPPING, DRAIN_KILL}},
    [NODE_BACKOFF] = {[NODE_TIMER] = {NODE_WAKING, NODE_DO_START},
                      [NODE_WAKE] = {NODE_WAKING, NODE_DO_START},
                      [NODE_SLEEP] = {NODE_ASLEEP, 0},
                      [NODE_DRAIN] = {NODE_DRAINING, NODE_DO_REFUSE},
                      [NODE_STOP] = {NODE_DONE, NODE_DO_REFUSE | NODE_DO_EXIT}},
    [NODE_FAILED] = {[NODE_WAKE] = {NODE_WAKING, NODE_DO_FRESH | NODE_DO_START},
                     [NODE_DRAIN] = {NODE_DRAINING, 0},
                     [NODE_STOP] = {NODE_DONE, NODE_DO_EXIT}},
    [NODE_DRAINING] = {[NODE_EMPTY] = {NODE_DRAINING, NODE_DO_TELL_END},
                       [NODE_DRAIN] = {NODE_DRAINING, NODE_DO_TELL_DRAIN}, /* may bring the deadline nearer */
                       [NODE_STOP] = {NODE_STOPPING, NODE_DO_TELL_DRAIN}},
    [NODE_STOPPING] = {[NODE_EMPTY] = {NODE_STOPPING, NODE_DO_TELL_END},
                       [NODE_GONE] = {NODE_DONE, NODE_DO_EXIT},
                       [NODE_LOOPING] = {NODE_DONE, NODE_DO_EXIT},
                       [NODE_DRAIN] = {NODE_STOPPING, NODE_DO_TELL_DRAIN},
                       [NODE_STOP] = {NODE_DONE, NODE_DO_KILL | NODE_DO_EXIT}},
};

struct node_step node_step(enum node_state s, enum node_event e)
{
    struct node_step step = table[s][e];
    if (step.next == NODE_LOADING && step.actions == 0)
        step.next = s;
    return step;
}

static const struct {
    const char *health;
    int status;
    const char *sleep;
    bool holds;
} words[NODE_STATES] = {
    [NODE_LOADING] = {"loading", 503, "waking", false},
    [NODE_AWAKE] = {"ok", 200, "awake", true},
    [NODE_FALLING] = {"falling_asleep", 200, "falling_asleep", true},
    [NODE_ENDING] = {"falling_asleep", 200, "falling_asleep", true},
    [NODE_ENDING_WANTED] = {"waking", 200, "waking", true},
    [NODE_ASLEEP] = {"asleep", 200, "asleep", true},
    [NODE_WAKING] = {"waking", 200, "waking", true},
    [NODE_BACKOFF] = {"restarting", 503, "waking", true},
    [NODE_FAILED] = {"failed", 503, NULL, false},
    [NODE_DRAINING] = {"draining", 503, NULL, false},
    [NODE_STOPPING] = {"draining", 503, NULL, false},
    [NODE_DONE] = {"draining", 503, NULL, false},
};

const char *node_state_name(enum node_state s)
{
    static const char *const names[NODE_STATES] = {
        [NODE_LOADING] = "loading",
        [NODE_AWAKE] = "awake",
        [NODE_FALLING] = "falling asleep",
        [NODE_ENDING] = "ending",
        [NODE_ENDING_WANTED] = "ending, wanted again",
        [NODE_ASLEEP] = "asleep",
        [NODE_WAKING] = "waking",
        [NODE_BACKOFF] = "backing off",
        [NODE_FAILED] = "failed",
        [NODE_DRAINING] = "draining",
        [NODE_STOPPING] = "stopping",
        [NODE_DONE] = "done",
    };
    return names[s];
}

const char *node_event_name(enum node_event e)
{
    static const char *const names[NODE_EVENTS] = {
        [NODE_READY] = "ready",     [NODE_UNLOADABLE] = "unloadable", [NODE_EMPTY] = "empty", [NODE_GONE] = "gone",
        [NODE_LOOPING] = "looping", [NODE_TIMER] = "timer",           [NODE_SLEEP] = "sleep", [NODE_WAKE] = "wake",
        [NODE_REQUEST] = "request", [NODE_DRAIN] = "drain",           [NODE_STOP] = "stop",
    };
    return names[e];
}

const char *node_health(enum node_state s)
{
    return words[s].health;
}

int node_health_status(enum node_state s)
{
    return words[s].status;
}

const char *node_sleep_state(enum node_state s)
{
    return words[s].sleep;
}

bool node_holds(enum node_state s)
{
    return words[s].holds;
}

int64_t node_backoff_ms(int n)
{
    int64_t ms = NODE_BACKOFF_FIRST_MS;
    for (int i = 1; i < n && ms < NODE_BACKOFF_LAST_MS; i++)
        ms *= 2;
    return ms < NODE_BACKOFF_LAST_MS ? ms : NODE_BACKOFF_LAST_MS;
}
