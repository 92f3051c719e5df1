/* Waiting rooms: one per model, by the rules of policies/waiting.h. A freed slot goes to the best waiter whom it suits,
 * on whichever lane that is. Between rooms, for nodes that serve several models: answers under way first, interactive
 * before batch, then the longest wait.
 *
 * A stream that waits for longer than queue.keep_alive gets its head and a comment, and then a comment each time:
 * proxies and load balancers cut connections on which nothing happens. From then on a failure is an error event in the
 * stream, and the node's name, which nobody knows yet, is not among the headers. */
#include <inttypes.h>

#include "scheduler/front/front_internal.h"

/* An answer that has begun waits for a node to go on with at least this long. */
#define CONTINUE_WAIT_MS 30000
#define TYPICAL_OF       16 /* answers, about, that the typical one is the mean of */
#define OUTPUT_WEIGHT    4  /* what an output token costs, in input tokens: about what everybody's prices say */

static bool has_begun(const struct request *r)
{
    return r->replied || trail_has_said(&r->trail);
}

void rooms_set_bounds(struct front *f, const struct config *c)
{
    front_lock(f);
    for (int i = 0; i < f->n_rooms; i++) {
        for (int k = 0; k < WAITING_CLASSES; k++) {
            const struct config_queue *q = &c->queue[k];
            struct waiting_bounds b = {.count = q->max, .bytes = q->bytes, .wait_ns = q->wait_ms * NS_PER_MS};
            waiting_set_bounds(&f->rooms[i].waiting, (enum waiting_class)k, &b);
        }
    }
    front_unlock(f);
}

/* ---- coming ----------------------------------------------------------------------------------------------------- */

/* Until when a request that is under way may wait: what it may in all, less what it has waited. */
static int64_t patience_ns_locked(const struct request *r)
{
    int64_t most = r->room->waiting.lines[r->urgency.class].bounds.wait_ns;
    if (has_begun(r) && most < CONTINUE_WAIT_MS * NS_PER_MS)
        most = CONTINUE_WAIT_MS * NS_PER_MS;
    return most - (r->waited_ns - r->wait_forgiven_ns);
}

/* Until half of its time is over. */
static int64_t press_ns_locked(const struct request *r)
{
    const int64_t most = r->room->waiting.lines[r->urgency.class].bounds.wait_ns;
    const int64_t now_ns = r->waiter.waits ? mono_since(r->lane->front->o.clock, r->wait_since) : 0;
    return most / 2 - (r->waited_ns - r->wait_forgiven_ns + now_ns);
}

bool room_presses_locked(const struct request *r)
{
    return press_ns_locked(r) <= 0;
}

int64_t room_wait_most_us_locked(const struct request *r)
{
    return r->room->waiting.lines[r->urgency.class].bounds.wait_ns / NS_PER_US;
}

int64_t room_left_ms_locked(const struct request *r)
{
    return patience_ns_locked(r) / NS_PER_MS;
}

int64_t room_start_by_ns(const struct request *r)
{
    if (!r->urgency.has_deadline || has_begun(r))
        return INT64_MAX;
    return r->arrived.ns + r->urgency.left_ns - r->room->typical_ns;
}

int64_t room_until_ns_locked(const struct request *r)
{
    if (r->waiter.waits)
        return r->waiter.until_ns;
    const int64_t most = clock_now(r->lane->front->o.clock).ns + patience_ns_locked(r), start = room_start_by_ns(r);
    return start < most ? start : most;
}

static struct waiter waiter_of_locked(const struct request *r, int64_t now_ns)
{
    struct waiter w = {
        .tenant = r->who->tenant,
        .class = r->urgency.class,
        .reach = r->picky             ? WAITING_PICKY
                 : r->who->local_only ? WAITING_LOCAL
                                      : WAITING_ANYWHERE,
        .under_way = r->attempts > 0,
        .cost = r->input_estimate + OUTPUT_WEIGHT * request_estimate_output(&r->body),
        .bytes = (int64_t)r->body.n,
        .start_by_ns = room_start_by_ns(r),
    };
    const int64_t limit_us = slot_ttft_limit_us(r);
    if (limit_us > 0 && r->urgency.class == WAITING_INTERACTIVE) {
        w.late_ns = r->arrived.ns + limit_us * NS_PER_US;
        w.back_ns = r->arrived.ns + route_stand_back_us(room_wait_most_us_locked(r)) * NS_PER_US;
    }
    if (w.under_way && w.start_by_ns > now_ns + patience_ns_locked(r))
        w.start_by_ns = now_ns + patience_ns_locked(r);
    return w;
}

