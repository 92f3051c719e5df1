#include "policies/waiting.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

#define COST_MAX        INT64_C(1000000000)
#define IDLE_MORE       64 /* remembered flows beyond twice those that wait, before they are looked through */
#define IDLE_MAX        4096
#define RATE_SLOTS_MIN  4
#define NS_PER_SECOND   1000000000.0
#define EARLIER_MAX     1024 /* deadlines of a tenant's own that are counted */
#define NEVER           INT64_MAX
#define ALLOWED_PART(t) ((t) / 4 * 3)

/* One tenant in one class. */
struct waiting_flow {
    TAILQ_ENTRY(waiting_flow) entry;
    struct waiting_line *line;
    struct heap waiters[2]; /* by reach; picky ones are in the line's list */
    struct heap_place among[2];
    int64_t n, bytes;
    int64_t start;  /* virtual time at which its next request begins; while n > 0 */
    int64_t finish; /* ... at which its last one ended */
    int64_t order;
    char tenant[]; /* a copy: it outlives its waiters */
};

const char *waiting_class_name(enum waiting_class c)
{
    return c == WAITING_BATCH ? "batch" : "interactive";
}

const char *waiting_verdict_name(enum waiting_verdict v)
{
    static const char *const names[WAITING_VERDICTS] = {
        [WAITING_IN] = "in",
        [WAITING_NO_WAIT] = "no_wait",
        [WAITING_FULL] = "full",
        [WAITING_BYTES] = "bytes",
        [WAITING_CROWDED] = "share",
        [WAITING_TOO_LONG] = "too_long",
        [WAITING_TOO_LATE] = "too_late",
    };
    return names[v];
}

/* ---- order ------------------------------------------------------------------------------------------------------ */

#define OBJECT(place, type, member) ((type *)(void *)((char *)(place)-offsetof(type, member)))

static bool waiter_before(const struct waiter *a, const struct waiter *b)
{
    if (a->stands_back != b->stands_back)
        return b->stands_back;
    return a->until_ns != b->until_ns ? a->until_ns < b->until_ns : a->order < b->order;
}

static bool waiter_place_before(const struct heap_place *a, const struct heap_place *b)
{
    return waiter_before(OBJECT(a, const struct waiter, in_flow), OBJECT(b, const struct waiter, in_flow));
}

static bool flow_before(const struct waiting_flow *a, const struct waiting_flow *b)
{
    return a->start != b->start ? a->start < b->start : a->order < b->order;
}

/* Those of a reach, by who would be served: a tenant of whom all stand back is behind the others. */
static bool first_before(const struct waiting_flow *a, const struct waiting_flow *b, int reach)
{
    const struct waiter *v = OBJECT(heap_top(&a->waiters[reach]), const struct waiter, in_flow);
    const struct waiter *w = OBJECT(heap_top(&b->waiters[reach]), const struct waiter, in_flow);
    return v->stands_back != w->stands_back ? w->stands_back : flow_before(a, b);
}

static bool flow_place_before_0(const struct heap_place *a, const struct heap_place *b)
{
    return first_before(OBJECT(a, const struct waiting_flow, among[0]), OBJECT(b, const struct waiting_flow, among[0]),
                        0);
}

static bool flow_place_before_1(const struct heap_place *a, const struct heap_place *b)
{
    return first_before(OBJECT(a, const struct waiting_flow, among[1]), OBJECT(b, const struct waiting_flow, among[1]),
                        1);
}

/* ---- the rate of slots ------------------------------------------------------------------------------------------ */

static void meter_start(struct waiting_meter *m, int64_t now_ns)
{
    *m = (struct waiting_meter){.origin_ns = now_ns};
}

