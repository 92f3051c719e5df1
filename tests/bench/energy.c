/* How much of the energy that could be saved the power policy saves: the sampled deepseek-r1 day on fleets of 50% and
 * 120% of its peak, idle watts swept, against the offline optimum that knows all arrivals.
 *
 * Everybody serves the same requests (those that a fleet without power states can take: the rest is somebody else's) at
 * the same speed (each holds a slot for the time it takes in a full batch) with the same table of watts.
 *   all on     every node active, requests go where fewest are
 *   policy     power_plan() every second, from power_foresee() over forecast.h, which starts knowing nothing
 *   optimum    a bound from below, for anybody who lets no request wait longer than the policy let it wait (and 0.5 s):
 *              - request i is certainly being served from arrival + allowed wait to arrival + service time, whoever plans:
 *                at least c(t) are served at t, on at least k(t) = ceil(c / slots) nodes;
 *              - k busy nodes with c requests draw at least F_k(c), the least over all ways to lay c on k nodes; each
 *                further busy node would add more than an idle one draws (checked);
 *              - idle periods: the cost of one is a minimum of rising lines, so concave in its length; the least total
 *                is where the j-th node serves whenever j or more must (longest and shortest periods apart), and each
 *                period is spent in the level that is cheapest for its length, known beforehand. The last needs no way back.
 * Saving = 1 - energy / energy of all on; the share is policy's saving / optimum's saving.
 *
 *   energy SHARED [70b|8b] [--fleet PERCENT] [--idle W] [--no-off] [--move] [--why] [--told] [--seed N] [--z Z] [--trust T]
 * SHARED: the folder with data/traces and data/power. --fleet, --idle: rows of these alone. --why: under each row, kWh (and
 * node-hours) of policy - optimum by what they went into; and of the policy's serving, by what was there each second: the
 * least for so many requests, more for standing on more nodes than hold them, more for how they lie there. --told: the policy
 * is told what comes, as no policy can be: what is missing then is not the forecast's.
 * links: spw_sched_simulate spw_policies m */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "policies/forecast.h"
#include "policies/power.h"
#include "scheduler/simulate/market.h"
#include "scheduler/simulate/trace.h"

#define S            1e6 /* microseconds */
#define NODES_MAX    96
#define SLOTS        192
#define WAIT_US      500000 /* that anybody may let a request wait */
#define PATIENCE     250000 /* then it goes to a node that is meant to run empty */
#define HOLD_GUESS_S 10     /* until one is done */

struct class
{ /* of model and machine */
    const char *name, *model;
    int gpus, copies;
    double params, wake_s; /* weights from memory to the device, and the process's start */
};
static const struct class classes[] = {
    {"8b", "meta-llama/Llama-3.1-8B-Instruct", 1, 30, 8e9, 8},
    {"70b", "meta-llama/Llama-3.1-70B-Instruct", 4, 10, 70e9, 20},
};

struct request {
    int64_t at_us, hold_us, prompt_us; /* holds a slot for so long, of it for the prompt */
    int64_t start_us, end_us, read_us; /* of that time, reading so far: the prompt, and all again where it was moved */
    int32_t waited_us, node;
    bool in; /* a fleet that is all on has a slot for it */
};
struct options {
    const char *shared, *only;
    bool no_off, moves, why, told;
    uint64_t seed;
    double z;
    int trust, fleet, idle_w;
};

struct bench {
    const struct class *class;
    struct power_levels levels;
    struct request *requests;
    int n;
    int64_t end_us;
    double slot_s_per_token, prompt_share; /* a prompt token is so many output tokens' work */
    struct power_point curve[POWER_POINTS_MAX];
    int n_curve;
    int nodes;
};

static _Noreturn void fail(const struct error *e)
{
    fprintf(stderr, "energy: %s\n", e->message);
    exit(1);
}

/* ---- tables ------------------------------------------------------------------------------------------------------ */