enum waiting_verdict room_enter_locked(struct request *r)
{
    struct front *f = r->lane->front;
    r->wait_since = clock_now(f->o.clock);
    r->waiter = waiter_of_locked(r, r->wait_since.ns);
    if (r->waiter.under_way && patience_ns_locked(r) <= 0)
        return WAITING_NO_WAIT;
    enum waiting_verdict v = waiting_enter(&r->room->waiting, &r->waiter, r->wait_since.ns);
    /* From when on it presses, it may go where nothing has become free: nobody but its own timer would look then. */
    const int64_t press_ns = press_ns_locked(r);
    r->press_ns = press_ns > 0 && nodes_have_memory_locked(f->nodes) ? r->wait_since.ns + press_ns : 0;
    const int64_t wake_ns = r->arrived.ns + slot_patience_us_locked(r) * NS_PER_US; /* likewise */
    r->wake_ns = wake_ns > r->wait_since.ns && nodes_any_rests_locked(f->nodes) ? wake_ns : 0;
    if (v != WAITING_IN) {
        r->retry_after_s = waiting_retry_after_s(&r->room->waiting, r->urgency.class, r->wait_since.ns);
        return v;
    }
    f->n_waiting++;
    if (r->survival.alone)
        alone_keep_locked(r);
    return v;
}

/* What a client is told. */
static void explain(const struct request *r, enum waiting_verdict v, struct api_error *e)
{
    const struct config_queue *q = &r->config->queue[r->urgency.class];
    switch (v) {
    case WAITING_FULL: api_error_set(e, API_QUEUE_FULL, NULL, "%s", ""); break;
    case WAITING_BYTES:
        api_error_set(e, API_QUEUE_FULL, NULL,
                      "the requests that wait for this model hold too many bytes already; "
                      "try again shortly");
        break;
    case WAITING_CROWDED:
        api_error_set(e, API_QUEUE_FULL, NULL,
                      "this tenant has as many requests waiting for this model as it may; "
                      "try again shortly");
        break;
    case WAITING_TOO_LATE: api_error_set(e, API_DEADLINE, NULL, "%s", ""); break;
    case WAITING_TOO_LONG:
        api_error_set(e, API_NO_CAPACITY, NULL,
                      "every node that serves this model is busy, and a slot would most "
                      "likely be free after more than the %" PRId64 " ms that a request may wait; try again shortly",
                      q->wait_ms);
        break;
    default: api_error_set(e, API_NO_CAPACITY, NULL, "%s", ""); break;
    }
    e->retry_after_s = r->retry_after_s;
}

void room_explain(struct request *r, enum waiting_verdict v)
{
    bool late = v == WAITING_IN && r->urgency.has_deadline && r->waiter.until_ns == r->waiter.start_by_ns;
    metrics_add(r->lane->metrics, METRIC_NOT_WAITED, (int)r->urgency.class, (int)v, 1);
    if (r->attempts == 0)
        explain(r, late ? WAITING_TOO_LATE : v, &r->error);
}

/* ---- waiting ---------------------------------------------------------------------------------------------------- */

static int64_t ms_up(int64_t ns)
{
    return ns <= 0 ? 0 : (ns + NS_PER_MS - 1) / NS_PER_MS;
}

/* Of its own lane: it sleeps until its time is over, until half of it is, or until the next comment. */
static void sleep_on(struct request *r, int64_t now_ns)
{
    int64_t ms = ms_up(r->waiter.until_ns - now_ns), beat = reply_beat_ms(r);
    if (r->press_ns && ms_up(r->press_ns - now_ns) < ms)
        ms = ms_up(r->press_ns - now_ns);
    if (r->wake_ns && ms_up(r->wake_ns - now_ns) < ms)
        ms = ms_up(r->wake_ns - now_ns);
    int64_t here_ms = (now_ns - r->arrived.ns) / NS_PER_MS;
    int64_t turn = r->model->n_chain > 1 ? fallback_wake_ms(&r->model->rule, here_ms) : -1;
    if (turn >= 0 && turn < ms) /* then it may look further down its model's chain */
        ms = turn + 1;
    const int64_t half_ms = slot_ttft_limit_us(r) / 2 / (NS_PER_MS / NS_PER_US);
    if (half_ms > here_ms && half_ms - here_ms < ms) /* then what is late there may be good enough: route.h */
        ms = half_ms - here_ms + 1;
    request_arm(r, beat >= 0 && beat < ms ? beat : ms);
}

void room_entered(struct request *r)
{
    r->state = REQUEST_WAITING;
    sleep_on(r, r->wait_since.ns);
}