static void meter_add(struct waiting_meter *m, int64_t now_ns)
{
    int newest = (m->first + m->n - 1 + WAITING_MARKS) % WAITING_MARKS;
    m->total++;
    if (m->n && now_ns - m->at_ns[newest] < WAITING_MARK_NS) {
        m->slots[newest]++;
        return;
    }
    if (m->n == WAITING_MARKS) { /* the oldest goes, and counting begins with the next one's first slot */
        m->total -= m->slots[m->first];
        m->first = (m->first + 1) % WAITING_MARKS;
        m->n--;
        m->origin_ns = m->at_ns[m->first];
    }
    newest = (m->first + m->n++) % WAITING_MARKS;
    m->at_ns[newest] = now_ns;
    m->slots[newest] = 1;
}

double waiting_rate(const struct waiting *room, enum waiting_class c, int64_t now_ns)
{
    const struct waiting_meter *m = &room->lines[c].meter;
    int64_t ns = now_ns - m->origin_ns;
    return m->total < RATE_SLOTS_MIN || ns <= 0 ? 0 : (double)m->total * NS_PER_SECOND / (double)ns;
}

/* ---- flows ------------------------------------------------------------------------------------------------------ */

static struct waiting_flows *bucket_of(struct waiting_line *l, const char *tenant)
{
    uint32_t hash = 2166136261u; /* FNV-1a; tenants are named by operators, not by clients */
    for (const char *p = tenant; *p; p++)
        hash = (hash ^ (uint8_t)*p) * 16777619u;
    return &l->all[hash % WAITING_BUCKETS];
}

static struct waiting_flow *flow_find(const struct waiting_line *l, const char *tenant)
{
    struct waiting_flow *f = TAILQ_FIRST(bucket_of((struct waiting_line *)l, tenant));
    while (f && strcmp(f->tenant, tenant) != 0)
        f = TAILQ_NEXT(f, entry);
    return f;
}

static void flow_free(struct waiting_line *l, struct waiting_flow *f)
{
    TAILQ_REMOVE(bucket_of(l, f->tenant), f, entry);
    for (int i = 0; i < 2; i++)
        heap_fini(&f->waiters[i]);
    free(f);
    l->n_idle--;
}

static struct waiting_flow *flow_get(struct waiting_line *l, const char *tenant)
{
    struct waiting_flow *f = flow_find(l, tenant);
    if (f)
        return f;
    size_t n = strlen(tenant) + 1;
    f = spw_calloc(1, sizeof *f + n);
    f->line = l;
    memcpy(f->tenant, tenant, n);
    for (int i = 0; i < 2; i++)
        heap_init(&f->waiters[i], waiter_place_before);
    TAILQ_INSERT_TAIL(bucket_of(l, tenant), f, entry);
    l->n_idle++;
    return f;
}

/* Forget flows without waiters: all, or only those that have had no more than everybody. */
enum forget { FORGET_ALL, FORGET_EVEN };
static void flows_forget(struct waiting_line *l, enum forget which)
{
    struct waiting_flow *f, *next;
    for (int b = 0; b < WAITING_BUCKETS; b++) {
        for (f = TAILQ_FIRST(&l->all[b]); f; f = next) {
            next = TAILQ_NEXT(f, entry);
            if (!f->n && (which == FORGET_ALL || f->finish <= l->virtual))
                flow_free(l, f);
        }
    }
}

static void flow_wakes(struct waiting_line *l, struct waiting_flow *f, int64_t order)
{
    f->start = f->finish > l->virtual ? f->finish : l->virtual;
    f->order = order;
    l->n_active++;
    l->n_idle--;
}

static void flow_rests(struct waiting_line *l)
{
    l->n_active--;
    l->n_idle++;
    if (l->n_idle > 2 * l->n_active + IDLE_MORE)
        flows_forget(l, l->n_idle > IDLE_MAX ? FORGET_ALL : FORGET_EVEN);
}

static void flow_moved(struct waiting_flow *f)
{
    for (int i = 0; i < 2; i++) {
        if (heap_has(&f->among[i]))
            heap_moved(&f->line->flows[i], &f->among[i]);
    }
}