/* Draw by slots in use. A slot in use makes 1 / slot_s_per_token tokens/s; the rows say what a rate draws. */
static void read_power(struct bench *b, const char *shared)
{
    char path[4096];
    struct power_table t;
    struct error e;
    int n;
    snprintf(path, sizeof path, "%s/data/power/ml_energy_v3_llm.csv", shared);
    if (power_table_read(&t, path, &e) != RC_OK)
        fail(&e);
    const struct power_row *rows = power_rows(&t, b->class->model, "H100", b->class->gpus, "lm-arena-chat", &n);
    double full = 0;
    for (int i = 0; i < n; i++)
        if (rows[i].max_seqs == SLOTS)
            full = rows[i].output_tokens_s;
    if (full <= 0) {
        fprintf(stderr, "energy: no row for %s at batch %d\n", b->class->model, SLOTS);
        exit(1);
    }
    b->slot_s_per_token = SLOTS / full;
    /* 2 FLOPs per parameter and token at 40% of an H100's 989 TFLOPS (BF16). */
    b->prompt_share = 2 * b->class->params / (0.4 * 989e12 * b->class->gpus) * full;
    b->n_curve = 0;
    double least = 0;
    for (int i = 0; i < n && rows[i].max_seqs <= SLOTS && b->n_curve < POWER_POINTS_MAX - 1; i++) {
        int32_t slots = (int32_t)(rows[i].output_tokens_s * b->slot_s_per_token);
        double watts = fmax(rows[i].watts, least);
        if (b->n_curve == 0) /* nothing was measured below the first row: its draw is assumed there */
            b->curve[b->n_curve++] = (struct power_point){1, (int64_t)(watts * 1000)};
        b->curve[b->n_curve++] = (struct power_point){slots, (int64_t)(watts * 1000)};
        least = watts;
    }
    power_table_fini(&t);
}

static void read_requests(struct bench *b, const struct options *o)
{
    char path[4096];
    struct error e;
    struct trace *t;
    struct sim_request r;
    int size = 0;
    snprintf(path, sizeof path, "%s/data/traces/deepseek-r1_sampled_24h_tenth.csv.gz", o->shared);
    struct trace_file f = {.path = path, .copies = b->class->copies, .shift_us = (int64_t)(600 * S)};
    struct trace_options to = {.seed = o->seed};
    if (trace_open(&t, &f, 1, &to, &e) != RC_OK)
        fail(&e);
    enum rc rc;
    b->n = 0;
    b->end_us = 0;
    while ((rc = trace_next(t, &r, &e)) == RC_OK) {
        if (b->n == size) {
            size = size ? size * 2 : 1 << 20;
            b->requests = spw_realloc(b->requests, (size_t)size * sizeof *b->requests);
        }
        double tokens = r.output + r.prompt * b->prompt_share;
        struct request *q = &b->requests[b->n++];
        *q = (struct request){.at_us = r.at_us,
                              .hold_us = (int64_t)(tokens * b->slot_s_per_token * S) + 1,
                              .prompt_us = (int64_t)(r.prompt * b->prompt_share * b->slot_s_per_token * S)};
        if (q->at_us + q->hold_us > b->end_us)
            b->end_us = q->at_us + q->hold_us;
    }
    if (rc != RC_NOT_FOUND)
        fail(&e);
    trace_close(t);
}

/* Per GPU. Holding a context draws 26 to 50 W more than none on HBM parts, whatever is loaded (arXiv 2605.23918): sleep
 * is 38 W below idle. Off: the board's share. Waking and booting draw 50 W more than idle. Assumed: all but idle. */
static void set_levels(struct bench *b, int idle_w, bool no_off)
{
    int64_t gpu = 1000 * b->class->gpus;
    struct power_levels l = {0};
    l.of[POWER_ACTIVE] = (struct power_level){.allowed = true, .idle_mw = idle_w * gpu, .n_points = b->n_curve};
    memcpy(l.of[POWER_ACTIVE].points, b->curve, sizeof b->curve);
    l.of[POWER_SLEEP] = (struct power_level){.allowed = true,
                                             .idle_mw = (idle_w - 38) * gpu,
                                             .down_us = (int64_t)(2 * S),
                                             .down_mw = idle_w * gpu,
                                             .wake_us = (int64_t)(b->class->wake_s * S),
                                             .wake_mw = (idle_w + 50) * gpu};
    l.of[POWER_OFF] = (struct power_level){.allowed = !no_off,
                                           .idle_mw = 2 * gpu,
                                           .down_us = (int64_t)(30 * S),
                                           .down_mw = idle_w * gpu,
                                           .wake_us = (int64_t)(240 * S),
                                           .wake_mw = (idle_w + 50) * gpu};
    struct error e;
    if (power_levels_check(&l, &e) != RC_OK)
        fail(&e);
    b->levels = l;
}

