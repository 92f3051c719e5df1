/* What is asked of each model, counted for those who plan capacity; and what they say of it: whether a node can come
 * that requests may wait for. */
#include "scheduler/front/front_internal.h"

#include <string.h>

static void add(_Atomic int64_t *count, int64_t n)
{
    __atomic_fetch_add((int64_t *)count, n, __ATOMIC_RELAXED);
}

static int64_t get(const _Atomic int64_t *count)
{
    return __atomic_load_n((const int64_t *)count, __ATOMIC_RELAXED);
}

/* Once per request, however many nodes it is sent to. */
void demand_came(struct request *r)
{
    struct room_demand *d = &r->room->demand;
    if (r->counted)
        return;
    r->counted = true;
    add(&d->requests, 1);
    add(&d->batch, r->urgency.class == WAITING_BATCH);
    add(&d->input, r->input_estimate);
}

void demand_answered(const struct request *r)
{
    struct room_demand *d = &r->room->demand;
    const int64_t hold_us = (r->ended.ns - r->arrived.ns - r->waited_ns) / NS_PER_US;
    if (!r->counted || r->outcome != LEDGER_OK)
        return;
    add(&d->answered, 1);
    add(&d->prompt, r->tokens.input);
    add(&d->prompt_sq, r->tokens.input * r->tokens.input / 1024); /* fits for longer */
    add(&d->cached, r->tokens.cached_input);
    add(&d->output, r->tokens.output);
    add(&d->hold_us, hold_us > 0 ? hold_us : 0);
}

void demand_slo(const struct request *r, bool in_time)
{
    add(in_time ? &r->room->demand.in_time : &r->room->demand.late, 1);
}

enum fleet_comes demand_comes(const struct model *m)
{
    return (enum fleet_comes)__atomic_load_n((const int *)&m->room->comes, __ATOMIC_RELAXED);
}

bool front_demand(const char *model, struct fleet_demand *out, void *arg)
{
    struct front *f = arg;
    struct room *room = front_room(f, model);
    if (!room)
        return false;
    const struct room_demand *d = &room->demand;
    *out = (struct fleet_demand){.requests = get(&d->requests),
                                 .batch = get(&d->batch),
                                 .input = get(&d->input),
                                 .answered = get(&d->answered),
                                 .prompt = get(&d->prompt),
                                 .cached = get(&d->cached),
                                 .output = get(&d->output),
                                 .prompt_sq = (double)get(&d->prompt_sq) * 1024,
                                 .hold_us = get(&d->hold_us),
                                 .in_time = get(&d->in_time),
                                 .late = get(&d->late)};
    front_lock(f);
    out->waiting = waiting_count_of(&room->waiting, WAITING_INTERACTIVE);
    out->waiting_batch = waiting_count_of(&room->waiting, WAITING_BATCH);
    out->batch_in_flight = room->batch_in_flight;
    front_unlock(f);
    return true;
}

void front_routes_each(const struct front *f, void (*each)(const struct front_route *r, void *arg), void *arg)
{
    const struct config *c = front_config(f);
    for (int i = 0; i < f->n_rooms; i++) {
        const char *model = f->rooms[i].model;
        struct front_route r = {
            .model = model, .served = config_model_served(c, model), .aim = config_aim(c, config_model(c, model))};
        if (front_demand(model, &r.demand, (struct front *)(uintptr_t)f)) /* for the lock */
            each(&r, arg);
    }
}

void front_comes(const char *model, enum fleet_comes comes, void *arg)
{
    struct room *room = front_room(arg, model);
    if (room)
        __atomic_store_n((int *)&room->comes, (int)comes, __ATOMIC_RELAXED);
}

/* ---- batch work ------------------------------------------------------------------------------------------------------- */

void demand_begun_locked(struct request *r)
{
    if (r->urgency.class == WAITING_BATCH && r->attempts == 0)
        r->room->batch_begun_us = clock_now(r->lane->front->o.clock).ns / NS_PER_US;
}

int64_t front_batch(const char *model, struct progress_rows *rows, void *arg)
{
    struct front *f = arg;
    struct room *room = front_room(f, model);
    const int64_t now_us = clock_now(f->o.clock).ns / NS_PER_US;
    const struct waiter *w;
    if (!room)
        return 0;
    front_lock(f);
    const struct waiting_line *line = &room->waiting.lines[WAITING_BATCH];
    TAILQ_FOREACH(w, &line->by_age, age)
    {
        const struct request *r = request_of_waiter(w);
        progress_rows_add(rows, now_us, r->arrived.ns / NS_PER_US, w->until_ns / NS_PER_US,
                          (double)(r->input_estimate + request_estimate_output(&r->body)));
    }
    const int64_t begun_us = room->batch_begun_us;
    front_unlock(f);
    return begun_us;
}

void front_pace(const char *model, const struct fleet_pace *p, void *arg)
{
    struct front *f = arg;
    struct room *room = front_room(f, model);
    if (!room)
        return;
    front_lock(f);
    room->pace = *p;
    room->paced = true;
    rooms_grant_locked(f);
    front_unlock(f);
}

struct nodes *front_nodes(struct front *f)
{
    return f->nodes;
}