/* ---- coming and going ------------------------------------------------------------------------------------------- */

void waiting_init(struct waiting *room)
{
    static bool (*const before[2])(const struct heap_place *, const struct heap_place *) = {flow_place_before_0,
                                                                                            flow_place_before_1};
    memset(room, 0, sizeof *room);
    TAILQ_INIT(&room->under_way);
    for (int c = 0; c < WAITING_CLASSES; c++) {
        struct waiting_line *l = &room->lines[c];
        TAILQ_INIT(&l->by_age);
        TAILQ_INIT(&l->picky);
        TAILQ_INIT(&l->standing);
        for (int i = 0; i < 2; i++)
            heap_init(&l->flows[i], before[i]);
        for (int b = 0; b < WAITING_BUCKETS; b++)
            TAILQ_INIT(&l->all[b]);
    }
}

void waiting_fini(struct waiting *room)
{
    SPW_ASSERT(waiting_count(room) == 0);
    for (int c = 0; c < WAITING_CLASSES; c++) {
        flows_forget(&room->lines[c], FORGET_ALL);
        for (int i = 0; i < 2; i++)
            heap_fini(&room->lines[c].flows[i]);
    }
}

void waiting_set_bounds(struct waiting *room, enum waiting_class c, const struct waiting_bounds *bounds)
{
    room->lines[c].bounds = *bounds;
}

static void enter_flow(struct waiting *room, struct waiting_line *l, struct waiter *w)
{
    struct waiting_flow *f = flow_get(l, w->tenant);
    w->flow = f;
    if (f->n++ == 0)
        flow_wakes(l, f, w->order);
    f->bytes += w->bytes;
    if (w->reach == WAITING_PICKY) {
        TAILQ_INSERT_TAIL(&l->picky, w, picky);
    } else {
        heap_push(&f->waiters[w->reach], &w->in_flow);
        if (!heap_has(&f->among[w->reach]))
            heap_push(&l->flows[w->reach], &f->among[w->reach]);
        else
            heap_moved(&l->flows[w->reach], &f->among[w->reach]);
    }
    TAILQ_INSERT_TAIL(&l->by_age, w, age);
    l->bytes += w->bytes;
    if (w->class == WAITING_BATCH && l->n == 0)
        room->in_row = 0;
    l->n++;
}

/* Is what is held already less than the share that what is free allows? */
static bool within_share(int64_t mine, int64_t free)
{
    return mine < (free > INT64_MAX / WAITING_SHARE ? INT64_MAX : free * WAITING_SHARE);
}

static enum waiting_verdict has_place(const struct waiting_line *l, const struct waiter *w, int64_t now_ns)
{
    const struct waiting_bounds *b = &l->bounds;
    const struct waiting_flow *f = flow_find(l, w->tenant);
    if (b->wait_ns <= 0)
        return WAITING_NO_WAIT;
    if (w->start_by_ns <= now_ns)
        return WAITING_TOO_LATE;
    if (l->n >= b->count)
        return WAITING_FULL;
    if (w->bytes > b->bytes - l->bytes)
        return WAITING_BYTES;
    if (f && f->n && !(within_share(f->n, b->count - l->n) && within_share(f->bytes, b->bytes - l->bytes)))
        return WAITING_CROWDED;
    return WAITING_IN;
}

static int64_t until_of(const struct waiting_line *l, const struct waiter *w, int64_t now_ns)
{
    int64_t most = l->bounds.wait_ns < NEVER - now_ns ? now_ns + l->bounds.wait_ns : NEVER;
    return w->start_by_ns < most ? w->start_by_ns : most;
}

static enum waiting_verdict has_time(const struct waiting *room, const struct waiter *w, int64_t now_ns)
{
    const struct waiting_line *l = &room->lines[w->class];
    int64_t expected = waiting_expected_ns(room, w, now_ns);
    if (expected < 0)
        return WAITING_IN;
    if (w->start_by_ns != NEVER && expected > w->start_by_ns - now_ns)
        return WAITING_TOO_LATE;
    return expected > ALLOWED_PART(l->bounds.wait_ns) ? WAITING_TOO_LONG : WAITING_IN;
}