/* least[k][c]: watts of k busy nodes with c requests; c >= k. */
static double *least_draws(const struct bench *b)
{
    int most = b->nodes * SLOTS + 1;
    double *least = spw_malloc((size_t)(b->nodes + 1) * (size_t)most * sizeof *least);
    for (int c = 0; c < most; c++)
        least[c] = c == 0 ? 0 : INFINITY;
    for (int k = 1; k <= b->nodes; k++)
        for (int c = 0; c < most; c++) {
            double best = INFINITY;
            for (int here = 1; here <= SLOTS && here <= c; here++) {
                double w =
                    least[(k - 1) * most + c - here] + (double)power_draw_mw(&b->levels, POWER_ACTIVE, here) / 1000;
                best = w < best ? w : best;
            }
            least[k * most + c] = best;
        }
    double idle = (double)b->levels.of[POWER_ACTIVE].idle_mw / 1000;
    for (int k = 1; k < b->nodes; k++)
        for (int c = k + 1; c <= k * SLOTS; c++)
            if (least[(k + 1) * most + c] < least[k * most + c] + idle) {
                fprintf(stderr, "energy: a further busy node is cheaper than an idle one: the bound does not hold\n");
                exit(1);
            }
    return least;
}

/* ---- a fleet's day ----------------------------------------------------------------------------------------------- */

/* Joules by what they went into: serving, awake with nothing to do, going down and coming back, asleep or off. */
struct spent {
    double busy, idle, moves, down, busy_node_h, idle_node_h;
};
struct leaving {
    int64_t at_us;
    int32_t request; /* who has moved since ends at another time */
};
struct day {
    const struct bench *b;
    struct power_node nodes[NODES_MAX];
    int64_t since_us[NODES_MAX]; /* until then its energy is counted */
    int64_t idle_from_us[NODES_MAX], moved_at_us[NODES_MAX], empties_from_us[NODES_MAX];
    double joules;
    struct leaving *heap;
    int n_heap, heap_size;
    struct leaving *late;
    int n_late;
    int64_t moved, left; /* answers moved; requests done */
    int *queue;          /* of requests, by arrival */
    int q_head, q_tail;
    int in_use;
    int64_t now_us;
    double hold_s; /* mean of late */
    struct forecast forecast;
    struct power_group group;
    double state_node_h[POWER_STATES], waking_node_h;
    struct spent spent;
    int64_t wakes;
    double z;
    bool moves;
    double *least;                 /* of least_draws(), owned; NULL: nobody wants to know */
    double serves, scatters, lies; /* joules of serving: the least, for more nodes, for how they lie */
    int *comes;                    /* owned: served at once in each second, if nobody waits; NULL: not told */
    int n_comes;
};

static void count_energy(struct day *d, int i, int64_t now)
{
    const struct power_node *n = &d->nodes[i];
    double s = (double)(now - d->since_us[i]) / S;
    if (n->state == n->to) {
        double joules = (double)power_draw_mw(n->levels, n->state, n->in_flight) / 1000 * s;
        d->joules += joules;
        d->state_node_h[n->state] += s / 3600;
        *(n->state > POWER_ECO ? &d->spent.down : n->in_flight > 0 ? &d->spent.busy : &d->spent.idle) += joules;
        if (n->state <= POWER_ECO)
            *(n->in_flight > 0 ? &d->spent.busy_node_h : &d->spent.idle_node_h) += s / 3600;
    } else
        d->waking_node_h += s / 3600; /* the move's joules were counted at its beginning */
    d->since_us[i] = now;
}

static void heap_add(struct day *d, struct leaving l)
{
    if (d->n_heap == d->heap_size) {
        d->heap_size = d->heap_size ? d->heap_size * 2 : 4096;
        d->heap = spw_realloc(d->heap, (size_t)d->heap_size * sizeof *d->heap);
    }
    int at = d->n_heap++;
    for (; at > 0 && d->heap[(at - 1) / 2].at_us > l.at_us; at = (at - 1) / 2)
        d->heap[at] = d->heap[(at - 1) / 2];
    d->heap[at] = l;
}

static struct leaving heap_take(struct day *d)
{
    struct leaving first = d->heap[0], last = d->heap[--d->n_heap];
    int at = 0;
    for (int child; (child = 2 * at + 1) < d->n_heap; at = child) {
        if (child + 1 < d->n_heap && d->heap[child + 1].at_us < d->heap[child].at_us)
            child++;
        if (d->heap[child].at_us >= last.at_us)
            break;
        d->heap[at] = d->heap[child];
    }
    d->heap[at] = last;
    return first;
}