bool room_is_over(struct request *r)
{
    int64_t now_ns = clock_now(r->lane->front->o.clock).ns;
    if (now_ns >= r->waiter.until_ns)
        return true;
    const bool presses = r->press_ns && now_ns >= r->press_ns;
    const bool wakes = r->wake_ns && now_ns >= r->wake_ns;
    if (presses)
        r->press_ns = 0; /* once */
    if (wakes)
        r->wake_ns = 0;
    reply_beat(r);
    sleep_on(r, now_ns);
    if (presses || wakes || r->model->n_chain > 1 || slot_ttft_limit_us(r))
        rooms_grant(r->lane->front);
    return false;
}

/* ---- going ------------------------------------------------------------------------------------------------------ */

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
    if (granted) {
        TAILQ_REMOVE(&r->lane->granted, r, granted);
    } else {
        r->retry_after_s = waiting_retry_after_s(&r->room->waiting, r->urgency.class, clock_now(f->o.clock).ns);
        waiting_leave(&r->room->waiting, &r->waiter);
        f->n_waiting--;
    }
    front_unlock(f);
    waited(r);
    return granted;
}

void rooms_take_granted(struct lane *l)
{
    struct front *f = l->front;
    for (bool first = true;; first = false) {
        front_lock(f);
        if (first) /* the message is delivered; later on another may be about to be posted, and must not be twice */
            l->telling = false;
        struct request *r = TAILQ_FIRST(&l->granted);
        if (r)
            TAILQ_REMOVE(&l->granted, r, granted);
        front_unlock(f);
        if (!r)
            return;
        waited(r);
        dispatch_granted(r);
    }
}

void room_note_answer_locked(struct request *r)
{
    struct room *room = r->room;
    int64_t ns = mono_since(r->lane->front->o.clock, r->leg.started);
    int64_t before = room->typical_ns;
    room->typical_ns = before ? before + (ns - before) / TYPICAL_OF : ns;
}

void room_correct(struct request *r)
{
    struct front *f = r->lane->front;
    if (!r->charged)
        return;
    r->charged = false;
    front_lock(f);
    waiting_correct(&r->room->waiting, r->urgency.class, r->who->tenant,
                    r->tokens.input + OUTPUT_WEIGHT * r->tokens.output - r->waiter.cost);
    front_unlock(f);
}

/* ---- slots for those who wait ----------------------------------------------------------------------------------- */

/* Could a node take it right now? */
static bool fits_locked(const struct waiter *w, void *arg)
{
    struct request *r = request_of_waiter(w);
    struct route_decision d;
    (void)arg;
    slot_note_time_locked(r);
    slot_look_locked(r, 0, &d, LOOK_ONLY);
    if (d.chosen < 0 && r->survival.alone)
        alone_keep_locked(r);
    if (d.chosen < 0 && d.too_late)
        r->waiter.late_ns = r->arrived.ns; /* then it stands back */
    return d.chosen >= 0;
}

static void grant_locked(struct request *r, int64_t now_ns)
{
    struct lane *l = r->lane;
    struct front *f = l->front;
    struct route_decision d;
    const struct model *as = slot_look_locked(r, f->spread++, &d, LOOK_FOR_GOOD);
    SPW_ASSERT(d.chosen >= 0); /* for other values of `spread` another node, but never none */
    waiting_take(&r->room->waiting, &r->waiter, now_ns);
    r->charged = !r->waiter.under_way;
    f->n_waiting--;
    slot_take_locked(r, nodes_at(f->nodes, d.chosen), as);
    TAILQ_INSERT_TAIL(&l->granted, r, granted);
    if (!l->telling)
        f->to_tell |= UINT64_C(1) << l->index;
    l->telling = true;
}

/* Of two rooms' best. */
static bool goes_before(const struct waiter *a, const struct waiter *b)
{
    if (a->under_way != b->under_way)
        return a->under_way;
    if (a->class != b->class)
        return a->class == WAITING_INTERACTIVE;
    return a->entered_ns < b->entered_ns;
}

/* Each round gives one slot to the best of all rooms; a round without a taker ends it. */
void rooms_grant_locked(struct front *f)
{
    int64_t now_ns = f->n_waiting > 0 ? clock_now(f->o.clock).ns : 0;
    while (f->n_waiting > 0) {
        struct waiter *best = NULL;
        for (int i = 0; i < f->n_rooms; i++) {
            struct waiting *waiting = &f->rooms[i].waiting;
            struct waiter *w = waiting_count(waiting) ? waiting_best(waiting, now_ns, fits_locked, NULL) : NULL;
            if (w && (!best || goes_before(w, best)))
                best = w;
        }
        if (!best)
            return;
        grant_locked(request_of_waiter(best), now_ns);
    }
}

void rooms_grant(struct front *f)
{
    front_lock(f);
    rooms_grant_locked(f);
    front_unlock(f);
}