enum waiting_verdict waiting_enter(struct waiting *room, struct waiter *w, int64_t now_ns)
{
    struct waiting_line *l = &room->lines[w->class];
    enum waiting_verdict v;
    SPW_ASSERT(!w->waits);
    if (w->cost < 1)
        w->cost = 1;
    if (w->cost > COST_MAX)
        w->cost = COST_MAX;
    w->entered_ns = now_ns;
    w->order = room->order++;
    w->stands_back = false;
    if (w->under_way) {
        w->until_ns = w->start_by_ns;
        TAILQ_INSERT_TAIL(&room->under_way, w, age);
        room->n_under_way[w->class]++;
        w->waits = true;
        return WAITING_IN;
    }
    w->until_ns = until_of(l, w, now_ns);
    v = has_place(l, w, now_ns);
    if (v == WAITING_IN)
        v = has_time(room, w, now_ns);
    if (v != WAITING_IN)
        return v;
    if (l->n == 0)
        meter_start(&l->meter, now_ns);
    enter_flow(room, l, w);
    w->waits = true;
    return WAITING_IN;
}

/* Out of its flow, which stays for what follows. */
static void unlink_waiter(struct waiting_line *l, struct waiter *w)
{
    struct waiting_flow *f = w->flow;
    if (w->reach == WAITING_PICKY) {
        TAILQ_REMOVE(&l->picky, w, picky);
    } else {
        /* Out of the tenants' heap first: there it stands by who is its first. */
        heap_remove(&l->flows[w->reach], &f->among[w->reach]);
        heap_remove(&f->waiters[w->reach], &w->in_flow);
        if (f->waiters[w->reach].n)
            heap_push(&l->flows[w->reach], &f->among[w->reach]);
    }
    if (w->stands_back)
        TAILQ_REMOVE(&l->standing, w, standing);
    TAILQ_REMOVE(&l->by_age, w, age);
    l->n--;
    l->bytes -= w->bytes;
    f->n--;
    f->bytes -= w->bytes;
}

static void out_of_line(struct waiting_line *l, struct waiter *w)
{
    if (w->flow->n == 0)
        flow_rests(l);
    w->flow = NULL;
    if (l->n > 0)
        return;
    flows_forget(l, FORGET_ALL);
    l->virtual = 0;
    meter_start(&l->meter, 0);
}

static bool leave_under_way(struct waiting *room, struct waiter *w)
{
    SPW_ASSERT(w->waits);
    w->waits = false;
    if (!w->under_way)
        return false;
    TAILQ_REMOVE(&room->under_way, w, age);
    room->n_under_way[w->class]--;
    return true;
}

void waiting_leave(struct waiting *room, struct waiter *w)
{
    struct waiting_line *l = &room->lines[w->class];
    if (leave_under_way(room, w))
        return;
    unlink_waiter(l, w);
    out_of_line(l, w);
}

void waiting_take(struct waiting *room, struct waiter *w, int64_t now_ns)
{
    struct waiting_line *l = &room->lines[w->class];
    struct waiting_flow *f = w->flow;
    if (leave_under_way(room, w))
        return;
    unlink_waiter(l, w);
    if (f->start > l->virtual)
        l->virtual = f->start;
    f->finish = f->start + w->cost;
    f->start = f->finish;
    flow_moved(f);
    meter_add(&l->meter, now_ns);
    if (w->class == WAITING_BATCH)
        room->in_row = 0;
    else if (room->lines[WAITING_BATCH].n > 0)
        room->in_row++;
    out_of_line(l, w);
}

void waiting_passed(struct waiting *room, enum waiting_class c, int64_t now_ns)
{
    if (room->lines[c].n > 0)
        meter_add(&room->lines[c].meter, now_ns);
}