/* The fullest with room, of those who accept; then of the others. spread: the emptiest. */
static int choose(const struct day *d, bool spread, bool patient)
{
    int best = -1, best_key = -1;
    for (int i = 0; i < d->b->nodes; i++) {
        const struct power_node *n = &d->nodes[i];
        if (n->state != POWER_ACTIVE || n->to != POWER_ACTIVE || n->in_flight >= SLOTS)
            continue;
        if (patient && !n->accepts)
            continue;
        int key = spread ? SLOTS - n->in_flight : n->in_flight + (n->accepts ? 2 * SLOTS : 0);
        if (key > best_key) {
            best_key = key;
            best = i;
        }
    }
    return best;
}

static void start(struct day *d, struct request *r, int node, int64_t now)
{
    count_energy(d, node, now);
    d->nodes[node].in_flight++;
    d->in_use++;
    r->waited_us = (int32_t)(now - r->at_us);
    r->start_us = now;
    r->end_us = now + r->hold_us;
    r->read_us = r->prompt_us;
    r->node = node;
    heap_add(d, (struct leaving){r->end_us, (int32_t)(r - d->b->requests)});
}

static void serve_queue(struct day *d, int64_t now, bool spread)
{
    while (d->q_head < d->q_tail) {
        struct request *r = &d->b->requests[d->queue[d->q_head]];
        int node = choose(d, spread, !spread && now - r->at_us < PATIENCE);
        if (node < 0)
            return;
        d->q_head++;
        start(d, r, node, now);
    }
}

static void leave_node(struct day *d, int node, int64_t now)
{
    count_energy(d, node, now);
    if (--d->nodes[node].in_flight == 0)
        d->idle_from_us[node] = now;
}

static void leave(struct day *d, struct leaving l)
{
    const struct request *r = &d->b->requests[l.request];
    if (r->end_us != l.at_us)
        return;
    leave_node(d, r->node, l.at_us);
    d->in_use--;
    d->hold_s += ((double)(r->end_us - r->start_us) / S - d->hold_s) * fmax(1.0 / (double)++d->left, 0.001);
}

/* What has to be read where it goes on now: the prompt, and what was written of the answer. */
static int64_t reads_us(const struct bench *b, const struct request *r, int64_t now)
{
    int64_t wrote_us = now - r->start_us - r->read_us;
    return r->prompt_us + (int64_t)((double)(wrote_us > 0 ? wrote_us : 0) * b->prompt_share);
}

/* All answers of a node go on elsewhere, where prompt and answer are read again. */
static void move_answers(struct day *d, int from, int64_t now)
{
    for (int i = 0, n = d->n_heap; i < n && d->nodes[from].in_flight > 0; i++) {
        struct request *r = &d->b->requests[d->heap[i].request];
        int to = choose(d, false, true);
        if (r->node != from || r->end_us != d->heap[i].at_us || to < 0 || to == from)
            continue;
        leave_node(d, from, now);
        count_energy(d, to, now);
        d->nodes[to].in_flight++;
        r->node = to;
        int64_t again_us = reads_us(d->b, r, now);
        r->end_us += again_us;
        r->read_us += again_us;
        d->moved++;
        /* Into the heap after this walk: it moves what stands in it. */
        d->late = spw_realloc(d->late, (size_t)(d->n_late + 1) * sizeof *d->late);
        d->late[d->n_late++] = (struct leaving){r->end_us, (int32_t)(r - d->b->requests)};
    }
    while (d->n_late > 0)
        heap_add(d, d->late[--d->n_late]);
}

static void finish_moves(struct day *d, int64_t now)
{
    for (int i = 0; i < d->b->nodes; i++) {
        struct power_node *n = &d->nodes[i];
        if (n->state != n->to && d->moved_at_us[i] <= now) {
            count_energy(d, i, d->moved_at_us[i]);
            n->state = n->to;
            if (n->to == POWER_ACTIVE)
                d->idle_from_us[i] = now;
        }
    }
}

/* What reading a node's answers again would cost, at what a slot draws in a full batch, and how long its last would
 * take: for random lengths what is left of an answer is as long, in the mean, as what is there. */
static void know_answers(struct day *d, int64_t now)
{
    double age_us[NODES_MAX] = {0}, read_us[NODES_MAX] = {0};
    for (int i = 0; i < d->n_heap; i++) {
        const struct request *r = &d->b->requests[d->heap[i].request];
        if (r->end_us != d->heap[i].at_us)
            continue;
        age_us[r->node] += (double)(now - r->start_us);
        read_us[r->node] += (double)reads_us(d->b, r, now);
    }
    double slot_mw = (double)power_draw_mw(&d->b->levels, POWER_ACTIVE, SLOTS) / SLOTS;
    for (int i = 0; i < d->b->nodes; i++) {
        struct power_node *n = &d->nodes[i];
        n->move_mj = n->in_flight > 0 ? (int64_t)(slot_mw * read_us[i] / S) + 1 : 0;
        n->last_us = n->in_flight > 0 ? power_last_us((int64_t)(age_us[i] / n->in_flight), n->in_flight) : 0;
    }
}

/* Joules of the second that begins, if it goes on as it is now. */
static void count_serving(struct day *d)
{
    const struct bench *b = d->b;
    int most = b->nodes * SLOTS + 1, c = 0, k = 0;
    double watts = 0;
    for (int i = 0; i < b->nodes; i++) {
        int here = d->nodes[i].in_flight;
        c += here;
        k += here > 0;
        watts += here > 0 ? (double)power_draw_mw(&b->levels, POWER_ACTIVE, here) / 1000 : 0;
    }
    double least = d->least[(c + SLOTS - 1) / SLOTS * most + c], here = d->least[k * most + c];
    d->serves += least;
    d->scatters += here - least;
    d->lies += watts - here;
}

/* How many are served at once, by the second, of those who are in. */
static void know_what_comes(struct day *d)
{
    const struct bench *b = d->b;
    d->n_comes = (int)(b->end_us / (int64_t)S) + 2;
    d->comes = spw_calloc((size_t)d->n_comes, sizeof *d->comes);
    for (int i = 0; i < b->n; i++)
        if (b->requests[i].in) {
            d->comes[b->requests[i].at_us / (int64_t)S]++;
            d->comes[(b->requests[i].at_us + b->requests[i].hold_us) / (int64_t)S + 1]--;
        }
    for (int i = 1; i < d->n_comes; i++)
        d->comes[i] += d->comes[i - 1];
}

/* The most from now to in_s ahead. */
static double comes_within(const struct day *d, int64_t now, int64_t in_s)
{
    int64_t from = now / (int64_t)S, to = from + in_s < d->n_comes - 1 ? from + in_s : d->n_comes - 1;
    int most = 0;
    for (int64_t s = from; s <= to; s++)
        most = d->comes[s] > most ? d->comes[s] : most;
    return most;
}

static void foresee_truly(const struct day *d, struct power_group *g, int64_t now)
{
    for (int i = 0; i < g->n_steps; i++) {
        g->steps[i].capacity = comes_within(d, now, g->steps[i].in_us / (int64_t)S);
        g->steps[i].likely = fmin(g->steps[i].likely, g->steps[i].capacity);
    }
    g->margin = fmax(comes_within(d, now, 2) - g->now, 0);
    g->untried = false;
}

static void plan_now(struct day *d, int64_t now)
{
    const struct bench *b = d->b;
    struct power_choice choices[NODES_MAX];
    int32_t order[NODES_MAX];
    struct power_plan plan;
    struct power_group *g = &d->group;
    int waiting = 0; /* not those who are about to get a slot that is about to be free */
    for (int q = d->q_head; q < d->q_tail && now - b->requests[d->queue[q]].at_us >= PATIENCE; q++)
        waiting++;
    struct power_outlook o = {.forecast = &d->forecast,
                              .in_use = d->in_use,
                              .waiting = waiting,
                              .hold_s = d->hold_s,
                              .z = d->z,
                              .spare_w = power_spare_w(&b->levels, SLOTS),
                              .now_us = now,
                              .tick_us = (int64_t)S};
    power_foresee(g, &o);
    if (d->comes)
        foresee_truly(d, g, now);
    if (d->least)
        count_serving(d);
    struct power_snapshot s = {
        .nodes = d->nodes, .n_nodes = d->b->nodes, .groups = g, .n_groups = 1, .hysteresis = 0.1};
    for (int i = 0; i < d->b->nodes; i++) {
        struct power_node *n = &d->nodes[i];
        n->idle_us = n->in_flight ? 0 : now - d->idle_from_us[i];
        n->empties_us = now - d->empties_from_us[i];
        n->moved_us = n->state != n->to ? d->moved_at_us[i] - now : 0;
    }
    if (d->moves)
        know_answers(d, now);
    power_plan(&plan, choices, order, &s);
    for (int i = 0; i < d->b->nodes; i++) {
        struct power_node *n = &d->nodes[i];
        n->accepts = choices[i].accepts;
        if (n->accepts)
            d->empties_from_us[i] = now;
        if (choices[i].moves)
            move_answers(d, i, now);
        if (choices[i].target == n->to || n->state != n->to)
            continue;
        count_energy(d, i, now);
        n->to = choices[i].target;
        d->wakes += n->to == POWER_ACTIVE;
        d->moved_at_us[i] = now + power_move_us(n->levels, n->state, n->to);
        d->joules += (double)power_move_mj(n->levels, n->state, n->to) / 1000;
        d->spent.moves += (double)power_move_mj(n->levels, n->state, n->to) / 1000;
    }
}