void waiting_correct(struct waiting *room, enum waiting_class c, const char *tenant, int64_t more)
{
    struct waiting_line *l = &room->lines[c];
    struct waiting_flow *f = flow_find(l, tenant);
    if (!f)
        return;
    more = more > COST_MAX ? COST_MAX : more < -COST_MAX ? -COST_MAX : more;
    f->finish += more;
    if (!f->n)
        return;
    f->start += more;
    if (f->start < l->virtual) /* what was given back does not let it ahead of those who came new */
        f->start = l->virtual;
    flow_moved(f);
}

/* ---- choosing --------------------------------------------------------------------------------------------------- */

static bool goes_before(const struct waiter *a, const struct waiter *b)
{
    return a->flow == b->flow || a->stands_back != b->stands_back ? waiter_before(a, b) : flow_before(a->flow, b->flow);
}

/* Begins to stand back, or does so no more. */
static void stand_back(struct waiting_line *l, struct waiter *w, bool back)
{
    struct waiting_flow *f = w->flow;
    w->stands_back = back;
    if (back)
        TAILQ_INSERT_TAIL(&l->standing, w, standing);
    else
        TAILQ_REMOVE(&l->standing, w, standing);
    if (w->reach == WAITING_PICKY)
        return;
    heap_moved(&f->waiters[w->reach], &w->in_flow);
    heap_moved(&l->flows[w->reach], &f->among[w->reach]);
}

static bool is_late(const struct waiter *w, int64_t now_ns)
{
    return !w->stands_back && w->late_ns <= now_ns && now_ns < w->back_ns;
}

static struct waiter *first_of_reach(const struct waiting_line *l, enum waiting_reach reach)
{
    struct heap_place *top = heap_top(&l->flows[reach]);
    if (!top)
        return NULL;
    const struct waiting_flow *f = reach == WAITING_ANYWHERE ? OBJECT(top, struct waiting_flow, among[0])
                                                             : OBJECT(top, struct waiting_flow, among[1]);
    return OBJECT(heap_top(&f->waiters[reach]), struct waiter, in_flow);
}

/* Whose time to stand back is over is as good as any other again; whoever would be next and is late meanwhile stands back. */
static void note_time(struct waiting_line *l, int64_t now_ns)
{
    struct waiter *w;
    while ((w = TAILQ_FIRST(&l->standing)) && w->back_ns <= now_ns)
        stand_back(l, w, false);
    for (int i = 0; i < 2; i++)
        while ((w = first_of_reach(l, i == 0 ? WAITING_ANYWHERE : WAITING_LOCAL)) && is_late(w, now_ns))
            stand_back(l, w, true);
    int looks = 0;
    TAILQ_FOREACH(w, &l->picky, picky)
    {
        if (looks++ == WAITING_LOOKS_MAX)
            break;
        if (is_late(w, now_ns))
            stand_back(l, w, true);
    }
}

/* The first of a reach, once those stand back who turn out to be late; it may not fit. */
static struct waiter *look_at_first(struct waiting_line *l, enum waiting_reach reach, int64_t now_ns, waiting_fits fits,
                                    void *arg, bool *fit)
{
    struct waiter *w;
    while ((w = first_of_reach(l, reach)) && !(*fit = fits(w, arg)) && is_late(w, now_ns))
        stand_back(l, w, true);
    return w;
}

static struct waiter *best_of_line(struct waiting_line *l, int64_t now_ns, waiting_fits fits, void *arg)
{
    bool fit = false;
    struct waiter *w = look_at_first(l, WAITING_ANYWHERE, now_ns, fits, arg, &fit), *best = fit ? w : NULL;
    const bool anywhere_asked = w != NULL;
    w = first_of_reach(l, WAITING_LOCAL);
    if (w && (best ? goes_before(w, best) : !anywhere_asked)) {
        w = look_at_first(l, WAITING_LOCAL, now_ns, fits, arg, &fit);
        if (fit && (!best || goes_before(w, best)))
            best = w;
    }
    int looks = 0;
    TAILQ_FOREACH(w, &l->picky, picky)
    {
        if (looks++ == WAITING_LOOKS_MAX)
            break;
        if ((!best || goes_before(w, best)) && fits(w, arg))
            best = w;
    }
    return best;
}