static void init_day(struct day *d, const struct bench *b, const struct options *o)
{
    memset(d, 0, sizeof *d);
    d->b = b;
    d->z = o->z;
    d->hold_s = HOLD_GUESS_S;
    d->group = (struct power_group){.trust = o->trust, .keep_warm = 1};
    d->moves = o->moves;
    forecast_init(&d->forecast, FORECAST_SLOTS);
    d->queue = spw_malloc((size_t)b->n * sizeof *d->queue + 1);
    for (int i = 0; i < b->nodes; i++)
        d->nodes[i] = (struct power_node){
            .slots = SLOTS, .capacity = SLOTS, .usable = true, .wakes = true, .accepts = true, .levels = &b->levels};
}

/* Runs the day; admit: marks the requests for which there is a slot at once; else serves those marked. */
static void run_day(struct day *d, bool planned, bool admit)
{
    const struct bench *b = d->b;
    int64_t tick = 0;
    for (int at = 0; at < b->n || d->n_heap > 0;) {
        int64_t arrives = at < b->n ? b->requests[at].at_us : INT64_MAX;
        int64_t leaves = d->n_heap ? d->heap[0].at_us : INT64_MAX, now = arrives < leaves ? arrives : leaves;
        int64_t patient = d->q_head < d->q_tail ? b->requests[d->queue[d->q_head]].at_us + PATIENCE : INT64_MAX;
        if (planned && patient > d->now_us && patient < now && patient < tick) {
            d->now_us = patient;
            serve_queue(d, patient, false);
            continue;
        }
        d->now_us = planned && tick < now ? tick : now;
        if (planned && tick <= now) {
            now = tick;
            tick += (int64_t)S;
            forecast_observe(&d->forecast, now * 1000, (int32_t)(now / 1000000 % FORECAST_WEEK_S), 0);
            finish_moves(d, now);
            serve_queue(d, now, false);
            plan_now(d, now);
            continue;
        }
        if (leaves <= arrives) {
            leave(d, heap_take(d));
            serve_queue(d, now, !planned);
            continue;
        }
        struct request *r = &b->requests[at++];
        if (!admit && !r->in)
            continue;
        int node = d->q_head < d->q_tail ? -1 : choose(d, !planned, planned);
        if (admit)
            r->in = node >= 0;
        if (planned) /* how long it will be is not known: as long as those before it, in the mean */
            forecast_observe(&d->forecast, now * 1000, (int32_t)(now / 1000000 % FORECAST_WEEK_S), d->hold_s);
        if (node >= 0)
            start(d, r, node, now);
        else if (!admit)
            d->queue[d->q_tail++] = at - 1;
    }
    for (int i = 0; i < b->nodes; i++)
        count_energy(d, i, b->end_us);
}

static void fini_day(struct day *d)
{
    free(d->heap);
    free(d->least);
    free(d->comes);
    free(d->late);
    free(d->queue);
}

/* ---- the bound --------------------------------------------------------------------------------------------------- */