static bool is_batch_due(const struct waiting *room, int64_t now_ns)
{
    const struct waiter *oldest = TAILQ_FIRST(&room->lines[WAITING_BATCH].by_age);
    return oldest && room->in_row >= WAITING_BATCH_TURN - 1 &&
           now_ns - oldest->entered_ns >= (oldest->until_ns - oldest->entered_ns) / 2;
}

struct waiter *waiting_best(struct waiting *room, int64_t now_ns, waiting_fits fits, void *arg)
{
    struct waiter *w;
    int looks = 0;
    for (int c = 0; c < WAITING_CLASSES; c++)
        note_time(&room->lines[c], now_ns);
    TAILQ_FOREACH(w, &room->under_way, age)
    {
        if (looks++ == WAITING_LOOKS_MAX)
            break;
        if (fits(w, arg))
            return w;
    }
    enum waiting_class first = is_batch_due(room, now_ns) ? WAITING_BATCH : WAITING_INTERACTIVE;
    w = best_of_line(&room->lines[first], now_ns, fits, arg);
    return w ? w : best_of_line(&room->lines[WAITING_CLASSES - 1 - first], now_ns, fits, arg);
}

bool waiting_give_way(struct waiting *room, struct waiter *w, int64_t now_ns)
{
    if (w->under_way || w->stands_back || now_ns >= w->back_ns)
        return false;
    stand_back(&room->lines[w->class], w, true);
    return true;
}

/* ---- figures ---------------------------------------------------------------------------------------------------- */

int64_t waiting_count_of(const struct waiting *room, enum waiting_class c)
{
    return room->n_under_way[c] + room->lines[c].n;
}

int64_t waiting_count(const struct waiting *room)
{
    return waiting_count_of(room, WAITING_INTERACTIVE) + waiting_count_of(room, WAITING_BATCH);
}

int64_t waiting_oldest_ns(const struct waiting *room, enum waiting_class c, int64_t now_ns)
{
    const struct waiter *w = TAILQ_FIRST(&room->lines[c].by_age);
    return w ? now_ns - w->entered_ns : 0;
}

/* Requests of others and its own that go before it, and itself. */
static int64_t places(const struct waiting_line *l, const struct waiter *w)
{
    const struct waiting_flow *f = flow_find(l, w->tenant);
    int64_t tenants = l->n_active + (f && f->n ? 0 : 1), mine = 1;
    if (f && w->start_by_ns != NEVER) {
        for (int i = 0; i < 2; i++)
            mine += (int64_t)heap_count_before(&f->waiters[i], &w->in_flow, EARLIER_MAX);
    } else if (f) {
        mine += f->n; /* whoever names no deadline is the last of its tenant */
    }
    return mine * tenants < l->n + 1 ? mine * tenants : l->n + 1;
}

int64_t waiting_expected_ns(const struct waiting *room, const struct waiter *w, int64_t now_ns)
{
    double rate = waiting_rate(room, w->class, now_ns);
    return rate > 0 ? (int64_t)((double)places(&room->lines[w->class], w) / rate * NS_PER_SECOND) : -1;
}

int waiting_retry_after_s(const struct waiting *room, enum waiting_class c, int64_t now_ns)
{
    double rate = waiting_rate(room, c, now_ns);
    double s = rate > 0 ? (double)room->lines[c].n / rate : 0;
    return s >= WAITING_RETRY_MAX_S - 1 ? WAITING_RETRY_MAX_S : (int)s + 1;
}