static int by_time(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static double gap_joules(const struct bench *b, int64_t us, bool last, struct spent *spent)
{
    int64_t mj;
    enum power_state s = power_offline(&b->levels, us, &mj);
    double best = (double)mj / 1000, back = 1;
    for (int i = 1; last && i < POWER_STATES; i++) { /* no way back */
        const struct power_level *l = &b->levels.of[i];
        double j =
            (double)(power_idle_mj(&b->levels, (enum power_state)i, us) - power_mj(l->wake_mw, l->wake_us)) / 1000;
        if (l->allowed && j < best) {
            best = j;
            back = 0;
            s = (enum power_state)i;
        }
    }
    double moves = s == POWER_ACTIVE ? 0
                                     : (double)power_move_mj(&b->levels, POWER_ACTIVE, s) / 1000 +
                                           back * (double)power_move_mj(&b->levels, s, POWER_ACTIVE) / 1000;
    spent->moves += moves;
    *(s == POWER_ACTIVE ? &spent->idle : &spent->down) += best - moves;
    spent->idle_node_h += s == POWER_ACTIVE ? (double)us / S / 3600 : 0;
    return best;
}

static double bound_joules(const struct bench *b, struct spent *spent)
{
    int64_t *begins = spw_malloc((size_t)b->n * 8 + 8), *ends = spw_malloc((size_t)b->n * 8 + 8),
            idle_from[NODES_MAX] = {0};
    int n = 0, c = 0, k = 0, most = b->nodes * SLOTS + 1;
    double joules = 0, *least = least_draws(b);
    for (int i = 0; i < b->n; i++) {
        const struct request *r = &b->requests[i];
        if (!r->in || r->waited_us >= r->hold_us)
            continue;
        begins[n] = r->at_us + r->waited_us;
        ends[n++] = r->at_us + r->hold_us;
    }
    qsort(begins, (size_t)n, sizeof *begins, by_time);
    qsort(ends, (size_t)n, sizeof *ends, by_time);
    int64_t now = 0;
    for (int at_b = 0, at_e = 0; at_e < n;) {
        bool begin = at_b < n && begins[at_b] < ends[at_e];
        int64_t next = begin ? begins[at_b] : ends[at_e];
        joules += least[k * most + c] * (double)(next - now) / S;
        spent->busy += least[k * most + c] * (double)(next - now) / S;
        spent->busy_node_h += k * (double)(next - now) / S / 3600;
        now = next;
        c += begin ? 1 : -1;
        at_b += begin;
        at_e += !begin;
        int need = (c + SLOTS - 1) / SLOTS;
        for (; k < need; k++)
            joules += gap_joules(b, now - idle_from[k], false, spent);
        for (; k > need; k--)
            idle_from[k - 1] = now;
    }
    for (int i = 0; i < b->nodes; i++)
        joules += gap_joules(b, b->end_us - idle_from[i], true, spent);
    free(least);
    free(begins);
    free(ends);
    return joules;
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

/* Served at once at the peak: the busiest minute. */
static double peak(const struct bench *b)
{
    int minutes = (int)(b->end_us / (60 * (int64_t)S)) + 2;
    double *load = spw_calloc((size_t)minutes, sizeof *load), most = 0;
    for (int i = 0; i < b->n; i++) {
        const struct request *r = &b->requests[i];
        for (int64_t t = r->at_us, end = r->at_us + r->hold_us; t < end;) {
            int64_t edge = (t / 60000000 + 1) * 60000000, until = edge < end ? edge : end;
            load[t / 60000000] += (double)(until - t) / (60 * S);
            t = until;
        }
    }
    for (int i = 0; i < minutes; i++)
        most = load[i] > most ? load[i] : most;
    free(load);
    return most;
}

static void one_row(struct bench *b, const struct options *o, int idle_w, double share)
{
    struct day on, policy;
    int64_t in = 0, late = 0;
    set_levels(b, idle_w, o->no_off);
    for (int i = 0; i < b->n; i++)
        b->requests[i].waited_us = 0;
    init_day(&on, b, o);
    run_day(&on, false, true);
    init_day(&policy, b, o);
    if (o->why)
        policy.least = least_draws(b);
    if (o->told)
        know_what_comes(&policy);
    run_day(&policy, true, false);
    for (int i = 0; i < b->n; i++) {
        in += b->requests[i].in;
        late += b->requests[i].in && b->requests[i].waited_us > WAIT_US;
    }
    struct spent bs = {0};
    double least = bound_joules(b, &bs), saved = on.joules - policy.joules, could = on.joules - least;
    printf("%-4s %4.0f%% %3d nodes %4d W  %8.1f %8.1f %8.1f  %7.1f (%4.1f%%) %7.1f  %5.1f%%  %6.3f%% %5lld %6lld %5.1f "
           "%5.1f %5.1f %4.1f%%\n",
           b->class->name, share * 100, b->nodes, idle_w, on.joules / 3.6e6, policy.joules / 3.6e6, least / 3.6e6,
           saved / 3.6e6, 100 * saved / on.joules, could / 3.6e6, 100 * saved / could, 100 * (double)late / (double)in,
           (long long)policy.wakes, (long long)policy.moved, policy.state_node_h[0], policy.state_node_h[2],
           policy.state_node_h[3], 100 * (double)(b->n - in) / b->n);
    if (o->why) {
        const struct spent *p = &policy.spent;
        printf("    busy %.2f - %.2f (%.1f - %.1f h)  idle %.2f - %.2f (%.1f - %.1f h)  moves %.2f - %.2f  down %.2f - "
               "%.2f kWh\n",
               p->busy / 3.6e6, bs.busy / 3.6e6, p->busy_node_h, bs.busy_node_h, p->idle / 3.6e6, bs.idle / 3.6e6,
               p->idle_node_h, bs.idle_node_h, p->moves / 3.6e6, bs.moves / 3.6e6, p->down / 3.6e6, bs.down / 3.6e6);
        printf("    serving: at least %.2f for those who were there, %.2f for more nodes than hold them, %.2f for how "
               "they "
               "lay\n",
               policy.serves / 3.6e6, policy.scatters / 3.6e6, policy.lies / 3.6e6);
    }
    fflush(stdout);
    fini_day(&on);
    fini_day(&policy);
}

static void one_class(const struct class *class, const struct options *o)
{
    static const int idle_w[] = {60, 80, 100, 125, 150};
    static const double shares[] = {0.5, 1.2};
    struct bench b = {.class = class};
    read_power(&b, o->shared);
    read_requests(&b, o);
    double most = peak(&b);
    printf("# %s: %s on %d x H100, %d requests; %.0f served at once in the busiest minute, %d slots a node (%.1f ms a "
           "token), a "
           "prompt token counts %.2f\n",
           class->name, class->model, class->gpus, b.n, most, SLOTS, b.slot_s_per_token * 1000, b.prompt_share);
    for (size_t f = 0; f < 2; f++)
        for (size_t i = 0; i < sizeof idle_w / sizeof *idle_w; i++) {
            if ((o->fleet && o->fleet != (int)(shares[f] * 100)) || (o->idle_w && o->idle_w != idle_w[i]))
                continue;
            b.nodes = (int)ceil(most * shares[f] / SLOTS);
            if (b.nodes > NODES_MAX) {
                fprintf(stderr, "energy: %d nodes; at most %d\n", b.nodes, NODES_MAX);
                exit(1);
            }
            one_row(&b, o, idle_w[i], shares[f]);
        }
    free(b.requests);
}

int main(int argc, char **argv)
{
    struct options o = {.seed = 1, .z = 2.3, .trust = 800};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--no-off") == 0)
            o.no_off = true;
        else if (strcmp(argv[i], "--move") == 0)
            o.moves = true;
        else if (strcmp(argv[i], "--why") == 0)
            o.why = true;
        else if (strcmp(argv[i], "--told") == 0)
            o.told = true;
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            o.seed = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--z") == 0 && i + 1 < argc)
            o.z = strtod(argv[++i], NULL);
        else if (strcmp(argv[i], "--trust") == 0 && i + 1 < argc)
            o.trust = (int)strtol(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--fleet") == 0 && i + 1 < argc)
            o.fleet = (int)strtol(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--idle") == 0 && i + 1 < argc)
            o.idle_w = (int)strtol(argv[++i], NULL, 10);
        else if (!o.shared)
            o.shared = argv[i];
        else
            o.only = argv[i];
    }
    if (!o.shared) {
        fprintf(stderr,
                "usage: energy SHARED [70b|8b] [--fleet PERCENT] [--idle W] [--no-off] [--move] [--why] [--told] "
                "[--seed N] [--z Z] [--trust T]\n");
        return 2;
    }
    printf("# kWh of the day: all on, policy, optimum; saved by policy (of all on), by the optimum; share; requests "
           "that waited "
           "> 0.5 s;\n# wakes; moved answers; node-hours active, asleep, off; requests that even a fleet that is all "
           "on has no slot "
           "for\n");
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (!o.only || strcmp(o.only, classes[i].name) == 0)
            one_class(&classes[i], &o);
    return 0;
}
